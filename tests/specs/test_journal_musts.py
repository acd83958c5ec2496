"""Every MUST of specs/journal.md has a check, and every check names MUSTs that are there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from meowcat.testing.journal.checks import CHECKS
from meowcat.testing.journal.run import chosen

SPEC = Path(__file__).parents[2] / "specs" / "journal.md"
NUMBERS = re.findall(r"^- \*\*([A-Z]\d+)\*\* ", SPEC.read_text("utf-8"), re.MULTILINE)


def test_every_must_has_a_check_and_every_check_its_musts():
    assert len(NUMBERS) == len(set(NUMBERS))
    assert {must for check in CHECKS for must in check.musts} == set(NUMBERS)


def test_no_two_checks_have_one_name():
    assert len({check.name for check in CHECKS}) == len(CHECKS)


def test_checks_are_chosen_by_must_and_by_name():
    assert [check.name for check in chosen(["M15"])] == ["an_old_owner_is_fenced"]
    assert chosen([]) == CHECKS
    assert {check.name for check in chosen(["fenced", "forked child"])} == {
        "an_old_owner_is_fenced",
        "a_forked_child_is_refused_and_leaves_the_journal_to_its_parent",
    }
    with pytest.raises(ValueError, match="no check is called 'xyzzy'"):
        chosen(["xyzzy"])


def test_the_checks_need_no_test_framework():
    program = (
        "import sys, meowcat.testing.journal.run;"
        "print(sorted({'pytest', 'hypothesis', '_pytest'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert told == "[]\n"
