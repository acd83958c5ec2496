"""The JSON schema of every version of every event, as files: `specs/events/<tag>.v<version>.json`.

    python -m meowcat.testing.event_schemas            writes those that are missing

A file that stands is never written again. An event whose fields change needs a new version (and an upcaster
in `meowcat.journal.codec`), and with it a new file; `problems` says where that was forgotten.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from meowcat.core.events import EVENT_TYPES, Event

FOLDER = Path("specs/events")
_PROSE = ("title", "description")
"""What a schema says for people: a better comment makes no new version."""


def file_name(tag: str, version: int) -> str:
    return f"{tag}.v{version}.json"


def schema(event: type[Event]) -> dict[str, Any]:
    """The event's JSON schema, without prose and in a stable order."""
    bare: dict[str, Any] = _without_prose(json.loads(json.dumps(msgspec.json.schema(event))))
    return bare


def _without_prose(value: Any, *, names: bool = False) -> Any:
    """`names`: the keys are those of fields or types and not words of the schema language."""
    if isinstance(value, dict):
        return {
            key: _without_prose(each, names=not names and key in ("properties", "$defs"))
            for key, each in sorted(value.items())
            if names or key not in _PROSE
        }
    if isinstance(value, list):
        return [_without_prose(each) for each in value]
    return value


def text(event: type[Event]) -> str:
    """The contents of the event's file."""
    return json.dumps(schema(event), indent=2) + "\n"


def problems(folder: Path, events: Mapping[str, type[Event]] = EVENT_TYPES) -> list[str]:
    """What is wrong between the events and their files; empty when nothing is."""
    found: list[str] = []
    expected = {file_name(tag, v) for tag, event in events.items() for v in range(1, event.version + 1)}
    standing = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    found += [
        f"{name} is missing: run python -m meowcat.testing.event_schemas" for name in expected - standing
    ]
    found += [f"{name} belongs to no event: versions are kept for ever" for name in standing - expected]
    for tag, event in events.items():
        name = file_name(tag, event.version)
        if name in standing and json.loads((folder / name).read_text("utf-8")) != schema(event):
            found.append(
                f"{tag} is no longer what {name} says: give it version {event.version + 1} and an upcaster"
            )
    return sorted(found)


def write_missing(folder: Path, events: Mapping[str, type[Event]] = EVENT_TYPES) -> list[Path]:
    """Write the files of current versions that do not stand yet; those that were written."""
    written: list[Path] = []
    folder.mkdir(parents=True, exist_ok=True)
    for tag, event in events.items():
        path = folder / file_name(tag, event.version)
        if not path.exists():
            path.write_text(text(event), "utf-8")
            written.append(path)
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    """Write what is missing and say what is wrong; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m meowcat.testing.event_schemas")
    parser.add_argument(
        "--root", type=Path, default=Path(), help="the checkout; the current folder by default"
    )
    folder = parser.parse_args(arguments).root / FOLDER
    for path in write_missing(folder):
        sys.stdout.write(f"{path}\n")
    wrong = problems(folder)
    for line in wrong:
        sys.stderr.write(f"{line}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
