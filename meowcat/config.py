"""The settings of an engine: frozen and checked when made."""

import os
from dataclasses import dataclass, field, fields
from typing import Literal, get_args
from urllib.parse import urlsplit

from meowcat.core.errors import InvalidArgument
from meowcat.core.kinds import kind_of
from meowcat.core.transfers import check_digest, check_header

Durability = Literal["power", "process"]

KIB, MIB = 1 << 10, 1 << 20

MOST_RATE = 1 << 50
"""Bytes a second that a limit may allow."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of an engine. Sizes are bytes, times are seconds, rates are bytes a second.

    Raises:
        InvalidArgument: a value is out of bounds; the message names it and what is allowed.
    """

    max_downloads: int = 2
    """Downloads at work at once, 1 to 1024."""
    max_uploads: int = 2
    max_fetches: int = 2
    """Bodies that `Engine.fetch` takes at once, 1 to 64."""
    max_per_host: int | None = None
    """Tasks at work at once on one host (scheme, name and port); None = no bound of its own."""
    durability: Durability = "power"
    """`power`: an acknowledged transition survives a power failure. `process`: it survives kill -9; a power
    failure may undo it, and damage a file that was reported Complete just before."""
    connections: int | None = None
    """Requests at once for one task, unless the task says otherwise: 1 to 256. None begins with 4 and goes up
    to 16 while that makes it faster."""
    piece_size: int | None = None
    """Bytes in a piece, unless the task says otherwise; None = 256 KiB to 4 MiB by the size of the content,
    or more for a huge one."""
    retries: int = 3
    """Extra attempts after a failure without progress in between, unless the task says otherwise."""
    prepare_retries: int = 3
    """Extra attempts to prepare an upload, unless the task says otherwise."""
    digest: str | None = None
    """A digest to compute over each whole file, unless the task says otherwise: `sha256` or another that
    `Download.checksum` knows. None: none, but `sha256` where the engine has an `Audit`; `none`: none."""
    accept: str | None = None
    """The Accept header of downloads over plain HTTP, unless the task says otherwise; None is `*/*`."""
    limit_rate: int | None = None
    """For all tasks together. This, the next and a task's own hold together; `Engine.set_limit_rate` changes
    them while the engine runs."""
    limit_rate_per_host: int | None = None
    """For all tasks of each host (scheme, name and port) together."""
    connect_timeout: float = 10.0
    read_timeout: float = 30.0
    """Silence of a peer, headers included. Also the longest that a stopped request's socket stays open."""
    lowest_rate: int | None = 16
    """Bytes a second that the body of a download's reply has to bring at least, over `read_timeout` of
    waiting for it: less is a failed attempt. None puts up with all that is not silence."""
    pool_timeout: float = 60.0
    max_retry_after: float = 3600.0
    """The longest wait that a server is granted by one Retry-After, 0 to a day: for all tasks of its host."""
    http2: bool = False
    """Over HTTP/2 all requests to a host share one connection: rarely faster for large files."""
    ca_bundle: str | None = None
    """A PEM file of further certificate authorities to trust, for a private CA."""
    proxy: str | None = field(default=None, repr=False)
    """The URL of a proxy for all requests; None takes what the environment names (HTTPS_PROXY and so on).
    Not shown, since it may hold a password."""
    max_requests: int = 256
    """Requests at once in the whole engine: 1 to 256."""
    max_in_flight: int = 512 * MIB
    """Bytes of transfers' bodies held in memory in the whole engine, at most 512 MiB."""
    queue_capacity: int = 128
    """Commands that may wait at once: `submit` waits for room, `submit_nowait` raises QueueFull."""
    fetch_capacity: int = 1024
    """Calls of `Engine.fetch` that may be under way or wait at once: one more raises FetchQueueFull."""
    control: bool = True
    """Listen on a Unix socket beside the journal (mode 0600), where other processes of the same user can ask
    for a pause, a list and so on. Without effect on a journal that has no place for it."""
    flush_bytes: int = 64 * MIB
    flush_seconds: float = 0.25
    """A flush begins after so many bytes or so much time, whichever is first."""

    def __post_init__(self) -> None:
        self._within("max_downloads", 1, 1024)
        self._within("max_uploads", 1, 1024)
        self._within("max_fetches", 1, 64)
        self._within("max_per_host", 1, 1024)
        self._within("connections", 1, 256)
        self._within("piece_size", 64 * KIB, 512 * MIB)
        self._within("retries", 0, 1_000_000)
        self._within("prepare_retries", 0, 1_000_000)
        self._within("limit_rate", 1, MOST_RATE)
        self._within("limit_rate_per_host", 1, MOST_RATE)
        self._within("connect_timeout", 0.001, 86_400)
        self._within("read_timeout", 0.001, 86_400)
        self._within("lowest_rate", 1, MOST_RATE)
        self._within("pool_timeout", 0.001, 86_400)
        self._within("max_retry_after", 0, 86_400)
        self._within("max_requests", 1, 256)
        self._within("max_in_flight", MIB, 512 * MIB)
        self._within("queue_capacity", 1, 1_000_000)
        self._within("fetch_capacity", 1, 1_000_000)
        self._within("flush_bytes", MIB, 512 * MIB)
        self._within("flush_seconds", 0.001, 60)
        for name in ("http2", "control"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidArgument(f"{name} {getattr(self, name)!r}: expected True or False")
        if self.ca_bundle is not None and not isinstance(self.ca_bundle, str | os.PathLike):
            raise InvalidArgument(
                f"ca_bundle: expected the path of a PEM file, got {kind_of(self.ca_bundle)}"
            )
        check_digest(self.digest)
        check_header("accept", self.accept or "*/*")
        if self.proxy is not None and not _is_proxy(self.proxy):
            raise InvalidArgument("proxy: expected a URL such as http://proxy.example:3128")
        if self.durability not in get_args(Durability):
            raise InvalidArgument(f"durability {self.durability!r}: expected 'power' or 'process'")

    def _within(self, name: str, least: float, most: float) -> None:
        value: object = getattr(self, name)
        whole, optional = _NUMBERS[name]
        if value is None and optional:
            return
        kind = int if whole else int | float
        if not isinstance(value, kind) or isinstance(value, bool) or not least <= value <= most:
            what = "a whole number from " if whole else ""
            raise InvalidArgument(f"{name} {value!r}: expected {what}{least:,} to {most:,}")


_NUMBERS = {each.name: (each.type in (int, int | None), each.type == int | None) for each in fields(Config)}
"""Of each setting that is a number: whether it is a whole one, and whether it may be None."""

_PROXY_SCHEMES = {"http", "https", "socks5", "socks5h"}


def _is_proxy(url: object) -> bool:
    """The URL is never quoted back: it may hold a password."""
    if not isinstance(url, str):
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme in _PROXY_SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
