"""A process that downloads and is killed: prints each durable event, and each acknowledged command."""

import random
import sys

import anyio

import meowcat
from meowcat.core.events import TAGS


def say(*words: object) -> None:
    print(*words, flush=True)


async def follow(engine: meowcat.Engine, task: meowcat.TaskId) -> None:
    async for event in engine.events():
        if event.task == task:
            say("event", event.seq, TAGS[type(event.event)])


async def meddle(task: meowcat.Task, seed: int) -> None:
    """Pause and resume now and then, so that kills hit those transitions as well."""
    chance = random.Random(seed)
    try:
        while True:
            await anyio.sleep(chance.uniform(0.2, 1.0))
            await task.pause()
            say("acknowledged", "paused")
            await task.resume()
            say("acknowledged", "resumed")
    except meowcat.TaskNotFound:
        return  # it was complete before, or its publishing was under way while it was paused


async def main(journal: str, url: str, target: str, durability: str, seed: int) -> None:
    config = meowcat.Config(piece_size=1 << 20, connections=8, durability=durability)  # type: ignore[arg-type]  # from argv
    async with meowcat.Engine(journal, config=config) as engine, anyio.create_task_group() as group:
        task = await engine.submit(meowcat.Download(url, target))
        say("acknowledged", "created")
        group.start_soon(follow, engine, task.id)
        if seed % 2:
            group.start_soon(meddle, task, seed)
        await task.result()
        group.cancel_scope.cancel()
    say("complete")


if __name__ == "__main__":
    journal_, url_, target_, durability_, seed_ = sys.argv[1:]
    anyio.run(main, journal_, url_, target_, durability_, int(seed_))
