"""An outage of a day with very many events pending: memory stays flat, transfers go on, nothing is lost."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench" / "bench_outage.py"
ATTEMPTS_OF_A_DAY = 288
"""One each five minutes."""


def outage(events: int, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, BENCH, "--events", str(events), "--folder", folder, "--json"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=1000,
    )
    print(done.stdout)
    figures = json.loads(done.stdout)
    assert figures["pending"] >= events * 0.99
    assert figures["attempts"] >= ATTEMPTS_OF_A_DAY
    assert figures["peak in the outage MiB"] - figures["peak before MiB"] < 25
    assert figures["peak in the delivery MiB"] - figures["peak before MiB"] < 35
    # Whoever waited for a sink would wait for ever, or for its next attempt: in the end that is minutes away.
    assert figures["downloads meanwhile s"] < 2 * figures["downloads before s"] + 2
    assert figures["out of order"] == 0
    assert figures["delivered"] >= figures["pending"]


@pytest.mark.timeout(300)
def test_a_day_of_outage_with_a_hundred_thousand_events_pending(tmp_path):
    outage(100_000, tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_a_day_of_outage_with_a_million_events_pending(tmp_path):
    outage(1_000_000, tmp_path)
