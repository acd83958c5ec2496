"""The shortest program: python examples/download.py URL FILE. Run it again after a crash: it goes on."""

import asyncio
import sys

import meowcat


async def main(url: str, to: str) -> None:
    async with meowcat.Engine("transfers.db") as engine:
        result = await engine.download(url, to)
        print(f"{result.path}: {result.size:,} bytes")


asyncio.run(main(*sys.argv[1:3]))
