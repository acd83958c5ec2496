"""Blocking calls while the interpreter ends, when Python 3.12 and later start no threads any more."""

import threading

import anyio
import pytest

from meowcat.transfer.threads import in_thread, serve_in_thread

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


def refusing(monkeypatch, text):
    def start(thread):
        raise RuntimeError(text)

    monkeypatch.setattr(threading.Thread, "start", start)
    monkeypatch.setattr("trio._core._thread_cache.THREAD_CACHE._idle_workers", {})


THE_END = "can't create new thread at interpreter shutdown"


async def test_a_call_has_a_thread():
    assert await in_thread(threading.get_ident) != threading.get_ident()


async def test_at_the_end_a_call_is_made_where_it_stands(monkeypatch):
    refusing(monkeypatch, THE_END)
    assert await in_thread(threading.get_ident) == threading.get_ident()


async def test_a_machine_that_has_no_threads_left_is_another_matter(monkeypatch):
    refusing(monkeypatch, "can't start new thread")
    with pytest.raises(RuntimeError, match="new thread"):
        await in_thread(threading.get_ident)
    with pytest.raises(RuntimeError, match="new thread"):
        await serve_in_thread(lambda: None)


async def test_a_call_that_has_begun_is_not_made_again():
    calls = []

    def call():
        calls.append(1)
        raise RuntimeError(THE_END)

    for run in (in_thread, serve_in_thread):
        with pytest.raises(RuntimeError, match="shutdown"):
            await run(call)
    assert len(calls) == 2


async def test_at_the_end_what_would_have_a_thread_of_its_own_waits_to_be_canceled(monkeypatch):
    refusing(monkeypatch, THE_END)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(serve_in_thread, lambda: None)
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
