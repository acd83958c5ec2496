"""All adapters run the suite that authors of adapters run."""

import sqlite3

import msgspec
import pytest

from journal_adapters.jsonl import JSONLJournal
from journal_adapters.memory import MemoryJournal, Store
from journal_adapters.sqlite import SQLiteJournal
from meowcat.testing.journal_suite import OTHER, JournalSuite


class TestMemory(JournalSuite):
    @pytest.fixture
    def place(self):
        return Store()

    def make(self, place):
        return MemoryJournal(store=place)

    def usurp(self, place):
        place.owner = None
        journal = MemoryJournal(store=place)
        journal.open(OTHER, self.sync)
        return journal

    def flip_bit(self, place, position):
        record, checksum = place.records[position - 1]
        body = bytes([record.body[0] ^ 1]) + record.body[1:]
        place.records[position - 1] = (msgspec.structs.replace(record, body=body), checksum)


class TestSQLite(JournalSuite):
    def make(self, place):
        return SQLiteJournal(place / "journal.db")

    def usurp(self, place):
        (place / "journal.db-lock").unlink()
        journal = self.make(place)
        journal.open(OTHER, self.sync)
        return journal

    def flip_bit(self, place, position):
        connection = sqlite3.connect(place / "journal.db")
        (body,) = connection.execute("SELECT body FROM record WHERE position = ?", (position,)).fetchone()
        flipped = bytes([body[0] ^ 1]) + body[1:]
        connection.execute("UPDATE record SET body = ? WHERE position = ?", (flipped, position))
        connection.commit()
        connection.close()


class TestSQLiteUnderProcess(TestSQLite):
    sync = "process"


class TestJSONL(JournalSuite):
    def make(self, place):
        return JSONLJournal(place / "journal.jsonl")

    def usurp(self, place):
        (place / "journal.jsonl" / "lock").unlink()
        journal = self.make(place)
        journal.open(OTHER, self.sync)
        return journal

    def flip_bit(self, place, position):
        for path in sorted((place / "journal.jsonl").glob("*.jsonl")):
            content = path.read_bytes()
            found = content.find(b'{"position":%d,' % position)
            if found >= 0:
                begin = content.index(b":", content.index(b'"version":', found) + 11) + 1
                path.write_bytes(content[:begin] + bytes([content[begin] ^ 1]) + content[begin + 1 :])
                return
        raise AssertionError(f"no record {position}")


class TestJSONLUnderProcess(TestJSONL):
    sync = "process"


class TestJSONLInSmallSegments(TestJSONL):
    def make(self, place):
        return JSONLJournal(place / "journal.jsonl", segment_size=1)
