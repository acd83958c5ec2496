"""Options that several commands share, and what they are turned into."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from meowcat.cli.completion import files
from meowcat.cli.quantities import seconds_option
from meowcat.config import Config, Durability
from meowcat.core.machine import State

Command = TypeVar("Command", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
journal_option = click.option(
    "--journal",
    metavar="PATH",
    help="The journal: a path, or a URL such as sqlite:PATH. Default: those of the state folder.",
    shell_complete=files,
    is_eager=True,  # so that the completion of tasks knows it
)
state_option = click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([str(state.value) for state in State], case_sensitive=False),
    callback=lambda _, __, given: tuple(State(each) for each in given),
    help="Only tasks in this state; may be repeated.",
)
direction_option = click.option(
    "--direction", type=click.Choice(["download", "upload"]), help="Only tasks of this direction."
)
quiet_option = click.option(
    "--quiet", "-q", is_flag=True, help="No progress: only what is complete, and what went wrong."
)
header_option = click.option(
    "--header",
    "-H",
    "header_lines",
    multiple=True,
    metavar="'NAME: VALUE'",
    help="A header to send; may be repeated. @FILE reads them from a file, one a line. Secret ones "
    "(Authorization, Cookie …) are kept in memory only and never journaled.",
)


@dataclass(frozen=True)
class EngineOptions:
    """Settings of the engine that a command opens; None takes the default."""

    jobs: int
    timeout: float | None
    durability: Durability
    ca_bundle: str | None
    proxy: str | None
    http2: bool

    def config(self, **more: Any) -> Config:
        """The engine's settings.

        Raises:
            InvalidArgument: one is out of bounds.
        """
        if self.timeout is not None:
            more |= {"connect_timeout": self.timeout, "read_timeout": self.timeout}
        return Config(
            max_downloads=self.jobs,
            max_uploads=self.jobs,
            durability=self.durability,
            ca_bundle=self.ca_bundle,
            proxy=self.proxy,
            http2=self.http2,
            **more,
        )


_ENGINE_OPTIONS = (
    click.option("--jobs", "-j", type=int, default=4, show_default=True, help="Transfers at once."),
    click.option(
        "--timeout",
        callback=seconds_option,
        metavar="SECONDS",
        help="Silence after which a connection is given up and tried again (30, 500ms, 2m). "
        "Default: 10 to connect, 30 to read.",
    ),
    click.option(
        "--durability",
        type=click.Choice(["power", "process"]),
        default="power",
        show_default=True,
        help="Whether what is recorded survives a power failure, or the death of the process only (faster).",
    ),
    click.option("--ca-bundle", metavar="FILE", help="A PEM file of further certificate authorities."),
    click.option("--proxy", metavar="URL", help="A proxy for all requests."),
    click.option("--http2", is_flag=True, help="Allow HTTP/2."),
)
_ENGINE_NAMES = ("jobs", "timeout", "durability", "ca_bundle", "proxy", "http2")


def engine_options(command: Command) -> Command:
    """Give a command the options of `EngineOptions`."""
    for option in reversed(_ENGINE_OPTIONS):
        command = option(command)
    return command


def taken(options: dict[str, Any]) -> EngineOptions:
    """Take the options of the engine out of a command's."""
    return EngineOptions(**{name: options.pop(name) for name in _ENGINE_NAMES})


def headers_of(lines: Sequence[str]) -> dict[str, str]:
    """Headers out of `NAME: VALUE` and `@FILE`.

    Raises:
        click.UsageError: no colon, or no such file. The text itself is not shown, for it may be a secret.
    """
    headers: dict[str, str] = {}
    for line in _lines(lines):
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise click.UsageError("--header: expected 'NAME: VALUE'; what was given is not shown")
        headers[name.strip()] = value.strip()
    return headers


def _lines(given: Sequence[str]) -> list[str]:
    lines: list[str] = []
    for line in given:
        if line.startswith("@"):
            lines += [each for each in _text_of("--header", line).splitlines() if each.strip()]
        else:
            lines.append(line)
    return lines


def url_of(given: str | None) -> str | None:
    """A URL, or what stands in `@FILE`.

    Raises:
        click.UsageError: no such file.
    """
    return _text_of("--url", given).strip() if given is not None and given.startswith("@") else given


def _text_of(option: str, given: str) -> str:
    """What stands in the file of `@FILE`."""
    try:
        return Path(given[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise click.UsageError(f"{option} {given}: {reason}") from error


def plan_of_file(name: str | None) -> bytes | None:
    """The JSON of a presigned plan, from a file, or from standard input for `-`.

    Raises:
        click.UsageError: no such file.
    """
    if name is None:
        return None
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise click.UsageError(f"--plan {name}: {error.strerror}") from error
