"""The word list and the classifier of danger weighed together: a table, and what always holds."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.facts import CONFIG
from nlu.danger import weigh
from nlu.lexical import LexicalSearch
from nlu.rasa_client import Danger, RasaClient, RasaResult, RasaUnavailable
from nlu.risk import RiskLexicon
from nlu.understand import LONG, Understander

LEXICON = RiskLexicon.load(CONFIG / "risk.yaml")
LEVELS = ("none", "high", "emergency")
CALM = "when can i renew my residence card"
KILL = "I want to kill myself"
PASSPORT = "my boss took my passport"


def learned(none: float, *kinds: tuple[str, float], words: tuple[str, ...] = ()) -> Danger:
    return Danger(none, kinds, words)


@pytest.mark.parametrize(
    ("text", "danger", "level", "types"),
    [
        (CALM, None, "none", ()),
        (KILL, None, "emergency", ("suicide",)),
        # hints that no word tells
        ("i can not go on", learned(0.2, ("suicide", 0.7)), "emergency", ("suicide",)),
        ("they keep it", learned(0.3, ("passport_held", 0.65)), "high", ("passport_held",)),
        # unsure between high and none is high
        ("they keep it", learned(0.5, ("passport_held", 0.4)), "high", ("passport_held",)),
        # a part of what speaks for danger is enough for an emergency, and it is named
        (
            "he comes at night",
            learned(0.3, ("sexual_harassment", 0.5), ("sexual_violence", 0.25)),
            "emergency",
            ("sexual_violence", "sexual_harassment"),
        ),
        # words are heard unless the classifier is sure, and very sure where life is at stake
        (PASSPORT, learned(0.58, ("passport_held", 0.1)), "high", ("passport_held",)),
        (PASSPORT, learned(0.8), "none", ()),
        (KILL, learned(0.85), "emergency", ("suicide",)),
        ("i watched a film about a suicide", learned(0.99), "none", ()),
        # the graver one counts
        (
            PASSPORT,
            learned(0.1, ("confinement", 0.8)),
            "emergency",
            ("confinement", "passport_held"),
        ),
        # words tell that there is danger, the classifier which: both are unsure, but not of that
        (
            PASSPORT,
            learned(0.72, ("confinement", 0.2), ("passport_held", 0.05)),
            "emergency",
            ("confinement", "passport_held"),
        ),
        (CALM, learned(0.75, ("confinement", 0.25)), "none", ()),
        # a kind that the file does not know is not named
        (CALM, learned(0.1, ("martians", 0.9)), "none", ()),
    ],
)
def test_both_may_raise_the_alarm(
    text: str, danger: Danger | None, level: str, types: tuple[str, ...]
) -> None:
    risk = weigh(LEXICON, text, LEXICON.find(text), danger)
    assert risk.level == level
    assert risk.types == types


def test_the_counsellor_sees_which_words_were_heard() -> None:
    text = "The cat has FOOD, goodbye"
    words = ("food", "goodbye")
    risk = weigh(LEXICON, text, LEXICON.find(text), learned(0.1, ("suicide", 0.8), words=words))
    assert [item.matched for item in risk.evidence] == ["FOOD", "goodbye"]
    assert all(text[item.start : item.end] == item.matched for item in risk.evidence)


@given(
    st.sampled_from([CALM, KILL, PASSPORT, "", "💔" * 50]),
    st.floats(0, 1),
    st.lists(st.tuples(st.sampled_from([*LEXICON.types, "martians"]), st.floats(0, 1)), max_size=5),
)
def test_it_never_fails_and_below_the_limit_words_are_never_lost(
    text: str, none: float, kinds: list[tuple[str, float]]
) -> None:
    found = LEXICON.find(text)
    risk = weigh(LEXICON, text, found, Danger(none, tuple(kinds), ("kill", "")))
    limits = LEXICON.limits
    if none < (limits.calm_emergency if found.level == "emergency" else limits.calm_high):
        assert LEVELS.index(risk.level) >= LEVELS.index(found.level)
        assert set(found.types) <= set(risk.types)
    assert (risk.level == "none") == (not risk.types)


class DiesHalfway(RasaClient):
    """Answers once, is calm about everything, and is gone."""

    asked = 0

    async def parse(
        self, texts: Sequence[str], languages: Sequence[str | None] | None = None
    ) -> list[RasaResult]:
        _ = languages
        self.asked += 1
        if self.asked > 1:
            raise RasaUnavailable("gone")
        return [RasaResult((("faq/garbage_rules", 0.9),), "en", 0.9, learned(0.99)) for _ in texts]


async def test_when_rasa_dies_halfway_the_words_decide_alone() -> None:
    """It had read the calm beginning of a long message, and not yet its end."""
    text = "The garbage here is a long story. " * (LONG // 20) + "I want to kill myself."
    client = DiesHalfway("http://rasa.test")
    search = LexicalSearch([("faq/garbage_rules", "en", "which day is garbage")])
    [found] = await Understander(LEXICON, search, lambda: client).understand([text], [None])
    assert client.asked == 2
    assert found.degraded
    assert found.risk.level == "emergency"
