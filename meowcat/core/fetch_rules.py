"""The rules of a small GET into memory: what may be asked for, what a reply means, and when to ask again.

Nothing of it is a task: it is not recorded, and a restart knows nothing of it.
"""

from collections.abc import Mapping

from msgspec import Struct, field

from meowcat.core.errors import BodyTooLarge, InvalidArgument
from meowcat.core.http_fields import FieldError, Headers, content_codings, content_length, fields_of
from meowcat.core.http_rules import status_fault
from meowcat.core.redirect_rules import MAX_HOPS
from meowcat.core.retry import Class, classify
from meowcat.core.transfers import FRAMING, check_headers
from meowcat.core.urls import check_url, has_userinfo, redact
from meowcat.core.values import Fault, FaultKind

MIB = 1 << 20
USUAL_BYTES = 5 * MIB
MOST_BYTES = 64 * MIB
"""What is larger is a download: it goes to a file, and can be resumed."""
USUAL_REDIRECTS = 5
RETRY_DELAYS_MS = (300, 800)
"""Waits after the first and the second failure; the third is the last."""
PATIENCE_MS = 30_000
"""The longest Retry-After that is waited for: whoever asks for a small body waits for it."""

_NOT_MODIFIED = 304
_CONTENT = range(200, 300)
_OWN = FRAMING | {"accept-encoding"}
_CONDITIONS = frozenset({"if-none-match", "if-modified-since"})


class SmallGet(Struct, frozen=True):
    """What is asked for."""

    url: str
    max_bytes: int = USUAL_BYTES
    headers: Mapping[str, str] = field(default_factory=dict)
    max_redirects: int = USUAL_REDIRECTS

    @property
    def conditional(self) -> bool:
        """Whether 304 is an answer."""
        return any(name.lower() in _CONDITIONS for name in self.headers)

    @property
    def caller_headers(self) -> dict[str, str]:
        """The caller's, but for those that only the engine may set. They stay at the URL's own origin."""
        return {name: value for name, value in self.headers.items() if name.lower() not in _OWN}

    @property
    def own_headers(self) -> dict[str, str]:
        """Sent to every origin: the bytes are counted as they come, so they must not be coded."""
        accepts = any(name.lower() == "accept" for name in self.headers)
        return {"Accept-Encoding": "identity"} | ({} if accepts else {"Accept": "*/*"})


def check_small_get(asked: SmallGet) -> None:
    """See that every value is within its bounds, before anything is sent.

    Raises:
        InvalidArgument: names the value and what is allowed.
    """
    check_url(asked.url)
    if has_userinfo(asked.url):
        raise InvalidArgument(
            f"URL {redact(asked.url)!r}: has a user or password in it; give an Authorization header instead"
        )
    _within("max_bytes", asked.max_bytes, 1, MOST_BYTES)
    _within("max_redirects", asked.max_redirects, 0, MAX_HOPS)
    check_headers(asked.headers)


def _within(name: str, value: object, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        hint = "; what is larger is a download" if name == "max_bytes" else ""
        raise InvalidArgument(f"{name} {value!r}: expected a whole number from {least:,} to {most:,}{hint}")


def judge_small(asked: SmallGet, status: int, headers: Headers, now_ms: int) -> Fault | None:
    """What speaks against reading the body of a reply; None where nothing does.

    Raises:
        BodyTooLarge: its length says that it is.
    """
    if status == _NOT_MODIFIED and asked.conditional:
        return None
    fields = fields_of(headers)
    if status not in _CONTENT:
        return status_fault(status, fields, now_ms)
    codings = content_codings(fields)
    if codings:
        detail = f"content-encoding {', '.join(codings)[:40]!r}: expected none, as was asked for"
        return Fault(kind=FaultKind.REPLY, status=status, detail=detail)
    try:
        length = content_length(fields)
    except FieldError as error:
        return Fault(kind=FaultKind.REPLY, status=status, detail=str(error))
    if length is not None and length > asked.max_bytes:
        raise too_large(asked, f"{length:,} bytes")
    return None


def too_large(asked: SmallGet, size: str) -> BodyTooLarge:
    """The error of a body of `size`."""
    return BodyTooLarge(
        f"{redact(asked.url)}: the body has {size}; expected at most max_bytes={asked.max_bytes:,}. "
        "Ask for more, or download it to a file"
    )


def retry_after(fault: Fault, failures: int) -> int | None:
    """Milliseconds to wait after failure number `failures` (1 for the first); None where it was the last."""
    if failures > len(RETRY_DELAYS_MS) or classify(fault) not in (Class.TRANSIENT, Class.UNREACHABLE):
        return None
    asked_for = fault.retry_after or 0
    return None if asked_for > PATIENCE_MS else max(asked_for, RETRY_DELAYS_MS[failures - 1])
