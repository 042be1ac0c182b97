"""Web chat: a small page of our own, also embeddable, with a stream that survives a bad line.

The page keeps a random token; the token is the address. It sends each message with an id of its own
until it is accepted, so nothing is lost and nothing doubles. What the desk says is read from the
log by a stream of server-sent events (or by polling), always from the last message that was seen.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, ClassVar

from jinja2 import Environment, FileSystemLoader
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    RedirectResponse,
    Response,
)
from starlette.routing import BaseRoute, Route

from channels.context import ChannelContext
from channels.log import find_conversation, moments, open_conversation
from channels.message import (
    Finding,
    InboundMessage,
    Limits,
    Moment,
    OutboundMessage,
    RefusedError,
    RejectedError,
    clean,
)
from channels.webhook import raw_body
from config.facts import CONFIG

PAGE = CONFIG.parent / "channels" / "webchat_page"
STATIC = {"chat.css": "text/css", "chat.js": "text/javascript"}
BODY_LIMIT = 64 * 1024
"""Bytes of one request; a message of 10,000 characters fits in any language."""
TEXT_LIMIT = 10_000
HISTORY = 500
"""Messages per step of the stream."""
LOOK_AGAIN = 5.0
"""Seconds after which a stream looks at the log even if nothing woke it."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors *",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class WebChat:
    """The web chat. `hear(key)` yields at each change of a conversation."""

    name: ClassVar[str] = "webchat"
    limits: ClassVar[Limits] = Limits(text=100_000, buttons=20, group=20)

    def __init__(self, context: ChannelContext) -> None:
        self.inbox, self.database, self.texts = context.inbox, context.database, context.texts
        self.mail_address = context.settings.mail_address
        self._pages = Environment(loader=FileSystemLoader(PAGE), autoescape=True)
        self._pages.policies["json.dumps_kwargs"] = {"ensure_ascii": False}  # half the bytes
        self._waiting: dict[int, set[asyncio.Event]] = {}
        self.closing = asyncio.Event()

    def routes(self) -> Sequence[BaseRoute]:
        """The page, its files, and four end-points."""
        return [
            Route("/", lambda _: RedirectResponse("chat", 307)),
            Route("/chat", self.page),
            Route("/chat/left", self.left),
            Route("/chat/session", self.session, methods=["POST"]),
            Route("/chat/messages", self.receive, methods=["POST"]),
            Route("/chat/messages", self.poll),
            Route("/chat/stream", self.stream),
            Route("/chat/embed.js", self.embed),
            Route("/chat/static/{name}", self.static),
        ]

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """Nothing to listen on: the web server listens."""
        return nullcontext()

    async def send(self, messages: Sequence[OutboundMessage]) -> Sequence[str]:
        """Nothing to do: the page reads the log itself."""
        return ["" for _ in messages]

    async def busy(self, address: str, thread: dict[str, Any]) -> None:
        """Nothing yet."""

    async def fetch(self, source: str) -> tuple[str, bytes]:
        """Never called: files come with the message."""
        raise RejectedError(source)

    def entrance(self, words: str) -> str:
        """The page, with a code to be sent at once."""
        return f"/chat#link={words}"

    async def check(self) -> list[Finding]:
        """Whether workers can reach the page."""
        return []

    async def setup(self) -> list[Finding]:
        """Nothing to set up."""
        return []

    def heard(self, topic: str) -> None:
        """Something changed in the log."""
        _, _, number = topic.partition("conversation:")
        if number.isdigit():
            events = self._waiting.get(int(number), set())
        else:
            events = set() if topic else {e for some in self._waiting.values() for e in some}
        for event in events:
            event.set()

    # -- pages --------------------------------------------------------------------------------

    async def page(self, request: Request) -> Response:
        """The chat page in the wanted language, else in the browser's, else English."""
        texts = self.texts()
        names = [name for name, code in texts.texts if code == "en" and name.startswith("webchat.")]
        words = {
            code: {name.removeprefix("webchat."): texts(name, code).body for name in names}
            for code in texts.languages
        }
        language = texts.preferred(
            request.headers.get("accept-language", ""), request.query_params.get("lang", "")
        )
        html = self._pages.get_template("chat.html").render(
            texts=words,
            languages=[{"code": one.code, "name": one.name} for one in texts.languages.values()],
            language=language,
            mail=self.mail_address,
            limit=TEXT_LIMIT,
        )
        return HTMLResponse(html, headers=HEADERS)

    async def left(self, _: Request) -> Response:
        """An empty page with a neutral title, for after "leave and clear"."""
        return HTMLResponse("<!doctype html><title>-</title>", headers=HEADERS)

    async def static(self, request: Request) -> Response:
        """Style and script of the page; checked anew each time, since their names never change."""
        name = request.path_params["name"]
        if name not in STATIC:
            return Response(status_code=404)
        return FileResponse(
            PAGE / name, media_type=STATIC[name], headers={"Cache-Control": "no-cache"}
        )

    async def embed(self, _: Request) -> Response:
        """The script that puts the chat on other web pages."""
        return Response(
            (PAGE / "embed.js").read_text("utf-8"),
            media_type="text/javascript",
            headers={"Cache-Control": "max-age=3600", "Access-Control-Allow-Origin": "*"},
        )

    # -- end-points ---------------------------------------------------------------------------

    async def session(self, request: Request) -> Response:
        """A new token. The language of the page is a first guess at the worker's."""
        try:
            body = await _json(request)
        except RefusedError as error:
            return _refuse(error)
        language = body.get("language")
        token = secrets.token_urlsafe(24)
        if isinstance(language, str) and language in self.texts().languages:
            token = f"{language}.{token}"
        await self.database.write(open_conversation, self.name, token)
        return JSONResponse({"token": token}, 201, headers=HEADERS)

    async def receive(self, request: Request) -> Response:
        """Take a message; 202 only once it is written down."""
        token, conversation = await self._conversation(request)
        if conversation is None:
            return JSONResponse({"error": "unknown token"}, 401, headers=HEADERS)
        try:
            body = await _json(request)
            key, text, choice = (body.get(name, "") for name in ("id", "text", "choice"))
            if not isinstance(key, str) or not 8 <= len(key) <= 64:
                raise RefusedError("`id` must be 8 to 64 characters, new for each message")
            if not isinstance(text, str) or not isinstance(choice, str) or len(choice) > 80:
                raise RefusedError("`text` and `choice` must be texts")
            if len(text) > TEXT_LIMIT:
                raise RefusedError(f"too long: at most {TEXT_LIMIT} characters")
            if not text.strip() and not choice:
                raise RefusedError("empty message")
        except RefusedError as error:
            return _refuse(error)
        language = token.partition(".")[0] if "." in token[:8] else ""
        accepted = await self.inbox.accept(
            InboundMessage(
                channel=self.name,
                external_id=f"{conversation}:{key}",
                address=token,
                text=clean(text),
                choice=clean(choice),
                language_hint=language,
            )
        )
        return JSONResponse(
            {"id": accepted.message_id, "duplicate": accepted.duplicate}, 202, headers=HEADERS
        )

    async def poll(self, request: Request) -> Response:
        """Messages after an id, for browsers without streams."""
        _, conversation = await self._conversation(request)
        if conversation is None:
            return JSONResponse({"error": "unknown token"}, 401, headers=HEADERS)
        listed = await self.database.read(moments, conversation, _after(request), HISTORY)
        return JSONResponse({"messages": [_shown(m) for m in listed]}, headers=HEADERS)

    async def stream(self, request: Request) -> Response:
        """Messages after an id, then each new one as it comes."""
        _, conversation = await self._conversation(request)
        if conversation is None:
            return JSONResponse({"error": "unknown token"}, 401, headers=HEADERS)
        return EventSourceResponse(
            self._events(conversation, _after(request)), ping=15, headers=HEADERS
        )

    async def _events(self, conversation: int, after: int) -> AsyncIterator[ServerSentEvent]:
        changed = asyncio.Event()
        self._waiting.setdefault(conversation, set()).add(changed)
        try:
            yield ServerSentEvent(comment="open")  # tells a page behind a proxy that bytes flow
            while not self.closing.is_set():
                changed.clear()
                listed = await self.database.read(moments, conversation, after, HISTORY)
                for moment in listed:
                    after = moment.id
                    yield ServerSentEvent(
                        json.dumps(_shown(moment), ensure_ascii=False),
                        event="message",
                        id=str(moment.id),
                    )
                if len(listed) == HISTORY:
                    continue
                waiting = [
                    asyncio.create_task(changed.wait()),
                    asyncio.create_task(self.closing.wait()),
                ]
                try:
                    await asyncio.wait(
                        waiting, timeout=LOOK_AGAIN, return_when=asyncio.FIRST_COMPLETED
                    )
                finally:
                    for task in waiting:
                        task.cancel()
        finally:
            events = self._waiting.get(conversation, set())
            events.discard(changed)
            if not events:
                self._waiting.pop(conversation, None)

    async def _conversation(self, request: Request) -> tuple[str, int | None]:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not 20 <= len(token) <= 64:
            return "", None
        return token, await self.database.read(find_conversation, self.name, token)


def _shown(moment: Moment) -> dict[str, Any]:
    """A message as the page sees it; `key` is the page's own id of its own message."""
    mine = moment.author == "worker"
    return {
        "id": moment.id,
        "author": moment.author,
        "text": moment.text,
        "language": moment.language,
        "at": moment.at.isoformat(),
        "buttons": [{"label": b.label, "value": b.value} for b in moment.buttons],
        "key": moment.external_id.partition(":")[2] if mine else "",
    }


def _after(request: Request) -> int:
    text = request.query_params.get("after") or request.headers.get("last-event-id") or "0"
    return int(text) if text.isascii() and text.isdigit() and len(text) < 18 else 0


async def _json(request: Request) -> dict[str, Any]:
    """The JSON object of a request.

    Raises:
        RefusedError: too big, no JSON, not UTF-8, not an object.
    """
    body = await raw_body(request, BODY_LIMIT)
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise RefusedError("send JSON with Content-Type: application/json")
    try:
        value = json.loads(body.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise RefusedError("not readable as JSON in UTF-8") from None
    if not isinstance(value, dict):
        raise RefusedError("send a JSON object")
    return value


def _refuse(error: RefusedError) -> Response:
    status = 413 if str(error).startswith("too big") else 422
    return JSONResponse({"error": str(error)}, status, headers=HEADERS)
