"""Real servers on loopback, one of each per test module, serving `served`."""

import pytest

from journal_adapters.sqlite import SQLiteJournal
from meowcat.journal.contract import Owner
from meowcat.testing.servers import Caddy, Nginx


@pytest.fixture
def usurp():
    """`usurp(path)`: another owner has a SQLite journal for a moment, as where its lock was lost."""

    def take(path):
        path.with_name(f"{path.name}-lock").unlink()
        journal = SQLiteJournal(path)
        journal.open(Owner(4712, "host.example", "usurper"), "power")
        journal.close()

    return take


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
