"""The error tree, and the one list of error codes.

Codes are stable integers for logs, foreign-function borders and databases: a code never changes its
number. Branch on the class or on `code`, never on the text. No error ever holds a secret: URLs are
redacted before they come here.
"""

from enum import IntEnum
from typing import ClassVar


class Code(IntEnum):
    """Every number that `MeowcatError.code` can have."""

    UNKNOWN = -1
    SUCCESS = 0
    RUNTIME = 101
    """The engine could not be started."""
    ARGUMENT = 102
    """A required value is empty or a value is out of bounds."""
    DUPLICATE_TASK = 103
    ENQUEUE = 104
    IO = 105
    HTTP = 106
    """The transport failed: no connection, a time-out, a reset, a broken TLS handshake."""
    CLOSED = 107
    TASK_NOT_FOUND = 108
    STATUS = 109
    """The server answered with a status that ends the task."""
    LENGTH = 110
    """A needed length is missing or makes no sense."""
    QUEUE_FULL = 111
    COMMAND = 112
    """A command could not be answered."""
    REPLY = 113
    """A reply contradicts itself or what was asked."""
    RANGE = 114
    FILE_NOT_FOUND = 115
    CHECKSUM = 116
    TASK_STATE = 117
    LOCK_POISONED = 118
    CLIENT_BUILD = 119
    CANCELED = 120
    DISK_FULL = 121
    LOCAL_FILE_REMOVED = 122
    BINARY_QUEUE_FULL = 123
    """Too many bodies are being fetched into memory, or wait for it."""
    BINARY_TOO_LARGE = 124
    """A body has more bytes than were to be taken into memory."""
    JOURNAL = 130
    JOURNAL_OWNED = 131
    JOURNAL_DAMAGED = 132
    JOURNAL_VERSION = 133
    JOURNAL_REJECTED = 134
    CHANGED = 140
    """The remote content is another one than the one that was begun."""
    TARGET_EXISTS = 141
    TARGET_OWNED = 142
    FORKED = 143
    SOURCE_CHANGED = 144
    """The source of an upload is not what it was when the upload was begun."""
    SESSION_LOST = 145
    """The server does not know the upload any more."""
    CREDENTIAL = 146
    """A credential or a fresh plan could not be had, or has run out."""
    CONTROL = 150
    """The owner of a journal can't be talked to over its control socket."""
    AUDIT = 151
    """A history, a checkpoint or a receipt that is not proved, or that can't be signed."""
    SINK = 152
    """A sink could not deliver, or a webhook's signature is wrong."""


class MeowcatError(Exception):
    """The root of everything that meowcat raises on purpose."""

    code: ClassVar[Code] = Code.UNKNOWN


class InvalidArgument(MeowcatError, ValueError):
    """A value that can't be worked with; the message says what was expected."""

    code = Code.ARGUMENT


class DuplicateTask(MeowcatError):
    """A live task owns the target, or the key, for another request. `task` says which, where it is known."""

    code = Code.DUPLICATE_TASK

    def __init__(self, message: str, *, task: str = "") -> None:
        super().__init__(message)
        self.task = task


class EngineClosed(MeowcatError):
    """The engine is closed; open a new one."""

    code = Code.CLOSED


class EngineForked(MeowcatError):
    """The engine belongs to the parent of this process; open another one here, on another journal."""

    code = Code.FORKED


class WouldDeadlock(MeowcatError, RuntimeError):
    """A call from inside a listener or a sink that would wait for the very listener or sink to return."""

    code = Code.COMMAND


class SinkError(MeowcatError):
    """A sink could not deliver; the same events are handed to it again later."""

    code = Code.SINK


class RetryLater(SinkError):
    """What a sink raises that knows when to try again: in `seconds`, instead of after the growing delays."""

    def __init__(self, seconds: float, reason: str = "") -> None:
        super().__init__(reason or f"asked to come again in {seconds:g} s")
        self.seconds = seconds


class InvalidSignature(SinkError, ValueError):
    """A webhook that was not signed with the secret, was changed on its way, or is too old."""


class TaskNotFound(MeowcatError, LookupError):
    """No such task, or one that has ended."""

    code = Code.TASK_NOT_FOUND


class TaskQuarantined(MeowcatError):
    """The task's records are damaged; it is kept out, and every other task goes on."""

    code = Code.JOURNAL_DAMAGED


class QueueFull(MeowcatError):
    """No room for another command now: wait for it with `submit`, or try again later."""

    code = Code.QUEUE_FULL


class FetchQueueFull(QueueFull):
    """As many fetches as `Config.fetch_capacity` were accepted already and are not over."""

    code = Code.BINARY_QUEUE_FULL


class FetchFailed(MeowcatError):
    """`Engine.fetch` has brought no body. `code` is the reason's number, `status` the HTTP status, where one
    came."""

    def __init__(self, message: str, *, code: Code | None = None, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        if code is not None:
            self.code = code  # type: ignore[misc]  # a class constant, narrowed per failure on purpose


class BodyTooLarge(FetchFailed):
    """The body has more bytes than were to be taken into memory; none of it is kept."""

    code = Code.BINARY_TOO_LARGE


class InvalidTaskState(MeowcatError):
    """The command makes no sense in the task's state (resuming what is not paused, and so on)."""

    code = Code.TASK_STATE


class IllegalTransition(InvalidTaskState):
    """The lifecycle table has no such arrow."""


class TransferError(MeowcatError):
    """A task has ended without its result. `task` is its id, `code` the reason's number."""

    def __init__(self, message: str, *, task: str = "", code: Code | None = None) -> None:
        super().__init__(message)
        self.task = task
        if code is not None:
            self.code = code  # type: ignore[misc]  # a class constant, narrowed per failure on purpose


class TransferFailed(TransferError):
    """The task is Failed; `retry` begins again from what is kept."""


class TransferCanceled(TransferError):
    """The task was canceled."""

    code = Code.CANCELED


class JournalError(MeowcatError):
    """The journal can't be used as asked. Nothing in it was overwritten."""

    code = Code.JOURNAL


class UnknownJournal(JournalError, ValueError):
    """No adapter for that path, scheme or type."""


class NotAJournal(JournalError):
    """Something else stands where a journal should be."""


class JournalAccess(JournalError):
    """The operating system refuses access to the journal."""


class JournalTooNew(JournalError):
    """Written by a later version of the format than this one reads."""

    code = Code.JOURNAL_VERSION


class JournalOwned(JournalError):
    """Another process, or another engine of this one, owns the journal. `owner` says who (pid, host)."""

    code = Code.JOURNAL_OWNED

    def __init__(self, message: str, *, owner: str = "") -> None:
        super().__init__(message)
        self.owner = owner


class JournalFenced(JournalOwned):
    """A later owner has taken the journal over, or its file was removed or replaced: this one must not write
    any more."""


class JournalForked(JournalError):
    """The journal was opened by the parent of this process."""

    code = Code.FORKED


class JournalClosed(JournalError):
    """The journal is closed."""


class JournalDamaged(JournalError):
    """Stored records are not what was written."""

    code = Code.JOURNAL_DAMAGED


class JournalRejected(JournalError):
    """Certainly not stored (no space, a record that is too large): the task's state is unchanged."""

    code = Code.JOURNAL_REJECTED


class JournalConflict(JournalRejected):
    """A record does not follow on its task's last one: its number is taken, or one before it is missing."""


class JournalUncertain(JournalError):
    """May or may not be stored: reopen and read before anything else."""


class ControlError(MeowcatError):
    """The owner of a journal can't be talked to over its control socket."""

    code = Code.CONTROL


class NobodyListens(ControlError):
    """Nobody answers beside the journal: it has no owner, or one that does not listen."""


class OwnerLost(ControlError):
    """The owner went away before it had answered: what was asked may have been done, or not."""


class AuditError(MeowcatError):
    """What was to be proved is not, or what was to be signed must not be; the text says why."""

    code = Code.AUDIT


class UnknownEvent(JournalError):
    """An event type or version that this meowcat does not know."""

    code = Code.JOURNAL_VERSION
