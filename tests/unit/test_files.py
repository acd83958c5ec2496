"""The part file: ownership, bytes, and what is noticed when somebody meddles; on both kinds of disk."""
# ruff: noqa: PTH102, PTH108, PTH116, PTH119, PTH123, PTH211  # paths are strings, as in what is tested

import errno
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

from meowcat.core.errors import Code, MeowcatError
from meowcat.core.values import FaultKind
from meowcat.testing.disk import SimulatedDisk
from meowcat.transfer.disk import Disk, FileFault, OsDisk, guarded
from meowcat.transfer.files import PartFile, check_target, part_path

TASK = "01JTASKAAAAAAAAAAAAAAAAAAA"
OTHER = "01JTASKBBBBBBBBBBBBBBBBBBB"


@dataclass
class Place:
    """A disk and a folder on it, with back doors."""

    disk: Disk
    folder: str

    @property
    def target(self):
        return f"{self.folder}/big.iso"

    @property
    def part(self):
        return part_path(self.target, TASK)

    def put(self, path, data=b"somebody else's"):
        if isinstance(self.disk, SimulatedDisk):
            self.disk.put(path, data)
        else:
            with open(path, "xb") as file:
                file.write(data)

    def remove(self, path):
        self.disk.remove(path) if isinstance(self.disk, SimulatedDisk) else os.unlink(path)

    def cut(self, path, size):
        self.disk.cut(path, size) if isinstance(self.disk, SimulatedDisk) else os.truncate(path, size)

    def get(self, path):
        if isinstance(self.disk, SimulatedDisk):
            return self.disk.get(path)
        if not os.path.lexists(path):
            return None
        with open(path, "rb") as file:
            return file.read()

    def names(self):
        return sorted(self.disk.list_folder(self.folder))

    def open(self, task=TASK, *, fresh=False, size=None, durability="power"):
        return PartFile.open(self.disk, self.target, task, durability, fresh=fresh, size=size)


@pytest.fixture(params=["os", "simulated"])
def place(request, tmp_path):
    if request.param == "os":
        return Place(OsDisk(), str(tmp_path))
    disk = SimulatedDisk(short_writes=True)
    disk.make_folder("/downloads")
    return Place(disk, "/downloads")


def refused(kind, call, *arguments, **options):
    with pytest.raises(FileFault) as caught:
        call(*arguments, **options)
    assert caught.value.fault.kind is kind
    assert caught.value.code == caught.value.fault.code
    return caught.value.fault.detail


# Names


def test_the_part_file_stands_beside_the_target_and_carries_the_task():
    assert part_path("/a/b/big.iso", TASK) == f"/a/b/big.iso.{TASK}.part"


@pytest.mark.parametrize("letter", ["x", "é", "猫", "😀"])
def test_a_long_name_is_shortened_to_what_file_systems_take(letter, tmp_path):
    name = letter * (255 // len(letter.encode()))
    short = os.path.basename(part_path(f"{tmp_path}/{name}", TASK))
    assert len(os.fsencode(short)) <= 255
    assert short.endswith(f".{TASK}.part")
    assert short.startswith(letter * 40)
    (tmp_path / short).touch()


def test_two_long_names_that_begin_alike_stay_two():
    assert part_path("/" + "x" * 250 + "1", TASK) != part_path("/" + "x" * 250 + "2", TASK)


# The target


def test_a_free_target_is_fine_whatever_the_policy(place):
    check_target(place.disk, place.target, "never")
    check_target(place.disk, place.target, "replace")


def test_a_file_at_the_target_is_refused_early_unless_it_may_be_replaced(place):
    place.put(place.target)
    assert "exists" in refused(FaultKind.TARGET_EXISTS, check_target, place.disk, place.target, "never")
    check_target(place.disk, place.target, "replace")


def test_a_missing_folder_is_named(place):
    detail = refused(FaultKind.FILE_NOT_FOUND, check_target, place.disk, f"{place.folder}/no/file", "replace")
    assert f"{place.folder}/no does not exist" in detail


def test_a_folder_is_never_a_target(place):
    refused(FaultKind.TARGET_EXISTS, check_target, place.disk, place.folder, "replace")


@pytest.mark.parametrize("name", ["", "x" * 256, "a\0b"])
def test_what_can_not_be_a_name_is_refused(place, name):
    refused(FaultKind.IO, check_target, place.disk, f"{place.folder}/{name}", "replace")


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    detail = refused(FaultKind.IO, check_target, OsDisk(), f"{tmp_path}/file/target", "replace")
    assert "is not a folder" in detail


def test_a_pipe_is_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for overwrite in ("replace", "never"):
        told = refused(FaultKind.TARGET_EXISTS, check_target, OsDisk(), f"{tmp_path}/pipe", overwrite)
        assert "never replaced" in told


def test_a_link_is_a_file_unless_it_leads_to_a_folder(tmp_path):
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "folder").symlink_to(tmp_path)
    check_target(OsDisk(), f"{tmp_path}/dangling", "replace")
    refused(FaultKind.TARGET_EXISTS, check_target, OsDisk(), f"{tmp_path}/dangling", "never")
    refused(FaultKind.TARGET_EXISTS, check_target, OsDisk(), f"{tmp_path}/folder", "replace")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    refused(FaultKind.IO, check_target, OsDisk(), f"{tmp_path}/file", "replace")


# Opening


def test_a_part_file_is_created_and_found_again(place):
    part = place.open(size=1000)
    assert part.created
    part.write(0, b"bytes")
    part.close()
    again = place.open(size=1000)
    assert not again.created
    assert again.identity == part.identity
    assert again.read(0, 100) == b"bytes"
    again.close()


def test_fresh_drops_what_was_there_and_keeps_the_file(place):
    part = place.open()
    part.write(0, b"bytes")
    part.close()
    again = place.open(fresh=True)
    assert not again.created
    assert again.read(0, 100) == b""
    again.close()


def test_the_umask_decides_who_may_read(tmp_path):
    old = os.umask(0o027)
    try:
        Place(OsDisk(), str(tmp_path)).open().close()
    finally:
        os.umask(old)
    assert os.stat(part_path(f"{tmp_path}/big.iso", TASK)).st_mode & 0o777 == 0o640


def test_a_part_file_that_is_open_can_not_be_opened_again(place):
    part = place.open()
    assert "open elsewhere" in refused(FaultKind.TARGET_OWNED, place.open)
    part.close()
    place.open().close()


def test_two_tasks_never_share_a_target_also_if_the_first_is_paused(place):
    part = place.open(OTHER)
    refused(FaultKind.TARGET_OWNED, place.open)
    part.close()
    detail = refused(FaultKind.TARGET_OWNED, place.open)
    assert part.path in detail
    assert "Resume" in detail
    assert "delete that file" in detail
    assert place.names() == [os.path.basename(part.path)], "the refused task left something"
    place.remove(part.path)
    place.open().close()


def test_a_refused_task_keeps_the_bytes_it_had(place):
    part = place.open()
    part.write(0, b"bytes")
    part.close()
    place.put(part_path(place.target, OTHER))
    refused(FaultKind.TARGET_OWNED, place.open)
    assert place.get(place.part) == b"bytes"


@pytest.mark.parametrize(
    "name", [f"other.iso.{OTHER}.part", f"big.iso.torrent.{OTHER}.part", "big.iso.part", "big.iso.draft.part"]
)
def test_other_files_in_the_folder_are_nobodys_claim(place, name):
    place.put(f"{place.folder}/{name}")
    place.open().close()


def test_another_process_that_works_on_the_task_is_noticed_until_it_is_dead(tmp_path):
    place = Place(OsDisk(), str(tmp_path))
    script = (
        "import sys\n"
        "from meowcat.transfer.disk import OsDisk\n"
        "from meowcat.transfer.files import PartFile\n"
        "part = PartFile.open(OsDisk(), *sys.argv[1:], 'power', fresh=False, size=None)\n"
        "print('open', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, place.target, TASK], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"open\n"
        refused(FaultKind.TARGET_OWNED, place.open)
        refused(FaultKind.TARGET_OWNED, place.open, OTHER)
        process.kill()
    place.open().close()


def test_a_child_that_shares_the_descriptor_neither_keeps_the_lock_nor_gives_it_away(tmp_path):
    place = Place(OsDisk(), str(tmp_path))
    part = place.open()
    asked, told = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        part.close()  # as an application's exit handlers may
        os.write(told[1], b"closed")
        os._exit(0)
    os.read(told[0], 6)
    refused(FaultKind.TARGET_OWNED, place.open)
    os.waitpid(child, 0)
    child = os.fork()
    if child == 0:
        os.close(asked[1])
        os.read(asked[0], 1)
        os._exit(0)
    part.close()
    place.open().close()
    for end in (*asked, *told):
        os.close(end)
    os.waitpid(child, 0)


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_something_else_at_the_part_files_name_is_never_written(tmp_path, kind):
    place = Place(OsDisk(), str(tmp_path))
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    if kind == "link":
        os.symlink(victim, place.part)
    elif kind == "pipe":
        os.mkfifo(place.part)
    else:
        os.mkdir(place.part)
    refused(FaultKind.IO, place.open, fresh=True)
    assert victim.read_bytes() == b"precious"


def test_a_folder_that_is_gone_is_told_when_opening(place):
    missing = f"{place.folder}/no/file"
    refused(
        FaultKind.FILE_NOT_FOUND, PartFile.open, place.disk, missing, TASK, "power", fresh=True, size=None
    )


# Room


def test_a_content_that_does_not_fit_is_refused_before_bytes_are_spent(place):
    free = place.disk.free_bytes(place.folder)
    detail = refused(FaultKind.DISK_FULL, place.open, size=free * 2)
    assert "are missing" in detail
    assert place.names() == []


def test_only_what_is_not_there_yet_must_fit():
    disk = SimulatedDisk(capacity=100 * 4096)
    disk.make_folder("/downloads")
    place = Place(disk, "/downloads")
    part = place.open(size=100 * 4096)
    part.write(0, bytes(60 * 4096))
    part.close()
    part = place.open(size=100 * 4096)
    assert "4096 are missing" in refused(FaultKind.DISK_FULL, part.reserve, 101 * 4096)
    part.close()


def test_a_disk_that_becomes_full_is_told_as_that():
    disk = SimulatedDisk(capacity=4096)
    disk.make_folder("/downloads")
    part = Place(disk, "/downloads").open()
    refused(FaultKind.DISK_FULL, part.write, 0, bytes(8192))


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, FaultKind.DISK_FULL),
        (errno.EDQUOT, FaultKind.DISK_FULL),
        (errno.ENOENT, FaultKind.LOCAL_REMOVED),
        (errno.ESTALE, FaultKind.LOCAL_REMOVED),
        (errno.EIO, FaultKind.IO),
        (errno.EROFS, FaultKind.IO),
        (errno.EMFILE, FaultKind.EXHAUSTED),
        (errno.ENFILE, FaultKind.EXHAUSTED),
    ],
)
def test_every_os_error_has_its_kind_and_names_the_file(number, kind):
    with pytest.raises(FileFault) as caught, guarded("/downloads/x"):
        raise OSError(number, os.strerror(number))
    assert caught.value.fault.kind is kind
    assert "/downloads/x: " + os.strerror(number) in caught.value.fault.detail
    assert isinstance(caught.value.__cause__, OSError)


# Bytes


def test_bytes_go_to_their_offset_in_any_order(place):
    part = place.open()
    part.write(6, bytearray(b"world"))
    part.write(0, memoryview(b"hello "))
    assert part.read(0, 11) == b"hello world"
    assert part.read(6, 100) == b"world"
    assert part.read(100, 5) == b""
    buffer = bytearray(8)
    assert part.read_into(6, memoryview(buffer)) == 5
    assert buffer == b"world\0\0\0"
    part.close()


def test_short_writes_are_continued():
    disk = SimulatedDisk(short_writes=True)
    disk.make_folder("/downloads")
    part = Place(disk, "/downloads").open()
    content = os.urandom(10_000)
    part.write(3, content)
    assert part.read(3, 10_000) == content
    assert sum(line.split()[1] == "pwrite" for line in disk.trace) > 1


def test_a_closed_part_file_writes_nothing_not_even_into_another_file(place):
    part = place.open()
    part.close()
    part.close()
    place.put(f"{place.folder}/other")
    fd = place.disk.open(f"{place.folder}/other", os.O_RDWR)  # probably the same number
    for call in (lambda: part.write(0, b"x"), lambda: part.read(0, 1), part.flush):
        refused(FaultKind.IO, call)
    place.disk.close(fd)
    assert place.get(f"{place.folder}/other") == b"somebody else's"


# Meddling


def test_an_untouched_file_passes_the_check(place):
    part = place.open()
    part.write(0, b"bytes")
    part.check()
    part.check(5)
    part.close()


def test_a_removed_part_file_is_noticed(place):
    part = place.open()
    place.remove(place.part)
    assert "removed" in refused(FaultKind.LOCAL_REMOVED, part.check)
    part.close()


def test_a_replaced_part_file_is_noticed(place):
    part = place.open()
    part.write(0, b"bytes")
    place.remove(place.part)
    place.put(place.part, b"bytes")
    assert "replaced" in refused(FaultKind.LOCAL_REMOVED, part.check)
    part.close()


def test_a_truncated_part_file_is_noticed_by_the_check_and_by_the_next_write(place):
    part = place.open()
    part.write(0, bytes(1000))
    place.cut(place.part, 10)
    assert "truncated" in refused(FaultKind.LOCAL_REMOVED, part.check)
    refused(FaultKind.LOCAL_REMOVED, part.write, 2000, b"would hide it behind a hole")
    part.close()


def test_a_write_that_would_make_a_truncated_part_file_as_long_as_it_was_is_refused(place):
    part = place.open()
    part.write(0, bytes(1000))
    place.cut(place.part, 10)
    refused(FaultKind.LOCAL_REMOVED, part.write, 500, bytes(500))
    part.write(500, bytes(499))  # it is still too short: every report comes behind a check
    assert "it has 999 bytes, and 1000 were written" in refused(FaultKind.LOCAL_REMOVED, part.check)
    part.close()


def test_a_part_file_truncated_between_two_runs_is_noticed_by_what_was_stored(place):
    part = place.open()
    part.write(0, bytes(1000))
    part.close()
    place.cut(place.part, 10)
    part = place.open()
    part.check()
    refused(FaultKind.LOCAL_REMOVED, part.check, 1000)
    part.close()


def test_truncating_on_purpose_is_fine(place):
    part = place.open()
    part.write(0, bytes(1000))
    part.truncate(10)
    part.check(10)
    part.write(5, bytes(10))
    part.check(15)
    part.close()


# Syncs


def call_of(disk, name):
    """The number that the next call of this name has, if the same calls are made again."""
    return next(number for number, line in enumerate(disk.trace, 1) if line.split()[1] == name)


def simulated():
    disk = SimulatedDisk()
    disk.make_folder("/downloads")
    return Place(disk, "/downloads")


def test_under_process_nothing_is_synced():
    place = simulated()
    part = place.open(durability="process")
    part.write(0, b"bytes")
    part.flush()
    part.close()
    assert not [line for line in place.disk.trace if "sync" in line]


def test_after_a_failed_sync_the_descriptor_is_never_believed_again():
    place = simulated()
    part = place.open()
    part.write(0, b"lost")
    place.disk.fail_at(place.disk.calls + 1, errno.EIO)
    refused(FaultKind.IO, part.flush)
    assert "earlier sync" in refused(FaultKind.IO, part.flush)
    part.close()
    again = place.open()
    again.flush()
    assert place.disk.restart("lost").get(place.part) == b"", "the simulated disk is too kind"
    again.write(0, b"kept")
    again.flush()
    assert place.disk.restart("lost").get(place.part) == b"kept"


def test_a_failing_call_while_opening_leaves_nothing_open_locked_or_in_the_way():
    trial = simulated()
    trial.open(size=10)
    for number in range(1, trial.disk.calls + 1):
        place = simulated()
        place.disk.fail_at(number, errno.EIO)
        with place.disk.explained():
            refused(FaultKind.IO, place.open, size=10)
            part = place.open(size=10)
            part.close()


# All at once


def stored(place):
    return PartFile.store(place.disk, place.target, TASK, "power", b"all of it")


def test_a_failing_call_while_all_is_stored_leaves_nothing_open_or_locked():
    trial = simulated()
    stored(trial)
    for number in range(1, trial.disk.calls + 1):
        place = simulated()
        place.disk.fail_at(number, errno.EIO)
        with place.disk.explained():
            refused(FaultKind.IO, stored, place)
            assert not place.disk._opened
            stored(place).close()


def test_a_part_file_that_is_gone_when_its_write_fails_is_told_as_the_failure(place):
    def fail(fd, data, offset):
        place.remove(place.part)
        raise OSError(errno.ENOSPC, "full")

    place.disk.pwrite = fail
    refused(FaultKind.DISK_FULL, stored, place)


def late_to_tell(place):
    """A disk that takes what it can't keep, and says so later, as NFS does."""

    def check_writes(fd):
        raise OSError(errno.EDQUOT, "quota exceeded")

    place.disk.check_writes = check_writes


def test_what_a_file_system_could_not_store_is_told_before_anything_relies_on_it(place):
    part = place.open(durability="process")
    part.write(0, b"bytes")
    part.flush()
    late_to_tell(place)
    refused(FaultKind.DISK_FULL, part.flush)
    del place.disk.check_writes
    assert "earlier sync" in refused(FaultKind.DISK_FULL, part.flush)
    part.close()


def test_all_at_once_is_not_stored_where_the_file_system_could_not_store_it(place):
    late_to_tell(place)
    refused(FaultKind.DISK_FULL, PartFile.store, place.disk, place.target, TASK, "process", b"all of it")
    assert place.names() == []


def test_a_file_put_in_the_place_of_a_part_file_that_could_not_be_stored_is_left(place):
    def fail(fd, data, offset):
        place.remove(place.part)
        place.put(place.part, b"mine")
        raise OSError(errno.ENOSPC, "full")

    place.disk.pwrite = fail
    refused(FaultKind.DISK_FULL, stored, place)
    assert place.get(place.part) == b"mine"


def test_of_a_part_file_only_the_own_name_is_taken_away(place):
    part = place.open()
    assert part.remove()
    assert place.names() == []
    place.put(place.part, b"mine")
    assert part.remove()
    assert place.get(place.part) == b"mine"
    part.close()


# The system


def test_windows_is_refused_clearly(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(MeowcatError, match="Linux and macOS only"):
        OsDisk()


def test_faults_carry_the_seeds_numbers():
    assert FileFault(FaultKind.DISK_FULL, "x").code is Code.DISK_FULL
    assert FileFault(FaultKind.LOCAL_REMOVED, "x").code is Code.LOCAL_FILE_REMOVED


def test_the_real_disk_keeps_the_contract_that_the_simulated_one_has(place):
    disk, path = place.disk, f"{place.folder}/file"
    fd = disk.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    with pytest.raises(FileExistsError):
        disk.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    with pytest.raises(FileNotFoundError):
        disk.open(path + "no", os.O_RDWR)
    while disk.fstat(fd).size < 10:
        disk.pwrite(fd, bytes(10), 0)
    disk.fdatasync(fd)
    disk.ftruncate(fd, 4)
    assert disk.pread(fd, 100, 0) == bytes(4)
    buffer = bytearray(2)
    assert disk.preadv(fd, buffer, 3) == 1
    assert disk.flock(fd)
    second = disk.open(path, os.O_RDWR)
    assert not disk.flock(second)
    disk.close(fd)
    assert disk.flock(second)
    assert disk.fstat(second) == disk.stat(path)
    disk.close(second)
    place.put(f"{place.folder}/other")
    for refuse in (disk.rename_new, disk.link):
        with pytest.raises(FileExistsError):
            refuse(path, f"{place.folder}/other")
    disk.link(path, f"{place.folder}/second")
    disk.rename(path, f"{place.folder}/second")  # two names of one file: nothing happens
    assert place.names() == ["file", "other", "second"]
    disk.unlink(path)
    disk.rename_new(f"{place.folder}/second", path)
    disk.rename(path, f"{place.folder}/other")
    disk.fsync_folder(place.folder)
    assert place.get(f"{place.folder}/other") == bytes(4)
    assert disk.stat(path) is None
    assert disk.writable(place.folder)
