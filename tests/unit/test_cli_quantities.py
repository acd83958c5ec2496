"""Sizes and times are read as people write them, and nothing else is."""

import pytest

from meowcat.cli.quantities import (
    counted,
    parse_seconds,
    parse_size,
    percent_text,
    rate_text,
    seconds_text,
    size_text,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("65536", 65536),
        ("0", 0),
        ("12B", 12),
        ("512K", 512 << 10),
        ("512k", 512 << 10),
        ("8M", 8 << 20),
        ("1MiB", 1 << 20),
        ("1 mib", 1 << 20),
        ("1.5G", 3 << 29),
        ("2T", 2 << 40),
        ("1P", 1 << 50),
        ("10MB", 10_000_000),
        ("1.5kB", 1500),
        ("9007199254740993", 9007199254740993),  # one more than a float can hold
    ],
)
def test_a_size_is_binary_unless_it_says_megabytes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "1X", "-1", "1e6", "1 M iB", "1Mi", "1iB", "0x10", "nan", "1,5M"])
def test_what_is_no_size_is_refused_with_examples(text):
    with pytest.raises(ValueError, match="expected bytes, as in"):
        parse_size(text)


def test_half_a_byte_is_refused():
    with pytest.raises(ValueError, match="whole number of bytes"):
        parse_size("1.5")
    with pytest.raises(ValueError, match="whole number of bytes"):
        parse_size("0.3K")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), ("1.5", 1.5), ("1.5s", 1.5), ("500ms", 0.5), ("2m", 120), ("1h", 3600), ("7d", 604_800)],
)
def test_a_time_is_seconds_unless_it_says_otherwise(text, seconds):
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1", "1w", "1 2", "inf"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match="expected seconds"):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, "?"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (268435456, "256.0 MiB"),
        (2**63, "8.0 EiB"),
    ],
)
def test_sizes_are_shown_in_binary_units(size, text):
    assert size_text(size) == text


def test_rates_and_times_are_short():
    assert rate_text(1536) == "1.5 KiB/s"
    assert [seconds_text(each) for each in (None, 0, 59.4, 185, 7620)] == ["?", "0s", "59s", "3m05s", "2h07m"]


def test_a_hundred_percent_is_the_end_and_nothing_before_it():
    assert percent_text(1.0) == "100%"
    assert percent_text(0.99999) == "99.9%"
    assert percent_text(0) == "0.0%"


def test_things_are_counted_in_plain_english():
    assert [counted(count, "task") for count in (0, 1, 1200)] == ["0 tasks", "1 task", "1,200 tasks"]
