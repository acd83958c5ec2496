"""The second verifier, which knows nothing of meowcat, agrees with ours on what is proved and what is not."""

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meowcat.audit import Checkpoint, Key, verify_receipt
from meowcat.audit.keys import sign_note
from meowcat.audit.merkle import inclusion_proof, leaf_hash, root_of
from meowcat.audit.receipts import Proof, leaf_of
from meowcat.core import events as ev
from meowcat.core.errors import AuditError
from meowcat.core.machine import State
from meowcat.core.values import Checksum
from meowcat.journal.codec import encode
from meowcat.journal.contract import Record

SCRIPT = Path(__file__).parents[2] / "examples/verify_receipt.py"
KEY = Key.generate("example.com/log")


def receipt(size=7, index=3, key=KEY):
    done = ev.Completed(
        state=State.COMPLETE,
        path="/srv/a",
        size=7,
        digests=(Checksum("sha256", "9f" * 32),),
        url="https://host/ä",
        created=5,
        client_file_sign="row 7",
    )
    kind, version, body = encode(done)
    entries = [bytes([number % 251]) for number in range(size)]
    entries[index] = leaf_of(Record(index + 1, "task", 3, 2, False, kind, version, 6, body, b""))
    hashes = [leaf_hash(each) for each in entries]
    checkpoint = Checkpoint(origin="example.com/log", size=size, root=root_of(hashes))
    nodes = inclusion_proof(index, size, lambda start, end: root_of(hashes[start:end]))
    return str(Proof(entries[index], index, tuple(nodes), sign_note(str(checkpoint), key)))


GOOD = receipt()


@pytest.fixture(scope="module")
def theirs():
    spec = importlib.util.spec_from_file_location("verify_receipt_example", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def verdict(text, vkey):
        try:
            return module.verified(text, vkey)
        except (ValueError, module.struct.error, module.InvalidSignature):
            return None

    return verdict


def ours(text, vkey):
    try:
        return verify_receipt(text, vkey)
    except AuditError:
        return None


def agree(theirs, text, vkey=KEY.vkey):
    """Both say the same; whether it is proved."""
    one, other = ours(text, vkey), theirs(text, vkey)
    assert (one is None) == (other is None)
    if one is None:
        return False
    assert other["task"] == one.task
    assert (other["url"], other["path"], other["size"]) == (one.url, one.path, one.size)
    assert (other["created"], other["completed"]) == (one.created, one.completed)
    assert [f"{each['algorithm']}:{each['hex']}" for each in other["digests"]] == [
        str(d) for d in one.digests
    ]
    return True


@given(st.integers(1, 40).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1))))
def test_both_accept_what_is_proved(theirs, case):
    assert agree(theirs, receipt(*case))


def test_both_accept_signatures_of_others_beside(theirs):
    witness = Key.generate("witness.example")
    text, _, line = GOOD.rpartition("\n— ")
    body = text[text.index("\n\n") + 2 :]
    cosigned = sign_note(body, witness).rpartition("\n— ")[2]
    assert agree(theirs, f"{GOOD}— {cosigned}")
    assert agree(theirs, f"{text}\n— {cosigned}— {line}")


def test_both_refuse_another_key(theirs):
    assert not agree(theirs, receipt(key=Key.generate("example.com/log")))
    assert not agree(theirs, GOOD, Key.generate("example.com/log").vkey)
    assert not agree(theirs, GOOD, KEY.vkey.replace("log", "lag"))


@given(st.integers(0, 4000), st.integers(1, 255))
def test_both_refuse_a_receipt_with_one_byte_changed(theirs, at, mask):
    raw = bytearray(GOOD.encode())
    raw[at % len(raw)] ^= mask
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return
    assert not agree(theirs, text)


@given(st.integers(0, len(GOOD) - 1), st.text(max_size=5))
def test_both_refuse_what_is_cut_off_or_grown(theirs, at, more):
    assert not agree(theirs, GOOD[:at])
    assert not agree(theirs, GOOD[:at] + more) or GOOD[:at] + more == GOOD
    assert not agree(theirs, more + GOOD) or not more


def test_it_is_a_program_of_eighty_lines_that_needs_no_meowcat(tmp_path):
    text = SCRIPT.read_text("utf-8")
    assert len(text.splitlines()) <= 80
    roots = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
    }
    assert roots <= {*sys.stdlib_module_names, "cryptography"}
    (tmp_path / "receipt").write_text(GOOD, "utf-8")
    (tmp_path / "forged").write_text(GOOD.replace("index 3", "index 2"), "utf-8")
    blocked = (
        "import runpy, sys; sys.modules['meowcat'] = None; sys.argv = sys.argv[1:]; "
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    )

    def run(name):
        return subprocess.run(
            [sys.executable, "-O", "-c", blocked, "verify_receipt.py", name, KEY.vkey],
            check=False, capture_output=True, text=True, cwd=tmp_path,
        )  # fmt: skip

    assert json.loads(run("receipt").stdout)["url"] == "https://host/ä"
    assert run("forged").returncode == 1
    assert run("forged").stderr == "NOT PROVED: the record is not the one that was signed\n"
