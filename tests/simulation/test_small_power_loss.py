"""The power goes at every call while small files are brought, several of them in the same rounds of syncs."""

import errno

import pytest

import meowcat
from meowcat.core import events as ev
from meowcat.testing import world as worlds
from meowcat.testing.content import Content
from meowcat.testing.disk import SimulatedDisk
from meowcat.testing.world import World
from meowcat.transfer import rounds

KIB = 1 << 10
FILES = {f"/data/{name}.bin": Content(70 * KIB, seed=seed) for seed, name in enumerate("abcdef")}
LOSSES = ("lost", "kept", "seed", "seed")


def world(**disk):
    made = World(disk=SimulatedDisk(**disk))
    for target, content in FILES.items():
        made.server.serve(url_of(target), content)
    return made


def url_of(target):
    return f"https://host.example{target}"


def bring(targets, durability="power"):
    config = meowcat.Config(piece_size=64 * KIB, max_downloads=len(targets), durability=durability)

    async def work(world):
        async with world.engine(config=config) as engine:
            ended = {each.event.path for each in world.history() if isinstance(each.event, ev.Completed)}
            requests = [meowcat.Download(url_of(target), target) for target in targets if target not in ended]
            await engine.submit_many(requests)
            await engine.drain()

    return work


def all_there(targets):
    def check(world):
        for target in targets:
            assert world.disk.get(target) == FILES[target].bytes()
        assert sorted(world.disk.names("/data")) == sorted(target.split("/")[-1] for target in targets)

    return check


def calls_of(world, name):
    return sum(name in line for line in world.power.trace)


def test_power_lost_at_any_call_while_one_small_file_is_brought():
    (target, *_) = FILES
    assert world().every_crash(bring([target]), all_there([target]), losses=LOSSES) > 15


def test_power_lost_at_any_call_while_several_share_their_syncs(monkeypatch):
    monkeypatch.setattr(rounds, "TOGETHER", 2)
    monkeypatch.setattr(worlds, "HOP", (0.05, 0.1))  # a slow disk, so that several wait for its next round
    targets = list(FILES)
    whole = world()
    whole.run(bring(targets))
    assert 0 < calls_of(whole, "sync_system") < len(targets)
    assert calls_of(whole, "fsync_folder") < 2 * len(targets)
    assert world().every_crash(bring(targets), all_there(targets), losses=LOSSES) > 50


@pytest.mark.parametrize("without", [{"rename_new"}, {"rename_new", "link"}], ids=["links", "neither"])
def test_power_lost_while_small_files_are_published_without_an_exclusive_rename(without):
    targets = list(FILES)[:2]
    lacking = world(without=frozenset(without))
    assert lacking.every_crash(bring(targets), all_there(targets), losses=LOSSES) > 20


def test_a_process_killed_at_any_call_loses_no_small_file():
    targets = list(FILES)[:2]
    work = bring(targets, "process")
    assert world().every_crash(work, all_there(targets), losses=("killed",)) > 15


def patient(targets, durability):
    """Whoever fails is tried again."""
    config = meowcat.Config(piece_size=64 * KIB, max_downloads=len(targets), durability=durability)

    async def work(world):
        async with world.engine(config=config) as engine:
            await engine.submit_many([meowcat.Download(url_of(target), target) for target in targets])
            await engine.drain()
            for task in [each.id async for each in engine.tasks(state=meowcat.State.FAILED)]:
                await engine.retry(task)
            await engine.drain()

    return work


UNANSWERED = ("journal.open", "journal.append created", "journal.close")
"""Calls whose failure the application is told of, and has to deal with."""


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("durability", ["power", "process"])
def test_a_call_that_fails_costs_a_retry_at_most(durability, error):
    (target, *_) = FILES
    whole = world()
    whole.run(patient([target], durability))
    tried = 0
    for number, line in enumerate(whole.power.trace, 1):
        if not any(call in line for call in UNANSWERED):
            hurt = world()
            hurt.power.fail_at(number, error)
            with hurt.explained():
                hurt.run(patient([target], durability))
                all_there([target])(hurt)
                hurt.check_promises()
            tried += 1
    assert tried > 10
