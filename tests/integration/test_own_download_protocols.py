"""Downloads by a protocol of the application's own, through the engine."""

import pytest
from msgspec.structs import replace

import meowcat
from meowcat.core.values import Fault, FaultKind
from meowcat.protocols.contract import Refused
from meowcat.protocols.http_range import HttpRange
from meowcat.testing.servers import Content, RangeServer

pytestmark = pytest.mark.anyio

REFUSALS = []
"""Raised in turn, before anything is asked for."""


class Choosy(HttpRange):
    """HTTP that needs something first, as a credential."""

    tag = "choosy"

    def ask(self, asked):
        return _Asking(super().ask(asked))


class Elsewhere(HttpRange):
    """Says truly where the bytes belong, which is not where they were asked for."""

    tag = "elsewhere"

    def ask(self, asked):
        return super().ask(replace(asked, start=max(0, asked.start - 1)))


class Stillborn(HttpRange):
    """Can't even be made."""

    tag = "stillborn"

    def __init__(self, *args, **named):
        raise KeyError("a setting")


class _Asking:
    def __init__(self, asking):
        self._asking = asking

    async def __aenter__(self):
        if REFUSALS:
            raise Refused(REFUSALS.pop(0))
        return await self._asking.__aenter__()

    async def __aexit__(self, *exc):
        await self._asking.__aexit__(*exc)


@pytest.fixture(autouse=True)
def refusals():
    REFUSALS.clear()
    return REFUSALS


async def download(server, folder, protocol=Choosy):
    async with meowcat.Engine(folder / "t.db", protocols=[protocol]) as engine:
        request = meowcat.Download(
            server.url, str(folder / "file.bin"), protocol=meowcat.ProtocolSpec(protocol.tag)
        )
        return await (await engine.submit(request)).result()


async def test_what_can_not_be_asked_for_now_is_asked_for_later(tmp_path, refusals):
    content = Content(300_000)
    refusals += [Fault(kind=FaultKind.CREDENTIAL, detail="nobody gave one")] * 2
    with RangeServer(content) as server:
        await download(server, tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == content.bytes()


async def test_what_a_protocol_refuses_for_good_fails_with_its_words(tmp_path, refusals):
    refusals += [Fault(kind=FaultKind.STATUS, detail="the archive knows no such key", status=403)] * 9
    with RangeServer(Content(300_000)) as server:
        with pytest.raises(meowcat.TransferFailed, match="the archive knows no such key"):
            await download(server, tmp_path)
        assert server.requests == []


async def test_bytes_are_placed_only_where_the_verdict_says_that_they_belong(tmp_path):
    with RangeServer(Content(20 << 20)) as server, pytest.raises(meowcat.TransferFailed) as failed:
        await download(server, tmp_path, Elsewhere)
    assert failed.value.code is meowcat.Code.RANGE
    assert not (tmp_path / "file.bin").exists()


async def test_a_protocol_that_breaks_when_it_is_made_fails_its_task_and_no_other(tmp_path):
    content = Content(300_000)
    spec = meowcat.ProtocolSpec("stillborn")
    with RangeServer(content) as server:
        async with meowcat.Engine(tmp_path / "t.db", protocols=[Stillborn]) as engine:
            with pytest.raises(meowcat.TransferFailed, match="KeyError at the beginning of Fetch"):
                await engine.download(server.url, str(tmp_path / "no.bin"), protocol=spec)
            await engine.download(server.url, str(tmp_path / "file.bin"))
    assert (tmp_path / "file.bin").read_bytes() == content.bytes()
