"""LINE's table: what its platform delivers, and what it must be asked."""

import base64
import hashlib
import hmac
import io
import json
import uuid
from collections.abc import Sequence
from typing import Any

from PIL import Image

from channels.context import ChannelContext
from channels.line import Line as LineChannel
from channels.line import LineSettings
from channels.message import (
    Attachment,
    BlockedError,
    Button,
    OutboundMessage,
    Presence,
    RateLimitedError,
    Receipt,
    RejectedError,
    TemporarySendError,
    Withdrawal,
)
from tests.channels.vendors import Cut, Status, Vendor
from tests.channels.vendors.line import ISSUED, TOKEN, Line
from tests.channels.world import PUBLIC_URL, Incoming, Outgoing, Request

SECRET = "line-channel-secret-0123456789abc"
AT = 1_772_323_200_000
"""When events happened, in milliseconds: long ago, so their reply tokens are stale."""
SOON = 4_102_444_800_000
"""A reply token of that time is fresh whenever the tests run."""


def user(who: str) -> str:
    """LINE's id of a user."""
    return "U" + hashlib.md5(who.encode(), usedforsecurity=False).hexdigest()


def token(label: str, who: str = "mai") -> str:
    """A reply token that LINE gave out with an event of `who`."""
    made = hashlib.md5(label.encode(), usedforsecurity=False).hexdigest()
    ISSUED[made] = user(who)
    return made


MAI, GONE = user("mai"), user("gone")


class World:
    """LINE, with the web hook's secret and the access token of a test."""

    name = "line"
    secrets = (SECRET, TOKEN)

    def vendor(self) -> Vendor:
        line = Line()
        line.gone.add(GONE)
        line.profiles[MAI] = {"displayName": "Nguyễn Thị Mai", "language": "vi"}
        line.profiles[user("wei")] = {"displayName": "Wei", "language": "zh-Hant"}
        line.profiles[user("juan")] = {"displayName": "Juan", "language": "fil-PH"}
        line.profiles[user("somchai")] = {"displayName": "Somchai", "language": "th"}
        line.profiles[user("quiet")] = {"displayName": "Q"}
        return line

    def environment(self, vendor: Vendor) -> dict[str, str]:
        return {
            "BOT_LINE_CHANNEL_SECRET": SECRET,
            "BOT_LINE_ACCESS_TOKEN": TOKEN,
            "BOT_LINE_API_URL": vendor.url,
        }

    def open(self, context: ChannelContext, vendor: Vendor) -> LineChannel:
        settings = LineSettings(
            channel_secret=SECRET, access_token=TOKEN, api_url=vendor.url, _env_file=None
        )
        return LineChannel(context, settings)

    def hears(self, who: str, text: str, key: str) -> Request:
        return batch(event(said(text, key), who=who, reply=token(key, who), at=SOON))

    def said(self, vendor: Vendor) -> list[tuple[str, str]]:
        assert isinstance(vendor, Line)
        return list(vendor.shown)

    def body(self, call_body: bytes) -> Any:
        return json.loads(call_body) if call_body[:1] in {b"{", b"["} else call_body

    def signed(self, payload: Any) -> tuple[Request, str]:
        """One event, spoilt or not, with a good neighbour behind it."""
        neighbour = event(said("I am the neighbour", "n1"), who="neighbour")
        return signed({"destination": MAI, "events": [payload, neighbour]}), "I am the neighbour"


# -- what comes in ---------------------------------------------------------------------------------


def signed(payload: Any) -> Request:
    body = json.dumps(payload, ensure_ascii=False).encode("utf-8", "surrogatepass")
    try:
        body.decode()
    except UnicodeDecodeError:
        body = json.dumps(payload).encode()
    return Request("/line/webhook", body, {"X-Line-Signature": signature(body)})


def signature(body: bytes, secret: str = SECRET) -> str:
    digest = hmac.new(secret.encode(), body, hashlib.sha256).digest()
    return base64.b64encode(digest).decode()


def batch(*events: dict[str, Any]) -> Request:
    return signed({"destination": "U" + "b" * 32, "events": list(events)})


def event(
    what: dict[str, Any], *, who: str = "mai", reply: str = "", at: int = AT, **more: Any
) -> dict[str, Any]:
    """An event of a one-to-one chat; `what` names its type and its own part."""
    made = {
        "mode": "active",
        "timestamp": at,
        "source": {"type": "user", "userId": user(who)},
        "webhookEventId": "01H" + hashlib.sha256(json.dumps([what, who]).encode()).hexdigest()[:23],
        "deliveryContext": {"isRedelivery": False},
        **what,
        **more,
    }
    return made | ({"replyToken": reply} if reply else {})


def said(text: str, number: str = "1001", **more: Any) -> dict[str, Any]:
    return message("text", number, text=text, quoteToken=f"quote-{number}", **more)


def message(kind: str, number: str, **more: Any) -> dict[str, Any]:
    return {"type": "message", "message": {"type": kind, "id": number, **more}}


def media(kind: str, number: str, **more: Any) -> dict[str, Any]:
    return message(kind, number, contentProvider={"type": "line"}, **more)


def in_group(what: dict[str, Any]) -> dict[str, Any]:
    source = {"type": "group", "groupId": "Ca56f94637c", "userId": MAI}
    return event(what, source=source, reply=token("group"))


FOLLOW = event({"type": "follow", "follow": {"isUnblocked": False}}, reply=token("follow"))
PRESSED = event({"type": "postback", "postback": {"data": "/topic wages\nLương chưa trả"}})
STICKER = message(
    "sticker",
    "1030",
    packageId="11537",
    stickerId="52002735",
    stickerResourceType="ANIMATION",
    keywords=["crying", "sad"],
    quoteToken="q",
)
PLACE = message(
    "location",
    "1040",
    title="Factory gate",
    address="Ōta, Gunma",
    latitude=36.2914,
    longitude=139.3754,
)

UNSIGNED = batch(event(said("hello")))
LATER = '{"events":[' + json.dumps(event(said("later secret", "1090"))) + "]}"

INCOMING = [
    Incoming(
        "a text, with what is needed to answer in place and her language as a hint",
        batch(event(said("cty nợ lương e 2 tháng nay"), reply=token("in-1"))),
        messages=[
            {
                "channel": "line",
                "external_id": "1001",
                "address": MAI,
                "text": "cty nợ lương e 2 tháng nay",
                "kind": "text",
                "name": "Nguyễn Thị Mai",
                "language_hint": "vi",
                "thread": {
                    "reply_token": token("in-1"),
                    "token_at": AT,
                    "quote_token": "quote-1001",
                },
            }
        ],
    ),
    Incoming(
        "an answer is not needed: {} or nothing",
        batch(event(said("hi"))),
        answer=lambda response: len(response.content) <= 2,
        messages=[{"text": "hi"}],
    ),
    Incoming(
        "LINE tries the web hook: no events",
        batch(),
        messages=[],
    ),
    Incoming(
        "several people in one delivery, in order",
        batch(
            event(said("one", "1002")),
            event(said("two", "1003"), who="wei"),
            event(said("three", "1004")),
        ),
        messages=[
            {"text": "one", "address": MAI},
            {"text": "two", "address": user("wei"), "language_hint": "zh"},
            {"text": "three", "address": MAI, "name": "Nguyễn Thị Mai"},
        ],
    ),
    Incoming(
        "the same message twice in a delivery, as a redelivery brings it",
        batch(
            event(said("only once", "1005")),
            event(said("only once", "1005"), deliveryContext={"isRedelivery": True}),
        ),
        messages=[{"text": "only once"}],
    ),
    Incoming(
        "a language that LINE calls otherwise",
        batch(event(said("kumusta", "1006"), who="juan")),
        messages=[{"language_hint": "tl"}],
    ),
    Incoming(
        "a language that the desk does not speak is no hint",
        batch(event(said("สวัสดี", "1007"), who="somchai")),
        messages=[{"language_hint": "", "name": "Somchai"}],
    ),
    Incoming(
        "somebody who does not share her language",
        batch(event(said("hello", "1008"), who="quiet")),
        messages=[{"language_hint": "", "name": "Q"}],
    ),
    Incoming(
        "somebody who shares nothing",
        batch(event(said("hello", "1009"), who="stranger")),
        messages=[{"language_hint": "", "name": "", "address": user("stranger")}],
    ),
    Incoming(
        "emoji of LINE's own, a mention, and fields that LINE adds next year",
        batch(
            event(
                said(
                    "(hello) @Desk help",
                    "1010",
                    emojis=[{"index": 0, "length": 7, "productId": "p", "emojiId": "001"}],
                    mention={"mentionees": [{"index": 8, "length": 5, "type": "robot"}]},
                    markAsReadToken="r",
                    hologram={"depth": 3},
                ),
                novelty=[1],
            )
        ),
        messages=[{"text": "(hello) @Desk help"}],
    ),
    Incoming(
        "letters that no database takes",
        batch(event(said("a\x00b\ud800c", "1011"))),
        messages=[{"text": "ab?c"}],
    ),
    Incoming(
        "she adds the desk as a friend",
        batch(FOLLOW),
        messages=[
            {
                "kind": "start",
                "text": "",
                "external_id": FOLLOW["webhookEventId"],
                "thread": {"reply_token": token("follow"), "token_at": AT, "quote_token": ""},
            }
        ],
        notices=[Presence("line", MAI, here=True)],
    ),
    Incoming(
        "she blocks the desk",
        batch(event({"type": "unfollow"})),
        notices=[Presence("line", MAI, here=False)],
    ),
    Incoming(
        "she blocks it and comes back, in one delivery",
        batch(event({"type": "unfollow"}), FOLLOW),
        messages=[{"kind": "start"}],
        notices=[
            Presence("line", MAI, here=False),
            Presence("line", MAI, here=True),
        ],
    ),
    Incoming(
        "a pressed button: its value, and its label as she saw it",
        batch(PRESSED),
        messages=[
            {
                "choice": "/topic wages",
                "text": "Lương chưa trả",
                "kind": "text",
                "external_id": PRESSED["webhookEventId"],
            }
        ],
    ),
    Incoming(
        "a button of a menu that somebody made elsewhere has no label",
        batch(event({"type": "postback", "postback": {"data": "/human"}})),
        messages=[{"choice": "/human", "text": ""}],
    ),
    Incoming(
        "the menu's “What can I ask?” begins anew",
        batch(event({"type": "postback", "postback": {"data": "/start\n"}})),
        messages=[{"choice": "", "text": "", "kind": "start"}],
    ),
    Incoming(
        "a picture is fetched later, from LINE",
        batch(event(media("image", "1020", quoteToken="q"))),
        messages=[
            {
                "kind": "file",
                "text": "",
                "external_id": "1020",
                "attachments": (Attachment("", "image/jpeg", source="1020"),),
            }
        ],
    ),
    Incoming(
        "pictures sent together are one message each",
        batch(
            event(media("image", "1021", imageSet={"id": "S", "index": 1, "total": 2})),
            event(media("image", "1022", imageSet={"id": "S", "index": 2, "total": 2})),
        ),
        messages=[{"attachments": 1}, {"attachments": 1}],
    ),
    Incoming(
        "a sound",
        batch(event(media("audio", "1023", duration=60000))),
        messages=[{"attachments": (Attachment("", "audio/mp4", source="1023"),)}],
    ),
    Incoming(
        "a film",
        batch(event(media("video", "1024", duration=60000, quoteToken="q"))),
        messages=[{"attachments": (Attachment("", "video/mp4", source="1024"),)}],
    ),
    Incoming(
        "a file, by its name",
        batch(event(message("file", "1025", fileName="hợp đồng.pdf", fileSize=2138))),
        messages=[{"attachments": (Attachment("hợp đồng.pdf", "application/pdf", source="1025"),)}],
    ),
    Incoming(
        "a file that is too big is named, not fetched",
        batch(event(message("file", "1026", fileName="film.mov", fileSize=300_000_000))),
        messages=[
            {
                "attachments": (
                    Attachment("film.mov", "video/quicktime", error="too big: at most 20 MB"),
                )
            }
        ],
    ),
    Incoming(
        "a picture on a foreign server is never fetched",
        batch(
            event(
                message(
                    "image",
                    "1027",
                    contentProvider={
                        "type": "external",
                        "originalContentUrl": "https://boss.example/spy.jpg",
                    },
                )
            )
        ),
        messages=[
            {
                "kind": "file",
                "attachments": (
                    Attachment("", "image/jpeg", error="kept outside LINE; not fetched"),
                ),
            }
        ],
    ),
    Incoming(
        "a sticker, with what it means",
        batch(event(STICKER)),
        messages=[{"kind": "sticker", "text": "", "original": "[sticker: crying, sad]"}],
    ),
    Incoming(
        "a sticker of a kind that LINE brings next year, with her own words on it",
        batch(
            event(message("sticker", "1031", stickerResourceType="HOLOGRAM", text="please help me"))
        ),
        messages=[{"kind": "sticker", "text": "please help me", "original": "[sticker]"}],
    ),
    Incoming(
        "a place",
        batch(event(PLACE)),
        messages=[
            {
                "kind": "place",
                "text": "",
                "original": "Factory gate\nŌta, Gunma\ngeo:36.291400,139.375400",
            }
        ],
    ),
    Incoming(
        "a place without words",
        batch(event(message("location", "1041", latitude=35, longitude=139))),
        messages=[{"kind": "place", "original": "geo:35.000000,139.000000"}],
    ),
    Incoming(
        "a kind of message that LINE brings next year is not met with silence",
        batch(event(message("hologram", "1050"))),
        messages=[{"text": "", "original": "[hologram]", "kind": "text"}],
    ),
    Incoming(
        "she takes a message back",
        batch(event({"type": "unsend", "unsend": {"messageId": "1001"}})),
        notices=[Withdrawal("line", "1001")],
    ),
    Incoming(
        "a message and its unsending in one delivery",
        batch(
            event({"type": "unsend", "unsend": {"messageId": "1060"}}),
            event(said("I should not say this", "1060")),
        ),
        messages=[{"external_id": "1060"}],
        notices=[Withdrawal("line", "1060")],
    ),
    Incoming(
        "LINE tells that a notification arrived",
        batch(
            event({"type": "delivery", "delivery": {"data": "15034552939884E28681A7D668CEA94C"}})
        ),
        notices=[
            Receipt("line", "delivered", external_id="15034552939884E28681A7D668CEA94C"),
        ],
    ),
    Incoming(
        "the desk is added to a group: it keeps nothing",
        batch(in_group({"type": "join"})),
    ),
    Incoming(
        "words in a group are not kept, those beside them are",
        batch(
            in_group(said("who is the union?", "1070")),
            event(said("only for you", "1071")),
            in_group({"type": "unsend", "unsend": {"messageId": "1071"}}),
        ),
        messages=[{"text": "only for you"}],
    ),
    Incoming(
        "a room of several people is a group, too",
        batch(event(said("hi all", "1072"), source={"type": "room", "roomId": "Ra8dbf4673c"})),
    ),
    Incoming(
        "an event for another program of the account (standby) is passed over",
        batch(event(said("not for us", "1080"), mode="standby")),
    ),
    *[
        Incoming(
            f"passed over: {kind}",
            batch(event({"type": kind, **more}), event(said("beside it", "1081"))),
            messages=[{"text": "beside it"}],
        )
        for kind, more in {
            "leave": {},
            "memberJoined": {"joined": {"members": []}},
            "videoPlayComplete": {"videoPlayComplete": {"trackingId": "t"}},
            "beacon": {"beacon": {"hwid": "d41d8cd98f", "type": "enter"}},
            "accountLink": {"link": {"result": "ok", "nonce": "n"}},
            "membership": {"membership": {"type": "joined", "membershipId": 1}},
            "module": {"module": {"type": "attached"}},
            "activated": {"chatControl": {"expireAt": 1}},
            "botSuspended": {},
            "something LINE brings next year": {"thing": 1},
        }.items()
    ],
    Incoming(
        "an event without a sender loses no other one",
        batch(
            event(said("who said this?", "1082"), source={}),
            event(said("I did", "1083")),
        ),
        messages=[{"text": "I did"}],
    ),
    Incoming(
        "an event whose parts have the wrong types loses no other one",
        batch(
            event(said("x", "1084"), source={"type": ["user"], "userId": 1}),
            event({"type": {}}, message=7),
            event(said("still here", "1085")),
        ),
        messages=[{"text": "still here"}],
    ),
    Incoming(
        "forged: no signature",
        Request(UNSIGNED.path, UNSIGNED.body),
        status=403,
    ),
    Incoming(
        "forged: signed with another secret",
        Request(
            UNSIGNED.path,
            UNSIGNED.body,
            {"X-Line-Signature": signature(UNSIGNED.body, "another secret")},
        ),
        status=403,
    ),
    Incoming(
        "forged: the body was changed after signing",
        Request(UNSIGNED.path, UNSIGNED.body + b" ", UNSIGNED.headers),
        status=403,
    ),
    Incoming(
        "forged: a signature that is none",
        Request(UNSIGNED.path, UNSIGNED.body, {"X-Line-Signature": "sha256=none"}),
        status=403,
    ),
    Incoming(
        "the signature covers the bytes as they came, not JSON made anew",
        Request(
            UNSIGNED.path,
            LATER.replace(":", " :  ").encode(),
            {"X-Line-Signature": signature(LATER.replace(":", " :  ").encode())},
        ),
        messages=[{"text": "later secret"}],
    ),
    Incoming(
        "signed, but no JSON",
        Request(UNSIGNED.path, b"{", {"X-Line-Signature": signature(b"{")}),
        status=400,
    ),
    Incoming(
        "signed, but nested without end",
        Request(
            UNSIGNED.path,
            b"[" * 100_000,
            {"X-Line-Signature": signature(b"[" * 100_000)},
        ),
        status=400,
    ),
    Incoming(
        "signed, but no UTF-8",
        Request(UNSIGNED.path, b'{"\xff":1}', {"X-Line-Signature": signature(b'{"\xff":1}')}),
        status=403,
    ),
    Incoming("signed, but no object", signed([1, 2])),
    Incoming(
        "far too big",
        Request(UNSIGNED.path, b" " * (8 * 1024 * 1024 + 1)),
        status=413,
    ),
    Incoming("nothing to get here", Request("/line/webhook", method="GET"), status=405),
]

# -- what goes out ---------------------------------------------------------------------------------

PUSH, REPLY = "/v2/bot/message/push", "/v2/bot/message/reply"


def say(
    key: str, text: str = "Answer", *, reply: str = "", at: int = SOON, **more: Any
) -> OutboundMessage:
    thread = {"reply_token": reply, "token_at": at, **more.pop("thread", {})}
    return OutboundMessage(f"{key}/1", more.pop("to", MAI), "vi", text, thread=thread, **more)


def pushed(*texts: str, to: str = MAI) -> Any:
    """A call that pushes these texts and nothing else."""
    messages = [{"type": "text", "text": text} for text in texts]
    return lambda method, path, body: (
        (method, path) == ("POST", PUSH)
        and body == {"to": to, "messages": messages, "notificationDisabled": False}
    )


def replied(*texts: str, reply: str) -> Any:
    messages = [{"type": "text", "text": text} for text in texts]
    return lambda method, path, body: (
        (method, path) == ("POST", REPLY)
        and body == {"replyToken": reply, "messages": messages, "notificationDisabled": False}
    )


def asks(path: str, check: Any = lambda _: True) -> Any:
    return lambda _method, asked, body: asked == path and check(body)


def refusal(code: int, message: str, **headers: str) -> Status:
    return Status(code, headers, json.dumps({"message": message}).encode())


def labels(body: Any) -> list[list[str]]:
    """The labels of the quick replies of each message."""
    return [
        [item["action"]["label"] for item in one.get("quickReply", {}).get("items", [])]
        for one in body["messages"]
    ]


def picture(kind: str, pixels: int = 8) -> bytes:
    target = io.BytesIO()
    image = Image.frombytes("RGB", (pixels, pixels), hashlib.shake_256(b"").digest(3 * pixels**2))
    image.save(target, kind)
    return target.getvalue()


def images(body: Any) -> Sequence[str]:
    return [one["originalContentUrl"] for one in body["messages"] if one["type"] == "image"]


BUTTONS = tuple(Button(f"Choice {n}", f"/topic t{n}") for n in range(1, 14))
ACCEPTED = {"message": "The retry key is already accepted", "sentMessages": [{"id": "77"}]}

OUTGOING = [
    Outgoing(
        "without a reply token: push",
        [say("100", "Xin chào")],
        [pushed("Xin chào")],
    ),
    Outgoing(
        "a fresh reply token costs nothing",
        [say("101", "Xin chào", reply=token("out-1"))],
        [replied("Xin chào", reply=token("out-1"))],
    ),
    Outgoing(
        "five messages leave in one call",
        [say(f"102{n}", f"Part {n}", reply=token("out-2")) for n in range(5)],
        [replied(*(f"Part {n}" for n in range(5)), reply=token("out-2"))],
    ),
    Outgoing(
        "a stale reply token is not tried",
        [say("103", reply=token("out-3"), at=AT)],
        [pushed("Answer")],
    ),
    Outgoing(
        "a reply token that LINE does not take (any more): push",
        [say("104", reply="f" * 32)],
        [replied("Answer", reply="f" * 32), pushed("Answer")],
    ),
    Outgoing(
        "LINE's ids come back",
        [say("105")],
        [pushed("Answer")],
        faults=[Status(200, {}, b'{"sentMessages":[{"id":"461230966842064897"}]}')],
        ids=["461230966842064897"],
    ),
    Outgoing(
        "what LINE took at an earlier attempt counts as sent",
        [say("106")],
        [pushed("Answer")],
        faults=[Status(409, {}, json.dumps(ACCEPTED).encode())],
        ids=["77"],
    ),
    Outgoing(
        "thirteen buttons become quick replies, each with what she sees and what we get",
        [say("107", "Which?", buttons=BUTTONS)],
        [
            asks(
                PUSH,
                lambda body: (
                    body["messages"][0]["quickReply"]["items"][12]
                    == {
                        "type": "action",
                        "action": {
                            "type": "postback",
                            "label": "Choice 13",
                            "data": "/topic t13\nChoice 13",
                            "displayText": "Choice 13",
                        },
                    }
                    and len(labels(body)[0]) == 13
                ),
            )
        ],
    ),
    Outgoing(
        "buttons hang on the last message, since LINE shows no others",
        [
            say("108", "Answer", buttons=BUTTONS[:2]),
            say("109", "Promise", buttons=BUTTONS[1:3]),
            say("110", "Good-bye"),
        ],
        [
            asks(
                PUSH,
                lambda body: labels(body) == [[], [], ["Choice 1", "Choice 2", "Choice 3"]],
            )
        ],
    ),
    Outgoing(
        "more than LINE shows: the last thirteen",
        [
            say("111", "Which?", buttons=BUTTONS),
            say("112", "Or?", buttons=(Button("A person", "/human"),)),
        ],
        [asks(PUSH, lambda body: labels(body)[1][-1] == "A person" and len(labels(body)[1]) == 13)],
    ),
    Outgoing(
        "2,500 emoji are 5,000 units, the most that a message holds",
        [say("113", "🙏" * 2500)],
        [pushed("🙏" * 2500)],
    ),
    Outgoing(
        "a small picture is shown in place",
        [say("114", "Look", from_counsellor=True)],
        [
            asks(
                PUSH,
                lambda body: (
                    body["messages"][0]["text"] == "Look"
                    and images(body)[0].startswith(f"{PUBLIC_URL}/files/")
                    and body["messages"][1]["previewImageUrl"] == images(body)[0]
                ),
            )
        ],
        files=[("sign.png", picture("PNG"))],
    ),
    Outgoing(
        "a picture without words",
        [say("115", "", from_counsellor=True)],
        [asks(PUSH, lambda body: len(body["messages"]) == len(images(body)) == 1)],
        files=[("sign.jpg", picture("JPEG"))],
    ),
    Outgoing(
        "a picture too big for LINE's preview, and a file: their names and links",
        [say("116", "", from_counsellor=True)],
        [
            asks(
                PUSH,
                lambda body: (
                    [one["text"].split("\n")[0] for one in body["messages"]]
                    == ["big.png", "form.pdf"]
                    and all("\nhttps://" in one["text"] for one in body["messages"])
                ),
            )
        ],
        files=[("big.png", picture("PNG", 640)), ("form.pdf", b"%PDF-1.4 form")],
    ),
    Outgoing(
        "eight files go in two calls, and the ids come back for the message",
        [say("117", "All the forms", from_counsellor=True, reply=token("out-17"))],
        [
            asks(REPLY, lambda body: len(body["messages"]) == 5),
            asks(PUSH, lambda body: len(body["messages"]) == 4),
        ],
        files=[(f"{n}.txt", b"form") for n in range(8)],
    ),
    Outgoing(
        "a counsellor's reply quotes what it answers",
        [say("118", from_counsellor=True, thread={"quote_token": "quote-1"})],
        [asks(PUSH, lambda body: body["messages"][0]["quoteToken"] == "quote-1")],
    ),
    Outgoing(
        "the bot's reply does not",
        [say("119", thread={"quote_token": "quote-1"})],
        [pushed("Answer")],
    ),
    Outgoing(
        "what it answers is gone: it leaves without the quotation",
        [say("120", from_counsellor=True, thread={"quote_token": "quote-of-an-unsent-message"})],
        [asks(PUSH), pushed("Answer")],
    ),
    Outgoing(
        "too fast",
        [say("130")],
        [pushed("Answer")],
        faults=[refusal(429, "The API rate limit has been exceeded. Try again later.")],
        error=RateLimitedError,
    ),
    Outgoing(
        "too fast, with a reply token that is not spent by that",
        [say("131", reply=token("out-31"))],
        [replied("Answer", reply=token("out-31"))],
        faults=[refusal(429, "The API rate limit has been exceeded.", **{"Retry-After": "7"})],
        error=RateLimitedError,
    ),
    Outgoing(
        "the month's messages are used up: kept, tried again much later",
        [say("132")],
        [pushed("Answer")],
        faults=[refusal(429, "You have reached your monthly limit.")],
        error=RateLimitedError,
    ),
    *[
        Outgoing(
            f"LINE answers {code}: tried again",
            [say(f"14{code}")],
            [pushed("Answer")],
            faults=[refusal(code, "no")],
            error=TemporarySendError,
        )
        for code in (401, 403, 408, 500, 502, 503, 504)
    ],
    *[
        Outgoing(
            f"LINE answers {code}: refused for good",
            [say(f"15{code}")],
            [pushed("Answer")],
            faults=[refusal(code, "The request body has 1 error(s)")],
            error=RejectedError,
        )
        for code in (400, 410, 413, 415)
    ],
    Outgoing(
        "an answer that is no JSON",
        [say("160")],
        [pushed("Answer")],
        faults=[Status(500, {}, b"<html>\xff")],
        error=TemporarySendError,
    ),
    Outgoing(
        "the connection breaks",
        [say("161")],
        [pushed("Answer")],
        faults=[Cut()],
        error=TemporarySendError,
    ),
    Outgoing(
        "she is no friend any more, as LINE confirms",
        [say("162", to=GONE)],
        [pushed("Answer", to=GONE), asks(f"/v2/bot/profile/{GONE}")],
        error=BlockedError,
    ),
    Outgoing(
        "LINE cannot send, though she is our friend: the counsellor hears of it",
        [say("163")],
        [pushed("Answer"), asks(f"/v2/bot/profile/{MAI}")],
        faults=[refusal(400, "Failed to send messages")],
        error=RejectedError,
    ),
    Outgoing(
        "an address that is none",
        [say("164", to="mai@example.org")],
        [pushed("Answer", to="mai@example.org")],
        error=RejectedError,
    ),
]

PAYLOADS = [
    event(said("help", str(uuid.UUID(int=1)))),
    event(STICKER),
    event(PLACE),
    event(media("image", "1", imageSet={"id": "S", "index": 1, "total": 2})),
    event(message("file", "1", fileName="a.pdf", fileSize=1)),
    FOLLOW,
    PRESSED,
    event({"type": "unfollow"}),
    event({"type": "unsend", "unsend": {"messageId": "1"}}),
    event({"type": "delivery", "delivery": {"data": "d"}}),
    in_group({"type": "join"}),
]

WORLD = World()
