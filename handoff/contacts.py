"""One person on several channels: joined by a code that she carries from one to the other herself.

Joining moves conversations to the other's contact, and with them her case; it can be undone, by her
or by a counsellor. Nothing is ever joined on likeness of names or numbers.
"""

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog
from sqlalchemy import ForeignKey, delete, func, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from channels.log import Contact, Conversation
from config.database import Base, announce, now
from config.vault import BlindIndex, vault
from handoff.case import Case, hold_all, open_case, record

log = structlog.get_logger(__name__)

CODE_LIFE = timedelta(minutes=15)
MOST_TRIES = 5
"""Wrong codes from one conversation within `CODE_LIFE`; then also a right one is refused."""
MOST_MISSES = 100
"""The same for all conversations together: new ones cost nothing, so that somebody could guess from
many. With 20 live codes a guesser needs some 12,000 hours at this rate for one hit."""


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
    to_contact_id: Mapped[int] = mapped_column(ForeignKey("contact.id"), index=True)
    staff_id: Mapped[int | None] = mapped_column(ForeignKey("staff.id"))
    at: Mapped[datetime]
    undone_at: Mapped[datetime | None]


class LinkMiss(Base):
    """A wrong code was tried. Many of them mean that somebody guesses."""

    __tablename__ = "link_miss"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(index=True)


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


def forget_codes(session: Session, contact_id: int) -> None:
    """No code that was shown to a contact works any more."""
    own = select(Conversation.id).where(Conversation.contact_id == contact_id)
    session.execute(delete(LinkCode).where(LinkCode.conversation_id.in_(own)))


def link(session: Session, conversation: Conversation, code: str) -> list[Conversation]:
    """Join a conversation with the one in which the code was shown.

    Returns the conversations of the contact that it was joined to, who are to hear of it; none if
    the code is wrong, used, too old, this conversation's own, or if too many were tried: here, or
    anywhere.
    """
    stamp = now(session)
    tries = [
        at
        for at in conversation.state.get("link_tries", ())
        if datetime.fromisoformat(at) > stamp - CODE_LIFE
    ]
    missed = select(func.count()).where(LinkMiss.at > stamp - CODE_LIFE)
    found = None
    if len(tries) < MOST_TRIES and (session.scalar(missed) or 0) < MOST_MISSES:
        found = session.scalar(
            select(LinkCode)
            .where(LinkCode.code_index == vault().index("link", "code", code))
            .where(LinkCode.expires_at > stamp, LinkCode.conversation_id != conversation.id)
            .with_for_update()
        )
    if found is None:
        log.warning("joining_code_wrong", conversation=conversation.id, tries=len(tries) + 1)
        conversation.state = {**conversation.state, "link_tries": [*tries, stamp.isoformat()]}
        session.execute(delete(LinkMiss).where(LinkMiss.at <= stamp - CODE_LIFE))
        session.add(LinkMiss(at=stamp))
        return []
    other = session.get_one(Conversation, found.conversation_id)
    session.delete(found)
    if other.address_index is None:
        return []
    # Conversations before contacts, as everywhere; they are written to below.
    here = select(Conversation).where(Conversation.contact_id == other.contact_id)
    locked = here.order_by(Conversation.id).with_for_update()
    told = list(session.scalars(locked.execution_options(populate_existing=True)))
    if other.contact_id != conversation.contact_id:
        _join(session, conversation.contact_id, other.contact_id, stamp)
        if other.heard_at is not None:  # a code alone does not mean that she is here from now on
            conversation.heard_at = other.heard_at - timedelta(microseconds=1)
    return told


def unlink(
    session: Session,
    conversation: Conversation,
    staff_id: int | None = None,
    all_of_them: bool = False,
) -> bool:
    """Undo joinings; False if there is none.

    A conversation that was joined to others leaves them, with what came along with it. From the
    one that others were joined to (or with `all_of_them`) every joining is undone: whoever got in
    with a stolen code may have brought more.
    """
    live = select(ContactLink).where(ContactLink.undone_at.is_(None))
    into = live.where(ContactLink.to_contact_id == conversation.contact_id)
    own = session.scalar(
        into.where(ContactLink.conversation_id == conversation.id)
        .order_by(ContactLink.id.desc())
        .limit(1)
    )
    if own is not None and not all_of_them:
        into = into.where(
            ContactLink.from_contact_id == own.from_contact_id, ContactLink.at == own.at
        )
    rows = session.scalars(into.order_by(ContactLink.id.desc())).all()
    acts: dict[tuple[int, datetime], list[ContactLink]] = {}
    for row in rows:
        acts.setdefault((row.from_contact_id, row.at), []).append(row)
    for (old, at), act in acts.items():
        _part(session, act, old, at, staff_id)
    return bool(acts)


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


def joined_since(session: Session, conversation: Conversation, moment: datetime) -> bool:
    """Whether this conversation was joined to others after a moment, and still is."""
    return (
        session.scalar(
            select(ContactLink.id)
            .where(ContactLink.conversation_id == conversation.id, ContactLink.at > moment)
            .where(ContactLink.to_contact_id == conversation.contact_id)
            .where(ContactLink.undone_at.is_(None))
            .limit(1)
        )
        is not None
    )


def _part(
    session: Session, act: Sequence[ContactLink], old: int, at: datetime, staff_id: int | None
) -> None:
    """Move what was joined together back, with what it began since, and its cases."""
    stamp, new = now(session), act[0].to_contact_id
    _lock(session, old, new)
    moved = {row.conversation_id for row in act}
    while more := set(
        session.scalars(
            select(Conversation.id)
            .where(Conversation.contact_id == new, Conversation.continues_id.in_(moved))
            .where(Conversation.id.not_in(moved))
        )
    ):
        moved |= more
    session.execute(update(Conversation).where(Conversation.id.in_(moved)).values(contact_id=old))
    for row in act:
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
    session.flush()
    if own and open_case(session, old) is None:
        case = own[-1]
        if case.outcome == "duplicate_merged" and (case.closed_at or stamp) >= at:
            case.status, case.outcome, case.closed_at = "waiting", "", None
            case.claimed_by = case.claimed_at = None
            record(session, case, "unjoined", staff_id)
            session.flush()
    _settle(session, old, new)


def _join(session: Session, old: int, new: int, stamp: datetime) -> None:
    """Move all conversations and cases of a contact to another; of two open cases one stays."""
    _lock(session, old, new)
    mine, hers = open_case(session, old), open_case(session, new)
    if mine is not None and hers is not None:
        _merge(mine, hers)
        mine.status, mine.closed_at, mine.outcome = "closed", stamp, "duplicate_merged"
        record(session, mine, "joined", None, {"reference": hers.reference})
        record(session, hers, "joined", None, {"reference": mine.reference})
    else:
        for case in filter(None, (mine, hers)):
            record(session, case, "joined", None)
    session.flush()
    moved = session.scalars(select(Conversation).where(Conversation.contact_id == old)).all()
    for conversation in moved:
        conversation.contact_id = new
        session.add(
            ContactLink(
                conversation_id=conversation.id,
                from_contact_id=old,
                to_contact_id=new,
                at=stamp,
            )
        )
    session.execute(update(Case).where(Case.contact_id == old).values(contact_id=new))
    session.flush()
    _agree(session.get_one(Contact, old), session.get_one(Contact, new))
    _settle(session, new)


def _merge(mine: Case, hers: Case) -> None:
    """What one open case needs, the other one that stays needs now."""
    if mine.urgency < hers.urgency:
        hers.level, hers.urgency = mine.level, mine.urgency
    hers.risk_types = sorted({*hers.risk_types, *mine.risk_types})
    if hers.status == "released" and mine.status != "released":  # nobody may be left waiting
        hers.status, hers.claimed_by, hers.claimed_at = (
            mine.status,
            mine.claimed_by,
            mine.claimed_at,
        )
        hers.answered_at, hers.due_at = mine.answered_at, mine.due_at
    elif mine.status != "released" and mine.answered_at is None:
        hers.due_at = mine.due_at if hers.answered_at else min(mine.due_at, hers.due_at)
        hers.answered_at = None


def _agree(old: Contact, new: Contact) -> None:
    """What is known of where and when to write to her goes along; the narrower hours count."""
    new.preferred_id = new.preferred_id or old.preferred_id
    if not (old.safe_from and old.safe_until):
        return
    if not (new.safe_from and new.safe_until):
        new.safe_from, new.safe_until = old.safe_from, old.safe_until
        return
    start, end = max(old.safe_from, new.safe_from), min(old.safe_until, new.safe_until)
    plain = old.safe_from < old.safe_until and new.safe_from < new.safe_until
    if plain and start < end:
        new.safe_from, new.safe_until = start, end


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
