"""Uploads and downloads through the engine, to Azurite."""

import base64
import hashlib
import os
import time
from urllib.parse import quote

import pytest
from azure_harness import PART, container_of, fresh_key, stored, uncommitted

import meowcat
from meowcat import AzureBlob, State
from meowcat.core.events import TAGS
from meowcat.core.waits import WaitingFor
from meowcat.protocols.signing.sas import service_sas

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

CONFIG = meowcat.Config(control=False)


@pytest.fixture
def anyio_backend():
    return "asyncio"


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


def upload(server, file, name, *, settings=None, **options):
    url = f"azure://{server.container}/{name}"
    settings = AzureBlob(endpoint=server.endpoint, **(settings or {}))
    return meowcat.Upload(str(file), url, settings, **{"piece_size": PART} | options)


def sas_of(server, permissions="rcw"):
    end = int(time.time() * 1000) + 3_600_000
    return service_sas(server.key, server.container, permissions=permissions, expires=end, https_only=False)


@pytest.mark.parametrize("with_sas", [False, True])
async def test_there_and_back(tmp_path, azurite, file, content, with_sas):
    name = fresh_key("a b/ü.bin")
    credential = sas_of(azurite) if with_sas else azurite.key
    async with engine(tmp_path, azurite, credentials={"default": credential}) as opened:
        sent = await (await opened.submit(upload(azurite, file, name, digest="md5"))).result()
        assert stored(azurite, name) == content
        assert sent.remote["etag"]
        back = await opened.download(
            f"azure://{azurite.container}/{name}",
            tmp_path / "back.bin",
            protocol=AzureBlob(endpoint=azurite.endpoint),
            digest="sha256",
        )
        assert [each.hex for each in back.digests] == [hashlib.sha256(content).hexdigest()]
        assert (tmp_path / "back.bin").read_bytes() == content
    assert uncommitted(azurite, name) == []
    with container_of(azurite) as client:
        whole = client.get_blob_client(name).get_blob_properties().content_settings.content_md5
    assert bytes(whole) == hashlib.md5(content, usedforsecurity=False).digest()


@pytest.mark.parametrize("size", [0, 1, 8 << 20])
async def test_a_small_one_is_one_request(tmp_path, azurite, file, content, size):
    file.write_bytes(content[:size])
    name = fresh_key()
    async with engine(tmp_path, azurite) as opened:
        await (await opened.submit(upload(azurite, file, name))).result()
        back = await opened.download(
            f"azure://{azurite.container}/{name}",
            tmp_path / "back.bin",
            protocol=AzureBlob(endpoint=azurite.endpoint),
        )
        assert back.size == size
    assert stored(azurite, name) == content[:size]
    assert (tmp_path / "back.bin").read_bytes() == content[:size]


async def test_an_upload_goes_on_after_a_restart_with_what_azure_has(tmp_path, azurite, file, content):
    name = fresh_key()
    request = upload(azurite, file, name, connections=1, limit_rate=8 << 20)
    async with engine(tmp_path, azurite) as opened:
        task = await opened.submit(request)
        async for progress in task.progress():
            if progress.bytes_done >= 2 * PART:
                break
    async with engine(tmp_path, azurite) as opened:
        task = await opened.task(task.id)
        await task.result()
        events = [TAGS[type(logged.event)] async for logged in task.history()]
    assert stored(azurite, name) == content
    assert events.count("session-opened") == 1
    assert events.count("session-intended") == 0
    assert uncommitted(azurite, name) == []


async def test_a_canceled_upload_removes_nothing_and_says_what_is_left(tmp_path, azurite, file):
    name = fresh_key()
    async with engine(tmp_path, azurite) as opened:
        task = await opened.submit(upload(azurite, file, name, limit_rate=4 << 20))
        async for progress in task.progress():
            if progress.bytes_done:
                break
        await task.cancel()
        await opened.drain()
        assert task.state is State.CANCELED
        (orphan,) = await opened.orphans()
    assert (orphan.task, orphan.ours, orphan.kept, orphan.removable) == (task.id, True, False, False)
    assert "a week after" in orphan.detail
    assert uncommitted(azurite, name)
    with container_of(azurite) as client:
        client.upload_blob(name, b"x", overwrite=True)
        blob = client.get_blob_client(name)
        blob.stage_block("x" * 48, b"another")
        blob.commit_block_list([])
    async with engine(tmp_path, azurite) as opened:
        assert await opened.orphans() == []


async def test_a_blob_that_is_there_fails_the_upload_at_once_and_is_left_alone(tmp_path, azurite, file):
    name = fresh_key()
    with container_of(azurite) as client:
        client.upload_blob(name, b"older")
    async with engine(tmp_path, azurite) as opened:
        with pytest.raises(meowcat.TransferFailed, match="is there already") as error:
            await (await opened.submit(upload(azurite, file, name))).result()
    assert error.value.code is meowcat.Code.TARGET_EXISTS
    assert stored(azurite, name) == b"older"
    assert uncommitted(azurite, name) == []


async def test_two_tasks_for_one_blob_of_two_engines_do_not_mix(tmp_path, azurite, file, content):
    """The first commit drops the other's blocks; the other begins anew, and finds a blob that is to stay."""
    name = fresh_key()
    reverse = tmp_path / "reverse.bin"
    reverse.write_bytes(content[::-1])
    slow = upload(azurite, file, name, connections=1, limit_rate=8 << 20)
    async with engine(tmp_path, azurite) as opened:
        task = await opened.submit(slow)
        async for progress in task.progress():
            if progress.bytes_done >= PART:
                break
        await task.set_limit_rate(1024)  # it stays in the middle until the other one is there
        other = meowcat.Engine(tmp_path / "other.db", credentials={"default": azurite.key}, config=CONFIG)
        async with other:
            await (await other.submit(upload(azurite, reverse, name))).result()
        await task.set_limit_rate(None)
        with pytest.raises(meowcat.TransferFailed, match="is there already"):
            await task.result()
    assert stored(azurite, name) == content[::-1]


async def test_an_upload_waits_for_its_credential_and_nothing_holds_a_secret(
    tmp_path, azurite, file, content
):
    name = fresh_key()
    sas = sas_of(azurite)
    async with engine(tmp_path, azurite, credentials={}) as opened:
        task = await opened.submit(upload(azurite, file, name))
        await opened.drain()
        assert task.info.waiting_for is WaitingFor.SUPPLY
        assert task.info.needs == ("credential:default",)
    async with engine(tmp_path, azurite, credentials={"default": sas}) as opened:
        result = await (await opened.task(task.id)).result()
        told = repr(result) + repr([logged async for logged in opened.history(task.id)])
    assert stored(azurite, name) == content
    journal = b"".join(path.read_bytes() for path in tmp_path.glob("t.db*"))
    signature = dict(part.split("=", 1) for part in sas.query.split("&"))["sig"]
    raw = base64.b64decode(signature.replace("%2B", "+").replace("%2F", "/").replace("%3D", "="))
    for secret in (signature, base64.b64encode(raw).decode(), quote(signature), raw.hex()):
        assert secret not in told
        assert secret.encode() not in journal
    assert b"SharedKey" not in journal


async def test_a_sas_that_ends_in_the_middle_is_asked_for_anew_and_nothing_is_sent_again(
    tmp_path, azurite, file, content
):
    given = []

    def provider():
        end = int(time.time() * 1000) + (6_000 if not given else 3_600_000)
        sas = service_sas(azurite.key, azurite.container, permissions="rcw", expires=end, https_only=False)
        given.append(sas)
        return sas

    name = fresh_key()
    async with engine(tmp_path, azurite, credentials={"default": provider}) as opened:
        task = await opened.submit(upload(azurite, file, name, connections=1, limit_rate=5 << 19))
        await task.result()
        sent = [TAGS[type(logged.event)] async for logged in task.history()].count("sent")
        failures = [TAGS[type(logged.event)] async for logged in task.history()].count("attempt-failed")
    assert len(given) > 1
    assert (sent, failures) == (5, 0)
    assert stored(azurite, name) == content
