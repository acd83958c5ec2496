"""Running the checks without a test framework."""

import tempfile
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from meowcat.testing.journal.checks import CHECKS, Check
from meowcat.testing.journal.harness import JournalHarness, Lacking

Harness = Callable[[Path], JournalHarness]
"""Usually a class: called with an empty folder, it makes a fresh place."""


@dataclass(frozen=True)
class Finding:
    """What became of one check."""

    check: Check
    outcome: Literal["passed", "failed", "skipped"]
    reason: str = ""
    """Why it was skipped, or the traceback of the failure."""


@dataclass(frozen=True)
class Report:
    """What became of all checks."""

    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing failed. What was skipped did not fail."""
        return not any(finding.outcome == "failed" for finding in self.findings)

    def __str__(self) -> str:
        lines = [str_of(finding) for finding in self.findings]
        counts = {
            outcome: sum(finding.outcome == outcome for finding in self.findings)
            for outcome in ("passed", "failed", "skipped")
        }
        return "\n".join([*lines, ", ".join(f"{number} {outcome}" for outcome, number in counts.items())])


def str_of(finding: Finding) -> str:
    """A line for people, and the reason below it."""
    sentence = finding.check.name.replace("_", " ")
    head = f"{finding.outcome:8}{sentence} [{', '.join(finding.check.musts)}]"
    return head + "".join(f"\n        {line}" for line in finding.reason.splitlines())


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
        finding = _find(each, harness)
        findings.append(finding)
        if told is not None:
            told(finding)
    return Report(tuple(findings))


def _find(each: Check, harness: Harness) -> Finding:
    try:
        run_check(each, harness)
    except Lacking as reason:
        return Finding(each, "skipped", str(reason))
    except Exception:  # noqa: BLE001  # whatever an adapter raises is what the report is about
        return Finding(each, "failed", traceback.format_exc())
    return Finding(each, "passed")


def chosen(words: Iterable[str]) -> list[Check]:
    """The checks that have one of `words` in their name, or cover the MUST that it names; all without words.

    Raises:
        ValueError: a word that stands for no check.

    """
    words = list(words)
    found: list[Check] = []
    for word in words:
        ours = [each for each in CHECKS if word.upper() in each.musts or word.replace(" ", "_") in each.name]
        if not ours:
            raise ValueError(f"no check is called {word!r} or covers a MUST of that number")
        found += ours
    return [each for each in CHECKS if each in found] if words else list(CHECKS)
