"""A link to a server with a delay, or with a bandwidth for each connection: a relay in a process of its own.

    python -m tests.bench.links UPSTREAM-PORT [--rate BYTES] [--round-trip SECONDS] [--window BYTES]

It prints its port. `--rate` is what one connection may bring, and take, a second. nginx's own `limit_rate`
gives each request a second's worth at once, and so never holds up a client that asks for small ranges.

`--round-trip` delays what comes, and what goes, by half of it each, and the first byte of a connection by one
more for the handshake. What is on its way is held to `--window` for each connection and direction, as TCP's
own window would hold it: 4 MiB is about what Linux allows by default.

Threads, since what they do is to wait, and to copy outside the interpreter's lock.
"""

import argparse
import socket
import sys
import threading
import time
from collections import deque
from contextlib import suppress

CHUNK = 256 << 10
SLICE = 64 << 10
"""At most so much at once through a link with a rate: 6.6 ms of 10 MB/s."""
SLACK = 0.02
"""Seconds that a link with a rate may have been late and makes up for: it is late on a busy machine."""


class Pace:
    """What a connection may pass on at `rate` bytes a second, without a burst worth the name."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free_at = 0.0

    def spend(self, count: int) -> None:
        """Wait until `count` bytes have gone through."""
        now = time.monotonic()
        self._free_at = max(self._free_at, now - SLACK) + count / self._rate
        if (left := self._free_at - now) > 0:
            time.sleep(left)


class Pipe:
    """A pipe that is `seconds` long and holds `window` bytes."""

    def __init__(self, seconds: float, window: int) -> None:
        self._seconds = seconds
        self._window = window
        self._held = 0
        self._chunks: deque[tuple[float, bytes]] = deque()
        self._changed = threading.Condition()

    def put(self, chunk: bytes) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._held < self._window)
            self._held += len(chunk)
            self._chunks.append((time.monotonic() + self._seconds, chunk))
            self._changed.notify_all()

    def get(self) -> bytes:
        """The next chunk, when its time has come; what was not acknowledged by then keeps its place."""
        with self._changed:
            self._changed.wait_for(lambda: self._chunks)
            at, chunk = self._chunks.popleft()
        if (left := at - time.monotonic()) > 0:
            time.sleep(left)
        return chunk

    def release(self, count: int) -> None:
        with self._changed:
            self._held -= count
            self._changed.notify_all()


def pass_at_rate(source: socket.socket, target: socket.socket, rate: float) -> None:
    pace, room = Pace(rate), memoryview(bytearray(SLICE))
    while count := source.recv_into(room):
        target.sendall(room[:count])
        pace.spend(count)


def pass_later(
    source: socket.socket, target: socket.socket, seconds: float, window: int, first: float
) -> None:
    """With the acknowledgement of each chunk under way as long as the chunk was."""
    pipe = Pipe(seconds, window)
    acknowledged = Pipe(seconds, sys.maxsize)

    def deliver() -> None:
        with suppress(OSError):
            while chunk := pipe.get():
                target.sendall(chunk)
                acknowledged.put(chunk)
            target.shutdown(socket.SHUT_WR)
        acknowledged.put(b"")

    def acknowledge() -> None:
        while chunk := acknowledged.get():
            pipe.release(len(chunk))
        pipe.release(sys.maxsize)  # nobody takes any more: let the reader find out

    works = [threading.Thread(target=work, daemon=True) for work in (deliver, acknowledge)]
    for each in works:
        each.start()
    time.sleep(first)
    with suppress(OSError):
        while chunk := source.recv(CHUNK):
            pipe.put(chunk)
    pipe.put(b"")
    works[0].join()


def pass_on(source: socket.socket, target: socket.socket, options: argparse.Namespace, *, up: bool) -> None:
    with suppress(OSError):
        if options.round_trip:
            half = options.round_trip / 2
            pass_later(source, target, half, options.window, options.round_trip if up else 0)
            return
        if options.rate:
            pass_at_rate(source, target, options.rate)
        else:
            while chunk := source.recv(CHUNK):
                target.sendall(chunk)
        target.shutdown(socket.SHUT_WR)


def serve(client: socket.socket, options: argparse.Namespace) -> None:
    with client, socket.create_connection(("127.0.0.1", options.upstream)) as server:
        for each in (client, server):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        asking = threading.Thread(
            target=pass_on, args=(client, server, options), kwargs={"up": True}, daemon=True
        )
        asking.start()
        pass_on(server, client, options, up=False)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RD)
        asking.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("upstream", type=int)
    parser.add_argument("--rate", type=float, default=0)
    parser.add_argument("--round-trip", type=float, default=0)
    parser.add_argument("--window", type=int, default=4 << 20)
    options = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            client, _ = listener.accept()
            threading.Thread(target=serve, args=(client, options), daemon=True).start()


if __name__ == "__main__":
    main()
