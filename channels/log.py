"""The log: every message in and out, durably. Its tables are the inbox and the outbox.

A worker process holds a conversation by a lease with a fencing token; each step is one transaction
that first touches the conversation's row (so that message ids follow commit order), checks the
token, writes, and settles when the conversation is due next. Wake-ups only save time: whatever is
due is found again by looking.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Any, Literal

from sqlalchemy import (
    JSON,
    CheckConstraint,
    ColumnElement,
    ForeignKey,
    Index,
    Select,
    String,
    UniqueConstraint,
    and_,
    case,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Mapped, Session, mapped_column

from channels import media
from channels.message import (
    Accepted,
    Attachment,
    Button,
    InboundMessage,
    Moment,
    Notice,
    Presence,
    Receipt,
    Withdrawal,
    clean,
)
from config.database import Base, announce, now
from config.texts import JAPAN, Text, render
from config.vault import BlindIndex, Sealed, SealedJson, vault

LEASE = timedelta(seconds=15)
HERE = timedelta(minutes=10)
"""For so long after her last message she is taken to be there, reading."""
TEXT_KEPT = 100_000
"""Characters of one message that are kept; a channel refuses more before it gets here."""

Holder = Literal["bot", "desk"]


class Contact(Base):
    """A person, perhaps on several channels. Erasing empties her rows and keeps the count.

    `preferred_id`: the conversation in which she wants to be written to. `safe_from`, `safe_until`:
    the time of day (HH:MM in Japan) in which it is safe to write to her unasked; may span midnight.
    """

    __tablename__ = "contact"

    id: Mapped[int] = mapped_column(primary_key=True)
    preferred_id: Mapped[int | None]
    safe_from: Mapped[str | None] = mapped_column(String(5))
    safe_until: Mapped[str | None] = mapped_column(String(5))
    created_at: Mapped[datetime]
    erased_at: Mapped[datetime | None]


class Conversation(Base):
    """A contact on a channel. `due_at`: when there is work; empty when there is none.

    `erase_at`: she asked to be forgotten; a moment is left so that the confirmation still arrives.
    `continues_id`: an earlier conversation that this one goes on with and shows (an SMS with a link
    to the web chat). `member`: the organisation whose flyer brought her.
    """

    __tablename__ = "conversation"

    id: Mapped[int] = mapped_column(primary_key=True)
    contact_id: Mapped[int] = mapped_column(ForeignKey("contact.id"), index=True)
    channel: Mapped[str] = mapped_column(String(20))
    address: Mapped[str | None] = mapped_column(Sealed)
    address_index: Mapped[str | None] = mapped_column(BlindIndex)
    name: Mapped[str | None] = mapped_column(Sealed)
    thread: Mapped[dict[str, Any] | None] = mapped_column(SealedJson)
    language: Mapped[str] = mapped_column(String(12), default="")
    language_chosen: Mapped[bool] = mapped_column(default=False)
    holder: Mapped[str] = mapped_column(String(8), default="bot")
    state: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    stopped: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime]
    continues_id: Mapped[int | None] = mapped_column(ForeignKey("conversation.id"), default=None)
    member: Mapped[str] = mapped_column(String(40), default="")
    heard_at: Mapped[datetime | None]
    due_at: Mapped[datetime | None] = mapped_column()
    lease_until: Mapped[datetime | None]
    lease_token: Mapped[int] = mapped_column(default=0)
    erase_at: Mapped[datetime | None] = mapped_column()

    __table_args__ = (
        UniqueConstraint("address_index"),
        Index(
            "ix_conversation_continues",
            "continues_id",
            sqlite_where=continues_id.is_not(None),
            postgresql_where=continues_id.is_not(None),
        ),
        Index(
            "ix_conversation_erase",
            "erase_at",
            sqlite_where=erase_at.is_not(None),
            postgresql_where=erase_at.is_not(None),
        ),
        Index(
            "ix_conversation_due",
            "due_at",
            sqlite_where=due_at.is_not(None),
            postgresql_where=due_at.is_not(None),
        ),
    )


class PublishedText(Base):
    """Every wording that the bot was ever allowed to say. Rows are never changed."""

    __tablename__ = "published_text"

    id: Mapped[int] = mapped_column(primary_key=True)
    text_id: Mapped[str] = mapped_column(String(120))
    language: Mapped[str] = mapped_column(String(12))
    version: Mapped[int]
    digest: Mapped[str] = mapped_column(String(64))
    body: Mapped[str]
    review: Mapped[str] = mapped_column(String(120))
    published_at: Mapped[datetime]

    __table_args__ = (
        UniqueConstraint("text_id", "language", "version"),
        UniqueConstraint("text_id", "language", "digest", name="uq_published_text_digest"),
    )


class Message(Base):
    """A message in (`received` → `done`) or out (`queued` → `sent` → `delivered` →
    `read`, or `kept` where no way out is set up, or `failed`). What the bot says names its
    published text. `files`: how many files it has; `edits_id`: the message that it corrects;
    `held`: nothing she just asked for, so it only leaves in her safe hours or once she writes;
    `parts`: how many parts of a long one have left; `receipt`: what the vendor told of it while it
    was still queued."""

    __tablename__ = "message"

    id: Mapped[int] = mapped_column(primary_key=True)
    conversation_id: Mapped[int] = mapped_column(ForeignKey("conversation.id"))
    author: Mapped[str] = mapped_column(String(12))
    state: Mapped[str] = mapped_column(String(12))
    external_id: Mapped[str | None] = mapped_column(Sealed)
    external_index: Mapped[str | None] = mapped_column(BlindIndex, unique=True)
    language: Mapped[str] = mapped_column(String(12), default="")
    body: Mapped[str] = mapped_column(Sealed)
    original: Mapped[str | None] = mapped_column(Sealed)
    choice: Mapped[str] = mapped_column(String(80), default="")
    kind: Mapped[str] = mapped_column(String(12), default="text")
    files: Mapped[int] = mapped_column(default=0)
    edits_id: Mapped[int | None]
    receipt_index: Mapped[str | None] = mapped_column(BlindIndex, index=True)
    held: Mapped[bool] = mapped_column(default=False)
    parts: Mapped[int] = mapped_column(default=0)
    receipt: Mapped[str] = mapped_column(String(12), default="")
    understanding: Mapped[dict[str, Any] | None] = mapped_column(SealedJson)
    published_id: Mapped[int | None] = mapped_column(ForeignKey("published_text.id"))
    params: Mapped[dict[str, str] | None] = mapped_column(JSON)
    buttons: Mapped[list[dict[str, Any]] | None] = mapped_column(JSON)
    staff_id: Mapped[int | None]
    answers_id: Mapped[int | None]
    created_at: Mapped[datetime]
    done_at: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(default=0)
    attempt_at: Mapped[datetime | None]
    error: Mapped[str] = mapped_column(String(200), default="")

    __table_args__ = (
        CheckConstraint("author != 'bot' OR published_id IS NOT NULL", name="bot_says_published"),
        CheckConstraint("author != 'counsellor' OR staff_id IS NOT NULL", name="staff_named"),
        Index("ix_message_conversation", "conversation_id", "id"),
        Index(
            "ix_message_open",
            "conversation_id",
            "id",
            sqlite_where=state.in_(("received", "queued")),
            postgresql_where=state.in_(("received", "queued")),
        ),
    )


class LeaseLostError(RuntimeError):
    """Another worker holds the conversation now, or a person took it over: start anew."""


class UnpublishedError(RuntimeError):
    """Words were about to leave that are not published. They do not leave."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on a conversation; worthless once the token has moved on."""

    conversation_id: int
    token: int


@dataclass(frozen=True, slots=True)
class Line:
    """Something for the bot to say: a published text, its parameters, and buttons."""

    text: Text
    params: Mapping[str, str] = field(default_factory=dict)
    buttons: tuple[tuple[Text, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Incoming:
    """An unanswered message, as a turn needs it."""

    id: int
    text: str
    choice: str
    at: datetime
    recent: int
    kind: str
    attachments: int


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An unsent reply, as delivery needs it; `proven` tells that its words are published."""

    id: int
    author: str
    language: str
    body: str
    buttons: tuple[Button, ...]
    answers_id: int | None
    attempts: int
    parts: int
    proven: bool
    attachments: tuple[Attachment, ...] = ()


@dataclass(frozen=True, slots=True)
class Work:
    """What there is to do in a leased conversation."""

    lease: Lease
    channel: str
    address: str
    thread: dict[str, Any]
    language: str
    language_chosen: bool
    hint: str
    more_waiting: bool
    holder: Holder
    state: dict[str, Any]
    replies: tuple[Outgoing, ...]
    incoming: Incoming | None


class Published(dict[tuple[str, str, str], int]):
    """(text id, language, digest) → row of `published_text`, for the texts in force."""

    def row(self, text: Text) -> int:
        """The row of a text.

        Raises:
            UnpublishedError: these words were never published.
        """
        try:
            return self[text.id, text.language, text.digest]
        except KeyError:
            raise UnpublishedError(f"{text.id} in {text.language} is not published") from None


def publish(session: Session, texts: Iterable[Text]) -> Published:
    """Write down wordings that are new, each as the next version of its text."""
    if session.get_bind().dialect.name == "postgresql":  # several processes may start at once
        lock = "lock table published_text in share row exclusive mode"
        session.connection().exec_driver_sql(lock)
    rows = session.execute(
        select(
            PublishedText.text_id,
            PublishedText.language,
            PublishedText.digest,
            PublishedText.id,
            PublishedText.version,
        )
    )
    published = Published()
    versions: dict[tuple[str, str], int] = {}
    for text_id, language, digest, row_id, version in rows:
        published[text_id, language, digest] = row_id
        versions[text_id, language] = max(version, versions.get((text_id, language), 0))
    stamp = now(session)
    new = []
    for text in texts:
        if (text.id, text.language, text.digest) not in published:
            versions[text.id, text.language] = versions.get((text.id, text.language), 0) + 1
            new.append(
                PublishedText(
                    text_id=text.id,
                    language=text.language,
                    version=versions[text.id, text.language],
                    digest=text.digest,
                    body=text.body,
                    review=text.review,
                    published_at=stamp,
                )
            )
            published[text.id, text.language, text.digest] = 0
    session.add_all(new)
    session.flush()
    for row in new:
        published[row.text_id, row.language, row.digest] = row.id
    return published


# -- in --------------------------------------------------------------------------------------------


def accept(session: Session, message: InboundMessage) -> Accepted:
    """Write down a message, once per vendor's id, and make its conversation due."""
    index = vault().index(message.channel, "message", message.external_id)
    wanted = select(Message.id).where(Message.external_index == index)
    known = session.scalar(wanted)  # before an address is written down: she may be erased
    if known is None:
        conversation = _conversation(session, message)
        known = session.scalar(wanted)  # a redelivery that was faster held the conversation
    if known is not None:
        return Accepted(known, duplicate=True)
    stamp = now(session)
    edited = None
    if message.edits:
        earlier = vault().index(message.channel, "message", message.edits)
        edited = session.scalar(select(Message.id).where(Message.external_index == earlier))
    row = Message(
        conversation_id=conversation.id,
        author="worker",
        state="received",
        external_id=message.external_id,
        external_index=index,
        language=message.language_hint[:12],
        body=clean(message.text)[:TEXT_KEPT],
        original=clean(message.original)[:TEXT_KEPT] or None,
        choice=clean(message.choice)[:80],
        kind=message.kind,
        files=len(message.attachments),
        edits_id=edited,
        created_at=stamp,
    )
    session.add(row)
    if message.thread:
        conversation.thread = message.thread
    if message.name:
        conversation.name = message.name[:200]
    if message.member:
        conversation.member = conversation.member or message.member[:40]
    conversation.due_at = stamp
    session.flush()
    if message.attachments:
        media.add(session, row.id, conversation.id, message.channel, message.attachments)
    if message.kind != "automatic":
        conversation.heard_at, conversation.stopped = stamp, False
        # She reads now, so what was held until her safe hours may come.
        free(session, conversation.id)
    announce(session, "work")
    announce(session, f"conversation:{conversation.id}")
    return Accepted(row.id, duplicate=False)


def accept_all(session: Session, messages: Sequence[InboundMessage]) -> list[Accepted]:
    """Write down the messages of one delivery in one transaction, in order."""
    return [accept(session, message) for message in messages]


def free(session: Session, conversation_id: int) -> None:
    """Let replies go that were held until the worker's safe hours, or that wait for long: what she
    just did may have opened a way (a fresh reply token at LINE)."""
    soon = now(session) + timedelta(minutes=5)
    session.execute(
        update(Message)
        .where(Message.conversation_id == conversation_id, Message.state == "queued")
        .where(Message.state.in_(("received", "queued")))  # so that the partial index serves
        .where(or_(Message.held, Message.attempt_at > soon))
        .values(held=False, attempt_at=None)
        .execution_options(synchronize_session=False)
    )


LEFT = ("sent", "delivered", "read")
RANKS = {"sent": 1, "delivered": 2, "read": 3, "failed": 4}
"""A receipt only ever raises the state of a message; they come late, in any order, and for each
part of a long one: if one part failed, it has failed until it is sent again."""


def note(session: Session, notices: Sequence[Notice]) -> list[tuple[int, int]]:
    """Write down what vendors tell. Returns (conversation, message) of each that failed now."""
    failed = []
    for notice in notices:
        if isinstance(notice, Receipt):
            found = _receipt(session, notice)
            if found is not None:
                failed.append(found)
        elif isinstance(notice, Presence):
            index = vault().index(notice.channel, "address", notice.address)
            conversation = session.scalar(
                select(Conversation).where(Conversation.address_index == index).with_for_update()
            )
            if conversation is not None:
                conversation.stopped = not notice.here
                announce(session, f"conversation:{conversation.id}")
        else:
            _withdraw(session, notice)
    return failed


def _receipt(session: Session, receipt: Receipt) -> tuple[int, int] | None:
    wanted = select(Message)
    number = receipt.key.partition("/")[0]
    if number.isdigit() and len(number) < 10:
        wanted = wanted.where(Message.id == int(number))
    elif receipt.external_id:
        index = vault().index(receipt.channel, "receipt", receipt.external_id)
        wanted = wanted.where(Message.receipt_index == index)
    else:
        return None
    fresh = None
    for row in session.scalars(wanted.with_for_update()):
        if row.author == "worker":
            continue
        if row.state == "queued":  # other parts may still have to leave: `mark_sent` minds it
            if RANKS[receipt.state] > RANKS.get(row.receipt, 0):
                row.receipt = receipt.state
            continue
        if RANKS[receipt.state] <= RANKS.get(row.state, 9):
            continue
        row.state = receipt.state
        row.error = receipt.reason[:200] if receipt.state == "failed" else ""
        row.done_at = row.done_at or now(session)
        announce(session, f"conversation:{row.conversation_id}")
        if receipt.state == "failed":
            fresh = (row.conversation_id, row.id)
    return fresh


def _withdraw(session: Session, withdrawal: Withdrawal) -> None:
    """Remove the words of a message that the worker took back.

    One whose turn has not come keeps them until then: danger that she spoke of is not overlooked.
    """
    index = vault().index(withdrawal.channel, "message", withdrawal.external_id)
    row = session.scalar(select(Message).where(Message.external_index == index).with_for_update())
    if row is None or row.author != "worker":
        return
    row.kind = "withdrawn"
    if row.state != "received":
        row.body, row.original, row.choice, row.understanding = "", None, "", None
    row.files = 0
    media.drop(session, [row.id])
    announce(session, f"conversation:{row.conversation_id}")


def find_conversation(session: Session, channel: str, address: str) -> int | None:
    """The conversation at an address."""
    index = vault().index(channel, "address", address)
    return session.scalar(select(Conversation.id).where(Conversation.address_index == index))


def open_conversation(session: Session, channel: str, address: str) -> int:
    """The conversation at an address, begun if there is none."""
    return _conversation(session, InboundMessage(channel, "", address, "")).id


def continue_conversation(
    session: Session, conversation_id: int, channel: str, address: str
) -> str | None:
    """Let a conversation go on in another channel, for the same contact and where it stood.

    Counsellors' replies still go to the earlier one, unless she prefers another: only that one
    reaches her when the page is closed.

    Returns the address at which it goes on: `address`, or that of the conversation which already
    continues it there; None if its worker had her data erased.
    """
    earlier = session.scalar(
        select(Conversation).where(Conversation.id == conversation_id).with_for_update()
    )
    if earlier is None or earlier.address_index is None:
        return None
    known = session.scalar(
        select(Conversation.address)
        .where(Conversation.continues_id == conversation_id, Conversation.channel == channel)
        .where(Conversation.address_index.is_not(None))
        .order_by(Conversation.id)
        .limit(1)
    )
    if known is not None:
        return known
    contact = session.get_one(Contact, earlier.contact_id, with_for_update=True)
    contact.preferred_id = contact.preferred_id or earlier.id
    session.add(
        Conversation(
            contact_id=earlier.contact_id,
            channel=channel,
            address=address,
            address_index=vault().index(channel, "address", address),
            name=earlier.name,
            language=earlier.language,
            language_chosen=earlier.language_chosen,
            holder=earlier.holder,
            state=dict(earlier.state),
            created_at=now(session),
            continues_id=earlier.id,
            member=earlier.member,
        )
    )
    session.flush()
    return address


def _conversation(session: Session, message: InboundMessage) -> Conversation:
    index = vault().index(message.channel, "address", message.address)
    wanted = select(Conversation).where(Conversation.address_index == index).with_for_update()
    found = session.scalar(wanted)
    if found is None:
        stamp = now(session)
        contact = Contact(created_at=stamp)
        session.add(contact)
        session.flush()
        insert = (
            postgresql_insert if session.get_bind().dialect.name == "postgresql" else sqlite_insert
        )
        made = session.scalar(
            insert(Conversation)
            .values(
                contact_id=contact.id,
                channel=message.channel,
                address=message.address,
                address_index=index,
                language="",
                language_chosen=False,
                holder="bot",
                state={},
                stopped=False,
                created_at=stamp,
                lease_token=0,
            )
            .on_conflict_do_nothing(index_elements=["address_index"])
            .returning(Conversation.id)
        )
        if made is None:  # another process was faster
            session.delete(contact)
        found = session.scalars(wanted).one()
    return found


# -- work ------------------------------------------------------------------------------------------


def claim(session: Session, limit: int) -> list[Lease]:
    """Take up to `limit` conversations that are due and that nobody holds, the oldest first."""
    stamp = now(session)
    rows = session.execute(
        select(Conversation.id, Conversation.lease_token)
        .where(
            Conversation.due_at <= stamp,
            or_(Conversation.lease_until.is_(None), Conversation.lease_until < stamp),
        )
        .order_by(Conversation.due_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    leases = []
    for conversation_id, token in rows:
        session.execute(
            update(Conversation)
            .where(Conversation.id == conversation_id)
            .values(lease_until=stamp + LEASE, lease_token=token + 1)
        )
        leases.append(Lease(conversation_id, token + 1))
    return leases


def renew(session: Session, leases: Sequence[Lease]) -> None:
    """Hold on to conversations whose work takes long; one that was given back stays free."""
    until = now(session) + LEASE
    for lease in leases:
        session.execute(
            update(Conversation)
            .where(Conversation.id == lease.conversation_id)
            .where(Conversation.lease_token == lease.token)
            .where(Conversation.lease_until.is_not(None))
            .values(lease_until=until)
        )


def release_all(session: Session) -> None:
    """Forget the leases of a process that died (SQLite: there is only one process)."""
    session.execute(
        update(Conversation)
        .where(Conversation.lease_until.is_not(None))
        .values(lease_until=None, lease_token=Conversation.lease_token + 1)
    )


def next_due(session: Session) -> datetime | None:
    """When the next conversation will be due."""
    return session.scalar(
        select(func.min(Conversation.due_at)).where(Conversation.due_at.is_not(None))
    )


def load(session: Session, lease: Lease, replies: int) -> Work | None:
    """What is to be done under a lease: up to `replies` unsent replies, the oldest new message.

    Replies are in order, so none is to be sent before the first one's next attempt is due. None if
    the lease is lost.
    """
    conversation = session.get(Conversation, lease.conversation_id)
    if conversation is None or conversation.lease_token != lease.token:
        return None
    queued = session.execute(
        _open(lease.conversation_id, "queued")
        .add_columns(PublishedText.body)
        .outerjoin(PublishedText, PublishedText.id == Message.published_id)
        .limit(replies)
    ).all()
    if queued and queued[0][0].attempt_at and queued[0][0].attempt_at > now(session):
        queued = []
    if any(row.held for row, _ in queued) and unsafe_until(session, conversation) is not None:
        queued = list(takewhile(lambda found: not found[0].held, queued))
    waiting = session.scalars(_open(lease.conversation_id, "received").limit(2)).all()
    incoming = waiting[0] if waiting else None
    recent = 0
    if incoming is not None:
        recent = (
            session.scalar(
                select(func.count())
                .select_from(Message)
                .where(
                    Message.conversation_id == lease.conversation_id,
                    Message.author == "worker",
                    Message.id <= incoming.id,
                    Message.created_at > incoming.created_at - timedelta(seconds=10),
                )
            )
            or 0
        )
    labels = _labels(session, [row for row, _ in queued])
    files = media.of_messages(session, [row.id for row, _ in queued if row.files])
    return Work(
        lease=lease,
        channel=conversation.channel,
        address=conversation.address or "",
        thread=conversation.thread or {},
        language=conversation.language,
        language_chosen=conversation.language_chosen,
        hint=incoming.language if incoming else "",
        more_waiting=len(waiting) > 1,
        holder="desk" if conversation.holder == "desk" else "bot",
        state=dict(conversation.state),
        replies=tuple(_outgoing(row, published, labels, files) for row, published in queued),
        incoming=None
        if incoming is None
        else Incoming(
            incoming.id,
            incoming.body,
            incoming.choice,
            incoming.created_at,
            recent,
            incoming.kind,
            incoming.files,
        ),
    )


def _open(conversation_id: int, state: str) -> Select[Message]:
    return (
        select(Message)
        .where(Message.conversation_id == conversation_id, Message.state == state)
        .where(Message.state.in_(("received", "queued")))  # so that the partial index serves
        .order_by(Message.id)
    )


def _labels(session: Session, rows: Sequence[Message]) -> dict[int, str]:
    wanted = {button["published"] for row in rows for button in row.buttons or ()}
    if not wanted:
        return {}
    found = session.execute(
        select(PublishedText.id, PublishedText.body).where(PublishedText.id.in_(wanted))
    )
    return dict(found.all())


def _outgoing(
    row: Message,
    published: str | None,
    labels: Mapping[int, str],
    files: Mapping[int, tuple[Attachment, ...]],
) -> Outgoing:
    buttons = tuple(Button(b["label"], b["value"]) for b in row.buttons or ())
    proven = row.author == "counsellor" or (
        published is not None
        and render(published, row.params or {}) == row.body
        and all(labels.get(b["published"]) == b["label"] for b in row.buttons or ())
    )
    return Outgoing(
        row.id,
        row.author,
        row.language,
        row.body,
        buttons,
        row.answers_id,
        row.attempts,
        row.parts,
        proven,
        files.get(row.id, ()),
    )


# -- out -------------------------------------------------------------------------------------------


def hold(session: Session, lease: Lease, holder: Holder | None = None) -> Conversation:
    """The conversation's row, locked, for a step of the worker that leases it.

    Raises:
        LeaseLostError: the lease, or the holder that the step counted on, is gone.
    """
    conversation = session.scalars(
        select(Conversation).where(Conversation.id == lease.conversation_id).with_for_update()
    ).one()
    if conversation.lease_token != lease.token or (
        holder is not None and conversation.holder != holder
    ):
        raise LeaseLostError
    return conversation


def say(
    session: Session,
    conversation: Conversation,
    line: Line,
    published: Published,
    answers_id: int | None = None,
) -> None:
    """Queue a bot's reply. What is no answer to her words keeps to her safe hours.

    Raises:
        UnpublishedError: its words, or those of a button, are not published.
    """
    session.add(
        Message(
            conversation_id=conversation.id,
            author="bot",
            state="queued",
            language=line.text.language,
            body=line.text.render(line.params),
            published_id=published.row(line.text),
            params=dict(line.params),
            buttons=[
                {"published": published.row(label), "label": label.body, "value": value}
                for label, value in line.buttons
            ]
            or None,
            answers_id=answers_id,
            created_at=now(session),
            held=answers_id is None,
            attempt_at=unsafe_until(session, conversation) if answers_id is None else None,
        )
    )
    _due(session, conversation)


def write(
    session: Session,
    conversation: Conversation,
    text: str,
    staff_id: int,
    key: str,
    attachments: Sequence[Attachment] = (),
    at_once: bool = False,
) -> tuple[int, bool]:
    """Queue a counsellor's reply. `key` is made by her browser: pressing twice sends once.

    It keeps to the worker's safe hours unless `at_once`; then what waited before it leaves too.

    Returns the message's id and whether it is new.
    """
    index = vault().index("console", "message", key)
    known = session.scalar(select(Message.id).where(Message.external_index == index))
    if known is not None:
        return known, False
    if at_once:
        free(session, conversation.id)
    _due(session, conversation)
    row = Message(
        conversation_id=conversation.id,
        author="counsellor",
        state="queued",
        external_index=index,
        language="",
        body=clean(text)[:TEXT_KEPT],
        files=len(attachments),
        staff_id=staff_id,
        created_at=now(session),
        held=not at_once,
        attempt_at=None if at_once else unsafe_until(session, conversation),
    )
    session.flush()  # the conversation is locked before the message gets its id
    session.add(row)
    session.flush()
    media.add(session, row.id, conversation.id, conversation.channel, attachments)
    return row.id, True


def safe_time(contact: Contact, moment: datetime) -> datetime | None:
    """When it is next safe to write to a contact unasked; None if it is now."""
    if not contact.safe_from or not contact.safe_until or contact.safe_from == contact.safe_until:
        return None
    local = moment.astimezone(JAPAN)
    clock, start, end = local.strftime("%H:%M"), contact.safe_from, contact.safe_until
    inside = start <= clock < end if start < end else clock >= start or clock < end
    if inside:
        return None
    hour, minute = map(int, start.split(":"))
    opening = local.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return opening if opening > local else opening + timedelta(days=1)


def unsafe_until(session: Session, conversation: Conversation) -> datetime | None:
    """Until when it is not safe to write in a conversation unasked; None if it is: in her safe
    hours, and while she is there, having written a moment ago."""
    stamp = now(session)
    if conversation.heard_at is not None and stamp - conversation.heard_at < HERE:
        return None
    return safe_time(session.get_one(Contact, conversation.contact_id), stamp)


def reconsider(session: Session, contact_id: int) -> None:
    """A contact's safe hours have changed: look again when held replies may leave."""
    for conversation in session.scalars(
        select(Conversation).where(Conversation.contact_id == contact_id)
    ):
        session.execute(
            update(Message)
            .where(Message.conversation_id == conversation.id, Message.state == "queued")
            .where(Message.state.in_(("received", "queued")), Message.held)
            .values(attempt_at=None)
            .execution_options(synchronize_session=False)
        )
        _due(session, conversation)


def _due(session: Session, conversation: Conversation) -> None:
    # Written in any case: a row that was read without a lock is locked now, before the message
    # gets its id, and is due whatever a worker that was settling it has found.
    conversation.due_at = now(session)
    announce(session, "work")
    announce(session, f"conversation:{conversation.id}")


def settle(session: Session, conversation: Conversation) -> bool:
    """Compute when the conversation is due next; give the lease back unless it is due now.

    Called last in each step. Returns whether there is more to do at once.
    """
    session.flush()
    stamp = now(session)
    if session.scalar(_open(conversation.id, "received").with_only_columns(Message.id).limit(1)):
        conversation.due_at = stamp
        return True
    # Replies leave in order, so the first one tells when.
    wanted = (Message.id, Message.attempt_at, Message.held)
    first = session.execute(
        _open(conversation.id, "queued").with_only_columns(*wanted).limit(1)
    ).first()
    at = None if first is None else first.attempt_at or stamp
    safe = unsafe_until(session, conversation) if first is not None and first.held else None
    if first is not None and at is not None and safe is not None and at < safe:
        at = safe  # its time came too late, or her hours have changed
        session.execute(update(Message).where(Message.id == first.id).values(attempt_at=at))
    conversation.due_at = at
    more = conversation.due_at is not None and conversation.due_at <= stamp
    if not more:
        conversation.lease_until = None
    return more


def mark_sent(
    session: Session, lease: Lease, sent: Mapping[int, str], state: str, error: str = ""
) -> bool:
    """Note what became of replies (`sent`, `kept` or `failed`); id → vendor's id."""
    conversation = hold(session, lease)
    stamp = now(session)
    for message_id, external_id in sent.items():
        index = None
        if external_id:
            index = vault().index(conversation.channel, "receipt", external_id)
        session.execute(
            update(Message)
            .where(Message.id == message_id)
            .values(
                # A receipt may have been faster.
                state=case((Message.receipt != "", Message.receipt), else_=state)
                if state == "sent"
                else state,
                external_id=external_id or None,
                receipt_index=index,
                receipt="",
                held=False,
                done_at=stamp,
                attempts=Message.attempts + 1,
                error=error[:200],
            )
            .execution_options(synchronize_session=False)
        )
    announce(session, f"conversation:{conversation.id}")
    return settle(session, conversation)


def mark_unsent(
    session: Session, lease: Lease, parts: Mapping[int, int], error: str, pause: float
) -> bool:
    """Note that sending failed for now; try again in `pause` seconds.

    `parts`: message id → how many parts of it have left and are not sent again.
    """
    conversation = hold(session, lease)
    for message_id, left in parts.items():
        session.execute(
            update(Message)
            .where(Message.id == message_id)
            .values(
                attempts=Message.attempts + 1,
                attempt_at=now(session) + timedelta(seconds=pause),
                parts=left,
                error=error[:200],
            )
        )
    announce(session, f"conversation:{conversation.id}")
    return settle(session, conversation)


def resend(session: Session, message_id: int, conversation_ids: Sequence[int]) -> bool:
    """Queue a failed or kept message of these conversations again; False if it is neither."""
    row = session.get(Message, message_id)
    if row is None or row.conversation_id not in conversation_ids:
        return False
    if row.state not in {"failed", "kept"} or row.author == "worker":
        return False
    conversation = session.scalars(
        select(Conversation).where(Conversation.id == row.conversation_id).with_for_update()
    ).one()
    row.state, row.attempts, row.attempt_at, row.error = "queued", 0, None, ""
    row.parts, row.receipt, row.receipt_index = 0, "", None
    row.held = row.answers_id is None
    _due(session, conversation)
    return True


# -- reading ---------------------------------------------------------------------------------------


def moments(
    session: Session,
    conversation_ids: int | Sequence[int],
    after: int = 0,
    limit: int = 500,
    newest: bool = False,
    to_worker: bool = False,
) -> list[Moment]:
    """Messages of one or several conversations of a contact after an id, oldest first.

    `newest`: the last `limit` ones. `to_worker`: only her own and what has passed delivery, for a
    page that reads the log; nothing that comes after a reply which is still to leave in the first
    of the conversations, so that whoever goes on from the last id misses none.
    """
    chosen = [conversation_ids] if isinstance(conversation_ids, int) else list(conversation_ids)
    order = Message.id.desc() if newest else Message.id.asc()
    shown: list[ColumnElement[bool]] = []
    if to_worker:
        unsent = _open(chosen[0], "queued").with_only_columns(func.min(Message.id)).order_by(None)
        kept = and_(Message.author == "counsellor", Message.state.in_(("kept", "failed")))
        shown = [
            or_(Message.author == "worker", Message.state.in_(LEFT), kept),
            Message.id < func.coalesce(unsent.scalar_subquery(), 2**31 - 1),
        ]
    rows = session.execute(
        select(Message, PublishedText.review, Conversation.channel)
        .join(Conversation, Conversation.id == Message.conversation_id)
        .outerjoin(PublishedText, PublishedText.id == Message.published_id)
        .where(Message.conversation_id.in_(chosen), Message.id > after, *shown)
        .order_by(order)
        .limit(limit)
    ).all()
    files = media.of_messages(session, [row.id for row, _, _ in rows if row.files])
    listed = [
        Moment(
            id=row.id,
            author=row.author,
            text=row.body,
            at=row.created_at,
            state=row.state,
            buttons=tuple(Button(b["label"], b["value"]) for b in row.buttons or ()),
            external_id=row.external_id or "",
            error=row.error,
            review=review or "",
            language=row.language,
            attachments=files.get(row.id, ()),
            kind=row.kind,
            edits_id=row.edits_id,
            original=row.original or "",
            channel=channel,
            held=row.held and row.attempt_at is not None and not row.error,
            read=(row.understanding or {}).get("read", ""),
        )
        for row, review, channel in rows
    ]
    return listed[::-1] if newest else listed


def chain(session: Session, conversation_id: int) -> list[int]:
    """A conversation, and those that it goes on with, the newest first."""
    found: list[int] = []
    number: int | None = conversation_id
    while number is not None and number not in found:
        found.append(number)
        number = session.scalar(select(Conversation.continues_id).where(Conversation.id == number))
    return found


def mark_read(session: Session, conversation_ids: Sequence[int], up_to: int) -> int:
    """Note that the worker has seen what the desk said, up to a message; returns how many now."""
    rows = session.execute(
        update(Message)
        .where(Message.conversation_id.in_(conversation_ids), Message.id <= up_to)
        .where(Message.author != "worker", Message.state.in_(("sent", "delivered")))
        .values(state="read")
        .returning(Message.conversation_id)
        .execution_options(synchronize_session=False)
    ).all()
    for conversation_id in {row[0] for row in rows}:
        announce(session, f"conversation:{conversation_id}")
    return len(rows)


def erase(session: Session, contact_id: int) -> None:
    """Remove a person: words, addresses, names, files' names. The rows stay, to be counted."""
    stamp = now(session)
    conversations = list(
        session.scalars(
            select(Conversation)
            .where(Conversation.contact_id == contact_id)
            .with_for_update()
            .execution_options(populate_existing=True)  # the token as it is now
        )
    )
    for conversation in conversations:
        conversation.address = conversation.address_index = conversation.name = None
        conversation.thread, conversation.state = None, {}
        conversation.due_at = conversation.lease_until = conversation.erase_at = None
        conversation.lease_token += 1
        session.execute(
            update(Message)
            .where(Message.conversation_id == conversation.id)
            .values(
                body="",
                original=None,
                files=0,
                understanding=None,
                external_id=None,
                receipt_index=None,
                params=None,
                buttons=None,
                choice="",
            )
        )
        media.drop(session, select(Message.id).where(Message.conversation_id == conversation.id))
        session.execute(
            update(Message)
            .where(Message.conversation_id == conversation.id)
            .where(Message.state.in_(("queued", "received")))
            .values(state="failed", error="erased at the worker's wish")
        )
        announce(session, f"conversation:{conversation.id}")
    contact = session.get_one(Contact, contact_id)
    contact.preferred_id = contact.safe_from = contact.safe_until = None
    contact.erased_at = stamp


def done(session: Session, message_id: int, understanding: dict[str, Any], language: str) -> None:
    """Note that a message has had its turn, and what was understood."""
    session.execute(
        update(Message)
        .where(Message.id == message_id)
        .values(state="done", understanding=understanding, language=language, done_at=now(session))
    )
    session.execute(
        update(Message)
        .where(Message.id == message_id, Message.kind == "withdrawn")
        .values(body="", original=None, choice="", understanding=None)
    )
    announce(session, "turn")


def is_done(session: Session, message_id: int) -> bool:
    """Whether a message has had its turn."""
    return session.scalar(select(Message.state).where(Message.id == message_id)) != "received"


def to_erase(session: Session) -> list[int]:
    """Conversations whose moment to be erased has come."""
    return list(
        session.scalars(select(Conversation.id).where(Conversation.erase_at <= now(session)))
    )
