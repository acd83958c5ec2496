"""Uploads and downloads of objects through the engine: to real S3 servers, and to the stand-in for OSS."""

import hashlib
import os

import pytest
from object_servers import content_at, settings_of, uploads_to, url_of
from objects_harness import PART, fresh_key
from oss_server import OSSServer

import meowcat
from meowcat import State
from meowcat.core.events import TAGS
from meowcat.core.waits import WaitingFor
from meowcat.testing.s3_servers import RcloneS3

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

CONFIG = meowcat.Config(control=False)


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(params=["seaweedfs", "rclone", "oss"])
def server(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def content():
    return os.urandom(4 * PART + 321)


@pytest.fixture
def file(tmp_path, content):
    path = tmp_path / "source.bin"
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    return path


def engine(tmp_path, server, **options):
    options = {"credentials": {"default": server.key}, "config": CONFIG} | options
    return meowcat.Engine(tmp_path / "t.db", **options)


@pytest.fixture(params=["seaweedfs", "oss"])
def good(request):
    return request.getfixturevalue(request.param)


def upload(server, file, key, **options):
    return meowcat.Upload(
        str(file), url_of(server, key), settings_of(server), **{"piece_size": PART} | options
    )


async def test_there_and_back(tmp_path, server, file, content):
    key = fresh_key("a b/ü.bin")
    async with engine(tmp_path, server) as opened:
        sent = await (await opened.submit(upload(server, file, key))).result()
        assert content_at(server, key) == content
        assert sent.remote["etag"]
        if not isinstance(server, RcloneS3):  # whose ranges are no ranges
            back = await opened.download(
                url_of(server, key), tmp_path / "back.bin", protocol=settings_of(server), digest="sha256"
            )
            digests = {each.algorithm: each.hex for each in back.digests}
            assert digests.pop("sha256") == hashlib.sha256(content).hexdigest()
            assert list(digests) == (["crc64xz"] if isinstance(server, OSSServer) else [])
            assert (tmp_path / "back.bin").read_bytes() == content
    assert uploads_to(server, key) == []


@pytest.mark.parametrize("size", [0, 1000, 2 * PART + 1])
async def test_an_object_that_is_stored_in_a_coding_comes_back_as_it_is_stored(
    tmp_path, good, file, content, size
):
    file.write_bytes(content[:size])
    key, coding = fresh_key(), {"Content-Encoding": "gzip"}
    async with engine(tmp_path, good) as opened:
        await (await opened.submit(upload(good, file, key, headers=coding))).result()
        for name, keep in (("a", False), ("b", True)):
            await opened.download(
                url_of(good, key), tmp_path / name, protocol=settings_of(good), keep_encoding=keep
            )
            assert (tmp_path / name).read_bytes() == content[:size]


@pytest.mark.parametrize("size", [0, 1, 8 << 20])
async def test_a_small_one_is_one_put(tmp_path, server, file, content, size):
    file.write_bytes(content[:size])
    key = fresh_key()
    async with engine(tmp_path, server) as opened:
        await (await opened.submit(upload(server, file, key))).result()
    assert content_at(server, key) == content[:size]


async def test_an_upload_goes_on_after_a_restart_with_what_the_server_has(tmp_path, server, file, content):
    key = fresh_key()
    request = upload(server, file, key, connections=1, limit_rate=8 << 20)
    async with engine(tmp_path, server) as opened:
        task = await opened.submit(request)
        async for progress in task.progress():
            if progress.bytes_done >= 2 * PART:
                break
    async with engine(tmp_path, server) as opened:
        task = await opened.task(task.id)
        await task.result()
        events = [TAGS[type(logged.event)] async for logged in task.history()]
    assert content_at(server, key) == content
    assert events.count("session-opened") == 1
    assert uploads_to(server, key) == []


async def test_a_canceled_upload_leaves_nothing(tmp_path, server, file):
    key = fresh_key()
    async with engine(tmp_path, server) as opened:
        task = await opened.submit(upload(server, file, key, limit_rate=4 << 20))
        async for progress in task.progress():
            if progress.bytes_done:
                break
        await task.cancel()
        await opened.drain()
    assert uploads_to(server, key) == []
    assert task.state is State.CANCELED


async def test_an_upload_waits_for_its_credential_and_the_journal_holds_no_secret(
    tmp_path, good, file, content
):
    key = fresh_key()
    async with engine(tmp_path, good, credentials={}) as opened:
        task = await opened.submit(upload(good, file, key))
        await opened.drain()
        assert task.info.waiting_for is WaitingFor.SUPPLY
        assert task.info.needs == ("credential:default",)
    async with engine(tmp_path, good) as opened:
        await (await opened.task(task.id)).result()
    assert content_at(good, key) == content
    journal = b"".join(path.read_bytes() for path in tmp_path.glob("t.db*"))
    assert good.key.secret.encode() not in journal
    assert b"4-HMAC" not in journal


async def test_a_download_from_a_server_that_answers_ranges_with_200_says_what_is_wrong(
    tmp_path, rclone, file
):
    key = fresh_key()
    async with engine(tmp_path, rclone) as opened:
        await (await opened.submit(upload(rclone, file, key))).result()
        with pytest.raises(meowcat.TransferFailed, match="200"):
            await opened.download(url_of(rclone, key), tmp_path / "back.bin", protocol=settings_of(rclone))
