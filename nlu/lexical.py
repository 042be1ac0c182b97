"""The stand-in for Rasa: topics by likeness to the example questions, letter by letter.

It knows no synonyms, so its confidence is modest by design: it answers only what is nearly an
example, suggests what is close, and leaves the rest to a person.
"""

import unicodedata
from collections.abc import Sequence

from rapidfuzz import fuzz, process


class LexicalSearch:
    """Search over (intent, language, text) examples.

    What it needs of a language is made when that is asked for first: as a rule it never is.
    """

    def __init__(self, examples: Sequence[tuple[str, str, str]]) -> None:
        self._examples = examples
        self._by_language: dict[str, tuple[list[str], list[str]]] = {}

    def _of(self, language: str) -> tuple[list[str], list[str]]:
        """Texts and intents of a language; of all, if it has none."""
        if language not in self._by_language:
            rows = [(text, intent) for intent, code, text in self._examples if code == language]
            if not rows and language:
                return self._of("")
            rows = rows or [(text, intent) for intent, _, text in self._examples]
            self._by_language[language] = [_fold(t) for t, _ in rows], [i for _, i in rows]
        return self._by_language[language]

    def rank(self, text: str, language: str, limit: int = 5) -> tuple[tuple[str, float], ...]:
        """Intents by likeness, best first, with confidences from 0 to 1."""
        texts, intents = self._of(language)
        folded = _fold(text)
        if not folded:
            return ()
        best: dict[str, float] = {}
        for _, score, place in process.extract(
            folded, texts, scorer=fuzz.token_sort_ratio, limit=40, score_cutoff=35
        ):
            best.setdefault(intents[place], _confidence(score))
        ranked = sorted(best.items(), key=lambda pair: -pair[1])
        return tuple(ranked[:limit])


def _confidence(score: float) -> float:
    """Likeness 0-100 as a confidence: 90 is sure, 60 is a guess, 45 is nothing."""
    return round(min(1.0, max(0.0, (score - 45) / 45)), 4)


def _fold(text: str) -> str:
    """Lower case without diacritics or punctuation; scripts that need their marks keep them."""
    letters = unicodedata.normalize("NFKD", text.casefold()).replace("đ", "d")
    kept = (
        char
        if char.isalnum() or "\u0900" <= char <= "\u109f" or "\u3099" <= char <= "\u309a"
        else ""
        if unicodedata.combining(char)
        else " "
        for char in letters
    )
    return " ".join("".join(kept).split())
