"""`meowcat journal prune`: which journals of the state folder go, and which stay."""

import json
import os
import time
from pathlib import Path

import anyio
import pytest
from click.testing import CliRunner

import meowcat
from journal_adapters.ownership import Lock
from journal_adapters.sqlite import SQLiteJournal
from meowcat.cli import main
from meowcat.cli.exits import Exit
from meowcat.core.errors import JournalOwned, NotAJournal
from meowcat.testing.journal_suite import OWNER

DAY = 86_400


@pytest.fixture
def state(tmp_path, monkeypatch):
    folder = tmp_path / "state"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEOWCAT_STATE_DIR", str(folder))
    return folder


def run(*words):
    return CliRunner().invoke(main, ["journal", "prune", *words])


def told(*words):
    return json.loads(run("--json", *words).stdout)


def journal_in(state, name="a.db", *, days=30, command="cancel", sink=False):
    """One whose only task was canceled (or what `command` says), last written so many days ago."""

    async def live():
        async with meowcat.Engine(state / name, on_restart="leave") as engine:
            task = await engine.submit(meowcat.Download("http://127.0.0.1:9/x", state / "x.bin"))
            await getattr(task, command)()
            if sink:
                await engine.add_sink("audit", meowcat.callback(lambda _: None))

    anyio.run(live)
    aged(state / name, days)
    return state / name


def aged(path, days):
    """The journal as it would be so many days later."""
    for each in path.parent.glob(f"{path.name}*"):
        os.utime(each, (time.time() - days * DAY,) * 2)


def names(state):
    return sorted(each.name for each in state.iterdir())


def test_finished_journals_are_listed_and_nothing_is_removed_unless_that_is_said(state):
    path = journal_in(state)
    before = path.read_bytes()
    done = run()
    assert done.exit_code == Exit.COMPLETE
    assert f"{path}  1 task" in done.stdout
    assert "1 finished journal" in done.stderr
    assert "--remove removes them" in done.stderr
    assert path.read_bytes() == before
    (listed,) = told()["journals"]  # the first look is no use of it
    assert listed["journal"] == str(path)
    assert (listed["tasks"], listed["removed"]) == (1, False)
    assert listed["bytes"] >= path.stat().st_size


def test_a_removed_journal_leaves_nothing_beside_it(state):
    journal_in(state)
    (state / "keep.txt").write_text("mine")
    done = run("--remove")
    assert (done.exit_code, done.stdout.split()[0]) == (Exit.COMPLETE, "removed")
    assert names(state) == ["keep.txt"]
    assert told() == {"folder": str(state), "journals": [], "kept": []}


def test_unfinished_tasks_keep_their_journal(state):
    path = journal_in(state, command="pause")
    (kept,) = told("--remove")["kept"]
    assert (kept["journal"], kept["why"]) == (str(path), "unfinished")
    assert path.exists()


def test_a_journal_that_was_used_lately_stays_unless_that_is_said(state):
    path = journal_in(state, days=3)
    assert [each["why"] for each in told("--remove")["kept"]] == ["recent"]
    assert "1 used since" in run("--remove").stderr
    assert path.exists()
    assert len(told("--remove", "--older-than", "2d")["journals"]) == 1
    assert not path.exists()


def test_a_journal_that_somebody_has_open_stays(state):
    path = journal_in(state)
    owner = SQLiteJournal(path)
    owner.open(OWNER, "process")
    aged(path, 30)
    assert [each["why"] for each in told("--remove")["kept"]] == ["in-use"]
    assert [each["why"] for each in told()["kept"]] == ["in-use"], "listed as it would be"
    owner.close()
    assert path.exists()


def test_a_journal_with_sinks_or_a_signed_history_stays(state):
    journal_in(state, "followed.db", sink=True)
    signed = journal_in(state, "signed.db")
    runner = CliRunner()
    assert runner.invoke(main, ["audit", "keygen", "-o", "k", "--name", "a"]).exit_code == 0
    words = ["audit", "checkpoint", "--journal", str(signed), "--key", "k"]
    assert runner.invoke(main, words).exit_code == 0
    aged(signed, 30)
    assert sorted(each["why"] for each in told("--remove")["kept"]) == ["followed", "signed"]


def test_what_is_damaged_or_no_journal_stays_and_is_told(state):
    path = journal_in(state)
    (state / "b.db").write_bytes(b"no journal at all" * 300)
    aged(state / "b.db", 30)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"http://127.0.0.1:9/x", b"http://127.0.0.1:9/y"))
    aged(path, 30)
    done = run("--remove")
    assert done.exit_code == Exit.JOURNAL
    assert "1 damaged, 1 that can't be read or removed" in done.stderr
    assert "b.db: not a SQLite file" in done.stderr
    assert {"a.db", "b.db"} <= set(names(state))


def test_a_record_that_came_in_the_meantime_keeps_the_journal(state):
    """It was judged before; what is asked last is asked while nobody else can open it."""
    path = journal_in(state)
    journal = SQLiteJournal(path)
    assert journal.remove(OWNER, lambda: journal.last() == 0) is False
    assert path.exists()

    def refused_meanwhile():
        with pytest.raises(JournalOwned):
            SQLiteJournal(path).open(OWNER, "process")
        return True

    assert SQLiteJournal(path).remove(OWNER, refused_meanwhile) is True
    with pytest.raises(NotAJournal):
        SQLiteJournal(path).remove(OWNER, lambda: True)
    assert not names(state), "a second look makes no lock file"


def cut_off(state, monkeypatch):
    """A journal of which a removal was cut off behind its first step."""
    path = journal_in(state)
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refused)
        assert run("--remove").exit_code == Exit.JOURNAL
    assert not path.exists()
    return path


def refused(name, **_):
    raise PermissionError(1, "not permitted", name)


def test_a_removal_that_was_cut_off_is_listed_and_finished(state, monkeypatch):
    """Whatever its age: that it goes was decided."""
    path = cut_off(state, monkeypatch)
    (state / "keep.txt").write_text("mine")
    listed = run()
    assert f"{path}  what a removal has left, " in listed.stdout
    assert "1 finished journal" in listed.stderr
    assert "--remove removes them" in listed.stderr
    (left,) = told()["journals"]
    assert (left["journal"], left["tasks"], left["left_over"], left["removed"]) == (str(path), 0, True, False)
    assert left["bytes"] > 0
    (done,) = told("--remove")["journals"]
    assert (done["journal"], done["removed"]) == (str(path), True)
    assert names(state) == ["keep.txt"]


def test_what_is_left_when_only_the_lock_file_had_to_go_is_removed(state):
    """And a lock file that names somebody is that of a journal, which may be made or moved back."""
    (state / "a.db-lock").touch()
    (state / "b.db-lock").write_text('{"pid":1,"host":"here"}')
    assert [each["journal"] for each in told("--remove")["journals"]] == [str(state / "a.db")]
    assert names(state) == ["b.db-lock"]


def test_a_removal_that_somebody_is_at_is_left_to_him(state, monkeypatch):
    path = cut_off(state, monkeypatch)
    lock = Lock(Path(f"{path}-lock"), OWNER)
    assert [each["why"] for each in told("--remove")["kept"]] == ["in-use"]
    lock.release()
    assert len(told("--remove")["journals"]) == 1


def test_a_lock_file_that_went_with_its_journal_is_no_lock(state):
    """Between the opening of a lock file and the locking the journal may be removed, and made anew."""
    path = journal_in(state)
    real = os.open

    def removed_first(name, *more, **options):
        descriptor = real(name, *more, **options)
        if str(name).endswith("-lock") and path.exists():
            Path(name).unlink()
            path.unlink()
        return descriptor

    journal = SQLiteJournal(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", removed_first)
        journal.open(OWNER, "process")
    with pytest.raises(JournalOwned):
        SQLiteJournal(path).open(OWNER, "process")
    journal.close()
