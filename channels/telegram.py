"""Telegram: a bot that hears by web hook or, on a laptop without a public address, by long polling.

Telegram keeps an update until it is acknowledged (HTTP 200, or a later offset), so each one is
written down before that. It knows no idempotency key: if its answer to a message of ours is lost
on the way, that one message is sent again. Source: Telegram Bot API (core.telegram.org/bots/api).
"""

import asyncio
import contextlib
import hmac
import json
import logging
import random
import re
import warnings
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import PurePosixPath
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

import structlog
from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from telegram import (
    BotCommand,
    CallbackQuery,
    ChatMember,
    ChatMemberUpdated,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    LinkPreviewOptions,
    Message,
    Update,
    User,
)
from telegram.constants import ChatAction, ChatType
from telegram.error import (
    BadRequest,
    Conflict,
    Forbidden,
    InvalidToken,
    RetryAfter,
    TelegramError,
)
from telegram.ext import AIORateLimiter, ExtBot
from telegram.request import HTTPXRequest
from telegram.warnings import PTBUserWarning

from channels.context import ChannelContext
from channels.message import (
    Attachment,
    BlockedError,
    Finding,
    InboundMessage,
    Limits,
    OutboundMessage,
    Presence,
    RateLimitedError,
    RefusedError,
    RejectedError,
    TemporarySendError,
    clean,
    utf16,
)
from channels.webhook import raw_body
from config.vault import vault

log = structlog.get_logger(__name__)

warnings.filterwarnings("ignore", "Please use 'Bot.getUpdates'", PTBUserWarning)  # see `_updates`

PATH = "/telegram/webhook"
BODY_LIMIT = 1024 * 1024
UPDATES = ("message", "edited_message", "callback_query", "my_chat_member")
"""What we ask Telegram for; it leaves out the rest."""
PORTS = (443, 80, 88, 8443)
"""Ports at which Telegram calls a web hook."""
COMMANDS = ("human", "language", "help", "delete", "stop")
"""In the order of the menu; their descriptions are `telegram.command_…` in the catalogue."""
LARGEST_PHOTO, LARGEST_FILE = 10 * 1_048_576, 50 * 1_048_576
"""Bytes that a bot can send."""
VALUE_LIMIT = 64
"""Bytes of a button's value."""
LONG_POLL = 25
"""Seconds for which Telegram holds a request for updates open."""
PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds between attempts at polling: doubled at each failure."""
COURTESY = 10.0
"""Seconds for what is nice to have."""
REMEMBERED = 1000

_COMMAND = re.compile(r"/([a-z]+)(?:@\w+)?(?:\s+([\w-]{1,64}))?", re.ASCII | re.IGNORECASE)
_LINK = re.compile(r"link_(\d{8})")
_GONE = ("chat not found", "user not found", "peer_id_invalid", "user is deactivated")
_FILES = {
    "voice": "audio/ogg",
    "audio": "audio/mpeg",
    "video_note": "video/mp4",
    "video": "video/mp4",
    "photo": "image/jpeg",
    "document": "application/octet-stream",
}
_SERVICE = (
    "pinned_message",
    "message_auto_delete_timer_changed",
    "chat_background_set",
    "write_access_allowed",
    "connected_website",
    "proximity_alert_triggered",
    "boost_added",
    "forum_topic_created",
    "forum_topic_edited",
    "forum_topic_closed",
    "forum_topic_reopened",
    "users_shared",
    "chat_shared",
    "gift",
    "unique_gift",
    "successful_payment",
    "refunded_payment",
    "passport_data",
)
"""Events that Telegram writes as messages: nobody said anything. What is neither these nor known
(a kind of message that comes later) is taken, and the desk asks for words."""
_ESSENTIAL = ("message_id", "date", "edit_date", "chat", "from", "text", "caption")


class TelegramSettings(BaseSettings):
    """The bot at Telegram."""

    model_config = SettingsConfigDict(env_prefix="BOT_TELEGRAM_", env_file=".env", extra="ignore")

    token: SecretStr = Field(
        SecretStr(""),
        description="Telegram: token of the bot, from @BotFather. Empty: no Telegram.",
    )
    webhook_secret: SecretStr = Field(
        SecretStr(""),
        description="Telegram: what proves that a web hook comes from Telegram (letters, digits, "
        "_ and -). Empty: derived from the data key.",
    )
    mode: Literal["", "webhook", "polling"] = Field(
        "",
        description="Telegram: webhook (needs a public https address) or polling (one process "
        "asks). Empty: webhook if BOT_PUBLIC_URL is https, else polling.",
    )
    bot_name: str = Field(
        "",
        description="Telegram: user name of the bot without @, for links that open it. Empty: "
        "Telegram is asked.",
    )
    api_url: str = Field(
        "", description="Another address of the Bot API (own server, tests). Empty: Telegram's."
    )

    @field_validator("token")
    @classmethod
    def _whole(cls, value: SecretStr) -> SecretStr:
        token = value.get_secret_value().strip()
        if token and not re.fullmatch(r"\d+:[\w-]+", token, re.ASCII):
            raise ValueError("give the whole token: digits, a colon, letters and digits")
        return SecretStr(token)

    @field_validator("webhook_secret")
    @classmethod
    def _allowed(cls, value: SecretStr) -> SecretStr:
        if not re.fullmatch(r"[\w-]{0,256}", value.get_secret_value(), re.ASCII):
            raise ValueError("give letters, digits, _ and -, at most 256")
        return value

    @property
    def configured(self) -> bool:
        """Whether there is a bot."""
        return bool(self.token.get_secret_value())


class Telegram:
    """The Telegram channel. A conversation is the private chat of a worker with the bot."""

    name: ClassVar[str] = "telegram"
    limits: ClassVar[Limits] = Limits(text=4096, buttons=100, group=1, label=40, measure=utf16)

    def __init__(self, context: ChannelContext, settings: TelegramSettings) -> None:
        # Each URL holds the token, and the SDK logs words of workers: none of it is for a log.
        for name in ("telegram", "httpx", "httpcore"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        self.inbox, self.texts, self.media = context.inbox, context.texts, context.media
        self.url = context.settings.public_url + PATH
        self.polling = settings.mode == "polling" or (
            not settings.mode and not context.settings.https
        )
        self.secret = settings.webhook_secret.get_secret_value() or vault().secret(
            "telegram webhook"
        )
        self.bot_name = settings.bot_name.strip().removeprefix("@")
        api = settings.api_url.rstrip("/") or "https://api.telegram.org"
        client = partial(HTTPXRequest, read_timeout=20.0, write_timeout=20.0, connect_timeout=10.0)
        self._requests = (client(connection_pool_size=1), client(pool_timeout=10.0))
        self.bot: ExtBot[int] = ExtBot(
            settings.token.get_secret_value(),
            f"{api}/bot",
            f"{api}/file/bot",
            get_updates_request=self._requests[0],
            request=self._requests[1],
            rate_limiter=AIORateLimiter(max_retries=0),  # 30 messages a second; we retry ourselves
        )
        self._left: OrderedDict[str, list[str]] = OrderedDict()

    def routes(self) -> Sequence[BaseRoute]:
        """The web hook, unless we poll."""
        return [] if self.polling else [Route(PATH, self.hook, methods=["POST"])]

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """Polling, if there is no web hook; the connections."""
        return self._live()

    @asynccontextmanager
    async def _live(self) -> AsyncIterator[None]:
        polling = asyncio.create_task(self._poll()) if self.polling else None
        naming = asyncio.create_task(self._learn_name())
        try:
            yield
        finally:
            tasks = [naming, *([polling] if polling is not None else [])]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for request in self._requests:
                await request.shutdown()

    async def _learn_name(self) -> None:
        """Ask Telegram for the bot's name, for links that open it; no link without."""
        if not self.bot_name:
            with contextlib.suppress(Exception):
                self.bot_name = (await self.bot.get_me()).username or ""

    # -- in -----------------------------------------------------------------------------------

    async def hook(self, request: Request) -> Response:
        """Take one update from Telegram."""
        given = request.headers.get("x-telegram-bot-api-secret-token", "")
        if not hmac.compare_digest(given.encode(), self.secret.encode()):
            log.warning("telegram_forged")
            return Response(status_code=403)
        try:
            payload = json.loads(await raw_body(request, BODY_LIMIT))
        except (RefusedError, ValueError, RecursionError):
            log.warning("telegram_unreadable")
            return Response(status_code=400)
        update = await self.take(payload)
        return Response(background=BackgroundTask(self.courtesy, update) if update else None)

    async def take(self, payload: Any) -> Update | None:
        """Write down what an update says. When this returns, it is kept; None if unreadable."""
        update, found = hear(payload)
        if isinstance(found, InboundMessage):
            await self.inbox.accept(found)
        elif found is not None:
            await self.inbox.note(found)
        return update

    async def courtesy(self, update: Update) -> None:
        """What a screen still waits for once the update is kept. Nothing depends on it."""
        try:
            async with asyncio.timeout(COURTESY):
                if update.callback_query is not None:
                    await self._pressed(update.callback_query)
                elif update.my_chat_member is not None:
                    await self._added(update.my_chat_member)
        except Exception as error:
            log.warning("telegram_courtesy_failed", reason=type(error).__name__)

    async def _pressed(self, query: CallbackQuery) -> None:
        """Stop the button's spinner and show what was pressed: the chat itself shows nothing.

        A menu stays, to press again; a question of yes or no has been answered.
        """
        await self.bot.answer_callback_query(query.id, text=label(query)[:200] or None)
        if query.message is not None and str(query.data).startswith("/delete "):
            await self.bot.edit_message_reply_markup(
                chat_id=query.message.chat.id, message_id=query.message.message_id
            )

    async def _added(self, change: ChatMemberUpdated) -> None:
        """Refuse a group, once, and leave it: an employer may be in it."""
        outside = (ChatMember.LEFT, ChatMember.BANNED)
        if change.chat.type == ChatType.PRIVATE or change.new_chat_member.status in outside:
            return
        groups = (ChatType.GROUP, ChatType.SUPERGROUP)
        if change.chat.type in groups and change.old_chat_member.status in outside:
            text = self.texts()("telegram.group", tongue(change.from_user) or "en")
            with contextlib.suppress(TelegramError):  # perhaps nobody may write there
                await self.bot.send_message(change.chat.id, text.body)
        await self.bot.leave_chat(change.chat.id)

    async def _poll(self) -> None:
        """Ask for updates until cancelled; the offset moves past one only when it is kept."""
        offset, failures, begun = 0, 0, False
        while True:
            pause = 0.0
            try:
                if not begun:
                    await self.bot.delete_webhook()
                    begun = True
                for payload in await self._updates(offset):
                    update = await self.take(payload)
                    offset = payload["update_id"] + 1
                    if update is not None:
                        await self.courtesy(update)
                failures = 0
                continue
            except Conflict:
                remedy = "Another program uses this token: stop it, or let one web hook serve all."
                log.error("telegram_conflict", remedy=remedy)
            except InvalidToken:
                log.error("telegram_token_refused", remedy="Set BOT_TELEGRAM_TOKEN anew.")
            except RetryAfter as error:
                pause = seconds(error)
                log.warning("telegram_too_fast", pause=pause)
            except TelegramError as error:
                log.warning("telegram_unreachable", reason=type(error).__name__)
            except Exception:  # the desk could not keep it: Telegram gives it again
                log.exception("telegram_not_kept")
            failures += 1
            growing = min(LONGEST_PAUSE, PAUSE * 2 ** min(failures - 1, 10))
            await asyncio.sleep(max(pause, growing * random.uniform(0.7, 1.3)))  # noqa: S311

    async def _updates(self, offset: int) -> list[Any]:
        """The next updates as they came: `Bot.get_updates` gives none if it cannot read one."""
        found = await self.bot.do_api_request(
            "getUpdates",
            {"offset": offset, "timeout": LONG_POLL, "allowed_updates": UPDATES},
            read_timeout=LONG_POLL + 10,
        )
        if not isinstance(found, list):
            raise TelegramError("no list of updates")
        return found

    # -- out ----------------------------------------------------------------------------------

    async def send(self, messages: Sequence[OutboundMessage]) -> Sequence[str]:
        """Send a message: its text, then its files; the buttons are under the last of them."""
        return [await self._send(message) for message in messages]

    async def _send(self, message: OutboundMessage) -> str:
        chat, steps = int(message.address), list[Callable[..., Awaitable[Message]]]()
        if message.text:
            plain = LinkPreviewOptions(is_disabled=True)
            steps.append(
                partial(self.bot.send_message, chat, message.text, link_preview_options=plain)
            )
        steps += [partial(self._send_file, chat, one) for one in message.attachments]
        # What left before a failure is not repeated when all is tried again.
        left = self._left.setdefault(message.key, [])
        while len(self._left) > REMEMBERED:
            self._left.popitem(last=False)
        for number in range(len(left), len(steps)):
            keyboard = buttons(message) if number == len(steps) - 1 else None
            with asking():
                sent = await steps[number](reply_markup=keyboard)
            left.append(f"{chat}:{sent.message_id}")
        self._left.pop(message.key, None)
        return left[0] if left else ""

    async def _send_file(
        self, chat: int, file: Attachment, reply_markup: InlineKeyboardMarkup | None
    ) -> Message:
        try:
            data = await self.media.read(file.file)
        except FileNotFoundError:
            raise RejectedError("the file is not here any more") from None
        if len(data) > LARGEST_FILE:
            raise RejectedError("Telegram takes files of at most 50 MB")
        kind = file.media_type
        photo = kind in {"image/jpeg", "image/png", "image/webp"} and len(data) <= LARGEST_PHOTO
        with contextlib.suppress(BadRequest):  # not liked as such (its shape …): as a plain file
            if photo:
                return await self.bot.send_photo(
                    chat, data, filename=file.name, reply_markup=reply_markup
                )
            if kind == "audio/ogg":
                return await self.bot.send_voice(
                    chat, data, filename=file.name, reply_markup=reply_markup
                )
        return await self.bot.send_document(
            chat,
            data,
            filename=file.name,
            reply_markup=reply_markup,
        )

    async def busy(self, address: str, thread: dict[str, Any]) -> None:  # noqa: ARG002
        """Show “typing …” for five seconds."""
        with contextlib.suppress(Exception):
            await self.bot.send_chat_action(int(address), ChatAction.TYPING)

    async def fetch(self, source: str) -> tuple[str, bytes]:
        """The name and the bytes of a file; Telegram gives bots files of up to 20 MB."""
        with asking():
            file = await self.bot.get_file(source)
            if (file.file_size or 0) > self.media.limit:
                raise RefusedError(f"too big: at most {self.media.limit // 1_048_576} MB")
            data = bytes(await file.download_as_bytearray())
        return PurePosixPath(file.file_path or "").name, data

    def entrance(self, words: str) -> str:
        """The chat with the bot, whose Start button brings the code along."""
        return f"https://t.me/{self.bot_name}?start=link_{words}" if self.bot_name else ""

    # -- set-up -------------------------------------------------------------------------------

    async def check(self) -> list[Finding]:
        """Look at the token, the web hook and whether groups can invite the bot."""
        try:
            me, hook = await self.bot.get_me(), await self.bot.get_webhook_info()
        except Exception as error:
            return [unanswered("Telegram answers", error)]
        name = me.username or ""
        found = [Finding("bot", True, f"@{name}; for a QR code: https://t.me/{name}?start=MEMBER")]
        if self.polling:
            found.append(
                Finding(
                    "long polling",
                    not hook.url,
                    f"{hook.pending_update_count} updates wait",
                    "A web hook is set. Start the desk, which takes it away, or set "
                    "BOT_PUBLIC_URL to an https address to use it.",
                )
            )
        else:
            failing = bool(hook.last_error_message and hook.pending_update_count)
            missing = set(UPDATES) - set(hook.allowed_updates or UPDATES)
            found += [
                self._public(),
                Finding(
                    "web hook",
                    hook.url == self.url and not missing,
                    "set" if hook.url else "not set",
                    "Run: bot channels setup telegram",
                ),
                Finding(
                    "delivery",
                    not failing,
                    f"{hook.pending_update_count} updates wait; last fault: "
                    f"{hook.last_error_message or 'none'}",
                    "See whether the desk runs, and whether its address can be opened from the "
                    "internet with a certificate that browsers trust.",
                ),
            ]
        found.append(
            Finding(
                "groups",
                not me.can_join_groups,
                "cannot invite the bot" if not me.can_join_groups else "can invite the bot",
                "The desk leaves every group. So that nobody can try: @BotFather, /setjoingroups, "
                "Disable.",
            )
        )
        return found

    async def setup(self) -> list[Finding]:
        """Set the web hook (or take it away), and menu and description in all languages."""
        done: list[Finding] = []
        jobs: list[tuple[str, Callable[[], Awaitable[bool]]]] = []
        if self.polling:
            jobs.append(("no web hook, for long polling", self.bot.delete_webhook))
        else:
            done.append(self._public())
            hook = partial(
                self.bot.set_webhook,
                self.url,
                secret_token=self.secret,
                allowed_updates=UPDATES,
                drop_pending_updates=False,
            )
            jobs += [("web hook", hook)] if done[0].ok else []
        texts = self.texts()
        for code in ["", *texts.languages]:  # "": whoever uses Telegram in yet another language
            in_ = code or "en"
            menu = [BotCommand(c, texts(f"telegram.command_{c}", in_).body) for c in COMMANDS]
            about = texts("telegram.description", in_).body
            short = texts("telegram.short_description", in_).body
            jobs += [
                (f"menu {in_}", partial(self.bot.set_my_commands, menu, language_code=code)),
                (f"description {in_}", partial(self.bot.set_my_description, about, code)),
                (f"profile {in_}", partial(self.bot.set_my_short_description, short, code)),
            ]
        before = len(done)
        for what, job in jobs:
            try:
                await job()
            except Exception as error:
                done.append(unanswered(what, error))
                if not isinstance(error, BadRequest):
                    break  # the others would fail as well
        if len(done) == before:
            done.append(Finding("bot", True, f"{len(jobs)} settings made at Telegram"))
        return done

    def _public(self) -> Finding:
        parts = urlsplit(self.url)
        well = parts.scheme == "https" and (parts.port or 443) in PORTS
        return Finding(
            "public address",
            well,
            self.url.removesuffix(PATH) or "not set",
            f"Set BOT_PUBLIC_URL to an https address with port {', '.join(map(str, PORTS))}; "
            "without one set BOT_TELEGRAM_MODE=polling.",
        )


def hear(payload: Any) -> tuple[Update | None, InboundMessage | Presence | None]:
    """What an update says. Where the SDK trips over a part of it, the rest is read."""
    fault = ""
    for reduced in (dict, _readable, _essential):
        try:
            update = Update.de_json(
                {
                    name: reduced(part) if name in {"message", "edited_message"} else part
                    for name, part in payload.items()
                },
                None,
            )
            return update, heard(update)
        except Exception as error:  # any at all: the payload may hold anything
            fault = fault or type(error).__name__
    log.warning("telegram_update_unreadable", fault=fault)
    return None, None


def _readable(message: dict[str, Any]) -> dict[str, Any]:
    kept = _essential(message)
    for name, part in message.items():
        with contextlib.suppress(Exception):
            Message.de_json({**kept, name: part}, None)
            kept[name] = part
    return kept


def _essential(message: dict[str, Any]) -> dict[str, Any]:
    return {name: message[name] for name in _ESSENTIAL if name in message}


def heard(update: Update) -> InboundMessage | Presence | None:
    """The message or notice of an update; None if it is nothing to us (groups, channels …).

    Raises:
        Exception: of any kind, if the update is malformed.
    """
    if update.callback_query is not None:
        return _choice(update.callback_query)
    if update.my_chat_member is not None:
        change = update.my_chat_member
        if change.chat.type != ChatType.PRIVATE:
            return None
        here = change.new_chat_member.status != ChatMember.BANNED
        return Presence(Telegram.name, _number(change.chat.id), here)
    message = update.message or update.edited_message
    if message is None or message.chat.type != ChatType.PRIVATE:
        return None
    if message.from_user is not None and message.from_user.is_bot:
        return None
    return _message(message, edited=update.message is None)


def _choice(query: CallbackQuery) -> InboundMessage | None:
    if query.message is None or query.message.chat.type != ChatType.PRIVATE:
        return None
    text, value = label(query), _words(query.data)
    if re.fullmatch(r"#\d+", value):  # see `buttons`: the desk knows the number
        text, value = value[1:], ""
    if not text and not value:
        return None
    return InboundMessage(
        Telegram.name,
        str(query.id),
        _number(query.message.chat.id),
        text,
        choice=value,
        name=_name(query.from_user),
        language_hint=tongue(query.from_user),
    )


def _message(message: Message, *, edited: bool) -> InboundMessage | None:
    chat, number = _number(message.chat.id), _number(message.message_id)
    text = _words(message.text) or _words(message.caption)
    about: dict[str, Any] = {
        "channel": Telegram.name,
        "external_id": f"{chat}:{number}",
        "address": chat,
        "name": _name(message.from_user),
        "language_hint": tongue(message.from_user),
    }
    if edited:
        moment = message.edit_date or message.date
        about["external_id"] += f":{int(moment.timestamp())}"
        about["edits"] = f"{chat}:{number}"
    command = _COMMAND.fullmatch(text.strip()) if message.text else None
    if command is not None:
        name, param = command[1].lower(), command[2] or ""
        link = _LINK.fullmatch(param)
        if name == "start" and link:
            return InboundMessage(
                **about, text="", kind="start", original=text, choice=f"/link {link[1]}"
            )
        if name == "start" or (name == "help" and not param):
            return InboundMessage(**about, text="", kind="start", original=text, member=param)
        if name in COMMANDS and not param:  # with more words it is a message like any other
            return InboundMessage(**about, text=text, choice=f"/{name}")
    file = _file(message)
    if file is not None:
        return InboundMessage(**about, text=text, kind="file", attachments=(file,))
    if text:
        return InboundMessage(**about, text=text)
    place = message.venue.location if message.venue else message.location
    if place is not None:
        lines = [f"{place.latitude:.6f}, {place.longitude:.6f}"]
        if place.horizontal_accuracy:
            lines[0] += f" (± {place.horizontal_accuracy:.0f} m)"
        if message.venue:
            lines = [_words(message.venue.title), _words(message.venue.address), *lines]
        return InboundMessage(**about, text="", kind="place", original="\n".join(lines))
    if message.contact is not None:
        card = message.contact
        who = " ".join(filter(None, (_words(card.first_name), _words(card.last_name))))
        shown = f"{who}\n{_words(card.phone_number)}"
        return InboundMessage(**about, text="", kind="contact", original=shown)
    if message.sticker is not None:
        shown = _words(message.sticker.emoji)
        return InboundMessage(**about, text="", kind="sticker", original=shown)
    if any(getattr(message, name, None) for name in _SERVICE):
        return None
    shown = ""
    if message.poll is not None:
        shown = "\n".join([_words(message.poll.question), *(o.text for o in message.poll.options)])
    elif message.dice is not None:
        shown = _words(message.dice.emoji)
    return InboundMessage(**about, text="", original=shown)


def _file(message: Message) -> Attachment | None:
    for kind, usual in _FILES.items():
        found = getattr(message, kind, None)
        if kind == "photo" and found:
            found = max(found, key=lambda size: size.width * size.height)
        if found and isinstance(found.file_id, str) and found.file_id:
            size = found.file_size if isinstance(found.file_size, int) else 0
            return Attachment(
                name=_words(getattr(found, "file_name", "")),
                media_type=_words(getattr(found, "mime_type", "")) or usual,
                size=min(
                    max(size, 0), 2**31 - 1
                ),  # users send up to 4 GB; the log counts in 32 bit
                source=clean(found.file_id),
            )
    return None


def _words(value: object) -> str:
    return clean(value) if isinstance(value, str) else ""


def _number(value: object) -> str:
    if not isinstance(value, int):
        raise TypeError("no number")
    return str(value)


def _name(user: User | None) -> str:
    parts = (_words(user.first_name), _words(user.last_name)) if user else ()
    return " ".join(filter(None, parts))


def tongue(user: User | None) -> str:
    """The language in which somebody uses Telegram, as the desk calls it; "" if unknown."""
    code = _words(user.language_code if user else None).lower()
    base = re.split(r"[-_]", code)[0]
    return {"fil": "tl", "in": "id"}.get(base, base if re.fullmatch("[a-z]{2,3}", base) else "")


def label(query: CallbackQuery) -> str:
    """What is written on the pressed button, if Telegram still has its message."""
    markup = query.message.reply_markup if isinstance(query.message, Message) else None
    rows = markup.inline_keyboard if markup else ()
    pressed = (one.text for row in rows for one in row if one.callback_data == query.data)
    return _words(next(pressed, ""))


def buttons(message: OutboundMessage) -> InlineKeyboardMarkup | None:
    """The keyboard: one button a row, so that a small screen shows whole labels.

    A value that Telegram cannot carry becomes the button's number, which the desk understands too.
    """
    if not message.buttons:
        return None
    rows = []
    for number, one in enumerate(message.buttons, 1):
        fits = 0 < len(one.value.encode()) <= VALUE_LIMIT
        data = one.value if fits else f"#{number}"
        rows.append([InlineKeyboardButton(one.label, callback_data=data)])
    return InlineKeyboardMarkup(rows)


def seconds(error: RetryAfter) -> float:
    """How long Telegram asks us to wait."""
    after = error.retry_after
    return after.total_seconds() if isinstance(after, timedelta) else float(after)


@contextlib.contextmanager
def asking() -> Iterator[None]:
    """Turn the SDK's errors into ours.

    Raises:
        SendError: see `channels.message`.
    """
    try:
        yield
    except RetryAfter as error:
        raise RateLimitedError("too fast for Telegram", seconds(error)) from None
    except Forbidden:
        raise BlockedError("the bot is blocked, or the account is gone") from None
    except BadRequest as error:
        reason = error.message.lower()
        if any(sign in reason for sign in _GONE):
            raise BlockedError("Telegram does not know the chat (any more)") from None
        if "file is too big" in reason:
            raise RejectedError("Telegram gives files of at most 20 MB") from None
        if "temporarily" in reason:
            raise TemporarySendError("Telegram does not have it now") from None
        raise RejectedError(f"Telegram refused it: {error.message[:120]}") from None
    except InvalidToken:
        raise TemporarySendError("Telegram refused the token or the address") from None
    except TelegramError as error:
        raise TemporarySendError(f"Telegram is away ({type(error).__name__})") from None


def unanswered(what: str, error: Exception) -> Finding:
    """A finding for a call that failed."""
    if isinstance(error, InvalidToken):
        remedy = "Take the token from @BotFather (/mybots, API Token); set BOT_TELEGRAM_TOKEN."
        return Finding(what, False, "the token is refused", remedy)
    if isinstance(error, RetryAfter):
        return Finding(
            what, False, "too fast", f"Wait {seconds(error):.0f} seconds, then run this again."
        )
    if isinstance(error, BadRequest):
        return Finding(what, False, error.message[:200], "Correct that, then run this again.")
    return Finding(
        what,
        False,
        type(error).__name__,
        "See whether this machine reaches api.telegram.org (firewall, proxy); then run this again.",
    )
