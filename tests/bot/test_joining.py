"""One person on several channels: joined by a code, one case, replies where she is, and undone."""

import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from channels.log import Contact, Conversation, Message, safe_time
from config.database import Database, now
from handoff.contacts import MOST_TRIES, ContactLink, LinkCode
from handoff.desk import CaseView, DeskError
from handoff.staff import Person, add_staff
from tests.bot.working import (
    SUICIDE,
    VISA,
    WAGE,
    answers,
    at_work,
    broken_law,
    cases,
    hear,
    messages,
    quiet,
)
from tests.stories.peer import Peer


@pytest.fixture
def peer(database: Database) -> Iterator[Peer]:
    recorded = Peer()
    yield recorded
    assert broken_law(database, recorded) == []


async def say(database: Database, text: str, who: str) -> list[str]:
    """Write, wait, and give the ids of what was answered."""
    count = len(messages(database))
    number = await hear(database, text, who, f"{who} {text} {count}")
    await quiet(database)
    return answers(database, number)


async def code_of(database: Database, peer: Peer, who: str) -> str:
    assert (await say(database, "link", who))[-1] == "link.code"
    found = re.search(r"\b(\d{4}) (\d{4})\b", peer.said[-1])
    assert found
    return found[1] + found[2]


def contacts(database: Database) -> dict[str, int]:
    """Whose each conversation is."""
    rows = database.write_now(lambda s: list(s.scalars(select(Conversation))))
    return {row.address or "": row.contact_id for row in rows}


def holders(database: Database) -> dict[str, str]:
    rows = database.write_now(lambda s: list(s.scalars(select(Conversation))))
    return {row.address or "": row.holder for row in rows}


def away(database: Database) -> None:
    """She wrote an hour ago, and is not there any more."""
    earlier = database.write_now(now) - timedelta(hours=1)
    database.write_now(lambda s: s.execute(update(Conversation).values(heard_at=earlier)))


def sato(database: Database) -> Person:
    def add(session: Session) -> Person:
        number = add_staff(session, "sato", "Sato", "a long pass word", ["counsellor"])
        return Person(number, "sato", "Sato", ("counsellor",), (), True)

    return database.write_now(add)


@pytest.mark.parametrize("typed", ["{}", "{0[0]}{0[1]}{0[2]}{0[3]} {0[4]}{0[5]}{0[6]}{0[7]}"])
async def test_a_code_joins_two_channels(database: Database, peer: Peer, typed: str) -> None:
    async with at_work(database, peer=peer):
        await say(database, WAGE, "line mai")
        code = await code_of(database, peer, "line mai")
        await say(database, VISA, "phone mai")
        assert await say(database, typed.format(code), "phone mai") == ["link.done"]
        told = [m.text for m in peer.sent if m.address == "line mai"][-1]
        assert "joined" in told
        assert len(set(contacts(database).values())) == 1
        assert await say(database, code, "a stranger") != ["link.done"], "a code works once"


async def test_the_case_is_one_and_shows_all_channels(database: Database, peer: Peer) -> None:
    """Each of two channels has a case; joined, one stays, raised to the higher level."""
    person = sato(database)
    async with at_work(database, peer=peer) as [one]:
        await say(database, "human", "line mai")
        code = await code_of(database, peer, "line mai")
        await say(database, SUICIDE, "phone mai")
        await say(database, code, "phone mai")
        first, second = cases(database)
        assert (first.status, first.level) == ("waiting", "emergency")
        assert (second.status, second.outcome) == ("closed", "duplicate_merged")
        view: CaseView = database.write_now(one.desk.view, first.id, person)
        assert SUICIDE in [m.text for m in view.transcript]
        assert "human" in [m.text for m in view.transcript]
        assert {way.address for way in view.ways} == {"line mai", "phone mai"}
        assert await say(database, SUICIDE, "line mai") != []
        assert len([c for c in cases(database) if c.status != "closed"]) == 1


async def test_replies_go_to_the_channel_last_used_or_preferred(
    database: Database, peer: Peer
) -> None:
    person = sato(database)
    async with at_work(database, peer=peer) as [one]:
        desk = one.desk
        await say(database, "human", "line mai")
        await say(database, await code_of(database, peer, "line mai"), "phone mai")
        [case] = cases(database)
        database.write_now(desk.claim, case.id, person)

        async def reply(text: str, **more: Any) -> str:
            database.write_now(desk.reply, case.id, person, text, f"key {text}", **more)
            await quiet(database)
            [address] = [m.address for m in peer.sent if m.text == text]
            return address

        assert await reply("one") == "line mai", "a code alone does not mean that she is there"
        await say(database, "hello", "phone mai")
        assert await reply("one and a half") == "phone mai"
        await say(database, "ok", "line mai")
        assert await reply("two") == "line mai"
        ways = {way.address: way.id for way in database.write_now(desk.view, case.id, person).ways}
        database.write_now(desk.ways_to_write, case.id, person, ways["phone mai"], None)
        assert await reply("three") == "phone mai"
        assert await reply("four", conversation_id=ways["line mai"]) == "line mai"

        blocked = update(Conversation).where(Conversation.id == ways["phone mai"])
        database.write_now(lambda s: s.execute(blocked.values(stopped=True)))
        assert await reply("five") == "line mai", "she blocked the one that she preferred"

        with pytest.raises(DeskError):
            database.write_now(desk.ways_to_write, case.id, person, 999, None)
        with pytest.raises(DeskError):
            database.write_now(desk.ways_to_write, case.id, person, 0, ("9", "25:00"))


async def test_undone_everything_is_as_before(database: Database, peer: Peer) -> None:
    async with at_work(database, peer=peer):
        await say(database, WAGE, "line mai")
        await say(database, "human", "phone mai")
        before = contacts(database)
        code = await code_of(database, peer, "line mai")
        await say(database, code, "phone mai")
        assert holders(database) == {"line mai": "desk", "phone mai": "desk"}
        assert await say(database, "1", "line mai") == ["link.undone"], "by the button"
        assert contacts(database) == before
        assert holders(database) == {"line mai": "bot", "phone mai": "desk"}
        [case] = cases(database)
        assert (case.status, case.contact_id) == ("waiting", before["phone mai"])
        assert await say(database, "unlink", "line mai") == ["link.none"]


async def test_undone_both_cases_are_open_again(database: Database, peer: Peer) -> None:
    async with at_work(database, peer=peer):
        await say(database, "human", "line mai")
        await say(database, "human", "phone mai")
        before = contacts(database)
        await say(database, await code_of(database, peer, "line mai"), "phone mai")
        await say(database, "unlink", "phone mai")
    assert [(c.status, c.contact_id) for c in cases(database)] == [
        ("waiting", before["line mai"]),
        ("waiting", before["phone mai"]),
    ]


@pytest.mark.parametrize("who", ["one", "two", "three"])
async def test_three_channels_come_apart(database: Database, peer: Peer, who: str) -> None:
    """From the first, which the others were joined to, all; from another one, that one."""
    async with at_work(database, peer=peer):
        for name in ("one", "two", "three"):
            await say(database, WAGE, name)
        before = contacts(database)
        await say(database, await code_of(database, peer, "one"), "two")
        await say(database, await code_of(database, peer, "two"), "three")
        assert len(set(contacts(database).values())) == 1
        assert await say(database, "unlink", who) == ["link.undone"]
        parted = {"one": ("two", "three"), "two": ("two",), "three": ("three",)}[who]
        expected = {n: before[n] if n in parted else before["one"] for n in before}
        assert contacts(database) == expected


Spoil = Callable[[Session], Any]
REFUSED: list[tuple[str, str, Spoil]] = [
    ("a wrong code", "00000001", lambda _: None),
    ("too old", "", lambda s: s.execute(update(LinkCode).values(expires_at=now(s)))),
    ("its conversation was erased", "", lambda s: s.execute(
        update(Conversation).where(Conversation.id == 1).values(address_index=None))),
]  # fmt: skip


@pytest.mark.parametrize(("typed", "spoil"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
async def test_a_code_that_is_not_right(
    database: Database, peer: Peer, typed: str, spoil: Spoil
) -> None:
    async with at_work(database, peer=peer):
        code = await code_of(database, peer, "line mai")
        database.write_now(spoil)
        assert await say(database, typed or code, "phone mai") == ["link.unknown"]
    assert len(set(contacts(database).values())) == 2


async def test_nobody_guesses_codes(database: Database, peer: Peer) -> None:
    """After five wrong ones even the right one is refused in that conversation, for a while."""
    async with at_work(database, peer=peer):
        code = await code_of(database, peer, "line mai")
        for number in range(MOST_TRIES):
            wrong = f"{(int(code) + number + 1) % 10**8:08}"
            assert await say(database, wrong, "thief") == ["link.unknown"]
        assert await say(database, code, "thief") == ["link.unknown"]
        assert await say(database, code, "phone mai") == ["link.done"]


async def test_a_date_that_a_counsellor_asked_for_is_not_commented(
    database: Database, peer: Peer
) -> None:
    """While a person asks, eight digits may be a date; a right code still joins."""
    async with at_work(database, peer=peer):
        code = await code_of(database, peer, "line mai")
        await say(database, "human", "phone mai")
        assert await say(database, "20240115", "phone mai") == []
        assert await say(database, code, "phone mai") == ["link.done"]


async def test_guessing_from_many_conversations_is_braked(
    database: Database, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handoff.contacts.MOST_MISSES", 3)
    async with at_work(database, peer=peer):
        code = await code_of(database, peer, "line mai")
        for number in range(3):
            wrong = f"{(int(code) + number + 1) % 10**8:08}"
            assert await say(database, wrong, f"thief {number}") == ["link.unknown"]
        assert await say(database, code, "thief 4") == ["link.unknown"]


async def test_her_own_code_joins_nothing(database: Database, peer: Peer) -> None:
    async with at_work(database, peer=peer):
        code = await code_of(database, peer, "line mai")
        assert await say(database, code, "line mai") == ["link.unknown"]
    links = database.write_now(lambda s: s.scalar(select(func.count()).select_from(ContactLink)))
    assert links == 0


@pytest.mark.parametrize(
    ("days", "asks", "left"),
    [(0, 1, []), (8, 2, []), (0, 2, ["line mai"])],
    ids=["from the first", "from one joined long ago", "from one joined just now: only that"],
)
async def test_erasing_takes_all_her_channels(
    database: Database, peer: Peer, days: int, asks: int, left: list[str]
) -> None:
    """…but whoever came in with a stolen code cannot erase her."""
    async with at_work(database, peer=peer) as [one]:
        await say(database, WAGE, "line mai")
        code = await code_of(database, peer, "line mai")
        await say(database, code, "phone mai")
        before = database.write_now(now) - timedelta(days=days)
        database.write_now(lambda s: s.execute(update(ContactLink).values(at=before)))
        database.write_now(one.desk.forget, asks)
        everything = str([vars(row) for row in messages(database)])
    assert sorted(filter(None, contacts(database))) == left
    assert (WAGE in everything) is bool(left)
    assert "phone mai" not in everything
    if not left:
        assert code[:4] not in everything, "nor the code, which stood in a text's parameters"


# -- safe hours ------------------------------------------------------------------------------------


async def test_outside_safe_hours_a_reply_waits_until_she_writes(
    database: Database, peer: Peer
) -> None:
    person = sato(database)
    local = database.write_now(now).astimezone(ZoneInfo("Asia/Tokyo"))
    safe = tuple(f"{(local + timedelta(hours=h)):%H:%M}" for h in (2, 3))
    async with at_work(database, peer=peer) as [one]:
        await say(database, "human", "mai")
        [case] = cases(database)
        database.write_now(one.desk.claim, case.id, person)
        await quiet(database)
        database.write_now(one.desk.ways_to_write, case.id, person, 0, safe)
        assert database.write_now(one.desk.view, case.id, person).safe_at is None, "she is here"
        away(database)
        database.write_now(one.desk.reply, case.id, person, "Are you alone?", "k1")

        def reply() -> Message:
            return next(m for m in messages(database) if m.body == "Are you alone?")

        one.wake()
        held = reply()
        assert (held.state, held.held) == ("queued", True)
        assert held.attempt_at is not None
        assert held.attempt_at.astimezone(ZoneInfo("Asia/Tokyo")).strftime("%H:%M") == safe[0]
        view = database.write_now(one.desk.view, case.id, person)
        assert view.safe_at == held.attempt_at.replace(second=0, microsecond=0)
        assert "Are you alone?" not in peer.said
        await hear(database, "I am here", "mai")
        await quiet(database)
        assert reply().state == "sent", "she reads now"
        away(database)
        for text, more in (("Later.", {}), ("Now!", {"at_once": True})):
            database.write_now(one.desk.reply, case.id, person, text, text, **more)
        await quiet(database)
        assert peer.said[-2:] == ["Later.", "Now!"], "sent at once, with what waited before it"


YEAR = datetime(2026, 1, 1)  # noqa: DTZ001 - Hypothesis wants it so; the zone comes below
CLOCKS = st.times().map(lambda t: f"{t:%H:%M}")


@given(CLOCKS, CLOCKS, st.datetimes(min_value=YEAR, max_value=YEAR + timedelta(days=366)))
def test_the_next_safe_time_is_safe_and_soon(start: str, end: str, moment: datetime) -> None:
    at = moment.replace(tzinfo=ZoneInfo("Asia/Tokyo"))
    contact = Contact(safe_from=start, safe_until=end)
    later = safe_time(contact, at)
    if later is None:
        clock = f"{at:%H:%M}"
        inside = start <= clock < end if start < end else clock >= start or clock < end
        assert inside or start == end
    else:
        assert timedelta(0) < later - at <= timedelta(days=1)
        assert safe_time(contact, later) is None


def test_a_contact_without_safe_hours_is_always_written_to() -> None:
    assert safe_time(Contact(), datetime.now(ZoneInfo("Asia/Tokyo"))) is None
