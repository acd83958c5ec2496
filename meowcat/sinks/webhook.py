"""Events as webhooks, signed by the Standard Webhooks scheme (standardwebhooks.com, version 1)."""

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import anyio
import anyio.to_thread
import httpx
import msgspec

from meowcat.core.errors import InvalidArgument, InvalidSignature, RetryLater, SinkError
from meowcat.core.events import EVENT_TYPES
from meowcat.core.kinds import kind_of, named
from meowcat.core.retry import parse_retry_after
from meowcat.core.transfers import check_header
from meowcat.core.urls import check_url, redact
from meowcat.journal.logged import LoggedEvent, event_object
from meowcat.sinks.one_by_one import OneByOne
from meowcat.transport.contract import USER_AGENT
from meowcat.transport.httpx import judge

Secret = str | bytes
Secrets = Secret | Sequence[Secret]

TOLERANCE = 300.0
"""Seconds that a webhook may be old, or its clock ahead: what the scheme's own libraries allow."""
_PREFIX = "whsec_"
_LEAST_KEY = 24
"""Bytes; the scheme asks for 24 to 64."""
_LEAST_WAIT = 1.0
_GONE_WAIT = 3600.0
_REPLY_READ = 64 << 10
"""Bytes of a reply that are read, so that its connection can be used again; nothing is done with them."""


class Webhook(OneByOne):
    """POSTs each event, one after the other, and takes any 2xx for "it is safe".

    Args:
        url: of the receiver, http or https; redirects are not followed.
        secret: `whsec_` and base64, or the key as bytes (24 at least). Of several the first ones are for
            receivers that know the new secret already, the others for those that do not: each signs.
        headers: sent with each request, for example an Authorization.
        timeout: seconds for one request in all.
        types: the types of events that are sent, such as `completed` and `failed`; None sends all.
        client: an httpx client of your own (proxy, TLS); it is not closed.

    The body is `{"type": "transfer.completed", "timestamp": …, "data": {…}}`, with the event under `data` as
    `event_object` has it. A repeated event has the same `webhook-id`. A 429 or 503 with Retry-After is come
    back to then; 410 Gone is tried once an hour, until the sink is removed.

    Raises:
        InvalidArgument: the url, a secret, a header or a type can't be used.
    """

    def __init__(
        self,
        url: str,
        *,
        secret: Secrets,
        headers: Mapping[str, str] | None = None,
        timeout: float = 20.0,
        types: Collection[str] | None = None,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        super().__init__()
        check_url(url)
        if not isinstance(timeout, int | float) or not timeout > 0:
            raise InvalidArgument(f"timeout {timeout!r}: expected seconds, more than 0")
        if types is not None:
            listed = isinstance(types, Collection) and not isinstance(types, str | bytes)
            unknown = [each for each in types if each not in [*EVENT_TYPES]] if listed else [types]
            if unknown:
                raise InvalidArgument(f"types {unknown!r}: expected a list of {', '.join(EVENT_TYPES)}")
        self._url = url
        self._keys = _keys(secret)
        self._headers = dict(named("headers", headers, "texts"))
        for name, value in self._headers.items():
            check_header(name, value)
        self._timeout = timeout
        self._types = None if types is None else frozenset(types)
        self._client = client
        self._owned = client is None
        self._wall: Callable[[], float] = time.time

    def __repr__(self) -> str:
        return f"<Webhook {redact(self._url)}>"

    async def aclose(self) -> None:
        if self._owned and self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    async def take(self, event: LoggedEvent) -> None:
        data = event_object(event)
        if self._types is not None and data["type"] not in self._types:
            return
        body = msgspec.json.encode(
            {"type": f"transfer.{data['type']}", "timestamp": data["at"], "data": data}
        )
        at = str(int(self._wall()))
        headers = self._headers | {
            "content-type": "application/json",
            "webhook-id": event.id,
            "webhook-timestamp": at,
            "webhook-signature": " ".join(_signature(key, event.id, at, body) for key in self._keys),
        }
        try:
            with anyio.fail_after(self._timeout):
                status, retry_after, date = await self._post(body, headers)
        except TimeoutError:
            raise SinkError(f"{redact(self._url)}: no answer within {self._timeout:g} s") from None
        except httpx.RequestError as error:  # not as a cause: the request that hangs on it has the whole URL
            raise SinkError(judge(error, self._url).detail) from None
        self._judge(status, parse_retry_after(retry_after, date, int(self._wall() * 1000)))

    async def _post(self, body: bytes, headers: dict[str, str]) -> tuple[int, str | None, str | None]:
        if self._client is None:  # reading the certificate authorities takes a while
            self._client = await anyio.to_thread.run_sync(_new_client)
        request = self._client.stream(
            "POST",
            self._url,
            content=body,
            headers=headers,
            timeout=self._timeout,
            follow_redirects=False,
        )
        async with request as reply:
            read = 0
            async for chunk in reply.aiter_raw():
                read += len(chunk)
                if read > _REPLY_READ:
                    break
            return reply.status_code, reply.headers.get("retry-after"), reply.headers.get("date")

    def _judge(self, status: int, retry_after: int | None) -> None:
        if 200 <= status <= 299:  # noqa: PLR2004  # the 2xx class
            return
        if status == httpx.codes.GONE:
            raise RetryLater(
                _GONE_WAIT,
                f"{redact(self._url)} answered 410 Gone: it wants no more; remove the sink",
            )
        answered = f"{redact(self._url)} answered {status}"
        if retry_after is not None:
            raise RetryLater(max(_LEAST_WAIT, retry_after / 1000), f"{answered} and asked to wait")
        raise SinkError(answered)


def verify_webhook(
    headers: Mapping[str, str],
    body: str | bytes,
    secret: Secrets,
    *,
    tolerance: float = TOLERANCE,
    now: float | None = None,
) -> Any:
    """The payload of a webhook that was signed with one of `secret`: for receivers.

    Args:
        headers: of the request; names in any case.
        body: as it came, byte for byte.
        secret: as `Webhook` takes it; several while they are being changed.
        tolerance: seconds that it may be old, or from the future.
        now: seconds since 1970 UTC; the system's clock unless given.

    Raises:
        InvalidSignature: it was not signed with the secret, was changed on its way, or is too old.
        InvalidArgument: a secret can't be used.
    """
    keys = _keys(secret)
    raw = body.encode() if isinstance(body, str) else body
    fields = {name.lower(): value for name, value in named("headers", headers, "texts").items()}
    try:
        identity, at = fields["webhook-id"], fields["webhook-timestamp"]
        offered = fields["webhook-signature"].split()
        age = abs((time.time() if now is None else now) - int(at))
    except (KeyError, ValueError):
        raise InvalidSignature(
            "expected the headers webhook-id, webhook-timestamp (seconds) and webhook-signature"
        ) from None
    expected = [_signature(key, identity, at, raw).encode() for key in keys]
    # Every pair is compared, in constant time each: how long it takes tells nothing of a key.
    matches = [hmac.compare_digest(one.encode(), other) for one in offered for other in expected]
    if not any(matches):
        raise InvalidSignature("no signature of the webhook was made with the secret")
    if age > tolerance:
        raise InvalidSignature(f"the webhook is {age:.0f} s away from now; {tolerance:g} s are allowed")
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError as error:
        raise InvalidSignature(f"the webhook's body is no JSON: {error}") from None


def _signature(key: bytes, identity: str, at: str, body: bytes) -> str:
    signed = hmac.new(key, f"{identity}.{at}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(signed.digest()).decode()}"


def _keys(secret: Secrets) -> list[bytes]:
    if not isinstance(secret, str | bytes | Sequence):
        raise InvalidArgument(f"secret: expected a text, bytes, or a list of them, got {kind_of(secret)}")
    secrets = [secret] if isinstance(secret, str | bytes) else list(secret)
    if not secrets:
        raise InvalidArgument("secret: expected at least one")
    return [_key(each) for each in secrets]


def _key(secret: Secret) -> bytes:
    """The key; errors never show any of it."""
    expected = f"expected '{_PREFIX}' and base64, or bytes, of at least {_LEAST_KEY} bytes"
    if isinstance(secret, bytes):
        key = secret
    elif isinstance(secret, str) and secret.startswith(_PREFIX):
        try:
            key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
        except binascii.Error:
            raise InvalidArgument(f"secret: no base64 behind '{_PREFIX}'; {expected}") from None
    else:
        raise InvalidArgument(f"secret: {expected}")
    if len(key) < _LEAST_KEY:
        raise InvalidArgument(f"secret of {len(key)} bytes: {expected}")
    return key


def _new_client() -> httpx.AsyncClient:
    return httpx.AsyncClient(headers={"User-Agent": USER_AGENT})
