"""Checks of commits, and of what is found out about them."""

from meowcat.protocols.contract import Outcome
from meowcat.testing.protocol.registry import check
from meowcat.testing.protocol.trial import FAIL, LOSE, Sender, Trial, refusal_of


@check("C2")
async def nothing_is_there_before_the_commit(trial: Trial) -> None:
    sender = trial.upload()
    await sender.send_all()
    await sender.holds(None)
    if sender.able.commits_with_last_part:
        part = sender.last
        assert part is not None
        await sender.commit(part)
        assert part.taken == [part.size], f"{part.taken} bytes of the last part were taken"
    else:
        await sender.commit()
    await sender.holds(sender.content)


@check("C3")
async def an_empty_content_is_an_empty_object(trial: Trial) -> None:
    trial.need(trial.able.empty, "takes no empty content")
    sender = trial.upload(b"")
    prepared = await sender.begin()
    if prepared.done is None:
        await sender.commit()
    await sender.holds(b"")


@check("C4")
async def nothing_is_left_of_a_committed_session(trial: Trial) -> None:
    sender = trial.upload()
    await sender.begin()
    if sender.able.session:
        await sender.sessions_left(1)
    for index in range(sender.to_send):
        await sender.send(index)
    await sender.commit()
    assert await trial.harness.sessions() == 0, "a session stands at the server after its commit"


@check("C5")
async def a_commit_whose_reply_was_lost_is_found(trial: Trial) -> None:
    probe = trial.upload()
    await probe.send_all()
    results: list[dict[str, str]] = []

    async def commit() -> None:
        results.append(await probe.commit())

    for number in await trial.to_harm(commit):
        sender = trial.upload()
        await sender.send_all()
        trial.transport.arm(number, LOSE)
        await refusal_of(sender.commit())
        there = await trial.harness.content(sender.name) is not None
        found = await sender.reconcile()
        if there:
            assert found.outcome is Outcome.COMMITTED, f"the object is there; reconcile says {found.outcome}"
            strange = set(found.result) - set(results[0])
            assert not strange, f"reconcile tells of {sorted(strange)}, and commit does not"
        elif found.outcome is Outcome.NOT_COMMITTED:
            await sender.commit()
        await sender.holds(sender.content if there or found.outcome is not Outcome.LOST else None)


@check("C6")
async def a_commit_that_did_not_get_there_is_not_committed(trial: Trial) -> None:
    probe = trial.upload()
    await probe.send_all()
    for number in await trial.to_harm(probe.commit):
        sender = trial.upload()
        await sender.send_all()
        trial.transport.arm(number, FAIL)
        await refusal_of(sender.commit())
        if await trial.harness.content(sender.name) is None:
            await _not_there(sender)


@check("C6")
async def nothing_is_committed_before_the_commit(trial: Trial) -> None:
    sender = trial.upload()
    await sender.send_all()
    await _not_there(sender)


async def _not_there(sender: Sender) -> None:
    for _ in range(2):  # asking changes nothing
        found = await sender.reconcile()
        assert found.outcome is not Outcome.COMMITTED, "reconcile says that it is there, and it is not"
        await sender.holds(None)
    if found.outcome is Outcome.NOT_COMMITTED:
        await sender.commit()
        await sender.holds(sender.content)


@check("C7")
async def what_is_nowhere_is_lost(trial: Trial) -> None:
    trial.need(trial.able.session, "has no sessions")
    sender = trial.upload()
    await sender.send_all()
    await trial.harness.forget(sender.session)
    found = await sender.reconcile()
    assert found.outcome is Outcome.LOST, f"reconcile says {found.outcome} of what is nowhere"


@check("C8")
async def an_object_of_another_task_is_not_ours(trial: Trial) -> None:
    trial.need(trial.harness.protocol.owns_url, "uploads to an endpoint, where objects have no URL before")
    ours = trial.upload()
    await ours.send_all()
    other = trial.upload(trial.some(2) if ours.able.max_parts > 1 else trial.some(1), name=ours.name)
    await other.send_all()
    await other.commit()
    found = await ours.reconcile()
    assert found.outcome is not Outcome.COMMITTED, "reconcile takes another task's object for this one's"
    if found.outcome is Outcome.NOT_COMMITTED:
        await ours.holds(other.content)
        await ours.commit()
        await ours.holds(ours.content)
