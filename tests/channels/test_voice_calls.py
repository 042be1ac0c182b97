"""Whole calls: what a caller does, what she hears, and what the counsellors have of it.

The real program, without Rasa, on a database of its own; Twilio is `vendors/twilio_voice.py`, which
takes no TwiML that Twilio would refuse.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from bot.app import Program, application, build, running
from bot.content import load_content
from channels.log import Contact, Conversation, Message, PublishedText
from channels.voice import Voice, prompts
from channels.voice.speech import Speech, load_sounds
from config.settings import ROOT, Settings
from config.texts import JAPAN
from handoff.calls import callback, e164, set_phone
from handoff.case import Case, CaseEvent
from handoff.desk import DeskError, Event
from handoff.staff import Person, Staff, StaffError, add_staff
from tests.channels.tables.voice import MAI, WORLD
from tests.channels.vendors import Status, Vendor
from tests.channels.vendors.twilio_voice import NUMBER, SOUND, Phone, checked, peer
from tests.channels.world import PUBLIC_URL
from tests.stories.running import free_port

ALL_DAY = {day: (time(0, 0), time(23, 59, 59, 999999)) for day in range(7)}
LOADED = load_content(ROOT / "faq_data")
ANA, BEN = "+819011112222", "+819033334444"


@dataclass
class Scene:
    """The running desk with its telephone, and Twilio."""

    program: Program
    http: httpx.AsyncClient
    twilio: Vendor

    def phone(self, number: str = MAI, outbound: bool = False) -> Phone:
        return Phone(self.http, PUBLIC_URL, number, outbound)

    def hours(self, opened: bool) -> None:
        """Open day and night, or closed today and tomorrow."""
        today = datetime.now(JAPAN).weekday()
        weekly = ALL_DAY if opened else {(today + 2) % 7: (time(10), time(18))}
        desk = self.program.desk
        desk.hours = replace(desk.hours, weekly=weekly, country="", closed=frozenset())

    async def staff(self, name: str, number: str, languages: Sequence[str]) -> int:
        """A counsellor on duty."""

        def add(session: Session) -> int:
            roles = ["counsellor"]
            one = add_staff(session, name, name.title(), "a long password", roles, languages)
            set_phone(session, one, number, on_duty=True)
            return one

        return await self.program.database.write(add)

    async def all(self, kind: Any) -> list[Any]:
        """The rows of a table, oldest first."""
        wanted = select(kind).order_by(kind.id)
        return await self.program.database.read(lambda s: list(s.scalars(wanted)))

    async def quiet(self) -> None:
        """Wait until nothing is on its way."""
        async with asyncio.timeout(60):
            while any(one.due_at for one in await self.all(Conversation)):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def case(self) -> Case:
        """The one case that there is."""
        [case] = await self.all(Case)
        assert isinstance(case, Case)
        return case

    async def events(self) -> list[str]:
        """What happened to the cases, but for what was read."""
        return [event.kind for event in await self.all(CaseEvent) if event.kind != "viewed"]


@pytest.fixture(scope="module")
def twilio() -> Iterator[Vendor]:
    with peer() as vendor:
        yield vendor


@pytest.fixture(params=[""])
def database_url(request: pytest.FixtureRequest) -> str:
    """SQLite in the data folder, but for the test that asks for more."""
    url: str = request.getfixturevalue(request.param) if request.param else ""
    return url


@pytest.fixture
async def scene(
    tmp_path: Path, twilio: Vendor, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> AsyncIterator[Scene]:
    for name, value in WORLD.environment(twilio).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("BOT_TWILIO_SMS_NUMBER", NUMBER)
    monkeypatch.setattr("bot.app.load_content", lambda _: LOADED)  # it takes a while
    twilio.calls.clear()
    settings = Settings(
        data_dir=tmp_path,
        rasa=False,
        smtp_port=free_port(),
        database_url=database_url,
        _env_file=None,
    )
    program = build(settings)
    transport = httpx.ASGITransport(application(program))
    async with (
        running(program),
        httpx.AsyncClient(transport=transport, base_url=PUBLIC_URL) as http,
    ):
        one = Scene(program, http, twilio)
        one.hours(opened=True)
        yield one


# -- stories as tables -----------------------------------------------------------------------------

Line = tuple[str, ...]
IN_VIETNAMESE: tuple[Line, ...] = (
    ("calls",),
    ("hears", "Tiếng Việt, bấm phím 6"),
    ("presses", "6"),
    ("hears", "bàn tư vấn miễn phí"),
    ("hears", "Chúng tôi giữ lời bạn nói"),
    ("hears", "Bấm phím 1"),
)
RECORDING: tuple[Line, ...] = (
    ("hears", "After the tone"),
    ("records", "20", "they took my passport"),
    ("hears", "You are not alone"),
    ("hung up",),
)

STORIES: dict[str, tuple[Line, ...]] = {
    "a question in Vietnamese: the answer, once more, by SMS, another question": (
        *IN_VIETNAMESE,
        ("says", "Công ty nợ lương em 2 tháng rồi"),
        ("hears", "Lương phải trả đủ"),
        ("hears not", "Nguồn:"),
        ("hears not", "労働"),
        ("hears", "bấm phím 2"),
        ("presses", "1"),
        ("hears", "Lương phải trả đủ"),
        ("presses", "2"),
        ("hears", "đang gửi đến điện thoại"),
        ("presses", "3"),
        ("hears", "hãy nói câu hỏi"),
        ("case", ""),
        ("sms", "Lương"),
    ),
    "a topic by its key": (
        *IN_VIETNAMESE,
        ("presses", "1"),
        ("hears", "Lương phải trả đủ"),
        ("presses", "0"),
        ("hears", "không có tư vấn viên"),
    ),
    "she says nothing at all: twice the menu, then a recording": (
        ("calls",),
        ("is silent",),
        ("hears", "For English, press 2"),
        ("is silent",),
        ("hears", "After the tone"),
        ("hangs up",),
        ("case", "none"),
        ("events", "opened call_started callback_due call_ended"),
    ),
    "she says the name of her language": (
        ("calls",),
        ("says", "Bahasa Indonesia"),
        ("hears", "layanan konsultasi gratis"),
    ),
    "words of danger in the first menu are answered at once": (
        ("calls",),
        ("says", "my boss locked me in the room and says he will kill me"),
        ("hears", "1 1 0"),
        ("hears", "After the tone"),
        ("case", "emergency"),
    ),
    "words of danger in her language": (
        *IN_VIETNAMESE,
        ("says", "tôi muốn tự tử"),
        ("hears", "1 1 9"),
        ("hears", "Sau tiếng bíp"),
        ("case", "emergency"),
        ("events", "opened call_started callback_due"),
    ),
    "the key of danger": (
        ("calls",),
        ("presses", "2"),
        ("presses", "9"),
        ("hears", "call the police: 1 1 0"),
        ("hears", "After the tone"),
        ("case", "emergency"),
    ),
    "out of hours: a recording becomes a case with a call back": (
        ("closed",),
        ("calls",),
        ("presses", "2"),
        ("presses", "0"),
        ("hears", "No counsellor can come to the telephone now"),
        ("hears", "will call you back on this number by"),
        *RECORDING,
        ("case", "high"),
        ("voicemail", "they took my passport"),
        ("events", "opened call_started callback_due voicemail call_ended escalated"),
    ),
    "a hidden number: she is asked to say it, and nobody promises to call": (
        ("from", "anonymous"),
        ("calls",),
        ("presses", "2"),
        ("presses", "0"),
        ("hears", "We cannot see your telephone number"),
        ("hears not", "on this number"),
        ("events", "opened call_started"),
    ),
    "the word for a person works as the key does": (
        *IN_VIETNAMESE,
        ("says", "tư vấn viên"),
        ("hears", "Tư vấn viên sẽ giúp bạn"),
        ("hears", "Sau tiếng bíp"),
        ("case", "none"),
    ),
    "not understood twice: a person": (
        ("calls",),
        ("presses", "2"),
        ("says", "qwrt zxcv plmk"),
        ("hears", "say it again in other words"),
        ("says", "wx wx wx qq"),
        ("hears", "After the tone"),
        ("case", "none"),
    ),
    "danger before any language is chosen: in easy Japanese and in English": (
        ("calls",),
        ("presses", "9"),
        ("hears", "けいさつ 1 1 0"),
        ("hears", "call the police: 1 1 0"),
        ("hears", "おとの あとに"),
        ("hears", "After the tone"),
        ("case", "emergency"),
    ),
    "a key without meaning": (
        ("calls",),
        ("presses", "2"),
        ("presses", "8"),
        ("hears", "This key does nothing here"),
        ("hears", "say your question"),
        ("hears", "Press 1 for:"),
    ),
    "another language in the middle of a call": (
        *IN_VIETNAMESE,
        ("presses", "*"),
        ("presses", "2"),
        ("hears", "We go on in English"),
        ("hears", "say your question"),
    ),
    "she wants to be forgotten": (
        ("calls",),
        ("presses", "2"),
        ("says", "delete"),
        ("hears", "This cannot be undone"),
        ("hears", "Press 1 for: | Yes, erase"),
        ("presses", "1"),
        ("hears", "are being erased now"),
        ("hung up",),
        ("case", ""),
    ),
    "Burmese: by keys, with recordings, and her own question recorded": (
        ("prompts", "my"),
        ("calls",),
        ("hears", "file:my"),
        ("presses", "8"),
        ("presses", "1"),
        ("hears only", "file:my"),
        ("presses", "1"),
        ("hears only", "file:my"),
        ("presses", "0"),
        ("hears only", "file:my"),
        ("records", "30"),
        ("hears only", "file:my"),
        ("hung up",),
        ("case", "none"),
        ("events", "opened call_started callback_due voicemail call_ended"),
    ),
    "Nepali without recordings: easy Japanese, never silence and never an error": (
        ("calls",),
        ("presses", "8"),
        ("presses", "3"),
        ("hears", "にほんで はたらく がいこくじん"),
        ("presses", "1"),
        ("hears", "きゅうりょうを ぜんぶ"),
        ("presses", "0"),
        ("hears", "おとの あとに"),
    ),
}


@pytest.mark.parametrize("label", STORIES)
async def test_story(label: str, scene: Scene) -> None:
    phone = scene.phone()
    for line in STORIES[label]:
        await perform(line, phone, scene)
    await everything_published(scene)


@pytest.mark.parametrize("database_url", ["fresh_postgres"], indirect=True)
async def test_all_of_it_on_postgresql(scene: Scene) -> None:
    for number, label in (
        (MAI, "a question in Vietnamese: the answer, once more, by SMS, another question"),
        (BEN, "a topic by its key"),
    ):
        phone = scene.phone(number)
        for line in STORIES[label]:
            await perform(line, phone, scene)
    await phone.record(20)
    await everything_published(scene)
    assert (await scene.events())[-2:] == ["voicemail", "call_ended"]


async def perform(line: Line, phone: Phone, scene: Scene) -> None:
    verb, *more = line
    heard = " | ".join(phone.heard)
    match verb:
        case "calls":
            await phone.call()
        case "presses":
            await phone.press(more[0])
        case "says":
            await phone.say(more[0])
        case "is silent":
            await phone.silent()
        case "hangs up":
            await phone.hang_up()
        case "records":
            await phone.record(int(more[0]), *more[1:])
        case "hears":
            assert more[0] in heard, heard
        case "hears not":
            assert more[0] not in heard, heard
        case "hears only":
            assert set(phone.heard) == {more[0]}, heard
        case "hung up":
            assert phone.over
        case "closed":
            scene.hours(opened=False)
        case "from":
            phone.number = more[0]
        case "prompts":
            voice = scene.program.channels["voice"]
            assert isinstance(voice, Voice)
            for prompt in prompts.wanted(voice.speech, more[0]):
                prompt.path.parent.mkdir(parents=True, exist_ok=True)
                prompt.path.write_bytes(b"RIFF")
        case "case":
            await scene.quiet()
            levels = [case.level for case in await scene.all(Case)]
            assert levels == ([more[0]] if more[0] else [])
        case "events":
            await scene.quiet()
            assert await scene.events() == more[0].split()
        case "voicemail":
            await voicemail_is_kept(scene, *more)
        case "sms":
            await sent_by_sms(scene, more[0])
        case _:
            raise AssertionError(f"nobody can {verb}")


async def voicemail_is_kept(scene: Scene, words: str) -> None:
    """The recording is here, and what Twilio wrote down stands beside it."""
    async with asyncio.timeout(30):
        while True:
            await scene.quiet()
            case = await scene.case()
            looker = Person(1, "admin", "Admin", ("admin",), (), True)
            view = await scene.program.database.write(scene.program.desk.view, case.id, looker)
            [spoken] = [m for m in view.transcript if m.kind == "voicemail"]
            if spoken.attachments[0].file:
                break
            await asyncio.sleep(0.05)
    assert spoken.attachments[0].size == len(SOUND)
    assert [m.text for m in view.transcript if m.edits_id == spoken.id] == [words]


async def sent_by_sms(scene: Scene, words: str) -> None:
    """One SMS with the published answer, in a conversation of the same person."""
    await scene.quiet()
    voice, sms = await scene.all(Conversation)
    assert (sms.channel, sms.address, sms.contact_id) == ("sms", MAI, voice.contact_id)
    assert len(await scene.all(Contact)) == 1
    [message] = [m for m in await scene.all(Message) if m.conversation_id == sms.id]
    assert words in message.body
    assert message.state == "sent"
    [left] = [c for c in scene.twilio.calls if c.method == "POST" and "Messages" in c.path]
    assert dict(parse_qsl(left.body.decode()))["To"] == MAI


async def everything_published(scene: Scene) -> None:
    """What the bot said in the log is published, and was heard; nothing is left open."""
    await scene.quiet()
    published = {row.id: row for row in await scene.all(PublishedText)}
    for message in await scene.all(Message):
        if message.author == "bot":
            assert published[message.published_id].language == message.language
            assert message.state in {"delivered", "kept", "sent"}, (message.body, message.error)


# -- a person --------------------------------------------------------------------------------------


async def test_the_second_counsellor_answers_after_the_first_one_did_not(scene: Scene) -> None:
    """Who speaks the language is rung first; a mailbox presses no key and gets no caller."""
    ben = await scene.staff("ben", BEN, ["ja"])
    ana = await scene.staff("ana", ANA, ["ja", "vi"])
    rung: list[str] = []
    whispered: list[str] = []

    async def answers(caller: Phone, place: str) -> bool:
        rung.append(place)
        leg = Phone(scene.http, PUBLIC_URL, "", outbound=True)
        await leg.call(place.removeprefix(PUBLIC_URL))
        whispered.extend(leg.heard)
        if len(rung) == 1:
            await leg.hang_up()  # the mailbox of a mobile phone
            return False
        assert "Dial" not in leg.document
        leg.bridged = True
        await leg.press("1")
        assert not checked(leg.document, PUBLIC_URL)
        return True

    phone = scene.phone()
    phone.answers = answers
    for line in IN_VIETNAMESE:
        await perform(line, phone, scene)
    await phone.press("0")
    case = await scene.case()
    assert [place.split("s=")[1].split("&")[0] for place in rung] == [str(ana), str(ben)]
    spelt = " ".join(case.reference.replace("-", ","))
    assert spelt in whispered[0]
    assert "ベトナム語" in whispered[0]
    assert "tư vấn viên khác" in " ".join(phone.heard)
    assert phone.over
    assert (case.status, case.claimed_by, case.answered_at is not None) == ("claimed", ben, True)
    await scene.quiet()
    assert await scene.events() == [
        "opened", "call_started", "call_rang", "call_rang", "claimed", "call_connected",
        "call_ended",
    ]  # fmt: skip


async def test_nobody_answers_then_she_hangs_up_while_it_rings(scene: Scene) -> None:
    await scene.staff("ana", ANA, ["vi"])
    phone = scene.phone()
    await phone.call()
    await phone.press("2")
    url = f"{PUBLIC_URL}/voice/person?l=en&n=4"
    answer = await phone.post(url)
    assert "<Number" in answer.text
    await phone.hang_up()
    assert await scene.events() == [
        "opened", "call_started", "call_rang", "call_ended", "callback_due",
    ]  # fmt: skip


async def test_a_counsellor_out_of_duty_or_hours_is_left_in_peace(scene: Scene) -> None:
    ana = await scene.staff("ana", ANA, ["en"])
    phone = scene.phone()
    scene.hours(opened=False)
    await phone.call()
    await phone.press("0")
    assert "call_rang" not in await scene.events()
    scene.hours(opened=True)
    await scene.program.database.write(set_phone, ana, ANA, False)
    await phone.hang_up()
    phone = scene.phone()
    await phone.call()
    await phone.press("0")
    assert "call_rang" not in await scene.events()


# -- what may go wrong -----------------------------------------------------------------------------


async def test_twilio_asks_again_and_nothing_doubles(scene: Scene) -> None:
    phone = scene.phone()
    await phone.call()
    await phone.press("6")
    await phone.say("Công ty nợ lương em 2 tháng rồi")
    assert await phone.again() == phone.document
    await phone.press("2")
    assert await phone.again() == phone.document
    await phone.press("0")
    assert await phone.again() == phone.document
    await scene.quiet()
    said = [m.body for m in await scene.all(Message) if m.author == "worker"]
    assert said == ["Tiếng Việt", "Công ty nợ lương em 2 tháng rồi"]
    await sent_by_sms(scene, "Lương")
    assert await scene.events() == ["opened", "call_started", "callback_due"]


async def test_a_slow_turn_says_one_moment_and_then_the_answer(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("channels.voice.calls.PATIENCE", 0.05)
    understander = scene.program.worker.understander
    real, free = understander.understand, asyncio.Event()

    async def slow(*args: Any) -> Any:
        await free.wait()
        return await real(*args)

    phone = scene.phone()
    await phone.call()
    monkeypatch.setattr(understander, "understand", slow)
    answer = await phone.post(f"{PUBLIC_URL}/voice/language?n=1", Digits="2")
    assert "One moment" in answer.text
    assert "/voice/wait" in answer.text
    pressed = checked(answer.text, PUBLIC_URL).find("Gather")
    assert pressed is not None
    answer = await phone.post(pressed.attrib["action"], Digits="5")  # impatient: nothing is lost
    assert "One moment" in answer.text
    free.set()
    waiting = checked(answer.text, PUBLIC_URL).findtext("Redirect") or ""
    async with asyncio.timeout(30):
        while "free consultation desk" not in answer.text:
            answer = await phone.post(waiting)
    checked(answer.text, PUBLIC_URL)


async def test_who_hung_up_before_a_slow_answer_came_is_called_back(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("channels.voice.calls.PATIENCE", 0.05)
    understander = scene.program.worker.understander
    real, free = understander.understand, asyncio.Event()

    async def slow(*args: Any) -> Any:
        await free.wait()
        return await real(*args)

    phone = scene.phone()
    await phone.call()
    monkeypatch.setattr(understander, "understand", slow)
    await phone.post(f"{PUBLIC_URL}/voice/language?n=1", Digits="2")
    await phone.hang_up()
    free.set()
    await scene.quiet()
    assert (await scene.case()).reason == "undelivered"
    lost = [m for m in await scene.all(Message) if m.state == "failed"]
    assert lost
    assert "call back" in lost[0].error


async def test_an_answer_that_never_comes_leads_to_a_person(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("channels.voice.calls.PATIENCE", 0.01)
    monkeypatch.setattr(scene.program.worker, "wake", lambda: None)

    async def never(*_: Any) -> bool:
        return False

    monkeypatch.setattr(scene.program.inbox, "turn", never)
    phone = scene.phone()
    await phone.call()
    await phone.press("2")
    assert phone.heard.count("One moment, please.") == 6
    assert any("After the tone" in words for words in phone.heard)


async def test_a_known_caller_is_greeted_in_her_language_and_silence_brings_the_menu(
    scene: Scene,
) -> None:
    phone = scene.phone()
    await phone.call()
    await phone.press("6")
    await phone.hang_up()
    phone = scene.phone()
    await phone.call()
    assert "bàn tư vấn miễn phí" in phone.heard[0]
    await phone.silent()
    assert any("For English" in words for words in phone.heard)


async def test_written_replies_are_kept_for_the_counsellor(scene: Scene) -> None:
    """What a counsellor writes cannot be heard: it stays visible, with the remedy."""
    ana = await scene.staff("ana", ANA, ["vi"])
    scene.hours(opened=False)
    phone = scene.phone()
    await phone.call()
    await phone.press("0")
    case = await scene.case()
    person = Person(ana, "ana", "Ana", ("counsellor",), ("vi",), True)
    desk, write = scene.program.desk, scene.program.database.write
    await write(desk.claim, case.id, person)
    await write(desk.reply, case.id, person, "xin chào", "a-key-of-hers")
    await scene.quiet()
    kept = [m for m in await scene.all(Message) if m.author == "counsellor"]
    assert [(m.state, m.error) for m in kept] == [
        ("kept", "what is written cannot be heard: call the worker, or write by SMS")
    ]


# -- a counsellor calls ----------------------------------------------------------------------------


async def test_a_counsellor_calls_a_worker_from_the_console(scene: Scene) -> None:
    ana = await scene.staff("ana", ANA, ["ja"])
    scene.hours(opened=False)
    phone = scene.phone()
    await phone.call()
    await phone.press("6")
    await phone.press("0")
    await phone.hang_up()
    case = await scene.case()
    person = Person(ana, "ana", "Ana", ("counsellor",), ("ja",), True)
    desk, database = scene.program.desk, scene.program.database
    calls, telephone = scene.program.console.calls, scene.program.console.telephone
    assert calls is not None
    assert telephone is not None
    with pytest.raises(DeskError, match="Take the case first"):
        await database.write(calls.begin, case.id, person, False)
    await database.write(desk.claim, case.id, person)

    async def tries(answered: bool) -> None:
        number, way = await database.write(calls.begin, case.id, person, False)
        assert number == ANA
        await telephone.ring(number, case.id, ana, way)
        leg = scene.phone(ANA, outbound=True)
        form = dict(httpx.QueryParams(scene.twilio.calls[-1].body.decode()))
        assert (form["To"], form["From"]) == (ANA, NUMBER)
        await leg.call(form["Url"].removeprefix(PUBLIC_URL))
        assert " ".join(case.reference.replace("-", ",")) in leg.heard[0]

        async def worker(_: Phone, number: str) -> bool:
            assert number == MAI
            return answered

        leg.answers = worker
        await leg.press("1")

    await tries(answered=False)
    state = callback(await history(scene))
    assert (state.due, state.tried) == (True, 1)
    with pytest.raises(DeskError, match="rung already"):
        await database.write(calls.begin, case.id, person, False)
    await database.write(_let_time_pass, case.id)
    await tries(answered=True)
    state = callback(await history(scene))
    assert (state.due, state.tried) == (False, 2)


async def test_the_console_shows_calls_and_makes_them(scene: Scene) -> None:
    """The pages: my telephone, the case with its call back, the button."""
    password = (scene.program.settings.data_dir / "first-sign-in.txt").read_text()
    scene.hours(opened=False)
    phone = scene.phone()
    await phone.call()
    await phone.press("0")
    case = await scene.case()
    browser, page = scene.http, f"/console/cases/{case.id}"
    browser.headers.update({"accept-language": "en", "sec-fetch-site": "same-origin"})

    def token(html: str) -> str:
        return html.split('data-csrf="')[1][:64]

    form = {"login": "admin", "password": password}
    form["csrf"] = token((await browser.get("/console/sign-in")).text)
    assert (await browser.post("/console/sign-in", data=form)).status_code == 303
    csrf = {"csrf": token((await browser.get("/console/phone")).text)}
    answer = await browser.post("/console/phone", data={**csrf, "phone": "12"})
    assert answer.status_code == 422
    assert "090-1234-5678 or" in answer.text
    await browser.post(f"{page}/take", data=csrf)
    answer = await browser.post(f"{page}/call", data=csrf)
    assert "Write down your own telephone number first" in answer.text
    answer = await browser.post("/console/phone", data={**csrf, "phone": "090-1111-2222"})
    assert 'value="+819011112222"' in answer.text
    shown = (await browser.get(page)).text
    assert "Call back: asked for at" in shown
    assert "The worker called and asked for a person" in shown
    answer = await browser.post(f"{page}/call", data=csrf)
    assert answer.status_code == 303
    assert scene.twilio.calls[-1].path.endswith("/Calls.json")
    scene.twilio.fail(Status(503))
    await scene.program.database.write(_let_time_pass, case.id)
    answer = await browser.post(f"{page}/call", data=csrf)
    assert "did not take the call" in answer.text
    answer = await browser.post(
        "/console/staff/1/phone", data={**csrf, "phone": "", "on_duty": "yes"}
    )
    assert "Calls need a telephone number" in answer.text


async def test_calls_outside_safe_hours_need_a_word(scene: Scene) -> None:
    ana = await scene.staff("ana", ANA, ["ja"])
    phone = scene.phone()
    scene.hours(opened=False)
    await phone.call()
    await phone.press("0")
    case = await scene.case()
    person = Person(ana, "ana", "Ana", ("counsellor",), ("ja",), True)
    database, desk, calls = scene.program.database, scene.program.desk, scene.program.console.calls
    assert calls is not None
    await database.write(desk.claim, case.id, person)
    hour = datetime.now(JAPAN).hour
    safe = (f"{(hour + 2) % 24:02}:00", f"{(hour + 3) % 24:02}:00")
    await database.write(desk.ways_to_write, case.id, person, 0, safe)
    with pytest.raises(DeskError, match="safe time"):
        await database.write(calls.begin, case.id, person, False)
    assert (await database.write(calls.begin, case.id, person, True))[0] == ANA


async def test_somebody_elses_case_cannot_be_called(scene: Scene) -> None:
    """The URL of a bridge is worth nothing once the case is no longer hers."""
    ana = await scene.staff("ana", ANA, ["ja"])
    phone = scene.phone()
    scene.hours(opened=False)
    await phone.call()
    await phone.press("0")
    case = await scene.case()
    leg = scene.phone(ANA, outbound=True)
    await leg.call(f"/voice/bridge?c={case.id}&s={ana}&w={case.conversation_id}")
    assert leg.over
    assert not leg.heard
    for step in ("taken", "bridged", "called"):  # nobody of that number works here
        answer = await leg.post(f"{PUBLIC_URL}/voice/{step}?c={case.id}&s=999&o={leg.sid}")
        assert answer.status_code == 200
    answer = await leg.post(
        f"{PUBLIC_URL}/voice/bridged?c={case.id}&s={ana}&w={case.conversation_id}", Digits="1"
    )
    assert MAI not in answer.text


@pytest.mark.parametrize("status", [401, 429, 503])
async def test_a_call_that_twilio_does_not_take_is_told(scene: Scene, status: int) -> None:
    voice = scene.program.channels["voice"]
    assert isinstance(voice, Voice)
    scene.twilio.fail(Status(status))
    reason = "too many requests" if status == 429 else f"HTTP {status}"
    with pytest.raises(Exception, match=reason):
        await voice.ring(ANA, 1, 1, 1)
    with pytest.raises(Exception, match="HTTP 400"):
        await voice.ring("090-no-number", 1, 1, 1)


def _let_time_pass(session: Session, case_id: int) -> None:
    for event in session.scalars(
        select(CaseEvent).where(CaseEvent.case_id == case_id, CaseEvent.kind == "call_asked")
    ):
        event.at = event.at.replace(year=event.at.year - 1)


async def history(scene: Scene) -> list[Event]:
    return [Event(one.kind, one.at, "", one.detail or {}) for one in await scene.all(CaseEvent)]


# -- small parts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "number"),
    [
        ("090-1234-5678", "+819012345678"),
        ("０９０ー１２３４ー５６７８", "+819012345678"),
        ("+81 90 1234 5678", "+819012345678"),
        ("03-1234-5678", "+81312345678"),
        ("1234", ""),
        ("call me", ""),
        ("", ""),
    ],
)
def test_numbers_as_people_type_them(typed: str, number: str) -> None:
    assert e164(typed) == number


async def test_a_number_that_is_none_is_refused(scene: Scene) -> None:
    ana = await scene.staff("ana", ANA, ["ja"])
    write = scene.program.database.write
    for number, on_duty in (("12", False), ("", True)):
        with pytest.raises(StaffError):
            await write(set_phone, ana, number, on_duty)
    row = await scene.program.database.read(lambda s: s.get_one(Staff, ana).phone)
    assert row == ANA


@pytest.mark.parametrize(
    ("written", "language", "spoken"),
    [
        ("Call 110 now.", "en", "Call 1 1 0 now."),
        ("Hotline 0120-279-889 (free)", "en", "Hotline 0 1 2 0, 2 7 9, 8 8 9 (free)"),
        ("110,000 yen and 110 %", "en", "110,000 yen and 110 %"),
        ("給料(きゅうりょう)が ない", "ja-easy", "きゅうりょうが ない"),
        ("紙〈=かみ〉を", "ja-easy", "紙、かみ、を"),
        ("Sở (労働基準監督署, Kantokusho) giúp", "vi", "Sở (Kantokusho) giúp"),
        ("See https://example.org/x now", "en", "See now"),
        ("- one\n- two", "en", "one\ntwo"),
    ],
)
def test_words_as_they_are_spoken(written: str, language: str, spoken: str) -> None:
    content = LOADED.content
    speech = Speech(load_sounds(), content.all_texts, lambda: content.texts, Path(), "")
    assert speech.speakable(written, language) == spoken


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("Vietnamese", "vi"),
        ("vietnamees", "vi"),
        ("I want Tagalog please", "tl"),
        ("Portuguese.", "pt"),
        ("my boss hits me", ""),
        ("", ""),
    ],
)
def test_names_of_languages(said: str, code: str) -> None:
    assert load_sounds().named(said) == code


async def test_prompts_are_made_once_and_a_persons_is_never_touched(scene: Scene) -> None:
    voice = scene.program.channels["voice"]
    assert isinstance(voice, Voice)
    first, second, *_ = prompts.wanted(voice.speech, "ne")
    assert first.state == "missing"
    prompts.make(voice.speech, first)
    again = {one.digest: one for one in prompts.wanted(voice.speech, "ne")}
    assert again[first.digest].state == "placeholder"
    second.path.write_bytes(first.path.read_bytes())  # a person's: no note beside it
    persons = {one.digest: one for one in prompts.wanted(voice.speech, "ne")}[second.digest]
    assert persons.state == "person"
    with pytest.raises(ValueError, match="never overwritten"):
        prompts.make(voice.speech, persons)
    second.path.write_bytes(b"no sound")
    states = {one.digest: one.state for one in prompts.wanted(voice.speech, "ne")}
    assert states[second.digest] == "wrong format"
    old = second.path.with_name("0" * 64 + ".wav")
    old.write_bytes(b"")
    assert prompts.outdated(voice.speech, prompts.wanted(voice.speech, "ne"), "ne") == [old]
    answer = await scene.http.get(f"/voice/prompts/ne/{first.path.name}")
    assert answer.headers["content-type"] == "audio/wav"


async def test_setup_sets_the_hooks_and_check_finds_them(scene: Scene) -> None:
    voice = scene.program.channels["voice"]
    assert isinstance(voice, Voice)
    wrong = {finding.what for finding in await voice.check() if not finding.ok}
    assert "the web hook voice_url" in wrong
    assert all(finding.ok for finding in await voice.setup())
    wrong = {finding.what for finding in await voice.check() if not finding.ok}
    assert wrong == {"recordings in my", "recordings in ne"}
