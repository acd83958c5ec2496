"""meowcat and its peers at the same work, in turns, in one run.

python -m tests.bench                       everything, which takes hours
python -m tests.bench --list
python -m tests.bench --only 'large-4' --clients 'meowcat*' 'the floor' --rounds 3 --size 256M
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path

from .races import MEMORY, Race, Scratch, can_count, run_race
from .tables import as_json, as_markdown, machine, read, write, write_page
from .workloads import large, queues, small, stores, uploads

SUFFIXES = {"K": 10, "M": 20, "G": 30}


def size_of(text: str) -> int:
    """`64M` and the like."""
    number, suffix = (text[:-1], text[-1].upper()) if text[-1].upper() in SUFFIXES else (text, "")
    return int(number) << SUFFIXES.get(suffix, 0)


def all_races(size: int) -> Iterator[Race]:
    return chain(large.races(size), small.races(), uploads.races(size), stores.races(size), queues.races())


def chosen(options: argparse.Namespace) -> list[Race]:
    """The races that were asked for, with the clients that were asked for."""
    races = []
    for race in all_races(options.size):
        if not any(fnmatch(race.name, pattern) for pattern in options.only):
            continue
        entries = [each for each in race.entries if any(fnmatch(each.label, one) for one in options.clients)]
        if entries:
            races.append(replace(race, entries=tuple(entries)))
    return races


def parser_of_options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", default=["*"], metavar="RACE", help="names; * and ? are wild")
    parser.add_argument("--clients", nargs="+", default=["*"], metavar="CLIENT", help="names, as --only")
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each client; medians are shown")
    parser.add_argument("--size", type=size_of, default=1 << 30, help="of a large file; 64M and the like")
    parser.add_argument("--folder", type=Path, default=Path(), help="on the disk that is measured; here")
    parser.add_argument("--no-proof", action="store_true", help="without the first run, which is not timed")
    parser.add_argument("--json", action="store_true", help="JSON on the standard output, not tables")
    parser.add_argument("--out", type=Path, help="a folder for a table, JSON and a plot of each race")
    parser.add_argument("--more", action="store_true", help="add rounds to those that --out has")
    parser.add_argument("--list", action="store_true", help="say what there is")
    return parser


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    parser = parser_of_options()
    options = parser.parse_args()
    if options.more and not options.out:
        parser.error("--more: needs --out, a folder with what was run before")
    races = chosen(options)
    if not races:
        say(f"no race with such clients: see --list ({' '.join(options.only)}, {' '.join(options.clients)})")
        return 2
    if options.list:
        for race in races:
            print(f"{race.name:20} {race.title}\n{'':20} {', '.join(each.label for each in race.entries)}")
        return 0
    return run(races, options)


def run(races: list[Race], options: argparse.Namespace) -> int:
    where, results, good = machine(), {}, True
    proved = {"proved": not options.no_proof, "counted": can_count()}
    with (
        tempfile.TemporaryDirectory(
            dir=MEMORY if MEMORY.is_dir() else None, prefix="meowcat-bench-"
        ) as memory,
        tempfile.TemporaryDirectory(dir=options.folder, prefix="meowcat-bench-") as folder,
    ):
        scratch = Scratch(Path(memory), Path(folder).absolute())
        for race in races:
            before = read(options.out, race) if options.more else {}
            outcomes = run_race(race, scratch, options.rounds, **proved, say=say, before=before)
            good &= not any(outcome.failed for outcome in outcomes.values())
            results[race.name] = as_json(race, outcomes)
            if not options.json:
                print(as_markdown(race, outcomes), end="\n\n", flush=True)
            if options.out:
                write(options.out, race, outcomes, where)
                write_page(options.out, all_races(options.size))
    if options.json:
        print(json.dumps({"machine": where, "races": results}, indent=1))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
