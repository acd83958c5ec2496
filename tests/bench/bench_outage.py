"""A day's outage of two sinks with a million events pending: memory, transfers, and delivery afterwards.

python tests/bench/bench_outage.py [--events N] [--folder F] [--json]

One sink raises, the other one never returns. After the downloads in the outage, waiting is sped up, so that
the attempts of a day take seconds.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anyio
from bench_journal import PIECES, entries, fill

import meowcat
from meowcat.core.values import TaskId
from meowcat.runtime.world import Clock
from meowcat.testing.content import Content
from meowcat.testing.range_server import RangeServer

DAY = 24 * 3600
SPEED_UP = 50_000
FILES = 25
ROUNDS = 3


def peak() -> float:
    """The most memory that this process ever had, in MiB."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / (1 << 20 if sys.platform == "darwin" else 1 << 10)


class Outage:
    """A sink that fails until it is told that the outage is over, and sees to the order afterwards."""

    def __init__(self) -> None:
        self.over = False
        self.attempts = 0
        self.last = 0
        self.disorder = 0
        self.target = sys.maxsize
        self.reached = anyio.Event()

    async def reach(self, position: int) -> None:
        """Wait until all up to `position` was delivered."""
        self.target, self.reached = position, anyio.Event()
        if self.last < position:
            await self.reached.wait()

    async def deliver(self, events):
        self.attempts += 1
        if not self.over:
            raise ConnectionError("the receiver is down")
        for event in events:
            self.disorder += event.position != self.last + 1
            self.last = event.position
        if self.last >= self.target:
            self.reached.set()


class Silent:
    """A sink that never returns."""

    async def deliver(self, events):
        await anyio.sleep_forever()


class Waiting:
    """Time that passes faster for whoever sleeps, once it is told to."""

    def __init__(self) -> None:
        self.speed = 1.0
        self.waited = 0.0
        self.a_day = anyio.Event()

    async def sleep(self, seconds: float) -> None:
        self.waited += seconds
        if self.waited >= DAY:
            self.a_day.set()
        await anyio.sleep(seconds / self.speed)


async def downloads(engine: meowcat.Engine, origin: str, folder: Path, name: str) -> float:
    """Seconds that a number of downloads take: the median of some rounds."""
    rounds = []
    for number in range(ROUNDS):
        begun = time.perf_counter()
        targets = [str(folder / f"{name}-{number}-{n}.bin") for n in range(FILES)]
        await engine.submit_many([meowcat.Download(f"{origin}/x", to=target) for target in targets])
        await engine.drain()
        rounds.append(time.perf_counter() - begun)
    return statistics.median(rounds)


async def measure(journal: Path, origin: str, folder: Path) -> dict[str, float]:
    outage, waiting = Outage(), Waiting()
    figures: dict[str, float] = {}
    async with meowcat.Engine(journal, clock=Clock(sleep=waiting.sleep)) as engine:
        await downloads(engine, origin, folder, "warm")
        figures["downloads before s"] = await downloads(engine, origin, folder, "before")
        figures["peak before MiB"] = peak()
        await engine.add_sink("down", outage)
        await engine.add_sink("silent", Silent())
        figures["downloads meanwhile s"] = await downloads(engine, origin, folder, "meanwhile")
        waiting.speed = SPEED_UP
        await waiting.a_day.wait()
        figures["attempts"] = outage.attempts
        figures["peak in the outage MiB"] = peak()
        figures["pending"] = (await engine.snapshot()).sinks["down"].lag
        outage.over = True

        async def go_on() -> None:
            figures["downloads in the delivery s"] = await downloads(engine, origin, folder, "after")

        async with anyio.create_task_group() as group:
            group.start_soon(go_on)
            begun = time.perf_counter()
            await outage.reach((await engine.snapshot()).position)
            figures["delivery s"] = time.perf_counter() - begun
        await outage.reach((await engine.snapshot()).position)
        figures["delivered"] = outage.last
        figures["out of order"] = outage.disorder
        figures["peak in the delivery MiB"] = peak()
    return {name: round(figure, 2) for name, figure in figures.items()}


def run(events: int, folder: Path) -> dict[str, float]:
    """The measurement in a process of its own: the server's memory is not the engine's."""
    journal = folder / "transfers.db"
    tasks = events // (PIECES + 4)
    fill(journal, (entry for n in range(tasks) for entry in entries(TaskId(f"{n:026d}"))))
    with RangeServer(Content(4 << 20)) as server:
        done = subprocess.run(
            [sys.executable, __file__, "--measure", server.origin, "--folder", folder],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where all is made; a temporary folder")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        folder = options.folder
        print(json.dumps(anyio.run(measure, folder / "transfers.db", options.measure, folder)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        figures = run(options.events, Path(name))
    if options.json:
        print(json.dumps(figures, indent=2))
        return
    for what, figure in figures.items():
        print(f"{what:28} {figure:,}")


if __name__ == "__main__":
    main()
