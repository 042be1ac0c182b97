"""Sending: what becomes of a reply when its channel fails, and in which form it leaves."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from channels.delivery import MOST_ATTEMPTS, deliver, split
from channels.log import (
    Conversation,
    Line,
    Message,
    accept,
    claim,
    done,
    hold,
    load,
    publish,
    say,
    settle,
    write,
)
from channels.message import (
    Attachment,
    BlockedError,
    InboundMessage,
    NotConfiguredError,
    OutboundMessage,
    RateLimitedError,
    RejectedError,
    TemporarySendError,
    utf16,
)
from config.database import Database, now
from config.texts import Text
from tests.stories.peer import Peer

ONE = Text("one", "en", "First things first.")
TWO = Text("two", "en", "Then the rest.")
LONG = Text("long", "en", "A sentence of thirty letters. " * 9)
YES, NO = Text("button.yes", "en", "Yes"), Text("button.no", "en", "No")
ASK = Line(TWO, {}, ((YES, "/yes"), (NO, "/no")))


def queue(database: Database, *lines: Line | str) -> None:
    """A worker has written, and these replies are queued: a bot's lines, a counsellor's words."""
    published = database.write_now(publish, [ONE, TWO, LONG, YES, NO])
    database.write_now(accept, InboundMessage("peer", "m1", "mai", "hello"))

    def answer(session: Session) -> None:
        conversation = session.scalars(select(Conversation).with_for_update()).one()
        for number, line in enumerate(lines):
            if isinstance(line, str):
                write(session, conversation, line, 7, f"key {number}")
            else:
                say(session, conversation, line, published)
            session.flush()
        done(session, 1, {}, "en")

    database.write_now(answer)


async def deliver_due(database: Database, peer: Peer) -> list[int]:
    """Do what a worker does, until nothing is due; returns whose words were lost for good."""
    undelivered: list[int] = []

    def lost(_: Session, conversation: int) -> None:
        undelivered.append(conversation)

    for lease in database.write_now(claim, 9):
        more = True
        while more:
            work = database.write_now(load, lease, 20)
            assert work is not None
            if work.replies:
                more = await deliver(database, peer, work, lambda _: "Answer with a number:", lost)
            else:
                more = database.write_now(lambda s, held=lease: settle(s, hold(s, held)))
    return undelivered


def replies(database: Database) -> list[Message]:
    wanted = select(Message).where(Message.author != "worker").order_by(text("id"))
    return database.write_now(lambda s: list(s.scalars(wanted)))


def in_an_hour(database: Database) -> None:
    """All pauses are over."""
    stamp = database.write_now(now)
    database.write_now(lambda s: s.execute(update(Message).values(attempt_at=stamp)))
    database.write_now(lambda s: s.execute(update(Conversation).values(due_at=stamp)))


# failure → state, stopped, the least and the most seconds until the next attempt, note
OUTCOMES: list[tuple[str, list[Exception], str, bool, tuple[float, float] | None, str]] = [
    ("none", [], "sent", False, None, ""),
    ("down", [TemporarySendError("no route")], "queued", False, (0.7, 1.3), "no route"),
    ("too fast", [RateLimitedError("429", 120)], "queued", False, (120, 120), "429"),
    ("refused", [RejectedError("too old")], "failed", False, None, "too old"),
    ("blocked", [BlockedError("left")], "failed", True, None, "left"),
    ("no way out", [NotConfiguredError("no relay")], "kept", False, None, "no relay"),
    ("a fault of ours", [KeyError("secret words")], "queued", False, (4, 4), "KeyError"),
]


@pytest.mark.parametrize(
    ("failures", "state", "stopped", "pause", "note"),
    [row[1:] for row in OUTCOMES],
    ids=[row[0] for row in OUTCOMES],
)
async def test_what_becomes_of_a_reply(
    database: Database,
    failures: list[Exception],
    state: str,
    stopped: bool,
    pause: tuple[float, float] | None,
    note: str,
) -> None:
    queue(database, Line(ONE))
    peer = Peer(*failures)
    before = database.write_now(now)
    lost = await deliver_due(database, peer)
    after = database.write_now(now)
    assert lost == ([1] if note == "too old" else []), "only what failed against her wish"

    [reply] = replies(database)
    assert (reply.state, reply.error, reply.attempts) == (state, note, 1)
    assert peer.said == ([ONE.body] if state == "sent" else [])
    assert reply.external_id == (f"vendor {reply.id}/1" if state == "sent" else None)
    [conversation] = database.write_now(lambda s: list(s.scalars(select(Conversation))))
    assert conversation.stopped is stopped
    assert conversation.due_at == reply.attempt_at
    assert conversation.lease_until is None, "nobody holds it while there is nothing to do"
    if pause is None:
        assert reply.attempt_at is None
    else:
        assert reply.attempt_at is not None
        assert before + timedelta(seconds=pause[0]) <= reply.attempt_at
        assert reply.attempt_at <= after + timedelta(seconds=pause[1])


@pytest.mark.parametrize("error", [TemporarySendError("down"), RuntimeError("fault")])
async def test_hope_ends_some_time(database: Database, error: Exception) -> None:
    queue(database, Line(ONE))
    tried = MOST_ATTEMPTS - 2
    database.write_now(lambda s: s.execute(update(Message).values(attempts=tried)))
    peer = Peer(*[error] * 3)
    states = []
    for _ in range(3):
        await deliver_due(database, peer)
        states.append(replies(database)[0].state)
        in_an_hour(database)
    assert states == ["queued", "failed", "failed"]


async def test_the_second_reply_waits_for_the_first(database: Database) -> None:
    queue(database, Line(ONE), "I am Sato. I read what you wrote.", Line(TWO))
    peer = Peer(TemporarySendError("down"))
    await deliver_due(database, peer)
    assert peer.said == []
    await deliver_due(database, peer)
    assert peer.said == [], "not yet due"
    in_an_hour(database)
    await deliver_due(database, peer)
    assert peer.said == [ONE.body, "I am Sato. I read what you wrote.", TWO.body]


async def test_a_reply_that_never_leaves_does_not_stop_the_next(database: Database) -> None:
    queue(database, Line(ONE), "I am Sato.")
    peer = Peer(RejectedError("no"))
    await deliver_due(database, peer)
    assert [reply.state for reply in replies(database)] == ["failed", "sent"]


async def test_unproven_words_are_held_back_and_only_they(database: Database) -> None:
    queue(database, Line(ONE), Line(TWO))
    first = replies(database)[0].id
    lie = update(Message).where(Message.id == first).values(body="You will win in court.")
    database.write_now(lambda s: s.execute(lie))
    peer = Peer()
    await deliver_due(database, peer)
    assert peer.said == [TWO.body]
    assert [(r.state, r.error) for r in replies(database)] == [
        ("failed", "not published"),
        ("sent", ""),
    ]


async def test_keys_stay_the_same_when_a_reply_is_tried_again(database: Database) -> None:
    queue(database, Line(LONG))
    tried: list[list[str]] = []

    class Failing(Peer):
        async def send(self, messages: Sequence[OutboundMessage]) -> Sequence[str]:
            tried.append([message.key for message in messages])
            return await super().send(messages)

    peer = Failing(TemporarySendError("down"), chars=100)
    await deliver_due(database, peer)
    in_an_hour(database)
    await deliver_due(database, peer)
    assert len(tried) == 2
    assert tried[0] == tried[1]
    assert len(set(tried[0])) == len(tried[0]) == 3


@pytest.mark.parametrize("chars", [30, 100, 1000])
@pytest.mark.parametrize("group", [1, 4])
async def test_a_call_never_carries_more_than_the_channel_can(
    database: Database, chars: int, group: int
) -> None:
    queue(database, Line(LONG), Line(ONE), ASK, Line(LONG))
    peer = Peer(chars=chars, group=group)
    await deliver_due(database, peer)
    assert max(len(call) for call in peer.calls) <= group
    assert max(len(said) for said in peer.said) <= chars
    written = [LONG.body, ONE.body, TWO.body, LONG.body]
    assert " ".join(peer.said).split() == " ".join(written).split()
    assert {reply.state for reply in replies(database)} == {"sent"}


async def test_a_reply_that_has_left_does_not_leave_again_with_the_next(database: Database) -> None:
    queue(database, Line(LONG), Line(LONG))
    peer = Peer(None, TemporarySendError("down"), chars=100, group=4)
    await deliver_due(database, peer)
    assert [reply.state for reply in replies(database)] == ["sent", "queued"]
    in_an_hour(database)
    await deliver_due(database, peer)
    keys = [message.key for message in peer.sent]
    assert len(keys) == len(set(keys)) == 6


NUMBERED = f"{TWO.body}\n\nAnswer with a number:\n1. Yes\n2. No"


@pytest.mark.parametrize(
    ("buttons", "said", "shown"),
    [(0, NUMBERED, []), (1, NUMBERED, []), (2, TWO.body, ["/yes", "/no"])],
    ids=["no buttons", "too few buttons", "enough buttons"],
)
async def test_choices_are_numbered_where_there_are_no_buttons(
    database: Database, buttons: int, said: str, shown: list[str]
) -> None:
    queue(database, ASK)
    peer = Peer(buttons=buttons)
    await deliver_due(database, peer)
    [[message]] = peer.calls
    assert message.text == said
    assert [button.value for button in message.buttons] == shown


async def test_labels_that_are_too_long_become_numbers(database: Database) -> None:
    queue(database, ASK)
    peer = Peer()
    peer.limits = replace(peer.limits, label=2)
    await deliver_due(database, peer)
    [[message]] = peer.calls
    assert message.text == NUMBERED
    assert [(b.label, b.value) for b in message.buttons] == [("1", "/yes"), ("2", "/no")]


async def test_files_come_with_the_last_part_and_each_attempt_is_counted(
    database: Database,
) -> None:
    file = Attachment("a.png", "image/png", 3, "0" * 64, "0" * 32)
    queue(database)

    def work(session: Session) -> None:
        conversation = session.scalars(select(Conversation)).one()
        write(session, conversation, "words " * 30, 7, "key", [file])

    database.write_now(work)
    peer = Peer(TemporarySendError("down"), chars=100)
    await deliver_due(database, peer)
    in_an_hour(database)
    await deliver_due(database, peer)
    assert [[a.name for a in m.attachments] for m in peer.sent] == [[], ["a.png"]]
    assert {message.attempts for message in peer.sent} == {1}


async def test_buttons_come_with_the_last_part(database: Database) -> None:
    queue(database, Line(LONG, {}, ((YES, "/yes"),)))
    peer = Peer(chars=100)
    await deliver_due(database, peer)
    assert [len(message.buttons) for call in peer.calls for message in call] == [0, 0, 1]


# -- splitting -------------------------------------------------------------------------------------

PIECES = st.text(st.sampled_from(" \n\t.。?!।။abcないữ်😭\u3000"), max_size=200)


@given(PIECES | st.text(max_size=200), st.integers(2, 60), st.sampled_from([len, utf16]))
def test_splitting_loses_nothing_but_white_space(
    words: str, limit: int, measure: Callable[[str], int]
) -> None:
    parts = split(words, limit, measure)
    assert "".join("".join(parts).split()) == "".join(words.split())
    assert all(measure(part) <= limit for part in parts)
    assert all(part.strip() for part in parts) or not words.strip()


CUTS: list[tuple[str, str, int, list[str]]] = [
    ("short", "Short enough.", 20, ["Short enough."]),
    ("at a sentence", "One is here. Two is there.", 20, ["One is here.", "Two is there."]),
    ("Japanese", "一つ目です。二つ目です。", 8, ["一つ目です。", "二つ目です。"]),
    ("Nepali", "पहिलो हो। दोस्रो हो।", 12, ["पहिलो हो।", "दोस्रो हो।"]),
    ("at a word", "one two three four", 10, ["one two", "three four"]),
    (
        "never inside an address",
        "See www.mhlw.go.jp/a.html now",
        22,
        ["See", "www.mhlw.go.jp/a.html", "now"],
    ),
    ("never inside a number", "It is 1.234.567 yen", 14, ["It is", "1.234.567 yen"]),
    ("never inside what is seen as one", "မြန်မာ" * 3, 7, ["မြန်မာ", "မြန်မာ", "မြန်မာ"]),
    ("a family is one", "👨‍👩‍👧👨‍👩‍👧", 7, ["👨‍👩‍👧", "👨‍👩‍👧"]),
    ("no better place", "x" * 25, 10, ["x" * 10, "x" * 10, "x" * 5]),
    ("a stop just over the limit", "abcdefghij. k", 10, ["abcdefghij", ". k"]),
    ("white space only in front", " " * 30 + "end", 10, ["end"]),
]


@pytest.mark.parametrize(
    ("words", "limit", "parts"), [row[1:] for row in CUTS], ids=[row[0] for row in CUTS]
)
def test_cutting(words: str, limit: int, parts: list[str]) -> None:
    assert split(words, limit) == parts


@given(PIECES, st.integers(10, 60))
@example("😭" * 100, 60)
def test_a_measure_by_which_letters_weigh_much(words: str, limit: int) -> None:
    """As in SMS, where an emoji takes the room of more than four Latin letters."""

    def measure(part: str) -> int:
        return sum(5 if char > "\uffff" else 3 if char > "\x7f" else 1 for char in part)

    parts = split(words, limit, measure)
    assert "".join("".join(parts).split()) == "".join(words.split())
    assert all(measure(part) <= limit for part in parts)
