"""A Hypothesis machine: whatever is done to a journal and to the one in memory, both say the same.

`compare(MyHarness)` runs it; `journal_machine(MyHarness)` is the class, for settings of one's own.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from meowcat.core.errors import JournalClosed, JournalRejected
from meowcat.core.values import Position, TaskId
from meowcat.journal.contract import Damage, Entry, Record
from meowcat.journal.locate import locate
from meowcat.journal.replay import verify_chain
from meowcat.testing.journal.damage import cut_off, grown
from meowcat.testing.journal.harness import OWNER, JournalHarness, Lacking
from meowcat.testing.journal.records import given, scan_all

TASKS = st.sampled_from(["a", "b", "c", "猫"])
NAMES = st.sampled_from(["sink", "other"])
BODIES = st.binary(max_size=40) | st.sampled_from([b"{}", b'{"x":1}', bytes(3000)])
STEPS = st.lists(st.tuples(TASKS, st.booleans(), BODIES), min_size=1, max_size=5)
"""What becomes a batch: of each record the task, whether it has work left, and the body."""
OFFSETS = st.sampled_from([-2, -1, 1, 2])
POSITIONS = st.integers(0, 40).map(Position)


class JournalMachine(RuleBasedStateMachine):
    """One journal and its model. `make_place` is set by `journal_machine`."""

    make_place: type[JournalHarness]
    within: Path | None = None
    """The folder in which each run makes one of its own; None for that of temporary files."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="meowcat-journal-", dir=self.within)
        self.place = self.make_place(Path(self._folder.name).resolve())
        self.model = locate("memory:")
        self.journal = self.place.make()
        self.seqs: dict[str, int] = {}
        self.epoch = 0
        self._open_both()

    def teardown(self) -> None:
        self.journal.close()
        self.place.close()
        self._folder.cleanup()

    def _open_both(self) -> None:
        self.model.open(OWNER, "power")
        epoch = self.journal.open(OWNER, self.place.sync)
        assert epoch > self.epoch, "an opening must raise the epoch"
        self.epoch = epoch

    def _batch(self, steps: Sequence[tuple[str, bool, bytes]]) -> list[Entry]:
        """Records that follow on those that are there."""
        seqs = dict(self.seqs)
        batch = []
        for task, unfinished, body in steps:
            seqs[task] = seqs.get(task, 0) + 1
            batch.append(Entry(TaskId(task), seqs[task], unfinished, "created", 1, len(body), body))
        return batch

    def _stored(self, batch: Sequence[Entry]) -> None:
        self.seqs |= {entry.task: entry.seq for entry in batch}

    def _refused(self, batch: Sequence[Entry]) -> None:
        """Both refuse it, in the same words."""
        kinds: list[type[BaseException]] = []
        for journal in (self.model, self.journal):
            try:
                journal.append(batch)
            except JournalRejected as error:
                kinds.append(type(error))
            else:
                raise AssertionError(f"{type(journal).__name__} has stored what does not fit")
        assert kinds[0] is kinds[1], kinds

    @rule(steps=STEPS)
    def append(self, steps: Sequence[tuple[str, bool, bytes]]) -> None:
        batch = self._batch(steps)
        position = self.journal.append(batch)
        assert position == self.model.append(batch)
        self._stored(batch)
        (record,) = self.journal.scan(Position(position - 1), 1)
        assert isinstance(record, Record)
        assert record.epoch == self.epoch

    @rule(steps=STEPS, offset=OFFSETS, at=st.integers(0, 4))
    def append_what_conflicts(self, steps: Sequence[tuple[str, bool, bytes]], offset: int, at: int) -> None:
        batch = self._batch(steps)
        wrong = batch[at % len(batch)]
        fields = (wrong.open, wrong.type, wrong.version, wrong.at, wrong.body)
        batch[at % len(batch)] = Entry(wrong.task, wrong.seq + offset, *fields)
        self._refused(batch)

    @rule(steps=STEPS)
    def append_what_is_too_large(self, steps: Sequence[tuple[str, bool, bytes]]) -> None:
        size = max(self.journal.max_record, self.model.max_record) + 1
        self._refused(self._batch([*steps, ("a", True, bytes(size))]))

    @rule(name=NAMES, position=POSITIONS | st.none())
    def set_cursor(self, name: str, position: Position | None) -> None:
        for journal in (self.model, self.journal):
            journal.set_cursor(name, position)

    @rule(name=NAMES, position=POSITIONS, body=BODIES)
    def put_snapshot(self, name: str, position: Position, body: bytes) -> None:
        for journal in (self.model, self.journal):
            journal.put_snapshot(name, position, body)

    @rule(task=TASKS, after=st.integers(0, 12))
    def read(self, task: str, after: int) -> None:
        found, wanted = (journal.read(TaskId(task), after) for journal in (self.journal, self.model))
        self._same(found, wanted)

    @rule(after=POSITIONS, limit=st.integers(1, 12))
    def scan(self, after: Position, limit: int) -> None:
        self._same(self.journal.scan(after, limit), self.model.scan(after, limit))

    @rule()
    def reopen(self) -> None:
        assert self.journal.reopen() == self.model.last()

    @rule(same=st.booleans())
    def close_and_open(self, same: bool) -> None:
        self.journal.close()
        self.model.close()
        try:
            self.journal.last()
        except JournalClosed:
            pass
        else:
            raise AssertionError("a closed journal answers")
        self.journal = self.journal if same else self.place.make()
        self._open_both()

    @precondition(lambda self: _can_crash(self.place))
    @rule()
    def crash(self) -> None:
        self.place.crash(self.journal)
        self._again()

    @precondition(lambda self: _can_crash(self.place))
    @rule(steps=STEPS, where=st.floats(0, 1), zeros=st.booleans())
    def crash_in_an_append(self, steps: Sequence[tuple[str, bool, bytes]], where: float, zeros: bool) -> None:
        """Nobody has heard of the batch: it is there as a whole, or not at all."""
        batch = self._batch(steps)
        before = _image(self.place)
        self.journal.append(batch)
        after = _image(self.place)
        self.place.crash(self.journal)
        if before is not None and after is not None:
            try:
                name, start, end = max(grown(before, after), key=lambda each: each[2] - each[1])
                self.place.raw_write(cut_off(after, name, start + int((end - start) * where), zeros=zeros))
            except Lacking:
                pass  # it changes bytes in place: then the batch has got through
        self._again(batch)

    def _again(self, batch: Sequence[Entry] = ()) -> None:
        self.model.close()
        self.journal = self.place.make()
        self._open_both()
        if self.journal.last() > self.model.last():
            self.model.append(batch)
            self._stored(batch)

    @invariant()
    def both_say_the_same(self) -> None:
        assert self.journal.last() == self.model.last()
        assert list(self.journal.unfinished()) == list(self.model.unfinished())
        assert dict(self.journal.cursors()) == dict(self.model.cursors())
        for name in ("sink", "other"):
            assert self.journal.get_snapshot(name) == self.model.get_snapshot(name)
        found = scan_all(self.journal)
        self._same(found, scan_all(self.model))
        assert list(verify_chain(found)) == []

    def _same(self, found: Sequence[Record | Damage], wanted: Sequence[Record | Damage]) -> None:
        assert [given(record) for record in found] == [given(record) for record in wanted]
        assert [record.position for record in found] == [record.position for record in wanted]


def _image(place: JournalHarness) -> Mapping[str, bytes] | None:
    """What is stored, where a crash can leave a part of it."""
    if place.never_torn:
        return None
    try:
        return place.raw_read()
    except Lacking:
        return None


def _can_crash(place: JournalHarness) -> bool:
    return type(place).crash is not JournalHarness.crash


def journal_machine(harness: type[JournalHarness], within: Path | None = None) -> type[JournalMachine]:
    """The machine of one kind of journal, whose places are in the folder `within`."""
    return type(f"{harness.__name__}Machine", (JournalMachine,), {"make_place": harness, "within": within})


def compare(harness: type[JournalHarness], within: Path | None = None, **options: Any) -> None:
    """Compare a journal with the one in memory.

    Args:
        harness: makes its places.
        within: the folder that they are made in; that of temporary files by default.
        options: Hypothesis' settings; 25 runs of 30 steps by default.

    Raises:
        AssertionError: the shortest way to a difference that was found.

    """
    run_state_machine_as_test(
        journal_machine(harness, within),
        settings=settings(
            **{
                "max_examples": 25,
                "stateful_step_count": 30,
                "deadline": None,  # disks take the time that they take
                "suppress_health_check": list(HealthCheck),
                **options,
            }
        ),
    )
