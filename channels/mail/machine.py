"""Mail that machines write: auto-responders and lists (RFC 3834), bounces (RFC 3464), receipts.

Such mail is never answered, so that no loop can begin. A bounce says what became of a mail of ours.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from typing import Literal

from channels.mail.charset import decode
from channels.mail.text import header

MOST_HOPS = 50
"""Servers that a mail has come through; more is a loop (RFC 5321 asks for at least 100 lines)."""

_BULK = {"bulk", "list", "junk", "auto_reply"}
_MARKS = (
    "List-Id",
    "List-Unsubscribe",
    "List-Post",
    "X-Autoreply",
    "X-Autorespond",
    "X-Auto-Reply",
    "X-Mail-Autoreply",
    "X-Failed-Recipients",
)
_ROBOT = re.compile(
    r"(mailer-daemon|postmaster|no-?_?reply|do-?_?not-?_?reply|noreply.*|bounces?|majordomo|listserv)@"
)
_SUBJECT = re.compile(
    r"(?i)\s*(re:\s*)?(automatic reply|auto(matic)?[- ]?(reply|response)|out of (the )?office|"
    r"自動返信|自動応答|不在(通知|のお知らせ)|自动回复|自動回覆|respuesta autom[aá]tica|"
    r"resposta autom[aá]tica|trả lời tự động|balasan otomatis|jawaban otomatis|"
    r"awtomatikong (tugon|sagot)|स्वचालित|အလိုအလျောက်)"
)


def machine(message: Message, sender: str, returns_to: str, known: bool) -> str:
    """Why a mail was written by a machine; "" if a person wrote it.

    `returns_to`: the envelope's sender, "" for bounces. `known`: the sender has a conversation.
    Only then weak signs are enough: the mail is kept, so that nothing is lost by being careful.
    """
    submitted = header(message, "Auto-Submitted").partition(";")[0].strip().lower()
    if submitted not in {"", "no"}:
        return "auto-submitted"
    if header(message, "Precedence").lower() in _BULK:
        return "bulk"
    if message.get_content_type() in {"multipart/report", "message/delivery-status"}:
        return "report"
    if any(message.get(name) for name in _MARKS):
        return "marked"
    if not returns_to:
        return "no return path"
    if _ROBOT.match(sender):
        return "robot's address"
    weak = bool(message.get("X-Loop")) or bool(_SUBJECT.match(header(message, "Subject")))
    return "perhaps" if known and weak else ""


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a mail of ours: the text around its Message-ID, and the outcome."""

    state: Literal["delivered", "read", "failed", "delayed"]
    reason: str
    original: str


REASONS = {
    "5.1": "no such address",
    "5.2.2": "the mailbox is full",
    "5.2": "the mailbox takes no mail",
    "5.3.4": "too big",
    "5.4": "the way to the mailbox is broken",
    "5.7": "refused by the receiving server",
    "4.2.2": "the mailbox is full",
    "4.4": "the server could not be reached in time",
}
"""Status codes (RFC 3463) in words. A diagnostic text is not kept: addresses stand in it."""


def report(message: Message) -> Report | None:
    """What a bounce or receipt says; None if it is neither."""
    whole = "\n".join(_texts(message))
    kind = message.get_content_type()
    flavour = str(message.get_param("report-type", "")).lower() if kind.endswith("report") else ""
    standard = kind in {"multipart/report", "message/delivery-status"}  # not one that is attached
    found = [_fields(one) for one in _blocks(message, "delivery-status")] if standard else []
    if found:
        actions = [one for fields in found for one in fields.get("action", ())]
        codes = [one for fields in found for one in fields.get("status", ())]
        if "failed" in actions:
            return Report("failed", _reason(codes, whole), whole)
        if "delivered" in actions:
            return Report("delivered", "", whole)
        return Report("delayed", "", whole)
    if flavour == "disposition-notification":
        shown = re.search(r"(?im)^disposition:.*\bdisplayed\b", whole)
        return Report("read", "", whole) if shown else Report("delayed", "", whole)
    sender = header(message, "From").lower()
    if re.search(r"mailer-daemon|postmaster|mail delivery|メール配信", sender):
        code = re.search(r"(?<![\d.])(5\.\d{1,3}\.\d{1,3}|55\d)(?![\d.])", whole)
        if code or message.get("X-Failed-Recipients"):
            return Report("failed", _reason([code[1]] if code else [], whole), whole)
        return Report("delayed", "", whole)
    return None


def _blocks(message: Message, subtype: str) -> Iterator[str]:
    for part in message.walk():
        if part.get_content_type().endswith(subtype):
            inside = part.get_payload()
            for one in inside if isinstance(inside, list) else [inside]:
                yield _flat(one)


def _texts(message: Message) -> Iterator[str]:
    for number, part in enumerate(message.walk()):
        if number > 60:
            return
        if number:  # its own headers name the bounce, not our mail
            yield "\n".join(f"{name}: {value}" for name, value in part.items())
        if not part.is_multipart():
            data = part.get_payload(decode=True)
            if isinstance(data, bytes):
                yield decode(data[:100_000], "")


def _flat(block: object) -> str:
    if isinstance(block, Message):
        return "\n".join(f"{name}: {value}" for name, value in block.items())
    return str(block)


def _fields(text: str) -> dict[str, list[str]]:
    fields: dict[str, list[str]] = {}
    for name, value in re.findall(r"(?im)^(action|status):\s*([\w.]+)", text):
        fields.setdefault(name.lower(), []).append(value.lower())
    return fields


def _reason(codes: list[str], whole: str) -> str:
    code = next((one for one in codes if one.startswith("5")), codes[0] if codes else "")
    if code in {"", "5.0.0"}:
        better = re.search(r"(?<![\d.])5\.\d{1,3}\.\d{1,3}(?![\d.])", whole)
        code = better[0] if better else code
    words = next((REASONS[start] for start in _starts(code) if start in REASONS), "")
    return " ".join(part for part in ("returned:", code, words) if part).rstrip(":")


def _starts(code: str) -> Iterator[str]:
    parts = code.split(".")
    for length in range(len(parts), 0, -1):
        yield ".".join(parts[:length])
