"""Publishing and discarding, on both kinds of disk, with and without what file systems may lack."""
# ruff: noqa: PTH108, PTH110, PTH123  # paths are strings, as in what is tested

import errno
import os

import pytest

from meowcat.core.values import FaultKind
from meowcat.testing.disk import SimulatedDisk
from meowcat.transfer.disk import FileFault, OsDisk
from meowcat.transfer.files import PartFile, part_path
from meowcat.transfer.publish import discard, outcome, publish

TASK = "01JTASKAAAAAAAAAAAAAAAAAAA"
CONTENT = bytes(range(256)) * 20


class PlainDisk(OsDisk):
    """A real file system that can't rename without replacing."""

    def rename_new(self, source, target):
        raise OSError(errno.EINVAL, "no such flag")


class PoorDisk(PlainDisk):
    """One that has no hard links either."""

    def link(self, source, target):
        raise OSError(errno.EPERM, "no hard links")


class Place:
    def __init__(self, disk, folder):
        self.disk = disk
        self.folder = folder
        self.target = f"{folder}/big.iso"
        self.part = part_path(self.target, TASK)

    def write(self, content=CONTENT):
        part = PartFile.open(self.disk, self.target, TASK, "power", fresh=True, size=None)
        part.write(0, content)
        part.close()
        self.identity = part.identity

    def put(self, path, content):
        if isinstance(self.disk, SimulatedDisk):
            self.disk.put(path, content)
            return
        with open(path, "wb") as file:
            file.write(content)

    def remove(self, path):
        self.disk.remove(path) if isinstance(self.disk, SimulatedDisk) else os.unlink(path)

    def get(self, path):
        if isinstance(self.disk, SimulatedDisk):
            return self.disk.get(path)
        if not os.path.exists(path):
            return None
        with open(path, "rb") as file:
            return file.read()

    def publish(self, overwrite="never", durability="power", **options):
        publish(self.disk, self.target, TASK, self.identity, len(CONTENT), overwrite, durability, **options)

    def outcome(self):
        return outcome(self.disk, self.target, TASK, self.identity, len(CONTENT))

    def link(self):
        """The first half of a link and unlink, as a crash in between leaves it."""
        self.disk.link(self.part, self.target)

    def is_published(self):
        return self.get(self.target) == CONTENT and self.get(self.part) is None


def simulated(*lacks):
    disk = SimulatedDisk(without=frozenset(lacks))
    disk.make_folder("/downloads")
    return Place(disk, "/downloads")


PLACES = {
    "os": lambda path: Place(OsDisk(), str(path)),
    "os, plain": lambda path: Place(PlainDisk(), str(path)),
    "os, poor": lambda path: Place(PoorDisk(), str(path)),
    "simulated": lambda path: simulated(),
    "simulated, plain": lambda path: simulated("rename_new"),
    "simulated, poor": lambda path: simulated("rename_new", "link"),
}


@pytest.fixture(params=PLACES)
def place(request, tmp_path):
    place = PLACES[request.param](tmp_path)
    place.write()
    return place


def refused(kind, call, *arguments, **options):
    with pytest.raises(FileFault) as caught:
        call(*arguments, **options)
    assert caught.value.fault.kind is kind
    return caught.value.fault.detail


@pytest.mark.parametrize("durability", ["power", "process"])
@pytest.mark.parametrize("overwrite", ["never", "replace"])
def test_the_part_file_becomes_the_target_and_again_changes_nothing(place, overwrite, durability):
    assert place.outcome() == "part"
    place.publish(overwrite, durability)
    assert place.is_published()
    assert place.outcome() == "published"
    place.publish(overwrite, durability)
    assert place.is_published()
    assert place.disk.stat(place.target).identity == place.identity


def test_what_came_to_the_target_meanwhile_is_never_replaced(place):
    place.put(place.target, b"precious")
    refused(FaultKind.TARGET_EXISTS, place.publish)
    assert place.get(place.target) == b"precious"
    assert place.get(place.part) == CONTENT
    assert place.outcome() == "part"


def test_what_stands_at_the_target_is_replaced_if_asked(place):
    place.put(place.target, b"old")
    place.publish("replace")
    assert place.is_published()


@pytest.mark.parametrize("mode", [0o600, 0o755, 0o4755])
def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path, mode):
    place = Place(OsDisk(), tmp_path)
    place.put(place.target, b"old")
    (tmp_path / "big.iso").chmod(mode)
    place.write()
    place.publish("replace")
    assert os.lstat(place.target).st_mode & 0o7777 == mode & 0o777
    assert place.get(place.target) == CONTENT


def test_a_link_is_replaced_and_gives_no_permissions(tmp_path):
    place = Place(OsDisk(), tmp_path)
    place.put(tmp_path / "far", b"old")
    (tmp_path / "big.iso").symlink_to(tmp_path / "far")
    place.write()
    mode = os.lstat(place.part).st_mode
    place.publish("replace")
    assert os.lstat(place.target).st_mode == mode
    assert (tmp_path / "far").read_bytes() == b"old"


@pytest.mark.parametrize("overwrite", ["never", "replace"])
def test_a_folder_at_the_target_is_left(tmp_path, overwrite):
    place = Place(OsDisk(), str(tmp_path))
    place.write()
    (tmp_path / "big.iso").mkdir()
    refused(FaultKind.TARGET_EXISTS, place.publish, overwrite)
    assert place.get(place.part) == CONTENT


@pytest.mark.parametrize("kind", ["os", "os, plain", "simulated", "simulated, plain"])
@pytest.mark.parametrize("overwrite", ["never", "replace"])
def test_two_names_are_left_by_a_crash_and_the_right_one_goes(tmp_path, kind, overwrite):
    place = PLACES[kind](tmp_path)
    place.write()
    place.link()
    assert place.outcome() == "published"
    place.publish(overwrite)
    assert place.is_published()


def test_a_part_file_of_another_size_is_not_published(place):
    place.put(place.part + "x", b"")
    part = PartFile.open(place.disk, place.target, TASK, "power", fresh=False, size=None)
    part.truncate(10)
    part.close()
    refused(FaultKind.LOCAL_REMOVED, place.publish)
    assert place.outcome() == "gone"
    assert place.get(place.target) is None


def test_a_replaced_part_file_is_not_published(place):
    place.put(place.folder + "/new", CONTENT)
    place.disk.rename(place.folder + "/new", place.part)
    refused(FaultKind.LOCAL_REMOVED, place.publish)
    assert place.outcome() == "gone"
    assert place.get(place.target) is None


def test_without_part_file_and_target_the_bytes_are_gone(place):
    place.remove(place.part)
    refused(FaultKind.LOCAL_REMOVED, place.publish)
    assert place.outcome() == "gone"


def test_somebody_elses_target_is_not_taken_for_the_published_file(place):
    place.put(place.target, CONTENT)
    place.remove(place.part)
    refused(FaultKind.LOCAL_REMOVED, place.publish)
    assert place.outcome() == "gone"
    assert place.get(place.target) == CONTENT


def test_a_file_that_got_the_inode_of_the_part_file_is_told_apart_by_its_content():
    place = simulated()
    place.write()
    place.remove(place.part)
    impostor = bytes(len(CONTENT))
    place.put(place.target, impostor)
    assert place.disk.stat(place.target).identity == place.identity, "the simulated disk is too kind"
    asked = []

    def proof(fd):
        asked.append(place.disk.pread(fd, len(CONTENT), 0))
        return asked[-1] == CONTENT

    refused(FaultKind.LOCAL_REMOVED, place.publish, proof=proof)
    assert asked == [impostor]
    assert place.get(place.target) == impostor


def test_no_proof_is_asked_for_where_the_name_proves_enough(place):
    place.publish(proof=lambda fd: pytest.fail("asked"))
    place.publish(proof=lambda fd: place.disk.pread(fd, len(CONTENT), 0) == CONTENT)
    assert place.is_published()


def test_a_part_file_that_is_open_is_neither_published_nor_removed(place):
    part = PartFile.open(place.disk, place.target, TASK, "power", fresh=False, size=None)
    refused(FaultKind.TARGET_OWNED, place.publish)
    refused(FaultKind.TARGET_OWNED, discard, place.disk, place.target, TASK, place.identity)
    part.close()
    place.publish()
    assert place.is_published()


def test_bytes_whose_last_sync_failed_are_dropped_since_no_later_sync_could_be_believed():
    trial = simulated()
    trial.write()
    trial.publish()
    number = next(n for n, line in enumerate(trial.disk.trace, 1) if line.split()[1] == "fdatasync")
    place = simulated()
    place.write()
    place.disk.fail_at(number, errno.EIO)
    refused(FaultKind.LOCAL_REMOVED, place.publish)
    refused(FaultKind.LOCAL_REMOVED, place.publish)
    assert place.disk.list_folder("/downloads") == []


@pytest.mark.parametrize("lacks", [(), ("rename_new",), ("rename_new", "link")])
@pytest.mark.parametrize("overwrite", ["never", "replace"])
def test_a_publish_that_failed_anywhere_can_be_called_again_or_says_that_the_bytes_are_gone(lacks, overwrite):
    trial = simulated(*lacks)
    trial.write()
    first = trial.disk.calls + 1
    trial.publish(overwrite)
    for number in range(first, trial.disk.calls + 1):
        place = simulated(*lacks)
        place.write()
        place.disk.fail_at(number, errno.EIO)
        with place.disk.explained():
            try:
                place.publish(overwrite)
            except FileFault as failure:
                if failure.fault.kind is FaultKind.LOCAL_REMOVED:
                    assert place.get(place.target) is None
                    continue
            place.publish(overwrite)
            assert place.is_published()


# Discarding


def test_a_canceled_task_leaves_nothing(place):
    assert discard(place.disk, place.target, TASK, place.identity) is False
    assert place.disk.list_folder(place.folder) == []
    assert discard(place.disk, place.target, TASK, place.identity) is False


def test_discarding_needs_no_identity_and_touches_no_other_file(place):
    place.put(place.target, b"precious")
    assert discard(place.disk, place.target, TASK, None) is False
    assert place.get(place.target) == b"precious"
    assert place.get(place.part) is None


def test_a_published_target_is_left_whole(place):
    place.publish()
    assert discard(place.disk, place.target, TASK, place.identity) is True
    assert place.is_published()


def test_a_target_that_is_half_published_is_left_whole(tmp_path):
    place = Place(OsDisk(), str(tmp_path))
    place.write()
    place.link()
    assert discard(place.disk, place.target, TASK, place.identity) is True
    assert place.is_published()


def test_a_part_file_is_removed_also_where_another_file_has_the_name_of_the_target(place):
    place.put(place.target, CONTENT)
    assert discard(place.disk, place.target, TASK, place.identity) is False
    assert place.get(place.part) is None
    assert place.get(place.target) == CONTENT


def test_with_its_folder_a_part_file_is_gone(place):
    assert discard(place.disk, f"{place.folder}/no/file", TASK, place.identity) is False
