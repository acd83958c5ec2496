"""Makes a golden journal: one small journal that holds every kind of event, and what it must replay to.

    python tests/specs/make_history.py specs/histories/NAME

Golden journals are kept for ever: make a new folder for a new version of the format or of an event, never
write over one that a release has had. (One that no release has had is removed first, and made again.) The
folder gets the same history as a journal of each adapter, as an export, and `expected.json`, and `SHA256SUMS`
the files' sums.
"""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from meowcat.core import events as ev
from meowcat.core.info import info_of
from meowcat.core.machine import State
from meowcat.core.sessions import Capabilities, Receipt, Session
from meowcat.core.state import TaskState, evolve
from meowcat.core.transfers import Download, ProtocolSpec, Upload
from meowcat.core.values import (
    Checksum,
    Fault,
    FaultKind,
    FileIdentity,
    Generation,
    Position,
    SourceIdentity,
    TaskId,
)
from meowcat.core.waits import WaitingFor
from meowcat.journal.checkup import pages
from meowcat.journal.codec import encode
from meowcat.journal.contract import Entry, Owner
from meowcat.journal.locate import locate
from meowcat.journal.replay import Fold

AT = 1_700_000_000_000
MIB = 1 << 20
FILE = FileIdentity(2049, 123456)
DIGEST = bytes(range(32))
SHA256 = Checksum("sha256", "ab" * 32)
KNOWN = Generation(
    size=10 * MIB, ranges=True, etag='"v1"', last_modified="Tue, 14 Nov 2023 22:13:20 GMT", strong=True
)
CHANGED = Generation(size=6 * MIB, ranges=True, etag='"v2"', strong=True, digests=(SHA256,))
BROKEN = Fault(kind=FaultKind.DISCONNECTED, detail="the connection broke after 1048576 bytes")
CROWDED = Fault(kind=FaultKind.EXHAUSTED, detail="Too many open files (EMFILE)")
BUSY = Fault(kind=FaultKind.STATUS, detail="the server answered 503", status=503, retry_after=2000)
GONE = Fault(kind=FaultKind.STATUS, detail="the server answered 404", status=404)
CHANGED_SOURCE = Fault(kind=FaultKind.SOURCE_CHANGED, detail="/data/up.iso was changed during the upload")
MD5 = Checksum("md5", "cd" * 16)
SOURCE = SourceIdentity(
    size=20 * MIB,
    device=2049,
    inode=777,
    mtime_ns=1_700_000_000_123_456_789,
    ctime_ns=1_700_000_001_000_000_000,
)
ABLE = Capabilities(part_checksum="sha256", needs_digests=("md5",), max_parts=1000, min_part=5 * MIB)
QUEUED, PREPARING, RUNNING, PAUSED = State.QUEUED, State.PREPARING, State.RUNNING, State.PAUSED


def created(task: str, **fields: object) -> ev.Created:
    state = fields.pop("state", QUEUED)
    request = Download(f"https://host.example/{task.lower()}.iso", f"/data/{task.lower()}.iso", **fields)
    return ev.Created(state=state, task=TaskId(task), key=request.to, at=AT, request=request)


def stored(state: State, start: int, stop: int, size: int | None = None) -> ev.Stored:
    digests = DIGEST * (stop - start)
    return ev.Stored(state=state, pieces=((start, stop),), digests=digests, file=FILE, size=size)


def upload(task: str, **fields: object) -> ev.Created:
    """By a protocol that nobody has: a golden journal is opened by engines, which must reach nobody."""
    spec = ProtocolSpec("golden", 2, {"region": "eu", "parts": 4, "strict": True})
    needs = ("header:authorization", "credential:prod", "protocol:golden")
    request = Upload(
        "/data/up.iso",
        f"https://host.example/{task.lower()}",
        spec,
        headers={"content-type": "a/b"},
        needs=needs,
        **fields,
    )
    return ev.Created(state=QUEUED, task=TaskId(task), key=request.url, at=AT, request=request)


def opened(name: str, *held: tuple[int, int]) -> ev.SessionOpened:
    session = Session(id=name, capabilities=ABLE, facts={"bucket": "b"})
    return ev.SessionOpened(state=RUNNING, session=session, piece_size=8 * MIB, held=held)


def sent(start: int, stop: int) -> ev.Sent:
    receipts = tuple(
        Receipt(text=f'"etag-{index}"', checksum=f"sha256:{index:064x}") for index in range(start, stop)
    )
    return ev.Sent(state=RUNNING, pieces=((start, stop),), digests=DIGEST * (stop - start), receipts=receipts)


def pinned(state: State = PREPARING) -> ev.SourcePinned:
    return ev.SourcePinned(state=state, source=SOURCE, digests=(MD5,))


def failed_attempt(fault: Fault, attempt: int, waiting: WaitingFor, delay: int | None) -> ev.AttemptFailed:
    return ev.AttemptFailed(state=RUNNING, fault=fault, attempt=attempt, waiting_for=waiting, delay=delay)


HISTORIES: dict[str, list[list[ev.Event]]] = {
    "01HF7YAT00COMP1ETE00000000": [
        [
            created(
                "01HF7YAT00COMP1ETE00000000",
                checksum=str(SHA256),
                connections=4,
                priority=2,
                remote_time=True,
            ),
            ev.Admitted(state=PREPARING, run=1),
            ev.Started(state=RUNNING, generation=KNOWN, piece_size=4 * MIB),
            stored(RUNNING, 0, 2),
            failed_attempt(BROKEN, 1, WaitingFor.RETRY, 250),
            failed_attempt(CROWDED, 1, WaitingFor.RETRY, None),
            ev.WaitEnded(state=RUNNING),
            ev.Restarted(state=RUNNING, reason="the content changed", changed=True),
            ev.Started(state=RUNNING, generation=CHANGED, piece_size=4 * MIB),
            stored(RUNNING, 0, 1),
            ev.Requeued(state=QUEUED, reason="the engine was closed"),
        ],
        [
            ev.Admitted(state=PREPARING, run=2),
            ev.Rechecked(state=PREPARING, kept=((0, 1),), lost=()),
            ev.Started(state=RUNNING, generation=CHANGED, piece_size=4 * MIB),
            stored(RUNNING, 1, 2),
            ev.PublishIntended(state=RUNNING, file=FILE, size=6 * MIB, digests=(SHA256,)),
            ev.Completed(
                state=State.COMPLETE,
                path="/data/01hf7yat00comp1ete00000000.iso",
                size=6 * MIB,
                digests=(SHA256,),
            ),
        ],
    ],
    "01HF7YAT01CANCE1ED00000000": [
        [
            created("01HF7YAT01CANCE1ED00000000", needs=("header:authorization",), overwrite="replace"),
            ev.Waiting(state=QUEUED, waiting_for=WaitingFor.SUPPLY, names=("header:authorization",)),
            ev.Supplied(state=QUEUED, names=("header:authorization",)),
            ev.Admitted(state=PREPARING, run=1),
            ev.Failed(state=State.FAILED, fault=GONE),
        ],
        [
            ev.Retried(state=QUEUED),
            ev.Canceled(state=State.CANCELED),
            ev.PartDiscarded(state=State.CANCELED, published=False),
        ],
    ],
    "01HF7YAT02RUNN1NG000000000": [
        [
            created(
                "01HF7YAT02RUNN1NG000000000", limit_rate=1_000_000, client_file_sign="order 4711, ünïcödé 猫"
            ),
            ev.Admitted(state=PREPARING, run=1),
            ev.Started(state=RUNNING, generation=KNOWN, piece_size=4 * MIB),
            stored(RUNNING, 0, 1),
        ],
        [
            ev.Recovered(state=QUEUED, crashed=True, reason="opened with on_restart='resume'"),
            ev.Admitted(state=PREPARING, run=2),
            ev.Rechecked(state=PREPARING, kept=(), lost=((0, 1),)),
            ev.Started(state=RUNNING, generation=KNOWN, piece_size=4 * MIB),
            stored(RUNNING, 2, 3),
            failed_attempt(BUSY, 1, WaitingFor.SERVER, 2000),
        ],
    ],
    "01HF7YAT03PAUSED0000000000": [
        [
            created("01HF7YAT03PAUSED0000000000", state=PAUSED),
            ev.Resumed(state=QUEUED),
        ],
        [ev.Paused(state=PAUSED, reason="asked to")],
    ],
    "01HF7YAT04UPC0MP1ETE000000": [
        [
            upload("01HF7YAT04UPC0MP1ETE000000", digest="sha256", connections=3, prepare_retries=5),
            ev.Admitted(state=PREPARING, run=1),
            pinned(),
            ev.SessionIntended(state=PREPARING),
            opened("session-1"),
            sent(0, 2),
            failed_attempt(BUSY, 1, WaitingFor.SERVER, 2000),
            ev.WaitEnded(state=RUNNING),
            ev.Requeued(state=QUEUED, reason="the engine was closed"),
        ],
        [
            ev.Admitted(state=PREPARING, run=2),
            ev.Rechecked(state=RUNNING, kept=((0, 1),), lost=((1, 2),)),
            pinned(RUNNING),
            sent(1, 3),
            ev.CommitIntended(state=RUNNING, size=20 * MIB, digests=(MD5, SHA256)),
            ev.Completed(
                state=State.COMPLETE,
                path="/data/up.iso",
                size=20 * MIB,
                digests=(MD5, SHA256),
                url="https://host.example/01hf7yat04upc0mp1ete000000",
                created=AT,
                result={"etag": '"whole"', "version_id": "v 7"},
            ),
        ],
    ],
    "01HF7YAT05UPCANCE1ED000000": [
        [
            upload("01HF7YAT05UPCANCE1ED000000", verify_source="always"),
            ev.Admitted(state=PREPARING, run=1),
            pinned(),
            ev.SessionIntended(state=PREPARING),
            ev.SessionUnopened(state=PREPARING, lost=True),
            ev.SessionIntended(state=PREPARING),
            opened("session-2", (0, 1)),
            sent(1, 2),
            ev.Canceled(state=State.CANCELED),
        ],
        [ev.SessionAborted(state=State.CANCELED, session="session-2", gone=True, committed=False)],
    ],
    "01HF7YAT06UPCHANGED0000000": [
        [
            upload("01HF7YAT06UPCHANGED0000000", client_file_sign="order 4711"),
            ev.Admitted(state=PREPARING, run=1),
            pinned(),
            ev.SessionIntended(state=PREPARING),
            opened("session-3"),
            sent(0, 1),
            ev.Failed(state=State.FAILED, fault=CHANGED_SOURCE),
            ev.SessionDropped(
                state=State.FAILED, reason="the source was changed", abort=True, changed=False, unpin=True
            ),
        ],
        [
            ev.SessionAborted(
                state=State.FAILED,
                session="session-3",
                gone=False,
                committed=False,
                detail="403: no right to",
            ),
            ev.SessionCondemned(state=State.FAILED, session="session-3"),
        ],
    ],
    "01HF7YAT07UPC0MM1TT1NG0000": [
        [
            upload("01HF7YAT07UPC0MM1TT1NG0000"),
            ev.Admitted(state=PREPARING, run=1),
            pinned(),
            ev.SessionIntended(state=PREPARING),
            opened("session-4"),
            sent(0, 3),
            ev.CommitIntended(state=RUNNING, size=20 * MIB, digests=(MD5,)),
        ],
        [
            ev.Recovered(state=QUEUED, crashed=True, reason="opened with on_restart='resume'"),
            ev.Paused(state=PAUSED, reason="asked to"),
        ],
    ],
}
"""The events of each task, per opening."""

JOURNALS = {"sqlite": "transfers.db", "jsonl": "transfers.jsonl"}


def fill(where: str) -> None:
    """The tasks' steps, one task's after the other's, over two openings, each with its own epoch."""
    seqs = dict.fromkeys(HISTORIES, 0)
    tasks: dict[str, TaskState | None] = dict.fromkeys(HISTORIES)
    for opening in range(2):
        journal = locate(where)
        journal.open(Owner(4711, "host.example", "golden"), "power")
        turns = [list(events[opening]) for events in HISTORIES.values()]
        while any(turns):
            batch = []
            for task, events in zip(HISTORIES, turns, strict=True):
                if events:
                    seqs[task] += 1
                    event = events.pop(0)
                    tasks[task] = evolve(tasks[task], event)
                    batch.append(entry(tasks[task], seqs[task], event))
            journal.append(batch)
        journal.set_cursor("audit", Position(12 + opening))
        journal.close()


def entry(task: TaskState, seq: int, event: ev.Event) -> Entry:
    kind, version, body = encode(event)
    return Entry(task.id, seq, task.open, kind, version, AT + 1000 * seq, body)


STABLE = (
    "id", "key", "state", "phase", "direction", "url", "path", "priority", "created", "size", "bytes_done",
    "attempts", "crashes", "waiting_for", "needs", "reason", "fault", "digests", "client_file_sign",
)  # fmt: skip
"""Fields of a task that the first release had. Later ones may add to them."""

WITH_UPLOADS = (*STABLE, "remote")
"""Those that the first release with uploads had."""


def seen(journal: Any, names: tuple[str, ...] = WITH_UPLOADS) -> dict[str, Any]:
    """What a journal holds, as far as it must never change: of its tasks the fields with these names."""
    journal.open_for_reading()
    try:
        fold = Fold(evolve)
        records = []
        for page in pages(journal):
            fold.add(page)
            records += page
        tasks = [msgspec.to_builtins(info_of(task)) for task in fold.tasks.values()]
        return {
            "records": len(records),
            "events": [
                f"{record.task[10:17]} {record.seq} {record.type} v{record.version}" for record in records
            ],
            "epochs": [record.epoch for record in records],
            "chain": records[-1].chain.hex(),
            "cursors": dict(journal.cursors()),
            "unfinished": list(journal.unfinished()),
            "tasks": [{name: task[name] for name in names} for task in tasks],
        }
    finally:
        journal.close()


def record_sums(folder: Path) -> None:
    """Add the folder's files to the list of what never changes."""
    listed = folder.parent / "SHA256SUMS"
    lines = [line for line in listed.read_text("utf-8").splitlines() if f"  {folder.name}/" not in line]
    lines += [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder.parent)}"
        for path in folder.rglob("*")
        if path.is_file()
    ]
    listed.write_text("\n".join(sorted(lines, key=lambda line: line.split("  ", 1)[1])) + "\n", "utf-8")


def main(folder: Path) -> None:
    folder.mkdir(parents=True)  # never one that is there
    database = folder / JOURNALS["sqlite"]
    fill(str(database))
    run = [sys.executable, "-m", "meowcat", "journal"]
    lines, segments = folder / "transfers.lines", folder / JOURNALS["jsonl"]
    subprocess.run([*run, "export", str(database), "-o", str(lines)], check=True)
    subprocess.run([*run, "import", str(lines), str(segments)], check=True)
    (folder / "expected.json").write_text(
        msgspec.json.format(msgspec.json.encode(seen(locate(str(database)))), indent=1).decode() + "\n"
    )
    for journal in (database, segments):
        subprocess.run([*run, "compact", str(journal)], check=True)
    for leftover in ("transfers.db-lock", "transfers.db-wal", "transfers.db-shm"):
        (folder / leftover).unlink(missing_ok=True)
    for leftover in ("lock", "reserve"):
        (segments / leftover).unlink(missing_ok=True)
    record_sums(folder)
    print(json.dumps(sorted(path.name for path in folder.iterdir())))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
