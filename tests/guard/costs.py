"""What the hot paths cost, in counts that are the same on every machine and at every load.

    python tests/guard/costs.py             what they cost now, and what costs.json allows
    python tests/guard/costs.py --renew     write down what they cost now, for the Python that runs this

Seconds of a shared machine say nothing about a change of a few per cent; these do. The work is done in
simulated worlds, where the order of all that happens depends on the seed alone: a count is the same each
time.

- `ours`: bytecode instructions of meowcat and its journal adapters,
- `others`: those of the libraries that it calls, and of the event loop; without the simulated world's,
- `calls`: calls of disk, journal and network,
- `hops`: calls that went to a worker thread,
- `events`, `appends`, `syncs` and `requests`.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Self
from unittest import mock

import anyio

import journal_adapters
import meowcat
from meowcat.core import events as ev
from meowcat.core.machine import State
from meowcat.core.state import evolve
from meowcat.core.values import FileIdentity, Generation, Position, TaskId
from meowcat.journal.codec import encode
from meowcat.journal.contract import Entry, Owner
from meowcat.journal.locate import locate
from meowcat.journal.replay import Fold
from meowcat.runtime.limits import Throttle
from meowcat.testing.depot import DepotUpload
from meowcat.testing.world import World, WorldWorkers
from meowcat.transfer.pouring import Pourer, Span
from meowcat.transfer.writers import Writers

FIGURES = Path(__file__).with_name("costs.json")
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
TOLERANCE = {"others": 0.10}
SLACK = 0.05
"""By how much a count may be above what is written down. `others` depends on what is installed, too."""
STALE = 0.15
"""A count that is so much lower is to be written down anew: or else it could rise again unseen."""

MIB = 1 << 20
OURS = tuple(str(Path(package.__file__).parent) + os.sep for package in (meowcat, journal_adapters))
SIMULATED = OURS[0] + "testing" + os.sep

Costs = dict[str, int]
Tracer = Callable[[FrameType, str, object], Any]


class Instructions:
    """Counts the bytecode instructions that are executed in this thread."""

    on = True

    def __init__(self) -> None:
        self._ours, self._others = count(), count()
        self._tracers: dict[CodeType, Tracer | None] = {}

    def __enter__(self) -> Self:
        if self.on:
            sys.settrace(self._begin)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        self.costs = {"ours": next(self._ours), "others": next(self._others)}

    def _begin(self, frame: FrameType, event: str, arg: object) -> Tracer | None:
        code = frame.f_code
        if code not in self._tracers:
            self._tracers[code] = self._tracer(code.co_filename)
        tracer = self._tracers[code]
        if tracer is not None:
            frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return tracer

    def _tracer(self, path: str) -> Tracer | None:
        if path.startswith((SIMULATED, __file__)):
            return None
        return self._one_of_ours if path.startswith(OURS) else self._one_of_others

    def _one_of_ours(self, frame: FrameType, event: str, arg: object) -> Tracer:
        if event == "opcode":
            next(self._ours)
        return self._one_of_ours

    def _one_of_others(self, frame: FrameType, event: str, arg: object) -> Tracer:
        if event == "opcode":
            next(self._others)
        return self._one_of_others


# In a simulated world


def in_world(
    work: Callable[[meowcat.Engine], Awaitable[object]],
    config: meowcat.Config,
    prepare: Callable[[World], object],
) -> Costs:
    """What `work(engine)` costs, without the opening and the closing of the engine."""
    world, hops = World(seed=1), Counter[str]()
    prepare(world)
    run = WorldWorkers.run

    async def counted(self: WorldWorkers, *arguments: Any) -> Any:
        hops["all"] += 1
        return await run(self, *arguments)

    async def measured(world: World) -> Costs:
        async with world.engine(config=config) as engine:
            calls, hops["all"] = len(world.power.trace), 0
            with Instructions() as instructions:
                await asyncio.create_task(work(engine))  # type: ignore[arg-type]  # they are coroutines
            made = Counter(call.split(" ")[1] for call in world.power.trace[calls:])
            return {
                **instructions.costs,
                "calls": made.total(),
                "hops": hops["all"],
                "events": (await engine.snapshot()).position,
                "appends": made["journal.append"],
                "syncs": made["fdatasync"] + made["fsync_folder"] + made["syncfs"],
                "requests": len(world.server.requests),
            }

    WorldWorkers.run = counted  # type: ignore[method-assign,assignment]  # put back below
    try:
        return world.run(measured)
    finally:
        WorldWorkers.run = run  # type: ignore[method-assign]  # as it was


def large_download() -> Costs:
    """64 MiB in pieces of 1 MiB over 4 connections, `power`."""
    config = meowcat.Config(connections=4, piece_size=MIB)
    return in_world(
        lambda engine: engine.download("https://host/big.bin", "/data/big.bin"),
        config,
        lambda world: world.server.serve("https://host/big.bin", 64 * MIB),
    )


def small_downloads() -> Costs:
    """200 files of 16 KiB, 32 at once, `process`."""
    config = meowcat.Config(max_downloads=32, durability="process", queue_capacity=256)
    names = [f"{number}.bin" for number in range(200)]

    def prepare(world: World) -> None:
        for name in names:
            world.server.serve(f"https://host/{name}", 16 << 10)

    async def work(engine: meowcat.Engine) -> None:
        await engine.submit_many(
            [meowcat.Download(f"https://host/{name}", f"/data/{name}") for name in names]
        )
        await engine.drain()

    return in_world(work, config, prepare)


def large_upload() -> Costs:
    """64 MiB in parts of 1 MiB, 4 at once, `power`."""
    url = "https://depot.example/object.bin"

    def prepare(world: World) -> None:
        world.disk.put("/data/source.bin", bytes(range(256)) * (64 * MIB // 256))
        world.server.depot(url)

    return in_world(
        lambda engine: engine.upload(
            "/data/source.bin", url, protocol=DepotUpload(), piece_size=MIB, connections=4
        ),
        meowcat.Config(),
        prepare,
    )


def small_uploads() -> Costs:
    """200 files of 16 KiB, each by one request, 32 at once, `process`."""
    config = meowcat.Config(max_uploads=32, durability="process", queue_capacity=256)
    url = "https://depot.example/"
    protocol = DepotUpload(session=False, commits_with_last_part=True)

    def prepare(world: World) -> None:
        for number in range(200):
            world.disk.put(f"/data/{number}", bytes(16 << 10))
        world.server.depot(url)

    async def work(engine: meowcat.Engine) -> None:
        await engine.submit_many(
            [meowcat.Upload(f"/data/{number}", f"{url}{number}", protocol) for number in range(200)]
        )
        await engine.drain()

    return in_world(work, config, prepare)


def many_tasks() -> Costs:
    """`submit_many` and `cancel_many` of 2,000 tasks."""

    async def work(engine: meowcat.Engine) -> None:
        await engine.submit_many(
            [meowcat.Download(f"https://host/{number}", f"/data/{number}") for number in range(2000)],
            paused=True,
        )
        await engine.cancel_many()

    return in_world(work, meowcat.Config(), lambda world: None)


# By itself


def pouring() -> Costs:
    """What a thread does that reads 64 MiB in pieces of 4 MiB from a socket, without the socket."""
    size, pieces = 64 * MIB, 4 * MIB
    content = memoryview(bytes(MIB))
    calls = count()

    async def pour() -> Costs:
        async with anyio.create_task_group() as group:
            writers = Writers(
                group, lambda offset, chunk: next(calls), 64 * MIB, 2, lambda _: None, lambda: None
            )
            pourer = Pourer(
                writers, writers.stream(pieces, size, None), Span(0, size), Throttle(), lambda *_: None
            )
            with Instructions() as instructions:
                while (room := pourer.room()) is not None:
                    room[:] = content[: len(room)]
                    pourer.came(len(room))
            assert len(writers.take()) == size // pieces
            writers.stop()
        return instructions.costs | {"calls": next(calls)}

    with mock.patch("meowcat.transfer.pouring.perf_counter", new=float):  # its blocks grow at any load
        return anyio.run(pour)


def replay() -> Costs:
    """The fold of 500 downloads of 10 events, and of the journal's records into them."""
    journal = locate("memory:")
    journal.open(Owner(os.getpid(), "guard"), "process")
    for number in range(500):
        journal.append(list(entries(TaskId(f"{number:026d}"))))
    fold = Fold(evolve)
    with Instructions() as instructions:
        fold.add(journal.scan(Position(0), 5000))
    assert len(fold.tasks) == 500
    assert not fold.quarantined
    return instructions.costs | {"events": 5000}


def entries(task: TaskId) -> Iterator[Entry]:
    """A download of 6 flushes."""
    request = meowcat.Download(f"https://host.example/files/{task}.bin", f"/srv/downloads/{task}.bin")
    file = FileIdentity(2049, 123456)
    known = Generation(size=6 << 22, ranges=True, etag='"5f3e-1a2b"', strong=True)
    story: list[ev.Event] = [
        ev.Created(state=State.QUEUED, task=task, key=request.to, at=1_700_000_000_000, request=request),
        ev.Admitted(state=State.PREPARING, run=1),
        ev.Started(state=State.RUNNING, generation=known, piece_size=1 << 22),
        *(
            ev.Stored(state=State.RUNNING, pieces=((piece, piece + 1),), digests=bytes(32), file=file)
            for piece in range(6)
        ),
        ev.Completed(state=State.COMPLETE, path=request.to, size=6 << 22, digests=()),
    ]
    for seq, event in enumerate(story, 1):
        kind, version, body = encode(event)
        yield Entry(task, seq, event.state is not State.COMPLETE, kind, version, 1_700_000_000_000, body)


WORKLOADS: dict[str, Callable[[], Costs]] = {
    "a large download": large_download,
    "what its threads do": pouring,
    "200 small downloads": small_downloads,
    "a large upload": large_upload,
    "200 small uploads": small_uploads,
    "2,000 tasks submitted and canceled": many_tasks,
    "replay of 5,000 events": replay,
}


def measured() -> dict[str, Costs]:
    """Each workload's costs the second time: the first one fills caches."""
    found = {}
    for name, workload in WORKLOADS.items():
        with mock.patch.object(Instructions, "on", new=False):
            workload()
        found[name] = workload()
    return found


# What is allowed


def allowed() -> dict[str, Costs]:
    """What is written down for this Python; empty where nothing is."""
    return json.loads(FIGURES.read_text()).get(VERSION, {}) if FIGURES.exists() else {}


def complaints(now: dict[str, Costs], before: dict[str, Costs]) -> list[str]:
    """What costs more than is written down, or so much less that it is to be written down anew."""
    found = []
    for name, costs in now.items():
        for kind, cost in costs.items():
            was = before.get(name, {}).get(kind)
            if was is None:
                found.append(f"{name}: nothing is written down of its {kind}")
            elif cost > was * (1 + TOLERANCE.get(kind, SLACK)) + 1:
                found.append(f"{name} costs more {kind}: {cost:,}, and {was:,} before ({change(cost, was)})")
            elif cost < was * (1 - STALE) - 1:
                found.append(f"{name} costs less {kind}: {cost:,}, and {was:,} before; write it down")
    return found


def change(cost: int, was: int) -> str:
    return f"{cost / was - 1:+.0%}" if was else "none before"


def apart() -> dict[str, Costs]:
    """`measured` in a process of its own, which nothing else has warmed up or watches."""
    command = [sys.executable, str(Path(__file__)), "--json"]
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--renew", action="store_true", help="write down what this Python's costs are now")
    parser.add_argument("--json", action="store_true", help="measure in this process, and print JSON")
    options = parser.parse_args()
    if options.json:
        print(json.dumps(measured()))
        return
    now, before = apart(), allowed()
    for name, costs in now.items():
        print(f"{name:36}", "  ".join(f"{kind} {cost:,}" for kind, cost in costs.items()))
    if options.renew:
        figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
        FIGURES.write_text(json.dumps(figures | {VERSION: now}, indent=1, sort_keys=True) + "\n")
        return
    found = complaints(now, before)
    print("\n".join(found))
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
