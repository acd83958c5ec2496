"""Bodies of requests, which are iterators of chunks."""

from collections.abc import AsyncIterator

from meowcat.transport.contract import Chunk

__all__ = ["let_go"]


async def let_go(chunks: AsyncIterator[Chunk]) -> None:
    """A request that is stopped lets go of its source at once, not when the garbage is collected."""
    close = getattr(chunks, "aclose", None)  # a generator has it, and who wraps one
    if close is not None:
        await close()
