"""Without async: one engine, used by several threads at once. Ctrl-C it and run it again: it goes on.

python examples/blocking.py
"""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import meowcat
from meowcat.testing.servers import Content, RangeServer

NAMES = ("a.bin", "b.bin", "c.bin", "d.bin")


def main(origin: str, folder: Path) -> None:
    with meowcat.blocking.Engine(folder / "transfers.db") as engine, ThreadPoolExecutor() as pool:

        def fetch(name: str) -> str:
            task = engine.submit(meowcat.Download(f"{origin}/{name}", to=str(folder / name)))
            moments = sum(1 for _ in task.progress())
            result = task.result(timeout=60)
            return f"{name}: {result.size:,} bytes, looked at {'once' if moments == 1 else 'several times'}"

        for line in pool.map(fetch, NAMES):
            print(line)
        print(f"{sum(1 for _ in engine.tasks(state='Complete'))} tasks are Complete")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name, RangeServer(Content(4 << 20), rate=8 << 20) as server:
        main(server.origin, Path(name))
