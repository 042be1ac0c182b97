"""Telegram's Bot API as far as the desk uses it: refuses what Telegram refuses, keeps what came.

The rules are those of core.telegram.org/bots/api; descriptions of errors as bots get them.
"""

import asyncio
import inspect
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from PIL import Image, UnidentifiedImageError
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from channels.message import utf16
from tests.channels.vendors import Vendor

TOKEN = "4839574812:AAFD39kkdpWt3ywyRZergyOLMaJhac60qcK"
BOT = {
    "id": 4839574812,
    "is_bot": True,
    "first_name": "Desk",
    "username": "desk_bot",
    "can_join_groups": False,
    "can_read_all_group_messages": False,
    "supports_inline_queries": False,
}
MEGABYTE = 1_048_576
KINDS = {
    "message", "edited_message", "channel_post", "edited_channel_post", "callback_query",
    "my_chat_member", "chat_member", "message_reaction", "poll", "inline_query",
}  # fmt: skip
ACTIONS = {"typing", "upload_photo", "upload_document", "upload_voice", "record_voice"}
METHODS = (
    "getMe", "getWebhookInfo", "setWebhook", "deleteWebhook", "getUpdates", "sendMessage",
    "sendPhoto", "sendVoice", "sendDocument", "sendChatAction", "answerCallbackQuery",
    "editMessageReplyMarkup", "leaveChat", "getFile", "setMyCommands", "setMyDescription",
    "setMyShortDescription",
)  # fmt: skip
"""Each is a method below, whose arguments are the parameters that it takes."""


class Refusal(Exception):  # noqa: N818 - it is an answer, not a fault of the peer
    """What Telegram answers instead of a result."""

    def __init__(self, code: int, description: str, **parameters: int) -> None:
        super().__init__(description)
        self.code, self.description, self.parameters = code, description, parameters

    def response(self) -> Response:
        body: dict[str, Any] = {
            "ok": False, "error_code": self.code, "description": self.description
        }  # fmt: skip
        if self.parameters:
            body["parameters"] = self.parameters
        return JSONResponse(body, self.code)


def bad(description: str) -> Refusal:
    return Refusal(400, f"Bad Request: {description}")


@dataclass
class Shown:
    """What a chat shows: words or a file, and the labels under them."""

    chat: int
    text: str
    file: bytes = b""
    kind: str = "text"
    labels: list[str] = field(default_factory=list)


class TelegramVendor(Vendor):
    """The server. `blocked` chats refuse the bot, `unknown` ones do not exist; `groups`: where the
    bot is; `files`: what it may fetch; `queries`: buttons that were pressed and still wait."""

    def __init__(self) -> None:
        super().__init__(
            [
                Route("/bot{token}/{method}", self._call, methods=["GET", "POST"]),
                Route("/file/bot{token}/{path:path}", self._file),
            ]
        )
        self.shown: list[Shown] = []
        self.blocked: set[int] = set()
        self.unknown: set[int] = set()
        self.groups: set[int] = set()
        self.files: dict[str, bytes] = {}
        self.queries: dict[str, str | None] = {}
        self.hook: dict[str, Any] = {}
        self.fault = ""
        self.me = dict(BOT)
        self.updates: list[dict[str, Any]] = []
        self.menus: dict[str, list[dict[str, str]]] = {}
        self.described: dict[tuple[str, str], str] = {}
        self._asking = 0
        self._message = 500
        self._update = 100

    def arrive(self, **update: Any) -> None:
        """Something happens at Telegram: it waits for `getUpdates`."""
        self._update += 1
        self.updates.append({"update_id": self._update, **update})

    async def _file(self, request: Request) -> Response:
        wanted = request.path_params["path"].removeprefix("files/").rpartition(".")[0]
        if request.path_params["token"] != TOKEN or wanted not in self.files:
            return Refusal(404, "Not Found").response()
        return Response(self.files[wanted])

    async def _call(self, request: Request) -> Response:
        try:
            return JSONResponse({"ok": True, "result": await self._result(request)})
        except Refusal as refusal:
            return refusal.response()

    async def _result(self, request: Request) -> Any:
        token, method = request.path_params["token"], request.path_params["method"]
        if not re.fullmatch(r"\d+:[\w-]+", token):
            raise Refusal(404, "Not Found")
        if token != TOKEN:
            raise Refusal(401, "Unauthorized")
        if method not in METHODS:
            raise Refusal(404, "Not Found: method not found")
        form = await request.form()
        given: dict[str, Any] = {}
        for name, value in form.multi_items():
            given[name] = await value.read() if isinstance(value, UploadFile) else value
        name = "_" + re.sub("([A-Z])", lambda match: "_" + match[1].lower(), method)
        do: Callable[..., Any] = getattr(self, name)
        try:
            inspect.signature(do).bind(**given)
        except TypeError as fault:
            raise bad(f"{fault}") from None
        done = do(**given)
        return await done if asyncio.iscoroutine(done) else done

    # -- the bot and its web hook -------------------------------------------------------------

    def _get_me(self) -> Any:
        return self.me

    def _get_webhook_info(self) -> Any:
        about = {
            "url": self.hook.get("url", ""),
            "has_custom_certificate": False,
            "pending_update_count": len(self.updates),
        }
        if self.hook.get("allowed_updates"):
            about["allowed_updates"] = self.hook["allowed_updates"]
        if self.fault:
            about |= {"last_error_date": 1788000000, "last_error_message": self.fault}
        return about

    def _set_webhook(
        self,
        url: str,
        secret_token: str = "",
        allowed_updates: str = "[]",
        drop_pending_updates: str = "false",
    ) -> bool:
        parts = urlsplit(url)
        if url and parts.scheme != "https":
            raise bad("bad webhook: An HTTPS URL must be provided for webhook")
        if url and (parts.port or 443) not in {80, 88, 443, 8443}:
            raise bad("bad webhook: Webhook can be set up only on ports 80, 88, 443 or 8443")
        if not re.fullmatch(r"[A-Za-z0-9_-]{0,256}", secret_token):
            raise bad("secret token contains unallowed characters")
        kinds = parsed(allowed_updates, list)
        if not set(kinds) <= KINDS:
            raise bad("unknown type of update")
        if drop_pending_updates == "true":
            self.updates.clear()
        self.hook = {"url": url, "secret_token": secret_token, "allowed_updates": kinds}
        return True

    def _delete_webhook(self, drop_pending_updates: str = "false") -> bool:
        self.hook = {}
        if drop_pending_updates == "true":
            self.updates.clear()
        return True

    async def _get_updates(
        self, offset: str = "0", limit: str = "100", timeout: str = "0", allowed_updates: str = "[]"
    ) -> Any:
        if self.hook.get("url"):
            raise Refusal(
                409,
                "Conflict: can't use getUpdates method while webhook is active; use deleteWebhook "
                "to delete the webhook first",
            )
        start, most, patience = int(offset), int(limit), int(timeout)
        assert start >= 0, "the desk never drops updates"
        assert 1 <= most <= 100, "as Telegram allows"
        kinds = set(parsed(allowed_updates, list))
        assert kinds <= KINDS, "as Telegram knows"
        self.updates = [one for one in self.updates if one["update_id"] >= start]  # confirmed
        self._asking += 1
        mine, waited = self._asking, 0.0
        while not self.updates and waited < patience:
            await asyncio.sleep(0.01)
            waited += 0.01
            if mine != self._asking:
                raise Refusal(
                    409,
                    "Conflict: terminated by other getUpdates request; make sure that only one bot "
                    "instance is running",
                )
        return [one for one in self.updates if not kinds or set(one) & kinds][:most]

    # -- what chats show ----------------------------------------------------------------------

    def _chat(self, chat_id: str) -> int:
        if not re.fullmatch(r"-?\d{1,16}", chat_id) or int(chat_id) in self.unknown:
            raise bad("chat not found")
        if int(chat_id) in self.blocked:
            raise Refusal(403, "Forbidden: bot was blocked by the user")
        if int(chat_id) < 0 and int(chat_id) not in self.groups:
            raise Refusal(403, "Forbidden: bot is not a member of the group chat")
        return int(chat_id)

    def _show(self, chat_id: str, text: str, markup: str, file: bytes = b"", kind: str = "") -> Any:
        chat = self._chat(chat_id)
        self._message += 1
        self.shown.append(Shown(chat, text, file, kind or "text", keyboard(markup)))
        return {
            "message_id": self._message,
            "date": 1788000000,
            "chat": {"id": chat, "type": "private" if chat > 0 else "group"},
            "from": BOT,
            "text": text,
        }

    def _send_message(
        self,
        chat_id: str,
        text: str,
        reply_markup: str = "",
        link_preview_options: str = "{}",
    ) -> Any:
        self._chat(chat_id)
        if not text.strip():
            raise bad("message text is empty")
        if utf16(text) > 4096:
            raise bad("message is too long")
        if not set(parsed(link_preview_options, dict)) <= {"is_disabled", "url"}:
            raise bad("can't parse link preview options")
        return self._show(chat_id, text, reply_markup)

    def _send_photo(self, chat_id: str, photo: bytes, reply_markup: str = "") -> Any:
        upload(photo, 10)
        try:
            with Image.open(io.BytesIO(photo)) as image:
                width, height = image.size
        except UnidentifiedImageError:
            raise bad("IMAGE_PROCESS_FAILED") from None
        if width + height > 10_000 or max(width, height) > 20 * min(width, height):
            raise bad("PHOTO_INVALID_DIMENSIONS")
        return self._show(chat_id, "", reply_markup, photo, "photo")

    def _send_voice(self, chat_id: str, voice: bytes, reply_markup: str = "") -> Any:
        upload(voice, 50)
        return self._show(chat_id, "", reply_markup, voice, "voice")

    def _send_document(self, chat_id: str, document: bytes, reply_markup: str = "") -> Any:
        upload(document, 50)
        return self._show(chat_id, "", reply_markup, document, "document")

    def _send_chat_action(self, chat_id: str, action: str) -> bool:
        self._chat(chat_id)
        if action not in ACTIONS:
            raise bad("wrong parameter action in request")
        return True

    def _answer_callback_query(self, callback_query_id: str, text: str = "") -> bool:
        if callback_query_id not in self.queries:
            raise bad("query is too old and response timeout expired or query ID is invalid")
        if len(text) > 200:
            raise bad("MESSAGE_TOO_LONG")
        self.queries[callback_query_id] = text
        return True

    def _edit_message_reply_markup(
        self, chat_id: str, message_id: str, reply_markup: str = ""
    ) -> Any:
        self._chat(chat_id)
        if not message_id.isdigit():
            raise bad("message to edit not found")
        keyboard(reply_markup)
        return True

    def _leave_chat(self, chat_id: str) -> bool:
        if self._chat(chat_id) > 0:
            raise bad("chat member status can't be changed in private chats")
        self.groups.remove(int(chat_id))
        return True

    def _get_file(self, file_id: str) -> Any:
        if file_id not in self.files:
            raise bad("wrong file_id or the file is temporarily unavailable")
        size = len(self.files[file_id])
        if size > 20 * MEGABYTE:
            raise bad("file is too big")
        return {
            "file_id": file_id,
            "file_unique_id": f"u{file_id}",
            "file_size": size,
            "file_path": f"files/{file_id}.bin",
        }

    # -- menus and descriptions ---------------------------------------------------------------

    def _set_my_commands(self, commands: str, language_code: str = "") -> bool:
        listed = parsed(commands, list)
        if len(listed) > 100:
            raise bad("BOT_COMMANDS_TOO_MUCH")
        for one in listed:
            if set(one) != {"command", "description"}:
                raise bad("can't parse BotCommand")
            if not re.fullmatch(r"[a-z0-9_]{1,32}", one["command"]):
                raise bad("BOT_COMMAND_INVALID")
            if not 1 <= len(one["description"]) <= 256:
                raise bad("BOT_COMMAND_DESCRIPTION_INVALID")
        self.menus[language(language_code)] = listed
        return True

    def _set_my_description(self, description: str = "", language_code: str = "") -> bool:
        if len(description) > 512:
            raise bad("BOT_DESCRIPTION_TOO_LONG")
        self.described["long", language(language_code)] = description
        return True

    def _set_my_short_description(
        self, short_description: str = "", language_code: str = ""
    ) -> bool:
        if len(short_description) > 120:
            raise bad("BOT_SHORT_DESCRIPTION_TOO_LONG")
        self.described["short", language(language_code)] = short_description
        return True


def parsed(value: str, kind: type) -> Any:
    """A parameter that is JSON."""
    try:
        found = json.loads(value)
    except ValueError:
        raise bad("can't parse JSON object") from None
    if not isinstance(found, kind):
        raise bad("wrong type of JSON object")
    return found


def keyboard(markup: str) -> list[str]:
    """The labels of an inline keyboard."""
    if not markup:
        return []
    found = parsed(markup, dict)
    if set(found) != {"inline_keyboard"}:
        raise bad("object expected as reply markup")
    buttons = [one for row in found["inline_keyboard"] for one in row]
    if len(buttons) > 100:
        raise bad("reply markup is too long")
    for one in buttons:
        if set(one) != {"text", "callback_data"} or not one["text"].strip():
            raise bad("can't parse inline keyboard button: Text buttons are unallowed")
        if not 1 <= len(one["callback_data"].encode()) <= 64:
            raise bad("BUTTON_DATA_INVALID")
    return [one["text"] for one in buttons]


def upload(file: object, megabytes: int) -> None:
    """A file that came with the call, not too big."""
    if not isinstance(file, bytes):
        raise bad("wrong remote file identifier specified")
    if not file:
        raise bad("file must be non-empty")
    if len(file) > megabytes * MEGABYTE:
        raise Refusal(413, "Request Entity Too Large")


def language(code: str) -> str:
    """A two-letter language, or "" for all others."""
    if code and not re.fullmatch("[a-z]{2}", code):
        raise bad("LANG_CODE_INVALID")
    return code
