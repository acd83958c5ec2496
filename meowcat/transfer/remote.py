"""Settling at a server: what was sent becomes the object, or its session is removed. Both may be done again
after a crash, and both ask first where their outcome is in doubt.
"""

import anyio

from meowcat.core import messages as msg
from meowcat.core.pieces import Grid
from meowcat.core.sessions import Receipt, Session
from meowcat.core.state import Condemned, TaskState
from meowcat.core.transfers import Upload
from meowcat.core.values import Fault, FaultKind, SourceIdentity
from meowcat.core.wanted import Abort
from meowcat.protocols.contract import Outcome, Refused, UploadProtocol
from meowcat.transfer.context import Errand, World
from meowcat.transfer.plugged import (
    Recorded,
    changed,
    open_origin,
    reading,
    recorded,
    unprovable,
    upload_protocol_for,
    whole_digests,
)
from meowcat.transfer.source_proof import prove
from meowcat.transfer.sources import Opened, unmoved
from meowcat.transport.contract import TransportFault

__all__ = ["AbortOperation", "CommitOperation"]

ROUNDS = 3
"""How often the last part is read that is touched while it is read."""


class RemoteOperation:
    """Short work at a server, whose report is owed whatever happens meanwhile."""

    def __init__(self, world: World, errand: Errand) -> None:
        request = errand.task.request
        assert isinstance(request, Upload)  # noqa: S101  # only uploads leave something at a server
        self._world = world
        self._errand = errand
        self._task = errand.task
        self._request: Upload = request
        self._over = False

    def update(self, task: TaskState, *, hold: bool) -> None:
        """Nothing that happens to the task changes what is owed."""

    @property
    def quiet(self) -> bool:
        return self._over

    async def run(self) -> None:
        with anyio.CancelScope(
            shield=True
        ):  # its requests have time-outs, and the outcome is worth its report
            try:
                async with self._errand.requests.turn():
                    report = await self._settle()
            except (Refused, TransportFault) as failure:
                report = self._failed(failure.fault)
            finally:
                self._over = True
            self._errand.report(report)

    async def _settle(self) -> msg.Message:
        raise NotImplementedError

    def _failed(self, fault: Fault) -> msg.Message:
        raise NotImplementedError

    def _protocol(self, receipts: dict[int, Receipt] | None) -> UploadProtocol:
        known = self._task.generation
        size = known.size if known is not None and known.size is not None else 0
        digests = whole_digests(self._task)
        if self._task.intent is not None:  # with what was computed at the end, because it was asked for
            digests |= {each.algorithm: each.hex for each in self._task.intent.digests}
        return upload_protocol_for(self._world, self._errand, size, digests, receipts)


class CommitOperation(RemoteOperation):
    """`wanted.Commit` at work; see `context.Running`."""

    def _failed(self, fault: Fault) -> msg.Message:
        return msg.CommitFailed(fault=fault)

    async def _settle(self) -> msg.Message:
        task, session = self._task, self._task.session
        assert session is not None  # noqa: S101  # what is committed was opened
        known = await recorded(self._errand) if task.stored else Recorded()
        protocol = self._protocol(known.receipts)
        if task.doubt:
            found = await protocol.reconcile(session)
            if found.outcome is Outcome.COMMITTED:
                return msg.Committed(result=found.result)
            if found.outcome is Outcome.LOST:
                detail = "the server knows neither the object nor the upload; all is sent again"
                return self._failed(Fault(kind=FaultKind.SESSION_LOST, detail=detail))
        if session.capabilities.commits_with_last_part:
            return msg.Committed(result=await self._commit_with_last_part(protocol, session, known))
        return msg.Committed(result=await protocol.commit(session, known.receipts, None))

    async def _commit_with_last_part(
        self, protocol: UploadProtocol, session: Session, known: Recorded
    ) -> dict[str, str]:
        begin, _ = self._last_span
        offset = begin
        if session.capabilities.server_offset and (
            self._task.doubt or len(known.receipts) < self._task.to_send
        ):  # of the last part, too, something may be there
            prepared = await protocol.prepare(session)
            if prepared.done is not None:
                return prepared.done
            offset = min(prepared.offset, self._grid.size)
        if offset < begin:
            detail = f"the server has {offset:,} bytes; it had confirmed {begin:,}: all is sent again"
            raise Refused(Fault(kind=FaultKind.SESSION_LOST, detail=detail))
        return await self._send_last_part(protocol, session, known, offset)

    @property
    def _last_span(self) -> tuple[int, int]:
        grid = self._grid
        return grid.span(grid.count - 1) if grid.count else (0, 0)

    async def _send_last_part(
        self, protocol: UploadProtocol, session: Session, known: Recorded, offset: int
    ) -> dict[str, str]:
        source = await open_origin(self._world, self._errand, begun=True)
        try:
            for _ in range(ROUNDS):
                pinned = await self._pinned(source, known, offset)
                done = await self._send_last_of(protocol, session, known.receipts, source, pinned, offset)
                if done is not None:
                    return done
            raise changed(source.name)
        finally:
            await source.close()

    async def _pinned(self, source: Opened, known: Recorded, offset: int) -> SourceIdentity:
        """The identity under which the source has, for certain, what was sent of it."""
        pinned, whole = self._task.source, whole_digests(self._task)
        assert pinned is not None  # noqa: S101  # pinned before anything was sent
        now = await source.identity()
        if pinned.young or not unmoved(pinned, now):
            found = await prove(source, self._world.budget, self._grid, known.digests, whole)
            if found is None or found.size != self._grid.size:
                raise changed(source.name)
            now = found
        moved = known.repinned or pinned.young or not unmoved(pinned, now)
        if offset > self._last_span[0] and moved and not whole:
            raise unprovable(source.name)
        return now

    @property
    def _grid(self) -> Grid:
        assert self._task.grid is not None  # noqa: S101  # known with the session
        return self._task.grid

    async def _send_last_of(
        self,
        protocol: UploadProtocol,
        session: Session,
        receipts: dict[int, Receipt],
        source: Opened,
        pinned: SourceIdentity,
        offset: int,
    ) -> dict[str, str] | None:
        """Commit with the last part; None where the source was touched before anything went."""
        begin, stop = self._last_span
        index = max(self._grid.count - 1, 0)
        async with reading(self._world, self._errand, source, pinned) as reader:
            with reader.part(index, begin, stop, start=offset) as part:
                await part.checksum("blake3")
                if part.moved:
                    return None
                return await protocol.commit(session, receipts, part)


class AbortOperation(RemoteOperation):
    """`wanted.Abort` at work; see `context.Running`."""

    def __init__(self, world: World, errand: Errand, operation: Abort) -> None:
        super().__init__(world, errand)
        self._condemned: Condemned = next(
            each for each in errand.task.condemned if each.session.id == operation.session
        )

    def _failed(self, fault: Fault) -> msg.Message:
        return msg.AbortFailed(session=self._condemned.session.id, fault=fault)

    async def _settle(self) -> msg.Message:
        session, doubt = self._condemned.session, self._condemned.doubt
        receipts = (await recorded(self._errand)).receipts if doubt else {}
        protocol = self._protocol(receipts or None)
        if doubt:
            found = await protocol.reconcile(session)
            if found.outcome is Outcome.COMMITTED:
                return msg.Aborted(session=session.id, committed=True)
        if session.capabilities.session:
            await protocol.abort(session)
        return msg.Aborted(session=session.id)
