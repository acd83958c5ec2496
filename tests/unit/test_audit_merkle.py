"""Trees and proofs of RFC 6962 and RFC 9162, against their definitions written down word for word."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meowcat.audit.merkle import (
    EMPTY,
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)

LEAVES = [
    bytes.fromhex(each)
    for each in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]  # fmt: skip


# The definitions of RFC 6962 2.1, as they stand there


def split(n):
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def mth(d):
    if not d:
        return hashlib.sha256().digest()
    if len(d) == 1:
        return hashlib.sha256(b"\x00" + d[0]).digest()
    k = split(len(d))
    return hashlib.sha256(b"\x01" + mth(d[:k]) + mth(d[k:])).digest()


def path(m, d):
    if len(d) == 1:
        return []
    k = split(len(d))
    return [*path(m, d[:k]), mth(d[k:])] if m < k else [*path(m - k, d[k:]), mth(d[:k])]


def subproof(m, d, b):
    if m == len(d):
        return [] if b else [mth(d)]
    k = split(len(d))
    if m <= k:
        return [*subproof(m, d[:k], b), mth(d[k:])]
    return [*subproof(m - k, d[k:], False), mth(d[:k])]


def leaves(count):
    return [number.to_bytes(3, "big") for number in range(count)]


def subtree(d):
    return lambda start, end: root_of([leaf_hash(each) for each in d[start:end]])


@pytest.mark.parametrize(("size", "root"), list(enumerate(ROOTS)))
def test_the_roots_are_those_of_the_reference(size, root):
    hashes = [leaf_hash(each) for each in LEAVES[:size]]
    frontier = Frontier()
    for each in hashes:
        frontier.append(each)
    assert root_of(hashes).hex() == frontier.root().hex() == root
    assert frontier.size == size


@given(st.integers(0, 70))
def test_both_ways_to_a_root_are_the_definition(size):
    d = leaves(size)
    hashes = [leaf_hash(each) for each in d]
    frontier = Frontier()
    for each in hashes:
        frontier.append(each)
    assert root_of(hashes) == frontier.root() == mth(d)


@given(st.integers(0, 100), st.integers(0, 3))
def test_a_root_can_be_made_of_perfect_subtrees(size, height):
    d, width = leaves(size), 1 << height
    blocks = [mth(d[start : start + width]) for start in range(0, size, width)]
    assert root_of(blocks) == mth(d)


@st.composite
def indices(draw):
    size = draw(st.integers(1, 70))
    return draw(st.integers(0, size - 1)), size


@given(indices())
def test_an_inclusion_proof_is_the_definition_and_verifies(case):
    index, size = case
    d = leaves(size)
    proof = inclusion_proof(index, size, subtree(d))
    assert proof == path(index, d)
    assert verify_inclusion(index, size, leaf_hash(d[index]), proof, mth(d))


@given(indices(), st.data())
def test_an_inclusion_proof_of_anything_else_does_not_verify(case, data):
    index, size = case
    d = leaves(size)
    leaf, proof, root = leaf_hash(d[index]), path(index, d), mth(d)
    other = data.draw(st.integers(-2, size + 2).filter(lambda each: each != index))
    assert not verify_inclusion(other, size, leaf, proof, root)
    assert not verify_inclusion(index, size, leaf_hash(b"another"), proof, root)
    assert not verify_inclusion(index, size, leaf, [*proof, leaf], root)
    assert not verify_inclusion(index, size, leaf, proof, leaf_hash(root))
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        assert not verify_inclusion(index, size, leaf, proof[:at] + proof[at + 1 :], root)
        assert not verify_inclusion(index, size, leaf, [*proof[:at], EMPTY, *proof[at + 1 :]], root)
    # Another size is another tree, or has the same shape above this leaf and another root.
    larger = data.draw(st.integers(size + 1, size + 9))
    assert not verify_inclusion(index, larger, leaf, proof, mth(leaves(larger)))


def pairs():
    return st.tuples(st.integers(0, 70), st.integers(0, 70)).map(sorted)


@given(pairs())
def test_a_consistency_proof_is_the_definition_and_verifies(case):
    old, new = case
    d = leaves(new)
    proof = consistency_proof(old, new, subtree(d))
    assert proof == (subproof(old, d, True) if 0 < old < new else [])
    assert verify_consistency(old, new, mth(d[:old]), mth(d), proof)


@given(pairs(), st.data())
def test_a_history_that_was_rewritten_has_no_consistency_proof(case, data):
    old, new = case
    d = leaves(new)
    proof = consistency_proof(old, new, subtree(d))
    if old:
        changed = list(d)
        changed[data.draw(st.integers(0, old - 1))] = b"another"
        assert not verify_consistency(old, new, mth(changed[:old]), mth(d), proof)
        assert not verify_consistency(old, new, mth(d[:old]), mth(changed), proof)
        other = consistency_proof(old, new, subtree(changed))
        assert not verify_consistency(old, new, mth(d[:old]), mth(changed), other)
    else:
        assert not verify_consistency(0, new, leaf_hash(b""), mth(d), proof)
    assert not verify_consistency(old, new, mth(d[:old]), mth(d), [*proof, EMPTY])
    assert not verify_consistency(new + 1, new, mth(d), mth(d), proof)
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        assert not verify_consistency(old, new, mth(d[:old]), mth(d), proof[:at] + proof[at + 1 :])


def test_leaves_and_nodes_can_not_be_taken_for_each_other():
    assert leaf_hash(EMPTY + EMPTY) != node_hash(EMPTY, EMPTY)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (5, 5), (-1, 5)])
def test_a_leaf_that_is_not_there_has_no_proof(index, size):
    with pytest.raises(ValueError, match=f"leaf {index} of a tree of {size}"):
        inclusion_proof(index, size, subtree([]))
    assert not verify_inclusion(index, size, EMPTY, [], EMPTY)


@pytest.mark.parametrize(("old", "new"), [(-1, 5), (6, 5)])
def test_a_tree_that_is_no_beginning_has_no_proof(old, new):
    with pytest.raises(ValueError, match="is no beginning"):
        consistency_proof(old, new, subtree([]))
