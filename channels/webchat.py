"""Web chat: a small page of our own, also embeddable, with a stream that survives a bad line.

The page keeps a random token; the token is the address. It sends each message with an id of its own
until it is accepted, so nothing is lost and nothing doubles. What the desk says is read from the
log by a stream of server-sent events (or by polling), always from the last message that was seen.

A file is a message of its own, sent as it is: nothing is left behind by one that breaks off, and
words never wait for pictures. A signed link opens a conversation on another device.
"""

import asyncio
import hashlib
import http.client
import json
import re
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar, Literal
from urllib.parse import unquote, urlsplit

import httpx
import segno
import structlog
from jinja2 import Environment, FileSystemLoader
from sqlalchemy import func, select
from sqlalchemy.orm import Session
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
from channels.log import (
    Conversation,
    Message,
    chain,
    continue_conversation,
    find_conversation,
    mark_read,
    moments,
    open_conversation,
)
from channels.media import Media
from channels.message import (
    Attachment,
    Finding,
    InboundMessage,
    Limits,
    Moment,
    OutboundMessage,
    RefusedError,
    RejectedError,
    clean,
)
from channels.resume import resume_token, resumed
from channels.webhook import raw_body
from config.database import announce, now
from config.facts import CONFIG

log = structlog.get_logger(__name__)

PAGE = CONFIG.parent / "channels" / "webchat_page"
STATIC = {"chat.css": "text/css", "chat.js": "text/javascript"}
BODY_LIMIT = 64 * 1024
"""Bytes of one request; a message of 10,000 characters fits in any language."""
TEXT_LIMIT = 10_000
HISTORY = 500
"""Messages per step of the stream."""
LOOK_AGAIN = 5.0
"""Seconds after which a stream looks at the log even if nothing woke it."""
FILES_A_DAY = 100
"""Files of one conversation in 24 hours; together they may be ten times as big as the largest."""
UPLOADS, UPLOADS_OF_ONE = 16, 3
"""Files that come in at the same time, in all and of one conversation: they are held in memory."""
UPLOAD_TIME = 1800.0
DEVICE_LIFE = timedelta(minutes=10)
"""How long a link to another device lives; it works once."""
NOTICE_LIFE = timedelta(hours=72)
"""How long a link lives that was sent through another channel."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors *",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


@dataclass(eq=False)
class _Line:
    """An open stream: `signs` are what is to be told beside messages, and not kept."""

    changed: asyncio.Event = field(default_factory=asyncio.Event)
    signs: set[str] = field(default_factory=set)


class WebChat:
    """The web chat. Set `closing` to end all streams."""

    name: ClassVar[str] = "webchat"
    limits: ClassVar[Limits] = Limits(text=100_000, buttons=20, group=20)

    def __init__(self, context: ChannelContext) -> None:
        self.inbox, self.database, self.texts = context.inbox, context.database, context.texts
        self.media, self.settings = context.media, context.settings
        self._pages = Environment(loader=FileSystemLoader(PAGE), autoescape=True)
        self._pages.policies["json.dumps_kwargs"] = {"ensure_ascii": False}  # half the bytes
        self._lines: dict[int, set[_Line]] = {}
        self._uploads: dict[int, list[asyncio.Timeout]] = {}
        self.closing = asyncio.Event()

    def routes(self) -> Sequence[BaseRoute]:
        """The page, its files, and its end-points."""
        return [
            Route("/", lambda _: RedirectResponse("chat", 307)),
            Route("/chat", self.page),
            Route("/chat/left", self.left),
            Route("/chat/session", self.session, methods=["POST"]),
            Route("/chat/messages", self.receive, methods=["POST"]),
            Route("/chat/messages", self.poll),
            Route("/chat/files", self.upload, methods=["POST"]),
            Route("/chat/read", self.read, methods=["POST"]),
            Route("/chat/resume-link", self.resume_link, methods=["POST"]),
            Route("/chat/resume", self.resume, methods=["POST"]),
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

    async def busy(self, address: str, thread: dict[str, Any]) -> None:  # noqa: ARG002
        """Dots on her page, whichever process it is connected to."""
        try:
            number = await self.database.read(find_conversation, self.name, address)
            if number is not None:
                await self.database.write(announce, f"typing:{number}")
        except Exception:
            log.exception("busy_failed")

    async def fetch(self, source: str) -> tuple[str, bytes]:  # noqa: ARG002
        """Never called: files come with the message."""
        raise RejectedError("the web chat holds no files")

    def entrance(self, words: str) -> str:
        """The page, with a code to be sent at once."""
        return f"/chat#link={words}"

    async def check(self) -> list[Finding]:
        """Whether workers reach the page at the address for them; how to put it on another page."""
        url = self.settings.url
        proxy = "See docs/channels/webchat.md for the proxy's settings."
        findings = [
            Finding(
                "address for workers",
                self.settings.https,
                url,
                "Set BOT_PUBLIC_URL to https://… and put a TLS proxy in front of the desk: without "
                "it others in the same network can read along.",
            )
        ]
        wanted = (
            ("the page opens", "/chat", 200, 'id="input"'),
            ("the script for other web pages", "/chat/embed.js", 200, "deskChat"),
            ("messages get through", "/chat/messages", 401, "unknown token"),
        )
        async with httpx.AsyncClient(timeout=10) as client:
            for what, path, status, words in wanted:
                try:
                    answer = await client.get(url + path)
                    well = answer.status_code == status and words in answer.text
                    detail = "" if well else f"status {answer.status_code}"
                except httpx.HTTPError as error:
                    well, detail = False, type(error).__name__
                findings.append(
                    Finding(
                        what,
                        well,
                        detail,
                        f"Start the desk (`bot serve`) and open {url + path} in a browser: the "
                        f"proxy must pass everything on unchanged. {proxy}",
                    )
                )
        size = self.media.limit
        well, detail = await asyncio.to_thread(_passes, url + "/chat/files", size)
        findings.append(
            Finding(
                f"files of up to {size // 1_048_576} MB get through",
                well,
                detail,
                f"Let the proxy pass requests of that size on (nginx: client_max_body_size). "
                f"{proxy}",
            )
        )
        embed = f'<script src="{url}/chat/embed.js" async></script>'
        return [*findings, Finding("to put it on another web page", True, embed)]

    async def setup(self) -> list[Finding]:
        """Nothing to set up."""
        return []

    def heard(self, topic: str) -> None:
        """Something changed in the log (`conversation:7`), or is to be shown (`typing:7`)."""
        kind, _, number = topic.partition(":")
        if not topic:
            lines = {line for some in self._lines.values() for line in some}
        else:
            lines = self._lines.get(int(number), set()) if number.isdigit() else set()
        for line in lines:
            if kind in {"typing", "opened"}:
                line.signs.add(kind)
            line.changed.set()

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
            mail=self.settings.mail_address,
            limit=TEXT_LIMIT,
            file_limit=self.media.limit // 1_048_576,
        )
        return HTMLResponse(html, headers=HEADERS)

    async def left(self, _: Request) -> Response:
        """An empty page with a neutral title, for after "leave and clear"."""
        return HTMLResponse(
            '<!doctype html><title>-</title><link rel="icon" href="data:,">', headers=HEADERS
        )

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
        token = self._new_token(body)
        await self.database.write(open_conversation, self.name, token)
        return JSONResponse({"token": token}, 201, headers=HEADERS)

    def _new_token(self, body: dict[str, Any]) -> str:
        token, language = secrets.token_urlsafe(24), body.get("language")
        return f"{language}.{token}" if self._known(language) else token

    def _known(self, language: Any) -> bool:
        return isinstance(language, str) and language in self.texts().languages

    async def receive(self, request: Request) -> Response:
        """Take a message; 202 only once it is written down."""
        token, conversation = await self._conversation(request)
        if conversation is None:
            return _unknown()
        try:
            body = await _json(request)
            key, text, choice = (body.get(name, "") for name in ("id", "text", "choice"))
            _check_key(key)
            if not isinstance(text, str) or not isinstance(choice, str) or len(choice) > 80:
                raise RefusedError("`text` and `choice` must be texts")
            if len(text) > TEXT_LIMIT:
                raise RefusedError(f"too long: at most {TEXT_LIMIT} characters")
            if not text.strip() and not choice:
                raise RefusedError("empty message")
        except RefusedError as error:
            return _refuse(error)
        return await self._accept(token, conversation, key, text=clean(text), choice=clean(choice))

    async def upload(self, request: Request) -> Response:
        """Take a file, which is a message: its bytes as they are, `X-Message-Id`, and its name,
        percent-encoded, in `X-File-Name`; 202 only once it is written down."""
        token, conversation = await self._conversation(request)
        if conversation is None:
            return _unknown()
        key = request.headers.get("x-message-id", "")
        name = unquote(request.headers.get("x-file-name", ""))[:200]
        try:
            _check_key(key)
            count, size = await self.database.read(_files_today, conversation)
            if count >= FILES_A_DAY or size >= 10 * self.media.limit:
                raise RefusedError("too many files in a day")
            if sum(map(len, self._uploads.values())) >= UPLOADS:
                return JSONResponse(
                    {"error": "too many at once"}, 503, {**HEADERS, "Retry-After": "10"}
                )
            async with self._uploading(conversation):
                data = await raw_body(request, self.media.limit, UPLOAD_TIME + 1)
            if not data:
                raise RefusedError("an empty file")
            kept = await self.media.keep(name, data)
        except TimeoutError:
            return JSONResponse({"error": "the connection was lost"}, 408, headers=HEADERS)
        except RefusedError as error:
            return _refuse(error)
        try:
            return await self._accept(token, conversation, key, kind="file", attachments=(kept,))
        except Exception:  # not when cancelled: then it may still be written down
            self.media.remove([kept.file])
            raise

    @asynccontextmanager
    async def _uploading(self, conversation: int) -> AsyncIterator[None]:
        """Bounds the time, and what comes in at once: a phone that tries again on a new connection
        ends the oldest one, of which nobody may ever tell us that it is dead."""
        mine = self._uploads.setdefault(conversation, [])
        if len(mine) >= UPLOADS_OF_ONE:
            mine.pop(0).reschedule(asyncio.get_running_loop().time())
        async with asyncio.timeout(UPLOAD_TIME) as limit:
            mine.append(limit)
            try:
                yield
            finally:
                with suppress(ValueError):
                    mine.remove(limit)
                if not mine:
                    self._uploads.pop(conversation, None)

    async def _accept(
        self,
        token: str,
        conversation: int,
        key: str,
        *,
        text: str = "",
        choice: str = "",
        kind: Literal["text", "file"] = "text",
        attachments: tuple[Attachment, ...] = (),
    ) -> Response:
        accepted = await self.inbox.accept(
            InboundMessage(
                channel=self.name,
                external_id=f"{conversation}:{key}",
                address=token,
                text=text,
                choice=choice,
                language_hint=token.partition(".")[0] if "." in token[:8] else "",
                kind=kind,
                attachments=attachments,
            )
        )
        return JSONResponse(
            {"id": accepted.message_id, "duplicate": accepted.duplicate}, 202, headers=HEADERS
        )

    async def read(self, request: Request) -> Response:
        """Note up to which message she has seen what the desk said."""
        _, conversation = await self._conversation(request)
        if conversation is None:
            return _unknown()
        try:
            number = (await _json(request)).get("id")
            if type(number) is not int or not 0 < number < 2**31:
                raise RefusedError("`id` must be the id of a message")
        except RefusedError as error:
            return _refuse(error)
        ids = await self.database.read(chain, conversation)
        await self.database.write(mark_read, ids, number)
        return Response(status_code=204, headers=HEADERS)

    async def resume_link(self, request: Request) -> Response:
        """A link that opens this conversation on another device, and its QR code as an image."""
        _, conversation = await self._conversation(request)
        if conversation is None:
            return _unknown()
        try:
            language = (await _json(request)).get("language")
        except RefusedError as error:
            return _refuse(error)
        base = self.settings.public_url or str(request.base_url).rstrip("/")
        asked = f"?lang={language}" if self._known(language) else ""
        url = f"{base}/chat{asked}#resume={resume_token(conversation, 'device')}"
        image = segno.make_qr(url, error="l").svg_data_uri(border=4, light="#fff", dark="#000")
        return JSONResponse({"url": url, "qr": image}, headers=HEADERS)

    async def resume(self, request: Request) -> Response:
        """The token of the conversation that a link opens; 410 if the link works no more.

        `device` is a random word of the page that asks: should our answer get lost, the same
        page may ask again.
        """
        try:
            body = await _json(request)
            link, device = (body.get(name, "") for name in ("token", "device"))
            if not isinstance(link, str) or not isinstance(device, str) or len(device) > 64:
                raise RefusedError("`token` and `device` must be texts")
        except RefusedError as error:
            return _refuse(error)
        link = clean(link)
        token = None
        number = resumed(link, int(DEVICE_LIFE.total_seconds()), "device")
        if number is not None:
            token = await self.database.write(_open_once, number, link, device)
        else:
            number = resumed(link, int(NOTICE_LIFE.total_seconds()))
            if number is not None:
                fresh = self._new_token(body)
                token = await self.database.write(continue_conversation, number, self.name, fresh)
        if token is None:
            return JSONResponse({"error": "this link works no more"}, 410, headers=HEADERS)
        return JSONResponse({"token": token}, headers=HEADERS)

    async def poll(self, request: Request) -> Response:
        """Messages after an id, for browsers without streams."""
        _, conversation = await self._conversation(request)
        if conversation is None:
            return _unknown()
        ids = await self.database.read(chain, conversation)
        listed = await self.database.read(moments, ids, _after(request), HISTORY, to_worker=True)
        return JSONResponse({"messages": [self._shown(m) for m in listed]}, headers=HEADERS)

    async def stream(self, request: Request) -> Response:
        """Messages after an id, then each new one as it comes."""
        _, conversation = await self._conversation(request)
        if conversation is None:
            return _unknown()
        ids = await self.database.read(chain, conversation)
        return EventSourceResponse(self._events(ids, _after(request)), ping=15, headers=HEADERS)

    async def _events(self, ids: list[int], after: int) -> AsyncIterator[ServerSentEvent]:
        line = _Line()
        for number in ids:
            self._lines.setdefault(number, set()).add(line)
        try:
            yield ServerSentEvent(comment="open")  # tells a page behind a proxy that bytes flow
            while not self.closing.is_set():
                line.changed.clear()
                while line.signs:
                    yield ServerSentEvent(json.dumps({"sign": line.signs.pop()}), event="sign")
                listed = await self.database.read(moments, ids, after, HISTORY, to_worker=True)
                for moment in listed:
                    after = moment.id
                    yield ServerSentEvent(
                        json.dumps(self._shown(moment), ensure_ascii=False),
                        event="message",
                        id=str(moment.id),
                    )
                if len(listed) == HISTORY:
                    continue
                waiting = [
                    asyncio.create_task(line.changed.wait()),
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
            for number in ids:
                lines = self._lines.get(number, set())
                lines.discard(line)
                if not lines:
                    self._lines.pop(number, None)

    def _shown(self, moment: Moment) -> dict[str, Any]:
        """A message as the page sees it; `key` is the page's own id of its own message."""
        mine = moment.author == "worker" and moment.channel == self.name
        return {
            "id": moment.id,
            "author": moment.author,
            "text": moment.text,
            "language": moment.language,
            "at": moment.at.isoformat(),
            "buttons": [{"label": b.label, "value": b.value} for b in moment.buttons],
            "key": moment.external_id.partition(":")[2] if mine else "",
            "files": [
                {
                    "name": file.name,
                    "media_type": file.media_type,
                    "size": file.size,
                    # A path: the page may be open at another address than the public one.
                    "url": self.media.link(file).removeprefix(self.media.url) if file.file else "",
                }
                for file in moment.attachments
            ],
        }

    async def _conversation(self, request: Request) -> tuple[str, int | None]:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not 20 <= len(token) <= 64:
            return "", None
        return token, await self.database.read(find_conversation, self.name, token)


def _open_once(session: Session, number: int, link: str, device: str) -> str | None:
    """The address of a conversation, for the first device that comes with a link to it."""
    conversation = session.scalar(
        select(Conversation).where(Conversation.id == number).with_for_update()
    )
    if conversation is None or conversation.address is None:
        return None
    thread = conversation.thread or {}
    used: list[list[str]] = thread.get("links", [])
    mark = hashlib.sha256(link.encode()).hexdigest()
    known = next((by for one, by in used if one == mark), None)
    if known is None:
        # More links than these cannot be made within the life of one without being seen.
        conversation.thread = {**thread, "links": [*used[-49:], [mark, device]]}
        announce(session, f"opened:{number}")
    elif not device or known != device:
        return None
    return conversation.address


def _files_today(session: Session, conversation_id: int) -> tuple[int, int]:
    """How many files a worker sent in 24 hours, and their bytes together."""
    count, size = session.execute(
        select(func.count(Media.id), func.coalesce(func.sum(Media.size), 0))
        .join(Message, Message.id == Media.message_id)
        .where(Message.conversation_id == conversation_id, Message.author == "worker")
        .where(Message.created_at > now(session) - timedelta(days=1))
    ).one()
    return count, size


def _passes(url: str, size: int) -> tuple[bool, str]:
    """Whether what stands before the desk lets a request of that size through: only its head is
    sent, which we refuse for want of a token, and a proxy for its size."""
    place = urlsplit(url)
    kind = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
    connection = kind(place.hostname or "", place.port, timeout=10)
    try:
        connection.putrequest("POST", place.path)
        connection.putheader("Content-Length", str(size))
        connection.endheaders()
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return False, type(error).__name__
    finally:
        connection.close()
    return status == 401, "" if status == 401 else f"status {status}"


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


def _check_key(key: Any) -> None:
    if not isinstance(key, str) or not re.fullmatch(r"[!-~]{8,64}", key):
        raise RefusedError("the message's id must be 8 to 64 ASCII letters, new for each message")


def _refuse(error: RefusedError) -> Response:
    reason = str(error)
    status = 413 if reason.startswith("too big") else 429 if "in a day" in reason else 422
    return JSONResponse({"error": reason}, status, headers=HEADERS)


def _unknown() -> Response:
    return JSONResponse({"error": "unknown token"}, 401, headers=HEADERS)
