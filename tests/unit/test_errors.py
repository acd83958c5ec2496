"""Errors carry the numbers that applications branch on."""

from meowcat.core.errors import (
    Code,
    FetchFailed,
    JournalOwned,
    MeowcatError,
    RetryLater,
    TransferCanceled,
    TransferFailed,
)


def test_a_failure_has_the_code_of_its_fault():
    assert TransferFailed("gone", task="t", code=Code.STATUS).code == 109
    assert TransferFailed("gone").code is Code.UNKNOWN
    assert TransferFailed.code is Code.UNKNOWN


def test_a_cancel_has_its_own_code():
    assert TransferCanceled("enough", task="t").code == 120
    assert TransferCanceled("enough", task="t").task == "t"


def test_an_owner_is_named_where_it_is_known():
    assert JournalOwned("it is in use", owner="pid 5").owner == "pid 5"
    assert JournalOwned("it is in use").owner == ""


def test_who_asks_for_another_try_says_when():
    assert (RetryLater(30).seconds, str(RetryLater(30))) == (30, "asked to come again in 30 s")
    assert str(RetryLater(1.5, "the receiver is busy")) == "the receiver is busy"


def test_codes_are_unique_and_every_error_has_one():
    assert len({int(code) for code in Code}) == len(Code)

    def below(kind: type[MeowcatError]) -> list[type[MeowcatError]]:
        return [kind, *(deeper for each in kind.__subclasses__() for deeper in below(each))]

    assert all(isinstance(kind.code, Code) for kind in below(MeowcatError))


def test_a_fetch_that_failed_says_why_by_the_reason_s_own_number():
    assert FetchFailed("no", code=Code.STATUS, status=504).code is Code.STATUS
    assert FetchFailed("no", status=404).status == 404
    assert FetchFailed("no").code is FetchFailed.code
