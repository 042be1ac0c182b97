"""Character n-grams and a linear classifier: the workhorse behind language and topic.

TF-IDF over n-grams inside words (`char_wb`) needs no tokenizer, so Chinese, Japanese, Burmese and
typing mistakes are no special case. Stored as plain arrays and JSON: a model file runs no code.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Scores to log-probabilities, row by row."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


@dataclass
class Linear:
    """Multinomial logistic regression: one row of `weights` per label."""

    labels: list[str]
    weights: np.ndarray
    bias: np.ndarray

    @classmethod
    def fit(
        cls, features: np.ndarray | sparse.spmatrix, labels: Sequence[str], strength: float
    ) -> Linear:
        """Learn from rows of features; every label counts alike, however many rows it has.

        `strength` is the inverse of the regularisation.
        """
        model = LogisticRegression(C=strength, class_weight="balanced", max_iter=60, tol=1e-3)
        model.fit(features, list(labels))
        weights, bias = model.coef_, model.intercept_
        if len(model.classes_) == 2:  # scikit-learn keeps one row for two labels
            weights, bias = np.vstack([-weights, weights]) / 2, np.hstack([-bias, bias]) / 2
        return cls(
            [str(label) for label in model.classes_],
            weights.astype(np.float32),
            bias.astype(np.float32),
        )

    def log_probabilities(self, features: np.ndarray | sparse.spmatrix) -> np.ndarray:
        """One row per row of features, one column per label."""
        return log_softmax(np.asarray(features @ self.weights.T) + self.bias)

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """What `numpy.savez` keeps."""
        return {f"{prefix}weights": self.weights, f"{prefix}bias": self.bias}


@dataclass
class NgramModel:
    """Text to label by character n-grams."""

    vectorizer: TfidfVectorizer
    linear: Linear

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        labels: Sequence[str],
        *,
        longest: int = 4,
        rarest: int = 2,
        strength: float = 20.0,
    ) -> NgramModel:
        """Learn from texts that are already `clean`; n-grams in fewer than `rarest` texts go."""
        vectorizer = _vectorizer(longest, min_df=rarest if len(texts) > 200 else 1)
        features = vectorizer.fit_transform(texts)
        return cls(vectorizer, Linear.fit(features, labels, strength))

    def log_probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """One row per text, one column per label."""
        return self.linear.log_probabilities(self.vectorizer.transform(texts))

    def save(self, folder: Path, name: str) -> None:
        """Write `<name>.npz` and `<name>.json`."""
        grams = sorted(self.vectorizer.vocabulary_, key=self.vectorizer.vocabulary_.__getitem__)
        about = {
            "labels": self.linear.labels,
            "longest": self.vectorizer.ngram_range[1],
            "grams": grams,
        }
        (folder / f"{name}.json").write_text(json.dumps(about), encoding="utf-8")
        np.savez(
            folder / f"{name}.npz",
            idf=self.vectorizer.idf_.astype(np.float32),
            **self.linear.arrays(""),
        )

    @classmethod
    def load(cls, folder: Path, name: str) -> NgramModel:
        """Read what `save` wrote."""
        about = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        with np.load(folder / f"{name}.npz", allow_pickle=False) as kept:
            vocabulary = {gram: index for index, gram in enumerate(about["grams"])}
            vectorizer = _vectorizer(about["longest"], vocabulary=vocabulary)
            vectorizer.idf_ = kept["idf"]
            return cls(vectorizer, Linear(about["labels"], kept["weights"], kept["bias"]))


def _vectorizer(longest: int, **options: object) -> TfidfVectorizer:
    return TfidfVectorizer(
        analyzer="char_wb",
        ngram_range=(1, longest),
        sublinear_tf=True,
        lowercase=False,
        dtype=np.float32,
        **options,
    )
