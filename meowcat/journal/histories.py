"""The histories of many tasks at once, from any journal, with failures kept to the tasks that they hit."""

from collections.abc import Sequence

from meowcat.core.values import TaskId
from meowcat.journal.contract import BulkJournal, Damage, Journal, Record

AT_ONCE = 1000
"""Tasks whose histories are asked for with one call, where there are many."""

History = Sequence[Record | Damage]


def histories(journal: Journal, tasks: Sequence[TaskId]) -> list[History | Exception]:
    """What the journal has of each of `tasks`, in their order, or why that can't be read. Blocking."""
    if len(tasks) > 1 and isinstance(journal, BulkJournal):
        try:
            return list(journal.read_many(tasks))
        except Exception:  # noqa: BLE001, S110  # an adapter may raise anything
            pass  # some of them can't be read: one by one it shows which
    return [_history(journal, task) for task in tasks]


def _history(journal: Journal, task: TaskId) -> History | Exception:
    try:
        return journal.read(task)
    except Exception as error:  # noqa: BLE001  # as above; what can't be read hits nobody else
        return error
