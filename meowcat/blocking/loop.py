"""An event loop in a thread of its own, and calls into it from any other thread.

The thread is a daemon, so that it never keeps an interpreter from ending. What it must do before that, it
does when an exit handler asks for it; by then every thread that is no daemon has ended, and the interpreter
is whole. In a forked child there is no such thread: there every call is refused before anything is touched,
also a lock, which another thread may have held at the fork for ever.
"""

import asyncio
import atexit
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, wait
from typing import Any, Generic, TypeVar

import anyio

from meowcat.core.errors import EngineClosed, InvalidArgument, WouldDeadlock
from meowcat.runtime.forks import leave_to_parent, refuse_fork
from meowcat.runtime.inside import refuse_inside_listener

T = TypeVar("T")

log = logging.getLogger("meowcat.engine")

LET_GO_WITHIN = 2.0
"""Seconds that an interrupted call is waited for, so that it is over when the interruption is seen."""

EXIT_WITHIN = 15.0
"""Seconds that the end of the interpreter waits for engines to close. What is not recorded by then is found
at the next opening, as after a crash."""

_RUNNING: "set[LoopThread]" = set()


class _Call(Generic[T]):
    """A piece of work for the loop, and what became of it."""

    def __init__(self, work: Callable[[], Awaitable[T]]) -> None:
        self._work: Callable[[], Awaitable[T]] | None = work
        self.outcome: Future[T] = Future()
        self.task: asyncio.Task[None] | None = None

    async def carry_out(self) -> None:
        work, self._work = self._work, None
        assert work is not None  # noqa: S101  # carried out once
        try:
            result = await work()
            del work  # who made the call may drop its engine next: nothing here may keep that alive
        except asyncio.CancelledError:
            self.outcome.set_exception(EngineClosed("the engine was closed before this was done"))
        except BaseException as error:  # noqa: BLE001  # raised again in the thread that waits for it
            self.outcome.set_exception(error)
        else:
            self.outcome.set_result(result)


class LoopThread:
    """Runs a loop until it is asked to end; then `finish` is called in it, and the loop is closed."""

    def __init__(self, finish: Callable[[], Awaitable[None]]) -> None:
        self._finish = finish
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._live, name="meowcat-loop", daemon=True)
        self._lock = threading.Lock()
        self._calls: set[_Call[Any]] = set()
        self._ended = False
        self._over = threading.Event()
        self._failure: BaseException | None = None
        self._pid = os.getpid()
        leave_to_parent(self)
        _RUNNING.add(self)
        try:
            self._thread.start()
        except BaseException:  # raised again: a loop without a thread is closed by nobody else
            _RUNNING.discard(self)
            self._loop.close()
            raise

    # From other threads

    @property
    def forked(self) -> bool:
        """Whether this process is a fork of the one that has the thread."""
        return self._pid != os.getpid()

    @property
    def running(self) -> bool:
        """Whether calls may still be carried out here."""
        return not self._ended and not self.forked

    def refuse_fork(self) -> None:
        """Raises EngineForked where the thread is the parent's."""
        refuse_fork(self._pid)

    def refuse_deadlock(self) -> None:
        """Refuse a call that could never be answered.

        Raises:
            EngineForked: the thread is the parent's. WouldDeadlock: it is this one, or a listener makes it.
        """
        self.refuse_fork()
        refuse_inside_listener()
        if threading.current_thread() is self._thread:  # not by its ident, which another one may get later
            raise WouldDeadlock(
                "a blocking call from the engine's own event loop would wait for itself: return first, "
                "or make the call from another thread"
            )

    def run(self, work: Callable[[], Awaitable[T]], timeout: float | None = None) -> T:
        """Carry out `work` in the loop and wait for it. Interrupted, it is canceled, and over on return.

        Raises:
            TimeoutError: it takes longer than `timeout` seconds; it is canceled then.
            EngineForked, WouldDeadlock: nothing was begun. EngineClosed: the loop has ended.
        """
        self.refuse_deadlock()
        call = _Call(work if timeout is None else _bounded(timeout, work))
        try:
            self._hand_over(call)
            return call.outcome.result()
        except BaseException:  # raised again: whatever broke the waiting, the call does not go on alone
            if not call.outcome.done():  # it is this thread that was interrupted
                self._give_up(call)
            raise

    def ask_to_end(self) -> None:
        """End soon. Takes no lock and waits for nothing: a garbage collection may call it anywhere."""
        if not self.forked:
            try:
                self._loop.call_soon_threadsafe(self._stop.set)
            except RuntimeError:
                pass  # the loop is closed

    def end(self) -> None:
        """End, and return once it is over. Interrupted, the ending goes on.

        Raises:
            Exception: what `finish` raised. WouldDeadlock: this is the thread.
        """
        self.refuse_deadlock()
        self.ask_to_end()
        self._over.wait()
        failure, self._failure = self._failure, None  # told once
        if failure is not None:
            raise failure

    def end_before(self, deadline: float) -> None:
        """Wait for the end until then, a monotonic time."""
        if not self._over.wait(max(0.0, deadline - time.monotonic())):
            log.warning("the interpreter ends before an engine is closed; the next opening recovers it")

    def _hand_over(self, call: _Call[T]) -> None:
        with self._lock:
            if self._ended:
                raise EngineClosed("the engine is closed; open a new one")
            self._calls.add(call)
            self._loop.call_soon_threadsafe(self._begin, call)

    def _give_up(self, call: _Call[T]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._cancel, call)
        except RuntimeError:
            return  # the loop is closed
        wait((call.outcome,), LET_GO_WITHIN)

    # In the loop

    def _begin(self, call: _Call[T]) -> None:
        if not call.outcome.done():
            call.task = self._loop.create_task(call.carry_out())
            call.task.add_done_callback(lambda _: self._let_go(call))

    def _let_go(self, call: _Call[T]) -> None:
        self._calls.discard(call)
        if not call.outcome.done():  # canceled before its first step, none of which was run
            call.outcome.set_exception(EngineClosed("the engine was closed before this was done"))

    def _cancel(self, call: _Call[T]) -> None:
        if call.task is not None:
            call.task.cancel()
        else:
            call.outcome.cancel()
            self._calls.discard(call)

    def _live(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._main())
        except BaseException as failure:  # noqa: BLE001  # raised again by `end`
            self._failure = failure
        with self._lock:
            self._ended = True
        for call in tuple(self._calls):
            if not call.outcome.done():  # it came too late to be begun
                call.outcome.set_exception(EngineClosed("the engine was closed before this was done"))
        _RUNNING.discard(self)
        self._over.set()

    async def _main(self) -> None:
        await self._stop.wait()
        await self._finish()


def _bounded(timeout: float, work: Callable[[], Awaitable[T]]) -> Callable[[], Awaitable[T]]:
    if not timeout >= 0:
        raise InvalidArgument(f"timeout {timeout!r}: expected seconds, 0 or more, or None to wait for ever")

    async def within() -> T:
        with anyio.move_on_after(timeout):
            return await work()
        raise TimeoutError(f"not over within {timeout:g} s; what was submitted goes on")

    return within


@atexit.register
def _end_all() -> None:
    """Close what nobody has closed."""
    left = [thread for thread in tuple(_RUNNING) if not thread.forked]
    for thread in left:
        thread.ask_to_end()
    deadline = time.monotonic() + EXIT_WITHIN
    for thread in left:
        thread.end_before(deadline)
