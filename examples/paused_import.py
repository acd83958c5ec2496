"""Import a list of transfers Paused, show it to the user, and set going what was chosen: now, or after a
restart. Nothing is asked of a server and no file is touched for a task before it is resumed.

python examples/paused_import.py
"""

import asyncio
import json
import tempfile
from pathlib import Path

import meowcat
from meowcat.testing.servers import Content, RangeServer


async def import_list(url: str, folder: Path) -> None:
    """Fetch what there is to have, and record it: durable on return."""
    async with meowcat.Engine(folder / "transfers.db") as engine:
        manifest = (await engine.fetch(url, max_bytes=1 << 20)).json()
        await engine.submit_many(
            (
                meowcat.Download(each["url"], to=str(folder / each["name"]), client_file_sign=each["name"])
                for each in manifest
            ),
            paused=True,
        )


async def choose(folder: Path, chosen: set[str]) -> None:
    """Another process, later: the list is in the journal."""
    async with meowcat.Engine(folder / "transfers.db") as engine:
        waiting = [info async for info in engine.tasks(state="Paused")]
        print("to choose from:", *(info.client_file_sign for info in waiting))
        for info in waiting:
            if info.client_file_sign in chosen:
                await engine.resume(info.id)
        await engine.drain()
        async for info in engine.tasks(state=["Complete", "Paused"]):
            print(f"{info.client_file_sign}: {info.state}, {info.bytes_done:,} bytes")


def main() -> None:
    files = {f"/{name}.bin": Content(2 << 20, seed=seed) for seed, name in enumerate("abcd")}
    with tempfile.TemporaryDirectory() as name, RangeServer(files) as server:
        listed = [{"name": path[1:], "url": server.origin + path} for path in files]
        server.replace(files | {"/list.json": Content(data=json.dumps(listed).encode())})
        asyncio.run(import_list(f"{server.origin}/list.json", Path(name)))
        print("requests so far:", *(seen.path for seen in server.requests))
        asyncio.run(choose(Path(name), {"b.bin", "d.bin"}))
        print("asked for:", *sorted({seen.path for seen in server.requests}))


if __name__ == "__main__":
    main()
