"""Checks of what holds of every method: what comes out of it, and when it ends."""

# ruff: noqa: PLR2004  # statuses and sizes are what checks are made of

from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
from msgspec.structs import replace

from meowcat.core.retry import Class, classify
from meowcat.protocols.contract import Refused
from meowcat.testing.protocol.harness import Lacking
from meowcat.testing.protocol.registry import check
from meowcat.testing.protocol.trial import APART, AT_ONCE, FAIL, LOSE, Harm, Sender, Trial, refusal_of
from meowcat.transport.contract import TransportFault

Step = Callable[[Sender], Awaitable[object]]


async def _nothing(_: Sender) -> None:
    """What has to be done before a session is created."""


async def _commit(sender: Sender) -> object:
    return await sender.commit()


STEPS: dict[str, tuple[Step, Step]] = {
    "create": (_nothing, Sender.begin),
    "ask": (Sender.send_all, Sender.ask),
    "send": (Sender.begin, lambda sender: sender.send(0)),
    "commit": (Sender.send_all, _commit),
    "reconcile": (Sender.send_all, Sender.reconcile),
    "abort": (Sender.begin, Sender.abort),
}
"""Each method, and what has to be done before it."""

STATUSES = (200, 201, 204, 206, 302, 400, 401, 403, 404, 409, 410, 412, 413, 416, 429, 500, 503)
BUSY = (429, 503)
BODIES = (b"", b"{", b"<xml", b'{"unexpected": [1, null]}', b"[]", b"\xff\xfe\x00", b"null")


def _applies(trial: Trial, step: str) -> bool:
    able = trial.able
    if step == "send":
        return trial.upload().to_send > 0
    return step not in ("ask", "abort") or able.session


async def _of_exchanges(trial: Trial, before: Step, step: Step) -> int:
    sender = trial.upload()
    await before(sender)
    return await trial.exchanges_of(lambda: step(sender))


@check("U1", "U2")
async def whatever_is_answered_nothing_but_a_refusal_comes_out(trial: Trial) -> None:
    """Also where the answer looks like a success."""
    tried = 0
    for name, (before, step) in STEPS.items():
        if not _applies(trial, name):
            continue
        sender = trial.upload()
        await before(sender)
        for status in STATUSES:
            for body in BODIES if status in (200, 404) else BODIES[:2]:
                trial.transport.every = Harm("answer", status, (("Location", "::"), ("ETag", "")), body)
                count = len(trial.transport.requests)
                try:
                    with suppress(Refused, TransportFault):
                        await step(sender)
                finally:
                    trial.transport.every = None
                tried += len(trial.transport.requests) - count
    if not tried:
        raise Lacking(APART)


@check("U3", "C9")
async def a_busy_server_is_asked_again_later_and_a_refusal_is_final(trial: Trial) -> None:
    tried = 0
    for name, (before, step) in STEPS.items():
        if not _applies(trial, name):
            continue
        for number in range(await _of_exchanges(trial, before, step)):
            tried += 1
            for status in (429, 503, 400, 403):
                sender = trial.upload()
                await before(sender)
                trial.transport.arm(number, Harm("answer", status, (("Retry-After", "7"),), b"busy"))
                await _look_at(trial, name, number, status, step(sender))
    if not tried:
        raise Lacking(APART)


async def _look_at(trial: Trial, name: str, number: int, status: int, work: Awaitable[object]) -> None:
    began = len(trial.transport.requests)
    try:
        await work
    except (Refused, TransportFault) as refusal:
        fault = refusal.fault
        transient = classify(fault) is Class.TRANSIENT
        assert transient == (status in BUSY), f"{name} makes {fault!r} of status {status}"
        told = fault.retry_after
        assert told == 7000 or not transient, f"{name}: Retry-After was 7 s, and retry_after is {told}"
        return
    assert status not in BUSY, f"{name} takes status {status} for an answer"
    asked_again = len(trial.transport.requests) - began > number + 1  # in another way, that the server took
    asks = name not in ("create", "send", "commit")
    assert asks or asked_again, f"{name} takes status {status} for a success"


@check("U4")
async def what_failed_is_not_sent_again_unasked(trial: Trial) -> None:
    tried = 0
    for name, (before, step) in STEPS.items():
        if not _applies(trial, name):
            continue
        for number in range(await _of_exchanges(trial, before, step)):
            for harm in (FAIL, LOSE, Harm("answer", 503)):
                sender = trial.upload()
                await before(sender)
                trial.transport.arm(number, harm)
                count = await trial.exchanges_of(lambda step=step, sender=sender: refusal_of(step(sender)))  # type: ignore[misc]  # of this turn
                assert count <= number + 1, f"{name} goes on after an exchange that failed"
                tried += count
    if not tried:
        raise Lacking(APART)


@check("U5", "C1")
async def another_process_goes_on_at_every_step(trial: Trial) -> None:
    """Every step of every check is made by a new object, with what the journal has."""
    sender = trial.upload()
    await sender.send_all()
    await sender.ask()
    result = await sender.commit()
    assert isinstance(result, dict), f"{result!r}: expected a dict"
    await sender.holds(sender.content)


@check("U6", "S7")
async def a_part_that_is_canceled_ends_at_once_and_is_not_there(trial: Trial) -> None:
    trial.need(trial.upload().to_send > 0, "sends no parts but for the one that commits")
    sender = trial.upload()
    await sender.begin()
    part = sender.part(0)
    part.stalls = part.size // 2
    began = anyio.current_time()
    async with anyio.create_task_group() as group:
        group.start_soon(sender.send, 0, part)
        await part.stalled.wait()
        began, pulls = anyio.current_time(), part.pulls
        group.cancel_scope.cancel()
    took = anyio.current_time() - began
    assert took < AT_ONCE, f"it took {took:.1f} s until a canceled part had ended"
    part.stalls = None
    for _ in range(10):
        await anyio.lowlevel.checkpoint()
    assert part.pulls == pulls, "after its call was over, more of a body was asked for"
    prepared = await sender.ask()
    assert 0 not in prepared.held, "a part of which half was sent is held"
    assert prepared.offset < sender.grid.span(0)[1], "of a part of which half was sent all is there"


@check("U6")
async def every_method_that_is_canceled_ends_at_once(trial: Trial) -> None:
    for name, (before, step) in STEPS.items():
        if not _applies(trial, name):
            continue
        sender = trial.upload()
        await before(sender)
        began = anyio.current_time()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await step(sender)
        took = anyio.current_time() - began
        assert took < AT_ONCE, f"it took {took:.1f} s until a canceled {name} had ended"


@check("U7")
async def what_it_can_do_is_known_without_asking(trial: Trial) -> None:
    sender = trial.upload()
    count = len(trial.transport.requests)
    able = sender.protocol().capabilities()
    assert sender.protocol().capabilities() == able, "the capabilities of one job differ"
    assert len(trial.transport.requests) == count, "capabilities() has made an exchange"
    prepared = await sender.begin()
    found = prepared.session.capabilities
    expected = replace(able, part_checksum=found.part_checksum, whole_checksum=found.whole_checksum)
    assert found == expected, "the session has other capabilities than the protocol"
    assert able.max_parts >= 1
    assert 1 <= able.min_part <= able.max_part
    if able.server_offset:
        assert not able.any_order, "an offset says what is there from the beginning: no parts in any order"
