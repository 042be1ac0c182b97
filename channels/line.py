"""LINE: a web hook in; out by the free reply token while it is fresh and unspent, else by push.

Source: LINE's Messaging API reference, and its official SDK, which makes every call. What LINE
gives for sending once only: a reply token works once, and a push that is repeated with the same
`X-Line-Retry-Key` within 24 hours is answered 409 and not sent again.
"""

import asyncio
import contextlib
import json
import mimetypes
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from logging import getLogger
from typing import Any, ClassVar, TypeVar
from urllib.parse import quote

import structlog
from aiohttp import ClientConnectorError, ClientError, ClientTimeout, ConnectionTimeoutError
from linebot.v3.messaging import (
    ApiException,
    AsyncApiClient,
    AsyncMessagingApi,
    Configuration,
    ImageMessage,
    PostbackAction,
    PushMessageRequest,
    QuickReply,
    QuickReplyItem,
    ReplyMessageRequest,
    ShowLoadingAnimationRequest,
    TextMessage,
)
from linebot.v3.webhook import SignatureValidator
from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from starlette.background import BackgroundTasks
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from channels import line_menu, line_setup
from channels.context import ChannelContext
from channels.message import (
    Attachment,
    BlockedError,
    Button,
    Finding,
    InboundMessage,
    Kind,
    Limits,
    Notice,
    OutboundMessage,
    Presence,
    RateLimitedError,
    Receipt,
    RefusedError,
    RejectedError,
    SendError,
    TemporarySendError,
    Withdrawal,
    clean,
    utf16,
)
from channels.webhook import raw_body
from config.vault import vault

log = structlog.get_logger(__name__)
# At "debug" the SDK would log whole answers, with the names of workers.
getLogger("linebot.v3.messaging.async_rest").setLevel("INFO")

FILES = "https://api-data.line.me"
BODY_LIMIT = 8 * 1024 * 1024
TOKEN_LIFE = 50.0
"""Seconds in which a reply token is used; LINE promises about a minute."""
PATIENCE = 0.7
"""Seconds that a delivery waits for profiles; LINE wants its acknowledgement within two."""
AT_MOST = 5
"""LINE's message objects per call."""
IMAGE_LIMIT = 1_000_000
"""Bytes of a picture that is shown in place: what LINE allows for a preview."""
TIMEOUT = ClientTimeout(total=15, connect=5)
LOOK_AGAIN = 3600.0
MONTHLY = "monthly limit"

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")


class LineSettings(BaseSettings):
    """The account at LINE."""

    model_config = SettingsConfigDict(env_prefix="BOT_LINE_", env_file=".env", extra="ignore")

    channel_secret: SecretStr = Field(
        SecretStr(""), description="LINE: channel secret. Empty: no LINE."
    )
    access_token: SecretStr = Field(
        SecretStr(""), description="LINE: channel access token (long-lived)."
    )
    basic_id: str = Field(
        "",
        description="LINE: basic ID of the account (@…), for links that open it. Empty: LINE is "
        "asked.",
    )
    api_url: str = Field(
        "", description="Another address of LINE's API (for tests). Empty: LINE's own."
    )

    @model_validator(mode="after")
    def _both(self) -> "LineSettings":
        given = (self.channel_secret.get_secret_value(), self.access_token.get_secret_value())
        if any(given) and not all(given):
            missing = "BOT_LINE_ACCESS_TOKEN" if given[0] else "BOT_LINE_CHANNEL_SECRET"
            raise ValueError(f"{missing} is missing; LINE needs both secrets")
        return self

    @property
    def configured(self) -> bool:
        """Whether there is an account."""
        return bool(self.channel_secret.get_secret_value() and self.access_token.get_secret_value())


class _Recent(OrderedDict[K, V]):
    """The last few things that were remembered; what is older is forgotten."""

    most = 5000

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        if len(self) > self.most:
            self.popitem(last=False)


class _Client(AsyncApiClient):  # type: ignore[misc]  # no types are published
    """The SDK's client, with patience for `TIMEOUT` instead of minutes."""

    def call_api(self, *args: Any, **more: Any) -> Any:
        return super().call_api(*args, **more | {"_request_timeout": TIMEOUT})


class _UnclearError(TemporarySendError):
    """LINE may have taken it: the connection broke before its answer was here."""


@dataclass(frozen=True, slots=True)
class _Part:
    """One of LINE's message objects; `key` is stable over retries."""

    key: str
    body: Any


class Line:
    """The LINE channel, for one-to-one chats only: a group would let others read along."""

    name: ClassVar[str] = "line"
    limits: ClassVar[Limits] = Limits(text=5000, buttons=13, group=AT_MOST, label=20, measure=utf16)

    def __init__(self, context: ChannelContext, settings: LineSettings) -> None:
        self.inbox, self.texts, self.media = context.inbox, context.texts, context.media
        self.settings = settings
        self._basic_id = settings.basic_id.strip()
        self.background: set[asyncio.Task[None]] = set()
        self._validator = SignatureValidator(settings.channel_secret.get_secret_value())
        self._client: AsyncApiClient | None = None
        self._profiles: _Recent[str, tuple[str, str]] = _Recent()
        self._tokens: _Recent[str, list[tuple[str, int]]] = _Recent()
        # What left, or may have left, so that a retry does not repeat it: the reply token and the
        # group that it was spent on; the size of the group that begins with a part; a group's ids.
        self._spent: _Recent[str, str] = _Recent()
        self._sizes: _Recent[str, int] = _Recent()
        self._sent: _Recent[str, list[str]] = _Recent()
        self._account = line_setup.Account(self._call, context.settings, context.texts)
        self._menus: dict[str, str] = {}
        self._shown: _Recent[str, str] = _Recent()

    def routes(self) -> Sequence[BaseRoute]:
        """The web hook."""
        return [Route(line_setup.HOOK, self.receive, methods=["POST"])]

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """The connections to LINE; now and then a look at quota and menus."""
        return self._live()

    @asynccontextmanager
    async def _live(self) -> AsyncIterator[None]:
        async with self._open() as client:
            self._client = client
            await self._look()
            self._start(self._keep_looking())
            try:
                yield
            finally:
                for task in list(self.background):
                    task.cancel()
                await asyncio.gather(*self.background, return_exceptions=True)
                self._client = None

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[AsyncApiClient]:
        if self._client is not None:
            yield self._client
            return
        token = self.settings.access_token.get_secret_value()
        configuration = Configuration(self.settings.api_url or None, access_token=token)
        async with _Client(configuration) as client:
            yield client

    async def _call(self, ask: Callable[[AsyncMessagingApi], Awaitable[T]]) -> T:
        """Ask LINE something.

        Raises:
            ApiException: it answered no.
            TemporarySendError: it was not reached; `_UnclearError` if it may have been.
        """
        try:
            async with self._open() as client:
                return await ask(AsyncMessagingApi(client))
        except (ClientConnectorError, ConnectionTimeoutError):
            raise TemporarySendError("LINE cannot be reached") from None
        # ValueError and TypeError: an answer that the SDK cannot read.
        except (ClientError, OSError, ValueError, TypeError) as error:
            raise _UnclearError(f"no answer from LINE ({type(error).__name__})") from None

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.background.add(task)
        task.add_done_callback(self.background.discard)

    # -- in -----------------------------------------------------------------------------------

    async def receive(self, request: Request) -> Response:
        """Take a delivery: all its messages are written down, then it is acknowledged."""
        try:
            raw = await raw_body(request, BODY_LIMIT)
        except RefusedError as error:
            return PlainTextResponse(str(error), 413)
        try:
            body = raw.decode("utf-8")
        except UnicodeDecodeError:  # LINE never does that
            return PlainTextResponse("not UTF-8", 403)
        if not self._validator.validate(body, request.headers.get("x-line-signature", "")):
            return PlainTextResponse("wrong signature", 403)
        try:
            payload = json.loads(body)
        except (ValueError, RecursionError):
            return PlainTextResponse("not readable as JSON", 400)
        # The SDK's own models refuse what LINE adds later, so the events are read as they are.
        events = [_dict(event) for event in _list(_dict(payload).get("events"))]
        messages: list[InboundMessage] = []
        notices: list[Notice] = []
        goodbyes = BackgroundTasks()
        for event in events:
            if event.get("mode") == "standby":  # another program has the conversation
                continue
            source = _dict(event.get("source"))
            if _text(source.get("type")) in {"group", "room"}:
                if _text(event.get("type")) in {"join", "message"}:
                    goodbyes.add_task(self._leave_group, event, source)
                continue
            read = self._read(event, _text(source.get("userId")))
            messages += [one for one in read if isinstance(one, InboundMessage)]
            notices += [one for one in read if not isinstance(one, InboundMessage)]
        if messages:
            await self._ask_profiles({message.address for message in messages})
            await self.inbox.accept_all([self._named(message) for message in messages])
        if notices:
            await self.inbox.note(*notices)
        for message in messages:
            self._remember_token(message.address, message.thread)
        return Response(background=goodbyes)

    def _read(self, event: dict[str, Any], user: str) -> list[InboundMessage | Notice]:
        """What an event of a one-to-one chat means; nothing for those that mean nothing to us."""
        event_id = _text(event.get("webhookEventId"))
        match event.get("type"):
            case "message":
                content = _dict(event.get("message"))
                return self._message(event, user, _text(content.get("id")) or event_id, content)
            case "follow":
                self._profiles.pop(user, None)  # what she shares may have changed
                begun = self._inbound(event, user, event_id, "", kind="start")
                return [*begun, Presence(self.name, user, here=True)] if begun else []
            case "unfollow" if user:
                return [Presence(self.name, user, here=False)]
            case "postback":
                value, _, label = _text(_dict(event.get("postback")).get("data")).partition("\n")
                if value == line_menu.START:
                    return self._inbound(event, user, event_id, "", kind="start")
                return self._inbound(event, user, event_id, label, choice=value) if value else []
            case "unsend":
                taken_back = _text(_dict(event.get("unsend")).get("messageId"))
                return [Withdrawal(self.name, taken_back)] if taken_back else []
            case "delivery":
                tag = _text(_dict(event.get("delivery")).get("data"))
                return [Receipt(self.name, "delivered", external_id=tag)] if tag else []
        return []

    def _message(
        self, event: dict[str, Any], user: str, number: str, content: dict[str, Any]
    ) -> list[InboundMessage | Notice]:
        match content.get("type"):
            case "text":
                return self._inbound(event, user, number, _text(content.get("text")))
            case "image" | "video" | "audio" | "file" as what:
                file = self._attachment(what, number, content)
                return self._inbound(event, user, number, "", kind="file", attachments=(file,))
            case "sticker":
                words = ", ".join(filter(None, map(_text, _list(content.get("keywords")))))
                original = f"[sticker: {words}]" if words else "[sticker]"
                text = _text(content.get("text"))  # some stickers carry words of her own
                return self._inbound(event, user, number, text, original, kind="sticker")
            case "location":
                return self._inbound(event, user, number, "", _place(content), kind="place")
            case what:  # something new at LINE: she is told that it could not be read
                return self._inbound(event, user, number, "", f"[{_text(what)[:40] or '?'}]")

    def _inbound(
        self,
        event: dict[str, Any],
        user: str,
        number: str,
        text: str,
        original: str = "",
        *,
        kind: Kind = "text",
        choice: str = "",
        attachments: tuple[Attachment, ...] = (),
    ) -> list[InboundMessage | Notice]:
        if not user or not number:  # LINE always names them in one-to-one chats
            log.warning("line_event_without_sender")
            return []
        at = event.get("timestamp")
        thread = {
            "reply_token": _text(event.get("replyToken")),
            "token_at": at if isinstance(at, int) and 0 < at < 2**53 else 0,
            "quote_token": _text(_dict(event.get("message")).get("quoteToken")),
        }
        return [
            InboundMessage(
                self.name,
                number,
                user,
                text,
                choice,
                original,
                thread=thread,
                attachments=attachments,
                kind=kind,
            )
        ]

    def _attachment(self, what: str, number: str, content: dict[str, Any]) -> Attachment:
        name = _text(content.get("fileName"))
        kinds = {"image": "image/jpeg", "video": "video/mp4", "audio": "audio/mp4"}
        media_type = kinds.get(what) or mimetypes.guess_type(name)[0] or "application/octet-stream"
        size = content.get("fileSize")
        if _dict(content.get("contentProvider")).get("type") == "external":
            error = "kept outside LINE; not fetched"
        elif isinstance(size, int) and size > self.media.limit:
            error = f"too big: at most {self.media.limit // 1_048_576} MB"
        else:
            return Attachment(name, media_type, source=number)
        return Attachment(name, media_type, error=error)

    def _remember_token(self, user: str, thread: dict[str, Any]) -> None:
        known = [*self._tokens.get(user, []), (thread["reply_token"], thread["token_at"])]
        self._tokens[user] = list(dict.fromkeys(known))[-20:]

    async def _ask_profiles(self, users: set[str]) -> None:
        """Learn the names and languages of people who are new here, if LINE is quick."""
        fresh = [user for user in users if user not in self._profiles][:20]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*(self._ask_profile(user) for user in fresh))

    async def _ask_profile(self, user: str) -> None:
        try:
            profile = await self._call(lambda api: api.get_profile(user))
        except ApiException as error:
            if error.status == 404:  # she does not share it
                self._profiles[user] = "", ""
        except SendError:
            pass
        else:
            base = (profile.language or "").partition("-")[0].lower()
            base = {"fil": "tl", "in": "id"}.get(base, base)
            known = base if base in self.texts().languages else ""
            self._profiles[user] = clean(profile.display_name or "")[:200], known

    def _named(self, message: InboundMessage) -> InboundMessage:
        name, language = self._profiles.get(message.address, ("", ""))
        return replace(message, name=name, language_hint=language)

    async def _leave_group(self, event: dict[str, Any], source: dict[str, Any]) -> None:
        """Leave a group or room; whoever invited us is told where to write instead."""
        token = _text(event.get("replyToken"))
        where = _text(source.get("groupId")) or _text(source.get("roomId"))
        said = dict.fromkeys(
            self.texts()("line.group", code).body for code in self.texts().languages
        )
        with contextlib.suppress(ApiException, SendError):
            if token and event.get("type") == "join":
                words = [TextMessage(text="\n\n".join(said))]
                reply = ReplyMessageRequest(reply_token=token, messages=words)
                await self._call(lambda api: api.reply_message(reply))
        with contextlib.suppress(ApiException, SendError):
            if where and source.get("type") == "group":
                await self._call(lambda api: api.leave_group(where))
            elif where:
                await self._call(lambda api: api.leave_room(where))
        log.info("line_group_left")

    async def fetch(self, source: str) -> tuple[str, bytes]:
        """A file that she sent, from LINE's own servers only.

        Raises:
            TemporarySendError: LINE is still preparing it, or does not answer.
            RejectedError: it is gone.
            RefusedError: it is too big.
        """
        url = f"{self.settings.api_url or FILES}/v2/bot/message/{quote(source, safe='')}/content"
        patient = ClientTimeout(connect=5, sock_read=20)
        try:
            async with self._open() as client:
                # The SDK's call for files would read one of any size into memory.
                answer = await client.rest_client.get_request(
                    url,
                    headers=dict(client.default_headers),
                    _preload_content=False,
                    _request_timeout=patient,
                )
                async with answer:
                    if answer.status != 200:
                        raise _file_fault(answer.status)
                    found = bytearray()
                    async for chunk in answer.content.iter_chunked(65536):
                        found += chunk
                        if len(found) > self.media.limit:
                            raise RefusedError(
                                f"too big: at most {self.media.limit // 1_048_576} MB"
                            )
        except (ClientError, OSError) as error:
            raise TemporarySendError(f"no answer from LINE ({type(error).__name__})") from None
        return "", bytes(found)

    # -- out ----------------------------------------------------------------------------------

    async def send(self, messages: Sequence[OutboundMessage]) -> Sequence[str]:
        """Send messages in as few calls as may be: the first by a reply token, if there is one.

        A retry makes the same calls as before, and none again that is known to have succeeded.
        """
        address, thread = messages[0].address, messages[0].thread
        parts = [part for message in messages for part in self._parts(message)]
        if parts:
            parts[-1].body.quick_reply = _choices(messages)
        ids: dict[str, str] = {}
        while parts:
            first = parts[0].key
            size = self._sizes.get(first, AT_MOST)
            group, parts = parts[:size], parts[size:]
            self._sizes[first] = len(group)
            name = " ".join([address, *(part.key for part in group)])
            if name not in self._sent:
                try:
                    self._sent[name] = await self._deliver(name, address, thread, group)
                except ApiException as error:
                    if error.status < 500:  # nothing left: what is written meanwhile may join
                        self._sizes.pop(first, None)
                    raise _fault(error, messages[0].attempts) from None
                except _UnclearError as error:
                    raise TemporarySendError(str(error)) from None
            for part, number in zip(group, self._sent[name], strict=False):
                ids.setdefault(part.key.partition("#")[0], number)
        menu = self._menus.get(messages[-1].language.partition("-")[0])
        if menu and self._shown.get(address) != menu:
            self._start(self._show_menu(address, menu))
        return [ids.get(message.key, "") for message in messages]

    def _parts(self, message: OutboundMessage) -> list[_Part]:
        quoted = message.thread.get("quote_token") if message.from_counsellor else None
        parts = []
        if message.text:
            body = TextMessage(text=message.text, quote_token=quoted or None)
            parts.append(_Part(message.key, body))
        for number, file in enumerate(message.attachments, 1):
            link = self.media.link(file)
            shown = file.media_type in {"image/jpeg", "image/png"} and file.size <= IMAGE_LIMIT
            if shown and link.startswith("https://"):
                body = ImageMessage(original_content_url=link, preview_image_url=link)
            else:  # LINE has no message for files
                body = TextMessage(text=f"{file.name}\n{link}")
            parts.append(_Part(f"{message.key}#{number}", body))
        return parts

    async def _deliver(
        self, name: str, address: str, thread: dict[str, Any], group: Sequence[_Part]
    ) -> list[str]:
        """Send a group in one call; return LINE's ids, "" where it does not tell.

        Raises:
            ApiException: LINE refuses.
            SendError: LINE does not answer, or she is gone.
        """
        bodies = [part.body for part in group]
        try:
            return await self._reply_or_push(name, address, thread, bodies)
        except ApiException as error:
            if error.status != 400 or "quotetoken" not in str(error.body).lower():
                raise
        for body in bodies:  # what is quoted is gone; the answer matters more
            if isinstance(body, TextMessage):
                body.quote_token = None
        return await self._reply_or_push(name, address, thread, bodies)

    async def _reply_or_push(
        self, name: str, address: str, thread: dict[str, Any], bodies: Sequence[Any]
    ) -> list[str]:
        token = self._token(name, address, thread)
        replied = await self._reply(token, name, bodies) if token else None
        return await self._push(name, address, bodies) if replied is None else replied

    def _token(self, name: str, address: str, thread: dict[str, Any]) -> str:
        """A fresh reply token that nothing else was spent on: the oldest of hers, or ""."""
        latest = (_text(thread.get("reply_token")), int(thread.get("token_at") or 0))
        known = dict.fromkeys([*self._tokens.get(address, []), latest])
        fresh = [token for token, at in known if token and time.time() - at / 1000 < TOKEN_LIFE]
        mine = [token for token in fresh if self._spent.get(token) == name]
        return next(iter([*mine, *(token for token in fresh if token not in self._spent)]), "")

    async def _reply(self, token: str, name: str, bodies: Sequence[Any]) -> list[str] | None:
        """Reply; None if the token is of no use."""
        reply = ReplyMessageRequest(reply_token=token, messages=list(bodies))
        try:
            answer = await self._call(lambda api: api.reply_message(reply))
        except _UnclearError:
            self._spent[token] = name
            raise
        except ApiException as error:
            if error.status != 400 or _reason(error) != "Invalid reply token":
                raise
            # If we did not hear the answer to this very reply, then that is what spent it.
            ours = self._spent.get(token) == name
            self._spent[token] = ""
            return [""] * len(bodies) if ours else None
        self._spent[token] = name
        return [one.id for one in answer.sent_messages]

    async def _push(self, name: str, address: str, bodies: Sequence[Any]) -> list[str]:
        push = PushMessageRequest(to=address, messages=list(bodies))
        # Ids of messages begin again with a new database, so the key depends on its secret, too.
        space = uuid.UUID(vault().secret("LINE retry keys")[:32])
        key = str(uuid.uuid5(space, name))
        try:
            answer = await self._call(lambda api: api.push_message(push, x_line_retry_key=key))
        except ApiException as error:
            if error.status == 409:  # it was taken at an earlier attempt
                accepted = _list(_body(error).get("sentMessages"))
                return [_text(_dict(one).get("id")) for one in accepted]
            if error.status == 400 and _reason(error) == "Failed to send messages":
                await self._still_there(address)
            raise
        return [one.id for one in answer.sent_messages]

    async def _still_there(self, address: str) -> None:
        """Raises `BlockedError` if LINE does not know her (any more) as our friend."""
        with contextlib.suppress(TemporarySendError):
            try:
                await self._call(lambda api: api.get_profile(address))
            except ApiException as error:
                if error.status == 404:
                    self._profiles.pop(address, None)
                    raise BlockedError("she is no friend of this account any more") from None

    async def busy(self, address: str, thread: dict[str, Any]) -> None:  # noqa: ARG002
        """Three moving dots, for twenty seconds or until the answer comes."""
        shown = ShowLoadingAnimationRequest(chat_id=address, loading_seconds=20)
        with contextlib.suppress(ApiException, SendError):
            await self._call(lambda api: api.show_loading_animation(shown))

    # -- set-up -------------------------------------------------------------------------------

    def entrance(self, words: str) -> str:
        """The conversation with the account, with the words in its input line.

        Source: LINE's documentation of URL schemes (oaMessage).
        """
        account = self._basic_id
        return f"https://line.me/R/oaMessage/{quote(account)}/?{quote(words)}" if account else ""

    async def check(self) -> list[Finding]:
        """The address, the token, the web hook, the quota and the menus, as LINE sees them."""
        return await self._account.check()

    async def setup(self) -> list[Finding]:
        """Set the web hook and the menus."""
        return await self._account.setup()

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_AGAIN)
            await self._look()

    async def _look(self) -> None:
        """Learn which menus there are and how much of the month's quota is used."""
        with contextlib.suppress(TimeoutError, ApiException, SendError):
            async with asyncio.timeout(3):
                self._menus = await self._account.menus()
                self._basic_id = self._basic_id or await self._account.basic_id()
                await self._account.quota()

    async def _show_menu(self, address: str, menu: str) -> None:
        """Give her the menu of her language; it is only a help, so no fault of it matters."""
        self._shown[address] = menu
        try:
            await self._call(lambda api: api.link_rich_menu_id_to_user(address, menu))
        except (ApiException, SendError):
            self._shown.pop(address, None)
            with contextlib.suppress(ApiException, SendError):  # set up anew meanwhile?
                self._menus = await self._account.menus()


# -- reading what LINE says ------------------------------------------------------------------------


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return clean(value) if isinstance(value, str) else ""


def _place(content: dict[str, Any]) -> str:
    """A place in lines: title, address, and where it is (no link that would tell a third party)."""
    lines = [_text(content.get("title")), _text(content.get("address"))]
    north, east = content.get("latitude"), content.get("longitude")
    if isinstance(north, int | float) and isinstance(east, int | float):
        lines += [f"geo:{north:.6f},{east:.6f}"] * (abs(north) <= 90 and abs(east) <= 180)
    return "\n".join(filter(None, lines)) or "[place]"


def _body(error: ApiException) -> dict[str, Any]:
    with contextlib.suppress(ValueError, TypeError):
        return _dict(json.loads(error.body))
    return {}


def _reason(error: ApiException) -> str:
    return _text(_body(error).get("message"))


def _choices(messages: Iterable[OutboundMessage]) -> QuickReply | None:
    """The buttons of all messages that leave together: LINE shows those of the last one only."""
    buttons: dict[str, Button] = {one.label: one for message in messages for one in message.buttons}
    if not buttons:
        return None
    items = [
        QuickReplyItem(
            action=PostbackAction(
                label=one.label,
                data=line_menu.data(one.value, one.label),
                display_text=one.label,
            )
        )
        for one in list(buttons.values())[-Line.limits.buttons :]
    ]
    return QuickReply(items=items)


def _fault(error: ApiException, attempts: int) -> SendError:
    """What a refusal means for the messages."""
    status, reason = int(error.status or 0), _reason(error)
    if status in {401, 403}:
        return TemporarySendError(f"LINE refuses our access ({status}): see `bot channels check`")
    if status == 429 and MONTHLY in reason:
        log.error("line_quota_used_up")
        # A running broadcast reserves messages too, so the first looks come sooner.
        return RateLimitedError(
            "the month's LINE messages are used up: see `bot channels check line`",
            min(3600.0, 300.0 * 2 ** min(attempts, 4)),
        )
    if status == 429:
        return RateLimitedError("too many requests to LINE", _pause(error))
    if status >= 500 or status == 408:
        return TemporarySendError(f"LINE answers {status}")
    details = [_text(_dict(one).get("property")) for one in _list(_body(error).get("details"))]
    return RejectedError(f"LINE refuses it ({status}): {reason} {' '.join(details)}"[:150].strip())


def _pause(error: ApiException) -> float:
    """Seconds until LINE wants to be asked again; it rarely tells."""
    told = str((error.headers or {}).get("Retry-After", ""))
    return float(told) if told.isascii() and told.isdigit() and len(told) < 6 else 30.0


def _file_fault(status: int) -> SendError:
    if status == 202:
        return TemporarySendError("LINE is still preparing the file")
    if status in {400, 404, 410}:
        return RejectedError("the file is gone at LINE")
    return TemporarySendError(f"LINE answers {status}")
