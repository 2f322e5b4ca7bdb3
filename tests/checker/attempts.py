"""Invariants about attempts: what was made durable when, by whom, and whether it stayed."""

import hashlib
from collections import defaultdict
from datetime import timedelta

from keys import EPOCH, AttemptName, attempt_name, charge_name, money_digest
from sources import APPROVED, COLLECTING, OPS

# A fence waits for batches in flight, at most as long as a statement may take.
STATEMENT_US = 30_000_000
ACCEPTED, UNKNOWN, IN_REVIEW = 1, 2, 3


# By how much a worker's copy of the database's clock may be wrong: half of the longest reading of it.
CLOCK_ERROR_US = 50_000


def restored(books, intent):
    """Whether a failover may have lost it and a spool given it back: dated by the worker, when it had become durable,
    and written after what was recorded a second time."""
    return any(row.from_us <= intent.at_us <= row.found_us for row in books.t.failovers)


def i06(books, found):
    """Every request that the carrier received had an intent committed earlier, with the same digest."""
    for line in books.lines:
        found.looked()
        intent = books.intents.get(line.attempt)
        if intent is None:
            found.violation(f"{line.carrier} was asked for a {line.op} without an intent of ours", line)
            continue
        name, sub = AttemptName(line.attempt), books.subs[line.attempt[0]]
        if intent.at_us > line.at_us + CLOCK_ERROR_US * restored(books, intent):
            found.violation(f"{name}: the carrier had it {(intent.at_us - line.at_us) / 1e6:.3f} s before its intent", line)
        if line.amount is None:
            continue  # the carrier could not read it
        # What was moved was asked for under the plan of its time.
        plans = books.plan_id if sub.id in books.moved else [sub.plan_no]
        asked = {money_digest(*line.attempt, OPS.get(line.op, 0), sub.subscriber_id, plan_no, line.asked or line.amount,
                              next((number for number, code in books.code_of.items() if code == line.currency), 0))
                 for plan_no in plans}
        if (intent.digest_hi, intent.digest_lo) not in asked:
            found.violation(f"{name}: the request's money fields are not those of its intent's digest", line)


def i07(books, found):
    """One open attempt per charge at any time."""
    for charge, attempts in books.charges.items():
        found.looked()
        numbers = [attempt[2] for attempt in attempts]
        if numbers != list(range(1, len(numbers) + 1)):
            found.violation(f"{charge_name(charge)}: its attempts are numbered {numbers[:20]}")
        for before, after in zip(attempts, attempts[1:]):
            outcome = books.outcomes.get(before)
            if outcome is None:
                found.violation(f"{attempt_name(after)} was begun while attempt {before[2]} has no outcome",
                                books.intents[after])
            elif outcome.at_us > books.intents[after].at_us and not (
                    restored(books, books.intents[after]) and books.intents[after].written_by > outcome.written_by):
                found.violation(f"{attempt_name(after)} was begun before attempt {before[2]} had its outcome", outcome,
                                books.intents[after])


def i08(books, found):
    """Final outcomes never change."""
    for row in books.t.guards:
        found.looked()
        if not row.guarded:
            found.violation(f"table {row.relation}: nothing guards its rows against change")
    posted, writers = defaultdict(int), {}
    for row in books.t.transfers:
        attempt = (row.source_id, row.period, row.attempt_no)
        # What a carrier took back by itself has a number below 0, and no attempt.
        if row.attempt_no > 0 and row.leg in (1, 4, 5, 6, 10, 11):
            posted[attempt] += row.amount
            writers.setdefault(attempt, row.written_by)
    collected = defaultdict(int)
    for attempt in sorted(books.outcomes):
        outcome, intent = books.outcomes[attempt], books.intents.get(attempt)
        found.looked()
        name = AttemptName(attempt)
        if intent is None:
            found.violation(f"{name}: an outcome without an intent", outcome)
            continue
        if (outcome.class_ == APPROVED) != (outcome.moved_minor > 0):
            found.violation(f"{name}: its class and what it moved contradict each other", outcome)
        if intent.op in COLLECTING:
            collected[attempt[:2]] += outcome.moved_minor
            if outcome.collected_after != collected[attempt[:2]]:
                found.violation(f"{name}: collected after it {outcome.collected_after} minor, its charge's outcomes say "
                                f"{collected[attempt[:2]]}", outcome)
        if outcome.moved_minor != posted[attempt]:
            found.violation(f"{name}: it moved {outcome.moved_minor} minor, its transfers {posted[attempt]}", outcome)
        if writers.get(attempt, outcome.written_by) != outcome.written_by:
            found.violation(f"{name}: its outcome was written by another commit than its transfers", outcome)
    for attempt in set(posted) - set(books.outcomes):
        found.violation(f"{attempt_name(attempt)}: money was posted, and it has no outcome")
    remembered(books, found)


def remembered(books, found):
    """Compares with the outcomes of an earlier check, and keeps today's for the next one."""
    path = books.options.remember
    if not path:
        return found.not_checked("refusals against an earlier check: none was kept (--remember)")
    try:
        with open(path, encoding="utf-8") as file:
            for text in file:
                *attempt, class_, moved = map(int, text.split())
                outcome = books.outcomes.get(tuple(attempt))
                found.looked()
                if outcome is None or (outcome.class_, outcome.moved_minor) != (class_, moved):
                    now = f"class {outcome.class_}, moved {outcome.moved_minor}" if outcome else "gone"
                    found.violation(f"{attempt_name(attempt)}: it was class {class_}, moved {moved}; it is {now}")
    except FileNotFoundError:
        pass
    if not found.violations:
        with open(path, "w", encoding="utf-8") as file:
            for attempt, outcome in sorted(books.outcomes.items()):
                file.write(f"{attempt[0]} {attempt[1]} {attempt[2]} {outcome.class_} {outcome.moved_minor}\n")


def i09(books, found):
    """Only current epochs wrote; one incarnation per epoch."""
    lives, epochs = {}, {}
    for row in books.t.incarnations:
        lives[row.incarnation] = row
        found.looked()
        other = epochs.setdefault((row.slot, row.epoch), row)
        if other is not row:
            found.violation(f"slot {row.slot}, epoch {row.epoch}: two incarnations", row, other)
    wrote = {}
    for kind, rows in (("intent", books.intents), ("outcome", books.outcomes)):
        for attempt, row in rows.items():
            found.looked()
            life = lives.get(row.incarnation)
            if life is None:
                found.violation(f"{attempt_name(attempt)}: its {kind} was written by nobody that ever registered", row)
                continue
            low, high = wrote.get(row.incarnation, ((row.at_us, attempt), (row.at_us, attempt)))
            wrote[row.incarnation] = (min(low, (row.at_us, attempt)), max(high, (row.at_us, attempt)))
            if row.at_us < life.started_us:
                found.violation(f"{attempt_name(attempt)}: its {kind} is older than who wrote it", row)
            if life.fenced_us is not None and row.at_us > life.fenced_us + STATEMENT_US:
                found.violation(f"{attempt_name(attempt)}: its {kind} was written after its writer was fenced", row)
    # Exact, without allowing for waiting: a successor's first write comes after the last of who had the slot before. Of
    # slot 0 are those whose registration a failover lost.
    slots = defaultdict(list)
    for incarnation in wrote:
        if lives[incarnation].slot:
            slots[lives[incarnation].slot].append(lives[incarnation])
    for slot, those in slots.items():
        those.sort(key=lambda life: life.epoch)
        for before, after in zip(those, those[1:]):
            last, first = wrote[before.incarnation][1], wrote[after.incarnation][0]
            if last[0] > first[0]:
                found.violation(f"slot {slot}: epoch {before.epoch} wrote {attempt_name(last[1])} after epoch "
                                f"{after.epoch} had written {attempt_name(first[1])}")


def i10(books, found):
    """Balances equal the sums of transfers; each asset sums to zero; sealed days are as they were sealed."""
    found.not_checked("inter_shard sums to zero: there are no such accounts yet")
    accounts = {row.id: row for row in books.t.accounts}
    sums, days = defaultdict(int), defaultdict(lambda: [0, 0])
    counts = defaultdict(int)
    for row in books.t.transfers:
        found.looked()
        sums[row.debit_account] += row.amount
        sums[row.credit_account] -= row.amount
        days[row.business_date, row.debit_account][0] += row.amount
        days[row.business_date, row.credit_account][1] += row.amount
        counts[row.business_date] += 1
        for account in (row.debit_account, row.credit_account):
            if account not in accounts or accounts[account].asset != row.asset:
                found.violation(f"a transfer of asset {row.asset} touches account {account}, which is of another", row)
    balances = {row.account_id: row.posted for row in books.t.balances}
    for account in sorted(set(sums) | set(balances)):
        found.looked()
        if balances.get(account, 0) != sums[account]:
            found.violation(f"account {account}: its balance is {balances.get(account, 0)}, its transfers say "
                            f"{sums[account]}")
    assets = defaultdict(int)
    for account, posted in balances.items():
        if account in accounts:
            assets[accounts[account].asset] += posted
    for asset, posted in assets.items():
        if posted:
            found.violation(f"asset {books.code_of.get(asset, asset)}: its balances sum to {posted}, not to zero")
    sealed(books, found, accounts, days, counts)


def sealed(books, found, accounts, days, counts):
    """Totals and digests of sealed days and closed months."""
    kept = {(row.business_date, row.account_id): [row.debit, row.credit] for row in books.t.account_days}
    last = max((row.business_date for row in books.t.day_seals), default=None)
    for place in sorted(set(kept) | {place for place in days if last is not None and place[0] <= last}):
        if kept.get(place, [0, 0]) != list(days.get(place, [0, 0])):
            found.violation(f"{EPOCH + timedelta(days=place[0])}, account {place[1]}: sealed with {kept.get(place)}, its "
                            f"transfers say {list(days.get(place, [0, 0]))}")
    before, of_day = b"", {}
    for row in books.t.day_seals:
        found.looked()
        parts = sorted(
            ((accounts[account].owner_kind, accounts[account].owner_id, accounts[account].purpose, accounts[account].asset),
             totals) for (day, account), totals in kept.items() if day == row.business_date and account in accounts)
        text = str(row.business_date) + "".join(
            f";{'.'.join(map(str, place))}:{debit}:{credit}" for place, (debit, credit) in parts)
        if hashlib.sha256(before + text.encode()).hexdigest() != row.digest:
            found.violation(f"{EPOCH + timedelta(days=row.business_date)}: its digest is not that of its totals and of the "
                            "day before")
        before = of_day[row.business_date] = bytes.fromhex(row.digest)
    before = b""
    for row in books.t.month_seals:
        found.looked()
        inside = b"".join(digest for day, digest in sorted(of_day.items())
                          if f"{EPOCH + timedelta(days=day):%Y%m}" == str(row.month))
        if hashlib.sha256(before + str(row.month).encode() + inside).hexdigest() != row.digest:
            found.violation(f"month {row.month}: its digest is not that of its days and of the month before")
        before = bytes.fromhex(row.digest)


def i16(books, found):
    """Nothing stays undecided: every attempt is final or listed, each listed one with reason, age and owner."""
    for attempt, intent in books.intents.items():
        found.looked()
        if attempt not in books.outcomes and attempt not in books.opens:
            found.violation(f"{attempt_name(attempt)}: it has neither an outcome nor a row that lists it", intent)
    unknown = 0
    for attempt, row in books.opens.items():
        found.looked()
        name = AttemptName(attempt)
        if attempt in books.outcomes:
            found.violation(f"{name}: it is final and still listed as open", row)
        if attempt not in books.intents:
            found.violation(f"{name}: it is listed as open without an intent", row)
        if row.kind == UNKNOWN and not row.reason:
            found.violation(f"{name}: it is listed without a reason", row)
        if row.kind == ACCEPTED and row.deadline_at_ms is None:
            found.violation(f"{name}: it waits for an answer without a deadline", row)
        if row.kind == IN_REVIEW and not row.assignee:
            found.violation(f"{name}: it is in review, and nobody has it", row)
        unknown += row.kind == UNKNOWN
        sub = books.subs.get(attempt[0])
        holder = books.asides.get(attempt[:2]) or (sub if sub and sub.period == attempt[1] else None)
        if attempt not in books.outcomes and (holder is None or not holder.open) and not (sub and sub.flags & 1):
            found.violation(f"{name}: it is listed as open, and its charge is not blocked", row)
    for sub in books.subs.values():
        listed = (sub.id, sub.period, sub.attempt_no) in books.opens
        if sub.open and not listed:
            found.violation(f"{charge_name((sub.id, sub.period))}: it is blocked, and no open attempt is listed")
        if sub.flags & 1 and not any(case.subscription_id == sub.id for case in books.t.cases):
            found.violation(f"{charge_name((sub.id, sub.period))}: its subscription is set aside without a case for people")
    if unknown and books.options.resolved:
        found.violation(f"{unknown} attempts are still unknown")
    elif unknown:
        found.not_checked(f"that {unknown} listed UNKNOWN attempts get resolved: the run may have ended before "
                          "(--resolved demands it)")
