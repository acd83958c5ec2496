"""Credentials by name: values, functions, and async providers whose credentials end.

Names are journaled, values never. What a provider gave is remembered until shortly before it ends; then it
is asked again, once however many requests are waiting, and while the old one is still good a provider that
fails hurts nobody.
"""

import base64
import binascii
import inspect
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import ClassVar, TypeVar, overload
from urllib.parse import parse_qs

import anyio
from msgspec import Struct

from meowcat.core.errors import InvalidArgument
from meowcat.core.kinds import check_registration, named
from meowcat.core.plans import expires_of
from meowcat.core.urls import HIDDEN, scrub
from meowcat.core.values import Fault, FaultKind
from meowcat.protocols.refused import Refused
from meowcat.transport.threads import call_apart

__all__ = [
    "AccessKey",
    "AzureKey",
    "AzureSas",
    "BearerToken",
    "Credential",
    "Credentials",
    "Provider",
]

MARGIN_MS = 5 * 60 * 1000
"""So long before its end a credential is asked for anew, or a tenth of its lifetime if that is less: what was
signed with it has to arrive, and a provider that fails has to come back."""
THREADS = 8
"""Plain functions that may run at once; anyio's common limit belongs to the application."""
PAUSE_MS = 10 * 1000
"""How long a provider that failed is left alone while there is an old credential that is still good."""

_PRINTABLE = re.compile(r"[\x21-\x7e]+")
_LONG_WORD = re.compile(r"[A-Za-z0-9+/=_~%-]{20,}")
"""What a key or a token looks like in the text of somebody else's error, also where it is escaped."""
_SHOWN = 200


class _Hidden(Struct, frozen=True, kw_only=True):
    """Shows all but what is secret, also to rich, in tracebacks, too: msgspec's own repr would show all."""

    hidden: ClassVar[tuple[str, ...]] = ()
    """The fields that are secret."""

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"
        )

    def __rich_repr__(self) -> list[tuple[str, object]]:
        shown = ((name, getattr(self, name)) for name in self.__struct_fields__)
        return [(name, HIDDEN if value and name in self.hidden else value) for name, value in shown]

    @property
    def ends(self) -> int | None:
        """Milliseconds since 1970 UTC; None = it does not end, as far as anybody says."""
        end: int | None = getattr(self, "expires", None)
        return end

    @property
    def secrets(self) -> tuple[str, ...]:
        """The texts that nobody may see."""
        return tuple(value for name in self.hidden if (value := getattr(self, name)))

    def wrongs(self) -> Iterator[str]:
        """What makes it unfit to be sent, without any of it."""
        for name in self.__struct_fields__:
            text = getattr(self, name)
            if isinstance(text, str) and (
                not text or not text.isascii() or any(c <= " " or c == "\x7f" for c in text)
            ):
                yield (
                    f"its {name} is empty, or has a blank, a line break or another character that no key "
                    "has; strip what was read from a file"
                )


class AccessKey(_Hidden, frozen=True, kw_only=True):
    """The key pair of S3 and its kin. Its repr hides all but the id."""

    hidden = ("secret", "token")

    id: str
    secret: str
    token: str | None = None
    """Of a session (STS)."""
    expires: int | None = None
    """Milliseconds since 1970 UTC; None = it does not end."""


class AzureKey(_Hidden, frozen=True, kw_only=True):
    """An account of Azure Storage with one of its two access keys: it signs each request (Shared Key), and it
    makes shared access signatures. Its repr hides the key."""

    hidden = ("key",)

    account: str
    key: str
    """In base64, as the portal shows it."""

    def wrongs(self) -> Iterator[str]:
        yield from super().wrongs()
        try:
            base64.b64decode(self.key, validate=True)
        except (binascii.Error, ValueError):
            yield "its key is no base64; expected one of the account's access keys, as the portal shows it"


class AzureSas(_Hidden, frozen=True, kw_only=True):
    """A shared access signature: a query that lets whoever has it do what it says, until it ends. Its repr
    hides all of it."""

    hidden = ("token",)

    token: str
    """`sv=…&se=…&sig=…`, with or without a `?` before it."""

    @property
    def query(self) -> str:
        return self.token.removeprefix("?")

    @property
    def ends(self) -> int | None:
        """What its `se` says; None where a stored policy of the container says it."""
        return expires_of(f"https://host/?{self.query}")

    @property
    def secrets(self) -> tuple[str, ...]:
        return (self.query, *parse_qs(self.query).get("sig", ()))

    def wrongs(self) -> Iterator[str]:
        yield from super().wrongs()
        if "sig" not in parse_qs(self.query):
            yield "its token has no sig=…; expected the query of a SAS, no URL and no connection string"


class BearerToken(_Hidden, frozen=True, kw_only=True):
    """A token of Entra ID for https://storage.azure.com, as the application has it from there. Its repr
    hides it."""

    hidden = ("token",)

    token: str
    expires: int | None = None
    """Milliseconds since 1970 UTC; None = nobody says."""


Credential = AccessKey | AzureKey | AzureSas | BearerToken
Provider = Credential | Callable[[], Credential | Awaitable[Credential]]
"""A value; or a function that returns one, plain (it is called in a thread, so it may block) or async."""

Kind = TypeVar("Kind", bound=_Hidden)


class Credentials:
    """What is registered, by name.

    Args:
        providers: by name.
        wall: milliseconds since 1970 UTC.

    Raises:
        InvalidArgument: a provider that is none.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider] | None = None,
        wall: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._wall = wall
        self._threads = anyio.CapacityLimiter(THREADS)
        self._kept: dict[str, _Kept] = {}
        for name, provider in named("credentials", providers, "providers").items():
            self.register(name, provider)

    def register(self, name: str, provider: Provider) -> None:
        """Have `provider` under `name` from now on, in the place of an earlier one.

        Raises:
            InvalidArgument: it is neither a credential nor a function; or a name that is none.
        """
        check_registration("credential", name, provider)
        if not isinstance(provider, Credential) and not callable(provider):
            raise InvalidArgument(
                f"credential {name!r}: expected an AccessKey, an AzureKey, an AzureSas or a BearerToken, "
                f"or a function that returns one; got {type(provider).__name__}"
            )
        self._kept[name] = _Kept(name, provider)

    def __contains__(self, name: str) -> bool:
        return name in self._kept

    @overload
    async def get(self, name: str) -> AccessKey: ...

    @overload
    async def get(self, name: str, *kinds: type[Kind]) -> Kind: ...

    async def get(self, name: str, *kinds: type[_Hidden]) -> _Hidden:
        """The credential of that name, good for some time yet.

        Args:
            name: as it was registered.
            kinds: what it may be; an `AccessKey`, where none is named.

        Raises:
            Refused: CREDENTIAL where the name is unknown, its provider failed, or it is of another kind;
                EXPIRED where a value was registered, which has ended.
        """
        found = await self._any(name)
        kinds = kinds or (AccessKey,)
        if not isinstance(found, kinds):
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise _refused(f"credential {name!r}: expected {wanted}; it is of kind {type(found).__name__}")
        return found

    async def _any(self, name: str) -> Credential:
        kept = self._kept.get(name)
        if kept is None:
            raise _refused(
                f"credential {name!r} is not registered: pass Engine(credentials={{{name!r}: ...}})"
            )
        while True:
            now = self._wall()
            if kept.current is not None and (now < kept.renew_at or (kept.asking and kept.good(now))):
                return kept.current
            if kept.asking is None:
                return await self._ask(kept)
            asking = kept.asking
            await asking.over.wait()
            if asking.refused is not None:
                raise Refused(asking.refused)

    def invalidate(self, name: str, credential: Credential) -> None:
        """A server says that `credential` is no good any more: the next `get` asks for another one.

        Nothing happens where another one has come since; a registered value stays what it is.
        """
        kept = self._kept.get(name)
        if kept is not None and kept.current is credential and callable(kept.provider):
            kept.current = None

    async def _ask(self, kept: "_Kept") -> Credential:
        """Ask the provider; everybody else waits meanwhile, or goes on with what is still good.

        Whoever waits gets the same refusal. Where the asking is canceled, the next one in line asks.
        """
        kept.asking = asking = _Asking()
        try:
            kept.accept(await _provided(kept, self._threads), self._wall())
        except Refused as refused:
            if not kept.good(self._wall()):
                asking.refused = refused.fault
                raise
            kept.renew_at = self._wall() + PAUSE_MS
        finally:
            kept.asking = None
            asking.over.set()
        assert kept.current is not None  # noqa: S101  # accepted, or still good
        return kept.current


class _Asking:
    """A provider is being asked."""

    def __init__(self) -> None:
        self.over = anyio.Event()
        self.refused: Fault | None = None


class _Kept:
    """One name: its provider, and what that gave last."""

    def __init__(self, name: str, provider: Provider) -> None:
        self.name = name
        self.provider = provider
        self.current: Credential | None = None
        self.renew_at = 0
        self.asking: _Asking | None = None

    def good(self, now: int) -> bool:
        return self.current is not None and (self.current.ends is None or now < self.current.ends)

    def accept(self, given: object, now: int) -> None:
        """Remember what the provider gave.

        Raises:
            Refused: it is no credential, can't be sent, or has ended.
        """
        if not isinstance(given, Credential):
            raise _refused(
                f"credential {self.name!r}: its provider returned no credential but a {type(given).__name__}"
            )
        for wrong in given.wrongs():
            raise _refused(f"credential {self.name!r}: {wrong}")
        if given.ends is not None and given.ends <= now:
            kind = FaultKind.CREDENTIAL if callable(self.provider) else FaultKind.EXPIRED
            ago = (now - given.ends) // 1000
            raise _refused(f"credential {self.name!r} ended {ago} s ago: register a fresh one", kind)
        self.current = given
        self.renew_at = given.ends - _margin(given.ends - now) if given.ends is not None else _NEVER


_NEVER = 1 << 62


def _margin(lifetime: int) -> int:
    return min(MARGIN_MS, lifetime // 10)


async def _provided(kept: _Kept, threads: anyio.CapacityLimiter) -> object:
    """What the provider returns.

    Raises:
        Refused: CREDENTIAL, where it raised.
    """
    provider = kept.provider
    if isinstance(provider, Credential):
        return provider
    try:
        if inspect.iscoroutinefunction(provider) or inspect.iscoroutinefunction(type(provider).__call__):
            given: object = provider()
        else:
            given = await call_apart(provider, "meowcat-credential", threads)
        return await given if inspect.isawaitable(given) else given
    except Exception as error:  # noqa: BLE001  # an application's function: whatever it raises, there is no credential
        text = f"{type(error).__name__}: {_harmless(str(error), kept.current)}"
    raise _refused(f"credential {kept.name!r}: its provider raised {text}")


def _harmless(text: str, last: Credential | None) -> str:
    """The text of an error, without what may be a secret."""
    for secret in last.secrets if last is not None else ():
        text = text.replace(secret, HIDDEN)
    return _LONG_WORD.sub(HIDDEN, scrub(text))[:_SHOWN]


def _refused(detail: str, kind: FaultKind = FaultKind.CREDENTIAL) -> Refused:
    return Refused(Fault(kind=kind, detail=detail))
