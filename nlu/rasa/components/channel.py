"""The door to Rasa: one endpoint that understands many messages at once and refuses bad input.

Stock `/model/parse` takes one text at a time, answers 500 to a null and takes "/x" for an intent.
`POST /webhooks/understand/batch` instead takes

    {"texts": ["...", "..."], "languages": ["vi", null]}       # `languages` may be left out

and answers a list in the same order:

    [{"intent": {"name", "confidence"}, "intent_ranking": [...],
      "language": {"code", "confidence"}, "risk": {"none", "kinds", "words"}}, ...]

`GET /webhooks/understand/model` names the model that is served. Both want the token as
`Authorization: Bearer ...`: in an address it would end up in logs.

The graph runs in one thread beside the event loop, so the server answers while it works on a batch.
Nothing of a message is logged or sent back.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rasa.core.channels.channel import InputChannel, UserMessage
from rasa.engine.constants import PLACEHOLDER_MESSAGE, PLACEHOLDER_TRACKER
from rasa.shared.core.trackers import DialogueStateTracker
from sanic import Blueprint
from sanic.request import Request
from sanic.response import HTTPResponse, json

from components.text import clean

logger = logging.getLogger(__name__)

MOST_TEXTS = 64
LONGEST_TEXT = 1000
LARGEST_BODY = 1_000_000
ANSWER_KEYS = ("intent", "intent_ranking", "language", "risk")


class RequestError(ValueError):
    """What is wrong with a request, in words that hold nothing of it."""


def read_request(body: Any) -> list[UserMessage]:
    """The messages of a request's JSON body.

    Raises:
        RequestError: not of the form above.
    """
    if not isinstance(body, dict) or not isinstance(body.get("texts"), list):
        raise RequestError("expected an object with a list `texts`")
    texts = body["texts"]
    languages = body.get("languages")
    if languages is None:
        languages = [None] * len(texts)
    if len(texts) > MOST_TEXTS:
        raise RequestError(f"at most {MOST_TEXTS} texts at once")
    if not all(isinstance(text, str) for text in texts):
        raise RequestError("every text must be a string")
    if (
        not isinstance(languages, list)
        or len(languages) != len(texts)
        or not all(code is None or isinstance(code, str) for code in languages)
    ):
        raise RequestError("`languages` must hold one code or null for each text")
    return [
        UserMessage(
            clean(text.encode("utf-8", "ignore").decode(), LONGEST_TEXT),
            metadata={"language": language},
        )
        for text, language in zip(texts, languages, strict=True)
    ]


class UnderstandChannel(InputChannel):
    """A Rasa input channel that carries no conversation, only understanding."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="understand")

    @classmethod
    def from_credentials(cls, credentials: dict[str, Any] | None) -> UnderstandChannel:
        """The channel as `credentials.yml` has it; the token is Rasa's own (see launch.py)."""
        return cls(os.environ.get("BOT_RASA_TOKEN", ""))

    @classmethod
    def name(cls) -> str:
        """First part of the path below `/webhooks/`."""
        return "understand"

    def blueprint(self, on_new_message: Callable[[UserMessage], Awaitable[Any]]) -> Blueprint:
        """The routes; `on_new_message` (a dialogue turn) is not used."""
        routes = Blueprint("understand")

        @routes.get("/model")
        async def model(request: Request) -> HTTPResponse:
            if refusal := self._refusal(request):
                return refusal
            return json({"model": Path(request.app.ctx.agent.processor.model_filename).name})

        @routes.post("/batch")
        async def batch(request: Request) -> HTTPResponse:
            if refusal := self._refusal(request):
                return refusal
            if len(request.body) > LARGEST_BODY:
                return json({"error": f"at most {LARGEST_BODY} bytes"}, status=413)
            try:
                messages = read_request(request.json)
            except RequestError as fault:
                return json({"error": str(fault)}, status=400)
            except Exception:  # Sanic's own error page would repeat the body
                return json({"error": "not JSON"}, status=400)
            if not messages:
                return json([])
            try:
                answer = await asyncio.get_running_loop().run_in_executor(
                    self._worker, understand, request.app.ctx.agent.processor, messages
                )
            except Exception as fault:
                logger.error("understanding failed: %s", type(fault).__name__)
                return json({"error": "understanding failed"}, status=500)
            return json(answer)

        return routes

    def _refusal(self, request: Request) -> HTTPResponse | None:
        given = str(request.headers.get("authorization", "")).removeprefix("Bearer ")
        if self._token and not hmac.compare_digest(given.encode(), self._token.encode()):
            return json({"error": "wrong token"}, status=401)
        agent = getattr(request.app.ctx, "agent", None)
        if agent is None or not agent.is_ready():
            return json({"error": "no model loaded"}, status=503)
        return None


def understand(processor: Any, messages: list[UserMessage]) -> list[dict[str, Any]]:
    """Run Rasa's graph once over all messages."""
    target = processor.model_metadata.nlu_target
    parsed = processor.graph_runner.run(
        inputs={
            PLACEHOLDER_MESSAGE: messages,
            PLACEHOLDER_TRACKER: DialogueStateTracker.from_events("", []),
        },
        targets=[target],
    )[target]
    return [{key: message.get(key) for key in ANSWER_KEYS} for message in parsed]
