"""Telegram: what its updates mean, what the bot must be asked to show, which errors mean what."""

import email
import io
import json
import zlib
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

from PIL import Image

from channels.context import ChannelContext
from channels.message import (
    Attachment,
    BlockedError,
    Button,
    OutboundMessage,
    Presence,
    RateLimitedError,
    RejectedError,
    TemporarySendError,
)
from channels.telegram import Telegram, TelegramSettings
from tests.channels.vendors import Cut, Status, Vendor
from tests.channels.vendors.telegram import MEGABYTE, TOKEN, TelegramVendor
from tests.channels.world import Incoming, Outgoing, Request

SECRET = "telegram-calls-us-with-this"
MAI, BLOCKED, UNKNOWN, GROUP = 7100200300, 403403, 404404, -1001234567890
SIZES = [
    {"file_id": f"photo-{width}", "file_unique_id": "u", "width": width, "height": height}
    for width, height in ((90, 67), (1280, 960), (320, 240))
]
PICTURE = io.BytesIO()
Image.new("RGB", (40, 30), "green").save(PICTURE, "PNG")
LONG_STRIP = io.BytesIO()
Image.new("RGB", (2000, 10)).save(LONG_STRIP, "PNG")
STICKER = {
    "file_id": "s1", "file_unique_id": "u", "type": "regular", "width": 1, "height": 1,
    "is_animated": False, "is_video": False, "emoji": "😭",
}  # fmt: skip
OGG = b"OggS\x00\x02" + bytes(22) + b"\x01\x13OpusHead\x01\x01" + bytes(20)


class TelegramWorld:
    """The desk's bot, by web hook."""

    name = "telegram"
    secrets = (TOKEN, SECRET)

    def vendor(self) -> Vendor:
        vendor = TelegramVendor()
        vendor.blocked.add(BLOCKED)
        vendor.unknown.add(UNKNOWN)
        return vendor

    def environment(self, vendor: Vendor) -> dict[str, str]:
        return {
            "BOT_TELEGRAM_TOKEN": TOKEN,
            "BOT_TELEGRAM_WEBHOOK_SECRET": SECRET,
            "BOT_TELEGRAM_API_URL": vendor.url,
            "BOT_TELEGRAM_MODE": "webhook",
            "BOT_TELEGRAM_BOT_NAME": "desk_bot",
        }

    def open(self, context: ChannelContext, vendor: Vendor) -> Telegram:
        settings = TelegramSettings.model_validate(
            {
                "token": TOKEN,
                "webhook_secret": SECRET,
                "api_url": vendor.url,
                "bot_name": "desk_bot",
            }
        )
        return Telegram(context, settings)

    def hears(self, who: str, text: str, key: str) -> Request:
        number = zlib.crc32(key.encode()) % 10**6
        return hook(written(who, message_id=number, text=text))

    def said(self, vendor: Vendor) -> list[tuple[str, str]]:
        assert isinstance(vendor, TelegramVendor)
        names = {chat_of(name): name for name in KNOWN}
        return [(names.get(one.chat, str(one.chat)), one.text) for one in vendor.shown]

    def body(self, call_body: bytes) -> Any:
        if not call_body.startswith(b"--"):
            return dict(parse_qsl(call_body.decode(), keep_blank_values=True))
        boundary = call_body[2 : call_body.index(b"\r\n")]
        head = b"Content-Type: multipart/form-data; boundary=" + boundary + b"\r\n\r\n"
        parts = {}
        for part in email.message_from_bytes(head + call_body).get_payload():
            name = part.get_param("name", header="content-disposition")
            content = part.get_payload(decode=True)
            file = part.get_filename()
            parts[name] = (file, content) if file else content.decode()
        return parts

    def signed(self, payload: Any) -> tuple[Request, str]:
        return hook(payload), ""  # one update a request: there is no neighbour


WORLD = TelegramWorld()
KNOWN: set[str] = {"mai"}


def chat_of(who: str) -> int:
    """The number of somebody's chat."""
    KNOWN.add(who)
    return MAI if who == "mai" else 8_000_000_000 + zlib.crc32(who.encode())


def hook(payload: Any, secret: str = SECRET) -> Request:
    """An update as Telegram delivers it."""
    return Request(
        "/telegram/webhook",
        json.dumps(payload).encode(),
        {"content-type": "application/json", "x-telegram-bot-api-secret-token": secret},
    )


def person(who: str = "mai", **more: Any) -> dict[str, Any]:
    name = {"first_name": "Mai", "last_name": "Nguyễn"} if who == "mai" else {"first_name": who}
    return {"id": chat_of(who), "is_bot": False, **name, "language_code": "vi", **more}


def private(who: str = "mai") -> dict[str, Any]:
    return {"id": chat_of(who), "type": "private", "first_name": "Mai"}


def message(who: str = "mai", message_id: int = 11, **parts: Any) -> dict[str, Any]:
    about = {"from": person(who), "chat": private(who), "date": 1788000000}
    return {"message_id": message_id, **about, **parts}


def written(who: str = "mai", message_id: int = 11, **parts: Any) -> dict[str, Any]:
    return {"update_id": 900 + message_id, "message": message(who, message_id, **parts)}


def edited(**parts: Any) -> dict[str, Any]:
    return {"update_id": 950, "edited_message": message(edit_date=1788000060, **parts)}


def pressed(data: str | None, labels: dict[str, str], **more: Any) -> dict[str, Any]:
    """A button of a menu (value → label) was pressed."""
    rows = [[{"text": label, "callback_data": value}] for value, label in labels.items()]
    menu = message(message_id=30, text="menu", reply_markup={"inline_keyboard": rows})
    menu["from"] = {"id": 1, "is_bot": True, "first_name": "Desk"}
    query = {"id": "77001", "from": person(), "message": menu, "chat_instance": "1", "data": data}
    return {"update_id": 960, "callback_query": {**query, **more}}


RIGHTS = (
    "can_be_edited", "is_anonymous", "can_manage_chat", "can_delete_messages",
    "can_manage_video_chats", "can_restrict_members", "can_promote_members", "can_change_info",
    "can_invite_users", "can_post_stories", "can_edit_stories", "can_delete_stories",
)  # fmt: skip


def membership(status: str, before: str, chat: dict[str, Any] | None = None) -> dict[str, Any]:
    bot = {"id": 4839574812, "is_bot": True, "first_name": "Desk"}
    more = {"until_date": 0, **dict.fromkeys(RIGHTS, False)}
    return {
        "update_id": 970,
        "my_chat_member": {
            "chat": chat or private(),
            "from": person(),
            "date": 1788000000,
            "old_chat_member": {"user": bot, "status": before, **more},
            "new_chat_member": {"user": bot, "status": status, **more},
        },
    }


def file(name: str, **parts: Any) -> dict[str, Any]:
    return {"file_id": name, "file_unique_id": "u", **parts}


TEAM = {"id": GROUP, "type": "supergroup", "title": "Factory night shift"}
WROTE = {"channel": "telegram", "address": str(MAI), "name": "Mai Nguyễn", "language_hint": "vi"}


def hears(label: str, update: Any, *messages: dict[str, Any], **more: Any) -> Incoming:
    return Incoming(label, hook(update), messages=messages, **more)


def speaks(code: str | None) -> dict[str, Any]:
    return written(text="hi", **{"from": person(language_code=code)})


INCOMING = [
    hears(
        "words",
        written(text="Công ty nợ lương"),
        {**WROTE, "external_id": f"{MAI}:11", "text": "Công ty nợ lương", "kind": "text"},
    ),
    hears(
        "a name in one part, no language",
        written("kim", text="hi", **{"from": {"id": 5, "is_bot": False, "first_name": "Kim"}}),
        {"name": "Kim", "language_hint": ""},
    ),
    *(
        hears(f"Telegram in {code}: {ours or 'unknown'}", speaks(code), {"language_hint": ours})
        for code, ours in {
            "fil": "tl",
            "tl": "tl",
            "pt-br": "pt",
            "zh-hans": "zh",
            "zh-TW": "zh",
            "in": "id",
            "id": "id",
            "ne": "ne",
            "ja": "ja",
            "de": "de",
            "x" * 30: "",
        }.items()
    ),
    hears(
        "words that look like markup stay as they are",
        written(text="<b>50%</b> *not* paid & _late_"),
        {"text": "<b>50%</b> *not* paid & _late_"},
    ),
    hears("a lone surrogate and a NUL", written(text="a\x00b\ud83d"), {"text": "ab?"}),
    # -- start and commands
    hears(
        "/start: she opened the chat",
        written(text="/start"),
        {**WROTE, "text": "", "kind": "start", "member": "", "choice": ""},
    ),
    hears(
        "/start with a member's code, from a QR code",
        written(text="/start KUMIAI-07_a"),
        {"text": "", "kind": "start", "member": "KUMIAI-07_a"},
    ),
    hears(
        "/start with a code that links another channel",
        written(text="/start link_12345678"),
        {"text": "", "kind": "start", "member": "", "choice": "/link 12345678"},
    ),
    hears(
        "/start with words of her own is a message",
        written(text="/start 助けて"),
        {"text": "/start 助けて", "kind": "text", "member": ""},
    ),
    hears("/help shows the topics", written(text="/help"), {"kind": "start", "text": ""}),
    *(
        hears(f"/{name}", written(text=f"/{name}"), {"choice": f"/{name}", "kind": "text"})
        for name in ("human", "language", "delete", "stop")
    ),
    hears("/HUMAN with the bot's name", written(text="/HUMAN@desk_bot"), {"choice": "/human"}),
    hears(
        "a command with more words: they are read",
        written(text="/human my boss hits me"),
        {"text": "/human my boss hits me", "choice": ""},
    ),
    hears("a command that nobody knows", written(text="/foo"), {"text": "/foo", "choice": ""}),
    hears("a command in a caption is words", written(photo=SIZES, caption="/stop"), {"choice": ""}),
    # -- buttons
    hears(
        "a button: its label and value",
        pressed("/topic dismissal", {"/topic visa": "Visa", "/topic dismissal": "Bị đuổi việc"}),
        {**WROTE, "external_id": "77001", "text": "Bị đuổi việc", "choice": "/topic dismissal"},
    ),
    hears(
        "a button whose value was too long: its number",
        pressed("#2", {"#1": "One", "#2": "Two"}),
        {"text": "2", "choice": ""},
    ),
    hears(
        "a button of a message that Telegram has no more",
        pressed(
            "/human",
            {},
            message={"message_id": 3, "date": 0, "chat": private()},
        ),
        {"text": "", "choice": "/human"},
    ),
    hears("a button without a value", pressed(None, {})),
    hears("a button in a group", pressed("/human", {}, message={**message(), "chat": TEAM})),
    # -- edits
    hears(
        "she corrects a message",
        edited(text="2 tháng"),
        {
            **WROTE,
            "external_id": f"{MAI}:11:1788000060",
            "edits": f"{MAI}:11",
            "text": "2 tháng",
        },
    ),
    hears(
        "she corrects a caption",
        edited(photo=SIZES, caption="my payslip"),
        {"edits": f"{MAI}:11", "text": "my payslip", "kind": "file"},
    ),
    # -- files
    hears(
        "a voice note",
        written(voice=file("v1", duration=4, mime_type="audio/ogg", file_size=9000)),
        {
            "kind": "file",
            "text": "",
            "attachments": (Attachment("", "audio/ogg", 9000, source="v1"),),
        },
    ),
    hears(
        "a photo: the largest size, with its caption",
        written(photo=SIZES, caption="hợp đồng"),
        {
            "kind": "file",
            "text": "hợp đồng",
            "attachments": (Attachment("", "image/jpeg", source="photo-1280"),),
        },
    ),
    hears(
        "a document with its name",
        written(document=file("d1", file_name="契約書.pdf", mime_type="application/pdf")),
        {"attachments": (Attachment("契約書.pdf", "application/pdf", source="d1"),)},
    ),
    hears(
        "a file of 3 GB",
        written(document=file("d2", file_size=3 * 1024**3)),
        {"attachments": (Attachment("", "application/octet-stream", 2**31 - 1, source="d2"),)},
    ),
    hears(
        "a video",
        written(video=file("f1", width=1, height=1, duration=1, mime_type="video/mp4")),
        {"attachments": (Attachment("", "video/mp4", source="f1"),)},
    ),
    hears(
        "a round video",
        written(video_note=file("f2", length=240, duration=1)),
        {"attachments": (Attachment("", "video/mp4", source="f2"),)},
    ),
    hears(
        "music",
        written(audio=file("f3", duration=1, file_name="a.mp3")),
        {"attachments": (Attachment("a.mp3", "audio/mpeg", source="f3"),)},
    ),
    hears(
        "an animation comes twice, is one file",
        written(
            animation=file("g1", width=1, height=1, duration=1),
            document=file("g1", file_name="a.mp4", mime_type="video/mp4"),
        ),
        {"attachments": (Attachment("a.mp4", "video/mp4", source="g1"),)},
    ),
    hears(
        "one of several photos sent together",
        written(photo=SIZES, media_group_id="9"),
        {"kind": "file", "attachments": 1},
    ),
    # -- places, cards, stickers and the rest
    hears(
        "a place",
        written(location={"latitude": 35.6812362, "longitude": 139.7671248}),
        {"kind": "place", "text": "", "original": "35.681236, 139.767125"},
    ),
    hears(
        "where she is, live",
        edited(location={"latitude": 35.0, "longitude": 139.0, "horizontal_accuracy": 40.0}),
        {"kind": "place", "edits": f"{MAI}:11", "original": "35.000000, 139.000000 (± 40 m)"},
    ),
    hears(
        "a place with a name",
        written(
            venue={
                "location": {"latitude": 1.5, "longitude": -2.25},
                "title": "寮",
                "address": "1-2-3",
            },
            location={"latitude": 1.5, "longitude": -2.25},
        ),
        {"kind": "place", "original": "寮\n1-2-3\n1.500000, -2.250000"},
    ),
    hears(
        "a contact's card",
        written(contact={"phone_number": "+81901234", "first_name": "Trưởng", "last_name": "B"}),
        {"kind": "contact", "text": "", "original": "Trưởng B\n+81901234"},
    ),
    hears(
        "a sticker",
        written(sticker=STICKER),
        {"kind": "sticker", "text": "", "original": "😭", "attachments": 0},
    ),
    hears(
        "a dice: the desk asks for words",
        written(dice={"emoji": "🎲", "value": 3}),
        {"kind": "text", "text": "", "original": "🎲"},
    ),
    hears(
        "a poll: a person can read it",
        written(
            poll={
                "id": "1",
                "question": "Bao giờ?",
                "options": [
                    {"persistent_id": text, "text": text, "voter_count": 0} for text in "AB"
                ],
                "total_voter_count": 0,
                "is_closed": False,
                "is_anonymous": True,
                "type": "regular",
                "allows_multiple_answers": False,
                "allows_revoting": True,
                "members_only": False,
            }
        ),
        {"text": "", "original": "Bao giờ?\nA\nB"},
    ),
    hears(
        "a kind of message that is yet to come",
        written(hologram={"file_id": "h"}),
        {"kind": "text", "text": ""},
    ),
    hears(
        "a part that the SDK cannot read: her words arrive",
        written(text="help", poll={"options": 7}, entities=[{"type": 1}]),
        {"text": "help"},
    ),
    hears(
        "… and her photo, in answer to something that the SDK cannot read",
        written(photo=SIZES, caption="this", reply_to_message={"poll": 7}),
        {"text": "this", "kind": "file", "attachments": 1},
    ),
    hears(
        "… and even if it is the photo itself",
        written(photo=[{"file_id": 3}], caption="this"),
        {"text": "this", "kind": "text", "attachments": 0},
    ),
    # -- what is no message to us
    hears("a pinned message", written(pinned_message=message(text="old"))),
    hears("a timer was set", written(message_auto_delete_timer_changed={
        "message_auto_delete_time": 9
    })),
    hears("a bot", written(text="buy", **{"from": {**person(), "is_bot": True}})),
    hears("words in a group", written(text="help", chat=TEAM)),
    hears(
        "a post of a channel",
        {"update_id": 1, "channel_post": message(text="x", chat={"id": -5, "type": "channel"})},
    ),
    hears(
        "a reaction",
        {
            "update_id": 1,
            "message_reaction": {
                "chat": private(), "message_id": 3, "date": 1, "old_reaction": [],
                "new_reaction": [{"type": "emoji", "emoji": "👍"}],
            },
        },
    ),
    hears("a kind of update that is yet to come", {"update_id": 1, "telepathy": {"chat": 3}}),
    # -- she blocks us
    hears(
        "she blocks the bot",
        membership("kicked", "member"),
        notices=[Presence("telegram", str(MAI), here=False)],
    ),
    hears(
        "she comes back",
        membership("member", "kicked"),
        notices=[Presence("telegram", str(MAI), here=True)],
    ),
    hears("a group takes the bot in", membership("member", "left", TEAM)),
    hears("a group throws the bot out", membership("kicked", "member", TEAM)),
    # -- forged and unreadable
    Incoming("a wrong secret", hook(written(text="x"), "wrong"), 403),
    Incoming(
        "no secret",
        Request("/telegram/webhook", json.dumps(written(text="x")).encode()),
        403,
    ),
    Incoming(
        "no JSON",
        Request("/telegram/webhook", b"{", {"x-telegram-bot-api-secret-token": SECRET}),
        400,
    ),
    Incoming(
        "not UTF-8",
        Request("/telegram/webhook", b"\xff\xfe", {"x-telegram-bot-api-secret-token": SECRET}),
        400,
    ),
    Incoming(
        "more than a megabyte",
        Request(
            "/telegram/webhook",
            b"[" + b" " * MEGABYTE + b"]",
            {"x-telegram-bot-api-secret-token": SECRET},
        ),
        400,
    ),
    Incoming(
        "JSON without end",
        Request(
            "/telegram/webhook", b"[" * 100_000, {"x-telegram-bot-api-secret-token": SECRET}
        ),
        400,
    ),
    hears("a list", [1, 2]),
    hears("nothing", None),
    hears("an update without anything", {}),
    hears("a chat without a number", written(text="x", chat={"id": "mai", "type": "private"})),
    Incoming("a look at the address", Request("/telegram/webhook", method="GET"), 405),
]  # fmt: skip

PAYLOADS = [
    written(text="hello"),
    written(photo=SIZES, caption="x"),
    written(voice=file("v1", duration=4)),
    written(venue={"location": {"latitude": 1.5, "longitude": 2.5}, "title": "a", "address": "b"}),
    written(contact={"phone_number": "+81", "first_name": "B"}),
    written(text="/start abc"),
    edited(text="hello"),
    pressed("/human", {"/human": "Person"}),
    membership("kicked", "member"),
    membership("member", "left", TEAM),
]

# -- out -------------------------------------------------------------------------------------------

MENU = (Button("Bị đuổi việc", "/topic dismissal"), Button("Gặp người thật", "/human"))


def says(text: str, chat: int = MAI, **more: Any) -> OutboundMessage:
    return OutboundMessage("8/1", str(chat), "vi", text, **more)


def asks(method: str, **wanted: Any) -> Callable[[str, str, Any], bool]:
    """The bot's method was called with these parameters and no others."""

    def check(_: str, path: str, body: Any) -> bool:
        given = {k: json.loads(v) if k in {"reply_markup", "link_preview_options"} else v
                 for k, v in body.items()}  # fmt: skip
        return path == f"/bot{TOKEN}/{method}" and given == {"chat_id": str(MAI), **wanted}

    return check


def shows(text: str, **more: Any) -> Callable[[str, str, Any], bool]:
    return asks("sendMessage", text=text, link_preview_options={"is_disabled": True}, **more)


def to_anybody(method: str) -> Callable[[str, str, Any], bool]:
    return lambda _, path, __: path == f"/bot{TOKEN}/{method}"


def answers(code: int, description: str, **parameters: Any) -> Status:
    told = {"ok": False, "error_code": code, "description": description}
    if parameters:
        told["parameters"] = parameters
    return Status(code, body=json.dumps(told).encode())


def fails(label: str, fault: Any, error: Any) -> Outgoing:
    return Outgoing(label, [says("x")], [shows("x")], [fault], error=error)


PLAIN = "*50%* of <b>your</b> pay_slip: https://example.org &amp; 😀"

OUTGOING = [
    Outgoing("plain words, nothing interpreted, no preview", [says(PLAIN)], [shows(PLAIN)]),
    Outgoing(
        "buttons: one a row, label and value",
        [says("Chọn:", buttons=MENU)],
        [
            shows(
                "Chọn:",
                reply_markup={
                    "inline_keyboard": [
                        [{"text": one.label, "callback_data": one.value}] for one in MENU
                    ]
                },
            )
        ],
    ),
    Outgoing(
        "a value of more than 64 bytes, or none: the button's number",
        [says("x", buttons=(Button("A", "/topic " + "だ" * 20), Button("B", "")))],
        [
            shows(
                "x",
                reply_markup={
                    "inline_keyboard": [
                        [{"text": "A", "callback_data": "#1"}],
                        [{"text": "B", "callback_data": "#2"}],
                    ]
                },
            )
        ],
    ),
    Outgoing("4,096 units, half of them emoji", [says("😀a" * 1365 + "b")], [
        shows("😀a" * 1365 + "b")
    ]),
    Outgoing(
        "a picture after the words, with the buttons last",
        [says("see", buttons=MENU[:1])],
        [
            shows("see"),
            asks(
                "sendPhoto",
                photo=("slip.png", PICTURE.getvalue()),
                reply_markup={
                    "inline_keyboard": [
                        [{"text": "Bị đuổi việc", "callback_data": "/topic dismissal"}]
                    ]
                },
            ),
        ],
        files=[("slip.png", PICTURE.getvalue())],
    ),
    Outgoing(
        "files without words",
        [says("")],
        [
            asks("sendDocument", document=("a.pdf", b"%PDF-1.4 a")),
            asks("sendVoice", voice=("b.ogg", OGG)),
        ],
        files=[("a.pdf", b"%PDF-1.4 a"), ("b.ogg", OGG)],
    ),
    Outgoing(
        "a picture that is no photo to Telegram goes as a file",
        [says("")],
        [
            asks("sendPhoto", photo=("strip.png", LONG_STRIP.getvalue())),
            asks("sendDocument", document=("strip.png", LONG_STRIP.getvalue())),
        ],
        files=[("strip.png", LONG_STRIP.getvalue())],
    ),
    Outgoing(
        "she blocked the bot", [says("x", BLOCKED)], [to_anybody("sendMessage")],
        error=BlockedError,
    ),
    Outgoing(
        "a chat that Telegram does not know", [says("x", UNKNOWN)], [to_anybody("sendMessage")],
        error=BlockedError,
    ),
    Outgoing(
        "too long after all", [says("x" * 4097)], [to_anybody("sendMessage")],
        error=RejectedError,
    ),
    Outgoing("only spaces", [says(" ")], [to_anybody("sendMessage")], error=RejectedError),
    fails(
        "her account is gone",
        answers(403, "Forbidden: user is deactivated"),
        BlockedError,
    ),
    fails(
        "too fast",
        answers(429, "Too Many Requests: retry after 7", retry_after=7),
        RateLimitedError,
    ),
    fails("too fast, without a time", answers(429, "Too Many Requests"), TemporarySendError),
    fails("refused", answers(400, "Bad Request: can't parse entities"), RejectedError),
    fails("our token is refused", answers(401, "Unauthorized"), TemporarySendError),
    fails("our token is none", answers(404, "Not Found"), TemporarySendError),
    fails("Telegram is broken", answers(500, "Internal Server Error"), TemporarySendError),
    fails("Telegram is away", Status(502, body=b"<html>Bad Gateway</html>"), TemporarySendError),
    fails("Telegram restarts", answers(503, "Service Unavailable"), TemporarySendError),
    fails("a gateway gives up", Status(504, body=b""), TemporarySendError),
    fails("an answer that is no JSON", Status(200, body=b"<html>"), TemporarySendError),
    fails("the line breaks after the message", Cut(), TemporarySendError),
]  # fmt: skip
