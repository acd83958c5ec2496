"""One large file from nginx."""

import ctypes
import filecmp
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from tests.bench.downloads import (
    AIOHTTP,
    ARIA2,
    AXEL,
    CURL,
    DISK,
    FLOOR,
    FLOOR_HASHED,
    HTTPX,
    MEOWCAT,
    OBSTORE,
    PYPDL,
    PYREQWEST,
    RCLONE,
    WGET2,
)
from tests.bench.races import MIB, Client, Course, Entry, Figures, Job, Race, Scratch, Wrong
from tests.bench.servers import Served, printing_port

GIB = 1 << 30
PEERS = (CURL, ARIA2, RCLONE, WGET2, AXEL, HTTPX, AIOHTTP, PYPDL, OBSTORE, PYREQWEST)
WHOLE_PROGRAMS = (CURL, ARIA2, RCLONE, WGET2, AXEL, PYPDL)
"""Those that have settings by default: what a script does is what it says."""
SLOW_LINKS = {
    "capped": ("10 MB/s for each connection", ("--rate", 10_000_000)),
    "latency": ("a round trip of 50 ms, and 4 MiB under way at once", ("--round-trip", 0.05)),
}


class OneFile(Course):
    """Each run brings the same file to a fresh folder."""

    def __init__(self, served: Served, source: Path, folder: Path, port: int, job: Job) -> None:
        self.requests = served.requests  # type: ignore[method-assign]  # as nginx counts them
        self._folder = folder
        self._source = source
        scheme = "https" if served.tls else "http"
        origin = f"{scheme}://127.0.0.1:{port}"
        self._job = job | {
            "origin": origin,
            "name": source.name,
            "url": f"{origin}/{source.name}",
            "size": source.stat().st_size,
            "source": str(source),
        }
        if served.tls:
            self._job["ca"] = str(served.ca)

    def job(self, entry: Entry, *, proving: bool) -> Job:
        # A fresh folder: ext4 is a third slower in one where large files were deleted a moment ago.
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        subprocess.run(["sync", "-f", folder], check=True)  # nobody pays for what another has written
        job = self._job | {
            "folder": str(folder),
            "to": str(folder / "to.bin"),
            "journal": str(folder / "j.db"),
        }
        if job["durability"] == "power" and not entry.client.durable:
            job["sync"] = job["to"]
        return job | entry.settings

    def check(self, job: Job, figures: Figures) -> None:
        if not filecmp.cmp(self._source, job["to"], shallow=False):
            raise Wrong("brought other bytes than those that were served")

    def clean(self, job: Job) -> None:
        shutil.rmtree(job["folder"])


@contextmanager
def one_file(
    scratch: Scratch,
    size: int,
    job: Job,
    *,
    tls: bool = False,
    on_disk: bool = False,
    link: tuple[object, ...] = (),
) -> Iterator[OneFile]:
    source = scratch.source(size)
    with ExitStack() as stack:
        served = stack.enter_context(Served(source.parent, tls=tls))
        port = stack.enter_context(printing_port("links", served.port, *link)) if link else served.port
        yield OneFile(served, source, scratch.folder if on_disk else scratch.memory, port, job)


def _entries(*clients: Client) -> tuple[Entry, ...]:
    return tuple(Entry(each, {"blake3": True} if each is FLOOR_HASHED else {}) for each in clients)


def races(size: int) -> Iterator[Race]:
    for count in (1, 4, 16):
        job = {"connections": count, "durability": "process"}
        yield Race(
            f"large-{count}",
            f"one file over {count} connection{'s' * (count > 1)}, memory-backed, `process`",
            _entries(MEOWCAT, *PEERS, FLOOR, FLOOR_HASHED),
            partial(one_file, size=size, job=job),
            bytes=size,
            note="curl has one connection whatever is asked for.",
        )
    for durability in ("process", "power"):
        job = {"connections": 4, "durability": durability}
        name = "large-disk" if durability == "process" else "large-disk-power"
        synced = ", peers followed by `sync FILE`" if durability == "power" else ""
        yield Race(
            name,
            f"one file over 4 connections, onto disk, `{durability}`{synced}",
            _entries(MEOWCAT, *PEERS, FLOOR, DISK),
            partial(one_file, size=size, job=job, on_disk=True),
            bytes=size,
        )
    yield Race(
        "large-tls",
        "one file over 4 connections with TLS, memory-backed, `process`",
        _entries(MEOWCAT, CURL, ARIA2, RCLONE, WGET2, AXEL, HTTPX, AIOHTTP, PYPDL, PYREQWEST),
        partial(one_file, size=size, job={"connections": 4, "durability": "process"}, tls=True),
        bytes=size,
    )
    for name, (what, link) in SLOW_LINKS.items():
        yield _slow(name, what, link, size // 4)
    yield sparse()


def _slow(name: str, what: str, link: tuple[object, ...], size: int) -> Race:
    """Everybody by default, and those that can with as many connections as each other."""
    by_default = [Entry(each, {"connections": None}, f"{each.name} (by default)") for each in WHOLE_PROGRAMS]
    with_four = [Entry(each, {"connections": 4}, f"{each.name} (4)") for each in (ARIA2, AXEL, PYREQWEST)]
    with_sixteen = [Entry(each, {"connections": 16}, f"{each.name} (16)") for each in (MEOWCAT, ARIA2, AXEL)]
    ours = [
        Entry(MEOWCAT, {"connections": None}, "meowcat (by default)"),
        Entry(MEOWCAT, {"connections": 4}, "meowcat (4)"),
    ]
    return Race(
        f"large-{name}",
        f"one file through a link with {what}, memory-backed, `process`",
        (*ours, *with_sixteen, *by_default, *with_four),
        partial(one_file, size=size, job={"durability": "process"}, link=link),
        bytes=size,
    )


# A file of 20 GiB without the room for it


SPARSE = 20 * GIB


class Sparse(OneFile):
    """The file is one hole, and so is what is brought: what was written of it is given back all the time,
    which no reader can tell from the zeros that were written."""

    def job(self, entry: Entry, *, proving: bool) -> Job:
        job = super().job(entry, proving=proving)
        job["url"] = f"{job['origin']}/{job['name']}"
        self._over = threading.Event()
        self._puncher = threading.Thread(target=self._punch, args=(Path(job["folder"]),))
        self._puncher.start()
        return job

    def _punch(self, folder: Path) -> None:
        fallocate = ctypes.CDLL(None, use_errno=True).fallocate64
        fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
        while not self._over.wait(0.1):
            for path in folder.glob("*to.bin*"):
                with path.open("r+b") as file:
                    size = os.fstat(file.fileno()).st_size
                    if size >= GIB and fallocate(file.fileno(), 3, 0, size):  # PUNCH_HOLE | KEEP_SIZE
                        raise OSError(ctypes.get_errno(), "fallocate", str(path))

    def check(self, job: Job, figures: Figures) -> None:
        with Path(job["to"]).open("rb") as file:
            size, at = file.seek(0, os.SEEK_END), 0
            if size != job["size"]:
                raise Wrong(f"brought {size:,} bytes of {job['size']:,}")
            while True:
                try:
                    at = file.seek(at, os.SEEK_DATA)
                except OSError:  # ENXIO: nothing but a hole from here on
                    return
                block = file.read(MIB)
                if block.strip(b"\0"):
                    raise Wrong(f"brought something else than zeros at {at:,}")
                at += len(block)

    def clean(self, job: Job) -> None:
        self._over.set()
        self._puncher.join()
        super().clean(job)


@contextmanager
def sparse_course(scratch: Scratch) -> Iterator[Sparse]:
    served = Path(tempfile.mkdtemp(dir=scratch.memory))
    for name, size in (("large.bin", SPARSE), ("small.bin", GIB)):
        with (served / name).open("wb") as file:
            file.truncate(size)
    job = {"connections": 4, "durability": "process", "options": {"piece_size": MIB}, "stalls": True}
    # No byte of it stays, but a download waits for the room that it says it needs.
    roomy = shutil.disk_usage(scratch.memory).free > SPARSE + 2 * GIB
    with Served(served) as server:
        folder = scratch.memory if roomy else scratch.folder
        yield Sparse(server, served / "large.bin", folder, server.port, job)


def sparse() -> Race:
    def settings(name: str, size: int) -> Job:
        return {"name": name, "size": size}

    return Race(
        "sparse",
        "20 GiB in 20,480 pieces, and 1 GiB in 1,024, over 4 connections, `process`",
        (
            Entry(MEOWCAT, settings("large.bin", SPARSE), "meowcat, 20 GiB"),
            Entry(MEOWCAT, settings("small.bin", GIB), "meowcat, 1 GiB"),
        ),
        sparse_course,
    )
