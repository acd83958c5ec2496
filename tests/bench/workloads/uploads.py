"""One large file to a server that drops it: by presigned PUTs, and by forms."""

import filecmp
import http.client
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from tests.bench import uploads
from tests.bench.races import Course, Entry, Figures, Job, Race, Scratch, Wrong
from tests.bench.servers import printing_port


class Dropped(Course):
    """Each run sends the same file. The first run of each client goes to a server that keeps the bytes, to be
    compared; of the others all bytes must have come."""

    def __init__(self, port: int, keeping: int, kept: Path, source: Path, folder: Path) -> None:
        self._port, self._keeping, self._kept = port, keeping, kept
        self._source, self._folder = source, folder
        self._before = {"requests": 0, "bytes": 0}

    def job(self, entry: Entry, *, proving: bool) -> Job:
        folder = tempfile.mkdtemp(dir=self._folder)
        job = {
            "folder": folder,
            "journal": f"{folder}/j.db",
            "file": str(self._source),
            "size": self._source.stat().st_size,
            "port": self._keeping if proving else self._port,
            "connections": 4,
            "durability": "process",
        }
        job["origin"] = f"http://127.0.0.1:{job['port']}"
        self._before = self._figures(job["port"])
        return job | entry.settings

    def check(self, job: Job, figures: Figures) -> None:
        after = self._figures(job["port"])
        figures["requests"] = after["requests"] - self._before["requests"]
        came = after["bytes"] - self._before["bytes"]
        if came < job["size"]:
            raise Wrong(f"{came:,} bytes of {job['size']:,} came")
        if job["port"] == self._keeping:
            if not filecmp.cmp(self._source, self._kept, shallow=False):
                raise Wrong("other bytes came than those of the file")
            with self._kept.open("r+b") as file:
                file.truncate(0)

    def clean(self, job: Job) -> None:
        shutil.rmtree(job["folder"])

    @staticmethod
    def _figures(port: int) -> dict[str, int]:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/figures")
        with connection.getresponse() as reply:
            return json.loads(reply.read())


@contextmanager
def dropped(scratch: Scratch, size: int) -> Iterator[Dropped]:
    source = scratch.source(size)
    kept = source.parent / "kept"
    with ExitStack() as stack:
        port = stack.enter_context(printing_port("discard"))
        keeping = stack.enter_context(printing_port("discard", "--keep", kept))
        yield Dropped(port, keeping, kept, source, scratch.memory)
    kept.unlink(missing_ok=True)


def races(size: int) -> Iterator[Race]:
    yield Race(
        "upload-put",
        "one file as presigned PUTs of 8 MiB, 4 at once, to a server that drops it, `process`",
        (
            *map(Entry, uploads.PUT),
            Entry(uploads.PUT_FLOOR),
            Entry(uploads.PUT_FLOOR, {"blake3": True}, "the floor with BLAKE3"),
        ),
        partial(dropped, size=size),
        bytes=size,
    )
    others = (uploads.FORM_PYREQWEST, uploads.FORM_HTTPX)
    for name, ours, hashed in (
        ("upload-form", uploads.FORM, True),
        ("upload-form-again", uploads.FORM_AGAIN, False),
    ):
        what = "the MD5 of the whole, then the chunks" if hashed else "the chunks, with an MD5 that is known"
        prefix = "MD5, then " if hashed else ""
        yield Race(
            name,
            f"one file as forms of 8 MiB, one after the other, to a server that drops it: {what}, `process`",
            (Entry(ours), *(Entry(each, {"hashed": hashed}, f"{prefix}{each.name}") for each in others)),
            partial(dropped, size=size),
            bytes=size,
        )
