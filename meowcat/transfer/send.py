"""Sending: a source is pinned, a session opened, and what the server lacks of the parts brought to it.

Everything that is learned is reported, and what has to be durable first is waited for: the pinned source
before a session is asked for, the intent before one may come to be, the session before a part is sent. A part
that fails is missing again and says so; what to do about it is decided elsewhere, and comes back as `hold`.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint_if_cancelled

from meowcat.core import messages as msg
from meowcat.core.crowd import FEWEST
from meowcat.core.errors import InvalidArgument
from meowcat.core.machine import State
from meowcat.core.pacing import too_many
from meowcat.core.pieces import Grid, IntervalSet
from meowcat.core.sessions import Capabilities, Held, Receipt, Session
from meowcat.core.state import NOTHING, TaskState
from meowcat.core.transfers import Upload
from meowcat.core.uploads import choose_part_size
from meowcat.core.values import Checksum, Fault, FaultKind, SourceIdentity
from meowcat.core.wanted import Send
from meowcat.protocols.contract import Prepared, Refused, UploadProtocol
from meowcat.transfer.context import Errand, World
from meowcat.transfer.plugged import (
    changed,
    group,
    open_origin,
    reading,
    recorded,
    unprovable,
    upload_protocol_for,
    whole_digests,
)
from meowcat.transfer.source_parts import SourcePart, SourceReader
from meowcat.transfer.source_proof import digest_source, prove
from meowcat.transfer.sources import TICK_NS, Opened, unmoved
from meowcat.transport.contract import TransportFault

__all__ = ["SendOperation"]

_SOURCE = {FaultKind.SOURCE_CHANGED, FaultKind.LOCAL_REMOVED, FaultKind.FILE_NOT_FOUND}
"""Faults of the source: whatever else is sent of it would be of no use."""

_SESSION = {FaultKind.SESSION_LOST, FaultKind.CHANGED}
"""Faults after which nothing more is of use in this session."""

_UNSENT = {FaultKind.UNREACHABLE, FaultKind.TLS, FaultKind.CREDENTIAL, FaultKind.EXPIRED}
"""Faults that prove that the server has not heard of a request."""


class Idle(Exception):
    """Nothing may be sent now, and nothing is on its way: the operation ends."""


class SendOperation:
    """`wanted.Send` at work; see `context.Running`."""

    def __init__(self, world: World, errand: Errand, operation: Send) -> None:
        task = errand.task
        assert isinstance(task.request, Upload)  # noqa: S101  # only uploads are sent
        self._world = world
        self._errand = errand
        self._operation = operation
        self._request: Upload = task.request
        self._task = task
        self._crowd = errand.crowd
        """Chooses how many parts are sent at once, where the user does not."""
        self._news = anyio.Event()
        self._hold = False
        self._faulted = False
        """A fault was reported and the answer to it is still to come: no part starts meanwhile."""
        self._stopped = False
        self._busy = 0
        self._suspect = False
        """Something hints that the source was touched: it is proved before anything more is sent."""
        self._taken: set[int] = set()
        """Parts on their way."""
        self._ahead: SourcePart | None = None
        """The part that is sent next: its reading began, so that its bytes are there when its turn comes."""
        self._have: IntervalSet = NOTHING
        """Parts that the server has confirmed, recorded or not yet."""
        self._offset = 0
        """Bytes that the server has from the beginning, where it speaks of an offset."""
        self._digests: dict[int, bytes] = {}
        """The BLAKE3 of each part that was sent, in this run or an earlier one."""
        self._repinned = False
        """Whether the source was touched since an earlier run had its last part recorded."""
        self._fatal: Fault | None = None
        self._source: Opened
        self._protocol: UploadProtocol
        self._reader: SourceReader
        self._group: TaskGroup

    # Of the runtime

    def update(self, task: TaskState, *, hold: bool) -> None:
        self._task = task
        self._hold = hold
        self._faulted = self._faulted and not hold
        self._news.set()
        self._news = anyio.Event()

    @property
    def quiet(self) -> bool:
        return self._stopped and not self._busy

    async def run(self) -> None:
        try:
            self._source = await open_origin(self._world, self._errand, begun=self._task.source is not None)
        except Refused as failure:
            self._stopped = True
            self._report_fault(failure.fault)
            return
        try:
            await self._work()
        except (Refused, TransportFault) as failure:
            self._report_fault(failure.fault)
        except Idle:
            pass
        finally:
            self._stopped = True
            with anyio.CancelScope(shield=True):
                await self._source.close()

    async def _work(self) -> None:
        if self._task.session is not None:
            known = await recorded(self._errand)
            self._digests, self._repinned = known.digests, known.repinned
        await self._pin()
        self._protocol = self._make_protocol()
        async with self._reading() as self._reader:
            try:
                if self._task.session is None:
                    await self._open()
                else:
                    await self._resume(self._task.session)
                while True:
                    await self._send_missing()
                    await self._finish()
            finally:
                self._drop_ahead()

    # What is known

    @property
    def _pinned(self) -> SourceIdentity:
        assert self._task.source is not None  # noqa: S101  # pinned before anything else
        return self._task.source

    @property
    def _grid(self) -> Grid:
        assert self._task.grid is not None  # noqa: S101  # known with the session
        return self._task.grid

    @property
    def _session(self) -> Session:
        assert self._task.session is not None  # noqa: S101  # opened before anything is sent
        return self._task.session

    @property
    def _able(self) -> Capabilities:
        return self._session.capabilities

    def _reading(self) -> AbstractAsyncContextManager[SourceReader]:
        return reading(self._world, self._errand, self._source, self._pinned)

    def _make_protocol(self) -> UploadProtocol:
        return upload_protocol_for(self._world, self._errand, self._pinned.size, whole_digests(self._task))

    async def _until(self, reached: Callable[[], bool]) -> None:
        """Wait for what was reported to be recorded.

        Raises:
            Idle: nothing may go on meanwhile.
        """
        while not reached():
            if self._hold:
                raise Idle
            await self._news.wait()

    # The source

    async def _pin(self) -> None:
        """Know what is read; see that it is still what an earlier run has read."""
        now = await self._source.identity()
        known = self._task.source
        if known is None or (not unmoved(known, now) and self._task.session is None):
            await self._pin_first(now)  # nothing was sent of another one
        elif not unmoved(known, now):
            await self._prove()

    async def _pin_first(self, now: SourceIdentity) -> None:
        able = upload_protocol_for(self._world, self._errand, now.size, {}).capabilities()
        needed = able.needs_digests
        digests: tuple[Checksum, ...] = ()
        if able.server_offset and not needed and now.young:
            # What of a part the server has once that broke off can't be compared with anything: that nothing
            # was touched since has to show.
            await self._world.sleep(TICK_NS / 1e9)
            now = await self._source.identity()
        if needed:
            # With what was asked for: a server that has all of it already ends the task before a later look.
            asked = () if self._request.digest is None else (self._request.digest,)
            needed = tuple(dict.fromkeys((*needed, *asked)))
            found = await digest_source(self._source, self._world.budget, needed)
            now, digests = found.identity, _checksums(found.hexes)
        await self._report_pinned(now, digests)

    async def _report_pinned(self, source: SourceIdentity, digests: tuple[Checksum, ...]) -> None:
        run, restarts = self._operation.run, self._operation.restarts
        self._report(msg.Pinned(run=run, restarts=restarts, source=source, digests=digests))
        await self._until(lambda: self._task.source == source)

    async def _prove(self) -> None:
        """See that a source that was touched has the bytes that were sent, and go by its new look.

        Raises:
            Refused: SOURCE_CHANGED.
        """
        self._suspect = False
        whole = whole_digests(self._task)
        found = await prove(self._source, self._world.budget, self._grid, self._digests, whole)
        if found is None:
            raise changed(self._source.name)
        if not unmoved(self._pinned, found):
            self._repinned = True
            known = self._task.generation.digests if self._task.generation else ()
            await self._report_pinned(found, known)

    # The session

    async def _open(self) -> None:
        """Have a session opened, with an intent where it has to be removed if it is not committed."""
        able = self._protocol.capabilities()
        try:
            piece_size = choose_part_size(self._pinned.size, self._request.piece_size, able)
        except InvalidArgument as impossible:
            raise Refused(Fault(kind=FaultKind.LENGTH, detail=str(impossible))) from impossible
        self._read_first(Grid(self._pinned.size, piece_size), able)
        if _owes(able):
            await self._intend()
            with anyio.CancelScope(shield=True):  # once begun it is seen through: its outcome is owed
                prepared = await self._prepare_first(piece_size, able)
        else:
            prepared = await self._prepare_first(piece_size, able)
        await self._until(lambda: self._task.session is not None)
        self._have = self._task.stored
        await self._adopt_all(prepared, _held(prepared))
        if self._have:
            self._drop_ahead()  # it may be there already

    def _read_first(self, grid: Grid, able: Capabilities) -> None:
        """Begin to read the first part while the server is asked for a session."""
        if self._sendable(grid, able) and not able.server_offset:  # which may begin anywhere
            part = self._reader.part(0, *grid.span(0))
            if part.begin():
                self._ahead = part

    async def _intend(self) -> None:
        run, restarts = self._operation.run, self._operation.restarts
        self._report(msg.Opening(run=run, restarts=restarts))
        try:
            await self._until(lambda: self._task.opening)
        except BaseException:  # raised again: stopped before anything was asked for
            self._report(msg.Unopened())
            raise

    async def _prepare_first(self, piece_size: int, able: Capabilities) -> Prepared:
        try:
            prepared = await self._request_made(lambda: self._protocol.prepare(None))
        except (Refused, TransportFault) as failure:
            if not _owes(able):
                raise
            self._report(msg.Unopened(fault=failure.fault, lost=_may_have_worked(failure.fault)))
            raise Idle from failure
        except BaseException:  # raised again: a defect of the protocol, or the end of the process
            if _owes(able):
                self._report(msg.Unopened(lost=True))
            raise
        grid = Grid(self._pinned.size, piece_size)
        if able.server_offset:
            self._offset = _offset(prepared, grid)
        held = self._held_at_first(prepared, grid, able)
        self._report(
            msg.Opened(session=prepared.session, piece_size=piece_size, held=held.pairs, result=prepared.done)
        )
        return prepared

    def _held_at_first(self, prepared: Prepared, grid: Grid, able: Capabilities) -> IntervalSet:
        """What the server vouches for by a digest of the whole, though this task has not sent it."""
        if not able.server_offset:
            return NOTHING
        held = grid.pieces_within(0, _offset(prepared, grid))
        return held - IntervalSet.of((self._sendable(grid, able), max(grid.count, 1)))

    @staticmethod
    def _sendable(grid: Grid, able: Capabilities) -> int:
        return max(0, grid.count - able.commits_with_last_part)

    async def _resume(self, session: Session) -> None:
        """Ask what the server has of a session of an earlier run."""
        prepared = await self._request_made(lambda: self._protocol.prepare(session))
        if prepared.done is not None:
            size = self._task.piece_size
            self._report(msg.Opened(session=session, piece_size=size, result=prepared.done))
            await self._until(lambda: self._task.state is State.COMPLETE)
        stored = self._task.stored
        there = self._there(prepared, session.capabilities)
        moved = self._repinned or self._pinned.young
        if moved and self._offset > self._recorded_end and not whole_digests(self._task):
            raise unprovable(self._source.name)
        self._have = stored & there
        lost = stored - there
        run, restarts = self._operation.run, self._operation.restarts
        self._report(msg.Proved(run=run, restarts=restarts, kept=self._have.pairs, lost=lost.pairs))
        await self._until(lambda: self._task.state is State.RUNNING)
        await self._adopt_all(prepared, there)

    def _there(self, prepared: Prepared, able: Capabilities) -> IntervalSet:
        """The parts that the server says it has; all that are recorded, where it can't say."""
        if able.server_offset:
            self._offset = _offset(prepared, self._grid)
            there = self._grid.pieces_within(0, self._offset)
        elif able.lists_parts:
            there = _held(prepared)
        else:
            return self._task.stored
        return there & IntervalSet.of((0, self._task.to_send))

    @property
    def _recorded_end(self) -> int:
        """Where the bytes end of which digests are recorded, if they were sent one after the other."""
        stored = self._task.stored
        return self._grid.span(stored.total - 1)[1] if stored else 0

    async def _adopt_all(self, prepared: Prepared, there: IntervalSet) -> None:
        news = (there & IntervalSet.of((0, self._task.to_send))) - self._task.stored
        if news:
            async with self._reading() as reader:
                for index in news.numbers:
                    await self._adopt(reader, index, prepared.held.get(index))

    async def _adopt(self, reader: SourceReader, index: int, held: Held | None) -> None:
        """What the server has and nobody recorded counts where it is proved to be of this source: by the
        part's own digest, or by that of the whole where the server speaks of an offset alone."""
        begin, stop = self._grid.span(index)
        with reader.part(index, begin, stop) as part:
            if held is not None and not await _same(part, held):
                return
            await part.checksum("blake3")
            self._report_confirmed(part, Receipt(text="") if held is None else held.receipt)

    # The parts

    async def _send_missing(self) -> None:
        """Send what is missing, until all is there.

        Raises:
            Idle: nothing may be sent now. Refused: the source, or the session, is of no use any more.
        """
        self._reader.pinned = self._pinned
        self._reader.several = self._able.any_order and self._request.connections != 1
        async with group() as self._group:
            await self._hand_out()
        if self._fatal is not None:
            raise Refused(self._fatal)

    async def _hand_out(self) -> None:
        while self._fatal is None:
            # A cancellation passes over those that are about to go on, and each part that it ends wakes this:
            # so it might begin parts for ever, to be canceled.
            await checkpoint_if_cancelled()
            news = self._news
            if self._suspect and not self._busy:
                self._drop_ahead()
                await self._prove()
                return  # by another identity, which the reader of parts has to know
            while self._may_send and (index := self._next()) is not None:
                self._taken.add(index)
                self._busy += 1
                part = self._part(index)
                part.begin()  # its bytes are read while its request is made
                self._group.start_soon(self._bring, part)
            self._read_ahead()
            if not self._busy and not self._suspect:
                if self._next() is None:
                    return
                raise Idle
            await news.wait()

    @property
    def _may_send(self) -> bool:
        free = self._connections - self._busy
        return free > 0 and self._may_go_on and not self._suspect

    @property
    def _connections(self) -> int:
        return (self._request.connections or self._crowd.connections) if self._able.any_order else 1

    @property
    def _chosen(self) -> bool:
        """Whether nobody says how many."""
        return self._able.any_order and self._request.connections is None

    def _next(self) -> int | None:
        """The first part that the server lacks and that is not on its way."""
        for first, stop in self._have.gaps(0, self._task.to_send):
            for index in range(first, stop):
                if index not in self._taken:
                    return index
        return None

    def _part(self, index: int) -> SourcePart:
        if self._ahead is not None and self._ahead.index == index:
            part, self._ahead = self._ahead, None
            return part
        begin, stop = self._grid.span(index)
        start = self._offset if begin < self._offset < stop else begin
        return self._reader.part(index, begin, stop, start=start, expected=self._digests.get(index))

    def _read_ahead(self) -> None:
        """Begin to read what is sent next, while all connections are busy."""
        if self._ahead is not None or self._suspect or not self._may_go_on:
            return
        if (index := self._next()) is not None:
            part = self._part(index)
            if part.begin():
                self._ahead = part

    def _drop_ahead(self) -> None:
        if self._ahead is not None:
            self._ahead.close()
        self._ahead = None

    async def _bring(self, part: SourcePart) -> None:
        began = self._world.clock()
        try:
            with part:
                await self._bring_part(part, began)
        except (Refused, TransportFault) as failure:
            self._failed(failure.fault, began)
        finally:
            self._busy -= 1
            self._taken.discard(part.index)
            self._tell()

    async def _bring_part(self, part: SourcePart, began: float) -> None:
        async with self._errand.requests.turn():
            if not self._may_go_on:
                return
            receipt = await self._protocol.send_part(self._session, part)
            if part.digest is None:  # confirmed before its last bytes were asked for
                await part.checksum("blake3")
            self._report_confirmed(part, receipt)
            if self._chosen and self._task.to_send > FEWEST:  # of fewer parts nobody gains from more at once
                self._crowd.sent(self._task.id, began, self._world.clock(), part.size, limited=part.limited)

    @property
    def _may_go_on(self) -> bool:
        return not self._hold and not self._faulted

    def _failed(self, fault: Fault, began: float) -> None:
        if self._chosen and too_many(fault):
            self._crowd.refuse(began, self._world.clock())
        if fault.kind in _SOURCE or fault.kind in _SESSION:
            self._fatal = self._fatal or fault
            self._group.cancel_scope.cancel()
        elif not self._faulted:
            self._faulted = True
            self._report_fault(fault)

    def _tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    # The end

    async def _finish(self) -> None:
        """Prove the source where anything hints that it was touched, and hand over to the commit."""
        if self._next() is not None:
            return
        digests = dict(whole_digests(self._task))
        now = await self._source.identity()
        if self._request.digest is not None and self._request.digest not in digests:
            found = await digest_source(self._source, self._world.budget, (self._request.digest,))
            now, digests = found.identity, digests | found.hexes
        touched = self._pinned.young or not unmoved(self._pinned, now)
        if touched or self._request.verify_source == "always":
            await self._prove()
            if not unmoved(self._pinned, now):
                return  # touched again meanwhile
        run, restarts = self._operation.run, self._operation.restarts
        self._report(msg.Ready(run=run, restarts=restarts, digests=_checksums(digests)))
        await self._until(lambda: self._task.intent is not None)

    # Requests and reports

    async def _request_made(self, call: Callable[[], Awaitable[Prepared]]) -> Prepared:
        async with self._errand.requests.turn():
            self._busy += 1
            try:
                return await call()
            finally:
                self._busy -= 1

    def _report(self, message: msg.Message) -> None:
        self._errand.report(message)

    def _report_fault(self, fault: Fault) -> None:
        run, restarts = self._operation.run, self._operation.restarts
        self._report(msg.Faulted(run=run, restarts=restarts, fault=fault))

    def _report_confirmed(self, part: SourcePart, receipt: Receipt) -> None:
        assert part.digest is not None  # noqa: S101  # it was read to its end
        self._digests[part.index] = part.digest
        self._suspect = self._suspect or part.moved
        pieces = (part.index, part.index + 1)
        self._have = self._have.add(*pieces)
        self._report(
            msg.Confirmed(
                run=self._operation.run,
                restarts=self._operation.restarts,
                pieces=(pieces,),
                digests=part.digest,
                receipts=(receipt,),
            )
        )


def _checksums(hexes: Mapping[str, str]) -> tuple[Checksum, ...]:
    return tuple(Checksum(algorithm, digits) for algorithm, digits in hexes.items())


def _may_have_worked(fault: Fault) -> bool:
    """Whether the server may have done what it was asked for, although no good reply came."""
    answered_no = fault.status is not None and fault.status < 500  # noqa: PLR2004  # the 5xx class
    return fault.kind not in _UNSENT and not answered_no


def _owes(able: Capabilities) -> bool:
    """Whether to prepare is to create something, which has to be removed where it is not committed."""
    return able.session and able.creates_session


def _held(prepared: Prepared) -> IntervalSet:
    return IntervalSet.of(*((index, index + 1) for index in prepared.held))


def _offset(prepared: Prepared, grid: Grid) -> int:
    return min(prepared.offset, grid.size)


async def _same(part: SourcePart, held: Held) -> bool:
    """Whether the server's part has the source's bytes, by a digest that it vouches for."""
    if held.size != part.size:
        return False
    if held.receipt.checksum is not None:
        algorithm, _, value = held.receipt.checksum.partition(":")
        return await part.checksum(algorithm) == value
    return held.md5 is not None and await part.checksum("md5") == held.md5
