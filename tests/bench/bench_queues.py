"""Large queues and long histories: what a million tasks cost. Each row runs in a process of its own.

    python tests/bench/bench_queues.py [ROW …] [--journal sqlite|jsonl] [--tasks N] [--folder DIR] [--json]

| row | what it does |
|---|---|
| submit | `submit_many` of N tasks (a tenth of them first: whether it is linear) |
| cancel | `cancel_many` of N queued tasks |
| open | opens a journal of N unfinished tasks, and goes on until the server sees the first one's request |
| ask | the same, where a function is asked of each whether it goes on, and its answers are recorded |
| finished | opens one of N finished tasks and 100 unfinished ones |
| active | commands for N tasks that all have an actor, from N callers at once |
| crowd | N downloads that transfer at once (no server answers before all have asked), and as many by 100 |
| replay | folds N tasks of 10 events each |
| long | N tasks of 10 events, but for one in a thousand: size, opening, history, and after a compaction |
"""

import argparse
import inspect
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path

import anyio
import anyio.to_thread

import meowcat
from meowcat.core import events as ev
from meowcat.core.machine import State
from meowcat.core.state import evolve
from meowcat.core.transfers import Download
from meowcat.core.values import FileIdentity, Generation, Position, TaskId
from meowcat.journal.codec import encode
from meowcat.journal.contract import CompactableJournal, Entry, Journal, Owner, ReadableJournal
from meowcat.journal.locate import locate
from meowcat.journal.replay import Fold
from meowcat.testing.content import Content
from meowcat.testing.range_server import RangeServer

sys.path.insert(0, str(Path(__file__).parent))  # a script imports its neighbours by their names alone

from gate import Gate

Figures = dict[str, float]

OWNER = Owner(os.getpid(), "bench")
AT = 1_700_000_000_000
NOWHERE = "http://127.0.0.1:9"
SUFFIX = {"sqlite": "queue.db", "jsonl": "queue.jsonl"}
DEFAULTS = {
    "submit": 100_000,
    "cancel": 100_000,
    "open": 100_000,
    "ask": 100_000,
    "finished": 1_000_000,
    "active": 10_000,
    "crowd": 10_000,
    "replay": 100_000,
    "long": 1_000_000,
}


def memory() -> int:
    """Bytes that the process holds now."""
    with open("/proc/self/statm", encoding="ascii") as stat:  # noqa: PTH123  # a file of the kernel's
        return int(stat.read().split()[1]) * resource.getpagesize()


class Meter:
    """Seconds, CPU seconds and memory since it was made."""

    def __init__(self) -> None:
        self.wall, self.cpu, self.memory = time.perf_counter(), time.process_time(), memory()

    def figures(self, count: int = 0) -> Figures:
        wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        found = {"s": round(wall, 2), "CPU s": round(cpu, 2), "grown MB": mb(memory() - self.memory)}
        if count:
            found["per s"] = round(count / wall)
            found["CPU us each"] = round(cpu / count * 1e6, 1)
        return found


def mb(size: float) -> float:
    return round(size / 1e6, 1)


def peak() -> Figures:
    return {"peak MB": mb(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)}


def requests(count: int, base: str = NOWHERE) -> Iterator[Download]:
    return (
        Download(f"{base}/files/{n:07d}.bin", f"/srv/downloads/{n // 1000}/{n:07d}.bin") for n in range(count)
    )


def engine(where: str, **options: object) -> meowcat.Engine:
    options.setdefault("on_restart", "leave")
    return meowcat.Engine(where, **options)  # type: ignore[arg-type]  # as the rows have them


# Rows


async def submit(where: str, count: int) -> Figures:
    async with engine(where) as one:
        few = list(requests(count // 10))
        meter = Meter()
        await one.submit_many(few)
        first = meter.figures(count // 10)
        many = (
            Download(f"{NOWHERE}/more/{n:07d}.bin", f"/srv/more/{n // 1000}/{n:07d}.bin")
            for n in range(count)
        )
        meter = Meter()
        ids = await one.submit_many(many)
        found = meter.figures(count)
        del ids
        held = round((memory() - meter.memory) / count)
        position = (await one.snapshot()).position
        assert position == count + count // 10, position
    return found | {"bytes each": held, "first tenth CPU us each": first["CPU us each"]} | peak()


async def cancel(where: str, count: int) -> Figures:
    fill(where, (created(n) for n in range(count)))
    async with engine(where) as one:
        before = peak()["peak MB"]
        meter = Meter()
        done = await one.cancel_many()
        found = meter.figures(count)
        assert len(done) == count
        assert not (await one.snapshot()).states
    return found | {"peak grown MB": round(peak()["peak MB"] - before, 1)} | peak()


async def open_(where: str, count: int, on_restart: object = "resume") -> Figures:
    with RangeServer(Content(1 << 16)) as server, tempfile.TemporaryDirectory() as target:
        base = server.url.rsplit("/", 1)[0]
        fill(where, (created(n, base, target) for n in range(count)))
        async with engine("memory:"):
            pass  # what is imported with the first opening is not the queue's
        meter = Meter()
        async with engine(where, on_restart=on_restart) as one:
            opened = meter.figures()
            snapshot = await one.snapshot()
            assert sum(snapshot.states.values()) == count
            await anyio.to_thread.run_sync(seen_by, server)
            first = time.perf_counter() - meter.wall
            found = opened | peak() | {"held MB": mb(memory())}
        return found | {"first request s": round(first, 2)}


async def ask(where: str, count: int) -> Figures:
    return await open_(where, count, lambda _: True)


def seen_by(server: RangeServer) -> None:
    with server.ledger.changed:
        server.ledger.changed.wait_for(lambda: server.ledger.requests)


async def finished(where: str, count: int) -> Figures:
    step = count // 100
    fill(where, (each for n in range(count) for each in (finished_task(n) if n % step else [created(n)])))
    meter = Meter()
    async with engine(where, on_restart="resume") as one:
        found = meter.figures() | peak()
        assert sum((await one.snapshot()).states.values()) == 100  # as many as were left
    return found


async def active(where: str, count: int) -> Figures:
    found: Figures = {}
    for number in sorted({100, count}):
        each = await commands(beside(where, number), number, rounds=max(1, 60_000 // number))
        found[f"{number}: CPU us each"] = each
    found["ratio"] = round(found[f"{count}: CPU us each"] / found["100: CPU us each"], 2)
    return found | peak()


async def commands(where: str, count: int, rounds: int) -> float:
    """CPU microseconds of one pause or resume of `count` tasks that all have an actor at once."""
    async with engine(where, config=meowcat.Config(queue_capacity=count * 2)) as one:
        tasks = await one.submit_many(requests(count))

        async def caller(task: TaskId) -> None:
            for _ in range(rounds):
                await one.pause(task)
                await one.resume(task)

        meter = Meter()
        async with anyio.create_task_group() as group:
            for task in tasks:
                group.start_soon(caller, task)
        return meter.figures(count * rounds * 2)["CPU us each"]


async def crowd(where: str, count: int) -> Figures:
    found: Figures = {}
    for at_once in sorted({100, count}):
        found[f"{at_once}: CPU us each"] = await downloads(beside(where, at_once), count, at_once)
    found["ratio"] = round(found[f"{count}: CPU us each"] / found["100: CPU us each"], 2)
    return found | peak()


def beside(where: str, *numbers: int) -> str:
    """Another journal of the same kind."""
    path = Path(where)
    return str(path.with_stem("-".join((path.stem, *map(str, numbers)))))


async def downloads(where: str, count: int, at_once: int) -> float:
    """CPU microseconds of one of `count` downloads of 1,000 bytes, of which so many are always under way."""
    folder = Path(where).with_suffix("")
    folder.mkdir()
    config = meowcat.Config(durability="process", connections=1)
    for name in ("max_downloads", "max_requests"):
        object.__setattr__(config, name, at_once)  # beyond what it lets users ask for
    object.__setattr__(config, "queue_capacity", count)
    async with engine(where, config=config, http_client=Gate(at_once), on_restart="resume") as one:
        asked = (Download(f"http://host{n % 50}/{n}", f"{folder}/{n}") for n in range(count))
        await one.submit_many(asked, paused=True)
        meter = Meter()
        await one.resume_many()
        await one.drain()
        assert len(list(folder.iterdir())) == count
        return meter.figures(count)["CPU us each"]


def replay(where: str, count: int) -> Figures:
    fill(where, (each for n in range(count) for each in entries(n)))
    meter = Meter()
    journal = reader_of(where)
    fold, after, events = Fold(evolve), Position(0), 0
    while found := journal.scan(after, 2000):
        fold.add(found)
        after = Position(after + len(found))
        events += len(found)
    assert len(fold.tasks) == count
    assert not fold.quarantined
    assert not fold.damage
    journal.close()
    return {"events": events} | meter.figures(events) | peak()


def long(where: str, count: int) -> Figures:
    fill(where, (each for n in range(count) for each in (entries(n) if n % 1000 else [created(n)])))
    found: Figures = {"MB": mb(size_of(where)), "opening s": opening(where)}
    found |= {f"history {name} ms": took for name, took in histories(where, count).items()}
    journal = locate(where)
    assert isinstance(journal, CompactableJournal)
    journal.open(OWNER, "process")
    meter = Meter()
    done = journal.compact()
    journal.close()
    found |= {f"compaction {name}": value for name, value in meter.figures().items()}
    found |= {
        "archived": done.records,
        "archived MB": mb(done.bytes),
        "MB after": mb(size_of(where)),
        "opening s after": opening(where),
    }
    found |= {f"history {name} ms after": took for name, took in histories(where, count).items()}
    return found | peak()


def opening(where: str) -> float:
    """Seconds until a journal is open and has said what is unfinished."""
    begin = time.perf_counter()
    journal = locate(where)
    journal.open(OWNER, "process")
    assert list(journal.unfinished())
    took = time.perf_counter() - begin
    journal.close()
    return round(took, 3)


def histories(where: str, count: int) -> dict[str, float]:
    """Milliseconds of one task's history: the first time in a process, and in the median of 100."""
    journal = reader_of(where)
    took = []
    for n in range(count // 201, count, count // 101):
        begin = time.perf_counter()
        journal.read(name_of(n))
        took.append((time.perf_counter() - begin) * 1000)
    journal.close()
    return {
        "first": round(took[0], 2),
        "median": round(sorted(took)[len(took) // 2], 3),
        "worst": round(max(took), 2),
    }


ROWS: dict[str, Callable[[str, int], object]] = {
    "submit": submit,
    "cancel": cancel,
    "open": open_,
    "ask": ask,
    "finished": finished,
    "active": active,
    "crowd": crowd,
    "replay": replay,
    "long": long,
}


# Journals


def name_of(n: int) -> TaskId:
    return TaskId(f"01J{n:023d}")


def created(n: int, base: str = NOWHERE, target: str = "/srv/downloads") -> Entry:
    request = Download(f"{base}/files/{n:07d}.bin", f"{target}/{n:07d}.bin", connections=1, retries=3)
    event = ev.Created(state=State.QUEUED, task=name_of(n), key=request.to, at=AT, request=request)
    return entry(n, 1, event)


def entry(n: int, seq: int, event: ev.Event) -> Entry:
    kind, version, body = encode(event)
    return Entry(name_of(n), seq, event.state is not State.COMPLETE, kind, version, AT, body)


def finished_task(n: int) -> list[Entry]:
    return [created(n), entry(n, 2, ev.Completed(state=State.COMPLETE, path="/srv/x", size=1, digests=()))]


def entries(n: int) -> Iterator[Entry]:
    """A download of 6 flushes: 10 events."""
    file = FileIdentity(2049, 123456)
    known = Generation(size=6 << 22, ranges=True, etag='"5f3e-1a2b"', strong=True)
    yield created(n)
    yield entry(n, 2, ev.Admitted(state=State.PREPARING, run=1))
    yield entry(n, 3, ev.Started(state=State.RUNNING, generation=known, piece_size=1 << 22))
    for piece in range(6):
        stored = ev.Stored(state=State.RUNNING, pieces=((piece, piece + 1),), digests=bytes(32), file=file)
        yield entry(n, 4 + piece, stored)
    yield entry(n, 10, ev.Completed(state=State.COMPLETE, path="/srv/x", size=6 << 22, digests=()))


def fill(where: str, records: Iterator[Entry]) -> None:
    """In a process of its own, so that its memory is not measured."""
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == 0
        return
    try:
        journal = locate(where)
        journal.open(OWNER, "process")
        while batch := list(islice(records, 5000)):
            journal.append(batch)
        journal.close()
        os._exit(0)
    finally:  # the child must not come back into the parent's code, whatever has happened
        sys.excepthook(*sys.exc_info())
        os._exit(1)


def reader_of(where: str) -> Journal:
    journal = locate(where)
    assert isinstance(journal, ReadableJournal)
    journal.open_for_reading()
    return journal


def size_of(where: str) -> int:
    path = Path(where)
    files = [path] if path.is_file() else [each for each in path.iterdir() if each.is_file()]
    return sum(each.stat().st_size for each in files)


def run(row: str, where: str, count: int) -> Figures:
    made = ROWS[row]
    return anyio.run(made, where, count) if inspect.iscoroutinefunction(made) else made(where, count)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", metavar="ROW")
    parser.add_argument("--journal", choices=[*SUFFIX, "all"], default="all")
    parser.add_argument("--tasks", type=int)
    parser.add_argument("--folder", type=Path, help="where the journals are made; a temporary folder")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results: dict[str, Figures] = {}
    context = multiprocessing.get_context("spawn")
    for row in options.rows or ROWS:
        for name in SUFFIX if options.journal == "all" else [options.journal]:
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                count = options.tasks or DEFAULTS[row]
                with ProcessPoolExecutor(1, context) as pool:
                    figures = pool.submit(run, row, f"{folder}/{SUFFIX[name]}", count).result()
            results[f"{row} {count:,} {name}"] = figures
            if not options.json:
                print(
                    f"{row} {count:,} {name}: ",
                    "  ".join(f"{k} {v:,}" for k, v in figures.items()),
                    flush=True,
                )
    if options.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
