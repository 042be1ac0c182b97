"""The telephone: single requests of Twilio's. Whole calls are in `test_voice_calls.py`."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

import httpx

from bot.content import load_content
from channels.context import ChannelContext
from channels.log import Published
from channels.message import (
    Channel,
    NotConfiguredError,
    OutboundMessage,
)
from channels.twilio_account import TwilioSettings
from channels.voice import Voice
from config.settings import ROOT
from handoff.calls import Calls
from handoff.desk import Desk
from handoff.hours import load_hours
from tests.channels.vendors import Vendor
from tests.channels.vendors.twilio_voice import (
    ACCOUNT,
    NUMBER,
    TOKEN,
    call_sid,
    checked,
    peer,
    sign,
)
from tests.channels.world import PUBLIC_URL, Incoming, Outgoing, Request

MAI = "+819012345678"
NUMBERS = {"mai": MAI, "aung": "+818012345678"}
CALL = call_sid("one")
CONTENT = load_content(ROOT / "faq_data").content


def asked(place: str, token: str = TOKEN, **fields: str) -> Request:
    """A request of Twilio's about a call."""
    form = {"CallSid": CALL, "AccountSid": ACCOUNT, "From": MAI, "To": NUMBER, **fields}
    path = f"/voice/{place}"
    return Request(path, urlencode(form).encode(), sign(PUBLIC_URL + path, form, token))


class VoiceWorld:
    """The telephone and Twilio."""

    name = "voice"
    secrets: Sequence[str] = (TOKEN,)

    def vendor(self) -> Vendor:
        return peer()

    def environment(self, vendor: Vendor) -> dict[str, str]:
        return {
            "BOT_TWILIO_ACCOUNT_SID": ACCOUNT,
            "BOT_TWILIO_AUTH_TOKEN": TOKEN,
            "BOT_TWILIO_VOICE_NUMBER": NUMBER,
            "BOT_TWILIO_API_URL": vendor.url,
            "BOT_PUBLIC_URL": PUBLIC_URL,
        }

    def open(self, context: ChannelContext, vendor: Vendor) -> Channel:
        settings = TwilioSettings(
            account_sid=ACCOUNT,
            auth_token=TOKEN,  # type: ignore[arg-type]
            voice_number=NUMBER,
            api_url=vendor.url,
            _env_file=None,  # type: ignore[call-arg]
        )
        desk = Desk(CONTENT.texts, Published(), load_hours())
        return Voice(context, settings, Calls(desk), CONTENT.all_texts)

    def hears(self, who: str, text: str, key: str) -> Request:
        return asked(
            "heard?l=en&n=2", CallSid=call_sid(key), SpeechResult=text, From=NUMBERS.get(who, MAI)
        )

    def said(self, vendor: Vendor) -> list[tuple[str, str]]:
        assert vendor.calls is not None
        return []  # a caller hears the answers to her own requests

    def body(self, call_body: bytes) -> Any:
        return call_body

    def signed(self, payload: Any) -> tuple[Request, str]:
        """A request made of a payload that may be anything."""
        given = payload if isinstance(payload, dict) else {"form": payload}
        form = given.get("form")
        fields = form if isinstance(form, dict) else {"SpeechResult": form}
        named = {str(k): str(v) for k, v in fields.items()}
        named = {k.encode("utf-8", "replace").decode(): v for k, v in named.items()}
        named = {k: v.encode("utf-8", "replace").decode() for k, v in named.items()}
        step = given.get("step")
        query = urlencode({"l": given.get("l"), "n": given.get("n"), "m": given.get("m")})
        known = step if isinstance(step, str) and step in STEPS else "heard"
        path = f"/voice/{known}?{query}"
        body = urlencode(named).encode()
        return Request(path, body, sign(PUBLIC_URL + path, named)), ""


def twiml(*wanted: str) -> Any:
    """The answer is good TwiML with these parts in it."""

    def check(answer: httpx.Response) -> bool:
        checked(answer.text, PUBLIC_URL)
        return all(part in answer.text for part in wanted)

    return check


WORLD = VoiceWorld()

INCOMING = [
    Incoming(
        "a first call: every language says its key in its own voice",
        asked("call"),
        answer=twiml("press 2", "bấm phím 6", "vi-VN", 'input="dtmf speech"'),
    ),
    Incoming(
        "the key of a language",
        asked("language?n=1", Digits="6"),
        messages=[
            {"choice": "/language vi", "text": "Tiếng Việt", "address": MAI, "language_hint": "vi"}
        ],
    ),
    Incoming(
        "the name of a language, said",
        asked("language?n=1", SpeechResult="Vietnamese please."),
        messages=[{"choice": "/language vi", "external_id": f"{CALL}:1"}],
    ),
    Incoming(
        "the other languages are behind key 8",
        asked("language?n=1", Digits="8"),
        answer=twiml("pindutin ang 2", "p=1"),
    ),
    Incoming(
        "… and have keys of their own there",
        asked("language?n=2&p=1", Digits="1"),
        messages=[{"choice": "/language my"}],
    ),
    Incoming(
        "words instead of a language are words: they may be danger",
        asked("language?n=1", SpeechResult="help me he has a knife"),
        messages=[{"text": "help me he has a knife", "choice": "", "language_hint": ""}],
    ),
    Incoming(
        "a question in her own words",
        asked("heard?l=vi&n=3", SpeechResult="công ty nợ lương tôi"),
        messages=[
            {
                "text": "công ty nợ lương tôi",
                "external_id": f"{CALL}:3",
                "language_hint": "vi",
                "thread": {"call": CALL},
            }
        ],
    ),
    Incoming(
        "0 is a person, whatever was said before",
        asked("heard?l=vi&n=3", Digits="0", SpeechResult="ờ"),
        answer=twiml("<Redirect>", "/voice/person"),
    ),
    Incoming(
        "9 is danger: the numbers are said at once",
        asked("heard?l=en&n=3", Digits="9"),
        answer=twiml("1 1 0", "1 1 9", "e=1"),
    ),
    Incoming(
        "* is another language",
        asked("heard?l=en&n=3", Digits="*"),
        answer=twiml("日本語は1を押してください", "/voice/language"),
    ),
    Incoming(
        "silence once: asked again",
        asked("heard?l=en&n=3"),
        answer=twiml("I did not hear you", "t=1"),
    ),
    Incoming(
        "silence twice: a person",
        asked("heard?l=en&n=3&t=1"),
        answer=twiml("/voice/person"),
    ),
    Incoming(
        "who hides the number has a conversation of this call only",
        asked("heard?l=en&n=3", SpeechResult="hello", From="+266696687"),
        messages=[{"address": f"hidden:{CALL}"}],
    ),
    Incoming(
        "an unknown key is said to be one",
        asked("heard?l=en&n=3", Digits="5"),
        answer=twiml("does nothing here"),
    ),
    Incoming(
        "in Burmese nobody is asked to speak",
        asked("heard?l=my&n=3", Digits="#"),
        answer=twiml('input="dtmf"'),
    ),
    Incoming("the end of a call that nobody knows", asked("status", CallStatus="completed")),
    Incoming(
        "after a fault of ours, Japanese and English say so",
        asked("fallback", ErrorCode="11200"),
        answer=twiml("もう一度", "Please try again", "/voice/call"),
    ),
    Incoming(
        "a recording of somebody who was forgotten meanwhile is not kept",
        asked("recording?w=99", RecordingSid="RE" + "1" * 32, RecordingStatus="completed"),
    ),
    Incoming("a forged request", asked("heard?l=en&n=1", token="x", SpeechResult="hi"), 403),
    Incoming(
        "a good signature of another URL",
        Request(
            "/voice/heard?l=en&n=9",
            asked("heard?l=en&n=1", SpeechResult="hi").body,
            asked("heard?l=en&n=1", SpeechResult="hi").headers,
        ),
        403,
    ),
    Incoming("no call at all", asked("call", CallSid=""), 400),
    Incoming("a recording without an id", asked("recorded?w=1"), 400),
    Incoming("a step is asked for by POST only", Request("/voice/call", method="GET"), 405),
    Incoming(
        "no recorded prompt of that name",
        Request(f"/voice/prompts/my/{'0' * 64}.wav", method="GET"),
        404,
    ),
    Incoming(
        "no way out of the folder of prompts",
        Request("/voice/prompts/my/..%2F..%2Fdata.key", method="GET"),
        404,
    ),
]

OUTGOING = [
    Outgoing(
        "a counsellor's written words cannot be heard: kept",
        [OutboundMessage("7/1", MAI, "vi", "xin chào", from_counsellor=True)],
        error=NotConfiguredError,
    ),
    Outgoing(
        "what answers no call cannot be heard: kept",
        [OutboundMessage("8/1", MAI, "vi", "Tư vấn viên đang ở đây.")],
        error=NotConfiguredError,
    ),
]

STEPS = (
    "call",
    "language",
    "heard",
    "wait",
    "person",
    "rung",
    "whisper",
    "taken",
    "leave",
    "recorded",
    "recording",
    "transcript",
    "status",
    "bridge",
    "bridged",
    "called",
    "fallback",
)
FORM = {"CallSid": CALL, "From": MAI, "To": NUMBER}
PAYLOADS = [
    {"step": step, "l": "vi", "n": 2, "m": 1, "form": FORM | more}
    for step in STEPS
    for more in ({"Digits": "1"}, {"SpeechResult": "xin chào", "RecordingSid": "RE" + "1" * 32})
]
