"""gunicorn that preloads an application with an open engine: its workers are refused, its master goes on."""

import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

import meowcat
from meowcat.core import events as ev
from meowcat.testing.content import Content
from meowcat.testing.range_server import RangeServer

pytestmark = pytest.mark.timeout(180)

MIB = 1 << 20


@contextmanager
def gunicorn(folder, url):
    """A running gunicorn with two preloaded workers, and its address."""
    command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", "2", "--bind", "127.0.0.1:0"]
    process = subprocess.Popen(
        [*command, "--chdir", Path(__file__).parent, "--worker-tmp-dir", folder, "preloaded_app"],
        env=os.environ | {"FOLDER": str(folder), "URL": url, "PYTHONDONTWRITEBYTECODE": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stderr:
            if found := re.search(r"Listening at: (http://\S+)", line):
                break
        rest = threading.Thread(target=process.stderr.read)  # so that its log never fills the pipe
        rest.start()
        yield process, found[1]
    finally:
        process.kill()
        process.wait()
        rest.join()
        process.stderr.close()


def test_workers_answer_with_the_refusal_and_the_masters_download_goes_on(tmp_path):
    content = Content(8 * MIB)
    with RangeServer(content, rate=2 * MIB) as server:
        with gunicorn(tmp_path, server.url) as (master, origin):
            for path in ["/snapshot", "/result"] * 5:
                reply = httpx.get(f"{origin}{path}", timeout=20, trust_env=False)
                assert reply.status_code == 200
                assert reply.text.startswith(f"EngineForked: this engine belongs to process {master.pid}")
                assert "after the fork" in reply.text
            assert server.wait_for(lambda at: at.bytes_served() >= content.size, timeout=30)
            assert server.bytes_sent_twice() == 0
            assert (
                server.connections <= 5
            )  # the first request's, and none was lost to the forks and made again
            master.send_signal(signal.SIGTERM)
            assert master.wait(20) == 0
        with meowcat.blocking.Engine(
            tmp_path / "t.db"
        ) as engine:  # verified and published by the one or other
            engine.drain(timeout=20)
            (info,) = engine.tasks(state="Complete")
            kinds = [type(logged.event) for logged in engine.history(info.id)]
    assert (tmp_path / "a").read_bytes() == content.bytes()
    assert info.crashes == 0
    assert kinds.count(ev.Recovered) == kinds.count(ev.Requeued)  # closed in good order, at whatever moment
