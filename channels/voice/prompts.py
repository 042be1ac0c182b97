"""Recordings of what the desk says, for languages in which Twilio has no voice.

`<data>/prompts/<language>/<digest>.wav` (8 kHz, mono, 16 bit) holds the words with that digest, and
`<digest>.json` beside it tells which text they are and who made it. A machine's placeholder is
marked as such; a file without a note, or with another one, is a person's and never overwritten.
"""

import array
import ctypes
import json
import re
import sys
import wave
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from channels.delivery import split
from channels.voice.speech import Speech, finite_params
from config.texts import Text, digest_of

RATE = 8000
"""Samples per second of a telephone."""
MACHINE = "espeak-ng placeholder"
_PARTS = ("voice", "emergency", "risk", "faq", "suggest", "menu", "delete", "stop", "feedback")
_SINGLE = frozenset(
    {
        "language.set",
        "answer.no_text",
        "error.empty",
        "error.too_long",
        "error.too_many",
        "button.none",
        "button.yes_delete",
        "button.no",
    }
)
_TO_COUNSELLORS = frozenset({"voice.whisper", "voice.bridge"})

State = Literal["person", "placeholder", "missing", "wrong format"]


class SynthesiserError(RuntimeError):
    """No placeholder can be made; the text says what to install or record."""


def folder_of(data_dir: Path) -> Path:
    """Where the recordings are."""
    return data_dir / "prompts"


@dataclass(frozen=True, slots=True)
class Prompt:
    """Words to be recorded. `state`: what there is of it."""

    text_id: str
    language: str
    words: str
    digest: str
    path: Path
    state: State


def unvoiced(speech: Speech) -> list[str]:
    """The languages that need recordings."""
    return [code for code, sound in speech.sounds.languages.items() if not sound.say]


def wanted(speech: Speech, language: str) -> list[Prompt]:
    """Everything that can be said on the telephone in a language, once each.

    Words with a moment or a case number in them cannot be recorded, and are not wanted.
    """
    found: dict[str, Prompt] = {}
    for text in speech.words.values():
        if text.language != language or not _spoken(speech, text):
            continue
        for params in finite_params(text, speech.sounds, speech.texts()):
            words = text.render(params)
            digest = digest_of(words)
            path = speech.folder / language / f"{digest}.wav"
            found[digest] = Prompt(text.id, language, words, digest, path, state_of(path))
    return list(found.values())


def _spoken(speech: Speech, text: Text) -> bool:
    other = {(f"voice.{text.id}", text.language), (f"{text.id}/voice", text.language)}
    if text.id in _TO_COUNSELLORS or other & speech.words.keys():
        return False  # never said to a worker, or said in other words on the telephone
    if text.id.startswith("faq/") and text.id.endswith("/sms"):
        return False
    return text.id in _SINGLE or text.id.partition("/")[0].partition(".")[0] in _PARTS


def state_of(path: Path) -> State:
    """What there is of a recording."""
    if not path.is_file():
        return "missing"
    try:
        with wave.open(str(path)) as sound:
            good = (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (
                RATE,
                1,
                2,
            )
    except (wave.Error, EOFError):
        good = False
    if not good:
        return "wrong format"
    return "placeholder" if _note(path).get("made_by") == MACHINE else "person"


def _note(path: Path) -> dict[str, Any]:
    try:
        note = json.loads(path.with_suffix(".json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def outdated(speech: Speech, prompts: list[Prompt], language: str) -> list[Path]:
    """Recordings of words that are not said any more."""
    known = {prompt.path for prompt in prompts}
    return [path for path in sorted((speech.folder / language).glob("*.wav")) if path not in known]


def make(speech: Speech, prompt: Prompt) -> None:
    """Let the machine speak a placeholder for a missing recording.

    Raises:
        SynthesiserError: there is no synthesiser, or it has no voice for the language.
    """
    if prompt.state == "person":
        raise ValueError("a person's recording is never overwritten")
    spoken = speech.speakable(prompt.words, prompt.language)
    rate, samples = _synthesise(spoken, prompt.language)
    prompt.path.parent.mkdir(parents=True, exist_ok=True)
    note = {
        "text": prompt.text_id,
        "words": prompt.words,
        "digest": prompt.digest,
        "made_by": MACHINE,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    # The note first: a sound without a note would count as a person's.
    prompt.path.with_suffix(".json").write_text(json.dumps(note, ensure_ascii=False, indent=1))
    part = prompt.path.with_suffix(".part")
    with wave.open(str(part), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(RATE)
        sound.writeframes(_slower(samples, rate).tobytes())
    part.rename(prompt.path)


def _slower(samples: "array.array[int]", rate: int) -> "array.array[int]":
    """Samples at the telephone's rate, each the mean of those that it stands for."""
    step = rate / RATE
    bounds = [round(n * step) for n in range(int(len(samples) / step) + 1)]
    halved = (sum(samples[start:end]) // (end - start) for start, end in pairwise(bounds))
    slower = array.array("h", halved)
    if sys.byteorder == "big":
        slower.byteswap()
    return slower


# -- espeak-ng -------------------------------------------------------------------------------------
# Its library comes in the package espeakng-loader. Constants and calls: espeak-ng's speak_lib.h.

CLAUSE = 40
"""Characters that espeak-ng gets at a time: much more Burmese overflows its buffers, which ends
the whole program."""
_LONG_WORD = re.compile(r"\S{30,}")
_SYLLABLE = re.compile(r"(?<=.)(?=[က-အ၀-၉](?!့?်|္))(?<!္)")
_SYNCHRONOUS, _UTF8, _BY_CHARACTER = 2, 1, 1
_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


def _apart(word: re.Match[str]) -> str:
    """A run of letters without spaces, cut between Burmese syllables."""
    return " ".join(
        part[start : start + 30]
        for part in _SYLLABLE.sub(" ", word[0]).split()
        for start in range(0, len(part), 30)
    )


@cache
def _library() -> tuple[Any, int]:
    try:
        import espeakng_loader

        library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = str(espeakng_loader.get_data_path()).encode()
        rate = library.espeak_Initialize(_SYNCHRONOUS, 0, data, 0)
    except ImportError:
        raise SynthesiserError(
            "The synthesiser espeak-ng is not installed. Install it (uv sync --extra prompts), or "
            "let a person record the prompts."
        ) from None
    except OSError as error:
        raise SynthesiserError(
            f"The synthesiser espeak-ng does not start here ({type(error).__name__}). Let a person "
            "record the prompts, or make them on Linux, Windows or macOS."
        ) from None
    if rate <= 0:
        raise SynthesiserError("The synthesiser espeak-ng does not start here.")
    return library, rate


def _synthesise(words: str, language: str) -> "tuple[int, array.array[int]]":
    library, rate = _library()
    if library.espeak_SetVoiceByName(language.encode()):
        raise SynthesiserError(f"espeak-ng has no voice for {language}: a person must record it.")
    samples = array.array("h")

    def take(sound: Any, count: int, _events: Any) -> int:
        if sound and count > 0:
            samples.frombytes(ctypes.string_at(sound, count * 2))
        return 0

    callback = _Callback(take)
    library.espeak_SetSynthCallback(callback)
    failed = False
    for part in split(_LONG_WORD.sub(_apart, words), CLAUSE):
        raw = part.encode() + b"\0"
        failed |= bool(library.espeak_Synth(raw, len(raw), 0, _BY_CHARACTER, 0, _UTF8, None, None))
    if failed or not samples:
        raise SynthesiserError(f"espeak-ng could not speak a text in {language}.")
    return rate, samples
