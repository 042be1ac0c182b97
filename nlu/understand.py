"""Understanding a message: language, topic, risk, in this order of trust.

Risk and language are found here without any other process. The topic comes from Rasa; while Rasa is
away a lexical search over the FAQ's examples stands in, and the understanding is marked `degraded`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nlu.burmese import to_unicode
from nlu.language import LANGUAGES, UNKNOWN, LanguageGuess, identify, warm_up, written
from nlu.lexical import LexicalSearch
from nlu.rasa_client import RasaClient, RasaResult, RasaUnavailable
from nlu.risk import Risk, RiskLexicon

READ = 1000
"""Characters of a message in which a topic is looked for; risk is looked for in all of it."""


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
        self, texts: Sequence[str], priors: Sequence[str | None]
    ) -> list[Understanding]:
        """One understanding per text. `priors`: the conversation's language, if known.

        Never raises for any text.
        """
        came, texts = texts, [to_unicode(text) for text in texts]
        priors = [prior.partition("-")[0] if prior else None for prior in priors]
        risks = [self.lexicon.find(text) for text in texts]
        guesses = [identify(text, prior=prior) for text, prior in zip(texts, priors, strict=True)]
        looked_at = [text[:READ] for text in texts]
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
            rankings, degraded = [result.intents for result in results], False
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
                written(text, guess.code),
                text if text != original else "",
            )
            for original, text, guess, ranking, risk in zip(
                came, texts, guesses, rankings, risks, strict=True
            )
        ]


def _language(guess: LanguageGuess, result: RasaResult) -> LanguageGuess:
    """The program's own guess; where it has none, Rasa's, which learned from the same texts.

    Rasa knows only the ten languages, so it is not asked where a surer stranger was heard.
    """
    if guess.code == UNKNOWN and result.language in LANGUAGES:
        return LanguageGuess(result.language, result.language_confidence)
    return guess
