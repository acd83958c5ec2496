"""Bandwidth limits, kept by real sockets: how far a transfer of so many seconds is off the figure.

    python tests/bench/bench_limits.py [--rate BYTES]... [--seconds N] [--direction download|upload]...
                                       [--kind engine|host|task]... [--rounds N] [--json]

Downloads come from nginx (or Caddy, where there is none), and uploads go to a server that discards what
comes, as presigned PUTs of 8 MiB. `engine` and `host` are one limit over two transfers at once, `task` one of
each. There are as many bytes as the limit allows in `--seconds`; what is timed is from the submission to the
end of the last transfer, so that what begins and ends one is part of it. All files are in memory.
"""

import argparse
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

import anyio

import meowcat
from meowcat.core.plans import PlanPart, UploadPlan
from meowcat.testing.servers import Caddy, Nginx

MIB = 1 << 20
PART = 8 * MIB
MEMORY = Path("/dev/shm")
RATES = (1_000_000, 500_000_000)
FILES = 2


# A server that takes uploads and keeps nothing


def discard(listener: socket.socket) -> None:
    while True:
        taken, _ = listener.accept()
        threading.Thread(target=discard_all, args=(taken,), daemon=True).start()


def discard_all(taken: socket.socket) -> None:
    """Answer 200 to each request of a connection, once its body has come."""
    dropped = socket.MSG_TRUNC if sys.platform == "linux" else 0
    head = b""
    with taken:
        while chunk := taken.recv(65536):
            head += chunk
            while (end := head.find(b"\r\n\r\n")) >= 0:
                fields = dict(line.lower().split(b": ", 1) for line in head[:end].split(b"\r\n")[1:])
                left = int(fields.get(b"content-length", b"0")) - (len(head) - end - 4)
                head = b"" if left >= 0 else head[left:]
                while left > 0:
                    count = (
                        len(chunk) if isinstance(chunk := taken.recv(min(left, MIB), dropped), bytes) else 0
                    )
                    left -= count
                taken.sendall(b'HTTP/1.1 200 OK\r\nETag: "x"\r\nContent-Length: 0\r\n\r\n')


def serve() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        print(listener.getsockname()[1], flush=True)
        discard(listener)


# What is measured


def config(kind: str, rate: int) -> meowcat.Config:
    limits = {"engine": {"limit_rate": rate}, "host": {"limit_rate_per_host": rate}, "task": {}}[kind]
    return meowcat.Config(durability="process", control=False, **limits)


def downloads(origin: str, folder: Path, size: int, own: dict[str, int]) -> list[meowcat.Download]:
    return [meowcat.Download(f"{origin}/{size}", str(folder / f"{number}"), **own) for number in range(FILES)]


def uploads(origin: str, source: Path, size: int, own: dict[str, int]) -> list[meowcat.Upload]:
    parts = [
        PlanPart(number, at, min(PART, size - at), f"{origin}/x?partNumber={number}")
        for number, at in enumerate(range(0, size, PART), 1)
    ]
    plan = UploadPlan(total_size=size, chunk_size=PART, parts=tuple(parts))
    protocol = meowcat.PresignedUpload(plan=plan)
    return [meowcat.Upload(str(source), "", protocol, key=f"{number}", **own) for number in range(FILES)]


async def once(
    direction: str, kind: str, rate: int, origin: str, source: Path, folder: Path
) -> dict[str, float]:
    size = int(source.name)
    own = {"limit_rate": rate // FILES} if kind == "task" else {}
    if direction == "download":
        requests = downloads(origin, folder, size, own)
    else:
        requests = uploads(origin, source, size, own)
    async with meowcat.Engine(folder / "journal.db", config=config(kind, rate)) as engine:
        began, cpu = time.perf_counter(), time.process_time()
        await engine.submit_many(requests)
        await engine.drain()
        took, used = time.perf_counter() - began, time.process_time() - cpu
        states = (await engine.snapshot()).states
        if states:
            raise SystemExit(f"not all of it has ended: {states}")
    reached = FILES * size / took
    return {"rate": reached, "off_percent": 100 * (reached / rate - 1), "cpu_s": used}


def measure(
    direction: str, kind: str, rate: int, seconds: float, origin: str, served: Path
) -> dict[str, float]:
    source = served / str(int(rate * seconds) // FILES)
    if not source.exists():
        with source.open("wb") as file:
            file.truncate(int(source.name))
        time.sleep(3)  # as old as what is uploaded usually: a younger one is read again before the commit
    folder = Path(tempfile.mkdtemp(prefix="limits-", dir=MEMORY if MEMORY.is_dir() else None))
    try:
        return anyio.run(once, direction, kind, rate, origin, source, folder)
    finally:
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=int, action="append", help="bytes a second")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--direction", choices=["download", "upload"], action="append")
    parser.add_argument("--kind", choices=["engine", "host", "task"], action="append")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    served = Path(tempfile.mkdtemp(prefix="limits-", dir=MEMORY if MEMORY.is_dir() else None))
    program = (Nginx if shutil.which("nginx") else Caddy)(served)
    sink = subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True)
    try:
        with program:
            assert sink.stdout is not None
            origins = {
                "download": program.origin,
                "upload": f"http://127.0.0.1:{sink.stdout.readline().strip()}",
            }
            for rate in options.rate or RATES:
                for direction in options.direction or ["download", "upload"]:
                    for kind in options.kind or ["engine", "host", "task"]:
                        runs = [
                            measure(direction, kind, rate, options.seconds, origins[direction], served)
                            for _ in range(options.rounds)
                        ]
                        report(options, {"rate": rate, "direction": direction, "kind": kind}, runs)
    finally:
        sink.kill()
        sink.wait()
        shutil.rmtree(served)


def report(options: argparse.Namespace, of: dict[str, object], runs: list[dict[str, float]]) -> None:
    offs = sorted(run["off_percent"] for run in runs)
    if options.json:
        print(json.dumps({**of, "runs": runs}), flush=True)
        return
    print(
        f"{of['rate']:>13,} B/s {of['direction']:8} {of['kind']:6} off by {median(offs):+.2f} % "
        f"({offs[0]:+.2f} to {offs[-1]:+.2f}), CPU {median(run['cpu_s'] for run in runs):.2f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
