"""How well each kind of evidence understands by itself: for `bot bench`, part understanding.

`python compare.py <in.json> <out.json>`, in Rasa's environment, with

    {"examples": [[label, language, text], ...], "held_out": [[language, text], ...],
     "vectors": "<models>/vectors.npz", "model": "<model>.tar.gz", "asked": [[language, text], ...]}

learns from the examples in all their spellings, as the pipeline does, and writes

    {"rankings": {"<name>": [[label, label, label], ...], ...},   # one row per message held out
     "spelled": [[label, text], ...],                             # for classifiers elsewhere
     "encoder_asked": {"topic": 0.1, "danger": 0.6, "any": 0.6}}
        # shares of `asked` for which the model needed the encoder, and what for; null: no model

Labels other than topics (`faq/...`) compete, but are left out of the rankings. The language of each
message held out is taken as given, which the desk itself has to find.
"""

import asyncio
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

warnings.simplefilter("ignore")
sys.path.insert(0, str(Path(__file__).resolve().parent))

from components.encoder import EncoderFeaturizer  # noqa: E402
from components.evidence import Evidence, Examples  # noqa: E402
from components.linear import NgramModel  # noqa: E402
from components.text import clean, respellings, spelled  # noqa: E402

TOPIC = "faq/"
BEST = 3


def main(source: Path, target: Path) -> None:
    """Do all of the above."""
    given = json.loads(source.read_text(encoding="utf-8"))
    vectors = Vectors(Path(given["vectors"]))
    examples = in_all_spellings(given["examples"], vectors)
    languages = [language for language, _ in given["held_out"]]
    texts = [clean(text) for _, text in given["held_out"]]
    print(f"learning from {len(examples.texts)} spellings", flush=True)
    evidence = Evidence.fit(examples)
    characters = NgramModel.fit(
        list(map(spelled, examples.texts, examples.languages)), examples.labels, words=False
    )
    spellings = list(map(spelled, texts, languages))
    rankings = {
        "n-grams of this desk": ranked(evidence.labels, evidence.of_ngrams(texts, languages)),
        "embedding": ranked(evidence.labels, evidence.of_meaning(vectors(texts), languages)),
        "character n-grams": ranked(characters.labels, characters.scores(spellings)),
    }
    print("asking the model how often it needs the encoder", flush=True)
    found = {
        "rankings": rankings,
        "spelled": list(zip(examples.labels, examples.texts, strict=True)),
        "encoder_asked": encoder_asked(given["model"], given["asked"]),
    }
    target.write_text(json.dumps(found), encoding="utf-8")


class Vectors:
    """Sentence vectors; those of an earlier training are not made again."""

    def __init__(self, kept: Path) -> None:
        defaults = EncoderFeaturizer.get_default_config()
        config = {**defaults, "threads": 2, "cache_size": 1_000_000}
        self._encoder = EncoderFeaturizer(config, "encoder")
        self._encoder.remember(kept)

    def __call__(self, texts: list[str]) -> np.ndarray:
        """One row per text."""
        print(f"encoding what is new of {len(texts)} texts", flush=True)
        return self._encoder.encode(texts)


def in_all_spellings(rows: list[list[str]], vectors: Vectors) -> Examples:
    """What `Respeller` and `EncoderFeaturizer` make of the training data."""
    labels, languages, texts, origins = [], [], [], []
    for label, language, text in rows:
        written = clean(text)
        for spelling in (written, *respellings(written, language)):
            labels.append(label)
            languages.append(language)
            texts.append(spelling)
            origins.append(written)
    return Examples(texts, languages, labels, origins, vectors(texts))


def ranked(labels: list[str], scores: np.ndarray) -> list[list[str]]:
    """The best topics of each row."""
    topics = [place for place, label in enumerate(labels) if label.startswith(TOPIC)]
    orders = np.argsort(-scores[:, topics], axis=1)[:, :BEST]
    return [[labels[topics[place]] for place in order] for order in orders]


def encoder_asked(model: str | None, asked: list[list[str]]) -> dict[str, float] | None:
    """For which share of messages the model, asked as the server does, needs the encoder."""
    if not model or not asked:
        return None
    from rasa.core.agent import load_agent
    from rasa.core.channels.channel import UserMessage

    from components import faq, risk
    from components.channel import understand

    needed: set[str] = set()

    def noted(what: str, vectors: Any) -> Any:
        def noting(messages: Any) -> np.ndarray:
            needed.update({what, "any"})
            return np.asarray(vectors(messages))

        return noting

    faq.sentence_vectors = noted("topic", faq.sentence_vectors)
    risk.sentence_vectors = noted("danger", risk.sentence_vectors)
    agent = asyncio.run(load_agent(model_path=model))
    counts = dict.fromkeys(("topic", "danger", "any"), 0)
    for language, text in asked:
        needed.clear()
        understand(agent.processor, [UserMessage(clean(text), metadata={"language": language})])
        for what in needed:
            counts[what] += 1
    return {what: count / len(asked) for what, count in counts.items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
