"""The Twilio account that SMS and telephone share: settings, client, and the check of web hooks.

Source: Twilio's documentation of request signing (X-Twilio-Signature: HMAC-SHA1 over the URL that
Twilio called and the sorted form fields) and its helper library.
"""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from starlette.requests import Request
from twilio.http.async_http_client import AsyncTwilioHttpClient
from twilio.http.response import Response as TwilioResponse
from twilio.request_validator import RequestValidator
from twilio.rest import Client

from channels.message import RateLimitedError, RefusedError
from channels.webhook import called_url, raw_body

BODY_LIMIT = 256 * 1024
RETRY = "#rc=5&rp=all"
"""Ending of a web hook's URL: Twilio tries again, within 15 seconds, after any failure. Without it
Twilio calls once, and what a restart or a full disk has kept from us is never brought again.
Source: Twilio's documentation of connection overrides."""
PAUSE = 5.0
"""Seconds to wait when Twilio says "too many requests" and not for how long."""


class TwilioSettings(BaseSettings):
    """The account at Twilio."""

    model_config = SettingsConfigDict(env_prefix="BOT_TWILIO_", env_file=".env", extra="ignore")

    account_sid: str = Field("", description="Twilio: Account SID (AC…). Empty: no SMS, no calls.")
    auth_token: SecretStr = Field(SecretStr(""), description="Twilio: Auth Token.")
    api_url: str = Field(
        "", description="Another address of Twilio's API (for tests). Empty: Twilio's own."
    )
    sms_number: str = Field("", description="Number for SMS, as +81…. Empty: no SMS.")
    voice_number: str = Field("", description="Number for calls, as +81…. Empty: no calls.")

    @field_validator("account_sid")
    @classmethod
    def _sid(cls, value: str) -> str:
        if value and not re.fullmatch(r"AC[0-9a-zA-Z]{8,40}", value):
            raise ValueError("give the Account SID, which begins with AC")
        return value

    @field_validator("sms_number", "voice_number")
    @classmethod
    def _number(cls, value: str) -> str:
        plain = re.sub(r"[\s()-]", "", value)
        if plain and not re.fullmatch(r"\+[1-9]\d{6,14}", plain):
            raise ValueError("give the number as +81…, without its first 0")
        return plain

    @model_validator(mode="after")
    def _both(self) -> "TwilioSettings":
        given = (self.account_sid, self.auth_token.get_secret_value())
        if any((*given, self.sms_number, self.voice_number)) and not all(given):
            missing = "BOT_TWILIO_AUTH_TOKEN" if given[0] else "BOT_TWILIO_ACCOUNT_SID"
            raise ValueError(f"{missing} is missing; SMS and telephone need both")
        return self

    @property
    def configured(self) -> bool:
        """Whether there is an account."""
        return bool(self.account_sid and self.auth_token.get_secret_value())


class _Http(AsyncTwilioHttpClient):  # type: ignore[misc]  # no types are published
    """Twilio's own asynchronous client; `api_url` takes the place of its hosts."""

    def log_request(self, kwargs: dict[str, Any]) -> None:
        """Nothing: the original logs telephone numbers."""

    def __init__(self, api_url: str) -> None:
        super().__init__(pool_connections=True, timeout=20)
        self.api_url = api_url

    async def request(self, method: str, url: str, *args: Any, **more: Any) -> TwilioResponse:
        if self.api_url:
            parts = urlsplit(url)
            query = f"?{parts.query}" if parts.query else ""
            url = f"{self.api_url}{parts.path}{query}"
        more["timeout"] = more.get("timeout") or self.timeout  # the original waits for ever
        answer = await super().request(method, url, *args, **more)
        if answer.status_code == 429:  # the SDK's own error does not tell how long to wait
            wait = str((answer.headers or {}).get("Retry-After", ""))
            seconds = float(wait) if wait.isdecimal() else PAUSE
            raise RateLimitedError("Twilio: too many requests", min(seconds, 3600.0))
        return answer


def client(settings: TwilioSettings) -> Client:
    """Twilio's client; it must be made inside a running event loop and closed with `close`.

    Besides Twilio's and aiohttp's errors its calls raise `RateLimitedError` and `TimeoutError`.
    """
    return Client(
        settings.account_sid,
        settings.auth_token.get_secret_value(),
        http_client=_Http(settings.api_url),
    )


async def close(opened: Client) -> None:
    """Close a client's connections."""
    http = opened.http_client
    if isinstance(http, AsyncTwilioHttpClient):
        await http.close()


async def form(request: Request, settings: TwilioSettings, public_url: str) -> Mapping[str, str]:
    """The fields of a web hook whose signature is right.

    Raises:
        PermissionError: forged, or `public_url` is not the URL that Twilio called.
        RefusedError: too big or no form.
    """
    raw = await raw_body(request, BODY_LIMIT)
    try:
        fields = parse_qsl(raw.decode("utf-8"), keep_blank_values=True, max_num_fields=500)
    except (UnicodeDecodeError, ValueError):
        raise RefusedError("not readable as a form") from None
    values = dict(fields)
    validator = RequestValidator(settings.auth_token.get_secret_value())
    signature = request.headers.get("x-twilio-signature", "")
    url = called_url(request, public_url)
    # Twilio does not document whether it signs the ending that it does not send.
    if not any(validator.validate(one, values, signature) for one in (url, url + RETRY)):
        raise PermissionError
    return values
