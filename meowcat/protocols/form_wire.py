"""The requests and replies of the default upload protocol, as values: `docs/reference/form-upload.md`."""

import re
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from urllib.parse import quote, unquote, unquote_plus, urlsplit

import msgspec
from msgspec import Struct

from meowcat.core.harmless import harmless_header, harmless_parameter
from meowcat.core.retry import parse_retry_after
from meowcat.core.transfers import FRAMING
from meowcat.core.urls import HIDDEN, redact, scrub
from meowcat.core.values import Fault, FaultKind
from meowcat.protocols.contract import Job, Part
from meowcat.protocols.wire import Reply
from meowcat.transport.bodies import let_go
from meowcat.transport.contract import Chunk, HttpRequest

_OWN = FRAMING | {"content-type"}
"""Fields that describe the body, which is made here."""

# All names are fixed and plain, so that none needs the percent-encoding of HTML's multipart/form-data. Values
# are sent as they are, in UTF-8: a file name keeps its quotes and line breaks.
_TEXT = 'Content-Disposition: form-data; name="{}"'
_FILE = (
    'Content-Disposition: form-data; name="file"; filename="upload_chunk_data"\r\n'
    "Content-Type: application/octet-stream"
)

_CONFLICT = 409

_QUOTED = 200
"""Characters of a server's own words that a fault shows."""

_SHORT_WORD = 6
"""Characters: a shorter word is no secret, and hiding it would black out half of a text."""


class Answer(Struct, frozen=True, rename="camel"):
    """What the server says in a reply to any request. Further fields are passed over."""

    next_byte: int | None = None
    file_id: str | None = None


def decode(reply: Reply) -> Answer:
    """What a reply says; an empty one says nothing.

    Raises:
        msgspec.MsgspecError: it is no JSON, or has something else in these fields.
    """
    return msgspec.json.decode(reply.body.strip() or b"{}", type=Answer)


def conflict(reply: Reply) -> Answer | None:
    """What a server says that refuses a misplaced chunk with 409, and tells where it is."""
    if reply.status != _CONFLICT:
        return None
    try:
        has = decode(reply).next_byte
    except msgspec.MsgspecError:
        return None
    return None if has is None else Answer(next_byte=has)


class Rest:
    """What of a part follows byte `start` of the whole."""

    def __init__(self, part: Part, start: int) -> None:
        self._part = part
        self._skipped = start - part.start
        self.start = start
        self.size = part.size - self._skipped

    async def body(self) -> AsyncIterator[Chunk]:
        left = self._skipped
        chunks = self._part.body()
        try:
            async for chunk in chunks:
                if len(chunk) > left:
                    yield chunk[left:]
                left = max(0, left - len(chunk))
        finally:
            await let_go(chunks)


def form_request(job: Job, method: str, category: str, part: Part | Rest | None = None) -> HttpRequest:
    """The request that brings `part`; without one, the request that prepares the upload.

    The order is that of the seed's requests: a server that reads them as a stream has the bytes first.
    """
    boundary = boundary_of(job)
    named = {"fileMd5": job.digests["md5"], "fileName": job.name, "category": category}
    if part is not None:
        named |= {"offset": str(part.start), "partSize": str(part.size)}
    named["totalSize"] = str(job.size)
    texts = "".join(f"{_opening(boundary, _TEXT.format(name))}{value}\r\n" for name, value in named.items())
    end = f"{texts}--{boundary}--\r\n".encode()
    before, after = (b"", end) if part is None else (_opening(boundary, _FILE).encode(), b"\r\n" + end)

    async def body() -> AsyncIterator[Chunk]:
        if part is not None:
            yield before
            chunks = part.body()
            try:
                async for chunk in chunks:
                    yield chunk
                    del chunk  # so that its memory is free by the time that the next one is asked for
            finally:
                await let_go(chunks)
        yield after

    headers = {name: value for name, value in job.headers.items() if name.lower() not in _OWN}
    headers["Content-Type"] = f"multipart/form-data; boundary={boundary}"
    length = len(before) + len(after) + (0 if part is None else part.size)
    return HttpRequest(method, job.url, headers, body, length)


def boundary_of(job: Job) -> str:
    """A line that the content can't hold: it would have to hold a hash of its own hash.

    The same for all requests of a task, so that a request that is repeated is the same to the byte.
    """
    named = f"{job.task} {job.digests['md5']}"
    return f"meowcat-{sha256(named.encode()).hexdigest()[:40]}"


def _opening(boundary: str, fields: str) -> str:
    return f"--{boundary}\r\n{fields}\r\n\r\n"


def classify(reply: Reply, job: Job, now: int) -> Fault:
    """What a status that is no success means, and what to do about it."""
    meaning = _MEANINGS.get(reply.status)
    if meaning is None and reply.status in range(300, 400):
        place = redact(reply.header("location") or "")
        meaning = f"it redirects to {place or 'nowhere'}; uploads follow no redirect: give the final URL"
    meaning = meaning or "expected 200 with what it has"
    return Fault(
        kind=FaultKind.STATUS,
        status=reply.status,
        detail=f"the server answered {reply.status}: {meaning}{quoted(reply, job)}",
        retry_after=parse_retry_after(reply.header("retry-after"), reply.header("date"), now),
    )


_MEANINGS = {
    400: "it does not understand the request; the URL may be another kind of endpoint than a form upload's",
    401: "it wants credentials; give an Authorization header",
    403: "it forbids the upload; the credentials may be wrong",
    404: "there is nothing at this URL; check it",
    405: "it does not take this method; FormUpload(method=…) chooses another",
    408: "it did not get the request in time; tried again later",
    409: "it is in conflict with the upload, and does not say where to go on",
    411: "it wants another framing of the request than a Content-Length",
    413: "the request is too large for it; choose a smaller piece_size, or raise its limit",
    415: "it takes no multipart/form-data",
    422: "it does not accept what was announced or sent; the content may have arrived damaged",
    429: "too many requests; tried again later",
    503: "it is not available now; tried again later",
    507: "it has no room left",
}


def quoted(reply: Reply, job: Job) -> str:
    """The server's own words, short, on one line, and without what was secret in the request."""
    if "html" in (reply.header("content-type") or "").lower():
        return ""  # a page for people, of some proxy
    text = reply.body[: _QUOTED * 8].decode("utf-8", "replace").replace("\\/", "/")  # as some JSON has it
    text = "".join(char if char.isprintable() else " " for char in without_secrets(text, job))
    text = " ".join(text.split())
    if not text:
        return ""
    return f'; it says: "{text[:_QUOTED]}{"…" if len(text) > _QUOTED else ""}"'


def without_secrets(text: str, job: Job) -> str:
    """What a server says, without what was secret in the request, and without the secrets of any URL."""
    for word in sorted(_secrets(job), key=len, reverse=True):
        text = text.replace(word, HIDDEN)
    return scrub(text)


def _secrets(job: Job) -> Iterator[str]:
    """The words that servers may echo: of the caller's headers, of the URL's query and its userinfo; but for
    what is stored anyway."""
    parts = urlsplit(job.url)
    headers = (value for name, value in job.headers.items() if not harmless_header(name))
    for text in (*headers, *_secret_parameters(parts.query), parts.netloc.rpartition("@")[0]):
        for each in re.split(r"[\s;,=&:]+", text):
            if len(each) >= _SHORT_WORD:
                yield each
                yield unquote(each)
                yield quote(each, safe="")


def _secret_parameters(query: str) -> Iterator[str]:
    for each in query.split("&"):
        name, _, value = each.partition("=")
        if not harmless_parameter(unquote_plus(name), unquote_plus(value)):
            yield value or name
