"""The checker's calendar against the one of the all-zones proof (tests/allzones/calendar.py), which the engine is
compared with: the kinds of schedules that a small world does not have, over three years."""

import importlib.util
import os
from datetime import date
from zoneinfo import ZoneInfo

import calendars
from keys import period_of

FIRST, LAST = date(2026, 1, 1), date(2028, 12, 31)
# (kind there, every, on, at here, its minute there, anchor, last)
KINDS = [
    ("daily", "day", None, "02:30", 150, FIRST, LAST),
    ("days3", "3 days", None, "00:05", 5, FIRST, LAST),
    ("weekly", "2 weeks", ("mon", "thu"), "01:30", 90, date(2026, 1, 7), LAST),
    ("times", "day", None, ("00:30", "02:30", "23:30"), 30, FIRST, date(2026, 12, 31)),
    ("monthly", "month", None, "02:00", 120, date(2026, 1, 31), LAST),
    ("lastfri", "month", "last fri", "02:30", 150, FIRST, LAST),
    ("quarterly", "quarter", None, "23:59", 1439, date(2026, 1, 31), LAST),
    ("yearly", "year", None, "01:00", 60, date(2028, 2, 29), LAST),
    ("hours7", "7 hours", None, "00:00", 0, FIRST, date(2026, 12, 31)),
    ("minutes90", "90 minutes", None, "00:30", 30, date(2026, 3, 1), date(2026, 4, 15)),
    ("minutes90", "90 minutes", None, "00:30", 30, date(2026, 10, 1), date(2026, 11, 15)),
]


def agree():
    """(zones, periods, differences): every period and every start, compared."""
    path = os.path.join(os.path.dirname(__file__), "..", "allzones", "calendar.py")
    spec = importlib.util.spec_from_file_location("allzones_calendar", path)
    other = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(other)
    count, differences = 0, []
    for name in other.ALWAYS:
        for kind, every, on, at, minute, anchor, last in KINDS:
            theirs = [(period_of(day, within), due * 1000) for day, within, due
                      in other.periods(ZoneInfo(name), kind, anchor, minute, other.OPEN, anchor, last)]
            ours = calendars.between((every, on, at), name, anchor, last, None)
            count += len(ours)
            if ours != theirs:
                differences.append(f"{name}, {kind}: {sorted(set(ours) ^ set(theirs))[:4]}")
    return len(other.ALWAYS), count, differences
