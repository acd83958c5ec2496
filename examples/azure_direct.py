"""Azure Blob, direct: a large file up and back again. The process that uploads it is killed with SIGKILL, and
another one goes on with the blocks that Azure lists.

python examples/azure_direct.py

It goes to Azurite on loopback, which `make azurite` installs; with AZURE_CONTAINER, AZURE_STORAGE_ACCOUNT and
AZURE_STORAGE_KEY in the environment it goes to Azure; AZURE_STORAGE_BLOB_ENDPOINT names another endpoint.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import meowcat
from meowcat.testing.azurite import Azurite

MIB = 1 << 20
SIZE = 24 * MIB
ENOUGH = 8 * MIB
"""Bytes that are confirmed before the first process is killed."""


def account_key() -> meowcat.AzureKey:
    """Asked whenever a credential is needed: here a BearerToken of Entra ID, or a SAS, would do as well."""
    return meowcat.AzureKey(account=os.environ["AZURE_STORAGE_ACCOUNT"], key=os.environ["AZURE_STORAGE_KEY"])


def engine_of(folder: Path) -> meowcat.Engine:
    """The journal has the name `azure`, and never the key."""
    return meowcat.Engine(folder / "transfers.db", credentials={"azure": account_key})


def protocol() -> meowcat.AzureBlob:
    """Whatever an earlier run has left there is replaced."""
    return meowcat.AzureBlob(
        account=os.environ["AZURE_STORAGE_ACCOUNT"],
        endpoint=os.environ.get("AZURE_STORAGE_BLOB_ENDPOINT"),
        credential="azure",
        overwrite="replace",
    )


def url() -> str:
    return f"azure://{os.environ['AZURE_CONTAINER']}/examples/direct.bin"


async def upload(folder: Path, rate: int | None) -> None:
    """The same call, run again in a new process, goes on with the task of the first one."""
    async with engine_of(folder) as engine:
        request = meowcat.Upload(
            str(folder / "source.bin"), url(), protocol(), piece_size=MIB, limit_rate=rate
        )
        task = await engine.submit(request)
        print(f"confirmed at the beginning: {task.info.bytes_done:,}", flush=True)
        async for progress in task.progress():
            if rate is not None:
                print(progress.bytes_done, flush=True)
        result = await task.result()
        print(f"uploaded {result.size:,} bytes: {result.remote['etag']}", flush=True)


async def download(folder: Path) -> None:
    async with engine_of(folder) as engine:
        await engine.download(url(), folder / "again.bin", protocol=protocol(), connections=4)


def upload_and_kill(folder: Path) -> None:
    command = [sys.executable, __file__, str(folder)]
    # This very script, which uploads slowly then.
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603  # see above
        assert process.stdout is not None  # noqa: S101  # it is a pipe
        for line in process.stdout:
            if line.strip().isdecimal() and int(line) >= ENOUGH:
                process.kill()
    print("the first process was killed with SIGKILL")


def main(folder: Path) -> None:
    source = folder / "source.bin"
    source.write_bytes(os.urandom(SIZE))
    upload_and_kill(folder)
    asyncio.run(upload(folder, None))
    asyncio.run(download(folder))
    same = (folder / "again.bin").read_bytes() == source.read_bytes()
    print("the file is", "right" if same else "WRONG")
    kept = b"".join(path.read_bytes() for path in folder.glob("transfers.db*"))
    print("the key is in the journal:", account_key().key.encode() in kept)


@contextmanager
def stand_in(folder: Path) -> Iterator[dict[str, str]]:
    """Azurite, and what is to be known of it."""
    folder.mkdir()
    with Azurite(folder) as server:
        yield {
            "AZURE_STORAGE_BLOB_ENDPOINT": server.endpoint,
            "AZURE_STORAGE_ACCOUNT": server.key.account,
            "AZURE_STORAGE_KEY": server.key.key,
            "AZURE_CONTAINER": server.container,
        }


if __name__ == "__main__":
    if sys.argv[1:]:
        asyncio.run(upload(Path(sys.argv[1]), 8 * MIB))
    else:
        with tempfile.TemporaryDirectory() as name:
            loopback = "AZURE_CONTAINER" not in os.environ
            with stand_in(Path(name) / "azure") if loopback else nullcontext(dict(os.environ)) as given:
                os.environ |= given
                main(Path(name))
