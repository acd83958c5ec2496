"""The checks, each with the MUSTs of `specs/journal.md` that it covers."""

from collections.abc import Callable

from meowcat.testing.checklist import Check as AnyCheck
from meowcat.testing.journal.harness import JournalHarness

Function = Callable[[JournalHarness], None]
Check = AnyCheck[Function]
"""One rule of the contract; see `meowcat.testing.checklist`."""

CHECKS: list[Check] = []
"""All of them, once `meowcat.testing.journal.checks` is imported."""


def check(*musts: str) -> Callable[[Function], Function]:
    """Register a function as the check of these MUSTs."""

    def register(function: Function) -> Function:
        CHECKS.append(Check(function.__name__, musts, function))
        return function

    return register
