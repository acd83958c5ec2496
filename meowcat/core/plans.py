"""Presigned plans: what a back end that holds the credentials hands to those that move the bytes.

A plan is full of signed URLs, so it lives in memory alone. What is journaled of it is its `Fingerprint`; a
plan that is signed anew later on has to have the same one. The rules here know no provider: the same plan
works for S3, OSS, Azure Blob and a server of one's own.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import cached_property
from typing import Protocol
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from meowcat.core.errors import InvalidArgument
from meowcat.core.pieces import MAX_SIZE
from meowcat.core.transfers import Direction, check_header
from meowcat.core.urls import check_url, identity, redact

__all__ = [
    "DownloadPlan",
    "Fingerprint",
    "PlanPart",
    "PlanRequest",
    "UploadPlan",
    "UploadedPart",
    "check_fit",
    "expires_of",
    "read_plan",
    "stale",
]

_OF_A_PART = frozenset({"partnumber", "uploadid", "blockid", "comp"})
"""Query parameters that tell the parts of one object apart, or its uploads, and not the object."""

_MAX_TEXT = 1024
"""Characters of an upload id or a part id: S3's have up to a few hundred."""


class Signed(Protocol):
    """What has a signed URL."""

    @property
    def url(self) -> str: ...

    @property
    def headers(self) -> dict[str, str]: ...

    @property
    def expires(self) -> int | None: ...


class _Hidden(Struct, frozen=True):
    """Shows of a plan what is no secret, also to `rich`, which would ask msgspec for all of the fields."""

    def _shown(self) -> str:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._shown()})"

    def __rich_repr__(self) -> list[tuple[str, str]]:
        return [("shows", self._shown())]


def read_plan(data: bytes, direction: Direction) -> "UploadPlan | DownloadPlan":
    """A back end's plan, out of its JSON.

    Raises:
        InvalidArgument: it is none. The text itself is not shown, for its URLs are signed.
    """
    kind: type[UploadPlan | DownloadPlan] = UploadPlan if direction == "upload" else DownloadPlan
    try:
        plan = msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidArgument(f"plan: expected the JSON of an {kind.__name__}: {error}") from None
    plan.validate()
    return plan


class PlanRequest(_Hidden, frozen=True):
    """One request that ends an upload, one way or the other, or that asks about its object."""

    method: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)
    """Sent exactly so: where they were signed, no other will do."""
    body: bytes | None = None
    """None: what the plan's completion-body builder makes, for `complete`; nothing, for the others."""
    expires: int | None = None
    """Milliseconds since 1970 UTC; None: what the URL itself says (`expires_of`), if it does."""

    def _shown(self) -> str:
        return f"{self.method} {redact(self.url)}"


class PlanPart(_Hidden, frozen=True):
    """Where one part of the content is sent."""

    number: int
    """The provider's; consecutive in the order of the offsets."""
    offset: int
    """Of its first byte in the whole."""
    size: int
    """Bytes."""
    url: str
    headers: dict[str, str] = field(default_factory=dict)
    """Sent exactly so: where they were signed, no other will do."""
    expires: int | None = None
    """Milliseconds since 1970 UTC; None: what the URL itself says (`expires_of`), if it does."""
    part_id: str | None = None
    """The provider's name of the part where it is not its number: the id of an Azure block."""
    method: str = "PUT"

    def _shown(self) -> str:
        return f"{self.number}: {self.size} bytes at {self.offset}, {self.method} {redact(self.url)}"


class UploadedPart(Struct, frozen=True):
    """A part that a server has confirmed. Holds no secret: an application may keep it wherever it likes."""

    number: int
    offset: int
    size: int
    """Bytes."""
    etag: str = ""
    """As the server sent it, with its quotes; "" where it sent none."""
    part_id: str | None = None
    checksum: str | None = None
    """`algorithm:value` of the part's content, where one is known."""


class Fingerprint(Struct, frozen=True):
    """What a plan is about, without its secrets: what is journaled of it, and what every later plan of the
    same transfer has to have, too."""

    object: str
    """`identity` of the object's URL, or the plan's own."""
    size: int | None
    """Bytes in all; None where the plan of a download does not say."""
    chunk: int = 0
    """Bytes in each part but the last; 0 for a download."""
    count: int = 0
    """Parts."""
    first: int = 1
    """The number of the first part; the others follow on it."""
    upload_id: str = ""
    completes: bool = False
    aborts: bool = False


class UploadPlan(_Hidden, frozen=True, kw_only=True, dict=True):
    """Where and how each part of one content is sent, and what makes an object of them.

    JSON from a back end becomes a plan by `msgspec.json.decode(data, type=UploadPlan)`.
    """

    total_size: int
    """Bytes."""
    chunk_size: int
    """Bytes in each part but the last."""
    parts: tuple[PlanPart, ...] = ()
    upload_id: str = ""
    """Of the multipart upload that the back end opened. It is journaled, and is no secret where the URLs are
    signed."""
    metadata: dict[str, str] = field(default_factory=dict)
    """Handed back to the back end with the completion."""
    complete: PlanRequest | None = None
    """Makes the object. Without it the upload ends when all parts are there."""
    abort: PlanRequest | None = None
    """Drops the upload. Without it a cancel leaves at the server what is there."""
    check: PlanRequest | None = None
    """HEAD of the object: how it is told whether a `complete` took place whose reply was lost."""
    proof: dict[str, str] = field(default_factory=dict)
    """Headers that the reply to `check` has where the object is this upload's: a marker that the back end put
    into its metadata. Without it an object counts that has the right size and came since the beginning."""
    completion: str = "default"
    """The name of what makes the body of `complete`: `default`, `s3-xml`, `oss-xml`, `azure-block-list`, or
    one that the application registered."""
    refresh_before: float = 60.0
    """Seconds before its end that a URL is replaced."""
    identity: str | None = None
    """What the object is called, where URLs of later plans may have other hosts or paths; no secret."""
    resumed: tuple[UploadedPart, ...] = ()
    """Parts that the server has already: `with_resumed_parts`."""

    def _shown(self) -> str:
        return f"{self.total_size} bytes in {len(self.parts)} parts of {self.chunk_size}, {self.object}"

    @property
    def object(self) -> str:
        """What is uploaded to: without a secret, and the same for every plan of one object."""
        if self.identity is not None:
            return self.identity
        address = self.parts[0].url if self.parts else self.complete.url if self.complete else ""
        return _object(address)

    @cached_property
    def fingerprint(self) -> Fingerprint:
        return Fingerprint(
            object=self.object,
            size=self.total_size,
            chunk=self.chunk_size,
            count=len(self.parts),
            first=min((part.number for part in self.parts), default=1),
            upload_id=self.upload_id,
            completes=self.complete is not None,
            aborts=self.abort is not None,
        )

    @cached_property
    def ordered(self) -> tuple[PlanPart, ...]:
        """The parts in the order of their offsets."""
        return tuple(sorted(self.parts, key=lambda part: part.offset))

    def validate(self) -> None:
        """See that the plan sends each byte once, before one is sent.

        Raises:
            InvalidArgument: names the part, the value, and what is expected.
        """
        _check_kinds("upload plan", self)
        for wrong in _wrong_with_upload(self):
            raise InvalidArgument(f"upload plan: {wrong}")

    def with_resumed_parts(self, uploaded: Iterable[UploadedPart]) -> "UploadPlan":
        """The same plan, where the server has parts already, as an earlier run elsewhere noted.

        Taken over is the longest run from the beginning that fits this plan: a part with another offset or
        size, or a gap, ends it, and what lies behind is sent again. Of two with one number the later counts.
        The engine compares each with the source where its ETag is an MD5 or it has a checksum, and sends
        again what it can't compare. Of its own uploads the engine knows more, from the journal: they need
        nothing of this.
        """
        known = {part.number: part for part in uploaded}
        kept: list[UploadedPart] = []
        for part in self.ordered:
            found = known.get(part.number)
            if found is None or (found.offset, found.size) != (part.offset, part.size):
                break
            kept.append(found)
        return replace(self, resumed=tuple(kept))


class DownloadPlan(_Hidden, frozen=True, kw_only=True):
    """Where a content is fetched from.

    JSON from a back end becomes a plan by `msgspec.json.decode(data, type=DownloadPlan)`.
    """

    url: str
    """Of GET, with and without a Range."""
    total_size: int | None = None
    """Bytes, where the back end knows: a server that says otherwise fails the download."""
    head_url: str | None = None
    """Of HEAD, which needs a signature of its own at most providers. Asked first where it is given and the
    size is not known; otherwise the first GET tells."""
    headers: dict[str, str] = field(default_factory=dict)
    """Sent exactly so with each request."""
    expires: int | None = None
    """Milliseconds since 1970 UTC; None: what the URL itself says (`expires_of`), if it does."""
    refresh_before: float = 60.0
    """Seconds before its end that a URL is replaced."""
    identity: str | None = None
    """What the content is called, where URLs of later plans may have other hosts or paths; no secret."""

    def _shown(self) -> str:
        return redact(self.url)

    @property
    def fingerprint(self) -> Fingerprint:
        return Fingerprint(self.identity or _object(self.url), self.total_size)

    def validate(self) -> None:
        """See that the plan can be asked.

        Raises:
            InvalidArgument: names the field, the value, and what is expected.
        """
        _check_kinds("download plan", self)
        check_url(self.url)
        if self.head_url is not None:
            check_url(self.head_url)
        for name, value in self.headers.items():
            check_header(name, value)
        if self.total_size is not None and not 0 <= self.total_size <= MAX_SIZE:
            raise InvalidArgument(
                f"download plan: total_size {self.total_size}; expected 0 to 2^63-1 bytes, or None"
            )
        if self.refresh_before < 0:
            raise InvalidArgument(f"download plan: refresh_before {self.refresh_before}; expected 0 or more")


Plan = UploadPlan | DownloadPlan


def check_fit(known: Fingerprint, plan: Plan, *, keep_upload: bool) -> None:
    """See that `plan` goes on with the transfer that `known` is of.

    `keep_upload`: parts are confirmed, so that the multipart upload has to be the same, too.

    Raises:
        InvalidArgument: names what differs, and says what the back end should do.
    """
    fresh = plan.fingerprint
    if fresh.object != known.object:
        raise InvalidArgument(
            f"the plan is for {fresh.object}; this transfer is of {known.object}: sign URLs of that object, "
            "or give every plan of it the same `identity` if its URLs do differ"
        )
    names = [] if fresh.size is None or known.size is None else ["size"]
    if isinstance(plan, UploadPlan):
        names += ["chunk", "count", "first", "completes", "aborts"]
    if keep_upload:
        names.append("upload_id")
    for name in names:
        was, now = getattr(known, name), getattr(fresh, name)
        if was != now:
            raise InvalidArgument(
                f"the plan has {_NAMES[name]} {now!r}; this transfer was begun with {was!r}: sign the same "
                "parts and requests of the same upload again"
            )


_NAMES = {
    "size": "a total_size of",
    "chunk": "a chunk_size of",
    "count": "a number of parts of",
    "first": "a first part number of",
    "completes": "a complete request:",
    "aborts": "an abort request:",
    "upload_id": "the upload_id",
}


def stale(signed: Signed, received: int, now: int, before: float) -> bool:
    """Whether a signed URL is to be replaced: it ends within `before` seconds, or has less than half of the
    time left that it had when it was `received`, if that is less. So a short-lived one is not replaced at
    once, for ever. All instants are milliseconds since 1970 UTC.
    """
    end = ends(signed)
    return end is not None and now >= end - min(int(before * 1000), max(0, end - received) // 2)


def ends(signed: Signed) -> int | None:
    """When a signed URL ends, in milliseconds since 1970 UTC; None where nobody says."""
    return expires_of(signed.url) if signed.expires is None else signed.expires


def expires_of(url: str) -> int | None:
    """When a signed URL ends by its own parameters, in milliseconds since 1970 UTC; None where none says.

    SigV4 and its kin have a date and a duration (`X-Amz-Date`, `X-Goog-Date`, `x-oss-date` and `…-Expires`),
    version 2 of S3, OSS and Google and CloudFront an instant in seconds (`Expires`), Azure an instant in
    ISO 8601 (`se`).
    """
    try:
        given = {name.lower(): value for name, value in parse_qsl(urlsplit(url).query)}
        for prefix in ("x-amz-", "x-goog-", "x-oss-"):
            if prefix + "date" in given and prefix + "expires" in given:
                begun = datetime.strptime(given[prefix + "date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
                return _ms(begun) + int(given[prefix + "expires"]) * 1000
        if "sig" in given and "se" in given:
            end = datetime.fromisoformat(given["se"])
            return _ms(end if end.tzinfo is not None else end.replace(tzinfo=UTC))
        seconds = given.get("expires", "")
        return int(seconds) * 1000 if seconds.isascii() and seconds.isdigit() else None
    except (ValueError, OverflowError):  # of a date that is none: then the server will tell
        return None


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _object(url: str) -> str:
    parts = urlsplit(url)
    kept = "&".join(
        segment for segment in parts.query.split("&") if segment.partition("=")[0].lower() not in _OF_A_PART
    )
    return identity(urlunsplit(parts._replace(query=kept)))


def _wrong_with_upload(plan: UploadPlan) -> Iterator[str]:
    """What is wrong with the plan, the first first; nothing with a good one."""
    yield from _wrong_with_whole(plan)
    for part in plan.parts:
        yield from _wrong_with_part(plan, part)
    yield from _wrong_with_grid(plan)
    for name, request in (("complete", plan.complete), ("abort", plan.abort), ("check", plan.check)):
        if request is not None:
            yield from _wrong_with_request(name, request)
    if plan.completion == "azure-block-list":
        yield from _wrong_with_blocks(plan)


def _check_kinds(what: str, plan: Plan) -> None:
    """See that each field is what its annotation says: a plan that was not decoded may have anything."""
    try:
        msgspec.convert(msgspec.to_builtins(plan), type(plan))
    except (msgspec.ValidationError, TypeError) as error:  # the second of what no field can have
        raise InvalidArgument(f"{what}: {error}") from None


def _wrong_with_whole(plan: UploadPlan) -> Iterator[str]:
    if not 0 <= plan.total_size <= MAX_SIZE:
        yield f"total_size {plan.total_size}; expected 0 to 2^63-1 bytes"
    if not 1 <= plan.chunk_size <= MAX_SIZE:
        yield f"chunk_size {plan.chunk_size}; expected at least 1 byte"
    if not plan.parts and plan.total_size:
        yield f"no parts for {plan.total_size} bytes; expected {_count(plan)} of up to {plan.chunk_size}"
    if not plan.parts and plan.complete is None:
        yield "no parts and no complete request: an empty content needs one part of 0 bytes, or a request"
    if plan.refresh_before < 0:
        yield f"refresh_before {plan.refresh_before}; expected 0 seconds or more"
    if len(plan.upload_id) > _MAX_TEXT:
        yield f"upload_id of {len(plan.upload_id)} characters; expected at most {_MAX_TEXT}"


def _count(plan: UploadPlan) -> int:
    return -(-plan.total_size // max(1, plan.chunk_size))


def _wrong_with_part(plan: UploadPlan, part: PlanPart) -> Iterator[str]:
    what = f"part {part.number}"
    if part.number < 0:
        yield f"{what}: its number is negative; expected 0 or more, and usually 1 for the first"
    if part.size < 1 and plan.total_size:
        yield f"{what}: size {part.size}; expected at least 1 byte"
    if part.offset < 0 or part.size < 0:
        yield f"{what}: {part.size} bytes at offset {part.offset}; expected 0 or more of both"
    if part.offset + part.size > MAX_SIZE:
        yield f"{what}: ends at {part.offset + part.size}; no content has more than 2^63-1 bytes"
    if part.offset + part.size > plan.total_size:
        yield f"{what}: ends at {part.offset + part.size}; the content ends at {plan.total_size}"
    if part.part_id is not None and not 0 < len(part.part_id) <= _MAX_TEXT:
        yield f"{what}: part_id of {len(part.part_id)} characters; expected 1 to {_MAX_TEXT}"
    yield from _wrong_with_request(what, part)


def _wrong_with_request(what: str, request: PlanRequest | PlanPart) -> Iterator[str]:
    if not (request.method.isascii() and request.method.isalpha() and request.method.isupper()):
        yield f"{what}: method {request.method[:20]!r}; expected one such as PUT"
    try:
        check_url(request.url)
        for name, value in request.headers.items():
            check_header(name, value)
    except InvalidArgument as error:
        yield f"{what}: {error}"


def _wrong_with_grid(plan: UploadPlan) -> Iterator[str]:
    """Parts have to be a grid, as the engine's pieces are, and numbered as they lie: every provider puts them
    together in the order of their numbers."""
    seen: dict[int, int] = {}
    for part in plan.parts:
        if part.number in seen:
            yield f"part {part.number}: stands twice, at offsets {seen[part.number]} and {part.offset}"
        seen[part.number] = part.offset
    parts = plan.ordered
    end = 0
    for index, part in enumerate(parts):
        what = f"part {part.number}"
        if part.offset < end:
            yield f"{what}: begins at {part.offset}, where another part lies; expected {end}"
        if part.offset > end:
            yield f"{what}: begins at {part.offset}, and no part has the bytes from {end} on"
        if part.number != parts[0].number + index:
            yield f"{what}: expected the number {parts[0].number + index} at offset {part.offset}"
        end = part.offset + part.size
        expected = min(plan.chunk_size, plan.total_size - part.offset)
        if part.size != expected:
            yield f"{what}: {part.size} bytes; expected {expected}: all parts but the last have chunk_size"
    if end != plan.total_size:
        yield f"the parts end at {end}; the content ends at {plan.total_size}"


def _wrong_with_blocks(plan: UploadPlan) -> Iterator[str]:
    """Azure: a block list names each block by its id, and all ids of a blob have one length."""
    for part in plan.parts:
        if part.part_id is None:
            yield f"part {part.number}: no part_id; a block list needs the block's id, as in its URL"
        elif len(part.part_id) != len(plan.parts[0].part_id or ""):
            yield f"part {part.number}: a part_id of another length; all block ids of a blob have the same"
