"""A journal that loses the power with its machine, whichever adapter it is, and what is left of it then."""

import copy
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from meowcat.core.errors import JournalClosed
from meowcat.core.values import Position, TaskId
from meowcat.journal.contract import Damage, Entry, Epoch, Journal, Owner, Record, Sync
from meowcat.journal.locate import locate
from meowcat.testing.power import Power, PowerLost

__all__ = ["FolderMedium", "MakeJournal", "Medium", "MemoryMedium", "MortalJournal"]

MakeJournal = Callable[[Path], Journal]
"""Makes the application's journal, not yet open, in a folder where an earlier one may have left its files."""


class Medium(Protocol):
    """Where a journal keeps its records, beyond the life of a process."""

    def journal(self) -> Journal:
        """The journal as the next process finds it, not yet open."""

    def image(self) -> "Medium":
        """What a process that dies now leaves: all that was written, and no owner."""


class MemoryMedium:
    """meowcat's journal in memory, with everything that it acknowledged."""

    def __init__(self, journal: Journal | None = None) -> None:
        self._journal: Any = journal or locate("memory:")  # the adapter, which is never imported by name

    def journal(self) -> Journal:
        journal: Journal = type(self._journal)(store=self._journal.store)
        return journal

    def image(self) -> "MemoryMedium":
        store = copy.deepcopy(self._journal.store)
        store.owner = None
        return MemoryMedium(type(self._journal)(store=store))


class FolderMedium:
    """A real folder, for a journal of files. What a killed process leaves is a copy of it, so that no lock of
    the dead journal, and nothing that it still does while it is let go, reaches the next one.
    """

    def __init__(self, make: MakeJournal) -> None:
        self._make = make
        self._folder = Path(tempfile.mkdtemp(prefix="meowcat-world-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def journal(self) -> Journal:
        return self._make(self._folder)

    def image(self) -> "FolderMedium":
        twin = FolderMedium(self._make)
        shutil.copytree(self._folder, twin._folder, dirs_exist_ok=True)
        return twin


class MortalJournal:
    """A `Journal` whose changes are calls of a machine's `Power`: each may be the last. Reading is not
    counted, since a death there leaves what the change before it has left.

    Once the power is gone, everything raises JournalClosed: an engine then gives up at once.
    """

    def __init__(self, medium: Medium, power: Power) -> None:
        self._medium = medium  # kept for as long as its journal may still write there
        self._journal = medium.journal()
        self._power = power
        self.max_record = self._journal.max_record
        self.sync: Sync | None = None
        """As it was opened; None before."""
        self.closed = False

    @contextmanager
    def _change(self, name: str, *details: object) -> Iterator[Journal]:
        try:
            with self._power.call(f"journal.{name}", *details):
                yield self._journal
        except PowerLost:
            raise JournalClosed("the power is gone") from None

    def _look(self) -> Journal:
        if self._power.off:
            raise JournalClosed("the power is gone")
        return self._journal

    def open(self, owner: Owner, sync: Sync) -> Epoch:
        with self._change("open") as journal:
            epoch = journal.open(owner, sync)
            self.sync = sync
            return epoch

    def append(self, batch: Sequence[Entry]) -> Position:
        with self._change("append", ", ".join(entry.type for entry in batch)) as journal:
            return journal.append(batch)

    def reopen(self) -> Position:
        with self._change("reopen") as journal:
            return journal.reopen()

    def set_cursor(self, name: str, position: Position | None) -> None:
        with self._change("set_cursor", name, position) as journal:
            journal.set_cursor(name, position)

    def put_snapshot(self, name: str, position: Position, body: bytes) -> None:
        with self._change("put_snapshot", name, position) as journal:
            journal.put_snapshot(name, position, body)

    def close(self) -> None:
        if self._power.off:
            self.let_go()
            return
        with self._change("close"):
            self.let_go()

    def let_go(self) -> None:
        """Close the application's own journal, which the process that is over did not."""
        self.closed = True
        self._journal.close()

    def read(self, task: TaskId, after: int = 0) -> Sequence[Record | Damage]:
        return self._look().read(task, after)

    def unfinished(self) -> Iterator[TaskId]:
        return self._look().unfinished()

    def scan(self, after: Position, limit: int) -> Sequence[Record | Damage]:
        return self._look().scan(after, limit)

    def last(self) -> Position:
        return self._look().last()

    def cursors(self) -> Mapping[str, Position]:
        return self._look().cursors()

    def get_snapshot(self, name: str) -> tuple[Position, bytes] | None:
        return self._look().get_snapshot(name)
