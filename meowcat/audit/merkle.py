"""Merkle trees and their proofs as RFC 6962 section 2.1 and RFC 9162 section 2.1 have them. Pure.

A tree of n leaves is split at the largest power of two below n; so its left part is perfect, an odd node is
promoted and never doubled, and a tree keeps its perfect subtrees however far it grows.
"""

import hashlib
from collections.abc import Callable, Sequence

_sha256 = hashlib.sha256

HASH_SIZE = 32
EMPTY = _sha256().digest()
"""The root of the tree without leaves."""

Subtree = Callable[[int, int], bytes]
"""The root over the leaves from the first number to the one before the second, as a tree of their own."""


def leaf_hash(entry: bytes) -> bytes:
    """The hash of a leaf: SHA-256(0x00 || entry)."""
    return _sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node: SHA-256(0x01 || left || right)."""
    return _sha256(b"\x01" + left + right).digest()


def root_of(hashes: Sequence[bytes]) -> bytes:
    """The root over these nodes: leaves, or the roots of perfect subtrees of one height, of which the last
    may be ragged.
    """
    level = list(hashes)
    while len(level) > 1:
        odd = level[-1:] if len(level) % 2 else []
        level = [
            _sha256(b"\x01" + left + right).digest()
            for left, right in zip(level[::2], level[1::2], strict=False)
        ]
        level += odd
    return level[0] if level else EMPTY


class Frontier:
    """What of a tree suffices to append to it and to tell its root: at most one node of each height (a
    compact range).
    """

    __slots__ = ("_nodes", "size")

    def __init__(self) -> None:
        self.size = 0
        self._nodes: list[bytes] = []

    def append(self, leaf: bytes) -> None:
        """Add the hash of the next leaf."""
        count = self.size
        while count & 1:
            leaf = _sha256(b"\x01" + self._nodes.pop() + leaf).digest()
            count >>= 1
        self._nodes.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """The root of the tree as it is now."""
        if not self._nodes:
            return EMPTY
        root = self._nodes[-1]
        for node in reversed(self._nodes[:-1]):
            root = node_hash(node, root)
        return root


def inclusion_proof(index: int, size: int, subtree: Subtree) -> list[bytes]:
    """PATH of RFC 6962 2.1.1: the nodes beside the way from leaf `index` to the root, from the bottom up.

    Raises:
        ValueError: a tree of `size` has no such leaf.

    """
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} of a tree of {size}: expected 0 to {size - 1}")
    beside: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            beside.append(subtree(middle, end))
            end = middle
        else:
            beside.append(subtree(start, middle))
            start = middle
    return beside[::-1]


def consistency_proof(old: int, new: int, subtree: Subtree) -> list[bytes]:
    """PROOF of RFC 6962 2.1.2: that the tree of `old` leaves is the beginning of the tree of `new`.

    Raises:
        ValueError: `old` is negative or larger than `new`.

    """
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {old} is no beginning of one of {new}")
    if old in (0, new):
        return []
    nodes: list[bytes] = []
    start, end = 0, new
    while end != old:
        middle = start + _split(end - start)
        if old <= middle:
            nodes.append(subtree(middle, end))
            end = middle
        else:
            nodes.append(subtree(start, middle))
            start = middle
    if start:  # else the node is the old root itself, which the verifier has
        nodes.append(subtree(start, end))
    return nodes[::-1]


def verify_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether the leaf hash `leaf` is number `index` of the tree (RFC 9162 2.1.3.2)."""
    sides = _sides(index, size - 1, len(proof)) if 0 <= index < size else None
    if sides is None:
        return False
    for node, left in zip(proof, sides, strict=True):
        leaf = node_hash(node, leaf) if left else node_hash(leaf, node)
    return leaf == root


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether the tree of `old` leaves is the beginning of that of `new` (RFC 9162 2.1.4.2)."""
    if not 0 <= old <= new:
        return False
    if old in (0, new):
        return not proof and old_root == (new_root if old else EMPTY)
    height = (
        old & -old
    ).bit_length() - 1  # of the last perfect subtree of the old tree: the proof begins there
    if old == 1 << height:
        proof = (old_root, *proof)
    sides = _sides((old - 1) >> height, (new - 1) >> height, len(proof) - 1) if proof else None
    if sides is None:
        return False
    was = now = proof[0]
    for node, left in zip(proof[1:], sides, strict=True):
        if left:
            was = node_hash(node, was)
        now = node_hash(node, now) if left else node_hash(now, node)
    return was == old_root and now == new_root


def _sides(at: int, last: int, count: int) -> list[bool] | None:
    """Of the nodes beside the way from node `at` of a level up to the root, which stand on its left.

    `last` is the number of the level's last node. None: there are not `count` of them.
    """
    sides: list[bool] = []
    while last > 0:
        left = bool(at & 1) or at == last
        sides.append(left)
        while left and at and not at & 1:  # an odd node at the end is promoted, and has none beside it
            at, last = at >> 1, last >> 1
        at, last = at >> 1, last >> 1
    return sides if len(sides) == count else None


def _split(size: int) -> int:
    """The largest power of two below `size`, which is at least 2."""
    return 1 << (size - 1).bit_length() - 1
