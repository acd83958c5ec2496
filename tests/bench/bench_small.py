"""Many small files through the whole engine from nginx, against curl and aria2c in the same run.

    python tests/bench/bench_small.py [--files N] [--size BYTES] [--rounds N] [--at-once N] [--uvloop]
                                      [--durability LEVEL] [--journal sqlite|jsonl] [--folder FOLDER]
                                      [--count] [--profile FILE]

Each file is a task of its own, submitted with all others by one `submit_many`, with all of its events in the
journal. The time is that from the submission until every task is Complete; the process's start and imports
are left out, and for the peers (some 10 ms each) kept in. Every round downloads into a fresh folder and the
programs take turns; files are compared with what was served. `--count` says what one task costs instead:
calls of the disk, hops to threads, requests, appends and records.
"""

import argparse
import asyncio
import collections
import cProfile
import json
import os
import pstats
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import meowcat
from journal_adapters.jsonl import JSONLJournal
from journal_adapters.sqlite import SQLiteJournal
from meowcat.testing.servers import Nginx
from meowcat.transfer.disk import OsDisk
from meowcat.transfer.workers import Workers
from meowcat.transport.contract import Timeouts
from meowcat.transport.defaults import transport_for

MEMORY = Path("/dev/shm")
PER_FOLDER = 1000
"""Files in one folder of the server."""

JOURNALS = {"jsonl": JSONLJournal, "sqlite": SQLiteJournal}


def path_of(number):
    return f"{number // PER_FOLDER:03d}/{number:06d}.bin"


class Counts(collections.Counter):
    """What was called how often."""

    def counting(self, target, names, prefix):
        """Count calls of these methods of an object."""
        for name in names:
            setattr(target, name, self._counted(getattr(target, name), f"{prefix}.{name}"))
        return target

    def _counted(self, function, name):
        def call(*arguments, **named):
            self[name] += 1
            return function(*arguments, **named)

        return call


def world_of(counts, options):
    """An engine's journal and world, with their calls counted where that is asked for."""
    where = options.folder / f"journal.{'db' if options.journal == 'sqlite' else 'jsonl'}"
    journal = JOURNALS[options.journal](where)
    if counts is None:
        return journal, {}
    disk = counts.counting(OsDisk(), [name for name in dir(OsDisk) if not name.startswith("_")], "disk")
    workers = counts.counting(Workers(), ["run"], "hop")
    transport = counts.counting(transport_for(None, Timeouts())[0], ["send"], "request")
    append = journal.append

    def counted_append(batch):
        counts["journal.append"] += 1
        counts["journal.records"] += len(batch)
        return append(batch)

    journal.append = counted_append
    return journal, {"disk": disk, "workers": workers, "http_client": transport}


async def download_all(options, origin):
    counts = Counts() if options.count else None
    journal, world = world_of(counts, options)
    config = meowcat.Config(
        durability=options.durability,
        max_downloads=options.at_once,
        queue_capacity=options.files,
        control=False,
    )
    async with meowcat.Engine(journal, config=config, **world) as engine:
        requests = [
            meowcat.Download(f"{origin}/{path_of(number)}", str(options.folder / f"{number:06d}.bin"))
            for number in range(options.files)
        ]
        profile = cProfile.Profile() if options.profile else None
        if profile:
            profile.enable()
        began, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
        thread = time.thread_time()
        own = resource.getrusage(resource.RUSAGE_THREAD)
        await engine.submit_many(requests)
        submitted = time.perf_counter() - began
        await engine.drain()
        took, loop = time.perf_counter() - began, time.thread_time() - thread
        after = resource.getrusage(resource.RUSAGE_SELF)
        if profile:
            profile.disable()
            pstats.Stats(profile).dump_stats(options.profile)
        left = [task async for task in engine.tasks()]
        assert not left, left[:3]
    cpu = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    figures = {
        "seconds": took,
        "submit_s": submitted,
        "cpu_us": cpu / options.files * 1e6,
        "loop_us": loop / options.files * 1e6,
        "loop_sys_us": (resource.getrusage(resource.RUSAGE_THREAD).ru_stime - own.ru_stime)
        / options.files
        * 1e6,
        "rss_mb": after.ru_maxrss / 1024,
    }
    if counts is not None:
        figures["counts"] = {
            name: round(number / options.files, 3) for name, number in sorted(counts.items())
        }
    return figures


def ours(options, origin, folder):
    """In a process of its own, so that its memory is its own."""
    command = [sys.executable, __file__, "--child", origin, "--folder", str(folder)]
    for name in ("files", "durability", "journal", "at_once"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    command += [f"--{name}" for name in ("uvloop", "count") if getattr(options, name)]
    command += ["--profile", options.profile] if options.profile else []
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def timed(command):
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def peer(options, folder, command):
    took, cpu = timed(command)
    if options.durability == "power":  # `sync FILE` of all that it has brought, as it syncs nothing itself
        began = time.perf_counter()
        subprocess.run(["sync", "-f", str(folder)], check=True)
        took += time.perf_counter() - began
    return {"seconds": took, "cpu_us": cpu / options.files * 1e6}


def curl(options, origin, folder):
    config = folder / "urls"
    config.write_text(
        "".join(
            f'url = "{origin}/{path_of(number)}"\noutput = "{folder}/{number:06d}.bin"\n'
            for number in range(options.files)
        )
    )
    at_once = str(min(options.at_once, 300))
    return peer(options, folder, ["curl", "-sS", "-Z", "--parallel-max", at_once, "-K", str(config)])


def aria2c(options, origin, folder):
    listed = folder / "urls"
    listed.write_text(
        "".join(f"{origin}/{path_of(number)}\n out={number:06d}.bin\n" for number in range(options.files))
    )
    command = ["aria2c", "-q", "-i", str(listed), "-d", str(folder), "-j", str(min(options.at_once, 64))]
    return peer(options, folder, [*command, "--file-allocation=none", "--allow-overwrite=true"])


def check(served, folder, files):
    for number in range(files):
        if (served / path_of(number)).read_bytes() != (folder / f"{number:06d}.bin").read_bytes():
            raise AssertionError(f"{folder}/{number:06d}.bin is not what was served")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--size", type=int, default=16 << 10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--durability", choices=["power", "process"], default="process")
    parser.add_argument("--journal", choices=JOURNALS, default="jsonl")
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument("--folder", type=Path, default=MEMORY if MEMORY.is_dir() else None)
    parser.add_argument("--alone", action="store_true", help="without the peers")
    parser.add_argument("--count", action="store_true")
    parser.add_argument("--profile")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", metavar="ORIGIN")
    options = parser.parse_args()
    if options.child:
        work = download_all(options, options.child)
        if options.uvloop:
            import uvloop  # it may not be installed

            print(json.dumps(uvloop.run(work)))
        else:
            print(json.dumps(asyncio.run(work)))
        return
    memory = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as served:
        compare(Path(served), options)


def compare(served, options):
    for number in range(options.files):
        path = served / path_of(number)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(os.urandom(options.size))
    programs = {"meowcat": ours}
    if not options.alone and not options.count:
        programs |= {name: run for name, run in (("curl", curl), ("aria2c", aria2c)) if shutil.which(name)}
    results = {name: [] for name in programs}
    # Nothing is deleted before the end: ext4 looks at each inode that was lately, whenever a file is made.
    with Nginx(served) as server, tempfile.TemporaryDirectory(dir=options.folder) as brought:
        for _ in range(options.rounds):
            for name, download in programs.items():
                folder = Path(tempfile.mkdtemp(dir=brought))
                results[name].append(download(options, server.origin, folder))
                check(served, folder, options.files)
    tell(results, options)


def tell(results, options):
    if options.json:
        print(json.dumps(results, indent=2))
        return
    for name, runs in results.items():
        figures = {key: median(run[key] for run in runs) for key in runs[0] if key != "counts"}
        print(f"{name:8} {options.files / figures['seconds']:8,.0f} files/s ", end="")
        print("  ".join(f"{key} {value:.3g}" for key, value in figures.items()))
        if "counts" in runs[0]:
            print("  of one task: ", "  ".join(f"{key} {value}" for key, value in runs[0]["counts"].items()))
    for name, runs in results.items():
        if name != "meowcat":
            ratios = [
                theirs["seconds"] / mine["seconds"]
                for mine, theirs in zip(results["meowcat"], runs, strict=True)
            ]
            print(f"speed of {name}'s: {median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
