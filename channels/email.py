"""E-mail: an SMTP server that takes mail for the desk, and replies in the same thread.

A message is written to the log before the sender's server gets its "250 OK". A conversation is the
address of a worker. A mail belongs to it if it comes from there, or if it answers a mail of ours:
our Message-IDs and reply addresses bear a signed token. A subject never decides. Answers go to the
address that we know and to no other, since From can be forged.

Automatic mail (RFC 3834) of a known sender is kept, but never answered; a bounce (RFC 3464) marks
the message that came back. All replies of one turn leave as one mail. Without a relay they are
kept and shown in the console.
"""

import asyncio
import contextlib
import hashlib
import hmac
import re
import ssl
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import quote

import aiosmtplib
import dkim
import structlog
from aiosmtpd.smtp import SMTP, Envelope
from aiosmtpd.smtp import Session as Client
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from starlette.routing import BaseRoute

from channels.context import ChannelContext
from channels.log import Conversation, Message, find_conversation
from channels.mail import auth, machine, setup
from channels.mail.smtp import Load, Server, hand_over
from channels.mail.text import Mail, bare, clean_address, read
from channels.mail.write import Letterhead, compose, quoted, sign, stable
from channels.message import (
    Attachment,
    Finding,
    InboundMessage,
    Kind,
    Limits,
    NotConfiguredError,
    OutboundMessage,
    Receipt,
    RefusedError,
    RejectedError,
    TemporarySendError,
    clean,
)
from config.database import now
from config.vault import vault

log = structlog.get_logger(__name__)

MOST_FILES = 20
MOST_AN_HOUR = 60
"""Mails of one address in an hour that are answered: more is two machines that talk."""
TIMEOUT = 20
_GENERIC = re.compile(
    r"(?i)[(（<\[]?\s*(no subject|件名なし|無題|无主题|sin asunto|sem assunto)\W*"
)
_TOKEN = re.compile(r"c(\d{1,12})x([0-9a-f]{16})")


class EmailSettings(BaseSettings):
    """How mail is protected; address, port and relay are settings of the desk."""

    model_config = SettingsConfigDict(env_prefix="BOT_", env_file=".env", extra="ignore")

    mail_plus: bool = Field(
        True,
        description="Whether mail to address+anything@ reaches the desk; each conversation then "
        "has a reply address of its own.",
    )
    mail_auth: Literal["header", "check", "off"] = Field(
        "header",
        description="SPF, DKIM, DMARC of incoming mail, shown to counsellors. header: as your mail "
        "server found (BOT_MAIL_AUTHSERV_ID); check: looked up here; off.",
    )
    mail_authserv_id: str = Field(
        "", description="The name by which your mail server signs Authentication-Results."
    )
    smtp_tls_cert: str = Field(
        "", description="PEM file with the certificate for STARTTLS of incoming mail. Empty: none."
    )
    smtp_tls_key: str = Field("", description="PEM file with the key of that certificate.")
    dkim_selector: str = Field(
        "", description="DKIM selector for outgoing mail. Empty: the relay signs, or nobody."
    )
    dkim_key_file: str = Field(
        "", description="PEM file with the RSA key for DKIM; `bot channels setup email` makes it."
    )


class Email:
    """The e-mail channel."""

    name: ClassVar[str] = "email"
    limits: ClassVar[Limits] = Limits(text=200_000, buttons=0, group=20)

    def __init__(self, context: ChannelContext, own: EmailSettings) -> None:
        self.inbox, self.database, self.media = context.inbox, context.database, context.media
        self.settings, self.texts, self.own = context.settings, context.texts, own
        self.address = bare(self.settings.mail_address)
        self.domain = self.address.rpartition("@")[2]
        self.size = self.media.limit * 3 // 2 + 1024 * 1024  # base64, and the words
        self.load, self._reading = Load(), asyncio.Semaphore(2)  # reading takes memory
        self._tls: tuple[float, ssl.SSLContext] | None = None
        self._tasks: set[asyncio.Task[str]] = set()

    def routes(self) -> Sequence[BaseRoute]:
        """None: mail comes by SMTP."""
        return []

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """The SMTP listener."""
        return self._listen()

    @asynccontextmanager
    async def _listen(self) -> AsyncIterator[None]:
        server = await asyncio.get_running_loop().create_server(
            lambda: Server(
                self,
                hostname=self.domain,
                ident="consultation desk",
                data_size_limit=self.size,
                enable_SMTPUTF8=True,
                tls_context=self._certificate(),
                auth_exclude_mechanism=["LOGIN", "PLAIN"],  # nobody signs in here
                loop=asyncio.get_running_loop(),
            ),
            host=self.settings.smtp_host,
            port=self.settings.smtp_port,
        )
        try:
            yield
        finally:
            server.close()
            await server.wait_closed()

    def _certificate(self) -> ssl.SSLContext | None:
        """The certificate as it is now: it is renewed while the desk runs."""
        if not self.own.smtp_tls_cert:
            return None
        try:
            changed = Path(self.own.smtp_tls_cert).stat().st_mtime
            if self._tls is None or self._tls[0] != changed:
                tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
                tls.load_cert_chain(self.own.smtp_tls_cert, self.own.smtp_tls_key or None)
                self._tls = (changed, tls)
        except (OSError, ssl.SSLError) as error:
            log.error("mail_certificate", error=type(error).__name__)
        return self._tls[1] if self._tls else None

    # -- in -----------------------------------------------------------------------------------

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, _client: Client, envelope: Envelope, address: str, _: list[str]
    ) -> str:
        """Take mail for the desk (also desk+anything@) and for nobody else: no open relay."""
        if bare(address) != self.address:
            return "550 5.1.1 no such mailbox here"
        if len(envelope.rcpt_tos) >= 20:
            return "452 4.5.3 too many recipients"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, client: Client, envelope: Envelope
    ) -> str:
        """Write the mail down, then acknowledge it. What has begun is finished, also when the
        connection breaks: the server that brought the mail will bring it again."""
        task = asyncio.create_task(self._taken(client, envelope))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _taken(self, client: Client, envelope: Envelope) -> str:
        try:
            return await self._take(client, envelope)
        except Exception:
            log.exception("mail_not_kept")
            return "451 4.3.0 cannot keep the mail now; please try again later"

    async def handle_exception(self, error: Exception) -> str:
        """A fault of the SMTP dialogue itself."""
        log.error("mail_dialogue", error=type(error).__name__)
        return "451 4.3.0 fault on our side; please try again later"

    async def _take(self, client: Client, envelope: Envelope) -> str:
        raw = envelope.original_content or b""
        async with self._reading:
            mail = await asyncio.to_thread(read, raw, self.address)
        returns_to = clean_address((envelope.mail_from or "").strip("<>"))
        sender = mail.sender or returns_to
        if len(mail.message.get_all("Received") or ()) > machine.MOST_HOPS:
            log.warning("mail_loop", why="hops")
            return "554 5.4.6 too many hops"
        loops = mail.message.get_all("X-Loop") or ()
        if self.address in {bare(one) for one in (sender, mail.origin, returns_to, *loops)}:
            log.warning("mail_loop", why="our own mail")  # a bounce would come back as our failure
            return "250 2.0.0 taken, not answered"
        told = machine.report(mail.message)
        if told is not None:
            return await self._told(told, mail, envelope)
        recipients = [one for one in envelope.rcpt_tos if one]
        tokens = list(self._named([*recipients, *mail.references]))
        known, writes_to, recent = await self.database.read(_around, tokens, sender)
        why = machine.machine(mail.message, sender, returns_to, known)
        if not writes_to or (why and not known):
            log.info("mail_passed_over", why=why or "no sender", size=len(raw))
            return "250 2.0.0 taken, not answered"
        if why or recent > MOST_AN_HOUR:
            why = why or "too many"
            log.info("mail_automatic", why=why, size=len(raw))
        verdict = await self._verdict(raw, mail, client, returns_to)
        await self._accept(raw, mail, sender, writes_to, verdict, bool(why))
        return "250 2.0.0 OK"

    async def _accept(
        self,
        raw: bytes,
        mail: Mail,
        sender: str,
        writes_to: str,
        verdict: auth.Verdict,
        automatic: bool,
    ) -> None:
        """Keep the files, then the message; if it cannot be kept, nothing of it stays."""
        kept: list[Attachment] = []
        message_id = mail.message_id or f"<{hashlib.sha256(raw).hexdigest()}@none>"
        external_id = f"{sender} {message_id}"
        text = self._text(mail)
        kind: Kind = "automatic" if automatic else "text"
        # The words of a stranger must not become the subject of our mail to the worker.
        trusted = sender == writes_to and verdict.dmarc != "fail" and not automatic
        thread: dict[str, Any] = {"subject": mail.subject[:200]}
        if mail.message_id:
            earlier = [*reversed(mail.references)][-19:]
            earlier = [one for one in earlier if one != mail.message_id]
            thread |= {"in_reply_to": message_id, "references": [*earlier, message_id]}
        try:
            for name, media_type, data in mail.files:
                full = len(kept) >= MOST_FILES
                kept.append(await self._file(name, media_type, data, full))
            await self.inbox.accept(
                InboundMessage(
                    channel=self.name,
                    external_id=external_id,
                    address=writes_to,
                    text=clean(text),
                    original=clean(_original(mail, sender, writes_to, verdict)),
                    name=clean(mail.name) if trusted else "",
                    thread=thread if trusted else {},
                    attachments=tuple(kept),
                    kind="file" if kept and not text and not automatic else kind,
                )
            )
        except Exception:
            with contextlib.suppress(Exception):  # where nobody can tell, the files stay
                if not await self.database.read(_is_here, external_id):
                    self.media.remove(one.file for one in kept)
            raise

    async def _file(self, name: str, media_type: str, data: bytes, full: bool) -> Attachment:
        error = f"more than {MOST_FILES} files" if full else ""
        if not error:
            try:
                return await self.media.keep(name, data)
            except RefusedError as refused:
                error = str(refused)
        return Attachment(clean(name)[:100], media_type, len(data), error=error)

    def _text(self, mail: Mail) -> str:
        """What is new, with the subject where it opens a thread: it may hold all that she says."""
        words = mail.written
        subject = "" if mail.is_reply or _GENERIC.fullmatch(mail.subject) else mail.subject
        if not words or not subject:
            return words or subject
        single = self.texts().command(words) or words.strip().isdigit()
        return (
            words if single or subject.casefold() in words.casefold() else f"{subject}\n\n{words}"
        )

    async def _verdict(
        self, raw: bytes, mail: Mail, client: Client, returns_to: str
    ) -> auth.Verdict:
        if self.own.mail_auth == "header":
            return auth.from_headers(mail.message, self.own.mail_authserv_id)
        if self.own.mail_auth == "off":
            return auth.Verdict()
        peer = str(client.peer[0]) if client.peer else ""
        return await auth.checked(raw, peer, client.host_name or "", returns_to, mail.origin)

    def _named(self, addresses: Iterable[str]) -> Iterable[int]:
        """The conversations that addresses or Message-IDs of ours name."""
        for address in addresses:
            local, _, domain = address.lower().strip("<>").rpartition("@")
            for one in _TOKEN.finditer(local) if domain == self.domain else ():
                number = opens(one[0])
                if number is not None:
                    yield number

    async def _told(self, told: machine.Report, mail: Mail, envelope: Envelope) -> str:
        """A bounce or a receipt: only one that knows a Message-ID of ours is believed."""
        found = ""
        for recipient in envelope.rcpt_tos:
            tagged = re.search(rf"\+({_TOKEN.pattern})\.([0-9a-f]{{24}})@", recipient.lower())
            if tagged and opens(tagged[1]) is not None:
                found = f"<{tagged[4]}.{tagged[1]}@{self.domain}>"
        texts = [told.original, *(f"Message-ID: {one}" for one in mail.references)]
        ours = rf"(?im)^(?:>\s*)?Message-ID:\s*(<[0-9a-f]{{24}}\.({_TOKEN.pattern})@[^<>\s]+>)"
        for one in re.finditer(ours, "\n".join(texts)):
            if not found and opens(one[2]) is not None:
                found = one[1]
        log.info("mail_report", state=told.state, known=bool(found))
        if found and told.state != "delayed":
            await self.inbox.note(Receipt(self.name, told.state, found, reason=told.reason))
        return "250 2.0.0 taken, not answered"

    # -- out ----------------------------------------------------------------------------------

    async def send(self, messages: Sequence[OutboundMessage]) -> Sequence[str]:
        """Send all messages as one mail in the worker's thread."""
        if not self.settings.smtp_relay:
            raise NotConfiguredError("no mail relay is set (BOT_SMTP_RELAY)")
        message_id, sender, raw = await self.compose(messages)
        address = quoted(messages[0].address)
        try:
            client = await self._connect()
        except aiosmtplib.SMTPAuthenticationError as error:
            raise TemporarySendError(f"the relay refuses our login ({error.code})") from None
        except aiosmtplib.SMTPResponseException as error:
            raise TemporarySendError(f"the relay is not ready ({error.code})") from None
        except (aiosmtplib.SMTPException, OSError, TimeoutError, ValueError) as error:
            raise TemporarySendError(f"relay unreachable ({type(error).__name__})") from None
        try:
            await hand_over(client, sender, address, raw)
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            raise TemporarySendError(f"relay unreachable ({type(error).__name__})") from None
        finally:
            with contextlib.suppress(aiosmtplib.SMTPException, OSError, TimeoutError):
                await client.quit(timeout=5)
            client.close()
        return [message_id for _ in messages]

    async def _connect(self) -> aiosmtplib.SMTP:
        host, _, port = self.settings.smtp_relay.rpartition(":")
        client = aiosmtplib.SMTP(
            hostname=host.strip("[]"),
            port=int(port),
            local_hostname=self.domain if self.domain.isascii() else "localhost",
            username=self.settings.smtp_relay_user or None,
            password=self.settings.smtp_relay_password.get_secret_value() or None,
            use_tls=self.settings.smtp_relay_tls == "tls",
            start_tls=self.settings.smtp_relay_tls == "starttls",
            timeout=TIMEOUT,
        )
        await client.connect()
        return client

    async def compose(self, messages: Sequence[OutboundMessage]) -> tuple[str, str, bytes]:
        """One mail of several messages: its Message-ID, its envelope's sender, its bytes."""
        first, texts = messages[0], self.texts()
        language = first.language or "en"
        number = await self.database.read(find_conversation, self.name, first.address)
        signed = token(number) if number is not None else ""
        local = self.address.rpartition("@")[0]
        plus = bool(signed and self.own.mail_plus)
        files = []
        for one in (file for message in messages for file in message.attachments):
            try:
                files.append((one.name, one.media_type, await self.media.read(one.file)))
            except FileNotFoundError:
                raise RejectedError("an attached file is not here any more") from None
        head = Letterhead(
            name=texts("webchat.heading", language).body,
            address=self.settings.mail_address,
            subject=texts("email.subject", language).body,
            footer=texts("email.footer", language).body,
            reply_to=f"{local}+{signed}@{self.domain}" if plus else "",
            token=signed,
        )
        message_id, raw = await asyncio.to_thread(compose, messages, head, files)
        if self.own.dkim_selector and self.own.dkim_key_file:
            key = Path(self.own.dkim_key_file)
            try:
                raw = await asyncio.to_thread(sign, raw, self.own.dkim_selector, key, self.domain)
            except (OSError, dkim.DKIMException, ValueError) as error:
                log.error("mail_not_signed", error=type(error).__name__)
                raise TemporarySendError("the DKIM key cannot be used") from None
        tagged = f"{local}+{signed}.{stable(messages)}@{self.domain}"
        return message_id, tagged if plus else self.address, raw

    async def busy(self, address: str, thread: dict[str, Any]) -> None:
        """Mail shows nothing of the kind."""

    async def fetch(self, source: str) -> tuple[str, bytes]:
        """Never called: files come with the mail."""
        raise RejectedError(source)

    def entrance(self, words: str) -> str:
        """A mail to the desk, ready to be sent; none while the address is no real one."""
        if self.settings.mail_address.endswith("@localhost"):
            return ""
        return f"mailto:{self.settings.mail_address}?body={quote(words)}"

    async def check(self) -> list[Finding]:
        """The relay, the port, the certificate and the DNS."""
        found = [await setup.port(self.settings.smtp_host, self.settings.smtp_port)]
        if self.settings.smtp_relay:
            found.append(await setup.relay(self._connect, self.settings.smtp_relay_tls != "none"))
        else:
            remedy = "Set BOT_SMTP_RELAY (host:port) and its login; until then answers are kept."
            found.append(Finding("relay", False, "none is set", remedy))
        if self.own.mail_auth == "header" and not self.own.mail_authserv_id:
            remedy = "Set BOT_MAIL_AUTHSERV_ID, or BOT_MAIL_AUTH=check if no server stands before."
            found.append(Finding("proof of senders", False, "not looked at", remedy))
        found += setup.certificate(self.own.smtp_tls_cert, self.own.smtp_tls_key)
        return found + await setup.names(
            self.domain, self.own.dkim_selector, self.own.dkim_key_file
        )

    async def setup(self) -> list[Finding]:
        """Make a DKIM key if one is wanted; tell the DNS records to create."""
        return await setup.to_create(self.domain, self.own.dkim_selector, self.own.dkim_key_file)


def token(conversation_id: int) -> str:
    """The signed name of a conversation, of letters and digits that no mail server changes."""
    secret = vault().secret("mail reply").encode()
    mac = hmac.new(secret, str(conversation_id).encode(), hashlib.sha256).hexdigest()[:16]
    return f"c{conversation_id}x{mac}"


def opens(text: str) -> int | None:
    """The conversation that a token names; None if we did not sign it."""
    found = _TOKEN.fullmatch(text)
    if found and hmac.compare_digest(text, token(int(found[1]))):
        return int(found[1])
    return None


def _around(session: Session, tokens: list[int], sender: str) -> tuple[bool, str, int]:
    """(whether she is known, her address, her messages in the last hour), by token or address."""
    conversation: Conversation | None = None
    for number in tokens:
        found = session.get(Conversation, number)
        if found is not None and found.channel == Email.name and found.address:
            conversation = found
            break
    if conversation is None:
        at = find_conversation(session, Email.name, sender)
        conversation = None if at is None else session.get(Conversation, at)
    if conversation is None:
        return False, sender, 0
    recent = session.scalar(
        select(func.count())
        .select_from(Message)
        .where(Message.conversation_id == conversation.id, Message.author == "worker")
        .where(Message.created_at > now(session) - timedelta(hours=1))
    )
    return True, conversation.address or sender, recent or 0


def _is_here(session: Session, external_id: str) -> bool:
    """Whether a message was written down after all."""
    index = vault().index(Email.name, "message", external_id)
    wanted = select(Message.id).where(Message.external_index == index)
    return session.scalar(wanted) is not None


def _original(mail: Mail, sender: str, writes_to: str, verdict: auth.Verdict) -> str:
    """The whole mail as a counsellor sees it: who, what about, how sure that is, every word."""
    lines = [
        f"From: {mail.name} <{mail.origin}>" if mail.name else f"From: {mail.origin or sender}"
    ]
    if sender != mail.origin:
        lines.append(f"Reply-To: {sender}")
    if sender != writes_to:
        lines.append(f"Not the address of this conversation: answers go to {writes_to}")
    lines += [f"Subject: {mail.subject}", f"Authentication: {verdict}"]
    return "\n".join([*lines, "", mail.text])
