"""The power goes at every call of a whole engine: what is Complete then is whole, and all gets there."""

import copy
from contextlib import contextmanager
from dataclasses import replace
from random import Random
from threading import Lock

import anyio
import anyio.lowlevel
import pytest

import meowcat
from journal_adapters.memory import MemoryJournal, Store
from meowcat.core.errors import JournalClosed
from meowcat.core.machine import State
from meowcat.core.state import evolve
from meowcat.journal.replay import fold_task
from meowcat.testing.content import Content
from meowcat.testing.disk import PowerLost, SimulatedDisk
from meowcat.testing.range_server import RangeServer
from meowcat.transfer.files import part_path

pytestmark = pytest.mark.anyio

KIB = 1 << 10
CONTENT = Content(4 * 64 * KIB + 1000)
BYTES = CONTENT.bytes()
FOLDER = "/data"
NAME = "file.bin"
TARGET = f"{FOLDER}/{NAME}"
LOSSES = [("lost", 0), ("kept", 0), ("seed", 1), ("seed", 10)]
"""What becomes of what was not synced, and the seed of the choice. Two changes of names, as a link and an
unlink, come out in all four ways among these: none, both, the first alone, the second alone."""
MORE_SEEDS = [("seed", seed) for seed in range(20, 37)]
PATIENCE = 20.0
MOST_CALLS = 200


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def server():
    with RangeServer(CONTENT) as server:
        yield server


class Machine:
    """A disk and a journal that lose power together."""

    def __init__(self, disk, store=None, durability="power"):
        self.disk = disk
        self.durability = durability
        self.journal = MortalJournal(self, store or Store())
        self.off = False
        self._went_off = anyio.Event()
        self._call_soon = anyio.lowlevel.current_token().native_token.call_soon_threadsafe

    def lose_power(self):
        self.off = True
        self.disk.crash_at(self.disk.calls + 1, "before")
        self._call_soon(self._went_off.set)

    async def live(self, work):
        """Open an engine and let `work` use it until it is through, or the power goes."""
        try:
            with anyio.fail_after(PATIENCE):
                await self._live(work)
        except* PowerLost:
            self.off = True
        except* JournalClosed:
            if not self.off:
                raise
        return not self.off

    async def _live(self, work):
        async with anyio.create_task_group() as group:
            group.start_soon(self._end_with_power, group.cancel_scope)
            config = replace(CONFIG, durability=self.durability)
            async with meowcat.Engine(self.journal, config=config, disk=self.disk) as engine:
                await work(engine)
            group.cancel_scope.cancel()

    async def _end_with_power(self, scope):
        await self._went_off.wait()
        scope.cancel()

    def after(self, choice, seed):
        """The machine as it comes up again; may be asked for different losses."""
        disk = copy.copy(
            self.disk
        )  # `restart` copies all that it changes, but draws from the disk's own seed
        disk.seed, disk._random = seed, Random(seed)
        return Machine(disk.restart(choice), self._journaled())

    def after_a_kill(self):
        """The machine as the next process finds it, which asks for `power`: nothing is lost yet."""
        return Machine(self.disk.killed(), self._journaled())

    def _journaled(self):
        store = copy.deepcopy(self.journal.store)
        store.owner = None
        return store

    @property
    def task(self):
        """The task as the journal has it; None before it was recorded."""
        for task in self.journal.store.tasks:
            reader = MemoryJournal(store=self.journal.store)
            reader.open_for_reading()
            return fold_task(task, reader.read(task), evolve)
        return None

    @property
    def events(self):
        return [record.type for record, _ in self.journal.store.records]


class MortalJournal(MemoryJournal):
    """Has every record that it acknowledged, and takes none once the power is gone."""

    def __init__(self, machine, store):
        super().__init__(store=store)
        self._machine = machine
        self._mutex = Lock()
        self.appends = 0
        self.crash = None

    def append(self, batch):
        with self._mutex:
            self.appends += 1
            self._lose_power_if("before")
            position = super().append(batch)
            self._lose_power_if("after")
            return position

    def _lose_power_if(self, when):
        if self.crash == (self.appends, when):
            self._machine.lose_power()
        if self._machine.off or self._machine.disk._off:
            raise JournalClosed("the power is gone")


CONFIG = meowcat.Config(piece_size=64 * KIB, connections=1, flush_seconds=0.001)


def machine(durability="power", **options):
    disk = SimulatedDisk(**options)
    disk.make_folder(FOLDER)
    return Machine(disk, durability=durability)


def download(server, **options):
    async def work(engine):
        # So slow that pieces are flushed one by one, in several events.
        await engine.download(server.url, TARGET, limit_rate=2048 * KIB, **options)

    return work


async def nothing(engine):
    await engine.drain()


def nothing_is_promised_that_is_not_there(machine):
    """What the journal says of the bytes, on the disk after the loss."""
    there, task = machine.disk.get(TARGET), machine.task
    assert there in (None, BYTES), "the target has a part of the bytes, or others"
    if task is None:
        return
    if task.state is State.COMPLETE:
        assert there == BYTES, "Complete, and the file is not there"
        return
    held = there or machine.disk.get(part_path(TARGET, task.id)) or b""
    for first, stop in task.stored.pairs:
        start, end = first * task.piece_size, min(stop * task.piece_size, CONTENT.size)
        assert held[start:end] == BYTES[start:end], f"pieces {first} to {stop} are recorded and not there"


async def it_gets_there(machine, work):
    """Go on as the application would that runs again."""
    if machine.task is None or machine.task.state is not State.COMPLETE:
        assert await machine.live(work)
    else:
        assert await machine.live(nothing)
    assert machine.disk.get(TARGET) == BYTES
    assert machine.task.state is State.COMPLETE
    assert machine.disk.list_folder(FOLDER) == [NAME]


@contextmanager
def explained(machine, what):
    try:
        yield
    except BaseException as error:
        error.add_note(f"{what}\nevents: {machine.events}\ncalls:\n" + "\n".join(machine.disk.trace))
        raise


async def survive(dead, work, losses, what):
    """Come up after each of the losses, look, and go on to the end."""
    for choice, seed in losses:
        again = dead.after(choice, seed)
        with explained(again, f"{what}, {choice} (seed {seed})"):
            nothing_is_promised_that_is_not_there(again)
            await it_gets_there(again, work)


async def lose_power_at_every_call(server, when, losses, **options):
    """Crash at call 1, 2, 3 … until a download is through before its call comes. Returns how many came."""
    for number in range(1, MOST_CALLS):
        doomed = machine(**options)
        doomed.disk.crash_at(number, when)
        await doomed.live(download(server))
        await survive(doomed, download(server), losses, f"power lost {when} call {number}")
        if doomed.disk.calls < number:
            return doomed.disk.calls
    raise AssertionError(f"a small download made {MOST_CALLS} calls")


@pytest.mark.parametrize("when", ["before", "after"])
async def test_power_lost_at_any_call_of_the_disk_never_makes_a_wrong_complete(server, when):
    assert await lose_power_at_every_call(server, when, LOSSES) > 25


@pytest.mark.parametrize("when", ["before", "after"])
async def test_power_lost_at_any_append_of_the_journal_never_makes_a_wrong_complete(server, when):
    for number in range(1, MOST_CALLS):
        doomed = machine()
        doomed.journal.crash = (number, when)
        await doomed.live(download(server))
        await survive(doomed, download(server), LOSSES, f"power lost {when} append {number}")
        if doomed.journal.appends < number:
            break
    assert number > 5


@pytest.mark.parametrize("without", [{"rename_new"}, {"rename_new", "link"}], ids=["links", "neither"])
async def test_power_lost_while_publishing_without_an_exclusive_rename(server, without):
    options = {"without": frozenset(without)}
    whole = machine(**options)
    assert await whole.live(download(server))
    for number in range(whole.disk.calls - 14, whole.disk.calls + 1):
        doomed = machine(**options)
        doomed.disk.crash_at(
            number, "after"
        )  # before a call is after the one before it: no thread is at work
        await doomed.live(download(server))
        await survive(doomed, download(server), LOSSES, f"power lost after call {number}")


async def test_power_lost_while_a_checksum_is_verified(server):
    work = download(server, checksum=f"sha256:{CONTENT.sha256}")
    whole = machine()
    assert await whole.live(work)
    assert "preadv" in "".join(whole.disk.trace)
    for number in range(whole.disk.calls - 22, whole.disk.calls + 1, 2):
        doomed = machine()
        doomed.disk.crash_at(number, "after")
        await doomed.live(work)
        await survive(doomed, work, [("lost", 0), ("seed", number)], f"power lost after call {number}")


async def test_power_lost_again_during_the_recovery(server):
    for number in range(3, MOST_CALLS, 7):
        once = machine()
        once.disk.crash_at(number, "after")
        if await once.live(download(server)):
            break
        for second in range(2, MOST_CALLS, 7):
            twice = once.after("seed", number)
            twice.disk.crash_at(second, "before")
            await twice.live(download(server))
            await survive(
                twice, download(server), [("lost", 0), ("seed", second)], f"calls {number}, then {second}"
            )
            if twice.disk.calls < second:
                break


async def test_what_began_under_process_is_durable_when_it_ends_under_power(server):
    for number in range(16, MOST_CALLS):
        killed = machine(durability="process")
        killed.disk.crash_at(number, "after")
        await killed.live(download(server))
        if killed.task.state is State.COMPLETE:
            break
        ended = killed.after_a_kill()
        with explained(ended, f"killed after call {number}"):
            await it_gets_there(ended, download(server))
        for choice, seed in LOSSES:
            again = ended.after(choice, seed)
            with explained(
                again, f"killed after call {number}, power lost at the end, {choice} (seed {seed})"
            ):
                nothing_is_promised_that_is_not_there(again)
    assert number > 20


async def test_what_was_recorded_as_stored_is_not_fetched_again(server):
    most = 0
    for number in range(17, MOST_CALLS, 3):
        doomed = machine()
        doomed.disk.crash_at(number, "before")
        if await doomed.live(download(server)):
            break
        again = doomed.after("lost", 0)
        stored, before = again.task.stored.total, server.bytes_served()
        with explained(again, f"power lost before call {number}"):
            await it_gets_there(again, download(server))
            # A piece of slack: the last one is shorter than the others.
            assert server.bytes_served() - before <= CONTENT.size - max(0, stored - 1) * 64 * KIB
        most = max(most, stored)
    assert most > 2


@pytest.mark.soak
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("without", [frozenset(), frozenset({"rename_new"})], ids=["all", "links"])
@pytest.mark.timeout(0)
async def test_power_lost_at_any_call_with_many_seeds(server, when, without):
    await lose_power_at_every_call(server, when, LOSSES + MORE_SEEDS, without=without, short_writes=True)
