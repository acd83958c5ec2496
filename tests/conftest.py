"""What all tests share: how a missing server program is treated, and that examples may take their time."""

import os
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings

from meowcat.testing.servers import Caddy, Nginx, ServerMissing

# How long an example takes says something of the machine, and nothing of the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

PROGRAMS = {program.name: program for program in (Caddy, Nginx)}


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
