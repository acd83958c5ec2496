"""The writing end of a JSONL journal: the last segment, appended to by one owner.

Each write is one batch that ends in a commit. It ends in one of three ways: it is in the file, synced where
that is asked for; it is certainly not, because it was cut off again; or it is in doubt, and then nothing is
written until `reopen`. A sync that failed is never tried again on the same descriptor: the kernel may have
dropped the pages and would report success.
"""
# ruff: noqa: PTH118  # paths are texts here, as the system calls take them

import os
from hashlib import sha256
from typing import NoReturn

from journal_adapters.jsonl_files import (
    FULL,
    NEW,
    RESERVE,
    Files,
    explained,
    fresh,
    read_from,
    remove,
    replace,
    segment_name,
    segment_numbers,
    write_all,
)
from journal_adapters.jsonl_segments import lines_of
from journal_adapters.ownership import Lock
from meowcat.core.errors import (
    JournalDamaged,
    JournalFenced,
    JournalRejected,
    JournalUncertain,
)
from meowcat.journal.contract import Sync
from meowcat.journal.lines import Opening, Segment, control_line

_HEAD = 4096
"""Bytes within which the second line of a segment begins."""

RESERVED = 1 << 20
"""Bytes of the file that is given up when the disk is full, so that what has to be said still can be."""


class Log:
    """The last segment of a journal that this process owns."""

    def __init__(self, files: Files, folder: str, lock: Lock, sync: Sync) -> None:
        self._files, self._folder, self._lock, self._sync = files, folder, lock, sync
        self._fd = -1
        self._name = ""
        """The path of the segment."""
        self.number = 0
        self.size = 0
        """Bytes up to the last acknowledged commit."""
        self.empty = True
        """Whether the segment has nothing but its header."""
        self._hash = sha256()
        self.reserved = True
        """Whether the reserve is there. If not, no room is spent on what is derived."""
        self._doubt = ""
        """Why nothing can be written until `reopen`."""
        self._lost = False
        """Whether another owner was seen here: then nothing is written any more."""

    def attach(self, number: int, content: bytes) -> None:
        """Go on in a segment that holds `content`."""
        self._name = self._path(number)
        with explained(self._name):
            self._fd = self._files.open(self._name, os.O_RDWR | os.O_APPEND)
            self.number, self.size, self._hash = number, len(content), sha256(content)
            self.empty = content.count(b"\n", 0, _HEAD) <= 1

    def repair(self) -> None:
        """Cut off what stands behind `size`, the torn tail of a crash, and make all before it durable."""
        with explained(self._name):
            if self._files.size(self._fd) != self.size:
                self._files.ftruncate(self._fd, self.size)
            self._files.fdatasync(self._fd)

    def write(self, batch: bytes, *, durable: bool = False) -> int:
        """Append lines that end in a commit; durable on return to the level of the opening, or in any case.

        Returns:
            Where in the segment they begin.

        Raises:
            JournalRejected: certainly not written. JournalFenced: another owner writes here.
            JournalUncertain: perhaps written; `reopen` first.

        """
        self.require_ours()
        try:
            write_all(self._files, self._fd, batch)
        except OSError as error:
            self._take_back(error, batch)
        self._finish_write(self.size + len(batch), durable=durable or self._sync == "power")
        begin = self.size
        self.size += len(batch)
        self._hash.update(batch)
        self.empty = False
        return begin

    def _finish_write(self, size: int, *, durable: bool) -> None:
        try:
            found = self._files.size(self._fd)
            if durable:
                self._files.fdatasync(self._fd)
        except OSError as error:
            self._in_doubt(error)
        if found != size:
            raise self._changed(size, found)

    def begin(self, header: Segment) -> int:
        """Start another segment, the first or the one behind this; nothing is lost if that fails.

        Args:
            header: its first line, but for `number` and `previous`, which are filled in.

        Returns:
            The bytes of the segment before it.

        Raises:
            as `write`.

        """
        before = self.size
        if self._fd >= 0:
            self.require_ours()
            self.settle()
        number = self.number + 1
        previous = self._hash.hexdigest() if self.number else "0" * 64
        line = control_line(
            Segment(header.format, header.journal, number, header.first, header.epoch, header.chain, previous)
        )
        name = self._path(number)
        self._create(name, line)
        try:
            fd = self._files.open(name, os.O_RDWR | os.O_APPEND)
        except OSError as error:
            self._in_doubt(error)
        self.close()
        self._name = name
        self._fd, self.number, self.size, self._hash = fd, number, len(line), sha256(line)
        self.empty = True
        return before

    def reopen(self, header: Segment) -> int:
        """After a doubt: read from the disk what was acknowledged, cut off the rest, start another segment.

        What is in doubt is cut even where all of it can be read: after a failed sync it may be in memory
        alone. All that stands before it is compared with what was written, and synced.

        Returns:
            The bytes of the segment before the new one.

        Raises:
            JournalFenced: for good. JournalUncertain: still in doubt. JournalDamaged: the disk has lost
                acknowledged bytes.

        """
        try:
            if self._lock.replaced():
                raise self._fenced()
            self.close()
            self._fd = self._files.open(self._name, os.O_RDWR | os.O_APPEND)
            self._forget_later_segments()
            content = read_from(self._files, self._fd)
            if sha256(content[: self.size]).digest() != self._hash.digest():
                raise JournalDamaged(f"{self._name}: acknowledged bytes have changed")
            if any(isinstance(said, Opening) for _, _, said in lines_of(content, self.size)):
                raise self._fenced()
            self._files.ftruncate(self._fd, self.size)
            self._files.fdatasync(self._fd)
        except OSError as error:
            self._doubt = f"{error.filename or self._folder}: {error.strerror}"
            raise JournalUncertain(f"{self._doubt}; the journal could not be reopened") from error
        self._doubt = ""
        return self.begin(header)

    def require_ours(self) -> None:
        """See that nobody else has written, and that nothing is in doubt.

        Raises:
            JournalFenced, JournalUncertain. JournalRejected: it can't be seen at present.

        """
        try:
            replaced = self._lock.replaced()
            stands = self._fd < 0 or self._files.stands(self._name, self._fd)
        except OSError as error:
            raise self._rejected(error) from error
        if not stands:  # first: with its folder the lock goes, too
            raise JournalFenced(
                f"{self._name}: the file was removed or replaced while it was open, by an editor "
                "for example: nothing more can be recorded in it"
            )
        if replaced or self._lost:
            raise self._fenced()
        if self._doubt:
            raise JournalUncertain(f"{self._folder}: an append is in doubt ({self._doubt}); reopen first")
        try:
            written = self.size if self._fd < 0 else self._files.size(self._fd)
        except OSError as error:
            raise self._rejected(error) from error
        if written != self.size:
            raise self._changed(self.size, written)

    def settle(self) -> None:
        """Make durable what was written without: what will be so must not be ahead of it.

        Raises:
            JournalUncertain: that failed.

        """
        if self._sync == "process":
            try:
                self._files.fdatasync(self._fd)
            except OSError as error:
                self._in_doubt(error)

    def finish(self) -> bool:
        """Make everything durable before a close; False where that can't be said."""
        if self._fd < 0 or self._doubt or self._lost:
            return False
        try:
            if self._lock.replaced():
                return False
            self._files.fdatasync(self._fd)
        except OSError:
            return False  # what a power failure could undo under `process`, it may still undo
        return True

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            try:
                self._files.close(fd)
            except OSError:
                pass  # what counts was synced before, and the descriptor is gone in any case (close(2))

    def keep_reserve(self) -> None:
        """Have a file of zeros that can be given up when the disk is full."""
        path = os.path.join(self._folder, RESERVE)
        try:
            if not self._files.exists(path):
                if self._files.free_bytes(self._folder) < 4 * RESERVED:
                    self.reserved = False
                    return
                replace(self._files, self._folder, RESERVE, [bytes(RESERVED)])
            self.reserved = True
        except OSError:
            self.reserved = False
            self._drop(path + NEW)

    def _path(self, number: int) -> str:
        return os.path.join(self._folder, segment_name(number))

    def _create(self, path: str, line: bytes) -> None:
        try:
            try:
                self._write_new(path, line)
            except OSError as error:
                if error.errno not in FULL or not self._give_up_reserve():
                    raise
                self._write_new(path, line)
        except OSError as error:
            self._drop(path + NEW)
            if error.errno in FULL:
                raise self._rejected(error) from error
            self._in_doubt(error)
        try:
            self._files.rename(path + NEW, path)
            self._files.fsync_folder(self._folder)
        except OSError as error:
            self._in_doubt(error)

    def _write_new(self, path: str, line: bytes) -> None:
        fd = fresh(self._files, path + NEW)
        try:
            write_all(self._files, fd, line)
            self._files.fdatasync(fd)
        finally:
            self._files.close(fd)

    def _take_back(self, error: OSError, batch: bytes) -> None:
        """After a failed write: cut it off; where the disk is full, try once more with the reserve."""
        if error.errno not in FULL:
            self._in_doubt(error)
        self._cut(error)
        if not self._give_up_reserve():
            raise self._rejected(error) from error
        try:
            write_all(self._files, self._fd, batch)
        except OSError as again:
            if again.errno not in FULL:
                self._in_doubt(again)
            self._cut(again)
            raise self._rejected(again) from again

    def _cut(self, cause: OSError) -> None:
        try:
            self._files.ftruncate(self._fd, self.size)
            self._files.fdatasync(self._fd)
        except OSError as error:
            error.__cause__ = cause
            self._in_doubt(error)

    def _in_doubt(self, error: OSError) -> NoReturn:
        self._doubt = f"{error.filename or segment_name(self.number)}: {error.strerror}"
        raise JournalUncertain(f"{self._folder}: perhaps not stored: {self._doubt}; reopen first") from error

    def _rejected(self, error: OSError) -> JournalRejected:
        advice = "; free some space" if error.errno in FULL else ""
        return JournalRejected(f"{self._folder}: not stored: {error.strerror}{advice}")

    def _changed(self, size: int, found: int) -> JournalFenced:
        if found > size:
            return self._fenced()
        return JournalFenced(
            f"{self._name}: the file has {found} bytes, and was written up to byte {size}: it was cut off "
            "while it was open, and nothing more can be recorded in it"
        )

    def _fenced(self) -> JournalFenced:
        self._lost = True
        return JournalFenced(f"{self._folder}: another owner has taken the journal over")

    def _give_up_reserve(self) -> bool:
        """Whether there was a reserve, whose room is free now."""
        self.reserved = False
        try:
            self._files.unlink(os.path.join(self._folder, RESERVE))
            self._files.fsync_folder(self._folder)  # some file systems free the room with that only
        except OSError:
            return False
        return True

    def restore_reserve(self) -> None:
        """After an append: once there is room again, so there is a reserve."""
        if not self.reserved:
            self.keep_reserve()

    def _forget_later_segments(self) -> None:
        """Remove what a failed `begin` left: a segment that has nothing but its header."""
        names = self._files.list_folder(self._folder)
        for number in segment_numbers(names):
            if number > self.number:
                fd = self._files.open(self._path(number), os.O_RDONLY)
                try:
                    content = read_from(self._files, fd)
                finally:
                    self._files.close(fd)
                if content.count(b"\n") > 1:
                    raise self._fenced()
                remove(self._files, self._path(number))
        self._files.fsync_folder(self._folder)

    def _drop(self, path: str) -> None:
        try:
            remove(self._files, path)
        except OSError:
            pass  # a leftover under its unfinished name is removed by the next one who needs that name
