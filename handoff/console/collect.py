"""Collects the console's English again: `python -m handoff.console.collect`.

Writes `console.pot` and brings `ja.po` into line; what is new there waits for its translation, and
a test fails until it has one.
"""

from typing import Any

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po, write_po

from handoff.console.language import FOLDER
from handoff.console.look import ROOM


def collect() -> Catalog:
    """Every English sentence of the console's code and templates."""
    catalogue = Catalog(project="open-consultation-desk", charset="utf-8")
    options: dict[str, dict[str, Any]] = {
        "templates/**.html": {"trimmed": "true", "newstyle_gettext": "true"}
    }
    methods = [("templates/**.html", "jinja2"), ("**.py", "python")]
    for file, _, message, comments, context in extract_from_dir(ROOM, methods, options):
        catalogue.add(message, None, [(file, 0)], auto_comments=comments, context=context)
    return catalogue


def main() -> None:
    """Write both catalogues."""
    wanted = collect()
    with (FOLDER / "console.pot").open("wb") as target:
        write_po(target, wanted, 100, include_lineno=False, sort_output=True, omit_header=True)
    with (FOLDER / "ja.po").open("rb") as source:
        known = read_po(source, locale="ja")
    japanese = Catalog("ja", project="open-consultation-desk", charset="utf-8")
    for entry in wanted:
        if entry.id:
            old = known.get(entry.id)
            string = old.string if old else None
            japanese.add(entry.id, string, entry.locations, entry.flags)
    with (FOLDER / "ja.po").open("wb") as target:
        header = (
            'msgid ""\nmsgstr ""\n"Project-Id-Version: open-consultation-desk\\n"\n'
            '"Language: ja\\n"\n"MIME-Version: 1.0\\n"\n'
            '"Content-Type: text/plain; charset=UTF-8\\n"\n'
            '"Content-Transfer-Encoding: 8bit\\n"\n"Plural-Forms: nplurals=1; plural=0;\\n"\n\n'
        )
        target.write(header.encode())
        write_po(target, japanese, 100, include_lineno=False, sort_output=True, omit_header=True)


if __name__ == "__main__":
    main()
