"""What can be saved of a damaged journal: the whole histories of all tasks that still have them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from meowcat.core.decide import decide
from meowcat.core.errors import JournalError
from meowcat.core.messages import CommitFailed, Message, Pause, PublishFailed
from meowcat.core.state import TaskState, evolve
from meowcat.core.values import Fault, FaultKind, Instant, Position, TaskId
from meowcat.journal.checkup import IMPORTING, UNFINISHED, pages, take_finished
from meowcat.journal.codec import decode, encode
from meowcat.journal.contract import CheckedJournal, Damage, Entry, Journal, Record
from meowcat.journal.replay import Fold

APPEND = 1000
"""Records stored at once."""


@dataclass
class Salvage:
    """What a salvage kept, and what not."""

    kept: int = 0
    """Records."""
    tasks: int = 0
    left_out: dict[TaskId, str] = field(default_factory=dict)
    """Tasks whose history has a hole, and why: not in the new journal at all, or `cut`."""
    cut: dict[TaskId, int] = field(default_factory=dict)
    """Of those, tasks that are kept up to this `seq`, and Paused there; or Failed where all was verified, and
    only the rename or the commit was still owed."""
    damage: list[str] = field(default_factory=list)
    """Places that could not be laid to a task."""
    missing: int = 0
    """Records that can't be read any more."""


def salvage(source: Journal, target: Journal, at: int, *, partial: bool = False) -> Salvage:
    """Copy what is whole from `source`, open for reading, to `target`, open for writing and empty. Blocking.

    Tasks with a hole in their history are left out: a state that is folded of half a history is not true.
    With `partial` they are kept up to the hole, and Paused or Failed with a reason, where the lifecycle
    allows it. The new journal numbers its records anew, and its cursors are where they were between the
    records.

    Args:
        source: damaged; not changed.
        target: where to.
        at: now, in milliseconds since 1970 UTC.
        partial: whether to keep beginnings.

    """
    found = Salvage()
    ends = _whole(source, found)
    cursors = dict(source.cursors())
    if cursors.pop(IMPORTING, None) is not None:
        found.damage.append(UNFINISHED)
    target.set_cursor(IMPORTING, Position(0))  # a salvage that is cut off must not pass for a whole one
    passed = dict.fromkeys(cursors, Position(0))
    stop = ends if partial else {task: seq for task, seq in ends.items() if task not in found.left_out}
    for batch in _kept(source, stop):
        target.append([_entry(record) for record in batch])
        found.kept += len(batch)
        for name, position in cursors.items():
            passed[name] = Position(passed[name] + sum(each.position <= position for each in batch))
    found.tasks = len(stop)
    if partial:
        found.cut = {task: ends[task] for task in found.left_out if ends.get(task)}
        _pause(target, found.cut, at)
    for name, position in passed.items():
        target.set_cursor(name, position)
    target.set_cursor(IMPORTING, None)
    return found


def _whole(source: Journal, found: Salvage) -> dict[TaskId, int]:
    """For each task, the `seq` up to which it replays. What does not is noted in `found`."""
    fold: Fold[TaskState] = Fold(evolve)
    ends: dict[TaskId, int] = {}
    for page in pages(source):
        found.missing += sum(isinstance(each, Damage) for each in page)
        for record in page:
            fold.add([record])
            if isinstance(record, Record) and record.task not in fold.quarantined:
                ends[record.task] = record.seq
        take_finished(fold, page)
    known: set[Position | None] = set()
    for task in (*ends, *fold.quarantined):
        # The journal's own index may know of records behind the last one that a scan brings.
        # What may be anybody's stands among the damage, and takes nobody's history away.
        behind = source.read(task, ends.get(task, 0))
        lost = [each for each in behind if isinstance(each, Damage) and each.task == task]
        known.update(each.position for each in lost)
        if lost and task not in fold.quarantined:
            found.left_out[task] = lost[0].detail
    found.left_out |= {task: each.detail for task, each in fold.quarantined.items()}
    found.damage += [each.detail for each in fold.damage]
    if nobodys := sum(each.position not in known for each in fold.damage):
        found.damage.append(
            f"whose {nobodys} of the missing records were is not known: a task that is kept may lack some"
        )
    if isinstance(source, CheckedJournal):
        found.damage += [each.detail for each in source.check() if each.task is None]
    return ends


def _kept(source: Journal, stop: dict[TaskId, int]) -> Iterator[list[Record]]:
    batch: list[Record] = []
    for page in pages(source):
        for record in page:
            if isinstance(record, Record) and record.seq <= stop.get(record.task, 0):
                batch.append(record)
                if len(batch) == APPEND:
                    yield batch
                    batch = []
    if batch:
        yield batch


def _entry(record: Record) -> Entry:
    return Entry(record.task, record.seq, record.open, record.type, record.version, record.at, record.body)


def _pause(target: Journal, cut: dict[TaskId, int], at: int) -> None:
    """What is folded of half a history must not go on by itself."""
    for task, seq in cut.items():
        state = _folded(target.read(task))
        reason = f"salvaged: what its journal had after record {seq} was damaged"
        for event in decide(state, _stop(state, reason), Instant(at)).events:
            state = evolve(state, event)
            kind, version, body = encode(event)
            target.append([Entry(task, state.seq, state.open, kind, version, at, body)])


def _stop(state: TaskState, reason: str) -> Message:
    """A rename or a commit goes on through a pause, as it may have been done; but not through a failure."""
    if state.intent is None:
        return Pause(reason=reason)
    fault = Fault(kind=FaultKind.IO, detail=reason)
    return CommitFailed(fault=fault) if state.is_upload else PublishFailed(fault=fault)


def _folded(records: Sequence[Record | Damage]) -> TaskState:
    state: TaskState | None = None
    for record in records:
        if isinstance(record, Damage):
            raise JournalError(f"what was just stored can't be read: {record.detail}")
        state = evolve(state, decode(record.type, record.version, record.body))
    assert state is not None  # noqa: S101  # a task that is kept has a record
    return state
