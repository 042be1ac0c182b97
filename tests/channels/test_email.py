"""Mail: what is read of it, who sent it, limits and protection; and the running desk over SMTP."""

import asyncio
import contextlib
import os
import smtplib
import ssl
import time
import unicodedata
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import dkim
import pytest
import yaml
from aiosmtpd.controller import Controller
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from channels.email import MOST_AN_HOUR, Email, EmailSettings
from channels.log import Conversation, Message, accept, find_conversation
from channels.mail import auth, charset, setup, smtp, text, write
from channels.mail.machine import machine, report
from channels.mail.reply import reply_text
from channels.message import Accepted, InboundMessage, OutboundMessage, TemporarySendError
from config.database import Database
from tests.channels.tables.email import DESK, MAI, MAILS, WORLD, Has, bounce, mail, post
from tests.channels.test_channels import Stage
from tests.channels.vendors.names import Names
from tests.channels.vendors.smtp import Relay, read
from tests.channels.world import RecordingInbox
from tests.stories.running import RunningDesk, free_port

# -- what is read of a mail ------------------------------------------------------------------------

ROWS: dict[str, dict[str, Any]] = yaml.safe_load((MAILS / "mails.yaml").read_text("utf-8"))


@pytest.mark.parametrize("name", ROWS)
def test_what_is_read_of_a_mail(name: str) -> None:
    row = ROWS[name]
    found = text.read((MAILS / f"{name}.eml").read_bytes(), DESK)
    assert found.written == row["text"]
    assert [file for file, _, _ in found.files] == row.get("files", [])
    for field in ("sender", "subject"):
        assert getattr(found, field) == row.get(field, getattr(found, field))


def test_every_mail_is_in_the_table() -> None:
    assert {path.stem for path in MAILS.glob("*.eml")} == set(ROWS)


def test_all_of_a_mail_is_kept_beside_what_is_new() -> None:
    found = text.read((MAILS / "gmail_vietnamese.eml").read_bytes(), DESK)
    assert "đã viết:" in found.text
    assert "> Bạn có thể" in found.text


QUOTES = [
    # Without an address it is a story, unless quoted lines follow.
    ("On Monday my boss wrote:\nyou are fired", "On Monday my boss wrote:\nyou are fired"),
    ("No.\n\nOn Monday the desk wrote:\n> Are you paid?", "No."),
    ("Hindi.\n\nNoong Lun, Nob 23, 2026, isinulat ni Desk:\n> Kumusta\n>\n> Magtanong", "Hindi."),
    ("A\n\nAm 23.11.2026 um 10:00 schrieb Desk <d@x.org>:\n\n> B", "A"),
    ("A\n\nOp ma 23 nov. 2026 om 10:00 schreef Desk <d@x.org>:\n> B", "A"),
    ("A\n-- \nMai\n080-0000-0000", "A"),
    ("A\n--\n" + "a line that matters\n" * 20, "A\n--\n" + "a line that matters\n" * 20),
    ("Sent money from my phone to him", "Sent money from my phone to him"),
    ("boss\n\nSent from my iPhone\n", "boss"),
    ("Oi\n\nObter o Outlook para Android", "Oi"),
    ("やめたい\n\nAndroid 版 Outlook を入手", "やめたい"),
    ("A\n\n> q\n\nB\n\n> q", "A\n\nB"),
    ("From: May to July\nDate: every day\nno pay", "From: May to July\nDate: every day\nno pay"),
    ("> only a quotation", "> only a quotation"),
]


@pytest.mark.parametrize(("whole", "written"), QUOTES)
def test_quoted_history_is_cut(whole: str, written: str) -> None:
    assert reply_text(whole) == written.strip()


def test_a_mail_that_only_quotes_the_desk_says_nothing() -> None:
    quoted = f"\nOn Mon, 23 Nov 2026 10:00 Desk <{DESK}> wrote:\n> Call 110\n"
    assert reply_text(quoted, DESK) == ""
    assert reply_text(quoted, "other@example.org") == quoted.strip()


GUESSES = [
    ("cp932", "寮から出してもらえません"),
    ("euc_jp", "給料が払われません"),
    ("gb18030", "公司拖欠工资"),
    ("cp950", "公司拖欠工資不給假"),
    ("cp1252", "Não recebi meu salário"),
    ("cp1258", "Tôi muô\u0301n đô\u0309i viê\u0323c"),
    ("utf-8", "တစ်လ လစာမရသေးပါ"),
]


@pytest.mark.parametrize(("codec", "words"), GUESSES)
def test_undeclared_charsets(codec: str, words: str) -> None:
    assert charset.decode(words.encode(codec), "") == unicodedata.normalize("NFC", words)


BOMBS = [
    b"",
    b"\r\n",
    b"\x00" * 1000,
    b"\xff\xfe\xfd",
    b"From: " + b'"\\' * 5000,
    b"From: x@y.jp\r\nContent-Type: "
    + b"multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: " * 390,
    b"From: x@y.jp\r\n" + b"Content-Type: message/rfc822\r\n\r\n" * 1500,
    b"From: x@y.jp\r\nContent-Type: text/html\r\n\r\n" + b"<div>" * 30_000,
    b"From: x@y.jp\r\nContent-Type: text/html\r\n\r\n" + b"<script>" * 20_000,
    b"From: x@y.jp\r\n\r\n" + b"From: \r\n" * 20_000,
    b"From: x@y.jp\r\n\r\nOn " + b"wrote " * 20_000,
    b"From: x@y.jp\r\n\r\n" + (b"<a" * 190 + b"@1:23:\r\n") * 300,
    b"From: x@y.jp\r\nSubject: " + b"=?utf-8?b?" * 10_000 + b"\r\n\r\nx",
    b"From: x@y.jp\r\nReferences: " + b"<a" * 50_000 + b"\r\n\r\nx",
    b"From: x@y.jp\r\nContent-Type: text/plain;" + b" name*1=a;" * 3000 + b"\r\n\r\nx",
]


@pytest.mark.parametrize("raw", BOMBS, ids=range(len(BOMBS)))
def test_no_mail_breaks_the_reader(raw: bytes) -> None:
    found = text.read(raw, DESK)
    report(found.message)
    machine(found.message, found.sender, "", False)
    auth.from_headers(found.message, "x")


@given(st.data())
@settings(max_examples=300, deadline=None, database=None)
def test_no_damage_to_a_mail_breaks_the_reader(data: st.DataObject) -> None:
    raw = bytearray((MAILS / f"{data.draw(st.sampled_from(sorted(ROWS)))}.eml").read_bytes())
    for _ in range(data.draw(st.integers(1, 12))):
        at = data.draw(st.integers(0, max(0, len(raw) - 1)))
        end = at + data.draw(st.integers(0, 40))
        raw[at:end] = data.draw(
            st.sampled_from(
                [b"", b"\r\n", b"\x00", b"\xff", b"=?", b"?=", b"--b1", b"\x1b$B", b";", b"<"]
            )
            | st.binary(max_size=6)
        )
    found = text.read(bytes(raw), DESK)
    report(found.message)
    machine(found.message, found.sender, "x@y", True)
    found.text.encode("utf-8", "surrogatepass")


# -- the channel by itself -------------------------------------------------------------------------


@pytest.fixture
def relay() -> Iterator[Relay]:
    with Relay() as running:
        yield running


@pytest.fixture
async def stage(tmp_path: Path, relay: Relay) -> AsyncIterator[Stage]:
    database = Database(f"sqlite:///{tmp_path / 'desk.sqlite3'}")
    database.migrate()
    made = Stage(WORLD, relay, tmp_path, database)
    async with made.channel.lifespan():
        yield made
    database.close()


def channel(stage: Stage, **settings: Any) -> Email:
    """The channel, with these settings of its own."""
    assert isinstance(stage.channel, Email)
    stage.channel.own = EmailSettings(_env_file=None, **settings)  # type: ignore[call-arg]
    return stage.channel


async def test_files_go_when_the_message_cannot_be_kept(stage: Stage) -> None:
    stage.inbox.broken = OSError(28, "No space left on device")
    request = post((MAILS / "files.eml").read_bytes())
    assert (await stage.deliver(request)).status_code == 503
    folder = stage.context.media.folder
    assert not [path for path in folder.rglob("*") if path.is_file()]
    stage.inbox.broken = None
    assert (await stage.deliver(request)).status_code == 200
    assert len([path for path in folder.rglob("*") if path.is_file()]) == 4


async def test_a_connection_that_breaks_takes_no_files_away(stage: Stage) -> None:
    own, started, go = channel(stage), asyncio.Event(), asyncio.Event()

    class Slow(RecordingInbox):
        async def accept(self, message: InboundMessage) -> Accepted:
            started.set()
            await go.wait()
            return await super().accept(message)

    own.inbox = slow = Slow()
    _, writer = await asyncio.open_connection("127.0.0.1", own.settings.smtp_port)
    raw = (MAILS / "files.eml").read_bytes()
    writer.write(b"EHLO x\r\nMAIL FROM:<a@b.jp>\r\nRCPT TO:<" + DESK.encode() + b">\r\nDATA\r\n")
    writer.write(raw + b"\r\n.\r\n")
    await started.wait()
    writer.transport.abort()
    while own.load.connections:  # noqa: ASYNC110 - until the server has noticed
        await asyncio.sleep(0)
    go.set()
    await asyncio.gather(*own._tasks)
    assert len(slow.messages) == 1
    for file in slow.messages[0].attachments:
        assert await own.media.read(file.file)


async def test_a_bounce_that_cannot_be_noted_comes_again(stage: Stage) -> None:
    stage.inbox.broken = OSError(28, "No space left on device")
    request = post(bounce("failed", "5.1.1"), from_="")
    assert (await stage.deliver(request)).status_code == 503
    stage.inbox.broken = None
    assert (await stage.deliver(request)).status_code == 200
    assert len(stage.inbox.notices) == 1


async def test_two_machines_that_talk_are_left_alone(stage: Stage) -> None:
    one = InboundMessage("email", "", MAI, "ping")
    for number in range(MOST_AN_HOUR + 1):
        await stage.context.database.write(
            accept, InboundMessage("email", str(number), one.address, one.text)
        )
    await stage.deliver(post(mail("ping", From=MAI)))
    await stage.deliver(post(mail("help", From="other@example.net")))
    assert [message.kind for message in stage.inbox.messages] == ["automatic", "text"]


async def test_too_many_connections_are_put_off(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smtp, "CONNECTIONS", 1)
    port = channel(stage).settings.smtp_port

    def connect() -> int:
        with contextlib.closing(smtplib.SMTP("127.0.0.1", port, timeout=10)) as first:
            assert first.noop()[0] == 250
            with pytest.raises(smtplib.SMTPConnectError) as refused:
                smtplib.SMTP("127.0.0.1", port, timeout=10)
            return int(refused.value.smtp_code)

    assert await asyncio.to_thread(connect) == 421


async def test_too_many_mails_at_once_are_put_off(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smtp, "AT_ONCE", 0)
    assert (await stage.deliver(post(mail()))).text.startswith("451")
    monkeypatch.undo()
    assert (await stage.deliver(post(mail()))).status_code == 200
    assert channel(stage).load.receiving == 0


async def test_what_the_server_announces(stage: Stage) -> None:
    def hello() -> dict[str, str]:
        with smtplib.SMTP("127.0.0.1", channel(stage).settings.smtp_port, timeout=10) as client:
            client.ehlo()
            return dict(client.esmtp_features)

    announced = await asyncio.to_thread(hello)
    assert int(announced["size"]) == channel(stage).size
    assert {"8bitmime", "smtputf8"} <= set(announced)
    assert "starttls" not in announced


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate that signs itself, and its key."""
    key = rsa.generate_private_key(65537, 2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=10))
        .sign(key, hashes.SHA256())
    )
    cert, private = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert, private


async def test_starttls_also_with_a_renewed_certificate(stage: Stage, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "first.example.org")
    own = channel(stage, smtp_tls_cert=str(cert), smtp_tls_key=str(key))

    def protected(body: str) -> str:
        tls = ssl.create_default_context(cafile=str(cert))
        tls.check_hostname = False
        with smtplib.SMTP("127.0.0.1", own.settings.smtp_port, timeout=10) as client:
            client.starttls(context=tls)
            client.sendmail("lan@example.net", DESK, mail(body, Message_ID=f"<{body}@x>"))
            assert isinstance(client.sock, ssl.SSLSocket)
            return str(dict(x[0] for x in client.sock.getpeercert()["subject"])["commonName"])  # type: ignore

    assert await asyncio.to_thread(protected, "one") == "first.example.org"
    before = cert.stat().st_mtime
    certificate(tmp_path, "second.example.org")
    os.utime(cert, (before + 5, before + 5))
    assert await asyncio.to_thread(protected, "two") == "second.example.org"
    assert [message.text for message in stage.inbox.messages] == ["one", "two"]
    [found] = setup.certificate(str(cert), str(key))
    assert not found.ok  # ten days left
    assert "Renew" in found.remedy


async def test_without_plus_addresses_the_message_id_still_tells(
    stage: Stage, relay: Relay
) -> None:
    await channel(stage, mail_plus=False).send([OutboundMessage("7/1", MAI, "vi", "Chào")])
    [sent] = relay.mails()
    assert relay.calls[0].query == DESK
    assert sent["Reply-To"] is None
    await stage.deliver(
        post(mail("yes", From="private@example.com", In_Reply_To=str(sent["Message-ID"])))
    )
    assert stage.inbox.messages[0].address == MAI


async def test_the_same_message_again_has_the_same_id(stage: Stage, relay: Relay) -> None:
    once = [OutboundMessage("7/1", MAI, "vi", "Chào"), OutboundMessage("8/1", MAI, "vi", "Chào")]
    [first, _] = await stage.channel.send(once)
    [again, _] = await stage.channel.send(once)
    assert first == again == relay.mails()[0]["Message-ID"]
    assert await stage.channel.send(once[:1]) != [first]


# -- who sent it -----------------------------------------------------------------------------------

PEER = "8.8.4.4"
"""Any public address; nothing is sent there."""


@pytest.fixture
def names(tmp_path: Path) -> Iterator[Names]:
    """A domain with SPF, DKIM and DMARC, and its key."""
    setup.make_key(tmp_path / "dkim.pem")
    with Names() as running:
        running.txt("example.net", f"v=spf1 ip4:{PEER} -all")
        running.txt("k1._domainkey.example.net", setup.public_key(tmp_path / "dkim.pem"))
        running.txt("_dmarc.example.net", "v=DMARC1; p=reject")
        running.txt("other.example", f"v=spf1 ip4:{PEER} -all")
        yield running


def signed(folder: Path, raw: bytes, domain: str = "example.net") -> bytes:
    return write.sign(raw, "k1", folder / "dkim.pem", domain)


def check(raw: bytes, peer: str = PEER, sender: str = "lan@example.net", who: str = "") -> str:
    return str(auth.check(raw, peer, "mx.example.net", sender, who or "lan@example.net"))


def test_a_signed_mail_from_the_right_server(names: Names, tmp_path: Path) -> None:
    found = check(signed(tmp_path, mail("x\n")))
    assert found == "SPF pass, DKIM pass (example.net), DMARC pass"


def test_a_changed_mail_of_the_wrong_server(names: Names, tmp_path: Path) -> None:
    raw = signed(tmp_path, mail("x\n")).replace(b"\r\nx", b"\r\ny")
    assert check(raw, "9.9.9.9") == "SPF fail, DKIM fail (example.net), DMARC fail"


def test_another_domain_cannot_vouch(names: Names, tmp_path: Path) -> None:
    raw = mail("x\n")
    assert check(raw, sender="x@other.example") == "SPF pass, DKIM none, DMARC fail"


def test_a_subdomain_is_enough(names: Names, tmp_path: Path) -> None:
    names.txt("k1._domainkey.mail.example.net", setup.public_key(tmp_path / "dkim.pem"))
    raw = signed(tmp_path, mail("x\n"), "mail.example.net")
    assert check(raw, "127.0.0.1") == "DKIM pass (mail.example.net), DMARC pass"


def test_a_strict_domain_wants_itself(names: Names, tmp_path: Path) -> None:
    names.zone["_dmarc.example.net", "TXT"] = ['"v=DMARC1; p=reject; adkim=s"']
    names.txt("k1._domainkey.mail.example.net", setup.public_key(tmp_path / "dkim.pem"))
    raw = signed(tmp_path, mail("x\n"), "mail.example.net")
    assert check(raw, "127.0.0.1") == "DKIM pass (mail.example.net), DMARC fail"


def test_a_domain_with_a_hyphen_and_no_records(names: Names) -> None:
    found = check(mail("x\n"), sender="a@my-firm.co.jp", who="a@my-firm.co.jp")
    assert found == "SPF none, DKIM none, DMARC none"


@pytest.mark.parametrize("raw", BOMBS[:8], ids=range(8))
def test_nothing_breaks_the_check(names: Names, raw: bytes) -> None:
    check(b"DKIM-Signature: v=1; \xff\r\n" + raw)
    check(b"DKIM-Signature: v=1; a=rsa-sha256; d=\xe3; s=a; h=from; b=!; bh=!\r\n" + raw)


async def test_names_that_do_not_answer_hold_up_no_mail(
    stage: Stage, names: Names, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names.silent = True
    monkeypatch.setattr(auth, "PATIENCE", 0.05)
    channel(stage, mail_auth="check")
    await stage.deliver(post(signed(tmp_path, mail("x\n"))))
    assert stage.inbox.messages[0].original == Has("Authentication: not checked")


async def test_the_desk_checks_by_itself(stage: Stage, names: Names, tmp_path: Path) -> None:
    channel(stage, mail_auth="check")
    await stage.deliver(post(signed(tmp_path, mail("x\n"))))
    wanted = "Authentication: DKIM pass (example.net), DMARC pass"  # a loopback peer has no SPF
    assert stage.inbox.messages[0].original == Has(wanted)


# -- the set-up ------------------------------------------------------------------------------------


async def test_setup_makes_a_key_that_proves_our_mail(
    stage: Stage, relay: Relay, tmp_path: Path
) -> None:
    key = tmp_path / "desk-dkim.pem"
    own = channel(stage, dkim_selector="desk", dkim_key_file=str(key))
    lines = [finding.detail for finding in await own.setup()]
    assert [finding.detail for finding in await own.setup()] == lines  # repeating does no harm
    assert key.stat().st_mode & 0o77 == 0
    [record] = [line for line in lines if line.startswith("desk._domainkey.desk.example.org TXT ")]
    relay.names.txt("desk._domainkey.desk.example.org", record.partition(" TXT ")[2])
    files = [await stage.context.media.keep("a.bin", b"\x00\n.\n" * 3000)]
    await own.send([OutboundMessage("7/1", MAI, "my", "မင်္ဂလာပါ\n.\n", attachments=tuple(files))])
    raw = relay.calls[-1].body
    assert dkim.verify(raw)
    assert not dkim.verify(raw.replace(b"Subject: ", b"Subject: x"))


async def test_a_key_that_is_gone_delays_the_mail(stage: Stage) -> None:
    own = channel(stage, dkim_selector="desk", dkim_key_file="/nowhere/dkim.pem")
    with pytest.raises(TemporarySendError):
        await own.send([OutboundMessage("7/1", MAI, "vi", "Chào")])
    assert not all(finding.ok for finding in await own.setup())


async def test_check_is_content_with_a_good_set_up(stage: Stage, relay: Relay) -> None:
    relay.names.zone["desk.example.org", "MX"] = ["10 mx.desk.example.org."]
    relay.names.txt("desk.example.org", "google-site-verification=1")
    relay.names.txt("desk.example.org", "v=spf1 mx ~all")
    relay.names.txt("_dmarc.desk.example.org", "v=DMARC1; p=none")
    own = channel(stage, mail_authserv_id="mx")
    assert [finding.what for finding in await own.check() if not finding.ok] == []


async def test_check_tells_each_fault(stage: Stage, relay: Relay, tmp_path: Path) -> None:
    relay.names.txt("desk.example.org", "v=spf1 mx ~all")
    relay.names.txt("desk.example.org", "v=spf1 a ~all")
    own = channel(
        stage, smtp_tls_cert="/nowhere", dkim_selector="d", dkim_key_file=str(tmp_path / "none")
    )
    faults = {finding.what: finding.remedy for finding in await own.check() if not finding.ok}
    assert set(faults) == {
        "proof of senders",
        "certificate for STARTTLS",
        "MX of desk.example.org",
        "TXT of desk.example.org",
        "TXT of _dmarc.desk.example.org",
        "DKIM key",
    }
    assert all(faults.values())
    relay.names.silent = True
    relay.stop()
    unreached = {finding.what for finding in await own.check() if not finding.ok}
    assert {"relay", "MX of desk.example.org"} <= unreached
    relay.start()


# -- the log and the dialogue ----------------------------------------------------------------------


async def test_an_automatic_note_is_no_sign_of_her(stage: Stage) -> None:
    """It neither wakes what waits for her safe hours nor undoes her wish to be left alone."""
    database = stage.context.database
    number = await database.read(find_conversation, "email", MAI)

    def prepare(session: Any) -> None:
        row = session.get(Conversation, number)
        row.stopped = True
        waiting = Message(
            conversation_id=number,
            author="counsellor",
            staff_id=1,
            state="queued",
            body="x",
            held=True,
            created_at=datetime.now(UTC),
            attempt_at=datetime.now(UTC) + timedelta(hours=9),
        )
        session.add(waiting)

    await database.write(prepare)

    def state(session: Any) -> tuple[bool, bool, bool]:
        row = session.get(Conversation, number)
        held = session.query(Message).filter_by(author="counsellor").one().held
        return row.stopped, held, row.heard_at is not None

    note = InboundMessage("email", "n1", MAI, "away", kind="automatic", thread={})
    await database.write(accept, note)
    assert await database.read(state) == (True, True, False)
    await database.write(accept, InboundMessage("email", "n2", MAI, "I am here"))
    assert await database.read(state) == (False, False, True)


# -- the running desk ------------------------------------------------------------------------------


class Inbox:
    """A mail server of workers that keeps what it takes; `answer` is what it says to the next."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.senders: list[str] = []
        self.answer = "250 OK"
        self.deferred = 0
        self.port = free_port()

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        if self.answer.startswith("250"):
            self.mails.append(read(envelope.content))
            self.senders.append(envelope.mail_from)
        else:
            self.deferred += 1
        return self.answer

    def wait(self, count: int, patience: float = 30) -> list[EmailMessage]:
        deadline = time.monotonic() + patience
        while len(self.mails) < count:
            assert time.monotonic() < deadline, f"{len(self.mails)} of {count} mails came"
            time.sleep(0.05)
        return self.mails


@pytest.fixture(scope="module")
def inbox() -> Iterator[Inbox]:
    handler = Inbox()
    controller = Controller(handler, hostname="127.0.0.1", port=handler.port)
    controller.start()
    yield handler
    controller.stop()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, inbox: Inbox) -> Iterator[RunningDesk]:
    settings = {"BOT_SMTP_RELAY": f"127.0.0.1:{inbox.port}", "BOT_MAIL_ADDRESS": DESK}
    with RunningDesk(tmp_path_factory.mktemp("desk"), settings) as running:
        yield running


def write_to(desk: RunningDesk, raw: bytes, sender: str = "x@example.net", to: str = DESK) -> None:
    with smtplib.SMTP("127.0.0.1", desk.smtp_port) as client:
        client.sendmail(sender, [to], raw)


def test_a_question_is_answered_in_its_thread(desk: RunningDesk, inbox: Inbox) -> None:
    before = len(inbox.mails)
    first = mail(
        "Công ty nợ lương tôi 2 tháng", From="thuy@example.org", Message_ID="<1@example.org>"
    )
    write_to(desk, first)
    answer = inbox.wait(before + 1)[-1]
    assert answer["To"] == "thuy@example.org"
    assert answer["In-Reply-To"] == "<1@example.org>"
    assert answer["Auto-Submitted"] == "auto-replied"
    body = str(answer.get_body(("plain",)).get_content())  # type: ignore[union-attr]
    assert "ban tư vấn" in body
    assert "1. " in body  # choices are numbered: mail has no buttons
    # She goes on from another address, to the reply address of the thread.
    again = mail("1", From="thuy.private@example.com", Message_ID="<2@example.com>")
    write_to(desk, again, to=str(answer["Reply-To"]))
    answer = inbox.wait(before + 2)[-1]
    assert answer["To"] == "thuy@example.org"
    # The answer comes back: the message is marked, nobody is answered, and a person is told.
    returned = bounce("failed", "5.1.1", str(answer["Message-ID"]))
    write_to(desk, returned, "", inbox.senders[-1])
    write_to(desk, mail("xin chào", From="later@example.org", Message_ID="<3@example.org>"))
    assert inbox.wait(before + 3)[-1]["To"] == "later@example.org"


def test_the_same_mail_twice_is_one_message(desk: RunningDesk, inbox: Inbox) -> None:
    raw = mail("xin chào", Message_ID="<twice@example.org>", From="hai@example.org")
    before = len(inbox.mails)
    write_to(desk, raw)
    write_to(desk, raw)
    inbox.wait(before + 1)
    write_to(desk, mail("cảm ơn", From="ba@example.org"))
    inbox.wait(before + 2)
    assert [one["To"] for one in inbox.mails[before:]] == ["hai@example.org", "ba@example.org"]


def test_two_strangers_with_one_subject_stay_apart(desk: RunningDesk, inbox: Inbox) -> None:
    before = len(inbox.mails)
    for sender in ("a@example.org", "b@example.org"):
        write_to(desk, mail("xin chào", From=sender, Subject="Help"), sender)
    found = inbox.wait(before + 2)[before:]
    assert {one["To"] for one in found} == {"a@example.org", "b@example.org"}


def test_an_out_of_office_note_starts_no_loop(desk: RunningDesk, inbox: Inbox) -> None:
    before = len(inbox.mails)
    write_to(desk, mail("xin chào", From="away@example.org", Message_ID="<a1@example.org>"))
    answer = inbox.wait(before + 1)[-1]
    note = mail(
        "I will kill myself. Call 119.",  # words that are answered at once if a person writes them
        From="away@example.org",
        Message_ID="<a2@example.org>",
        Auto_Submitted="auto-replied",
        In_Reply_To=str(answer["Message-ID"]),
    )
    write_to(desk, note, "", str(answer["Reply-To"]))
    write_to(desk, mail("xin chào", From="barrier@example.org", Message_ID="<a3@example.org>"))
    inbox.wait(before + 2)
    assert [one["To"] for one in inbox.mails[before:]] == [
        "away@example.org",
        "barrier@example.org",
    ]


def test_a_deferring_relay_gets_the_mail_later_and_once(desk: RunningDesk, inbox: Inbox) -> None:
    before, deferred = len(inbox.mails), inbox.deferred
    inbox.answer = "451 later"
    write_to(desk, mail("xin chào", From="deferred@example.org", Message_ID="<d1@example.org>"))
    deadline = time.monotonic() + 30
    while inbox.deferred < deferred + 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    inbox.answer = "250 OK"
    assert inbox.wait(before + 1)[-1]["To"] == "deferred@example.org"
    write_to(desk, mail("xin chào", From="next@example.org", Message_ID="<d2@example.org>"))
    inbox.wait(before + 2)
    assert [one["To"] for one in inbox.mails[before:]] == [
        "deferred@example.org",
        "next@example.org",
    ]


def test_many_write_at_once(desk: RunningDesk, inbox: Inbox) -> None:
    """The listener lives in the program's own event loop, and still takes many mails at once."""
    before = len(inbox.mails)

    async def many() -> None:
        await asyncio.gather(
            *(
                asyncio.to_thread(
                    write_to,
                    desk,
                    mail("xin chào", From=f"n{n}@example.org", Message_ID=f"<n{n}@x>"),
                )
                for n in range(20)
            )
        )

    asyncio.run(many())
    assert len({one["To"] for one in inbox.wait(before + 20)[before:]}) == 20


def test_nothing_personal_is_in_the_log(desk: RunningDesk) -> None:
    log = desk.output.read_text()
    assert "@example" not in log.replace(DESK, "")
    assert "thuy" not in log
