"""One object up and down at a cloud: at SeaweedFS, Azurite and the stand-in for Aliyun OSS.

A server is started for each upload, so that nobody finds what others have left, and memory stays free.
"""

import filecmp
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path

from meowcat.testing.azurite import Azurite
from meowcat.testing.s3_servers import SeaweedFS
from tests.bench import stores
from tests.bench.races import ROOT, Client, Course, Entry, Figures, Job, Race, Scratch, Wrong
from tests.bench.scripts import Clock
from tests.bench.servers import printing_port
from tests.bench.workloads.large import SLOW_LINKS

sys.path.insert(0, str(ROOT / "tests" / "servers"))
from oss_server import OSSServer


def s3_target(server: SeaweedFS) -> Job:
    key = {"id": server.key.id, "secret": server.key.secret}
    return {"endpoint": server.origin, "bucket": server.bucket} | key


def azure_target(server: Azurite) -> Job:
    key = {"id": server.key.account, "secret": server.key.key}
    return {"endpoint": server.endpoint, "bucket": server.container} | key


def oss_target(server: OSSServer) -> Job:
    key = {"id": server.key.id, "secret": server.key.secret}
    return {"endpoint": server.origin, "region": server.region, "bucket": server.bucket} | key


SERVERS = {"s3": (SeaweedFS, s3_target), "azure": (Azurite, azure_target), "oss": (OSSServer, oss_target)}
SDKS: dict[str, Callable[[Job, Clock], None]] = {
    "s3": stores.boto3,
    "azure": stores.azure_sdk,
    "oss": stores.oss_sdk,
}
"""Who puts and gets what is compared with."""


class Store(Course):
    """One store's uploads, or its downloads, through a link where there is one."""

    def __init__(
        self, kind: str, source: Path, memory: Path, *, up: bool, link: tuple[object, ...] = ()
    ) -> None:
        self._kind, self._source, self._memory, self._link = kind, source, memory, link
        self._job = {
            "up": up,
            "name": "object.bin",
            "size": source.stat().st_size,
            "connections": 4,
            "durability": "process",
        }
        self._server = ExitStack()
        if not up:
            self._target = self._start()
            SDKS[kind](self._job | self._target | {"up": True, "file": str(source)}, Clock(None))

    def _start(self, attempts: int = 3) -> Job:
        make, target = SERVERS[self._kind]
        folder = self._server.enter_context(tempfile.TemporaryDirectory(dir=self._memory))
        try:
            return target(self._server.enter_context(make(Path(folder))))
        except RuntimeError:  # SeaweedFS, once in some dozen starts, takes requests and never has a volume
            if attempts == 1:
                raise
            return self._start(attempts - 1)

    def close(self) -> None:
        self._server.close()

    def job(self, entry: Entry, *, proving: bool) -> Job:
        folder = Path(tempfile.mkdtemp(dir=self._memory))
        if self._job["up"]:
            self._target = self._start()
        places = {"file": str(self._source), "to": str(folder / "to.bin")}
        journal = {"folder": str(folder), "journal": str(folder / "j.db")}
        return self._job | self._target | self._linked() | places | journal | entry.settings

    def _linked(self) -> Job:
        if not self._link:
            return {}
        place, _, port = self._target["endpoint"].rpartition(":")
        linked = self._server.enter_context(printing_port("links", int(port), *self._link))
        return {"endpoint": f"{place}:{linked}"}

    def check(self, job: Job, figures: Figures) -> None:
        if job["up"]:
            SDKS[self._kind](job | self._target | {"up": False}, Clock(None))
        if not filecmp.cmp(self._source, job["to"], shallow=False):
            raise Wrong("brought other bytes than those of the source")

    def clean(self, job: Job) -> None:
        shutil.rmtree(job["folder"])
        if job["up"]:
            self._server.close()


@contextmanager
def store(
    scratch: Scratch, kind: str, size: int, *, up: bool, link: tuple[object, ...] = ()
) -> Iterator[Store]:
    course = Store(kind, scratch.source(size), scratch.memory, up=up, link=link)
    try:
        yield course
    finally:
        course.close()


def races(size: int) -> Iterator[Race]:
    yield from _both_ways("s3", "SeaweedFS", stores.S3, size)
    for name, (what, link) in SLOW_LINKS.items():
        ours = [Entry(stores.S3[0], {"connections": count}, f"meowcat ({count})") for count in (4, 16)]
        by_default = [Entry(each, {"connections": None}, f"{each.name} (by default)") for each in stores.S3]
        yield Race(
            f"s3-up-{name}",
            f"one object up to SeaweedFS through a link with {what}, `process`",
            (*by_default, *ours),
            partial(store, kind="s3", size=size, up=True, link=link),
            bytes=size,
        )
    yield from _both_ways("azure", "Azurite, without a checksum for each block", stores.AZURE, size // 4)
    yield Race(
        "azure-up-checked",
        "one object up to Azurite, with an MD5 for each block, 4 at once, `process`",
        tuple(Entry(each, {"checked": True}) for each in stores.AZURE),
        partial(store, kind="azure", size=size // 4, up=True),
        bytes=size // 4,
    )
    yield from _both_ways("oss", "the stand-in for Aliyun OSS", stores.OSS, size // 4)


def _both_ways(kind: str, server: str, clients: tuple[Client, ...], size: int) -> Iterator[Race]:
    for way, up in (("up", True), ("down", False)):
        course: Callable[[Scratch], AbstractContextManager[Course]]
        course = partial(store, kind=kind, size=size, up=up)
        yield Race(
            f"{kind}-{way}",
            f"one object {way}, 8 MiB parts, 4 at once, {'to' if up else 'from'} {server}, `process`",
            tuple(Entry(each) for each in clients),
            course,
            bytes=size,
        )
