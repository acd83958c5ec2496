"""Values: codes of faults, digests as text."""

import msgspec
import pytest

from meowcat.core.errors import Code
from meowcat.core.values import Checksum, Fault, FaultKind, Generation, Instant


@pytest.mark.parametrize("kind", FaultKind)
def test_every_kind_of_fault_has_a_code(kind):
    assert isinstance(Fault(kind=kind, detail="x").code, Code)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (FaultKind.UNREACHABLE, 106),
        (FaultKind.STATUS, 109),
        (FaultKind.LENGTH, 110),
        (FaultKind.RANGE, 114),
        (FaultKind.CHECKSUM, 116),
        (FaultKind.DISK_FULL, 121),
        (FaultKind.LOCAL_REMOVED, 122),
        (FaultKind.INTERNAL, -1),
    ],
)
def test_codes_that_others_have_stored_keep_their_numbers(kind, code):
    assert Fault(kind=kind, detail="x").code == code


def test_a_checksum_reads_as_it_is_written():
    assert str(Checksum("md5", "00ff")) == "md5:00ff"


def test_values_survive_json():
    for value in (
        Fault(kind=FaultKind.STATUS, detail="x", status=503, retry_after=1),
        Generation(size=None, ranges=False, digests=(Checksum("md5", "00"),)),
        Instant(at=1, roll=0.25),
    ):
        assert msgspec.json.decode(msgspec.json.encode(value), type=type(value)) == value
