"""An application that keeps a table of its own up to date from meowcat's events, each applied exactly once.

meowcat delivers every event at least once. The event's id is stored in the same transaction as what it
changes, so an event that comes again changes nothing: that makes its effect exactly once, also when the
process dies between the two.

python examples/own_database.py
"""

import asyncio
import sqlite3
import tempfile
from pathlib import Path

import meowcat
from meowcat.core import events as ev
from meowcat.testing.servers import Content, RangeServer

SCHEMA = """
CREATE TABLE IF NOT EXISTS applied (event TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS document (
    task TEXT PRIMARY KEY, path TEXT NOT NULL, status TEXT NOT NULL, size INTEGER, failures INTEGER DEFAULT 0
);
"""


class Documents:
    """The application's table of documents."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with sqlite3.connect(path) as database:
            database.executescript(SCHEMA)
        database.close()

    def apply(self, logged: meowcat.LoggedEvent) -> None:
        """Called in a thread with one event after the other; when it raises, that event comes again."""
        database = sqlite3.connect(self.path)
        try:
            with database:  # one transaction: both of it, or nothing
                new = database.execute("INSERT OR IGNORE INTO applied VALUES (?)", (logged.id,)).rowcount
                if new:
                    self._change(database, logged)
        finally:
            database.close()

    def _change(self, database: sqlite3.Connection, logged: meowcat.LoggedEvent) -> None:
        event, task = logged.event, logged.task
        if isinstance(event, ev.Created) and isinstance(event.request, meowcat.Download):
            row = (task, event.request.to, event.state)
            database.execute("INSERT INTO document (task, path, status) VALUES (?, ?, ?)", row)
            return
        database.execute("UPDATE document SET status = ? WHERE task = ?", (event.state, task))
        if isinstance(event, ev.Completed):
            database.execute("UPDATE document SET size = ? WHERE task = ?", (event.size, task))
        elif isinstance(event, ev.Failed):
            database.execute("UPDATE document SET failures = failures + 1 WHERE task = ?", (task,))

    def report(self) -> None:
        database = sqlite3.connect(self.path)
        rows = database.execute("SELECT path, status, size, failures FROM document ORDER BY path").fetchall()
        (applied,) = database.execute("SELECT count(*) FROM applied").fetchone()
        database.close()
        for path, status, size, failures in rows:
            print(f"{Path(path).name}: {status}, {size or 0:,} bytes, {failures} failures")
        print(f"{applied} events were applied")


async def main(origin: str, folder: Path) -> None:
    documents = Documents(folder / "application.db")

    async with meowcat.Engine(folder / "transfers.db") as engine:
        await engine.add_sink("documents", meowcat.callback(documents.apply))
        await engine.submit_many(
            meowcat.Download(f"{origin}/{name}", to=str(folder / name))
            for name in ("a.bin", "b.bin", "no.bin")
        )
        await engine.drain()

    # As after a lost cursor: all events come once more, under another name, and change nothing.
    async with meowcat.Engine(folder / "transfers.db") as engine:
        await engine.remove_sink("documents")
        await engine.add_sink("documents-2", meowcat.callback(documents.apply))

    documents.report()


if __name__ == "__main__":
    contents = {"/a.bin": Content(3 << 20), "/b.bin": Content(5 << 20)}
    with tempfile.TemporaryDirectory() as name, RangeServer(contents) as server:
        asyncio.run(main(server.origin, Path(name)))
