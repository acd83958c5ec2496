"""The servers of races, each in a process of its own on loopback."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from meowcat.testing.servers import Nginx

from .races import ROOT


class Served(Nginx):
    """nginx as anybody has it, over TLS if asked to, with one line for each request in memory."""

    def __init__(self, folder: Path, *, tls: bool = False) -> None:
        super().__init__(folder)
        self.tls = tls
        self.log = Path(self._home.name) / "access"
        self.ca = Path(self._home.name) / "ca.pem"

    @property
    def origin(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def command(self, home: Path) -> list[str]:
        command = super().command(home)
        config = home / "nginx.conf"
        text = config.read_text().replace(
            "access_log off;", f"log_format one x;\naccess_log {self.log} one;\n"
        )
        if self.tls:
            self._certify(home / "server.pem")
            listening = f"listen 127.0.0.1:{self.port}"
            both = f"ssl_certificate {home}/server.pem;\nssl_certificate_key {home}/server.pem;"
            text = text.replace(f"{listening};", f"{listening} ssl;\n{both}")
        # rclone may ask for a folder's names; pypdl takes nginx for a server without ranges where its HEAD
        # leaves this header open.
        more = "autoindex on;\nadd_header Content-Disposition attachment;"
        config.write_text(text.replace(f"root {self.folder};", f"root {self.folder};\n{more}"))
        return command

    def _certify(self, to: Path) -> None:
        import trustme  # for TLS alone

        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.ca)
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(to)

    def requests(self) -> int:
        """So far; nginx writes a line when it has sent the last byte."""
        return self.log.stat().st_size // 2 if self.log.exists() else 0


@contextmanager
def printing_port(module: str, *arguments: object) -> Iterator[int]:
    """A server of tests/bench that prints its port first."""
    command = [sys.executable, "-m", f"tests.bench.{module}", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()
