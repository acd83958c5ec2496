"""The files of a JSONL journal: the system calls behind it, names in its folder, whole-file replacement.

Everything of the journal that touches the disk, but for its lock, goes through one `Files`, so that a
simulated disk can stand in.
"""
# ruff: noqa: PTH102, PTH104, PTH108, PTH118, PTH208  # these are the system calls themselves; pathlib would rewrite paths

import errno
import mmap
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from journal_adapters.ownership import stands
from meowcat.core.errors import JournalAccess, JournalError, JournalRejected

if sys.platform != "win32":
    import fcntl

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""No room: on the file system, in the user's quota, under the limit of a file's size."""

LOCK, CONTROL, RESERVE, SNAPSHOT, ARCHIVE, TORN = "lock", "control", "reserve", "snapshot", "archive", "torn"

NEW = ".new"
"""Ends the name of a file that is not whole yet: whoever finds one after a crash may remove it."""

_SEGMENT = re.compile(r"(\d{20})\.jsonl")
_INDEX = re.compile(r"(\d{20})\.index")


class Files:
    """Blocking system calls. Paths are texts, descriptors plain numbers; all raise OSError."""

    def open(self, path: str, flags: int, mode: int = 0o644) -> int:
        return os.open(path, flags, mode)  # Python adds O_CLOEXEC (PEP 446)

    def close(self, fd: int) -> None:
        os.close(fd)

    def append(self, fd: int, data: bytes | memoryview) -> int:
        """Write at the end of a file opened with O_APPEND; perhaps a part of the bytes only."""
        return os.write(fd, data)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        return os.pread(fd, size, offset)

    def fdatasync(self, fd: int) -> None:
        if sys.platform == "darwin":
            _full_sync(fd)
        else:
            os.fdatasync(fd)

    def fsync_folder(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if sys.platform == "darwin":
                _full_sync(fd)
            else:
                os.fsync(fd)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise  # EINVAL: a file system that syncs no folders (fsync(2))
        finally:
            os.close(fd)

    def ftruncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def stands(self, path: str, fd: int) -> bool:
        """Whether the file behind the descriptor is the one at `path`."""
        return stands(path, fd)

    def exists(self, path: str) -> bool:
        return os.path.lexists(path)

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def mkdir(self, path: str) -> None:
        os.mkdir(path)

    def list_folder(self, path: str) -> list[str]:
        return os.listdir(path)

    def free_bytes(self, folder: str) -> int:
        """Bytes that this user may still use there."""
        facts = os.statvfs(folder)
        return facts.f_bavail * facts.f_frsize

    def map(self, path: str) -> bytes | mmap.mmap:
        """The content of a file that does not change, read as it is needed."""
        fd = os.open(path, os.O_RDONLY)
        try:
            return mmap.mmap(fd, 0, access=mmap.ACCESS_READ) if os.fstat(fd).st_size else b""
        finally:
            os.close(fd)


if sys.platform == "darwin":

    def _full_sync(fd: int) -> None:
        """Reach the medium: fsync on macOS leaves the data in the drive's cache (fsync(2) there)."""
        try:
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EINVAL, errno.ENOTTY):
                raise
            os.fsync(fd)  # network volumes know nothing better


def segment_name(number: int) -> str:
    return f"{number:020d}.jsonl"


def index_name(number: int) -> str:
    return f"{number:020d}.index"


def segment_numbers(names: list[str]) -> list[int]:
    """The numbers of the segments among the names of a folder, ascending."""
    return sorted(int(match[1]) for name in names if (match := _SEGMENT.fullmatch(name)))


def index_numbers(names: list[str]) -> list[int]:
    """The numbers of the segments that have an index among the names of a folder, ascending."""
    return sorted(int(match[1]) for name in names if (match := _INDEX.fullmatch(name)))


def write_all(files: Files, fd: int, data: bytes) -> None:
    """Append all of `data`, in as many writes as it takes."""
    written = files.append(fd, data)
    if written < len(data):
        view = memoryview(data)
        while written < len(data):
            written += files.append(fd, view[written:])


def read_from(files: Files, fd: int, offset: int = 0) -> bytes:
    """All of a file behind `offset`."""
    parts: list[bytes] = []
    while part := files.pread(fd, max(files.size(fd) - offset, 1), offset):
        parts.append(part)
        offset += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read_file(files: Files, path: str) -> bytes:
    fd = files.open(path, os.O_RDONLY)
    try:
        return read_from(files, fd)
    finally:
        files.close(fd)


def replace(files: Files, folder: str, name: str, content: Iterable[bytes]) -> int:
    """Put a file into the folder that is whole and durable before it has its name: `content`, which comes in
    parts. Returns its size.
    """
    size = 0
    path, new = os.path.join(folder, name), os.path.join(folder, name + NEW)
    fd = fresh(files, new)
    try:
        try:
            for part in content:
                write_all(files, fd, part)
                size += len(part)
            files.fdatasync(fd)
        finally:
            files.close(fd)
    except OSError:
        with suppress(OSError):  # where the disk is full, the journal's records need the room
            remove(files, new)
        raise
    files.rename(new, path)
    files.fsync_folder(folder)
    return size


def fresh(files: Files, path: str) -> int:
    """An empty file at `path`, open for appending; leftovers of a crash are removed."""
    remove(files, path)
    return files.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND)


def remove(files: Files, path: str) -> None:
    """Remove a file where there is one."""
    try:
        files.unlink(path)
    except FileNotFoundError:
        pass


@contextmanager
def explained(path: str, make: Callable[[str], JournalError] = JournalAccess) -> Iterator[None]:
    """Turn every OSError within into an error of ours about `path`: `make`'s, or JournalRejected where no
    space is left.
    """
    try:
        yield
    except OSError as error:
        text = f"{error.filename or path}: {error.strerror or error}"
        if error.errno in FULL:
            raise JournalRejected(f"{text}; free some space and try again") from error
        raise make(text) from error
