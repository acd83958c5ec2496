"""The examples of object stores against a server that outlives them, as the real one does: they are killed in
the middle, go on when run again, and say what is wrong.
"""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from proxy import Proxy

EXAMPLES = Path(__file__).parents[2] / "examples"
MIB = 1 << 20
PART = 2 * MIB
ENOUGH = 5
"""Parts that pass before the kill: fewer than any example has."""


@pytest.fixture
def environment(tmp_path):
    """Of a machine that has no account."""
    given = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("EXAMPLE_", "ALIBABA_CLOUD_", "OSS_", "AZURE_"))
    }
    return given | {"NO_PROXY": "127.0.0.1"}


def aliyun(server, origin, folder):
    return {
        "EXAMPLE_OSS_URL": f"oss://{server.bucket}/{folder.name}",
        "EXAMPLE_OSS_ENDPOINT": origin,
        "EXAMPLE_OSS_REGION": server.region,
        "ALIBABA_CLOUD_ACCESS_KEY_ID": server.key.id,
        "ALIBABA_CLOUD_ACCESS_KEY_SECRET": server.key.secret,
    }


def azure(server, origin, folder):
    return {
        "EXAMPLE_AZURE_URL": f"azure://{server.container}/{folder.name}",
        "EXAMPLE_AZURE_ENDPOINT": f"{origin}/{server.key.account}",
        "AZURE_STORAGE_ACCOUNT": server.key.account,
        "AZURE_STORAGE_KEY": server.key.key,
    }


STORES = {"oss": ("oss", aliyun), "azure": ("azurite", azure)}


def of(name, request, folder):
    """The server that an example talks to, and how the example is told of a way there."""
    fixture, told = STORES[name.partition("_")[0]]
    server = request.getfixturevalue(fixture)
    return server.origin, lambda origin: told(server, origin, folder)


def command(name):
    return [sys.executable, str(EXAMPLES / name)]


def run(name, folder, environment):
    return subprocess.run(
        command(name),
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
    )


def killed_in_the_middle(name, folder, environment, proxy):
    """Run it until it says that something is there, and no further: of its parts no more than a few pass."""
    gate, lock, counted = threading.Event(), threading.Lock(), []

    def hold(passed):
        if passed.size < MIB:
            return
        with lock:
            counted.append(passed)
            late = len(counted) > ENOUGH
        if late:
            gate.wait(60)
            raise ConnectionError("its client has been killed")

    proxy.before = hold
    with subprocess.Popen(
        command(name), cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    ) as victim:
        try:
            for line in victim.stdout:
                if re.search(r"Running: (?!0%)", line):
                    break
            else:
                pytest.fail("it ended before it could be killed")
        finally:
            victim.kill()
            gate.set()
    proxy.settle()
    stored = {part_of(passed.path) for passed in counted if passed.status in (200, 201)}
    proxy.forget()
    return stored


def part_of(path):
    """What names a part in its URL; presigned URLs differ in all else."""
    return re.search(r"(partNumber|blockid)=[^&]*", path)[0]


BY_PLANS = ["oss_presigned.py", "azure_sas.py"]


@pytest.mark.parametrize("name", ["oss_direct.py", "azure_direct.py", *BY_PLANS])
def test_an_example_that_is_killed_goes_on_when_it_is_run_again(name, request, tmp_path, environment):
    origin, told = of(name, request, tmp_path)
    with Proxy(origin) as proxy:
        environment |= told(proxy.origin)
        stored = killed_in_the_middle(name, tmp_path, environment, proxy)
        done = run(name, tmp_path, environment)
        sent = [part_of(passed.path) for passed in proxy.passed if passed.size >= MIB]
    assert (done.returncode, done.stderr) == (0, "")
    assert "goes on: " in done.stdout
    assert "downloaded 25,165,824 bytes: the same" in done.stdout
    recorded = int(re.search(r"goes on: ([\d,]+)", done.stdout)[1].replace(",", "")) // PART
    assert 0 < recorded <= len(stored)
    # A direct upload asks the store what it has; a plan has nothing to ask with.
    spared = recorded if name in BY_PLANS else len(stored)
    assert len(set(sent)) == len(sent) == 24 * MIB // PART - spared


@pytest.mark.parametrize(
    ("name", "changed", "says"),
    [
        ("oss_direct.py", {"ALIBABA_CLOUD_ACCESS_KEY_SECRET": "wrong"}, "109: .*the secret of credential"),
        ("oss_direct.py", {"EXAMPLE_OSS_URL": "oss://nobodys/x"}, "109: .*there is no bucket 'nobodys'"),
        ("oss_presigned.py", {"EXAMPLE_OSS_URL": "oss://nobodys/x"}, "102: .*'NoSuchBucket'"),
        ("oss_direct.py", {"ALIBABA_CLOUD_ACCESS_KEY_ID": None}, "ALIBABA_CLOUD_ACCESS_KEY_ID is not in the"),
        (
            "azure_direct.py",
            {"AZURE_STORAGE_KEY": "d3Jvbmc="},
            "109: .*check what it permits, .* a wrong key",
        ),
        ("azure_direct.py", {"EXAMPLE_AZURE_URL": "azure://nobodys/x"}, "109: .*no container 'nobodys'"),
        ("azure_sas.py", {"EXAMPLE_AZURE_URL": "azure://nobodys/x"}, "109: .*there is no such container"),
        ("azure_direct.py", {"AZURE_STORAGE_KEY": None}, "AZURE_STORAGE_KEY is not in the"),
    ],
)
def test_an_example_says_what_is_wrong(name, changed, says, request, tmp_path, environment):
    origin, told = of(name, request, tmp_path)
    given = environment | told(origin) | changed
    done = run(name, tmp_path, {name: value for name, value in given.items() if value is not None})
    assert done.returncode == 1
    assert re.match(says, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
