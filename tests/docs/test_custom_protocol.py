"""The protocol that docs/how-to/custom-protocols.md shows keeps the contract that it explains."""

import re
from dataclasses import fields
from pathlib import Path

import msgspec.structs
import pytest

from meowcat.core.sessions import Capabilities
from meowcat.core.values import FaultKind
from meowcat.protocols.contract import Job, UploadProtocol
from meowcat.testing.protocol_suite import ProtocolSuite

PAGE = (Path(__file__).parents[2] / "docs/how-to/custom-protocols.md").read_text("utf-8")


def shown():
    """What the page defines: the protocol, and what tests it."""
    session = {"__name__": "__snippet__"}
    for code in re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        if "await " not in code or "class " in code:
            exec(code, session)  # noqa: S102  # our own page
    return session


class TestTheProtocolOfThePage(ProtocolSuite):
    harness = shown()["FolderHarness"]


def quoted(section):
    text = PAGE[PAGE.index(f"## {section}") :].split("\n## ", 1)[0]
    return {word for code in re.findall(r"`([^`]+)`", text) for word in re.findall(r"\w+", code)}


def test_every_capability_is_explained():
    assert {field.name for field in msgspec.structs.fields(Capabilities)} <= quoted("Capabilities")


def test_every_method_is_explained():
    methods = {name for name in vars(UploadProtocol) if not name.startswith("_")} - {"version", "owns_url"}
    assert methods - {"tag"} <= quoted("How the engine drives it")
    assert {field.name for field in fields(Job)} & quoted("How the engine drives it") >= {"digests"}


@pytest.mark.parametrize("kind", re.findall(r"`([A-Z_]+)`", PAGE[PAGE.index("## Failures") :]))
def test_every_fault_that_the_page_names_is_one(kind):
    assert kind in FaultKind.__members__
