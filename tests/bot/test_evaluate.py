"""`bot evaluate`: figures from rows made by hand, reports, mistakes; and that nothing held out is
ever trained on."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from rapidfuzz import fuzz, process
from rapidfuzz.utils import default_process

from bot.content import load_content
from bot.evaluate import (
    Labelled,
    evaluate,
    from_json,
    load_targets,
    read_labelled,
    read_understood,
    to_html,
    to_json,
)
from config.content import ContentError
from config.settings import ROOT

TOPICS = ("wage_unpaid", "dismissal")
HELD_OUT = sorted((ROOT / "tests" / "evaluation").glob("*.tsv"))
TEN = ("ja", "en", "zh", "pt", "es", "vi", "id", "my", "tl", "ne")


def row(
    text: str, language: str = "en", topics: str = "", risk: str = "none", action: str = "answer"
) -> dict[str, object]:
    named = [[topic, 0.9 - 0.1 * place] for place, topic in enumerate(topics.split())]
    return {
        "text": text,
        "language": language,
        "topic": named[0][0] if named else None,
        "confidence": named[0][1] if named else 0.0,
        "topics": named,
        "risk": risk,
        "risk_types": [],
        "action": action,
    }


LABELLED = [
    Labelled("wage_unpaid", "en", "no pay"),
    Labelled("wage_unpaid", "vi", "no luong"),
    Labelled("dismissal", "en", "fired"),
    Labelled("out_of_scope", "en", "pizza"),
    Labelled("out_of_scope", "en", "football"),
    Labelled("emergency/suicide", "en", "i will die"),
    Labelled("emergency/violence", "en", "he has a knife"),
    Labelled("high/arrest", "en", "police took him"),
    Labelled("harmless", "en", "dead tired"),
    Labelled("harmless", "en", "killing time"),
    Labelled("-", "ko", "안녕"),
    Labelled("-", "ms", "gaji saya"),
]
ROWS = [
    row("no pay", topics="wage_unpaid dismissal"),
    row("no luong", "vi", topics="dismissal overstay wage_unpaid"),
    row("fired", "tl", topics="overstay"),
    row("pizza", topics="wage_unpaid"),
    row("football", action="rephrase"),
    row("i will die", risk="emergency"),
    row("he has a knife", risk="high"),
    row("police took him", risk="none"),
    row("dead tired", risk="high"),
    row("killing time"),
    row("안녕", "und"),
    row("gaji saya", "id"),
]


def test_the_figures_are_those_that_one_counts_by_hand() -> None:
    figures = evaluate(LABELLED, ROWS, {}, "m").shares["all"]
    counted = {metric: (share.hits, share.of) for metric, share in figures.items()}
    assert counted == {
        "language": (10, 12),
        "top1": (1, 3),
        "top3": (2, 3),
        "out_of_scope": (1, 2),
        "emergency": (1, 2),
        "danger": (2, 3),
        "alarms": (1, 2),
    }


def test_each_language_has_figures_of_its_own_and_misses_are_named() -> None:
    targets = {"top1": {"at_least": {"all": 0.3, "each": 0.5}}, "alarms": {"at_most": {"all": 0.4}}}
    evaluation = evaluate(LABELLED, ROWS, targets, "m")
    assert evaluation.shares["vi"]["top1"].value == 0
    assert evaluation.shares["other"]["language"].value == 0.5
    assert {(one.metric, one.where) for one in evaluation.missed} == {
        ("top1", "vi"),
        ("alarms", "all"),
    }
    assert ("harmless", "high ()", 1) in evaluation.confusions
    assert {fault["text"] for fault in evaluation.faults} >= {"pizza", "police took him"}


def test_a_report_is_read_again_and_compared() -> None:
    evaluation = evaluate(LABELLED, ROWS, load_targets(), "m<script>")
    assert json.loads(to_json(evaluation))["model"] == "m<script>"
    page = to_html(evaluation, evaluation)
    assert "m<script>" not in page
    assert not re.search(r"""(src|href)=["']?https?:|url\(["']?https?:|@import""", page)
    assert page.count("<svg") == 3


def test_reports_go_through_a_file(tmp_path: Path) -> None:
    evaluation = evaluate(LABELLED, ROWS, load_targets(), "m")
    path = tmp_path / "report.json"
    path.write_text(to_json(evaluation))
    assert from_json(path) == evaluation
    path.write_text("{}")
    with pytest.raises(ContentError, match="no report"):
        from_json(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("wage_unpaid\ten\n", "f.tsv:1: 2 columns"),
        ("wages\ten\thello\n", "f.tsv:1: “wages” is no topic"),
        ("\nwage_unpaid\ten\t \n", "f.tsv:2: no message"),
        ("", "no labelled message"),
        ("wage_unpaid\ten\t\xff\n", "UTF-8"),
    ],
)
def test_a_mistake_in_a_labelled_file_is_named(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "f.tsv"
    path.write_bytes(content.encode("latin-1" if "\xff" in content else "utf-8"))
    with pytest.raises(ContentError, match=told):
        read_labelled([path], TOPICS)


def test_what_was_understood_must_be_of_the_same_messages(tmp_path: Path) -> None:
    with pytest.raises(ContentError, match="not those of the labelled file"):
        evaluate(LABELLED, ROWS[1:], {}, "m")
    path = tmp_path / "f.jsonl"
    path.write_text("{}\n")
    with pytest.raises(ContentError, match=r"f\.jsonl:1"):
        read_understood(path)
    path.write_text("\n".join(json.dumps(one) for one in ROWS))
    assert len(read_understood(path)) == len(ROWS)


def test_the_held_out_sets_are_complete() -> None:
    """Three questions per topic and language, and enough of everything else."""
    topics = load_content(ROOT / "faq_data").faq.topics
    labelled = read_labelled(HELD_OUT, topics)
    for code in TEN:
        mine = [one for one in labelled if one.language == code]
        for kind, least in (
            *((topic, 3) for topic in topics),
            ("out_of_scope", 150),
            ("emergency", 30),
            ("high", 30),
            ("harmless", 40),
        ):
            assert sum(one.kind == kind for one in mine) >= least, (code, kind)


def test_nothing_held_out_is_trained_on() -> None:
    """Neither word for word nor nearly: 88 of 100 letters alike is too near."""
    loaded = load_content(ROOT / "faq_data")
    for code in TEN:
        held_out = [
            default_process(one.text)
            for one in read_labelled(HELD_OUT, loaded.faq.topics)
            if one.language == code
        ]
        taught = [
            default_process(text)
            for intent, language, text in loaded.faq.training()
            if language == code and intent
        ]
        alike = process.cdist(
            held_out, taught, scorer=fuzz.ratio, dtype=np.uint8, score_cutoff=80, workers=-1
        )
        near = [(held_out[i], taught[j]) for i, j in zip(*np.nonzero(alike >= 88), strict=True)]
        assert not near
