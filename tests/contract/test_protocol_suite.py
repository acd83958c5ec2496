"""The suite for upload protocols passes on one that keeps its word, and finds what breaks it."""

import asyncio
from contextlib import suppress
from dataclasses import replace as replace_tools

import anyio
import pytest
from depot_harnesses import DepotHarness, LoopbackHarness
from msgspec.structs import replace

from meowcat.core.sessions import Held, Receipt
from meowcat.core.values import Fault, FaultKind
from meowcat.protocols.contract import Orphan, Outcome, Prepared, Reconciled, Refused
from meowcat.testing.checklist import chosen
from meowcat.testing.depot import Depot, DepotProtocol, Stored, md5
from meowcat.testing.protocol import run_all
from meowcat.testing.protocol.checks import CHECKS
from meowcat.testing.protocol.trial import Offered
from meowcat.testing.protocol_suite import ProtocolSuite
from meowcat.transport.contract import TransportFault


class TestAnyOrder(ProtocolSuite):
    harness = DepotHarness


class TestOnTrio(TestAnyOrder):
    backend = "trio"


class TestByOffset(ProtocolSuite):
    harness = DepotHarness.of(any_order=False, server_offset=True)


class TestLastCommits(ProtocolSuite):
    harness = DepotHarness.of(commits_with_last_part=True, part_checksum="sha256")


class TestByOffsetLastCommits(ProtocolSuite):
    harness = DepotHarness.of(any_order=False, server_offset=True, commits_with_last_part=True)


class TestUnlisted(ProtocolSuite):
    harness = DepotHarness.of(lists_parts=False)


class TestWhole(ProtocolSuite):
    harness = DepotHarness.of(session=False)


class TestLoopback(ProtocolSuite):
    harness = LoopbackHarness.of(part_checksum="sha256")


class TestLoopbackByOffset(ProtocolSuite):
    harness = LoopbackHarness.of(any_order=False, server_offset=True, commits_with_last_part=True)


# Bugs, each in the protocol or in the server, and the rule that they break


class Broken(DepotProtocol):
    """Says what was refused in the words of another library."""

    async def _send(self, *args):
        reply = await super()._send(*args)
        if reply.status == 403:
            raise ValueError("forbidden")
        return reply


class Leaky(DepotProtocol):
    async def prepare(self, session):
        prepared = await super().prepare(session)
        return replace(prepared, session=replace(prepared.session, facts={"url": self.job.url}))


class LeakyInFaults(DepotProtocol):
    async def _call(self, *args):
        try:
            return await super()._call(*args)
        except Refused as refused:
            raise Refused(replace(refused.fault, detail=f"{self.job.headers}")) from None


class Hopeless(DepotProtocol):
    """Takes a busy server for a final answer."""

    async def _send(self, *args):
        reply = await super()._send(*args)
        if reply.status == 503:
            raise Refused(Fault(kind=FaultKind.REPLY, detail="503"))
        return reply


class Impatient(DepotProtocol):
    """Does not hear of Retry-After."""

    async def _send(self, *args):
        reply = await super()._send(*args)
        return replace(reply, headers=())


class Stubborn(DepotProtocol):
    async def _send(self, *args):
        try:
            return await super()._send(*args)
        except TransportFault:
            return await super()._send(*args)


class Forgetful(DepotProtocol):
    """Keeps in the object what belongs into the session."""

    async def prepare(self, session):
        prepared = await super().prepare(session)
        self.kept = prepared.session.id
        return prepared

    async def send_part(self, session, part):
        return await super().send_part(replace(session, id=getattr(self, "kept", "")), part)


class Deaf(DepotProtocol):
    async def send_part(self, session, part):
        with anyio.CancelScope(shield=True), anyio.move_on_after(6):
            return await super().send_part(session, part)
        raise Refused(Fault(kind=FaultKind.TIMEOUT, detail="it took too long"))


class Fickle(DepotProtocol):
    async def prepare(self, session):
        prepared = await super().prepare(session)
        able = replace(prepared.session.capabilities, max_parts=77)
        return replace(prepared, session=replace(prepared.session, capabilities=able))


class Sharing(Depot):
    """Gives everybody the first upload's name."""

    def _begin(self, seen, place):
        self._begun = 0
        return super()._begin(seen, place)


class Boasting(DepotProtocol):
    async def prepare(self, session):
        prepared = await super().prepare(session)
        if session is not None:
            held = Held(size=1, receipt=Receipt(text="x"))
            prepared = replace(prepared, held={**prepared.held, 7: held})
        return prepared


class Carefree(DepotProtocol):
    """Takes an upload that is unknown for one of which nothing is there."""

    async def prepare(self, session):
        try:
            return await super().prepare(session)
        except Refused:
            return Prepared(session=session)


class Once(Depot):
    """Begins no second upload while the first stands."""

    def _begin(self, seen, place):
        if any(each.task == seen.headers["x-depot-task"] for each in self.uploads.values()):
            return 409, {}, b""
        return super()._begin(seen, place)


class Hasty(DepotProtocol):
    """Says that a part is there before it is."""

    async def send_part(self, session, part):
        await super().send_part(session, replaced(part, part.data[:-1]))
        return Receipt(text="x")


def replaced(part, data):
    return Offered(part.index, part.start, data)


class Unordered(Depot):
    """Puts parts together as they came."""

    def _commit(self, name, begun, etags):
        whole = b"".join(begun.parts.values())
        del self.uploads[name]
        return self._make(begun.url, Stored(whole, begun.task, name))


class Conservative(Depot):
    """Keeps the first of two parts."""

    def _take(self, seen, name, begun, asked, body):
        index = int(asked["part"])
        if index in begun.parts:
            return 200, {"ETag": f'"{md5(begun.parts[index])}"'}, b""
        return super()._take(seen, name, begun, asked, body)


class FromTheStart(DepotProtocol):
    """Sends a half as if it were the whole."""

    async def _put(self, session, part, **more):
        shifted = Offered(part.index, part.start // 40_000 * 40_000, part.data)
        return await super()._put(session, shifted, **more)


class Swallowing(DepotProtocol):
    async def send_part(self, session, part):
        try:
            return await super().send_part(session, part)
        except Refused as refused:
            raise Refused(Fault(kind=FaultKind.DISCONNECTED, detail="it broke off")) from refused


class KeepsHalves(Depot):
    """Takes a body that broke off for a part."""

    def _take(self, seen, name, begun, asked, body):
        seen.complete = True
        return super()._take(seen, name, begun, asked, body)


class Trusting(Depot):
    def _take(self, seen, name, begun, asked, body):
        seen.headers.pop("x-depot-sha256", None)
        return super()._take(seen, name, begun, asked, body)


class Greedy(DepotProtocol):
    """Reads a body that it has read, and goes on."""

    async def send_part(self, session, part):
        receipt = await super().send_part(session, part)
        asyncio.get_running_loop().create_task(self.drink(part))
        return receipt

    async def drink(self, part):
        async for _ in part.body():
            pass


class Vague(DepotProtocol):
    async def send_part(self, session, part):
        try:
            return await super().send_part(session, part)
        except Refused as refused:
            raise Refused(replace(refused.fault, kind=FaultKind.STATUS, status=404)) from None


class Early(DepotProtocol):
    """Commits as soon as all is there."""

    async def send_part(self, session, part):
        receipt = await super().send_part(session, part)
        if part.start + part.size == self.job.size:
            await self._call("PUT", {}, {}, b"too early")
        return receipt


class NoneAtAll(DepotProtocol):
    """Does nothing where there is nothing."""

    async def commit(self, session, receipts, last):
        if self.job.size == 0:
            return {"etag": ""}
        return await super().commit(session, receipts, last)


class Untidy(Depot):
    def _commit(self, name, begun, etags):
        answered = super()._commit(name, begun, etags)
        self.uploads[name + "-left"] = begun
        return answered


class Doubting(DepotProtocol):
    """Never finds what was committed."""

    async def reconcile(self, session):
        found = await super().reconcile(session)
        return replace(found, outcome=Outcome.NOT_COMMITTED)


class Optimistic(DepotProtocol):
    async def reconcile(self, session):
        await super().reconcile(session)
        return Reconciled(outcome=Outcome.COMMITTED)


class Vain(DepotProtocol):
    """Takes whatever stands there for its own."""

    async def reconcile(self, session):
        head = await self._send("HEAD", {}, {}, None)
        if head.status == 200:
            return Reconciled(outcome=Outcome.COMMITTED)
        return await super().reconcile(session)


class Rash(DepotProtocol):
    """Takes no answer for an answer."""

    async def reconcile(self, session):
        try:
            return await super().reconcile(session)
        except Refused:
            return Reconciled(outcome=Outcome.LOST)


class Idle(DepotProtocol):
    async def abort(self, session):
        """It will expire."""


class Strict(DepotProtocol):
    """Wants to abort what is there."""

    async def abort(self, session):
        await self._call("DELETE", {"upload": session.id})


class Silent(DepotProtocol):
    """Does not hear that an abort has failed."""

    async def abort(self, session):
        with suppress(Refused, TransportFault):
            await super().abort(session)


class Thorough(DepotProtocol):
    async def abort(self, session):
        await super().abort(session)
        await self._call("PUT", {}, {}, b"gone")


class Stale(DepotProtocol):
    """Lists what is gone."""

    async def orphans(self):
        return [Orphan(id=f"u{number}") for number in range(10)]


class Lingering(DepotProtocol):
    """Can remove nothing, and says so: no bug."""

    removes = False
    whose = {}  # noqa: RUF012  # what every object of it knows, as ids tell elsewhere

    async def prepare(self, session):
        prepared = await super().prepare(session)
        self.whose[prepared.session.id] = self.job.task
        return prepared

    async def abort(self, session):
        """It will expire."""

    async def orphans(self):
        return [
            replace(each, ours=self.whose[each.id] == self.job.task, detail="it will expire")
            for each in await super().orphans()
        ]


class Mute(Lingering):
    async def orphans(self):
        return []


class Claiming(Lingering):
    """Takes everything for its own."""

    async def orphans(self):
        return [replace(each, ours=True) for each in await super().orphans()]


class Secretive(Lingering):
    async def orphans(self):
        return [replace(each, detail="") for each in await super().orphans()]


class Removing(Lingering):
    """Removes what it said it could not."""

    abort = DepotProtocol.abort


OFFSETS = {"any_order": False, "server_offset": True}

BUGS = {
    "U1": [(Broken, {})],
    "U2": [(Leaky, {}), (LeakyInFaults, {})],
    "U3": [(Hopeless, {}), (Impatient, {})],
    "U4": [(Stubborn, {})],
    "U5": [(Forgetful, {})],
    "U6": [(Deaf, {})],
    "U7": [(Fickle, {})],
    "P1": [(Sharing, {})],
    "P2": [(Boasting, {})],
    "P3": [(Carefree, {})],
    "P4": [(Once, {})],
    "S1": [(Hasty, {})],
    "S2": [(Unordered, {})],
    "S3": [(Conservative, {})],
    "S4": [(FromTheStart, OFFSETS)],
    "S5": [(Swallowing, {}), (KeepsHalves, {})],
    "S6": [(Trusting, {"part_checksum": "sha256"})],
    "S7": [(Greedy, {})],
    "S8": [(Vague, {})],
    "C1": [(Unordered, {}), (Hasty, {})],
    "C2": [(Early, {})],
    "C3": [(NoneAtAll, {})],
    "C4": [(Untidy, {})],
    "C5": [(Doubting, {})],
    "C6": [(Optimistic, {})],
    "C7": [(Doubting, {})],
    "C8": [(Vain, {})],
    "C9": [(Rash, {})],
    "A1": [(Idle, {})],
    "A2": [(Strict, {})],
    "A3": [(Silent, {})],
    "A4": [(Thorough, {})],
    "A5": [(Stale, {})],
    "A6": [(Mute, {}), (Claiming, {}), (Secretive, {}), (Removing, {})],
}


def harness_of(bug, able):
    kind = {"protocol": bug} if issubclass(bug, DepotProtocol) else {"depot_class": bug}
    return type(bug.__name__, (DepotHarness.of(**able),), kind)


@pytest.mark.parametrize(
    ("must", "bug", "able"), [(must, *each) for must, bugs in BUGS.items() for each in bugs]
)
def test_a_bug_is_found_by_the_checks_of_the_rule_that_it_breaks(must, bug, able):
    report = run_all(harness_of(bug, able), [check for check in CHECKS if must in check.musts])
    assert not report.passed, str(report)


def test_what_can_remove_nothing_and_says_so_keeps_its_word():
    report = run_all(harness_of(Lingering, {}), [check for check in CHECKS if "A6" in check.musts])
    assert [finding.outcome for finding in report.findings] == ["passed"], str(report)


def test_each_rule_has_a_bug_that_breaks_it():
    assert set(BUGS) == {must for check in CHECKS for must in check.musts}


def test_a_report_tells_what_holds_and_what_is_left_out():
    told = []
    report = run_all(DepotHarness.of(session=False), chosen(["an empty content", "A2"], CHECKS), told.append)
    assert report.passed
    assert [finding.outcome for finding in told] == ["skipped", "skipped", "passed"]
    assert str(report).endswith(
        "passed  an empty content is an empty object [C3]\n1 passed, 0 failed, 2 skipped"
    )
    assert "an abort of what is gone succeeds [A2]\n        the protocol has no sessions\n" in str(report)


def test_a_protocol_that_has_its_own_way_to_its_server_is_not_harmed():
    class Apart(DepotHarness):
        """Its exchanges do not pass `Tools.transport`."""

        class protocol(DepotProtocol):  # noqa: N801  # a field
            def __init__(self, job, tools):
                super().__init__(job, replace_tools(tools, transport=tools.transport.inner))

    report = run_all(Apart)
    assert report.passed, str(report)
    assert "do not pass Tools.transport" in str(report)
