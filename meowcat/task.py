"""What a user holds of a task: its handle, its progress and its result."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import anyio
from msgspec import Struct

from meowcat.annotations import OnDemand
from meowcat.core.errors import TransferCanceled, TransferFailed
from meowcat.core.info import TaskInfo, eta_of, fraction_of, info_of
from meowcat.core.machine import TERMINAL, State
from meowcat.core.plans import DownloadPlan, UploadPlan
from meowcat.core.values import Checksum, TaskId
from meowcat.core.waits import WaitingFor
from meowcat.journal.logged import LoggedEvent
from meowcat.runtime.bus import Feed
from meowcat.runtime.listeners import Listener, Subscription
from meowcat.streams import Stream

if TYPE_CHECKING:
    from meowcat import engine as engine_module
else:
    engine_module = OnDemand("meowcat.engine")

PROGRESS_INTERVAL = 0.1
"""Seconds between two reports of progress at the least."""


class Result(Struct, frozen=True, kw_only=True):
    """What a Complete task has brought."""

    task: TaskId
    path: str
    size: int
    """Bytes."""
    digests: tuple[Checksum, ...]
    """Digests of the whole content: the caller's and those the server offered, which were compared, and the
    one that was asked for."""
    remote: dict[str, str]
    """What the server said of an uploaded object: `etag`, `version_id` …; nothing of a download."""


class Progress(Struct, frozen=True, kw_only=True):
    """A moment of a transfer. Bytes are confirmed bytes: they never run backwards within a generation."""

    state: State
    bytes_done: int
    size: int | None
    """Bytes in all; None while it is not known."""
    rate: float
    """Bytes a second over the last seconds."""
    eta: float | None
    """Seconds to go at that rate; None where it can't be told."""
    waiting_for: WaitingFor | None
    refusal: str = ""
    """Why the journal takes no records now, as while its disk is full: nothing goes on until it does. Empty
    while it takes them."""

    @property
    def fraction(self) -> float:
        """0 to 1; 0 while the size is not known."""
        return fraction_of(self.state, self.bytes_done, self.size)


class Task:
    """A handle. Any number of them may stand for one task; none of them keeps it going."""

    def __init__(self, engine: "engine_module.Engine", feed: Feed) -> None:
        self._engine = engine
        self._feed = feed

    def __repr__(self) -> str:
        return f"<Task {self.id} {self.state}>"

    @property
    def id(self) -> TaskId:
        return self._feed.task.id

    @property
    def state(self) -> State:
        return self._feed.task.state

    @property
    def info(self) -> TaskInfo:
        """The task as of now."""
        return info_of(self._feed.task)

    async def result(self) -> Result:
        """Wait for the end.

        Raises:
            TransferFailed: it failed; `code` says why, and `retry` begins again from what is kept.
            TransferCanceled: it was canceled.
        """
        while self.state not in TERMINAL:
            await self._feed.beyond(self._feed.version)
        info = self.info
        if info.state is State.FAILED:
            assert info.fault is not None  # noqa: S101  # a Failed event carries its fault
            raise TransferFailed(f"{info.url}: {info.fault.detail}", task=info.id, code=info.fault.code)
        if info.state is State.CANCELED:
            raise TransferCanceled(f"{info.url}: canceled", task=info.id)
        return Result(
            task=info.id, path=info.path, size=info.bytes_done, digests=info.digests, remote=info.remote
        )

    def progress(self) -> Stream[Progress]:
        """Progress as it is made, at most ten times a second; ends after the terminal state was given.

        A pause does not end it. Steps that nobody asked for in time are left out.
        """
        clock = self._engine.clock.monotonic
        given: Progress | None = None
        at, seen = clock(), self._feed.version

        async def step() -> Progress:
            nonlocal given, at, seen
            if given is not None:
                if given.state in TERMINAL:
                    raise StopAsyncIteration
                await self._feed.beyond(seen)
                if self.state not in TERMINAL:
                    await anyio.sleep(max(0.0, at + PROGRESS_INTERVAL - clock()))
            at, seen = clock(), self._feed.version
            given = self._moment()
            return given

        return Stream(step)

    def _moment(self) -> Progress:
        info, rate = self.info, self._feed.rate()
        return Progress(
            state=info.state,
            bytes_done=info.bytes_done,
            size=info.size,
            rate=rate,
            eta=eta_of(info.size, info.bytes_done, rate),
            waiting_for=info.waiting_for,
            refusal=self._feed.refusal,
        )

    async def pause(self) -> None:
        """Stop and stay stopped, over restarts too, until resumed.

        Durable on return, and nothing more is written or sent.

        Raises:
            InvalidTaskState: it is Paused, or Failed. TaskNotFound: it has ended.
        """
        await self._engine.pause(self.id)

    async def resume(self) -> None:
        """Queue a Paused task again; or try at once what waits for a time (a retry, a server's Retry-After,
        an unreachable host, disk space), with a new budget of attempts. A held host is asked once then.

        Raises:
            InvalidTaskState: it is neither. TaskNotFound: it has ended.
        """
        await self._engine.resume(self.id)

    async def cancel(self) -> None:
        """End the task for good and remove what is half done.

        Raises:
            TaskNotFound: it has ended.
        """
        await self._engine.cancel(self.id)

    async def retry(self) -> None:
        """Queue a Failed task again, with a new budget of attempts and what is stored already. A download
        begins anew where a reply had contradicted its size.

        Raises:
            InvalidTaskState: it is not Failed. TaskNotFound: it has ended.
        """
        await self._engine.retry(self.id)

    async def supply(
        self,
        *,
        url: str | None = None,
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
        plan: UploadPlan | DownloadPlan | None = None,
    ) -> None:
        """Hand in what a restart can't know: a fresh signed URL, headers that are secret, the content of an
        upload of bytes, a presigned plan. Never journaled.

        Raises:
            InvalidArgument: nothing was given, or no http(s) URL. TaskNotFound: it has ended.
        """
        await self._engine.supply(self.id, url=url, headers=headers, data=data, plan=plan)

    async def set_limit_rate(self, rate: int | None) -> None:
        """Another limit of its own from now on, in bytes a second, also while it is at work; None = no limit.

        Recorded: it holds after a restart, too. Those of its host and of the engine hold besides.

        Raises:
            InvalidArgument: out of bounds. TaskNotFound: it has ended.
        """
        await self._engine.set_limit_rate(rate, task=self.id)

    def add_listener(self, function: Listener) -> Subscription:
        """Call `function` with a `TaskInfo`: the present state first, then as `Engine.add_listener`."""
        return self._engine.add_listener(function, task=self)

    def history(self) -> Stream[LoggedEvent]:
        """The task's events from the first to the newest durable one."""
        return self._engine.history(self.id)
