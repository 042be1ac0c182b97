"""Reading a mail: charsets, bodies, files, and what is new in it. Nothing here raises.

A mail is read as it is, not as it should be: wrong or missing charsets, broken MIME, HTML only,
quoted history in any language. Whatever cannot be told apart is kept: a word too many costs a
counsellor a second, a word lost may be the one that tells of danger. The whole mail stays beside
(`Mail.text`).
"""

import binascii
import contextlib
import quopri
import re
from base64 import b64decode
from dataclasses import dataclass, field
from email.message import Message
from email.parser import BytesParser
from email.policy import Compat32

from inscriptis import Inscriptis
from lxml import html as lxml_html

from channels.mail.charset import decode
from channels.mail.reply import is_forward, reply_text

DEEPEST = 40
"""Levels of MIME that are opened; what is deeper is kept as a file."""
MOST_BOUNDARIES = 400
"""More nested or sibling parts than this are no mail but an attack on the parser."""
MOST_TEXTS = 40
MOST_FILES = 50
TRACKING = 1024
"""Bytes: a smaller picture inside the text is a tracking pixel or an emoji."""
READ = 200_000
"""Characters of a mail's text that are read."""


class _Raw(Compat32):
    """Headers as they came: the library's own decoding loses what is not declared rightly."""

    def header_fetch_parse(self, name: str, value: str) -> str:  # noqa: ARG002 - inherited
        """The value with undeclared bytes as surrogates."""
        return value


@dataclass(slots=True)
class Mail:
    """What was read. `text` is all of it, `written` what is new, `files` are names and bytes.

    `sender` is where an answer goes (Reply-To, else From), `origin` what stands in From.
    `references` are the ids in In-Reply-To and References, the nearest first.
    """

    message: Message
    subject: str = ""
    sender: str = ""
    origin: str = ""
    name: str = ""
    message_id: str = ""
    references: tuple[str, ...] = ()
    text: str = ""
    written: str = ""
    files: list[tuple[str, str, bytes]] = field(default_factory=list)

    @property
    def is_reply(self) -> bool:
        """Whether it belongs to an earlier mail."""
        return bool(self.references) or bool(_REPLY.match(self.subject))


def read(raw: bytes, own: str = "") -> Mail:
    """Read a mail; `own` is the desk's address. What cannot be read is in `files` as a whole."""
    mail = Mail(Message())
    whole = ("mail.eml", "message/rfc822", raw)
    if raw.lower().count(b"boundary=") > MOST_BOUNDARIES:
        head = raw.partition(b"\r\n\r\n")[0].partition(b"\n\n")[0]
        raw = re.sub(rb"(?i)content-type:[^\n]*(\n[ \t][^\n]*)*", b"X-Cut: yes", head)
        mail.files.append(whole)
    try:
        mail.message = message = BytesParser(_Message, policy=_Raw()).parsebytes(raw)
    except Exception:  # the parser's faults are not the sender's: the bytes are kept
        mail.files.append(whole)
        return mail
    mail.subject = header(message, "Subject")
    mail.origin, mail.name = address(_first(message, "From"))
    mail.sender = address(_first(message, "Reply-To"))[0]
    if not mail.sender or bare(mail.sender) == own:
        mail.sender = mail.origin
    mail.message_id = next(iter(ids(_first(message, "Message-ID"))), "")
    nearest = [*ids(_first(message, "In-Reply-To")), *reversed(ids(_first(message, "References")))]
    mail.references = tuple(dict.fromkeys(nearest))
    body = _Body()
    try:
        body.add(message)
    except Exception:  # the same
        mail.files.append(whole)
    mail.text = "\n\n".join(full for full, _ in body.texts).strip()[:READ]
    new = "\n\n".join(new for _, new in body.texts).strip()[:READ]
    forwarded = bool(_FORWARD_SUBJECT.match(mail.subject))
    mail.written = reply_text(mail.text if forwarded or not new else new, own, forwarded)
    mail.files += body.files
    return mail


# -- headers ---------------------------------------------------------------------------------------

_WORD = re.compile(r"=\?([^?\s*]+)(?:\*[^?]*)?\?([bBqQ])\?([^?]*)\?=")
_ID = re.compile(r"<[^<>\s]{1,240}@[^<>\s]{1,240}>")
_ANGLE = re.compile(r'<\s*((?:"(?:[^"\\]|\\.){1,64}"|[^<>\s@"]{1,64})@[^<>\s@,;]{1,255})\s*>')
_PLAIN = re.compile(r'("(?:[^"\\]|\\.){1,64}"|[^<>\s@,;:()"]{1,64})@([^<>\s@,;:()"]{1,255})')
_REPLY = re.compile(r"(?i)\s*(re|aw|sv|回复|回覆|答复|返信|trả lời|balas|rv)\s*(\[\d+\])?\s*[:：]")
_FORWARD_SUBJECT = re.compile(
    r"(?i)\s*(fwd?|tr|wg|enc|rv|转发|轉寄|转寄|転送|chuyển tiếp|fw)\s*[:：]"
)


def header(message: Message, name: str) -> str:
    """A header as text on one line, or ""."""
    return decode_words(_first(message, name))


def decode_words(value: str) -> str:
    """A raw header value as text: encoded words, undeclared bytes, folded lines.

    Own code: the library's decoder refuses a header whole for one broken word, and cannot read
    undeclared bytes beside encoded words.
    """
    value = re.sub(r"(\?=)[\r\n\t ]+(?==\?)", r"\1", value)
    value = re.sub(r"[\r\n]+[\t ]*", " ", value)
    shown: list[str] = []
    pending: tuple[str, bytes] = ("", b"")  # a character may be cut in two by neighbouring words

    def flush() -> None:
        nonlocal pending
        if pending[1]:
            shown.append(decode(pending[1], pending[0]))
        pending = ("", b"")

    at = 0
    for word in _WORD.finditer(value):
        between = value[at : word.start()]
        charset, kind, encoded = word[1].lower(), word[2].lower(), word[3]
        data = encoded.encode("ascii", "surrogateescape")
        if kind == "q":
            data = quopri.decodestring(data.replace(b" ", b"_"), header=True)
        else:
            with contextlib.suppress(binascii.Error, ValueError):
                data = b64decode(data + b"=" * (-len(data) % 4))
        if between or charset != pending[0]:
            flush()
            shown.append(_undeclared(between))
            pending = (charset, data)
        else:
            pending = (charset, pending[1] + data)
        at = word.end()
    flush()
    shown.append(_undeclared(value[at:]))
    return "".join(char for char in "".join(shown) if char.isprintable()).strip()


def address(value: str) -> tuple[str, str]:
    """The first address in a raw header and the name beside it; ("", "") if there is none.

    The address is looked for before words are decoded, so that a name cannot pose as one. Taken as
    it is: Japanese carriers have given out a..b.@… for years.
    """
    value = _undeclared(re.sub(r"[\r\n]+[\t ]*", " ", value[:5000]))
    found = _ANGLE.search(value)
    if found:
        return clean_address(found[1]), decode_words(value[: found.start()]).strip(' "')
    found = _PLAIN.search(value)
    if found is None:
        return "", ""
    comment = re.search(r"\(([^()]*)\)", value)
    return clean_address(found[0]), decode_words(comment[1]) if comment else ""


def clean_address(found: str) -> str:
    """An address in the form in which it is kept: lower case, without needless quotes."""
    local, _, domain = found.strip().rpartition("@")
    if re.fullmatch(r'"[^"\\\s@<>()]+"', local):
        local = local[1:-1]
    kept = f"{local}@{domain}".lower()
    printable = all(char.isprintable() and not "\ud800" <= char <= "\udfff" for char in kept)
    return kept if printable and local and domain else ""


def bare(found: str) -> str:
    """An address without what stands after a plus sign."""
    local, _, domain = found.lower().rpartition("@")
    return f"{local.partition('+')[0]}@{domain}"


def ids(value: str) -> list[str]:
    """The message ids in a raw header."""
    return [one for one in _ID.findall(value[:20_000]) if one.isascii()]


def _first(message: Message, name: str) -> str:
    return str(message.get(name) or "")


def _undeclared(value: str) -> str:
    if value.isascii() or not any("\udc80" <= char <= "\udcff" for char in value):
        return value
    return decode(value.encode("utf-8", "surrogateescape"), "")


# -- bodies and files ------------------------------------------------------------------------------

_BORING = {
    "application/pkcs7-signature",
    "application/x-pkcs7-signature",
    "application/pgp-signature",
}
"""Signatures say nothing to a counsellor."""


class _Message(Message):
    """A part of a mail."""


class _Body:
    """Texts (all, new) and files of a mail, in order."""

    def __init__(self) -> None:
        self.texts: list[tuple[str, str]] = []
        self.files: list[tuple[str, str, bytes]] = []

    def add(self, part: Message, depth: int = 0) -> None:
        """Take in a part with all that is in it."""
        kind = part.get_content_type()
        inside = part.get_payload()
        if isinstance(inside, list) and kind.startswith("multipart/") and depth < DEEPEST:
            children = [child for child in inside if isinstance(child, Message)]
            if kind == "multipart/alternative":
                self._choose(children, depth)
                return
            for child in children:
                self.add(child, depth + 1)
            return
        named = file_name(part)
        placed = str(part.get("Content-Disposition") or "").strip().lower()
        is_text = kind in {"text/plain", "text/html"} or kind.startswith("multipart/")
        first = not self.texts and not placed.startswith("attachment")
        if is_text and len(self.texts) < MOST_TEXTS and (first or not (named or placed[:1] == "a")):
            text = _text(part)
            if kind == "text/html":
                self.texts.append(html_text(text))
            elif text.strip():
                self.texts.append((text, text))
            return
        if len(self.files) >= MOST_FILES:
            return
        data = _bytes(part)
        shown = placed.startswith("inline") or part.get("Content-ID")
        pixel = kind.startswith("image/") and shown and len(data) <= TRACKING
        if data and not pixel and kind not in _BORING:
            self.files.append((named or _name(part, kind), kind, data))

    def _choose(self, children: list[Message], depth: int) -> None:
        """The same in several forms: plain text if it has any, else HTML; files of all forms."""
        chosen: list[tuple[str, str]] = []
        for child in children:
            form = _Body()
            form.add(child, depth + 1)
            self.files += form.files
            if not any(full.strip() for full, _ in chosen):
                chosen = form.texts
        self.texts += chosen


def _text(part: Message) -> str:
    data = part.get_payload(decode=True)
    if not isinstance(data, bytes):
        return ""
    declared = _parameter(part, "charset", "content-type")
    if not declared and part.get_content_type() == "text/html":
        meta = re.search(rb"(?i)<meta[^>]{1,200}charset\s*=\s*[\"']?([\w-]{2,30})", data[:4000])
        declared = meta[1].decode() if meta else ""
    text = decode(data, declared).replace("\r\n", "\n").replace("\r", "\n")
    if _parameter(part, "format", "content-type").lower() == "flowed":
        text = _flowed(text, _parameter(part, "delsp", "content-type").lower() == "yes")
    return text[: READ * 5 if part.get_content_type() == "text/html" else READ]  # styles, tags


def _flowed(text: str, joined: bool) -> str:
    """Lines that a mail program broke (RFC 3676) made whole, so that no word stays cut in two."""
    lines: list[str] = []
    soft = False
    for line in text.split("\n"):
        quoted = line.startswith(">")
        shown = line if quoted else line.removeprefix(" ")
        if soft and not quoted and line != "-- ":
            lines[-1] += shown
        else:
            lines.append(shown)
        soft = line.endswith(" ") and line != "-- " and not quoted
        if soft and joined:
            lines[-1] = lines[-1][:-1]
    return "\n".join(lines)


def _bytes(part: Message) -> bytes:
    inside = part.get_payload()
    if isinstance(inside, list):
        child = next((one for one in inside if isinstance(one, Message)), None)
        with contextlib.suppress(Exception):  # a part that cannot be written out as it was
            return b"" if child is None else child.as_bytes()
        return b""
    data = part.get_payload(decode=True)
    return data if isinstance(data, bytes) else b""


def file_name(part: Message) -> str:
    """The name of a file, in whichever of the four ways it was encoded; "" if there is none."""
    return _parameter(part, "filename", "content-disposition") or _parameter(
        part, "name", "content-type"
    )


def _parameter(part: Message, name: str, where: str) -> str:
    try:
        value = part.get_param(name, "", where)
    except Exception:  # parameters that the parser trips over
        return ""
    if isinstance(value, tuple):
        return decode(value[2].encode("latin-1", "replace"), value[0] or "")
    return decode_words(str(value))


def _name(part: Message, kind: str) -> str:
    if kind == "message/rfc822":
        inside = part.get_payload()
        child = inside[0] if isinstance(inside, list) and inside else None
        subject = header(child, "Subject") if isinstance(child, Message) else ""
        return f"{subject[:60] or 'message'}.eml"
    return {"text/calendar": "invitation.ics", "application/ms-tnef": "winmail.dat"}.get(kind, "")


# -- HTML ------------------------------------------------------------------------------------------

_HIDDEN = re.compile(
    r"(?i)display\s*:\s*none|visibility\s*:\s*hidden|mso-hide\s*:\s*all|"
    r"(font-size|max-height|opacity)\s*:\s*0(px|pt|em|%)?\s*(;|!|$)"
)
_QUOTED_PARTS = (
    "//blockquote[@type='cite' or contains(@class, 'gmail_quote')]",
    "//*[contains(@class, 'gmail_quote') or contains(@class, 'yahoo_quoted')]",
    "//*[contains(@class, 'moz-cite-prefix') or contains(@class, 'protonmail_quote')]",
    "//includetail",
)
_CUT_AFTER = "//*[@id='divRplyFwdMsg' or @id='appendonsend' or @id='stopSpelling']"


def html_text(page: str) -> tuple[str, str]:
    """HTML as text, without what a reader would not see: all of it, and without quoted history."""
    page = re.sub(r"^\s*<\?xml[^>]*>", "", page.replace("\x00", ""))
    with contextlib.suppress(Exception):  # no HTML, or nested beyond what the parser takes
        full, new = _visible(page)
        if full:
            return full, new
    for tag in ("script", "style", "head"):
        end = page.find(">", max(0, page.lower().rfind(f"</{tag}"))) + 1  # so that it is linear
        page = re.sub(rf"(?is)<{tag}\b.*?</{tag}[^>]{{0,9}}>", " ", page[:end]) + page[end:]
    text = re.sub(r"<[^<>]{0,2000}>", " ", page).strip()  # the tags go, the words stay
    return text, text


def _visible(page: str) -> tuple[str, str]:
    tree = lxml_html.document_fromstring(page)
    for gone in tree.xpath("//script | //style | //head | //title | //comment()"):
        gone.drop_tree()
    for styled in tree.xpath("//*[@style] | //*[@hidden]"):
        hidden = styled.get("hidden") is not None or _HIDDEN.search(styled.get("style", ""))
        if hidden and styled.getparent() is not None and styled.tag not in {"html", "body"}:
            styled.drop_tree()
    full = _rendered(tree)
    for quoted in [one for path in _QUOTED_PARTS for one in tree.xpath(path)]:
        if quoted.getparent() is not None and not is_forward(quoted.text_content()):
            quoted.drop_tree()
    for mark in tree.xpath(_CUT_AFTER):
        for after in list(mark.itersiblings()):
            after.drop_tree()
        if mark.getparent() is not None:
            mark.drop_tree()
    return full, _rendered(tree)


def _rendered(tree: lxml_html.HtmlElement) -> str:
    text = str(Inscriptis(tree).get_text())
    return re.sub(r"\n{3,}", "\n\n", text.replace("\xa0", " ")).strip()
