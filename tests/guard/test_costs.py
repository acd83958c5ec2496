"""No hot path has become dearer than costs.json says, unless somebody has looked at it and written it down.

`python tests/guard/costs.py` shows the figures, and `--renew` writes them down: once for each Python.
"""

import costs
import pytest

pytestmark = pytest.mark.timeout(400)

HOW = "python tests/guard/costs.py --renew"


def test_no_hot_path_costs_more_than_is_written_down():
    before = costs.allowed()
    if not before:
        pytest.skip(f"nothing is written down for Python {costs.VERSION}: {HOW}")
    found = costs.complaints(costs.apart(), before)
    assert not found, "\n".join([*found, f"If that is meant: {HOW}, with each Python that costs.json has."])


@pytest.mark.parametrize("kind", ["ours", "others", "calls", "hops", "appends", "syncs", "requests"])
def test_a_fifth_more_of_anything_is_seen(kind):
    before = {"a download": {kind: 1000}}
    assert costs.complaints({"a download": {kind: 1200}}, before)
    assert not costs.complaints({"a download": {kind: 1040}}, before)


def test_a_guard_that_stands_too_high_is_seen():
    """Or else a change that makes one cheaper would let the next one make it dearer again."""
    before = {"a download": {"ours": 1000}}
    assert costs.complaints({"a download": {"ours": 840}}, before)
    assert not costs.complaints({"a download": {"ours": 900}}, before)


def test_a_first_sync_of_what_had_none_is_seen():
    before = {"a download": {"syncs": 0}}
    assert costs.complaints({"a download": {"syncs": 2}}, before)
    assert not costs.complaints({"a download": {"syncs": 0}}, before)


def test_a_cost_that_nobody_has_written_down_is_seen():
    assert costs.complaints({"a download": {"ours": 1}}, {})


def test_what_is_slower_by_a_fifth_inside_is_seen(monkeypatch):
    """For real: each fold of an event does a fifth more than it did."""
    was = costs.replay()["ours"]
    evolve = costs.evolve

    def slower(task, event):
        for _ in range(was // 5000 // 5 // 3):
            pass
        return evolve(task, event)

    slower.__code__ = slower.__code__.replace(co_filename=evolve.__code__.co_filename)
    monkeypatch.setattr(costs, "evolve", slower)
    now = costs.replay()["ours"]
    assert now > was * 1.1
    assert costs.complaints({"replay": {"ours": now}}, {"replay": {"ours": was}})
