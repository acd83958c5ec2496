"""Every example runs by itself, as a program, and says what it should."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from form_harness import SCRIPT, FormServer

from meowcat.journal.contract import Owner
from meowcat.journal.lines import seal_line
from meowcat.journal.locate import locate
from meowcat.testing.journal_suite import entry
from meowcat.testing.servers import Content, RangeServer

EXAMPLES = Path(__file__).parents[2] / "examples"

SAYS = {
    "blocking.py": ["a.bin: 4,194,304 bytes, looked at several times", "4 tasks are Complete"],
    "resume_after_crash.py": ["killed with SIGKILL", "SHA-256 is right"],
    "selective_resume.py": ["a.bin: Complete", "b.bin: Paused", "c.bin: Complete"],
    "local_http.py": ["uploaded 5,242,880 bytes as ", "downloaded 8,388,608 bytes"],
    "paused_import.py": [
        "requests so far: /list.json\n",
        "to choose from: a.bin b.bin c.bin d.bin",
        "a.bin: Paused, 0 bytes",
        "b.bin: Complete, 2,097,152 bytes",
        "asked for: /b.bin /d.bin /list.json",
    ],
    "oss_direct.py": ["uploaded 25,165,824 bytes, ETag", "downloaded 25,165,824 bytes: the same"],
    "oss_custom.py": [
        "uploaded 10,485,761 bytes in parts of 1,048,576, ETag",
        "downloaded 10,485,761 bytes: the same",
    ],
    "oss_presigned.py": ["uploaded 25,165,824 bytes, ETag", "downloaded 25,165,824 bytes: the same"],
    "many_files.py": ["200 tasks are recorded", "200 files, 3,276,800 bytes"],
    "own_database.py": [
        "a.bin: Complete, 3,145,728 bytes, 0 failures",
        "no.bin: Failed, 0 bytes, 1 failures",
    ],
    "custom_journal.py": ["order 4711: created", "order 4711: completed"],
    "custom_upload_protocol.py": ["killed with SIGKILL", "the file is right"],
    "custom_download_protocol.py": [
        "the task waits for credential:archive",
        "20,971,520 bytes in",
        "the file is right",
        "the secret is in the journal: False",
    ],
    "own_client.py": ["8,388,608 bytes", "the server saw our-app/1.0"],
    "azure_direct.py": ["uploaded 25,165,824 bytes, ETag", "downloaded 25,165,824 bytes: the same"],
    "azure_custom.py": [
        "uploaded 10,485,761 bytes in blocks of 1,048,576, ETag",
        "downloaded 10,485,761 bytes: the same",
    ],
    "azure_sas.py": ["uploaded 25,165,824 bytes, ETag", "downloaded 25,165,824 bytes: the same"],
    "azure_direct_custom.py": ["uploaded 10,490,471 bytes in 3 slices", "the slices are together the file"],
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
        timeout=240,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs_and_says(name, tmp_path, require_server):
    if name.startswith("azure_"):
        require_server("azurite-blob")
    printed = run(name, cwd=tmp_path)
    for text in SAYS[name]:
        assert text in printed


def test_the_shortest_example_downloads_what_it_is_told(tmp_path):
    content = Content(1 << 20)
    with RangeServer(content) as server:
        assert "1,048,576 bytes" in run("download.py", server.url, "file.bin", cwd=tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == content.bytes()


def test_the_http_example_goes_to_other_servers_where_it_is_told_so(tmp_path, monkeypatch):
    with FormServer(tmp_path / "uploads") as uploads, RangeServer(Content(1 << 20)) as server:
        monkeypatch.setenv("EXAMPLE_UPLOAD_URL", uploads.url)
        monkeypatch.setenv("EXAMPLE_DOWNLOAD_URL", server.url)
        printed = run("local_http.py", cwd=tmp_path)
        (stored,) = (tmp_path / "uploads" / "files").iterdir()
    assert stored.stat().st_size == 5 << 20
    assert "downloaded 1,048,576 bytes" in printed


def test_every_example_is_run():
    with_arguments = {"download.py", "read_jsonl.py"}
    by_tests_of_their_own = {SCRIPT.name, "verify_receipt.py"}
    of_use_to_others = {"loopback.py"}
    there = {path.name for path in EXAMPLES.glob("*.py")}
    assert there == {*SAYS, *with_arguments, *by_tests_of_their_own, *of_use_to_others}


def journal_of_a_life(folder):
    journal = locate(f"jsonl:{folder}")
    for opening in (1, 2):
        journal.open(Owner(1, "host"), "power")
        journal.append(
            [entry(f"t{opening}", 1, b'{"a": [1, "\xc3\xa9"]}'), entry(f"t{opening}", 2, b"\x00raw")]
        )
        journal.set_cursor("sink", opening)
        journal.close()


def read_by_a_stranger(folder):
    done = subprocess.run(
        [sys.executable, "-I", "-S", EXAMPLES / "read_jsonl.py", folder],  # without installed packages
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def test_a_journal_is_read_with_the_standard_library_alone(tmp_path):
    journal_of_a_life(tmp_path / "x.jsonl")
    assert read_by_a_stranger(tmp_path / "x.jsonl") == (
        0,
        ["1 t1 1 created", "2 t1 2 created", "3 t2 1 created", "4 t2 2 created", "4 records, 0 faults"],
    )
    assert len((EXAMPLES / "read_jsonl.py").read_text().splitlines()) <= 60


def test_a_stranger_sees_damage_and_edits(tmp_path):
    journal_of_a_life(tmp_path / "x.jsonl")
    segment = tmp_path / "x.jsonl" / "00000000000000000001.jsonl"
    good = segment.read_bytes()
    segment.write_bytes(good.replace(b'"a": [1,', b'"a": [2,', 1))
    code, printed = read_by_a_stranger(tmp_path / "x.jsonl")
    assert code == 1
    assert printed[0].startswith("00000000000000000001.jsonl:4: a damaged line")
    assert printed[-1] == "3 records, 1 faults"
    line = next(line for line in good.splitlines(keepends=True) if b'"position":3' in line)
    edited = seal_line(line[:-19].replace(b'"seq":1', b'"seq":7') + b"}")
    segment.write_bytes(good.replace(line, edited))
    code, printed = read_by_a_stranger(tmp_path / "x.jsonl")
    assert "00000000000000000001.jsonl: record 3 breaks the hash chain" in printed
    assert code == 1


def test_the_tests_of_an_application_pass_where_nothing_else_is(tmp_path):
    folder = shutil.copytree(EXAMPLES / "testing", tmp_path / "application")
    shutil.copy(EXAMPLES / "custom_upload_protocol.py", tmp_path)
    (folder / "pytest.ini").write_text("[pytest]\n", "utf-8")
    command = [
        sys.executable,
        "-P",
        "-m",
        "pytest",
        "-q",
        "-p",
        "meowcat.testing.plugin",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=240, cwd=folder)
    assert done.returncode == 0, done.stdout
    assert "40 passed, 8 skipped" in done.stdout
