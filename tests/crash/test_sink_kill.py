"""kill -9 while a sink is at work: every event reaches it, in order, and repeated ones are the same."""

import random
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from journal_adapters.jsonl import JSONLJournal
from journal_adapters.sqlite import SQLiteJournal
from meowcat.journal.logged import event_object, logged
from meowcat.testing.content import Content
from meowcat.testing.range_server import RangeServer

SCHEMA = """CREATE TABLE delivery (
    n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT, task TEXT, seq INTEGER, position INTEGER, body BLOB
)"""


def run(arguments: list[object], kill_after: float | None) -> None:
    """The delivering process, killed so many seconds after it was ready, or left to end by itself."""
    script = Path(__file__).with_name("delivering.py")
    with subprocess.Popen(
        [sys.executable, "-X", "dev", script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        if kill_after is not None:
            timer = threading.Timer(kill_after, process.send_signal, [signal.SIGKILL])
            timer.start()
        said, errors = process.communicate(timeout=100)
        if kill_after is not None:
            timer.cancel()
    assert first == "ready\n", errors
    assert process.returncode == (0 if kill_after is None else -signal.SIGKILL), errors
    assert said == ("complete\n" if kill_after is None else ""), errors


def check(journal_path: Path, database_path: Path) -> tuple[int, int]:
    """What was delivered is the beginning of the journal, and the cursor is not beyond it. How much it is."""
    journal = (JSONLJournal if journal_path.is_dir() else SQLiteJournal)(journal_path)
    journal.open_for_reading()
    try:
        records = [logged(record) for record in journal.scan(0, 1_000_000)]
        cursor = journal.cursors().get("database", 0)
    finally:
        journal.close()
    with sqlite3.connect(database_path) as database:
        rows = database.execute("SELECT id, position, body FROM delivery ORDER BY n").fetchall()
    database.close()
    known = {event.id: (event.position, msgspec.json.encode(event_object(event))) for event in records}
    firsts = []
    seen = set()
    for identity, position, body in rows:
        assert known[identity] == (position, body), "an event that is not the journal's"
        if identity not in seen:
            firsts.append(position)
            seen.add(identity)
    assert firsts == list(range(1, len(firsts) + 1)), "a gap, or another order"
    assert cursor <= len(firsts), "the cursor is beyond what was delivered"
    return len(records), len(rows)


def kill_cycles(folder: Path, name: str, cycles: int, seed: int) -> None:
    print("seed", seed)
    chance = random.Random(seed)
    journal, database = folder / name, folder / "sink.db"
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(SCHEMA)
    connection.close()
    with RangeServer(Content(200 << 10, seed=seed), rate=8 << 20) as server:
        durability = chance.choice(["power", "process"])
        arguments = [journal, server.origin, folder, database, durability]
        for _ in range(cycles):
            run([*arguments, "go on"], kill_after=chance.uniform(0.02, 0.6))
            check(journal, database)
        run([*arguments, "finish"], kill_after=None)
    events, deliveries = check(journal, database)
    with sqlite3.connect(database) as connection:
        (distinct,) = connection.execute("SELECT count(DISTINCT id) FROM delivery").fetchone()
    connection.close()
    assert distinct == events
    print(f"{cycles} kills: {events} events, {deliveries - events} deliveries more than that")
    assert events > cycles


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["t.db", "t.jsonl"])
def test_kills_of_a_delivery_lose_no_event(tmp_path, name):
    kill_cycles(tmp_path, name, 10, random.SystemRandom().randrange(1 << 30))


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", ["t.db", "t.jsonl"])
def test_two_hundred_kills_of_a_delivery_lose_no_event(tmp_path, name):
    kill_cycles(tmp_path, name, 200, random.SystemRandom().randrange(1 << 30))
