"""The queue and the cases: reading them, and each thing that a counsellor does with one."""

import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from sqlalchemy.orm import Session
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from channels.message import Attachment, Moment, RefusedError, SendError
from config.texts import JAPAN
from handoff.calls import TIMELINE, callback
from handoff.console.live import Presence, stream
from handoff.console.visit import HOME, Visit
from handoff.desk import CaseView, DeskError, Event, QueueRow

MOST_FILES = 5
"""Files that a reply may bring."""
TABS = ("waiting", "mine", "others", "released", "closed")
SPOKEN = TIMELINE | {
    "claimed",
    "released",
    "put_back",
    "closed",
    "promise_missed",
    "escalated",
    "joined",
    "parted",
}
"""Events that also stand between the messages of the conversation."""


@dataclass(frozen=True, slots=True)
class Queue:
    """A look at the queue. `counts`: cases per tab; `urgent`: one that waits speaks of danger."""

    tab: str
    rows: list[QueueRow]
    counts: dict[str, int]
    overdue: int
    urgent: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the conversation: a message, or an event between messages."""

    at: datetime
    kind: str
    moment: Moment | None = None
    event: Event | None = None
    by: str = ""
    new_day: bool = False


@dataclass(frozen=True, slots=True)
class Typed:
    """What somebody was writing when the desk refused, to be shown again."""

    error: str = ""
    reply: str = ""
    note: str = ""
    key: str = field(default_factory=lambda: secrets.token_urlsafe(16))


@dataclass
class Cases:
    """The pages of queue and cases; `presence` is who looks at which."""

    presence: Presence = field(default_factory=Presence)

    # -- the queue ----------------------------------------------------------------------------

    async def queue(self, visit: Visit) -> Response:
        """The queue."""
        return visit.page("queue.html", **await _queue_values(visit))

    async def queue_live(self, visit: Visit) -> Response:
        """The part of the queue that changes."""
        return visit.page("queue_live.html", **await _queue_values(visit))

    async def queue_stream(self, visit: Visit) -> Response:
        """Wake-ups for the queue."""
        return stream(visit, {"queue"})

    # -- a case -------------------------------------------------------------------------------

    async def show(self, visit: Visit) -> Response:
        """A case. Reading it is written down."""
        return await _case_page(visit, "case.html", 200, Typed())

    async def live(self, visit: Visit) -> Response:
        """The parts of a case that change."""
        return await _case_page(visit, "case_live.html", 200, Typed())

    async def case_stream(self, visit: Visit) -> Response:
        """Wake-ups for a case, and who else looks at it."""
        case_id = _case_id(visit)

        def conversations(session: Session) -> list[int]:
            return _known(visit, session, case_id)

        numbers = await visit.context.database.read(conversations)
        topics = {f"case:{case_id}", "queue", *(f"conversation:{one}" for one in numbers)}
        return stream(visit, topics, case_id, self.presence)

    # -- acting -------------------------------------------------------------------------------

    async def claim(self, visit: Visit) -> Response:
        """Take a case."""
        desk = visit.context.desk
        return await _act(visit, lambda s, case: desk.claim(s, case, visit.person))

    async def reply(self, visit: Visit) -> Response:
        """Write to the worker; the same key twice is one message."""
        desk, text, key = visit.context.desk, visit.text("text"), visit.text("key")
        if not 8 <= len(key) <= 64:
            raise HTTPException(400)

        typed = Typed(reply=text, key=key)
        media, kept = visit.context.media, []
        try:
            for file in visit.files("files"):
                kept.append(await media.keep(file.filename or "", await file.read()))
        except RefusedError:
            media.remove(one.file for one in kept)
            _ = visit.words.gettext
            sentence = _("A file is too big: at most %(size)s MB.")
            return await _refused(visit, sentence % {"size": media.limit // 1_048_576}, typed)
        written = False
        way, at_once = visit.text("way"), bool(visit.text("at_once"))

        def reply(session: Session, case_id: int) -> None:
            nonlocal written
            own = f"{case_id}/{visit.person.id}/{key}"
            number = int(way) if way.isdigit() and len(way) < 10 else 0
            written = desk.reply(session, case_id, visit.person, text, own, kept, number, at_once)

        answer = await _act(visit, reply, typed)
        if not written:  # refused, or the same key again
            media.remove(one.file for one in kept)
        return answer

    async def file(self, visit: Visit) -> Response:
        """A file of the case. That it was opened is written down."""
        case_id, number = _case_id(visit), int(visit.request.path_params["file"])

        def find_file(session: Session) -> Attachment | None:
            _known(visit, session, case_id)
            if number > 2**31 - 1:
                return None
            return visit.context.desk.file(session, case_id, visit.person, number)

        return await visit.context.media.response(await visit.context.database.write(find_file))

    async def ways(self, visit: Visit) -> Response:
        """Note where and when the worker wants to be written to."""
        desk, way = visit.context.desk, visit.text("preferred")
        number = int(way) if way.isdigit() and len(way) < 10 else 0
        clock = visit.text("safe_from").strip(), visit.text("safe_until").strip()
        safe = clock if any(clock) else None
        return await _act(
            visit, lambda s, case: desk.ways_to_write(s, case, visit.person, number, safe)
        )

    async def part(self, visit: Visit) -> Response:
        """Undo the joining of a contact's channels."""
        desk = visit.context.desk
        return await _act(visit, lambda s, case: desk.part(s, case, visit.person))

    async def note(self, visit: Visit) -> Response:
        """Write an internal note."""
        desk, text = visit.context.desk, visit.text("text")
        typed = Typed(note=text)
        return await _act(visit, lambda s, case: desk.note(s, case, visit.person, text), typed)

    async def put_back(self, visit: Visit) -> Response:
        """Give the case back to the queue."""
        desk = visit.context.desk
        return await _act(visit, lambda s, case: desk.put_back(s, case, visit.person))

    async def release(self, visit: Visit) -> Response:
        """Let the bot answer again."""
        desk = visit.context.desk
        return await _act(visit, lambda s, case: desk.release(s, case, visit.person))

    async def resend(self, visit: Visit) -> Response:
        """Send a failed or kept message once more."""
        desk, message = visit.context.desk, int(visit.request.path_params["message"])
        return await _act(visit, lambda s, case: desk.resend(s, case, visit.person, message))

    async def close(self, visit: Visit) -> Response:
        """End a case."""
        desk, outcomes, outcome = visit.context.desk, visit.context.outcomes, visit.text("outcome")
        _ = visit.words.gettext
        if not visit.text("confirmed"):
            return await _refused(visit, _("Confirm that the case is finished."), Typed())
        return await _act(
            visit,
            lambda s, case: desk.close(s, case, visit.person, outcome, outcomes),
            place=f"{HOME}/queue",
        )

    async def call(self, visit: Visit) -> Response:
        """Ring the counsellor's own telephone; once she has picked up, the worker's."""
        calls, telephone = visit.context.calls, visit.context.telephone
        if calls is None or telephone is None:
            raise HTTPException(404)
        case_id, at_once = _case_id(visit), bool(visit.text("at_once"))
        _ = visit.words.gettext

        def begin(session: Session) -> tuple[str, int]:
            _known(visit, session, case_id)
            return calls.begin(session, case_id, visit.person, at_once)

        try:
            number, way = await visit.context.database.write(begin)
            await telephone.ring(number, case_id, visit.person.id, way)
        except DeskError as error:
            return await _refused(visit, visit.refusal(error), Typed())
        except SendError:
            sentence = _("The telephone service did not take the call. Try again in a moment.")
            return await _refused(visit, sentence, Typed())
        return visit.go(f"{HOME}/cases/{case_id}")


async def _queue_values(visit: Visit) -> dict[str, Any]:
    tab = visit.request.query_params.get("tab", "waiting")
    if tab not in TABS:
        raise HTTPException(404)
    return {"queue": await visit.context.database.read(_queue, visit, tab)}


def _queue(session: Session, visit: Visit, tab: str) -> Queue:
    desk = visit.context.desk
    waiting = desk.queue(session, "waiting")
    claimed = desk.queue(session, "claimed")
    counted = desk.counts(session)
    by_tab = {
        "waiting": waiting,
        "mine": [row for row in claimed if row.claimed_by == visit.person.id],
        "others": [row for row in claimed if row.claimed_by != visit.person.id],
    }
    rows = by_tab[tab] if tab in by_tab else desk.queue(session, tab)
    counts = {name: len(listed) for name, listed in by_tab.items()}
    counts["waiting"] = counted.get("waiting", 0)
    counts["released"] = counted.get("released", 0)
    return Queue(tab, rows, counts, counted["overdue"], _urgent(waiting))


def _urgent(waiting: Iterable[QueueRow]) -> bool:
    return any(row.level == "emergency" for row in waiting)


async def _case_page(visit: Visit, template: str, status: int, typed: Typed) -> Response:
    case_id = _case_id(visit)

    def read(session: Session) -> tuple[CaseView, int, bool]:
        _known(visit, session, case_id)
        desk = visit.context.desk
        waiting = desk.counts(session).get("waiting", 0)
        first = desk.queue(session, "waiting", limit=1)
        return desk.view(session, case_id, visit.person), waiting, _urgent(first)

    view, waiting, urgent = await visit.context.database.write(read)
    return visit.page(
        template,
        status,
        view=view,
        row=view.row,
        state=_state(visit, view.row),
        entries=list(_entries(view)),
        fired=_fired(view),
        callback=callback(view.events),
        waiting=waiting,
        urgent=urgent,
        typed=typed,
    )


def _case_id(visit: Visit) -> int:
    return int(visit.request.path_params["case"])


def _known(visit: Visit, session: Session, case_id: int) -> list[int]:
    if case_id > 2**31 - 1:
        raise HTTPException(404)
    try:
        return visit.context.desk.conversations_of(session, case_id)
    except DeskError:
        raise HTTPException(404) from None


def _state(visit: Visit, row: QueueRow) -> str:
    """What this person can do: `looker` only reads, `mine` is her own case."""
    if not visit.person.may("counsellor"):
        return "looker"
    if row.status == "claimed":
        return "mine" if row.claimed_by == visit.person.id else "other"
    return row.status


async def _act(
    visit: Visit,
    work: Callable[[Session, int], None],
    typed: Typed | None = None,
    place: str = "",
) -> Response:
    case_id = _case_id(visit)

    def act(session: Session) -> None:
        _known(visit, session, case_id)
        work(session, case_id)

    try:
        await visit.context.database.write(act)
    except DeskError as error:
        return await _refused(visit, visit.refusal(error), typed or Typed())
    if visit.wants_json:
        return JSONResponse({"next": place})
    return visit.go(place or f"{HOME}/cases/{case_id}")


async def _refused(visit: Visit, sentence: str, typed: Typed) -> Response:
    if visit.wants_json:
        return JSONResponse({"error": sentence}, 409)
    again = Typed(sentence, typed.reply, typed.note, typed.key)
    return await _case_page(visit, "case.html", 409, again)


def _entries(view: CaseView) -> Iterator[Entry]:
    """Messages and events in the order of time, with the days marked."""
    writers = {event.detail.get("message"): event.by for event in view.events}
    lines = [Entry(m.at, m.author, moment=m, by=writers.get(m.id, "")) for m in view.transcript]
    first = lines[0].at if lines else view.row.opened_at
    for event in view.events:
        if event.kind == "noted":
            lines.append(Entry(event.at, "note", event=event, by=event.by))
        elif event.kind in SPOKEN and event.at >= first:
            lines.append(Entry(event.at, "event", event=event, by=event.by))
    day: date | None = None
    for line in sorted(lines, key=lambda line: line.at):
        today = line.at.astimezone(JAPAN).date()
        yield Entry(line.at, line.kind, line.moment, line.event, line.by, today != day)
        day = today


def _fired(view: CaseView) -> dict[str, list[dict[str, str]]]:
    """Which words raised which kind of danger, once each."""
    fired: dict[str, list[dict[str, str]]] = {kind: [] for kind in view.row.risk_types}
    for event in view.events:
        for word in event.detail.get("words") or ():
            known = fired.setdefault(word["type"], [])
            if all(other["matched"] != word["matched"] for other in known):
                known.append(word)
    return fired
