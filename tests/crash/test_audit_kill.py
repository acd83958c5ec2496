"""A process that is killed while it signs: whatever was ever seen of it is one history."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from meowcat.audit import Key, verify_journal
from meowcat.audit.checkpoints import split_checkpoints

POINTS = ["signing", "before keeping", "between", "exporting", "afterwards"]


def run(folder, point, count=5):
    """Run until it dies; what it has printed."""
    script = Path(__file__).with_name("signing.py")
    done = subprocess.run(
        [sys.executable, script, folder, point, str(count)], check=False, capture_output=True, text=True
    )
    assert done.returncode == (0 if point == "never" else -signal.SIGKILL), done.stderr
    return split_checkpoints(done.stdout)


@pytest.mark.parametrize("first", POINTS)
def test_no_two_checkpoints_contradict_each_other_wherever_the_process_dies(tmp_path, first):
    key = Key.generate("example.com/log")
    key.save(tmp_path / "audit.key")
    seen = []
    for point in [first, *POINTS, "never"]:
        seen += run(tmp_path, point)
    exported = split_checkpoints((tmp_path / "checkpoints").read_text())
    found = verify_journal(
        tmp_path / "t.db", key.vkey, checkpoints=[("seen", each) for each in (*seen, *exported)]
    )
    assert [each.detail for each in found.checks if not each.proved] == []
    assert found.covered == found.records == 5 * (len(POINTS) + 2)
    assert set(seen) <= set(exported), "what was handed out is in the file as well"
    assert len(exported) == len(set(exported))
