"""The depot as a server on loopback and in memory, with the protocol that talks to it."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random

from meowcat.testing.depot import Depot, DepotProtocol, DepotUpload
from meowcat.testing.exchanges import Seen
from meowcat.testing.power import Power
from meowcat.testing.protocol import ProtocolHarness
from meowcat.testing.scripted import ScriptedServer, ScriptedTransport
from meowcat.transport.contract import Timeouts

TOKEN, BEARER = "canary-in-the-query", "Bearer canary-in-a-header"


class DepotServer:
    """A depot behind a socket."""

    def __init__(self, depot):
        self.depot = depot
        mutex = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle(self):
                try:
                    super().handle()
                except ConnectionError:
                    pass  # the client has left, as some checks do

            def answer(self):
                size = int(self.headers.get("content-length", 0))
                body = self.rfile.read(size)  # shorter where the client left
                seen = Seen(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, 1)
                seen.complete = len(body) == size
                url = f"http://{self.headers['host']}{self.path}"
                with mutex:
                    answered = depot(seen, url, body)
                status, fields, content = answered or (404, {}, b"")
                self.send_response(status)
                for name, value in fields.items():
                    self.send_header(name, value)
                if status != 204:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def log_message(self, *_):
                """Nobody asked."""

        for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
            setattr(Handler, f"do_{method}", Handler.answer)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.origin = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class DepotHarness(ProtocolHarness):
    """In memory, without any latency."""

    protocol = DepotProtocol
    part_size = 40_000
    depot_class = Depot
    able = None
    origin = "https://depot.example"

    def __init__(self):
        self.depot = self.depot_class()

    @classmethod
    def of(cls, **able):
        """The harness of a depot that can do this."""
        return type(cls.__name__, (cls,), {"able": able})

    def url(self, name):
        return f"{self.origin}/{name}?token={TOKEN}"

    def headers(self):
        return {"Authorization": BEARER}

    def spec(self, name):
        return DepotUpload(**self.able or {}).spec()

    def transport(self):
        server = ScriptedServer()
        server.handlers[self.origin] = self.depot
        return ScriptedTransport(server, Power(), AtOnce(), Timeouts(), lambda: 0.0)

    async def content(self, name):
        stored = self.depot.objects.get(f"{self.origin}/{name}")
        return None if stored is None else stored.content

    async def sessions(self):
        return len(self.depot.uploads)

    async def forget(self, session):
        del self.depot.uploads[session.id]


class AtOnce(Random):
    def uniform(self, a, b):
        return 0.0


class LoopbackHarness(DepotHarness):
    """Behind a socket, with the client that engines use."""

    async def start(self):
        self.server = DepotServer(self.depot)
        self.origin = self.server.origin

    async def stop(self):
        self.server.close()

    transport = ProtocolHarness.transport
