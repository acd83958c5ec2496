"""Durable events per second through whole actors: mailbox, decide, append, evolve, publish, reconcile.

Each caller pauses and resumes a task of its own, one durable command after the other; no byte moves.

    python tests/bench/bench_actors.py [--journal sqlite|jsonl|memory|all] [--events N] [--folder DIR]
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import anyio

import meowcat

WHERE = {"sqlite": "{}/actors.db", "jsonl": "{}/actors.jsonl", "memory": "memory:"}


async def measure(where: str, callers: int, events: int, durability: str) -> dict[str, float]:
    config = meowcat.Config(durability=durability, queue_capacity=callers * 2)
    async with meowcat.Engine(where, config=config, on_restart="leave") as engine:
        requests = [meowcat.Download(f"http://127.0.0.1:9/{n}", f"/tmp/{n}.bin") for n in range(callers)]
        tasks = await engine.submit_many(requests)
        rounds = events // callers // 2

        async def caller(task: meowcat.TaskId) -> None:
            for _ in range(rounds):
                await engine.pause(task)
                await engine.resume(task)

        begin, before = time.perf_counter(), (await engine.snapshot()).position
        cpu = time.process_time()
        async with anyio.create_task_group() as group:
            for task in tasks:
                group.start_soon(caller, task)
        took, cpu = time.perf_counter() - begin, time.process_time() - cpu
        made = (await engine.snapshot()).position - before
        assert made == rounds * callers * 2, (made, rounds)
    return {"events/s": round(made / took), "CPU us an event": round(cpu / made * 1e6, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--journal", choices=[*WHERE, "all"], default="all")
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--events", type=int, default=32_000)
    parser.add_argument("--durability", choices=["power", "process"], default="power")
    parser.add_argument("--folder", type=Path, help="where the journals are made; a temporary folder")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = {}
    for name in WHERE if options.journal == "all" else [options.journal]:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            where = WHERE[name].format(folder)
            results[name] = anyio.run(measure, where, options.callers, options.events, options.durability)
    if options.json:
        print(json.dumps(results, indent=2))
        return
    for name, figures in results.items():
        print(f"{name:8}", "  ".join(f"{what} {figure:,}" for what, figure in figures.items()))


if __name__ == "__main__":
    main()
