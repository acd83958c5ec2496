"""Checks of how a session begins, and of what the server is said to have."""

from meowcat.core.sessions import Held
from meowcat.testing.protocol.registry import check
from meowcat.testing.protocol.trial import LOSE, Offered, Sender, Trial, lost_of, refusal_of
from meowcat.transfer.digests import new


@check("P1")
async def two_tasks_have_two_sessions(trial: Trial) -> None:
    trial.need(trial.able.session, "has no sessions")
    one, other = trial.upload(), trial.upload()
    await one.begin()
    await other.begin()
    assert one.session.id, "the session has no id"
    assert one.session.id != other.session.id, "two tasks were given the same session"


@check("P1", "C1")
async def two_uploads_at_once_do_not_mix(trial: Trial) -> None:
    one, other = trial.upload(), trial.upload()
    await one.begin()
    await other.begin()
    for index in range(one.to_send):
        await one.send(index)
        await other.send(index)
    await other.commit()
    await one.commit()
    await one.holds(one.content)
    await other.holds(other.content)


@check("P2")
async def what_is_held_is_what_was_confirmed(trial: Trial) -> None:
    able = trial.able
    trial.need(able.lists_parts or able.server_offset, "is not told what the server has")
    sender = trial.upload()
    trial.need(sender.to_send > 1, "sends too few parts before the commit")
    await sender.begin()
    for index in range(-1, sender.to_send):
        if index >= 0:
            await sender.send(index)
        for _ in range(2):  # asking changes nothing
            prepared = await sender.ask()
            assert prepared.session.id == sender.session.id, "asking gave another session"
            if able.server_offset:
                expected = sender.grid.span(index)[1] if index >= 0 else 0
                assert prepared.offset == expected, (
                    f"the offset is {prepared.offset}, and {expected} was sent"
                )
            else:
                assert sorted(prepared.held) == list(range(index + 1)), f"held are {sorted(prepared.held)}"
                for at, held in prepared.held.items():
                    _look_at(sender, at, held)


def _look_at(sender: Sender, index: int, held: Held) -> None:
    part = sender.part(index)
    assert held.size == part.size, f"part {index} has {held.size} bytes; {part.size} were sent"
    assert held.receipt.text == sender.receipts[index].text, f"part {index} has another receipt now"
    vouched = [held.receipt.checksum] if held.receipt.checksum else []
    vouched += [f"md5:{held.md5}"] if held.md5 else []
    for each in vouched:
        algorithm, _, value = each.partition(":")
        assert value == _digest(algorithm, part), f"part {index} has another {algorithm}"


def _digest(algorithm: str, part: Offered) -> str:
    digest = new(algorithm)
    digest.update(part.data)
    return digest.hexdigest()


@check("P3", "S8")
async def a_session_that_the_server_forgot_is_lost(trial: Trial) -> None:
    trial.need(trial.able.session, "has no sessions")
    sender = trial.upload()
    await sender.send_all()
    await trial.harness.forget(sender.session)
    await lost_of(sender.ask())
    if sender.to_send:
        await lost_of(sender.send(0))


@check("P3", "A1")
async def a_session_that_was_removed_is_lost(trial: Trial) -> None:
    trial.need(trial.able.session, "has no sessions")
    sender = trial.upload()
    await sender.send_all()
    await sender.abort()
    await lost_of(sender.ask())


@check("P4")
async def a_session_whose_reply_was_lost_is_created_again(trial: Trial) -> None:
    trial.need(trial.able.session, "has no sessions")
    probe = trial.upload()
    for number in await trial.to_harm(probe.begin):
        sender = trial.upload()
        trial.transport.arm(number, LOSE)
        await refusal_of(sender.begin())
        await sender.send_all()
        await sender.commit()
        await sender.holds(sender.content)
