"""Checking, exporting and salvaging a journal: what is whole is kept to the byte, what is not is named."""

import itertools
from contextlib import closing

import anyio
import pytest
from msgspec.structs import replace

import meowcat
from journal_adapters.jsonl import JSONLJournal
from journal_adapters.memory import MemoryJournal, Store
from meowcat.core import events as ev
from meowcat.core.errors import JournalDamaged, NotAJournal
from meowcat.core.machine import State
from meowcat.core.sessions import Capabilities, Session
from meowcat.core.state import TaskState, evolve
from meowcat.core.transfers import Download, ProtocolSpec, Upload
from meowcat.core.values import FileIdentity, Generation, Position, SourceIdentity, TaskId
from meowcat.core.wanted import wanted
from meowcat.journal import checkup
from meowcat.journal import salvage as salvaging
from meowcat.journal.checkup import check
from meowcat.journal.codec import encode
from meowcat.journal.contract import Damage, Entry
from meowcat.journal.exchange import export_lines, read_export
from meowcat.journal.lines import Cursor, control_line, parse
from meowcat.journal.replay import fold_task
from meowcat.journal.salvage import salvage
from meowcat.testing.journal_suite import OWNER, given, scan_all

AT = 1_700_000_000_000


def history(name):
    """A download of two pieces, whole."""
    task = TaskId(name)
    request = Download(f"https://host.example/{name}", f"/data/{name}")
    known = Generation(size=2 << 22, ranges=True, etag='"1"', strong=True)
    file = FileIdentity(1, 2)
    yield ev.Created(state=State.QUEUED, task=task, key=request.to, at=AT, request=request)
    yield ev.Admitted(state=State.PREPARING, run=1)
    yield ev.Started(state=State.RUNNING, generation=known, piece_size=1 << 22)
    yield ev.Stored(state=State.RUNNING, pieces=((0, 2),), digests=bytes(64), file=file)
    yield ev.PublishIntended(state=State.RUNNING, file=file, size=2 << 22, digests=())
    yield ev.Completed(state=State.COMPLETE, path=request.to, size=2 << 22, digests=())


def entries(name, count=6):
    for seq, event in enumerate(itertools.islice(history(name), count), 1):
        kind, version, body = encode(event)
        yield Entry(TaskId(name), seq, event.state is not State.COMPLETE, kind, version, AT, body)


@pytest.fixture
def store():
    """Three tasks, one after the other's steps, over two openings: A and B are Complete, C is Running."""
    store = Store()
    journal = MemoryJournal(store=store)
    journal.open(OWNER, "power")
    turns = itertools.zip_longest(entries("A"), entries("B"), entries("C", 4))
    stored = [[each for each in turn if each is not None] for turn in turns]
    for batch in stored[:3]:
        journal.append(batch)
    journal.close()
    journal.open(OWNER, "power")
    for batch in stored[3:]:
        journal.append(batch)
    journal.set_cursor("sink", Position(7))
    journal.close()
    return store


def reading(store):
    journal = MemoryJournal(store=store)
    journal.open_for_reading()
    return journal


def damage(store, position):
    record, checksum = store.records[position - 1]
    store.records[position - 1] = (record, checksum ^ 1)


def salvaged(store, **options):
    target = MemoryJournal()
    target.open(OWNER, "power")
    return salvage(reading(store), target, AT + 1, **options), target


def test_a_sound_journal_is_told_to_be_sound(store):
    found = check(reading(store))
    assert found.sound
    assert (found.records, found.tasks, found.unfinished, found.epoch) == (16, 3, 1, 2)
    assert found.chain == store.records[-1][0].chain.hex()


@pytest.mark.parametrize("tool", [lambda store: check(reading(store)), salvaged])
def test_what_a_look_costs_grows_with_the_records_alone(monkeypatch, tool):
    """And not with how many tasks are unfinished when a page has been read."""
    looks = []
    monkeypatch.setattr(TaskState, "open", property(lambda task: looks.append(task.id) or True))
    monkeypatch.setattr(checkup, "PAGE", 10)

    def looked(count):
        looks.clear()
        journal = MemoryJournal(store=Store())
        journal.open(OWNER, "power")
        journal.append([each for number in range(count) for each in entries(f"{number:04d}", 1)])
        journal.close()
        tool(journal.store)
        return len(looks)

    assert looked(200) == 2 * looked(100) > 0


def test_a_damaged_record_is_told_with_its_task(store):
    damage(store, 5)
    found = check(reading(store))
    assert not found.sound
    assert [each.position for each in found.damage] == [5]
    assert set(found.quarantined) == {"B"}


def test_records_that_were_changed_together_with_their_checksum_are_told(store):
    journal = MemoryJournal(store=Store(epoch=2))
    journal.open(OWNER, "power")
    journal.append([given(record) for record, _ in store.records])
    other = journal.store.records[8]
    store.records[8] = other  # sound by itself, of another history
    assert not check(reading(store)).sound


@pytest.fixture
def half(store):
    """A journal into which an import was not finished."""
    journal = MemoryJournal(store=store)
    journal.open(OWNER, "power")
    journal.set_cursor("meowcat:import", Position(0))
    journal.close()
    return store


def test_an_unfinished_import_is_no_sound_journal(half):
    assert "was not finished" in check(reading(half)).damage[0].detail


def test_an_unfinished_import_is_not_exported(half):
    """Imported again it would pass for a whole one."""
    with pytest.raises(JournalDamaged, match="was not finished"):
        list(export_lines(reading(half)))


def test_what_is_salvaged_of_an_unfinished_import_can_be_used_and_its_loss_is_told(half):
    found, target = salvaged(half)
    assert "was not finished" in found.damage[0]
    assert check(target).sound


@pytest.mark.parametrize("appends", [0, 1])
def test_a_salvage_that_is_cut_off_does_not_pass_for_a_whole_one(store, monkeypatch, appends):
    class Cut(MemoryJournal):
        def append(self, batch):
            if self.last() >= 4 * appends:
                raise KeyboardInterrupt
            return super().append(batch)

    monkeypatch.setattr(salvaging, "APPEND", 4)
    target = Cut()
    target.open(OWNER, "power")
    with pytest.raises(KeyboardInterrupt):
        salvage(reading(store), target, AT)
    assert not check(target).sound
    target.close()
    engine = meowcat.Engine(MemoryJournal(store=target.store))
    with pytest.raises(JournalDamaged, match="begin again"):
        anyio.run(engine.open)


def test_an_export_is_the_same_each_time_and_reads_back_whole(store):
    lines = list(export_lines(reading(store)))
    assert lines == list(export_lines(reading(store)))
    batches = list(read_export(lines))
    assert [record for batch in batches for record in batch.records] == [r for r, _ in store.records]
    assert [cursor for batch in batches for cursor in batch.cursors] == [Cursor("sink", 7)]


def test_no_cursor_of_an_export_is_behind_its_end_though_the_owner_goes_on(store):
    """In a copy it would pass over the records that the copy itself gets there."""
    owner = MemoryJournal(store=store)
    owner.open(OWNER, "power")
    end = owner.last()
    lines = []
    for line in export_lines(reading(store)):
        lines.append(line)
        if len(lines) == 2:  # the records are read by now
            owner.set_cursor("sink", owner.append(list(entries("D", 1))))
    assert owner.cursors() == {"sink": end + 1}
    batches = list(read_export(lines))
    assert [cursor for batch in batches for cursor in batch.cursors] == [Cursor("sink", end)]


def test_an_empty_journal_can_be_exported():
    store = Store()
    journal = MemoryJournal(store=store)
    journal.open(OWNER, "power")
    journal.close()
    assert list(read_export(export_lines(reading(store)))) == []


def test_a_damaged_journal_is_not_exported(store):
    damage(store, 5)
    with pytest.raises(JournalDamaged, match="salvage"):
        list(export_lines(reading(store)))


def test_an_export_that_was_cut_anywhere_is_refused_and_where_is_told(store):
    whole = b"".join(export_lines(reading(store)))
    for end in range(1, len(whole)):
        lines = whole[:end].splitlines(keepends=True)
        within = "in the middle of" if not lines[-1].endswith(b"\n") else "after"
        says = rf"^it ends {within} line {len(lines)}" if len(lines) > 1 else "first line|after line 1"
        with pytest.raises((JournalDamaged, NotAJournal), match=says):
            list(read_export(lines))


def test_an_export_that_was_broken_off_between_two_batches_says_so(store):
    *lines, end = export_lines(reading(store))
    with pytest.raises(JournalDamaged, match="broken off; make it anew"):
        list(read_export(lines))
    with pytest.raises(JournalDamaged, match="goes on behind its end"):
        list(read_export([*lines, end, end]))


def test_an_export_of_an_early_version_has_no_end(store):
    head, *lines, _ = export_lines(reading(store))
    header = parse(head)
    assert header.ends
    early = control_line(replace(header, ends=False))
    assert b"ends" not in early
    assert list(read_export([early, *lines])) == list(read_export(export_lines(reading(store))))


def test_every_changed_byte_of_an_export_is_seen(store):
    whole = b"".join(export_lines(reading(store)))
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 0x20
        with pytest.raises((JournalDamaged, NotAJournal)):
            list(read_export(bytes(changed).splitlines(keepends=True)))


@pytest.mark.parametrize("missing", [1, 4, 9, 16])
def test_a_line_that_is_missing_or_twice_is_seen(store, missing):
    lines = list(export_lines(reading(store)))
    for wrong in (lines[:missing] + lines[missing + 1 :], lines[:missing] + lines[missing - 1 :]):
        with pytest.raises(JournalDamaged, match="line"):
            list(read_export(wrong))


def test_what_is_no_export_is_told_so():
    with pytest.raises(NotAJournal, match="empty"):
        list(read_export([]))
    with pytest.raises(NotAJournal, match="first line"):
        list(read_export([b"SQLite format 3\0\n"]))
    with pytest.raises(NotAJournal, match="first line"):
        list(read_export([control_line(Cursor("x", 1))]))


def test_an_export_names_what_it_holds_in_its_lines(store):
    kinds = [type(parse(line)).__name__ for line in export_lines(reading(store))]
    assert kinds == ["Segment", *["Record"] * 16, "Commit", "Cursor", "Commit", "Commit"]


def test_a_sound_journal_is_salvaged_whole(store):
    found, target = salvaged(store)
    assert (found.kept, found.tasks, found.left_out, found.damage) == (16, 3, {}, [])
    assert [given(record) for record in scan_all(target)] == [given(record) for record, _ in store.records]
    assert target.cursors() == {"sink": 7}


def test_a_task_with_a_hole_is_left_out_and_all_others_are_whole(store):
    damage(store, 5)
    found, target = salvaged(store)
    assert set(found.left_out) == {"B"}
    assert found.missing == 1
    assert {record.task for record in scan_all(target)} == {"A", "C"}
    assert check(target).sound
    assert target.cursors() == {"sink": 5}  # two of the seven records before it were B's


@pytest.mark.parametrize("derived", [True, False])
def test_of_a_sealed_segment_that_lost_its_end_the_others_are_salvaged(tmp_path, derived):
    with closing(JSONLJournal(tmp_path / "x.jsonl", segment_size=6000)) as journal:
        journal.open(OWNER, "power")
        for name in "ABCDEF":
            journal.append(list(entries(name)))
    first = min(journal.path.glob("*.jsonl"))
    first.write_bytes(first.read_bytes()[:-500])
    for each in [] if derived else [journal.path / "snapshot", *journal.path.glob("*.index")]:
        each.unlink()
    target = MemoryJournal()
    target.open(OWNER, "power")
    journal.open_for_reading()
    found = salvage(journal, target, AT)
    journal.close()
    assert found.missing == 1
    assert ("B" in found.left_out) is derived
    says = "whose 1 of the missing records were is not known: a task that is kept may lack some"
    assert (says in found.damage) is not derived
    whole = {record.task for record in scan_all(target) if not record.open}
    assert whole == set("ACDEF")
    assert [given(each) for each in scan_all(target) if each.task != "B"] == [
        each for name in "ACDEF" for each in entries(name)
    ]


def test_with_partial_a_task_is_kept_up_to_the_hole_and_is_paused_there(store):
    damage(store, 8)
    found, target = salvaged(store, partial=True)
    assert found.cut == {"B": 2}
    assert [record.type for record in target.read(TaskId("B"))] == ["created", "admitted", "paused"]
    assert b"salvaged" in target.read(TaskId("B"))[-1].body
    assert check(target).sound


def stopped(target, task):
    """The last record of a task, and the task after all of them."""
    records = target.read(TaskId(task))
    folded = fold_task(TaskId(task), records, evolve)
    assert wanted(folded) is None, "what is folded of half a history goes on by itself"
    return records[-1].type, folded


def test_with_partial_a_rename_that_was_under_way_is_stopped_as_well(store):
    damage(store, 16)
    _, target = salvaged(store, partial=True)
    kind, task = stopped(target, "B")
    assert kind == "failed"
    assert task.fault.detail == "salvaged: what its journal had after record 5 was damaged"


@pytest.mark.parametrize("paused", [False, True])
def test_with_partial_a_commit_that_was_under_way_is_stopped_as_well(paused):
    request = Upload("/data/U", "https://host.example/U", ProtocolSpec("scripted"))
    session = Session(id="s", capabilities=Capabilities())
    running = State.RUNNING
    events = [
        ev.Created(state=State.QUEUED, task=TaskId("U"), key="U", at=AT, request=request),
        ev.Admitted(state=State.PREPARING, run=1),
        ev.SourcePinned(state=State.PREPARING, source=SourceIdentity(size=0), digests=()),
        ev.SessionOpened(state=running, session=session, piece_size=1, held=()),
        ev.CommitIntended(state=running, size=0, digests=()),
        *([ev.Paused(state=State.PAUSED, reason="lunch")] if paused else []),
        ev.Canceled(state=State.CANCELED),
    ]
    store = Store()
    journal = MemoryJournal(store=store)
    journal.open(OWNER, "power")
    for seq, event in enumerate(events, 1):
        kind, version, body = encode(event)
        journal.append([Entry(TaskId("U"), seq, True, kind, version, AT, body)])
    journal.close()
    damage(store, len(events))
    _, target = salvaged(store, partial=True)
    kind, task = stopped(target, "U")
    assert kind == "failed"
    assert task.session == session
    assert task.doubt


def test_with_partial_a_task_without_a_first_record_is_left_out(store):
    damage(store, 2)
    found, target = salvaged(store, partial=True)
    assert set(found.left_out) == {"B"}
    assert found.cut == {}
    assert target.read(TaskId("B")) == []


def test_a_task_whose_last_records_only_the_journal_itself_misses_is_left_out(store):
    class Knowing(MemoryJournal):
        def read(self, task, after=0):
            found = list(super().read(task, after))
            return [*found, Damage("the last record is missing", task=task)] if task == "C" else found

    source = Knowing(store=store)
    source.open_for_reading()
    target = MemoryJournal()
    target.open(OWNER, "power")
    assert salvage(source, target, AT).left_out == {"C": "the last record is missing"}
