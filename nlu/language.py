"""In which language a message is written, without Rasa and in well under a millisecond.

Script settles most of it. Between languages of one script our own texts decide (`learn`,
`word_model.py`): they know romaji, romanised Nepali and Burmese, chat spellings and messages of two
words, which no general identifier does. `py3langid` is asked about words that our texts do not
know: whether they are of a language that the desk does not speak. What stays unsure is told as
"und": then the desk asks, or goes by the language of the conversation so far (`prior`).
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from nlu.word_model import WordModel, words_of

LANGUAGES = ("ja", "en", "zh", "pt", "es", "vi", "id", "my", "tl", "ne")
"""The languages that the desk speaks."""
UNKNOWN = "und"

_LOOKED_AT = 400  # characters; the start of a long message says enough
_SURE = 0.5  # below this a guess is "und" (or the prior)
_PRIOR = 3.0  # what the conversation's language counts, as a logarithm: about one clear word
_OURS = 0.6  # share of letters in words that our texts know, above which nobody else is asked
_FEW = 12  # letters: py3langid guesses wildly at a word or two


@dataclass(frozen=True)
class LanguageGuess:
    """A language code (ISO 639-1, or "und") and how sure it is, 0 to 1."""

    code: str
    confidence: float


_SCRIPTS = (
    # first, last, script; Latin is told by its name, as it lies in many places
    (0x3041, 0x309F, "kana"),
    (0x30A1, 0x30FF, "kana"),
    (0x31F0, 0x31FF, "kana"),
    (0x3400, 0x9FFF, "han"),
    (0x20000, 0x2FFFF, "han"),
    (0x1000, 0x109F, "my"),
    (0xA9E0, 0xA9FF, "my"),
    (0xAA60, 0xAA7F, "my"),
    (0x0900, 0x097F, "devanagari"),
    (0x1100, 0x11FF, "ko"),
    (0x3130, 0x318F, "ko"),
    (0xAC00, 0xD7AF, "ko"),
    (0x0E00, 0x0E7F, "th"),
    (0x0E80, 0x0EFF, "lo"),
    (0x1780, 0x17FF, "km"),
    (0x0980, 0x09FF, "bn"),
    (0x0A00, 0x0A7F, "pa"),
    (0x0A80, 0x0AFF, "gu"),
    (0x0B80, 0x0BFF, "ta"),
    (0x0C00, 0x0C7F, "te"),
    (0x0D00, 0x0D7F, "ml"),
    (0x0D80, 0x0DFF, "si"),
    (0x0F00, 0x0FFF, "bo"),
    (0x0400, 0x052F, "cyrillic"),
    (0x0600, 0x06FF, "arabic"),
    (0x0750, 0x077F, "arabic"),
    (0x0370, 0x03FF, "el"),
    (0x0590, 0x05FF, "he"),
    (0x10A0, 0x10FF, "ka"),
    (0x0530, 0x058F, "hy"),
    (0x1200, 0x137F, "am"),
    (0x1800, 0x18AF, "mn"),
)
_SIGNS = {  # what one language of a script has and the others have not
    "cyrillic": (
        ("uk", re.compile("[іїєґ]")),
        ("mn", re.compile(r"[өү]|аа|ээ|уу|(?:ыг|ийг)\b")),
        ("ru", re.compile("[ёъщ]|ый|ого|ть|ся")),
    ),
    "arabic": (
        ("ur", re.compile("[ٹڈڑےںھۓ]")),
        ("fa", re.compile("[پچژگیک]")),
        ("ar", re.compile("[ةىيكأإؤئ]")),
    ),
}
_NEIGHBOURS = (
    # language, the one of ours that identifiers take it for, how many of these words it takes
    ("hi", "", 1, "हैं हूँ हूं था थी थे नहीं मैं में मुझे क्या रहा रही रहे गया गई"),
    (
        *("hi", "", 2),
        "hai hain mujhe nahi nahin nhi kya kaise mein main raha rahi rahe gaya karna chahta chahti "
        "chahiye hoon humko mujhko liya diya",
    ),
    (
        *("ms", "id", 1),
        "nak macam awak syarikat kilang pencen tercedera kemalangan kerana mahu encik insurans "
        "pasport sahaja camne peguam percuma sijil imigresen pejabat elaun jururawat bilakah "
        "kenapakah berapakah saman wang bimbit notis tarikh",
    ),
)
_GUESTS = frozenset(
    ("fr", "de", "it", "tr", "uz", "ms", "pl", "ro", "nl", "sw", "az", "hu", "cs", "sv", "fi")
)
"""Strangers in Latin letters that may well write; any other must be told more surely, for
identifiers see Shona and Hausa in romaji and in Nepali typed on a phone."""
_ALIASES = {"jv": "id", "su": "id", "gl": "pt", "bcl": "tl", "pcm": "en", "wuu": "zh", "yue": "zh"}


class _Learned:
    """What our own texts teach."""

    def __init__(self, texts: Iterable[tuple[str, str]]) -> None:
        by_language: dict[str, list[str]] = {code: [] for code in LANGUAGES}
        spoken: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
        for code, text in texts:
            if code in by_language:
                by_language[code].append(text)
                if 2 < len(text) < 2 * _FEW:
                    spoken[tuple(words_of(text))].add(code)
        self.words = WordModel(by_language)
        # "hola" greets in Spanish, though Nepali sentences end with it
        self.whole = {key: min(codes) for key, codes in spoken.items() if key and len(codes) == 1}


def _nothing() -> _Learned | None:
    return None


_learned: Callable[[], _Learned | None] = _nothing


def learn(texts: Iterable[tuple[str, str]]) -> None:
    """Learn from (language, text) from now on; done by `warm_up` or with the first message."""
    kept = list(texts)
    global _learned
    _learned = cache(lambda: _Learned(kept)) if kept else _nothing


def warm_up() -> None:
    """Load and learn now (about a second, in a thread) instead of with the first message."""
    _general()
    _learned()


def identify(text: str, prior: str | None = None) -> LanguageGuess:
    """The language of a message; `prior` is that of the conversation so far, if it is known.

    The prior decides where the message itself does not ("ok", "123", two Han characters) and is
    outvoted by anything clear. Never raises.
    """
    text = unicodedata.normalize("NFKC", text[: 2 * _LOOKED_AT])[:_LOOKED_AT].lower()
    counts: defaultdict[str, float] = defaultdict(float)
    for character in text:
        if script := _script(character):
            counts[script] += 1
    if not counts:
        return _undecided(prior)
    kana = counts["kana"]
    cjk = kana + counts.pop("han", 0.0)
    latin = counts["latin"]
    counts |= {"latin": latin / 2, "kana": 0.0, "cjk": cjk}  # a word has more Latin letters
    script = max(counts, key=counts.__getitem__)
    if script in _SIGNS:
        return _by_signs(text, script)
    if script not in {"latin", "cjk", "devanagari"}:
        return LanguageGuess(script, 0.99)
    words = words_of(text)
    if script == "cjk" and not latin:
        if kana - text.count("の") > max(0, cjk / 10):
            return LanguageGuess("ja", 0.99)
        return _ours(words, prior, ("ja", "zh"))
    if script == "devanagari" and not latin:
        guess = _ours(words, prior, ("ne",))
    else:
        guess = _ours(words, prior, LANGUAGES)
    return _stranger(text, words, guess, prior) or guess


def written(text: str, language: str) -> str:
    """How Chinese is written, if that is clear: `zh-hant` in traditional characters, else `zh`.

    Japanese names hold traditional characters too, so one that Japan does not use tells more.
    """
    if language != "zh":
        return ""
    han = [c for c in text[:_LOOKED_AT] if _script(c) == "han"]
    simplified = any(_encodes(c, "gb2312") and not _encodes(c, "big5") for c in han)
    old = [c for c in han if _encodes(c, "big5") and not _encodes(c, "gb2312")]
    abroad = any(not _encodes(c, "shift_jis") for c in old)
    if old and not simplified and (abroad or len(old) > 1):
        return "zh-hant"
    return "zh" if simplified and not old else ""


@cache
def _encodes(character: str, encoding: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


@cache
def _script(character: str) -> str:
    point = ord(character)
    if point < 0x250:
        return "latin" if character.isalpha() else ""
    for first, last, script in _SCRIPTS:
        if first <= point <= last:
            return script if character.isalpha() or unicodedata.combining(character) else ""
    return "latin" if 0x1E00 <= point <= 0x1EFF else ""


def _undecided(prior: str | None) -> LanguageGuess:
    return LanguageGuess(prior, _SURE) if prior else LanguageGuess(UNKNOWN, 0.0)


def _ours(words: Sequence[str], prior: str | None, among: Sequence[str]) -> LanguageGuess:
    """The likeliest of our languages."""
    learned = _learned()
    if learned is None:
        general = _general_chances(" ".join(words))
        chances = {code: general.get(code, 0.0) for code in among}
    else:
        example = learned.whole.get(tuple(words), UNKNOWN)
        if not prior and example in among:
            return LanguageGuess(example, 0.9)
        model = learned.words
        found = model.chances(words, {prior: _PRIOR} if prior else {})
        chances = {c: float(x) for c, x in zip(model.languages, found, strict=True) if c in among}
    code = max(chances, key=chances.__getitem__)
    sure = chances[code] / (sum(chances.values()) or 1.0)
    if sure >= _SURE:
        return LanguageGuess(code, min(0.99, sure))
    borrowed = chances.get("en", 0.0) >= chances[code] / 2 and sum(map(len, words)) > 2
    if borrowed and not prior:  # "hello": a word of many languages is English, if it is also that
        return LanguageGuess("en", _SURE)
    return _undecided(prior)


def _stranger(
    text: str, words: Sequence[str], guess: LanguageGuess, prior: str | None
) -> LanguageGuess | None:
    """A language that the desk does not speak, if the words are surely of one."""
    for code, ours, needed, telling in _NEIGHBOURS:
        if ours in {guess.code, ""} and len(set(telling.split()).intersection(words)) >= needed:
            return LanguageGuess(code, 0.8)
    learned = _learned()
    strange = learned is not None and learned.words.strange(words)
    if learned and not strange and guess.code in LANGUAGES:
        known = learned.words.known(words, guess.code)
        if known >= _OURS:
            return None
    code, chance = max(_general_chances(text).items(), key=lambda item: item[1])
    few = sum(map(len, words)) < _FEW
    enough = 0.9 if few or (text.isascii() and code not in _GUESTS) else 0.6
    if strange:
        enough = 0.3
    if code in LANGUAGES or chance < enough + (0.05 if prior else 0.0):
        return None
    return LanguageGuess(code, min(0.99, chance))


def _by_signs(text: str, script: str) -> LanguageGuess:
    """Languages of one script of which the desk speaks none: by their letters, else in general."""
    code, chance = max(_general_chances(text).items(), key=lambda item: item[1])
    signs = {code: len(sign.findall(text)) for code, sign in _SIGNS[script]}
    telling = max(signs, key=signs.__getitem__)
    if chance > 0.9 or not signs[telling]:
        known = chance > _SURE and code not in LANGUAGES
        return LanguageGuess(code if known else tuple(signs)[-1], max(chance, _SURE))
    return LanguageGuess(telling, 0.8)


@cache
def _general() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _general_chances(text: str) -> dict[str, float]:
    """Chances by py3langid, kindred languages taken together."""
    chances: defaultdict[str, float] = defaultdict(float)
    for code, chance in _general().rank(text):
        chances[_ALIASES.get(code, code)] += float(chance)
    return chances
