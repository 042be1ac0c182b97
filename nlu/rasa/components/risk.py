"""Whether a message tells of danger, learned from examples, beside the word list of the program.

Each kind of danger is a label, and so is "none": messages that only sound alarming, and the
questions of the FAQ. Words show the counsellor why: those whose n-grams spoke loudest for the kind.

Sets `risk` on a message: {"none": probability, "kinds": [[kind, probability], ...], "words": [...]}
with all kinds that are at all likely; words only where danger is likelier than `explain`.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from rasa.engine.graph import ExecutionContext, GraphComponent
from rasa.engine.recipes.default_recipe import DefaultV1Recipe
from rasa.engine.storage.resource import Resource
from rasa.engine.storage.storage import ModelStorage
from rasa.shared.nlu.constants import INTENT, TEXT
from rasa.shared.nlu.training_data.message import Message
from rasa.shared.nlu.training_data.training_data import TrainingData

from components.encoder import sentence_vectors
from components.evidence import Evidence, Examples
from components.faq import RISK
from components.language import PLAIN_TEXT, message_language
from components.text import clean, spelled

NONE, HARMLESS = "none", RISK + "harmless"
UNLIKELY = 0.002
# Japanese, Chinese and Burmese have no spaces: there some characters in a row stand for a word.
_WORD = re.compile(r"[\u1000-\u109f]{2,9}|[\u3040-\u9fff]{2,4}|[^\W\d_\u1000-\u109f\u3040-\u9fff]+")


@DefaultV1Recipe.register(DefaultV1Recipe.ComponentType.INTENT_CLASSIFIER, is_trainable=True)
class RiskClassifier(GraphComponent):
    """Sets `risk`. Does nothing if the training data has no examples of danger."""

    def __init__(self, config: dict[str, Any], storage: ModelStorage, resource: Resource) -> None:
        self._config, self._storage, self._resource = config, storage, resource
        self._evidence: Evidence | None = None

    @staticmethod
    def get_default_config() -> dict[str, Any]:
        """See `config.yml` for the meaning of each."""
        return {"sure_none": 0.9, "explain": 0.02, "grave": []}

    @classmethod
    def create(
        cls,
        config: dict[str, Any],
        model_storage: ModelStorage,
        resource: Resource,
        execution_context: ExecutionContext,
    ) -> RiskClassifier:
        """A component that has learned nothing yet."""
        return cls(config, model_storage, resource)

    def train(self, training_data: TrainingData) -> Resource:
        """Learn from the examples of danger, and from all others, which teach "none".

        Questions of topics that are themselves about danger are left out: some tell of it.
        """
        messages: list[Message] = []
        labels: list[str] = []
        grave = {f"faq.{topic}" for topic in self._config["grave"]}
        for message in training_data.intent_examples:
            intent = str(message.get(INTENT))
            if not message.get(TEXT) or intent == PLAIN_TEXT or intent in grave:
                continue
            messages.append(message)
            dangerous = intent.startswith(RISK) and intent != HARMLESS
            labels.append(intent.removeprefix(RISK) if dangerous else NONE)
        with self._storage.write_to(self._resource) as folder:
            if len(set(labels)) > 1:
                self._evidence = Evidence.learn(Examples.of(messages, labels))
                self._evidence.save(folder, "risk")
        return self._resource

    @classmethod
    def load(
        cls,
        config: dict[str, Any],
        model_storage: ModelStorage,
        resource: Resource,
        execution_context: ExecutionContext,
        **kwargs: Any,
    ) -> RiskClassifier:
        """The trained component from the model file."""
        component = cls(config, model_storage, resource)
        with model_storage.read_from(resource) as folder:
            if (folder / "risk.json").exists():
                component._evidence = Evidence.load(folder, "risk")
        return component

    def process(self, messages: list[Message]) -> list[Message]:
        """Add the risk to each message; the encoder only where the n-grams do not rule it out."""
        evidence = self._evidence
        if evidence is None or not messages:
            return messages
        texts = [clean(message.get(TEXT) or "") for message in messages]
        languages = [message_language(message) for message in messages]
        ngrams = evidence.of_ngrams(texts, languages)
        chances = evidence.alone(ngrams)
        none = evidence.labels.index(NONE)
        unsure = [
            index
            for index, text in enumerate(texts)
            if text and chances[index, none] < self._config["sure_none"]
        ]
        if unsure:
            meaning = evidence.of_meaning(
                sentence_vectors([messages[index] for index in unsure]),
                [languages[index] for index in unsure],
            )
            chances[unsure] = evidence.together(ngrams[unsure], meaning)
        for text, code, message, row in zip(texts, languages, messages, chances, strict=True):
            kinds = [place for place in np.argsort(-row) if place != none]
            likely = [place for place in kinds if row[place] >= UNLIKELY]
            risk: dict[str, Any] = {
                "none": float(row[none]) if text else 1.0,
                "kinds": [[evidence.labels[place], float(row[place])] for place in likely],
                "words": [],
            }
            if 1 - risk["none"] >= self._config["explain"]:
                risk["words"] = telling_words(evidence, text, code, kinds[0], none)
            message.set("risk", risk, add_to_output=True)
        return messages


def telling_words(
    evidence: Evidence, text: str, language: str, kind: int, none: int, most: int = 3
) -> list[str]:
    """The words of a text that speak loudest for the kind of danger, as they stand in it."""
    words = list(dict.fromkeys(_WORD.findall(text)))[:60]
    if not words:
        return []
    scores = evidence.ngrams.scores([spelled(word, language) for word in words])
    danger = scores[:, kind] - scores[:, none]
    order = [place for place in np.argsort(-danger)[:most] if danger[place] > danger.mean()]
    return [words[place] for place in sorted(order)]
