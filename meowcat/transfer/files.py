"""The part file of a download: its name, its lock, its bytes, and whether it is still there.

A task owns its target through its part file, which stands in the target's folder for as long as the task
lives, paused or not, and in whichever journal: whoever finds the part file of another task keeps away. While
it is in use it is locked besides, so that a copy of the journal can't write to it at the same time.

Everything here blocks, and raises FileFault where something is wrong.
"""
# ruff: noqa: PTH120  # paths are the user's, byte for byte; pathlib would rewrite them

import hashlib
import os
from contextlib import suppress
from threading import Lock
from typing import Literal, Self

from meowcat.core.transfers import Overwrite
from meowcat.core.values import FaultKind, FileIdentity, TaskId
from meowcat.transfer.disk import PART, Buffer, Disk, FileFault, FileStatus, fault_of, guarded

__all__ = [
    "Durability",
    "PartFile",
    "check_folder",
    "check_place",
    "check_target",
    "let_go",
    "open_part",
    "part_path",
]

Durability = Literal["power", "process"]

NAME_BYTES = 255
"""The longest name that file systems take (NAME_MAX); bytes on Linux, fewer than that of UTF-16 on macOS."""

_SUFFIX = PART
_ID_LENGTH = 26
_ID_LETTERS = frozenset("0123456789ABCDEFGHJKMNPQRSTVWXYZ")
_STEM_BYTES = NAME_BYTES - _ID_LENGTH - len("." + _SUFFIX)
_FLAGS = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)
"""A symbolic link at the part file's name would lead the bytes elsewhere. Windows has no such flag, and no
part files either (`OsDisk`)."""


def part_path(target: str, task: TaskId) -> str:
    """Where the bytes of `task` go until they are published: `<name>.<task id>.part`, beside the target.

    A name that would exceed 255 bytes is cut, and what was cut is replaced by a digest, so that two long
    names that begin alike stay two.
    """
    folder, _, name = _part_name(target, task)
    return f"{folder}/{name}"


def _part_name(target: str, task: TaskId) -> tuple[str, str, str]:
    """Of a part file the folder, "" for the root; what its name begins with; and the name."""
    folder, _, stem = target.rpartition("/")
    if _exceeds(stem, _STEM_BYTES):
        stem = _shortened(stem)
    return folder, stem, f"{stem}.{task}{_SUFFIX}"


def _exceeds(name: str, room: int) -> bool:
    return len(name) > room or (not name.isascii() and len(os.fsencode(name)) > room)


def _shortened(name: str) -> str:
    raw = os.fsencode(name)
    mark = f"~{hashlib.sha256(raw).hexdigest()[:8]}"
    return raw[: _STEM_BYTES - len(mark)].decode("utf-8", "ignore") + mark  # never half a character


def check_target(disk: Disk, target: str, overwrite: Overwrite) -> None:
    """See that a file can be published at `target`, an absolute path, before bytes are spent on it.

    A symbolic link is replaced itself, not what it leads to.

    Raises:
        FileFault: FILE_NOT_FOUND without the folder; TARGET_EXISTS if something stands there that may not be
            replaced (a folder or a device never may); IO where no file can be created.

    """
    check_folder(disk, os.path.dirname(target))
    check_place(disk, target, overwrite)


def check_folder(disk: Disk, folder: str) -> None:
    """Of `check_target`, what is the same for all files of a folder."""
    with guarded(folder, gone=FaultKind.FILE_NOT_FOUND):
        place = disk.stat(folder, follow=True)
        if place is None:
            raise FileFault(FaultKind.FILE_NOT_FOUND, f"the folder {folder} does not exist; create it first")
        if not place.is_folder:
            raise FileFault(FaultKind.IO, f"{folder} is not a folder, so no file can be put there")
        if not disk.writable(folder):
            raise FileFault(FaultKind.IO, f"no permission to create files in the folder {folder}")


def check_place(disk: Disk, target: str, overwrite: Overwrite) -> None:
    """Of `check_target`, what is left."""
    name = target.rpartition("/")[2]
    if not name or "\0" in target or _exceeds(name, NAME_BYTES):
        raise FileFault(
            FaultKind.IO,
            f"{target!r} is no name for a file: expected 1 to {NAME_BYTES} bytes after the folder",
        )
    try:
        standing = disk.stat(target)
        if standing is not None:
            _check_standing(target, disk.stat(target, follow=True) or standing, overwrite)
    except OSError as error:
        raise fault_of(error, target, FaultKind.FILE_NOT_FOUND) from error


def _check_standing(target: str, standing: FileStatus, overwrite: Overwrite) -> None:
    if standing.is_folder:
        detail = f"{target} is a folder; name the file that is to stand in it"
        raise FileFault(FaultKind.TARGET_EXISTS, detail)
    if not standing.is_file and not standing.is_link:
        raise FileFault(
            FaultKind.TARGET_EXISTS, f"{target} is a device, pipe or socket, which is never replaced"
        )
    if overwrite == "never":
        detail = f"{target} exists; remove it, choose another name, or ask for overwrite='replace'"
        raise FileFault(FaultKind.TARGET_EXISTS, detail)


class PartFile:
    """An open and locked part file, with positioned reads and writes only.

    `write`, `read` and `read_into` may be called by several threads at once; nothing may be called while
    `close` runs, since the operating system gives the descriptor's number to the next file at once.
    """

    def __init__(self, disk: Disk, path: str, fd: int, durability: Durability, *, created: bool) -> None:
        """Use `PartFile.open`."""
        status = disk.fstat(fd)
        self.path = path
        self.identity: FileIdentity = status.identity
        self.created = created
        """Whether nothing stood there: whatever was stored before is lost."""
        self._disk = disk
        self._fd = fd
        self.durability = durability
        self._lock = Lock()
        self._high = status.size
        """The file was at least this long: if it is shorter, somebody truncated it."""
        self._broken: FileFault | None = None
        self._owner = os.getpid()

    @classmethod
    def open(
        cls,
        disk: Disk,
        target: str,
        task: TaskId,
        durability: Durability,
        *,
        fresh: bool,
        size: int | None,
    ) -> Self:
        """Create the part file, or open it again; `fresh` drops what it holds.

        On return it is locked, and under `power` its name would survive a power loss.

        `size` is the content's in bytes, if known: see `reserve`.

        Raises:
            FileFault: TARGET_OWNED if another task has a part file for this target, or somebody else has this
                one open; DISK_FULL; FILE_NOT_FOUND without the folder; IO.

        """
        folder, stem, name = _part_name(target, task)
        path = f"{folder}/{name}"
        with guarded(path, gone=FaultKind.FILE_NOT_FOUND):
            fd, created = _open_or_create(disk, path)
            try:
                _refuse_others(disk, target, folder, stem, name)
                if fresh and not created:
                    disk.ftruncate(fd, 0)
                if durability == "power":
                    # Also if it stood there: who created it may have been killed before this call.
                    disk.fsync_folder(os.path.dirname(path))
                part = cls(disk, path, fd, durability, created=created)
                part.reserve(size or 0)
            except (
                BaseException
            ):  # raised again: whatever it was, nothing may stay open, locked or in the way
                try:
                    if created:
                        disk.unlink(path)
                finally:
                    let_go(disk, fd)
                raise
        return part

    @classmethod
    def store(cls, disk: Disk, target: str, task: TaskId, durability: Durability, content: Buffer) -> Self:
        """Create the part file with all that it will ever hold. Under `power` a flush is still to come.

        What stood there of the same task, recorded by nobody, is dropped.

        Raises:
            FileFault: as `open`.

        """
        folder, stem, name = _part_name(target, task)
        path = f"{folder}/{name}"
        try:
            part = cls._make(disk, path, durability)
            if part is None:
                part = cls.open(disk, target, task, durability, fresh=True, size=len(content))
            try:
                if part.created:
                    _refuse_others(disk, target, folder, stem, name)
                part.put(0, content)
                if durability == "process":
                    part.flush()
            except BaseException:  # raised again: as in `open`
                try:
                    with suppress(FileFault):  # it stays in the way, and whoever meets it is told so
                        part.remove()
                finally:
                    part.close()
                raise
        except OSError as error:
            raise fault_of(error, path, FaultKind.FILE_NOT_FOUND) from error
        return part

    @classmethod
    def _make(cls, disk: Disk, path: str, durability: Durability) -> Self | None:
        """A new file, locked; None where something stands there. May raise an OSError."""
        try:
            fd = disk.open(path, _FLAGS | os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            return None
        try:
            _take_lock(disk, path, fd)
            return cls(disk, path, fd, durability, created=True)
        except BaseException:  # raised again: a descriptor left open would keep the file locked
            disk.close(fd)
            raise

    def reserve(self, size: int) -> None:
        """See that a content of `size` bytes has room: what the file takes already is not counted again.

        Nothing is set aside, so the disk can still become full later.

        Raises:
            FileFault: DISK_FULL, with how much is missing.

        """
        with guarded(self.path):
            needed = size - min(size, self._disk.fstat(self._fd).allocated)
            free = self._disk.free_bytes(os.path.dirname(self.path)) if needed else 0
        if free < needed:
            detail = (
                f"{self.path} needs {needed} bytes more, and {free} are free: {needed - free} are missing"
            )
            raise FileFault(FaultKind.DISK_FULL, detail)

    def write(self, offset: int, data: Buffer) -> None:
        """Put all of `data` at `offset`. A disk that becomes full may have taken a part of it.

        Raises:
            FileFault: DISK_FULL; LOCAL_REMOVED if the file became shorter; IO.

        """
        with guarded(self.path):
            # A write behind the end would make a truncated file long again, with a hole that nobody notices.
            # After any other it is still too short at the next `check`, which comes before every report. What
            # nobody can see is a truncation in the microseconds between this look and the write.
            high = self._high  # before the look: other threads make the file longer meanwhile
            if offset + len(data) >= high:
                self._check_length(self._disk.fstat(self._open_fd()).size, high)
            self.put(offset, data)

    def put(self, offset: int, data: Buffer) -> None:
        """`write` of a file that nobody else has seen yet. May raise an OSError."""
        rest = memoryview(data).cast("B")
        while rest:
            written = self._disk.pwrite(self._open_fd(), rest, offset)
            if written <= 0:
                raise FileFault(FaultKind.IO, f"{self.path}: a write of {len(rest)} bytes wrote nothing")
            offset += written
            rest = rest[written:]
        with self._lock:
            self._high = max(self._high, offset)

    def read(self, offset: int, size: int) -> bytes:
        """The bytes there; fewer than `size` at the end of the file only."""
        buffer = bytearray(size)
        return bytes(memoryview(buffer)[: self.read_into(offset, memoryview(buffer))])

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` from `offset` on; returns how many bytes came, fewer at the end of the file only."""
        filled = 0
        with guarded(self.path):
            while filled < len(buffer):
                count = self._disk.preadv(self._open_fd(), buffer[filled:], offset + filled)
                if count <= 0:
                    break
                filled += count
        return filled

    def flush(self) -> None:
        """Under `power`, return once all that was written would survive a power loss; else see that the file
        system has not failed to store any of it.

        After a failure every later call fails too, and nothing that was not flushed before may be relied on:
        the kernel forgets the pages that it could not write, so the next sync would report success and mean
        nothing. Close the file, open it again, and write those bytes anew.
        """
        if self._broken is not None:
            detail = f"an earlier sync failed, and nothing can be synced here any more ({self._broken})"
            raise FileFault(self._broken.fault.kind, detail)
        fd = self._open_fd()
        try:
            if self.durability == "power":
                self._disk.fdatasync(fd)
            else:
                self._disk.check_writes(fd)
        except OSError as error:
            self._broken = fault_of(error, self.path)
            raise self._broken from error

    def flush_system(self) -> None:
        """`flush` of every file on the same file system, whoever wrote it. May raise an OSError for which
        `lacks` is true, and has done nothing then.
        """
        self._disk.sync_system(self._open_fd())

    def check(self, at_least: int = 0) -> None:
        """See that the path still leads to this file, and that it is as long as it was, and as `at_least`.

        Raises:
            FileFault: LOCAL_REMOVED: somebody removed, replaced or truncated it.

        """
        high = self._high  # before the look: other threads make the file longer meanwhile
        with guarded(self.path):
            standing = self._disk.stat(self.path)
        if standing is None:
            raise FileFault(FaultKind.LOCAL_REMOVED, f"{self.path} was removed while it was in use")
        if standing.identity != self.identity:
            raise FileFault(FaultKind.LOCAL_REMOVED, f"{self.path} was replaced by another file while in use")
        self._check_length(standing.size, max(high, at_least))

    def _check_length(self, size: int, expected: int) -> None:
        if size < expected:
            detail = f"{self.path} was truncated: it has {size} bytes, and {expected} were written"
            raise FileFault(FaultKind.LOCAL_REMOVED, detail)

    def truncate(self, size: int) -> None:
        """Make the file `size` bytes long; no write may be under way."""
        with guarded(self.path), self._lock:
            self._disk.ftruncate(self._open_fd(), size)
            self._high = size

    def remove(self) -> bool:
        """Take the file's name away, so that the target is free; that of another file is left. True."""
        with guarded(self.path):
            standing = self._disk.stat(self.path)
            if standing is not None and standing.identity == self.identity:
                self._disk.unlink(self.path)
        return True

    def close(self) -> None:
        """Let go of the file and its lock; what was not flushed is not lost, but not durable either.

        In a forked child nothing is left to do: its copy was closed at the fork (`OsDisk`), and unlocking
        there would take the lock from the parent.
        """
        fd, self._fd = self._fd, -1
        if fd >= 0 and os.getpid() == self._owner:
            try:
                let_go(self._disk, fd)
            except OSError as error:
                raise fault_of(error, self.path) from error

    def _open_fd(self) -> int:
        if self._fd < 0:
            raise FileFault(FaultKind.IO, f"{self.path} is closed")
        return self._fd


def open_part(disk: Disk, path: str) -> int | None:
    """Open and lock the part file that stands at `path`; None where there is none. May raise OSError.

    Raises:
        FileFault: TARGET_OWNED if somebody has it open; IO if it is no regular file.

    """
    while True:
        try:
            fd = disk.open(path, _FLAGS)
        except FileNotFoundError:
            return None
        try:
            if _lock(disk, path, fd):
                return fd
        except BaseException:  # raised again: a descriptor left open would keep the file locked
            disk.close(fd)
            raise
        disk.close(fd)


def let_go(disk: Disk, fd: int) -> None:
    """Unlock and close, in the process that locked: closing alone would leave the lock with a child that was
    forked, or is just being started, and has a copy of the descriptor.
    """
    try:
        disk.unlock(fd)
    finally:
        disk.close(fd)


def _open_or_create(disk: Disk, path: str) -> tuple[int, bool]:
    """A locked descriptor, and whether the file is new."""
    while True:
        fd = open_part(disk, path)
        if fd is not None:
            return fd, False
        try:
            fd = disk.open(path, _FLAGS | os.O_CREAT | os.O_EXCL)
        except FileExistsError:  # created a moment ago by somebody else, who may have it locked
            continue
        try:
            if _lock(disk, path, fd):
                return fd, True
        except BaseException:  # raised again, as above
            disk.close(fd)
            raise
        disk.close(fd)


def _lock(disk: Disk, path: str, fd: int) -> bool:
    """Lock the file; False if the path leads elsewhere by now, since it was removed before it was locked."""
    status = disk.fstat(fd)
    if not status.is_file:
        raise FileFault(FaultKind.IO, f"{path} is not a regular file, so nothing can be stored in it")
    _take_lock(disk, path, fd)
    standing = disk.stat(path)
    return standing is not None and standing.identity == status.identity


def _take_lock(disk: Disk, path: str, fd: int) -> None:
    if not disk.flock(fd):
        detail = f"{path} is open elsewhere: another process, or another engine, works on the same task"
        raise FileFault(FaultKind.TARGET_OWNED, detail)


def _refuse_others(disk: Disk, target: str, folder: str, stem: str, own: str) -> None:
    """See that no other task than this one, whose part file is called `own`, has one for `target`.

    The caller's own part file stands by now, so that of two tasks that begin at once at least one finds the
    other. Whether the other is at work is not asked: trying its lock could make it believe that it lost it.
    """
    for name in disk.part_names(folder or "/", stem, own):
        owner = name[len(stem) + 1 : -len(_SUFFIX)]
        if name == own or len(owner) != _ID_LENGTH or name != f"{stem}.{owner}{_SUFFIX}":
            continue
        if _ID_LETTERS.issuperset(owner):
            detail = (
                f"task {owner} owns {target}, at work, paused or left over: its bytes are in {folder}/{name}."
                " Resume or cancel that task; if no journal has it any more, delete that file"
            )
            raise FileFault(FaultKind.TARGET_OWNED, detail)
