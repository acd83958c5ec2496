"""meowcat: transfers as event-sourced state machines, in a journal that survives kill -9."""

import logging

from meowcat import blocking
from meowcat.audit.settings import Audit
from meowcat.config import Config
from meowcat.core.errors import (
    AuditError,
    Code,
    ControlError,
    DuplicateTask,
    EngineClosed,
    EngineForked,
    InvalidArgument,
    InvalidSignature,
    InvalidTaskState,
    JournalAccess,
    JournalClosed,
    JournalConflict,
    JournalDamaged,
    JournalError,
    JournalFenced,
    JournalForked,
    JournalOwned,
    JournalRejected,
    JournalTooNew,
    JournalUncertain,
    MeowcatError,
    NobodyListens,
    NotAJournal,
    OwnerLost,
    QueueFull,
    RetryLater,
    SinkError,
    TaskNotFound,
    TaskQuarantined,
    TransferCanceled,
    TransferError,
    TransferFailed,
    UnknownEvent,
    UnknownJournal,
    WouldDeadlock,
)
from meowcat.core.info import SinkInfo, Snapshot, TaskInfo
from meowcat.core.machine import State
from meowcat.core.state import Phase
from meowcat.core.transfers import Download
from meowcat.core.values import Checksum, Fault, FaultKind, TaskId
from meowcat.core.waits import WaitingFor
from meowcat.engine import Engine
from meowcat.journal.logged import LoggedEvent
from meowcat.runtime.listeners import Subscription
from meowcat.sinks import Sink, callback
from meowcat.task import Progress, Result, Task

__version__ = "0.1.0"

logging.getLogger("meowcat").addHandler(logging.NullHandler())  # quiet unless the application listens

__all__ = [
    "Audit",
    "AuditError",
    "Checksum",
    "Code",
    "Config",
    "ControlError",
    "Download",
    "DuplicateTask",
    "Engine",
    "EngineClosed",
    "EngineForked",
    "Fault",
    "FaultKind",
    "InvalidArgument",
    "InvalidSignature",
    "InvalidTaskState",
    "JournalAccess",
    "JournalClosed",
    "JournalConflict",
    "JournalDamaged",
    "JournalError",
    "JournalFenced",
    "JournalForked",
    "JournalOwned",
    "JournalRejected",
    "JournalTooNew",
    "JournalUncertain",
    "LoggedEvent",
    "MeowcatError",
    "NobodyListens",
    "NotAJournal",
    "OwnerLost",
    "Phase",
    "Progress",
    "QueueFull",
    "Result",
    "RetryLater",
    "Sink",
    "SinkError",
    "SinkInfo",
    "Snapshot",
    "State",
    "Subscription",
    "Task",
    "TaskId",
    "TaskInfo",
    "TaskNotFound",
    "TaskQuarantined",
    "TransferCanceled",
    "TransferError",
    "TransferFailed",
    "UnknownEvent",
    "UnknownJournal",
    "WaitingFor",
    "WouldDeadlock",
    "blocking",
    "callback",
]
