"""The independent calendar of the all-zones proof: which periods a subscription has and when each falls due.

Knows nothing of Tollbook's code: only datetime and zoneinfo. Prints one line per case and one per period:

    case ZONE KIND ANCHOR AT_MINUTE WINDOW_FROM WINDOW_TO FROM_DATE TO_DATE
    DATE MINUTE DUE_SECOND

Usage: calendar.py FOLDER_OF_COMPILED_ZONES sample|all
"""

import sys
from datetime import date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo, available_timezones, reset_tzpath

FIRST, LAST = date(2000, 1, 1), date(2040, 12, 31)
DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)
UTC = timezone.utc
# Gaps and overlaps of every kind: at midnight, half an hour, a whole day, three hours, negative summer time.
ALWAYS = """Africa/Cairo Africa/Casablanca Africa/El_Aaiun Africa/Johannesburg Africa/Juba Africa/Tunis Africa/Windhoek
America/Caracas America/Coyhaique America/Havana America/Godthab America/Mexico_City America/New_York
America/Noronha America/Nuuk America/Port-au-Prince America/Santiago America/Sao_Paulo America/St_Johns
America/Vancouver Antarctica/Casey Antarctica/Troll Asia/Amman Asia/Beirut Asia/Gaza Asia/Kathmandu Asia/Pyongyang
Asia/Tehran Asia/Tokyo Atlantic/Azores Atlantic/Canary Australia/Lord_Howe Australia/Sydney Europe/Dublin
Europe/Istanbul Europe/Madrid Europe/Moscow Pacific/Apia Pacific/Auckland Pacific/Chatham Pacific/Fakaofo
Pacific/Kiritimati Pacific/Norfolk""".split()


def wall(zone, second):
    """What the local clock shows at a second since 1970, as a naive datetime."""
    return datetime.fromtimestamp(second, zone).replace(tzinfo=None)


def first_instant(zone, shown):
    """The first second at which the local clock shows this or, in a gap, more."""
    second = int(shown.replace(tzinfo=zone, fold=0).timestamp())
    if wall(zone, second) == shown:
        return second
    low, high = second - 26 * 3600, second + 26 * 3600
    while low < high:
        middle = (low + high) // 2
        if wall(zone, middle) >= shown:
            high = middle
        else:
            low = middle + 1
    return low


def midnight(zone, day):
    return first_instant(zone, datetime(day.year, day.month, day.day))


def into_window(zone, second, window):
    """The first second from here on at which the local clock shows a minute of the window."""
    while True:
        shown = datetime.fromtimestamp(second, zone)
        if window[0] <= shown.hour * 60 + shown.minute < window[1]:
            return second
        second += 60 - shown.second


def transitions(zone):
    """The UTC dates between 2000 and 2040 on which the offset changes."""
    found, before = [], None
    day = datetime(2000, 1, 1, tzinfo=UTC)
    while day.year <= 2040:
        offset = day.astimezone(zone).utcoffset()
        if before is not None and offset != before:
            found.append(day.date())
        before = offset
        day += DAY
    return found


def month_day(year, month, day):
    while True:
        try:
            return date(year, month, day)
        except ValueError:
            day -= 1


def nth_last_friday(year, month):
    day = month_day(year, month, 31)
    while day.weekday() != 4:
        day -= DAY
    return day


def dates(kind, anchor, first, last):
    """All dates from `first` to `last` on which a period starts, by brute force over the days or months."""
    if kind in ("daily", "times", "days3", "weekly"):
        day = max(anchor, first)
        while day <= last:
            since = (day - anchor).days
            week = ((day - timedelta(days=day.weekday())) - (anchor - timedelta(days=anchor.weekday()))).days // 7
            if kind in ("daily", "times") or kind == "days3" and since % 3 == 0:
                yield day
            elif kind == "weekly" and week % 2 == 0 and day.weekday() in (0, 3):
                yield day
            day += DAY
        return
    step = {"monthly": 1, "lastfri": 1, "quarterly": 3, "yearly": 12}[kind]
    number = anchor.year * 12 + anchor.month - 1
    while number // 12 <= last.year:
        year, month = number // 12, number % 12 + 1
        day = nth_last_friday(year, month) if kind == "lastfri" else month_day(year, month, anchor.day)
        if max(anchor, first) <= day <= last:
            yield day
        number += step


TIMES = (30, 150, 1410)
ELAPSED = {"minutes90": 90, "hours7": 420}


def periods(zone, kind, anchor, at, window, first, last):
    if kind in ELAPSED:
        step = ELAPSED[kind] * 60
        second = first_instant(zone, datetime(anchor.year, anchor.month, anchor.day) + at * MINUTE)
        day, begun = anchor, midnight(zone, anchor)
        end = midnight(zone, last + DAY)
        while second < end:
            following = midnight(zone, day + DAY)
            while second >= following:
                day, begun = day + DAY, following
                following = midnight(zone, day + DAY)
            yield day, (second - begun) // 60, into_window(zone, second, window)
            second += step
        return
    for day in dates(kind, anchor, first, last):
        for minute in TIMES if kind == "times" else (at,):
            shown = datetime(day.year, day.month, day.day) + minute * MINUTE
            due = into_window(zone, first_instant(zone, shown), window)
            yield day, minute if kind == "times" else 0, due


OPEN = (0, 1440)


def cases(days, everything):
    """(kind, anchor, at, window, first, last): years as a whole for long periods, days around transitions for short."""
    yield "monthly", date(2000, 1, 31), 120, OPEN, FIRST, LAST
    yield "monthly", date(2000, 1, 29), 340, (360, 1320), FIRST, LAST
    yield "lastfri", date(2000, 1, 1), 150, OPEN, FIRST, LAST
    yield "quarterly", date(2000, 2, 29), 1439, OPEN, FIRST, LAST
    yield "yearly", date(2000, 2, 29), 60, OPEN, FIRST, LAST
    if everything:
        yield "daily", FIRST, 150, OPEN, FIRST, LAST
        yield "weekly", date(2000, 1, 5), 90, OPEN, FIRST, LAST
        yield "days3", FIRST, 5, (0, 720), FIRST, LAST
    for day in days:
        first, last = max(FIRST, day - 3 * DAY), min(LAST, day + 2 * DAY)
        if first >= last:
            continue
        yield "daily", FIRST, 150, OPEN, first, last
        yield "daily", FIRST, 0, OPEN, first, last
        yield "daily", FIRST, 150, (360, 1320), first, last
        yield "daily", FIRST, 1425, (1320, 1440), first, last
        yield "daily", FIRST, 60, (30, 150), first, last
        yield "times", FIRST, 30, OPEN, first, last
        yield "weekly", date(2000, 1, 5), 90, (0, 180), first, last
        yield "minutes90", first, 30, OPEN, first, last
        yield "hours7", first, 0, (60, 1400), first, last


def main(folder, how_much):
    reset_tzpath([folder])
    everything = how_much == "all"
    names = sorted(name for name in available_timezones() if "/" in name and not name.startswith("Etc/"))
    if not everything:
        names = sorted(set(ALWAYS) & set(names))
    write = sys.stdout.write
    for name in names:
        zone = ZoneInfo(name)
        days = transitions(zone)
        if not everything:
            # Every fourth, the last ones in any case; month ends come with the long periods.
            days = sorted(set(days[::4] + days[-2:]))
        for kind, anchor, at, window, first, last in cases(days, everything):
            write(f"case {name} {kind} {anchor} {at} {window[0]} {window[1]} {first} {last}\n")
            for day, minute, due in periods(zone, kind, anchor, at, window, first, last):
                write(f"{day} {minute} {due}\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
