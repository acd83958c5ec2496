"""An application's own journal under a whole engine that is killed at each call."""

from own_journal import FilesJournal

import meowcat
from meowcat.testing.world import World

URL, TARGET = "https://files.example/big.bin", "/data/big.bin"


async def download(world: World) -> None:
    async with world.engine() as engine:
        async for _ in engine.tasks(state="Complete"):
            return
        task = await engine.submit(meowcat.Download(URL, TARGET))
        world.notes["acknowledged"] = task.id
        await task.result()


def nothing_acknowledged_is_lost(world: World) -> None:
    known = {logged.task for logged in world.history()}
    assert {world.notes["acknowledged"]} == known, "there is the task that was acknowledged, and no other"
    assert world.disk.get(TARGET) == world.server.contents[URL].bytes()


def test_whatever_was_acknowledged_survives_a_kill_at_any_call(meowcat_seed: int) -> None:
    world = World(meowcat_seed, journal=FilesJournal)
    world.server.serve(URL, 50_000)
    assert (
        world.every_crash(
            download, nothing_acknowledged_is_lost, losses=("killed",), calls=slice(None, None, 3)
        )
        > 5
    )
