"""meowcat with long queues: `job` has a `journal` and its `count` of tasks."""

import os
from collections.abc import Iterator
from pathlib import Path

from .races import Client, Job
from .scripts import Clock

PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> int:
    """Bytes of this process that are in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def _requests(job: Job) -> Iterator:
    import meowcat

    origin, folder = job.get("origin", "http://127.0.0.1:9"), job.get("downloads", "/srv/downloads")
    for number in range(job["count"]):
        yield meowcat.Download(f"{origin}/files/{number}.bin", f"{folder}/{number}.bin")


def _run(job: Job, work, **options) -> None:
    """`work(engine)` with an engine that begins nothing by itself."""
    import anyio

    import meowcat

    async def main() -> None:
        config = meowcat.Config(durability=job["durability"], control=False, **job.get("config", {}))
        async with meowcat.Engine(job["journal"], config=config, **options) as engine:
            await work(engine)

    anyio.run(main)


def submit(job: Job, clock: Clock) -> None:
    async def work(engine) -> None:
        before = resident()
        with clock:
            tasks = len(await engine.submit_many(_requests(job)))
        assert tasks == job["count"]
        clock.figures["bytes_a_task"] = (resident() - before) / tasks

    _run(job, work, on_restart="leave")


def cancel(job: Job, clock: Clock) -> None:
    async def work(engine) -> None:
        await engine.submit_many(_requests(job))
        before = resident()
        with clock:
            canceled = await engine.cancel_many()
        clock.figures["grown_mib"] = (resident() - before) / (1 << 20)
        left = [info async for info in engine.tasks()]
        assert not [info for info in left if info.state != "Canceled"], left[:3]
        assert canceled is not None

    _run(job, work, on_restart="leave")


def open_and_begin(job: Job, clock: Clock) -> None:
    """A journal with many unfinished tasks: until the engine is open, and until a first byte has come."""
    import time

    import anyio

    import meowcat
    from meowcat.core.events import Started

    async def main() -> None:
        config = meowcat.Config(durability=job["durability"], control=False)
        began = time.perf_counter()
        with clock:
            engine = await meowcat.Engine(job["journal"], config=config).open()
        after = (await engine.snapshot()).position
        async for logged in engine.events(after=after):
            if isinstance(logged.event, Started):
                break
        clock.figures["first_byte_s"] = time.perf_counter() - began
        await engine.close()

    anyio.run(main)


def commands(job: Job, clock: Clock) -> None:
    """Callers that pause and resume a task each, one durable command after the other."""
    import anyio

    async def work(engine) -> None:
        tasks = await engine.submit_many(_requests(job))
        rounds = job["commands"] // job["count"] // 2
        begun = (await engine.snapshot()).position

        async def caller(task) -> None:
            for _ in range(rounds):
                await engine.pause(task)
                await engine.resume(task)

        with clock:
            async with anyio.create_task_group() as group:
                for task in tasks:
                    group.start_soon(caller, task)
        made = (await engine.snapshot()).position - begun
        assert made == rounds * job["count"] * 2, (made, rounds)
        clock.figures["cpu_us"] = clock.figures["cpu_s"] / made * 1e6

    _run(job, work, on_restart="leave")


SUBMIT = Client("submit_many", script="queues:submit")
CANCEL = Client("cancel_many", script="queues:cancel")
OPEN = Client("open", script="queues:open_and_begin")
COMMANDS = Client("commands", script="queues:commands")
