"""Many files at once: recorded in batches, moved by a few slots, watched by one stream of events.

python examples/many_files.py
"""

import asyncio
import tempfile
from pathlib import Path

import meowcat
from meowcat.testing.servers import Content, RangeServer

COUNT = 200


async def main(origin: str, folder: Path) -> None:
    config = meowcat.Config(max_downloads=16, durability="process")
    async with meowcat.Engine(folder / "transfers.db", config=config) as engine:
        requests = [
            meowcat.Download(f"{origin}/{number}.bin", to=str(folder / f"{number}.bin"), connections=1)
            for number in range(COUNT)
        ]
        ids = await engine.submit_many(requests)
        print(f"{len(ids)} tasks are recorded")
        await engine.drain()
        done = [info async for info in engine.tasks(state="Complete")]
        print(f"{len(done)} files, {sum(info.bytes_done for info in done):,} bytes")


if __name__ == "__main__":
    contents = {f"/{number}.bin": Content(16 << 10, seed=number) for number in range(COUNT)}
    with tempfile.TemporaryDirectory() as name, RangeServer(contents) as server:
        asyncio.run(main(server.origin, Path(name)))
