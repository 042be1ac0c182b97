"""What is wrong or doubtful in the FAQ although it can be read: for those who write it.

`load_faq` refuses what the desk could not work with. This looks at the texts beside each other:
languages that are missing, examples that say the same, facts that only some languages have, old
dates, hard words in easy Japanese.
"""

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import combinations
from pathlib import Path
from typing import Any

import regex
from rapidfuzz import fuzz

from config.content import ContentError, Report, place, read_yaml
from config.easy_japanese import KINDS, doubts
from config.facts import REFERENCE, Facts
from nlu.faq import FEWEST, HARMLESS, INTENTS, MOST, FaqFile, read_topic

NEAR = 90
"""Likeness from 0 to 100 from which two examples of a topic teach hardly more than one."""
OLD = timedelta(days=365)
EASY, UNFINISHED = "easy Japanese", "unfinished topics"
_OTHER = regex.compile(r"[^\p{L}\p{M}\p{N}]+")


@dataclass(frozen=True, slots=True)
class _Example:
    path: Path
    keys: tuple[str | int, ...]
    intent: str
    language: str
    text: str
    folded: str

    def __str__(self) -> str:
        return place(self.path, *self.keys)


def check_faq(
    report: Report, folder: Path, facts: Facts, languages: tuple[str, ...], today: date
) -> None:
    """Add what is found in the files of `folder` that can be read to `report`.

    `languages`: the desk's, with its registers such as ja-easy.
    """
    rows: dict[Path, dict[str, Any]] = {}
    for path in sorted(folder.glob("*/*.yaml")):
        try:
            row = read_yaml(path)
        except ContentError:
            continue  # load_faq has told of it
        if isinstance(row, dict):
            rows[path] = row
    examples: list[_Example] = []
    for path, row in rows.items():
        if path.parent.name == "risk":
            kinds = row.get("examples")
            for kind in kinds if isinstance(kinds, dict) else ():
                examples += _examples(path, f"risk/{kind}", path.stem, kinds, ("examples",), kind)
            continue
        topic = path.parent.name == "topics"
        unfinished = topic and row.get("publish") is False
        found = Report() if unfinished else report
        if unfinished:
            found.collect(read_topic, FaqFile(path), facts, languages)
        intent = f"faq/{path.stem}" if topic else path.stem
        editions = _editions(row)
        _missing(found, path, editions, [code for code in languages if topic or "-" not in code])
        for language, part in editions.items():
            where = ("languages", language)
            for key in ("examples", "also") if not unfinished else ():
                examples += _examples(path, intent, language, part, where, key)
            _count(found, path, part, where, topic)
        if topic:
            _topic(found, path, row, editions, facts, today)
        if unfinished:
            report.warnings[UNFINISHED].append(
                f"{place(path, 'publish')}: the desk leaves this topic out. When what follows is "
                "mended, take this line out."
            )
            report.warnings[UNFINISHED] += found.mistakes
    for code in languages:
        if "-" not in code and folder / "risk" / f"{code}.yaml" not in rows:
            report.mistakes.append(
                f"{folder / 'risk' / code}.yaml:1: missing or unreadable. Write examples of danger "
                f"in {code}, as in the files beside it."
            )
    report.mistakes += _same(examples)
    report.warnings["near-duplicates"] += _near(examples)


def _editions(row: dict[str, Any]) -> dict[str, dict[str, Any]]:
    listed = row.get("languages")
    parts = listed.items() if isinstance(listed, dict) else ()
    return {str(code): part for code, part in parts if isinstance(part, dict)}


def _examples(
    path: Path, intent: str, language: str, part: Any, where: tuple[str, ...], key: str
) -> Iterator[_Example]:
    listed = part.get(key)
    for number, text in enumerate(listed if isinstance(listed, list) else ()):
        if isinstance(text, (str, int, float)):
            text = str(text)
            yield _Example(path, (*where, key, number), intent, language, text, fold(text))


def fold(text: str) -> str:
    """A text without case, punctuation and width; accents stay, since people leave them out on
    purpose in examples of their own."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return _OTHER.sub(" ", plain).strip() or plain.strip()


def _missing(report: Report, path: Path, editions: Collection[str], wanted: Iterable[str]) -> None:
    for code in wanted:
        if code not in editions:
            report.mistakes.append(
                f"{place(path, 'languages')}: {code} is missing. Add `{code}:` with title, answer "
                "and examples."
                if path.parent.name == "topics"
                else f"{place(path, 'languages')}: {code} is missing. Add `{code}:` with examples."
            )


def _count(report: Report, path: Path, part: Any, where: tuple[str, ...], topic: bool) -> None:
    listed = part.get("examples")
    number = len(listed) if isinstance(listed, list) else 0
    if not topic and number < FEWEST:
        report.mistakes.append(
            f"{place(path, *where, 'examples')}: {number} examples; at least {FEWEST} are needed. "
            f"Add {FEWEST - number}."
        )
    if topic and number > MOST:
        report.warnings["many examples"].append(
            f"{place(path, *where, 'examples')}: {number} examples; {MOST} are enough. Move other "
            "spellings of the same to `also:`, take the rest out."
        )


def _topic(
    report: Report,
    path: Path,
    row: dict[str, Any],
    editions: dict[str, dict[str, Any]],
    facts: Facts,
    today: date,
) -> None:
    updated = row.get("updated")
    if isinstance(updated, date) and updated > today + timedelta(days=1):
        report.warnings["dates"].append(
            f"{place(path, 'updated')}: {updated} is still to come. Write the day of the check."
        )
    elif isinstance(updated, date) and updated < today - OLD:
        report.warnings["dates"].append(
            f"{place(path, 'updated')}: {updated} is more than a year ago. Check the facts at "
            "their sources, then write the new date."
        )
    report.warnings["references"] += _references(path, editions, facts)
    for language, part in editions.items():
        if str(part.get("review") or "draft") == "draft":
            report.drafts["answers", language] += 1
        if language == "ja-easy":
            for key in ("title", "answer", "sms", "voice"):
                where = place(path, "languages", language, key) if part.get(key) else ""
                for doubt in doubts(str(part.get(key) or ""), sentences=key != "title"):
                    report.warnings[EASY].append(f"{where}: {doubt.words}: {KINDS[doubt.kind]}")


def _references(path: Path, editions: dict[str, dict[str, Any]], facts: Facts) -> Iterator[str]:
    """Facts that some editions of an answer have and others lack.

    A window that has a number per language, {tel:mhlw_vi}, is one fact, expected of the languages
    that it speaks. A register such as ja-easy says less on purpose.
    """
    codes = [code for code in editions if "-" not in code]
    ending = re.compile(rf"_(?:{'|'.join(map(re.escape, codes))})$")
    having: dict[tuple[str, str], list[str]] = {}
    for code in codes:
        for kind, key in dict.fromkeys(REFERENCE.findall(str(editions[code].get("answer") or ""))):
            having.setdefault((kind, ending.sub("", key)), []).append(code)
    for (kind, fact), present in having.items():
        known = facts.directory if kind == "tel" else facts.figures
        lacking = [
            code
            for code in codes
            if code not in present and (fact in known or f"{fact}_{code}" in known)
        ]
        if lacking:
            yield (
                f"{place(path, 'languages', lacking[0], 'answer')}: {{{kind}:{fact}}} stands in "
                f"{' '.join(present)}, not in {' '.join(lacking)}. Add it, or take it out there."
            )


def _same(examples: list[_Example]) -> Iterator[str]:
    """The same example twice, where that helps nobody or teaches two things at once."""
    first: dict[tuple[str, str], _Example] = {}
    for one in examples:
        danger = one.intent.startswith("risk/")
        # what tells of danger may also ask about a topic: these are two questions to the desk
        other = first.setdefault(("risk" if danger else "", one.folded), one)
        if other is one:
            continue
        if other.intent != one.intent and (not danger or other.language == one.language):
            if danger and HARMLESS not in {other.intent[5:], one.intent[5:]}:
                continue  # two dangers in one message
            yield f"{one}: “{one.text}” also stands under {other}. Leave it where it belongs."
        elif other.intent == one.intent and other.language == one.language:
            yield f"{one}: “{one.text}” says the same as {other}. Take one of them out."


def _near(examples: list[_Example]) -> Iterator[str]:
    blocks: dict[tuple[str, str], list[_Example]] = {}
    for one in examples:
        if one.intent.startswith("faq/") or one.intent in INTENTS:
            blocks.setdefault((one.intent, one.language), []).append(one)
    for block in blocks.values():
        for other, one in combinations(block, 2):
            if one.folded == other.folded:
                continue  # a mistake, told already
            if fuzz.ratio(one.folded, other.folded, score_cutoff=NEAR):
                yield (
                    f"{one}: “{one.text}” is nearly “{other.text}”. Say it in quite other words, "
                    "or take it out."
                )
