"""Reading ahead: while some bytes of a source are in use, those after them are read."""

from collections.abc import Callable, Sequence
from typing import Self

import anyio
from anyio.abc import TaskGroup

from meowcat.core.values import SourceIdentity
from meowcat.protocols.contract import Refused
from meowcat.transfer.context import Budget
from meowcat.transfer.digests import Hasher, Stopped
from meowcat.transfer.sources import Buffers, Opened
from meowcat.transport.contract import Chunk

__all__ = ["Hold", "ReadAhead"]


class Hold:
    """What somebody holds of the engine's memory; the end of its `with` block gives all of it back."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._held = 0
        self.closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def take(self, size: int) -> None:
        """Wait for room for `size` bytes more.

        Raises:
            Stopped: it was closed meanwhile.
        """
        await self._budget.take(size)
        if self.closed:
            self._budget.give(size)
            raise Stopped
        self._held += size

    def take_spare(self, size: int, beside: int = 0) -> bool:
        """Take room that nobody is short of, if there is any; see `Budget.take_spare`."""
        taken = not self.closed and self._budget.take_spare(size, beside)
        self._held += size if taken else 0
        return taken

    def give(self, size: int) -> None:
        if not self.closed:
            self._held -= size
            self._budget.give(size)

    def close(self) -> None:
        """Give back all, and take no more. May be called again."""
        self.closed = True
        self._budget.give(self._held)
        self._held = 0


class _Step:
    """Some bytes that are being read."""

    __slots__ = ("blocks", "done", "error", "size", "start")

    def __init__(self, start: int, size: int) -> None:
        self.start = start
        self.size = size
        self.blocks: list[Chunk] = []
        self.done = anyio.Event()
        self.error: Exception | None = Stopped()  # what it is until it is read: the group may be canceled


class ReadAhead:
    """The bytes of `source` from `start` to `stop`, in order, `step` of them at a time.

    The reading is done by tasks of `group`, not by whoever asks for the bytes: that may be a task of an HTTP
    client's, which is gone from one chunk to the next. At most two steps are held in memory at once.

    Args:
        buffers: are read into; blocks go back there with the call after that which handed them out.
        hashers: fed with all bytes, in order.
        last: told what the source looked like after its last byte was read, before that is handed out; also
            where there is none.
        taken: whether the memory of the first step was taken already.

    Raises:
        Stopped: the hold is closed already.
    """

    def __init__(
        self,
        source: Opened,
        group: TaskGroup,
        hold: Hold,
        buffers: Buffers,
        start: int,
        stop: int,
        step: int,
        *,
        hashers: Sequence[Hasher] = (),
        last: Callable[[SourceIdentity], None] | None = None,
        taken: bool = False,
    ) -> None:
        self._source = source
        self._group = group
        self._hold = hold
        self._buffers = buffers
        self._stop = stop
        self._step = step
        self._hashers = hashers
        self._last = last
        self._in_use: _Step | None = None
        self._next: _Step | None = None
        if hold.closed:
            raise Stopped
        self._begin(start, taken=taken)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Chunk]:
        """The next blocks; those of the call before are done with.

        Raises:
            Refused: as `Opened.read`, and what `last` raises.
            Stopped: the group was canceled, or the hold closed.
        """
        self.give_back()
        step = self._next
        if step is None:
            raise StopAsyncIteration
        await step.done.wait()
        if step.error is not None:
            raise step.error
        if self._hold.closed:
            raise Stopped
        self._in_use, self._next = step, None
        if (after := step.start + step.size) < self._stop:
            self._begin(after)
        return step.blocks

    def give_back(self) -> None:
        """The blocks that were handed out last are done with."""
        used, self._in_use = self._in_use, None
        if used is not None:
            self._hold.give(used.size)
            self._buffers.give(used.blocks)

    async def keep(self) -> list[Chunk] | None:
        """All the bytes, the caller's own from then on; None where the first step is not all, and is given
        back. Nothing was asked for yet, and nothing more will be.

        Raises:
            Refused, Stopped: as `__anext__`.
        """
        step, self._next = self._next, None
        assert step is not None  # noqa: S101  # begun, and nothing was asked for
        await step.done.wait()
        if step.start + step.size < self._stop:
            self._hold.give(step.size)
            self._buffers.give(step.blocks)
            return None
        if step.error is not None:
            raise step.error
        return step.blocks

    def _begin(self, start: int, *, taken: bool = False) -> None:
        self._next = _Step(start, min(self._step, self._stop - start))
        self._group.start_soon(self._read, self._next, taken)

    async def _read(self, step: _Step, taken: bool) -> None:
        try:
            if not taken:
                await self._hold.take(step.size)
            where = step.start, step.size, self._hashers, self._buffers
            if step.start + step.size == self._stop and self._last is not None:
                step.blocks, now = await self._source.read_last(*where)
                self._last(now)
            else:
                step.blocks = await self._source.read(*where)
            step.error = None
        except (Refused, Stopped) as failure:
            step.error = failure
        finally:
            step.done.set()
