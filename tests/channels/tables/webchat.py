"""Web chat: what the page posts, and what the desk gets of it. Nothing goes out: the page reads."""

import json
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

import httpx

from channels.context import ChannelContext
from channels.log import open_conversation
from channels.webchat import WebChat
from tests.channels.vendors import Vendor
from tests.channels.world import Incoming, Outgoing, Request

MAI, NIR = "vi.mai-has-a-token-of-32-letters", "nir-has-a-token-without-language"
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)
JPEG = bytes.fromhex("ffd8ffe000104a46494600010100000100010000ffd9")


class _World:
    """There is no vendor: the page is ours. Two workers have a conversation."""

    name = "webchat"
    secrets: Sequence[str] = (MAI, NIR)

    def vendor(self) -> Vendor:
        return Vendor([])

    def environment(self, vendor: Vendor) -> dict[str, str]:  # noqa: ARG002
        return {}

    def open(self, context: ChannelContext, vendor: Vendor) -> WebChat:  # noqa: ARG002
        for token in (MAI, NIR):
            context.database.write_now(open_conversation, self.name, token)
        return WebChat(context)

    def hears(self, who: str, text: str, key: str) -> Request:
        return says({"id": key * 8, "text": text}, MAI if who == "mai" else NIR)

    def said(self, vendor: Vendor) -> list[tuple[str, str]]:  # noqa: ARG002
        return []

    def body(self, call_body: bytes) -> Any:
        return json.loads(call_body)

    def signed(self, payload: Any) -> tuple[Request, str]:
        return says(payload), ""


def says(payload: Any, token: str = MAI, **headers: str) -> Request:
    known = {"content-type": "application/json", "authorization": f"Bearer {token}"}
    return Request("/chat/messages", json.dumps(payload).encode(), {**known, **headers})


def file(data: bytes, name: str = "a.png", key: str = "key-of-file", token: str = MAI) -> Request:
    headers = {
        "authorization": f"Bearer {token}",
        "content-type": "application/octet-stream",
        "x-message-id": key,
        "x-file-name": quote(name),
    }
    return Request("/chat/files", data, headers)


def error(text: str) -> Callable[[httpx.Response], bool]:
    return lambda answer: text in answer.json()["error"]


def asks(path: str, payload: Any, token: str = MAI) -> Request:
    return Request(path, says(payload, token).body, says(payload, token).headers)


WORLD = _World()

INCOMING = [
    Incoming(
        "a text",
        says({"id": "12345678", "text": "Công ty nợ lương", "choice": ""}),
        202,
        [
            {
                "text": "Công ty nợ lương",
                "address": MAI,
                "external_id": "1:12345678",
                "language_hint": "vi",
                "kind": "text",
                "attachments": 0,
            }
        ],
        answer=lambda answer: answer.json() == {"id": 1, "duplicate": False},
    ),
    Incoming(
        "a worker whose page had no language",
        says({"id": "12345678", "text": "hi"}, NIR),
        202,
        [{"address": NIR, "language_hint": "", "external_id": "2:12345678"}],
    ),
    Incoming(
        "a pressed button",
        says({"id": "12345678", "text": "Talk to a person", "choice": "/human"}),
        202,
        [{"text": "Talk to a person", "choice": "/human"}],
    ),
    Incoming(
        "a button without words",
        says({"id": "12345678", "text": "", "choice": "/link 12345678"}),
        202,
        [{"text": "", "choice": "/link 12345678"}],
    ),
    Incoming(
        "fields that are not known are passed over",
        says({"id": "12345678", "text": "hi", "author": "counsellor", "kind": "voicemail"}),
        202,
        [{"text": "hi", "kind": "text"}],
    ),
    Incoming(
        "a picture",
        file(PNG, "給料.png"),
        202,
        [{"text": "", "kind": "file", "external_id": "1:key-of-file", "attachments": 1}],
    ),
    Incoming("a file without a name", file(JPEG, ""), 202, [{"kind": "file", "attachments": 1}]),
    Incoming(
        "a name that is not UTF-8",
        Request("/chat/files", PNG, {**file(PNG).headers, "x-file-name": "%ff%e3%81.png"}),
        202,
        [{"kind": "file", "attachments": 1}],
    ),
    Incoming(
        "a name with a path, markup and tricks of direction",
        file(PNG, "../../etc/<img src=x onerror=alert(1)>\u202egnp.exe"),
        202,
        [{"kind": "file", "attachments": 1}],
    ),
    Incoming("an empty file", file(b""), 422, answer=error("empty")),
    Incoming("a file that is too big", file(b"x" * (20 * 1_048_576 + 1)), 413),
    Incoming("a file without an id", file(PNG, key=""), 422, answer=error("id")),
    Incoming("a file of a stranger", file(PNG, token="x" * 32), 401),
    Incoming("a text of a stranger", says({"id": "12345678", "text": "hi"}, "x" * 32), 401),
    Incoming("no token", says({"id": "12345678", "text": "hi"}, authorization=""), 401),
    Incoming("no id", says({"text": "hi"}), 422, answer=error("id")),
    Incoming("nothing said", says({"id": "12345678", "text": " \n"}), 422, answer=error("empty")),
    Incoming("10,001 letters", says({"id": "12345678", "text": "a" * 10_001}), 422),
    Incoming("a form", says({"id": "12345678"}, **{"content-type": "text/plain"}), 422),
    Incoming("read up to a message", asks("/chat/read", {"id": 7}), 204),
    Incoming("read up to nothing", asks("/chat/read", {"id": 0}), 422),
    Incoming("read up to a text", asks("/chat/read", {"id": "7"}), 422),
    Incoming("read up to yes", asks("/chat/read", {"id": True}), 422),
    Incoming("read up to more than there can be", asks("/chat/read", {"id": 2**63}), 422),
    Incoming("read by a stranger", asks("/chat/read", {"id": 7}, "x" * 32), 401),
    Incoming("a link for a stranger", asks("/chat/resume-link", {}, "x" * 32), 401),
    Incoming(
        "a link to another device",
        asks("/chat/resume-link", {"language": "my"}),
        200,
        answer=lambda answer: (
            answer.json()["url"].startswith("https://desk.example.org/chat?lang=my#resume=")
            and answer.json()["qr"].startswith("data:image/svg+xml")
        ),
    ),
    Incoming(
        "a language that is none is left out of the link",
        asks("/chat/resume-link", {"language": "<b>"}),
        200,
        answer=lambda answer: "/chat#resume=" in answer.json()["url"],
    ),
    Incoming("a link that nobody signed", asks("/chat/resume", {"token": "1.abc.def"}), 410),
    Incoming("no link", asks("/chat/resume", {}), 410),
    Incoming("a link that is no text", asks("/chat/resume", {"token": ["1"]}), 422),
    Incoming("a link with a lone surrogate", asks("/chat/resume", {"token": "\ud83d"}), 410),
]

OUTGOING: list[Outgoing] = []

PAYLOADS = [
    {"id": "12345678", "text": "hello", "choice": ""},
    {"id": "12345678", "text": "Talk to a person", "choice": "/human"},
]
