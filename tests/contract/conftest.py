"""What the contract tests share."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

IN_MEMORY = Path("/dev/shm")


@pytest.fixture
def in_memory(tmp_path_factory, monkeypatch):
    """A folder in memory where there is one: thousands of small journals are synced, which disks take long
    for. Temporary folders are made there as well.
    """
    where = IN_MEMORY if os.access(IN_MEMORY, os.W_OK) else tmp_path_factory.mktemp("journals")
    monkeypatch.setattr(tempfile, "tempdir", str(where))
    with tempfile.TemporaryDirectory(prefix="meowcat-") as folder:
        yield Path(folder)


@pytest.fixture
def public():
    """A folder that other users can reach."""
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)
