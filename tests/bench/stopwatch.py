"""Runs one program and says what it took, as JSON on the standard output.

    python -I -S stopwatch.py [--sync PATH] -- PROGRAM ARGUMENT…

Small on purpose: Linux counts the memory of whoever starts a program to that program's own peak (the new one
begins in the old one's memory), so that a large runner would hide what a small client needs.
"""

import json
import os
import sys
import tempfile
import time


def main() -> None:
    at = sys.argv.index("--")
    flags, command = sys.argv[1:at], sys.argv[at + 1 :]
    with tempfile.TemporaryFile() as said:
        began = time.perf_counter()
        # What it says on its standard output is its result; its errors go where ours go.
        actions = [(os.POSIX_SPAWN_DUP2, said.fileno(), 1)]
        child = os.posix_spawnp(command[0], command, os.environ, file_actions=actions)
        _, status, usage = os.wait4(child, 0)
        for path in flags[1:]:
            make_durable(path)
        seconds = time.perf_counter() - began
        said.seek(0)
        result = {
            "status": os.waitstatus_to_exitcode(status),
            "seconds": seconds,
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "rss_mib": usage.ru_maxrss / (1 << 10 if sys.platform == "linux" else 1 << 20),
            "said": said.read().decode(errors="replace"),
        }
    print(json.dumps(result))


def make_durable(path: str) -> None:
    """As `sync FILE` does; of a folder the whole file system, as `sync -f FOLDER`: cheaper than each file."""
    if os.path.isdir(path):  # noqa: PTH112  # pathlib would be most of what is in memory here
        child = os.posix_spawnp("sync", ["sync", "-f", path], os.environ)
        os.waitpid(child, 0)
        return
    file = os.open(path, os.O_RDONLY)
    os.fsync(file)
    os.close(file)


if __name__ == "__main__":
    main()
