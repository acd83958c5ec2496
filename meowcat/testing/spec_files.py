"""Files of specifications (`*.spec.toml`): reading their rows, and saying what is wrong and where.

A file holds rows of one kind: `[[scenario]]` (`meowcat.testing.scenarios`), `[[http]]`
(`meowcat.testing.http_specs`) or `[[story]]` (`meowcat.testing.stories`).

TOML has no null: the text "none" stands for it, everywhere.
"""

import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

SUFFIX = ".spec.toml"
NONE = "none"
"""Stands for null."""

Table = Mapping[str, Any]
"""A TOML table: whatever a user wrote, still to be checked."""


class SpecError(ValueError):
    """A specification that can't be understood: the message names the file, the line and the row."""


class Mistake(ValueError):
    """What is wrong with a table, said by who does not know where it stands."""


class SpecFailed(AssertionError):
    """A specification that does not hold: the message shows what was expected and what came."""


class Row(Struct, frozen=True):
    """One `[[kind]]` table of a file."""

    path: Path
    line: int
    """Of its header, 1 for the first."""
    kind: str
    name: str
    table: dict[str, Any]

    @property
    def place(self) -> str:
        return f"{self.path}:{self.line}: {self.kind} {self.name!r}"

    def error(self, what: str) -> SpecError:
        return SpecError(f"{self.place}: {what}")


def find(root: Path) -> list[Path]:
    """All specification files below `root`, in order; `root` itself when it is one."""
    return [root] if root.is_file() else sorted(root.rglob(f"*{SUFFIX}"))


def read(path: Path) -> dict[str, Any]:
    """The file as TOML, with null for "none".

    Raises:
        SpecError: not TOML, or not UTF-8.
    """
    try:
        table: dict[str, Any] = _with_null(tomllib.loads(path.read_text("utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: not TOML: {error}") from error
    return table


def rows(path: Path, table: Table, kind: str) -> list[Row]:
    """The `[[kind]]` rows of a file that was read.

    Raises:
        SpecError: a row without a name, or a name that is used twice.
    """
    tables = table.get(kind, [])
    if not isinstance(tables, list):
        raise SpecError(f"{path}: {kind}: expected [[{kind}]], with two brackets")
    lines = header_lines(path, kind)
    found: list[Row] = []
    for index, each in enumerate(tables):
        row = Row(path, next(lines, 1), kind, str(each.get("name", f"number {index + 1}")), each)
        if not isinstance(each.get("name"), str):
            raise row.error("has no name")
        if any(row.name == other.name for other in found):
            raise row.error("another row has that name")
        found.append(row)
    return found


def header_lines(path: Path, kind: str) -> Iterator[int]:
    """The numbers of the lines on which `[[kind]]` stands, from 1 on."""
    header = re.compile(rf"\s*\[\[\s*{kind}\s*\]\]")
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if header.match(line):
            yield number


def _with_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_null(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_null(each) for each in value]
    return None if value == NONE else value


def unknown(keys: Collection[str], known: Collection[str]) -> str:
    """What is wrong with keys that nobody knows; empty when all are known."""
    strange = ", ".join(sorted(set(keys) - set(known)))
    return f"unknown key {strange}; known: {', '.join(sorted(known))}" if strange else ""


def check_keys(row: Row, table: Table, known: Collection[str], where: str = "") -> None:
    """Refuse keys that nobody reads: a misspelled expectation would hold for ever.

    Raises:
        SpecError: which key, where, and which ones there are.
    """
    if wrong := unknown(table, known):
        raise row.error(f"{where}{': ' if where else ''}{wrong}")


def differences(expected: Any, got: Any, where: str) -> list[str]:
    """How `got` differs from the pattern `expected`: of a table only the keys of the pattern are compared."""
    if isinstance(expected, Mapping) and isinstance(got, Mapping):
        return [
            line
            for key, value in expected.items()
            for line in differences(value, got.get(key, "(absent)"), f"{where}.{key}")
        ]
    if isinstance(expected, list) and isinstance(got, list) and len(expected) == len(got):
        pairs = enumerate(zip(expected, got, strict=True))
        return [line for i, (want, has) in pairs for line in differences(want, has, f"{where}[{i}]")]
    if expected == got and isinstance(expected, bool) == isinstance(got, bool):
        return []
    return [f"{where}: expected {show(expected)}", f"{' ' * len(where)}       got {show(got)}"]


def show(value: Any) -> str:
    """A value as TOML on one line."""
    if value is None:
        return f'"{NONE}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {show(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(show(each) for each in value) + "]"
    return str(value)
