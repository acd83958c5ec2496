"""Records to try a journal with, and how they should come back."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

from meowcat.core.errors import MeowcatError
from meowcat.core.values import Position, TaskId
from meowcat.journal.contract import BulkJournal, Damage, Entry, Journal, ReadableJournal, Record
from meowcat.journal.replay import verify_chain
from meowcat.testing.journal.harness import OWNER, JournalHarness, Lacking


def entry(
    task: str, seq: int, body: bytes = b"{}", *, unfinished: bool = True, kind: str = "created"
) -> Entry:
    """An entry of no particular event: a journal never looks into a body."""
    return Entry(TaskId(task), seq, unfinished, kind, 1, 1_700_000_000_000, body)


def given(record: Record | Damage) -> Entry:
    """What was appended to make `record`."""
    assert isinstance(record, Record), record
    return Entry(record.task, record.seq, record.open, record.type, record.version, record.at, record.body)


def scan_all(journal: Journal, limit: int = 7) -> list[Record | Damage]:
    """All records, read in small steps."""
    found: list[Record | Damage] = []
    after = Position(0)
    while batch := journal.scan(after, limit):
        found += batch
        last = batch[-1].position or Position(after + len(batch))
        assert last > after, f"a scan behind {after} ends at {last}: it never comes to an end"
        after = last
    return found


def check_stored(journal: Journal, entries: Sequence[Entry]) -> None:
    """The journal holds `entries` and nothing else, in order, at positions 1, 2, 3 …, in one chain."""
    found = scan_all(journal)
    assert [given(record) for record in found] == list(entries)
    assert [record.position for record in found] == list(range(1, len(entries) + 1))
    assert journal.last() == len(entries)
    assert list(verify_chain(found)) == []


def opened(harness: JournalHarness) -> Journal:
    """A journal of the place, open for writing and closed when the check is over."""
    journal = harness.close_later(harness.make())
    journal.open(OWNER, harness.sync)
    return journal


def reader_of(harness: JournalHarness) -> tuple[Journal, ReadableJournal]:
    """One journal of the place, as both of what it is; not yet open.

    Raises:
        Lacking: it can't be read without ownership.

    """
    journal = harness.close_later(harness.make())
    if not isinstance(journal, ReadableJournal):
        raise Lacking("ReadableJournal: no open_for_reading")
    return journal, journal


class refused:  # noqa: N801  # reads as a word of the sentence, like pytest.raises
    """A block that must raise one of `kinds`; `error` has what it raised."""

    def __init__(self, *kinds: type[BaseException]) -> None:
        self._kinds = kinds
        self.error: BaseException = AssertionError("nothing was raised")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        names = " or ".join(each.__name__ for each in self._kinds)
        assert error is not None, f"this must raise {names}, and nothing was raised"
        self.error = error
        return isinstance(error, self._kinds)


@dataclass(frozen=True)
class Contents:
    """All that a journal says of what it holds. A view that refused is the error that it raised."""

    scanned: "list[Record | Damage] | MeowcatError"
    tasks: "Mapping[str, list[Record | Damage] | MeowcatError]"
    unfinished: "list[str] | MeowcatError"
    cursors: "dict[str, int] | MeowcatError"
    snapshot: "tuple[int, bytes] | MeowcatError | None"


T = TypeVar("T")


def _view(read: Callable[[], T]) -> T | MeowcatError:
    try:
        return read()
    except MeowcatError as error:
        return error


def _read(journal: Journal, task: str) -> list[Record | Damage]:
    return list(journal.read(TaskId(task)))


def _histories(journal: Journal, tasks: Iterable[str]) -> "dict[str, list[Record | Damage] | MeowcatError]":
    """Each task's records. A journal that reads many at once must say the same of them, or refuse; by another
    way to the same records it may miss a damage that hides none of them."""
    alone = {task: _view(partial(_read, journal, task)) for task in tasks}
    if isinstance(journal, BulkJournal):
        together = _view(partial(journal.read_many, [TaskId(task) for task in alone]))
        if not isinstance(together, MeowcatError):
            for many, one in zip(together, alone.values(), strict=True):
                assert list(many) == one or _is_damaged(one), (many, one)
    return alone


def _is_damaged(found: Iterable[Record | Damage] | MeowcatError) -> bool:
    return isinstance(found, MeowcatError) or any(isinstance(each, Damage) for each in found)


SNAPSHOT = "all"
"""The name of the snapshot that `contents` asks for."""


def contents(journal: Journal, tasks: Iterable[str]) -> Contents:
    """Everything that an open journal says; only what is no error of meowcat comes out as an exception."""
    return Contents(
        _view(lambda: scan_all(journal, 50)),
        _histories(journal, tasks),
        _view(lambda: list(journal.unfinished())),
        _view(lambda: dict(journal.cursors())),
        _view(lambda: journal.get_snapshot(SNAPSHOT)),
    )
