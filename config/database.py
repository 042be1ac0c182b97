"""The database: one code path for SQLite (one process, nothing to install) and PostgreSQL (many).

Work on the database is plain synchronous SQLAlchemy in functions `f(session, ...)`, run in threads:
`write` in one transaction, `read` without one that lasts. SQLite has a single writer thread with a
single connection: more writers would only wait for each other and lose leases.
"""

import asyncio
import contextlib
import functools
import random
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import psycopg
import structlog
from alembic import command
from alembic.config import Config
from sqlalchemy import DateTime, Engine, MetaData, create_engine, event, make_url, text
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.pool import QueuePool
from sqlalchemy.types import TypeDecorator

from config.settings import ROOT

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger(__name__)

NOTIFY_CHANNEL = "desk"


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time, always aware and UTC; SQLite forgets zones, so they are put back."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        """Refuse naive times: they are the usual way to be nine hours wrong."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("naive datetime")
        return value.astimezone(UTC)

    def process_result_value(self, value: Any, _dialect: Dialect) -> datetime | None:
        """Give back an aware time."""
        if value is None:
            return None
        aware: datetime = value.replace(tzinfo=UTC) if value.tzinfo is None else value
        return aware.astimezone(UTC)


class Base(DeclarativeBase):
    """Base of all tables."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime}  # noqa: RUF012 - SQLAlchemy's own interface


class DatabaseUnavailableError(RuntimeError):
    """The database cannot be opened or is full; the text says what to do."""


def now(session: Session) -> datetime:
    """The database's clock: leases of several machines must agree on it."""
    if session.get_bind().dialect.name == "postgresql":
        stamp = session.scalar(text("select clock_timestamp()"))
        assert isinstance(stamp, datetime)  # noqa: S101
        return stamp.astimezone(UTC)
    return datetime.now(UTC)


class Database:
    """An open database. `threads` bounds the simultaneous transactions on PostgreSQL."""

    def __init__(self, url: str, threads: int = 12) -> None:
        self.url = make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            if self.url.database:
                Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
            self._writer = _sqlite_engine(url, writer=True)
            self._reader = _sqlite_engine(url, writer=False)
            self._write_pool: Executor = _SingleWriter()
            self._read_pool: Executor = ThreadPoolExecutor(4, "db-read")
        else:
            engine = create_engine(
                url, poolclass=QueuePool, pool_size=threads, max_overflow=4, pool_pre_ping=True
            )
            self._writer = self._reader = engine
            self._write_pool = self._read_pool = ThreadPoolExecutor(threads, "db")
        self._listeners: set[Callable[[str], None]] = set()
        self._stopping = threading.Event()
        self._listen_thread: threading.Thread | None = None

    # -- transactions -------------------------------------------------------------------------

    async def write(
        self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `work(session, ...)` in one transaction and commit it.

        Deadlocks and serialisation failures are tried again, so `work` must have no other effect.
        """
        call = functools.partial(self.write_now, work, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._write_pool, call)

    async def write_first(
        self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """`write`, ahead of what else waits for SQLite's one writer: a vendor is waiting for us to
        say that its message is kept."""
        call = functools.partial(self.write_now, work, *args, **kwargs)
        pool = self._write_pool
        if isinstance(pool, _SingleWriter):
            return await asyncio.wrap_future(pool.submit_first(call))
        return await asyncio.get_running_loop().run_in_executor(pool, call)

    async def read(
        self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `work(session, ...)`, which only reads."""

        def call() -> T:
            with Session(self._reader) as session:
                return work(session, *args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._read_pool, call)

    def write_now(
        self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """`write` for a caller that is already in a thread (start-up, command line)."""
        for attempt in range(6):
            try:
                with Session(self._writer, expire_on_commit=False) as session:
                    result = work(session, *args, **kwargs)
                    topics = session.info.pop("notify", set())
                    if topics and not self.is_sqlite:
                        for topic in topics:
                            session.execute(
                                text("select pg_notify(:c, :t)"), {"c": NOTIFY_CHANNEL, "t": topic}
                            )
                    session.commit()
            except DBAPIError as error:
                if attempt == 5 or not _worth_retrying(error):
                    raise
                time.sleep(random.uniform(0.005, 0.02) * 2**attempt)  # noqa: S311
                continue
            if self.is_sqlite:
                for topic in topics:
                    self._tell(topic)
            return result
        raise AssertionError("unreachable")

    def migrate(self) -> None:
        """Bring the tables to the newest revision.

        Raises:
            DatabaseUnavailableError: the database cannot be opened.
        """
        try:
            if self.is_sqlite:
                command.upgrade(self.alembic(), "head")
                return
            with self._writer.connect() as connection:  # several processes may start at once
                connection.execute(text("select pg_advisory_lock(72)"))
                try:
                    command.upgrade(self.alembic(), "head")
                finally:
                    connection.execute(text("select pg_advisory_unlock(72)"))
        except OperationalError as error:
            place = self.url.render_as_string(hide_password=True)
            raise DatabaseUnavailableError(
                f"The database {place} cannot be opened: {str(error.orig).strip()}. "
                "Check BOT_DATABASE_URL, that the server runs, and the free space of the disk."
            ) from None

    def alembic(self) -> Config:
        """Alembic's configuration for this database."""
        config = Config()
        config.set_main_option("script_location", str(ROOT / "config" / "migrations"))
        config.attributes["engine"] = self._writer
        config.attributes["metadata"] = Base.metadata
        return config

    # -- wake-ups -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def listening(self, heard: Callable[[str], None]) -> Iterator[None]:
        """Call `heard(topic)` in this event loop after each commit that announced a topic.

        On PostgreSQL the word comes from any process (LISTEN/NOTIFY). A wake-up is a hint only:
        whoever waits for one also looks from time to time.
        """
        loop = asyncio.get_running_loop()

        def in_loop(topic: str) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(heard, topic)

        self._listeners.add(in_loop)
        if not self.is_sqlite and self._listen_thread is None:
            self._listen_thread = threading.Thread(target=self._listen, daemon=True)
            self._listen_thread.start()
        try:
            yield
        finally:
            self._listeners.discard(in_loop)

    def _tell(self, topic: str) -> None:
        for listener in list(self._listeners):
            listener(topic)

    def _listen(self) -> None:
        dsn = self.url.set(drivername="postgresql").render_as_string(hide_password=False)
        while not self._stopping.is_set():
            try:
                with psycopg.connect(dsn, autocommit=True) as connection:
                    connection.execute(f"listen {NOTIFY_CHANNEL}")
                    self._tell("")  # whatever was missed while away
                    while not self._stopping.is_set():
                        for notification in connection.notifies(timeout=1):
                            self._tell(notification.payload)
            except psycopg.Error as error:
                log.warning("database_listener_lost", error=type(error).__name__)
                self._stopping.wait(1)

    def close(self) -> None:
        """Finish running transactions and close all connections."""
        self._stopping.set()
        self._write_pool.shutdown(wait=True)
        self._read_pool.shutdown(wait=True)
        if self._listen_thread is not None:
            self._listen_thread.join(timeout=3)
        self._writer.dispose()
        self._reader.dispose()


class _SingleWriter(Executor):
    """One thread that takes urgent work before other work, each in the order in which it came.

    After `MOST_AHEAD` urgent jobs in a row other work has its turn: a flood of messages must not
    stop the answers.
    """

    MOST_AHEAD = 4

    def __init__(self) -> None:
        self._urgent: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._other: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._ahead = 0
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="db-write", daemon=True)
        self._thread.start()

    def submit(  # type: ignore[override]  # run_in_executor gives a function without arguments
        self, work: Callable[[], T], /
    ) -> Future[T]:
        return self._put(self._other, work)

    def submit_first(self, work: Callable[[], T]) -> Future[T]:
        return self._put(self._urgent, work)

    def _put(
        self, jobs: deque[tuple[Callable[[], Any], Future[Any]]], work: Callable[[], T]
    ) -> Future[T]:
        future: Future[T] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("the database is closed")
            jobs.append((work, future))
            self._changed.notify()
        return future

    def _next(self) -> tuple[Callable[[], Any], Future[Any]] | None:
        with self._changed:
            while not (self._urgent or self._other or self._closed):
                self._changed.wait()
            if self._urgent and not (self._other and self._ahead >= self.MOST_AHEAD):
                self._ahead += 1
                return self._urgent.popleft()
            self._ahead = 0
            return self._other.popleft() if self._other else None

    def _run(self) -> None:
        while (job := self._next()) is not None:
            work, future = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

    def shutdown(self, wait: bool = True, **_: Any) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        if wait:
            self._thread.join()


def announce(session: Session, topic: str) -> None:
    """Wake whoever listens to `topic` once this transaction is committed."""
    session.info.setdefault("notify", set()).add(topic)


def _sqlite_engine(url: str, *, writer: bool) -> Engine:
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=1 if writer else 4,
        max_overflow=0,
        # No transaction control of the driver's own: `begin` below says what begins.
        connect_args={"timeout": 15, "check_same_thread": False, "isolation_level": None},
    )

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        # FULL: what was acknowledged survives a power cut, not only a crash.
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "cache_size=-32000",
            "secure_delete=ON",  # erased words do not linger in free pages
            f"query_only={'OFF' if writer else 'ON'}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writer else "BEGIN")

    return engine


def _worth_retrying(error: DBAPIError) -> bool:
    """Deadlock or serialisation failure on PostgreSQL, a busy file on SQLite."""
    if isinstance(error.orig, psycopg.Error):
        return error.orig.sqlstate in {"40001", "40P01", "55P03"}
    return isinstance(error.orig, sqlite3.OperationalError) and "locked" in str(error.orig)
