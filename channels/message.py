"""What passes between channels and the desk, and the contract of a channel.

A channel is one class in one file. It checks what arrives, turns it into an `InboundMessage` or a
`Notice` and hands it to the desk (`Inbox.accept`, `Inbox.note`: written down durably, duplicates
dropped); only then it acknowledges.
It sends an `OutboundMessage` or raises a `SendError`, whose class says what happens next. Retries,
order, splitting of long texts, numbered choices, files and the log are done elsewhere, once.

    SendError
    ├── TemporarySendError   the vendor is down or slow: tried again with growing pauses
    │   └── RateLimitedError too fast: tried again after `retry_after` seconds
    ├── RejectedError        the vendor will never take it: failed, shown to the counsellor
    ├── BlockedError         the worker blocked or left us: failed, and the contact is marked
    └── NotConfiguredError   no way out is set up: kept, shown in the console
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Literal, Protocol

from starlette.routing import BaseRoute


@dataclass(frozen=True, slots=True)
class Button:
    """A quick reply: `label` is shown, `value` comes back as `InboundMessage.choice`."""

    label: str
    value: str


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file of a message, in or out. Its bytes are kept encrypted in the data folder as `file`.

    A channel makes it with `MediaStore.keep` where it has the bytes. Where it has only the vendor's
    reference (`source`), `file` is empty: the desk fetches it at once, after the message is
    accepted, by `Channel.fetch`. `error`: why there is no file. `media_type` is what the bytes are.
    """

    name: str
    media_type: str
    size: int = 0
    sha256: str = ""
    file: str = ""
    source: str = ""
    error: str = ""
    id: int = 0


Kind = Literal["text", "start", "file", "sticker", "place", "contact", "voicemail", "automatic"]
"""What a message is. `start`: she opened the conversation and has said nothing yet (LINE follow,
Telegram /start). A `place` or `contact` is written out in `original`, and a person reads it.
`automatic`: her machine wrote it (an out-of-office note): kept and shown, never answered, and no
sign that she is there."""


@dataclass(frozen=True, slots=True)
class InboundMessage:
    """A message of a worker, as the channel understood it.

    `external_id` is the vendor's id: the same id twice is one message. `address` is where an answer
    goes (user id, telephone number, mail address); it is a secret. `thread` holds what the channel
    needs to answer in place (reply token, Message-ID …). `language_hint` is what the vendor's
    profile says, at most a prior. `choice` is the value of a pressed button. `original` is what she
    sent where `text` is only a part of it (a mail with its history, a place). `edits` is the
    `external_id` of the message that this one corrects. `member` is the code of the organisation
    whose flyer she scanned.
    """

    channel: str
    external_id: str
    address: str
    text: str
    choice: str = ""
    original: str = ""
    name: str = ""
    language_hint: str = ""
    thread: dict[str, Any] = field(default_factory=dict)
    attachments: tuple[Attachment, ...] = ()
    kind: Kind = "text"
    edits: str = ""
    member: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the vendor says became of a message that it took. Found by its `external_id`, or by the
    `key` of the `OutboundMessage` where the channel could send that along."""

    channel: str
    state: Literal["delivered", "read", "failed"]
    external_id: str = ""
    key: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Presence:
    """The worker blocked or left us (`here` false), or came back. No message."""

    channel: str
    address: str
    here: bool


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """The worker took a message back: its words and files are removed, that it was there stays."""

    channel: str
    external_id: str


Notice = Receipt | Presence | Withdrawal


@dataclass(frozen=True, slots=True)
class OutboundMessage:
    """A message to a worker. `key` is stable over retries: the vendor's idempotency key.

    `attempts` counts the earlier attempts at this message. `attachments` come with the last part
    of a text; the text may then be empty.
    """

    key: str
    address: str
    language: str
    text: str
    buttons: tuple[Button, ...] = ()
    from_counsellor: bool = False
    thread: dict[str, Any] = field(default_factory=dict)
    attachments: tuple[Attachment, ...] = ()
    attempts: int = 0


def utf16(text: str) -> int:
    """Length as LINE and Telegram count it: UTF-16 code units, so most emoji are two."""
    return len(text) + sum(char > "\uffff" for char in text)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a channel can carry.

    `text`: length of a message as `measure` counts it; `buttons`: quick replies per message, 0 for
    none (they become numbered lines); `group`: messages per call of `send`; `label`: length of a
    button's label (longer ones are numbered in the text, and the buttons bear the numbers).
    """

    text: int
    buttons: int
    group: int
    label: int = 1000
    measure: Callable[[str], int] = len


@dataclass(frozen=True, slots=True)
class Finding:
    """A point of `bot channels check`: what was looked at, whether it is well, else the remedy."""

    what: str
    ok: bool
    detail: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The receipt of an accepted message; `duplicate` if it was already here."""

    message_id: int
    duplicate: bool


class SendError(Exception):
    """A message could not be sent; the text is a short reason without personal data."""


class TemporarySendError(SendError):
    """Down or slow: try again later."""


class RateLimitedError(TemporarySendError):
    """Too fast; `retry_after` in seconds."""

    def __init__(self, reason: str, retry_after: float) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class RejectedError(SendError):
    """Refused for good."""


class BlockedError(SendError):
    """The worker does not want, or cannot get, messages at this address."""


class NotConfiguredError(SendError):
    """The operator has not set up a way to send."""


class RefusedError(ValueError):
    """What arrived is not taken; the text says why and is safe to show to the sender."""


class Inbox(Protocol):
    """The desk as a channel sees it."""

    async def accept(self, message: InboundMessage) -> Accepted:
        """Write a message down. When this returns, it is kept."""

    async def accept_all(self, messages: Sequence[InboundMessage]) -> Sequence[Accepted]:
        """Write down the messages of one delivery together, in order. All are kept, or an error is
        raised and the vendor delivers again."""

    async def note(self, *notices: Notice) -> None:
        """Write down what happened to messages and contacts. Unknown ones are passed over."""

    async def turn(self, message_id: int, timeout: float) -> bool:
        """Wait until a message has been answered (a call answers inside the request).

        Returns False when `timeout` seconds were not enough.
        """


class Channel(Protocol):
    """A way to hear and to speak."""

    name: ClassVar[str]
    limits: ClassVar[Limits]

    def routes(self) -> Sequence[BaseRoute]:
        """HTTP routes, if any; they are mounted at the root."""

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """Listeners and connections that live as long as the program (an SMTP server …)."""

    async def send(self, messages: Sequence[OutboundMessage]) -> Sequence[str]:
        """Send up to `limits.group` messages to one address; return the vendor's id of each.

        Raises:
            SendError: see the tree above; none of the messages counts as sent.
        """

    async def busy(self, address: str, thread: dict[str, Any]) -> None:
        """Show the worker that an answer is coming, if the channel can. Never raises."""

    async def fetch(self, source: str) -> tuple[str, bytes]:
        """The name (or "") and the bytes of a file that the vendor holds.

        Raises:
            SendError: `RejectedError` if it is gone for good, else it is tried again.
            RefusedError: it is too big.
        """

    def entrance(self, words: str) -> str:
        """A link that opens this channel on a worker's phone with `words` (a joining code) ready
        to be sent; "" if there is none."""

    async def check(self) -> list[Finding]:
        """Look at the set-up: secrets, web hook, permissions. Changes nothing, never raises."""

    async def setup(self) -> list[Finding]:
        """Set web hooks and menus at the vendor, where it has an API. Repeating it does no harm."""


def clean(text: str) -> str:
    """Text without what no database and no reader can take: NUL and lone surrogates."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode()


@dataclass(frozen=True, slots=True)
class Moment:
    """A message of the log as shown to people: in the chat, in the console."""

    id: int
    author: str
    text: str
    at: datetime
    state: str
    buttons: tuple[Button, ...] = ()
    external_id: str = ""
    error: str = ""
    review: str = ""
    language: str = ""
    attachments: tuple[Attachment, ...] = ()
    kind: str = "text"
    edits_id: int | None = None
    original: str = ""
    channel: str = ""
    held: bool = False
    read: str = ""
    """The words in Unicode, if they came in another encoding (Zawgyi)."""
