"""The console: who may do what, what cannot be done from outside, and what a counsellor sees."""

import ast
import asyncio
import inspect
import json
import re
import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from argon2 import PasswordHasher
from babel.messages.pofile import read_po
from sqlalchemy import select, update
from sqlalchemy.orm import Session
from starlette.applications import Starlette
from starlette.routing import Mount

from channels.log import Conversation, Line, Message, Published, accept, publish, say
from channels.media import Media, MediaStore
from channels.message import Attachment, InboundMessage
from config.content import read_yaml
from config.database import Base, Database, now
from config.facts import CONFIG, load_facts
from config.texts import Texts, load_texts
from handoff import calls as calls_module
from handoff import desk as desk_module
from handoff import staff as staff_module
from handoff.case import Case, CaseEvent, Handoff, hand_over
from handoff.console import ConsoleContext, console_routes, live
from handoff.console.cases import Cases
from handoff.console.collect import collect
from handoff.console.language import FOLDER, REFUSALS, preferred, translate_refusal, translations
from handoff.console.routes import pages
from handoff.desk import Desk, DeskError
from handoff.hours import load_hours
from handoff.staff import (
    FIRST_SIGN_IN,
    Staff,
    StaffSession,
    add_staff,
    set_active,
)

PASSWORD = "correct horse battery"
PEOPLE = {
    "ana": ["counsellor"],
    "ben": ["counsellor"],
    "mia": ["manager"],
    "eva": ["editor"],
    "root": ["admin"],
}
SCRIPT = "<script>alert('x')</script> https://evil.example"


@pytest.fixture(scope="module")
def texts() -> Texts:
    """The real catalogue."""
    return load_texts(load_facts())


@dataclass
class Site:
    """A desk with its console, and browsers to visit it."""

    app: Starlette
    database: Database
    desk: Desk
    folder: Path
    status: dict[str, str]
    cases: dict[str, int]

    def browser(self, **headers: str) -> httpx.AsyncClient:
        """Somebody who is not signed in."""
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app),
            base_url="http://desk.test",
            headers={"accept-language": "en", "sec-fetch-site": "same-origin", **headers},
        )

    async def enter(self, login: str, **headers: str) -> httpx.AsyncClient:
        """Somebody who is signed in; her forms carry the token."""
        browser = self.browser(**headers)
        page = await browser.get("/console/sign-in")
        form = {"login": login, "password": PASSWORD, "csrf": token_of(page.text)}
        answer = await browser.post("/console/sign-in", data=form)
        assert answer.status_code == 303, answer.text
        page = await browser.get("/console/password")
        browser.headers["x-csrf-token"] = token_of(page.text)
        return browser

    def events(self, case: str) -> list[tuple[str, str]]:
        """(kind, name) of the audit of a case."""
        with Session(self.database._reader) as session:
            found = session.execute(
                select(CaseEvent.kind, Staff.name)
                .outerjoin(Staff, Staff.id == CaseEvent.staff_id)
                .where(CaseEvent.case_id == self.cases[case])
                .order_by(CaseEvent.id)
            )
            return [(kind, name or "") for kind, name in found]

    def replies(self) -> list[Message]:
        """What counsellors have written."""
        with Session(self.database._reader) as session:
            wanted = select(Message).where(Message.author == "counsellor").order_by(Message.id)
            return list(session.scalars(wanted))

    def row(self, case: str) -> Case:
        """A case as it is in the database."""
        with Session(self.database._reader) as session:
            return session.get_one(Case, self.cases[case])


@dataclass(frozen=True)
class Filled:
    """A filled database to be copied, since filling one takes long."""

    path: Path
    published: Published
    cases: dict[str, int]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, texts: Texts) -> Iterator[Filled]:
    """Staff, and three cases: `danger`, `wage` and `mail`. Hashes are cheap here."""
    patch = pytest.MonkeyPatch()
    patch.setattr(
        staff_module, "_hasher", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    )
    path = tmp_path_factory.mktemp("desk") / "desk.sqlite3"
    database = Database(f"sqlite:///{path}")
    Base.metadata.create_all(database._writer)
    published = database.write_now(publish, list(texts))
    hours = load_hours()

    def case(session: Session, handoff: Handoff, channel: str, text: str, **more: Any) -> int:
        accepted = accept(session, InboundMessage(channel, text, text, text, **more))
        message = session.get_one(Message, accepted.message_id)
        message.state, message.language = "done", handoff.language
        conversation = session.get_one(Conversation, message.conversation_id)
        conversation.language = handoff.language
        greeting = texts("greeting.first", handoff.language)
        line = Line(greeting, greeting.needed(texts.params(handoff.language)))
        say(session, conversation, line, published)
        return hand_over(session, conversation, handoff, hours)[0].id

    def fill(session: Session) -> dict[str, int]:
        for login, roles in PEOPLE.items():
            add_staff(session, login, login.title(), PASSWORD, roles, ["vi"])
        words = ({"type": "violence", "language": "vi", "phrase": "đánh", "matched": "đánh tôi"},)
        danger = Handoff("risk", "emergency", ("violence",), "", "vi", words)
        wage = Handoff("asked", topic="wage", language="my")
        mail = Handoff("attachment", topic="other", language="pt")
        file = (Attachment("<b>x</b>.pdf", "application/pdf", 2048, "0" * 64, "0" * 32),)
        return {
            "danger": case(session, danger, "webchat", f"Nó đánh tôi {SCRIPT}", name="<i>Tú</i>"),
            "wage": case(session, wage, "webchat", "လစာ"),
            "mail": case(session, mail, "email", "maria@example.org", attachments=file),
        }

    cases = database.write_now(fill)
    database.close()
    yield Filled(path, published, cases)
    patch.undo()


@pytest.fixture
def site(tmp_path: Path, texts: Texts, filled: Filled) -> Iterator[Site]:
    """A desk of its own for each test."""
    shutil.copy(filled.path, tmp_path / "desk.sqlite3")
    database = Database(f"sqlite:///{tmp_path / 'desk.sqlite3'}")
    desk = Desk(texts, filled.published, load_hours())
    status = {"understanding": "ready", "detail": "", "mail": "sent"}
    draft = {"title": "…", "review": "draft", "unverified": ""}
    context = ConsoleContext(
        database=database,
        desk=desk,
        media=MediaStore(tmp_path / "media", 1_048_576, "http://desk.test"),
        faq_titles=lambda topic, language: f"{topic} in {language}",
        risk_names=lambda kind, language: f"{kind} in {language}",
        outcomes=read_yaml(CONFIG / "outcomes.yaml"),
        languages=texts.languages,
        https=False,
        data_dir=tmp_path,
        status=lambda: status,
        drafts=lambda: [
            {"id": "faq/a", "language": "vi", **draft},
            {"id": "faq/b", "language": "my", **draft},
        ],
    )
    app = Starlette(routes=[Mount("/console", routes=console_routes(context))])
    yield Site(app, database, desk, tmp_path, status, filled.cases)
    database.close()


def token_of(html: str) -> str:
    """The CSRF token of a page."""
    found = re.search(r'data-csrf="([0-9a-f]{64})"', html)
    assert found
    return found[1]


# -- who may open what -----------------------------------------------------------------------------

ROLES = ("anonymous", "editor", "counsellor", "manager", "admin")
LOGIN = {"editor": "eva", "counsellor": "ana", "manager": "mia", "admin": "root"}
TABLE = {  # anonymous, editor, counsellor, manager, admin
    ("GET", "/"): (303, 303, 303, 303, 303),
    ("GET", "/sign-in"): (200, 303, 303, 303, 303),
    ("POST", "/sign-in"): (422, 422, 422, 422, 422),
    ("GET", "/language/{code}"): (303, 303, 303, 303, 303),
    ("POST", "/sign-out"): (303, 303, 303, 303, 303),
    ("GET", "/password"): (303, 200, 200, 200, 200),
    ("POST", "/password"): (303, 422, 422, 422, 422),
    ("GET", "/queue"): (303, 403, 200, 200, 200),
    ("GET", "/queue/live"): (401, 403, 200, 200, 200),
    ("GET", "/queue/stream"): (401, 403, 200, 200, 200),
    ("GET", "/cases/{case:int}"): (303, 403, 200, 200, 200),
    ("GET", "/cases/{case:int}/live"): (401, 403, 200, 200, 200),
    ("GET", "/cases/{case:int}/stream"): (401, 403, 200, 200, 200),
    ("POST", "/cases/{case:int}/take"): (303, 403, 303, 403, 303),
    ("POST", "/cases/{case:int}/reply"): (303, 403, 400, 403, 400),
    ("GET", "/cases/{case:int}/files/{file:int}"): (303, 403, 404, 404, 404),
    ("POST", "/cases/{case:int}/ways"): (303, 403, 409, 403, 409),
    ("POST", "/cases/{case:int}/part"): (303, 403, 409, 403, 409),
    ("POST", "/cases/{case:int}/note"): (303, 403, 409, 403, 409),
    ("POST", "/cases/{case:int}/put-back"): (303, 403, 409, 409, 409),
    ("POST", "/cases/{case:int}/release"): (303, 403, 409, 403, 409),
    ("POST", "/cases/{case:int}/close"): (303, 403, 409, 403, 409),
    ("POST", "/cases/{case:int}/resend/{message:int}"): (303, 403, 409, 403, 409),
    ("POST", "/cases/{case:int}/call"): (303, 403, 404, 403, 404),  # no telephone is set up
    ("GET", "/drafts"): (303, 200, 200, 200, 200),
    ("GET", "/staff"): (303, 403, 403, 403, 200),
    ("POST", "/staff"): (303, 403, 403, 403, 422),
    ("POST", "/staff/{person:int}/password"): (303, 403, 403, 403, 200),
    ("POST", "/staff/{person:int}/activate"): (303, 403, 403, 403, 303),
    ("POST", "/staff/{person:int}/deactivate"): (303, 403, 403, 403, 303),
    ("POST", "/staff/{person:int}/phone"): (303, 403, 403, 403, 303),
    ("GET", "/phone"): (303, 200, 200, 200, 200),
    ("POST", "/phone"): (303, 200, 200, 200, 200),
}


def test_the_table_names_every_page() -> None:
    assert set(TABLE) == {(page.method, page.path) for page in pages(Cases())}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("method", "path"), TABLE)
async def test_access(site: Site, method: str, path: str, role: str) -> None:
    browser = site.browser() if role == "anonymous" else await site.enter(LOGIN[role])
    if role == "anonymous":
        page = await browser.get("/console/sign-in")
        browser.headers["x-csrf-token"] = token_of(page.text)
    address = "/console" + path.replace("{code}", "en").replace("{message:int}", "1")
    address = address.replace("{file:int}", "99")
    address = address.replace("{case:int}", str(site.cases["wage"])).replace("{person:int}", "4")
    if path.endswith("/stream"):
        method = "HEAD"  # the stream itself never ends
    answer = await browser.request(method, address)
    assert (
        answer.status_code == TABLE["GET" if method == "HEAD" else method, path][ROLES.index(role)]
    )
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"
    if answer.status_code == 303 and role == "anonymous" and path not in {"/language/{code}"}:
        assert answer.headers["location"].startswith("/console/sign-in")


@pytest.mark.parametrize(
    "path", ["/nowhere", "/cases/999", "/cases/99999999999999999999", "/cases/x", "/queue?tab=no"]
)
async def test_a_wrong_address_is_a_page_in_our_look(site: Site, path: str) -> None:
    ana = await site.enter("ana")
    answer = await ana.get(f"/console{path}")
    assert answer.status_code == 404
    assert "Not found" in answer.text
    assert "console.css" in answer.text


async def test_a_fault_is_a_page_with_a_number(site: Site) -> None:
    ana = await site.enter("ana")
    site.status.clear()
    answer = await ana.get("/console/queue")
    assert answer.status_code == 500
    assert re.search(r"number \d{12}", answer.text)


# -- from outside ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 303),
        ({"x-csrf-token": ""}, 403),
        ({"x-csrf-token": "0" * 64}, 403),
        ({"x-csrf-token": "0"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": None, "origin": "http://desk.test"}, 303),
        ({"sec-fetch-site": None, "origin": "null"}, 303),
        ({"sec-fetch-site": None, "origin": "https://evil.example"}, 403),
    ],
)
async def test_forms_of_other_sites_are_refused(
    site: Site, headers: dict[str, str | None], status: int
) -> None:
    ana = await site.enter("ana")
    for name, value in headers.items():
        if value is None:
            del ana.headers[name]
        else:
            ana.headers[name] = value
    answer = await ana.post(f"/console/cases/{site.cases['wage']}/take")
    assert answer.status_code == status
    assert site.row("wage").status == ("claimed" if status == 303 else "waiting")


async def test_a_token_is_worth_nothing_in_another_session(site: Site) -> None:
    ana, ben = await site.enter("ana"), await site.enter("ben")
    ben.headers["x-csrf-token"] = ana.headers["x-csrf-token"]
    answer = await ben.post(f"/console/cases/{site.cases['wage']}/take")
    assert answer.status_code == 403


async def test_the_session_cookie_is_for_the_console_alone(site: Site) -> None:
    browser = site.browser()
    page = await browser.get("/console/sign-in")
    form = {"login": "ana", "password": PASSWORD, "csrf": token_of(page.text)}
    answer = await browser.post("/console/sign-in", data=form)
    cookie = next(c for c in answer.headers.get_list("set-cookie") if c.startswith("desk_session"))
    assert {"HttpOnly", "Path=/console", "SameSite=lax"} <= set(cookie.split("; "))
    assert "Secure" not in cookie  # the desk of this test is reached without encryption


async def test_too_much_is_refused_before_it_is_read(site: Site) -> None:
    ana = await site.enter("ana")
    answer = await ana.post(
        f"/console/cases/{site.cases['wage']}/note", data={"text": "x" * 600_000}
    )
    assert answer.status_code == 413


@pytest.mark.parametrize("wish", ["https://evil.example", "//evil.example", "/console/../x", ""])
async def test_sign_in_leads_nowhere_else(site: Site, wish: str) -> None:
    browser = site.browser()
    page = await browser.get("/console/sign-in", params={"next": wish})
    form = {"login": "ana", "password": PASSWORD, "csrf": token_of(page.text), "next": wish}
    answer = await browser.post("/console/sign-in", data=form)
    assert answer.headers["location"] == "/console/"


# -- signing in ------------------------------------------------------------------------------------


async def test_a_refusal_does_not_tell_whether_there_is_an_account(site: Site) -> None:
    async def attempt(login: str, password: str) -> tuple[int, str]:
        browser = site.browser()
        page = await browser.get("/console/sign-in")
        form = {"login": login, "password": password, "csrf": token_of(page.text)}
        answer = await browser.post("/console/sign-in", data=form)
        body = answer.text.replace(token_of(answer.text), "") if answer.status_code != 303 else ""
        body = re.sub(r'value="[0-9a-f]{64}"|value="(ana|nobody)"', "", body)
        return answer.status_code, re.sub(r'name="csrf" value="\w*"', "", body)

    wrong = await attempt("ana", "wrong")
    assert wrong[0] == 403
    assert await attempt("nobody", "wrong") == wrong
    for _ in range(9):
        await attempt("ana", "wrong")
    assert await attempt("ana", PASSWORD) == wrong  # locked, and it does not say so


async def test_after_sign_in_one_is_where_one_wished_to_be(site: Site) -> None:
    browser = site.browser()
    sent = await browser.get("/console/cases/1")
    page = await browser.get(sent.headers["location"])
    assert 'name="next" value="/console/cases/1"' in page.text
    form = {"login": "ana", "password": PASSWORD, "csrf": token_of(page.text)}
    answer = await browser.post("/console/sign-in", data={**form, "next": "/console/cases/1"})
    assert answer.headers["location"] == "/console/cases/1"


async def test_signing_out_ends_the_session(site: Site) -> None:
    ana = await site.enter("ana")
    cookie = ana.cookies["desk_session"]
    await ana.post("/console/sign-out")
    browser = site.browser(cookie=f"desk_session={cookie}")
    assert (await browser.get("/console/queue")).status_code == 303


async def test_a_new_password_ends_other_sessions_and_the_kept_first_one(site: Site) -> None:
    (site.folder / FIRST_SIGN_IN).write_text(PASSWORD)
    here, elsewhere = await site.enter("ana"), await site.enter("ana")
    assert "Choose your own password" in (await here.get("/console/queue")).text
    form = {"old": PASSWORD, "new": "a much better one", "again": "a much better one"}
    for wrong in ({"old": "x"}, {"new": "short", "again": "short"}, {"again": "different"}):
        answer = await here.post("/console/password", data={**form, **wrong})
        assert answer.status_code == 422
    assert (site.folder / FIRST_SIGN_IN).exists()
    assert (await here.post("/console/password", data=form)).status_code == 303
    assert not (site.folder / FIRST_SIGN_IN).exists()
    assert "Choose your own password" not in (await here.get("/console/queue")).text
    assert (await elsewhere.get("/console/queue")).status_code == 303


# -- the queue -------------------------------------------------------------------------------------


async def test_the_queue_shows_what_matters_and_nothing_of_the_worker(site: Site) -> None:
    ana = await site.enter("ana")
    page = (await ana.get("/console/queue")).text
    assert page.index("violence in en") < page.index("wage in en")
    assert "Emergency" in page
    assert "Vietnamese" in page
    assert "you speak it" in page
    assert "<title>(3) Queue" in page
    assert "Tú" not in page
    assert "maria@" not in page
    assert "đánh" not in page
    assert "limited" not in page


async def test_degraded_understanding_and_kept_mail_are_said(site: Site) -> None:
    site.status.update(understanding="training", detail="round 3", mail="kept")
    ana = await site.enter("ana")
    page = (await ana.get("/console/queue")).text
    assert "Understanding is limited: learning." in page
    assert "round 3" in page
    assert "BOT_SMTP_RELAY" in page


async def test_a_missed_promise_is_marked(site: Site) -> None:
    def late(session: Session) -> None:
        past = now(session) - timedelta(hours=1)
        session.execute(update(Case).where(Case.id == site.cases["wage"]).values(due_at=past))

    site.database.write_now(late)
    ana = await site.enter("ana")
    page = (await ana.get("/console/queue")).text
    assert "overdue since" in page
    assert "1 promise has passed." in page


async def test_each_tab_holds_its_cases(site: Site) -> None:
    ana, ben = await site.enter("ana"), await site.enter("ben")
    outcome = {"outcome": "lost_contact", "confirmed": "yes"}
    for name in site.cases:
        await ana.post(f"/console/cases/{site.cases[name]}/take")
    await ana.post(f"/console/cases/{site.cases['mail']}/release")
    await ana.post(f"/console/cases/{site.cases['wage']}/close", data=outcome)
    references = {name: site.row(name).reference for name in site.cases}
    for browser, tab, there in (
        (ana, "waiting", set()),
        (ana, "mine", {"danger"}),
        (ana, "others", set()),
        (ben, "mine", set()),
        (ben, "others", {"danger"}),
        (ben, "released", {"mail"}),
        (ben, "closed", {"wage"}),
    ):
        page = (await browser.get(f"/console/queue?tab={tab}")).text
        assert {name for name, reference in references.items() if reference in page} == there
        assert "<title>Queue" in page
        assert ('class="empty"' in page) == (not there)


# -- a case ----------------------------------------------------------------------------------------


async def test_what_workers_write_stays_text(site: Site) -> None:
    ana = await site.enter("ana")
    for name in site.cases:
        page = (await ana.get(f"/console/cases/{site.cases[name]}")).text
        assert not re.search(r"<script(?! src=\"/console/static/)", page)
        assert "<b>x</b>" not in page
        assert "<i>Tú" not in page
        assert "evil.example</a>" not in page
        assert not re.search(r'href="http', page)
    page = (await ana.get(f"/console/cases/{site.cases['danger']}")).text
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; https://evil.example" in page
    assert '<p class="words" dir="auto" lang="vi">' in page


async def test_a_case_shows_danger_words_promise_and_drafts(site: Site) -> None:
    ana = await site.enter("ana")
    page = (await ana.get(f"/console/cases/{site.cases['danger']}")).text
    assert '<q lang="vi" dir="auto">đánh tôi</q>' in page
    assert "Found by “đánh” in the list for Vietnamese" in page
    assert 'class="badge draft"' in page
    assert "Promised" in page
    mail = (await ana.get(f"/console/cases/{site.cases['mail']}")).text
    assert "maria@example.org" in mail
    assert "application/pdf, 2 KB" in mail


async def test_reading_is_written_down(site: Site) -> None:
    ana, mia = await site.enter("ana"), await site.enter("mia")
    address = f"/console/cases/{site.cases['wage']}"
    for browser in (ana, mia, ana):
        await browser.get(address)
        await browser.get(f"{address}/live")
    assert site.events("wage") == [("opened", ""), ("viewed", "Ana"), ("viewed", "Mia")]
    await ana.get("/console/queue")
    assert len(site.events("danger")) == 1


async def test_a_reply_pressed_twice_is_one_message(site: Site) -> None:
    ana, ben = await site.enter("ana"), await site.enter("ben")
    case = f"/console/cases/{site.cases['wage']}"
    await ana.post(f"{case}/take")
    page = (await ana.get(case)).text
    found = re.search(r'name="key" value="([\w-]+)"', page)
    assert found
    form = {"text": "  မင်္ဂလာပါ\r\nAna  ", "key": found[1]}
    answers = await asyncio.gather(*(ana.post(f"{case}/reply", data=form) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {303}
    assert [reply.body for reply in site.replies()] == ["မင်္ဂလာပါ\nAna"]
    assert site.events("wage").count(("replied", "Ana")) == 1
    # The same key of somebody else, or in another case, is another message.
    other = f"/console/cases/{site.cases['mail']}"
    await ben.post(f"{other}/take")
    await ben.post(f"{other}/reply", data=form)
    assert len(site.replies()) == 2
    shown = (await ana.get(case)).text
    assert "<strong>Ana</strong>" in shown
    assert "on its way" in shown


async def test_two_counsellors_cannot_have_the_same_case(site: Site) -> None:
    ana, ben = await site.enter("ana"), await site.enter("ben")
    case = f"/console/cases/{site.cases['wage']}"
    first, second = await asyncio.gather(ana.post(f"{case}/take"), ben.post(f"{case}/take"))
    assert sorted([first.status_code, second.status_code]) == [303, 409]
    winner, loser = ("Ana", ben) if first.status_code == 303 else ("Ben", ana)
    refused = await loser.post(f"{case}/take")
    assert f"{winner} already has this case." in refused.text
    form = {"text": "my careful words", "key": "0123456789"}
    refused = await loser.post(f"{case}/reply", data=form)
    assert refused.status_code == 409
    assert f"{winner} has this case." in refused.text
    assert "my careful words</textarea>" in refused.text
    as_json = await loser.post(f"{case}/reply", data=form, headers={"accept": "application/json"})
    assert as_json.json() == {"error": f"{winner} has this case."}
    assert site.replies() == []


async def test_a_manager_frees_the_case_of_an_absent_colleague(site: Site) -> None:
    ana, ben, mia = [await site.enter(login) for login in ("ana", "ben", "mia")]
    case = f"/console/cases/{site.cases['wage']}"
    await ana.post(f"{case}/take")
    assert (await ben.post(f"{case}/put-back")).status_code == 409
    assert (await mia.post(f"{case}/put-back")).status_code == 303
    assert (await ben.post(f"{case}/take")).status_code == 303
    assert "Mia put the case back" in (await ben.get(case)).text


async def test_a_note_is_no_reply(site: Site) -> None:
    ben = await site.enter("ben")
    case = f"/console/cases/{site.cases['wage']}"
    answer = await ben.post(f"{case}/note", data={"text": "<u>seen before</u>"})
    assert answer.status_code == 303
    page = (await ben.get(case)).text
    assert re.search(r'<article class="note".*?&lt;u&gt;seen before&lt;/u&gt;', page, re.S)
    assert site.replies() == []


async def test_put_back_release_take_again_and_close(site: Site) -> None:
    ana = await site.enter("ana")
    case = f"/console/cases/{site.cases['wage']}"
    for step, status in (
        ("take", "claimed"),
        ("put-back", "waiting"),
        ("take", "claimed"),
        ("release", "released"),
        ("take", "claimed"),
    ):
        assert (await ana.post(f"{case}/{step}")).status_code == 303
        assert site.row("wage").status == status
    unsure = await ana.post(f"{case}/close", data={"outcome": "lost_contact"})
    assert "Confirm that the case is finished." in unsure.text
    wrong = await ana.post(f"{case}/close", data={"outcome": "won", "confirmed": "yes"})
    assert "Choose how the case ended." in wrong.text
    done = await ana.post(f"{case}/close", data={"outcome": "lost_contact", "confirmed": "yes"})
    assert done.headers["location"] == "/console/queue"
    assert site.row("wage").outcome == "lost_contact"
    assert "Contact lost" in (await ana.get(case)).text


async def test_a_failed_reply_says_why_and_can_be_sent_again(site: Site) -> None:
    ana, ben = await site.enter("ana"), await site.enter("ben")
    case = f"/console/cases/{site.cases['mail']}"
    await ana.post(f"{case}/take")
    await ana.post(f"{case}/reply", data={"text": "Olá", "key": "0123456789"})
    message = site.replies()[0].id

    def fail(session: Session) -> None:
        session.execute(
            update(Message)
            .where(Message.id == message)
            .values(state="kept", error="no relay is set up")
        )

    site.database.write_now(fail)
    page = (await ana.get(case)).text
    assert "kept, not sent: no relay is set up" in page
    assert f"/resend/{message}" in page
    assert f"/resend/{message}" not in (await ben.get(case)).text
    assert (await ben.post(f"{case}/resend/{message}")).status_code == 409
    assert (await ana.post(f"{case}/resend/{message}")).status_code == 303
    assert site.replies()[0].state == "queued"
    assert (await ana.post(f"{case}/resend/{message}")).status_code == 409


# -- files and channels ----------------------------------------------------------------------------

PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 64
EVIL = b"<html><script>alert(1)</script></html>"


async def test_a_reply_brings_files_and_only_the_case_opens_them(site: Site) -> None:
    ana, ben = await site.enter("ana"), await site.enter("ben")
    case = f"/console/cases/{site.cases['wage']}"
    await ana.post(f"{case}/take")
    files = [("files", ("form.png", PNG, "image/png")), ("files", ("<b>.html", EVIL, "image/png"))]
    form = {"text": "", "key": "0123456789"}
    assert (await ana.post(f"{case}/reply", data=form, files=files)).status_code == 303
    assert (await ana.post(f"{case}/reply", data=form, files=files)).status_code == 303
    assert len(site.replies()) == 1, "the same key is one reply"
    kept = [path for path in (site.folder / "media").rglob("*") if path.is_file()]
    assert len(kept) == 2
    assert all(PNG not in path.read_bytes() for path in kept), "encrypted"

    page = (await ana.get(case)).text
    picture, html = re.findall(rf'<a href="({case}/files/\d+)"[^>]*>(?:form|&lt;b)', page)
    shown = await ben.get(picture)
    assert (shown.content, shown.headers["content-type"]) == (PNG, "image/png")
    loaded = await ben.get(html)
    assert loaded.headers["content-type"] == "application/octet-stream"
    assert loaded.headers["content-disposition"].startswith("attachment")
    assert "sandbox" in loaded.headers["content-security-policy"]
    other = picture.replace(case, f"/console/cases/{site.cases['mail']}")
    assert (await ben.get(other)).status_code == 404
    assert "Ben opened a file" in (await ana.get(case)).text


async def test_a_file_that_is_too_big_is_refused_and_the_words_stay(site: Site) -> None:
    ana = await site.enter("ana")
    case = f"/console/cases/{site.cases['wage']}"
    await ana.post(f"{case}/take")
    files = [("files", ("ok.png", PNG)), ("files", ("big.bin", b"0" * 1_100_000))]
    answer = await ana.post(
        f"{case}/reply", data={"text": "See here", "key": "0123456789"}, files=files
    )
    assert answer.status_code == 409
    assert "at most 1 MB" in answer.text
    assert "See here" in answer.text
    assert [path for path in (site.folder / "media").rglob("*") if path.is_file()] == []


async def test_where_and_when_to_write(site: Site) -> None:
    ana = await site.enter("ana")
    case = f"/console/cases/{site.cases['wage']}"
    await ana.post(f"{case}/take")
    wrong = await ana.post(f"{case}/ways", data={"safe_from": "9", "safe_until": "x"})
    assert "Write times as 09:00." in wrong.text
    away = update(Conversation).values(heard_at=datetime.now(UTC) - timedelta(hours=1))
    site.database.write_now(lambda s: s.execute(away))
    form = {"safe_from": "00:00", "safe_until": "00:01"}
    assert (await ana.post(f"{case}/ways", data=form)).status_code == 303
    page = (await ana.get(case)).text
    assert 'value="00:00"' in page
    assert 'name="at_once"' in page
    await ana.post(f"{case}/reply", data={"text": "Held", "key": "0123456789"})
    assert "waits until it is safe" in (await ana.get(case)).text
    now_form = {"text": "Now", "key": "0123456780", "at_once": "yes"}
    await ana.post(f"{case}/reply", data=now_form)
    assert "waits until it is safe" not in (await ana.get(case)).text


async def test_what_was_taken_back_or_lost_is_told(site: Site) -> None:
    def change(session: Session) -> None:
        row = session.scalars(select(Message).where(Message.author == "worker")).all()
        row[0].kind, row[0].body = "withdrawn", ""
        row[1].kind, row[1].original, row[1].body = "place", "Osaka <1-2-3>", ""
        file = session.scalars(select(Media)).one()
        file.file, file.error = "", "gone"

    site.database.write_now(change)
    ana = await site.enter("ana")
    pages = [(await ana.get(f"/console/cases/{number}")).text for number in site.cases.values()]
    assert "(taken back by the worker)" in pages[0]
    assert "Osaka &lt;1-2-3&gt;" in pages[1]
    assert "not here: gone" in pages[2]


async def test_an_erased_worker_leaves_an_empty_case(site: Site) -> None:
    def forget(session: Session) -> None:
        [conversation] = site.desk.conversations_of(session, site.cases["danger"])
        site.desk.forget(session, conversation)

    site.database.write_now(forget)
    ana = await site.enter("ana")
    page = (await ana.get(f"/console/cases/{site.cases['danger']}")).text
    assert "had her data erased" in page
    assert "đánh" not in page
    assert "The desk closed the case" in page


# -- staff and drafts ------------------------------------------------------------------------------


async def test_an_account_is_made_and_its_password_shown_once(site: Site) -> None:
    root = await site.enter("root")
    form = {"login": "Zoe ", "name": "Zoë", "roles": ["counsellor"], "languages": ["my", "xx"]}
    page = (await root.post("/console/staff", data=form)).text
    found = re.search(r'<code class="secret">([0-9a-f-]{19})</code>', page)
    assert found
    assert found[1] not in (await root.get("/console/staff")).text
    browser = site.browser()
    start = await browser.get("/console/sign-in")
    entry = {"login": "zoe", "password": found[1], "csrf": token_of(start.text)}
    assert (await browser.post("/console/sign-in", data=entry)).status_code == 303
    again = await root.post("/console/staff", data=form)
    assert again.status_code == 422
    assert "The sign-in name zoe is taken." in again.text


async def test_whoever_leaves_is_signed_out_and_her_cases_wait_again(site: Site) -> None:
    ana, root = await site.enter("ana"), await site.enter("root")
    await ana.post(f"/console/cases/{site.cases['wage']}/take")
    assert (await root.post("/console/staff/1/deactivate")).status_code == 303
    assert (await ana.get("/console/queue")).status_code == 303
    assert site.row("wage").status == "waiting"
    last = await root.post("/console/staff/5/deactivate")
    assert last.status_code == 409
    assert "This is the last admin." in last.text


async def test_a_forgotten_password_is_replaced(site: Site) -> None:
    ana, root = await site.enter("ana"), await site.enter("root")
    page = (await root.post("/console/staff/1/password")).text
    assert re.search(r'<code class="secret">[0-9a-f-]{19}</code>', page)
    assert (await ana.get("/console/queue")).status_code == 303


async def test_drafts_by_language(site: Site) -> None:
    eva = await site.enter("eva")
    mine = (await eva.get("/console/drafts")).text  # she speaks Vietnamese
    assert "faq/a" in mine
    assert "faq/b" not in mine
    other = (await eva.get("/console/drafts?language=my")).text
    assert "faq/b" in other


# -- live ------------------------------------------------------------------------------------------


@asynccontextmanager
async def serving(site: Site) -> AsyncIterator[tuple[str, uvicorn.Server]]:
    """The console behind a real server: streams need one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(site.app, port=port, log_level="error"))
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port}", server
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, 10)


class Stream:
    """Reads a stream of events."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()

    async def next(self) -> tuple[str, str]:
        """The next event and its data."""
        event = ""
        while True:
            line = await asyncio.wait_for(anext(self._lines), 5)
            if line.startswith("event:"):
                event = line.removeprefix("event:").strip()
            if line.startswith("data:"):
                return event, line.removeprefix("data:").strip()


async def test_streams_wake_show_who_looks_and_end_with_the_session(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "TOGETHER", 0.01)
    ana, ben = await site.enter("ana"), await site.enter("ben")
    case = f"/console/cases/{site.cases['wage']}"
    headers = [{"cookie": f"desk_session={b.cookies['desk_session']}"} for b in (ana, ben)]
    async with (
        serving(site) as (base, _),
        httpx.AsyncClient(base_url=base, timeout=5) as client,
        client.stream("GET", f"{case}/stream", headers=headers[0]) as of_ana,
    ):
        mine = Stream(of_ana)
        assert await mine.next() == ("viewers", "[]")
        assert await mine.next() == ("look", "look")
        async with client.stream("GET", f"{case}/stream", headers=headers[1]) as of_ben:
            theirs = Stream(of_ben)
            assert await theirs.next() == ("viewers", json.dumps(["Ana"]))
            assert await theirs.next() == ("look", "look")
            assert await mine.next() == ("viewers", json.dumps(["Ben"]))
            await ana.post(f"{case}/take")
            assert (await theirs.next())[0] == "look"
            assert (await mine.next())[0] == "look"
        assert await mine.next() == ("viewers", "[]")
        await asyncio.to_thread(site.database.write_now, set_active, 1, False)
        await ben.post(f"{case}/note", data={"text": "wake"})
        assert (await mine.next())[0] == "gone"
    assert site.database._listeners == set()


async def test_the_server_stops_although_streams_are_open(site: Site) -> None:
    ana = await site.enter("ana")
    headers = {"cookie": f"desk_session={ana.cookies['desk_session']}"}
    async with (
        httpx.AsyncClient(timeout=15) as client,
        serving(site) as (base, server),
        client.stream("GET", f"{base}/console/queue/stream", headers=headers) as response,
    ):
        stream = Stream(response)
        assert await stream.next() == ("look", "look")
        server.should_exit = True
        with pytest.raises(StopAsyncIteration):
            await stream.next()


# -- languages -------------------------------------------------------------------------------------


async def test_the_console_speaks_japanese_and_remembers_it(site: Site) -> None:
    browser = site.browser(**{"accept-language": "fr, ja;q=0.8, en;q=0.5"})
    assert 'lang="ja"' in (await browser.get("/console/sign-in")).text
    switch = await browser.get("/console/language/en?next=/console/sign-in")
    assert switch.headers["location"] == "/console/sign-in"
    assert "Welcome to the desk" in (await browser.get("/console/sign-in")).text
    assert preferred("") == "en"
    assert preferred("de;q=1, ja-JP;q=0.9") == "ja"
    ana = await site.enter("ana", **{"accept-language": "ja"})
    for path in ("/queue", f"/cases/{site.cases['danger']}", "/drafts", "/password", "/nowhere"):
        page = (await ana.get(f"/console{path}")).text
        assert "相談デスク" in page
    ben = await site.enter("ben")
    case = f"/console/cases/{site.cases['wage']}"
    await ben.post(f"{case}/take")
    assert "この相談はすでにBenさんが担当しています。" in (await ana.post(f"{case}/take")).text


def test_japanese_is_complete() -> None:
    wanted = {entry.id for entry in collect() if entry.id}
    with (FOLDER / "console.pot").open("rb") as file:
        template = {entry.id for entry in read_po(file) if entry.id}
    with (FOLDER / "ja.po").open("rb") as file:
        japanese = {entry.id: entry for entry in read_po(file, locale="ja") if entry.id}
    remedy = "run `python -m handoff.console.collect` and translate what is new in ja.po"
    assert template == wanted, remedy
    assert set(japanese) == wanted, remedy
    for message, entry in japanese.items():
        strings = entry.string if isinstance(entry.string, tuple) else (entry.string,)
        source = message[0] if isinstance(message, tuple) else str(message)
        assert all(strings), remedy
        assert not entry.fuzzy, remedy
        holes = set(re.findall(r"%\(\w+\)s", source))
        for string in strings:
            assert set(re.findall(r"%\(\w+\)s", str(string))) == holes, source


def test_whatever_the_desk_refuses_is_known_in_japanese() -> None:
    said = set()
    for module in (calls_module, desk_module, staff_module):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in {"DeskError", "StaffError"}
            ):
                said.add(_shape(node.args[0]))
    known = {re.sub(r"%\(\w+\)s", "…", sentence) for sentence in REFUSALS}
    assert said == known
    japanese = translations()["ja"]
    error = str(DeskError("Zoë (a.k.a. Z) has this case."))
    assert translate_refusal(error, japanese) == "この相談はZoë (a.k.a. Z)さんが担当しています。"


def _shape(node: ast.expr) -> str:
    """A sentence of the source with … for what is filled in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values
        )
    assert isinstance(node, ast.Constant)
    return str(node.value)


def test_no_session_of_a_stranger_is_kept_in_clear(site: Site) -> None:
    with Session(site.database._reader) as session:
        assert all(len(row.token_hash) == 64 for row in session.scalars(select(StaffSession)))
