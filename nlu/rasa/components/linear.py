"""Classifiers over character and word n-grams, and over sentence vectors.

Only plain arrays are kept in the model file: nothing is unpickled when it is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import linalg, sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Scores to log-probabilities, row by row."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


@dataclass
class Linear:
    """One row of `weights` per label. Every label counts alike, however many examples it has."""

    labels: list[str]
    weights: np.ndarray
    bias: np.ndarray

    @classmethod
    def logistic(
        cls, features: np.ndarray | sparse.spmatrix, labels: Sequence[str], strength: float
    ) -> Linear:
        """Multinomial logistic regression: good over few dense features, slow over many.

        `strength` is the inverse of the regularisation.
        """
        return cls._of(
            LogisticRegression(C=strength, class_weight="balanced", max_iter=100, tol=1e-3),
            features,
            labels,
        )

    @classmethod
    def margins(cls, features: sparse.spmatrix, labels: Sequence[str], strength: float) -> Linear:
        """Support vectors, one label against the rest: as good over many features, in seconds."""
        return cls._of(LinearSVC(C=strength, class_weight="balanced"), features, labels)

    @classmethod
    def _of(
        cls,
        model: LogisticRegression | LinearSVC,
        features: np.ndarray | sparse.spmatrix,
        labels: Sequence[str],
    ) -> Linear:
        model.fit(features, list(labels))
        weights, bias = model.coef_, model.intercept_
        if len(model.classes_) == 2:  # scikit-learn keeps one row for two labels
            weights, bias = np.vstack([-weights, weights]) / 2, np.hstack([-bias, bias]) / 2
        return cls(
            [str(label) for label in model.classes_],
            weights.astype(np.float32),
            bias.astype(np.float32),
        )

    def scores(self, features: np.ndarray | sparse.spmatrix) -> np.ndarray:
        """One row per row of features, one column per label."""
        return np.asarray(features @ self.weights.T) + self.bias

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """What `numpy.savez` keeps."""
        return {f"{prefix}weights": self.weights, f"{prefix}bias": self.bias}


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

    MOST = 6000
    """Centres: more are hardly better, and cost memory and time with each message."""
    SHARPNESS = 0.5
    SMOOTHNESS = 0.05

    @classmethod
    def fit(cls, vectors: np.ndarray, labels: Sequence[str], centres: Sequence[int]) -> Kernel:
        """Learn from rows of vectors; `centres`: the rows that may speak, at most `MOST` do."""
        names = sorted(set(labels))
        places = {name: place for place, name in enumerate(names)}
        wanted = np.full((len(labels), len(names)), -1.0, np.float32)
        wanted[np.arange(len(labels)), [places[label] for label in labels]] = 1.0
        vectors = vectors.astype(np.float32)
        if len(centres) > cls.MOST:
            centres = np.random.default_rng(0).permutation(centres)[: cls.MOST]
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
    """Text to label by runs of one to four characters and by words and pairs of words."""

    vectorizers: tuple[TfidfVectorizer, TfidfVectorizer]
    linear: Linear

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        labels: Sequence[str],
        *,
        strength: float,
        logistic: bool = False,
    ) -> NgramModel:
        """Learn from texts; what occurs in one text only is left out (if there are enough)."""
        rarest = 2 if len(texts) > 1000 else 1
        vectorizers = _vectorizers([None, None], min_df=rarest)
        features = sparse.hstack([v.fit_transform(texts) for v in vectorizers]).tocsr()
        learn = Linear.logistic if logistic else Linear.margins
        return cls(vectorizers, learn(features, labels, strength))

    def features(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """One row per text."""
        return sparse.hstack([v.transform(texts) for v in self.vectorizers]).tocsr()

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """One row per text, one column per label."""
        return self.linear.scores(self.features(texts))

    def save(self, folder: Path, name: str) -> None:
        """Write `<name>.npz` and `<name>.json`."""
        about = {
            "labels": self.linear.labels,
            "grams": [sorted(v.vocabulary_, key=v.vocabulary_.__getitem__) for v in self.vectorizers],
        }
        (folder / f"{name}.json").write_text(json.dumps(about), encoding="utf-8")
        np.savez(
            folder / f"{name}.npz",
            idf=np.hstack([v.idf_ for v in self.vectorizers]).astype(np.float32),
            **self.linear.arrays(""),
        )

    @classmethod
    def load(cls, folder: Path, name: str) -> NgramModel:
        """Read what `save` wrote."""
        about = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        with np.load(folder / f"{name}.npz", allow_pickle=False) as kept:
            vectorizers = _vectorizers(
                [{gram: place for place, gram in enumerate(grams)} for grams in about["grams"]]
            )
            first = len(about["grams"][0])
            vectorizers[0].idf_, vectorizers[1].idf_ = kept["idf"][:first], kept["idf"][first:]
            return cls(vectorizers, Linear(about["labels"], kept["weights"], kept["bias"]))


def _vectorizers(
    vocabularies: Sequence[dict[str, int] | None], **options: object
) -> tuple[TfidfVectorizer, TfidfVectorizer]:
    shared = {"sublinear_tf": True, "lowercase": False, "dtype": np.float32, **options}
    return (
        TfidfVectorizer(
            analyzer="char_wb", ngram_range=(1, 4), vocabulary=vocabularies[0], **shared
        ),
        TfidfVectorizer(
            token_pattern=r"~?\w+", ngram_range=(1, 2), vocabulary=vocabularies[1], **shared
        ),
    )
