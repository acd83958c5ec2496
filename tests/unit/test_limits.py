"""What is shared: bandwidth, requests, memory."""

import anyio
import pytest

from meowcat.runtime.limits import Bucket, Budget, Throttle

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


class Time:
    """A clock that sleeping moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


async def test_a_bucket_keeps_its_rate():
    time = Time()
    bucket = Bucket(1000, time, time.sleep)
    for _ in range(50):
        await bucket.acquire(100)
    assert time.now - 100 == pytest.approx(5.0, abs=0.3)


async def test_what_was_not_taken_is_saved_up_for_a_moment_only():
    time = Time()
    bucket = Bucket(1000, time, time.sleep)
    time.now += 3600
    before = time.now
    await bucket.acquire(2000)
    assert time.now - before == pytest.approx(1.75)


async def test_the_narrower_of_two_limits_rules():
    time = Time()
    throttle = Throttle(Bucket(1000, time, time.sleep), None, Bucket(100, time, time.sleep))
    for _ in range(10):
        await throttle.acquire(100)
    assert time.now - 100 == pytest.approx(10, abs=0.5)


async def test_memory_is_given_to_who_waits():
    budget = Budget(1, 100)
    got = []

    async def take(size: int) -> None:
        await budget.take(size)
        got.append(size)

    await budget.take(80)
    async with anyio.create_task_group() as group:
        group.start_soon(take, 60)
        group.start_soon(take, 50)
        await anyio.lowlevel.checkpoint()
        assert got == []
        budget.give(80)
        await anyio.wait_all_tasks_blocked()
        assert len(got) == 1
        budget.give(got[0])
    assert sorted(got) == [50, 60]


async def test_what_is_larger_than_the_budget_waits_for_all_of_it():
    budget = Budget(1, 100)
    with anyio.fail_after(5):
        await budget.take(1000)
    budget.give(1000)
    with anyio.fail_after(5):
        await budget.take(100)


async def test_requests_are_bounded():
    budget = Budget(2, 100)
    await budget.acquire()
    await budget.acquire()
    with anyio.move_on_after(0.01) as waited:
        await budget.acquire()
    assert waited.cancelled_caught
    budget.release()
    with anyio.fail_after(5):
        await budget.acquire()
