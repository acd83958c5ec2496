"""Calls to the operating system that fail on demand, for any journal that writes files.

A small C library stands between this process and the C library (`LD_PRELOAD`), so that the failure comes from
where a real one would come from, for SQLite and for Python code alike. It has to be there when the process
starts: `environment` says with what variables to start one.
"""

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")


class Failure:
    """One failure that was asked for."""

    happened = False
    """Whether there was a call to fail; known once the block is left."""


def missing() -> str:
    """Why no call can be made to fail in this process; empty where one can."""
    if not sys.platform.startswith("linux"):
        return f"calls can be made to fail on Linux only; this is {sys.platform}"
    if _library() is None:
        return "this process was not started with the library that makes calls fail (`--failing-calls`)"
    return ""


def environment(folder: Path) -> dict[str, str]:
    """Compile the library into `folder`, and return the environment in which a process has it.

    Raises:
        RuntimeError: this machine can't.

    """
    compiler = shutil.which("cc")
    if not sys.platform.startswith("linux"):
        raise RuntimeError(f"calls can be made to fail on Linux only; this is {sys.platform}")
    if compiler is None:
        raise RuntimeError("making calls fail needs a C compiler, `cc`, and there is none")
    library = folder / "failing_calls.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603  # our own words
    if done.returncode:
        raise RuntimeError(f"{SOURCE.name} can't be compiled: {done.stderr}")
    others = os.environ.get("LD_PRELOAD")
    return {**os.environ, "LD_PRELOAD": f"{library}:{others}" if others else str(library)}


@contextmanager
def armed(folder: Path, nth: int, errno: int, *, lasting: bool) -> Iterator[Failure]:
    """While this is open, the `nth` call that changes something below `folder` fails with `errno`."""
    library = _library()
    assert library is not None, missing()
    failure = Failure()
    library.meowcat_arm(os.fsencode(folder.resolve()), nth, errno, int(lasting))
    try:
        yield failure
    finally:
        failure.happened = bool(library.meowcat_disarm())


def _library() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None)
    try:
        library.meowcat_arm.argtypes = (ctypes.c_char_p, ctypes.c_long, ctypes.c_int, ctypes.c_int)
    except AttributeError:
        return None
    return library
