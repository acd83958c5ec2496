"""One large form upload through the whole engine, against what it can't do without.

    python tests/bench/bench_form_upload.py [--size BYTES] [--rounds N]

`first`: the MD5 of the content is part of every request, so that nothing can overlap with it: the floor is
the MD5 and then the chunks, by a plain script on pyreqwest or httpx. `again`: the MD5 is in the journal of an
engine that was closed in the middle; the floor is the chunks alone.

The server reads what comes, discards it, and answers with an empty body, so that every upload sends all of
its chunks. Source and journal are in memory-backed files. Each upload is a process of its own; runs take
turns. Medians are printed, and the ratios of each round. Seconds are those of the transfer, without the start
of the process; of `again` they include the opening of the journal.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import anyio
import httpx
from pyreqwest.client import ClientBuilder

sys.path.insert(0, str(Path(__file__).parent))
from bench_uploads import MEMORY, Discarding, figures, make_source

import meowcat
from meowcat.core.events import SourcePinned

MIB = 1 << 20
PART = 8 * MIB
READ = 2 * MIB
CONFIG = meowcat.Config(durability="process", control=False)

FLOORS = {
    "first": ["md5 + pyreqwest", "md5 + httpx"],
    "again": ["pyreqwest", "httpx"],
}


async def first_by_meowcat(file, url, journal):
    async with meowcat.Engine(journal, config=CONFIG) as engine:
        began, cpu = time.perf_counter(), time.process_time()
        await engine.upload(file, url, protocol=meowcat.FormUpload(), piece_size=PART)
        return figures(began, cpu)


async def again_by_meowcat(file, url, journal):
    request = meowcat.Upload(file, url, meowcat.FormUpload(), piece_size=PART)
    async with meowcat.Engine(journal, config=CONFIG) as engine:
        task = await engine.submit(request)
        async for logged in engine.events(after=0):
            if isinstance(logged.event, SourcePinned):
                break
    began, cpu = time.perf_counter(), time.process_time()
    async with meowcat.Engine(journal, config=CONFIG) as engine:
        task = await engine.task(task.id)
        await task.result()
        spent = figures(began, cpu)
        pinned = [each async for each in task.history() if isinstance(each.event, SourcePinned)]
    assert len(pinned) == 1, "it was hashed again"
    return spent


def md5_of(file):
    md5, room = hashlib.md5(usedforsecurity=False), memoryview(bytearray(READ))
    with Path(file).open("rb", buffering=0) as source:
        while count := source.readinto(room):
            md5.update(room[:count])
    return md5.hexdigest()


def chunks(file, md5) -> Iterator[tuple[dict[str, str], bytes]]:
    """The fields and the bytes of each chunk."""
    size = Path(file).stat().st_size
    named = {"fileMd5": md5, "fileName": Path(file).name, "category": ""}
    with Path(file).open("rb") as source:
        for at in range(0, size, PART):
            data = source.read(PART)
            yield named | {"offset": str(at), "partSize": str(len(data)), "totalSize": str(size)}, data


async def by_pyreqwest(file, url, *, hashed):
    """With the body made by hand: the client's own form would copy the bytes."""
    began, cpu = time.perf_counter(), time.process_time()
    md5 = md5_of(file) if hashed else "0" * 32
    field = b'--boundary\r\nContent-Disposition: form-data; name="%b"'
    head = (
        field % b'file"; filename="upload_chunk_data' + b"\r\nContent-Type: application/octet-stream\r\n\r\n"
    )
    async with ClientBuilder().build() as client:
        for fields, data in chunks(file, md5):
            texts = b"".join(
                b"\r\n%b\r\n\r\n%b" % (field % name.encode(), value.encode())
                for name, value in fields.items()
            )
            body = b"".join([head, data, texts, b"\r\n--boundary--\r\n"])
            kind = "multipart/form-data; boundary=boundary"
            reply = await client.post(url).header("Content-Type", kind).body_bytes(body).build().send()
            assert reply.status == 200
    return figures(began, cpu)


async def by_httpx(file, url, *, hashed):
    began, cpu = time.perf_counter(), time.process_time()
    md5 = md5_of(file) if hashed else "0" * 32
    async with httpx.AsyncClient(timeout=60) as client:
        for fields, data in chunks(file, md5):
            part = {"file": ("upload_chunk_data", data, "application/octet-stream")}
            (await client.post(url, data=fields, files=part)).raise_for_status()
    return figures(began, cpu)


def run(name, file, url, journal):
    if name == "first":
        return anyio.run(first_by_meowcat, file, url, journal)
    if name == "again":
        return anyio.run(again_by_meowcat, file, url, journal)
    hashed, client = name.startswith("md5"), name.split()[-1]
    script = by_httpx if client == "httpx" else by_pyreqwest
    return anyio.run(lambda: script(file, url, hashed=hashed))


def apart(name, file, url, journal):
    command = [sys.executable, __file__, "--child", name, str(file), url, str(journal)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=1 << 30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(run(*options.child)))
        return
    names = [*FLOORS, *(floor for floors in FLOORS.values() for floor in floors)]
    results = {name: [] for name in names}
    with (
        tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder,
        Discarding() as origin,
    ):
        file = Path(folder) / "source.bin"
        make_source(file, options.size)
        for number in range(options.rounds):
            for name, runs in results.items():
                journal = Path(folder) / f"{number}-{name.replace(' ', '')}.db"
                runs.append(apart(name, file, f"{origin}/upload", journal))
    for name, runs in results.items():
        shown = "  ".join(f"{key} {median(each[key] for each in runs):.3g}" for key in runs[0])
        print(f"{name:16} {shown}")
    for name, floors in FLOORS.items():
        for floor in floors:
            pairs = zip(results[name], results[floor], strict=True)
            ratios = [mine["seconds"] / theirs["seconds"] for mine, theirs in pairs]
            print(f"{name} / {floor}: median {median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    main()
