"""The system calls on files that transfers need, and nothing else: a simulated disk can stand in.

Everything of `meowcat.transfer` that touches a file goes through a `Disk`. Its methods raise `OSError`, as
the calls they stand for do; `fault_of` is the one place where that becomes a `FileFault`.
"""
# ruff: noqa: PTH101, PTH104, PTH108, PTH116, PTH208  # these are the system calls themselves, and pathlib would rewrite the paths

import ctypes
import errno
import os
import re
import stat
import sys
from collections.abc import Callable
from functools import cache
from types import TracebackType
from typing import Any, Protocol

from msgspec import Struct

from meowcat.core.errors import MeowcatError
from meowcat.core.values import Fault, FaultKind, FileIdentity
from meowcat.transfer.part_names import PartNames
from meowcat.transport.faults import EXHAUSTED, LESS_OPEN

if sys.platform != "win32":
    import fcntl

__all__ = ["Buffer", "Disk", "FileFault", "FileStatus", "OsDisk", "fault_of", "guarded", "lacks"]

Buffer = bytes | bytearray | memoryview

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
GONE = frozenset({errno.ENOENT, errno.ESTALE})
"""ESTALE: the server of a network file system has forgotten the file."""

UNSUPPORTED = frozenset(
    {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.EMLINK}
)
"""What a file system says that has no hard links, or no rename that refuses to replace. EPERM is what link(2)
says on FAT; where it means a missing permission, the next call says so again."""

PART = ".part"
"""What the names of part files end with."""

_LOCKED: set[int] = set()
"""Descriptors that hold a lock. A forked child closes its copies at once: the lock is the parent's, and would
outlive it for as long as a copy is open somewhere."""

_RENAME_NOREPLACE = 1
_RENAME_EXCL = 4
_AT_FDCWD = -100


class FileFault(MeowcatError):
    """A file can't be worked with; `fault` is the reason as a value, the OSError its cause where one came."""

    def __init__(self, kind: FaultKind, detail: str) -> None:
        super().__init__(detail)
        self.fault = Fault(kind=kind, detail=detail)
        self.code = self.fault.code  # type: ignore[misc]  # a class constant, narrowed per fault on purpose


class FileStatus(Struct, frozen=True, gc=False):
    """What the inode says."""

    identity: FileIdentity
    size: int
    """Bytes, holes included."""
    allocated: int
    """Bytes that it takes on the disk."""
    mode: int
    """The type and permissions, as in st_mode."""
    mtime_ns: int = 0
    """When the content was last written, in nanoseconds since 1970 UTC; anybody may set it to anything."""
    ctime_ns: int = 0
    """When the content or anything else of the inode last changed; nobody can set it."""

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.mode)


class Disk(Protocol):
    """Blocking system calls. Paths are absolute; descriptors are plain numbers; all raise OSError."""

    def open(self, path: str, flags: int, mode: int = 0o666) -> int:
        """A descriptor that a new program does not inherit; `mode` is subject to the umask (open(2))."""

    def close(self, fd: int) -> None:
        """Free the descriptor, and the lock that was taken through it."""

    def pwrite(self, fd: int, data: Buffer, offset: int) -> int:
        """Write at `offset`; returns how many bytes were written, which may be fewer than all."""

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """At most `size` bytes; none at the end."""

    def preadv(self, fd: int, buffer: bytearray | memoryview, offset: int) -> int:
        """Read into `buffer`; returns how many bytes came, 0 at the end."""

    def fdatasync(self, fd: int) -> None:
        """Return once the content and the size would survive a power loss."""

    def check_writes(self, fd: int) -> None:
        """Raise what kept the file system from storing what was written so far, if it knows by now: network
        file systems take every write, and tell at a close (close(2)). Nothing is synced.
        """

    def sync_system(self, fd: int) -> None:
        """Return once all that was written to the file system of this file would survive a power loss. Where
        that is not supported, an error for which `lacks` is true.
        """

    def fsync_folder(self, path: str) -> None:
        """Return once the names in the folder would survive a power loss."""

    def ftruncate(self, fd: int, size: int) -> None:
        """Make the file `size` bytes long."""

    def fstat(self, fd: int) -> FileStatus:
        """What an open file is."""

    def stat(self, path: str, *, follow: bool = False) -> FileStatus | None:
        """What the path leads to, a symbolic link itself unless `follow`; None where nothing stands."""

    def keep_mode(self, source: str, target: str) -> None:
        """Let whoever may read, write or run `target` do so with `source`, where file systems can say it."""

    def set_time(self, path: str, ms: int) -> None:
        """Have the file say that it was last changed then, in milliseconds since 1970 UTC, where file systems
        can say it."""

    def rename(self, source: str, target: str) -> None:
        """Give it another name, in one step; what had that name is replaced."""

    def rename_new(self, source: str, target: str) -> None:
        """Give it another name, in one step; FileExistsError where something has that name. Where that is
        not supported, an error for which `lacks` is true.
        """

    def link(self, source: str, target: str) -> None:
        """A second name for the file; FileExistsError where something has it."""

    def unlink(self, path: str) -> None:
        """Take a name away."""

    def flock(self, fd: int) -> bool:
        """Lock the file for this open descriptor alone, until all its copies are closed or one is unlocked;
        False where another one has it.
        """

    def unlock(self, fd: int) -> None:
        """Give the lock back, also if a forked child still has a copy of the descriptor."""

    def free_bytes(self, folder: str) -> int:
        """Bytes that this user may still use there."""

    def list_folder(self, path: str) -> list[str]:
        """The names in it, in any order."""

    def part_names(self, folder: str, stem: str, own: str) -> list[str]:
        """The names in it that begin with `stem` and a dot and end as part files do, but for `own`, which
        stands there; others may be among them."""

    def writable(self, folder: str) -> bool:
        """Whether this user may create files there."""


def lacks(error: OSError) -> bool:
    """Whether the file system told that it has no such operation."""
    return error.errno in UNSUPPORTED


class guarded:  # noqa: N801  # used like a function; a generator in its place takes three times as long
    """Turn every OSError within into a FileFault about `path`; `gone` is what ENOENT means here."""

    __slots__ = ("_gone", "_path")

    def __init__(self, path: str, gone: FaultKind = FaultKind.LOCAL_REMOVED) -> None:
        self._path = path
        self._gone = gone

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError):
            raise fault_of(error, self._path, self._gone) from error


def fault_of(error: OSError, path: str, gone: FaultKind = FaultKind.LOCAL_REMOVED) -> FileFault:
    """What `guarded` makes of it; for what is done for each small file, where entering a block is felt."""
    return FileFault(_kind(error, gone), f"{path}: {_reason(error)}")


def _kind(error: OSError, gone: FaultKind) -> FaultKind:
    if error.errno in FULL:
        return FaultKind.DISK_FULL
    if error.errno in EXHAUSTED:
        return FaultKind.EXHAUSTED
    return gone if error.errno in GONE else FaultKind.IO


def _reason(error: OSError) -> str:
    name = errno.errorcode.get(error.errno or 0)
    text = error.strerror or str(error)
    if error.errno in EXHAUSTED:
        text = f"{text}; {LESS_OPEN}"
    return f"{text} ({name})" if name else text


class OsDisk:
    """The operating system's files, on Linux and macOS.

    Raises:
        MeowcatError: on Windows, where this was neither built nor tested.

    """

    def __init__(self) -> None:
        if sys.platform == "win32":
            raise MeowcatError("meowcat moves files on Linux and macOS only; on Windows nothing is written")
        self._part_names = PartNames(PART, os.listdir)

    def open(self, path: str, flags: int, mode: int = 0o666) -> int:
        return os.open(path, flags, mode)  # Python adds O_CLOEXEC (PEP 446)

    def close(self, fd: int) -> None:
        _LOCKED.discard(fd)
        os.close(fd)

    def pwrite(self, fd: int, data: Buffer, offset: int) -> int:
        return os.pwrite(fd, data, offset)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        return os.pread(fd, size, offset)

    def preadv(self, fd: int, buffer: bytearray | memoryview, offset: int) -> int:
        return os.preadv(fd, [buffer], offset)

    def fdatasync(self, fd: int) -> None:
        if sys.platform == "darwin":
            _full_sync(fd)
        else:
            os.fdatasync(fd)

    def check_writes(self, fd: int) -> None:
        os.close(os.dup(fd))

    def sync_system(self, fd: int) -> None:
        call = _sync_system()
        if call is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        call(fd)

    def fsync_folder(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if sys.platform == "darwin":
                _full_sync(fd)
            else:
                os.fsync(fd)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise  # EINVAL: a file system that syncs no folders (fsync(2)); PostgreSQL goes on there, too
        finally:
            os.close(fd)

    def ftruncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def fstat(self, fd: int) -> FileStatus:
        return _status(os.fstat(fd))

    def stat(self, path: str, *, follow: bool = False) -> FileStatus | None:
        try:
            return _status(os.stat(path, follow_symlinks=follow))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def keep_mode(self, source: str, target: str) -> None:
        try:
            os.chmod(source, os.lstat(target).st_mode & 0o777)
        except OSError:
            pass  # it is replaced all the same, by a file as new ones are there

    def set_time(self, path: str, ms: int) -> None:
        try:
            os.utime(path, ns=(ms * 1_000_000, ms * 1_000_000), follow_symlinks=False)
        except OSError:
            pass  # its content is what counts

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)

    def rename_new(self, source: str, target: str) -> None:
        call = _exclusive_rename()
        if call is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), source)
        call(os.fsencode(source), os.fsencode(target))

    def link(self, source: str, target: str) -> None:
        os.link(source, target, follow_symlinks=False)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def flock(self, fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        _LOCKED.add(fd)
        return True

    def unlock(self, fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_UN)

    def free_bytes(self, folder: str) -> int:
        facts = os.statvfs(folder)
        return facts.f_bavail * facts.f_frsize

    def list_folder(self, path: str) -> list[str]:
        return os.listdir(path)

    def part_names(self, folder: str, stem: str, own: str) -> list[str]:
        return self._part_names.find(folder, stem, own)

    def writable(self, folder: str) -> bool:
        return os.access(folder, os.W_OK | os.X_OK)


if sys.platform == "darwin":

    def _full_sync(fd: int) -> None:
        """Reach the medium: fsync on macOS leaves the data in the drive's cache (fsync(2) there)."""
        try:
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
        except OSError as error:
            if not lacks(error):
                raise
            os.fsync(fd)  # network volumes know nothing better


def _status(facts: os.stat_result) -> FileStatus:
    identity = FileIdentity(facts.st_dev, facts.st_ino)
    return FileStatus(
        identity,
        facts.st_size,
        facts.st_blocks * 512,
        facts.st_mode,
        facts.st_mtime_ns,
        facts.st_ctime_ns,
    )


@cache
def _exclusive_rename() -> Any:
    """A rename that never replaces: renameat2(2) on Linux, renameatx_np(2) on macOS; None without."""
    libc = ctypes.CDLL(None, use_errno=True)
    name, here, flag = (
        ("renameatx_np", -2, _RENAME_EXCL)
        if sys.platform == "darwin"
        else ("renameat2", _AT_FDCWD, _RENAME_NOREPLACE)
    )
    function = getattr(libc, name, None)
    if function is None:
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]

    def call(source: bytes, target: bytes) -> None:
        if function(here, source, here, target, flag) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), os.fsdecode(source), None, os.fsdecode(target))

    return call


REPORTS_ERRORS = (5, 8)
"""The Linux whose syncfs(2) says that bytes could not be written; before, it was silent about it."""


SYNCED_AS_A_WHOLE = frozenset(
    {0xEF53, 0x58465342, 0x9123683E, 0x01021994, 0xF2F52010, 0x2FC12FC1, 0xCA451A4E}
)
"""ext4, xfs, btrfs, tmpfs, f2fs, zfs and bcachefs, as statfs(2) calls them: syncfs(2) of these is as good as
an fsync of each file and folder. That of FUSE tells its server nothing and reports success."""


@cache
def _sync_system() -> Callable[[int], None] | None:
    """syncfs(2) on Linux; None without, as on macOS."""
    if sys.platform != "linux" or _release() < REPORTS_ERRORS:
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    function = getattr(libc, "syncfs", None)
    if function is None:
        return None
    function.argtypes = [ctypes.c_int]

    def call(fd: int) -> None:
        facts = ctypes.create_string_buffer(512)
        if libc.fstatfs(fd, facts) != 0 or _kind_of_system(facts) not in SYNCED_AS_A_WHOLE:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        if function(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    return call


def _kind_of_system(facts: ctypes.Array[ctypes.c_char]) -> int:
    return ctypes.c_ulong.from_buffer(facts).value & 0xFFFFFFFF


def _release() -> tuple[int, ...]:
    """The kernel's version, as far as it is numbers."""
    return tuple(int(each) for each in re.findall(r"\d+", os.uname().release)[:2])


def _close_locked() -> None:
    for fd in tuple(_LOCKED):
        try:
            os.close(fd)
        except OSError:
            pass  # another thread was just about to forget it
    _LOCKED.clear()


if hasattr(os, "register_at_fork"):  # not on Windows, where there is no fork
    os.register_at_fork(after_in_child=_close_locked)
