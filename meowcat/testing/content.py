"""Contents for the test servers: any number of deterministic bytes, without holding them."""

import hashlib
from collections.abc import Iterator
from email.utils import formatdate
from functools import cached_property
from pathlib import Path
from random import Random

BLOCK = 64 * 1024
"""Bytes in a block: each begins with its own number, so that two swapped blocks show in any digest."""

_POOL = 1024 * 1024


class Content:
    """`size` pseudo-random bytes that depend on `seed` alone, or exactly the bytes of `data`.

    `etag` is `strong`, `weak`, None (no ETag) or a whole field value; `modified` is seconds since 1970, or
    None for no Last-Modified.
    """

    def __init__(
        self,
        size: int = 0,
        *,
        seed: int = 0,
        data: bytes | Path | None = None,
        etag: str | None = "strong",
        modified: int | None = 1_700_000_000,
        content_type: str = "application/octet-stream",
    ) -> None:
        self._data = data.read_bytes() if isinstance(data, Path) else data
        self.size = size if self._data is None else len(self._data)
        self.seed = seed
        self.content_type = content_type
        self.last_modified = None if modified is None else formatdate(modified, usegmt=True)
        name = f'"{seed:x}-{self.size:x}"' if self._data is None else f'"{self.sha256[:16]}"'
        self.etag = {"strong": name, "weak": f"W/{name}"}.get(etag, etag) if etag else None

    @cached_property
    def _pool(self) -> bytes:
        # Seeded on purpose: every run must see the same bytes.
        return Random(self.seed).randbytes(_POOL + BLOCK)  # noqa: S311  # test bytes, no secret

    @cached_property
    def sha256(self) -> str:
        """The digest of all bytes, in hexadecimal digits."""
        digest = hashlib.sha256()
        for chunk in self.chunks(0, self.size):
            digest.update(chunk)
        return digest.hexdigest()

    def _block(self, number: int) -> bytes:
        start = number * 2654435761 % _POOL
        return number.to_bytes(16, "big") + self._pool[start : start + BLOCK - 16]

    def chunks(self, start: int, stop: int, size: int = BLOCK) -> Iterator[bytes]:
        """The bytes `start` to `stop` (excluded) in chunks of at most `size` bytes (and one block)."""
        while start < stop:
            end = min(stop, start + size, (start // BLOCK + 1) * BLOCK)
            if self._data is not None:
                yield self._data[start:end]
            else:
                offset = start // BLOCK * BLOCK
                yield self._block(start // BLOCK)[start - offset : end - offset]
            start = end

    def bytes(self, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes of a range, joined."""
        return b"".join(self.chunks(start, self.size if stop is None else min(stop, self.size)))
