"""The journal of examples/custom_journal.py passes the contract, on SQLite and on a real PostgreSQL."""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy_harness import PostgreSQLHarness, SQLAlchemyHarness, example

from meowcat.core.errors import JournalUncertain
from meowcat.testing.journal.records import check_stored, entry, opened, refused
from meowcat.testing.journal_suite import JournalSuite


@pytest.fixture
def tmp_path(in_memory):
    return in_memory


class TestSQLAlchemyOnSQLite(JournalSuite):
    harness = SQLAlchemyHarness
    histories = 5


def programs():
    """The folder of PostgreSQL's programs, the newest first."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    here = shutil.which("initdb")
    return found[0].parent if found else here and Path(here).parent


@pytest.fixture(scope="module")
def server():
    """A PostgreSQL of the module's own, on a Unix socket; it does not run as root."""
    bin_ = programs()
    if not bin_:
        reason = "PostgreSQL is not installed: no initdb in PATH or /usr/lib/postgresql"
        if os.environ.get("MEOWCAT_REQUIRE_SERVERS") == "1":
            pytest.fail(f"{reason} (MEOWCAT_REQUIRE_SERVERS=1)")
        pytest.skip(reason)
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    with tempfile.TemporaryDirectory(prefix="meowcat-pg-", dir="/tmp") as folder:
        os.chown(folder, user.pw_uid, -1)
        options = {"capture_output": True, "cwd": folder, "timeout": 60}
        if os.geteuid() == 0:
            options |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        files = f"{folder}/data"
        subprocess.run(
            [bin_ / "initdb", "-D", files, "-U", "app", "-A", "trust", "-E", "UTF8"], check=True, **options
        )
        settings = f"-c listen_addresses='' -k {folder} -c max_connections=50"
        start = [bin_ / "pg_ctl", "-D", files, "-w", "-o", settings, "-l", f"{folder}/log", "start"]
        subprocess.run(start, check=True, **options)
        try:
            yield f"postgresql+psycopg://app@/postgres?host={folder}"
        finally:
            subprocess.run(
                [bin_ / "pg_ctl", "-D", files, "-w", "-m", "immediate", "stop"], check=True, **options
            )


@pytest.fixture
def postgresql(server, monkeypatch):
    monkeypatch.setenv("MEOWCAT_POSTGRESQL", server)


@pytest.mark.servers
@pytest.mark.usefixtures("postgresql")
class TestSQLAlchemyOnPostgreSQL(JournalSuite):
    harness = PostgreSQLHarness
    histories = 5


@pytest.mark.servers
@pytest.mark.usefixtures("postgresql")
@pytest.mark.parametrize("committed", [False, True])
def test_a_connection_that_is_lost_at_its_commit_is_uncertain_until_the_journal_is_reopened(
    tmp_path, monkeypatch, committed
):
    place = PostgreSQLHarness(tmp_path)
    journal = opened(place)
    journal.append([entry("a", 1)])

    commit = place.engine.dialect.do_commit

    def lose(session):
        """The session ends while the COMMIT is on its way, or while its answer is."""
        monkeypatch.setattr(place.engine.dialect, "do_commit", commit)
        if committed:
            commit(session)
        end(place.engine, session)
        if committed:
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        commit(session)

    monkeypatch.setattr(place.engine.dialect, "do_commit", lose)
    with refused(JournalUncertain):
        journal.append([entry("a", 2)])
    with refused(JournalUncertain):
        journal.append([entry("a", 2)])
    stored = [entry("a", 1), entry("a", 2)] if committed else [entry("a", 1)]
    assert journal.reopen() == len(stored)
    journal.append([entry("b", 1)])
    check_stored(journal, [*stored, entry("b", 1)])
    place.close()


def end(engine, session):
    pid = session.dbapi_connection.info.backend_pid
    with engine.connect() as other:
        other.execute(sa.text(f"SELECT pg_terminate_backend({pid}, 5000)"))


def test_the_application_reads_its_own_tables_and_the_journal_together(tmp_path):
    done = subprocess.run(
        [sys.executable, example.__file__], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.splitlines()[0] == "order 4711: created"
    assert done.stdout.splitlines()[-1] == "order 4711: completed"
