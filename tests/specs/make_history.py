"""Makes a golden journal: one small journal that holds every kind of event, and what it must replay to.

    python tests/specs/make_history.py specs/histories/NAME

Golden journals are kept for ever: make a new folder for a new version of the format or of an event, never
write over one that a release has had. The folder gets the same history as a journal of each adapter, as an
export, and `expected.json`.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from meowcat.core import events as ev
from meowcat.core.info import info_of
from meowcat.core.machine import State
from meowcat.core.state import evolve
from meowcat.core.transfers import Download
from meowcat.core.values import Checksum, Fault, FaultKind, FileIdentity, Generation, Position, TaskId
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
BUSY = Fault(kind=FaultKind.STATUS, detail="the server answered 503", status=503, retry_after=2000)
GONE = Fault(kind=FaultKind.STATUS, detail="the server answered 404", status=404)
QUEUED, PREPARING, RUNNING, PAUSED = State.QUEUED, State.PREPARING, State.RUNNING, State.PAUSED


def created(task: str, **fields: object) -> ev.Created:
    state = fields.pop("state", QUEUED)
    request = Download(f"https://host.example/{task.lower()}.iso", f"/data/{task.lower()}.iso", **fields)
    return ev.Created(state=state, task=TaskId(task), key=request.to, at=AT, request=request)


def stored(state: State, start: int, stop: int, size: int | None = None) -> ev.Stored:
    digests = DIGEST * (stop - start)
    return ev.Stored(state=state, pieces=((start, stop),), digests=digests, file=FILE, size=size)


def failed_attempt(fault: Fault, attempt: int, waiting: WaitingFor, delay: int | None) -> ev.AttemptFailed:
    return ev.AttemptFailed(state=RUNNING, fault=fault, attempt=attempt, waiting_for=waiting, delay=delay)


HISTORIES: dict[str, list[list[ev.Event]]] = {
    "01HF7YAT00COMP1ETE00000000": [
        [
            created("01HF7YAT00COMP1ETE00000000", checksum=str(SHA256), connections=4, priority=2),
            ev.Admitted(state=PREPARING, run=1),
            ev.Started(state=RUNNING, generation=KNOWN, piece_size=4 * MIB),
            stored(RUNNING, 0, 2),
            failed_attempt(BROKEN, 1, WaitingFor.RETRY, 250),
            failed_attempt(BROKEN, 1, WaitingFor.RETRY, None),
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
}
"""The events of each task, per opening."""

JOURNALS = {"sqlite": "transfers.db", "jsonl": "transfers.jsonl"}


def fill(where: str) -> None:
    """The tasks' steps, one task's after the other's, over two openings, each with its own epoch."""
    seqs = dict.fromkeys(HISTORIES, 0)
    for opening in range(2):
        journal = locate(where)
        journal.open(Owner(4711, "host.example", "golden"), "power")
        turns = [list(events[opening]) for events in HISTORIES.values()]
        while any(turns):
            batch = []
            for task, events in zip(HISTORIES, turns, strict=True):
                if events:
                    seqs[task] += 1
                    batch.append(entry(TaskId(task), seqs[task], events.pop(0)))
            journal.append(batch)
        journal.set_cursor("audit", Position(12 + opening))
        journal.close()


def entry(task: TaskId, seq: int, event: ev.Event) -> Entry:
    kind, version, body = encode(event)
    ended = isinstance(event, ev.Completed | ev.PartDiscarded)
    return Entry(task, seq, not ended, kind, version, AT + 1000 * seq, body)


STABLE = (
    "id", "key", "state", "phase", "direction", "url", "path", "priority", "created", "size", "bytes_done",
    "attempts", "crashes", "waiting_for", "needs", "reason", "fault", "digests", "client_file_sign",
)  # fmt: skip
"""Fields of a task that the first release had. Later ones may add to them."""


def seen(journal: Any) -> dict[str, Any]:
    """What a journal holds, as far as it must never change."""
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
            "tasks": [{name: task[name] for name in STABLE} for task in tasks],
        }
    finally:
        journal.close()


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
    for leftover in ("transfers.db-lock", "transfers.db-wal", "transfers.db-shm"):
        (folder / leftover).unlink(missing_ok=True)
    for leftover in ("lock", "reserve"):
        (segments / leftover).unlink(missing_ok=True)
    print(json.dumps(sorted(path.name for path in folder.iterdir())))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
