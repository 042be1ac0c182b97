"""Taking turns: workers that claim due conversations, deliver replies, understand and answer.

No transaction is held while understanding or sending. A turn is one transaction: the message is
done, its replies are queued, the conversation is updated and its case opened, or nothing of it.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog
from prometheus_client import Counter, Gauge, Histogram
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from bot.dialogue import (
    LINK,
    UNLINK,
    Decision,
    Heard,
    Library,
    Say,
    Situation,
    Thresholds,
    decide,
)
from channels.delivery import deliver
from channels.log import (
    Conversation,
    Incoming,
    Lease,
    LeaseLostError,
    Line,
    Work,
    claim,
    done,
    free,
    hold,
    load,
    mark_sent,
    renew,
    say,
    settle,
    to_erase,
)
from channels.message import Channel
from config.database import Database, now
from config.texts import Text, Texts
from handoff.case import Case, Handoff, hand_over, open_case
from handoff.contacts import link, offer_code, unlink
from handoff.desk import Desk
from nlu.understand import Understander, Understanding

log = structlog.get_logger(__name__)

TURNS = Counter("desk_turns_total", "Turns taken, by what was decided", ("action",))
TURN_SECONDS = Histogram("desk_turn_seconds", "Seconds from the beginning of a turn to its commit")
DEGRADED = Gauge("desk_understanding_degraded", "1 while Rasa is away")

LOOK_AGAIN = 2.0
"""Seconds after which a worker looks for work even if nobody woke it."""
RENEW = 5.0
SLOW = 1.0
"""Seconds of understanding after which a channel shows that an answer is coming."""
HELD = {"waiting", "claimed"}
"""States of a case in which a person answers."""
FOR_A_PERSON = {"place", "contact", "voicemail"}
"""Kinds of message that only a person can answer, as one with a file."""
FORGET_AFTER = timedelta(seconds=60)
"""Between a worker's wish to be erased and the erasure: the confirmation still has to arrive."""


@dataclass(frozen=True)
class Content:
    """What the desk says and decides by, replaced as a whole when the content changes."""

    texts: Texts
    library: Library
    limits: Thresholds
    all_texts: Mapping[tuple[str, str], Text]
    """Catalogue, FAQ, language names and menu: (id, language) → text."""

    def text(self, text_id: str, language: str, channel: str = "") -> Text:
        """A published text in a language, in all languages together, or in English.

        Some texts have an edition of their own for a channel: `faq/<topic>/voice` is said on the
        telephone instead of `faq/<topic>`, and `voice.rephrase.ask` instead of `rephrase.ask`.
        """
        for edition in (f"{text_id}/{channel}", f"{channel}.{text_id}"):
            if channel and (edition, language) in self.all_texts:
                return self.all_texts[edition, language]
        return (
            self.all_texts.get((text_id, language))
            or self.all_texts.get((text_id, "mul"))
            or self.all_texts[text_id, "en"]
        )


class Worker:
    """Works on conversations until cancelled; `wake` makes it look at once."""

    def __init__(
        self,
        database: Database,
        channels: Mapping[str, Channel],
        understander: Understander,
        desk: Desk,
        content: Content,
        parallel: int,
        url: str = "",
    ) -> None:
        self.database, self.channels, self.understander = database, channels, understander
        self.desk, self.content, self.parallel, self.url = desk, content, parallel, url
        self._woken = asyncio.Event()
        self._leases: dict[asyncio.Task[None], Lease] = {}

    def wake(self) -> None:
        """Look for work now."""
        self._woken.set()

    async def run(self) -> None:
        """Claim and work, until cancelled; then finish what has begun."""
        renewing = asyncio.create_task(self._renew())
        try:
            while True:
                self._woken.clear()
                await self._claim()
                # Not wait_for(): up to Python 3.11 it can swallow a cancellation, and never end.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_AGAIN):
                        await self._woken.wait()
        finally:
            if self._leases:
                await asyncio.wait(list(self._leases), timeout=10)
            renewing.cancel()

    async def _claim(self) -> None:
        """Start work on due conversations."""
        free = self.parallel - len(self._leases)
        if free <= 0:
            return  # a finished task wakes us
        try:
            leases = await self.database.write(claim, free)
        except Exception:
            log.exception("claim_failed")
            await asyncio.sleep(1)
            return
        for lease in leases:
            task = asyncio.create_task(self._work(lease))
            self._leases[task] = lease
            task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._leases.pop(task, None)
        self._woken.set()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW)
            with contextlib.suppress(Exception):
                if self._leases:
                    await self.database.write(renew, list(self._leases.values()))

    async def _work(self, lease: Lease) -> None:
        try:
            more = True
            while more:
                more = await self._step(lease)
        except LeaseLostError:
            pass
        except Exception:
            log.exception("work_failed", conversation=lease.conversation_id)
            await asyncio.sleep(1)  # the lease lapses and somebody tries again

    async def _step(self, lease: Lease) -> bool:
        work = await self.database.read(load, lease, 20)
        if work is None:
            return False
        if work.replies:
            channel = self.channels.get(work.channel)
            if channel is not None:
                return await deliver(
                    self.database, channel, work, self._hint, self.desk.undelivered
                )
            kept = {reply.id: "" for reply in work.replies}
            why = f"the channel {work.channel} is not set up"
            return await self.database.write(mark_sent, lease, kept, "kept", why)
        if work.incoming is not None:
            try:
                return await self._turn(work, work.incoming)
            except (LeaseLostError, OperationalError):  # no fault of the turn: it is taken again
                raise
            except Exception:
                log.exception("turn_failed", message=work.incoming.id)
                return await self.database.write(self._apologise, work, work.incoming)
        return await self.database.write(_settle, lease)

    def _hint(self, language: str) -> str:
        return self.content.text("choice.hint", language).body

    # -- the turn -----------------------------------------------------------------------------

    async def _turn(self, work: Work, incoming: Incoming) -> bool:
        with TURN_SECONDS.time():
            prior = work.language or (work.hint if work.hint in self._languages else None)
            # A pressed button carries its label, which is our word, not the worker's.
            choices = work.state.get("choices", {})
            pressed = bool(incoming.choice) or incoming.text.strip().casefold() in choices
            words = "" if pressed else incoming.text
            waiting = asyncio.create_task(self._busy(work))
            try:
                [understanding] = await self.understander.understand(
                    [words], [prior], [self._before(work)]
                )
            finally:
                waiting.cancel()
            DEGRADED.set(understanding.degraded)
            more, action = await self.database.write(self._commit, work, incoming, understanding)
        TURNS.labels(action).inc()
        return more

    def _before(self, work: Work) -> str:
        """The title of what was answered last: what a short question may be about."""
        topic = work.state.get("topic")
        title = (f"faq/{topic}/title", work.language)
        return self.content.all_texts[title].body if title in self.content.all_texts else ""

    async def _busy(self, work: Work) -> None:
        """Let the worker see that an answer is coming, when it takes a while."""
        await asyncio.sleep(SLOW)
        channel = self.channels.get(work.channel)
        if channel is not None and work.holder == "bot":
            await channel.busy(work.address, work.thread)

    @property
    def _languages(self) -> tuple[str, ...]:
        return self.content.library.languages

    def _commit(
        self, session: Session, work: Work, incoming: Incoming, understanding: Understanding
    ) -> tuple[bool, str]:
        conversation = hold(session, work.lease)
        content = self.content
        case, news = open_case(session, conversation.contact_id), True
        if case is None or case.status not in HELD:  # nobody is there: never silence
            conversation.holder = "bot"
        decision = decide(
            Heard(
                incoming.text,
                incoming.choice,
                content.texts.command(incoming.text),
                incoming.attachments + (incoming.kind in FOR_A_PERSON),
                incoming.recent,
                work.more_waiting,
                incoming.kind,
            ),
            understanding,
            Situation(
                holder="desk" if conversation.holder == "desk" else "bot",
                attended=case is not None and case.status == "claimed",
                language=conversation.language,
                language_chosen=conversation.language_chosen,
                hint=work.hint,
                open=self.desk.hours.is_open(now(session)),
                state=conversation.state,
            ),
            content.library,
            content.limits,
        )
        conversation.language = decision.language
        conversation.language_chosen = decision.language_chosen
        conversation.stopped = conversation.stopped or decision.stop
        if decision.erase:
            conversation.erase_at = now(session) + FORGET_AFTER
        if decision.handoff is not None:
            conversation.erase_at = None  # she needs somebody now; she can ask for it again
        if decision.handoff is not None:
            case, news = hand_over(session, conversation, decision.handoff, self.desk.hours)
        choices: dict[str, str] = {}
        lines = list(decision.say)
        code = ""
        if decision.join == LINK:
            code = offer_code(session, conversation)
            lines.append(Say("link.code"))
        elif decision.join:
            undone = decision.join == UNLINK
            joined = (
                unlink(session, conversation)
                if undone
                else self._join(session, conversation, decision.join)
            )
            quiet = not joined and not undone and conversation.holder == "desk"
            case = open_case(session, conversation.contact_id)
            if joined and not conversation.language:  # a bare code tells none; she has one
                spoken_there = select(Conversation.language).where(
                    Conversation.contact_id == conversation.contact_id,
                    Conversation.language != "",
                )
                conversation.language = session.scalar(spoken_there.limit(1)) or ""
            known, unknown = (
                ("link.undone", "link.none") if undone else ("link.done", "link.unknown")
            )
            buttons = () if undone or not joined else (("button.undo", UNLINK),)
            if not quiet:  # eight digits said to a counsellor are a date more often than a code
                lines.append(Say(known if joined else unknown, buttons))
        if lines:  # she is here and reads: what was held for her leaves first
            free(session, conversation.id)
        for spoken in lines:
            if spoken.text_id in {"handoff.open", "handoff.closed"} and not news:
                continue
            language = decision.language or conversation.language
            line = self._line(spoken, language, case, work.channel, code)
            say(session, conversation, line, self.desk.published, incoming.id)
            for number, (label, value) in enumerate(line.buttons, 1):
                choices |= {str(number): value, label.body.casefold(): value}
        kept = {"link_tries": tries} if (tries := conversation.state.get("link_tries")) else {}
        conversation.state = {
            **decision.state,
            **kept,
            **({"choices": choices} if choices else {}),
        }
        done(session, incoming.id, summary(understanding, decision), understanding.language[:12])
        return settle(session, conversation), decision.action

    def _join(self, session: Session, conversation: Conversation, code: str) -> bool:
        """Join two conversations of one person; all that it was joined to hear of it, too."""
        others = link(session, conversation, code)
        told = Say("link.told", (("button.undo", UNLINK),))
        for other in others:
            if other.stopped or other.address_index is None:
                continue
            line = self._line(told, other.language, None, other.channel)
            say(session, other, line, self.desk.published)
            other.state = {**other.state, "choices": {"1": UNLINK}}
        return bool(others)

    def _line(
        self, spoken: Say, language: str, case: Case | None, channel: str, code: str = ""
    ) -> Line:
        content = self.content
        text = content.text(spoken.text_id, spoken.language or language or "en", channel)
        known = content.texts.params(text.language if text.language != "mul" else "en")
        if code:
            known["code"] = f"{code[:4]} {code[4:]}"
            known["url"] = f"{self.url}/link/{code}"
        if case is not None:
            known["reference"] = case.reference
            known["when"] = content.texts.when(case.due_at, language or "en")
        buttons = tuple(
            (content.text(label, language or "en"), value) for label, value in spoken.buttons
        )
        return Line(text, text.needed(known), buttons)

    def _apologise(self, session: Session, work: Work, incoming: Incoming) -> bool:
        """A turn that failed for a reason of ours goes to a person, never to silence."""
        conversation = hold(session, work.lease)
        language = conversation.language or "en"
        case, news = hand_over(
            session, conversation, Handoff("failed", language=language), self.desk.hours
        )
        opened = self.desk.hours.is_open(now(session))
        lines = ["error.failed", "handoff.open" if opened else "handoff.closed"]
        for text_id in lines if news else []:
            line = self._line(Say(text_id), language, case, work.channel)
            say(session, conversation, line, self.desk.published, incoming.id)
        done(session, incoming.id, {}, language)
        TURNS.labels("failed").inc()
        return settle(session, conversation)

    async def sweep(self) -> None:
        """What is due by time: missed promises, wishes to be forgotten. Until cancelled."""
        while True:
            try:
                await self.database.write(self.desk.keep_promises)
                for conversation_id in await self.database.read(to_erase):
                    await self.database.write(self.desk.forget, conversation_id)
            except Exception:
                log.exception("sweep_failed")
            await asyncio.sleep(15)


def summary(understanding: Understanding, decision: Decision) -> dict[str, Any]:
    """What was understood, as kept with the message (sealed) and shown to the counsellor."""
    return {
        "language": understanding.language,
        "language_confidence": round(understanding.language_confidence, 3),
        "ranking": [[intent, round(sure, 3)] for intent, sure in understanding.ranking[:5]],
        "risk": understanding.risk.level,
        "risk_types": list(understanding.risk.types),
        "degraded": understanding.degraded,
        "action": decision.action,
        **({"read": understanding.read} if understanding.read else {}),
    }


def _settle(session: Session, lease: Lease) -> bool:
    return settle(session, hold(session, lease))
