"""A SQLite journal that is removed: what a crash at any step of it leaves, and who finishes it."""

import os
import shutil
import subprocess
import sys

import pytest

from journal_adapters.sqlite import SQLiteJournal
from meowcat.core.errors import JournalAccess, NotAJournal
from meowcat.testing.journal_suite import OWNER, entry, scan_all


@pytest.fixture
def path(in_memory):
    folder = in_memory / "journals"
    folder.mkdir()
    return folder / "journal.db"


def opened(path):
    journal = SQLiteJournal(path)
    journal.open(OWNER, "power")
    return journal


def filled(path):
    """A journal with an archive, closed; all of its records."""
    journal = opened(path)
    for seq in (1, 2):
        for number in range(6):
            journal.append([entry(f"t{number}", seq, unfinished=seq == 1 and number < 5)])
    journal.compact()
    journal.append([entry("later", 1)])
    found = scan_all(journal, 100)
    journal.close()
    return found


def names(path):
    return sorted(each.name for each in path.parent.iterdir())


DYING = """
import itertools, os, shutil, signal, sys
from pathlib import Path
from journal_adapters.sqlite import SQLiteJournal
from meowcat.journal.contract import Owner

source, place = Path(sys.argv[1]), Path(sys.argv[2])


def remove_until(path, step):
    left = itertools.count(step, -1)

    def told(event, _):
        if event in ("os.remove", "os.rename") and next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(told)
    assert SQLiteJournal(path).remove(Owner(os.getpid(), "here"), lambda: True)


for step in itertools.count():
    folder = place / str(step)
    shutil.copytree(source, folder)
    child = os.fork()
    if not child:
        remove_until(folder / "journal.db", step)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    if status == 0:
        print(step)
        break
"""


@pytest.fixture
def killed(path):
    """Journals at `path` that a removal was killed at: before its first change of the folder, its second …
    Each is put where the first one was; what that had is the value."""

    def each_in_turn():
        whole = filled(path)
        for suffix in ("-control", "-archive-wal", "-archive-creating"):  # of an owner that was killed
            path.with_name(f"{path.name}{suffix}").touch()
        place = path.parent.parent / "killed"
        done = subprocess.run(
            [sys.executable, "-c", DYING, path.parent, place],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONDEVMODE": ""},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        for step in range(int(done.stdout)):
            shutil.rmtree(path.parent)
            (place / str(step)).rename(path.parent)
            yield whole
        assert [*(place / done.stdout.strip()).iterdir()] == []

    return each_in_turn()


@pytest.mark.parametrize("who", ["a removal", "a new journal"])
def test_a_kill_before_any_step_of_a_removal_leaves_a_journal_or_what_the_next_one_finishes(
    path, killed, who
):
    cut_off = 0
    for whole in killed:
        if path.exists():
            assert not cut_off
            journal = opened(path)
            assert scan_all(journal, 100) == whole, "before the first step it is whole"
            journal.close()
            continue
        cut_off += 1
        if who == "a removal":
            assert SQLiteJournal(path).remove(OWNER, not_asked) is True
            assert names(path) == []
        else:
            used_like_a_new_one(path)
            assert not [each for each in names(path) if "removing" in each]
    assert cut_off > 4


def not_asked():
    raise AssertionError("it was asked before, and nothing is there to be looked at")


def used_like_a_new_one(path):
    journal = opened(path)
    try:
        use(journal)
    finally:
        journal.close()


def use(journal):
    assert scan_all(journal, 100) == []
    journal.append([entry("t0", 1), entry("t0", 2, unfinished=False)])
    assert journal.compact().records == 2
    assert len(scan_all(journal, 100)) == 2
    assert list(journal.check()) == []


def test_a_call_that_fails_is_told_and_the_next_removal_finishes_it(path, monkeypatch):
    filled(path)
    real = os.unlink

    def refused(name, **options):
        if str(name).endswith("-archive"):
            raise PermissionError(1, "not permitted")
        real(name, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refused)
        with pytest.raises(JournalAccess, match=r"journal\.db: can't be removed: not permitted"):
            SQLiteJournal(path).remove(OWNER, lambda: True)
        with pytest.raises(
            JournalAccess, match="what is left of a removed journal can't be removed: not perm"
        ):
            SQLiteJournal(path).open(OWNER, "power")
    assert SQLiteJournal(path).remove(OWNER, not_asked) is True
    assert names(path) == []


@pytest.fixture
def synced(path, monkeypatch):
    """The names in the journal's folder each time that they were made durable."""
    found = []
    real = os.fsync

    def fsync(descriptor):
        if os.path.samestat(os.fstat(descriptor), path.parent.stat()):
            found.append({each.removeprefix(path.name) for each in names(path)})
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return found


def test_the_name_of_a_new_journal_and_of_its_archive_is_durable(path, synced):
    journal = opened(path)
    assert synced == [{"", "-lock"}]
    journal.append([entry("t0", 1, unfinished=False)])
    journal.compact()
    assert {"", "-archive"} < synced[-1]
    journal.close()


def test_that_a_journal_is_removed_is_durable_before_its_archive_goes(path, synced):
    filled(path)
    synced.clear()
    SQLiteJournal(path).remove(OWNER, lambda: True)
    assert {"-removing", "-archive"} < synced[0]
    assert "" not in synced[0]


def test_an_archive_whose_journal_was_moved_away_is_nobodys_to_remove(path):
    """Its journal may come back: nothing says that it was removed."""
    filled(path)
    path.rename(path.with_name("away"))
    before = names(path)
    with pytest.raises(NotAJournal, match="there is no journal"):
        SQLiteJournal(path).remove(OWNER, not_asked)
    assert names(path) == before
    with pytest.raises(NotAJournal, match="not the archive of the journal beside it"):
        used_like_a_new_one(path)


def test_a_journal_that_was_put_back_is_not_taken_for_one_that_is_being_removed(path):
    whole = filled(path)
    path.with_name(f"{path.name}-removing").write_bytes(path.read_bytes())
    journal = opened(path)
    assert scan_all(journal, 100) == whole
    journal.close()
    path.rename(path.with_name("away"))
    with pytest.raises(NotAJournal, match="not the archive of the journal beside it"):
        used_like_a_new_one(path)
