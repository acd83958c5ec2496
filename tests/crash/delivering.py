"""A process that downloads and delivers its events into a database, and is killed."""

import sqlite3
import sys
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec

import meowcat
from meowcat.sinks import event_object

TASKS = 25


class Database:
    """A sink that writes down each delivery, repeated ones too: one transaction a batch."""

    def __init__(self, path: str) -> None:
        self.path = path

    async def deliver(self, events):
        rows = [
            (event.id, event.task, event.seq, event.position, msgspec.json.encode(event_object(event)))
            for event in events
        ]
        await anyio.to_thread.run_sync(self._write, rows)

    def _write(self, rows):
        with sqlite3.connect(self.path) as database:
            database.executemany("INSERT INTO delivery VALUES (NULL, ?, ?, ?, ?, ?)", rows)
        database.close()


async def main(journal: str, origin: str, folder: str, database: str, durability: str, last: str) -> None:
    config = meowcat.Config(max_downloads=8, piece_size=64 << 10, flush_seconds=0.01, durability=durability)  # type: ignore[arg-type]  # from argv
    async with meowcat.Engine(journal, config=config) as engine:
        await engine.add_sink("database", Database(database))
        print("ready", flush=True)
        have = len(list(Path(folder).glob("*.bin")))  # noqa: ASYNC240  # of a small folder
        names = [f"{have + n}.bin" for n in range(TASKS)]
        await engine.submit_many(
            [meowcat.Download(f"{origin}/{name}", to=f"{folder}/{name}") for name in names]
        )
        if last == "go on":
            await anyio.sleep_forever()
        await engine.drain()
    print("complete", flush=True)


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
