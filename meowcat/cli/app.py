"""The commands together, and the one place where errors become lines and exit codes."""

import asyncio
import io
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from os import environ
from pathlib import Path
from typing import Any, NoReturn

import click

import meowcat
from meowcat.cli.audit import audit
from meowcat.cli.completion import completion
from meowcat.cli.control import cancel, pause, retry
from meowcat.cli.demo import demo
from meowcat.cli.exits import Exit, exit_of
from meowcat.cli.get import get
from meowcat.cli.inspect import show, show_log
from meowcat.cli.journal_tools import journal_group
from meowcat.cli.limit import limit
from meowcat.cli.listing import list_tasks
from meowcat.cli.orphans import orphans
from meowcat.cli.outputs import NO_ROOM
from meowcat.cli.put import put
from meowcat.cli.resume import resume
from meowcat.cli.terminals import drop
from meowcat.cli.views import error_object, json_line, printable
from meowcat.core.errors import InvalidArgument, MeowcatError
from meowcat.core.urls import scrub

DEBUG_VARIABLE = "MEOWCAT_DEBUG"
"""Set to anything: the engine's log and tracebacks go to standard error."""

_EPILOG = """\b
Examples:
  meowcat get https://host/big.iso -o /data/ --connections 8
  meowcat put big.iso s3://bucket/isos/ --credential prod
  meowcat ls --watch
  meowcat pause 7Q3KX2
  meowcat resume
  meowcat demo

\b
Exit codes: 0 all complete, 1 a transfer failed, 2 bad input, 3 the journal can't be used,
4 paused, canceled or waiting for something, 70 a defect, 74 the output can't be written,
129, 130 and 143 stopped by a signal.
"""


class Commands(click.Group):
    """The group whose `main` prints one line for an error, whatever it is, and never a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's own signature
        """In the order in which one needs them, not in that of the alphabet."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Click ends a process whose output nobody reads with 1, which is for a transfer that failed, and
        tells of an interrupt in two lines. One that comes as an event loop begins cancels what is to run.
        """
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _UnreadError from error
        except (KeyboardInterrupt, asyncio.CancelledError) as error:
            raise click.Abort from error

    def main(self, args: Sequence[str] | None = None, **settings: Any) -> NoReturn:  # type: ignore[override]  # narrower: it always exits
        """Run a command and end the process with its exit code."""
        arguments = sys.argv[1:] if args is None else list(args)
        settings |= {"standalone_mode": False, "prog_name": "meowcat"}
        as_json = "--json" in arguments
        _open_what_is_closed()
        _never_fail_to_print()
        _configure_logging()
        try:
            code = super().main(args=arguments, **settings)
        except click.exceptions.NoArgsIsHelpError as help_wanted:
            help_wanted.show()
            code = Exit.USAGE
        except click.ClickException as error:
            code = _refused(error, as_json=as_json)
        except (click.Abort, KeyboardInterrupt):  # while no engine was open: there is nothing to go on with
            click.echo("meowcat: interrupted", err=True)
            code = Exit.INTERRUPTED
        except Exception as error:  # noqa: BLE001  # the outermost border: a traceback helps nobody here
            code = _failure(_single(error), as_json=as_json)
        _let_go_of_output(code)
        sys.exit(int(code or 0))


class _UnreadError(Exception):
    """Nobody reads the output any more."""


def _open_what_is_closed() -> None:
    """A standard stream that was closed (`2>&-`) has nothing to read, and takes anything: no file that is
    opened later, a journal's say, must get its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  # to the end


def _never_fail_to_print() -> None:
    """A name that the terminal's encoding has no letters for is shown with question marks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _let_go_of_output(code: int | None) -> None:
    """Where nothing can be written any more, what is still to be written at exit must not fail once more."""
    if code in (Exit.UNREAD, Exit.UNWRITTEN):
        drop(sys.stdout)


def _configure_logging() -> None:
    """Keep the engine's log to itself, but for what is wrong with the journal; or write all of it to standard
    error with MEOWCAT_DEBUG."""
    debug = bool(environ.get(DEBUG_VARIABLE))
    handler = logging.StreamHandler() if debug else logging.NullHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    log = logging.getLogger("meowcat")
    log.handlers = [handler]
    log.propagate = False
    log.setLevel(logging.DEBUG if debug else logging.WARNING)
    logging.getLogger("meowcat.journal").handlers = [] if debug else [_Once()]


class _Once(logging.Handler):
    """What is said again and again while it lasts (that the journal's disk is full, say) is told once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg not in self._told:
            self._told.add(record.msg)
            _tell(record.getMessage())


def _single(error: BaseException) -> BaseException:
    """The error itself, out of the groups that task groups wrap around it."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _refused(error: click.ClickException, *, as_json: bool) -> int:
    """What click, or a command in click's words, refuses."""
    if not isinstance(error, click.UsageError):
        _print(MeowcatError(), error.format_message(), as_json=as_json)
        return error.exit_code
    path = error.ctx.command_path if error.ctx is not None and not as_json else None
    hint = f" (see '{path} --help')" if path else ""
    _print(InvalidArgument(), error.format_message() + hint, as_json=as_json)
    return Exit.USAGE


def _failure(error: BaseException, *, as_json: bool) -> int:
    if isinstance(error, BrokenPipeError | _UnreadError):
        return Exit.UNREAD
    if isinstance(error, click.ClickException):
        return _refused(error, as_json=as_json)
    # Of a file without a name: what the engine writes has one, and errors of its own.
    if isinstance(error, OSError) and error.errno in NO_ROOM and error.filename is None:
        _print(MeowcatError(), f"the output can't be written: {error.strerror}", as_json=False)
        return Exit.UNWRITTEN
    if environ.get(DEBUG_VARIABLE):
        click.echo(scrub("".join(traceback.format_exception(error))), err=True)
    if isinstance(error, MeowcatError):
        _print(error, str(error), as_json=as_json)
        return exit_of(error)
    text = f"defect: {type(error).__name__}: {error}; {DEBUG_VARIABLE}=1 shows where. The journal is unharmed"
    _print(MeowcatError(), text, as_json=as_json)
    return Exit.INTERNAL


def _print(error: MeowcatError, message: str, *, as_json: bool) -> None:
    """One line: on standard error for people, on standard output as JSON. Whatever it quotes is scrubbed.

    Where it can't be written (nobody reads, or a disk is full) the exit code tells by itself.
    """
    try:
        if as_json:
            json_line(error_object(error, _line(message)))
        else:
            _tell(message)
    except OSError:
        drop(sys.stdout if as_json else sys.stderr)


def _tell(message: str) -> None:
    click.echo(printable(f"meowcat: {_line(message)}"), err=True)


def _line(message: str) -> str:
    return " ".join(scrub(message).split())


@click.group(cls=Commands, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(meowcat.__version__, prog_name="meowcat")
def main() -> None:
    """Transfers that survive kill -9: every step is in a journal, and any command can go on from it.

    Without --journal each 'get' has a journal of its own in the state folder, and the other commands look
    through all of them.
    """


for _command in (
    get, put, list_tasks, show, show_log, pause, resume, cancel, retry, limit, orphans, journal_group, audit,
    demo, completion,
):  # fmt: skip
    main.add_command(_command)
