"""The checks, each with the MUSTs of `specs/journal.md` that it covers."""

from collections.abc import Callable
from dataclasses import dataclass

from meowcat.testing.journal.harness import JournalHarness

Function = Callable[[JournalHarness], None]


@dataclass(frozen=True)
class Check:
    """One rule of the contract as a function: it returns, raises AssertionError, or `Lacking`."""

    name: str
    """The sentence that holds, in one word."""
    musts: tuple[str, ...]
    """Numbers of `specs/journal.md`."""
    run: Function


CHECKS: list[Check] = []
"""All of them, once `meowcat.testing.journal.checks` is imported."""


def check(*musts: str) -> Callable[[Function], Function]:
    """Register a function as the check of these MUSTs."""

    def register(function: Function) -> Function:
        CHECKS.append(Check(function.__name__, musts, function))
        return function

    return register
