"""Understanding a message: language, topic, risk, in this order of trust.

Risk words and the language are found here without any other process. The topic comes from Rasa, and
so does a second opinion on language and risk; while Rasa is away a lexical search over the FAQ's
examples stands in, and the understanding is marked `degraded`.

A message of several sentences is also looked at sentence by sentence: it may ask several things. A
short one that says little by itself ("how many days?") is looked at together with what was answered
before.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nlu.burmese import to_unicode
from nlu.danger import graver, weigh
from nlu.language import LANGUAGES, UNKNOWN, LanguageGuess, identify, warm_up, written
from nlu.lexical import LexicalSearch
from nlu.rasa_client import RasaClient, RasaResult, RasaUnavailable
from nlu.risk import Risk, RiskLexicon

READ = 1000
"""Characters of a message in which a topic is looked for; risk is looked for in all of it."""
SURE = 0.75
"""From this confidence on a sentence asks for its topic; below, a short message may follow up."""
MOST_QUESTIONS = 3
_SPOKEN = 0.015
"""Confidence that a topic must have in a whole message to be one of its questions."""
_PARTS = 12
"""Sentences of one message that are looked at by themselves."""
_SHORT = 60
"""Characters of a message that may be a follow-up; a Chinese, Japanese or Burmese one says more."""
LONG = 300
"""Characters after which the classifier of danger reads sentence by sentence, too."""
_SENTENCE_END = re.compile(r"(?<=[.?!;…])\s+|(?<=[。？！؟।॥။])\s*|\n+")


@dataclass(frozen=True, slots=True)
class Understanding:
    """What a message means.

    `ranking`: intents with calibrated confidence, best first: `faq/<topic>` or one of
    `faq.INTENTS`. `language`: one of the ten, another ISO 639-1 code, or `und`. `written`: the way
    of writing it that the message clearly shows: `zh-hant`, `zh`, or "". `read`: the text as it was
    read, where it came in another encoding (Burmese in Zawgyi), else "".
    """

    language: str
    language_confidence: float
    ranking: tuple[tuple[str, float], ...]
    risk: Risk
    degraded: bool = False
    questions: tuple[str, ...] = ()
    """Topics, in the order in which they are asked, if a message asks for more than one."""
    written: str = ""
    read: str = ""

    @property
    def topics(self) -> tuple[tuple[str, float], ...]:
        """The topics of the ranking, without the prefix."""
        return tuple((i[4:], c) for i, c in self.ranking if i.startswith("faq/"))


class Understander:
    """Understands messages with Rasa when it answers, else with the lexical search.

    `rasa` gives the present connection, or None while there is none.
    """

    def __init__(
        self,
        lexicon: RiskLexicon,
        lexical: LexicalSearch,
        rasa: Callable[[], RasaClient | None],
    ) -> None:
        self.lexicon, self.lexical, self.rasa = lexicon, lexical, rasa

    def warm(self) -> None:
        """Load what is loaded lazily, so that the first worker does not wait for it."""
        warm_up()
        self.lexicon.find("hello")

    async def understand(
        self,
        texts: Sequence[str],
        priors: Sequence[str | None],
        before: Sequence[str] = (),
    ) -> list[Understanding]:
        """One understanding per text. `priors`: the conversation's language, if known; `before`:
        the title of what was answered last, or "".

        Never raises for any text.
        """
        came, texts = texts, [to_unicode(text) for text in texts]
        priors = [prior.partition("-")[0] if prior else None for prior in priors]
        risks = [self.lexicon.find(text) for text in texts]
        guesses = [identify(text, prior=prior) for text, prior in zip(texts, priors, strict=True)]
        looked_at = [text[:READ] for text in texts]
        questions: list[tuple[str, ...]] = [()] * len(texts)
        try:
            client = self.rasa()
            if client is None:
                raise RasaUnavailable("not started")
            hints = [
                guess.code if guess.confidence >= 0.5 else prior
                for guess, prior in zip(guesses, priors, strict=True)
            ]
            results = await client.parse(looked_at, hints)
            guesses = list(map(_language, guesses, results))
            before = before or [""] * len(texts)
            rankings = await self._with_before(client, looked_at, hints, results, before)
            weighed = [
                weigh(self.lexicon, text, risk, result.danger)
                for text, risk, result in zip(texts, risks, results, strict=True)
            ]
            parts = [
                _sentences(text) if len(text) > LONG or len(_spoken(ranking)) > 1 else []
                for text, ranking in zip(texts, rankings, strict=True)
            ]
            by_part = await _parse_parts(client, parts, hints)
            questions = list(map(_questions, rankings, by_part))
            for place, text in enumerate(texts):
                if len(text) > LONG:  # the classifier read its beginning only
                    for part, judged in zip(parts[place], by_part[place], strict=True):
                        told = weigh(self.lexicon, part, self.lexicon.find(part), judged.danger)
                        weighed[place] = graver(weighed[place], told)
            risks = weighed  # only now: had Rasa died halfway, the words would have decided alone
            degraded = False
        except RasaUnavailable:
            rankings = [
                self.lexical.rank(text, guess.code)
                for text, guess in zip(looked_at, guesses, strict=True)
            ]
            degraded = True
        return [
            Understanding(
                guess.code,
                guess.confidence,
                ranking,
                risk,
                degraded,
                asked,
                written(text, guess.code),
                text if text != original else "",
            )
            for original, text, guess, ranking, risk, asked in zip(
                came, texts, guesses, rankings, risks, questions, strict=True
            )
        ]

    async def _with_before(
        self,
        client: RasaClient,
        texts: Sequence[str],
        languages: Sequence[str | None],
        results: Sequence[RasaResult],
        before: Sequence[str],
    ) -> list[tuple[tuple[str, float], ...]]:
        """The rankings; those of follow-ups halfway to what they mean after the last answer."""
        rankings = [result.intents for result in results]
        open_ones = [
            place
            for place, (text, title) in enumerate(zip(texts, before, strict=True))
            if title and 0 < len(text.strip()) <= _SHORT and _unsure(rankings[place])
        ]
        if open_ones:
            together = [f"{before[place]}. {texts[place]}" for place in open_ones]
            answers = await client.parse(together, [languages[place] for place in open_ones])
            for place, answer in zip(open_ones, answers, strict=True):
                rankings[place] = _mean(rankings[place], answer.intents)
        return rankings


async def _parse_parts(
    client: RasaClient, parts: Sequence[Sequence[str]], languages: Sequence[str | None]
) -> list[list[RasaResult]]:
    """What Rasa makes of the sentences of each message, asked at once."""
    asked = [part for ones in parts for part in ones]
    hints = [hint for hint, ones in zip(languages, parts, strict=True) for _ in ones]
    answers = iter(await client.parse(asked, hints) if asked else [])
    return [[next(answers) for _ in ones] for ones in parts]


def _sentences(text: str) -> list[str]:
    """The sentences of a message that has more than one, short ones joined to the next."""
    found: list[str] = []
    held = ""
    for piece in _SENTENCE_END.split(text[: READ * 4]):
        held = f"{held} {piece}".strip()
        if sum(2 if character > "\u1000" else 1 for character in held) >= 16:
            found.append(held)
            held = ""
    if held and found:
        found[-1] = f"{found[-1]} {held}"
    return found[:_PARTS] if len(found) > 1 else []


def _unsure(ranking: tuple[tuple[str, float], ...]) -> bool:
    return not ranking or ranking[0][1] < SURE


def _mean(
    one: tuple[tuple[str, float], ...], other: tuple[tuple[str, float], ...]
) -> tuple[tuple[str, float], ...]:
    chances: dict[str, float] = {}
    for intent, chance in (*one, *other):
        chances[intent] = chances.get(intent, 0.0) + chance / 2
    return tuple(sorted(chances.items(), key=lambda item: -item[1]))


def _spoken(ranking: tuple[tuple[str, float], ...]) -> set[str]:
    """The topics that a message as a whole may speak of."""
    return {i for i, chance in ranking[:5] if chance >= _SPOKEN and i.startswith("faq/")}


def _questions(
    ranking: tuple[tuple[str, float], ...], parts: Sequence[RasaResult]
) -> tuple[str, ...]:
    """The topics that sentences ask for surely, if they are more than one and the message as a
    whole speaks of each of them, too: a story told in many sentences asks one thing."""
    spoken = _spoken(ranking)
    topics = dict.fromkeys(
        part.intents[0][0].removeprefix("faq/")
        for part in parts
        if part.intents and part.intents[0][1] >= SURE and part.intents[0][0] in spoken
    )
    return tuple(topics)[:MOST_QUESTIONS] if len(topics) > 1 else ()


def _language(guess: LanguageGuess, result: RasaResult) -> LanguageGuess:
    """The program's own guess; where it has none, Rasa's, which learned from the same texts.

    Rasa knows only the ten languages, so it is not asked where a surer stranger was heard.
    """
    if guess.code == UNKNOWN and result.language in LANGUAGES:
        return LanguageGuess(result.language, result.language_confidence)
    return guess
