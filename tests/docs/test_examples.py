"""Every example runs by itself, as a program, and says what it should."""

import subprocess
import sys
from pathlib import Path

import pytest

from meowcat.testing.servers import Content, RangeServer

EXAMPLES = Path(__file__).parents[2] / "examples"

SAYS = {
    "blocking.py": ["a.bin: 4,194,304 bytes, looked at several times", "4 tasks are Complete"],
    "resume_after_crash.py": ["killed with SIGKILL", "SHA-256 is right"],
    "selective_resume.py": ["a.bin: Complete", "b.bin: Paused", "c.bin: Complete"],
    "many_files.py": ["200 tasks are recorded", "200 files, 3,276,800 bytes"],
    "own_database.py": [
        "a.bin: Complete, 3,145,728 bytes, 0 failures",
        "no.bin: Failed, 0 bytes, 1 failures",
    ],
    "own_client.py": ["8,388,608 bytes", "the server saw our-app/1.0"],
    "audited_download.py": [
        "proved: 8,388,608 bytes, sha256:",
        "for order 4711",
        "not proved: the record is not number",
        "proved: True",
    ],
}
"""What each example that brings its own server prints."""


def run(name, *arguments, cwd):
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=90,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs_and_says(name, tmp_path):
    printed = run(name, cwd=tmp_path)
    for text in SAYS[name]:
        assert text in printed


def test_the_shortest_example_downloads_what_it_is_told(tmp_path):
    content = Content(1 << 20)
    with RangeServer(content) as server:
        assert "1,048,576 bytes" in run("download.py", server.url, "file.bin", cwd=tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == content.bytes()


def test_every_example_is_run_here():
    tested_elsewhere = {"verify_receipt.py"}  # with a receipt, beside our own verifier
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*SAYS, *tested_elsewhere, "download.py"}
