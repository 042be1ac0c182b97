"""What passes between channels and the desk, and the contract of a channel.

A channel is one class in one file. It checks what arrives, turns it into an `InboundMessage`,
hands it to the desk (`Inbox.accept`: written down durably, duplicates dropped) and only then
acknowledges.
It sends an `OutboundMessage` or raises a `SendError`, whose class says what happens next. Retries,
order, splitting of long texts, numbered choices and the log are done elsewhere, once.

    SendError
    ├── TemporarySendError   the vendor is down or slow: tried again with growing pauses
    │   └── RateLimitedError too fast: tried again after `retry_after` seconds
    ├── RejectedError        the vendor will never take it: failed, shown to the counsellor
    ├── BlockedError         the worker blocked or left us: failed, and the contact is marked
    └── NotConfiguredError   no way out is set up: kept, shown in the console
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Protocol

from starlette.routing import BaseRoute


@dataclass(frozen=True, slots=True)
class Button:
    """A quick reply: `label` is shown, `value` comes back as `InboundMessage.choice`."""

    label: str
    value: str


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that came with a message, kept in the data folder under its digest."""

    name: str
    media_type: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class InboundMessage:
    """A message of a worker, as the channel understood it.

    `external_id` is the vendor's id: the same id twice is one message. `address` is where an answer
    goes (user id, telephone number, mail address); it is a secret. `thread` holds what the channel
    needs to answer in place (reply token, Message-ID …). `language_hint` is what the vendor's
    profile says, at most a prior.
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


@dataclass(frozen=True, slots=True)
class OutboundMessage:
    """A message to a worker. `key` is stable over retries: the vendor's idempotency key."""

    key: str
    address: str
    language: str
    text: str
    buttons: tuple[Button, ...] = ()
    from_counsellor: bool = False
    thread: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a channel can carry.

    `text`: characters per message; `buttons`: quick replies per message, 0 for none (they become
    numbered lines); `group`: messages per call of `send`.
    """

    text: int
    buttons: int
    group: int


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
        """Listeners that live as long as the program (an SMTP server …)."""

    async def send(self, messages: Sequence[OutboundMessage]) -> Sequence[str]:
        """Send up to `limits.group` messages to one address; return the vendor's id of each.

        Raises:
            SendError: see the tree above; none of the messages counts as sent.
        """


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
