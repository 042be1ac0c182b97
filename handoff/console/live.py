"""What changes while a page is open: a stream of wake-ups, and who else looks at a case.

A stream carries no content, only “look again”; the page then fetches the part that changed. It
says so at its beginning, after each announced change, and every `LOOK_AGAIN` seconds in any case,
and it ends when its session does.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import anyio
from sse_starlette import EventSourceResponse, ServerSentEvent

from handoff.console.visit import Visit
from handoff.staff import who

LOOK_AGAIN = 15.0
"""Seconds after which a page looks even if nothing woke it."""
TOGETHER = 0.15
"""Seconds in which several changes count as one."""


@dataclass
class Presence:
    """Who looks at which case now, in this process; forgotten when it ends."""

    _here: dict[int, dict[object, tuple[int, str]]] = field(default_factory=dict)
    _woken: dict[object, asyncio.Event] = field(default_factory=dict)

    @contextlib.contextmanager
    def looking(self, case_id: int, visit: Visit, woken: asyncio.Event) -> Iterator[None]:
        """Be seen at a case; `woken` is set when somebody comes or goes."""
        key = object()
        here = self._here.setdefault(case_id, {})
        here[key] = (visit.person.id, visit.person.name)
        self._woken[key] = woken
        self._tell(case_id)
        try:
            yield
        finally:
            del here[key], self._woken[key]
            self._tell(case_id)
            if not here and self._here.get(case_id) is here:
                del self._here[case_id]

    def others(self, case_id: int, person_id: int) -> list[str]:
        """The names of those who look, but for oneself."""
        here = self._here.get(case_id, {}).values()
        return sorted({name for number, name in here if number != person_id})

    def _tell(self, case_id: int) -> None:
        for key in self._here.get(case_id, ()):
            self._woken[key].set()


def stream(
    visit: Visit, topics: set[str], case_id: int = 0, presence: Presence | None = None
) -> EventSourceResponse:
    """A stream for one open page."""
    closing = anyio.Event()
    return EventSourceResponse(
        _events(visit, topics, case_id, presence or Presence(), closing),
        sep="\n",
        shutdown_event=closing,
        shutdown_grace_period=2,
    )


async def _events(
    visit: Visit, topics: set[str], case_id: int, presence: Presence, closing: anyio.Event
) -> AsyncIterator[ServerSentEvent]:
    woken = asyncio.Event()
    seen: list[str] | None = None
    changed = True

    def heard(topic: str) -> None:
        nonlocal changed
        if not topic or topic in topics:
            changed = True
            woken.set()

    database = visit.context.database
    with (
        database.listening(heard),
        presence.looking(case_id, visit, woken),
        _waking(closing, woken),
    ):
        while not closing.is_set():
            if await database.read(who, visit.token) is None:
                yield ServerSentEvent("", event="gone", sep="\n")
                return
            others = presence.others(case_id, visit.person.id)
            if case_id and others != seen:
                seen = others
                yield ServerSentEvent(json.dumps(others), event="viewers", sep="\n")
            if changed:
                changed = False
                yield ServerSentEvent("look", event="look", retry=2000, sep="\n")
            try:
                async with asyncio.timeout(LOOK_AGAIN):
                    await woken.wait()
                await asyncio.sleep(TOGETHER)
            except TimeoutError:
                changed = True
            woken.clear()


@contextlib.contextmanager
def _waking(closing: anyio.Event, woken: asyncio.Event) -> Iterator[None]:
    """Wake the stream when the server is about to stop, so that it ends in good order."""
    watch = asyncio.ensure_future(closing.wait())
    watch.add_done_callback(lambda _: woken.set())
    try:
        yield
    finally:
        watch.cancel()
