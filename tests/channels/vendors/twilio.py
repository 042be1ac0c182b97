"""Twilio's peer: messages, numbers and the account. Its telephone half is in `twilio_voice.py`.

It refuses as Twilio does, by Twilio's error codes, and signs its web hooks with Twilio's own code.
"""

import base64
import itertools
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from twilio.request_validator import RequestValidator

from tests.channels.vendors import Vendor

ACCOUNT = "AC" + "0f" * 16
TOKEN = "twilio-auth-token-of-the-tests"
NUMBER = "+815031234567"
ROOT = f"/2010-04-01/Accounts/{ACCOUNT}"
CALL_FIELDS = {"To", "From", "Body", "StatusCallback"}
"""Those that the desk needs; Twilio knows more."""
E164 = re.compile(r"\+[1-9]\d{6,14}")
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYPgPAAEFAQF/pt1vAAAAAElFTkSuQmCC"
)


def signed(url: str, fields: Mapping[str, str], token: str = TOKEN) -> dict[str, str]:
    """The headers with which Twilio calls a web hook at `url`."""
    signature = RequestValidator(token).compute_signature(url, dict(fields))
    return {
        "Content-Type": "application/x-www-form-urlencoded; charset=UTF-8",
        "X-Twilio-Signature": signature,
        "User-Agent": "TwilioProxy/1.1",
    }


def encoded(fields: Mapping[str, str]) -> bytes:
    """Fields as a form."""
    return urlencode(fields).encode()


class Twilio(Vendor):
    """An account with one number. `messages` is what Twilio has, both ways, the oldest first;
    `stopped`: numbers that wrote STOP; `files`: contents by the id of a media."""

    def __init__(self) -> None:
        super().__init__(
            [
                Route(f"{ROOT}/Messages.json", self._send, methods=["POST"]),
                Route(f"{ROOT}/Messages.json", self._list),
                Route(f"{ROOT}/Messages/{{message}}/Media.json", self._media),
                Route(f"{ROOT}/Messages/{{message}}/Media/{{media}}", self._file),
                Route("/stored/{media}", self._stored),
                Route(f"{ROOT}/IncomingPhoneNumbers.json", self._numbers),
                Route(
                    f"{ROOT}/IncomingPhoneNumbers/{{number}}.json", self._number, methods=["POST"]
                ),
                Route("/2010-04-01/Accounts/{account}.json", self._account),
            ]
        )
        self._ids = itertools.count(1)
        self.status, self.kind = "active", "Full"
        self.elsewhere = ""
        self.reset()

    def reset(self) -> None:
        """As on the first day."""
        self.messages: list[dict[str, Any]] = []
        self.stopped: set[str] = set()
        self.files: dict[str, bytes] = {}
        self.number: dict[str, Any] = {
            "sid": "PN" + "ab" * 16,
            "account_sid": ACCOUNT,
            "phone_number": NUMBER,
            "capabilities": {"voice": True, "sms": True, "mms": False, "fax": False},
            "sms_url": "https://demo.twilio.com/welcome/sms/reply",
            "sms_method": "POST",
            "sms_fallback_url": "",
            "sms_fallback_method": "POST",
            "sms_application_sid": "",
        }

    # -- what a test does ---------------------------------------------------------------------

    @property
    def sent(self) -> list[dict[str, Any]]:
        """What it took from the desk."""
        return [one for one in self.messages if one["direction"] == "outbound-api"]

    def arrived(self, who: str, text: str, *media_types: str) -> dict[str, Any]:
        """An SMS that reached the number and that no web hook has told of."""
        row = self._row("inbound", who, NUMBER, text, len(media_types))
        for media_type in media_types:
            media = f"ME{next(self._ids):032x}"
            self.files[media] = PNG
            row["media"].append({"sid": media, "content_type": media_type})
        self.messages.append(row)
        return row

    def report(
        self, row: Mapping[str, Any], status: str, error: str = ""
    ) -> tuple[str, dict[str, str], bytes]:
        """The status callback of an SMS: path, headers, body."""
        url = row["callback"].partition("#")[0]
        fields = {
            "AccountSid": ACCOUNT,
            "ApiVersion": "2010-04-01",
            "From": row["from"],
            "MessageSid": row["sid"],
            "MessageStatus": status,
            "SmsSid": row["sid"],
            "SmsStatus": status,
            "To": row["to"],
        } | ({"ErrorCode": error} if error else {})
        parts = urlsplit(url)
        return f"{parts.path}?{parts.query}", signed(url, fields), encoded(fields)

    # -- what Twilio does ---------------------------------------------------------------------

    def _row(self, direction: str, sender: str, to: str, body: str, media: int) -> dict[str, Any]:
        sid = f"{'MM' if media else 'SM'}{next(self._ids):032x}"
        stamp = format_datetime(datetime.now(UTC))
        return {
            "account_sid": ACCOUNT,
            "api_version": "2010-04-01",
            "body": body,
            "date_created": stamp,
            "date_sent": stamp if direction == "inbound" else None,
            "date_updated": stamp,
            "direction": direction,
            "error_code": None,
            "error_message": None,
            "from": sender,
            "messaging_service_sid": None,
            "num_media": str(media),
            "num_segments": "1",
            "price": None,
            "price_unit": None,
            "sid": sid,
            "status": "received" if direction == "inbound" else "queued",
            "subresource_uris": {"media": f"{ROOT}/Messages/{sid}/Media.json"},
            "to": to,
            "uri": f"{ROOT}/Messages/{sid}.json",
            "media": [],
        }

    async def _send(self, request: Request) -> Response:
        if (refused := _stranger(request)) is not None:
            return refused
        fields = dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))
        to, body = fields.get("To", ""), fields.get("Body", "")
        callback = fields.get("StatusCallback", "")
        if unknown := fields.keys() - CALL_FIELDS:
            return refuse(400, 20001, f"Unknown parameters {sorted(unknown)}")
        if not to:
            return refuse(400, 21604, "A 'To' phone number is required.")
        if not E164.fullmatch(to):
            return refuse(400, 21211, f"The 'To' number {to} is not a valid phone number.")
        if fields.get("From") != NUMBER:
            return refuse(400, 21659, "'From' is not a Twilio phone number of this account.")
        if not body.strip():
            return refuse(400, 21602, "Message body is required.")
        if len(body) > 1600:
            return refuse(400, 21617, "The message body exceeds the 1600 character limit.")
        if not callback.startswith("https://"):
            return refuse(400, 21609, f"The 'StatusCallback' URL {callback} is not valid.")
        if to in self.stopped:
            return refuse(400, 21610, "Attempt to send to unsubscribed recipient")
        row = self._row("outbound-api", NUMBER, to, body, 0)
        self.messages.append(row | {"callback": callback})
        return JSONResponse(row, 201)

    async def _list(self, request: Request) -> Response:
        if (refused := _stranger(request)) is not None:
            return refused
        wanted = request.query_params
        since = wanted.get("DateSent>", "")
        rows = [
            row
            for row in reversed(self.messages)
            if wanted.get("To", row["to"]) == row["to"]
            and wanted.get("From", row["from"]) == row["from"]
            and (not since or (row["date_sent"] is not None and _iso(row["date_sent"]) >= since))
        ]
        return JSONResponse({"messages": rows, "page_size": 50, "next_page_uri": None})

    async def _media(self, request: Request) -> Response:
        if (refused := _stranger(request)) is not None:
            return refused
        sid = request.path_params["message"]
        rows = [
            {**media, "parent_sid": sid, "uri": f"{ROOT}/Messages/{sid}/Media/{media['sid']}.json"}
            for row in self.messages
            if row["sid"] == sid
            for media in row["media"]
        ]
        return JSONResponse({"media_list": rows, "next_page_uri": None})

    async def _file(self, request: Request) -> Response:
        if (refused := _stranger(request)) is not None:
            return refused
        media = request.path_params["media"]
        if media not in self.files:
            return refuse(404, 20404, "The requested resource was not found")
        return RedirectResponse(self.elsewhere or f"/stored/{media}", 307)

    async def _stored(self, request: Request) -> Response:
        return Response(self.files[request.path_params["media"]], media_type="image/png")

    async def _numbers(self, request: Request) -> Response:
        if (refused := _stranger(request)) is not None:
            return refused
        ours = request.query_params.get("PhoneNumber") in {None, NUMBER}
        rows = [self.number] if ours else []
        return JSONResponse({"incoming_phone_numbers": rows, "next_page_uri": None})

    async def _number(self, request: Request) -> Response:
        if (refused := _stranger(request)) is not None:
            return refused
        changes = dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))
        names = {
            "SmsUrl": "sms_url",
            "SmsMethod": "sms_method",
            "SmsFallbackUrl": "sms_fallback_url",
            "SmsFallbackMethod": "sms_fallback_method",
            "SmsApplicationSid": "sms_application_sid",
        }
        if unknown := changes.keys() - names.keys():
            return refuse(400, 20001, f"Unknown parameters {sorted(unknown)}")
        self.number |= {names[name]: value for name, value in changes.items()}
        return JSONResponse(self.number)

    async def _account(self, request: Request) -> Response:
        if (refused := _stranger(request)) is not None:
            return refused
        if request.path_params["account"] != ACCOUNT:
            return refuse(404, 20404, "The requested resource was not found")
        return JSONResponse({"sid": ACCOUNT, "status": self.status, "type": self.kind})


def refuse(status: int, code: int, message: str) -> Response:
    """An error in Twilio's form."""
    body = {"code": code, "message": message, "status": status}
    return JSONResponse(body, status)


def _stranger(request: Request) -> Response | None:
    account = base64.b64encode(f"{ACCOUNT}:{TOKEN}".encode()).decode()
    if request.headers.get("authorization") == f"Basic {account}":
        return None
    return refuse(401, 20003, "Authenticate")


def _iso(stamp: str) -> str:
    return datetime.strptime(stamp, "%a, %d %b %Y %H:%M:%S %z").strftime("%Y-%m-%dT%H:%M:%SZ")
