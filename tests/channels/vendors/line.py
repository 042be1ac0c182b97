"""LINE in tests: the part of the Messaging API that the desk uses, and what LINE refuses of it."""

import io
import itertools
import json
import re
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.channels.vendors import Vendor

TOKEN = "line-access-token-Zm9yIHRlc3Rz"
USER = re.compile(r"U[0-9a-f]{32}")
ISSUED: dict[str, str] = {}
"""Reply tokens that LINE gave out → the user who gets what is replied."""

Handler = Callable[[Request], Awaitable[Response]]


def refuse(status: int, message: str, **more: Any) -> Response:
    return JSONResponse({"message": message, **more}, status)


def units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


@dataclass
class Menu:
    """A rich menu; without its picture nobody can be shown it."""

    request: dict[str, Any]
    image: bytes = b""
    users: set[str] = field(default_factory=set)


class Line(Vendor):
    """LINE's API. `shown` is what users see, `left` which groups the account left."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, str]] = []
        self.spent: set[str] = set()
        self.accepted: dict[str, list[dict[str, str]]] = {}
        self.gone: set[str] = set()
        self.profiles: dict[str, dict[str, str]] = {}
        self.files: dict[str, bytes | None] = {}
        self.lost_quotes = {"quote-of-an-unsent-message"}
        self.limit: int | None = 200
        self.used = 0
        self.chat_mode = "bot"
        self.hook: dict[str, Any] | None = None
        self.trial: dict[str, Any] = {"success": True, "statusCode": 200, "reason": "OK"}
        self.menus: dict[str, Menu] = {}
        self.aliases: dict[str, str] = {}
        self.default = ""
        self.left: list[str] = []
        self.dots: list[str] = []
        self._numbers = itertools.count(461230966842064897)
        super().__init__(
            [
                self._route("POST", "/v2/bot/message/reply", self.reply),
                self._route("POST", "/v2/bot/message/push", self.push),
                self._route("GET", "/v2/bot/message/quota", self.quota),
                self._route("GET", "/v2/bot/message/quota/consumption", self.consumption),
                self._route("GET", "/v2/bot/message/{id}/content", self.content),
                self._route("POST", "/v2/bot/chat/loading/start", self.loading),
                self._route("GET", "/v2/bot/profile/{id}", self.profile),
                self._route("GET", "/v2/bot/info", self.info),
                self._route("GET", "/v2/bot/channel/webhook/endpoint", self.endpoint),
                self._route("PUT", "/v2/bot/channel/webhook/endpoint", self.set_endpoint),
                self._route("POST", "/v2/bot/channel/webhook/test", self.try_endpoint),
                self._route("POST", "/v2/bot/group/{id}/leave", self.leave),
                self._route("POST", "/v2/bot/room/{id}/leave", self.leave),
                self._route("POST", "/v2/bot/richmenu", self.create_menu),
                self._route("GET", "/v2/bot/richmenu/list", self.list_menus),
                self._route("POST", "/v2/bot/richmenu/alias", self.create_alias),
                self._route("GET", "/v2/bot/richmenu/alias/list", self.list_aliases),
                self._route("POST", "/v2/bot/richmenu/alias/{id}", self.update_alias),
                self._route("POST", "/v2/bot/richmenu/{id}/content", self.set_picture),
                self._route("DELETE", "/v2/bot/richmenu/{id}", self.delete_menu),
                self._route("POST", "/v2/bot/user/all/richmenu/{id}", self.set_default),
                self._route("POST", "/v2/bot/user/{user}/richmenu/{id}", self.link_menu),
            ]
        )

    def _route(self, method: str, path: str, handler: Handler) -> Route:
        async def authorised(request: Request) -> Response:
            if request.headers.get("authorization") != f"Bearer {TOKEN}":
                return refuse(401, "Authentication failed due to the following reason: invalid")
            return await handler(request)

        return Route(path, authorised, methods=[method])

    # -- messages -----------------------------------------------------------------------------

    async def reply(self, request: Request) -> Response:
        body = await _object(request)
        if faults := wrong(body, {"replyToken": str, "messages": list}, self.lost_quotes):
            return _invalid(faults)
        token = body["replyToken"]
        if token not in ISSUED or token in self.spent:
            return refuse(400, "Invalid reply token")
        self.spent.add(token)
        return JSONResponse({"sentMessages": self._show(ISSUED[token], body["messages"])})

    async def push(self, request: Request) -> Response:
        body = await _object(request)
        key = request.headers.get("x-line-retry-key", "")
        try:
            assert str(uuid.UUID(key)) == key
        except (ValueError, AssertionError):
            return refuse(400, "Invalid retry key")
        if faults := wrong(body, {"to": str, "messages": list}, self.lost_quotes):
            return _invalid(faults)
        if not USER.fullmatch(body["to"]):
            return refuse(400, "The property, 'to', in the request body is invalid")
        if key in self.accepted:
            sent = self.accepted[key]
            return refuse(409, "The retry key is already accepted", sentMessages=sent)
        if body["to"] in self.gone:
            return refuse(400, "Failed to send messages")
        if self.limit is not None and self.used >= self.limit:
            return refuse(429, "You have reached your monthly limit.")
        self.used += 1
        self.accepted[key] = self._show(body["to"], body["messages"])
        return JSONResponse({"sentMessages": self.accepted[key]})

    def _show(self, user: str, messages: list[dict[str, Any]]) -> list[dict[str, str]]:
        self.shown += [
            (user, one["text"] if one["type"] == "text" else one["originalContentUrl"])
            for one in messages
        ]
        return [{"id": str(next(self._numbers)), "quoteToken": "q"} for _ in messages]

    async def loading(self, request: Request) -> Response:
        body = await _object(request)
        seconds = body.get("loadingSeconds", 20)
        if set(body) - {"chatId", "loadingSeconds"} or not USER.fullmatch(body.get("chatId", "")):
            return refuse(400, "Invalid chat ID")
        if not isinstance(seconds, int) or seconds % 5 or not 5 <= seconds <= 60:
            return refuse(400, "The request body has 1 error(s)")
        self.dots.append(body["chatId"])
        return JSONResponse({}, 202)

    async def quota(self, _: Request) -> Response:
        if self.limit is None:
            return JSONResponse({"type": "none"})
        return JSONResponse({"type": "limited", "value": self.limit})

    async def consumption(self, _: Request) -> Response:
        return JSONResponse({"totalUsage": self.used})

    async def content(self, request: Request) -> Response:
        number = request.path_params["id"]
        if number not in self.files:
            return refuse(404, "Not found")
        data = self.files[number]
        return Response(status_code=202) if data is None else Response(data, media_type="image/png")

    async def profile(self, request: Request) -> Response:
        user = request.path_params["id"]
        if user not in self.profiles or user in self.gone:
            return refuse(404, "Not found")
        return JSONResponse({"userId": user, **self.profiles[user]})

    # -- the account --------------------------------------------------------------------------

    async def info(self, _: Request) -> Response:
        return JSONResponse(
            {
                "userId": "U" + "b" * 32,
                "basicId": "@desk",
                "displayName": "Desk",
                "chatMode": self.chat_mode,
                "markAsReadMode": "auto",
            }
        )

    async def endpoint(self, _: Request) -> Response:
        if self.hook is None:
            return refuse(404, "Webhook endpoint is not found")
        return JSONResponse(self.hook)

    async def set_endpoint(self, request: Request) -> Response:
        body = await _object(request)
        url = body.get("endpoint", "")
        if set(body) != {"endpoint"} or not url.startswith("https://") or len(url) > 500:
            return refuse(400, "Invalid webhook endpoint URL")
        self.hook = {"endpoint": url, "active": self.hook is None or self.hook["active"]}
        return JSONResponse({})

    async def try_endpoint(self, request: Request) -> Response:
        body = await _object(request)
        if not body.get("endpoint", "https://").startswith("https://"):
            return refuse(400, "Invalid webhook endpoint URL")
        return JSONResponse({"timestamp": "2026-03-01T00:00:00Z", "detail": "", **self.trial})

    async def leave(self, request: Request) -> Response:
        self.left.append(request.path_params["id"])
        return JSONResponse({})

    # -- menus --------------------------------------------------------------------------------

    async def create_menu(self, request: Request) -> Response:
        body = await _object(request)
        size = body.get("size", {})
        areas = body.get("areas", [])
        well = (
            set(body) == {"size", "selected", "name", "chatBarText", "areas"}
            and 800 <= size["width"] <= 2500
            and size["height"] >= 250
            and size["width"] / size["height"] >= 1.45
            and 0 < units(body["name"]) <= 300
            and 0 < units(body["chatBarText"]) <= 14
            and 0 < len(areas) <= 20
            and not [fault for area in areas for fault in _wrong_area(area, size)]
        )
        if not well:
            return refuse(400, "The request body has 1 error(s)")
        number = f"richmenu-{uuid.uuid4().hex}"
        self.menus[number] = Menu(body)
        return JSONResponse({"richMenuId": number})

    async def set_picture(self, request: Request) -> Response:
        menu, data = self.menus.get(request.path_params["id"]), await request.body()
        if menu is None:
            return refuse(404, "Not found")
        if request.headers.get("content-type") not in {"image/png", "image/jpeg"}:
            return refuse(415, "Unsupported media type")
        if menu.image or len(data) > 1_048_576:
            return refuse(400, "An image has already been uploaded, or it is too big")
        size = menu.request["size"]
        if Image.open(io.BytesIO(data)).size != (size["width"], size["height"]):
            return refuse(400, "The image size must be equal to the richmenu size")
        menu.image = data
        return JSONResponse({})

    async def list_menus(self, _: Request) -> Response:
        rows = [{"richMenuId": number, **menu.request} for number, menu in self.menus.items()]
        return JSONResponse({"richmenus": rows})

    async def delete_menu(self, request: Request) -> Response:
        if self.menus.pop(request.path_params["id"], None) is None:
            return refuse(404, "Not found")
        return JSONResponse({})

    async def create_alias(self, request: Request) -> Response:
        body = await _object(request)
        name, number = body.get("richMenuAliasId", ""), body.get("richMenuId")
        if not re.fullmatch(r"[a-z0-9_-]{1,32}", name) or name in self.aliases:
            return refuse(400, "conflict richmenu alias id")
        return self._name(name, number)

    async def update_alias(self, request: Request) -> Response:
        name = request.path_params["id"]
        if name not in self.aliases:
            return refuse(404, "richmenu alias not found")
        return self._name(name, (await _object(request)).get("richMenuId"))

    def _name(self, name: str, number: Any) -> Response:
        if number not in self.menus or not self.menus[number].image:
            return refuse(400, "must upload richmenu image before applying it to user")
        self.aliases[name] = number
        return JSONResponse({})

    async def list_aliases(self, _: Request) -> Response:
        rows = [{"richMenuAliasId": a, "richMenuId": n} for a, n in self.aliases.items()]
        return JSONResponse({"aliases": rows})

    async def set_default(self, request: Request) -> Response:
        menu = self.menus.get(request.path_params["id"])
        if menu is None or not menu.image:
            return refuse(400, "must upload richmenu image before applying it to user")
        self.default = request.path_params["id"]
        return JSONResponse({})

    async def link_menu(self, request: Request) -> Response:
        menu = self.menus.get(request.path_params["id"])
        if menu is None or not menu.image or not USER.fullmatch(request.path_params["user"]):
            return refuse(404, "Not found")
        for other in self.menus.values():
            other.users.discard(request.path_params["user"])
        menu.users.add(request.path_params["user"])
        return JSONResponse({})


# -- what LINE refuses -----------------------------------------------------------------------------


async def _object(request: Request) -> dict[str, Any]:
    body = json.loads(await request.body())
    assert isinstance(body, dict)
    assert request.headers["content-type"].startswith("application/json")
    return body


def _invalid(faults: list[tuple[str, str]]) -> Response:
    details = [{"property": where, "message": what} for where, what in faults]
    return refuse(400, f"The request body has {len(faults)} error(s)", details=details)


def wrong(
    body: dict[str, Any], wanted: dict[str, type], lost_quotes: set[str]
) -> list[tuple[str, str]]:
    """What is wrong with the body of a reply or push, as LINE's `details` tell it."""
    faults = [(name, "May not be empty") for name in wanted if not body.get(name)]
    faults += [(n, "wrong type") for n, t in wanted.items() if not isinstance(body.get(n, t()), t)]
    faults += [(name, "unknown") for name in set(body) - {*wanted, "notificationDisabled"}]
    if faults:
        return faults
    if not 1 <= len(body["messages"]) <= 5:
        return [("messages", "Size must be between 1 and 5")]
    for number, one in enumerate(body["messages"]):
        here = f"messages[{number}]"
        quick = one.get("quickReply")
        common = {"type", "quickReply"}
        if one.get("type") == "text":
            faults += [
                (f"{here}.{n}", "unknown") for n in set(one) - common - {"text", "quoteToken"}
            ]
            if not one.get("text", "").strip() or units(one["text"]) > 5000:
                faults.append((f"{here}.text", "Length must be between 0 and 5000"))
            if one.get("quoteToken", "quote") in lost_quotes:
                faults.append((f"{here}.quoteToken", "Invalid quote token"))
        elif one.get("type") == "image":
            urls = {"originalContentUrl", "previewImageUrl"}
            faults += [(f"{here}.{n}", "unknown") for n in set(one) - common - urls]
            faults += [
                (f"{here}.{name}", "Must be a valid HTTPS URL")
                for name in urls
                if not one.get(name, "").startswith("https://") or len(one[name]) > 2000
            ]
        else:
            faults.append((f"{here}.type", "Must be one of the following values: [text, image]"))
        if quick is not None:
            items = quick.get("items", [])
            if set(quick) != {"items"} or not 1 <= len(items) <= 13:
                faults.append((f"{here}.quickReply.items", "Size must be between 1 and 13"))
            faults += [
                (f"{here}.quickReply.items[{n}]", fault)
                for n, item in enumerate(items)
                for fault in _wrong_item(item)
            ]
    return faults


def _wrong_item(item: dict[str, Any]) -> list[str]:
    label = item.get("action", {}).get("label", "")
    well = item.get("type") == "action" and not set(item) - {"type", "action", "imageUrl"}
    faults = [] if well else ["wrong item"]
    faults += [] if 1 <= units(label) <= 20 else ["label: length must be between 1 and 20"]
    return faults + _wrong_action(item.get("action", {}))


def _wrong_action(action: dict[str, Any]) -> list[str]:
    if action.get("type") == "postback":
        known = {"type", "label", "data", "displayText"}
        well = 1 <= units(action.get("data", "")) <= 300
        well = well and 1 <= units(action.get("displayText", "x")) <= 300
    else:
        known = {"type", "label", "text"}
        well = action.get("type") == "message" and 1 <= units(action.get("text", "")) <= 300
    return [] if well and not set(action) - known else ["wrong action"]


def _wrong_area(area: dict[str, Any], size: dict[str, int]) -> list[str]:
    at = area["bounds"]
    inside = (
        set(at) == {"x", "y", "width", "height"}
        and at["x"] + at["width"] <= size["width"]
        and at["y"] + at["height"] <= size["height"]
        and min(at["width"], at["height"]) > 0
    )
    return ([] if inside else ["out of bounds"]) + _wrong_action(area["action"])
