"""Publishing: the verified part file becomes the target, in one step, and is recognised after any crash.

What proves that a file is the one that was verified:

- At the part file's name: the name has the task's id in it, 80 bits of chance, and inode and size agree with
  the intent. Nobody else has such a file there.
- At the target, while the part file's name leads to the same inode: the same, so two names are one file.
- At the target alone: inode and size agree. That is what a rename leaves, and almost a proof, but file
  systems give the number of a removed file to the next new one at once: if somebody removes the part file
  while meowcat is not running, and puts another file of the very same size at the target, it may have that
  number. Nothing in the file system tells the two apart for certain (times can be set; birth times and
  extended attributes are not everywhere), but the content does: so `publish` takes a `proof` that is asked in
  this case alone, after a crash between the rename and its event. Whatever else stands at the target is left
  untouched.
- Where device numbers changed with a reboot (network and btrfs volumes), nothing agrees: the bytes count as
  gone, which costs a download but never a wrong file.

Everything here blocks. Nobody may have the part file open: it is locked meanwhile.
"""
# ruff: noqa: PTH120  # paths are the user's, byte for byte; pathlib would rewrite them

import os
from collections.abc import Callable
from typing import Literal

from meowcat.core.transfers import Overwrite
from meowcat.core.values import FaultKind, FileIdentity, TaskId
from meowcat.transfer.disk import Disk, FileFault, FileStatus, fault_of, guarded, lacks
from meowcat.transfer.files import Durability, PartFile, let_go, open_part, part_path

__all__ = ["Outcome", "discard", "outcome", "publish", "rename_part"]

Outcome = Literal["published", "part", "gone"]

Proof = Callable[[int], bool]
"""Whether the file behind a descriptor, open for reading, has the content that was verified."""


def publish(
    disk: Disk,
    target: str,
    task: TaskId,
    identity: FileIdentity,
    size: int,
    overwrite: Overwrite,
    durability: Durability,
    proof: Proof | None = None,
) -> None:
    """Make the part file of `task` the file at `target`. May be called again after a crash anywhere in it.

    Under `power` the bytes are durable before the target has them, and its name is durable on return. At no
    instant does the target hold anything but all of the bytes.

    `identity` and `size` are those of the file that was verified, as recorded before the first call. `proof`
    is asked where only the inode's number says that the target is that file; without one the number counts.

    Raises:
        FileFault: LOCAL_REMOVED if neither name leads to that file, or its last sync failed: the bytes are to
            be fetched again; TARGET_EXISTS; TARGET_OWNED if somebody has the part file open; IO: call again.

    """
    part = part_path(target, task)
    power = durability == "power"
    with guarded(part):
        fd = open_part(disk, part)
        if fd is None:
            _settle(disk, target, identity, size, power, proof)
            return
        try:
            if not _agrees(disk.fstat(fd), identity, size):
                raise FileFault(
                    FaultKind.LOCAL_REMOVED, f"{part} is not the file of {size} bytes that was verified"
                )
            if power:
                _sync(disk, part, fd)
            _move(disk, part, target, identity, overwrite, power)
            if power:
                disk.fsync_folder(os.path.dirname(target))
        finally:
            let_go(disk, fd)


def rename_part(disk: Disk, part: PartFile, target: str, size: int, overwrite: Overwrite) -> None:
    """`publish` for who has held the part file open and locked since its bytes became durable. The target's
    name is durable only after a sync of its folder, which is the caller's.
    """
    path, power = part.path, part.durability == "power"
    try:
        if not _agrees(disk.stat(path), part.identity, size):
            raise FileFault(
                FaultKind.LOCAL_REMOVED, f"{path} is not the file of {size} bytes that was verified"
            )
        if overwrite == "replace":
            _move(disk, path, target, part.identity, overwrite, power)
        else:  # the file has one name yet, so that of another stands there or none
            _move_new(disk, path, target, power)
    except OSError as error:
        raise fault_of(error, path) from error


def outcome(disk: Disk, target: str, task: TaskId, identity: FileIdentity, size: int) -> Outcome:
    """What became of an intent to publish whose end nobody saw. Changes nothing.

    `published` says that the target has the file; only `publish` makes that durable and finishes it.
    """
    part = part_path(target, task)
    with guarded(target):
        there, left = disk.stat(target), disk.stat(part)
    if _agrees(there, identity, size) and (left is None or left.identity == identity):
        return "published"
    return "part" if _agrees(left, identity, size) else "gone"


def discard(disk: Disk, target: str, task: TaskId, identity: FileIdentity | None) -> bool:
    """Remove the part file of a canceled task, durably; fine where there is none.

    Returns whether the file with `identity`, known where publishing was intended, had become the target
    already: then it is left there, whole.

    Raises:
        FileFault: TARGET_OWNED if somebody has the part file open; IO.

    """
    part = part_path(target, task)
    folder = os.path.dirname(part)
    with guarded(part):
        if disk.stat(folder, follow=True) is None:
            return False  # with the folder all is gone
        fd = open_part(disk, part)
        try:
            there = disk.stat(target)
            published = there is not None and there.identity == identity
            if fd is not None:
                published = published and disk.fstat(fd).identity == identity
                if published:
                    disk.fsync_folder(folder)  # the other name first, or the last one could be lost as well
                disk.unlink(part)
        finally:
            if fd is not None:
                let_go(disk, fd)
        # Also without a part file: a call before this one may have been killed here.
        disk.fsync_folder(folder)
    return published


def _agrees(status: FileStatus | None, identity: FileIdentity, size: int) -> bool:
    return status is not None and status.is_file and status.identity == identity and status.size == size


def _sync(disk: Disk, part: str, fd: int) -> None:
    """Make the bytes durable, or drop them: after a failed sync the next one succeeds and means nothing, here
    or in any later process, and reading them back shows what is in memory and not what is on the disk.
    """
    try:
        disk.fdatasync(fd)
    except OSError as error:
        try:
            disk.unlink(part)
        except OSError:
            pass  # the fault below makes its bytes count as gone, whether the name is or not
        detail = (
            f"{part} could not be synced ({error.strerror}) and can't be relied on: fetch its bytes again"
        )
        raise FileFault(FaultKind.LOCAL_REMOVED, detail) from error


def _move(
    disk: Disk, part: str, target: str, identity: FileIdentity, overwrite: Overwrite, power: bool
) -> None:
    there = disk.stat(target)
    if there is not None and there.is_folder:
        raise _exists(target)
    if there is not None and there.identity == identity:
        # Two names of one file: a link was made, and the crash came before the other name went. A rename of
        # one to the other would do nothing and report success (rename(2)).
        _drop_name(disk, part, os.path.dirname(target), power)
    elif overwrite == "replace":
        if there is not None and there.is_file:
            disk.keep_mode(part, target)
        disk.rename(part, target)
    else:
        _move_new(disk, part, target, power)


def _move_new(disk: Disk, part: str, target: str, power: bool) -> None:
    """Rename, but never replace: by the system call for it, or a second name, or with a look before.

    The first is one step and needs one sync. Not every file system has it (NFS has not), and not every one
    has hard links (FAT has neither). In the third way a file that comes to the target between the look and
    the rename would be replaced; there is no other way there.
    """
    try:
        disk.rename_new(part, target)
    except FileExistsError as error:
        raise _exists(target) from error
    except OSError as error:
        if not lacks(error):
            raise
    else:
        return
    try:
        disk.link(part, target)
    except FileExistsError as error:
        raise _exists(target) from error
    except OSError as error:
        if not lacks(error):
            raise
    else:
        _drop_name(disk, part, os.path.dirname(target), power)
        return
    if disk.stat(target) is not None:
        raise _exists(target)
    disk.rename(part, target)


def _drop_name(disk: Disk, part: str, folder: str, power: bool) -> None:
    if power:
        disk.fsync_folder(folder)  # names become durable in any order: without this, neither may be there
    disk.unlink(part)


def _settle(
    disk: Disk, target: str, identity: FileIdentity, size: int, power: bool, proof: Proof | None
) -> None:
    """Without a part file: the target must be the file already, and is made durable once more, since the
    call that renamed it may have been killed before it was, or have run under `process`.
    """
    if not _agrees(disk.stat(target), identity, size):
        raise FileFault(
            FaultKind.LOCAL_REMOVED, f"the part file of {target} was removed before it was published"
        )
    fd = disk.open(target, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    try:
        if not _agrees(disk.fstat(fd), identity, size) or (proof is not None and not proof(fd)):
            detail = (
                f"{target} is not what was verified, though it has its inode's number; it is left as it is"
            )
            raise FileFault(FaultKind.LOCAL_REMOVED, detail)
        if power:
            disk.fdatasync(fd)
            disk.fsync_folder(os.path.dirname(target))
    finally:
        disk.close(fd)


def _exists(target: str) -> FileFault:
    detail = (
        f"{target} exists by now and was left as it is; the bytes are kept: remove or rename it, and retry"
    )
    return FileFault(FaultKind.TARGET_EXISTS, detail)
