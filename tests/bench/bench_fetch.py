"""One large download through the whole engine from nginx, against curl in the same run.

    python tests/bench/bench_fetch.py [--size BYTES] [--rounds N] [--connections N] [--durability LEVEL]
                                      [--folder FOLDER]

The content is served from memory-backed files; `--folder` is where the downloads go (/dev/shm by default).
Each download is a process of its own. Runs alternate, so that a noisy machine hurts both alike; medians are
printed, and the ratio of each pair. Seconds are those of the transfer, start of the process left out for
meowcat and kept in for curl (some 10 ms).
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

import meowcat
from meowcat.testing.servers import Nginx

TICK = 0.001
MEMORY = Path("/dev/shm")


async def watch_loop(gaps):
    """How much longer than `TICK` the loop took to come back, over and over."""
    while True:
        before = time.perf_counter()
        await anyio.sleep(TICK)
        gaps.append(time.perf_counter() - before - TICK)


async def one_download(url, to, options):
    gaps = []
    config = meowcat.Config(durability=options.durability, connections=options.connections)
    async with (
        meowcat.Engine(f"{to}.db", config=config) as engine,
        anyio.create_task_group() as group,
    ):
        group.start_soon(watch_loop, gaps)
        await anyio.sleep(0.05)
        began, cpu = time.perf_counter(), time.process_time()
        await engine.download(url, to)
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
        group.cancel_scope.cancel()
    gaps.sort()
    return {
        "seconds": took,
        "cpu_s": cpu,
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "stall_p999_ms": gaps[int(len(gaps) * 0.999)] * 1000,
        "stall_worst_ms": gaps[-1] * 1000,
    }


def ours(url, to, options):
    """In a process of its own, so that its memory is its own."""
    command = [sys.executable, __file__, "--child", url, str(to), "--durability", options.durability]
    command += ["--connections", str(options.connections)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def curl(url, to, _):
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(["curl", "-sS", "-o", str(to), url], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": time.perf_counter() - began, "cpu_s": cpu}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=1 << 30)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--durability", choices=["power", "process"], default="process")
    parser.add_argument("--folder", type=Path, default=MEMORY if MEMORY.is_dir() else None)
    parser.add_argument("--child", nargs=2, metavar=("URL", "TO"))
    options = parser.parse_args()
    if options.child:
        print(json.dumps(anyio.run(one_download, *options.child, options)))
        return
    memory = MEMORY if MEMORY.is_dir() else None
    with (
        tempfile.TemporaryDirectory(dir=memory) as served,
        tempfile.TemporaryDirectory(dir=options.folder) as folder,
    ):
        compare(Path(served), Path(folder), options)


def compare(served, folder, options):
    with (served / "big.bin").open("wb") as file:
        for _ in range(0, options.size, 1 << 20):
            file.write(os.urandom(1 << 20))
    results = {"meowcat": [], "curl": []}
    with Nginx(served) as server:
        url = f"{server.origin}/big.bin"
        for number in range(options.rounds):
            for name, download in (("meowcat", ours), ("curl", curl)):
                to = folder / f"{name}-{number}"
                results[name].append(download(url, to, options))
                to.unlink()
    for name, runs in results.items():
        figures = {key: median(run[key] for run in runs) for key in runs[0]}
        print(f"{name:8} {options.size / figures['seconds'] / 1e9:5.2f} GB/s ", end="")
        print("  ".join(f"{key} {value:.3g}" for key, value in figures.items()))
    ratios = [theirs["seconds"] / mine["seconds"] for mine, theirs in zip(*results.values(), strict=True)]
    print(
        f"speed of curl's, pair by pair: median {median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}"
    )


if __name__ == "__main__":
    main()
