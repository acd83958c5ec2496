"""An upload server in memory, and the protocol that talks to it: for tests of what an application uploads.

    world = World(seed=7)
    depot = world.server.depot("https://depot.example/")
    world.disk.put("/data/big.bin", content)

    async def deliver(world):
        async with world.engine() as engine:
            await engine.upload("/data/big.bin", "https://depot.example/big.bin", protocol=DepotUpload())

    world.every_crash(deliver, check)

`DepotUpload` takes the fields of `Capabilities`, so that one server can be of every kind: parts in any order
or one after the other, with offsets, with a list of parts, made by a commit or by the last part, without any
session at all. The wire is plain HTTP, so that the script of the world's server can harm it.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec
from msgspec import Struct

from meowcat.core.retry import parse_retry_after
from meowcat.core.sessions import Capabilities, Held, Receipt, Session
from meowcat.core.transfers import ProtocolSpec
from meowcat.core.values import Fault, FaultKind
from meowcat.protocols.contract import Orphan, Outcome, Part, Prepared, Reconciled, Refused, UploadProtocol
from meowcat.protocols.wire import Reply, call
from meowcat.testing.exchanges import Answered, Seen
from meowcat.transport.contract import HttpRequest

Kind = TypeVar("Kind")

__all__ = ["Begun", "Depot", "DepotProtocol", "DepotUpload", "Stored"]

TASK, UPLOAD, SIZE = "x-depot-task", "x-depot-upload", "x-depot-size"
OFFSET, SHA256, MD5 = "x-depot-offset", "x-depot-sha256", "x-depot-md5"


def md5(content: bytes) -> str:
    """In hexadecimal: what the depot's ETags are."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


OK, CREATED, NO_CONTENT, REFUSED, UNKNOWN, CONFLICT = 200, 201, 204, 400, 404, 409
GOOD = (OK, CREATED, NO_CONTENT)


class Listed(Struct):
    """What a depot says of an upload."""

    parts: dict[int, tuple[int, str]]
    """The size and the MD5 of each that came in full."""
    offset: int
    """Bytes from the beginning, where they come by offsets."""


# The server


@dataclass
class Begun:
    """An upload under way."""

    url: str
    task: str
    """Whose it is, as the client said."""
    size: int
    """Of the whole, as the client said."""
    md5: str = ""
    """Of the whole, where the client said it."""
    parts: dict[int, bytes] = field(default_factory=dict)
    """Those that came in full, by index."""
    content: bytearray = field(default_factory=bytearray)
    """What came from the beginning, where it comes by offsets."""

    @property
    def whole(self) -> bytes:
        """What came, joined."""
        return bytes(self.content) or b"".join(self.parts[index] for index in sorted(self.parts))


@dataclass(frozen=True)
class Stored:
    """An object that was made."""

    content: bytes
    task: str
    upload: str
    """The upload that it was made of; "" where it came in one request."""


class Depot:
    """Keeps uploads and objects; a handler of a `ScriptedServer`.

    Attributes:
        uploads: those under way, by their ids.
        objects: by URL, without its query.
        made: whose task's each object was that was made, in order, also those that others replaced.
        taken: the upload and the index of each part that came in full, in order.

    """

    def __init__(self) -> None:
        self.uploads: dict[str, Begun] = {}
        self.objects: dict[str, Stored] = {}
        self.made: list[str] = []
        self.taken: list[tuple[str, int]] = []
        self._begun = 0

    def __call__(self, seen: Seen, url: str, body: bytes) -> Answered | None:
        place, _, query = url.partition("?")
        asked = dict(parse_qsl(query, keep_blank_values=True))
        if "upload" in asked:
            return self._of_upload(seen, place, asked, body)
        if not seen.complete:
            return REFUSED, {}, b""
        if "begin" in asked:
            return self._begin(seen, place)
        if "uploads" in asked:
            names = [name for name, each in self.uploads.items() if each.url == place]
            return OK, {}, msgspec.json.encode(names)
        if seen.method == "PUT":
            return self._make(place, Stored(body, seen.headers.get(TASK, ""), ""))
        stored = self.objects.get(place)
        if stored is not None and seen.method == "HEAD":
            return OK, {"ETag": f'"{md5(stored.content)}"', TASK: stored.task, UPLOAD: stored.upload}, b""
        return None

    def _begin(self, seen: Seen, place: str) -> Answered:
        """A new upload; or the one that stands of the same content, where a digest says that it is."""
        begun = Begun(
            place, seen.headers.get(TASK, ""), int(seen.headers.get(SIZE, "0")), seen.headers.get(MD5, "")
        )
        for name, each in self.uploads.items():
            if begun.md5 and (each.url, each.md5) == (place, begun.md5):
                return CREATED, {UPLOAD: name, OFFSET: str(len(each.content))}, b""
        self._begun += 1
        self.uploads[f"u{self._begun}"] = begun
        return CREATED, {UPLOAD: f"u{self._begun}"}, b""

    def _of_upload(self, seen: Seen, place: str, asked: Mapping[str, str], body: bytes) -> Answered:
        name = asked["upload"]
        begun = self.uploads.get(name)
        if begun is None or begun.url != place:
            return UNKNOWN, {}, b"no such upload"
        if seen.method == "PUT":
            return self._take(seen, name, begun, asked, body)
        if not seen.complete:
            return REFUSED, {}, b""
        if seen.method == "DELETE":
            del self.uploads[name]
            return NO_CONTENT, {}, b""
        if seen.method == "POST":
            return self._commit(name, begun, msgspec.json.decode(body))
        parts = {index: (len(part), md5(part)) for index, part in begun.parts.items()}
        return OK, {}, msgspec.json.encode(Listed(parts, len(begun.content)))

    def _take(self, seen: Seen, name: str, begun: Begun, asked: Mapping[str, str], body: bytes) -> Answered:
        expected = seen.headers.get(SHA256)
        index = int(asked["part"])
        if "at" in asked:
            if int(asked["at"]) != len(begun.content):
                return CONFLICT, {}, str(len(begun.content)).encode()
            begun.content += body  # also where the rest of it is missing
        if not seen.complete:
            return REFUSED, {}, b""
        if expected is not None and hashlib.sha256(body).hexdigest() != expected:
            return REFUSED, {}, b"checksum"
        if "at" not in asked:
            begun.parts[index] = body
        self.taken.append((name, index))
        if "last" in asked:
            return self._commit(name, begun, None)
        return OK, {"ETag": f'"{md5(body)}"'}, b""

    def _commit(self, name: str, begun: Begun, etags: Any) -> Answered:
        there = {str(index): md5(part) for index, part in begun.parts.items()}
        if len(begun.whole) != begun.size or (etags is not None and not begun.content and etags != there):
            return CONFLICT, {}, b"parts are missing, or are others"
        del self.uploads[name]
        return self._make(begun.url, Stored(begun.whole, begun.task, name))

    def _make(self, place: str, stored: Stored) -> Answered:
        self.objects[place] = stored
        self.made.append(stored.task)
        return OK, {"ETag": f'"{md5(stored.content)}"'}, b""


# The client


class DepotUpload:
    """What users choose the protocol by: `DepotUpload(any_order=False, server_offset=True)`.

    `capabilities` are fields of `Capabilities`: what this depot can do.
    """

    def __init__(self, **capabilities: Any) -> None:
        self._fields = capabilities
        able_of(capabilities)  # which refuses what there is not

    def spec(self) -> ProtocolSpec:
        """As it is stored."""
        return ProtocolSpec(DepotProtocol.tag, DepotProtocol.version, self._fields)


def able_of(fields: Mapping[str, Any]) -> Capabilities:
    """The capabilities that a spec's fields make; `needs_digests` is a text, with commas."""
    known = dict(fields)
    known["needs_digests"] = tuple(filter(None, str(fields.get("needs_digests", "")).split(",")))
    if not known.get("session", True):
        known |= {"max_parts": 1, "commits_with_last_part": True, "lists_parts": False}
    return Capabilities(**known)


class DepotProtocol(UploadProtocol):
    """Uploads to a `Depot`."""

    tag = "depot"

    def capabilities(self) -> Capabilities:
        return able_of(self.job.spec.fields)

    async def prepare(self, session: Session | None) -> Prepared:
        able = self.capabilities()
        if session is not None:
            return await self._ask(session)
        if not able.session:
            return Prepared(session=Session(id="", capabilities=able))
        marks = {TASK: self.job.task, SIZE: str(self.job.size)}
        if able.server_offset and "md5" in self.job.digests:
            marks[MD5] = self.job.digests["md5"]
        reply = await self._call("POST", {"begin": ""}, marks)
        name, offset = reply.header(UPLOAD), reply.header(OFFSET) or "0"
        if not name or not offset.isdecimal():
            raise Refused(nonsense("a new upload without its name or with an offset that is none"))
        return Prepared(session=Session(id=name, capabilities=able), offset=int(offset))

    async def _ask(self, session: Session) -> Prepared:
        if not session.capabilities.session:
            return Prepared(session=session)
        reply = await self._call("GET", {"upload": session.id})
        listed = decoded(reply, Listed)
        if session.capabilities.server_offset:
            return Prepared(session=session, offset=listed.offset)
        if not session.capabilities.lists_parts:
            return Prepared(session=session)
        held = {
            index: Held(size=size, receipt=Receipt(text=f'"{digest}"'), md5=digest)
            for index, (size, digest) in listed.parts.items()
        }
        return Prepared(session=session, held=held)

    async def send_part(self, session: Session, part: Part) -> Receipt:
        reply = await self._put(session, part)
        return Receipt(text=reply.header("etag") or "")

    async def _put(self, session: Session, part: Part, **more: str) -> Reply:
        able = session.capabilities
        query = {"upload": session.id, "part": str(part.index)} if able.session else {}
        headers: dict[str, str] = {} if able.session else {TASK: self.job.task}
        if able.server_offset:
            query["at"] = str(part.start)
        if able.part_checksum == "sha256":
            headers[SHA256] = await part.checksum("sha256")
        return await self._call("PUT", query | more, headers, part)

    async def commit(
        self, session: Session, receipts: Mapping[int, Receipt], last: Part | None
    ) -> dict[str, str]:
        if last is not None:
            reply = await self._put(session, last, **({"last": ""} if session.capabilities.session else {}))
        else:
            etags = {str(index): receipt.text.strip('"') for index, receipt in receipts.items()}
            reply = await self._call("POST", {"upload": session.id}, {}, msgspec.json.encode(etags))
        return {"etag": reply.header("etag") or ""}

    async def reconcile(self, session: Session) -> Reconciled:
        head = await self._send("HEAD", {}, {}, None)
        if head.status not in (OK, UNKNOWN):
            raise Refused(classify(head))
        ours = (head.header(TASK), head.header(UPLOAD) or "") == (self.job.task, session.id)
        if head.status == OK and ours:
            return Reconciled(outcome=Outcome.COMMITTED, result={"etag": head.header("etag") or ""})
        if not session.capabilities.session:
            return Reconciled(outcome=Outcome.NOT_COMMITTED)
        there = await self._send("GET", {"upload": session.id}, {}, None)
        if there.status not in (OK, UNKNOWN):
            raise Refused(classify(there))
        return Reconciled(outcome=Outcome.NOT_COMMITTED if there.status == OK else Outcome.LOST)

    async def abort(self, session: Session) -> None:
        gone = await self._send("DELETE", {"upload": session.id}, {}, None)
        if gone.status not in (NO_CONTENT, UNKNOWN):
            raise Refused(classify(gone))

    async def orphans(self) -> list[Orphan]:
        reply = await self._call("GET", {"uploads": ""})
        return [Orphan(id=name) for name in decoded(reply, list[str])]

    async def _call(
        self,
        method: str,
        query: Mapping[str, str],
        headers: Mapping[str, str] | None = None,
        content: Part | bytes | None = None,
    ) -> Reply:
        reply = await self._send(method, query, headers or {}, content)
        if reply.status not in GOOD:
            raise Refused(classify(reply))
        return reply

    async def _send(
        self,
        method: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        content: Part | bytes | None,
    ) -> Reply:
        parts = urlsplit(self.job.url)
        url = parts._replace(query="&".join(filter(None, [parts.query, urlencode(query)]))).geturl()
        body, size = body_of(content)
        request = HttpRequest(method, url, {**self.job.headers, **headers}, body, size)
        return await call(self.tools.transport, request)


def body_of(content: Part | bytes | None) -> tuple[Callable[[], Any] | None, int | None]:
    """A request's body, and its length."""
    if content is None or (size := len(content) if isinstance(content, bytes) else content.size) == 0:
        return None, None
    if not isinstance(content, bytes):
        return content.body, size

    async def once() -> Any:
        yield content

    return once, size


def decoded(reply: Reply, kind: type[Kind]) -> Kind:
    """A reply's body as what it should be."""
    try:
        return msgspec.json.decode(reply.body, type=kind)
    except msgspec.DecodeError as error:
        raise Refused(nonsense(f"{len(reply.body)} bytes that are no {kind.__name__}")) from error


def nonsense(what: str) -> Fault:
    return Fault(kind=FaultKind.REPLY, detail=f"the depot answered with {what}: is it one?")


def classify(reply: Reply) -> Fault:
    """What a reply means that is not the one hoped for."""
    if reply.status == UNKNOWN:
        detail = "the depot does not know the upload any more; it begins anew"
        return Fault(kind=FaultKind.SESSION_LOST, detail=detail)
    if reply.status == REFUSED and reply.body == b"checksum":
        return Fault(kind=FaultKind.CHECKSUM, detail="the depot got other bytes than were sent")
    retry_after = parse_retry_after(reply.header("retry-after"), reply.header("date"), None)
    detail = f"the depot answered {reply.status}"
    return Fault(kind=FaultKind.STATUS, detail=detail, status=reply.status, retry_after=retry_after)
