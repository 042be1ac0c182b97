"""A worker of the desk at work in tests, without Rasa, on a channel that records."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from bot.content import load_content
from bot.turn import Worker
from channels.log import (
    Contact,
    Conversation,
    Message,
    PublishedText,
    accept,
    publish,
)
from channels.message import InboundMessage
from config.database import Database, now
from config.settings import ROOT
from config.texts import render
from handoff.case import Case
from handoff.desk import Desk
from handoff.hours import load_hours
from nlu.understand import Understander
from tests.stories.peer import Peer

LOADED = load_content(ROOT / "faq_data")
HOURS = load_hours()
PATIENCE = 60
"""Seconds after which a story that does not end is a failure; never a measure of speed."""

WAGE = "boss not pay my salary 2 months"
VISA = "when can i renew my visa"
SUICIDE = "I want to kill myself"


def worker(database: Database, peer: Peer, rasa: Callable[[], Any], parallel: int = 4) -> Worker:
    published = database.write_now(publish, LOADED.content.all_texts.values())
    return Worker(
        database,
        {peer.name: peer},
        Understander(LOADED.lexicon, LOADED.lexical, rasa),
        Desk(LOADED.content.texts, published, HOURS),
        LOADED.content,
        parallel,
    )


@contextlib.asynccontextmanager
async def at_work(
    *databases: Database, peer: Peer, rasa: Callable[[], Any] = lambda: None
) -> AsyncIterator[list[Worker]]:
    """One worker per database, until the context ends."""
    workers = [worker(database, peer, rasa) for database in databases]
    with contextlib.ExitStack() as stack:
        for one in workers:
            stack.enter_context(one.database.listening(lambda _, woken=one: woken.wake()))
        tasks = [asyncio.create_task(one.run()) for one in workers]
        try:
            yield workers
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def hear(database: Database, text: str, who: str = "mai", key: str = "") -> int:
    key = key or f"{who} {text}"
    accepted = await database.write(accept, InboundMessage("peer", key, who, text))
    return accepted.message_id


async def until(reached: Callable[[], Awaitable[bool]]) -> None:
    """Look again and again; what is awaited may happen in another thread or process."""
    async with asyncio.timeout(PATIENCE):
        while not await reached():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def quiet(database: Database) -> None:
    """Wait until nothing is left to do."""
    busy = select(func.count()).where(Conversation.due_at.is_not(None))
    unfinished = select(func.count()).where(Message.state.in_(("received", "queued")))

    async def nothing_left() -> bool:
        return not await database.read(
            lambda s: [n for q in (busy, unfinished) if (n := s.scalar(q))]
        )

    await until(nothing_left)


async def resting(database: Database, *workers: Worker) -> None:
    """Wait until nothing is due now: all that may happen at this moment has happened."""

    async def at_rest() -> bool:
        if any(one._leases for one in workers):
            return False
        due = select(func.count()).where(Conversation.due_at <= await database.read(now))
        return not await database.read(lambda s: s.scalar(due))

    for one in workers:
        one.wake()
    await until(at_rest)


def messages(database: Database) -> list[Message]:
    return database.write_now(lambda s: list(s.scalars(select(Message).order_by(Message.id))))


def cases(database: Database) -> list[Case]:
    return database.write_now(lambda s: list(s.scalars(select(Case).order_by(Case.id))))


def answers(database: Database, message_id: int) -> list[str]:
    """Ids of the texts that were said in answer to a message."""
    wanted = (
        select(PublishedText.text_id)
        .join(Message, Message.published_id == PublishedText.id)
        .where(Message.answers_id == message_id, Message.author == "bot")
        .order_by(Message.id)
    )
    return database.write_now(lambda s: list(s.scalars(wanted)))


def actions(database: Database) -> list[str]:
    """What was decided on each of the worker's messages."""
    return [
        (row.understanding or {}).get("action", "failed")
        for row in messages(database)
        if row.author == "worker"
    ]


def broken_law(database: Database, peer: Peer) -> list[str]:
    """What the bot said that is not published, word for word."""

    def scan(session: Session) -> list[str]:
        labels = {text.id: text.body for text in session.scalars(select(PublishedText))}
        erased = session.scalar(select(func.count()).where(Contact.erased_at.is_not(None)))
        rows = session.execute(
            select(Message, PublishedText)
            .outerjoin(PublishedText, PublishedText.id == Message.published_id)
            .where(Message.author == "bot")
        ).all()
        broken, proven = [], set()
        for row, published in rows:
            if erased and not row.body:
                continue
            words = published and render(published.body, row.params or {})
            buttons = row.buttons or []
            if row.body != words or any(labels.get(b["published"]) != b["label"] for b in buttons):
                broken.append(row.body)
            proven |= {row.body, *(b["label"] for b in buttons)}
        counsellors = session.scalars(select(Message.body).where(Message.author == "counsellor"))
        known = {*labels.values(), *proven, *counsellors}
        if not erased:
            said = [m.text for m in peer.sent] + [b.label for m in peer.sent for b in m.buttons]
            broken += [text for text in said if text not in known]
        return broken

    return database.write_now(scan)
