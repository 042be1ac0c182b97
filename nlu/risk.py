"""Danger in a message, found by a word list that counsellors wrote (``config/risk.yaml``).

No model, no network, no guess: the same message always gives the same answer, in any mixture of
languages, and the words that gave it are shown. The list prefers a false alarm to a miss.

How it works: message and phrases are read into *words* (in Japanese, Chinese and Burmese every
character is a word, so that spaces do not matter there). All phrases lie in one net of words, and
every word of the message starts a walk through it. A walk is bounded by the longest phrase, so
time grows with the length of the message alone, whatever it says.
"""

from __future__ import annotations

import functools
import gc
import itertools
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, cast

import regex
import yaml

RiskLevel = Literal["emergency", "high", "none"]
LANGUAGES: Final = ("ja", "en", "zh", "pt", "es", "vi", "id", "my", "tl", "ne")


class RiskFileError(ValueError):
    """The word list cannot be used. Each problem names file, place, key and remedy."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


@dataclass(frozen=True, slots=True)
class RiskType:
    """A kind of danger. ``text`` is the id of the published text that is sent at once."""

    id: str
    level: Literal["emergency", "high"]
    severity: Literal["S0", "S1", "S2"]
    name: Mapping[str, str]
    text: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why: ``text[start:end] == matched`` in the original message; ``phrase`` as in the file."""

    type: str
    language: str
    phrase: str
    matched: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Risk:
    """``types`` are in the order of the file: the first one decides what is said first."""

    level: RiskLevel
    types: tuple[str, ...]
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """How sure the classifier must be; see ``learned`` in the file."""

    high: float = 0.30
    emergency: float = 0.30
    calm_high: float = 0.80
    calm_emergency: float = 0.90


# --- Reading a message into words -----------------------------------------------------------

# Letters of other alphabets that look like ours, and kana that are written in two ways.
_ALIKE: Final = str.maketrans(
    "авекмнорстухіјѕԁԛԝһӏѵαβεικνορτυχηɑɡıøł" + "ぁぃぅぇぉっゃゅょゎ",
    "abekmhopctyxijsdqwhlvabeikvoptuxnagiol" + "あいうえおつやゆよわ",
) | {katakana: katakana - 0x60 for katakana in range(0x30A1, 0x30F7)}
# Spellings that phones and habit mix up: Nepali long and short vowels, nasal signs, s and b/v;
# Burmese digits typed for letters and the dot below, often left out.
_SPELLING: Final = str.maketrans(
    "ीूईऊशषणव" + "၀၇" + "đ", "िुइउससनब" + "ဝရ" + "d", "\u0901\u0902\u093c\u1037"
)
_APOSTROPHES: Final = "'’‘`´ʼ＇"
_HANGING: Final = r"[[\p{M}\p{Cf}\p{Cc}\p{Cs}\uFF9E\uFF9F]--[\t\n\r]]"
_PIECE: Final = regex.compile(
    r"(?P<stop>[.!?](?=\s|$)|[。！？।॥။]|\n\s*\n)"
    r"|(?P<pause>\.{2,}|[,;:，、；：၊…\n])"
    # One letter with what hangs on it (accents, vowel signs, invisible characters), or a row of
    # plain letters on which nothing hangs.
    rf"|[A-Za-z0-9]+(?!{_HANGING})|.{_HANGING}*",
    regex.VERSION1 | regex.DOTALL,
)
_KANA: Final = re.compile("[\u3041-\u30fa]")
_REPEATED: Final = re.compile(r"([^\W\d_])\1{2,}")
# A gap in a phrase spans four words, or twelve characters of a language without spaces.
_GAP: Final = 12
_WORD_COST: Final = 3
# How far "…" at the end of an `unless` phrase reaches within its clause, in words.
_REACH: Final = 40


class _Word(NamedTuple):
    forms: tuple[tuple[str, str], ...]  # (folded, as written); two when letters are repeated
    start: int
    end: int
    cost: int
    sentence: int
    clause: int


def _wide(letter: str) -> bool:
    """Is it a letter of a script that is written without spaces?"""
    return (
        "\u1000" <= letter <= "\u109f"
        or "\u3005" <= letter <= "\u3007"
        or "\u3041" <= letter <= "\u30ff"
        or "\u3400" <= letter <= "\u9fff"
        or "\ua9e0" <= letter <= "\uaa7f"
        or "\uf900" <= letter <= "\ufaff"
        or letter >= "\U00020000"
    )


def _visible(letter: str) -> bool:
    return letter in "\t\n\r" or unicodedata.category(letter) not in ("Cf", "Cc", "Cs")


def _fold(text: str) -> str:
    """Without Latin accents (Devanagari and Burmese signs are no accents) and usual misspellings.

    Latin letters keep their number, so that :func:`_fewer_marks` can compare letter by letter.
    """
    return "".join(
        # Latin only: kana and Hangul would come apart, too.
        unicodedata.normalize("NFD", letter)[0]
        if letter < "\u0370" or "\u1e00" <= letter <= "\u1eff"
        else letter
        for letter in text.translate(_SPELLING)
    )


@functools.lru_cache(maxsize=1 << 14)
def _piece(piece: str) -> tuple[Literal["word", "wide", "nothing", "space"], str]:
    """What one letter with its marks is, and how it reads."""
    seen = "".join(filter(_visible, piece))
    if not seen or seen in _APOSTROPHES:  # don't = dont
        return "nothing", ""
    read = unicodedata.normalize("NFKC", seen).casefold().translate(_ALIKE)
    read = unicodedata.normalize("NFC", read)
    if _wide(read[0]):
        return "wide", read
    if read[0].isalnum():
        # An accent that does not combine with its Latin letter is only decoration.
        return "word", read if read[0] >= "\u0370" else "".join(filter(str.isalnum, read))
    return "space", ""


@functools.lru_cache(maxsize=1 << 14)
def _forms(word: str) -> tuple[tuple[str, str], ...]:
    """The readings of a word: "heeelp" is "help" or "heelp", as "goood" is "god" or "good"."""
    spellings: tuple[str, ...] = (word,)
    if _REPEATED.search(word):
        spellings = (_REPEATED.sub(r"\1", word), _REPEATED.sub(r"\1\1", word))
    return tuple((_fold(spelling).removesuffix("\u094d"), spelling) for spelling in spellings)


def _read(text: str) -> list[_Word]:
    words: list[_Word] = []
    letters: list[str] = []
    start = end = sentence = clause = 0

    def close() -> None:
        if letters:
            forms = _forms("".join(letters))
            words.append(_Word(forms, start, end, _WORD_COST, sentence, clause))
            letters.clear()

    for match in _PIECE.finditer(text):
        if mark := match.lastgroup:
            close()
            clause += 1
            sentence += mark == "stop"
            continue
        kind, letter = _piece(match[0])
        if kind == "word":
            if not letters:
                start = match.start()
            letters.append(letter)
            end = match.end()
        elif kind != "nothing":
            close()
            if kind == "wide":
                forms = _forms(letter)
                words.append(_Word(forms, match.start(), match.end(), 1, sentence, clause))
    close()
    return words


@functools.lru_cache(maxsize=1 << 12)
def _marks(letter: str) -> frozenset[str]:
    # đ does not decompose; hook and tilde are one sound in half of Vietnam and often exchanged.
    if letter == "đ":
        return frozenset("-")
    return frozenset(unicodedata.normalize("NFD", letter)[1:].replace("\u0309", "\u0303"))


# Marks that only Vietnamese has: "thùng" (a bin) is no Nepali "thun". á, ã, ê and à are shared.
_VIETNAMESE: Final = re.compile("[ăắằẳẵặạảấầẩẫậđèẻẽẹếềểễệìỉĩịòỏọốồổỗộơớờởỡợùủũụưứừửữựỳỷỹỵ]")


def _fewer_marks(typed: str, phrase: str) -> bool:
    """May ``typed`` stand for ``phrase``? "tu tử" may for "tự tử", "từ từ" (slowly) may not."""
    return all(_marks(mine) <= _marks(yours) for mine, yours in zip(typed, phrase, strict=False))


# --- The net of phrases ---------------------------------------------------------------------

_Marks = Literal["any", "fewer", "same"]
_Role = Literal["fires", "unless", "idiom", "break"]


@dataclass(frozen=True, slots=True, eq=False)
class _Phrase:
    role: _Role
    text: str
    language: str
    type: str = ""
    before: bool = False  # an `unless` phrase that began with "…": silences its clause before it
    after: bool = False


class _Edge(NamedTuple):
    marks: _Marks
    spelling: str  # empty when marks do not matter
    node: _Node

    def admits(self, written: str) -> bool:
        if self.marks == "any":
            return written.isascii() or not _VIETNAMESE.search(written)
        if written == self.spelling:
            return True
        return self.marks == "fewer" and _fewer_marks(written, self.spelling)


class _Node:
    """A place inside phrases, and the words that lead on from it. All phrases start at one."""

    __slots__ = ("ends", "gap", "skips", "stem_lengths", "stems", "words")

    def __init__(self, end: _Phrase | None = None) -> None:
        self.words: dict[str, Sequence[_Edge]] = {}
        self.stems: dict[str, Sequence[_Edge]] = {}  # "dipukul*"
        self.stem_lengths: tuple[int, ...] = ()
        self.skips: list[_Node] = []  # places reached without a word
        self.gap: _Node | None = None  # the place behind a "…"
        self.ends: list[_Phrase] = [end] if end else []

    def lead(self, word: str, stem: bool, edge: _Edge) -> None:
        """Let a folded word lead from here along the edge."""
        edges = self.stems if stem else self.words
        edges[word] = [*edges.get(word, ()), edge]
        if stem:
            self.stem_lengths = tuple(sorted({*self.stem_lengths, len(word)}))

    def absorb(self, other: _Node) -> None:
        """Lead on to wherever another place leads, too."""
        for mine, new in ((self.words, other.words), (self.stems, other.stems)):
            for word, edges in new.items():
                mine[word] = [*mine[word], *edges] if word in mine else edges
        if other.stem_lengths:
            self.stem_lengths = tuple(sorted({*self.stem_lengths, *other.stem_lengths}))
        for node in other.skips:
            self.absorb(node)
        if other.gap:
            gap = _Node()
            if self.gap:
                gap.absorb(self.gap)
            gap.absorb(other.gap)
            self.gap = gap
        self.ends += other.ends

    def walk(
        self, words: Sequence[_Word], at: int, stop: int, found: set[tuple[_Phrase, int]]
    ) -> None:
        """Add the phrases that can be read on in ``words[at:stop]``, with the place behind them."""
        for phrase in self.ends:
            found.add((phrase, at))
        for node in self.skips:
            node.walk(words, at, stop, found)
        if gap := self.gap:
            left, gone = _GAP, at
            many = bool(gap.ends or gap.stems or gap.skips or gap.gap)
            while left >= 0 and gone < stop:
                word = words[gone]
                if many or word.forms[0][0] in gap.words or len(word.forms) > 1:
                    gap.walk(words, gone, stop, found)
                left -= word.cost
                gone += 1
            if gone == stop and left >= 0:
                gap.walk(words, stop, stop, found)
        if at == stop:
            return
        nodes = []
        for folded, written in words[at].forms:
            if folded in self.words:
                nodes += [e.node for e in _merged(self.words, folded) if e.admits(written)]
            for length in self.stem_lengths:
                if length > len(folded):
                    break
                if folded[:length] in self.stems:
                    edges = _merged(self.stems, folded[:length])
                    nodes += [e.node for e in edges if e.admits(written[:length])]
        for node in nodes:
            if at + 1 == stop or node.may_take(words[at + 1]):
                node.walk(words, at + 1, stop, found)

    def may_take(self, word: _Word) -> bool:
        """A quick look before :meth:`walk`; it may be wrong only by saying yes."""
        forms = word.forms
        if forms[0][0] in self.words or len(forms) > 1:
            return True
        return bool(self.ends or self.stems or self.skips or self.gap)


def _merged(edges: dict[str, Sequence[_Edge]], word: str) -> Sequence[_Edge]:
    """The edges of a word, one for each spelling.

    Hundreds of phrases begin with "my" or with one character. Walking them side by side would be
    slow, merging everything beforehand too; so a word's edges are merged when it is first met.
    """
    raw = edges[word]
    if isinstance(raw, list) and len(raw) > 1:
        nodes: dict[tuple[_Marks, str], _Node] = {}
        for marks, spelling, node in raw:
            nodes.setdefault((marks, spelling), _Node()).absorb(node)
        raw = edges[word] = tuple(_Edge(*key, node) for key, node in nodes.items())
    return raw


def _split(text: str, separator: str) -> list[str]:
    """Split at ``separator`` outside brackets; ``ValueError`` when brackets do not pair."""
    if "(" not in text and ")" not in text:
        return text.split(separator)
    parts: list[str] = []
    depth = 0
    for piece in text.split(separator):
        if depth:
            parts[-1] += separator + piece
        else:
            parts.append(piece)
        for bracket in re.findall(r"[()]", piece):
            depth += 1 if bracket == "(" else -1
            if depth < 0:
                raise ValueError("has a bracket without its partner: write (a|b)")
    if depth:
        raise ValueError("has a bracket without its partner: write (a|b)")
    return parts


def _group(chunk: str) -> list[str] | None:
    """The branches of ``(a|b)``; nothing when the chunk is anything else."""
    if not chunk.startswith("(") or not chunk.endswith(")"):
        return None
    try:
        return _split(chunk[1:-1], "|")
    except ValueError:  # "(a|b)c(d|e)"
        return None


def _spell_out(chunk: str) -> list[str]:
    """Every reading of a word with brackets in it: kill(s|ed)."""
    head, bracket, rest = chunk.partition("(")
    if not bracket:
        return [chunk]
    depth = end = 0
    while depth >= 0:
        depth += {"(": 1, ")": -1}.get(rest[end], 0)
        end += 1
    branches = [inner for branch in _split(rest[: end - 1], "|") for inner in _spell_out(branch)]
    tails = _spell_out(rest[end:])
    return [head + branch + tail for branch in branches for tail in tails]


@functools.lru_cache(maxsize=1 << 14)
def _literal(chunk: str) -> tuple[tuple[tuple[tuple[str, str], ...], bool], ...]:
    """A chunk without brackets as words: their forms, and whether it is a stem ("word*")."""
    stem = chunk.endswith("*")
    words = _read(chunk.removesuffix("*"))
    if not words or "*" in chunk[:-1]:
        raise ValueError(f"has {chunk!r}, which is no word: a * only ends a word, as in word*")
    if strange := re.search(r"[][{}+?!.,;:\\/^$。、！？]", chunk):
        raise ValueError(f"has {strange[0]!r}: take it away; (a|) is how to write 'perhaps a'")
    if unicodedata.category(chunk[0]).startswith("M"):
        raise ValueError(f"has {chunk!r}, which begins inside a letter: repeat the whole letter")
    if stem and words[-1].cost < _WORD_COST:
        raise ValueError("has a * where none is needed: leave it out")
    return tuple((word.forms, stem and word is words[-1]) for word in words)


@dataclass(frozen=True, slots=True)
class _Weaver:
    """Lays one phrase into the net; ``ValueError`` says what is wrong with the phrase."""

    root: _Node
    marks: _Marks
    spaced: bool

    def weave(self, text: str, source: _Node, target: _Node) -> int:
        """Lead from ``source`` to ``target`` by ``text``; how many letters that takes at least."""
        if not self.spaced:  # brackets stand between letters, each of which is a word
            text = re.sub(r"(?<![|(])\((?=.)", " (", text)
            text = re.sub(r"\)(?![|)])", ") ", text)
        chunks = [chunk for chunk in _split(text.replace("…", " … "), " ") if chunk]
        if "|" in text and len(_split(text, "|")) > 1:
            raise ValueError("has a | outside brackets: write (a|b)")
        letters = 0
        for place, chunk in enumerate(chunks, start=1):
            node = target if place == len(chunks) else _Node()
            branches = _group(chunk)
            if branches is None and "(" in chunk:
                branches = _spell_out(chunk)
            if chunk == "…":
                source.gap = node = _Node()
            elif branches is None:
                letters += self._words(chunk, source, node)
            else:
                full = [branch for branch in branches if branch.strip()]
                if not full:
                    raise ValueError("has brackets with nothing inside: write (a|b)")
                least = min(self.weave(branch, source, node) for branch in full)
                if len(full) == len(branches):
                    letters += least
                elif source is self.root:  # nothing may lead on from the root without a word
                    rest = " ".join(chunks[place:])
                    with_it = 0 if node is target else self.weave(rest, node, target)
                    return min(least + with_it, self.weave(rest, source, target))
                else:
                    source.skips.append(node)
            source = node
        if source is not target:
            raise ValueError("is empty, or a gap is at its end: write words there")
        return letters

    def _words(self, chunk: str, source: _Node, target: _Node) -> int:
        words = _literal(chunk)
        for place, (forms, stem) in enumerate(words, start=1):
            node = target if place == len(words) else _Node()
            for folded, spelling in forms:
                edge = _Edge(self.marks, "" if self.marks == "any" else spelling, node)
                source.lead(folded, stem, edge)
            source = node
        return sum(len(forms[0][0]) for forms, _ in words)


def _plant(root: _Node, phrase: _Phrase, variants: Mapping[int, str]) -> None:
    """Lay a phrase into the net; ``ValueError`` says what is wrong with it."""
    text = phrase.text.strip().replace("...", "…").translate(variants)
    marks: _Marks = "any"
    if text.startswith("="):
        marks, text = "same", text[1:]
    elif phrase.language == "vi":
        marks = "fewer"
    if phrase.role == "unless":
        text = text.strip("… ")
    own = _Node()
    weaver = _Weaver(own, marks, phrase.language not in ("ja", "zh", "my"))
    if weaver.weave(text, own, _Node(phrase)) < 2 and phrase.role != "break":
        raise ValueError("can be a single letter or nothing: write a longer phrase")
    if own.gap:
        raise ValueError("begins with a gap: take the … away")
    root.absorb(own)


# --- The file -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Entry:
    place: str
    type: str
    language: str
    fires: tuple[str, ...]
    silent: tuple[str, ...]


class RiskLexicon:
    """The word list, ready to search. Make one with :meth:`load` and share it between threads."""

    def __init__(
        self,
        types: Mapping[str, RiskType],
        entries: Sequence[_Entry],
        root: _Node,
        variants: Mapping[int, str],
        limits: Limits,
    ) -> None:
        self.types = types
        self.limits = limits
        self._order = {name: number for number, name in enumerate(types)}
        self._entries = entries
        self._root = root
        self._variants = dict(variants)

    @classmethod
    def load(cls, path: Path) -> RiskLexicon:
        """Read the file; :class:`RiskFileError` lists every mistake in it, not only the first."""
        # Hundreds of thousands of small objects: the collector would go over them again and again.
        collecting = gc.isenabled()
        gc.disable()
        try:
            return _File(path).lexicon()
        finally:
            if collecting:
                gc.enable()

    def find(self, text: str) -> Risk:
        """What the message speaks of. Never raises, whatever the string."""
        words = _read(text.translate(self._variants))
        fired: list[tuple[_Phrase, int, int]] = []
        spoken: list[tuple[_Phrase, int, int]] = []  # what may silence
        opens = {
            place
            for place, (before, word) in enumerate(itertools.pairwise(words), start=1)
            if before.clause != word.clause
        }
        stop = 0  # a phrase does not reach beyond its sentence
        for start in range(len(words)):
            while stop < len(words) and words[stop].sentence == words[start].sentence:
                stop += 1
            if not self._root.may_take(words[start]):
                continue
            found: set[tuple[_Phrase, int]] = set()
            self._root.walk(words, start, stop, found)
            for phrase, end in sorted(found, key=lambda item: -item[1]):  # the longest first
                if phrase.role == "fires":
                    fired.append((phrase, start, end))
                elif phrase.role == "break":
                    opens.add(start)
                else:
                    spoken.append((phrase, start, end))
        if not fired:
            return Risk("none", (), ())
        silenced = _silenced(spoken, opens, len(words))
        idle: frozenset[int] = frozenset()
        best: dict[_Phrase, tuple[int, int]] = {}
        for phrase, start, end in fired:
            places = range(start, end)
            span = words[start].start, words[end - 1].end
            if phrase.language == "zh" and _KANA.search(text, *span):
                continue  # Japanese that shares the characters
            if phrase not in best and all(
                silenced.get(name, idle).isdisjoint(places) for name in ("", phrase.type)
            ):
                best[phrase] = start, end
        evidence = self._evidence(text, words, best)
        types = tuple(dict.fromkeys(item.type for item in evidence))
        levels = {self.types[name].level for name in types}
        level: RiskLevel = (
            "emergency" if "emergency" in levels else "high" if "high" in levels else "none"
        )
        return Risk(level, types, evidence)

    def _evidence(
        self, text: str, words: Sequence[_Word], found: Mapping[_Phrase, tuple[int, int]]
    ) -> tuple[Evidence, ...]:
        """Where each phrase stands first, without those inside a longer one of the same type."""
        spans = [
            Evidence(
                phrase.type,
                phrase.language,
                phrase.text,
                text[words[start].start : words[end - 1].end],
                words[start].start,
                words[end - 1].end,
            )
            for phrase, (start, end) in found.items()
        ]
        # The same message gives the same evidence, so the order leaves nothing to chance.
        spans.sort(key=lambda e: (self._order[e.type], e.start, -e.end, e.language, e.phrase))
        kept: list[Evidence] = []
        for item in spans:
            if not kept or kept[-1].type != item.type or item.end > kept[-1].end:
                kept.append(item)
        return tuple(kept)

    def examples(self) -> Iterator[tuple[str, str, str]]:
        """What the file says of its own words, for the classifier to learn from: ``risk/<kind>``
        or ``risk/harmless``, language, message."""
        for entry in self._entries:
            yield from ((f"risk/{entry.type}", entry.language, text) for text in entry.fires)
            yield from (("risk/harmless", entry.language, text) for text in entry.silent)

    def check(self) -> list[str]:
        """Try every example of the file, and look for pairs of type and language without entry."""
        problems = []
        for entry in self._entries:
            for kind, examples in (("fires", entry.fires), ("silent", entry.silent)):
                for example in examples:
                    found = self.find(example)
                    if (entry.type in found.types) == (kind == "fires"):
                        continue
                    seen = next((e for e in found.evidence if e.type == entry.type), None)
                    reason = (
                        f"{seen.language} phrase {seen.phrase!r} fires on {seen.matched!r}: narrow "
                        "it or add to 'unless'"
                        if seen
                        else "no phrase of this type fires: add one to 'phrases'"
                    )
                    problems.append(f"{entry.place}: {kind}: {example!r}: {reason}")
        present = {(entry.type, entry.language) for entry in self._entries}
        problems += [
            f"no entry for type {name}, language {language}: add one"
            for name, language in itertools.product(self.types, LANGUAGES)
            if (name, language) not in present
        ]
        return problems


def _silenced(
    spoken: Sequence[tuple[_Phrase, int, int]], opens: set[int], length: int
) -> dict[str, frozenset[int]]:
    """By type ("" for every type): the places of the words that cannot fire."""
    places: dict[str, set[int]] = {}
    for phrase, start, end in spoken:
        low, high = start, end
        while phrase.before and low > 0 and low not in opens and start - low < _REACH:
            low -= 1
        while phrase.after and high < length and high not in opens and high - end < _REACH:
            high += 1
        places.setdefault(phrase.type, set()).update(range(low, high))
    return {name: frozenset(found) for name, found in places.items()}


class _File:
    """One reading of the YAML file, which collects its mistakes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []

    def lexicon(self) -> RiskLexicon:
        data, lines = self._parse()
        known = "types", "learned", "entries", "characters", "idioms", "breaks"
        self._known(str(self.path), data, *known)
        variants = self._variants(data.get("characters", []))
        types = self._types(data.get("types"))
        root = _Node()
        for key, role in (("idioms", "idiom"), ("breaks", "break")):
            for language, phrases in self._mapping(key, data.get(key, {})).items():
                self._language(key, language)
                for text in self._strings(f"{key}: {language}", {key: phrases}, key):
                    self._plant(root, variants, key, _Phrase(cast(_Role, role), text, language))
        entries = self._entries(data.get("entries"), lines, types, root, variants)
        limits = self._limits(data.get("learned"))
        if self.problems:
            raise RiskFileError(self.problems)
        return RiskLexicon(types, entries, root, variants, limits)

    def _parse(self) -> tuple[dict[str, Any], list[int]]:
        """The content, and the line on which each entry begins."""
        try:
            text = self.path.read_text("utf-8")
            loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)  # C is ten times faster
            try:
                node = loader.get_single_node()
                data = loader.construct_document(node) if node else None
            finally:
                loader.dispose()
        except OSError as error:
            raise RiskFileError([f"{self.path}: cannot be read: {error.strerror}"]) from error
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            raise RiskFileError([f"{self.path}: is not YAML in UTF-8: {error}"]) from error
        if node is None or not isinstance(data, dict):
            raise RiskFileError([f"{self.path}: must hold 'types:' and 'entries:'"])
        entries = next((value for key, value in node.value if key.value == "entries"), None)
        lines = [item.start_mark.line + 1 for item in entries.value] if entries else []
        return data, lines

    def _say(self, place: str, problem: str) -> None:
        self.problems.append(f"{self.path}: {place}: {problem}")

    def _known(self, place: str, mapping: Mapping[str, object], *keys: str) -> None:
        for key in mapping:
            if key not in keys:
                self._say(place, f"{key}: unknown key; use {', '.join(keys)}")

    def _mapping(self, place: str, value: object) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        self._say(place, "must be a mapping of keys to values")
        return {}

    def _strings(
        self, place: str, mapping: Mapping[str, Any], key: str, *, needed: bool = True
    ) -> tuple[str, ...]:
        values = mapping.get(key, [])
        if not isinstance(values, list) or (needed and not values):
            self._say(place, f"{key}: must be a list with at least one text")
            return ()
        for value in values:
            if not isinstance(value, str) or not value.strip():
                self._say(place, f"{key}: {value!r} is no text: write words, in quotes if need be")
        return tuple(value for value in values if isinstance(value, str) and value.strip())

    def _language(self, place: str, language: object) -> None:
        if language not in LANGUAGES:
            self._say(place, f"language: {language!r} is unknown; use {', '.join(LANGUAGES)}")

    def _variants(self, groups: object) -> dict[int, str]:
        variants: dict[int, str] = {}
        for group in groups if isinstance(groups, list) else ["?"]:
            if not isinstance(group, str) or len(group) < 2:
                self._say("characters", f"{group!r}: write two or more letters, the usual one last")
                continue
            variants |= {ord(letter): group[-1] for letter in group[:-1]}
        return variants

    def _limits(self, value: object) -> Limits:
        given = self._mapping("learned", {} if value is None else value)
        self._known("learned", given, *(one.name for one in fields(Limits)))
        wrong = {k for k, v in given.items() if not isinstance(v, float) or not 0 < v < 1}
        for name in wrong:
            self._say("learned", f"{name}: write a number between 0 and 1")
        names = {one.name for one in fields(Limits)} - wrong
        return Limits(**{name: value for name, value in given.items() if name in names})

    def _types(self, value: object) -> dict[str, RiskType]:
        types = {}
        for name, given in self._mapping("types", value).items():
            place = f"types: {name}"
            given = self._mapping(place, given)
            self._known(place, given, "level", "severity", "name", "text")
            if given.get("level") not in ("emergency", "high"):
                self._say(place, "level: write emergency or high")
            if given.get("severity") not in ("S0", "S1", "S2"):
                self._say(place, "severity: write S0, S1 or S2")
            names = self._mapping(f"{place}: name", given.get("name"))
            if not all(isinstance(names.get(language), str) for language in ("en", "ja")):
                self._say(place, "name: write it in en and in ja")
            text = given.get("text")
            if not isinstance(text, str) or not re.fullmatch(r"[a-z_]+\.[a-z_]+", text):
                self._say(place, "text: write the id of a text, such as emergency.violence")
            types[name] = RiskType(
                name,
                cast(Literal["emergency", "high"], given.get("level")),
                cast(Literal["S0", "S1", "S2"], given.get("severity")),
                names,
                str(text),
            )
        return types

    def _entries(
        self,
        value: object,
        lines: Sequence[int],
        types: Mapping[str, RiskType],
        root: _Node,
        variants: Mapping[int, str],
    ) -> list[_Entry]:
        if not isinstance(value, list):
            self._say("entries", "must be a list that starts each entry with '- type:'")
            return []
        entries: list[_Entry] = []
        seen: dict[tuple[str, str], str] = {}
        for number, (given, line) in enumerate(zip(value, lines, strict=True), start=1):
            place = f"entry {number} (line {line})"
            given = self._mapping(place, given)
            if not given:
                continue
            name, language = str(given.get("type")), str(given.get("language"))
            place += f" {name}/{language}"
            self._known(
                place, given, "type", "language", "phrases", "unless", "fires", "silent", "note"
            )
            if name not in types:
                self._say(place, f"type: {name!r} is unknown; use {', '.join(types)}")
            self._language(place, language)
            if first := seen.get((name, language)):
                self._say(place, f"language: written twice; add to {first} instead")
            seen[name, language] = place
            for text in self._strings(place, given, "phrases"):
                if text.strip().startswith("…") or text.strip().endswith("…"):
                    self._say(place, f"phrases: {text!r} has … at its end: take it away")
                phrase = _Phrase("fires", text, language, name)
                self._plant(root, variants, f"{place}: phrases", phrase)
            for text in self._strings(place, given, "unless", needed=False):
                ends = text.strip().startswith("…"), text.strip().endswith("…")
                phrase = _Phrase("unless", text, language, name, *ends)
                self._plant(root, variants, f"{place}: unless", phrase)
            fires = self._strings(place, given, "fires")
            silent = self._strings(place, given, "silent")
            entries.append(_Entry(f"{self.path}: {place}", name, language, fires, silent))
        return entries

    def _plant(self, root: _Node, variants: Mapping[int, str], place: str, phrase: _Phrase) -> None:
        try:
            _plant(root, phrase, variants)
        except ValueError as error:
            self._say(place, f"{phrase.text!r} {error}")
