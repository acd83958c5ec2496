"""The SQLite file under a journal: what it may be, how it is created, how connections are set up.

The file is created under another name, and renamed when it is whole and in SQLite's WAL mode. So a file at
the journal's path is either a complete journal, whose first page says so, or not ours; and it is examined
without locks and without creating anything beside it. In rollback mode a crash could leave a journal of
SQLite's own beside it, and then nobody could read it before it has an owner again.

It must never be opened with plain `open` while a connection of this process uses it: closing that descriptor
would drop SQLite's own POSIX locks (sqlite.org/howtocorrupt.html, 2.2).
"""

import errno
import os
import secrets
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from journal_adapters.sqlite_sums import START
from meowcat.core.errors import (
    JournalAccess,
    JournalDamaged,
    JournalError,
    JournalFenced,
    JournalRejected,
    JournalTooNew,
    NotAJournal,
)
from meowcat.journal.contract import FORMAT, Sync

APPLICATION = 0x4D656F77
"""`Meow`: SQLite's application_id of our files."""

LAYOUT = 2
"""The user_version of a journal of which records were archived (`journal_adapters.sqlite_archive`): an
earlier meowcat, which would miss them, refuses it. All others have that of the record format, 1."""

_LEAST_FREE = 64 << 10
"""Bytes that an opening needs beside the file: SQLite makes its -wal and -shm there, and reports a disk that
has no room for them as an I/O error."""

CHECKPOINT_AFTER = 8 << 20
"""Bytes that the log may have until it is moved into the file."""

BUSY = 0.8
"""Seconds to wait for a foreign program that holds the database; an opening must answer within one."""

RECORD = """\
    position INTEGER PRIMARY KEY,
    task TEXT NOT NULL,
    seq INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    open INTEGER NOT NULL,
    type TEXT NOT NULL,
    version INTEGER NOT NULL,
    at INTEGER NOT NULL,
    body BLOB NOT NULL,
    chain BLOB NOT NULL,
    crc INTEGER NOT NULL,"""
TASK = """\
    id TEXT PRIMARY KEY,
    first INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    open INTEGER NOT NULL,
    crc INTEGER NOT NULL"""
"""Columns of the two tables that an archive has as well."""

SCHEMA = f"""
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {FORMAT};
BEGIN;
CREATE TABLE journal (
    id TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    last INTEGER NOT NULL,
    chain BLOB NOT NULL,
    unfinished INTEGER NOT NULL,
    cursors INTEGER NOT NULL,
    crc INTEGER NOT NULL
);
CREATE TABLE record (
{RECORD}
    UNIQUE (task, seq)
);
CREATE TABLE task (
{TASK}
) WITHOUT ROWID;
CREATE INDEX unfinished ON task (first) WHERE open = 1;
CREATE TABLE cursor (
    name TEXT PRIMARY KEY, position INTEGER NOT NULL, crc INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE snapshot (
    name TEXT PRIMARY KEY, position INTEGER NOT NULL, body BLOB NOT NULL, crc INTEGER NOT NULL
);
"""
"""`task` and the one row of `journal` sum up the records, in the same transaction, so that an opening costs
what is unfinished, and so that records which are gone are missed (`journal_adapters.sqlite_sums`)."""

FAILURES = (sqlite3.Error, UnicodeDecodeError)
"""What a call of sqlite3 may raise; the second where a damaged text stands in SQLite's own message."""

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def uri_of(path: Path, query: str) -> str:
    """How SQLite is told to open a file. As bytes: its name need be no text."""
    return f"file:{quote(os.fsencode(path))}?{query}"


def connect(path: Path, query: str) -> sqlite3.Connection:
    """A connection in autocommit mode that any thread may use, one at a time. It looks at each page's cells
    as it reads it, which finds most pages that are damaged.
    """
    connection = sqlite3.connect(
        uri_of(path, query),
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=BUSY,
    )
    connection.execute("PRAGMA cell_size_check = 1")
    return connection


def connect_writer(path: Path, sync: Sync) -> sqlite3.Connection:
    """The one connection that writes and checkpoints, its settings read back.

    `power` syncs the log at each commit. `process` writes it at each commit, which the kernel keeps when the
    process dies, and syncs at checkpoints only: after a power failure the file is consistent, and the last
    commits may be gone.
    """
    connection = connect(path, "mode=rw")
    try:
        _set(connection, "journal_mode", "wal")
        _set(connection, "synchronous", 2 if sync == "power" else 1)
        if sys.platform == "darwin":  # fsync alone does not reach the disk there
            _set(connection, "fullfsync", int(sync == "power"))
            _set(connection, "checkpoint_fullfsync", int(sync == "power"))
        _set(connection, "foreign_keys", 1)
        _set(connection, "wal_autocheckpoint", 0)
        _set(connection, "journal_size_limit", CHECKPOINT_AFTER)  # or it would keep the largest size it had
        _set(connection, "mmap_size", 0)
        _set(connection, "temp_store", 2)
    except BaseException:  # raised again: whatever it was, the connection does not stay open
        connection.close()
        raise
    return connection


class Still:
    """The files that a connection reads as if they never changed: nobody was writing them when it began to.
    Without their folder's permission, SQLite can read no other way where there is no log.
    """

    def __init__(self) -> None:
        self._marks: dict[Path, list[tuple[int, ...] | None]] = {}

    def take(self, path: Path) -> bool:
        """Whether the file can be read so, here and now."""
        marks = _marks_of(path)
        if marks[-1] is not None or os.access(path.parent, os.W_OK):
            return False
        self._marks[path] = marks
        return True

    def changed(self) -> bool:
        """Whether somebody has come since who writes: then what was read by that connection means nothing."""
        return bool(self._marks) and any(_marks_of(path) != marks for path, marks in self._marks.items())


def _marks_of(path: Path) -> list[tuple[int, ...] | None]:
    """What differs once somebody has written the file, or its log."""
    found: list[tuple[int, ...] | None] = []
    for name in (path, f"{path}-wal"):
        try:
            status = os.stat(name)  # noqa: PTH116  # asked at each reading
        except OSError:
            found.append(None)
        else:
            found.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
    return found


def connect_reader(path: Path, still: Still) -> sqlite3.Connection:
    """A connection that only reads, in this or another process, while the journal is owned or not."""
    connection = connect(path, "mode=ro")
    try:
        connection.execute("SELECT epoch FROM journal").fetchone()
    except sqlite3.OperationalError:
        connection.close()
        if not still.take(path):
            raise
        connection = connect(path, "mode=ro&immutable=1")
    except BaseException:  # raised again: whatever it was, the connection does not stay open
        connection.close()
        raise
    return connection


def _set(connection: sqlite3.Connection, pragma: str, value: str | int) -> None:
    connection.execute(f"PRAGMA {pragma} = {value}")
    row = connection.execute(f"PRAGMA {pragma}").fetchone()
    found = row[0] if row is not None else None
    if pragma == "mmap_size" and row is None:
        return  # compiled without memory mapping: off for ever
    if found != value:
        raise JournalAccess(f"SQLite does not take {pragma} = {value} here; it says {found}")


def examine(path: Path, *, known: bool) -> bool:
    """Whether a journal stands at `path`; False where nothing does. Changes nothing.

    Args:
        path: where the journal should be.
        known: whether a lock file of ours says that a journal has been there.

    Raises:
        NotAJournal, JournalDamaged, JournalTooNew, JournalAccess: what stands there instead.

    """
    try:
        if not path.exists():
            _require_folder(path)
            return False
        if not path.is_file():
            raise NotAJournal(f"{path}: a {'folder' if path.is_dir() else 'device'}; expected a journal file")
        if path.stat().st_size == 0:
            return _refuse_empty(path, known=known)
    except OSError as error:
        raise JournalAccess(f"{path}: {error.strerror}") from error
    if not os.access(path, os.R_OK):
        raise JournalAccess(f"{path}: no permission to read it")
    _examine_header(path, known=known)
    return True


class OneFile:
    """The file that stood at a path when this was made. SQLite's log and our lock go by its name, so that
    under another one it would be another journal.

    Raises:
        JournalAccess: it has several names already, or can't be looked at.

    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            found = path.stat()
        except OSError as error:
            raise JournalAccess(f"{path}: {error.strerror}") from error
        if found.st_nlink > 1:
            raise JournalAccess(
                f"{path}: the file has {found.st_nlink} names (hard links), and under each there could be "
                "another owner, whose records the others don't see: remove all but one, or make a copy"
            )
        self._identity = (found.st_dev, found.st_ino)

    def require(self) -> None:
        """See that it still stands there.

        Raises:
            JournalFenced: it does not. JournalRejected: that can't be seen now.

        """
        try:
            found = self._path.stat()
        except (FileNotFoundError, NotADirectoryError):
            found = None
        except OSError as error:
            raise JournalRejected(f"{self._path}: can't be looked at: {error.strerror}") from error
        if found is None or (found.st_dev, found.st_ino) != self._identity:
            what = "removed" if found is None else "replaced"
            raise JournalFenced(
                f"{self._path}: the file was {what} while it was open: nothing more can be recorded in it"
            )


def _refuse_empty(path: Path, *, known: bool) -> bool:
    if known:
        raise JournalDamaged(f"{path}: the journal's file is empty; it was a journal before")
    return False


def _require_folder(path: Path) -> None:
    if not path.parent.is_dir():
        raise JournalAccess(f"{path}: the folder {path.parent} does not exist")


def _examine_header(path: Path, *, known: bool) -> None:
    try:
        application, version = _marks(path)
    except FAILURES as error:
        if code_of(error) & 0xFF == sqlite3.SQLITE_NOTADB and not known:
            raise NotAJournal(f"{path}: not a SQLite file") from error
        raise explain(error, path) from error
    if application != APPLICATION:
        raise NotAJournal(f"{path}: a SQLite database of another application (id {application:#x})")
    if version > LAYOUT:
        raise JournalTooNew(f"{path}: a journal of format {version}; this meowcat reads up to {LAYOUT}")


def _marks(path: Path) -> tuple[int, int]:
    """The application_id and user_version of the file.

    While another process moves the log into it, the first page counts pages that are not there yet, which
    looks like damage without locks. Then a log stands beside it, or one stood there an instant ago.
    """
    try:
        return _marks_by(path, "immutable=1")
    except FAILURES as error:
        if code_of(error) & 0xFF != sqlite3.SQLITE_CORRUPT:
            raise
    return _marks_by(path, "immutable=0" if Path(f"{path}-wal").exists() else "immutable=1")


def _marks_by(path: Path, query: str) -> tuple[int, int]:
    connection = connect(path, f"mode=ro&{query}")
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    finally:
        connection.close()
    return application, version


LOGS = ("-wal", "-shm")
"""What SQLite has beside a file, by its suffix."""
MAKING = ("-creating", "-creating-journal", "-creating-wal", "-creating-shm")
"""What stands beside a file while it is created."""


def create(path: Path, write: Callable[[Path], None]) -> None:
    """Create the file that `write` makes, whole, at `path`, where nothing or an empty file stands; the lock
    must be held.

    Raises:
        JournalAccess: it can't be created, or another one's log stands there. JournalRejected: no space.

    """
    new = Path(f"{path}{MAKING[0]}")
    try:
        _refuse_log(path)
        for suffix in (*MAKING, *LOGS):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        write(new)
        _use_log(new)
        new.rename(path)
        sync_folder(path)
    except OSError as error:
        kind = JournalRejected if error.errno in (errno.ENOSPC, errno.EDQUOT) else JournalAccess
        raise kind(f"{path}: the journal can't be created: {error.strerror}") from error
    except sqlite3.Error as error:
        raise explain(error, path) from error


def _refuse_log(path: Path) -> None:
    """The log of a file that was moved away would be taken for the new one's, and may have what its owner was
    promised."""
    log = Path(f"{path}-wal")
    if log.exists() and log.stat().st_size > 0:
        raise JournalAccess(
            f"{log}: the log of a file that stood at {path}, and is gone without it: it may lack records. "
            "Put that file back, or move the log to where it is, under its name with -wal behind it; if "
            "neither is wanted any more, remove the log"
        )


def _use_log(path: Path) -> None:
    connection = connect(path, "mode=rw")
    try:
        _set(connection, "journal_mode", "wal")
    finally:
        connection.close()


def sync_folder(path: Path) -> None:
    """Make durable under which names files stand beside `path`."""
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_empty(path: Path) -> None:
    """An empty journal."""
    connection = connect(path, "mode=rwc")
    try:
        connection.executescript(SCHEMA)
        row = (secrets.token_hex(16), *START.row())
        connection.execute("INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        connection.execute("COMMIT")
    finally:
        connection.close()


def is_early(connection: sqlite3.Connection) -> bool:
    """Whether the file was laid out by a meowcat that kept no checksums beside its sums."""
    columns = connection.execute("SELECT name FROM pragma_table_info('journal')").fetchall()
    return ("crc",) not in columns


EARLY = """
ALTER TABLE journal ADD COLUMN last INTEGER NOT NULL DEFAULT 0;
ALTER TABLE journal ADD COLUMN chain BLOB NOT NULL DEFAULT x'';
ALTER TABLE journal ADD COLUMN unfinished INTEGER NOT NULL DEFAULT 0;
ALTER TABLE journal ADD COLUMN cursors INTEGER NOT NULL DEFAULT 0;
ALTER TABLE journal ADD COLUMN crc INTEGER NOT NULL DEFAULT 0;
ALTER TABLE task ADD COLUMN crc INTEGER NOT NULL DEFAULT 0;
ALTER TABLE cursor ADD COLUMN crc INTEGER NOT NULL DEFAULT 0;
"""
"""From the early layout to that of `SCHEMA`; the values are filled in by `sqlite_sums.adopt`."""


def code_of(error: BaseException) -> int:
    """SQLite's extended result code; SQLITE_ERROR for what the sqlite3 module itself raises."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)


def explain(error: BaseException, path: Path) -> JournalError:
    """SQLite's error outside of an append, as ours."""
    code = code_of(error) & 0xFF
    if code in _DAMAGED:
        return JournalDamaged(f"{path}: the journal's file is damaged: {error}")
    if code == sqlite3.SQLITE_FULL:
        return JournalRejected(f"{path}: no space left: {error}")
    if code == sqlite3.SQLITE_ERROR:  # a table is missing, a text is not UTF-8
        return JournalDamaged(f"{path}: the journal's file does not hold what it should: {error}")
    hint = "; its disk is full, and a little space is needed for reading as well" if _is_full(path) else ""
    return JournalAccess(f"{path}: the journal can't be used: {error}{hint}")


def _is_full(path: Path) -> bool:
    try:
        return shutil.disk_usage(path.parent).free < _LEAST_FREE
    except OSError:
        return False
