"""Sending queued replies: in order, each at least once, with honest states.

Here and nowhere else: splitting long texts, numbering choices for channels without buttons, pauses
between attempts, and the last gate: words of the bot that are not published, word for word, stay.
"""

import random
import re
from collections.abc import Callable
from itertools import takewhile

import regex as graphemes
import structlog
from prometheus_client import Counter
from sqlalchemy.orm import Session

from channels.log import Lease, Outgoing, Work, hold, mark_sent, mark_unsent
from channels.message import (
    BlockedError,
    Button,
    Channel,
    NotConfiguredError,
    OutboundMessage,
    RateLimitedError,
    SendError,
    TemporarySendError,
)
from config.database import Database

log = structlog.get_logger(__name__)

REPLIES = Counter(
    "desk_replies_total", "Replies by channel and what became of them", ("channel", "state")
)

LONGEST_PAUSE = 600.0
"""Seconds; pauses double from one second up to this."""
MOST_ATTEMPTS = 60
"""After this many attempts (about nine hours) a reply counts as failed; the console can resend."""

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？။।\n])\s*")
"""Not a point inside an address or a number."""

Undelivered = Callable[[Session, int], None]
"""What is to be done, in the same transaction, when words to a worker are lost: conversation id."""


async def deliver(
    database: Database,
    channel: Channel,
    work: Work,
    hint: Callable[[str], str],
    undelivered: Undelivered,
) -> bool:
    """Send the first unsent replies of a conversation, as many as leave together; note the outcome.

    `hint(language)`: the published words over numbered choices. `undelivered` is called when they
    failed for good, other than by the worker's own wish. Returns whether there is more work.
    """
    first = work.replies[0]
    group: list[Outgoing] = []
    outgoing: list[OutboundMessage] = []
    for reply in takewhile(lambda one: _together(one, first), work.replies):
        parts = compose(reply, work, channel, hint(reply.language))
        if group and len(outgoing) + len(parts) > channel.limits.group:
            break
        group.append(reply)
        outgoing += parts
    ids = [reply.id for reply in group]

    async def failed(numbers: list[int], reason: str) -> bool:
        gone = dict.fromkeys(numbers, "")
        return await _note(database, channel, work.lease, gone, "failed", reason, undelivered)

    unproven = [reply.id for reply in group if not reply.proven]
    if unproven:
        log.critical("unpublished_words_held_back", messages=unproven)
        return await failed(unproven, "not published")
    sent: list[str] = []

    async def later(reason: str, pause: float) -> bool:
        """Try again; what has left already does not leave again."""
        gone = [part.key.partition("/")[0] for part in outgoing[: len(sent)]]
        parts = {reply.id: reply.parts + gone.count(str(reply.id)) for reply in group}
        return await database.write(mark_unsent, work.lease, parts, reason, pause)

    try:
        for start in range(0, len(outgoing), channel.limits.group):
            sent += await channel.send(outgoing[start : start + channel.limits.group])
    except TemporarySendError as error:
        if first.attempts + 1 >= MOST_ATTEMPTS:
            return await failed(ids, str(error))
        pause = min(LONGEST_PAUSE, 2.0**first.attempts) * random.uniform(0.7, 1.3)  # noqa: S311
        if isinstance(error, RateLimitedError):
            pause = max(pause, error.retry_after)
        REPLIES.labels(channel.name, "delayed").inc(len(ids))
        log.warning("reply_delayed", channel=channel.name, messages=ids, reason=str(error))
        return await later(str(error), pause)
    except NotConfiguredError as error:
        kept = dict.fromkeys(ids, "")
        return await _note(database, channel, work.lease, kept, "kept", str(error))
    except BlockedError as error:
        await database.write(_stop, work.lease)
        gone = dict.fromkeys(ids, "")
        return await _note(database, channel, work.lease, gone, "failed", str(error))
    except SendError as error:
        log.error("reply_failed", channel=channel.name, messages=ids, reason=str(error))
        return await failed(ids, str(error))
    except Exception as error:  # a fault of ours or of an SDK must not stop the conversation
        log.exception("reply_fault", channel=channel.name, messages=ids)
        pause = min(LONGEST_PAUSE, 2.0 ** (first.attempts + 2))
        if first.attempts + 1 >= MOST_ATTEMPTS:
            return await failed(ids, type(error).__name__)
        return await later(type(error).__name__, pause)
    vendor_ids = dict(zip((part.key.partition("/")[0] for part in outgoing), sent, strict=False))
    marks = {message_id: vendor_ids.get(str(message_id), "") for message_id in ids}
    return await _note(database, channel, work.lease, marks, "sent")


def compose(reply: Outgoing, work: Work, channel: Channel, hint: str) -> list[OutboundMessage]:
    """A reply as the messages that its channel can carry, but for parts that have left."""
    limits = channel.limits
    text, buttons = reply.body, reply.buttons
    few = len(buttons) <= limits.buttons
    if not few or any(limits.measure(button.label) > limits.label for button in buttons):
        numbered = "\n".join(f"{n}. {button.label}" for n, button in enumerate(buttons, 1))
        text = f"{text}\n\n{hint}\n{numbered}"
        buttons = tuple(Button(str(n), b.value) for n, b in enumerate(buttons, 1)) if few else ()
    parts = split(text, limits.text, limits.measure)
    composed = [
        OutboundMessage(
            key=f"{reply.id}/{number}",
            address=work.address,
            language=reply.language or work.language,
            text=part,
            buttons=buttons if number == len(parts) else (),
            from_counsellor=reply.author == "counsellor",
            thread=work.thread,
            attachments=reply.attachments if number == len(parts) else (),
            attempts=reply.attempts,
        )
        for number, part in enumerate(parts, 1)
    ]
    return composed[min(reply.parts, len(composed) - 1) :]


def split(text: str, limit: int, measure: Callable[[str], int] = len) -> list[str]:
    """Cut a text into parts of at most `limit`, as `measure` counts, at sentence ends if possible.

    Nothing is lost or added but white space at the cuts and around the text; what a reader sees as
    one character stays whole.
    """
    parts: list[str] = []
    rest = text.strip()
    while measure(rest) > limit:
        room = min(limit, len(rest))
        while (size := measure(rest[:room])) > limit:
            room = max(1, min(room - 1, room * limit // size))
        ends = [m.start() for m in _SENTENCE_END.finditer(rest[:room]) if m.start()]
        cut = ends[-1] if ends and ends[-1] > room // 3 else 0
        cut = cut or rest.rfind(" ", 1, room + 1)
        cut = cut if cut > 0 else _whole(rest, room)
        parts.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    return [*parts, rest] if rest or not parts else parts


def _whole(text: str, room: int) -> int:
    """The last place up to `room` at which no character (grapheme cluster) is cut in two."""
    near = max(0, room - 64)
    ends = [near + m.end() for m in graphemes.finditer(r"\X", text[near : room + 64])]
    return max((end for end in ends if near < end <= room), default=room)


async def _note(
    database: Database,
    channel: Channel,
    lease: Lease,
    marks: dict[int, str],
    state: str,
    reason: str = "",
    undelivered: Undelivered | None = None,
) -> bool:
    REPLIES.labels(channel.name, state).inc(len(marks))

    def work(session: Session) -> bool:
        if undelivered is not None:
            undelivered(session, lease.conversation_id)
        return mark_sent(session, lease, marks, state, reason)

    return await database.write(work)


def _together(reply: Outgoing, first: Outgoing) -> bool:
    return reply.answers_id == first.answers_id and reply.author == first.author


def _stop(session: Session, lease: Lease) -> None:
    hold(session, lease).stopped = True
