"""Small bodies over real connections."""

import logging
import threading

import anyio
import pytest

import meowcat
from meowcat.runtime import fetches
from meowcat.testing.servers import Content, RangeServer, Trouble

pytestmark = pytest.mark.anyio

MIB = 1 << 20
CONTENT = Content(300_000)
SECRETS = {"Authorization": "Bearer made-up", "Cookie": "a=made-up", "X-Token": "made-up"}


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


@pytest.fixture
async def engine():
    async with meowcat.Engine(config=meowcat.Config(connect_timeout=5, read_timeout=5)) as opened:
        yield opened


def to(location, status=302):
    return Trouble(status=status, headers=(("Location", location),), body=b"moved")


def hops(count):
    """`/0` redirects to `/1` and so on, `count` times, and then there is content."""
    return lambda seen: to(f"/{int(seen.path[1:]) + 1}") if int(seen.path[1:]) < count else None


async def test_a_body_comes_with_its_status_url_and_headers(engine):
    with RangeServer(CONTENT) as server:
        fetched = await engine.fetch(f"{server.url}?b=1", headers={"X-Token": "made-up"})
        (seen,) = server.requests
    assert fetched.content == CONTENT.bytes()
    assert fetched.status == 200
    assert fetched.url == f"{server.url}?b=1"
    assert fetched.headers["content-length"] == "300000"
    assert fetched.headers["etag"] == CONTENT.etag
    assert (seen.method, seen.headers["accept-encoding"], seen.headers["x-token"]) == (
        "GET",
        "identity",
        "made-up",
    )


async def test_a_length_that_is_too_large_is_refused_before_the_body_is_read(engine):
    """The server would stall in the middle of the body: whoever read it would run into a time-out."""
    with RangeServer(Content(5 * MIB + 1), script=lambda _: Trouble(after=1000, then="stall")) as server:
        with pytest.raises(meowcat.BodyTooLarge) as large:
            await engine.fetch(server.url)
        assert large.value.code == 124
        assert await server.until(lambda server: server.open_sockets == 0)
        assert len(server.requests) == 1


async def test_five_mebibytes_are_taken_unless_more_is_asked_for(engine):
    five, more = Content(5 * MIB), Content(5 * MIB + 1)
    with RangeServer({"/five": five, "/more": more}) as server:
        assert (await engine.fetch(f"{server.origin}/five")).content == five.bytes()
        with pytest.raises(meowcat.BodyTooLarge):
            await engine.fetch(f"{server.origin}/more")
        fetched = await engine.fetch(f"{server.origin}/more", max_bytes=64 * MIB)
        assert fetched.content == more.bytes()


@pytest.mark.parametrize("framing", ["chunked", "close"])
async def test_a_body_that_says_no_length_is_cut_where_it_is_too_long(engine, framing):
    """It has 256 MiB; what was not read any more the server could not send."""
    with RangeServer(Content(256 * MIB), script=lambda _: Trouble(framing=framing)) as server:
        with pytest.raises(meowcat.BodyTooLarge, match="or more; expected at most max_bytes=100,000"):
            await engine.fetch(server.url, max_bytes=100_000)
        assert await server.until(lambda server: server.open_sockets == 0)
        assert server.bytes_served() < 64 * MIB


@pytest.mark.parametrize("framing", ["chunked", "close"])
async def test_a_body_without_a_length_is_whole_up_to_the_limit(engine, framing):
    with RangeServer(CONTENT, script=lambda _: Trouble(framing=framing)) as server:
        fetched = await engine.fetch(server.url, max_bytes=CONTENT.size)
        assert fetched.content == CONTENT.bytes()


async def test_five_redirects_are_followed_and_more_only_where_it_is_said(engine):
    with RangeServer(CONTENT, script=hops(5)) as server:
        assert (await engine.fetch(f"{server.origin}/0")).url == f"{server.origin}/5"
    with RangeServer(CONTENT, script=hops(6)) as server:
        with pytest.raises(meowcat.FetchFailed, match="more than 5 redirects") as refused:
            await engine.fetch(f"{server.origin}/0")
        assert refused.value.code == meowcat.Code.REPLY
        assert (await engine.fetch(f"{server.origin}/0", max_redirects=6)).status == 200


async def test_none_is_followed_where_none_is_allowed(engine):
    with RangeServer(CONTENT, script=hops(1)) as server:
        with pytest.raises(meowcat.FetchFailed, match="more than 0 redirects"):
            await engine.fetch(f"{server.origin}/0", max_redirects=0)
        assert len(server.requests) == 1


async def test_credentials_stay_at_their_origin(engine):
    with RangeServer(CONTENT) as here, RangeServer(CONTENT) as there:
        here.script = lambda seen: to(f"{there.origin}/b")
        await engine.fetch(f"{here.origin}/a", headers=SECRETS)
        (sent,), (crossed,) = here.requests, there.requests
    assert sent.headers["authorization"] == "Bearer made-up"
    assert "made-up" not in str(crossed.headers)


async def test_https_is_never_given_up(tmp_path):
    with RangeServer(CONTENT, tls=True) as secure, RangeServer(CONTENT) as plain:
        secure.script = lambda seen: to(f"{plain.origin}/b")
        authority = tmp_path / "ca.pem"
        authority.write_bytes(secure.ca_pem)
        async with meowcat.Engine(config=meowcat.Config(ca_bundle=str(authority))) as engine:
            with pytest.raises(meowcat.FetchFailed, match="give up encryption"):
                await engine.fetch(f"{secure.origin}/a")
        assert plain.requests == []


async def test_coded_bytes_are_refused(engine):
    server = RangeServer(CONTENT, script=lambda _: Trouble(gzip=True))
    with server, pytest.raises(meowcat.FetchFailed, match="content-encoding 'gzip'"):
        await engine.fetch(server.url)


async def test_who_has_a_copy_is_told_that_it_is_current(engine):
    with RangeServer(CONTENT, script=[Trouble(status=304)]) as server:
        fetched = await engine.fetch(server.url, headers={"If-None-Match": CONTENT.etag})
    assert (fetched.status, fetched.content) == (304, b"")


async def test_text_and_json_are_read_as_the_reply_says(engine):
    latin = Trouble(
        status=200, body="Größe".encode("latin-1"), headers=(("Content-Type", "a/b; charset=latin-1"),)
    )
    strange = Trouble(
        status=200, body="Größe".encode(), headers=(("Content-Type", "a/b; charset=undefined"),)
    )
    listed = Trouble(status=200, body='{"größe": 3}'.encode())
    with RangeServer(CONTENT, script=[latin, strange, listed, Trouble(status=200, body=b"{")]) as server:
        assert (await engine.fetch(server.url)).text() == "Größe"
        assert (await engine.fetch(server.url)).text() == "Größe"
        assert (await engine.fetch(server.url)).json() == {"größe": 3}
        with pytest.raises(ValueError, match="Expecting property name"):
            (await engine.fetch(server.url)).json()


async def test_no_secret_is_shown(engine, caplog):
    caplog.set_level(logging.DEBUG)
    with RangeServer(
        CONTENT, script=lambda seen: Trouble(status=403) if "no" in seen.path else None
    ) as server:
        fetched = await engine.fetch(f"{server.origin}/yes?X-Amz-Signature=made-up", headers=SECRETS)
        with pytest.raises(meowcat.FetchFailed) as failed:
            await engine.fetch(f"{server.origin}/no?X-Amz-Signature=made-up", headers=SECRETS)
        with pytest.raises(meowcat.BodyTooLarge) as large:
            await engine.fetch(f"{server.origin}/yes?X-Amz-Signature=made-up", max_bytes=1)
    shown = f"{fetched!r} {fetched.__rich_repr__()} {failed.value} {large.value} {caplog.text}"
    assert "made-up" not in shown
    assert failed.value.status == 403


async def test_cancelling_the_caller_closes_its_connection(engine):
    with RangeServer(CONTENT, script=lambda _: Trouble(after=1000, then="stall")) as server:
        async with anyio.create_task_group() as group:
            group.start_soon(engine.fetch, server.url)
            assert await server.until(lambda server: server.bytes_served() >= 1000)
            group.cancel_scope.cancel()
        assert await server.until(lambda server: server.open_sockets == 0)


def test_it_blocks_for_those_who_want_that():
    with RangeServer(CONTENT) as server, meowcat.blocking.Engine() as engine:
        assert engine.fetch(server.url).content == CONTENT.bytes()


def test_a_blocking_call_gives_up_after_its_timeout_and_frees_its_place():
    config = meowcat.Config(max_fetches=1, fetch_capacity=1)
    server = RangeServer(CONTENT, script=lambda _: Trouble(before="stall"))
    with server, meowcat.blocking.Engine(config=config) as engine:
        with pytest.raises(TimeoutError):
            engine.fetch(server.url, timeout=0.2)
        server.script = ()
        assert engine.fetch(server.url).status == 200


def test_closing_ends_a_blocking_call_of_another_thread():
    ended = []

    def call(engine, url):
        try:
            engine.fetch(url)
        except meowcat.EngineClosed as closed:
            ended.append(closed.code)

    with RangeServer(CONTENT, script=lambda _: Trouble(before="stall")) as server:
        engine = meowcat.blocking.Engine().open()
        thread = threading.Thread(target=call, args=(engine, server.url))
        thread.start()
        assert server.wait_for(lambda server: len(server.requests) == 1)
        assert not engine.closed
        engine.close()
        assert engine.closed
        thread.join()
    assert ended == [107]


def named(name, *, but=()):
    """A server that gives each content this name, and answers the methods in `but` with 403."""
    disposition = (("Content-Disposition", f'attachment; filename="{name}"'),)
    return lambda seen: Trouble(status=403) if seen.method in but else Trouble(headers=disposition)


async def test_a_name_is_the_servers_and_asked_for_without_the_content(engine):
    with RangeServer(CONTENT, script=named("report.pdf")) as server:
        assert await engine.name_of(server.url, headers={"X-Token": "made-up"}) == "report.pdf"
        (seen,) = server.requests
    assert (seen.method, seen.headers["x-token"], seen.sent) == ("HEAD", "made-up", 0)


async def test_one_byte_is_asked_for_where_head_is_refused(engine):
    with RangeServer(CONTENT, script=named("report.pdf", but=["HEAD"])) as server:
        assert await engine.name_of(server.url) == "report.pdf"
        assert [seen.method for seen in server.requests] == ["HEAD", "GET"]
        assert server.requests[-1].headers["range"] == "bytes=0-0"


@pytest.mark.parametrize("said", ["../../etc/passwd", "/etc/passwd", "..\\passwd"])
async def test_a_name_is_never_a_path(engine, said):
    with RangeServer(CONTENT, script=named(said)) as server:
        assert await engine.name_of(server.url) == "passwd"


async def test_a_name_is_the_urls_where_the_server_says_none(engine):
    with RangeServer(CONTENT) as server:
        assert await engine.name_of(f"{server.origin}/a/b%20c.iso?x=1") == "b c.iso"
        assert await engine.name_of(server.origin) == "download"
    with RangeServer(CONTENT, script=named("other.bin", but=["HEAD", "GET"])) as server:
        assert await engine.name_of(f"{server.origin}/c.iso") == "c.iso"
    assert await engine.name_of(f"{server.origin}/gone.iso") == "gone.iso", "nobody listens there any more"


async def test_an_object_is_called_by_its_key_and_nobody_is_asked(engine):
    with RangeServer(CONTENT, script=named("other.bin")) as server:
        protocol = meowcat.S3(endpoint=server.origin, region="here", style="path")
        assert await engine.name_of("s3://bucket/isos/big.iso", protocol=protocol) == "big.iso"
        assert not server.requests


async def test_the_name_of_a_plan_is_asked_for_with_its_headers(engine):
    with RangeServer(CONTENT, script=named("report.pdf", but=["HEAD"])) as server:
        plan = meowcat.DownloadPlan(url=f"{server.url}?X-Amz-Signature=made-up", headers={"X-Signed": "1"})
        assert await engine.name_of("", protocol=meowcat.PresignedDownload(plan)) == "report.pdf"
        assert server.requests[-1].headers["x-signed"] == "1"


async def test_headers_of_a_name_stay_at_their_origin(engine):
    with RangeServer(CONTENT, script=named("there.bin")) as there:
        with RangeServer(CONTENT, script=[to(there.url)]) as here:
            assert await engine.name_of(here.url, headers=SECRETS) == "there.bin"
            assert here.requests[0].headers["x-token"] == "made-up"
        assert not {name.lower() for name in SECRETS} & set(there.requests[0].headers)


@pytest.mark.parametrize(
    ("url", "options", "what"),
    [
        ("ftp://host/x", {}, "expected http or https"),
        ("s3://bucket/x", {}, "needs the protocol"),
        (5, {}, "url: expected a text"),
        ("http://host/x", {"headers": {"a b": "x"}}, "header 'a b'"),
        ("http://host/x", {"headers": ["x"]}, "headers: expected a dict"),
        ("http://host/x", {"protocol": "s3"}, "protocol"),
    ],
)
async def test_what_can_be_asked_for_no_name_is_refused(engine, url, options, what):
    with pytest.raises(meowcat.InvalidArgument, match=what):
        await engine.name_of(url, **options)


async def test_a_silent_server_names_nothing_after_a_while(engine, monkeypatch):
    monkeypatch.setattr(fetches, "NAME_SECONDS", 0.05)
    with RangeServer(CONTENT, script=lambda _: Trouble(before="stall")) as server:
        assert await engine.name_of(f"{server.origin}/c.iso") == "c.iso"


async def test_closing_ends_the_wait_for_a_name(engine):
    async def ask(url):
        with pytest.raises(meowcat.EngineClosed):
            await engine.name_of(url)

    with RangeServer(CONTENT, script=lambda _: Trouble(before="stall")) as server, anyio.fail_after(5):
        async with anyio.create_task_group() as asking:
            asking.start_soon(ask, server.url)
            assert await server.until(lambda server: server.requests)
            await engine.close()
