"""The simulated world keeps its own promises, and finds bugs that are put in on purpose."""

import asyncio
import errno
import json
import os
import pickle
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

import meowcat
from journal_adapters.jsonl import JSONLJournal
from journal_adapters.memory import MemoryJournal
from journal_adapters.sqlite import SQLiteJournal
from meowcat.testing.content import Content
from meowcat.testing.disk import SimulatedDisk
from meowcat.testing.exchanges import Trouble
from meowcat.testing.world import NotReproducible, PowerLost, StoodStill, TimeIsUp, World
from meowcat.transfer.files import PartFile

URL = "https://host.example/file.bin"
TARGET = "/data/file.bin"
CONTENT = Content(200_000)
CONFIG = meowcat.Config(piece_size=65_536, connections=2, flush_seconds=0.001)
TROUBLES = (
    Trouble(status=503, headers=(("Retry-After", "3600"),)),
    Trouble(after=100_000),
    Trouble(after=10, then="stall"),
)


def world(seed=0, **options):
    made = World(seed, **options)
    made.server.serve(URL, CONTENT)
    return made


async def download(world, config=CONFIG):
    async with world.engine(config=config) as engine:
        return await engine.download(URL, TARGET, overwrite="replace", retries=10)


def it_is_there(world):
    assert world.disk.get(TARGET) == CONTENT.bytes()


# Time


def test_hours_of_waiting_pass_in_no_time():
    patient = world()
    patient.server.script = [Trouble(status=503, headers=(("Retry-After", "3600"),))]
    began = time.monotonic()
    patient.run(download)
    assert patient.now > 3600
    assert time.monotonic() - began < 5
    it_is_there(patient)


def test_an_outage_of_hours_is_waited_for():
    def cable(seen):
        """It is pulled at the second request."""
        if len(away.server.requests) == 2:
            away.server.down_until = 6 * 3600.0
            return Trouble(after=1000)
        return None

    away = world()
    away.server.script = cable
    away.run(download)
    assert 6 * 3600 < away.now < 7 * 3600
    it_is_there(away)


def test_sleeps_timeouts_and_threads_of_the_application_keep_the_worlds_time():
    async def work(world):
        with anyio.move_on_after(5) as scope:
            await anyio.sleep(3600)
        assert scope.cancelled_caught
        # Ten real milliseconds in a thread; the sleeper beside it must not be ahead of it.
        thread = asyncio.create_task(anyio.to_thread.run_sync(time.sleep, 0.01))
        await asyncio.sleep(7)
        assert thread.done()
        return await asyncio.to_thread(lambda: world.now)

    assert World().run(work) == pytest.approx(12)


def test_a_rate_is_kept_in_the_worlds_time():
    slow = world()
    slow.server.rate = 10_000
    slow.run(download)
    assert slow.now == pytest.approx(20, rel=0.2)


def test_waiting_for_what_never_comes_is_told_with_the_place():
    async def wait_for_godot(world):
        await asyncio.Event().wait()

    with pytest.raises(StoodStill, match=r"never comes(.|\n)*wait_for_godot"):
        World().run(wait_for_godot)


def test_what_goes_on_for_ever_is_ended():
    async def work(world):
        while world.now >= 0:
            await anyio.lowlevel.checkpoint()
            await asyncio.sleep(60)

    with pytest.raises(TimeIsUp, match="after 3,600 s"):
        World().run(work, within=3600)


# Servers


@pytest.mark.parametrize("trouble", TROUBLES, ids=["busy", "reset", "stall"])
def test_a_download_gets_over_it(trouble):
    hard = world()
    hard.server.script = [trouble]
    hard.run(download)
    it_is_there(hard)
    assert len(hard.server.requests) > 1


def test_a_content_that_changes_is_never_mixed():
    fickle = world()
    newer = Content(150_000, seed=9)

    def change(seen):
        if len(fickle.server.requests) == 2:
            fickle.server.serve(URL, newer)
        return Trouble(after=70_000) if len(fickle.server.requests) == 1 else None

    fickle.server.script = change
    fickle.run(download)
    assert fickle.disk.get(TARGET) == newer.bytes()


def test_another_path_is_404_and_another_host_out_of_reach():
    async def work(world):
        async with world.engine() as engine:
            with pytest.raises(meowcat.TransferFailed, match="404"):
                await engine.download("https://host.example/no.bin", "/data/no.bin")
            with pytest.raises(meowcat.TransferFailed, match="no connection"):
                await engine.download("https://nobody.example/x", "/data/x")

    world().run(work)


def test_bytes_that_a_reply_places_wrongly_are_refused():
    async def work(world):
        with pytest.raises(meowcat.TransferFailed, match="expected a range that begins at 0"):
            await download(world)

    wrong = world()
    wrong.server.script = [Trouble(headers=(("Content-Range", "bytes 7-99/200000"),))]
    wrong.run(work)
    assert wrong.disk.get(TARGET) is None


def test_a_silent_server_costs_the_read_timeout():
    silent = world()
    silent.server.script = [Trouble(before="stall")]
    silent.run(lambda world: download(world, meowcat.Config(read_timeout=600)))
    assert silent.now > 600


# Chance


def events(world):
    return world.history(), world.power.trace, world.disk.get(TARGET)


@pytest.mark.parametrize("seed", range(5))
def test_the_same_seed_gives_the_same_history_event_for_event(seed):
    once, again = world(seed), world(seed)
    once.server.script = again.server.script = TROUBLES
    for each in (once, again):
        each.crash_at(60)
        with pytest.raises(PowerLost):
            each.run(download)
        each.restart("seed")
        each.run(download)
    assert len(once.history()) > 12
    assert events(once) == events(again)


def test_another_seed_gives_another_history():
    assert len({json.dumps([e.at for e in run(seed)[0]]) for seed in range(5)}) > 1


def run(seed):
    faulty = world(seed)
    faulty.server.script = TROUBLES
    faulty.run(download)
    return events(faulty)


REPEAT = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
import test_world
print(hashlib.sha256(repr(test_world.run(3)).encode()).hexdigest())
"""


def test_another_process_with_another_hash_seed_gives_the_same_history():
    folder = str(Path(__file__).parent)
    told = {
        subprocess.check_output(
            [sys.executable, "-c", REPEAT, folder], env=os.environ | {"PYTHONHASHSEED": seed}
        )
        for seed in ("1", "2")
    }
    assert len(told) == 1


def test_work_that_is_not_reproducible_is_told():
    calls = iter([5, 2, 2, 2, 2, 2, 2, 2, 2, 2])

    async def work(world):
        for _ in range(next(calls)):
            world.disk.stat(TARGET)

    with pytest.raises(NotReproducible, match="made 2 calls"):
        world().every_crash(work, calls=slice(-1, None))


# Crashes


def test_a_download_survives_a_crash_at_every_call_on_a_faulty_network():
    faulty = world()
    faulty.server.script = TROUBLES
    assert faulty.every_crash(download, it_is_there) > 100


def test_a_crash_ends_everything_and_nothing_works_before_the_restart():
    doomed = world()
    after = []

    async def work(world):
        async with world.engine() as engine:
            await engine.submit(meowcat.Download(URL, TARGET), paused=True)
            world.crash()
        after.append("alive")

    with pytest.raises(PowerLost):
        doomed.run(work)
    assert doomed.crashed
    assert not after
    with pytest.raises(PowerLost, match="restart"):
        doomed.run(work)
    doomed.restart("lost")
    assert [logged.event.state for logged in doomed.history()] == ["Paused"]
    doomed.run(download)
    it_is_there(doomed)


def test_the_crash_comes_at_the_call_that_was_named():
    for when, there in (("before", 0), ("after", 1)):
        doomed = world()
        doomed.crash_at(2, when)  # the first append
        with pytest.raises(PowerLost):
            doomed.run(download)
        assert doomed.power.calls == 2
        assert len(doomed.history()) == there


def test_a_process_that_leaves_its_engine_open_leaves_no_owner():
    async def forget(world):
        await world.engine().__aenter__()
        await asyncio.sleep(1)

    forgetful = world()
    forgetful.run(forget)
    forgetful.run(download)
    it_is_there(forgetful)


def test_an_error_tells_the_seed_and_the_calls():
    async def work(world):
        await download(world)
        raise LookupError("no such thing")

    with pytest.raises(LookupError) as caught:
        world(17).run(work)
    (note,) = caught.value.__notes__
    assert note.startswith("World(seed=17)")
    assert "journal.append created" in note


def test_a_failing_check_tells_which_crash_it_was():
    def check(world):
        assert "power lost before it" not in "".join(world.power.trace)

    with pytest.raises(AssertionError) as caught:
        world().every_crash(download, check)
    assert "1 journal.open  -> power lost before it\n-- lost: the next process" in caught.value.__notes__[0]


def test_what_makes_no_sense_is_refused():
    with pytest.raises(meowcat.InvalidArgument, match="expected one of lost, kept, seed, killed"):
        World().restart("half")
    with pytest.raises(meowcat.InvalidArgument, match="expected 1 or more"):
        World().crash_at(0)
    with pytest.raises(meowcat.InvalidArgument, match="'before' or 'after'"):
        World().crash_at(1, "between")


def test_a_world_is_run_from_a_plain_function():
    async def work(world):
        World().run(download)

    with pytest.raises(meowcat.InvalidArgument, match="a loop of its own"):
        World().run(work)


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=["broken", "full"])
def test_a_call_that_fails_once_never_makes_a_wrong_file(error):
    whole = world()
    whole.run(download)
    for number in range(1, whole.power.calls):  # the last one closes the journal, and all is done by then
        hurt = world()
        hurt.power.fail_at(number, error)
        with hurt.explained():
            with suppress(meowcat.MeowcatError, OSError):
                hurt.run(download)
            assert hurt.disk.get(TARGET) in (None, CONTENT.bytes())
            hurt.restart("lost")
            hurt.check_promises()
            hurt.run(download)
            it_is_there(hurt)


# Journals


@pytest.mark.parametrize("kind", [SQLiteJournal, JSONLJournal])
def test_any_journal_of_files_can_be_crashed(kind):
    own = world(journal=lambda folder: kind(folder / "own"))
    assert own.every_crash(download, it_is_there, losses=("lost",), calls=slice(None, None, 4)) > 10


def lazy_journal(late):
    """The journal in memory, whose medium is `late` appends behind what it acknowledged, but for a close."""

    class Lazy(MemoryJournal):
        def __init__(self, folder):
            path = folder / "records"
            super().__init__(store=pickle.loads(path.read_bytes()) if path.exists() else None)  # noqa: S301  # its own
            self.store.owner = None
            self._path, self._behind = path, []

        def append(self, batch):
            position = super().append(batch)
            self._behind.append(pickle.dumps(self.store))
            for image in self._behind[: len(self._behind) - late]:
                self._path.write_bytes(image)
            del self._behind[: len(self._behind) - late]
            return position

        def close(self):
            if self._behind:
                self._path.write_bytes(self._behind[-1])
            super().close()

    return Lazy


def test_a_journal_that_stores_what_it_acknowledges_passes():
    assert world(journal=lazy_journal(0)).every_crash(download, it_is_there, losses=("lost",)) > 40


# Bugs that are put in


def test_a_journal_that_acknowledges_before_it_stores_is_found():
    async def submit(world):
        async with world.engine() as engine:
            task = await engine.submit(meowcat.Download(URL, TARGET), paused=True)
            world.notes[task.id] = "acknowledged"

    def nothing_acknowledged_is_lost(world):
        assert set(world.notes) <= {logged.task for logged in world.history()}

    world(journal=lazy_journal(0)).every_crash(submit, nothing_acknowledged_is_lost)
    with pytest.raises(AssertionError):
        world(journal=lazy_journal(1)).every_crash(submit, nothing_acknowledged_is_lost)


def test_pieces_that_are_recorded_before_they_are_flushed_are_found(monkeypatch):
    monkeypatch.setattr(PartFile, "flush", lambda self: None)
    with pytest.raises(AssertionError, match="recorded as stored"):
        world().every_crash(download, it_is_there)


def test_a_name_that_is_not_synced_is_found(monkeypatch):
    monkeypatch.setattr(SimulatedDisk, "fsync_folder", lambda self, path: None)
    with pytest.raises(AssertionError, match="not there"):
        world().every_crash(download, it_is_there)


def test_an_application_that_cannot_be_run_again_is_found():
    """Killed after the last event and before it heard of it, it finds its own file in the way."""

    async def hasty(world):
        async with world.engine(config=CONFIG) as engine:
            await engine.download(URL, TARGET, overwrite="never")

    with pytest.raises(meowcat.TransferFailed, match="exists"):
        world().every_crash(hasty)


def test_without_the_bugs_nothing_is_found():
    assert world().every_crash(download, it_is_there) > 50
