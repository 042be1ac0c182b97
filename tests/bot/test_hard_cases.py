"""Hard cases: safe hours to the end, parts and receipts, erasure, floods, a wrong database."""

import asyncio
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import select, update
from sqlalchemy.orm import Session
from starlette.applications import Starlette

from channels.log import (
    Conversation,
    Message,
    accept,
    erase,
    find_conversation,
    note,
    to_erase,
)
from channels.media import Media, MediaFetcher, MediaStore
from channels.message import (
    InboundMessage,
    Presence,
    Receipt,
    TemporarySendError,
)
from config.database import Database, now
from config.texts import JAPAN
from handoff.staff import Person
from tests.bot.test_joining import code_of, sato, say
from tests.bot.working import (
    SUICIDE,
    WAGE,
    answers,
    at_work,
    cases,
    hear,
    messages,
    quiet,
    resting,
    until,
)
from tests.stories.peer import Peer


async def held_case(database: Database, peer: Peer) -> tuple[Any, int, Person]:
    """A claimed case of Mai's, to whom it is not safe to write for the next two hours."""
    person = sato(database)
    async with at_work(database, peer=peer) as [one]:
        await say(database, "human", "mai")
        [case] = cases(database)
        database.write_now(one.desk.claim, case.id, person)
        await quiet(database)
    away = update(Conversation).values(heard_at=database.write_now(now) - timedelta(hours=1))
    database.write_now(lambda s: s.execute(away))
    local = database.write_now(now).astimezone(JAPAN)
    safe = tuple(f"{(local + timedelta(hours=h)):%H:%M}" for h in (2, 3))
    database.write_now(one.desk.ways_to_write, case.id, person, 0, safe)
    return one.desk, case.id, person


async def test_an_emergency_text_never_waits_behind_a_held_reply(database: Database) -> None:
    """The counsellor's reply is queued after her message came in and before its turn is over."""
    peer = Peer()
    desk, case, person = await held_case(database, peer)
    number = await hear(database, SUICIDE, "mai", "danger")
    database.write_now(desk.reply, case, person, "see you tomorrow", "key 12345")
    async with at_work(database, peer=peer) as [one]:
        await resting(database, one)
    texts = answers(database, number)
    assert texts
    stuck = [m.state for m in messages(database) if m.answers_id == number]
    assert stuck == ["sent"] * len(stuck), f"{texts} {stuck}: until the safe hours"


async def test_a_held_reply_does_not_leave_with_one_that_is_due(database: Database) -> None:
    peer = Peer()
    desk, case, person = await held_case(database, peer)
    database.write_now(desk.reply, case, person, "now", "key 12345", at_once=True)
    database.write_now(desk.reply, case, person, "only when it is safe", "key 12346")
    async with at_work(database, peer=peer) as [one]:
        await resting(database, one)
    assert "now" in peer.said
    assert "only when it is safe" not in peer.said


async def test_what_comes_too_late_for_her_safe_hours_waits_for_the_next(
    database: Database,
) -> None:
    """Its time was this morning, but the vendor or the desk was away until the hours ended."""
    peer = Peer()
    desk, case, person = await held_case(database, peer)
    database.write_now(desk.reply, case, person, "only when it is safe", "key 12345")

    def later(s: Session) -> None:
        stamp = now(s)
        s.execute(update(Message).where(Message.held).values(attempt_at=stamp - timedelta(hours=9)))
        s.execute(update(Conversation).values(due_at=stamp))

    database.write_now(later)
    async with at_work(database, peer=peer) as [one]:
        await resting(database, one)
    assert "only when it is safe" not in peer.said


async def test_sending_again_minds_safe_hours(database: Database) -> None:
    peer = Peer()
    desk, case, person = await held_case(database, peer)
    database.write_now(desk.reply, case, person, "only when it is safe", "key 12345")
    failed = update(Message).where(Message.held).values(state="failed", held=False)
    database.write_now(lambda s: s.execute(failed))
    number = messages(database)[-1].id
    database.write_now(desk.resend, case, person, number)
    async with at_work(database, peer=peer) as [one]:
        await resting(database, one)
    assert "only when it is safe" not in peer.said


LONG = "One sentence that is long enough. " * 8


async def test_a_receipt_for_one_part_does_not_lose_the_other(database: Database) -> None:
    """The first SMS of two is delivered, the second has to be tried again."""
    peer = Peer(chars=150, group=1)
    person = sato(database)
    async with at_work(database, peer=peer) as [one]:
        await say(database, "human", "mai")
        [case] = cases(database)
        database.write_now(one.desk.claim, case.id, person)
        await quiet(database)
        peer.failures = [None, TemporarySendError("slow")]
        before = len(peer.sent)
        database.write_now(one.desk.reply, case.id, person, LONG, "key 12345")

        async def tried() -> bool:
            return messages(database)[-1].attempts > 0

        await until(tried)
        row = messages(database)[-1]
        database.write_now(note, [Receipt("peer", "delivered", key=str(row.id))])
        await quiet(database)  # the second attempt is due after a second
    row, parts = messages(database)[-1], [m.key for m in peer.sent[before:]]
    assert {k.partition("/")[2] for k in parts} == {"1", "2"}, f"{row.state}: {parts} left"


async def test_no_part_is_sent_twice_because_a_later_one_waits(database: Database) -> None:
    """Telegram's `group` is 1 and it forgets each part as soon as it left (`_left.pop`)."""
    peer = Peer(chars=150, group=1)
    person = sato(database)
    async with at_work(database, peer=peer) as [one]:
        await say(database, "human", "mai")
        [case] = cases(database)
        database.write_now(one.desk.claim, case.id, person)
        await quiet(database)
        before = len(peer.sent)
        peer.failures = [None, TemporarySendError("slow"), None, TemporarySendError("slow")]
        database.write_now(one.desk.reply, case.id, person, LONG, "key 12345")
        await quiet(database)
    parts = [m.key.partition("/")[2] for m in peer.sent[before:]]
    assert parts == ["1", "2"], parts


async def test_a_link_to_an_erased_file_opens_nobody_elses(tmp_path: Path) -> None:
    """SQLite gives the id of the newest deleted row again; the link is good for a week."""
    database = Database(f"sqlite:///{tmp_path / 'desk.sqlite3'}")
    database.migrate()
    store = MediaStore(tmp_path / "media", 10_000, "https://desk.example.org")
    hers = await store.keep("hers.txt", b"for mai")
    database.write_now(accept, InboundMessage("peer", "m1", "mai", "x", attachments=(hers,)))
    [row] = database.write_now(lambda s: list(s.scalars(select(Media))))
    token = store.link(row.attachment()).rpartition("/")[2]
    database.write_now(lambda s: erase(s, 1))
    fetcher = asyncio.create_task(MediaFetcher(database, store, {}).run())

    async def gone() -> bool:
        return not database.write_now(lambda s: list(s.scalars(select(Media))))

    await until(gone)
    fetcher.cancel()
    other = await store.keep("residence card.txt", b"of somebody else")
    database.write_now(accept, InboundMessage("peer", "m2", "lan", "x", attachments=(other,)))
    transport = httpx.ASGITransport(Starlette(routes=list(store.routes(database))))
    async with httpx.AsyncClient(transport=transport, base_url="https://desk.test") as http:
        answer = await http.get(f"/files/{token}")
    database.close()
    assert answer.status_code == 404


async def test_who_left_before_her_turn_has_left(database: Database) -> None:
    """One LINE delivery: a message, then `unfollow`. LINE takes pushes to her and drops them."""
    peer = Peer()
    await hear(database, WAGE, "mai")
    database.write_now(note, [Presence("peer", "mai", here=False)])
    async with at_work(database, peer=peer) as [one]:
        await resting(database, one)
    [row] = database.write_now(lambda s: list(s.scalars(select(Conversation))))
    assert row.stopped


async def test_an_emergency_after_a_wish_to_be_erased_is_followed(database: Database) -> None:
    peer = Peer()
    async with at_work(database, peer=peer):
        await say(database, WAGE, "mai")
        await say(database, "delete", "mai")
        assert await say(database, "yes", "mai") == ["delete.done"]
        later = database.write_now(now) + timedelta(hours=1)
        await say(database, SUICIDE, "mai")  # half a minute later; help is promised
        database.write_now(
            lambda s: s.execute(
                update(Conversation).where(Conversation.erase_at < later).values(erase_at=now(s))
            )
        )
        assert database.write_now(to_erase) == [], "the wish waits until she says it again"
    [case] = cases(database)
    assert case.status == "waiting", case.outcome


async def test_nothing_of_a_code_or_answer_is_left_after_erasure(database: Database) -> None:
    peer = Peer()
    async with at_work(database, peer=peer):
        await say(database, WAGE, "mai")
        code = await code_of(database, peer, "mai")
    database.write_now(lambda s: erase(s, 1))
    left = [m.params for m in messages(database) if m.params]
    assert not any(code in str(p) for p in left), left


async def test_an_intruder_cannot_erase_her(database: Database) -> None:
    peer = Peer()
    async with at_work(database, peer=peer) as [one]:
        await say(database, SUICIDE, "victim")
        code = await code_of(database, peer, "victim")
        assert await say(database, code, "intruder") == ["link.done"]
        await say(database, "delete", "intruder")
        await say(database, "yes", "intruder")
        number = database.write_now(find_conversation, "peer", "intruder")
        database.write_now(one.desk.forget, number)  # the sweep, after a minute
    bodies = [m.body for m in messages(database)]
    assert SUICIDE in bodies, "her case is closed, her address and words are gone for good"


async def test_a_flood_of_messages_does_not_stop_the_turns(tmp_path: Path) -> None:
    """Anybody can write to the web chat; what is taken there goes before all turns."""
    database = Database(f"sqlite:///{tmp_path / 'desk.sqlite3'}")
    database.migrate()
    stop = asyncio.Event()

    async def flood(who: int) -> None:
        count = 0
        while not stop.is_set():
            count += 1
            message = InboundMessage("webchat", f"{who}:{count}", f"{who}", "x")
            await database.write_first(accept, message)

    floods = [asyncio.create_task(flood(n)) for n in range(20)]
    await asyncio.sleep(0.3)
    turn = asyncio.create_task(database.write(lambda s: s.scalar(select(Message.id).limit(1))))
    done, _ = await asyncio.wait([turn], timeout=5)
    stop.set()
    await asyncio.gather(*floods, turn)
    database.close()
    assert done, "a turn waited for more than 5 seconds, for as long as the flood lasted"


async def test_another_database_does_not_cost_all_files(tmp_path: Path) -> None:
    """An operator starts with the wrong BOT_DATABASE_URL, or an older backup, and this folder."""
    database = Database(f"sqlite:///{tmp_path / 'wrong.sqlite3'}")
    database.migrate()
    store = MediaStore(tmp_path / "media", 10_000, "https://desk.example.org")
    kept = await store.keep("evidence.txt", b"evidence")
    os.utime(store._path(kept.file), (1, 1))
    await MediaFetcher(database, store, {}).tidy()
    database.close()
    assert await store.read(kept.file) == b"evidence"
