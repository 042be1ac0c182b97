"""Joining and parting channels when it matters: emergencies, intruders, two programs at once."""

import threading
import time
from datetime import datetime

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from channels.log import (
    Contact,
    Conversation,
    Message,
    accept,
    continue_conversation,
    find_conversation,
    safe_time,
)
from channels.message import InboundMessage
from config.database import Database, now
from config.texts import JAPAN
from handoff.case import Case, Handoff, hand_over
from handoff.contacts import link, offer_code, unlink
from handoff.desk import DeskError
from tests.bot.test_joining import code_of, contacts, holders, sato, say
from tests.bot.working import HOURS, SUICIDE, at_work, cases, messages, quiet, worker
from tests.stories.peer import Peer


@pytest.fixture
def peer() -> Peer:
    return Peer()


def begin(database: Database, who: str) -> int:
    database.write_now(accept, InboundMessage("peer", f"first {who}", who, "hello"))
    found = database.write_now(find_conversation, "peer", who)
    assert found
    return found


def code_in(database: Database, number: int) -> str:
    return database.write_now(lambda s: offer_code(s, s.get_one(Conversation, number)))


def join(database: Database, number: int, code: str) -> None:
    def work(s: Session) -> None:
        row = s.scalars(
            select(Conversation).where(Conversation.id == number).with_for_update()
        ).one()
        assert link(s, row, code)

    database.write_now(work)


async def test_an_emergency_is_not_lost_in_a_released_case(database: Database, peer: Peer) -> None:
    """Her LINE case was released to the bot. She writes an emergency by SMS, then joins by code."""
    person = sato(database)
    async with at_work(database, peer=peer) as [one]:
        await say(database, "human", "line mai")
        [case] = cases(database)
        database.write_now(one.desk.claim, case.id, person)
        database.write_now(one.desk.release, case.id, person)
        code = await code_of(database, peer, "line mai")
        await say(database, SUICIDE, "phone mai")
        assert [c.status for c in cases(database)] == ["released", "waiting"]
        await say(database, code, "phone mai")
        waiting = [c for c in cases(database) if c.status in ("waiting", "claimed")]
        assert waiting, (
            f"nobody follows: {[(c.status, c.level, c.outcome) for c in cases(database)]}"
        )


def test_safe_hours_survive_joining(database: Database) -> None:
    a, b = begin(database, "line mai"), begin(database, "web mai")
    night = datetime(2026, 11, 2, 23, 0, tzinfo=JAPAN)

    def note(s: Session) -> None:
        contact = s.get_one(Contact, s.get_one(Conversation, a).contact_id)
        contact.safe_from, contact.safe_until = "10:00", "16:00"
        contact.preferred_id = a

    database.write_now(note)
    join(database, a, code_in(database, b))
    contact = database.write_now(
        lambda s: s.get_one(Contact, s.get_one(Conversation, a).contact_id)
    )
    assert safe_time(contact, night) is not None, "written to at 23:00"


def test_undo_is_possible_after_a_new_case(database: Database) -> None:
    a, b = begin(database, "phone"), begin(database, "line")

    def over(s: Session, number: int) -> int:
        return hand_over(s, s.get_one(Conversation, number), Handoff("asked"), HOURS)[0].id

    database.write_now(over, a)
    hers = database.write_now(over, b)
    join(database, a, code_in(database, b))
    close = update(Case).where(Case.id == hers)
    database.write_now(lambda s: s.execute(close.values(status="closed", outcome="resolved")))
    database.write_now(over, a)  # she asks again, on the telephone
    assert database.write_now(lambda s: unlink(s, s.get_one(Conversation, b)))


def test_undo_takes_the_continued_web_chat_along(database: Database) -> None:
    """After the joining she (the other person!) opened the web chat from a notice."""
    stranger, victim = begin(database, "stranger sms"), begin(database, "victim line")
    join(database, stranger, code_in(database, victim))
    database.write_now(continue_conversation, stranger, "webchat", "stranger web token")
    assert database.write_now(lambda s: unlink(s, s.get_one(Conversation, victim)))
    owner = contacts(database)
    assert owner["stranger web token"] == owner["stranger sms"] != owner["victim line"]


async def test_her_undo_removes_the_intruder(database: Database, peer: Peer) -> None:
    """An intruder joins with a stolen code, then joins a second chat of his. She undoes."""
    async with at_work(database, peer=peer):
        code = await code_of(database, peer, "victim")
        assert await say(database, code, "intruder 1") == ["link.done"]
        before = len([m for m in peer.sent if m.address == "victim"])
        second = await code_of(database, peer, "intruder 1")
        assert await say(database, second, "intruder 2") == ["link.done"]
        heard = len([m for m in peer.sent if m.address == "victim"]) - before
        assert await say(database, "1", "victim") == ["link.undone"]
        owner = contacts(database)
        assert owner["victim"] not in (owner["intruder 1"], owner["intruder 2"]), (
            f"she was told of {heard} of his second joining, pressed undo, and he is still there"
        )


async def test_a_reply_for_a_parted_channel_goes_nowhere_else(
    database: Database, peer: Peer
) -> None:
    person = sato(database)
    async with at_work(database, peer=peer) as [one]:
        await say(database, "human", "victim")
        await say(database, await code_of(database, peer, "victim"), "stranger")
        [case] = cases(database)
        database.write_now(one.desk.claim, case.id, person)
        view = database.write_now(one.desk.view, case.id, person)
        way = {w.address: w.id for w in view.ways}["stranger"]
        await say(database, "1", "victim")
        words = "for the stranger only"
        with pytest.raises(
            DeskError
        ):  # she had chosen "Goes to: stranger" while it still was there
            database.write_now(
                one.desk.reply, case.id, person, words, "key 12345", conversation_id=way
            )
        await quiet(database)
        assert [m.address for m in peer.sent if m.text == words] == []


def test_joining_while_the_case_is_closed_leaves_nobody_silent(fresh_postgres: str) -> None:
    """Two processes: a worker's turn joins while a counsellor closes the other one's case."""
    database, other = Database(fresh_postgres), Database(fresh_postgres)
    database.migrate()
    person = sato(database)
    desk = worker(database, Peer(), lambda: None).desk
    c, d = begin(database, "phone"), begin(database, "line")
    case = database.write_now(
        lambda s: hand_over(s, s.get_one(Conversation, d), Handoff("asked"), HOURS)[0].id
    )
    database.write_now(desk.claim, case, person)
    code = code_in(database, d)
    closing, joined = threading.Event(), threading.Event()

    def close(s: Session) -> None:
        desk.close(s, case, person, "resolved", {"resolved": {}})
        closing.set()  # all is decided; what remains is written at the commit
        joined.wait(3)

    thread = threading.Thread(target=lambda: other.write_now(close))
    thread.start()
    closing.wait(10)

    def work(s: Session) -> None:
        row = s.scalars(select(Conversation).where(Conversation.id == c).with_for_update()).one()
        assert link(s, row, code)

    database.write_now(work)
    joined.set()
    thread.join()
    held, opened = holders(database), [x for x in cases(database) if x.status != "closed"]
    database.close()
    other.close()
    assert opened or set(held.values()) == {"bot"}, f"held by the desk without a case: {held}"


def test_ids_follow_commits_when_a_reply_goes_to_another_channel(fresh_postgres: str) -> None:
    """The web chat reads `id > after`: an id that is committed later than a higher one is lost."""
    database, other = Database(fresh_postgres), Database(fresh_postgres)
    database.migrate()
    person = sato(database)
    desk = worker(database, Peer(), lambda: None).desk
    line, web = begin(database, "line"), begin(database, "web")
    join(database, web, code_in(database, line))
    case = database.write_now(
        lambda s: hand_over(s, s.get_one(Conversation, line), Handoff("asked"), HOURS)[0].id
    )
    database.write_now(desk.claim, case, person)
    held = threading.Event()
    seen: list[int] = []

    def turn(s: Session) -> int:  # a worker's turn in the web chat
        s.scalars(select(Conversation).where(Conversation.id == web).with_for_update()).one()
        held.set()
        time.sleep(1.0)
        row = Message(
            conversation_id=web, author="worker", state="done", body="x", created_at=now(s)
        )
        s.add(row)
        s.flush()
        return row.id

    thread = threading.Thread(target=lambda: seen.append(database.write_now(turn)))
    thread.start()
    held.wait(10)
    other.write_now(desk.reply, case, person, "an answer", "key 123456", (), web)
    thread.join()
    reply = next(m.id for m in messages(database) if m.author == "counsellor")
    database.close()
    other.close()
    assert reply > seen[0], f"reply {reply} was committed after {seen[0]}: the page never shows it"
