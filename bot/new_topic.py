"""A file for a new topic, with everything that is to be filled in."""

import re
from datetime import datetime
from pathlib import Path

from config.texts import JAPAN, load_languages
from nlu.faq import CATEGORIES, FEWEST, INTENTS

_ID = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_HEAD = """\
# A new topic: fill in what is empty (see faq_data/README.md); `bot faq check` says what is left.
id: {id}
publish: false             # the desk leaves this topic out; take this line out when it is full
category: {category}
ask_human: true             # an answer alone is never enough: "talk to a person" comes first
updated: {today}         # when the facts were last checked; shown under the answer
sources:                    # the first one is shown under the answer
  - title:
    publisher:
    url:
    verified: false         # true: somebody has read it there
unverified:                 # what in the answers still has to be checked
languages:
"""
_EDITION = """\
  {code}:                   # {name}
    review: draft           # or: reviewed by NAME on DATE
    title:
    answer: |

    sms:
"""


class NewTopicError(ValueError):
    """No file was written; the text says why and what to do."""


def new_topic(faq_dir: Path, topic_id: str, category: str) -> Path:
    """Write the file of a topic to fill in; it is not published until its `publish` line goes.

    Raises:
        NewTopicError: the id cannot be used, or the category is unknown.
    """
    if not _ID.fullmatch(topic_id) or len(topic_id) > 60:
        raise NewTopicError(
            f"“{topic_id}” cannot be an id. Use small letters, digits and underscores, such as "
            "wage_unpaid."
        )
    if category not in CATEGORIES:
        raise NewTopicError(
            f"There is no category “{category}”. Use one of {' '.join(CATEGORIES)}."
        )
    path = faq_dir / "topics" / f"{topic_id}.yaml"
    if path.exists() or topic_id in INTENTS:
        raise NewTopicError(f"{topic_id} exists already. Edit it, or choose another id.")
    languages, ways = load_languages()
    registers = [code for code, way in ways.items() if not way.made]
    today = datetime.now(JAPAN).date()
    parts = [_HEAD.format(id=topic_id, category=category, today=today)]
    for code in (*languages, *registers):
        name = languages[code].english if code in languages else "easy Japanese; no examples"
        parts.append(_EDITION.format(code=code, name=name))
        if code in languages:
            parts.append("    examples:\n" + "      -\n" * FEWEST)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(parts), "utf-8")
    return path
