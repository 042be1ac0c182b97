"""Mail as it comes: over real SMTP into the running desk, and out to a real relay."""

import asyncio
import base64
import contextlib
import email.policy
import smtplib
import time
from collections.abc import Iterator
from email.message import EmailMessage
from email.parser import BytesParser
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from channels.email import body_text, is_automatic, parse, reply_text
from tests.stories.running import RunningDesk, free_port


class Relay:
    """A mail relay that keeps what it takes; `answer` is what it says to the next mails."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.answer = "250 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        if self.answer.startswith("250"):
            parsed = BytesParser(policy=email.policy.default).parsebytes(envelope.content)
            assert isinstance(parsed, EmailMessage)
            self.mails.append(parsed)
        return self.answer

    def wait(self, count: int, patience: float = 30) -> list[EmailMessage]:
        deadline = time.monotonic() + patience
        while len(self.mails) < count:
            assert time.monotonic() < deadline, f"{len(self.mails)} of {count} mails came"
            time.sleep(0.05)
        return self.mails


@pytest.fixture(scope="module")
def relay() -> Iterator[Relay]:
    handler = Relay()
    controller = Controller(handler, hostname="127.0.0.1", port=free_port())
    controller.start()
    handler.port = controller.port  # type: ignore[attr-defined]
    yield handler
    controller.stop()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, relay: Relay) -> Iterator[RunningDesk]:
    settings = {"BOT_SMTP_RELAY": f"127.0.0.1:{relay.port}"}  # type: ignore[attr-defined]
    with RunningDesk(tmp_path_factory.mktemp("desk"), settings) as running:
        yield running


def post(desk: RunningDesk, raw: bytes, sender: str = "thuy@example.org", to: str = "") -> Any:
    with smtplib.SMTP("127.0.0.1", desk.smtp_port) as client:
        return client.sendmail(sender, [to or "desk@localhost"], raw)


def mail(text: str, **headers: str) -> bytes:
    message = EmailMessage(policy=email.policy.SMTP)
    defaults = {
        "From": "Thùy <thuy@example.org>",
        "To": "desk@localhost",
        "Subject": "Lương",
        "Message-ID": f"<{time.monotonic_ns()}@example.org>",
    }
    for name, value in {**defaults, **{k.replace("_", "-"): v for k, v in headers.items()}}.items():
        message[name] = value
    message.set_content(text)
    return message.as_bytes()


def test_a_question_is_answered_in_its_thread(desk: RunningDesk, relay: Relay) -> None:
    before = len(relay.mails)
    post(desk, mail("Công ty nợ lương tôi 2 tháng", Message_ID="<one@example.org>"))
    answer = relay.wait(before + 1)[-1]
    assert answer["To"] == "thuy@example.org"
    assert answer["Subject"] == "Re: Lương"
    assert answer["In-Reply-To"] == "<one@example.org>"
    assert "<one@example.org>" in str(answer["References"])
    assert answer["Auto-Submitted"] == "auto-replied"
    body = answer.get_content()
    assert "ban tư vấn" in body
    assert "1. " in body  # choices are numbered: mail has no buttons


def test_the_same_mail_twice_is_one_message(desk: RunningDesk, relay: Relay) -> None:
    raw = mail("xin chào", Message_ID="<twice@example.org>", From="hai@example.org")
    before = len(relay.mails)
    post(desk, raw)
    post(desk, raw)
    relay.wait(before + 1)
    post(desk, mail("cảm ơn", From="ba@example.org"))
    relay.wait(before + 2)
    to = [m["To"] for m in relay.mails[before:]]
    assert to == ["hai@example.org", "ba@example.org"]


def test_two_strangers_with_one_subject_stay_apart(desk: RunningDesk, relay: Relay) -> None:
    before = len(relay.mails)
    for sender in ("a@example.org", "b@example.org"):
        post(desk, mail("xin chào", From=sender, Subject="Help"), sender)
    found = relay.wait(before + 2)[before:]
    assert {m["To"] for m in found} == {"a@example.org", "b@example.org"}


NEVER_ANSWERED = [
    {"Auto_Submitted": "auto-replied"},
    {"Auto_Submitted": "auto-generated; x=y"},
    {"Precedence": "bulk"},
    {"List_Id": "<news.example.org>"},
    {"X_Autoreply": "yes"},
]


def test_machines_are_never_answered(desk: RunningDesk, relay: Relay) -> None:
    before = len(relay.mails)
    for headers in NEVER_ANSWERED:
        post(desk, mail("I am on holiday", From="robot@example.org", **headers))
    post(desk, mail("bounce", From="mailer-daemon@example.org"), sender="")
    post(desk, mail("xin chào", From="last@example.org"))
    relay.wait(before + 1)
    assert [m["To"] for m in relay.mails[before:]] == ["last@example.org"]


@pytest.mark.parametrize("to", ["someone@example.com", "desk@example.com", "root@localhost"])
def test_no_open_relay(desk: RunningDesk, to: str) -> None:
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        post(desk, mail("hello"), to=to)


def test_plus_addresses_are_the_desk(desk: RunningDesk) -> None:
    assert post(desk, mail("xin chào", From="plus@example.org"), to="desk+x1@localhost") == {}


def test_too_large_is_refused_before_it_is_sent(desk: RunningDesk) -> None:
    with pytest.raises(smtplib.SMTPException):
        post(desk, b"Subject: x\r\n\r\n" + b"a" * (11 * 1024 * 1024))


RUBBISH = [
    b"",
    b"\r\n",
    b"\xff\xfe\xfd",
    b"From: x@example.org\r\nSubject: =?x-unknown?B?////?=\r\n\r\n\xff\xfe",
    b"From: x@example.org\r\nContent-Type: text/plain; charset=nonsense\r\n\r\nabc",
    b"From: x@example.org\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nbroken",
    b"From: =?utf-8?B?!!!?= <x@example.org>\r\nContent-Transfer-Encoding: base64\r\n\r\n@@@@",
    b"Message-ID: <\x00@x>\r\nFrom: x@example.org\r\n\r\nnul \x00 byte",
]


@pytest.mark.parametrize("raw", RUBBISH)
def test_rubbish_does_not_stop_the_desk(desk: RunningDesk, relay: Relay, raw: bytes) -> None:
    with contextlib.suppress(smtplib.SMTPResponseException):  # a refusal is an answer, too
        post(desk, raw, sender="x@example.org")
    before = len(relay.mails)
    sender = f"after{RUBBISH.index(raw)}@example.org"
    post(desk, mail("xin chào", From=sender))
    deadline = time.monotonic() + 30
    while sender not in [m["To"] for m in relay.mails[before:]]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_deferring_relay_gets_the_mail_later_and_once(desk: RunningDesk, relay: Relay) -> None:
    before = len(relay.mails)
    relay.answer = "451 later"
    post(desk, mail("xin chào", From="later@example.org"))
    time.sleep(1.5)
    relay.answer = "250 OK"
    assert relay.wait(before + 1)[-1]["To"] == "later@example.org"
    time.sleep(0.5)
    assert len(relay.mails) == before + 1


CHARSETS = [
    ("iso-2022-jp", "給料が払われません"),
    ("shift_jis", "給料が払われません"),
    ("gb2312", "公司不发工资"),
    ("big5", "公司不發工資"),
    ("windows-1252", "¿Cómo cobro mi salario?"),
    ("windows-1258", "lương"),
    ("utf-8", "တစ်လ လစာမရသေးပါ"),
    ("utf-16", "तलब आएन"),
]


@pytest.mark.parametrize(("charset", "text"), CHARSETS)
def test_charsets(charset: str, text: str) -> None:
    try:
        raw = text.encode(charset)
    except UnicodeEncodeError:
        raw = text.encode("utf-8")  # windows-1258 writes some letters in two parts
        charset = "utf-8"
    head = f"Content-Type: text/plain; charset={charset}\r\nContent-Transfer-Encoding: base64"
    message = parse(head.encode() + b"\r\n\r\n" + base64.encodebytes(raw))
    assert body_text(message).strip().lstrip("\ufeff") == text


def test_html_becomes_text() -> None:
    html = "<html><body><p>Lương <b>chưa</b> trả</p><script>x()</script></body></html>"
    message = parse(b"Content-Type: text/html; charset=utf-8\r\n\r\n" + html.encode())
    assert body_text(message).split() == ["Lương", "chưa", "trả"]


QUOTES = [
    ("Not paid.\n\nOn Mon, 23 Nov 2026 at 10:00, Desk <desk@localhost> wrote:\n> Hello\n> Ask",
     "Not paid."),
    ("Chưa trả.\n\nVào Th 2, 23 thg 11, 2026 lúc 10:00 Desk <d@x> đã viết:\n\n> Xin chào",
     "Chưa trả."),
    ("払われません。\n\n2026年11月23日(月) 10:00 Desk <desk@localhost>:\n> こんにちは",
     "払われません。"),
    ("Hindi pa.\n\nNoong Lun, Nob 23, 2026, isinulat ni Desk:\n> Kumusta\n>\n> Magtanong",
     "Hindi pa."),
    ("> only a quotation", "> only a quotation"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "written"), QUOTES)
def test_quoted_history_is_cut(text: str, written: str) -> None:
    assert reply_text(text) == written


def test_bounces_are_automatic() -> None:
    report = b"Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n--b--"
    assert is_automatic(parse(report))
    assert not is_automatic(parse(b"Subject: hello\r\n\r\nhello"))


def test_loop_is_free(desk: RunningDesk) -> None:
    """The listener lives in the program's own event loop, and still takes many mails at once."""

    async def many() -> None:
        await asyncio.gather(
            *(
                asyncio.to_thread(post, desk, mail("xin chào", From=f"n{n}@example.org"))
                for n in range(20)
            )
        )

    asyncio.run(many())
