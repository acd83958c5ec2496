"""Which transport an engine uses: the application's own, or the best that this event loop can have."""

import sys

import httpx

from meowcat.core.errors import InvalidArgument
from meowcat.transport.contract import Timeouts, Transport
from meowcat.transport.httpx import HttpxTransport


def transport_for(
    given: httpx.AsyncClient | Transport | None,
    timeouts: Timeouts,
    *,
    http2: bool = False,
    ca_bundle: str | None = None,
    proxy: str | None = None,
) -> tuple[Transport, bool]:
    """The transport, and whether it is ours to close.

    pyreqwest on asyncio, httpx on every other loop and on platforms that have no pyreqwest.

    Raises:
        InvalidArgument: `given` is something else; or the CA bundle can't be read.
    """
    if isinstance(given, httpx.AsyncClient):
        return HttpxTransport(given, timeouts), False
    if isinstance(given, Transport):
        return given, False
    if given is not None:
        raise InvalidArgument(f"http_client {given!r}: expected an httpx.AsyncClient or a Transport")
    if not _on_trio():
        try:
            from meowcat.transport.reqwest import ReqwestTransport  # noqa: PLC0415  # absent on some platforms
        except ImportError:
            pass
        else:
            return ReqwestTransport(timeouts, http2=http2, verify=ca_bundle or True, proxy=proxy), True
    return HttpxTransport(None, timeouts, http2=http2, verify=ca_bundle or True, proxy=proxy), True


def _on_trio() -> bool:
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_run())
