"""Fetching: what of a content is missing is brought, written, flushed and reported.

The first reply is also the probe: it goes on as the first part while others start beside it. A request that
fails gives its pieces back and says so; what to do about it is decided elsewhere, and comes back as `hold`.
"""

from collections.abc import Callable
from typing import TypeVar

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint_if_cancelled
from msgspec.structs import replace

from meowcat.core.http_rules import Asked, Changed, Empty, Partial, Rangeless, Whole, Wrong
from meowcat.core.leases import Lease
from meowcat.core.machine import State
from meowcat.core.messages import Faulted, Flushed, Message, Probed, Proved
from meowcat.core.pacing import too_many
from meowcat.core.pieces import DEFAULT_PIECE, Grid, IntervalSet
from meowcat.core.state import NOTHING, TaskState
from meowcat.core.transfers import Download
from meowcat.core.values import Fault, FaultKind, Generation
from meowcat.core.wanted import Fetch
from meowcat.protocols.contract import Answer, DownloadProtocol, Refused
from meowcat.transfer.board import FIRST_BYTES, FIRST_PIECES, Board, Part
from meowcat.transfer.context import Errand, World
from meowcat.transfer.disk import FileFault
from meowcat.transfer.files import PartFile, check_target
from meowcat.transfer.flush import Flusher
from meowcat.transfer.publish import discard
from meowcat.transfer.receive import Receiver
from meowcat.transfer.recheck import Rechecker
from meowcat.transfer.writers import WriteFailed, Writers
from meowcat.transport.contract import TransportFault

__all__ = ["FetchOperation"]

T = TypeVar("T")

LOOK = 0.25
"""Seconds between two looks at how the requests of a large content get on."""

BROKEN = frozenset({FaultKind.DISCONNECTED, FaultKind.TIMEOUT})
"""Faults that say nothing against what has come before them."""

THREADS = 2

WINDOW = 4 << 20
"""Bytes per connection that may be on their way to the disk …"""
MOST_WINDOW = 32 << 20
"""… and of all connections of one download."""


class FetchOperation:
    """`wanted.Fetch` at work; see `context.Running`."""

    def __init__(
        self,
        world: World,
        errand: Errand,
        operation: Fetch,
        protocol: DownloadProtocol,
        threads: int = THREADS,
    ) -> None:
        task = errand.task
        assert isinstance(task.request, Download)  # noqa: S101  # only downloads are fetched
        self._world = world
        self._errand = errand
        self._operation = operation
        self._protocol = protocol
        self._threads = threads if world.workers.threaded else 0
        self._request: Download = task.request
        self._task = task
        self._stored = task.stored
        self._crowd = None if task.request.connections else errand.crowd
        """Chooses how many connections there are, where the user does not."""
        self._board = Board(task.request.connections or errand.crowd.connections)
        self._limiter = anyio.CapacityLimiter(4)
        self._news = anyio.Event()
        self._hold = False
        self._faulted = False
        """A fault was reported and the answer to it is still to come: no request starts meanwhile."""
        self._learned = False
        """A valid reply came in this operation, and the task has its generation."""
        self._plain = False
        """Ask for all, without a range: only one reply can bring this content."""
        self._ended_at: int | None = None
        """The size, where a stream that did not say it came to its end."""
        self._rechecking = False
        self._requests = 0
        self._stopped = False
        self._flushed = False
        self._failed_once = False
        self._fatal: Fault | None = None
        self._silent: Callable[[], bool] = lambda: True
        """Whether no thread is in the middle of a write."""
        self._part: PartFile
        self._group: TaskGroup
        self._writers: Writers
        self._receiver: Receiver
        self._flusher: Flusher

    # Of the runtime

    def update(self, task: TaskState, *, hold: bool) -> None:
        self._task = task
        self._hold = hold
        self._faulted = self._faulted and not hold
        self._tell()

    @property
    def quiet(self) -> bool:
        return self._stopped and not self._requests and self._silent()

    async def run(self) -> None:
        try:
            fresh = await self._open()
        except FileFault as failure:
            self._stopped = True
            self._report_fault(failure.fault)
            return
        try:
            await self._move(fresh)
        finally:
            with anyio.CancelScope(shield=True):
                await self._thread(self._let_go)
        if self._fatal is not None:
            self._report_fault(self._fatal)

    # The frame

    async def _move(self, fresh: bool) -> None:
        if fresh and self._stored:
            self._report_proof(NOTHING, self._stored)
            self._stored = NOTHING
        if self._task.grid is not None:
            self._board.lay(self._task.grid, self._stored)
            if self._task.grid.size == 0:
                self._ended_at = 0  # known to be empty since an earlier run; only the file is still owed
        try:
            async with anyio.create_task_group() as threads:
                await self._move_within(threads)
        finally:
            self._writers.give_back()
            await self._flush(self._ended_at, last=self._ended_at is not None)

    async def _move_within(self, threads: TaskGroup) -> None:
        window = min(MOST_WINDOW, WINDOW * self._board.connections)
        self._writers = Writers(
            threads,
            self._part.write,
            window,
            self._threads,
            self._world.budget.give,
            self._look,
            self._world.flush_bytes,
        )
        self._receiver = Receiver(
            self._world,
            self._board,
            self._writers,
            self._errand.throttle,
            threads=self._threads > 0,
        )
        self._silent = lambda: self._writers.quiet
        self._flusher = Flusher(self._world, self._part, self._writers, self._limiter, self._report_flush)
        async with anyio.create_task_group() as self._group:
            await self._begin_and_end()

    async def _begin_and_end(self) -> None:
        try:
            self._group.start_soon(self._keep_flushing)
            unproven = self._task.unproven & self._stored
            if unproven:
                self._rechecking = True
                self._group.start_soon(self._recheck, unproven)
            await self._hand_out()
            await self._writers.drain()
        except WriteFailed as failure:
            self._end(_fault_of(failure.error))
        finally:
            # Before the group waits for its children, one of which may be in the middle of a sync.
            self._stopped = True
            self._writers.stop()
            self._group.cancel_scope.cancel()

    async def _hand_out(self) -> None:
        """Start requests while there is something to ask for, until all is brought or nothing may start."""
        while True:
            # A cancellation passes over those that are about to go on, and each part that it ends wakes this:
            # so it might begin parts for ever, to be canceled.
            await checkpoint_if_cancelled()
            news = self._news
            while self._may_ask and (part := self._next_part()) is not None:
                self._group.start_soon(self._bring, part)
            if not self._board.parts and not self._rechecking and (self._complete or not self._may_ask):
                return
            await news.wait()

    @property
    def _may_ask(self) -> bool:
        return not self._hold and not self._faulted

    @property
    def _complete(self) -> bool:
        return self._ended_at is not None or (self._board.grid is not None and not self._board.missing)

    def _next_part(self) -> Part | None:
        most = self._errand.requests.most
        if self._complete or (most is not None and len(self._board.parts) >= most):
            return None  # a range that waits for its turn would be missing from who could bring it
        if not self._learned:
            return None if self._board.parts else self._first_part()
        return self._board.next(self._world.clock()) if self._board.grid is not None else None

    def _first_part(self) -> Part | None:
        if self._board.grid is None:
            return self._board.add(Lease(0, 1))
        return self._board.next(self._world.clock())

    def _tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    def _end(self, fault: Fault) -> None:
        """Nothing more can come of this operation; the fault is reported after the last flush."""
        self._fatal = self._fatal or fault
        self._group.cancel_scope.cancel()

    # Requests

    async def _bring(self, part: Part) -> None:
        """Ask for a lease until all of it has come."""
        began = self._world.clock()
        try:
            if self._protocol.looks_first and not self._learned and self._board.grid is None:
                await self._look_first(part)
            while self._may_ask and not await self._ask_on(part):
                pass
        except (TransportFault, Refused) as failure:
            self._failed(failure.fault, began)
        except FileFault as failure:
            self._end(failure.fault)
        except WriteFailed as failure:
            self._end(_fault_of(failure.error))
        finally:
            self._board.drop(part)
            self._tell()

    def _failed(self, fault: Fault, began: float) -> None:
        if fault.kind is FaultKind.CHANGED:
            self._end(fault)  # what the other requests bring is of no use either
        else:
            self._faulted = True
            if self._crowd is not None and too_many(fault):
                self._crowd.refuse(began, self._world.clock())
                self._board.connections = self._crowd.connections
            self._report_fault(fault)

    async def _watch(self) -> None:
        """See now and then whether a request lags behind, and whether more of them would be faster."""
        number = self._errand.crowd.join(self, follows=self._crowd is not None)
        try:
            while True:
                await self._world.sleep(LOOK)
                now = self._world.clock()
                if not self._limited:
                    for part in self._board.laggards(now):
                        part.give_up()
                if self._crowd is not None:
                    self._crowd.look(now)
                    self._board.connections = self._crowd.connections
                    self._board.trim(now)
                self._tell()
        finally:
            self._errand.crowd.leave(number)

    @property
    def _limited(self) -> bool:
        """A limit spreads what it allows as it comes: the same for all connections, however many."""
        return self._errand.throttle.rate is not None

    # For the crowd

    @property
    def came(self) -> int:
        return self._board.brought

    @property
    def hungry(self) -> bool:
        return not self._limited and len(self._board.parts) >= self._board.connections

    @property
    def latency(self) -> float:
        return self._board.paces.latency

    async def _ask_on(self, part: Part) -> bool:
        """`_ask`; where the body breaks off in the piece that it began with, what has come of it is kept for
        the next request: where connections never live long enough for a piece, nothing else gets on."""
        at = part.at
        try:
            return await self._ask(part)
        except (TransportFault, Refused) as failure:
            goes_on = failure.fault.kind in BROKEN and self._task.reusable
            if not goes_on or not self._board.began(part, at):
                raise
        return False

    async def _ask(self, part: Part) -> bool:
        """One request; whether the lease is brought, or can't be for now."""
        async with self._errand.requests.turn():
            self._requests += 1
            try:
                if not self._may_ask:
                    return True
                return await self._request_once(part)
            finally:
                self._board.end(part, self._world.clock())
                self._requests -= 1

    async def _request_once(self, part: Part) -> bool:
        with anyio.CancelScope() as part.scope:
            self._board.ask(part, self._world.clock())
            async with self._protocol.ask(self._asked(part)) as answer:
                self._board.answer(part, self._world.clock())
                brought = await self._heed(part, answer)
            part.renewed = 0
            return brought
        part.renewed += 1  # given up as too slow: what it still owes, if anything, is asked for again
        stop = self._board.stop_of(part)
        return stop is not None and part.at >= stop

    def _asked(self, part: Part) -> Asked:
        pinned = self._task.generation
        if self._plain or (pinned is not None and not self._task.reusable):
            return Asked(0, None, pinned)
        if self._board.grid is None:
            piece = self._request.piece_size or DEFAULT_PIECE
            return Asked(0, min(FIRST_PIECES * piece, FIRST_BYTES), pinned)
        return self._board.asked(part, pinned)

    async def _look_first(self, part: Part) -> None:
        """Ask for the head alone; where that does not tell enough, the first part will."""
        try:
            async with self._errand.requests.turn():
                self._requests += 1
                try:
                    async with self._protocol.look() as answer:
                        verdict = answer.verdict
                finally:
                    self._requests -= 1
        except TransportFault:
            return  # some servers hang up on a HEAD; one that is not there does not answer the GET either
        if isinstance(verdict, Whole) and verdict.length is not None and verdict.generation.ranges:
            await self._learn(part, verdict.generation, min(verdict.length, FIRST_BYTES))

    async def _heed(self, part: Part, answer: Answer) -> bool:
        """Do what the reply's verdict allows; whether the lease is brought."""
        verdict = answer.verdict
        if isinstance(verdict, Wrong):
            raise Refused(verdict.fault)
        if isinstance(verdict, Rangeless):
            self._plain = True
            return False
        if isinstance(verdict, Changed):
            raise Refused(Fault(kind=FaultKind.CHANGED, detail=verdict.detail))
        if isinstance(verdict, Empty):
            await self._learn(part, verdict.generation, 0)
            self._ended_at = 0
            return True
        if isinstance(verdict, Partial):
            return await self._heed_partial(part, answer, verdict)
        generation = verdict.generation
        if self._plain:  # whatever it says of ranges, it has refused one
            generation = replace(generation, ranges=False)
        await self._learn(part, generation, verdict.length)
        self._board.widen(part)
        part.stream = None  # bytes come from 0 on now, whatever came before
        await self._read(part, answer, verdict.length)
        return True

    async def _heed_partial(self, part: Part, answer: Answer, verdict: Partial) -> bool:
        size = verdict.generation.size
        covers = verdict.start == 0 and verdict.stop == size
        if size is None or (self._plain and not covers):
            if self._plain:
                raise Refused(
                    _fault(FaultKind.LENGTH, "a part of a content whose size the server never says")
                )
            self._plain = True
            return False
        if verdict.start != part.at:
            raise Refused(_fault(FaultKind.RANGE, f"bytes from {verdict.start} on; expected {part.at}"))
        await self._learn(part, verdict.generation, verdict.stop)
        if not self._task.reusable and not covers:
            # Nothing proves that a second reply is of the same content: one has to bring it all.
            self._plain = True
            return False
        await self._read(part, answer, verdict.stop)
        stop = self._board.stop_of(part)
        return stop is None or part.at >= stop

    async def _learn(self, part: Part, generation: Generation, stop: int | None) -> None:
        """The head of a first valid reply: have it recorded, and only then go on by pieces of its grid."""
        if self._learned:
            return
        if self._task.state is not State.RUNNING or self._task.generation is None:
            run, restarts = self._operation.run, self._operation.restarts
            self._report(Probed(run=run, restarts=restarts, generation=generation))
            while self._task.state is not State.RUNNING or self._task.generation is None:
                await self._news.wait()
        grid = self._task.grid
        if grid is not None:
            await self._thread(lambda: self._part.reserve(grid.size))
        if grid is not None and self._board.grid is None:
            self._board.lay(grid, self._stored)
            self._fit(part, grid, grid.size if stop is None else stop)
        if not self._task.reusable:
            self._board.connections, self._crowd = 1, None
        if grid is not None and grid.size > FIRST_BYTES:
            self._group.start_soon(self._watch)
        self._learned = True
        self._tell()

    def _fit(self, part: Part, grid: Grid, stop: int) -> None:
        """The first part was asked for before there was a grid."""
        count = max(1, grid.pieces_touching(0, stop).total) if self._task.reusable else grid.count
        part.lease = Lease(0, count)
        part.claims = IntervalSet.of((0, min(count, grid.count)))

    async def _read(self, part: Part, answer: Answer, stop: int | None) -> None:
        """Take the body as far as the part is concerned. `stop`: where the reply says that it ends."""
        await self._receiver.receive(part, answer, stop, self._task.piece_size)
        if self._board.grid is None:
            self._ended_at = part.at

    # The part file

    async def _open(self) -> bool:
        """Open what an earlier operation wrote, or begin; whether what is there is new and empty.

        Raises:
            FileFault: it can't be opened, or the finished file could not go to its target.

        """
        self._part, fresh = await self._thread(self._open_part)
        return fresh

    def _open_part(self) -> tuple[PartFile, bool]:
        disk, target, known = self._world.disk, self._request.to, self._task.file
        check_target(disk, target, self._request.overwrite)
        size = self._request.total_size if self._task.grid is None else self._task.grid.size
        durability = self._world.durability
        part = PartFile.open(disk, target, self._task.id, durability, fresh=known is None, size=size)
        if part.created or part.identity == known:  # a new file may have been given the old one's number
            return part, part.created
        try:
            part.truncate(0)  # not what was recorded: nobody can say what its bytes are
        except BaseException:  # raised again: whatever it was, the file does not stay locked
            part.close()
            raise
        return part, True

    async def _thread(self, call: Callable[[], T]) -> T:
        return await self._world.workers.run(call, self._limiter)

    async def _recheck(self, pieces: IntervalSet) -> None:
        """Read again what earlier runs stored."""
        assert self._task.grid is not None  # noqa: S101  # nothing is kept of a content without a size
        rechecker = Rechecker(self._part, self._task.grid, pieces, lambda: self._stopped)
        await rechecker.digests.learn(self._errand.histories.events_of(self._task.id))
        async for kept, lost in rechecker.run(self._world.workers, self._limiter):
            self._report_proof(kept, lost)
            self._board.lose(lost)
            self._tell()
        self._rechecking = False
        self._tell()

    def _let_go(self) -> None:
        """Close the part file. An empty one that a failure leaves is removed: it would keep the target from
        whoever asks for it next, and there is nothing in it to go on with."""
        try:
            self._part.close()
        except FileFault as failure:  # what it speaks of was not flushed, and so not reported
            self._fatal = self._fatal or failure.fault
        if self._failed_once and not self._flushed and self._task.file is None:
            try:
                discard(self._world.disk, self._request.to, self._task.id, None)
            except FileFault:
                pass  # it stays in the way, and whoever meets it is told so

    async def _keep_flushing(self) -> None:
        try:
            await self._flusher.run()
        except FileFault as failure:
            self._end(failure.fault)

    async def _flush(self, size: int | None, *, last: bool) -> None:
        try:
            await self._flusher.flush(size, last=last)
        except FileFault as failure:
            self._fatal = self._fatal or failure.fault

    def _look(self) -> None:
        self._flusher.look()

    # Reports

    def _report(self, message: Message) -> None:
        self._errand.report(message)

    def _report_fault(self, fault: Fault) -> None:
        self._failed_once = True
        self._report(Faulted(run=self._operation.run, restarts=self._operation.restarts, fault=fault))

    def _report_proof(self, kept: IntervalSet, lost: IntervalSet) -> None:
        run, restarts = self._operation.run, self._operation.restarts
        self._report(Proved(run=run, restarts=restarts, kept=kept.pairs, lost=lost.pairs))

    def _report_flush(self, pieces: tuple[tuple[int, int], ...], digests: bytes, size: int | None) -> None:
        self._flushed = True
        self._report(
            Flushed(
                run=self._operation.run,
                restarts=self._operation.restarts,
                pieces=pieces,
                digests=digests,
                file=self._part.identity,
                size=size,
            )
        )


def _fault(kind: FaultKind, detail: str) -> Fault:
    return Fault(kind=kind, detail=detail)


def _fault_of(error: BaseException) -> Fault:
    if isinstance(error, FileFault):
        return error.fault
    return _fault(FaultKind.INTERNAL, f"{type(error).__name__} while the part file was written")
