"""Forked children refuse at once, and their parents do not notice: real forks, in every way there is."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from meowcat.testing.content import Content
from meowcat.testing.range_server import RangeServer

pytestmark = pytest.mark.timeout(240)

MIB = 1 << 20
PROGRAM = Path(__file__).with_name("fork_program.py")

UNDISTURBED = ["whole True 8388608", "failures 0", "still {}"]
"""What a parent says in the end: its file, the connections that it needed for it, and its engine's states."""
REFUSED = "child EngineForked 143"


def run(*arguments, code=0):
    """What a program said, whoever of its processes it was; nobody complained."""
    done = subprocess.run(
        [sys.executable, "-W", "error", PROGRAM, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.stderr == ""
    assert done.returncode == code
    return Counter(done.stdout.splitlines())


@pytest.mark.parametrize("journal", ["memory:", "sqlite", "jsonl"])
@pytest.mark.parametrize("end", ["_exit", "exit"])
def test_a_child_is_refused_everything_and_leaves_without_a_trace(tmp_path, journal, end):
    said = run("os_fork", journal, tmp_path, end)
    assert said == Counter([REFUSED, "child left with 0", *UNDISTURBED])


def test_a_child_may_end_by_the_refusal_through_the_engines_block(tmp_path):
    said = run("os_fork_raises", "sqlite", tmp_path)
    assert said == Counter(["child raised EngineForked", "child left with 1", *UNDISTURBED])


@pytest.mark.parametrize("journal", ["memory:", "sqlite", "jsonl"])
def test_a_fork_inside_a_coroutine_is_refused_the_async_engine(tmp_path, journal):
    said = run("in_a_coroutine", journal, tmp_path)
    assert said == Counter([REFUSED, "child left with 0", *UNDISTURBED])


@pytest.mark.parametrize("journal", ["sqlite", "jsonl"])
def test_locks_that_other_threads_held_at_the_fork_hold_up_no_child(tmp_path, journal):
    said = run("while_busy", journal, tmp_path)
    assert said == Counter([*[REFUSED, "child left with 0"] * 20, *UNDISTURBED])


@pytest.mark.parametrize("journal", ["sqlite", "jsonl"])
def test_a_child_works_with_an_engine_of_its_own_on_another_journal(tmp_path, journal):
    said = run("another_engine", journal, tmp_path)
    assert said["child 8388608"] == 1
    assert said["owned JournalOwned 131"] == 1
    assert said["child left with 0"] == 1
    assert said["whole True 8388608"] == 1


@pytest.mark.parametrize("journal", ["memory:", "sqlite", "jsonl"])
def test_an_engine_that_was_not_open_at_the_fork_is_everybodys(tmp_path, journal):
    said = run("made_before", journal, tmp_path)
    assert said == Counter(["child {}", "child left with 0", "parent {}"])


@pytest.mark.parametrize("journal", ["sqlite", "jsonl"])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(tmp_path, method, journal):
    said = run("process", journal, tmp_path, method)
    assert said[REFUSED] == 1
    assert said["child 8388608"] == 1
    assert said["child left with 0"] == (2 if method == "fork" else 1)
    assert said["whole True 8388608"] == 1


@pytest.mark.parametrize("journal", ["sqlite", "jsonl"])
def test_a_killed_parent_leaves_its_locks_to_nobody_although_a_child_lives(tmp_path, journal):
    with RangeServer(Content(8 * MIB), rate=4 * MIB) as server:
        said = run("parent_dies", journal, tmp_path, server.url, code=-9)
        assert said == Counter(["taken over 8388608"])


def test_what_is_left_to_the_parent_is_never_freed_in_a_child():
    program = """
import gc, os, sys
from meowcat.runtime.forks import leave_to_parent

class Inherited:
    def __del__(self):
        print("freed by", "child" if os.getpid() != parent else "parent", flush=True)

parent, inherited = os.getpid(), Inherited()
leave_to_parent(inherited)
if os.fork() == 0:
    del inherited
    gc.collect()
    sys.exit()
os.wait()
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "freed by parent\n"
