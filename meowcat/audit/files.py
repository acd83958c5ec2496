"""Checkpoints outside of the journal, in a file that each is appended to."""

import os
from codecs import getincrementaldecoder
from pathlib import Path

from meowcat.audit.checkpoints import split_checkpoints
from meowcat.core.errors import AuditError


class CheckpointFile:
    """A file that the checkpoints of a log are appended to, durably, and never removed from."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def texts(self) -> list[str]:
        """The checkpoints in it, the oldest first; what a crash in mid-write left is one of them.

        Raises:
            AuditError: it can't be read.

        """
        try:
            # Not final: what a crash cut off may end in the middle of a character.
            return split_checkpoints(getincrementaldecoder("utf-8")().decode(self._read()))
        except UnicodeDecodeError as error:
            raise AuditError(f"checkpoints {self.path}: it is no UTF-8 text") from error

    def _read(self, last: int | None = None) -> bytes:
        """All of it, or only so many bytes at its end."""
        try:
            with self.path.open("rb") as file:
                if last is not None:
                    file.seek(max(0, file.seek(0, os.SEEK_END) - last))
                return file.read()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise AuditError(f"checkpoints {self.path}: {error.strerror}") from error

    def add(self, text: str) -> None:
        """Append a checkpoint unless it is the last one already; where its beginning stands at the end, since
        a crash cut it off, complete it.

        Raises:
            AuditError: it can't be written. What was written of it is completed by the next `add`.

        """
        whole = text.encode()
        there = self._read(len(whole) + 2)  # what can be this checkpoint, and the end of the line before it
        if f"\n{text}".encode() == (b"\n" + there)[-len(whole) - 1 :]:
            return
        begun = _begun(there, whole)
        between = b"" if begun or not there or there.endswith(b"\n\n") else b"\n"
        try:
            self._append(between + whole[begun:], new=not there)
        except OSError as error:
            raise AuditError(f"checkpoints {self.path}: {error.strerror}; try again") from error

    def _append(self, data: bytes, *, new: bool) -> None:
        with self.path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if new:
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # the file's name is as durable as what it holds
            finally:
                os.close(folder)


def _begun(there: bytes, whole: bytes) -> int:
    """How many bytes of `whole` stand at the end of `there`, from the beginning of a line on."""
    lines = b"\n" + there
    return max((count for count in range(len(whole)) if lines.endswith(b"\n" + whole[:count])), default=0)
