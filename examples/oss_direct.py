"""A file to Aliyun OSS and back, with an access key: in parts, over several connections.

python examples/oss_direct.py

By default it talks to a stand-in on loopback. To the real one:

EXAMPLE_OSS_URL=oss://BUCKET/FOLDER EXAMPLE_OSS_REGION=cn-hangzhou ALIBABA_CLOUD_ACCESS_KEY_ID=… \
ALIBABA_CLOUD_ACCESS_KEY_SECRET=… python examples/oss_direct.py

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
    source, back, url = folder / "big.bin", folder / "back.bin", f"{os.environ['EXAMPLE_OSS_URL']}/big.bin"
    if not source.exists():
        source.write_bytes(os.urandom(24 * MIB))
    key = meowcat.AccessKey(
        id=os.environ["ALIBABA_CLOUD_ACCESS_KEY_ID"], secret=os.environ["ALIBABA_CLOUD_ACCESS_KEY_SECRET"]
    )
    oss = meowcat.AliyunOSS(
        region=os.environ.get("EXAMPLE_OSS_REGION"), endpoint=os.environ.get("EXAMPLE_OSS_ENDPOINT")
    )
    async with meowcat.Engine(folder / "transfers.db", credentials={"default": key}) as engine:
        print(f"uploading to {url}")
        up = await engine.submit(meowcat.Upload(str(source), url, oss, connections=4, piece_size=2 * MIB))
        result = await followed(up)
        print(f"uploaded {result.size:,} bytes, ETag {result.remote['etag']}")
        down = await engine.submit(
            meowcat.Download(url, str(back), protocol=oss, connections=4, overwrite="replace")
        )
        result = await followed(down)
    print(f"downloaded {result.size:,} bytes:", "the same" if same(source, back) else "OTHERS")


def same(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


if __name__ == "__main__":
    with loopback.oss() as name:
        try:
            asyncio.run(main(name))
        except meowcat.MeowcatError as error:  # it names the thing, and says what to do
            sys.exit(f"{error.code}: {error}")
        except KeyError as missing:
            sys.exit(f"{missing.args[0]} is not in the environment")
