"""Cases: what a person must follow up. At most one case per contact is not closed.

`waiting` (in the queue) → `claimed` (a counsellor has it) → `released` (the bot answers again, the
case stays open) or `closed`. While it is waiting or claimed the desk holds the conversations of the
contact.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import JSON, ForeignKey, Index, String, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from channels.log import Contact, Conversation, Holder
from config.database import Base, announce, now
from config.vault import SealedJson
from handoff.hours import LEVELS, Hours

Reason = Literal[
    "asked",
    "risk",
    "unsure",
    "topic",
    "no_text",
    "other_language",
    "failed",
    "attachment",
    "undelivered",
    "call",
]
REFERENCE_LETTERS = "23456789CDFGHJKMNPQRTVWX"
"""Letters of a case number: none that sound or look alike, no vowels that make words."""


class Case(Base):
    """A case. `due_at`: by when a person's answer was promised; `late`: promises missed.

    `conversation_id` is where it began; `contact_id` whose it is, over all her channels.
    """

    __tablename__ = "case"

    id: Mapped[int] = mapped_column(primary_key=True)
    reference: Mapped[str] = mapped_column(String(12), unique=True)
    conversation_id: Mapped[int] = mapped_column(ForeignKey("conversation.id"))
    contact_id: Mapped[int] = mapped_column(ForeignKey("contact.id"))
    status: Mapped[str] = mapped_column(String(12))
    queue: Mapped[str] = mapped_column(String(40))
    reason: Mapped[str] = mapped_column(String(20))
    level: Mapped[str] = mapped_column(String(12))
    urgency: Mapped[int]
    risk_types: Mapped[list[str]] = mapped_column(JSON)
    topic: Mapped[str] = mapped_column(String(60))
    language: Mapped[str] = mapped_column(String(12))
    opened_at: Mapped[datetime]
    due_at: Mapped[datetime]
    answered_at: Mapped[datetime | None]
    claimed_by: Mapped[int | None] = mapped_column(ForeignKey("staff.id"))
    claimed_at: Mapped[datetime | None]
    closed_at: Mapped[datetime | None]
    outcome: Mapped[str] = mapped_column(String(40), default="")
    late: Mapped[int] = mapped_column(default=0)

    __table_args__ = (
        Index(
            "uq_case_open",
            "contact_id",
            unique=True,
            sqlite_where=status != "closed",
            postgresql_where=status != "closed",
        ),
        Index("ix_case_queue", "status", "urgency", "due_at"),
        Index("ix_case_conversation", "conversation_id"),
        Index("ix_case_contact", "contact_id"),
    )


class CaseEvent(Base):
    """What happened to a case, and who read it: the audit. Rows are only ever added."""

    __tablename__ = "case_event"

    id: Mapped[int] = mapped_column(primary_key=True)
    case_id: Mapped[int] = mapped_column(ForeignKey("case.id"), index=True)
    staff_id: Mapped[int | None] = mapped_column(ForeignKey("staff.id"))
    at: Mapped[datetime]
    kind: Mapped[str] = mapped_column(String(20))
    detail: Mapped[dict[str, Any] | None] = mapped_column(SealedJson)


@dataclass(frozen=True, slots=True)
class Handoff:
    """Why a conversation goes to a person. `words`: which words fired, for the counsellor."""

    reason: Reason
    level: str = "none"
    risk_types: tuple[str, ...] = ()
    topic: str = ""
    language: str = ""
    words: tuple[Mapping[str, str], ...] = field(default_factory=tuple)


def hand_over(
    session: Session, conversation: Conversation, handoff: Handoff, hours: Hours
) -> tuple[Case, bool]:
    """Put a conversation into the queue, or raise the case that it already has.

    A level is only ever raised here; lowering it is a person's decision. Returns the case and
    whether the worker needs to hear a (new) promise.
    """
    stamp = now(session)
    due = hours.promise(stamp, handoff.level)
    urgency = LEVELS.index(handoff.level)
    # The contact after the conversation, as everywhere: two of her channels open one case.
    session.execute(
        select(Contact.id).where(Contact.id == conversation.contact_id).with_for_update()
    )
    language = handoff.language.partition("-")[0]  # staff speak Chinese, however it is written
    case = open_case(session, conversation.contact_id)
    detail = {
        "reason": handoff.reason,
        "level": handoff.level,
        "risk_types": list(handoff.risk_types),
        "words": [dict(word) for word in handoff.words],
    }
    if case is None:
        case = Case(
            reference=_reference(session),
            conversation_id=conversation.id,
            contact_id=conversation.contact_id,
            status="waiting",
            queue="counselling",
            reason=handoff.reason,
            level=handoff.level,
            urgency=urgency,
            risk_types=list(handoff.risk_types),
            topic=handoff.topic,
            language=language,
            opened_at=stamp,
            due_at=due,
        )
        session.add(case)
        session.flush()
        news = True
        record(session, case, "opened", None, detail)
    else:
        back = case.status == "released"
        raised = urgency < case.urgency
        fresh = set(handoff.risk_types) - set(case.risk_types)
        news = back or raised
        if back:
            case.status, case.claimed_by, case.claimed_at = "waiting", None, None
            case.answered_at, case.due_at = None, due
        if raised:
            case.level, case.urgency = handoff.level, urgency
            case.due_at = min(due, case.due_at) if case.answered_at is None else due
        case.risk_types = [*case.risk_types, *sorted(fresh)]
        case.topic = case.topic or handoff.topic
        case.language = language or case.language
        if back or raised or fresh:
            record(session, case, "escalated" if raised or fresh else "reopened", None, detail)
    hold_all(session, case.contact_id, "desk")
    announce(session, "queue")
    announce(session, f"case:{case.id}")
    return case, news


def open_case(session: Session, contact_id: int) -> Case | None:
    """The case of a contact that is not closed."""
    return session.scalar(
        select(Case)
        .where(Case.contact_id == contact_id, Case.status != "closed")
        .execution_options(populate_existing=True)
    )


def hold_all(session: Session, contact_id: int, holder: Holder) -> None:
    """Let the desk, or the bot, hold all conversations of a contact."""
    for row in session.scalars(select(Conversation).where(Conversation.contact_id == contact_id)):
        row.holder = holder


def record(
    session: Session,
    case: Case,
    kind: str,
    staff_id: int | None,
    detail: dict[str, Any] | None = None,
) -> None:
    """Add to the audit of a case."""
    session.add(
        CaseEvent(case_id=case.id, staff_id=staff_id, at=now(session), kind=kind, detail=detail)
    )


def _reference(session: Session) -> str:
    while True:
        letters = "".join(secrets.choice(REFERENCE_LETTERS) for _ in range(6))
        reference = f"{letters[:3]}-{letters[3:]}"
        if session.scalar(select(Case.id).where(Case.reference == reference)) is None:
            return reference
