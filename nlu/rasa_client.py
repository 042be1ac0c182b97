"""How the program asks Rasa: the one file that speaks HTTP to it."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from nlu.train import from_rasa

LONGEST_TEXT = 1000
"""Characters of a message that are looked at; a longer story has named its matter by then."""
BATCH = 32
UNDER_WAY = 2
"""Requests at a time: one that Rasa works on, and one on its way."""


class RasaUnavailable(Exception):  # noqa: N818 - a state, not a mistake
    """Rasa did not answer, or not sensibly; the text holds no word of any message."""


@dataclass(frozen=True)
class Danger:
    """How a message looks to the classifier that learned from examples of danger.

    `none`: the probability that it tells of no danger. `kinds`: (kind of danger, probability) of
    the likeliest; `words`: those that spoke loudest for the first of them, as they are counted
    (lower case).
    """

    none: float
    kinds: tuple[tuple[str, float], ...]
    words: tuple[str, ...]


@dataclass(frozen=True)
class RasaResult:
    """What Rasa makes of one message."""

    intents: tuple[tuple[str, float], ...]
    """(intent, confidence 0 to 1), best first; empty for a message without words."""
    language: str
    """Code of a language that has examples, or "und"."""
    language_confidence: float
    danger: Danger | None = None
    """None for a model without examples of danger."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A text that waits for its answer."""

    text: str
    hint: str | None
    answer: "asyncio.Future[RasaResult]"


class RasaClient:
    """A connection to one Rasa server, kept open between messages."""

    def __init__(self, url: str, token: str = "", *, timeout: float = 10.0) -> None:
        """`timeout` in seconds is for one request of up to 32 messages."""
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"authorization": f"Bearer {token}"} if token else {},
            timeout=httpx.Timeout(timeout, connect=min(timeout, 3.0)),
            trust_env=False,
        )
        self._waiting: list[_Asked] = []
        self._sending: set[asyncio.Task[None]] = set()
        self._asked = 0
        self._answered = asyncio.Event()
        self._answered.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def at_rest(self, timeout: float) -> bool:
        """Wait until nobody waits for an answer; False if somebody still does after `timeout`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._answered.wait()
        return not self._asked

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def parse(
        self, texts: Sequence[str], languages: Sequence[str | None] | None = None
    ) -> list[RasaResult]:
        """Understand messages, in their order; `languages` are hints where one is known.

        Raises:
            RasaUnavailable: no or no sensible answer.
            ValueError: not one hint for each text.
        """
        hints = list(languages) if languages is not None else [None] * len(texts)
        if len(hints) != len(texts):
            raise ValueError("one language (or None) is needed for each text")
        # counted from the first step on, so that whoever has this client is seen by `at_rest`
        self._asked += 1
        self._answered.clear()
        try:
            return await self._parse(texts, hints)
        finally:
            self._asked -= 1
            if not self._asked:
                self._answered.set()

    async def _parse(self, texts: Sequence[str], hints: Sequence[str | None]) -> list[RasaResult]:
        """Put the texts in line; what waits at the same time is sent together, which costs less."""
        loop = asyncio.get_running_loop()
        asked = [
            _Asked(
                text[:LONGEST_TEXT].encode("utf-8", "ignore").decode(), hint, loop.create_future()
            )
            for text, hint in zip(texts, hints, strict=True)
        ]
        self._waiting += asked
        self._send()
        try:
            return [await one.answer for one in asked]
        finally:
            for one in asked:  # whoever gives up is not sent any more, and nobody misses the rest
                one.answer.cancel()

    def _send(self) -> None:
        """Send what waits, unless enough is under way; called again when that has come back."""
        self._waiting = [one for one in self._waiting if not one.answer.done()]
        while self._waiting and len(self._sending) < UNDER_WAY:
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            task = asyncio.create_task(self._understand(batch))
            self._sending.add(task)
            task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        self._send()

    async def _understand(self, batch: Sequence["_Asked"]) -> None:
        body = {"texts": [one.text for one in batch], "languages": [one.hint for one in batch]}
        try:
            answer = await self._ask("POST", "/webhooks/understand/batch", body)
            if not isinstance(answer, list) or len(answer) != len(batch):
                raise RasaUnavailable("Rasa answered with something else than results")
            results = [_result(item) for item in answer]
        except RasaUnavailable as error:
            for one in batch:
                if not one.answer.done():
                    one.answer.set_exception(RasaUnavailable(str(error)))
                    one.answer.exception()  # seen, even if nobody waits for this one any more
            return
        for one, result in zip(batch, results, strict=True):
            if not one.answer.done():
                one.answer.set_result(result)

    async def model(self) -> str:
        """File name of the model that is served.

        Raises:
            RasaUnavailable: no server, wrong token, or no model loaded yet.
        """
        answer = await self._ask("GET", "/webhooks/understand/model")
        return str(answer.get("model", "")) if isinstance(answer, dict) else ""

    async def ready(self) -> bool:
        """Whether messages can be understood now."""
        try:
            return bool(await self.model())
        except RasaUnavailable:
            return False

    async def _ask(self, method: str, path: str, body: object = None) -> Any:
        try:
            response = await self._http.request(method, path, json=body)
            if response.status_code != httpx.codes.OK:
                raise RasaUnavailable(f"Rasa answered with status {response.status_code}")
            return response.json()
        except httpx.HTTPError as error:
            raise RasaUnavailable(f"Rasa does not answer ({type(error).__name__})") from None
        except ValueError:
            raise RasaUnavailable("Rasa answered with something else than JSON") from None


def _result(item: Any) -> RasaResult:
    try:
        return RasaResult(
            tuple(
                (from_rasa(str(entry["name"])), float(entry["confidence"]))
                for entry in item["intent_ranking"] or ()
            ),
            str(item["language"]["code"]),
            float(item["language"]["confidence"]),
            _danger(item.get("risk")),
        )
    except (KeyError, TypeError, ValueError):
        raise RasaUnavailable("Rasa answered with something else than results") from None


def _danger(item: Any) -> Danger | None:
    if item is None:
        return None
    kinds = tuple((str(kind), float(chance)) for kind, chance in item["kinds"])
    return Danger(float(item["none"]), kinds, tuple(map(str, item["words"])))
