"""In which language a message is written, learned from our own example questions.

General identifiers fail on what workers type: Vietnamese without diacritics, romaji, romanised
Nepali, two words. The example questions of the FAQ are that very kind of text, so they train an
n-gram model here, together with their other spellings (see `spelling.py`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from rasa.engine.graph import ExecutionContext, GraphComponent
from rasa.engine.recipes.default_recipe import DefaultV1Recipe
from rasa.engine.storage.resource import Resource
from rasa.engine.storage.storage import ModelStorage
from rasa.shared.nlu.constants import TEXT
from rasa.shared.nlu.training_data.message import Message
from rasa.shared.nlu.training_data.training_data import TrainingData

from components.linear import NgramModel, log_softmax
from components.text import clean

LANGUAGE = "language"
UNKNOWN = "und"
SCALE = 5.0
"""Makes margins into log-probabilities; chosen on examples kept aside."""
PLAIN_TEXT = "text"
"""Intent of training texts that are no questions: only their words and language are learned."""


def example_language(message: Message) -> str:
    """The language that the training data names for an example, else "und"."""
    metadata = message.get("metadata") or {}
    return str((metadata.get("example") or {}).get("language") or UNKNOWN)


def hinted_language(message: Message) -> str | None:
    """The language that the asking program already knows, if any."""
    hint = (message.get("metadata") or {}).get(LANGUAGE)
    return hint if isinstance(hint, str) else None


def message_language(message: Message) -> str:
    """The best that is known about the language of an example or a message."""
    known = example_language(message)
    if known != UNKNOWN:
        return known
    return hinted_language(message) or str((message.get(LANGUAGE) or {}).get("code", UNKNOWN))


@DefaultV1Recipe.register(DefaultV1Recipe.ComponentType.INTENT_CLASSIFIER, is_trainable=True)
class LanguageIdentifier(GraphComponent):
    """Sets `language: {code, confidence}` on each message; "und" when there is nothing to go by."""

    def __init__(self, config: dict[str, Any], storage: ModelStorage, resource: Resource) -> None:
        self._config, self._storage, self._resource = config, storage, resource
        self._model: NgramModel | None = None

    @staticmethod
    def get_default_config() -> dict[str, Any]:
        """`hint_weight`: how strongly the program's own guess counts (0 to 1)."""
        return {"hint_weight": 0.5}

    @classmethod
    def create(
        cls,
        config: dict[str, Any],
        model_storage: ModelStorage,
        resource: Resource,
        execution_context: ExecutionContext,
    ) -> LanguageIdentifier:
        """A component that has learned nothing yet."""
        return cls(config, model_storage, resource)

    @classmethod
    def load(
        cls,
        config: dict[str, Any],
        model_storage: ModelStorage,
        resource: Resource,
        execution_context: ExecutionContext,
        **kwargs: Any,
    ) -> LanguageIdentifier:
        """The trained component from the model file."""
        component = cls(config, model_storage, resource)
        with model_storage.read_from(resource) as folder:
            if (folder / "language.json").exists():
                component._model = NgramModel.load(folder, "language")
        return component

    def train(self, training_data: TrainingData) -> Resource:
        """Learn from every example whose language is named."""
        texts: list[str] = []
        labels: list[str] = []
        for example in training_data.intent_examples:
            code = example_language(example)
            if code == UNKNOWN or not example.get(TEXT):
                continue
            texts.append(clean(example.get(TEXT)))
            labels.append(code)
        with self._storage.write_to(self._resource) as folder:
            if len(set(labels)) > 1:
                self._model = NgramModel.fit(texts, labels)
                self._model.save(folder, "language")
        return self._resource

    def process(self, messages: list[Message]) -> list[Message]:
        """Add the language to each message."""
        texts = [clean(message.get(TEXT) or "") for message in messages]
        rows = log_softmax(SCALE * self._model.scores(texts)) if self._model and texts else None
        labels = self._model.labels if self._model else []
        for index, message in enumerate(messages):
            code, confidence = UNKNOWN, 0.0
            if rows is not None and any(character.isalpha() for character in texts[index]):
                chances = np.exp(rows[index])
                hint = hinted_language(message)
                if hint in labels:
                    weight = float(self._config["hint_weight"])
                    chances = (1 - weight) * chances
                    chances[labels.index(hint)] += weight
                best = int(chances.argmax())
                code, confidence = labels[best], float(chances[best])
            message.set(LANGUAGE, {"code": code, "confidence": confidence}, add_to_output=True)
        return messages
