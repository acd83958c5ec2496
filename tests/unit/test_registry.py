"""What is kept in memory of a task that has not ended."""

import sys

from meowcat.core import events as ev
from meowcat.core.machine import State
from meowcat.core.state import evolve, fold
from meowcat.core.transfers import Download, ProtocolSpec, Upload
from meowcat.core.values import TaskId
from meowcat.core.waits import WaitingFor
from meowcat.runtime.registry import Registry, Row


def a_task(name, url="https://host.example/x", key=None, **options):
    request = Download(url, f"/srv/{name}", **options)
    return fold(
        [ev.Created(state=State.QUEUED, task=TaskId(name), key=key or request.to, at=0, request=request)]
    )


def test_a_row_is_found_by_its_task_and_by_its_key():
    registry = Registry()
    row = registry.note(a_task("T"))
    assert registry.get("T") is row
    assert (row.id, row.direction, row.state) == ("T", "download", State.QUEUED)
    assert registry.by_key("/srv/T") == "T"
    assert registry.by_key("/srv/t") is None
    assert list(registry) == [row]


def test_a_task_that_has_ended_has_no_row_and_its_key_is_free():
    registry, task = Registry(), a_task("T")
    registry.note(task)
    assert registry.note(evolve(task, ev.Canceled(state=State.CANCELED))) is None
    assert (registry.get("T"), registry.by_key("/srv/T"), len(registry)) == (None, None, 0)


def test_the_key_of_a_task_that_ended_late_stays_with_who_has_it_now():
    registry, first = Registry(), a_task("first", key="k")
    registry.note(first)
    registry.note(a_task("second", key="k"))
    registry.drop("first")
    assert registry.by_key("k") == "second"


def test_a_claimed_key_is_taken_until_it_is_given_back():
    registry = Registry()
    registry.claim({"k": TaskId("T")})
    assert registry.by_key("k") == "T"
    registry.unclaim(["k"])
    assert registry.by_key("k") is None
    registry.claim({"/srv/T": TaskId("T")})
    registry.note(a_task("T"))
    registry.unclaim(["/srv/T"])
    assert registry.by_key("/srv/T") == "T"


def test_a_task_whose_url_or_priority_is_another_now_stands_in_another_line_at_its_old_place():
    registry, task = Registry(), a_task("T")
    before = registry.note(task)
    registry.note(a_task("later"))
    assert registry.place(task) is before
    request = Download("http://other.example/x", "/srv/T", priority=7)
    task = evolve(task, ev.Supplied(state=State.QUEUED, names=("url",), request=request))
    after = registry.place(task)
    assert (after.host, after.rank, after.order) == ("http://other.example:80", -7, before.order)


def test_a_row_says_what_the_task_waits_for():
    registry = Registry()
    upload = Upload("/x", "https://host.example/x", ProtocolSpec("scripted"), needs=("credential:a",))
    created = ev.Created(state=State.QUEUED, task=TaskId("T"), key="k", at=0, request=upload)
    waiting = ev.Waiting(state=State.QUEUED, waiting_for=WaitingFor.SUPPLY, names=upload.needs)
    row = registry.note(fold([created, waiting]))
    assert (row.lack.waits, row.lack.helpless, row.lack.needs) == (True, True, ("credential:a",))
    row = registry.note(fold([created, waiting, ev.Supplied(state=State.QUEUED, names=upload.needs)]))
    assert (row.lack.waits, row.lack.helpless) == (False, False)


def test_what_a_row_takes_does_not_grow_with_urls_and_keys():
    """A queue may have a million of them."""
    registry = Registry()
    rows = [registry.note(a_task(f"T{n}", f"https://host.example/{'x' * 4000}{n}")) for n in range(2)]
    texts = [value for row in rows for value in (row.id, row.key, row.host)]
    assert max(map(len, texts)) <= len("https://host.example:443")
    assert rows[0].host is rows[1].host
    assert sum(map(sys.getsizeof, (rows[0], rows[0].key))) < 150
    assert not any(isinstance(getattr(rows[0], name), dict) for name in Row.__struct_fields__)


def test_two_rows_of_one_task_can_be_compared():
    """A line may have both for a moment: the old place is passed over when it comes up."""
    registry = Registry()
    request = Download("http://host.example/x", "/srv/T", needs=("header:a",))
    created = ev.Created(state=State.QUEUED, task=TaskId("T"), key="k", at=0, request=request)
    waiting = ev.Waiting(state=State.QUEUED, waiting_for=WaitingFor.SUPPLY, names=request.needs)
    there = registry.note(fold([created]))
    elsewhere = Download("http://other.example/x", "/srv/T", needs=request.needs)
    supplied = ev.Supplied(state=State.QUEUED, names=("url",), request=elsewhere)
    registry.place(fold([created, supplied]))
    back = ev.Supplied(state=State.QUEUED, names=("url",), request=request)
    back_again = registry.place(fold([created, supplied, back, waiting]))
    assert back_again is not there
    assert sorted([back_again, there]) == [there, back_again]
