"""Which published answer a message asks for: two kinds of evidence, added up.

Character n-grams are strong where a language has examples and cost next to nothing; the encoder
carries meaning across languages but is dear. So the n-grams speak first, and the encoder is asked
only when they are not sure. Their log-probabilities are summed with a weight, and a temperature
makes the result honest: "0.8" is to be right in about 8 of 10. Both numbers are learned from
examples kept aside during training.

A language is "covered" when it has examples for at least half of the labels. Examples of the others
(often greetings only) teach neither classifier: it would learn that whatever looks like Nepali is a
greeting. In those languages the encoder decides alone, with what it learned in the covered ones,
and a message that is word for word an example is recognised in any case.

Greetings, thanks, goodbyes, the wish for a person and everything out of scope are labels like the
topics, so they compete with them.
"""

from __future__ import annotations

import json
import logging
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rasa.engine.graph import ExecutionContext, GraphComponent
from rasa.engine.recipes.default_recipe import DefaultV1Recipe
from rasa.engine.storage.resource import Resource
from rasa.engine.storage.storage import ModelStorage
from rasa.shared.nlu.constants import INTENT, INTENT_RANKING_KEY, TEXT
from rasa.shared.nlu.training_data.message import Message
from rasa.shared.nlu.training_data.training_data import TrainingData

from components.encoder import sentence_vectors
from components.language import PLAIN_TEXT, UNKNOWN, message_language
from components.linear import Linear, NgramModel, log_softmax
from components.text import clean, folded

logger = logging.getLogger(__name__)

KEPT_ASIDE = 5
"""Every fifth example of a label and language is kept aside to learn weight and temperature."""

STRENGTH = 10.0
"""Inverse regularisation of the classifier over sentence vectors."""
TEMPERATURES = np.geomspace(0.1, 4.0, 30)
ENOUGH_TO_TELL = 60
"""So many examples kept aside of one language tell its own weight."""


@dataclass
class Examples:
    """The training data as columns."""

    texts: list[str]
    languages: list[str]
    labels: list[str]
    vectors: np.ndarray

    def covered(self) -> set[str]:
        """Languages with examples for at least half of the labels; all, if there are none."""
        labels: defaultdict[str, set[str]] = defaultdict(set)
        for code, label in zip(self.languages, self.labels, strict=True):
            labels[code].add(label)
        half = len(set(self.labels)) / 2
        return {code for code, known in labels.items() if len(known) >= half} or set(labels)

    def pick(self, indices: Sequence[int]) -> Examples:
        """The rows at these places."""
        return Examples(
            [self.texts[i] for i in indices],
            [self.languages[i] for i in indices],
            [self.labels[i] for i in indices],
            self.vectors[list(indices)],
        )


@dataclass
class Evidence:
    """Both classifiers, and how their voices are put together."""

    ngrams: NgramModel
    meaning: Linear
    means: dict[str, np.ndarray]
    """What is common to the vectors of a language: taken off, so that only the meaning is left."""
    known: dict[str, str]
    """Label of each example by its bare text."""
    weights: dict[str, float]
    """Share of the n-grams in the sum, per language where it is known; 0 where not covered."""
    temperature: float = 1.0
    temperature_alone: float = 1.0
    """The same for the n-grams alone."""
    temperature_across: float = 1.0
    """The same for languages that are not covered."""

    @classmethod
    def fit(cls, examples: Examples) -> Evidence:
        """Learn both classifiers."""
        means = language_means(examples)
        known = {
            bare(text): label for text, label in zip(examples.texts, examples.labels, strict=True)
        }
        covered = examples.covered()
        examples = examples.pick(
            [i for i, code in enumerate(examples.languages) if code in covered]
        )
        texts, labels = list(examples.texts), list(examples.labels)
        for text, label in zip(examples.texts, examples.labels, strict=True):
            if (plain := folded(text)) != text:  # typed without diacritics, as so often
                texts.append(plain)
                labels.append(label)
        ngrams = NgramModel.fit(texts, labels, rarest=1 if len(texts) < 3000 else 2)
        vectors = centred(examples.vectors, examples.languages, means)
        weights = {UNKNOWN: 0.35, **dict.fromkeys(set(means) - covered - {UNKNOWN}, 0.0)}
        return cls(ngrams, Linear.fit(vectors, examples.labels, STRENGTH), means, known, weights)

    @property
    def labels(self) -> list[str]:
        """All intents, in the order of the columns."""
        return self.ngrams.linear.labels

    def of_ngrams(self, texts: Sequence[str]) -> np.ndarray:
        """Log-probabilities by n-grams, not yet made honest."""
        return self.ngrams.log_probabilities(texts)

    def of_meaning(self, vectors: np.ndarray, languages: Sequence[str]) -> np.ndarray:
        """Log-probabilities by the encoder."""
        return self.meaning.log_probabilities(centred(vectors, languages, self.means))

    def alone(self, ngrams: np.ndarray) -> np.ndarray:
        """Probabilities by the n-grams only."""
        return np.exp(log_softmax(ngrams / self.temperature_alone))

    def weight(self, language: str) -> float:
        """Share of the n-grams for a language."""
        return self.weights.get(language, self.weights[UNKNOWN])

    def summed(
        self, ngrams: np.ndarray, meaning: np.ndarray, languages: Sequence[str]
    ) -> np.ndarray:
        """Both log-probabilities, weighted as their languages ask for."""
        weights = np.array([[self.weight(code)] for code in languages])
        return weights * ngrams + (1 - weights) * meaning

    def together(
        self, ngrams: np.ndarray, meaning: np.ndarray, languages: Sequence[str]
    ) -> np.ndarray:
        """Probabilities by both."""
        temperatures = np.array(
            [
                [self.temperature if self.weight(code) > 0 else self.temperature_across]
                for code in languages
            ]
        )
        return np.exp(log_softmax(self.summed(ngrams, meaning, languages) / temperatures))

    def calibrate(self, aside: Examples) -> None:
        """Choose weight and temperatures by which examples not learned are likeliest."""
        covered = aside.covered()
        aside = aside.pick([i for i, code in enumerate(aside.languages) if code in covered])
        places = {label: place for place, label in enumerate(self.labels)}
        truth = np.array([places[label] for label in aside.labels])
        rows = np.arange(len(truth))
        ngrams = self.of_ngrams(aside.texts)
        meaning = self.of_meaning(aside.vectors, aside.languages)

        def surprise(scores: np.ndarray, where: np.ndarray, temperature: float) -> float:
            return mean_surprise(scores[where], truth[where], temperature)

        def best_weight(where: np.ndarray) -> float:
            return min(
                (surprise(weight * ngrams + (1 - weight) * meaning, where, t), float(weight))
                for weight in np.arange(0.1, 0.85, 0.1)
                for t in TEMPERATURES
            )[1]

        self.weights[UNKNOWN] = best_weight(rows)
        for code in sorted(set(aside.languages)):
            where = np.array([i for i, language in enumerate(aside.languages) if language == code])
            if len(where) >= ENOUGH_TO_TELL:
                self.weights[code] = best_weight(where)
        summed = self.summed(ngrams, meaning, aside.languages)
        self.temperature = float(min(TEMPERATURES, key=lambda t: surprise(summed, rows, t)))
        self.temperature_alone = float(min(TEMPERATURES, key=lambda t: surprise(ngrams, rows, t)))


def mean_surprise(scores: np.ndarray, truth: np.ndarray, temperature: float) -> float:
    """How unlikely the true labels (column numbers) are on average, as -log(probability)."""
    chances = log_softmax(scores / temperature)
    return float(-chances[np.arange(len(truth)), truth].mean())


def temperature_across(examples: Examples) -> float:
    """The temperature for languages without examples: each covered one in turn plays that part."""
    means = language_means(examples)
    covered = sorted(examples.covered())
    if len(covered) < 2 or len(covered) == len(set(examples.languages)):
        return 1.0  # there is no such language, or nothing to learn it from
    scores, truth = [], []
    for left_out in covered[:3]:
        taught = [i for i, c in enumerate(examples.languages) if c in covered and c != left_out]
        asked = [i for i, c in enumerate(examples.languages) if c == left_out]
        part = examples.pick(taught)
        linear = Linear.fit(centred(part.vectors, part.languages, means), part.labels, STRENGTH)
        places = {label: place for place, label in enumerate(linear.labels)}
        rest = examples.pick([i for i in asked if examples.labels[i] in places])
        scores.append(linear.log_probabilities(centred(rest.vectors, rest.languages, means)))
        truth.append(np.array([places[label] for label in rest.labels]))
    if len({table.shape[1] for table in scores}) > 1:
        return 1.0
    table, answers = np.vstack(scores), np.hstack(truth)
    return float(min(TEMPERATURES, key=lambda t: mean_surprise(table, answers, t)))


def bare(text: str) -> str:
    """A text as it is compared word for word: no diacritics, no punctuation."""
    return " ".join(re.findall(r"\w+", folded(text)))


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


@DefaultV1Recipe.register(DefaultV1Recipe.ComponentType.INTENT_CLASSIFIER, is_trainable=True)
class FaqClassifier(GraphComponent):
    """Sets `intent` and `intent_ranking`. Wants a dense sentence featurizer before it."""

    def __init__(self, config: dict[str, Any], storage: ModelStorage, resource: Resource) -> None:
        self._config, self._storage, self._resource = config, storage, resource
        self._evidence: Evidence | None = None

    @staticmethod
    def get_default_config() -> dict[str, Any]:
        """See `config.yml` for the meaning of each."""
        return {"sure_margin": 0.9, "ranking_length": 10}

    @classmethod
    def create(
        cls,
        config: dict[str, Any],
        model_storage: ModelStorage,
        resource: Resource,
        execution_context: ExecutionContext,
    ) -> FaqClassifier:
        """A component that has learned nothing yet."""
        return cls(config, model_storage, resource)

    def train(self, training_data: TrainingData) -> Resource:
        """Learn twice: once with examples kept aside, to calibrate; then from all of them."""
        messages = [
            example
            for example in training_data.intent_examples
            if example.get(TEXT) and example.get(INTENT) != PLAIN_TEXT
        ]
        examples = Examples(
            [clean(message.get(TEXT)) for message in messages],
            [message_language(message) for message in messages],
            [str(message.get(INTENT)) for message in messages],
            sentence_vectors(messages),
        )
        groups: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        for index, key in enumerate(zip(examples.labels, examples.languages, strict=True)):
            groups[key].append(index)
        aside = [i for group in groups.values() for i in group[KEPT_ASIDE - 1 :: KEPT_ASIDE]]
        evidence = Evidence.fit(examples)
        if len(aside) >= 20:
            kept = sorted(set(range(len(messages))) - set(aside))
            trial = Evidence.fit(examples.pick(kept))
            trial.calibrate(examples.pick(aside))
            evidence.weights = trial.weights
            evidence.temperature = trial.temperature
            evidence.temperature_alone = trial.temperature_alone
            evidence.temperature_across = temperature_across(examples)
        self._evidence = evidence
        self._save(evidence)
        return self._resource

    def _save(self, evidence: Evidence) -> None:
        about = {
            "weights": evidence.weights,
            "temperature": evidence.temperature,
            "temperature_alone": evidence.temperature_alone,
            "temperature_across": evidence.temperature_across,
            "known": evidence.known,
        }
        with self._storage.write_to(self._resource) as folder:
            evidence.ngrams.save(folder, "ngrams")
            (folder / "faq.json").write_text(json.dumps(about), encoding="utf-8")
            np.savez(folder / "meaning.npz", **evidence.meaning.arrays(""))
            np.savez(folder / "means.npz", **evidence.means)

    @classmethod
    def load(
        cls,
        config: dict[str, Any],
        model_storage: ModelStorage,
        resource: Resource,
        execution_context: ExecutionContext,
        **kwargs: Any,
    ) -> FaqClassifier:
        """The trained component from the model file."""
        component = cls(config, model_storage, resource)
        with model_storage.read_from(resource) as folder:
            about = json.loads((folder / "faq.json").read_text(encoding="utf-8"))
            ngrams = NgramModel.load(folder, "ngrams")
            with np.load(folder / "meaning.npz", allow_pickle=False) as kept:
                meaning = Linear(ngrams.linear.labels, kept["weights"], kept["bias"])
            with np.load(folder / "means.npz", allow_pickle=False) as kept:
                means = {code: kept[code] for code in kept.files}
            component._evidence = Evidence(ngrams, meaning, means, **about)
        return component

    def process(self, messages: list[Message]) -> list[Message]:
        """Rank the intents of each message; the encoder only where the n-grams are not sure."""
        evidence = self._evidence
        if evidence is None or not messages:
            return messages
        texts = [clean(message.get(TEXT) or "") for message in messages]
        languages = [message_language(message) for message in messages]
        ngrams = evidence.of_ngrams(texts)
        chances = evidence.alone(ngrams)
        best = np.sort(chances, axis=1)
        margins = best[:, -1] - best[:, -2]
        unsure: list[int] = []
        for index, (text, code) in enumerate(zip(texts, languages, strict=True)):
            if label := evidence.known.get(bare(text)):
                chances[index] = 0.01 / len(evidence.labels)
                chances[index, evidence.labels.index(label)] = 0.99
            elif text and (
                margins[index] < self._config["sure_margin"] or evidence.weight(code) == 0
            ):
                unsure.append(index)
        if unsure:
            meaning = evidence.of_meaning(
                sentence_vectors([messages[index] for index in unsure]),
                [languages[index] for index in unsure],
            )
            chances[unsure] = evidence.together(
                ngrams[unsure], meaning, [languages[index] for index in unsure]
            )
        for text, message, row in zip(texts, messages, chances, strict=True):
            order = np.argsort(-row)[: self._config["ranking_length"] if text else 0]
            ranking = [
                {"name": evidence.labels[place], "confidence": float(row[place])} for place in order
            ]
            first = ranking[0] if ranking else {"name": None, "confidence": 0.0}
            message.set(INTENT, first, add_to_output=True)
            message.set(INTENT_RANKING_KEY, ranking, add_to_output=True)
        return messages
