"""A back end signs, another machine moves the bytes: to Azure Blob and back again, by plans of SAS URLs.

python examples/azure_sas.py

It goes to Azurite on loopback, or to Azure, as azure_direct.py does.
"""

import asyncio
import os
import tempfile
from contextlib import nullcontext
from pathlib import Path

import msgspec
from azure_direct import stand_in

import meowcat

MIB = 1 << 20
SIZE = 20 * MIB
ORDER = f"order-{os.getpid()}"


class BackEnd:
    """Has the key. What it hands out is JSON, as it would go over the wire."""

    def __init__(self, container: str, settings: meowcat.AzureBlob, key: meowcat.AzureKey) -> None:
        url = f"azure://{container}/examples/{ORDER}.bin"
        self._blob = meowcat.AzurePresigner(url, settings, key, expires=900)

    def plan(self, size: int, upload_id: str) -> bytes:
        return msgspec.json.encode(self._blob.upload_plan(size, upload_id, part_size=MIB))

    def download(self) -> bytes:
        return msgspec.json.encode(self._blob.download_plan())


def client_of(back_end: BackEnd, folder: Path) -> meowcat.Engine:
    """An engine without a key. Whenever it needs fresh URLs it asks the back end."""

    def fresh_upload(request: meowcat.RefreshRequest) -> meowcat.UploadPlan:
        known = request.fingerprint
        return msgspec.json.decode(back_end.plan(known.size or 0, known.upload_id), type=meowcat.UploadPlan)

    def fresh_download(_: meowcat.RefreshRequest) -> meowcat.DownloadPlan:
        return msgspec.json.decode(back_end.download(), type=meowcat.DownloadPlan)

    return meowcat.Engine(
        folder / "transfers.db", refreshers={"uploads": fresh_upload, "downloads": fresh_download}
    )


async def main(back_end: BackEnd, folder: Path) -> None:
    source = folder / "source.bin"
    source.write_bytes(os.urandom(SIZE))
    async with client_of(back_end, folder) as engine:
        plan = msgspec.json.decode(back_end.plan(SIZE, ORDER), type=meowcat.UploadPlan)
        protocol = meowcat.PresignedUpload(plan, refresher="uploads")
        done = await engine.upload(source, protocol=protocol, connections=4)
        print(f"uploaded {done.size:,} bytes in {len(plan.parts)} blocks: {done.remote['etag']}")
        found = msgspec.json.decode(back_end.download(), type=meowcat.DownloadPlan)
        back = meowcat.PresignedDownload(found, refresher="downloads")
        await engine.download("", folder / "again.bin", protocol=back, connections=4)


def check(folder: Path) -> None:
    same = (folder / "again.bin").read_bytes() == (folder / "source.bin").read_bytes()
    print("the file is", "right" if same else "WRONG")
    kept = b"".join(path.read_bytes() for path in folder.glob("transfers.db*"))
    print("a signature is in the journal:", b"sig=" in kept)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        loopback = "AZURE_CONTAINER" not in os.environ
        with stand_in(Path(name) / "azure") if loopback else nullcontext(dict(os.environ)) as given:
            key = meowcat.AzureKey(account=given["AZURE_STORAGE_ACCOUNT"], key=given["AZURE_STORAGE_KEY"])
            settings = meowcat.AzureBlob(
                account=given["AZURE_STORAGE_ACCOUNT"], endpoint=given.get("AZURE_STORAGE_BLOB_ENDPOINT")
            )
            asyncio.run(main(BackEnd(given["AZURE_CONTAINER"], settings, key), Path(name)))
            check(Path(name))
