"""Writing one group of batches, and finding out the truth for each when something goes wrong. Blocking."""

from collections.abc import Sequence

from meowcat.core.errors import (
    JournalClosed,
    JournalConflict,
    JournalDamaged,
    JournalError,
    JournalFenced,
    JournalForked,
    JournalRejected,
    JournalUncertain,
)
from meowcat.core.values import Position
from meowcat.journal.contract import Damage, Entry, Journal, Record


class Batch:
    """What one caller wants stored together, and what became of it."""

    __slots__ = ("entries", "outcome", "over", "waiter")

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = entries
        self.over = False
        self.waiter: object = None
        """What the caller waits on; see Writer."""
        self.outcome: Position | Exception | None = None


class Committer:
    """Appends groups to a journal; one call at a time."""

    def __init__(self, journal: Journal) -> None:
        """Take an open journal.

        Raises:
            JournalError: what its `last` returns is no position.

        """
        self._journal = journal
        self.last = self._position("last", journal.last())
        self.poison: Exception | None = None
        self.interruption: KeyboardInterrupt | SystemExit | None = None
        """What an adapter raised to end the program, for the caller of `commit` to raise again."""

    def commit(self, group: Sequence[Batch]) -> None:
        """Store each batch of `group` as a whole, or not at all, and set its outcome; never raises."""
        if self.poison is not None:
            for batch in group:
                batch.outcome = self._refusal(self.poison)
            return
        try:
            entries = [entry for batch in group for entry in batch.entries]
            position = self._journal.append(entries)
        except JournalRejected as error:
            self._commit_one_by_one(group, error)
        except (JournalFenced, JournalForked, JournalClosed) as error:
            self._fail(group, error)
        except BaseException as error:  # noqa: BLE001  # whatever an adapter raises: it may or may not have stored
            self.heed(error)
            self._find_out(group, error)
        else:
            self._take(group, position, self.last + len(entries))

    def recover(self) -> Position:
        """Reopen the journal, and write again.

        Raises:
            JournalFenced: for good. Anything else, which is an Exception: the journal stays in doubt.

        """
        if isinstance(self.poison, JournalFenced | JournalForked | JournalClosed):
            raise self.poison
        try:
            self.last = self._position("reopen", self._journal.reopen())
        except Exception as error:  # raised again: whatever an adapter raises, all stays in doubt
            self.poison = error
            raise
        except BaseException as error:  # as above
            self.poison = self.heed(error)
            raise self.poison from error
        self.poison = None
        return self.last

    def heed(self, error: BaseException) -> Exception:
        """What callers hear of an error: one that is no Exception, as pyo3's panics, would end their loop."""
        if isinstance(error, Exception):
            return error
        if isinstance(error, KeyboardInterrupt | SystemExit):
            self.interruption = error
        return _uncertain(error)

    def find_out(self, batch: Batch) -> Position:
        """After an uncertain append of `batch`: `recover`, and look whether it is stored.

        Returns:
            The position of its last record.

        Raises:
            JournalConflict, JournalRejected: it is not. Anything else: still in doubt, as for `recover`.

        """
        self.recover()
        outcome = self._look_up(batch, Position(0), JournalRejected("an append that failed"))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _take(self, group: Sequence[Batch], position: object, expected: int) -> None:
        """What was appended is stored, if `position` is that of the last record."""
        if type(position) is not int or position != expected:
            said = (
                f"{self._name}.append returned {position!r}: expected {expected}, the last record's position"
            )
            self._fail(group, JournalUncertain(said))
            return
        at = int(self.last)
        for batch in group:
            at += len(batch.entries)
            batch.outcome = Position(at)
        self.last = Position(at)

    def _position(self, method: str, found: object) -> Position:
        """The position of the last record, as an adapter's method has returned it."""
        if type(found) is not int or found < 0:
            raise JournalError(
                f"{self._name}.{method} returned {found!r}: expected the last record's position, 0 or more"
            )
        return Position(found)

    @property
    def _name(self) -> str:
        return type(self._journal).__name__

    def _commit_one_by_one(self, group: Sequence[Batch], error: JournalRejected) -> None:
        """Only the guilty one is refused."""
        if len(group) == 1:
            group[0].outcome = error
        else:
            for batch in group:
                self.commit([batch])

    def _fail(self, group: Sequence[Batch], error: Exception) -> None:
        self.poison = error
        for batch in group:
            batch.outcome = error

    def _refusal(self, poison: Exception) -> Exception:
        if isinstance(poison, JournalFenced | JournalForked | JournalClosed):
            return poison
        return JournalRejected(
            f"not stored: an earlier append is in doubt until the journal recovers: {poison}"
        )

    def _find_out(self, group: Sequence[Batch], cause: BaseException) -> None:
        """After an uncertain append: reopen, read, and tell each caller what is stored."""
        before = self.last
        try:
            self.recover()
        except Exception as error:  # noqa: BLE001  # reopening failed in any way: all stays in doubt
            error.__cause__ = cause
            lost = isinstance(error, JournalFenced | JournalForked | JournalClosed)
            for batch in group:
                batch.outcome = error if lost else _uncertain(error)
            return
        for batch in group:
            try:
                batch.outcome = self._look_up(batch, before, cause)
            except BaseException as error:  # noqa: BLE001  # what can't be read can't be told
                batch.outcome = _uncertain(error)
                self.poison = self.heed(error)

    def _look_up(self, batch: Batch, before: Position, cause: BaseException) -> Position | Exception:
        """The last position of a batch that stands in the journal as it was sent, or why it is not there."""
        position = before
        for entry in batch.entries:
            found = self._journal.read(entry.task, entry.seq - 1)
            if not found:
                return _rejected(cause)
            if isinstance(found[0], Damage):
                raise JournalDamaged(found[0].detail)
            if found[0].seq != entry.seq:
                return _rejected(cause)
            if found[0].position <= before or not _same(found[0], entry):
                return JournalConflict(f"task {entry.task} has another record {entry.seq}")
            position = found[0].position
        return position


def _same(record: Record, entry: Entry) -> bool:
    return (record.body, record.type, record.version) == (entry.body, entry.type, entry.version)


def _uncertain(error: BaseException) -> JournalUncertain:
    if isinstance(error, JournalUncertain):
        return error
    uncertain = JournalUncertain(f"the append may or may not be stored: {_text(error)}")
    uncertain.__cause__ = error
    return uncertain


def _rejected(cause: BaseException) -> JournalRejected:
    rejected = JournalRejected(f"not stored: {_text(cause)}")
    rejected.__cause__ = cause
    return rejected


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
