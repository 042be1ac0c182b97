"""A request of Twilio's about a call, and what the log has to say to it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.requests import Request

from channels.log import Conversation, Message, PublishedText, find_conversation
from channels.message import Button, RefusedError, clean

CHANNEL = "voice"
E164 = re.compile(r"\+[1-9]\d{6,14}")
HIDDEN = {"+7378742833", "+2562533", "+8566696", "+266696687", "+86282452253"}
"""What Twilio writes for a number that is not shown (RESTRICTED, BLOCKED, UNKNOWN, ANONYMOUS,
UNAVAILABLE, typed on a keypad)."""
CALL = re.compile(r"CA[0-9a-f]{32}")
NOT_OPTIONS = {"/helpful", "/human"}
"""Buttons that a call needs no key for: 0 is a person everywhere."""


@dataclass(frozen=True, slots=True)
class Call:
    """A step of a call. `number`: the caller's, if it is shown.

    What goes with a call from step to step stands in the query of each URL, which Twilio signs:
    `language`, `step` (rises; names the message that this step brings), `tries` (silences in a
    row), `message` (whose answer was heard last), `keys` (what the keys mean now).
    """

    sid: str
    number: str
    digits: str
    speech: str
    language: str
    step: int
    tries: int
    message: int
    keys: str
    form: Mapping[str, str]
    query: Mapping[str, str]

    @property
    def address(self) -> str:
        """The number; strangers who hide theirs are kept apart, each call by itself."""
        return self.number or f"hidden:{self.sid}"

    def url(self, path: str, **changes: Any) -> str:
        """Path and query of the next step."""
        state: dict[str, Any] = {
            "l": self.language,
            "n": self.step,
            "t": self.tries,
            "m": self.message,
            "k": self.keys,
        }
        kept = {key: value for key, value in (state | changes).items() if value not in ("", 0)}
        return f"/voice/{path}" + (f"?{urlencode(kept)}" if kept else "")

    def whole(self, name: str) -> int:
        """A whole number of the query; 0 if it is none."""
        return _whole(self.query.get(name, ""))


def read(request: Request, form: Mapping[str, str], languages: Mapping[str, Any]) -> Call:
    """The step that Twilio asks for.

    Raises:
        RefusedError: it names no call.
    """
    query = dict(request.query_params)
    sid = form.get("CallSid", "")
    if not CALL.fullmatch(sid):
        raise RefusedError("no CallSid")
    number = form.get("From", "").strip()
    language = query.get("l", "")
    return Call(
        sid=sid,
        number=number if E164.fullmatch(number) and number not in HIDDEN else "",
        digits=form.get("Digits", "").strip()[:1],
        speech=clean(form.get("SpeechResult", "")).strip(),
        language=language if language in languages else "",
        step=_whole(query.get("n", "")),
        tries=_whole(query.get("t", "")),
        message=_whole(query.get("m", "")),
        keys=query.get("k", "")[:10],
        form=form,
        query=query,
    )


def _whole(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


@dataclass(frozen=True, slots=True)
class Spoken:
    """A reply of the bot, with the id of the published text that it is."""

    id: int
    text_id: str
    language: str
    body: str
    buttons: tuple[Button, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the log has in answer to a message; `person`: the counsellors hold the conversation."""

    replies: tuple[Spoken, ...]
    language: str
    person: bool

    @property
    def invites(self) -> bool:
        """Whether the options are only examples of what she can ask."""
        return any(reply.text_id == "menu.topics" for reply in self.replies)

    @property
    def options(self) -> tuple[Button, ...]:
        """What can be chosen by a key."""
        return tuple(
            button
            for reply in self.replies
            for button in reply.buttons
            if button.value not in NOT_OPTIONS and not button.value.startswith("/language ")
        )[:8]


def answer(session: Session, address: str, message_id: int) -> Answer:
    """What the bot answered to a message of this caller."""
    conversation_id = find_conversation(session, CHANNEL, address)
    conversation = None if conversation_id is None else session.get(Conversation, conversation_id)
    if conversation is None:
        return Answer((), "", False)
    rows = session.execute(
        select(Message, PublishedText.text_id)
        .join(PublishedText, PublishedText.id == Message.published_id)
        .where(Message.conversation_id == conversation.id, Message.answers_id == message_id)
        .where(Message.author == "bot")
        .order_by(Message.id)
    ).all()
    replies = tuple(
        Spoken(
            row.id,
            text_id,
            row.language,
            row.body,
            tuple(Button(b["label"], b["value"]) for b in row.buttons or ()),
        )
        for row, text_id in rows
    )
    return Answer(replies, conversation.language, conversation.holder == "desk")


def unheard(session: Session, address: str, sid: str) -> list[int]:
    """The call is over: note that, and return the replies to it that nobody heard."""
    conversation_id = find_conversation(session, CHANNEL, address)
    if conversation_id is None:
        return []
    conversation = session.scalars(
        select(Conversation).where(Conversation.id == conversation_id).with_for_update()
    ).one()
    if (conversation.thread or {}).get("call") not in (None, sid):
        return []  # she has called again meanwhile
    conversation.thread = {"call": sid, "over": True}
    return list(
        session.scalars(
            select(Message.id).where(
                Message.conversation_id == conversation_id,
                Message.author == "bot",
                Message.state == "sent",
                Message.answers_id.is_not(None),
            )
        )
    )


def speaks_to_a_call(session: Session, message_id: int) -> bool:
    """Whether a reply answers words of a call that waits for it, rather than a recording."""
    reply = session.get(Message, message_id)
    if reply is None or reply.author != "bot" or reply.answers_id is None:
        return False
    asked = session.get(Message, reply.answers_id)
    return asked is not None and asked.kind != "voicemail" and asked.edits_id is None
