"""The engine: what an application opens, submits transfers to, and closes."""

import inspect
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, get_args

import anyio

from meowcat.annotations import OnDemand
from meowcat.audit.settings import Audit
from meowcat.config import MOST_RATE, Config
from meowcat.control.place import place_for
from meowcat.control.server import ControlServer
from meowcat.core import messages as msg
from meowcat.core.content_disposition import file_name
from meowcat.core.errors import (
    AuditError,
    EngineClosed,
    InvalidArgument,
    InvalidTaskState,
    QueueFull,
    TaskNotFound,
    TaskQuarantined,
)
from meowcat.core.fetch_rules import USUAL_BYTES, USUAL_REDIRECTS, SmallGet
from meowcat.core.info import Orphan, Snapshot, TaskInfo, info_of
from meowcat.core.kinds import check_text, kind_of, path_text
from meowcat.core.machine import ENDED, State, Trigger, may
from meowcat.core.plans import DownloadPlan, UploadPlan
from meowcat.core.seal import Secrets
from meowcat.core.state import TaskState
from meowcat.core.transfers import (
    Direction,
    Download,
    ProtocolSpec,
    Request,
    Upload,
    check,
)
from meowcat.core.urls import host_of
from meowcat.core.values import Position, TaskId
from meowcat.intake import Intake, supplied
from meowcat.journal.checkup import RESERVED
from meowcat.journal.contract import Journal
from meowcat.journal.locate import locate
from meowcat.journal.logged import LoggedEvent, logged, readable
from meowcat.protocols.completions import Builder
from meowcat.protocols.contract import DownloadProtocol, Settings, Tools, UploadProtocol
from meowcat.protocols.credentials import Credentials, Provider
from meowcat.protocols.refreshers import Refresher, Refreshers
from meowcat.protocols.registry import Protocols
from meowcat.runtime.auditing import EXPORT, Auditor
from meowcat.runtime.fetches import Fetched
from meowcat.runtime.forks import refuse_fork, unsendable
from meowcat.runtime.home import Home
from meowcat.runtime.inside import refuse_inside_callback
from meowcat.runtime.listeners import Listener, Subscription
from meowcat.runtime.recovery import ON_RESTART, OnRestart
from meowcat.runtime.runtime import Runtime, budget
from meowcat.runtime.world import Clock
from meowcat.sinks.contract import Sink
from meowcat.streams import Stream, batches
from meowcat.submission import CREATE_BATCH, Submissions
from meowcat.task import Result, Task
from meowcat.transfer.context import Plugins, World
from meowcat.transfer.disk import Disk, OsDisk
from meowcat.transfer.rounds import Rounds
from meowcat.transfer.sources import Source, Sources
from meowcat.transfer.workers import Workers
from meowcat.transport.contract import Timeouts, Transport
from meowcat.transport.defaults import transport_for

if TYPE_CHECKING:
    import httpx
else:
    httpx = OnDemand("httpx")

SINK_NAME = 200
"""Characters that a sink's name may have."""

AUDIT_DIGEST = "sha256"
"""What is computed over each whole file where a history is to be proved and nothing else is said: what
receipts are compared with elsewhere, and every platform has a tool for."""


class Engine:
    """An engine on a journal. Use it as `async with Engine("transfers.db") as engine`.

    Args:
        journal: a path (`.db`), a URL (`sqlite:…`, `memory:`) or a Journal; None keeps all in memory, and
            then leaving the block waits for the tasks, since nothing would be left of them.
        config: settings; the defaults are safe.
        on_restart: what becomes of tasks that were Queued or at work when the journal was last in use:
            `resume`, `pause`, or a function that is asked for each. With `leave` the engine only takes
            commands: it begins no transfer, and what no command names stays as it is for the next opening.
        http_client: an `httpx.AsyncClient`, used as it is and never closed, or any Transport.
        credentials: by the names that requests use: values, or functions, also async, that give one.
        refreshers: by name: functions, also async, that bring fresh presigned plans.
        completions: by name: functions that make the body of a presigned plan's completion.
        protocols: those of the application's own, for uploads and downloads.
        sources: by name: contents of the application's own that can be uploaded.
        audit: signs the journal's history, so that it can be proved.
        clock, disk, workers: the world of a simulation (`meowcat.testing.world`).
    """

    def __init__(
        self,
        journal: str | os.PathLike[str] | Journal | None = None,
        *,
        config: Config | None = None,
        on_restart: OnRestart = "resume",
        http_client: "httpx.AsyncClient | Transport | None" = None,
        credentials: Mapping[str, Provider] | None = None,
        refreshers: Mapping[str, Refresher] | None = None,
        completions: Mapping[str, Builder] | None = None,
        protocols: Iterable[type[UploadProtocol] | type[DownloadProtocol]] = (),
        sources: Mapping[str, Source] | None = None,
        audit: Audit | None = None,
        clock: Clock | None = None,
        disk: Disk | None = None,
        workers: Workers | None = None,
    ) -> None:
        if inspect.iscoroutinefunction(on_restart) or not (callable(on_restart) or on_restart in ON_RESTART):
            raise InvalidArgument(
                f"on_restart {on_restart!r}: expected 'resume', 'pause', 'leave' or a plain function "
                "TaskInfo -> bool"
            )
        if not isinstance(config, Config | None):
            raise InvalidArgument(f"config: expected a meowcat.Config, got {kind_of(config)}")
        if not isinstance(audit, Audit | None):
            raise InvalidArgument(f"audit: expected a meowcat.Audit, got {kind_of(audit)}")
        self._where = journal
        self.config = config or Config()
        self.clock = clock or Clock()
        self._on_restart = on_restart
        self._http_client = http_client
        self._credentials = Credentials(credentials, self.clock.wall)
        self._refreshers = Refreshers(refreshers, completions)
        self._protocols = Protocols.with_own(protocols)
        self._intake = Intake(self.config, self._protocols, AUDIT_DIGEST if audit else None)
        self._submissions = Submissions(self._intake, self._opened)
        self._sources = Sources(sources)
        self._audit = audit
        self._disk = disk
        self._workers = workers
        self._home: Home | None = None
        self._runtime: Runtime | None = None
        self._closed = False
        self._pid = 0

    async def __aenter__(self) -> Self:
        return await self.open()

    async def open(self) -> Self:
        """What entering the block does, for code that closes the engine elsewhere, in any other task.

        Raises:
            JournalError: the journal can't be had; nothing stays open. EngineClosed: opened before.
        """
        if self._pid:
            refuse_fork(self._pid)
        if self._home is not None or self._closed:
            raise EngineClosed("this engine was opened before; make a new one")
        self._pid = os.getpid()
        self._home = Home(self._open)
        try:
            await self._home.open()
        except BaseException:  # raised again: an opening that failed may be tried again
            self._home = None
            raise
        return self

    async def _open(self, stack: AsyncExitStack) -> None:
        config = self.config
        timeouts = Timeouts(config.connect_timeout, config.read_timeout, config.pool_timeout)
        transport, ours = transport_for(
            self._http_client,
            timeouts,
            http2=config.http2,
            ca_bundle=config.ca_bundle,
            proxy=config.proxy,
        )
        if ours:
            stack.push_async_callback(transport.aclose)
        disk, workers = self._disk or OsDisk(), self._workers or Workers()
        world = World(
            transport=transport,
            disk=disk,
            budget=budget(config),
            durability=config.durability,
            flush_bytes=config.flush_bytes,
            flush_seconds=config.flush_seconds,
            clock=self.clock.monotonic,
            wall=self.clock.wall,
            sleep=self.clock.sleep,
            plugins=Plugins(
                protocols=self._protocols,
                tools=Tools(
                    transport=transport,
                    wall=self.clock.wall,
                    credentials=self._credentials,
                    refreshers=self._refreshers,
                    skew={},
                ),
                sources=self._sources,
            ),
            workers=workers,
            lowest_rate=config.lowest_rate,
            patience=config.read_timeout,
            rounds=Rounds(disk, workers, config.durability),
        )
        tasks = await stack.enter_async_context(anyio.create_task_group())
        runtime = Runtime(locate(self._where), config, world, self.clock, tasks, self._audit)
        await runtime.open(self._on_restart)
        self._runtime = runtime
        stack.push_async_callback(runtime.close)
        place = place_for(runtime.journal) if config.control else None
        if place is not None:
            control = ControlServer(place, self, runtime)
            stack.push_async_callback(control.aclose)
            await control.start(tasks)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._where is None and not self._closed and not self._forked:
                await self.drain()
        finally:
            await self.close()

    async def close(self) -> None:
        """Stop what runs, record it, and give the journal back. Tasks stay in the journal.

        Sinks finish the delivery under way, and pending calls of listeners are made, both within seconds. A
        second call waits until that is over. In a forked child nothing is closed: it is the parent's.

        Raises:
            WouldDeadlock: called from inside a listener or a sink of this engine, or an export of its audit.
        """
        if self._forked or self._home is None:
            return
        self._refuse_to_close_inside()
        self._closed = True
        await self._home.close()

    def _refuse_to_close_inside(self) -> None:
        """Raises WouldDeadlock inside of a function that a close would wait for."""
        if self._runtime is not None:
            refuse_inside_callback("Engine.close", self._runtime)

    @property
    def closed(self) -> bool:
        """Whether its closing has begun. A closed engine can't be opened again: make a new one."""
        return self._closed

    @property
    def _forked(self) -> bool:
        return self._pid not in (0, os.getpid())

    def __reduce__(self) -> NoReturn:
        raise unsendable()

    def _opened(self) -> Runtime:
        if self._pid:
            refuse_fork(self._pid)
        if self._closed:
            raise EngineClosed("the engine is closed; open a new one")
        if self._runtime is None:
            raise EngineClosed("the engine is not open: use it with 'async with'")
        return self._runtime

    # Transfers

    async def download(self, url: str, to: str | os.PathLike[str], **options: Any) -> Result:
        """Download to the end. `options` are the fields of `Download`.

        Raises:
            TransferFailed, TransferCanceled: with `code`. And what `submit` raises.
        """
        task = await self.submit(Download(url, path_text("to", to), **options))
        return await task.result()

    async def upload(
        self,
        source: str | os.PathLike[str] | bytes | bytearray | memoryview,
        url: str = "",
        *,
        protocol: Settings | ProtocolSpec,
        **options: Any,
    ) -> Result:
        """Upload to the end. `options` are the fields of `Upload`.

        `source` is the path of a file; the name of a registered source, with `origin="named"`; or bytes,
        known by `name=`, which after a restart have to be supplied. `url` is what the protocol takes; a
        presigned plan says it. `protocol` is `FormUpload()`, `S3(…)`, `AliyunOSS(…)`, `PresignedUpload(…)`,
        or a spec.

        Raises:
            TransferFailed, TransferCanceled: with `code`. And what `submit` raises.
        """
        if isinstance(source, bytes | bytearray | memoryview):
            name = options.pop("name", "bytes")
            request = Upload(name, url, protocol, origin="bytes", data=bytes(source), **options)
        else:
            request = Upload(path_text("source", source), url, protocol, **options)
        task = await self.submit(request)
        return await task.result()

    async def fetch(
        self,
        url: str,
        *,
        max_bytes: int = USUAL_BYTES,
        headers: Mapping[str, str] | None = None,
        max_redirects: int = USUAL_REDIRECTS,
    ) -> Fetched:
        """GET a small body into memory: a manifest, a plan, a list of what to download.

        It is no task: nothing is recorded, `snapshot` and `drain` know nothing of it, and cancelling the
        caller ends it. `Config.max_fetches` are at work at once. What another attempt may mend is tried again
        after 300 and 800 ms, or when the server asks to come again, within 30 s.

        Args:
            url: http or https, without user or password.
            max_bytes: 1 to 64 MiB. A body that says that it is larger is not read; one that says nothing is
                left as soon as it is.
            headers: of the caller's own; all of them are dropped where a redirect leads to another origin.
            max_redirects: 0 to 10.

        Raises:
            FetchFailed: with `code` and `status`: an answer that is not 2xx, or a 304 that nobody asked for;
                no answer; a redirect that must not be followed. BodyTooLarge: more than `max_bytes`.
            FetchQueueFull: `Config.fetch_capacity` are under way or wait. InvalidArgument: out of bounds.
            EngineClosed: the engine was closed before the body had come.
        """
        asked = SmallGet(url, max_bytes, headers or {}, max_redirects)
        return await self._opened().fetches.fetch(asked)

    async def name_of(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        protocol: Settings | ProtocolSpec | None = None,
    ) -> str:
        """What the file of `url` is to be called: a name that is safe in any folder, and never a path.

        A task needs its target before its first byte, so the server is asked first: Content-Disposition of
        HEAD, or of a GET of one byte where HEAD is refused (RFC 6266). Where it says nothing, or can't be
        asked within 10 s, the name is the last segment of the URL, or else `download`. No control or
        invisible characters, no separators of any system, no leading dots, no device names of Windows; at
        most 200 bytes of UTF-8. Whether such a file is there already is for the download to see, by its
        `overwrite`.

        It is no task, and limited as `fetch` is. Another time the server may say another name: keep what a
        download was submitted with.

        Args:
            url: http or https; or what `protocol` takes.
            headers: of the caller's own; all of them are dropped where a redirect leads to another origin.
            protocol: how a download asks for it: by `S3(…)` and its kin an object is called by its key, and
                no server is asked.

        Raises:
            InvalidArgument: a URL that can't be had, or headers that can't be sent.
            FetchQueueFull, EngineClosed: as `fetch`.
        """
        fetches = self._opened().fetches
        given: Any = headers or {}  # any Mapping, and checked with all else
        asked = self._intake.reached(Download(url, "name", headers=given, protocol=protocol))
        check(asked)
        if asked.protocol is not None and asked.plan is None:
            return file_name(None, asked.url)
        return await fetches.name(asked)

    async def submit(self, request: Request, *, paused: bool = False) -> Task:
        """Record a transfer and put it in line; durable on return.

        The same request to the same target attaches to the task that is there, and sets it going where
        it was Paused or had Failed (unless `paused`): a script that is run again goes on where it was.
        Options that are given otherwise now (`overwrite`, `retries`, `connections` …) replace the old ones.

        Raises:
            InvalidArgument: a field is out of bounds. DuplicateTask: a live task owns the target, or the
            key, for another request.
        """
        return Task(self, await self._submissions.submit(request, paused=paused))

    async def submit_nowait(self, request: Request, *, paused: bool = False) -> Task:
        """`submit` that never waits for room.

        Raises:
            QueueFull: as many commands as `Config.queue_capacity` are waiting already.
        """
        runtime = self._opened()
        if runtime.room.value == 0:
            raise QueueFull(
                f"{self.config.queue_capacity} commands are waiting already: use 'submit' to wait for room"
            )
        return await self.submit(request, paused=paused)

    async def submit_many(self, requests: Iterable[Request], *, paused: bool = False) -> list[TaskId]:
        """Record many transfers, a thousand with one append; durable on return. What is there is attached to.

        The requests are taken one after the other, so that a generator of a million is never in memory as a
        whole. Each batch is recorded as a whole or not at all: after a crash, a cancellation or an error the
        first of them are, and none behind these. The same call again attaches to them, and records the rest.

        Returns:
            The tasks, in the order of the requests.

        Raises:
            InvalidArgument, DuplicateTask: as `submit`; nothing of that request's batch is recorded, and
                all before it is.
        """
        if not isinstance(requests, Iterable):
            raise InvalidArgument(
                f"requests: expected a list of them, or a generator; got {kind_of(requests)}"
            )
        return await self._submissions.submit_many(requests, paused=paused)

    # One task

    async def task(self, task: TaskId | str) -> Task:
        """The handle of a task that is in the journal, ended or not.

        Raises:
            TaskNotFound: there is none. TaskQuarantined: its records are damaged.
        """
        return Task(self, await self._opened().feed_of(_id_of(task)))

    async def _state(self, task: TaskId) -> TaskState:
        return await self._opened().state_of(task)

    async def pause(self, task: TaskId | str) -> None:
        """See `Task.pause`; the same for `resume`, `cancel`, `retry`, `supply` and `history`."""
        await self._opened().command_in_turn(_id_of(task), msg.Pause())

    async def resume(self, task: TaskId | str) -> None:
        await self._opened().command_in_turn(_id_of(task), msg.Resume())

    async def cancel(self, task: TaskId | str) -> None:
        await self._opened().command_in_turn(_id_of(task), msg.Cancel())

    async def retry(self, task: TaskId | str) -> None:
        await self._opened().command_in_turn(_id_of(task), msg.Retry())

    async def supply(
        self,
        task: TaskId | str,
        *,
        url: str | None = None,
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
        plan: UploadPlan | DownloadPlan | None = None,
    ) -> None:
        runtime = self._opened()
        state = await self._state(_id_of(task))
        sealed, secrets, names = supplied(state.request, url, headers or {}, data, plan)
        async with runtime.room:
            held = runtime.secrets.get(state.id, Secrets()).updated(secrets, url=url is not None)
            await runtime.supply(state.id, held, msg.Supply(names=names, request=sealed))

    async def set_limit_rate(
        self, rate: int | None, *, host: str | None = None, task: TaskId | str | None = None
    ) -> None:
        """Another bandwidth limit from now on, also for what is under way. Limits hold together.

        Args:
            rate: bytes a second, from 1; None = no limit.
            host: a URL of the host that is meant, in the place of `Config.limit_rate_per_host`; None = all
                hosts together, in the place of `Config.limit_rate`. Neither is recorded: the next opening
                begins with its Config.
            task: the task that is meant, in the place of the `limit_rate` of its request; recorded.

        Raises:
            InvalidArgument: out of bounds, no http(s) URL, or both a host and a task. TaskNotFound: it has
            ended, or there is none.
        """
        runtime = self._opened()
        whole = isinstance(rate, int) and not isinstance(rate, bool)
        if rate is not None and not (whole and 1 <= rate <= MOST_RATE):
            raise InvalidArgument(
                f"rate {rate!r}: expected a whole number of bytes a second from 1 to {MOST_RATE:,}, or None"
            )
        if host is not None and task is not None:
            raise InvalidArgument("host and task: a limit is for one of them, or for all tasks together")
        if task is not None:
            state = await self._state(_id_of(task))
            async with runtime.room:
                await runtime.limit_task(state, rate)
        elif host is not None:
            check_text("host", host)
            runtime.traffic.limit_host(host_of(host), rate)
        else:
            runtime.traffic.limit(rate)

    async def add_credential(self, name: str, provider: Provider) -> None:
        """Register a credential, or another one in its place; tasks that wait for it go on."""
        self._credentials.register(name, provider)
        await self._opened().registered(f"credential:{name}")

    async def add_refresher(self, name: str, refresher: Refresher) -> None:
        """Register a refresher of presigned plans; tasks that wait for it go on."""
        self._refreshers.register(name, refresher)
        await self._opened().registered(f"refresher:{name}")

    async def add_source(self, name: str, source: Source) -> None:
        """Register a source of the application's own; tasks that wait for it go on."""
        self._sources.register(name, source)
        await self._opened().registered(f"source:{name}")

    def history(self, task: TaskId | str) -> Stream[LoggedEvent]:
        self._opened()
        seq = 0

        async def load() -> list[LoggedEvent]:
            nonlocal seq
            found = [logged(record) for record in await self._opened().records_of(_id_of(task), seq)]
            seq = found[-1].seq if found else seq
            return found

        return batches(load)

    # All tasks

    def tasks(
        self,
        *,
        state: State | str | Iterable[State | str] | None = None,
        direction: Direction | None = None,
    ) -> Stream[TaskInfo]:
        """The tasks that have not ended, in the order of their creation; or those in `state`.

        Asking for Complete or Canceled reads the whole journal.
        """
        runtime, states = self._opened(), _states(state)
        _check_direction(direction)
        if states & ENDED:
            return batches(self._pages_of_all(states, direction))
        rows = iter(
            [
                row.id
                for row in runtime.registry
                if (not states or row.state in states) and direction in (None, row.direction)
            ]
        )

        async def step() -> TaskInfo:
            for task in rows:
                try:
                    return info_of(await self._state(task))
                except (TaskNotFound, TaskQuarantined):  # its creation is not durable yet, or it is damaged
                    continue
            raise StopAsyncIteration

        return Stream(step)

    def _pages_of_all(
        self, states: frozenset[State], direction: Direction | None
    ) -> Callable[[], Awaitable[list[TaskInfo]]]:
        """What `batches` loads: all that is asked for at once, and then nothing."""
        read = False

        async def load() -> list[TaskInfo]:
            nonlocal read
            if read:
                return []
            read = True
            return [
                info_of(task)
                for task in await self._opened().all_tasks()
                if task.state in states and direction in (None, task.request.direction)
            ]

        return load

    async def cancel_many(
        self, *, state: State | str | Iterable[State | str] | None = None, direction: Direction | None = None
    ) -> list[TaskId]:
        """Cancel all tasks that have not ended, or those in `state`, in batches. Returns which."""
        return await self._many(msg.Cancel, Trigger.CANCEL, state, direction)

    async def pause_many(
        self, *, state: State | str | Iterable[State | str] | None = None, direction: Direction | None = None
    ) -> list[TaskId]:
        """Pause all tasks that are Queued or at work, or those in `state`, in batches. Returns which."""
        return await self._many(msg.Pause, Trigger.PAUSE, state, direction)

    async def resume_many(
        self, *, state: State | str | Iterable[State | str] | None = None, direction: Direction | None = None
    ) -> list[TaskId]:
        """Queue all Paused tasks again, in batches. Returns which."""
        return await self._many(msg.Resume, Trigger.RESUME, state, direction)

    async def retry_many(
        self, *, state: State | str | Iterable[State | str] | None = None, direction: Direction | None = None
    ) -> list[TaskId]:
        """Queue all Failed tasks again, in batches, with what is stored of them. Returns which."""
        return await self._many(msg.Retry, Trigger.RETRY, state, direction)

    async def _many(
        self,
        make: Callable[[], msg.Message],
        trigger: Trigger,
        state: State | str | Iterable[State | str] | None,
        direction: Direction | None,
    ) -> list[TaskId]:
        runtime, states = self._opened(), _states(state)
        _check_direction(direction)
        chosen = [
            row.id
            for row in runtime.registry
            if may(row.state, trigger)
            and (not states or row.state in states)
            and direction in (None, row.direction)
        ]
        done: list[TaskId] = []
        for first in range(0, len(chosen), CREATE_BATCH):
            async with runtime.room:
                done += await runtime.command_many(chosen[first : first + CREATE_BATCH], make)
        return done

    def events(self, *, after: Position | int = 0) -> Stream[LoggedEvent]:
        """All durable events of all tasks behind position `after`, and then each new one as it comes.

        Never ends by itself. Keep the last event's `position` to go on from there, after a restart too.

        Raises:
            JournalError: while iterating, where the journal can't be read now: ask again from that position.
            EngineClosed: the engine is closed.
        """
        self._opened()
        position = _position(after)

        async def load() -> list[LoggedEvent]:
            nonlocal position
            events: list[LoggedEvent] = []
            while not events:
                runtime = self._opened()
                records, reached = await runtime.records_after(position)
                if reached == position:
                    await runtime.bus.beyond(position)
                events = [event for record in records if (event := readable(record)) is not None]
                position = reached
            return events

        return batches(load)

    # Sinks and listeners

    async def add_sink(
        self,
        name: str,
        sink: Sink,
        *,
        after: Position | int | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # of each delivery, not of this call
    ) -> None:
        """Deliver every durable event to `sink`, at least once, in the journal's order, in batches.

        How far it has come is kept in the journal under `name`: a later opening that adds a sink of that name
        goes on from there. A sink that fails gets the same events again, after 1 s and more, up to 5 minutes,
        for as long as it takes; it holds up nothing else.

        Args:
            name: 1 to 200 printable characters, of which the first are not `meowcat:`.
            sink: an object with `async def deliver(events)`: one of `meowcat.sinks`, one that
                `meowcat.callback` makes of a function, or your own.
            after: where a new name begins: a position of the journal; its beginning unless given. Where the
                journal knows the name, it goes on from there and this is not looked at.
            timeout: seconds after which a delivery is canceled and counts as failed; None waits.

        Raises:
            InvalidArgument: not a sink, a name that this engine has already, or no position.
        """
        runtime = self._opened()
        _check_sink(name, sink, after, timeout)
        await runtime.deliveries.add(name, sink, None if after is None else Position(after), timeout)

    async def remove_sink(self, name: str) -> None:
        """Stop the sink, after the delivery under way, and forget how far it has come.

        Also for a name that was added by an earlier process only.

        Raises:
            InvalidArgument: there is neither a sink nor a cursor of that name. WouldDeadlock: called from
            inside that sink.
        """
        runtime = self._opened()
        check_text("sink name", name)
        refuse_inside_callback(f"remove_sink({name!r})", runtime, only=f"sink {name!r}")
        await runtime.deliveries.remove(name)

    def add_listener(self, function: Listener, *, task: Task | TaskId | str | None = None) -> Subscription:
        """Call `function` with a `TaskInfo`, in a thread of its own, on each change of a task's state, and at
        most ten times a second while it makes progress.

        Of all tasks, from now on; or of one, beginning with its present state. While the function is busy
        only the newest state of each task is kept for it, and a terminal one that came before. It may block
        or raise without harm. Nothing of this is durable: `events` and sinks are.

        Raises:
            InvalidArgument: not a plain function. TaskNotFound: no such task, or one that has ended and of
            which there is no handle.
        """
        runtime = self._opened()
        if not callable(function) or inspect.iscoroutinefunction(function):
            raise InvalidArgument(
                f"listener {function!r}: expected a plain function; in a coroutine iterate over "
                "Task.progress or Engine.events"
            )
        chosen = task.id if isinstance(task, Task) else task
        return runtime.listen(function, None if chosen is None else _id_of(chosen))

    async def drain(self) -> None:
        """Wait until nothing is left to do without help: every task has ended, is Paused or Failed, or waits
        for something that only `supply` brings."""
        await self._opened().drained()

    async def stands(self, task: TaskId | str) -> bool:
        """Whether the server says that the object of a Complete upload is there, and is the one that the task
        made. False where it can't be told: of a task without that proof, or a server that can't be asked.

        Raises:
            TaskNotFound: there is none. TaskQuarantined: its records are damaged.
        """
        return await self._opened().stands(await self._state(_id_of(task)))

    async def orphans(self) -> list[Orphan]:
        """Sessions that stand at servers and that no task at work needs. Reads the whole journal.

        Those of canceled tasks are removed by the engine itself, again and again until the server says that
        they are gone; here stand those whose removal is still owed or was refused, those that a Failed task
        keeps for a retry, those that a lost reply leaves in doubt, which nobody removes but you, and what
        canceled and failed uploads have left where nothing but time removes it.
        """
        return await self._opened().orphans()

    async def abort_orphans(self) -> list[TaskId]:
        """Try again to remove the sessions whose removal is owed or was refused, and wait until each is gone,
        or refused again, or has to wait. Returns the tasks that they are of; `orphans` tells what is left."""
        return await self._opened().reap()

    async def snapshot(self) -> Snapshot:
        """The engine at a glance."""
        runtime = self._opened()
        states: dict[str, int] = {}
        waiting = 0
        for row in runtime.registry:
            states[row.state] = states.get(row.state, 0) + 1
            waiting += row.lack.waits
        scheduler = runtime.reconciler.scheduler
        active, queued = scheduler.counts("download")
        active_uploads, queued_uploads = scheduler.counts("upload")
        return Snapshot(
            states=states,
            waiting=waiting,
            active_downloads=active,
            queued_downloads=queued,
            active_uploads=active_uploads,
            queued_uploads=queued_uploads,
            quarantined=len(runtime.quarantined),
            position=runtime.bus.position,
            sinks=await runtime.deliveries.infos(),
            hosts=runtime.hosts(),
            limit_rate=runtime.traffic.limit_rate,
            refusal=runtime.bus.refusal,
        )

    async def checkpoint(self) -> str:
        """Sign all of the history so far, and export it to where `Audit.checkpoints` says.

        Returns:
            A signed checkpoint, as a C2SP signed note. Kept elsewhere, it proves later that nothing before
            it was changed.

        Raises:
            AuditError: the engine has no `Audit`; or the journal is not a continuation of what was signed,
                and nothing was signed; or the checkpoint is kept in the journal and could not be exported.
        """
        return await self._auditor().checkpoint()

    async def receipt(self, task: TaskId | str) -> str:
        """The receipt of a Complete task: that this log had its completion, with URL, size and digests.

        Returns:
            A C2SP proof file, which `meowcat.audit.verify_receipt` needs nothing but a public key for.

        Raises:
            InvalidTaskState: the task is not Complete. TaskNotFound: there is none. AuditError: as
                `checkpoint`; or its record is not what was signed.
        """
        auditor = self._auditor()
        state = await self._state(_id_of(task))
        if state.state is not State.COMPLETE:
            raise InvalidTaskState(f"task {task} is {state.state}: only a Complete task has a receipt")
        return await auditor.receipt(state.id)

    def _auditor(self) -> Auditor:
        runtime = self._opened()
        refuse_inside_callback("signing", runtime, only=EXPORT)
        auditor = runtime.auditor
        if auditor is None:
            raise AuditError("the engine signs nothing: open it with Engine(..., audit=meowcat.Audit(key))")
        return auditor

    def quarantined(self) -> dict[TaskId, str]:
        """Tasks whose records are damaged, and how. They are kept out; all others go on."""
        return dict(self._opened().quarantined)


def _id_of(task: object) -> TaskId:
    if isinstance(task, str):
        return TaskId(task)
    raise InvalidArgument(f"task: expected the id of a task, as Task.id has it; got {kind_of(task)}")


def _position(after: object) -> Position:
    if isinstance(after, int) and not isinstance(after, bool) and after >= 0:
        return Position(after)
    raise InvalidArgument(f"after {after!r}: expected a position of the journal, 0 or more")


def _check_sink(name: str, sink: Sink, after: int | None, timeout: float | None) -> None:
    if not isinstance(name, str) or not 0 < len(name) <= SINK_NAME or not name.isprintable():
        raise InvalidArgument(f"sink name {name!r}: expected 1 to {SINK_NAME} printable characters")
    if name.startswith(RESERVED):
        raise InvalidArgument(f"sink name {name!r}: names that begin with {RESERVED!r} are meowcat's own")
    if isinstance(sink, type) or not isinstance(sink, Sink) or not inspect.iscoroutinefunction(sink.deliver):
        raise InvalidArgument(
            f"sink {name!r}: {sink!r} is no object with 'async def deliver(events)'; "
            "meowcat.callback makes a sink of a function"
        )
    if after is not None:
        _position(after)
    if timeout is not None and not (isinstance(timeout, int | float) and timeout > 0):
        raise InvalidArgument(f"timeout {timeout!r}: expected seconds, more than 0, or None")


def _check_direction(direction: str | None) -> None:
    if direction not in (None, *get_args(Direction)):
        raise InvalidArgument(f"direction {direction!r}: expected 'download', 'upload' or None")


def _states(state: State | str | Iterable[State | str] | None) -> frozenset[State]:
    if state is None:
        return frozenset()
    if not isinstance(state, Iterable):
        raise InvalidArgument(f"state: expected one or more of {', '.join(State)}; got {kind_of(state)}")
    named = [state] if isinstance(state, str) else list(state)
    try:
        return frozenset(State(each) for each in named)
    except ValueError as unknown:
        raise InvalidArgument(f"{unknown}: expected one of {', '.join(State)}") from None
