"""Ids."""

from meowcat.runtime.world import Clock, ulid

EXAMPLE = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
"""The one of the ULID specification."""
AT = 1469922850259


def number_of(text):
    digits = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    return sum(digits.index(char) << 5 * place for place, char in enumerate(reversed(text)))


def chance_of(text):
    return (number_of(text) & ((1 << 80) - 1)).to_bytes(10)


def test_an_id_is_a_ulid():
    assert number_of(EXAMPLE) >> 80 == AT
    assert ulid(AT, chance_of(EXAMPLE)) == EXAMPLE
    assert ulid((1 << 48) - 1, b"\xff" * 10) == "7" + "Z" * 25
    assert ulid(0, bytes(10)) == "0" * 26


def test_ids_of_many_are_what_one_by_one_makes_of_the_same_chance():
    chance = bytes(range(50))
    clock = Clock(wall=lambda: AT, entropy=lambda count: chance[:count])
    ids = clock.new_ids(5)
    assert ids == [ulid(AT, chance[n : n + 10]) for n in range(0, 50, 10)]
    assert clock.new_id() == ids[0]
    assert clock.new_ids(0) == []
