"""Export and import: any journal as one file of lines, and such a file as any journal.

The file is a segment of the JSONL form (`docs/journal-format.md`) of whatever size. Records keep their
positions, epochs and chain values, so that what was signed of one journal holds for its copy. Advisory
snapshots are not part of it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from meowcat.core.errors import JournalDamaged, JournalTooNew, NotAJournal
from meowcat.core.values import Position
from meowcat.journal.chain import link
from meowcat.journal.checkup import IMPORTING, UNFINISHED, pages
from meowcat.journal.contract import FORMAT, GENESIS, Damage, Epoch, Journal, Record
from meowcat.journal.lines import (
    Commit,
    Cursor,
    Line,
    Opening,
    Segment,
    control_line,
    parse,
    record_lines,
)

_NONE = "0" * 64


@dataclass
class Batch:
    """What stands between two commits."""

    records: list[Record] = field(default_factory=list)
    cursors: list[Cursor] = field(default_factory=list)


def export_lines(journal: Journal) -> Iterator[Line]:
    """All of an open journal as lines; the same journal gives the same lines. Blocking.

    Raises:
        JournalDamaged: a record is not what was written, or some are not here, any more or yet: what is
            exported would not be the whole.

    """
    if IMPORTING in journal.cursors():
        raise JournalDamaged(UNFINISHED)
    chain, last, began = GENESIS, Position(0), False
    for page in pages(journal):
        records = [_sound(each) for each in page]
        if not began:
            began = True
            yield control_line(_head(records))
        for record in records:
            if record.position != last + 1:
                raise JournalDamaged(f"records {last + 1} to {record.position - 1} are not in the journal")
            last, chain = record.position, record.chain
        yield from record_lines(records)
        if records:
            yield control_line(Commit(len(records), last, chain.hex()))
    # Its owner may have gone on since: a cursor behind the end would skip what the copy records there.
    cursors = [Cursor(name, min(position, last)) for name, position in sorted(journal.cursors().items())]
    if cursors:
        yield from map(control_line, cursors)
        yield control_line(Commit(len(cursors), last, chain.hex()))
    yield control_line(Commit(0, last, chain.hex()))


def _sound(record: Record | Damage) -> Record:
    if isinstance(record, Damage):
        raise JournalDamaged(f"{record.detail}; only a sound journal can be exported: salvage it first")
    return record


def _head(records: Sequence[Record]) -> Segment:
    """A header that says the same of the same records."""
    first = records[0] if records else None
    name = first.chain.hex()[:32] if first else _NONE[:32]
    return Segment(FORMAT, name, 1, 1, first.epoch if first else 0, _NONE, _NONE, ends=True)


def read_export(lines: Iterable[bytes]) -> Iterator[Batch]:
    """The batches of an export, each checked against all before it. Blocking.

    Raises:
        NotAJournal, JournalTooNew: something else, or a later format.
        JournalDamaged: which line is not what was written, or where the file ends too early.

    """
    reader = _Reader()
    number = 0
    for number, line in enumerate(lines, 1):
        try:
            batch = reader.take(line)
        except JournalDamaged as error:
            if number == 1:
                raise NotAJournal("its first line is none of a journal's export") from error
            if not line.endswith(b"\n"):
                raise JournalDamaged(
                    f"it ends in the middle of line {number}: the export was broken off; make it anew"
                ) from error
            raise JournalDamaged(f"line {number}: {error}") from error
        if batch is not None:
            yield batch
    if number == 0:
        raise NotAJournal("it is empty; expected a journal's export")
    if reader.pending:
        raise JournalDamaged(f"it ends after line {number} in the middle of a batch: the end is missing")
    if not reader.ended:
        raise JournalDamaged(f"it ends after line {number}: the export was broken off; make it anew")


class _Reader:
    def __init__(self) -> None:
        self._begun = self._ends = False
        self._batch = Batch()
        self._chain, self._last, self._epoch = GENESIS, Position(0), Epoch(0)
        self.pending = 0
        """Lines since the last commit."""
        self.ended = False
        """Whether its end has come, or it says that it has none, as exports of early versions."""

    def take(self, line: bytes) -> Batch | None:
        value = parse(line)
        if not self._begun:
            self._begin(value)
            return None
        if self._ends and self.ended:
            raise JournalDamaged("it goes on behind its end")
        if isinstance(value, Commit):
            return self._commit(value)
        self.pending += 1
        if isinstance(value, Record):
            self._follow(value)
            self._batch.records.append(value)
        elif isinstance(value, Cursor):
            self._batch.cursors.append(value)
        elif isinstance(value, Segment):
            raise JournalDamaged("a second header; expected one file with one")
        elif isinstance(value, Opening):
            self._epoch = max(self._epoch, Epoch(value.epoch))
        return None

    def _begin(self, value: object) -> None:
        if not isinstance(value, Segment):
            raise JournalDamaged("no header")
        if value.format > FORMAT:
            raise JournalTooNew(f"an export of format {value.format}; this meowcat reads up to {FORMAT}")
        if value.first != 1:
            raise NotAJournal(f"it begins with record {value.first}; expected a whole journal, from record 1")
        self._begun, self._ends, self.ended = True, value.ends, not value.ends

    def _follow(self, record: Record) -> None:
        if record.position != self._last + 1:
            raise JournalDamaged(f"record {record.position} where {self._last + 1} is expected")
        if record.epoch < self._epoch:
            raise JournalDamaged(f"record {record.position}: epoch {record.epoch} after {self._epoch}")
        if link(self._chain, record, record.epoch, record.position) != record.chain:
            raise JournalDamaged(f"record {record.position}: the hash chain is broken")
        self._last, self._epoch, self._chain = record.position, record.epoch, record.chain

    def _commit(self, value: Commit) -> Batch | None:
        if (value.lines, value.last, value.chain) != (self.pending, self._last, self._chain.hex()):
            raise JournalDamaged(
                f"the commit is for {value.lines} lines up to record {value.last}; "
                f"{self.pending} up to {self._last} stand before it"
            )
        if not value.lines:
            self.ended = True
            return None
        batch, self._batch, self.pending = self._batch, Batch(), 0
        return batch
