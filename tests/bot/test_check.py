"""What editors can get wrong: each mistake is told with its file, its line and its remedy."""

import shutil
from datetime import date, timedelta
from pathlib import Path

import pytest
import yaml

from bot.check import check_content
from bot.new_topic import NewTopicError, new_topic
from config.content import Report, line_of
from config.facts import Facts, load_facts
from config.settings import ROOT
from config.texts import load_languages
from nlu.faq import load_faq
from nlu.faq_check import check_faq

TODAY = date(2026, 12, 1)
LANGUAGES, WAYS = load_languages()
REGISTERS = [code for code, way in WAYS.items() if not way.made]
ALL = (*LANGUAGES, *REGISTERS)
TOPIC = "topics/wage_unpaid.yaml"


@pytest.fixture(scope="module")
def facts() -> Facts:
    return load_facts()


@pytest.fixture
def faq(tmp_path: Path) -> Path:
    """Two topics and all that is no topic, free of mistakes."""
    (tmp_path / "topics").mkdir()
    for topic in ("wage_unpaid", "passport_taken"):
        shutil.copy(ROOT / "faq_data" / "topics" / f"{topic}.yaml", tmp_path / "topics")
    for folder in ("intents", "risk"):
        shutil.copytree(ROOT / "faq_data" / folder, tmp_path / folder)
    return tmp_path


def report_of(folder: Path, facts: Facts) -> Report:
    report = Report()
    report.collect(load_faq, folder, facts, ALL, None)
    check_faq(report, folder, facts, ALL, TODAY)
    return report


def change(folder: Path, name: str, path: tuple[str | int, ...], value: object) -> None:
    """Put a value (None: nothing) under a path of keys in a file, and write it anew."""
    file = folder / name
    row = part = yaml.safe_load(file.read_text("utf-8"))
    for key in path[:-1]:
        part = part[key]
    if value is None:
        del part[path[-1]]
    else:
        part[path[-1]] = value
    file.write_text(yaml.safe_dump(row, allow_unicode=True, sort_keys=False, width=10_000), "utf-8")


def examples(folder: Path, code: str) -> list[str]:
    listed: list[str] = yaml.safe_load((folder / TOPIC).read_text("utf-8"))["languages"][code][
        "examples"
    ]
    return listed


VI = ("languages", "vi")
MISTAKES: list[tuple[str, tuple[str | int, ...], object, tuple[str, ...]]] = [
    (TOPIC, ("languages", "my"), None, ("languages", "my is missing", "Add `my:`")),
    (TOPIC, ("languages", "ja-easy"), None, ("languages", "ja-easy is missing")),
    ("intents/greet.yaml", ("languages", "ne"), None, ("ne is missing", "Add `ne:`")),
    (TOPIC, (*VI, "examples"), ["a b", "c d"], ("2 examples; at least 8", "Add 6")),
    ("intents/greet.yaml", (*VI, "examples"), ["alo"], ("1 examples; at least 8", "Add 7")),
    (TOPIC, (*VI, "title"), "x" * 41, ("vi.title", "41 characters; at most 40", "Shorten it by 1")),
    (TOPIC, (*VI, "answer"), "x" * 901, ("vi.answer", "901 characters; at most 900")),
    (TOPIC, (*VI, "sms"), "x" * 301, ("vi.sms", "301 characters; at most 300")),
    (TOPIC, ("languages", "ja", "sms"), "x" * 161, ("ja.sms", "161 characters; at most 160")),
    (TOPIC, ("languages", "ja-easy", "sms"), "x" * 161, ("ja-easy.sms", "at most 160")),
    (TOPIC, (*VI, "sms"), "x" * 295 + "{tel:tell}", ("vi.sms", "308 characters")),
    (TOPIC, (*VI, "answer"), "gọi {tel:nobody}", ("{tel:nobody} is not in directory.yaml", "Add")),
    (TOPIC, (*VI, "sms"), "{figure:nothing}", ("{figure:nothing} is not in",)),
    (TOPIC, (*VI, "answer"), "gọi }", ("a brace", "Take it out")),
    (TOPIC, (*VI, "title"), "{name}", ("a brace",)),
    (TOPIC, (*VI, "title"), "", ("vi.title", "missing or no text")),
    (TOPIC, (*VI, "exmaples"), ["a"], ("exmaples", "unknown key", "Use one of")),
    (TOPIC, ("titel",), "a", ("titel", "unknown key")),
    (TOPIC, ("category",), "wrok", ("category", "unknown", "work residence")),
    (TOPIC, (*VI, "examples", 2), "", ("examples.3", "1 empty", "Write an example")),
    (TOPIC, (*VI, "examples", 2), {"a": 1}, ("examples.3", "Put the example into quotes")),
    (TOPIC, (*VI, "examples"), "one", ("vi.examples", "no list")),
]


@pytest.mark.parametrize(("file", "path", "value", "said"), MISTAKES)
def test_a_mistake_is_told_with_its_line_and_remedy(
    faq: Path,
    facts: Facts,
    file: str,
    path: tuple[str | int, ...],
    value: object,
    said: tuple[str, ...],
) -> None:
    change(faq, file, path, value)
    mistakes = report_of(faq, facts).mistakes
    assert len(mistakes) == 1, mistakes
    [mistake] = mistakes
    line = line_of(faq / file, path)
    assert mistake.startswith(f"{faq / file}:{line}: "), mistake
    key = str(path[-1]) if isinstance(path[-1], str) else str(path[-2])
    near = (faq / file).read_text("utf-8").splitlines()[line - 1]
    assert value is None or key in near or isinstance(path[-1], int)
    for part in said:
        assert part in mistake
    assert mistake.endswith(".")


def test_what_is_shipped_has_no_mistake() -> None:
    report = check_content(ROOT / "faq_data")
    assert not report.mistakes
    assert not report.warnings["near-duplicates"]
    assert not report.warnings["many examples"]
    assert report.drafts["answers", "vi"] > 0


def test_all_mistakes_of_all_files_are_told_at_once(faq: Path, facts: Facts) -> None:
    change(faq, TOPIC, (*VI, "title"), "x" * 41)
    change(faq, TOPIC, (*VI, "answer"), "{tel:nobody} {")
    change(faq, TOPIC, ("languages", "my"), None)
    (faq / "topics" / "passport_taken.yaml").write_text("\tid: x\n")
    (faq / "risk" / "vi.yaml").unlink()
    said = "\n".join(report_of(faq, facts).mistakes)
    for part in ("vi.title", "{tel:nobody}", "a brace", "my is missing", "YAML", "risk/vi.yaml:1"):
        assert part in said


@pytest.mark.parametrize(
    ("intent", "again"), [("passport_taken", "Same Words, twice!"), ("", "same words twice")]
)
def test_the_same_example_twice_is_a_mistake(
    faq: Path, facts: Facts, intent: str, again: str
) -> None:
    change(faq, TOPIC, ("languages", "en", "examples", 0), "same words twice")
    other = f"topics/{intent}.yaml" if intent else "intents/greet.yaml"
    change(faq, other, ("languages", "en", "examples", 3), again)
    [mistake] = report_of(faq, facts).mistakes
    assert "examples" in mistake
    assert "also stands under" in mistake
    for file in (TOPIC, other):
        assert f"{faq / file}:" in mistake


def test_the_same_example_twice_in_a_topic_is_a_mistake(faq: Path, facts: Facts) -> None:
    first = examples(faq, "vi")[0]
    change(faq, TOPIC, (*VI, "also"), [first.upper() + "!"])
    [mistake] = report_of(faq, facts).mistakes
    assert "vi.also.1" in mistake
    assert "says the same as" in mistake


def test_the_same_words_without_accents_are_no_repetition(faq: Path, facts: Facts) -> None:
    change(faq, TOPIC, (*VI, "examples", 0), "công ty nợ lương em hai tháng")
    change(faq, TOPIC, (*VI, "examples", 1), "cong ty no luong em hai thang")
    assert not report_of(faq, facts).mistakes


def test_a_near_duplicate_is_a_warning(faq: Path, facts: Facts) -> None:
    first = "my boss has not paid my salary for two months"
    change(faq, TOPIC, ("languages", "en", "examples", 0), first)
    change(faq, TOPIC, ("languages", "en", "examples", 1), first + " now")
    report = report_of(faq, facts)
    assert not report.mistakes
    [warning] = report.warnings["near-duplicates"]
    assert "is nearly" in warning
    assert "en.examples.2" in warning


def test_a_fact_that_one_edition_lacks_is_a_warning(faq: Path, facts: Facts) -> None:
    before = report_of(faq, facts).warnings["references"]
    change(faq, TOPIC, (*VI, "answer"), "Không có số nào.")
    new = set(report_of(faq, facts).warnings["references"]) - set(before)
    assert any("vi.answer: {tel:mhlw} stands in en" in warning for warning in new), new


@pytest.mark.parametrize(
    ("updated", "said"),
    [
        (TODAY - timedelta(days=366), "more than a year ago"),
        (TODAY + timedelta(days=9), "still to come"),
    ],
)
def test_a_stale_date_is_a_warning(faq: Path, facts: Facts, updated: date, said: str) -> None:
    change(faq, TOPIC, ("updated",), updated)
    report = report_of(faq, facts)
    assert not report.mistakes
    [warning] = report.warnings["dates"]
    assert said in warning
    assert ": updated: " in warning


def test_more_than_fifteen_examples_are_a_warning(faq: Path, facts: Facts) -> None:
    extra = ["alpha", "bravo charlie", "delta echo foxtrot", "golf", "hotel india juliett"]
    change(faq, TOPIC, (*VI, "examples"), [*examples(faq, "vi"), *extra])
    [warning] = report_of(faq, facts).warnings["many examples"]
    assert "15 are enough" in warning


def test_hard_words_in_easy_japanese_are_a_warning(faq: Path, facts: Facts) -> None:
    change(faq, TOPIC, ("languages", "ja-easy", "title"), "賃金を もらえない")
    report = report_of(faq, facts)
    assert not report.mistakes
    assert any("ja-easy.title: 賃金: kanji without" in w for w in report.warnings["easy Japanese"])


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: 1\nb:\n  c:\n    - x\n    - y: 1\n      z: 2\n")
    for keys, line in (
        (("a",), 1),
        (("b",), 2),
        (("b", "c"), 3),
        (("b", "c", 0), 4),
        (("b", "c", 1, "z"), 6),
        (("b", "c", 7), 3),
        (("b", "d"), 2),
        (("e",), 1),
        ((), 1),
    ):
        assert line_of(path, keys) == line, keys
    assert line_of(tmp_path / "nowhere.yaml", ("a",)) == 1


def test_a_new_topic_has_all_languages_and_waits(faq: Path, facts: Facts) -> None:
    path = new_topic(faq, "bonus_unpaid", "work")
    row = yaml.safe_load(path.read_text("utf-8"))
    assert tuple(row["languages"]) == ALL
    assert row["category"] == "work"
    report = report_of(faq, facts)
    assert not report.mistakes  # it keeps nobody from publishing
    left = report.warnings["unfinished topics"]
    assert all(str(path) in line for line in left)
    assert {code for code in LANGUAGES if any(f"languages.{code}.title" in w for w in left)} == set(
        LANGUAGES
    )
    assert "bonus_unpaid" not in load_faq(faq, facts, ALL, None).topics
    path.write_text(path.read_text("utf-8").replace("publish: false", "publish: true"), "utf-8")
    assert report_of(faq, facts).mistakes


@pytest.mark.parametrize(
    ("topic", "category", "said"),
    [
        ("wage_unpaid", "work", "exists already"),
        ("greet", "work", "exists already"),
        ("Wage", "work", "small letters"),
        ("wage-unpaid", "work", "small letters"),
        ("wage__x", "work", "small letters"),
        ("../x", "work", "small letters"),
        ("", "work", "small letters"),
        ("bonus", "wrok", "category"),
    ],
)
def test_a_new_topic_that_cannot_be_is_refused(
    faq: Path, topic: str, category: str, said: str
) -> None:
    before = sorted((faq / "topics").iterdir())
    with pytest.raises(NewTopicError, match=said):
        new_topic(faq, topic, category)
    assert sorted((faq / "topics").iterdir()) == before
