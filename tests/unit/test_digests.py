"""Digests: known values, files, and pieces that have to prove themselves."""

import hashlib
import os

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from meowcat.core.errors import InvalidArgument
from meowcat.core.pieces import Grid
from meowcat.core.transfers import DIGEST_LENGTHS
from meowcat.core.values import FaultKind
from meowcat.testing.disk import SimulatedDisk
from meowcat.transfer.digests import (
    BLOCK,
    PieceCheck,
    Stopped,
    digest_file,
    new,
    piece_digest,
    verify_pieces,
)
from meowcat.transfer.disk import FileFault, OsDisk
from meowcat.transfer.files import PartFile

TASK = "01JTASKAAAAAAAAAAAAAAAAAAA"

KNOWN = {
    # "123456789": the check values of the CRCs; the others by the coreutils and b3sum
    "crc32c": "e3069283",
    "crc64nvme": "ae8b14860a799888",
    "crc64xz": "995dc9bbdf1939fa",
    "md5": "25f9e794323b453885f5181f1b624d0b",
    "sha1": "f7c3bc1d808e04732adf679965ccc34ca7ae3441",
    "sha256": "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
}


@pytest.fixture(params=["os", "simulated"])
def part(request, tmp_path):
    if request.param == "os":
        disk, folder = OsDisk(), str(tmp_path)
    else:
        disk, folder = SimulatedDisk(), "/downloads"
        disk.make_folder(folder)
    part = PartFile.open(disk, f"{folder}/file", TASK, "process", fresh=True, size=None)
    part.disk = disk
    yield part
    part.close()


@pytest.mark.parametrize("algorithm", KNOWN)
def test_known_values(algorithm):
    digest = new(algorithm)
    digest.update(b"1234")
    digest.update(bytearray(b"56"))
    digest.update(memoryview(bytearray(b"789")))
    assert digest.hexdigest() == KNOWN[algorithm]


@pytest.mark.parametrize("algorithm", DIGEST_LENGTHS)
@given(data=st.binary(), cut=st.integers(0, 100))
def test_it_does_not_matter_how_the_bytes_come(algorithm, data, cut):
    whole, parts = new(algorithm), new(algorithm)
    whole.update(data)
    parts.update(memoryview(data)[:cut])
    parts.update(memoryview(data)[cut:])
    assert whole.hexdigest() == parts.hexdigest()
    assert len(whole.hexdigest()) == DIGEST_LENGTHS[algorithm]


def test_an_unknown_algorithm_is_refused():
    with pytest.raises(InvalidArgument, match="sha256"):
        new("crc64")


def test_the_digest_of_a_piece_is_blake3():
    assert piece_digest([b"12", memoryview(b"3")]) == blake3(b"123").digest()
    assert piece_digest([]) == blake3().digest()


@pytest.mark.parametrize("size", [0, 1, BLOCK, BLOCK + 1])
def test_a_file_is_read_once_for_all_digests(part, size):
    content = os.urandom(size)
    part.write(0, content)
    told = []
    found = digest_file(part.disk, part.path, ["sha256", "md5"], size, told.append)
    assert found == {
        "sha256": hashlib.sha256(content).hexdigest(),
        "md5": hashlib.md5(content, usedforsecurity=False).hexdigest(),
    }
    assert told == sorted(told)
    assert (told or [0])[-1] == size


@given(st.integers(1, 50), st.integers(1, 20), st.data())
def test_pieces_that_are_not_what_was_stored_are_found_however_the_file_is_read(size, piece, data):
    grid, content = Grid(size, piece), os.urandom(size)
    changed = data.draw(st.sets(st.integers(0, grid.count - 1)))
    stored = [blake3(content[slice(*grid.span(each))]).digest() for each in range(grid.count)]
    check = PieceCheck(grid, lambda each: bytes(32) if each in changed else stored[each])
    at = 0
    while at < size:
        step = data.draw(st.integers(1, size))
        check.update(content[at : at + step])
        at += step
    assert check.changed == sorted(changed)


def test_an_open_descriptor_is_read_from_its_beginning_and_stays_open(part):
    part.write(0, b"123456789")
    fd = part.disk.open(part.path, os.O_RDONLY)
    for _ in range(2):
        assert digest_file(part.disk, fd, ["sha1"], 9) == {"sha1": KNOWN["sha1"]}
    part.disk.close(fd)


@pytest.mark.parametrize("size", [8, 10])
def test_a_file_of_another_size_is_no_file_to_digest(part, size):
    part.write(0, b"123456789")
    with pytest.raises(FileFault, match="9 bytes") as caught:
        digest_file(part.disk, part.path, ["md5"], size)
    assert caught.value.fault.kind is FaultKind.LOCAL_REMOVED


def test_an_absent_file_is_told_as_removed(part):
    with pytest.raises(FileFault) as caught:
        digest_file(part.disk, part.path + "no", ["md5"], 9)
    assert caught.value.fault.kind is FaultKind.LOCAL_REMOVED


def test_a_file_that_shrinks_while_it_is_read_is_noticed(part):
    part.write(0, bytes(BLOCK * 2))
    with pytest.raises(FileFault, match="truncated") as caught:
        digest_file(part.disk, part.path, ["md5"], BLOCK * 2, progress=lambda at: part.truncate(BLOCK))
    assert caught.value.fault.kind is FaultKind.LOCAL_REMOVED


def test_reading_stops_between_blocks(part):
    part.write(0, bytes(BLOCK * 3))
    told = []
    with pytest.raises(Stopped):
        digest_file(part.disk, part.path, ["md5"], BLOCK * 3, told.append, lambda: len(told) == 2)
    assert told == [BLOCK, BLOCK * 2]


def spans(content, piece):
    for index, start in enumerate(range(0, len(content), piece)):
        stop = min(start + piece, len(content))
        yield index, start, stop, blake3(content[start:stop]).digest()


@pytest.mark.parametrize("piece", [1000, BLOCK + 500])
def test_pieces_prove_themselves_one_by_one(part, piece):
    content = os.urandom(piece * 3 + 7)
    part.write(0, content)
    assert verify_pieces(part, list(spans(content, piece)), lambda: False) == ([0, 1, 2, 3], [])
    part.write(piece, bytes([content[piece] ^ 1]))
    part.truncate(len(content) - 1)
    assert verify_pieces(part, spans(content, piece), lambda: False) == ([0, 2], [1, 3])


def test_what_can_not_be_read_is_bad(part):
    part.write(0, b"12")
    part.close()
    assert verify_pieces(part, spans(b"12", 1), lambda: False) == ([], [0, 1])


def test_a_stop_leaves_the_rest_undecided(part):
    part.write(0, bytes(10))
    asked = []
    stop = lambda: asked.append(1) or len(asked) > 4  # noqa: E731  # shorter than a function with a name
    assert verify_pieces(part, spans(bytes(10), 1), stop) == ([0, 1, 2, 3], [])
