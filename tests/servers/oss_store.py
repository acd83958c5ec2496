"""What the stand-in OSS keeps, in a folder: rows in SQLite, contents in files.

A process may be killed at any moment and started again: contents are written first and named by a row after
that, and files that no row names are removed when the folder is opened. Nothing is synced, so a power failure
may take it all.
"""

import hashlib
import json
import os
import secrets
import sqlite3
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import anycrc
from anyio.to_thread import run_sync

CRC64 = anycrc.Model("CRC64-XZ")
"""OSS calls it crc64ecma."""
BLOCK = 1 << 20
INLINE = 64 << 10
"""Bytes that are hashed at once: a hop to a thread would take longer."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS buckets (name TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS cnames (host TEXT PRIMARY KEY, bucket TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS keys (
    id TEXT PRIMARY KEY, secret TEXT NOT NULL, token TEXT, expires INTEGER
);
CREATE TABLE IF NOT EXISTS objects (
    bucket TEXT NOT NULL, name TEXT NOT NULL, blob TEXT NOT NULL, size INTEGER NOT NULL, etag TEXT NOT NULL,
    md5 TEXT, crc TEXT NOT NULL, modified INTEGER NOT NULL, fields TEXT NOT NULL,
    PRIMARY KEY (bucket, name)
);
CREATE TABLE IF NOT EXISTS uploads (
    id TEXT PRIMARY KEY, bucket TEXT NOT NULL, name TEXT NOT NULL, begun INTEGER NOT NULL,
    fields TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS parts (
    upload TEXT NOT NULL, number INTEGER NOT NULL, blob TEXT NOT NULL, size INTEGER NOT NULL,
    etag TEXT NOT NULL, crc TEXT NOT NULL, modified INTEGER NOT NULL,
    PRIMARY KEY (upload, number)
);
"""


@dataclass(frozen=True)
class Key:
    id: str
    secret: str
    token: str | None
    expires: int | None
    """Milliseconds since 1970 UTC."""


@dataclass(frozen=True)
class Blob:
    """A content that has come in whole, and that no row names yet."""

    name: str
    size: int
    md5: bytes
    crc: int

    @property
    def etag(self):
        return self.md5.hex().upper()


@dataclass(frozen=True)
class Object:
    bucket: str
    name: str
    blob: str
    size: int
    etag: str
    md5: str | None
    """Base64, of an object that was put whole."""
    crc: str
    modified: int
    fields: dict
    """Header fields that came with it."""


@dataclass(frozen=True)
class Upload:
    id: str
    bucket: str
    name: str
    begun: int
    fields: dict


@dataclass(frozen=True)
class Part:
    number: int
    blob: str
    size: int
    etag: str
    crc: str
    modified: int


class Store:
    """All of it but `receive` and `join` is quick, and done where it is called."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.blobs = folder / "blobs"
        self.blobs.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(folder / "oss.db", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = OFF")  # it has to outlive a kill, and nothing more
        self._database.executescript(SCHEMA)
        named = {name for (name,) in self._rows("SELECT blob FROM objects UNION SELECT blob FROM parts")}
        for left in self.blobs.iterdir():  # by a process that was killed
            if left.name not in named:
                left.unlink()

    def close(self):
        self._database.close()

    def _rows(self, text, *values):
        return self._database.execute(text, values).fetchall()

    @contextmanager
    def _transaction(self):
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:  # raised again: nothing of it is stored, whatever it was
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    # Who may ask

    def add_key(self, key: Key):
        self._rows(
            "INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?)", key.id, key.secret, key.token, key.expires
        )

    def key(self, id_):
        rows = self._rows("SELECT * FROM keys WHERE id = ?", id_)
        return Key(*rows[0]) if rows else None

    # Buckets

    def add_bucket(self, name):
        self._rows("INSERT OR IGNORE INTO buckets VALUES (?)", name)

    def has_bucket(self, name):
        return bool(self._rows("SELECT 1 FROM buckets WHERE name = ?", name))

    def add_cname(self, host, bucket):
        self._rows("INSERT OR REPLACE INTO cnames VALUES (?, ?)", host, bucket)

    def bucket_of(self, host):
        rows = self._rows("SELECT bucket FROM cnames WHERE host = ?", host)
        return rows[0][0] if rows else None

    # Contents

    async def receive(self, chunks) -> Blob:
        """A body, into a file as it comes."""
        name = secrets.token_hex(16)
        try:
            with (self.blobs / name).open("wb", buffering=0) as file:
                return await self._receive(name, file, chunks)
        except BaseException:  # raised again: a blob that did not come in full is none
            self.drop(name)
            raise

    async def _receive(self, name, file, chunks):
        md5, crc, size = hashlib.md5(usedforsecurity=False), CRC64.calc(b""), 0
        held = bytearray()

        def take(block):
            nonlocal crc
            file.write(block)
            md5.update(block)
            crc = CRC64.calc(block, crc)

        async for chunk in chunks:
            held += chunk
            size += len(chunk)
            if len(held) >= BLOCK:
                block, held = bytes(held), bytearray()
                await run_sync(take, block)
        if len(held) > INLINE:
            await run_sync(take, bytes(held))
        else:
            take(bytes(held))
        return Blob(name, size, md5.digest(), crc)

    def drop(self, *names):
        for name in names:
            (self.blobs / name).unlink(missing_ok=True)

    def open_blob(self, name):
        return os.open(self.blobs / name, os.O_RDONLY)

    # Objects

    def object(self, bucket, name):
        rows = self._rows("SELECT * FROM objects WHERE bucket = ? AND name = ?", bucket, name)
        return Object(*rows[0][:-1], json.loads(rows[0][-1])) if rows else None

    def put(self, object_: Object):
        """In the place of one that is there. Who reads that one has it open."""
        with self._transaction():
            before = self._put(object_)
        self.drop(*before)

    def _put(self, object_):
        before = self.object(object_.bucket, object_.name)
        row = vars(object_) | {"fields": json.dumps(object_.fields)}
        self._rows("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", *row.values())
        return [before.blob] if before is not None else []

    def delete(self, bucket, name):
        found = self.object(bucket, name)
        if found is not None:
            self._rows("DELETE FROM objects WHERE bucket = ? AND name = ?", bucket, name)
            self.drop(found.blob)

    # Uploads in parts

    def begin(self, bucket, name, now, fields):
        id_ = secrets.token_hex(16).upper()
        self._rows("INSERT INTO uploads VALUES (?, ?, ?, ?, ?)", id_, bucket, name, now, json.dumps(fields))
        return id_

    def upload(self, id_):
        rows = self._rows("SELECT * FROM uploads WHERE id = ?", id_)
        return Upload(*rows[0][:-1], json.loads(rows[0][-1])) if rows else None

    def uploads(self, bucket, prefix="", key_marker="", id_marker="", limit=-1):
        """In the order of their keys, and then of their ids, behind the markers."""
        rows = self._rows(
            "SELECT * FROM uploads WHERE bucket = ?1 AND substr(name, 1, length(?2)) = ?2 "
            "AND (name > ?3 OR (name = ?3 AND ?4 != '' AND id > ?4)) ORDER BY name, id LIMIT ?5",
            bucket, prefix, key_marker, id_marker, limit,
        )  # fmt: skip
        return [Upload(*row[:-1], json.loads(row[-1])) for row in rows]

    def keep(self, upload, number, blob: Blob, now):
        """A part, in the place of an earlier one; whether its upload was still there."""
        with self._transaction():
            if self.upload(upload) is None:
                return False
            before = self._rows("SELECT blob FROM parts WHERE upload = ? AND number = ?", upload, number)
            self._rows(
                "INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?, ?, ?, ?)",
                upload, number, blob.name, blob.size, blob.etag, str(blob.crc), now,
            )  # fmt: skip
        self.drop(*(name for (name,) in before))
        return True

    def parts(self, upload, after=0, limit=-1):
        rows = self._rows(
            "SELECT number, blob, size, etag, crc, modified FROM parts WHERE upload = ? AND number > ? "
            "ORDER BY number LIMIT ?",
            upload, after, limit,
        )  # fmt: skip
        return [Part(*row) for row in rows]

    async def join(self, parts) -> str:
        """One file of the parts' contents; returns its name."""
        name = secrets.token_hex(16)
        await run_sync(self._join, name, [part.blob for part in parts])
        return name

    def _join(self, name, blobs):
        with (self.blobs / name).open("wb") as whole:
            for blob in blobs:
                with (self.blobs / blob).open("rb") as part:
                    while block := part.read(BLOCK):
                        whole.write(block)

    def finish(self, upload: Upload, object_: Object):
        """The object is there, and the upload is gone, both at once; whether the upload was still there."""
        with self._transaction():
            if self.upload(upload.id) is None:
                return False
            blobs = self._forget(upload.id) + self._put(object_)
        self.drop(*blobs)
        return True

    def abort(self, id_):
        with self._transaction():
            blobs = self._forget(id_)
        self.drop(*blobs)

    def _forget(self, id_):
        blobs = [part.blob for part in self.parts(id_)]
        self._rows("DELETE FROM parts WHERE upload = ?", id_)
        self._rows("DELETE FROM uploads WHERE id = ?", id_)
        return blobs
