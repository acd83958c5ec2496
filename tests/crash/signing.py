"""A process that signs its history and kills itself at one point of doing so; prints what it has signed."""

import os
import signal
import sys
from pathlib import Path

import anyio

import meowcat
from journal_adapters.sqlite import SQLiteJournal
from meowcat.audit import Key
from meowcat.audit.files import CheckpointFile


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DyingKey:
    def __init__(self, key: Key, *, dies: bool) -> None:
        self.vkey, self._key, self._dies = key.vkey, key, dies

    def sign(self, message: bytes) -> bytes:
        signature = self._key.sign(message)
        if self._dies:
            die()
        return signature


class DyingJournal(SQLiteJournal):
    """Dies before its n-th snapshot: the first is the checkpoint, the second the roots."""

    dies_before = 0

    def put_snapshot(self, name: str, position: int, body: bytes) -> None:
        self.dies_before -= 1
        if self.dies_before == 0:
            die()
        super().put_snapshot(name, position, body)


def dying_append(self: CheckpointFile, data: bytes, *, new: bool) -> None:
    with self.path.open("ab") as file:
        file.write(data[: len(data) // 2])
        file.flush()
        die()


async def main(folder: Path, point: str, count: int) -> None:
    journal = DyingJournal(folder / "t.db")
    journal.dies_before = {"before keeping": 1, "between": 2}.get(point, 0)
    if point == "exporting":
        CheckpointFile._append = dying_append
    key = DyingKey(Key.load(folder / "audit.key"), dies=point == "signing")
    audit = meowcat.Audit(key, checkpoints=folder / "checkpoints", at_close=False)
    async with meowcat.Engine(journal, audit=audit) as engine:
        for number in range(count):
            target = folder / f"{os.getpid()}-{number}"
            await engine.submit(meowcat.Download("https://host.example/x", str(target)), paused=True)
        print(await engine.checkpoint(), flush=True)
        if point == "afterwards":
            die()


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
