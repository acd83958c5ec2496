"""Folding records: what is damaged stays with its task."""

import anyio
import msgspec
import pytest

from journal_adapters.memory import MemoryJournal
from meowcat.core.errors import JournalError
from meowcat.core.events import Admitted, Canceled, Created
from meowcat.core.machine import State
from meowcat.core.state import evolve
from meowcat.core.transfers import Download
from meowcat.journal.chain import link
from meowcat.journal.codec import encode
from meowcat.journal.contract import GENESIS, Damage, Entry, Record
from meowcat.journal.replay import Fold, Quarantined, fold_all, fold_task, verify_chain
from meowcat.testing.journal_suite import OWNER


def events(task):
    request = Download("https://host.example/x", "/x")
    yield Created(state=State.QUEUED, task=task, key="/x", at=1, request=request)
    yield Admitted(state=State.PREPARING, run=1)
    yield Canceled(state=State.CANCELED)


def entries(task):
    for seq, event in enumerate(events(task), 1):
        tag, version, body = encode(event)
        yield Entry(task, seq, seq < 3, tag, version, 1, body)


@pytest.fixture
def journal():
    journal = MemoryJournal()
    journal.open(OWNER, "power")
    for trio_of_entries in zip(entries("a"), entries("b"), entries("c"), strict=True):
        journal.append(trio_of_entries)
    return journal


@pytest.fixture
def records(journal):
    return list(journal.scan(0, 100))


def change(records, index, **fields):
    records[index] = msgspec.structs.replace(records[index], **fields)


def test_a_task_is_the_fold_of_its_records(journal):
    task = fold_task("b", journal.read("b"), evolve)
    assert (task.id, task.state, task.seq, task.run) == ("b", State.CANCELED, 3, 1)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda records: records.pop(0), "record 2 stands where 1 is expected"),
        (lambda records: records.pop(1), "record 3 stands where 2 is expected"),
        (lambda records: records.insert(1, records[0]), "record 1 stands where 2 is expected"),
        (lambda records: change(records, 1, body=b"{}"), "can't be read"),
        (lambda records: change(records, 1, type="teleported"), "unknown event type"),
        (lambda records: change(records, 1, version=9), "knows up to"),
        (lambda records: change(records, 1, type="created", body=records[0].body), "created twice"),
        (lambda records: records.__setitem__(1, Damage("wrong CRC", 4, "b")), "wrong CRC"),
        (lambda records: records.__setitem__(1, Damage("unreadable")), "unreadable"),
        (lambda records: records.clear(), "no record"),
    ],
)
def test_records_that_do_not_add_up_quarantine_the_task(journal, harm, reason):
    harmed = list(journal.read("b"))
    harm(harmed)
    folded = fold_task("b", harmed, evolve)
    assert isinstance(folded, Quarantined)
    assert folded.task == "b"
    assert reason in folded.detail


def test_whatever_the_fold_raises_stays_with_the_task(journal):
    def broken(task, event):
        if task is not None and task.id == "b":
            raise ZeroDivisionError("on b")
        return evolve(task, event)

    fold = Fold(broken)
    fold.add(journal.scan(0, 100))
    assert set(fold.tasks) == {"a", "c"}
    assert set(fold.quarantined) == {"b"}
    assert "on b" in fold.quarantined["b"].detail


def test_a_quarantined_task_stays_out_and_keeps_its_first_reason(records):
    records[1] = Damage("wrong CRC", 2, "b")
    fold = Fold(evolve)
    for record in records:
        fold.add([record])
    assert set(fold.tasks) == {"a", "c"}
    assert fold.quarantined == {"b": Quarantined("b", "wrong CRC")}


def test_damage_without_a_task_is_kept_and_its_task_found_by_the_gap(records):
    records[4] = Damage("unreadable", 5)
    fold = Fold(evolve)
    fold.add(records)
    assert fold.damage == [Damage("unreadable", 5)]
    assert set(fold.quarantined) == {"b"}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_all_tasks_of_a_journal_are_folded_over_many_reads(backend):
    journal = MemoryJournal()
    journal.open(OWNER, "power")
    for number in range(1500):
        journal.append(list(entries(f"t{number}")))
    fold = anyio.run(fold_all, journal, evolve, backend=backend)
    assert len(fold.tasks) == 1500
    assert {task.seq for task in fold.tasks.values()} == {3}


def test_whose_damage_a_scan_can_not_say_the_journal_is_asked_for_each_task(journal, monkeypatch):
    scan, read = journal.scan, journal.read
    lost = {8: "b", 9: None}

    def scanned(after, limit):
        return [
            Damage("lost", each.position) if each.position in lost else each for each in scan(after, limit)
        ]

    def read_of(task, after=0):
        if task == "a":
            raise JournalError("it can't be read now")
        return [
            Damage("lost", each.position, lost[each.position]) if each.position in lost else each
            for each in read(task, after)
        ]

    monkeypatch.setattr(journal, "scan", scanned)
    monkeypatch.setattr(journal, "read", read_of)
    fold = anyio.run(fold_all, journal, evolve)
    assert fold.quarantined == {"b": Quarantined("b", "lost")}
    assert set(fold.tasks) == {"a", "c"}
    assert fold.damage == [Damage("lost", 9)]


def test_an_unbroken_chain_verifies_from_any_place(records):
    assert list(verify_chain(records)) == []
    assert list(verify_chain(records[4:], records[3].chain, 4)) == []


@pytest.mark.parametrize(
    ("harm", "positions"),
    [
        (lambda records: change(records, 3, body=b"{}"), [4]),
        (lambda records: change(records, 3, chain=bytes(32)), [4, 5]),
        (lambda records: change(records, 3, at="soon"), [4]),
        (lambda records: records.pop(3), [4, 5]),
        (lambda records: records.__setitem__(3, Damage("wrong CRC", 4)), [4]),
        (lambda records: change(records, 0, task="z"), [1]),
    ],
)
def test_whatever_does_not_follow_is_told(records, harm, positions):
    harm(records)
    found = {damage.position for damage in verify_chain(records)}
    assert found
    assert found <= set(positions)
    assert min(found) == positions[0]


def test_an_epoch_that_goes_back_is_told():
    one, two = entries("a"), entries("b")
    first, second = next(one), next(two)
    chain = link(GENESIS, first, 2, 1)
    forged = [
        Record(1, "a", 1, 2, True, first.type, first.version, 1, first.body, chain),
        Record(2, "b", 1, 1, True, second.type, second.version, 1, second.body, link(chain, second, 1, 2)),
    ]
    (damage,) = verify_chain(forged)
    assert "epoch 1 after 2" in damage.detail
