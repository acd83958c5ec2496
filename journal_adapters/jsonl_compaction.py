"""Compaction: whole segments of finished tasks are moved into `archive`. Nothing is ever rewritten."""
# ruff: noqa: PTH118  # paths are texts here, as the system calls take them

import os
from itertools import chain

from journal_adapters.jsonl_files import ARCHIVE, Files, explained, index_name, segment_name
from journal_adapters.jsonl_reading import View
from journal_adapters.jsonl_state import Ledger
from meowcat.journal.contract import Compaction


def limit(ledger: Ledger) -> int:
    """The last position that no unfinished task and no cursor stands in the way of."""
    firsts = (row.first - 1 for row in ledger.rows.values())
    return min(chain([ledger.position], firsts, ledger.cursors.values()))


def archive(files: Files, folder: str, view: View, last: int) -> Compaction:
    """Move the sealed segments that end at or before the position `last`, the oldest first. A crash leaves
    each of them in one of the two places.
    """
    target = os.path.join(folder, ARCHIVE)
    records = size = 0
    with explained(folder):
        if not files.exists(target):
            files.mkdir(target)
            files.fsync_folder(folder)
        for place, segment in enumerate(view.sealed):
            behind = view.behind(place)
            if behind - 1 > last:
                break
            source = os.path.join(folder, segment_name(segment.number))
            if not files.exists(source):
                continue  # archived earlier
            size += _size(files, source)
            records += behind - segment.first
            files.rename(source, os.path.join(target, segment_name(segment.number)))
            _move_index(files, folder, target, index_name(segment.number))
        files.fsync_folder(target)
        files.fsync_folder(folder)
    return Compaction(records, size, target)


def _size(files: Files, path: str) -> int:
    fd = files.open(path, os.O_RDONLY)
    try:
        return files.size(fd)
    finally:
        files.close(fd)


def _move_index(files: Files, source: str, target: str, name: str) -> None:
    try:
        files.rename(os.path.join(source, name), os.path.join(target, name))
    except OSError:
        pass  # derived: it is made anew
