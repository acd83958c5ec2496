"""The pure core in a truthful world: any order of commands, reports, wake-ups, crashes and changes.

The disk and the server below know what is really there; operations report nothing else. A crash keeps any
prefix of the events that were just made, loses all messages, and may damage bytes that no intent covers.
"""

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from meowcat.core import events as ev
from meowcat.core import messages as msg
from meowcat.core.decide import decide
from meowcat.core.machine import ACTIVE, ENDED, State
from meowcat.core.pieces import DEFAULT_PIECE, IntervalSet
from meowcat.core.retry import DAY_MS
from meowcat.core.state import Phase, TaskState, evolve, fold
from meowcat.core.transfers import Download
from meowcat.core.values import Checksum, Fault, FaultKind, FileIdentity, Generation, Instant, TaskId
from meowcat.core.waits import WaitingFor
from meowcat.core.wanted import Discard, Fetch, Publish, Verify, due, wanted, wants_slot
from meowcat.journal import codec

DAMAGED = -1
ENOUGH_STEPS = 300
KINDS = [kind for kind in FaultKind if kind is not FaultKind.CHANGED]
STORY = [
    *["well"] * 14,
    *["unheard"] * 2,
    *["revive"] * 3,
    *["crash", "changes", "stale"],
    *[FaultKind.STATUS, FaultKind.DISCONNECTED, FaultKind.UNREACHABLE, FaultKind.DISK_FULL, FaultKind.TLS],
    FaultKind.EXPIRED,
    *[msg.Pause(), msg.Requeue(reason="preempted")],
]
ENDS_OF_PUBLISHING = (ev.Completed, ev.Failed, ev.Restarted, ev.Canceled)


def digest(versions: set[int]) -> Checksum:
    """The digest of a content whose pieces are of these versions."""
    return Checksum("md5", f"{sum(1 << 8 * (v + 1) for v in versions):032x}")


@dataclass
class Server:
    version: int = 1
    pieces: int = 2
    told: bool = True
    strong: bool = True

    def generation(self) -> Generation:
        size = self.pieces * DEFAULT_PIECE if self.told else None
        return Generation(
            size=size, ranges=self.told, etag=f'"{self.version}"', strong=self.strong and self.told
        )


@dataclass
class Work:
    """An operation at work, with what it knows."""

    operation: object
    version: int
    pieces: int
    pinned: Generation | None
    flushed: set[int] = field(default_factory=set)
    proved: bool = False


def numbers(pieces: IntervalSet) -> set[int]:
    return {number for start, stop in pieces for number in range(start, stop)}


class Core(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.task: TaskState | None = None
        self.journal: list[tuple[str, int, bytes]] = []
        self.mailbox: list[msg.Message] = []
        self.sent: list[msg.Report] = []
        self.work: Work | None = None
        self.server = Server()
        self.part: dict[int, int] | None = None
        self.inode = 0
        self.target: dict[int, int] | None = None
        self.owes_publishing = False
        self.owes_discard = False
        self.missing: tuple[str, ...] = ()

    @initialize(
        paused=st.booleans(),
        retries=st.sampled_from([None, 0, 1, 3]),
        checksum=st.booleans(),
        asked=st.sampled_from([None, "md5"]),
        secret=st.booleans(),
        pieces=st.sampled_from([3, 2, 1, 0]),
        told=st.booleans(),
        strong=st.booleans(),
        head_start=st.integers(0, 7),
    )
    def create(self, paused, retries, checksum, asked, secret, pieces, told, strong, head_start):  # noqa: PLR0917  # drawn by name
        self.server = Server(1, pieces, told, strong)
        self.missing = ("header:cookie",) if secret else ()
        whole = str(digest({1} if pieces else set())) if checksum else None
        request = Download(
            "https://host.example/x",
            "/x",
            checksum=whole,
            digest=asked,
            retries=retries,
            needs=self.missing,
            piece_size=DEFAULT_PIECE,
        )
        self.deal(msg.Create(task=TaskId("T"), key="/x", request=request, paused=paused))
        for piece in range(head_start):
            self.go_on({piece % 3})

    # The journal

    def deal(self, message: msg.Message, roll: float = 0.5, keep: int | None = None) -> tuple[ev.Event, ...]:
        before = self.task
        decision = decide(before, message, Instant(at=0, roll=roll))
        assert not (decision.events and decision.refusal)
        for event in decision.events[:keep]:
            self.note(event)
            self.journal.append(codec.encode(event))
            self.task = evolve(self.task, event)
        if before is not None and before.state in ENDED:
            assert self.task.state is before.state
        if keep is None:
            self.check_failures(before, decision.events)
        return decision.events

    def note(self, event: ev.Event) -> None:
        if isinstance(event, ev.PublishIntended):
            self.owes_publishing = True
            self.check_verified(self.part)
        elif isinstance(event, ENDS_OF_PUBLISHING):
            self.owes_publishing = False
        elif isinstance(event, ev.Retried) and self.task.intent is not None:
            self.owes_publishing = True
        if isinstance(event, ev.Canceled):
            self.owes_discard = self.part is not None
        elif isinstance(event, ev.PartDiscarded):
            self.owes_discard = False
            assert event.published == (self.target is not None) or self.part is None
        elif isinstance(event, ev.Completed):
            self.check_verified(self.target)
            if self.task.request.digest:
                assert event.digests == (digest(set(self.target.values())),)

    def check_verified(self, content: dict[int, int] | None) -> None:
        assert content is not None
        grid = self.task.grid
        assert set(content) == set(range(grid.count))
        assert len(set(content.values())) <= 1, "pieces of two versions are mixed"
        assert DAMAGED not in content.values()
        if self.task.request.checksum:
            assert str(digest(set(content.values()))) == self.task.request.checksum
        elif self.task.generation.strong and content:
            assert {f'"{version}"' for version in content.values()} == {self.task.generation.etag}

    def check_failures(self, before: TaskState | None, events: tuple[ev.Event, ...]) -> None:
        """Every failure that will be tried again is followed by a delay that has an end."""
        for event in events:
            if isinstance(event, ev.AttemptFailed):
                assert self.task.wait is not None
                supply = self.task.wait.waiting_for is WaitingFor.SUPPLY
                assert supply or event.delay is not None or before.wait is not None
                assert supply or due(self.task, 0) is not None
                assert wanted(self.task).hold

    # Commands

    @rule(trigger=st.sampled_from([msg.Pause, msg.Resume, msg.Retry] * 3 + [msg.Cancel]))
    def command(self, trigger):
        self.deal(trigger())

    @precondition(lambda self: self.task.state in ACTIVE)
    @rule()
    def preempted(self):
        self.deal(msg.Requeue(reason="preempted"))

    @precondition(lambda self: wants_slot(self.task))
    @rule()
    def slot(self):
        self.deal(msg.Admit(missing=self.missing))

    @precondition(lambda self: not wants_slot(self.task))
    @rule()
    def a_slot_that_nobody_asked_for(self):
        assert self.deal(msg.Admit()) == ()

    @precondition(lambda self: self.missing and self.task.state not in ENDED)
    @rule()
    def supply(self):
        names, self.missing = self.missing, ()
        self.deal(msg.Supply(names=names))

    @precondition(lambda self: self.waits_for_time())
    @rule()
    def time_passes(self):
        wait = self.task.wait
        assert 0 <= wait.delay <= DAY_MS
        self.deal(msg.Wake(seq=wait.seq))
        assert self.task.wait is None

    def waits_for_time(self):
        return self.task.wait is not None and self.task.wait.delay is not None

    @precondition(lambda self: self.task.wait is not None)
    @rule(seq=st.integers(0, 30))
    def a_timer_of_another_wait(self, seq):
        if seq != self.task.wait.seq:
            assert self.deal(msg.Wake(seq=seq)) == ()

    # The world

    @rule(steps=st.integers(1, 8), pieces=st.lists(st.integers(0, 2), min_size=1))
    def all_goes_well(self, steps, pieces):
        for step in range(steps):
            self.go_on({pieces[step % len(pieces)]})

    @precondition(lambda self: self.task.generation is not None and self.task.state not in ENDED)
    @rule(pieces=st.integers(0, 3))
    def the_content_changes(self, pieces):
        self.the_content_changes_to(pieces)

    def the_content_changes_to(self, pieces):
        self.server.version += 1
        self.server.pieces = pieces

    @rule(data=st.data(), resume=st.booleans(), damage=st.sets(st.integers(0, 2), min_size=0, max_size=2))
    def crash(self, data, resume, damage):
        """Die, perhaps while the events of a message are being stored; then open the journal again."""
        if self.mailbox and data.draw(st.booleans(), "while storing"):
            self.deal(self.mailbox[0], keep=data.draw(st.integers(0, 3), "durable"))
        self.die(damage, resume=resume)

    def die(self, damage: set[int], *, resume: bool) -> None:
        self.mailbox.clear()
        self.work = None
        if self.part and not self.owes_publishing and self.task.intent is None:
            self.part |= dict.fromkeys(damage & set(self.part), DAMAGED)
        self.task = self.replayed()
        self.deal(msg.Recover(resume=resume))
        assert self.task.state not in ACTIVE

    @precondition(lambda self: self.mailbox)
    @rule(roll=st.floats(0, 1, exclude_max=True))
    def deliver(self, roll):
        self.deal(self.mailbox.pop(0), roll)

    @precondition(lambda self: self.stale())
    @rule(data=st.data())
    def a_report_of_an_old_run(self, data):
        assert self.deal(data.draw(st.sampled_from(self.stale()))) == ()

    def stale(self):
        now = (self.task.run, self.task.restarts)
        return [report for report in self.sent if (report.run, report.restarts) != now]

    # Operations

    @rule(story=st.lists(st.sampled_from(STORY), min_size=20, max_size=50), piece=st.integers(0, 2))
    def a_long_story(self, story, piece):
        """Many short steps at once: single rules seldom get far."""
        for step in story:
            piece = (piece + 1) % 3
            if step == "well":
                self.go_on({piece})
            elif step == "changes" and self.task.generation is not None:
                self.the_content_changes_to(piece)
            elif step == "crash":
                self.die({piece}, resume=piece > 0)
            elif step == "revive":
                self.revive()
            elif isinstance(step, FaultKind) and self.at_work() is not None:
                self.fail(self.work, [Fault(kind=step, detail="x", status=503)] * (1 + piece))
            elif step == "unheard" and self.at_work() is not None:
                self.act(self.work, {piece})
            elif step == "stale" and self.stale():
                assert self.deal(self.stale()[-1]) == ()
            elif isinstance(step, msg.Message):
                self.deal(step)
            self.check()

    def check(self) -> None:
        self.the_journal_gives_the_state()
        self.settling_is_never_forgotten()
        self.only_what_is_wanted_by_the_state_runs()
        self.the_budget_holds()
        self.what_is_proven_is_there()
        self.complete_is_verified()

    @precondition(lambda self: self.at_work() is not None)
    @rule(data=st.data())
    def the_operation_fails(self, data):
        """Perhaps with several requests at once; what was on its way is delivered later."""
        faults = st.builds(
            lambda kind, status, after: Fault(kind=kind, detail="x", status=status, retry_after=after),
            st.sampled_from(KINDS),
            st.sampled_from([503, 404]),
            st.sampled_from([None, 0, 5000]),
        )
        self.fail(self.work, data.draw(st.lists(faults, min_size=1, max_size=3), "faults"))

    @precondition(lambda self: self.at_work() is not None)
    @rule(pieces=st.lists(st.integers(0, 2), min_size=1, max_size=2))
    def the_operation_goes_on_before_it_is_heard(self, pieces):
        for piece in pieces:
            if self.work is not None:
                self.act(self.work, {piece})

    def at_work(self) -> Work | None:
        """The operation that runs: the reconciler in a few lines."""
        want = wanted(self.task)
        if want is None or (self.work is not None and self.work.operation != want.operation):
            self.work = None
        if self.work is None and want is not None and not want.hold and not self.mailbox:
            self.work = Work(want.operation, self.server.version, self.server.pieces, self.task.generation)
            if isinstance(want.operation, Fetch) and not self.task.stored:
                self.part = None  # flushed by an earlier run, and never heard of: a fetch begins with nothing
            elif isinstance(want.operation, Fetch):
                assert self.task.reusable, "another reply would add to bytes that have no strong validator"
        return self.work

    def tell(self, kind: type[msg.Report], **fields) -> None:
        operation = self.work.operation
        report = kind(run=operation.run, restarts=operation.restarts, **fields)
        self.mailbox.append(report)
        self.sent.append(report)

    def fail(self, work: Work, faults: list[Fault]) -> None:
        if isinstance(work.operation, Publish):
            if self.target is None:
                if faults[0].kind is FaultKind.LOCAL_REMOVED:
                    self.part = None
                self.mailbox.append(msg.PublishFailed(fault=faults[0]))
        elif isinstance(work.operation, Discard):
            self.mailbox.append(msg.DiscardFailed(fault=faults[0]))
        else:
            for fault in faults:
                self.tell(msg.Faulted, fault=fault)
        self.work = None

    def act(self, work: Work, pieces: set[int]) -> None:
        if isinstance(work.operation, Fetch):
            self.fetch(work, pieces)
            return
        if isinstance(work.operation, Verify):
            versions = set(self.part.values()) if DAMAGED not in self.part.values() else {5, 6}
            asked = self.task.request.checksum or self.task.request.digest
            self.tell(msg.Digested, digests=(digest(versions),) if asked else ())
        elif isinstance(work.operation, Publish) and self.part is None and self.target is None:
            self.fail(work, [Fault(kind=FaultKind.LOCAL_REMOVED, detail="x")])
        elif isinstance(work.operation, Publish):
            self.target = dict(self.part) if self.target is None else self.target
            self.mailbox.append(msg.Published())
        else:
            self.part = None
            self.mailbox.append(msg.Discarded(published=self.target is not None))
        self.work = None

    def fetch(self, work: Work, pieces: set[int]) -> None:
        """One step of a fetch: the head of a reply, a proof of old pieces, or a flush of new ones."""
        server = self.server
        if work.pinned is None:
            work.version, work.pieces, work.pinned = server.version, server.pieces, server.generation()
            self.part, self.inode = {}, self.inode + 1
            if 2 in pieces and work.pinned.size is not None:  # it is small, and comes whole with the head
                work.flushed = set(range(work.pieces))
                self.part = dict.fromkeys(work.flushed, work.version)
                self.flush(work.flushed, None, msg.Brought, generation=work.pinned)
            else:
                self.tell(msg.Probed, generation=work.pinned)
            return
        if self.task.unproven and not work.proved:
            work.proved = True
            self.prove()
            return
        if self.changed(work):
            self.fail(work, [Fault(kind=FaultKind.CHANGED, detail="x")])
            return
        if self.task.state is State.PREPARING and not self.mailbox:
            self.tell(msg.Probed, generation=work.pinned)
        # Of a known size there are so many, also where the server had fewer when this work began.
        count = work.pieces if work.pinned.size is None else work.pinned.size // DEFAULT_PIECE
        missing = set(range(count)) - numbers(self.task.stored) - work.flushed
        version = server.version if self.in_parts(work) else work.version
        got = (missing & pieces) or missing
        if self.part is None:
            self.part, self.inode = {}, self.inode + 1
        self.part |= dict.fromkeys(got, version)
        work.flushed |= got
        last = missing == got and work.pinned.size is None
        self.flush(got, count * DEFAULT_PIECE if last else None)

    def prove(self) -> None:
        pinned = self.task.generation
        right = {self.digest_of(piece) for piece in numbers(self.task.unproven)} - {None}
        kept = tuple((p, p + 1) for p in sorted(numbers(self.task.unproven)) if self.digest_of(p) is not None)
        lost = tuple((p, p + 1) for p in sorted(numbers(self.task.unproven)) if self.digest_of(p) is None)
        assert right or not kept
        assert pinned is not None
        self.tell(msg.Proved, kept=kept, lost=lost)

    def digest_of(self, piece: int) -> int | None:
        """The version of a piece on the disk; None for one that is damaged or gone."""
        version = (self.part or {}).get(piece, DAMAGED)
        return None if version == DAMAGED else version

    def changed(self, work: Work) -> bool:
        """Whether the server's next reply shows another generation than the pinned one: a strong validator
        always does, a weak one only by its size, and one long reply can't change."""
        if not self.in_parts(work):
            other_size = work.pinned.size not in (None, work.pieces * DEFAULT_PIECE)
            return other_size or (work.version != self.server.version and not work.flushed)
        now = self.server.generation()
        return now != work.pinned if work.pinned.strong else now.size != work.pinned.size

    def in_parts(self, work: Work) -> bool:
        """Whether it may send more than one request: otherwise all its bytes are of one reply."""
        return work.pinned.ranges and (work.pinned.strong or self.task.request.checksum is not None)

    def flush(self, pieces: set[int], size: int | None, kind: type[msg.Report] = msg.Flushed, **more) -> None:
        runs = tuple((piece, piece + 1) for piece in sorted(pieces))
        identity = FileIdentity(1, self.inode)
        self.tell(kind, pieces=runs, digests=bytes(32 * len(runs)), file=identity, size=size, **more)

    # What always holds

    def replayed(self) -> TaskState | None:
        return fold(codec.decode(*record) for record in self.journal)

    @invariant()
    def the_journal_gives_the_state(self):
        assert self.replayed() == self.task

    @invariant()
    def settling_is_never_forgotten(self):
        if self.task is None:
            return
        want = wanted(self.task)
        if self.owes_publishing:
            assert isinstance(want.operation, Publish)
        if self.owes_discard:
            assert isinstance(want.operation, Discard)
            assert self.task.open

    @invariant()
    def only_what_is_wanted_by_the_state_runs(self):
        if self.task is not None and self.task.state not in ACTIVE:
            want = wanted(self.task)
            assert want is None or want.settling

    @invariant()
    def the_budget_holds(self):
        if self.task is not None:
            retries = self.task.request.retries
            assert self.task.attempts <= (3 if retries is None else retries)

    @invariant()
    def what_is_proven_is_there(self):
        if self.task is not None and self.task.state in ACTIVE and not self.loss_is_on_its_way():
            proven = numbers(self.task.stored - self.task.unproven)
            assert proven == {p for p in proven if self.digest_of(p) is not None}

    def loss_is_on_its_way(self) -> bool:
        """Whether somebody has removed the part file, and that was seen but not dealt with yet."""
        failures = (each.fault for each in self.mailbox if isinstance(each, msg.PublishFailed))
        return any(fault.kind is FaultKind.LOCAL_REMOVED for fault in failures)

    @invariant()
    def complete_is_verified(self):
        if self.task is not None and self.task.state is State.COMPLETE:
            assert self.task.covered
            assert self.task.phase is Phase.DONE
            self.check_verified(self.target)

    def teardown(self):
        """In a world without faults every task comes to its end, from wherever it is."""
        if self.task is None:
            return
        if self.server.version != 1 and self.task.request.checksum:
            whole = int(self.task.request.checksum[4:], 16)
            self.server.version, self.server.pieces = 1, max(self.server.pieces, 1) if whole else 0
        for _ in range(ENOUGH_STEPS):
            if self.task.state in ENDED and wanted(self.task) is None:
                return
            if not self.go_on({0, 1, 2}):
                self.revive()
        raise AssertionError(f"stuck: {self.task}")

    def revive(self) -> None:
        """What a patient user does."""
        if self.task.wait is not None and self.task.wait.waiting_for is WaitingFor.SUPPLY:
            self.supply()
        elif self.task.state is State.PAUSED:
            self.deal(msg.Resume())
        elif self.task.state is State.FAILED:
            self.deal(msg.Retry())

    def go_on(self, pieces: set[int]) -> bool:
        """One step of a world without faults; False when there is none."""
        if self.mailbox:
            self.deal(self.mailbox.pop(0))
        elif self.waits_for_time():
            self.time_passes()
        elif (work := self.at_work()) is not None:
            self.act(work, pieces)
        elif wants_slot(self.task):
            self.slot()
        else:
            return False
        return True


Core.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=6,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
test_core_in_any_order = Core.TestCase


@pytest.mark.parametrize("seed", range(300))
def test_a_random_walk(seed):
    """The same world, walked far: Hypothesis shrinks well and likes short stories."""
    dice = random.Random(seed)
    core = Core()
    core.create(
        paused=dice.random() < 0.1,
        retries=dice.choice([None, 0, 1, 3]),
        checksum=dice.random() < 0.3,
        secret=dice.random() < 0.2,
        pieces=dice.choice([3, 3, 2, 1, 0]),
        told=dice.random() < 0.8,
        strong=dice.random() < 0.6,
        head_start=0,
        asked=dice.choice([None, None, "md5"]),
    )
    core.a_long_story(dice.choices(STORY, k=80), dice.randrange(3))
    core.teardown()
    core.check()
