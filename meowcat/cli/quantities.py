"""Sizes, times and rates, as people write and read them."""

import re
from collections.abc import Callable
from fractions import Fraction
from typing import TypeVar

import click

T = TypeVar("T")

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:([KMGTP])(iB|B)?|B)?\s*", re.IGNORECASE)
_POWERS = {"K": 1, "M": 2, "G": 3, "T": 4, "P": 5}
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_TIME = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?\s*")
_SECONDS = {
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "m": Fraction(60),
    "h": Fraction(3600),
    "d": Fraction(86_400),
}
_MINUTE, _HOUR = 60, 3600
_KIB = 1024


def parse_size(text: str) -> int:
    """Bytes in `65536`, `8M`, `1MiB`, `1.5G`: powers of 1024, but `MB` and its like are powers of 1000.

    Raises:
        ValueError: anything else, or no whole number of bytes.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no size: expected bytes, as in 65536, 512K, 8M, 1MiB or 10MB")
    number, letter, suffix = match.groups()
    base = 1000 if (suffix or "").lower() == "b" else 1024
    size = Fraction(number) * (base ** _POWERS[letter.upper()] if letter else 1)
    if size.denominator != 1:
        raise ValueError(f"{text!r} is no whole number of bytes")
    return int(size)


def parse_seconds(text: str) -> float:
    """Seconds in `30`, `1.5s`, `500ms`, `2m`, `1h`, `7d`.

    Raises:
        ValueError: anything else.
    """
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no time: expected seconds, as in 30, 500ms, 2m or 7d")
    return float(Fraction(match[1]) * _SECONDS[match[2] or "s"])


def size_option(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """A click callback: the option's text as bytes."""
    return _read(parse_size, context, parameter, value)


def seconds_option(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """A click callback: the option's text as seconds."""
    return _read(parse_seconds, context, parameter, value)


def _read(
    parse: Callable[[str], T], context: click.Context, parameter: click.Parameter, value: str | None
) -> T | None:
    try:
        return None if value is None else parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from error


def size_text(size: float | None) -> str:
    """`1.5 MiB`; `?` where the size is not known."""
    if size is None:
        return "?"
    unit = 0
    while size >= _KIB and unit < len(_UNITS) - 1:
        size /= _KIB
        unit += 1
    return f"{size:.0f} {_UNITS[unit]}" if unit == 0 else f"{size:.1f} {_UNITS[unit]}"


def rate_text(rate: float) -> str:
    return f"{size_text(rate)}/s"


def seconds_text(seconds: float | None) -> str:
    """`12s`, `3m05s`, `2h07m`; `?` where it can't be told."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m{whole % _MINUTE:02}s"
    return f"{whole // _HOUR}h{whole % _HOUR // _MINUTE:02}m"


def percent_text(fraction: float) -> str:
    """A percentage that is 100 only at the end."""
    return "100%" if fraction >= 1 else f"{int(fraction * 1000) / 10:.1f}%"


def counted(count: int, thing: str) -> str:
    """`1 task`, `1,200 tasks`."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
