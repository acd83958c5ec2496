"""Verifying a whole journal: every record is read, and nothing that is kept besides is trusted. Blocking."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from msgspec import Struct

from meowcat.audit.checkpoints import Checkpoint, split_checkpoints, verify_checkpoint
from meowcat.audit.log import BLOCK, HEAD_SNAPSHOT, TREE_SNAPSHOT, Tree
from meowcat.audit.merkle import HASH_SIZE, Frontier, leaf_hash
from meowcat.audit.notes import Keys, VerifierKey, keys_of
from meowcat.audit.receipts import leaf_of, verify_receipt
from meowcat.core.errors import AuditError, JournalError, NotAJournal
from meowcat.core.values import Position
from meowcat.journal.chain import UNFIT
from meowcat.journal.contract import Damage, Journal, ReadableJournal, Record
from meowcat.journal.locate import locate
from meowcat.journal.replay import verify_chain

KEPT = "the journal"
"""Where the checkpoint that a journal keeps itself comes from."""

_START = Position(0)
_READ_AT_ONCE = 2000
_SHOWN = 20
"""Places of damage that are told one by one."""


class Check(Struct, frozen=True, kw_only=True):
    """One thing that was to be proved, and whether it is."""

    what: str
    """`records` (complete, undamaged, and chained), `checkpoint`, `receipt`, or `file` (beside a receipt)."""
    source: str
    """Where the checkpoint or receipt comes from."""
    proved: bool
    detail: str
    """What holds, or what is wrong and where."""
    size: int | None = None
    """Records that a checkpoint covers."""


class Verification(Struct, frozen=True, kw_only=True):
    """What verifying a journal brought."""

    records: int
    """Read."""
    covered: int
    """Records that a proven checkpoint covers: those behind are protected by the hash chain alone."""
    checks: tuple[Check, ...]

    @property
    def proved(self) -> bool:
        """Whether every check holds, and what was signed covers a record at least."""
        return self.covered > 0 and all(each.proved for each in self.checks)


def verify_journal(
    journal: str | os.PathLike[str] | Journal,
    vkey: Keys,
    *,
    origin: str | None = None,
    checkpoints: Iterable[tuple[str, str]] = (),
    receipts: Iterable[tuple[str, str]] = (),
) -> Verification:
    """Read a whole journal and compare it with every checkpoint that is known of it.

    Args:
        journal: a path or URL, also of a journal that another process owns; or one that is open.
        vkey: the verifier key, or several where keys were rotated.
        origin: the log's name, where it is not that of the key.
        checkpoints: exported checkpoints as pairs of a name for the answer and the text, in which there
            may be several. Without any from outside nobody can tell whether a journal was replaced by an
            older one of its own.
        receipts: receipts as pairs of a name and the text.

    Returns:
        What was checked: nothing is raised for what is not proved.

    Raises:
        AuditError: no verifier key that can be used. JournalError: the journal can't be read.

    """
    keys = keys_of(vkey)
    if isinstance(journal, Journal):
        return _verify(journal, keys, origin, list(checkpoints), list(receipts))
    found = locate(journal)
    if not isinstance(found, ReadableJournal):
        raise NotAJournal(f"{journal}: a journal of this kind can't be read from outside")
    found.open_for_reading()
    assert isinstance(found, Journal)  # noqa: S101  # `locate` gives nothing else; the check narrows the type
    try:
        return _verify(found, keys, origin, list(checkpoints), list(receipts))
    finally:
        found.close()


def one_by_one(checkpoints: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Pairs of a name and one checkpoint, out of pairs whose text may have several, or none."""
    found: list[tuple[str, str]] = []
    for name, text in checkpoints:
        texts = split_checkpoints(text) or [text]
        names = [name] if len(texts) == 1 else [f"{name}:{number}" for number in range(1, len(texts) + 1)]
        found += zip(names, texts, strict=True)
    return found


@dataclass
class _Claim:
    """A checkpoint whose signature is right, and the root that the journal has there."""

    what: str
    source: str
    checkpoint: Checkpoint
    root: bytes | None = None


@dataclass
class _Reading:
    """What one reading of all records brought."""

    records: int = 0
    last: Position = _START
    """The position of the last one."""
    damage: list[Damage] = field(default_factory=list)
    damages: int = 0
    broken: str = ""
    """Why no root can be told behind a damaged record."""


def _verify(
    journal: Journal,
    keys: tuple[VerifierKey, ...],
    origin: str | None,
    checkpoints: list[tuple[str, str]],
    receipts: list[tuple[str, str]],
) -> Verification:
    kept = _kept(journal, HEAD_SNAPSHOT)
    if kept is not None:
        checkpoints = [(KEPT, kept.decode(errors="replace")), *checkpoints]
    claims, checks = _claims(keys, origin, one_by_one(checkpoints), receipts)
    reading = _read(journal, claims)
    checks = [_of_records(reading), *checks]
    proven = 0
    for claim in sorted(claims, key=lambda each: each.checkpoint.size):
        check = _judge(journal, claim, reading, proven)
        checks.append(check)
        if check.proved:
            proven = max(proven, claim.checkpoint.size)
    return Verification(records=reading.records, covered=proven, checks=tuple(checks))


def _claims(
    keys: tuple[VerifierKey, ...],
    origin: str | None,
    checkpoints: list[tuple[str, str]],
    receipts: list[tuple[str, str]],
) -> tuple[list[_Claim], list[Check]]:
    """What is signed as it should be, and the checks of what is not."""
    claims, failed = [], []
    for what, sources in (("checkpoint", checkpoints), ("receipt", receipts)):
        for source, text in sources:
            try:
                if what == "receipt":
                    checkpoint = verify_receipt(text, keys, origin=origin).checkpoint
                else:
                    checkpoint = verify_checkpoint(text, keys, origin=origin)
            except AuditError as error:
                failed.append(Check(what=what, source=source, proved=False, detail=str(error)))
            else:
                claims.append(_Claim(what, source, checkpoint))
    return claims, failed


def _read(journal: Journal, claims: list[_Claim]) -> _Reading:
    """Read all records once; each claim gets the root at its size."""
    reading = _Reading()
    for damage in verify_chain(_told(journal, claims, reading)):
        reading.damages += 1
        if reading.damages <= _SHOWN:
            reading.damage.append(damage)
    return reading


def _told(journal: Journal, claims: list[_Claim], reading: _Reading) -> Iterator[Record | Damage]:
    """All records, with the roots told to the claims on the way."""
    frontier = Frontier()
    due = sorted(claims, key=lambda each: each.checkpoint.size, reverse=True)
    while True:
        while due and due[-1].checkpoint.size <= frontier.size:
            due.pop().root = frontier.root()
        # Up to the next claim, so that nobody has to look for one at each record.
        room = min(_READ_AT_ONCE, due[-1].checkpoint.size - frontier.size if due else _READ_AT_ONCE)
        found = journal.scan(reading.last, room)
        if not found:
            return
        for record in found:
            reading.records += 1
            if not reading.broken:
                _append(frontier, record, reading)
            yield record
        if reading.broken:
            due = []
        reading.last = Position(found[-1].position or reading.last + len(found))


def _append(frontier: Frontier, record: Record | Damage, reading: _Reading) -> None:
    if isinstance(record, Damage):
        reading.broken = record.detail
    elif record.position != frontier.size + 1:
        reading.broken = f"record {frontier.size + 1} is missing"
    else:
        try:
            frontier.append(leaf_hash(leaf_of(record)))
        except UNFIT:
            reading.broken = f"record {record.position} has fields that no record can have"


def _of_records(reading: _Reading) -> Check:
    """The check of the records by themselves."""
    if not reading.damages:
        detail = f"{reading.records:,} records, complete, and each chained to the one before"
        return Check(what="records", source=KEPT, proved=True, detail=detail)
    places = [each.detail for each in reading.damage]
    if reading.damages > _SHOWN:
        places.append(f"and {reading.damages - _SHOWN} more")
    return Check(what="records", source=KEPT, proved=False, detail="; ".join(places))


def _judge(journal: Journal, claim: _Claim, reading: _Reading, proven: int) -> Check:
    """Whether the journal has the root that was signed; `proven` is the last size where it has."""
    signed = claim.checkpoint
    if not signed.size:
        detail = f"{signed.origin} signed a journal without records: nothing is covered"
    elif claim.root == signed.root:
        detail = f"the first {signed.size:,} records are those that {signed.origin} signed"
    elif claim.root is not None:
        detail = f"not what {signed.origin} signed: {_narrowed(journal, signed, proven)}"
    elif signed.size <= reading.last:
        detail = f"can't be compared: {reading.broken}"
    else:
        detail = (
            f"{signed.size:,} records were signed, and the journal ends at {reading.last:,}: "
            "the last ones were removed, or the journal was replaced by an older one"
        )
    return Check(
        what=claim.what,
        source=claim.source,
        size=signed.size,
        proved=claim.root == signed.root,
        detail=detail,
    )


def _narrowed(journal: Journal, signed: Checkpoint, proven: int) -> str:
    """Where the difference is: behind what is proven, and in which blocks, if kept roots are the signed."""
    roots = _kept(journal, TREE_SNAPSHOT) or b""
    kept = [roots[at : at + HASH_SIZE] for at in range(0, len(roots), HASH_SIZE)][: signed.size // BLOCK]
    places = [(proven + 1, signed.size)]
    if len(kept) == signed.size // BLOCK:
        now, then = Tree(journal), Tree(journal, kept)
        now.grow(signed.size)
        then.grow(signed.size)
        if then.root(signed.size) == signed.root:
            changed = [block for block, root in enumerate(kept) if now.blocks[block] != root]
            places = [(max(block * BLOCK, proven) + 1, (block + 1) * BLOCK) for block in changed[:_SHOWN]]
    told = " and ".join(f"from {first:,} to {last:,}" for first, last in places)
    return f"a record {told} was changed, added, moved or removed"


def _kept(journal: Journal, name: str) -> bytes | None:
    try:
        found = journal.get_snapshot(name)
    except JournalError:  # a journal that is open for reading need not have any
        return None
    return None if found is None else found[1]
