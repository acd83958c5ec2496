"""1 GiB over 4 connections from nginx, memory-backed on both sides, against curl in the same run.

    python tests/bench/bench_fetch.py [--size BYTES] [--rounds N] [--connections N] [--folder FOLDER]

Prints medians, the peak RSS of a process of its own for each download, and the p99.9 of the event loop's
stalls. Runs alternate, so that a noisy machine hurts both alike.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import anyio

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from fetch_harness import Drive, world_of

from meowcat.core.machine import State
from meowcat.core.pieces import DEFAULT_PIECE
from meowcat.testing.servers import Nginx

TICK = 0.001


async def watch_loop(gaps):
    """How much longer than `TICK` the loop took to come back, over and over."""
    while True:
        before = time.perf_counter()
        await anyio.sleep(TICK)
        gaps.append(time.perf_counter() - before - TICK)


async def one_download(url, to, connections):
    gaps = []
    settings = {"flush_bytes": 64 << 20, "flush_seconds": 0.25, "memory": 512 << 20}
    async with world_of("asyncio", **settings) as world, anyio.create_task_group() as group:
        group.start_soon(watch_loop, gaps)
        drive = Drive(world, url, to, connections=connections, piece_size=DEFAULT_PIECE)
        began, cpu = time.perf_counter(), time.process_time()
        task = await drive.run()
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
        group.cancel_scope.cancel()
    assert task.state is State.COMPLETE, task.fault
    gaps.sort()
    return {
        "seconds": took,
        "cpu": cpu,
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "stall_ms": gaps[int(len(gaps) * 0.999)] * 1000,
        "worst_ms": gaps[-1] * 1000,
        "events": len(drive.events),
    }


def ours(url, to, connections):
    """In a process of its own, so that its memory is its own."""
    command = [sys.executable, __file__, "--child", url, str(to), "--connections", str(connections)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def curl(url, to):
    began = time.perf_counter()
    subprocess.run(["curl", "-sS", "-o", str(to), url], check=True)
    return {"seconds": time.perf_counter() - began}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1 << 30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--folder", default="/dev/shm" if os.path.isdir("/dev/shm") else None)  # noqa: PTH112  # a literal
    parser.add_argument("--child", nargs=2, metavar=("URL", "TO"))
    options = parser.parse_args()
    if options.child:
        print(json.dumps(anyio.run(one_download, *options.child, options.connections)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        compare(Path(folder), options)


def compare(folder, options):
    served = folder / "served"
    served.mkdir()
    with (served / "big.bin").open("wb") as file:
        for _ in range(0, options.size, 1 << 20):
            file.write(os.urandom(1 << 20))
    results = {"meowcat": [], "curl": []}
    with Nginx(served) as server:
        url = f"{server.origin}/big.bin"
        for number in range(options.rounds):
            for name, download in (("meowcat", ours), ("curl", curl)):
                to = folder / f"{name}-{number}"
                arguments = (options.connections,) if name == "meowcat" else ()
                results[name].append(download(url, to, *arguments))
                to.unlink()
    for name, runs in results.items():
        figures = {key: median(run[key] for run in runs) for key in runs[0]}
        print(f"{name:8} {options.size / figures['seconds'] / 1e9:5.2f} GB/s ", end="")
        print("  ".join(f"{key} {value:.3g}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
