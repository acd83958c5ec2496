"""The engine and its tasks for synchronous code. What a method does stands with the async one of its name."""

import os
import warnings
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import wraps
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, NoReturn, ParamSpec, Self

from meowcat.annotations import OnDemand
from meowcat.audit.settings import Audit
from meowcat.blocking.calls import Blocking, awaited, called, iterated
from meowcat.blocking.loop import LoopThread
from meowcat.config import Config
from meowcat.core.errors import EngineClosed
from meowcat.core.fetch_rules import USUAL_BYTES, USUAL_REDIRECTS
from meowcat.core.info import TaskInfo
from meowcat.core.machine import State
from meowcat.core.transfers import ProtocolSpec
from meowcat.core.values import TaskId
from meowcat.engine import Engine as AsyncEngine
from meowcat.journal.contract import Journal
from meowcat.protocols.completions import Builder
from meowcat.protocols.contract import DownloadProtocol, Settings, UploadProtocol
from meowcat.protocols.credentials import Provider
from meowcat.protocols.refreshers import Refresher
from meowcat.runtime.fetches import Fetched
from meowcat.runtime.forks import unsendable
from meowcat.runtime.recovery import OnRestart
from meowcat.runtime.world import Clock
from meowcat.task import Result
from meowcat.task import Task as AsyncTask
from meowcat.transfer.disk import Disk
from meowcat.transfer.sources import Source
from meowcat.transfer.workers import Workers
from meowcat.transport.contract import Transport

if TYPE_CHECKING:
    import httpx
else:
    httpx = OnDemand("httpx")

P = ParamSpec("P")


class Task(Blocking[AsyncTask]):
    """A handle: `meowcat.Task` with methods that block. Any thread may use it; it keeps its engine alive."""

    def __init__(self, engine: "Engine", thread: LoopThread, task: AsyncTask) -> None:
        self._engine = engine
        self._thread = thread
        super().__init__(task)

    def _loop(self) -> LoopThread:
        return self._thread

    def __repr__(self) -> str:
        return repr(self._inner)

    @property
    def id(self) -> TaskId:
        return self._inner.id

    @property
    def state(self) -> State:
        self._loop().refuse_fork()
        return self._inner.state

    @property
    def info(self) -> TaskInfo:
        """The task as of now."""
        self._loop().refuse_fork()
        return self._inner.info

    def result(self, timeout: float | None = None) -> Result:
        """Wait for the end.

        Raises:
            TransferFailed: it failed; `code` says why, and `retry` begins again from what is kept.
            TransferCanceled: it was canceled.
            TimeoutError: it takes longer than `timeout` seconds; the task goes on.
        """
        return self._run(self._inner.result, timeout)

    progress = iterated(AsyncTask.progress)
    pause = awaited(AsyncTask.pause)
    resume = awaited(AsyncTask.resume)
    cancel = awaited(AsyncTask.cancel)
    retry = awaited(AsyncTask.retry)
    supply = awaited(AsyncTask.supply)
    set_limit_rate = awaited(AsyncTask.set_limit_rate)
    history = iterated(AsyncTask.history)
    add_listener = called(AsyncTask.add_listener)


def _handled(
    method: Callable[Concatenate[AsyncEngine, P], Awaitable[AsyncTask]],
) -> Callable[Concatenate["Engine", P], Task]:
    """A coroutine function that brings a handle."""

    @wraps(method)
    def call(self: "Engine", /, *args: P.args, **kwargs: P.kwargs) -> Task:
        return Task(self, self._loop(), self._run(lambda: method(self._inner, *args, **kwargs)))

    return call


class Engine(Blocking[AsyncEngine]):
    """`meowcat.Engine` with methods that block. Use it as `with Engine("transfers.db") as engine`.

    Any number of threads may use it at once. The work is done by an event loop in a thread of its own. An
    engine that is not closed is closed at the end of the interpreter, or when it is garbage-collected; task
    handles and iterators keep it alive.

    Raises:
        WouldDeadlock: of every method, from the engine's own thread (`on_restart`, sinks) or a listener.
        EngineForked: of every method, in a forked child.
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
        super().__init__(
            AsyncEngine(
                journal,
                config=config,
                on_restart=on_restart,
                http_client=http_client,
                credentials=credentials,
                refreshers=refreshers,
                completions=completions,
                protocols=protocols,
                sources=sources,
                audit=audit,
                clock=clock,
                disk=disk,
                workers=workers,
            )
        )
        self.config = self._inner.config
        self.clock = self._inner.clock
        self._thread: LoopThread | None = None
        self._opening = Lock()
        self._waits_for_tasks = journal is None
        self._unclosed: weakref.finalize[[LoopThread], Engine] | None = None

    def _loop(self) -> LoopThread:
        if self._thread is None:
            raise EngineClosed("the engine is not open: use it with 'with', or call open()")
        return self._thread

    def __reduce__(self) -> NoReturn:
        raise unsendable()

    # Opening and closing

    def __enter__(self) -> Self:
        return self.open()

    def open(self) -> Self:
        """What entering the block does, for code that closes the engine elsewhere; any thread may do either.

        Raises:
            JournalError: the journal can't be had; nothing stays open. EngineClosed: opened before.
        """
        if self._thread is not None:
            self._thread.refuse_deadlock()
        if self._thread is not None or not self._opening.acquire(blocking=False):
            raise EngineClosed("this engine was opened before; make a new one")
        try:
            self._thread = LoopThread(self._inner.close)
            self._unclosed = weakref.finalize(self, _let_go, self._thread)
            self._unclosed.atexit = False  # the loop's own exit handler waits for all of them together
            self._run(self._inner.open)
        except BaseException:  # raised again: an opening that failed may be tried again
            self.close()
            self._thread = None
            raise
        finally:
            self._opening.release()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._waits_for_tasks and self._loop().running:
                self.drain()
        finally:
            self.close()

    def close(self) -> None:
        """Stop what runs, record it, and give the journal back. Tasks stay in the journal.

        A second call waits until that is over. In a forked child nothing is closed: it is the parent's.
        """
        if self._thread is None or self._thread.forked:
            return
        self._inner._refuse_to_close_inside()  # noqa: SLF001  # here: the close begins in the loop, inside of nothing
        self._thread.end()
        if self._unclosed is not None:
            self._unclosed.detach()

    @property
    def closed(self) -> bool:
        """Whether its closing has begun. A closed engine can't be opened again: make a new one."""
        return self._inner.closed

    # Transfers

    def download(
        self, url: str, to: str | os.PathLike[str], *, timeout: float | None = None, **options: Any
    ) -> Result:
        """Download to the end. `options` are the fields of `Download`.

        Raises:
            TransferFailed, TransferCanceled: with `code`. And what `submit` raises.
            TimeoutError: it takes longer than `timeout` seconds; the task goes on.
        """
        return self._run(lambda: self._inner.download(url, to, **options), timeout)

    def upload(
        self,
        source: str | os.PathLike[str] | bytes | bytearray | memoryview,
        url: str = "",
        *,
        protocol: Settings | ProtocolSpec,
        timeout: float | None = None,
        **options: Any,
    ) -> Result:
        """Upload to the end; `source`, `url`, `protocol` and `options` as in `meowcat.Engine.upload`.

        Raises:
            TransferFailed, TransferCanceled: with `code`. And what `submit` raises.
            TimeoutError: it takes longer than `timeout` seconds; the task goes on.
        """
        return self._run(lambda: self._inner.upload(source, url, protocol=protocol, **options), timeout)

    def fetch(
        self,
        url: str,
        *,
        max_bytes: int = USUAL_BYTES,
        headers: Mapping[str, str] | None = None,
        max_redirects: int = USUAL_REDIRECTS,
        timeout: float | None = None,
    ) -> Fetched:
        """GET a small body into memory; as `meowcat.Engine.fetch`.

        Raises:
            FetchFailed, BodyTooLarge, FetchQueueFull, InvalidArgument, EngineClosed: as there.
            TimeoutError: it takes longer than `timeout` seconds, and is given up.
        """
        return self._run(
            lambda: self._inner.fetch(url, max_bytes=max_bytes, headers=headers, max_redirects=max_redirects),
            timeout,
        )

    name_of = awaited(AsyncEngine.name_of)
    submit = _handled(AsyncEngine.submit)
    submit_nowait = _handled(AsyncEngine.submit_nowait)
    submit_many = awaited(AsyncEngine.submit_many)

    # One task

    task = _handled(AsyncEngine.task)
    pause = awaited(AsyncEngine.pause)
    resume = awaited(AsyncEngine.resume)
    cancel = awaited(AsyncEngine.cancel)
    retry = awaited(AsyncEngine.retry)
    supply = awaited(AsyncEngine.supply)
    add_credential = awaited(AsyncEngine.add_credential)
    add_refresher = awaited(AsyncEngine.add_refresher)
    add_source = awaited(AsyncEngine.add_source)
    history = iterated(AsyncEngine.history)

    # All tasks

    tasks = iterated(AsyncEngine.tasks)
    cancel_many = awaited(AsyncEngine.cancel_many)
    pause_many = awaited(AsyncEngine.pause_many)
    resume_many = awaited(AsyncEngine.resume_many)
    retry_many = awaited(AsyncEngine.retry_many)
    events = iterated(AsyncEngine.events)
    add_sink = awaited(AsyncEngine.add_sink)
    remove_sink = awaited(AsyncEngine.remove_sink)
    add_listener = called(AsyncEngine.add_listener)

    def drain(self, timeout: float | None = None) -> None:
        """Wait until nothing is left to do without help: every task has ended, is Paused or Failed, or waits
        for something that only `supply` brings.

        Raises:
            TimeoutError: it takes longer than `timeout` seconds; the tasks go on.
        """
        self._run(self._inner.drain, timeout)

    stands = awaited(AsyncEngine.stands)
    orphans = awaited(AsyncEngine.orphans)
    abort_orphans = awaited(AsyncEngine.abort_orphans)
    set_limit_rate = awaited(AsyncEngine.set_limit_rate)
    snapshot = awaited(AsyncEngine.snapshot)
    checkpoint = awaited(AsyncEngine.checkpoint)
    receipt = awaited(AsyncEngine.receipt)
    quarantined = called(AsyncEngine.quarantined)


def _let_go(thread: LoopThread) -> None:
    """An engine was collected that nobody has closed. This may happen in any thread, in the middle of
    anything: nothing is waited for."""
    if thread.running:
        thread.ask_to_end()
        warnings.warn(
            "an engine was not closed: use it in a 'with' block, or call close()",
            ResourceWarning,
            stacklevel=1,
        )
