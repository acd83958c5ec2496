"""Golden journals: what any release has written replays for ever, in every adapter, to the same state."""

import hashlib
import json
import shutil
from pathlib import Path

import anyio
import msgspec
import pytest
from make_history import seen
from msgspec.structs import replace

import meowcat
from meowcat.core.events import EVENT_TYPES
from meowcat.core.state import evolve
from meowcat.journal.checkup import check
from meowcat.journal.codec import decode
from meowcat.journal.exchange import export_lines, read_export
from meowcat.journal.lines import control_line, parse
from meowcat.journal.locate import locate

HISTORIES = Path(__file__).parents[2] / "specs" / "histories"
GOLDEN = sorted(path for path in HISTORIES.iterdir() if path.is_dir())
JOURNALS = sorted(path for folder in GOLDEN for kind in ("db", "jsonl") for path in folder.glob(f"*.{kind}"))
ARCHIVED = {"4", "5"}
"""Those that were compacted, once SQLite journals could be."""


@pytest.fixture
def copy(request, tmp_path):
    """A golden journal where it can't be harmed."""
    place = tmp_path / request.param.name
    if request.param.is_dir():
        shutil.copytree(request.param, place)
    else:
        for each in request.param.parent.glob(f"{request.param.name}*"):  # with its archive
            shutil.copy(each, tmp_path)
    return place


def name_of(path):
    return f"{path.parent.name}/{path.name}"


def expected(path):
    return json.loads((path.parent / "expected.json").read_text(encoding="utf-8"))


golden = pytest.mark.parametrize(
    ("copy", "expected"),
    [(path, expected(path)) for path in JOURNALS],
    indirect=["copy"],
    ids=map(name_of, JOURNALS),
)


@golden
def test_a_golden_journal_replays_to_what_it_always_did(copy, expected):
    names = tuple(expected["tasks"][0])  # those that there were then
    assert json.loads(msgspec.json.encode(seen(locate(copy), names))) == expected


@golden
def test_a_golden_journal_is_sound_and_exports_as_it_always_did(copy, expected):
    journal = locate(copy)
    journal.open_for_reading()
    assert check(journal).sound
    assert check(journal).chain == expected["chain"]
    lines = b"".join(export_lines(journal))
    journal.close()
    exports = [path.read_bytes() for path in HISTORIES.rglob("transfers.lines")]
    (export,) = {each for each in exports if expected["chain"].encode() in each}
    assert export in (lines, without_end(lines))


def without_end(export):
    """As exports were before they said where they end."""
    head, *lines, _ = export.splitlines(keepends=True)
    return b"".join([control_line(replace(parse(head), ends=False)), *lines])


@golden
def test_a_golden_journal_can_be_opened_and_gone_on_with(copy, expected):
    async def go_on():
        async with meowcat.Engine(copy, on_restart="leave") as engine:
            assert engine.quarantined() == {}
            await engine.cancel_many()
            return (await engine.snapshot()).position

    assert anyio.run(go_on) > expected["records"]
    journal = locate(copy)
    journal.open_for_reading()
    assert check(journal).sound
    journal.close()


@pytest.mark.parametrize("path", sorted(HISTORIES.rglob("transfers.lines")), ids=name_of)
def test_a_golden_export_reads_back(path):
    with path.open("rb") as lines:
        assert sum(len(batch.records) for batch in read_export(lines)) == expected(path)["records"]


@pytest.mark.parametrize("path", sorted(HISTORIES.rglob("transfers.lines")), ids=name_of)
def test_each_event_of_a_golden_export_brings_its_state_and_is_counted(path):
    tasks = {}
    with path.open("rb") as lines:
        for record in (record for batch in read_export(lines) for record in batch.records):
            event = decode(record.type, record.version, record.body)
            tasks[record.task] = evolve(tasks.get(record.task), event)
            assert tasks[record.task].state is event.state
            assert tasks[record.task].seq == record.seq


def test_the_golden_journals_hold_every_kind_of_event():
    kinds = {event.split()[2] for folder in GOLDEN for event in expected(folder / "expected.json")["events"]}
    assert kinds == set(EVENT_TYPES)


def test_every_golden_folder_has_a_journal_of_each_kind():
    for folder in GOLDEN:
        assert {"transfers.db", "transfers.lines", "transfers.jsonl"} <= {
            path.name for path in folder.iterdir()
        }


def test_there_are_golden_archives():
    assert {path.parent.name for path in HISTORIES.rglob("transfers.db-archive")} == ARCHIVED


def test_no_golden_file_has_changed():
    sums = (HISTORIES / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    listed = dict(reversed(line.split("  ", 1)) for line in sums)
    found = {
        str(path.relative_to(HISTORIES)): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in GOLDEN
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert found == listed
