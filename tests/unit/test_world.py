"""Ids."""

from meowcat.runtime.world import Clock, ulids

EXAMPLE = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
"""The one of the ULID specification."""
AT = 1469922850259
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def number_of(text):
    return sum(ALPHABET.index(char) << 5 * place for place, char in enumerate(reversed(text)))


def chance_of(text):
    return bytes(ALPHABET.index(char) for char in text[10:])


def test_an_id_is_a_ulid():
    assert number_of(EXAMPLE) >> 80 == AT
    assert ulids(AT, chance_of(EXAMPLE)) == [EXAMPLE]
    assert ulids((1 << 48) - 1, b"\xff" * 16) == ["7" + "Z" * 25]
    assert ulids(0, bytes(16)) == ["0" * 26]


def test_each_character_of_chance_is_as_likely_as_any_other():
    drawn = "".join(each[10:] for each in ulids(0, bytes(range(256))))
    assert {drawn.count(char) for char in ALPHABET} == {256 // 32}


def test_ids_of_many_are_in_order_and_have_chance_of_their_own():
    clock = Clock(wall=lambda: AT)
    ids = clock.new_ids(1000)
    assert ids == sorted(set(ids))
    assert {number_of(each) >> 80 for each in ids} == {AT}
    assert len({each[10:] for each in ids}) == 1000
    assert clock.new_ids(0) == []


def test_an_id_is_made_of_the_chance_that_the_clock_gives():
    assert Clock(wall=lambda: AT, entropy=bytes).new_ids(2) == ulids(AT, bytes(32))
    assert Clock(wall=lambda: AT, entropy=bytes).new_id() == ulids(AT, bytes(16))[0]
