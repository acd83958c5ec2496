"""How the checks make, reach and harm a journal: what an author of an adapter writes beside the adapter."""

# ruff: noqa: ARG002  # back doors that are not there take what those that are there take

import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import ClassVar

from meowcat.journal.contract import Journal, Owner, Sync
from meowcat.testing.checklist import Lacking
from meowcat.testing.journal import failing_calls

__all__ = ["OTHER", "OWNER", "FileHarness", "JournalHarness", "Lacking"]

OWNER = Owner(4711, "host.example", "suite")
OTHER = Owner(4712, "host.example", "other")


class JournalHarness:
    """One place where journals of one kind are stored; each check gets a fresh one.

    `make` is all that must be written. Every other method is a back door: what is not there is skipped with
    its reason. `FileHarness` has most of them ready for journals that are files.
    """

    sync: ClassVar[Sync] = "power"
    """The level that the journals are opened with."""
    bit_step: ClassVar[int] = 1
    """Of so many bits one is changed by the checks of every bit: 1 where there is time for all, and 0 where
    the medium itself is trusted with its bits."""
    cut_step: ClassVar[int] = 1
    """At one of so many bytes of the last batch it is torn; 1 where there is time for all."""
    may_look_torn: ClassVar[str] = ""
    """Why one changed bit in what a crash has left may make the last batches look torn, so that they are gone
    without a word; empty where that can't be."""
    never_torn: ClassVar[str] = ""
    """Why a crash can't leave a part of a batch here; empty where it can, as in files."""

    def __init__(self, folder: Path) -> None:
        """Take an empty folder of one's own."""
        self.folder = folder
        self._later = ExitStack()

    def make(self) -> Journal:
        """A journal at this place, not yet open; each call makes another object on the same storage."""
        raise NotImplementedError

    def usurp(self) -> Journal:
        """A journal at this place that is open although another one owns it: as where a lock was lost."""
        raise Lacking("usurp: there is no way to take a journal from a living owner here")

    def crash(self, journal: Journal) -> None:
        """Let the process that owns `journal` die: nothing of it is closed or runs any more, and what it
        owned is free. Journals that are made afterwards find what it had stored.
        """
        raise Lacking("crash: there is no way to let an owner die here")

    def raw_read(self) -> Mapping[str, bytes]:
        """What is stored, as the medium has it: each file's bytes by its name."""
        raise Lacking("raw_read: what is stored can't be seen as bytes here")

    def raw_write(self, image: Mapping[str, bytes]) -> None:
        """Make `image` all that is stored. No journal is open."""
        raise Lacking("raw_write: what is stored can't be changed as bytes here")

    def corrupt(self, body: bytes) -> None:
        """Change one bit in the stored body that is `body`, behind the journal's back. No journal is open."""
        raise Lacking("corrupt: a stored body can't be changed here")

    def failing(self, nth: int, errno: int, *, lasting: bool = False) -> AbstractContextManager[object]:
        """Let the `nth` call that reaches the operating system fail, and with `lasting` all calls after it.

        What the context manager gives has an attribute `happened`: whether there was such a call.
        """
        raise Lacking("failing: calls to the operating system can't be made to fail here")

    def close_later(self, journal: Journal) -> Journal:
        """Close `journal` when the check is over; returns it."""
        self._later.callback(journal.close)
        return journal

    def close(self) -> None:
        """Free what this place takes."""
        self._later.close()


class FileHarness(JournalHarness):
    """A journal that is one file, or some files, in a folder: `make` has to put them into `self.place`."""

    ignored: ClassVar[tuple[str, ...]] = ()
    """Ends of file names that hold nothing: locks, shared memory."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._number = 0
        self._move()

    def _move(self) -> None:
        self._number += 1
        self.place = self.folder / str(self._number)
        self.place.mkdir()

    def raw_read(self) -> Mapping[str, bytes]:
        files = (path for path in sorted(self.place.rglob("*")) if path.is_file())
        return {
            str(path.relative_to(self.place)): path.read_bytes()
            for path in files
            if not path.name.endswith(self.ignored)
        }

    def raw_write(self, image: Mapping[str, bytes]) -> None:
        for path in self.place.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for name, content in image.items():
            path = self.place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def crash(self, journal: Journal) -> None:
        """What is stored now is copied elsewhere, and the owner stays behind."""
        image = self.raw_read()
        self.close_later(journal)
        self._move()
        self.raw_write(image)

    def corrupt(self, body: bytes) -> None:
        image = dict(self.raw_read())
        for name, content in image.items():
            place = content.find(body)
            if place >= 0:
                middle = place + len(body) // 2
                changed = bytes([content[middle] ^ 1])
                self.raw_write({**image, name: content[:middle] + changed + content[middle + 1 :]})
                return
        raise Lacking(
            "corrupt: bodies do not stand in the files as they are; override `corrupt` to change one"
        )

    @contextmanager
    def failing(self, nth: int, errno: int, *, lasting: bool = False) -> Iterator[object]:
        """The calls of this process that write to, sync, cut or rename files below `folder`."""
        if reason := failing_calls.missing():
            raise Lacking(f"failing: {reason}")
        with failing_calls.armed(self.folder, nth, errno, lasting=lasting) as failure:
            yield failure
