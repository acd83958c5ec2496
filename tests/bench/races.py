"""A race: several clients do the same work, in turns, each time in a process of its own.

The order rotates from round to round, so that a noisy machine hurts all alike. What a client brought is
compared with what it should have brought, outside the clock; one wrong byte fails the run. Before the rounds
that are timed each client runs once, under strace where there is one: it warms up, its syncs are counted, and
a server that drops what comes keeps it this once, to be compared.
"""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Job = dict[str, Any]
"""What one run is told: where from, where to, and how. JSON."""

Figures = dict[str, float]

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
MEMORY = Path("/dev/shm")
MIB = 1 << 20
SYNCS = "fsync,fdatasync,syncfs,sync,msync"
PATIENCE = 300.0
"""Seconds that one run may take."""


class Wrong(Exception):
    """A client brought something else than it should have, or failed."""


@dataclass(frozen=True)
class Client:
    """Who does the work: a `program`, which `command` says how to call, or a `script` of tests/bench."""

    name: str
    program: str = ""
    command: Callable[[Job], list[str]] | None = None
    script: str = ""
    """`module:function` below tests.bench."""
    needs: tuple[str, ...] = ()
    """Modules without which the script can't run."""
    durable: bool = False
    """It makes what it brings durable by itself, where asked to; what others bring is synced for them."""

    def missing(self) -> str | None:
        if self.program and find(self.program) is None:
            return f"{self.program} is not installed"
        absent = [name for name in self.needs if importlib.util.find_spec(name) is None]
        return f"{', '.join(absent)} is not installed" if absent else None

    def argv(self, job: Job) -> list[str]:
        if self.command is None:
            return [sys.executable, "-m", "tests.bench.scripts", self.script, json.dumps(job)]
        program = find(self.program)
        assert program is not None
        return [program, *self.command(job)]


def find(program: str) -> str | None:
    beside = Path(sys.executable).parent / program
    return str(beside) if beside.exists() else shutil.which(program)


@dataclass(frozen=True)
class Entry:
    """A client in a race, with its settings there."""

    client: Client
    settings: Job = field(default_factory=dict)
    name: str = ""

    @property
    def label(self) -> str:
        return self.name or self.client.name


class Course(ABC):
    """Where a race is run: servers, contents, targets."""

    @abstractmethod
    def job(self, entry: Entry, *, proving: bool) -> Job:
        """What the next run is to do, in a place that no other has used, with the entry's own settings.

        `proving`: it is not timed, and may be looked at as closely as one likes.
        """

    @abstractmethod
    def check(self, job: Job, figures: Figures) -> None:
        """Compare what was brought with what should have been; may add figures.

        Raises:
            Wrong: it is something else.
        """

    @abstractmethod
    def clean(self, job: Job) -> None:
        """Remove what was brought."""

    def requests(self) -> int | None:
        """Requests that the server has seen so far; None where nobody counts."""
        return None


@dataclass(frozen=True)
class Race:
    """One line of work."""

    name: str
    title: str
    entries: tuple[Entry, ...]
    course: Callable[["Scratch"], AbstractContextManager[Course]]
    bytes: int = 0
    """What one run moves, for the rate."""
    files: int = 0
    """Files or tasks of one run, for the rate."""
    note: str = ""


class Scratch:
    """Folders of one run of the suite: in memory for what is served, in `folder` for what is brought."""

    def __init__(self, memory: Path, folder: Path) -> None:
        self.memory = memory
        self.folder = folder
        self._sources: dict[int, Path] = {}

    def source(self, size: int) -> Path:
        """A file of random bytes, made once, in a folder of its own that a server may serve."""
        if size not in self._sources:
            for old in self._sources.values():
                shutil.rmtree(old.parent)
            self._sources = {size: Path(tempfile.mkdtemp(dir=self.memory)) / "big.bin"}
            with self._sources[size].open("wb") as file:
                left = size
                while left:
                    left -= file.write(os.urandom(min(left, MIB)))
            # As old as a file that somebody uploads: one that was written a moment ago is read again at the
            # end, by whoever wants to know whether it was written to meanwhile.
            time.sleep(3)
        return self._sources[size]


@dataclass
class Outcome:
    """What a race has shown of one client."""

    missing: str | None = None
    runs: list[Figures] = field(default_factory=list)
    syncs: int | None = None
    failed: str | None = None


def run_race(
    race: Race,
    scratch: Scratch,
    rounds: int,
    *,
    proved: bool,
    counted: bool,
    say: Callable[[str], None],
    before: Mapping[str, Outcome],
) -> dict[str, Outcome]:
    """All rounds, after those that were run `before`; outcomes by label."""
    outcomes = {each.label: before.get(each.label) or Outcome(each.client.missing()) for each in race.entries}
    done = max(len(outcome.runs) for outcome in outcomes.values())
    with race.course(scratch) as course:
        for number in [0] * proved + list(range(done + 1, done + rounds + 1)):
            for entry in _turns(race.entries, number):
                outcome = outcomes[entry.label]
                if outcome.missing or outcome.failed:
                    continue
                try:
                    figures = run_once(entry, course, proving=number == 0, counting=counted)
                except Wrong as wrong:
                    outcome.failed = str(wrong)
                    say(f"{race.name}: {entry.label}: {wrong}")
                    continue
                if number == 0:
                    outcome.syncs = int(figures["syncs"]) if counted else None
                else:
                    outcome.runs.append(figures)
                    say(f"{race.name} {number} {entry.label}: {shown(figures)}")
    return outcomes


def shown(figures: Figures) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in figures.items())


def _turns(entries: tuple[Entry, ...], number: int) -> Iterator[Entry]:
    at = number % len(entries)
    yield from entries[at:]
    yield from entries[:at]


def run_once(entry: Entry, course: Course, *, proving: bool, counting: bool) -> Figures:
    job = course.job(entry, proving=proving)
    before = course.requests()
    try:
        figures = measure(entry.client, job, counting=proving and counting)
        course.check(job, figures)
        after = course.requests()
    finally:
        course.clean(job)
    if before is not None and after is not None:
        figures["requests"] = after - before
    return {name: float(f"{value:.4g}") for name, value in figures.items()}


def measure(client: Client, job: Job, *, counting: bool) -> Figures:
    """One run in a process of its own.

    Seconds and CPU seconds are the program's whole life, or what a script says of its own transfer: an
    application that embeds a library has imported it long ago.
    """
    command = client.argv(job)
    flags = ["--sync", job["sync"]] if job.get("sync") and not client.script else []
    with tempfile.NamedTemporaryFile("r", prefix="meowcat-syncs-") as counts:
        if counting:
            trace = ["strace", "-qq", "-f", "--seccomp-bpf", "-c", "-o", counts.name, "-e", f"trace={SYNCS}"]
            command = [*trace, *command]
        done = _call([sys.executable, "-I", "-S", str(HERE / "stopwatch.py"), *flags, "--", *command])
        syncs = syncs_in(counts.read())
    taken = json.loads(done.stdout)
    if taken["status"]:
        raise Wrong(f"ended with {taken['status']}: {(done.stderr or taken['said'])[-500:].strip()}")
    figures = {name: taken[name] for name in ("seconds", "cpu_s", "rss_mib")}
    if client.script:
        figures |= json.loads(taken["said"].splitlines()[-1])
    if counting:
        figures["syncs"] = syncs
    return figures


def _call(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Whatever happens, nothing of it is left: a client that went on would be in the way of the next one."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, cwd=ROOT, process_group=0, **pipes) as process:
        try:
            said, errors = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            raise Wrong(f"not done after {PATIENCE:.0f} s") from None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        raise Wrong(f"the stopwatch ended with {process.returncode}: {errors[-500:].strip()}")
    return subprocess.CompletedProcess(command, 0, said, errors)


def syncs_in(report: str) -> int:
    """The calls in a table of `strace -c`, whose last line is the total."""
    rows = [line.split() for line in report.splitlines()]
    return sum(int(row[3]) for row in rows if row and row[-1] in SYNCS.split(","))


def can_count() -> bool:
    """Whether strace is here and may look at our own children."""
    if find("strace") is None:
        return False
    done = subprocess.run(
        ["strace", "-qq", "-f", "--seccomp-bpf", "-c", "true"], check=False, capture_output=True
    )
    return done.returncode == 0
