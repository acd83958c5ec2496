"""Part files of other tasks are found as surely as by a listing, and without one each time."""
# ruff: noqa: PTH108, PTH123, PTH208  # paths are strings, as in what is tested

import os
import sys

import pytest

from meowcat.transfer import part_names as module
from meowcat.transfer.part_names import PartNames

ONE, OTHER = "01JTASKAAAAAAAAAAAAAAAAAAA", "01JTASKBBBBBBBBBBBBBBBBBBB"

watching = pytest.mark.skipif(sys.platform != "linux", reason="folders are watched on Linux alone")


class Listing:
    """Counts what a listing costs."""

    def __init__(self):
        self.made = 0

    def __call__(self, folder):
        self.made += 1
        return os.listdir(folder)


@pytest.fixture
def listing():
    return Listing()


@pytest.fixture
def names(listing):
    return PartNames(".part", listing)


def part(folder, stem, task=ONE):
    """A part file comes into being; its name."""
    name = f"{stem}.{task}.part"
    with open(f"{folder}/{name}", "wb"):
        return name


def others(names, folder, stem, own):
    """What is found beside our own, as its caller looks at it."""
    found = names.find(str(folder), stem, own)
    return sorted(each for each in found if each.startswith(f"{stem}.") and each != own)


@watching
def test_a_folder_that_is_asked_about_again_and_again_is_listed_twice(names, listing, tmp_path):
    for number in range(50):
        assert others(names, tmp_path, f"f{number}", part(tmp_path, f"f{number}")) == []
    assert listing.made == 2


def test_the_part_file_of_another_task_is_found_however_often_the_folder_was_asked_about(names, tmp_path):
    for number in range(10):
        other = part(tmp_path, f"f{number}", OTHER)
        own = part(tmp_path, f"f{number}")
        assert others(names, tmp_path, f"f{number}", own) == [other]
        assert others(names, tmp_path, f"f{number}", own) == [other]


def test_one_that_was_there_before_anybody_asked_is_found(names, tmp_path):
    other = part(tmp_path, "old", OTHER)
    for number in range(5):
        others(names, tmp_path, f"f{number}", part(tmp_path, f"f{number}"))
    assert others(names, tmp_path, "old", part(tmp_path, "old")) == [other]


def test_one_that_was_moved_there_is_found(names, tmp_path):
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    for number in range(5):
        others(names, folder, f"f{number}", part(folder, f"f{number}"))
    moved = part(elsewhere, "big.iso", OTHER)
    os.rename(elsewhere / moved, folder / moved)  # noqa: PTH104  # as above
    assert others(names, folder, "big.iso", part(folder, "big.iso")) == [moved]


def test_one_that_is_gone_is_found_no_more(names, tmp_path):
    for number in range(5):
        others(names, tmp_path, f"f{number}", part(tmp_path, f"f{number}"))
    other = part(tmp_path, "big.iso", OTHER)
    own = part(tmp_path, "big.iso")
    assert others(names, tmp_path, "big.iso", own) == [other]
    os.unlink(tmp_path / other)
    assert others(names, tmp_path, "big.iso", own) == []


def test_another_folder_at_the_same_path_is_another_one(names, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(5):
        others(names, folder, f"f{number}", part(folder, f"f{number}"))
    folder.rename(tmp_path / "before")
    folder.mkdir()
    other = part(folder, "big.iso", OTHER)
    for _ in range(3):
        assert others(names, folder, "big.iso", part(folder, "big.iso")) == [other]


def test_a_folder_that_was_removed_and_made_again_is_another_one(names, tmp_path):
    folder = tmp_path / "folder"
    for _ in range(3):
        folder.mkdir()
        other = part(folder, "big.iso", OTHER)
        for _ in range(3):
            assert others(names, folder, "big.iso", part(folder, "big.iso")) == [other]
        for name in os.listdir(folder):
            os.unlink(folder / name)
        folder.rmdir()


def test_a_name_with_dots_and_other_letters_is_found(names, tmp_path):
    for stem in ("a.tar.gz", ".hidden", "猫.01JTASKAAAAAAAAAAAAAAAAAAA.part", "x y", "a..b"):
        for _ in range(2):
            other = part(tmp_path, stem, OTHER)
            assert others(names, tmp_path, stem, part(tmp_path, stem)) == [other]


def test_the_part_file_of_another_task_of_the_same_engine_is_found(names, tmp_path):
    for number in range(5):
        others(names, tmp_path, f"f{number}", part(tmp_path, f"f{number}"))
    paused = part(tmp_path, "big.iso", OTHER)
    assert others(names, tmp_path, "big.iso", paused) == []
    assert others(names, tmp_path, "big.iso", part(tmp_path, "big.iso")) == [paused]


@watching
def test_only_the_names_of_files_that_are_there_are_remembered(names, tmp_path):
    for number in range(50):
        name = part(tmp_path, f"f{number}")
        part(tmp_path, f"f{number}", OTHER)
        others(names, tmp_path, f"f{number}", name)
        (tmp_path / name).rename(tmp_path / f"f{number}")
        (tmp_path / f"f{number}.{OTHER}.part").unlink()
    others(names, tmp_path, "last", part(tmp_path, "last"))
    known = names._folders[str(tmp_path)]
    assert (list(known.names), known.came) == (["last"], set())


@watching
def test_when_the_kernel_has_dropped_events_the_folder_is_listed(names, listing, tmp_path, monkeypatch):
    for number in range(5):
        others(names, tmp_path, f"f{number}", part(tmp_path, f"f{number}"))
    other = part(tmp_path, "big.iso", OTHER)
    own = part(tmp_path, "big.iso")
    read, made = os.read, listing.made
    dropped = [module._HEAD.pack(-1, module._OVERFLOW, 0, 0)]

    def lossy(fd, size):
        read(fd, size)
        if dropped:
            return dropped.pop()
        raise BlockingIOError

    monkeypatch.setattr(module.os, "read", lossy)
    assert others(names, tmp_path, "big.iso", own) == [other]
    assert listing.made == made + 1


@watching
def test_more_folders_than_are_watched_are_all_told_right(names, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_FOLDERS", 3)
    folders = [tmp_path / str(number) for number in range(6)]
    for folder in folders:
        folder.mkdir()
    for turn in range(3):
        for folder in folders:
            for number in range(2):
                stem = f"f{turn}-{number}"
                other = part(folder, stem, OTHER)
                assert others(names, folder, stem, part(folder, stem)) == [other]
    assert len(names._folders) <= 3


def test_where_nothing_can_be_watched_folders_are_listed(listing, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_inotify", lambda: None)
    names = PartNames(".part", listing)
    for number in range(5):
        other = part(tmp_path, f"f{number}", OTHER)
        assert others(names, tmp_path, f"f{number}", part(tmp_path, f"f{number}")) == [other]
    assert listing.made == 5


@watching
def test_a_file_system_whose_other_writers_are_not_seen_here_is_listed(names, listing, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LOCAL", frozenset())
    for number in range(5):
        others(names, tmp_path, f"f{number}", part(tmp_path, f"f{number}"))
    assert listing.made == 5


def test_a_folder_that_is_not_there_is_an_error(names, tmp_path):
    for _ in range(3):
        with pytest.raises(OSError, match="No such file"):
            names.find(str(tmp_path / "no"), "stem", "own")
