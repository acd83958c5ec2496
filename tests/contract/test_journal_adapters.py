"""All adapters run the suite that authors of adapters run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from journal_harnesses import JSONLHarness, MemoryHarness, SmallSQLiteHarness, SQLiteHarness

from journal_adapters.jsonl import JSONLJournal
from journal_adapters.sqlite import SQLiteJournal
from meowcat.core.errors import JournalAccess, JournalRejected
from meowcat.core.values import Position
from meowcat.testing.journal import failing_calls
from meowcat.testing.journal.damage import try_bits
from meowcat.testing.journal.machine import compare
from meowcat.testing.journal_suite import OWNER, JournalSuite, check_stored, entry

HARNESSES = Path(__file__).with_name("journal_harnesses.py")


@pytest.fixture
def tmp_path(in_memory):
    return in_memory


class MemoryForATestRun(MemoryHarness):
    bit_step = 11  # all bits of a journal take a minute; the soak tries them


class TestMemory(JournalSuite):
    harness = MemoryForATestRun


class SQLiteForATestRun(SmallSQLiteHarness):
    bit_step = 17


class TestSQLite(JournalSuite):
    harness = SQLiteForATestRun


class SQLiteUnderProcess(SmallSQLiteHarness):
    sync = "process"
    bit_step, cut_step = 101, 31


class TestSQLiteUnderProcess(JournalSuite):
    harness = SQLiteUnderProcess


class JSONLForATestRun(JSONLHarness):
    bit_step = 17


class TestJSONL(JournalSuite):
    harness = JSONLForATestRun


class JSONLUnderProcess(JSONLHarness):
    sync = "process"
    bit_step, cut_step = 101, 31


class TestJSONLUnderProcess(JournalSuite):
    harness = JSONLUnderProcess


class JSONLInSmallSegments(JSONLHarness):
    segment_size = 1
    bit_step, cut_step = 101, 31


class TestJSONLInSmallSegments(JournalSuite):
    harness = JSONLInSmallSegments


PATHS = [(SQLiteJournal, "db"), (JSONLJournal, "jsonl")]


@pytest.mark.parametrize(("adapter", "suffix"), PATHS)
def test_a_name_of_bytes_that_are_no_text_is_a_name(tmp_path, adapter, suffix):
    name = os.fsdecode(b"caf\xe9." + suffix.encode())
    try:
        (tmp_path / name).touch()
        (tmp_path / name).unlink()
    except OSError:
        pytest.skip("this file system has no such names")
    journal = adapter(tmp_path / name)
    journal.open(OWNER, "power")
    batch = [entry("t", 1), entry("t", 2, unfinished=False)]
    journal.append(batch)
    assert journal.compact().records == 2
    journal.close()
    journal.open_for_reading()
    check_stored(journal, batch)
    assert list(journal.check()) == []
    journal.close()


@pytest.mark.parametrize(("adapter", "suffix"), PATHS)
@pytest.mark.parametrize("name", ["\ud800", "\0"])
def test_what_no_file_can_be_called_is_told(tmp_path, adapter, suffix, name):
    with pytest.raises(JournalAccess, match=rf"\.{suffix}': expected the path of a journal"):
        adapter(f"{tmp_path}/{name}.{suffix}")


@pytest.mark.parametrize(("adapter", "suffix"), PATHS)
@pytest.mark.parametrize("position", [1.5, "7", True, -1, 1 << 63])
def test_what_is_no_position_is_rejected_and_the_journal_goes_on(tmp_path, adapter, suffix, position):
    journal = adapter(tmp_path / f"a.{suffix}")
    journal.open(OWNER, "power")
    journal.append([entry("old", 1)])
    journal.set_cursor("sink", Position(1))
    journal.put_snapshot("sums", Position(1), b"x")
    with pytest.raises(JournalRejected, match="expected a whole number"):
        journal.set_cursor("sink", position)
    with pytest.raises(JournalRejected, match="expected a whole number"):
        journal.put_snapshot("sums", position, b"y")
    assert dict(journal.cursors()) == {"sink": 1}
    assert journal.get_snapshot("sums") == (1, b"x")
    last = journal.append([entry("new", 1)])
    journal.close()
    journal = adapter(journal.path)
    journal.open(OWNER, "power")
    assert dict(journal.cursors()) == {"sink": 1}
    assert journal.last() == last
    journal.close()


@pytest.fixture
def shimmed(tmp_path):
    """The environment of a process whose calls to the operating system can be made to fail."""
    try:
        return failing_calls.environment(tmp_path)
    except RuntimeError as missing:
        if os.environ.get("MEOWCAT_REQUIRE_SERVERS") == "1":
            pytest.fail(f"{missing} (MEOWCAT_REQUIRE_SERVERS=1)")
        pytest.skip(str(missing))


@pytest.mark.parametrize(
    ("harness", "found"),
    [
        (SQLiteHarness, "8 passed, 0 failed, 0 skipped"),
        (JSONLHarness, "6 passed, 0 failed, 2 skipped"),  # it can't be removed
    ],
)
def test_whatever_call_fails_the_journal_tells_what_is_stored(shimmed, tmp_path, harness, found):
    run = [sys.executable, "-m", "meowcat.testing.journal", f"{HARNESSES}:{harness.__name__}"]
    environment = {**shimmed, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [*run, "--only", "M29"], env=environment, check=False, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.endswith(f"{found}\n")


@pytest.mark.soak
@pytest.mark.parametrize("harness", [MemoryHarness, SmallSQLiteHarness, JSONLHarness])
@pytest.mark.parametrize("crashed", [False, True])
def test_every_bit_of_64_kib(tmp_path, harness, crashed):
    assert try_bits(harness(tmp_path), 65536, crashed=crashed) >= 8 * 65536


@pytest.mark.soak
@pytest.mark.parametrize("harness", [MemoryHarness, SmallSQLiteHarness, JSONLHarness])
def test_a_thousand_histories(tmp_path, harness):
    compare(harness, tmp_path, max_examples=1000, stateful_step_count=60)
