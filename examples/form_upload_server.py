"""A server for meowcat's default upload protocol, whose contract is docs/reference/form-upload.md.

    python examples/form_upload_server.py --folder uploads --port 8000

    POST /upload      prepare an upload, or bring a chunk of it
    GET  /files/ID    a finished file; the ID is the `fileId` that the upload ended with

What it answers is true for ever: bytes are synced to the disk before they are confirmed, so that neither a
kill -9 nor a power failure takes back a `nextByte`. A file is finished once its MD5 has proved right, and is
kept once however often it is uploaded. It asks nobody for credentials: put it behind what does.

In the folder: `files/` has what is finished, `partial/` what is not, and `uploads.db` how much of each upload
is there and by which names it came.
"""

import argparse
import asyncio
import fcntl
import hashlib
import os
import re
import socket
import sqlite3
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from weakref import WeakValueDictionary

import anyio
import uvicorn
from anyio.to_thread import run_sync
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

MIB = 1 << 20
HOUR = 3600.0
BLOCK = MIB
"""Bytes that are held in memory of a chunk that comes in."""
TEXT = 8 << 10
"""Bytes of a text field."""
FIELDS = frozenset({"fileMd5", "fileName", "category", "totalSize", "offset", "partSize"})
ID = re.compile(r"[0-9a-f]{32}-\d{1,19}")

SCHEMA = """
CREATE TABLE IF NOT EXISTS uploads (id TEXT PRIMARY KEY, has INTEGER NOT NULL, touched REAL NOT NULL);
CREATE TABLE IF NOT EXISTS names (
    id TEXT NOT NULL, name TEXT NOT NULL, category TEXT NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (id, name, category)
);
"""


class Refusal(Exception):
    """A request that is answered with an error; nothing of it was stored."""

    def __init__(self, status: int, text: str, has: int | None = None) -> None:
        super().__init__(text)
        said = {"error": text} if has is None else {"error": text, "nextByte": has}
        self.reply = JSONResponse(said, status)


@dataclass(frozen=True)
class Wish:
    """A request's text fields, checked."""

    md5: str
    size: int
    name: str
    category: str
    offset: int | None
    """Of the chunk; None where the request only prepares."""

    @property
    def id(self) -> str:
        """Names the content, and its files here: nothing that a client makes up becomes a path."""
        return f"{self.md5}-{self.size}"


def wish_of(texts: dict[str, str], brought: int | None) -> Wish:
    """Check the text fields against the contract, and against the bytes that came with them, if any."""

    def number(name: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", texts.get(name, "")):
            raise Refusal(400, f"{name}: expected a whole number")
        return int(texts[name])

    md5 = texts.get("fileMd5", "").lower()
    if not re.fullmatch(r"[0-9a-f]{32}", md5):
        raise Refusal(400, "fileMd5: expected 32 hexadecimal digits")
    if "fileName" not in texts:
        raise Refusal(400, "fileName is missing")
    size, offset = number("totalSize"), None
    if brought is not None:
        offset = number("offset")
        if number("partSize") != brought:
            raise Refusal(400, f"partSize is {texts['partSize']}, and {brought} bytes came")
        if offset + brought > size:
            raise Refusal(400, f"the chunk ends at {offset + brought}, and totalSize is {size}")
    return Wish(md5, size, texts["fileName"], texts.get("category", ""), offset)


class FormReader:
    """Takes a multipart/form-data body as it comes: texts into memory, the part `file` into a file.

    The contract has the bytes come before the fields that say where they belong, so that they can't go there
    at once.

    Args:
        boundary: of the body.
        file: for the part `file`.
        most: bytes of that part.
    """

    def __init__(self, boundary: bytes, file: BinaryIO, most: int) -> None:
        self.texts: dict[str, str] = {}
        self.brought: int | None = None
        """Bytes of the part `file`; None where there is none."""
        self._file = file
        self._most = most
        self._header, self._value, self._disposition = b"", b"", b""
        self._name = ""
        self._text = bytearray()
        self._blocks: list[bytes] = []
        self._held = 0
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._add_header,
                "on_header_value": self._add_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._name_part,
                "on_part_data": self._add_data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    async def read(self, chunks: AsyncIterator[bytes]) -> None:
        """Read all of it. Raises: Refusal, or what the stream and the disk raise."""
        try:
            async for chunk in chunks:
                self._parser.write(chunk)
                if self._held >= BLOCK:
                    await run_sync(self._write)
        except FormParserError as error:
            raise Refusal(400, f"no multipart/form-data as its boundary says: {error}") from error
        if not self._ended:
            raise Refusal(400, "the form ends before its last boundary")
        await run_sync(self._write)

    def _write(self) -> None:
        self._file.writelines(self._blocks)
        self._blocks, self._held = [], 0

    def _begin_part(self) -> None:
        self._disposition = b""
        self._text = bytearray()

    def _add_header(self, data: bytes, start: int, stop: int) -> None:
        self._header += data[start:stop]

    def _add_value(self, data: bytes, start: int, stop: int) -> None:
        self._value += data[start:stop]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header, self._value = b"", b""

    def _name_part(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        known = self._name in FIELDS or self._name == "file"
        if not known or self._name in self.texts or (self._name == "file" and self.brought is not None):
            raise Refusal(400, f"the field {self._name[:40]!r} is unknown, or comes twice")
        if self._name == "file":
            self.brought = 0

    def _add_data(self, data: bytes, start: int, stop: int) -> None:
        if self._name != "file":
            self._text += data[start:stop]
            if len(self._text) > TEXT:
                raise Refusal(400, f"{self._name}: longer than {TEXT} bytes")
            return
        self._blocks.append(data[start:stop])
        self._held += stop - start
        self.brought = (self.brought or 0) + stop - start
        if self.brought > self._most:
            raise Refusal(413, f"a chunk of more than {self._most} bytes")

    def _end_part(self) -> None:
        if self._name != "file":
            try:
                self.texts[self._name] = self._text.decode()
            except UnicodeDecodeError:
                raise Refusal(400, f"{self._name}: expected UTF-8") from None

    def _end(self) -> None:
        self._ended = True


class Store:
    """A folder of uploads. All of it blocks; calls for one upload must not run at once.

    Raises:
        SystemExit: another process works on the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.files, self.partial = folder / "files", folder / "partial"
        for each in (self.files, self.partial):
            each.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"{folder}: another server works on it") from None
        self._hashes: dict[str, tuple[Any, int]] = {}
        """Of what is there of each upload: the hash and how many bytes it covers."""
        self._using = threading.Lock()
        self._database = sqlite3.connect(folder / "uploads.db", check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")  # a commit is on the disk when it returns
        self._database.executescript(SCHEMA)
        known = {id_ for (id_,) in self._execute("SELECT id FROM uploads")}
        for left in self.partial.iterdir():  # a process was killed before it vouched for it
            if left.name not in known:
                left.unlink()
        sync_folder(folder)

    def close(self) -> None:
        self._database.close()
        self._lock.close()

    def _execute(self, text: str, *values: object) -> list[tuple[Any, ...]]:
        with self._using:
            return self._database.execute(text, values).fetchall()

    def has(self, id_: str) -> int:
        """Bytes of an unfinished upload that are there for good."""
        rows = self._execute("SELECT has FROM uploads WHERE id = ?", id_)
        return rows[0][0] if rows else 0

    def standing(self, wish: Wish) -> dict[str, object]:
        """What the contract answers: what is there, or the id once all of it is and has proved right."""
        if not self._finished(wish):
            has = self.has(wish.id)
            if has < wish.size:
                return {"nextByte": has}
            self._publish(wish)
        return {"fileId": wish.id}

    def take(self, wish: Wish, chunk: BinaryIO, size: int) -> dict[str, object]:
        """Put a chunk where it belongs, but for what is there already."""
        has, offset = self.has(wish.id), wish.offset or 0
        if not self._finished(wish):
            if offset > has:
                raise Refusal(409, f"the chunk begins at {offset}; expected at {has} at most", has)
            if offset + size > has:
                chunk.seek(has - offset)
                self._append(wish.id, has, chunk)
        return self.standing(wish)

    def _finished(self, wish: Wish) -> bool:
        if not (self.files / wish.id).exists():
            return False
        self._execute(
            "INSERT OR IGNORE INTO names VALUES (?, ?, ?, ?)", wish.id, wish.name, wish.category, time.time()
        )
        return True

    def _begin(self, id_: str) -> None:
        """Make the file; a name that a crash takes back would take the bytes with it."""
        with (self.partial / id_).open("ab"):
            sync_folder(self.partial)

    def _append(self, id_: str, has: int, chunk: BinaryIO) -> None:
        """Bytes first, and only once they are on the disk the number that vouches for them."""
        if has == 0:
            self._begin(id_)
        with (self.partial / id_).open("r+b") as file:
            file.seek(has)  # what a crash has left behind it is written over
            while block := chunk.read(BLOCK):
                file.write(block)
            stop = file.tell()
            file.flush()
            os.fdatasync(file.fileno())
            self._execute(
                "INSERT INTO uploads VALUES (?1, ?2, ?3) "
                "ON CONFLICT (id) DO UPDATE SET has = ?2, touched = ?3",
                id_, stop, time.time(),
            )  # fmt: skip
            self._hash(id_, file, stop)

    def _hash(self, id_: str, file: BinaryIO, stop: int) -> str:
        """The MD5 of the first `stop` bytes; goes on where it stood, or begins anew after a restart."""
        md5, at = self._hashes.pop(id_, (hashlib.md5(usedforsecurity=False), 0))
        file.seek(at)
        while at < stop and (block := file.read(min(BLOCK, stop - at))):
            md5.update(block)
            at += len(block)
        self._hashes[id_] = md5, at
        return str(md5.hexdigest())

    def _publish(self, wish: Wish) -> None:
        """Prove the content, and move it to where only proved ones are."""
        path = self.partial / wish.id
        if wish.size == 0:
            self._begin(wish.id)
        with path.open("rb") as file:
            found = self._hash(wish.id, file, wish.size)
        if found != wish.md5:
            self.drop(wish.id)
            raise Refusal(422, f"the content has the MD5 {found}; expected {wish.md5}: send all of it again")
        path.rename(self.files / wish.id)
        sync_folder(self.files)
        sync_folder(self.partial)
        self.drop(wish.id)
        self._finished(wish)

    def drop(self, id_: str) -> None:
        """Forget an upload that is over: the number first, or it would vouch for bytes that are gone."""
        self._hashes.pop(id_, None)
        self._execute("DELETE FROM uploads WHERE id = ?", id_)
        (self.partial / id_).unlink(missing_ok=True)

    def stale(self, age: float) -> list[str]:
        """Uploads that nobody went on with for `age` seconds."""
        rows = self._execute("SELECT id FROM uploads WHERE touched <= ?", time.time() - age)
        return [id_ for (id_,) in rows]

    @contextmanager
    def chunk(self) -> Iterator[BinaryIO]:
        """Where a chunk waits until it is known where it belongs."""
        with tempfile.TemporaryFile(dir=self.partial) as file:
            yield file


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Server:
    """The HTTP side of a store.

    Args:
        store: where it all is.
        most: bytes of a chunk.
        keep: seconds after which an upload that nobody went on with is dropped.
    """

    def __init__(self, store: Store, most: int, keep: float) -> None:
        self._store = store
        self._most = most
        self._keep = keep
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def app(self) -> Starlette:
        routes = [
            Route("/upload", self.upload, methods=["POST", "PUT", "PATCH"]),
            Route("/files/{id}", self.download),
        ]
        return Starlette(routes=routes, lifespan=self._tidying)

    def _turn(self, id_: str) -> asyncio.Lock:
        """One at a time for each content: two clients that send the same one take turns."""
        return self._turns.setdefault(id_, asyncio.Lock())

    async def upload(self, request: Request) -> Response:
        chunks = request.stream()
        try:
            with self._store.chunk() as file:
                form = FormReader(boundary_of(request), file, self._most)
                await form.read(chunks)
                wish = wish_of(form.texts, form.brought)
                async with self._turn(wish.id):
                    if form.brought is None:
                        said = await run_sync(self._store.standing, wish)
                    else:
                        said = await run_sync(self._store.take, wish, file, form.brought)
            return JSONResponse(said)
        except Refusal as refusal:
            with suppress(ClientDisconnect):
                async for _ in chunks:
                    pass  # a connection that is closed in the middle of a request takes the reply with it
            return refusal.reply
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except (OSError, sqlite3.Error) as error:
            return JSONResponse({"error": f"it can't be stored: {error}"}, 507)

    async def download(self, request: Request) -> Response:
        id_ = request.path_params["id"]
        path = self._store.files / id_
        if not ID.fullmatch(id_) or not await run_sync(path.is_file):
            return JSONResponse({"error": "no such file"}, 404)
        return FileResponse(path, media_type="application/octet-stream")

    @asynccontextmanager
    async def _tidying(self, _: Starlette) -> AsyncIterator[None]:
        await self._tidy()
        async with anyio.create_task_group() as group:
            group.start_soon(self._tidy_every_now_and_then)
            yield
            group.cancel_scope.cancel()

    async def _tidy_every_now_and_then(self) -> None:
        while True:
            await anyio.sleep(min(HOUR, max(self._keep / 10, 1)))
            await self._tidy()

    async def _tidy(self) -> None:
        for id_ in await run_sync(self._store.stale, self._keep):
            async with self._turn(id_):
                if id_ in await run_sync(self._store.stale, self._keep):  # nobody came before us
                    await run_sync(self._store.drop, id_)


def boundary_of(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise Refusal(415, "expected multipart/form-data with a boundary")
    return options[b"boundary"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="where the uploads go")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 = any that is free")
    parser.add_argument("--max-chunk", type=int, default=512 * MIB, help="bytes (512 MiB)")
    parser.add_argument(
        "--keep", type=float, default=72.0, metavar="HOURS", help="drop uploads that nobody goes on with (72)"
    )
    options = parser.parse_args()
    store = Store(options.folder)
    listener = socket.create_server((options.host, options.port), backlog=1024)
    # asyncio sees to it only for sockets of its own making; without it each reply waits 40 ms for an ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    app = Server(store, options.max_chunk, options.keep * HOUR).app()
    print(f"http://{options.host}:{listener.getsockname()[1]}/upload", flush=True)
    with suppress(KeyboardInterrupt):
        uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])
    store.close()


if __name__ == "__main__":
    main()
