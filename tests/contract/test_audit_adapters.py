"""Signed histories on every adapter: what is added is proved, and what is done to what was signed is found.

The attacker here is the strongest one without the key: he has the file, and writes a journal of his own into
its place, by the adapter itself. So all his checksums are right, and his chain is whole.
"""

import shutil
import sqlite3

import msgspec
import pytest

from journal_adapters.jsonl import JSONLJournal
from journal_adapters.memory import MemoryJournal, Store
from journal_adapters.sqlite import SQLiteJournal
from meowcat.audit import Key, verify_checkpoint, verify_journal, verify_receipt
from meowcat.audit.checkpoints import parse_checkpoint
from meowcat.audit.log import BLOCK, HEAD_SNAPSHOT, TREE_SNAPSHOT, Log, Tree
from meowcat.core import events as ev
from meowcat.core.errors import AuditError
from meowcat.core.machine import State
from meowcat.core.transfers import Download
from meowcat.core.values import Checksum, TaskId
from meowcat.journal.codec import encode
from meowcat.journal.contract import CompactableJournal, Damage, Entry, Owner

OWNER = Owner(1, "test.example", "test")
KEY = Key.generate("example.com/log")
SHA = Checksum("sha256", "9f" * 32)


class Memory:
    """How a journal is made at a place, and how a bit of it is changed by an accident."""

    def place(self, tmp_path):
        return Store()

    def make(self, place):
        return MemoryJournal(store=place)

    def copy(self, place):
        return Store(
            list(place.records),
            {t: dict(s) for t, s in place.tasks.items()},
            {},
            dict(place.snapshots),
            place.epoch,
        )

    def flip(self, place, position):
        record, checksum = place.records[position - 1]
        body = bytes([record.body[0] ^ 1]) + record.body[1:]
        place.records[position - 1] = (msgspec.structs.replace(record, body=body), checksum)


class SQLite:
    def place(self, tmp_path):
        tmp_path.mkdir(exist_ok=True)
        return tmp_path / "journal.db"

    def make(self, place):
        return SQLiteJournal(place)

    def copy(self, place):
        return shutil.copy(place, place.with_name("copy.db"))

    def flip(self, place, position):
        connection = sqlite3.connect(place)
        (body,) = connection.execute("SELECT body FROM record WHERE position = ?", (position,)).fetchone()
        flipped = bytes([body[0] ^ 1]) + body[1:]
        connection.execute("UPDATE record SET body = ? WHERE position = ?", (flipped, position))
        connection.commit()
        connection.close()


class JSONL:
    def place(self, tmp_path):
        tmp_path.mkdir(exist_ok=True)
        return tmp_path / "journal.jsonl"

    def make(self, place):
        return JSONLJournal(place)

    def copy(self, place):
        return shutil.copytree(place, place.with_name("copy.jsonl"))

    def flip(self, place, position):
        (segment,) = place.glob("*.jsonl")
        content = bytearray(segment.read_bytes())
        body = content.index(b'"body":', content.index(b'{"position":%d,' % position)) + 8
        content[body] ^= 1
        segment.write_bytes(content)


ADAPTERS = [Memory, SQLite, JSONL]


@pytest.fixture(params=ADAPTERS, ids=lambda adapter: adapter.__name__)
def adapter(request):
    return request.param()


@pytest.fixture
def place(adapter, tmp_path):
    return adapter.place(tmp_path / "original")


def entry(task, seq, event):
    kind, version, body = encode(event)
    return Entry(TaskId(task), seq, event.state is not State.COMPLETE, kind, version, 1000 + seq, body)


def history(task, steps=3):
    """A transfer in `steps` records."""
    request = Download(f"https://host.example/{task}", f"/srv/{task}")
    yield entry(task, 1, ev.Created(state=State.QUEUED, task=task, key=request.to, at=1, request=request))
    for seq in range(2, steps):
        yield entry(task, seq, ev.Paused(state=State.PAUSED, reason=f"step {seq}"))
    done = ev.Completed(
        state=State.COMPLETE,
        path=request.to,
        size=7,
        digests=(SHA,),
        url=request.url,
        created=1,
        client_file_sign="row 7",
    )
    yield entry(task, steps, done)


def histories(count, steps=3):
    return [each for number in range(count) for each in history(f"task{number:04}", steps)]


def opened(adapter, place):
    journal = adapter.make(place)
    journal.open(OWNER, "process")
    return journal


def written(adapter, place, entries):
    journal = opened(adapter, place)
    for first in range(0, len(entries), 1000):
        journal.append(entries[first : first + 1000])
    return journal


def signed(log):
    text = log.sign()
    log.keep(text)
    log.export(text)
    return text


def refusal(call, *arguments):
    with pytest.raises(AuditError) as caught:
        call(*arguments)
    return str(caught.value)


def failures(verification):
    return {(each.what, each.source): each.detail for each in verification.checks if not each.proved}


# What is honest is proved


def test_a_history_is_proved_as_far_as_it_was_signed(adapter, place):
    journal = written(adapter, place, histories(4))
    assert not verify_journal(journal, KEY.vkey).proved
    text = signed(Log(journal, KEY))
    assert verify_checkpoint(text, KEY.vkey).size == 12
    journal.append(list(history("more")))
    found = verify_journal(journal, KEY.vkey, checkpoints=[("exported", text)])
    assert found.proved
    assert (found.records, found.covered) == (15, 12)
    assert [(each.what, each.source, each.size) for each in found.checks] == [
        ("records", "the journal", None),
        ("checkpoint", "the journal", 12),
        ("checkpoint", "exported", 12),
    ]
    journal.close()


def test_what_was_archived_stays_proved_and_signing_goes_on(adapter, place):
    journal = written(adapter, place, histories(4))
    if not isinstance(journal, CompactableJournal):
        pytest.skip("it does not archive")
    text = signed(Log(journal, KEY))
    assert journal.compact().records == 12
    journal.append(list(history("more")))
    log = Log(journal, KEY)
    newer = signed(log)
    assert verify_checkpoint(newer, KEY.vkey).size == 15
    for number in range(4):
        assert verify_receipt(log.receipt(f"task{number:04}", newer), KEY.vkey)
    journal.close()
    journal = opened(adapter, place)
    assert verify_journal(journal, KEY.vkey, checkpoints=[("old", text), ("new", newer)]).proved
    journal.close()


def test_the_tree_is_the_same_whatever_holds_the_records(tmp_path):
    texts = set()
    for number, adapter in enumerate(each() for each in ADAPTERS):
        journal = written(adapter, adapter.place(tmp_path / str(number)), histories(4))
        texts.add(signed(Log(journal, KEY)))
        journal.close()
    assert len(texts) == 1


def test_an_empty_journal_can_be_signed_and_gone_on_from(adapter, place):
    journal = opened(adapter, place)
    log = Log(journal, KEY)
    assert verify_checkpoint(signed(log), KEY.vkey).size == 0
    journal.append(histories(1))
    assert verify_checkpoint(signed(log), KEY.vkey).size == 3
    assert verify_checkpoint(signed(Log(journal, KEY)), KEY.vkey).size == 3
    journal.close()


def test_a_checkpoint_of_an_empty_journal_proves_none(adapter, place):
    journal = opened(adapter, place)
    empty = signed(Log(journal, KEY))
    journal.append(histories(1))
    found = verify_journal(journal, KEY.vkey)
    assert (found.proved, found.covered) == (False, 0)
    assert "nothing is covered" in found.checks[-1].detail
    signed(Log(journal, KEY))
    assert verify_journal(journal, KEY.vkey, checkpoints=[("kept", empty)]).proved
    journal.close()


def test_nothing_new_gives_the_checkpoint_that_is_there(adapter, place):
    journal = written(adapter, place, histories(1))
    first = signed(Log(journal, KEY))
    calls = []

    class Counting:
        vkey = KEY.vkey

        def sign(self, message):
            calls.append(message)
            return KEY.sign(message)

    assert signed(Log(journal, Counting())) == first
    assert calls == []
    journal.close()


def test_what_is_not_certainly_stored_yet_is_not_signed(adapter, place):
    journal = written(adapter, place, histories(2))
    assert parse_checkpoint(Log(journal, KEY).sign(4))[0].size == 4
    journal.close()


class Reading:
    """Counts the records that are read."""

    def __init__(self, journal):
        self._journal = journal
        self.records = 0

    def __getattr__(self, name):
        return getattr(self._journal, name)

    def scan(self, after, limit):
        found = self._journal.scan(after, limit)
        self.records += len(found)
        return found


def test_a_checkpoint_costs_what_is_new_and_a_receipt_two_blocks(adapter, place):
    journal = written(adapter, place, histories(3 * BLOCK))  # nine blocks
    signed(Log(journal, KEY))
    reading = Reading(journal)
    log = Log(reading, KEY)
    journal.append(list(history("more", 100)))
    text = signed(log)
    assert reading.records <= BLOCK + 100
    tree = Tree(journal)
    tree.grow(journal.last())
    assert parse_checkpoint(text)[0].root == tree.root(tree.size)
    before = reading.records
    journal.append(list(history("again", 10)))
    signed(log)
    assert reading.records == before + 10
    before = reading.records
    receipt = log.receipt(TaskId("task0000"), log.head)
    assert verify_receipt(receipt, KEY.vkey).task == "task0000"
    assert reading.records == before + BLOCK
    assert verify_journal(journal, KEY.vkey, receipts=[("r", receipt)]).proved
    journal.close()


def test_every_completed_task_has_a_receipt_and_no_other(adapter, place):
    journal = written(adapter, place, [*histories(5), *list(history("open"))[:2]])
    log = Log(journal, KEY)
    text = signed(log)
    for number in range(5):
        receipt = verify_receipt(log.receipt(TaskId(f"task{number:04}"), text), KEY.vkey)
        assert receipt.task == f"task{number:04}"
        assert receipt.url == f"https://host.example/task{number:04}"
        assert (receipt.size, receipt.digests) == (7, (SHA,))
        assert (receipt.created, receipt.completed, receipt.client_file_sign) == (1, 1003, "row 7")
        assert (receipt.origin, receipt.position) == ("example.com/log", number * 3 + 3)
    assert "is not Complete" in refusal(log.receipt, TaskId("open"), text)
    assert "no such task" in refusal(log.receipt, TaskId("none"), text)
    journal.close()


def test_a_checkpoint_that_is_too_old_for_a_task_is_not_taken_for_its_receipt(adapter, place):
    journal = written(adapter, place, histories(1))
    log = Log(journal, KEY)
    signed(log)
    assert log.covering(TaskId("task0000")) == log.head
    journal.append(list(history("later")))
    assert log.covering(TaskId("later")) is None
    journal.close()


# What is kept is advisory


@pytest.mark.parametrize("body", [b"", b"nonsense", b"x" * 32, b"x" * 96])
def test_kept_roots_are_never_trusted(adapter, place, body):
    journal = written(adapter, place, histories(2 * BLOCK // 3 + 10))
    text = signed(Log(journal, KEY))
    journal.put_snapshot(TREE_SNAPSHOT, len(body) // 32 * BLOCK, body)
    assert signed(Log(journal, KEY)) == text
    journal.append(list(history("more")))
    later = verify_checkpoint(signed(Log(journal, KEY)), KEY.vkey)
    tree = Tree(journal)
    tree.grow(journal.last())
    assert (later.size, later.root) == (tree.size, tree.root(tree.size))
    assert verify_journal(journal, KEY.vkey, checkpoints=[("old", text)]).proved
    journal.close()


def test_a_kept_checkpoint_that_is_none_stops_the_signing(adapter, place):
    journal = written(adapter, place, histories(1))
    journal.put_snapshot(HEAD_SNAPSHOT, 3, b"\xff nonsense")
    assert "the checkpoint that the journal keeps can't be read" in refusal(Log(journal, KEY).sign)
    assert not verify_journal(journal, KEY.vkey).proved
    journal.close()


# What is not honest is found


def changed_body(entries, at):
    """One digit of a reason, a digest or a time."""
    forged = (
        entries[at]
        .body.replace(b"9f9f", b"9f9e", 1)
        .replace(b"step 2", b"step 3", 1)
        .replace(b'"at":1', b'"at":2')
    )
    assert forged != entries[at].body
    entries[at] = msgspec.structs.replace(entries[at], body=forged)


def field(**fields):
    def change(entries, at):
        entries[at] = msgspec.structs.replace(entries[at], **fields)

    return change


def deleted(entries, at):
    """A record goes, and the rest of its task is renumbered."""
    task = entries.pop(at).task
    of_task = [number for number, each in enumerate(entries) if each.task == task]
    for seq, number in enumerate(of_task, 1):
        entries[number] = msgspec.structs.replace(entries[number], seq=seq)


def task_deleted(entries, at):
    entries[:] = [each for each in entries if each.task != entries[at].task]


def swapped(entries, at):
    """Two neighbours of different tasks change places: each task's own records stay in order."""
    borders = [n for n in range(len(entries) - 1) if entries[n].task != entries[n + 1].task]
    one = min(borders, key=lambda border: abs(border - at))
    entries[one], entries[one + 1] = entries[one + 1], entries[one]


def inserted(entries, at):
    entries.insert(at, next(history("forged")))


def truncated(entries, at):
    del entries[at:]


def last_gone(entries, at):
    del entries[-1:]


ATTACKS = [
    changed_body,
    field(at=5),
    field(open=False, version=7),
    field(type="canceled"),
    deleted,
    task_deleted,
    swapped,
    inserted,
    truncated,
    last_gone,
]
ATTACK_NAMES = [
    "body",
    "time",
    "flags",
    "type",
    "deleted",
    "task",
    "swapped",
    "inserted",
    "truncated",
    "last",
]


@pytest.fixture
def attack(adapter, place, tmp_path):
    """`attack(change)`: an honest, signed journal, and the one that the attacker has put into its place."""

    def make(change=None, count=6):
        journal = written(adapter, place, histories(count))
        texts = []
        log = Log(journal, KEY)
        texts.append(signed(log))
        receipt = log.receipt(TaskId("task0001"), texts[0])
        journal.append(list(history("between")))
        texts.append(signed(log))
        journal.append(list(history("later")))
        entries = [
            Entry(each.task, each.seq, each.open, each.type, each.version, each.at, each.body)
            for each in journal.scan(0, 100_000)
        ]
        if change is not None:
            change(entries)
        forged = written(adapter, adapter.place(tmp_path / "forged"), entries)
        for name in (HEAD_SNAPSHOT, TREE_SNAPSHOT):
            forged.put_snapshot(name, *journal.get_snapshot(name))
        journal.close()
        return forged, texts, receipt

    return make


def test_the_attacker_copies_so_well_that_an_unchanged_copy_is_proved(attack):
    forged, texts, receipt = attack()
    found = verify_journal(
        forged, KEY.vkey, checkpoints=[("a", texts[0]), ("b", texts[1])], receipts=[("r", receipt)]
    )
    assert found.proved
    assert verify_checkpoint(signed(Log(forged, KEY)), KEY.vkey).size == 24
    forged.close()


@pytest.mark.parametrize("at", [0, 1, 5, 16, 17])
@pytest.mark.parametrize("change", ATTACKS, ids=ATTACK_NAMES)
def test_whatever_is_done_to_records_before_a_checkpoint_is_found_and_nothing_is_signed_on(
    attack, change, at
):
    forged, texts, receipt = attack(
        lambda entries: change(entries, at) if change is not last_gone else truncated(entries, 17)
    )
    found = verify_journal(forged, KEY.vkey, checkpoints=[("a", texts[0])], receipts=[("r", receipt)])
    assert not found.proved
    assert found.checks[0].proved, "his chain is whole: only what was signed tells"
    assert ("checkpoint", "the journal") in failures(found)
    assert "nothing is signed" in refusal(Log(forged, KEY).sign)
    forged.close()


def test_records_behind_the_last_checkpoint_are_protected_by_nothing_that_is_signed(attack):
    forged, texts, _ = attack(lambda entries: changed_body(entries, 22))
    found = verify_journal(forged, KEY.vkey, checkpoints=[("b", texts[1])])
    assert found.proved
    assert found.covered == 21 < found.records
    forged.close()


def test_the_first_failing_checkpoint_tells_where(attack):
    forged, texts, _ = attack(lambda entries: changed_body(entries, 19))
    found = verify_journal(forged, KEY.vkey, checkpoints=[("a", texts[0])])
    assert failures(found) == {
        ("checkpoint", "the journal"): "not what example.com/log signed: "
        "a record from 19 to 21 was changed, added, moved or removed"
    }
    assert found.covered == 18
    forged.close()


def test_kept_roots_that_fit_what_was_signed_tell_the_block(adapter, attack):
    count = 3 * BLOCK // 3 + 5
    forged, texts, _ = attack(lambda entries: changed_body(entries, BLOCK + 6), count=count)
    found = verify_journal(forged, KEY.vkey, checkpoints=[("a", texts[0])])
    told = failures(found)
    assert told["checkpoint", "a"].endswith(
        f"a record from {BLOCK + 1:,} to {2 * BLOCK:,} was changed, added, moved or removed"
    )
    forged.put_snapshot(TREE_SNAPSHOT, 3 * BLOCK, b"x" * 96)
    found = verify_journal(forged, KEY.vkey, checkpoints=[("a", texts[0])])
    assert "from 1 to" in failures(found)["checkpoint", "a"]
    forged.close()


def test_a_receipt_is_not_given_for_a_record_that_was_changed_after_it_was_signed(adapter, place, tmp_path):
    journal = written(adapter, place, histories(BLOCK))  # three blocks
    text = signed(Log(journal, KEY))
    entries = [
        Entry(each.task, each.seq, each.open, each.type, each.version, each.at, each.body)
        for first in range(0, 3 * BLOCK, 1000)
        for each in journal.scan(first, min(1000, 3 * BLOCK - first))
    ]
    changed_body(entries, 2)
    forged = written(adapter, adapter.place(tmp_path / "forged"), entries)
    for name in (HEAD_SNAPSHOT, TREE_SNAPSHOT):
        forged.put_snapshot(name, *journal.get_snapshot(name))
    log = Log(forged, KEY)
    assert log.sign() == text, "a checkpoint reads what is new only, and goes on from what was signed"
    assert "records 1 to 4096 is not what it was" in refusal(log.receipt, TaskId("task0000"), text)
    assert not verify_journal(forged, KEY.vkey).proved
    journal.close()
    forged.close()


def test_a_journal_without_what_it_kept_is_signed_anew_by_the_attackers_key_and_found_out(
    adapter, tmp_path, place
):
    journal = written(adapter, place, histories(6))
    exported = signed(Log(journal, KEY))
    journal.close()
    entries = histories(6)
    changed_body(entries, 2)
    forged = written(adapter, adapter.place(tmp_path / "forged"), entries)
    other = Key.generate("example.com/log")
    again = signed(Log(forged, other))
    assert verify_journal(forged, other.vkey).proved, "for whoever trusts the attacker's key"
    found = verify_journal(forged, KEY.vkey, checkpoints=[("exported", exported)])
    assert "signed by example.com/log" in failures(found)["checkpoint", "the journal"]
    assert "not what example.com/log signed" in failures(found)["checkpoint", "exported"]
    assert "and not by example.com/log" in refusal(verify_checkpoint, again, KEY.vkey)
    forged.close()


def test_a_roll_back_to_an_older_checkpoint_is_found_against_an_exported_one(adapter, place, tmp_path):
    journal = written(adapter, place, histories(3))
    log = Log(journal, KEY)
    signed(log)
    journal.close()
    backup = adapter.copy(place)
    journal = written(adapter, place, list(history("more")))
    exported = signed(Log(journal, KEY, file=tmp_path / "checkpoints"))
    journal.close()
    old = opened(adapter, backup)
    assert verify_journal(old, KEY.vkey).proved, "by itself it is consistent: only a copy elsewhere tells"
    found = verify_journal(old, KEY.vkey, checkpoints=[("exported", exported)])
    assert failures(found) == {
        ("checkpoint", "exported"): "12 records were signed, and the journal ends at 9: "
        "the last ones were removed, or the journal was replaced by an older one"
    }
    assert "but 12 were signed" in refusal(Log(old, KEY, file=tmp_path / "checkpoints").sign)
    old.close()


def test_a_rollback_that_goes_on_differently_is_found_against_an_exported_checkpoint(
    adapter, place, tmp_path
):
    file = tmp_path / "checkpoints"
    journal = written(adapter, place, histories(3))
    signed(Log(journal, KEY))
    journal.close()
    backup = adapter.copy(place)
    journal = written(adapter, place, list(history("true")))
    exported = signed(Log(journal, KEY, file=file))
    journal.close()
    old = written(adapter, backup, list(history("false", 20)))
    assert "are not those that were signed" in refusal(Log(old, KEY, file=file).sign)
    found = verify_journal(old, KEY.vkey, checkpoints=[("exported", exported)])
    assert "a record from 10 to 12" in failures(found)["checkpoint", "exported"]
    old.close()


def test_a_plain_edit_is_found_at_its_record(adapter, place):
    journal = written(adapter, place, histories(4))
    signed(Log(journal, KEY))
    journal.close()
    adapter.flip(place, 5)
    journal = opened(adapter, place)
    told = failures(verify_journal(journal, KEY.vkey))
    assert "record 5 is damaged" in told["records", "the journal"]
    assert told["checkpoint", "the journal"].startswith("can't be compared: record 5 is damaged")
    assert "record 5 is damaged" in refusal(Log(journal, KEY).sign)
    journal.close()


def test_a_damaged_record_of_a_task_has_no_receipt(adapter, place):
    journal = written(adapter, place, histories(4))
    log = Log(journal, KEY)
    text = signed(log)
    journal.close()
    adapter.flip(place, 6)
    journal = opened(adapter, place)
    log = Log(journal, KEY)
    assert isinstance(journal.scan(5, 1)[0], Damage)
    assert "damaged" in refusal(log.receipt, TaskId("task0001"), text)
    journal.close()


def holed(journal, lost):
    """The journal, as one that has lost records and says nothing of it."""
    scan = journal.scan

    def scan_the_rest(after, limit):
        return [each for each in scan(after, limit + 1) if each.position not in lost][:limit]

    journal.scan = scan_the_rest
    return journal


@pytest.mark.parametrize(("lost", "first"), [({1}, 1), ({5}, 5), ({12}, 12), ({1, 2, 3}, 1)])
def test_records_that_are_missing_are_told_and_nothing_is_signed_over_them(adapter, place, lost, first):
    journal = written(adapter, place, histories(4))
    text = Log(journal, KEY).sign()
    holed(journal, lost)
    assert f"record {first} is missing" in refusal(Log(journal, KEY).sign)
    found = verify_journal(journal, KEY.vkey, checkpoints=[("exported", text)])
    assert not found.proved
    assert ("checkpoint", "exported") in failures(found)
    journal.close()


# Keys and origins


def test_a_key_can_be_replaced_and_the_history_goes_on(adapter, place):
    old, new = Key.generate("example.com/log"), Key.generate("example.com/log")
    journal = written(adapter, place, histories(2))
    first = signed(Log(journal, old))
    again = signed(Log(journal, new))
    assert parse_checkpoint(first)[0] == parse_checkpoint(again)[0]
    journal.append(list(history("more")))
    second = signed(Log(journal, new))
    found = verify_journal(journal, [old.vkey, new.vkey], checkpoints=[("a", first), ("b", second)])
    assert found.proved
    assert not verify_journal(journal, new.vkey, checkpoints=[("a", first)]).proved
    journal.close()


def test_a_new_key_does_not_sign_what_contradicts_the_old_one(attack):
    forged, _, _ = attack(lambda entries: changed_body(entries, 2))
    assert "nothing is signed" in refusal(Log(forged, Key.generate("example.com/log")).sign)
    forged.close()


def test_another_origin_is_another_log(adapter, place, tmp_path):
    file = tmp_path / "checkpoints"
    journal = written(adapter, place, histories(2))
    signed(Log(journal, KEY, file=file))
    other = signed(Log(journal, KEY, origin="example.com/other", file=file))
    assert verify_checkpoint(other, KEY.vkey, origin="example.com/other").size == 6
    assert verify_journal(journal, KEY.vkey, origin="example.com/other").proved
    assert not verify_journal(journal, KEY.vkey).proved
    assert "key name 'a b'" in refusal(lambda: Log(journal, KEY, origin="a b"))
    journal.close()


def test_a_checkpoint_with_a_forged_signature_stops_the_signing(adapter, place, tmp_path):
    journal = written(adapter, place, histories(2))
    text = signed(Log(journal, KEY))
    file = tmp_path / "checkpoints"
    file.write_text(text.replace("\n6\n", "\n7\n"))
    assert "is wrong" in refusal(Log(journal, KEY, file=file).sign)
    journal.close()


# The file of checkpoints


def test_checkpoints_are_appended_and_none_twice(adapter, place, tmp_path):
    file = tmp_path / "checkpoints"
    journal = written(adapter, place, histories(1))
    log = Log(journal, KEY, file=file)
    texts = [signed(log)]
    signed(log)
    journal.append(list(history("more")))
    texts.append(signed(log))
    signed(Log(journal, KEY, file=file))
    assert file.read_text() == "\n".join(texts)
    journal.close()


def test_what_a_crash_cut_off_is_completed_at_every_length(adapter, place, tmp_path):
    file = tmp_path / "checkpoints"
    journal = written(adapter, place, histories(1))
    log = Log(journal, KEY, file=file)
    first = signed(log)
    journal.append(list(history("more")))
    second = signed(log)
    whole = file.read_bytes()
    begins = len(first.encode()) + 1
    for length in range(begins - 1, len(whole)):
        file.write_bytes(whole[:length])
        assert signed(Log(journal, KEY, file=file)) == second
        assert file.read_bytes() == whole, length
    journal.close()


def test_a_checkpoint_that_was_kept_and_not_exported_is_exported_first(adapter, place, tmp_path):
    file = tmp_path / "checkpoints"
    journal = written(adapter, place, histories(1))
    log = Log(journal, KEY, file=file)
    kept = log.sign()
    log.keep(kept)  # and here it dies
    journal.append(list(history("more")))
    later = signed(Log(journal, KEY, file=file))
    assert file.read_text() == f"{kept}\n{later}"
    journal.close()


def test_a_checkpoint_that_was_signed_and_not_kept_was_never_seen(adapter, place, tmp_path):
    journal = written(adapter, place, histories(1))
    Log(journal, KEY).sign()  # and here it dies
    journal.append(list(history("more")))
    text = signed(Log(journal, KEY))
    assert verify_journal(journal, KEY.vkey, checkpoints=[("a", text)]).proved
    journal.close()


def test_a_file_that_can_not_be_read_or_written_is_told(adapter, place, tmp_path):
    journal = written(adapter, place, histories(1))
    assert "Is a directory" in refusal(Log(journal, KEY, file=tmp_path).sign)
    log = Log(journal, KEY, file=tmp_path / "none" / "file")
    log.keep(log.sign())
    assert "No such file" in refusal(log.export, log.head)
    broken = tmp_path / "broken"
    broken.write_bytes(b"\xff")
    assert "no UTF-8" in refusal(Log(journal, KEY, file=broken).sign)
    broken.write_text("nonsense\n")
    assert "can't be read" in refusal(Log(journal, KEY, file=broken).sign)
    journal.close()
