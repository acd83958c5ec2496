"""Where the time of meowcat goes in a race, by py-spy.

    python -m tests.bench.hotspots large-4 [--size BYTES] [--rounds N]

Samples of threads that wait are left out. Each sample is given to the innermost function of meowcat on the
stack; what has none there is the event loop's. Shares hardly depend on what else the machine does.
"""

import argparse
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

from .__main__ import all_races, size_of
from .races import MEMORY, Race, Scratch, find

RATE = 250
"""Samples a second."""
WAITING = ("wait (threading.py", "select (selectors.py", "get (queue.py", "Queue.get (queue.py", "accept (")
OURS = ("meowcat/", "journal_adapters/")


def owner(stack: list[str]) -> str | None:
    """Whose a sample is; None if it waits, or is not of the transfer."""
    if any(waiting in stack[-1] for waiting in WAITING) or any("importlib" in frame for frame in stack):
        return None
    for frame in reversed(stack):
        name, _, place = frame.partition(" (")
        if place.startswith(OURS):
            return f"`{name}` in {place.rpartition(':')[0]}"
    return "the event loop" if any("_run_once" in frame for frame in stack) else None


def shares(race: Race, scratch: Scratch, rounds: int) -> Counter[str]:
    found: Counter[str] = Counter()
    entry, spy = race.entries[0], find("py-spy")
    assert spy is not None, "py-spy is not installed: pip install --group bench"
    with race.course(scratch) as course:
        for _ in range(rounds):
            job = course.job(entry, proving=False)
            samples = scratch.memory / "samples"
            command = [spy, "record", "-r", str(RATE), "-f", "raw", "-o", str(samples), "--"]
            subprocess.run([*command, *entry.client.argv(job)], check=True, capture_output=True)
            for line in samples.read_text().splitlines():
                stack, _, count = line.rpartition(" ")
                if whose := owner(stack.split(";")):
                    found[whose] += int(count)
            course.clean(job)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("race")
    parser.add_argument("--size", type=size_of, default=1 << 30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--least", type=float, default=0.02, help="the smallest share that is shown")
    options = parser.parse_args()
    (race,) = [each for each in all_races(options.size) if each.name == options.race]
    shared = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=shared, prefix="meowcat-bench-") as folder:
        found = shares(race, Scratch(Path(folder), Path(folder)), options.rounds)
    total = found.total()
    for whose, count in found.most_common():
        if count / total >= options.least:
            print(f"| {whose} | {count / total:.0%} |")


if __name__ == "__main__":
    main()
