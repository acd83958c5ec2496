"""A reverse proxy on loopback that sees what goes to a server, and where a test can step in between."""

import http.client
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import parse_qs, urlsplit

BLOCK = 256 << 10
Instead = tuple[int, dict[str, str]]
HOP = {"connection", "keep-alive", "transfer-encoding"}


@dataclass
class Passed:
    """One request."""

    method: str
    path: str
    size: int
    """Bytes of its body that came."""
    number: int | None = None
    """`partNumber`, where it has one."""
    upload: str | None = None
    """`uploadId`."""
    status: int | None = None
    """What the server answered; None while it has not."""
    form: bytes = b""
    """The last bytes of its body, where a form has its fields."""

    @property
    def is_commit(self) -> bool:
        return self.method == "POST" and self.upload is not None

    @property
    def is_abort(self) -> bool:
        return self.method == "DELETE" and self.upload is not None


class Proxy:
    """`with Proxy(origin) as proxy`: `proxy.origin` leads to `origin`.

    `before` is called with each request that came in full, before it is passed on; `after` when the server
    has answered, before that is passed on. Both may do anything, kill the client included; a ConnectionError
    ends the matter, and a status and fields that `before` returns are answered in the server's place.
    """

    def __init__(self, origin: str) -> None:
        self.upstream = urlsplit(origin)
        self.forget()
        self.busy = 0
        self._quiet = threading.Condition()

    def __enter__(self) -> Self:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                with suppress(ConnectionError, http.client.HTTPException):
                    super().handle_one_request()
                    return
                self.close_connection = True

            def __getattr__(self, name: str):
                if name.startswith("do_"):
                    return lambda: proxy.serve(self)
                raise AttributeError(name)

            def log_message(self, *_) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.origin = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def forget(self) -> None:
        """What has passed, and what a test has set."""
        self.passed: list[Passed] = []
        self.before: Callable[[Passed], Instead | None] = lambda _: None
        self.after: Callable[[Passed], None] = lambda _: None
        self.answered: Callable[[Passed], None] = lambda _: None
        """Called when the client has been answered."""
        self.pause = 0.0
        """Seconds that each request takes longer."""

    def settle(self) -> None:
        """Wait until nothing is on its way."""
        with self._quiet:
            assert self._quiet.wait_for(lambda: not self.busy, 30)

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        with self._quiet:
            self.busy += 1
        try:
            self._serve(request)
        finally:
            with self._quiet:
                self.busy -= 1
                self._quiet.notify_all()

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        length = int(request.headers.get("Content-Length", 0))
        body = bytearray()
        while len(body) < length:
            block = request.rfile.read1(min(BLOCK, length - len(body)))
            if not block:
                raise ConnectionError("the client has left in mid-body")
            body += block
        query = parse_qs(urlsplit(request.path).query, keep_blank_values=True)
        number = query.get("partNumber", [None])[0]
        passed = Passed(
            request.command,
            request.path,
            length,
            None if number is None else int(number),
            query.get("uploadId", [None])[0],
            form=bytes(body[-2000:]),
        )
        self.passed.append(passed)
        time.sleep(self.pause)  # a slower server, so that a kill finds something to interrupt
        instead = self.before(passed)
        if instead is not None:
            return self._answer(request, *instead)
        upstream = http.client.HTTPConnection(self.upstream.hostname, self.upstream.port, timeout=30)
        try:
            headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP}
            upstream.putrequest(request.command, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                upstream.putheader(name, value)
            upstream.endheaders(bytes(body))
            reply = upstream.getresponse()
            answer = reply.read()
        finally:
            upstream.close()
        passed.status = reply.status
        self.after(passed)
        request.send_response_only(reply.status)
        for name, value in reply.getheaders():
            if name.lower() not in {*HOP, "content-length"}:
                request.send_header(name, value)
        shown = reply.getheader("Content-Length") if request.command == "HEAD" else None
        request.send_header("Content-Length", shown or str(len(answer)))
        request.end_headers()
        request.wfile.write(answer)
        self.answered(passed)
        return None

    def _answer(self, request: BaseHTTPRequestHandler, status: int, fields: dict[str, str]) -> None:
        request.send_response_only(status)
        for name, value in (*fields.items(), ("Content-Length", "0")):
            request.send_header(name, value)
        request.end_headers()
