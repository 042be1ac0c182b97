"""What the desk says apart from the FAQ: one gettext catalogue, `locale/desk/`, in all languages.

`desk.pot` is the English source; `msgctxt` is the stable id of a text. A translation that is
missing or marked fuzzy (its English has changed) is a mistake for the worker's texts: `bot check`
and the tests report it. `Text` is the form in which any published words, FAQ or catalogue, leave.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from zoneinfo import ZoneInfo

from babel.dates import format_date, format_datetime
from babel.messages.catalog import Catalog
from babel.messages.pofile import PoFileError, read_po

from config.content import ContentError, place, read_yaml
from config.facts import CONFIG, REFERENCE, Facts
from config.traditional import traditional

JAPAN = ZoneInfo("Asia/Tokyo")
PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_ANY_BRACE = re.compile(r"\{[^{}]*\}")


@dataclass(frozen=True, slots=True)
class Language:
    """A language of the desk: `code` as in the data files, `babel` as CLDR locale."""

    code: str
    name: str
    english: str
    babel: str
    made: bool = False
    """Whether the program makes its texts from another's: then no editor writes any."""


@dataclass(frozen=True, slots=True)
class Text:
    """Published words: `id` and `language` name them, `digest` proves them.

    `body` is final but for `{placeholders}` that `render` fills with dates, reference numbers and
    command words. `review` is `draft` until a native speaker has checked it.
    """

    id: str
    language: str
    body: str
    review: str = "draft"
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", digest_of(self.body))

    def render(self, params: Mapping[str, str]) -> str:
        """The words as they leave; `KeyError` names a missing parameter."""
        return render(self.body, params)

    def needed(self, params: Mapping[str, str]) -> dict[str, str]:
        """Those of `params` that the text uses."""
        return {name: params[name] for name in PLACEHOLDER.findall(self.body)}


def digest_of(body: str) -> str:
    """SHA-256 of a published body, in hexadecimal."""
    return hashlib.sha256(body.encode()).hexdigest()


def render(body: str, params: Mapping[str, str]) -> str:
    """Fill the `{placeholders}` of a published body; values are never themselves expanded."""
    return PLACEHOLDER.sub(lambda match: params[match.group(1)], body)


@dataclass(frozen=True)
class Texts:
    """The catalogue of system texts, with the languages and the command words."""

    languages: dict[str, Language]
    texts: dict[tuple[str, str], Text]
    commands: dict[str, dict[str, tuple[str, ...]]]
    places: dict[tuple[str, str], str] = field(default_factory=dict, compare=False)
    """(id, language) → `file:line: id`, for whoever checks the texts."""
    registers: dict[str, Language] = field(default_factory=dict)
    """Ways of writing a language, such as ja-easy; `babel` is how they write dates."""

    def __call__(self, text_id: str, language: str) -> Text:
        """The text in `language` (a register such as ja-easy falls back to its language)."""
        return (
            self.texts.get((text_id, language))
            or self.texts.get((text_id, language.partition("-")[0]))
            or self.texts[text_id, "en"]
        )

    def __iter__(self) -> Iterator[Text]:
        return iter(self.texts.values())

    def preferred(self, accept_language: str, *first: str) -> str:
        """The language that `first` or else a browser's Accept-Language header wishes, or English.

        The header's order counts; quality values are rare enough in browsers to be passed over.
        """
        accepted = [
            part.split(";")[0].strip().split("-")[0].lower().replace("fil", "tl")
            for part in accept_language.split(",")
        ]
        return next(code for code in (*first, *accepted, "en") if code in self.languages)

    @cached_property
    def command_words(self) -> dict[str, str]:
        """Normalised word → command. A word of two commands belongs to the first."""
        words: dict[str, str] = {}
        for command, by_language in self.commands.items():
            for listed in by_language.values():
                for word in listed:
                    words.setdefault(_plain(word), command)
        return words

    def command(self, message: str) -> str | None:
        """The command that a whole message is, in any language: human, language, delete, stop …"""
        return self.command_words.get(_plain(message)) if len(message) <= 60 else None

    def params(self, language: str) -> dict[str, str]:
        """Parameters that every text may use: the words that call commands in `language`."""
        base = language.partition("-")[0]
        return {
            f"command_{name}": (
                by_language.get(language) or by_language.get(base) or by_language["en"]
            )[0]
            for name, by_language in self.commands.items()
        }

    def when(self, moment: datetime, language: str) -> str:
        """A moment in Japan time as a speaker of `language` writes it, with the weekday."""
        locale = self._locale(language)
        local = moment.astimezone(JAPAN)
        han = locale.startswith(("ja", "zh"))
        pattern = "M月d日(EEE) HH:mm" if han else "EEEE, d MMMM, HH:mm"
        return format_datetime(local, pattern, locale=locale)

    def date(self, moment: datetime, language: str) -> str:
        """A date as a speaker of `language` writes it."""
        return format_date(moment, "medium", locale=self._locale(language))

    def _locale(self, language: str) -> str:
        known = self.registers.get(language) or self.languages[language.partition("-")[0]]
        return known.babel


def _plain(message: str) -> str:
    """A message without case, diacritics, punctuation and outer spaces."""
    letters = unicodedata.normalize("NFKD", message.casefold()).replace("đ", "d")
    kept = (
        char
        for char in letters
        # Vowel signs of Burmese and Devanagari are marks too (Mc, Mn), but they make the word.
        if char.isalnum() or char.isspace() or ("\u0900" <= char <= "\u109f")
    )
    return " ".join("".join(kept).split())


def load_languages(folder: Path = CONFIG) -> tuple[dict[str, Language], dict[str, Language]]:
    """The languages of the desk, and the registers, such as ja-easy, in which it also writes."""
    listed = read_yaml(folder / "languages.yaml")
    ways = listed.pop("registers", {})
    languages = {
        code: Language(code, row["name"], row["en"], row["babel"]) for code, row in listed.items()
    }
    registers = {
        code: Language(
            code, row["name"], languages[row["of"]].english, row["babel"], bool(row.get("made"))
        )
        for code, row in ways.items()
    }
    return languages, registers


def load_texts(facts: Facts, folder: Path = CONFIG) -> Texts:
    """Read languages, commands and the catalogue, with telephone numbers filled in.

    Raises:
        ContentError: every mistake: missing or outdated translation, wrong placeholder, unknown
            reference, over-long button.
    """
    languages, registers = load_languages(folder)
    written = [code for code, way in registers.items() if not way.made]
    mistakes: list[str] = []
    template_path = folder / "locale" / "desk" / "desk.pot"
    template = _read(template_path)
    source = {str(entry.context): str(entry.id) for entry in template if entry.id}
    texts: dict[tuple[str, str], Text] = {}
    places: dict[tuple[str, str], str] = {}
    for code in [*languages, *written]:
        path = folder / "locale" / "desk" / f"{code}.po"
        bodies, review = source, "reviewed"
        lines = {str(entry.context): entry.lineno or 1 for entry in template if entry.id}
        file = place(path if code != "en" else template_path).partition(":")[0]
        if code != "en":
            catalogue = _read(path)
            review = dict(catalogue.mime_headers).get("X-Review", "draft")
            bodies, lines = {}, {}
            for entry in catalogue:
                if not entry.id:
                    continue
                name, english = str(entry.context), str(entry.id)
                lines[name] = entry.lineno or 1
                if source.get(name) != english or entry.fuzzy or not entry.string:
                    mistakes.append(
                        f"{file}:{lines[name]}: {name}: its English is now "
                        f"“{source.get(name, '(gone)')}”. Translate that."
                    )
                bodies[name] = str(entry.string)
        for name, english in source.items():
            body = bodies.get(name, "")
            where = f"{file}:{lines.get(name, 1)}: {name}"
            if not body:
                if name not in lines:
                    mistakes.append(f"{where}: missing. Add msgctxt, msgid and its translation.")
                continue
            mistakes += [f"{where}: {fault}" for fault in _faults(name, body, english, facts)]
            texts[name, code] = Text(name, code, body, review)
            places[name, code] = where
    commands = {
        command: {code: tuple(map(str, words)) for code, words in by_language.items()}
        for command, by_language in read_yaml(folder / "commands.yaml").items()
    }
    mistakes += [
        f"{place(folder / 'commands.yaml', command)}: no words for {code}. Add them."
        for command, by_language in commands.items()
        for code in languages
        if not by_language.get(code)
    ]
    if mistakes:
        raise ContentError(mistakes)
    filled = {
        key: Text(text.id, text.language, facts.fill(text.body, text.language), text.review)
        for key, text in texts.items()
    }
    for code in set(registers) - set(written):
        base = code.partition("-")[0]
        for name in source:
            text = filled[name, base]
            filled[name, code] = Text(name, code, traditional(text.body), text.review)
        for by_language in commands.values():
            by_language[code] = tuple(dict.fromkeys(map(traditional, by_language[base])))
    return Texts(languages, filled, commands, places, registers)


def _faults(name: str, body: str, english: str, facts: Facts) -> Iterable[str]:
    wanted, found = set(PLACEHOLDER.findall(english)), set(PLACEHOLDER.findall(body))
    if wanted != found:
        yield f"placeholders {sorted(found)} instead of {sorted(wanted)}. Keep them as in English."
    for reference in facts.unknown(body):
        yield f"{reference} is not in the directory or figures. Add it there or correct the key."
    rest = PLACEHOLDER.sub("", REFERENCE.sub("", body))
    for brace in _ANY_BRACE.findall(rest):
        yield f"{brace} is no placeholder. Write names in small letters, or leave braces out."
    if name.startswith("button.") and len(body) > 20:
        yield f"{len(body)} characters; a button holds 20. Shorten it."


def _read(path: Path) -> Catalog:
    try:
        with path.open("rb") as file:
            return read_po(file, abort_invalid=True)
    except FileNotFoundError:
        raise ContentError([f"{path}: the catalogue is missing. Restore it."]) from None
    except (PoFileError, UnicodeDecodeError) as error:
        raise ContentError(
            [f"{path}: not readable as a gettext catalogue ({error}). Correct that line."]
        ) from None
