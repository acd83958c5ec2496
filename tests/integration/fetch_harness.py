"""Drives the operations of one download with the real core: a runtime in 100 lines, its journal a list."""

from collections import deque
from contextlib import asynccontextmanager

import anyio

from meowcat.core import messages as msg
from meowcat.core.crowd import Crowd
from meowcat.core.decide import decide
from meowcat.core.events import AttemptFailed, Rechecked, Restarted, Stored
from meowcat.core.machine import State
from meowcat.core.seal import seal
from meowcat.core.state import evolve, fold
from meowcat.core.transfers import Download
from meowcat.core.values import Instant, TaskId
from meowcat.core.wanted import wanted
from meowcat.protocols.contract import Tools
from meowcat.protocols.credentials import Credentials
from meowcat.protocols.refreshers import Refreshers
from meowcat.protocols.registry import Protocols
from meowcat.runtime.limits import Budget
from meowcat.runtime.traffic import Traffic
from meowcat.runtime.world import wall
from meowcat.transfer.context import Errand, Plugins, World
from meowcat.transfer.disk import OsDisk
from meowcat.transfer.operations import operation_for
from meowcat.transfer.sources import Sources
from meowcat.transport.contract import Timeouts
from meowcat.transport.direct import DirectHttp
from meowcat.transport.httpx import HttpxTransport
from meowcat.transport.reqwest import ReqwestTransport

PIECE = 64 << 10
TIMEOUTS = Timeouts(connect=5, read=5)


def transport_for(backend, timeouts=TIMEOUTS):
    """pyreqwest on asyncio, httpx on trio, and past both what is large."""
    small = HttpxTransport(timeouts=timeouts) if backend == "trio" else ReqwestTransport(timeouts)
    return DirectHttp(small, timeouts)


@asynccontextmanager
async def world_of(backend, *, timeouts=TIMEOUTS, memory=64 << 20, **settings):
    transport = settings.get("transport") or transport_for(backend, timeouts)
    fields = {
        "transport": transport,
        "disk": OsDisk(),
        "budget": Budget(64, memory),
        "durability": "process",
        "flush_bytes": 1 << 20,
        "flush_seconds": 0.02,
        "clock": anyio.current_time,
        "wall": wall,
        "sleep": anyio.sleep,
        "plugins": Plugins(
            Protocols.with_own([]), Tools(transport, wall, Credentials(), Refreshers(), {}), Sources()
        ),
    }
    try:
        yield World(**(fields | settings))
    finally:
        await transport.aclose()


class Drive:
    """One task from its creation on. `run` does what a runtime would until nothing is wanted any more."""

    def __init__(self, world, url, to, *, waits=20, **options):
        options.setdefault("piece_size", PIECE)
        request, self.secrets = seal(Download(url, str(to), **options))
        self.world = world
        self.waits = waits
        """How many delays are waited for (by no time at all) before the test is given up."""
        self.events = []
        self.messages = []
        self.task = None
        self.operation = None
        """The operation at work."""
        self._inbox = deque()
        self._recorded = anyio.Event()
        self._news = anyio.Event()
        self._apply(msg.Create(task=TaskId("01" * 13), key=str(to), request=request))

    def send(self, message):
        self._inbox.append(message)
        self._news.set()

    def drain(self):
        """Deal with what was sent while nothing ran."""
        while self._inbox:
            self._apply(self._inbox.popleft())

    def crash(self):
        """Go on with nothing but the journal, as after kill -9."""
        self._inbox.clear()
        self.task = fold(self.events)
        self._apply(msg.Recover(resume=True))

    def resume(self):
        self._apply(msg.Resume())

    async def run(self):
        while True:
            if self.task.state is State.QUEUED:
                self._apply(msg.Admit())
            want = wanted(self.task)
            if want is None:
                return self.task
            if want.hold:
                self.waits -= 1
                assert self.waits, f"waits for ever: {self.task.fault}"
                self._apply(msg.Wake(seq=self.task.wait.seq))
            else:
                await self._operate(want.operation)

    async def _operate(self, wanted_operation):
        share = Traffic(self.world.budget, 64, self.world.clock).share(self.task.id, "host", None)
        errand = Errand(self.task, self.secrets, self.send, self, share, share, Crowd())
        self.operation = operation_for(self.world, errand, wanted_operation)
        scope, over = anyio.CancelScope(), False

        async def live():
            nonlocal over
            with scope:
                await self.operation.run()
            over = True
            self._news.set()

        async with anyio.create_task_group() as group:
            group.start_soon(live)
            while not over or self._inbox:
                await self._news.wait()
                self._news = anyio.Event()
                while self._inbox:
                    self._apply(self._inbox.popleft())
                    self._steer(wanted_operation, scope)

    def _steer(self, operation, scope):
        want = wanted(self.task)
        if want is None or want.operation != operation:
            scope.cancel()
        elif not scope.cancel_called:
            self.operation.update(self.task, hold=want.hold)

    async def events_of(self, _task):
        for event in tuple(self.events):
            yield event

    def _apply(self, message):
        self.messages.append(message)
        decision = decide(self.task, message, Instant(wall(), 0.5))
        assert decision.refusal is None, decision.refusal
        for event in decision.events:
            self.task = evolve(self.task, event)
            self.events.append(event)
        self._recorded.set()
        self._recorded = anyio.Event()

    # What tests ask

    async def until_stored(self, pieces):
        while self.stored_pieces < pieces:
            await self._recorded.wait()

    def told(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def stored_pieces(self):
        return sum(stop - first for event in self.told(Stored) for first, stop in event.pieces)

    @property
    def faults(self):
        return [event.fault for event in self.told(AttemptFailed)]

    @property
    def restarts(self):
        return len(self.told(Restarted))

    @property
    def lost_pieces(self):
        return sum(stop - first for event in self.told(Rechecked) for first, stop in event.lost)
