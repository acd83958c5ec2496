"""Power lost and processes killed at every call of a small download, on a disk that keeps no promise.

The task below is what the engine makes of the file layer: it records that a piece is stored after the flush,
the intent after the last one, and Complete after `publish` returned. Records survive everything here.
"""

from dataclasses import dataclass, field

import pytest

from meowcat.testing.disk import PowerLost, SimulatedDisk
from meowcat.transfer.files import PartFile, part_path
from meowcat.transfer.publish import discard, outcome, publish

TASK = "01JTASKAAAAAAAAAAAAAAAAAAA"
FOLDER = "/downloads"
TARGET = f"{FOLDER}/big.iso"
PART = part_path(TARGET, TASK)
PIECE = 1536
CONTENT = bytes(1 + index * 7 % 251 for index in range(2 * PIECE - 100))
PIECES = [CONTENT[:PIECE], CONTENT[PIECE:]]
OLD = b"what stood there before"

FILE_SYSTEMS = [frozenset(), frozenset({"rename_new"}), frozenset({"rename_new", "link"})]
LOSSES = ["lost", "kept", *range(10, 16)]
"""How the power loss chooses: the extremes, and by seeds, among which are all four fates of two names."""


@dataclass
class Records:
    """What the journal has."""

    stored: list = field(default_factory=list)
    file: object = None
    intent: bool = False
    complete: bool = False


@dataclass
class World:
    overwrite: str
    without: frozenset

    def disk(self, seed=0):
        disk = SimulatedDisk(seed, without=self.without, short_writes=True)
        disk.make_folder(FOLDER)
        if self.overwrite == "replace":
            disk.put(TARGET, OLD)
        return disk

    @property
    def before(self):
        """What the target may hold but for the whole content."""
        return OLD if self.overwrite == "replace" else None

    def run(self, disk, records):
        """Begin, or go on after a crash, to the end."""
        if records.complete:
            return
        if not records.intent:
            self.fetch(disk, records)
            records.intent = True
        publish(disk, TARGET, TASK, records.file, len(CONTENT), self.overwrite, "power")
        records.complete = True

    def fetch(self, disk, records):
        part = PartFile.open(disk, TARGET, TASK, "power", fresh=not records.stored, size=len(CONTENT))
        assert not (records.stored and part.created), "the part file's name was lost"
        records.file = part.identity
        for number, piece in enumerate(PIECES):
            if number in records.stored:
                assert part.read(number * PIECE, len(piece)) == piece, "stored bytes were lost"
                continue
            part.write(number * PIECE, piece)
            part.check(number * PIECE + len(piece))
            part.flush()
            records.stored.append(number)
        part.close()

    def check(self, disk, records):
        """What must hold after any crash, before anything is repaired."""
        found = disk.get(TARGET)
        assert found in (self.before, CONTENT), "the target holds something partial"
        if records.complete:
            assert found == CONTENT, "the task is Complete, and its file is lost"
        elif records.intent:
            what = outcome(disk, TARGET, TASK, records.file, len(CONTENT))
            assert what != "gone", "verified bytes were lost"
            assert (what == "published") == (found == CONTENT)
        else:
            assert found == self.before, "published before it was intended"


@pytest.fixture(params=["never", "replace"])
def world(request):
    return World(request.param, frozenset())


@pytest.fixture(params=[("never", lacks) for lacks in FILE_SYSTEMS] + [("replace", FILE_SYSTEMS[0])])
def any_world(request):
    return World(*request.param)


def crashes(world, seeds=(0,)):
    """Every call of an undisturbed download, and both sides of it."""
    trial = world.disk()
    world.run(trial, Records())
    assert trial.get(TARGET) == CONTENT
    for seed in seeds:
        for number in range(1, trial.calls + 1):
            for when in ("before", "after"):
                yield seed, number, when


def crashed(world, seed, number, when):
    """The disk and the records after the power went at that call (short writes may make it end before)."""
    disk, records = world.disk(seed).crash_at(number, when), Records()
    try:
        world.run(disk, records)
    except PowerLost:
        pass
    return disk, records


def lose(disk, loss):
    if isinstance(loss, str):
        return disk.restart(loss)
    disk = disk.killed()
    disk.reseed(loss)
    return disk.restart("seed")


def test_a_power_loss_anywhere_loses_nothing_recorded_and_never_shows_a_partial_file(any_world):
    for seed, number, when in crashes(any_world):
        for loss in LOSSES:
            disk, records = crashed(any_world, seed, number, when)
            disk = lose(disk, loss)
            with disk.explained():
                any_world.check(disk, records)
                any_world.run(disk, records)
                any_world.check(disk.restart("lost"), records)
                assert disk.list_folder(FOLDER) == ["big.iso"]


def test_a_power_loss_during_the_repair_loses_nothing_either(any_world):
    for seed, number, when in crashes(any_world):
        for second in range(1 + number % 5, 30, 5):
            disk, records = crashed(any_world, seed, number, when)
            disk = lose(disk, number).crash_at(second, when)
            try:
                any_world.run(disk, records)
            except PowerLost:
                pass
            disk = lose(disk, second)
            with disk.explained():
                any_world.check(disk, records)
                any_world.run(disk, records)
                any_world.check(disk.restart("lost"), records)


def test_a_process_killed_anywhere_leaves_nothing_that_a_later_power_loss_could_take(any_world):
    for seed, number, when in crashes(any_world):
        disk, records = crashed(any_world, seed, number, when)
        disk = disk.killed()
        with disk.explained():
            any_world.check(disk, records)
            any_world.run(disk, records)
            any_world.check(disk.restart("lost"), records)
            assert disk.list_folder(FOLDER) == ["big.iso"]


def test_a_part_file_of_a_killed_process_is_durable_before_anything_is_recorded_about_it(world):
    trial = world.disk()
    PartFile.open(trial, TARGET, TASK, "power", fresh=True, size=None)
    for number in range(1, trial.calls + 1):
        disk = world.disk().crash_at(number, "after")
        with pytest.raises(PowerLost):
            PartFile.open(disk, TARGET, TASK, "power", fresh=True, size=None)
        disk = disk.killed()
        with disk.explained():
            part = PartFile.open(disk, TARGET, TASK, "power", fresh=False, size=None)
            part.write(0, PIECES[0])
            part.flush()
            assert disk.restart("lost").get(PART) == PIECES[0]


def test_bytes_that_nobody_flushed_are_synced_before_the_target_has_them(any_world):
    """`publish` keeps its promise whatever its caller did before."""
    for number in range(1, 40):
        for when in ("before", "after"):
            disk = any_world.disk()
            part = PartFile.open(disk, TARGET, TASK, "process", fresh=True, size=None)
            part.write(0, CONTENT)
            part.close()
            disk.crash_at(disk.calls + number, when)
            done = False
            try:
                publish(disk, TARGET, TASK, part.identity, len(CONTENT), any_world.overwrite, "power")
                done = True
            except PowerLost:
                pass
            for loss in LOSSES:
                after = lose(disk, loss)
                with after.explained():
                    expected = (CONTENT,) if done else (any_world.before, CONTENT)
                    assert after.get(TARGET) in expected


def test_what_was_renamed_under_process_is_made_durable_by_a_publish_under_power(world):
    disk = world.disk()
    part = PartFile.open(disk, TARGET, TASK, "process", fresh=True, size=None)
    part.write(0, CONTENT)
    part.close()
    publish(disk, TARGET, TASK, part.identity, len(CONTENT), world.overwrite, "process")
    assert disk.restart("lost").get(TARGET) == world.before
    publish(disk, TARGET, TASK, part.identity, len(CONTENT), world.overwrite, "power")
    assert disk.restart("lost").get(TARGET) == CONTENT


@pytest.mark.parametrize("second_name", [False, True])
def test_what_was_discarded_never_comes_back_and_what_was_published_never_goes(second_name):
    def begin(disk):
        records = Records()
        World("never", frozenset()).fetch(disk, records)
        if second_name:
            disk.link(PART, TARGET)
        return records.file, disk.calls

    for number in range(1, 15):
        for when in ("before", "after"):
            for loss in LOSSES:
                disk = World("never", frozenset()).disk()
                file, calls = begin(disk)
                disk.crash_at(calls + number, when)
                try:
                    discard(disk, TARGET, TASK, file)
                except PowerLost:
                    pass
                disk = lose(disk, loss)
                with disk.explained():
                    assert {disk.get(TARGET), disk.get(PART)} != {None} or not second_name
                    discard(disk, TARGET, TASK, file)
                    after = disk.restart("lost")
                    assert after.get(PART) is None
                    assert after.get(TARGET) == disk.get(TARGET)


# The disk itself


def opened(disk, name="file"):
    return disk.open(f"{FOLDER}/{name}", 0o102)  # O_RDWR | O_CREAT


def fresh_disk(seed=0, **options):
    disk = SimulatedDisk(seed, **options)
    disk.make_folder(FOLDER)
    return disk


def test_what_was_not_synced_is_lost_kept_or_torn_by_sectors():
    disk = fresh_disk()
    disk.put(f"{FOLDER}/file", b"a" * 2048)
    disk.pwrite(opened(disk), b"b" * 2048, 0)
    assert disk.restart("lost").get(f"{FOLDER}/file") == b"a" * 2048
    assert disk.restart("kept").get(f"{FOLDER}/file") == b"b" * 2048
    seen = set()
    for seed in range(40):
        after = lose(disk, seed).get(f"{FOLDER}/file")
        assert {after[start : start + 512] for start in range(0, 2048, 512)} <= {b"a" * 512, b"b" * 512}
        seen.add(after)
    assert len(seen) > 8


def test_names_are_lost_independently_of_each_other_and_of_the_bytes():
    disk = fresh_disk()
    for name in "abc":
        fd = opened(disk, name)
        disk.pwrite(fd, b"x", 0)
        disk.fdatasync(fd)
    assert disk.restart("lost").list_folder(FOLDER) == []
    seen = {tuple(sorted(lose(disk, seed).list_folder(FOLDER))) for seed in range(60)}
    assert len(seen) == 8
    disk.fsync_folder(FOLDER)
    assert sorted(disk.restart("lost").list_folder(FOLDER)) == ["a", "b", "c"]


def test_a_rename_may_leave_both_names_but_never_none():
    disk = fresh_disk()
    disk.put(f"{FOLDER}/a", b"x")
    disk.rename(f"{FOLDER}/a", f"{FOLDER}/b")
    seen = {tuple(sorted(lose(disk, seed).list_folder(FOLDER))) for seed in range(30)}
    assert seen == {("a",), ("b",), ("a", "b")}


@pytest.mark.parametrize(
    ("synced", "left"),
    [
        ((), ["a"]),
        (("/other",), ["b"]),
        ((FOLDER,), []),
        (("/other", FOLDER), ["b"]),
        ((FOLDER, "/other"), ["b"]),
    ],
)
def test_a_rename_into_another_folder_leaves_none_where_only_the_folder_that_it_left_is_synced(synced, left):
    disk = fresh_disk()
    disk.make_folder("/other")
    disk.put(f"{FOLDER}/a", b"x")
    disk.rename(f"{FOLDER}/a", "/other/b")
    for folder in synced:
        disk.fsync_folder(folder)
    after = disk.restart("lost")
    assert after.names(FOLDER) + after.names("/other") == left
    assert disk.restart("kept").names("/other") == ["b"]


def test_the_same_seed_ends_the_same():
    def end(seed):
        disk = fresh_disk(seed, short_writes=True)
        disk.pwrite(opened(disk), CONTENT, 0)
        return disk.restart().get(f"{FOLDER}/file")

    assert [end(seed) for seed in range(20)] == [end(seed) for seed in range(20)]


def test_locks_and_descriptors_are_gone_after_a_restart():
    disk = fresh_disk()
    fd = opened(disk)
    assert disk.flock(fd)
    assert not disk.flock(opened(disk))
    for after in (disk.killed(), disk.restart("kept")):
        assert after.flock(opened(after))
        with pytest.raises(OSError, match="Bad file descriptor"):
            after.fstat(fd + 5)


def test_nothing_works_once_the_power_is_off_and_the_trace_tells_why():
    disk = fresh_disk().crash_at(1, "after")
    with pytest.raises(PowerLost):
        opened(disk)
    with pytest.raises(PowerLost) as caught, disk.explained():
        disk.list_folder(FOLDER)
    assert "1 open /downloads/file O_RDWR|O_CREAT -> power lost after it" in caught.value.__notes__[0]
    assert "seed 0" in caught.value.__notes__[0]
