"""A world to test an application in: its time, servers, disk and journal, and a power that goes when told.

    def test_the_nightly_sync_survives_a_crash_at_any_point():
        world = World(seed=7)
        world.server.serve("https://host/big.bin", 300_000)

        async def sync(world):
            async with world.engine() as engine:
                await nightly_sync(engine, "https://host/big.bin", "/data/big.bin")

        assert world.every_crash(sync) > 20

Time is virtual (`meowcat.testing.virtual_time`), and all that happens depends on the seed: the same seed and
the same code give the same history, event for event. An error that leaves a world carries its seed and calls.
"""

# ruff: noqa: SLF001  # a copy is made by the one that it is a copy of

import asyncio
import copy
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Literal, TypeVar, get_args

import anyio
import anyio.lowlevel
import anyio.to_thread

from meowcat.config import Config
from meowcat.core.errors import InvalidArgument
from meowcat.core.values import Position
from meowcat.engine import Engine
from meowcat.journal.contract import Owner, Record
from meowcat.journal.logged import LoggedEvent, readable
from meowcat.runtime.world import Clock
from meowcat.testing.depot import DepotProtocol
from meowcat.testing.disk import SimulatedDisk
from meowcat.testing.mortal_journal import FolderMedium, MakeJournal, Medium, MemoryMedium, MortalJournal
from meowcat.testing.power import Power, PowerLost, When
from meowcat.testing.promises import broken_promises
from meowcat.testing.scripted import ScriptedServer, ScriptedTransport
from meowcat.testing.virtual_time import StoodStill, TimeIsUp, VirtualLoop, VirtualTime
from meowcat.transfer.workers import Workers
from meowcat.transport.contract import Timeouts

__all__ = ["Loss", "NotReproducible", "PowerLost", "StoodStill", "TimeIsUp", "World"]

T = TypeVar("T")

Loss = Literal["lost", "kept", "seed", "killed"]
"""What is left of what was not synced: nothing; everything; anything, by the seed. `killed`: the process died
and the power did not go, so that nothing is lost now, and nothing is safer than it was."""

LOSSES: tuple[Loss, ...] = ("lost", "kept", "seed")

BEGINNING = 1_767_225_600_000
"""The wall clock when a world begins: 2026-01-01 UTC, in milliseconds since 1970."""

WEEK = 7 * 86_400.0
"""Seconds of the world's time that a run may take unless it says otherwise."""

DYING = 3600.0
"""Seconds of the world's time that are left to what unwinds after the power has gone."""

HOP = (0.00002, 0.0005)
"""Seconds that a blocking call takes: at least, and at most; by the seed."""

TOLD = 300
"""Calls that an error shows, the last ones."""


class NotReproducible(AssertionError):  # reads as the fact that it states
    """The same work did something else the second time: it depends on more than the world."""


class WorldWorkers(Workers):
    """Blocking calls are made on the loop, one after the other; each takes a time of its own."""

    threaded = False

    def __init__(self, random: Random) -> None:
        self._random = random

    async def run(self, call: Callable[[], T], limiter: anyio.CapacityLimiter) -> T:
        await anyio.lowlevel.checkpoint()
        async with limiter:
            with anyio.CancelScope(shield=True):  # as with a thread: what was begun is seen through
                await anyio.sleep(self._random.uniform(*HOP))
            return call()


class World:
    """A machine with a disk and a journal, and the servers that it can reach.

    Args:
        seed: of everything that is left to chance: latencies, jitter, ids, what a power loss takes.
        journal: makes the application's own journal in a folder that it is given, once for each process;
            by default meowcat's journal in memory.
        folders: of the disk, which exist; `/data` unless given.
        disk: the disk, where one with a capacity or other operations is wanted.

    Attributes:
        server: who answers. Servers know nothing of crashes.
        disk: what the application's files are on. Its `put`, `get`, `remove` and `cut` are the hand from
            outside, which costs no call.
        power: counts the calls of disk, journal and network together.
        notes: what somebody outside the machine remembers, as which commands were acknowledged: for
            `work` to write and for checks to read. It survives every crash.

    """

    def __init__(
        self,
        seed: int = 0,
        *,
        journal: MakeJournal | None = None,
        folders: Sequence[str] = ("/data",),
        disk: SimulatedDisk | None = None,
    ) -> None:
        self.seed = seed
        self.server = ScriptedServer()
        self.notes: dict[str, Any] = {}
        self.disk = SimulatedDisk(seed) if disk is None else disk
        self._connect(Power())
        for folder in folders:
            self.disk.make_folder(folder)
        self._medium: Medium = MemoryMedium() if journal is None else FolderMedium(journal)
        self._time = VirtualTime()
        self._random = Random(seed)  # noqa: S311  # to be repeated, not to be secret
        self._journals: list[MortalJournal] = []
        self._promised = True
        """Whether what the last process recorded had to outlive what ended it."""

    # What an application is given

    def engine(self, **options: Any) -> Engine:
        """An engine in this world, not yet open. `options` are those of `meowcat.Engine`; besides those of
        its `protocols` it has the `DepotProtocol`."""
        config = options.get("config") or Config()
        timeouts = Timeouts(config.connect_timeout, config.read_timeout, config.pool_timeout)
        made: dict[str, Any] = {
            "http_client": self.transport(timeouts),
            "clock": self.clock,
            "disk": self.disk,
            "workers": WorldWorkers(self._random),
            "protocols": [DepotProtocol, *options.pop("protocols", ())],
        }
        if "journal" not in options:
            made["journal"] = self.journal()
        return Engine(**(made | options))

    def journal(self) -> MortalJournal:
        """The journal as a process finds it now, not yet open."""
        journal = MortalJournal(self._medium, self.power)
        self._journals.append(journal)
        return journal

    def transport(self, timeouts: Timeouts = Timeouts()) -> ScriptedTransport:  # noqa: B008  # it is frozen
        """A transport to this world's servers, for an application that wraps it in one of its own."""
        return ScriptedTransport(self.server, self.power, self._random, timeouts, lambda: self.now)

    @property
    def clock(self) -> Clock:
        random = self._random
        return Clock(wall=self.wall, monotonic=lambda: self.now, roll=random.random, entropy=random.randbytes)

    @property
    def now(self) -> float:
        """Seconds since the world began, restarts included."""
        return self._time.now

    def wall(self) -> int:
        """The wall clock: milliseconds since 1970 UTC."""
        return BEGINNING + round(self.now * 1000)

    # Lives

    def run(self, work: Callable[["World"], Awaitable[T]], *, within: float = WEEK) -> T:
        """Let a process do `work(world)` to its end, and return what it returns.

        Raises:
            PowerLost: the power went. TimeIsUp: after `within` seconds of the world's time it was still at
            it. StoodStill: everybody waits for something that never comes. And what `work` raises.
        """
        _refuse_loop()
        if self.power.off:
            raise PowerLost("the machine is off: call restart() first")
        self._time.end = self.now + within
        with self.explained(), _logging_as_it_was():
            runner = asyncio.Runner(loop_factory=lambda: VirtualLoop(self._time))
            try:
                return runner.run(self._life(work))
            except (StoodStill, TimeIsUp) as end:
                if self.power.off:
                    raise PowerLost from end
                raise type(end)(self._account(end, runner.get_loop(), within)) from None
            finally:
                self._bury(runner)

    async def _life(self, work: Callable[["World"], Awaitable[T]]) -> T:
        limiter = anyio.to_thread.current_default_thread_limiter()
        self._time.busy = lambda: limiter.borrowed_tokens > 0
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._heed_error)
        life = asyncio.current_task()
        assert life is not None
        self.power.told = partial(self._die, loop, life)
        try:
            result = await work(self)
        except BaseException as error:  # raised again, but for what a machine that is off still says
            if self.power.off:
                raise PowerLost from error
            raise
        if self.power.off:
            raise PowerLost
        return result

    def _die(self, loop: asyncio.AbstractEventLoop, life: asyncio.Task[Any]) -> None:
        """The power goes in the middle of a run."""
        self._leave()
        logging.disable()  # nobody hears what a machine that is off still says
        self._time.end = self.now + DYING
        loop.call_soon_threadsafe(life.cancel)

    def _leave(self) -> None:
        """A process is gone: what the journal has at this instant is what is left of it."""
        self._medium = self._medium.image()

    def _heed_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not self.power.off:
            loop.default_exception_handler(context)

    def _bury(self, runner: asyncio.Runner) -> None:
        self._time.end = self.now + DYING
        # Tasks that are left over, and may wait for what never comes.
        with suppress(StoodStill, TimeIsUp, PowerLost):
            runner.close()
        self.power.told = self._leave
        forsaken = [journal for journal in self._journals if not journal.closed]
        if forsaken and not self.power.off:
            self._leave()
        for journal in forsaken:
            journal.let_go()

    def _account(self, end: Exception, loop: asyncio.AbstractEventLoop, within: float) -> str:
        """What everybody was doing."""
        if isinstance(end, TimeIsUp):
            said = f"after {within:,.0f} s of the world's time the work was not done"
        else:
            said = f"everybody waits for something that never comes, at {self.now:,.3f} s"
        waiting = {f"  in {_place(task.get_coro())}" for task in asyncio.all_tasks(loop)}
        return "\n".join([said, *sorted(waiting)])

    def advance(self, seconds: float) -> None:
        """Let time pass while no process is at work."""
        self._time.now += seconds

    # Crashes

    def crash_at(self, number: int, when: When = "before") -> None:
        """Lose the power at the call with this number; `power.calls` tells how many there were.

        Raises:
            InvalidArgument: no such number, or neither before nor after.
        """
        if number < 1 or when not in get_args(When):
            raise InvalidArgument(
                f"crash_at({number}, {when!r}): expected 1 or more, and 'before' or 'after'"
            )
        self.power.crash_at(number, when)

    def crash(self) -> None:
        """Lose the power now, in the middle of `work`. Raises PowerLost."""
        self.power.cut()
        raise PowerLost

    @property
    def crashed(self) -> bool:
        """Whether the power is gone."""
        return self.power.off

    def restart(self, loss: Loss = "seed", *, draw: int = 0) -> None:
        """Come up again after the power went, now if it has not yet; `loss` says what that took with it.

        Calls are counted from 1 again. Another `draw` is another outcome of what `loss="seed"` leaves to
        chance.

        Raises:
            InvalidArgument: no such loss.
        """
        if loss not in get_args(Loss):
            raise InvalidArgument(f"loss {loss!r}: expected one of {', '.join(get_args(Loss))}")
        if not self.power.off:
            self._leave()
        trace = [*self.power.trace, f"-- {loss}: the next process, at {self.now:,.3f} s --"]
        self.disk.reseed(self.disk.seed + draw)
        self.disk = self.disk.killed() if loss == "killed" else self.disk.restart(loss)
        self._promised = loss == "killed" or all(each.sync != "process" for each in self._journals)
        self._journals = []
        self._connect(Power())
        self.power.trace = trace

    def _connect(self, power: Power) -> None:
        self.power = self.disk.power = power
        power.told = self._leave

    def copy(self) -> "World":
        """A world of its own that goes on from here; also one that is off, to be restarted in another way."""
        twin = copy.copy(self)
        twin.server = self.server.copy()
        twin.notes = copy.deepcopy(self.notes)
        twin.disk = self.disk.killed()
        twin._connect(Power())
        twin.power.off, twin.power.trace = self.power.off, list(self.power.trace)
        twin._medium = self._medium.image()
        twin._time = VirtualTime(self.now)
        twin._random = copy.deepcopy(self._random)
        twin._journals = []
        return twin

    def every_crash(
        self,
        work: Callable[["World"], Awaitable[object]],
        check: Callable[["World"], object] | None = None,
        *,
        losses: Sequence[Loss] = LOSSES,
        calls: slice = slice(None),
        promises: bool = True,
    ) -> int:
        """Crash `work` before each call that it makes and after the last; restart, run it again, and check.

        This world stays as it is: all is done in copies of it. A crash after a call leaves what the one
        before the next call leaves; but by then `work` has heard of the call, and acted upon it.

        Args:
            work: what the application does, and does again after the crash. What it keeps outside the world
                (lists, globals) is shared by all the worlds that are tried: use `notes`.
            check: called after the work has ended, in the world with the crash and in one without; raises
                where something is not as it should be.
            losses: how each crash ends. One that is named again is drawn anew.
            calls: which moments: `slice(None, None, 5)` is every fifth, `slice(-20, None)` the last twenty.
            promises: whether after each restart the disk must have what the journal says that it has
                (`check_promises`); to be turned off where the application moves or changes finished files.

        Returns:
            How many crashes there were, each with every loss.

        Raises:
            NotReproducible: the work made fewer calls when it was repeated. And what `work` and `check`
            raise, with the seed, the crash and all calls.
        """
        whole = self.copy()
        whole.run(work)
        last = whole.power.calls
        moments: list[tuple[int, When]] = [(number, "before") for number in range(1, last + 1)]
        moments = [*moments, (last, "after")][calls]
        _look(whole, check)
        for number, when in moments:
            doomed = self.copy()
            doomed.crash_at(number, when)
            with suppress(PowerLost):
                doomed.run(work)
            if not doomed.crashed:
                told = f"the work made {doomed.power.calls} calls, and at least {number} before"
                raise NotReproducible(f"{told}: does it read a clock, chance or a socket of its own?")
            for index, loss in enumerate(losses):
                again = doomed.copy()
                again.restart(loss, draw=number * len(losses) + index)
                if promises:
                    again.check_promises()
                again.run(work)
                _look(again, check)
        return len(moments)

    # What happened

    def history(self) -> list[LoggedEvent]:
        """Every event in the journal, of all tasks, in order."""
        medium = self._medium.image()
        journal = medium.journal()
        journal.open(Owner(0, "the test"), "process")
        try:
            found: list[LoggedEvent] = []
            after = Position(0)
            while records := journal.scan(after, 1000):
                after = _last(records)
                found += [event for each in records if isinstance(each, Record) and (event := readable(each))]
            return found
        finally:
            journal.close()

    def check_promises(self) -> None:
        """See that the disk has what the journal says: every piece that is recorded as stored, and the file
        of every task that is Complete. To be asked after a restart, before the next run. Nothing is promised
        after a loss of power to an engine that ran with `durability="process"`.

        Raises:
            AssertionError: with what is missing.
        """
        if not self._promised:
            return
        with self.explained():
            broken = broken_promises(self.history(), self.disk)
            assert not broken, "\n".join(broken)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Add the seed and the calls to any error that leaves this block."""
        try:
            yield
        except BaseException as error:  # raised again: whatever it is, with what led to it
            mark = f"World(seed={self.seed})"
            if not any(note.startswith(mark) for note in getattr(error, "__notes__", ())):
                told = f"{mark} at {self.now:,.3f} s of its time; its calls:"
                error.add_note("\n".join([told, *self.power.trace[-TOLD:]]))
            raise


def _refuse_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise InvalidArgument("World.run has a loop of its own: call it from a plain function, not a coroutine")


def _place(coroutine: Any) -> str:
    """Where a task waits: the innermost coroutine that is not a library's."""
    place = "a task"
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        if not {"asyncio", "anyio"} & set(Path(frame.f_code.co_filename).parts):
            place = f"{frame.f_code.co_qualname}, line {frame.f_lineno}"
        coroutine = coroutine.cr_await
    return place


@contextmanager
def _logging_as_it_was() -> Iterator[None]:
    level = logging.root.manager.disable
    try:
        yield
    finally:
        logging.disable(level)


def _look(world: World, check: Callable[[World], object] | None) -> None:
    if check is not None:
        with world.explained():
            check(world)


def _last(records: Sequence[Any]) -> Position:
    return Position(max(each.position or 0 for each in records))
