"""The secrets of a request split off before it is stored, and joined again before it is sent."""

from typing import Any, TypeVar

from msgspec import Struct, field
from msgspec.structs import replace

from meowcat.core.errors import InvalidArgument
from meowcat.core.harmless import harmless_header
from meowcat.core.transfers import Download, Request, Upload
from meowcat.core.urls import HIDDEN, seal_url

Transfer = TypeVar("Transfer", bound=Request)

REGISTRIES = ("credential", "refresher", "source", "protocol")
"""What a need begins with (`credential:prod`) that is met by whoever registers the name with the engine."""


class Secrets(Struct, frozen=True):
    """What `seal` left out of a request: kept in memory only, never encoded. Its repr has names alone."""

    url: str = ""
    """The URL as it is to be requested; "" where the stored one is complete."""
    headers: dict[str, str] = field(default_factory=dict)
    data: bytes | None = None
    """The content of an upload of bytes."""
    plan: Any = None
    """A presigned plan."""

    def updated(self, supplied: "Secrets", *, url: bool) -> "Secrets":
        """These secrets and those supplied since, whose headers win; `url` says whether a URL came, too."""
        fresh = {name.lower() for name in supplied.headers}
        kept = {name: value for name, value in self.headers.items() if name.lower() not in fresh}
        return Secrets(
            supplied.url if url else self.url,
            kept | supplied.headers,
            self.data if supplied.data is None else supplied.data,
            self.plan if supplied.plan is None else supplied.plan,
        )

    def __repr__(self) -> str:
        return f"Secrets({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        """For `rich`, which would ask msgspec for all of the fields."""
        return [("url", HIDDEN if self.url else ""), ("headers", sorted(self.headers))]


NOTHING_SECRET = Secrets()


def seal(request: Transfer) -> tuple[Transfer, Secrets]:
    """`request` as it may be journaled, and its secrets.

    `needs` of the result has `url` where the URL lost something, and `header:NAME`, in lower case, for each
    header that was left out. Sealing a sealed request changes nothing and finds no secrets.

    Raises:
        InvalidArgument: the URL is not an http or https URL with a host.
    """
    stored, left_out = seal_url(request.url)
    bare = not request.headers and not request.needs and request.plan is None
    if bare and stored == request.url and (isinstance(request, Download) or request.origin != "bytes"):
        return request, NOTHING_SECRET  # nothing may have to be left out: so are most of a queue
    hidden = {name: value for name, value in request.headers.items() if not harmless_header(name)}
    kept = {name: value for name, value in request.headers.items() if name not in hidden}
    needs = ["url"] if left_out else []
    needs += [need for need in request.needs if need != "url"]
    needs += [_need(name) for name in hidden]
    data = request.data if isinstance(request, Upload) else None
    if isinstance(request, Upload) and request.origin == "bytes":
        needs.append("data")
    fields = {"url": stored, "headers": kept, "needs": tuple(dict.fromkeys(needs)), "plan": None}
    if data is not None:
        fields["data"] = None
    sealed = replace(request, **fields)
    # A URL that sealing does not change holds masks and no secrets: it was sealed before.
    url = request.url if left_out and stored != request.url else ""
    return sealed, Secrets(url, hidden, data, request.plan)


def missing(needs: tuple[str, ...], secrets: Secrets | None) -> tuple[str, ...]:
    """Those of a request's `needs` that `secrets` does not have: what is to be supplied."""
    if secrets is None or not needs:
        return needs
    known = {_need(name) for name in secrets.headers}
    known |= {"url"} if secrets.url else set()
    known |= {"data"} if secrets.data is not None else set()
    known |= {"plan"} if secrets.plan is not None else set()
    return tuple(name for name in needs if name not in known and not _replaced(name, known))


def _replaced(name: str, known: set[str]) -> bool:
    """Whether what is there makes it needless: who has a plan asks for none."""
    return name.startswith("refresher:") and "plan" in known


def registered(needs: tuple[str, ...]) -> tuple[str, ...]:
    """Those of a request's needs that are registered by name, and not supplied for one task."""
    return tuple(name for name in needs if name.split(":")[0] in REGISTRIES)


def unseal(request: Request, secrets: Secrets | None) -> tuple[str, dict[str, str]]:
    """The URL and headers to send: those of the sealed request and its secrets. A secret header wins.

    Raises:
        InvalidArgument: something that the request needs is not there; the message names it.
    """
    names = request.needs and missing(
        tuple(each for each in request.needs if each not in registered(request.needs)), secrets
    )
    if names:
        raise InvalidArgument(
            f"{', '.join(names)}: never stored, and not supplied since; supply what is named"
        )
    if secrets is None:
        return request.url, dict(request.headers)
    if not secrets.headers:
        return secrets.url or request.url, dict(request.headers)
    hidden = {name.lower() for name in secrets.headers}
    kept = {name: value for name, value in request.headers.items() if name.lower() not in hidden}
    return secrets.url or request.url, kept | secrets.headers


def _need(header: str) -> str:
    return f"header:{header.strip().lower()}"
