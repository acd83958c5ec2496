"""What the journal in SQLite keeps beside its records is checked, and made anew from the records."""

import sqlite3

import pytest

from journal_adapters.sqlite import SQLiteJournal
from meowcat.core.errors import JournalAccess, JournalDamaged
from meowcat.journal.contract import Damage
from meowcat.testing.journal.records import OWNER, check_stored, entry, scan_all

ENTRIES = [entry("z", 1), entry("a", 1), entry("done", 1, unfinished=False), entry("z", 2)]


@pytest.fixture
def path(tmp_path):
    """A closed journal with `ENTRIES` and two cursors."""
    path = tmp_path / "journal.db"
    journal = opened(path)
    journal.append(ENTRIES)
    journal.set_cursor("sink", 3)
    journal.set_cursor("other", 1)
    journal.close()
    return path


def opened(path):
    journal = SQLiteJournal(path)
    journal.open(OWNER, "power")
    return journal


def reading(path):
    journal = SQLiteJournal(path)
    journal.open_for_reading()
    return journal


def alter(path, script):
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE task SET open = 0 WHERE id = 'z'",
        "UPDATE task SET seq = 7 WHERE id = 'z'",
        "UPDATE task SET first = 9 WHERE id = 'z'",
        "UPDATE task SET id = 'y' WHERE id = 'z'",
        "DELETE FROM task WHERE id = 'a'",
        "INSERT INTO task VALUES ('ghost', 9, 1, 1, 0)",
    ],
)
def test_no_unfinished_task_is_forgotten_when_its_sum_is_damaged(path, damage):
    alter(path, damage)
    reader = reading(path)
    assert list(reader.unfinished()) == ["z", "a"]
    reader.close()
    journal = opened(path)  # which mends it
    assert list(journal.unfinished()) == ["z", "a"]
    journal.append([entry("z", 3), entry("a", 2)])
    check_stored(journal, [*ENTRIES, entry("z", 3), entry("a", 2)])
    journal.close()
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT id, first, seq, open FROM task ORDER BY first").fetchall() == [
        ("z", 1, 3, 1),
        ("a", 2, 2, 1),
        ("done", 3, 1, 0),
    ]
    connection.close()


def test_a_finished_task_goes_on_although_its_sum_is_damaged(path):
    alter(path, "UPDATE task SET seq = 5 WHERE id = 'done'")
    journal = opened(path)
    journal.append([entry("done", 2)])
    assert list(journal.unfinished()) == ["z", "a", "done"]
    journal.close()


@pytest.mark.parametrize("column", ["epoch", "last", "unfinished", "cursors", "crc"])
def test_a_journal_that_does_not_know_its_end_is_read_and_not_written(path, column):
    alter(path, f"UPDATE journal SET {column} = {column} - 1")  # noqa: S608  # our own words
    with pytest.raises(JournalDamaged, match="where the journal ends"):
        opened(path)
    reader = reading(path)
    found = scan_all(reader)
    assert [each.position for each in found] == [1, 2, 3, 4, 5]
    assert isinstance(found[-1], Damage)
    with pytest.raises(JournalDamaged):
        reader.last()
    assert list(reader.unfinished()) == ["z", "a"]
    reader.close()


@pytest.mark.parametrize(
    "damage",
    ["UPDATE cursor SET position = 4 WHERE name = 'sink'", "DELETE FROM cursor WHERE name = 'sink'"],
)
def test_a_cursor_that_is_not_what_was_set_is_told(path, damage):
    alter(path, damage)
    journal = opened(path)
    with pytest.raises(JournalDamaged, match="cursor"):
        journal.cursors()
    journal.close()


EARLY = """
ALTER TABLE journal DROP COLUMN last; ALTER TABLE journal DROP COLUMN chain;
ALTER TABLE journal DROP COLUMN unfinished; ALTER TABLE journal DROP COLUMN cursors;
ALTER TABLE journal DROP COLUMN crc; ALTER TABLE task DROP COLUMN crc; ALTER TABLE cursor DROP COLUMN crc;
"""


def test_a_file_of_the_early_layout_is_taken_over_at_its_next_opening(path):
    alter(path, EARLY)
    with pytest.raises(JournalAccess, match="open it for writing once"):
        reading(path)
    journal = opened(path)
    check_stored(journal, ENTRIES)
    assert list(journal.unfinished()) == ["z", "a"]
    assert dict(journal.cursors()) == {"sink": 3, "other": 1}
    journal.append([entry("z", 3)])
    journal.close()
    reader = reading(path)
    check_stored(reader, [*ENTRIES, entry("z", 3)])
    reader.close()
