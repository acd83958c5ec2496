"""What a protocol is to the code that moves bytes.

A download protocol turns "these bytes of that content" into a reply with a verdict; an upload protocol takes
"these bytes of that source" to a server and says what it has confirmed. All else (which bytes are missing,
how many requests run, what is recorded, what a failure leads to) is the same for every protocol and lives in
`meowcat.transfer` and `meowcat.core`.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import ClassVar, Protocol, runtime_checkable

from msgspec import Struct, field

from meowcat.core.http_rules import Asked, Verdict
from meowcat.core.pieces import IntervalSet
from meowcat.core.sessions import Capabilities, Held, Receipt, Session
from meowcat.core.transfers import Download, ProtocolSpec, Settings
from meowcat.core.values import Checksum, TaskId
from meowcat.protocols.credentials import Credentials
from meowcat.protocols.refreshers import Refreshers
from meowcat.protocols.refused import Refused
from meowcat.transport.contract import Chunk, Pours, Transport

__all__ = [
    "Answer",
    "Asking",
    "DownloadJob",
    "DownloadProtocol",
    "Job",
    "Orphan",
    "Outcome",
    "Part",
    "Pouring",
    "Prepared",
    "Reconciled",
    "Refused",
    "Settings",
    "Tools",
    "UploadProtocol",
]


NOTHING = IntervalSet()


class Answer(Protocol):
    """The head of a reply, judged, and its body as a stream."""

    @property
    def verdict(self) -> Verdict:
        """What the reply is, and where its bytes belong: the only thing that places bytes."""

    @property
    def digest(self) -> Checksum | None:
        """Of this reply's own body, where the server sent one."""

    async def read(self, size: int) -> Chunk:
        """As `HttpReply.read`: up to `size` bytes, b"" at the end that the server meant.

        Raises:
            TransportFault: the body broke off, or fell silent.
        """


@runtime_checkable
class Pouring(Protocol):
    """What an `Answer` may be besides: one whose body can be read by a thread."""

    @property
    def pours(self) -> Pours | None:
        """The reply, if its length is known and its transport can."""


class Asking(Protocol):
    """A request under way: `async with asking as answer`. Leaving the block stops what is left of it.

    Raises:
        TransportFault: no answer came. Refused: it could not be asked: there is no credential, say.
    """

    async def __aenter__(self) -> Answer: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True)
class Tools:
    """What the engine lends to a protocol. Lives as long as the engine."""

    transport: Transport
    wall: Callable[[], int]
    """Milliseconds since 1970 UTC."""
    credentials: Credentials
    """By name; refreshed before they end."""
    refreshers: Refreshers
    """Fresh presigned plans, by name."""
    skew: dict[str, int]
    """By endpoint (`host_of`): by how many milliseconds its clock is ahead of ours, once it has told."""


class DownloadJob(Struct, frozen=True, gc=False):
    """One download, as its protocol sees it."""

    task: TaskId
    request: Download
    """As it is stored."""
    url: str
    """With its secrets."""
    headers: Mapping[str, str]
    """The caller's, with their secrets."""
    plan: object | None = None
    """What else was handed in and is never stored: a presigned plan."""


class DownloadProtocol(ABC):
    """How the bytes of one content are asked for. One object serves one operation of one task."""

    tag: ClassVar[str]
    """The protocol's name, in journals for ever."""
    version: ClassVar[int] = 1
    """Of the fields of its spec."""

    def __init__(self, job: DownloadJob, tools: Tools) -> None:
        self.job = job
        self.tools = tools

    @classmethod
    def resolve(
        cls,
        url: str,
        spec: ProtocolSpec,
        plan: object | None = None,  # noqa: ARG003  # a default
    ) -> tuple[str, ProtocolSpec]:
        """As `UploadProtocol.resolve`."""
        return url, spec

    @classmethod
    def needs(cls, spec: ProtocolSpec) -> tuple[str, ...]:  # noqa: ARG003  # a default
        """As `UploadProtocol.needs`."""
        return ()

    @property
    def looks_first(self) -> bool:
        """Whether to ask `look` before the first request for bytes."""
        return False

    def look(self) -> Asking:
        """Ask for the head alone. What it does not answer, the first request for bytes will."""
        raise NotImplementedError

    @abstractmethod
    def ask(self, asked: Asked) -> Asking:
        """Ask for bytes. `Asked(0, None, …)` asks for all of the content in one reply, without a range."""


@dataclass(frozen=True)
class Job:
    """One upload, as its protocol sees it."""

    task: TaskId
    """Also the marker that proves an object or a session to be ours."""
    spec: ProtocolSpec
    url: str
    """With its secrets."""
    headers: Mapping[str, str]
    """The caller's, with their secrets."""
    name: str
    """Of the source: a file's name without its folder."""
    size: int
    """Bytes."""
    digests: Mapping[str, str]
    """Of the whole, by algorithm, in hexadecimal: at least those of `Capabilities.needs_digests`."""
    part_size: int = 0
    """Bytes in a part but for the last, once it is chosen; 0 before."""
    plan: object | None = None
    """What else was handed in and is never stored: a presigned plan."""
    confirmed: IntervalSet = NOTHING
    """The parts, by index, that were confirmed and recorded when the operation began."""
    receipts: Mapping[int, Receipt] | None = None
    """What the server said of them: in the operation that commits, and in one that removes what was sent, to
    tell whose object stands there. None elsewhere, and where there are none to remove."""


class Part(Protocol):
    """Consecutive bytes of the source, to be sent by one request."""

    @property
    def index(self) -> int:
        """0 for the first; a provider's part numbers usually begin at 1."""

    @property
    def start(self) -> int:
        """The offset of its first byte in the whole."""

    @property
    def size(self) -> int:
        """Bytes."""

    async def checksum(self, algorithm: str) -> str:
        """In hexadecimal, of what `body` yields.

        Raises:
            Refused: SOURCE_CHANGED, or what reading it met.
        """

    def body(self) -> AsyncIterator[Chunk]:
        """The bytes, in chunks; may be called again, and yields the same bytes or raises `Refused`.

        A chunk is `bytes`, or a view of memory that is used again as soon as nobody holds it any more.
        """


class Prepared(Struct, frozen=True, kw_only=True):
    """What `UploadProtocol.prepare` found or made."""

    session: Session
    held: dict[int, Held] = field(default_factory=dict)
    """The parts that the server has, by index."""
    offset: int = 0
    """Bytes that the server has from the beginning, where it speaks of an offset."""
    done: dict[str, str] | None = None
    """The object is there already, complete: what `commit` would have returned. Nothing is sent."""


class Outcome(StrEnum):
    """What `UploadProtocol.reconcile` found out about a commit whose reply was lost."""

    COMMITTED = "committed"
    NOT_COMMITTED = "not-committed"
    """Certainly not, and the session is as it was: the commit can be sent again."""
    LOST = "lost"
    """Not committed, and the session may not be as it was: `prepare` is asked anew what there still is."""


class Reconciled(Struct, frozen=True, kw_only=True):
    outcome: Outcome
    result: dict[str, str] = field(default_factory=dict)
    """As `commit` returns it, where it was committed."""


class UploadProtocol(ABC):
    """How the bytes of one source get to a server. One object serves one operation of one task.

    Everything raises `Refused` or `TransportFault`, whose `Fault` decides what happens: the same rules as for
    all transfers (`core.retry`). A protocol retries nothing itself, but for what costs no attempt: a
    credential that was refreshed, a clock that was corrected. No text of its faults holds a secret.
    """

    tag: ClassVar[str]
    """The protocol's name, in journals for ever."""
    version: ClassVar[int] = 1
    """Of the fields of its spec."""
    owns_url: ClassVar[bool] = True
    """Whether the URL names one object, so that only one live task may upload to it; otherwise the URL is an
    endpoint for many."""
    removes: ClassVar[bool] = True
    """Whether what was sent and not committed can be removed, where something of it stays at the server;
    otherwise the server drops it in its own time, and `orphans` tells of it."""

    def __init__(self, job: Job, tools: Tools) -> None:
        self.job = job
        self.tools = tools

    @classmethod
    def resolve(cls, url: str, spec: ProtocolSpec, plan: object | None = None) -> tuple[str, ProtocolSpec]:  # noqa: ARG003  # a default
        """Check what a user asks for, and make of it what is stored: an http(s) URL, and complete fields.

        `plan` is what came with the settings and is never stored.

        Raises:
            InvalidArgument: names the field, the value and what is expected.
        """
        return url, spec

    @classmethod
    def needs(cls, spec: ProtocolSpec) -> tuple[str, ...]:  # noqa: ARG003  # a default
        """What must be registered before anything is sent, by name: `credential:NAME`, `refresher:NAME`."""
        return ()

    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What can be done for this job. No I/O."""

    @abstractmethod
    async def prepare(self, session: Session | None) -> Prepared:
        """Create a session; or ask what the server has of the one that is known.

        Raises:
            Refused: SESSION_LOST where the server does not know the session any more.
        """

    @abstractmethod
    async def send_part(self, session: Session, part: Part) -> Receipt:
        """Send one part; returns once the server has confirmed it."""

    @abstractmethod
    async def commit(
        self, session: Session, receipts: Mapping[int, Receipt], last: Part | None
    ) -> dict[str, str]:
        """Make the object of all parts; `last` is the one that commits, where there is such a one.

        Returns:
            What is worth remembering of the object (`etag`, `version_id` …).
        """

    @abstractmethod
    async def reconcile(self, session: Session) -> Reconciled:
        """Ask the server whether a commit took place whose outcome is unknown. Changes nothing there."""

    @abstractmethod
    async def abort(self, session: Session) -> None:
        """Remove the session, and return once the server says that it is gone. Never touches an object."""

    async def orphans(self) -> "Sequence[Orphan]":
        """Sessions at the server for this job's object, whoever opened them; or, where nothing `removes` what
        was sent, that."""
        return ()


class Orphan(Struct, frozen=True, kw_only=True):
    """A session that stands at a server."""

    id: str
    begun: int | None = None
    """Milliseconds since 1970 UTC, where the server says so."""
    ours: bool = False
    """Whether something in it proves that it is of the job's task."""
    detail: str = ""
    """What becomes of it by itself, where the server does something about it."""
