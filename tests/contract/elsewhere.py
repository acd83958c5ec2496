"""Calls by other threads, processes and users."""

import os
import threading
import warnings
from contextlib import contextmanager


def fork():
    with warnings.catch_warnings():
        # Python 3.12 warns where any thread lives, and idle ones of other tests may
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


@contextmanager
def held(lock):
    """Another thread holds the lock."""
    taken, done = threading.Event(), threading.Event()

    def hold():
        with lock:
            taken.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    yield
    done.set()
    thread.join()


def as_nobody(function):
    """Run in a child without privileges, and give back what it printed."""

    def as_somebody_else():
        if os.geteuid() == 0:
            os.setgroups([])
            os.setuid(65534)
        return function()

    return as_child(as_somebody_else)


def as_child(function):
    """Run in a child, and give back what it printed."""
    receive, send = os.pipe()
    child = fork()
    if child == 0:
        try:
            os.write(send, str(function()).encode())
        except BaseException as error:  # noqa: BLE001  # the child must end here, whatever happens
            os.write(send, repr(error).encode())
        finally:
            os._exit(0)
    os.close(send)
    os.waitpid(child, 0)
    with os.fdopen(receive) as stream:
        return stream.read()
