"""Somebody else writes into a part file while it is brought, in a world whose time is virtual."""

import asyncio

import pytest

import meowcat
from meowcat.core.events import Rechecked
from meowcat.testing.exchanges import Trouble
from meowcat.testing.world import World

URL = "https://host.example/big.bin"
TARGET = "/data/big.bin"
MIB = 1 << 20


@pytest.mark.parametrize("options", [{"digest": "sha256"}, {"checksum": True}])
def test_a_digest_vouches_for_no_byte_that_was_not_stored(options):
    """The file is read for its digest, so that what it is of is compared with what the journal says."""
    made, lost = World(), []
    content = made.server.serve(URL, 8 * MIB)
    made.server.script = lambda _: Trouble(rate=MIB)
    if options.pop("checksum", False):
        options["checksum"] = f"sha256:{content.sha256}"

    async def meddle(world):
        async with world.engine() as engine:
            task = await engine.submit(
                meowcat.Download(URL, TARGET, piece_size=MIB, connections=1, **options)
            )
            await asyncio.sleep(4.5)
            (part,) = made.disk.names("/data")
            made.disk.overwrite(f"/data/{part}", 2 * MIB + 100, b"meddled")
            with pytest.raises(
                meowcat.TransferFailed, match="1 of the part file's pieces is not what was"
            ) as no:
                await task.result()
            assert no.value.code is meowcat.Code.CHECKSUM
            assert made.disk.get(TARGET) is None
            asked = len(made.server.requests)
            await task.retry()
            result = await task.result()
            lost.extend([each.event async for each in task.history() if isinstance(each.event, Rechecked)])
            assert [str(each) for each in result.digests] == [f"sha256:{content.sha256}"]
            assert [each.headers["range"] for each in made.server.requests[asked:]] == [
                "bytes=2097152-3145727"
            ]

    made.run(meddle)
    assert made.disk.get(TARGET) == content.bytes()
    assert lost[0].lost == ((2, 3),)
