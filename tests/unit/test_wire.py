"""Short exchanges: a reply is read whole, within bounds of size and of time."""

import asyncio

import anyio
import pytest

from meowcat.core.values import FaultKind
from meowcat.protocols import wire
from meowcat.protocols.refused import Refused
from meowcat.testing.virtual_time import VirtualLoop, VirtualTime
from meowcat.transport.contract import HttpRequest, TransportFault


def called(transport, **bounds):
    """The reply to one call; waiting takes no time."""
    time = VirtualTime()
    time.end = 3600.0
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(time)) as runner:
        return runner.run(wire.call(transport, REQUEST, **bounds))


REQUEST = HttpRequest("POST", "https://host.example/x?secret=1")


class Dribbling:
    """A transport, an exchange and a reply in one: `count` bytes, one each half second; None never ends."""

    status, version, headers = 200, "HTTP/1.1", ()

    def __init__(self, count):
        self._left = count
        self.closed = False

    def send(self, request):
        return self

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exc):
        self.closed = True

    async def dead(self):
        pass

    async def read(self, size):
        await anyio.sleep(0.5)
        if self._left is None:
            return b" "
        self._left -= 1
        return b" " if self._left >= 0 else b""


def test_a_reply_that_takes_minutes_is_waited_for():
    reply = called(Dribbling(1000))
    assert reply.body == b" " * 1000


def test_a_reply_that_never_ends_does_and_its_exchange_is_closed():
    endless = Dribbling(None)
    with pytest.raises(TransportFault, match="did not come to an end") as caught:
        called(endless)
    assert caught.value.fault.kind is FaultKind.TIMEOUT
    assert "https://host.example:443" in caught.value.fault.detail
    assert "secret" not in caught.value.fault.detail
    assert endless.closed


def test_a_reply_that_is_too_long_is_refused():
    with pytest.raises(Refused, match="more than 10 bytes"):
        called(Dribbling(None), most=10)


class Hasty(Dribbling):
    """Answers after `taken` chunks of a body."""

    def __init__(self, taken, status=200):
        super().__init__(0)
        self.taken, self.status = taken, status

    def send(self, request):
        self.body = request.body()
        return self

    async def __aenter__(self):
        for _ in range(self.taken):
            await anext(self.body, None)
        return self

    async def __aexit__(self, *exc):
        await self.body.aclose()


async def chunks():
    for chunk in (b"some", b"more"):
        yield chunk


def sent(transport, length):
    request = HttpRequest("PUT", "https://host.example/x", body=chunks, body_length=length)
    return asyncio.run(wire.call(transport, request))


def test_a_success_is_one_once_all_of_the_body_was_handed_over():
    assert sent(Hasty(2), 8).status == 200
    assert sent(Hasty(3), None).status == 200, "its end was asked for"
    for early, length in ((0, 8), (1, 8), (2, None)):
        with pytest.raises(TransportFault, match="200 before it had all of the request's body") as caught:
            sent(Hasty(early), length)
        assert caught.value.fault.kind is FaultKind.DISCONNECTED


def test_a_refusal_may_come_at_any_time():
    assert sent(Hasty(1, 403), 8).status == 403


class Drawing(Hasty):
    """Draws `taken` chunks, where that is possible."""

    async def __aenter__(self):
        assert self.body.ready() is self.can
        for _ in range(self.taken):
            self.body.draw()
        return self


class Drawn:
    """A body that has two chunks of four bytes."""

    def __init__(self):
        self.left = [b"some", b"more"]

    async def __anext__(self):
        raise AssertionError("it can be drawn")

    def ready(self):
        return True

    def draw(self):
        return self.left.pop() if self.left else None


@pytest.mark.parametrize(("body", "taken", "fits"), [(Drawn, 1, False), (Drawn, 2, True), (Drawn, 3, True)])
def test_what_is_drawn_of_a_body_was_handed_over_as_well(body, taken, fits):
    transport = Drawing(taken)
    transport.can = True
    request = HttpRequest("PUT", "https://host.example/x", body=body, body_length=8)
    if fits:
        assert asyncio.run(wire.call(transport, request)).status == 200
    else:
        with pytest.raises(TransportFault, match="200 before it had all"):
            asyncio.run(wire.call(transport, request))


def test_a_body_that_can_not_be_drawn_says_so():
    transport = Drawing(1)
    transport.can = False
    with pytest.raises(TransportFault, match="200 before it had all"):
        sent(transport, 8)


def test_whoever_lets_go_of_a_body_lets_go_of_what_it_comes_from():
    gone = []

    async def held():
        try:
            yield b"some"
            yield b"more"
        finally:
            gone.append(True)

    source = held()

    class Closing(Hasty):
        async def __aexit__(self, *exc):
            await super().__aexit__(*exc)
            assert gone, "at once, though somebody else holds it"

    request = HttpRequest("PUT", "https://host.example/x", body=lambda: source, body_length=8)
    assert asyncio.run(wire.call(Closing(1, 403), request)).status == 403


def test_a_body_that_is_asked_for_anew_has_to_be_handed_over_anew():
    class Twice(Hasty):
        def send(self, request):
            self.body = request.body
            return self

        async def __aenter__(self):
            async for _ in self.body():
                pass
            self.body = self.body()
            return await super().__aenter__()

    assert sent(Twice(2), 8).status == 200
    with pytest.raises(TransportFault, match="200 before it had all"):
        sent(Twice(1), 8)
