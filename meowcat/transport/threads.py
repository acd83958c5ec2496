"""Blocking calls of an application's functions, and of sinks: each on a thread that nothing waits for at the
interpreter's exit. anyio's own worker threads keep it from exiting while a call hangs."""

import contextvars
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import anyio
import anyio.from_thread
import anyio.lowlevel

T = TypeVar("T")


async def call_apart(work: Callable[[], T], name: str, limiter: anyio.CapacityLimiter) -> T:
    """Call `work` in a thread. Canceled, the call is left alone; only its outcome is lost."""
    async with limiter:
        call = _Call(work, name)
        call.start()
        await call.ended()
    return call.outcome()


class Lane:
    """Makes blocking calls one after the other.

    After one that was abandoned the next one waits until that is over, also where it was begun in another
    event loop.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._last: _Call[Any] | None = None

    async def run(self, work: Callable[[], T]) -> T:
        """Call `work` in a thread. Canceled, the call is left alone; only its outcome is lost."""
        while self._last is not None:
            await self._last.ended()
        call = _Call(work, self._name, self._free)
        self._last = call
        try:
            call.start()
        except BaseException:  # raised again: what has no thread is never over: nobody may wait for it
            self._last = None
            raise
        await call.ended()
        return call.outcome()

    def _free(self, call: "_Call[Any]") -> None:
        if self._last is call:
            self._last = None


class _Call(Generic[T]):
    def __init__(
        self, work: Callable[[], T], name: str, free: "Callable[[_Call[Any]], None]" = lambda _: None
    ) -> None:
        self._work = work
        self._name = name
        self._free = free
        self._value: list[T] = []
        self._error: Exception | None = None
        self._ending = threading.Lock()
        self._over = False
        self._waiters: list[tuple[anyio.Event, anyio.lowlevel.EventLoopToken]] = []
        """Each with its loop: the one that made the call may be gone when it is over."""

    def start(self) -> None:
        target = contextvars.copy_context().run
        threading.Thread(target=target, args=(self._run,), name=self._name, daemon=True).start()

    async def ended(self) -> None:
        """Wait until the call is over."""
        over = anyio.Event()
        with self._ending:
            if self._over:
                return
            self._waiters.append((over, anyio.lowlevel.current_token()))
        await over.wait()

    def _run(self) -> None:
        try:
            self._value.append(self._work())
        except Exception as error:  # noqa: BLE001  # raised where it is waited for
            self._error = error
        except BaseException as error:  # noqa: BLE001  # a SystemExit in a thread is no reason to end the loop
            self._error = RuntimeError(f"{type(error).__name__} in a thread of {self._name}")
        self._free(self)
        with self._ending:
            self._over = True
        for over, token in self._waiters:
            try:
                anyio.from_thread.run_sync(over.set, token=token)
            except RuntimeError:
                pass  # the loop is gone, and with it whoever waited

    def outcome(self) -> T:
        if self._error is not None:
            raise self._error
        return self._value[0]
