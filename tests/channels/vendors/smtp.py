"""A mail relay that refuses what relays refuse, and fails as it is told to."""

import email.policy
import re
from collections.abc import Callable
from dataclasses import dataclass
from email.message import EmailMessage
from email.parser import BytesParser
from typing import Any, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.channels.vendors import Call, Cut, Fault, Status
from tests.channels.vendors.names import Names
from tests.stories.running import free_port

USER, PASSWORD = "desk-user", "relay-password-7351"
LARGEST = 200_000


@dataclass(frozen=True)
class Answer:
    """The relay answers this to a command (EHLO, AUTH, MAIL, RCPT, DATA) instead of doing it."""

    command: str
    reply: str


class Relay:
    """The interface of `Vendor`, over SMTP. A call is a mail, or the command that was refused:
    method MAIL, path: the recipient, query: the envelope's sender, body: the mail. `names` is the
    name server beside it."""

    def __init__(self) -> None:
        self.port = free_port()
        self.calls: list[Call] = []
        self.faults: list[Fault | Answer | None] = []
        self.always: Fault | None = None
        self.names = Names()
        self._controller: Controller | None = None

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"

    def fail(self, *faults: Any) -> None:
        """Let the next mails meet these faults, in order; None: this one is well."""
        self.faults += faults

    def start(self) -> None:
        """Be reachable (again)."""
        self._controller = Controller(
            self,
            hostname="127.0.0.1",
            port=self.port,
            data_size_limit=LARGEST,
            enable_SMTPUTF8=True,
            authenticator=self.log_in,
            auth_require_tls=False,
            auth_exclude_mechanism=["LOGIN"],
        )
        self._controller.start()

    def stop(self) -> None:
        """Be unreachable. What was recorded stays."""
        if self._controller is not None:
            self._controller.stop()
            self._controller = None

    def __enter__(self) -> Self:
        self.names.__enter__()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.names.__exit__()

    def mails(self) -> list[EmailMessage]:
        """What was taken."""
        return [read(call.body) for call in self.calls if call.status == 250]

    # -- the dialogue -------------------------------------------------------------------------

    def _fault(self, command: str) -> str:
        """What this command is to be answered with, if not as usual."""
        fault = self.faults[0] if self.faults else self.always
        reply = ""
        if isinstance(fault, Answer) and fault.command == command:
            reply = fault.reply
        elif isinstance(fault, Status):
            kinds = {401: ("AUTH", "535 5.7.8 bad login"), 429: ("DATA", "450 4.7.1 too fast")}
            down = ("EHLO", "421 4.3.2 not now")
            where, what = kinds.get(fault.code, down)
            reply = what if where == command else ""
        if reply and self.faults:
            self.faults.pop(0)
        return reply

    def _record(self, method: str, envelope: Envelope, reply: str, body: bytes = b"") -> str:
        to = "".join(envelope.rcpt_tos[:1])
        status = int(reply[:3])
        self.calls.append(Call(method, to, envelope.mail_from or "", {}, body, status))
        return reply

    async def handle_EHLO(  # noqa: N802
        self, _s: SMTP, session: Session, envelope: Envelope, host: str, replies: list[str]
    ) -> list[str]:
        reply = self._fault("EHLO")
        if reply:
            self._record("EHLO", envelope, reply)
            return [reply]
        session.host_name = host
        return replies

    def log_in(
        self, _s: SMTP, _session: Session, envelope: Envelope, _mechanism: str, data: Any
    ) -> AuthResult:
        reply = self._fault("AUTH")
        if reply:
            self._record("AUTH", envelope, reply)
            return AuthResult(success=False, handled=False, message=reply)
        wanted = LoginPassword(USER.encode(), PASSWORD.encode())
        return AuthResult(success=data == wanted)

    async def handle_MAIL(  # noqa: N802
        self, _s: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        reply = self._fault("MAIL")
        if not session.authenticated:
            reply = "530 5.7.0 authentication required"
        if reply:
            return self._record("MAIL", envelope, reply)
        if not re.fullmatch(r"desk(\+[\w.]+)?@desk\.example\.org", address):
            return self._record("MAIL", envelope, "553 5.7.1 not your address")
        envelope.mail_from = address
        envelope.mail_options += options
        return "250 OK"

    async def handle_RCPT(  # noqa: N802
        self, _s: SMTP, _session: Session, envelope: Envelope, address: str, _o: list[str]
    ) -> str:
        envelope.rcpt_tos.append(address)
        reply = self._fault("RCPT")
        return self._record("RCPT", envelope, reply) if reply else "250 OK"

    async def handle_DATA(  # noqa: N802
        self, server: SMTP, _session: Session, envelope: Envelope
    ) -> str:
        raw = envelope.original_content or b""
        reply = self._fault("DATA") or refusal(raw, envelope) or "250 2.0.0 queued"
        self._record("MAIL", envelope, reply, raw)
        if self.faults and isinstance(self.faults[0], Cut):
            self.faults.pop(0)
            server.transport.abort()
        elif self.faults and self.faults[0] is None:
            self.faults.pop(0)
        return reply


def read(raw: bytes) -> EmailMessage:
    """A mail as a modern reader sees it."""
    parsed = BytesParser(policy=email.policy.default).parsebytes(raw)
    assert isinstance(parsed, EmailMessage)
    return parsed


def refusal(raw: bytes, envelope: Envelope) -> str:
    """Why a careful server (Postfix, Gmail) refuses this mail, or ""."""
    head, _, body = raw.partition(b"\r\n\r\n")
    names = [
        line.partition(b":")[0].lower() for line in head.split(b"\r\n") if line[:1] not in b" \t"
    ]
    eight = "BODY=8BITMIME" in envelope.mail_options
    checks: list[tuple[str, Callable[[], bool]]] = [
        ("550 5.6.11 bare LF", lambda: b"\n" in raw.replace(b"\r\n", b"")),
        ("550 5.6.0 line too long", lambda: any(len(x) > 998 for x in raw.split(b"\r\n"))),
        ("550 5.6.3 8 bits in the body", lambda: not eight and not body.isascii()),
        ("550 5.6.7 8 bits in the head", lambda: not envelope.smtp_utf8 and not head.isascii()),
        (
            "550 5.7.1 a header is missing",
            lambda: not {b"from", b"to", b"date", b"message-id"} <= set(names),
        ),
        ("550 5.7.1 a header comes twice", lambda: len(set(names)) != len(names)),
        ("550 5.6.0 no header", lambda: any(not re.fullmatch(rb"[!-9;-~]+", n) for n in names)),
        (
            "550 5.6.0 long word",
            lambda: any(len(w) > 75 for w in re.findall(rb"=\?[^?]+\?[bq]\?[^?]*\?=", head)),
        ),
    ]
    return next((reply for reply, wrong in checks if wrong()), "")
