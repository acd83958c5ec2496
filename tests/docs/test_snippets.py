"""Runs the code of README and docs as it stands there, against loopback servers that stand in for its hosts.

Blocks marked `python` that have no `asyncio.run` share one namespace and one event loop per page, like a
session of `python -m asyncio`; those that have it run as programs, and leave their imports to the session.
Blocks marked `sh` run in bash. All of a page's blocks run in order, in an empty folder.
"""

import ast
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from form_harness import FormServer
from oss_server import OSSServer

import meowcat
from meowcat.testing.azurite import Azurite
from meowcat.testing.s3_servers import SeaweedFS
from meowcat.testing.servers import Content, RangeServer, Trouble

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
CONTENT = Content(3 << 20)
"""The bytes of every URL: their SHA-256 is the one in the docs."""

FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Snippet:
    page: Path
    line: int
    """Of the page, where the code begins."""
    language: str
    code: str


def snippets(page: Path) -> list[Snippet]:
    text = page.read_text(encoding="utf-8")
    return [
        Snippet(page, text.count("\n", 0, match.start("code")), match["language"], match["code"])
        for match in FENCE.finditer(text)
    ]


def runnable(page: Path) -> list[Snippet]:
    return [each for each in snippets(page) if each.language in ("python", "sh")]


@pytest.fixture(scope="module")
def hosts() -> Iterator[dict[str, str]]:
    """Where the hosts of the docs really are. The proxy is the first server, asked for whole URLs."""

    def missing(seen):
        return Trouble(status=404) if "missing" in seen.target else None

    with (
        RangeServer(CONTENT, script=missing) as plain,
        RangeServer(CONTENT, tls=True) as private,
    ):
        yield {
            "https://host": plain.origin,
            "http://proxy.example:3128": plain.origin,
            "https://internal.example": private.origin,
            "company-ca.pem": private.ca_pem.decode(),
        }


@pytest.fixture(scope="module")
def s3(seaweedfs) -> str:
    """With a bucket of the name `bucket`, and the keys that the environment has."""
    return seaweedfs.origin


@pytest.fixture(scope="module")
def aliyun(oss) -> str:
    """As `s3`."""
    oss.ask("add_bucket", name="bucket")
    return oss.origin


@pytest.fixture(scope="module")
def blobs(azurite) -> str:
    """As `s3`, with a container of the name `container`."""
    return azurite.endpoint


@pytest.fixture(scope="module")
def uploads(tmp_path_factory) -> Iterator[str]:
    """A server that takes uploads by forms at any path that ends as its own."""
    with FormServer(tmp_path_factory.mktemp("uploads")) as server:
        yield server.url.removesuffix("/upload")


ON_DEMAND = {
    "https://s3.example": "s3",
    "https://oss.example": "aliyun",
    "https://azure.example": "blobs",
    "https://uploads.example": "uploads",
}
"""Hosts that are started for the pages that name them, by the fixture that does."""


@pytest.fixture
def stage(request, hosts):
    """`stage(page)`: where the hosts of a page really are."""

    def stage(page: Path) -> dict[str, str]:
        named = [name for name in ON_DEMAND if name in page.read_text(encoding="utf-8")]
        return hosts | {name: request.getfixturevalue(ON_DEMAND[name]) for name in named}

    return stage


@pytest.fixture
def folder(tmp_path, monkeypatch, hosts):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", SeaweedFS.key.id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SeaweedFS.key.secret)
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_ID", OSSServer.key.id)
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", OSSServer.key.secret)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", Azurite.key.account)
    monkeypatch.setenv("AZURE_STORAGE_KEY", Azurite.key.key)
    (tmp_path / "company-ca.pem").write_text(hosts["company-ca.pem"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):  # of the machine: they lead away from loopback
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return tmp_path


def localised(code: str, hosts: dict[str, str]) -> str:
    for name, origin in hosts.items():
        if name.startswith("http"):
            code = code.replace(name, origin)
    return code


def run_program(command: list[str]) -> None:
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def imports_of(code: str) -> str:
    """The import statements of a program."""
    nodes = [node for node in ast.parse(code).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    return "\n".join(map(ast.unparse, nodes))


async def run_in_session(snippet: Snippet, code: str, session: dict[str, object]) -> None:
    """Compile with line numbers of the page, so that a traceback points into it."""
    compiled = compile("\n" * snippet.line + code, snippet.page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    outcome = eval(compiled, session)  # noqa: S307  # our own pages
    if inspect.isawaitable(outcome):
        await outcome


async def run_page(page: Path, hosts: dict[str, str]) -> None:
    session: dict[str, object] = {"__name__": "__snippet__"}
    for snippet in runnable(page):
        code = localised(snippet.code, hosts)
        if snippet.language == "sh":
            await anyio.to_thread.run_sync(run_program, ["bash", "-euc", code])
        elif "asyncio.run(" in code:
            await anyio.to_thread.run_sync(run_program, [sys.executable, "-c", code])
            exec(imports_of(code), session)  # noqa: S102  # our own pages
        else:
            await run_in_session(snippet, code, session)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if runnable(page)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_the_code_of_a_page_works_as_it_stands_there(page, folder, stage):
    anyio.run(run_page, page, stage(page))


def in_blocking_form(code: str) -> str:
    """The same code for `meowcat.blocking`: the async API without its keywords."""
    code = code.replace("async with meowcat.Engine(", "with meowcat.blocking.Engine(")
    return code.replace("async for ", "for ").replace("await ", "")


@pytest.mark.parametrize("name", ["README.md", "docs/quickstart.md"])
def test_the_code_of_a_page_works_without_async(name, folder, stage):
    hosts = stage(ROOT / name)
    session: dict[str, object] = {"__name__": "__snippet__", "meowcat": meowcat}
    for snippet in runnable(ROOT / name):
        code = localised(snippet.code, hosts)
        if "asyncio.run(" in code:  # it stays what it is, and others use the file that it makes
            run_program([sys.executable, "-c", code])
        elif snippet.language == "python":
            code = in_blocking_form(code)
            exec(compile("\n" * snippet.line + code, snippet.page, "exec"), session)  # noqa: S102  # our own pages


def test_no_fence_has_a_mark_that_nobody_runs():
    known = {"python", "sh", "console", "text", "json", "toml", "mermaid", ""}
    wrong = [
        f"{each.page.name}:{each.line}"
        for page in PAGES
        for each in snippets(page)
        if each.language not in known
    ]
    assert wrong == []


def test_what_the_readme_promises_to_be_its_first_code_is_short():
    first = next(each for each in snippets(ROOT / "README.md") if each.language == "python")
    assert len([line for line in first.code.splitlines() if line]) <= 10
    assert "asyncio.run(" in first.code


def test_the_checksum_in_the_docs_is_that_of_the_content():
    quoted = {
        digest for page in PAGES for digest in re.findall(r'"sha256:([0-9a-f]{64})"', page.read_text("utf-8"))
    }
    assert quoted == {CONTENT.sha256}
