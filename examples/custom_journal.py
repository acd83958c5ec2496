"""A journal in the application's own database, beside its own tables, through SQLAlchemy.

pip install sqlalchemy
python examples/custom_journal.py

Written for SQLite and PostgreSQL. It passes the contract of journals:

python -m meowcat.testing.journal tests/contract/sqlalchemy_harness.py:SQLAlchemyHarness
"""

import asyncio
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

import meowcat
from meowcat.core.values import Position, TaskId
from meowcat.journal.chain import UNFIT, intact, mark, seal
from meowcat.journal.contract import GENESIS, MAX_RECORD, Damage, Entry, Epoch, Owner, Record, Sync
from meowcat.testing.servers import Content, RangeServer

METADATA = sa.MetaData()

ORDERS = sa.Table(
    "orders",  # the application's own
    METADATA,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("task", sa.Text, nullable=False),
)
JOURNAL = sa.Table(
    "transfer_journal",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
)
RECORDS = sa.Table(
    "transfer_record",
    METADATA,
    sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("task", sa.Text, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("open", sa.Boolean, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("chain", sa.LargeBinary, nullable=False),
    sa.Column("crc", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("task", "seq"),
)
TASKS = sa.Table(
    "transfer_task",  # sums up the records, so that an opening costs what is unfinished
    METADATA,
    sa.Column("task", sa.Text, primary_key=True),
    sa.Column("first", sa.BigInteger, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("open", sa.Boolean, nullable=False),
)
CURSORS = sa.Table(
    "transfer_cursor",
    METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("position", sa.BigInteger, nullable=False),
)
SNAPSHOTS = sa.Table(
    "transfer_snapshot",
    METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("crc", sa.BigInteger, nullable=False),
)

ADVISORY_LOCK = 0x6D656F77
"""PostgreSQL's number of our lock: one journal per database."""

ABANDONED: list[sa.Connection] = []
"""Connections that a fork inherited: closing them would end the parent's session."""


def make_engine(url: str) -> sa.Engine:
    """The application's engine. SQLite has to be told to read while it writes, and to sync."""
    engine = sa.create_engine(url)
    if engine.dialect.name == "sqlite":

        @sa.event.listens_for(engine, "connect")
        def settings(connection, _):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202  # the driver's own
            connection.execute("PRAGMA journal_mode = wal")
            connection.execute("PRAGMA synchronous = full")

    return engine


class SQLAlchemyJournal:
    """The journal of one database. One connection of its own writes; readings take one from the pool."""

    max_record = MAX_RECORD

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.connection: sa.Connection | None = None
        self._lock = -1
        self._open = False
        self._pid = 0
        self._epoch = Epoch(0)
        self._last, self._chain = Position(0), GENESIS
        self._in_doubt = False

    # Owning

    def open(self, owner: Owner, sync: Sync) -> Epoch:  # noqa: ARG002  # a database makes each commit durable
        self._refuse_second_opening()
        try:
            METADATA.create_all(self.engine)
            self._connect(patience=0.5)
            self._epoch = self._take_over(str(owner))
            self._read_end()
        except sa.exc.SQLAlchemyError as error:
            self._disconnect()
            raise meowcat.JournalAccess(f"the database can't be used: {error}") from error
        except BaseException:  # raised again: whatever it was, the lock is given back
            self._disconnect()
            raise
        self._open, self._in_doubt, self._pid = True, False, os.getpid()
        return self._epoch

    def open_for_reading(self) -> None:
        self._refuse_second_opening()
        if not sa.inspect(self.engine).has_table(JOURNAL.name):
            raise meowcat.NotAJournal("the database has no journal")
        self._open, self._pid = True, os.getpid()

    def reopen(self) -> Position:
        self._usable()
        self._disconnect()
        stored = self._rows(sa.select(JOURNAL.c.epoch))[0][0]
        if stored != self._epoch:
            raise meowcat.JournalFenced(f"epoch {stored} owns the journal; this is {self._epoch}")
        try:
            # PostgreSQL frees the lock when the session that may still be committing has ended: not before.
            self._connect(patience=10)
            self._read_end()
        except sa.exc.SQLAlchemyError as error:
            raise meowcat.JournalUncertain(f"the database can't be reached: {error}") from error
        self._in_doubt = False
        return self._last

    def close(self) -> None:
        if self._pid == os.getpid():
            self._disconnect()
        elif self.connection is not None:  # in a fork: the session and its lock are the parent's
            ABANDONED.append(self.connection)
            self.connection = None
        self._open = False

    def _refuse_second_opening(self) -> None:
        if self._open:
            raise meowcat.JournalError("this journal object is open already")

    def _connect(self, patience: float) -> None:
        """Take a connection and the lock, which the death of this process frees."""
        self.connection = self.engine.connect()
        deadline = time.monotonic() + patience
        while not self._locked(self.connection):
            if time.monotonic() > deadline:
                rows = self._rows(sa.select(JOURNAL.c.owner))
                owner = rows[0][0] if rows else "a process that has not given its name"
                raise meowcat.JournalOwned(f"the journal is owned by {owner}", owner=owner)
            time.sleep(0.05)

    def _locked(self, connection: sa.Connection) -> bool:
        if self.engine.dialect.name == "postgresql":
            got = bool(connection.scalar(sa.select(sa.func.pg_try_advisory_lock(ADVISORY_LOCK))))
            connection.commit()
            return got
        if self._lock < 0:
            self._lock = os.open(f"{self.engine.url.database}-transfer-lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _disconnect(self) -> None:
        """Close the connection for good: one in the pool would keep PostgreSQL's lock."""
        connection, self.connection = self.connection, None
        lock, self._lock = self._lock, -1
        try:
            if connection is not None:
                connection.invalidate()
                connection.close()
        except sa.exc.SQLAlchemyError:
            pass  # it is dead already
        finally:
            if lock >= 0:
                os.close(lock)

    def _take_over(self, owner: str) -> Epoch:
        connection = self._writer()
        with connection.begin():
            epoch = Epoch((connection.scalar(sa.select(JOURNAL.c.epoch)) or 0) + 1)
            connection.execute(sa.delete(JOURNAL))
            connection.execute(sa.insert(JOURNAL).values(id=1, epoch=epoch, owner=owner))
        return epoch

    def _read_end(self) -> None:
        end = sa.select(RECORDS.c.position, RECORDS.c.chain).order_by(RECORDS.c.position.desc()).limit(1)
        rows = self._rows(end)
        self._last, self._chain = (Position(rows[0][0]), rows[0][1]) if rows else (Position(0), GENESIS)

    # Writing

    def append(self, batch: Sequence[Entry]) -> Position:
        self._writable()
        rows, chain = self._sealed(batch)
        if rows:
            with self._transaction() as connection:
                self._sum_up(connection, batch)
                connection.execute(sa.insert(RECORDS), rows)
            self._last, self._chain = Position(self._last + len(rows)), chain
        return self._last

    def _sealed(self, batch: Sequence[Entry]) -> tuple[list[dict[str, object]], bytes]:
        rows: list[dict[str, object]] = []
        chain = self._chain
        for position, entry in enumerate(batch, self._last + 1):
            if len(entry.body) > self.max_record:
                raise meowcat.JournalRejected(f"{len(entry.body)} bytes; at most {self.max_record} fit")
            try:
                chain, checksum = seal(chain, entry, self._epoch, Position(position))
            except UNFIT as error:
                raise meowcat.JournalRejected(f"no record can hold this: {error}") from error
            place = {"position": position, "epoch": self._epoch, "chain": chain, "crc": checksum}
            rows.append({name: getattr(entry, name) for name in Entry.__struct_fields__} | place)
        return rows, chain

    def _sum_up(self, connection: sa.Connection, batch: Sequence[Entry]) -> None:
        """See that each record follows on its task's last one, and write down how far each task has come."""
        names = {entry.task for entry in batch}
        stored = connection.execute(sa.select(TASKS).where(TASKS.c.task.in_(names))).mappings()
        sums = {row["task"]: dict(row) for row in stored}
        for position, entry in enumerate(batch, self._last + 1):
            known = sums.setdefault(entry.task, {"task": entry.task, "first": position, "seq": 0})
            if entry.seq != known["seq"] + 1:
                raise meowcat.JournalConflict(
                    f"task {entry.task}: {entry.seq} does not follow {known['seq']}"
                )
            known |= {"seq": entry.seq, "open": entry.open}
        connection.execute(sa.delete(TASKS).where(TASKS.c.task.in_(names)))
        connection.execute(sa.insert(TASKS), list(sums.values()))

    def set_cursor(self, name: str, position: Position | None) -> None:
        with self._transaction() as connection:
            connection.execute(sa.delete(CURSORS).where(CURSORS.c.name == name))
            if position is not None:
                connection.execute(sa.insert(CURSORS).values(name=name, position=position))

    def put_snapshot(self, name: str, position: Position, body: bytes) -> None:
        row = {"name": name, "position": position, "body": body, "crc": mark(name, position, body)}
        with self._transaction() as connection:
            connection.execute(sa.delete(SNAPSHOTS).where(SNAPSHOTS.c.name == name))
            connection.execute(sa.insert(SNAPSHOTS).values(row))

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        """All or nothing, and only by the owner.

        Before COMMIT is sent a failure is certain: rejected. An error that COMMIT itself brings, such as a
        lost connection, is uncertain.
        """
        connection = self._writable()
        self._in_doubt = True
        try:
            transaction = connection.begin()
            self._require_epoch(connection)
            yield connection
        except BaseException as error:  # raised again: whatever it was, nothing was committed
            connection.rollback()
            self._in_doubt = connection.invalidated  # a new session would not have the lock
            if isinstance(error, sa.exc.SQLAlchemyError):
                raise meowcat.JournalRejected(f"not stored: {error}") from error
            raise
        try:
            transaction.commit()
        except sa.exc.SQLAlchemyError as error:
            raise meowcat.JournalUncertain(f"it may or may not be stored: {error}") from error
        self._in_doubt = False

    def _require_epoch(self, connection: sa.Connection) -> None:
        """An update, and not a query: it locks the row until the transaction ends."""
        mine = sa.update(JOURNAL).where(JOURNAL.c.epoch == self._epoch).values(epoch=self._epoch)
        if connection.execute(mine).rowcount == 0:
            raise meowcat.JournalFenced(f"epoch {self._epoch} does not own the journal any more")

    # Reading

    def read(self, task: TaskId, after: int = 0) -> Sequence[Record | Damage]:
        mine = sa.select(RECORDS).where(RECORDS.c.task == task, RECORDS.c.seq > after)
        return [_record(*row) for row in self._rows(mine.order_by(RECORDS.c.seq))]

    def scan(self, after: Position, limit: int) -> Sequence[Record | Damage]:
        behind = sa.select(RECORDS).where(RECORDS.c.position > after)
        return [_record(*row) for row in self._rows(behind.order_by(RECORDS.c.position).limit(limit))]

    def unfinished(self) -> Iterator[TaskId]:
        still = sa.select(TASKS.c.task).where(TASKS.c.open).order_by(TASKS.c.first)
        return iter([TaskId(task) for (task,) in self._rows(still)])

    def last(self) -> Position:
        return Position(self._rows(sa.select(sa.func.max(RECORDS.c.position)))[0][0] or 0)

    def cursors(self) -> Mapping[str, Position]:
        return {name: Position(position) for name, position in self._rows(sa.select(CURSORS))}

    def get_snapshot(self, name: str) -> tuple[Position, bytes] | None:
        rows = self._rows(sa.select(SNAPSHOTS).where(SNAPSHOTS.c.name == name))
        if not rows or mark(*rows[0][:3]) != rows[0][3]:
            return None  # a damaged snapshot is as good as none
        return Position(rows[0][1]), rows[0][2]

    def _rows(self, query: sa.Select) -> Sequence[sa.Row]:  # type: ignore[type-arg]  # of whatever is asked for
        if self._open:
            self._usable()
        elif self.connection is None:
            raise meowcat.JournalClosed("the journal is closed")
        try:
            with self.engine.connect() as connection:
                return connection.execute(query).all()
        except sa.exc.SQLAlchemyError as error:
            raise meowcat.JournalAccess(f"the database can't be read: {error}") from error

    # Refusing

    def _usable(self) -> None:
        if not self._open:
            raise meowcat.JournalClosed("the journal is closed")
        if self._pid != os.getpid():
            raise meowcat.JournalForked(f"opened by process {self._pid}, and this is a fork of it")

    def _writable(self) -> sa.Connection:
        self._usable()
        if self._in_doubt:
            raise meowcat.JournalUncertain("an append is in doubt; reopen first")
        return self._writer()

    def _writer(self) -> sa.Connection:
        if self.connection is None:
            raise meowcat.JournalError("opened for reading only, or a reopening failed half-way")
        return self.connection


def _record(position: int, task: str, *fields: object) -> Record | Damage:
    *values, checksum = fields
    record = Record(Position(position), TaskId(task), *values)  # type: ignore[arg-type]  # in the columns' order
    if intact(record, checksum):  # type: ignore[arg-type]  # an integer, by its column
        return record
    return Damage(f"record {position} is damaged", record.position, record.task)


async def main(database: str, url: str, folder: Path) -> None:
    engine = make_engine(database)
    async with meowcat.Engine(SQLAlchemyJournal(engine)) as transfers:
        task = await transfers.submit(meowcat.Download(url, str(folder / "goods.bin")))
        with engine.begin() as connection:
            connection.execute(sa.insert(ORDERS).values(number=4711, task=task.id))
        await task.result()
    history = sa.select(ORDERS.c.number, RECORDS.c.type).join(RECORDS, RECORDS.c.task == ORDERS.c.task)
    with engine.connect() as connection:
        for number, kind in connection.execute(history.order_by(RECORDS.c.seq)):
            print(f"order {number}: {kind}")
    engine.dispose()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name, RangeServer(Content(8 << 20)) as server:
        asyncio.run(main(f"sqlite:///{name}/application.db", server.url, Path(name)))
