"""The nightly sync in a simulated world. Run with: pytest -p meowcat.testing.plugin"""

from nightly import nightly_sync

import meowcat
from meowcat.testing.servers import Trouble
from meowcat.testing.world import World

FILES = {
    "https://files.example/big.bin": "/data/big.bin",
    "https://files.example/small.bin": "/data/small.bin",
}
CONFIG = meowcat.Config(piece_size=65_536, flush_seconds=0.001)


def serve(world: World) -> None:
    world.server.serve("https://files.example/big.bin", 150_000)
    world.server.serve("https://files.example/small.bin", 1_000)


async def sync(world: World) -> None:
    async with world.engine(config=CONFIG) as engine:
        assert await nightly_sync(engine, FILES) == 2


def all_files_are_there(world: World) -> None:
    for url, path in FILES.items():
        assert world.disk.get(path) == world.server.contents[url].bytes()
    assert world.disk.names("/data") == ["big.bin", "small.bin"]


def test_the_sync_survives_a_crash_at_any_point(meowcat_world: World) -> None:
    serve(meowcat_world)
    assert meowcat_world.every_crash(sync, all_files_are_there, calls=slice(None, None, 3)) > 20


def test_a_busy_server_costs_an_hour_and_no_file(meowcat_world: World) -> None:
    serve(meowcat_world)
    meowcat_world.server.script = [Trouble(status=503, headers=(("Retry-After", "3600"),))]
    meowcat_world.run(sync)
    all_files_are_there(meowcat_world)
    assert meowcat_world.now > 3600


def test_the_second_night_fetches_nothing(meowcat_world: World) -> None:
    serve(meowcat_world)
    meowcat_world.run(sync)
    meowcat_world.advance(86_400)
    before = len(meowcat_world.server.requests)
    meowcat_world.run(sync)
    assert len(meowcat_world.server.requests) == before
