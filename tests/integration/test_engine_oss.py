"""What only OSS has, through the engine: sessions of STS, hosts of its own, and checksums that it tells."""

import base64
import os
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from object_servers import settings_of, url_of
from objects_harness import fresh_key
from oss_server import OSSServer

import meowcat
from meowcat.core.events import TAGS

pytestmark = pytest.mark.anyio

CONFIG = meowcat.Config(control=False)
PART = 1 << 20
MINUTES = 60 * 1000


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="module")
def content():
    return os.urandom(10 * PART + 321)


@pytest.fixture
def file(tmp_path, content):
    path = tmp_path / "source.bin"
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    return path


@pytest.fixture
def own(tmp_path):
    """A stand-in of one's own, whose clock may be turned."""
    with OSSServer(tmp_path / "oss") as server:
        yield server


def engine(tmp_path, key, **options):
    options = {"credentials": {"default": key}, "config": CONFIG} | options
    return meowcat.Engine(tmp_path / "t.db", **options)


def upload(server, file, key, **options):
    settings = options.pop("settings", None) or settings_of(server)
    return meowcat.Upload(str(file), url_of(server, key), settings, **{"piece_size": PART} | options)


def sent_parts(server, key):
    """Numbers of the parts that were taken."""
    taken = server.requests(op="upload_part", key=key, status=200)
    return sorted(int(each["query"]["partNumber"]) for each in taken)


# Sessions


async def test_a_token_that_runs_out_on_the_way_is_renewed_once_and_no_part_is_sent_again(
    tmp_path, oss, file, content
):
    given = []

    def ask_sts():
        given.append(oss.session(3600, f"STS.{len(given)}.{fresh_key()[:8]}"))
        return given[-1]

    key = fresh_key()
    async with engine(tmp_path, ask_sts) as opened:
        task = await opened.submit(upload(oss, file, key, limit_rate=2 * PART, retries=0))
        async for progress in task.progress():
            if progress.bytes_done >= 3 * PART:
                break
        oss.expire(given[0])
        await task.set_limit_rate(None)
        await task.result()
        events = [TAGS[type(logged.event)] async for logged in task.history()]
    assert oss.content(key) == content
    assert len(given) == 2
    assert sent_parts(oss, key) == list(range(1, 12))
    assert "attempt-failed" not in events


async def test_a_session_that_nobody_renews_waits_and_goes_on_with_a_fresh_one(tmp_path, oss, file, content):
    old = oss.session(3600, f"STS.{fresh_key()[:8]}")
    key = fresh_key()
    async with engine(tmp_path, old) as opened:
        task = await opened.submit(upload(oss, file, key, limit_rate=2 * PART))
        async for progress in task.progress():
            if progress.bytes_done >= 2 * PART:
                break
        oss.expire(old)
        await task.set_limit_rate(None)
        await opened.drain()
        assert task.info.needs == ("credential:default",)
        await opened.add_credential("default", oss.key)
        await task.result()
    assert oss.content(key) == content
    assert sent_parts(oss, key) == list(range(1, 12))


# Clocks


@pytest.mark.parametrize("ahead", [20 * MINUTES, -20 * MINUTES])
async def test_a_clock_that_is_twenty_minutes_off_is_corrected_once(tmp_path, own, file, content, ahead):
    own.ask("clock", ahead=ahead)
    async with engine(tmp_path, own.key) as opened:
        await (await opened.submit(upload(own, file, "key", retries=0, connections=1))).result()
        await opened.download(url_of(own, "key"), tmp_path / "back.bin", protocol=settings_of(own))
    assert own.content("key") == content
    assert (tmp_path / "back.bin").read_bytes() == content
    assert len(own.requests(status=403)) == 1


# What OSS says


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (403, "AccessDenied", "grant it oss:PutObject"),
        (404, "NoSuchBucket", "check its name, the endpoint and the region"),
        (409, "FileImmutable", "a retention policy protects the object"),
        (412, "PreconditionFailed", "nothing was done"),
    ],
)
async def test_what_can_not_be_done_says_what_to_do(tmp_path, oss, file, status, code, says):
    key = fresh_key()
    oss.fail(1, status=status, code=code, key=key)
    async with engine(tmp_path, oss.key) as opened:
        task = await opened.submit(upload(oss, file, key))
        with pytest.raises(meowcat.TransferFailed) as failed:
            await task.result()
    assert f"{status} {code}" in str(failed.value)
    assert says in str(failed.value)


@pytest.mark.parametrize("op", ["initiate_multipart_upload", "upload_part", "complete_multipart_upload"])
@pytest.mark.parametrize(("status", "code"), [(429, "TooManyRequests"), (503, "QpsLimitExceeded")])
async def test_a_busy_service_is_asked_again(tmp_path, oss, file, content, status, code, op):
    key = fresh_key()
    oss.fail(2, status=status, code=code, op=op, key=key)
    async with engine(tmp_path, oss.key) as opened:
        await (await opened.submit(upload(oss, file, key))).result()
    assert oss.content(key) == content
    assert oss.uploads(key) == []


async def test_an_object_whose_md5_is_told_with_every_range_comes_in_ranges(tmp_path, oss, content):
    """OSS tells the MD5 of what was put with one request, and with a part of it that of the whole."""
    key, target, put = fresh_key(), tmp_path / "got.bin", content[: 7 * PART]
    async with engine(tmp_path, oss.key) as opened:
        await opened.upload(put, url_of(oss, key), protocol=settings_of(oss), name="small")
        assert oss.object(key)["md5"]
        await opened.download(
            url_of(oss, key), target, protocol=settings_of(oss), connections=4, piece_size=PART
        )
    assert target.read_bytes() == put
    assert len(oss.requests(op="get_object", key=key, status=206)) > 1


async def test_a_range_beyond_the_end_of_a_replaced_object_begins_anew(tmp_path, oss, content):
    key = fresh_key()
    async with engine(tmp_path, oss.key) as opened:
        await opened.upload(content, url_of(oss, key), protocol=settings_of(oss), name="long")
        request = meowcat.Download(
            url_of(oss, key),
            to=tmp_path / "x",
            protocol=settings_of(oss),
            piece_size=PART,
            limit_rate=4 * PART,
        )
        task = await opened.submit(request)
        async for progress in task.progress():
            if progress.bytes_done >= 2 * PART:
                break
        await task.pause()
        await opened.upload(b"short", url_of(oss, key), protocol=settings_of(oss), name="short")
        await task.resume()
        await task.result()
    assert (tmp_path / "x").read_bytes() == b"short"


# Checksums


def damage(path):
    """Change one bit; returns what stands there then."""
    content = bytearray(Path(path).read_bytes())
    content[len(content) // 2] ^= 1
    Path(path).write_bytes(content)
    return content


async def test_what_is_stored_otherwise_than_oss_tells_is_not_taken_for_the_object(tmp_path, own, content):
    async with engine(tmp_path, own.key) as opened:
        await opened.upload(content, url_of(own, "key"), protocol=settings_of(own), name="whole")
        damaged = damage(own.object("key")["path"])
        with pytest.raises(meowcat.TransferFailed, match="crc64xz"):
            await opened.download(url_of(own, "key"), tmp_path / "x", protocol=settings_of(own))
        assert not (tmp_path / "x").exists()
        unchecked = settings_of(own, checksum="none")
        await opened.download(url_of(own, "key"), tmp_path / "y", protocol=unchecked)
    assert (tmp_path / "y").read_bytes() == damaged


class Mistaken(httpx.AsyncHTTPTransport):
    """As if OSS had made something else of the parts, the first time."""

    def __init__(self):
        super().__init__()
        self.commits = 0

    async def handle_async_request(self, request):
        reply = await super().handle_async_request(request)
        if request.method == "POST" and "uploadId" in request.url.params:
            self.commits += 1
            if self.commits == 1:
                reply.headers["x-oss-hash-crc64ecma"] = "7"
        return reply


async def test_a_whole_that_oss_made_otherwise_is_sent_again_and_never_taken_for_right(
    tmp_path, oss, file, content
):
    mistaken = Mistaken()
    key = fresh_key()
    async with (
        httpx.AsyncClient(transport=mistaken) as client,
        engine(tmp_path, oss.key, http_client=client) as opened,
    ):
        task = await opened.submit(upload(oss, file, key))
        await task.result()
        events = [TAGS[type(logged.event)] async for logged in task.history()]
    assert events.count("session-opened") == 2
    assert sent_parts(oss, key) == sorted([*range(1, 12), *range(1, 12)])
    assert mistaken.commits == 2
    assert oss.content(key) == content
    assert oss.uploads(key) == []


# Hosts


class Elsewhere(httpx.AsyncHTTPTransport):
    """As if the name of every host led to the stand-in."""

    def __init__(self, server):
        super().__init__()
        self._port = server.port
        self.hosts = set()

    async def handle_async_request(self, request):
        self.hosts.add(request.headers["host"])
        request.url = request.url.copy_with(scheme="http", host="127.0.0.1", port=self._port)
        return await super().handle_async_request(request)


@pytest.mark.parametrize(
    ("settings", "host"),
    [
        ({"region": "cn-hangzhou"}, "meowcat-tests.oss-cn-hangzhou.aliyuncs.com"),
        (
            {"endpoint": "http://oss-cn-hangzhou-internal.aliyuncs.com"},
            "meowcat-tests.oss-cn-hangzhou-internal.aliyuncs.com",
        ),
        (
            {
                "endpoint": "https://files.example",
                "style": "cname",
                "region": "cn-hangzhou",
                "additional_headers": ("host", "range"),
            },
            "files.example",
        ),
    ],
)
async def test_a_bucket_is_reached_by_its_own_host(tmp_path, oss, file, content, settings, host):
    oss.ask("add_cname", host="files.example", bucket=oss.bucket)
    elsewhere = Elsewhere(oss)
    protocol = meowcat.AliyunOSS(**settings)
    key = fresh_key("ä b?.bin")
    async with (
        httpx.AsyncClient(transport=elsewhere) as client,
        engine(tmp_path, oss.key, http_client=client) as opened,
    ):
        await (await opened.submit(upload(oss, file, key, settings=protocol))).result()
        await opened.download(url_of(oss, key), tmp_path / "back.bin", protocol=protocol)
        task = await opened.submit(upload(oss, file, key + ".2", settings=protocol, limit_rate=2 * PART))
        async for progress in task.progress():
            if progress.bytes_done:
                break
        await task.cancel()
        await opened.drain()
    assert elsewhere.hosts == {host}
    assert oss.content(key) == content
    assert (tmp_path / "back.bin").read_bytes() == content
    assert oss.uploads(key + ".2") == []


# Secrets


async def test_no_secret_is_anywhere_but_in_the_requests(tmp_path, oss, file, caplog):
    caplog.set_level("DEBUG")
    key = oss.session(3600, f"STS.{fresh_key()[:8]}")
    name = fresh_key()
    texts = []
    async with engine(tmp_path, key) as opened:
        subscription = opened.add_listener(lambda event: texts.append(repr(event)))
        task = await opened.submit(upload(oss, file, name, limit_rate=2 * PART))
        async for progress in task.progress():
            texts.append(repr(progress))
            if progress.bytes_done >= 2 * PART:
                break
        oss.fail(1, status=403, code="SignatureDoesNotMatch", op="upload_part", key=name)
        await task.set_limit_rate(None)
        with pytest.raises(meowcat.TransferFailed) as failed:
            await task.result()
        error = failed.value
        while error is not None:
            texts.append(f"{error!r} {error} {vars(error)}")
            error = error.__cause__ or error.__context__
        texts += [repr(logged) async for logged in task.history()] + [repr(task.info)]
        await task.retry()
        texts.append(repr(await task.result()))
        subscription.close()
    journal = b"".join(path.read_bytes() for path in tmp_path.glob("t.db*")).decode("latin-1")
    texts += [journal, caplog.text]
    for secret in (key.secret, key.token):
        encoded = base64.b64encode(secret.encode()).decode()
        for form in (secret, quote(secret, safe=""), encoded, encoded.rstrip("=")):
            assert not [text for text in texts if form in text]
    assert not [text for text in texts if "OSS4-HMAC" in text]
