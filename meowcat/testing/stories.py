"""Stories: what becomes of a whole download in a simulated world, written as data.

    [[story]]
    name = "a crash costs no bytes that were stored"
    why = "What is recorded is not fetched again."
    serve = { url = "https://host.example/big.bin", size = 400_000 }
    do = [
        { submit = { url = "https://host.example/big.bin", to = "/data/big.bin", piece_size = 65_536 } },
        { until = { stored = 130_000 } },
        { crash = "lost" },
        "finish",
    ]
    then = { state = "Complete", fetched_at_most = 470_000 }

Keys of a story: `name`, `why` (one sentence), `serve` (one content or a list: `url`, and `size` in bytes or
`text`; `etag` as for `Content`), `do`, `then`, and as needed

- `troubles`: what goes wrong with each request in order of arrival: the fields of `Trouble`, where `headers`
  is a table, as `{status = 503, headers = {Retry-After = "3600"}}`; `{}` is a request that goes well.
- `config`: fields of `meowcat.Config`; `seed`, 0 unless given; `rate`, bytes a second of the servers.
- `every_crash = true`: besides, crash before each call of disk, journal and network and after the last,
  restart, tell the same story again, and expect the same end. Such a story has no crash or reopening of its
  own.

Steps of `do`, one after the other:

- `{submit = {url, to, ...}}`: fields of `meowcat.Download`. The first step, once only.
- `"pause"`, `"resume"`, `"cancel"`, `"retry"`: said to the task.
- `{until = {stored = 130_000}}`: wait until so many bytes are recorded; or for `state = "Running"`, or
  `waiting_for = "server"`, or for `seconds = 60` of the world's time, and then for the others.
- `{serve = {...}}`: from now on the server has this.
- `{crash = "lost"}`: the power goes, with a `Loss`, and a new process opens the journal. `"reopen"`: the
  process ends in good order, and so on.
- `"finish"`: wait until nothing is left to do without help.

Keys of `then`, at least one: `state`, `waiting_for`, `reason` of the task; `fault` (the kind of the last
failure); `file` (whether the target has the bytes that are served at the task's URL; of a Complete task that
is always asked); `fetched_at_most`, `fetched_at_least` (bytes), `requests` and `seconds_at_most` of the whole
story; `events`: tags that come in this order, with any others in between.
"""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import anyio
import msgspec
from msgspec import Struct

from meowcat.config import Config
from meowcat.core.errors import MeowcatError
from meowcat.core.events import EVENT_TYPES, TAGS
from meowcat.core.info import TaskInfo, info_of
from meowcat.core.machine import State
from meowcat.core.state import fold
from meowcat.core.transfers import Download
from meowcat.engine import Engine
from meowcat.task import Task
from meowcat.testing.content import Content
from meowcat.testing.exchanges import Trouble
from meowcat.testing.power import PowerLost
from meowcat.testing.spec_files import (
    Mistake,
    Row,
    SpecError,
    SpecFailed,
    check_keys,
    differences,
    read,
    rows,
    show,
    unknown,
)
from meowcat.testing.world import Loss, StoodStill, TimeIsUp, World

__all__ = ["Story", "load_stories", "run_story"]

KEYS = ("name", "why", "serve", "do", "then", "troubles", "config", "seed", "rate", "every_crash")
WORDS = ("pause", "resume", "cancel", "retry", "reopen", "finish")
TABLES = ("submit", "until", "serve", "crash")
UNTIL = ("stored", "state", "waiting_for", "seconds")
SERVED = ("url", "size", "text", "etag")
TASK = ("state", "waiting_for", "reason", "fault")
THEN = (*TASK, "file", "fetched_at_most", "fetched_at_least", "requests", "seconds_at_most", "events")

Step = tuple[str, Any]


class Story(Struct, frozen=True):
    """One `[[story]]` of a file."""

    row: Row
    why: str
    world: World
    """As it begins; the story is told in copies of it."""
    config: Config
    steps: tuple[Step, ...]
    then: dict[str, Any]
    every_crash: bool


def load_stories(path: Path) -> list[Story]:
    """The stories of one file.

    Raises:
        SpecError: what is wrong, with the line and the story's name.
    """
    table = read(path)
    if wrong := unknown(table, ("story",)):
        raise SpecError(f"{path}: {wrong}")
    return [_story(row) for row in rows(path, table, "story")]


def _story(row: Row) -> Story:
    table = row.table
    check_keys(row, table, KEYS)
    if not isinstance(table.get("why"), str):
        raise row.error("has no why: say in one sentence which promise it shows")
    then = table.get("then")
    if not isinstance(then, dict) or not then:
        raise row.error('has no then: say how it ends, as {state = "Complete"}')
    check_keys(row, then, THEN, "then")
    if strange := set(then.get("events", ())) - EVENT_TYPES.keys():
        raise row.error(f"then.events: unknown {', '.join(sorted(strange))}; known: {', '.join(EVENT_TYPES)}")
    try:
        world = _world(table)
        config = Config(**table.get("config", {}))
        steps = tuple(_step(each) for each in table.get("do", []))
        _check_order(steps, every_crash=bool(table.get("every_crash")))
    except (Mistake, MeowcatError, TypeError) as mistake:
        raise row.error(str(mistake)) from mistake
    return Story(row, table["why"], world, config, steps, then, bool(table.get("every_crash")))


def _world(table: dict[str, Any]) -> World:
    world = World(int(table.get("seed", 0)))
    served = table.get("serve", [])
    for each in served if isinstance(served, list) else [served]:
        _serve(world, each)
    world.server.script = [_trouble(each) for each in table.get("troubles", [])]
    world.server.rate = table.get("rate")
    return world


def _serve(world: World, table: dict[str, Any]) -> None:
    if wrong := unknown(table, SERVED):
        raise Mistake(f"serve: {wrong}")
    if "url" not in table or ("size" in table) == ("text" in table):
        raise Mistake(f"serve: {show(table)}: expected a url, and a size in bytes or a text")
    text = table.get("text")
    etag = table.get("etag", "strong")
    seed = len(world.server.requests) + len(world.server.contents)  # another generation has other bytes
    data = None if text is None else text.encode()
    world.server.serve(table["url"], Content(table.get("size", 0), seed=seed, data=data, etag=etag))


def _trouble(table: dict[str, Any]) -> Trouble:
    fields = dict(table)
    fields["headers"] = tuple(dict(fields.get("headers", {})).items())
    if "body" in fields:
        fields["body"] = fields["body"].encode()
    try:
        return Trouble(**fields)
    except TypeError as error:
        raise Mistake(f"troubles: {show(table)}: {error}") from error


def _step(step: Any) -> Step:
    if step in WORDS:
        return step, None
    if not isinstance(step, dict) or len(step) != 1 or next(iter(step)) not in TABLES:
        known = ", ".join([*WORDS, *(f"{{{name} = ...}}" for name in TABLES)])
        raise Mistake(f"do: {show(step)}: expected one of {known}")
    ((name, given),) = step.items()
    if name == "crash" and given not in get_args(Loss):
        raise Mistake(f"crash: {show(given)}: expected one of {', '.join(get_args(Loss))}")
    if name == "until" and (wrong := unknown(given, UNTIL)):
        raise Mistake(f"until: {wrong}")
    if name == "serve":
        _serve(World(), given)
    if name == "submit":
        given = _request(given)
    return name, given


def _request(table: dict[str, Any]) -> Download:
    if wrong := unknown(table, [field.name for field in msgspec.structs.fields(Download)]):
        raise Mistake(f"submit: {wrong}")
    try:
        return msgspec.convert({"kind": "download", **table}, Download, strict=True)
    except msgspec.ValidationError as error:
        raise Mistake(f"submit: {error}") from error


def _check_order(steps: Sequence[Step], *, every_crash: bool) -> None:
    names = [name for name, _ in steps]
    if names[:1] != ["submit"] or names.count("submit") != 1:
        raise Mistake("do: expected one submit, as the first step")
    if every_crash and {"crash", "reopen"} & set(names):
        raise Mistake("every_crash: such a story has no crash or reopen of its own")


def run_story(story: Story) -> None:
    """Tell one story, and see how it ends.

    Raises:
        SpecFailed: otherwise than it says; the message shows what led to it.
    """
    try:
        world = story.world.copy()
        _tell(story, world)
        _expect(story, world)
        if story.every_crash:
            story.world.every_crash(_life(story, story.steps), lambda world: _expect_end(story, world))
    except (AssertionError, MeowcatError, StoodStill, TimeIsUp) as error:
        lines = [story.row.place, f"  why: {story.why}", "", *_indented(str(error))]
        for note in getattr(error, "__notes__", ()):
            lines += ["", *_indented(note)]
        raise SpecFailed("\n".join(lines)) from None


def _tell(story: Story, world: World) -> None:
    """One process after the other: a crash or a reopening ends one."""
    steps: list[Step] = []
    for step in (*story.steps, ("reopen", None)):
        if step[0] not in ("crash", "reopen"):
            steps.append(step)
            continue
        try:
            world.run(_life(story, [*steps, step]))
        except PowerLost:
            world.restart(step[1])
            world.check_promises()
        steps = []


def _life(story: Story, steps: Sequence[Step]) -> Callable[[World], Awaitable[None]]:
    async def live(world: World) -> None:
        async with world.engine(config=story.config) as engine:
            task = await _task(engine, story, steps)
            for name, given in steps:
                await _do(world, engine, task, name, given)

    return live


async def _task(engine: Engine, story: Story, steps: Sequence[Step]) -> Task:
    """The story's task: the one that an earlier process has left, or else submitted now.

    Submitting it again would begin a second one, where the first becomes Complete in the same moment.
    """
    async for info in engine.tasks(state=tuple(State)):
        task = await engine.task(info.id)
        if steps[0][0] == "submit" and task.state in (State.PAUSED, State.FAILED):
            await (task.resume() if task.state is State.PAUSED else task.retry())
        return task
    if steps[0][0] == "submit":
        return await engine.submit(steps[0][1])
    raise AssertionError(f"the task is gone from the journal: {story.steps[0][1].to}")


async def _do(world: World, engine: Engine, task: Task, name: str, given: Any) -> None:
    if name == "crash":
        world.crash()
    elif name == "serve":
        _serve(world, given)
    elif name == "finish":
        await engine.drain()
    elif name == "until":
        await _until(task, dict(given))
    elif name in ("pause", "resume", "cancel", "retry"):
        await getattr(task, name)()


async def _until(task: Task, given: dict[str, Any]) -> None:
    await anyio.sleep(given.pop("seconds", 0))
    if not given:
        return
    async for _ in task.progress():
        if not differences(given, _reached(task, given), "until"):
            return
    raise AssertionError(f"until: {show(given)}: that never came, and the task is {task.state}")


def _reached(task: Task, given: dict[str, Any]) -> dict[str, Any]:
    """What `until` waits for, as far as it is; bytes agree once there are enough."""
    seen = _shown(task.info)
    return {**seen, "stored": min(task.info.bytes_done, given.get("stored", 0))}


def _expect(story: Story, world: World) -> None:
    """All that `then` says."""
    _expect_end(story, world)
    then, server = story.then, world.server
    lines: list[str] = []
    if server.bytes_served() > then.get("fetched_at_most", float("inf")):
        lines.append(f"fetched_at_most: expected {then['fetched_at_most']}, got {server.bytes_served()}")
    if server.bytes_served() < then.get("fetched_at_least", 0):
        lines.append(f"fetched_at_least: expected {then['fetched_at_least']}, got {server.bytes_served()}")
    if len(server.requests) != then.get("requests", len(server.requests)):
        lines.append(f"requests: expected {then['requests']}, got {len(server.requests)}")
    if world.now > then.get("seconds_at_most", float("inf")):
        lines.append(f"seconds_at_most: expected {then['seconds_at_most']}, got {world.now:.3f}")
    tags = [TAGS[type(logged.event)] for logged in world.history()]
    left = iter(tags)
    if missing := [tag for tag in then.get("events", ()) if tag not in left]:
        lines.append(f"events: no {missing[0]} where it was expected, in: {', '.join(tags)}")
    _hold(lines, world)


def _expect_end(story: Story, world: World) -> None:
    """What `then` says of the task and its file, however often the story was interrupted."""
    task = fold(logged.event for logged in world.history())
    assert task is not None, "the journal has no task"
    expected = {key: story.then[key] for key in TASK if key in story.then}
    lines = differences(expected, _shown(info_of(task)), "then")
    request = story.steps[0][1]
    content = world.server.contents.get(request.url)
    there = content is not None and world.disk.get(request.to) == content.bytes()
    if there != story.then.get("file", there if task.state != "Complete" else True):
        lines.append(f"file: {request.to} {'has' if there else 'does not have'} the bytes that are served")
    _hold(lines, world)


def _shown(info: TaskInfo) -> dict[str, Any]:
    return {
        "state": str(info.state),
        "waiting_for": None if info.waiting_for is None else str(info.waiting_for),
        "reason": info.reason,
        "fault": None if info.fault is None else str(info.fault.kind),
    }


def _hold(lines: list[str], world: World) -> None:
    with world.explained():
        if lines:
            raise AssertionError("\n".join(lines))


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.splitlines()]
