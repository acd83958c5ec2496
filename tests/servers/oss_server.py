"""The stand-in OSS, as tests use it: a process of its own, and the back doors to it."""

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Self

from meowcat.protocols.credentials import AccessKey
from meowcat.testing.servers import held_port

SCRIPT = Path(__file__).parent / "oss.py"


class OSSServer:
    """`with OSSServer(folder) as server`: a process that keeps all of it in `folder`, and listens on the same
    port whenever it is started again.

    Its key, bucket and region are there from the beginning.
    """

    bucket = "meowcat-tests"
    region = "cn-hangzhou"
    key = AccessKey(id="LTAIMEOWCATTEST", secret="made-up-secret-for-tests")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0
        self._stack = contextlib.ExitStack()
        self._process: subprocess.Popen[str] | None = None
        self._turn = threading.Lock()

    @property
    def origin(self) -> str:
        """Of requests whose path names the bucket."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, str(SCRIPT), "--folder", str(self.folder), "--port", str(self.port)]
        self._process = subprocess.Popen(
            [*command, "--region", self.region, "--bucket", self.bucket],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        said = self._process.stdout.readline()
        assert said, f"it ended with {self._process.wait()}"

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def __enter__(self) -> Self:
        self.port = self._stack.enter_context(held_port())
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        self._stack.close()

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:  # a client still talks to it, in a test that has failed
            process.kill()
            process.wait()
        process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()

    def ask(self, do: str, **fields):
        """One of `oss.Doors`."""
        with self._turn:
            self._process.stdin.write(json.dumps({"do": do, **fields}) + "\n")
            self._process.stdin.flush()
            said = json.loads(self._process.stdout.readline())
        assert "error" not in said, said["error"]
        return said["said"]

    def requests(self, **fields) -> list[dict]:
        """Those that have all of `fields`, in order; `op` is an operation, such as `upload_part`."""
        return [
            each
            for each in self.ask("requests")
            if all(each.get(name) == value for name, value in fields.items())
        ]

    def uploads(self, key: str | None = None) -> list[str]:
        """The ids of those that are neither complete nor aborted; of one object, where `key` is given."""
        found = self.ask("uploads", bucket=self.bucket)
        return [each["id"] for each in found if key in (None, each["name"])]

    def parts(self, upload: str) -> list[int]:
        return [part["number"] for part in self.ask("parts", upload=upload)]

    def object(self, key: str) -> dict | None:
        """What is known of it (`etag`, `crc`, `fields`, ...); None = it is not there."""
        return self.ask("object", bucket=self.bucket, name=key)

    def content(self, key: str) -> bytes | None:
        found = self.object(key)
        return None if found is None else Path(found["path"]).read_bytes()

    def fail(self, times: int = 1, *, status: int = 503, code: str = "ServiceUnavailable", **fields) -> None:
        """The next `times` requests that have all of `fields` are answered with this error. Of `fields` these
        are no conditions: `after` (the error comes after the work was done) and `cut` (the reply's body ends
        after so many bytes, instead of an error)."""
        how = {name: fields.pop(name) for name in ("after", "cut") if name in fields}
        self.ask("fail", where=fields, times=times, status=status, code=code, **how)

    def mend(self) -> None:
        """None of the faults that were ordered comes any more."""
        self.ask("mend")

    def session(self, seconds: float, id: str = "STS.MEOWCATTEST") -> AccessKey:  # noqa: A002  # as AccessKey has it
        """Another key, with a token, that the server takes for so long."""
        expires = time.time_ns() // 1_000_000 + int(seconds * 1000)
        key = AccessKey(id=id, secret="made-up-session-secret", token="made-up/token+1==", expires=expires)
        self.ask("add_key", id=key.id, secret=key.secret, token=key.token, expires=expires)
        return key

    def expire(self, key: AccessKey) -> None:
        """A session's key is good no more, whatever was said of its end."""
        self.ask("add_key", id=key.id, secret=key.secret, token=key.token, expires=1)
