"""The demo does the main job, and fails loudly where it is not done."""

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from meowcat.cli import demo as demo_module
from meowcat.cli import main
from meowcat.cli.demo import DemoFailed, Stage
from meowcat.testing.content import Content
from meowcat.testing.range_server import RangeServer

MIB = 1 << 20


def test_the_demo_kills_resumes_and_verifies(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "meowcat", "demo", "--size", "24MiB", "--connections", "4"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Killed process" in done.stdout
    assert "the same on both sides" in done.stdout
    assert "recovered" in done.stdout
    assert "completed" in done.stdout
    assert "twice" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def stage(tmp_path):
    content = Content(MIB, seed=1)
    with RangeServer(content) as server:
        yield Stage(server, content, tmp_path, 4)


def test_other_bytes_are_not_taken_for_right(stage):
    stage.target.write_bytes(stage.content.bytes()[:-1] + b"?")
    with pytest.raises(DemoFailed, match="the server has"):
        demo_module._verify(stage)


def test_a_download_that_fails_ends_the_demo_with_1(stage, monkeypatch):
    monkeypatch.setattr(demo_module, "_wait_until_sent", lambda *_: False)
    monkeypatch.setattr(demo_module, "SECONDS", 1.0)
    done = CliRunner().invoke(main, ["demo", "--size", "8MiB"])
    assert done.exit_code == 1
    assert "before it could be killed" in done.stderr
