"""Uploads in a truthful world: any order of commands, reports, lost replies, crashes and changes.

The server and the source below know what is really there; operations do what the engine's do and report
nothing else. A crash keeps any prefix of the events that were just made, and loses all messages and all that
was on its way.
"""

import random
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from meowcat.core import events as ev
from meowcat.core import messages as msg
from meowcat.core.decide import decide
from meowcat.core.machine import ACTIVE, ENDED, State
from meowcat.core.pieces import IntervalSet
from meowcat.core.retry import DAY_MS
from meowcat.core.sessions import Capabilities, Receipt, Session
from meowcat.core.state import Phase, TaskState, evolve, fold
from meowcat.core.transfers import ProtocolSpec, Upload
from meowcat.core.values import Fault, FaultKind, Instant, SourceIdentity, TaskId
from meowcat.core.waits import WaitingFor
from meowcat.core.wanted import Abort, Commit, Send, due, wanted, wants_slot
from meowcat.journal import codec

PART = 8 << 20
ENOUGH_STEPS = 300
GOING = ACTIVE | {State.QUEUED}
LOST_REPLIES = [FaultKind.DISCONNECTED, FaultKind.TIMEOUT, FaultKind.UNREACHABLE, FaultKind.INTERNAL]
"""What a request can end with although the server has done what it asked for."""
BYTE_FAULTS = [
    *(FaultKind.STATUS, FaultKind.DISCONNECTED, FaultKind.UNREACHABLE, FaultKind.TLS, FaultKind.EXPIRED),
    *(FaultKind.SESSION_LOST, FaultKind.SOURCE_CHANGED, FaultKind.CHANGED, FaultKind.CREDENTIAL),
    *(FaultKind.CHECKSUM, FaultKind.LOCAL_REMOVED),
]
REFUSALS = [FaultKind.STATUS, FaultKind.UNREACHABLE, FaultKind.EXPIRED, FaultKind.CREDENTIAL, FaultKind.TLS]
STORY = [
    *["well"] * 16,
    *["unheard"] * 3,
    *["revive"] * 4,
    *["lost reply", "lost reply", "fails", "fails", "crash", "crash", "torn"],
    *["changes", "reverts", "touched", "forgets", "loses a part", "stale", "slot"],
    *[msg.Pause(), msg.Requeue(reason="preempted"), msg.Reap()],
]


def numbers(pieces: IntervalSet) -> set[int]:
    return {number for start, stop in pieces for number in range(start, stop)}


def runs(parts: set[int]) -> tuple[tuple[int, int], ...]:
    return tuple((part, part + 1) for part in sorted(parts))


def fault(kind: FaultKind, status: int = 503) -> Fault:
    return Fault(kind=kind, detail="x", status=status)


@dataclass
class Source:
    """A file: its bytes are known by their version, and every touch gives it another inode."""

    version: int = 1
    newest: int = 1
    inode: int = 1
    parts: dict[int, int] = field(default_factory=dict)
    """How many parts each version has."""

    @property
    def size(self) -> int:
        return self.parts[self.version] * PART

    def identity(self) -> SourceIdentity:
        return SourceIdentity(size=self.size, inode=self.inode)


@dataclass
class Server:
    """Sessions with the version of each part's bytes, and the objects that were made of them."""

    able: Capabilities
    by_content: bool
    """Whether a session is named by its content, as the MD5 of a form does: the same one comes again."""
    sessions: dict[str, dict[int, int]] = field(default_factory=dict)
    committed: dict[str, set[int]] = field(default_factory=dict)
    objects: list[set[int]] = field(default_factory=list)
    serial: int = 0

    def create(self, version: int) -> str:
        if not self.able.session:
            return ""
        self.serial += 1
        name = f"content-{version}" if self.by_content else f"session-{self.serial}"
        if name not in self.committed:
            self.sessions.setdefault(name, {})
        return name

    def commit(self, name: str, versions: set[int]) -> None:
        assert name not in self.committed, "a commit was repeated blindly"
        if self.by_content:
            assert {f"content-{version}" for version in versions} <= {name}, "committed as another content"
        self.sessions.pop(name, None)
        self.committed[name] = versions
        self.objects.append(versions)


@dataclass
class Work:
    """An operation at work, with what it knows."""

    operation: object
    version: int | None = None
    """Of the source's bytes, once it was looked at."""
    asked: list[msg.Message] = field(default_factory=list)
    """What a request that was sent will report: it is seen through, whatever is wanted meanwhile."""
    opening: bool = False
    stopped: bool = False
    listed: bool = False
    sent: set[int] = field(default_factory=set)
    ready: bool = False


class Uploads(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.task: TaskState | None = None
        self.journal: list[tuple[str, int, bytes]] = []
        self.mailbox: list[msg.Message] = []
        self.told: list[msg.Report] = []
        self.work: Work | None = None
        self.source = Source()
        self.server = Server(Capabilities(), by_content=False)
        self.pins: dict[int, int] = {}
        """The version of the bytes that each inode had when it was pinned."""
        self.content: int | None = None
        """The version that was pinned last, until a user asked for a retry."""
        self.digests: dict[int, int] = {}
        """Of the parts that the journal says the session has: the version of the bytes that went."""
        self.owed: set[str] = set()
        """Sessions that the journal knows, and that nobody has dealt with."""
        self.given_up: set[str] = set()
        self.in_vain = 0
        """Objects of commits that were given up: nobody could find out about them."""
        self.dice = random.Random(0)

    @initialize(
        paused=st.booleans(),
        retries=st.sampled_from([None, 0, 1]),
        prepare_retries=st.sampled_from([None, 0, 1]),
        parts=st.sampled_from([3, 2, 1, 0]),
        protocol=st.sampled_from(["sessions", "by content", "last part", "put"]),
        head_start=st.integers(0, 12),
        seed=st.integers(0, 1000),
    )
    def create(self, paused, retries, prepare_retries, parts, protocol, head_start, seed):  # drawn by name
        self.dice = random.Random(seed)
        self.source.parts[1] = parts
        last = protocol in ("last part", "put")
        self.server = Server(
            Capabilities(commits_with_last_part=last, session=protocol != "put"),
            by_content=protocol == "by content",
        )
        request = Upload(
            "/x",
            "https://host.example/x",
            ProtocolSpec("scripted"),
            retries=retries,
            prepare_retries=prepare_retries,
        )
        self.deal(msg.Create(task=TaskId("T"), key="/x", request=request, paused=paused))
        for _ in range(head_start):
            self.go_on()

    # The journal

    def deal(self, message: msg.Message, keep: int | None = None) -> tuple[ev.Event, ...]:
        before = self.task
        decision = decide(before, message, Instant(at=0, roll=self.dice.random()))
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
        """See that an event tells the truth, and keep what the journal knows now."""
        noted = self.NOTES.get(type(event))
        if noted is not None:
            noted(self, event)

    def note_pin(self, event: ev.SourcePinned) -> None:
        version = self.pins[event.source.inode]
        assert self.content in (None, version), "another content was taken without a word"
        self.content = version

    def note_retry(self, _: ev.Retried) -> None:
        if self.task.source is None:
            self.content = None

    def note_session(self, event: ev.SessionOpened) -> None:
        self.owed.add(event.session.id)
        self.given_up.discard(event.session.id)
        if not event.session.id:  # what has no name is another one each time
            self.server.committed.clear()
        self.digests = dict.fromkeys(numbers(IntervalSet.of(*event.held)), self.pinned() or 0)

    def note_sent(self, event: ev.Sent) -> None:
        parts = sorted(numbers(IntervalSet.of(*event.pieces)))
        self.digests |= dict(zip(parts, event.digests, strict=True))

    def note_proof(self, event: ev.Rechecked) -> None:
        for part in numbers(IntervalSet.of(*event.lost)):
            self.digests.pop(part, None)

    def note_drop(self, event: ev.SessionDropped) -> None:
        session = self.task.session
        if not event.abort and session is not None:
            assert session.id not in self.server.sessions, "a session that stands is taken for gone"
            self.owed.discard(session.id)
        self.digests = {}

    def note_again(self, event: ev.SessionCondemned) -> None:
        self.owed.add(event.session)
        self.given_up.discard(event.session)

    def note_cancel(self, _: ev.Canceled) -> None:
        session = self.task.session
        if session is not None and not session.capabilities.session and self.task.intent is None:
            self.owed.discard(session.id)  # there is nothing to remove

    def note_completion(self, _: ev.Completed) -> None:
        session = self.task.session.id
        self.owed.discard(session)
        assert self.server.committed[session] <= {self.pinned()}, "Complete, of another content"

    def check_aborted(self, event: ev.SessionAborted) -> None:
        committed = event.session in self.server.committed
        self.owed.discard(event.session)
        if event.gone:
            assert event.committed == committed, "what became of the object is not what is recorded"
            assert event.session not in self.server.sessions, "a session that stands is recorded as gone"
        else:
            self.given_up.add(event.session)
            self.in_vain += committed

    NOTES: ClassVar = {
        ev.SourcePinned: note_pin,
        ev.Retried: note_retry,
        ev.SessionOpened: note_session,
        ev.Sent: note_sent,
        ev.Rechecked: note_proof,
        ev.SessionDropped: note_drop,
        ev.SessionAborted: check_aborted,
        ev.SessionCondemned: note_again,
        ev.Canceled: note_cancel,
        ev.Completed: note_completion,
    }

    def check_failures(self, before: TaskState | None, events: tuple[ev.Event, ...]) -> None:
        """Whatever will be tried again is followed by a delay that has an end, or waits for a supply."""
        for event in events:
            if isinstance(event, ev.AttemptFailed):
                assert self.task.wait is not None
                assert due(self.task, 0) is not None or self.task.wait.waiting_for is WaitingFor.SUPPLY
                want = wanted(self.task)
                assert want is None or want.hold
        if before is not None and before.opening and not self.task.opening:
            assert any(isinstance(each, ev.SessionOpened | ev.SessionUnopened) for each in events)

    def pinned(self) -> int | None:
        return None if self.task.source is None else self.pins[self.task.source.inode]

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
        self.deal(msg.Admit())

    @precondition(lambda self: not wants_slot(self.task))
    @rule()
    def a_slot_that_nobody_asked_for(self):
        assert self.deal(msg.Admit()) == ()

    @precondition(lambda self: self.task.open)
    @rule()
    def supply(self):
        self.deal(msg.Supply(names=("plan",)))
        if self.work is not None:
            self.work.stopped = True  # begins again with what was supplied

    @precondition(lambda self: self.waits_for_time())
    @rule()
    def time_passes(self):
        wait = self.task.wait
        assert 0 <= wait.delay <= DAY_MS
        self.deal(msg.Wake(seq=wait.seq))
        assert self.task.wait is None

    def waits_for_time(self):
        return self.task.wait is not None and self.task.wait.delay is not None

    # The world

    @rule(steps=st.integers(1, 10))
    def all_goes_well(self, steps):
        for _ in range(steps):
            self.go_on()

    @rule(parts=st.integers(0, 3))
    def the_source_changes(self, parts):
        source = self.source
        source.newest += 1
        source.version = source.newest
        source.parts[source.version] = parts
        source.inode += 1

    @rule(version=st.integers(1, 3))
    def the_source_is_what_it_was_before(self, version):
        self.source.version = min(version, self.source.newest)
        self.source.inode += 1

    @rule()
    def the_source_is_touched(self):
        self.source.inode += 1

    @precondition(lambda self: self.server.sessions)
    @rule()
    def the_server_forgets_a_session(self):
        self.server.sessions.pop(self.dice.choice(sorted(self.server.sessions)))

    @precondition(lambda self: any(self.server.sessions.values()))
    @rule()
    def the_server_loses_a_part(self):
        session = self.dice.choice([each for each in self.server.sessions.values() if each])
        del session[self.dice.choice(sorted(session))]

    @rule(resume=st.booleans(), durable=st.integers(0, 3), storing=st.booleans())
    def crash(self, resume, durable, storing):
        """Die, perhaps while the events of a message are being stored; then open the journal again."""
        if storing and self.mailbox:
            self.deal(self.mailbox[0], keep=durable)
        self.mailbox.clear()
        self.work = None
        self.task = self.replayed()
        self.deal(msg.Recover(resume=resume), keep=durable if self.dice.random() < 0.2 else None)
        self.deal(msg.Recover(resume=resume))
        assert self.task.state not in ACTIVE
        assert not self.task.opening

    @precondition(lambda self: self.mailbox)
    @rule()
    def deliver(self):
        self.deal(self.mailbox.pop(0))

    @precondition(lambda self: self.stale())
    @rule()
    def a_report_of_an_old_run(self):
        assert self.deal(self.dice.choice(self.stale())) == ()

    def stale(self):
        now = (self.task.run, self.task.restarts)
        return [report for report in self.told if (report.run, report.restarts) != now]

    # Operations

    @rule(story=st.lists(st.sampled_from(STORY), min_size=20, max_size=60))
    def a_long_story(self, story):
        """Many short steps at once: single rules seldom get far."""
        for step in story:
            self.take(step)
            self.check()

    def take(self, step: str | msg.Message) -> None:
        if isinstance(step, msg.Message):
            self.deal(step)
        elif step in self.WORLD:
            if self.dice.random() < 0.4:  # else no upload would ever get far
                self.WORLD[step](self, self.dice)
        else:
            self.STEPS[step](self, self.dice)

    STEPS: ClassVar = {
        "well": lambda self, _: self.go_on(),
        "unheard": lambda self, _: self.act_unheard(),
        "revive": lambda self, _: self.revive(),
        "lost reply": lambda self, _: self.a_reply_is_lost(),
        "fails": lambda self, _: self.an_operation_fails(),
        "crash": lambda self, dice: self.crash(dice.random() < 0.7, 0, storing=False),
        "torn": lambda self, dice: self.crash(dice.random() < 0.7, dice.randrange(3), storing=True),
        "stale": lambda self, _: self.stale() and self.a_report_of_an_old_run(),
        "slot": lambda self, _: wants_slot(self.task) or self.a_slot_that_nobody_asked_for(),
    }
    WORLD: ClassVar = {
        "changes": lambda self, dice: self.the_source_changes(dice.randrange(4)),
        "reverts": lambda self, dice: self.the_source_is_what_it_was_before(dice.randrange(1, 4)),
        "touched": lambda self, _: self.the_source_is_touched(),
        "forgets": lambda self, _: self.server.sessions and self.the_server_forgets_a_session(),
        "loses a part": lambda self, _: any(self.server.sessions.values()) and self.the_server_loses_a_part(),
    }

    @rule()
    def act_unheard(self):
        """The operation goes on before what it reported is heard."""
        if self.at_work() is not None:
            self.act(self.work)

    @rule()
    def a_reply_is_lost(self):
        """The server has done it, or the request never came; which of them nobody knows."""
        work = self.at_work()
        if work is None:
            return
        if not work.asked:
            self.act(work, arrives=self.dice.random() < 0.7)
        if work.asked and self.work is work:
            kind = self.dice.choice(LOST_REPLIES)
            work.asked = [self.unheard(work, fault(kind))]

    def unheard(self, work: Work, why: Fault) -> msg.Message:
        if isinstance(work.operation, Commit):
            return msg.CommitFailed(fault=why)
        if isinstance(work.operation, Abort):
            return msg.AbortFailed(session=work.operation.session, fault=why)
        return msg.Unopened(fault=why, lost=True)

    @rule()
    def an_operation_fails(self):
        """The server says no, or it is not reached: nothing was done."""
        work = self.at_work()
        if work is None or work.asked:
            return
        if isinstance(work.operation, Send):
            self.fail_sending(work)
        elif isinstance(work.operation, Commit):
            self.fail_commit()
        else:
            self.fail_abort(work.operation.session)

    def fail_sending(self, work: Work) -> None:
        kind = self.dice.choice(BYTE_FAULTS)
        if work.opening:
            if kind is FaultKind.SOURCE_CHANGED and self.task.opening:
                self.act(work)  # seen while the request is on its way
                self.tell(msg.Faulted, fault=fault(kind))
            elif kind is not FaultKind.SESSION_LOST:
                self.mailbox.append(msg.Unopened(fault=fault(kind)))
                self.work = None
            return
        if kind is FaultKind.SESSION_LOST:
            if self.task.session is None or not self.server.able.session:
                return
            self.server.sessions.pop(self.task.session.id, None)
        for _ in range(self.dice.randrange(1, 3)):
            self.tell(msg.Faulted, fault=fault(kind))
        self.work = None

    def fail_commit(self) -> None:
        session = self.task.session.id
        kinds = list(REFUSALS)
        if session not in self.server.committed:
            kinds += [FaultKind.CHECKSUM, FaultKind.SOURCE_CHANGED]
        kind = self.dice.choice(kinds)
        self.mailbox.append(msg.CommitFailed(fault=fault(kind, self.dice.choice([503, 403]))))
        self.work = None

    def fail_abort(self, session: str) -> None:
        kind = self.dice.choice([*REFUSALS, FaultKind.SESSION_LOST])
        if kind is FaultKind.SESSION_LOST:
            if session in self.server.committed:
                return
            self.server.sessions.pop(session, None)
        why = fault(kind, self.dice.choice([503, 503, 403]))
        self.mailbox.append(msg.AbortFailed(session=session, fault=why))
        self.work = None

    def at_work(self) -> Work | None:
        """The operation that runs: the reconciler in a few lines."""
        want = wanted(self.task)
        work = self.work
        if work is not None and (want is None or work.operation != want.operation):
            work.stopped = True
        if work is not None and work.stopped and not work.asked:
            if work.opening:
                self.mailbox.append(msg.Unopened())  # it was about to ask, and did not
            self.work = None
        if self.work is None and want is not None and not want.hold and not self.mailbox:
            self.work = Work(want.operation)
        return self.work

    def tell(self, kind: type[msg.Report], **fields) -> None:
        operation = self.work.operation
        report = kind(run=operation.run, restarts=operation.restarts, **fields)
        self.mailbox.append(report)
        self.told.append(report)

    def act(self, work: Work, *, arrives: bool = True) -> None:
        """One step of an operation; a request and its reply are two."""
        if work.asked:
            self.reply(work)
        elif isinstance(work.operation, Send):
            self.send(work, arrives)
        elif isinstance(work.operation, Commit):
            self.commit(work, arrives)
        else:
            self.abort(work, arrives)

    def reply(self, work: Work) -> None:
        self.mailbox += work.asked
        goes_on = isinstance(work.asked[-1], msg.Opened) and not work.stopped
        work.asked, work.opening, work.listed = [], False, True
        if not goes_on or work.ready:
            self.work = None

    def send(self, work: Work, arrives: bool) -> None:
        if work.version is None:
            self.look(work)
        elif self.task.session is None:
            if not work.listed:  # else its reply came, and was not heard yet
                self.open(work, arrives)
        elif not work.listed:
            self.ask_what_is_there(work)
        elif not self.mailbox or not work.ready:
            self.send_part(work)

    def look(self, work: Work) -> None:
        """At the source: is it what was pinned, or has it at least the same bytes?"""
        source, task = self.source, self.task
        if task.source is not None and task.source != source.identity():
            changed = self.pinned() != source.version
            if changed or any(version != source.version for version in self.digests.values()):
                self.tell(msg.Faulted, fault=fault(FaultKind.SOURCE_CHANGED))
                self.work = None
                return
        if task.source != source.identity():
            self.tell(msg.Pinned, source=source.identity(), digests=())
            self.pins[source.inode] = source.version
        work.version = source.version

    def open(self, work: Work, arrives: bool) -> None:
        if self.server.able.session and not self.task.opening:
            if not work.opening:
                work.opening = True
                self.tell(msg.Opening)
            return
        if self.task.generation is None:
            return  # what the source is was not heard yet
        name = self.server.create(work.version) if arrives else ""
        if name in self.server.committed:
            work.ready = True
            result = {"etag": "x"}
        else:
            result = None
        there = self.server.sessions.get(name, {})
        work.asked = [
            msg.Opened(
                session=Session(id=name, capabilities=self.server.able),
                piece_size=PART if self.server.able.session else max(self.task.generation.size, 1),
                held=runs({part for part, version in there.items() if version == work.version}),
                result=result,
            )
        ]

    def ask_what_is_there(self, work: Work) -> None:
        session = self.task.session
        work.listed = True
        if not self.server.able.session:
            self.tell(msg.Proved, kept=(), lost=())
            return
        there = self.server.sessions.get(session.id)
        if there is None:
            self.tell(msg.Faulted, fault=fault(FaultKind.SESSION_LOST))
            self.work = None
            return
        known = numbers(self.task.stored)
        self.tell(msg.Proved, kept=runs(known & set(there)), lost=runs(known - set(there)))
        found = {part for part, version in there.items() if version == work.version} - known
        work.sent |= found
        self.confirm(found, work.version)

    def confirm(self, parts: set[int], version: int) -> None:
        if parts:
            digests, receipts = bytes([version]) * len(parts), (Receipt(text="e"),) * len(parts)
            self.tell(msg.Confirmed, pieces=runs(parts), digests=digests, receipts=receipts)

    def send_part(self, work: Work) -> None:
        session = self.task.session.id
        missing = set(range(self.task.to_send)) - numbers(self.task.stored) - work.sent
        if not missing:
            if not self.mailbox:
                self.prove(work)
            return
        if session not in self.server.sessions and self.server.able.session:
            self.tell(msg.Faulted, fault=fault(FaultKind.SESSION_LOST))
            self.work = None
            return
        part = self.dice.choice(sorted(missing))
        assert part not in self.digests, "a part that the journal has is sent again"
        self.server.sessions[session][part] = self.source.version
        work.sent.add(part)
        self.confirm({part}, self.source.version)

    def prove(self, work: Work) -> None:
        """The source once more, when all is sent."""
        source, task = self.source, self.task
        if task.source != source.identity():
            sent = {*self.digests.values(), self.pinned()}
            if sent != {source.version}:
                self.tell(msg.Faulted, fault=fault(FaultKind.SOURCE_CHANGED))
                self.work = None
                return
            self.tell(msg.Pinned, source=source.identity(), digests=())
            self.pins[source.inode] = source.version
        self.tell(msg.Ready, digests=())
        work.ready = True

    def commit(self, work: Work, arrives: bool) -> None:
        task, server = self.task, self.server
        session = task.session.id
        if task.doubt and session in server.committed:
            work.asked, work.ready = [msg.Committed(result={"etag": "x"})], True
            return
        if server.able.session and session not in server.sessions and session not in server.committed:
            work.asked = [msg.CommitFailed(fault=fault(FaultKind.SESSION_LOST))]
            return
        there = dict(server.sessions.get(session, {}))
        if server.able.commits_with_last_part and task.grid.count:
            if self.source.version != self.pinned():
                work.asked = [msg.CommitFailed(fault=fault(FaultKind.SOURCE_CHANGED))]
                return
            there[task.grid.count - 1] = self.source.version
        if set(there) < set(range(task.grid.count)):  # a part was lost after it was proved
            work.asked = [msg.CommitFailed(fault=fault(FaultKind.CHECKSUM))]
            return
        if arrives:
            versions = {there[part] for part in range(task.grid.count)}
            assert versions <= {self.pinned()}, "an object of mixed generations"
            server.commit(session, versions)
        work.asked, work.ready = [msg.Committed(result={"etag": "x"})], True

    def abort(self, work: Work, arrives: bool) -> None:
        session = work.operation.session
        condemned = next(each for each in self.task.condemned if each.session.id == session)
        committed = condemned.doubt and session in self.server.committed
        assert committed or session not in self.server.committed, "aborted, and it was committed"
        if arrives and not committed:
            self.server.sessions.pop(session, None)
        work.asked = [msg.Aborted(session=session, committed=committed)]

    # What always holds

    def check(self) -> None:
        self.the_journal_gives_the_state()
        self.nothing_that_is_owed_is_forgotten()
        self.an_opening_always_has_an_end()
        self.only_what_is_wanted_by_the_state_runs()
        self.the_budget_holds()
        self.at_most_one_object_is_made()
        self.what_ended_left_nothing_behind()

    def replayed(self) -> TaskState | None:
        return fold(codec.decode(*record) for record in self.journal)

    @invariant()
    def the_journal_gives_the_state(self):
        assert self.replayed() == self.task

    @invariant()
    def nothing_that_is_owed_is_forgotten(self):
        """Every session that the journal knows is in use, or its removal is wanted, in whatever state."""
        if self.task is None:
            return
        task = self.task
        known = {each.session.id for each in task.condemned}
        if task.session is not None and task.state is not State.COMPLETE:
            known.add(task.session.id)
        assert {each for each in self.owed if each or not self.server.able.session} <= known | {""}
        if task.condemned:
            assert isinstance(wanted(task).operation, Abort)
            assert task.open
        elif task.intent is not None and task.state in GOING | {State.PAUSED}:
            assert isinstance(wanted(task).operation, Commit)

    @invariant()
    def an_opening_always_has_an_end(self):
        if self.task is not None and self.task.opening:
            ends = any(isinstance(each, msg.Opened | msg.Unopened) for each in self.mailbox)
            assert ends or (self.work is not None and isinstance(self.work.operation, Send))
            assert self.task.open

    @invariant()
    def only_what_is_wanted_by_the_state_runs(self):
        if self.task is not None and self.task.state not in ACTIVE:
            want = wanted(self.task)
            assert want is None or want.settling

    @invariant()
    def the_budget_holds(self):
        if self.task is not None and self.task.state in GOING:
            request = self.task.request
            budgets = [3 if each is None else each for each in (request.retries, request.prepare_retries)]
            assert self.task.attempts <= max(*budgets, 1)

    @invariant()
    def at_most_one_object_is_made(self):
        assert len(self.server.objects) <= 1 + self.in_vain
        assert all(len(versions) <= 1 for versions in self.server.objects)

    @invariant()
    def what_ended_left_nothing_behind(self):
        """But for sessions of which no reply came, and those that the server did not let go of."""
        task = self.task
        if task is None or task.state not in ENDED or wanted(task) is not None or task.opening:
            return
        assert task.phase is Phase.DONE
        assert not task.open
        if task.state is State.COMPLETE:
            assert task.covered
        left = set(self.server.sessions) - self.given_up
        assert len(left) <= task.lost, "a session is left behind that nobody counts"

    def teardown(self):
        """In a world without faults every upload comes to its end, from wherever it is."""
        if self.task is None:
            return
        for _ in range(ENOUGH_STEPS):
            if self.task.state in ENDED and wanted(self.task) is None and not self.task.opening:
                self.check()
                return
            if not self.go_on():
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

    def go_on(self) -> bool:
        """One step of a world without faults; False when there is none."""
        if self.mailbox:
            self.deliver()
        elif self.waits_for_time() and self.work is None:
            self.time_passes()
        elif (work := self.at_work()) is not None:
            self.act(work)
        elif self.mailbox:
            self.deliver()
        elif self.waits_for_time():
            self.time_passes()
        elif wants_slot(self.task):
            self.slot()
        else:
            return False
        return True


Uploads.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=8,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
test_uploads_in_any_order = Uploads.TestCase


@pytest.mark.parametrize("seed", range(400))
def test_a_random_walk(seed):
    """The same world, walked far: Hypothesis shrinks well and likes short stories."""
    dice = random.Random(seed)
    uploads = Uploads()
    uploads.create(
        paused=dice.random() < 0.1,
        retries=dice.choice([None, 0, 1]),
        prepare_retries=dice.choice([None, 0, 1]),
        parts=dice.choice([3, 3, 2, 1, 0]),
        protocol=dice.choice(["sessions", "by content", "last part", "put"]),
        head_start=0,
        seed=seed,
    )
    story = dice.choices(STORY, k=80)
    if dice.random() < 0.4:
        story.insert(dice.randrange(80), msg.Cancel())
    uploads.a_long_story(story)
    uploads.teardown()
