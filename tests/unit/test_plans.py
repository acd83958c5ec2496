"""Presigned plans as values: what is refused, what is the same transfer, when a URL is to be replaced."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from rich.pretty import pretty_repr

from meowcat.core.errors import InvalidArgument
from meowcat.core.pieces import Grid
from meowcat.core.plans import (
    DownloadPlan,
    PlanPart,
    PlanRequest,
    UploadedPart,
    UploadPlan,
    check_fit,
    expires_of,
    read_plan,
    stale,
)

CANARY = "c0ffee5ec12e7"
OBJECT = "https://bucket.s3.example/folder/big.iso"
MINUTE = 60_000


def signed(number=1, **parameters):
    query = {"partNumber": number, "uploadId": CANARY, "X-Amz-Signature": CANARY, **parameters}
    return f"{OBJECT}?" + "&".join(f"{name}={value}" for name, value in query.items())


def plan_of(total, chunk, **fields):
    grid = Grid(total, chunk)
    parts = []
    for index in range(grid.count):
        start, stop = grid.span(index)
        parts.append(PlanPart(index + 1, start, stop - start, signed(index + 1)))
    return UploadPlan(total_size=total, chunk_size=chunk, parts=tuple(parts), **fields)


GOOD = plan_of(25, 10, upload_id="u1", complete=PlanRequest("POST", f"{OBJECT}?uploadId=u1"))


def with_part(index, **changes):
    parts = list(GOOD.parts)
    parts[index] = replace(parts[index], **changes)
    return replace(GOOD, parts=tuple(parts))


plans = st.tuples(st.integers(1, 10_000), st.integers(1, 3_000)).map(lambda pair: plan_of(*pair))


@given(plans)
def test_a_plan_is_read_out_of_its_json(plan):
    assert read_plan(msgspec.json.encode(plan), "upload") == plan
    download = DownloadPlan(url=f"{OBJECT}?sig={CANARY}")
    assert read_plan(msgspec.json.encode(download), "download") == download


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        msgspec.json.encode(GOOD)[:-1],
        msgspec.json.encode({"url": signed()}),
        msgspec.json.encode(with_part(0, offset=1)),
    ],
)
def test_what_is_no_plan_is_refused_and_not_shown(text):
    with pytest.raises(InvalidArgument) as refused:
        read_plan(text, "upload")
    assert CANARY not in str(refused.value)
    with pytest.raises(InvalidArgument, match="DownloadPlan"):
        read_plan(msgspec.json.encode(GOOD), "download")


@given(plans, st.randoms())
def test_a_plan_that_sends_each_byte_once_is_good_in_any_order_of_its_parts(plan, random):
    parts = list(plan.parts)
    random.shuffle(parts)
    replace(plan, parts=tuple(parts)).validate()


@given(plans, st.data())
def test_a_plan_that_misses_or_repeats_a_byte_is_refused(plan, data):
    index = data.draw(st.integers(0, len(plan.parts) - 1))
    part = plan.parts[index]
    change = data.draw(
        st.one_of(
            st.integers(0, plan.total_size * 2).map(lambda value: {"offset": value}),
            st.integers(-5, plan.total_size * 2).map(lambda value: {"size": value}),
            st.integers(-5, len(plan.parts) * 2).map(lambda value: {"number": value}),
        )
    )
    parts = list(plan.parts)
    parts[index] = changed = replace(part, **change)
    wrong = replace(plan, parts=tuple(parts))
    renumbered = len(parts) == 1 and changed.number >= 0 and "number" in change
    if changed == part or renumbered:
        wrong.validate()
        return
    with pytest.raises(InvalidArgument, match="upload plan: "):
        wrong.validate()


@pytest.mark.parametrize(
    ("plan", "text"),
    [
        (replace(GOOD, total_size=-1), "total_size -1"),
        (replace(GOOD, chunk_size=0), "chunk_size 0"),
        (replace(GOOD, parts=()), "no parts for 25 bytes; expected 3 of up to 10"),
        (UploadPlan(total_size=0, chunk_size=1), "one part of 0 bytes, or a request"),
        (replace(GOOD, refresh_before=-1.0), "refresh_before -1.0"),
        (replace(GOOD, upload_id="x" * 2000), "upload_id of 2000 characters"),
        (with_part(1, size=0), "part 2: size 0; expected at least 1 byte"),
        (with_part(1, number=-1), "part -1: its number is negative; expected 0 or more"),
        (with_part(1, offset=-1), "part 2: 10 bytes at offset -1; expected 0 or more of both"),
        (with_part(1, number=1), "part 1: stands twice, at offsets 0 and 10"),
        (with_part(1, offset=0), "part 2: begins at 0, where another part lies; expected 10"),
        (with_part(2, offset=21, size=4), "part 3: begins at 21, and no part has the bytes from 20 on"),
        (with_part(2, size=6), "part 3: ends at 26; the content ends at 25"),
        (with_part(2, offset=2**63 - 2), "part 3: ends at 9223372036854775811"),
        (with_part(2, number=7), "part 7: expected the number 3 at offset 20"),
        (with_part(2, size=4), "part 3: 4 bytes; expected 5"),
        (replace(GOOD, parts=GOOD.parts[:2]), "the parts end at 20; the content ends at 25"),
        (with_part(0, url="ftp://host/x"), "part 1: URL"),
        (with_part(0, url="/x"), "part 1: URL"),
        (with_part(0, headers={"X-A": "one\r\ntwo"}), "part 1: header 'X-A'"),
        (with_part(0, method="put it"), "part 1: method 'put it'"),
        (with_part(0, part_id=""), "part 1: part_id of 0 characters"),
        (replace(GOOD, abort=PlanRequest("DELETE", "nowhere")), "abort: URL"),
        (replace(GOOD, completion="azure-block-list"), "part 1: no part_id"),
    ],
)
def test_a_refusal_names_the_part_and_what_is_expected(plan, text):
    with pytest.raises(InvalidArgument) as refusal:
        plan.validate()
    assert text in str(refusal.value)


def test_parts_numbered_against_their_order_are_refused_since_providers_join_them_by_number():
    first, second, third = GOOD.parts
    swapped = replace(
        GOOD, parts=(replace(first, number=2), replace(second, number=1), replace(third, number=3))
    )
    with pytest.raises(InvalidArgument, match="part 1: expected the number 3 at offset 10"):
        swapped.validate()


def test_block_ids_of_several_lengths_are_refused():
    parts = tuple(replace(part, part_id="x" * part.number) for part in GOOD.parts)
    with pytest.raises(InvalidArgument, match="part 2: a part_id of another length"):
        replace(GOOD, parts=parts, completion="azure-block-list").validate()
    parts = tuple(replace(part, part_id=f"{part.number:03}") for part in GOOD.parts)
    replace(GOOD, parts=parts, completion="azure-block-list").validate()


def test_an_empty_content_has_one_empty_part_or_a_request():
    request = PlanRequest("POST", f"{OBJECT}?complete")
    UploadPlan(total_size=0, chunk_size=1, parts=(PlanPart(1, 0, 0, signed()),)).validate()
    UploadPlan(total_size=0, chunk_size=1, complete=request).validate()


def test_a_download_plan_names_what_is_wrong_with_it():
    DownloadPlan(url=signed(), total_size=0).validate()
    for plan, text in (
        (DownloadPlan(url="nowhere"), "URL"),
        (DownloadPlan(url=OBJECT, head_url="nowhere"), "URL"),
        (DownloadPlan(url=OBJECT, total_size=-1), "total_size -1"),
        (DownloadPlan(url=OBJECT, headers={"a b": "1"}), "header 'a b'"),
        (DownloadPlan(url=OBJECT, refresh_before=-1), "refresh_before"),
    ):
        with pytest.raises(InvalidArgument, match=text):
            plan.validate()


# What a plan shows


def everything_with_secrets():
    request = PlanRequest("POST", signed(), {"X-Secret": CANARY}, body=CANARY.encode())
    part = PlanPart(1, 0, 5, signed(), {"X-Secret": CANARY})
    yield request
    yield part
    yield UploadPlan(
        total_size=5,
        chunk_size=5,
        parts=(part,),
        complete=request,
        abort=request,
        check=request,
        metadata={"a": CANARY},
    )
    yield DownloadPlan(url=signed(), head_url=signed(), headers={"X-Secret": CANARY})


def test_no_text_of_a_plan_has_a_secret():
    for value in everything_with_secrets():
        assert CANARY not in repr(value) + str(value) + f"{value!r}" + pretty_repr(value)
        if not isinstance(value, PlanPart | PlanRequest):
            assert CANARY not in msgspec.json.encode(value.fingerprint).decode()


def test_no_refusal_of_a_plan_has_a_secret():
    for url in (f"ftp://user:{CANARY}@host/x", f"https://host:{CANARY}/x?sig={CANARY}", f"?sig={CANARY}"):
        for plan in (with_part(0, url=url), DownloadPlan(url=url), DownloadPlan(url=OBJECT, head_url=url)):
            with pytest.raises(InvalidArgument) as refusal:
                plan.validate()
            assert CANARY not in str(refusal.value)


def test_a_plan_goes_through_json():
    sent = msgspec.json.encode(GOOD)
    assert msgspec.json.decode(sent, type=UploadPlan) == GOOD


# Which plans are of one transfer


def test_a_plan_signed_anew_has_the_same_fingerprint():
    anew = tuple(
        replace(part, url=part.url.replace(CANARY, "another") + "&X-Amz-Date=20130524T000000Z", expires=5)
        for part in GOOD.parts
    )
    assert replace(GOOD, parts=anew).fingerprint == GOOD.fingerprint
    assert GOOD.fingerprint.object == OBJECT


def test_an_azure_block_s_url_names_the_blob():
    url = "https://account.blob.core.windows.net/c/b.bin?comp=block&blockid=QUFB&sv=2021&sig=secret"
    plan = UploadPlan(total_size=1, chunk_size=1, parts=(PlanPart(0, 0, 1, url),))
    assert plan.object == "https://account.blob.core.windows.net/c/b.bin"


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (with_part(0, url="https://bucket.s3.example/another?sig=1"), "the plan is for https://bucket"),
        (plan_of(25, 9, upload_id="u1", complete=GOOD.complete), "a chunk_size of 9; this transfer"),
        (plan_of(26, 10, upload_id="u1", complete=GOOD.complete), "a total_size of 26"),
        (replace(GOOD, complete=None), "a complete request: False"),
        (replace(GOOD, abort=PlanRequest("DELETE", OBJECT)), "an abort request: True"),
        (replace(GOOD, upload_id="u2"), "the upload_id 'u2'"),
        (
            replace(GOOD, parts=tuple(replace(part, number=part.number - 1) for part in GOOD.parts)),
            "a first part number of 0",
        ),
    ],
)
def test_another_transfer_s_plan_does_not_fit(other, text):
    with pytest.raises(InvalidArgument) as refusal:
        check_fit(GOOD.fingerprint, other, keep_upload=True)
    assert text in str(refusal.value)


def test_another_upload_fits_while_nothing_is_confirmed():
    check_fit(GOOD.fingerprint, replace(GOOD, upload_id="u2"), keep_upload=False)


def test_an_identity_lets_hosts_differ():
    here = replace(GOOD, identity="videos/7")
    there = replace(with_part(0, url="https://cdn.example/x?sig=1"), identity="videos/7")
    check_fit(here.fingerprint, there, keep_upload=True)


def test_a_download_s_plan_fits_by_object_and_known_size():
    known = DownloadPlan(url=signed(), total_size=10).fingerprint
    check_fit(known, DownloadPlan(url=signed(**{"X-Amz-Date": "1"})), keep_upload=False)
    with pytest.raises(InvalidArgument, match="a total_size of 11"):
        check_fit(known, DownloadPlan(url=signed(), total_size=11), keep_upload=False)
    with pytest.raises(InvalidArgument, match="the plan is for"):
        check_fit(known, DownloadPlan(url="https://host/y", total_size=10), keep_upload=False)


# Parts that another store remembers


def uploaded(plan):
    return [UploadedPart(part.number, part.offset, part.size, f'"{part.number}"') for part in plan.ordered]


@given(plans, st.data())
def test_a_resume_takes_the_longest_run_from_the_beginning_that_fits(plan, data):
    parts = uploaded(plan)
    lost = data.draw(st.sets(st.integers(0, len(parts) - 1)))
    moved = data.draw(st.sets(st.integers(0, len(parts) - 1)))
    offered = [
        replace(part, size=part.size + 1) if index in moved else part
        for index, part in enumerate(parts)
        if index not in lost
    ]
    first = min(lost | moved, default=len(parts))
    data.draw(st.randoms()).shuffle(offered)
    assert list(plan.with_resumed_parts(offered).resumed) == parts[:first]


def test_of_two_notes_of_one_part_the_later_counts():
    parts = uploaded(GOOD)
    newer = replace(parts[0], etag='"newer"')
    assert GOOD.with_resumed_parts([*parts, newer]).resumed[0] == newer


# When a URL ends


@pytest.mark.parametrize(
    ("url", "end"),
    [
        ("https://h/x?X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-Signature=a", 1369440000000),
        ("https://h/x?x-oss-date=20130524T000000Z&x-oss-expires=86400", 1369440000000),
        ("https://h/x?X-Goog-Date=20130524T000000Z&X-Goog-Expires=86400", 1369440000000),
        ("https://h/x?OSSAccessKeyId=a&Expires=1369440000&Signature=b", 1369440000000),
        ("https://h/x?sv=2021&se=2013-05-25T00%3A00%3A00Z&sig=b", 1369440000000),
        ("https://h/x?sv=2021&se=2013-05-25T00:00Z&sig=b", 1369440000000),
        ("https://h/x?sv=2021&se=2013-05-25&sig=b", 1369440000000),
        ("https://h/x?se=2013-05-25", None),
        ("https://h/x?sv=2021&se=never&sig=b", None),
        ("https://h/x?X-Amz-Date=yesterday&X-Amz-Expires=86400", None),
        ("https://h/x?X-Amz-Date=20130524T000000Z&X-Amz-Expires=soon", None),
        ("https://h/x?Expires=Thu", None),
        ("https://h/x", None),
    ],
)
def test_a_signed_url_says_when_it_ends(url, end):
    assert expires_of(url) == end


@given(st.text())
def test_an_end_that_can_t_be_read_is_none(text):
    for name in ("Expires", "se", "X-Amz-Expires"):
        url = f"https://h/x?sig=1&X-Amz-Date=20130524T000000Z&{name}={text}"
        assert expires_of(url) is None or isinstance(expires_of(url), int)


def test_a_url_is_replaced_a_minute_before_its_end():
    part = PlanPart(1, 0, 1, OBJECT, expires=60 * MINUTE)
    assert not stale(part, 0, 59 * MINUTE - 1, 60)
    assert stale(part, 0, 59 * MINUTE, 60)
    assert not stale(replace(part, expires=None), 0, 10**15, 60)


def test_a_short_lived_url_is_used_for_half_of_its_time():
    part = PlanPart(1, 0, 1, OBJECT, expires=10_000)
    assert not stale(part, 0, 0, 60)
    assert not stale(part, 0, 4_999, 60)
    assert stale(part, 0, 5_000, 60)


@given(st.integers(0, 10**13), st.integers(1, 10**9), st.floats(0, 10**6))
def test_a_url_that_has_just_come_is_never_stale_while_it_is_good(received, life, before):
    part = PlanPart(1, 0, 1, OBJECT, expires=received + life)
    assert not stale(part, received, received, before)
    assert stale(part, received, received + life, before)
