"""Events to bytes and back; the chain of upcasters."""

import msgspec
import pytest

from meowcat.core.errors import JournalDamaged, JournalRejected, UnknownEvent
from meowcat.core.events import EVENT_TYPES, Canceled, Completed, Created, Event, Paused, Stored
from meowcat.core.machine import State
from meowcat.core.transfers import Download
from meowcat.core.values import FileIdentity
from meowcat.journal.chain import UNFIT, canonical, checksum, crc, link, require_sequel, sequel
from meowcat.journal.codec import Codec, check_chain, decode, encode, upcaster
from meowcat.journal.contract import GENESIS
from meowcat.testing.journal_suite import entry

STORED = Stored(state=State.RUNNING, pieces=((0, 2), (5, 6)), digests=bytes(96), file=FileIdentity(1, 2))


class Thing(Event, frozen=True, kw_only=True, tag="thing"):
    version = 3
    whole_name: str


def test_an_event_comes_back_as_it_was():
    tag, version, body = encode(STORED)
    assert (tag, version) == ("stored", 1)
    assert decode(tag, version, body) == STORED
    assert set(EVENT_TYPES) >= {"stored", "created", "canceled"}


def test_defaults_are_written_out():
    assert b'"size":null' in encode(STORED)[2]


def test_an_unknown_type_or_version_is_said_so():
    body = encode(Canceled(state=State.CANCELED))[2]
    with pytest.raises(UnknownEvent, match="unknown event type 'teleported'"):
        decode("teleported", 1, body)
    for version in (2, 0, -1):
        with pytest.raises(UnknownEvent, match="knows up to 1"):
            decode("canceled", version, body)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"[]", b'{"type":"paused","state":"Paused","reason":""}']
)
def test_a_body_that_is_no_such_event_is_damage(body):
    assert decode("paused", 1, encode(Paused(state=State.PAUSED, reason="x"))[2])
    with pytest.raises(JournalDamaged):
        decode("canceled", 1, body)


def steps():
    upcasters = {}

    @upcaster("thing", from_version=1, into=upcasters)
    def _(fields):
        return fields | {"first": fields.pop("name")}

    @upcaster("thing", from_version=2, into=upcasters)
    def _(fields):
        return {key: value for key, value in fields.items() if key != "first"} | {
            "whole_name": fields["first"]
        }

    return upcasters


@pytest.mark.parametrize(("version", "field"), [(1, "name"), (2, "first"), (3, "whole_name")])
def test_old_versions_are_read_as_the_current_one(version, field):
    codec = Codec({"thing": Thing}, steps())
    body = msgspec.json.encode({"type": "thing", "state": "Paused", field: "Tom"})
    assert codec.decode("thing", version, body) == Thing(state=State.PAUSED, whole_name="Tom")


def test_records_of_every_released_version_are_read():
    request = b'{"kind":"download","url":"https://host/x","to":"/x","retries":3}'
    created = decode(
        "created",
        1,
        b'{"type":"created","state":"Queued","task":"T","key":"/x","at":5,"request":' + request + b"}",
    )
    assert created == Created(
        state=State.QUEUED, task="T", key="/x", at=5, request=Download("https://host/x", "/x", retries=3)
    )
    head = b'{"type":"supplied","state":"Queued","names":["url"],"request":'
    assert decode("supplied", 1, head + request + b"}").request == created.request
    assert decode("supplied", 1, head + b"null}").request is None
    completed = decode(
        "completed", 1, b'{"type":"completed","state":"Complete","path":"/x","size":7,"digests":[]}'
    )
    assert completed == Completed(state=State.COMPLETE, path="/x", size=7, digests=())
    assert (completed.url, completed.created, completed.client_file_sign) == (None, None, None)


@pytest.mark.parametrize("body", [b"[]", b"{}", b"\xff", b"{"])
def test_an_old_body_that_can_not_be_upcast_is_damage(body):
    with pytest.raises(JournalDamaged):
        Codec({"thing": Thing}, steps()).decode("thing", 1, body)


def test_a_hole_or_an_end_in_nowhere_is_refused_at_import():
    upcasters = steps()
    del upcasters["thing", 1]
    with pytest.raises(ValueError, match="no upcaster for 'thing' from version 1"):
        Codec({"thing": Thing}, upcasters)
    with pytest.raises(ValueError, match="no event needs: 'thing' from version 3"):
        check_chain({"thing": 3}, [("thing", 1), ("thing", 2), ("thing", 3)])
    with pytest.raises(ValueError, match="two upcasters"):
        upcaster("thing", 2, into=upcasters)(dict)


@pytest.mark.parametrize(
    "changed",
    [
        {"task": "b"},
        {"seq": 2},
        {"open": False},
        {"type": "creates"},
        {"version": 2},
        {"at": 0},
        {"body": b"}{"},
        {"task": "ac", "type": "reated"},
    ],
)
def test_the_chain_and_the_crc_cover_every_field_unambiguously(changed):
    one = entry("a", 1)
    other = msgspec.structs.replace(one, **changed)
    assert link(GENESIS, one, 1, 1) != link(GENESIS, other, 1, 1)
    assert crc(one, 1, 1, GENESIS) != crc(other, 1, 1, GENESIS)


def test_the_chain_and_the_crc_cover_what_the_journal_gives():
    one = entry("a", 1)
    links = {
        link(GENESIS, one, 1, 1),
        link(GENESIS, one, 2, 1),
        link(GENESIS, one, 1, 2),
        link(b"x" * 32, one, 1, 1),
    }
    assert len(links) == 4
    assert crc(one, 1, 1, GENESIS) != crc(one, 1, 1, b"x" * 32)
    assert len(next(iter(links))) == 32


def test_the_form_that_is_hashed_never_changes():
    assert canonical(entry("a", 1), 2, 3).hex() == (
        "01000000000000000300000000000000020000000000000001"
        "0000018bcfe56800000000010100000001000000070000000261637265617465647b7d"
    )


@pytest.mark.parametrize(
    "bad", [{"seq": 2**63}, {"seq": "1"}, {"body": None}, {"task": "\ud800"}, {"version": -1}]
)
def test_fields_that_no_record_can_have_are_refused(bad):
    with pytest.raises(UNFIT):
        link(GENESIS, msgspec.structs.replace(entry("a", 1), **bad), 1, 1)


def test_what_entries_become_follows_on_what_is_stored():
    entries = [entry("a", 1), entry("b", 1), entry("a", 2)]
    made = list(sequel(entries, 7, 3, b"x" * 32, 100))
    records = [record for record, _ in made]
    require_sequel(records, 7, 3, b"x" * 32, 100)
    assert [(each.position, each.epoch) for each in records] == [(8, 3), (9, 3), (10, 3)]
    for (record, form), before in zip(made, entries, strict=True):
        assert form == canonical(before, 3, record.position)
        assert checksum(form, record.chain) == crc(before, 3, record.position, record.chain)
        assert all(getattr(record, name) == getattr(before, name) for name in before.__struct_fields__)


@pytest.mark.parametrize("bad", [{"seq": "1"}, {"body": None}, {"task": "\ud800"}, {"body": bytes(100)}])
def test_no_entry_becomes_a_record_that_can_not_be_one(bad):
    entries = [entry("a", 1), msgspec.structs.replace(entry("b", 1), **bad)]
    with pytest.raises(JournalRejected):
        list(sequel(entries, 0, 1, GENESIS, 99))
