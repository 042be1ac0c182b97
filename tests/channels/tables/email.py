"""E-mail: raw mails in over SMTP, mails out to a relay that is as strict as relays are."""

import asyncio
import smtplib
from collections.abc import Callable, Sequence
from dataclasses import replace
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import httpx

from channels.context import ChannelContext
from channels.email import Email, EmailSettings, token
from channels.log import open_conversation
from channels.media import MediaStore
from channels.message import (
    Channel,
    Notice,
    OutboundMessage,
    Receipt,
    RejectedError,
    TemporarySendError,
)
from tests.channels.vendors import Cut, Status
from tests.channels.vendors.smtp import PASSWORD, USER, Answer, Relay, read
from tests.channels.world import Incoming, Outgoing, Request
from tests.stories.running import free_port

MAILS = Path(__file__).parent.parent / "mails"
DESK = "desk@desk.example.org"
MAI = "mai@example.org"
"""She has conversation 1 already."""
NUMBER = "0123456789abcdef01234567"
LIMIT = 64 * 1024


class World:
    """The desk's SMTP server, and a relay for what it sends."""

    name = "email"
    secrets: Sequence[str] = (PASSWORD,)

    def vendor(self) -> Relay:
        return Relay()

    def environment(self, vendor: Relay) -> dict[str, str]:
        return {
            "BOT_MAIL_ADDRESS": DESK,
            "BOT_SMTP_RELAY": vendor.url,
            "BOT_SMTP_RELAY_USER": USER,
            "BOT_SMTP_RELAY_PASSWORD": PASSWORD,
        }

    def open(self, context: ChannelContext, vendor: Relay) -> Channel:
        context.database.write_now(open_conversation, "email", MAI)
        settings = context.settings.model_copy(
            update={
                "mail_address": DESK,
                "smtp_port": free_port(),
                "smtp_relay": vendor.url,
                "smtp_relay_user": USER,
                "smtp_relay_password": type(context.settings.data_key)(PASSWORD),
            }
        )
        media = MediaStore(context.media.folder, LIMIT, context.media.url)
        own = EmailSettings(_env_file=None, mail_authserv_id="mx.desk.example.org")  # type: ignore[call-arg]
        return Email(replace(context, settings=settings, media=media), own)

    async def deliver(self, stage: Any, request: Request) -> httpx.Response:
        """Over SMTP; the answer as HTTP would give it."""
        return await asyncio.to_thread(_post, stage.channel.settings.smtp_port, request)

    def hears(self, who: str, text: str, key: str) -> Request:
        return post(mail(text, From=f"{who}@example.net", Message_ID=f"<{key}@example.net>"))

    def said(self, vendor: Relay) -> list[tuple[str, str]]:
        return [(str(one["To"]), words(one)) for one in vendor.mails()]

    def body(self, call_body: bytes) -> EmailMessage:
        return read(call_body)

    def signed(self, payload: Any) -> tuple[Request, str]:
        fields = payload if isinstance(payload, dict) else {"body": payload}
        lines = [f"{name}: {value}" for name, value in fields.items() if name != "body"]
        raw = "\r\n".join([*lines, "", str(fields.get("body", ""))])
        return post(raw.encode("utf-8", "surrogatepass")), ""


def _post(port: int, request: Request) -> httpx.Response:
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
        client.ehlo("test")
        size = [f"SIZE={request.headers['size']}"] if "size" in request.headers else []
        utf8 = ["SMTPUTF8"] if not str(request.headers).isascii() else []
        client.command_encoding = "utf-8"
        replies = [client.mail(request.headers.get("from", "bounce@example.net"), [*size, *utf8])]
        for recipient in request.headers.get("to", DESK).split():
            replies.append(client.rcpt(recipient))
        if all(code == 250 for code, _ in replies):
            try:
                replies.append(client.data(request.body))
            except smtplib.SMTPDataError as error:
                replies.append((error.smtp_code, bytes(error.smtp_error)))  # type: ignore[arg-type]
    code, text = replies[-1]
    status = {2: 200, 4: 503, 5: 422}[code // 100]
    return httpx.Response(status, text=f"{code} {text.decode()}")


def post(raw: bytes, **envelope: str) -> Request:
    """A mail on its way to the desk; `from_`, `to`, `size` of its envelope where they matter."""
    return Request("smtp", raw, {name.rstrip("_"): value for name, value in envelope.items()})


def mail(body: str | bytes = "help", **headers: str) -> bytes:
    """A raw mail; headers with _ for -, an empty one is left out."""
    defaults = {
        "From": "Lan <lan@example.net>",
        "To": DESK,
        "Message_ID": "<one@example.net>",
        "Content_Type": "text/plain; charset=utf-8",
    }
    lines = [
        f"{name.replace('_', '-')}: {value}"
        for name, value in {**defaults, **headers}.items()
        if value
    ]
    data = body.encode() if isinstance(body, str) else body
    return "\r\n".join([*lines, "", ""]).encode() + data.replace(b"\n", b"\r\n")


def words(one: EmailMessage) -> str:
    """The text of a mail without the footer."""
    part = one.get_body(("plain",))
    assert part is not None
    text = str(part.get_content()).replace("\r\n", "\n")
    return text.partition("\n-- \n")[0].strip()


class Has:
    """Equal to every text that has these pieces and not those after `without`."""

    def __init__(self, *pieces: str, without: Sequence[str] = ()) -> None:
        self.pieces, self.without = pieces, without

    def __eq__(self, other: object) -> bool:
        text = str(other)
        return all(one in text for one in self.pieces) and not any(
            one in text for one in self.without
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Has{self.pieces}"


def kept(name: str, **wanted: Any) -> Incoming:
    """A row for one of the raw mails; what is read of them all is in mails.yaml."""
    return Incoming(f"mail {name}", post((MAILS / f"{name}.eml").read_bytes()), messages=[wanted])


def to_mai(raw: Callable[[], bytes] | bytes, **envelope: str) -> Callable[[], Request]:
    """To the reply address of conversation 1."""

    def made() -> Request:
        body = raw() if callable(raw) else raw
        return post(body, to=f"desk+{token(1)}@desk.example.org", **envelope)

    return made


def ours() -> str:
    """The Message-ID of a mail of the desk to Mai."""
    return f"<{NUMBER}.{token(1)}@desk.example.org>"


def bounce(action: str, status: str, original: str | None = None, **headers: str) -> bytes:
    """A report as RFC 3464 has it."""
    original = ours() if original is None else original
    body = (
        "--b\nContent-Type: text/plain\n\nSorry.\n"
        "--b\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; mx.example.net\n\n"
        f"Final-Recipient: rfc822; {MAI}\nAction: {action}\nStatus: {status}\n"
        f"Diagnostic-Code: smtp; 550 {status} <{MAI}> unknown\n\n"
        f"--b\nContent-Type: message/rfc822\n\nFrom: {DESK}\nTo: {MAI}\n"
        f"In-Reply-To: <999999999999999999999999.c1x0000000000000000@desk.example.org>\n"
        f"Message-ID: {original}\n\nwords\n--b--\n"
    )
    kind = "multipart/report; report-type=delivery-status; boundary=b"
    return mail(body, From="MAILER-DAEMON@example.net", Content_Type=kind, **headers)


def failed(reason: str) -> Callable[[], Sequence[Notice]]:
    return lambda: [Receipt("email", "failed", ours(), reason=reason)]


OTHER = "Mai <mai.private@example.com>"
REPORT = "spf=pass smtp.mailfrom=example.net; dkim=pass (2048) header.d=example.net; dmarc={}"


def proven(server: str, dmarc: str) -> str:
    return f"{server}; {REPORT.format(dmarc)} header.from=example.net"


def attached(count: int, size: int = 10) -> bytes:
    part = '--b\nContent-Type: text/plain; name="{0}.txt"\nContent-Disposition: attachment\n\n{1}\n'
    parts = "".join(part.format(n, ("x" * 70 + "\n") * (size // 70 + 1)) for n in range(count))
    return mail(f"--b\n\nsee files\n{parts}--b--\n", Content_Type="multipart/mixed; boundary=b")


NOTHING: dict[str, Any] = {"messages": []}

WORLD = World()

INCOMING = [
    # -- what a mail becomes
    Incoming(
        "a first mail: the subject belongs to what she says",
        post(
            mail("Công ty nợ em", Subject="=?utf-8?B?TMawxqFuZw==?=", From="Thùy <T@Example.net>")
        ),
        messages=[
            {
                "external_id": "t@example.net <one@example.net>",
                "address": "t@example.net",
                "name": "Thùy",
                "text": "Lương\n\nCông ty nợ em",
                "kind": "text",
                "thread": {
                    "subject": "Lương",
                    "in_reply_to": "<one@example.net>",
                    "references": ["<one@example.net>"],
                },
                "original": Has("From: Thùy <t@example.net>", "Subject: Lương", "not checked"),
            }
        ],
    ),
    Incoming(
        "a command alone in the body stays a command",
        post(mail("STOP", Subject="please")),
        messages=[{"text": "STOP"}],
    ),
    Incoming(
        "a number alone in the body stays a choice",
        post(mail("2", Subject="answer")),
        messages=[{"text": "2"}],
    ),
    Incoming(
        "in a reply the subject is only history",
        post(mail("Chưa", Subject="Re: Lương", In_Reply_To="<a@b>", References="<c@d> <a@b>")),
        messages=[
            {
                "text": "Chưa",
                "thread": {
                    "subject": "Re: Lương",
                    "in_reply_to": "<one@example.net>",
                    "references": ["<c@d>", "<a@b>", "<one@example.net>"],
                },
            }
        ],
    ),
    Incoming("nothing but a subject", post(mail("", Subject="HELP")), messages=[{"text": "HELP"}]),
    Incoming("nothing at all", post(mail("", Subject="(no subject)")), messages=[{"text": ""}]),
    Incoming(
        "no Message-ID: its bytes name it",
        post(mail("help", Message_ID="")),
        messages=[{"external_id": Has("lan@example.net <", "@none>"), "thread": {"subject": ""}}],
    ),
    Incoming(
        "no From: the envelope tells",
        post(mail("help", From=""), from_="lan@example.net"),
        messages=[{"address": "lan@example.net"}],
    ),
    Incoming("no sender anywhere", post(mail("help", From=""), from_=""), **NOTHING),
    Incoming(
        "an address beyond ASCII",
        post(mail("help", From="Đạt <đạt@ví-dụ.vn>"), from_="đạt@ví-dụ.vn"),
        messages=[{"address": "đạt@ví-dụ.vn", "name": "Đạt"}],
    ),
    Incoming(
        "an address as carriers gave them out",
        post(mail("help", From="a..b.@docomo.ne.jp"), from_="a..b.@docomo.ne.jp"),
        messages=[{"address": "a..b.@docomo.ne.jp"}],
    ),
    Incoming(
        "Reply-To is where answers go",
        post(mail("help", Reply_To="<private@example.com>")),
        messages=[
            {
                "address": "private@example.com",
                "original": Has("From: Lan <lan@example.net>", "Reply-To: private@example.com"),
            }
        ],
    ),
    Incoming(
        "a line far longer than allowed",
        post(mail("a" * 20_000 + " help")),
        messages=[{"text": Has("help")}],
    ),
    kept("gmail_burmese", text="လစာ မရသေးပါဘူး။ ကူညီပါ။", original=Has("ရေးခဲ့သည်")),
    kept("docomo", address="a..b.@docomo.ne.jp", text="相談\n\n給料が出ません。\n助けてください。"),
    kept("iphone_japanese", text="社長に なぐられました。"),
    kept("forward_gmail", text=Has("Leave the dorm tonight", "Fwd: dorm")),
    kept("files", attachments=4, text="給与明細です。", kind="text"),
    kept("photo_as_answer", attachments=1, text="", kind="file"),
    kept("encrypted", attachments=1, text="", kind="file"),
    # -- whose conversation it is
    Incoming(
        "her reply to the address that we gave her",
        to_mai(mail("yes", From=MAI)),
        messages=[{"address": MAI, "name": ""}],
    ),
    Incoming(
        "her reply from another address: hers by token, answered where we know her",
        to_mai(mail("yes", From=OTHER, Subject="evil words")),
        messages=[
            {
                "address": MAI,
                "name": "",
                "thread": {},
                "original": Has("Mai <mai.private@example.com>", f"answers go to {MAI}"),
            }
        ],
    ),
    Incoming(
        "a token in our Message-ID is enough, where plus addresses are lost",
        lambda: post(mail("yes", From=OTHER, References=f"<x@y> {ours()}")),
        messages=[{"address": MAI}],
    ),
    Incoming(
        "a token that is not ours: ordinary mail",
        post(mail("yes", From=OTHER), to=f"desk+c1x{'0' * 16}@desk.example.org"),
        messages=[{"address": "mai.private@example.com"}],
    ),
    Incoming(
        "a token of another domain: ordinary mail",
        lambda: post(mail("yes", From=OTHER, In_Reply_To=f"<1.{token(1)}@evil.example>")),
        messages=[{"address": "mai.private@example.com"}],
    ),
    Incoming(
        "a token of a conversation that was erased: ordinary mail",
        lambda: post(mail("yes", From=OTHER), to=f"desk+{token(77)}@desk.example.org"),
        messages=[{"address": "mai.private@example.com"}],
    ),
    Incoming(
        "a subject alone joins nobody",
        post(mail("yes", From=OTHER, Subject="Re: Your question to the consultation desk")),
        messages=[{"address": "mai.private@example.com"}],
    ),
    Incoming(
        "a person writes to desk+anything@",
        post(mail("help"), to="DESK+x=y@Desk.example.org"),
        messages=[{"address": "lan@example.net"}],
    ),
    # -- what is refused
    Incoming("another mailbox", post(mail(), to="root@desk.example.org"), 422),
    Incoming("another domain: no open relay", post(mail(), to="desk@example.com"), 422),
    Incoming("too big, as announced", post(mail(), size="99999999"), 422),
    Incoming("too big, as it turns out", post(mail("a" * 70 + "\n") * 20_000), 422),
    Incoming("round and round", post(mail("x", Received="a\r\nReceived: a" * 50)), 422),
    # -- who sent it
    Incoming(
        "our mail server has looked",
        post(mail(Authentication_Results=proven("mx.desk.example.org", "pass"))),
        messages=[
            {"original": Has("Authentication: SPF pass, DKIM pass (example.net), DMARC pass")}
        ],
    ),
    Incoming(
        "the sender says that it looked",
        post(mail(Authentication_Results=proven("mx.evil.example", "pass"))),
        messages=[{"original": Has("Authentication: not checked")}],
    ),
    Incoming(
        "the topmost result counts",
        post(
            mail(
                Authentication_Results="mx.desk.example.org; dmarc=fail\r\n"
                "Authentication-Results: " + proven("mx.desk.example.org", "pass")
            )
        ),
        messages=[{"original": Has("DMARC fail"), "thread": {}}],
    ),
    Incoming(
        "a forgery of a known worker leaves no words in her thread",
        post(
            mail(
                From=MAI,
                Subject="evil",
                Authentication_Results=proven("mx.desk.example.org", "fail"),
            )
        ),
        messages=[{"address": MAI, "thread": {}, "name": "", "original": Has("DMARC fail")}],
    ),
    # -- machines
    *(
        Incoming(f"a machine: {label}", post(mail("I am away", **headers), from_=sender), **NOTHING)
        for label, headers, sender in [
            ("auto-replied", {"Auto_Submitted": "auto-replied"}, "x@example.net"),
            ("auto-generated", {"Auto_Submitted": "auto-generated; x=y"}, "x@example.net"),
            ("bulk", {"Precedence": "bulk"}, "x@example.net"),
            ("list", {"List_Id": "<news.example.net>"}, "x@example.net"),
            ("newsletter", {"List_Unsubscribe": "<mailto:x@y>"}, "x@example.net"),
            ("marked", {"X_Autoreply": "yes"}, "x@example.net"),
            ("our own loop", {"X_Loop": DESK}, "x@example.net"),
            ("no return path", {}, ""),
            ("no-reply", {"From": "no-reply@example.net"}, "x@example.net"),
            ("our own mail comes back", {"From": DESK}, "x@example.net"),
            ("our own envelope comes back", {}, "desk+x@desk.example.org"),
        ]
    ),
    Incoming(
        "Auto-Submitted: no is a person",
        post(mail("help", Auto_Submitted="no")),
        messages=[{"kind": "text"}],
    ),
    Incoming(
        "an out-of-office note of somebody we know is kept, not answered",
        to_mai(mail("I am away. Call 110.", From=MAI, Auto_Submitted="auto-replied"), from_=""),
        messages=[{"address": MAI, "kind": "automatic", "thread": {}}],
    ),
    Incoming(
        "an unmarked out-of-office note of somebody we know",
        post(mail("外出中", From=MAI, Subject="=?utf-8?B?6Ieq5YuV6L+U5L+h?=: x"), from_=MAI),
        messages=[{"address": MAI, "kind": "automatic"}],
    ),
    Incoming(
        "weak signs silence nobody who is new",
        post(mail("help", X_Loop="x@example.net", Feedback_ID="x:Fastmail")),
        messages=[{"kind": "text"}],
    ),
    Incoming(
        "somebody new may write about an out-of-office note",
        post(mail("help", Subject="Automatic reply from my boss")),
        messages=[{"kind": "text"}],
    ),
    # -- what became of our mails
    Incoming(
        "a bounce",
        to_mai(lambda: bounce("failed", "5.1.1"), from_=""),
        notices=failed("returned: 5.1.1 no such address"),
    ),
    Incoming(
        "a bounce: mailbox full",
        lambda: post(bounce("failed", "5.2.2"), from_=""),
        notices=failed("returned: 5.2.2 the mailbox is full"),
    ),
    Incoming(
        "a bounce without the original: the address that it came to tells",
        lambda: post(
            bounce("failed", "5.7.1", ""),
            from_="",
            to=f"desk+{token(1)}.{NUMBER}@desk.example.org",
        ),
        notices=failed("returned: 5.7.1 refused by the receiving server"),
    ),
    Incoming(
        "a bounce of a server that knows no standard",
        lambda: post(
            mail(
                f"550 Unknown user {MAI}\n\nMessage-ID: {ours()}\n",
                From="MAILER-DAEMON@docomo.ne.jp",
            ),
            from_="",
        ),
        notices=failed("returned: 550"),
    ),
    Incoming("a delay", lambda: post(bounce("delayed", "4.4.1"), from_="")),
    Incoming(
        "a delivery report",
        lambda: post(bounce("delivered", "2.0.0"), from_=""),
        notices=lambda: [Receipt("email", "delivered", ours())],
    ),
    Incoming(
        "a bounce that does not know our Message-ID is not believed",
        post(bounce("failed", "5.1.1", f"<{NUMBER}.c1x{'0' * 16}@desk.example.org>"), from_=""),
    ),
    Incoming(
        "a read receipt",
        lambda: post(
            mail(
                "--b\n\nread\n--b\nContent-Type: message/disposition-notification\n\n"
                "Disposition: manual-action/MDN-sent-manually; displayed\n"
                f"Original-Message-ID: {ours()}\n\n--b\nContent-Type: text/rfc822-headers\n\n"
                f"Message-ID: {ours()}\n\n--b--\n",
                Content_Type="multipart/report; report-type=disposition-notification; boundary=b",
            )
        ),
        notices=lambda: [Receipt("email", "read", ours())],
    ),
    Incoming(
        "a worker who sends on a bounce is no bounce",
        lambda: post(
            mail(
                "--b1\n\nwhat is this?\n--b1\nContent-Type: message/rfc822\n\n"
                + bounce("failed", "5.1.1").decode().replace("\r\n", "\n")
                + "\n--b1--\n",
                Content_Type="multipart/mixed; boundary=b1",
            )
        ),
        messages=[{"text": "what is this?", "attachments": 1}],
    ),
    # -- files
    Incoming("more files than are kept", post(attached(23)), messages=[{"attachments": 23}]),
    Incoming(
        "a file that is too big is named, the mail is taken",
        post(attached(1, LIMIT + 100)),
        messages=[{"text": "see files", "attachments": 1}],
    ),
    Incoming(
        "a mail that is built to break readers is kept as a file",
        post(mail("Content-Type: multipart/mixed; boundary=x\n\n--x\n" * 2000, Subject="hi")),
        messages=[{"attachments": 1, "text": Has("hi")}],
    ),
]


def say(text: str = "Xin chào", **more: Any) -> OutboundMessage:
    """A message of the desk to Mai."""
    return OutboundMessage(**{"key": "7/1", "address": MAI, "language": "vi", "text": text, **more})


def taken(check: Callable[[EmailMessage], bool] = lambda _: True, to: str = MAI) -> Any:
    """A mail that the relay took, sent in the name of conversation 1."""
    return lambda method, path, body: method == "MAIL" and path == to and check(body)


def refused(command: str) -> Any:
    """A dialogue that ended with this command."""
    return lambda method, _path, _body: method == command


def html(one: EmailMessage) -> str:
    part = one.get_body(("html",))
    return str(part.get_content()) if part is not None else ""


OUTLOOK = f"<{'T' * 40}{'A' * 40}@TYZPR01MB1234.apcprd01.prod.exchangelabs.com>"
THREAD = {
    "subject": "Lương",
    "in_reply_to": OUTLOOK,
    "references": ["<first@example.net>", OUTLOOK],
}

OUTGOING = [
    Outgoing(
        "an answer of the bot",
        [say()],
        [
            taken(
                lambda one: (
                    one["Subject"] == "Câu hỏi của bạn gửi ban tư vấn"
                    and one["Auto-Submitted"] == "auto-replied"
                    and one["Reply-To"] == f"desk+{token(1)}@desk.example.org"
                    and f".{token(1)}@desk.example.org>" in one["Message-ID"]
                    and one.get_content_type() == "multipart/alternative"
                    and words(one) == "Xin chào"
                    and '<p dir="auto">Xin chào</p>' in html(one)
                    and one["Content-Language"] == "vi"
                )
            )
        ],
    ),
    Outgoing(
        "in her thread, with ids that are longer than a line",
        [say(thread=THREAD)],
        [
            taken(
                lambda one: (
                    one["Subject"] == "Re: Lương"
                    and one["In-Reply-To"] == OUTLOOK
                    and one["References"].split() == ["<first@example.net>", OUTLOOK]
                )
            )
        ],
    ),
    Outgoing(
        "a subject that is a reply already stays",
        [say(thread={"subject": "RE: 相談"})],
        [taken(lambda one: one["Subject"] == "RE: 相談" and one["In-Reply-To"] is None)],
    ),
    Outgoing(
        "a subject cannot bring in a header",
        [say(thread={"subject": "a\r\nBcc: x@example.net" + "長" * 300})],
        [taken(lambda one: one["Bcc"] is None and one["Subject"].startswith("Re: a Bcc:"))],
    ),
    Outgoing(
        "all replies of a turn are one mail",
        [say("one"), say("two", key="8/1"), say("မင်္ဂလာပါ", key="9/1")],
        [taken(lambda one: words(one) == "one\n\ntwo\n\nမင်္ဂလာပါ")],
    ),
    Outgoing(
        "a counsellor's words and files",
        [say("Please sign", from_counsellor=True)],
        [
            taken(
                lambda one: (
                    one["Auto-Submitted"] is None
                    and [part.get_filename() for part in one.iter_attachments()]
                    == ["契約 書.pdf", "x.eml"]
                    and next(one.iter_attachments()).get_content_type() == "application/pdf"
                )
            )
        ],
        files=[("契約 書.pdf", b"%PDF-1.4 x"), ("x.eml", b"From: a@b\n\nx\x00")],
    ),
    Outgoing(
        "links and numbers can be pressed, nothing else is HTML",
        [say("<b>Call 0120-279-889</b>, see https://example.org/a?b=1&c=2.\nOn 2026-11-23-01")],
        [
            taken(
                lambda one: (
                    '<a href="tel:0120279889">0120-279-889</a>' in html(one)
                    and '<a href="https://example.org/a?b=1&amp;c=2">' in html(one)
                    and "&lt;b&gt;" in html(one)
                    and html(one).count("<a ") == 2
                    and "src=" not in html(one)
                )
            )
        ],
    ),
    Outgoing(
        "an address as carriers gave them out",
        [say(address="a..b.@docomo.ne.jp")],
        [taken(lambda one: '"a..b."@docomo.ne.jp' in one.as_string(), to="a..b.@docomo.ne.jp")],
    ),
    Outgoing(
        "an address beyond ASCII",
        [say(address="đạt@ví-dụ.vn")],
        [taken(to="đạt@ví-dụ.vn")],
    ),
    Outgoing(
        "easy Japanese is Japanese",
        [say("やさしい", language="ja-easy")],
        [taken(lambda one: one["Content-Language"] == "ja")],
    ),
    *(
        Outgoing(
            f"relay: {command} {reply}",
            [say()],
            [refused(method)],
            [Answer(command, reply)],
            error=error,
        )
        for command, reply, method, error in [
            ("MAIL", "451 4.7.1 greylisted", "MAIL", TemporarySendError),
            ("MAIL", "550 5.7.1 sender not allowed", "MAIL", TemporarySendError),
            ("MAIL", "530 5.7.0 authentication required", "MAIL", TemporarySendError),
            ("RCPT", "550 5.1.1 no such user", "RCPT", RejectedError),
            ("RCPT", "450 4.2.1 mailbox busy", "RCPT", TemporarySendError),
            ("RCPT", "452 4.2.2 mailbox full", "RCPT", TemporarySendError),
            ("RCPT", "554 5.7.1 relay access denied", "RCPT", TemporarySendError),
            ("DATA", "451 4.3.0 disk full", "MAIL", TemporarySendError),
            ("DATA", "554 5.7.1 looks like spam", "MAIL", RejectedError),
            ("DATA", "552 5.3.4 too big", "MAIL", RejectedError),
            ("DATA", "421 4.3.2 closing", "MAIL", TemporarySendError),
        ]
    ),
    Outgoing("wrong password", [say()], [refused("AUTH")], [Status(401)], error=TemporarySendError),
    Outgoing("too fast", [say()], [taken()], [Status(429)], error=TemporarySendError),
    Outgoing("the connection breaks", [say()], [taken()], [Cut()], error=TemporarySendError),
    Outgoing(
        "a file larger than the relay takes",
        [say("big")],
        [],
        files=[("big.bin", b"\x00" * 300_000)],
        error=RejectedError,
    ),
]

PAYLOADS = [
    {
        "From": "Lan <lan@example.net>",
        "To": DESK,
        "Subject": "=?iso-2022-jp?B?GyRCO0RCchsoQg==?=",
        "Message-ID": "<fuzz@example.net>",
        "References": "<a@b> <c@d>",
        "Content-Type": "multipart/mixed; boundary=b",
        "Content-Transfer-Encoding": "7bit",
        "Content-Disposition": "inline; filename*0*=utf-8''a",
        "Authentication-Results": proven("mx.desk.example.org", "pass"),
        "body": "--b\r\nContent-Type: text/html\r\n\r\n<p>hi</p>\r\n--b--\r\n",
    },
    {
        "From": "MAILER-DAEMON@example.net",
        "Reply-To": '"a" <x@example.net>',
        "Auto-Submitted": "no",
        "Content-Type": "multipart/report; report-type=delivery-status; boundary=b",
        "body": "--b\r\nContent-Type: message/delivery-status\r\n\r\nAction: failed\r\n\r\n--b--",
    },
]
