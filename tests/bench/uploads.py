"""Clients that send one file to a server that drops it: `job` has `file`, `origin`, `size`, `connections`."""

import asyncio
import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from functools import partial
from mmap import mmap
from pathlib import Path

from .races import MIB, Client, Job
from .scripts import Clock, in_threads

PART = 8 * MIB
READ = 2 * MIB


def _parts(job: Job) -> Iterator[tuple[int, int]]:
    """Begin and end of each part, shared by all connections of a script."""
    return iter([(at, min(at + PART, job["size"])) for at in range(0, job["size"], PART)])


def _url(job: Job, at: int) -> str:
    return f"{job['origin']}/object?partNumber={at // PART + 1}"


async def _put_all(job: Job, put) -> None:
    """Call `put(url, data)` for each part, several at once, reading as such scripts do."""
    parts = _parts(job)

    async def connection() -> None:
        for at, end in parts:
            with Path(job["file"]).open("rb") as source:
                source.seek(at)
                data = source.read(end - at)
            await put(_url(job, at), data)

    async with asyncio.TaskGroup() as group:
        for _ in range(job["connections"]):
            group.create_task(connection())


# Parts as presigned PUTs


def meowcat_put(job: Job, clock: Clock) -> None:
    import anyio

    import meowcat
    from meowcat.core.plans import PlanPart, UploadPlan

    parts = [PlanPart(number, at, end - at, _url(job, at)) for number, (at, end) in enumerate(_parts(job), 1)]
    plan = UploadPlan(total_size=job["size"], chunk_size=PART, parts=tuple(parts))

    async def upload() -> None:
        config = meowcat.Config(durability=job["durability"], control=False)
        protocol = meowcat.PresignedUpload(plan=plan)
        async with meowcat.Engine(job["journal"], config=config) as engine:
            with clock:
                await engine.upload(job["file"], "", protocol=protocol, connections=job["connections"])

    anyio.run(upload)


def put_by_httpx(job: Job, clock: Clock) -> None:
    import httpx

    async def run() -> None:
        async with httpx.AsyncClient(timeout=60) as client:

            async def put(url: str, data: bytes) -> None:
                (await client.put(url, content=data)).raise_for_status()

            with clock:
                await _put_all(job, put)

    asyncio.run(run())


def put_by_aiohttp(job: Job, clock: Clock) -> None:
    import aiohttp

    async def run() -> None:
        async with aiohttp.ClientSession() as client:

            async def put(url: str, data: bytes) -> None:
                async with client.put(url, data=data) as reply:
                    reply.raise_for_status()

            with clock:
                await _put_all(job, put)

    asyncio.run(run())


def put_by_pyreqwest(job: Job, clock: Clock) -> None:
    from pyreqwest.client import ClientBuilder

    async def run() -> None:
        async with ClientBuilder().build() as client:

            async def put(url: str, data: bytes) -> None:
                assert (await client.put(url).body_bytes(data).build().send()).status == 200

            with clock:
                await _put_all(job, put)

    asyncio.run(run())


def put_floor(job: Job, clock: Clock) -> None:
    """Threads that read into memory and send from it; `blake3` says whether they hash as well."""
    import blake3  # not in the memory of the others

    parts, lock = _parts(job), threading.Lock()

    def connection(file: int) -> None:
        room = memoryview(mmap(-1, READ))
        with socket.create_connection(("127.0.0.1", job["port"])) as peer:
            while True:
                with lock:
                    at, end = next(parts, (0, 0))
                if not end:
                    return
                where = _url(job, at).removeprefix(job["origin"])
                peer.sendall(
                    f"PUT {where} HTTP/1.1\r\nHost: x\r\nContent-Length: {end - at}\r\n\r\n".encode()
                )
                digest = blake3.blake3()
                while at < end:
                    count = os.preadv(file, [room[: end - at]], at)
                    if job.get("blake3"):
                        digest.update(room[:count])
                    peer.sendall(room[:count])
                    at += count
                head = b""
                while b"\r\n\r\n" not in head:
                    head += peer.recv(65536)
                assert head.startswith(b"HTTP/1.1 200 "), head

    with clock, Path(job["file"]).open("rb", buffering=0) as file:
        in_threads(job["connections"], partial(connection, file.fileno()))


def _curl(job: Job) -> list[str]:
    return ["-sS", "--fail", "-o", "/dev/null", "-T", job["file"], _url(job, 0)]


# Chunks of a form, one after the other, each with the MD5 of the whole


def meowcat_form(job: Job, clock: Clock) -> None:
    import anyio

    import meowcat

    async def upload() -> None:
        config = meowcat.Config(durability=job["durability"], control=False)
        async with meowcat.Engine(job["journal"], config=config) as engine:
            with clock:
                await engine.upload(
                    job["file"], job["origin"], protocol=meowcat.FormUpload(), piece_size=PART
                )

    anyio.run(upload)


def meowcat_form_again(job: Job, clock: Clock) -> None:
    """An engine that was closed in the middle has the MD5 in its journal; the opening is in the clock."""
    import anyio

    import meowcat
    from meowcat.core.events import SourcePinned

    config = meowcat.Config(durability=job["durability"], control=False)
    request = meowcat.Upload(job["file"], job["origin"], meowcat.FormUpload(), piece_size=PART)

    async def upload() -> None:
        async with meowcat.Engine(job["journal"], config=config) as engine:
            task = await engine.submit(request)
            async for logged in engine.events(after=0):
                if isinstance(logged.event, SourcePinned):
                    break
        with clock:
            engine = await meowcat.Engine(job["journal"], config=config).open()
            await (await engine.task(task.id)).result()
        pinned = [each async for each in engine.history(task.id) if isinstance(each.event, SourcePinned)]
        assert len(pinned) == 1, "it was hashed again"
        await engine.close()

    anyio.run(upload)


def _md5_of(file: str) -> str:
    md5, room = hashlib.md5(usedforsecurity=False), memoryview(bytearray(READ))
    with Path(file).open("rb", buffering=0) as source:
        while count := source.readinto(room):
            md5.update(room[:count])
    return md5.hexdigest()


def _chunks(job: Job) -> Iterator[tuple[dict[str, str], bytes]]:
    """The fields and the bytes of each chunk, with the MD5 if the job says so."""
    md5 = _md5_of(job["file"]) if job["hashed"] else "0" * 32
    named = {"fileMd5": md5, "fileName": Path(job["file"]).name, "category": ""}
    with Path(job["file"]).open("rb") as source:
        for at, end in _parts(job):
            texts = {"offset": str(at), "partSize": str(end - at), "totalSize": str(job["size"])}
            yield named | texts, source.read(end - at)


def form_by_pyreqwest(job: Job, clock: Clock) -> None:
    """With the body made by hand: the client's own form would copy the bytes."""
    from pyreqwest.client import ClientBuilder

    field = b'--boundary\r\nContent-Disposition: form-data; name="%b"'
    head = (
        field % b'file"; filename="upload_chunk_data' + b"\r\nContent-Type: application/octet-stream\r\n\r\n"
    )
    kind = "multipart/form-data; boundary=boundary"

    async def run() -> None:
        async with ClientBuilder().build() as client:
            with clock:
                for fields, data in _chunks(job):
                    texts = b"".join(
                        b"\r\n%b\r\n\r\n%b" % (field % name.encode(), value.encode())
                        for name, value in fields.items()
                    )
                    body = b"".join([head, data, texts, b"\r\n--boundary--\r\n"])
                    request = client.post(job["origin"]).header("Content-Type", kind).body_bytes(body)
                    assert (await request.build().send()).status == 200

    asyncio.run(run())


def form_by_httpx(job: Job, clock: Clock) -> None:
    import httpx

    async def run() -> None:
        async with httpx.AsyncClient(timeout=60) as client:
            with clock:
                for fields, data in _chunks(job):
                    part = {"file": ("upload_chunk_data", data, "application/octet-stream")}
                    (await client.post(job["origin"], data=fields, files=part)).raise_for_status()

    asyncio.run(run())


PUT = (
    Client("meowcat", script="uploads:meowcat_put"),
    Client("curl, one PUT", "curl", _curl),
    Client("httpx (a script)", script="uploads:put_by_httpx", needs=("httpx",)),
    Client("aiohttp (a script)", script="uploads:put_by_aiohttp", needs=("aiohttp",)),
    Client("pyreqwest (a script)", script="uploads:put_by_pyreqwest", needs=("pyreqwest",)),
)
PUT_FLOOR = Client("the floor", script="uploads:put_floor")
FORM = Client("meowcat", script="uploads:meowcat_form")
FORM_AGAIN = Client("meowcat", script="uploads:meowcat_form_again")
FORM_PYREQWEST = Client("pyreqwest", script="uploads:form_by_pyreqwest", needs=("pyreqwest",))
FORM_HTTPX = Client("httpx", script="uploads:form_by_httpx", needs=("httpx",))
