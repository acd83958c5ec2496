"""Where the control socket of a journal stands, and names of it that fit into a socket address."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from meowcat.core.errors import NobodyListens
from meowcat.journal.contract import Journal, LocalJournal
from meowcat.journal.locate import locate

log = logging.getLogger("meowcat.control")

ADDRESS_ROOM = 107 if sys.platform == "linux" else 103
"""Bytes of a path that `sun_path` holds beside its NUL (unix(7); 104 bytes in all on macOS)."""

_DESCRIPTORS = Path("/proc/self/fd")


def place_of(journal: str | os.PathLike[str] | Journal) -> Path:
    """The path of the journal's control socket, whether somebody listens there or not.

    Raises:
        NobodyListens: a journal of this kind has none. UnknownJournal: as `locate`.
    """
    found = locate(journal)
    if not isinstance(found, LocalJournal):
        raise NobodyListens(f"{journal}: a journal of this kind has no place for a control socket")
    return found.control_socket


def place_for(journal: Journal) -> Path | None:
    """Where the owner of an open journal is to listen; None where there is no place.

    The adapter may be anybody's: whatever its property raises, the engine opens.
    """
    try:
        return journal.control_socket if isinstance(journal, LocalJournal) else None
    except Exception:  # see above
        log.exception("the journal can't say where its control socket belongs; going on without one")
        return None


@contextmanager
def fitting(path: Path) -> Iterator[str]:
    """A name of `path` that an address has room for: a long one leads through a descriptor of its folder.

    Raises:
        OSError: the folder can't be opened, or this system has no way round.
    """
    if len(os.fsencode(path)) <= ADDRESS_ROOM or not _DESCRIPTORS.is_dir():
        yield str(path)  # where it does not fit, the system says so
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"{_DESCRIPTORS}/{folder}/{path.name}"
    finally:
        os.close(folder)
