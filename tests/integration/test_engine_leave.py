"""An engine that only takes commands: what it was not told to touch stays as it is for the next opening."""

import anyio
import pytest

import meowcat
from journal_adapters.sqlite import SQLiteJournal
from meowcat.core import events as ev
from meowcat.core.state import evolve
from meowcat.core.values import FileIdentity, Generation
from meowcat.journal.contract import Owner
from meowcat.journal.replay import fold_task
from meowcat.runtime.dispatcher import entries_of
from meowcat.runtime.world import Clock

pytestmark = pytest.mark.anyio

ACTIVE = meowcat.State.RUNNING
FAULT = meowcat.Fault(kind=meowcat.FaultKind.DISCONNECTED, detail="the connection broke")
GENERATION = Generation(size=1000, ranges=True, etag='"1"', strong=True)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


def created(path, state=meowcat.State.QUEUED):
    task = Clock(wall=lambda: 1_700_000_000_000).new_id()
    request = meowcat.Download("http://127.0.0.1:9/x", str(path))
    return ev.Created(state=state, task=task, key=str(path), at=0, request=request)


def at_work():
    yield ev.Admitted(state=meowcat.State.PREPARING, run=1)
    yield ev.Started(state=ACTIVE, generation=GENERATION, piece_size=64 << 10)


def waiting():
    yield ev.AttemptFailed(
        state=meowcat.State.PREPARING,
        fault=FAULT,
        attempt=1,
        waiting_for=meowcat.WaitingFor.RETRY,
        delay=1,
    )


def publishing():
    file = FileIdentity(1, 1)
    yield ev.Stored(state=ACTIVE, pieces=((0, 1),), digests=b"", file=file)
    yield ev.PublishIntended(state=ACTIVE, file=file, size=1000, digests=())


@pytest.fixture
def past(tmp_path):
    """A journal as a killed process left it, and the ids of its tasks by what they were at."""
    histories = {
        "queued": [],
        "running": [*at_work()],
        "waiting": [next(at_work()), *waiting()],
        "publishing": [*at_work(), *publishing()],
        "paused": [ev.Paused(state=meowcat.State.PAUSED, reason="asked to")],
        "failed": [*at_work(), ev.Failed(state=meowcat.State.FAILED, fault=FAULT)],
        "discarding": [*at_work(), ev.Canceled(state=meowcat.State.CANCELED)],
    }
    journal = SQLiteJournal(tmp_path / "t.db")
    journal.open(Owner(1, "elsewhere"), "process")
    ids = {}
    for name, events in histories.items():
        first = created(tmp_path / name)
        entries, _ = entries_of(None, [first, *events], 0)
        journal.append(entries)
        ids[name] = first.task
    journal.close()
    return ids


def records(folder):
    journal = SQLiteJournal(folder / "t.db")
    journal.open_for_reading()
    try:
        return list(journal.scan(0, 10_000))
    finally:
        journal.close()


def state_of(folder, task):
    return fold_task(task, [each for each in records(folder) if each.task == task], evolve)


def engine(folder, on_restart="leave"):
    return meowcat.Engine(folder / "t.db", on_restart=on_restart)


async def test_an_opening_without_commands_records_nothing(tmp_path, past):
    before = records(tmp_path)
    async with engine(tmp_path) as opened:
        states = {info.id: info.state async for info in opened.tasks()}
        assert states[past["running"]] == "Running"
        assert states[past["waiting"]] == "Preparing"
    assert records(tmp_path) == before


async def test_commands_reach_the_tasks_that_they_name_and_no_others(tmp_path, past):
    before = records(tmp_path)
    async with engine(tmp_path) as opened:
        await opened.pause(past["running"])
        await opened.pause(past["queued"])
        await opened.resume(past["paused"])
        await opened.retry(past["failed"])
        await opened.cancel(past["waiting"])
    added = records(tmp_path)[len(before) :]
    named = {past[each] for each in ("running", "queued", "paused", "failed", "waiting")}
    assert {each.task for each in added} == named
    assert sorted(each.type for each in added) == [
        "canceled", "part-discarded", "paused", "paused", "resumed", "retried",
    ]  # fmt: skip


async def test_a_crash_is_counted_once_and_by_the_next_real_opening(tmp_path, past):
    for _ in range(3):
        async with engine(tmp_path) as opened:
            await opened.pause(past["queued"])
            await opened.resume(past["queued"])
    assert state_of(tmp_path, past["running"]).crashes == 0
    async with engine(tmp_path, "pause"):
        pass
    after = state_of(tmp_path, past["running"])
    assert (after.state, after.crashes) == ("Paused", 1)


async def test_no_transfer_is_begun_by_what_is_resumed_or_submitted(tmp_path, past):
    async with engine(tmp_path) as opened:
        await opened.resume(past["paused"])
        await opened.submit(meowcat.Download("http://127.0.0.1:9/y", str(tmp_path / "new")))
        await opened.pause_many(state="Paused")
        assert (await opened.snapshot()).active_downloads == 0
    before = 5  # of the past's tasks were admitted once
    assert [each.type for each in records(tmp_path)].count("admitted") == before


async def test_who_submits_to_a_canceled_tasks_target_does_not_wait_for_ever_for_its_part_file(
    tmp_path, past
):
    request = meowcat.Download("http://127.0.0.1:9/y", str(tmp_path / "discarding"))
    async with engine(tmp_path) as opened:
        with anyio.fail_after(10):
            task = await opened.submit(request)
        assert (task.state, task.id != past["discarding"]) == ("Queued", True)


async def test_a_wrong_answer_for_a_restart_is_refused(tmp_path):
    with pytest.raises(meowcat.InvalidArgument, match="'leave'"):
        meowcat.Engine(tmp_path / "t.db", on_restart="shrug")
