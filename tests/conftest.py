"""What all tests share: how a missing server program is treated, and that examples may take their time."""

import os
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings
from oss_server import OSSServer

from meowcat.testing.azurite import Azurite
from meowcat.testing.s3_servers import RcloneS3, SeaweedFS
from meowcat.testing.servers import Caddy, Nginx, ServerMissing, held_port

# How long an example takes says something of the machine, and nothing of the code.
PATIENT = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
# The examples are the same in each run: none fails by what no other has seen. `make soak` draws new ones.
settings.register_profile("the same", derandomize=True, **PATIENT)
settings.register_profile("at random", **PATIENT)
settings.load_profile("the same")

PROGRAMS = {program.name: program for program in (Caddy, Nginx, RcloneS3, SeaweedFS, Azurite)}


def _require(name: str) -> None:
    try:
        PROGRAMS[name].find()
    except ServerMissing as missing:
        if os.environ.get("MEOWCAT_REQUIRE_SERVERS") == "1":
            pytest.fail(f"{missing} (MEOWCAT_REQUIRE_SERVERS=1)")
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def require_server() -> Callable[[str], None]:
    """`require_server("nginx")` skips the test where nginx is missing, or fails it where servers must be."""
    return _require


@pytest.fixture
def port():
    """For servers that come and go."""
    with held_port() as port:
        yield port


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory):
    """One for all tests of a process: it takes seconds to start. Each test uses keys of its own."""
    _require("weed")
    with SeaweedFS(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture(scope="session")
def rclone(tmp_path_factory):
    """As `seaweedfs`."""
    _require("rclone")
    with RcloneS3(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(scope="session")
def oss(tmp_path_factory):
    """A stand-in for Aliyun OSS. One for all tests of a process, as `seaweedfs`; whoever stops it, or turns
    its clock, starts one of their own."""
    with OSSServer(tmp_path_factory.mktemp("oss")) as server:
        yield server


@pytest.fixture(scope="session")
def azurite(tmp_path_factory):
    """As `seaweedfs`."""
    _require("azurite-blob")
    with Azurite(tmp_path_factory.mktemp("azurite")) as server:
        yield server
