"""Danger in a message: what the word list found and what the classifier learned, weighed together.

Each may raise the alarm. The word list hears words that are never harmless to miss; the classifier
understands hints without such words, and knows a film from a knife. Only where it is very sure of
that are the words left unheard, and the message is then answered like any other.
"""

from nlu.rasa_client import Danger
from nlu.risk import Evidence, Risk, RiskLevel, RiskLexicon

MOSTLY = 0.5
"""Share of what speaks for danger that must speak for an emergency, where the word list was sure of
danger and the classifier is not."""
NAMED = 0.25
"""A kind of danger is named if it has at least this share of what speaks for danger."""
LEARNED = ""
"""The phrase of evidence that the classifier gives: it has none."""


def weigh(lexicon: RiskLexicon, text: str, found: Risk, learned: Danger | None) -> Risk:
    """One risk from both. `found`: what the word list found in `text`."""
    if learned is None:
        return found
    limits = lexicon.limits
    calm = limits.calm_emergency if found.level == "emergency" else limits.calm_high
    if learned.none >= calm:
        found = Risk("none", (), ())
    own = _judge(lexicon, text, learned, heard=found.level != "none")
    both = graver(found, own)
    ordered = tuple(kind for kind in lexicon.types if kind in both.types)
    return Risk(both.level, ordered, both.evidence)


def graver(one: Risk, other: Risk) -> Risk:
    """The level of the graver one, with the kinds and the evidence of both."""
    level: RiskLevel = max((one.level, other.level), key=("none", "high", "emergency").index)
    kinds = dict.fromkeys((*one.types, *other.types))
    return Risk(level, tuple(kinds), (*one.evidence, *other.evidence))


def _judge(lexicon: RiskLexicon, text: str, learned: Danger, *, heard: bool) -> Risk:
    """What the classifier says. Words that were `heard` tell that there is danger, but not always
    how grave: "someone hit me" may be an old story or a man before the door."""
    danger, limits = 1 - learned.none, lexicon.limits
    kinds = [(kind, chance) for kind, chance in learned.kinds if kind in lexicon.types]
    grave = sum(chance for kind, chance in kinds if lexicon.types[kind].level == "emergency")
    sure = danger >= limits.high
    if not kinds or not (sure or (heard and grave >= MOSTLY * danger)):
        return Risk("none", (), ())
    level: RiskLevel = "emergency" if grave >= limits.emergency * danger else "high"
    named = [kind for kind, chance in kinds if chance >= NAMED * danger] or [kinds[0][0]]
    if level == "emergency":  # then it is said which one, even if something milder is likelier
        grave_kinds = (kind for kind, _ in kinds if lexicon.types[kind].level == "emergency")
        named = list(dict.fromkeys((*named, next(grave_kinds))))
    else:
        named = [kind for kind in named if lexicon.types[kind].level == "high"] or named
    return Risk(level, tuple(named), tuple(_spoken(text, named[0], learned.words)))


def _spoken(text: str, kind: str, words: tuple[str, ...]) -> list[Evidence]:
    """The words as they stand in the message, as far as they are found there again."""
    lower = text.lower()
    places = [(start, word) for word in words if (start := lower.find(word)) >= 0]
    return [
        Evidence(kind, "", LEARNED, text[start : start + len(word)], start, start + len(word))
        for start, word in places
    ]
