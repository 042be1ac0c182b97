"""The check of all content for those who write it: every mistake with file, line and remedy."""

import re
from datetime import date, datetime, timedelta
from pathlib import Path

from bot.content import load_content, load_risk_words
from bot.dialogue import load_thresholds
from channels.voice.speech import load_sounds
from config.content import ContentError, Report, place
from config.easy_japanese import KINDS, doubts
from config.facts import CONFIG, Facts, read_facts
from config.texts import JAPAN, Texts, load_languages, load_texts
from handoff.hours import load_hours
from nlu.faq import load_faq
from nlu.faq_check import EASY, check_faq

CONFIRMED_FOR = timedelta(days=180)
"""For so long a number of the directory counts once a person has confirmed it."""
_KEY_ONLY = re.compile(r"^([a-z]+\.yaml): ([\w.-]+): ")
_ENTRY = re.compile(r"^(.*\.yaml): (entry \d+) \(line (\d+)\)")


def check_content(faq_dir: Path, today: date | None = None) -> Report:
    """Check the FAQ in `faq_dir` and all other texts, and tell everything that is found."""
    today = today or datetime.now(JAPAN).date()
    report = Report()
    facts = read_facts(report.mistakes)
    languages, ways = load_languages()
    registers = [code for code, way in ways.items() if not way.made]
    for load in (load_sounds, load_hours):
        report.collect(load)
    lexicon, texts = None, None
    try:
        loaded = load_content(faq_dir)
    except ContentError as error:  # it stops at the first files that have mistakes
        report.collect(load_thresholds)
        lexicon, texts = report.collect(load_risk_words), report.collect(load_texts, facts)
        kinds = tuple(lexicon.types) if lexicon else None
        report.collect(load_faq, faq_dir, facts, (*languages, *registers), kinds)
        report.mistakes = report.mistakes or error.mistakes
    else:
        lexicon, texts = loaded.lexicon, loaded.content.texts
    if lexicon is not None:
        report.mistakes += lexicon.check()
    check_faq(report, faq_dir, facts, (*languages, *registers), today)
    if texts is not None:
        _catalogue(report, texts)
    _directory(report, facts, today)
    report.mistakes = [_with_line(mistake) for mistake in report.mistakes]
    return report


def _catalogue(report: Report, texts: Texts) -> None:
    for text in texts:
        if text.review == "draft":
            report.drafts["other texts", text.language] += 1
        if text.language == "ja-easy":
            found = doubts(text.body, sentences=not text.id.startswith(("button.", "channel.")))
            report.warnings[EASY] += [
                f"{texts.places[text.id, text.language]}: {doubt.words}: {KINDS[doubt.kind]}"
                for doubt in found
            ]


def _directory(report: Report, facts: Facts, today: date) -> None:
    path = CONFIG / "directory.yaml"
    old = []
    for window in facts.directory.values():
        try:
            checked = window.last_verified and date.fromisoformat(str(window.last_verified))
        except ValueError:
            report.mistakes.append(
                f"{place(path, window.key, 'last_verified')}: “{window.last_verified}” is no date. "
                "Write YYYY-MM-DD, in quotes, or null."
            )
            continue
        if not checked or checked < today - CONFIRMED_FOR:
            old.append(window.key)
    if old:
        report.warnings["directory"].append(
            f"{place(path, old[0])}: {len(old)} of {len(facts.directory)} numbers were not "
            f"confirmed at the body itself within {CONFIRMED_FOR.days} days. Ask there, then write "
            "the day into `last_verified` and your name into `verified_by`."
        )


def _with_line(mistake: str) -> str:
    """A mistake that only names its key, or its line in words, as `file:line: key`."""
    if found := _KEY_ONLY.match(mistake):
        keys = found[2].split(".")
        return place(CONFIG / found[1], *keys) + ": " + mistake[found.end() :]
    if found := _ENTRY.match(mistake):
        file = place(Path(found[1])).rpartition(":")[0]
        return f"{file}:{found[3]}: {found[2]}" + mistake[found.end() :]
    return mistake
