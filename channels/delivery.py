"""Sending queued replies: in order, each at least once, with honest states.

Here and nowhere else: splitting long texts, numbering choices for channels without buttons, pauses
between attempts, and the last gate: words of the bot that are not published, word for word, stay.
"""

import random
import re
from collections.abc import Callable
from itertools import takewhile

import structlog
from prometheus_client import Counter
from sqlalchemy.orm import Session

from channels.log import Lease, Outgoing, Work, hold, mark_sent, mark_unsent
from channels.message import (
    BlockedError,
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

_SENTENCE_END = re.compile(r"(?<=[.!?。！？။।\n])\s*")


async def deliver(
    database: Database, channel: Channel, work: Work, hint: Callable[[str], str]
) -> bool:
    """Send the first unsent replies of a conversation, as many as leave together; note the outcome.

    `hint(language)`: the published words over numbered choices. Returns whether there is more work.
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
    unproven = [reply.id for reply in group if not reply.proven]
    if unproven:
        log.critical("unpublished_words_held_back", messages=unproven)
        gone = dict.fromkeys(unproven, "")
        return await _note(database, channel, work.lease, gone, "failed", "not published")
    try:
        sent: list[str] = []
        for start in range(0, len(outgoing), channel.limits.group):
            sent += await channel.send(outgoing[start : start + channel.limits.group])
    except TemporarySendError as error:
        if first.attempts + 1 >= MOST_ATTEMPTS:
            gone = dict.fromkeys(ids, "")
            return await _note(database, channel, work.lease, gone, "failed", str(error))
        pause = min(LONGEST_PAUSE, 2.0**first.attempts) * random.uniform(0.7, 1.3)  # noqa: S311
        if isinstance(error, RateLimitedError):
            pause = max(pause, error.retry_after)
        REPLIES.labels(channel.name, "delayed").inc(len(ids))
        log.warning("reply_delayed", channel=channel.name, messages=ids, reason=str(error))
        return await database.write(mark_unsent, work.lease, ids, str(error), pause)
    except NotConfiguredError as error:
        kept = dict.fromkeys(ids, "")
        return await _note(database, channel, work.lease, kept, "kept", str(error))
    except BlockedError as error:
        await database.write(_stop, work.lease)
        gone = dict.fromkeys(ids, "")
        return await _note(database, channel, work.lease, gone, "failed", str(error))
    except SendError as error:
        log.error("reply_failed", channel=channel.name, messages=ids, reason=str(error))
        gone = dict.fromkeys(ids, "")
        return await _note(database, channel, work.lease, gone, "failed", str(error))
    except Exception as error:  # a fault of ours or of an SDK must not stop the conversation
        log.exception("reply_fault", channel=channel.name, messages=ids)
        pause = min(LONGEST_PAUSE, 2.0 ** (first.attempts + 2))
        if first.attempts + 1 >= MOST_ATTEMPTS:
            gone = dict.fromkeys(ids, "")
            return await _note(database, channel, work.lease, gone, "failed", type(error).__name__)
        return await database.write(mark_unsent, work.lease, ids, type(error).__name__, pause)
    vendor_ids = dict(zip((part.key.partition("/")[0] for part in outgoing), sent, strict=False))
    marks = {message_id: vendor_ids.get(str(message_id), "") for message_id in ids}
    return await _note(database, channel, work.lease, marks, "sent")


def compose(reply: Outgoing, work: Work, channel: Channel, hint: str) -> list[OutboundMessage]:
    """A reply as the messages that its channel can carry."""
    limits = channel.limits
    text, buttons = reply.body, reply.buttons
    if len(buttons) > limits.buttons:
        numbered = "\n".join(f"{n}. {button.label}" for n, button in enumerate(buttons, 1))
        text, buttons = f"{text}\n\n{hint}\n{numbered}", ()
    parts = split(text, limits.text)
    return [
        OutboundMessage(
            key=f"{reply.id}/{number}",
            address=work.address,
            language=reply.language or work.language,
            text=part,
            buttons=buttons if number == len(parts) else (),
            from_counsellor=reply.author == "counsellor",
            thread=work.thread,
        )
        for number, part in enumerate(parts, 1)
    ]


def split(text: str, limit: int) -> list[str]:
    """Cut a text into parts of at most `limit` characters, at sentence ends where possible.

    Nothing is lost or added but white space at the cuts and around the text.
    """
    parts: list[str] = []
    rest = text.strip()
    while len(rest) > limit:
        ends = [m.start() for m in _SENTENCE_END.finditer(rest[:limit]) if m.start()]
        cut = ends[-1] if ends and ends[-1] > limit // 3 else 0
        cut = cut or rest.rfind(" ", limit // 3, limit + 1)
        cut = cut if cut > 0 else limit
        parts.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    return [*parts, rest] if rest or not parts else parts


async def _note(
    database: Database,
    channel: Channel,
    lease: Lease,
    marks: dict[int, str],
    state: str,
    reason: str = "",
) -> bool:
    REPLIES.labels(channel.name, state).inc(len(marks))
    return await database.write(mark_sent, lease, marks, state, reason)


def _together(reply: Outgoing, first: Outgoing) -> bool:
    return reply.answers_id == first.answers_id and reply.author == first.author


def _stop(session: Session, lease: Lease) -> None:
    hold(session, lease).stopped = True
