"""What stands where a JSONL journal should be. Nothing is changed here, nor read as a whole."""
# ruff: noqa: PTH118, PTH120  # paths are texts here, as the system calls take them

import os
from typing import NamedTuple

from journal_adapters.jsonl_files import (
    ARCHIVE,
    CONTROL,
    LOCK,
    NEW,
    RESERVE,
    SNAPSHOT,
    Files,
    explained,
    index_numbers,
    segment_name,
    segment_numbers,
)
from journal_adapters.jsonl_segments import format_of
from meowcat.core.errors import JournalAccess, JournalDamaged, JournalTooNew, NotAJournal
from meowcat.journal.contract import FORMAT

_HEAD = 4096
"""Bytes within which a segment's first line ends."""


class Listing(NamedTuple):
    """The segments of a journal, by number, ascending."""

    here: list[int]
    archived: list[int]
    orphaned: list[int]
    """Segments behind the last one that are not there, and have an index."""

    @property
    def numbers(self) -> list[int]:
        return sorted({*self.here, *self.archived})


def list_segments(files: Files, folder: str) -> Listing:
    names = files.list_folder(folder)
    here = segment_numbers(names)
    archive = os.path.join(folder, ARCHIVE)
    archived = segment_numbers(files.list_folder(archive)) if files.exists(archive) else []
    last = max([*here, *archived], default=0)
    orphaned = [
        number
        for number in index_numbers(names)
        # A segment that was begun meanwhile may be missing in the list, and is there.
        if number > last and not files.exists(os.path.join(folder, segment_name(number)))
    ]
    return Listing(here, [number for number in archived if number not in here], orphaned)


def examine(files: Files, folder: str) -> bool:
    """Whether a journal stands in `folder`; False where nothing does, or what a crash left of creating one.
    Changes nothing.

    Raises:
        NotAJournal, JournalDamaged, JournalTooNew, JournalAccess: what stands there instead.

    """
    with explained(folder):
        if not files.exists(folder):
            parent = os.path.dirname(folder)
            if not files.exists(parent):
                raise JournalAccess(f"{folder}: the folder {parent} does not exist")
            return False
        try:
            names = files.list_folder(folder)
        except NotADirectoryError:
            raise NotAJournal(
                f"{folder}: a file; a JSONL journal is a folder (`meowcat journal import` takes in exports)"
            ) from None
        numbers = list_segments(files, folder).here
        if not numbers:
            return _refuse_foreign(folder, names)
        _examine_newest(files, folder, numbers[-1], known=not {LOCK, RESERVE, SNAPSHOT}.isdisjoint(names))
    return True


def _refuse_foreign(folder: str, names: list[str]) -> bool:
    ours = {LOCK, RESERVE, RESERVE + NEW, segment_name(1) + NEW, CONTROL}
    if {SNAPSHOT, ARCHIVE} & set(names):
        raise JournalDamaged(f"{folder}: the journal's segments are gone; bring them back from a copy")
    if foreign := sorted(set(names) - ours):
        raise NotAJournal(f"{folder}: a folder with other things in it ({foreign[0]}); expected a journal")
    return False


def _examine_newest(files: Files, folder: str, number: int, *, known: bool) -> None:
    path = os.path.join(folder, segment_name(number))
    fd = files.open(path, os.O_RDONLY)
    try:
        head = files.pread(fd, _HEAD, 0)
    finally:
        files.close(fd)
    version = format_of(head)
    if version is None and not known:
        raise NotAJournal(f"{path}: no segment of a journal")
    if version is not None and version > FORMAT:
        raise JournalTooNew(f"{folder}: a journal of format {version}; this meowcat reads up to {FORMAT}")
