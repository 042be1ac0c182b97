"""How the console looks: templates, names of things, and times as people in Japan read them."""

import hashlib
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babel import Locale
from babel.dates import format_datetime
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from config.texts import JAPAN
from handoff.console import language as names
from handoff.console.language import LANGUAGES, translations

if TYPE_CHECKING:
    from handoff.console.visit import Visit

ROOM = Path(__file__).parent
FULL = {"ja": "yyyy年M月d日(EEE) HH:mm:ss", "en": "EEE d MMM yyyy, HH:mm:ss"}
LOCALES = {"ja": "ja", "en": "en_GB"}


class Look:
    """The templates, once for each language of the console."""

    def __init__(self) -> None:
        self.words = translations()
        static = sorted((ROOM / "static").iterdir())
        # A new program must not run with an old script out of the browser's memory.
        edition = hashlib.sha256(b"".join(file.read_bytes() for file in static)).hexdigest()[:12]
        self.environments = {code: self._environment(code, edition) for code in LANGUAGES}

    def render(self, visit: "Visit", template: str, **values: Any) -> str:
        """A template, filled in for a visit."""
        context = visit.context
        return (
            self.environments[visit.language]
            .get_template(template)
            .render(
                visit=visit,
                person=visit.person,
                now=datetime.now(UTC),
                language_name=partial(self.language_name, visit),
                topic_title=lambda topic: (
                    context.faq_titles(topic, visit.language) if topic else ""
                ),
                risk_name=lambda kind: context.risk_names(kind, visit.language),
                outcome_name=lambda outcome: self.outcome_name(visit, outcome),
                **values,
            )
        )

    def language_name(self, visit: "Visit", code: str) -> str:
        """A language as the staff calls it, also one that the desk does not speak."""
        base, _, register = code.partition("-")
        known = visit.context.languages.get(base)
        if known is None:
            named = Locale.parse(visit.language).languages.get(base, code)
            return named or self.words[visit.language].gettext("language unknown")
        if visit.language == "en":
            name = known.english
        else:
            locale = Locale.parse(known.babel)
            name = locale.get_language_name(visit.language) or known.english
        return f"{name} ({register})" if register else name

    def outcome_name(self, visit: "Visit", outcome: str) -> str:
        """How a case ended, in words."""
        return visit.context.outcomes.get(outcome, {}).get(visit.language, outcome)

    def _environment(self, code: str, edition: str) -> Environment:
        environment = Environment(
            loader=FileSystemLoader(ROOM / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.i18n"],
        )
        environment.policies["ext.i18n.trimmed"] = True
        words = self.words[code]
        environment.install_gettext_callables(  # type: ignore[attr-defined]
            words.gettext, words.ngettext, newstyle=True
        )
        environment.globals.update(ui=code, ui_languages=LANGUAGES, edition=edition, names=names)
        environment.filters.update(
            clock=lambda at: _format(at, "HH:mm", code),
            day=lambda at: _format(at, "M月d日(EEE)" if code == "ja" else "EEE d MMM", code),
            moment=lambda at, now: self.moment(at, now, code),
            lasting=lambda start, end: self.lasting(start, end, code),
            full=lambda at: _format(
                at,
                "yyyy年M月d日(EEE) HH:mm:ss" if code == "ja" else "EEE d MMM yyyy, HH:mm:ss",
                code,
            ),
            named=lambda key, table: words.gettext(table[key]) if key in table else key,
            size=_size,
            letters=lambda tag: tag.partition("-")[0],
        )
        return environment

    def moment(self, at: datetime, now: datetime, code: str) -> str:
        """A moment, as short as it is clear: today without its day, else with it."""
        if at.astimezone(JAPAN).date() == now.astimezone(JAPAN).date():
            return _format(at, "HH:mm", code)
        return _format(at, "M月d日(EEE) HH:mm" if code == "ja" else "EEE d MMM HH:mm", code)

    def lasting(self, start: datetime, end: datetime, code: str) -> str:
        """How long something lasts, in its one or two largest units."""
        _ = self.words[code].gettext
        minutes = max(0, int((end - start).total_seconds()) // 60)
        hours, days = minutes // 60, minutes // 1440
        if days:
            return _("%(days)s d %(hours)s h") % {"days": days, "hours": hours % 24}
        if hours:
            return _("%(hours)s h %(minutes)s min") % {"hours": hours, "minutes": minutes % 60}
        return _("%(minutes)s min") % {"minutes": minutes}


def _format(at: datetime, pattern: str, code: str) -> str:
    return format_datetime(at.astimezone(JAPAN), pattern, locale=LOCALES[code])


def _size(octets: int) -> str:
    return f"{octets / 1_048_576:.1f} MB" if octets >= 1_048_576 else f"{max(1, octets // 1024)} KB"
