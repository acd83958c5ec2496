"""The source of a whole upload is changed, in each way and at each step: never a mixed object, and no session
left. Reading alone is tested in `test_source_changes`."""

import os
from contextlib import suppress

import anyio
import pytest
from shelf import Shelf, ShelfProtocol, spec
from source_harness import scale_down
from test_source_changes import CHANGES, NEW, NO_CHANGES, OLD

import meowcat
from meowcat.transfer import sources

pytestmark = pytest.mark.anyio

PIECE = len(OLD) // 5 + 1
STEPS = {
    "while the session is opened": ("create", 0),
    "while the first part is sent": ("send_part", 0),
    "while a part is sent": ("send_part", 2),
    "while the last part is sent": ("send_part", 3),
    "while it is committed": ("commit", 0),
}
ABLE = {
    "parts": {},
    "the last part commits": {"commits_with_last_part": True},
    "no list": {"lists_parts": False},
}
LATE = ("while the last part is sent", "while it is committed")
CASES = [(step, able) for step in STEPS for able in ABLE if able == "parts" or step in LATE]
"""What a protocol is able to makes a difference at the end alone."""


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(autouse=True)
def _scaled(monkeypatch):
    scale_down(monkeypatch)


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "time_ns", lambda: 1 << 62)  # not young: what shows is all there is to go by
    path = tmp_path / "source"
    path.write_bytes(OLD)
    os.utime(path, ns=(1, 1))
    return path


async def upload(opened, path, shelf):
    """Whether it came to an object."""
    request = meowcat.Upload(str(path), shelf.url, spec(), piece_size=PIECE, connections=1)
    task = await opened.submit(request)
    with suppress(meowcat.TransferFailed):
        await task.result()
        return True
    assert task.info.fault.code is meowcat.Code.SOURCE_CHANGED
    await opened.drain()
    return False


@pytest.mark.parametrize(("step", "able"), CASES)
@pytest.mark.parametrize("change", [*CHANGES, *NO_CHANGES], ids=lambda change: change.__name__)
async def test_an_object_is_of_one_version_or_there_is_none(tmp_path, path, change, step, able):
    shelf = Shelf(**ABLE[able])
    method, passed = STEPS[step]
    shelf.meanwhile[method] = [*[lambda: None] * passed, lambda: change(path)]
    engine = meowcat.Engine(
        tmp_path / "t.db", config=meowcat.Config(control=False, prepare_retries=0), protocols=[ShelfProtocol]
    )
    async with engine as opened:
        done = await upload(opened, path, shelf)
    assert not shelf.meanwhile[method]
    assert shelf.sessions == {}
    if done:
        assert shelf.objects[shelf.url][0] in (OLD, NEW, OLD + b"more", OLD[:-1])
    else:
        assert shelf.objects == {}
        assert change not in NO_CHANGES


@pytest.mark.parametrize("able", ABLE.values(), ids=ABLE)
@pytest.mark.parametrize("change", [*CHANGES, *NO_CHANGES], ids=lambda change: change.__name__)
async def test_what_was_changed_between_two_processes_is_found_as_well(tmp_path, path, change, able):
    shelf = Shelf(**able)
    options = {"config": meowcat.Config(control=False), "protocols": [ShelfProtocol]}
    async with meowcat.Engine(tmp_path / "t.db", **options) as opened:
        request = meowcat.Upload(str(path), shelf.url, spec(), piece_size=PIECE, connections=1)
        task = await opened.submit(request)
        shelf.gates["send_part"], shelf.passed["send_part"] = anyio.Event(), 2
        while shelf.count("send_part") < 3:
            await anyio.lowlevel.checkpoint()
        await task.pause()
    shelf.gates.clear()
    assert shelf.sent() == [0, 1]
    change(path)
    async with meowcat.Engine(tmp_path / "t.db", **options) as opened:
        handle = await opened.task(task.id)
        await handle.resume()
        done = await upload(opened, path, shelf)
    assert shelf.sessions == {}
    assert done is (change in NO_CHANGES)
    assert shelf.objects.get(shelf.url, (OLD,))[0] == OLD
    if done:
        assert sorted(shelf.sent()) == sorted(set(shelf.sent())), "sent again although it was confirmed"
