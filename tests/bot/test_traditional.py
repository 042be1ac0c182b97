"""Whoever writes traditional Chinese is answered in it, with published texts like all others."""

import re
from datetime import UTC, datetime
from typing import Any

import pytest

from bot.content import load_content
from bot.dialogue import Heard, Situation, decide
from config.settings import ROOT
from config.texts import PLACEHOLDER
from config.traditional import traditional
from nlu.risk import Risk
from nlu.understand import Understander, Understanding

LOADED = load_content(ROOT / "faq_data")
CONTENT = LOADED.content


@pytest.mark.parametrize(
    ("simplified", "expected"),
    [
        ("请问加班费怎么算", "請問加班費怎麼算"),
        ("去劳动基准监督署（労働基準監督署）", "去勞動基準監督署（労働基準監督署）"),
        ("国民年金（国民年金, Kokumin Nenkin）", "國民年金（国民年金, Kokumin Nenkin）"),
        ("先交押金（敷金 shikikin，会退）", "先交押金（敷金 shikikin，會退）"),
        ("粗大垃圾（粗大ごみ）", "粗大垃圾（粗大ごみ）"),
        ("写“{command_delete}”，网站 {url}", "寫“{command_delete}”，網站 {url}"),
        ("换签证种类", "換簽證種類"),
        ("LINE、电话", "LINE、電話"),
        ("", ""),
    ],
)
def test_characters_change_and_japanese_names_stay(simplified: str, expected: str) -> None:
    assert traditional(simplified) == expected


def test_every_chinese_text_has_its_traditional_twin() -> None:
    simplified = {t.id: t for t in CONTENT.all_texts.values() if t.language == "zh"}
    twins = {t.id: t for t in CONTENT.all_texts.values() if t.language == "zh-hant"}
    assert set(simplified) == set(twins)
    for name, text in simplified.items():
        twin = twins[name]
        assert sorted(PLACEHOLDER.findall(text.body)) == sorted(PLACEHOLDER.findall(twin.body))
        assert re.findall(r"\d", text.body) == re.findall(r"\d", twin.body)
        limit = 20 if name.startswith("button.") else 40 if name.endswith("/title") else 1200
        assert len(twin.body) <= limit
        assert twin in CONTENT.all_texts.values()


def test_the_source_of_an_answer_keeps_its_name() -> None:
    topic = LOADED.faq.topics["pension_lump_sum"]
    body = CONTENT.text("faq/pension_lump_sum", "zh-hant").body
    assert topic.sources[0].title in body
    assert "來源" in body


def test_commands_and_dates_are_traditional_too() -> None:
    texts = CONTENT.texts
    told = texts.params("zh-hant")["command_language"]
    assert told == "語言"
    assert all(texts.command(word) for word in texts.params("zh-hant").values())
    assert texts.when(datetime(2026, 11, 25, tzinfo=UTC), "zh-hant") == "11月25日(週三) 09:00"


def language_of(written: str, found: str = "zh", **situation: Any) -> str:
    understanding = Understanding(found, 0.95, (), Risk("none", (), ()), written=written)
    decision = decide(
        Heard("…"), understanding, Situation(**situation), CONTENT.library, CONTENT.limits
    )
    return decision.language


def test_the_conversation_follows_the_characters() -> None:
    assert language_of("zh-hant") == "zh-hant"
    assert language_of("") == "zh"
    assert language_of("", language="zh-hant") == "zh-hant"  # "你好" says nothing new
    assert language_of("zh", language="zh-hant") == "zh"
    assert language_of("zh-hant", language="vi") == "zh-hant"
    # The menu offers Chinese, not characters: her choice of it leaves them open.
    assert language_of("zh-hant", language="zh", language_chosen=True) == "zh-hant"
    assert language_of("zh-hant", language="vi", language_chosen=True) == "vi"
    assert language_of("", "ja", language="ja-easy") == "ja-easy"


async def test_the_program_still_calls_it_chinese() -> None:
    understander = Understander(LOADED.lexicon, LOADED.lexical, lambda: None)
    messages = ["老闆不給薪水怎麼辦", "ဒီလလစာ မေပးဘူး အလုပ္ရွင္က ပတ္စပို႔ယူထားတယ္"]
    chinese, burmese = await understander.understand(messages, ["zh-hant", None])
    assert (chinese.language, chinese.written, chinese.read) == ("zh", "zh-hant", "")
    assert burmese.language == "my"
    assert burmese.read == "ဒီလလစာ မပေးဘူး အလုပ်ရှင်က ပတ်စပို့ယူထားတယ်"
