"""The real command line, in real processes, against a real server: get, kill, go on, look, stop."""

import fcntl
import gzip
import hashlib
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from contextlib import contextmanager
from pathlib import Path

import pytest

from meowcat.testing.content import Content
from meowcat.testing.range_server import RangeServer
from meowcat.testing.servers import Trouble

MIB = 1 << 20
SECRET = "hunter2-is-secret"


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """Runs `meowcat` in `tmp_path` with a state folder of its own; `start` leaves it running."""
    return Shell(tmp_path)


class Shell:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "MEOWCAT_STATE_DIR": str(folder / "state"), "NO_PROXY": "*"}

    @contextmanager
    def start(self, *words, by=(), **more):
        """A running `meowcat`, which does not outlive the block; begun `by` another program."""
        with subprocess.Popen(
            [*by, sys.executable, "-m", "meowcat", *map(str, words)],
            cwd=self.folder,
            env=self.environment,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **more},
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def run(self, *words, given=None) -> subprocess.CompletedProcess:
        with self.start(*words, stdin=subprocess.PIPE) as process:
            out, err = process.communicate(given, timeout=240)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def redirected(self, how, *words) -> subprocess.CompletedProcess:
        """`run`, with redirections of the shell's."""
        return subprocess.run(
            ["sh", "-c", f'exec "$@" {how}', "sh", sys.executable, "-m", "meowcat", *map(str, words)],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def tasks(self, *words) -> list[dict]:
        return json.loads(self.run("ls", "--all", "--json", *words).stdout)


def wait_until_served(server, count):
    assert server.wait_for(lambda it: it.bytes_served() >= count, 30)


def wait_until_stored(process, count):
    """Reads what `get --json` prints, a line a second."""
    for line in process.stdout:
        told = json.loads(line)
        if told.get("bytes_done", 0) >= count:
            return
        assert told["type"] != "result", told
    raise AssertionError(process.stderr.read())


def same(path: Path, content: Content) -> bool:
    return hashlib.sha256(path.read_bytes()).hexdigest() == content.sha256


@pytest.fixture
def content():
    return Content(3 * MIB + 17, seed=5)


@pytest.fixture
def server(content):
    with RangeServer(content) as running:
        yield running


@pytest.fixture
def slow_content():
    return Content(16 * MIB, seed=6)


@pytest.fixture
def slow(slow_content):
    """Some four seconds for all of it."""
    with RangeServer(slow_content, rate=4 * MIB) as running:
        yield running


def test_a_get_makes_the_file_and_names_it(shell, server, content):
    done = shell.run("get", server.url, "-o", "x.bin", "--checksum", f"sha256:{content.sha256}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{shell.folder}/x.bin  3.0 MiB, sha256 verified\n"
    assert same(shell.folder / "x.bin", content)
    assert sorted(path.name for path in shell.folder.iterdir()) == ["state", "x.bin"]


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_streams_may_be_closed(shell, server, content, closed):
    path = shell.folder / "a.bin"
    assert shell.redirected(closed, "get", server.url, "-o", path).returncode == 0
    assert same(path, content)
    listing = shell.redirected(closed, "ls", "--all")
    assert listing.returncode == 0
    assert "defect" not in listing.stderr
    assert shell.redirected(closed, "get", "nonsense").returncode == 2
    assert shell.redirected(closed, "journal", "check", shell.tasks()[0]["journal"]).returncode == 0


def test_an_export_needs_standard_output(shell, server):
    shell.run("get", server.url, "-o", "a.bin", "--journal", "t.db")
    refused = shell.redirected(">&-", "journal", "export", "t.db")
    assert (refused.returncode, refused.stderr) == (
        74,
        "meowcat: standard output is closed: nothing was written\n",
    )
    assert shell.redirected("> /dev/null", "journal", "export", "t.db").returncode == 0


def test_without_an_output_the_urls_name_is_taken(shell, server, content):
    assert shell.run("get", server.url).returncode == 0
    assert same(shell.folder / "file.bin", content)


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ("attachment; filename=report.pdf", "report.pdf"),
        ('attachment; filename="../../etc/passwd"', "passwd"),
        ("attachment; filename*=UTF-8''..%2F%2Fsn%C3%B6.bin", "snö.bin"),
        ('attachment; filename=".."', "file.bin"),
    ],
)
def test_a_server_names_the_file_but_never_its_folder(shell, content, disposition, name):
    named = Trouble(headers=(("content-disposition", disposition),))
    with RangeServer(content, script=lambda seen: named) as server:
        (shell.folder / "out").mkdir()
        done = shell.run("get", server.url, "-o", "out/")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (shell.folder / "out").iterdir()] == [name]
    assert same(shell.folder / "out" / name, content)


def test_a_name_is_kept_although_the_server_has_another_idea_later(shell, slow_content):
    names = iter(["first.bin", "second.bin"])

    def script(seen):
        if seen.method != "HEAD":
            return None
        return Trouble(headers=(("content-disposition", f"attachment; filename={next(names)}"),))

    with RangeServer(slow_content, rate=4 * MIB, script=script) as server:
        with shell.start("get", server.url, "--piece-size", "256K") as process:
            wait_until_served(server, 4 * MIB)
            process.kill()
        server.rate.rate = None
        assert shell.run("get", server.url).returncode == 0
    assert same(shell.folder / "first.bin", slow_content)
    assert not (shell.folder / "second.bin").exists()


def test_a_file_with_a_digest_has_a_receipt_that_proves_it(shell, server, content):
    done = shell.run("get", server.url, "-o", "x.bin", "--journal", "t.db", "--digest", "sha256")
    assert done.returncode == 0
    assert f"sha256:{content.sha256}" in done.stdout
    vkey = json.loads(shell.run("audit", "keygen", "-o", "k", "--name", "a", "--json").stdout)["vkey"]
    (task,) = json.loads(shell.run("ls", "--all", "--journal", "t.db", "--json").stdout)
    words = ("audit", "receipt", "--journal", "t.db", "--key", "k", task["task"], "-o", "r")
    assert shell.run(*words).returncode == 0
    verify = ("audit", "verify", "--receipt", "r", "--vkey", vkey, "--file", "x.bin")
    assert shell.run(*verify).returncode == 0
    assert shell.run("get", server.url, "--digest", "crc64").returncode == 2


def test_a_coded_reply_is_taken_as_it_is_where_that_is_asked_for(shell):
    with RangeServer(Content(1000), script=lambda _: Trouble(gzip=True)) as server:
        refused = shell.run("get", server.url, "-o", "a.bin", "--journal", "t.db", "--retries", "0")
        assert refused.returncode == 1
        assert "keep" in refused.stderr
        taken = shell.run("get", server.url, "-o", "b.bin", "--journal", "t.db", "--keep-encoding")
        assert taken.returncode == 0, taken.stderr
    assert gzip.decompress((shell.folder / "b.bin").read_bytes()) == Content(1000).bytes()


def test_a_wrong_checksum_is_exit_code_1_and_leaves_no_file(shell, server):
    done = shell.run("get", server.url, "-o", "x.bin", "--checksum", "sha256:" + "0" * 64)
    assert done.returncode == 1
    assert "meowcat: x.bin failed: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not (shell.folder / "x.bin").exists()


def test_a_corrected_checksum_is_told_how_to_have_the_target(shell, server, content):
    words = ("get", server.url, "-o", "x.bin", "--checksum")
    assert shell.run(*words, f"sha256:{'0' * 64}").returncode == 1
    refused = shell.run(*words, f"sha256:{content.sha256}")
    assert refused.returncode == 2
    (task,) = shell.tasks()
    command = f"meowcat cancel {task['task']} --journal {task['journal']}"
    assert (
        f"is Failed and owns {shell.folder}/x.bin for another request: '{command}' ends it" in refused.stderr
    )
    assert shell.run(*command.split()[1:]).returncode == 0
    assert shell.run(*words, f"sha256:{content.sha256}").returncode == 0
    assert same(shell.folder / "x.bin", content)


def test_a_file_in_the_way_is_kept_unless_it_may_be_replaced(shell, server, content):
    (shell.folder / "x.bin").write_text("mine")
    refused = shell.run("get", server.url, "-o", "x.bin")
    assert refused.returncode == 1
    assert refused.stderr.endswith("exists; --overwrite replaces it\n")
    assert (shell.folder / "x.bin").read_text() == "mine"
    done = shell.run("get", server.url, "-o", "x.bin", "--overwrite")
    assert done.returncode == 0, done.stderr
    assert same(shell.folder / "x.bin", content)


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_a_pipe_in_the_way_is_told_as_one(shell, server, more):
    os.mkfifo(shell.folder / "pipe")
    refused = shell.run("get", server.url, "-o", "pipe", *more)
    assert refused.returncode == 1
    assert refused.stderr.endswith("is a device, pipe or socket, which is never replaced\n")


def test_standard_output_is_refused_before_anything_is_asked_for(shell, server):
    refused = shell.run("get", server.url, "-o", "-", "--overwrite")
    assert refused.returncode == 2
    assert "a transfer needs a file that it can go on with" in refused.stderr
    assert server.requests == []
    assert not (shell.folder / "state").exists()


def test_the_same_command_after_its_end_fetches_nothing_and_succeeds(shell, server, content):
    url = f"{server.url}?item=1&X-Amz-Signature=one"
    assert shell.run("get", url, "-o", "x.bin", "--journal", "t.db").returncode == 0
    served = len(server.requests)
    again = shell.run("get", f"{server.url}?item=1&X-Amz-Signature=two", "-o", "x.bin", "--journal", "t.db")
    assert again.returncode == 0, again.stderr
    assert again.stdout.split()[0].endswith("/x.bin")
    assert "complete already" in again.stderr
    assert len(server.requests) == served
    assert len(shell.tasks("--journal", "t.db")) == 1


@pytest.mark.parametrize("change", ["file", "url", "checksum"])
def test_what_is_complete_does_not_stand_for_something_else(shell, server, content, change):
    assert shell.run("get", f"{server.url}?item=1", "-o", "x.bin", "--journal", "t.db").returncode == 0
    if change == "file":
        (shell.folder / "x.bin").write_text("mine")
    more = ["--checksum", f"sha256:{'0' * 64}"] if change == "checksum" else []
    url = f"{server.url}?item={2 if change == 'url' else 1}"
    refused = shell.run("get", url, "-o", "x.bin", "--journal", "t.db", *more)
    assert refused.returncode == 1
    assert "exists; --overwrite replaces it" in refused.stderr


def test_what_is_complete_is_fetched_again_where_its_file_is_gone_or_may_be_replaced(shell, server, content):
    assert shell.run("get", server.url, "-o", "x.bin").returncode == 0
    (shell.folder / "x.bin").unlink()
    for more in ([], ["--overwrite"]):
        served = len(server.requests)
        assert shell.run("get", server.url, "-o", "x.bin", *more).returncode == 0
        assert same(shell.folder / "x.bin", content)
        assert len(server.requests) > served


def test_several_urls_and_a_list_go_into_a_folder(shell):
    contents = {f"/{name}": Content(200_000, seed=seed) for seed, name in enumerate("abcd")}
    with RangeServer(contents) as server:
        (shell.folder / "list").write_text(f"# c and d\n{server.origin}/c\n{server.origin}/d  named by me\n")
        (shell.folder / "out").mkdir()
        urls = [f"{server.origin}/a", f"{server.origin}/b"]
        done = shell.run("get", *urls, "--input", "list", "-o", "out/")
    assert done.returncode == 0, done.stderr
    for name, path in [("a", "a"), ("b", "b"), ("c", "c"), ("d", "named by me")]:
        assert same(shell.folder / "out" / path, contents[f"/{name}"])
    assert len(done.stdout.splitlines()) == 4


def test_a_list_on_standard_input(shell, server, content):
    assert shell.run("get", "--input", "-", given=f"{server.url}\n").returncode == 0
    assert same(shell.folder / "file.bin", content)


def test_two_urls_with_one_name_are_refused_before_anything_is_fetched(shell, server):
    done = shell.run("get", server.url, f"{server.origin}/sub/file.bin")
    assert done.returncode == 2
    assert "more than one URL goes there" in done.stderr
    assert server.bytes_served() == 0


def test_one_failure_of_several_is_exit_code_1_and_the_others_arrive(shell, content):
    with RangeServer({"/there": content}) as server:
        done = shell.run("get", f"{server.origin}/there", f"{server.origin}/gone")
    assert done.returncode == 1
    assert "gone failed" in done.stderr
    assert same(shell.folder / "there", content)


def test_json_lines_end_with_a_result(shell, server, content):
    done = shell.run("get", server.url, "-o", "x.bin", "--json")
    assert done.returncode == 0
    assert done.stderr == ""
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[0]["type"] == "task"
    assert {line["type"] for line in lines[1:-1]} <= {"progress"}
    assert (lines[-1]["type"], lines[-1]["state"]) == ("result", "Complete")
    assert lines[-1]["bytes_done"] == lines[-1]["size"] == content.size


@pytest.mark.parametrize("output", [["-o", "big.bin"], []])
def test_the_same_get_goes_on_after_kill_9(shell, slow, slow_content, output):
    words = ["get", slow.url, *output, "--piece-size", "256K", "--connections", "4"]
    with shell.start(*words, "--json") as process:
        wait_until_served(slow, 6 * MIB)
        slow.rate.rate = MIB // 2  # what was sent is stored before much more is
        wait_until_stored(process, 4 * MIB)
        process.kill()
    before = shell.tasks()
    assert [task["state"] for task in before] == ["Running"]
    assert 4 * MIB <= before[0]["bytes_done"] < slow_content.size
    slow.rate.rate = None
    done = shell.run(*words)
    assert done.returncode == 0, done.stderr
    assert "goes on at" in done.stderr
    assert same(shell.folder / (output[1] if output else "file.bin"), slow_content)
    after = shell.tasks()
    assert [(task["task"], task["state"]) for task in after] == [(before[0]["task"], "Complete")]
    assert slow.bytes_sent_twice() < 6 * MIB


def test_resume_takes_up_what_was_killed(shell, slow, slow_content):
    with shell.start("get", slow.url, "-o", "big.bin", "--piece-size", "256K") as process:
        wait_until_served(slow, 6 * MIB)
        process.kill()
    slow.rate.rate = None
    done = shell.run("resume")
    assert done.returncode == 0, done.stderr
    assert same(shell.folder / "big.bin", slow_content)
    assert shell.run("resume").stderr == "nothing is unfinished\n"
    log = [json.loads(line) for line in shell.run("log", "--json").stdout.splitlines()]
    assert [event["seq"] for event in log] == list(range(1, len(log) + 1))
    assert (log[0]["type"], log[-1]["type"]) == ("created", "completed")
    assert "recovered" in [event["type"] for event in log]


def test_a_journal_is_read_while_it_is_owned_and_owned_by_one(shell, slow):
    with shell.start("get", slow.url, "-o", "big.bin", "--journal", "t.db") as process:
        wait_until_served(slow, 2 * MIB)
        slow.rate.rate = 64 << 10  # it must not end before it was looked at
        (task,) = shell.tasks("--journal", "t.db")
        assert task["state"] == "Running"
        assert task["size"] == 16 * MIB
        shown = shell.run("show", task["task"][-6:], "--journal", "t.db")
        assert f"{shell.folder}/big.bin" in shown.stdout
        assert "started" in shell.run("log", "--journal", "t.db").stdout
        second = shell.run("get", slow.url, "-o", "other.bin", "--journal", "t.db")
        assert second.returncode == 3
        assert f"process {process.pid}" in second.stderr
        assert "'meowcat ls --watch --journal t.db' shows its tasks" in second.stderr


def test_a_name_with_a_line_break_makes_no_line_of_its_own(shell, server, content):
    name = "a\nmeowcat: b failed: not true"
    assert shell.run("get", server.url, "-o", name).returncode == 0
    assert (shell.folder / name).read_bytes() == content.bytes()
    server.stop()
    told = {
        "again": shell.run("get", server.url, "-o", name),
        "failed": shell.run("get", server.url, "-o", f"{name}!", "--retries", "0"),
        "ls": shell.run("ls", "--all"),
        "show": shell.run("show", shell.tasks()[0]["task"]),
        "log": shell.run("log"),
    }
    for what, done in told.items():
        assert name.split("\n")[1] in done.stdout + done.stderr, what
        assert not any(line.startswith("meowcat: b") for line in (done.stdout + done.stderr).splitlines())


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_leaves_the_task_and_says_how_to_go_on(shell, slow, slow_content, number, code):
    with shell.start(
        "get", slow.url, "-o", "big.bin", "--journal", "t.db", "--piece-size", "256K"
    ) as process:
        wait_until_served(slow, 4 * MIB)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in err
    command = err.splitlines()[-1].split()
    assert command == ["meowcat", "resume", "--journal", "t.db"]
    assert shell.tasks("--journal", "t.db")[0]["state"] == "Queued"
    slow.rate.rate = None
    assert shell.run(*command[1:]).returncode == 0
    assert same(shell.folder / "big.bin", slow_content)


def test_a_paused_get_touches_no_network_until_it_is_resumed(shell, server, content):
    done = shell.run("get", server.url, "-o", "x.bin", "--paused")
    assert done.returncode == 0
    assert server.requests == []
    (task,) = shell.tasks()
    assert task["state"] == "Paused"
    assert "1 Paused" in shell.run("resume").stderr
    assert shell.run("resume", task["task"][-5:]).returncode == 0
    assert same(shell.folder / "x.bin", content)


def test_a_failed_task_is_tried_again_when_it_is_named(shell, content):
    with RangeServer({}) as server:
        assert shell.run("get", f"{server.origin}/late", "-o", "late").returncode == 1
        server.replace(content)
        assert "1 Failed" in shell.run("resume").stderr
        assert shell.run("resume", "--all").returncode == 0
    assert same(shell.folder / "late", content)


def test_secrets_are_in_no_output_and_in_no_file(shell, slow, slow_content):
    url = slow.url.replace("http://", f"http://user:{SECRET}@") + f"?X-Amz-Signature={SECRET}"
    words = ["get", url, "-o", "big.bin", "-H", f"Authorization: Bearer {SECRET}", "-H", f"X-Token: {SECRET}"]
    with shell.start(*words, "--piece-size", "256K") as process:
        wait_until_served(slow, 2 * MIB)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "--url URL --header 'authorization: VALUE'" in err
    task = shell.tasks()[0]["task"]
    waits = shell.run("resume")
    assert waits.returncode == 4, waits.stderr
    assert "header:authorization" in waits.stderr
    texts = [out, err, waits.stdout, waits.stderr]
    for words in (["ls"], ["show", task], ["log"], ["log", "--json"], ["ls", "--json"]):
        looked = shell.run(*words)
        texts += [looked.stdout, looked.stderr]
    slow.rate.rate = None
    supplied = ["--url", url, "-H", f"Authorization: Bearer {SECRET}", "-H", f"X-Token: {SECRET}"]
    done = shell.run("resume", task, *supplied)
    assert done.returncode == 0, done.stderr
    texts += [done.stdout, done.stderr]
    assert not [text for text in texts if SECRET in text]
    files = [path for path in shell.folder.rglob("*") if path.is_file() and path.name != "big.bin"]
    assert files
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    assert same(shell.folder / "big.bin", slow_content)


def test_a_header_goes_to_one_host_at_most(shell, content):
    with RangeServer({"/x": content}) as one, RangeServer({"/x": content}) as other:
        for number, server in enumerate((one, other)):
            shell.run("get", f"{server.origin}/x", "-o", f"x{number}", "--paused", "-H", "Cookie: a=b")
        refused = shell.run("resume", "--all", "-H", "Cookie: a=b")
    assert refused.returncode == 2
    assert "would go to 2 hosts" in refused.stderr
    assert one.requests == other.requests == []


def test_a_bar_on_a_terminal_shows_name_share_and_rate(shell, slow):
    main_end, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    shell.environment |= {"TERM": "xterm-256color"}
    with (
        os.fdopen(main_end, "rb", buffering=0) as screen,
        os.fdopen(terminal, "wb") as stderr,
        shell.start("get", slow.url, "-o", "big.bin", "--piece-size", "256K", stderr=stderr) as process,
    ):
        stderr.close()
        seen = b""
        while b"MiB/s" not in seen:
            seen += screen.read(4096)
        process.kill()
    text = seen.decode(errors="replace")
    assert "big.bin" in text
    assert "/ 16.0 MiB" in text
    assert "%" in text


IN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_a_closed_terminal_stops_it_in_good_order(shell, slow):
    main_end, terminal = pty.openpty()
    shell.environment |= {"TERM": "xterm-256color"}
    with (
        os.fdopen(main_end, "rb", buffering=0) as screen,
        os.fdopen(terminal, "r+b", buffering=0) as terminal,
        shell.start(
            *("get", slow.url, "-o", "big.bin", "--journal", "t.db"),
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
            by=(sys.executable, "-c", IN_TERMINAL),
        ) as process,
    ):
        terminal.close()
        seen = b""
        while b"MiB/s" not in seen:
            seen += screen.read(4096)
        screen.close()
        assert process.wait(30) == 129
    assert shell.tasks("--journal", "t.db")[0]["state"] == "Queued"


def test_behind_nohup_a_closed_terminal_stops_nothing(shell, slow, slow_content):
    nohup = ("sh", "-c", 'trap "" HUP; exec "$@"', "sh")
    with shell.start("get", slow.url, "-o", "big.bin", by=nohup) as process:
        wait_until_served(slow, 2 * MIB)
        process.send_signal(signal.SIGHUP)
        slow.rate.rate = None
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert same(shell.folder / "big.bin", slow_content)
