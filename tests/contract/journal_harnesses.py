"""The harnesses of the journals that come with meowcat."""

import base64
import copy
import sqlite3
import struct

import msgspec

from journal_adapters import sqlite_file
from journal_adapters.jsonl import SEGMENT_SIZE, JSONLJournal
from journal_adapters.memory import MemoryJournal, Store
from journal_adapters.sqlite import SQLiteJournal
from meowcat.journal.contract import Record
from meowcat.testing.journal import OTHER, FileHarness, JournalHarness


class MemoryHarness(JournalHarness):
    """The store is the medium. Its bytes are the fields of its records, of its cursors and its snapshots."""

    never_torn = "what memory holds goes as a whole with its process"

    def __init__(self, folder):
        super().__init__(folder)
        self.store = Store()

    def make(self):
        return MemoryJournal(store=self.store)

    def usurp(self):
        self.store.owner = None
        journal = self.make()
        journal.open(OTHER, self.sync)
        return journal

    def crash(self, journal):
        self.close_later(journal)
        self.store = copy.deepcopy(self.store)
        self.store.owner = None

    def corrupt(self, body):
        for place, (record, checksum) in enumerate(self.store.records):
            if record.body == body:
                changed = bytes([body[0] ^ 1]) + body[1:]
                self.store.records[place] = msgspec.structs.replace(record, body=changed), checksum

    def raw_read(self):
        store = self.store
        image = {}
        for place, (record, checksum) in enumerate(store.records):
            for name, value in msgspec.structs.asdict(record).items():
                image[f"{place} {name}"] = as_bytes(value)
            image[f"{place} crc"] = as_bytes(checksum)
        for name, (position, checksum) in store.cursors.items():
            image[f"cursor {name}"] = struct.pack(">qq", position, checksum)
        for name, (position, body, checksum) in store.snapshots.items():
            image[f"snapshot {name}"] = struct.pack(">qq", position, checksum) + body
        return image

    def raw_write(self, image):
        """Whose records they are stands in `tasks`, too, which is not part of the image."""
        indexes = self.store.tasks
        self.store = Store(epoch=2 if image else 0)
        for key, content in image.items():
            kind, _, name = key.partition(" ")
            if kind == "cursor":
                self.store.cursors[name] = struct.unpack(">qq", content)
            elif kind == "snapshot":
                position, checksum = struct.unpack(">qq", content[:16])
                self.store.snapshots[name] = position, content[16:], checksum
            elif name == "crc":
                place = int(kind)
                fields = {each: TYPES[each](image[f"{kind} {each}"]) for each in Record.__struct_fields__}
                self.store.records.append((Record(**fields), as_number(content)))
                task, seq = next((t, s) for t, seqs in indexes.items() for s in seqs if seqs[s] == place)
                self.store.tasks.setdefault(task, {})[seq] = place


def as_bytes(value):
    if isinstance(value, bytes):
        return value
    return value.encode(errors="surrogateescape") if isinstance(value, str) else struct.pack(">q", value)


def as_text(content):
    return content.decode(errors="surrogateescape")


def as_number(content):
    return struct.unpack(">q", content)[0]


def as_flag(content):
    return as_number(content) == 1


TYPES = {
    **dict.fromkeys(("position", "seq", "epoch", "version", "at"), as_number),
    **dict.fromkeys(("task", "type"), as_text),
    **dict.fromkeys(("body", "chain"), bytes),
    "open": as_flag,
}


class SQLiteWithSmallPages(SQLiteJournal):
    """Makes new files with the smallest pages there are, so that each bit of a small journal can be tried."""

    def open(self, owner, sync):
        if not self.path.exists():
            sqlite_file.create(self.path, sqlite_file.write_empty)
            connection = sqlite3.connect(self.path)
            connection.executescript("PRAGMA page_size = 512; VACUUM")
            connection.close()
        return super().open(owner, sync)


class SQLiteHarness(FileHarness):
    ignored = ("-lock", "-shm")
    may_look_torn = "SQLite takes a log's frame with a wrong checksum for the end of the log"

    def make(self):
        return SQLiteJournal(self.place / "journal.db")

    def usurp(self):
        (self.place / "journal.db-lock").unlink()
        journal = self.make()
        journal.open(OTHER, self.sync)
        return journal


class SmallSQLiteHarness(SQLiteHarness):
    def make(self):
        return SQLiteWithSmallPages(self.place / "journal.db")


class JSONLHarness(FileHarness):
    ignored = ("lock", "reserve")
    segment_size = SEGMENT_SIZE

    def make(self):
        return JSONLJournal(self.place / "journal.jsonl", segment_size=self.segment_size)

    def corrupt(self, body):
        """Bodies that are no JSON stand as base64."""
        super().corrupt(body if body.startswith(b"{") else base64.b64encode(body))

    def usurp(self):
        (self.place / "journal.jsonl" / "lock").unlink()
        journal = self.make()
        journal.open(OTHER, self.sync)
        return journal
