"""Power lost, processes killed and calls failing at every system call of a JSONL journal's life."""

import errno
import os
from dataclasses import dataclass, field

import pytest

from journal_adapters import jsonl_log
from journal_adapters.jsonl import JSONLJournal
from meowcat.core.errors import JournalDamaged, JournalError, JournalRejected, JournalUncertain
from meowcat.core.values import Position
from meowcat.journal.contract import Record
from meowcat.journal.replay import verify_chain
from meowcat.testing.disk import PowerLost, SimulatedDisk
from meowcat.testing.journal_suite import OWNER, entry, given, scan_all

FOLDER = "/data"
PATH = f"{FOLDER}/x.jsonl"
SEGMENT = 2500
"""Bytes: some six records, so that a short life has many segments."""
ONE = 1 << 20
"""All in one: a rotation syncs what is before it."""
LOSSES = ["lost", "kept", 10, 11, 12]
"""How the power loss chooses: the extremes, and by seeds."""


class FakeLock:
    """There is one owner at a time here."""

    def replaced(self):
        return False

    def release(self):
        pass


class SimulatedJournal(JSONLJournal):
    def __init__(self, disk, segment_size=SEGMENT):
        super().__init__(PATH, segment_size=segment_size, files=disk)

    def _take_lock(self, owner):
        return FakeLock()


@pytest.fixture(autouse=True)
def _small_reserve(monkeypatch):
    monkeypatch.setattr(jsonl_log, "RESERVED", 4096)


def new_disk(seed=0, **how):
    disk = SimulatedDisk(seed, short_writes=seed % 2 == 1, leftovers=False, **how)
    disk.make_folder(FOLDER)
    return disk


@dataclass
class Life:
    """What the application was told."""

    acknowledged: list = field(default_factory=list)
    in_doubt: list = field(default_factory=list)
    cursor: int = 0
    cursor_in_doubt: int = 0
    epoch: int = 0

    def append(self, journal, batch):
        self.in_doubt = batch
        journal.append(batch)
        self.acknowledged += batch
        self.in_doubt = []

    def set_cursor(self, journal, position):
        self.cursor_in_doubt = position
        journal.set_cursor("sink", Position(position))
        self.cursor = position

    def live(self, disk, sync="power"):
        """Two owners, one after the other: batches of one and of several, a cursor, a compaction."""
        for owner in (1, 2):
            journal = SimulatedJournal(disk)
            epoch = journal.open(OWNER, sync)
            assert epoch > self.epoch
            self.epoch = epoch
            for step in range(1, 6):
                task = f"{owner}-{step}"
                self.append(journal, [entry(task, 1, b'{"a":"%b"}' % (b"x" * 40 * step))])
                self.append(
                    journal,
                    [entry(task, 2), entry(task, 3, unfinished=owner == 2 and step == 5)],
                )
            self.set_cursor(journal, owner)
            journal.compact()
            self.set_cursor(journal, 12 * owner)
            journal.compact()
            journal.close()

    def check(self, journal):
        """Every acknowledged record is there, once and in order; the one in doubt wholly or not at all."""
        found = scan_all(journal)
        assert all(isinstance(each, Record) for each in found), found
        assert list(verify_chain(found)) == []
        stored = [given(each) for each in found]
        assert stored in (self.acknowledged, self.acknowledged + self.in_doubt)
        assert journal.cursors().get("sink", 0) in (self.cursor, self.cursor_in_doubt)
        return stored

    def check_unfinished(self, journal, stored):
        last = {each.task: each for each in stored}
        assert set(journal.unfinished()) == {task for task, each in last.items() if each.open}

    def go_on(self, disk, sync="power"):
        """Open after a crash, look, write, and look again."""
        journal = SimulatedJournal(disk)
        epoch = journal.open(OWNER, sync)
        assert epoch > self.epoch
        stored = self.check(journal)
        self.check_unfinished(journal, stored)
        more = [entry("after", 1), entry("after", 2)]
        journal.append(more)
        journal.close()
        reader = SimulatedJournal(disk)
        reader.open_for_reading()
        found = scan_all(reader)
        assert [given(each) for each in found] == stored + more
        assert list(verify_chain(found)) == []
        reader.close()


def calls_of_a_life(sync="power"):
    disk = new_disk()
    Life().live(disk, sync)
    return disk.calls


def crash(number, when, seed, sync="power", **how):
    disk = new_disk(seed, **how).crash_at(number, when)
    life = Life()
    with pytest.raises(PowerLost):
        life.live(disk, sync)
    return disk, life


CALLS = calls_of_a_life()


def test_a_life_has_all_that_a_journal_does():
    disk = new_disk()
    life = Life()
    life.live(disk)
    done = {line.split()[1] for line in disk.trace}
    assert {"mkdir", "rename", "unlink", "fdatasync", "fsync_folder", "pwrite"} <= done
    names = disk.list_folder(PATH)
    assert {"reserve", "snapshot", "archive"} <= set(names)
    assert len(disk.list_folder(f"{PATH}/archive")) > 2
    life.go_on(disk)


@pytest.mark.parametrize("loss", LOSSES)
def test_nothing_that_was_acknowledged_is_lost_with_the_power(loss):
    seed = loss if isinstance(loss, int) else 0
    for number in range(1, CALLS + 1):
        disk, life = crash(number, "after", seed)
        with disk.explained():
            life.go_on(disk.restart("seed" if isinstance(loss, int) else loss))


def test_nothing_that_was_acknowledged_is_lost_where_there_is_no_room_for_what_is_derived(monkeypatch):
    """No reserve, hence no index and no snapshot, whose syncs would cover for others."""
    monkeypatch.setattr(jsonl_log, "RESERVED", 1 << 40)
    disk = new_disk()
    Life().live(disk)
    calls = disk.calls
    assert not {name for name in disk.list_folder(PATH) if name.endswith(("index", "snapshot", "reserve"))}
    for number in range(1, calls + 1):
        disk, life = crash(number, "after", 0)
        with disk.explained():
            life.go_on(disk.restart("lost"))


@pytest.mark.parametrize("sync", ["power", "process"])
def test_nothing_that_was_acknowledged_is_lost_with_the_process(sync):
    for number in range(1, calls_of_a_life(sync) + 1):
        disk, life = crash(number, "before", 1, sync)
        with disk.explained():
            life.go_on(disk.killed(), sync)


@pytest.mark.parametrize("seed", range(20, 24))
def test_without_syncs_a_power_loss_undoes_the_newest_batches_and_nothing_else(seed):
    for number in range(1, calls_of_a_life("process") + 1, 2):
        disk, life = crash(number, "after", seed, "process")
        with disk.explained():
            journal = SimulatedJournal(after := disk.restart())
            journal.open(OWNER, "process")
            found = scan_all(journal)
            assert list(verify_chain(found)) == []
            written = life.acknowledged + life.in_doubt
            assert [given(each) for each in found] == written[: len(found)]
            life.check_unfinished(journal, written[: len(found)])
            journal.close()
            assert after.get(f"{PATH}/lock") is None


def test_without_syncs_no_snapshot_outlives_the_records_that_it_is_of():
    """A checkpoint of an audit, whose records were gone, would stand for a history that was cut off."""
    disk = new_disk()
    journal = SimulatedJournal(disk, ONE)
    journal.open(OWNER, "process")
    for seq in range(1, 4):
        journal.put_snapshot("head", journal.append([entry("t", seq)]), b"%d" % seq)
    after = SimulatedJournal(disk.restart("lost"), ONE)
    after.open(OWNER, "process")
    assert after.get_snapshot("head") == (3, b"3")
    assert after.last() == 3


def test_an_owner_that_dies_while_it_opens_a_journal_without_syncs_leaves_no_hole_behind_it():
    """What the owner before had not synced is synced before the opening is written."""
    first = new_disk()
    written = [entry("t", number, b"{}" * 300) for number in range(1, 5)]
    journal = SimulatedJournal(first, ONE)
    journal.open(OWNER, "process")
    for each in written:
        journal.append([each])
    whole = first.killed()
    opening = whole.killed()
    SimulatedJournal(opening, ONE).open(OWNER, "process")
    for number in range(1, opening.calls + 1):
        disk = whole.killed().crash_at(number, "after")
        with pytest.raises(PowerLost):
            SimulatedJournal(disk, ONE).open(OWNER, "process")
        for seed in range(40):
            disk.reseed(seed)
            with disk.explained():
                journal = SimulatedJournal(disk.restart(), ONE)
                journal.open(OWNER, "power")
                found = [given(each) for each in scan_all(journal)]
                assert found == written[: len(found)]


@pytest.mark.parametrize("seed", [1, 2])
def test_bytes_of_other_files_in_a_torn_batch_are_refused_or_harmless(seed):
    """Where they can't be told from corruption, the journal says so and changes nothing."""
    refused = 0
    for number in range(1, CALLS + 1):
        disk = SimulatedDisk(seed, leftovers=True)
        disk.make_folder(FOLDER)
        disk.crash_at(number, "after")
        life = Life()
        with pytest.raises(PowerLost):
            life.live(disk)
        with disk.explained():
            after = disk.restart()
            try:
                life.go_on(after)
            except JournalDamaged as error:
                refused += 1
                assert "salvage" in str(error)  # noqa: PT017  # most openings do not fail
    assert refused < CALLS / 4


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_call_that_fails_loses_nothing(error):
    """The caller is told `rejected` or `uncertain`, and both are true; then the journal goes on."""
    for number in range(1, CALLS + 1):
        disk = new_disk().fail_at(number, error)
        life = Life()
        with disk.explained():
            try:
                live_on(life, disk)
            except JournalError:
                life.in_doubt = []  # the opening failed
            life.go_on(disk.restart("lost"))


def live_on(life, disk):
    """A life whose every append is tried again, as the engine does it."""
    for owner in (1, 2):
        journal = SimulatedJournal(disk)
        life.epoch = journal.open(OWNER, "power")
        for step in range(1, 6):
            for seq in (1, 2, 3):
                stubborn(life, journal, [entry(f"{owner}-{step}", seq, unfinished=seq < 3)])
        journal.close()


def stubborn(life, journal, batch):
    try:
        life.append(journal, batch)
    except JournalRejected:
        life.check(journal)
        life.in_doubt = []
        life.append(journal, batch)
    except JournalUncertain:
        assert journal.reopen() == len(life.acknowledged)
        life.in_doubt = []
        life.check(journal)
        life.append(journal, batch)


def test_when_the_disk_is_full_what_is_left_to_say_goes_into_the_reserve(monkeypatch):
    monkeypatch.setattr(jsonl_log, "RESERVED", 32 << 10)
    disk = new_disk(1, capacity=256 << 10)
    assert disk.short_writes, "a write may take a part before the disk is full"
    journal = SimulatedJournal(disk, ONE)
    journal.open(OWNER, "power")
    life = Life()
    life.append(journal, [entry("t", 1)])
    fd = disk.open(f"{FOLDER}/big", os.O_RDWR | os.O_CREAT)
    while free := disk.free_bytes(FOLDER):
        disk.append(fd, bytes(free))
    assert disk.get(f"{PATH}/reserve") is not None
    for seq in range(2, 200):
        try:
            life.append(journal, [entry("t", seq, b"{}" * 50)])
        except JournalRejected:
            life.in_doubt = []
            break
    else:
        pytest.fail("a full disk took everything")
    assert seq > 20, "the reserve was of no use"
    assert disk.get(f"{PATH}/reserve") is None
    life.check(journal)
    disk.ftruncate(fd, 0)
    life.append(journal, [entry("t", seq)])
    assert disk.get(f"{PATH}/reserve") is not None, "there is room again, and no reserve"
    journal.close()
    life.go_on(disk.restart("lost"))


def test_a_failed_sync_is_never_tried_again_and_its_batch_is_cut_off():
    disk = new_disk()
    journal = SimulatedJournal(disk)
    journal.open(OWNER, "power")
    life = Life()
    before = len(disk.trace)
    life.append(journal, [entry("t", 1)])
    steps = [line.split()[1] for line in disk.trace[before:]]
    disk.fail_at(disk.calls + 1 + steps.index("fdatasync"), errno.EIO)
    with pytest.raises(JournalUncertain):
        journal.append([entry("t", 2)])
    with pytest.raises(JournalUncertain, match="reopen"):
        journal.append([entry("t", 2)])
    with pytest.raises(JournalUncertain, match="reopen"):
        journal.set_cursor("x", Position(1))
    assert journal.reopen() == 1
    life.append(journal, [entry("t", 2, b"another")])
    life.check(journal)
    life.go_on(disk.restart("lost"))
