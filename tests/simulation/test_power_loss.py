"""The power goes at every call of a whole engine: what is Complete then is whole, and all gets there."""

import gc

import pytest

import meowcat
from meowcat.core.machine import State
from meowcat.core.state import fold
from meowcat.testing.content import Content
from meowcat.testing.disk import SimulatedDisk
from meowcat.testing.power import PowerLost
from meowcat.testing.world import World

KIB = 1 << 10
CONTENT = Content(4 * 64 * KIB + 1000)
BYTES = CONTENT.bytes()
URL = "https://host.example/file.bin"
TARGET = "/data/file.bin"
LOSSES = ("lost", "kept", "seed", "seed", "seed")
"""Two changes of names, as a link and an unlink, come out in all four ways among the draws of all calls."""


def world(**disk):
    made = World(disk=SimulatedDisk(**disk))
    made.server.serve(URL, CONTENT)
    made.server.rate = 2048 * KIB  # so slow that pieces are flushed one by one, in several events
    return made


def download(durability="power", **options):
    config = meowcat.Config(piece_size=64 * KIB, connections=1, flush_seconds=0.001, durability=durability)

    async def work(world):
        async with world.engine(config=config) as engine:
            if (task := task_of(world)) is not None and task.state is State.COMPLETE:
                await engine.drain()
            else:
                await engine.download(URL, TARGET, **options)

    return work


def task_of(world):
    """The task as the journal has it; None before it was recorded."""
    return fold(logged.event for logged in world.history())


def the_target_has_nothing_or_all(world):
    assert world.disk.get(TARGET) in (None, BYTES)


def it_is_there(world):
    assert world.disk.get(TARGET) == BYTES
    assert task_of(world).state is State.COMPLETE
    assert world.disk.names("/data") == ["file.bin"]


def dies(world, work):
    """Whether the power went while `work` was done."""
    try:
        world.run(work)
    except PowerLost:
        return True
    return False


def test_power_lost_at_any_call_never_makes_a_wrong_complete():
    assert world().every_crash(download(), it_is_there, losses=LOSSES) > 60


def test_an_engine_that_died_is_silent_when_its_remains_are_collected(caplog):
    for call in range(17, 60, 3):
        dying = world()
        dying.crash_at(call)
        assert dies(dying, download())
        dying.restart("lost")
        dying.run(download())
        del dying
        gc.collect()
    assert [each.getMessage() for each in caplog.records if each.name == "asyncio"] == []


@pytest.mark.parametrize("number", range(1, 80, 3))
def test_a_crash_before_a_call_leaves_what_the_one_after_the_call_before_it_left(number):
    left = []
    for at, when in ((number + 1, "before"), (number, "after")):
        doomed = world()
        doomed.crash_at(at, when)
        dies(doomed, download())
        left.append((doomed.history(), doomed.disk.names("/data"), doomed.disk.restart("lost").get(TARGET)))
    assert left[0] == left[1]


@pytest.mark.parametrize("without", [{"rename_new"}, {"rename_new", "link"}], ids=["links", "neither"])
def test_power_lost_while_publishing_without_an_exclusive_rename(without):
    lacking = world(without=frozenset(without))
    assert lacking.every_crash(download(), it_is_there, losses=LOSSES, calls=slice(-16, None)) == 16


def test_power_lost_while_a_checksum_is_verified():
    work = download(checksum=f"sha256:{CONTENT.sha256}")
    whole = world()
    whole.run(work)
    assert "preadv" in "".join(whole.power.trace)
    assert world().every_crash(work, it_is_there, losses=("lost", "seed"), calls=slice(-26, None)) == 26


def test_power_lost_again_during_the_recovery():
    once = world()
    once.run(download())
    tried = 0
    for number in range(3, once.power.calls, 7):
        once = world()
        once.crash_at(number, "after")
        assert dies(once, download())
        once.restart("seed", draw=number)
        tried += once.every_crash(
            download(), it_is_there, losses=("lost", "seed"), calls=slice(None, None, 7)
        )
    assert tried > 50


def test_what_began_under_process_is_durable_when_it_ends_under_power():
    whole = world()
    whole.run(download("process"))
    for number in range(16, whole.power.calls):
        killed = world()
        killed.crash_at(number, "after")
        assert dies(killed, download("process"))
        if task_of(killed).state is State.COMPLETE:
            break
        killed.restart("killed")
        killed.check_promises()
        killed.run(download("power"))
        it_is_there(killed)
        for draw, loss in enumerate(LOSSES):
            again = killed.copy()
            again.restart(loss, draw=draw)
            again.check_promises()
            it_is_there(again)
    assert number > 40


def test_what_was_recorded_as_stored_is_not_fetched_again():
    most = 0
    whole = world()
    whole.run(download())
    for number in range(17, whole.power.calls, 3):
        doomed = world()
        doomed.crash_at(number, "before")
        assert dies(doomed, download())
        doomed.restart("lost")
        stored, before = task_of(doomed).stored.total, doomed.server.bytes_served()
        doomed.run(download())
        it_is_there(doomed)
        # A piece of slack: the last one is shorter than the others.
        assert doomed.server.bytes_served() - before <= CONTENT.size - max(0, stored - 1) * 64 * KIB
        most = max(most, stored)
    assert most > 2


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("without", [frozenset(), frozenset({"rename_new"})], ids=["all", "links"])
@pytest.mark.timeout(0)
def test_power_lost_at_any_call_with_many_draws(without, seed):
    weak = world(seed=seed, without=without, short_writes=True)
    weak.every_crash(download(), it_is_there, losses=("lost", "kept", *["seed"] * 18))
