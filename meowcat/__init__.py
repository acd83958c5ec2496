"""meowcat: transfers as event-sourced state machines, in a journal that survives kill -9."""

import logging

from meowcat import blocking
from meowcat.audit.settings import Audit
from meowcat.config import Config
from meowcat.core.errors import (
    AuditError,
    BodyTooLarge,
    Code,
    ControlError,
    DuplicateTask,
    EngineClosed,
    EngineForked,
    FetchFailed,
    FetchQueueFull,
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
from meowcat.core.info import HostInfo, Orphan, SinkInfo, Snapshot, TaskInfo
from meowcat.core.machine import State
from meowcat.core.plans import DownloadPlan, PlanPart, PlanRequest, UploadedPart, UploadPlan
from meowcat.core.state import Phase
from meowcat.core.transfers import Download, ProtocolSpec, Upload
from meowcat.core.values import Checksum, Fault, FaultKind, TaskId
from meowcat.core.waits import WaitingFor
from meowcat.engine import Engine
from meowcat.journal.logged import LoggedEvent
from meowcat.protocols.azure import AzureBlob, AzurePresigner
from meowcat.protocols.completions import Completion
from meowcat.protocols.credentials import AccessKey, AzureKey, AzureSas, BearerToken
from meowcat.protocols.form_upload import FormUpload
from meowcat.protocols.oss import AliyunOSS
from meowcat.protocols.presigned_settings import PresignedDownload, PresignedUpload
from meowcat.protocols.presigner import Presigner
from meowcat.protocols.refreshers import RefreshReason, RefreshRequest
from meowcat.protocols.s3 import S3
from meowcat.runtime.fetches import Fetched
from meowcat.runtime.listeners import Subscription
from meowcat.sinks import Sink, callback
from meowcat.task import Progress, Result, Task
from meowcat.transfer.sources import Source

__version__ = "0.1.0"

logging.getLogger("meowcat").addHandler(logging.NullHandler())  # quiet unless the application listens

__all__ = [
    "S3",
    "AccessKey",
    "AliyunOSS",
    "Audit",
    "AuditError",
    "AzureBlob",
    "AzureKey",
    "AzurePresigner",
    "AzureSas",
    "BearerToken",
    "BodyTooLarge",
    "Checksum",
    "Code",
    "Completion",
    "Config",
    "ControlError",
    "Download",
    "DownloadPlan",
    "DuplicateTask",
    "Engine",
    "EngineClosed",
    "EngineForked",
    "Fault",
    "FaultKind",
    "FetchFailed",
    "FetchQueueFull",
    "Fetched",
    "FormUpload",
    "HostInfo",
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
    "Orphan",
    "OwnerLost",
    "Phase",
    "PlanPart",
    "PlanRequest",
    "PresignedDownload",
    "PresignedUpload",
    "Presigner",
    "Progress",
    "ProtocolSpec",
    "QueueFull",
    "RefreshReason",
    "RefreshRequest",
    "Result",
    "RetryLater",
    "Sink",
    "SinkError",
    "SinkInfo",
    "Snapshot",
    "Source",
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
    "Upload",
    "UploadPlan",
    "UploadedPart",
    "WaitingFor",
    "WouldDeadlock",
    "blocking",
    "callback",
]
