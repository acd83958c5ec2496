"""Which transport an engine uses: the application's own, or the best that this event loop can have."""

import importlib
import os
import sys
import threading
from typing import TYPE_CHECKING

from meowcat.core.errors import InvalidArgument
from meowcat.transport.connections import on_trio
from meowcat.transport.contract import Timeouts, Transport
from meowcat.transport.direct import DirectHttp

if TYPE_CHECKING:
    import httpx


def transport_for(
    given: "httpx.AsyncClient | Transport | None",
    timeouts: Timeouts,
    *,
    http2: bool = False,
    ca_bundle: str | None = None,
    proxy: str | None = None,
) -> tuple[Transport, bool]:
    """The transport, and whether it is ours to close.

    pyreqwest on asyncio, httpx on every other loop, on platforms that have no pyreqwest, and in a fork of a
    process that has used it. What can go straight to its server goes past either (`transport.direct`), unless
    there is a proxy or HTTP/2 is asked for.

    Raises:
        InvalidArgument: `given` is something else; or the CA bundle can't be read.
    """
    if given is not None:
        return _given(given, timeouts), False
    own = _own(timeouts, http2=http2, ca_bundle=ca_bundle, proxy=proxy)
    if http2 or proxy is not None:
        return own, True
    return DirectHttp(own, timeouts, verify=ca_bundle), True


def _given(given: "httpx.AsyncClient | Transport", timeouts: Timeouts) -> Transport:
    import httpx  # noqa: PLC0415  # see _over_httpx

    if isinstance(given, httpx.AsyncClient):  # asked first: it has the methods of a Transport, too
        return _over_httpx(given, timeouts)
    if isinstance(given, Transport) and not isinstance(given, type):  # a class has the methods as well
        return given
    raise InvalidArgument(f"http_client {given!r}: expected an httpx.AsyncClient or a Transport")


def _over_httpx(
    client: "httpx.AsyncClient | None",
    timeouts: Timeouts,
    *,
    http2: bool = False,
    verify: bool | str = True,
    proxy: str | None = None,
) -> Transport:
    """Loaded for those who use it: httpx takes half as long as all the rest of meowcat."""
    from meowcat.transport.httpx import HttpxTransport  # noqa: PLC0415  # see above

    return HttpxTransport(client, timeouts, http2=http2, verify=verify, proxy=proxy)


def _own(timeouts: Timeouts, *, http2: bool, ca_bundle: str | None, proxy: str | None) -> Transport:
    if not on_trio() and _has_pyreqwest():
        from meowcat.transport.reqwest import ReqwestTransport  # noqa: PLC0415  # absent on some platforms

        try:
            return ReqwestTransport(timeouts, http2=http2, verify=ca_bundle or True, proxy=proxy)
        except RuntimeError:  # its threads are those of a process that this one is a fork of
            if os.getpid() == _LOADED_BY:
                raise
    return _over_httpx(None, timeouts, http2=http2, verify=ca_bundle or True, proxy=proxy)


_LOADED_BY = os.getpid()


def _has_pyreqwest() -> bool:
    """Whether there is one. It is loaded by a thread that lives as long as the process.

    Its memory allocator takes the thread that loads it for the main one: version 0.15 crashes the process in
    the next thread that uses it after that one has ended.
    """
    if "pyreqwest" not in sys.modules and threading.current_thread() is not threading.main_thread():
        loaded = threading.Event()
        threading.Thread(target=_load_and_stay, args=(loaded,), name="meowcat-http", daemon=True).start()
        loaded.wait()
    return _load()


def _load_and_stay(loaded: threading.Event) -> None:
    _load()
    loaded.set()
    threading.Event().wait()


def _load() -> bool:
    try:
        importlib.import_module("pyreqwest")
    except ImportError:
        return False
    return True
