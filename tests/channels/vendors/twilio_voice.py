"""Twilio's side of telephone calls: the REST calls, the rules of TwiML, and a telephone.

`Phone` calls the desk as Twilio does: it signs each request, follows what the desk answers, and
refuses TwiML that Twilio would refuse. What its owner hears is in `heard`.
"""

import base64
import re
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit
from xml.etree import ElementTree

import httpx
from starlette.requests import Request as Asked
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from twilio.request_validator import RequestValidator

from tests.channels.vendors import Vendor

ACCOUNT, TOKEN = "AC" + "5" * 32, "a-token-that-nobody-must-see"
NUMBER = "+815031234567"
SOUND = b"ID3\x03\x00\x00\x00\x00\x00\x00" + b"\xff\xfb\x90\x00" * 40
E164 = re.compile(r"\+[1-9]\d{6,14}")


def call_sid(name: str = "") -> str:
    """Twilio's id of a call; the same name gives the same one."""
    return "CA" + uuid.uuid5(uuid.NAMESPACE_URL, name or str(uuid.uuid4())).hex


# -- the API ---------------------------------------------------------------------------------------


def peer() -> Vendor:
    """The API, with one number of the account."""
    number: dict[str, Any] = {
        "sid": "PN" + "7" * 32,
        "account_sid": ACCOUNT,
        "phone_number": NUMBER,
        "capabilities": {"voice": True, "sms": False, "mms": False, "fax": False},
        "voice_url": "https://demo.twilio.com/welcome/voice/",
        "voice_fallback_url": "",
        "status_callback": "",
    }

    def refused(asked: Asked) -> Response | None:
        wanted = base64.b64encode(f"{ACCOUNT}:{TOKEN}".encode()).decode()
        if asked.headers.get("authorization") != f"Basic {wanted}":
            return _error(401, 20003, "Authenticate")
        if asked.path_params["account"] != ACCOUNT:
            return _error(404, 20404, "The requested resource was not found")
        return None

    async def numbers(asked: Asked) -> Response:
        wanted = asked.query_params.get("PhoneNumber", NUMBER)
        found = [number] if wanted == NUMBER else []
        return refused(asked) or JSONResponse({"incoming_phone_numbers": found, "page": 0})

    async def update(asked: Asked) -> Response:
        form = dict(parse_qsl((await asked.body()).decode(), keep_blank_values=True))
        for name, value in form.items():
            if name.endswith("Url") or name == "StatusCallback":
                if not re.fullmatch(r"https?://[\w.-]+\.[a-z]+/.*", value):
                    return _error(400, 21502, f"{name} is not a valid URL")
                number[re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()] = value
            elif value not in ("GET", "POST"):
                return _error(400, 21403, f"{name} is not a method")
        return refused(asked) or JSONResponse(number)

    async def call(asked: Asked) -> Response:
        form = dict(parse_qsl((await asked.body()).decode(), keep_blank_values=True))
        if denied := refused(asked):
            return denied
        if not E164.fullmatch(form.get("To", "")):
            return _error(400, 21211, "Invalid 'To' Phone Number")
        if form.get("From") != NUMBER:
            return _error(400, 21210, "'From' phone number not verified")
        if not form.get("Url", "").startswith("https://"):
            return _error(400, 21205, "Url parameter is required")
        return JSONResponse({"sid": call_sid(), "status": "queued"}, 201)

    async def message(asked: Asked) -> Response:
        """An SMS; `tests/channels/vendors/twilio.py` knows the rules of SMS in full."""
        form = dict(parse_qsl((await asked.body()).decode(), keep_blank_values=True))
        if denied := refused(asked):
            return denied
        if not E164.fullmatch(form.get("To", "")) or not 0 < len(form.get("Body", "")) <= 1600:
            return _error(400, 21602, "To and Body are required")
        return JSONResponse({"sid": f"SM{uuid.uuid4().hex}", "status": "queued"}, 201)

    async def recording(asked: Asked) -> Response:
        return refused(asked) or Response(SOUND, media_type="audio/mpeg")

    base = "/2010-04-01/Accounts/{account}"
    return Vendor(
        [
            Route(f"{base}/IncomingPhoneNumbers.json", numbers),
            Route(f"{base}/IncomingPhoneNumbers/{{sid}}.json", update, methods=["POST"]),
            Route(f"{base}/Calls.json", call, methods=["POST"]),
            Route(f"{base}/Messages.json", message, methods=["POST"]),
            Route(f"{base}/Messages.json", lambda _: JSONResponse({"messages": []})),
            Route(f"{base}/Recordings/{{file}}", recording),
        ]
    )


def _error(status: int, code: int, message: str) -> Response:
    return JSONResponse({"code": code, "message": message, "status": status}, status)


# -- the rules of TwiML ----------------------------------------------------------------------------

URLS = {"action", "url", "recordingStatusCallback", "transcribeCallback"}
VERBS: dict[str, tuple[set[str], set[str]]] = {  # attributes, children
    "Response": (set(), {"Say", "Play", "Pause", "Gather", "Record", "Dial", "Redirect", "Hangup"}),
    "Say": ({"language", "voice"}, set()),
    "Play": (set(), set()),
    "Pause": ({"length"}, set()),
    "Gather": (
        {"input", "action", "numDigits", "finishOnKey", "timeout", "speechTimeout", "language"}
        | {"hints", "actionOnEmptyResult", "speechModel"},
        {"Say", "Play", "Pause"},
    ),
    "Record": (
        {"action", "maxLength", "timeout", "finishOnKey", "playBeep", "transcribe"}
        | {"transcribeCallback", "recordingStatusCallback", "recordingStatusCallbackEvent"},
        set(),
    ),
    "Dial": ({"action", "callerId", "timeout", "ringTone", "answerOnBridge"}, {"Number"}),
    "Number": ({"url"}, set()),
    "Redirect": (set(), set()),
    "Hangup": (set(), set()),
}
VOICES = {
    "ja-JP": "Polly.Kazuha-Neural",
    "en-US": "Polly.Joanna-Neural",
    "cmn-CN": "Polly.Zhiyu-Neural",
    "pt-BR": "Polly.Camila-Neural",
    "es-US": "Polly.Lupe-Neural",
    "vi-VN": "Google.vi-VN-Standard-A",
    "id-ID": "Google.id-ID-Standard-A",
    "fil-PH": "Google.fil-PH-Standard-A",
}
HEARD = {"ja-JP", "en-US", "cmn-Hans-CN", "pt-BR", "es-US", "vi-VN", "id-ID", "fil-PH"}


def checked(document: str, base: str) -> ElementTree.Element:
    """A TwiML document that Twilio would take; its URLs must lead to `base`."""
    assert len(document.encode()) < 64 * 1024, "Twilio takes 64 kB (11200)"
    root = ElementTree.fromstring(document)  # noqa: S314 - our own words
    assert root.tag == "Response", "Twilio wants <Response> (12100)"
    _check(root, base)
    verbs = [verb.tag for verb in root]
    for last in ("Redirect", "Hangup"):
        assert last not in verbs[:-1], f"nothing after <{last}> is reached"
    return root


def _check(verb: ElementTree.Element, base: str) -> None:
    attributes, children = VERBS[verb.tag]
    assert set(verb.attrib) <= attributes, f"<{verb.tag}> has no {set(verb.attrib) - attributes}"
    text = (verb.text or "").strip()
    for name in URLS & set(verb.attrib):
        assert verb.attrib[name].startswith(f"{base}/voice/"), verb.attrib[name]
    for name in {"timeout", "length", "maxLength", "numDigits"} & set(verb.attrib):
        assert int(verb.attrib[name]) > 0, f"{name} of <{verb.tag}>"
    if verb.tag == "Say":
        assert 0 < len(text) <= 4096, "13510: the text of <Say>"
        assert VOICES.get(verb.attrib["language"]) == verb.attrib["voice"], "13520/13521"
    elif verb.tag in ("Play", "Redirect"):
        assert text.startswith(f"{base}/voice/"), text
    elif verb.tag == "Gather":
        assert set(verb.attrib["input"].split()) <= {"dtmf", "speech"}
        if "speech" in verb.attrib["input"]:
            assert verb.attrib["language"] in HEARD, "13331: the language of <Gather>"
        assert len(verb.attrib.get("hints", "").split(",")) <= 500
    elif verb.tag == "Number":
        assert E164.fullmatch(text), "13224: the number of <Dial>"
    elif verb.tag == "Dial":
        assert verb.attrib["callerId"] == NUMBER, "13214: the caller's number"
    for child in verb:
        assert child.tag in children, f"<{child.tag}> in <{verb.tag}>"
        _check(child, base)


# -- a telephone -----------------------------------------------------------------------------------


def sign(url: str, form: dict[str, str], token: str = TOKEN) -> dict[str, str]:
    """The headers of a request of Twilio's."""
    signature = RequestValidator(token).compute_signature(url, form)
    return {
        "X-Twilio-Signature": signature,
        "Content-Type": "application/x-www-form-urlencoded",
    }


@dataclass
class Phone:
    """A telephone that calls the desk, or is called by it.

    `heard`: the words (or `file:` with the language of a recording) since the owner last did
    something; `waits`: the verb that waits for her: Gather, Dial or Record; `over`: hung up.
    """

    http: httpx.AsyncClient
    base: str
    number: str
    outbound: bool = False
    sid: str = field(default_factory=call_sid)
    heard: list[str] = field(default_factory=list)
    everything: list[str] = field(default_factory=list)
    waits: ElementTree.Element | None = None
    over: bool = False
    bridged: bool = False
    last: tuple[str, dict[str, str]] = ("", {})
    document: str = ""
    answers: Callable[["Phone", str], Awaitable[bool]] | None = None

    async def post(self, url: str, **fields: str) -> httpx.Response:
        """A signed request about this call."""
        form = {
            "CallSid": self.sid,
            "AccountSid": ACCOUNT,
            "From": NUMBER if self.outbound else self.number,
            "To": self.number if self.outbound else NUMBER,
            "Direction": "outbound-api" if self.outbound else "inbound",
            "CallStatus": "in-progress",
            **fields,
        }
        self.last = (url, form)
        parts = urlsplit(url)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        return await self.http.post(path, content=urlencode(form), headers=sign(url, form))

    async def again(self) -> str:
        """Twilio asks the last thing once more; what the desk answers."""
        url, form = self.last
        parts = urlsplit(url)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        answer = await self.http.post(path, content=urlencode(form), headers=sign(url, form))
        return answer.text

    async def call(self, place: str = "/voice/call") -> None:
        """Dial the desk's number, or pick up when the desk calls."""
        await self._go(f"{self.base}{place}")

    async def press(self, key: str) -> None:
        """Press a key."""
        assert self.waits is not None
        if self.waits.tag == "Record":
            await self.record(3)
            return
        assert self.waits.tag == "Gather", self.waits
        assert len(key) == 1
        assert "dtmf" in self.waits.attrib["input"]
        await self._go(self.waits.attrib["action"], Digits=key)

    async def say(self, words: str) -> None:
        """Speak."""
        assert self.waits is not None
        assert "speech" in self.waits.attrib["input"], "nobody listens"
        await self._go(self.waits.attrib["action"], SpeechResult=words, Confidence="0.91")

    async def silent(self) -> None:
        """Say nothing, press nothing."""
        assert self.waits is not None
        assert self.waits.tag == "Gather"
        await self._go(self.waits.attrib["action"])

    async def record(self, seconds: int, words: str = "") -> None:
        """Speak after the tone. Twilio tells the call, then of the file, then of the words."""
        record = self.waits
        assert record is not None
        assert record.tag == "Record"
        assert seconds <= int(record.attrib["maxLength"])
        sound = {"RecordingSid": f"RE{self.sid[2:]}", "RecordingDuration": str(seconds)}
        await self._go(record.attrib["action"], **sound)
        callback = record.attrib["recordingStatusCallback"]
        assert (await self.post(callback, From="", RecordingStatus="completed", **sound)).is_success
        if record.attrib.get("transcribe") == "true" and words:
            written = {"TranscriptionText": words, "TranscriptionStatus": "completed", **sound}
            callback = record.attrib["transcribeCallback"]
            assert (await self.post(callback, **written)).is_success

    async def hang_up(self, seconds: int = 30) -> None:
        """The end; Twilio tells it to the number's status callback."""
        self.over, self.waits = True, None
        status = {"CallStatus": "completed", "CallDuration": str(seconds)}
        if not self.outbound:
            assert (await self.post(f"{self.base}/voice/status", **status)).is_success

    async def _go(self, url: str, **fields: str) -> None:
        self.heard = []
        self.waits = None
        while url:
            answer = await self.post(url, **fields)
            assert answer.status_code == 200, (url, answer.status_code, answer.text)
            assert answer.headers["content-type"].startswith("text/xml")
            self.document = answer.text
            url, fields = await self._do(checked(answer.text, self.base))
        self.everything += self.heard

    async def _do(self, document: ElementTree.Element) -> tuple[str, dict[str, str]]:
        for verb in document:
            if verb.tag in ("Say", "Play"):
                self._hear(verb)
            elif verb.tag == "Gather":
                for inner in verb:
                    self._hear(inner)
                if verb.attrib.get("actionOnEmptyResult") == "true":
                    self.waits = verb
                    return "", {}
                if self.outbound or verb is document[-1]:
                    self.waits = verb
                    return "", {}
            elif verb.tag == "Record":
                self.waits = verb
                return "", {}
            elif verb.tag == "Redirect":
                return (verb.text or "").strip(), {}
            elif verb.tag == "Dial":
                return await self._dial(verb)
            elif verb.tag == "Hangup":
                break
        if not self.bridged or len(document):
            await self.hang_up()
        return "", {}

    async def _dial(self, dial: ElementTree.Element) -> tuple[str, dict[str, str]]:
        """Ring the other side; without an `url` it is put through as soon as it picks up."""
        number = dial[0]
        picked = "no-answer"
        if self.answers is not None:
            talked = await self.answers(self, number.attrib.get("url", number.text or ""))
            picked = "completed" if talked else "no-answer"
        seconds = {"DialCallDuration": "61"} if picked == "completed" else {}
        self.bridged = picked == "completed"
        return dial.attrib["action"], {"DialCallStatus": picked, **seconds}

    def _hear(self, verb: ElementTree.Element) -> None:
        text = (verb.text or "").strip()
        if verb.tag == "Say":
            self.heard.append(text)
        elif verb.tag == "Play":
            self.heard.append(f"file:{urlsplit(text).path.split('/')[-2]}")
