"""What vendors tell besides messages: receipts, who left, what was taken back; and corrections."""

import itertools
from typing import Literal

import pytest
from sqlalchemy import select, update

from channels.log import (
    Conversation,
    Message,
    accept,
    accept_all,
    claim,
    done,
    mark_sent,
    note,
)
from channels.media import Media
from channels.message import (
    Attachment,
    InboundMessage,
    Notice,
    Presence,
    Receipt,
    Withdrawal,
)
from config.database import Database
from config.vault import vault

State = Literal["delivered", "read", "failed"]


def heard(database: Database, key: str = "m1", **more: object) -> int:
    text = str(more.pop("text", "help"))
    message = InboundMessage("peer", key, "mai", text, **more)  # type: ignore[arg-type]
    return database.write_now(accept, message).message_id


def messages(database: Database) -> list[Message]:
    return database.write_now(lambda s: list(s.scalars(select(Message).order_by(Message.id))))


def reply(database: Database, state: str) -> int:
    """A counsellor's reply in a state, known to the vendor as v1."""
    heard(database)

    def work(session):  # type: ignore[no-untyped-def]
        row = Message(
            conversation_id=1,
            author="counsellor",
            state=state,
            body="Hello",
            staff_id=7,
            receipt_index=vault().index("peer", "receipt", "v1"),
            created_at=session.get_one(Conversation, 1).created_at,
        )
        session.add(row)
        session.flush()
        return row.id

    return database.write_now(work)


# state before, receipt, state after, whether the words are newly lost
RECEIPTS: list[tuple[str, State, str, bool]] = [
    ("sent", "delivered", "delivered", False),
    ("sent", "read", "read", False),
    ("delivered", "read", "read", False),
    ("read", "delivered", "read", False),
    ("delivered", "delivered", "delivered", False),
    ("sent", "failed", "failed", True),
    ("failed", "failed", "failed", False),
    ("delivered", "failed", "failed", True),  # of another part
    ("failed", "delivered", "failed", False),
    ("queued", "delivered", "queued", False),  # other parts may still have to leave
    ("queued", "failed", "queued", False),
]


@pytest.mark.parametrize(("before", "state", "after", "lost"), RECEIPTS)
@pytest.mark.parametrize("by", ["key", "vendor's id"])
def test_a_receipt_only_raises(
    database: Database, before: str, state: State, after: str, lost: bool, by: str
) -> None:
    number = reply(database, before)
    key = f"{number}/2" if by == "key" else ""
    receipt = Receipt("peer", state, "" if key else "v1", key, "30003 unreachable")
    failed = database.write_now(note, [receipt])
    assert messages(database)[-1].state == after
    assert failed == ([(1, number)] if lost else [])


UNKNOWN: list[Notice] = [
    Receipt("peer", "read", "v2"),
    Receipt("other", "read", "v1"),
    Receipt("peer", "read"),
    Receipt("peer", "read", key="99"),
    Receipt("peer", "read", key="x"),
    Receipt("peer", "read", key="9" * 40),
    Receipt("peer", "read", key="1"),  # a message of the worker
    Presence("peer", "somebody", here=False),
    Withdrawal("peer", "m9"),
    Withdrawal("other", "m1"),
]


@pytest.mark.parametrize("notice", UNKNOWN, ids=str)
def test_what_is_unknown_is_passed_over(database: Database, notice: Notice) -> None:
    reply(database, "sent")
    before = [(m.state, m.body) for m in messages(database)]
    assert database.write_now(note, [notice]) == []
    assert [(m.state, m.body) for m in messages(database)] == before


def test_who_left_is_not_written_to_until_she_is_back(database: Database) -> None:
    heard(database)

    def stopped() -> bool:
        return database.write_now(lambda s: s.get_one(Conversation, 1).stopped)

    for here in (False, True, False):
        database.write_now(note, [Presence("peer", "mai", here)])
        assert stopped() is not here
    heard(database, "m2")
    assert not stopped(), "she wrote, so she is back"


@pytest.mark.parametrize("answered", [True, False])
def test_what_was_taken_back_is_gone_after_its_turn(database: Database, answered: bool) -> None:
    """Danger that she spoke of is still looked for: the words go when the turn is over."""
    files = (Attachment("a", "image/png", 1, "0", "0" * 32),)
    number = heard(database, text="he hits me", original="he hits me!", attachments=files)
    steps = [
        lambda s: done(s, number, {"x": "he hits me"}, "en"),
        lambda s: note(s, [Withdrawal("peer", "m1")]),
    ]
    first, second = steps if answered else steps[::-1]
    database.write_now(first)
    if not answered:
        assert messages(database)[0].body == "he hits me"
    database.write_now(second)
    [row] = messages(database)
    assert (row.body, row.original, row.understanding, row.files) == ("", None, None, 0)
    assert (row.kind, row.state) == ("withdrawn", "done")
    [file] = database.write_now(lambda s: list(s.scalars(select(Media))))
    assert file.erased


def test_a_correction_names_what_it_corrects(database: Database) -> None:
    first = heard(database)
    heard(database, "m1 edited", text="help!", edits="m1")
    heard(database, "m2 edited", text="hm", edits="never seen")
    assert [row.edits_id for row in messages(database)] == [None, first, None]
    assert messages(database)[0].body == "help", "the original text stays"


def test_a_batch_is_kept_in_order_and_once(database: Database) -> None:
    batch = [InboundMessage("peer", f"m{n}", f"who {n % 3}", str(n)) for n in range(9)]
    first = database.write_now(accept_all, batch)
    again = database.write_now(accept_all, [*batch, *batch])
    assert [one.duplicate for one in first] == [False] * 9
    assert all(one.duplicate for one in again)
    assert [row.body for row in messages(database)] == [str(n) for n in range(9)]
    assert len(list(itertools.groupby(sorted(m.conversation_id for m in messages(database))))) == 3


@pytest.mark.parametrize(
    ("told", "state"),
    [
        ([], "sent"),
        (["delivered"], "delivered"),
        (["delivered", "failed"], "failed"),
        (["failed", "delivered"], "failed"),
    ],
)
def test_a_receipt_that_was_faster_than_our_own_note_counts(
    database: Database, told: list[State], state: str
) -> None:
    """The vendor's call-back may come before we have written down that the message left."""
    number = reply(database, "queued")
    database.write_now(lambda s: s.execute(update(Message).values(receipt_index=None)))
    [lease] = database.write_now(claim, 1)
    for one in told:
        database.write_now(note, [Receipt("peer", one, key=f"{number}/1")])
    database.write_now(mark_sent, lease, {number: "v1"}, "sent")
    assert messages(database)[-1].state == state
