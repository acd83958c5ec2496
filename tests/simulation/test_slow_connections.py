"""Connections of different speeds, in a world whose time is virtual."""

import pytest

import meowcat
from meowcat.testing.exchanges import Trouble
from meowcat.testing.world import World

URL = "https://host.example/big.bin"
MIB = 1 << 20
FAST, SLOW = 2.0 * MIB, 0.02 * MIB


def world(size, slow):
    """Every reply comes at `FAST`, but for those that `slow` picks by the first byte that was asked for."""
    made = World()
    made.server.serve(URL, size)

    def rate(seen):
        start = int(seen.headers["range"].removeprefix("bytes=").partition("-")[0])
        return Trouble(rate=SLOW if slow(start) else FAST)

    made.server.script = rate
    return made


async def download(world, **options):
    async with world.engine(config=meowcat.Config(**options)) as engine:
        await engine.download(URL, "/data/big.bin")


def seconds(size, slow=lambda start: False, **options):
    """What the download takes; every byte of it is right, and not many come twice."""
    made = world(size, slow)
    made.run(lambda world: download(world, **options))
    assert made.disk.get("/data/big.bin") == made.server.contents[URL].bytes()
    assert made.server.bytes_sent_twice() <= 4 * MIB
    return made.now


@pytest.mark.parametrize("connections", [2, 4])
def test_all_connections_end_at_about_the_same_time(connections):
    size = 20 * MIB
    assert seconds(size, connections=connections) < size / FAST / connections * 1.1


@pytest.mark.parametrize("piece_size", [None, 2 * MIB])
def test_one_that_is_a_hundred_times_slower_costs_next_to_nothing(piece_size):
    """Its remainder goes to the others, and the piece that it is at is asked for again."""
    size = 20 * MIB
    alone = seconds(size, connections=3, piece_size=piece_size)
    beside = seconds(size, lambda start: start == 11 * MIB, connections=4, piece_size=piece_size)
    assert size / 4 / SLOW > 100
    assert beside < alone * 1.1 + 1.5


def test_the_first_reply_may_be_the_slow_one():
    size = 20 * MIB
    assert seconds(size, lambda start: start == 0, connections=4) < size / FAST / 3 * 1.1 + 1.5


def test_a_content_that_is_slow_everywhere_is_not_asked_for_over_and_over():
    made = world(4 * MIB, lambda start: True)
    made.run(lambda world: download(world, connections=4))
    assert len(made.server.requests) <= 10


def test_without_a_word_of_the_user_a_cap_on_each_connection_leads_to_more_of_them():
    size = 96 * MIB
    assert seconds(size) < size / FAST / 16 * 1.15 + 1
    assert seconds(size, connections=4) > size / FAST / 4 * 0.95, "the user's word is kept to"


def test_a_server_that_refuses_is_asked_by_fewer():
    made = World()
    made.server.serve(URL, 40 * MIB)
    running = 0

    def refuse(seen):
        nonlocal running
        running += 1
        return Trouble(status=429) if running in {6, 7, 8} else Trouble(rate=FAST)

    made.server.script = refuse
    made.run(download)
    alive = [seen for seen in made.server.requests if seen.status == 206]
    assert made.disk.get("/data/big.bin") == made.server.contents[URL].bytes()
    assert len(alive) < 40
