"""Settings are checked when they are made, and the message says what is allowed."""

import dataclasses

import pytest
from rich.pretty import pretty_repr

import meowcat

BOUNDS = {
    "max_downloads": (1, 1024),
    "max_uploads": (1, 1024),
    "max_fetches": (1, 64),
    "max_per_host": (1, 1024),
    "connections": (1, 256),
    "piece_size": (64 << 10, 512 << 20),
    "retries": (0, 1_000_000),
    "prepare_retries": (0, 1_000_000),
    "limit_rate": (1, 1 << 50),
    "limit_rate_per_host": (1, 1 << 50),
    "max_requests": (1, 256),
    "max_in_flight": (1 << 20, 512 << 20),
    "queue_capacity": (1, 1_000_000),
    "fetch_capacity": (1, 1_000_000),
    "flush_bytes": (1 << 20, 512 << 20),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_a_number_has_bounds_and_the_bounds_are_allowed(name):
    least, most = BOUNDS[name]
    for value in (least, most):
        assert getattr(meowcat.Config(**{name: value}), name) == value
    for value in (least - 1, most + 1):
        with pytest.raises(
            meowcat.InvalidArgument,
            match=f"{name} {value}: expected a whole number from {least:,} to {most:,}",
        ):
            meowcat.Config(**{name: value})


@pytest.mark.parametrize("name", ["connect_timeout", "read_timeout", "pool_timeout", "flush_seconds"])
def test_a_time_is_more_than_nothing(name):
    with pytest.raises(meowcat.InvalidArgument, match=f"{name} 0: expected 0.001 to"):
        meowcat.Config(**{name: 0})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"durability": "maybe"}, "expected 'power' or 'process'"),
        ({"digest": "sha0"}, "expected one of sha256"),
        ({"proxy": "http://"}, "proxy: expected a URL"),
        ({"accept": "a/b\r\nX: made-up"}, "header 'accept' has a line break"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong, said):
    with pytest.raises(meowcat.InvalidArgument, match=said) as refused:
        meowcat.Config(**wrong)
    assert "made-up" not in str(refused.value)


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        meowcat.Config().retries = 5


def test_the_password_of_a_proxy_is_not_shown():
    config = meowcat.Config(proxy="http://me:made-up@proxy.example:3128")
    assert "made-up" not in repr(config) + str(config) + pretty_repr(config)
