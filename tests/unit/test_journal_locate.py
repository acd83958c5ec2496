"""From what a user names to a journal."""

import sqlite3
from pathlib import Path

import pytest

from journal_adapters.memory import MemoryJournal
from journal_adapters.sqlite import SQLiteJournal
from meowcat.core.errors import UnknownJournal
from meowcat.journal.contract import Journal, ReadableJournal
from meowcat.journal.locate import locate
from meowcat.testing.journal_suite import OWNER


@pytest.mark.parametrize("where", ["a.db", "a.sqlite", "a.sqlite3", "sqlite:a.db", "sqlite:a", "sqlite:a.x"])
def test_sqlite_by_suffix_or_scheme(where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    journal = locate(where)
    assert isinstance(journal, SQLiteJournal)
    assert journal.path == tmp_path / where.removeprefix("sqlite:")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("slashes", ["", "//"])
def test_an_absolute_url(slashes, tmp_path):
    assert locate(f"sqlite:{slashes}{tmp_path}/a").path == tmp_path / "a"


def test_a_path_object(tmp_path):
    assert locate(tmp_path / "a.db").path == tmp_path / "a.db"


def test_an_existing_file_without_a_suffix_is_known_by_what_it_is(tmp_path):
    journal = SQLiteJournal(tmp_path / "transfers")
    journal.open(OWNER, "process")
    assert isinstance(locate(tmp_path / "transfers"), SQLiteJournal)
    journal.close()


@pytest.mark.parametrize("where", [None, "memory:"])
def test_memory(where):
    assert isinstance(locate(where), MemoryJournal)


def test_a_journal_is_taken_as_it_is():
    journal = MemoryJournal()
    assert locate(journal) is journal


class WithAnAwaitedAppend(MemoryJournal):
    async def append(self, batch):
        return super().append(batch)


class WithAnAwaitedList(MemoryJournal):
    async def unfinished(self):
        yield "t"


@pytest.mark.parametrize("kind", [WithAnAwaitedAppend, WithAnAwaitedList])
def test_a_journal_that_has_to_be_awaited_is_refused(kind):
    with pytest.raises(
        UnknownJournal, match=rf"{kind.__name__}\..* is asynchronous: expected plain functions"
    ):
        locate(kind())


@pytest.mark.parametrize("where", ["redis:x", "a.txt", "a", Path("x.jsonx"), "memory:x"])
def test_what_nobody_knows_is_refused_with_what_is_known(where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownJournal, match="memory:"):
        locate(where)
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_file_without_a_suffix_is_not_taken(tmp_path):
    (tmp_path / "notes").write_text("hello")
    sqlite3.connect(tmp_path / "other").execute("CREATE TABLE x (y)").connection.close()
    for name in ("notes", "other"):
        with pytest.raises(UnknownJournal):
            locate(tmp_path / name)


def test_both_adapters_keep_the_contract():
    for adapter in (MemoryJournal(), SQLiteJournal("x.db")):
        assert isinstance(adapter, Journal)
        assert isinstance(adapter, ReadableJournal)
