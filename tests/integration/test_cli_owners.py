"""A command whose owner dies or closes in the very moment of asking: done once, and told truly."""

import threading
from contextlib import contextmanager

import anyio
import pytest

import meowcat
from meowcat.cli import owners
from meowcat.control import messages as ctl
from meowcat.control.place import place_of
from meowcat.control.wire import listen_at

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def journal(tmp_path):
    return str(tmp_path / "t.db")


async def recorded(journal, tmp_path, count=2):
    async with meowcat.Engine(journal, on_restart="leave") as engine:
        requests = [meowcat.Download("http://127.0.0.1:9/x", str(tmp_path / str(n))) for n in range(count)]
        return await engine.submit_many(requests)


@contextmanager
def dying_owner(journal, reply=b""):
    """Stands where an owner would: takes one request, says `reply`, and is gone, socket and all."""
    place = place_of(journal)
    listener = listen_at(place, 1)
    listener.setblocking(True)

    def serve():
        connection, _ = listener.accept()
        with connection:
            connection.recv(100_000)
            listener.close()
            place.unlink()
            connection.sendall(reply)

    thread = threading.Thread(target=serve)
    thread.start()
    yield
    thread.join()


async def pause(journal, *tasks):
    return await owners.act(journal, ctl.Pause(tasks=tasks))


async def test_what_an_owner_did_before_it_died_counts_as_done(journal, tmp_path):
    one, two = await recorded(journal, tmp_path)
    await pause(journal, one)
    with dying_owner(journal):
        answered = await pause(journal, one, two)
    assert answered.via == "journal"
    assert [(each.task, each.state, each.error) for each in answered.outcomes] == [
        (one, "Paused", None),
        (two, "Paused", None),
    ]


async def test_a_refusal_is_one_where_the_owner_lived(journal, tmp_path):
    (one,) = await recorded(journal, tmp_path, 1)
    await pause(journal, one)
    (again,) = (await pause(journal, one)).outcomes
    assert isinstance(ctl.error_of(again.error), meowcat.InvalidTaskState)


async def test_what_a_closing_owner_did_not_come_to_is_done_after_it(journal, tmp_path):
    one, two = await recorded(journal, tmp_path)
    await pause(journal, one)
    closed = ctl.failure_of(meowcat.EngineClosed("the engine is closed"))
    done = ctl.Done(outcomes=(ctl.Outcome(task=one, state="Paused"), ctl.Outcome(task=two, error=closed)))
    with dying_owner(journal, ctl.line_of(done)):
        answered = await pause(journal, one, two)
    assert [(each.task, each.state, each.error) for each in answered.outcomes] == [
        (one, "Paused", None),
        (two, "Paused", None),
    ]


async def test_an_owner_that_is_opening_is_waited_for(journal, tmp_path):
    (one,) = await recorded(journal, tmp_path, 1)
    deaf = meowcat.Engine(journal, config=meowcat.Config(control=False))  # it does not listen yet, as it were
    async with anyio.create_task_group() as group, deaf:
        group.start_soon(pause, journal, one)
        await anyio.wait_all_tasks_blocked()
    async with meowcat.Engine(journal, on_restart="leave") as engine:
        assert (await engine.task(one)).state == "Paused"


async def test_nothing_is_made_where_there_is_no_journal(journal, tmp_path):
    with pytest.raises(meowcat.JournalError):
        await owners.act(str(tmp_path / "t.unknown"), ctl.Pause(all=True))
    assert list(tmp_path.iterdir()) == []
