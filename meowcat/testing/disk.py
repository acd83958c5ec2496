"""A disk in memory that keeps no promise which POSIX did not make.

When the power is lost, of all that was not synced, each piece is kept, lost or torn by itself:

- a file's bytes, per sector of 512: each has the content of any moment since the last `fdatasync`; a sector
  that the file did not have then may also be zeros, or leftovers of another file;
- a file's length: that of any moment since then;
- names, per operation: creating, removing, linking and renaming are kept or lost independently of each other
  and of the bytes, until `fsync_folder`; a rename may also leave both names, and one into another folder
  none, where only the folder that it left was synced.

A sync that fails loses what it should have written, although it can still be read until then ("fsyncgate").
Numbers of removed files are given out again at once, as ext4 does. Each change of a file has a time of its
own (`mtime_ns`, `ctime_ns`), later by one than the one before it. All calls are counted and in `trace`.
"""
# ruff: noqa: PTH119, PTH120, SLF001  # paths are names in a table; the disk after a loss is made from another

import copy
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Literal, Self

from msgspec import Struct, field

from meowcat.core.values import FileIdentity
from meowcat.testing.power import Power, PowerLost, When
from meowcat.transfer.disk import Buffer, FileStatus

__all__ = ["SECTOR", "PowerLost", "SimulatedDisk"]

SECTOR = 512
BLOCK = 4096
"""The unit of allocation, in bytes."""
DEVICE = 7

Choice = Literal["seed", "lost", "kept"]
"""What a power loss does to what was not synced: anything, by the seed; the worst; nothing."""


class Write(Struct, frozen=True):
    offset: int
    data: bytes


class Cut(Struct, frozen=True):
    size: int


class Inode(Struct):
    """A file: what is on the medium, what was done since, and what a reader sees."""

    number: int
    stable: bytearray = field(default_factory=bytearray)
    unsynced: list[Write | Cut] = field(default_factory=list)
    content: bytearray = field(default_factory=bytearray)
    blocks: set[int] = field(default_factory=set)
    mtime: int = 0
    ctime: int = 0

    def do(self, change: Write | Cut) -> None:
        self.unsynced.append(change)
        apply(self.content, change)
        if isinstance(change, Write):
            self.blocks |= touched(change)
        else:
            self.blocks = {block for block in self.blocks if block * BLOCK < change.size}

    def sync(self) -> None:
        for change in self.unsynced:
            apply(self.stable, change)
        self.unsynced = []


class Naming(Struct, frozen=True):
    """One operation on names: `removed` goes, `added` leads to the inode from now on."""

    folder: str
    removed: str | None
    added: str | None
    inode: int


class Opened(Struct):
    inode: int
    writable: bool


class SimulatedDisk:
    """A `Disk` whose every call can fail, and lose the power before or after it has its effect.

    Args:
        seed: of all choices; the same calls with the same seed end the same.
        capacity: bytes.
        without: operations that this file system has not: `rename_new`, `link`, `sync_system`.
        short_writes: whether writes may take a part of the bytes only.
        power: of the machine that the disk is a part of; by default it has its own.
        leftovers: whether sectors that were allocated and not written may show another file's bytes, as where
            a file system orders neither (ext4 with data=writeback); zeros otherwise.

    """

    def __init__(
        self,
        seed: int = 0,
        *,
        capacity: int = 1 << 30,
        without: frozenset[str] = frozenset(),
        short_writes: bool = False,
        power: Power | None = None,
        leftovers: bool = True,
    ) -> None:
        self.power = power or Power()
        self.seed = seed
        self.capacity = capacity
        self.without = without
        self.short_writes = short_writes
        self.leftovers = leftovers
        self._random = Random(seed)  # noqa: S311  # to be repeated, not to be secret
        self._inodes: dict[int, Inode] = {}
        self._names: dict[str, int] = {}
        self._stable_names: dict[str, int] = {}
        self._unsynced_names: list[Naming] = []
        self._folders: set[str] = {"/"}
        self._unsynced_folders: list[str] = []
        self._ticks = 0
        self._opened: dict[int, Opened] = {}
        self._locks: dict[int, int] = {}

    # The hand from outside: not counted, and durable at once

    def make_folder(self, path: str) -> None:
        self._folders |= {path, *_parents(path)}

    def put(self, path: str, content: bytes) -> None:
        """Somebody else puts a new file there, in the place of what stands there."""
        self.remove(path)
        inode = self._new_inode()
        self._change(inode, Write(0, content))
        inode.sync()
        self._names[path] = self._stable_names[path] = inode.number

    def remove(self, path: str) -> None:
        """Somebody else removes the file; fine where there is none."""
        self._names.pop(path, None)
        self._stable_names.pop(path, None)
        self._free_unnamed()

    def cut(self, path: str, size: int) -> None:
        """Somebody else truncates the file."""
        inode = self._inodes[self._names[path]]
        self._change(inode, Cut(size))
        inode.sync()

    def overwrite(self, path: str, offset: int, content: bytes) -> None:
        """Somebody else writes into the file that stands there."""
        inode = self._inodes[self._names[path]]
        self._change(inode, Write(offset, content))
        inode.sync()

    def get(self, path: str) -> bytes | None:
        """What a reader sees at `path`; None where no file is."""
        number = self._names.get(path)
        return None if number is None else bytes(self._inodes[number].content)

    def names(self, folder: str) -> list[str]:
        """The names of the files in a folder, in order."""
        return sorted(os.path.basename(name) for name in self._names if os.path.dirname(name) == folder)

    # What happens when

    @property
    def calls(self) -> int:
        """How many were made; the first has the number 1."""
        return self.power.calls

    @property
    def trace(self) -> list[str]:
        return self.power.trace

    def crash_at(self, number: int, when: When) -> Self:
        """Lose the power at the call with this number."""
        self.power.crash_at(number, when)
        return self

    def fail_at(self, number: int, error: int) -> Self:
        """Let the call with this number fail with this errno."""
        self.power.fail_at(number, error)
        return self

    def reseed(self, seed: int) -> None:
        """Let the choices from here on depend on another seed."""
        self.seed = seed
        self._random.seed(seed)

    def killed(self) -> "SimulatedDisk":
        """The disk as the next process finds it: nothing is lost, and nothing is more durable than it was."""
        disk = copy.copy(self)
        disk.__dict__ |= {
            name: copy.deepcopy(value)
            for name, value in self.__dict__.items()
            if name not in {"power", "without"}
        }
        disk._opened, disk._locks = {}, {}
        disk.power = Power()
        disk.power.trace = [*self.trace, "-- the next process --"]
        disk._free_unnamed()
        return disk

    def restart(self, choice: Choice = "seed") -> "SimulatedDisk":
        """The disk after the power was lost now. May be called more than once, with different choices."""
        disk = self.killed()
        disk.trace[-1] = f"-- power lost, {choice} (seed {self.seed}) --"
        disk._lose_names(choice)
        for inode in disk._inodes.values():
            disk._lose_bytes(inode, choice)
        disk._free_unnamed()
        return disk

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Add the seed and the trace to any error that leaves this block."""
        try:
            yield
        except BaseException as error:  # raised again, PowerLost too: with its trace
            error.add_note(f"seed {self.seed}; the calls:\n" + "\n".join(self.trace))
            raise

    def _lose_names(self, choice: Choice) -> None:
        for naming in self._unsynced_names:
            added = self._happens(choice)
            removed = added if naming.added is None else added and self._happens(choice)
            if naming.removed is not None and removed:
                self._stable_names.pop(naming.removed, None)
            if naming.added is not None and added:
                self._stable_names[naming.added] = naming.inode
        self._unsynced_names = []
        lost = [path for path in self._unsynced_folders if not self._happens(choice)]
        self._unsynced_folders = []
        self._folders -= set(lost)
        self._stable_names = {
            name: number for name, number in self._stable_names.items() if os.path.dirname(name) not in lost
        }
        self._names = dict(self._stable_names)

    def _lose_bytes(self, inode: Inode, choice: Choice) -> None:
        if choice == "kept":
            inode.sync()
        elif choice == "seed":
            inode.stable = self._torn(inode)
        inode.unsynced = []
        inode.content = bytearray(inode.stable)

    def _torn(self, inode: Inode) -> bytearray:
        moments = [bytearray(inode.stable)]
        for change in inode.unsynced:
            moments.append(bytearray(moments[-1]))
            apply(moments[-1], change)
        size = len(self._random.choice(moments))
        torn = bytearray(size)
        for start in range(0, size, SECTOR):
            seen = {bytes(moment[start : start + SECTOR]) for moment in moments}
            sectors = sorted(seen)
            if start >= len(inode.stable):
                sectors += [bytes(SECTOR), *([self._random.randbytes(SECTOR)] if self.leftovers else [])]
            sector = sectors[0] if len(sectors) == 1 else self._random.choice(sectors)
            torn[start : start + SECTOR] = sector[: size - start].ljust(min(SECTOR, size - start), b"\0")
        return torn

    def _happens(self, choice: Choice) -> bool:
        return choice == "kept" or (choice == "seed" and self._random.random() < 0.5)  # noqa: PLR2004  # a coin

    # `Disk`

    def open(self, path: str, flags: int, mode: int = 0o666) -> int:  # noqa: ARG002  # there is one user here
        with self.power.call("open", path, _flag_names(flags)):
            number = self._names.get(path)
            if path in self._folders:
                raise _error(errno.EISDIR, path)
            if number is None:
                if not flags & os.O_CREAT or os.path.dirname(path) not in self._folders:
                    raise _error(errno.ENOENT, path)
                number = self._new_inode().number
                self._name(Naming(os.path.dirname(path), None, path, number))
            elif flags & os.O_CREAT and flags & os.O_EXCL:
                raise _error(errno.EEXIST, path)
            fd = next(each for each in range(3, 1 << 20) if each not in self._opened)
            self._opened[fd] = Opened(number, bool(flags & (os.O_RDWR | os.O_WRONLY)))
            return fd

    def close(self, fd: int) -> None:
        with self.power.call("close", fd):
            inode = self._file(fd)
            del self._opened[fd]
            if self._locks.get(inode.number) == fd:
                del self._locks[inode.number]
            self._free_unnamed()

    def pwrite(self, fd: int, data: Buffer, offset: int) -> int:
        view = memoryview(data).cast("B")
        with self.power.call("pwrite", fd, f"{len(view)} bytes at {offset}"):
            inode = self._file(fd)
            if not self._opened[fd].writable:
                raise _error(errno.EBADF, str(fd))
            if self.short_writes and len(view) > 1:
                view = view[: self._random.randint(1, len(view))]
            change = Write(offset, bytes(view))
            if len(touched(change) - inode.blocks) * BLOCK > self._free():
                raise _error(errno.ENOSPC, str(fd))
            self._change(inode, change)
            return len(view)

    def append(self, fd: int, data: Buffer) -> int:
        """A write at the end, as with O_APPEND."""
        return self.pwrite(fd, data, len(self._file(fd).content))

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        with self.power.call("pread", fd, f"{size} bytes at {offset}"):
            return bytes(self._file(fd).content[offset : offset + size])

    def preadv(self, fd: int, buffer: bytearray | memoryview, offset: int) -> int:
        view = memoryview(buffer)
        with self.power.call("preadv", fd, f"{len(view)} bytes at {offset}"):
            data = self._file(fd).content[offset : offset + len(view)]
            view[: len(data)] = data
            return len(data)

    def fdatasync(self, fd: int) -> None:
        try:
            with self.power.call("fdatasync", fd):
                self._file(fd).sync()
        except OSError:
            self._file(fd).unsynced.clear()
            raise

    def check_writes(self, fd: int) -> None:
        with self.power.call("check_writes", fd):
            self._file(fd)

    def sync_system(self, fd: int) -> None:
        supported = "sync_system" not in self.without
        try:
            with self.power.call("sync_system", fd):
                self._file(fd)
                if not supported:
                    raise _error(errno.ENOSYS, str(fd))
                for inode in self._inodes.values():
                    inode.sync()
                for naming in self._unsynced_names:
                    _rename(self._stable_names, naming)
                self._unsynced_names, self._unsynced_folders = [], []
                self._free_unnamed()
        except OSError:
            for inode in self._inodes.values() if supported else ():
                inode.unsynced.clear()
            raise

    def fsync_folder(self, path: str) -> None:
        with self.power.call("fsync_folder", path):
            if path not in self._folders:
                raise _error(errno.ENOENT, path)
            for naming in self._unsynced_names:
                if naming.folder == path:
                    _rename(self._stable_names, naming)
                elif naming.removed is not None and os.path.dirname(naming.removed) == path:
                    self._stable_names.pop(naming.removed, None)
            self._unsynced_names = [each for each in self._unsynced_names if each.folder != path]
            self._unsynced_folders = [
                each for each in self._unsynced_folders if os.path.dirname(each) != path
            ]
            self._free_unnamed()

    def mkdir(self, path: str) -> None:
        with self.power.call("mkdir", path):
            if path in self._folders or path in self._names:
                raise _error(errno.EEXIST, path)
            if os.path.dirname(path) not in self._folders:
                raise _error(errno.ENOENT, path)
            self._folders.add(path)
            self._unsynced_folders.append(path)

    def ftruncate(self, fd: int, size: int) -> None:
        with self.power.call("ftruncate", fd, size):
            self._change(self._file(fd), Cut(size))

    def fstat(self, fd: int) -> FileStatus:
        with self.power.call("fstat", fd):
            return _status(self._file(fd))

    def size(self, fd: int) -> int:
        return self.fstat(fd).size

    def stands(self, path: str, fd: int) -> bool:
        """Whether the file behind the descriptor is the one at `path`."""
        standing = self.stat(path)
        return standing is not None and standing.identity == self.fstat(fd).identity

    def exists(self, path: str) -> bool:
        return self.stat(path) is not None

    def map(self, path: str) -> bytes:
        """The content, as a memory map would show it."""
        with self.power.call("map", path):
            return bytes(self._inodes[self._inode_at(path)].content)

    def stat(self, path: str, *, follow: bool = False) -> FileStatus | None:  # noqa: ARG002  # no links here
        with self.power.call("stat", path):
            if path in self._folders:
                return FileStatus(FileIdentity(DEVICE, 0), 0, 0, stat.S_IFDIR | 0o755)
            number = self._names.get(path)
            return None if number is None else _status(self._inodes[number])

    def keep_mode(self, source: str, target: str) -> None:
        """It knows no modes."""

    def set_time(self, path: str, ms: int) -> None:
        with self.power.call("set_time", path, ms):
            self._inodes[self._inode_at(path)].mtime = ms * 1_000_000

    def rename(self, source: str, target: str) -> None:
        with self.power.call("rename", source, target):
            self._move(source, target)

    def rename_new(self, source: str, target: str) -> None:
        with self.power.call("rename_new", source, target):
            self._refuse("rename_new", errno.EINVAL, target)
            self._move(source, target)

    def link(self, source: str, target: str) -> None:
        with self.power.call("link", source, target):
            self._refuse("link", errno.EPERM, target)
            self._name(Naming(os.path.dirname(target), None, target, self._inode_at(source)))

    def unlink(self, path: str) -> None:
        with self.power.call("unlink", path):
            self._name(Naming(os.path.dirname(path), path, None, self._inode_at(path)))
            self._free_unnamed()

    def flock(self, fd: int) -> bool:
        with self.power.call("flock", fd):
            return self._locks.setdefault(self._file(fd).number, fd) == fd

    def unlock(self, fd: int) -> None:
        with self.power.call("unlock", fd):
            if self._locks.get(self._file(fd).number) == fd:
                del self._locks[self._file(fd).number]

    def free_bytes(self, folder: str) -> int:
        with self.power.call("free_bytes", folder):
            return self._free()

    def list_folder(self, path: str) -> list[str]:
        with self.power.call("list_folder", path):
            if path not in self._folders:
                raise _error(errno.ENOTDIR if path in self._names else errno.ENOENT, path)
            return [
                os.path.basename(name)
                for name in (*self._names, *self._folders)
                if os.path.dirname(name) == path != name
            ]

    def part_names(self, folder: str, stem: str, own: str) -> list[str]:
        return [name for name in self.list_folder(folder) if name.startswith(stem) and name != own]

    def writable(self, folder: str) -> bool:
        with self.power.call("writable", folder):
            return folder in self._folders

    # Within

    def _refuse(self, operation: str, unsupported: int, target: str) -> None:
        if operation in self.without:
            raise _error(unsupported, target)
        if target in self._names or target in self._folders:
            raise _error(errno.EEXIST, target)

    def _move(self, source: str, target: str) -> None:
        number = self._inode_at(source)
        if target in self._folders:
            raise _error(errno.EISDIR, target)
        if os.path.dirname(target) not in self._folders:
            raise _error(errno.ENOENT, target)
        if self._names.get(target) != number:  # else nothing happens: rename(2)
            self._name(Naming(os.path.dirname(target), source, target, number))
            self._free_unnamed()

    def _change(self, inode: Inode, change: Write | Cut) -> None:
        inode.do(change)
        self._ticks += 1
        inode.mtime = inode.ctime = self._ticks

    def _name(self, naming: Naming) -> None:
        _rename(self._names, naming)
        self._ticks += 1
        self._inodes[naming.inode].ctime = self._ticks
        self._unsynced_names.append(naming)

    def _inode_at(self, path: str) -> int:
        if path not in self._names:
            raise _error(errno.ENOENT, path)
        return self._names[path]

    def _new_inode(self) -> Inode:
        number = next(each for each in range(11, 1 << 30) if each not in self._inodes)
        self._inodes[number] = Inode(number)
        return self._inodes[number]

    def _file(self, fd: int) -> Inode:
        if fd not in self._opened:
            raise _error(errno.EBADF, str(fd))
        return self._inodes[self._opened[fd].inode]

    def _free(self) -> int:
        return self.capacity - sum(len(inode.blocks) * BLOCK for inode in self._inodes.values())

    def _free_unnamed(self) -> None:
        used = {*self._names.values(), *self._stable_names.values()}
        used |= {each.inode for each in self._unsynced_names} | {each.inode for each in self._opened.values()}
        self._inodes = {number: inode for number, inode in self._inodes.items() if number in used}


def apply(content: bytearray, change: Write | Cut) -> None:
    """Change a file's content; what a longer file gains is zeros."""
    if isinstance(change, Cut):
        del content[change.size :]
        content.extend(bytes(change.size - len(content)))
        return
    content.extend(bytes(max(0, change.offset - len(content))))
    content[change.offset : change.offset + len(change.data)] = change.data


def touched(change: Write) -> set[int]:
    """The numbers of the blocks that a write needs."""
    return set(range(change.offset // BLOCK, -(-(change.offset + len(change.data)) // BLOCK)))


def _rename(names: dict[str, int], naming: Naming) -> None:
    if naming.removed is not None:
        names.pop(naming.removed, None)
    if naming.added is not None:
        names[naming.added] = naming.inode


def _status(inode: Inode) -> FileStatus:
    identity = FileIdentity(DEVICE, inode.number)
    allocated = len(inode.blocks) * BLOCK
    mode = stat.S_IFREG | 0o644
    return FileStatus(identity, len(inode.content), allocated, mode, inode.mtime, inode.ctime)


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)


def _flag_names(flags: int) -> str:
    names = ("O_RDWR", "O_CREAT", "O_EXCL", "O_TRUNC")
    return "|".join(name for name in names if flags & getattr(os, name)) or "O_RDONLY"


def _parents(path: str) -> Iterator[str]:
    while path != os.path.dirname(path):
        path = os.path.dirname(path)
        yield path
