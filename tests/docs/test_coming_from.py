"""The page for those who come from rusty-cat has each of its names, and each counterpart on it is there."""

import dataclasses
import importlib
import inspect
import re
from pathlib import Path

import click
import msgspec.structs
import pytest

import meowcat
from meowcat.cli.app import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "coming-from-rusty-cat.md").read_text("utf-8")

# What the crate's own pages for 0.1.1 and 0.2.4 have; those of 0.1.1 are all among those of 0.2.4.

CAPABILITIES = """
HTTP resumable upload
HTTP resumable download
In-memory upload source
Aliyun OSS direct upload/download
Aliyun OSS presigned upload/download
Azure Blob direct upload/download
Azure Blob SAS upload/download
Provider-neutral presigned primitives
Presigned plan validation
Presigned completion/abort callbacks
Presigned URL refresh on expiry
Upload concurrency setting
Download concurrency setting
Upload progress
Download progress
Global progress listener
Global SDK debug logs
Application-managed persistence
Custom database adaptation
Callback panic isolation
Chunk failure retry
Upload prepare retry
Intra-file parallel parts
Transport-aware retry & backoff
Disk-full & local-file-removed detection
Pause/resume/cancel
Paused import / selective restore
Resume after process restart / crash
Presigned multipart resume across restart
Provider multipart session id surfacing
Upload abort on cancel
Snapshot diagnostics
Custom HTTP client
Custom upload protocol
Custom download protocol
Custom upload request method/headers
Per-task download HTTP override
"""

LAYERS = """
Public facade
Client
Config
Task builders
Scheduler
Protocol plugins
Observability
"""

CLIENT = """
MeowClient::new(config)
http_client()
register_global_progress_listener(listener)
unregister_global_progress_listener(id)
clear_global_listener()
set_debug_log_listener(Some(listener))
try_enqueue(task, progress_cb, complete_cb)
try_enqueue_paused(task, progress_cb, complete_cb)
pause(task_id)
resume(task_id)
cancel(task_id)
snapshot()
close()
is_closed()
"""

PARAMETERS = {
    "max_upload_concurrency": ("2", ">= 1"),
    "max_download_concurrency": ("2", ">= 1"),
    "breakpoint_download_http.range_accept": ("application/octet-stream", "valid header value"),
    "http_client": ("None", "reusable client"),
    "http_timeout": ("5 s", "positive"),
    "tcp_keepalive": ("30 s", "positive"),
    "command_queue_capacity": ("128", ">= 1"),
    "worker_event_queue_capacity": ("256", ">= 1"),
}
"""With default and constraint."""

ACCESSORS = """
MeowConfig::default()
MeowConfig::builder()
max_upload_concurrency(n)
max_download_concurrency(n)
http_client(client)
http_timeout(duration)
tcp_keepalive(duration)
command_queue_capacity(n)
worker_event_queue_capacity(n)
breakpoint_download_http(config)
build()
"""

UPLOADS = """
new(file_name, file_path, chunk_size)
from_bytes(file_name, bytes, chunk_size)
with_url(url)
with_file_path(path)
with_bytes(bytes)
with_method(method)
with_headers(headers)
with_breakpoint_upload(upload)
with_max_chunk_retries(retries)
with_max_upload_prepare_retries(retries)
with_max_parts_in_flight(n)
build()
"""

DOWNLOADS = """
new(file_name, file_path, chunk_size, url)
with_url(url)
with_file_path(path)
with_headers(headers)
with_client_file_sign(sign)
with_breakpoint_download(download)
with_breakpoint_download_http(config)
with_max_chunk_retries(retries)
build()
"""

TYPES = """
PounceTask
TaskId
FileTransferRecord
TransferSnapshot
GlobalProgressListenerId
Log
MeowError
InnerErrorCode
BreakpointUpload
BreakpointDownload
StandardRangeDownload
UploadResumeInfo
AliOssDirectUpload
AliOssDirectDownload
PresignedMultipartUpload
PresignedRangeDownload
PresignedMultipartUploadPlan
PresignedUploadUrlRefresher
PresignedDownloadUrlRefresher
PresignedCompletionBodyBuilder
"""

PLANS = """
total_size
chunk_size
parts
upload_id
metadata
complete_request
abort_request
refresh_before_secs
validate()
uploaded_parts()
with_resumed_parts()
range URL
HEAD URL
"""

BINARY = {
    "max_body_bytes": ("5 MiB", "<= 64 MiB"),
    "redirect_limit": ("5", "0 to 10"),
    "concurrent requests": ("2", "fixed"),
    "accepted tasks": ("1024", "fixed"),
    "retry delays": ("300 ms, 800 ms", "at most 8"),
}

CODES = {
    -1: "Unknown",
    0: "Success",
    101: "RuntimeCreationFailedError",
    102: "ParameterEmpty",
    103: "DuplicateTaskError",
    104: "EnqueueError",
    105: "IoError",
    106: "HttpError",
    107: "ClientClosed",
    108: "TaskNotFound",
    109: "ResponseStatusError",
    110: "MissingOrInvalidContentLengthFromHead",
    111: "CommandSendFailed",
    112: "CommandResponseFailed",
    113: "ResponseParseError",
    114: "InvalidRange",
    115: "FileNotFound",
    116: "ChecksumMismatch",
    117: "InvalidTaskState",
    118: "LockPoisoned",
    119: "HttpClientBuildFailed",
    120: "TaskCanceled",
    121: "DiskFull",
    122: "LocalFileRemoved",
    123: "BinaryTaskQueueFull",
    124: "BinaryBodyTooLarge",
}

STATUSES = {
    "None": -1,
    "Pending": 0,
    "Transmission": 1,
    "Paused": 2,
    "Complete": 3,
    "Failed": 4,
    "Canceled": 5,
}

FEATURES = """
aliyun-oss-direct
aliyun-oss-presigned
azure-blob-direct
azure-blob-sas
presigned
aliyun-oss
azure-blob
oss-providers
all
"""

EXAMPLES = """
examples/http_local_chunk_transfer.rs
examples/restore_import_paused.rs
examples/resume_after_restart.rs
examples/aliyun_oss_direct_chunk_transfer.rs
examples/aliyun_oss_direct_custom_chunk_transfer.rs
examples/aliyun_oss_presigned_chunk_transfer.rs
examples/azure_blob_direct_chunk_transfer.rs
examples/azure_blob_direct_custom_chunk_transfer.rs
examples/azure_blob_sas_chunk_transfer.rs
"""

GUIDES = """
Aliyun OSS direct upload/download
Aliyun OSS presigned upload/download
Azure Blob direct upload/download
Azure Blob SAS upload/download
Provider feature flags: direct vs presigned/SAS
Default HTTP upload protocol contract
Error codes reference
Persistence and custom database integration
Importing tasks in the paused state (selective restore)
Resuming uploads and downloads after a process restart or crash
Shutdown checklist
"""


def names(text):
    return text.strip().splitlines()


SECTIONS = {
    "Capabilities": names(CAPABILITIES),
    "Layers": names(LAYERS),
    "MeowClient": names(CLIENT),
    "Settings": [*PARAMETERS, *names(ACCESSORS)],
    "UploadPounceBuilder": names(UPLOADS),
    "DownloadPounceBuilder": names(DOWNLOADS),
    "Types": names(TYPES),
    "Presigned plans": names(PLANS),
    "Binary GET": list(BINARY),
    "Error codes": list(CODES.values()),
    "Status": list(STATUSES),
    "Features": names(FEATURES),
    "Examples": names(EXAMPLES),
    "Guides": names(GUIDES),
}


def rows_of(section):
    """The rows of a section's tables, by the names of their columns."""
    body = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    columns, found = [], []
    for line in body.splitlines():
        if not line.startswith("| "):
            columns = columns if line.startswith("|---") else []
            continue
        cells = [cell.strip() for cell in line.strip("|").split(" |")]
        if columns:
            found.append(dict(zip(columns, cells, strict=True)))
        else:
            columns = cells
    return found


ROWS = [(section, row) for section in SECTIONS for row in rows_of(section)]


def bare(cell):
    return cell.replace("`", "")


def counterparts(row):
    return re.findall(r"`([^`]+)`", row["meowcat"])


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_has_all_names_and_no_others(section):
    assert sorted(bare(row["rusty-cat"]) for row in rows_of(section)) == sorted(SECTIONS[section])


def test_the_page_has_no_tables_but_these():
    assert PAGE.count("| rusty-cat |") == len(SECTIONS) + 1  # Settings has two
    assert PAGE.count("\n| ") - PAGE.count("| rusty-cat |") == len(ROWS)


def resolved(name):
    """What `name` leads to from `meowcat`, or from the module that it begins with."""
    path = name.removeprefix("meowcat.").split(".") if name != "meowcat" else []
    found = meowcat
    for part in path:
        if not hasattr(found, part) and inspect.ismodule(found):
            importlib.import_module(f"{found.__name__}.{part}")
        found = getattr(found, part)
    return found


def parameters(found):
    return inspect.signature(found).parameters


def check(counterpart):
    """See that it is there: a file, an option of a command, or a public name with its parameters."""
    if "/" in counterpart:
        assert (ROOT / counterpart).is_file()
    elif counterpart.startswith("meowcat "):
        _, command, *options = counterpart.split()
        found = main.get_command(click.Context(main), command)
        assert found is not None
        assert set(options) <= {text for option in found.params for text in option.opts}
    else:
        name, _, given = counterpart.rstrip(")").partition("(")
        assert set(given.replace(",", " ").split()) <= set(parameters(resolved(name)) if given else ())
        resolved(name)


@pytest.mark.parametrize(("section", "row"), ROWS, ids=lambda each: each if isinstance(each, str) else "")
def test_every_counterpart_is_there_and_what_has_none_says_why(section, row):
    found = counterparts(row)
    assert re.sub(r"`[^`]+`", "", row["meowcat"]).replace(", ", "") == ("" if found else "none"), row
    for counterpart in found:
        try:
            check(counterpart)
        except Exception as error:  # raised again, with the row that it is about
            raise AssertionError(f"{section}: {bare(row['rusty-cat'])}: {counterpart}: {error!r}") from error
    assert found or row["Notes"], f"{section}: {row['rusty-cat']} has neither a counterpart nor a reason"


@pytest.mark.parametrize(
    "wrong", ["Engine.nothing", "Engine(nothing)", "meowcat put --nothing", "no/file.py"]
)
def test_a_counterpart_that_is_not_there_would_be_noticed(wrong):
    with pytest.raises((AssertionError, AttributeError, ImportError)):
        check(wrong)


@pytest.mark.parametrize(("section", "known"), [("Settings", PARAMETERS), ("Binary GET", BINARY)])
def test_defaults_and_constraints_are_those_of_the_crate(section, known):
    said = {
        bare(row["rusty-cat"]): (row["Default"], row["Constraint"])
        for row in rows_of(section)
        if "Default" in row
    }
    assert said == known


def default_of(counterpart):
    name, _, parameter = counterpart.rstrip(")").partition("(")
    if parameter:
        return parameters(resolved(name))[parameter].default
    owner, _, field = name.rpartition(".")
    kind = resolved(owner)
    fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else msgspec.structs.fields(kind)
    return next(each.default for each in fields if each.name == field)


@pytest.mark.parametrize(
    "row", [row for _, row in ROWS if row.get("Default here")], ids=lambda row: bare(row["rusty-cat"])
)
def test_the_default_here_is_what_it_is(row):
    assert repr(default_of(counterparts(row)[0])) == bare(row["Default here"])


def test_error_codes_keep_their_numbers():
    said = {int(row["Number"]): bare(row["rusty-cat"]) for row in rows_of("Error codes")}
    assert said == CODES
    for row in rows_of("Error codes"):
        code = next(each for each in counterparts(row) if each.startswith("Code."))
        assert resolved(code) == int(row["Number"])


def test_statuses_keep_their_integers():
    assert {bare(row["rusty-cat"]): int(row["Integer"]) for row in rows_of("Status")} == STATUSES
    assert {each for row in rows_of("Status") for each in counterparts(row)} == {
        f"State.{state.name}" for state in meowcat.State
    }
