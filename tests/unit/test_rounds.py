"""Rounds: what is ready together shares a trip to a thread and its syncs, and each job hears of its own."""

import errno
import os
import threading

import anyio
import pytest

from meowcat.core.values import FaultKind
from meowcat.testing.disk import SimulatedDisk
from meowcat.transfer import disk as disks
from meowcat.transfer import rounds as module
from meowcat.transfer.disk import FileFault, OsDisk, lacks
from meowcat.transfer.files import PartFile
from meowcat.transfer.rounds import Rounds
from meowcat.transfer.workers import Workers

pytestmark = pytest.mark.anyio

FOLDER = "/downloads"
CONTENT = bytes(range(256)) * 20


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


@pytest.fixture
def disk():
    made = SimulatedDisk()
    made.make_folder(FOLDER)
    return made


class CountingWorkers(Workers):
    def __init__(self):
        self.trips = 0

    async def run(self, call, limiter):
        self.trips += 1
        return await super().run(call, limiter)


def task_id(number):
    return f"01JTASK{number:019d}"


def storing(disk, number, durability="power"):
    """A job that stores a part file."""
    target = f"{FOLDER}/{number}"

    def store():
        return PartFile.store(disk, target, task_id(number), durability, CONTENT)

    return store


async def do_all(rounds, jobs):
    """All at once; what came of each."""
    outcomes = [None] * len(jobs)

    async def one(number, job):
        try:
            outcomes[number] = await rounds.do(job, FOLDER, holds_bytes=True)
        except (FileFault, OSError, ValueError, MemoryError) as error:
            outcomes[number] = error

    async with anyio.create_task_group() as group:
        for number, job in enumerate(jobs):
            group.start_soon(one, number, job)
    return outcomes


def calls(disk, name):
    return sum(name in line for line in disk.power.trace)


async def test_many_files_take_one_trip_and_one_sync_of_the_file_system_which_takes_their_names_too(disk):
    workers = CountingWorkers()
    parts = await do_all(Rounds(disk, workers, "power"), [storing(disk, number) for number in range(10)])
    assert workers.trips == 1
    assert (calls(disk, "sync_system"), calls(disk, "fdatasync"), calls(disk, "fsync_folder")) == (1, 0, 0)
    names = disk.names(FOLDER)
    lost = disk.restart("lost")
    assert lost.names(FOLDER) == names
    assert [lost.get(part.path) for part in parts] == [CONTENT] * 10


async def test_few_files_are_synced_one_by_one(disk):
    parts = await do_all(Rounds(disk, Workers(), "power"), [storing(disk, number) for number in range(3)])
    assert (calls(disk, "sync_system"), calls(disk, "fdatasync"), calls(disk, "fsync_folder")) == (0, 3, 1)
    lost = disk.restart("lost")
    assert [lost.get(part.path) for part in parts] == [CONTENT] * 3


async def test_where_a_file_system_can_not_be_synced_as_a_whole_each_file_is():
    disk = SimulatedDisk(without=frozenset({"sync_system"}))
    disk.make_folder(FOLDER)
    parts = await do_all(Rounds(disk, Workers(), "power"), [storing(disk, number) for number in range(6)])
    assert calls(disk, "fdatasync") == 6
    lost = disk.restart("lost")
    assert [lost.get(part.path) for part in parts] == [CONTENT] * 6


async def test_what_comes_while_a_round_is_made_is_in_the_next(disk):
    begun = anyio.Event()

    class Slow(CountingWorkers):
        async def run(self, call, limiter):
            begun.set()
            await anyio.wait_all_tasks_blocked()
            return await super().run(call, limiter)

    workers = Slow()
    rounds = Rounds(disk, workers, "power")
    late = []

    async def later():
        await begun.wait()
        late.append(await rounds.do(storing(disk, 2), FOLDER, holds_bytes=True))

    async with anyio.create_task_group() as group:
        group.start_soon(later)
        await rounds.do(storing(disk, 1), FOLDER, holds_bytes=True)
    assert workers.trips == 2
    assert disk.restart("lost").get(late[0].path) == CONTENT


async def test_the_loop_makes_the_calls_and_a_thread_the_syncs(disk):
    here, made, synced = threading.get_ident(), [], []
    fdatasync = disk.fdatasync

    def store():
        made.append(threading.get_ident())
        return storing(disk, 1)()

    def sync(fd):
        synced.append(threading.get_ident())
        fdatasync(fd)

    disk.fdatasync = sync
    await Rounds(disk, Workers(), "power").do(store, FOLDER, holds_bytes=True)
    assert made == [here]
    assert synced
    assert here not in synced


async def test_a_job_that_fails_fails_alone(disk):
    def wrong():
        raise ValueError("mine alone")

    outcomes = await do_all(Rounds(disk, Workers(), "power"), [storing(disk, 1), wrong, storing(disk, 2)])
    assert isinstance(outcomes[0], PartFile)
    assert str(outcomes[1]) == "mine alone"
    assert isinstance(outcomes[2], PartFile)


@pytest.mark.parametrize(("name", "files"), [("sync_system", 5), ("fsync_folder", 3)])
async def test_a_sync_that_fails_fails_all_that_it_was_for(disk, name, files):
    failing = getattr(disk, name)

    def fail(place):
        failing(place)
        raise OSError(errno.EIO, "I/O error")

    setattr(disk, name, fail)
    jobs = [storing(disk, number) for number in range(files)]
    outcomes = await do_all(Rounds(disk, Workers(), "power"), jobs)
    assert [each.fault.kind for each in outcomes] == [FaultKind.IO] * files


@pytest.mark.parametrize(("name", "files"), [("sync_system", 5), ("fdatasync", 2), ("fsync_folder", 2)])
async def test_a_sync_that_breaks_leaves_no_job_that_counts_as_durable(disk, name, files):
    def broken(place):
        raise MemoryError

    setattr(disk, name, broken)
    outcomes = await do_all(
        Rounds(disk, Workers(), "power"), [storing(disk, number) for number in range(files)]
    )
    assert [type(each) for each in outcomes] == [MemoryError] * files


async def test_a_name_in_the_same_round_as_a_failed_sync_of_the_file_system_is_synced_by_itself(disk):
    def fail(_):
        raise OSError(errno.EIO, "I/O error")

    disk.sync_system = fail
    named = f"{FOLDER}/named"

    def name():
        disk.close(disk.open(named, os.O_RDWR | os.O_CREAT))
        return True

    rounds = Rounds(disk, Workers(), "power")
    async with anyio.create_task_group() as group:
        group.start_soon(rounds.do, name, FOLDER)
        failed = await do_all(rounds, [storing(disk, number) for number in range(5)])
    assert all(isinstance(each, FileFault) for each in failed)
    assert "named" in disk.restart("lost").names(FOLDER)


async def test_a_file_system_whose_sync_tells_nobody_is_not_synced_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(disks, "SYNCED_AS_A_WHOLE", frozenset())
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match=os.strerror(errno.ENOSYS)) as caught:
            OsDisk().sync_system(fd)
    finally:
        os.close(fd)
    assert lacks(caught.value)


async def test_a_file_that_can_not_be_synced_fails_alone(disk):
    failing, seen = disk.fdatasync, []

    def fail(fd):
        seen.append(fd)
        if len(seen) == 1:
            raise OSError(errno.EIO, "I/O error")
        failing(fd)

    disk.fdatasync = fail
    outcomes = await do_all(Rounds(disk, Workers(), "power"), [storing(disk, 1), storing(disk, 2)])
    failed = [each for each in outcomes if isinstance(each, FileFault)]
    assert [each.fault.kind for each in failed] == [FaultKind.IO]  # trio runs them in any order
    assert sum(isinstance(each, PartFile) for each in outcomes) == 1


async def test_under_process_nothing_is_synced_and_no_thread_is_used(disk):
    workers = CountingWorkers()
    jobs = [storing(disk, number, "process") for number in range(6)]
    await do_all(Rounds(disk, workers, "process"), jobs)
    assert workers.trips == 0
    assert not any("sync" in line for line in disk.power.trace)


async def test_a_disk_that_keeps_the_loop_waiting_gets_threads_for_a_while(disk, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module, "perf_counter", lambda: now[0])
    workers = CountingWorkers()
    rounds = Rounds(disk, workers, "process")

    def slow():
        now[0] += 0.05
        return "done"

    for _ in range(2):
        assert await rounds.do(slow) == "done"
    assert workers.trips == 0
    await rounds.do(slow)
    assert workers.trips == 1
    now[0] += module.RESPITE
    await rounds.do(lambda: "quick")
    assert workers.trips == 1


async def test_a_single_stall_is_forgiven(disk, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module, "perf_counter", lambda: now[0])
    workers = CountingWorkers()
    rounds = Rounds(disk, workers, "process")

    def stalled():  # as the collector of cycles makes it where there are many tasks
        now[0] += 0.2
        return True

    await rounds.do(stalled)
    for _ in range(50):
        await rounds.do(lambda: True)
    await rounds.do(stalled)
    assert workers.trips == 0


async def test_a_canceled_job_is_seen_through(disk):
    rounds = Rounds(disk, Workers(), "power")
    with anyio.CancelScope() as scope:
        scope.cancel()
        await rounds.do(storing(disk, 1), FOLDER, holds_bytes=True)
    assert disk.restart("lost").names(FOLDER) == [f"1.{task_id(1)}.part"]


async def test_a_folder_is_looked_at_again_after_a_moment(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module, "perf_counter", lambda: now[0])
    rounds = Rounds(OsDisk(), Workers(), "process")
    folder = tmp_path / "there"
    with pytest.raises(FileFault):
        rounds.check_folder(str(folder))
    folder.mkdir()
    rounds.check_folder(str(folder))
    folder.rmdir()
    rounds.check_folder(str(folder))
    now[0] += module.LOOK_LASTS
    with pytest.raises(FileFault) as caught:
        rounds.check_folder(str(folder))
    assert caught.value.fault.kind is FaultKind.FILE_NOT_FOUND
