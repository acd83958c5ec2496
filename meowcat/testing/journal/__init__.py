"""The contract of journals as functions that need no test framework.

Write a `JournalHarness` for a journal, and `run_all` tells what holds of `specs/journal.md` and what does
not; `python -m meowcat.testing.journal module:Harness` prints it. `meowcat.testing.journal_suite` has the
same for pytest, and `meowcat.testing.journal.machine` a Hypothesis machine.
"""

from meowcat.testing.journal.harness import OTHER, OWNER, FileHarness, JournalHarness, Lacking
from meowcat.testing.journal.run import Finding, Report, run_all, run_check

__all__ = [
    "OTHER",
    "OWNER",
    "FileHarness",
    "Finding",
    "JournalHarness",
    "Lacking",
    "Report",
    "run_all",
    "run_check",
]
