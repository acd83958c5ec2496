"""The contract of upload protocols as functions that need no test framework.

Write a `ProtocolHarness` for a protocol, and `run_all` tells what holds of `specs/protocol.md` and what does
not. `meowcat.testing.protocol_suite` has the same for pytest.
"""

from meowcat.testing.checklist import Finding, Lacking, Report
from meowcat.testing.protocol.harness import ProtocolHarness
from meowcat.testing.protocol.run import run_all, run_check
from meowcat.testing.protocol.troubles import TroubledTransport

__all__ = [
    "Finding",
    "Lacking",
    "ProtocolHarness",
    "Report",
    "TroubledTransport",
    "run_all",
    "run_check",
]
