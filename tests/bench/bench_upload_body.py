"""A file as 8 MiB PUTs, several at once, to a server that discards them: what reading and hashing cost.

    python tests/bench/bench_upload_body.py [--size BYTES] [--rounds N] [--connections N] [--part BYTES]
                                            [--checksum ALGORITHM] [--folder FOLDER]

`meowcat` reads its parts through `SourcePart` (hashed with BLAKE3, within a budget) and sends them by its
default transport; `pyreqwest` and `httpx` are plain scripts that read a part into memory and put it, and hash
nothing. The file is in memory (/dev/shm) unless `--folder` says otherwise. Each run is a process of its own,
the server is another. Runs alternate, so that a noisy machine hurts all alike; medians are printed, and the
ratios pair by pair.
"""

import argparse
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

import anyio
import httpx
from pyreqwest.client import ClientBuilder

from meowcat.runtime.limits import Budget, Throttle
from meowcat.transfer.disk import OsDisk
from meowcat.transfer.source_parts import SourceReader
from meowcat.transfer.sources import open_file
from meowcat.transfer.workers import Workers
from meowcat.transport.contract import HttpRequest
from meowcat.transport.reqwest import ReqwestTransport

MEMORY = Path("/dev/shm")


def discard(connection):
    """Answer each request on a connection once its body was received."""
    buffer = bytearray(1 << 20)
    head = b""
    with connection:
        while data := connection.recv(65536):
            head += data
            fields, found, body = head.partition(b"\r\n\r\n")
            if not found:
                continue
            (length,) = (
                int(line.split(b":")[1])
                for line in fields.lower().split(b"\r\n")
                if line.startswith(b"content-length:")
            )
            left = length - len(body)
            while left:
                left -= connection.recv_into(buffer, min(left, len(buffer)))
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            head = b""


def serve():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=discard, args=(connection,), daemon=True).start()


async def in_parts(options, put):
    """Call `put(index, begin, stop)` for each part, `options.connections` at once."""
    begins = iter(range(0, options.size, options.part))

    async def connection():
        for begin in begins:
            await put(begin // options.part, begin, min(begin + options.part, options.size))

    async with anyio.create_task_group() as group:
        for _ in range(options.connections):
            group.start_soon(connection)


async def meowcat_run(options):
    source = await open_file(OsDisk(), Workers(), options.file)
    transport = ReqwestTransport()

    async def put(index, begin, stop):
        with reader.part(index, begin, stop) as part:
            if options.checksum:
                await part.checksum(options.checksum)
            request = HttpRequest("PUT", options.url, {}, part.body, part.size)
            async with transport.send(request) as reply:
                assert reply.status == 200
                await reply.read(1)
            assert part.digest is not None

    async with anyio.create_task_group() as group:
        pinned = await source.identity()
        reader = SourceReader(source, pinned, group, Budget(64, 64 << 20), Throttle())
        await in_parts(options, put)
    await transport.aclose()
    await source.close()


def part_of(options, begin, stop):
    with Path(options.file).open("rb") as file:
        file.seek(begin)
        return file.read(stop - begin)


async def pyreqwest_run(options):
    async with ClientBuilder().build() as client:

        async def put(_, begin, stop):
            request = client.put(options.url).body_bytes(part_of(options, begin, stop)).build()
            assert (await request.send()).status == 200

        await in_parts(options, put)


async def httpx_run(options):
    async with httpx.AsyncClient() as client:

        async def put(_, begin, stop):
            assert (await client.put(options.url, content=part_of(options, begin, stop))).status_code == 200

        await in_parts(options, put)


RUNS = {"meowcat": meowcat_run, "pyreqwest": pyreqwest_run, "httpx": httpx_run}


def child(options):
    began, cpu = time.perf_counter(), time.process_time()
    anyio.run(RUNS[options.child], options)
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - began,
                "cpu_s": time.process_time() - cpu,
                "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        ),
        flush=True,
    )
    os._exit(0)  # threads of pyreqwest's that still let go of a body abort a process that ends at that moment


def run(name, options):
    command = [sys.executable, __file__, "--child", name, "--file", options.file, "--url", options.url]
    command += ["--size", str(options.size), "--part", str(options.part)]
    command += ["--connections", str(options.connections)]
    command += ["--checksum", options.checksum] if options.checksum else []
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def compare(folder, options):
    options.file = str(folder / "source")
    with Path(options.file).open("wb") as file:
        file.writelines(os.urandom(1 << 20) for _ in range(options.size >> 20))
    results = {name: [] for name in RUNS}
    with subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True) as server:
        options.url = f"http://127.0.0.1:{server.stdout.readline().strip()}/object"
        try:
            for _ in range(options.rounds):
                for name in RUNS:
                    results[name].append(run(name, options))
        finally:
            server.terminate()
    report(results, options.size)


def report(results, size):
    for name, runs in results.items():
        figures = {key: median(each[key] for each in runs) for key in runs[0]}
        print(f"{name:10} {size / figures['seconds'] / 1e9:5.2f} GB/s ", end="")
        print("  ".join(f"{key} {value:.3g}" for key, value in figures.items()))
    for name in ("pyreqwest", "httpx"):
        pairs = zip(results["meowcat"], results[name], strict=True)
        ratios = [theirs["seconds"] / ours["seconds"] for ours, theirs in pairs]
        print(f"speed of {name}'s: median {median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=1 << 30, help="a multiple of 1 MiB")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--part", type=int, default=8 << 20)
    parser.add_argument("--checksum")
    parser.add_argument("--folder", type=Path, default=MEMORY if MEMORY.is_dir() else None)
    parser.add_argument("--child", choices=RUNS)
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--file")
    parser.add_argument("--url")
    options = parser.parse_args()
    if options.serve:
        serve()
    elif options.child:
        child(options)
    else:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            compare(Path(folder), options)


if __name__ == "__main__":
    main()
