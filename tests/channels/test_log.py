"""The log: nothing lost, nothing twice, nothing out of order, nothing readable; on both databases.

Time is never waited for: a lapsed lease or a due retry is made by moving its time in the database.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any, TypeVar

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import func, insert, inspect, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from channels.log import (
    Contact,
    Conversation,
    Lease,
    LeaseLostError,
    Line,
    Message,
    Published,
    PublishedText,
    UnpublishedError,
    accept,
    claim,
    continue_conversation,
    done,
    erase,
    find_conversation,
    hold,
    load,
    mark_sent,
    mark_unsent,
    moments,
    publish,
    release_all,
    renew,
    resend,
    say,
    settle,
    write,
)
from channels.media import Media
from channels.message import Accepted, Attachment, InboundMessage
from config.database import Database, now
from config.texts import Text
from config.vault import Vault, VaultError, use_vault, vault

T = TypeVar("T")

GREETING = Text("greeting", "en", "Hello, your number is {reference}.")
ANSWER = Text("faq/wage_unpaid", "en", "Wages are paid in full, once a month.", "reviewed")
LABEL = Text("button.human", "en", "Talk to a person")


def message(external_id: str = "m1", text: str = "hello", **more: Any) -> InboundMessage:
    more = {"channel": "webchat", "address": "mai", **more}
    return InboundMessage(external_id=external_id, text=text, **more)


def heard(database: Database, external_id: str = "m1", **more: Any) -> Accepted:
    return database.write_now(accept, message(external_id, **more))


def in_force(database: Database, *texts: Text) -> Published:
    return database.write_now(publish, texts or (GREETING, ANSWER, LABEL))


def taken(database: Database, limit: int = 1) -> list[Lease]:
    return database.write_now(claim, limit)


def answered(database: Database, lease: Lease, *lines: Line) -> bool:
    """A turn: the oldest new message is done, the bot answers; whether there is more to do."""
    published = in_force(database)

    def turn(session: Session) -> bool:
        work = load(session, lease, 20)
        assert work is not None
        assert work.incoming is not None
        conversation = hold(session, lease)
        for line in lines:
            say(session, conversation, line, published, work.incoming.id)
        done(session, work.incoming.id, {}, "en")
        return settle(session, conversation)

    return database.write_now(turn)


def count(database: Database, table: type[Any]) -> int:
    return database.write_now(lambda s: s.scalar(select(func.count()).select_from(table)) or 0)


def rows(database: Database, table: type[T]) -> list[T]:
    return database.write_now(lambda s: list(s.scalars(select(table).order_by(text("id")))))


def change(database: Database, table: type[Any], **values: Any) -> None:
    """Change all rows behind the program's back."""
    database.write_now(lambda s: s.execute(update(table).values(**values)))


def lapse(database: Database) -> None:
    """All leases have run out: their workers are dead, or asleep."""
    stamp = database.write_now(now)
    change(database, Conversation, lease_until=stamp - timedelta(seconds=1))


def together(calls: list[Callable[[], T]]) -> list[T]:
    """Run the calls at the same time, each in a thread of its own."""
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], T]) -> T:
        start.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


@pytest.fixture
def own_vault() -> Iterator[None]:
    """The test may change keys; afterwards they are what they were."""
    before = vault()
    yield
    use_vault(before)


@pytest.fixture
def several_writers(fresh_postgres: str) -> Iterator[Database]:
    """PostgreSQL, where two transactions can be open at once."""
    opened = Database(fresh_postgres)
    opened.migrate()
    yield opened
    opened.close()


# -- a message is written down once, in order ------------------------------------------------------


def test_a_redelivery_is_the_same_message(database: Database) -> None:
    first, again = heard(database, "m1", text="one"), heard(database, "m1", text="other")
    assert (first.duplicate, again.duplicate) == (False, True)
    assert first.message_id == again.message_id
    assert [row.body for row in rows(database, Message)] == ["one"]


@pytest.mark.parametrize("known", [False, True], ids=["a stranger's", "a known worker's"])
def test_twenty_redeliveries_at_once_are_one_message_of_one_person(
    database: Database, known: bool
) -> None:
    if known:
        heard(database, "m0")
    receipts = together([lambda: heard(database)] * 20)
    assert sorted(receipt.duplicate for receipt in receipts) == [False] + [True] * 19
    assert len({receipt.message_id for receipt in receipts}) == 1
    assert [count(database, t) for t in (Message, Conversation, Contact)] == [1 + known, 1, 1]


@pytest.mark.parametrize("known", [False, True], ids=["a stranger's", "a known worker's"])
def test_a_redelivery_waits_for_the_first_delivery(several_writers: Database, known: bool) -> None:
    """…that another process has begun to write down; then it is known."""
    if known:
        heard(several_writers, "m0")
    waiting = text("select count(*) from pg_stat_activity where wait_event_type = 'Lock'")
    with Session(several_writers._writer) as first, ThreadPoolExecutor(1) as pool:
        receipt = accept(first, message("m1"))
        again = pool.submit(heard, several_writers, "m1")
        while not several_writers.write_now(lambda s: s.scalar(waiting)) and not again.done():
            time.sleep(0.01)
        first.commit()
        assert again.result() == Accepted(receipt.message_id, duplicate=True)
    assert count(several_writers, Contact) == 1


def test_twenty_first_messages_at_once_are_of_one_person(database: Database) -> None:
    calls = [lambda n=n: heard(database, f"m{n}") for n in range(20)]
    assert not any(receipt.duplicate for receipt in together(calls))
    assert [count(database, t) for t in (Message, Conversation, Contact)] == [20, 1, 1]


def test_the_same_vendor_id_elsewhere_is_another_message(database: Database) -> None:
    heard(database, "m1", channel="webchat")
    assert not heard(database, "m1", channel="email").duplicate
    assert count(database, Conversation) == 2


def test_a_reader_who_goes_on_after_the_last_id_misses_nothing(database: Database) -> None:
    """Ids follow commit order, so a chat page or console that reads on never skips a message."""
    conversation = database.write_now(
        lambda s: (accept(s, message("m")), find_conversation(s, "webchat", "mai"))[1]
    )
    assert conversation is not None
    written, seen = threading.Event(), []

    def read_on() -> None:
        last_round = False
        while not last_round:
            last_round = written.is_set()
            with Session(database._reader) as session:
                after = seen[-1] if seen else 0
                seen.extend(moment.id for moment in moments(session, conversation, after))

    reader = threading.Thread(target=read_on)
    reader.start()
    try:
        for turn in range(10):
            together([lambda n=n, t=turn: heard(database, f"{t}/{n}") for n in range(8)])
    finally:
        written.set()
        reader.join()
    assert seen == [row.id for row in rows(database, Message)]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("a\x00b", "ab"),
        ("a lone \ud83d surrogate", "a lone ? surrogate"),
        ("लेखपाल 😭 မြန်မာ", "लेखपाल 😭 မြန်မာ"),
        ("x" * 150_000, "x" * 100_000),
        ("", ""),
    ],
    ids=["NUL", "surrogate", "scripts", "huge", "empty"],
)
def test_any_text_is_kept(database: Database, sent: str, kept: str) -> None:
    heard(database, text=sent)
    assert [row.body for row in rows(database, Message)] == [kept]


# -- one conversation, one worker ------------------------------------------------------------------


def test_the_oldest_conversations_are_claimed_first(database: Database) -> None:
    for name in ("an", "binh", "chi"):
        heard(database, name, address=name)
    claimed = [lease.conversation_id for lease in [*taken(database, 2), *taken(database, 2)]]
    assert claimed == [row.id for row in rows(database, Conversation)]
    assert taken(database) == []


def test_two_claimers_never_share_a_conversation(database: Database) -> None:
    for number in range(40):
        heard(database, f"m{number}", address=f"worker {number}")

    def claim_all() -> list[Lease]:
        mine: list[Lease] = []
        while len(mine) < 40 and (some := taken(database, 3)):
            mine += some
        return mine

    shares = together([claim_all] * 4)
    # A claimer that finds only rows which another one is just taking goes home; all is taken.
    leases = [lease for share in [*shares, claim_all()] for lease in share]
    assert sorted(lease.conversation_id for lease in leases) == [
        row.id for row in rows(database, Conversation)
    ]


ZOMBIE: dict[str, Callable[[Session, Lease], Any]] = {
    "hold": hold,
    "answer": lambda s, lease: settle(s, hold(s, lease)),
    "mark sent": lambda s, lease: mark_sent(s, lease, {1: "vendor"}, "sent"),
    "mark failed": lambda s, lease: mark_sent(s, lease, {1: ""}, "failed", "why"),
    "mark unsent": lambda s, lease: mark_unsent(s, lease, {1: 0}, "why", 1),
}


@pytest.mark.parametrize("step", ZOMBIE.values(), ids=ZOMBIE.keys())
def test_a_worker_that_lost_its_lease_cannot_write(
    database: Database, step: Callable[[Session, Lease], Any]
) -> None:
    heard(database)
    [zombie] = taken(database)
    lapse(database)
    [present] = taken(database)
    assert present.conversation_id == zombie.conversation_id
    with pytest.raises(LeaseLostError):
        database.write_now(step, zombie)
    assert [row.state for row in rows(database, Message)] == ["received"]
    database.write_now(step, present)  # whoever holds the lease can


def test_a_worker_that_lost_its_lease_finds_nothing_and_renews_nothing(database: Database) -> None:
    heard(database)
    [zombie] = taken(database)
    lapse(database)
    [present] = taken(database)
    lapse(database)
    assert database.write_now(load, zombie, 20) is None
    database.write_now(renew, [zombie])
    assert len(taken(database)) == 1, "the zombie's renewal kept the lease alive"
    assert database.write_now(load, present, 20) is None


def test_a_renewed_lease_is_kept(database: Database) -> None:
    heard(database)
    [lease] = taken(database)
    lapse(database)
    database.write_now(renew, [lease])
    assert taken(database) == []
    assert database.write_now(load, lease, 20) is not None


def test_a_lease_that_was_given_back_is_not_renewed(database: Database) -> None:
    """…by a renewal that was under way: the next message would wait until it lapses."""
    heard(database, "m1")
    [lease] = taken(database)
    assert not answered(database, lease)
    database.write_now(renew, [lease])
    heard(database, "m2")
    assert len(taken(database)) == 1


def test_work_of_a_dead_worker_is_taken_up_when_its_lease_lapses(database: Database) -> None:
    heard(database)
    assert len(taken(database)) == 1  # …and dies
    assert taken(database) == []
    lapse(database)
    [lease] = taken(database)
    work = database.write_now(load, lease, 20)
    assert work is not None
    assert work.incoming is not None
    assert work.incoming.text == "hello"


def test_work_of_a_dead_process_is_taken_up_at_once(database: Database) -> None:
    """SQLite: there is one process only, so at its start all leases are of the dead."""
    heard(database)
    [dead] = taken(database)
    database.write_now(release_all)
    assert len(taken(database)) == 1
    with pytest.raises(LeaseLostError):
        database.write_now(hold, dead)


def test_a_step_that_counted_on_the_bot_stops_when_a_person_has_taken_over(
    database: Database,
) -> None:
    heard(database)
    [lease] = taken(database)
    database.write_now(hold, lease, "bot")
    change(database, Conversation, holder="desk")
    with pytest.raises(LeaseLostError):
        database.write_now(hold, lease, "bot")


# -- when there is work ----------------------------------------------------------------------------

SETTLED: list[tuple[str, list[tuple[str, int | None]], int | None, bool]] = [
    # open messages as (state, seconds until the next attempt) → due in seconds, more at once
    ("nothing left", [], None, False),
    ("all done", [("done", None), ("sent", None), ("failed", None), ("kept", None)], None, False),
    ("a new message", [("received", None)], 0, True),
    ("a reply never tried", [("queued", None)], 0, True),
    ("a reply to try again", [("queued", 60)], 60, False),
    ("a reply whose time has come", [("queued", -1)], -1, True),
    ("order: the second waits for the first", [("queued", 60), ("queued", None)], 60, False),
    ("order: the second's time does not count", [("queued", 60), ("queued", 5)], 60, False),
    ("a new message need not wait for a retry", [("queued", 60), ("received", None)], 0, True),
]


@pytest.mark.parametrize(
    ("messages", "due", "more"), [row[1:] for row in SETTLED], ids=[row[0] for row in SETTLED]
)
def test_settling(
    database: Database, messages: list[tuple[str, int | None]], due: int | None, more: bool
) -> None:
    heard(database)
    [lease] = taken(database)
    published = in_force(database)
    stamp = database.write_now(now)
    database.write_now(lambda s: done(s, 1, {}, "en"))

    def fill(session: Session) -> bool:
        conversation = hold(session, lease)
        for state, seconds in messages:
            wait = None if seconds is None else stamp + timedelta(seconds=seconds)
            bot = {"author": "bot", "published_id": published.row(ANSWER)}
            session.add(
                Message(
                    conversation_id=conversation.id,
                    state=state,
                    body=ANSWER.body,
                    created_at=stamp,
                    attempt_at=wait,
                    **({"author": "worker"} if state in {"received", "done"} else bot),
                )
            )
        return settle(session, conversation)

    assert database.write_now(fill) is more
    [row] = rows(database, Conversation)
    if due is None:
        assert row.due_at is None
    elif due > 0:
        assert row.due_at == stamp + timedelta(seconds=due)
    else:
        assert row.due_at is not None
        assert row.due_at <= database.write_now(now)
    assert (row.lease_until is not None) is more, "the lease is kept only while there is work"


def test_what_comes_while_a_worker_works_is_not_forgotten(database: Database) -> None:
    heard(database, "m1")
    [lease] = taken(database)
    heard(database, "m2")
    assert answered(database, lease, Line(ANSWER)), "there is more to do"
    assert answered(database, lease), "the reply is to be sent"
    reply = next(row.id for row in rows(database, Message) if row.author == "bot")
    assert not database.write_now(mark_sent, lease, {reply: ""}, "sent")
    heard(database, "m3")
    assert len(taken(database)) == 1


def test_a_retry_is_claimed_only_when_its_time_has_come(database: Database) -> None:
    heard(database)
    [lease] = taken(database)
    answered(database, lease, Line(ANSWER))
    reply = rows(database, Message)[-1].id
    assert not database.write_now(mark_unsent, lease, {reply: 0}, "relay down", 3600.0)
    assert taken(database) == []
    stamp: datetime = database.write_now(now)
    change(database, Conversation, due_at=stamp)
    change(database, Message, attempt_at=stamp)
    [lease] = taken(database)
    work = database.write_now(load, lease, 20)
    assert work is not None
    assert [(r.id, r.attempts) for r in work.replies] == [(reply, 1)]


def test_what_is_said_while_a_worker_settles_is_sent(several_writers: Database) -> None:
    """The sweep has read a conversation without its lock; a worker then finds nothing to do."""
    heard(several_writers)
    [lease] = taken(several_writers)
    published = in_force(several_writers)
    with Session(several_writers._writer) as sweep:
        conversation = sweep.get_one(Conversation, lease.conversation_id)
        several_writers.write_now(lambda s: done(s, 1, {}, "en"))
        assert not several_writers.write_now(lambda s: settle(s, hold(s, lease)))
        say(sweep, conversation, Line(ANSWER), published)
        sweep.commit()
    assert len(taken(several_writers)) == 1


def test_erasing_stops_a_worker_that_just_began(several_writers: Database) -> None:
    """The sweep has read a conversation; a worker then claims it; then it is erased."""
    heard(several_writers)
    with Session(several_writers._writer) as sweep:
        conversation = sweep.get_one(Conversation, 1)
        [lease] = taken(several_writers)
        erase(sweep, conversation.contact_id)
        sweep.commit()
    with pytest.raises(LeaseLostError):
        several_writers.write_now(hold, lease)


# -- published words, and no others ----------------------------------------------------------------


def test_each_new_wording_is_the_next_version(database: Database) -> None:
    first = Text("greeting", "en", "Hello.")
    second = Text("greeting", "en", "Good day.")
    elsewhere = Text("greeting", "vi", "Xin chào.")
    row = in_force(database, first, elsewhere).row(first)
    assert in_force(database, first, elsewhere).row(first) == row, "the same words, the same row"
    in_force(database, second, elsewhere)
    assert in_force(database, first).row(first) == row, "back to the first words: still that row"
    assert [(r.language, r.version, r.body) for r in rows(database, PublishedText)] == [
        ("en", 1, "Hello."),
        ("vi", 1, "Xin chào."),
        ("en", 2, "Good day."),
    ]


def test_several_processes_may_publish_at_once(database: Database) -> None:
    texts = [Text(f"text/{n}", "en", f"words {n}") for n in range(50)]
    found = together([lambda: in_force(database, *texts)] * 4)
    assert all(published == found[0] for published in found)
    assert count(database, PublishedText) == 50


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("the bot without a published text", {"author": "bot"}),
    ("the bot with a text that is not there", {"author": "bot", "published_id": 999}),
    ("a counsellor without a name", {"author": "counsellor"}),
]


@pytest.mark.parametrize("values", [row[1] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_the_database_itself_refuses(database: Database, values: dict[str, Any]) -> None:
    heard(database)
    row = {"conversation_id": 1, "state": "queued", "body": "You will win.", **values}

    def put(session: Session) -> None:
        session.execute(insert(Message).values(created_at=now(session), **row))

    with pytest.raises(IntegrityError):
        database.write_now(put)
    assert count(database, Message) == 1


@pytest.mark.parametrize(
    "line",
    [
        Line(Text("faq/wage_unpaid", "en", "You will win.")),
        Line(Text("faq/wage_unpaid", "vi", ANSWER.body)),
        Line(Text("faq/dismissal", "en", ANSWER.body)),
        Line(ANSWER, {}, ((Text("button.human", "en", "Sign it"), "/human"),)),
    ],
    ids=["other words", "other language", "other text", "other button"],
)
def test_unpublished_words_are_not_said(database: Database, line: Line) -> None:
    heard(database)
    [lease] = taken(database)
    with pytest.raises(UnpublishedError):
        answered(database, lease, line)
    assert [(row.author, row.state) for row in rows(database, Message)] == [("worker", "received")]


TAMPERED: list[tuple[str, type[Any], dict[str, Any], bool]] = [
    ("nothing", Message, {}, True),
    ("the words", Message, {"body": "Hello, you will win."}, False),
    ("one letter", Message, {"body": "hello, your number is ABC-DEF."}, False),
    ("the number", Message, {"params": {"reference": "XYZ-XYZ"}}, False),
    ("the text it names", Message, {"published_id": 2}, False),
    ("the published words", PublishedText, {"body": "You will win."}, False),
    (
        "a button's label",
        Message,
        {"buttons": [{"published": 3, "label": "Sign it", "value": "/human"}]},
        False,
    ),
    (
        "a button of nowhere",
        Message,
        {"buttons": [{"published": 99, "label": "Sign it", "value": "/human"}]},
        False,
    ),
]


@pytest.mark.parametrize(
    ("table", "values", "proven"), [row[1:] for row in TAMPERED], ids=[row[0] for row in TAMPERED]
)
def test_altered_words_are_not_proven(
    database: Database, table: type[Any], values: dict[str, Any], proven: bool
) -> None:
    heard(database)
    [lease] = taken(database)
    answered(database, lease, Line(GREETING, {"reference": "ABC-DEF"}, ((LABEL, "/human"),)))
    if values:
        target = update(table).values(**values)
        if table is Message:
            target = target.where(Message.author == "bot")
        database.write_now(lambda s: s.execute(target))
    work = database.write_now(load, lease, 20)
    assert work is not None
    assert [reply.proven for reply in work.replies] == [proven]


# -- a counsellor's words --------------------------------------------------------------------------


def test_a_reply_that_is_pressed_twice_is_sent_once(database: Database) -> None:
    heard(database)

    def reply(key: str, words: str = "Bring your pay slips.") -> tuple[int, bool]:
        def work(session: Session) -> tuple[int, bool]:
            conversation = session.scalars(select(Conversation).with_for_update()).one()
            return write(session, conversation, words, 7, key)

        return database.write_now(work)

    pressed = together([lambda: reply("key 1")] * 5)
    assert sorted(new for _, new in pressed) == [False] * 4 + [True]
    assert len({number for number, _ in pressed}) == 1
    assert reply("key 2", "And your contract.")[1]
    written = [row.body for row in rows(database, Message) if row.author == "counsellor"]
    assert written == ["Bring your pay slips.", "And your contract."]


@pytest.mark.parametrize(
    ("state", "queued"),
    [("failed", True), ("kept", True), ("sent", False), ("queued", False), ("done", False)],
)
def test_only_what_did_not_leave_is_sent_again(
    database: Database, state: str, queued: bool
) -> None:
    heard(database)
    change(database, Message, author="counsellor", staff_id=7)
    change(database, Message, state=state, attempts=60, error="why")
    change(database, Conversation, due_at=None)
    assert database.write_now(resend, 1, [1]) is queued
    assert not database.write_now(resend, 1, [2]), "not of this conversation"
    [row] = rows(database, Message)
    assert (row.state, row.attempts) == (("queued", 0) if queued else (state, 60))
    assert len(taken(database)) == (1 if queued else 0)


# -- who she is and what she wrote -----------------------------------------------------------------

CANARIES = {
    "address": "canary-address@example.org",
    "name": "Canary Name",
    "text": "canary words about my boss",
    "original": "canary words with a quotation",
    "subject": "canary subject of the mail",
    "file": "canary-payslip.jpg",
    "understanding": "canary evidence",
    "counsellor": "canary advice of a person",
    "vendor": "canary-vendor-id",
}


def tell_everything(database: Database) -> None:
    """A conversation in which every column that can hold something of a person holds a canary."""
    heard(
        database,
        "canary-vendor-id",
        channel="email",
        address=CANARIES["address"],
        text=CANARIES["text"],
        original=CANARIES["original"],
        name=CANARIES["name"],
        thread={"subject": CANARIES["subject"]},
        attachments=(Attachment(CANARIES["file"], "image/jpeg", 1, "0" * 64, "0" * 32),),
    )
    [lease] = taken(database)
    published = in_force(database)

    def turn(session: Session) -> None:
        conversation = hold(session, lease)
        say(session, conversation, Line(ANSWER), published, 1)
        write(session, conversation, CANARIES["counsellor"], 7, "key")
        done(session, 1, {"matched": CANARIES["understanding"]}, "en")
        settle(session, conversation)

    database.write_now(turn)
    database.write_now(mark_sent, lease, {2: CANARIES["vendor"]}, "sent")


def raw(database: Database) -> str:
    """All that somebody sees who has the database but not the key."""
    if database.is_sqlite:
        folder = database.url.database or ""
        files = [folder, f"{folder}-wal"]
        return "".join(open(name, "rb").read().decode("latin-1") for name in files)  # noqa: PTH123

    def dump(session: Session) -> str:
        seen = []
        for table in inspect(session.connection()).get_table_names():
            for row in session.execute(text(f'select * from "{table}"')):
                seen += [v.decode("latin-1") if isinstance(v, bytes) else str(v) for v in row]
        return "\n".join(seen)

    return database.write_now(dump)


def test_the_raw_database_tells_nothing_of_a_person(database: Database) -> None:
    tell_everything(database)
    seen = raw(database)
    assert ANSWER.body in seen, "what is public can be seen, so this test does look"
    assert [name for name, canary in CANARIES.items() if canary in seen] == []
    everything = str(
        [vars(row) for t in (Conversation, Message, Media) for row in rows(database, t)]
    )
    assert [name for name, canary in CANARIES.items() if canary not in everything] == []


def test_erasing_empties_everything_and_keeps_the_count(database: Database) -> None:
    tell_everything(database)
    heard(database, "not yet answered", channel="email", address=CANARIES["address"], text="canary")
    before = [count(database, t) for t in (Contact, Conversation, Message)]
    [lease] = taken(database) or [None]
    [contact] = rows(database, Contact)
    database.write_now(erase, contact.id)

    assert [count(database, t) for t in (Contact, Conversation, Message)] == before
    tables = (Contact, Conversation, Message)
    everything = str([vars(row) for t in tables for row in rows(database, t)]).lower()
    assert "canary" not in everything
    [row] = rows(database, Conversation)
    assert (row.address, row.address_index, row.name, row.thread) == (None,) * 4
    assert {m.state for m in rows(database, Message)} <= {"done", "sent", "failed"}
    assert rows(database, Contact)[0].erased_at is not None
    assert taken(database) == [], "nothing is sent to her any more"
    if lease is not None:
        with pytest.raises(LeaseLostError):
            database.write_now(hold, lease)


def test_who_was_erased_and_writes_again_is_a_new_person(database: Database) -> None:
    tell_everything(database)
    database.write_now(erase, 1)
    heard(database, "later", channel="email", address=CANARIES["address"])
    assert [count(database, t) for t in (Contact, Conversation)] == [2, 2]
    assert len(taken(database)) == 1


def test_a_late_redelivery_does_not_bring_an_erased_person_back(database: Database) -> None:
    tell_everything(database)
    database.write_now(erase, 1)
    again = heard(database, "canary-vendor-id", channel="email", address=CANARIES["address"])
    assert again.duplicate
    assert [count(database, t) for t in (Contact, Conversation)] == [1, 1]
    assert "canary" not in str([vars(row) for row in rows(database, Conversation)])


def key() -> str:
    return Fernet.generate_key().decode()


def test_a_new_key_in_front_of_the_old_one(database: Database, own_vault: None) -> None:
    old, new = key(), key()
    use_vault(Vault([old]))
    heard(database, "m1", text="written with the old key")
    use_vault(Vault([new, old]))
    assert heard(database, "m1").duplicate, "a redelivery is known"
    heard(database, "m2", text="written with the new key")
    assert count(database, Conversation) == 1, "an address is found again"
    assert [row.body[-7:] for row in rows(database, Message)] == ["old key", "new key"]

    sealed = database.write_now(
        lambda s: [bytes(b) for b in s.scalars(text("select body from message order by id"))]
    )
    assert Vault([new]).open(sealed[1]) == "written with the new key"
    with pytest.raises(VaultError):
        Vault([new]).open(sealed[0])


def test_the_wrong_key_is_a_clear_fault(database: Database, own_vault: None) -> None:
    heard(database)
    use_vault(Vault([key()]))
    with pytest.raises(VaultError, match="BOT_DATA_KEY"):
        rows(database, Message)


# -- going on elsewhere ----------------------------------------------------------------------------


def test_a_conversation_goes_on_in_the_web_chat_where_it_stood(database: Database) -> None:
    heard(database, channel="sms", address="+819012345678", name="Mai", member="union-3")
    change(
        database,
        Conversation,
        language="vi",
        language_chosen=True,
        holder="desk",
        state={"greeted": True},
    )
    [earlier] = rows(database, Conversation)

    def go_on(address: str) -> str | None:
        return database.write_now(continue_conversation, earlier.id, "webchat", address)

    assert go_on("token-1") == "token-1"
    assert go_on("token-2") == "token-1"  # the link opened again: the same chat, not a second one
    _, later = rows(database, Conversation)
    assert later.continues_id == earlier.id
    for name in ("contact_id", "language", "language_chosen", "holder", "state", "name", "member"):
        assert getattr(later, name) == getattr(earlier, name), name
    assert (later.channel, later.address, later.due_at) == ("webchat", "token-1", None)
    assert heard(database, "m2", channel="webchat", address="token-1").message_id
    assert count(database, Conversation) == 2


def test_an_erased_or_unknown_conversation_does_not_go_on(database: Database) -> None:
    heard(database, channel="sms", address="+819012345678")
    [earlier] = rows(database, Conversation)
    database.write_now(erase, earlier.contact_id)
    assert database.write_now(continue_conversation, earlier.id, "webchat", "t") is None
    assert database.write_now(continue_conversation, 999, "webchat", "t") is None
    assert count(database, Conversation) == 1


def test_two_openings_of_a_link_at_once_make_one_conversation(several_writers: Database) -> None:
    heard(several_writers, channel="sms", address="+819012345678")
    [earlier] = rows(several_writers, Conversation)

    def opening(address: str) -> Callable[[], str | None]:
        return lambda: several_writers.write_now(
            continue_conversation, earlier.id, "webchat", address
        )

    addresses = together([opening(f"token-{number}") for number in range(6)])
    assert len(set(addresses)) == 1
    assert count(several_writers, Conversation) == 2
