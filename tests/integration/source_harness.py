"""An upload in small: the rules by which the engine reads a source, and a server that remembers its bytes."""

import anyio
from blake3 import blake3

from meowcat.core.pieces import Grid
from meowcat.protocols.contract import Refused
from meowcat.runtime.limits import Budget, Throttle
from meowcat.transfer import source_parts, source_proof, sources
from meowcat.transfer.source_parts import SourceReader
from meowcat.transfer.source_proof import prove
from meowcat.transfer.sources import unmoved

SCALE = 16
STEP = source_parts.STEP // SCALE


def scale_down(monkeypatch):
    """All sizes by which a source is read are a sixteenth: a step is as many chunks and a part as many steps
    as ever, and a test hashes 3 MB in place of 40."""
    for module, names in (
        (sources, ["BUFFER"]),
        (source_parts, ["BUFFER", "STEP", "KEPT", "FIRST", "LEAST"]),
        (source_proof, ["STEP"]),
    ):
        for name in names:
            monkeypatch.setattr(module, name, getattr(module, name) // SCALE)


class Changed(Exception):
    """The upload was given up: what is there is not what was sent."""


class Upload:
    """Sends a source piece by piece, and commits what the server has.

    `between(phase)` is called where something may happen to the source: `("begin", 0)` once it is pinned,
    `("part", n)` after each chunk of a part, `("sent", n)` between parts, `("end", 0)` before the commit.
    """

    def __init__(
        self, source, piece, *, memory=(64 << 20) // SCALE, connections=1, checksum=None, between=None
    ):
        self.source = source
        self.piece = piece
        self.memory = memory
        self.budget = Budget(256, memory)
        self.connections = connections
        self.checksum = checksum
        self.between = between or (lambda phase: None)
        self.always = False
        """`verify_source="always"`."""
        self.sent = {}
        self.digests = {}
        self.proofs = 0

    async def run(self):
        """The bytes that were committed."""
        pinned = await self.source.identity()
        self.between(("begin", 0))
        self.grid = Grid(pinned.size, self.piece)
        failures = []
        async with anyio.create_task_group() as group:
            self.reader = SourceReader(self.source, pinned, group, self.budget, Throttle())
            pieces = iter(range(self.grid.count))
            async with anyio.create_task_group() as connections:
                for _ in range(self.connections):
                    connections.start_soon(self._connection, pieces, connections, failures)
        assert self.budget._free == self.memory, "memory was not given back"
        if failures:
            raise failures[0]
        self.between(("end", 0))
        now = await self.source.identity()
        if self.always or pinned.young or not unmoved(self.reader.pinned, now):
            await self._prove()
        return b"".join(self.sent[index] for index in range(self.grid.count))

    async def _connection(self, pieces, connections, failures):
        try:
            for index in pieces:
                await self._send(index)
                self.between(("sent", index))
        except (Refused, Changed) as failure:
            failures.append(failure)
            connections.cancel_scope.cancel()

    async def _send(self, index):
        with self.reader.part(index, *self.grid.span(index)) as part:
            if self.checksum is not None:
                promised = await part.checksum(self.checksum)
                self.between(("checksum", index))
            got = bytearray()
            async for chunk in part.body():
                got += chunk
                self.between(("part", index))
            assert len(got) == part.size
            assert part.digest == blake3(got).digest()
            if self.checksum is not None:
                assert promised == await part.checksum(self.checksum)
            self.sent[index] = bytes(got)
            self.digests[index] = part.digest
        if part.moved:  # only now that the part's memory is given back: proving takes some, too
            await self._prove()

    async def _prove(self):
        self.proofs += 1
        proved = await prove(self.source, self.budget, self.grid, dict(self.digests), {})
        if proved is None:
            raise Changed
        self.reader.pinned = proved


def next_tick(path):
    """Return once a change of the file would be stamped otherwise than its last one."""
    clock = path.with_name("clock")
    clock.touch()
    while clock.stat().st_ctime_ns <= path.stat().st_ctime_ns:
        clock.touch()
