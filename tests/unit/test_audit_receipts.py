"""Receipts: proof files that need nothing but the public key. Nothing that was tampered with verifies."""

import base64
import subprocess
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meowcat.audit import Checkpoint, Key, verify_receipt
from meowcat.audit.keys import sign_note
from meowcat.audit.merkle import inclusion_proof, leaf_hash, root_of
from meowcat.audit.receipts import Proof, leaf_of, parse_proof
from meowcat.core.errors import AuditError
from meowcat.journal.chain import canonical, parse
from meowcat.journal.contract import Record

KEY = Key.generate("example.com/log")
BODY = (
    b'{"type":"completed","state":"Complete","path":"/srv/a","size":7,'
    b'"digests":[{"algorithm":"sha256","hex":"9f86"}],"url":"https://host/a","created":5,'
    b'"client_file_sign":"row 7"}'
)
RECORD = Record(4, "task", 3, 2, False, "completed", 2, 1_700_000_000_123, BODY, bytes(32))
OLD = msgspec.structs.replace(
    RECORD, version=1, body=b'{"type":"completed","state":"Complete","path":"/srv/a","size":7,"digests":[]}'
)


def proof(record=RECORD, size=7, index=3, key=KEY, origin="example.com/log"):
    entries = [bytes([number]) for number in range(size)]
    entries[index] = leaf_of(record) if isinstance(record, Record) else record
    hashes = [leaf_hash(each) for each in entries]
    root = root_of(hashes)
    text = sign_note(str(Checkpoint(origin=origin, size=size, root=root)), key)
    nodes = inclusion_proof(index, size, lambda start, end: root_of(hashes[start:end]))
    return Proof(entries[index], index, tuple(nodes), text)


def refused(text, match, **named):
    with pytest.raises(AuditError, match=match):
        verify_receipt(text, KEY.vkey, **named)


def test_a_receipt_says_who_what_when_and_how_large():
    receipt = verify_receipt(str(proof()), KEY.vkey)
    assert (receipt.task, receipt.url, receipt.path, receipt.size) == ("task", "https://host/a", "/srv/a", 7)
    assert [str(each) for each in receipt.digests] == ["sha256:9f86"]
    assert (receipt.created, receipt.completed) == (5, 1_700_000_000_123)
    assert (receipt.client_file_sign, receipt.origin, receipt.position) == ("row 7", "example.com/log", 4)
    assert receipt.checkpoint.size == 7


def test_it_is_a_proof_file_as_the_specification_has_it():
    lines = str(proof()).split("\n")
    assert lines[0] == "c2sp.org/tlog-proof@v1"
    assert lines[1] == "extra " + base64.b64encode(leaf_of(RECORD)).decode()
    assert lines[2] == "index 3"
    assert all(len(base64.b64decode(line)) == 32 for line in lines[3:6])
    assert lines[6:9] == ["", "example.com/log", "7"]
    assert lines[-1] == ""
    assert parse_proof(str(proof())) == proof()


def test_a_record_of_an_early_version_has_a_receipt_that_says_less():
    receipt = verify_receipt(str(proof(OLD)), KEY.vkey)
    assert (receipt.path, receipt.size, receipt.digests) == ("/srv/a", 7, ())
    assert (receipt.url, receipt.created, receipt.client_file_sign) == (None, None, None)
    assert (receipt.direction, receipt.remote) == ("download", {})


def test_a_receipt_of_an_upload_says_whence_where_and_what_the_server_said():
    body = BODY[:-1] + b',"direction":"upload","result":{"etag":"\\"e-2\\"","version_id":"v7"}}'
    receipt = verify_receipt(str(proof(msgspec.structs.replace(RECORD, version=3, body=body))), KEY.vkey)
    assert (receipt.direction, receipt.path, receipt.url) == ("upload", "/srv/a", "https://host/a")
    assert receipt.remote == {"etag": '"e-2"', "version_id": "v7"}
    assert [str(each) for each in receipt.digests] == ["sha256:9f86"]


def test_the_only_record_of_a_log_needs_no_nodes():
    only = msgspec.structs.replace(RECORD, position=1)
    assert verify_receipt(str(proof(only, 1, 0)), KEY.vkey).position == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"size":7', b'"size":8'),
        (b"host/a", b"host/b"),
        (b"9f86", b"9f87"),
        (b"row 7", b"row 8"),
        (b'"created":5', b'"created":6'),
    ],
)
def test_a_receipt_with_another_record_does_not_verify(old, new):
    good = proof()
    forged = leaf_of(msgspec.structs.replace(RECORD, body=BODY.replace(old, new)))
    assert forged != good.leaf
    refused(str(Proof(forged, good.index, good.hashes, good.checkpoint)), "is not number 3 of the 7")


@pytest.mark.parametrize("fields", [{"at": 1}, {"task": "tusk"}, {"position": 5}, {"epoch": 3}, {"seq": 4}])
def test_a_receipt_with_another_head_of_its_record_does_not_verify(fields):
    good = proof()
    forged = leaf_of(msgspec.structs.replace(RECORD, **fields))
    refused(str(Proof(forged, good.index, good.hashes, good.checkpoint)), "is not number 3 of the 7")


def test_the_checkpoint_of_another_key_log_or_tree_does_not_verify():
    other = Key.generate("example.com/log")
    refused(str(proof(key=other)), "signed by example.com/log .*, and not by example.com/log")
    refused(str(proof(origin="example.com/other")), "is of 'example.com/other'")
    assert verify_receipt(str(proof(origin="o")), KEY.vkey, origin="o").origin == "o"
    assert verify_receipt(str(proof(key=other)), [KEY.vkey, other.vkey]).task == "task"
    good, elsewhere = proof(), proof(size=8)
    refused(str(Proof(good.leaf, 3, good.hashes, elsewhere.checkpoint)), "is not number 3 of the 8")


def test_what_is_proven_must_be_a_completed_transfer_in_its_place():
    paused = msgspec.structs.replace(
        RECORD, type="paused", version=1, body=b'{"type":"paused","state":"Paused","reason":"x"}'
    )
    refused(str(proof(paused)), "is 'paused' at position 4; expected 'completed' at 4")
    refused(
        str(proof(msgspec.structs.replace(RECORD, position=5))), "at position 5; expected 'completed' at 4"
    )
    refused(str(proof(b"any bytes")), "can't be read: not the canonical bytes")
    refused(str(proof(msgspec.structs.replace(RECORD, version=9))), "knows up to 3")
    refused(str(proof(msgspec.structs.replace(RECORD, body=b"{}"))), "can't be read")


GOOD = str(proof())


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "first line is"),
        (GOOD.replace("@v1", "@v2"), "first line is"),
        (GOOD.partition("\n\n")[0], "first line is"),
        (GOOD.replace("extra ", "extra: "), "'extra'"),
        ("\n".join(line for line in GOOD.split("\n") if not line.startswith("extra")), "'extra'"),
        (GOOD.replace("index 3", "index 03"), "'index'"),
        (GOOD.replace("index 3", "index ٣"), "'index'"),
        (GOOD.replace("index 3", "index 9223372036854775808"), "'index'"),
        (GOOD.replace("index 3\n", ""), "'index'"),
        (GOOD.replace("index 3\n", "index 3\nAAAA\n"), "nodes of 32 bytes"),
        (GOOD.replace("index 3\n", "index 3\n" + "A" * 43 + "=\n" * 1), "is not number 3"),
        (GOOD.replace("index 3\n", "index 3\n" + ("A" * 43 + "=\n") * 64), "at most 63 nodes"),
        (GOOD.replace("index 3", "index 4"), "is not number 4"),
        (GOOD.replace("index 3", "index 7"), "is not number 7"),
        ("x" * (5 << 20), "characters"),
    ],
)
def test_what_is_no_receipt_is_refused(text, match):
    refused(text, match)


@given(st.integers(0, 4000), st.integers(1, 255))
def test_a_receipt_with_one_byte_changed_does_not_verify(at, mask):
    raw = bytearray(GOOD.encode())
    raw[at % len(raw)] ^= mask
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return
    with pytest.raises(AuditError):
        verify_receipt(text, KEY.vkey)


@given(st.text(max_size=200), st.integers(0, 2000))
def test_any_text_is_refused_with_an_error_of_ours(text, cut):
    for candidate in (text, GOOD[:cut] + text, text + GOOD, GOOD[:cut]):
        if candidate == GOOD:
            continue
        with pytest.raises(AuditError):
            verify_receipt(candidate, KEY.vkey)


RECORDS = st.builds(
    Record,
    st.integers(-(2**63), 2**63 - 1),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.booleans(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.integers(0, 2**32 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.binary(max_size=20),
    st.just(b""),
)


@given(RECORDS)
def test_a_record_comes_back_from_its_canonical_bytes(record):
    assert parse(canonical(record, record.epoch, record.position)) == record


@given(RECORDS, st.integers(0, 200), st.integers(1, 255))
def test_other_bytes_are_another_record_or_none(record, at, mask):
    form = bytearray(canonical(record, record.epoch, record.position))
    form[at % len(form)] ^= mask
    try:
        other = parse(bytes(form))
    except ValueError:
        return
    assert other != record
    assert canonical(other, other.epoch, other.position) == form


@given(st.binary(max_size=120))
def test_any_bytes_are_a_record_or_refused(form):
    try:
        record = parse(form)
    except ValueError:
        return
    assert canonical(record, record.epoch, record.position) == form


OFFLINE = """
import sys

def refuse(event, arguments):
    touched = event in ("sqlite3.connect", "subprocess.Popen") or event.startswith("socket.")
    written = event == "open" and isinstance(arguments[1], str) and arguments[1].strip("rbt")
    if touched or written:
        raise PermissionError(f"{event} {arguments}")

from meowcat.audit import verify_receipt

sys.addaudithook(refuse)
print(verify_receipt(sys.stdin.read(), sys.argv[1]).url)
"""


def test_a_receipt_verifies_in_a_process_that_opens_no_journal_and_no_connection(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, KEY.vkey],
        input=GOOD,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("https://host/a\n", "")
