"""What becomes of a request: a new task, or the one that is there and owns the target already."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice

from meowcat.core import messages as msg
from meowcat.core.errors import DuplicateTask, InvalidTaskState, TaskNotFound
from meowcat.core.info import info_of
from meowcat.core.machine import ACTIVE, State, Trigger, may
from meowcat.core.seal import Secrets
from meowcat.core.state import TaskState
from meowcat.core.transfers import Request, changed_options, same_content, whereabouts
from meowcat.core.values import TaskId
from meowcat.intake import Intake, Sealed
from meowcat.runtime.bus import Feed
from meowcat.runtime.runtime import Runtime

__all__ = ["CREATE_BATCH", "Submissions"]

CREATE_BATCH = 1000
"""Tasks that `submit_many` records with one append."""

_New = tuple[msg.Create, Secrets]
"""A task that is to be recorded, and what is kept of it in memory only."""


class Submissions:
    """Records new tasks, and attaches to those that are there; see `Engine.submit` and `submit_many`."""

    def __init__(self, intake: Intake, opened: Callable[[], Runtime]) -> None:
        """`opened`: the runtime; raises where the engine is not open, or was closed meanwhile."""
        self._intake = intake
        self._opened = opened

    async def submit(self, request: Request, *, paused: bool) -> Feed:
        """Of the task that the request has now."""
        runtime = self._opened()
        sealed, secrets, key = self._intake.take(request)
        async with runtime.room:
            present = await self._owner_of(key)
            if present is None:
                creation = msg.Create(task=runtime.clock.new_id(), key=key, request=sealed, paused=paused)
                (task,) = await self._create([(creation, secrets)])
                return runtime.bus.watch(task)
        return await self._attach(present, sealed, secrets, paused=paused)

    async def submit_many(self, requests: Iterable[Request], *, paused: bool) -> list[TaskId]:
        """Of the tasks that the requests have now, in their order."""
        ids: list[TaskId] = []
        rest = iter(requests)
        while taken := [self._intake.take(request) for request in islice(rest, CREATE_BATCH)]:
            there = await self._present([key for _, _, key in taken])
            fresh = self._opened().clock.new_ids(len(taken))
            batch = {
                key: (msg.Create(task=task, key=key, request=sealed, paused=paused), secrets)
                for task, (sealed, secrets, key) in zip(fresh, taken, strict=True)
            }
            if there or len(batch) < len(taken):
                ids += await self._submit_each(taken, fresh, there, paused=paused)
            else:  # all of them are new, as most are
                await self._create_all(batch)
                ids += fresh
        return ids

    async def _submit_each(
        self,
        taken: Sequence[Sealed],
        fresh: Sequence[TaskId],
        there: Mapping[str, TaskState | None],
        *,
        paused: bool,
    ) -> list[TaskId]:
        """Create or attach to each of `taken`, where some have tasks already or several have one key."""
        runtime = self._opened()
        ids: list[TaskId] = []
        batch: dict[str, _New] = {}
        for (sealed, secrets, key), task in zip(taken, fresh, strict=True):
            known = there.get(key)
            if known is not None and _is_as_asked(known, sealed, paused=paused):
                ids.append(known.id)
                continue
            if key in batch:
                await self._create_all(batch)
                batch.clear()
            present = None if runtime.registry.by_key(key) is None else await self._owner_of(key)
            if present is not None:
                ids.append((await self._attach(present, sealed, secrets, paused=paused)).task.id)
                continue
            batch[key] = msg.Create(task=task, key=key, request=sealed, paused=paused), secrets
            ids.append(task)
        await self._create_all(batch)
        return ids

    async def _present(self, keys: Collection[str]) -> dict[str, TaskState | None]:
        """The tasks that have these keys now, read together: one by one they cost ten times a new one. None
        stands for one that can't be read, or is being made at this moment."""
        runtime = self._opened()
        known = runtime.registry.by_keys(keys)
        states = await runtime.load_all(list(known.values())) if known else []
        return {
            key: state if isinstance(state, TaskState) else None
            for key, state in zip(known, states, strict=True)
        }

    async def _create_all(self, batch: Mapping[str, _New]) -> None:
        if batch:
            runtime = self._opened()
            async with runtime.room:
                for key in runtime.registry.by_keys(batch):
                    if await self._owner_of(key) is not None:
                        raise DuplicateTask(f"{key}: another task was created for it at the same moment")
                await self._create(list(batch.values()))

    async def _owner_of(self, key: str) -> TaskId | None:
        """The live task that has the key; a canceled one gives it up once its part file is gone. What a
        canceled upload still owes at a server is in nobody's way.

        Raises:
            DuplicateTask: the part file of a canceled task can't be removed.
        """
        runtime = self._opened()
        while (task := runtime.registry.by_key(key)) is not None:
            row = runtime.registry.get(task)
            if row is None:  # somebody else is creating it at this moment
                await runtime.bus.stirred()
                continue
            if row.state is not State.CANCELED:
                return task
            if row.direction == "upload":
                return None
            state = await self._opened().state_of(task)
            feed = runtime.bus.watch(state)
            runtime.attend(state)
            if feed.task.wait is not None:
                reason = feed.task.fault.detail if feed.task.fault else "unknown"
                raise DuplicateTask(f"task {task} is canceled, but its part file can't be removed: {reason}")
            if feed.task.discard:
                await feed.beyond(feed.version)
        return None

    async def _create(self, new: list[_New]) -> list[TaskState]:
        """Record new tasks, with their secrets in memory."""
        runtime = self._opened()
        for creation, _ in new:
            runtime.refuse_own_file(creation.request)
        for creation, secrets in new:
            if creation.request.needs:
                runtime.secrets[creation.task] = secrets
        try:
            return await runtime.create([creation for creation, _ in new])
        except BaseException:  # raised again: what was not created has no secrets
            for creation, _ in new:
                if runtime.registry.get(creation.task) is None:
                    runtime.secrets.pop(creation.task, None)
            raise

    async def _attach(self, task: TaskId, sealed: Request, secrets: Secrets, *, paused: bool) -> Feed:
        runtime = self._opened()
        feed = await runtime.feed_of(task)
        present = feed.task.request
        if not same_content(present, sealed):
            raise DuplicateTask(
                f"task {task} is {feed.task.state} and owns {_owned(feed.task)} for another request: "
                f"engine.cancel({task!r}) ends it; or choose another target or key",
                task=task,
            )
        try:
            if sealed.needs or sealed != present:
                names = sealed.needs + changed_options(present, sealed)
                if "url" not in names and whereabouts(sealed) != whereabouts(present):
                    names = ("url", *names)
                supplied = msg.Supply(names=names, request=sealed)
                await runtime.supply(task, secrets if sealed.needs else None, supplied)
            if not paused and may(feed.task.state, Trigger.RESUME):
                await self._opened().command_in_turn(task, msg.Resume())
            elif not paused and may(feed.task.state, Trigger.RETRY):
                await self._opened().command_in_turn(task, msg.Retry())
        except InvalidTaskState:
            pass  # somebody else set it going at the same moment
        except TaskNotFound:
            if feed.task.state is not State.COMPLETE:
                raise
            # It has just come to its end, without what was brought for it.
        return feed


def _owned(task: TaskState) -> str:
    """What nobody else may have: the target of a download, or the object of an upload, without secrets."""
    info = info_of(task)
    return f"{info.url} (from {info.path})" if info.direction == "upload" else info.path


def _is_as_asked(task: TaskState, sealed: Request, *, paused: bool) -> bool:
    """Whether nothing is to be done for a request whose task is there."""
    going = task.state is State.QUEUED or task.state in ACTIVE or (paused and task.state is State.PAUSED)
    return going and not sealed.needs and task.request == sealed
