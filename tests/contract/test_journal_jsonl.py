"""What is JSONL's own: bad input, torn tails, damage, readers in other processes, rotation, compaction."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing

import msgspec
import pytest
from elsewhere import as_child, as_nobody, held
from hypothesis import given as given_
from hypothesis import strategies as st

from journal_adapters import jsonl_log, jsonl_reading, jsonl_state
from journal_adapters.jsonl import JSONLJournal
from journal_adapters.jsonl_files import Files
from journal_adapters.jsonl_files import replace as replace_file
from journal_adapters.jsonl_mending import mended, mended_lines_of
from journal_adapters.jsonl_state import Ledger, Row, read_snapshot, snapshot_of
from meowcat.core.errors import (
    InvalidArgument,
    JournalAccess,
    JournalClosed,
    JournalConflict,
    JournalDamaged,
    JournalError,
    JournalFenced,
    JournalForked,
    JournalOwned,
    JournalRejected,
    JournalTooNew,
    JournalUncertain,
    NotAJournal,
)
from meowcat.core.values import Position
from meowcat.journal.contract import (
    CompactableJournal,
    Damage,
    LocalJournal,
    Owner,
    Record,
    RestorableJournal,
)
from meowcat.journal.lines import Commit, Cursor, Opening, Segment, control_line, parse, seal_line
from meowcat.journal.replay import verify_chain
from meowcat.testing.disk import SimulatedDisk
from meowcat.testing.journal_suite import OTHER, OWNER, check_stored, entry, given, scan_all


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """What counts here is in the files, not when it reaches the disk: see the tests of power losses."""
    monkeypatch.setattr(jsonl_log, "RESERVED", 4096)
    monkeypatch.setattr(Files, "fdatasync", lambda *_: None)
    monkeypatch.setattr(Files, "fsync_folder", lambda *_: None)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.jsonl"


def opened(path, **how):
    journal = JSONLJournal(path, **how)
    journal.open(OWNER, "power")
    return journal


def reading(path):
    journal = JSONLJournal(path)
    journal.open_for_reading()
    return journal


def segments(path):
    return sorted(path.glob("*.jsonl"))


def crashed(journal):
    """The process is gone: no close, no snapshot."""
    journal._log.close()
    journal._lock.release()
    journal._log = journal._lock = None


ENTRIES = [entry("a", 1, b'{"x":1}'), entry("b", 1, b"\x00raw"), entry("a", 2), entry("c", 1, b"{}")]


def filled(path, **how):
    journal = opened(path, **how)
    journal.append(ENTRIES[:2])
    journal.append(ENTRIES[2:])
    return journal


def test_it_can_do_all_that_a_journal_can(path):
    journal = JSONLJournal(path)
    assert isinstance(journal, RestorableJournal)
    assert isinstance(journal, CompactableJournal)
    assert isinstance(journal, LocalJournal)
    assert journal.control_socket == path.resolve() / "control"


class Almost:
    """A number to whoever packs one, and none to an encoder of JSON."""

    def __index__(self):
        return 1


def test_what_only_passes_for_a_number_is_rejected_before_anything_is_written(path):
    journal = opened(path)
    with pytest.raises(JournalRejected, match="no record can hold this"):
        journal.append([entry("a", 1), msgspec.structs.replace(entry("b", 1), version=Almost())])
    assert journal.append([entry("a", 1)]) == 1
    check_stored(journal, [entry("a", 1)])
    journal.close()


# What stands there instead


def text_file(path):
    path.write_text("my notes")


def empty_file(path):
    path.write_text("")


def foreign_folder(path):
    path.mkdir()
    (path / "notes.txt").write_text("mine")


def foreign_lines(path):
    path.mkdir()
    (path / "00000000000000000001.jsonl").write_text('{"mine":true}\n')


def fifo(path):
    os.mkfifo(path)


def newer(path):
    filled(path).close()
    segment = segments(path)[0]
    _, _, rest = segment.read_bytes().partition(b"\n")
    segment.write_bytes(seal_line(b'{"segment":{"format":2,"unheard":"of"}}') + rest)


def without_segments(path):
    filled(path).close()
    segments(path)[0].unlink()


def without_first_line(path):
    filled(path).close()
    segment = segments(path)[0]
    segment.write_bytes(b"x" + segment.read_bytes()[1:])
    (path / "snapshot").unlink()


def image(folder):
    return {each: each.read_bytes() for each in folder.rglob("*") if each.is_file() and each.name != "lock"}


@pytest.mark.parametrize("as_reader", [False, True])
@pytest.mark.parametrize(
    ("stands", "error"),
    [
        (text_file, NotAJournal),
        (empty_file, NotAJournal),
        (foreign_folder, NotAJournal),
        (foreign_lines, NotAJournal),
        (fifo, NotAJournal),
        (newer, JournalTooNew),
        (without_segments, JournalDamaged),
        (without_first_line, JournalDamaged),
    ],
)
def test_bad_input_is_told_within_a_second_and_nothing_is_changed(path, stands, error, as_reader):
    stands(path)
    if stands is without_first_line and as_reader:
        return  # what is left of it can be read
    before = image(path.parent)
    journal = JSONLJournal(path)
    begin = time.monotonic()
    with pytest.raises(error) as told:
        journal.open_for_reading() if as_reader else journal.open(Owner(1, "x"), "power")
    assert time.monotonic() - begin < 1
    assert type(told.value) is error
    assert str(path) in str(told.value)
    assert image(path.parent) == before
    journal.close()


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(JournalAccess, match="does not exist"):
        opened(tmp_path / "no" / "x.jsonl")
    with pytest.raises(NotAJournal, match="there is no journal"):
        reading(tmp_path / "x.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_it_claims_its_suffix_and_a_folder_that_is_one(tmp_path):
    filled(tmp_path / "plain").close()
    (tmp_path / "other").mkdir()
    assert JSONLJournal.claims(tmp_path / "new.jsonl")
    assert JSONLJournal.claims(tmp_path / "plain")
    assert not JSONLJournal.claims(tmp_path / "other")
    assert not JSONLJournal.claims(tmp_path / "new.db")
    assert not JSONLJournal.claims(tmp_path / "nothing")


@pytest.mark.parametrize("size", [0, -1, (64 << 20) + 1])
def test_a_segment_has_at_most_64_mib(path, size):
    with pytest.raises(InvalidArgument, match="segment_size"):
        JSONLJournal(path, segment_size=size)


def test_a_crash_while_a_journal_is_created_leaves_nothing_in_the_way(path):
    path.mkdir()
    (path / "lock").write_text("")
    (path / "00000000000000000001.jsonl.new").write_text("half")
    journal = filled(path)
    check_stored(journal, ENTRIES)
    journal.close()
    assert {each.name for each in path.iterdir()} == {
        "lock",
        "reserve",
        "snapshot",
        "00000000000000000001.jsonl",
        "00000000000000000001.index",
    }


# Torn tails


@pytest.mark.parametrize("hole", [False, True])
def test_a_batch_of_which_bytes_are_missing_does_not_count_and_is_kept_aside(path, tmp_path, hole):
    journal = filled(path)
    before = journal._log.size
    journal.append([entry("a", 3, b"x" * 2000), entry("d", 1, b'{"y":2}'), entry("d", 2)])
    crashed(journal)
    segment = segments(path)[0]
    whole = segment.read_bytes()
    for cut in range(before, len(whole), 1 if hole else 3):  # the suite cuts at each byte
        torn = whole[:cut]
        if hole:  # the sector with the cut did not reach the disk, and what stands behind it did
            end = (cut // 512 + 1) * 512
            if cut != before and cut % 512:
                continue
            torn = whole[:cut] + bytes(min(end, len(whole)) - cut) + whole[end:]
        segment.write_bytes(torn)
        again = opened(path)
        check_stored(again, ENTRIES)
        assert list(again.unfinished()) == ["a", "b", "c"]
        assert again.append([entry("a", 3)]) == 5
        crashed(again)
        if cut > before:
            (aside,) = (path / "torn").iterdir()
            assert aside.name == f"{1:020d}-{before}"
            assert aside.read_bytes() == torn[before:]
            aside.unlink()


def test_a_whole_batch_that_nobody_was_told_of_counts(path):
    journal = filled(path)
    crashed(journal)
    again = opened(path)
    check_stored(again, ENTRIES)
    again.close()
    assert not (path / "torn").exists()


def test_under_process_a_hole_takes_what_is_behind_it_along(path):
    journal = JSONLJournal(path)
    journal.open(OWNER, "process")
    entries = [entry("a", seq, b"x" * 700) for seq in range(1, 9)]
    sizes = []
    for each in entries:
        sizes.append(journal._log.size)
        journal.append([each])
    crashed(journal)
    segment = segments(path)[0]
    content = segment.read_bytes()
    hole = (sizes[4] // 512 + 1) * 512
    segment.write_bytes(content[:hole] + bytes(512) + content[hole + 512 :])
    again = opened(path)
    check_stored(again, entries[:4])
    again.close()


def test_what_a_snapshot_knows_of_was_never_torn(path, caplog):
    """After a clean close a short file is damage: nothing is cut, and the tasks that it hit are known."""
    journal = filled(path)
    journal.close()
    segment = segments(path)[0]
    content = segment.read_bytes()
    segment.write_bytes(content[:-150])
    again = opened(path)
    assert segment.read_bytes() == content[:-150]
    assert len(segments(path)) == 2
    assert again.last() == 4
    damaged = {task for task in "abc" if any(isinstance(each, Damage) for each in again.read(task))}
    assert damaged == {"c"}
    assert f"{segment.name} is damaged" in caplog.text
    assert again.append([entry("e", 1)]) == 5
    again.close()


@pytest.mark.parametrize("lost", ["within a batch", "a whole batch", "a cursor", "zeros"])
def test_what_an_index_knows_of_was_never_torn(path, lost):
    """Without a snapshot it does not say all that was there: the owner is refused, and readers are told."""
    journal = filled(path)
    journal.set_cursor("sink", Position(2))
    journal.close()
    (path / "snapshot").unlink()
    (segment,) = segments(path)
    content = segment.read_bytes()
    cursor = content.index(b'{"cursor"')
    last_batch = content.rindex(b"\n", 0, content.index(b'{"position":3')) + 1
    left = {
        "within a batch": content[: cursor - 150],
        "a whole batch": content[:last_batch],
        "a cursor": content[:cursor],
        "zeros": content[: cursor + 10] + bytes(20) + content[cursor + 30 :],
    }
    segment.write_bytes(left[lost])
    before = image(path)
    with pytest.raises(JournalDamaged, match=r"it can't be told .*meowcat journal salvage"):
        opened(path)
    assert image(path) == before
    with closing(reading(path)) as reader:
        assert reader.last() == 4
        assert [each.position for each in scan_all(reader)] == [1, 2, 3, 4]
        assert any(isinstance(each, Damage) for each in scan_all(reader)) == ("batch" in lost)
        assert any("it had" in flaw.detail for flaw in reader.check()) == (lost != "zeros")
    segment.write_bytes(content + content[last_batch : last_batch + 50])
    with closing(opened(path)) as again:
        assert dict(again.cursors()) == {"sink": 2}
        assert again.append([entry("e", 1)]) == 5
    assert list((path / "torn").iterdir()), "what stands behind it a crash may have left"


# Mending


def test_any_bit_that_changes_in_some_lines_is_found():
    """Also one that was a line feed, or has become one."""
    lines = [control_line(Cursor("J*KJ", number)) for number in (1, 2, 3)]
    content = b"".join(lines)
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        found = list(mended_lines_of(bytes(changed)))
        assert [each.said for each in found] == [parse(line) for line in lines], bit
        assert [each.exact for each in found].count(False) in (1, 2)
        assert found[-1].end == len(content)


@given_(st.data())
def test_two_changed_bits_are_not_taken_for_one(data):
    line = control_line(Cursor("sink", 7))
    bits = data.draw(st.sets(st.integers(0, 8 * len(line) - 9), min_size=2, max_size=2))
    changed = bytearray(line)
    for bit in bits:
        changed[bit // 8] ^= 1 << bit % 8
    assert mended(bytes(changed)) is None


# Corruption


class InMemory(JSONLJournal):
    """On a simulated disk: thousands of openings need no real one."""

    def __init__(self, disk):
        super().__init__("/data/x.jsonl", files=disk)

    def _take_lock(self, owner):
        return Held()


class Held:
    def replaced(self):
        return False

    def release(self):
        pass


SEGMENT = "/data/x.jsonl/00000000000000000001.jsonl"


def life_of_all_lines():
    """A small journal with each kind of line and two openings, and the disk that it is on."""
    disk = SimulatedDisk()
    disk.make_folder("/data")
    journal = InMemory(disk)
    journal.open(OWNER, "power")
    journal.append(ENTRIES[:2])
    journal.set_cursor("sink", Position(2))
    journal.close()
    journal = InMemory(disk)
    journal.open(OWNER, "power")
    journal.append(ENTRIES[2:])
    return journal, disk


def flip_every_bit(step, *, clean):
    journal, disk = life_of_all_lines()
    if clean:
        journal.close()
    good = disk.get(SEGMENT)
    outcomes = {"harmless": 0, "damage": 0, "refused": 0}
    for bit in range(0, len(good) * 8, step):
        flipped = bytearray(good)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged = disk.killed()
        damaged.put(SEGMENT, bytes(flipped))
        try:
            outcomes[outcome_of(damaged)] += 1
        except BaseException as error:
            error.add_note(f"bit {bit}: {good[bit // 8 - 20 : bit // 8 + 20]!r}")
            raise
        assert damaged.get(SEGMENT).startswith(flipped), f"bit {bit}: something was cut"
    return outcomes


@pytest.mark.parametrize("clean", [False, True], ids=["after a crash", "after a close"])
def test_flipped_bits_are_detected_or_harmless(clean):
    """Whoever opens it sees all records as they were, or damage where the bit is; no record is lost
    silently, none comes back changed, and nothing is cut.
    """
    outcomes = flip_every_bit(13, clean=clean)  # each byte, and each place in a byte
    assert outcomes["damage"] > 10 * outcomes["refused"], outcomes
    assert outcomes["harmless"] > 0


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("clean", [False, True], ids=["after a crash", "after a close"])
def test_every_flipped_bit_is_detected_or_harmless(clean):
    flip_every_bit(1, clean=clean)


def outcome_of(disk):
    journal = InMemory(disk)
    try:
        assert journal.open(OWNER, "power") >= 3
    except JournalDamaged:
        return "refused"
    return look(journal)


def look(journal):
    found = scan_all(journal)
    assert [each.position for each in found] == [1, 2, 3, 4]
    damaged = [each for each in found if isinstance(each, Damage)]
    for each, expected in zip(found, ENTRIES, strict=True):
        if isinstance(each, Record):
            assert given(each) == expected
    assert len(damaged) <= 2
    for damage in damaged:
        task = ENTRIES[damage.position - 1].task
        read = list(journal.read(task))
        told = any(isinstance(each, Damage) for each in read)
        assert told or task not in set(journal.unfinished())
    journal.append([entry("new", 1)])
    assert journal.last() == 5
    return "damage" if damaged else "harmless"


def test_damage_in_a_sealed_segment_is_kept_to_its_task(path):
    journal = opened(path, segment_size=3000)
    for number in range(40):
        journal.append([entry(f"t{number}", 1, b'{"n":%d}' % number)])
    journal.close()
    victim = segments(path)[2]
    content = bytearray(victim.read_bytes())
    at = content.index(b'{"n":') + 5
    position = json.loads(content[content.rindex(b"\n", 0, at) + 1 : content.index(b"\n", at)])["position"]
    content[at] ^= 1
    victim.write_bytes(content)
    for keep_index in (True, False):
        if not keep_index:
            for each in path.glob("*.index"):
                each.unlink()
        again = opened(path)
        found = scan_all(again)
        assert [each.position for each in found] == list(range(1, 41))
        (damage,) = [each for each in found if isinstance(each, Damage)]
        assert (damage.position, damage.task) == (position, f"t{position - 1}")
        assert [type(each) for each in again.read(f"t{position - 1}")] == [Damage]
        assert [type(each) for each in again.read(f"t{position}")] == [Record]
        again.close()


@pytest.mark.parametrize("keep_index", [True, False])
def test_a_sealed_segment_that_lost_its_end_is_kept_to_its_tasks(path, keep_index):
    names = [f"t{number:02d}" for number in range(40)]
    with closing(opened(path, segment_size=3000)) as journal:
        for name in names:
            journal.append([entry(name, 1)])
        journal.append([entry("t39", 2)])
    victim = segments(path)[2]
    whole = [json.loads(line).get("task") for line in victim.read_text().splitlines()]
    victim.write_bytes(victim.read_bytes()[:1500])
    left = [line for line in victim.read_text().split("\n")[:-1] if line.startswith('{"position"')]
    lost = {*filter(None, whole)} - {json.loads(line)["task"] for line in left}
    assert 0 < len(lost) < len(names)
    if not keep_index:
        (path / f"{victim.stem}.index").unlink()
    with closing(opened(path)) as again:
        assert list(again.unfinished()) == names
        for name, many in zip(names, again.read_many(names), strict=True):
            assert many == again.read(name) or name in lost
            assert [type(each) for each in many] == (
                [Damage] if name in lost else [Record] * (1 + (name == "t39"))
            )
            assert name not in lost or many[0].task == name
        found = scan_all(again)
        assert [each.position for each in found] == list(range(1, 42))
        assert {names[each.position - 1] for each in found if isinstance(each, Damage)} == lost


def without_snapshot(path):
    (path / "snapshot").unlink()


def without_what_is_derived(path):
    without_snapshot(path)
    for each in path.glob("*.index"):
        each.unlink()


@pytest.mark.parametrize("cut", [False, True], ids=["scrawled", "cut off"])
@pytest.mark.parametrize("without", [without_snapshot, without_what_is_derived])
def test_a_damaged_end_of_a_sealed_segment_is_damage_without_a_snapshot_too(path, cut, without):
    with closing(opened(path, segment_size=1500)) as journal:
        for number in range(20):
            journal.append([entry(f"t{number}", 1)])
    segment = segments(path)[1]
    *lines, record, commit = segment.read_bytes().splitlines(keepends=True)
    position = json.loads(record)["position"]
    scrawled = record.replace(b'"created"', b'"XXXXXXX"')
    segment.write_bytes(b"".join(lines if cut else [*lines, scrawled, commit]))
    without(path)
    with closing(reading(path)) as reader:
        assert reader.last() == 20
        found = scan_all(reader)
        assert [each.position for each in found] == list(range(1, 21))
        assert [each.position for each in found if isinstance(each, Damage)] == [position]
        assert list(reader.check())
    if not cut and without is without_snapshot:  # the index knows whose the record was
        with closing(opened(path)) as again:
            assert [type(each) for each in again.read(f"t{position - 1}")] == [Damage]
            assert again.append([entry("new", 1)]) == 21
    else:
        with pytest.raises(JournalDamaged, match=r"it can't be told .*meowcat journal salvage"):
            opened(path)


@pytest.mark.parametrize("place", [0, 1, -1])
@pytest.mark.parametrize("snapshot", [True, False])
def test_a_segment_of_another_journal_counts_as_gone_and_the_owner_is_told(path, place, snapshot):
    other = path.with_name("other.jsonl")
    for each in (path, other):
        with closing(opened(each, segment_size=1500)) as journal:
            for number in range(20):
                journal.append([entry(f"{each.stem}{number}", 1)])
    if not snapshot:
        without_snapshot(path)
    segment = segments(path)[place]
    lost = {json.loads(line).get("position") for line in segment.read_text().splitlines()} - {None}
    segment.write_bytes((other / segment.name).read_bytes())
    before = image(path)
    with pytest.raises(JournalDamaged, match=rf"another .* in the place of {segment.name};"):
        opened(path)
    assert image(path) == before
    with closing(reading(path)) as reader:
        for _ in range(2):
            records = [each for each in scan_all(reader) if isinstance(each, Record)]
            assert {each.position for each in records} == set(range(1, 21)) - lost
            assert {each.task[:1] for each in records} == {"x"}
        assert any(": it is of journal" in each.detail for each in reader.check())


@pytest.mark.parametrize("place", [0, 1, -1])
def test_a_copy_of_another_segment_counts_as_none(path, place):
    with closing(opened(path, segment_size=1500)) as journal:
        for number in range(20):
            journal.append([entry(f"t{number}", 1)])
    segment = segments(path)[place]
    lost = {json.loads(line).get("position") for line in segment.read_text().splitlines()} - {None}
    shutil.copy(segments(path)[2], segment)
    with pytest.raises(JournalDamaged, match=rf"another .* in the place of {segment.name};"):
        opened(path)
    with closing(reading(path)) as reader:
        found = {each.position for each in scan_all(reader) if isinstance(each, Record)}
        assert found == set(range(1, 21)) - lost


def test_segments_that_all_have_wrong_names_are_refused(path):
    filled(path).close()
    (path / "snapshot").unlink()
    segments(path)[0].rename(path / "00000000000000000002.jsonl")
    for use in (opened, reading):
        with pytest.raises(JournalDamaged, match="no segment has its own name"):
            use(path)


@pytest.mark.parametrize("without", ["snapshot", "*.index", "nothing"])
def test_a_last_segment_that_is_gone_is_missed_where_something_knows_of_it(path, without):
    journal = opened(path, segment_size=1500)
    for number in range(20):
        journal.append([entry(f"t{number}", 1, unfinished=number > 8)])
    journal.set_cursor("sink", Position(15))
    journal.append([entry("t9", 2)])
    journal.close()
    for each in path.glob(without):
        each.unlink()
    *_, segment = segments(path)
    lost = {json.loads(line).get("position") for line in segment.read_text().splitlines()} - {None}
    segment.rename(path.parent / segment.name)
    before = [each.read_bytes() for each in segments(path)]
    with pytest.raises(JournalDamaged, match=rf"lacks {segment.name}: .*meowcat journal salvage"):
        opened(path)
    assert [each.read_bytes() for each in segments(path)] == before
    assert f"{segment.name} is missing: the journal had records up to 21 with it" in told(path)
    reader = reading(path)
    assert reader.last() == 21
    found = scan_all(reader)
    assert [each.position for each in found] == list(range(1, 22))
    assert {each.position for each in found if isinstance(each, Damage)} == lost
    if without != "snapshot":
        assert list(reader.unfinished()) == [f"t{number}" for number in range(9, 20)]
        assert isinstance(reader.read("t9")[-1], Damage)
        assert dict(reader.cursors()) == {"sink": 15}
    (path.parent / segment.name).rename(segment)
    assert [each.seq for each in reader.read("t9")] == [1, 2]
    assert list(reader.check()) == []
    reader.close()
    with closing(opened(path)) as again:
        assert again.append([entry("new", 1)]) == 22


def test_a_reader_that_comes_at_any_moment_of_a_rotation_misses_nothing(path):
    owner = opened(path, segment_size=1500)
    numbers = iter(range(1, 10000))

    def go_on():
        nonlocal last
        for _ in range(8):
            last = owner.append([entry(f"t{next(numbers)}", 1, unfinished=False)])

    last = 0
    go_on()
    for at in range(1, 200):
        files = Meanwhile()
        files.act, files.left = go_on, at
        before = last
        with closing(JSONLJournal(path, files=files)) as reader:
            reader.open_for_reading()
            found = reader.scan(Position(before - 1), 20)
            assert not [each for each in found if isinstance(each, Damage)], at
            assert reader.last() == last
        if files.left > 0:
            break
    assert at > 10
    owner.close()


def test_without_a_snapshot_damage_that_fits_no_task_is_refused_and_told_what_to_do(path):
    journal = filled(path)
    crashed(journal)
    segment = segments(path)[0]
    lines = segment.read_bytes().splitlines(keepends=True)
    place = next(number for number, line in enumerate(lines) if line.startswith(b'{"position":2'))
    lines[place] = b"x" * (len(lines[place]) - 1) + b"\n"
    segment.write_bytes(b"".join(lines))
    before = image(path)
    with pytest.raises(JournalDamaged, match=r"meowcat journal salvage .*x\.jsonl"):
        opened(path)
    assert image(path) == before
    reader = reading(path)
    assert [type(each) for each in scan_all(reader)] == [Record, Damage, Record, Record]
    reader.close()


def replace_lines(path, make, *starts):
    """Put something else in the place of the first segment's lines that begin so."""
    segment = segments(path)[0]
    lines = segment.read_bytes().splitlines(keepends=True)
    for start in starts:
        (place,) = [number for number, line in enumerate(lines) if line.startswith(start)]
        lines[place] = make(lines[place])
    segment.write_bytes(b"".join(lines))


def scribbled(line):
    return b"x" * (len(line) - 1) + b"\n"


def test_after_a_crash_a_damaged_line_is_not_believed_whose_it_is(path):
    """It says that it is a new task's first record, and that would hide the task that has lost it."""
    journal = filled(path)
    crashed(journal)
    replace_lines(path, lambda line: line.replace(b'"task":"c"', b'"task":"f"'), b'{"position":4')
    with pytest.raises(JournalDamaged, match="it can't be told"):
        opened(path)
    reader = reading(path)
    for task in "abcf":
        assert [each.position for each in reader.read(task) if isinstance(each, Damage)] == [4]
    reader.close()


def test_a_line_that_one_bit_explains_must_go_into_the_chain_as_well(path):
    """Or three changed bits could be taken for another one."""
    journal = filled(path)
    crashed(journal)

    def forged(line):
        other = seal_line(line[:-19].replace(b'"task":"c"', b'"task":"f"') + b"}")
        return other.replace(b'"seq":1', b'"seq":3')

    replace_lines(path, forged, b'{"position":4')
    with pytest.raises(JournalDamaged, match="it can't be told"):
        opened(path)


def test_after_a_close_the_index_knows_whose_a_record_was_of_which_nothing_is_left(path):
    """Its task is finished: nothing else would tell."""
    journal = filled(path)
    journal.append([entry("b", 2, unfinished=False)])
    journal.close()
    replace_lines(path, scribbled, b'{"position":5')
    for _ in range(2):  # and once more from the snapshot that the opening before has left
        again = opened(path)
        assert [type(each) for each in again.read("b")] == [Record, Damage]
        assert [type(each) for each in again.read("a")] == [Record, Record]
        assert list(again.unfinished()) == ["a", "c"]
        again.close()
    reader = reading(path)
    assert [type(each) for each in reader.read("b")] == [Record, Damage]
    assert [type(each) for each in reader.read("a")] == [Record, Record]
    reader.close()


def test_an_index_that_knows_another_task_does_not_prove_what_a_damaged_line_says(path):
    filled(path).close()
    (path / "snapshot").unlink()
    replace_lines(path, lambda line: line.replace(b'"task":"c"', b'"task":"f"'), b'{"position":4')
    with pytest.raises(JournalDamaged, match="it can't be told"):
        opened(path)


def test_an_index_of_other_records_is_not_believed(path):
    other = opened(path.with_name("other.jsonl"))
    other.append([entry("another", 1), entry("name", 1), entry("each", 1), entry("time", 1)])
    other.close()
    filled(path).close()
    index = "00000000000000000001.index"
    (path / index).write_bytes((path.with_name("other.jsonl") / index).read_bytes())
    replace_lines(path, scribbled, b'{"position":3')
    with pytest.raises(JournalDamaged, match="it can't be told"):
        opened(path)


def test_without_its_index_a_record_of_which_nothing_is_left_may_be_anybodys(path):
    filled(path).close()
    replace_lines(path, scribbled, b'{"position":3')
    (path / "00000000000000000001.index").write_bytes(b"rubbish")
    with pytest.raises(JournalDamaged, match="it can't be told"):
        opened(path)


def test_without_a_snapshot_the_index_proves_what_a_damaged_line_says(path):
    filled(path).close()
    (path / "snapshot").unlink()
    replace_lines(path, lambda line: line.replace(b'"created"', b'"XXXXXXX"'), b'{"position":4')
    again = opened(path)
    assert [type(each) for each in again.read("c")] == [Damage]
    assert [type(each) for each in again.read("b")] == [Record]
    again.close()


def test_a_cursor_that_a_crash_and_one_bit_have_hit_is_what_it_was(path):
    journal = filled(path)
    journal.set_cursor("sink", Position(2))
    journal.set_cursor("sink", Position(4))
    crashed(journal)
    replace_lines(path, lambda line: line.replace(b"4", b"5", 1), b'{"cursor":{"name":"sink","position":4')
    again = opened(path)
    assert dict(again.cursors()) == {"sink": 4}
    check_stored(again, ENTRIES)
    again.close()


def test_a_line_that_may_have_been_a_cursor_is_not_passed_over(path):
    journal = filled(path)
    journal.set_cursor("sink", Position(2))
    journal.set_cursor("sink", Position(4))
    crashed(journal)
    replace_lines(path, scribbled, b'{"cursor":{"name":"sink","position":4')
    with pytest.raises(JournalDamaged, match="what 1 damaged lines were"):
        opened(path)


def test_damage_that_later_records_of_its_task_tell_is_kept_to_that_task(path):
    journal = filled(path)
    journal.append([entry("b", 2)])
    crashed(journal)
    segment = segments(path)[0]
    lines = segment.read_bytes().splitlines(keepends=True)
    place = next(number for number, line in enumerate(lines) if line.startswith(b'{"position":2'))
    lines[place] = b"x" * (len(lines[place]) - 1) + b"\n"
    segment.write_bytes(b"".join(lines))
    reader = reading(path)
    assert [type(each) for each in reader.read("a")] == [Record, Record]
    assert [each.seq for each in reader.read("b") if isinstance(each, Record)] == [2]
    reader.close()
    again = opened(path)
    assert [type(each) for each in again.read("a")] == [Record, Record]
    assert [each.seq for each in again.read("b") if isinstance(each, Record)] == [2]
    again.close()


def test_a_record_that_was_edited_with_its_crc_breaks_the_chain_and_ends_its_segment(path):
    journal = filled(path)
    crashed(journal)
    segment = segments(path)[0]
    content = segment.read_bytes()
    line = next(line for line in content.splitlines(keepends=True) if b'"position":3' in line)
    edited = content.replace(
        line, seal_line(line[:-19].replace(b'"type":"created"', b'"type":"deleted"') + b"}")
    )
    segment.write_bytes(edited)
    again = opened(path)
    assert segment.read_bytes() == edited
    assert len(segments(path)) == 2
    again.append([entry("c", 2)])
    assert [damage.position for damage in verify_chain(scan_all(again))] == [3]
    again.close()


def test_no_epoch_is_given_twice_although_an_opening_is_damaged(path):
    opened(path).close()
    journal = opened(path)
    assert journal._epoch == 2
    crashed(journal)
    segment = segments(path)[0]
    content = bytearray(segment.read_bytes())
    content[content.rindex(b'{"opening"') + 20] ^= 1
    segment.write_bytes(content)
    again = JSONLJournal(path)
    assert again.open(OWNER, "power") > 2
    again.close()


def test_a_segment_that_is_gone_is_damage_at_its_positions(path):
    journal = opened(path, segment_size=1500)
    for number in range(20):
        journal.append([entry(f"t{number}", 1)])
    journal.close()
    victim = segments(path)[2]
    gone = [
        json.loads(line)["position"] for line in victim.read_text().splitlines() if "position" in line[:12]
    ]
    victim.unlink()
    again = opened(path)
    found = scan_all(again)
    assert [each.position for each in found if isinstance(each, Damage)] == gone
    assert [each.position for each in found] == list(range(1, 21))
    again.close()


def test_a_wrong_snapshot_is_not_believed(path):
    journal = filled(path)
    journal.close()
    other = opened(path.with_name("other.jsonl"))
    other.append([entry("foreign", 1)])
    other.close()
    for wrong in (b"", b"rubbish", (path.with_name("other.jsonl") / "snapshot").read_bytes()):
        (path / "snapshot").write_bytes(wrong)
        again = opened(path)
        check_stored(again, ENTRIES)
        assert list(again.unfinished()) == ["a", "b", "c"]
        again.close()


def test_a_finished_task_that_went_on_is_found_again_after_a_crash(path):
    """What it had before is read from the segment itself, line by line."""
    journal = opened(path)
    entries = [entry("a", seq, unfinished=False) for seq in (1, 2, 3)]
    journal.append(entries[:2])
    journal.append(entries[2:])
    crashed(journal)
    again = opened(path)
    check_stored(again, entries)
    assert again.append([entry("a", 4)]) == 4
    again.close()


def test_a_line_with_a_position_beyond_all_reason_takes_no_memory(path):
    """Its CRC is right, and yet it is none of this journal's lines."""
    journal = filled(path)
    crashed(journal)
    segment = segments(path)[0]
    content = segment.read_bytes()
    line = next(line for line in content.splitlines(keepends=True) if b'"position":3' in line)
    far = seal_line(line[:-19].replace(b'"position":3', b'"position":%d' % (1 << 60)) + b"}")
    segment.write_bytes(content.replace(line, far))
    reader = reading(path)
    assert [type(each) for each in scan_all(reader)] == [Record, Record, Damage, Record]
    reader.close()


def test_a_snapshot_of_another_journal_that_is_as_long_is_not_believed(path):
    filled(path).close()
    filled(path.with_name("other.jsonl")).close()
    (path / "snapshot").write_bytes((path.with_name("other.jsonl") / "snapshot").read_bytes())
    again = opened(path)
    header = parse(segments(path)[0].read_bytes().splitlines(keepends=True)[0])
    assert again._id == header.journal
    again.close()


def test_a_wrong_index_is_made_anew(path):
    journal = opened(path, segment_size=1500)
    entries = [entry(f"t{number % 7}", number // 7 + 1) for number in range(35)]
    for each in entries:
        journal.append([each])
    journal.close()
    for each in sorted(path.glob("*.index"))[::2]:
        content = bytearray(each.read_bytes())
        content[-1] ^= 1
        each.write_bytes(content)
    again = opened(path)
    check_stored(again, entries)
    assert [each.seq for each in again.read("t3")] == [1, 2, 3, 4, 5]
    again.close()


# Looking it over


def told(path):
    reader = reading(path)
    found = [damage.detail for damage in reader.check()]
    reader.close()
    return found


def in_segments(path):
    """A journal of several segments, with an archive, cursors and openings."""
    for round_ in range(3):
        journal = opened(path, segment_size=1500)
        for number in range(8):
            journal.append(
                [entry(f"t{round_}-{number}", 1, unfinished=False), entry(f"u{round_}-{number}", 1)]
            )
            journal.set_cursor("sink", Position(1))
        journal.append([entry(f"u{round_}-{number}", 2, unfinished=False) for number in range(8)])
        journal.set_cursor("sink", Position(16 * round_ + 5))
        if round_ == 0:
            assert journal.compact().records
        journal.close()
    assert told(path) == []


def resealed(line, old, new):
    assert old in line
    return seal_line(line[:-19].replace(old, new) + b"}")


def change_line(segment, start, old, new):
    content = segment.read_bytes()
    line = next(line for line in content.splitlines(keepends=True) if line.startswith(start))
    segment.write_bytes(content.replace(line, resealed(line, old, new)))


def test_a_segment_that_was_edited_is_told_by_the_one_behind_it(path):
    """Its CRCs are right again, and what was changed stands in no chain."""
    in_segments(path)
    for place in (path / "archive", path):
        segment = min(place.glob("*.jsonl"))
        good = segment.read_bytes()
        change_line(segment, b'{"cursor"', b'"position":', b'"position":1')
        (flaw,) = told(path)
        assert f"{int(segment.stem) + 1:020d}.jsonl: the file before it is not the one" in flaw
        segment.write_bytes(good)


class Meanwhile(Files):
    """Does something before one call of those that a check makes."""

    left = 0

    def _come(self):
        self.left -= 1
        if not self.left:
            self.act()

    def open(self, *words):
        self._come()
        return super().open(*words)

    def pread(self, *words):
        self._come()
        return super().pread(*words)

    def exists(self, *words):
        self._come()
        return super().exists(*words)

    def list_folder(self, *words):
        self._come()
        return super().list_folder(*words)

    def map(self, *words):
        self._come()
        return super().map(*words)


@pytest.mark.parametrize("compacting", [False, True])
def test_an_owner_that_goes_on_at_any_moment_of_it_makes_nothing_wrong(path, compacting):
    owner = opened(path, segment_size=1500)
    numbers = iter(range(1, 10000))

    def go_on():
        for _ in range(3):
            number = next(numbers)
            done = [entry(f"{name}{number}", 1, unfinished=False) for name in ("x", "y")]
            owner.append([entry("a", number), *done] if not compacting else done)
        if compacting:
            owner.compact()

    for at in range(1, 200):
        if at % 20 == 1:
            owner.close()
            shutil.rmtree(path)
            owner = opened(path, segment_size=1500)
            numbers = iter(range(1, 10000))
            go_on()
        files = Meanwhile()
        files.act = go_on
        reader = JSONLJournal(path, files=files)
        reader.open_for_reading()
        files.left = at
        assert [damage.detail for damage in reader.check()] == [], at
        reader.close()
        if files.left > 0:
            break
    assert at > 20
    owner.close()


@pytest.mark.parametrize(
    ("start", "old", "new", "says"),
    [
        (b'{"commit"', b'"lines":', b'"lines":1', "lines behind"),
        (b'{"commit"', b'"last":', b'"last":1', "a commit of the records up to"),
        (b'{"commit"', b'"chain":"', b'"chain":"00', "another value of the hash chain"),
        (b'{"segment"', b'"first":', b'"first":1', "it begins with record 1"),
        (b'{"segment"', b'"number":', b'"number":1', "its first line is that of segment 1"),
        (b'{"segment"', b'"journal":"', b'"journal":"00', "it is of journal 00"),
        (b'{"opening"', b'"epoch":3', b'"epoch":2', "an opening of epoch 2 behind one of 2"),
    ],
)
def test_a_line_that_does_not_fit_its_neighbours_is_told(path, start, old, new, says):
    in_segments(path)
    segment = next(each for each in reversed(segments(path)) if start + b":{" in each.read_bytes())
    if start != b'{"opening"':
        segment = segments(path)[-1]
    change_line(segment, start, old, new)
    found = told(path)
    assert any(says in flaw for flaw in found), found


def test_damaged_lines_that_are_no_records_are_told(path):
    in_segments(path)
    for change in (scribbled, lambda line: line[:-5] + bytes([line[-5] ^ 1]) + line[-4:]):
        segment = segments(path)[1]
        good = segment.read_bytes()
        line = next(line for line in good.splitlines(keepends=True) if line.startswith(b'{"cursor"'))
        segment.write_bytes(good.replace(line, change(line), 1))
        found = [flaw for flaw in told(path) if "file before" not in flaw]
        assert len(found) == 1
        assert "damaged lines that are no records" in found[0] or "changed bit in the cursor" in found[0]
        segment.write_bytes(good)


def test_what_is_derived_is_told_as_such(path):
    in_segments(path)
    for name in ("snapshot", *(each.name for each in path.glob("*.index"))):
        good = (path / name).read_bytes()
        (path / name).write_bytes(good[:-30] + b"?" + good[-29:])
        (flaw,) = told(path)
        assert name in flaw
        assert "nothing is lost" in flaw
        (path / name).write_bytes(good)
    first, second = sorted(path.glob("*.index"))[:2]
    head, rest = first.read_bytes().split(b"\n", 1)
    number = f'"segment":{int(second.stem)},'.encode()
    begin, end = head.index(b'"segment":'), head.index(b",") + 1
    second.write_bytes(seal_line(head[:begin] + number + head[end:-18] + b"}") + rest)
    assert any(f"{second.name} is not the index of" in flaw for flaw in told(path))


def test_a_snapshot_that_says_something_else_is_told(path):
    filled(path).close()
    old = (path / "snapshot").read_bytes()
    wrong = old.replace(b'["c",4,1]', b'["c",3,1]')
    (path / "snapshot").write_bytes(seal_line(wrong[:-19] + b"}"))
    (flaw,) = told(path)
    assert "snapshot does not say what stands before" in flaw


def test_a_last_segment_that_lost_its_end_after_a_close_is_told(path):
    filled(path).close()
    segment = segments(path)[0]
    segment.write_bytes(segment.read_bytes()[:-150])
    assert any("it had" in flaw for flaw in told(path))


def test_what_a_crash_has_torn_is_nothing_that_is_wrong(path):
    journal = filled(path)
    crashed(journal)
    segment = segments(path)[0]
    segment.write_bytes(segment.read_bytes()[:-150])
    assert told(path) == []


# Owners


def test_a_stray_second_writer_is_seen(path):
    journal = filled(path)
    with segments(path)[0].open("ab") as stray:
        stray.write(b"stray\n")
    with pytest.raises(JournalFenced):
        journal.append([entry("a", 3)])
    with pytest.raises(JournalFenced):
        journal.set_cursor("x", Position(1))
    crashed(journal)


@pytest.mark.parametrize("change", [b"a changed byte", b""])
def test_a_reopening_misses_acknowledged_bytes_that_have_changed(path, change):
    journal = filled(path)
    (segment,) = segments(path)
    with segment.open("r+b") as file:
        file.seek(-200, os.SEEK_END)
        file.write(change)
        if not change:
            file.truncate()
    there = segment.read_bytes()
    with pytest.raises(JournalDamaged, match="acknowledged bytes have changed"):
        journal.reopen()
    assert segments(path) == [segment]
    assert segment.read_bytes() == there, "nothing is cut off"
    crashed(journal)


@pytest.mark.parametrize("place", ["behind what was acknowledged", "in the next segment"])
def test_a_reopening_leaves_what_another_owner_has_written(path, place):
    """Whose lock is the same file to those who look: on a file system that lies."""
    journal = filled(path)
    (segment,) = segments(path)
    opening = control_line(Opening(2, 1, OTHER, "power"))
    written = opening + control_line(Commit(1, len(ENTRIES), "0" * 64))
    if place == "in the next segment":
        segment = path / "00000000000000000002.jsonl"
        written = segments(path)[0].read_bytes().partition(b"\n")[0] + b"\n" + written
    with segment.open("ab") as other:
        other.write(written)
    there = segment.read_bytes()
    for _ in range(2):
        with pytest.raises(JournalFenced):
            journal.reopen()
        with pytest.raises(JournalFenced):
            journal.append([entry("a", 3)])
    journal.close()
    assert segment.read_bytes() == there
    assert not (path / "snapshot").exists(), "that is the other's to write"


@pytest.mark.parametrize("what", ["removed", "replaced", "cut off", "removed with its folder"])
def test_a_segment_that_is_taken_away_under_its_owner_is_written_to_no_more(path, what):
    journal = filled(path)
    segment = segments(path)[0]
    before = segment.read_bytes()
    journal.append([entry("a", 3)])
    if what == "removed with its folder":
        shutil.rmtree(path)
    elif what == "cut off":
        os.truncate(segment, len(before))
    else:
        segment.unlink()
    if what == "replaced":  # as an editor does that has read it a while ago
        segment.write_bytes(before)
    happened = "cut off" if what == "cut off" else "removed or replaced"
    for write in (lambda: journal.append([entry("a", 4)]), lambda: journal.set_cursor("x", Position(1))):
        with pytest.raises(JournalFenced, match=f"was {happened} while it was open"):
            write()
    assert journal.last() == 5
    journal.close()
    if what in ("replaced", "cut off"):
        again = reading(path)
        found = scan_all(again)
        assert [given(each) for each in found[:4]] == ENTRIES
        assert [each.position for each in found[4:] if isinstance(each, Damage)] == [5], "it is missed"
        again.close()


def test_a_lock_file_that_was_replaced_ends_the_ownership(path):
    journal = filled(path)
    (path / "lock").unlink()
    with pytest.raises(JournalFenced):
        journal.append([entry("a", 3)])
    with pytest.raises(JournalFenced):
        journal.reopen()
    journal.close()


def test_a_lock_file_that_can_not_be_looked_at_for_a_moment_ends_nothing(path):
    journal = filled(path)
    away = path.rename(path.with_name("away"))
    path.symlink_to(path)  # nothing is found behind such a path: ELOOP
    with pytest.raises(JournalRejected, match="not stored"):
        journal.append([entry("a", 3)])
    with pytest.raises(JournalUncertain):
        journal.reopen()
    path.unlink()
    away.rename(path)
    assert journal.reopen() == len(ENTRIES)
    assert journal.append([entry("a", 3)]) == len(ENTRIES) + 1
    journal.close()
    assert told(path) == []


def test_one_journal_by_two_links_has_one_owner(path):
    journal = filled(path)
    link = path.with_name("link.jsonl")
    link.symlink_to(path)
    with pytest.raises(JournalOwned):
        opened(link)
    journal.close()


READ = """
import json, sys
from journal_adapters.jsonl import JSONLJournal
from journal_adapters.jsonl_files import Files
from meowcat.core.errors import JournalOwned
from meowcat.journal.contract import Owner
journal = JSONLJournal(sys.argv[1])
try:
    journal.open(Owner(1, "x"), "power")
except JournalOwned as error:
    owner = error.owner
journal.open_for_reading()
print(json.dumps([owner, journal.last(), list(journal.unfinished()), len(journal.scan(0, 10))]))
"""


def test_another_process_reads_a_journal_that_is_owned_and_is_told_by_whom(path):
    journal = filled(path)
    told = subprocess.run(
        [sys.executable, "-c", READ, path], capture_output=True, check=True, text=True
    ).stdout
    assert json.loads(told) == [str(OWNER), 4, ["a", "b", "c"], 4]
    journal.close()


def test_a_reader_follows_over_segments_and_into_the_archive_and_can_not_write(path):
    journal = opened(path, segment_size=1500)
    reader = reading(path)
    entries = []
    for number in range(30):
        entries.append(entry(f"t{number}", 1, unfinished=number > 20))
        journal.append(entries[-1:])
        assert reader.last() == number + 1
        if number % 10 == 9:
            journal.compact()
            check_stored(reader, entries)
    journal.set_cursor("sink", Position(7))
    assert dict(reader.cursors()) == {"sink": 7}
    assert list(reader.unfinished()) == [f"t{number}" for number in range(21, 30)]
    assert [each.position for each in reader.read("t3")] == [4]
    with pytest.raises(JournalError, match="reading only"):
        reader.append([entry("mine", 1)])
    journal.close()
    assert reader.last() == 30
    reader.close()
    with pytest.raises(JournalClosed):
        reader.last()


def test_a_reader_ignores_the_batch_that_is_being_written(path):
    journal = filled(path)
    reader = reading(path)
    begin = journal._log.size
    journal.append([entry("a", 3), entry("a", 4)])
    segment = segments(path)[0]
    whole = segment.read_bytes()
    for cut in range(begin, len(whole)):
        segment.write_bytes(whole[:cut])
        assert reader.last() == 4
    segment.write_bytes(whole)
    assert reader.last() == 6
    reader.close()
    journal.close()


def test_a_reader_forgets_a_batch_that_was_cut_off_again(path):
    journal = filled(path)
    reader = reading(path)
    before = segments(path)[0].read_bytes()
    journal.append([entry("a", 3)])
    assert reader.last() == 5
    crashed(journal)
    segments(path)[0].write_bytes(before)
    (path / "snapshot").unlink(missing_ok=True)
    assert reader.last() == 4
    again = opened(path)
    again.append([entry("z", 1)])
    assert [given(each) for each in scan_all(reader)] == [*ENTRIES, entry("z", 1)]
    reader.close()
    again.close()


class NoFolders(Files):
    """A file gets its name, and whether that is durable can't be said."""

    failing = False

    def fsync_folder(self, path):
        if self.failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)


@pytest.mark.parametrize("looks_between", [True, False])
def test_a_reader_leaves_a_segment_whose_beginning_failed(path, looks_between):
    """The owner removes it when it reopens, and the next one goes on in the segment before."""
    files = NoFolders()
    journal = opened(path, segment_size=1500, files=files)
    reader = reading(path)
    files.failing = True
    with pytest.raises(JournalUncertain):
        list(map(journal.append, ([entry(f"t{number}", 1)] for number in range(20))))
    count = journal.last()
    assert reader.last() == count
    assert len(segments(path)) == 2
    with pytest.raises(JournalUncertain):
        journal.reopen()
    assert len(segments(path)) == 1
    crashed(journal)
    if looks_between:
        assert reader.last() == count
    with closing(opened(path, segment_size=3000)) as again:
        for number in range(20):
            again.append([entry(f"n{number}", 1)])
        assert len(segments(path)) > 1
        assert reader.last() == again.last()
        assert scan_all(reader) == scan_all(again)
        assert list(reader.check()) == []
    reader.close()


def test_no_permission(public):
    def opening():
        try:
            return JSONLJournal(public / "x.jsonl").open(OWNER, "power")
        except JournalError as error:
            return type(error).__name__

    public.chmod(0o555)
    assert as_nobody(opening) == "JournalAccess"
    public.chmod(0o777)
    filled(public / "x.jsonl").close()
    (public / "x.jsonl" / "lock").chmod(0o666)
    before = image(public)
    assert as_nobody(opening) == "JournalAccess"  # the segment can't be written
    segments(public / "x.jsonl")[0].chmod(0o000)
    assert as_nobody(opening) == "JournalAccess"
    segments(public / "x.jsonl")[0].chmod(0o644)
    assert image(public) == before


def test_a_journal_in_a_read_only_folder_can_be_read(public):
    def looking():
        reader = reading(public / "x.jsonl")
        return reader.last(), len(scan_all(reader)), list(reader.unfinished())

    journal = opened(public / "x.jsonl", segment_size=1000)
    for number in range(10):
        journal.append([entry(f"t{number}", 1)])
    for index in (public / "x.jsonl").glob("*.index"):
        index.unlink()
    (public / "x.jsonl").chmod(0o555)
    assert as_nobody(looking) == str((10, 10, [f"t{number}" for number in range(10)]))
    journal.close()


def test_a_forked_child_refuses_and_leaves_the_lock_to_its_parent(path):
    journal = filled(path)

    def in_child():
        told = []
        for use in (journal.last, journal.reopen, lambda: journal.append([entry("child", 1)])):
            try:
                told.append(use())
            except JournalForked:
                told.append("forked")
        journal.close()
        return told

    before = image(path)
    assert as_nobody(in_child) == "['forked', 'forked', 'forked']"
    assert image(path) == before
    with pytest.raises(JournalOwned):
        opened(path)
    journal.append([entry("parent", 1)])
    assert journal.last() == 5
    journal.close()


@pytest.mark.parametrize("as_reader", [False, True])
def test_a_child_that_was_forked_while_a_thread_was_reading_is_refused_as_well(path, as_reader):
    owner = filled(path)
    journal = reading(path) if as_reader else owner
    uses = {
        "read": lambda: journal.read("a"),
        "read_many": lambda: journal.read_many(["a", "b"]),
        "unfinished": lambda: list(journal.unfinished()),
        "cursors": journal.cursors,
        "scan": lambda: journal.scan(Position(0), 10),
        "last": journal.last,
        "check": lambda: list(journal.check()),
    }

    def in_child():
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(5)  # a child that waits is killed, and has told nothing
        told = set()
        for name, use in uses.items():
            try:
                told.add((name, use()))
            except JournalForked:
                told.add("forked")
        journal.close()
        journal.open_for_reading()
        return told, journal.last(), len(journal.read("a"))

    with held(journal._mutex):
        assert as_child(in_child) == "({'forked'}, 4, 2)"
    journal.close()
    owner.close()


# Tasks


def test_a_task_goes_on_where_it_was_and_nowhere_else(path):
    journal = opened(path, segment_size=1500)
    journal.append([entry("a", 1), entry("b", 1, unfinished=False)])
    for number in range(20):
        journal.append([entry(f"t{number}", 1, unfinished=False)])
    for wrong in (entry("a", 1), entry("a", 3), entry("b", 1), entry("b", 3), entry("t4", 1), entry("n", 2)):
        with pytest.raises(JournalConflict):
            journal.append([wrong])
    journal.append([entry("b", 2), entry("t4", 2), entry("t4", 3)])
    assert list(journal.unfinished()) == ["a", "b", "t4"]
    assert [each.seq for each in journal.read("t4")] == [1, 2, 3]
    assert [each.seq for each in journal.read("t4", after=2)] == [3]
    journal.close()
    again = opened(path)
    assert list(again.unfinished()) == ["a", "b", "t4"]
    again.close()


# Compaction


def test_a_compaction_moves_finished_tasks_behind_every_cursor_and_rewrites_nothing(path):
    journal = opened(path, segment_size=1500)
    entries = [entry(f"t{number}", 1, unfinished=number == 25) for number in range(40)]
    for each in entries:
        journal.append([each])
    before = {each.name: each.read_bytes() for each in segments(path)}
    journal.set_cursor("sink", Position(12))
    first = journal.compact()
    assert 0 < first.records <= 12
    journal.set_cursor("sink", None)
    second = journal.compact()
    assert first.records + second.records <= 25
    assert second.records > 0
    assert first.archive == str(path / "archive")
    archived = {each.name: each.read_bytes() for each in (path / "archive").glob("*.jsonl")}
    assert archived == {name: before[name] for name in archived}
    assert sum(map(len, archived.values())) == first.bytes + second.bytes
    check_stored(journal, entries)
    assert [each.position for each in journal.read("t2")] == [3]
    with pytest.raises(JournalConflict):
        journal.append([entry("t2", 1)])
    assert journal.compact().records == 0
    journal.close()
    again = opened(path)
    check_stored(again, entries)
    again.close()
    for each in (path / "archive").iterdir():
        each.unlink()
    for journal in (reading(path), opened(path)):
        found = scan_all(journal)
        gone = first.records + second.records
        assert [each.position for each in found] == list(range(gone + 1, 41))
        assert list(verify_chain(found[1:], found[0].chain, found[0].position)) == []
        assert list(journal.unfinished()) == ["t25"]
        journal.close()


@pytest.mark.parametrize("closed", [True, False])
def test_cursors_outlive_the_archive_and_the_snapshot(path, closed):
    journal = opened(path, segment_size=1500)
    for number in range(20):
        journal.append([entry(f"t{number}", 1, unfinished=False)])
    journal.set_cursor("sink", Position(20))
    journal.set_cursor("other", Position(20))
    assert journal.compact().records == 20
    if closed:
        journal.close()
    shutil.rmtree(path / "archive")
    (path / "snapshot").unlink(missing_ok=True)
    found = reading(path)
    assert found.cursors() == {"sink": 20, "other": 20}
    found.close()
    if not closed:
        journal.close()


def test_where_all_is_finished_the_segment_that_is_written_goes_too(path):
    journal = opened(path)
    journal.append([entry("a", 1, unfinished=False)])
    assert journal.compact().records == 1
    assert journal.append([entry("b", 1)]) == 2
    check_stored(journal, [entry("a", 1, unfinished=False), entry("b", 1)])
    journal.close()


# Restoring


def test_another_journals_records_are_taken_over_as_they_are(path):
    source = opened(path.with_name("source.jsonl"), segment_size=1500)
    for number in range(20):
        source.append([entry(f"t{number}", 1)])
    source.close()
    source = opened(path.with_name("source.jsonl"))
    source.append([entry("t0", 2)])
    records = scan_all(source)
    source.close()
    target = opened(path, segment_size=1500)
    assert target.restore(records[:10]) == 10
    for wrong in (
        records[11:],
        records[:1],
        [msgspec.structs.replace(records[10], chain=bytes(32))],
    ):
        with pytest.raises(JournalRejected):
            target.restore(wrong)
    assert target.restore(records[10:]) == 21
    assert scan_all(target) == records
    with pytest.raises(JournalRejected, match="open it again"):
        target.append([entry("new", 1)])
    target.close()
    again = JSONLJournal(path)
    assert again.open(OTHER, "power") == 3
    assert scan_all(again) == records
    assert again.append([entry("new", 1)]) == 22
    assert list(verify_chain(scan_all(again))) == []
    again.close()


# The files


def test_a_new_segment_costs_the_same_however_many_there_are(path, monkeypatch):
    """Also where they are more than have their indexes open."""
    monkeypatch.setattr(jsonl_reading, "MAPPED", 4)
    mapped = []
    read = Files.map
    monkeypatch.setattr(Files, "map", lambda files, name: mapped.append(name) or read(files, name))
    journal = opened(path, segment_size=1)
    costs = []
    for first in range(0, 40, 10):
        mapped.clear()
        for number in range(first, first + 10):
            journal.append([entry(f"t{number:02d}", 1)])
        costs.append(len(mapped))
    assert costs[1] == costs[2] == costs[3]
    journal.close()


def test_each_segment_names_the_digest_of_the_one_before_and_the_chain_that_it_follows(path):
    import hashlib  # noqa: PLC0415  # this test alone computes what a stranger would

    journal = opened(path, segment_size=1500)
    for number in range(20):
        journal.append([entry(f"t{number}", 1)])
    journal.close()
    opened(path, segment_size=1500).close()
    previous, chain, last = "0" * 64, "0" * 64, 0
    for number, segment in enumerate(segments(path), 1):
        lines = [parse(line) for line in segment.read_bytes().splitlines(keepends=True)]
        header = lines[0]
        assert isinstance(header, Segment)
        assert (header.number, header.previous, header.chain, header.first) == (
            number,
            previous,
            chain,
            last + 1,
        )
        commits = [line for line in lines if isinstance(line, Commit)]
        previous = hashlib.sha256(segment.read_bytes()).hexdigest()
        chain, last = commits[-1].chain, commits[-1].last
    assert last == 20
    assert control_line(header).count(b"\n") == 1


def test_what_could_not_be_written_as_a_whole_leaves_the_disk_its_room(tmp_path):
    class Full(Files):
        def append(self, fd, data):
            if bytes(data) == b"second":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().append(fd, data)

    (tmp_path / "snapshot").write_bytes(b"the old one")
    with pytest.raises(OSError, match="No space"):
        replace_file(Full(), str(tmp_path), "snapshot", [b"first", b"second"])
    assert [each.name for each in tmp_path.iterdir()] == ["snapshot"]
    assert (tmp_path / "snapshot").read_bytes() == b"the old one"


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5])
def test_a_snapshot_that_is_written_in_parts_has_all_rows(monkeypatch, count):
    monkeypatch.setattr(jsonl_state, "_AT_ONCE", 2)
    ledger = Ledger(position=100)
    for number in range(count):
        ledger.rows.put(f"task-{number}", number + 1, 1 << 20 if number == 3 else number)
    line = b"".join(snapshot_of(ledger, "journal", 1, 10))
    json.loads(line)
    found = read_snapshot(line).ledger()
    assert found.position == 100
    assert list(found.rows.items()) == list(ledger.rows.items())
    assert found.rows.get("task-3") == (Row(4, 1 << 20) if count > 3 else None)
