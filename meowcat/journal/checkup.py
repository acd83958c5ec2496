"""Looking a whole journal over: is every record the one that was written, and does every task replay?"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from meowcat.core.state import TaskState, evolve
from meowcat.core.values import Position, TaskId
from meowcat.journal.contract import CheckedJournal, Damage, Journal, Record
from meowcat.journal.replay import Fold, verify_chain

PAGE = 2000
"""Records read at once."""
RESERVED = "meowcat:"
"""Cursors whose names begin so are meowcat's own, and no sink's."""
IMPORTING = f"{RESERVED}import"
"""A cursor of this name stands in a journal into which an import, or a salvage, is not finished."""
UNFINISHED = "an import or a salvage into this journal was not finished: remove it and begin again"


@dataclass
class Checkup:
    """What a look at every record found."""

    records: int = 0
    tasks: int = 0
    unfinished: int = 0
    epoch: int = 0
    """Of the last record."""
    chain: str = ""
    """The chain's value at the end, hexadecimal: it stands for all records."""
    damage: list[Damage] = field(default_factory=list)
    quarantined: dict[TaskId, str] = field(default_factory=dict)
    """Tasks that can't be replayed, and why."""

    @property
    def sound(self) -> bool:
        return not self.damage and not self.quarantined


def pages(journal: Journal) -> Iterator[list[Record | Damage]]:
    """All records, in order, a page at a time."""
    after: Position | None = Position(0)
    while after is not None:
        page = list(journal.scan(after, PAGE))
        yield page
        reached = max((each.position or after for each in page), default=after)
        after = Position(reached) if len(page) == PAGE and reached > after else None


def check(journal: Journal) -> Checkup:
    """Read all of an open journal: CRCs, the hash chain, epochs, sequences, and the replay of every task.

    Blocking. Memory is proportional to the tasks, a few hundred bytes each.
    """
    found = Checkup()
    if IMPORTING in journal.cursors():
        found.damage.append(Damage(UNFINISHED))
    fold = Fold(evolve)
    finished: set[TaskId] = set()

    def records() -> Iterator[Record | Damage]:
        for page in pages(journal):
            fold.add(page)
            _count(found, page)
            finished.update(take_finished(fold, page))
            yield from page

    found.damage += verify_chain(records())
    if isinstance(journal, CheckedJournal):
        found.damage += journal.check()
    found.quarantined = {task: each.detail for task, each in fold.quarantined.items()}
    found.unfinished = len(fold.tasks)
    found.tasks = len(finished | fold.tasks.keys() | found.quarantined.keys())
    return found


def take_finished(fold: Fold[TaskState], page: list[Record | Damage]) -> list[TaskId]:
    """Take those out of a fold that have finished with the records of a page, which it has just taken in."""
    states = [fold.tasks.get(task) for task in {each.task for each in page if each.task is not None}]
    finished = [state.id for state in states if state is not None and not state.open]
    for task in finished:
        del fold.tasks[task]
    return finished


def _count(found: Checkup, page: list[Record | Damage]) -> None:
    for record in page:
        if isinstance(record, Record):
            found.records += 1
            found.epoch, found.chain = record.epoch, record.chain.hex()
