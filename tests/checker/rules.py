"""Invariants about when: periods, rates, stops and windows."""

from collections import defaultdict
from datetime import timedelta
from zoneinfo import ZoneInfoNotFoundError

import calendars
from keys import EPOCH, AttemptName, attempt_name, period_name, subscription_name
from sources import NOT_SENT, OPS

COLLECTING = (1, 4, 5, 6)
# Notes after which the next period may lie further on: expired, rolled, missed (in its four ways).
PASSES_OVER = {5, 10, 11, 12, 26, 27}
STOP_HOLDS_MS = 60_000
HOUR_MS = 3_600_000


def i13(books, found):
    """One charge per expected local period, none missing, none extra."""
    if not books.listed:
        return found.not_checked("no imported list was given (--list)")
    evidence, passes, passed = defaultdict(set), set(), 0
    for sub_id, period, _ in books.intents:
        evidence[sub_id].add(period)
    for row in books.t.notes:
        evidence[row.subscription_id].add(row.period)
        if row.rule_id in PASSES_OVER:
            passes.add((row.subscription_id, row.period))
    for sub_id, period in books.asides:
        evidence[sub_id].add(period)
    for line in books.listed:
        found.looked()
        if line.sub is None:
            found.violation(f"{line.file} line {line.number}: {line.reference} was imported, and we do not have it")
            continue
        sub, name = line.sub, subscription_name(line.sub.id)
        until_ms = max(books.now_ms, ((EPOCH - calendars.date(1970, 1, 1)).days + sub.period // 2048 + 1) * 24 * HOUR_MS)
        try:
            periods = books.periods(line, until_ms)
        except calendars.Unreadable as why:
            found.not_checked(f"plan {line.plan}: {why}")
            continue
        except ZoneInfoNotFoundError as why:
            found.not_checked(f"zone {line.zone}: this machine has no time zone data for it ({why})")
            continue
        numbers = [period for period, _ in periods]
        ours = evidence[sub.id] | ({sub.period} if sub.period > 0 else set())
        for period in sorted(ours - set(numbers)):
            found.violation(f"{name}: it has something for {period_name(period)}, which is no period of {line.plan} in "
                            f"{line.zone} from {line.start}")
        covered = None
        for period in numbers:
            if period in ours:
                covered = period
            elif period < sub.period:
                if covered is not None and (sub.id, covered) in passes:
                    passed += 1
                else:
                    found.violation(f"{name}: nothing was done for {period_name(period)}, and nothing says why")
        if sub.state in COLLECTING and not sub.flags and sub.stop_at_ms is None:
            late_ms = books.now_ms - books.options.lag_hours * HOUR_MS - calendars.spread_ms(line.plans[-1])
            behind = [period for period, start in periods if period > sub.period and start < late_ms]
            if behind:
                found.violation(f"{name}: it stands at {period_name(sub.period)}, {period_name(behind[0])} is long due")
            # A single charge whose answer is lost waits for evidence, not for an instant.
            if sub.next_at_ms is None and not sub.open:
                found.violation(f"{name}: it collects, and nothing says when it is looked at next")
    if passed:
        found.note(f"{passed} periods were passed over after a note that says so")


def i17(books, found):
    """Carrier rates are respected per second."""
    found.not_checked("60 s after a flush of Redis: there is no Redis yet")
    seen = defaultdict(list)
    for line in books.lines:
        seen[line.carrier].append(line.at_us)
    for carrier, moments in seen.items():
        rates = [files[f"carriers/{carrier}.toml"]["limits"]["rate"] for files in books.book.values()
                 if f"carriers/{carrier}.toml" in files]
        number = max(rate["n"] for rate in rates)
        span_us = max(int(rate["per"][:-1] or 1) * {"s": 1, "m": 60, "h": 3600}[rate["per"][-1]] for rate in rates) * 10**6
        # A lane may let a fiftieth of a second go at once; what was held up on the way arrives together.
        allowed = number + max(1, min(64, number // 50)) + number // 20
        moments.sort()
        begin = 0
        for place, at_us in enumerate(moments):
            found.looked()
            while at_us - moments[begin] >= span_us:
                begin += 1
            if place - begin + 1 > allowed:
                found.violation(f"{carrier}: {place - begin + 1} requests within {span_us // 10**6} s, its rate is {number}")
                break


def i18(books, found):
    """No charge after STOP, outside consent, above caps, in quiet hours."""
    consent(books, found)
    caps(books, found)
    without = set()
    for attempt, intent in books.intents.items():
        if intent.op not in (OPS["charge"], OPS["reserve"]):
            continue
        found.looked()
        sub, name, at_ms = books.subs[attempt[0]], AttemptName(attempt), intent.business_at_ms
        if sub.stop_at_ms is not None and at_ms >= sub.stop_at_ms + STOP_HOLDS_MS * max(1, books.options.scale):
            found.violation(f"{name}: it was begun {(at_ms - sub.stop_at_ms) // 1000} s after the subscriber's STOP", intent)
        if not intent.not_before_ms <= at_ms < intent.not_after_ms:
            found.violation(f"{name}: it was begun outside of what its own intent allows", intent)
        plan = books.plan_of(attempt)
        if plan is None:
            continue  # I15 says so
        zone, schedule = books.zone_name[sub.zone_no], plan["schedule"]
        minute = calendars.local_minute(zone, at_ms)
        window = [calendars.minutes_of(text) for text in schedule.get("window", ["00:00", "24:00"])]
        if not window[0] <= minute < window[1]:
            found.violation(f"{name}: it was begun at {minute // 60:02}:{minute % 60:02} in {zone}, the plan's window is "
                            f"{schedule['window']}", intent)
        if "quiet_hours" in schedule.get("avoid", [] if schedule["every"] == "once" else ["quiet_hours"]):
            files = books.book[intent.book_version]
            code = files[f"carriers/{plan['carrier']}.toml"]["carrier"]["country"]
            country = files.get(f"countries/{code.lower()}.toml")
            quiet = (country or {}).get("quiet_hours")
            if country is None:
                without.add(code)
            elif quiet and inside(minute, *map(calendars.minutes_of, (quiet["from"], quiet["to"]))):
                found.violation(f"{name}: it was begun at {minute // 60:02}:{minute % 60:02} in {zone}, in the quiet hours "
                                f"of {code}", intent)
    if without:
        found.not_checked(f"quiet hours of {', '.join(sorted(without))}: the book has no such country")


def consent(books, found):
    """No intent at or after the end of consent that the list names and that still stands in the subscription's row."""
    unknown = 0
    ends = {}
    for sub in books.subs.values():
        if sub.consent_until_ms is None:
            continue
        line = books.listed_of.get(sub.id)
        if line and line.consent_until and calendars.until_ms(line.consent_until, books.zone_name[sub.zone_no]) == sub.consent_until_ms:
            ends[sub.id] = sub.consent_until_ms
        else:
            unknown += 1
    for attempt, intent in books.intents.items():
        if intent.op in (OPS["charge"], OPS["reserve"], OPS["confirm"]) and attempt[0] in ends:
            found.looked()
            if intent.business_at_ms >= ends[attempt[0]]:
                found.violation(f"{attempt_name(attempt)}: it was begun after the end of consent", intent)
    if unknown:
        found.not_checked(f"consent of {unknown} subscriptions: it was given after the import, and nothing says when")


def caps(books, found):
    """What was collected or may have been, and how often was asked, per subscriber over all plans: within the caps of the
    carrier's country for the local day, the week from Monday and the month of each intent."""
    most = {}
    for files in books.book.values():
        for number, carrier in books.carrier_id.items():
            code = files.get(f"carriers/{carrier}.toml", {}).get("carrier", {}).get("country", "")
            country = files.get(f"countries/{code.lower()}.toml", {})
            currency = files.get(f"carriers/{carrier}.toml", {}).get("carrier", {}).get("currency", "")
            limits = {}
            for cap in country.get("caps", []):
                if cap.get("currency", country["currency"]["code"]) == currency:
                    minor = calendars.minor_of(cap["amount"], currency)
                    limits["minor", cap["per"]] = min(minor, limits.get(("minor", cap["per"]), minor))
            for limit in country.get("attempts", []):
                limits["asked", limit["per"]] = min(limit["max"], limits.get(("asked", limit["per"]), limit["max"]))
            most.setdefault(number, []).append(limits)
    # A carrier without a limit, in any version of the book, may do anything: nothing is counted for it.
    limited = {(number, per) for number, books_limits in most.items()
               for what, per in set.intersection(*(set(limits) for limits in books_limits))}
    held, asked = defaultdict(int), defaultdict(int)
    for attempt, intent in books.intents.items():
        sub = books.subs[attempt[0]]
        if intent.op not in (OPS["charge"], OPS["reserve"]) or sub.id in books.moved:
            continue  # another zone has other days
        number = attempt[0] >> 44
        outcome = books.outcomes.get(attempt)
        day = calendars.local_date(books.zone_name[sub.zone_no], intent.business_at_ms)
        spans = (("charge", attempt), ("day", day), ("week", day - timedelta(days=day.weekday())), ("month", day.replace(day=1)))
        for per, begin in spans:
            if (number, per) not in limited:
                continue
            place = (sub.subscriber_id, number, intent.currency, per, begin)
            # A reservation counts with what its confirm collects: less than it holds, so that nothing is called over
            # that is not.
            if intent.op == OPS["charge"]:
                held[place] += intent.amount_minor if outcome is None else outcome.moved_minor
            asked[place] += outcome is None or outcome.class_ != NOT_SENT
    for what, sums in (("minor", held), ("asked", asked)):
        for (subscriber, number, currency, per, begin), counted in sums.items():
            limits = [limits.get((what, per)) for limits in most.get(number, [])]
            if not limits or None in limits:
                continue  # a version of the book allows anything
            found.looked()
            if counted > max(limits):
                words = f"{counted} requests" if what == "asked" else books.money(counted, currency)
                allowed = max(limits) if what == "asked" else books.money(max(limits), currency)
                since = attempt_name(begin) if per == "charge" else begin
                found.violation(f"subscriber {subscriber}: {words} in the {per} of {since}, {allowed} are allowed")


def inside(minute, begin, end):
    """Whether a minute lies in a part of the day that may pass midnight."""
    return begin <= minute < end if begin < end else minute >= begin or minute < end
