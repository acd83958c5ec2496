"""`meowcat audit`: keys, checkpoints, receipts and their verification, for scripts and for people."""

import errno
import hashlib
import json
import os
import sqlite3

import pytest
from click.testing import CliRunner

from journal_adapters.sqlite import SQLiteJournal
from meowcat.audit import Key, verify_checkpoint, verify_receipt
from meowcat.cli import main
from meowcat.cli.exits import Exit
from meowcat.core import events as ev
from meowcat.core.machine import State
from meowcat.core.transfers import Download, ProtocolSpec, Upload
from meowcat.core.values import Checksum, TaskId
from meowcat.journal.codec import encode
from meowcat.journal.contract import Entry, Owner

CONTENT = b"what was fetched"
DIGESTS = (Checksum("sha256", hashlib.sha256(CONTENT).hexdigest()),)
FIRST, SECOND, OPEN = "01AAAAAAAAAAAAAAAAAAAAAAAA", "01BBBBBBBBBBBBBBBBBBBBBBBB", "01CCCCCCCCCCCCCCCCCCCCCCCC"
OWNER = Owner(os.getpid(), "test.example", "the owner")


def transfer(task, digests=DIGESTS, *, complete=True):
    request = Download("https://host.example/big", "/srv/big", client_file_sign="row 7")
    events = [ev.Created(state=State.QUEUED, task=task, key=task, at=1_700_000_000_000, request=request)]
    if complete:
        done = ev.Completed(
            state=State.COMPLETE,
            path=request.to,
            size=len(CONTENT),
            digests=digests,
            url=request.url,
            created=1_700_000_000_000,
            client_file_sign="row 7",
        )
        events += [ev.Admitted(state=State.PREPARING, run=1), done]
    for seq, event in enumerate(events, 1):
        kind, version, body = encode(event)
        yield Entry(
            TaskId(task), seq, event.state is not State.COMPLETE, kind, version, 1_700_000_001_000, body
        )


def sent(task):
    request = Upload("/srv/big", "https://host.example/there", ProtocolSpec("form"))
    events = [
        ev.Created(state=State.QUEUED, task=task, key=task, at=1_700_000_000_000, request=request),
        ev.Completed(
            state=State.COMPLETE,
            path=request.source,
            size=len(CONTENT),
            digests=DIGESTS,
            url=request.url,
            created=1_700_000_000_000,
            direction="upload",
            result={"etag": '"e-1"'},
        ),
    ]
    for seq, event in enumerate(events, 1):
        kind, version, body = encode(event)
        yield Entry(TaskId(task), seq, seq == 1, kind, version, 1_700_000_001_000, body)


def append(*transfers):
    journal = SQLiteJournal("t.db")
    journal.open(OWNER, "process")
    for each in transfers:
        journal.append(list(each))
    journal.close()


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`run("audit", "verify", ...)` in a folder with a journal of two transfers, a key and a file."""
    monkeypatch.chdir(tmp_path)
    append(transfer(FIRST), transfer(SECOND, ()), transfer(OPEN, complete=False))
    Key.generate("example.com/log").save("audit.key")
    (tmp_path / "audit.vkey").write_text(Key.load("audit.key").vkey + "\n")
    (tmp_path / "big").write_bytes(CONTENT)
    return lambda *words: CliRunner().invoke(main, ["audit", *words])


CHECKPOINT = ("checkpoint", "--journal", "t.db", "--key", "audit.key")
RECEIPT = ("receipt", "--journal", "t.db", "--key", "audit.key")
VERIFY = ("verify", "--vkey", "audit.vkey")


def document(result):
    return json.loads(result.stdout)


def tamper():
    connection = sqlite3.connect("t.db")
    connection.execute("UPDATE record SET body = replace(body, 'row 7', 'row 8') WHERE position = 3")
    connection.commit()
    connection.close()


@pytest.mark.parametrize("command", ["keygen", "checkpoint", "receipt", "verify"])
def test_every_command_has_help_with_an_example(run, command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"meowcat audit {command}" in result.output


def test_keygen_prints_the_public_part_alone_on_standard_output(run, tmp_path):
    result = run("keygen", "-o", "new.key", "--name", "example.com/new")
    assert result.exit_code == Exit.COMPLETE
    assert result.stdout.strip() == Key.load("new.key").vkey
    assert "new.key" in result.stderr
    assert (tmp_path / "new.key").stat().st_mode & 0o777 == 0o600
    secret = (tmp_path / "new.key").read_text().strip().split("+", 4)[4]  # base64, which may hold a + too
    assert secret not in result.output


@pytest.fixture
def full(monkeypatch):
    """A disk on which there is no room by the time that a file has to be stored."""

    def sync(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return lambda: monkeypatch.setattr(os, "fsync", sync)


def test_on_a_full_disk_no_half_of_a_key_or_a_receipt_is_left(run, full, tmp_path):
    assert run(*RECEIPT, FIRST[:4], "-o", "big.receipt").exit_code == Exit.COMPLETE
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if not path.name.startswith("t.db")}
    full()
    for words in (
        ("keygen", "-o", "new.key"),
        (*RECEIPT, FIRST[:4], "-o", "new.receipt"),
    ):
        result = run(*words)
        assert result.exit_code == Exit.UNWRITTEN
        assert result.stderr == f"meowcat: {words[-1]}: No space left on device; nothing was written\n"
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir() if path.name[:4] != "t.db"}


def test_a_receipt_is_written_over_nothing(run, tmp_path):
    (tmp_path / "link").symlink_to("audit.key")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for name in ("audit.key", "t.db", "link"):
        result = run(*RECEIPT, FIRST[:4], "-o", name)
        assert result.exit_code == Exit.USAGE
        assert f"{name} exists; choose another name" in result.stderr
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}, "and nothing is signed"


def test_a_receipt_goes_to_standard_output_by_a_minus_as_an_export_does(run, tmp_path):
    assert run(*RECEIPT, FIRST[:4], "-o", "-").stdout == run(*RECEIPT, FIRST[:4]).stdout
    assert not (tmp_path / "-").exists()


def test_a_receipt_goes_where_a_link_leads_and_into_what_is_no_file(run, tmp_path):
    (tmp_path / "link").symlink_to("target")
    assert run(*RECEIPT, FIRST[:4], "-o", "link").exit_code == Exit.COMPLETE
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").stat().st_mode & 0o777 == 0o666 & ~umask()
    assert run(*RECEIPT, FIRST[:4], "-o", os.devnull).exit_code == Exit.COMPLETE
    assert run(*RECEIPT, FIRST[:4], "-o", "n" * 255).exit_code == Exit.COMPLETE
    (tmp_path / "loop").symlink_to("loop")
    assert run(*RECEIPT, FIRST[:4], "-o", "loop").exit_code == Exit.COMPLETE
    assert not os.path.isfile(os.devnull)  # noqa: PTH113  # a device
    for name in ("nowhere/x", "n" * 256):
        assert run(*RECEIPT, FIRST[:4], "-o", name).exit_code == Exit.USAGE


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_keygen_overwrites_nothing_and_makes_a_name_where_none_is_given(run):
    again = run("keygen")
    assert again.exit_code == Exit.USAGE
    assert "keys are never overwritten" in again.stderr
    made = document(run("keygen", "-o", "b.key", "--json"))
    assert made["vkey"].startswith(made["name"] + "+")
    assert "/meowcat/" in made["name"]
    assert made["key"].endswith("/b.key")


def test_a_checkpoint_is_printed_kept_and_appended(run, tmp_path):
    result = run(*CHECKPOINT, "-o", "checkpoints")
    assert result.exit_code == Exit.COMPLETE
    assert verify_checkpoint(result.stdout, Key.load("audit.key").vkey).size == 7
    assert (tmp_path / "checkpoints").read_text() == result.stdout
    again = document(run(*CHECKPOINT, "-o", "checkpoints", "--json"))
    assert (again["size"], again["kept"], again["checkpoint"]) == (7, True, result.stdout)
    assert (tmp_path / "checkpoints").read_text() == result.stdout
    assert run(*VERIFY, "--journal", "t.db").exit_code == Exit.COMPLETE


def test_a_journal_that_somebody_owns_is_read_beside_its_owner(run):
    owner = SQLiteJournal("t.db")
    owner.open(OWNER, "process")
    result = run(*CHECKPOINT, "-o", "checkpoints")
    assert result.exit_code == Exit.COMPLETE
    assert "read beside its owner, process" in result.stderr
    assert document(run(*CHECKPOINT, "--json"))["kept"] is False
    assert run(*RECEIPT, FIRST, "-o", "receipt").exit_code == Exit.COMPLETE
    assert run(*VERIFY, "--journal", "t.db").exit_code == Exit.FAILED, "it keeps nothing"
    assert run(*VERIFY, "--journal", "t.db", "--checkpoint", "checkpoints").exit_code == Exit.COMPLETE
    owner.close()


def test_nothing_is_signed_that_contradicts_the_file(run):
    run(*CHECKPOINT, "-o", "checkpoints")
    os.rename("t.db", "gone.db")  # noqa: PTH104  # the journal is replaced by another one
    append(transfer(SECOND))
    result = run(*CHECKPOINT, "-o", "checkpoints")
    assert result.exit_code == Exit.FAILED
    assert "nothing is signed" in result.stderr
    failed = document(run(*CHECKPOINT, "-o", "checkpoints", "--json"))
    assert (failed["type"], failed["code"], failed["name"]) == ("error", 151, "AUDIT")


def test_signing_makes_no_journal(run, tmp_path):
    result = run("checkpoint", "--journal", "typo.db", "--key", "audit.key")
    assert result.exit_code == Exit.JOURNAL
    assert not (tmp_path / "typo.db").exists()


def test_a_receipt_is_verified_by_itself_and_against_the_file(run):
    written = run(*RECEIPT, FIRST[:4], "-o", "big.receipt")
    assert written.exit_code == Exit.COMPLETE
    result = run(*VERIFY, "--receipt", "big.receipt", "--file", "big")
    assert result.exit_code == Exit.COMPLETE
    for told in (
        "https://host.example/big",
        "/srv/big",
        "16 bytes",
        str(DIGESTS[0]),
        "row 7",
        "example.com/log",
    ):
        assert told in result.stdout
    assert "NOT" not in result.stdout
    found = document(run(*VERIFY, "--receipt", "big.receipt", "--file", "big", "--json"))
    assert found["proved"] is True
    assert found["records"] is None
    assert [(each["what"], each["proved"]) for each in found["checks"]] == [("receipt", True), ("file", True)]
    assert found["receipts"] == [
        {
            "source": "big.receipt",
            "task": FIRST,
            "direction": "download",
            "url": "https://host.example/big",
            "path": "/srv/big",
            "size": 16,
            "digests": [str(DIGESTS[0])],
            "remote": {},
            "created": "2023-11-14T22:13:20.000Z",
            "completed": "2023-11-14T22:13:21.000Z",
            "client_file_sign": "row 7",
            "origin": "example.com/log",
            "position": 3,
            "checkpoint_size": 7,
        }
    ]


def test_the_receipt_of_an_upload_tells_source_and_object(run):
    append(sent("01DDDDDDDDDDDDDDDDDDDDDDDD"))
    run(*RECEIPT, "01DDDDDDDDDDDDDDDDDDDDDDDD", "-o", "sent.receipt")
    result = run(*VERIFY, "--receipt", "sent.receipt", "--file", "big")
    assert result.exit_code == Exit.COMPLETE
    told = dict(line.split(None, 1) for line in result.stdout.splitlines() if line.startswith("  "))
    assert (told["Transfer"], told["Source"]) == ("upload", "/srv/big")
    assert told["URL"] == "https://host.example/there"
    assert 'Server said  etag "e-1"' in result.stdout
    (proven,) = document(run(*VERIFY, "--receipt", "sent.receipt", "--json"))["receipts"]
    assert (proven["direction"], proven["remote"]) == ("upload", {"etag": '"e-1"'})


def test_a_receipt_is_printed_as_it_is_where_no_file_is_named(run):
    result = run(*RECEIPT, FIRST)
    assert verify_receipt(result.stdout, Key.load("audit.key").vkey).task == FIRST
    made = document(run(*RECEIPT, FIRST, "--json"))
    assert (made["receipt"], made["task"], made["kept"]) == (result.stdout, FIRST, True)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (CONTENT[:-1] + b"!", "its sha256 is"),
        (CONTENT + b"!", "it has 17 bytes; the receipt says 16"),
        (None, "No such file"),
    ],
)
def test_another_file_is_not_what_the_receipt_says(run, tmp_path, content, told):
    run(*RECEIPT, FIRST, "-o", "big.receipt")
    (tmp_path / "big").unlink()
    if content is not None:
        (tmp_path / "big").write_bytes(content)
    result = run(*VERIFY, "--receipt", "big.receipt", "--file", "big")
    assert result.exit_code == Exit.FAILED
    assert "NOT PROVED  file" in result.stdout
    assert told in result.stdout


def test_a_receipt_without_a_digest_says_so_and_proves_no_file(run):
    made = run(*RECEIPT, SECOND, "-o", "r")
    assert "has no digest" in made.stderr
    alone = run(*VERIFY, "--receipt", "r")
    assert alone.exit_code == Exit.COMPLETE
    assert "none: it says nothing about the content" in alone.stdout
    result = run(*VERIFY, "--receipt", "r", "--file", "big")
    assert result.exit_code == Exit.FAILED
    assert "nothing more can be compared" in result.stdout


def test_a_task_without_an_end_has_no_receipt(run):
    result = run(*RECEIPT, OPEN)
    assert result.exit_code == Exit.FAILED
    assert "is not Complete" in result.stderr
    assert run(*RECEIPT, "01").exit_code == Exit.USAGE


def test_a_tampered_receipt_is_not_proved(run, tmp_path):
    run(*RECEIPT, FIRST, "-o", "r")
    text = (tmp_path / "r").read_text()
    (tmp_path / "r").write_text(text.replace("index 2", "index 1"))
    result = run(*VERIFY, "--receipt", "r")
    assert result.exit_code == Exit.FAILED
    assert "is not number 1 of the 7" in result.stdout
    assert document(run(*VERIFY, "--receipt", "r", "--json"))["proved"] is False
    (tmp_path / "r").write_bytes(text.replace("\n", "\r\n").encode())
    assert run(*VERIFY, "--receipt", "r").exit_code == Exit.FAILED


def test_a_whole_journal_is_verified_against_all_that_was_signed(run):
    run(*RECEIPT, FIRST, "-o", "r")
    run(*CHECKPOINT, "-o", "c")
    append(transfer("01DDDDDDDDDDDDDDDDDDDDDDDD"))
    run(*CHECKPOINT, "-o", "c")
    append(transfer("01EEEEEEEEEEEEEEEEEEEEEEEE", complete=False))
    result = run(*VERIFY, "--journal", "t.db", "--checkpoint", "c", "--receipt", "r")
    assert result.exit_code == Exit.COMPLETE
    assert "c:1" in result.stdout
    assert "c:2" in result.stdout
    assert "records behind the last checkpoint, not signed yet: 1" in result.stdout
    found = document(run(*VERIFY, "--journal", "t.db", "--checkpoint", "c", "--receipt", "r", "--json"))
    assert (found["proved"], found["records"], found["covered"]) == (True, 11, 10)
    assert [(each["what"], each["source"], each["size"]) for each in found["checks"]] == [
        ("records", "the journal", None),
        ("checkpoint", "c:1", 7),
        ("receipt", "r", 7),
        ("checkpoint", "the journal", 10),
        ("checkpoint", "c:2", 10),
    ]


def test_a_changed_journal_is_not_proved_and_told_where(run):
    run(*CHECKPOINT, "-o", "c")
    tamper()
    result = run(*VERIFY, "--journal", "t.db", "--checkpoint", "c")
    assert result.exit_code == Exit.FAILED
    assert "NOT PROVED  records" in result.stdout
    assert "record 3 is damaged" in result.stdout


def test_a_journal_that_was_never_signed_is_not_proved(run):
    result = run(*VERIFY, "--journal", "t.db")
    assert result.exit_code == Exit.FAILED
    assert "nothing was ever signed here" in result.stdout
    assert document(run(*VERIFY, "--journal", "t.db", "--json"))["proved"] is False


def test_a_checkpoint_of_no_records_proves_nothing(run):
    journal = SQLiteJournal("empty.db")
    journal.open(OWNER, "process")
    journal.close()
    run("checkpoint", "--journal", "empty.db", "--key", "audit.key", "-o", "c")
    for words in (("--checkpoint", "c"), ("--journal", "empty.db")):
        result = run(*VERIFY, *words)
        assert result.exit_code == Exit.FAILED
        assert "NOT PROVED  what was signed covers no records" in result.stdout


def test_a_checkpoint_alone_is_verified_offline(run):
    run(*CHECKPOINT, "-o", "c")
    assert run(*VERIFY, "--checkpoint", "c").exit_code == Exit.COMPLETE
    run("keygen", "-o", "other.key")
    other = Key.load("other.key").vkey
    result = run("verify", "--vkey", other, "--checkpoint", "c")
    assert result.exit_code == Exit.FAILED
    assert "signed by example.com/log" in result.stdout
    assert run("verify", "--vkey", other, *VERIFY[1:], "--checkpoint", "c").exit_code == Exit.COMPLETE
    assert run(*VERIFY, "--origin", "x", "--checkpoint", "c").exit_code == Exit.FAILED


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("verify", "--vkey", "audit.vkey"), "nothing to verify"),
        (("verify", "--vkey", "nonsense", "--receipt", "big"), "expected NAME+ID+KEY"),
        (("verify", "--vkey", "audit.vkey", "--receipt", "none"), "none: No such file"),
        (("verify", "--vkey", "audit.vkey", "--journal", "t.db", "--file", "big"), "--file is for one"),
        (("verify", "--receipt", "big"), "Missing option '--vkey'"),
        (("checkpoint", "--key", "audit.key"), "Missing option '--journal'"),
        (("checkpoint", "--journal", "t.db", "--key", "none"), "'meowcat audit keygen' makes one"),
        (("checkpoint", "--journal", "t.db", "--key", "audit.vkey"), "mode 0644"),
        (("keygen", "--name", "a b", "-o", "x"), "key name 'a b'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run, words, told):
    os.chmod("audit.vkey", 0o644)  # noqa: PTH101  # in the folder that is current
    result = run(*words)
    assert result.exit_code == Exit.USAGE
    assert told in result.stderr
    assert result.stderr.count("\n") == 1
