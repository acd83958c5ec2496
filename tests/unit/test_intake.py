"""What becomes of a request before it is recorded."""

import os
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from meowcat.intake import absolute


@given(st.text("/.ab ~", max_size=9))
@example("/a/b.c")
@example("//a/b")
@example("/a/../b")
@example("/a/.b/")
def test_a_path_from_the_root_on_is_what_the_standard_library_makes_of_it(path):
    assert absolute(path) == os.path.abspath(path)  # noqa: PTH100  # this is what it is about


def test_a_path_object_is_a_path():
    assert absolute(Path("/a/b")) == "/a/b"
    assert absolute(Path("a")) == str(Path.cwd() / "a")
