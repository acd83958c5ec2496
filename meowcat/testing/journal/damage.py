"""Checks of stored bytes that are not what was written: changed bits, and a last batch that is torn."""

# ruff: noqa: PLR2004  # numbers are what checks are made of

from collections.abc import Iterator, Mapping, Sequence
from itertools import count

from meowcat.core.errors import JournalClosed, MeowcatError
from meowcat.core.events import EVENT_TYPES
from meowcat.core.values import Position, TaskId
from meowcat.journal.contract import CheckedJournal, Damage, Entry, Journal, ReadableJournal, Record
from meowcat.journal.replay import verify_chain
from meowcat.testing.journal.harness import OWNER, JournalHarness, Lacking
from meowcat.testing.journal.records import (
    SNAPSHOT,
    Contents,
    check_stored,
    contents,
    entry,
    opened,
    reader_of,
    scan_all,
)
from meowcat.testing.journal.registry import check

Image = Mapping[str, bytes]

ADDED = entry("added", 1, b'{"added":true}')
"""What is appended to a journal that has a changed bit, to see that it goes on."""


@check("M26", "M27")
def a_changed_bit_is_damage_at_its_place_and_nowhere_else(harness: JournalHarness) -> None:
    journal = opened(harness)
    bodies = [b'{"the":"first body"}', b'{"the":"second body"}', b'{"the":"third body"}']
    journal.append([entry("a", 1, bodies[0]), entry("b", 1, bodies[1]), entry("a", 2, bodies[2])])
    journal.close()
    harness.corrupt(bodies[1])
    again = opened(harness)
    found = scan_all(again)
    assert [type(record) for record in found] == [Record, Damage, Record]
    assert found[1].position == 2
    assert [type(record) for record in again.read(TaskId("a"))] == [Record, Record]
    (damage,) = again.read(TaskId("b"))
    assert isinstance(damage, Damage)
    assert damage.task == "b"
    assert again.append([entry("a", 3)]) == 4
    assert [type(record) for record in scan_all(again)] == [Record, Damage, Record, Record]


@check("M27")
def every_changed_bit_is_detected_or_harmless(harness: JournalHarness) -> None:
    """In a journal of 4 KiB, or of the least that the medium takes, after its owner has closed it."""
    try_bits(harness, 4096, step=harness.bit_step)


@check("M27")
def a_changed_bit_after_a_crash_is_detected_or_harmless(harness: JournalHarness) -> None:
    """As the bits of a closed journal, where its owner died instead; every 13th of them."""
    try_bits(harness, 4096, step=13 * harness.bit_step, crashed=True)


class Filled:
    """A journal that holds each kind of record, and all that it says."""

    def __init__(self, image: Image, expected: Contents, entries: Sequence[Entry], ends: set[int]) -> None:
        self.image, self.expected, self.entries = image, expected, entries
        self.ends = ends
        """The position of the last record of each batch."""


def filled(harness: JournalHarness, size: int, *, crashed: bool = False) -> Filled:
    """Fill the place with records until it takes `size` bytes, with cursors and a snapshot, by some owners.

    A larger journal has larger records, and about as many: each changed bit costs a reading of them all.
    """
    kinds = sorted(EVENT_TYPES)
    more = max(0, size // 64 - 64)
    entries: list[Entry] = []
    ends = {0}
    journal = opened(harness)
    for number in count():
        if number >= 12 and number % 6 == 0:
            if not crashed:
                journal.close()  # a log that grows beside the records is gone then: it does not count
            if sum(map(len, harness.raw_read().values())) >= size:
                break
            if not crashed:
                journal = opened(harness)
        task, seq = ("finished", "open", "猫")[number % 3], number // 3 + 1
        bodies = (b'{"at":%d,"x":"%b"}' % (number, b"x" * more), b"\x00\xff" * (9 + more // 2), "ü".encode())
        body = bodies[number // 3 % 3]
        kind = kinds[number % len(kinds)]
        batch = [entry(task, seq, body, unfinished=task != "finished", kind=kind)]
        journal.append(batch)
        entries += batch
        ends.add(len(entries))
        if number == 2:
            journal.set_cursor("sink", Position(2))
            journal.set_cursor("other sink", Position(1))
            journal.put_snapshot(SNAPSHOT, Position(2), b'{"snapshot":2}')
            journal.close()
            journal = opened(harness)
        if number == 7:
            journal.set_cursor("sink", Position(5))
            journal.set_cursor("other sink", None)
            journal.set_cursor("third sink", Position(1))
    if not crashed:
        journal.open(OWNER, harness.sync)
    expected = contents(journal, tasks_of(entries))
    assert all(isinstance(record, Record) for record in _listed(expected.scanned))
    if crashed:
        harness.crash(journal)
    else:
        journal.close()
    return Filled(harness.raw_read(), expected, entries, ends)


def tasks_of(entries: Sequence[Entry]) -> list[str]:
    return sorted({each.task for each in entries})


def try_bits(harness: JournalHarness, size: int, *, step: int = 1, crashed: bool = False) -> int:
    """Change each `step`-th bit of a journal of `size` bytes, one at a time; returns how many.

    Each changed journal is read; every 16th is also opened for writing and appended to.

    Raises:
        AssertionError: the first bit whose change is neither detected nor harmless.
        Lacking: the bytes can't be seen or changed.

    """
    if not step:
        raise Lacking("bit_step is 0: this journal leaves changed bits to its medium")
    journal = filled(harness, size, crashed=crashed)
    tried = 0
    for tried, (where, image) in enumerate(_changed(journal.image, step), 1):
        harness.raw_write(image)
        try:
            _judge(_look(harness, journal, writing=False), journal, harness.may_look_torn if crashed else "")
            if tried % 16 == 0:
                harness.raw_write(image)
                _judge(
                    _look(harness, journal, writing=True), journal, harness.may_look_torn if crashed else ""
                )
        except Exception as error:  # raised again: with the place, whatever it was
            raise AssertionError(f"{where} is changed: {type(error).__name__}: {error}") from error
    return tried


def _changed(image: Image, step: int) -> Iterator[tuple[str, Image]]:
    for at, (name, content) in enumerate(image.items()):
        for bit in range(at % step, 8 * len(content), step):
            place = bit // 8
            one = bytes([content[place] ^ 1 << bit % 8])
            where = f"bit {bit % 8} of byte {place} of {len(content)} in {name}"
            yield where, {**image, name: content[:place] + one + content[place + 1 :]}


def _look(harness: JournalHarness, journal: Filled, *, writing: bool) -> Contents | None:
    """What a changed journal says; None where it refuses to be opened."""
    changed = harness.make()
    try:
        try:
            if not writing and isinstance(changed, ReadableJournal):
                changed.open_for_reading()
            else:
                changed.open(OWNER, "process")
        except MeowcatError:
            return None
        if writing and not _goes_on(changed):
            return None
        return contents(changed, tasks_of(journal.entries))
    finally:
        changed.close()


def _goes_on(journal: Journal) -> bool:
    """Append; where that is refused, the damage was detected."""
    try:
        position = journal.append([ADDED])
        (stored,) = journal.read(ADDED.task)
        (scanned,) = journal.scan(Position(position - 1), 1)
    except MeowcatError:
        return False
    if isinstance(stored, Damage) or isinstance(scanned, Damage):
        return False
    assert stored.body == ADDED.body
    assert scanned == stored
    return True


def _listed(view: "list[Record | Damage] | MeowcatError") -> "list[Record | Damage]":
    return [] if isinstance(view, MeowcatError) else view


def _judge(found: Contents | None, journal: Filled, may_look_torn: str) -> None:
    """Whether each view is what it should be, or says itself that it is not."""
    if found is None:
        return
    expected = journal.expected
    scanned = _without_added(found.scanned)
    if may_look_torn and _is_torn(scanned, journal):
        return
    exact = scanned == expected.scanned
    flagged = not exact and (isinstance(scanned, MeowcatError) or any(verify_chain(_listed(found.scanned))))
    assert exact or flagged, "a scan hides it"
    for task, read in found.tasks.items():
        assert read == expected.tasks[task] or _is_flagged(read), f"reading {task!r} hides it"
    assert found.snapshot in (expected.snapshot, None) or isinstance(found.snapshot, MeowcatError)
    for name in ("unfinished", "cursors"):
        view, wanted = getattr(found, name), getattr(expected, name)
        if name == "unfinished" and isinstance(view, list):
            view = [task for task in view if task != ADDED.task]
        assert view == wanted or isinstance(view, MeowcatError) or flagged, f"{name}: {view}, not {wanted}"


def _without_added(view: "list[Record | Damage] | MeowcatError") -> "list[Record | Damage] | MeowcatError":
    if isinstance(view, MeowcatError):
        return view
    return [each for each in view if each.task != ADDED.task]


def _is_flagged(read: "list[Record | Damage] | MeowcatError") -> bool:
    """Whether a replay would quarantine the task: by damage, or by a number that is missing in between."""
    if isinstance(read, MeowcatError) or any(isinstance(each, Damage) for each in read):
        return True
    seqs = [each.seq for each in read if isinstance(each, Record)]
    return seqs != list(range(1, len(seqs) + 1))


def _is_torn(scanned: "list[Record | Damage] | MeowcatError", journal: Filled) -> bool:
    whole = _listed(journal.expected.scanned)
    return isinstance(scanned, list) and len(scanned) in journal.ends and scanned == whole[: len(scanned)]


@check("K2")
def a_check_of_whatever_is_damaged_comes_to_an_end_and_changes_nothing(harness: JournalHarness) -> None:
    journal = filled(harness, 4096)
    if not isinstance(harness.make(), CheckedJournal):
        raise Lacking("CheckedJournal: no check")
    for where, image in _changed(journal.image, 97 * (harness.bit_step or 1)):
        harness.raw_write(image)
        changed, readable = reader_of(harness)
        assert isinstance(changed, CheckedJournal)
        try:
            readable.open_for_reading()
            list(changed.check())
        except Exception as error:  # raised again: with the place, whatever it was
            if not isinstance(error, MeowcatError) or _is_open(changed):
                raise AssertionError(f"{where} is changed: {type(error).__name__}: {error}") from error
        changed.close()
        after = harness.raw_read()
        assert {name: after.get(name) for name in image} == image, where


def _is_open(journal: Journal) -> bool:
    try:
        journal.read(TaskId("nobody"))
    except JournalClosed:
        return False
    except MeowcatError:
        return True
    return True


@check("M4", "M9", "M28")
def the_last_batch_is_whole_or_not_there_wherever_it_is_torn(harness: JournalHarness) -> None:
    """For media that grow: cut off at each byte of the last batch, and with zeros instead of the rest."""
    if harness.never_torn:
        raise Lacking(f"torn tails: {harness.never_torn}")
    journal = opened(harness)
    stored = [entry("a", 1, b"first"), entry("b", 1, b"second"), entry("a", 2, b"third")]
    journal.append(stored[:1])
    journal.append(stored[1:])
    journal.set_cursor("sink", Position(2))
    before = dict(harness.raw_read())
    batch = [entry("a", 3, b"x" * 20), entry("c", 1, b'{"y":1}'), entry("b", 2, b"z", unfinished=False)]
    journal.append(batch)
    after = dict(harness.raw_read())
    harness.crash(journal)
    for number, (where, image) in enumerate(torn(before, after, harness.cut_step)):
        harness.raw_write(image)
        try:
            _check_whole_or_gone(harness, stored, batch, going_on=number % 8 == 0)
        except Exception as error:  # raised again: with the place, whatever it was
            raise AssertionError(f"{where}: {type(error).__name__}: {error}") from error


def torn(before: Image, after: Image, step: int = 1) -> Iterator[tuple[str, Image]]:
    """What a crash can leave of the bytes that were added between two images."""
    for name, start, end in grown(before, after):
        for cut in range(start, end, step):
            yield f"{name} is cut at byte {cut} of {start} to {end}", cut_off(after, name, cut)
        for cut in range(start, end, 16 * step):
            zeros = cut_off(after, name, cut, zeros=True)
            yield f"{name} has zeros from byte {cut} of {start} to {end}", zeros


def grown(before: Image, after: Image) -> list[tuple[str, int, int]]:
    """The files that have grown between two images: the name, the size before and after.

    Raises:
        Lacking: stored bytes were changed in place.

    """
    for name, content in before.items():
        if not after.get(name, b"").startswith(content):
            raise Lacking(f"torn tails: an append changes {name} in place, and does not grow it")
    sizes = ((name, len(before.get(name, b"")), len(content)) for name, content in after.items())
    return [each for each in sizes if each[1] < each[2]]


def cut_off(image: Image, name: str, cut: int, *, zeros: bool = False) -> Image:
    """The image with one file cut off, or with zeros in the place of the rest."""
    kept = image[name][:cut]
    return {**image, name: kept.ljust(len(image[name]), b"\0") if zeros else kept}


def _check_whole_or_gone(
    harness: JournalHarness, stored: Sequence[Entry], batch: Sequence[Entry], *, going_on: bool
) -> None:
    journal = harness.make()
    try:
        journal.open(OWNER, "process")
        there = [*stored, *batch] if journal.last() > len(stored) else list(stored)
        check_stored(journal, there)
        assert dict(journal.cursors()) == {"sink": 2}
        assert list(journal.unfinished()) == (["a", "c"] if len(there) > len(stored) else ["a", "b"])
        if going_on:
            more = [ADDED, entry("a", 4 if len(there) > len(stored) else 3)]
            journal.append(more)
            check_stored(journal, [*there, *more])
    finally:
        journal.close()
