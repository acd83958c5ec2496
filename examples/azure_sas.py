"""Azure Blob without a key: a back end signs plans, and the machine that has the file works them off.

python examples/azure_sas.py

By default it talks to Azurite on loopback (make azurite). To the real one:

EXAMPLE_AZURE_URL=azure://CONTAINER/FOLDER AZURE_STORAGE_ACCOUNT=… AZURE_STORAGE_KEY=… \
python examples/azure_sas.py

Both sides are in this program; what goes from one to the other is JSON, as it would go over the network.
Kill it in the middle and run it again: the plan that was lost with the process is asked for.
"""

import asyncio
import os
import sys
import uuid
from pathlib import Path

import loopback
import msgspec

import meowcat

MIB = 1 << 20


class BackEnd:
    """It has the key. Its URLs are good for a quarter of an hour."""

    def __init__(self) -> None:
        self._key = meowcat.AzureKey(
            account=os.environ["AZURE_STORAGE_ACCOUNT"], key=os.environ["AZURE_STORAGE_KEY"]
        )
        self._azure = meowcat.AzureBlob(
            account=self._key.account,
            endpoint=os.environ.get("EXAMPLE_AZURE_ENDPOINT"),
            overwrite="replace",  # unless it is said, a blob that is there stays
        )

    def _presigner(self, name: str) -> meowcat.AzurePresigner:
        url = f"{os.environ['EXAMPLE_AZURE_URL']}/{name}"
        return meowcat.AzurePresigner(url, self._azure, self._key, expires=900)

    def upload_plan(self, name: str, size: int, upload_id: str = "") -> bytes:
        """A plan of a new upload, or one with fresh URLs of that one."""
        plan = self._presigner(name).upload_plan(size, upload_id or uuid.uuid4().hex, part_size=2 * MIB)
        return msgspec.json.encode(plan)

    def download_plan(self, name: str) -> bytes:
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

    def fresh_upload(asked: meowcat.RefreshRequest) -> meowcat.UploadPlan:
        """URLs have run out, or were lost with a process, or blocks have gone."""
        lost = asked.reason == meowcat.RefreshReason.SESSION_LOST
        same = "" if lost else asked.fingerprint.upload_id
        sent = back_end.upload_plan("big.bin", source.stat().st_size, same)
        return msgspec.json.decode(sent, type=meowcat.UploadPlan)

    def fresh_download(asked: meowcat.RefreshRequest) -> meowcat.DownloadPlan:
        del asked  # one blob, whatever the reason is
        return msgspec.json.decode(back_end.download_plan("big.bin"), type=meowcat.DownloadPlan)

    async with meowcat.Engine(
        folder / "transfers.db", refreshers={"uploads": fresh_upload, "downloads": fresh_download}
    ) as engine:
        unfinished = [info async for info in engine.tasks(direction="upload")]
        if unfinished:
            task = await engine.task(unfinished[0].id)
        else:
            sent = back_end.upload_plan("big.bin", source.stat().st_size)
            plan = msgspec.json.decode(sent, type=meowcat.UploadPlan)
            protocol = meowcat.PresignedUpload(plan, refresher="uploads")
            task = await engine.submit(meowcat.Upload(str(source), "", protocol))
        result = await followed(task)
        print(f"uploaded {result.size:,} bytes, ETag {result.remote['etag']}")
        fetch = msgspec.json.decode(back_end.download_plan("big.bin"), type=meowcat.DownloadPlan)
        by_plan = meowcat.PresignedDownload(fetch, refresher="downloads")
        down = await engine.submit(meowcat.Download("", str(back), protocol=by_plan, overwrite="replace"))
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
