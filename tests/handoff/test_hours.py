"""When the desk is open, and by when it promises a person's answer."""

from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from config.content import ContentError
from handoff.hours import load_hours

TOKYO = ZoneInfo("Asia/Tokyo")
HOURS = load_hours()


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=TOKYO)


OPEN = [
    ("2026-11-24 10:00", True),  # Tuesday
    ("2026-11-24 09:59", False),
    ("2026-11-24 17:59", True),
    ("2026-11-24 18:00", False),
    ("2026-11-28 12:00", True),  # Saturday
    ("2026-11-29 12:00", False),  # Sunday
    ("2026-11-23 12:00", False),  # Labour Thanksgiving Day
    ("2026-05-06 12:00", False),  # substitute holiday: 3 May is a Sunday
    ("2026-12-30 12:00", False),  # the desk's own holiday
    ("2027-01-01 12:00", False),
]


@pytest.mark.parametrize(("moment", "expected"), OPEN)
def test_open(moment: str, expected: bool) -> None:
    assert HOURS.is_open(at(moment)) is expected


PROMISES = [
    # asked, level, answered by
    ("2026-11-24 11:00", "emergency", "2026-11-24 11:05"),
    ("2026-11-24 11:00", "high", "2026-11-24 11:30"),
    ("2026-11-24 11:00", "none", "2026-11-24 15:00"),
    ("2026-11-24 16:00", "none", "2026-11-25 12:00"),  # two hours today, two tomorrow
    ("2026-11-24 17:58", "emergency", "2026-11-25 10:03"),
    ("2026-11-24 22:00", "high", "2026-11-25 10:30"),
    ("2026-11-21 17:00", "none", "2026-11-24 13:00"),  # Saturday; Sunday, Monday are free
    ("2026-12-28 17:30", "high", "2026-12-28 18:00"),
    ("2026-12-28 17:45", "high", "2027-01-04 10:15"),  # New Year
]


@pytest.mark.parametrize(("asked", "level", "promised"), PROMISES)
def test_promise_counts_opening_time_only(asked: str, level: str, promised: str) -> None:
    assert HOURS.promise(at(asked), level) == at(promised)


def test_it_does_not_matter_in_which_zone_a_moment_is_told() -> None:
    utc = at("2026-11-24 11:00").astimezone(ZoneInfo("UTC"))
    assert HOURS.promise(utc, "high") == at("2026-11-24 11:30")


def test_mistakes_are_named_with_their_remedy(tmp_path: Path) -> None:
    path = tmp_path / "hours.yaml"
    path.write_text(
        "timezone: Asia/Edo\nweekly: {mon: 18:00-10:00, xyz: 10:00-12:00}\n"
        "holidays: Japan\nanswer_within: {emergency: 5, high: 0}\n"
    )
    with pytest.raises(ContentError) as caught:
        load_hours(path)
    for key in ("timezone", "weekly.mon", "weekly.xyz", "holidays", "high", "none"):
        assert key in str(caught.value)
