"""Scenarios: what a task does, written as data and run against the pure core.

    [[scenario]]
    name = "a pause stops the bytes"
    why = "Paused does no network I/O."
    given = ["running"]
    when = {type = "pause"}
    then = [{type = "paused"}]
    wanted = "nothing"

Keys of a scenario: `name`, `why` (one sentence), `given` (events, or names of `[fixtures]`), and then either
one step, or several as `[[scenario.step]]`. Keys of a step:

- `when`: the message that comes. A report is of the present run, a wake-up of the present wait, unless the
  table says otherwise.
- `crash = true`: the process dies and the journal is opened again. Only durable events remain, and the task
  is sent `recover`; `recover = {resume = false}` is what the application answers. Instead of `when`.
- `now = {at, roll}`: the wall clock in milliseconds and the jitter, 0 and 0.5 unless given.
- `append`: `"rejected"`: the journal refuses the events once, and the same message comes again;
  `"uncertain"`: it is tried with the events stored and with the events lost, which must end alike.
- `kept`: the process dies when that many of the events are durable. The next step must be a crash.
- `then`: the events that are made, nothing if left out. Keys that an event's table lacks are not compared,
  but the state is always: it is the one that such an event leads to, or else the one before.
- `reply`: `"ok"`, which is what is expected if left out, or `{code = "TASK_STATE"}`.
- `wanted`: `"nothing"`, or `{operation = "fetch", hold = true, run = 1, settling = false}`, any of them.
- `slot`: whether the task wants one. `due`: milliseconds until the wait is over, or "none".
- `state`, `phase`, `waiting_for`: what they are.
- `task`: any other fields of the task, as `{attempts = 1, stored = [[0, 1]]}`, and `doubt`: whether a commit
  has to be asked about before it is sent.

After each step the journal, written as JSON and read again, is folded from the start: it must give the state
that the task is in. `[fixtures]` names lists of events, `[defaults]` has fields by event or message type.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from meowcat.core import messages as msg
from meowcat.core.decide import decide
from meowcat.core.errors import Code, IllegalTransition
from meowcat.core.events import TAGS, Event
from meowcat.core.state import TaskState, evolve, fold
from meowcat.core.story import Decision
from meowcat.core.values import Instant
from meowcat.core.wanted import due, wanted, wants_slot
from meowcat.journal import codec
from meowcat.testing.spec_files import (
    Mistake,
    Row,
    SpecError,
    SpecFailed,
    Table,
    check_keys,
    differences,
    read,
    rows,
    show,
    unknown,
)
from meowcat.testing.spec_values import event_pattern, make_event, make_message, moves, plain

CHECKS = ("wanted", "slot", "due", "state", "phase", "waiting_for", "task")
STEP_KEYS = ("when", "crash", "recover", "now", "append", "kept", "then", "reply", *CHECKS)
FILE_KEYS = ("fixtures", "defaults", "scenario")


class Step(Struct, frozen=True):
    """One message or crash, and what must come of it. The tables are checked when the step is run."""

    table: dict[str, Any]

    @property
    def crash(self) -> bool:
        return bool(self.table.get("crash", False))

    @property
    def append(self) -> str:
        return str(self.table.get("append", "stored"))


class Scenario(Struct, frozen=True):
    """One `[[scenario]]` of a file."""

    row: Row
    why: str
    given: tuple[dict[str, Any], ...]
    steps: tuple[Step, ...]
    defaults: dict[str, Any]


def load_scenarios(path: Path) -> list[Scenario]:
    """The scenarios of one file.

    Raises:
        SpecError: what is wrong, with the line and the scenario's name.
    """
    table = read(path)
    if wrong := unknown(table, FILE_KEYS):
        raise SpecError(f"{path}: {wrong}")
    fixtures, defaults = table.get("fixtures", {}), table.get("defaults", {})
    return [_scenario(row, fixtures, defaults) for row in rows(path, table, "scenario")]


def _scenario(row: Row, fixtures: Table, defaults: dict[str, Any]) -> Scenario:
    table = row.table
    check_keys(row, table, ("name", "why", "given", "step", *STEP_KEYS))
    if not isinstance(table.get("why"), str):
        raise row.error("has no why: say in one sentence which promise it shows")
    own = {key: value for key, value in table.items() if key in STEP_KEYS}
    tables = table.get("step", [own])
    if "step" in table and own:
        raise row.error(f"{', '.join(own)}: belong into a [[scenario.step]] when there are several")
    for number, each in enumerate(tables, 1):
        _check_step(row, each, f"step {number}", tables[number] if number < len(tables) else {})
    given = tuple(_expanded(row, table.get("given", []), fixtures, ()))
    return Scenario(row, table["why"], given, tuple(Step(each) for each in tables), defaults)


def _check_step(row: Row, table: Table, where: str, following: Table) -> None:
    check_keys(row, table, STEP_KEYS, where)
    if "crash" in table and "when" in table:
        raise row.error(
            f"{where}: when or crash, not both; for a death half way, use kept and a step after it"
        )
    if "when" not in table and any(key in table for key in ("append", "kept", "now", "reply")):
        raise row.error(f"{where}: append, kept, now and reply need a when")
    if table.get("append", "rejected") not in ("rejected", "uncertain"):
        raise row.error(f'{where}: append: expected "rejected" or "uncertain"')
    if "kept" in table and not following.get("crash"):
        raise row.error(f"{where}: kept: the process dies there, so the next step must be a crash")


def _expanded(row: Row, given: Any, fixtures: Table, inside: tuple[str, ...]) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    for each in given if isinstance(given, list) else [given]:
        if not isinstance(each, str):
            events.append(each)
        elif each in fixtures and each not in inside:
            events += _expanded(row, fixtures[each], fixtures, (*inside, each))
        else:
            raise row.error(f"given: no fixture {show(each)}; there are: {', '.join(fixtures) or 'none'}")
    return events


def run_scenario(scenario: Scenario) -> None:
    """Run one scenario.

    Raises:
        SpecFailed: it does not hold; the message shows where and how.
        SpecError: it can't be understood.
    """
    live = _Live(scenario)
    for number, step in enumerate(scenario.steps, 1):
        where = f"step {number}" if len(scenario.steps) > 1 else ""
        try:
            live.go(step)
        except _Differs as differs:
            raise SpecFailed(_report(scenario, where, step, differs, live)) from None
        except Mistake as error:
            raise scenario.row.error(f"{where}{': ' if where else ''}{error}") from error


class _Differs(Exception):
    """Lines for whoever knows the scenario; never seen outside."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(*lines)
        self.lines = lines


class _Live:
    """A task at work and its journal."""

    def __init__(self, scenario: Scenario) -> None:
        self.defaults = scenario.defaults
        self.task: TaskState | None = None
        self.journal: list[tuple[str, int, bytes]] = []
        self.made: tuple[Event, ...] = ()
        try:
            for table in scenario.given:
                self.append((make_event(table, self.task, self.defaults),))
        except Mistake as error:
            raise scenario.row.error(f"given: {error}") from error

    def append(self, events: tuple[Event, ...]) -> None:
        for event in events:
            self.journal.append(codec.encode(event))
            self.task = evolve(self.task, event)

    def replay(self) -> TaskState | None:
        return fold(codec.decode(*record) for record in self.journal)

    def go(self, step: Step) -> None:
        self.made = ()
        if step.crash:
            self.task = self.replay()
            self.deal(step, {"type": "recover", **step.table.get("recover", {})})
        elif "when" in step.table:
            self.deal(step, step.table["when"])
        lines = self.checked(step)
        if self.replay() != self.task:
            lines += ["the journal, folded again, does not give the state that the task is in"]
            lines += differences(plain(self.task), plain(self.replay()), "task")
        if lines:
            raise _Differs(lines)

    def deal(self, step: Step, table: Table) -> None:
        message = make_message(table, self.task, self.defaults)
        patterns = self.patterns(step)
        decision = self.decided(step, message)
        self.made = decision.events
        lines = _compared(patterns, decision.events) + _reply(step, decision)
        if lines:
            raise _Differs(lines)
        if step.append != "stored":
            self.again(step, message, decision)
        self.append(decision.events[: step.table.get("kept", len(decision.events))])

    def again(self, step: Step, message: msg.Message, first: Decision) -> None:
        """The events were not stored, or may not be: the message is dealt with from what is durable."""
        stored = fold(first.events, self.replay())
        self.task = self.replay()
        second = self.decided(step, message)
        if second != first:
            raise _Differs(
                ["decided again after the append, it is another decision:", *_listed(second.events)]
            )
        if step.append == "uncertain" and fold(second.events, self.task) != stored:
            raise _Differs(["stored and stored again after a loss do not end alike"])

    def decided(self, step: Step, message: msg.Message) -> Decision:
        now = {"at": 0, **step.table.get("now", {})}
        if wrong := unknown(now, ("at", "roll")):
            raise Mistake(f"now: {wrong}")
        instant = msgspec.convert(now, Instant)
        try:
            return decide(self.task, message, instant)
        except IllegalTransition as illegal:
            raise _Differs([f"decide raised IllegalTransition: {illegal}"]) from illegal

    def patterns(self, step: Step) -> list[dict[str, Any]]:
        """The patterns of `then`, each with the state that is implied after the one before."""
        task, patterns = self.task, []
        state: str | None = None
        for table in step.table.get("then", []):
            pattern = event_pattern(table, task)
            if state is not None and "state" not in table and not moves(table["type"]):
                pattern["state"] = state
            state = pattern["state"]
            patterns.append(pattern)
        return patterns

    def checked(self, step: Step) -> list[str]:
        """What of the checks does not hold."""
        lines: list[str] = []
        for key in CHECKS:
            if key in step.table:
                lines += differences(step.table[key], self.seen(key, step.table[key]), key)
        return lines

    def seen(self, key: str, expected: Any) -> Any:
        if self.task is None:
            return "no task"
        if key == "wanted":
            return _wanted(self.task, expected)
        if key == "slot":
            return wants_slot(self.task)
        if key == "due":
            return due(self.task, 0)
        if key == "waiting_for":
            return str(self.task.wait.waiting_for) if self.task.wait else None
        if key == "task":
            return _fields(self.task, expected)
        return str(getattr(self.task, key))


def _wanted(task: TaskState, expected: Any) -> Any:
    want = wanted(task)
    if want is None:
        return "nothing"
    if isinstance(expected, Mapping):
        known = {"operation", "hold", "settling", "run", "restarts"}
        if wrong := unknown(expected, known):
            raise Mistake(f"wanted: {wrong}")
    operation = plain(want.operation)
    return {"operation": operation.pop("type"), "hold": want.hold, "settling": want.settling, **operation}


def _fields(task: TaskState, expected: Any) -> Any:
    has = plain(task) | {"doubt": task.doubt}
    if wrong := unknown(expected, has):
        raise Mistake(f"task: {wrong}")
    for name in ("stored", "unproven"):
        has[name] = has[name]["pairs"]
    return has


def _compared(patterns: list[dict[str, Any]], events: tuple[Event, ...]) -> list[str]:
    got = [_shown(event) for event in events]
    if [each["type"] for each in patterns] != [each["type"] for each in got]:
        wanted_tags = ", ".join(each["type"] for each in patterns) or "nothing"
        return [
            f"then: expected {wanted_tags}",
            f"           got {', '.join(TAGS[type(e)] for e in events) or 'nothing'}",
        ]
    return differences(patterns, got, "then")


def _shown(event: Event) -> dict[str, Any]:
    table: dict[str, Any] = plain(event)
    return table


def _reply(step: Step, decision: Decision) -> list[str]:
    expected: Literal["ok"] | dict[str, Any] = step.table.get("reply", "ok")
    if decision.refusal is None:
        return differences(expected, "ok", "reply")
    code = decision.refusal.code
    if not isinstance(expected, Mapping):
        return [f"reply: expected ok, got the refusal {code.name}: {decision.refusal.detail}"]
    name = expected.get("code")
    if name not in Code.__members__:
        raise Mistake(f"reply: no code {show(name)}")
    return differences(name, code.name, "reply.code")


def _listed(events: tuple[Event, ...]) -> list[str]:
    return [f"  {show(_shown(event))}" for event in events] or ["  nothing"]


def _report(scenario: Scenario, where: str, step: Step, differs: _Differs, live: _Live) -> str:
    """What a reader needs to see: the promise, the step, the differences, and all that was made."""
    message = "crash" if step.crash else f"when = {show(step.table.get('when', 'none'))}"
    lines = [scenario.row.place, f"  why: {scenario.why}", f"  {where}{': ' if where else ''}{message}", ""]
    lines += [f"  {line}" for line in differs.lines]
    lines += ["", "  events that were made:", *(f"  {line}" for line in _listed(live.made))]
    if live.task is not None:
        lines += ["", f"  the task is {live.task.state}, {live.task.phase}"]
    return "\n".join(lines)
