"""Who really sent a mail: SPF, DKIM and DMARC, as a trusted mail server found or as found here.

The result is shown to counsellors. It never decides whether a mail is taken: forwarded mail fails
these tests, and the worker who forwards is a worker still.
"""

import asyncio
import contextlib
import functools
import ipaddress
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.message import Message

import dkim
import dns.exception
import dns.resolver
import spf
from authheaders.dmarc_lookup import get_org_domain, receiver_record

PATIENCE = 3.0
"""Seconds that a mail waits for its check; what takes longer counts as not checked."""
LOOKUP = 2.0
MOST_SIGNATURES = 4
MOST_BYTES = 10 * 1024 * 1024
_POOL = ThreadPoolExecutor(4, "mail-auth")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Results as RFC 8601 names them (pass, fail, none …); empty: not checked."""

    spf: str = ""
    dkim: str = ""
    dmarc: str = ""
    domain: str = ""

    def __str__(self) -> str:
        """The results as shown: "SPF pass, DKIM pass (example.org), DMARC pass"."""
        signed = f"DKIM {self.dkim}" + (f" ({self.domain})" if self.domain else "")
        found = (
            f"SPF {self.spf}" if self.spf else "",
            signed if self.dkim else "",
            f"DMARC {self.dmarc}" if self.dmarc else "",
        )
        return ", ".join(one for one in found if one) or "not checked"


def from_headers(message: Message, server: str) -> Verdict:
    """What the server with that authserv-id (RFC 8601) wrote into the mail on top.

    It must remove such headers of others that bear its name; the topmost of each kind counts.
    """
    found: dict[str, str] = {}
    domain = ""
    for value in message.get_all("Authentication-Results") or ():
        plain = re.sub(r"\s+", " ", re.sub(r"\([^()]*\)", " ", str(value)))
        name, *results = plain.split(";")
        if not server or name.lower().split()[:1] != [server.lower()]:
            continue
        here: dict[str, str] = {}
        for result in results:
            method = re.match(r"\s*(spf|dkim|dmarc)\s*=\s*([a-z]+)", result.lower())
            if method and (method[1] not in here or method[2] == "pass" != here[method[1]]):
                here[method[1]] = method[2]
                signer = re.search(r"header\.[di]\s*=\s*\"?(?:[^@\s]*@)?([\w.-]+)", result)
                if method[1] == "dkim" and "dkim" not in found:
                    domain = signer[1].lower() if signer else ""
        found = here | found
    return Verdict(found.get("spf", ""), found.get("dkim", ""), found.get("dmarc", ""), domain)


async def checked(raw: bytes, peer: str, helo: str, sender: str, origin: str) -> Verdict:
    """Check a mail. `peer`: the address that it came from; `sender`: of the envelope; `origin`: in
    From. Never raises, never takes longer than `PATIENCE`."""
    loop = asyncio.get_running_loop()
    work = functools.partial(check, raw, peer, helo, sender, origin)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            return await loop.run_in_executor(_POOL, work)
    return Verdict()


def check(raw: bytes, peer: str, helo: str, sender: str, origin: str) -> Verdict:
    """The same, in this thread."""
    result, domain = "", ""
    signers: list[str] = []
    if len(raw) <= MOST_BYTES:
        result, domain, signers = _dkim(raw)
    policy = _spf(peer, helo, sender)
    authors = origin.rpartition("@")[2].lower()
    passed = sender.rpartition("@")[2].lower() if policy == "pass" else ""
    return Verdict(policy, result, _dmarc(authors, signers, passed), domain)


def _spf(peer: str, helo: str, sender: str) -> str:
    with contextlib.suppress(Exception):  # whatever the library trips over: not checked
        if ipaddress.ip_address(peer).is_global:
            return str(spf.check2(peer, sender, helo, timeout=LOOKUP, querytime=LOOKUP)[0])
    return ""  # our own relay stands between us and the sender


def _dkim(raw: bytes) -> tuple[str, str, list[str]]:
    """The result, the domain of the signature that it tells of, and all domains that passed."""
    result, domain = "none", ""
    passed: list[str] = []
    with contextlib.suppress(Exception):  # headers that the library trips over
        signed = dkim.DKIM(raw, timeout=LOOKUP)
        count = sum(name.lower() == b"dkim-signature" for name, _ in signed.headers)
        for number in range(min(count, MOST_SIGNATURES)):
            one = "fail"
            try:
                one = "pass" if signed.verify(number) else "fail"
            except (dkim.DnsTimeoutError, dns.exception.DNSException):
                one = "temperror"
            except dkim.ValidationError:  # changed on its way, or signed by somebody else
                one = "fail"
            except Exception:  # a signature or key that cannot be read
                one = "permerror"
            found = (signed.domain or b"").decode("ascii", "replace").lower()
            if one == "pass":
                passed.append(found)
            if result == "none" or (one == "pass" and result != "pass"):
                result, domain = one, found
    return result, domain, passed


def _dmarc(author: str, signers: list[str], sender: str) -> str:
    """Whether the domain in From stands behind the mail, by its own published rule."""
    if not author:
        return ""
    try:
        record, _ = receiver_record(author, txt)
    except (dns.exception.DNSException, OSError):
        return "temperror"
    except Exception:  # a record that cannot be read
        return "permerror"
    if not record or not record.get("p"):
        return "none"
    for domains, mode in ((signers, record.get("adkim", "r")), ([sender], record.get("aspf", "r"))):
        for domain in filter(None, domains):
            if domain == author or (mode != "s" and _org(domain) == _org(author)):
                return "pass"
    return "fail"


@functools.lru_cache(1000)
def _org(domain: str) -> str:
    return str(get_org_domain(domain))


def txt(name: str) -> str | None:
    """The DMARC record at a name, else its first TXT record.

    Raises:
        dns.exception.DNSException: the name server did not answer.
    """
    found = records(name, "TXT")
    return next((one for one in found if one.startswith("v=DMARC1")), next(iter(found), None))


def records(name: str, kind: str) -> list[str]:
    """The DNS records of a name, as text; none if there are none.

    Raises:
        dns.exception.DNSException: the name server did not answer.
    """
    try:
        answer = dns.resolver.resolve(name, kind, lifetime=LOOKUP)
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
        return []
    if kind == "TXT":
        return [b"".join(one.strings).decode("utf-8", "replace") for one in answer]
    return [one.to_text() for one in answer]
