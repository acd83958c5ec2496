"""What an engine is in a forked child: a copy without its threads, which neither works nor is torn down."""

import ctypes
import os
from typing import Any
from weakref import WeakSet

from meowcat.core.errors import EngineForked

_HELD: "WeakSet[Any]" = WeakSet()


def refuse_fork(pid: int) -> None:
    """Refuse to go on in another process than `pid`, which opened the engine.

    Raises:
        EngineForked: at once; nothing is waited for that only the parent's threads could bring.
    """
    if pid != os.getpid():
        raise EngineForked(
            f"this engine belongs to process {pid}, and this is a fork of it ({os.getpid()}): "
            "open an engine here after the fork, on a journal of its own"
        )


def unsendable() -> EngineForked:
    """What pickling an engine raises: `multiprocessing` would send it to another process."""
    return EngineForked("an engine can't be sent to another process: open one there, on a journal of its own")


def leave_to_parent(inherited: object) -> None:
    """See that a forked child never frees `inherited`, nor what it refers to.

    Destructors would reach into the parent: SQLite forbids even closing a connection that was opened before
    a fork (sqlite.org/howtocorrupt.html, 2.6), and a socket or event loop that is freed takes itself out of
    an epoll set that both processes share.
    """
    _HELD.add(inherited)


def _keep_all() -> None:
    """One reference that nobody owns, so that not even the end of the interpreter frees them."""
    for inherited in tuple(_HELD):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))


if hasattr(os, "register_at_fork"):  # not on Windows, where there is no fork
    os.register_at_fork(after_in_child=_keep_all)
