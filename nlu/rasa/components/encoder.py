"""Meaning across languages: sentence vectors from a small multilingual encoder.

multilingual-e5-small (see `e5.py`): nothing is downloaded, no GPU. It is by far the dearest step
(4 to 10 ms a sentence), so vectors are remembered, sentences go in batches, and with `lazy` a
message is only encoded when a later component asks for it.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rasa.engine.graph import ExecutionContext, GraphComponent
from rasa.engine.recipes.default_recipe import DefaultV1Recipe
from rasa.engine.storage.resource import Resource
from rasa.engine.storage.storage import ModelStorage
from rasa.nlu.featurizers.dense_featurizer.dense_featurizer import DenseFeaturizer
from rasa.shared.nlu.constants import FEATURE_TYPE_SENTENCE, INTENT, TEXT
from rasa.shared.nlu.training_data.features import Features
from rasa.shared.nlu.training_data.message import Message
from rasa.shared.nlu.training_data.training_data import TrainingData

from components.e5 import E5, identity
from components.language import PLAIN_TEXT
from components.text import clean

logger = logging.getLogger(__name__)

ENCODER = "encoder"
"""Message key under which a lazy featurizer leaves itself; it never reaches the output."""


@DefaultV1Recipe.register(DefaultV1Recipe.ComponentType.MESSAGE_FEATURIZER, is_trainable=False)
class EncoderFeaturizer(DenseFeaturizer, GraphComponent):
    """Adds one dense sentence feature (384 numbers) to each message."""

    def __init__(self, config: dict[str, Any], name: str) -> None:
        super().__init__(name, config)
        self._known: OrderedDict[str, np.ndarray] = OrderedDict()
        self._model: E5 | None = None

    @staticmethod
    def get_default_config() -> dict[str, Any]:
        """See `config.yml` for the meaning of each."""
        return {
            **DenseFeaturizer.get_default_config(),
            "lazy": False,
            "max_characters": 300,
            "threads": 1,
            "cache_size": 2000,
        }

    @classmethod
    def create(
        cls,
        config: dict[str, Any],
        model_storage: ModelStorage,
        resource: Resource,
        execution_context: ExecutionContext,
    ) -> EncoderFeaturizer:
        """The encoder needs no training; its weights are loaded with the first sentence."""
        return cls(config, execution_context.node_name)

    @classmethod
    def validate_config(cls, config: dict[str, Any]) -> None:
        """Nothing that Rasa could check before the first sentence."""

    def encode(self, texts: Sequence[str], *, tell: bool = False) -> np.ndarray:
        """One row of length 1 per text, from memory where it is known."""
        keys = [clean(text, self._config["max_characters"]) for text in texts]
        vectors = {key: self._known[key] for key in set(keys) if key in self._known}
        missing = sorted(set(keys) - set(vectors), key=len)  # alike lengths make good batches
        for batch, done in _batches(missing):
            vectors.update(zip(batch, self._load().encode(batch), strict=True))
            if tell and done % 320 < len(batch):
                logger.info("encoded %d of %d", done, len(missing))
        for key in keys:
            self._known[key] = vectors[key]
            self._known.move_to_end(key)
        while len(self._known) > self._config["cache_size"]:
            self._known.popitem(last=False)
        return np.stack([vectors[key] for key in keys])

    def _load(self) -> E5:
        if self._model is None:
            # Waiting threads must sleep: spinning ones would take the cores from the program.
            os.environ.setdefault("OMP_WAIT_POLICY", "passive")
            self._model = E5(self._config["threads"])
        return self._model

    def remember(self, kept: Path) -> None:
        """Take over the vectors that an earlier training kept, if the same encoder made them."""
        if not kept.is_file():
            return
        with np.load(kept, allow_pickle=False) as table:
            if "encoder" in table.files and table["encoder"].item() == identity():
                self._known.update(zip(table["texts"].tolist(), table["vectors"], strict=True))

    def process_training_data(self, training_data: TrainingData) -> TrainingData:
        """Training sees every vector; those of an earlier training are not made again."""
        examples = [
            example
            for example in training_data.training_examples
            if example.get(TEXT) and example.get(INTENT) != PLAIN_TEXT
        ]
        self._config["threads"] = os.cpu_count() or 1  # nothing else is to be done meanwhile
        kept = Path(os.environ.get("BOT_RASA_VECTORS", os.devnull))
        self._config["cache_size"] = max(self._config["cache_size"], len(examples))
        self.remember(kept)
        _add_features(
            self._identifier, examples, self.encode([e.get(TEXT) for e in examples], tell=True)
        )
        if kept.parent.is_dir() and kept.suffix == ".npz":
            new = kept.with_name(f"{kept.stem}-{os.getpid()}.npz")
            np.savez(
                new,
                encoder=identity(),
                texts=list(self._known),
                vectors=np.stack(list(self._known.values())),
            )
            new.replace(kept)
        return training_data

    def process(self, messages: list[Message]) -> list[Message]:
        """While serving: the vectors, or with `lazy` the means to get them."""
        if self._config["lazy"]:
            for message in messages:
                message.set(ENCODER, self)
        elif spoken := [message for message in messages if message.get(TEXT)]:
            vectors = self.encode([message.get(TEXT) for message in spoken])
            _add_features(self._identifier, spoken, vectors)
        return messages


def _batches(texts: Sequence[str]) -> Iterator[tuple[list[str], int]]:
    """Texts sorted by length in batches, each with the number of texts up to its end: what is
    shorter than the longest of its batch costs as much, so only alike lengths go together."""
    batch: list[str] = []
    for number, text in enumerate(texts):
        if batch and (len(batch) == 16 or len(text) > 1.25 * len(batch[0]) + 8):
            yield batch, number
            batch = []
        batch.append(text)
    if batch:
        yield batch, len(texts)


def _add_features(origin: str, messages: Sequence[Message], vectors: np.ndarray) -> None:
    for message, vector in zip(messages, vectors, strict=True):
        message.add_features(Features(vector[np.newaxis], FEATURE_TYPE_SENTENCE, TEXT, origin))


def sentence_vectors(messages: Sequence[Message]) -> np.ndarray:
    """The sentence features of messages, encoding now what a lazy featurizer left open."""
    rows: list[np.ndarray | None] = [None] * len(messages)
    waiting: list[int] = []
    for index, message in enumerate(messages):
        _, features = message.get_dense_features(TEXT, [])
        if features is not None:
            rows[index] = np.asarray(features.features)[0]
        else:
            waiting.append(index)
    if waiting:
        encoder = messages[waiting[0]].get(ENCODER)
        if encoder is None:
            raise ValueError("FaqClassifier needs a dense featurizer before it in config.yml")
        for index, row in zip(
            waiting, encoder.encode([messages[i].get(TEXT) or "" for i in waiting]), strict=True
        ):
            rows[index] = row
    return np.stack([row for row in rows if row is not None])
