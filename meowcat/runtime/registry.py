"""One small row of memory for each task that has not ended; everything else of it is in the journal.

A queue may have a million tasks: what a row takes is what a task takes that is not at work.
"""

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from hashlib import blake2b

from msgspec import Struct
from msgspec.structs import replace

from meowcat.core.machine import State
from meowcat.core.state import TaskState
from meowcat.core.urls import host_of
from meowcat.core.values import TaskId
from meowcat.runtime.scheduler import Demand

_KEY_BYTES = 15
"""Of a key's digest, which stands for it in memory: keys are paths and URLs, longer than all the rest. No two
of them have the same one: that would take 2^60 keys. One byte more would take sixteen of memory."""

_DIGESTS = 4096
"""Of keys, which are remembered while a batch of tasks is made: each is asked for several times."""


class Lack(Struct, frozen=True, order=True, gc=False):
    """What keeps a task from moving on. It has an order because rows are compared: a line may have two of one
    task for a moment, an old place and a new one.
    """

    needs: tuple[str, ...] = ()
    """What the journal does not have of the request, by name."""
    waits: bool = False
    helpless: bool = False
    """Whether it waits for what only a user can supply."""


_NOTHING = Lack()


class Row(Demand, gc=False):
    """What is kept of a task that is not active. It is the task's demand as well, for the sake of memory:
    whatever its place in line goes by never changes, and another place is another row.
    """

    key: bytes
    """The key's digest."""
    state: State
    lack: Lack = _NOTHING
    """One object for all that lack nothing, as most do."""

    @property
    def id(self) -> TaskId:
        return self.task


class Registry:
    """The rows of all tasks that have not ended, by id and by key.

    It may be iterated over while nothing is awaited: rows come and go.
    """

    def __init__(self) -> None:
        self._rows: dict[TaskId, Row] = {}
        self._keys: dict[bytes, TaskId] = {}
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows.values())

    def get(self, task: TaskId) -> Row | None:
        return self._rows.get(task)

    def by_key(self, key: str) -> TaskId | None:
        return self._keys.get(_digest(key))

    def by_keys(self, keys: Collection[str]) -> dict[str, TaskId]:
        """Those of `keys` that are somebody's."""
        known = self._keys
        if known.keys().isdisjoint(map(_digest, keys)):
            return {}  # as for most of a new queue
        return {key: known[digest] for key in keys if (digest := _digest(key)) in known}

    def claim(self, tasks: Mapping[str, TaskId]) -> None:
        """Reserve the keys of tasks that are about to be created, so that no second one gets them."""
        self._keys.update(zip(map(_digest, tasks), tasks.values(), strict=True))

    def unclaim(self, keys: Iterable[str]) -> None:
        """The tasks were not created after all."""
        for digest in map(_digest, keys):
            if self._keys.get(digest) not in self._rows:
                self._keys.pop(digest, None)

    def drop(self, task: TaskId) -> None:
        """Know the task no more; its key is nobody's."""
        row = self._rows.pop(task, None)
        if row is not None and self._keys.get(row.key) == task:
            del self._keys[row.key]

    def note(self, task: TaskState) -> Row | None:
        """Bring the task's row up to date, but for its place in line; None (and no row any more) where it has
        ended."""
        if not task.open:
            self.drop(task.id)
            return None
        row = self._rows.get(task.id)
        if row is None:
            return self.add(task)
        row.state, row.lack = task.state, _lack_of(task)
        return row

    def place(self, task: TaskState) -> Row | None:
        """`note`, where another URL may have been supplied, or options: then another row takes the place of
        the one that is there."""
        row = self.note(task)
        if row is not None:
            host, rank = host_of(task.request.url), -task.request.priority
            if row.host != host or row.rank != rank:
                row = self._rows[task.id] = replace(row, host=sys.intern(host), rank=rank)
        return row

    def add(self, task: TaskState) -> Row:
        """The row of a task that has none, and has not ended."""
        self._arrivals += 1
        request = task.request
        host = sys.intern(host_of(request.url))  # one text for all tasks of a host
        row = self._rows[task.id] = Row(
            -request.priority,
            self._arrivals,
            task.id,
            request.direction,
            host,
            _digest(task.key),
            task.state,
            _lack_of(task),
        )
        self._keys[row.key] = task.id  # also of a canceled one, while its part file stands in the way
        return row


def _lack_of(task: TaskState) -> Lack:
    wait, needs = task.wait, task.request.needs
    if wait is None and not needs:
        return _NOTHING
    return Lack(needs, wait is not None, wait is not None and wait.delay is None)


_BEGIN = blake2b(digest_size=_KEY_BYTES)
"""To be copied: that takes half of the time in which one is made."""


@lru_cache(_DIGESTS)
def _digest(key: str) -> bytes:
    digest = _BEGIN.copy()
    digest.update(key.encode(errors="surrogatepass"))
    return digest.digest()
