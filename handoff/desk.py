"""What counsellors do with cases. Every action is authorised by its route and audited here.

A conversation moves only here and in `case.hand_over`: claim, put back, release to the bot, close.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from channels.log import (
    Contact,
    Conversation,
    Line,
    Published,
    erase,
    moments,
    reconsider,
    resend,
    say,
    unsafe_until,
    write,
)
from channels.media import find
from channels.message import Attachment, Moment
from config.database import announce, now
from config.texts import Texts
from handoff.case import Case, CaseEvent, Handoff, hand_over, hold_all, open_case, record
from handoff.contacts import forget_codes, joined, joined_since, unlink
from handoff.hours import Hours
from handoff.staff import Person, Staff

CLOCK = re.compile(r"([01]\d|2[0-3]):[0-5]\d")
TRUSTED_AFTER = timedelta(days=7)
"""After this time a joined channel may also erase."""
READ_AGAIN = 600
"""Seconds within which looking at the same case again is not a new entry of the audit."""


class DeskError(ValueError):
    """An action that the state of the case does not allow; the text is for the counsellor."""


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A case in the list: nothing of who the worker is, nothing of what she wrote."""

    id: int
    reference: str
    status: str
    level: str
    risk_types: tuple[str, ...]
    reason: str
    topic: str
    language: str
    channel: str
    opened_at: datetime
    due_at: datetime
    answered_at: datetime | None
    closed_at: datetime | None
    outcome: str
    late: int
    claimed_by: int | None
    claimed_name: str
    overdue: bool


@dataclass(frozen=True, slots=True)
class Event:
    """An entry of the audit, with the name of who did it."""

    kind: str
    at: datetime
    by: str
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Way:
    """A conversation of the case's contact: a way to write to her. `chosen`: where replies go."""

    id: int
    channel: str
    address: str
    heard_at: datetime | None
    stopped: bool
    preferred: bool
    chosen: bool


@dataclass(frozen=True, slots=True)
class CaseView:
    """A case as its counsellor reads it: what was said on all channels of the contact.

    `safe`: the time of day in which it is safe to write to her, or None; `safe_at`: when that is
    next, None if it is now.
    """

    row: QueueRow
    name: str
    erased: bool
    ways: tuple[Way, ...]
    safe: tuple[str, str] | None
    safe_at: datetime | None
    joined: bool
    transcript: tuple[Moment, ...]
    events: tuple[Event, ...]

    @property
    def way(self) -> Way | None:
        """Where a reply goes."""
        return next((way for way in self.ways if way.chosen), None)

    @property
    def stopped(self) -> bool:
        """Whether she cannot be written to anywhere."""
        return not self.erased and self.way is None


class Desk:
    """The counsellors' actions, each one transaction: `database.write(desk.claim, …)`."""

    def __init__(self, texts: Texts, published: Published, hours: Hours) -> None:
        self.texts, self.published, self.hours = texts, published, hours

    # -- reading ------------------------------------------------------------------------------

    def queue(self, session: Session, status: str, limit: int = 200) -> list[QueueRow]:
        """Cases of a status, the most urgent and longest promised first (closed: newest first)."""
        order = (
            (Case.closed_at.desc(),) if status == "closed" else (Case.urgency, Case.due_at, Case.id)
        )
        rows = session.execute(
            select(Case, Conversation.channel, Staff.name)
            .join(Conversation, Conversation.id == Case.conversation_id)
            .outerjoin(Staff, Staff.id == Case.claimed_by)
            .where(Case.status == status)
            .order_by(*order)
            .limit(limit)
        ).all()
        stamp = now(session)
        return [_row(case, channel, name, stamp) for case, channel, name in rows]

    def counts(self, session: Session) -> dict[str, int]:
        """How many cases are in each status that is not closed, and how many of them are late."""
        counted: dict[str, int] = dict(
            session.execute(
                select(Case.status, func.count())
                .where(Case.status != "closed")
                .group_by(Case.status)
            ).all()
        )
        counted["overdue"] = (
            session.scalar(
                select(func.count())
                .select_from(Case)
                .where(Case.status.in_(("waiting", "claimed")), Case.answered_at.is_(None))
                .where(Case.due_at < now(session))
            )
            or 0
        )
        return counted

    def view(self, session: Session, case_id: int, person: Person) -> CaseView:
        """A case with its transcript; that it was read is audited."""
        case, conversation = self._case(session, case_id)
        stamp = now(session)
        if not self._recently(session, case_id, person, "viewed"):
            record(session, case, "viewed", person.id)
        names = dict(session.execute(select(Staff.id, Staff.name)).all())
        events = session.scalars(
            select(CaseEvent).where(CaseEvent.case_id == case_id).order_by(CaseEvent.id)
        )
        contact = session.get_one(Contact, case.contact_id)
        conversations = _conversations(session, case.contact_id)
        chosen = _chosen(contact, conversations)
        return CaseView(
            row=_row(case, conversation.channel, names.get(case.claimed_by or 0), stamp),
            name=next((one.name for one in conversations if one.name), ""),
            erased=contact.erased_at is not None,
            ways=tuple(
                Way(
                    one.id,
                    one.channel,
                    one.address or "",
                    one.heard_at,
                    one.stopped,
                    one.id == contact.preferred_id,
                    one is chosen,
                )
                for one in conversations
            ),
            safe=(contact.safe_from, contact.safe_until)
            if contact.safe_from and contact.safe_until
            else None,
            safe_at=unsafe_until(session, chosen) if chosen else None,
            joined=joined(session, contact.id),
            transcript=tuple(moments(session, [one.id for one in conversations], newest=True)),
            events=tuple(
                Event(
                    event.kind,
                    event.at,
                    names.get(event.staff_id, "") if event.staff_id else "",
                    event.detail or {},
                )
                for event in events
            ),
        )

    def conversations_of(self, session: Session, case_id: int) -> list[int]:
        """The conversations of a case's contact."""
        case, _ = self._case(session, case_id)
        return [one.id for one in _conversations(session, case.contact_id)]

    # -- acting -------------------------------------------------------------------------------

    def claim(self, session: Session, case_id: int, person: Person) -> None:
        """Take a case. The worker hears that a counsellor is here.

        Raises:
            DeskError: somebody else has it, or it is closed.
        """
        case, _ = self._case(session, case_id, lock=True)
        if case.status == "claimed":
            if case.claimed_by == person.id:
                return
            holder = session.get_one(Staff, case.claimed_by).name
            raise DeskError(f"{holder} already has this case.")
        if case.status == "closed":
            raise DeskError("This case is closed.")
        case.status, case.claimed_by, case.claimed_at = "claimed", person.id, now(session)
        hold_all(session, case.contact_id, "desk")
        record(session, case, "claimed", person.id)
        self._tell(session, case, "case.claimed")
        self._changed(session, case)

    def reply(
        self,
        session: Session,
        case_id: int,
        person: Person,
        text: str,
        key: str,
        attachments: Sequence[Attachment] = (),
        conversation_id: int = 0,
        at_once: bool = False,
    ) -> bool:
        """Write to the worker: in the conversation she prefers, else in the one she used last.

        Outside her safe hours the reply waits, until they begin or she writes, unless `at_once`.
        Returns whether the reply is new (a repeated key is not).

        Raises:
            DeskError: not her case, nothing written, or the worker cannot be written to.
        """
        case, _ = self._mine(session, case_id, person)
        if not text.strip() and not attachments:
            raise DeskError("Write something first.")
        contact = session.get_one(Contact, case.contact_id)
        conversations = _conversations(session, case.contact_id)
        if contact.erased_at is not None:
            raise DeskError("The worker had her data erased; there is nobody to write to.")
        if conversation_id:  # words for one channel never go to another
            conversations = [one for one in conversations if one.id == conversation_id]
            if not conversations:
                raise DeskError("Choose one of her channels.")
        conversation = _chosen(contact, conversations)
        if conversation is None:
            raise DeskError("The worker asked for no more messages. Wait until she writes again.")
        message_id, new = write(
            session, conversation, text.strip(), person.id, key, attachments, at_once
        )
        if new:
            case.answered_at = case.answered_at or now(session)
            record(session, case, "replied", person.id, {"message": message_id})
            self._changed(session, case)
        return new

    def file(
        self, session: Session, case_id: int, person: Person, number: int
    ) -> Attachment | None:
        """A file of a case's conversations; that it was opened is audited."""
        case, _ = self._case(session, case_id)
        own = {one.id for one in _conversations(session, case.contact_id)}
        found = find(session, number, own)
        if found is not None and not self._recently(session, case_id, person, "file_opened"):
            record(session, case, "file_opened", person.id, {"file": number})
        return found

    def part(self, session: Session, case_id: int, person: Person) -> None:
        """Undo all joinings of the case's contact, who is not one person after all.

        Raises:
            DeskError: not her case, or they were not joined.
        """
        case, conversation = self._mine(session, case_id, person)
        if not unlink(session, conversation, person.id, all_of_them=True):
            raise DeskError("These conversations were not joined.")
        record(session, case, "parted", person.id)
        self._changed(session, case)

    def ways_to_write(
        self,
        session: Session,
        case_id: int,
        person: Person,
        preferred: int,
        safe: tuple[str, str] | None,
    ) -> None:
        """Note where (0: where she wrote last) and at what time of day she wants to be written to.

        Raises:
            DeskError: not her case, no such conversation, no such time.
        """
        case, _ = self._mine(session, case_id, person)
        contact = session.get_one(Contact, case.contact_id)
        known = {one.id for one in _conversations(session, case.contact_id)}
        if preferred and preferred not in known:
            raise DeskError("Choose one of her channels.")
        if safe and not all(CLOCK.fullmatch(clock) for clock in safe):
            raise DeskError("Write times as 09:00.")
        contact.preferred_id = preferred or None
        contact.safe_from, contact.safe_until = safe or (None, None)
        reconsider(session, contact.id)
        record(session, case, "ways_noted", person.id)
        self._changed(session, case)

    def note(self, session: Session, case_id: int, person: Person, text: str) -> None:
        """Write an internal note that the worker never sees.

        Raises:
            DeskError: nothing written.
        """
        case, _ = self._case(session, case_id, lock=True)
        if not text.strip():
            raise DeskError("Write something first.")
        record(session, case, "noted", person.id, {"text": text.strip()[:10_000]})
        self._changed(session, case)

    def put_back(self, session: Session, case_id: int, person: Person) -> None:
        """Give a claimed case back to the queue, with its promise as it was.

        A manager may do it for a colleague who is away: nobody is to wait for an empty chair.
        """
        case, _ = self._case(session, case_id, lock=True)
        if case.status != "claimed" or not person.may("manager"):
            case, _ = self._mine(session, case_id, person)
        case.status, case.claimed_by, case.claimed_at = "waiting", None, None
        record(session, case, "put_back", person.id)
        self._changed(session, case)

    def release(self, session: Session, case_id: int, person: Person) -> None:
        """Let the bot answer again; the case stays open and comes back if she asks for a person."""
        case, _ = self._mine(session, case_id, person)
        case.status = "released"
        hold_all(session, case.contact_id, "bot")
        record(session, case, "released", person.id)
        self._tell(session, case, "case.released")
        self._changed(session, case)

    def close(
        self,
        session: Session,
        case_id: int,
        person: Person,
        outcome: str,
        outcomes: Mapping[str, Any],
    ) -> None:
        """End a case with an outcome; the bot answers again.

        Raises:
            DeskError: not her case, or no such outcome.
        """
        case, _ = self._case(session, case_id, lock=True)
        if case.status != "released":
            case, _ = self._mine(session, case_id, person)
        if outcome not in outcomes:
            raise DeskError("Choose how the case ended.")
        case.status, case.closed_at, case.outcome = "closed", now(session), outcome
        hold_all(session, case.contact_id, "bot")
        record(session, case, "closed", person.id, {"outcome": outcome})
        self._tell(session, case, "case.closed", reference=case.reference)
        self._changed(session, case)

    def resend(self, session: Session, case_id: int, person: Person, message_id: int) -> None:
        """Send a failed or kept message once more.

        Raises:
            DeskError: there is no such message in the case.
        """
        case, _ = self._mine(session, case_id, person)
        own = [one.id for one in _conversations(session, case.contact_id)]
        if not resend(session, message_id, own):
            raise DeskError("This message needs no second sending.")
        record(session, case, "resent", person.id, {"message": message_id})
        self._changed(session, case)

    # -- on the desk's own account ------------------------------------------------------------

    def keep_promises(self, session: Session) -> int:
        """Tell workers whose promise was missed a new one, once; mark their cases late."""
        stamp = now(session)
        overdue = session.scalars(
            select(Case)
            .where(Case.status == "waiting", Case.due_at < stamp, Case.answered_at.is_(None))
            .where(Case.late == 0)
            .order_by(Case.id)
            .limit(100)
            .with_for_update(skip_locked=True)
        ).all()
        for case in overdue:
            conversation = self._where(session, case)
            case.late += 1
            case.due_at = self.hours.promise(stamp, "none")
            when = self.texts.when(case.due_at, self._language(conversation))
            self._tell(session, case, "handoff.delayed", when=when, reference=case.reference)
            record(session, case, "promise_missed", None)
            self._changed(session, case)
        return len(overdue)

    def forget(self, session: Session, conversation_id: int) -> None:
        """Erase a worker at her own wish; her open case ends as withdrawn, and is still counted.

        A channel that was joined only lately is parted first: whoever stole a code must not be
        able to erase the other's words and case.
        """
        conversation = session.get_one(Conversation, conversation_id)
        if joined_since(session, conversation, now(session) - TRUSTED_AFTER):
            unlink(session, conversation)
        contact_id = conversation.contact_id
        case = open_case(session, contact_id)
        if case is not None:
            case.status, case.closed_at, case.outcome = "closed", now(session), "withdrawn_by_user"
            record(session, case, "closed", None, {"outcome": case.outcome})
            self._changed(session, case)
        for row in session.scalars(
            select(CaseEvent)
            .join(Case, Case.id == CaseEvent.case_id)
            .where(Case.contact_id == contact_id)
        ):
            row.detail = None  # notes and the words that raised the risk are hers, too
        forget_codes(session, contact_id)
        erase(session, contact_id)

    def undelivered(self, session: Session, conversation_id: int) -> None:
        """Words to a worker are lost for good: somebody is to find another way to her."""
        conversation = session.get_one(Conversation, conversation_id)
        if conversation.stopped or conversation.address_index is None:
            return
        handoff = Handoff("undelivered", language=conversation.language)
        case, _ = hand_over(session, conversation, handoff, self.hours)
        self._changed(session, case)

    def _recently(self, session: Session, case_id: int, person: Person, kind: str) -> bool:
        """Whether that somebody looked is in the audit already."""
        last = session.scalar(
            select(func.max(CaseEvent.at)).where(
                CaseEvent.case_id == case_id,
                CaseEvent.staff_id == person.id,
                CaseEvent.kind == kind,
            )
        )
        return last is not None and (now(session) - last).total_seconds() <= READ_AGAIN

    # -- parts --------------------------------------------------------------------------------

    def _case(
        self, session: Session, case_id: int, lock: bool = False
    ) -> tuple[Case, Conversation]:
        conversation_id = session.scalar(select(Case.conversation_id).where(Case.id == case_id))
        if conversation_id is None:
            raise DeskError("There is no such case.")
        wanted = select(Conversation).where(Conversation.id == conversation_id)
        if lock:  # the conversation first, as everywhere, so that nobody waits in a circle
            wanted = wanted.with_for_update()
        conversation = session.scalars(wanted).one()
        if lock:  # then the contact: nobody joins or parts her channels meanwhile
            of, locked = select(Case.contact_id).where(Case.id == case_id), 0
            while (contact_id := session.scalar(of)) != locked:
                session.get(Contact, contact_id, with_for_update=True, populate_existing=True)
                locked = contact_id or 0
        return session.get_one(Case, case_id, populate_existing=True), conversation

    def _mine(self, session: Session, case_id: int, person: Person) -> tuple[Case, Conversation]:
        case, conversation = self._case(session, case_id, lock=True)
        if case.status != "claimed":
            raise DeskError("Take the case first.")
        if case.claimed_by != person.id:
            holder = session.get_one(Staff, case.claimed_by).name
            raise DeskError(f"{holder} has this case.")
        return case, conversation

    def _language(self, conversation: Conversation) -> str:
        spoken = conversation.language
        return spoken if spoken.partition("-")[0] in self.texts.languages else "en"

    def _where(self, session: Session, case: Case) -> Conversation:
        """The conversation in which the worker is to hear about her case."""
        contact = session.get_one(Contact, case.contact_id)
        found = _chosen(contact, _conversations(session, case.contact_id))
        return found or session.get_one(Conversation, case.conversation_id)

    def _tell(self, session: Session, case: Case, text_id: str, **params: str) -> None:
        conversation = self._where(session, case)
        if conversation.stopped or conversation.address_index is None:
            return
        language = self._language(conversation)
        text = self.texts(text_id, language)
        line = Line(text, text.needed({**self.texts.params(language), **params}))
        say(session, conversation, line, self.published)

    def _changed(self, session: Session, case: Case) -> None:
        announce(session, "queue")
        announce(session, f"case:{case.id}")


def _conversations(session: Session, contact_id: int) -> list[Conversation]:
    """A contact's conversations, the one that she used last first."""
    found = session.scalars(select(Conversation).where(Conversation.contact_id == contact_id))
    never = datetime.min.replace(tzinfo=UTC)
    return sorted(found, key=lambda one: (one.heard_at or never, one.id), reverse=True)


def _chosen(contact: Contact, conversations: Sequence[Conversation]) -> Conversation | None:
    """Where to write: the conversation that she prefers, else the one she used last."""
    open_ones = [one for one in conversations if not one.stopped and one.address_index]
    preferred = [one for one in open_ones if one.id == contact.preferred_id]
    return next(iter(preferred or open_ones), None)


def _row(case: Case, channel: str, name: str | None, stamp: datetime) -> QueueRow:
    return QueueRow(
        id=case.id,
        reference=case.reference,
        status=case.status,
        level=case.level,
        risk_types=tuple(case.risk_types),
        reason=case.reason,
        topic=case.topic,
        language=case.language,
        channel=channel,
        opened_at=case.opened_at,
        due_at=case.due_at,
        answered_at=case.answered_at,
        closed_at=case.closed_at,
        outcome=case.outcome,
        late=case.late,
        claimed_by=case.claimed_by,
        claimed_name=name or "",
        overdue=case.answered_at is None and case.status != "closed" and case.due_at < stamp,
    )
