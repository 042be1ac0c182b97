"""One person on several channels: joined by a code that she carries from one to the other herself.

Joining moves conversations to the other's contact, and with them her case; it can be undone, by her
or by a counsellor. Nothing is ever joined on likeness of names or numbers.
"""

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import ForeignKey, String, delete, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from channels.log import Contact, Conversation
from config.database import Base, announce, now
from config.vault import BlindIndex, vault
from handoff.case import Case, hold_all, open_case, record

CODE_LIFE = timedelta(minutes=15)
MOST_TRIES = 5
"""Wrong codes from one conversation within `CODE_LIFE`; then also a right one is refused."""


class LinkCode(Base):
    """A code that was shown in a conversation; only its blind index is kept."""

    __tablename__ = "link_code"

    id: Mapped[int] = mapped_column(primary_key=True)
    code_index: Mapped[str] = mapped_column(BlindIndex, unique=True)
    conversation_id: Mapped[int] = mapped_column(ForeignKey("conversation.id"))
    expires_at: Mapped[datetime]


class ContactLink(Base):
    """A conversation that was moved to another contact, and from where. What was moved together
    has the same `at`."""

    __tablename__ = "contact_link"

    id: Mapped[int] = mapped_column(primary_key=True)
    conversation_id: Mapped[int] = mapped_column(ForeignKey("conversation.id"), index=True)
    from_contact_id: Mapped[int] = mapped_column(ForeignKey("contact.id"))
    to_contact_id: Mapped[int] = mapped_column(ForeignKey("contact.id"))
    proof: Mapped[str] = mapped_column(String(12))
    staff_id: Mapped[int | None] = mapped_column(ForeignKey("staff.id"))
    at: Mapped[datetime]
    undone_at: Mapped[datetime | None]


def offer_code(session: Session, conversation: Conversation) -> str:
    """A code of eight digits that joins another conversation to this one; earlier ones end."""
    stamp = now(session)
    session.execute(
        delete(LinkCode).where(
            (LinkCode.conversation_id == conversation.id) | (LinkCode.expires_at < stamp)
        )
    )
    while True:
        code = f"{secrets.randbelow(10**8):08}"
        index = vault().index("link", "code", code)
        if session.scalar(select(LinkCode.id).where(LinkCode.code_index == index)) is None:
            break
    session.add(
        LinkCode(code_index=index, conversation_id=conversation.id, expires_at=stamp + CODE_LIFE)
    )
    return code


def link(session: Session, conversation: Conversation, code: str) -> Conversation | None:
    """Join a conversation with the one in which the code was shown; returns that one.

    None if the code is wrong, used, too old, this conversation's own, or too many were tried.
    """
    stamp = now(session)
    tries = [
        at
        for at in conversation.state.get("link_tries", ())
        if datetime.fromisoformat(at) > stamp - CODE_LIFE
    ]
    found = None
    if len(tries) < MOST_TRIES:
        found = session.scalar(
            select(LinkCode)
            .where(LinkCode.code_index == vault().index("link", "code", code))
            .where(LinkCode.expires_at > stamp, LinkCode.conversation_id != conversation.id)
            .with_for_update()
        )
    if found is None:
        conversation.state = {**conversation.state, "link_tries": [*tries, stamp.isoformat()]}
        return None
    other = session.get_one(Conversation, found.conversation_id)
    session.delete(found)
    if other.address_index is None:
        return None
    if other.contact_id != conversation.contact_id:
        _join(session, conversation.contact_id, other.contact_id, stamp)
    return other


def unlink(session: Session, conversation: Conversation, staff_id: int | None = None) -> bool:
    """Undo the newest joining that this conversation was part of; False if there is none."""
    act = session.scalar(
        select(ContactLink)
        .where(ContactLink.undone_at.is_(None))
        .where(
            (ContactLink.conversation_id == conversation.id)
            | (ContactLink.to_contact_id == conversation.contact_id)
        )
        .order_by(ContactLink.id.desc())
        .limit(1)
    )
    if act is None:
        return False
    rows = session.scalars(
        select(ContactLink).where(
            ContactLink.from_contact_id == act.from_contact_id,
            ContactLink.to_contact_id == act.to_contact_id,
            ContactLink.at == act.at,
            ContactLink.undone_at.is_(None),
        )
    ).all()
    stamp = now(session)
    old, new = act.from_contact_id, act.to_contact_id
    _lock(session, old, new)
    moved = [row.conversation_id for row in rows]
    session.execute(update(Conversation).where(Conversation.id.in_(moved)).values(contact_id=old))
    for row in rows:
        row.undone_at, row.staff_id = stamp, staff_id or row.staff_id
    contact = session.get_one(Contact, new)
    if contact.preferred_id in moved:
        contact.preferred_id = None
    own = session.scalars(
        select(Case)
        .where(Case.contact_id == new, Case.conversation_id.in_(moved))
        .order_by(Case.id)
    ).all()
    for case in own:
        case.contact_id = old
        merged = case.outcome == "duplicate_merged" and (case.closed_at or stamp) >= act.at
        if merged and open_case(session, old) is None:
            case.status, case.outcome, case.closed_at = "waiting", "", None
            case.claimed_by = case.claimed_at = None
            record(session, case, "unjoined", staff_id)
        session.flush()
    _settle(session, old, new)
    return True


def joined(session: Session, contact_id: int) -> bool:
    """Whether a contact has conversations that were joined and can be parted again."""
    return (
        session.scalar(
            select(ContactLink.id)
            .where(ContactLink.to_contact_id == contact_id, ContactLink.undone_at.is_(None))
            .limit(1)
        )
        is not None
    )


def _join(session: Session, old: int, new: int, stamp: datetime) -> None:
    """Move all conversations and cases of a contact to another; of two open cases one stays."""
    _lock(session, old, new)
    mine, hers = open_case(session, old), open_case(session, new)
    if mine is not None and hers is not None:
        if mine.urgency < hers.urgency:
            hers.level, hers.urgency = mine.level, mine.urgency
        if hers.answered_at is None and mine.due_at < hers.due_at:
            hers.due_at = mine.due_at
        hers.risk_types = sorted({*hers.risk_types, *mine.risk_types})
        mine.status, mine.closed_at, mine.outcome = "closed", stamp, "duplicate_merged"
        record(session, mine, "joined", None, {"reference": hers.reference})
        record(session, hers, "joined", None, {"reference": mine.reference})
    elif mine is not None:
        record(session, mine, "joined", None)
    elif hers is not None:
        record(session, hers, "joined", None)
    session.flush()
    moved = session.scalars(select(Conversation).where(Conversation.contact_id == old)).all()
    for conversation in moved:
        conversation.contact_id = new
        session.add(
            ContactLink(
                conversation_id=conversation.id,
                from_contact_id=old,
                to_contact_id=new,
                proof="code",
                at=stamp,
            )
        )
    session.execute(update(Case).where(Case.contact_id == old).values(contact_id=new))
    session.flush()
    _settle(session, new)


def _lock(session: Session, *contact_ids: int) -> None:
    session.execute(
        select(Contact.id).where(Contact.id.in_(contact_ids)).order_by(Contact.id).with_for_update()
    )


def _settle(session: Session, *contact_ids: int) -> None:
    """Each contact's conversations are held as its open case demands."""
    for contact_id in contact_ids:
        case = open_case(session, contact_id)
        held: Sequence[str] = ("waiting", "claimed")
        hold_all(session, contact_id, "desk" if case and case.status in held else "bot")
        if case is not None:
            announce(session, f"case:{case.id}")
    announce(session, "queue")
