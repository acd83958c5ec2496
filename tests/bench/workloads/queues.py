"""Long queues, by each of the journals that are shipped; without peers, since none has a journal."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.bench import queues
from tests.bench.races import Client, Course, Entry, Figures, Job, Race, Scratch, measure
from tests.bench.servers import Served

JOURNALS = {"SQLite": "t.db", "JSON lines": "t.jsonl"}


class Queue(Course):
    """Each run has a new journal on disk; where `filled` says so, one that has its tasks already."""

    def __init__(self, folder: Path, job: Job, *, filled: bool) -> None:
        self._folder, self._job, self._filled = folder, job, filled
        self._full: dict[str, Path] = {}

    def job(self, entry: Entry, *, proving: bool) -> Job:
        job = self._job | entry.settings
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        if self._filled:
            shutil.copytree(self._with_tasks(job), folder, dirs_exist_ok=True)
        subprocess.run(["sync", "-f", folder], check=True)  # nobody pays for what another has written
        return job | {"folder": str(folder), "journal": str(folder / job["file"])}

    def _with_tasks(self, job: Job) -> Path:
        """Made once for each kind of journal."""
        if job["file"] not in self._full:
            folder = Path(tempfile.mkdtemp(dir=self._folder))
            self._full[job["file"]] = folder
            measure(queues.SUBMIT, job | {"journal": str(folder / job["file"])}, counting=False)
        return self._full[job["file"]]

    def check(self, job: Job, figures: Figures) -> None:
        """The scripts look at what they have done, through the engine."""

    def clean(self, job: Job) -> None:
        shutil.rmtree(job["folder"])


@contextmanager
def queue(scratch: Scratch, job: Job, *, filled: bool = False) -> Iterator[Queue]:
    served = Path(tempfile.mkdtemp(dir=scratch.memory))
    (served / "files").mkdir()
    for number in range(100):
        (served / "files" / f"{number}.bin").write_bytes(bytes(1000))
    if filled:  # of those some begin
        job = job | {"downloads": tempfile.mkdtemp(dir=scratch.folder)}
    with Served(served) as server:
        yield Queue(scratch.folder, job | {"origin": server.origin}, filled=filled)


def _entries(client: Client) -> tuple[Entry, ...]:
    return tuple(Entry(client, {"file": file}, name) for name, file in JOURNALS.items())


def races() -> Iterator[Race]:
    power: Job = {"durability": "power"}
    for name, count in (("100k", 100_000), ("1m", 1_000_000)):
        yield Race(
            f"queue-submit-{name}",
            f"{count:,} durable submissions by `submit_many`, onto disk, `power`",
            _entries(queues.SUBMIT),
            partial(queue, job=power | {"count": count}),
            files=count,
        )
    yield Race(
        "queue-cancel-1m",
        "`cancel_many` of 1,000,000 queued tasks, onto disk, `power`",
        _entries(queues.CANCEL),
        partial(queue, job=power | {"count": 1_000_000}),
        files=1_000_000,
    )
    yield Race(
        "queue-open-100k",
        "opening a journal of 100,000 unfinished tasks, until the first byte of the first, `power`",
        _entries(queues.OPEN),
        partial(queue, job=power | {"count": 100_000}, filled=True),
    )
    yield Race(
        "commands",
        "40,000 durable commands by 100 callers and by 10,000, each on its own task, onto disk, `power`",
        tuple(
            Entry(queues.COMMANDS, {"file": file, "count": count, "config": {"queue_capacity": 20_000}}, name)
            for count in (100, 10_000)
            for name, file in ((f"{count:,}, {journal}", file) for journal, file in JOURNALS.items())
        ),
        partial(queue, job=power | {"commands": 40_000}),
        files=40_000,
    )
