"""Invariants about money: what was collected, on both sides."""

from collections import defaultdict

import calendars
from keys import attempt_name, charge_name, parse_our_ref, period_name
from sources import APPROVED, COLLECTING, COLLECTS, GIVES_BACK, OPS

# The transfers of what a carrier took back by itself: the merchant's part, the tax in it, the fee that it gave up.
REVERSED = (9, 10, 11)


def i01(books, found):
    """No charge is collected above what is due, joined on our_ref."""
    ours, theirs = defaultdict(int), defaultdict(int)
    for attempt, outcome in books.outcomes.items():
        intent = books.intents.get(attempt)
        if intent and intent.op in COLLECTING:
            ours[attempt[:2]] += outcome.moved_minor
    for attempt, lines in books.applied.items():
        collected = [line for line in lines if line.op in COLLECTS]
        if attempt is None:
            continue
        if len(collected) > 1:
            found.violation(f"{attempt_name(attempt)}: the carrier collected twice under one key", *collected)
        theirs[attempt[:2]] += sum(line.amount for line in collected)
    for charge in sorted(set(ours) | set(theirs)):
        found.looked()
        due, says = due_of(books, charge)
        for side, sums in (("we hold", ours), ("the carrier's ledger says", theirs)):
            if due is not None and sums[charge] > due:
                currency = books.subs[charge[0]].currency
                found.violation(f"{charge_name(charge)}: {books.money(due, currency)} were due ({says}), {side} "
                                f"{books.money(sums[charge], currency)} were collected")


def due_of(books, charge):
    """What may be collected for a charge at most: what the book asks, or less where our own row says so."""
    sub, limits = books.subs.get(charge[0]), []
    plans = [books.plan_of(attempt) for attempt in books.charges.get(charge, [])]
    if any(plans):
        limits.append((max(calendars.due_minor(plan) for plan in plans if plan), "the plan's price"))
    if charge in books.asides:
        limits.append((books.asides[charge].due_minor, "the charge's row"))
    elif sub and sub.period == charge[1]:
        limits.append((sub.due_minor, "the subscription's row"))
    return min(limits, default=(None, None))


def i02(books, found):
    """The same per (subscriber, plan, local period) in the carrier's ledger against the list that was imported: which
    period, the key says, made again from the list; where it says nothing, the moment."""
    if not books.listed:
        return found.not_checked("no imported list was given (--list)")
    listed = defaultdict(list)
    for line in books.listed:
        listed[line.carrier, line.msisdn, line.text].append(line)
    collected = defaultdict(list)
    for line in books.lines:
        if line.status == "applied" and line.op in COLLECTS:
            collected[line.carrier, line.msisdn, line.text].append(line)
    for (carrier, msisdn, text), lines in collected.items():
        found.looked(len(lines))
        whose = listed.get((carrier, msisdn, text))
        if not whose and any(books.listed_of[sub_id].msisdn == msisdn for sub_id in books.moved & books.listed_of.keys()):
            found.not_checked(f"plan {text!r} of {carrier}: a line that moved there has other periods than its list says")
            continue
        if not whose:
            found.violation(f"{carrier} collected from {masked(msisdn)} for {text!r}, whom no list has", *lines[:3])
            continue
        lines.sort(key=lambda line: line.at_us)
        try:
            rooms = sorted((start, calendars.spread_ms(line.plans[-1]), max(map(calendars.due_minor, line.plans)), line.seed, period)
                           for line in whose
                           for period, start in books.periods(line, books.business_ms(lines[-1].at_us)))
        except calendars.Unreadable as why:
            found.not_checked(f"plan {whose[0].plan}: {why}")
            continue
        left = [due for _, _, due, _, _ in rooms]
        places = {room[3:]: place for place, room in enumerate(rooms)}
        by_moment = []
        # First those whose key names a period that had begun, however late they came: an answer that was lost is asked for
        # again under the same key, days later perhaps, and pays for the old period. No key can pay for a later one.
        for line in lines:
            place = places.get((parse_our_ref(line.key) or ())[:2])
            if place is None or rooms[place][0] > books.business_ms_at_most(line.at_us):
                by_moment.append(line)
            elif left[place] >= line.amount:
                left[place] -= line.amount
            else:
                found.violation(f"{carrier} collected {line.amount} {line.currency} minor from {masked(msisdn)} for {text!r}, "
                                f"more than the local period {period_name(rooms[place][4])} of its key costs", line)
        for line in by_moment:
            place = fitting(rooms, left, books.business_ms(line.at_us), line.amount, len(whose))
            if place is None:
                found.violation(f"{carrier} collected {line.amount} {line.currency} minor from {masked(msisdn)} for "
                                f"{text!r}, more than the local period of that moment costs", line)
            else:
                left[place] -= line.amount


def fitting(rooms, left, at_ms, amount, together):
    """Which period a charge pays for: the running one, or the one before it while the running one's spread lasts."""
    begun = [place for place, room in enumerate(rooms) if room[0] <= at_ms]
    for place in begun[-2 * together:]:
        following = place + together
        over = following < len(rooms) and at_ms > rooms[following][0] + rooms[following][1]
        if not over and left[place] >= amount:
            return place
    return None


def masked(msisdn):
    """A number as it may stand in a report."""
    return msisdn[:3] + "…" + msisdn[-2:] if len(msisdn) > 6 else "…"


def moved(books):
    """Every applied line of the carriers that moved money, with its attempt."""
    for attempt, lines in books.applied.items():
        for line in lines:
            if line.op in COLLECTS + GIVES_BACK:
                yield attempt, line


def i03(books, found):
    """Every row applied by the carrier is known to us as approved, unknown or in review; after settling not unknown."""
    for attempt, line in moved(books):
        found.looked()
        if attempt is None or attempt not in books.intents:
            found.violation(f"{line.carrier} applied a {line.op} that we know nothing of", line)
            continue
        standing = books.standing(attempt)
        if standing in books.outcomes:
            if books.outcomes[standing].class_ != APPROVED:
                found.violation(f"{attempt_name(attempt)}: {line.carrier} applied it, we hold it as not charged", line,
                                books.outcomes[standing])
        elif books.options.resolved and getattr(books.opens.get(standing), "kind", 2) != 3:
            found.violation(f"{attempt_name(attempt)}: {line.carrier} applied it, and it is still unknown to us", line)
    if not books.options.resolved:
        found.not_checked("that nothing is unknown any more: the run may have ended before its resolution (--resolved demands it)")


def i04(books, found):
    """Every approval of ours exists in the carrier's ledger."""
    for attempt, outcome in books.outcomes.items():
        if outcome.class_ != APPROVED:
            continue
        number = attempt[0] >> 44
        if number not in books.compared:
            found.not_checked(f"carrier {books.carrier_id.get(number, number)}: its ledger was not given")
            continue
        found.looked()
        intent = books.intents.get(attempt)
        theirs = (*attempt[:2], intent.parent_no) if intent and intent.op == OPS["adopt"] else attempt
        if intent and theirs not in books.applied:
            found.violation(f"{attempt_name(attempt)}: we hold it as approved, the carrier's ledger does not have it",
                            outcome)


def i05(books, found):
    """Amount, currency and subscriber are equal on both sides."""
    unlisted = 0
    for attempt, line in moved(books):
        intent = books.intents.get(attempt)
        if not intent:
            continue
        found.looked()
        outcome = books.outcomes.get(books.standing(attempt))
        if outcome and outcome.class_ == APPROVED and outcome.moved_minor != line.amount:
            found.violation(f"{attempt_name(attempt)}: we hold {books.money(outcome.moved_minor, intent.currency)}, the "
                            f"carrier {line.amount} {line.currency} minor", line)
        if (line.asked or line.amount) != intent.amount_minor:
            found.violation(f"{attempt_name(attempt)}: we asked for {books.money(intent.amount_minor, intent.currency)}, "
                            f"the carrier understood {line.asked or line.amount} {line.currency} minor", line)
        if books.code_of.get(intent.currency, line.currency) != line.currency:
            found.violation(f"{attempt_name(attempt)}: our currency is {books.code_of[intent.currency]}, the carrier's "
                            f"{line.currency}", line)
        listed = books.listed_of.get(attempt[0])
        unlisted += listed is None
        if listed and listed.msisdn != line.msisdn:
            found.violation(f"{attempt_name(attempt)}: {masked(listed.msisdn)} was imported, {masked(line.msisdn)} paid",
                            line)
    if unlisted:
        found.not_checked(f"the subscriber of {unlisted} charges: no imported list has them")


def i11(books, found):
    """What the carrier collected less what it gave back = receivable + the applied part of suspense."""
    receivable, theirs, suspense = defaultdict(int), defaultdict(int), defaultdict(int)
    accounts = {row.id: row for row in books.t.accounts}
    for row in books.t.balances:
        account = accounts.get(row.account_id)
        if account and (account.owner_kind, account.purpose) == (1, 1):
            receivable[account.owner_id] += row.posted
    for attempt, line in moved(books):
        sign = 1 if line.op in COLLECTS else -1
        number = books.carrier_no[line.carrier]
        theirs[number] += sign * line.amount
        if attempt in books.intents and books.standing(attempt) not in books.outcomes:
            suspense[number] += sign * line.amount
    # What it took back by itself is on its statement, not among its requests.
    for row in books.t.transfers:
        if row.leg in REVERSED and row.attempt_no < 0:
            theirs[row.source_id >> 44] -= row.amount
    for number in books.compared:
        found.looked()
        if theirs[number] != receivable[number] + suspense[number]:
            found.violation(f"{books.carrier_id[number]} collected {theirs[number]} minor in all; our receivable is "
                            f"{receivable[number]}, and {suspense[number]} of what is unknown to us were applied")


def i12(books, found):
    """Refunds stay within what was collected; one refund of the carrier per refund key."""
    collected, held, known = defaultdict(int), defaultdict(int), set()
    for attempt, intent in books.intents.items():
        outcome = books.outcomes.get(attempt)
        if intent.op == OPS["refund"]:
            known.add(attempt[:2])
            # Everything but a proven refusal counts.
            if outcome is None or outcome.class_ == APPROVED:
                held[attempt[:2]] += intent.amount_minor
        elif outcome:
            collected[attempt[:2]] += outcome.moved_minor
    for charge in known:
        found.looked()
        if held[charge] > collected[charge]:
            found.violation(f"{charge_name(charge)}: {collected[charge]} minor were collected, refunds of {held[charge]} "
                            "were asked for and not refused")
    theirs, parents = defaultdict(list), defaultdict(int)
    for line in books.lines:
        if line.status == "applied" and line.op == "refund":
            theirs[line.carrier, line.key].append(line)
            parents[line.carrier, line.parent] += line.amount
    paid = defaultdict(int)
    for line in books.lines:
        if line.status == "applied" and line.op in COLLECTS:
            paid[line.carrier, line.key] += line.amount
    for (carrier, key), lines in theirs.items():
        found.looked()
        if len(lines) > 1:
            found.violation(f"{carrier} gave back {len(lines)} times under the key {key}", *lines)
    for (carrier, key), amount in parents.items():
        if amount > paid[carrier, key]:
            found.violation(f"{carrier} gave back {amount} minor of the charge {key}, which collected {paid[carrier, key]}")
