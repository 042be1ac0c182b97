"""The whole program, composed in one place: settings in, a running desk out."""

import asyncio
import contextlib
import fcntl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TextIO

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, Counter, generate_latest
from pydantic_settings import BaseSettings
from sqlalchemy.orm import Session
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from bot.content import Loaded, load_content
from bot.link_page import link_page
from bot.publish import SHORT, Publications, digest_of_files
from bot.turn import Content, Worker
from channels.context import ChannelContext
from channels.email import Email, EmailSettings
from channels.line import Line, LineSettings
from channels.log import Published, accept_all, is_done, note, publish, release_all
from channels.media import MediaFetcher, MediaStore
from channels.message import Accepted, Channel, InboundMessage, Notice
from channels.sms import Sms, SmsSettings
from channels.telegram import Telegram, TelegramSettings
from channels.twilio_account import TwilioSettings
from channels.voice import Switchboard, Voice
from channels.webchat import WebChat
from config.content import read_yaml
from config.database import Database
from config.facts import CONFIG
from config.settings import Settings, load
from config.texts import Text, Texts
from config.vault import load_vault, use_vault
from handoff.calls import Calls
from handoff.console import ConsoleContext, console_routes
from handoff.desk import Desk
from handoff.hours import load_hours
from handoff.staff import first_account, first_password
from nlu.rasa_process import RasaProcess
from nlu.understand import Understander

log = structlog.get_logger(__name__)

ACCEPTED = Counter("desk_messages_total", "Messages taken, by channel", ("channel", "duplicate"))


class AlreadyRunningError(RuntimeError):
    """Another process uses this data folder."""


class Inbox:
    """Takes messages from the channels: durable first, then known to the workers.

    `undelivered(session, conversation)` is called when a vendor tells that words are lost.
    """

    def __init__(
        self, database: Database, media: MediaStore, undelivered: Callable[[Session, int], None]
    ) -> None:
        self.database, self.media, self.undelivered = database, media, undelivered
        self._turned = asyncio.Condition()

    async def accept(self, message: InboundMessage) -> Accepted:
        """Write a message down. When this returns, it is kept."""
        return (await self.accept_all([message]))[0]

    async def accept_all(self, messages: Sequence[InboundMessage]) -> Sequence[Accepted]:
        """Write down the messages of one delivery together, ahead of other work."""
        accepted = await self.database.write_first(accept_all, messages)
        for message, one in zip(messages, accepted, strict=True):
            ACCEPTED.labels(message.channel, str(one.duplicate).lower()).inc()
            if one.duplicate:
                self.media.remove(file.file for file in message.attachments)
        return accepted

    async def note(self, *notices: Notice) -> None:
        """Write down what happened to messages and contacts."""
        await self.database.write_first(self._note, notices)

    def _note(self, session: Session, notices: Sequence[Notice]) -> None:
        for conversation_id in dict.fromkeys(number for number, _ in note(session, notices)):
            self.undelivered(session, conversation_id)

    async def turn(self, message_id: int, timeout: float) -> bool:
        """Wait until a message has had its turn, here or in another process."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not await self.database.read(is_done, message_id):
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.5), self._turned:
                            await self._turned.wait()
                return True
        return False

    async def turned(self) -> None:
        """Somebody took a turn."""
        async with self._turned:
            self._turned.notify_all()


@dataclass
class Program:
    """The parts of a running desk."""

    settings: Settings
    database: Database
    loaded: Loaded
    desk: Desk
    inbox: Inbox
    channels: dict[str, Channel]
    webchat: WebChat
    media: MediaFetcher
    rasa: RasaProcess | None
    worker: Worker
    console: ConsoleContext
    publications: Publications
    new_key: bool
    password: str | None

    @property
    def content(self) -> Content:
        """The texts and rules in force."""
        return self.loaded.content

    async def use(self, loaded: Loaded) -> None:
        """Speak and understand by this content from now on: the one place where it is replaced.

        Turns under way end with the content that they began with; its wordings stay published.
        """
        words = loaded.content.all_texts
        self.desk.published = await self.database.write(publish, words.values())
        self.loaded = loaded
        self.desk.texts = loaded.content.texts
        self.worker.content = loaded.content
        self.worker.understander.lexicon = loaded.lexicon
        self.worker.understander.lexical = loaded.lexical
        telephone = self.channels.get("voice")
        if isinstance(telephone, Voice):
            telephone.speech.use(words)
        if self.rasa is not None:
            self.rasa.renew()

    def state(self) -> dict[str, str]:
        """Live state: how well messages are understood, and whether mail leaves."""
        rasa = self.rasa
        return {
            "understanding": "off" if rasa is None else rasa.state,
            "detail": "switched off by BOT_RASA" if rasa is None else rasa.detail,
            "mail": "sent" if self.settings.smtp_relay else "kept",
            "channels": ", ".join(self.channels),
            "content": self.publications.digest[:SHORT],
            "content_since": self.publications.since.isoformat(timespec="seconds"),
            "content_asked": self.publications.asked[:SHORT],
            "content_refused": self.publications.refused,
        }


def build(settings: Settings, on_rasa: Callable[[str, str], None] | None = None) -> Program:
    """Open everything that a desk needs; nothing runs yet. `on_rasa` hears what Rasa is doing.

    Raises:
        AlreadyRunningError, ContentError, DatabaseUnavailableError, VaultError: with a remedy.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    settings.data_dir.chmod(0o700)  # words and addresses: the operator's eyes only
    vault, new_key = load_vault(settings.data_dir, settings.data_key.get_secret_value())
    use_vault(vault)
    digest = digest_of_files(settings.faq_dir)
    loaded = load_content(settings.faq_dir)
    hours = load_hours()
    database = Database(settings.database, threads=max(4, settings.workers))
    database.migrate()
    published = database.write_now(publish, loaded.content.all_texts.values())
    database.write_now(first_account, settings.data_dir)
    if database.is_sqlite:
        database.write_now(release_all)
    desk = Desk(loaded.content.texts, published, hours)
    store = MediaStore(settings.media_home, settings.media_limit_mb * 1_048_576, settings.url)
    inbox = Inbox(database, store, desk.undelivered)

    program: Program

    def texts() -> Texts:
        return desk.texts

    context = ChannelContext(inbox, database, settings, texts, store)
    calls = Calls(desk)
    webchat, channels = open_channels(context, calls, loaded.content.all_texts)
    telephone = channels.get("voice")
    rasa = None
    if settings.rasa or settings.rasa_url:
        rasa = RasaProcess(
            settings.rasa_home,
            lambda: program.loaded.faq.training(),
            url=settings.rasa_url,
            token=settings.rasa_token.get_secret_value(),
            on_change=on_rasa,
        )
    understander = Understander(
        loaded.lexicon, loaded.lexical, lambda: rasa.client if rasa else None
    )
    worker = Worker(
        database, channels, understander, desk, loaded.content, settings.workers, settings.url
    )

    def state() -> Mapping[str, str]:
        return program.state()

    console = ConsoleContext(
        database=database,
        desk=desk,
        media=store,
        faq_titles=lambda topic, language: program.loaded.title(topic, language),
        risk_names=lambda kind, language: program.loaded.risk_name(kind, language),
        outcomes=read_yaml(CONFIG / "outcomes.yaml"),
        languages=loaded.content.texts.languages,
        https=settings.https,
        data_dir=settings.data_dir,
        status=state,
        drafts=lambda: program.loaded.drafts(),
        calls=calls,
        telephone=telephone if isinstance(telephone, Voice) else None,
    )
    program = Program(
        settings,
        database,
        loaded,
        desk,
        inbox,
        channels,
        webchat,
        MediaFetcher(database, store, channels),
        rasa,
        worker,
        console,
        Publications(settings.data_dir, settings.faq_dir, lambda fresh: program.use(fresh), digest),
        new_key,
        first_password(settings.data_dir),
    )
    return program


CHANNEL_SETTINGS: tuple[type[BaseSettings], ...] = (
    LineSettings,
    TelegramSettings,
    TwilioSettings,
    SmsSettings,
    EmailSettings,
)
"""The settings of the channels that need some of their own."""


def open_channels(
    context: ChannelContext, switchboard: Switchboard, words: Mapping[tuple[str, str], Text]
) -> tuple[WebChat, dict[str, Channel]]:
    """The channels that are set up. Web chat and e-mail always are. `words`: all published texts.

    Raises:
        SettingsError: a channel's settings are wrong.
    """
    webchat = WebChat(context)
    opened: list[Channel] = [webchat, Email(context, load(EmailSettings))]
    line = load(LineSettings)
    if line.configured:
        opened.append(Line(context, line))
    telegram = load(TelegramSettings)
    if telegram.configured:
        opened.append(Telegram(context, telegram))
    twilio = load(TwilioSettings)
    if twilio.configured and twilio.sms_number:
        opened.append(Sms(context, twilio, load(SmsSettings)))
    if twilio.configured and twilio.voice_number:
        opened.append(Voice(context, twilio, switchboard, words))
    return webchat, {channel.name: channel for channel in opened}


@contextlib.asynccontextmanager
async def channels_alone(settings: Settings) -> AsyncIterator[dict[str, Channel]]:
    """The channels without the desk, to look at or set up; nothing is listened to or received.

    Raises:
        ContentError, SettingsError, VaultError: with a remedy.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    use_vault(load_vault(settings.data_dir, settings.data_key.get_secret_value())[0])
    content = load_content(settings.faq_dir).content
    texts = content.texts
    database = Database(settings.database)
    store = MediaStore(settings.media_home, settings.media_limit_mb * 1_048_576, settings.url)
    inbox = Inbox(database, store, lambda _session, _conversation: None)
    try:
        context = ChannelContext(inbox, database, settings, lambda: texts, store)
        calls = Calls(Desk(texts, Published(), load_hours()))
        yield open_channels(context, calls, content.all_texts)[1]
    finally:
        database.close()


def application(program: Program) -> Starlette:
    """The web application; its lifespan runs the desk."""

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def readyz(_: Request) -> Response:
        try:
            waiting = await program.database.read(program.desk.counts)
        except Exception:
            log.exception("not_ready")
            return JSONResponse({"status": "database unavailable"}, 503)
        state = program.state()
        degraded = state["understanding"] != "ready"
        return JSONResponse(
            {"status": "degraded" if degraded else "ready", **state, "cases": waiting}
        )

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with running(program):
            yield

    routes = [
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", metrics),
        Mount("/console", routes=console_routes(program.console)),
        *program.media.store.routes(program.database),
        link_page(program.channels, lambda: program.content.texts, program.settings.url),
        *(route for channel in program.channels.values() for route in channel.routes()),
    ]
    return Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[Middleware(GZipMiddleware, minimum_size=1000), Middleware(_Failures)],
    )


@contextlib.asynccontextmanager
async def running(program: Program) -> AsyncIterator[None]:
    """Run workers, sweeps, listeners and Rasa for as long as the context lasts."""
    loop = asyncio.get_running_loop()
    background: set[asyncio.Task[None]] = set()

    def start(work: Any) -> None:
        task = loop.create_task(work)
        background.add(task)
        task.add_done_callback(background.discard)

    def heard(topic: str) -> None:
        if topic in {"work", ""}:
            program.worker.wake()
        if topic in {"media", ""}:
            program.media.wake()
        if topic == "turn":
            start(program.inbox.turned())
        program.webchat.heard(topic)

    with program.database.listening(heard):
        async with contextlib.AsyncExitStack() as stack:
            for channel in program.channels.values():
                await stack.enter_async_context(channel.lifespan())
            start(asyncio.to_thread(program.worker.understander.warm))
            start(program.worker.run())
            start(program.worker.sweep())
            start(program.media.run())
            start(program.publications.watch())
            if program.rasa is not None:
                await program.rasa.start()
            try:
                yield
            finally:
                program.webchat.closing.set()
                for task in list(background):
                    task.cancel()
                await asyncio.gather(*background, return_exceptions=True)
                if program.rasa is not None:
                    await program.rasa.stop()
    program.database.close()


def lock(settings: Settings) -> TextIO:
    """Make sure that only one process uses SQLite in this data folder.

    Raises:
        AlreadyRunningError: another one does.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    file = (settings.data_dir / "desk.lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise AlreadyRunningError(
            f"Another desk is running in {settings.data_dir}. Stop it, give this one another "
            "BOT_DATA_DIR, or run several on PostgreSQL (BOT_DATABASE_URL)."
        ) from None
    return file


class _Failures:
    """A fault in a route becomes a plain 500 with a number; the log has the rest."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Any) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception:
            if scope["type"] != "http":
                raise
            number = datetime.now(UTC).strftime("%H%M%S%f")
            room = scope["path"].split("/")[1]  # what follows may be a signed link
            log.exception("request_failed", number=number, room=room)
            if not started:
                answer = JSONResponse(
                    {"error": f"Something went wrong on our side (number {number})."}, 500
                )
                await answer(scope, receive, send)
