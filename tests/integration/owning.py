"""A process that owns a journal: prints the ids of its tasks, and ends when its input does."""

import sys

import anyio

import meowcat


async def main(journal: str, url: str, *targets: str) -> None:
    config = meowcat.Config(piece_size=256 << 10, flush_seconds=0.02, connections=2)
    async with meowcat.Engine(journal, config=config) as engine:
        for target in targets:
            task = await engine.submit(meowcat.Download(url, target))
            print(task.id, flush=True)
        print("open", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
