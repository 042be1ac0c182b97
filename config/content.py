"""Content files of the desk: a mistake in one is reported with file, line, key and remedy."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import yaml

P = ParamSpec("P")
T = TypeVar("T")


class ContentError(ValueError):
    """One or more mistakes in content files, each as `file:line: key: what is wrong. Remedy.`"""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


@dataclass
class Report:
    """What a check of content found. Mistakes keep it from being published; warnings do not."""

    mistakes: list[str] = field(default_factory=list)
    warnings: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Name of a group → what is doubtful, each as `file:line: key: what. Remedy.`"""
    drafts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(kind of text, language) → how many no native speaker has checked."""

    def collect(self, load: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """What `load` gives, or None if it finds mistakes; they are kept."""
        try:
            return load(*args, **kwargs)
        except ContentError as error:
            self.mistakes += error.mistakes
            return None


def read_yaml(path: Path) -> Any:
    """The value of a YAML file.

    Raises:
        ContentError: missing, not UTF-8 or not YAML; names the line.
    """
    try:
        return yaml.load(path.read_text("utf-8"), Loader=_Loader)  # noqa: S506 - a safe loader
    except FileNotFoundError:
        raise ContentError([f"{path}: the file is missing. Restore it."]) from None
    except UnicodeDecodeError as error:
        raise ContentError(
            [f"{path}: byte {error.start} is not UTF-8. Save the file with encoding UTF-8."]
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else "?"
        raise ContentError(
            [
                f"{path}:{line}: not readable as YAML ({error.problem}). Look for a missing quote, "
                "a tab or a wrong indentation on this line or the one above."
            ]
        ) from None


def place(path: Path, *keys: str | int) -> str:
    """Where a mistake is, as `file:line: key.key`; items of lists are counted from 1.

    The file is named as seen from the present folder, so that terminals and editors open it.
    """
    here = Path.cwd()
    named = path.relative_to(here) if path.is_absolute() and path.is_relative_to(here) else path
    key = ".".join(str(key + 1) if isinstance(key, int) else key for key in keys)
    return f"{named}:{line_of(path, keys)}" + (f": {key}" if key else "")


def line_of(path: Path, keys: Sequence[str | int]) -> int:
    """The line of a key path in a YAML file; of the last key that is there, if it is incomplete.

    It reads the file once more, so ask only when there is a mistake to report.
    """
    try:
        node = _nodes(path, path.stat().st_mtime_ns)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return 1
    line = 1
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            found = next((pair for pair in node.value if pair[0].value == key), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int):
            found = (node.value[key],) * 2 if key < len(node.value) else None
        else:
            found = None
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return int(line)


@lru_cache(maxsize=16)
def _nodes(path: Path, _modified: int) -> yaml.Node | None:
    return yaml.compose(path.read_text("utf-8"), Loader=_Loader)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """A safe loader that refuses a key that is written twice, instead of dropping one silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key '{key}' stands twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping
