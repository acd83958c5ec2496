"""Checks of how sessions are removed."""

from meowcat.protocols.contract import Refused
from meowcat.testing.protocol.registry import check
from meowcat.testing.protocol.trial import FAIL, LOSE, Harm, Trial
from meowcat.transport.contract import TransportFault


@check("A1")
async def nothing_is_left_after_an_abort(trial: Trial) -> None:
    trial.need(trial.able.session, "has no sessions")
    for sent in (False, True):
        sender = trial.upload()
        await (sender.send_all() if sent else sender.begin())
        await sender.abort()
        await sender.holds(None)
        await sender.sessions_left(0)


@check("A2")
async def an_abort_of_what_is_gone_succeeds(trial: Trial) -> None:
    trial.need(trial.able.session, "has no sessions")
    sender = trial.upload()
    await sender.send_all()
    await sender.abort()
    await sender.abort()


@check("A2")
async def an_abort_of_what_was_forgotten_succeeds(trial: Trial) -> None:
    trial.need(trial.able.session, "has no sessions")
    sender = trial.upload()
    await sender.send_all()
    await trial.harness.forget(sender.session)
    await sender.abort()


@check("A3")
async def an_abort_that_failed_is_repeated(trial: Trial) -> None:
    trial.need(trial.able.session, "has no sessions")
    probe = trial.upload()
    await probe.send_all()
    for number in await trial.to_harm(probe.abort):
        for harm in (FAIL, LOSE, Harm("answer", 503), Harm("answer", 403)):
            sender = trial.upload()
            await sender.send_all()
            trial.transport.arm(number, harm)
            try:
                await sender.abort()
            except (Refused, TransportFault):
                await sender.abort()
            await sender.sessions_left(0)
            await sender.holds(None)


@check("A4")
async def an_abort_leaves_the_object_alone(trial: Trial) -> None:
    trial.need(trial.able.session, "has no sessions")
    sender = trial.upload()
    await sender.send_all()
    await sender.commit()
    await sender.abort()
    await sender.holds(sender.content)


@check("A4", "A1")
async def what_was_removed_leaves_another_upload_alone(trial: Trial) -> None:
    trial.need(trial.able.session, "has no sessions")
    doomed = trial.upload()
    await doomed.send_all()
    other = trial.upload(name=doomed.name)
    await other.send_all()
    await doomed.abort()
    await other.commit()
    await other.holds(other.content)


@check("A6")
async def what_nothing_can_remove_is_told_of(trial: Trial) -> None:
    trial.need(not trial.harness.protocol.removes, "removes what was sent and not committed")
    sender = trial.upload()
    trial.need(sender.to_send > 0, "sends no parts but for the one that commits")
    await sender.send_all()
    for _ in range(2):
        told = [orphan for orphan in await sender.orphans() if orphan.ours]
        assert [orphan.id for orphan in told] == [sender.session.id], "what was sent is not listed as ours"
        assert told[0].detail, "nothing is said of what becomes of it"
        await sender.abort()
    other = trial.upload(name=sender.name)
    assert not [orphan for orphan in await other.orphans() if orphan.ours], (
        "another task takes it for its own"
    )
    await sender.commit()
    await sender.holds(sender.content)
    assert not [orphan for orphan in await sender.orphans() if orphan.ours], "it lists what was committed"


@check("A5")
async def orphans_are_the_sessions_that_stand(trial: Trial) -> None:
    trial.need(trial.able.session, "has no sessions")
    sender = trial.upload()
    await sender.send_all()
    listed = {orphan.id for orphan in await sender.orphans()}
    trial.need(bool(listed), "lists no sessions")
    assert sender.session.id in listed, "a session that stands is not listed"
    await sender.abort()
    assert sender.session.id not in {orphan.id for orphan in await sender.orphans()}, "it lists what is gone"
