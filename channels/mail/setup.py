"""The set-up of e-mail: the relay, the port, the certificate, and the records in the DNS."""

import asyncio
import base64
import contextlib
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiosmtplib
import dns.exception
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from channels.mail.auth import records
from channels.message import Finding

SOON = timedelta(days=14)
NO_DNS = "Run the check again on a machine that can look up names in the internet."


async def relay(connect: Callable[[], Awaitable[aiosmtplib.SMTP]], protected: bool) -> Finding:
    """Whether the relay takes our login. Nothing is sent."""
    try:
        client = await connect()
        with contextlib.suppress(aiosmtplib.SMTPException, OSError):
            await client.quit()
    except aiosmtplib.SMTPAuthenticationError as error:
        remedy = "Set BOT_SMTP_RELAY_USER and BOT_SMTP_RELAY_PASSWORD to what the relay gave you."
        return Finding("login at the relay", False, f"refused ({error.code})", remedy)
    except aiosmtplib.SMTPResponseException as error:
        remedy = "Ask who runs the relay why it refuses this desk; try again later."
        return Finding("relay", False, f"it answers {error.code}", remedy)
    except (aiosmtplib.SMTPException, OSError, TimeoutError, ValueError) as error:
        remedy = "Check host and port in BOT_SMTP_RELAY, and BOT_SMTP_RELAY_TLS (587: starttls)."
        return Finding("relay", False, f"not reached ({type(error).__name__})", remedy)
    return Finding("relay", True, "takes our mail" + ("" if protected else ", not encrypted"))


async def port(host: str, number: int) -> Finding:
    """Whether the desk listens for mail."""
    what = f"port {number} for mail"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared only
    try:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection(host, number)
            greeting = await reader.readline()
            writer.close()
    except (OSError, TimeoutError):
        remedy = "Start the desk (`uv run bot serve`); set BOT_SMTP_HOST so that others reach it."
        return Finding(what, False, "nobody answers", remedy)
    if greeting.startswith(b"220"):
        return Finding(what, True, "answers")
    return Finding(what, False, "something else answers there", "Choose another BOT_SMTP_PORT.")


def certificate(cert: str, key: str) -> list[Finding]:
    """Whether the certificate for STARTTLS is there and lasts."""
    if not cert and not key:
        return []
    what = "certificate for STARTTLS"
    try:
        until = x509.load_pem_x509_certificate(Path(cert).read_bytes()).not_valid_after_utc
        Path(key).read_bytes()
    except (OSError, ValueError) as error:
        remedy = "Set BOT_SMTP_TLS_CERT and BOT_SMTP_TLS_KEY to PEM files that the desk may read."
        return [Finding(what, False, type(error).__name__, remedy)]
    left = until - datetime.now(UTC)
    if left < SOON:
        return [Finding(what, False, f"valid until {until:%Y-%m-%d}", "Renew it now.")]
    return [Finding(what, True, f"valid until {until:%Y-%m-%d}")]


def is_public(domain: str) -> bool:
    """Whether mail from elsewhere can be sent to a domain at all."""
    return "." in domain and not domain.endswith((".localhost", ".test", ".invalid", ".local"))


async def names(domain: str, selector: str, key_file: str) -> list[Finding]:
    """Whether the domain's records say where mail goes and who may send it."""
    if not is_public(domain):
        remedy = "Set BOT_MAIL_ADDRESS to an address of your organisation's own domain."
        return [Finding("mail address", False, f"nobody outside can write to @{domain}", remedy)]
    return await asyncio.to_thread(_names, domain, selector, key_file)


def _names(domain: str, selector: str, key_file: str) -> list[Finding]:
    found = [
        _record(domain, "MX", "", f"Create an MX record of {domain} that names your mail server."),
        _record(domain, "TXT", "v=spf1", f"Create a TXT record of {domain}: {spf_record()}"),
        _record(
            f"_dmarc.{domain}",
            "TXT",
            "v=DMARC1",
            f"Create a TXT record of _dmarc.{domain}: {dmarc_record()}",
        ),
    ]
    if selector and key_file:
        name = f"{selector}._domainkey.{domain}"
        try:
            wanted = public_key(Path(key_file))
        except (OSError, ValueError, TypeError):
            remedy = "Run `uv run bot channels setup email`; it makes the key if there is none."
            return [*found, Finding("DKIM key", False, "cannot be read", remedy)]
        found.append(_record(name, "TXT", wanted, f"Create a TXT record of {name}: {wanted}"))
    return found


def _record(name: str, kind: str, wanted: str, remedy: str) -> Finding:
    what = f"{kind} of {name}"
    try:
        listed = records(name, kind)
    except (dns.exception.DNSException, OSError) as error:
        return Finding(what, False, f"could not be looked up ({type(error).__name__})", NO_DNS)
    here = [one for one in listed if _plain(one).startswith(_plain(wanted))]
    if len(here) > 1 and wanted.startswith("v="):
        return Finding(
            what, False, "there are several", "Leave one of them; several count as none."
        )
    return Finding(what, True, here[0][:80]) if here else Finding(what, False, "missing", remedy)


def _plain(record: str) -> str:
    return "".join(record.split()).rstrip(";")


def spf_record() -> str:
    """The TXT record that says who may send."""
    return "v=spf1 mx ~all (and what the owner of your relay tells you to put before ~all)"


def dmarc_record() -> str:
    """The TXT record that says what to do with forgeries."""
    return "v=DMARC1; p=quarantine"


def public_key(file: Path) -> str:
    """The TXT record that belongs to a private key for DKIM.

    Raises:
        OSError, ValueError, TypeError: it cannot be read.
    """
    private = serialization.load_pem_private_key(file.read_bytes(), None)
    if not isinstance(private, rsa.RSAPrivateKey):
        raise TypeError("not an RSA key")
    spki = private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return f"v=DKIM1; k=rsa; p={base64.b64encode(spki).decode()}"


def make_key(file: Path) -> None:
    """Make a private key for DKIM that only the desk's user can read; an existing one stays."""
    if file.exists():
        return
    pem = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:
        target.write(pem)


async def to_create(domain: str, selector: str, key_file: str) -> list[Finding]:
    """The records to create, each as a line for the form of your provider of names."""
    found = [
        Finding("record to create", True, f"{domain} MX 10 (the name of your mail server)"),
        Finding("record to create", True, f"{domain} TXT {spf_record()}"),
        Finding("record to create", True, f"_dmarc.{domain} TXT {dmarc_record()}"),
    ]
    if not selector or not key_file:
        detail = "no key: set BOT_DKIM_SELECTOR and BOT_DKIM_KEY_FILE if your relay does not sign"
        return [*found, Finding("DKIM", True, detail)]
    try:
        await asyncio.to_thread(make_key, Path(key_file))
        record = public_key(Path(key_file))
    except (OSError, ValueError, TypeError) as error:
        remedy = "Set BOT_DKIM_KEY_FILE to a place where the desk may write, or to an RSA key."
        return [*found, Finding("DKIM key", False, type(error).__name__, remedy)]
    detail = f"{selector}._domainkey.{domain} TXT {record}"
    return [*found, Finding("record to create", True, detail)]
