"""Checks of calls to the operating system that fail: the n-th for every n, once or from then on."""

# ruff: noqa: PLR2004  # numbers are what checks are made of

import errno
import os
from collections.abc import Callable
from itertools import count

from meowcat.core.errors import JournalError, JournalRejected, NotAJournal
from meowcat.core.values import Position
from meowcat.journal.contract import CompactableJournal, Entry, Journal, RemovableJournal
from meowcat.testing.journal.harness import OWNER, JournalHarness, Lacking
from meowcat.testing.journal.records import check_stored, entry
from meowcat.testing.journal.registry import check

STORED = [entry("a", 1, b"first"), entry("b", 1, b"second")]
BATCH = [entry("a", 2, b"x" * 3000), entry("c", 1, b"third")]
MORE = [entry("d", 1, b"more")]
FINISHED = [entry("a", 1, b"first", unfinished=False), entry("b", 1, b"second", unfinished=False)]


def failures(doing: Callable[[int, int, bool], bool]) -> None:
    """Call `doing` with n, errno and `lasting` for n from 1 until there is no n-th call to fail any more.

    Raises:
        Lacking: no call fails here, or the very first is never reached.

    """
    for code in (errno.ENOSPC, errno.EIO):
        for lasting in (False, True):
            for nth in count(1):
                what = f"{os.strerror(code)} at call {nth}{' and after it' if lasting else ''}"
                try:
                    happened = doing(nth, code, lasting)
                except Lacking:
                    raise
                except Exception as error:  # raised again: with the call, whatever it was
                    raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
                if not happened:
                    break
            if nth == 1:
                raise Lacking("failing: this makes no call to the operating system that can be seen")


def _prepared(harness: JournalHarness) -> Journal:
    """A journal of its own with `STORED` in it, open; closed when the check is over, if not before."""
    harness.raw_write({})
    journal = harness.close_later(harness.make())
    journal.open(OWNER, harness.sync)
    journal.append(STORED)
    return journal


def _after_a_crash(harness: JournalHarness, journal: Journal, there: list[Entry]) -> None:
    """What was found out must still be so when the process dies now, and for the next owner."""
    harness.crash(journal)
    again = harness.make()
    again.open(OWNER, harness.sync)
    check_stored(again, there)
    again.close()


@check("M10", "M11", "M29")
def a_call_that_fails_in_an_append_leaves_all_of_the_batch_or_nothing(harness: JournalHarness) -> None:
    """Stored is stored, rejected is not stored and the journal goes on; anything else is told by `reopen`."""

    def doing(nth: int, code: int, lasting: bool) -> bool:
        journal = _prepared(harness)
        outcome: Exception | None = None
        with harness.failing(nth, code, lasting=lasting) as failure:
            try:
                journal.append(BATCH)
            except Exception as error:  # noqa: BLE001  # any error but a rejection means: uncertain
                outcome = error
        if isinstance(outcome, JournalRejected):
            there = STORED
        elif outcome is None:
            there = [*STORED, *BATCH]
        else:
            there = [*STORED, *BATCH] if journal.reopen() == 4 else STORED
        check_stored(journal, there)
        journal.append(MORE)
        check_stored(journal, [*there, *MORE])
        _after_a_crash(harness, journal, [*there, *MORE])
        return bool(getattr(failure, "happened", False))

    failures(doing)


@check("M10", "M11", "M29")
def a_crash_right_after_a_call_that_failed_in_an_append_agrees_with_what_was_told(
    harness: JournalHarness,
) -> None:
    """What was rejected does not come back with the next owner, from a log that was half undone."""

    def doing(nth: int, code: int, lasting: bool) -> bool:
        journal = _prepared(harness)
        allowed = [[*STORED, *BATCH]]
        with harness.failing(nth, code, lasting=lasting) as failure:
            try:
                journal.append(BATCH)
            except JournalRejected:
                allowed = [STORED]
            except Exception:  # noqa: BLE001  # any error but a rejection means: uncertain
                allowed = [STORED, [*STORED, *BATCH]]
        harness.crash(journal)
        again = harness.make()
        again.open(OWNER, harness.sync)
        check_stored(again, max(allowed, key=lambda each: len(each) == again.last()))
        again.close()
        return bool(getattr(failure, "happened", False))

    failures(doing)


@check("M11", "M29")
def a_call_that_fails_in_a_reopening_leaves_it_to_the_next_one(harness: JournalHarness) -> None:
    def doing(nth: int, code: int, lasting: bool) -> bool:
        journal = _prepared(harness)
        with harness.failing(nth, code, lasting=lasting) as failure:
            try:
                journal.reopen()
            except JournalError:
                pass  # told in meowcat's words; what else there is comes out of the check
        assert journal.reopen() == 2
        journal.append(MORE)
        _after_a_crash(harness, journal, [*STORED, *MORE])
        return bool(getattr(failure, "happened", False))

    failures(doing)


@check("M29")
def a_call_that_fails_in_an_opening_is_told_and_harms_nothing(harness: JournalHarness) -> None:
    def doing(nth: int, code: int, lasting: bool) -> bool:
        harness.raw_write({})
        happened = False
        for entries in ([], STORED):
            journal = harness.make()
            with harness.failing(nth, code, lasting=lasting) as failure:
                try:
                    journal.open(OWNER, harness.sync)
                except JournalError:
                    pass  # told in meowcat's words; what else there is comes out of the check
            journal.close()
            again = harness.make()
            again.open(OWNER, harness.sync)
            check_stored(again, entries)
            if not entries:
                again.append(STORED)
            again.close()
            happened = happened or bool(getattr(failure, "happened", False))
        return happened

    failures(doing)


@check("M23", "M29")
def a_call_that_fails_while_a_cursor_is_set_leaves_the_old_one_or_the_new(harness: JournalHarness) -> None:
    def doing(nth: int, code: int, lasting: bool) -> bool:
        journal = _prepared(harness)
        journal.set_cursor("sink", Position(1))
        told = False
        with harness.failing(nth, code, lasting=lasting) as failure:
            try:
                journal.set_cursor("sink", Position(2))
            except JournalError:
                told = True
        journal.reopen()
        kept = dict(journal.cursors())["sink"]
        assert kept == 2 or (told and kept == 1)
        journal.append(MORE)
        harness.crash(journal)
        again = harness.make()
        again.open(OWNER, harness.sync)
        assert dict(again.cursors()) == {"sink": kept}
        check_stored(again, [*STORED, *MORE])
        again.close()
        return bool(getattr(failure, "happened", False))

    failures(doing)


@check("M16", "M29")
def a_call_that_fails_in_a_close_loses_nothing(harness: JournalHarness) -> None:
    def doing(nth: int, code: int, lasting: bool) -> bool:
        journal = _prepared(harness)
        with harness.failing(nth, code, lasting=lasting) as failure:
            try:
                journal.close()
            except JournalError:
                pass  # told in meowcat's words; what else there is comes out of the check
        journal.close()
        again = harness.make()
        again.open(OWNER, harness.sync)
        check_stored(again, STORED)
        again.close()
        return bool(getattr(failure, "happened", False))

    failures(doing)


@check("D2", "M29")
def a_call_that_fails_in_a_removal_leaves_the_whole_journal_or_what_the_next_removal_finishes(
    harness: JournalHarness,
) -> None:
    def doing(nth: int, code: int, lasting: bool) -> bool:
        happened = _half_removed(harness, nth, code, lasting=lasting)
        journal = _removable(harness)
        try:
            journal.remove(OWNER, lambda: isinstance(journal, Journal) and journal.last() == len(FINISHED))
        except NotAJournal:
            pass  # the first one has left nothing
        _check_new(harness, [])
        return happened

    failures(doing)


@check("D2", "M29")
def a_call_that_fails_in_a_removal_leaves_the_whole_journal_or_is_in_no_new_ones_way(
    harness: JournalHarness,
) -> None:
    def doing(nth: int, code: int, lasting: bool) -> bool:
        happened = _half_removed(harness, nth, code, lasting=lasting)
        _check_new(harness, FINISHED)
        return happened

    failures(doing)


def _removable(harness: JournalHarness) -> RemovableJournal:
    journal = harness.make()
    if not isinstance(journal, RemovableJournal):
        raise Lacking("RemovableJournal: no remove")
    return journal


def _half_removed(harness: JournalHarness, nth: int, code: int, *, lasting: bool) -> bool:
    """A journal with an archive, of which a removal met a call that failed; whether there was such a call."""
    harness.raw_write({})
    removable = _removable(harness)
    journal = harness.make()
    journal.open(OWNER, harness.sync)
    journal.append(FINISHED)
    if isinstance(journal, CompactableJournal):
        journal.compact()
    journal.close()
    with harness.failing(nth, code, lasting=lasting) as failure:
        try:
            removable.remove(OWNER, lambda: True)
        except JournalError:
            pass  # told in meowcat's words; what else there is comes out of the check
    return bool(getattr(failure, "happened", False))


def _check_new(harness: JournalHarness, allowed: list[Entry]) -> None:
    """A journal that is opened now has `allowed` or nothing, and is a sound one, archive included."""
    journal = harness.make()
    journal.open(OWNER, harness.sync)
    found = allowed if journal.last() else []
    check_stored(journal, found)
    journal.append(MORE)
    if isinstance(journal, CompactableJournal):
        journal.compact()
    check_stored(journal, [*found, *MORE])
    journal.close()
