"""The view of a task."""

import msgspec
import pytest

from meowcat.core import events as ev
from meowcat.core.info import info_of
from meowcat.core.machine import State
from meowcat.core.state import fold
from meowcat.core.transfers import Download, ProtocolSpec, Upload
from meowcat.core.values import Checksum, Fault, FaultKind, FileIdentity, Generation
from meowcat.core.waits import WaitingFor

REQUEST = Download("https://host/x?sig=***", "/y", client_file_sign="row 7", needs=("url",))
CREATED = ev.Created(state=State.QUEUED, task="T", key="/y", at=5, request=REQUEST)
MOVING = (
    CREATED,
    ev.Admitted(state=State.PREPARING, run=1),
    ev.Started(
        state=State.RUNNING,
        generation=Generation(size=100, ranges=True, etag='"a"', strong=True),
        piece_size=50,
    ),
    ev.Stored(state=State.RUNNING, pieces=((0, 1),), digests=bytes(32), file=FileIdentity(1, 2)),
)


def test_progress_is_of_confirmed_bytes():
    info = info_of(fold(MOVING))
    assert (info.bytes_done, info.size, info.fraction) == (50, 100, 0.5)
    assert info_of(fold((CREATED,))).fraction == 0.0


@pytest.mark.parametrize("size", [0, 100])
def test_a_complete_task_is_at_one_whatever_its_size(size):
    done = ev.Completed(state=State.COMPLETE, path="/y", size=size, digests=())
    assert info_of(fold((*MOVING, done))).fraction == 1.0


def test_what_it_waits_for_and_why_it_failed_are_told():
    waiting = ev.Waiting(state=State.QUEUED, waiting_for=WaitingFor.SUPPLY, names=("url",))
    info = info_of(fold((CREATED, waiting)))
    assert (info.waiting_for, info.needs, info.client_file_sign) == (WaitingFor.SUPPLY, ("url",), "row 7")
    fault = Fault(kind=FaultKind.STATUS, detail="404", status=404)
    assert info_of(fold((CREATED, ev.Failed(state=State.FAILED, fault=fault)))).fault == fault


def test_an_upload_shows_its_source():
    request = Upload("/source", "https://host/x", ProtocolSpec("form"))
    info = info_of(fold((msgspec.structs.replace(CREATED, request=request),)))
    assert (info.path, info.direction) == ("/source", "upload")


def test_which_digests_were_compared_and_which_were_only_computed_is_told():
    known = Checksum("md5", "0" * 32)
    asked = Checksum("sha256", "f" * 64)
    created = msgspec.structs.replace(
        CREATED, request=Download("https://host/x", "/y", checksum=str(known), digest="sha256")
    )
    intended = ev.PublishIntended(
        state=State.RUNNING, file=FileIdentity(1, 2), size=100, digests=(known, asked)
    )
    info = info_of(fold((created, *MOVING[1:], intended)))
    assert info.digests == (known, asked)
    assert info.compared == (known,)
    assert info_of(fold(MOVING)).compared == ()
