"""`meowcat demo`: the main job, end to end, with a real kill in the middle.

The downloads are the real command line in child processes; the server runs here, in a thread, and counts
what it sends.
"""

import hashlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import click

from meowcat.cli.exits import Exit
from meowcat.cli.journals import read_all
from meowcat.cli.quantities import rate_text, seconds_text, size_option, size_text
from meowcat.testing.content import Content
from meowcat.testing.range_server import RangeServer

MIB = 1 << 20
SECONDS = 12.0
"""How long the transfer is to take, kill apart: the server's cap is made of it."""
ALLOWED_TWICE = 16 * MIB
"""Bytes that may be fetched twice for one kill with pieces of 1 MiB over 8 connections."""
LEAST = 8 * MIB
"""A smaller content could be over before it is killed."""
LEAST_CAP = 6 * MIB
_KILL_BETWEEN = (0.30, 0.70)
_TIMEOUT = 120.0
"""Seconds after which a child counts as stuck."""
_HASH_BLOCK = MIB
_BLOCK = 512
"""The unit of `st_blocks`, whatever the file system (POSIX)."""


class DemoFailed(click.ClickException):
    """Something was not as it must be."""

    exit_code = Exit.FAILED


@dataclass(frozen=True)
class Stage:
    """Where it all happens."""

    server: RangeServer
    content: Content
    folder: Path
    connections: int

    @property
    def target(self) -> Path:
        return self.folder / "big.bin"

    @property
    def journal(self) -> Path:
        return self.folder / "transfers.db"


@click.command(epilog="Example: meowcat demo --size 1GiB --connections 16 --keep")
@click.option(
    "--size",
    callback=size_option,
    default="256MiB",
    show_default=True,
    metavar="SIZE",
    help="Bytes to download, at least 8MiB.",
)
@click.option(
    "--connections", type=click.IntRange(1, 256), default=8, show_default=True, help="Requests at once."
)
@click.option("--keep", is_flag=True, help="Leave the file and the journal behind, and say where.")
def demo(*, size: int, connections: int, keep: bool) -> Exit:
    """See it work: a download, a kill -9 in its middle, the rest.

    The server is our own: nothing leaves this machine. Takes some 20 seconds.
    """
    if size < LEAST:
        raise click.BadParameter(f"{size_text(size)} is over before it can be killed: at least 8MiB")
    began = time.monotonic()
    with _sigterm_as_ctrl_c(), _stage(size, connections, keep=keep) as stage:
        _step(f"A server on {stage.server.origin}: {size_text(size)}, no faster than {rate_text(_cap(size))}")
        killed_at = _download_and_kill(stage)
        _step("What the journal knows")
        _meowcat(stage, "show", _only_task(stage))
        _step("Resume, in a new process")
        _meowcat(stage, "resume")
        _step("Verify")
        _verify(stage)
        _step("The task's history")
        _meowcat(stage, "log")
        _sum_up(stage, killed_at, time.monotonic() - began)
    return Exit.COMPLETE


def _cap(size: int) -> float:
    """Bytes a second."""
    return max(size / SECONDS, LEAST_CAP)


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Else the child would outlive this process, and the folder too."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _stage(size: int, connections: int, *, keep: bool) -> Iterator[Stage]:
    folder = Path(tempfile.mkdtemp(prefix="meowcat-demo-"))
    content = Content(size, seed=random.SystemRandom().getrandbits(32))
    try:
        with RangeServer(content, rate=_cap(size)) as server:
            yield Stage(server, content, folder, connections)
    finally:
        if keep:
            click.echo(f"Kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _step(text: str) -> None:
    click.secho(f"\n== {text}", bold=True)
    sys.stdout.flush()


def _command(stage: Stage, *words: str) -> list[str]:
    return [sys.executable, "-m", "meowcat", *words, "--journal", str(stage.journal)]


def _download_and_kill(stage: Stage) -> float:
    """Start the download, kill it with SIGKILL at a random moment, and say how far it was (0 to 1)."""
    fraction = random.SystemRandom().uniform(*_KILL_BETWEEN)
    _step(f"Download over {stage.connections} connections; SIGKILL comes at {fraction:.0%}")
    command = _command(stage, "get", stage.server.url, "-o", str(stage.target), "--piece-size", "1MiB")
    command += ["--connections", str(stage.connections)]
    # Our own program, without a shell.
    with subprocess.Popen(command) as process:  # noqa: S603  # see above
        try:
            reached = _wait_until_sent(stage, process, int(fraction * stage.content.size))
        finally:
            process.kill()
            process.wait()
    if sys.stderr.isatty():
        click.echo("\x1b[?25h", err=True)  # the bar had hidden the cursor and could not give it back
    if not reached or process.returncode != -signal.SIGKILL:
        raise DemoFailed(
            f"the download ended with {process.returncode} before it could be killed, after "
            f"{size_text(stage.server.bytes_served())}"
        )
    if stage.target.exists():
        raise DemoFailed(f"{stage.target} exists although the download was killed in the middle")
    click.echo(f"Killed process {process.pid}: {_files(stage)}")
    return stage.server.bytes_served() / stage.content.size


def _wait_until_sent(stage: Stage, process: subprocess.Popen[bytes], count: int) -> bool:
    """Wait until the server has sent `count` bytes; False where the process ended first."""
    deadline = time.monotonic() + _TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        if stage.server.bytes_served() >= count:
            return True
        time.sleep(0.01)  # another process: there is no event to wait for
    return False


def _files(stage: Stage) -> str:
    """What is on disk of it, as the file system counts: a part file has holes."""
    parts = [path for path in stage.folder.iterdir() if path.suffix == ".part"]
    return ", ".join(f"{path.name} has {size_text(path.stat().st_blocks * _BLOCK)}" for path in parts)


def _only_task(stage: Stage) -> str:
    tasks = anyio.run(read_all, str(stage.journal)).tasks
    if len(tasks) != 1:
        raise DemoFailed(f"the journal has {len(tasks)} tasks instead of one")
    return tasks[0].task.id


def _meowcat(stage: Stage, *words: str) -> None:
    """Run a command of ours to its end."""
    command = _command(stage, *words)
    try:
        # Our own program, without a shell.
        code = subprocess.run(command, check=False, timeout=_TIMEOUT).returncode  # noqa: S603  # see above
    except subprocess.TimeoutExpired as error:
        raise DemoFailed(f"'meowcat {words[0]}' did not end within {_TIMEOUT:.0f} s") from error
    if code != 0:
        raise DemoFailed(f"'meowcat {words[0]}' ended with {code}")


def _verify(stage: Stage) -> None:
    """Compare what is on disk with what the server has, byte for byte by digest."""
    digest = hashlib.sha256()
    with stage.target.open("rb") as file:
        while block := file.read(_HASH_BLOCK):
            digest.update(block)
    expected = stage.content.sha256
    if digest.hexdigest() != expected:
        raise DemoFailed(f"SHA-256 {digest.hexdigest()}, and the server has {expected}")
    click.echo(f"SHA-256 {expected}: the same on both sides")


def _sum_up(stage: Stage, killed_at: float, took: float) -> None:
    twice = stage.server.bytes_sent_twice()
    _step("Summary")
    served, requests = size_text(stage.server.bytes_served()), len(stage.server.requests)
    click.echo(f"{size_text(stage.content.size)} in {seconds_text(took)}, killed at {killed_at:.0%}")
    click.echo(f"The server sent {served} in {requests} requests")
    click.echo(f"{size_text(twice)} were fetched twice ({twice / stage.content.size:.1%} of the file)")
    allowed = max(ALLOWED_TWICE, stage.connections * 2 * MIB)
    if twice > allowed:
        raise DemoFailed(f"{size_text(twice)} were fetched twice; at most {size_text(allowed)} is right")
    leftovers = sorted(path.name for path in stage.folder.iterdir() if path.suffix == ".part")
    if leftovers:
        raise DemoFailed(f"left behind: {', '.join(leftovers)}")
