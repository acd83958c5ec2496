"""Real servers on loopback, one of each per test module, serving `served`."""

import pytest

from meowcat.testing.servers import Caddy, Nginx


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The folder that the servers of a module serve; tests put files into it."""
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def caddy(require_server, served):
    require_server("caddy")
    with Caddy(served) as server:
        yield server


@pytest.fixture(scope="module")
def caddy_tls(require_server, served):
    """Speaks HTTP/1.1 and HTTP/2 with a certificate of the authority in `ca_pem`."""
    require_server("caddy")
    with Caddy(served, tls=True) as server:
        yield server


@pytest.fixture(scope="module")
def nginx(require_server, served):
    require_server("nginx")
    with Nginx(served) as server:
        yield server


@pytest.fixture(scope="module")
def nginx_without_ranges(require_server, served):
    require_server("nginx")
    with Nginx(served, ranges=False) as server:
        yield server
