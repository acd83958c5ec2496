"""A journal of an application's own: one file for each batch, written beside and renamed into its place.

The rules of the contract and all reading come from the journal in memory, which holds what the files have.
"""

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from journal_adapters.memory import MemoryJournal, Store
from meowcat import JournalOwned
from meowcat.core.values import Position
from meowcat.journal.contract import Entry, Epoch, Owner, Record, Sync

Batch = list[tuple[Record, int]]


class FilesJournal(MemoryJournal):
    """Keeps its records in `folder`, which it creates."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._lock = -1

    def open(self, owner: Owner, sync: Sync) -> Epoch:
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._folder / "owner", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise JournalOwned(f"{self._folder} is in use", owner="another process") from None
        self._lock = lock
        self.store = self._load()
        epoch = super().open(owner, sync)
        self._write("epoch", msgspec.json.encode(epoch))
        return epoch

    def append(self, batch: Sequence[Entry]) -> Position:
        before = len(self.store.records)
        position = super().append(batch)
        # An error from here on is uncertain: meowcat calls `reopen` and looks what is stored.
        self._write(f"{before + 1:016}.batch", msgspec.msgpack.encode(self.store.records[before:]))
        return position

    def reopen(self) -> Position:
        self._owned()
        owner = self.store.owner
        self.store = self._load()
        self.store.owner = owner
        return self.last()

    def set_cursor(self, name: str, position: Position | None) -> None:
        super().set_cursor(name, position)
        self._write("cursors", msgspec.json.encode(self.store.cursors))

    def close(self) -> None:
        super().close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _load(self) -> Store:
        store = Store()
        for path in sorted(self._folder.glob("*.batch")):
            for record, checksum in msgspec.msgpack.decode(path.read_bytes(), type=Batch):
                store.tasks.setdefault(record.task, {})[record.seq] = len(store.records)
                store.records.append((record, checksum))
        if (epoch := self._folder / "epoch").exists():
            store.epoch = msgspec.json.decode(epoch.read_bytes(), type=int)
        if (cursors := self._folder / "cursors").exists():
            store.cursors = msgspec.json.decode(cursors.read_bytes(), type=dict[str, Position])
        return store

    def _write(self, name: str, content: bytes) -> None:
        beside = self._folder / f"{name}.new"
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.rename(self._folder / name)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
