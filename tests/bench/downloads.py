"""Clients that bring one file: `job` has `url`, `origin`, `name`, `to`, `size`, `connections` (None: as they
come) and, over TLS, `ca`."""

import asyncio
import os
import socket
import ssl
import threading
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from .races import MIB, Client, Job
from .scripts import Clock, in_threads

RANGE = 8 * MIB
"""Bytes that a plain script asks for at once."""
BLOCK = MIB
TICK = 0.001


# Programs


def _curl(job: Job) -> list[str]:
    ca = ["--cacert", job["ca"]] if job.get("ca") else []
    return ["-sS", "--fail", *ca, "-o", job["to"], job["url"]]


def _aria2c(job: Job) -> list[str]:
    to = Path(job["to"])
    command = ["-q", "--no-conf", "-d", str(to.parent), "-o", to.name]
    if count := job["connections"]:
        command += ["-x", str(min(count, 16)), "-s", str(count), "-k", "1M", "--file-allocation=none"]
    if job.get("ca"):
        command += ["--ca-certificate", job["ca"]]
    return [*command, job["url"]]


def _wget2(job: Job) -> list[str]:
    command = ["-q", "--no-config", "-O", job["to"]]
    if (count := job["connections"] or 1) > 1:
        command += [f"--chunk-size={job['size'] // count + 1}", f"--max-threads={count}"]
    if job.get("ca"):
        command += [f"--ca-certificate={job['ca']}"]
    return [*command, job["url"]]


def _axel(job: Job) -> list[str]:
    count = ["-n", str(job["connections"])] if job["connections"] else []
    insecure = ["--insecure"] if job.get("ca") else []  # it takes no authority of one's own
    return ["-q", *count, *insecure, "-o", job["to"], job["url"]]


def _rclone(job: Job) -> list[str]:
    command = [
        "copyto",
        f":http:{job['name']}",
        job["to"],
        "--http-url",
        job["origin"],
        "--config",
        "/dev/null",
    ]
    if count := job["connections"]:
        command += ["--multi-thread-streams", str(count), "--multi-thread-cutoff", "1M"]
    if job.get("ca"):
        command += ["--ca-cert", job["ca"]]
    return command


# meowcat


def by_meowcat(job: Job, clock: Clock) -> None:
    import anyio  # not in the memory of the others

    import meowcat  # as above

    gaps: list[float] = []

    async def watch_loop() -> None:
        """How much longer than `TICK` the loop took to come back, over and over."""
        while True:
            before = anyio.current_time()
            await anyio.sleep(TICK)
            gaps.append(anyio.current_time() - before - TICK)

    async def download() -> None:
        config = meowcat.Config(
            durability=job["durability"], control=False, ca_bundle=job.get("ca"), **job.get("config", {})
        )
        options = {"connections": job["connections"]} if job["connections"] else {}
        async with (
            meowcat.Engine(job["journal"], config=config) as engine,
            anyio.create_task_group() as group,
        ):
            if job.get("stalls"):
                group.start_soon(watch_loop)
                await anyio.sleep(0.02)
            with clock:
                await engine.download(job["url"], job["to"], **options, **job.get("options", {}))
            group.cancel_scope.cancel()

    anyio.run(download, backend_options={"use_uvloop": job.get("uvloop", False)})
    if gaps:
        gaps.sort()
        late = gaps[int(len(gaps) * 0.999)]
        clock.figures |= {"stall_p999_ms": late * 1000, "stall_worst_ms": gaps[-1] * 1000}
    clock.figures["journal_mb"] = sum(each.stat().st_size for each in _files_of(job["journal"])) / 1e6


def _files_of(journal: str) -> list[Path]:
    path = Path(journal)
    return [each for each in path.parent.glob(f"{path.name}*") if each.is_file()]


# Plain scripts


def _ranges(job: Job):
    """Begin and end of each range, shared by all connections of a script."""
    return iter([(at, min(at + RANGE, job["size"])) for at in range(0, job["size"], RANGE)])


def _context(job: Job) -> ssl.SSLContext | None:
    return ssl.create_default_context(cafile=job["ca"]) if job.get("ca") else None


async def _together(count: int, work) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(work())


def by_httpx(job: Job, clock: Clock) -> None:
    import httpx  # not in the memory of the others

    async def run() -> None:
        ranges, verify = _ranges(job), _context(job)
        async with httpx.AsyncClient(timeout=60, verify=verify or True) as client:
            with clock, Path(job["to"]).open("wb") as file:

                async def connection() -> None:
                    for begin, end in ranges:
                        at = begin
                        asked = {"Range": f"bytes={begin}-{end - 1}"}
                        async with client.stream("GET", job["url"], headers=asked) as reply:
                            reply.raise_for_status()
                            async for chunk in reply.aiter_raw():
                                at += os.pwrite(file.fileno(), chunk, at)

                await _together(job["connections"], connection)

    asyncio.run(run())


def by_aiohttp(job: Job, clock: Clock) -> None:
    import aiohttp  # not in the memory of the others

    async def run() -> None:
        ranges, verify = _ranges(job), _context(job)
        async with aiohttp.ClientSession() as client:
            with clock, Path(job["to"]).open("wb") as file:

                async def connection() -> None:
                    for begin, end in ranges:
                        at = begin
                        asked = {"Range": f"bytes={begin}-{end - 1}"}
                        async with client.get(job["url"], headers=asked, ssl=verify or True) as reply:
                            reply.raise_for_status()
                            async for chunk in reply.content.iter_chunked(BLOCK):
                                at += os.pwrite(file.fileno(), chunk, at)

                await _together(job["connections"], connection)

    asyncio.run(run())


def by_pyreqwest(job: Job, clock: Clock) -> None:
    from pyreqwest.client import ClientBuilder  # not in the memory of the others

    async def run() -> None:
        ranges, builder = _ranges(job), ClientBuilder()
        if job.get("ca"):
            builder = builder.add_root_certificate_pem(Path(job["ca"]).read_bytes())
        async with builder.build() as client:
            with clock, Path(job["to"]).open("wb") as file:

                async def connection() -> None:
                    for begin, end in ranges:
                        at = begin
                        asked = client.get(job["url"]).header("Range", f"bytes={begin}-{end - 1}")
                        async with asked.build_streamed() as reply:
                            assert reply.status == 206
                            while chunk := await reply.body_reader.read(BLOCK):
                                at += os.pwrite(file.fileno(), chunk, at)

                await _together(job["connections"], connection)

    asyncio.run(run())


def by_obstore(job: Job, clock: Clock) -> None:
    import obstore  # not in the memory of the others
    from obstore.store import HTTPStore  # as above

    async def run() -> None:
        ranges = _ranges(job)
        store = HTTPStore.from_url(job["origin"], client_options={"allow_http": True})
        with clock, Path(job["to"]).open("wb") as file:

            async def connection() -> None:
                for at, end in ranges:
                    chunk = await obstore.get_range_async(store, job["name"], start=at, end=end)
                    os.pwrite(file.fileno(), chunk, at)

            await _together(job["connections"], connection)

    asyncio.run(run())


def by_pypdl(job: Job, clock: Clock) -> None:
    from pypdl import Pypdl  # not in the memory of the others

    count = {"segments": job["connections"]} if job["connections"] else {}
    secure = {"ssl": _context(job)} if job.get("ca") else {}
    with clock:
        done = Pypdl().start(job["url"], file_path=job["to"], display=False, **count, **secure)
    assert done, "pypdl brought nothing"


# The floor


def floor(job: Job, clock: Clock) -> None:
    """Threads that receive into memory and write from it; `blake3` says whether they hash as well."""
    import blake3  # not in the memory of the others

    ranges, lock = _ranges(job), threading.Lock()
    at_server = urlsplit(job["url"])

    def connection(file: int) -> None:
        room = memoryview(bytearray(BLOCK))
        with socket.create_connection((at_server.hostname, at_server.port)) as peer:
            while True:
                with lock:
                    at, end = next(ranges, (0, 0))
                if not end:
                    return
                ask = f"GET {at_server.path} HTTP/1.1\r\nHost: x\r\nRange: bytes={at}-{end - 1}\r\n\r\n"
                peer.sendall(ask.encode())
                head = b""
                while b"\r\n\r\n" not in head:
                    head += peer.recv(65536)
                body = head.partition(b"\r\n\r\n")[2]
                room[: len(body)] = body
                have, digest = len(body), blake3.blake3()
                while at < end:
                    while have < min(BLOCK, end - at):
                        have += peer.recv_into(room[have : min(BLOCK, end - at)])
                    if job.get("blake3"):
                        digest.update(room[:have])
                    os.pwrite(file, room[:have], at)
                    at, have = at + have, 0

    with clock, Path(job["to"]).open("wb") as file:
        in_threads(job["connections"], partial(connection, file.fileno()))


def written(job: Job, clock: Clock) -> None:
    """What the place of the target itself takes: the same bytes, from memory, by one thread."""
    with Path(job["source"]).open("rb", buffering=0) as source, clock, Path(job["to"]).open("wb") as file:
        while os.sendfile(file.fileno(), source.fileno(), None, 8 * MIB):
            pass


MEOWCAT = Client("meowcat", script="downloads:by_meowcat", durable=True)
CURL = Client("curl", "curl", _curl)
ARIA2 = Client("aria2c", "aria2c", _aria2c)
WGET2 = Client("wget2", "wget2", _wget2)
AXEL = Client("axel", "axel", _axel)
RCLONE = Client("rclone", "rclone", _rclone)
HTTPX = Client("httpx (a script)", script="downloads:by_httpx", needs=("httpx",))
AIOHTTP = Client("aiohttp (a script)", script="downloads:by_aiohttp", needs=("aiohttp",))
PYREQWEST = Client("pyreqwest (a script)", script="downloads:by_pyreqwest", needs=("pyreqwest",))
OBSTORE = Client("obstore (a script)", script="downloads:by_obstore", needs=("obstore",))
PYPDL = Client("pypdl", script="downloads:by_pypdl", needs=("pypdl",))
FLOOR = Client("the floor", script="downloads:floor")
FLOOR_HASHED = Client("the floor with BLAKE3", script="downloads:floor")
DISK = Client("writing alone", script="downloads:written")
