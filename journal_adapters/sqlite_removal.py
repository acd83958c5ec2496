"""The removal of a SQLite journal, of which a crash leaves all or what anybody can finish.

Its first step is one rename: until then the journal is whole, and after it there is none. The other name says
that what else stands there, the archive above all, is a removed journal's: whoever removes it again, or makes
a new one, deletes that first. Without the name an archive stays, since its journal may have been moved away
and may come back. The lock file goes last, for until then nobody makes a new journal; it is empty by then,
which says that much where nothing else is left.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from journal_adapters.ownership import Lock
from journal_adapters.sqlite_archive import ARCHIVE
from journal_adapters.sqlite_file import LOGS, MAKING, sync_folder
from meowcat.core.errors import JournalAccess

LOCK = "-lock"
"""What the name of a journal's lock file ends with."""
_REMOVING = "-removing"
_BESIDE = (
    *LOGS,
    *MAKING,
    *(f"{ARCHIVE}{part}" for part in ("", *LOGS, *MAKING)),
    "-control",
)


def was_cut_off(path: Path) -> bool:
    """Whether something is left of a removal at `path`, where no journal stands."""
    lock = _beside(path, LOCK)
    return _beside(path, _REMOVING).exists() or (lock.exists() and lock.stat().st_size == 0)


def remove(path: Path, lock: Lock) -> None:
    """Delete the journal, whose lock is held, and all that belongs to it; or what is left of it.

    Raises:
        JournalAccess: it can't be deleted.

    """
    with _explained(f"{path}: can't be removed"):
        if path.exists():
            path.rename(_beside(path, _REMOVING))
            sync_folder(path)  # or the archive might be gone after a power failure, and the journal there
        lock.forget()
        _finish(path)
        _beside(path, LOCK).unlink(missing_ok=True)


def make_way(path: Path) -> None:
    """Finish what a removal has left, for the journal that is opened at `path`; the lock is held.

    Raises:
        JournalAccess: it can't be deleted.

    """
    with _explained(f"{path}: what is left of a removed journal can't be removed"):
        if path.exists():  # it was put back: what stands beside it is its own again
            _beside(path, _REMOVING).unlink(missing_ok=True)
        else:
            _finish(path)


def _finish(path: Path) -> None:
    removing = _beside(path, _REMOVING)
    if removing.exists():
        for suffix in _BESIDE:
            _beside(path, suffix).unlink(missing_ok=True)
        removing.unlink()


def _beside(path: Path, suffix: str) -> Path:
    return Path(f"{path}{suffix}")


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise JournalAccess(f"{what}: {error.strerror}") from error
