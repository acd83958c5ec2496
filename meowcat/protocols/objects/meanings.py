"""What the errors of a provider mean, and what to do about them."""

from collections.abc import Mapping
from xml.etree import ElementTree as ET

from msgspec import Struct

from meowcat.core.retry import parse_retry_after
from meowcat.core.urls import scrub
from meowcat.core.values import Fault, FaultKind
from meowcat.protocols.objects.documents import text_of
from meowcat.protocols.wire import Reply

__all__ = ["Meaning", "Meanings", "said"]

Meaning = tuple[FaultKind, int | None, str]
"""The kind; the status by which an error is retried, where that is not the reply's own (an error may be
temporary whatever its status, and a 200 can hold one); and what it means, with names in braces."""

_OK = 200
_SHOWN = 160


class Meanings(Struct, frozen=True):
    """A provider's errors."""

    by_code: Mapping[str, Meaning]
    by_status: Mapping[int, str]
    """Codes for replies without a body, such as those to a HEAD."""
    request_id: str
    """The header by which the provider finds a request in its own logs."""

    def fault(
        self,
        reply: Reply,
        error: ET.Element | None,
        what: str,
        words: Mapping[str, str],
        now: int,
        *,
        instead: str = "",
    ) -> Fault:
        """What a reply means that is not the one hoped for; its text says what to do.

        Args:
            reply: in full.
            error: the document in its body, where that is one of an error.
            what: what was asked for.
            words: what stands for the names in braces.
            now: milliseconds since 1970 UTC.
            instead: what it means, where the code alone does not say.
        """
        code = self.code(reply, error)
        status = reply.status if reply.status != _OK else 500  # an error in a 200: the server failed half-way
        kind, retried_as, meaning = self.by_code.get(code, (FaultKind.STATUS, None, ""))
        text = instead or meaning.format(**words) or said(error)
        request = reply.header(self.request_id)
        suffix = f" (request {request[:40]})" if request else ""
        return Fault(
            kind=kind,
            detail=f"{what}: {reply.status} {code[:60]}: {text}{suffix}",
            status=retried_as or status,
            retry_after=parse_retry_after(reply.header("retry-after"), reply.header("date"), now),
        )

    def code(self, reply: Reply, error: ET.Element | None) -> str:
        """The error's own code, else the one that goes with the status; "" where nobody knows."""
        return text_of(error, "Code") or self.by_status.get(reply.status, "")


def said(error: ET.Element | None) -> str:
    """The server's own words, for what nobody has thought of."""
    return " ".join(scrub(text_of(error, "Message")).split())[:_SHOWN] or "the server gave no reason"
