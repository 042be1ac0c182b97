"""Two kinds of evidence for what a message means, added up and made honest.

Character and word n-grams are strong where an example resembles the message and cost next to
nothing; sentence vectors carry meaning across wordings and languages but are dear. The scores of
both are summed with weights that make the result honest: "0.8" is to be right in about 8 of 10.
How much the sum tells is learned from examples that are kept aside during training.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rasa.shared.nlu.constants import TEXT
from rasa.shared.nlu.training_data.message import Message

from components.encoder import sentence_vectors
from components.language import UNKNOWN, message_language
from components.linear import Kernel, NgramModel, log_softmax
from components.spelling import ORIGIN
from components.text import clean, spelled

SHARE = 0.6
"""How much the n-grams count; the meaning counts the rest. Not learned from what is kept aside: the
examples of one author are written to differ from each other, which makes n-grams look worse (0.3)
than with messages of others, where 0.5 to 0.7 do best."""
KEPT_ASIDE = 5
"""Every fifth example of a label and language is kept aside to learn the scales."""
SCALES = np.geomspace(0.5, 50.0, 40)


@dataclass
class Examples:
    """The training data as columns; `texts` are `clean`. `origins`: of what each is a spelling."""

    texts: list[str]
    languages: list[str]
    labels: list[str]
    origins: list[str]
    vectors: np.ndarray

    @classmethod
    def of(cls, messages: Sequence[Message], labels: Sequence[str]) -> Examples:
        """Messages of the training data with what each is to be taken for."""
        return cls(
            [clean(message.get(TEXT)) for message in messages],
            [message_language(message) for message in messages],
            list(labels),
            [clean(message.get(ORIGIN) or message.get(TEXT)) for message in messages],
            sentence_vectors(messages),
        )

    def pick(self, indices: Sequence[int]) -> Examples:
        """The rows at these places."""
        return Examples(
            [self.texts[i] for i in indices],
            [self.languages[i] for i in indices],
            [self.labels[i] for i in indices],
            [self.origins[i] for i in indices],
            self.vectors[list(indices)],
        )

    def split(self) -> tuple[Examples, Examples]:
        """Most of it, and every fifth example of each label and language, as it was written."""
        groups: defaultdict[tuple[str, str], dict[str, int]] = defaultdict(dict)
        for index, (label, code, origin) in enumerate(
            zip(self.labels, self.languages, self.origins, strict=True)
        ):
            groups[label, code].setdefault(origin, index)
        aside = [
            index
            for group in groups.values()
            for index in list(group.values())[KEPT_ASIDE - 1 :: KEPT_ASIDE]
        ]
        gone = {self.origins[index] for index in aside}
        kept = [index for index, origin in enumerate(self.origins) if origin not in gone]
        return self.pick(kept), self.pick(aside)


@dataclass
class Evidence:
    """Both classifiers, and how their voices are put together."""

    ngrams: NgramModel
    meaning: Kernel
    means: dict[str, np.ndarray]
    """What is common to the vectors of a language: taken off, so that only the meaning is left."""
    scale: float = 5.0
    """How much the sum counts, as log-probability."""
    scale_alone: float = 5.0
    """The same for the n-grams alone."""

    @classmethod
    def learn(cls, examples: Examples) -> Evidence:
        """Learn twice: once with examples kept aside, to calibrate; then from all of them."""
        evidence = cls.fit(examples)
        kept, aside = examples.split()
        if len(aside.texts) >= 20:
            trial = cls.fit(
                kept, Kernel.MOST // 2
            )  # the weights are the same, in a third of the time
            trial.calibrate(aside)
            evidence.scale, evidence.scale_alone = trial.scale, trial.scale_alone
        return evidence

    @classmethod
    def fit(cls, examples: Examples, most: int = Kernel.MOST) -> Evidence:
        """Learn both classifiers; `most`: as in `Kernel.fit`."""
        means = language_means(examples)
        texts = list(map(spelled, examples.texts, examples.languages))
        return cls(
            NgramModel.fit(texts, examples.labels),
            Kernel.fit(
                centred(examples.vectors, examples.languages, means),
                examples.labels,
                [i for i, text in enumerate(examples.texts) if text == examples.origins[i]],
                most,
            ),
            means,
        )

    @property
    def labels(self) -> list[str]:
        """What can be found, in the order of the columns."""
        return self.ngrams.labels

    def of_ngrams(self, texts: Sequence[str], languages: Sequence[str]) -> np.ndarray:
        """Scores by n-grams for `clean` texts."""
        return self.ngrams.scores(list(map(spelled, texts, languages)))

    def of_meaning(self, vectors: np.ndarray, languages: Sequence[str]) -> np.ndarray:
        """Scores by sentence vectors."""
        return self.meaning.scores(centred(vectors, languages, self.means))

    def alone(self, ngrams: np.ndarray) -> np.ndarray:
        """Probabilities by the n-grams only."""
        return np.exp(log_softmax(self.scale_alone * ngrams))

    def together(self, ngrams: np.ndarray, meaning: np.ndarray) -> np.ndarray:
        """Probabilities by both."""
        return np.exp(log_softmax(self.scale * (SHARE * ngrams + (1 - SHARE) * meaning)))

    def calibrate(self, aside: Examples) -> None:
        """Choose the scales by which examples not learned are likeliest."""
        places = {label: place for place, label in enumerate(self.labels)}
        aside = aside.pick([i for i, label in enumerate(aside.labels) if label in places])
        truth = np.array([places[label] for label in aside.labels])
        ngrams = self.of_ngrams(aside.texts, aside.languages)
        meaning = self.of_meaning(aside.vectors, aside.languages)
        both = SHARE * ngrams + (1 - SHARE) * meaning
        self.scale = float(min(SCALES, key=lambda s: mean_surprise(s * both, truth)))
        self.scale_alone = float(min(SCALES, key=lambda s: mean_surprise(s * ngrams, truth)))

    def save(self, folder: Path, name: str) -> None:
        """Write everything under `name`."""
        self.ngrams.save(folder, f"{name}-ngrams")
        about = {"scale": self.scale, "scale_alone": self.scale_alone}
        (folder / f"{name}.json").write_text(json.dumps(about), encoding="utf-8")
        np.savez(folder / f"{name}-meaning.npz", **self.meaning.arrays())
        np.savez(folder / f"{name}-means.npz", **self.means)

    @classmethod
    def load(cls, folder: Path, name: str) -> Evidence:
        """Read what `save` wrote."""
        about = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        ngrams = NgramModel.load(folder, f"{name}-ngrams")
        with np.load(folder / f"{name}-meaning.npz", allow_pickle=False) as kept:
            meaning = Kernel.of(ngrams.labels, kept)
        with np.load(folder / f"{name}-means.npz", allow_pickle=False) as kept:
            means = {code: kept[code] for code in kept.files}
        return cls(ngrams, meaning, means, **about)


def mean_surprise(scores: np.ndarray, truth: np.ndarray) -> float:
    """How unlikely the true labels (column numbers) are on average, as -log(probability)."""
    chances = log_softmax(scores)
    return float(-chances[np.arange(len(truth)), truth].mean())


def language_means(examples: Examples) -> dict[str, np.ndarray]:
    """What is common to the vectors of each language, whatever they ask.

    A plain mean would do if all languages asked the same. As they do not, each vector is taken as
    something of its label plus something of its language, and both are fitted in turns.
    """
    labels, languages = np.array(examples.labels), np.array(examples.languages)
    overall = examples.vectors.mean(axis=0)
    of_language = np.tile(overall, (len(labels), 1))
    means: dict[str, np.ndarray] = {}
    for _ in range(10):
        of_label = np.zeros_like(examples.vectors)
        for label in set(examples.labels):
            rows = labels == label
            of_label[rows] = (examples.vectors - of_language)[rows].mean(axis=0)
        for code in set(examples.languages):
            rows = languages == code
            means[code] = (examples.vectors - of_label)[rows].mean(axis=0)
            of_language[rows] = means[code]
    return {UNKNOWN: overall, **{code: means[code] for code in sorted(means)}}


def centred(
    vectors: np.ndarray, languages: Sequence[str], means: dict[str, np.ndarray]
) -> np.ndarray:
    """Vectors without what is common to their language, at length 1."""
    moved = vectors - np.stack([means.get(code, means[UNKNOWN]) for code in languages])
    return moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-6)
