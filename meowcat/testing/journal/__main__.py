"""Is a journal one? Runs the contract of `specs/journal.md` against it, without a test framework.

python -m meowcat.testing.journal mypackage.mytests:MyHarness
python -m meowcat.testing.journal tests/my_harness.py:MyHarness --only conflict --only M15
python -m meowcat.testing.journal tests/my_harness.py:MyHarness --failing-calls
"""

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from meowcat.testing.journal import failing_calls
from meowcat.testing.journal.run import Finding, Harness, chosen, run_all, str_of


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m meowcat.testing.journal", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("harness", help="module:Class or file.py:Class, a JournalHarness")
    parser.add_argument("--only", action="append", default=[], help="part of a check's name, or a MUST")
    parser.add_argument("--json", action="store_true", help="one JSON object a line for machines")
    parser.add_argument(
        "--failing-calls",
        action="store_true",
        help="with calls to the operating system that fail; Linux with a C compiler",
    )
    return parser.parse_args()


def load(name: str) -> Harness:
    """The harness that `module:Class` or `file.py:Class` names.

    Raises:
        ValueError: it names none.

    """
    where, _, attribute = name.rpartition(":")
    if not where:
        raise ValueError(f"{name!r} names no harness; expected module:Class or file.py:Class")
    if where.endswith(".py"):
        sys.path.insert(0, str(Path(where).resolve().parent))
        where = Path(where).stem
    elif "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Harness = getattr(importlib.import_module(where), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name!r} can't be loaded: {error}") from error
    return found


def again_with_failing_calls() -> int:
    """Run this program in a process whose calls can be made to fail; returns its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        environment = failing_calls.environment(Path(folder))
        command = [sys.executable, "-m", "meowcat.testing.journal", *sys.argv[1:]]
        return subprocess.run(command, env=environment, check=False).returncode  # noqa: S603  # ourselves


def as_json(finding: Finding) -> str:
    check = finding.check
    return json.dumps(
        {"check": check.name, "musts": check.musts, "outcome": finding.outcome, "reason": finding.reason}
    )


def main() -> int:
    options = arguments()
    try:
        if options.failing_calls and failing_calls.missing():
            return again_with_failing_calls()
        harness, checks = load(options.harness), chosen(options.only)
    except (ValueError, RuntimeError) as error:
        print(error, file=sys.stderr)  # noqa: T201  # a program
        return 2
    form = as_json if options.json else str_of
    report = run_all(harness, checks, lambda finding: print(form(finding), flush=True))  # noqa: T201  # a program
    if not options.json:
        print(str(report).splitlines()[-1])  # noqa: T201  # a program
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
