import pytest
from hypothesis import given
from hypothesis import strategies as st

from meowcat.core.retry import (
    DISK_PROBE_CAP_MS,
    FREE,
    HOST_PROBE_CAP_MS,
    Class,
    HostHold,
    backoff,
    classify,
    hold,
    http_date,
    lift,
    may_start,
    parse_retry_after,
    probe_delay,
    probe_over,
)
from meowcat.core.values import Fault, FaultKind

rolls = st.floats(0, 1, exclude_max=True)


def fault(kind, status=None):
    return Fault(kind=kind, detail="", status=status)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(kind, Class.PERMANENT) for kind in FaultKind if kind.name in (
        "TLS", "REPLY", "RANGE", "LENGTH", "CHECKSUM", "LOCAL_REMOVED", "TARGET_EXISTS", "TARGET_OWNED",
        "FILE_NOT_FOUND", "IO", "REDIRECT", "INTERNAL",
    )]
    + [
        (FaultKind.TIMEOUT, Class.TRANSIENT),
        (FaultKind.DISCONNECTED, Class.TRANSIENT),
        (FaultKind.EXHAUSTED, Class.TRANSIENT),
        (FaultKind.SLOW, Class.TRANSIENT),
        (FaultKind.UNREACHABLE, Class.UNREACHABLE),
        (FaultKind.DISK_FULL, Class.DISK),
        (FaultKind.CHANGED, Class.CHANGED),
    ],
)  # fmt: skip
def test_a_fault_has_a_class_by_its_kind(kind, expected):
    assert classify(fault(kind)) is expected


def test_a_status_is_transient_only_where_asking_again_can_help():
    transient = {s for s in range(100, 1000) if classify(fault(FaultKind.STATUS, s)) is Class.TRANSIENT}
    assert transient == {408, 425, 429} | (set(range(500, 600)) - {501, 505})
    assert classify(fault(FaultKind.STATUS)) is Class.PERMANENT


@given(st.integers(-5, 10_000), rolls)
def test_delays_stay_within_their_bounds(attempt, roll):
    assert 0 <= backoff(attempt, roll) < 30_000
    assert 500 <= probe_delay(attempt, roll) <= HOST_PROBE_CAP_MS
    assert 500 <= probe_delay(attempt, roll, DISK_PROBE_CAP_MS) <= DISK_PROBE_CAP_MS


def test_backoff_is_full_jitter_over_a_doubling_range():
    assert [backoff(attempt, 0.999999) for attempt in (1, 2, 3, 7, 99)] == [499, 999, 1999, 29999, 29999]
    assert backoff(9, 0.0) == 0
    assert backoff(1, 0.5, base_ms=100) == 50


def test_probes_grow_and_never_come_at_once():
    assert [probe_delay(attempt, 0.0) for attempt in (1, 2, 3, 99)] == [500, 1000, 2000, 150_000]


NOW = 1_800_000_000_000
TEN = "Mon, 23 Nov 2026 10:00:00 GMT"


@pytest.mark.parametrize(
    ("value", "date", "now", "expected"),
    [
        ("120", None, None, 120_000),
        (" 0 ", None, None, 0),
        ("86401", None, None, 86_400_000),
        ("9" * 400, None, None, 86_400_000),
        ("Mon, 23 Nov 2026 10:01:00 GMT", TEN, NOW, 60_000),
        ("Monday, 23-Nov-26 10:01:00 GMT", TEN, NOW, 60_000),
        ("Mon Nov 23 10:01:00 2026", TEN, NOW, 60_000),
        ("Mon, 23 Nov 2026 09:00:00 GMT", TEN, NOW, 0),
        ("Tue, 23 Nov 2027 09:00:00 GMT", TEN, NOW, 86_400_000),
        ("Mon, 23 Nov 2026 10:01:00 GMT", "garbage", 1_795_428_000_000, 60_000),
        ("Mon, 23 Nov 2026 10:01:00 GMT", None, None, None),
        (None, TEN, NOW, None),
        ("", TEN, NOW, None),
        ("1.5", TEN, NOW, None),
        ("-1", TEN, NOW, None),
        ("١٢", TEN, NOW, None),
        ("soon", TEN, NOW, None),
    ],
)
def test_retry_after_has_two_forms_and_trusts_the_servers_clock(value, date, now, expected):
    assert parse_retry_after(value, date, now) == expected


@given(st.text(max_size=40), st.text(max_size=40))
def test_garbage_in_dates_never_raises(value, date):
    waited = parse_retry_after(value, date, NOW)
    assert waited is None or 0 <= waited <= 86_400_000


def test_an_http_date_is_milliseconds_of_utc():
    assert http_date("Thu, 01 Jan 1970 00:00:10 GMT") == 10_000
    assert http_date("Thu, 01 Jan 1970 00:00:10 -0000") == 10_000
    assert http_date("Fri, 99 Jan 1970 00:00:10 GMT") is None


def test_a_free_host_takes_every_request():
    start = may_start(FREE, 5)
    assert (start.allowed, start.probe, start.hold) == (True, False, FREE)


def test_a_hold_that_is_lifted_is_over_and_tried_by_one():
    assert lift(FREE, 5) is FREE
    lifted = lift(hold(FREE, 1000), 400)
    first = may_start(lifted, 400)
    assert (first.allowed, first.probe) == (True, True)
    assert lift(first.hold, 500) == first.hold


def test_a_held_host_takes_none_and_then_one():
    held = hold(hold(FREE, 1000), 400)
    early = may_start(held, 999)
    assert (early.allowed, early.again_at) == (False, 1000), "an earlier end never shortens a hold"
    first = may_start(held, 1000)
    assert first.allowed
    assert first.probe
    second = may_start(first.hold, 2000)
    assert (second.allowed, second.again_at) == (False, None)
    assert probe_over(first.hold, answered=True) == FREE
    assert may_start(probe_over(first.hold, answered=False), 2000).probe, "the next request is the probe"
    assert hold(first.hold, 5000) == HostHold(5000), "a probe that was told to wait holds the host again"
