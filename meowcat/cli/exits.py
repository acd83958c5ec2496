"""The exit codes, and which error leads to which."""

from enum import IntEnum

from meowcat.core.errors import (
    ControlError,
    DuplicateTask,
    InvalidArgument,
    InvalidTaskState,
    JournalError,
    MeowcatError,
    TaskNotFound,
    TaskQuarantined,
    TransferCanceled,
)


class Exit(IntEnum):
    """What the process ends with. A script may rely on these numbers."""

    COMPLETE = 0
    """All that was asked for is done."""
    FAILED = 1
    """A transfer failed for good; the others went on to their ends."""
    USAGE = 2
    """The command makes no sense: an option, a URL, a path, a task that does not exist."""
    JOURNAL = 3
    """The journal can't be used: another process owns it and does not answer, it is damaged …"""
    UNFINISHED = 4
    """Nothing failed, but a task is Paused, Canceled, or waits for something that has to be supplied."""
    INTERNAL = 70
    """A defect of meowcat or of a plugged-in part (EX_SOFTWARE of sysexits.h)."""
    UNWRITTEN = 74
    """The output can't be written: the disk that it goes to is full, say (EX_IOERR of sysexits.h)."""
    HUNG_UP = 129
    """SIGHUP, of a terminal that was closed: 128 + 1. Everything is in the journal."""
    INTERRUPTED = 130
    """SIGINT: 128 + 2. Everything is in the journal."""
    UNREAD = 141
    """Nobody reads the output any more (SIGPIPE: 128 + 13)."""
    TERMINATED = 143
    """SIGTERM: 128 + 15. Everything is in the journal."""


_USAGE = (InvalidArgument, DuplicateTask, InvalidTaskState, TaskNotFound)


def exit_of(error: MeowcatError) -> Exit:
    """The exit code that an error leads to."""
    if isinstance(
        error, ControlError | JournalError | TaskQuarantined
    ):  # first: an unknown journal is a ValueError, too
        return Exit.JOURNAL
    if isinstance(error, _USAGE):
        return Exit.USAGE
    if isinstance(error, TransferCanceled):
        return Exit.UNFINISHED
    return Exit.FAILED


def exit_of_all(codes: list[Exit]) -> Exit:
    """The exit code of a command with several transfers: a failure is told before all else."""
    for code in (Exit.FAILED, Exit.UNFINISHED):
        if code in codes:
            return code
    return Exit.COMPLETE
