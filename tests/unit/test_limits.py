"""What is shared: bandwidth, requests, memory."""

import asyncio

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meowcat.runtime.limits import BURST_SECONDS, Bucket, Budget, Throttle, longest
from meowcat.testing.virtual_time import VirtualLoop, VirtualTime

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


# Bandwidth: time passes only while somebody waits


def virtually(work):
    """What `work(time)` returns, in a world where only waiting takes time."""
    time = VirtualTime()
    time.end = 1e9
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(time)) as runner:
        return runner.run(work(time))


def clock(time):
    return lambda: time.now


async def take(bucket, sizes):
    for size in sizes:
        await bucket.acquire(size)


@pytest.mark.parametrize("rate", [1_000_000, 500_000_000])
@pytest.mark.parametrize("streams", [1, 16])
def test_a_limit_is_exact_over_ten_seconds(rate, streams):
    async def work(time):
        bucket = Bucket(rate, clock(time))
        chunk = min(1 << 20, rate // 8)
        total = 10 * rate // chunk // streams * streams
        async with anyio.create_task_group() as group:
            for _ in range(streams):
                group.start_soon(take, bucket, [chunk] * (total // streams))
        return total * chunk / time.now

    assert virtually(work) == pytest.approx(rate, rel=0.001)


def test_who_is_canceled_in_line_or_gets_less_costs_the_others_no_time():
    async def work(time):
        bucket = Bucket(1000, clock(time))
        ends = []

        async def ask(size):
            await bucket.acquire(size)
            ends.append(time.now)

        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as canceled:
                group.start_soon(ask, 1000)
                await anyio.lowlevel.checkpoint()
                async with anyio.create_task_group() as doomed:
                    for _ in range(10):
                        doomed.start_soon(ask, 10_000)
                    await anyio.lowlevel.checkpoint()
                    group.start_soon(ask, 1000)
                    await anyio.lowlevel.checkpoint()
                    canceled.cancel()
        await bucket.acquire(5000)
        bucket.give_back(4000)
        await bucket.acquire(1000)
        return ends, time.now

    ends, end = virtually(work)
    assert max(ends) == pytest.approx(2)
    assert end == pytest.approx(2 + 5 + 1 - BURST_SECONDS)


def test_what_was_not_taken_is_saved_up_for_a_moment_only():
    async def work(time):
        bucket = Bucket(1000, clock(time))
        await anyio.sleep(3600)
        await bucket.acquire(2000)
        return time.now

    assert virtually(work) == pytest.approx(3600 + 2 - BURST_SECONDS)


def test_a_late_wake_up_is_made_up_for():
    async def work(time):
        bucket = Bucket(1_000_000, clock(time))
        for _ in range(100):
            await bucket.acquire(100_000)
            await anyio.sleep(0.09)  # a stall, after each
        return time.now

    assert virtually(work) == pytest.approx(10.0, rel=0.02)


def test_the_narrower_of_two_limits_rules():
    async def work(time):
        throttle = Throttle(Bucket(1000, clock(time)), Bucket(None, clock(time)), Bucket(100, clock(time)))
        assert throttle.rate == 100
        await take(throttle, [100] * 10)
        return time.now

    assert virtually(work) == pytest.approx(10, rel=0.001)


@pytest.mark.parametrize(("later", "ends"), [(100, 55), (10_000, 5.5), (None, 5)])
def test_another_rate_holds_at_once_also_for_those_that_wait(later, ends):
    async def work(time):
        bucket = Bucket(1000, clock(time))
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(bucket.acquire, 2000)
            await anyio.sleep(5)
            bucket.set_rate(later)
        return time.now

    assert virtually(work) == pytest.approx(ends, rel=0.001)


def test_threads_that_rest_and_coroutines_that_wait_share_one_limit():
    async def work(time):
        bucket = Bucket(1_000_000, clock(time))
        gone = [0]

        async def thread():
            for _ in range(40):
                gone[0] += 50_000
                await anyio.sleep(bucket.spend(50_000)())

        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(thread)
                group.start_soon(take, bucket, [50_000] * 40)
        return (gone[0] + 2 * 40 * 50_000) / time.now

    assert virtually(work) == pytest.approx(1_000_000, rel=0.001)


@pytest.mark.parametrize(("later", "left"), [(100, 40), (10_000, 0.4), (None, 0)])
def test_another_rate_holds_at_once_also_for_threads_that_rest(later, left):
    async def work(time):
        bucket = Bucket(1000, clock(time))
        rest = longest([Bucket(None, clock(time)).spend(9000), bucket.spend(9000)])
        await anyio.sleep(5)
        bucket.set_rate(later)
        return rest()

    assert virtually(work) == pytest.approx(left)


def test_a_limit_begins_with_no_debt():
    async def work(time):
        bucket = Bucket(None, clock(time))
        await take(bucket, [1 << 40] * 3)
        bucket.set_rate(1000)
        await bucket.acquire(1000)
        return time.now

    assert virtually(work) == pytest.approx(1, rel=0.001)


@given(
    st.lists(st.tuples(st.integers(1, 5000), st.floats(0, 5), st.integers(1, 4000)), min_size=1, max_size=20)
)
def test_who_came_first_goes_first_and_never_too_much_goes(steps):
    async def work(time):
        bucket = Bucket(1000, clock(time))
        gone, order, allowed, since, rate = 0, [], BURST_SECONDS * 4000, 0.0, 1000

        async def one(number, size):
            nonlocal gone
            await bucket.acquire(size)
            gone += size
            order.append(number)
            assert gone <= allowed + (time.now - since) * rate + 1

        async with anyio.create_task_group() as group:
            for number, (size, pause, later) in enumerate(steps):
                group.start_soon(one, number, size)
                await anyio.sleep(pause)
                allowed, since = allowed + (time.now - since) * rate, time.now
                rate = later
                bucket.set_rate(later)
        return order

    assert virtually(work) == list(range(len(steps)))


# Memory


async def test_memory_is_given_in_the_order_of_asking():
    budget, got = Budget(1, 100), []

    async def take(size):
        await budget.take(size)
        got.append(size)

    await budget.take(80)
    async with anyio.create_task_group() as group:
        for size in (60, 20, 10):
            group.start_soon(take, size)
            await anyio.wait_all_tasks_blocked()
        assert got == []  # though there is room for 20: the large one would never get its turn
        assert not budget.take_spare(1)
        for size, served in ((40, [60]), (20, [60, 20]), (10, [60, 20, 10])):
            budget.give(size)
            await anyio.wait_all_tasks_blocked()
            assert got == served


async def test_who_waits_for_memory_no_more_holds_up_nobody():
    budget = Budget(1, 100)
    await budget.take(80)
    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as large:
            group.start_soon(cancel_when_blocked, large)
            await budget.take(60)
        with anyio.fail_after(5):
            await budget.take(20)
    assert large.cancelled_caught


async def cancel_when_blocked(scope):
    await anyio.wait_all_tasks_blocked()
    scope.cancel()


async def test_memory_that_was_given_to_who_leaves_at_that_moment_is_not_lost():
    budget = Budget(1, 100)

    async def hold():
        await budget.take(100)
        try:
            await anyio.sleep_forever()
        finally:
            budget.give(100)

    await budget.take(100)
    async with anyio.create_task_group() as group:
        group.start_soon(hold)
        await anyio.wait_all_tasks_blocked()
        budget.give(100)
        group.cancel_scope.cancel()
    with anyio.move_on_after(5) as patience:
        await budget.take(100)
    assert not patience.cancelled_caught


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
