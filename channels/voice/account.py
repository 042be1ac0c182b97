"""The number at Twilio: what is looked at, what is set, recordings, and calls of ours."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
from aiohttp import ClientError
from twilio.base.exceptions import TwilioException, TwilioRestException
from twilio.rest import Client

from channels.message import (
    Finding,
    RateLimitedError,
    RefusedError,
    RejectedError,
    SendError,
    TemporarySendError,
)
from channels.twilio_account import TwilioSettings, client, close
from channels.voice.call import E164
from channels.voice.prompts import unvoiced, wanted
from channels.voice.speech import Speech
from config.settings import Settings

API = "https://api.twilio.com"
RECORDING_LIMIT = 20 * 1_048_576
"""Bytes; three minutes of MP3 are less than one megabyte."""
HOOKS = {
    "voice_url": "/voice/call",
    "voice_fallback_url": "/voice/fallback",
    "status_callback": "/voice/status",
}
"""The web hooks of a number as Twilio names them, and our routes. All are called by POST."""


class Account:
    """The account, as far as calls need it."""

    def __init__(self, settings: TwilioSettings, desk: Settings, speech: Speech) -> None:
        self.settings, self.desk, self.speech = settings, desk, speech

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[Client]:
        opened = client(self.settings)
        try:
            yield opened
        except TwilioRestException as error:
            raise _refusal(error) from None
        except (ClientError, TwilioException, OSError, TimeoutError) as error:
            raise TemporarySendError(f"Twilio is unreachable ({type(error).__name__})") from None
        finally:
            await close(opened)

    async def ring(self, number: str, place: str) -> str:
        """Call a number; `place` tells what is heard there. Returns Twilio's id of the call.

        Raises:
            SendError: Twilio did not take it.
        """
        async with self._client() as twilio:
            made = await twilio.calls.create_async(
                to=number,
                from_=self.settings.voice_number,
                url=self.desk.url + place,
                method="POST",
                timeout=30,
            )
            return str(made.sid)

    async def recording(self, sid: str) -> tuple[str, bytes]:
        """A recording of this account, from Twilio's own address and no other.

        Raises:
            SendError: not here (yet), or Twilio is away.
            RefusedError: too big.
        """
        account = self.settings.account_sid
        url = f"{self.settings.api_url or API}/2010-04-01/Accounts/{account}/Recordings/{sid}.mp3"
        token = self.settings.auth_token.get_secret_value()
        kept = bytearray()
        try:
            async with (
                httpx.AsyncClient(timeout=20, follow_redirects=True, auth=(account, token)) as http,
                http.stream("GET", url) as answer,
            ):
                if answer.status_code == 410:
                    raise RejectedError("the recording was deleted at Twilio")
                if answer.status_code != 200:  # also 404: it is not ready yet
                    raise TemporarySendError(f"no recording (HTTP {answer.status_code})")
                async for part in answer.aiter_bytes():
                    kept += part
                    if len(kept) > RECORDING_LIMIT:
                        raise RefusedError("too big")
        except httpx.HTTPError as error:
            raise TemporarySendError(f"Twilio is unreachable ({type(error).__name__})") from None
        return f"{sid[:8]}.mp3", bytes(kept)

    # -- the set-up ---------------------------------------------------------------------------

    async def check(self) -> list[Finding]:
        """Public URL, account, number and web hooks, recordings; see `Channel.check`."""
        return [self._public_url(), *await self._number(change=False), *self._recordings()]

    async def setup(self) -> list[Finding]:
        """Set the web hooks of the number; see `Channel.setup`."""
        public = self._public_url()
        return [public, *(await self._number(change=True) if public.ok else [])]

    def _public_url(self) -> Finding:
        good = self.desk.public_url.startswith("https://")
        return Finding(
            "the desk can be reached by Twilio",
            good,
            self.desk.public_url or "BOT_PUBLIC_URL is empty",
            "Set BOT_PUBLIC_URL to the https:// address of the desk, and start it again.",
        )

    async def _number(self, change: bool) -> list[Finding]:
        number = self.settings.voice_number
        if not E164.fullmatch(number):
            remedy = "Write BOT_TWILIO_VOICE_NUMBER as +81…, without spaces and dashes."
            return [Finding("the number", False, number, remedy)]
        try:
            async with self._client() as twilio:
                found = await twilio.incoming_phone_numbers.list_async(phone_number=number, limit=1)
                account = Finding("the account", True)
                if not found:
                    remedy = (
                        "Buy the number in Twilio's console (Phone Numbers), or correct "
                        "BOT_TWILIO_VOICE_NUMBER or BOT_TWILIO_ACCOUNT_SID."
                    )
                    return [account, Finding("the number", False, "not in this account", remedy)]
                row = found[0]
                wanted_hooks = {name: self.desk.url + place for name, place in HOOKS.items()}
                if change:
                    methods = {"voice_method", "voice_fallback_method", "status_callback_method"}
                    row = await row.update_async(**wanted_hooks, **dict.fromkeys(methods, "POST"))
        except SendError as error:
            return [Finding("the account", False, str(error), REMEDY)]
        able = bool((row.capabilities or {}).get("voice"))
        return [
            account,
            Finding(
                "the number can take calls",
                able,
                number,
                "Choose a number with the capability Voice in Twilio's console.",
            ),
            *(
                Finding(
                    f"the web hook {name}",
                    getattr(row, name) == place,
                    str(getattr(row, name) or "not set"),
                    f"Run `bot channels setup voice`, or write {place} (HTTP POST) there.",
                )
                for name, place in wanted_hooks.items()
            ),
        ]

    def _recordings(self) -> Iterator[Finding]:
        for code in unvoiced(self.speech):
            prompts = wanted(self.speech, code)
            bad = [one for one in prompts if one.state in ("missing", "wrong format")]
            machine = sum(one.state == "placeholder" for one in prompts)
            detail = f"{len(prompts) - len(bad)} of {len(prompts)}"
            if machine:
                detail += f", {machine} of them a machine's placeholder: let a speaker record them"
            yield Finding(
                f"recordings in {code}",
                not bad,
                detail,
                f"Run `bot channels prompts {code}`; it makes placeholders and lists the words.",
            )


REMEDY = (
    "Look up Account SID and Auth Token in Twilio's console and write them into "
    "BOT_TWILIO_ACCOUNT_SID and BOT_TWILIO_AUTH_TOKEN. If they are right, try again later."
)


def _refusal(error: TwilioRestException) -> SendError:
    """What an answer of Twilio's means. Its words may hold a number, so only its code is told."""
    reason = f"Twilio refused (HTTP {error.status}, code {error.code})"
    if error.status == 429:
        return RateLimitedError(reason, 30)
    if error.status >= 500 or error.status in (401, 403):  # the operator can repair a wrong token
        return TemporarySendError(reason)
    return RejectedError(reason)
