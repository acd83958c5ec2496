"""Checks of parts: order, repetition, halves, and what becomes of wrong ones."""

import anyio

from meowcat.core.values import Fault, FaultKind
from meowcat.testing.protocol.registry import check
from meowcat.testing.protocol.trial import LOSE, Offered, Sender, Trial, refusal_of

CHANGED = Fault(kind=FaultKind.SOURCE_CHANGED, detail="the source was changed")


@check("S1", "C1")
async def parts_one_after_the_other_make_the_object(trial: Trial) -> None:
    for parts in (1, 2, 3):
        trial.need(parts <= trial.able.max_parts or parts == 1, "takes one part")
        sender = trial.upload(trial.some(parts))
        await sender.send_all()
        await sender.commit()
        await sender.holds(sender.content)


@check("S2", "C1")
async def parts_come_in_any_order(trial: Trial) -> None:
    trial.need(trial.able.any_order, "takes parts in their order alone")
    sender = trial.upload()
    await sender.begin()
    for index in reversed(range(sender.to_send)):
        await sender.send(index)
    await sender.commit()
    await sender.holds(sender.content)


@check("S2")
async def parts_are_sent_at_once(trial: Trial) -> None:
    trial.need(trial.able.any_order, "takes one part at a time")
    sender = trial.upload()
    await sender.begin()
    async with anyio.create_task_group() as group:
        for index in range(sender.to_send):
            group.start_soon(sender.send, index)
    await sender.commit()
    await sender.holds(sender.content)


async def _stands(trial: Trial) -> Sender:
    """An upload with a session that sends a part before its commit."""
    sender = trial.upload()
    trial.need(sender.to_send > 0, "sends no parts but for the one that commits")
    await sender.begin()
    return sender


async def _go_on(sender: Sender) -> None:
    """As the engine does after a failure: ask, and send what is missing."""
    prepared = await sender.ask()
    for index in range(sender.to_send):
        begin, stop = sender.grid.span(index)
        if sender.able.server_offset:
            if prepared.offset < stop:
                start = max(begin, prepared.offset)
                await sender.send(index, sender.part(index, start))
        elif index in prepared.held and index not in sender.receipts:
            sender.receipts[index] = prepared.held[index].receipt
        elif index not in sender.receipts:
            await sender.send(index)


@check("S3")
async def a_part_that_is_sent_twice_counts_once(trial: Trial) -> None:
    trial.need(not trial.able.server_offset, "knows by its offset what is there")
    sender = await _stands(trial)
    await sender.send(0)
    await sender.send(0)
    for index in range(1, sender.to_send):
        await sender.send(index)
    await sender.commit()
    await sender.holds(sender.content)


@check("S3")
async def the_newest_of_two_parts_counts(trial: Trial) -> None:
    trial.need(not trial.able.server_offset, "knows by its offset what is there")
    sender = await _stands(trial)
    await sender.send(0, Offered(0, 0, bytes(sender.part(0).size)))
    await sender.send(0)
    for index in range(1, sender.to_send):
        await sender.send(index)
    await sender.commit()
    await sender.holds(sender.content)


@check("S3", "P2")
async def a_part_whose_confirmation_was_lost_counts_or_is_sent_again(trial: Trial) -> None:
    probe = await _stands(trial)
    for number in await trial.to_harm(lambda: probe.send(0)):
        sender = await _stands(trial)
        trial.transport.arm(number, LOSE)
        await refusal_of(sender.send(0))
        await _go_on(sender)
        await sender.commit()
        await sender.holds(sender.content)


@check("S4")
async def a_part_goes_on_in_the_middle(trial: Trial) -> None:
    trial.need(trial.able.server_offset, "is told of no offset")
    sender = await _stands(trial)
    half = Offered(0, 0, sender.part(0).data[: sender.part(0).size // 2])
    await sender.send(0, half)
    prepared = await sender.ask()
    assert prepared.offset == half.size, f"the offset is {prepared.offset}; {half.size} bytes were sent"
    await _go_on(sender)
    await sender.commit()
    await sender.holds(sender.content)


@check("S5")
async def a_source_that_refuses_stops_its_part(trial: Trial) -> None:
    probe = await _stands(trial)
    for after in (0, probe.part(0).size // 2):
        sender = await _stands(trial)
        part = sender.part(0)
        part.breaks = (after, CHANGED)
        fault = await refusal_of(sender.send(0, part))
        assert fault == CHANGED, f"{fault!r}: the source's own refusal was lost"
        prepared = await sender.ask()
        assert 0 not in prepared.held, "a part that its source has broken off is held"
        given = part.taken[-1] if part.taken else 0
        assert prepared.offset <= given, "the server has more of a part than its source gave"


@check("S6")
async def a_part_that_came_as_another_one_is_refused(trial: Trial) -> None:
    trial.need(trial.able.part_checksum is not None, "has parts compared with no checksum")
    sender = await _stands(trial)
    part = sender.part(0)
    part.promised, part.data = part.data, bytes(part.size)
    await refusal_of(sender.send(0, part))
    assert 0 not in (await sender.ask()).held, "a part of other bytes than its checksum is held"
    await sender.send(0)
    for index in range(1, sender.to_send):
        await sender.send(index)
    await sender.commit()
    await sender.holds(sender.content)


@check("S7")
async def a_body_is_asked_for_what_it_has(trial: Trial) -> None:
    sender = await _stands(trial)
    part = sender.part(0)
    await sender.send(0, part)
    assert part.taken, "a part was confirmed of which nothing was asked for"
    assert part.taken[-1] == part.size, f"{part.taken[-1]} of {part.size} bytes were taken"
    pulls = part.pulls
    for _ in range(10):
        await anyio.lowlevel.checkpoint()
    assert part.pulls == pulls, "after its call was over, more of a body was asked for"
