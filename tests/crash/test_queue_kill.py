"""kill -9 in the middle of a command for thousands of tasks: whole batches of it are there, and none behind
one that is not."""

import random
import signal
import subprocess
import sys
from contextlib import suppress

import anyio
import pytest

import meowcat
from meowcat.core import events as ev
from meowcat.journal.codec import decode
from meowcat.journal.contract import Record
from meowcat.journal.locate import locate
from meowcat.journal.replay import verify_chain
from meowcat.submission import CREATE_BATCH
from meowcat.testing.journal_suite import scan_all

BATCHES = 6
TASKS = BATCHES * CREATE_BATCH
ROUNDS = 4
LATER = 0.05
"""Seconds, at most, from what the process says to its death: some batches take as long."""

CHILD = """
import sys
import anyio
import meowcat

url, command, tasks = sys.argv[1], sys.argv[2], int(sys.argv[3])

def requests():
    for number in range(tasks):
        if number % 1000 == 999:
            print("took", number + 1, flush=True)  # all batches before this one are durable
        yield meowcat.Download(f"http://127.0.0.1:9/{number}", f"/srv/{number}")

async def follow(engine):
    async for event in engine.events():
        if type(event.event).__name__ == "Canceled" and event.position % 500 == 0:
            print("canceled", event.task, flush=True)

async def main():
    async with meowcat.Engine(url, on_restart="leave") as engine, anyio.create_task_group() as group:
        if command == "submit":
            await engine.submit_many(requests(), paused=True)
        else:
            group.start_soon(follow, engine)
            await engine.cancel_many()
        print("done", flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


def killed_after(url, command, lines, seconds):
    """Run a command, kill it so long after it has printed so many lines, and return all that it printed."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, url, command, str(TASKS)], stdout=subprocess.PIPE, text=True
    ) as process:
        read = [process.stdout.readline() for _ in range(lines)]
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        process.send_signal(signal.SIGKILL)
        read += process.stdout.readlines()
    assert process.returncode == -signal.SIGKILL, "it ended by itself"
    return [line.split() for line in read if line.endswith("\n")]


def recorded(url):
    """The events of the journal, each with its task, after a look at the chain."""
    journal = locate(url)
    journal.open_for_reading()
    records = scan_all(journal, 5000)
    journal.close()
    assert all(isinstance(each, Record) for each in records)
    assert list(verify_chain(records)) == []
    return [(each.task, decode(each.type, each.version, each.body)) for each in records]


def keys_of(events):
    return [event.key for _, event in events if isinstance(event, ev.Created)]


async def submit(url):
    requests = (meowcat.Download(f"http://127.0.0.1:9/{n}", f"/srv/{n}") for n in range(TASKS))
    async with meowcat.Engine(url, on_restart="leave") as engine:
        tasks = await engine.submit_many(requests, paused=True)
        assert (await engine.snapshot()).states == {"Paused": TASKS}
        return tasks


async def cancel(url):
    async with meowcat.Engine(url, on_restart="leave") as engine:
        canceled = await engine.cancel_many()
        assert not (await engine.snapshot()).states
        return canceled


@pytest.fixture(params=["sqlite", "jsonl"])
def url(request, tmp_path):
    return f"{request.param}:{tmp_path}/journal"


def test_what_a_killed_submission_has_recorded_is_the_first_of_it_in_whole_batches(url):
    roll = random.Random(5)
    count = 0
    for _ in range(ROUNDS):
        if count == TASKS:
            break
        lines = count // CREATE_BATCH + 1  # the first batch that is not there yet is at work
        told = killed_after(url, "submit", lines, roll.uniform(0, LATER))
        taken = max(int(line[1]) for line in told if line[0] == "took")
        keys = keys_of(recorded(url))
        assert keys == [f"/srv/{number}" for number in range(len(keys))]
        assert len(keys) % CREATE_BATCH == 0
        assert len(keys) >= max(count, taken - CREATE_BATCH)
        count = len(keys)
    before = recorded(url)
    tasks = anyio.run(submit, url)
    events = recorded(url)
    assert events[: len(before)] == before
    assert [task for task, _ in events] == tasks


def test_what_a_killed_cancellation_has_canceled_is_the_oldest_in_whole_batches(url):
    roll = random.Random(6)
    tasks = anyio.run(submit, url)
    canceled = []
    for _ in range(ROUNDS):
        if len(canceled) == TASKS:
            break
        told = killed_after(url, "cancel", len(canceled) // 500 + 1, roll.uniform(0, LATER))
        events = recorded(url)
        canceled = [task for task, event in events if isinstance(event, ev.Canceled)]
        assert canceled == tasks[: len(canceled)]
        assert len(canceled) % CREATE_BATCH == 0
        assert {line[1] for line in told if line[0] == "canceled"} <= set(canceled)
    assert anyio.run(cancel, url) == tasks[len(canceled) :]
