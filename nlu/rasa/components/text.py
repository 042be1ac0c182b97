"""How text is made equal before anything is counted in it: one place for training and serving."""

import re
import unicodedata
from functools import cache
from typing import Any

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff]")
_SPACE = re.compile(r"\s+")
_LONG_RUN = re.compile(r"(.)\1{3,}")
_MARKS = re.compile(r"[\u0300-\u036f]")
_LETTERS = str.maketrans("đĐıłøñ", "dDilon")


def clean(text: str, limit: int = 1000) -> str:
    """Lower-case, NFKC, no control characters, single spaces, "!!!!!!!" as "!!!"; at most `limit`.

    A leading slash goes too: Rasa takes "/x" for an intent typed by a developer.
    """
    text = unicodedata.normalize("NFKC", text[: 2 * limit]).lower()
    text = _SPACE.sub(" ", _CONTROL.sub(" ", text))
    return _LONG_RUN.sub(r"\1\1\1", text).strip().lstrip("/ ")[:limit]


def folded(text: str) -> str:
    """Without Latin diacritics, as people type on old phones: "tiền lương" becomes "tien luong".

    Only the marks U+0300 to U+036F go, so kana, Devanagari and Burmese stay whole.
    """
    bare = _MARKS.sub("", unicodedata.normalize("NFD", text)).translate(_LETTERS)
    return unicodedata.normalize("NFC", bare)


_DEVANAGARI = dict(
    zip(
        "अआइईउऊएऐओऔऋकखगघङचछजझञटठडढणतथदधनपफबभमयरलवशषसह",
        "a aa i i u u e ai o au ri ka kha ga gha nga cha chha ja jha nya ta tha da dha na "
        "ta tha da dha na pa pha ba bha ma ya ra la wa sha sha sa ha".split(),
        strict=True,
    )
)
_VOWEL_SIGNS = dict(zip("ािीुूेैोौृ", "aa i i u u e ai o au ri".split(), strict=True))

_KANA = {
    kana: romaji
    for row, romans in (
        ("あいうえおかきくけこさしすせそ", "a i u e o ka ki ku ke ko sa shi su se so"),
        ("たちつてとなにぬねのはひふへほ", "ta chi tsu te to na ni nu ne no ha hi fu he ho"),
        ("まみむめもやゆよらりるれろわをん", "ma mi mu me mo ya yu yo ra ri ru re ro wa o n"),
        ("がぎぐげござじずぜぞだぢづでど", "ga gi gu ge go za ji zu ze zo da ji zu de do"),
        ("ばびぶべぼぱぴぷぺぽ", "ba bi bu be bo pa pi pu pe po"),
    )
    for kana, romaji in zip(row, romans.split(), strict=True)
}
_SMALL = {"ゃ": "ya", "ゅ": "yu", "ょ": "yo"}


def romanised(text: str) -> str:
    """Devanagari or kana in Latin letters, roughly as people type it; "" if there is neither.

    Kanji have no reading here and are left out, so only texts that are mostly kana are useful.
    """
    out: list[str] = []
    double = found = False
    for character in text:
        if "ァ" <= character <= "ヶ":
            character = chr(ord(character) - 0x60)
        piece = character
        if character in _DEVANAGARI:
            piece, found = _DEVANAGARI[character], True
        elif character in _VOWEL_SIGNS:
            if out:
                out[-1] = out[-1].removesuffix("a") + _VOWEL_SIGNS[character]
            continue
        elif character == "्":
            if out:
                out[-1] = out[-1].removesuffix("a")
            continue
        elif character in "ंँ":
            piece = "n"
        elif character == "ः" or character == "ー":
            continue
        elif character in _SMALL:
            base = out[-1].removesuffix("i") if out else ""
            sound = _SMALL[character]
            if out:
                out[-1] = base + (sound[1:] if base in {"sh", "ch", "j"} else sound)
            continue
        elif character == "っ":
            double = True
            continue
        elif character in _KANA:
            piece, found = _KANA[character], True
            if double:
                piece, double = piece[0] + piece, False
        elif "\u3000" <= character <= "\u9fff":
            piece = " "
        out.append(piece)
    if not found:
        return ""
    words = "".join(out).split()
    # the inherent vowel is silent at the end of most Nepali words
    return " ".join(
        word[:-1] if len(word) > 3 and word.endswith("a") and word[-2] not in "aeiou" else word
        for word in words
    )


_HAN_OR_KANA = re.compile("[\u3041-\u30ff\u3400-\u9fff]")
_ALIKE = tuple(
    pair.split(":")
    for pair in (
        "ou:o oo:o uu:u aa:a ii:i ei:e ee:i tsu:tu shi:si chi:ti sh:s chh:c ch:c kh:k gh:g th:t "
        "dh:d bh:b ph:f jh:j w:b v:b z:j y:i x:c q:k"
    ).split()
)
_DOUBLED = re.compile(r"(.)\1+")


@cache
def _tagger() -> Any:
    import fugashi
    import ipadic

    return fugashi.GenericTagger(ipadic.MECAB_ARGS)


def read_aloud(text: str) -> str:
    """Japanese in hiragana, a space between words; anything else is left as it is."""
    if not _HAN_OR_KANA.search(text):
        return text
    words = []
    for word in _tagger()(text):
        reading = word.feature[7] if len(word.feature) > 7 else "*"
        words.append(word.surface if reading == "*" else reading)
    return "".join(_hiragana(character) for character in " ".join(words))


def _hiragana(character: str) -> str:
    return chr(ord(character) - 0x60) if "ァ" <= character <= "ヶ" else character


def respellings(text: str, language: str) -> list[str]:
    """Other ways in which people type a `clean` text: bare of diacritics, in kana, in romaji."""
    found = [folded(text)]
    if language == "ja" and _HAN_OR_KANA.search(text):
        kana = read_aloud(text)
        found += [kana, kana.replace(" ", ""), romanised(kana)]
    elif language == "ne":
        found.append(romanised(text))
    return [copy for copy in dict.fromkeys(found) if copy and copy != text]


def sounded(text: str, language: str) -> str:
    """How a Japanese or Nepali text sounds, in a coarse Latin spelling; "" for other languages.

    "給料もらえない", "きゅうりょう もらえない" and "kyuuryou moraenai" become alike, and so do
    "तलब आएन" and "talab aayena", whatever spelling of long vowels and aspirates a phone makes.
    """
    if language not in {"ja", "ne"}:
        return ""
    read = read_aloud(text) if language == "ja" else text
    sound = folded(romanised(read) or read)
    for spelling, alike in _ALIKE:
        sound = sound.replace(spelling, alike)
    return _DOUBLED.sub(r"\1", sound)


def spelled(text: str, language: str) -> str:
    """All that is counted of a `clean` text: as written, bare, and as it sounds."""
    bare = folded(text)
    sound = " ".join("~" + word for word in sounded(text, language).split())
    return " ".join(part for part in (text, bare if bare != text else "", sound) if part)
