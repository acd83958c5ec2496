"""The histories of many tasks at once, from any journal, with failures kept to the tasks that they hit."""

from collections.abc import Sequence

from meowcat.core.errors import MeowcatError
from meowcat.core.values import TaskId
from meowcat.journal.contract import BulkJournal, Damage, Journal, Record

AT_ONCE = 1000
"""Tasks whose histories are asked for with one call, where there are many."""

History = Sequence[Record | Damage]

_FAILURES = (MeowcatError, OSError)


def histories(journal: Journal, tasks: Sequence[TaskId]) -> list[History | Exception]:
    """What the journal has of each of `tasks`, in their order, or why that can't be read. Blocking."""
    if len(tasks) > 1 and isinstance(journal, BulkJournal):
        try:
            return list(journal.read_many(tasks))
        except _FAILURES:
            pass  # some of them can't be read: one by one it shows which
    return [_history(journal, task) for task in tasks]


def _history(journal: Journal, task: TaskId) -> History | Exception:
    try:
        return journal.read(task)
    except _FAILURES as error:
        return error
