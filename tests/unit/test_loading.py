"""What `import meowcat` loads: every process of an application pays for it, and each command line."""

import subprocess
import sys

import pytest

import meowcat.sinks
from meowcat.testing.content import Content
from meowcat.testing.range_server import RangeServer

UNWANTED = {
    "argparse", "boto3", "click", "h2", "httpcore", "httpx", "hypothesis", "journal_adapters", "pygments",
    "pyreqwest", "pytest", "rich", "sqlalchemy", "sqlite3", "trio", "uvloop",
}  # fmt: skip
"""What takes long to load and only some need: it is loaded for them, when they do."""


def loaded_by(program: str) -> set[str]:
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import atexit, sys\natexit.register(lambda: print(*sys.modules))\n{program}",
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return {name.partition(".")[0] for name in run.stdout.split()}


def test_importing_meowcat_loads_nothing_that_only_some_need():
    assert loaded_by("import meowcat") & UNWANTED == set()


def test_an_engine_in_memory_needs_no_httpx_where_pyreqwest_is():
    pytest.importorskip("pyreqwest")
    loaded = loaded_by("import meowcat\nwith meowcat.blocking.Engine(): pass")
    assert "pyreqwest" in loaded
    assert "httpx" not in loaded


def test_a_command_line_that_draws_nothing_loads_nothing_to_draw_with(tmp_path):
    with RangeServer(Content(1000)) as server:
        asked = ["get", server.url, "--journal", str(tmp_path / "t.db"), "--output", str(tmp_path / "x")]
        loaded = loaded_by(f"from meowcat.cli import main\nmain({asked})")
    assert {"click", "pyreqwest"} <= loaded
    assert {"httpx", "rich"} & loaded == set()


@pytest.mark.parametrize("name", ["Webhook", "verify_webhook"])
def test_a_webhook_is_loaded_when_it_is_asked_for(name):
    assert "httpx" in loaded_by(f"from meowcat.sinks import {name}")


def test_what_the_sinks_do_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"module 'meowcat.sinks' has no attribute 'Webhok'"):
        _ = meowcat.sinks.Webhok
