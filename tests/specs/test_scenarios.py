"""The scenarios hold, and the runner sees when one does not."""

from pathlib import Path

import pytest

from meowcat.core.events import EVENT_TYPES
from meowcat.core.machine import State
from meowcat.core.messages import MESSAGE_TYPES
from meowcat.testing.scenarios import load_scenarios, run_scenario
from meowcat.testing.spec_files import SpecError, SpecFailed, find

FOLDER = Path(__file__).parents[2] / "specs/scenarios"
SCENARIOS = [scenario for path in find(FOLDER) for scenario in load_scenarios(path)]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: f"{each.row.path.name}: {each.row.name}")
def test_a_scenario_holds(scenario):
    run_scenario(scenario)


def test_every_kind_of_event_and_message_has_a_scenario():
    text = "".join(path.read_text("utf-8") for path in find(FOLDER))
    named = {tag for tag in (*EVENT_TYPES, *MESSAGE_TYPES) if f'type = "{tag}"' in text}
    assert named == {*EVENT_TYPES, *MESSAGE_TYPES} - {"recover"}, "a crash sends recover"


def test_every_state_is_reached():
    steps = [step.table for scenario in SCENARIOS for step in scenario.steps]
    assert {table["state"] for table in steps if "state" in table} == {str(state) for state in State}


def run_all(path):
    for scenario in load_scenarios(path):
        run_scenario(scenario)


def written(tmp_path, text):
    path = tmp_path / "own.spec.toml"
    path.write_text(text, "utf-8")
    return path


HEAD = """
[fixtures]
running = [{ type = "created" }, { type = "admitted" }, { type = "started" }]

[[scenario]]
name = "mine"
why = "It is mine."
"""


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ('whem = {type = "pause"}', "unknown key whem"),
        ('given = ["ruining"]', 'no fixture "ruining"; there are: running'),
        ('given = [{type = "creeated"}]', 'given: unknown type "creeated"'),
        ('given = [{type = "created", stat = "Paused"}]', "created: unknown key stat"),
        ('given = [{type = "created", request = {colour = 1}}]', "created: unknown key request.colour"),
        ('given = [{type = "created", at = "noon"}]', "Expected `int`, got `str` - at `$.at`"),
        ("given = [3]", "3: expected a table with a type"),
        ('when = {type = "paus"}', 'unknown type "paus"'),
        ('when = {type = "pause", run = 1}', "pause: unknown key run"),
        (
            'given = "running"\nwhen = {type = "pause"}\nthen = [{type = "paused", why = ""}]',
            "unknown key why",
        ),
        ('given = "running"\nwanted = {operatoin = 1}', "wanted: unknown key operatoin"),
        ('given = "running"\ntask = {attempt = 1}', "task: unknown key attempt"),
        ('given = "running"\nwhen = {type = "retry"}\nreply = {code = "NO"}', 'no code "NO"'),
        ('given = "running"\nwhen = {type = "pause"}\nnow = {time = 1}', "now: unknown key time"),
        ('when = {type = "pause"}\ncrash = true', "when or crash, not both"),
        ('append = "rejected"', "need a when"),
        ('when = {type = "pause"}\nappend = "maybe"', 'expected "rejected" or "uncertain"'),
        ('when = {type = "pause"}\nkept = 1', "the next step must be a crash"),
        ('state = "Paused"\n[[scenario.step]]\ncrash = true', "belong into a [[scenario.step]]"),
        ('[[scenario]]\nname = "mine"\nwhy = "Twice."', "another row has that name"),
        ('[[scenario]]\nwhy = "No name."', "has no name"),
        ('[[scenario]]\nname = "no why"', "has no why"),
    ],
)
def test_what_is_written_wrong_is_an_error_with_its_place(tmp_path, rest, expected):
    path = written(tmp_path, HEAD + rest)
    with pytest.raises(SpecError) as caught:
        run_all(path)
    assert expected in str(caught.value)
    assert str(path) + ":" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[[scenario", "not TOML"),
        ("[scenari]\nname = 1", "unknown key scenari"),
        ('[scenario]\nname = "x"', "with two brackets"),
    ],
)
def test_a_file_that_makes_no_sense(tmp_path, text, expected):
    with pytest.raises(SpecError, match=expected):
        load_scenarios(written(tmp_path, text))


PAUSE = 'given = ["running"]\nwhen = {type = "pause"}\n'


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        (PAUSE, "then: expected nothing\n             got paused"),
        (PAUSE + 'then = [{type = "paused", reason = "x"}]', 'then[0].reason: expected "x"\n'),
        (PAUSE + 'then = [{type = "paused", state = "Queued"}]', 'then[0].state: expected "Queued"'),
        (PAUSE + 'then = [{type = "paused"}]\nwanted = {operation = "fetch"}', 'got "nothing"'),
        ('given = ["running"]\nslot = false', "slot: expected false"),
        (PAUSE + 'then = [{type = "paused"}]\ndue = 5', 'due: expected 5\n            got "none"'),
        (PAUSE + 'then = [{type = "paused"}]\nstate = "Running"', 'state: expected "Running"'),
        (PAUSE + 'then = [{type = "paused"}]\nphase = "done"', 'got "moving"'),
        (PAUSE + 'then = [{type = "paused"}]\nwaiting_for = "retry"', 'waiting_for: expected "retry"'),
        (PAUSE + 'then = [{type = "paused"}]\ntask = {run = true}', "task.run: expected true"),
        (PAUSE + 'then = [{type = "paused"}]\ntask = {stored = [[0, 1]]}', "task.stored: expected [[0, 1]]"),
        (PAUSE + 'then = [{type = "paused"}]\nreply = {code = "TASK_STATE"}', 'got "ok"'),
        ('given = ["running"]\nwhen = {type = "retry"}', "got the refusal TASK_STATE: task "),
        ('given = ["running"]\nwhen = {type = "retry"}\nreply = {code = "IO"}', 'reply.code: expected "IO"'),
        ('state = "Queued"', 'got "no task"'),
        ('given = ["running"]\nwanted = "nothing"', 'got {operation = "fetch"'),
        ('given = ["running"]\ncrash = true', "then: expected nothing"),
    ],
)
def test_what_does_not_hold_is_shown_with_its_promise(tmp_path, rest, expected):
    (scenario,) = load_scenarios(written(tmp_path, HEAD + rest))
    with pytest.raises(SpecFailed) as caught:
        run_scenario(scenario)
    assert expected in str(caught.value)
    assert "own.spec.toml:5: scenario 'mine'" in str(caught.value)
    assert "why: It is mine." in str(caught.value)


def test_the_step_that_does_not_hold_is_named(tmp_path):
    steps = '[[scenario.step]]\nstate = "Running"\n[[scenario.step]]\nstate = "Paused"'
    (scenario,) = load_scenarios(written(tmp_path, f'{HEAD}given = ["running"]\n{steps}'))
    with pytest.raises(SpecFailed, match="step 2: "):
        run_scenario(scenario)


def test_defaults_of_a_file_are_filled_in(tmp_path):
    expected = 'given = ["running"]\ntask = {request = {retries = 0}}'
    text = f"[defaults.created.request]\nretries = 0\n{HEAD}{expected}"
    (scenario,) = load_scenarios(written(tmp_path, text))
    run_scenario(scenario)


def test_a_fixture_that_names_itself_is_an_error(tmp_path):
    text = '[fixtures]\nloop = ["loop"]\n[[scenario]]\nname = "x"\nwhy = "y"\ngiven = ["loop"]'
    with pytest.raises(SpecError, match="no fixture"):
        load_scenarios(written(tmp_path, text))
