"""Who owns a journal: a lock file beside it, held with `flock`, and deleted only with the journal itself.

The kernel frees the lock when its process dies, so no stale lock can be left. A lock file that is deleted
could be locked by two: one on the old file, one on the new; so whoever has locked it looks whether it still
stands there. Never `lockf`: there a second open in the same process succeeds, and closing it frees the lock.
The owner's name stands in the file for the message alone.

A forked child shares the parent's lock: it closes the descriptor and must not unlock, which would free the
parent's. And no child is forked in the middle of what is `Unforked`.
"""

import errno
import os
import sys
import threading
import time
from pathlib import Path
from weakref import WeakSet

import msgspec

from meowcat.core.errors import JournalAccess, JournalError, JournalOwned
from meowcat.journal.contract import Owner

if sys.platform != "win32":
    import fcntl

_LIVE: "set[Lock]" = set()
"""Strong references: a journal that was dropped without a close still holds its descriptor."""
_UNFORKED: "WeakSet[Unforked]" = WeakSet()
_FORKING = threading.Lock()
_HELD: "list[Unforked]" = []
_NAME_GRACE = 0.2
"""Seconds that the name of a new owner may take to appear behind its lock."""


class Lock:
    """The lock of one journal, held from `__init__` to `release`."""

    def __init__(self, path: Path, owner: Owner) -> None:
        """Lock `path`, creating it where there is none.

        Raises:
            JournalOwned: somebody holds it. JournalAccess: it can't be created or locked here.

        """
        self.path = path
        self.pid = os.getpid()
        self._name = str(path)
        self._descriptor = _lock(path)
        _LIVE.add(self)
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, msgspec.json.encode(owner), 0)
        except OSError as error:
            self.release()
            raise JournalAccess(f"{path}: {error.strerror}") from error

    def replaced(self) -> bool:
        """Whether another file stands at the path, or none: then another owner may hold a lock as well.

        Raises:
            OSError: that can't be told at present.

        """
        return not stands(self._name, self._descriptor)

    def forget(self) -> None:
        """Take the name out: nothing says any more that there has been a journal."""
        os.ftruncate(self._descriptor, 0)

    def release(self) -> None:
        """Give the lock back; in a forked child, leave it with the parent."""
        if self._descriptor >= 0 and self.pid == os.getpid():
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # a fork that never ran our hook may hold a copy
        self.abandon()

    def abandon(self) -> None:
        """Close the descriptor."""
        descriptor, self._descriptor = self._descriptor, -1
        _LIVE.discard(self)
        if descriptor >= 0:
            os.close(descriptor)


class Unforked:
    """`with` it, a fork in another thread waits for the end of the block: its child would have a copy of what
    is half done, and nobody who goes on with it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _UNFORKED.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exc: object) -> None:
        self._lock.release()


def resolved(path: str | os.PathLike[str]) -> Path:
    """The one path of a journal, by whatever links it is reached: so it has one lock file.

    Raises:
        JournalAccess: no file system has such a path.

    """
    try:
        return Path(path).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, U+0000, lone surrogates
        raise JournalAccess(f"{os.fspath(path)!r}: expected the path of a journal: {error}") from error


def refuse_platform() -> None:
    """Refuse where files can't be locked and synced as the rules of journals ask.

    Raises:
        JournalError: on Windows.

    """
    if sys.platform == "win32":
        raise JournalError("journals in files have not been built for Windows yet; use memory:")


def owner_of(path: Path) -> Owner | None:
    """The owner that the lock file names, now or last; None where there is no such file or name."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Owner)
    except (OSError, msgspec.DecodeError):
        return None


def stands(path: str, descriptor: int) -> bool:
    """Whether the file behind the descriptor is the one at the path.

    Raises:
        OSError: that can't be told at present.

    """
    try:
        standing = os.stat(path)  # noqa: PTH116  # asked at each append
    except (FileNotFoundError, NotADirectoryError):
        return False
    return os.path.samestat(standing, os.fstat(descriptor))


def _lock(path: Path) -> int:
    descriptor = _locked(path)
    while not _stands(path, descriptor):  # it went with its journal, between the opening and the locking
        os.close(descriptor)
        descriptor = _locked(path)
    return descriptor


def _stands(path: Path, descriptor: int) -> bool:
    try:
        return stands(str(path), descriptor)
    except OSError:
        return False


def _locked(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise JournalAccess(f"{path}: the journal's lock file can't be opened: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            owner = _named(path)
            raise JournalOwned(f"{path}: the journal is owned by {owner}", owner=owner) from None
        raise JournalAccess(f"{path}: this file system can't lock files: {error.strerror}") from error
    return descriptor


def _named(path: Path) -> str:
    deadline = time.monotonic() + _NAME_GRACE
    while (owner := owner_of(path)) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return "a process that has not given its name" if owner is None else str(owner)


def _abandon_all() -> None:
    for lock in list(_LIVE):
        lock.abandon()


def _hold_all() -> None:
    _FORKING.acquire()  # one fork after the other: two would take these in different orders
    for each in tuple(_UNFORKED):
        each.__enter__()
        _HELD.append(each)


def _let_go() -> None:
    while _HELD:
        _HELD.pop().__exit__()
    _FORKING.release()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_abandon_all)
    os.register_at_fork(before=_hold_all, after_in_parent=_let_go, after_in_child=_let_go)
