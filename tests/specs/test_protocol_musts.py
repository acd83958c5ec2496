"""Every MUST of specs/protocol.md has a check, and every check names MUSTs that are there."""

import re
import subprocess
import sys
from pathlib import Path

from meowcat.testing.protocol.checks import CHECKS

SPEC = Path(__file__).parents[2] / "specs" / "protocol.md"
NUMBERS = re.findall(r"^- \*\*([A-Z]\d+)\*\* ", SPEC.read_text("utf-8"), re.MULTILINE)


def test_every_must_has_a_check_and_every_check_its_musts():
    assert len(NUMBERS) == len(set(NUMBERS))
    assert {must for check in CHECKS for must in check.musts} == set(NUMBERS)


def test_no_two_checks_have_one_name():
    assert len({check.name for check in CHECKS}) == len(CHECKS)


def test_the_checks_need_no_test_framework():
    program = (
        "import sys, meowcat.testing.protocol;"
        "print(sorted({'pytest', 'hypothesis', '_pytest'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert told == "[]\n"
