"""From what a user names to a journal: a path, a URL, or a Journal of the user's own.

Adapters are found by the entry point group `meowcat.journals`, each a callable that takes the location and
returns a Journal. One that has a `claims(path) -> bool` is asked about plain paths.
"""

import inspect
import os
import re
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from meowcat.core.errors import UnknownJournal
from meowcat.core.kinds import kind_of
from meowcat.journal.contract import Journal

GROUP = "meowcat.journals"

_METHODS = [name for name, member in vars(Journal).items() if callable(member) and not name.startswith("_")]

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):(?://(?=/|$))?(?P<rest>.*)", re.DOTALL)


def locate(where: str | os.PathLike[str] | Journal | None) -> Journal:
    """The journal at `where`, not yet open; in memory where nothing is named.

    Args:
        where: a path (`transfers.db`), a URL (`sqlite:/var/lib/app/transfers`, `memory:`,
            `<entry point>:<location>`), a Journal, which is returned as it is, or None.

    Raises:
        UnknownJournal: no adapter for that scheme or suffix, and the message lists the known ones; or a
            journal whose methods are asynchronous.

    """
    if where is None:
        return _make(_adapter("memory", "memory:"), "")
    if isinstance(where, Journal) and not isinstance(where, type):  # a class has the methods as well
        return _plain(where)
    if not isinstance(where, str | os.PathLike) or not isinstance(text := os.fspath(where), str):
        raise UnknownJournal(f"journal: expected a path, a URL, a Journal or None, got {kind_of(where)}")
    url = _URL.fullmatch(text) if isinstance(where, str) else None
    if url is not None and not Path(text).exists():
        return _make(_adapter(url["scheme"], text), url["rest"])
    return _by_path(Path(text))


def _adapters() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _adapter(name: str, where: str) -> EntryPoint:
    adapters = _adapters()
    if name not in adapters:
        raise UnknownJournal(f"{where}: no journal adapter {name!r}; known are {_known(adapters)}")
    return adapters[name]


def _by_path(path: Path) -> Journal:
    adapters = _adapters()
    for point in adapters.values():
        claims = getattr(point.load(), "claims", None)
        if claims is not None and claims(path):
            return _make(point, str(path))
    raise UnknownJournal(
        f"{path}: no journal adapter for suffix {path.suffix!r}; "
        f"use .db, or name the adapter, as in sqlite:{path}; known are {_known(adapters)}"
    )


def _known(adapters: dict[str, EntryPoint]) -> str:
    return ", ".join(f"{name}:" for name in sorted(adapters)) or "none: is meowcat installed?"


def _make(point: EntryPoint, location: str) -> Journal:
    journal = point.load()(location)
    if not isinstance(journal, Journal):
        raise UnknownJournal(f"{point.value} does not make a journal, but {type(journal).__name__}")
    return _plain(journal)


def _plain(journal: Journal) -> Journal:
    """The journal, if its methods are plain functions: a coroutine would be taken for what it promises."""
    for name in _METHODS:
        method = getattr(journal, name)
        if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
            raise UnknownJournal(
                f"{type(journal).__name__}.{name} is asynchronous: expected plain functions, which may block"
            )
    return journal
