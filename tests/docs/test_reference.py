"""The reference pages say all that is public, and nothing that is not there."""

import dataclasses
import re
from pathlib import Path

import msgspec.structs
import pytest

import meowcat
from meowcat.core import errors, events
from meowcat.protocols.registry import DOWNLOADS, UPLOADS

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
REFERENCE = ROOT / "docs" / "reference"


def text(name):
    return (REFERENCE / name).read_text(encoding="utf-8")


def rows(name):
    """The cells of every table row of a reference page, without backticks."""
    return [
        [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]
        for line in text(name).splitlines()
        if line.startswith("|")
    ]


def table(name, first):
    """The rows of the table whose first column has this heading."""
    lines, found = rows(name), []
    inside = False
    for row in lines:
        if row[0] == first:
            inside = True
        elif inside and not row[0].startswith("---"):
            found.append(row)
    return found


def quoted(name):
    """Every word that stands in backticks, or begins a quoted call."""
    return {word for code in re.findall(r"`([^`]+)`", text(name)) for word in re.findall(r"\w+", code)}


def headings(name):
    return set(re.findall(r"^## (.+)$", text(name), re.MULTILINE))


def public_members(kind):
    return {name for name in vars(kind) if not name.startswith("_")}


def test_every_public_name_is_documented():
    assert set(meowcat.__all__) <= quoted("api.md") | headings("api.md")


def test_every_shipped_sink_is_documented():
    assert set(meowcat.sinks.__all__) <= quoted("api.md")


@pytest.mark.parametrize("kind", [meowcat.Engine, meowcat.Task])
def test_every_public_method_is_documented(kind):
    assert public_members(kind) <= quoted("api.md")


@pytest.mark.parametrize(
    "kind",
    [
        meowcat.Download,
        meowcat.Upload,
        meowcat.ProtocolSpec,
        meowcat.FormUpload,
        meowcat.S3,
        meowcat.AccessKey,
        meowcat.Orphan,
        meowcat.Result,
        meowcat.Progress,
        meowcat.TaskInfo,
        meowcat.Snapshot,
        meowcat.SinkInfo,
        meowcat.Fault,
        meowcat.Fetched,
    ],
)
def test_every_field_is_documented(kind):
    assert {field.name for field in msgspec.structs.fields(kind)} <= quoted("api.md")


def test_every_state_phase_and_wait_is_documented():
    page = text("api.md")
    values = [*meowcat.State, *meowcat.Phase, *meowcat.WaitingFor]
    assert [value for value in values if value not in page] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_that_pages_use_exist(page):
    used = set(re.findall(r"\bmeowcat\.([A-Z]\w*)", page.read_text(encoding="utf-8")))
    assert {name for name in used if not hasattr(meowcat, name)} == set()


def test_every_error_code_is_documented_with_its_number():
    documented = {name: int(number) for number, name, *_ in codes()}
    assert documented == {code.name: code.value for code in meowcat.Code}


def test_every_error_code_says_what_to_do():
    assert [row[1] for row in codes() if len(row) != 4 or not row[3]] == []


def test_a_code_that_nothing_raises_says_so():
    sources = "".join(path.read_text("utf-8") for path in Path(meowcat.__file__).parent.rglob("*.py"))
    raised = {code.name for code in meowcat.Code if f"Code.{code.name}" in sources}
    said = {row[1] for row in codes() if "never raised" in row[2]}
    assert said == {code.name for code in meowcat.Code} - raised - {"SUCCESS"}


def codes():
    return [row for row in table("errors.md", "Code") if re.fullmatch(r"-?\d+", row[0])]


def error_classes():
    return {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.MeowcatError) and name in meowcat.__all__
    }


def test_every_error_class_is_documented_with_its_code():
    documented = {row[0].split(" ")[0]: row[1] for row in table("errors.md", "Class")}
    assert error_classes().keys() <= documented.keys()
    for name, kind in error_classes().items():
        if name not in ("FetchFailed", "TransferError", "TransferFailed"):
            assert documented[name] == str(kind.code.value), name


def test_every_setting_is_documented_with_its_default():
    documented = {row[0]: row[1] for row in table("config.md", "Setting")}
    assert documented == {field.name: repr(field.default) for field in dataclasses.fields(meowcat.Config)}


def test_every_event_is_documented_with_its_fields():
    documented = {row[0]: (row[1], quoted_fields(row[3])) for row in table("events.md", "Type")}
    assert documented == {
        tag: (kind.__name__, {field.name for field in msgspec.structs.fields(kind)} - {"state"})
        for tag, kind in events.EVENT_TYPES.items()
    }


@pytest.mark.parametrize(("heading", "protocols"), [("Uploads", UPLOADS), ("Downloads", DOWNLOADS)])
def test_every_protocol_has_a_row_that_says_what_it_resumes_from(heading, protocols):
    section = text("restart-matrix.md").split(f"\n## {heading}\n")[1].split("\n## ")[0].lower()
    firsts = [line.split("|")[1] for line in section.splitlines() if line.startswith("| ")]
    assert [each.tag for each in protocols if not any(each.tag in first for first in firsts)] == []


def quoted_fields(cell):
    return set(re.findall(r"\w+", re.sub(r"\(.*?\)", "", cell)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    body = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", body):
        if not target.startswith("https:"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_make_targets_that_pages_name_exist():
    makefile = ROOT / "Makefile"
    targets = set(re.findall(r"^(\w+):", makefile.read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES:
        commands = re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert set(commands) <= targets
