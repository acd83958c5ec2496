"""After a restart, go on with some of the tasks and leave the others Paused.

python examples/selective_resume.py
"""

import asyncio
import tempfile
from pathlib import Path

import meowcat
from meowcat.testing.servers import Content, RangeServer


def wanted(info: meowcat.TaskInfo) -> bool:
    """Asked once for each task that was Queued or at work; the answer is an event in the journal."""
    return info.client_file_sign == "release"


async def main(origin: str, folder: Path) -> None:
    async with meowcat.Engine(folder / "transfers.db") as engine:
        for name, sign in (("a.bin", "release"), ("b.bin", "nightly"), ("c.bin", "release")):
            to = str(folder / name)
            await engine.submit(meowcat.Download(f"{origin}/{name}", to=to, client_file_sign=sign))
    # Leaving the block cancels nothing: the three tasks are in the journal, unfinished.

    async with meowcat.Engine(folder / "transfers.db", on_restart=wanted) as engine:
        await engine.drain()
        async for info in engine.tasks(state=["Complete", "Paused"]):
            print(f"{Path(info.path).name}: {info.state} {info.reason}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name, RangeServer(Content(8 << 20), rate=4 << 20) as server:
        asyncio.run(main(server.origin, Path(name)))
