"""The lifecycle table against its norm, and the diagram against the table."""

import tomllib
from pathlib import Path

import pytest

from meowcat.core.errors import IllegalTransition
from meowcat.core.machine import ACTIVE, ENDED, FIRST, TABLE, TERMINAL, State, Trigger, may, step
from meowcat.testing import lifecycle_diagram

ROOT = Path(__file__).parents[2]
NORM = tomllib.loads((ROOT / "specs/lifecycle.toml").read_text("utf-8"))
PAIRS = [(state, trigger) for state in State for trigger in Trigger]


def test_the_states_are_those_of_the_norm():
    assert [str(state) for state in State] == NORM["states"]


def test_a_task_begins_where_the_norm_says():
    assert [str(state) for state in FIRST] == NORM["created"]


def test_every_arrow_of_the_norm_is_in_the_table_and_the_other_way_round():
    norm = {name: (set(row["from"]), row["to"]) for name, row in NORM["triggers"].items()}
    table = {str(trigger): ({*map(str, sources)}, str(to)) for trigger, (sources, to) in TABLE.items()}
    assert table == norm


@pytest.mark.parametrize(("state", "trigger"), PAIRS)
def test_a_step_is_what_the_norm_says_or_raises(state, trigger):
    row = NORM["triggers"][trigger]
    if state in row["from"]:
        assert may(state, trigger)
        assert step(state, trigger) is State(row["to"])
    else:
        assert not may(state, trigger)
        with pytest.raises(IllegalTransition, match=f"{trigger} is not possible in state {state}"):
            step(state, trigger)


def test_nothing_leads_out_of_what_has_ended():
    left = {state for state in State if any(may(state, trigger) for trigger in Trigger)}
    assert {state for state in State if state not in left} == ENDED


def test_the_groups_of_states():
    assert {state for state in State if may(state, Trigger.REQUEUE)} == ACTIVE
    only_a_user_leads_out = {Trigger.CANCEL, Trigger.RETRY}
    left = {state: {trigger for trigger in Trigger if may(state, trigger)} for state in State}
    assert {state for state in State if left[state] <= only_a_user_leads_out} == TERMINAL


def test_the_diagrams_are_up_to_date():
    assert lifecycle_diagram.main(["--check", "--root", str(ROOT)]) == 0


def test_the_diagrams_show_every_arrow():
    drawing = lifecycle_diagram.mermaid()
    for name, row in NORM["triggers"].items():
        for source in row["from"]:
            assert f"    {source} --> {row['to']}: {name}\n" in drawing
    assert drawing.count("-->") == sum(len(r["from"]) for r in NORM["triggers"].values()) + 4
    picture = lifecycle_diagram.svg()
    assert all(f">{name}</text>" in picture for name in (*State, *Trigger))
    assert picture.count('class="dot"') == len(list(lifecycle_diagram.arrows()))


def test_a_stale_diagram_is_named_and_written_anew(tmp_path, capsys):
    (tmp_path / "docs").mkdir()
    page = tmp_path / lifecycle_diagram.PAGE
    page.write_text(f"before\n{lifecycle_diagram.BEGIN}\nold\n{lifecycle_diagram.END}\nafter\n", "utf-8")
    assert lifecycle_diagram.main(["--check", "--root", str(tmp_path)]) == 1
    assert "lifecycle.svg is out of date" in capsys.readouterr().err
    assert "old" in page.read_text("utf-8")
    assert lifecycle_diagram.main(["--root", str(tmp_path)]) == 0
    assert lifecycle_diagram.main(["--check", "--root", str(tmp_path)]) == 0
    assert page.read_text("utf-8").startswith("before\n")
    assert page.read_text("utf-8").endswith("after\n")


def test_a_page_without_marks_is_refused():
    with pytest.raises(ValueError, match="needs the marks"):
        lifecycle_diagram.with_diagram("no marks here")
