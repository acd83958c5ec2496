"""The names of part files in a folder, without reading all of the folder each time.

Whoever begins a download looks for the part file of another task beside its own. One listing answers that,
but its cost grows with the folder, so that many small files in one folder would take quadratic time. On Linux
a folder that is asked about again is therefore listed once more and watched from then on (inotify(7)): the
kernel has queued the event of a name before the call that made it returns, so a look behind one's own
creation sees every name that was there by then, as a listing would.

That holds where all who write to the folder do so through this kernel: network file systems are listed.
"""

import ctypes
import os
import struct
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from time import monotonic
from typing import Any

__all__ = ["PartNames"]

SOON = 10.0
"""Seconds within which a second question about a folder makes it worth watching."""
MOST_FOLDERS = 64
"""Folders that are watched at once; that of the oldest question is given up for another."""

LOCAL = frozenset(
    {0xEF53, 0x58465342, 0x9123683E, 0x01021994, 0xF2F52010, 0x2FC12FC1, 0xCA451A4E, 0x858458F6, 0x794C7630}
)
"""ext4, xfs, btrfs, tmpfs, f2fs, zfs, bcachefs, ramfs and overlayfs, as statfs(2) calls them."""

_CREATED, _CAME, _REMOVED, _LEFT, _ONLY_FOLDERS = 0x100, 0x80, 0x200, 0x40, 0x01000000
_GONE = _REMOVED | _LEFT
_OVERFLOW, _IGNORED = 0x4000, 0x8000
_HEAD = struct.Struct("iIII")
_HEAD_SIZE = _HEAD.size
_READ = 1 << 16

Names = Callable[[str], list[str]]
"""Lists a folder; raises OSError."""


class _Folder:
    """What is known of a watched folder."""

    def __init__(self, watch: int, place: tuple[int, int]) -> None:
        self.watch = watch
        self.place = place
        """Device and inode: the path may lead to another folder tomorrow."""
        self.names: dict[str, set[str]] = {}
        """Of the part files in it, by what stands before the task's id. Those of this engine are among them:
        a task that is paused owns its target against the others here as well."""
        self.came: set[str] = set()
        """Those of them that have come since it is watched, and that nobody has asked about as its own."""

    def note(self, name: str) -> None:
        self.names.setdefault(stem_of(name), set()).add(name)

    def forget(self, name: str) -> None:
        self.came.discard(name)
        stem = stem_of(name)
        names = self.names.get(stem)
        if names is not None:
            names.discard(name)
            if not names:
                del self.names[stem]


class PartNames:
    """For one engine; from any thread.

    Args:
        suffix: what the names of part files end with, behind a dot and the task's id.
        listing: lists a folder.

    """

    def __init__(self, suffix: str, listing: Names) -> None:
        self._suffix = suffix.encode()
        self._listing = listing
        self._lock = threading.Lock()
        self._asked: OrderedDict[str, float] = OrderedDict()
        self._folders: OrderedDict[str, _Folder] = OrderedDict()
        self._paths: dict[int, str] = {}
        self._calls = _inotify()
        self._fd = -1

    def find(self, folder: str, stem: str, own: str) -> list[str]:
        """The names in the folder that begin with `stem`, a dot and a task's id; others may be among them.
        `own` is left out.

        Raises:
            OSError: the folder can't be read.

        """
        with self._lock:
            known = self._folders.get(folder) or self._watch(folder)
            if known is None:
                return self._listing(folder)
            self._listen()
            if self._folders.get(folder) is not known:  # events were lost
                return self._listing(folder)
            self._folders.move_to_end(folder)
            if own in known.came:  # just created by the caller, so the path leads to what is watched
                known.came.remove(own)
            elif known.place != _place(folder):
                self._drop(folder)
                return self._listing(folder)
            names = known.names.get(stem, ())
            return [name for name in names if name != own and os.path.lexists(f"{folder}/{name}")]

    def _watch(self, folder: str) -> _Folder | None:
        """Begin to watch a folder that was asked about a moment ago; None where that is not worth it."""
        now = monotonic()
        before = self._asked.pop(folder, None)
        self._asked[folder] = now
        if len(self._asked) > MOST_FOLDERS:
            self._asked.popitem(last=False)
        if self._calls is None or before is None or now - before > SOON or not _is_local(folder):
            return None
        place = _place(folder)
        if self._fd < 0:
            self._fd = self._calls.begin()
            if self._fd < 0:
                self._calls = None  # the user has as many as are allowed
                return None
            weakref.finalize(self, _close, self._fd)
        watch = self._calls.add(self._fd, os.fsencode(folder))
        if watch < 0 or watch in self._paths:  # no room; or another path to a folder that is watched
            return None
        known = _Folder(watch, place)
        self._folders[folder], self._paths[watch] = known, folder
        while len(self._folders) > MOST_FOLDERS:
            self._drop(next(iter(self._folders)))
        for name in self._listing(folder):
            if os.fsencode(name).endswith(self._suffix):
                known.note(name)
        return known

    def _drop(self, folder: str) -> None:
        known = self._folders.pop(folder)
        self._paths.pop(known.watch, None)
        assert self._calls is not None  # noqa: S101  # a folder was watched
        self._calls.remove(self._fd, known.watch)

    def _listen(self) -> None:
        """Take in what has happened since the last time."""
        while True:
            try:
                block = os.read(self._fd, _READ)
            except BlockingIOError:
                return
            at, stop = 0, len(block)
            while at < stop:
                watch, mask, _, size = _HEAD.unpack_from(block, at)
                at += _HEAD_SIZE + size
                name = block[at - size : at].rstrip(b"\0")
                if name.endswith(self._suffix) or not name:
                    self._heed(watch, mask, os.fsdecode(name))
            if stop < _READ // 2:
                return

    def _heed(self, watch: int, mask: int, name: str) -> None:
        folder = self._paths.get(watch)
        if mask & _OVERFLOW:
            for each in tuple(self._folders):
                self._drop(each)
        elif folder is None:
            return  # given up a moment ago
        elif mask & _IGNORED:  # the folder is gone
            del self._paths[watch], self._folders[folder]
        elif name and mask & _GONE:
            self._folders[folder].forget(name)
        elif name:
            known = self._folders[folder]
            known.note(name)
            known.came.add(name)


def stem_of(name: str) -> str:
    """What stands before the last two dots: the target's name, perhaps cut, before id and suffix."""
    return name.rsplit(".", 2)[0]


def _place(folder: str) -> tuple[int, int]:
    facts = os.stat(folder)  # noqa: PTH116  # a path that is the user's
    return facts.st_dev, facts.st_ino


class _Inotify:
    """The calls of inotify(7); -1 where they fail."""

    def __init__(self, libc: Any) -> None:
        self._libc = libc

    def begin(self) -> int:
        return int(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))

    def add(self, fd: int, path: bytes) -> int:
        return int(self._libc.inotify_add_watch(fd, path, _CREATED | _CAME | _GONE | _ONLY_FOLDERS))

    def remove(self, fd: int, watch: int) -> None:
        self._libc.inotify_rm_watch(fd, watch)


@cache
def _inotify() -> _Inotify | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    return _Inotify(libc) if hasattr(libc, "inotify_init1") else None


def _is_local(folder: str) -> bool:
    facts = ctypes.create_string_buffer(512)
    if ctypes.CDLL(None).statfs(os.fsencode(folder), facts) != 0:
        return False
    return ctypes.c_ulong.from_buffer(facts).value & 0xFFFFFFFF in LOCAL


def _close(fd: int) -> None:
    """Elsewhere, since the kernel takes 20 ms for it."""
    with suppress(RuntimeError):  # at the interpreter's end, which closes it as well
        threading.Thread(target=os.close, args=(fd,), daemon=True).start()
