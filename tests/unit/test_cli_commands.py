"""Commands from outside: help, bad input, exit codes, JSON errors. No network."""

import asyncio
import io
import json
import logging
import re
import socket
from dataclasses import replace
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from rich.console import Console

import meowcat
from meowcat.cli import main
from meowcat.cli.app import Commands
from meowcat.cli.control import outcome_object
from meowcat.cli.display import closing_text, exit_of_task, pace_text, stopped_lines
from meowcat.cli.exits import Exit, exit_of, exit_of_all
from meowcat.cli.listing import Filter
from meowcat.cli.orphans import Left, orphan_object
from meowcat.cli.tables import table_of
from meowcat.cli.views import Seen, live_object, owner_text, printable, task_object, waits_text
from meowcat.control.messages import Outcome
from meowcat.core.errors import (
    DuplicateTask,
    JournalOwned,
    MeowcatError,
    OwnerLost,
    TaskNotFound,
    TaskQuarantined,
    TransferCanceled,
    TransferFailed,
    UnknownJournal,
)
from meowcat.core.info import Orphan, TaskInfo
from meowcat.core.machine import State, Trigger
from meowcat.core.state import Phase
from meowcat.core.values import Fault, FaultKind, TaskId
from meowcat.core.waits import WaitingFor
from meowcat.journal.contract import Owner
from meowcat.journal.locate import locate
from meowcat.task import Progress


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`run("ls", "--json")` in an empty folder with an empty state folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEOWCAT_STATE_DIR", str(tmp_path / "state"))
    return lambda *words, **more: CliRunner().invoke(main, list(words), **more)


@pytest.mark.parametrize("error", [KeyboardInterrupt, asyncio.CancelledError])
def test_an_interrupt_is_told_in_one_line(error):
    def interrupted():
        raise error

    commands = Commands(commands=[click.Command("get", callback=interrupted)])
    done = CliRunner().invoke(commands, ["get"])
    assert (done.exit_code, done.stdout, done.stderr) == (Exit.INTERRUPTED, "", "meowcat: interrupted\n")


def info_of(**fields):
    return TaskInfo(
        **{
            "id": TaskId("01ARZ3NDEKTSV4RRFFQ69G5FAV"),
            "key": "/data/a.bin",
            "state": State.RUNNING,
            "phase": Phase.MOVING,
            "direction": "download",
            "url": "https://host/a.bin",
            "path": "/data/a.bin",
            "priority": 0,
            "created": 1_700_000_000_123,
            "size": 1000,
            "bytes_done": 250,
            "attempts": 0,
            "crashes": 0,
            "waiting_for": None,
            "needs": (),
            "reason": "",
            "fault": None,
            "digests": (),
            "client_file_sign": None,
            **fields,
        }
    )


def test_the_version_is_the_packages(run):
    result = run("--version")
    assert result.exit_code == 0
    assert result.output == f"meowcat, version {meowcat.__version__}\n"


@pytest.mark.parametrize(
    "command",
    ["get", "ls", "show", "log", "pause", "resume", "cancel", "retry", "demo", "completion"],
)
def test_every_command_has_help_with_an_example(run, command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"meowcat {command}" in result.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["get", "ftp://host/x"], "expected http or https"),
        (["get", "http://h/x", "--piece-size", "big"], "'big' is no size"),
        (["get", "http://h/x", "--piece-size", "1"], "piece_size 1"),
        (["get", "http://h/x", "--connections", "0"], "connections 0"),
        (["get", "http://h/x", "--checksum", "sha256:12"], "64 hexadecimal digits"),
        (["get", "http://h/x", "http://h/y", "--checksum", "md5:" + "0" * 32], "--checksum is for one URL"),
        (["get", "http://h/x", "--timeout", "soon"], "'soon' is no time"),
        (["get", "http://h/x", "--timeout", "0"], "connect_timeout 0"),
        (["get", "http://h/x", "--retries", "-1"], "retries -1"),
        (["get", "http://h/x", "--durability", "wish"], "wish"),
        (["get", "http://h/x", "-o", "missing/"], "there is no such folder; make it first: mkdir -p "),
        (["get", "--input", "missing"], "No such file"),
        (["get", "http://h/x", "--proxy", "nonsense"], "proxy: expected a URL such as"),
        (["get", "http://h/x", "--proxy", "ftp://u:p@h"], "proxy: expected a URL such as"),
        (["get", "http://h/x", "--ca-bundle", "none"], "CA bundle 'none': it can't be read: No such file"),
        (["get", "--no-such-option"], "No such option"),
        (["frobnicate"], "No such command"),
        (["show", "01X"], "no task '01X'"),
        (["resume", "01X"], "no task '01X'"),
        (["resume", "--url", "x"], "expected http or https"),
        (["resume", "--header", "A: b"], "no task to supply them to"),
        (["demo", "--size", "1M"], "at least 8MiB"),
        (["pause"], "expected TASKs; or --all"),
        (["cancel", "01X", "--all"], "and no TASK"),
        (["retry", "01X"], "no task '01X'"),
        (["ls", "--state", "asleep"], "'asleep' is not one of"),
        (["ls", "--sort", "mood"], "'mood' is not one of"),
        (["completion", "tcsh"], "'tcsh' is not one of"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run, words, told):
    result = run(*words)
    assert result.exit_code == Exit.USAGE
    assert result.stdout == ""
    assert result.stderr.startswith("meowcat: ")
    assert result.stderr.count("\n") == 1
    assert told in result.stderr


def test_bad_input_leaves_no_journal_behind(run, tmp_path):
    run("get", "http://h/x", "--piece-size", "big")
    run("get", "http://h/x", "-o", "missing/")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [["ls"], ["ls", "--watch"], ["log"], ["resume"], ["pause", "--all"]])
def test_a_journal_that_is_not_there_is_exit_code_3_and_is_not_made(run, tmp_path, command):
    result = run(*command, "--journal", "none.db")
    assert result.exit_code == Exit.JOURNAL
    assert "none.db" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_file_is_no_journal_and_stays_as_it_is(run, tmp_path):
    (tmp_path / "notes.db").write_text("dear diary")
    for words in (["ls"], ["resume"], ["get", "http://127.0.0.1:9/x"]):
        result = run(*words, "--journal", "notes.db")
        assert result.exit_code == Exit.JOURNAL, result.output
        assert result.stderr.startswith("meowcat: ")
    assert (tmp_path / "notes.db").read_text() == "dear diary"


def test_an_unknown_kind_of_journal_is_named(run):
    result = run("ls", "--journal", "carrier-pigeon:coop")
    assert result.exit_code == Exit.JOURNAL
    assert "carrier-pigeon" in result.stderr


def test_errors_are_objects_with_json(run):
    for words, code, name in [
        (["get", "ftp://h/x"], Exit.USAGE, "ARGUMENT"),
        (["get", "--no-such-option"], Exit.USAGE, "ARGUMENT"),
        (["ls", "--journal", "none.db"], Exit.JOURNAL, "JOURNAL"),
    ]:
        result = run(*words, "--json")
        assert result.exit_code == code
        assert result.stderr == ""
        error = json.loads(result.stdout)
        assert (error["type"], error["name"]) == ("error", name)
        assert error["message"]


def test_what_holds_up_the_journal_is_told_once_and_the_rest_of_the_log_is_not(run, monkeypatch):
    @main.command("full")
    def full():
        log = logging.getLogger("meowcat.journal")
        for seconds in (0.1, 0.2, 0.4):
            log.warning("the journal takes no records now (%s); trying again in %.1f s", "/x: full", seconds)
        log.info("not this")
        logging.getLogger("meowcat.engine").error("nor this")

    try:
        done = run("full")
    finally:
        main.commands.pop("full")
    assert done.stderr == "meowcat: the journal takes no records now (/x: full); trying again in 0.1 s\n"
    assert done.exit_code == 0


def test_secrets_are_not_in_messages(run):
    for words in (
        ["get", "ftp://user:hunter2@host/x?sig=hunter2"],
        ["get", "http://h/x", "--header", "hunter2"],
        ["get", "http://h/x", "--header", "A\x01: hunter2"],
        ["ls", "https://user:hunter2@host/x"],
        ["resume", "--url", "https://user:hunter2@host:port/x"],
    ):
        result = run(*words)
        assert result.exit_code == Exit.USAGE
        assert "hunter2" not in result.output


def test_a_task_that_is_not_there_is_told_with_where_was_looked(run, tmp_path):
    (tmp_path / "state").mkdir()
    assert "the 0 journals of the state folder" in run("show", "01X").stderr
    assert "--journal names another" in run("show", "01X").stderr
    for name in ("state/a.db", "my t.db"):
        journal = locate(name)
        journal.open(Owner(1, "host"), "power")
        journal.close()
    assert "the 1 journal of the state folder" in run("show", "01X").stderr
    assert "'meowcat ls --all --journal 'my t.db''" in run("show", "01X", "--journal", "my t.db").stderr


def test_a_state_folder_that_can_not_be_read_is_bad_input(run, tmp_path):
    (tmp_path / "state").write_text("a file in its place")
    result = run("ls")
    assert result.exit_code == Exit.USAGE
    assert "name a journal with --journal" in result.stderr


def test_an_empty_state_folder_is_no_error(run):
    assert run("ls").output == ""
    assert json.loads(run("ls", "--json").output) == []
    assert run("log").output == ""
    result = run("resume")
    assert (result.exit_code, result.stderr) == (0, "nothing is unfinished\n")
    result = run("pause", "--all")
    assert result.exit_code == 0
    assert result.stderr.startswith("nothing to pause: there is no task")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (JournalOwned("x"), Exit.JOURNAL),
        (OwnerLost("x"), Exit.JOURNAL),
        (UnknownJournal("x"), Exit.JOURNAL),
        (TaskQuarantined("x"), Exit.JOURNAL),
        (DuplicateTask("x"), Exit.USAGE),
        (TaskNotFound("x"), Exit.USAGE),
        (TransferFailed("x"), Exit.FAILED),
        (TransferCanceled("x"), Exit.UNFINISHED),
        (MeowcatError("x"), Exit.FAILED),
    ],
)
def test_each_error_has_its_exit_code(error, code):
    assert exit_of(error) == code


def test_of_several_transfers_a_failure_is_told_first():
    assert exit_of_all([]) == Exit.COMPLETE
    assert exit_of_all([Exit.COMPLETE, Exit.UNFINISHED]) == Exit.UNFINISHED
    assert exit_of_all([Exit.UNFINISHED, Exit.FAILED, Exit.COMPLETE]) == Exit.FAILED


def test_a_task_that_rests_says_why():
    fault = Fault(kind=FaultKind.STATUS, detail="404 Not Found", status=404)
    failed = info_of(state=State.FAILED, fault=fault)
    assert closing_text(failed) == "meowcat: a.bin failed: 404 Not Found"
    assert exit_of_task(failed) == Exit.FAILED
    paused = info_of(state=State.PAUSED, reason="three crashes in a row")
    assert closing_text(paused) == "meowcat: a.bin paused: three crashes in a row"
    waits = info_of(state=State.QUEUED, waiting_for=WaitingFor.SUPPLY, needs=("header:cookie",))
    assert closing_text(waits) == "meowcat: a.bin waits: supply: header:cookie"
    assert exit_of_task(waits) == Exit.UNFINISHED


def test_the_pace_is_a_rate_or_the_reason_for_none():
    def moment(**fields):
        plain = {"state": State.RUNNING, "bytes_done": 250, "size": 1000, "rate": 0.0, "eta": None}
        return Progress(**{**plain, "waiting_for": None, **fields})

    assert pace_text(info_of(), moment(rate=1024.0, eta=61.0)) == "1.0 KiB/s  1m01s left"
    assert pace_text(info_of(), moment()) == "..."
    assert pace_text(info_of(state=State.PREPARING), moment()) == "preparing"
    assert pace_text(info_of(bytes_done=1000, phase=Phase.VERIFYING), moment()) == "verifying"
    assert pace_text(info_of(waiting_for=WaitingFor.HOST), moment()) == "waits: host"


def test_a_tasks_json_has_the_documented_names():
    fault = Fault(kind=FaultKind.STATUS, detail="no", status=404)
    found = task_object(info_of(fault=fault), "t.db")
    assert set(found) == {
        "task", "journal", "state", "phase", "direction", "url", "path", "size", "bytes_done", "fraction",
        "priority", "created", "attempts", "crashes", "waiting_for", "needs", "reason", "fault", "digests",
        "compared", "remote",
    }  # fmt: skip
    assert found["created"] == "2023-11-14T22:13:20.123Z"
    assert found["fraction"] == 0.25
    assert found["fault"] == {"code": 109, "kind": "status", "status": 404, "detail": "no"}


def test_what_a_list_adds_has_the_documented_names():
    owner = Owner(4711, "elsewhere", "app.py")
    seen = Seen("t.db", info_of(), rate=1023.7, eta=0.732, waits_until=1_700_000_000_123, owner=owner)
    added = {
        name: value for name, value in live_object(seen).items() if name not in task_object(seen.info, "")
    }
    assert added == {
        "rate": 1024,
        "eta": 0.7,
        "waits_until": "2023-11-14T22:13:20.123Z",
        "owner": {"pid": 4711, "host": "elsewhere", "command": "app.py"},
        "refusal": None,
    }


PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "command-line.md").read_text("utf-8")


def documented(heading):
    """The names in the first column of the table that follows `heading`."""
    table = PAGE[PAGE.index(heading) :].split("\n\n", 2)[1]
    return {name for line in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", line.split("|")[1])}


def test_the_page_lists_every_field_of_json_objects_and_no_others():
    info = info_of()
    assert documented("A task's fields:") == set(task_object(info, "t.db"))
    added = set(live_object(Seen("t.db", info))) - set(task_object(info, "t.db"))
    assert documented("`ls` and `show` add:") == added
    outcome = Outcome(task=info.id, state=State.PAUSED)
    orphan = Orphan(task=info.id, url="https://host/x", session="s", ours=True, kept=False, detail="")
    assert documented("An orphan has:") == set(orphan_object(Left("t.db", orphan)))
    assert documented("An `outcome` has:") == set(
        outcome_object(Trigger.PAUSE, "t.db", outcome, "/x", "owner")
    ) - {"type"}


def test_the_page_names_every_command():
    assert {f"meowcat {name}" for name in main.commands} <= set(re.findall(r"meowcat \w+", PAGE))


def every_command(group=main, *before):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from every_command(command, *before, name)
        else:
            yield " ".join((*before, name)), command


COMMANDS = dict(every_command())
NAMED = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", PAGE))
"""Every option that the page speaks of."""


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_names_every_option_of_every_command(name):
    options = (option for option in COMMANDS[name].params if isinstance(option, click.Option))
    assert [option.name for option in options if not set(option.opts) & NAMED] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_shows_each_in_whole(run, name):
    *groups, last = name.split()
    line = next(line for line in run(*groups, "--help").output.splitlines() if line.split()[:1] == [last])
    assert not line.endswith("..."), "click has cut it: it needs a short_help of at most a line"


def seen(name="a.bin", **fields):
    return Seen("t.db", info_of(path=f"/data/{name}", **fields), rate=3_000_000.0, eta=75.0)


@pytest.mark.parametrize("width", [20, 40, 64, 80, 100, 140, 300])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_a_table_fits_any_terminal(width, encoding):
    output = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace")
    console = Console(file=output, width=width, force_terminal=True, legacy_windows=False)
    console.print(table_of([seen(), seen("ein sehr langer Name " * 9 + "ü€猫.bin")], width))
    output.flush()
    lines = re.sub(r"\x1b\[[0-9;]*m", "", output.buffer.getvalue().decode(encoding)).splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= width
    if width >= 30:
        assert "01ARZ3NDEKTSV4RRFFQ69G5FAV"[-8:] in lines[1]
    if width >= 64:
        assert "2.9 MiB/s" in lines[1]
    if width >= 80:
        assert "1m15s" in lines[1]


def test_a_table_has_no_colours_where_none_are_wanted(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    output = io.StringIO()
    Console(file=output, width=120, force_terminal=True).print(table_of([seen()], 120))
    assert not re.findall(r"\x1b\[[0-9;]*3\d", output.getvalue())


def test_a_list_can_be_narrowed_and_sorted():
    tasks = [
        seen("b", size=10, bytes_done=9),
        seen("a", size=1000, bytes_done=100, state=State.PAUSED),
        seen("c", state=State.COMPLETE),
    ]

    def shown(**changes):
        plain = {"states": (), "direction": None, "everything": False, "sort": "path", "reverse": False}
        wanted = Filter(**plain | changes)
        return [Path(each.info.path).name for each in wanted.ordered(filter(wanted.fits, tasks))]

    assert shown() == ["a", "b"]
    assert shown(everything=True) == ["a", "b", "c"]
    assert shown(states=(State.COMPLETE,)) == ["c"]
    assert shown(direction="upload") == []
    assert shown(sort="size") == ["b", "a"]
    assert shown(sort="done", reverse=True) == ["b", "a"]


def test_who_waits_says_until_when():
    waiting = Seen("t.db", info_of(waiting_for=WaitingFor.SERVER), waits_until=1_700_000_000_123)
    assert re.fullmatch(r"server until \d\d:13:20", waits_text(waiting))
    assert waits_text(Seen("t.db", info_of(waiting_for=WaitingFor.HOST))) == "host"
    fault = Fault(kind=FaultKind.UNREACHABLE, detail="no connection to http://host")
    why = Seen("t.db", info_of(waiting_for=WaitingFor.RETRY, fault=fault), waits_until=1_700_000_000_123)
    assert re.fullmatch(r"retry until \d\d:13:20: no connection to http://host", waits_text(why))


def test_an_owner_elsewhere_is_named_with_its_host():
    seen = Seen("t.db", info_of())
    assert owner_text(seen) == "nobody"
    assert owner_text(replace(seen, silent=True)) == "no answer"
    assert owner_text(replace(seen, owner=Owner(12, "elsewhere"))) == "pid 12 on elsewhere"
    assert owner_text(replace(seen, owner=Owner(12, socket.gethostname()))) == "pid 12"


def test_control_characters_never_reach_a_terminal():
    assert printable("a\x1b[2Jb\x07\nc é") == "a?[2Jb??c é".replace("?", "\N{REPLACEMENT CHARACTER}")


def test_being_stopped_names_the_signal_and_the_way_to_go_on():
    assert stopped_lines(2, ["meowcat resume"])[-1] == "  meowcat resume"
    assert stopped_lines(2, []) == ["meowcat: interrupted"]
    assert stopped_lines(15, []) == ["meowcat: terminated"]
    assert stopped_lines(1, []) == ["meowcat: the terminal was closed"]


def test_names_that_are_no_utf8_are_told_as_bad_input_and_never_as_a_defect(run):
    for words in (("-o", "bad\udcff"), ("http://127.0.0.1:9/\udcff",)):
        found = run("get", "http://127.0.0.1:9/x", *words, "--paused", "--json")
        assert found.exit_code == Exit.USAGE
        assert "no UTF-8" in json.loads(found.stdout)["message"]
    found = run("ls", "--journal", "bad\udcff.db", "--json")
    assert found.exit_code == Exit.JOURNAL
    assert "bad?.db: there is no journal" in json.loads(found.stdout)["message"]
