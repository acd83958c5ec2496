"""All checks of the contract, in order."""

from meowcat.testing.protocol import (  # noqa: F401  # importing them registers their checks
    aborting,
    committing,
    every_method,
    preparing,
    sending,
)
from meowcat.testing.protocol.registry import CHECKS, Check

__all__ = ["CHECKS", "Check"]
