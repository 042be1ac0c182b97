"""SMS beyond its table: what it costs, notices and their links, nothing twice, nothing missed."""

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import itsdangerous
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.applications import Starlette

from channels.log import (
    Conversation,
    Lease,
    Message,
    claim,
    mark_sent,
    note,
    open_conversation,
)
from channels.message import RefusedError, RejectedError, TemporarySendError
from channels.resume import resume_token, resumed
from channels.sms import Sms, SmsSettings, segments
from config.database import Database
from tests.channels.tables.sms import MAI, WORLD, account, out, sms
from tests.channels.vendors import Cut, Status
from tests.channels.vendors.twilio import NUMBER, PNG, ROOT, TOKEN, Twilio
from tests.channels.world import PUBLIC_URL, TEXTS, RecordingInbox, context
from tests.stories.running import RunningDesk

# -- what it costs ---------------------------------------------------------------------------------

COSTS = [
    ("nothing", "", "GSM-7", 1),
    ("one full", "a" * 160, "GSM-7", 1),
    ("one more letter", "a" * 161, "GSM-7", 2),
    ("two full", "a" * 306, "GSM-7", 2),
    ("and one more", "a" * 307, "GSM-7", 3),
    ("an extension letter takes two places", "a" * 159 + "€", "GSM-7", 2),
    ("and is not cut in two", "a" * 152 + "€" + "a" * 152, "GSM-7", 3),
    ("Spanish, within the alphabet", "¿Qué? Mañana " * 10, "GSM-7", 1),
    ("Portuguese, outside of it", "você " * 14, "UCS-2", 1),
    ("a typographic quote costs half the room", "“" + "a" * 70, "UCS-2", 2),
    ("Japanese, full", "あ" * 70, "UCS-2", 1),
    ("Japanese, one more", "あ" * 71, "UCS-2", 2),
    ("Japanese, two full", "あ" * 134, "UCS-2", 2),
    ("Vietnamese", "Chủ không trả lương. " * 7, "UCS-2", 3),
    ("an emoji takes two places", "a" * 69 + "😭", "UCS-2", 2),
    ("and is not cut in two", "あ" * 66 + "😭" + "あ" * 66, "UCS-2", 3),
]


@pytest.mark.parametrize(
    ("text", "alphabet", "count"), [row[1:] for row in COSTS], ids=[row[0] for row in COSTS]
)
def test_segments(text: str, alphabet: str, count: int) -> None:
    assert segments(text) == (alphabet, count)


@pytest.mark.parametrize("language", sorted({code for _, code in TEXTS.texts}))
def test_a_notice_is_one_or_two_sms(language: str) -> None:
    link = f"{PUBLIC_URL}/c/{resume_token(1_234_567, 'sms')}"
    notice = TEXTS("sms.notice", language).render({"link": link})
    alphabet, count = segments(notice)
    assert count == 1 if alphabet == "GSM-7" else count <= 2, len(notice)
    assert segments(notice + "x" * 8)[1] == count, "a longer domain costs more"
    assert "110" in notice
    assert "119" in notice


# -- the stage -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def twilio() -> Iterator[Twilio]:
    with Twilio() as peer:
        yield peer


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'desk.sqlite3'}")
    opened.migrate()
    yield opened
    opened.close()


class Stage:
    """The channel, with notices, and Mai's conversation."""

    def __init__(self, twilio: Twilio, folder: Path, database: Database, **changed: Any) -> None:
        twilio.reset()
        twilio.calls.clear()
        twilio.faults.clear()
        self.twilio, self.inbox = twilio, RecordingInbox()
        self.context = context(folder, self.inbox, database)
        settings = SmsSettings(**{"notice_only": True, **changed}, _env_file=None)
        self.sms = Sms(self.context, account(twilio), settings)
        self.conversation = database.write_now(open_conversation, "sms", MAI)

    async def http(self, method: str, path: str, **more: Any) -> httpx.Response:
        transport = httpx.ASGITransport(Starlette(routes=list(self.sms.routes())))
        async with httpx.AsyncClient(transport=transport, base_url=PUBLIC_URL) as client:
            return await client.request(method, path, **more)

    async def say(self, *texts: str, **more: Any) -> list[str]:
        messages = [out(str(n), text, **more) for n, text in enumerate(texts, 12)]
        return list(await self.sms.send(messages))

    async def reported(self, row: dict[str, Any], status: str, error: str = "") -> None:
        path, headers, body = self.twilio.report(row, status, error)
        assert (await self.http("POST", path, headers=headers, content=body)).status_code == 204

    @property
    def bodies(self) -> list[str]:
        return [one["body"] for one in self.twilio.sent]


Staged = Callable[..., Any]


@pytest.fixture
def staged(twilio: Twilio, tmp_path: Path, database: Database) -> Staged:
    @asynccontextmanager
    async def open_stage(**changed: Any) -> AsyncIterator[Stage]:
        stage = Stage(twilio, tmp_path, database, **changed)
        async with stage.sms.lifespan():
            yield stage

    return open_stage


# -- notices ---------------------------------------------------------------------------------------

CASE = "You told us that your boss keeps your passport."


async def test_a_notice_says_nothing_of_the_case_and_leads_to_the_same_conversation(
    staged: Staged,
) -> None:
    async with staged() as stage:
        ids = await stage.say(CASE, "A second answer.")
        [notice] = stage.bodies
        assert ids == [stage.twilio.sent[0]["sid"]] * 2
        assert "passport" not in notice
        assert "answer" not in notice
        before, link, after = notice.split("\n")
        assert [before, "{link}", after] == TEXTS("sms.notice", "en").body.split("\n")
        answer = await stage.http("GET", link.removeprefix(PUBLIC_URL))
        assert answer.status_code == 303
        assert answer.headers["referrer-policy"] == "no-referrer"
        place, _, token = answer.headers["location"].partition("#resume=")
        assert place == "/chat"
        assert resumed(token, 60) == stage.conversation


async def test_a_link_runs_out(staged: Staged, monkeypatch: pytest.MonkeyPatch) -> None:
    async with staged(link_hours=2) as stage:
        fresh = resume_token(stage.conversation, "sms")
        monkeypatch.setattr(
            itsdangerous.TimestampSigner, "get_timestamp", lambda _: int(time.time()) - 7260
        )
        old = resume_token(stage.conversation, "sms")
        monkeypatch.undo()
        assert (await stage.http("GET", f"/c/{fresh}")).status_code == 303
        answer = await stage.http("GET", f"/c/{old}", headers={"accept-language": "fil-PH,en"})
        assert answer.status_code == 410
        assert TEXTS("sms.link_old", "tl").body in answer.text


async def test_a_token_is_good_for_one_purpose_only(staged: Staged) -> None:
    """What stands in an SMS does not open the chat by itself, past the life of the link."""
    async with staged() as stage:
        in_sms = resume_token(stage.conversation, "sms")
        assert resumed(in_sms, 60) is None
        assert (await stage.http("GET", f"/c/{resume_token(1)}")).status_code == 410
        number, _, rest = in_sms.partition(".")
        assert resumed(f"{int(number) + 1}.{rest}", 60, "sms") is None


def test_a_link_never_ends_in_what_telephones_leave_out_of_links() -> None:
    assert all(resume_token(number)[-1].isalnum() for number in range(2000))


async def test_one_notice_speaks_for_all_until_it_is_opened(staged: Staged) -> None:
    async with staged() as stage:
        [first] = await stage.say(CASE)
        assert await stage.say("more") == [first]
        [notice] = stage.bodies
        link = notice.split("\n")[1].removeprefix(PUBLIC_URL)
        await stage.http("GET", link)
        assert await stage.say("more") != [first]
        assert len(stage.bodies) == 2


async def test_a_notice_that_did_not_arrive_speaks_for_nothing(staged: Staged) -> None:
    async with staged() as stage:
        [first] = await stage.say(CASE)
        await stage.reported(stage.twilio.sent[0], "undelivered", "30003")
        [key, sid] = stage.inbox.notices
        assert (key.key, sid.external_id) == ("12", first)
        assert key.reason == "the telephone is switched off or out of reach"
        await stage.say("more")
        assert len(stage.bodies) == 2


async def test_after_a_while_she_gets_another_notice(
    staged: Staged, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with staged() as stage:
        await stage.say(CASE)
        later = datetime.now(UTC) + timedelta(seconds=121)
        monkeypatch.setattr("channels.sms.now", lambda _: later)
        await stage.say("more")
        assert len(stage.bodies) == 2


@asynccontextmanager
async def another(stage: Stage) -> AsyncIterator[Sms]:
    """A second process of the same desk, or the same after a restart."""
    one = Sms(stage.context, account(stage.twilio), stage.sms.settings)
    async with one.lifespan():
        yield one


async def test_a_notice_is_known_to_all_processes(staged: Staged) -> None:
    async with staged() as stage, another(stage) as other:
        [first] = await stage.say(CASE)
        assert await other.send([out("13", "more")]) == [first]
        assert len(stage.bodies) == 1


async def test_a_failed_notice_is_known_to_all_processes(staged: Staged) -> None:
    async with staged() as stage, another(stage) as other:
        await stage.say(CASE)
        one, stage.sms = stage.sms, other
        await stage.reported(stage.twilio.sent[-1], "failed", "30003")
        await one.send([out("13", "more")])
        assert len(stage.bodies) == 2


async def test_an_opened_notice_is_known_to_all_processes(staged: Staged) -> None:
    async with staged() as stage, another(stage) as other:
        await stage.say(CASE)
        one, stage.sms = stage.sms, other
        link = f"/c/{resume_token(stage.conversation, 'sms')}"
        assert (await stage.http("GET", link)).status_code == 303
        await one.send([out("13", "more")])
        assert len(stage.bodies) == 2


async def test_an_earlier_sms_that_failed_ends_no_later_notice(staged: Staged) -> None:
    async with staged() as stage:
        await stage.say(TEXTS("stop.done", "en").body)
        [notice] = await stage.say(CASE)
        await stage.reported(stage.twilio.sent[0], "failed", "30003")
        assert await stage.say("more") == [notice]


async def test_a_notice_that_fails_at_once_speaks_for_nothing(
    staged: Staged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twilio tells so before the desk has noted that it left."""
    async with staged() as stage:
        leave = stage.sms._leave

        async def leaves_and_fails(*given: Any, **named: Any) -> str:
            sid = await leave(*given, **named)
            await stage.reported(stage.twilio.sent[-1], "failed", "30003")
            return sid

        monkeypatch.setattr(stage.sms, "_leave", leaves_and_fails)
        await stage.say(CASE)
        monkeypatch.undo()
        await stage.say("more")
        assert len(stage.bodies) == 2


@pytest.mark.parametrize("noted", [False, True])
async def test_what_a_failed_notice_spoke_for_has_failed(
    staged: Staged, database: Database, noted: bool
) -> None:
    """Also what delivery has not `noted` as sent yet, when Twilio tells of the failure."""

    def states(session: Session) -> list[str]:
        return list(session.scalars(select(Message.state).order_by(Message.id)))

    async with staged() as stage:
        lease = database.write_now(queued, stage.conversation)
        [first] = await stage.say(CASE)
        database.write_now(mark_sent, lease, {12: first}, "sent")
        [second] = await stage.sms.send([out("13", "more")])
        if noted:
            database.write_now(mark_sent, lease, {13: second}, "sent")
        await stage.reported(stage.twilio.sent[0], "failed", "30003")
        database.write_now(note, stage.inbox.notices)
        if not noted:
            database.write_now(mark_sent, lease, {13: second}, "sent")
        assert await database.read(states) == ["failed", "failed", "queued"]


def queued(session: Session, conversation: int) -> Lease:
    """Three replies of a counsellor that are to leave."""
    stamp = datetime.now(UTC)
    for number in (12, 13, 14):
        session.add(
            Message(
                id=number,
                conversation_id=conversation,
                author="counsellor",
                staff_id=1,
                state="queued",
                body=CASE,
                created_at=stamp,
            )
        )
    session.get_one(Conversation, conversation).due_at = stamp
    session.flush()
    [lease] = claim(session, 1)
    return lease


async def test_what_others_keep_of_the_conversation_stays(
    staged: Staged, database: Database
) -> None:
    """The web chat remembers there which links were opened."""

    def thread(session: Session, change: dict[str, Any] | None = None) -> dict[str, Any] | None:
        conversation = session.get_one(Conversation, stage.conversation)
        conversation.thread = change or conversation.thread
        return conversation.thread

    links = {"links": [["mark", "device"]]}
    async with staged() as stage:
        database.write_now(thread, links)
        [sid] = await stage.say(CASE)
        kept = database.write_now(thread) or {}
        assert kept["notice"][1] == sid
        await stage.http("GET", f"/c/{resume_token(stage.conversation, 'sms')}")
        assert database.write_now(thread) == links
        assert kept["links"] == links["links"]


@pytest.mark.parametrize("text_id", ["stop.done", "delete.done"])
async def test_a_goodbye_comes_in_words(staged: Staged, text_id: str) -> None:
    """No link could be opened after it."""
    async with staged() as stage:
        goodbye = TEXTS(text_id, "vi").body
        await stage.say(goodbye)
        assert stage.bodies == [goodbye]
        await stage.say(goodbye, CASE)
        assert "passport" not in stage.bodies[1]


async def test_nobody_is_written_to_who_is_not_there_any_more(staged: Staged) -> None:
    async with staged() as stage:
        with pytest.raises(RejectedError):
            await stage.sms.send([out("12", CASE, "+819000000000")])
        assert stage.bodies == []


# -- nothing twice ---------------------------------------------------------------------------------


@pytest.mark.parametrize("notice_only", [True, False])
async def test_an_sms_whose_answer_got_lost_is_not_sent_again(
    staged: Staged, notice_only: bool
) -> None:
    async with staged(notice_only=notice_only) as stage:
        stage.twilio.fail(Cut())
        with pytest.raises(TemporarySendError):
            await stage.say(CASE)
        ids = await stage.say(CASE, attempts=1)
        assert ids == [one["sid"] for one in stage.twilio.sent]


async def test_while_twilio_cannot_tell_whether_it_has_it_nothing_is_sent(staged: Staged) -> None:
    async with staged(notice_only=False) as stage:
        stage.twilio.fail(Cut(), Status(503), Status(429))
        for attempt in range(3):
            with pytest.raises(TemporarySendError):
                await stage.say(CASE, attempts=attempt)
        assert len(await stage.say(CASE, attempts=3)) == 1
        assert stage.bodies == [CASE]


@pytest.mark.parametrize("code", [500, 503])
async def test_an_sms_that_twilio_does_not_have_is_sent_again(staged: Staged, code: int) -> None:
    async with staged(notice_only=False) as stage:
        stage.twilio.fail(Status(code))
        with pytest.raises(TemporarySendError):
            await stage.say(CASE)
        await stage.say(CASE, attempts=1)
        assert stage.bodies == [CASE]


async def test_the_same_words_earlier_are_not_taken_for_it(staged: Staged) -> None:
    async with staged(notice_only=False) as stage:
        await stage.say(CASE)
        stage.twilio.messages[0]["date_created"] = "Fri, 24 May 2019 17:44:46 +0000"
        stage.twilio.fail(Status(503))
        with pytest.raises(TemporarySendError):
            await stage.sms.send([out("20", CASE)])
        await stage.sms.send([out("20", CASE, attempts=1)])
        assert stage.bodies == [CASE, CASE]


async def test_of_two_sms_only_the_one_that_failed_is_tried_again(staged: Staged) -> None:
    long = ["あ" * 600, "い" * 600]
    async with staged(notice_only=False) as stage:
        stage.twilio.fail(None, Status(503))
        with pytest.raises(TemporarySendError):
            await stage.say(*long)
        ids = await stage.say(*long, attempts=1)
        assert stage.bodies == long
        assert ids == [one["sid"] for one in stage.twilio.sent]


async def test_what_a_counsellor_sends_again_leaves_again(staged: Staged) -> None:
    async with staged(notice_only=False) as stage:
        stage.twilio.fail(Cut())
        with pytest.raises(TemporarySendError):
            await stage.say(CASE)
        await stage.say(CASE)  # attempts begin at 0 again
        assert stage.bodies == [CASE, CASE]


async def test_segments_are_counted(staged: Staged) -> None:
    def counted() -> float:
        labels = {"language": "en", "alphabet": "UCS-2"}
        return REGISTRY.get_sample_value("desk_sms_segments_total", labels) or 0

    async with staged(notice_only=False) as stage:
        before = counted()
        await stage.say("あ" * 71)
        assert counted() - before == 2


# -- nothing missed --------------------------------------------------------------------------------


async def test_what_twilio_could_not_bring_is_fetched(staged: Staged) -> None:
    async with staged() as stage:
        known = stage.twilio.arrived(MAI, "known")
        request = sms(Body="known", MessageSid=known["sid"])
        await stage.http("POST", request.path, content=request.body, headers=request.headers)
        stage.twilio.arrived(MAI, "first")
        picture = stage.twilio.arrived(MAI, "", "image/png")
        stage.twilio.arrived(NUMBER, "from ourselves")
        await stage.say(CASE)  # outgoing ones are not taken for a worker's
        since = datetime.now(UTC) - timedelta(minutes=5)
        assert await stage.sms.catch_up(since) == 2
        assert [one.text for one in stage.inbox.messages] == ["known", "first", ""]
        [file] = stage.inbox.messages[2].attachments
        media = picture["media"][0]["sid"]
        assert file.source == f"{ROOT}/Messages/{picture['sid']}/Media/{media}"
        assert stage.inbox.messages[2].kind == "file"
        assert await stage.sms.catch_up(since) == 0
        later = datetime.now(UTC) + timedelta(minutes=5)
        stage.inbox.known.clear()
        assert await stage.sms.catch_up(later) == 0


# -- files -----------------------------------------------------------------------------------------


async def fetched(stage: Stage) -> bytes:
    picture = stage.twilio.arrived(MAI, "", "image/png")
    media = picture["media"][0]["sid"]
    _, data = await stage.sms.fetch(f"{ROOT}/Messages/{picture['sid']}/Media/{media}")
    return data


async def test_a_file_is_fetched_where_twilio_points(staged: Staged) -> None:
    async with staged() as stage:
        assert await fetched(stage) == PNG


@pytest.mark.parametrize(
    "place",
    [
        "https://evil.example/x",
        "http://media.twiliocdn.com/x",
        "https://twilio.com.evil.example/x",
        "https://[/",
    ],
)
async def test_a_file_is_not_fetched_from_elsewhere(staged: Staged, place: str) -> None:
    async with staged() as stage:
        stage.twilio.elsewhere = place
        try:
            with pytest.raises(RejectedError):
                await fetched(stage)
        finally:
            stage.twilio.elsewhere = ""


async def test_a_file_that_is_gone_or_too_big(staged: Staged) -> None:
    async with staged() as stage:
        with pytest.raises(RejectedError):
            await stage.sms.fetch(f"{ROOT}/Messages/MM1/Media/ME1")
        media = f"{ROOT}/Messages/MM1/Media/ME1"
        for source in ("", "/etc/passwd", f"https://evil.example{media}", f"{ROOT}/Messages.json"):
            with pytest.raises(RejectedError):
                await stage.sms.fetch(source)
        stage.twilio.fail(Status(500))
        with pytest.raises(TemporarySendError):
            await fetched(stage)
        stage.context.media.limit = 10
        with pytest.raises(RefusedError):
            await fetched(stage)


# -- set-up ----------------------------------------------------------------------------------------


async def test_setup_lets_the_number_call_us_with_retries(staged: Staged) -> None:
    async with staged() as stage:
        stage.twilio.number["sms_application_sid"] = "AP1"
        assert not all(finding.ok for finding in await stage.sms.check())
        assert "demo.twilio.com" in stage.twilio.number["sms_url"]  # check changes nothing
        for _ in range(2):
            assert all(finding.ok for finding in await stage.sms.setup())
        assert stage.twilio.number["sms_url"] == f"{PUBLIC_URL}/sms/webhook#rc=5&rp=all"
        assert stage.twilio.number["sms_fallback_url"] == stage.twilio.number["sms_url"]
        assert all(finding.ok for finding in await stage.sms.check())


FAULTS: list[tuple[str, Callable[[Stage], Any], str]] = [
    ("suspended", lambda s: setattr(s.twilio, "status", "suspended"), "Console"),
    ("a trial", lambda s: setattr(s.twilio, "kind", "Trial"), "Upgrade"),
    ("no SMS", lambda s: s.twilio.number.update(capabilities={"sms": False}), "capability"),
    ("GET", lambda s: s.twilio.number.update(sms_method="GET"), "setup sms"),
    ("not ours", lambda s: setattr(s.sms.twilio, "sms_number", "+818011112222"), "Buy"),
    ("written 080", lambda s: setattr(s.sms.twilio, "sms_number", "08011112222"), "+81"),
    ("no https", lambda s: setattr(s.sms, "url", "http://localhost:8000"), "BOT_PUBLIC_URL"),
    ("token", lambda s: setattr(s.sms.twilio, "account_sid", "ACx"), "Auth Token"),
]


@pytest.mark.parametrize(
    ("spoil", "remedy"), [row[1:] for row in FAULTS], ids=[row[0] for row in FAULTS]
)
async def test_check_names_the_remedy(
    staged: Staged, spoil: Callable[[Stage], Any], remedy: str
) -> None:
    async with staged() as stage:
        await stage.sms.setup()
        spoil(stage)
        try:
            faults = [one for one in await stage.sms.check() if not one.ok]
        finally:
            stage.twilio.status, stage.twilio.kind = "active", "Full"
        assert any(remedy in fault.remedy for fault in faults), faults


# -- the whole desk --------------------------------------------------------------------------------


def eventually(look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 30
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def test_the_desk_answers_by_sms_and_goes_on_after_a_kill(twilio: Twilio, tmp_path: Path) -> None:
    twilio.reset()
    environment = WORLD.environment(twilio) | {"BOT_SMS_NOTICE_ONLY": "true"}
    with RunningDesk(tmp_path / "desk", environment) as desk:

        def call(request: Any) -> int:
            answer = httpx.request(
                request.method,
                desk.url + request.path,
                content=request.body,
                headers=request.headers,
                trust_env=False,
            )
            return answer.status_code

        twilio.always = Status(503)
        assert call(WORLD.hears("mai", "My boss keeps my passport", "1")) == 200
        desk.kill()
        twilio.always = None
        desk.start()
        [sent] = eventually(lambda: twilio.sent)
        assert "passport" not in sent["body"]
        link = sent["body"].split("\n")[1].removeprefix(PUBLIC_URL)
        answer = httpx.get(desk.url + link, trust_env=False)
        assert answer.status_code == 303
        path, headers, body = twilio.report(sent, "delivered")
        told = httpx.post(desk.url + path, headers=headers, content=body, trust_env=False)
        assert told.status_code == 204
        assert call(WORLD.hears("mai", "My boss keeps my passport", "1")) == 200  # again
        assert call(WORLD.hears("mai", "human", "2")) == 200
        eventually(lambda: len(twilio.sent) > 1)
        assert TOKEN not in desk.output.read_text()
        assert "passport" not in json.dumps(twilio.sent)
