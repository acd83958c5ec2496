"""Secrets are in an engine's memory for as long as their task needs them."""

import gc

import pytest

import meowcat
from meowcat.core.seal import Secrets

pytestmark = pytest.mark.anyio

TOKEN = {"Authorization": "Bearer not-for-the-journal"}


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


def held() -> int:
    """How many tasks' secrets this process has in memory."""
    gc.collect()
    return sum(isinstance(each, Secrets) and bool(each.headers) for each in gc.get_objects())


def requests(folder, count):
    return [
        meowcat.Download(f"http://127.0.0.1:9/{n}", str(folder / str(n)), headers=TOKEN) for n in range(count)
    ]


async def test_many_that_are_canceled_leave_no_secrets(tmp_path):
    before = held()
    async with meowcat.Engine(tmp_path / "t.db") as engine:
        await engine.submit_many(requests(tmp_path, 3), paused=True)
        assert held() > before
        assert len(await engine.cancel_many()) == 3
        assert held() == before


async def test_what_is_supplied_to_a_task_that_has_ended_is_not_kept(tmp_path):
    before = held()
    async with meowcat.Engine(tmp_path / "t.db") as engine:
        (task,) = await engine.submit_many(requests(tmp_path, 1), paused=True)
        await engine.cancel(task)
        with pytest.raises(meowcat.TaskNotFound):
            await engine.supply(task, headers=TOKEN)
        assert held() == before


async def test_what_is_lacking_is_told_once_to_who_awaits_a_result(tmp_path, caplog):
    """A credential whose name was misspelt would otherwise be waited for without a word."""
    settings = meowcat.S3(endpoint="http://127.0.0.1:9", credential="prdo")
    async with meowcat.Engine(tmp_path / "t.db") as engine:
        tasks = [
            await engine.submit(
                meowcat.Download(f"s3://bucket/{n}", str(tmp_path / str(n)), protocol=settings)
            )
            for n in range(3)
        ]
        for task in tasks:
            async for progress in task.progress():
                if progress.waiting_for is not None:
                    break
    (told,) = [each.getMessage() for each in caplog.records if each.name == "meowcat.task"]
    assert tasks[0].id in told
    assert "the credential 'prdo'" in told
    assert "Engine.add_credential" in told
