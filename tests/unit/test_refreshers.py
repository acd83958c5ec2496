"""Refreshers: asked once for a task, checked, and told apart when they fail."""

import threading
from functools import partial

import anyio
import msgspec
import pytest
from msgspec.structs import replace

from meowcat.core.errors import InvalidArgument
from meowcat.core.plans import DownloadPlan, PlanPart, PlanRequest, UploadedPart, UploadPlan
from meowcat.core.values import FaultKind, TaskId
from meowcat.protocols.completions import BUILDERS, Completion
from meowcat.protocols.refreshers import Refreshers, RefreshReason, RefreshRequest
from meowcat.protocols.refused import Refused

pytestmark = pytest.mark.anyio

CANARY = "c0ffee5ec12e7c0ffee5ec12e7"
OBJECT = "https://bucket.example/big.iso"
TASK = TaskId("01")


def plan_of(upload_id="u1", query="sig=1"):
    parts = tuple(PlanPart(n + 1, n * 10, 10, f"{OBJECT}?partNumber={n + 1}&{query}") for n in range(2))
    return UploadPlan(total_size=20, chunk_size=10, parts=parts, upload_id=upload_id)


PLAN = plan_of()


def asking(**fields):
    values = {
        "task": TASK,
        "direction": "upload",
        "reason": RefreshReason.EXPIRES,
        "fingerprint": PLAN.fingerprint,
        "same_upload": True,
    }
    return RefreshRequest(**values | fields)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


class Backend:
    """A refresher that waits until it is let go, and counts."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.calls = []
        self.asked = anyio.Event()
        self.go = anyio.Event()

    async def __call__(self, request):
        self.calls.append(request)
        self.asked.set()
        await self.go.wait()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def registered(refresher, **options):
    return Refreshers({"backend": refresher}, **options)


async def refusal_of(refreshers, request=None):
    with pytest.raises(Refused) as refusal:
        await refreshers.ask("backend", request or asking())
    return refusal.value.fault


@pytest.mark.parametrize("answer", [plan_of(query="sig=2"), RuntimeError("down")])
async def test_eight_that_ask_at_once_are_one_question_with_one_answer(answer):
    backend = Backend(answer)
    refreshers = registered(backend)
    outcomes = []

    async def ask():
        try:
            outcomes.append(await refreshers.ask("backend", asking()))
        except Refused as refused:
            outcomes.append(refused.fault)

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(ask)
        await backend.asked.wait()
        await anyio.wait_all_tasks_blocked()
        backend.go.set()
    assert len(backend.calls) == 1
    assert len(outcomes) == 8
    assert all(outcome is outcomes[0] for outcome in outcomes)


async def test_two_tasks_are_two_questions():
    backend = Backend(plan_of(query="sig=2"), plan_of(query="sig=3"))
    backend.go.set()
    refreshers = registered(backend)
    async with anyio.create_task_group() as group:
        group.start_soon(refreshers.ask, "backend", asking())
        group.start_soon(refreshers.ask, "backend", asking(task=TaskId("02")))
    assert len(backend.calls) == 2


async def test_where_the_one_who_asked_is_canceled_the_next_in_line_asks():
    fresh = plan_of(query="sig=2")
    backend = Backend(fresh)
    refreshers = registered(backend)
    answers = []

    async def first(scope):
        with scope:
            await refreshers.ask("backend", asking())

    async def second():
        answers.append(await refreshers.ask("backend", asking()))

    async with anyio.create_task_group() as group:
        scope = anyio.CancelScope()
        group.start_soon(first, scope)
        await backend.asked.wait()
        group.start_soon(second)
        await anyio.wait_all_tasks_blocked()
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        backend.go.set()
    assert answers == [fresh]
    assert len(backend.calls) == 2


async def test_a_plain_function_may_block_and_is_called_off_the_loop():
    ran_in = []
    fresh = plan_of(query="sig=2")

    def refresher(request):
        ran_in.append(threading.current_thread())
        return fresh

    assert await registered(refresher).ask("backend", asking()) is fresh
    assert ran_in != [threading.current_thread()]


async def test_a_function_that_returns_an_awaitable_is_awaited():
    backend = Backend(plan_of(query="sig=2"))
    backend.go.set()
    assert await registered(partial(backend)).ask("backend", asking())


async def test_an_unknown_name_says_how_to_register_it_and_waits_for_that():
    fault = await refusal_of(Refreshers())
    assert fault.kind is FaultKind.EXPIRED
    assert "Engine(refreshers={'backend': ...})" in fault.detail


async def test_what_a_refresher_raises_is_a_failed_attempt_without_its_secrets():
    def refresher(request):
        raise ValueError(f"GET {OBJECT}?sig={CANARY} said token {CANARY}")

    fault = await refusal_of(registered(refresher))
    assert fault.kind is FaultKind.CREDENTIAL
    assert "'backend' raised ValueError: GET https://bucket.example/big.iso?sig=***" in fault.detail
    assert CANARY not in fault.detail


async def test_a_refusal_of_a_refresher_s_own_stays_what_it_is():
    refused = Refused(await refusal_of(Refreshers()))

    def refresher(request):
        raise refused

    assert await refusal_of(registered(refresher)) is refused.fault


async def test_a_refresher_that_never_answers_is_left():
    backend = Backend()
    fault = await refusal_of(registered(backend, patience=0.01))
    assert fault.kind is FaultKind.CREDENTIAL
    assert "brought no plan within 0.01 s" in fault.detail


async def test_a_refresher_s_own_time_out_is_told_as_its_own():
    def refresher(request):
        raise TimeoutError("the back end is slow")

    assert "raised TimeoutError: the back end is slow" in (await refusal_of(registered(refresher))).detail


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (None, "returned a NoneType; expected: UploadPlan"),
        (DownloadPlan(url=OBJECT), "returned a DownloadPlan; expected: UploadPlan"),
        (replace(PLAN, chunk_size=0), "chunk_size 0"),
        (plan_of("u2"), "the upload_id 'u2'; this transfer was begun with 'u1'"),
        (replace(PLAN, identity="another"), "the plan is for another"),
    ],
)
async def test_a_plan_that_does_not_fit_is_a_defect_that_no_other_attempt_mends(answer, text):
    fault = await refusal_of(registered(lambda request: answer))
    assert fault.kind is FaultKind.REPLY
    assert text in fault.detail


async def test_a_new_upload_is_taken_where_the_old_one_need_not_go_on():
    other = plan_of("u2")
    got = await registered(lambda request: other).ask("backend", asking(same_upload=False))
    assert got is other


async def test_a_download_s_refresher_brings_a_download_plan():
    plan = DownloadPlan(url=f"{OBJECT}?sig=1")
    fresh = DownloadPlan(url=f"{OBJECT}?sig=2")
    request = asking(direction="download", fingerprint=plan.fingerprint, same_upload=False)
    assert await registered(lambda request: fresh).ask("backend", request) is fresh
    fault = await refusal_of(registered(lambda request: PLAN), request)
    assert "expected: DownloadPlan" in fault.detail


# Supplies


def test_the_plan_that_replaced_a_handed_one_is_kept_until_another_is_handed_in():
    refreshers = Refreshers()
    first = refreshers.supply(TASK, PLAN, 1)
    fresh = plan_of(query="sig=2")
    first.take(fresh, 5)
    again = refreshers.supply(TASK, PLAN, 9)
    assert (again.plan, again.received) == (fresh, 5)
    assert refreshers.supply(TASK, None, 9).plan is fresh
    other = plan_of(query="sig=3")
    assert refreshers.supply(TASK, other, 9).plan is other
    refreshers.forget(TASK)
    assert refreshers.supply(TASK, None, 9).plan is None


def test_a_lost_upload_s_plan_is_gone():
    supply = Refreshers().supply(TASK, PLAN, 1)
    supply.lose(PLAN)
    assert (supply.plan, supply.lost) == (None, "u1")


# Completions


PARTS = (
    UploadedPart(1, 0, 10, '"a&b"', "QUFB"),
    UploadedPart(2, 10, 10, '"c<d"', "QUFC", "md5:00"),
)


def body(name):
    return BUILDERS[name](Completion("u1", {"order": "7"}, 20, PARTS))


def test_bodies_of_completions_to_the_letter():
    assert body("s3-xml") == (
        b'<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        b'<Part><PartNumber>1</PartNumber><ETag>"a&amp;b"</ETag></Part>'
        b'<Part><PartNumber>2</PartNumber><ETag>"c&lt;d"</ETag></Part></CompleteMultipartUpload>'
    )
    assert body("oss-xml") == body("s3-xml").replace(b' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"', b"")
    assert body("azure-block-list") == (
        b'<?xml version="1.0" encoding="utf-8"?><BlockList>'
        b"<Latest>QUFB</Latest><Latest>QUFC</Latest></BlockList>"
    )


def test_the_default_body_names_upload_parts_and_ranges():
    assert msgspec.json.decode(body("default")) == {
        "upload_id": "u1",
        "metadata": {"order": "7"},
        "total_size": 20,
        "parts": [
            {
                "number": 1, "offset": 0, "size": 10, "etag": '"a&b"', "part_id": "QUFB", "checksum": None,
            },
            {
                "number": 2, "offset": 10, "size": 10, "etag": '"c<d"', "part_id": "QUFC",
                "checksum": "md5:00",
            },
        ],
    }  # fmt: skip


def test_completions_of_one_s_own_are_registered_by_name():
    def builder(completion):
        return b"done"

    refreshers = Refreshers(completions={"mine": builder})
    assert refreshers.completion("mine") is builder
    assert refreshers.completion("s3-xml") is BUILDERS["s3-xml"]
    with pytest.raises(Refused, match="completion 'other' is not registered; known are azure-block-list"):
        refreshers.completion("other")
    with pytest.raises(InvalidArgument, match="comes with meowcat"):
        refreshers.register_completion("default", builder)


def test_what_can_t_be_called_is_refused_at_once():
    for options in ({"refreshers": {"a": 1}}, {"completions": {"a": "x"}}):
        with pytest.raises(InvalidArgument, match="'a': expected a function"):
            Refreshers(**options)


def test_a_request_shows_no_signature():
    request = PlanRequest("POST", f"{OBJECT}?sig={CANARY}")
    assert CANARY not in repr(asking(fingerprint=replace(PLAN, complete=request).fingerprint))
