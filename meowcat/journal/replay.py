"""The journal read back: folds of events, with damage kept to the task that it hit.

Pure, but for `fold_all`, which reads the journal in a thread. `evolve` is passed in and never consulted about
what is legal: events that were once accepted are facts.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

import anyio.to_thread
from msgspec import Struct

from meowcat.core.events import Event
from meowcat.core.values import Position, TaskId
from meowcat.journal.chain import UNFIT, link
from meowcat.journal.codec import decode
from meowcat.journal.contract import GENESIS, Damage, Epoch, Journal, Record
from meowcat.journal.histories import AT_ONCE, histories

T = TypeVar("T")
Evolve = Callable[[T | None, Event], T]

_START = Position(0)
_NEVER = -2
"""A `seq` that no record follows."""
_READ_AT_ONCE = 2000
"""Records per read of a scan: some 20 ms of work, after which a cancellation is heard."""


class Quarantined(Struct, frozen=True):
    """A task whose records don't add up: it is kept out, and all others go on."""

    task: TaskId
    detail: str


def fold_task(task: TaskId, records: Iterable[Record | Damage], evolve: Evolve[T]) -> T | Quarantined:
    """The task's state after all of its records, which begin with the first."""
    return fold_tasks([task], [records], evolve)[0]


def fold_tasks(
    tasks: Sequence[TaskId], histories: Iterable[Iterable[Record | Damage]], evolve: Evolve[T]
) -> list[T | Quarantined]:
    """Of each task the state after all of its records, which begin with the first."""
    fold = Fold(evolve)
    found: list[T | Quarantined] = []
    for task, records in zip(tasks, histories, strict=True):
        fold.add(records)
        if fold.damage:
            found.append(Quarantined(task, fold.damage[0].detail))
            fold.damage.clear()
        else:
            damaged = fold.quarantined.get(task)
            found.append(damaged or fold.tasks.get(task) or _unrecorded(task))
    return found


@dataclass
class Fold(Generic[T]):
    """A fold over the records of many tasks, as a scan brings them."""

    evolve: Evolve[T]
    tasks: dict[TaskId, T] = field(default_factory=dict)
    quarantined: dict[TaskId, Quarantined] = field(default_factory=dict)
    damage: list[Damage] = field(default_factory=list)
    """What could not be laid to a task; a gap in the sequence of a task that goes on quarantines it, too."""
    _seqs: dict[TaskId, int] = field(default_factory=dict)

    def add(self, records: Iterable[Record | Damage]) -> None:
        """Fold in the next records, in order of position. One loop without calls: it runs a million times."""
        tasks, seqs, evolve = self.tasks, self._seqs, self.evolve
        for record in records:
            if isinstance(record, Damage):
                self._note(record)
                continue
            task = record.task
            if record.seq == (seq := seqs.get(task, 0) + 1):
                try:
                    event = decode(record.type, record.version, record.body)
                    tasks[task] = evolve(tasks.get(task), event)
                except Exception as error:  # noqa: BLE001  # a bad event must not reach the other tasks
                    self._quarantine(task, _unreplayable(record, error))
                else:
                    seqs[task] = seq
            elif task not in self.quarantined:
                self._quarantine(task, _gap(record, seq))

    def _note(self, damage: Damage) -> None:
        if damage.task is None:
            self.damage.append(damage)
        else:
            self._quarantine(damage.task, damage.detail)

    def _quarantine(self, task: TaskId, detail: str) -> None:
        """Keep the task out; of several reasons the first stays."""
        self.quarantined.setdefault(task, Quarantined(task, detail))
        self.tasks.pop(task, None)
        self._seqs[task] = _NEVER


async def fold_all(journal: Journal, evolve: Evolve[T]) -> Fold[T]:
    """The states of all tasks, finished ones included: for listings. Memory is proportional to them."""
    fold = Fold(evolve)
    after: Position | None = _START
    while after is not None:
        after = await anyio.to_thread.run_sync(partial(_read_on, journal, fold, after))
    if fold.damage:
        await anyio.to_thread.run_sync(_lay_to_tasks, journal, fold)
    return fold


def _read_on(journal: Journal, fold: Fold[T], after: Position) -> Position | None:
    records = journal.scan(after, _READ_AT_ONCE)
    fold.add(records)
    return records[-1].position if len(records) == _READ_AT_ONCE else None


def _lay_to_tasks(journal: Journal, fold: Fold[T]) -> None:
    """Keep out whose the damage is that a scan could not say it of: the journal may know when it is asked for
    the task, by an index say."""
    tasks = [*fold.tasks, *fold.quarantined]
    known: set[Position | None] = set()
    for first in range(0, len(tasks), AT_ONCE):
        asked = tasks[first : first + AT_ONCE]
        for task, history in zip(asked, histories(journal, asked), strict=True):
            if isinstance(history, Exception):
                continue
            hit = [each for each in history if isinstance(each, Damage) and each.task == task]
            fold.add(hit)
            known.update(each.position for each in hit)
    fold.damage = [each for each in fold.damage if each.position is None or each.position not in known]


def verify_chain(
    records: Iterable[Record | Damage], previous: bytes = GENESIS, after: Position = _START
) -> Iterator[Damage]:
    """Whatever does not follow from the records before it: a changed, missing, added or moved record.

    Args:
        records: a scan of the whole journal, or of all behind `after`.
        previous: the chain's value at `after`.
        after: the position before the first record.

    """
    known: bytes | None = previous
    epoch = Epoch(0)
    for record in records:
        if isinstance(record, Damage):
            yield record
            known, after = None, record.position or Position(after + 1)
            continue
        if record.position != after + 1:
            yield Damage(f"records {after + 1} to {record.position - 1} are missing", Position(after + 1))
        elif record.epoch < epoch:
            yield _out_of_line(record, f"epoch {record.epoch} after {epoch}")
        elif known is not None and not _follows(known, record):
            yield _out_of_line(record, "the hash chain is broken")
        known, after, epoch = record.chain, record.position, max(epoch, record.epoch)


def _follows(previous: bytes, record: Record) -> bool:
    try:
        return link(previous, record, record.epoch, record.position) == record.chain
    except UNFIT:  # a field of a type that no record has
        return False


def _out_of_line(record: Record, detail: str) -> Damage:
    return Damage(f"record {record.position}: {detail}", record.position, record.task)


def _unrecorded(task: TaskId) -> Quarantined:
    return Quarantined(task, "the journal has no record of it")


def _unreplayable(record: Record, error: Exception) -> str:
    return f"record {record.seq} ({record.type}) can't be replayed: {error}"


def _gap(record: Record, expected: int) -> str:
    return f"record {record.seq} stands where {expected} is expected"
