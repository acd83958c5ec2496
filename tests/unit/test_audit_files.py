"""The file that checkpoints are appended to."""

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
