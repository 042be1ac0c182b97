"""Content files of the desk: where a mistake in one is reported with file, key and remedy."""

from pathlib import Path
from typing import Any

import yaml


class ContentError(ValueError):
    """One or more mistakes in content files, each as `file: key: what is wrong. Remedy.`"""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


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
