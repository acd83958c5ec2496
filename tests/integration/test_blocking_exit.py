"""Real processes that end without a close, or get a Ctrl-C: nothing hangs, and all is in the journal."""

import re
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

import meowcat
from meowcat.core import events as ev
from meowcat.testing.content import Content
from meowcat.testing.exchanges import Bucket
from meowcat.testing.range_server import RangeServer

pytestmark = pytest.mark.timeout(180)

MIB = 1 << 20
PROGRAM = Path(__file__).with_name("blocking_program.py")


@pytest.fixture
def server():
    with RangeServer(Content(8 * MIB), rate=2 * MIB) as server:
        yield server


@pytest.fixture
def start(tmp_path, server):
    """Starts a program of `blocking_program.py`; none outlives its test."""
    with ExitStack() as stack:

        def start(name):
            command = [sys.executable, "-W", "error", PROGRAM, name, tmp_path, server.url]
            program = stack.enter_context(
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            )
            stack.callback(program.kill)
            return program

        yield start


def ended(program):
    said, complained = program.communicate(timeout=120)
    return program.returncode, said.split(), complained


def events_of(folder, task):
    with meowcat.blocking.Engine(folder / "t.db", on_restart="pause") as engine:
        return [type(logged.event) for logged in engine.history(task)]


@pytest.mark.parametrize(
    ("name", "code"),
    [("falls_off_the_end", 0), ("raises", 1), ("exits", 3), ("exits_while_another_thread_waits", 3)],
)
def test_an_unclosed_engine_is_closed_at_the_end_of_the_interpreter(tmp_path, start, name, code):
    returned, (task,), complained = ended(start(name))
    assert returned == code
    if code != 1:
        assert complained == ""
    assert events_of(tmp_path, task)[-2:] == [ev.Requeued, ev.Recovered]


def test_functions_of_the_application_that_hang_keep_no_interpreter_from_exiting(start):
    assert ended(start("exits_while_its_functions_hang")) == (3, [], "")


def test_a_thread_that_outlives_the_main_thread_may_use_the_engine_to_the_end(tmp_path, start):
    returned, said, complained = ended(start("leaves_it_to_another_thread"))
    assert (returned, said[1:], complained) == (0, [str(8 * MIB)], "")
    assert events_of(tmp_path, said[0])[-1] is ev.Completed


def test_engines_may_come_and_go_with_their_threads(start, server):
    server.rate = Bucket(None)
    returned, said, complained = ended(start("opens_one_after_the_other"))
    assert (returned, said, complained) == (0, [str(8 * MIB)] * 5, "")


@pytest.mark.parametrize(
    ("name", "times"),
    [
        ("interrupted_result", 1),
        ("interrupted_progress", 1),
        ("interrupted_events", 1),
        ("interrupted_twice", 2),
        ("interrupted_open", 1),
    ],
)
def test_an_interrupted_call_returns_and_the_engine_can_be_used_and_closed(tmp_path, start, name, times):
    program = start(name)
    task = program.stdout.readline().strip()
    for _ in range(times):
        assert program.stdout.readline() == "waiting\n"
        program.send_signal(signal.SIGINT)
        assert program.stdout.readline() == "interrupted\n"
    returned, said, complained = ended(program)
    assert returned == 0, complained
    assert complained == ""
    assert said in ([], ["1"], ["opened", "again"])
    assert events_of(tmp_path, task)[-1] is ev.Recovered


def test_a_program_that_is_interrupted_ends_by_it_and_closes_in_good_order(tmp_path, start):
    program = start("interrupted_block")
    task = program.stdout.readline().strip()
    assert program.stdout.readline() == "waiting\n"
    program.send_signal(signal.SIGINT)
    returned, _, complained = ended(program)
    assert returned == -signal.SIGINT
    assert re.search(r"^KeyboardInterrupt$", complained, re.MULTILINE)
    assert events_of(tmp_path, task)[-2:] == [ev.Requeued, ev.Recovered]
