"""Understanding a message: language, topic, risk, in this order of trust.

Risk and language are found here without any other process. The topic comes from Rasa; while Rasa is
away a lexical search over the FAQ's examples stands in, and the understanding is marked `degraded`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nlu.language import LanguageGuess, identify, warm_up
from nlu.lexical import LexicalSearch
from nlu.rasa_client import RasaClient, RasaResult, RasaUnavailable
from nlu.risk import Risk, RiskLexicon

READ = 1000
"""Characters of a message in which a topic is looked for; risk is looked for in all of it."""


@dataclass(frozen=True, slots=True)
class Understanding:
    """What a message means.

    `ranking`: intents with calibrated confidence, best first: `faq/<topic>` or one of
    `faq.INTENTS`. `language`: one of the ten, another ISO 639-1 code, or `und`.
    """

    language: str
    language_confidence: float
    ranking: tuple[tuple[str, float], ...]
    risk: Risk
    degraded: bool = False

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
        risks = [self.lexicon.find(text) for text in texts]
        guesses = [identify(text, prior=prior) for text, prior in zip(texts, priors, strict=True)]
        read = [text[:READ] for text in texts]
        try:
            client = self.rasa()
            if client is None:
                raise RasaUnavailable("not started")
            languages = [
                guess.code if guess.confidence >= 0.5 else prior
                for guess, prior in zip(guesses, priors, strict=True)
            ]
            results = await client.parse(read, languages)
        except RasaUnavailable:
            return [
                Understanding(
                    guess.code,
                    guess.confidence,
                    self.lexical.rank(text, guess.code),
                    risk,
                    degraded=True,
                )
                for text, guess, risk in zip(read, guesses, risks, strict=True)
            ]
        understood = []
        for guess, prior, risk, result in zip(guesses, priors, risks, results, strict=True):
            best = _language(guess, result, prior)
            understood.append(Understanding(best.code, best.confidence, result.intents, risk))
        return understood


def _language(guess: LanguageGuess, result: RasaResult, prior: str | None) -> LanguageGuess:
    """The surer of the two: rules and general models here, a model of our own texts in Rasa.

    Rasa knows only the ten languages; so it decides among them and never overrules another script.
    """
    if not result.language or result.language_confidence <= guess.confidence:
        return guess
    if guess.code not in {result.language, "und"} and guess.confidence >= 0.8:
        return guess
    if prior == guess.code and result.language_confidence < 0.9:
        return guess
    return LanguageGuess(result.language, result.language_confidence)
