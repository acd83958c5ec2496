"""What object stores say, in small XML documents: lists, results and errors."""

import re
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from typing import Generic, TypeVar
from xml.etree import ElementTree as ET

from msgspec import Struct

from meowcat.core.sessions import Held, Receipt
from meowcat.core.values import Fault, FaultKind
from meowcat.protocols.contract import Orphan, Refused
from meowcat.protocols.wire import Reply

__all__ = [
    "Listed",
    "Marker",
    "Page",
    "all_pages",
    "document",
    "error_code",
    "error_of",
    "instant",
    "listed_parts",
    "newest",
    "read_xml",
    "refusal",
    "text_of",
    "uploads",
]

MAX_PAGES = 1000
"""Of a list; a server that never comes to an end is cut off."""

_MD5 = re.compile(r'"?([0-9a-f]{32})"?', re.IGNORECASE)

Entry = TypeVar("Entry")
Marker = list[tuple[str, str]]
"""The query fields by which a list goes on; none for its beginning, and after its end."""


def read_xml(body: bytes) -> ET.Element | None:
    """The root of a document, its tags without their namespace; None where it is no such document.

    A document with a DTD is none: entities are what makes XML dangerous, and no store ever sends one.
    """
    text = body.decode("utf-8", "replace").strip().removeprefix("\ufeff")
    if not text.startswith("<") or "<!DOCTYPE" in text or "<!ENTITY" in text:
        return None
    try:
        root = ET.fromstring(text)  # noqa: S314  # see above
    except ET.ParseError:
        return None
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def text_of(element: ET.Element | None, name: str) -> str:
    """The text of a child of that name, without blanks around it; "" where there is none."""
    found = None if element is None else element.findtext(name)
    return (found or "").strip()


def document(reply: Reply, name: str) -> ET.Element:
    """The root of a reply's document.

    Raises:
        Refused: REPLY, where it has another name, or is no document.
    """
    root = read_xml(reply.body)
    if root is None or root.tag != name:
        raise refusal(f"expected a {name}; what came is no such document")
    return root


def error_of(reply: Reply) -> ET.Element | None:
    """The error in a reply's body; None where there is none."""
    root = read_xml(reply.body)
    return root if root is not None and root.tag == "Error" else None


def error_code(reply: Reply) -> str:
    """The code of the error in a reply's body; "" where there is none, as in each reply to a HEAD."""
    return text_of(error_of(reply), "Code")


def refusal(detail: str) -> Refused:
    """What came is not what the provider promises."""
    return Refused(Fault(kind=FaultKind.REPLY, detail=detail))


def instant(text: str) -> int | None:
    """Milliseconds since 1970 UTC of an ISO 8601 date."""
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1000)
    except ValueError:
        return None


# Lists


class Page(Struct, Generic[Entry], frozen=True):
    """One page of a list, and how it goes on."""

    entries: list[Entry]
    after: Marker


class Listed(Struct, frozen=True):
    """A part as a list has it."""

    index: int
    held: Held
    modified: int
    """Milliseconds since 1970 UTC; 0 where the server does not say."""


async def all_pages(ask: Callable[[Marker], Awaitable[Page[Entry] | None]], what: str) -> list[Entry] | None:
    """All entries of a list; None where the server does not know what is listed.

    Args:
        ask: for the page that begins at a marker.
        what: the list, for people.

    Raises:
        Refused: REPLY, where the list does not come to an end; what `ask` raises.
    """
    found: list[Entry] = []
    marker: Marker = []
    for _ in range(MAX_PAGES):
        page = await ask(marker)
        if page is None:
            return None
        found += page.entries
        if not page.after:
            return found
        if page.after == marker:
            break
        marker = page.after
    raise refusal(f"{what} does not come to an end")


def listed_parts(reply: Reply, checksum_of: Callable[[ET.Element], str | None], *, md5: bool) -> Page[Listed]:
    """A page of ListParts.

    Args:
        reply: a 200.
        checksum_of: `algorithm:digits` of a part, where the list has it.
        md5: whether an ETag that looks like an MD5 is one: it is not where the server encrypts with a key.

    Raises:
        Refused: REPLY, where it is something else.
    """
    root = document(reply, "ListPartsResult")
    parts = [_listed(element, checksum_of(element), md5=md5) for element in root.findall("Part")]
    after = text_of(root, "NextPartNumberMarker") if text_of(root, "IsTruncated") == "true" else ""
    return Page(parts, [("part-number-marker", after)] if after else [])


def _listed(element: ET.Element, checksum: str | None, *, md5: bool) -> Listed:
    etag, number, size = (text_of(element, name) for name in ("ETag", "PartNumber", "Size"))
    if not etag or not number.isdecimal() or not size.isdecimal() or int(number) < 1:
        raise refusal(f"a list of parts has one without a number, a size or an ETag: {number[:20]!r}")
    like_md5 = _MD5.fullmatch(etag) if md5 else None
    held = Held(
        size=int(size),
        receipt=Receipt(text=etag, checksum=checksum),
        md5=like_md5[1].lower() if like_md5 else None,
    )
    return Listed(int(number) - 1, held, instant(text_of(element, "LastModified")) or 0)


def newest(parts: Iterator[Listed]) -> dict[int, Held]:
    """Of a part that was sent again, and stands there twice, the newest.

    Where two of one moment differ nobody can say which it is; neither counts, and the part is sent once more.
    """
    found: dict[int, Listed] = {}
    doubtful: dict[int, int] = {}
    for part in parts:
        known = found.get(part.index)
        if known is None or part.modified > known.modified:
            found[part.index] = part
        elif part.modified == known.modified and part.held.receipt.text != known.held.receipt.text:
            doubtful[part.index] = part.modified
    return {index: part.held for index, part in found.items() if doubtful.get(index) != part.modified}


def uploads(reply: Reply, key: str) -> Page[Orphan]:
    """A page of ListMultipartUploads: those of exactly `key`.

    Raises:
        Refused: REPLY, where it is something else.
    """
    root = document(reply, "ListMultipartUploadsResult")
    found = [
        Orphan(id=text_of(element, "UploadId"), begun=instant(text_of(element, "Initiated")))
        for element in root.findall("Upload")
        if element.findtext("Key") == key and text_of(element, "UploadId")
    ]
    if text_of(root, "IsTruncated") != "true":
        return Page(found, [])
    markers = [("key-marker", root.findtext("NextKeyMarker") or "")]
    markers.append(("upload-id-marker", text_of(root, "NextUploadIdMarker")))
    return Page(found, [marker for marker in markers if marker[1]])
