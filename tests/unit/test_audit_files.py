"""The file that checkpoints are appended to."""

import os
import tracemalloc

import pytest

from meowcat.audit.checkpoints import Checkpoint, split_checkpoints
from meowcat.audit.files import CheckpointFile
from meowcat.audit.keys import Key, sign_note

KEY = Key.generate("example.com/log")


def checkpoint(size):
    return sign_note(str(Checkpoint(origin="example.com/log", size=size, root=bytes(32))), KEY)


@pytest.mark.parametrize("before", [[], [8], [7, 8], [8, 100_000]])
def test_what_a_crash_cut_off_anywhere_is_completed_and_nothing_is_there_twice(tmp_path, before):
    file, text = CheckpointFile(tmp_path / "c"), checkpoint(9)
    for each in before:
        file.add(checkpoint(each))
    file.add(text)
    whole = file.path.read_bytes()
    there = len(whole) - len(text.encode())
    for cut in range(max(0, there - 1), len(whole)):
        file.path.write_bytes(whole[:cut])
        file.add(text)
        file.add(text)
        assert file.path.read_bytes() == whole
    assert split_checkpoints(whole.decode()) == [*map(checkpoint, before), text]


def test_a_checkpoint_is_durable_once_it_is_added_and_so_is_the_name_of_its_file(tmp_path, monkeypatch):
    file = CheckpointFile(tmp_path / "c")
    synced = []
    real = os.fsync

    def fsync(descriptor):
        status = os.fstat(descriptor)
        if os.path.samestat(status, tmp_path.stat()):
            synced.append([each.name for each in tmp_path.iterdir()])
        else:
            assert os.path.samestat(status, file.path.stat())
            synced.append(status.st_size)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    file.add(checkpoint(8))
    assert synced == [file.path.stat().st_size, ["c"]]
    file.add(checkpoint(9))
    assert synced[2:] == [file.path.stat().st_size]


def test_adding_one_costs_no_more_where_there_are_many(tmp_path):
    file = CheckpointFile(tmp_path / "c")
    with file.path.open("wb") as many:
        many.truncate(64 << 20)
        many.seek(0, 2)
        many.write(f"\n{checkpoint(1)}\n".encode())
    tracemalloc.start()
    try:
        file.add(checkpoint(2))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert file.path.read_bytes().endswith(f"{checkpoint(1)}\n{checkpoint(2)}".encode())
