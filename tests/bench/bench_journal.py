"""Speed of a journal: durable events per second, replay, opening.

python tests/bench/bench_journal.py [append|replay|open|segments|all] [--journal sqlite|jsonl] [--json]
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from hashlib import md5
from itertools import count, islice
from pathlib import Path

import anyio

from journal_adapters.jsonl import JSONLJournal
from meowcat.core import events as ev
from meowcat.core.machine import State
from meowcat.core.state import evolve
from meowcat.core.transfers import Download
from meowcat.core.values import FileIdentity, Generation, Position, TaskId
from meowcat.journal.codec import encode
from meowcat.journal.contract import GENESIS, Entry, Journal, Owner, ReadableJournal
from meowcat.journal.locate import locate
from meowcat.journal.replay import Fold, verify_chain
from meowcat.journal.writer import Writer

OWNER = Owner(os.getpid(), "bench")
WHAT = ["append", "replay", "open", "segments", "all"]
CALLERS = 64
ROUNDS = 5
PIECES = 12


def history(task: TaskId) -> Iterator[ev.Event]:
    """A download of 12 flushes: 16 events."""
    request = Download(f"https://host.example/files/{task}.bin", f"/srv/downloads/{task}.bin")
    file = FileIdentity(2049, 123456)
    known = Generation(size=PIECES << 22, ranges=True, etag='"5f3e-1a2b"', strong=True)
    yield ev.Created(state=State.QUEUED, task=task, key=request.to, at=1_700_000_000_000, request=request)
    yield ev.Admitted(state=State.PREPARING, run=1)
    yield ev.Started(state=State.RUNNING, generation=known, piece_size=1 << 22)
    for piece in range(PIECES):
        yield ev.Stored(state=State.RUNNING, pieces=((piece, piece + 1),), digests=bytes(32), file=file)
    yield ev.Completed(state=State.COMPLETE, path=request.to, size=PIECES << 22, digests=())


def entries(task: TaskId, *, limit: int = PIECES + 4) -> Iterator[Entry]:
    for seq, event in enumerate(islice(history(task), limit), 1):
        kind, version, body = encode(event)
        unfinished = event.state is not State.COMPLETE
        yield Entry(task, seq, unfinished, kind, version, 1_700_000_000_000, body)


def fill(where: str, records: Iterator[Entry]) -> None:
    journal = locate(where)
    journal.open(OWNER, "process")
    for batch in chunks(records, 20_000):
        journal.append(batch)
    journal.close()


def chunks(records: Iterator[Entry], size: int) -> Iterator[list[Entry]]:
    while batch := list(islice(records, size)):
        yield batch


def bench_append(where: str, events: int) -> dict[str, float]:
    busy = time.process_time()
    rates = sorted(append_once(f"{where}-{number}", events) for number in range(ROUNDS))
    busy = time.process_time() - busy
    per_event = round(busy / ROUNDS / events * 1e6, 1)
    return {"median events/s": rates[ROUNDS // 2], "least": rates[0], "most": rates[-1], "CPU us": per_event}


def append_once(where: str, events: int) -> int:
    journal = locate(where)
    journal.open(OWNER, "power")
    kind, version, body = encode(
        ev.Stored(state=State.RUNNING, pieces=((1, 2),), digests=bytes(32), file=FileIdentity(1, 2))
    )

    async def caller(writer: Writer, number: int) -> None:
        task = TaskId(f"task{number:022d}")
        for seq in range(1, events // CALLERS + 1):
            await writer.append([Entry(task, seq, True, kind, version, 1, body)])

    async def main() -> float:
        writer = Writer(journal, "power")
        begin = time.perf_counter()
        async with anyio.create_task_group() as group:
            for number in range(CALLERS):
                group.start_soon(caller, writer, number)
        took = time.perf_counter() - begin
        await writer.aclose()
        return took

    took = anyio.run(main)
    rate = round(journal.last() / took)
    journal.close()
    return rate


def bench_replay(where: str, events: int) -> dict[str, float]:
    tasks = events // (PIECES + 4)
    fill(where, (entry for n in range(tasks) for entry in entries(TaskId(f"{n:026d}"))))
    journal = reader_of(where)
    fold = Fold(evolve)
    spent = dict.fromkeys(("scan", "chain", "fold"), 0.0)
    busy = time.process_time()
    after, previous, damage, events = Position(0), GENESIS, 0, 0
    while True:
        begin = time.perf_counter()
        found = journal.scan(after, 2000)
        scanned = time.perf_counter()
        damage += sum(1 for _ in verify_chain(found, previous, after))
        verified = time.perf_counter()
        fold.add(found)
        spent["scan"] += scanned - begin
        spent["chain"] += verified - scanned
        spent["fold"] += time.perf_counter() - verified
        if not found:
            break
        after, previous = found[-1].position, found[-1].chain
        events += len(found)
    assert (damage, len(fold.tasks), fold.quarantined) == (0, tasks, {})
    journal.close()
    rounded = {f"{part} s": round(seconds, 2) for part, seconds in spent.items()}
    replay = round(spent["scan"] + spent["fold"], 2)
    return {
        "events": events,
        "replay s": replay,
        "with the chain s": round(replay + spent["chain"], 2),
        "CPU s": round(time.process_time() - busy, 2),
        **rounded,
    }


def reader_of(where: str) -> Journal:
    journal = locate(where)
    assert isinstance(journal, ReadableJournal)
    journal.open_for_reading()
    return journal


def bench_open(where: str, tasks: int) -> dict[str, float]:
    records = (
        Entry(TaskId(f"{n:026d}"), 1, n % (tasks // 100) == 7, "created", 1, 1, b'{"type":"created"}')
        for n in range(tasks)
    )
    fill(where, records)
    begin = time.perf_counter()
    journal = locate(where)
    journal.open(OWNER, "power")
    found = [journal.read(task) for task in journal.unfinished()]
    took = time.perf_counter() - begin
    journal.close()
    return {"tasks": tasks, "unfinished": len(found), "seconds": round(took, 4)}


def bench_segments(folder: str) -> dict[str, float]:
    """CPU seconds of a JSONL journal's opening that has to read a full last segment, by its MiB."""
    took = {}
    for size in (4, 16, 64):
        journal = JSONLJournal(f"{folder}/{size}", segment_size=size << 20)
        journal.open(OWNER, "process")
        records = (entry for n in count() for entry in entries(TaskId(f"{n:026d}")))
        while journal._log.size < (size << 20) - (1 << 19):
            journal.append(list(islice(records, 500)))
        journal._lock.release()  # as after a kill: no close, and no snapshot
        busy = time.process_time()
        again = JSONLJournal(f"{folder}/{size}")
        again.open(OWNER, "process")
        took[f"{size} MiB CPU s"] = round(time.process_time() - busy, 2)
        again.close()
    return took


def bench_tasks(folder: str) -> dict[str, float]:
    """CPU microseconds of the first record of a task, in a JSONL journal of 110 segments."""
    journal = JSONLJournal(f"{folder}/tasks", segment_size=300_000)
    journal.open(OWNER, "process")
    ids = (md5(b"%d" % n, usedforsecurity=False).hexdigest() for n in count())
    while journal._log.number < 110:
        journal.append([Entry(TaskId(next(ids)), 1, False, "created", 1, 1, bytes(200)) for _ in range(200)])
    took = {}
    for kind, new in (("growing", (f"z{n:025d}" for n in count())), ("random", ids)):
        busy = time.process_time()
        for task in islice(new, 500):
            journal.append([Entry(TaskId(task), 1, False, "created", 1, 1, bytes(200))])
        took[f"{kind} ids, CPU us"] = round((time.process_time() - busy) / 500 * 1e6, 1)
    journal.close()
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "what", nargs="?", default="all", choices=["append", "replay", "open", "segments", "all"]
    )
    parser.add_argument("--journal", default="sqlite", help="the adapter, by its entry point: sqlite, jsonl")
    parser.add_argument("--events", type=int, default=1_000_000, help="for replay, and tasks for open")
    parser.add_argument("--appends", type=int, default=64_000)
    parser.add_argument("--folder", type=Path, help="where the journals are made; a temporary folder")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        where = f"{options.journal}:{name}"
        if options.what in ("append", "all"):
            results["append, 64 callers, power"] = bench_append(f"{where}/append", options.appends)
        if options.what in ("replay", "all"):
            results["replay"] = bench_replay(f"{where}/replay", options.events)
        if options.what in ("open", "all"):
            results["open, 100 unfinished"] = bench_open(f"{where}/open", options.events)
        if options.what == "segments":
            results["open, a full last segment"] = bench_segments(name)
            results["a new task, 110 segments"] = bench_tasks(name)
    if options.json:
        print(json.dumps(results, indent=2))
        return
    for what, figures in results.items():
        print(f"{what:28}", "  ".join(f"{name} {figure:,}" for name, figure in figures.items()))


if __name__ == "__main__":
    main()
