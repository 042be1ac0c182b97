"""What a call needs of the desk: cases, counsellors to ring, and notes of what happened.

Channels know nothing of cases; `handoff/calls.py` is the real switchboard. Each method is the work
of one transaction: `database.write(switchboard.hand_over, …)`. `call` is Twilio's id of a call
(CallSid); repeating a method for the same call changes nothing, since Twilio may ask twice.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True)
class Placed:
    """A call that was given to the counsellors. `due_at`: by when a person is promised; `open`:
    whether counsellors are there now."""

    case_id: int
    due_at: datetime
    open: bool


@dataclass(frozen=True, slots=True)
class Ringing:
    """The counsellor to ring next: her account and her number (E.164)."""

    staff_id: int
    number: str


@dataclass(frozen=True, slots=True)
class Leg:
    """What a counsellor hears before she is connected: the case's number, the caller's language and
    the languages that the counsellor speaks. `number`: whom she wants to call, where she calls."""

    reference: str
    language: str
    speaks: tuple[str, ...]
    number: str = ""


class Switchboard(Protocol):
    """The desk, as the telephone sees it."""

    def hand_over(self, session: Session, conversation_id: int, call: str, danger: bool) -> Placed:
        """Give a call to the counsellors: its case, opened if there is none."""

    def next_counsellor(
        self, session: Session, case_id: int, call: str, tried: tuple[int, ...]
    ) -> Ringing | None:
        """Who is to be rung next, if anybody is left; those who speak the language come first."""

    def leg(self, session: Session, case_id: int, staff_id: int) -> Leg | None:
        """What a counsellor hears who is rung for a caller."""

    def taken(self, session: Session, case_id: int, staff_id: int, call: str) -> None:
        """A counsellor takes a call, and with it the case, if nobody has it."""

    def talked(self, session: Session, case_id: int, call: str) -> bool:
        """Whether a counsellor took this call."""

    def call_back(self, session: Session, case_id: int, call: str) -> None:
        """Nobody could be reached: somebody is to call back."""

    def recorded(self, session: Session, conversation_id: int, call: str, seconds: int) -> None:
        """She left a recording."""

    def ended(self, session: Session, conversation_id: int, call: str, seconds: int) -> None:
        """She, or we, hung up. Who had asked for a person and got none is to be called back."""

    def by_sms(self, session: Session, conversation_id: int, message_id: int, key: str) -> bool:
        """Send the answer to a message to the caller's number by SMS, in its published words;
        once per `key`. False if there is nothing to send."""

    def outward(
        self, session: Session, case_id: int, staff_id: int, conversation_id: int
    ) -> Leg | None:
        """What a counsellor hears who calls a worker; None if the case is no longer hers."""

    def calling(self, session: Session, case_id: int, staff_id: int, call: str) -> None:
        """The worker's telephone is rung: an attempt, to be counted."""

    def called(
        self, session: Session, case_id: int, staff_id: int, call: str, seconds: int
    ) -> None:
        """How that went; 0 seconds: not answered."""
