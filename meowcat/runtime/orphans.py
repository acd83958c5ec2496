"""What uploads have left at servers: the objects that they made, and sessions that nobody needs."""

from collections.abc import AsyncIterator, Callable, Iterable

from meowcat.core.info import Orphan
from meowcat.core.machine import State
from meowcat.core.sessions import Session
from meowcat.core.state import TaskState
from meowcat.core.urls import redact
from meowcat.core.values import FaultKind
from meowcat.protocols.contract import Outcome, UploadProtocol
from meowcat.protocols.refused import Refused
from meowcat.transport.contract import TransportFault

__all__ = ["orphans_of", "stands"]

ProtocolFor = Callable[[TaskState], UploadProtocol]
"""The protocol of a task's upload; raises Refused."""


async def stands(task: TaskState, protocol_for: ProtocolFor) -> bool:
    """Whether the object of a Complete upload is, by the server's word, the one that the task made."""
    if task.state is not State.COMPLETE or task.session is None:
        return False
    try:
        found = await protocol_for(task).reconcile(task.session)
    except (Refused, TransportFault):
        return False
    return found.outcome is Outcome.COMMITTED


async def orphans_of(tasks: Iterable[TaskState], protocol_for: ProtocolFor) -> list[Orphan]:
    """Every session that no task at work needs, as far as the journal and the servers tell."""
    uploads = [task for task in tasks if task.is_upload]
    known = {session.id for task in uploads for session in _sessions(task)}
    found: list[Orphan] = []
    for task in uploads:
        found += [each async for each in _of(task, known, protocol_for)]
    return found


def _sessions(task: TaskState) -> tuple[Session, ...]:
    own = () if task.session is None else (task.session,)
    return (*own, *(each.session for each in (*task.condemned, *task.left)))


async def _of(task: TaskState, known: set[str], protocol_for: ProtocolFor) -> AsyncIterator[Orphan]:
    reason = task.fault.detail if task.fault is not None else "not done yet"
    for condemned in task.condemned:
        yield _orphan(task, condemned.session.id, f"its removal is owed: {reason}")
    for left in task.left:
        if not await _gone(task, left.session, protocol_for):
            yield _orphan(
                task, left.session.id, "its removal was refused: `meowcat orphans --abort` tries again"
            )
    kept = task.session if task.state is State.FAILED else None
    if kept is not None and kept.capabilities.session and not await _gone(task, kept, protocol_for):
        yield _orphan(task, kept.id, "the task has failed, and can be retried", kept=True)
    if task.stored and task.state in (State.FAILED, State.CANCELED):
        async for orphan in _lingering(task, protocol_for):
            yield orphan
    if task.lost:
        async for orphan in _unproved(task, known, protocol_for):
            yield orphan


async def _gone(task: TaskState, session: Session, protocol_for: ProtocolFor) -> bool:
    """Whether the server says that it is no more; who can't be asked may have it still."""
    try:
        await protocol_for(task).prepare(session)
    except Refused as refused:
        return refused.fault.kind is FaultKind.SESSION_LOST
    except TransportFault:
        return False
    return False


async def _unproved(task: TaskState, known: set[str], protocol_for: ProtocolFor) -> AsyncIterator[Orphan]:
    """What stands there and may be of this task, since the reply that would tell was lost."""
    try:
        for each in await protocol_for(task).orphans():
            if each.id not in known:
                detail = "opened by somebody; a reply to this task was lost, so it may be its own"
                yield _orphan(task, each.id, detail, ours=False, begun=each.begun)
    except (Refused, TransportFault) as failure:
        yield _orphan(task, "", f"the server could not be asked: {failure.fault.detail}", ours=False)


async def _lingering(task: TaskState, protocol_for: ProtocolFor) -> AsyncIterator[Orphan]:
    """What the task has sent and nothing can remove, as far as it still stands there."""
    kept = task.state is State.FAILED
    try:
        protocol = protocol_for(task)
        if protocol.removes:
            return
        for each in await protocol.orphans():
            if each.ours:
                yield _orphan(task, each.id, each.detail, kept=kept, begun=each.begun, removable=False)
    except (Refused, TransportFault) as failure:
        detail = f"the server could not be asked: {failure.fault.detail}"
        yield _orphan(task, "", detail, kept=kept, removable=False)


def _orphan(
    task: TaskState,
    session: str,
    detail: str,
    *,
    ours: bool = True,
    kept: bool = False,
    begun: int | None = None,
    removable: bool = True,
) -> Orphan:
    return Orphan(
        task=task.id,
        url=redact(task.request.url),
        session=session,
        ours=ours,
        kept=kept,
        detail=detail,
        begun=begun,
        removable=removable,
    )
