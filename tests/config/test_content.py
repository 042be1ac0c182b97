"""Content files: the shipped ones are right, and every mistake is named with file, key, remedy."""

import re
import shutil
from pathlib import Path

import pytest

from bot.app import CHANNEL_SETTINGS
from bot.content import Loaded, load_content
from config.content import ContentError, read_yaml
from config.facts import CONFIG, load_facts
from config.settings import ROOT, Settings, SettingsError, describe, load, load_settings
from config.texts import load_texts
from nlu.faq import load_faq

TEN = ("ja", "en", "zh", "pt", "es", "vi", "id", "my", "tl", "ne")


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load_content(ROOT / "faq_data")


def test_every_text_of_the_desk_is_in_all_ten_languages(loaded: Loaded) -> None:
    texts = loaded.content.texts
    assert tuple(texts.languages) == TEN
    ids = {text_id for text_id, _ in texts.texts}
    assert {(i, code) for i in ids for code in TEN} <= set(texts.texts)


def test_every_topic_is_answered_in_ten_languages_and_easy_japanese(loaded: Loaded) -> None:
    assert len(loaded.faq.topics) == 61
    for topic in loaded.faq.topics.values():
        assert {*TEN, "ja-easy"} <= set(topic.editions), topic.id
        for code in TEN:
            taught = sum(i == f"faq/{topic.id}" and c == code for i, c, _ in loaded.faq.examples)
            assert taught >= 8, (topic.id, code)
            assert topic.editions[code].sms, (topic.id, code)


def test_every_answer_names_its_source_and_date(loaded: Loaded) -> None:
    for topic in loaded.faq.topics.values():
        for language in topic.editions:
            text = loaded.content.text(f"faq/{topic.id}", language).body
            assert topic.sources[0].title in text
            assert str(topic.updated.year) in text


def test_telephone_numbers_come_from_the_directory_only(loaded: Loaded) -> None:
    """No number is typed into an answer: {tel:…} is, so that one correction reaches all."""
    numbers = {w.number for w in loaded.facts.directory.values() if len(w.number) > 6}
    for path in (ROOT / "faq_data" / "topics").glob("*.yaml"):
        assert not [n for n in numbers if n in path.read_text("utf-8")], path.name
    for path in (CONFIG / "locale" / "desk").iterdir():
        assert not [n for n in numbers if n in path.read_text("utf-8")], path.name


def test_no_example_stands_under_two_intents(loaded: Loaded) -> None:
    seen: dict[str, str] = {}
    for intent, _, text in loaded.faq.examples:
        assert seen.setdefault(text.casefold(), intent) == intent, text


def test_drafts_are_shown_as_drafts(loaded: Loaded) -> None:
    ids = {row["id"] for row in loaded.drafts()}
    assert "faq/wage_unpaid" in ids
    assert "emergency.suicide" in ids


BROKEN_TOPICS = [
    ("id: other\n", "id"),
    ("category: []\n", "category"),
    ("updated: soon\n", "updated"),
    ("sources: []\n", "sources"),
    ("languages:\n  xx: {title: t, answer: a}\n", "languages.xx"),
    ("languages:\n  en: {title: t, answer: a, examples: [a]}\n", "languages.en.examples"),
    ("languages:\n  en: {title: t, answer: '{tel:nobody}'}\n", "{tel:nobody}"),
    ("languages:\n  en: {title: t, answer: 'call {name}'}\n", "brace"),
    ("languages:\n  en: {title: t, answer: " + "a" * 901 + "}\n", "901"),
    ("\tid: x\n", "not readable as YAML"),
    ("id: broken\nid: broken\n", "stands twice"),
]


@pytest.mark.parametrize(("yaml", "named"), BROKEN_TOPICS)
def test_a_broken_topic_is_named(tmp_path: Path, yaml: str, named: str) -> None:
    (tmp_path / "topics").mkdir()
    (tmp_path / "topics" / "broken.yaml").write_text(yaml)
    shutil.copytree(ROOT / "faq_data" / "intents", tmp_path / "intents")
    with pytest.raises(ContentError) as caught:
        load_faq(tmp_path, load_facts(), TEN)
    assert "broken.yaml" in str(caught.value)
    assert named in str(caught.value)


def test_a_broken_directory_is_named_by_line(tmp_path: Path) -> None:
    shutil.copy(CONFIG / "figures.yaml", tmp_path)
    path = tmp_path / "directory.yaml"
    text = (CONFIG / "directory.yaml").read_text("utf-8").replace('number: "#9110"', "number: 9110")
    path.write_text(text, "utf-8")
    with pytest.raises(ContentError) as caught:
        load_facts(tmp_path)
    line = 1 + text[: text.index("number: 9110")].count("\n")
    [mistake] = caught.value.mistakes
    assert mistake.startswith(f"{path}:{line}: police_advice.number: ")
    assert "in quotes" in mistake


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes("id: é".encode("latin-1"))
    with pytest.raises(ContentError, match="UTF-8"):
        read_yaml(tmp_path / "x.yaml")


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("{reference}", "{ref}", "placeholders"),
        ("{tel:police_emergency}", "{tel:nobody}", "nobody"),
        ('msgid "This helped"', 'msgid "This was of help"', "button.helpful"),
        ("X-Review", "X-Nothing", ""),
    ],
)
def test_a_broken_translation_is_named(tmp_path: Path, old: str, new: str, named: str) -> None:
    for name in ("languages.yaml", "commands.yaml"):
        shutil.copy(CONFIG / name, tmp_path)
    shutil.copytree(CONFIG / "locale", tmp_path / "locale")
    path = tmp_path / "locale" / "desk" / "vi.po"
    assert old in path.read_text("utf-8")
    path.write_text(path.read_text("utf-8").replace(old, new), "utf-8")
    if not named:  # without a mark of review a catalogue counts as a draft
        assert load_texts(load_facts(), tmp_path)("button.human", "vi").review == "draft"
        return
    with pytest.raises(ContentError) as caught:
        load_texts(load_facts(), tmp_path)
    [mistake, *_] = caught.value.mistakes
    assert re.match(rf"{re.escape(str(path))}:\d+: [a-z_.]+: ", mistake), mistake
    assert named in str(caught.value)


def test_settings_are_listed_with_meaning_and_secrecy() -> None:
    rows = {name: (meaning, secret) for name, meaning, _, secret in describe(Settings)}
    assert all(meaning for meaning, _ in rows.values())
    assert {"BOT_HTTP_PORT", "BOT_SMTP_PORT", "BOT_DATABASE_URL", "BOT_DATA_DIR"} <= set(rows)
    assert rows["BOT_DATA_KEY"][1]
    assert rows["BOT_DATABASE_URL"][1]
    assert not rows["BOT_HTTP_PORT"][1]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("BOT_HTTP_PORT", "eighty"),
        ("BOT_HTTP_PORT", "99999"),
        ("BOT_SMTP_RELAY", "mail.example.org"),
        ("BOT_PUBLIC_URL", "desk.example.org"),
        ("BOT_LOG_LEVEL", "loud"),
    ],
)
def test_a_wrong_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=variable):
        load_settings()


def test_database_urls_mean_psycopg() -> None:
    for url in ("postgres://u@h/d", "postgresql://u@h/d"):
        assert Settings(database_url=url).database == "postgresql+psycopg://u@h/d"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"BOT_LINE_CHANNEL_SECRET": "x"}, "BOT_LINE_ACCESS_TOKEN is missing"),
        ({"BOT_LINE_ACCESS_TOKEN": "x"}, "BOT_LINE_CHANNEL_SECRET is missing"),
        ({"BOT_TWILIO_ACCOUNT_SID": "AC" + "1" * 32}, "BOT_TWILIO_AUTH_TOKEN is missing"),
        ({"BOT_TWILIO_SMS_NUMBER": "+815012345678"}, "BOT_TWILIO_ACCOUNT_SID is missing"),
        ({"BOT_TWILIO_ACCOUNT_SID": "XX1"}, "BOT_TWILIO_ACCOUNT_SID"),
        ({"BOT_TWILIO_VOICE_NUMBER": "0312345678"}, "without its first 0"),
        ({"BOT_TELEGRAM_TOKEN": "nonsense"}, "BOT_TELEGRAM_TOKEN"),
    ],
)
def test_half_set_secrets_are_named(
    given: dict[str, str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A channel that somebody began to set up must not be left out silently."""
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=named):
        [load(kind) for kind in CHANNEL_SETTINGS]
