"""Which of our languages' words a message is made of, learned from our own texts.

Each language is a bag of words over a chain of letters: a word that our texts know speaks by its
frequency, any other by its letters. Any word may be borrowed (zangyo, ryo, passport, a name), so no
single one may say more than `_BORROWED` allows; that is what makes the chances honest. Learning
from all examples takes a fraction of a second, so what editors add counts at the next start.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache

import numpy as np
import regex

_BORROWED = 0.1  # share of words that may be of any language
_BACKING = 2.0  # how many letters seen outweigh what shorter runs of letters say
_UNSEEN = 1000.0  # how many words seen outweigh what letters say of a word
_MOST = 3.0  # one frequent word shall not rule the letters
_SPACE = 1 << 21  # more than any letter's number; three of them fit 64 bits
_START, _END = 1, 2
_ALPHABET = 2000.0  # a letter never seen is as likely as one in so many
_TOKEN = regex.compile(r"[\p{Latin}\p{Devanagari}\p{M}]+|[\p{L}\p{M}]{1,6}")
_UNSEEN_SIGNS = regex.compile(r"[\p{Cf}\p{Cs}'’]")
_DIACRITICS = regex.compile("[\u0300-\u036f]")


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case; scripts without spaces give runs of letters."""
    text = _UNSEEN_SIGNS.sub("", unicodedata.normalize("NFKC", text).lower())
    found: list[str] = _TOKEN.findall(text)
    return found


def bare(text: str) -> str:
    """Without Latin diacritics, as people type on phones that have none."""
    letters = _DIACRITICS.sub("", unicodedata.normalize("NFD", text))
    return unicodedata.normalize("NFC", letters).replace("đ", "d").replace("Đ", "D")


class WordModel:
    """Chances of languages, from texts of each (`texts`: language → its texts)."""

    def __init__(self, texts: Mapping[str, Iterable[str]]) -> None:
        self.languages = tuple(texts)
        counted = [_count("\n".join(lines)) for lines in texts.values()]
        self._rows = {word: row for row, word in enumerate({w: 0 for c in counted for w in c})}
        self._counts = np.zeros((len(self._rows), len(counted)), np.float32)
        for column, counts in enumerate(counted):
            rows = [self._rows[word] for word in counts]
            self._counts[rows, column] = list(counts.values())
        self._total = self._counts.sum(axis=0)
        self._learn_letters()
        self._word = lru_cache(maxsize=20_000)(self._weigh)

    def chances(self, words: Iterable[str], prior: Mapping[str, float] | None = None) -> np.ndarray:
        """One chance for each of `languages`; `prior`: what speaks for some of them beforehand."""
        scores = np.array([(prior or {}).get(code, 0.0) for code in self.languages])
        for word in words:
            scores = scores + self._word(word)
        chances = np.exp(scores - scores.max())
        return np.asarray(chances / chances.sum())

    def known(self, words: Iterable[str], language: str) -> float:
        """The share of letters in words that our texts in a language know."""
        column = self.languages.index(language)
        letters = known = 0
        for word in words:
            letters += len(word)
            row = self._rows.get(word)
            if row is not None and self._counts[row, column]:
                known += len(word)
        return known / letters if letters else 0.0

    def strange(self, words: Iterable[str]) -> bool:
        """Whether there is a Latin letter that none of our texts has, such as ş or ß."""
        letters = np.array([ord(letter) for word in words for letter in word if letter < "ɐ"])
        return bool(letters.size and not self._seen(1, letters).any(axis=1).all())

    def _learn_letters(self) -> None:
        """Count runs of one, two and three letters over the words, all at once."""
        padded = "".join(f"\x01\x01{word}\x02" for word in self._rows)
        letters = np.frombuffer(padded.encode("utf-32-le"), np.uint32).astype(np.int64)
        lengths = [len(word) + 3 for word in self._rows]
        weights = np.repeat(np.minimum(self._counts, _MOST), lengths, axis=0)
        self._runs: list[tuple[np.ndarray, np.ndarray]] = []
        keys = np.zeros_like(letters)
        for _ in range(3):
            keys = np.concatenate([[0], keys[:-1]]) * _SPACE + letters
            seen, places = np.unique(keys, return_inverse=True)
            counts = np.zeros((len(seen) + 1, weights.shape[1]))  # the last row: never seen
            for column in range(weights.shape[1]):
                counts[:-1, column] = np.bincount(places, weights[:, column], len(seen))
            self._runs.append((seen, counts))

    def _seen(self, size: int, keys: np.ndarray) -> np.ndarray:
        seen, counts = self._runs[size - 1]
        places = np.searchsorted(seen, keys).clip(max=len(seen) - 1)
        found: np.ndarray = counts[np.where(seen[places] == keys, places, -1)]
        return found

    def _spelling(self, word: str) -> np.ndarray:
        """Log-likelihood of a word's letters in each language, each letter after the two before."""
        letters = np.array([_START, _START, *map(ord, word), _END], np.int64)
        one = letters[2:]
        before, two = letters[1:-1], letters[1:-1] * _SPACE + one
        pair = letters[:-2] * _SPACE + before
        all_letters = self._runs[0][1].sum(axis=0)
        likely = (self._seen(1, one) + _BACKING / _ALPHABET) / (all_letters + _BACKING)
        likely = (self._seen(2, two) + _BACKING * likely) / (self._seen(1, before) + _BACKING)
        three = pair * _SPACE + one
        likely = (self._seen(3, three) + _BACKING * likely) / (self._seen(2, pair) + _BACKING)
        return np.asarray(np.log(likely).sum(axis=0))

    def _weigh(self, word: str) -> np.ndarray:
        """What a word says for each language, as a logarithm."""
        spelling = self._spelling(word)
        row = self._rows.get(word)
        seen = self._counts[row] if row is not None else np.zeros_like(self._total)
        # Logarithms, for the letters of a long word are too unlikely for a number.
        with np.errstate(divide="ignore"):
            told = np.logaddexp(np.log(seen), spelling + np.log(_UNSEEN))
        told = told - np.log(self._total + _UNSEEN)
        chances = np.exp(told - told.max())
        chances /= chances.sum()
        return np.asarray(np.log((1 - _BORROWED) * chances + _BORROWED / len(chances)))


def _count(text: str) -> Counter[str]:
    """The words of a text, and once more without diacritics where there are some."""
    words = Counter(words_of(text))
    for word, times in list(words.items()):
        if (plain := bare(word)) != word:
            words[plain] += times
    return words
