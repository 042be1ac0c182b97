"""SMS by Twilio: both ways, kept short, and on a telephone that others may look at.

An SMS is read on a locked screen, so by default the desk sends no word of a case: only a notice
with a signed link that expires, and behind it the same conversation goes on in the web chat. What
one turn says leaves as one SMS, because separate ones arrive in any order and each costs.
Source: Twilio's documentation of incoming messages, the Message resource, status callbacks, error
codes, opt-out words and GSM-7/UCS-2 segments.
"""

import asyncio
import contextlib
import html
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Literal
from urllib.parse import quote

import httpx
import structlog
from prometheus_client import Counter
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from twilio.base.exceptions import TwilioRestException, TwilioServiceException
from twilio.rest import Client

from channels.context import ChannelContext
from channels.log import Conversation, Message, find_conversation
from channels.message import (
    Attachment,
    BlockedError,
    Finding,
    InboundMessage,
    Kind,
    Limits,
    OutboundMessage,
    Presence,
    RateLimitedError,
    Receipt,
    RefusedError,
    RejectedError,
    SendError,
    TemporarySendError,
    clean,
    utf16,
)
from channels.resume import resume_token, resumed
from channels.twilio_account import RETRY, TwilioSettings, client, close, form
from config.database import now
from config.vault import vault

log = structlog.get_logger(__name__)

SEGMENTS = Counter(
    "desk_sms_segments_total",
    "SMS that Twilio bills for, by language and alphabet",
    ("language", "alphabet"),
)

GSM7 = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
"""The alphabet of 3GPP TS 23.038; one other letter turns the whole SMS to UCS-2."""
GSM7_TWICE = frozenset("\f^{}\\[~]|€")
"""Its extension: each of these takes two places."""
LONGEST = 1530
"""Ten segments of GSM-7 (or of UCS-2: 670 characters). Twilio takes 1,600 characters; networks in
Japan join up to ten parts, and a longer one costs more than two."""
NOTICE_PAUSE = timedelta(minutes=2)
"""In which a notice that was not opened speaks for what follows."""
REMEMBERED = 10_000
"""Unfinished sendings that are remembered in the process."""
LOOK_AGAIN = 300.0
"""Seconds between looks for messages that Twilio could not bring."""
FIRST_LOOK = 20.0
OVERLAP = timedelta(minutes=15)
LONGEST_AWAY = timedelta(days=3)
SKEW = timedelta(seconds=30)
"""How far Twilio's clock may be from ours."""

API = "https://api.twilio.com"
NUMBER = re.compile(r"\+[1-9]\d{6,14}")
MEDIA = re.compile(
    r"(https?://[\w.:-]+|)(/2010-04-01/Accounts/AC\w{1,40}/Messages/\w{1,40}/Media/\w{1,40})"
)
"""The address of a file: Twilio's own, and the path. Only the path is kept and used."""
MEDIA_HOSTS = re.compile(r"([\w-]+\.)*(twilio\.com|twiliocdn\.com|amazonaws\.com)")
"""Where Twilio keeps files; it redirects there."""

SAID_IN_WORDS = ("stop.done", "delete.done")
"""Texts that tell nothing of a case and end the conversation: no link could be opened after."""

REASONS = {
    21211: "this is not a telephone number",
    21408: "the Twilio account may not write to this country (Messaging, Geo permissions)",
    21608: "a Twilio trial account may only write to verified numbers",
    21610: "she wrote STOP to this number; Twilio sends again once she writes START",
    21612: "Twilio cannot reach this network",
    21614: "this number cannot receive SMS",
    21617: "too long",
    30002: "the Twilio account is suspended",
    30003: "the telephone is switched off or out of reach",
    30004: "the network or the telephone refuses messages from us",
    30005: "this number does not exist (any more)",
    30006: "this is a landline, or its network takes no SMS",
    30007: "the network took it for spam",
    30008: "the network did not say why",
}
REPAIRABLE = {20003, 20005, 21606, 21659, 21660, 30002, 90010}
"""Errors of our own set-up: whoever runs the desk can repair it, and nothing is lost meanwhile."""
FULL = {14107, 21611, 30001}
"""Too many messages are waiting at Twilio."""

PAGE_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
}
PAGE = (
    '<!doctype html><html lang="{language}"><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width"><title>-</title><p>{text}</p></html>'
)


def segments(text: str) -> tuple[Literal["GSM-7", "UCS-2"], int]:
    """How many SMS a text is, and in which alphabet: 160 places in one GSM-7 SMS, 153 in each of
    several; 70 and 67 in UCS-2. What takes two places is never cut in two."""
    gsm = _gsm7(text)
    places = [1 + (char in GSM7_TWICE if gsm else char > "\uffff") for char in text]
    alone, each = (160, 153) if gsm else (70, 67)
    alphabet: Literal["GSM-7", "UCS-2"] = "GSM-7" if gsm else "UCS-2"
    if sum(places) <= alone:
        return alphabet, 1
    count, room = 1, each
    for place in places:
        if place > room:
            count, room = count + 1, each
        room -= place
    return alphabet, count


def weight(text: str) -> int:
    """Length in places of GSM-7; a text in UCS-2 fills its segments faster."""
    if _gsm7(text):
        return len(text) + sum(char in GSM7_TWICE for char in text)
    return -(-utf16(text) * 153 // 67)


def _gsm7(text: str) -> bool:
    return all(char in GSM7 or char in GSM7_TWICE for char in text)


class SmsSettings(BaseSettings):
    """SMS; the account and the number are in `TwilioSettings`."""

    model_config = SettingsConfigDict(env_prefix="BOT_SMS_", env_file=".env", extra="ignore")

    notice_only: bool = Field(
        True,
        description="Send no words of a case by SMS, only a notice with a link to the web chat. "
        "False: whole answers, readable on the locked screen (for workers without data).",
    )
    link_hours: int = Field(
        72, ge=1, le=720, description="How many hours the link in such a notice works."
    )


@dataclass
class _Part:
    """One SMS: the keys of the messages that it carries, and its name over retries."""

    name: str
    keys: list[str]
    body: str
    language: str
    attempts: int


@dataclass
class _Tried:
    """What Twilio may have taken, without our knowing (`sid` empty), or has taken."""

    body: str
    since: datetime
    sid: str = ""


class Sms:
    """The SMS channel."""

    name: ClassVar[str] = "sms"
    limits: ClassVar[Limits] = Limits(text=LONGEST, buttons=0, group=20, measure=weight)

    def __init__(
        self, context: ChannelContext, twilio: TwilioSettings, settings: SmsSettings
    ) -> None:
        self.inbox, self.database, self.texts = context.inbox, context.database, context.texts
        self.media, self.url = context.media, context.settings.url
        self.twilio, self.settings = twilio, settings
        self._tried: OrderedDict[str, _Tried] = OrderedDict()
        self._client: Client | None = None

    def routes(self) -> Sequence[BaseRoute]:
        """Messages, what became of ours, and the link out of a notice."""
        return [
            Route("/sms/webhook", self.receive, methods=["POST"]),
            Route("/sms/status", self.status, methods=["POST"]),
            Route("/c/{token}", self.go_on),
        ]

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """The connection to Twilio, and a look for lost messages now and then."""
        return self._run()

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        since = await self.database.read(_last_heard)
        opened = self._client = client(self.twilio)
        looking = asyncio.create_task(self._look(since))
        try:
            yield
        finally:
            looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await looking
            self._client = None
            await close(opened)

    # -- in -----------------------------------------------------------------------------------

    async def receive(self, request: Request) -> Response:
        """A message of a worker. Twilio answers STOP and HELP itself; we note it."""
        fields = await self._form(request)
        if isinstance(fields, Response):
            return fields
        message = self._message(fields)
        if message is None:
            log.warning("sms_unreadable", fields=len(fields))
            return Response("unreadable", 400)
        if message.address == self.twilio.sms_number:
            return _taken()  # two desks, or a loop, must not talk to each other
        accepted = await self.inbox.accept(message)
        opted = fields.get("OptOutType", "").upper()
        if opted in {"STOP", "START"} and not accepted.duplicate:  # she may be back since
            await self.inbox.note(Presence(self.name, message.address, opted == "START"))
        return _taken()

    def _message(self, fields: Mapping[str, str]) -> InboundMessage | None:
        sid = fields.get("MessageSid") or fields.get("SmsSid") or ""
        sender = clean(fields.get("From", "")).strip()
        if not sid or not sender or len(sender) > 100:
            return None
        text = clean(fields.get("Body", ""))
        files = tuple(self._files(fields))
        original = ""
        kind: Kind = "file" if files and not text.strip() else "text"
        opted = fields.get("OptOutType", "").upper()
        if opted == "STOP" and self.texts().command(text) != "stop":
            text, original = "stop", text  # a word that was set at Twilio
        elif opted == "START":
            kind = "start"
        return InboundMessage(
            self.name,
            clean(sid)[:100],
            sender,
            text,
            original=original,
            attachments=files,
            kind=kind,
        )

    def _files(self, fields: Mapping[str, str]) -> list[Attachment]:
        count = fields.get("NumMedia", "0")
        files = []
        for number in range(min(int(count), 10) if count.isdecimal() and len(count) < 4 else 0):
            media_type = clean(fields.get(f"MediaContentType{number}", ""))[:80]
            url = MEDIA.fullmatch(fields.get(f"MediaUrl{number}", ""))
            if url and url[1] in {API, self.twilio.api_url}:
                files.append(Attachment("", media_type, source=url[2]))
            else:
                files.append(Attachment("", media_type, error="its address is not Twilio's"))
        return files

    async def status(self, request: Request) -> Response:
        """What became of an SMS of ours; the query names the messages that it carried."""
        fields = await self._form(request)
        if isinstance(fields, Response):
            return fields
        sid, told = fields.get("MessageSid", ""), fields.get("MessageStatus", "").lower()
        states: dict[str, Literal["delivered", "read", "failed"]] = {
            "delivered": "delivered",
            "read": "read",
            "undelivered": "failed",
            "failed": "failed",
            "canceled": "failed",
        }
        state = states.get(told)
        if state is None:  # accepted, queued, sending, sent …
            return Response(status_code=204)
        code = fields.get("ErrorCode", "")
        reason = _reason(int(code) if code.isdecimal() and len(code) < 7 else 0)
        if state != "failed":
            reason = ""
        else:
            log.warning("sms_not_delivered", code=code[:7] if code.isdecimal() else "")
            # First, so that it speaks for nothing more once its messages are noted as failed.
            address = clean(fields.get("To", "")).strip()
            await self.database.write(_notice_failed, address, clean(sid))
        keys = [key for key in request.query_params.get("keys", "").split("-") if key.isdecimal()]
        receipts = [Receipt(self.name, state, key=key, reason=reason) for key in keys[:20]]
        if sid:  # also those for which this SMS was notice enough
            receipts.append(Receipt(self.name, state, external_id=clean(sid), reason=reason))
        await self.inbox.note(*receipts)
        return Response(status_code=204)

    async def _form(self, request: Request) -> Mapping[str, str] | Response:
        try:
            return await form(request, self.twilio, self.url)
        except PermissionError:
            log.warning("sms_forged", path=request.url.path)
            return Response("forged", 403)
        except RefusedError as error:
            return Response(str(error), 413 if str(error).startswith("too big") else 400)

    async def go_on(self, request: Request) -> Response:
        """The link out of a notice: to the same conversation in the web chat."""
        life = self.settings.link_hours * 3600
        conversation = resumed(request.path_params["token"], life, self.name)
        if conversation is None:
            return self._too_old(request.headers.get("accept-language", ""))
        await self.database.write(_notice_over, conversation)
        return RedirectResponse(f"/chat#resume={resume_token(conversation)}", 303, PAGE_HEADERS)

    def _too_old(self, accepted: str) -> Response:
        texts = self.texts()
        wanted = [one.split(";")[0].strip().split("-")[0].lower() for one in accepted.split(",")]
        wanted = ["tl" if code == "fil" else code for code in wanted]
        language = next((code for code in wanted if code in texts.languages), "en")
        text = html.escape(texts("sms.link_old", language).body)
        return HTMLResponse(PAGE.format(language=language, text=text), 410, PAGE_HEADERS)

    # -- what Twilio could not bring ----------------------------------------------------------

    async def _look(self, since: datetime) -> None:
        await asyncio.sleep(FIRST_LOOK)
        while True:
            begun = datetime.now(UTC)
            try:
                await self.catch_up(since)
            except Exception as error:
                log.warning("sms_not_looked_for", error=type(error).__name__)
            else:
                since = begun - OVERLAP
            await asyncio.sleep(LOOK_AGAIN)

    async def catch_up(self, since: datetime) -> int:
        """Take what reached our number since then and not us: Twilio gives up after seconds.

        Returns how many were new.
        """
        twilio = self._opened()
        listed = await twilio.messages.list_async(
            to=self.twilio.sms_number, date_sent_after=since, limit=1000
        )
        new = 0
        for one in reversed(listed):  # Twilio lists the newest first
            if one.direction != "inbound" or not one.from_:
                continue
            fields = {"MessageSid": one.sid, "From": one.from_, "Body": one.body or ""}
            if str(one.num_media or "0") != "0":
                found = await twilio.messages(one.sid).media.list_async(limit=10)
                fields["NumMedia"] = str(len(found))
                for number, file in enumerate(found):
                    path = str(file.uri).removesuffix(".json")
                    fields[f"MediaUrl{number}"] = (self.twilio.api_url or API) + path
                    fields[f"MediaContentType{number}"] = file.content_type or ""
            message = self._message(fields)
            if message is not None and message.address != self.twilio.sms_number:
                new += not (await self.inbox.accept(message)).duplicate
        if new:
            log.warning("sms_caught_up", messages=new)
        return new

    # -- out ----------------------------------------------------------------------------------

    async def send(self, messages: Sequence[OutboundMessage]) -> Sequence[str]:
        """Send the messages as few SMS, or one notice instead."""
        address = messages[0].address
        if not NUMBER.fullmatch(address):
            raise BlockedError("its sender is no telephone number; nobody can answer")
        plain = self._plain(messages)
        if self.settings.notice_only and not plain:
            return await self._send_notice(address, messages)
        parts = self._pack(messages)
        ids: dict[str, str] = {}
        for part in parts:
            ids |= dict.fromkeys(part.keys, await self._leave(address, part, plain))
        for part in parts:
            self._tried.pop(part.name, None)
        return [ids.get(message.key, "") for message in messages]

    async def _send_notice(
        self, address: str, messages: Sequence[OutboundMessage]
    ) -> Sequence[str]:
        """One notice for all the messages, unless one that she has not opened just left."""
        numbers = [message.key.partition("/")[0] for message in messages]
        conversation, sid = await self.database.write(_notice_for, address, numbers)
        if not sid:
            part = self._notice(messages, conversation)
            sid = await self._leave(address, part, plain=False)
            await self.database.write(_notice_left, conversation, sid)
            self._tried.pop(part.name, None)
        return [sid for _ in messages]

    def _plain(self, messages: Sequence[OutboundMessage]) -> bool:
        texts = self.texts().texts
        known = {text.body for (name, _), text in texts.items() if name in SAID_IN_WORDS}
        return all(message.text in known and not message.attachments for message in messages)

    def _notice(self, messages: Sequence[OutboundMessage], conversation: int) -> _Part:
        first = messages[0]
        link = f"{self.url}/c/{resume_token(conversation, self.name)}"
        text = self.texts()("sms.notice", first.language)
        body = text.render({"link": link})
        keys = [message.key for message in messages]
        return _Part(f"{first.key}+0", keys, body, text.language, first.attempts)

    def _pack(self, messages: Sequence[OutboundMessage]) -> list[_Part]:
        """Few SMS out of many messages. What was tried before stays as it was tried."""
        parts: list[_Part] = []
        for message in messages:
            links = [self.media.link(file) for file in message.attachments]
            for text in filter(None, (message.text, *links)):
                last = parts[-1] if parts else None
                joined = f"{last.body}\n\n{text}" if last else text
                if last and last.attempts == message.attempts and weight(joined) <= LONGEST:
                    last.body = joined
                    last.keys += [] if message.key in last.keys else [message.key]
                    continue
                number = sum(message.key == part.keys[0] for part in parts)
                name = f"{message.key}+{number}"
                parts.append(_Part(name, [message.key], text, message.language, message.attempts))
        return parts

    async def _leave(self, address: str, part: _Part, plain: bool) -> str:
        """Hand an SMS to Twilio, once.

        Twilio knows no idempotency key. So where an answer of Twilio got lost, the next attempt
        first looks whether Twilio has the message; only if the process died in between it may
        leave twice.
        """
        twilio = self._opened()
        tried = self._tried.get(part.name) if part.attempts else None
        if tried is not None:
            tried.sid = tried.sid or await self._found(address, tried)
            if tried.sid:
                return tried.sid
        tried = tried or _Tried(part.body, datetime.now(UTC))
        _remember(self._tried, part.name, tried)
        numbers = dict.fromkeys(key.partition("/")[0] for key in part.keys)
        try:
            message = await _ask(
                twilio.messages.create_async(
                    to=address,
                    from_=self.twilio.sms_number,
                    body=tried.body,
                    status_callback=f"{self.url}/sms/status?keys={'-'.join(numbers)}{RETRY}",
                ),
                plain,
            )
        except SendError as error:
            refused = getattr(error.__cause__, "status", 500) < 500
            if refused or isinstance(error, RateLimitedError):
                del self._tried[part.name]  # surely not taken
            raise
        tried.sid = str(message.sid)
        alphabet, count = segments(tried.body)
        SEGMENTS.labels(part.language or "en", alphabet).inc(count)
        return tried.sid

    async def _found(self, address: str, tried: _Tried) -> str:
        """The id of an SMS that Twilio took, although its answer never came; or ""."""
        twilio = self._opened()
        number = self.twilio.sms_number
        listed = await _ask(twilio.messages.list_async(to=address, from_=number, limit=50))
        for one in listed:
            made = one.date_created
            recent = made is not None and made.astimezone(UTC) >= tried.since - SKEW
            if recent and one.direction != "inbound" and (one.body or "") == tried.body:
                return str(one.sid)
        return ""

    def _opened(self) -> Client:
        if self._client is None:
            raise TemporarySendError("the desk is starting or stopping")
        return self._client

    async def busy(self, address: str, thread: dict[str, Any]) -> None:
        """SMS shows nothing of the kind."""

    async def fetch(self, source: str) -> tuple[str, bytes]:
        """A file of an MMS (none in Japan), from Twilio and from nowhere else."""
        known = MEDIA.fullmatch(source)
        if not known or known[1]:
            raise RejectedError("not a file at Twilio")
        home = httpx.URL(self.twilio.api_url or API)
        url, own = home.join(source), True
        account = (self.twilio.account_sid, self.twilio.auth_token.get_secret_value())
        try:
            async with httpx.AsyncClient(timeout=20, trust_env=False) as http:
                for _ in range(3):
                    auth = account if own else None
                    async with http.stream("GET", url, auth=auth) as answer:
                        if not answer.has_redirect_location:
                            return "", await self._read(answer)
                        url = url.join(answer.headers["location"])
                    own = url.netloc == home.netloc and url.scheme == home.scheme
                    if not own and not (url.scheme == "https" and MEDIA_HOSTS.fullmatch(url.host)):
                        raise RejectedError("Twilio points to a foreign place")
        except httpx.HTTPError as error:
            raise TemporarySendError(f"Twilio did not answer ({type(error).__name__})") from None
        except httpx.InvalidURL:
            raise RejectedError("Twilio points to no place") from None
        raise RejectedError("Twilio points from place to place")

    async def _read(self, answer: httpx.Response) -> bytes:
        if answer.status_code in {404, 410}:
            raise RejectedError("Twilio no longer has it")
        if answer.status_code != 200:
            raise TemporarySendError(f"Twilio answered {answer.status_code}")
        data = bytearray()
        async for chunk in answer.aiter_bytes():
            data += chunk
            if len(data) > self.media.limit:
                raise RefusedError(f"too big: at most {self.media.limit // 1_048_576} MB")
        return bytes(data)

    def entrance(self, words: str) -> str:
        """An SMS to the desk, ready to be sent."""
        return f"sms:{self.twilio.sms_number}?&body={quote(words)}"

    # -- set-up -------------------------------------------------------------------------------

    @property
    def hook(self) -> str:
        """What Twilio is to call when an SMS comes."""
        return f"{self.url}/sms/webhook{RETRY}"

    async def check(self) -> list[Finding]:
        """The account, the number, and whether Twilio calls us."""
        return await self._look_at(repair=False)

    async def setup(self) -> list[Finding]:
        """Let the number call our web hook, then look at it."""
        return await self._look_at(repair=True)

    async def _look_at(self, repair: bool) -> list[Finding]:
        https = self.url.startswith("https://")
        findings = [
            Finding(
                "Twilio can reach the desk",
                https,
                self.url,
                "" if https else "Set BOT_PUBLIC_URL to the desk's https:// address.",
            )
        ]
        try:
            opened = client(self.twilio)
            try:
                findings += await self._account(opened)
                findings += await self._number(opened, repair and https)
            finally:
                await close(opened)
        except (TwilioRestException, TwilioServiceException) as error:
            remedy = "Look at https://status.twilio.com and try again."
            if error.status in {401, 403, 404}:
                remedy = (
                    "Copy Account SID and Auth Token from the Twilio Console (Account info) to "
                    "BOT_TWILIO_ACCOUNT_SID and BOT_TWILIO_AUTH_TOKEN."
                )
            findings.append(
                Finding("Twilio answers", False, f"error {error.code or error.status}", remedy)
            )
        except Exception as error:
            remedy = "Look whether this computer reaches https://api.twilio.com."
            findings.append(Finding("Twilio answers", False, type(error).__name__, remedy))
        return findings

    async def _account(self, opened: Client) -> list[Finding]:
        account = await opened.api.v2010.accounts(self.twilio.account_sid).fetch_async()
        active = account.status == "active"
        trial = str(getattr(account, "type", "") or "").lower() == "trial"
        return [
            Finding(
                "The Twilio account is active",
                active,
                str(account.status),
                "" if active else "Sign in at the Twilio Console; it says what is missing.",
            ),
            Finding(
                "The account may write to everybody",
                not trial,
                "trial account" if trial else "",
                "Upgrade the account: a trial only writes to verified numbers." if trial else "",
            ),
        ]

    async def _number(self, opened: Client, repair: bool) -> list[Finding]:
        number = self.twilio.sms_number
        if not NUMBER.fullmatch(number):
            remedy = "Write BOT_TWILIO_SMS_NUMBER as +81…, without spaces and the first 0."
            return [Finding("The number is written rightly", False, "", remedy)]
        owned = await opened.incoming_phone_numbers.list_async(phone_number=number, limit=1)
        if not owned:
            remedy = "Buy it in the Twilio Console, or correct BOT_TWILIO_SMS_NUMBER."
            return [Finding("The number belongs to the account", False, "", remedy)]
        [row] = owned
        able = bool((row.capabilities or {}).get("sms"))
        findings = [
            Finding("The number belongs to the account", True),
            Finding(
                "The number can do SMS",
                able,
                "",
                "" if able else "Buy a number with the capability SMS; this one has none.",
            ),
        ]
        if repair and not self._calls_us(row):
            row = await opened.incoming_phone_numbers(row.sid).update_async(
                sms_url=self.hook,
                sms_method="POST",
                sms_fallback_url=self.hook,
                sms_fallback_method="POST",
                sms_application_sid="",
            )
        calls = self._calls_us(row)
        remedy = f"Run `bot channels setup sms`, or set {self.hook} (POST) in the Console."
        return [*findings, Finding("Twilio calls the desk", calls, "", "" if calls else remedy)]

    def _calls_us(self, row: Any) -> bool:
        return (
            row.sms_url == self.hook
            and row.sms_fallback_url == self.hook
            and row.sms_method == "POST"
            and not row.sms_application_sid
        )


def _taken() -> Response:
    return Response("<Response/>", media_type="text/xml")


def _reason(code: int) -> str:
    return REASONS.get(code) or (f"Twilio error {code}" if code else "Twilio does not say why")


async def _ask(call: Awaitable[Any], plain: bool = False) -> Any:
    """The answer to a call; every failure is a `SendError`."""
    try:
        return await call
    except SendError:
        raise
    except (TwilioRestException, TwilioServiceException) as error:
        raise _refusal(error, plain) from error
    except Exception as error:  # no answer, or none that can be read
        raise TemporarySendError(f"Twilio did not answer ({type(error).__name__})") from error


def _refusal(error: TwilioRestException | TwilioServiceException, plain: bool) -> SendError:
    """What an error of Twilio's means for the message.

    She who wrote STOP has left. But if words are on their way to her that do not say goodbye, she
    has written to us since, and Twilio keeps our answer from her: a person is to find another way.
    """
    code = error.code or 0
    if code == 21610:
        return BlockedError(_reason(code)) if plain else RejectedError(_reason(code))
    if code in FULL:
        return RateLimitedError("too many messages are waiting at Twilio", 60)
    if code in REPAIRABLE or error.status >= 500 or error.status in {401, 402, 403, 404, 408}:
        return TemporarySendError(f"Twilio refuses the desk or is down ({code or error.status})")
    return RejectedError(_reason(code))


def _remember(memory: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > REMEMBERED:
        memory.popitem(last=False)


def _last_heard(session: Session) -> datetime:
    """Since when messages may have been missed: a little before the last one that came."""
    now = datetime.now(UTC)
    last = session.scalar(
        select(func.max(Conversation.heard_at)).where(Conversation.channel == Sms.name)
    )
    return now if last is None else max(last - OVERLAP, now - LONGEST_AWAY)


# A notice is remembered in its conversation's thread as "notice": [when, Twilio's id], so that all
# processes know it. The id is empty while it is on its way: what ends it may be known earlier.


def _notice_for(session: Session, address: str, numbers: Sequence[str]) -> tuple[int, str]:
    """The conversation at an address, and the notice that speaks for these messages as well: one
    that just left and is not over. Else it is empty, and a notice is on its way from now on.

    Raises:
        RejectedError: no conversation is there.
    """
    conversation = _locked(session, find_conversation(session, Sms.name, address))
    if conversation is None:
        raise RejectedError("nobody is at this number any more")
    thread, stamp = conversation.thread or {}, now(session)
    at, sid = thread.get("notice", ("", ""))
    if not sid or stamp - datetime.fromisoformat(at) >= NOTICE_PAUSE:
        conversation.thread = {**thread, "notice": [stamp.isoformat(), ""]}
        return conversation.id, ""
    session.execute(  # now: its failure may be told before delivery notes them as sent
        update(Message)
        .where(Message.id.in_([int(number) for number in numbers if number.isdecimal()]))
        .where(Message.conversation_id == conversation.id, Message.state == "queued")
        .values(receipt_index=vault().index(Sms.name, "receipt", sid))
    )
    return conversation.id, sid


def _notice_left(session: Session, number: int, sid: str) -> None:
    """Twilio has the notice of a conversation; if it is over already, it speaks for nothing."""
    conversation = _locked(session, number)
    if conversation is not None and "notice" in (conversation.thread or {}):
        notice = [now(session).isoformat(), sid]
        conversation.thread = {**(conversation.thread or {}), "notice": notice}


def _notice_failed(session: Session, address: str, sid: str) -> None:
    """An SMS failed. Perhaps it is the notice that is on its way: better one too many."""
    number = find_conversation(session, Sms.name, address)
    _notice_over(session, number, sid, "")


def _notice_over(session: Session, number: int | None, *sids: str) -> None:
    """The notice of a conversation (only one of `sids`, if given) speaks for nothing from now."""
    conversation = _locked(session, number)
    if conversation is None:
        return
    thread = dict(conversation.thread or {})
    _, sid = thread.pop("notice", ("", ""))
    if not sids or sid in sids:
        conversation.thread = thread or None


def _locked(session: Session, number: int | None) -> Conversation | None:
    """A conversation that is not erased."""
    return session.scalar(
        select(Conversation)
        .where(Conversation.id == number, Conversation.address_index.is_not(None))
        .with_for_update()
    )
