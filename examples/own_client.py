"""An httpx.AsyncClient of the application's own is used as it is: TLS, proxy, limits, headers.

python examples/own_client.py
"""

import asyncio
import tempfile
from pathlib import Path

import httpx

import meowcat
from meowcat.testing.servers import Content, RangeServer


async def main(url: str, to: Path) -> None:
    async with (
        httpx.AsyncClient(
            headers={"user-agent": "our-app/1.0"},
            limits=httpx.Limits(max_connections=8),
        ) as client,
        meowcat.Engine(http_client=client) as engine,
    ):
        result = await engine.download(url, to, connections=4)
        print(f"{result.path}: {result.size:,} bytes")
    # The engine has not closed the client: whoever made it does.


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name, RangeServer(Content(8 << 20)) as server:
        asyncio.run(main(server.url, Path(name) / "file.bin"))
        print("the server saw", server.requests[0].headers["user-agent"])
