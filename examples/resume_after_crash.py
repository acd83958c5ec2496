"""Kill a downloading process with SIGKILL, open its journal again, and count what was sent twice.

python examples/resume_after_crash.py
"""

import asyncio
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

import meowcat
from meowcat.testing.servers import Content, RangeServer

SIZE = 48 << 20
RATE = 24 << 20


async def download(url: str, folder: Path) -> None:
    """What both processes run: the second one attaches to the task that the first one left."""
    async with meowcat.Engine(folder / "transfers.db") as engine:
        task = await engine.submit(
            meowcat.Download(url, to=str(folder / "big.bin"), connections=8, piece_size=1 << 20)
        )
        print(f"{task.id}: {task.info.bytes_done:,} bytes are in the journal", flush=True)
        await task.result()
        async for logged in task.history():
            print(f"  {logged.seq:3} {type(logged.event).__name__:16} {logged.event.state}")


def main() -> None:
    content = Content(SIZE)
    with tempfile.TemporaryDirectory() as name, RangeServer(content, rate=RATE) as server:
        folder = Path(name)
        # Our own script, with arguments that it made itself.
        victim = subprocess.Popen([sys.executable, __file__, server.url, name])  # noqa: S603  # see above
        server.wait_for(lambda at: at.bytes_served() > SIZE // 2, timeout=60)
        victim.kill()
        victim.wait()
        print("killed with SIGKILL; opening the journal again")
        asyncio.run(download(server.url, folder))
        digest = hashlib.sha256((folder / "big.bin").read_bytes()).hexdigest()
        print("SHA-256 is", "right" if digest == content.sha256 else "WRONG")
        print(f"sent twice: {server.bytes_sent_twice():,} of {SIZE:,} bytes")
        if digest != content.sha256:
            sys.exit(1)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(download(sys.argv[1], Path(sys.argv[2])))
    else:
        main()
