"""Running the checks without a test framework."""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from meowcat.testing import checklist
from meowcat.testing.checklist import Finding, Report, str_of
from meowcat.testing.journal.checks import CHECKS, Check
from meowcat.testing.journal.harness import JournalHarness

__all__ = ["Finding", "Harness", "Report", "chosen", "run_all", "run_check", "str_of"]

Harness = Callable[[Path], JournalHarness]
"""Usually a class: called with an empty folder, it makes a fresh place."""


def run_check(each: Check, harness: Harness) -> None:
    """Run one check at a fresh place.

    Raises:
        AssertionError: the rule does not hold. Lacking: the journal or the harness can't do this.

    """
    with tempfile.TemporaryDirectory(prefix="meowcat-journal-") as folder:
        place = harness(Path(folder).resolve())
        try:
            each.run(place)
        finally:
            place.close()


def run_all(
    harness: Harness, checks: Sequence[Check] | None = None, told: Callable[[Finding], object] | None = None
) -> Report:
    """Run `checks`, or all, each at a fresh place.

    Args:
        harness: makes a place; see `JournalHarness`.
        checks: which; all by default.
        told: called with each finding as it is made.

    """
    findings = []
    for each in CHECKS if checks is None else checks:
        finding = checklist.find(each, partial(run_check, each, harness))
        findings.append(finding)
        if told is not None:
            told(finding)
    return Report(tuple(findings))


def chosen(words: Iterable[str]) -> list[Check]:
    """Those of the checks that `checklist.chosen` says.

    Raises:
        ValueError: a word that stands for no check.

    """
    return checklist.chosen(words, CHECKS)
