"""Opening hours: is a counsellor there, and by when will one answer."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import holidays as public_holidays

from config.content import ContentError, read_yaml
from config.facts import CONFIG

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
LEVELS = ("emergency", "high", "none")


@dataclass(frozen=True)
class Hours:
    """The desk's calendar. All moments are aware; opening times are in `zone`."""

    zone: ZoneInfo
    weekly: dict[int, tuple[time, time]]
    country: str
    closed: frozenset[str]
    answer_within: dict[str, timedelta]

    def is_open(self, moment: datetime) -> bool:
        """Whether counsellors are there."""
        local = moment.astimezone(self.zone)
        span = self._span(local.date())
        return span is not None and span[0] <= local < span[1]

    def next_opening(self, moment: datetime) -> datetime:
        """`moment` itself when open, else the next opening."""
        start, _ = next(self._open_from(moment))
        return start

    def promise(self, moment: datetime, level: str) -> datetime:
        """By when a person answers a message of this risk level that came at `moment`.

        The promised minutes run only while the desk is open, so holidays and nights do not count.
        """
        left = self.answer_within[level]
        for start, end in self._open_from(moment):
            if end - start >= left:
                return start + left
            left -= end - start
        raise AssertionError("unreachable")

    def _open_from(self, moment: datetime) -> Iterator[tuple[datetime, datetime]]:
        local = moment.astimezone(self.zone)
        for day in range(400):
            span = self._span(local.date() + timedelta(days=day))
            if span is not None and span[1] > local:
                yield max(span[0], local), span[1]
        raise ContentError(["hours.yaml: weekly: the desk is never open. Add opening hours."])

    def _span(self, day: date) -> tuple[datetime, datetime] | None:
        times = self.weekly.get(day.weekday())
        if (
            times is None
            or day.isoformat() in self.closed
            or day.strftime("%m-%d") in self.closed
            or (self.country and day in _holidays(self.country))
        ):
            return None
        start, end = times
        return (
            datetime.combine(day, start, self.zone),
            datetime.combine(day, end, self.zone),
        )


@lru_cache(maxsize=8)
def _holidays(country: str) -> public_holidays.HolidayBase:
    return public_holidays.country_holidays(country)


def load_hours(path: Path = CONFIG / "hours.yaml") -> Hours:
    """Read the calendar.

    Raises:
        ContentError: names each wrong key and its remedy.
    """
    row = read_yaml(path)
    mistakes = []
    weekly = {}
    for day, span in (row.get("weekly") or {}).items():
        try:
            start, end = (time.fromisoformat(part.strip()) for part in str(span).split("-"))
            if day not in DAYS or start >= end:
                raise ValueError
            weekly[DAYS.index(day)] = (start, end)
        except ValueError:
            mistakes.append(
                f"{path.name}: weekly.{day}: “{span}” is no opening time. Write e.g. "
                "`mon: 10:00-18:00` (days mon tue wed thu fri sat sun)."
            )
    country = row.get("holidays") or ""
    if country and country not in public_holidays.list_supported_countries():
        mistakes.append(f"{path.name}: holidays: “{country}” is no country code. Write e.g. JP.")
    within = row.get("answer_within") or {}
    for level in LEVELS:
        if not isinstance(within.get(level), int) or within[level] <= 0:
            mistakes.append(f"{path.name}: answer_within.{level}: write a number of minutes.")
    try:
        zone = ZoneInfo(str(row.get("timezone")))
    except (ZoneInfoNotFoundError, ValueError):
        zone = ZoneInfo("Asia/Tokyo")
        mistakes.append(f"{path.name}: timezone: unknown. Write e.g. Asia/Tokyo.")
    if mistakes:
        raise ContentError(mistakes)
    return Hours(
        zone=zone,
        weekly=weekly,
        country=country,
        closed=frozenset(map(str, row.get("closed") or ())),
        answer_within={level: timedelta(minutes=within[level]) for level in LEVELS},
    )
