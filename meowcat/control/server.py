"""The owner's end of the control socket.

It is a guest in the engine: whatever happens here, the engine opens, works and closes as if it were not
there. A client costs one line of memory and one coroutine at the most, and what it does not send or read in
time ends its own connection alone.
"""

import logging
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from meowcat.control import messages as ctl
from meowcat.control.wire import LineTooLong, Wire, listen_at
from meowcat.core.errors import ControlError, InvalidArgument, MeowcatError
from meowcat.core.info import Orphan, Snapshot, TaskInfo, eta_of, info_of
from meowcat.core.machine import ACTIVE, ENDED, TABLE, State
from meowcat.core.plans import DownloadPlan, UploadPlan
from meowcat.core.state import TaskState
from meowcat.core.transfers import Direction
from meowcat.core.values import TaskId
from meowcat.runtime.runtime import Runtime
from meowcat.streams import Stream

log = logging.getLogger("meowcat.control")

MAX_CLIENTS = 32
BACKLOG = 64
REQUEST_WITHIN = 30.0
"""Seconds that a client may take for a line."""
ANSWER_WITHIN = 60.0
"""Seconds after which a command that could not be recorded (a full disk, say) is answered all the same."""
SEND_WITHIN = 10.0
"""Seconds that a client may take to read a line."""
WATCH_INTERVAL = 0.5
"""Seconds between two looks at what changed."""
HEARTBEAT = 5.0
"""Seconds of silence after which a watcher gets an empty line, so that it can tell an owner that hangs."""
CLOSE_WITHIN = 1.0
"""Seconds that a close waits for commands under way."""
ACCEPT_PAUSE = 0.2
"""Seconds until the next try after a connection could not be accepted: no descriptors are left, say."""

Send = Callable[[ctl.Reply], Awaitable[None]]

_OPEN: set[socket.socket] = set()
"""Every socket of every server of this process: a forked child must not keep a journal's door open."""


def _close_inherited() -> None:
    for each in list(_OPEN):
        each.close()
    _OPEN.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_close_inherited)


class Handle(Protocol):
    """One task, as `Engine.task` gives it."""

    @property
    def info(self) -> TaskInfo: ...


class Commands(Protocol):
    """What the server asks of the engine. Methods as in `Engine`."""

    async def pause(self, task: TaskId | str) -> None: ...
    async def resume(self, task: TaskId | str) -> None: ...
    async def cancel(self, task: TaskId | str) -> None: ...
    async def retry(self, task: TaskId | str) -> None: ...
    async def pause_many(
        self, *, state: Sequence[State] | None = None, direction: Direction | None = None
    ) -> list[TaskId]: ...
    async def resume_many(
        self, *, state: Sequence[State] | None = None, direction: Direction | None = None
    ) -> list[TaskId]: ...
    async def cancel_many(
        self, *, state: Sequence[State] | None = None, direction: Direction | None = None
    ) -> list[TaskId]: ...
    async def retry_many(
        self, *, state: Sequence[State] | None = None, direction: Direction | None = None
    ) -> list[TaskId]: ...
    async def supply(
        self,
        task: TaskId | str,
        *,
        url: str | None = None,
        headers: Mapping[str, str] | None = None,
        plan: UploadPlan | DownloadPlan | None = None,
    ) -> None: ...
    async def task(self, task: TaskId | str) -> Handle: ...
    def tasks(
        self, *, state: Sequence[State] | None = None, direction: Direction | None = None
    ) -> Stream[TaskInfo]: ...
    async def snapshot(self) -> Snapshot: ...
    async def orphans(self) -> list[Orphan]: ...
    async def abort_orphans(self) -> list[TaskId]: ...
    async def set_limit_rate(
        self, rate: int | None, *, host: str | None = None, task: TaskId | str | None = None
    ) -> None: ...


async def limit(commands: Commands, request: ctl.Limit) -> list[ctl.Outcome]:
    """Limit what is meant; a task that has ended keeps no other from it."""
    if not request.tasks:
        await commands.set_limit_rate(request.rate, host=request.host)
    outcomes = []
    for task in request.tasks:
        try:
            await commands.set_limit_rate(request.rate, task=task)
        except MeowcatError as error:
            outcomes.append(ctl.Outcome(task=task, error=ctl.failure_of(error)))
        else:
            outcomes.append(ctl.Outcome(task=task))
    return outcomes


async def obey(commands: Commands, order: ctl.Order) -> list[ctl.Outcome]:
    """Do what is ordered; a task for which it makes no sense keeps no other from it."""
    trigger = ctl.ORDERS[type(order)]
    state = TABLE[trigger][1]
    if order.all:
        many = getattr(commands, f"{trigger}_many")
        done = await many(state=order.states or None, direction=order.direction)
        return [ctl.Outcome(task=task, state=state) for task in done]
    command = getattr(commands, trigger)
    outcomes = []
    for task in order.tasks:
        try:
            await command(task)
        except MeowcatError as error:
            outcomes.append(ctl.Outcome(task=task, error=ctl.failure_of(error)))
        else:
            outcomes.append(ctl.Outcome(task=task, state=state))
    return outcomes


class ControlServer:
    """Listens at `path` from `start` to `aclose`, for whoever may open a socket of mode 0600."""

    def __init__(self, path: Path, commands: Commands, runtime: Runtime) -> None:
        self._path = path
        self._commands = commands
        self._runtime = runtime
        self._clients = 0
        self._closing = False
        self._idle: set[anyio.CancelScope] = set()
        self._scope = anyio.CancelScope()
        self._accepting = anyio.CancelScope()
        self._over: anyio.Event | None = None
        self._inode = (0, 0)

    # Opening and closing

    async def start(self, tasks: TaskGroup) -> None:
        """Listen, in a task of `tasks`; where that can't be, say so in the log and go on without.

        The journal's lock is held, so a socket that stands there is a dead owner's.
        """
        try:
            listener = await anyio.to_thread.run_sync(listen_at, self._path, BACKLOG)
            status = self._path.stat()
        except OSError as error:
            log.warning("%s: %s; going on without a control socket", self._path, error)
            return
        self._inode = (status.st_dev, status.st_ino)
        _OPEN.add(listener)
        self._over = anyio.Event()
        tasks.start_soon(self._serve, listener, self._over)

    async def aclose(self) -> None:
        """Hang up: commands under way are answered first. The socket is removed."""
        if self._over is None:
            return
        self._closing = True
        with anyio.move_on_after(CLOSE_WITHIN, shield=True):
            self._accepting.cancel()
            for idle in tuple(self._idle):
                idle.cancel()
            await self._over.wait()
        with anyio.CancelScope(shield=True):
            self._scope.cancel()
            await self._over.wait()
        try:
            status = self._path.stat()
            if (status.st_dev, status.st_ino) == self._inode:  # not one of a later owner
                self._path.unlink()
        except OSError as error:
            log.debug("%s: %s", self._path, error)

    async def _serve(self, listener: socket.socket, over: anyio.Event) -> None:
        try:
            with self._scope:
                async with anyio.create_task_group() as talks:
                    with listener, self._accepting:
                        await self._accept(listener, talks)
        except Exception:  # a defect here must not reach the engine, whose task group this runs in
            log.exception("%s: the control socket is closed", self._path)
        finally:
            listener.close()  # also where it was canceled before it began
            _OPEN.discard(listener)
            over.set()

    async def _accept(self, listener: socket.socket, talks: TaskGroup) -> None:
        while True:
            await anyio.wait_readable(listener)
            try:
                raw, _ = listener.accept()
            except BlockingIOError:
                continue  # whoever it was has gone again
            except OSError as error:
                log.warning("%s: no connection could be accepted: %s", self._path, error)
                await anyio.sleep(ACCEPT_PAUSE)
                continue
            talks.start_soon(self._talk, raw)

    # Connections

    async def _talk(self, raw: socket.socket) -> None:
        _OPEN.add(raw)
        self._clients += 1
        try:
            with Wire(raw) as wire:
                if self._clients > MAX_CLIENTS:
                    await self._refuse(wire)
                else:
                    await self._exchange(wire)
        except _HungUpError as error:
            log.debug("%s: a client is gone: %s", self._path, error)
        except Exception:  # a defect here must not reach the engine, nor the other clients
            log.exception("%s: a connection broke", self._path)
        finally:
            self._clients -= 1
            _OPEN.discard(raw)

    async def _refuse(self, wire: Wire) -> None:
        busy = ControlError(f"{MAX_CLIENTS} clients are connected already; try again later")
        await _send(wire, ctl.failure_of(busy))

    async def _exchange(self, wire: Wire) -> None:
        send = partial(_send, wire)
        while not self._closing:
            try:
                line = await self._next_line(wire)
                if line is None:
                    return
                request = ctl.request_of(line)
            except MeowcatError as error:  # what comes behind it can't be trusted to be a request
                await send(ctl.failure_of(error))
                return
            if isinstance(request, ctl.Watch):
                await self._watch(request, wire, send)
                return
            await self._answered(request, send)

    async def _next_line(self, wire: Wire) -> bytes | None:
        """The next line; None where there is none in time, or any more."""
        with self._interruptible(), anyio.move_on_after(REQUEST_WITHIN):
            try:
                return await wire.line(ctl.MAX_REQUEST)
            except LineTooLong:
                raise InvalidArgument(f"a request is one line of at most {ctl.MAX_REQUEST} bytes") from None
            except OSError:
                return None
        return None

    @contextmanager
    def _interruptible(self) -> Iterator[anyio.CancelScope]:
        """While nothing is under way that a close would have to wait for."""
        with anyio.CancelScope() as scope:
            self._idle.add(scope)
            try:
                yield scope
            finally:
                self._idle.discard(scope)

    async def _answered(self, request: ctl.AnyRequest, send: Send) -> None:
        """Answer, whatever it takes: what changes something, or asks servers, is given up after a time; a
        list is as long as it is."""
        slow = isinstance(request, ctl.Order | ctl.Supply | ctl.Limit | ctl.ListOrphans | ctl.AbortOrphans)
        patience = ANSWER_WITHIN if slow else None
        try:
            with anyio.move_on_after(patience):
                await self._answer(request, send)
                return
            await send(ctl.failure_of(ControlError(self._late())))
        except MeowcatError as error:
            await send(ctl.failure_of(error))
        except _HungUpError:
            raise
        except Exception:  # a defect in one command: the client is told, and the engine goes on
            log.exception("%s: %s broke", self._path, type(request).__name__)
            await send(ctl.failure_of(MeowcatError("a defect of meowcat; the owner's log says which")))

    def _late(self) -> str:
        refusal = self._runtime.bus.refusal
        why = f", for the journal takes no records: {refusal}" if refusal else ""
        return f"not done within {ANSWER_WITHIN:.0f} s{why}; it may still happen"

    # Requests

    async def _answer(self, request: ctl.AnyRequest, send: Send) -> None:
        match request:
            case ctl.Ping():
                meowcat = version("meowcat-engine")
                await send(ctl.Pong(version=ctl.VERSION, meowcat=meowcat, owner=self._runtime.owner))
            case ctl.Supply():
                url, headers = request.url, request.headers
                await self._commands.supply(request.task, url=url, headers=headers, plan=request.plan)
                await send(ctl.Done(outcomes=(ctl.Outcome(task=request.task),)))
            case ctl.Limit():
                await _send_outcomes(await limit(self._commands, request), send)
            case ctl.ListTasks():
                await self._list(request, send)
            case ctl.Glance():
                await send(ctl.Glanced(snapshot=await self._commands.snapshot()))
            case ctl.ListOrphans():
                await self._list_orphans(send)
            case ctl.AbortOrphans():
                await self._abort_orphans(send)
            case ctl.Pause() | ctl.Resume() | ctl.Cancel() | ctl.Retry():
                await _send_outcomes(await obey(self._commands, request), send)

    async def _list_orphans(self, send: Send) -> None:
        for orphans, more in ctl.pages(await self._commands.orphans()):
            await send(ctl.Orphans(orphans=orphans, more=more))

    async def _abort_orphans(self, send: Send) -> None:
        tried = [ctl.Outcome(task=task) for task in await self._commands.abort_orphans()]
        await _send_outcomes(tried, send)

    async def _list(self, request: ctl.ListTasks | ctl.Watch, send: Send) -> None:
        """Page by page, so that a long list is never in memory as a whole."""
        runtime, direction = self._runtime, request.direction
        states = request.states if isinstance(request, ctl.ListTasks) else ()
        if ENDED & set(states):
            infos = [info async for info in self._commands.tasks(state=states, direction=direction)]
            for page, more in ctl.pages(infos):
                await send(self._page(page, more=more))
            return
        wished = [
            row.id
            for row in runtime.registry
            if (not states or row.state in states) and direction in (None, row.direction)
        ]
        for ids, more in ctl.pages(wished):
            found = [info_of(each) for each in await runtime.states_of(ids)]
            await send(self._page(found, more=more))

    def _page(self, infos: Sequence[TaskInfo], *, more: bool) -> ctl.Tasks:
        return ctl.Tasks(tasks=self._live(infos), more=more, refusal=self._runtime.bus.refusal)

    def _live(self, infos: Sequence[TaskInfo]) -> tuple[ctl.LiveTask, ...]:
        """The tasks with what only the owner knows: their rates, and until when they wait."""
        clock = self._runtime.clock
        wakes = self._runtime.reconciler.wakes() if any(each.waiting_for for each in infos) else {}
        behind = clock.wall() - clock.ticks()
        found = []
        for info in infos:
            rate = self._rate(info)
            at = wakes.get(info.id) if info.waiting_for else None
            found.append(
                ctl.LiveTask(
                    info=info,
                    rate=rate,
                    eta=eta_of(info.size, info.bytes_done, rate),
                    waits_until=None if at is None else at + behind,
                )
            )
        return tuple(found)

    def _rate(self, info: TaskInfo) -> float:
        feed = self._runtime.bus.watched(info.id)
        return feed.rate() if feed is not None and info.state in ACTIVE else 0.0

    # Watching

    async def _watch(self, request: ctl.Watch, wire: Wire, send: Send) -> None:
        """Until the client hangs up, or says anything."""
        refusal: MeowcatError | None = None
        with self._interruptible():
            async with anyio.create_task_group() as group:

                async def until_it_stirs() -> None:
                    await wire.stirs()
                    group.cancel_scope.cancel()

                group.start_soon(until_it_stirs)
                try:
                    await self._tell(request, send)
                except MeowcatError as error:
                    refusal = error
                except _HungUpError:
                    pass  # which is how a watch ends
                group.cancel_scope.cancel()
        if refusal is not None:
            await send(ctl.failure_of(refusal))

    async def _tell(self, request: ctl.Watch, send: Send) -> None:
        """The tasks as they are, and then, twice a second at the most, those that changed or move; and
        whether the journal takes records, when that changes."""
        bus = self._runtime.bus
        with bus.collected() as changed:
            refusal = bus.refusal
            if request.tasks:
                named = [(await self._commands.task(each)).info for each in request.tasks]
                for page, more in ctl.pages(named):
                    await send(self._page(page, more=more))
            else:
                await self._list(request, send)
            told: dict[TaskId, ctl.LiveTask] = {}
            quiet = 0.0
            while True:
                await anyio.sleep(WATCH_INTERVAL)
                fresh = set(changed)
                states = changed | self._at_work()  # those move by their rates, too
                changed.clear()
                wished = [info_of(each) for each in states.values() if _concerns(request, each)]
                live = self._live(wished)
                news = [each for each in live if each.info.id in fresh or told.get(each.info.id) != each]
                told = {each.info.id: each for each in live if each.info.state in ACTIVE}
                quiet = 0.0 if news else quiet + WATCH_INTERVAL
                if news or bus.refusal != refusal or quiet >= HEARTBEAT:
                    quiet, refusal = 0.0, bus.refusal
                    for told_now, more in ctl.pages(news):
                        await send(ctl.Tasks(tasks=told_now, more=more, refusal=refusal))

    def _at_work(self) -> dict[TaskId, TaskState]:
        actors = self._runtime.dispatcher.actors.values()
        return {actor.id: actor.feed.task for actor in actors if actor.feed is not None}


class _HungUpError(Exception):
    """The client reads no more."""


async def _send_outcomes(outcomes: list[ctl.Outcome], send: Send) -> None:
    for page, more in ctl.pages(outcomes):
        await send(ctl.Done(outcomes=page, more=more))


async def _send(wire: Wire, reply: ctl.Reply) -> None:
    try:
        with anyio.fail_after(SEND_WITHIN):
            await wire.send(ctl.line_of(reply))
    except OSError as error:  # a time-out is one, too
        raise _HungUpError(repr(error)) from None


def _concerns(request: ctl.Watch, task: TaskState) -> bool:
    named = not request.tasks or task.id in request.tasks
    return named and request.direction in (None, task.request.direction)
