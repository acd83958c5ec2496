"""How the transports name their failures: by kind and by the peer's origin, never by a client's own text,
which holds whole URLs with their signatures.
"""

import errno
import re
from os import strerror

from meowcat.core.redirect_rules import shown
from meowcat.core.values import Fault, FaultKind

_OS_ERROR = re.compile(r"\(os error (\d+)\)")

EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS})
"""What the system says where too much is open: passing, and nothing of a peer's or a file's own."""
LESS_OPEN = "raise the limit (ulimit -n), or have less at once: max_requests, max_downloads, max_uploads"

TEXTS = {
    FaultKind.EXHAUSTED: f"no connection to {{peer}}, since too much is open here; {LESS_OPEN}",
    FaultKind.UNREACHABLE: "no connection to {peer}",
    FaultKind.TLS: "no secure connection to {peer}: its certificate is not trusted, or it speaks no TLS",
    FaultKind.TIMEOUT: "{peer} was silent for longer than read_timeout allows",
    FaultKind.DISCONNECTED: "{peer} ended the connection before the exchange was complete",
    FaultKind.REPLY: "{peer} answered with something that is not HTTP",
    FaultKind.INTERNAL: "the HTTP client refused the request to {peer}",
}


def describe(kind: FaultKind, url: str, reason: str = "") -> Fault:
    """A fault of an exchange with `url`; `reason` must come from us, never from a peer or a client."""
    text = TEXTS[kind].format(peer=shown(url))
    return Fault(kind=kind, detail=f"{text} ({reason})" if reason else text)


def unconnected(number: int | None, url: str, reason: str = "") -> Fault:
    """The fault of a connection to the host of `url` that was not made, by the system's error number."""
    if number is not None and number in EXHAUSTED:
        return describe(FaultKind.EXHAUSTED, url, strerror(number))
    return describe(FaultKind.UNREACHABLE, url, reason)


def os_number(text: str) -> int | None:
    """The operating system's error number that stands in a client's text, if there is one."""
    found = _OS_ERROR.search(text)
    return int(found[1]) if found else None
