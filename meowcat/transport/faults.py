"""How the transports name their failures: by kind and by the peer's origin, never by a client's own text,
which holds whole URLs with their signatures.
"""

import re
from os import strerror

from meowcat.core.redirect_rules import shown
from meowcat.core.values import Fault, FaultKind

_OS_ERROR = re.compile(r"\(os error (\d+)\)")

TEXTS = {
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


def os_reason(text: str) -> str:
    """The operating system's own words for an error number that stands in a client's text, or nothing."""
    found = _OS_ERROR.search(text)
    return strerror(int(found[1])) if found else ""
