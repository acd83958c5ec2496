"""Real processes, really killed: nothing is lost, nothing is mixed, and nothing that was stored is fetched
again."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path

import pytest

from journal_adapters.sqlite import SQLiteJournal
from meowcat.core.state import evolve
from meowcat.journal.contract import Damage, Record
from meowcat.journal.replay import fold_task, verify_chain
from meowcat.testing.content import Content
from meowcat.testing.exchanges import Seen
from meowcat.testing.range_server import RangeServer, authority_pem

MIB = 1 << 20
SIZE = 200 * MIB
RATE = 24 * MIB
PIECE = MIB
"""Of `downloading.py`."""
TWICE_PER_STOP = 16 * MIB
"""A pause loses what is in flight as well, though nothing that was flushed."""


class Child:
    """The downloading process, and what it has said."""

    def __init__(self, *arguments: object, authority: Path) -> None:
        script = Path(__file__).with_name("downloading.py")
        command = [sys.executable, "-X", "dev", str(script), *map(str, arguments)]
        # A pipe would be filled by asyncio's own warnings on a busy machine.
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # `kill_after` closes it
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | {"SSL_CERT_FILE": str(authority)},
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(line.strip() for line in self.process.stdout)

    def kill_after(self, seconds: float) -> bool:
        """SIGKILL then; False where it had ended by itself before."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
        self._reader.join()
        self.process.communicate()
        with self._errors:
            self._errors.seek(0)
            errors = self._errors.read()
        if self.process.returncode == -signal.SIGKILL:
            return True
        assert self.process.returncode == 0, errors
        return False

    @property
    def acknowledged(self) -> list[str]:
        """What the commands that have returned did, one word each."""
        words = [line.split() for line in self.lines]
        return [each[1] for each in words if each[0] == "acknowledged" and len(each) == 2]

    @property
    def events(self) -> list[tuple[int, str]]:
        """The durable events that the process has announced, by their number."""
        words = [line.split() for line in self.lines]
        return [(int(each[1]), each[2]) for each in words if each[0] == "event" and len(each) == 3]


def check_journal(path: Path, announced: dict[int, str], acknowledged: Counter[str]) -> None:
    """Every announced event is there, and one for each acknowledged command; the chain holds."""
    journal = SQLiteJournal(path)
    journal.open_for_reading()
    try:
        records = journal.scan(0, 1_000_000)
        assert not [record for record in records if isinstance(record, Damage)]
        assert not list(verify_chain(records))
        by_seq = {record.seq: record.type for record in records}
        assert [record.seq for record in records] == list(range(1, len(records) + 1))
        assert announced.items() <= by_seq.items()
        stored = Counter(by_seq.values())
        assert all(stored[kind] >= acknowledged[kind] for kind in ("paused", "resumed"))
        assert not isinstance(fold_task(records[0].task, records, evolve), Damage)
    finally:
        journal.close()


def kill_cycles(folder: Path, cycles: int, seed: int, *, tls: bool = False) -> None:
    """Downloads that are killed `cycles` times in all, each going on until it is complete."""
    authority = folder / "ca.pem"
    authority.write_bytes(authority_pem())
    chance = random.Random(seed)
    content = Content(SIZE, seed=seed)
    killed = round_ = 0
    while killed < cycles:
        round_ += 1
        durability = chance.choice(["power", "process"])
        journal, target = folder / f"{round_}.db", folder / f"{round_}.bin"
        with RangeServer(content, rate=RATE, tls=tls) as server:
            announced: dict[int, str] = {}
            acknowledged: Counter[str] = Counter()
            kills, pauses, complete = 0, 0, False
            while not complete:
                stored, asked = _stored(journal), len(server.requests)
                child = Child(
                    journal, server.url, target, durability, chance.randrange(1 << 30), authority=authority
                )
                was_killed = child.kill_after(chance.uniform(0.1, 3.0) if kills < 5 else 600)
                kills += was_killed
                announced |= dict(child.events)
                complete = "complete" in child.lines or _is_complete(journal)
                pauses += child.lines.count("acknowledged paused")
                acknowledged.update(child.acknowledged)
                assert was_killed or complete
                again = [seen for seen in server.requests[asked:] if _asks_for(seen, stored)]
                assert not again, f"seed {seed}, round {round_}: stored, and asked for again"
                assert not target.exists() or complete or _whole(target, content)
            check_journal(journal, announced, acknowledged)
            assert _whole(target, content)
            twice = server.bytes_sent_twice()
            print(f"{kills} kills, {pauses} pauses: {twice / MIB:.1f} MiB fetched twice")
            assert twice <= (kills + pauses) * TWICE_PER_STOP, f"seed {seed}, round {round_}"
        killed += max(kills, 1)
        target.unlink()


def _records(path: Path) -> list[Record]:
    if not path.exists():
        return []
    journal = SQLiteJournal(path)
    journal.open_for_reading()
    try:
        return list(journal.scan(0, 1_000_000))
    finally:
        journal.close()


def _is_complete(path: Path) -> bool:
    """Whether it came to its end, though it was killed before it could say so: it would be another task."""
    return any(record.type == "completed" for record in _records(path))


def _stored(path: Path) -> tuple[tuple[int, int], ...]:
    """The pieces that the journal has as stored, first and stop of each run of them."""
    records = _records(path)
    return fold_task(records[0].task, records, evolve).stored.pairs if records else ()


def _asks_for(seen: Seen, stored: tuple[tuple[int, int], ...]) -> bool:
    """Whether a request asks for a byte of these pieces."""
    first, _, last = seen.headers["range"].removeprefix("bytes=").partition("-")
    start, stop = int(first), int(last) + 1 if last else SIZE
    return any(start < end * PIECE and begin * PIECE < stop for begin, end in stored)


def _whole(path: Path, content: Content) -> bool:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == content.sha256


@pytest.mark.timeout(600)
def test_twenty_kills(tmp_path):
    kill_cycles(tmp_path, 20, random.SystemRandom().randrange(1 << 30))


@pytest.mark.timeout(600)
def test_ten_kills_over_tls(tmp_path):
    kill_cycles(tmp_path, 10, random.SystemRandom().randrange(1 << 30), tls=True)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_two_hundred_kills(tmp_path):
    kill_cycles(tmp_path, 200, random.SystemRandom().randrange(1 << 30))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_hundred_kills_over_tls(tmp_path):
    kill_cycles(tmp_path, 100, random.SystemRandom().randrange(1 << 30), tls=True)
