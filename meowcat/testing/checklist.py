"""Contracts as lists of checks that need no test framework: what a check is, and what became of it."""

import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

__all__ = ["Check", "Finding", "Lacking", "Report", "chosen", "find", "str_of"]

Function_co = TypeVar("Function_co", covariant=True)


class Lacking(Exception):
    """A capability or a back door that is not there: checks that need it are skipped, and the text is the
    reason that is printed.
    """


@dataclass(frozen=True)
class Check(Generic[Function_co]):
    """One rule of a contract as a function: it returns, raises AssertionError, or `Lacking`."""

    name: str
    """The sentence that holds, in one word."""
    musts: tuple[str, ...]
    """Numbers in the contract."""
    run: Function_co


@dataclass(frozen=True)
class Finding:
    """What became of one check."""

    check: Check[object]
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


def find(check: Check[object], run: Callable[[], object]) -> Finding:
    """Run a check, whatever it raises."""
    try:
        run()
    except Lacking as reason:
        return Finding(check, "skipped", str(reason))
    except Exception:  # noqa: BLE001  # whatever what is checked raises is what the report is about
        return Finding(check, "failed", traceback.format_exc())
    return Finding(check, "passed")


def chosen(words: Iterable[str], checks: Sequence[Check[Function_co]]) -> list[Check[Function_co]]:
    """The checks that have one of `words` in their name, or cover the MUST that it names; all without words.

    Raises:
        ValueError: a word that stands for no check.

    """
    words = list(words)
    found: list[Check[Function_co]] = []
    for word in words:
        ours = [each for each in checks if word.upper() in each.musts or word.replace(" ", "_") in each.name]
        if not ours:
            raise ValueError(f"no check is called {word!r} or covers a MUST of that number")
        found += ours
    return [each for each in checks if each in found] if words else list(checks)
