"""The main job, end to end, with the real Rasa: from a worker's message to a person's answer."""

import functools
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect

from bot.content import Loaded, load_content
from config.settings import ROOT
from tests.stories.running import Chat, RunningDesk

pytestmark = pytest.mark.rasa


def test_a_question_in_vietnamese_is_answered_with_its_source(rasa_desk: RunningDesk) -> None:
    chat = Chat(rasa_desk, "vi")
    said = chat.ask("cty nợ lương e 2 tháng nay r, phải làm sao ạ", at_least=3)
    answer = said[2]
    assert answer["language"] == "vi"
    assert "Nguồn" in answer["text"]
    assert [b["value"] for b in answer["buttons"]] == ["/human", "/helpful"]


@pytest.mark.parametrize(
    ("question", "language", "topic"),
    [
        ("kyuryo moraenai dousureba ii", "ja", "wage_unpaid"),
        ("会社がパスポートを返してくれません", "ja", "passport_taken"),
        ("cong ty khong tra luong cho toi 3 thang roi", "vi", "wage_unpaid"),
        ("boss say I am fired tomorrow, is it ok", "en", "dismissal"),
        ("how do I extend my visa", "en", "residence_renewal"),
    ],
)
def test_topics_are_recognised(
    rasa_desk: RunningDesk, question: str, language: str, topic: str
) -> None:
    chat = Chat(rasa_desk, language)
    title = _title(topic, language)
    said = chat.ask(question, at_least=2)
    texts = [m["text"] for m in said] + [b["label"] for m in said for b in m["buttons"]]
    answer = _answer(topic, language)
    assert any(answer[:40] in text or title == text for text in texts), texts


def test_who_is_not_understood_gets_a_person(rasa_desk: RunningDesk) -> None:
    """A guess, one request to say it otherwise, then a person: never a circle."""
    chat = Chat(rasa_desk, "en")
    chat.ask("hello", at_least=3)
    said: list[str] = []
    for text in ("qwrt zxcv plmk", "zzz kkk vvv bnm", "wx wx wx qq"):
        said += [m["text"] for m in chat.ask(text)]
    assert any(re.search(r"[0-9A-Z]{3}-[0-9A-Z]{3}", text) for text in said), said


def test_danger_is_answered_at_once_and_opens_one_case(rasa_desk: RunningDesk) -> None:
    before = rasa_desk.state()["cases"].get("waiting", 0)
    chat = Chat(rasa_desk, "en")
    said = chat.ask("my boss locked me in the room and says he will kill me", at_least=2)
    assert "110" in said[0]["text"]
    chat.write("he will kill me")
    time.sleep(1)
    assert rasa_desk.state()["cases"]["waiting"] == before + 1


def test_understanding_a_file_of_messages(rasa_desk: RunningDesk) -> None:
    """`bot understand --jsonl`: one JSON object a line, whatever the line."""
    lines = ["tôi bị nợ lương", "", "x" * 10_000, "I want to die", "월급", '{"a": 1}', "\x00\ud7ff"]
    settings = {"BOT_DATA_DIR": str(rasa_desk.data_dir), "BOT_RASA_DIR": str(ROOT / "var")}
    ran = subprocess.run(
        [sys.executable, "-m", "bot", "understand", "--jsonl"],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **settings},
        check=True,
        timeout=600,
    )
    rows = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [row["text"] for row in rows] == lines
    keys = {"text", "language", "language_confidence", "topic", "confidence", "topics", "risk",
            "risk_types", "action"}  # fmt: skip
    assert all(set(row) == keys for row in rows)
    assert (rows[0]["language"], rows[0]["topic"]) == ("vi", "wage_unpaid")
    assert (rows[3]["risk"], rows[3]["action"]) == ("emergency", "emergency")
    assert rows[4]["language"] == "ko"
    assert all(0 <= sure <= 1 for row in rows for _, sure in row["topics"])


def test_rasa_dies_and_comes_back_without_anyone(rasa_desk: RunningDesk) -> None:
    children = Path(f"/proc/{rasa_desk.process.pid}/task").glob("*/children")  # type: ignore[union-attr]
    pids = [int(pid) for path in children for pid in path.read_text().split()]
    assert pids
    for pid in pids:
        os.kill(pid, 9)
    chat = Chat(rasa_desk, "en")
    assert chat.ask("I want to die", at_least=2)[0]["text"].startswith("I am glad")
    rasa_desk.wait_ready(300)
    assert "Source:" in "".join(m["text"] for m in chat_answer(rasa_desk))


def chat_answer(desk: RunningDesk) -> list[dict[str, str]]:
    return Chat(desk, "en").ask("my company did not pay my salary for two months", at_least=3)


@pytest.mark.browser
def test_worker_and_counsellor_in_the_browser(rasa_desk: RunningDesk, browser: Browser) -> None:
    """She asks in Vietnamese, gets an answer, asks for a person; a counsellor replies."""
    worker = browser.new_context(viewport={"width": 360, "height": 640}, locale="vi-VN").new_page()
    faults: list[str] = []
    worker.on("pageerror", lambda error: faults.append(str(error)))
    worker.goto(f"{rasa_desk.url}/chat")
    box = worker.get_by_role("textbox")
    box.fill("Công ty nợ lương tôi hai tháng, tôi phải làm gì?")
    worker.get_by_role("button", name="Gửi").click()
    expect(worker.get_by_text("Nguồn:")).to_be_visible(timeout=20_000)
    worker.get_by_role("button", name="Gặp người thật").last.click()
    number = re.compile("Số của bạn là ([0-9A-Z]{3}-[0-9A-Z]{3})")
    promise = worker.get_by_text(number).last
    expect(promise).to_be_visible(timeout=20_000)
    [reference] = number.findall(promise.inner_text())

    counsellor = browser.new_context(locale="en-GB", viewport={"width": 1280, "height": 900})
    desk = counsellor.new_page()
    desk.on("pageerror", lambda error: faults.append(str(error)))
    desk.goto(f"{rasa_desk.url}/console")
    desk.locator("input[name=login]").fill("admin")
    desk.locator("input[name=password]").fill(rasa_desk.password())
    desk.locator("form button").first.click()
    desk.get_by_text(reference).first.click()
    expect(desk.get_by_text("Công ty nợ lương tôi hai tháng")).to_be_visible()
    desk.get_by_role("button", name=re.compile("Take", re.I)).first.click()
    reply = desk.locator("textarea[name=text]").first
    expect(reply).to_be_visible()
    reply.fill("Chào bạn, tôi là Hoa. Bạn có bảng lương không?")
    reply.press("Control+Enter")
    expect(worker.get_by_text("tôi là Hoa")).to_be_visible(timeout=20_000)

    box.fill("Dạ em có, em gửi sau ạ")
    worker.get_by_role("button", name="Gửi").click()
    expect(desk.get_by_text("Dạ em có, em gửi sau ạ")).to_be_visible(timeout=20_000)
    pictures = os.environ.get("BOT_TEST_PICTURES")
    if pictures:  # for the README
        worker.set_viewport_size({"width": 400, "height": 1640})
        worker.screenshot(path=f"{pictures}/chat.png")
        desk.screenshot(path=f"{pictures}/console.png")
    assert not faults


def test_probes_and_metrics(rasa_desk: RunningDesk) -> None:
    assert httpx.get(f"{rasa_desk.url}/healthz", trust_env=False).json() == {"status": "alive"}
    metrics = httpx.get(f"{rasa_desk.url}/metrics", trust_env=False).text
    assert 'desk_messages_total{channel="webchat",duplicate="false"}' in metrics
    assert "desk_turns_total" in metrics


def _title(topic: str, language: str) -> str:
    return _loaded().content.text(f"faq/{topic}/title", language).body


def _answer(topic: str, language: str) -> str:
    return _loaded().content.text(f"faq/{topic}", language).body


@functools.cache
def _loaded() -> Loaded:
    return load_content(ROOT / "faq_data")
