"""Classifiers over character and word n-grams, and over sentence vectors.

Only plain arrays are kept in the model file: nothing is unpickled when it is loaded.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy import linalg, sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Scores to log-probabilities, row by row."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


@dataclass
class Kernel:
    """Kernel ridge regression over vectors of length 1: many examples speak for their label.

    The nearer an example, the louder it speaks. A sub-question that was asked in one language only
    is so found in all others, where a line between labels (logistic regression) would lose it:
    78 against 73 in 100 right on examples kept aside. All examples teach; some of them, the
    `centres`, are kept to speak.
    """

    labels: list[str]
    centres: np.ndarray
    weights: np.ndarray

    MOST = 8000
    """Centres: more are hardly better, and cost memory and time with each message."""
    SHARPNESS = 0.5
    SMOOTHNESS = 0.05

    @classmethod
    def fit(
        cls, vectors: np.ndarray, labels: Sequence[str], centres: Sequence[int], most: int = MOST
    ) -> Kernel:
        """Learn from rows of vectors; `centres`: the rows that may speak, at most `most` do."""
        names = sorted(set(labels))
        places = {name: place for place, name in enumerate(names)}
        wanted = np.full((len(labels), len(names)), -1.0, np.float32)
        wanted[np.arange(len(labels)), [places[label] for label in labels]] = 1.0
        vectors = vectors.astype(np.float32)
        if len(centres) > most:
            centres = np.random.default_rng(0).permutation(centres)[:most]
        chosen = vectors[list(centres)]
        equations = cls.SMOOTHNESS * cls._likeness(chosen, chosen).astype(np.float64)
        equations.flat[:: len(chosen) + 1] += 0.1  # what sums of 32-bit numbers lose
        sums = np.zeros((len(chosen), len(names)))
        for start in range(0, len(vectors), 2000):
            part = cls._likeness(vectors[start : start + 2000], chosen)
            equations += part.T @ part
            sums += part.T @ wanted[start : start + 2000]
        weights = linalg.solve(equations, sums, overwrite_a=True, assume_a="pos")
        return cls(names, chosen, weights.astype(np.float32))

    def scores(self, vectors: np.ndarray) -> np.ndarray:
        """One row per row of vectors, one column per label: about -1 for no, 1 for yes."""
        return np.asarray(self._likeness(vectors.astype(np.float32), self.centres) @ self.weights)

    @classmethod
    def _likeness(cls, some: np.ndarray, others: np.ndarray) -> np.ndarray:
        """exp(-sharpness * squared distance) for each pair of rows of length 1."""
        dots = some @ others.T
        np.subtract(dots, 1.0, out=dots)
        np.multiply(dots, 2 * cls.SHARPNESS, out=dots)
        return np.asarray(np.exp(dots, out=dots))

    def arrays(self) -> dict[str, np.ndarray]:
        """What `numpy.savez` keeps."""
        return {"centres": self.centres.astype(np.float16), "weights": self.weights}

    @classmethod
    def of(cls, labels: list[str], arrays: Mapping[str, np.ndarray]) -> Kernel:
        """From what `arrays` gave."""
        return cls(labels, arrays["centres"].astype(np.float32), arrays["weights"])


@dataclass
class NgramModel:
    """Text to label by runs of one to four characters and by words and pairs of words.

    Support vectors, one label against the rest; every label counts alike, however many examples it
    has. scikit-learn teaches it; asking it is done here, as scikit-learn's way with single texts
    takes ten times as long.
    """

    labels: list[str]
    vocabularies: tuple[dict[str, int], dict[str, int]]
    """Place of each run of characters, and of each word or pair, in the rows below."""
    rarity: np.ndarray
    """Inverse document frequency of each."""
    weights: np.ndarray
    """One row per run or word, one column per label."""
    bias: np.ndarray

    @classmethod
    def fit(
        cls, texts: Sequence[str], labels: Sequence[str], *, strength: float = 0.5
    ) -> NgramModel:
        """Learn from texts; what occurs in one text only is left out (if there are enough).

        `strength` is the inverse of the regularisation.
        """
        vectorizers = [
            TfidfVectorizer(
                analyzer=analyzer,
                sublinear_tf=True,
                dtype=np.float32,
                min_df=2 if len(texts) > 1000 else 1,
            )
            for analyzer in _ANALYZERS
        ]
        features = sparse.hstack([v.fit_transform(texts) for v in vectorizers]).tocsr()
        model = LinearSVC(C=strength, class_weight="balanced").fit(features, list(labels))
        weights, bias = model.coef_, model.intercept_
        if len(model.classes_) == 2:  # scikit-learn keeps one row for two labels
            weights, bias = np.vstack([-weights, weights]) / 2, np.hstack([-bias, bias]) / 2
        first = len(vectorizers[0].vocabulary_)
        runs, words = (dict(v.vocabulary_) for v in vectorizers)
        return cls(
            [str(label) for label in model.classes_],
            (runs, {word: first + place for word, place in words.items()}),
            np.hstack([v.idf_ for v in vectorizers]).astype(np.float32),
            np.ascontiguousarray(weights.T, dtype=np.float32),
            bias.astype(np.float32),
        )

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """One row per text, one column per label: about -1 for no, 1 for yes."""
        return np.stack([self._score(text) for text in texts])

    def _score(self, text: str) -> np.ndarray:
        score = self.bias.copy()
        for counts, vocabulary in zip(_counted(text), self.vocabularies, strict=True):
            known = [(vocabulary[gram], times) for gram, times in counts if gram in vocabulary]
            if known:
                places, times = zip(*known, strict=True)
                values = (1 + np.log(np.array(times, np.float32))) * self.rarity[list(places)]
                score += (values / np.linalg.norm(values)) @ self.weights[list(places)]
        return score

    def save(self, folder: Path, name: str) -> None:
        """Write `<name>.npz` and `<name>.json`."""
        about = {
            "labels": self.labels,
            "grams": [sorted(known, key=known.__getitem__) for known in self.vocabularies],
        }
        (folder / f"{name}.json").write_text(json.dumps(about), encoding="utf-8")
        np.savez(folder / f"{name}.npz", rarity=self.rarity, weights=self.weights, bias=self.bias)

    @classmethod
    def load(cls, folder: Path, name: str) -> NgramModel:
        """Read what `save` wrote."""
        about = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        runs, words = about["grams"]
        with np.load(folder / f"{name}.npz", allow_pickle=False) as kept:
            return cls(
                about["labels"],
                (
                    {gram: place for place, gram in enumerate(runs)},
                    {word: place for place, word in enumerate(words, len(runs))},
                ),
                kept["rarity"],
                kept["weights"],
                kept["bias"],
            )


_WORD = re.compile(r"~?\w+")


def _runs(text: str) -> list[str]:
    """Runs of one to four characters; those of words begin and end with a space."""
    found: list[str] = []
    for word in text.split():
        padded = f" {word} "
        for length in range(1, 5):
            found += [padded[i : i + length] for i in range(max(1, len(padded) - length + 1))]
    return found


def _words(text: str) -> list[str]:
    """Words, and pairs of words."""
    words = _WORD.findall(text)
    return words + [f"{one} {next_one}" for one, next_one in pairwise(words)]


_ANALYZERS = (_runs, _words)


@lru_cache(maxsize=256)
def _counted(text: str) -> tuple[tuple[tuple[str, int], ...], ...]:
    """What is counted in a text; remembered, as more than one model asks for the same text."""
    return tuple(tuple(Counter(analyze(text)).items()) for analyze in _ANALYZERS)
