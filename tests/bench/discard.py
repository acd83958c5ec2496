"""A server that reads bodies and drops them, in a process of its own; it prints its port.

    python -m tests.bench.discard [--keep FILE]

It answers 200 with an ETag and an empty body. With `--keep` the bytes go into a file, so that they can be
compared once: where the query's `partNumber` says, or, of a form, its `file` at its `offset`. `GET /figures`
says how many requests and bytes of bodies there were.
"""

import argparse
import io
import json
import os
import socket
import sys
import threading
from urllib.parse import parse_qs, urlsplit

MIB = 1 << 20
PART = 8 * MIB
DISCARD = socket.MSG_TRUNC if sys.platform == "linux" else 0
"""Linux drops bytes of a stream so without copying them (tcp(7)): the server takes next to nothing of the
processors that it shares with who is measured."""
OK = b'HTTP/1.1 200 OK\r\nETag: "x"\r\nContent-Length: %d\r\n\r\n%b'


class Server:
    def __init__(self, keep: str | None) -> None:
        self.keep = None if keep is None else os.open(keep, os.O_RDWR | os.O_CREAT)
        self._requests = 0
        self._bytes = 0
        self._counting = threading.Lock()

    def serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        room = memoryview(bytearray(MIB))
        rest = b""
        with connection:
            while True:
                while b"\r\n\r\n" not in rest:
                    if not (count := connection.recv_into(room)):
                        return
                    rest += bytes(room[:count])
                head, _, rest = rest.partition(b"\r\n\r\n")
                rest = self._answer(connection, head, rest, room)

    def _answer(self, connection: socket.socket, head: bytes, rest: bytes, room: memoryview) -> bytes:
        first, *lines = head.decode("latin-1").split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines)
        fields = {name.lower(): value for name, value in fields.items()}
        method, target, _ = first.split(" ")
        if method == "GET":
            figures = json.dumps({"requests": self._requests, "bytes": self._bytes}).encode()
            connection.sendall(OK % (len(figures), figures))
            return rest
        if fields.get("expect"):
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = int(fields["content-length"])
        body, rest = rest[:length], rest[length:]
        if self.keep is None:
            left = length - len(body)
            while left > 0:
                left -= connection.recv_into(room, min(MIB, left), DISCARD)
        else:
            self._store(target, fields, body + received(connection, length - len(body)))
        with self._counting:
            self._requests += 1
            self._bytes += length
        connection.sendall(OK % (0, b""))
        return rest

    def _store(self, target: str, fields: dict[str, str], body: bytes) -> None:
        query = parse_qs(urlsplit(target).query)
        if fields.get("content-type", "").startswith("multipart/form-data"):
            values, body = parts_of(fields, body)
            at = int(values.get(b"offset", b"0"))
        else:
            at = (int(query["partNumber"][0]) - 1) * PART
        assert self.keep is not None
        os.pwrite(self.keep, body, at)


def received(connection: socket.socket, count: int) -> bytes:
    body = bytearray(count)
    view, have = memoryview(body), 0
    while have < count:
        have += connection.recv_into(view[have:])
    return bytes(body)


def parts_of(fields: dict[str, str], body: bytes) -> tuple[dict[bytes, bytes], bytes]:
    """The texts of a form, and its file."""
    from python_multipart import parse_form  # where forms are kept alone

    values: dict[bytes, bytes] = {}
    files: list[bytes] = []

    def on_file(file) -> None:
        file.file_object.seek(0)
        files.append(file.file_object.read())

    headers = {"Content-Type": fields["content-type"].encode(), "Content-Length": b"%d" % len(body)}
    parse_form(
        headers, io.BytesIO(body), lambda field: values.update({field.field_name: field.value}), on_file
    )
    return values, b"".join(files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep")
    server = Server(parser.parse_args().keep)
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=server.serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
