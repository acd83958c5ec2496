"""Checks of who may write: owners, those who come second, those who came before, and children."""

# ruff: noqa: PLR2004  # numbers are what checks are made of

import json
import os
import time
import warnings
from collections.abc import Callable

from meowcat.core.errors import (
    JournalClosed,
    JournalError,
    JournalFenced,
    JournalForked,
    JournalOwned,
)
from meowcat.core.values import Position, TaskId
from meowcat.journal.contract import Journal, Record
from meowcat.testing.journal.harness import OTHER, OWNER, JournalHarness, Lacking
from meowcat.testing.journal.records import check_stored, entry, opened, refused, scan_all
from meowcat.testing.journal.registry import check


@check("M12")
def a_second_owner_is_refused_within_a_second_and_told_who_owns_it(harness: JournalHarness) -> None:
    journal = opened(harness)
    other = harness.close_later(harness.make())
    begin = time.monotonic()
    with refused(JournalOwned) as refusal:
        other.open(OTHER, harness.sync)
    assert time.monotonic() - begin < 1, "a second owner must be told within a second"
    assert isinstance(refusal.error, JournalOwned)
    assert refusal.error.owner == str(OWNER)
    assert "4711" in str(refusal.error)
    with refused(JournalClosed):
        other.last()
    journal.append([entry("a", 1)])
    journal.close()
    other.open(OTHER, harness.sync)
    check_stored(other, [entry("a", 1)])
    with refused(JournalOwned) as refusal:
        harness.make().open(OWNER, harness.sync)
    assert str(OTHER) in str(refusal.error)


@check("M13")
def what_a_dead_process_owned_is_free(harness: JournalHarness) -> None:
    journal = opened(harness)
    journal.append([entry("a", 1)])
    harness.crash(journal)
    again = harness.close_later(harness.make())
    again.open(OTHER, harness.sync)
    check_stored(again, [entry("a", 1)])


@check("M14")
def each_opening_raises_the_epoch(harness: JournalHarness) -> None:
    epochs = []
    for number in range(1, 6):
        journal = harness.close_later(harness.make())
        epoch = journal.open(OWNER, harness.sync)
        journal.append([entry("a", number)])
        epochs.append(epoch)
        stored = [record.epoch for record in scan_all(journal) if isinstance(record, Record)]
        assert stored == epochs
        if number % 2:
            journal.close()
        else:
            harness.crash(journal)
    assert epochs == sorted(set(epochs))


@check("M15")
def an_old_owner_is_fenced(harness: JournalHarness) -> None:
    journal = opened(harness)
    journal.append([entry("a", 1)])
    usurper = harness.close_later(harness.usurp())
    usurper.append([entry("b", 1)])
    for _ in range(2):
        with refused(JournalFenced):
            journal.append([entry("a", 2)])
    with refused(JournalFenced):
        journal.set_cursor("x", Position(1))
    with refused(JournalFenced):
        journal.put_snapshot("x", Position(1), b"")
    with refused(JournalFenced):
        journal.reopen()
    check_stored(usurper, [entry("a", 1), entry("b", 1)])
    assert dict(usurper.cursors()) == {}
    journal.close()
    usurper.append([entry("b", 2)])
    check_stored(usurper, [entry("a", 1), entry("b", 1), entry("b", 2)])


def _uses(journal: Journal) -> dict[str, Callable[[], object]]:
    """Every method but `open` and `close`."""
    return {
        "append": lambda: journal.append([entry("use", 1)]),
        "reopen": journal.reopen,
        "read": lambda: journal.read(TaskId("a")),
        "unfinished": lambda: list(journal.unfinished()),
        "scan": lambda: journal.scan(Position(0), 1),
        "last": journal.last,
        "cursors": journal.cursors,
        "set_cursor": lambda: journal.set_cursor("x", Position(1)),
        "put_snapshot": lambda: journal.put_snapshot("x", Position(1), b""),
        "get_snapshot": lambda: journal.get_snapshot("x"),
    }


@check("M16", "M17")
def a_closed_journal_refuses_everything_but_another_close(harness: JournalHarness) -> None:
    journal = harness.make()
    journal.close()
    journal.open(OWNER, harness.sync)
    journal.append([entry("a", 1)])
    journal.close()
    journal.close()
    for name, use in _uses(journal).items():
        try:
            use()
        except JournalClosed:
            continue
        raise AssertionError(f"{name} of a closed journal must raise JournalClosed")
    journal.close()
    check_stored(opened(harness), [entry("a", 1)])


@check("M16")
def a_journal_object_is_opened_once_at_a_time(harness: JournalHarness) -> None:
    journal = opened(harness)
    journal.append([entry("a", 1)])
    with refused(JournalError):
        journal.open(OWNER, harness.sync)
    assert journal.append([entry("a", 2)]) == 2
    journal.close()
    journal.open(OWNER, harness.sync)
    assert journal.append([entry("a", 3)]) == 3
    check_stored(journal, [entry("a", seq) for seq in (1, 2, 3)])


def in_a_fork(function: Callable[[], object]) -> object:
    """What `function` returns in a forked child, as JSON brings it.

    Raises:
        Lacking: processes can't fork here.

    """
    if not hasattr(os, "fork"):
        raise Lacking("processes can't fork on this system")
    receive, send = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns where any thread lives, and idle ones of other tests may
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            os.write(send, json.dumps(function()).encode())
        except BaseException as error:  # noqa: BLE001  # the child must end here, whatever happens
            os.write(send, json.dumps(repr(error)).encode())
        finally:
            os._exit(0)
    os.close(send)
    with os.fdopen(receive) as stream:
        told = stream.read()
    os.waitpid(child, 0)
    return json.loads(told)


@check("M18")
def a_forked_child_is_refused_and_leaves_the_journal_to_its_parent(harness: JournalHarness) -> None:
    journal = opened(harness)
    journal.append([entry("a", 1)])

    def child() -> list[str]:
        used = []
        for name, use in _uses(journal).items():
            try:
                use()
            except JournalForked:
                continue
            used.append(name)
        journal.close()
        return used

    assert in_a_fork(child) == [], "every method but close must raise JournalForked in a forked child"
    with refused(JournalOwned):
        harness.make().open(OTHER, harness.sync)
    assert journal.append([entry("a", 2)]) == 2
    check_stored(journal, [entry("a", 1), entry("a", 2)])
