"""Lines of a journal: what is written comes back to the byte, and no flipped bit goes unseen."""

import json

import google_crc32c
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meowcat.core.errors import JournalDamaged
from meowcat.journal.contract import Entry, Owner, Record
from meowcat.journal.lines import (
    Commit,
    Cursor,
    Opening,
    Segment,
    control_line,
    intact,
    parse,
    record_lines,
)

CHAIN = bytes(range(32))
JSON_BODIES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
).map(lambda value: msgspec.json.encode({"value": value}))
BODIES = (
    st.binary()
    | JSON_BODIES
    | st.binary().map(lambda inside: b"{%b}" % inside)
    | st.sampled_from(
        [b"{}", b'{"a":1e999}', b'{"a":NaN}', b'{"a":"\xff"}', b'{"a": 1}\n', b'{"a":\t1}', b" {}"]
    )
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
ENTRIES = st.builds(
    Entry,
    TEXTS,
    st.integers(1, 1 << 40),
    st.booleans(),
    TEXTS,
    st.integers(0, 1000),
    st.integers(-(1 << 62), 1 << 62),
    BODIES,
)
CONTROLS = [
    Segment(1, "ab" * 16, 3, 900, 7, CHAIN.hex(), "00" * 32),
    Opening(7, 1_700_000_000_000, Owner(1, "höst", "cömmand"), "power"),
    Cursor("audit", 12),
    Cursor("gone", None),
    Commit(3, 902, CHAIN.hex()),
]


def record_of(entry, epoch=4, position=17):
    return Record(
        position,
        entry.task,
        entry.seq,
        epoch,
        entry.open,
        entry.type,
        entry.version,
        entry.at,
        entry.body,
        CHAIN,
    )


@given(ENTRIES)
def test_a_record_comes_back_to_the_byte(entry):
    (line,) = record_lines([record_of(entry)])
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert parse(line) == record_of(entry)


@given(st.lists(ENTRIES))
@example([Entry("t", 1, True, "created", 1, 5, body) for body in (b'{"a":[{}', b"{}]}", b"{},{}")])
@example([Entry("t", 1, True, "created", 1, 5, body) for body in (b'{"a":1}', b'{"a":2},"base64":{}')])
def test_records_that_are_written_together_come_back_as_if_each_were_alone(entries):
    records = [record_of(entry) for entry in entries]
    lines = record_lines(records)
    assert [parse(line) for line in lines] == records
    assert lines == [line for record in records for line in record_lines([record])]


@given(ENTRIES)
def test_a_line_is_strict_json_that_ends_in_the_crc_of_what_is_before_it(entry):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    (line,) = record_lines([record_of(entry)])
    document = json.loads(line, parse_constant=refuse)
    before, _, _ = line.rpartition(b',"crc":')
    assert int(document["crc"], 16) == google_crc32c.value(before)
    assert document["task"] == entry.task
    assert next(iter(document)) == "position"
    assert list(document)[-1] == "crc"


def test_an_event_stands_in_its_line_as_it_is():
    body = b'{"type":"paused","state":"Paused","reason":"asked to"}'
    (line,) = record_lines([record_of(Entry("t", 1, True, "paused", 1, 5, body))])
    assert b'"body":' + body in line


@pytest.mark.parametrize("value", CONTROLS, ids=lambda value: type(value).__name__)
def test_every_other_line_comes_back(value):
    line = control_line(value)
    assert parse(line) == value
    json.loads(line)


@pytest.mark.parametrize(
    "line",
    [
        *record_lines([record_of(Entry("task", 1, True, "created", 1, 5, b'{"a":1}'))]),
        *map(control_line, CONTROLS),
    ],
    ids=["Record", *(type(value).__name__ for value in CONTROLS)],
)
def test_every_flipped_bit_is_seen(line):
    for bit in range(len(line) * 8):
        flipped = bytearray(line)
        flipped[bit // 8] ^= 1 << bit % 8
        assert not intact(bytes(flipped))
        with pytest.raises(JournalDamaged, match="wrong CRC"):
            parse(bytes(flipped))


@pytest.mark.parametrize("line", [b"", b"\n", b"{}\n", b"x" * 40, bytes(512)])
def test_what_is_no_line_is_damage(line):
    with pytest.raises(JournalDamaged):
        parse(line)


def test_a_line_of_an_unknown_kind_is_damage():
    head = b'{"unheard":1'
    line = b'%b,"crc":"%08x"}\n' % (head, google_crc32c.value(head))
    assert intact(line)
    with pytest.raises(JournalDamaged, match="none of format 1"):
        parse(line)
