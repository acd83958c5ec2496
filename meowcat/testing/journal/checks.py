"""All checks of the contract, in order."""

from meowcat.testing.journal import (  # noqa: F401  # importing them registers their checks
    appending,
    capabilities,
    damage,
    failures,
    ownership,
    reading,
)
from meowcat.testing.journal.registry import CHECKS, Check

__all__ = ["CHECKS", "Check"]
