"""A user's own folder of specifications, collected by the plugin."""

import os
import subprocess
import sys

import pytest

GOOD = """
[[scenario]]
name = "a task begins Queued"
why = "Nothing runs without a slot."
when = { type = "create" }
then = [{ type = "created" }]
"""
BAD = """
[[scenario]]
name = "a wish"
why = "I would like it so."
when = { type = "create" }
then = [{ type = "created", state = "Running" }]
"""
HTTP = """
[[http]]
name = "a whole reply"
rfc = "RFC 9110 15.3.1"
status = {status}
headers = ["Content-Length: 5"]
verdict = {{ kind = "whole" }}
"""


@pytest.fixture
def pytest_of_a_user(tmp_path):
    """Runs pytest with the plugin in a folder that has nothing to do with this checkout's settings."""

    def run(*arguments, **files):
        (tmp_path / "pytest.ini").write_text("[pytest]\n", "utf-8")
        for name, text in files.items():
            (tmp_path / f"{name}.spec.toml").write_text(text, "utf-8")
        command = [sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider", *arguments]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=dict(os.environ),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout

    return run


PLUGIN = ("-p", "meowcat.testing.plugin")


def test_rows_of_both_kinds_are_tests_with_their_names(pytest_of_a_user):
    code, output = pytest_of_a_user(*PLUGIN, "-v", good=GOOD, http=HTTP.format(status=200))
    assert code == 0, output
    assert "good.spec.toml::a task begins Queued PASSED" in output
    assert "http.spec.toml::a whole reply PASSED" in output


def test_without_the_plugin_nothing_is_collected(pytest_of_a_user):
    code, output = pytest_of_a_user(good=GOOD)
    assert code == pytest.ExitCode.NO_TESTS_COLLECTED, output


def test_a_row_that_does_not_hold_fails_with_its_place_and_no_traceback(pytest_of_a_user):
    code, output = pytest_of_a_user(*PLUGIN, bad=BAD, good=GOOD)
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "1 failed, 1 passed" in output
    assert "bad.spec.toml:2" in output
    assert 'then[0].state: expected "Running"' in output
    assert "I would like it so." in output
    assert "Traceback" not in output
    assert "scenarios.py" not in output


def test_an_http_row_that_does_not_hold_fails(pytest_of_a_user):
    code, output = pytest_of_a_user(*PLUGIN, http=HTTP.format(status=404))
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "not the verdict that was expected" in output


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD.replace("when", "whem"), "unknown key whem"),
        ("[[scenario", "not TOML"),
        (HTTP.format(status=200).replace("rfc", "rcf"), "bad.spec.toml"),
    ],
)
def test_a_file_that_cannot_be_understood_is_an_error_at_collection(pytest_of_a_user, text, expected):
    code, output = pytest_of_a_user(*PLUGIN, bad=text)
    assert code == pytest.ExitCode.INTERRUPTED
    assert expected in output
    assert "Traceback" not in output


def test_a_mistake_that_shows_only_when_a_row_is_run_fails_with_its_place(pytest_of_a_user):
    code, output = pytest_of_a_user(*PLUGIN, bad=GOOD.replace('"create"', '"creeate"'))
    assert code == pytest.ExitCode.TESTS_FAILED
    assert 'unknown type "creeate"' in output
    assert "Traceback" not in output


def test_rows_can_be_picked_by_name(pytest_of_a_user):
    code, output = pytest_of_a_user(*PLUGIN, "-k", "wish", good=GOOD, bad=BAD)
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "1 failed, 1 deselected" in output


WORLD = """
import meowcat

def test_a_download(meowcat_world, meowcat_seed):
    meowcat_world.server.serve("https://host/file", 100_000)

    async def work(world):
        async with world.engine() as engine:
            await engine.download("https://host/file", "/data/file")

    meowcat_world.run(work)
    assert meowcat_world.disk.names("/data") == ["file"]
    assert meowcat_seed == meowcat_world.seed
    print("seed", meowcat_seed)
    assert {outcome}
"""


def test_a_test_gets_a_world_with_a_seed_of_its_own_that_stays(pytest_of_a_user, tmp_path):
    (tmp_path / "test_own.py").write_text(WORLD.format(outcome=True), "utf-8")
    seeds = set()
    for _ in range(2):
        code, output = pytest_of_a_user(*PLUGIN, "-s")
        assert code == 0, output
        seeds.add(output.split("seed ")[1].split()[0])
    assert len(seeds) == 1
    assert "seed 12\n" in pytest_of_a_user(*PLUGIN, "-s", "--meowcat-seed", "12")[1]


def test_a_test_that_fails_tells_its_seed(pytest_of_a_user, tmp_path):
    (tmp_path / "test_own.py").write_text(WORLD.format(outcome=False), "utf-8")
    code, output = pytest_of_a_user(*PLUGIN, "--meowcat-seed", "12")
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "replay with --meowcat-seed 12" in output
