"""The checks, each with the MUSTs of `specs/protocol.md` that it covers."""

from collections.abc import Awaitable, Callable

from meowcat.testing.checklist import Check as AnyCheck
from meowcat.testing.protocol.trial import Trial

Function = Callable[[Trial], Awaitable[None]]
Check = AnyCheck[Function]
"""One rule of the contract; see `meowcat.testing.checklist`."""

CHECKS: list[Check] = []
"""All of them, once `meowcat.testing.protocol.checks` is imported."""


def check(*musts: str) -> Callable[[Function], Function]:
    """Register a function as the check of these MUSTs."""

    def register(function: Function) -> Function:
        CHECKS.append(Check(function.__name__, musts, function))
        return function

    return register
