"""What a journal promises of the files on a disk, compared with what is there."""

from collections.abc import Iterator, Sequence

from meowcat.core import events as ev
from meowcat.core.machine import State
from meowcat.core.state import TaskState, evolve
from meowcat.core.transfers import Download
from meowcat.journal.logged import LoggedEvent
from meowcat.testing.disk import SimulatedDisk
from meowcat.transfer.digests import piece_digest
from meowcat.transfer.files import part_path

__all__ = ["broken_promises"]

DIGEST = 32
"""Bytes of a BLAKE3 digest."""


def broken_promises(history: Sequence[LoggedEvent], disk: SimulatedDisk) -> list[str]:
    """What the events say and the disk does not have: pieces that are recorded as stored, and files of tasks
    that are Complete. Empty where all is kept.

    Only the newest Complete task of a target answers for the file there.
    """
    tasks: dict[str, TaskState] = {}
    digests: dict[str, dict[int, bytes]] = {}
    newest: dict[str, str] = {}
    for logged in history:
        task = tasks[logged.task] = evolve(tasks.get(logged.task), logged.event)
        known = digests.setdefault(task.id, {})
        if isinstance(logged.event, ev.Restarted):
            known.clear()
        elif isinstance(logged.event, ev.Stored):
            known.update(_digests(logged.event))
        elif isinstance(logged.event, ev.Completed):
            newest[logged.event.path] = task.id
    lines: list[str] = []
    for task in tasks.values():
        request = task.request
        if not isinstance(request, Download) or task.state is State.CANCELED:
            continue
        if task.state is not State.COMPLETE:
            lines += _lost_pieces(task, digests[task.id], disk.get(part_path(request.to, task.id)), disk)
        elif newest[request.to] == task.id:
            lines += _lost_pieces(task, digests[task.id], None, disk)
    return lines


def _digests(event: ev.Stored) -> Iterator[tuple[int, bytes]]:
    at = 0
    for first, stop in event.pieces:
        for piece in range(first, stop):
            yield piece, event.digests[at : at + DIGEST]
            at += DIGEST


def _lost_pieces(
    task: TaskState, digests: dict[int, bytes], part: bytes | None, disk: SimulatedDisk
) -> Iterator[str]:
    """Compared with the part file, or with the target where there is none."""
    assert isinstance(task.request, Download)
    held = disk.get(task.request.to) if part is None else part
    where = f"task {task.id} is {task.state}: {task.request.to}"
    if task.state is State.COMPLETE and held is None:
        yield f"{where} is not there"
        return
    size = None if task.grid is None else task.grid.size
    if task.state is State.COMPLETE and held is not None and len(held) != size:
        yield f"{where} has {len(held)} bytes; recorded are {size}"
        return
    for first, stop in task.stored.pairs:
        for piece in range(first, stop):
            start = piece * task.piece_size
            end = start + task.piece_size if size is None else min(size, start + task.piece_size)
            if piece_digest([(held or b"")[start:end]]) != digests[piece]:
                yield f"{where}: piece {piece} is recorded as stored, and its bytes are not there"
