"""What checks work with: uploads as the engine drives them, one step at a time."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from random import Random
from typing import TypeVar
from urllib.parse import parse_qsl, urlsplit

import anyio
import msgspec

from meowcat.core.pieces import Grid
from meowcat.core.sessions import Capabilities, Receipt, Session
from meowcat.core.values import Fault, FaultKind, TaskId
from meowcat.protocols.contract import Job, Orphan, Prepared, Reconciled, Refused, Tools, UploadProtocol
from meowcat.protocols.credentials import Credential, Credentials
from meowcat.protocols.refreshers import Refreshers
from meowcat.runtime.world import wall
from meowcat.testing.checklist import Lacking
from meowcat.testing.protocol.harness import ProtocolHarness
from meowcat.testing.protocol.troubles import Harm, TroubledTransport
from meowcat.transfer.digests import new
from meowcat.transport.contract import Chunk, TransportFault

__all__ = [
    "APART",
    "AT_ONCE",
    "FAIL",
    "LOSE",
    "WITHIN",
    "Harm",
    "Offered",
    "Sender",
    "Trial",
    "as_journaled",
    "lost_of",
    "refusal_of",
    "trial_of",
]

T = TypeVar("T")
Stored = TypeVar("Stored", Session, Receipt)

_NUMBERS = count(1)
"""Names, contents and tasks are of one check alone, so that harnesses may share a server."""

WITHIN = 60.0
"""Seconds that a check may take."""
AT_ONCE = 5.0
"""Seconds that what is canceled may take to end."""
APART = "its exchanges do not pass Tools.transport, so that they can't be harmed"
CHUNK = 16 << 10
SHORTEST_SECRET = 6
"""Characters: shorter values would be found by chance."""

LOSE, FAIL = Harm("lose"), Harm("fail")


class Offered:
    """A `Part` of bytes in memory that keeps an account of what is taken of it."""

    def __init__(self, index: int, start: int, data: bytes) -> None:
        self.index, self.start, self.data = index, start, data
        self.size = len(data)
        self.taken: list[int] = []
        """The bytes that each body has handed out."""
        self.pulls = 0
        self.breaks: tuple[int, Fault] | None = None
        """The source refuses after so many bytes."""
        self.stalls: int | None = None
        """The source falls silent after so many bytes."""
        self.stalled = anyio.Event()
        self.promised: bytes | None = None
        """The bytes that `checksum` is of, where they are others than the body's."""

    async def checksum(self, algorithm: str) -> str:
        digest = new(algorithm)
        digest.update(self.data if self.promised is None else self.promised)
        return digest.hexdigest()

    def body(self) -> AsyncIterator[Chunk]:
        self.taken.append(0)
        return _Body(self, len(self.taken) - 1)


class _Body:
    def __init__(self, part: Offered, number: int) -> None:
        self._part, self._number, self._at = part, number, 0

    def __aiter__(self) -> "_Body":
        return self

    async def __anext__(self) -> Chunk:
        part, at = self._part, self._at
        part.pulls += 1
        await anyio.lowlevel.checkpoint()
        if part.breaks is not None and at >= part.breaks[0]:
            raise Refused(part.breaks[1])
        if part.stalls is not None and at >= part.stalls:
            part.stalled.set()
            await anyio.sleep_forever()
        chunk = memoryview(bytearray(part.data[at : at + CHUNK]))  # as those of a file's parts are
        if not chunk:
            raise StopAsyncIteration
        self._at += len(chunk)
        part.taken[self._number] += len(chunk)
        return chunk


def as_journaled(value: Stored) -> Stored:
    """What a restart finds."""
    return msgspec.json.decode(msgspec.json.encode(value), type=type(value))


class Sender:
    """One upload: every call is made by a new object of the protocol, with what the journal would have."""

    def __init__(self, trial: "Trial", name: str, content: bytes, task: str) -> None:
        self._trial = trial
        self.name, self.content, self.task = name, content, TaskId(task)
        self._part_size = 0  # not known before the capabilities are, as in the engine
        self.able = self.protocol().capabilities()
        self._part_size = trial.harness.part_size if self.able.max_parts > 1 else max(len(content), 1)
        self.grid = Grid(len(content), self._part_size)
        self.receipts: dict[int, Receipt] = {}
        self._session: Session | None = None

    def protocol(self) -> UploadProtocol:
        """A new object, as in another process."""
        harness = self._trial.harness
        job = Job(
            task=self.task,
            spec=harness.spec(self.name),
            url=harness.url(self.name),
            headers=harness.headers(),
            name=self.name,
            size=len(self.content),
            digests={},
            part_size=self._part_size,
            plan=harness.plan(self.name, len(self.content)),
        )
        needed = harness.protocol(job, self._trial.tools).capabilities().needs_digests
        digests = {algorithm: _digest(algorithm, self.content) for algorithm in needed}
        return harness.protocol(replace(job, digests=digests), self._trial.tools)

    @property
    def session(self) -> Session:
        """As the journal has it."""
        assert self._session is not None, "a check that sends has to begin"
        return as_journaled(self._session)

    @property
    def to_send(self) -> int:
        """How many parts are sent before the commit."""
        return max(0, self.grid.count - self.able.commits_with_last_part)

    def part(self, index: int, start: int | None = None) -> Offered:
        """Piece `index`, from `start` on."""
        begin, stop = self.grid.span(index) if self.grid.count else (0, 0)
        begin = begin if start is None else start
        return Offered(index, begin, self.content[begin:stop])

    @property
    def last(self) -> Offered | None:
        """The part that commits, where there is such a one."""
        return self.part(max(0, self.grid.count - 1)) if self.able.commits_with_last_part else None

    # Steps

    async def begin(self) -> Prepared:
        prepared = await self.told(self.protocol().prepare(None))
        self._session = prepared.session
        self._trial.look_for_secrets("a session", prepared)
        return prepared

    async def ask(self) -> Prepared:
        """What the server has."""
        prepared = await self.told(self.protocol().prepare(self.session))
        self._trial.look_for_secrets("what is held", prepared)
        return prepared

    async def send(self, index: int, part: Offered | None = None) -> Receipt:
        part = self.part(index) if part is None else part
        receipt = await self.told(self.protocol().send_part(self.session, part))
        self._trial.look_for_secrets("a receipt", receipt)
        self.receipts[index] = receipt
        return receipt

    async def send_all(self) -> None:
        """Begin, and send all parts but for the one that commits."""
        await self.begin()
        for index in range(self.to_send):
            await self.send(index)

    async def commit(self, last: Offered | None = None) -> dict[str, str]:
        receipts = {index: as_journaled(receipt) for index, receipt in self.receipts.items()}
        last = self.last if last is None else last
        result = await self.told(self.protocol().commit(self.session, receipts, last))
        self._trial.look_for_secrets("a result", result)
        assert all(isinstance(each, str) for pair in result.items() for each in pair), result
        return result

    async def reconcile(self) -> Reconciled:
        found = await self.told(self.protocol().reconcile(self.session))
        self._trial.look_for_secrets("a result", found)
        return found

    async def abort(self) -> None:
        await self.told(self.protocol().abort(self.session))

    async def orphans(self) -> Sequence[Orphan]:
        return await self.told(self.protocol().orphans())

    async def told(self, work: Awaitable[T]) -> T:
        """Wait for a method: it returns, or raises a refusal without secrets."""
        try:
            return await work
        except (Refused, TransportFault) as refusal:
            self._trial.look_for_secrets("a refusal", *_links(refusal))
            raise
        except Exception as error:
            raise AssertionError(
                f"{type(error).__name__} was raised: expected Refused or TransportFault"
            ) from error

    # What holds

    async def holds(self, content: bytes | None) -> None:
        """See that the server has this as the object."""
        found = await self._trial.harness.content(self.name)
        told = None if found is None else f"{len(found)} bytes"
        assert found == content, (
            f"the server has {told} as the object: expected "
            f"{'none' if content is None else f'{len(content)} bytes'}"
        )

    async def sessions_left(self, count: int) -> None:
        """See how many sessions stand there, if that can be seen."""
        try:
            found = await self._trial.harness.sessions()
        except Lacking:
            return
        assert found == count, f"{found} sessions stand at the server; expected {count}"


def _digest(algorithm: str, content: bytes) -> str:
    digest = new(algorithm)
    digest.update(content)
    return digest.hexdigest()


def _links(error: BaseException | None) -> list[object]:
    """An error, its fault, and what it was raised from."""
    found: list[object] = []
    while error is not None and len(found) < 100:  # noqa: PLR2004  # however strangely it is linked
        found += [str(error), repr(error), getattr(error, "fault", None)]
        error = error.__cause__ or error.__context__
    return found


class Trial:
    """A server that is up, and the tools that a protocol is lent."""

    def __init__(self, harness: ProtocolHarness, transport: TroubledTransport) -> None:
        self.harness = harness
        self.transport = transport
        self.tools = Tools(
            transport=transport,
            wall=wall,
            credentials=Credentials(harness.credentials(), wall),
            refreshers=Refreshers(harness.refreshers()),
            skew={},
        )
        self._random = Random(next(_NUMBERS))  # noqa: S311  # contents of tests, no secret

    @property
    def able(self) -> Capabilities:
        """Of an upload of three parts."""
        return self.upload().able

    def need(self, claim: bool, what: str) -> None:
        """Skip the check where the protocol can't do this."""
        if not claim:
            raise Lacking(f"the protocol {what}")

    def upload(self, content: bytes | None = None, *, name: str | None = None) -> Sender:
        """An upload of its own; three parts unless `content` says otherwise."""
        number = next(_NUMBERS)
        name = f"object-{number}.bin" if name is None else name
        content = self.some(3) if content is None else content
        return Sender(self, name, content, f"01HF7YAT00PR0T0C0L{number:08}")

    def some(self, parts: int) -> bytes:
        """A content of so many parts, the last of which is short; no two are the same."""
        return self._random.randbytes((parts - 1) * self.harness.part_size + 1234)

    @property
    def secrets(self) -> list[str]:
        harness = self.harness
        values = [value for _, value in parse_qsl(urlsplit(harness.url("secret")).query)]
        values += list(harness.headers().values())
        for key in harness.credentials().values():
            values += key.secrets if isinstance(key, Credential) else ()
        return [*harness.secrets, *(value for value in values if len(value) >= SHORTEST_SECRET)]

    def look_for_secrets(self, where: str, *found: object) -> None:
        text = " ".join(each if isinstance(each, str) else repr(each) for each in found)
        held = [secret for secret in self.secrets if secret in text]
        assert not held, f"{where} holds a secret: one of {len(held)} that were looked for"

    async def exchanges_of(self, work: Callable[[], Awaitable[object]]) -> int:
        """How many exchanges something makes."""
        before = len(self.transport.requests)
        await work()
        return len(self.transport.requests) - before

    async def to_harm(self, work: Callable[[], Awaitable[object]]) -> range:
        """The numbers of the exchanges that something makes, each of which can be harmed."""
        made = await self.exchanges_of(work)
        if not made:
            raise Lacking(APART)
        return range(made)


@asynccontextmanager
async def trial_of(harness: ProtocolHarness) -> AsyncIterator[Trial]:
    """Bring everything up, and take it down."""
    await harness.start()
    try:
        inner = harness.transport()
        try:
            yield Trial(harness, TroubledTransport(inner))
        finally:
            await inner.aclose()
    finally:
        with anyio.CancelScope(shield=True):
            await harness.stop()


async def refusal_of(work: Awaitable[object]) -> Fault:
    """The fault that `work` is refused with."""
    try:
        found = await work
    except (Refused, TransportFault) as refusal:
        return refusal.fault
    raise AssertionError(f"{found!r} was returned: expected a refusal")


async def lost_of(work: Awaitable[object]) -> None:
    """See that `work` says that the session is lost."""
    fault = await refusal_of(work)
    assert fault.kind is FaultKind.SESSION_LOST, f"{fault!r}: expected SESSION_LOST"
