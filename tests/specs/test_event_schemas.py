"""Each version of each event has its schema in a file, and nothing changes without a new version."""

import json
import shutil
from pathlib import Path
from typing import ClassVar

import pytest

from meowcat.core.events import EVENT_TYPES, TAGS, Event, Paused
from meowcat.testing.event_schemas import file_name, main, problems, schema, text, write_missing

FOLDER = Path(__file__).parents[2] / "specs/events"


def test_no_schema_is_missing_changed_or_left_over():
    assert problems(FOLDER) == []


class Renamed(Event, frozen=True, kw_only=True, tag="paused"):
    why: str


class Defaulted(Event, frozen=True, kw_only=True, tag="paused"):
    reason: str = "another default"


class Second(Event, frozen=True, kw_only=True, tag="paused"):
    version: ClassVar[int] = 2
    why: str


@pytest.fixture
def folder(tmp_path):
    write_missing(tmp_path, {"paused": Paused})
    return tmp_path


@pytest.mark.parametrize("changed", [Renamed, Defaulted])
def test_a_changed_event_needs_a_new_version(folder, changed):
    assert problems(folder, {"paused": changed}) == [
        "paused is no longer what paused.v1.json says: give it version 2 and an upcaster"
    ]


def test_a_new_version_keeps_the_file_of_the_old_one(folder):
    assert problems(folder, {"paused": Second}) == [
        "paused.v2.json is missing: run python -m meowcat.testing.event_schemas"
    ]
    before = (folder / "paused.v1.json").read_text("utf-8")
    assert [path.name for path in write_missing(folder, {"paused": Second})] == ["paused.v2.json"]
    assert problems(folder, {"paused": Second}) == []
    assert (folder / "paused.v1.json").read_text("utf-8") == before
    (folder / "paused.v1.json").unlink()
    assert problems(folder, {"paused": Second}) == [
        "paused.v1.json is missing: run python -m meowcat.testing.event_schemas"
    ]


def test_a_file_without_an_event_is_refused(folder):
    assert problems(folder, {}) == ["paused.v1.json belongs to no event: versions are kept for ever"]


def test_what_stands_is_never_written_again(folder):
    (folder / "paused.v1.json").write_text("{}", "utf-8")
    assert write_missing(folder, {"paused": Paused}) == []
    assert len(problems(folder, {"paused": Paused})) == 1


def test_a_better_comment_makes_no_new_version():
    class Documented(Event, frozen=True, kw_only=True, tag="paused"):
        """Another text."""

        reason: str

    assert schema(Documented)["$defs"].keys() == {"Documented", "State"}
    assert "Another text" not in text(Documented)


def test_a_field_that_is_called_like_prose_stays():
    class Titled(Event, frozen=True, kw_only=True, tag="titled"):
        title: str

    assert '"title"' in text(Titled)


def test_the_script_writes_and_checks(tmp_path, capsys):
    folder = tmp_path / "specs/events"
    folder.mkdir(parents=True)
    for tag, event in EVENT_TYPES.items():  # old versions are kept, and never written again
        for version in range(1, event.version):
            shutil.copy(FOLDER / file_name(tag, version), folder)
    assert main(["--root", str(tmp_path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(EVENT_TYPES)
    stored = folder / file_name("stored", 1)
    stored.write_text(json.dumps({}), "utf-8")
    assert main(["--root", str(tmp_path)]) == 1
    assert "give it version 2" in capsys.readouterr().err


def test_tags_and_events_are_one_to_one():
    assert {tag: event for event, tag in TAGS.items()} == EVENT_TYPES
