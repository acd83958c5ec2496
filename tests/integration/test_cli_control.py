"""The command line on a journal that another, real process owns: asked, watched, killed in between."""

import fcntl
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from meowcat.testing.content import Content
from meowcat.testing.range_server import RangeServer
from meowcat.testing.servers import Trouble

MIB = 1 << 20
SECRET = "hunter2-is-secret"


@pytest.fixture
def content():
    return Content(8 * MIB, seed=7)


@pytest.fixture
def slow(content):
    """Some sixteen seconds for all of it."""
    with RangeServer(content, rate=MIB // 2) as running:
        yield running


@pytest.fixture
def shell(tmp_path):
    return Shell(tmp_path)


class Owner:
    """A process that owns `t.db` and downloads."""

    def __init__(self, process, tasks):
        self.process = process
        self.tasks = tasks

    @property
    def pid(self):
        return self.process.pid

    def kill(self):
        self.process.kill()
        self.process.wait()

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(30) == 0


class Shell:
    """Runs commands in a folder, on its journal `t.db`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "MEOWCAT_STATE_DIR": str(folder / "state"), "NO_PROXY": "*"}

    @contextmanager
    def process(self, command, **more):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, cwd=self.folder, env=self.environment, **(pipes | more)) as process:
            try:
                yield process
            finally:
                process.kill()

    def start(self, *words, **more):
        command = [sys.executable, "-m", "meowcat", *map(str, words), "--journal", "t.db"]
        return self.process(command, **more)

    def run(self, *words):
        with self.start(*words) as process:
            out, err = process.communicate(timeout=240)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    @contextmanager
    def owner(self, url, *targets):
        script = Path(__file__).with_name("owning.py")
        command = [sys.executable, str(script), "t.db", url, *(str(self.folder / each) for each in targets)]
        with self.process(command) as process:
            lines = iter(process.stdout.readline, "")
            tasks = []
            for line in lines:
                if line == "open\n":
                    break
                tasks.append(line.strip())
            yield Owner(process, tasks)

    def tasks(self, *words):
        return {each["task"]: each for each in json.loads(self.run("ls", "--all", "--json", *words).stdout)}

    def types(self):
        return [json.loads(line)["type"] for line in self.run("log", "--json").stdout.splitlines()]


def outcomes(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


def wait_until_served(server, count):
    assert server.wait_for(lambda it: it.bytes_served() >= count, 30)


def test_a_task_of_another_process_is_paused_listed_resumed_and_canceled(shell, slow):
    with shell.owner(slow.url, "big.bin") as owner:
        (task,) = owner.tasks
        wait_until_served(slow, MIB)
        paused = shell.run("pause", task[-6:])
        assert paused.returncode == 0, paused.stderr
        assert paused.stdout == f"paused  {task[-8:]}  {shell.folder}/big.bin\n"
        listed = shell.tasks()[task]
        assert listed["state"] == "Paused"
        assert listed["owner"]["pid"] == owner.pid
        (resumed,) = outcomes(shell.run("resume", "--no-wait", task, "--json"))
        assert (resumed["command"], resumed["state"], resumed["via"]) == ("resume", "Queued", "owner")
        (canceled,) = outcomes(shell.run("cancel", "--all", "--json"))
        assert (canceled["task"], canceled["state"], canceled["error"]) == (task, "Canceled", None)
        assert shell.tasks()[task]["state"] == "Canceled"
        owner.close()
    assert [path.name for path in shell.folder.iterdir() if path.suffix == ".part"] == []
    assert not (shell.folder / "t.db-control").exists()


def test_what_is_listed_of_a_task_at_work_has_a_rate_and_a_time_left(shell, slow):
    with shell.owner(slow.url, "big.bin") as owner:
        wait_until_served(slow, MIB)
        seen = {"rate": 0}
        while not seen["rate"]:
            seen = shell.tasks()[owner.tasks[0]]
        assert MIB / 10 < seen["rate"] < 4 * MIB
        assert seen["eta"] > 0
        shown = shell.run("show", owner.tasks[0]).stdout
        assert re.search(rf"^Owner +pid {owner.pid}$", shown, re.MULTILINE)
        assert re.search(r"^Rate +.*iB/s$", shown, re.MULTILINE)
        table = shell.run("ls").stdout
        assert f"pid {owner.pid}" in table


def test_a_failed_task_is_tried_again_by_its_owner(shell, content):
    with RangeServer({}) as server, shell.owner(server.url, "late") as owner:
        while shell.tasks()[owner.tasks[0]]["state"] != "Failed":
            continue
        server.replace(content)
        (retried,) = outcomes(shell.run("retry", "--state", "failed", "--json"))
        assert (retried["state"], retried["via"]) == ("Queued", "owner")
        followed = shell.run("resume", owner.tasks[0])
        assert followed.returncode == 0, followed.stderr
        assert f"{shell.folder}/late" in followed.stdout


@pytest.mark.parametrize("owned", [True, False])
def test_a_resume_tries_at_once_what_waits_for_a_server(shell, content, owned):
    rest = Trouble(status=503, headers=(("Retry-After", "3600"),))
    with RangeServer(content, script=[rest]) as server, shell.owner(server.url, "late") as owner:
        while shell.tasks()[owner.tasks[0]]["waiting_for"] != "server":
            continue
        if not owned:
            owner.close()
        resumed = shell.run("resume", owner.tasks[0])
    assert resumed.returncode == 0, resumed.stderr
    assert f"{shell.folder}/late" in resumed.stdout


def test_a_resume_follows_its_owner_to_the_end(shell, slow, content):
    with shell.owner(slow.url, "big.bin") as owner:
        shell.run("pause", "--all")
        with shell.start("resume", owner.tasks[0], "--json") as process:
            lines = map(json.loads, iter(process.stdout.readline, ""))
            assert next(lines)["type"] == "task"
            assert next(each for each in lines if each["type"] == "progress")["task"] == owner.tasks[0]
            slow.rate.rate = None
            last = list(lines)[-1]
            process.wait(30)
    assert process.returncode == 0
    assert (last["type"], last["state"], last["size"]) == ("result", "Complete", content.size)


def test_what_a_resume_supplies_goes_to_the_owner_and_nowhere_else(shell, content):
    with RangeServer(content) as server:
        secret = ["-H", f"Authorization: Bearer {SECRET}"]
        shell.run("get", server.url, "-o", "x.bin", "--paused", *secret)
        with shell.owner(server.url) as owner:
            (task,) = shell.tasks()
            alone = shell.run("resume", task)
            assert alone.returncode == 4
            assert "supply: header:authorization" in alone.stderr
            done = shell.run("resume", task, *secret)
            assert done.returncode == 0, done.stderr
            owner.close()
    texts = [alone.stdout, alone.stderr, done.stdout, done.stderr]
    assert not [text for text in texts if SECRET in text]
    files = [path for path in shell.folder.iterdir() if path.is_file() and path.name != "x.bin"]
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    assert (shell.folder / "x.bin").read_bytes() == content.bytes()


def test_the_limits_of_another_process_are_changed_while_bytes_move(shell, content):
    with RangeServer(content) as server, shell.owner(server.url) as owner:
        (limited,) = outcomes(shell.run("limit", "200k", "--json"))
        assert (limited["rate"], limited["task"], limited["via"]) == (200 << 10, None, "owner")
        (hosts,) = outcomes(shell.run("limit", "100k", "--host", server.url, "--json"))
        assert (hosts["rate"], hosts["host"]) == (100 << 10, server.url)
        owner.close()
    with RangeServer(content) as server:
        shell.run("get", server.url, "-o", "x.bin", "--paused")
        (task,) = shell.tasks()
        (own,) = outcomes(shell.run("limit", "1M", task, "--json"))
        assert (own["rate"], own["task"], own["via"]) == (MIB, task, "journal")
        with shell.owner(server.url) as owner:
            done = shell.run("limit", "none", task[-8:])
            assert done.stdout == f"no limit  {task[-8:]}\n"
            owner.close()
        assert shell.types().count("supplied") == 2
        unknown = shell.run("limit", "fast")
        assert (unknown.returncode, "'fast' is no size" in unknown.stderr) == (2, True)
        nobody = shell.run("limit", "1M")
        assert nobody.returncode == 3
        assert "nobody works on a journal now" in nobody.stderr


def test_without_an_owner_a_command_touches_its_task_alone(shell, slow):
    with shell.owner(slow.url, "one", "two", "three") as owner:
        wait_until_served(slow, MIB)
        owner.kill()
    one, two, three = owner.tasks
    before = shell.tasks()
    assert [before[task]["state"] for task in (one, two, three)] == ["Running", "Running", "Queued"]
    served = slow.bytes_served()
    (paused,) = outcomes(shell.run("pause", one, "--json"))
    assert (paused["state"], paused["via"]) == ("Paused", "journal")
    (canceled,) = outcomes(shell.run("cancel", three, "--json"))
    assert canceled["state"] == "Canceled"
    after = shell.tasks()
    assert after[two] == before[two]
    assert slow.bytes_served() == served
    assert "recovered" not in shell.types()
    assert shell.run("cancel", one, two).returncode == 0
    assert [path.name for path in shell.folder.iterdir() if path.suffix == ".part"] == []


def test_a_command_right_after_its_owner_was_killed_finds_the_journal(shell, slow):
    with shell.owner(slow.url, "big.bin") as owner:
        wait_until_served(slow, MIB)
        os.kill(owner.pid, signal.SIGKILL)  # its socket stays where it was
        done = shell.run("pause", owner.tasks[0])
        assert done.returncode == 0, done.stderr
        assert (shell.folder / "t.db-control").exists()
    with shell.owner(slow.url) as later:  # and is the next one's
        assert shell.tasks()[owner.tasks[0]]["owner"]["pid"] == later.pid
        later.close()


def test_a_resume_whose_owner_is_killed_says_how_to_go_on(shell, slow, content):
    with (
        shell.owner(slow.url, "big.bin") as owner,
        shell.start("resume", owner.tasks[0], "--json") as process,
    ):
        assert json.loads(process.stdout.readline())["type"] == "task"
        owner.kill()
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 4
    assert "meowcat resume --journal t.db" in out
    slow.rate.rate = None
    assert shell.run("resume").returncode == 0
    assert (shell.folder / "big.bin").read_bytes() == content.bytes()


def test_two_commands_at_once_are_both_obeyed(shell, slow):
    for owned in (True, False):
        with ExitStack() as stack:
            owner = stack.enter_context(shell.owner(slow.url, f"one {owned}", f"two {owned}"))
            if not owned:
                owner.kill()
            both = [stack.enter_context(shell.start("pause", task)) for task in owner.tasks]
            for each in both:
                _, err = each.communicate(timeout=60)
                assert each.returncode == 0, err
            states = shell.tasks()
            assert [states[task]["state"] for task in owner.tasks] == ["Paused", "Paused"]


def test_an_owner_that_does_not_listen_is_named(shell, slow, monkeypatch, tmp_path):
    with shell.start("get", slow.url, "-o", "x") as process:
        wait_until_served(slow, MIB)
        (shell.folder / "t.db-control").unlink()
        done = shell.run("pause", "--all")
    assert done.returncode == 3
    assert f"process {process.pid}" in done.stderr
    assert "does not listen" in done.stderr


def test_what_makes_no_sense_is_told_task_by_task(shell, slow):
    with shell.owner(slow.url, "one", "two") as owner:
        one, two = owner.tasks
        shell.run("pause", one)
        done = shell.run("pause", one, two)
        assert done.returncode == 2
        assert done.stdout == f"paused  {two[-8:]}  {shell.folder}/two\n"
        assert f"task {one} is Paused: pause is for Queued or Preparing or Running" in done.stderr
        ended = shell.run("cancel", one, "01NOSUCH")
        assert ended.returncode == 2
        assert "no task '01NOSUCH'" in ended.stderr
        nothing = shell.run("retry", "--all")
        assert nothing.returncode == 0
        assert nothing.stderr.startswith("nothing to retry: there is 2 Paused; retry is for Failed")


def test_a_foreign_pause_ends_a_get_and_a_resume_takes_it_up(shell, slow, content):
    with shell.start("get", slow.url, "-o", "x.bin") as process:
        wait_until_served(slow, MIB)
        assert shell.run("pause", "--all").returncode == 0
        _, err = process.communicate(timeout=30)
    assert process.returncode == 4
    assert "x.bin paused" in err
    slow.rate.rate = None
    assert shell.run("resume", "--all").returncode == 0
    assert (shell.folder / "x.bin").read_bytes() == content.bytes()


# Watching


class Lines(threading.Thread):
    """Reads a process's lines as they come; `until` waits for one."""

    def __init__(self, stream):
        super().__init__(daemon=True)
        self._stream = stream
        self._news = threading.Condition()
        self.seen = []
        self.start()

    def run(self):
        for line in self._stream:
            with self._news:
                self.seen.append(line.rstrip("\n"))
                self._news.notify_all()

    def until(self, claim, timeout=30):
        with self._news:
            assert self._news.wait_for(lambda: any(map(claim, self.seen)), timeout), self.seen


def test_a_watch_goes_on_over_the_end_of_its_owner_and_the_coming_of_the_next(shell, slow):
    with shell.owner(slow.url, "big.bin") as owner, shell.start("ls", "--watch", "--json") as watch:
        lines = Lines(watch.stdout)

        def says(**fields):
            def claim(line):
                seen = json.loads(line)
                pid = (seen["owner"] or {}).get("pid")
                return fields.items() <= (seen | {"pid": pid, "moves": seen["rate"] > 0}).items()

            lines.until(claim)

        says(state="Running", pid=owner.pid, moves=True)
        owner.kill()
        says(state="Running", pid=None)
        shell.run("pause", "--all")
        says(state="Paused", pid=None)
        with shell.owner(slow.url) as later:
            says(state="Paused", pid=later.pid)
            shell.run("cancel", "--all")
            says(state="Canceled", pid=later.pid)
            later.close()
        watch.send_signal(signal.SIGINT)
        _, err = watch.communicate(timeout=30)
        assert (watch.returncode, err) == (0, "")


def test_a_watch_in_plain_lines_tells_what_changes(shell, slow):
    with shell.owner(slow.url, "big.bin") as owner, shell.start("ls", "--watch", bufsize=1) as watch:
        lines = Lines(watch.stdout)
        lines.until(lambda line: line.startswith(owner.tasks[0][-8:]) and "Running" in line)
        lines.until(lambda line: "KiB/s" in line)
        shell.run("pause", "--all")
        lines.until(lambda line: "Paused" in line)
        watch.send_signal(signal.SIGTERM)
        assert watch.wait(30) == 143


@pytest.mark.parametrize("columns", [120, 46])
def test_a_watch_on_a_terminal_is_a_table_that_fits(shell, slow, columns):
    main_end, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    shell.environment |= {"TERM": "xterm-256color", "NO_COLOR": "1"}
    for name in ("COLUMNS", "LINES"):  # some test runners set them, and they are believed before the terminal
        shell.environment.pop(name, None)
    with (
        shell.owner(slow.url, "big.bin") as owner,
        os.fdopen(main_end, "rb", buffering=0) as screen,
        os.fdopen(terminal, "wb") as stdout,
        shell.start("ls", "--watch", stdout=stdout) as watch,
    ):
        stdout.close()
        seen = b""
        while b"Running" not in seen or b"%" not in seen:
            seen += screen.read(4096)
        watch.send_signal(signal.SIGINT)
        watch.wait(30)
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode(errors="replace"))
        assert owner.tasks[0][-8:] in text
        assert [line for line in re.split(r"[\r\n]+", text) if len(line) > columns] == []
        assert watch.returncode == 0
        assert not re.search(rb"\x1b\[[0-9;]*3\dm", seen)


def test_a_watch_without_a_journal_joins_in_those_that_come(shell, content):
    with RangeServer(content, rate=MIB // 2) as server, ExitStack() as stack:
        (shell.folder / "state").mkdir()
        watching = [sys.executable, "-m", "meowcat", "ls", "--watch", "--json"]
        watch = stack.enter_context(shell.process(watching))
        lines = Lines(watch.stdout)
        for name in ("one", "two"):
            get = [sys.executable, "-m", "meowcat", "get", server.url, "-o", name]
            stack.enter_context(shell.process(get))
            lines.until(lambda line, name=name: line and Path(json.loads(line)["path"]).name == name)
        watch.send_signal(signal.SIGINT)
        assert watch.wait(30) == 0


def test_a_watch_whose_reader_leaves_ends_quietly(shell, slow):
    with shell.owner(slow.url, "one", "two"), shell.start("ls", "--watch") as watch:
        watch.stdout.readline()
        watch.stdout.close()
        assert watch.wait(30) == 141
        assert watch.stderr.read() == ""


@pytest.fixture
def unread():
    """The end to write to of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.mark.parametrize(
    ("words", "stream", "code"),
    [
        (("ls", "--json"), "stdout", 141),
        (("show", "nothing", "--json"), "stdout", 2),
        (("show", "nothing"), "stderr", 2),
    ],
)
def test_an_output_that_nobody_reads_never_looks_like_a_failed_transfer(shell, unread, words, stream, code):
    command = [sys.executable, "-m", "meowcat", *words]
    with shell.process(command, **{stream: unread}) as process:
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out or "", err or "") == (code, "", "")


@pytest.mark.parametrize("words", [("ls", "--all", "--json"), ("--version",), ("--help",)])
def test_an_output_that_there_is_no_room_for_is_no_defect(shell, words):
    with open("/dev/full", "w") as full:  # noqa: PTH123  # a device
        command = [sys.executable, "-m", "meowcat", *words]
        with shell.process(command, stdout=full) as process:
            _, err = process.communicate(timeout=30)
    assert process.returncode == 74
    assert err == "meowcat: the output can't be written: No space left on device\n"


def test_ctrl_c_ends_the_following_and_not_the_transfer(shell, slow):
    with shell.owner(slow.url, "big.bin") as owner:
        with shell.start("resume", owner.tasks[0], "--json") as process:
            assert json.loads(process.stdout.readline())["type"] == "task"
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=30)
        assert process.returncode == 130
        assert json.loads(out.splitlines()[-1]) == {"type": "stopped", "signal": 2, "resume": None}
        assert shell.tasks()[owner.tasks[0]]["state"] == "Running"


def test_an_owner_that_hangs_keeps_nobody_from_a_list(shell, slow):
    with shell.owner(slow.url, "big.bin") as owner:
        wait_until_served(slow, MIB)
        owner.process.send_signal(signal.SIGSTOP)
        listed = shell.run("ls")
        owner.process.send_signal(signal.SIGCONT)
    assert listed.returncode == 0
    assert "Running" in listed.stdout
    assert "no answer" in listed.stdout
    assert "has not answered within 3 s" in listed.stderr


# Completion


def complete(shell, *words):
    """What bash offers for the last word, by the function that a user's shell has."""
    script = f"""
        export PATH={Path(sys.executable).parent}:$PATH
        eval "$(meowcat completion bash)"
        COMP_WORDS=(meowcat {" ".join(f"'{word}'" for word in words)})
        COMP_CWORD={len(words)}
        _meowcat_completion meowcat
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "-c", script],
        check=False,
        capture_output=True,
        text=True,
        cwd=shell.folder,
        env=shell.environment,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line]


def test_bash_completes_commands_options_states_and_the_tasks_that_a_command_fits(shell, slow):
    with shell.owner(slow.url, "one", "two") as owner:
        one, two = owner.tasks
        shell.run("pause", one)
    assert complete(shell, "pa") == ["pause"]
    assert {"resume", "retry"} <= set(complete(shell, "re"))
    assert "--watch" in complete(shell, "ls", "--w")
    assert complete(shell, "ls", "--state", "Pa") == ["paused"]
    assert complete(shell, "pause", "--journal", "t.db", "") == [two[-8:]]
    assert complete(shell, "pause", "--journal", "t.db", one[-8:-4]) == []
    assert sorted(complete(shell, "cancel", "--journal", "t.db", "")) == sorted([one[-8:], two[-8:]])
    assert complete(shell, "cancel", "--journal", "t.db", one[-8:], "") == [two[-8:]]
    assert complete(shell, "cancel", "--journal", "t.db", two) == [two]
    assert complete(shell, "resume", "--journal", "none.db", "") == []


def in_shell(shell, name, script):
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    environment = shell.environment | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(shell.folder),
    }
    done = subprocess.run(
        [name, *(["-f"] if name == "zsh" else []), "-c", script],
        check=False,
        capture_output=True,
        text=True,
        cwd=shell.folder,
        env=environment,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_fish_completes_commands_and_tasks(shell, slow):
    with shell.owner(slow.url, "one") as owner:
        (found,) = in_shell(shell, "fish", 'meowcat completion fish | source; complete -C "meowcat pau"')
        assert found.startswith("pause\tStop tasks")
        words = "meowcat pause --journal t.db "
        (offered,) = in_shell(shell, "fish", f"meowcat completion fish | source; complete -C '{words}'")
    assert offered.startswith(f"{owner.tasks[0][-8:]}\t")
    assert "one" in offered


def test_zsh_takes_the_script_and_is_offered_words(shell):
    script = """
        autoload -U compinit && compinit -D
        eval "$(meowcat completion zsh)"
        print -r -- $_comps[meowcat]
        COMP_WORDS="meowcat pau" COMP_CWORD=1 _MEOWCAT_COMPLETE=zsh_complete meowcat
    """
    assert in_shell(shell, "zsh", script)[:3] == ["_meowcat_completion", "plain", "pause"]
