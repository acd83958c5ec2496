from pathlib import Path

import pytest

from meowcat.testing.http_specs import HttpSpec, load, run

SPECS = Path(__file__).parents[2] / "specs" / "http"
ROWS = [
    pytest.param(row, id=f"{path.name.removesuffix('.spec.toml')}: {row.name}")
    for path in sorted(SPECS.glob("*.spec.toml"))
    for row in load(path)
]


@pytest.mark.parametrize("row", ROWS)
def test_a_reply_is_judged_as_specified(row: HttpSpec):
    run(row)


def test_there_are_rows_for_every_verdict():
    assert len(ROWS) >= 50
    kinds = {row.values[0].verdict.kind for row in ROWS}
    assert kinds == {"partial", "whole", "empty", "rangeless", "changed", "wrong"}


GOOD = """
[[http]]
name = "a part"
rfc = "RFC 9110 15.3.7"
asked = { start = 0, stop = 10 }
status = 206
headers = ["Content-Range: bytes 0-9/100", 'ETag: "v1"']
verdict = { kind = "partial", start = 0, stop = 10, generation = { size = 100 } }
"""


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "a.spec.toml"
        path.write_text(text)
        return path

    return write


def test_a_row_that_holds_says_nothing(written):
    (row,) = load(written(GOOD))
    run(row)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("stop = 10, g", "stop = 11, g", "stop: expected 11, got 10"),
        ("size = 100", "size = 101", "generation.size: expected 101, got 100"),
        (
            '"partial", start = 0',
            '"whole", length = "none", start = 0',
            "kind: expected 'whole', got 'partial'",
        ),
        ("stop = 10, g", 'stop = 10, retry_after = "none", g', "retry_after: expected 'none', got None"),
        ("size = 100", 'size = "none"', "generation.size: expected 'none', got 100"),
        ("size = 100", 'digests = ["md5:0"]', "generation.digests: expected ['md5:0'], got []"),
        ("206", "404", "kind: expected 'partial', got 'wrong'"),
    ],
)
def test_a_row_that_does_not_hold_says_what_differs(written, old, new, said):
    (row,) = load(written(GOOD.replace(old, new)))
    with pytest.raises(AssertionError, match="a part") as error:
        run(row)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("stop = 10 }", "stop = 10, until = 3 }", "until"),
        ("status", "code = 1\nstatus", "code"),
        ("[[http]]", "[[https]]", "https"),
        ("kind", "sort", "sort"),
        ("206", "two", "Invalid value"),
        ("206", '"206"', "Expected `int`"),
        ("headers", "this is no TOML", "Expected"),
    ],
)
def test_a_file_with_unknown_keys_or_wrong_values_is_refused_with_its_path(written, old, new, said):
    path = written(GOOD.replace(old, new))
    with pytest.raises(ValueError, match=r"a\.spec\.toml") as error:
        load(path)
    assert said in str(error.value)


def test_two_rows_of_one_name_are_refused(written):
    with pytest.raises(ValueError, match="same name: a part"):
        load(written(GOOD + GOOD))
