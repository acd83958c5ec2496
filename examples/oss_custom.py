"""Aliyun OSS as it is set up elsewhere: a domain of your own, sessions of STS, more headers signed, parts of
your size, an HTTP client and proxy of your own, and an object that is to say more of itself.

python examples/oss_custom.py

By default it talks to a stand-in on loopback. To the real one:

EXAMPLE_OSS_URL=oss://BUCKET/FOLDER EXAMPLE_OSS_REGION=cn-hangzhou \
EXAMPLE_OSS_CNAME=https://files.example.com ALIBABA_CLOUD_CREDENTIALS_URI=http://… \
python examples/oss_custom.py

The last one answers as Alibaba's SDKs know it: a JSON object with AccessKeyId, AccessKeySecret,
SecurityToken and Expiration.
"""

import asyncio
import os
import sys
from datetime import datetime
from pathlib import Path

import httpx
import loopback

import meowcat

MIB = 1 << 20


async def ask_for_session() -> meowcat.AccessKey:
    """Asked for by the engine: at first, and shortly before the last answer ends."""
    async with httpx.AsyncClient() as client:
        reply = (await client.get(os.environ["ALIBABA_CLOUD_CREDENTIALS_URI"])).raise_for_status().json()
    return meowcat.AccessKey(
        id=reply["AccessKeyId"],
        secret=reply["AccessKeySecret"],
        token=reply["SecurityToken"],
        expires=int(datetime.fromisoformat(reply["Expiration"]).timestamp() * 1000),
    )


async def followed(task: meowcat.Task) -> meowcat.Result:
    async for progress in task.progress():
        left = f"{progress.eta:.1f} s to go" if progress.eta is not None else progress.waiting_for or ""
        print(f"  {progress.state}: {progress.bytes_done:,} bytes, {progress.rate / MIB:.1f} MiB/s, {left}")
    return await task.result()


async def main(folder: Path) -> None:
    source, back, url = (
        folder / "scan.tiff",
        folder / "back.tiff",
        f"{os.environ['EXAMPLE_OSS_URL']}/scan.tiff",
    )
    if not source.exists():
        source.write_bytes(os.urandom(10 * MIB + 1))
    oss = meowcat.AliyunOSS(
        endpoint=os.environ["EXAMPLE_OSS_CNAME"],
        style="cname",
        region=os.environ["EXAMPLE_OSS_REGION"],  # a domain names none, and a signature needs it
        credential="sts",
        additional_headers=("host", "range"),
        checksum="md5",  # besides the CRC-64, so that OSS does not even store a damaged part
        content_type="image/tiff",
        storage_class="IA",
        metadata={"order": "4711"},
    )
    # The engine uses the client as it is. It doesn't close it.
    async with (
        httpx.AsyncClient(
            proxy=os.environ.get("EXAMPLE_PROXY"),
            headers={"user-agent": "our-app/1.0"},
            limits=httpx.Limits(max_connections=8),
            timeout=httpx.Timeout(30),
        ) as client,
        meowcat.Engine(
            folder / "transfers.db", credentials={"sts": ask_for_session}, http_client=client
        ) as engine,
    ):
        upload = meowcat.Upload(
            str(source),
            url,
            oss,
            piece_size=MIB,  # 100 KiB to 512 MiB; 8 MiB unless it is said
            connections=6,
            retries=8,
            headers={"Cache-Control": "no-store"},
            client_file_sign="order-4711",
        )
        result = await followed(await engine.submit(upload))
        print(f"uploaded {result.size:,} bytes in parts of {MIB:,}, ETag {result.remote['etag']}")
        download = meowcat.Download(url, str(back), protocol=oss, piece_size=MIB, overwrite="replace")
        result = await followed(await engine.submit(download))
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
