"""Azure Blob as it is set up elsewhere: an endpoint of your own, a SAS that is asked for whenever one ends,
blocks of your size, an HTTP client of your own, and a blob that is to say more of itself.

python examples/azure_custom.py

By default it talks to Azurite on loopback (make azurite). To the real one:

EXAMPLE_AZURE_URL=azure://CONTAINER/FOLDER EXAMPLE_AZURE_ENDPOINT=https://ACCOUNT.blob.core.windows.net \
EXAMPLE_SAS_URL=https://… python examples/azure_custom.py

What answers at the last one is your back end, with the SAS of a container (permissions r, c and w) as text.
For tokens of Entra ID the function returns a meowcat.BearerToken, and all else stays as it is.
"""

import asyncio
import os
import sys
from pathlib import Path

import httpx
import loopback

import meowcat

MIB = 1 << 20


async def ask_for_sas() -> meowcat.AzureSas:
    """Asked for by the engine: at first, and shortly before the last answer ends."""
    async with httpx.AsyncClient() as client:
        reply = (await client.get(os.environ["EXAMPLE_SAS_URL"])).raise_for_status()
    return meowcat.AzureSas(token=reply.text.strip())


async def followed(task: meowcat.Task) -> meowcat.Result:
    async for progress in task.progress():
        left = f"{progress.eta:.1f} s to go" if progress.eta is not None else progress.waiting_for or ""
        print(f"  {progress.state}: {progress.bytes_done:,} bytes, {progress.rate / MIB:.1f} MiB/s, {left}")
    return await task.result()


async def main(folder: Path) -> None:
    source, back = folder / "scan.tiff", folder / "back.tiff"
    url = f"{os.environ['EXAMPLE_AZURE_URL']}/scan.tiff"
    if not source.exists():
        source.write_bytes(os.urandom(10 * MIB + 1))
    azure = meowcat.AzureBlob(
        endpoint=os.environ["EXAMPLE_AZURE_ENDPOINT"],
        credential="sas",
        overwrite="replace",
        checksum="md5",  # of each block; crc64nvme at the real Azure is faster to compute
        content_type="image/tiff",
        tier="Cool",
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
            folder / "transfers.db", credentials={"sas": ask_for_sas}, http_client=client
        ) as engine,
    ):
        upload = meowcat.Upload(
            str(source),
            url,
            azure,
            piece_size=MIB,  # up to 512 MiB; 8 MiB unless it is said
            connections=6,
            retries=8,
            headers={"Cache-Control": "no-store"},
            client_file_sign="order-4711",
        )
        result = await followed(await engine.submit(upload))
        print(f"uploaded {result.size:,} bytes in blocks of {MIB:,}, ETag {result.remote['etag']}")
        download = meowcat.Download(url, str(back), protocol=azure, piece_size=MIB, overwrite="replace")
        result = await followed(await engine.submit(download))
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
