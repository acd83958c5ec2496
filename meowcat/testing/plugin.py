"""An opt-in pytest plugin: every row of every `*.spec.toml` is a test, and tests can ask for a world.

    pytest -p meowcat.testing.plugin specs/

Rows of all kinds are collected: `[[scenario]]` (`meowcat.testing.scenarios`), `[[http]]`
(`meowcat.testing.http_specs`) and `[[story]]` (`meowcat.testing.stories`). A file that can't be understood is
an error at collection, with its place.

The fixture `meowcat_world` is a `meowcat.testing.world.World` whose seed comes from the test's name, so that
each test explores another course of events, and the same one every time. `--meowcat-seed N` gives all tests
the seed N; a test that fails tells its seed.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from pathlib import Path
from zlib import crc32

import pytest

from meowcat.testing import http_specs, scenarios, stories
from meowcat.testing.spec_files import SUFFIX, SpecError, header_lines, read
from meowcat.testing.world import World

Check = Callable[[], None]


SEED = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("meowcat")
    group.addoption(
        "--meowcat-seed",
        type=int,
        metavar="N",
        help="the seed of meowcat_world; by default from the test's name",
    )


@pytest.fixture
def meowcat_seed(request: pytest.FixtureRequest) -> int:
    """The seed of this test's world."""
    given: int | None = request.config.getoption("--meowcat-seed")
    seed = crc32(request.node.nodeid.encode()) if given is None else given
    request.node.stash[SEED] = seed
    return seed


@pytest.fixture
def meowcat_world(meowcat_seed: int) -> World:
    """A simulated world: see `meowcat.testing.world`."""
    return World(meowcat_seed)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and SEED in item.stash:
        seed = item.stash[SEED]
        report.sections.append(("meowcat", f"replay with --meowcat-seed {seed}"))
    return report


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
    table = read(path)
    if "http" in table:
        for spec, line in zip(http_specs.load(path), header_lines(path, "http"), strict=True):
            yield spec.name, line, partial(http_specs.run, spec)
    elif "story" in table:
        for story in stories.load_stories(path):
            yield story.row.name, story.row.line, partial(stories.run_story, story)
    else:
        for scenario in scenarios.load_scenarios(path):
            yield scenario.row.name, scenario.row.line, partial(scenarios.run_scenario, scenario)


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
