"""Calls: whom to ring for a caller, calls back and how often they were tried, calls to a worker.

This is the switchboard of `channels/voice`. Everything stands in the history of the case: its
events tell whether somebody is still to be called back.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from sqlalchemy import select
from sqlalchemy.orm import Session

from channels.log import (
    Contact,
    Conversation,
    Line,
    Message,
    PublishedText,
    find_conversation,
    free,
    open_conversation,
    safe_time,
    say,
)
from channels.voice.switchboard import Leg, Placed, Ringing
from config.database import announce, now
from config.texts import Text
from config.vault import vault
from handoff.case import Case, CaseEvent, Handoff, hand_over, hold_all, record
from handoff.desk import Desk, DeskError, Event
from handoff.staff import Person, Staff, StaffError

TIMELINE = frozenset(
    {"call_started", "call_rang", "call_connected", "call_missed", "call_ended", "voicemail"}
    | {"callback_due", "callback_tried"}
)
"""Events that also stand between the messages of the conversation."""
RINGS = timedelta(seconds=40)
"""For so long a counsellor's telephone may ring before she can try again."""


class Telephone(Protocol):
    """What rings a counsellor; the voice channel is one."""

    async def ring(self, number: str, case_id: int, staff_id: int, conversation_id: int) -> str:
        """Ring her; once she has picked up, the worker is rung."""


@dataclass(frozen=True, slots=True)
class Calls:
    """The switchboard; see `channels.voice.switchboard`. Each method is one transaction."""

    desk: Desk

    # -- a worker calls -----------------------------------------------------------------------

    def hand_over(self, session: Session, conversation_id: int, call: str, danger: bool) -> Placed:
        """Give a call to the counsellors: its case, opened if there is none."""
        conversation = session.scalars(
            select(Conversation).where(Conversation.id == conversation_id).with_for_update()
        ).one()
        level = "emergency" if danger else "none"
        handoff = Handoff("call", level, language=conversation.language)
        case, _ = hand_over(session, conversation, handoff, self.desk.hours)
        self._once(session, case, "call_started", call)
        return Placed(case.id, case.due_at, self.desk.hours.is_open(now(session)))

    def next_counsellor(
        self, session: Session, case_id: int, call: str, tried: tuple[int, ...]
    ) -> Ringing | None:
        """Who is to be rung next: whose case it is, then who speaks the language, then the rest."""
        case = self._lock(session, case_id)
        if case is None:
            return None
        ready = [
            one
            for one in session.scalars(select(Staff).where(Staff.active, Staff.on_duty))
            if one.phone and "counsellor" in one.roles and one.id not in tried
        ]
        ready.sort(
            key=lambda one: (
                one.id != case.claimed_by,
                case.language not in one.languages,
                _order(one.id, call),
            )
        )
        if not ready:
            return None
        self._once(session, case, "call_rang", call, ready[0].id)
        return Ringing(ready[0].id, ready[0].phone or "")

    def leg(self, session: Session, case_id: int, staff_id: int) -> Leg | None:
        """What a counsellor hears who is rung for a caller."""
        case, staff = session.get(Case, case_id), session.get(Staff, staff_id)
        if case is None or staff is None:
            return None
        return Leg(case.reference, case.language, tuple(staff.languages))

    def taken(self, session: Session, case_id: int, staff_id: int, call: str) -> None:
        """A counsellor takes a call, and with it the case, if nobody has it."""
        case = self._lock(session, case_id)
        if case is None or session.get(Staff, staff_id) is None:
            return
        if case.status in ("waiting", "released"):
            case.status, case.claimed_by, case.claimed_at = "claimed", staff_id, now(session)
            hold_all(session, case.contact_id, "desk")
            record(session, case, "claimed", staff_id)
            announce(session, "queue")
        case.answered_at = case.answered_at or now(session)
        self._once(session, case, "call_connected", call, staff_id)

    def talked(self, session: Session, case_id: int, call: str) -> bool:
        """Whether a counsellor took this call."""
        return bool(_events(session, case_id, "call_connected", call))

    def call_back(self, session: Session, case_id: int, call: str) -> None:
        """Nobody could be reached: somebody is to call back, if there is a number."""
        case = self._lock(session, case_id)
        if case is not None and number_of(session, case.contact_id):
            self._once(session, case, "callback_due", call)

    def recorded(self, session: Session, conversation_id: int, call: str, seconds: int) -> None:
        """She left a recording: a case with a call back, whatever became of the case meanwhile."""
        placed = self.hand_over(session, conversation_id, call, danger=False)
        case = session.get_one(Case, placed.case_id)
        self._once(session, case, "voicemail", call, seconds=seconds)
        if number_of(session, case.contact_id):
            self._once(session, case, "callback_due", call)

    def ended(self, session: Session, conversation_id: int, call: str, seconds: int) -> None:
        """She, or we, hung up. Who had asked for a person and got none is to be called back."""
        contact_id = session.get_one(Conversation, conversation_id).contact_id
        newest = select(Case.id).where(Case.contact_id == contact_id).order_by(Case.id.desc())
        case_id = session.scalar(newest.limit(1))
        case = None if case_id is None else self._lock(session, case_id)
        if case is None or not _events(session, case.id, "call_started", call):
            return
        self._once(session, case, "call_ended", call, seconds=seconds)
        if not _events(session, case.id, "call_connected", call) and case.status != "closed":
            self.call_back(session, case.id, call)

    def by_sms(self, session: Session, conversation_id: int, message_id: int, key: str) -> bool:
        """Send the answer to a message to the caller's number by SMS, in its published words."""
        conversation = session.get_one(Conversation, conversation_id)
        index = vault().index("voice", "by sms", key)
        if session.scalar(select(Message.id).where(Message.external_index == index)) is not None:
            return True
        rows = session.execute(
            select(Message, PublishedText)
            .join(PublishedText, PublishedText.id == Message.published_id)
            .where(Message.conversation_id == conversation_id, Message.answers_id == message_id)
            .where(PublishedText.text_id.startswith("faq/"))
            .order_by(Message.id)
        ).all()
        if not rows or conversation.address is None:
            return False
        target = self._sms(session, conversation)
        free(session, target.id)  # she asked for it, so it is safe now
        for number, (_, published) in enumerate(rows):
            line = Line(self._short(session, published))
            say(session, target, line, self.desk.published, message_id)
            session.flush()
            newest = select(Message).where(Message.conversation_id == target.id)
            row = session.scalars(newest.order_by(Message.id.desc()).limit(1)).one()
            if not number:
                row.external_index = index
        return True

    def _sms(self, session: Session, conversation: Conversation) -> Conversation:
        """The SMS conversation at a caller's number; a new one belongs to the same contact."""
        assert conversation.address is not None  # noqa: S101 - looked at before
        found = find_conversation(session, "sms", conversation.address)
        target = session.get_one(
            Conversation, found or open_conversation(session, "sms", conversation.address)
        )
        if found is None:
            alone = target.contact_id
            target.contact_id = conversation.contact_id
            target.holder = conversation.holder
            session.flush()
            session.delete(session.get_one(Contact, alone))
        if not target.language:
            target.language = conversation.language
            target.language_chosen = conversation.language_chosen
        return target

    def _short(self, session: Session, published: PublishedText) -> Text:
        """The text in its edition for SMS, if there is one in force; else as it was heard."""
        topic = published.text_id.removesuffix("/voice")
        for text_id in (f"{topic}/sms", topic):
            for row in session.scalars(
                select(PublishedText)
                .where(PublishedText.text_id == text_id)
                .where(PublishedText.language == published.language)
                .order_by(PublishedText.version.desc())
                .limit(1)
            ):
                return Text(row.text_id, row.language, row.body, row.review)
        return Text(published.text_id, published.language, published.body, published.review)

    # -- a counsellor calls -------------------------------------------------------------------

    def begin(
        self, session: Session, case_id: int, person: Person, at_once: bool
    ) -> tuple[str, int]:
        """Let a counsellor call the worker of her case; returns the counsellor's own number and the
        conversation whose number will be rung.

        Raises:
            DeskError: not her case, no number, not a safe time, or her telephone rings already.
        """
        case, _ = self.desk._mine(session, case_id, person)
        staff = session.get_one(Staff, person.id)
        if not staff.phone:
            raise DeskError("Write down your own telephone number first (menu: My telephone).")
        way = _way(session, case.contact_id)
        if way is None:
            raise DeskError("No telephone number of the worker is known.")
        contact = session.get_one(Contact, case.contact_id)
        if safe_time(contact, now(session)) is not None and not at_once:
            raise DeskError("It is not her safe time now. Confirm that you call all the same.")
        newest = session.scalar(
            select(CaseEvent.at)
            .where(CaseEvent.case_id == case_id, CaseEvent.kind == "call_asked")
            .order_by(CaseEvent.id.desc())
            .limit(1)
        )
        if newest is not None and now(session) - newest < RINGS:
            raise DeskError("Your telephone is being rung already. Wait a moment.")
        record(session, case, "call_asked", person.id)
        announce(session, f"case:{case.id}")
        return staff.phone, way.id

    def outward(
        self, session: Session, case_id: int, staff_id: int, conversation_id: int
    ) -> Leg | None:
        """What a counsellor hears who calls a worker; None if the case is no longer hers."""
        case, staff = session.get(Case, case_id), session.get(Staff, staff_id)
        if case is None or staff is None or case.claimed_by != staff_id:
            return None
        way = _way(session, case.contact_id, conversation_id)
        if case.status != "claimed" or way is None or way.address is None:
            return None
        return Leg(case.reference, case.language, tuple(staff.languages), way.address)

    def calling(self, session: Session, case_id: int, staff_id: int, call: str) -> None:
        """The worker's telephone is rung: an attempt, to be counted."""
        case = self._lock(session, case_id)
        if case is not None and session.get(Staff, staff_id) is not None:
            self._once(session, case, "callback_tried", call, staff_id)

    def called(
        self, session: Session, case_id: int, staff_id: int, call: str, seconds: int
    ) -> None:
        """How that went; 0 seconds: not answered."""
        case = self._lock(session, case_id)
        if case is None or session.get(Staff, staff_id) is None:
            return
        if seconds:
            case.answered_at = case.answered_at or now(session)
        kind = "call_connected" if seconds else "call_missed"
        self._once(session, case, kind, call, staff_id, seconds=seconds)

    # -- parts --------------------------------------------------------------------------------

    def _lock(self, session: Session, case_id: int) -> Case | None:
        """A case, for a step that changes it: its conversation first, as everywhere."""
        try:
            return self.desk._case(session, case_id, lock=True)[0]
        except DeskError:
            return None

    def _once(
        self,
        session: Session,
        case: Case,
        kind: str,
        call: str,
        staff_id: int | None = None,
        **detail: Any,
    ) -> None:
        """Write an event down, once for each call (and counsellor): Twilio may ask twice."""
        known = _events(session, case.id, kind, call)
        if all(event.staff_id != staff_id for event in known):
            record(session, case, kind, staff_id, {"call": call, **detail})
            announce(session, f"case:{case.id}")
            announce(session, "queue")


@dataclass(frozen=True, slots=True)
class Callback:
    """Whether a worker waits for a call, since when, how often she was called, and when last."""

    due: bool = False
    since: datetime | None = None
    tried: int = 0
    last: datetime | None = None


def callback(events: Iterable[Event]) -> Callback:
    """What the history of a case says about calling back."""
    state = Callback()
    for event in events:
        if event.kind == "callback_due":
            since = state.since if state.due else event.at
            state = Callback(True, since, state.tried if state.due else 0, state.last)
        elif event.kind == "callback_tried":
            state = Callback(state.due, state.since, state.tried + 1, event.at)
        elif event.kind == "call_connected":
            state = Callback(False, None, state.tried, state.last)
    return state


def number_of(session: Session, contact_id: int) -> bool:
    """Whether a telephone number of a contact is known."""
    return _way(session, contact_id) is not None


def set_phone(session: Session, staff_id: int, number: str, on_duty: bool) -> None:
    """Note where calls are put through to somebody, and whether they are now.

    Raises:
        StaffError: no telephone number, or on duty without one.
    """
    row = session.get_one(Staff, staff_id)
    phone = e164(number)
    if number.strip() and not phone:
        raise StaffError("Write the telephone number as 090-1234-5678 or +81 90 1234 5678.")
    if on_duty and not phone:
        raise StaffError("Calls need a telephone number.")
    row.phone, row.on_duty = phone or None, on_duty


def e164(number: str) -> str:
    """A telephone number in international form; Japan's own is understood; "" if it is none."""
    plain = re.sub(r"[\s().\-‐–ー－]", "", number.translate(_HALF))
    if re.fullmatch(r"0[1-9]\d{8,9}", plain):
        return f"+81{plain[1:]}"
    return plain if re.fullmatch(r"\+[1-9]\d{6,14}", plain) else ""


_HALF = str.maketrans("０１２３４５６７８９＋", "0123456789+")


def _order(staff_id: int, call: str) -> str:
    """An order of counsellors that differs from call to call, so that not always one is first."""
    return hashlib.sha256(f"{staff_id}/{call}".encode()).hexdigest()


def _events(session: Session, case_id: int, kind: str, call: str) -> list[CaseEvent]:
    found = session.scalars(
        select(CaseEvent).where(CaseEvent.case_id == case_id, CaseEvent.kind == kind)
    )
    return [event for event in found if (event.detail or {}).get("call") == call]


def _way(session: Session, contact_id: int, conversation_id: int = 0) -> Conversation | None:
    """The conversation whose number is to be rung: the named one, else the telephone before SMS."""
    found = session.scalars(
        select(Conversation)
        .where(Conversation.contact_id == contact_id, Conversation.channel.in_(("voice", "sms")))
        .order_by(Conversation.channel.desc(), Conversation.heard_at.desc(), Conversation.id.desc())
    )
    able = [one for one in found if e164(one.address or "") and not one.stopped]
    named = [one for one in able if one.id == conversation_id]
    return next(iter(named or able), None)
