"""SMS: what Twilio brings, what it is asked to send, and what each of its errors means."""

import json
import zlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from channels.context import ChannelContext
from channels.message import (
    Attachment,
    BlockedError,
    Button,
    Channel,
    OutboundMessage,
    Presence,
    RateLimitedError,
    Receipt,
    RejectedError,
    TemporarySendError,
)
from channels.sms import Sms, SmsSettings
from channels.twilio_account import RETRY, TwilioSettings
from tests.channels.vendors import Cut, Status, Vendor
from tests.channels.vendors.twilio import ACCOUNT, NUMBER, ROOT, TOKEN, Twilio, encoded, signed
from tests.channels.world import PUBLIC_URL, TEXTS, Incoming, Outgoing, Request

MAI = "+819012345678"
HOOK, STATUS = "/sms/webhook", "/sms/status"


def sms(path: str = HOOK, token: str = TOKEN, ending: str = "", **fields: str) -> Request:
    """A request as Twilio makes it; an empty value leaves a field out."""
    usual = {
        "AccountSid": ACCOUNT,
        "ApiVersion": "2010-04-01",
        "Body": "help",
        "From": MAI,
        "FromCountry": "JP",
        "MessageSid": "SM01",
        "NumMedia": "0",
        "NumSegments": "1",
        "SmsStatus": "received",
        "To": NUMBER,
    }
    kept = {name: value for name, value in (usual | fields).items() if value}
    return Request(path, encoded(kept), signed(PUBLIC_URL + path + ending, kept, token))


class SmsWorld:
    """Twilio's number and a telephone in Japan. Whole answers; notices are in `test_sms.py`."""

    name = "sms"
    secrets = (TOKEN,)

    def __init__(self) -> None:
        self._who: dict[str, str] = {}

    def vendor(self) -> Vendor:
        return Twilio()

    def environment(self, vendor: Vendor) -> dict[str, str]:
        return {
            "BOT_TWILIO_ACCOUNT_SID": ACCOUNT,
            "BOT_TWILIO_AUTH_TOKEN": TOKEN,
            "BOT_TWILIO_API_URL": vendor.url,
            "BOT_TWILIO_SMS_NUMBER": NUMBER,
            "BOT_SMS_NOTICE_ONLY": "false",
            "BOT_PUBLIC_URL": PUBLIC_URL,
        }

    def open(self, context: ChannelContext, vendor: Vendor) -> Channel:
        assert isinstance(vendor, Twilio)
        vendor.reset()
        vendor.stopped.add(STOPPED)
        return Sms(context, account(vendor), SmsSettings(notice_only=False, _env_file=None))

    def hears(self, who: str, text: str, key: str) -> Request:
        number = f"+8190{zlib.crc32(who.encode()) % 10**8:08d}"
        self._who[number] = who
        return sms(From=number, Body=text, MessageSid=f"SM{who}{key}")

    def said(self, vendor: Vendor) -> list[tuple[str, str]]:
        assert isinstance(vendor, Twilio)
        return [(self._who.get(one["to"], one["to"]), one["body"]) for one in vendor.sent]

    def body(self, call_body: bytes) -> dict[str, str]:
        return dict(parse_qsl(call_body.decode(), keep_blank_values=True))

    def signed(self, payload: Any) -> tuple[Request, str]:
        if isinstance(payload, Mapping):
            body = encoded({str(name): str(value) for name, value in payload.items()})
        else:
            body = json.dumps(payload).encode()
        fields = dict(parse_qsl(body.decode(), keep_blank_values=True))
        return Request(HOOK, body, signed(PUBLIC_URL + HOOK, fields)), ""


def account(vendor: Vendor, **changed: Any) -> TwilioSettings:
    """The settings of the account at a peer."""
    settings = {
        "account_sid": ACCOUNT,
        "auth_token": TOKEN,
        "api_url": vendor.url,
        "sms_number": NUMBER,
    }
    return TwilioSettings(**(settings | changed), _env_file=None)  # type: ignore[arg-type]


WORLD = SmsWorld()
STOPPED = "+818087654321"
"""A number that wrote STOP."""


def heard(**fields: Any) -> dict[str, Any]:
    return {"channel": "sms", "external_id": "SM01", "address": MAI, "kind": "text"} | fields


def media(number: int, where: str = "https://api.twilio.com") -> dict[str, str]:
    return {
        f"MediaUrl{number}": f"{where}{ROOT}/Messages/MM1/Media/ME{number}",
        f"MediaContentType{number}": "image/jpeg",
    }


def file(number: int) -> Attachment:
    return Attachment("", "image/jpeg", source=f"{ROOT}/Messages/MM1/Media/ME{number}")


def report(status: str, error: str = "", keys: str = "12", **fields: str) -> Request:
    path = f"{STATUS}?keys={keys}" if keys else STATUS
    told = {"MessageStatus": status, "ErrorCode": error, "Body": "", "NumMedia": ""}
    return sms(path, **(told | fields))


def receipts(state: Any, reason: str = "", *keys: str) -> list[Receipt]:
    return [
        *(Receipt("sms", state, key=key, reason=reason) for key in keys),
        Receipt("sms", state, external_id="SM01", reason=reason),
    ]


LONG = "công ty không trả lương hai tháng nay 😢 " * 35
INCOMING = [
    Incoming(
        "a message",
        sms(),
        messages=[heard(text="help", original="", attachments=0)],
        answer=lambda answer: (
            answer.text == "<Response/>" and answer.headers["content-type"].startswith("text/xml")
        ),
    ),
    Incoming("many languages", sms(Body="給料 ငွေ तलब"), messages=[heard(text="給料 ငွေ तलब")]),
    Incoming("long, in parts that Twilio joined", sms(Body=LONG), messages=[heard(text=LONG)]),
    Incoming("nothing in it", sms(Body=""), messages=[heard(text="")]),
    Incoming("NUL in it", sms(Body="he\x00lp"), messages=[heard(text="help")]),
    Incoming("a plus and an ampersand", sms(Body="a+b & c"), messages=[heard(text="a+b & c")]),
    Incoming("an old name of the id", sms(MessageSid="", SmsSid="SM01"), messages=[heard()]),
    Incoming("signed over the retry ending, too", sms(ending=RETRY), messages=[heard()]),
    # Opt-out. Twilio itself answers these words; Advanced Opt-Out adds OptOutType.
    Incoming("STOP", sms(Body="STOP"), messages=[heard(text="STOP")]),
    Incoming(
        "STOP, told by Advanced Opt-Out",
        sms(Body="Stop", OptOutType="STOP"),
        messages=[heard(text="Stop", original="")],
        notices=[Presence("sms", MAI, here=False)],
    ),
    Incoming(
        "STOP by a word that was set at Twilio",
        sms(Body="やめて", OptOutType="STOP"),
        messages=[heard(text="stop", original="やめて")],
        notices=[Presence("sms", MAI, here=False)],
    ),
    Incoming(
        "START",
        sms(Body="START", OptOutType="START"),
        messages=[heard(text="START", kind="start")],
        notices=[Presence("sms", MAI, here=True)],
    ),
    Incoming("HELP", sms(Body="HELP", OptOutType="HELP"), messages=[heard(text="HELP")]),
    # Files: none in Japan, but a telephone from abroad may send one.
    Incoming(
        "a picture",
        sms(Body="", NumMedia="1", **media(0)),
        messages=[heard(text="", kind="file", attachments=(file(0),))],
    ),
    Incoming(
        "words and two pictures",
        sms(NumMedia="2", **media(0), **media(1)),
        messages=[heard(text="help", kind="text", attachments=(file(0), file(1)))],
    ),
    Incoming(
        "a picture that is not at Twilio",
        sms(NumMedia="1", **media(0, "https://evil.example")),
        messages=[
            heard(attachments=(Attachment("", "image/jpeg", error="its address is not Twilio's"),))
        ],
    ),
    Incoming(
        "a picture at a broken address",
        sms(NumMedia="1", MediaUrl0="https://[/2010"),
        messages=[heard(attachments=1)],
    ),
    Incoming("a picture without an address", sms(NumMedia="1"), messages=[heard(attachments=1)]),
    Incoming("a number of pictures that is none", sms(NumMedia="9e9"), messages=[heard()]),
    # Senders.
    Incoming(
        "a sender with a name: kept; what is sent there is refused below",
        sms(From="DOCOMO"),
        messages=[heard(address="DOCOMO")],
    ),
    Incoming("our own number", sms(From=NUMBER)),
    Incoming("no sender", sms(From=""), status=400),
    Incoming("no id", sms(MessageSid=""), status=400),
    # Forgery.
    Incoming("another account's token", sms(token="other"), status=403),
    Incoming("no signature", Request(HOOK, sms().body, {}), status=403),
    Incoming(
        "signed for another address", Request(HOOK, sms().body, sms(STATUS).headers), status=403
    ),
    Incoming(
        "changed on the way",
        Request(HOOK, sms().body.replace(b"help", b"HELP"), sms().headers),
        status=403,
    ),
    Incoming("no form", Request(HOOK, b"\xff\xfe", sms().headers), status=400),
    Incoming("too big", Request(HOOK, b"a=" + b"x" * 300_000, sms().headers), status=413),
    Incoming("opened in a browser", Request(HOOK, method="GET"), status=405),
    # What became of an SMS.
    Incoming("queued", report("queued"), status=204),
    Incoming("sent", report("sent"), status=204),
    Incoming("unheard of", report("dancing"), status=204),
    Incoming("delivered", report("delivered"), 204, notices=receipts("delivered", "", "12")),
    Incoming("read", report("read"), 204, notices=receipts("read", "", "12")),
    Incoming(
        "three messages in one SMS",
        report("delivered", keys="12-13-14"),
        204,
        notices=receipts("delivered", "", "12", "13", "14"),
    ),
    Incoming("no keys", report("delivered", keys=""), 204, notices=receipts("delivered")),
    Incoming("odd keys", report("delivered", keys="x-"), 204, notices=receipts("delivered")),
    *(
        Incoming(
            f"{status}: {reason}",
            report(status, code),
            204,
            notices=receipts("failed", reason, "12"),
        )
        for status, code, reason in [
            ("undelivered", "30003", "the telephone is switched off or out of reach"),
            ("undelivered", "30005", "this number does not exist (any more)"),
            ("undelivered", "30006", "this is a landline, or its network takes no SMS"),
            ("undelivered", "30007", "the network took it for spam"),
            ("undelivered", "30008", "the network did not say why"),
            (
                "failed",
                "21610",
                "she wrote STOP to this number; Twilio sends again once she writes START",
            ),
            ("failed", "30999", "Twilio error 30999"),
            ("failed", "", "Twilio does not say why"),
            ("canceled", "x", "Twilio does not say why"),
        ]
    ),
    Incoming("a forged status", report("failed", token="other"), status=403),
    Incoming("a link that is none of ours", Request("/c/12.aaaaaa.bbbbbbbbbbbbbbb"), status=405),
    Incoming(
        "a link that was changed",
        Request("/c/12.aaaaaa.bbbbbbbbbbbbbbb", method="GET", headers={"Accept-Language": "vi"}),
        status=410,
        answer=lambda answer: (
            'lang="vi"' in answer.text and TEXTS("sms.link_old", "vi").body in answer.text
        ),
    ),
]


def out(key: str, text: str, address: str = MAI, **more: Any) -> OutboundMessage:
    return OutboundMessage(f"{key}/1", address, "en", text, **more)


def asked(body: str, keys: str, to: str = MAI) -> Any:
    wanted = {
        "To": to,
        "From": NUMBER,
        "Body": body,
        "StatusCallback": f"{PUBLIC_URL}{STATUS}?keys={keys}{RETRY}",
    }
    return lambda method, path, got: (
        (method, path, got) == ("POST", f"{ROOT}/Messages.json", wanted)
    )


def any_call(method: str, path: str, _: Any) -> bool:
    return (method, path) == ("POST", f"{ROOT}/Messages.json")


def linked(method: str, path: str, got: Any) -> bool:
    return any_call(method, path, got) and got["Body"].startswith(
        f"your letter\n\n{PUBLIC_URL}/files/"
    )


def error(status: int, code: int) -> Status:
    body = {"code": code, "message": f"not to {MAI}", "status": status}
    return Status(status, body=json.dumps(body).encode())


HELLO = [out("12", "Hello")]
SIX_HUNDRED = "あ" * 600
OUTGOING = [
    Outgoing("an SMS", HELLO, [asked("Hello", "12")]),
    Outgoing(
        "one turn is one SMS, in order",
        [out("12", "Hello."), out("13", "Your wage."), out("14", "Source: X.")],
        [asked("Hello.\n\nYour wage.\n\nSource: X.", "12-13-14")],
    ),
    Outgoing(
        "two, when ten segments are full",
        [out("12", SIX_HUNDRED), out("13", SIX_HUNDRED), out("14", "終わり")],
        [asked(SIX_HUNDRED, "12"), asked(f"{SIX_HUNDRED}\n\n終わり", "13-14")],
    ),
    Outgoing(
        "a tried one is not mixed with a new one",
        [out("12", "Hello", attempts=1), out("13", "there")],
        [asked("Hello", "12"), asked("there", "13")],
    ),
    Outgoing("typographic letters stay", [out("12", "“ok”…")], [asked("“ok”…", "12")]),
    Outgoing(
        "buttons never come here; one that did is left out",
        [out("12", "Hello", buttons=(Button("Yes", "/yes"),))],
        [asked("Hello", "12")],
    ),
    Outgoing(
        "a file is a link",
        [out("12", "your letter")],
        [linked],
        files=[("letter.txt", b"Dear Mai")],
    ),
    Outgoing("nothing", [out("12", "")], ids=[""]),
    Outgoing("a sender with a name", [out("12", "Hello", "DOCOMO")], error=BlockedError),
    Outgoing("a number of another kind", [out("12", "Hi", "0901234567")], error=BlockedError),
    Outgoing(
        "goodbye to one who wrote STOP",
        [out("12", TEXTS("stop.done", "en").body, STOPPED)],
        [any_call],
        error=BlockedError,
    ),
    Outgoing(
        "an answer to one who wrote STOP and then asked: a person must hear of it",
        [out("12", "Hello", STOPPED)],
        [any_call],
        error=RejectedError,
    ),
    *(
        Outgoing(
            f"{status}, {code}: {reason}", HELLO, [any_call], [error(status, code)], error=kind
        )
        for status, code, reason, kind in [
            (400, 21211, "no number", RejectedError),
            (400, 21408, "country not enabled", RejectedError),
            (400, 21608, "trial account", RejectedError),
            (400, 21612, "no route", RejectedError),
            (400, 21614, "no mobile number", RejectedError),
            (400, 21617, "too long", RejectedError),
            (400, 29999, "anything else", RejectedError),
            (429, 20429, "too fast", RateLimitedError),
            (429, 14107, "too fast", RateLimitedError),
            (400, 21611, "too many waiting", RateLimitedError),
            (401, 20003, "our token is wrong", TemporarySendError),
            (403, 20005, "our account is suspended", TemporarySendError),
            (400, 21606, "our number cannot send", TemporarySendError),
            (400, 21659, "our number is not ours", TemporarySendError),
            (404, 20404, "our account is wrong", TemporarySendError),
            (500, 20500, "Twilio is broken", TemporarySendError),
            (503, 20503, "Twilio is down", TemporarySendError),
        ]
    ),
    Outgoing("503, no JSON", HELLO, [any_call], [Status(503, body=b"x")], error=TemporarySendError),
    Outgoing("201, no JSON", HELLO, [any_call], [Status(201, body=b"x")], error=TemporarySendError),
    Outgoing("201, a list", HELLO, [any_call], [Status(201, body=b"[]")], error=TemporarySendError),
    Outgoing("the answer gets lost", HELLO, [any_call], [Cut()], error=TemporarySendError),
]

PAYLOADS = [
    {
        "MessageSid": "SM01",
        "From": MAI,
        "To": NUMBER,
        "Body": "help",
        "NumMedia": "2",
        **media(0),
        **media(1),
        "OptOutType": "STOP",
    }
]
