"""The page on `meowcat.testing` names all that it offers, and nothing that is not there."""

import re
from dataclasses import fields
from pathlib import Path

import msgspec.structs
import pytest

from meowcat.testing import (
    depot,
    disk,
    http_specs,
    plugin,
    scenarios,
    scripted,
    servers,
    stories,
    world,
)

PAGE = (Path(__file__).parents[2] / "docs/reference/testing.md").read_text("utf-8")
QUOTED = {word for code in re.findall(r"`([^`]+)`", PAGE) for word in re.findall(r"\w+", code)}


def rows(heading):
    """The words that are quoted in the first column of the table with this heading."""
    table = PAGE.split(f"| {heading} |")[1].split("\n\n")[0].splitlines()[2:]
    return {
        re.match(r"\w+", code.strip('"{'))[0]
        for line in table
        for code in re.findall(r"`([^`]+)`", line.split("|")[1])
    }


@pytest.mark.parametrize("module", [depot, disk, scripted, servers, world], ids=lambda each: each.__name__)
def test_every_public_name_is_there(module):
    assert {name for name in module.__all__ if name not in QUOTED} == set()


@pytest.mark.parametrize(
    ("heading", "kind"),
    [("Member", world.World), ("`ScriptedServer`", scripted.ScriptedServer), ("`Depot`", depot.Depot)],
)
def test_every_member_is_there_and_exists(heading, kind):
    made = kind()
    public = {name for name in (*vars(kind), *vars(made)) if not name.startswith("_")}
    internal = (
        {"reaches", "arrived", "answer", "broke_off", "spend", "copy"}
        if kind is scripted.ScriptedServer
        else set()
    )
    assert rows(heading) == public - internal


def test_the_hand_from_outside_exists():
    assert {
        name for name in rows("From outside, uncounted") if not hasattr(disk.SimulatedDisk, name)
    } == set()


def test_every_field_of_a_trouble_is_there():
    assert {each.name for each in fields(servers.Trouble)} - QUOTED == set()


@pytest.mark.parametrize(
    ("heading", "known"),
    [
        ("Key of a `[[story]]`", set(stories.KEYS)),
        ("Step of `do`", {*stories.WORDS, *stories.TABLES}),
        ("Key of `then`", set(stories.THEN)),
        ("Key of an `[[http]]` row", {each.name for each in msgspec.structs.fields(http_specs.HttpSpec)}),
        (
            "Key of a `[[scenario]]`",
            {"name", "why", "given", "step", *scenarios.STEP_KEYS} - {"crash", "recover"},
        ),
    ],
)
def test_every_key_of_a_spec_is_there_and_known(heading, known):
    assert rows(heading) == known


def test_the_fixtures_and_the_option_are_there():
    assert {"meowcat_world", "meowcat_seed", "meowcat"} <= QUOTED
    assert hasattr(plugin, "meowcat_world")
    assert hasattr(plugin, "meowcat_seed")
    assert "--meowcat-seed" in PAGE
