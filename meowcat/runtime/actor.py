"""An actor: one task, one mailbox, one message at a time, no shared state.

Actors exist for tasks that are at work or have messages; all others are a row. They are not coroutines: the
dispatcher steps those that have something in their mailbox.
"""

from collections import deque
from dataclasses import dataclass, field

import anyio

from meowcat.core.errors import Code, InvalidTaskState, MeowcatError, TaskNotFound
from meowcat.core.messages import Faulted, Message
from meowcat.core.state import TaskState
from meowcat.core.story import Refusal
from meowcat.core.values import TaskId
from meowcat.core.wanted import AnyOperation
from meowcat.runtime.bus import Feed
from meowcat.transfer.context import Running


class Answer:
    """What a command waits for: the task after it, or why not."""

    def __init__(self) -> None:
        self._given = anyio.Event()
        self._task: TaskState | None = None
        self._error: MeowcatError | None = None

    def give(self, task: TaskState | None) -> None:
        self._task = task
        self._given.set()

    def refuse(self, error: MeowcatError) -> None:
        self._error = error
        self._given.set()

    async def wait(self) -> TaskState:
        """The task's state after the command was made durable.

        Raises:
            MeowcatError: the command was refused; nothing has changed.
        """
        await self._given.wait()
        if self._error is not None:
            raise self._error
        assert self._task is not None  # noqa: S101  # an answer is a task or an error
        return self._task


def as_error(refusal: Refusal) -> MeowcatError:
    """The exception for a refusal of the core."""
    kind = TaskNotFound if refusal.code is Code.TASK_NOT_FOUND else InvalidTaskState
    return kind(refusal.detail)


class Latch:
    """An event that few wait for: it costs nothing before somebody does."""

    __slots__ = ("_event", "_is_set")

    def __init__(self) -> None:
        self._is_set = False
        self._event: anyio.Event | None = None

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        if self._event is not None:
            self._event.set()

    async def wait(self) -> None:
        if not self._is_set:
            self._event = self._event or anyio.Event()
            await self._event.wait()


@dataclass(slots=True, eq=False)
class Live:
    """An operation at work."""

    operation: AnyOperation
    running: Running
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    over: Latch = field(default_factory=Latch)
    reported: bool = False


@dataclass(slots=True, eq=False)
class Envelope:
    message: Message
    answer: Answer | None = None
    source: Live | None = None
    """The operation that reports it."""

    @property
    def stale(self) -> bool:
        """Whether it is a failure of an operation that was stopped since: what it lacked may be there now."""
        return (
            self.source is not None and self.source.scope.cancel_called and isinstance(self.message, Faulted)
        )


@dataclass(slots=True, eq=False)
class Actor:
    id: TaskId
    task: TaskState | None = None
    """None until it was read from the journal."""
    mailbox: deque[Envelope] = field(default_factory=deque)
    ready: bool = False
    """Whether the dispatcher has it on its list."""
    live: Live | None = None
    stale: bool = False
    """Whether somebody else has recorded a step of the task: it is read anew before the next message."""
    feed: Feed | None = None
    """Held while the task is at work, so that whoever looks at it finds a rate that was measured."""
    timer: int = 0
    """The event that began the wait for which a timer runs; 0 = none."""

    @property
    def idle(self) -> bool:
        """Whether nothing would be lost if the actor were dropped."""
        return not self.mailbox and self.live is None and not self.ready
