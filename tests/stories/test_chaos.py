"""The vendor has a bad day, channel by channel: nothing is lost, and what is doubled is counted.

The real channel with its official SDK against the vendor's peer, a real database, real turns.
Workers write while the vendor is down for ten minutes, answers 500 or 429, or takes a message and
cuts the connection before it has said so. Pauses between attempts are not waited for: the story
moves their time forward and adds it up.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session
from starlette.applications import Starlette

from bot.app import Inbox
from bot.turn import Worker
from channels.log import Conversation, Message, publish, write
from channels.media import MediaStore
from channels.message import Channel
from config.database import Database, now
from handoff.desk import Desk
from nlu.understand import Understander
from tests.bot.working import HOURS, LOADED, WAGE, quiet, resting
from tests.channels.test_channels import TABLES
from tests.channels.vendors import Cut, Slow, Status, Vendor
from tests.channels.world import PUBLIC_URL, World, context

WORKERS = ("mai", "thuy", "maria")
ROUNDS = 4
MAY_REPEAT = {"telegram", "email"}
"""Where there is neither an idempotency key nor a way to ask what was taken: what was taken before
a cut leaves again, at most once a cut; a mail with the same Message-ID, which many receivers drop.
LINE refuses a repeated retry key, and the desk asks Twilio before it sends again."""


@dataclass
class Figures:
    """What was counted."""

    heard: int = 0
    replies: int = 0
    arrived: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    out_of_order: int = 0
    paused: float = 0


@dataclass
class Day:
    """A desk with one channel, and its vendor."""

    world: World
    vendor: Vendor
    channel: Channel
    database: Database
    worker: Worker
    paused: float = 0

    async def hear(self, who: str, text: str, key: str) -> None:
        """A worker writes; the vendor delivers it twice, as vendors do on a bad day."""
        request = self.world.hears(who, text, key)
        deliver = getattr(self.world, "deliver", None)
        for _ in range(2):
            if deliver is not None:
                assert (await deliver(self, request)).status_code < 300
                continue
            transport = httpx.ASGITransport(Starlette(routes=list(self.channel.routes())))
            async with httpx.AsyncClient(transport=transport, base_url=PUBLIC_URL) as http:
                answer = await http.request(
                    request.method, request.path, content=request.body, headers=request.headers
                )
                assert answer.status_code < 300

    async def reply(self, text: str) -> None:
        """A counsellor writes in every conversation."""

        def work(session: Session) -> None:
            heard = select(Conversation).where(Conversation.heard_at.is_not(None))
            for row in session.scalars(heard):
                write(session, row, f"{text} to number {row.id}", 7, f"{text} {row.id}")

        await self.database.write(work)

    async def pause(self) -> float:
        """Let the pause before the next attempts pass; returns the longest of them, in seconds."""

        def work(session: Session) -> float:
            stamp = now(session)
            rows = session.scalars(select(Message).where(Message.attempt_at > stamp)).all()
            longest = max(((r.attempt_at or stamp) - stamp for r in rows), default=timedelta())
            session.execute(
                update(Message).where(Message.state == "queued").values(attempt_at=None)
            )
            session.execute(
                update(Conversation).where(Conversation.due_at > stamp).values(due_at=stamp)
            )
            return longest.total_seconds()

        await self.until_waiting()
        seconds = await self.database.write(work)
        self.paused += seconds
        self.worker.wake()
        return seconds

    async def until_waiting(self) -> None:
        """Wait until each conversation has nothing to do or waits for its next attempt."""
        await resting(self.database, self.worker)


@contextlib.asynccontextmanager
async def day(name: str, folder: Path) -> AsyncIterator[Day]:
    world: World = TABLES[name].WORLD
    database = Database(f"sqlite:///{folder / 'desk.sqlite3'}")
    database.migrate()
    published = database.write_now(publish, LOADED.content.all_texts.values())
    desk = Desk(LOADED.content.texts, published, HOURS)
    store = MediaStore(folder / "media", 1_000_000, PUBLIC_URL)
    inbox = Inbox(database, store, desk.undelivered)
    with world.vendor() as vendor:
        channel = world.open(context(folder, inbox, database), vendor)
        understander = Understander(LOADED.lexicon, LOADED.lexical, lambda: None)
        worker = Worker(database, {name: channel}, understander, desk, LOADED.content, 4)
        with database.listening(lambda _: worker.wake()):
            async with channel.lifespan():
                running = asyncio.create_task(worker.run())
                try:
                    yield Day(world, vendor, channel, database, worker)
                finally:
                    running.cancel()
                    await asyncio.gather(running, return_exceptions=True)
    database.close()


def count(day: Day) -> Figures:
    """Compare what the desk says it sent with what the vendor shows to workers."""
    rows = day.database.write_now(lambda s: list(s.scalars(select(Message).order_by(Message.id))))
    said = day.world.said(day.vendor)
    shown = Counter(text for _, text in said)
    own = [row for row in rows if row.author == "counsellor"]
    arrived = [text for _, text in said if text.startswith("round ")]
    by_worker: dict[str, list[str]] = {}
    for who, text in said:
        if text.startswith("round "):
            by_worker.setdefault(who, []).append(text)
    orders = [list(dict.fromkeys(texts)) for texts in by_worker.values()]
    return Figures(
        heard=sum(row.author == "worker" for row in rows),
        replies=len(own),
        arrived=len(arrived),
        lost=[row.body for row in own if not any(row.body in text for text in shown)],
        doubled=[text for text, number in shown.items() if number > 1 and "round " in text],
        out_of_order=sum(order != sorted(order) for order in orders),
        paused=day.paused,
    )


async def _down(day: Day) -> None:
    day.vendor.stop()
    while day.paused < 600:
        assert await day.pause() > 0, "it is tried again, later"
    day.vendor.start()


def _answers(status: Status) -> Callable[[Day], object]:
    async def fault(day: Day) -> None:
        day.vendor.always = status
        for _ in range(5):
            assert await day.pause() > 0
        day.vendor.always = None

    return fault


async def _slow(day: Day) -> None:
    day.vendor.always = Slow(0.3)
    await day.until_waiting()
    day.vendor.always = None


async def _cut(day: Day) -> None:
    day.vendor.fail(*[Cut()] * len(WORKERS))
    await day.pause()


BAD_DAYS = {
    "down for ten minutes": _down,
    "answers 500": _answers(Status(500)),
    "answers 503": _answers(Status(503)),
    "too fast": _answers(Status(429, {"retry-after": "30"})),
    "slow": _slow,
    "takes it and cuts": _cut,
}
CHANNELS = [name for name, table in TABLES.items() if table.OUTGOING and name != "voice"]


@pytest.mark.parametrize("bad", BAD_DAYS)
@pytest.mark.parametrize("name", CHANNELS)
async def test_a_bad_day(name: str, bad: str, tmp_path: Path) -> None:
    async with day(name, tmp_path) as today:
        for who in WORKERS:
            await today.hear(who, WAGE, f"{who} first")
        await today.until_waiting()
        for number in range(ROUNDS):
            trouble = asyncio.create_task(_trouble(today, bad, number))
            await trouble
        for _ in range(40):
            if not await _unsent(today.database):
                break
            await today.pause()
        await quiet(today.database)
        figures = count(today)
    print(name, bad, figures)
    assert figures.heard == len(WORKERS) * (ROUNDS + 1), "each delivery came twice, and is one"
    assert figures.replies == len(WORKERS) * ROUNDS
    assert figures.lost == []
    assert figures.out_of_order == 0
    cuts = len(WORKERS) * ROUNDS if name in MAY_REPEAT and bad == "takes it and cuts" else 0
    assert len(figures.doubled) <= cuts, figures.doubled


async def _trouble(today: Day, bad: str, number: int) -> None:
    """Workers and counsellors write while the vendor has its bad hour."""
    today.paused = 0
    if bad in {"takes it and cuts", "slow"}:
        await today.until_waiting()
    for who in WORKERS:
        await today.hear(who, f"one more question {number}", f"{who} {number}")
    await today.reply(f"round {number}")
    await BAD_DAYS[bad](today)  # type: ignore[misc]
    await today.until_waiting()


async def _unsent(database: Database) -> bool:
    found = select(Message.id).where(Message.state.in_(("queued", "received"))).limit(1)
    return await database.read(lambda s: s.scalar(found)) is not None
