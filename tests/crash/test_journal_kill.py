"""kill -9 at any instant: what was acknowledged is there, once, in order, in an unbroken chain."""

import random
import signal
import subprocess
import sys

import pytest

from meowcat.journal.contract import Record
from meowcat.journal.locate import locate
from meowcat.journal.replay import verify_chain
from meowcat.testing.journal_suite import OWNER, scan_all

ROUNDS = 10
SOAK_ROUNDS = 100
CALLERS = 32

APPENDER = """
import os, sys
import anyio
from meowcat.journal.contract import Entry, Owner
from meowcat.journal.locate import locate
from meowcat.journal.writer import Writer

url, sync, run, callers = sys.argv[1:]

async def caller(writer, number):
    task = f"run{run}-{number}"
    for seq in range(1, 1_000_000, 2):
        bodies = [f"{task} {each} ".encode() * number for each in (seq, seq + 1)]
        await writer.append([Entry(task, seq + n, True, "stored", 1, 1, bodies[n]) for n in (0, 1)])
        os.write(1, f"{task} {seq + 1}\\n".encode())

async def main():
    journal = locate(url)
    journal.open(Owner(os.getpid(), "here"), sync)
    writer = Writer(journal, sync)
    async with anyio.create_task_group() as group:
        for number in range(1, int(callers) + 1):
            group.start_soon(caller, writer, number)

anyio.run(main)
"""


def kill_after(url, sync, run, lines):
    """Run the appender, kill it after so many acknowledgements, and return all that it had printed."""
    with subprocess.Popen(
        [sys.executable, "-c", APPENDER, url, sync, str(run), str(CALLERS)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        read = [process.stdout.readline() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        read += process.stdout.readlines()
    assert process.returncode == -signal.SIGKILL, "it ended by itself"
    whole = [line for line in read if line.endswith(b"\n")]
    return {line.split()[0].decode(): int(line.split()[1]) for line in whole}


@pytest.fixture(params=["sqlite", "jsonl"])
def url(request, tmp_path):
    return f"{request.param}:{tmp_path}/journal"


def kill_often(url, sync, rounds):
    roll = random.Random(20)
    acknowledged = {}
    for run in range(rounds):
        acknowledged |= kill_after(url, sync, run, roll.randrange(1, 3000))
        journal = locate(url)
        journal.open(OWNER, sync)
        check(scan_all(journal, 5000), acknowledged)
        journal.close()
    assert len(acknowledged) >= rounds


@pytest.mark.parametrize("sync", ["power", "process"])
def test_nothing_that_was_acknowledged_is_lost(url, sync):
    kill_often(url, sync, ROUNDS)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("sync", ["power", "process"])
def test_nothing_that_was_acknowledged_is_lost_in_a_hundred_kills(url, sync):
    kill_often(url, sync, SOAK_ROUNDS)


def check(found, acknowledged):
    assert list(verify_chain(found)) == []
    seqs = {}
    for record in found:
        assert isinstance(record, Record)
        seqs.setdefault(record.task, []).append(record.seq)
        number = int(record.task.rpartition("-")[2])
        assert record.body == f"{record.task} {record.seq} ".encode() * number
    for task, stored in seqs.items():
        assert stored == list(range(1, len(stored) + 1))
        assert len(stored) % 2 == 0  # pairs are whole
        assert len(stored) >= acknowledged.get(task, 0)
    assert set(acknowledged) <= set(seqs)
