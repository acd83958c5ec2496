"""Tasks that wait for a presigned plan, taken up by the command line, which has no refresher for it."""

import json
import os
import subprocess
import sys

import anyio
import msgspec
import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Response

import meowcat
from meowcat.control.client import connect
from meowcat.testing.content import Content
from meowcat.testing.range_server import RangeServer

pytestmark = pytest.mark.anyio

SECRET = "hunter2-is-signed"
CONTENT = os.urandom(100_000)


@pytest.fixture
def anyio_backend():
    return "asyncio"


class Store:
    """Takes signed PUTs."""

    def __init__(self, server):
        self.url = server.url_for("/big.bin")
        self.object = None
        self.queries = []
        server.expect_request("/big.bin", method="PUT").respond_with_handler(self)

    def __call__(self, request):
        self.object = request.get_data()
        self.queries.append(request.query_string.decode())
        return Response("", 200)

    def plan(self, sig=SECRET):
        size = len(CONTENT)
        part = meowcat.PlanPart(1, 0, size, f"{self.url}?X-Amz-Signature={sig}")
        return meowcat.UploadPlan(total_size=size, chunk_size=size, parts=(part,))


@pytest.fixture
def store():
    with HTTPServer() as server:
        yield Store(server)


@pytest.fixture
async def waiting(tmp_path, store):
    """A journal with an upload of a process that is gone, and its plan with it."""
    source = tmp_path / "big.bin"
    source.write_bytes(CONTENT)
    upload = meowcat.Upload(str(source), "", meowcat.PresignedUpload(store.plan(sig="old")))
    async with meowcat.Engine(tmp_path / "t.db") as engine:
        task = await engine.submit(upload, paused=True)
    return tmp_path / "t.db", task.id


@pytest.fixture
def plan(tmp_path, store):
    path = tmp_path / "plan.json"
    path.write_bytes(msgspec.json.encode(store.plan()))
    return path


async def resume(journal, *words, stdin=None):
    command = [sys.executable, "-m", "meowcat", "resume", *map(str, words), "--journal", str(journal)]
    env = {**os.environ, "NO_PROXY": "*"}
    return await anyio.run_process(command, input=stdin, check=False, stderr=subprocess.PIPE, env=env)


def require_nowhere_else(done, folder, plan):
    assert SECRET.encode() not in done.stdout + done.stderr
    files = [each for each in folder.iterdir() if each.is_file() and each != plan]
    assert not [each for each in files if SECRET.encode() in each.read_bytes()]


async def test_a_plan_from_a_file_takes_the_task_up(waiting, store, plan):
    journal, task = waiting
    alone = await resume(journal, task)
    assert alone.returncode == 4
    assert b"plan" in alone.stderr
    done = await resume(journal, task, "--plan", plan)
    assert done.returncode == 0, done.stderr
    assert store.object == CONTENT
    assert store.queries == [f"X-Amz-Signature={SECRET}"]
    require_nowhere_else(done, journal.parent, plan)


async def test_a_plan_from_standard_input_goes_to_the_owner_and_nowhere_else(waiting, store, plan):
    journal, task = waiting
    async with meowcat.Engine(journal) as engine:
        done = await resume(journal, task, "--plan", "-", stdin=plan.read_bytes())
        assert done.returncode == 0, done.stderr
        assert (await engine.task(task)).state is meowcat.State.COMPLETE
    assert store.object == CONTENT
    require_nowhere_else(done, journal.parent, plan)


async def test_an_owner_takes_a_plan_of_ten_thousand_parts(waiting, store):
    """Which is for something else here: it arrived in full, and is refused for what it is."""
    journal, task = waiting
    url = f"{store.url}?partNumber=1&uploadId=u&X-Amz-Signature={'s' * 400}"
    parts = tuple(meowcat.PlanPart(number + 1, number * 10, 10, url) for number in range(10_000))
    plan = meowcat.UploadPlan(total_size=100_000, chunk_size=10, parts=parts)
    async with meowcat.Engine(journal) as engine, connect(journal) as control:
        await control.supply(task, plan=plan)
        await (await engine.task(task)).resume()
        await engine.drain()
        assert (await engine.task(task)).info.fault is not None
    assert store.object is None


async def test_a_download_is_taken_up_by_a_plan_of_its_own_kind(tmp_path):
    content = Content(100_000)
    with RangeServer(content) as server:
        async with meowcat.Engine(tmp_path / "t.db") as engine:
            old = meowcat.PresignedDownload(meowcat.DownloadPlan(url=f"{server.url}?X-Amz-Signature=old"))
            request = meowcat.Download("", tmp_path / "x", protocol=old)
            task = await engine.submit(request, paused=True)
        fresh = json.dumps({"url": f"{server.url}?X-Amz-Signature={SECRET}"}).encode()
        done = await resume(tmp_path / "t.db", task.id, "--plan", "-", stdin=fresh)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "x").read_bytes() == content.bytes()
    require_nowhere_else(done, tmp_path, None)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (b"{", b"plan: expected the JSON of an UploadPlan: "),
        (b'{"url": "http://h/x?X-Amz-Signature=%b"}' % SECRET.encode(), b"required field `total_size`"),
        (b'{"total_size": 5, "chunk_size": 5, "parts": []}', b"upload plan: "),
    ],
)
async def test_what_is_no_plan_of_the_task_is_refused_and_not_shown(waiting, given, told):
    journal, task = waiting
    done = await resume(journal, task, "--plan", "-", stdin=given)
    assert done.returncode != 0
    assert told in done.stderr
    assert SECRET.encode() not in done.stderr


async def test_a_plan_is_for_one_task_and_its_file_is_there(waiting, store, plan, tmp_path):
    journal, task = waiting
    async with meowcat.Engine(journal) as engine:
        await engine.submit(meowcat.Download("http://127.0.0.1:9/x", tmp_path / "x"), paused=True)
    several = await resume(journal, "--all", "--plan", plan)
    assert b"--plan is for one task, and 2 are to go on: name it" in several.stderr
    gone = await resume(journal, task, "--plan", tmp_path / "no.json")
    assert (gone.returncode, b"no.json: No such file" in gone.stderr) == (2, True)
    unkept = await resume(journal, task, "--plan", plan, "--no-wait")
    assert b"are kept in memory only, and nobody works on" in unkept.stderr
    assert store.object is None


async def test_a_url_can_stand_in_a_file(tmp_path):
    content = Content(1000)
    with RangeServer(content) as server:
        async with meowcat.Engine(tmp_path / "t.db") as engine:
            request = meowcat.Download(f"{server.url}?X-Amz-Signature=old", tmp_path / "x")
            task = await engine.submit(request, paused=True)
        named = tmp_path / "url.txt"
        named.write_text(f"{server.url}?X-Amz-Signature={SECRET}\n")
        done = await resume(tmp_path / "t.db", task.id, "--url", f"@{named}")
        assert done.returncode == 0, done.stderr
        assert server.requests[-1].target.endswith(f"X-Amz-Signature={SECRET}")
    assert (tmp_path / "x").read_bytes() == content.bytes()
    require_nowhere_else(done, tmp_path, named)
