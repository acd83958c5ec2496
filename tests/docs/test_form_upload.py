"""The page on the form protocol shows the requests as they are sent, and a session as it goes."""

import re
import shutil
import subprocess
from pathlib import Path

import anyio
import pytest
from form_harness import BytesPart, FormServer, job_for

from meowcat.protocols.form_wire import form_request

PAGE = (Path(__file__).parents[2] / "docs/reference/form-upload.md").read_text("utf-8")
CONTENT = b"0123456789" * 10


async def shown(part):
    """A request as the page shows it."""
    job = job_for(
        "https://host/upload",
        CONTENT,
        name="cat.bin",
        headers={"Authorization": "Bearer …"},
        category="video",
    )
    request = form_request(job, "POST", "video", part)
    body = b"".join([chunk async for chunk in request.body()])
    fields = {"Host": "host"} | request.headers | {"Content-Length": str(len(body))}
    assert request.body_length == len(body)
    head = "".join(f"{name}: {value}\n" for name, value in fields.items())
    return f"POST /upload HTTP/1.1\n{head}\n" + body.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("part", [None, BytesPart(CONTENT, 1, 40, 70)], ids=["start", "chunk"])
def test_the_page_shows_what_is_sent(part):
    assert f"```text\n{anyio.run(shown, part)}```" in PAGE


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_session_goes_as_the_page_shows_it(tmp_path):
    text = re.search(r"```console\n(\$ .*?)```", PAGE, re.DOTALL)[1].replace("\\\n> ", "\\\n")
    prompts = re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]
    commands, said = [], []
    for prompt in prompts:
        lines = prompt.splitlines()
        stop = 1 + lines[0].endswith("\\")
        commands.append("\n".join(lines[:stop]))
        said += lines[stop:]
    with FormServer(tmp_path / "uploads") as server:
        script = "\n".join(commands).replace("http://127.0.0.1:8000/upload", server.url)
        script = script.replace("http://127.0.0.1:8000", server.url.removesuffix("/upload"))
        done = subprocess.run(
            ["bash", "-euc", script], check=False, capture_output=True, text=True, cwd=tmp_path, timeout=240
        )
    assert done.stdout.splitlines() == said
    assert done.returncode == 0
