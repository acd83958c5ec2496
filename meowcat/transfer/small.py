"""Small downloads: one request, one write and one rename, in one go.

A content of which nothing is known yet is asked for here. Is it small and comes whole with the first reply,
its bytes are kept in memory until all have come, then written, hashed and reported at once: one append tells
that it was started, stored and is to be published. The part file stays open and locked until then, and the
operation goes on as the one that publishes. Anything else is handed over, with the reply in hand, to a
`FetchOperation`, which can do all.
"""

import sys
from contextlib import suppress
from functools import partial
from types import TracebackType

from blake3 import blake3

from meowcat.core.downloads import algorithms, time_of
from meowcat.core.events import PublishIntended
from meowcat.core.http_rules import Asked, Empty, Partial, Verdict, Whole, Wrong
from meowcat.core.messages import Brought, Faulted, Published, PublishFailed
from meowcat.core.pieces import DEFAULT_PIECE, choose_piece_size
from meowcat.core.state import TaskState
from meowcat.core.transfers import Download
from meowcat.core.values import Checksum, Fault, FaultKind
from meowcat.core.wanted import AnyOperation, Fetch, Publish
from meowcat.protocols.contract import Answer, Asking, DownloadProtocol, Refused
from meowcat.transfer.board import FIRST_BYTES, FIRST_PIECES
from meowcat.transfer.context import Errand, World
from meowcat.transfer.digests import new
from meowcat.transfer.disk import FileFault
from meowcat.transfer.fetch import FetchOperation
from meowcat.transfer.files import PartFile, check_place
from meowcat.transfer.publish import rename_part
from meowcat.transfer.receive import READ
from meowcat.transfer.rounds import Rounds
from meowcat.transfer.signal import Signal
from meowcat.transfer.slowness import Pace
from meowcat.transport.contract import TransportFault

__all__ = ["SMALL", "SmallDownload", "is_fresh"]

SMALL = 256 * 1024
"""Bytes of a content that is held in memory as a whole."""

EVEN = 4 * SMALL
"""Bytes a second of a limit under which it may come at once: all of it is a quarter of a second's worth."""


def is_fresh(errand: Errand, protocol: DownloadProtocol) -> bool:
    """Whether nothing is known of the content, and nothing keeps it from being read in one go."""
    task = errand.task
    if task.generation is not None or task.file is not None or task.stored:
        return False
    rate = errand.throttle.rate
    return not protocol.looks_first and (rate is None or rate >= EVEN)


class SmallDownload:
    """`wanted.Fetch` of an unknown content, and the `wanted.Publish` that follows; see `context.Running`."""

    _hold = False
    _large: FetchOperation | None = None
    _part: PartFile | None = None
    _size = 0
    _reported = False
    _publishing = False
    _over = False

    def __init__(
        self, world: World, rounds: Rounds, errand: Errand, operation: Fetch, protocol: DownloadProtocol
    ) -> None:
        request = errand.task.request
        assert isinstance(request, Download)  # noqa: S101  # only downloads are fetched
        self._world = world
        self._rounds = rounds
        self._errand = errand
        self._operation = operation
        self._protocol = protocol
        self._request: Download = request
        self._folder = request.to.rpartition("/")[0] or "/"
        self._task = errand.task
        self._moved = Signal()

    # Of the runtime

    def update(self, task: TaskState, *, hold: bool) -> None:
        self._task, self._hold = task, hold
        if self._large is not None:
            self._large.update(task, hold=hold)

    def goes_on_as(self, operation: AnyOperation) -> bool:
        """Whether it does this operation as well, and is about to."""
        if self._reported and isinstance(operation, Publish):
            self._publishing = operation.restarts == self._operation.restarts
            self._moved.set()
        return self._publishing

    @property
    def quiet(self) -> bool:
        return self._over if self._large is None else self._large.quiet

    async def run(self) -> None:
        try:
            await self._fetch()
            if self._reported:
                await self._moved.wait()
                await self._publish()
        except (TransportFault, Refused, FileFault) as failure:
            run, restarts = self._operation.run, self._operation.restarts
            self._errand.report(Faulted(run=run, restarts=restarts, fault=failure.fault))
        finally:
            if self._part is not None:
                self._part.close()
            self._over = True

    # Fetching

    async def _fetch(self) -> None:
        await self._rounds.do(self._check)
        piece = self._request.piece_size or DEFAULT_PIECE
        asked = Asked(0, min(FIRST_PIECES * piece, FIRST_BYTES), None)  # as a `FetchOperation` asks first
        entered: Asking | None = None
        try:
            async with self._errand.requests.turn():
                if self._hold:
                    return  # while its turn was waited for
                asking = self._protocol.ask(asked)
                answer = await asking.__aenter__()
                entered = asking
                size = size_of(answer.verdict)
                if size is not None:
                    await self._take(answer, size)
                    return
            entered, first = None, _First(self._protocol, asked, asking, answer)
            await self._go_on(first)
        finally:
            if entered is not None:
                await entered.__aexit__(*sys.exc_info())

    async def _go_on(self, first: "_First") -> None:
        """As an operation that can do all."""
        try:
            self._large = FetchOperation(self._world, self._errand, self._operation, first)
            self._large.update(self._task, hold=self._hold)
            await self._large.run()
        finally:
            await first.leave()

    def _check(self) -> bool:
        self._rounds.check_folder(self._folder)
        check_place(self._world.disk, self._request.to, self._request.overwrite)
        return True

    async def _take(self, answer: Answer, size: int) -> None:
        """Take a small content to the disk, and report it."""
        await self._world.budget.take(size)
        try:
            content = await self._read(answer, size)
            check_body(answer, content)
            await self._keep(content)
        finally:
            self._world.budget.give(size)
        assert self._part is not None  # noqa: S101  # stored
        self._size = size
        generation = answer.verdict.generation  # type: ignore[union-attr]  # a verdict that has a size has one
        piece = choose_piece_size(size, self._request.piece_size)
        digests = [blake3(content[start : start + piece]).digest() for start in range(0, size, piece)]
        wanted = algorithms(self._request, generation)
        whole = tuple([_digest(each, content) for each in wanted])
        run, restarts = self._operation.run, self._operation.restarts
        self._errand.report(
            Brought(
                run=run,
                restarts=restarts,
                generation=generation,
                pieces=((0, len(digests)),) if digests else (),
                digests=b"".join(digests),
                file=self._part.identity,
                size=None if size else 0,
                whole=whole,
            )
        )
        self._reported = True

    async def _read(self, answer: Answer, size: int) -> bytes | memoryview:
        if isinstance(answer.verdict, Empty):
            return b""
        throttle = self._errand.throttle
        if throttle.rate is None:
            return await read_whole(self._world, answer, size)
        await throttle.acquire(size)
        try:
            return await read_whole(self._world, answer, size)
        except BaseException:  # raised again: whatever it was, it did not come
            throttle.give_back(size)
            raise

    async def _keep(self, content: bytes | memoryview) -> None:
        try:
            await self._rounds.do(partial(self._store, content), self._folder, holds_bytes=True)
        except FileFault:
            if self._part is not None:  # it could not be made durable, so nothing of it counts
                with suppress(FileFault):
                    await self._rounds.do(self._part.remove)
            raise

    def _store(self, content: bytes | memoryview) -> PartFile:
        world = self._world
        self._part = PartFile.store(world.disk, self._request.to, self._task.id, world.durability, content)
        return self._part

    # Publishing

    async def _publish(self) -> None:
        """The intent is durable."""
        assert isinstance(self._task.intent, PublishIntended)  # noqa: S101  # publishing is wanted because of it
        try:
            await self._rounds.do(self._rename, self._folder)
        except FileFault as failure:
            self._errand.report(PublishFailed(fault=failure.fault))
        else:
            self._errand.report(Published())

    def _rename(self) -> bool:
        part, request = self._part, self._request
        assert part is not None  # noqa: S101  # stored
        disk, time = self._world.disk, time_of(self._task)
        if time is not None:
            disk.set_time(part.path, time)
        rename_part(disk, part, request.to, self._size, request.overwrite)
        part.close()
        return True


class _First(DownloadProtocol):
    """A protocol whose first question is asked already, for whoever asks the same."""

    tag = ""

    def __init__(self, protocol: DownloadProtocol, asked: Asked, asking: Asking, answer: Answer) -> None:
        super().__init__(protocol.job, protocol.tools)
        self._protocol = protocol
        self._asked = asked
        self._asking: Asking | None = asking
        self._answer = answer

    async def leave(self) -> None:
        """End it, unless somebody has asked the same, and ends it himself."""
        asking, self._asking = self._asking, None
        if asking is not None:
            await asking.__aexit__(*sys.exc_info())

    @property
    def looks_first(self) -> bool:
        return self._protocol.looks_first

    def look(self) -> Asking:
        return self._protocol.look()

    def ask(self, asked: Asked) -> Asking:
        if self._asking is None or asked != self._asked:
            return self._protocol.ask(asked)
        asking, self._asking = self._asking, None
        return _Entered(asking, self._answer)


class _Entered:
    """An asking whose answer has come."""

    def __init__(self, asking: Asking, answer: Answer) -> None:
        self._asking = asking
        self._answer = answer

    async def __aenter__(self) -> Answer:
        return self._answer

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._asking.__aexit__(kind, error, trace)


def size_of(verdict: Verdict) -> int | None:
    """The size of a content that is small and comes whole; None where it is not, or that is not certain.

    Raises:
        Refused: it does not come at all.
    """
    if isinstance(verdict, Partial):
        size = verdict.stop if verdict.start == 0 and verdict.stop == verdict.generation.size else None
    elif isinstance(verdict, Whole):
        size = verdict.length
    elif isinstance(verdict, Wrong):
        raise Refused(verdict.fault)
    else:
        size = 0 if isinstance(verdict, Empty) else None
    return size if size is not None and size <= SMALL else None


async def read_whole(world: World, answer: Answer, size: int) -> bytes | memoryview:
    """The body of `size` bytes.

    Raises:
        Refused: it has more or fewer, or comes too slowly. TransportFault: it broke off.
    """
    chunks, came, pace = [], 0, None
    while chunk := await (answer.read(READ) if pace is None else pace.read(answer, READ)):
        chunks.append(chunk)
        came += len(chunk)
        if pace is None and came < size:
            pace = Pace(world)
        if came > size:
            raise Refused(
                Fault(kind=FaultKind.REPLY, detail=f"more than the {size} bytes that were expected")
            )
    if came < size:
        detail = f"the body ended at byte {came}; expected {size}"
        raise Refused(Fault(kind=FaultKind.DISCONNECTED, detail=detail))
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def check_body(answer: Answer, content: bytes | memoryview) -> None:
    """Compare a part's own digest; that of a whole is compared with the file.

    Raises:
        Refused: it has another one.
    """
    digest = answer.digest if isinstance(answer.verdict, Partial) else None
    if digest is None:
        return
    if _digest(digest.algorithm, content) != digest:
        detail = f"the body from the server has not the {digest.algorithm} that its head says"
        raise Refused(Fault(kind=FaultKind.CHECKSUM, detail=detail))


def _digest(algorithm: str, content: bytes | memoryview) -> Checksum:
    hasher = new(algorithm)
    hasher.update(content)
    return Checksum(algorithm, hasher.hexdigest())
