"""What a channel's table tells about its vendor, so that one runner can try all channels.

A table is a module `tests/channels/tables/<channel>.py` with a `WORLD` and the lists `INCOMING` and
`OUTGOING`; it may have `PAYLOADS` for the fuzzer. `test_channels.py` runs them all.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx

from channels.context import ChannelContext
from channels.media import MediaStore
from channels.message import (
    Accepted,
    Attachment,
    Channel,
    InboundMessage,
    Notice,
    OutboundMessage,
    SendError,
)
from config.database import Database
from config.facts import load_facts
from config.settings import Settings
from config.texts import load_texts
from tests.channels.vendors import Fault, Vendor

TEXTS = load_texts(load_facts())
PUBLIC_URL = "https://desk.example.org"


@dataclass(frozen=True)
class Request:
    """A request to the desk, as the vendor makes it, signed (or forged)."""

    path: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "POST"


@dataclass(frozen=True)
class Incoming:
    """A row: what the vendor delivers, and what the desk must get of it.

    `messages` are compared field by field: only the named fields (`text`, `kind`, `external_id` …;
    `attachments` as a count or as the attachments themselves). `answer` checks the response.
    `request` and `notices` may be functions, for what can only be made while the desk is open.
    """

    label: str
    request: Request | Callable[[], Request]
    status: int = 200
    messages: Sequence[dict[str, Any]] = ()
    notices: Sequence[Notice] | Callable[[], Sequence[Notice]] = ()
    answer: Callable[[httpx.Response], bool] | None = None


@dataclass(frozen=True)
class Outgoing:
    """A row: messages of the desk, what the vendor must have been asked, and the outcome.

    `calls`: for each call that the vendor must have got, a check of method, path and decoded body;
    all must be met, in order, and no call may be left over. `error`: the class that must be
    raised. `ids`: the vendor's ids that must come back (None: not compared). `files`: contents of
    attachments of the last message, kept before.
    """

    label: str
    messages: Sequence[OutboundMessage]
    calls: Sequence[Callable[[str, str, Any], bool]] = ()
    faults: Sequence[Fault | None] = ()
    ids: Sequence[str] | None = None
    error: type[SendError] | None = None
    files: Sequence[tuple[str, bytes]] = ()


class World(Protocol):
    """A channel and its vendor.

    A channel that is not reached over HTTP has a method `async deliver(stage, request)` as well; it
    brings the request and tells the outcome as HTTP would (200, 422 refused, 503 try again).
    """

    name: str
    secrets: Sequence[str]
    """Strings that must never reach a log."""

    def vendor(self) -> Vendor:
        """The vendor's peer, not yet started."""

    def environment(self, vendor: Vendor) -> dict[str, str]:
        """Settings (`BOT_…`) with which the desk finds that peer."""

    def open(self, context: ChannelContext, vendor: Vendor) -> Channel:
        """The channel, made as the program makes it."""

    def hears(self, who: str, text: str, key: str) -> Request:
        """A good request that brings `text` of a worker; the same key is the same message."""

    def said(self, vendor: Vendor) -> list[tuple[str, str]]:
        """What the vendor has accepted and shows to workers: (who, text), in order."""

    def body(self, call_body: bytes) -> Any:
        """The body of a call at the vendor, decoded for the checks of `Outgoing.calls`."""


class RecordingInbox:
    """Takes messages and notices as the desk does, and remembers them."""

    def __init__(self) -> None:
        self.messages: list[InboundMessage] = []
        self.notices: list[Notice] = []
        self.known: dict[tuple[str, str], int] = {}
        self.broken: Exception | None = None
        self.turning: Callable[[int], Awaitable[bool]] | None = None

    async def accept(self, message: InboundMessage) -> Accepted:
        return (await self.accept_all([message]))[0]

    async def accept_all(self, messages: Sequence[InboundMessage]) -> Sequence[Accepted]:
        if self.broken is not None:
            raise self.broken
        accepted = []
        for message in messages:
            key = (message.channel, message.external_id)
            duplicate = key in self.known
            number = self.known.setdefault(key, len(self.known) + 1)
            if not duplicate:
                self.messages.append(message)
            accepted.append(Accepted(number, duplicate))
        return accepted

    async def note(self, *notices: Notice) -> None:
        if self.broken is not None:
            raise self.broken
        self.notices += notices

    async def turn(self, message_id: int, timeout: float) -> bool:
        assert timeout < 15, "Twilio gives up after 15 seconds"
        return self.turning is None or await self.turning(message_id)


def context(folder: Path, inbox: Any, database: Database, **settings: Any) -> ChannelContext:
    """The surroundings of a channel in a test."""
    own = Settings(data_dir=folder, public_url=PUBLIC_URL, _env_file=None, **settings)
    store = MediaStore(folder / "media", own.media_limit_mb * 1_048_576, own.url)
    return ChannelContext(inbox, database, own, lambda: TEXTS, store)


def same(wanted: dict[str, Any], message: InboundMessage) -> bool:
    """Whether a message has the wanted fields."""
    for name, value in wanted.items():
        found = getattr(message, name)
        if name == "attachments" and isinstance(value, int):
            found = len(found)
        if found != value:
            return False
    return True


__all__ = [
    "PUBLIC_URL",
    "TEXTS",
    "Attachment",
    "Incoming",
    "Outgoing",
    "RecordingInbox",
    "Request",
    "World",
    "context",
    "same",
]
