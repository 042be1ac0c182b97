"""How the desk sounds: published words in a voice of Twilio's, or as recordings where it has none.

The words stay as they are published; what only an eye can use is left out (source line, addresses
of web pages, readings of kanji), and telephone numbers are read digit by digit.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from babel.dates import format_datetime
from rapidfuzz import fuzz, process
from twilio.twiml.voice_response import Gather, VoiceResponse

from channels.delivery import split
from config.content import ContentError, read_yaml
from config.facts import CONFIG, load_facts
from config.texts import JAPAN, PLACEHOLDER, Text, Texts, digest_of

SAY_LIMIT = 3000
"""Characters of one <Say>; Twilio takes 4,096."""
FALLBACK = "ja-easy"
"""Spoken where a recording is missing: most workers know more of easy Japanese than of English."""

_URL = re.compile(r"\S*https?://\S+|\bwww\.\S+")
_READING = re.compile(r"[一-鿿々〆ヶ]+\(([ぁ-んァ-ヶー・]+)\)")
_MEANING = re.compile(r"〈=([^〉]*)〉")
_KANJI_ELSEWHERE = re.compile(r"[「『]?[぀-ヿ一-鿿々〆ヶー]+[」』]?[,、]?\s*")
_EMPTY_BRACKETS = re.compile(r"\(\s*\)|（\s*）|「\s*」")
_BULLET = re.compile(r"^\s*[-・•*]\s*", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Sound:
    """A language on the telephone; see `config/voice.yaml`."""

    code: str
    say: str
    voice: str
    hear: str
    model: str
    keys_first: bool
    names: tuple[str, ...]


@dataclass(frozen=True)
class Sounds:
    """All languages of the telephone, the two menus of languages, and the topics by key."""

    languages: Mapping[str, Sound]
    menu: tuple[str, ...]
    others: tuple[str, ...]
    topics: tuple[str, ...]

    def keys(self, page: int) -> dict[str, str]:
        """Key → language, for the first menu (0) or the one behind its key 8 (1)."""
        return {str(n): code for n, code in enumerate(self.others if page else self.menu, 1)}

    def named(self, speech: str) -> str:
        """The language whose name was said; "" if it was none."""
        said = " ".join(re.sub(r"[^\w\s]", " ", speech.casefold()).split())
        if not said or len(said) > 40:
            return ""
        names = {name: one.code for one in self.languages.values() for name in one.names}
        for name, code in names.items():
            if re.search(rf"\b{re.escape(name)}\b", said):
                return code
        found = process.extractOne(said, list(names), scorer=fuzz.ratio, score_cutoff=80)
        return names[found[0]] if found else ""


def load_sounds(path: Path = CONFIG / "voice.yaml") -> Sounds:
    """Read how languages sound.

    Raises:
        ContentError: names each wrong key and its remedy.
    """
    table = read_yaml(path)
    known = {code for code in read_yaml(CONFIG / "languages.yaml") if code != "registers"}
    listed = table.get("languages") or {}
    menu, others = tuple(table.get("menu") or ()), tuple(table.get("others") or ())
    mistakes = [
        f"{path.name}: languages.{code}: missing. Add it." for code in known - set(listed)
    ] + [
        f"{path.name}: languages.{code}: no language of the desk. Take it out."
        for code in set(listed) - known
    ]
    for code, row in listed.items():
        if bool(row.get("say")) != bool(row.get("voice")):
            mistakes.append(f"{path.name}: languages.{code}: give both `say` and `voice`, or none.")
        if not row.get("hear"):
            mistakes.append(f"{path.name}: languages.{code}.hear: missing. Write e.g. en-US.")
    if sorted([*menu, *others]) != sorted(listed) or len(menu) > 7 or len(others) > 8:
        mistakes.append(
            f"{path.name}: menu, others: each language once, at most 7 in `menu` and 8 in `others`."
        )
    if mistakes:
        raise ContentError(mistakes)
    return Sounds(
        {
            code: Sound(
                code,
                str(row.get("say") or ""),
                str(row.get("voice") or ""),
                str(row["hear"]),
                str(row.get("model") or ""),
                bool(row.get("keys_first")),
                tuple(row.get("names") or ()),
            )
            for code, row in listed.items()
        },
        menu,
        others,
        tuple(table.get("topics") or ()),
    )


class Speech:
    """Puts words into TwiML. `words`: all published texts, FAQ included, by id and language;
    `folder`: the recordings; `url`: where Twilio finds the desk."""

    def __init__(
        self,
        sounds: Sounds,
        words: Mapping[tuple[str, str], Text],
        texts: Callable[[], Texts],
        folder: Path,
        url: str,
    ) -> None:
        self.sounds, self.words, self.texts = sounds, words, texts
        self.folder, self.url = folder, url

    def use(self, words: Mapping[tuple[str, str], Text]) -> None:
        """Speak these published texts from now on."""
        self.words = words
        self.__dict__.pop("_numbers", None)  # the directory may have changed with them

    def text(self, text_id: str, language: str) -> Text:
        """A published text, in English if there is none in the language."""
        for code in (language, language.partition("-")[0], "en"):
            if (text_id, code) in self.words:
                return self.words[text_id, code]
        raise KeyError(text_id)

    def say(
        self,
        to: VoiceResponse | Gather,
        text_id: str,
        language: str,
        /,
        **params: str | datetime,
    ) -> None:
        """Let a text be heard; in easy Japanese and English while her language is not known.

        A moment becomes the weekday and time, in recordings the weekday.
        """
        if not language:
            for code in (FALLBACK, "en"):
                self.say(to, text_id, code, **params)
            return
        sound = self.sounds.languages.get(language)
        if sound is not None and not sound.say:
            words = self.rendered(text_id, language, params)
            if self.play(to, language, words):
                return
            language = FALLBACK
        self.speak(to, self.rendered(text_id, language, params), language)

    def read(self, to: VoiceResponse | Gather, text_id: str, language: str, words: str) -> None:
        """Let words of the log be heard, which are the published text of an id."""
        sound = self.sounds.languages.get(language)
        if sound is not None and not sound.say:
            if self.play(to, language, words):
                return
            easy = self.words.get((text_id, FALLBACK)) or self.words.get((text_id, "ja"))
            if easy is not None and not PLACEHOLDER.search(easy.body):
                self.speak(to, easy.body, easy.language)
            return
        self.speak(to, words, language)

    def rendered(self, text_id: str, language: str, params: Mapping[str, str | datetime]) -> str:
        """The words of a text with its parameters."""
        text = self.text(text_id, language)
        sound = self.sounds.languages.get(language.partition("-")[0])
        short = sound is not None and not sound.say
        values = {
            name: value
            if isinstance(value, str)
            else weekday(value, self.texts(), text.language)
            if short
            else self.texts().when(value, text.language)
            for name, value in params.items()
        }
        return text.render({**self.texts().params(text.language), **values})

    def play(self, to: VoiceResponse | Gather, language: str, words: str) -> bool:
        """Play the recording of words, if there is one."""
        digest = digest_of(words)
        if not (self.folder / language / f"{digest}.wav").is_file():
            return False
        to.play(f"{self.url}/voice/prompts/{language}/{digest}.wav")
        return True

    def speak(self, to: VoiceResponse | Gather, words: str, language: str) -> None:
        """Say words, paragraph by paragraph with a breath between."""
        sound = self.sounds.languages.get(language.partition("-")[0])
        sound = sound if sound is not None and sound.say else self.sounds.languages["en"]
        paragraphs = re.split(r"\n\s*\n", self.speakable(words, language))
        parts = [part for one in paragraphs for part in split(one, SAY_LIMIT) if part.strip()]
        for number, part in enumerate(parts):
            if number:
                to.pause(length=1)
            to.say(part, language=sound.say, voice=sound.voice)

    def speakable(self, words: str, language: str) -> str:
        """Published words without what only an eye can use; see the head of this file."""
        words = _URL.sub("", self._source(language).sub("", words))
        words = self._numbers.sub(lambda found: _digits(found[0]), words)
        words = _MEANING.sub(r"、\1、", _READING.sub(r"\1", words))
        if language.partition("-")[0] not in {"ja", "zh"}:
            words = _EMPTY_BRACKETS.sub("", _KANJI_ELSEWHERE.sub("", words))
        words = _BULLET.sub("", words)
        return re.sub(r"[ \t]+", " ", words).strip()

    def _source(self, language: str) -> re.Pattern[str]:
        body = self.texts()("answer.source", language).body
        pattern = PLACEHOLDER.sub(".+", re.escape(body).replace(r"\{", "{").replace(r"\}", "}"))
        return re.compile(rf"^{pattern}$", re.MULTILINE)

    @cached_property
    def _numbers(self) -> re.Pattern[str]:
        """The telephone numbers of the directory, the longest first."""
        numbers = sorted({w.number for w in load_facts().directory.values()}, key=len, reverse=True)
        either = "|".join(re.escape(number) for number in numbers)
        return re.compile(rf"(?<![\d,.-])(?:{either})(?![\d,.%-]*\d|\s?[%％])")


def _digits(number: str) -> str:
    return ", ".join(" ".join(group) for group in number.split("-"))


def weekday(moment: datetime, texts: Texts, language: str) -> str:
    """The day of a moment in Japan, as it is called in a language."""
    locale = texts.languages[language.partition("-")[0]].babel
    return format_datetime(moment.astimezone(JAPAN), "EEEE", locale=locale)


def finite_params(text: Text, sounds: Sounds, texts: Texts) -> Sequence[Mapping[str, str]]:
    """Every set of parameters with which a recording of a text can be wanted."""
    code = text.language
    wanted = set(PLACEHOLDER.findall(text.body))
    if not wanted:
        return [{}]
    if wanted == {"when"}:
        days = [datetime(2024, 1, day, 12, tzinfo=JAPAN) for day in range(1, 8)]
        return [{"when": weekday(day, texts, code)} for day in days]
    if wanted == {"key"} and text.id == "voice.language":
        keys = [key for page in (0, 1) for key, one in sounds.keys(page).items() if one == code]
        return [{"key": key} for key in (*keys, *("8" if code in sounds.others else ""))]
    if wanted == {"key"}:
        return [{"key": str(key)} for key in range(1, 9)]
    known = texts.params(code)
    return [text.needed(known)] if wanted <= set(known) else []


def hints(sounds: Sounds) -> str:
    """The names of languages, for the recogniser."""
    return ", ".join(one.names[0] for one in sounds.languages.values() if one.names)


def listen(to: VoiceResponse, sound: Sound | None, action: str, **more: Any) -> Gather:
    """A <Gather> that takes one key, and speech in a language if there is one."""
    attributes: dict[str, Any] = {
        "input": "dtmf",
        "action": action,
        "num_digits": 1,
        "finish_on_key": "",
        "timeout": 6,
        "action_on_empty_result": True,
    }
    if sound is not None:
        attributes |= {"input": "dtmf speech", "language": sound.hear, "speech_timeout": "auto"}
        if sound.model:
            attributes["speech_model"] = sound.model
    gather: Gather = to.gather(**{**attributes, **more})
    return gather
