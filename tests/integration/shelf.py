"""A server in this process, and the protocol that talks to it: tests say what it does wrong, and when."""

import hashlib
from collections import defaultdict

import anyio

from meowcat import ProtocolSpec
from meowcat.core.sessions import Capabilities, Held, Receipt, Session
from meowcat.core.values import Fault, FaultKind
from meowcat.protocols.contract import Orphan, Outcome, Prepared, Reconciled, UploadProtocol
from meowcat.protocols.refused import Refused

SHELVES = {}
"""By host: a protocol object has nothing but its job."""


class Shelf:
    """Keeps sessions and objects. `fail` has, by method, faults that are raised in turn; None lets one pass.
    A fault in `fail` comes before anything is done, one in `lose` after it."""

    def __init__(self, name="shelf.example", **able):
        SHELVES[name] = self
        self.url = f"http://{name}/object"
        self.able = Capabilities(**{"part_checksum": None} | able)
        self.sessions = {}
        self.objects = {}
        self.calls = []
        self.made = []
        """Whose task's each object was that was made, in order."""
        self.kept = []
        """The parts that came in full, in order."""
        self.fail = defaultdict(list)
        self.lose = defaultdict(list)
        self.forgetful = False
        """Keeps of each part its first byte alone."""
        self.gates = {}
        """By method: an event that it waits for, once it has begun …"""
        self.passed = defaultdict(int)
        """… from the call behind so many on."""
        self.begun = defaultdict(anyio.Event)
        self.meanwhile = defaultdict(list)
        """By method: functions that are called in turn, each while one call is under way."""

    def sent(self):
        return self.kept

    def count(self, method):
        return sum(name == method for name, _ in self.calls)

    async def step(self, method, detail, act):
        self.calls.append((method, detail))
        self.begun[method].set()
        if self.meanwhile[method]:
            self.meanwhile[method].pop(0)()
        if method in self.gates and self.count(method) > self.passed[method]:
            await self.gates[method].wait()
        else:
            await anyio.lowlevel.checkpoint()
        if self.fail[method] and (fault := self.fail[method].pop(0)) is not None:
            raise Refused(fault)
        done = act()
        if self.lose[method] and (fault := self.lose[method].pop(0)) is not None:
            raise Refused(fault)
        return done


def fault(kind=FaultKind.DISCONNECTED, **fields):
    return Fault(kind=kind, detail="as the test wants it", **fields)


class ShelfProtocol(UploadProtocol):
    tag = "shelf"

    def __init__(self, job, tools):
        super().__init__(job, tools)
        self.shelf = SHELVES[job.url.split("/")[2]]

    def capabilities(self):
        return self.shelf.able

    async def prepare(self, session):
        return await self.shelf.step(
            "prepare" if session else "create", session and session.id, lambda: self._prepare(session)
        )

    def _prepare(self, session):
        shelf = self.shelf
        if session is None:
            name = f"s{len(shelf.sessions) + 1}"
            shelf.sessions[name] = {}
            return Prepared(session=Session(id=name, capabilities=shelf.able))
        if session.id not in shelf.sessions:
            raise Refused(fault(FaultKind.SESSION_LOST))
        held = {
            index: Held(size=len(data), receipt=Receipt(text=_etag(data)), md5=_etag(data))
            for index, data in shelf.sessions[session.id].items()
        }
        return Prepared(session=session, held=held if shelf.able.lists_parts else {})

    async def send_part(self, session, part):
        data = b"".join([chunk async for chunk in part.body()])
        assert len(data) == part.size

        def keep():
            if session.id not in self.shelf.sessions:
                raise Refused(fault(FaultKind.SESSION_LOST))
            self.shelf.sessions[session.id][part.index] = data[:1] if self.shelf.forgetful else data
            self.shelf.kept.append(part.index)
            return Receipt(text=_etag(data[:1] if self.shelf.forgetful else data))

        return await self.shelf.step("send_part", part.index, keep)

    async def commit(self, session, receipts, last):
        data = None if last is None else b"".join([chunk async for chunk in last.body()])

        def make():
            parts = dict(self.shelf.sessions.pop(session.id))
            if last is not None:
                parts[last.index] = data
            assert {index: _etag(parts[index]) for index in receipts} == {
                index: receipt.text for index, receipt in receipts.items()
            }
            whole = b"".join(parts[index] for index in sorted(parts))
            self.shelf.objects[self.job.url] = (whole, self.job.task)
            self.shelf.made.append(self.job.task)
            return {"etag": _etag(whole)}

        return await self.shelf.step("commit", session.id, make)

    async def reconcile(self, session):
        return await self.shelf.step("reconcile", session.id, lambda: self._reconcile(session))

    def _reconcile(self, session):
        whole, task = self.shelf.objects.get(self.job.url, (b"", ""))
        if task == self.job.task:
            return Reconciled(outcome=Outcome.COMMITTED, result={"etag": _etag(whole)})
        there = session.id in self.shelf.sessions
        return Reconciled(outcome=Outcome.NOT_COMMITTED if there else Outcome.LOST)

    async def orphans(self):
        return [Orphan(id=name) for name in self.shelf.sessions]

    async def abort(self, session):
        await self.shelf.step("abort", session.id, lambda: self.shelf.sessions.pop(session.id, None))


def _etag(data):
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def spec(**fields):
    return ProtocolSpec("shelf", 1, fields)
