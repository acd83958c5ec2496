"""Many small files from nginx."""

import filecmp
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.bench import many
from tests.bench.races import Course, Entry, Figures, Job, Race, Scratch, Wrong
from tests.bench.servers import Served

SIZE = 16 << 10


class ManyFiles(Course):
    """Each run brings all files of a folder to a fresh one."""

    def __init__(self, served: Served, folder: Path, names: list[str], job: Job, *, keeps: bool) -> None:
        self.requests = served.requests  # type: ignore[method-assign]  # as nginx counts them
        self._served, self._folder, self._names, self._job = served, folder, names, job
        self._keeps = keeps
        """What was brought stays until the race is over: whenever a file is made, ext4 looks one by one at
        the inodes of what was deleted within the last minutes, 0.4 ms for each file of the next client."""

    def job(self, entry: Entry, *, proving: bool) -> Job:
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        to = folder / "to"
        to.mkdir()
        (folder / "names").write_text("\n".join(self._names))
        subprocess.run(["sync", "-f", folder], check=True)  # nobody pays for what another has written
        job = self._job | {
            "folder": str(folder),
            "to": str(to),
            "names": str(folder / "names"),
            "journal": str(folder / "j.db"),
            "origin": self._served.origin,
            **entry.settings,
        }
        if job["durability"] == "power" and not entry.client.durable:
            job["sync"] = job["to"]
        if job.get("list"):
            many.write_list(job)
        return job

    def check(self, job: Job, figures: Figures) -> None:
        _, wrong, absent = filecmp.cmpfiles(self._served.folder, job["to"], self._names, shallow=False)
        if wrong or absent:
            raise Wrong(
                f"{len(wrong)} files have other bytes, {len(absent)} are missing: {[*wrong, *absent][:3]}"
            )

    def clean(self, job: Job) -> None:
        if not self._keeps:
            shutil.rmtree(job["folder"])


@contextmanager
def many_files(
    scratch: Scratch, count: int, job: Job, *, on_disk: bool = False, tls: bool = False
) -> Iterator[ManyFiles]:
    served = Path(tempfile.mkdtemp(dir=scratch.memory))
    names = [f"{number:06d}.bin" for number in range(count)]
    for name in names:
        (served / name).write_bytes(random.randbytes(SIZE))
    with Served(served, tls=tls) as server:
        if tls:
            job = job | {"ca": str(server.ca)}
        folder = scratch.folder if on_disk else scratch.memory
        yield ManyFiles(server, folder, names, job, keeps=on_disk)
    shutil.rmtree(served)


def races() -> Iterator[Race]:
    places = {"": ("process", False), "-disk": ("process", True), "-power": ("power", True)}
    for count in (2_000, 20_000):
        for suffix, (durability, on_disk) in places.items():
            where = "onto disk" if on_disk else "memory-backed"
            synced = ", peers followed by `sync -f FOLDER`" if durability == "power" else ""
            clients = many.CLIENTS if count == 2_000 else many.FAST
            yield Race(
                f"small-{count // 1000}k{suffix}",
                f"{count:,} files of 16 KiB, {where}, `{durability}`{synced}",
                tuple(Entry(client, settings, name) for client, settings, name in clients),
                partial(many_files, count=count, job={"durability": durability}, on_disk=on_disk),
                files=count,
            )
    yield Race(
        "small-2k-tls",
        "2,000 files of 16 KiB with TLS, memory-backed, `process`",
        tuple(Entry(client, settings, name) for client, settings, name in many.TRUSTING),
        partial(many_files, count=2_000, job={"durability": "process"}, tls=True),
        files=2_000,
    )
