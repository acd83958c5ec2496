"""One small row of memory for each task that has not ended; everything else of it is in the journal."""

from collections.abc import Callable, Iterator

from msgspec import Struct

from meowcat.core.machine import State
from meowcat.core.state import TaskState
from meowcat.core.transfers import Direction
from meowcat.core.urls import host_of
from meowcat.core.values import TaskId
from meowcat.runtime.scheduler import Demand


class Row(Struct, gc=False):
    """What is kept of a task that is not active."""

    id: TaskId
    key: str
    state: State
    direction: Direction
    host: str
    priority: int
    order: int
    url: str = ""
    """Sealed; kept to see that it is still the one that `host` was taken from."""
    needs: tuple[str, ...] = ()
    """What the journal does not have of the request, by name."""
    waits: bool = False
    helpless: bool = False
    """Whether it waits for what only a user can supply."""

    def demand(self) -> Demand:
        return Demand(self.id, self.direction, self.host, self.priority, self.order)


class Registry:
    """The rows of all tasks that have not ended, by id and by key."""

    def __init__(self) -> None:
        self._rows: dict[TaskId, Row] = {}
        self._keys: dict[str, TaskId] = {}
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(tuple(self._rows.values()))

    def any(self, of: Callable[[Row], bool]) -> bool:
        """Whether there is a row of which `of`, which changes none, is true. Copies none of them."""
        return any(map(of, self._rows.values()))

    def get(self, task: TaskId) -> Row | None:
        return self._rows.get(task)

    def by_key(self, key: str) -> TaskId | None:
        return self._keys.get(key)

    def claim(self, key: str, task: TaskId) -> None:
        """Reserve a key for a task that is about to be created, so that no second one gets it."""
        self._keys[key] = task

    def unclaim(self, key: str) -> None:
        """The task was not created after all."""
        if self._keys.get(key) not in self._rows:
            self._keys.pop(key, None)

    def drop(self, task: TaskId) -> None:
        """Know the task no more; its key is nobody's."""
        row = self._rows.pop(task, None)
        if row is not None and self._keys.get(row.key) == task:
            del self._keys[row.key]

    def note(self, task: TaskState) -> Row | None:
        """Bring the task's row up to date; None (and no row any more) where the task has ended."""
        if not task.open:
            self.drop(task.id)
            return None
        row = self._rows.get(task.id)
        if row is None:
            row = self._add(task)
        row.state, row.needs, row.priority = task.state, task.request.needs, task.request.priority
        if row.url != task.request.url:
            row.url, row.host = task.request.url, host_of(task.request.url)
        row.waits = task.wait is not None
        row.helpless = task.wait is not None and task.wait.delay is None
        return row

    def _add(self, task: TaskState) -> Row:
        self._arrivals += 1
        request = task.request
        row = Row(
            task.id,
            task.key,
            task.state,
            request.direction,
            host_of(request.url),
            request.priority,
            self._arrivals,
            request.url,
        )
        self._rows[task.id] = row
        self._keys[task.key] = task.id  # also of a canceled one, while its part file stands in the way
        return row
