"""The contract of journals as a pytest suite: the checks of `meowcat.testing.journal`, one test each.

    class TestMyJournal(JournalSuite):
        harness = MyHarness

What the journal or its harness lacks is skipped, with the reason.
"""

from pathlib import Path
from typing import ClassVar

import pytest

from meowcat.testing.journal.checks import CHECKS, Check
from meowcat.testing.journal.harness import OTHER, OWNER, JournalHarness, Lacking
from meowcat.testing.journal.records import check_stored, entry, given, scan_all

__all__ = ["OTHER", "OWNER", "JournalSuite", "check_stored", "entry", "given", "scan_all"]


class JournalSuite:
    """Subclass it, name the harness, and let pytest collect it."""

    harness: ClassVar[type[JournalHarness]]
    histories: ClassVar[int] = 25
    """How many histories of 30 steps are compared with those of the journal in memory."""

    @pytest.mark.parametrize("check", CHECKS, ids=[check.name for check in CHECKS])
    def test_contract(self, check: Check, tmp_path: Path) -> None:
        place = self.harness(tmp_path)
        try:
            check.run(place)
        except Lacking as reason:
            pytest.skip(str(reason))
        finally:
            place.close()

    def test_it_does_what_the_journal_in_memory_does(self, tmp_path: Path) -> None:
        """Whatever is done to both, in any order, crashes included."""
        pytest.importorskip("hypothesis")
        from meowcat.testing.journal.machine import compare  # noqa: PLC0415  # hypothesis may not be there

        compare(self.harness, tmp_path, max_examples=self.histories)
