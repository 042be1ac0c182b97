"""Classifiers over character and word n-grams, and over sentence vectors.

Only plain arrays are kept in the model file: nothing is unpickled when it is loaded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from zlib import crc32

import numpy as np
from scipy import linalg, sparse
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
    has. What occurs in a text stands here as numbers (`_grams`), so that asking takes a seventh of
    the time of scikit-learn's own way with single texts.
    """

    labels: list[str]
    grams: list[np.ndarray]
    """The numbers of the known runs, and of the known words and pairs; each sorted."""
    rarity: list[np.ndarray]
    """Inverse document frequency of each."""
    weights: np.ndarray
    """One row per run or word (first all runs), one column per label."""
    bias: np.ndarray

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        labels: Sequence[str],
        *,
        strength: float = 1.0,
        words: bool = True,
    ) -> NgramModel:
        """Learn from texts; what occurs in one text only is left out (if there are enough).

        `strength` is the inverse of the regularisation; without `words` only runs count.
        """
        counted = [_grams(text) for text in texts]
        fewest = 2 if len(texts) > 1000 else 1
        grams, rarity = [], []
        for kind in range(1 + words):
            seen, times = np.unique(
                np.concatenate([one[kind][0] for one in counted]), return_counts=True
            )
            grams.append(seen[times >= fewest])
            often = np.log((1 + len(texts)) / (1 + times[times >= fewest])) + 1
            rarity.append(often.astype(np.float32))
        model = cls([], grams, rarity, np.empty(0), np.empty(0))
        rows = [model._features(one) for one in counted]
        ends = np.cumsum([0, *(len(places) for places, _ in rows)])
        features = sparse.csr_matrix(
            (
                np.concatenate([values for _, values in rows]),
                np.concatenate([places for places, _ in rows]),
                ends,
            ),
            shape=(len(texts), sum(map(len, grams))),
        )
        machine = LinearSVC(C=strength, class_weight="balanced").fit(features, list(labels))
        weights, bias = machine.coef_, machine.intercept_
        if len(machine.classes_) == 2:  # scikit-learn keeps one row for two labels
            weights, bias = np.vstack([-weights, weights]) / 2, np.hstack([-bias, bias]) / 2
        model.labels = [str(label) for label in machine.classes_]
        model.weights = np.ascontiguousarray(weights.T, dtype=np.float32)
        model.bias = bias.astype(np.float32)
        return model

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """One row per text, one column per label: about -1 for no, 1 for yes."""
        rows = np.empty((len(texts), len(self.labels)), np.float32)
        for row, text in zip(rows, texts, strict=True):
            places, values = self._features(_grams(text))
            row[:] = self.bias + values @ self.weights[places]
        return rows

    def _features(self, counted: _Grams) -> tuple[np.ndarray, np.ndarray]:
        """The rows of `weights` that a text speaks to, and how loudly; each kind has length 1."""
        places: list[np.ndarray] = []
        values: list[np.ndarray] = []
        first = 0
        for (seen, loudness), known, rarity in zip(counted, self.grams, self.rarity, strict=False):
            if len(known):
                place = known.searchsorted(seen)
                place[place == len(known)] = 0
                hit = known[place] == seen
                place = place[hit]
                value = loudness[hit] * rarity[place]
                places.append(place + first)
                values.append(value / max(float(np.sqrt(value @ value)), 1e-6))
            first += len(known)
        return np.concatenate(places), np.concatenate(values)

    def save(self, folder: Path, name: str) -> None:
        """Write `<name>.npz` and `<name>.json`."""
        (folder / f"{name}.json").write_text(json.dumps({"labels": self.labels}), encoding="utf-8")
        arrays = {"weights": self.weights, "bias": self.bias}
        for kind, (grams, rarity) in enumerate(zip(self.grams, self.rarity, strict=True)):
            arrays |= {f"grams{kind}": grams, f"rarity{kind}": rarity}
        np.savez(folder / f"{name}.npz", **arrays)

    @classmethod
    def load(cls, folder: Path, name: str) -> NgramModel:
        """Read what `save` wrote."""
        about = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        with np.load(folder / f"{name}.npz", allow_pickle=False) as kept:
            kinds = range(sum(key.startswith("grams") for key in kept.files))
            return cls(
                about["labels"],
                [kept[f"grams{kind}"] for kind in kinds],
                [kept[f"rarity{kind}"] for kind in kinds],
                kept["weights"],
                kept["bias"],
            )


_Grams = tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
_WORD = re.compile(r"~?\w+")
_SPACE = ord(" ")
_PRIME = np.uint64(0x9E3779B97F4A7C15)  # odd and without a pattern: it scatters over 64 bits
_LONGEST_RUN = 4


@lru_cache(maxsize=256)
def _grams(text: str) -> _Grams:
    """Runs of characters, and words with pairs of words: each as a number and 1 + log(times).

    Remembered, as more than one model asks for the same text. A number has 64 bits, so two
    different runs have the same one in a case of billions.
    """
    # each word has a space of its own on both sides; a run never reaches from one into the next
    spaced = " " + "  ".join(text.split()) + " "
    letters = np.frombuffer(spaced.encode("utf-32-le", "surrogatepass"), np.uint32)
    letters = letters.astype(np.uint64)
    space = letters == _SPACE
    border = space[:-1] & space[1:]
    run, whole, runs = letters, np.ones(len(letters), bool), [letters]
    for length in range(2, _LONGEST_RUN + 1):
        run = run[:-1] * _PRIME + letters[length - 1 :]
        whole = whole[:-1] & ~border[length - 2 :]
        runs.append(run[whole])
    words = np.array(
        [crc32(word.encode("utf-8", "ignore")) for word in _WORD.findall(text)], np.uint64
    )
    pairs = words[:-1] * _PRIME + words[1:]
    return _counted(np.concatenate(runs)), _counted(np.concatenate([words, pairs]))


def _counted(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    seen, times = np.unique(numbers, return_counts=True)
    return seen, (1 + np.log(times)).astype(np.float32)
