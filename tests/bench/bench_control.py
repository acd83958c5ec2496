"""How long it takes, while the peer stalls, to acknowledge a pause, resume or cancel, and to close a socket.

    python tests/bench/bench_control.py [--rounds N] [--durability LEVEL] [--http httpx] [--tls]

The server falls silent in the middle of every body (or before the head, with --where head).
"""

import argparse
import asyncio
import ssl
import tempfile
import time
from pathlib import Path
from statistics import median

import httpx

import meowcat
from meowcat.testing.content import Content
from meowcat.testing.exchanges import Trouble
from meowcat.testing.range_server import RangeServer

MIB = 1 << 20


async def measure(folder: Path, options: argparse.Namespace) -> dict[str, list[float]]:
    trouble = Trouble(before="stall") if options.where == "head" else Trouble(after=MIB, then="stall")
    times: dict[str, list[float]] = {"pause": [], "socket": [], "resume": [], "cancel": []}
    with RangeServer(Content(64 * MIB), script=lambda _: trouble, tls=options.tls) as server:
        authority = folder / "ca.pem"
        authority.write_bytes(server.ca_pem)
        config = meowcat.Config(
            durability=options.durability,
            read_timeout=5,
            max_downloads=64,
            ca_bundle=str(authority) if options.tls else None,
        )
        client = None
        if options.http == "httpx":
            client = httpx.AsyncClient(
                verify=ssl.create_default_context(cafile=authority) if options.tls else True
            )
        async with meowcat.Engine(folder / "t.db", config=config, http_client=client) as engine:
            for number in range(options.rounds):
                seen = len(server.requests)
                task = await engine.submit(meowcat.Download(server.url, str(folder / f"{number}")))
                await server.until(lambda s, seen=seen: len(s.requests) > seen)
                await asyncio.sleep(0.1)
                began = time.perf_counter()
                await task.pause()
                times["pause"].append(time.perf_counter() - began)
                assert await server.until(lambda s: s.open_sockets == 0, 10)
                times["socket"].append(time.perf_counter() - began)
                began = time.perf_counter()
                await task.resume()
                times["resume"].append(time.perf_counter() - began)
                began = time.perf_counter()
                await task.cancel()
                times["cancel"].append(time.perf_counter() - began)
                assert await server.until(lambda s: s.open_sockets == 0, 10)
        if client is not None:
            await client.aclose()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--durability", choices=["power", "process"], default="power")
    parser.add_argument("--where", choices=["head", "body"], default="body")
    parser.add_argument("--http", choices=["own", "httpx"], default="own")
    parser.add_argument("--tls", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        times = asyncio.run(measure(Path(folder), options))
    for name, values in times.items():
        print(f"{name:8} median {median(values) * 1000:7.1f} ms   worst {max(values) * 1000:7.1f} ms")


if __name__ == "__main__":
    main()
