"""Plain HTTP, up and down: a form upload in chunks, and a ranged download over several connections.

python examples/local_http.py

It starts two servers on loopback for it; the upload's is form_upload_server.py, which needs starlette,
uvicorn and python-multipart. EXAMPLE_UPLOAD_URL and EXAMPLE_DOWNLOAD_URL in the environment name other
servers, either of them or both.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import meowcat
from meowcat.testing.servers import Content, RangeServer

MIB = 1 << 20


async def upload(engine: meowcat.Engine, source: Path, url: str) -> None:
    form = meowcat.FormUpload(category="examples")
    task = await engine.submit(meowcat.Upload(str(source), url, form, piece_size=MIB, digest="sha256"))
    async for progress in task.progress():
        print(f"  {progress.state}: {progress.bytes_done:,} of {progress.size or 0:,} bytes are confirmed")
    result = await task.result()
    print(f"uploaded {result.size:,} bytes as {result.remote['file_id']}")


async def download(engine: meowcat.Engine, url: str, to: Path) -> None:
    task = await engine.submit(meowcat.Download(url, str(to), connections=4, piece_size=MIB))
    async for progress in task.progress():
        print(f"  {progress.state}: {progress.fraction:.0%}")
    result = await task.result()
    print(f"downloaded {result.size:,} bytes")


async def main(folder: Path, upload_url: str, download_url: str) -> None:
    source = folder / "report.bin"
    source.write_bytes(Content(5 * MIB).bytes())
    async with meowcat.Engine(folder / "transfers.db") as engine:
        await upload(engine, source, upload_url)
        await download(engine, download_url, folder / "file.bin")


@contextmanager
def form_server(folder: Path) -> Iterator[str]:
    """The example server as a process; where it takes uploads."""
    script = str(Path(__file__).with_name("form_upload_server.py"))
    command = [sys.executable, script, "--folder", str(folder), "--port", "0"]
    # Our own script, with arguments that were made here.
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603  # see above
        assert server.stdout is not None  # noqa: S101  # it is a pipe
        try:
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


if __name__ == "__main__":
    with ExitStack() as stack:
        name = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        up, down = os.environ.get("EXAMPLE_UPLOAD_URL"), os.environ.get("EXAMPLE_DOWNLOAD_URL")
        if not up:
            up = stack.enter_context(form_server(name / "uploads"))
        if not down:
            down = stack.enter_context(RangeServer(Content(8 * MIB))).url
        asyncio.run(main(name, up, down))
