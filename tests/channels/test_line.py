"""LINE, where one call is not enough: retries, reply tokens, menus, groups, files, checks."""

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from channels import line_menu
from channels.line import Line
from channels.message import (
    OutboundMessage,
    RateLimitedError,
    RefusedError,
    RejectedError,
    TemporarySendError,
)
from config.database import Database
from tests.channels.tables.line import (
    MAI,
    PUSH,
    REPLY,
    WORLD,
    batch,
    event,
    in_group,
    labels,
    message,
    refusal,
    said,
    say,
    token,
    user,
)
from tests.channels.test_channels import written  # noqa: F401 - a fixture
from tests.channels.vendors import Cut, Slow, Status
from tests.channels.vendors import line as vendor_line
from tests.channels.world import PUBLIC_URL, TEXTS, RecordingInbox, Request, context


class Desk:
    """The channel at work, its inbox, and LINE."""

    def __init__(self, line: Line, vendor: vendor_line.Line, inbox: RecordingInbox) -> None:
        self.line, self.vendor, self.inbox = line, vendor, inbox

    async def hear(self, request: Request) -> httpx.Response:
        transport = httpx.ASGITransport(Starlette(routes=list(self.line.routes())))
        async with httpx.AsyncClient(transport=transport, base_url=PUBLIC_URL) as http:
            return await http.post(request.path, content=request.body, headers=request.headers)

    def asked(self) -> list[tuple[str, int]]:
        """What LINE was asked, and what it answered; without the part that names somebody."""
        return [(call.path, call.status) for call in self.vendor.calls]

    def heard(self) -> list[str]:
        """What users were shown, in order."""
        return [text for _, text in self.vendor.shown]


@pytest.fixture
def vendor() -> Iterator[vendor_line.Line]:
    made = WORLD.vendor()
    assert isinstance(made, vendor_line.Line)
    with made:
        yield made


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'desk.sqlite3'}")
    yield opened
    opened.close()


@contextlib.asynccontextmanager
async def started(
    vendor: vendor_line.Line, folder: Path, database: Database
) -> AsyncIterator[Desk]:
    inbox = RecordingInbox()
    line = WORLD.open(context(folder, inbox, database), vendor)
    async with line.lifespan():
        vendor.calls.clear()
        yield Desk(line, vendor, inbox)


@pytest.fixture
async def desk(vendor: vendor_line.Line, tmp_path: Path, database: Database) -> AsyncIterator[Desk]:
    async with started(vendor, tmp_path, database) as made:
        yield made


# -- nothing is said twice, nothing is lost --------------------------------------------------------


async def test_a_reply_whose_answer_was_not_heard_is_not_repeated(desk: Desk) -> None:
    """Its token is spent, by itself: that counts as sent."""
    wanted = [say("1", "one", reply=token("r1")), say("2", "two", reply=token("r1"))]
    desk.vendor.fail(Cut())
    with pytest.raises(TemporarySendError):
        await desk.line.send(wanted)
    assert await desk.line.send(wanted) == ["", ""]
    assert desk.asked() == [(REPLY, 200), (REPLY, 400)]
    assert desk.heard() == ["one", "two"]


async def test_a_push_whose_answer_was_not_heard_is_not_repeated(desk: Desk) -> None:
    desk.vendor.fail(Cut())
    with pytest.raises(TemporarySendError):
        await desk.line.send([say("1", "one")])
    [number] = await desk.line.send([say("1", "one")])
    assert number.isdigit()
    assert desk.asked() == [(PUSH, 200), (PUSH, 409)]
    assert desk.heard() == ["one"]


async def test_what_was_written_meanwhile_does_not_change_a_retry(desk: Desk) -> None:
    """A counsellor writes again while LINE is silent: the first message is not doubled."""
    desk.vendor.fail(Cut())
    with pytest.raises(TemporarySendError):
        await desk.line.send([say("1", "one")])
    await desk.line.send([say("1", "one"), say("2", "two"), say("3", "three")])
    assert desk.heard() == ["one", "two", "three"]
    assert desk.asked() == [(PUSH, 200), (PUSH, 409), (PUSH, 200)]


async def test_a_refused_group_may_grow(desk: Desk) -> None:
    """Nothing left, so all leaves in one call, which counts once."""
    desk.vendor.fail(refusal(429, "You have reached your monthly limit."))
    with pytest.raises(RateLimitedError):
        await desk.line.send([say("1", "one")])
    await desk.line.send([say("1", "one"), say("2", "two")])
    assert desk.asked() == [(PUSH, 429), (PUSH, 200)]


async def test_a_retry_repeats_no_part_that_has_left(desk: Desk) -> None:
    files = [("1.txt", b"form")] * 7
    kept = [await desk.line.media.keep(*file) for file in files]
    wanted = [say("1", "All the forms", attachments=tuple(kept), reply=token("r2"))]
    desk.vendor.fail(None, refusal(503, "down"))
    with pytest.raises(TemporarySendError):
        await desk.line.send(wanted)
    await desk.line.send(wanted)
    assert desk.asked() == [(REPLY, 200), (PUSH, 503), (PUSH, 200)]
    assert len(desk.heard()) == 8


async def test_what_is_known_as_sent_is_not_sent_again(desk: Desk) -> None:
    """The desk could not note that it was sent (a full disk), and asks again."""
    first = await desk.line.send([say("1", "one")])
    assert await desk.line.send([say("1", "one")]) == first
    assert desk.asked() == [(PUSH, 200)]


async def test_an_unreachable_line_has_spent_nothing(desk: Desk) -> None:
    """Else a token that expired meanwhile would look as if the reply had been taken."""
    desk.vendor.stop()
    with pytest.raises(TemporarySendError):
        await desk.line.send([say("1", "one", reply="e" * 32)])
    desk.vendor.start()
    await desk.line.send([say("1", "one", reply="e" * 32)])
    assert desk.asked() == [(REPLY, 400), (PUSH, 200)]
    assert desk.heard() == ["one"]


async def test_a_reply_token_is_used_once(desk: Desk) -> None:
    await desk.line.send([say("1", "one", reply=token("r3"))])
    await desk.line.send([say("2", "two", reply=token("r3"))])
    assert desk.asked() == [(REPLY, 200), (PUSH, 200)]


async def test_each_of_her_messages_gives_a_reply(desk: Desk) -> None:
    """She wrote twice before the first answer; the log knows the last token only."""
    await desk.hear(WORLD.hears("mai", "first", "m1"))
    await desk.hear(WORLD.hears("mai", "second", "m2"))
    desk.vendor.calls.clear()
    for key in ("1", "2", "3"):
        await desk.line.send([say(key, key, reply=token("m2"))])
    assert desk.asked() == [(REPLY, 200), (REPLY, 200), (PUSH, 200)]
    assert desk.vendor.spent == {token("m1"), token("m2")}


async def test_a_token_is_for_the_one_who_wrote(desk: Desk) -> None:
    await desk.hear(WORLD.hears("wei", "mine", "w1"))
    desk.vendor.calls.clear()
    await desk.line.send([say("1", "for Mai")])
    assert desk.asked() == [(PUSH, 200)]
    assert desk.vendor.shown == [(MAI, "for Mai")]


async def test_after_a_restart_a_push_is_still_known(
    vendor: vendor_line.Line, tmp_path: Path, database: Database
) -> None:
    async with started(vendor, tmp_path / "1", database) as first:
        vendor.fail(Cut())
        with pytest.raises(TemporarySendError):
            await first.line.send([say("1", "one"), say("2", "two")])
    async with started(vendor, tmp_path / "2", database) as second:
        await second.line.send([say("1", "one"), say("2", "two")])
        assert second.heard() == ["one", "two"]


async def test_somebody_else_with_the_same_number_is_not_taken_for_her(desk: Desk) -> None:
    await desk.line.send([say("1", "one")])
    await desk.line.send([say("1", "one", to=user("wei"))])
    assert [who for who, _ in desk.vendor.shown] == [MAI, user("wei")]


async def test_the_pause_after_the_months_last_message_grows(desk: Desk) -> None:
    desk.vendor.limit = desk.vendor.used = 200
    pauses = []
    for attempts in (0, 1, 30):
        with pytest.raises(RateLimitedError) as raised:
            await desk.line.send(
                [OutboundMessage("1/1", MAI, "vi", "one", attempts=attempts)],
            )
        pauses.append(raised.value.retry_after)
        assert "used up" in str(raised.value)
    assert pauses == [300, 600, 3600]
    await desk.line.send([say("2", "free", reply=token("free"))])  # replies do not count
    assert desk.heard() == ["free"]


@pytest.mark.parametrize(("told", "pause"), [("7", 7), ("", 30), ("soon", 30), ("-5", 30)])
async def test_line_tells_when_to_come_again(desk: Desk, told: str, pause: float) -> None:
    desk.vendor.fail(refusal(429, "The API rate limit has been exceeded.", **{"Retry-After": told}))
    with pytest.raises(RateLimitedError) as raised:
        await desk.line.send([say("1")])
    assert raised.value.retry_after == pause


# -- what comes in ---------------------------------------------------------------------------------


async def test_a_group_is_told_once_and_left(desk: Desk) -> None:
    await desk.hear(batch(in_group({"type": "join"})))
    [(_, told)] = desk.vendor.shown
    assert told.split("\n\n") == [TEXTS("line.group", code).body for code in TEXTS.languages]
    assert desk.vendor.left == ["Ca56f94637c"]
    room = {"type": "room", "roomId": "Ra8dbf4673c"}
    await desk.hear(batch(event(said("still here?"), source=room)))
    assert desk.vendor.left == ["Ca56f94637c", "Ra8dbf4673c"]
    assert len(desk.vendor.shown) == 1
    assert not desk.inbox.messages


async def test_a_group_that_cannot_be_left_does_no_harm(desk: Desk) -> None:
    desk.vendor.always = Status(503)
    answer = await desk.hear(batch(in_group({"type": "join"}), event(said("mine"))))
    assert answer.status_code == 200
    assert [one.text for one in desk.inbox.messages] == ["mine"]


async def test_a_slow_line_does_not_hold_her_message(desk: Desk) -> None:
    """Her name and language are only a help; the acknowledgement has to be quick."""
    desk.vendor.fail(Slow(3))
    answer = await desk.hear(batch(event(said("help"))))
    assert answer.status_code == 200
    [heard] = desk.inbox.messages
    assert (heard.text, heard.name, heard.language_hint) == ("help", "", "")
    await desk.hear(batch(event(said("help me", "1002"))))  # LINE is quick again
    assert desk.inbox.messages[-1].language_hint == "vi"


async def test_a_profile_is_asked_for_once(desk: Desk) -> None:
    for number in ("1", "2"):
        await desk.hear(batch(event(said("hi", number)), event(said("x", f"0{number}"), who="?")))
    assert len(desk.vendor.calls) == 2


async def test_a_new_friend_is_asked_for_her_profile_anew(desk: Desk) -> None:
    await desk.hear(batch(event(said("hi"), who="new")))
    desk.vendor.profiles[user("new")] = {"displayName": "New", "language": "ne"}
    await desk.hear(batch(event({"type": "follow"}, who="new")))
    assert [one.language_hint for one in desk.inbox.messages] == ["", "ne"]


async def test_the_sdk_logs_no_names(desk: Desk, written: io.StringIO) -> None:  # noqa: F811
    await desk.hear(batch(event(said("hi"))))
    assert desk.inbox.messages[0].name == "Nguyễn Thị Mai"
    assert "Nguy" not in written.getvalue()


async def test_files_come_from_line(desk: Desk) -> None:
    desk.vendor.files["1"] = b"\x89PNG picture"
    assert await desk.line.fetch("1") == ("", b"\x89PNG picture")
    assert desk.asked() == [("/v2/bot/message/1/content", 200)]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Status(202), TemporarySendError),
        (Status(401), TemporarySendError),
        (Status(429), TemporarySendError),
        (Status(500), TemporarySendError),
        (Cut(), TemporarySendError),
        (Status(404), RejectedError),
        (Status(410), RejectedError),
    ],
)
async def test_a_file_that_does_not_come(
    desk: Desk, fault: Status | Cut, error: type[Exception]
) -> None:
    desk.vendor.files["1"] = b"picture"
    desk.vendor.fail(fault)
    with pytest.raises(error) as raised:
        await desk.line.fetch("1")
    assert raised.type is error


async def test_a_file_that_is_too_big_is_not_read_to_its_end(desk: Desk) -> None:
    desk.vendor.files["1"] = bytes(desk.line.media.limit + 1)
    with pytest.raises(RefusedError, match="too big"):
        await desk.line.fetch("1")


async def test_a_files_id_cannot_name_another_path(desk: Desk) -> None:
    with pytest.raises(RejectedError):
        await desk.line.fetch("../profile/x")
    assert desk.vendor.calls[0].path.startswith("/v2/bot/message/")


# -- what is shown ---------------------------------------------------------------------------------


async def test_she_sees_that_an_answer_is_coming(desk: Desk) -> None:
    await desk.line.busy(MAI, {})
    assert desk.vendor.dots == [MAI]
    desk.vendor.fail(Status(500), Cut())
    await desk.line.busy(MAI, {})
    await desk.line.busy(MAI, {})
    desk.vendor.stop()
    await desk.line.busy(MAI, {})


async def test_a_button_pressed_is_the_choice_that_was_offered(desk: Desk) -> None:
    """What LINE sends back of our own buttons and menu fields is understood."""
    [menu, *_] = line_menu.menus(TEXTS)
    for area in menu.request.areas:
        data = area.action.data
        await desk.hear(batch(event({"type": "postback", "postback": {"data": data}}, who=data)))
    codes = [one.choice.removeprefix("/language ") for one in desk.inbox.messages]
    assert codes == list(TEXTS.languages)
    assert [one.text for one in desk.inbox.messages] == [
        language.name for language in TEXTS.languages.values()
    ]


async def test_menus_are_made_once_and_again_only_when_they_change(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = await desk.line.setup()
    assert all(finding.ok for finding in findings), findings
    assert desk.vendor.hook == {"endpoint": f"{PUBLIC_URL}/line/webhook", "active": True}
    assert len(desk.vendor.menus) == len(TEXTS.languages) + 1
    assert desk.vendor.aliases["desk-languages"] == desk.vendor.default
    assert {f"desk-{code}" for code in TEXTS.languages} < set(desk.vendor.aliases)
    before = dict(desk.vendor.aliases)
    shop = vendor_line.Menu({**desk.vendor.menus[desk.vendor.default].request, "name": "shop"})
    desk.vendor.menus["foreign"] = shop
    await desk.line.setup()
    assert desk.vendor.aliases == before
    monkeypatch.setattr(line_menu, "SIGN", "#111111")
    await desk.line.setup()
    changed = {name for name in before if before[name] != desk.vendor.aliases[name]}
    assert changed == set(before) - {"desk-languages"}  # which has no signs
    assert set(desk.vendor.menus) == {*desk.vendor.aliases.values(), "foreign"}


@pytest.mark.parametrize("step", ["menu", "picture", "alias", "default"])
async def test_a_setup_that_broke_off_is_completed(desk: Desk, step: str) -> None:
    """LINE does the step, and the desk does not hear of it."""
    first = {"menu": 5, "picture": 6, "alias": 7, "default": 5 + 3 * 11}
    desk.vendor.fail(*[None] * first[step], Cut())
    findings = await desk.line.setup()
    assert not findings[-1].ok
    findings = await desk.line.setup()
    assert all(finding.ok for finding in findings)
    assert len(desk.vendor.menus) == len(TEXTS.languages) + 1
    assert all(menu.image for menu in desk.vendor.menus.values())


async def test_she_gets_the_menu_of_her_language(
    vendor: vendor_line.Line, tmp_path: Path, database: Database
) -> None:
    async with started(vendor, tmp_path, database) as first:
        await first.line.setup()
    async with started(vendor, tmp_path, database) as desk:
        for key, language in (
            ("1", "vi"),
            ("2", "vi"),
            ("3", "ne"),
            ("4", "mul"),
            ("5", "ja-easy"),
        ):
            await desk.line.send([OutboundMessage(f"{key}/1", MAI, language, "hi")])
            await asyncio.gather(*(task for task in desk.line.background if _ends(task)))
        links = [call for call in vendor.calls if "/user/" in call.path]
        assert [call.status for call in links] == [200, 200, 200]
        assert vendor.menus[vendor.aliases["desk-ja"]].users == {MAI}
        assert sum(len(menu.users) for menu in vendor.menus.values()) == 1


async def test_a_menu_that_was_made_anew_is_found(
    vendor: vendor_line.Line, tmp_path: Path, database: Database
) -> None:
    """`bot channels setup line` ran beside the desk: the old menu is gone."""
    async with started(vendor, tmp_path, database) as first:
        await first.line.setup()
    async with started(vendor, tmp_path, database) as desk:
        old = vendor.aliases["desk-vi"]
        vendor.aliases["desk-vi"] = "richmenu-new"
        vendor.menus["richmenu-new"] = vendor.menus.pop(old)
        for key in ("1", "2"):
            assert await desk.line.send([say(key, "hi")])
            await asyncio.gather(*(task for task in desk.line.background if _ends(task)))
        assert vendor.menus["richmenu-new"].users == {MAI}
        assert desk.heard() == ["hi", "hi"]


def _ends(task: asyncio.Task[None]) -> bool:
    return "_keep_looking" not in str(task.get_coro())


def test_pictures_of_menus_are_small_and_need_no_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_menu.shutil, "which", lambda _: None)
    line_menu._font.cache_clear()
    made = line_menu.menus(TEXTS)
    line_menu._font.cache_clear()
    assert len(made) == len(TEXTS.languages) + 1
    assert all(len(menu.image) < 200_000 for menu in made)


# -- checks ----------------------------------------------------------------------------------------


async def faults(desk: Desk) -> dict[str, str]:
    """What a check finds wrong: point → detail and remedy."""
    return {
        one.what: f"{one.detail} → {one.remedy}" for one in await desk.line.check() if not one.ok
    }


async def test_all_is_well_after_setup(desk: Desk) -> None:
    assert set(await faults(desk)) == {"web hook", "menus"}
    await desk.line.setup()
    assert await faults(desk) == {}
    findings = {one.what: one.detail for one in await desk.line.check()}
    assert findings["messages of this month"] == "0 of 200 used"
    desk.vendor.limit = None
    findings = {one.what: one.detail for one in await desk.line.check()}
    assert findings["messages of this month"] == "0 used, no limit"


async def test_each_fault_of_the_set_up_is_named(desk: Desk) -> None:
    await desk.line.setup()
    desk.vendor.used = 160
    assert "160 of 200" in (await faults(desk))["messages of this month"]
    desk.vendor.used = 0
    desk.vendor.chat_mode = "chat"
    assert "Response settings" in (await faults(desk))["answers by hand"]
    desk.vendor.chat_mode = "bot"
    hook = desk.vendor.hook
    assert hook is not None
    desk.vendor.trial = {"success": False, "statusCode": 403, "reason": "ERROR_STATUS_CODE"}
    assert "BOT_LINE_CHANNEL_SECRET" in (await faults(desk))["web hook"]
    desk.vendor.trial = {"success": False, "statusCode": 0, "reason": "COULD_NOT_CONNECT"}
    assert "COULD_NOT_CONNECT" in (await faults(desk))["web hook"]
    hook["active"] = False
    assert "Use webhook" in (await faults(desk))["web hook"]
    hook["endpoint"] = "https://old.example.org/line"
    assert "old.example.org" in (await faults(desk))["web hook"]


async def test_a_wrong_token_is_named(desk: Desk) -> None:
    desk.vendor.always = Status(401)
    assert "BOT_LINE_ACCESS_TOKEN" in (await faults(desk))["account"]
    assert not (await desk.line.setup())[0].ok


async def test_checks_and_setup_need_no_running_desk(
    vendor: vendor_line.Line, tmp_path: Path, database: Database
) -> None:
    """As `bot channels check line` does it."""
    line = WORLD.open(context(tmp_path, RecordingInbox(), database), vendor)
    assert all(finding.ok for finding in await line.setup())
    assert all(finding.ok for finding in await line.check())
    assert line._client is None


async def test_without_a_public_address_nothing_is_set(
    vendor: vendor_line.Line, tmp_path: Path, database: Database
) -> None:
    surroundings = context(tmp_path, RecordingInbox(), database)
    surroundings.settings.public_url = ""
    line = WORLD.open(surroundings, vendor)
    [finding] = await line.setup()
    assert "BOT_PUBLIC_URL" in finding.remedy
    assert vendor.hook is None


async def test_the_desk_starts_while_line_is_down(
    vendor: vendor_line.Line, tmp_path: Path, database: Database
) -> None:
    vendor.always = Status(503)
    async with started(vendor, tmp_path, database) as desk:
        vendor.always = None
        await desk.hear(batch(event(said("hello"))))
        assert [one.text for one in desk.inbox.messages] == ["hello"]


def test_the_peer_refuses_what_line_refuses() -> None:
    """Else the tests above prove nothing."""
    wanted = {"to": str, "messages": list}
    good = {"type": "text", "text": "hi"}
    item = {"type": "action", "action": {"type": "postback", "label": "a", "data": "d"}}
    bad = [
        {"type": "text"},
        {"type": "text", "text": ""},
        {"type": "text", "text": "  "},
        {"type": "text", "text": "🙏" * 2501},
        {"type": "text", "text": "hi", "buttons": []},
        {"type": "hologram"},
        {"type": "image", "originalContentUrl": "http://x/1", "previewImageUrl": "https://x/1"},
        {**good, "quickReply": {"items": [item] * 14}},
        {**good, "quickReply": {"items": []}},
        {
            **good,
            "quickReply": {"items": [{**item, "action": {**item["action"], "label": "a" * 21}}]},
        },
        {
            **good,
            "quickReply": {"items": [{**item, "action": {**item["action"], "data": "d" * 301}}]},
        },
    ]
    assert not vendor_line.wrong({"to": MAI, "messages": [good] * 5}, wanted, set())
    assert vendor_line.wrong({"to": MAI, "messages": [good] * 6}, wanted, set())
    assert vendor_line.wrong({"to": MAI, "messages": []}, wanted, set())
    assert vendor_line.wrong({"to": MAI, "messages": [good], "extra": 1}, wanted, set())
    for one in bad:
        assert vendor_line.wrong({"to": MAI, "messages": [one]}, wanted, set()), json.dumps(one)
    assert labels({"messages": [good]}) == [[]]
    assert message("text", "1")["message"]["id"] == "1"
