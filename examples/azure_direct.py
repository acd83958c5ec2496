"""A file to Azure Blob and back, with an account's key: in blocks, over several connections.

python examples/azure_direct.py

By default it talks to Azurite on loopback (make azurite). To the real one:

EXAMPLE_AZURE_URL=azure://CONTAINER/FOLDER AZURE_STORAGE_ACCOUNT=… AZURE_STORAGE_KEY=… \
python examples/azure_direct.py

Kill it in the middle and run it again: it goes on where it was.
"""

import asyncio
import os
import sys
from pathlib import Path

import loopback

import meowcat

MIB = 1 << 20


async def followed(task: meowcat.Task) -> meowcat.Result:
    """Print how it goes, and return what came of it."""
    if task.info.bytes_done:
        print(f"  goes on: {task.info.bytes_done:,} bytes are there already", flush=True)
    async for progress in task.progress():
        waits = f", waits for {progress.waiting_for}" if progress.waiting_for else ""
        print(f"  {progress.state}: {progress.fraction:.0%}{waits}", flush=True)
    return await task.result()


async def main(folder: Path) -> None:
    source, back, url = folder / "big.bin", folder / "back.bin", f"{os.environ['EXAMPLE_AZURE_URL']}/big.bin"
    if not source.exists():
        source.write_bytes(os.urandom(24 * MIB))
    key = meowcat.AzureKey(account=os.environ["AZURE_STORAGE_ACCOUNT"], key=os.environ["AZURE_STORAGE_KEY"])
    azure = meowcat.AzureBlob(
        account=key.account,
        endpoint=os.environ.get("EXAMPLE_AZURE_ENDPOINT"),
        overwrite="replace",  # unless it is said, a blob that is there stays
    )
    async with meowcat.Engine(folder / "transfers.db", credentials={"default": key}) as engine:
        print(f"uploading to {url}")
        up = await engine.submit(meowcat.Upload(str(source), url, azure, connections=4, piece_size=2 * MIB))
        result = await followed(up)
        print(f"uploaded {result.size:,} bytes, ETag {result.remote['etag']}")
        down = await engine.submit(
            meowcat.Download(url, str(back), protocol=azure, connections=4, overwrite="replace")
        )
        result = await followed(down)
    same = source.read_bytes() == back.read_bytes()
    print(f"downloaded {result.size:,} bytes:", "the same" if same else "OTHERS")


if __name__ == "__main__":
    with loopback.azure() as name:
        try:
            asyncio.run(main(name))
        except meowcat.MeowcatError as error:  # it names the thing, and says what to do
            sys.exit(f"{error.code}: {error}")
        except KeyError as missing:
            sys.exit(f"{missing.args[0]} is not in the environment")
