"""Telegram beyond its table: polling, groups, buttons, files, set-up, and a desk on a laptop."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from starlette.applications import Starlette

import channels.telegram
from channels.context import ChannelContext
from channels.message import (
    RateLimitedError,
    RefusedError,
    RejectedError,
    TemporarySendError,
)
from channels.telegram import COMMANDS, Telegram, TelegramSettings
from config.database import Database
from config.vault import vault
from tests.channels.tables.telegram import (
    GROUP,
    MAI,
    OGG,
    SECRET,
    TEAM,
    answers,
    hook,
    membership,
    message,
    pressed,
    says,
    written,
)
from tests.channels.vendors import Status
from tests.channels.vendors.telegram import MEGABYTE, TOKEN, Shown, TelegramVendor
from tests.channels.world import PUBLIC_URL, TEXTS, RecordingInbox, Request, context
from tests.stories.running import RunningDesk

PATIENCE = 60
"""Seconds after which something that does not come is a failure; never a measure of speed."""
UNAVAILABLE = answers(503, "Service Unavailable")


@dataclass
class Desk:
    """The channel with its vendor and an inbox that records."""

    channel: Telegram
    vendor: TelegramVendor
    inbox: RecordingInbox
    context: ChannelContext

    async def deliver(self, update: Any, secret: str = SECRET) -> httpx.Response:
        """Telegram calls the web hook; what follows the answer has been done, too."""
        return await self.request(hook(update, secret))

    async def request(self, request: Request, **headers: bytes) -> httpx.Response:
        transport = httpx.ASGITransport(Starlette(routes=list(self.channel.routes())))
        told = {**{k: v.encode() for k, v in request.headers.items()}, **headers}
        async with httpx.AsyncClient(transport=transport, base_url=PUBLIC_URL) as http:
            return await http.post(request.path, content=request.body, headers=list(told.items()))

    def asked(self, *methods: str) -> list[str]:
        """The methods that were called, of these or of all."""
        called = [call.path.rpartition("/")[2] for call in self.vendor.calls]
        return [one for one in called if not methods or one in methods]


@pytest.fixture
def vendor() -> Iterator[TelegramVendor]:
    with TelegramVendor() as running:
        yield running


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'desk.sqlite3'}")
    opened.migrate()
    yield opened
    opened.close()


Make = Callable[..., Desk]


@pytest.fixture
def make(vendor: TelegramVendor, tmp_path: Path, database: Database) -> Make:
    """Make a desk with further settings of Telegram, at some address."""

    def made(public_url: str = PUBLIC_URL, **settings: str) -> Desk:
        inbox = RecordingInbox()
        around = context(tmp_path, inbox, database)
        around.settings.public_url = public_url
        own = {"token": TOKEN, "webhook_secret": SECRET, "api_url": vendor.url}
        own |= {"bot_name": "desk_bot", **settings}
        channel = Telegram(around, TelegramSettings.model_validate(own))
        return Desk(channel, vendor, inbox, around)

    return made


@pytest.fixture
async def desk(make: Make) -> AsyncIterator[Desk]:
    """A desk with a web hook."""
    made = make()
    async with made.channel.lifespan():
        yield made


@asynccontextmanager
async def polling(make: Make, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    """A desk on a laptop: it has no public address."""
    monkeypatch.setattr(channels.telegram, "PAUSE", 0.01)
    made = make(public_url="")
    async with made.channel.lifespan():
        yield made


async def until(reached: Callable[[], bool]) -> None:
    """Look again and again; what is awaited happens in another thread."""
    async with asyncio.timeout(PATIENCE):
        while not reached():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


# -- out -------------------------------------------------------------------------------------------


async def test_too_fast_waits_as_long_as_telegram_says(desk: Desk) -> None:
    desk.vendor.fail(answers(429, "Too Many Requests: retry after 35", retry_after=35))
    with pytest.raises(RateLimitedError) as raised:
        await desk.channel.send([says("x")])
    assert raised.value.retry_after == 35


async def test_what_left_before_a_failure_is_not_sent_again(desk: Desk) -> None:
    file = await desk.context.media.keep("a.pdf", b"%PDF-1.4")
    reply = says("Here it is", attachments=(file, file))
    desk.vendor.fail(None, None, UNAVAILABLE)
    with pytest.raises(TemporarySendError):
        await desk.channel.send([reply])
    assert await desk.channel.send([reply]) == [f"{MAI}:501"]
    assert [one.text or one.kind for one in desk.vendor.shown] == [
        "Here it is",
        "document",
        "document",
    ]
    await desk.channel.send([reply])  # asked for anew, by a person: all of it
    assert len(desk.vendor.shown) == 6


async def test_a_file_that_was_erased_is_not_waited_for(desk: Desk) -> None:
    file = await desk.context.media.keep("a.pdf", b"%PDF-1.4")
    desk.context.media.remove([file.file])
    with pytest.raises(RejectedError):
        await desk.channel.send([says("", attachments=(file,))])


async def test_what_is_being_written_shows_and_never_fails(desk: Desk) -> None:
    await desk.channel.busy(str(MAI), {})
    desk.vendor.fail(UNAVAILABLE)
    await desk.channel.busy(str(MAI), {})
    await desk.channel.busy("nobody", {})
    assert desk.asked() == ["sendChatAction", "sendChatAction"]


# -- buttons and groups ----------------------------------------------------------------------------


async def test_a_pressed_button_stops_waiting_and_its_menu_stays(desk: Desk) -> None:
    desk.vendor.queries["77001"] = None
    answer = await desk.deliver(pressed("/topic visa", {"/topic visa": "Gia hạn visa"}))
    assert answer.status_code == 200
    assert desk.vendor.queries == {"77001": "Gia hạn visa"}
    assert desk.asked() == ["answerCallbackQuery"]


async def test_a_question_of_yes_or_no_is_asked_once(desk: Desk) -> None:
    desk.vendor.queries["77001"] = None
    await desk.deliver(pressed("/delete yes", {"/delete yes": "Có", "/delete no": "Không"}))
    assert desk.asked() == ["answerCallbackQuery", "editMessageReplyMarkup"]


async def test_a_button_is_kept_whatever_becomes_of_its_spinner(desk: Desk) -> None:
    for fault in (None, UNAVAILABLE):  # the query is too old; Telegram is away
        desk.vendor.fail(fault)
        assert (await desk.deliver(pressed("/human", {"/human": "x"}))).status_code == 200
    assert [one.choice for one in desk.inbox.messages] == ["/human"]


async def test_a_button_that_cannot_be_kept_is_not_answered(desk: Desk) -> None:
    desk.inbox.broken = OSError(28, "No space left on device")
    with pytest.raises(OSError, match="No space"):
        await desk.deliver(pressed("/human", {"/human": "x"}))
    assert desk.asked() == []


async def test_a_group_is_refused_politely_once_and_left(desk: Desk) -> None:
    desk.vendor.groups.add(GROUP)
    await desk.deliver(membership("member", "left", TEAM))
    assert [(one.chat, one.text) for one in desk.vendor.shown] == [
        (GROUP, TEXTS("telegram.group", "vi").body)  # she who added the bot reads Vietnamese
    ]
    assert desk.vendor.groups == set()
    desk.vendor.calls.clear()
    await desk.deliver(membership("left", "member", TEAM))
    await desk.deliver(written(text="come back", chat=TEAM))
    assert desk.asked() == []
    assert not desk.inbox.messages
    assert not desk.inbox.notices


async def test_a_group_that_makes_the_bot_its_administrator_is_not_told_twice(desk: Desk) -> None:
    desk.vendor.groups.add(GROUP)
    await desk.deliver(membership("administrator", "member", TEAM))
    assert desk.asked() == ["leaveChat"]


async def test_a_channel_is_left_without_a_word(desk: Desk) -> None:
    desk.vendor.groups.add(GROUP)
    await desk.deliver(membership("administrator", "left", {**TEAM, "type": "channel"}))
    assert desk.asked() == ["leaveChat"]


async def test_a_group_in_which_nobody_may_write_is_left(desk: Desk) -> None:
    desk.vendor.groups.add(GROUP)
    desk.vendor.fail(answers(400, "Bad Request: not enough rights to send text messages"))
    await desk.deliver(membership("member", "left", TEAM))
    assert desk.vendor.groups == set()


# -- files -----------------------------------------------------------------------------------------


async def test_a_voice_note_is_fetched_and_can_be_heard(desk: Desk) -> None:
    desk.vendor.files["v1"] = OGG
    name, data = await desk.channel.fetch("v1")
    assert (name, data) == ("v1.bin", OGG)
    assert (await desk.context.media.keep("", data)).media_type == "audio/ogg"


async def test_files_that_are_too_big_are_lost_and_say_why(desk: Desk) -> None:
    desk.vendor.files["huge"] = bytes(21 * MEGABYTE)
    with pytest.raises(RejectedError, match="20 MB"):
        await desk.channel.fetch("huge")
    desk.context.media.limit = 100
    desk.vendor.files["big"] = bytes(101)
    with pytest.raises(RefusedError):
        await desk.channel.fetch("big")
    assert not any("/file/" in call.path for call in desk.vendor.calls)


async def test_a_file_that_telegram_does_not_have_now_is_tried_again(desk: Desk) -> None:
    desk.vendor.files["v1"] = OGG
    gone = answers(404, "Not Found")
    for faults in ([UNAVAILABLE], [None, gone], [None, UNAVAILABLE]):
        desk.vendor.fail(*faults)
        with pytest.raises(TemporarySendError):
            await desk.channel.fetch("v1")
    with pytest.raises(TemporarySendError):
        await desk.channel.fetch("unknown")


# -- the web hook's secret -------------------------------------------------------------------------


async def test_without_a_secret_of_its_own_the_web_hook_has_one_of_the_data_key(
    make: Make,
) -> None:
    desk = make(webhook_secret="")
    derived = vault().secret("telegram webhook")
    assert (await desk.deliver(written(text="x"), derived)).status_code == 200
    assert (await desk.deliver(written(text="x"), "")).status_code == 403
    await desk.channel.setup()
    assert desk.vendor.hook["secret_token"] == derived


async def test_a_secret_of_strange_bytes_is_wrong_and_no_fault(desk: Desk) -> None:
    strange = {"x-telegram-bot-api-secret-token": "é\u00ff".encode("latin-1")}
    assert (await desk.request(hook(written(text="x")), **strange)).status_code == 403


@pytest.mark.parametrize(
    "wrong",
    [{"token": "123456"}, {"token": "123:a b"}, {"webhook_secret": "ö"}, {"mode": "push"}],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        TelegramSettings.model_validate(wrong)


def test_without_a_token_there_is_no_telegram() -> None:
    assert not TelegramSettings.model_validate({"token": " "}).configured
    assert TelegramSettings.model_validate({"token": f" {TOKEN}\n"}).configured


# -- set-up ----------------------------------------------------------------------------------------


def faults(findings: Any) -> list[str]:
    return [finding.what for finding in findings if not finding.ok]


async def test_setup_sets_everything_and_the_check_agrees(desk: Desk) -> None:
    assert faults(await desk.channel.check()) == ["web hook"]
    for _ in range(2):  # repeating it does no harm
        assert faults(await desk.channel.setup()) == []
    assert faults(await desk.channel.check()) == []
    assert desk.vendor.hook == {
        "url": f"{PUBLIC_URL}/telegram/webhook",
        "secret_token": SECRET,
        "allowed_updates": ["message", "edited_message", "callback_query", "my_chat_member"],
    }
    assert set(desk.vendor.menus) == {"", *TEXTS.languages}
    for code, menu in desk.vendor.menus.items():
        assert [one["command"] for one in menu] == list(COMMANDS)
        assert menu[0]["description"] == TEXTS("telegram.command_human", code or "en").body
    kinds = ("long", "short")
    assert set(desk.vendor.described) == {(k, c) for k in kinds for c in desk.vendor.menus}
    assert desk.vendor.described["long", "ne"] == TEXTS("telegram.description", "ne").body


async def test_the_check_sees_a_web_hook_that_fails(desk: Desk) -> None:
    await desk.channel.setup()
    desk.vendor.fault = "Wrong response from the webhook: 502 Bad Gateway"
    assert faults(await desk.channel.check()) == []  # it is over: nothing waits
    desk.vendor.arrive(message=message(text="x"))
    findings = await desk.channel.check()
    assert faults(findings) == ["delivery"]
    assert any("502" in finding.detail for finding in findings)


async def test_the_check_sees_who_else_has_the_web_hook(desk: Desk) -> None:
    await desk.channel.setup()
    desk.vendor.hook["url"] = "https://other.example.org/hook"
    assert faults(await desk.channel.check()) == ["web hook"]
    desk.vendor.hook |= {"url": desk.channel.url, "allowed_updates": ["message"]}
    assert faults(await desk.channel.check()) == ["web hook"]


async def test_the_check_advises_to_keep_groups_out(desk: Desk) -> None:
    await desk.channel.setup()
    desk.vendor.me["can_join_groups"] = True
    [finding] = [one for one in await desk.channel.check() if not one.ok]
    assert "/setjoingroups" in finding.remedy


@pytest.mark.parametrize("url", ["http://desk.example.org", "https://desk.example.org:8000", ""])
async def test_a_web_hook_needs_an_address_that_telegram_calls(make: Make, url: str) -> None:
    desk = make(public_url=url, mode="webhook")
    assert faults(await desk.channel.check()) == ["public address", "web hook"]
    assert faults(await desk.channel.setup()) == ["public address"]
    assert desk.asked("setWebhook") == []
    assert len(desk.vendor.menus) == 11


async def test_a_laptop_has_no_web_hook(make: Make) -> None:
    desk = make(public_url="")
    desk.vendor.hook = {"url": f"{PUBLIC_URL}/telegram/webhook"}
    assert list(desk.channel.routes()) == []
    assert faults(await desk.channel.check()) == ["long polling"]
    assert faults(await desk.channel.setup()) == []
    assert faults(await desk.channel.check()) == []


@pytest.mark.parametrize(
    ("fault", "remedy"),
    [
        (answers(401, "Unauthorized"), "BotFather"),
        (answers(429, "Too Many Requests", retry_after=90), "90 seconds"),
        (UNAVAILABLE, "api.telegram.org"),
    ],
)
async def test_setup_stops_at_a_fault_that_all_would_meet(
    desk: Desk, fault: Status, remedy: str
) -> None:
    desk.vendor.always = fault
    [finding] = [one for one in await desk.channel.setup() if not one.ok]
    assert remedy in finding.remedy
    assert len(desk.vendor.calls) == 1


# -- long polling ----------------------------------------------------------------------------------


async def test_a_laptop_hears_in_order_and_takes_the_web_hook_away(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with polling(make, monkeypatch) as desk:
        desk.vendor.hook = {"url": f"{PUBLIC_URL}/telegram/webhook"}
        for number in range(250):
            desk.vendor.arrive(message=message(message_id=number, text=f"{number}"))
        await until(lambda: not desk.vendor.updates)
    assert [one.text for one in desk.inbox.messages] == [f"{n}" for n in range(250)]
    assert desk.vendor.hook == {}


async def test_a_laptop_answers_buttons_and_refuses_groups(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with polling(make, monkeypatch) as desk:
        desk.vendor.groups.add(GROUP)
        desk.vendor.queries["77001"] = None
        for update in (pressed("/human", {"/human": "Gặp"}), membership("member", "left", TEAM)):
            desk.vendor.arrive(**{k: v for k, v in update.items() if k != "update_id"})
        await until(lambda: not desk.vendor.updates)
    assert desk.vendor.queries == {"77001": "Gặp"}
    assert desk.vendor.groups == set()


async def test_a_message_that_cannot_be_kept_comes_again_and_holds_its_place(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with polling(make, monkeypatch) as desk:
        desk.inbox.broken = OSError(28, "No space left on device")
        for number in range(3):
            desk.vendor.arrive(message=message(message_id=number, text=f"{number}"))
        await until(lambda: len(desk.asked("getUpdates")) > 3)
        assert len(desk.vendor.updates) == 3, "Telegram still has them"
        desk.inbox.broken = None
        await until(lambda: not desk.vendor.updates)
    assert [one.text for one in desk.inbox.messages] == ["0", "1", "2"]


async def test_what_was_kept_of_a_batch_is_not_taken_twice(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(RecordingInbox):
        """Its disk is full after one message, until it is told otherwise."""

        async def accept_all(self, messages: Any) -> Any:
            if self.messages and self.broken is None and not self.known.get(("", "")):
                raise OSError(28, "No space left on device")
            return await super().accept_all(messages)

    async with polling(make, monkeypatch) as desk:
        desk.channel.inbox = inbox = Full()
        for number in range(3):
            desk.vendor.arrive(message=message(message_id=number, text=f"{number}"))
        await until(lambda: [u["message"]["text"] for u in desk.vendor.updates] == ["1", "2"])
        inbox.known["", ""] = 1
        await until(lambda: not desk.vendor.updates)
    assert [one.text for one in inbox.messages] == ["0", "1", "2"]


async def test_polling_never_ends_silently(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    async with polling(make, monkeypatch) as desk:
        await until(lambda: bool(desk.asked("getUpdates") or desk.vendor._asking))
        desk.vendor.fail(
            answers(409, "Conflict: terminated by other getUpdates request"),
            answers(401, "Unauthorized"),
            Status(502, body=b"<html>"),
            Status(200, body=b'{"ok": true, "result": 7}'),
            Status(200, body=b'{"ok": true, "result": [{}]}'),
            Status(200, body=b"[]"),
        )
        desk.vendor.arrive(message=message(message_id=1, text="before"))
        await until(lambda: not desk.vendor.faults)
        desk.vendor.arrive(message=message(message_id=2, text="after"))
        await until(lambda: not desk.vendor.updates)
        desk.vendor.stop()  # the laptop loses its network
        desk.vendor.arrive(message=message(message_id=3, text="much later"))
        desk.vendor.start()
        await until(lambda: not desk.vendor.updates)
    assert [one.text for one in desk.inbox.messages] == ["before", "after", "much later"]


async def test_an_update_that_nobody_can_read_holds_up_no_other(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with polling(make, monkeypatch) as desk:
        desk.vendor.arrive(message={"date": "yesterday"})
        desk.vendor.arrive(message=message(text="me too"))
        await until(lambda: not desk.vendor.updates)
    assert [one.text for one in desk.inbox.messages] == ["me too"]


async def test_two_programs_with_one_token_do_not_lose_a_message(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with polling(make, monkeypatch) as one:
        other = make(public_url="")
        async with other.channel.lifespan():
            await until(lambda: 409 in [call.status for call in one.vendor.calls])
            for number in range(5):
                one.vendor.arrive(message=message(message_id=number, text=f"{number}"))
            await until(lambda: not one.vendor.updates)
    heard = {m.text for m in (*one.inbox.messages, *other.inbox.messages)}
    assert heard == {f"{n}" for n in range(5)}


# -- the whole program -----------------------------------------------------------------------------


class Worker:
    """A worker with Telegram on her phone."""

    def __init__(self, vendor: TelegramVendor) -> None:
        self.vendor, self.number = vendor, 0

    def writes(self, text: str) -> None:
        self.number += 1
        self.vendor.arrive(message=message(message_id=self.number, text=text))

    def reads(self, at_least: int) -> list[Shown]:
        """What she was shown, once there is as much as that. The one message that was being sent
        when the desk died may be there twice: Telegram has no idempotency key."""
        deadline = time.monotonic() + PATIENCE
        while True:
            shown = list(self.vendor.shown)
            once = [one for number, one in enumerate(shown) if one not in shown[:number][-1:]]
            assert len(shown) - len(once) <= 1
            if len(once) >= at_least:
                return once
            assert time.monotonic() < deadline, shown
            time.sleep(0.02)


def test_a_desk_on_a_laptop_is_killed_in_the_middle(vendor: TelegramVendor, tmp_path: Path) -> None:
    environment = {
        "BOT_TELEGRAM_TOKEN": TOKEN, "BOT_TELEGRAM_API_URL": vendor.url, "BOT_PUBLIC_URL": ""
    }  # fmt: skip
    mai = Worker(vendor)
    with RunningDesk(tmp_path / "desk", environment) as desk:
        mai.writes("/start KUMIAI-07")
        greeting, _, topics = mai.reads(3)
        assert greeting.text == TEXTS("greeting.first", "vi").render(TEXTS.params("vi"))
        assert topics.labels
        desk.kill()
        mai.writes("/language")
        desk.start()
        assert mai.reads(4)[3].labels == [one.name for one in TEXTS.languages.values()]
        mai.writes("/human")
        assert re.search(r"[A-Z0-9]{3}-[A-Z0-9]{3}", mai.reads(5)[4].text), "the number of her case"
        assert desk.stop() == 0
        assert TOKEN not in desk.output.read_text()
    assert len(mai.reads(5)) == 5
