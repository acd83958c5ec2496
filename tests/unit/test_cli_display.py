"""What `get` shows: on terminals of any width, and as lines where nobody can move a cursor."""

import io

import pytest
from msgspec.structs import replace
from rich.console import Console

from meowcat.cli import display as shown
from meowcat.cli.bars import OnTerminal
from meowcat.core.info import TaskInfo
from meowcat.core.machine import State
from meowcat.core.state import Phase
from meowcat.core.values import Fault, FaultKind, TaskId
from meowcat.core.waits import WaitingFor
from meowcat.task import Progress

LONG = "a-name-that-is-much-longer-than-any-column-can-be.bin"


def info(state=State.RUNNING, waiting_for=None, fault=None, path="/x/w.bin"):
    return TaskInfo(
        id=TaskId("01M8A2MAV7V201QQT12FKGCNM0"),
        key="k",
        state=state,
        phase=Phase.MOVING,
        direction="download",
        url="https://host/w.bin",
        path=path,
        priority=0,
        created=0,
        size=20_000_000,
        bytes_done=5_000_000,
        attempts=0,
        crashes=0,
        waiting_for=waiting_for,
        needs=(),
        reason="",
        fault=fault,
        digests=(),
        client_file_sign=None,
    )


def moment(of):
    return Progress(
        state=of.state,
        bytes_done=of.bytes_done,
        size=of.size,
        rate=1.9e6,
        eta=12.0,
        waiting_for=of.waiting_for,
    )


def screen(width, *tasks):
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    display = OnTerminal(console)
    for each in tasks:
        display.advance(each, moment(each))
    console.print(display._bars.get_renderable())
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 60, 79, 80, 99, 100, 120])
@pytest.mark.parametrize("path", ["/x/w.bin", f"/x/{LONG}"])
def test_share_rate_and_time_left_are_whole_on_a_terminal_of_any_width(width, path):
    (line,) = screen(width, info(path=path))
    assert len(line) <= width
    for text in ("25.0%", "1.8 MiB/s  12s left", *(["4.8 MiB / 19.1 MiB"] if width >= 80 else [])):
        assert text in line


def test_bars_that_stand_still_say_that_the_journal_takes_no_records():
    console = Console(file=io.StringIO(), force_terminal=True, width=140, color_system=None)
    display = OnTerminal(console)
    for of in (info(), info(State.QUEUED)):
        display.advance(of, replace(moment(of), refusal="no space left"))
    console.print(display._bars.get_renderable())
    assert "waits: the journal takes no records: no space left" in console.file.getvalue()


def test_lines_tell_at_once_when_the_journal_takes_no_records_and_when_it_does_again(capsys):
    display, of = shown.PlainLines(), info()
    display.begin(of, "t.db")
    for refusal in ("", "no space left", "no space left", ""):
        display.advance(of, replace(moment(of), refusal=refusal))
    told = capsys.readouterr().err.splitlines()[1:]
    assert [line.rpartition("19.1 MiB  ")[2] for line in told] == [
        "waits: the journal takes no records: no space left",
        "1.8 MiB/s  12s left",
    ]


def test_what_is_waited_for_is_cut_and_keeps_to_its_line():
    fault = Fault(kind=FaultKind.UNREACHABLE, detail="no connection to http://host " * 9)
    (line,) = screen(80, info(State.QUEUED, WaitingFor.RETRY, fault))
    assert "waits: retry: no c" in line
    assert line.rstrip().endswith("…")


@pytest.mark.parametrize("make", [shown.PlainLines, shown.JsonLines])
def test_a_wait_is_told_at_once_and_progress_once_a_second(make, capsys):
    display = make()
    display.begin(info(), "t.db")
    capsys.readouterr()
    fault = Fault(kind=FaultKind.DISK_FULL, detail="the disk is full")
    waits = info(State.QUEUED, WaitingFor.DISK_SPACE, fault)
    for each in (info(), waits, waits, info()):
        display.advance(each, moment(each))
    out, err = capsys.readouterr()
    told = (out + err).splitlines()
    assert len(told) == 2, "it begins to wait, and it ceases to"
    assert "disk-space" in told[0]
    assert "disk-space" not in told[1]


def test_neither_a_name_nor_what_a_server_said_steers_the_terminal():
    fault = Fault(kind=FaultKind.UNREACHABLE, detail="no \x1b[2J connection\r")
    named = info(State.QUEUED, WaitingFor.RETRY, fault, path="/x/\x1b]0;evil\x07.bin")
    (line,) = screen(100, named)
    assert "\x1b" not in line
    assert "]0;evil" in line
