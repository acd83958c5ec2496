"""Aliyun OSS without a key: a back end signs plans, and the machine that has the file works them off.

python examples/oss_presigned.py

By default it talks to a stand-in on loopback. To the real one:

EXAMPLE_OSS_URL=oss://BUCKET/FOLDER EXAMPLE_OSS_REGION=cn-hangzhou ALIBABA_CLOUD_ACCESS_KEY_ID=… \
ALIBABA_CLOUD_ACCESS_KEY_SECRET=… python examples/oss_presigned.py

Both sides are in this program; what goes from one to the other is JSON, as it would go over the network.
Kill it in the middle and run it again: the plan that was lost with the process is asked for.
"""

import asyncio
import os
import sys
from pathlib import Path

import httpx
import loopback
import msgspec

import meowcat

MIB = 1 << 20


class BackEnd:
    """It has the key. Its URLs are good for a quarter of an hour."""

    def __init__(self) -> None:
        self._oss = meowcat.AliyunOSS(
            region=os.environ.get("EXAMPLE_OSS_REGION"), endpoint=os.environ.get("EXAMPLE_OSS_ENDPOINT")
        )
        self._key = meowcat.AccessKey(
            id=os.environ["ALIBABA_CLOUD_ACCESS_KEY_ID"], secret=os.environ["ALIBABA_CLOUD_ACCESS_KEY_SECRET"]
        )

    def _presigner(self, name: str) -> meowcat.Presigner:
        url = f"{os.environ['EXAMPLE_OSS_URL']}/{name}"
        return meowcat.Presigner(url, self._oss, self._key, expires=900)

    async def upload_plan(self, name: str, size: int, upload_id: str = "") -> bytes:
        """A plan of a new upload, or one with fresh URLs of that one."""
        signs = self._presigner(name)
        if not upload_id:
            begin = signs.begin(mark=name)
            async with httpx.AsyncClient() as client:
                reply = await client.request(begin.method, begin.url, headers=begin.headers)
            upload_id = signs.upload_id(reply.content)
        plan = signs.upload_plan(size, upload_id, part_size=2 * MIB, mark=name)
        return msgspec.json.encode(plan)

    async def download_plan(self, name: str) -> bytes:
        return msgspec.json.encode(self._presigner(name).download_plan())


async def followed(task: meowcat.Task) -> meowcat.Result:
    if task.info.bytes_done:
        print(f"  goes on: {task.info.bytes_done:,} bytes are there already", flush=True)
    async for progress in task.progress():
        print(f"  {progress.state}: {progress.fraction:.0%}", flush=True)
    return await task.result()


async def main(folder: Path) -> None:
    source, back = folder / "big.bin", folder / "back.bin"
    if not source.exists():
        source.write_bytes(os.urandom(24 * MIB))
    back_end = BackEnd()

    async def fresh_upload(asked: meowcat.RefreshRequest) -> meowcat.UploadPlan:
        """URLs have run out, or were lost with a process, or all of the upload has gone."""
        lost = asked.reason == meowcat.RefreshReason.SESSION_LOST
        same = "" if lost else asked.fingerprint.upload_id
        sent = await back_end.upload_plan("big.bin", source.stat().st_size, same)
        return msgspec.json.decode(sent, type=meowcat.UploadPlan)

    async def fresh_download(asked: meowcat.RefreshRequest) -> meowcat.DownloadPlan:
        del asked  # one object, whatever the reason is
        return msgspec.json.decode(await back_end.download_plan("big.bin"), type=meowcat.DownloadPlan)

    async with meowcat.Engine(
        folder / "transfers.db", refreshers={"uploads": fresh_upload, "downloads": fresh_download}
    ) as engine:
        unfinished = [info async for info in engine.tasks(direction="upload")]
        if unfinished:
            task = await engine.task(unfinished[0].id)
        else:
            sent = await back_end.upload_plan("big.bin", source.stat().st_size)
            plan = msgspec.json.decode(sent, type=meowcat.UploadPlan)
            protocol = meowcat.PresignedUpload(plan, refresher="uploads")
            task = await engine.submit(meowcat.Upload(str(source), "", protocol))
        result = await followed(task)
        print(f"uploaded {result.size:,} bytes, ETag {result.remote['etag']}")
        fetch = msgspec.json.decode(await back_end.download_plan("big.bin"), type=meowcat.DownloadPlan)
        by_plan = meowcat.PresignedDownload(fetch, refresher="downloads")
        down = await engine.submit(meowcat.Download("", str(back), protocol=by_plan, overwrite="replace"))
        result = await followed(down)
    same = source.read_bytes() == back.read_bytes()
    print(f"downloaded {result.size:,} bytes:", "the same" if same else "OTHERS")


if __name__ == "__main__":
    with loopback.oss() as name:
        try:
            asyncio.run(main(name))
        except meowcat.MeowcatError as error:  # it names the thing, and says what to do
            sys.exit(f"{error.code}: {error}")
        except KeyError as missing:
            sys.exit(f"{missing.args[0]} is not in the environment")
