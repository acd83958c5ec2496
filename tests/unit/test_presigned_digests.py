"""A part that a server got otherwise than it was sent is sent again, where what it says can be believed."""

import base64
import hashlib

import pytest

from meowcat.core.values import FaultKind
from meowcat.protocols.presigned_digests import TRIES, PartDigests, said_of
from meowcat.protocols.refused import Refused
from meowcat.protocols.wire import Reply
from meowcat.transfer.digests import new

pytestmark = pytest.mark.anyio

DATA = b"what was sent" * 100
OTHER = b"what came" * 100


@pytest.fixture
def anyio_backend():
    return "asyncio"


class Piece:
    """A part that tells which digests it was asked for, and when."""

    def __init__(self, data=DATA):
        self.data = data
        self.asked = []

    async def checksum(self, algorithm):
        self.asked.append(algorithm)
        return digest(algorithm, self.data)


def digest(algorithm, data):
    hasher = new(algorithm)
    hasher.update(data)
    return hasher.hexdigest()


def reply(**headers):
    return Reply(200, [(name.replace("_", "-"), value) for name, value in headers.items()], b"")


def base64_of(digits, *, turned=False):
    data = bytes.fromhex(digits)
    return base64.b64encode(data[::-1] if turned else data).decode()


def etagged(data, **more):
    return reply(etag=f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"', **more)


SAYS = {
    "crc64xz": lambda data: reply(x_oss_hash_crc64ecma=str(int(digest("crc64xz", data), 16))),
    "crc64nvme": lambda data: reply(x_amz_checksum_crc64nvme=base64_of(digest("crc64nvme", data))),
    "sha256": lambda data: reply(x_amz_checksum_sha256=base64_of(digest("sha256", data))),
    "crc64nvme of Azure": lambda data: reply(
        x_ms_content_crc64=base64_of(digest("crc64nvme", data), turned=True)
    ),
    "md5": lambda data: reply(x_ms_request_id="1", Content_MD5=base64_of(digest("md5", data))),
}


@pytest.mark.parametrize("algorithm", SAYS)
async def test_a_digest_that_a_header_tells_is_compared_from_the_first_part_on(algorithm):
    says, name = SAYS[algorithm], algorithm.partition(" ")[0]
    digests = PartDigests()
    await digests.compare(Piece(), says(DATA), "part 1")
    with pytest.raises(
        Refused, match=f"part 2: the server got other bytes than were sent, by their {name}"
    ) as it:
        await PartDigests().compare(Piece(), says(OTHER), "part 2")
    assert it.value.fault.kind is FaultKind.DISCONNECTED, "which another attempt may mend"


async def test_what_the_server_tells_is_computed_while_the_next_part_is_read():
    digests = PartDigests()
    first, second = Piece(), Piece()
    await digests.ahead(first)
    assert first.asked == [], "nobody knows yet"
    await digests.compare(first, SAYS["crc64nvme"](DATA), "part 1")
    await digests.ahead(second)
    assert second.asked == ["crc64nvme"]


async def test_an_etag_is_compared_once_one_was_the_md5_of_its_part():
    digests = PartDigests()
    await digests.compare(Piece(), etagged(OTHER), "part 1")  # it may be anything as yet
    await digests.compare(Piece(), etagged(DATA), "part 2")
    with pytest.raises(Refused, match=r"part 3: .* by their md5"):
        await digests.compare(Piece(), etagged(OTHER), "part 3")
    await digests.compare(Piece(), etagged(DATA), "part 3")


async def test_an_etag_that_is_no_md5_is_soon_left_alone():
    digests = PartDigests()
    for _ in range(TRIES):
        await digests.compare(Piece(), etagged(OTHER), "a part")
    later = Piece()
    await digests.ahead(later)
    await digests.compare(later, etagged(OTHER), "a part")
    assert later.asked == []


@pytest.mark.parametrize(
    "what",
    [
        {"x_amz_server_side_encryption": "aws:kms"},
        {"x_amz_server_side_encryption": "aws:kms:dsse"},
        {"x_amz_server_side_encryption_customer_algorithm": "AES256"},
    ],
)
async def test_where_s3_says_that_it_encrypts_with_a_key_no_etag_is_looked_at(what):
    piece = Piece()
    await PartDigests().compare(piece, etagged(OTHER, **what), "a part")
    assert piece.asked == []


@pytest.mark.parametrize(
    "headers",
    [
        {"etag": '"0x8D9ABCDEF"'},
        {"etag": '"joined-3"'},
        {"x_amz_checksum_crc64nvme": "no base64!"},
        {"x_oss_hash_crc64ecma": "-1"},
        {
            "content_md5": base64_of("d41d8cd98f00b204e9800998ecf8427e")
        },  # of the reply's own body, which is empty
        {},
    ],
)
async def test_what_tells_no_digest_of_the_part_is_compared_with_nothing(headers):
    piece = Piece()
    assert said_of(reply(**headers)) is None
    await PartDigests().compare(piece, reply(**headers), "a part")
    assert piece.asked == []
