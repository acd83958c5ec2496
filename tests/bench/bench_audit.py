"""What signing and proving costs: checkpoints, receipts and the verification of a whole journal.

python tests/bench/bench_audit.py [--events N] [--folder F] [--json]
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).parent))
from bench_journal import OWNER, PIECES, entries, fill

from journal_adapters.sqlite import SQLiteJournal
from meowcat.audit import Key, verify_journal, verify_receipt
from meowcat.audit.log import Log
from meowcat.core.values import TaskId

T = TypeVar("T")
NEW = 100
"""Tasks whose records are added between two checkpoints."""


def timed(call: Callable[[], T]) -> tuple[tuple[float, float], T]:
    """Seconds by the clock and of the processor, which a busy machine does not make more."""
    begin, cpu = time.perf_counter(), time.process_time()
    outcome = call()
    return (time.perf_counter() - begin, time.process_time() - cpu), outcome


def signed(log: Log) -> str:
    text = log.sign()
    log.keep(text)
    return text


def opened(path: Path) -> SQLiteJournal:
    journal = SQLiteJournal(path)
    journal.open(OWNER, "power")
    return journal


def bench(path: Path, events: int) -> dict[str, tuple[float, float] | int]:
    key, tasks = Key.generate("bench.example/log"), events // (PIECES + 4)
    fill(path, (entry for n in range(tasks) for entry in entries(TaskId(f"{n:026d}"))))
    spent: dict[str, tuple[float, float] | int] = {}
    journal = opened(path)
    spent["the first checkpoint"], _ = timed(lambda: signed(Log(journal, key)))
    journal.close()

    journal = opened(path)
    log = Log(journal, key)
    journal.append([entry for n in range(NEW) for entry in entries(TaskId(f"new{n:023d}"))])
    spent[f"one after an opening, {NEW * (PIECES + 4):,} records more"], _ = timed(lambda: signed(log))
    journal.append([entry for n in range(NEW) for entry in entries(TaskId(f"again{n:021d}"))])
    spent[f"the next one, {NEW * (PIECES + 4):,} records more"], text = timed(lambda: signed(log))
    middle = TaskId(f"{tasks // 2:026d}")
    spent["a receipt from the middle"], receipt = timed(lambda: log.receipt(middle, text))
    spent["a receipt beside it"], _ = timed(lambda: log.receipt(TaskId(f"{tasks // 2 + 1:026d}"), text))
    journal.close()

    spent["verifying a receipt"], proven = timed(lambda: verify_receipt(receipt, key.vkey))
    assert proven.task == middle
    spent["verifying the whole journal"], found = timed(
        lambda: verify_journal(path, key.vkey, checkpoints=[("now", text)], receipts=[("r", receipt)])
    )
    assert found.proved
    assert found.covered == found.records
    return spent | {"records": found.records, "bytes of a receipt": len(receipt.encode())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the journal is made; a temporary folder")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        figures = bench(Path(name) / "bench.db", options.events)
    if options.json:
        print(json.dumps(figures, indent=2))
        return
    for what, figure in figures.items():
        told = f"{figure:,}" if isinstance(figure, int) else "{:.4f} s, {:.4f} s of CPU".format(*figure)
        print(f"{what:44}", told)


if __name__ == "__main__":
    main()
