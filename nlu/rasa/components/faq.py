"""Which published answer a message asks for.

Greetings, thanks, goodbyes, the wish for a person and everything out of scope are labels like the
topics, so they compete with them. N-grams speak first, and the encoder is asked only when they are
not sure (see `evidence.py`). A message that is word for word an example is that example.
"""

from __future__ import annotations

import json
import logging
import re
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
from components.evidence import Evidence, Examples
from components.language import PLAIN_TEXT, message_language
from components.text import clean, folded

logger = logging.getLogger(__name__)

CHATTER = ("greet", "thanks", "goodbye")
"""Intents for which the encoder is always asked, too."""
RISK = "risk."
"""Beginning of the intents of examples that tell of danger, or only seem to: not for this one."""


def bare(text: str) -> str:
    """A text as it is compared word for word: no diacritics, no punctuation."""
    return " ".join(re.findall(r"\w+", folded(text)))


@DefaultV1Recipe.register(DefaultV1Recipe.ComponentType.INTENT_CLASSIFIER, is_trainable=True)
class FaqClassifier(GraphComponent):
    """Sets `intent` and `intent_ranking`. Wants a dense sentence featurizer before it."""

    def __init__(self, config: dict[str, Any], storage: ModelStorage, resource: Resource) -> None:
        self._config, self._storage, self._resource = config, storage, resource
        self._evidence: Evidence | None = None
        self._known: dict[str, str] = {}

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
        """Learn from every example of a topic or a small intent."""
        messages = [
            example
            for example in training_data.intent_examples
            if example.get(TEXT)
            and example.get(INTENT) != PLAIN_TEXT
            and not str(example.get(INTENT)).startswith(RISK)
        ]
        examples = Examples.of(messages, [str(message.get(INTENT)) for message in messages])
        self._known = dict(zip(map(bare, examples.texts), examples.labels, strict=True))
        self._evidence = Evidence.learn(examples)
        with self._storage.write_to(self._resource) as folder:
            self._evidence.save(folder, "faq")
            (folder / "known.json").write_text(json.dumps(self._known), encoding="utf-8")
        return self._resource

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
            component._evidence = Evidence.load(folder, "faq")
            component._known = json.loads((folder / "known.json").read_text(encoding="utf-8"))
        return component

    def process(self, messages: list[Message]) -> list[Message]:
        """Rank the intents of each message; the encoder only where the n-grams are not sure."""
        evidence = self._evidence
        if evidence is None or not messages:
            return messages
        texts = [clean(message.get(TEXT) or "") for message in messages]
        languages = [message_language(message) for message in messages]
        ngrams = evidence.of_ngrams(texts, languages)
        chances = evidence.alone(ngrams)
        best = np.sort(chances, axis=1)
        margins = best[:, -1] - best[:, -2]
        # Chatter is short, and a few letters that nobody ever wrote soon look like it.
        margins[np.isin(evidence.labels, CHATTER)[chances.argmax(1)]] = 0
        unsure: list[int] = []
        for index, text in enumerate(texts):
            if label := self._known.get(bare(text)):
                chances[index] = 0.01 / len(evidence.labels)
                chances[index, evidence.labels.index(label)] = 0.99
            elif text and margins[index] < self._config["sure_margin"]:
                unsure.append(index)
        if unsure:
            meaning = evidence.of_meaning(
                sentence_vectors([messages[index] for index in unsure]),
                [languages[index] for index in unsure],
            )
            chances[unsure] = evidence.together(ngrams[unsure], meaning)
        for text, message, row in zip(texts, messages, chances, strict=True):
            order = np.argsort(-row)[: self._config["ranking_length"] if text else 0]
            ranking = [
                {"name": evidence.labels[place], "confidence": float(row[place])} for place in order
            ]
            first = ranking[0] if ranking else {"name": None, "confidence": 0.0}
            message.set(INTENT, first, add_to_output=True)
            message.set(INTENT_RANKING_KEY, ranking, add_to_output=True)
        return messages
