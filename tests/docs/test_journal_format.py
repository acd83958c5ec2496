"""The worked example of docs/journal-format.md is what the code writes."""

import json
import re
from pathlib import Path

import google_crc32c
import pytest
from msgspec.structs import replace

from meowcat.journal.chain import canonical, link
from meowcat.journal.contract import GENESIS, Owner, Record
from meowcat.journal.lines import Commit, Cursor, Opening, Segment, control_line, record_lines

PAGE = (Path(__file__).parents[2] / "docs" / "journal-format.md").read_text(encoding="utf-8")
UNCHAINED = Record(1, "t1", 1, 1, True, "created", 1, 1_700_000_000_000, b'{"a":1}', b"")
CHAIN = link(GENESIS, UNCHAINED, 1, 1)
RECORD = replace(UNCHAINED, chain=CHAIN)


@pytest.mark.parametrize(
    "line",
    [
        control_line(Segment(1, "ab" * 16, 1, 1, 1, "00" * 32, "00" * 32)),
        *record_lines([RECORD]),
        control_line(Opening(1, 1_700_000_000_000, Owner(4711, "host.example", "app"), "power")),
        control_line(Cursor("sink", 1)),
        control_line(Commit(1, 1, CHAIN.hex())),
    ],
    ids=["segment", "record", "opening", "cursor", "commit"],
)
def test_the_lines_of_the_page_are_those_that_are_written(line):
    assert f"```json\n{line.decode()}```" in PAGE


def test_every_field_of_the_lines_is_explained():
    for line in re.findall(r"^```json\n(.*)\n```", PAGE, re.MULTILINE):
        said = json.loads(line)
        for name in said if "position" in said else next(iter(said.values())):
            assert f"`{name}`" in PAGE


def test_the_worked_example_of_the_chain_is_right():
    shown = re.search(r"```text\n(01 .*?)```", PAGE, re.DOTALL)[1]
    assert bytes.fromhex(re.sub(r"\s", "", shown)) == canonical(RECORD, 1, 1)
    assert f"these is `{CHAIN.hex()}`" in PAGE


def test_the_test_vector_of_the_crc_is_right():
    assert f"`{google_crc32c.value(b'123456789'):08x}`" in PAGE
