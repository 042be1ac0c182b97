"""Writing a mail: the published text, plain and as HTML, files, thread, and a DKIM signature."""

import email.policy
import hashlib
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path

import dkim

from channels.message import OutboundMessage

PLAIN_LOCAL = re.compile(r"[^\s()<>\[\]:;@\\,.\"]+(\.[^\s()<>\[\]:;@\\,.\"]+)*")
"""A local part that needs no quotes (RFC 5322, dot-atom)."""
SIGNED = [b"from", b"to", b"subject", b"date", b"message-id", b"reply-to", b"mime-version"]
SIGNED += [b"in-reply-to", b"references", b"content-type", b"content-transfer-encoding"]
# Not 8 bits: relays may have to convert, which breaks signatures.
_POLICY = email.policy.SMTP.clone(cte_type="7bit", max_line_length=76)
_LINK = re.compile(
    r"(?P<url>https://[A-Za-z0-9\-._~:/?#\[\]@!$&()*+,;=%]+)"
    r"|(?<![\d-])(?P<number>\+?\d{2,4}-\d{2,4}-\d{3,4})(?![\d-])"
)


@dataclass(frozen=True, slots=True)
class Letterhead:
    """What is written around the words: who writes, from where, in which conversation.

    `name` and `footer` are published texts. `reply_to` is empty where the desk's address is enough;
    `token` is the signed name of the conversation ("" if there is none).
    """

    name: str
    address: str
    subject: str
    footer: str
    reply_to: str = ""
    token: str = ""


def quoted(address: str) -> str:
    """An address as it may stand in a header or command: odd local parts in quotes."""
    local, _, domain = address.rpartition("@")
    if PLAIN_LOCAL.fullmatch(local) or re.fullmatch(r'"(?:[^"\\]|\\.)+"', local):
        return address
    escaped = local.replace("\\", r"\\").replace('"', r"\"")
    return f'"{escaped}"@{domain}'


def stable(messages: Sequence[OutboundMessage]) -> str:
    """24 hex digits that stay the same when the same messages are sent again."""
    return hashlib.sha256("/".join(one.key for one in messages).encode()).hexdigest()[:24]


def compose(
    messages: Sequence[OutboundMessage],
    head: Letterhead,
    files: Sequence[tuple[str, str, bytes]] = (),
) -> tuple[str, bytes]:
    """One mail of several messages, in the worker's thread: its Message-ID, and its bytes."""
    first = messages[0]
    thread = first.thread
    domain = head.address.rpartition("@")[2]
    number = stable(messages)
    message_id = f"<{number}.{head.token}@{domain}>" if head.token else f"<{number}@{domain}>"
    subject = str(thread.get("subject") or "")
    if subject and not re.match(r"(?i)\s*(re|aw|sv|回复|答复|返信)\s*[:：]", subject):
        subject = f"Re: {subject}"
    mail = EmailMessage(policy=_POLICY)
    local = head.address.rpartition("@")[0]
    mail["From"] = Address(head.name, local, domain)
    mail["Subject"] = " ".join((subject or head.subject).split())[:300]
    language = first.language.partition("-")[0]
    if not first.from_counsellor:
        mail["Auto-Submitted"] = "auto-replied"
    mail["X-Loop"] = head.address
    body = "\n\n".join(message.text for message in messages if message.text)
    mail.set_content(f"{body}\n\n-- \n{head.footer}\n")
    mail.add_alternative(page(body, head.footer, language), subtype="html")
    for name, media_type, data in files:
        kind, _, subtype = media_type.partition("/")
        if kind in {"message", "multipart", ""} or not subtype:
            kind, subtype = "application", "octet-stream"
        mail.add_attachment(data, maintype=kind, subtype=subtype, filename=name)
    if re.fullmatch(r"[a-z]{2,3}", language):
        mail["Content-Language"] = language
    # Written by hand: the library refuses odd addresses and breaks long ids in two.
    top = [
        f"To: {quoted(first.address)}",
        f"Date: {format_datetime(datetime.now(UTC))}",
        f"Message-ID: {message_id}",
    ]
    if head.reply_to:
        top.append(f"Reply-To: {head.reply_to}")
    if thread.get("in_reply_to"):
        top.append(f"In-Reply-To: {thread['in_reply_to']}")
        top.append("References: " + "\r\n ".join(thread.get("references") or ()))
    return message_id, "\r\n".join([*top, ""]).encode() + mail.as_bytes()


def page(text: str, footer: str, language: str) -> str:
    """The same words as HTML, for programs that show no plain text: nothing is loaded, only links
    and telephone numbers are made so that a finger can press them."""
    parts = [part for part in re.split(r"\n{2,}", text.strip()) if part.strip()]
    body = "\n".join(f'<p dir="auto">{_linked(part)}</p>' for part in parts)
    lang = f' lang="{html.escape(language)}"' if language else ""
    return (
        f'<!doctype html>\n<html{lang} dir="auto"><head><meta charset="utf-8"></head>\n'
        '<body style="font-family:sans-serif;font-size:16px;line-height:1.5">\n'
        f'{body}\n<hr>\n<p dir="auto" style="color:#555">{_linked(footer)}</p>\n</body></html>\n'
    )


def _linked(text: str) -> str:
    shown, at = [], 0
    for found in _LINK.finditer(text):
        word = found[0].rstrip(".,;:!?)]")
        target = word if found["url"] else f"tel:{word.replace('-', '')}"
        shown.append(html.escape(text[at : found.start()]))
        shown.append(f'<a href="{html.escape(target)}">{html.escape(word)}</a>')
        at = found.start() + len(word)
    shown.append(html.escape(text[at:]))
    return "".join(shown).replace("\n", "<br>\n")


def sign(raw: bytes, selector: str, key: Path, domain: str) -> bytes:
    """A mail with a DKIM signature on top.

    Raises:
        OSError, dkim.DKIMException: the key cannot be read.
    """
    present = {
        line.partition(b":")[0].lower() for line in raw.partition(b"\r\n\r\n")[0].split(b"\r\n")
    }
    header = dkim.sign(
        raw,
        selector.encode(),
        domain.encode("idna"),
        key.read_bytes(),
        canonicalize=(b"relaxed", b"relaxed"),
        include_headers=[name for name in SIGNED if name in present],
    )
    return bytes(header) + raw
