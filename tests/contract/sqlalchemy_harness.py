"""The harness of examples/custom_journal.py, on SQLite and on a PostgreSQL server."""

import importlib.util
import os
import shutil
from pathlib import Path

import sqlalchemy as sa

from meowcat.testing.journal import OTHER, JournalHarness

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_journal.py"
_spec = importlib.util.spec_from_file_location("custom_journal", EXAMPLE)
example = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(example)


class SQLAlchemyHarness(JournalHarness):
    """What pages hold is the database's own affair: it is not looked at."""

    def __init__(self, folder):
        super().__init__(folder)
        self.database = folder / "application.db"
        self._engine()

    def _engine(self):
        engine = example.make_engine(f"sqlite:///{self.database}")
        self._later.callback(engine.dispose)
        self.engine = engine

    def make(self):
        return example.SQLAlchemyJournal(self.engine)

    def usurp(self):
        Path(f"{self.database}-transfer-lock").unlink()
        journal = self.make()
        journal.open(OTHER, self.sync)
        return journal

    def crash(self, journal):
        self.close_later(journal)
        old, self.database = self.database, self.database.with_name(f"again-{self.database.name}")
        for suffix in ("", "-wal"):
            if Path(f"{old}{suffix}").exists():
                shutil.copy(f"{old}{suffix}", f"{self.database}{suffix}")
        self._engine()

    def corrupt(self, body):
        changed = bytes([body[0] ^ 1]) + body[1:]
        with self.engine.begin() as connection:
            connection.execute(
                sa.update(example.RECORDS).where(example.RECORDS.c.body == body).values(body=changed)
            )


class Unlocked(example.SQLAlchemyJournal):
    """Opens without the lock, as where it was lost."""

    def _locked(self, connection):
        return True


class PostgreSQLHarness(SQLAlchemyHarness):
    """Each place is a database of its own on the server that MEOWCAT_POSTGRESQL names."""

    def _engine(self):
        server = sa.engine.make_url(os.environ["MEOWCAT_POSTGRESQL"])
        name = f"place{abs(hash(str(self.folder)))}"
        admin = sa.create_engine(server, isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
        admin.dispose()
        self.url = server.set(database=name)
        self._new_process()

    def _new_process(self):
        """One with a pool of its own."""
        self.engine = example.make_engine(self.url)
        self._later.callback(self.engine.dispose)

    def make(self):
        return example.SQLAlchemyJournal(self.engine)

    def usurp(self):
        journal = Unlocked(self.engine)
        journal.open(OTHER, self.sync)
        return journal

    def crash(self, journal):
        with self.engine.connect() as connection:
            connection.execute(
                sa.text(
                    "SELECT pg_terminate_backend(pid) FROM pg_locks"
                    " WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
                    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
                )
            )
        self.close_later(journal)
        self._new_process()
