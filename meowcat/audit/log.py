"""A journal as a log: the tree over its records, checkpoints of it, and receipts. Blocking.

The roots of full blocks of records are kept in the journal as an advisory snapshot, so that a checkpoint
costs what was added since the last one and a receipt costs a block or two. They are believed only as far as a
signed checkpoint of this key comes out of them; otherwise all records are read again.
"""

import logging
import os
from collections.abc import Iterator, Sequence

from meowcat.audit.checkpoints import Checkpoint, parse_checkpoint
from meowcat.audit.files import CheckpointFile
from meowcat.audit.keys import Signer, sign_note
from meowcat.audit.merkle import (
    HASH_SIZE,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_of,
    verify_consistency,
)
from meowcat.audit.notes import check_name, parse_vkey
from meowcat.audit.receipts import Proof, leaf_of, verify_receipt
from meowcat.core.errors import AuditError, JournalError
from meowcat.core.events import TAGS, Completed
from meowcat.core.values import Position, TaskId
from meowcat.journal.contract import Damage, Journal, Record

log = logging.getLogger("meowcat.audit")

BLOCK = 4096
"""Records in a block: a perfect subtree, whose root is kept."""

HEAD_SNAPSHOT = "audit-checkpoint"
TREE_SNAPSHOT = "audit-tree"
"""Names of what is kept in the journal: the newest checkpoint, and the roots of full blocks."""

_READ_AT_ONCE = 2048


class Tree:
    """The tree over a journal's records, as far as it was grown."""

    def __init__(self, journal: Journal, blocks: Sequence[bytes] = ()) -> None:
        """Begin with the roots of the first full blocks, where they are known."""
        self._journal = journal
        self.blocks = list(blocks)
        self._tail: list[bytes] = []
        self._block: tuple[int, list[bytes]] = (-1, [])

    @property
    def size(self) -> int:
        """Leaves so far."""
        return len(self.blocks) * BLOCK + len(self._tail)

    def grow(self, last: int) -> None:
        """Take in the records up to position `last`.

        Raises:
            AuditError: one of them is damaged or missing. JournalError: the journal can't be read.

        """
        while self.size < last:
            room = min(BLOCK - len(self._tail), last - self.size, _READ_AT_ONCE)
            self._tail += _leaves(self._journal, self.size, room)
            if len(self._tail) == BLOCK:
                self.blocks.append(root_of(self._tail))
                self._tail = []

    def root(self, size: int) -> bytes:
        """The root over the first `size` leaves."""
        return self.subtree(0, size)

    def subtree(self, start: int, end: int) -> bytes:
        """The root over leaves `start` to `end` - 1, where `start` is a multiple of each block in between.

        Raises:
            AuditError: records of a block that has to be read are not those that its root was made of.

        """
        nodes: list[bytes] = []
        first, last = start // BLOCK, end // BLOCK
        if start % BLOCK or first == last:  # inside of one block
            return root_of(self._leaves(first, start, end))
        nodes += self.blocks[first:last]
        if end % BLOCK:
            nodes.append(root_of(self._leaves(last, last * BLOCK, end)))
        return root_of(nodes)

    def _leaves(self, block: int, start: int, end: int) -> list[bytes]:
        """Hashes of leaves that are all of one block."""
        first = block * BLOCK
        if block == len(self.blocks):
            return self._tail[start - first : end - first]
        if self._block[0] != block:
            found = [*_leaves(self._journal, first, BLOCK)]
            if root_of(found) != self.blocks[block]:
                raise AuditError(
                    f"one of the records {first + 1} to {first + BLOCK} is not what it was when it was signed"
                )
            self._block = (block, found)
        return self._block[1][start - first : end - first]


def _leaves(journal: Journal, after: int, count: int) -> Iterator[bytes]:
    """The leaf hashes of `count` records behind position `after`.

    Raises:
        AuditError: one is damaged, or not there.

    """
    end = after + count
    while after < end:
        found = journal.scan(Position(after), min(end - after, _READ_AT_ONCE))
        for record in found:
            if isinstance(record, Damage):
                raise AuditError(f"the history is damaged: {record.detail}")
            after += 1
            if record.position != after:
                break
            yield leaf_hash(leaf_of(record))
        else:
            if found:
                continue
            after += 1
        raise AuditError(f"record {after} is missing: it was removed, or moved to an archive")


class Log:
    """Signs what a journal holds, for as long as it goes on from what was signed before.

    `sign` and `receipt` only read; `keep` writes to the journal, and belongs into its writer. One thread at
    a time uses a log.
    """

    def __init__(
        self,
        journal: Journal,
        signer: Signer,
        *,
        origin: str | None = None,
        file: str | os.PathLike[str] | None = None,
    ) -> None:
        """Take an open journal.

        Args:
            journal: open for writing, or for reading where nothing is kept.
            signer: the key; its name is the log's where `origin` is not given.
            origin: the log's name.
            file: where checkpoints are appended; those of this log in it are gone on from as well.

        Raises:
            AuditError: a name that no log can have.

        """
        self._journal = journal
        self._signer = signer
        self.key = parse_vkey(signer.vkey)
        self.origin = origin or self.key.name
        check_name(self.origin)
        self._file = None if file is None else CheckpointFile(file)
        self._tree: Tree | None = None
        self.head: str | None = None
        """The newest checkpoint of this log and key that is kept in the journal or in the file."""
        self._kept: str | None = None
        """The one in the journal."""

    # Signing

    def sign(self, last: Position | None = None) -> str:
        """A checkpoint of all records: a new one, or the newest where nothing was added. It must be kept
        before anybody gets it.

        Args:
            last: the position of the newest record that is certainly stored; by default the journal's last.

        Raises:
            AuditError: the records are not a continuation of what was signed before, or can't be read:
                nothing was signed. JournalError: the journal can't be read.

        """
        tree = self._grown(last)
        if self.head is not None and _of(self.head).size == tree.size:
            return self.head
        checkpoint = Checkpoint(origin=self.origin, size=tree.size, root=tree.root(tree.size))
        return sign_note(str(checkpoint), self._signer)

    def keep(self, text: str) -> None:
        """Remember a checkpoint that `sign` gave, durably: from here on it may be seen."""
        if text == self._kept:
            return
        blocks = self._grown_already().blocks
        self._journal.put_snapshot(HEAD_SNAPSHOT, Position(_of(text).size), text.encode())
        self.head = self._kept = text
        self._journal.put_snapshot(TREE_SNAPSHOT, Position(len(blocks) * BLOCK), b"".join(blocks))

    def export(self, text: str) -> None:
        """Append a checkpoint that is kept to the file, where there is one.

        Raises:
            AuditError: it can't be written.

        """
        if self._file is not None:
            self._file.add(text)

    def _grown_already(self) -> Tree:
        assert self._tree is not None  # noqa: S101  # there is a checkpoint to keep or prove only after `sign`
        return self._tree

    def _grown(self, last: Position | None) -> Tree:
        """The tree with all records, which goes on from every checkpoint that is known."""
        last = self._journal.last() if last is None else last
        if self._tree is None:
            self._tree = self._loaded(last)
        else:
            self._tree.grow(last)
        return self._tree

    def _loaded(self, last: Position) -> Tree:
        kept, filed = self._known()
        head = max(
            (text for text in (kept, filed) if text and self._by_this_key(text)), key=_size, default=None
        )
        tree = self._with_kept_blocks(head, last) or Tree(self._journal)
        tree.grow(last)
        for text in (kept, filed):
            if text is not None:
                self._check_continues(tree, _of(text))
        self.head, self._kept = head, kept
        return tree

    def _known(self) -> tuple[str | None, str | None]:
        """The newest checkpoint of this log in the journal, and the newest in the file."""
        found = self._snapshot(HEAD_SNAPSHOT)
        text = None if found is None else found[1].decode(errors="replace")
        kept = self._newest([text] if text else [], "the checkpoint that the journal keeps")
        if self._file is None:
            return kept, None
        if kept is not None and self._by_this_key(kept):
            self._file.add(kept)  # what a crash kept from getting there, or cut off
        return kept, self._newest(self._file.texts(), f"a checkpoint in {self._file.path}")

    def _newest(self, texts: Sequence[str], where: str) -> str | None:
        """The one that covers the most; those of other logs are left out."""
        try:
            return max((text for text in texts if _of(text).origin == self.origin), key=_size, default=None)
        except AuditError as error:
            raise AuditError(f"{where} can't be read: {error}; nothing is signed") from error

    def _by_this_key(self, text: str) -> bool:
        """Whether the key signed it. Another key may have, before it was replaced by this one."""
        _, note = parse_checkpoint(text)
        if not any((each.name, each.id) == (self.key.name, self.key.id) for each in note.signatures):
            return False
        return bool(note.signed_by([self.key]))

    def _snapshot(self, name: str) -> tuple[Position, bytes] | None:
        try:
            return self._journal.get_snapshot(name)
        except JournalError:  # a journal that is open for reading need not have any
            return None

    def _with_kept_blocks(self, head: str | None, last: Position) -> Tree | None:
        """The tree from kept roots, if a signed checkpoint comes out of them."""
        kept = self._snapshot(TREE_SNAPSHOT)
        if kept is None or head is None:
            return None
        signed = _of(head)
        roots = [kept[1][at : at + HASH_SIZE] for at in range(0, len(kept[1]), HASH_SIZE)]
        tree = Tree(self._journal, roots[: min(signed.size, last) // BLOCK])
        try:
            tree.grow(last)
            if tree.size >= signed.size and tree.root(signed.size) == signed.root:
                return tree
        except AuditError:  # a block that its root does not fit: without the roots it is told what is wrong
            pass
        log.warning("the kept roots of the audit tree are of no use: reading all records")
        return None

    def _check_continues(self, tree: Tree, known: Checkpoint) -> None:
        """A log never signs two checkpoints of which one is not the beginning of the other."""
        if known.size > tree.size:
            raise AuditError(
                f"the journal has {tree.size} records, but {known.size} were signed as {self.origin}: "
                "some were removed, or the journal was replaced by an older one; nothing is signed"
            )
        proof = consistency_proof(known.size, tree.size, tree.subtree)
        if not verify_consistency(known.size, tree.size, known.root, tree.root(tree.size), proof):
            raise AuditError(
                f"the first {known.size} records are not those that were signed as {self.origin}: "
                "the history was changed, or is another journal's; nothing is signed"
            )

    # Receipts

    def receipt(self, task: TaskId, checkpoint: str) -> str:
        """The receipt of a Complete task under a checkpoint that `sign` gave and that covers it.

        Raises:
            AuditError: the task is not Complete, or its record is not what was signed.

        """
        record = self.completion(task)
        tree, size = self._grown_already(), _of(checkpoint).size
        index = record.position - 1
        nodes = inclusion_proof(index, size, tree.subtree)
        text = str(Proof(leaf_of(record), index, tuple(nodes), checkpoint))
        verify_receipt(text, self.key, origin=self.origin)
        return text

    def covering(self, task: TaskId, last: Position | None = None) -> str | None:
        """The newest checkpoint, if it covers the task's end; None where a new one has to be signed.

        Raises:
            AuditError: as `sign`; and the task is not Complete.

        """
        position = self.completion(task).position
        self._grown(last)
        if self.head is None or _of(self.head).size < position:
            return None
        return self.head

    def completion(self, task: TaskId) -> Record:
        """The record of a task's completion.

        Raises:
            AuditError: there is none, or the task's records are damaged.

        """
        records = self._journal.read(task)
        for record in records:
            if isinstance(record, Damage):
                raise AuditError(f"task {task}: its records are damaged: {record.detail}")
            if record.type == TAGS[Completed]:
                return record
        if not records:
            raise AuditError(f"task {task}: the journal has no such task")
        raise AuditError(f"task {task} is not Complete: only what was completed has a receipt")


def _of(text: str) -> Checkpoint:
    return parse_checkpoint(text)[0]


def _size(text: str) -> int:
    return _of(text).size
