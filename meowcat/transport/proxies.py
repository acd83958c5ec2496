"""Which proxy stands between a client and a URL, and what a failure of it is called."""

from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from meowcat.core.redirect_rules import shown
from meowcat.core.values import Fault, FaultKind


class Proxies:
    """The proxies that a client has at its disposal from now on.

    Args:
        given: the URL of one for everything.
        trust_env: without it, those that the environment names (HTTPS_PROXY and so on).

    """

    def __init__(self, given: str | None = None, *, trust_env: bool = False) -> None:
        self._given = given
        self._named = getproxies() if given is None and trust_env else {}

    def before(self, url: str) -> str:
        """The proxy that a request to `url` goes through, as texts may show it; "" where it goes straight."""
        if self._given is not None:
            return _shown(self._given)
        parts = urlsplit(url)
        named = self._named.get(parts.scheme) or self._named.get("all") or ""
        return _shown(named) if named and not proxy_bypass(parts.netloc) else ""


def not_reached(proxy: str, url: str, reason: str = "") -> Fault:
    """The proxy itself can't be reached. `proxy` may be empty where it is not known which one it is."""
    return _unreachable(f"no connection to {_named(proxy)}, through which {shown(url)} is reached", reason)


def not_let_through(proxy: str, url: str, reason: str = "") -> Fault:
    """The proxy was reached, or may have been, and what is behind it was not."""
    return _unreachable(f"no connection to {shown(url)} through {_named(proxy)}", reason)


def answered(status: int) -> str:
    """Why a proxy that answered so makes no connection."""
    return "it wants credentials, or other ones: 407" if status == 407 else f"it answered {status}"  # noqa: PLR2004  # Proxy Authentication Required


def _unreachable(text: str, reason: str) -> Fault:
    return Fault(kind=FaultKind.UNREACHABLE, detail=f"{text} ({reason})" if reason else text)


def _named(proxy: str) -> str:
    return f"the proxy {proxy}" if proxy else "its proxy"


def _shown(url: str) -> str:
    """Without user information; the environment may leave the scheme out."""
    return shown(url if "://" in url else f"http://{url}")
