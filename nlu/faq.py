"""The FAQ: what the desk may answer, and the example questions by which it recognises a topic.

`faq_data/topics/<id>.yaml` holds one topic in all its languages; `faq_data/intents/<id>.yaml` holds
examples of what is no topic (greetings, thanks, things that the desk does not answer), and
`faq_data/risk/<language>.yaml` messages that tell of danger or only seem to. All train the
understanding; only topics have answers. `faq_data/README.md` shows an editor the format.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from config.content import ContentError, read_yaml
from config.facts import REFERENCE, Facts
from config.texts import Text, Texts

INTENTS = ("greet", "thanks", "goodbye", "human", "out_of_scope")
HARMLESS = "harmless"
TITLE_LIMIT, ANSWER_LIMIT, SMS_LIMIT = 40, 900, 300
_SENTENCE = re.compile(r"(?<=[.!?。])\s+|\n+")


@dataclass(frozen=True, slots=True)
class Source:
    """The official source of an answer. `verified`: its words were read, not remembered."""

    title: str
    publisher: str
    url: str
    verified: bool


@dataclass(frozen=True, slots=True)
class Edition:
    """A topic in one language. `sms` and `voice` are shorter or speakable forms, where given."""

    title: str
    answer: str
    sms: str
    voice: str
    review: str


@dataclass(frozen=True, slots=True)
class Topic:
    """One thing that workers ask, with its answer in each language."""

    id: str
    category: str
    ask_human: bool
    updated: date
    sources: tuple[Source, ...]
    unverified: tuple[str, ...]
    editions: dict[str, Edition]


@dataclass(frozen=True, slots=True)
class Faq:
    """All topics, and the example messages per intent: `faq/<topic>` or one of `INTENTS`."""

    topics: dict[str, Topic]
    examples: tuple[tuple[str, str, str], ...]
    """(intent, language, text)"""
    dangers: tuple[tuple[str, str, str], ...] = ()
    """The same for danger: `risk/<kind>`, or `risk/harmless` for what only sounds alarming."""

    def training(self) -> Iterator[tuple[str, str, str]]:
        """What Rasa learns from: the examples, the titles, and, with the intent "", the sentences
        of the answers, from which only languages are learned."""
        yield from self.examples
        yield from self.dangers
        for topic in self.topics.values():
            for language, edition in topic.editions.items():
                if "-" in language:
                    continue
                yield f"faq/{topic.id}", language, edition.title
                for sentence in _SENTENCE.split(REFERENCE.sub("", edition.answer)):
                    if len(sentence.strip(" -・")) > 8:
                        yield "", language, sentence.strip(" -・")

    def texts(self, texts: Texts, facts: Facts) -> Iterator[Text]:
        """Each answer with its source line, and each title, as published texts.

        Ids: `faq/<topic>`, `faq/<topic>/sms`, `faq/<topic>/voice`, `faq/<topic>/title`.
        """
        for topic in self.topics.values():
            source = topic.sources[0]
            name = source.title
            if source.publisher not in source.title:
                name = f"{source.title}, {source.publisher}"
            for language, edition in topic.editions.items():
                line = texts("answer.source", language).render(
                    {
                        "source": name,
                        "updated": texts.date(
                            datetime(*topic.updated.timetuple()[:3], tzinfo=UTC), language
                        ),
                    }
                )
                intent = f"faq/{topic.id}"
                for form, body in (
                    ("", f"{edition.answer}\n\n{line}"),
                    ("/sms", edition.sms),
                    ("/voice", edition.voice),
                    ("/title", edition.title),
                ):
                    if body:
                        filled = facts.fill(body, language)
                        yield Text(intent + form, language, filled, edition.review)


def load_faq(
    folder: Path, facts: Facts, languages: tuple[str, ...], kinds: Collection[str] = ()
) -> Faq:
    """Read all topics, intents and examples of danger (of these `kinds`) of `folder`.

    Raises:
        ContentError: every mistake found, each with file, key and remedy.
    """
    mistakes: list[str] = []
    topics: dict[str, Topic] = {}
    examples: list[tuple[str, str, str]] = []
    for path in sorted((folder / "topics").glob("*.yaml")):
        try:
            topic, lines = _topic(path, facts, languages)
        except ContentError as error:
            mistakes += error.mistakes
            continue
        topics[topic.id] = topic
        examples += lines
    for intent in INTENTS:
        path = folder / "intents" / f"{intent}.yaml"
        try:
            row = read_yaml(path)
            examples += [
                (intent, language, str(example))
                for language, part in row["languages"].items()
                for example in part["examples"]
            ]
        except ContentError as error:
            mistakes += error.mistakes
        except (KeyError, TypeError, AttributeError):
            mistakes.append(f"{path.name}: languages: write `xx:` with `examples:`, a list.")
    dangers: list[tuple[str, str, str]] = []
    for path in sorted((folder / "risk").glob("*.yaml")):
        try:
            dangers += _dangers(path, languages, kinds)
        except ContentError as error:
            mistakes += error.mistakes
    if not topics and not mistakes:
        mistakes.append(f"{folder / 'topics'}: no topics here. Check BOT_FAQ_DIR.")
    if mistakes:
        raise ContentError(mistakes)
    return Faq(topics, tuple(examples), tuple(dangers))


def _dangers(
    path: Path, languages: Collection[str], kinds: Collection[str]
) -> Iterator[tuple[str, str, str]]:
    row = read_yaml(path)
    listed = row.get("examples") if isinstance(row, dict) else None
    if path.stem not in languages or not isinstance(listed, dict):
        what = "name the file after a language, and write `examples:` with kinds of danger in it."
        raise ContentError([f"{path.name}: {what}"])
    if unknown := set(listed) - {*kinds, HARMLESS}:
        known = ", ".join((*kinds, HARMLESS))
        raise ContentError(
            [f"{path.name}: examples.{kind}: unknown. Use {known}." for kind in sorted(unknown)]
        )
    for kind, texts in listed.items():
        for text in texts or ():
            yield f"risk/{kind}", path.stem, str(text)


def _topic(
    path: Path, facts: Facts, languages: tuple[str, ...]
) -> tuple[Topic, list[tuple[str, str, str]]]:
    row = read_yaml(path)
    mistakes: list[str] = []

    def wrong(key: str, what: str) -> None:
        mistakes.append(f"{path.name}: {key}: {what}")

    def need(part: Any, key: str, kind: type, where: str = "") -> Any:
        value = part.get(key) if isinstance(part, dict) else None
        if not isinstance(value, kind) or (isinstance(value, (str, list, dict)) and not value):
            wrong(where + key, f"missing or not a {kind.__name__}. Write it as in other topics.")
            return kind() if kind is not date else date(2000, 1, 1)
        return value

    if need(row, "id", str) != path.stem:
        wrong("id", f"must be the file's name, {path.stem}. Rename one of them.")
    sources = tuple(
        Source(
            need(part, "title", str, f"sources.{number}."),
            need(part, "publisher", str, f"sources.{number}."),
            part.get("url") or "",
            part.get("verified") is True,
        )
        for number, part in enumerate(need(row, "sources", list), 1)
    )
    editions: dict[str, Edition] = {}
    lines: list[tuple[str, str, str]] = []
    for language, part in need(row, "languages", dict).items():
        where = f"languages.{language}."
        if language not in languages:
            wrong(where.rstrip("."), f"unknown language. Use one of {' '.join(languages)}.")
            continue
        edition = Edition(
            need(part, "title", str, where).strip(),
            need(part, "answer", str, where).strip(),
            str(part.get("sms") or "").strip(),
            str(part.get("voice") or "").strip(),
            str(part.get("review") or "draft"),
        )
        if len(edition.title) > TITLE_LIMIT:
            wrong(where + "title", f"{len(edition.title)} characters; at most {TITLE_LIMIT}.")
        if len(facts.fill_known(edition.answer, language)) > ANSWER_LIMIT:
            wrong(where + "answer", f"{len(edition.answer)} characters; at most {ANSWER_LIMIT}.")
        for key, body in (
            ("title", edition.title),
            ("answer", edition.answer),
            ("sms", edition.sms),
            ("voice", edition.voice),
        ):
            for reference in facts.unknown(body):
                wrong(
                    where + key,
                    f"{reference} is not in directory.yaml or figures.yaml. "
                    "Add it there or correct the key.",
                )
            if "{" in REFERENCE.sub("", body):
                wrong(where + key, "a brace that is no {tel:…} or {figure:…}. Take it out.")
        editions[language] = edition
        listed = part.get("examples") or []
        if "-" not in language and len(listed) < 8:
            wrong(where + "examples", f"{len(listed)} examples; at least 8 are needed.")
        learned = [*listed, *(part.get("also") or [])]
        lines += [(f"faq/{path.stem}", language, str(example)) for example in learned]
    topic = Topic(
        path.stem,
        need(row, "category", str),
        row.get("ask_human") is True,
        need(row, "updated", date),
        sources,
        tuple(map(str, row.get("unverified") or ())),
        editions,
    )
    if mistakes:
        raise ContentError(mistakes)
    return topic, lines
