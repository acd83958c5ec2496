"""The arrows between meowcat's parts, read from the installed sources (import-linter checks them too)."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import journal_adapters
import meowcat

PACKAGES = {
    "meowcat": Path(meowcat.__file__).parent,
    "journal_adapters": Path(journal_adapters.__file__).parent,
}

MAY_IMPORT = {
    "core": {"core"},
    "transport": {"transport", "core"},
    "protocols": {"protocols", "transport", "core"},
    "transfer": {"transfer", "protocols", "transport", "core"},
    "journal": {"journal", "core"},
    "sinks": {"sinks", "transfer", "journal", "transport", "core"},
    "audit": {"audit", "journal", "core"},
    "runtime": {
        "runtime",
        "sinks",
        "audit",
        "transfer",
        "journal",
        "protocols",
        "transport",
        "core",
        "config",
    },
    "control": {"control", "runtime", "transfer", "journal", "protocols", "transport", "core", "streams"},
    "config": {"core"},
    "annotations": set(),
    "blocking": {
        "annotations",
        "blocking",
        "engine",
        "task",
        "streams",
        "config",
        "runtime",
        "protocols",
        "transfer",
        "transport",
        "audit",
        "journal",
        "core",
    },
}
"""Which parts each part may import."""

PURE = {
    "base64", "binascii", "bisect", "collections", "dataclasses", "datetime", "email", "enum", "functools",
    "hashlib", "itertools", "math", "msgspec", "operator", "re", "transitions", "types", "typing",
    "unicodedata", "urllib",
}  # fmt: skip
"""What the core may import besides itself: values in, values out, and no I/O, clock, randomness or async."""


def modules(package: str) -> list[Path]:
    return sorted(PACKAGES[package].rglob("*.py"))


@cache
def imports(path: Path) -> frozenset[str]:
    """The dotted names that a module imports, also inside functions; not those for type checkers alone."""
    return frozenset(_imports(path, ast.parse(path.read_text(encoding="utf-8"))))


def _imports(path: Path, tree: ast.Module) -> Iterator[str]:
    for_checkers = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_checkers:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides where it leads"
            if node.module == "meowcat":
                yield from (f"meowcat.{alias.name}" for alias in node.names)
            else:
                yield node.module or ""


def part_of(name: str) -> str:
    return [*name.split("."), ""][1]


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_a_part_imports_only_what_is_below_it(part):
    home = PACKAGES["meowcat"]
    files = [home / f"{part}.py"] if (home / f"{part}.py").exists() else sorted((home / part).rglob("*.py"))
    assert files
    wrong = [
        f"{path.relative_to(home)} imports {name}"
        for path in files
        for name in imports(path)
        if name.split(".")[0] == "meowcat" and part_of(name) not in MAY_IMPORT[part]
    ]
    assert wrong == []


def test_the_core_imports_nothing_that_could_do_io():
    core = PACKAGES["meowcat"] / "core"
    wrong = [
        f"{path.name} imports {name}"
        for path in core.rglob("*.py")
        for name in imports(path)
        if name.split(".")[0] not in PURE and not name.startswith("meowcat.core")
    ]
    assert wrong == []


def test_transfer_never_imports_runtime_even_through_a_contract():
    reached = {name for path in (PACKAGES["meowcat"] / "transfer").rglob("*.py") for name in imports(path)}
    assert not {name for name in reached if name.startswith("meowcat.runtime")}


def test_adapters_know_the_contract_and_the_core_alone():
    allowed = ("meowcat.core", "meowcat.journal.contract", "meowcat.journal.chain", "meowcat.journal.lines")
    wrong = [
        f"{path.name} imports {name}"
        for path in modules("journal_adapters")
        for name in imports(path)
        if name.split(".")[0] == "meowcat" and not name.startswith(allowed)
    ]
    assert wrong == []


def test_adapters_are_never_imported_by_name():
    wrong = [
        f"{path} imports {name}"
        for path in modules("meowcat")
        for name in imports(path)
        if name.split(".")[0] == "journal_adapters"
    ]
    assert wrong == []


def test_no_product_code_imports_the_testing_package_but_the_demo():
    home = PACKAGES["meowcat"]
    reaching = {
        str(path.relative_to(home))
        for path in modules("meowcat")
        if path.relative_to(home).parts[0] != "testing"
        and any(name.startswith("meowcat.testing") for name in imports(path))
    }
    assert reaching <= {"cli/demo.py"}


def test_dependencies_outside_the_standard_library_are_declared():
    declared = {
        "anycrc", "anyio", "blake3", "click", "cryptography", "google_crc32c", "h2", "httptools", "httpx",
        "msgspec", "platformdirs", "pyreqwest", "rich", "transitions",
    }  # fmt: skip
    for_tests = {"hypothesis", "pytest", "trustme"}
    for package in PACKAGES:
        for path in modules(package):
            known = declared | sys.stdlib_module_names | set(PACKAGES)
            if "testing" in path.parts:
                known = known | for_tests
            unknown = {name.split(".")[0] for name in imports(path)} - known
            assert not unknown, f"{path}: {unknown}"
