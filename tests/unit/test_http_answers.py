"""What the head of a reply says of how its body may be read."""

import pytest

from meowcat.core.http_rules import Asked
from meowcat.protocols.http_range import HttpAnswer


class Reply:
    """One that a thread can read as well."""

    status = 206
    version = "HTTP/1.1"

    def __init__(self, *more):
        self.headers = (("Content-Range", "bytes 0-9/100"), ("ETag", '"1"'), *more)

    async def read(self, size): ...

    async def pour(self, sink): ...


LENGTH, CHUNKED = ("Content-Length", "10"), ("Transfer-Encoding", "chunked")


@pytest.mark.parametrize("framing", [(), (CHUNKED,), (LENGTH, CHUNKED)])
def test_a_body_whose_end_its_head_does_not_say_is_no_threads_to_read(framing):
    """A thread takes as much as the head says, and would not see that there is more."""
    assert HttpAnswer(Reply(*framing), Asked(0, 10, None), 0).pours is None


def test_a_body_whose_head_says_how_long_it_is_may_be_a_threads():
    reply = Reply(LENGTH)
    assert HttpAnswer(reply, Asked(0, 10, None), 0).pours is reply
