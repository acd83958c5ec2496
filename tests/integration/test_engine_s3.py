"""Uploads and downloads through the engine, to real S3 servers."""

import hashlib
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))  # importlib mode imports no neighbours

from objects_harness import PART, fresh_key
from s3_harness import client_of

import meowcat
from meowcat import State
from meowcat.core.events import TAGS
from meowcat.core.waits import WaitingFor
from meowcat.protocols.s3 import S3

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

CONFIG = meowcat.Config(control=False)


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(params=["seaweedfs", "rclone"])
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


def upload(server, file, key, **options):
    url = f"s3://{server.bucket}/{key}"
    return meowcat.Upload(str(file), url, S3(endpoint=server.origin), **{"piece_size": PART} | options)


def stored(server, key):
    client = client_of(server)
    try:
        return client.get_object(Bucket=server.bucket, Key=key)["Body"].read()
    finally:
        client.close()


def left(server, key):
    client = client_of(server)
    try:
        found = client.list_multipart_uploads(Bucket=server.bucket, Prefix=key)
    except client.exceptions.NoSuchUpload:  # rclone's word for none
        return []
    finally:
        client.close()
    return found.get("Uploads", [])


async def test_there_and_back(tmp_path, server, file, content):
    key = fresh_key("a b/ü.bin")
    async with engine(tmp_path, server) as opened:
        sent = await (await opened.submit(upload(server, file, key))).result()
        assert stored(server, key) == content
        assert sent.remote["etag"]
        if server.name == "weed":  # the other one's ranges are no ranges
            back = await opened.download(
                f"s3://{server.bucket}/{key}",
                tmp_path / "back.bin",
                protocol=S3(endpoint=server.origin),
                digest="sha256",
            )
            assert [each.hex for each in back.digests] == [hashlib.sha256(content).hexdigest()]
            assert (tmp_path / "back.bin").read_bytes() == content
    assert left(server, key) == []


@pytest.mark.parametrize("size", [0, 1, 8 << 20])
async def test_a_small_one_is_one_put(tmp_path, server, file, content, size):
    file.write_bytes(content[:size])
    key = fresh_key()
    async with engine(tmp_path, server) as opened:
        await (await opened.submit(upload(server, file, key))).result()
    assert stored(server, key) == content[:size]


async def test_an_upload_goes_on_after_a_restart_with_what_the_server_has(tmp_path, server, file, content):
    key = fresh_key()
    request = upload(server, file, key, connections=1, limit_rate=16 << 20)
    async with engine(tmp_path, server) as opened:
        task = await opened.submit(request)
        async for progress in task.progress():
            if progress.bytes_done >= 2 * PART:
                break
    async with engine(tmp_path, server) as opened:
        task = await opened.task(task.id)
        await task.result()
        events = [TAGS[type(logged.event)] async for logged in task.history()]
    assert stored(server, key) == content
    assert events.count("session-opened") == 1
    assert left(server, key) == []


async def test_a_canceled_upload_leaves_nothing(tmp_path, server, file):
    key = fresh_key()
    async with engine(tmp_path, server) as opened:
        task = await opened.submit(upload(server, file, key, limit_rate=16 << 20))
        async for progress in task.progress():
            if progress.bytes_done:
                break
        await task.cancel()
        await opened.drain()
    assert left(server, key) == []
    assert task.state is State.CANCELED


async def test_an_upload_waits_for_its_credential_and_the_journal_holds_no_secret(
    tmp_path, seaweedfs, file, content
):
    key = fresh_key()
    async with engine(tmp_path, seaweedfs, credentials={}) as opened:
        task = await opened.submit(upload(seaweedfs, file, key))
        await opened.drain()
        assert task.info.waiting_for is WaitingFor.SUPPLY
        assert task.info.needs == ("credential:default",)
    async with engine(tmp_path, seaweedfs) as opened:
        await (await opened.task(task.id)).result()
    assert stored(seaweedfs, key) == content
    journal = b"".join(path.read_bytes() for path in tmp_path.glob("t.db*"))
    assert seaweedfs.key.secret.encode() not in journal
    assert b"AWS4-HMAC" not in journal


async def test_a_download_from_a_server_that_answers_ranges_with_200_says_what_is_wrong(
    tmp_path, rclone, file
):
    key = fresh_key()
    async with engine(tmp_path, rclone) as opened:
        await (await opened.submit(upload(rclone, file, key))).result()
        with pytest.raises(meowcat.TransferFailed, match="200"):
            await opened.download(
                f"s3://{rclone.bucket}/{key}", tmp_path / "back.bin", protocol=S3(endpoint=rclone.origin)
            )
