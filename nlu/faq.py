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
from typing import Any, TypeVar

from config.content import ContentError, Report, place, read_yaml
from config.facts import REFERENCE, Facts
from config.texts import Text, Texts

INTENTS = ("greet", "thanks", "goodbye", "human", "out_of_scope")
HARMLESS = "harmless"
CATEGORIES = ("work", "residence", "money", "life", "service")
TOPIC_KEYS = (
    "id",
    "publish",
    "category",
    "ask_human",
    "updated",
    "sources",
    "unverified",
    "languages",
)
EDITION_KEYS = ("review", "title", "answer", "sms", "voice", "examples", "also")
TITLE_LIMIT, ANSWER_LIMIT, SMS_LIMIT, SMS_LIMIT_JAPANESE = 40, 900, 300, 160
"""Characters at most, with numbers and figures filled in."""
FEWEST, MOST = 8, 15
"""Examples of a topic in each language; `also` is not counted."""
T = TypeVar("T")
Example = tuple[str, str, str]
"""(intent, language, text)"""
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
    folder: Path, facts: Facts, languages: tuple[str, ...], kinds: Collection[str] | None = ()
) -> Faq:
    """Read all topics, intents and examples of danger of `folder`.

    `kinds`: the kinds of danger that there are; None if they are not known.

    Raises:
        ContentError: every mistake found, each with file, line, key and remedy.
    """
    report = Report()
    topics: dict[str, Topic] = {}
    examples: list[Example] = []
    for path in sorted((folder / "topics").glob("*.yaml")):
        file = report.collect(FaqFile, path)
        if file is None or file.unfinished:
            continue
        if read := report.collect(read_topic, file, facts, languages):
            topics[path.stem] = read[0]
            examples += read[1]
    for intent in INTENTS:
        path = folder / "intents" / f"{intent}.yaml"
        examples += report.collect(_intent, path, languages) or ()
    dangers: list[Example] = []
    for path in sorted((folder / "risk").glob("*.yaml")):
        dangers += report.collect(_dangers, path, languages, kinds) or ()
    if not topics and not report.mistakes:
        report.mistakes.append(f"{folder / 'topics'}: no topics here. Check BOT_FAQ_DIR.")
    if report.mistakes:
        raise ContentError(report.mistakes)
    return Faq(topics, tuple(examples), tuple(dangers))


class FaqFile:
    """One file of the FAQ while it is read: it knows where its mistakes are."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mistakes: list[str] = []
        self.row = read_yaml(path)

    @property
    def unfinished(self) -> bool:
        """Whether it says `publish: false`: a topic half written must not keep others back."""
        return isinstance(self.row, dict) and self.row.get("publish") is False

    def wrong(self, what: str, *keys: str | int) -> None:
        self.mistakes.append(f"{place(self.path, *keys)}: {what}")

    def need(self, part: Any, kind: type[T], *keys: str | int) -> T:
        """The value under the last key in `part`; an empty one if it is not there."""
        value = part.get(keys[-1]) if isinstance(part, dict) else None
        if isinstance(value, kind) and value:
            return value
        self.wrong(f"missing or no {_KIND[kind]}. Write it as in other topics.", *keys)
        empty: T = _EMPTY[kind]
        return empty

    def known(self, part: Any, allowed: Collection[str], *keys: str | int) -> None:
        """Name keys that mean nothing here: a slip of the pen would be lost silently."""
        for key in part if isinstance(part, dict) else ():
            if key not in allowed:
                self.wrong(f"unknown key. Use one of {' '.join(allowed)}.", *keys, str(key))

    def texts(self, part: Any, *keys: str | int) -> list[str]:
        """The examples under the last key in `part`."""
        listed = part.get(keys[-1]) if isinstance(part, dict) else None
        if listed is None:
            return []
        if not isinstance(listed, list):
            self.wrong("no list. Write one example a line, each after `- `.", *keys)
            return []
        empty = [number for number, text in enumerate(listed) if not str(text or "").strip()]
        if empty:
            self.wrong(f"{len(empty)} empty. Write an example, or take it out.", *keys, empty[0])
        for number, text in enumerate(listed):
            if isinstance(text, (dict, list)) and text:
                self.wrong("no plain text. Put the example into quotes.", *keys, number)
        return [str(text) for text in listed if text]

    def done(self) -> None:
        """Raise what was found."""
        if self.mistakes:
            raise ContentError(self.mistakes)


_EMPTY: dict[type, Any] = {str: "", list: [], dict: {}, date: date(2000, 1, 1)}
_KIND = {str: "text", list: "list", dict: "table", date: "date (YYYY-MM-DD)"}


def _intent(path: Path, languages: Collection[str]) -> list[Example]:
    file = FaqFile(path)
    intent = path.stem
    examples: list[Example] = []
    for language, part in file.need(file.row, dict, "languages").items():
        where = ("languages", language)
        if language not in languages:
            file.wrong(f"unknown language. Use one of {' '.join(languages)}.", *where)
        file.known(part, EDITION_KEYS, *where)
        for key in ("examples", "also"):
            texts = file.texts(part, *where, key)
            examples += [(intent, language, text) for text in texts]
    file.done()
    return examples


def _dangers(
    path: Path, languages: Collection[str], kinds: Collection[str] | None
) -> list[Example]:
    file = FaqFile(path)
    if path.stem not in languages:
        file.wrong(f"no language of the desk. Name the file after one of {' '.join(languages)}.")
    listed = file.need(file.row, dict, "examples")
    examples: list[Example] = []
    language = path.stem
    for kind in listed:
        if kinds is not None and kind not in {*kinds, HARMLESS}:
            file.wrong(f"unknown. Use {', '.join((*kinds, HARMLESS))}.", "examples", kind)
        texts = file.texts(listed, "examples", kind)
        examples += [(f"risk/{kind}", language, text) for text in texts]
    file.done()
    return examples


def read_topic(
    file: FaqFile, facts: Facts, languages: tuple[str, ...]
) -> tuple[Topic, list[Example]]:
    """The topic of a file, and its examples.

    Raises:
        ContentError: every mistake.
    """
    path = file.path
    row = file.row if isinstance(file.row, dict) else {}
    file.known(row, TOPIC_KEYS)
    if file.need(row, str, "id") != path.stem:
        file.wrong(f"must be the file's name, {path.stem}. Rename one of them.", "id")
    sources = []
    for number, part in enumerate(file.need(row, list, "sources")):
        where = ("sources", number)
        title = file.need(part, str, *where, "title")
        publisher = file.need(part, str, *where, "publisher")
        rest = part if isinstance(part, dict) else {}
        sources.append(
            Source(title, publisher, rest.get("url") or "", rest.get("verified") is True)
        )
    editions: dict[str, Edition] = {}
    examples: list[Example] = []
    for language, part in file.need(row, dict, "languages").items():
        if language not in languages:
            file.wrong(
                f"unknown language. Use one of {' '.join(languages)}.", "languages", str(language)
            )
            continue
        editions[language] = _edition(file, part, language, facts)
        for key in ("examples", "also"):
            texts = file.texts(part, "languages", language, key)
            examples += [(f"faq/{path.stem}", language, text) for text in texts]
            given = isinstance(part, dict) and part.get(key)  # faults in it are told already
            few = len(texts) < FEWEST and bool(texts or not given)
            if key == "examples" and "-" not in language and few:
                more = FEWEST - len(texts)
                file.wrong(
                    f"{len(texts)} examples; at least {FEWEST} are needed. Add {more}.",
                    *("languages", language, key),
                )
    topic = Topic(
        path.stem,
        file.need(row, str, "category"),
        row.get("ask_human") is True,
        file.need(row, date, "updated"),
        tuple(sources),
        tuple(map(str, row.get("unverified") or ())),
        editions,
    )
    if topic.category and topic.category not in CATEGORIES:
        file.wrong(f"unknown. Use one of {' '.join(CATEGORIES)}.", "category")
    file.done()
    return topic, examples


def _edition(file: FaqFile, part: Any, language: str, facts: Facts) -> Edition:
    where = ("languages", language)
    file.known(part, EDITION_KEYS, *where)
    rest = part if isinstance(part, dict) else {}
    edition = Edition(
        file.need(part, str, *where, "title").strip(),
        file.need(part, str, *where, "answer").strip(),
        str(rest.get("sms") or "").strip(),
        str(rest.get("voice") or "").strip(),
        str(rest.get("review") or "draft"),
    )
    japanese = language.partition("-")[0] == "ja"
    for key, body, limit in (
        ("title", edition.title, TITLE_LIMIT),
        ("answer", edition.answer, ANSWER_LIMIT),
        ("sms", edition.sms, SMS_LIMIT_JAPANESE if japanese else SMS_LIMIT),
        ("voice", edition.voice, ANSWER_LIMIT),
    ):
        length = len(facts.fill_known(body, language))
        if length > limit:
            file.wrong(
                f"{length} characters; at most {limit}. Shorten it by {length - limit}.",
                *(*where, key),
            )
        for reference in facts.unknown(body):
            file.wrong(
                f"{reference} is not in directory.yaml or figures.yaml. "
                "Add it there or correct the key.",
                *(*where, key),
            )
        if set("{}") & set(REFERENCE.sub("", body)):
            file.wrong(
                "a brace that is no {tel:…} or {figure:…}. Take it out or complete it.",
                *(*where, key),
            )
    return edition
