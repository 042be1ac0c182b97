"""The SMTP dialogues: with servers that bring mail (with limits), and with the relay."""

import logging
import re
from dataclasses import dataclass

import aiosmtplib
import structlog
from aiosmtpd.smtp import SMTP, syntax

from channels.message import RejectedError, TemporarySendError

log = structlog.get_logger(__name__)
logging.getLogger("mail.log").setLevel(logging.ERROR)  # aiosmtpd's own log names senders

CONNECTIONS = 100
AT_ONCE = 24
"""Mails that are received at the same time; each may take as much memory as the largest mail."""
LINE = 256 * 1024
"""Bytes of a line: RFC 5321 allows 1000, mail programs know nothing of that."""


@dataclass(slots=True)
class Load:
    """How much is being received right now."""

    connections: int = 0
    receiving: int = 0


class Server(SMTP):
    """The SMTP dialogue, with limits to what is taken at the same time."""

    line_length_limit = LINE

    async def _handle_client(self) -> None:
        desk: Load = self.event_handler.load
        if desk.connections >= CONNECTIONS:
            log.warning("mail_busy", connections=desk.connections)
            await self.push("421 4.3.2 too many connections; please try again later")
            self._writer.close()
            return
        desk.connections += 1
        try:
            await super()._handle_client()
        finally:
            desk.connections -= 1

    @syntax("DATA")
    async def smtp_DATA(self, arg: str) -> None:  # noqa: N802 - aiosmtpd's name
        """Receive a mail, or put it off while others are being received."""
        desk: Load = self.event_handler.load
        if desk.receiving >= AT_ONCE:
            log.warning("mail_busy", receiving=desk.receiving)
            await self.push("451 4.3.2 too many mails at the same time; please try again later")
            return
        desk.receiving += 1
        try:
            await super().smtp_DATA(arg)
        finally:
            desk.receiving -= 1

    def _getaddr(self, arg: str) -> tuple[str | None, str | None]:
        """Any address in angle brackets: odd ones are no reason to lose a mail."""
        found = re.match(r"\s*<([^<>\r\n]*)>(.*)", arg or "")
        if found:
            route, _, address = found[1].partition(":")  # <@relay:address>, as long ago
            address = address if route.startswith("@") and address else found[1]
            return address.strip() or "<>", found[2].strip()
        result: tuple[str | None, str | None] = super()._getaddr(arg)
        return result


async def hand_over(client: aiosmtplib.SMTP, sender: str, address: str, raw: bytes) -> None:
    """One mail to the relay.

    Raises:
        RejectedError: the recipient or the mail is refused for good.
        TemporarySendError: later, or something that the operator can repair.
    """
    options, encoding = [], "ascii"
    if not address.isascii():
        if not client.supports_extension("smtputf8"):
            raise RejectedError("the relay knows no addresses beyond ASCII")
        options, encoding = ["SMTPUTF8", "BODY=8BITMIME"], "utf-8"
    if client.supports_extension("size"):
        options.append(f"size={len(raw)}")
    try:
        await client.mail(sender, options=options, encoding=encoding)
    except aiosmtplib.SMTPResponseException as error:
        if error.code == 552:
            raise RejectedError("too big for the relay (552)") from None
        raise TemporarySendError(f"the relay refuses our address ({error.code})") from None
    try:
        await client.rcpt(address, encoding=encoding)
    except aiosmtplib.SMTPResponseException as error:
        text = error.message.lower()
        ours = error.code in {530, 550, 553, 554} and ("relay" in text or "authenti" in text)
        if error.code < 500 or ours:
            raise TemporarySendError(f"recipient deferred ({_code(error)})") from None
        raise RejectedError(f"recipient refused ({_code(error)})") from None
    except ValueError:
        raise RejectedError("no address that mail can go to") from None
    try:
        await client.data(raw)
    except aiosmtplib.SMTPResponseException as error:
        if error.code < 500:
            raise TemporarySendError(f"relay deferred ({_code(error)})") from None
        raise RejectedError(f"relay refused ({_code(error)})") from None


def _code(error: aiosmtplib.SMTPResponseException) -> str:
    enhanced = re.match(r"[245]\.\d{1,3}\.\d{1,3}", error.message)
    return f"{error.code} {enhanced[0]}" if enhanced else str(error.code)
