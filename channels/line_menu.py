"""LINE's rich menus: the picture with fields under the chat, one per language, drawn here.

A worker who has not said anything yet sees the names of the languages. Later she sees three fields
in her own: what she can ask, a person, the language. Letters are drawn where this machine has a
font (and the shaping) for them; else a field has its sign, or the English name of the language.
"""

import hashlib
import io
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from linebot.v3.messaging import (
    MessageAction,
    PostbackAction,
    RichMenuArea,
    RichMenuBounds,
    RichMenuRequest,
    RichMenuSize,
)
from PIL import Image, ImageDraw, ImageFont, features

from config.texts import Texts

WIDTH, HEIGHT = 2500, 843
"""Pixels of the small kind of menu; the picture is to be below 1 MB."""
NAME = "consultation desk "
"""Menus with such a name are ours: replaced and removed by `bot channels setup line`."""
START = "/start"
"""The choice that shows what can be asked, as at the beginning."""
PAPER, INK, LINE, SIGN = "#f7f5f0", "#22303c", "#d8d3c8", "#0b6e5f"


@dataclass(frozen=True, slots=True)
class Menu:
    """A menu as LINE is to have it. `alias` is its lasting name, the request's its content's."""

    alias: str
    request: RichMenuRequest
    image: bytes


def alias(language: str) -> str:
    """The lasting name of a language's menu; "" is the one for everybody else."""
    return f"desk-{language or 'languages'}"


def data(value: str, label: str) -> str:
    """What a button sends back: its value, and its label so that the log shows what she pressed."""
    return f"{value}\n{label}"


def menus(texts: Texts) -> list[Menu]:
    """All menus; the first one is for those whose language is not known yet."""
    made = [_languages(texts)]
    for code in texts.languages:
        words = [texts(name, code).body for name in ("line.topics", "button.human")]
        fields = [
            ("?", words[0], PostbackAction(data=data(START, ""), display_text=words[0])),
            (
                "person",
                words[1],
                PostbackAction(data=data("/human", words[1]), display_text=words[1]),
            ),
            (
                "globe",
                texts("line.language", code).body,
                MessageAction(text=texts.params(code)["command_language"]),
            ),
        ]
        made.append(_menu(code, texts("line.menu", code).body, 3, 1, fields))
    return made


def _languages(texts: Texts) -> Menu:
    fields = []
    for language in texts.languages.values():
        shown = language.name if _font(language.name) else language.english.partition(" ")[0]
        action = PostbackAction(
            data=data(f"/language {language.code}", language.name), display_text=language.name
        )
        fields.append(("", shown, action))
    bar = " ".join(texts("line.language", code).body for code in ("en", "ja"))
    return _menu("", bar[:14], 5, 2, fields)


def _menu(
    language: str,
    bar: str,
    columns: int,
    rows: int,
    fields: Sequence[tuple[str, str, PostbackAction | MessageAction]],
) -> Menu:
    width, height = WIDTH // columns, HEIGHT // rows
    places = [(n % columns * width, n // columns * height) for n in range(len(fields))]
    image = _draw(
        width, height, [(*at, *field[:2]) for at, field in zip(places, fields, strict=True)]
    )
    request = RichMenuRequest(
        size=RichMenuSize(width=WIDTH, height=HEIGHT),
        selected=True,
        name=NAME,
        chat_bar_text=bar,
        areas=[
            RichMenuArea(bounds=RichMenuBounds(x=x, y=y, width=width, height=height), action=action)
            for (x, y), (_, _, action) in zip(places, fields, strict=True)
        ],
    )
    digest = hashlib.sha256(request.to_json().encode() + image).hexdigest()[:12]
    request.name = f"{NAME}{language or 'languages'} {digest}"
    return Menu(alias(language), request, image)


# -- the picture -----------------------------------------------------------------------------------


def _draw(width: int, height: int, fields: Sequence[tuple[int, int, str, str]]) -> bytes:
    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(image)
    for x, y, sign, words in fields:
        draw.rectangle((x, y, x + width, y + height), outline=LINE, width=4)
        middle = (x + width // 2, y + height // 2)
        file = _font(words)
        if sign:
            _sign(draw, sign, middle[0], middle[1] - (110 if file else 0))
            middle = (middle[0], y + height * 3 // 4)
        if file or words.isascii():
            draw.text(middle, words, INK, _fitting(draw, words, file, width - 60), anchor="mm")
    target = io.BytesIO()
    image.save(target, "PNG")
    return target.getvalue()


def _sign(draw: ImageDraw.ImageDraw, sign: str, x: int, y: int) -> None:
    if sign == "person":
        draw.ellipse((x - 65, y - 150, x + 65, y - 20), fill=SIGN)
        draw.pieslice((x - 130, y, x + 130, y + 260), 180, 360, fill=SIGN)
    elif sign == "globe":
        draw.ellipse((x - 130, y - 130, x + 130, y + 130), outline=SIGN, width=16)
        draw.ellipse((x - 60, y - 130, x + 60, y + 130), outline=SIGN, width=14)
        for height in (-60, 60):
            draw.line((x - 112, y + height, x + 112, y + height), fill=SIGN, width=14)
        draw.line((x, y - 130, x, y + 130), fill=SIGN, width=14)
    else:
        draw.rounded_rectangle((x - 160, y - 140, x + 160, y + 90), 50, fill=SIGN)
        draw.polygon(((x - 90, y + 80), (x - 10, y + 80), (x - 100, y + 150)), fill=SIGN)
        draw.text((x, y - 25), sign, PAPER, ImageFont.load_default(190), anchor="mm")


def _fitting(
    draw: ImageDraw.ImageDraw, words: str, file: str, room: int
) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    for size in range(92, 40, -4):
        font = ImageFont.truetype(file, size) if file else ImageFont.load_default(size)
        if draw.textlength(words, font) <= room:
            break
    return font


@cache
def _font(words: str) -> str:
    """The file of a font that has all letters of these words, Noto's upright ones first; or ""."""
    finder = shutil.which("fc-list")
    shaped = any("\u0900" <= char <= "\u109f" for char in words)  # Devanagari to Burmese
    if finder is None or (shaped and not features.check("raqm")):
        return ""
    letters = " ".join(sorted({f"{ord(char):x}" for char in words if not char.isspace()}))
    found = subprocess.run(  # noqa: S603 - no shell, and only numbers of letters
        [finder, "-f", "%{file}\n", f":charset={letters}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    ).stdout.split("\n")
    files = sorted(
        (file for file in found if file.endswith((".ttf", ".otf", ".ttc"))),
        key=lambda file: ("NotoSans" not in file, "Regular" not in file, len(file), file),
    )
    return files[0] if files else ""
