"""E-mail: an SMTP server that takes mail for the desk, and replies in the same thread.

A message is written to the log before the sender's server gets its "250 OK". Automatic mail
(RFC 3834), bounces (RFC 3464) and lists are taken but never answered, so that no loop can begin.
All replies of one turn leave as one mail. Without a relay they are kept and shown in the console.
"""

import asyncio
import email.policy
import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.parser import BytesParser
from email.utils import format_datetime, make_msgid, parseaddr
from typing import Any, ClassVar
from urllib.parse import quote

import aiosmtplib
import structlog
from aiosmtpd.controller import UnthreadedController
from aiosmtpd.smtp import SMTP, Envelope, Session
from inscriptis import get_text
from mailparser_reply import EmailReplyParser
from starlette.routing import BaseRoute

from channels.context import ChannelContext
from channels.message import (
    Finding,
    InboundMessage,
    Limits,
    NotConfiguredError,
    OutboundMessage,
    RejectedError,
    TemporarySendError,
    clean,
)

log = structlog.get_logger(__name__)

SIZE_LIMIT = 10 * 1024 * 1024
"""Bytes of a mail; announced by SIZE and refused beyond."""
QUOTE_LANGUAGES = ["en", "ja", "zh", "es", "ko", "fr", "de"]
_REFUSED_HEADERS = ("list-id", "list-unsubscribe", "x-loop", "x-autoreply", "x-autorespond")


class Email:
    """The e-mail channel: `settings` name the address, the port and the relay."""

    name: ClassVar[str] = "email"
    limits: ClassVar[Limits] = Limits(text=200_000, buttons=0, group=20)

    def __init__(self, context: ChannelContext) -> None:
        self.inbox, self.settings, self.texts = context.inbox, context.settings, context.texts
        self.address = self.settings.mail_address.lower()

    def routes(self) -> Sequence[BaseRoute]:
        """None: mail comes by SMTP."""
        return []

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """The SMTP listener."""
        return self._listen()

    @asynccontextmanager
    async def _listen(self) -> AsyncIterator[None]:
        controller = UnthreadedController(
            self,
            hostname=self.settings.smtp_host,
            port=self.settings.smtp_port,
            loop=asyncio.get_running_loop(),
            data_size_limit=SIZE_LIMIT,
            enable_SMTPUTF8=True,
            ident="consultation desk",
        )
        server = await asyncio.get_running_loop().create_server(
            controller._factory_invoker,
            host=self.settings.smtp_host,
            port=self.settings.smtp_port,
        )
        try:
            yield
        finally:
            server.close()
            await server.wait_closed()

    # -- in -----------------------------------------------------------------------------------

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self,
        _server: SMTP,
        _session: Session,
        envelope: Envelope,
        address: str,
        _options: list[str],
    ) -> str:
        """Take mail for the desk (also desk+anything@) and for nobody else: no open relay."""
        local, _, domain = address.lower().rpartition("@")
        if f"{local.partition('+')[0]}@{domain}" != self.address:
            return "550 5.1.1 no such mailbox here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope
    ) -> str:
        """Write the mail down, then acknowledge it."""
        raw = envelope.original_content or b""
        try:
            message = parse(raw)
        except (MessageError, ValueError, LookupError, RecursionError) as error:
            log.warning("mail_unreadable", error=type(error).__name__, size=len(raw))
            return "554 5.6.0 this mail cannot be read; please send plain text"
        returns_to = (envelope.mail_from or "").strip("<>")  # empty: a bounce
        sender = parseaddr(str(message.get("Reply-To") or message.get("From") or ""))[1]
        sender = sender or returns_to
        if "@" not in sender or not returns_to or is_automatic(message):
            # Bounces and auto-responders: taken, so that nobody sends them again; not answered.
            log.info("mail_automatic", size=len(raw))
            return "250 2.0.0 taken, not answered"
        if sender.lower() == self.address:
            return "550 5.7.1 mail from the desk to itself"
        subject = _header(message, "Subject")
        text = reply_text(body_text(message))
        if not text.strip():
            text = subject if not message.get("In-Reply-To") else ""
        message_id = _header(message, "Message-ID") or f"<{hashlib.sha256(raw).hexdigest()}@none>"
        references = f"{_header(message, 'References')} {message_id}".split()
        try:
            await self.inbox.accept(
                InboundMessage(
                    channel=self.name,
                    external_id=f"{sender.lower()} {message_id}",
                    address=sender.lower(),
                    text=clean(text),
                    original=clean(body_text(message)),
                    name=clean(parseaddr(_header(message, "From"))[0]),
                    thread={
                        "subject": subject[:300],
                        "in_reply_to": message_id[:500],
                        "references": references[-20:],
                    },
                )
            )
        except Exception:
            log.exception("mail_not_kept")
            return "451 4.3.0 cannot keep the mail now; please try again later"
        return "250 2.0.0 OK"

    # -- out ----------------------------------------------------------------------------------

    async def send(self, messages: Sequence[OutboundMessage]) -> Sequence[str]:
        """Send all messages as one mail in the worker's thread."""
        if not self.settings.smtp_relay:
            raise NotConfiguredError("no mail relay is set (BOT_SMTP_RELAY)")
        mail = self.compose(messages)
        host, _, port = self.settings.smtp_relay.rpartition(":")
        password = self.settings.smtp_relay_password.get_secret_value()
        try:
            await aiosmtplib.send(
                mail,
                sender=self.settings.mail_address,
                recipients=[messages[0].address],
                hostname=host,
                port=int(port),
                username=self.settings.smtp_relay_user or None,
                password=password or None,
                use_tls=self.settings.smtp_relay_tls == "tls",
                start_tls=self.settings.smtp_relay_tls == "starttls",
                timeout=30,
            )
        except aiosmtplib.SMTPRecipientsRefused as error:
            codes = [refused.code for refused in error.recipients]
            if all(code >= 500 for code in codes):
                raise RejectedError(f"recipient refused ({codes[0]})") from None
            raise TemporarySendError(f"recipient deferred ({codes[0]})") from None
        except aiosmtplib.SMTPResponseException as error:
            if error.code >= 500:
                raise RejectedError(f"relay refused ({error.code})") from None
            raise TemporarySendError(f"relay deferred ({error.code})") from None
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            raise TemporarySendError(f"relay unreachable ({type(error).__name__})") from None
        return [str(mail["Message-ID"]) for _ in messages]

    async def busy(self, address: str, thread: dict[str, Any]) -> None:
        """Mail shows nothing of the kind."""

    async def fetch(self, source: str) -> tuple[str, bytes]:
        """Never called: files come with the mail."""
        raise RejectedError(source)

    def entrance(self, words: str) -> str:
        """A mail to the desk, ready to be sent."""
        return f"mailto:{self.settings.mail_address}?body={quote(words)}"

    async def check(self) -> list[Finding]:
        """Whether mail can leave."""
        return []

    async def setup(self) -> list[Finding]:
        """Nothing to set up."""
        return []

    def compose(self, messages: Sequence[OutboundMessage]) -> EmailMessage:
        """One mail of several messages, in the thread of the worker's last mail."""
        first = messages[0]
        texts = self.texts()
        thread = first.thread
        language = first.language if first.language in texts.languages else "en"
        subject = str(thread.get("subject") or "") or texts("email.subject", language).body
        if thread.get("subject") and not re.match(r"(?i)\s*(re|aw|回复|返信)\s*[:：]", subject):
            subject = f"Re: {subject}"
        mail = EmailMessage(policy=email.policy.SMTP)
        local, _, domain = self.settings.mail_address.rpartition("@")
        mail["From"] = Address(texts("webchat.heading", language).body, local, domain)
        mail["To"] = first.address
        mail["Subject"] = " ".join(subject.split())
        mail["Date"] = format_datetime(datetime.now(UTC))
        # Stable over retries, so that a receiver can drop a repetition.
        stable = hashlib.sha256("/".join(m.key for m in messages).encode()).hexdigest()[:32]
        mail["Message-ID"] = f"<{stable}@{domain}>" if domain else make_msgid()
        if thread.get("in_reply_to"):
            mail["In-Reply-To"] = thread["in_reply_to"]
            mail["References"] = " ".join(thread.get("references") or [thread["in_reply_to"]])
        if not first.from_counsellor:
            mail["Auto-Submitted"] = "auto-replied"
        body = "\n\n".join(message.text for message in messages)
        mail.set_content(f"{body}\n\n-- \n{texts('email.footer', language).body}\n")
        return mail


def parse(raw: bytes) -> EmailMessage:
    """A mail from its bytes.

    Raises:
        MessageError, ValueError, LookupError: not a mail.
    """
    message = BytesParser(policy=email.policy.default).parsebytes(raw)
    assert isinstance(message, EmailMessage)  # noqa: S101 - what policy.default makes
    return message


def is_automatic(message: EmailMessage) -> bool:
    """Whether a mail was sent by a machine, list or bounce and must not be answered (RFC 3834)."""
    submitted = _header(message, "Auto-Submitted").partition(";")[0].strip().lower()
    return (
        submitted not in {"", "no"}
        or _header(message, "Precedence").strip().lower() in {"bulk", "list", "junk"}
        or message.get_content_type() in {"multipart/report", "message/delivery-status"}
        or any(message.get(name) for name in _REFUSED_HEADERS)
    )


def body_text(message: EmailMessage) -> str:
    """The text of a mail; HTML is turned into text; unknown charsets are read as well as may be."""
    part = message.get_body(preferencelist=("plain", "html"))
    if part is None:
        return ""
    payload = part.get_payload(decode=True)
    if not isinstance(payload, bytes):
        return ""
    charset = part.get_content_charset() or "utf-8"
    text = ""
    for name in (charset, "utf-8", "cp1252"):
        try:
            text = payload.decode(name)
            break
        except (LookupError, UnicodeDecodeError):
            continue
    else:
        text = payload.decode("utf-8", "replace")
    if part.get_content_type() == "text/html":
        text = get_text(text)
    return text.replace("\r\n", "\n")


def reply_text(text: str) -> str:
    """What the worker wrote, without quoted history and signature; all of it if nothing is left."""
    written = EmailReplyParser(languages=QUOTE_LANGUAGES).parse_reply(text) or ""
    lines = written.splitlines()
    while lines and (not lines[-1].strip() or lines[-1].lstrip().startswith(">")):
        quoted = lines.pop().lstrip().startswith(">")
        if quoted and not any(line.lstrip().startswith(">") for line in lines[-1:]):
            # The line over a quotation names date and writer and ends with a colon, everywhere.
            while lines and not lines[-1].strip():
                lines.pop()
            if lines and lines[-1].rstrip().endswith((":", "：")):
                lines.pop()
    return "\n".join(lines).strip() or text.strip()


def _header(message: EmailMessage, name: str) -> str:
    try:
        return clean(str(message.get(name) or ""))
    except (ValueError, IndexError, AttributeError):  # headers that the parser trips over
        return ""
