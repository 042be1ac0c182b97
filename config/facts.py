"""Volatile facts, kept apart from the texts that refer to them: telephone numbers and figures.

`directory.yaml` holds windows with their numbers, `figures.yaml` amounts and rates, each with its
source and whether a person has verified it. Texts refer to them as `{tel:KEY}` and `{figure:KEY}`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.content import ContentError, place, read_yaml

CONFIG = Path(__file__).resolve().parent

REFERENCE = re.compile(r"\{(tel|figure):([a-z0-9_]+)\}")


@dataclass(frozen=True, slots=True)
class Window:
    """A public window or help line of the directory.

    `verified` is true where the number was read at a source; a person must still confirm it at
    the body itself before going live (`last_verified`, `verified_by`).
    """

    key: str
    names: dict[str, str]
    number: str
    languages: tuple[str, ...]
    hours: dict[str, str]
    note: str
    source: str
    verified: bool
    last_verified: str | None


@dataclass(frozen=True, slots=True)
class Figure:
    """An amount or rate with the date it holds for."""

    key: str
    values: dict[str, str]
    meaning: str
    as_of: str
    source: str
    verified: bool

    def value(self, language: str) -> str:
        """The value as written in `language`, else as in English."""
        base = language.partition("-")[0]
        return self.values.get(language) or self.values.get(base) or self.values["en"]


@dataclass(frozen=True, slots=True)
class Facts:
    """The directory and the figures."""

    directory: dict[str, Window]
    figures: dict[str, Figure]

    def fill(self, text: str, language: str) -> str:
        """Put numbers and figures in place of the references of `text`; unknown ones raise."""

        def value(match: re.Match[str]) -> str:
            kind, key = match.groups()
            return (
                self.directory[key].number if kind == "tel" else self.figures[key].value(language)
            )

        return REFERENCE.sub(value, text)

    def fill_known(self, text: str, language: str) -> str:
        """`fill`, leaving unknown references as they are (for checks)."""
        unknown = set(self.unknown(text))
        return REFERENCE.sub(
            lambda match: (
                match.group(0) if match.group(0) in unknown else self.fill(match.group(0), language)
            ),
            text,
        )

    def unknown(self, text: str) -> Iterator[str]:
        """The references of `text` that lead nowhere."""
        for match in REFERENCE.finditer(text):
            kind, key = match.groups()
            if key not in (self.directory if kind == "tel" else self.figures):
                yield match.group(0)


def load_facts(folder: Path = CONFIG) -> Facts:
    """Read `directory.yaml` and `figures.yaml`.

    Raises:
        ContentError: every mistake of both files.
    """
    mistakes: list[str] = []
    facts = read_facts(mistakes, folder)
    if mistakes:
        raise ContentError(mistakes)
    return facts


def read_facts(mistakes: list[str], folder: Path = CONFIG) -> Facts:
    """What can be read of both files; what cannot is added to `mistakes`."""
    directory = {
        key: Window(
            key=key,
            names=dict(row["name"]),
            number=str(row["number"]),
            languages=tuple(row["languages"]),
            hours=dict(row["hours"]),
            note=row.get("note") or "",
            source=row["source"],
            verified=row["verified"],
            last_verified=row.get("last_verified"),
        )
        for key, row in _rows(
            folder / "directory.yaml",
            {"name": dict, "number": str, "languages": list, "hours": dict, "source": str}
            | {"verified": bool},
            mistakes,
        )
    }
    figures = {
        key: Figure(
            key=key,
            values=row["value"] if isinstance(row["value"], dict) else {"en": str(row["value"])},
            meaning=row["meaning"],
            as_of=str(row["as_of"]),
            source=row["source"],
            verified=row["verified"],
        )
        for key, row in _rows(
            folder / "figures.yaml",
            {"value": (str, int, float, dict), "meaning": str, "source": str, "verified": bool},
            mistakes,
        )
    }
    mistakes += [
        f"{place(folder / 'figures.yaml', figure.key, 'value')}: no English value. Add `en:`."
        for figure in figures.values()
        if "en" not in figure.values
    ]
    return Facts(directory, figures)


def _rows(
    path: Path, required: dict[str, Any], mistakes: list[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        table = read_yaml(path) or {}
    except ContentError as error:
        mistakes += error.mistakes
        return
    for key, row in table.items():
        faults = [
            f"{place(path, key, name)}: missing or not of the right kind. Write it as in the "
            "entries around it (telephone numbers and dates in quotes)."
            for name, kind in required.items()
            if not isinstance(row, dict) or not isinstance(row.get(name), kind)
        ]
        mistakes += faults
        if not faults:
            yield key, row
