"""An opt-in pytest plugin: every row of every `*.spec.toml` is a test.

    pytest -p meowcat.testing.plugin specs/

Rows of both kinds are collected: `[[scenario]]` (`meowcat.testing.scenarios`) and `[[http]]`
(`meowcat.testing.http_specs`). A file that can't be understood is an error at collection, with its place.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import pytest

from meowcat.testing import http_specs, scenarios
from meowcat.testing.spec_files import SUFFIX, SpecError, header_lines, read

Check = Callable[[], None]


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> "SpecFile | None":
    if file_path.name.endswith(SUFFIX):
        return SpecFile.from_parent(parent, path=file_path)
    return None


class SpecFile(pytest.File):
    """One file of specifications."""

    def collect(self) -> Iterable["SpecItem"]:
        try:
            found = list(_checks(self.path))
        except ValueError as error:  # a SpecError, or what the loader of the other kind says
            raise self.CollectError(str(error)) from error
        return [SpecItem.from_parent(self, name=name, line=line, check=check) for name, line, check in found]


def _checks(path: Path) -> Iterator[tuple[str, int, Check]]:
    """Each row's name, line and check."""
    if "http" not in read(path):
        for scenario in scenarios.load_scenarios(path):
            yield scenario.row.name, scenario.row.line, partial(scenarios.run_scenario, scenario)
        return
    for spec, line in zip(http_specs.load(path), header_lines(path, "http"), strict=True):
        yield spec.name, line, partial(http_specs.run, spec)


class SpecItem(pytest.Item):
    """One row."""

    def __init__(self, *, line: int, check: Check, name: str, parent: SpecFile) -> None:
        super().__init__(name, parent)
        self.line, self.check = line, check

    def runtest(self) -> None:
        self.check()

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *_: object) -> str:
        """The text of a row that does not hold; a traceback only for what is a defect."""
        if isinstance(excinfo.value, AssertionError | SpecError):
            return f"{self.path}:{self.line}\n{excinfo.value}"
        return str(super().repr_failure(excinfo))

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, self.line - 1, self.name
