"""Which local periods a plan has, by Python's own calendar and zoneinfo. Reads the plan's TOML; shares nothing with
the engine."""

import functools
from datetime import date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

from keys import EPOCH, period_of

DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)
UTC = timezone.utc
WEEKDAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
PERIODS_MAX = 200_000
NTH = {"1st": 0, "2nd": 1, "3rd": 2, "4th": 3, "last": -1}
# Currencies whose minor unit is not a hundredth (ISO 4217).
DECIMALS = {"TND": 3, "KWD": 3, "BHD": 3, "OMR": 3, "JOD": 3, "IQD": 3, "LYD": 3, "JPY": 0, "KRW": 0, "CLP": 0,
            "VND": 0, "XOF": 0, "XAF": 0, "PYG": 0, "UGX": 0, "RWF": 0, "ISK": 0, "GNF": 0, "DJF": 0, "KMF": 0}


class Unreadable(Exception):
    """A plan that this calendar does not understand."""


def minor_of(amount, currency):
    """Minor units of a decimal amount in text."""
    whole, _, decimals = amount.partition(".")
    places = DECIMALS.get(currency, 2)
    if len(decimals.rstrip("0")) > places:
        raise Unreadable(f"{amount} {currency} has too many decimals")
    return int(whole) * 10**places + int((decimals + "0" * places)[:places] or 0)


def minutes_of(text):
    """Minutes of the day of `06:30`."""
    hours, _, minutes = text.partition(":")
    return int(hours) * 60 + int(minutes)


def spread_ms(plan):
    """How much later than `at` a charge may fall due: the spread, and up to a minute by block of neighbours."""
    text = plan["schedule"].get("spread", "0s")
    return int(text[:-1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[text[-1]] * 1000 + 60_000


def due_minor(plan):
    """The most that one period of a plan may cost, introductory prices and merged periods included."""
    amount, currency = plan["price"].split()
    prices = [minor_of(amount, currency)] + [minor_of(phase["price"], currency) for phase in plan.get("phases", [])]
    lifecycle = plan.get("lifecycle", {})
    return max(prices) * (1 + (lifecycle.get("merge_periods", 0) if lifecycle.get("missed") == "merge" else 0))


def wall(zone, second):
    """What the local clock shows at a second since 1970."""
    return datetime.fromtimestamp(second, zone).replace(tzinfo=None)


@functools.lru_cache(maxsize=100_000)
def first_instant(zone, shown):
    """The first second at which the local clock shows this or, in a gap, more."""
    second = int(shown.replace(tzinfo=zone, fold=0).timestamp())
    if wall(zone, second) == shown:
        return second
    low, high = second - 26 * 3600, second + 26 * 3600
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if wall(zone, middle) >= shown else (middle + 1, high)
    return low


def local_minute(zone_name, ms):
    """Minutes of the local day at an instant."""
    shown = wall(ZoneInfo(zone_name), ms // 1000)
    return shown.hour * 60 + shown.minute


def local_date(zone_name, ms):
    """The local day of an instant."""
    return wall(ZoneInfo(zone_name), ms // 1000).date()


def until_ms(text, zone_name):
    """Milliseconds of an instant, or of the first moment of a local day."""
    if "T" in text:
        return int(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1000)
    return first_instant(ZoneInfo(zone_name), datetime.fromisoformat(text)) * 1000


def clipped(year, month, day):
    """The day of a month, or its last one where the month is shorter."""
    following = date(year + month // 12, month % 12 + 1, 1)
    return min(date(year, month, 1) + (day - 1) * DAY, following - DAY)


def starts(every, on, anchor, last):
    """The local dates on which periods start, from the anchor on."""
    number, unit = every
    if unit == "day":
        day = anchor
        while day <= last:
            yield day
            day += number * DAY
    elif unit == "week":
        days = sorted(WEEKDAYS.index(name[:3].lower()) for name in on) if on else [anchor.weekday()]
        monday = anchor - anchor.weekday() * DAY
        while monday <= last:
            for weekday in days:
                if anchor <= monday + weekday * DAY <= last:
                    yield monday + weekday * DAY
            monday += 7 * number * DAY
    else:
        index = anchor.year * 12 + anchor.month - 1
        while date(index // 12, index % 12 + 1, 1) <= last:
            year, month = index // 12, index % 12 + 1
            if on:
                nth, weekday = on.split()
                days = [clipped(year, month, 1) + n * DAY for n in range(clipped(year, month, 31).day)]
                day = [day for day in days if day.weekday() == WEEKDAYS.index(weekday[:3])][NTH[nth]]
            else:
                day = clipped(year, month, anchor.day)
            if anchor <= day <= last:
                yield day
            index += number


def cadence(text):
    """`2 weeks` as (2, "week"); quarters and years are months."""
    if text == "once":
        return 0, "once"
    number, _, unit = text.rpartition(" ")
    number, unit = int(number or 1), unit.rstrip("s")
    return {"quarter": (3 * number, "month"), "year": (12 * number, "month")}.get(unit, (number, unit))


def expected(plan, zone_name, start, until_ms):
    """[(period, its nominal start in ms)] of a subscription with this start, up to an instant.

    Raises Unreadable for what this calendar does not know."""
    schedule = plan["schedule"]
    if any(schedule.get(key) for key in ("prefer", "trial", "parked")):
        raise Unreadable("paydays, trials and parking move its periods")
    times = schedule["at"] if "at" in schedule else "00:00"
    on = schedule.get("on")
    fixed = (schedule["every"], tuple(on) if isinstance(on, list) else on,
             tuple(times) if isinstance(times, list) else times)
    first = max(start, date.fromisoformat(str(schedule.get("start", start))))
    # Whole days, so that the list is made once for all who began together.
    until = wall(ZoneInfo(zone_name), until_ms // 1000).date() + DAY
    end = schedule.get("end")
    last = min(until, date.fromisoformat(str(end))) if end else until
    return between(fixed, zone_name, first, last, schedule.get("count"))


@functools.lru_cache(maxsize=4096)
def between(fixed, zone_name, first, last, count):
    """The same for `every`, `on` and `at` of a schedule, of all starts from the first date to the last."""
    every, on, times = fixed
    zone, (number, unit) = ZoneInfo(zone_name), cadence(every)
    found = []
    if unit in ("minute", "hour"):
        step = number * (60 if unit == "minute" else 3600)
        second = first_instant(zone, datetime(first.year, first.month, first.day) + minutes_of(times) * MINUTE)
        day, begun = first, first_instant(zone, datetime(first.year, first.month, first.day))
        end = first_instant(zone, datetime(last.year, last.month, last.day) + DAY)
        while second < end and len(found) < PERIODS_MAX:
            following = first_instant(zone, datetime(day.year, day.month, day.day) + DAY)
            if second >= following:
                day, begun = day + DAY, following
                continue
            found.append((period_of(day, (second - begun) // 60), second * 1000))
            second += step
    else:
        days = [first] if unit == "once" else starts((number, unit), on, first, last)
        for day in days:
            for text in times if isinstance(times, tuple) else (times,):
                shown = datetime(day.year, day.month, day.day) + minutes_of(text) * MINUTE
                minute = minutes_of(text) if isinstance(times, tuple) else 0
                found.append((period_of(day, minute), first_instant(zone, shown) * 1000))
    return found[:count] if count is not None else found


def today(zone_name, ms):
    """The local date at an instant."""
    return wall(ZoneInfo(zone_name), ms // 1000).date()


def date_of(period):
    """The local date that a period starts on."""
    return EPOCH + period // 2048 * DAY
