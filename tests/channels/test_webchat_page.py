"""The web chat's page in Chromium, as a worker's phone has it, against the running desk."""

import asyncio
import hashlib
import io
import json
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route as WebRoute

from config.facts import load_facts
from config.texts import load_texts
from tests.channels.tables.webchat import PNG
from tests.channels.vendors import Vendor
from tests.stories.conftest import chromium
from tests.stories.running import RunningDesk

pytestmark = pytest.mark.browser

TEXTS = load_texts(load_facts())
PDF = b"%PDF-1.4\n" + bytes(range(256)) * 40
EVIL = '"><img src=x onerror=alert(1)>\u202efdp.pdf'


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDesk]:
    with RunningDesk(tmp_path_factory.mktemp("desk"), {"BOT_MEDIA_LIMIT_MB": "1"}) as running:
        yield running


class Phones:
    """Phones with the page open. Whatever goes wrong on a page fails the test."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.browser, self.url = browser, url
        self.faults: list[str] = []
        self.contexts: list[BrowserContext] = []

    def phone(self, mobile: bool = True, **options: Any) -> BrowserContext:
        size = {"width": 360, "height": 640} if mobile else {"width": 1280, "height": 800}
        context = self.browser.new_context(
            **{"viewport": size, "is_mobile": mobile, "has_touch": mobile, **options}
        )
        context.on("weberror", lambda error: self.faults.append(str(error.error)))
        context.on("console", lambda entry: self._hear(entry.text))
        context.on("dialog", lambda box: self._dialog(box))
        self.contexts.append(context)
        return context

    def _hear(self, text: str) -> None:
        if "Refused to" in text or "Content Security" in text:
            self.faults.append(text)

    def _dialog(self, box: Any) -> None:
        self.faults.append(f"a window said {box.message}")
        box.dismiss()

    def open(self, language: str = "en", path: str = "", **options: Any) -> Page:
        page = self.phone(**options).new_page()
        page.goto(path or f"{self.url}/chat?lang={language}")
        return page


@pytest.fixture
def phones(browser: Browser, desk: RunningDesk) -> Iterator[Phones]:
    opened = Phones(browser, desk.url)
    yield opened
    for context in opened.contexts:
        context.close()
    assert not opened.faults


def write(page: Page, text: str) -> None:
    page.locator("#input").fill(text)
    page.locator("#send").click()


def begin(page: Page, text: str = "hello") -> None:
    """Begin a conversation: she wrote, the desk answered."""
    write(page, text)
    expect(page.locator(".message.bot").first).to_be_visible(timeout=20_000)


def choose(page: Page, name: str, kind: str, data: bytes, by: str = "#file") -> None:
    page.set_input_files(by, {"name": name, "mimeType": kind, "buffer": data})


def log(page: Page) -> list[dict[str, Any]]:
    """What the desk has of this page's conversation."""
    token = page.evaluate("localStorage['chat.token']")
    url = page.url.partition("/chat")[0]
    answer = httpx.get(
        f"{url}/chat/messages", headers={"authorization": f"Bearer {token}"}, trust_env=False
    )
    listed: list[dict[str, Any]] = answer.json().get("messages", [])  # none: nothing sent yet
    return listed


def own(page: Page) -> list[dict[str, Any]]:
    return [m for m in log(page) if m["author"] == "worker"]


def until(check: Callable[[], Any], patience: float = 20) -> Any:
    """The first true value of a check."""
    deadline = time.monotonic() + patience
    while not (found := check()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def fetched(page: Page, file: dict[str, Any]) -> bytes:
    url = page.url.partition("/chat")[0]
    return httpx.get(url + file["url"], trust_env=False).content


def rows(desk: RunningDesk, query: str, *values: Any) -> list[Any]:
    database = sqlite3.connect(desk.data_dir / "desk.sqlite3")
    try:
        return database.execute(query, values).fetchall()
    finally:
        database.close()


# -- files -----------------------------------------------------------------------------------------


def test_a_picture_and_a_file_reach_the_desk(desk: RunningDesk, phones: Phones) -> None:
    page = phones.open()
    choose(page, "screen.png", "image/png", PNG)
    choose(page, EVIL, "application/pdf", PDF)
    expect(page.locator("#staged li")).to_have_count(2)
    expect(page.locator("#staged")).to_contain_text("onerror=alert(1)")
    write(page, "my payslip")
    expect(page.locator(".message.worker")).to_have_count(3)
    expect(page.locator("#staged")).to_be_hidden()
    until(lambda: len(own(page)) == 3)
    files = {file["media_type"]: file for m in own(page) for file in m["files"]}
    for kind, data in (("image/png", PNG), ("application/pdf", PDF)):
        kept = fetched(page, files[kind])
        assert hashlib.sha256(kept).hexdigest() == hashlib.sha256(data).hexdigest()
    assert files["application/pdf"]["name"].startswith('"><img src=x onerror')
    expect(page.locator("a.file")).to_be_visible()
    page.reload()  # now everything comes from the desk
    picture = page.locator(".picture img")
    expect(picture).to_be_visible()
    until(lambda: picture.evaluate("image => image.naturalWidth") == 1)
    with page.expect_download() as saving:
        page.locator("a.file").click()
    assert Path(saving.value.path()).read_bytes() == PDF
    assert page.url.endswith("?lang=en")
    picture.click()
    expect(page.locator("#picture")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#picture")).to_be_hidden()

    console = phones.phone(mobile=False, locale="en-GB").new_page()
    console.goto(f"{desk.url}/console")
    console.locator("input[name=login]").fill("admin")
    console.locator("input[name=password]").fill(desk.password())
    console.locator("form button").first.click()
    reference = until(
        lambda: re.findall("[0-9A-Z]{3}-[0-9A-Z]{3}", "".join(m["text"] for m in log(page)))
    )[-1]
    console.get_by_text(reference).first.click()
    expect(console.get_by_text("screen.png").first).to_be_visible()
    expect(console.get_by_text("onerror=alert(1)").first).to_be_visible()


def test_a_photo_becomes_small_and_loses_its_place(phones: Phones) -> None:
    image = Image.effect_noise((2000, 3000), 40).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    exif.get_ifd(0x8825)[1] = "N"  # GPS
    written = io.BytesIO()
    image.save(written, "JPEG", quality=90, exif=exif)
    page = phones.open()
    choose(page, "IMG_0001.JPG", "image/jpeg", written.getvalue(), "#camera")
    expect(page.locator("#send")).to_be_enabled()
    page.locator("#send").click()
    [message] = until(lambda: own(page))
    kept = fetched(page, message["files"][0])
    opened = Image.open(io.BytesIO(kept))
    assert opened.size == (1600, 1067), "not small, or not upright"
    assert not opened.getexif()
    assert message["files"][0]["name"] == "IMG_0001.jpg"


def test_the_camera_is_offered_on_a_phone(phones: Phones) -> None:
    page = phones.open()
    camera = page.locator("#camera")
    assert camera.get_attribute("accept") == "image/*"
    assert camera.get_attribute("capture") == "environment"
    page.locator("#more").click()
    with page.expect_file_chooser() as chooser:
        page.locator("#take").click()
    assert chooser.value.element.get_attribute("id") == "camera"
    desktop = phones.open(mobile=False)
    desktop.locator("#more").click()
    expect(desktop.locator("#choose")).to_be_visible()
    expect(desktop.locator("#take")).to_be_hidden()


def test_a_wrong_file_is_taken_away_before_it_is_sent(phones: Phones) -> None:
    page = phones.open()
    choose(page, "wrong.pdf", "application/pdf", PDF)
    choose(page, "right.pdf", "application/pdf", PDF)
    page.get_by_role("button", name="Remove: wrong.pdf").click()
    page.locator("#send").click()
    until(lambda: own(page))
    assert [m["files"][0]["name"] for m in own(page)] == ["right.pdf"]


@pytest.mark.parametrize(
    ("size", "text"), [(1_048_577, "webchat.file_big"), (0, "webchat.file_refused")]
)
def test_what_cannot_be_taken_is_said_in_her_language(phones: Phones, size: int, text: str) -> None:
    page = phones.open("my")
    choose(page, "film.mp4", "video/mp4", b"x" * size)
    words = TEXTS(text, "my").body.replace("{limit}", "1")
    expect(page.get_by_role("status").filter(has_text=words)).to_be_visible()
    expect(page.locator("#send")).to_be_disabled()


@pytest.mark.parametrize(
    ("status", "text"),
    [(413, "webchat.file_big"), (422, "webchat.file_refused"), (429, "webchat.file_many")],
)
def test_a_refused_file_is_said_and_can_be_taken_back(
    phones: Phones, status: int, text: str
) -> None:
    """A proxy with a smaller limit answers in HTML."""
    page = phones.open("ne")
    page.route("**/chat/files", lambda route: route.fulfill(status=status, body="<html>"))
    choose(page, "a.pdf", "application/pdf", PDF)
    page.locator("#send").click()
    words = TEXTS(text, "ne").body.replace("{limit}", "1")
    expect(page.locator(".message.failed .reason")).to_have_text(words)
    page.reload()
    expect(page.locator(".message.failed .reason")).to_have_text(words)
    page.get_by_role("button", name=TEXTS("webchat.remove", "ne").body).click()
    expect(page.locator(".message")).to_have_count(0)
    assert outbox(page) == ([], 0)


def outbox(page: Page) -> tuple[list[str], int]:
    """What waits on the phone: names in localStorage, files in IndexedDB."""
    names = page.evaluate("Object.keys(localStorage).filter((n) => n.indexOf('chat.out.') === 0)")
    files = page.evaluate(
        """() => new Promise((done) => {
          const opening = indexedDB.open('chat', 1);
          opening.onupgradeneeded = () => opening.result.createObjectStore('files');
          opening.onsuccess = () => {
            const asked = opening.result.transaction('files').objectStore('files').getAllKeys();
            asked.onsuccess = () => { opening.result.close(); done(asked.result.length); };
          };
        })"""
    )
    return names, files


# -- a bad line ------------------------------------------------------------------------------------


def test_what_was_written_offline_arrives_once(phones: Phones) -> None:
    page = phones.open("vi")
    begin(page)
    page.context.set_offline(True)
    write(page, "khi không có mạng")
    choose(page, "luong.pdf", "application/pdf", PDF)
    page.locator("#send").click()
    waiting = TEXTS("webchat.waiting", "vi").body
    states = page.locator(".state").filter(has_text=waiting)
    expect(states).to_have_count(1)  # once, under the last one
    page.context.set_offline(False)
    expect(states).to_have_count(0, timeout=20_000)
    until(lambda: len(own(page)) == 3)
    assert [m["text"] for m in own(page)].count("khi không có mạng") == 1
    [kept] = [file for m in own(page) for file in m["files"]]
    assert fetched(page, kept) == PDF
    until(lambda: outbox(page) == ([], 0))


def test_a_reload_in_a_dead_spot_loses_neither_words_nor_files(phones: Phones) -> None:
    page = phones.open()
    begin(page)
    page.route(re.compile("/chat/(messages|files)$"), lambda route: route.abort())
    write(page, "before the reload")
    choose(page, "payslip.pdf", "application/pdf", PDF)
    page.locator("#send").click()
    until(lambda: outbox(page)[1] == 1)
    page.reload()
    expect(page.get_by_text("before the reload")).to_be_visible()
    expect(page.get_by_text("payslip.pdf")).to_be_visible()
    page.unroute_all()
    page.evaluate("window.dispatchEvent(new Event('online'))")
    until(lambda: len(own(page)) == 3)
    [kept] = [file for m in own(page) for file in m["files"]]
    assert fetched(page, kept) == PDF
    expect(page.locator(".message.worker")).to_have_count(3)


def test_a_lost_answer_makes_no_second_message(phones: Phones) -> None:
    """The desk took it, and the line broke before the page heard so."""
    page = phones.open()
    begin(page)
    lost: list[int] = []

    def lose(route: Route) -> None:
        lost.append(route.fetch().status)
        route.abort()

    page.route(re.compile("/chat/(messages|files)$"), lose, times=2)
    write(page, "once only")
    choose(page, "once.pdf", "application/pdf", PDF)
    page.locator("#send").click()
    until(lambda: outbox(page) == ([], 0))
    assert lost == [202, 202]
    expect(page.locator(".message.worker")).to_have_count(3)
    assert len(own(page)) == 3


def test_a_desk_that_is_killed_and_comes_back(browser: Browser, tmp_path: Path) -> None:
    with RunningDesk(tmp_path / "desk") as mortal:
        phones = Phones(browser, mortal.url)
        page = phones.open()
        begin(page)
        mortal.kill()
        write(page, "while the desk was down")
        choose(page, "down.pdf", "application/pdf", PDF)
        page.locator("#send").click()
        expect(page.locator(".message.waiting")).to_have_count(2)
        mortal.start()
        until(lambda: outbox(page) == ([], 0), 60)
        promise = page.locator(".message.bot").filter(has_text="counsellor")
        expect(promise.last).to_be_visible(timeout=60_000)
        assert [m["text"] for m in own(page) if not m["files"]] == [
            "hello",
            "while the desk was down",
        ]
        assert len(own(page)) == 3
        phones.contexts[0].close()
    assert not phones.faults


def test_words_do_not_wait_for_a_picture(phones: Phones) -> None:
    page = phones.open()
    begin(page)
    page.route("**/chat/files", lambda _: None)  # never answered
    choose(page, "slow.pdf", "application/pdf", PDF)
    page.locator("#send").click()
    write(page, "he locked me in")
    until(lambda: [m["text"] for m in own(page)] == ["hello", "he locked me in"])
    page.get_by_role("button", name="Remove: slow.pdf").click()
    expect(page.get_by_text("slow.pdf")).to_have_count(0)
    until(lambda: outbox(page) == ([], 0))


def test_words_survive_a_conversation_that_the_desk_has_erased(phones: Phones) -> None:
    page = phones.open()
    begin(page)
    page.evaluate("localStorage['chat.token'] = 'x'.repeat(32)")
    page.reload()
    page.locator("#input").fill("still here")
    choose(page, "still.pdf", "application/pdf", PDF)
    page.locator("#send").click()
    until(lambda: outbox(page) == ([], 0))
    assert [m["text"] for m in own(page) if not m["files"]] == ["still here"]
    assert len(own(page)) == 2


def test_quick_replies_are_buttons_that_answer(phones: Phones) -> None:
    page = phones.open("en")
    begin(page, "my company does not pay my wages")
    replies = page.locator("#replies button")
    expect(replies.first).to_be_visible()
    label = replies.first.inner_text()
    replies.first.click()
    expect(page.locator(".message.worker").last).to_contain_text(label)
    until(lambda: own(page)[-1]["text"] == label)


# -- read, typing ----------------------------------------------------------------------------------


def states(desk: RunningDesk, page: Page) -> list[str]:
    ids = [str(m["id"]) for m in log(page) if m["author"] == "bot"]
    wanted = f"select state from message where id in ({','.join(ids)}) order by id"
    return [state for (state,) in rows(desk, wanted)]


def test_what_was_on_the_screen_is_marked_as_read(desk: RunningDesk, phones: Phones) -> None:
    page = phones.open("vi", viewport={"width": 360, "height": 420})
    begin(page, "Công ty nợ lương tôi hai tháng, tôi phải làm gì?")
    until(lambda: "read" in states(desk, page))
    assert states(desk, page)[-1] == "sent", "the end of a long answer is below the screen"
    page.evaluate("document.getElementById('scroll').scrollTop = 1e6")
    until(lambda: set(states(desk, page)) == {"read"})


def test_a_page_that_nobody_looks_at_reads_nothing(desk: RunningDesk, phones: Phones) -> None:
    context = phones.phone()
    context.add_init_script(
        "Object.defineProperty(document, 'hidden', { get: () => window.away });"
    )
    context.add_init_script("window.away = true;")
    page = context.new_page()
    page.clock.install()
    page.goto(f"{desk.url}/chat?lang=en")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    begin(page)
    page.clock.fast_forward(5000)
    write(page, "human")  # the mark of the first answer would have come before
    until(lambda: len(states(desk, page)) >= 3)
    expect(page.locator(".message.bot")).to_have_count(len(states(desk, page)))
    assert set(states(desk, page)) == {"sent"}
    assert not [url for url in asked if url.endswith("/chat/read")]
    assert "New message" in page.title()
    page.evaluate("window.away = false; document.dispatchEvent(new Event('visibilitychange'))")
    until(lambda: "read" in states(desk, page))
    assert page.title() == "Messages"


def test_dots_are_shown_while_an_answer_is_made(browser: Browser, tmp_path: Path) -> None:
    """Rasa takes its time: as long as the test wants."""
    done = threading.Event()

    async def model(_: Request) -> Response:
        return JSONResponse({"model": "slow"})

    async def batch(_: Request) -> Response:
        await asyncio.to_thread(done.wait, 9)
        return Response(status_code=503)

    routes = [
        WebRoute("/webhooks/understand/model", model),
        WebRoute("/webhooks/understand/batch", batch, methods=["POST"]),
    ]
    with Vendor(routes) as rasa:
        settings = {"BOT_RASA": "true", "BOT_RASA_URL": rasa.url}
        with RunningDesk(tmp_path / "desk", settings) as slow:
            slow.wait_ready(60)
            opened = Phones(browser, slow.url)
            page = opened.open()
            write(page, "hello")
            expect(page.locator("#typing")).to_be_visible(timeout=20_000)
            done.set()
            expect(page.locator(".message.bot").first).to_be_visible(timeout=20_000)
            expect(page.locator("#typing")).to_be_hidden()
            opened.contexts[0].close()
    assert not opened.faults


# -- another device, and leaving -------------------------------------------------------------------


def resume_link(page: Page, desk: RunningDesk) -> str:
    page.locator("#more").click()
    page.locator("#move").click()
    expect(page.locator("#code")).to_be_visible()
    assert page.locator("#code").evaluate("image => image.naturalWidth") > 20
    url = page.locator("#address").input_value()
    assert url.startswith(f"{desk.url}/chat?lang=en#resume=")
    return url


def test_a_link_goes_on_on_another_phone(desk: RunningDesk, phones: Phones) -> None:
    first = phones.open()
    begin(first)
    url = resume_link(first, desk)
    second = phones.open(path=url)
    expect(second.get_by_text("hello", exact=True)).to_be_visible()
    assert second.url == f"{desk.url}/chat?lang=en", "the secret is still in the address"
    opened = TEXTS("webchat.opened", "en").body
    expect(first.get_by_role("status").filter(has_text=opened)).to_be_visible()
    expect(first.locator("#code")).to_be_hidden()
    write(second, "from the second phone")
    expect(first.get_by_text("from the second phone")).to_be_visible()
    write(first, "from the first phone")
    expect(second.get_by_text("from the first phone")).to_be_visible()

    third = phones.open(path=url)  # somebody else finds the link
    expired = TEXTS("webchat.resume_expired", "en").body
    expect(third.get_by_role("status").filter(has_text=expired)).to_be_visible()
    expect(third.get_by_text("hello", exact=True)).to_have_count(0)
    begin(third, "a new conversation")
    assert [m["text"] for m in own(third)] == ["a new conversation"]
    assert [m["text"] for m in own(first)].count("a new conversation") == 0


def test_a_link_opened_in_a_page_with_another_conversation(
    desk: RunningDesk, phones: Phones
) -> None:
    """A shared phone: what somebody else wrote and could not send goes to their conversation."""
    hers = phones.open()
    begin(hers, "of Mai")
    url = resume_link(hers, desk)
    shared = phones.open()
    begin(shared, "of Nir")
    token = shared.evaluate("localStorage['chat.token']")
    shared.route("**/chat/messages", lambda route: route.abort())
    write(shared, "not sent yet, of Nir")
    shared.evaluate("(hash) => { location.hash = hash; }", url.partition("#")[2])
    expect(shared.get_by_text("of Mai")).to_be_visible()
    expect(shared.get_by_text("of Nir")).to_have_count(0)
    shared.unroute_all()
    shared.evaluate("window.dispatchEvent(new Event('online'))")
    until(lambda: not outbox(shared)[0])
    assert [m["text"] for m in own(shared)] == ["of Mai"]
    answer = httpx.get(
        f"{desk.url}/chat/messages", headers={"authorization": f"Bearer {token}"}, trust_env=False
    )
    texts = [m["text"] for m in answer.json()["messages"] if m["author"] == "worker"]
    assert texts == ["of Nir", "not sent yet, of Nir"]


def test_a_code_in_the_address_is_sent_as_a_choice(desk: RunningDesk, phones: Phones) -> None:
    page = phones.open(path=f"{desk.url}/chat?lang=en#link=12345678")
    [message] = until(lambda: own(page))
    assert message["text"] == "12345678"
    wanted = "select choice from message where id = ?"
    assert rows(desk, wanted, message["id"]) == [("/link 12345678",)]
    assert page.url == f"{desk.url}/chat?lang=en"
    page.reload()
    expect(page.locator(".message.bot").first).to_be_visible()
    assert len(own(page)) == 1


def test_leaving_leaves_nothing_on_the_phone(desk: RunningDesk, phones: Phones) -> None:
    context = phones.phone()
    context.route("**/chat/files", lambda route: route.abort())  # a file still waits
    page, tab = context.new_page(), context.new_page()
    page.goto("about:blank")
    page.goto(f"{desk.url}/chat?lang=en")
    begin(page, "a secret")
    choose(page, "secret.pdf", "application/pdf", PDF)
    page.locator("#send").click()
    until(lambda: outbox(page)[1] == 1)
    page.locator("#input").fill("half a secret")
    tab.goto(f"{desk.url}/chat?lang=en")
    expect(tab.get_by_text("a secret")).to_be_visible()
    page.locator("#leave").click()
    page.locator("#go").click()
    for one in (page, tab):  # the other tab leaves as well
        one.wait_for_url("**/chat/left")
        assert one.title() == "-"
    left = "[JSON.stringify(localStorage), JSON.stringify(sessionStorage), document.cookie]"
    assert page.evaluate(left) == ["{}", "{}", ""]
    assert page.evaluate("indexedDB.databases()") == []
    assert page.evaluate("caches.keys()") == []
    page.go_back()
    assert page.url == "about:blank", "the conversation is still in the history"
    page.goto(f"{desk.url}/chat?lang=en")
    expect(page.locator("#intro")).to_be_visible()
    expect(page.locator(".message")).to_have_count(0)
    assert page.locator("#input").input_value() == ""


# -- the page itself -------------------------------------------------------------------------------


@pytest.mark.parametrize("language", list(TEXTS.languages))
def test_title_and_reach_of_the_page(phones: Phones, language: str) -> None:
    """Neutral in the list of tabs; every button has a name and is big enough for a thumb."""
    page = phones.open(language)
    names = {name for name, _ in TEXTS.texts if name.startswith("webchat.")}
    assert page.title() == TEXTS("webchat.title", language).body
    for name in ("webchat.heading", "webchat.desk", "webchat.counsellor"):
        assert TEXTS(name, language).body not in page.title()
    assert page.locator("html").get_attribute("lang") == {"zh": "zh-Hans"}.get(language, language)
    page.locator("#more").click()
    buttons = page.locator("button:visible, select:visible, textarea:visible, a:visible")
    assert buttons.count() > 8
    for number in range(buttons.count()):
        button = buttons.nth(number)
        name = button.evaluate("n => n.getAttribute('aria-label') || n.textContent.trim()")
        assert name, button.evaluate("n => n.outerHTML")
        box = button.bounding_box()
        assert box is not None
        assert box["width"] >= 48, name
        assert box["height"] >= 48, name
        assert box["x"] >= 0, name
        assert box["x"] + box["width"] <= 360, name
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    shown = json.loads(page.locator("#texts").inner_text())
    assert {f"webchat.{name}" for name in shown[language]} == names


def test_keyboard_and_screen_reader(phones: Phones) -> None:
    page = phones.open(mobile=False)
    begin(page)
    expect(page.locator("#input")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    expect(page.locator("#more")).to_be_focused()
    page.keyboard.press("Enter")
    assert page.locator("#more").get_attribute("aria-expanded") == "true"
    page.keyboard.press("Escape")
    assert page.locator("#more").get_attribute("aria-expanded") == "false"
    page.locator("#leave").focus()
    page.keyboard.press("Enter")
    question = TEXTS("webchat.leave_confirm", "en").body
    window = page.get_by_role("dialog", name=question)
    expect(window).to_be_visible()
    for _ in range(5):  # the focus stays inside
        page.keyboard.press("Tab")
        assert window.evaluate("w => w.contains(document.activeElement)")
    page.keyboard.press("Escape")
    expect(window).to_be_hidden()
    expect(page.locator("#leave")).to_be_focused()
    expect(page.get_by_role("log", name="Messages")).to_be_visible()


def test_burmese_and_nepali_have_their_fonts_and_room(phones: Phones) -> None:
    """Also on a page in another language: her words and the input."""
    for words, font, room in (
        ("ကုမ္ပဏီက လစာ မပေးဘူး", "Noto Sans Myanmar", 1.7),
        ("कम्पनीले तलब दिएन", "Noto Sans Devanagari", 1.55),
    ):
        page = phones.open("en")
        page.locator("#input").fill(words)
        write(page, words)
        text = page.locator(".message.worker .text").first
        expect(text).to_have_text(words)
        style = text.evaluate(
            "n => ['fontFamily', 'lineHeight', 'fontSize'].map((k) => getComputedStyle(n)[k])"
        )
        assert font in style[0]
        assert float(style[1][:-2]) / float(style[2][:-2]) >= room


def test_inside_another_page(desk: RunningDesk, phones: Phones) -> None:
    """The embedding page is of another origin, and the phone keeps nothing for frames."""

    async def site(_: Request) -> Response:
        script = f'<script src="{desk.url}/chat/embed.js" data-lang="vi"></script>'
        return HTMLResponse(f"<!doctype html><title>NGO</title><p>Hello</p>{script}")

    with Vendor([WebRoute("/", site)]) as ngo:
        url = ngo.url.replace("127.0.0.1", "localhost")
        context = phones.phone()
        context.add_init_script(
            "if (window.parent !== window) for (const name of ['localStorage', 'indexedDB'])"
            "Object.defineProperty(window, name, { get() { throw new Error('shut'); } });"
        )
        page = context.new_page()
        page.goto(url)
        page.get_by_role("button", name=TEXTS("webchat.open", "vi").body).click()
        frame = page.frame_locator("iframe")
        frame.locator("#input").fill("xin chào")
        frame.locator("#send").click()
        expect(frame.locator(".message.bot").first).to_be_visible(timeout=20_000)
        page.frames[1].set_input_files(
            "#file", {"name": "luong.png", "mimeType": "image/png", "buffer": PNG}
        )
        with page.expect_response("**/chat/files") as answer:
            frame.locator("#send").click()
        assert answer.value.status == 202
        expect(frame.locator(".message.worker .picture")).to_be_visible()
        frame.locator("#leave").click()
        frame.locator("#go").click()
        expect(page.locator("iframe")).to_have_count(0)
