"""What was given as a secret stands nowhere: not in the journal, in no log, error, event or listener's view,
and in no output of the command line; neither as it is, nor escaped, nor in Base64.
"""

import base64
import logging
import os
import subprocess
import sys
import time
import traceback
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import anyio
import httpx
import pytest

import meowcat
from meowcat import AccessKey, AliyunOSS, PresignedDownload, PresignedUpload, Presigner

pytestmark = pytest.mark.anyio

SECRET = "c0ffee+Canary/Secret=of~a-key"
TOKEN = "c0ffee+Canary/Token=of~a-session"
NEARLY = slice(-1)
"""What is left of a secret that lacks its last letter: a wrong one, which is searched for all the same."""
CONTENT = os.urandom(9 << 20)
CONFIG = meowcat.Config(retries=0, prepare_retries=0, control=False)


@pytest.fixture
def anyio_backend():
    return "asyncio"


def forms(canary):
    """What a secret may look like: in Base64 it depends on what stands before it."""
    data = canary.encode()
    found = {data, quote(canary).encode(), quote(canary, safe="").encode()}
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + data)
        inside = encoded[4 if before else 0 : -4]
        found |= {inside, inside.translate(bytes.maketrans(b"+/", b"-_"))}
    return found


def test_a_canary_is_found_in_every_form():
    for shown in (
        SECRET,
        f"https://h/?sig={quote(SECRET, safe='')}",
        base64.b64encode(f"x{SECRET}y".encode()).decode(),
        base64.urlsafe_b64encode(f"xy{SECRET}".encode()).decode(),
    ):
        assert any(form in shown.encode() for form in forms(SECRET)), shown


class Watch:
    """All that an engine shows to anybody."""

    def __init__(self, folder, caplog):
        caplog.set_level(logging.DEBUG)
        self.journal = folder / "t.db"
        self.caplog = caplog
        self.said = []

    @asynccontextmanager
    async def engine(self, **options):
        async with meowcat.Engine(self.journal, config=CONFIG, **options) as opened:
            opened.add_listener(lambda info: self.said.append(repr(info)))
            yield opened

    async def ends(self, engine, request, error=None):
        """Run it to its end, which is this error."""
        task = await engine.submit(request)
        if error is None:
            self.said.append(repr(await task.result()))
            return
        with pytest.raises(meowcat.TransferFailed, match=error) as raised:
            await task.result()
        self.said += traceback.format_exception(raised.value)

    async def waits(self, engine, request):
        """Run it until it waits for something."""
        task = await engine.submit(request)
        with anyio.fail_after(20):
            while task.info.waiting_for is None:
                await anyio.lowlevel.checkpoint()
        self.said.append(repr(task.info))

    async def shown(self):
        async with meowcat.Engine(self.journal, config=CONFIG, on_restart="leave") as engine:
            infos = [info async for info in engine.tasks()]
            for state in (meowcat.State.COMPLETE, meowcat.State.FAILED):
                infos += [info async for info in engine.tasks(state=state)]
            self.said += map(repr, infos)
            for info in infos:
                self.said += [repr(logged) async for logged in engine.history(info.id)]
        kept = [path.read_bytes() for path in self.journal.parent.glob("t.db*") if path.is_file()]
        return b"\n".join([*kept, *(text.encode() for text in self.said), self.caplog.text.encode()])


@pytest.fixture
def watch(tmp_path, caplog):
    return Watch(tmp_path, caplog)


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.bin"
    path.write_bytes(b"small")
    return str(path)


@pytest.fixture
def large(tmp_path):
    """Of two parts."""
    path = tmp_path / "large.bin"
    path.write_bytes(CONTENT)
    return str(path)


@pytest.fixture
def where(oss, request):
    """Settings and a URL of an object of the test's own."""
    settings = AliyunOSS(endpoint=oss.origin, region=oss.region)
    return settings, f"oss://{oss.bucket}/canary/{time.time_ns():x}/{request.node.name}"


@pytest.fixture
def session(oss):
    """A key whose secret and token are canaries, which the server knows."""
    key = AccessKey(id="STS.CANARY", secret=SECRET, token=TOKEN)
    oss.ask("add_key", id=key.id, secret=key.secret, token=key.token)
    return key


def found_in(shown):
    return [form for canary in (SECRET, TOKEN) for form in forms(canary[NEARLY]) if form in shown]


async def test_of_a_direct_transfer(tmp_path, small, large, watch, where, session):
    settings, url = where
    async with watch.engine(credentials={"default": session}) as engine:
        await watch.ends(engine, meowcat.Upload(small, url, settings))
        await watch.ends(engine, meowcat.Upload(large, f"{url}2", settings))
        await watch.ends(engine, meowcat.Download(f"{url}2", str(tmp_path / "got"), protocol=settings))
    assert found_in(await watch.shown()) == []


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"secret": SECRET[NEARLY]}, "SignatureDoesNotMatch"),
        ({"token": TOKEN[NEARLY]}, None),
        ({"id": "STS.ANOTHER"}, "InvalidAccessKeyId"),
    ],
    ids=["secret", "token", "id"],
)
async def test_of_a_key_that_the_server_refuses(tmp_path, large, watch, where, session, change, error):
    """Its error quotes all that was sent."""
    settings, url = where
    fields = {name: getattr(session, name) for name in ("id", "secret", "token")}
    wrong = AccessKey(**fields | change)
    wanted = (
        meowcat.Upload(large, url, settings),
        meowcat.Download(url, str(tmp_path / "got"), protocol=settings),
    )
    async with watch.engine(credentials={"default": wrong}) as engine:
        for request in wanted:
            if error is None:
                await watch.waits(engine, request)
            else:
                await watch.ends(engine, request, error)
    assert found_in(await watch.shown()) == []


async def test_of_a_provider_that_raises(small, watch, where):
    settings, url = where

    def broken():
        raise ValueError(f"can't use {SECRET!r} with {quote(TOKEN, safe='')}")

    async with watch.engine(credentials={"default": broken}) as engine:
        await watch.waits(engine, meowcat.Upload(small, url, settings))
    assert found_in(await watch.shown()) == []


async def test_of_a_plan(tmp_path, large, watch, where, session):
    settings, url = where
    signs = Presigner(url, settings, session)
    opening = signs.begin(mark="order-7")
    async with httpx.AsyncClient() as client:
        reply = await client.request(opening.method, opening.url, headers=opening.headers)
    plan = signs.upload_plan(len(CONTENT), signs.upload_id(reply.content), mark="order-7")
    async with watch.engine() as engine:
        await watch.ends(engine, meowcat.Upload(large, "", PresignedUpload(plan)))
        download = PresignedDownload(signs.download_plan())
        await watch.ends(engine, meowcat.Download("", str(tmp_path / "got"), protocol=download))
    shown = await watch.shown()
    signature = plan.complete.url.rpartition("=")[2].encode()
    assert len(signature) == 64
    assert found_in(shown) == []
    assert signature not in shown
    assert b"STS.CANARY" not in shown.replace(watch.caplog.text.encode(), b"")


async def test_of_a_plan_that_the_server_refuses(tmp_path, small, watch, where, session):
    settings, url = where
    wrong = AccessKey(id=session.id, secret=SECRET[NEARLY], token=TOKEN)
    plan = Presigner(url, settings, wrong).upload_plan(5)
    ended = Presigner(url, settings, session, wall=lambda: time.time_ns() // 1_000_000 - 7_200_000)
    async with watch.engine() as engine:
        await watch.ends(engine, meowcat.Upload(small, "", PresignedUpload(plan)), "SignatureDoesNotMatch")
        stale = meowcat.Download("", str(tmp_path / "got"), protocol=PresignedDownload(ended.download_plan()))
        await watch.waits(engine, stale)
    assert found_in(await watch.shown()) == []


@pytest.mark.parametrize("secret", [SECRET, SECRET[NEARLY]], ids=["good", "wrong"])
def test_of_the_command_line(tmp_path, small, oss, where, session, secret):
    _, url = where
    command = [Path(sys.executable).with_name("meowcat"), "put", "--json", "--journal", tmp_path / "t.db"]
    command += [small, url, "--endpoint", oss.origin, "--region", oss.region]
    given = {
        "ALIBABA_CLOUD_ACCESS_KEY_ID": session.id,
        "ALIBABA_CLOUD_ACCESS_KEY_SECRET": secret,
        "ALIBABA_CLOUD_SECURITY_TOKEN": TOKEN,
    }
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        env={**os.environ, **given},
        timeout=60,
    )
    shown = done.stdout + done.stderr + b"".join(path.read_bytes() for path in tmp_path.glob("t.db*"))
    assert (done.returncode == 0) == (secret == SECRET), shown
    assert found_in(shown) == []
