"""All content of the desk, loaded and checked as one: texts, FAQ, risk words, thresholds."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bot.dialogue import Library, load_thresholds
from bot.turn import Content
from config.content import ContentError
from config.facts import CONFIG, Facts, load_facts
from config.texts import Text, Texts, load_texts
from config.traditional import traditional
from nlu.faq import Faq, load_faq
from nlu.language import learn
from nlu.lexical import LexicalSearch
from nlu.risk import RiskFileError, RiskLexicon


@dataclass(frozen=True)
class Loaded:
    """Everything that editors write."""

    facts: Facts
    faq: Faq
    lexicon: RiskLexicon
    lexical: LexicalSearch
    content: Content

    def title(self, topic: str, language: str) -> str:
        """The title of a topic in a language of the console."""
        text = self.content.all_texts.get((f"faq/{topic}/title", language))
        return text.body if text else topic

    def risk_name(self, kind: str, language: str) -> str:
        """The name of a kind of danger in a language of the console."""
        named = self.lexicon.types.get(kind)
        return named.name.get(language, kind) if named else kind

    def teach_languages(self, *, now: bool = False) -> None:
        """Let languages be told by these texts from now on; `now`: learn before returning."""
        learn(((language, text) for _, language, text in self.faq.training()), now=now)

    def drafts(self) -> list[Mapping[str, str]]:
        """Texts that no native speaker has checked, with what still rests on memory."""
        rows: list[Mapping[str, str]] = []
        for topic in self.faq.topics.values():
            doubtful = [*topic.unverified]
            doubtful += [f"source: {s.title}" for s in topic.sources if not s.verified]
            for language, edition in topic.editions.items():
                if edition.review == "draft":
                    rows.append(
                        {
                            "id": f"faq/{topic.id}",
                            "language": language,
                            "title": edition.title,
                            "review": edition.review,
                            "unverified": "; ".join(doubtful),
                        }
                    )
        rows += [
            {
                "id": text.id,
                "language": text.language,
                "title": text.body[:80],
                "review": text.review,
                "unverified": "",
            }
            for text in self.content.texts
            if text.review == "draft"
        ]
        return rows


def load_content(faq_dir: Path, *, teach: bool = True) -> Loaded:
    """Load and check all content, and let languages be told by it, unless not to `teach` yet.

    Raises:
        ContentError: every mistake of the first files that have some, each with its remedy.
    """
    facts = load_facts()
    texts = load_texts(facts)
    lexicon = load_risk_words()
    faq = load_faq(faq_dir, facts, (*texts.languages, *texts.registers), tuple(lexicon.types))
    spoken = [row for row in lexicon.examples() if row[0] != "risk/harmless" or _calm(lexicon, row)]
    faq = replace(faq, dangers=(*faq.dangers, *spoken))
    _write_traditional(faq, facts)
    words = _all(texts, faq, facts)
    library = Library(
        languages=tuple(texts.languages),
        topics={topic.id: topic.ask_human for topic in faq.topics.values()},
        has=lambda text_id, language: (text_id, language) in words,
        taught=_taught(faq, texts),
        emergency_texts={kind.id: kind.text for kind in lexicon.types.values()},
    )
    missing = [
        f"risk.yaml: types.{kind}.text: no text “{text_id}” in desk.pot. Add it in all languages."
        for kind, text_id in library.emergency_texts.items()
        if (text_id, "en") not in words
    ]
    if missing:
        raise ContentError(missing)
    loaded = Loaded(
        facts,
        faq,
        lexicon,
        LexicalSearch(faq.examples),
        Content(texts, library, load_thresholds(), words),
    )
    if teach:
        loaded.teach_languages()
    return loaded


def _calm(lexicon: RiskLexicon, row: tuple[str, str, str]) -> bool:
    """Whether a message that is silent for one kind of danger is so for all."""
    return lexicon.find(row[2]).level == "none"


def load_risk_words() -> RiskLexicon:
    """Read the words that mean danger.

    Raises:
        ContentError: every mistake of the file.
    """
    try:
        return RiskLexicon.load(CONFIG / "risk.yaml")
    except RiskFileError as error:
        raise ContentError(list(error.problems)) from None


def _taught(faq: Faq, texts: Texts) -> frozenset[str]:
    taught = {code for intent, code, _ in faq.examples if intent.startswith("faq/")}
    return frozenset(taught | {c for c in texts.registers if c.partition("-")[0] in taught})


def _write_traditional(faq: Faq, facts: Facts) -> None:
    """Add to each topic its texts in traditional Chinese, unless an editor wrote them."""
    for topic in faq.topics.values():
        simplified = topic.editions.get("zh")
        if simplified and "zh-hant" not in topic.editions:
            forms = {
                form: traditional(facts.fill(getattr(simplified, form), "zh"))
                for form in ("title", "answer", "sms", "voice")
            }
            topic.editions["zh-hant"] = replace(simplified, **forms)


def _all(texts: Texts, faq: Faq, facts: Facts) -> dict[tuple[str, str], Text]:
    words = dict(texts.texts)
    words |= {(text.id, text.language): text for text in faq.texts(texts, facts)}
    for language in texts.languages.values():
        name = Text(f"language.name/{language.code}", "mul", language.name, "reviewed")
        words[name.id, "mul"] = name
    lines = dict.fromkeys(texts("language.menu", code).body for code in texts.languages)
    words["language.menu", "mul"] = Text("language.menu", "mul", "\n".join(lines), "draft")
    return words
