"""The power goes at every call of an upload: at most one object, never a mixed one, and no session left."""

from collections import Counter
from contextlib import suppress
from random import Random

import anyio
import pytest

import meowcat
from meowcat.core import events as ev
from meowcat.core.machine import ENDED, State
from meowcat.core.state import fold
from meowcat.testing.content import Content
from meowcat.testing.depot import DepotUpload
from meowcat.testing.power import PowerLost
from meowcat.testing.servers import Trouble
from meowcat.testing.world import World

PIECE = 64 << 10
CONTENT = Content(3 * PIECE + 1000).bytes()
SOURCE = "/data/source.bin"
URL = "https://depot.example/object.bin"

KINDS = {
    "any-order": {},
    "unlisted": {"lists_parts": False},
    "in-order": {"any_order": False},
    "last-commits": {"commits_with_last_part": True},
    "offsets": {"any_order": False, "server_offset": True},
    "offsets-last-commits": {"any_order": False, "server_offset": True, "commits_with_last_part": True},
    "offsets-by-digest": {"any_order": False, "server_offset": True, "needs_digests": "md5"},
    "whole": {"session": False},
    "digested": {"needs_digests": "md5", "part_checksum": "sha256"},
}


def world(seed=0):
    made = World(seed)
    made.disk.put(SOURCE, CONTENT)
    made.server.depot(URL)
    return made


def depot(world):
    return world.server.depot(URL)


def task_of(world):
    return fold(logged.event for logged in world.history())


def upload(kind="any-order", **options):
    config = meowcat.Config(retries=3, prepare_retries=3)
    options = {"piece_size": PIECE, "connections": 2} | options

    async def work(world):
        async with world.engine(config=config) as engine:
            if (task := task_of(world)) is not None and task.state is State.COMPLETE:
                await engine.drain()
            else:
                await engine.upload(SOURCE, URL, protocol=DepotUpload(**KINDS[kind]), **options)

    return work


def it_is_there_once(world):
    assert depot(world).objects[URL].content == CONTENT
    assert task_of(world).state is State.COMPLETE
    assert len(depot(world).made) == 1
    no_session_is_left(world)
    nothing_recorded_was_sent_again(world)


def no_session_is_left(world):
    assert len(depot(world).uploads) <= task_of(world).lost


def nothing_recorded_was_sent_again(world):
    recorded = Counter()
    for logged in world.history():
        if isinstance(logged.event, ev.SessionDropped):
            recorded.clear()
        elif isinstance(logged.event, ev.Sent):
            recorded.update(logged.event.numbers)
            assert set(recorded.values()) == {1}


def never_mixed(world, *contents):
    assert [each.content in contents for each in depot(world).objects.values()] in ([], [True])
    assert len(depot(world).made) <= 1


def dies(world, work):
    """Whether the power went while `work` was done."""
    try:
        world.run(work)
    except PowerLost:
        return True
    return False


async def until(claim):
    while not claim():  # noqa: ASYNC110  # nobody tells, and the world's time costs nothing
        await anyio.sleep(0.001)


kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
def test_power_lost_at_any_call_makes_one_object(kind):
    assert world().every_crash(upload(kind), it_is_there_once, losses=("lost",)) > 20


@kinds
def test_power_lost_again_during_the_recovery(kind):
    once = world()
    once.run(upload(kind))
    tried = 0
    for number in range(5, once.power.calls, 13):
        doomed = world(seed=number)
        doomed.crash_at(number, "after")
        assert dies(doomed, upload(kind))
        doomed.restart("lost")
        tried += doomed.every_crash(
            upload(kind), it_is_there_once, losses=("lost",), calls=slice(number % 4, None, 4)
        )
    assert tried > 10


@kinds
@pytest.mark.parametrize(
    "trouble",
    [Trouble(before="reset"), Trouble(status=503), Trouble(after=0), Trouble(take=100), Trouble(take=0)],
)
def test_whichever_request_fails_it_gets_there(kind, trouble):
    whole = world()
    whole.run(upload(kind))
    for number in range(len(whole.server.requests)):
        troubled = world(seed=number)
        troubled.server.script = [*[None] * number, trouble]
        troubled.run(upload(kind))
        it_is_there_once(troubled)


@kinds
def test_a_reply_is_lost_and_then_the_power(kind):
    whole = world()
    whole.run(upload(kind))
    for number in range(len(whole.server.requests)):
        troubled = world(seed=number)
        troubled.server.script = [*[None] * number, Trouble(before="reset")]
        troubled.every_crash(
            upload(kind), it_is_there_once, losses=("lost",), calls=slice(number % 17, None, 17)
        )


def canceled_after(requests, kind):
    """Submits, cancels once the depot has seen so many requests, and waits until nothing is owed."""

    async def work(world):
        async with world.engine() as engine:
            if task_of(world) is None:
                options = {"piece_size": PIECE, "connections": 2}
                task = await engine.submit(meowcat.Upload(SOURCE, URL, DepotUpload(**KINDS[kind]), **options))
            else:
                task = await engine.task(task_of(world).id)
            await until(lambda: len(world.server.requests) >= requests or task.info.state in ENDED)
            with suppress(meowcat.MeowcatError):
                await task.cancel()
            await engine.drain()

    return work


def nothing_or_all_is_there(world):
    never_mixed(world, CONTENT)
    no_session_is_left(world)
    if task_of(world).state is State.COMPLETE:
        it_is_there_once(world)


@kinds
@pytest.mark.parametrize("requests", [1, 2, 4, 6])
def test_a_canceled_upload_leaves_nothing_wherever_the_power_goes(kind, requests):
    work = canceled_after(requests, kind)
    world().every_crash(work, nothing_or_all_is_there, losses=("lost",), calls=slice(requests, None, 8))


OTHER = bytes(reversed(CONTENT))


def until_it_fails(kind):
    """Uploads until it is there, or failed because the source was changed; says which."""
    work = upload(kind)

    async def tried(world):
        try:
            await work(world)
        except meowcat.TransferFailed as failed:
            if failed.code is not meowcat.Code.SOURCE_CHANGED:
                raise
            async with world.engine() as engine:
                await engine.drain()

    return tried


@kinds
def test_a_source_that_changes_while_the_machine_is_off_is_never_mixed(kind):
    whole = world()
    whole.run(upload(kind))
    for number in range(3, whole.power.calls, 3):
        doomed = world(seed=number)
        doomed.crash_at(number, "after")
        assert dies(doomed, upload(kind))
        doomed.disk.put(SOURCE, OTHER)
        doomed.restart("lost")
        doomed.run(until_it_fails(kind))
        never_mixed(doomed, CONTENT, OTHER)
        no_session_is_left(doomed)


@pytest.mark.parametrize("kind", ["offsets", "offsets-last-commits"])
@pytest.mark.parametrize("piece", range(4))
@pytest.mark.parametrize("dies_first", [True, False])
def test_the_half_of_a_part_is_never_joined_to_that_of_another_source(kind, piece, dies_first):
    start = piece * PIECE
    tampered = CONTENT[:start] + bytes(100) + CONTENT[start + 100 :]

    async def work(world):
        async with world.engine() as engine, anyio.create_task_group() as group:

            async def change():
                await until(lambda: any(seen.received == 100 for seen in world.server.requests))
                world.disk.put(SOURCE, tampered)
                if dies_first and not world.notes:
                    world.notes["died"] = True
                    world.crash()

            group.start_soon(change)
            await engine.upload(SOURCE, URL, protocol=DepotUpload(**KINDS[kind]), piece_size=PIECE)
            group.cancel_scope.cancel()

    again = upload(kind, connections=1)

    def it_is_of_one_source(world):
        assert depot(world).objects[URL].content == tampered
        no_session_is_left(world)

    troubled = world()
    troubled.server.script = [*[None] * (1 + piece), Trouble(take=100)]
    if dies_first:
        assert dies(troubled, work)
        troubled.restart("lost")
        troubled.every_crash(again, it_is_of_one_source, losses=("lost",), calls=slice(piece, None, 6))
    else:
        troubled.run(work)
        it_is_of_one_source(troubled)


@kinds
def test_a_server_that_forgets_all_uploads_costs_another_one(kind):
    whole = world()
    whole.run(upload(kind))
    for number in range(4, whole.power.calls, 5):
        doomed = world(seed=number)
        doomed.crash_at(number, "after")
        assert dies(doomed, upload(kind))
        depot(doomed).uploads.clear()
        doomed.restart("lost")
        doomed.run(upload(kind))
        it_is_there_once(doomed)


@pytest.mark.soak
@kinds
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.timeout(0)
def test_power_lost_at_any_call_with_many_courses_of_events(kind, seed):
    world(seed).every_crash(upload(kind, connections=4), it_is_there_once, losses=("lost",))


TROUBLES = [
    *[None] * 12,
    Trouble(before="reset"),
    Trouble(before="stall"),
    Trouble(status=503),
    Trouble(status=429, headers=(("Retry-After", "3"),)),
    Trouble(after=0),
    Trouble(take=0),
    Trouble(take=100),
    Trouble(take=40_000),
]


VERSIONS = [
    CONTENT,
    OTHER,
    bytes(100) + CONTENT[100:],
    CONTENT[:PIECE] + bytes(100) + CONTENT[PIECE + 100 :],
    CONTENT[: 3 * PIECE] + bytes(100) + CONTENT[3 * PIECE + 100 :],
    CONTENT[:-1],
    CONTENT + b"more",
]
"""What somebody else makes of the source."""


def an_hour(kind, chance, changes):
    """An application that submits, pauses, resumes, retries, and now and then cancels; and dies."""

    async def work(world):
        connections = chance.choice((1, 2, 4))
        async with world.engine(config=meowcat.Config(retries=20, prepare_retries=20)) as engine:
            if task_of(world) is None:
                request = meowcat.Upload(
                    SOURCE, URL, DepotUpload(**KINDS[kind]), piece_size=PIECE, connections=connections
                )
                task = await engine.submit(request)
            else:
                task = await engine.task(task_of(world).id)
            for _ in range(chance.randrange(6)):
                await anyio.sleep(chance.choice((0.0, 0.001, 0.01, 0.1, 1, 60)))
                what = chance.choice(
                    ("pause", "resume", "retry", "pause", "resume", "die", "nothing", "touch")
                )
                if chance.random() < changes:
                    world.disk.put(SOURCE, chance.choice(VERSIONS))
                if chance.random() < 0.05:
                    what = "cancel"
                if what == "die":
                    world.crash()
                elif what == "touch":
                    world.disk.put(SOURCE, CONTENT)
                elif what != "nothing":
                    with suppress(meowcat.InvalidTaskState, meowcat.TaskNotFound):
                        await getattr(task, what)()

    return work


async def the_rest(world):
    async with world.engine(config=meowcat.Config(retries=20, prepare_retries=20)) as engine:
        task = await engine.task(task_of(world).id)
        with suppress(meowcat.InvalidTaskState, meowcat.TaskNotFound):
            await task.resume()
        with suppress(meowcat.InvalidTaskState, meowcat.TaskNotFound):
            await task.retry()
        await engine.drain()


def troubles_of(world, chance, changes):
    """What goes wrong with each request; now and then the source is changed just when a part of one came."""

    def trouble_of(_):
        trouble = chance.choice(TROUBLES)
        if trouble is not None and trouble.take and chance.random() < changes:
            world.disk.put(SOURCE, chance.choice(VERSIONS))
        return trouble

    return trouble_of


def whatever_happens(seed, changes=0.0):
    chance = Random(seed)
    kind = chance.choice(list(KINDS))
    made = world(seed)
    made.server.script = troubles_of(made, Random(seed + 1), changes)
    for _ in range(chance.randrange(1, 5)):
        if chance.random() < 0.5:
            made.crash_at(chance.randrange(1, 80), chance.choice(("before", "after")))
        dies(made, an_hour(kind, chance, changes))
        made.restart("lost")
    if task_of(made) is None:
        return
    made.server.script = []
    made.run(the_rest)
    if changes:
        made.run(the_rest)  # again, after a failure over what was changed before
    with made.explained():
        never_mixed(made, *(VERSIONS if changes else [CONTENT]))
        nothing_recorded_was_sent_again(made)
        no_session_is_left(made)
        assert task_of(made).state in ENDED
        assert task_of(made).state is State.CANCELED or len(depot(made).made) == 1


@pytest.mark.parametrize(
    "seed", [*range(40), 80, 236, 444]
)  # the last three mix where a half-sent part is trusted
@pytest.mark.parametrize("changes", [0.0, 0.5])
def test_whatever_happens_there_is_one_object_or_none(seed, changes):
    whatever_happens(seed, changes)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_whatever_happens_in_a_thousand_courses_of_events():
    for seed in range(1000, 3000):
        whatever_happens(seed, seed % 2 / 2)
