"""Coroutines that do one job after the other: each job is canceled by itself, and ends once."""

import asyncio

import anyio
import pytest

from meowcat.runtime.pool import Job, Pool

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(20)]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


class Noted(Job):
    """Notes what becomes of it in `told`."""

    def __init__(self, name, told, gate=None):
        super().__init__()
        self.name, self.told, self.gate = name, told, gate or anyio.Event()
        self.begun, self.over = anyio.Event(), anyio.Event()

    async def run(self):
        self.begun.set()
        try:
            await self.gate.wait()
        except anyio.get_cancelled_exc_class():
            self.told.append(f"{self.name} canceled")
            raise
        self.told.append(f"{self.name} done")

    def broke(self, defect):
        self.told.append(f"{self.name} broke: {defect}")

    def end(self):
        self.told.append(f"{self.name} ended")

    def follow(self):
        self.told.append(f"{self.name} followed")
        self.over.set()


@pytest.fixture
async def pool():
    async with anyio.create_task_group() as tasks:
        pool = Pool(tasks)
        yield pool
        pool.close()


async def test_jobs_run_at_once(pool):
    told = []
    jobs = [Noted(str(number), told) for number in range(5)]
    for job in jobs:
        pool.start(job)
    for job in jobs:
        await job.begun.wait()
    for job in reversed(jobs):
        job.gate.set()
    await anyio.wait_all_tasks_blocked()
    assert sorted(each for each in told if each.endswith("followed")) == [f"{n} followed" for n in range(5)]


async def test_one_coroutine_does_one_job_after_the_other(pool):
    told = []
    for number in range(3):
        job = Noted(str(number), told)
        job.gate.set()
        pool.start(job)
        await anyio.wait_all_tasks_blocked()
    assert told == [f"{n} {what}" for n in range(3) for what in ("done", "ended", "followed")]
    assert len(pool._idle) == 1


async def test_a_canceled_job_takes_nothing_along(pool):
    told = []
    first, other = Noted("first", told), Noted("other", told)
    pool.start(first)
    pool.start(other)
    await anyio.wait_all_tasks_blocked()
    first.cancel()
    await first.over.wait()
    assert told == ["first canceled", "first ended", "first followed"]
    third = Noted("third", told)
    pool.start(third)  # in the coroutine of the first
    await anyio.wait_all_tasks_blocked()
    assert third.begun.is_set()
    other.gate.set()
    third.gate.set()
    await anyio.wait_all_tasks_blocked()
    assert {"other done", "third done"} <= set(told)


async def test_a_cancellation_that_comes_too_late_does_not_meet_the_next_job(pool):
    told = []
    first, second = Noted("first", told), Noted("second", told)
    first.gate.set()
    pool.start(first)
    await anyio.wait_all_tasks_blocked()
    pool.start(second)
    await second.begun.wait()
    first.cancel()
    await anyio.wait_all_tasks_blocked()
    assert told == ["first done", "first ended", "first followed"]
    second.gate.set()
    await anyio.wait_all_tasks_blocked()
    assert told[3:] == ["second done", "second ended", "second followed"]


async def test_a_job_that_was_canceled_before_it_began_ends_at_its_first_wait(pool):
    told = []
    for _ in range(2):  # in a new coroutine, and in one that waited
        job = Noted("it", told)
        pool.start(job)
        job.cancel()
        await job.over.wait()
        assert told == ["it canceled", "it ended", "it followed"]
        told.clear()


async def test_a_job_that_is_done_in_spite_of_its_cancellation_leaves_the_next_one_alone(pool):
    told = []

    class Stubborn(Noted):
        async def run(self):
            with anyio.CancelScope(shield=True):
                await super().run()

    job = Stubborn("it", told)
    pool.start(job)
    await job.begun.wait()
    job.cancel()
    job.gate.set()
    await anyio.wait_all_tasks_blocked()
    assert told == ["it done", "it ended", "it followed"]
    following = Noted("next", told)
    following.gate.set()
    pool.start(following)
    await anyio.wait_all_tasks_blocked()
    assert told[3:] == ["next done", "next ended", "next followed"]


async def test_all_that_was_started_ends_when_everything_is_canceled():
    told = []
    async with anyio.create_task_group() as tasks:
        pool = Pool(tasks)
        quick, long = Noted("quick", told), Noted("long", told)
        quick.gate.set()
        pool.start(quick)
        pool.start(long)
        await long.begun.wait()
        await anyio.wait_all_tasks_blocked()
        pool.start(Noted("assigned", told))  # to the coroutine of the quick one, which has not come to it
        tasks.cancel_scope.cancel()
    assert {"long ended", "assigned ended"} <= set(told)
    assert "long followed" not in told
    assert "assigned followed" not in told


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_job_ends_whose_coroutine_is_canceled_before_it_comes_to_it():
    """As asyncio itself does when its loop is shut down; anyio lets a coroutine that was woken go on."""
    told = []
    before = asyncio.all_tasks()
    async with anyio.create_task_group() as tasks:
        pool = Pool(tasks)
        quick = Noted("quick", told)
        quick.gate.set()
        pool.start(quick)
        await anyio.wait_all_tasks_blocked()
        (worker,) = [each for each in asyncio.all_tasks() - before if "_work" in repr(each)]
        pool.start(Noted("assigned", told))
        worker.cancel()
    assert told[3:] == ["assigned ended"]


async def test_a_defect_of_one_job_is_told_to_it_and_hurts_no_other(pool):
    told = []

    class Broken(Noted):
        async def run(self):
            raise ValueError("torn")

    other = Noted("other", told)
    pool.start(other)
    pool.start(Broken("it", told))
    await anyio.wait_all_tasks_blocked()
    assert told == ["it broke: torn", "it ended", "it followed"]
    other.gate.set()
    await other.over.wait()
    assert told[3:] == ["other done", "other ended", "other followed"]


async def test_what_breaks_behind_a_job_breaks_the_group_and_ends_the_others():
    told = []

    class Last(Noted):
        def follow(self):
            raise LookupError("lost")

    with pytest.RaisesGroup(pytest.RaisesExc(LookupError, match="lost")):
        async with anyio.create_task_group() as tasks:
            pool = Pool(tasks)
            long, last = Noted("long", told), Last("last", told)
            pool.start(long)
            pool.start(last)
            await long.begun.wait()
            last.gate.set()
            await anyio.sleep_forever()
    assert {"last ended", "long canceled", "long ended"} <= set(told)
    assert "long followed" not in told


async def test_the_group_is_left_once_all_have_ended_and_not_before():
    told = []
    async with anyio.create_task_group() as tasks:
        pool = Pool(tasks)

        class Shielded(Noted):
            async def run(self):
                with anyio.CancelScope(shield=True):
                    await super().run()

        job = Shielded("it", told)
        pool.start(job)
        await job.begun.wait()
        tasks.start_soon(open_later, job.gate)
        tasks.cancel_scope.cancel()
    assert told == ["it done", "it ended", "it followed"]


async def open_later(gate):
    with anyio.CancelScope(shield=True):
        await anyio.wait_all_tasks_blocked()
    gate.set()


async def test_a_job_that_is_started_when_everything_was_canceled_ends_at_its_first_wait():
    told = []
    async with anyio.create_task_group() as tasks:
        pool = Pool(tasks)

        class Follower(Noted):
            def end(self):
                super().end()
                if self.name == "first":
                    pool.start(Follower("second", told))

        job = Follower("first", told)
        pool.start(job)
        await job.begun.wait()
        tasks.cancel_scope.cancel()
    assert told == ["first canceled", "first ended", "second canceled", "second ended"]
