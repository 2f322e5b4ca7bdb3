"""Violations to plant into copies of a world's data: at least one of each invariant that can be checked.

A plant says what is wrong with the world afterwards, which invariants have to say so, and how to do it. Some wrongs break
several invariants by their nature (money that one side does not have is missing in the sums, too); all are named."""

import json
from collections import defaultdict

import calendars
from keys import charge_name, money_digest, our_ref
from sources import APPROVED

PLANTS = []
# Rows that nothing may change are changed by somebody who may do anything.
FORCED = "SET session_replication_role = replica; "


def plant(what, *invariants):
    """Registers a planting: a function of the world, which it may change, giving SQL or None."""
    def register(function):
        PLANTS.append((what, set(invariants), function))
        return function
    return register


class Scene:
    """What a planting may change: SQL to run in a copy of the database, lines of ledger, lists, exports and logs."""

    def __init__(self, books, ledger, lists, exports):
        self.books, self.ledger, self.lists, self.exports, self.log = books, list(ledger), dict(lists), list(exports), ""
        settled = [attempt for attempt, row in sorted(books.outcomes.items()) if row.class_ == APPROVED]
        blocked = {attempt[:2] for attempt in books.opens}
        self.charged = defaultdict(list)
        for attempt, row in sorted(books.outcomes.items()):
            self.charged[attempt[0]].append((attempt[1:], row.class_))
        # An approved attempt of an earlier, closed period of a daily plan, of a subscription that is not the only one of its
        # kind; sealed days are left alone.
        self.past = next(attempt for attempt in settled if attempt[:2] not in blocked
                         and books.subs[attempt[0]].period > attempt[1] and len(books.charges[attempt[:2]]) == 1
                         and self.day_of(attempt) not in {row.business_date for row in books.t.day_seals}
                         and next(self.twins(attempt), None))
        self.refused = next(attempt for attempt, row in sorted(books.outcomes.items()) if row.class_ == 6)
        explained = {json.loads(text)["charge"] for text in exports}
        # Not among the charges that were explained, of a subscription that goes on.
        self.unknown = max(attempt for attempt, row in books.opens.items() if row.kind == 2 and attempt in books.applied
                           and books.subs[attempt[0]].next_at_ms is not None
                           and charge_name(attempt[:2]) not in explained)

    def day_of(self, attempt):
        return next(row.business_date for row in self.books.t.transfers
                    if (row.source_id, row.period, row.attempt_no) == attempt)

    def at(self, attempt):
        """The SQL condition for an attempt."""
        return f"(subscription_id, period, attempt_no) = ({attempt[0]}, {attempt[1]}, {attempt[2]})"

    def key(self, attempt):
        return our_ref(self.books.subs[attempt[0]].ref_seed, *attempt[1:])

    def line(self, attempt, status="applied"):
        """Place and content of a ledger line."""
        key = self.key(attempt)
        return next((place, json.loads(text)) for place, text in enumerate(self.ledger)
                    if f'"{key}"' in text and f'"status":"{status}"' in text)

    def edit(self, attempt, was="applied", **changes):
        """Changes fields of a ledger line."""
        place, line = self.line(attempt, was)
        self.ledger[place] = json.dumps(line | changes, separators=(",", ":")) + "\n"

    def twins(self, attempt):
        """Lines of the same plan that were charged the same way: each charge as often, with the same outcomes."""
        whose = self.books.listed_of[attempt[0]]
        return (line for line in self.books.listed if line.plan == whose.plan and line.msisdn != whose.msisdn and line.sub
                and self.charged[line.sub.id] == self.charged[whose.sub.id])

    def current(self):
        """An approved attempt whose charge is its subscription's current one, the last of that charge."""
        return next(attempt for attempt, row in sorted(self.books.outcomes.items()) if row.class_ == APPROVED
                    and self.books.subs[attempt[0]].period == attempt[1]
                    and self.books.charges[attempt[:2]][-1] == attempt)

    def twice(self):
        """Two attempts of one subscription that collected the whole price: of an early period, and of its last."""
        of = {}
        for attempt, row in sorted(self.books.outcomes.items()):
            whole = row.class_ == APPROVED and row.moved_minor == calendars.due_minor(self.books.plan_of(attempt))
            if whole and attempt in self.books.applied and len(self.books.charges[attempt[:2]]) == 1:
                of.setdefault(attempt[0], []).append(attempt)
        those = max(of.values(), key=len)
        return those[0], those[-1]

    def copy_intent(self, attempt, attempt_no, high, low, op=1, amount=None):
        """SQL for one more intent of a charge, a millisecond after the last thing that happened to it."""
        row = self.books.intents[attempt]
        return (f"INSERT INTO attempt_intent SELECT subscription_id, {amount or row.amount_minor}, {high}, {low},"
                f" not_before_ms, not_after_ms, incarnation, (SELECT max(decided_at) FROM attempt_outcome WHERE incarnation ="
                f" i.incarnation), business_at_ms, period, book_version, {attempt_no}, {op}, round, step, currency, rule_id"
                f" FROM attempt_intent i WHERE {self.at(attempt)}")

    def story(self):
        """Place and content of an exported story whose first attempt was approved."""
        return next((place, json.loads(text)) for place, text in enumerate(self.exports)
                    if json.loads(text)["attempts"][0]["state"] == "approved")


@plant("a charge that collected more than its row says is due", "I1")
def _(s):
    sub, period, attempt_no = s.past
    return (f"INSERT INTO charge_aside (subscription_id, due_minor, collected_minor, period, attempt_no, round, step, open,"
            f" state, currency) VALUES ({sub}, 90, 90, {period}, {attempt_no}, 1, 0, 0, 4, 788)")


@plant("the price of every version of the book is half of what was collected", "I1", "I2")
def _(s):
    return FORCED + "UPDATE book_version SET files = replace(files::text, '0.500 TND', '0.250 TND')::jsonb"


@plant("a line of the carrier twice", "I1", "I2", "I11")
def _(s):
    s.ledger.append(s.ledger[s.line(s.past)[0]])


@plant("the carrier collected for the same line and text under keys that are not ours", "I2", "I3", "I6", "I11")
def _(s):
    place, line = s.line(s.past)
    # Twice: by its moment alone the first may pay for the period before, where a busy machine missed it.
    s.ledger[place + 1:place + 1] = [json.dumps(line | {"key": key}, separators=(",", ":")) + "\n"
                                     for key in ("somebody-else", "somebody-again")]


@plant("two collections under two keys for one period, one of them days late, when nothing else was collected",
       "I1", "I2", "I3", "I4", "I6")
def _(s):
    early, last = s.twice()
    s.edit(last, key=s.key((*early[:2], 2)))


@plant("no violation: a collection that came days late, by a repeat under its own key")
def _(s):
    early, last = s.twice()
    s.edit(early, at_us=s.line(last)[1]["at_us"] + 1)


@plant("two collections under one key, the second days late", "I1", "I2", "I11")
def _(s):
    early, last = s.twice()
    late = s.line(early)[1] | {"at_us": s.line(last)[1]["at_us"] + 1}
    s.ledger.append(json.dumps(late, separators=(",", ":")) + "\n")


@plant("a number that was charged is on no list", "I2")
def _(s):
    name = s.books.listed_of[s.past[0]].file
    number = s.books.listed_of[s.past[0]].msisdn
    s.lists[name] = [text for text in s.lists[name] if not text.startswith(number)]


@plant("the carrier applied what we hold as refused", "I3", "I11")
def _(s):
    s.edit(s.refused, "refused", status="applied", amount=1, asked=s.books.intents[s.refused].amount_minor)


@plant("the carrier does not have what we hold as approved", "I4", "I11")
def _(s):
    del s.ledger[s.line(s.past)[0]]


@plant("another amount moved than was asked for", "I5", "I11")
def _(s):
    amount = s.books.intents[s.past].amount_minor
    s.edit(s.past, amount=amount - 1, asked=amount)


@plant("somebody else paid", "I5")
def _(s):
    whose = s.books.listed_of[s.past[0]]
    name = whose.file
    # The list is the truth of who was to pay: two lines change places, and with them their charges.
    other = next(s.twins(s.past))
    s.lists[name] = [text.replace(whose.msisdn, "#").replace(other.msisdn, whose.msisdn).replace("#", other.msisdn)
                     for text in s.lists[name]]


@plant("another currency", "I5", "I6")
def _(s):
    s.edit(s.past, currency="EUR")


@plant("a request that reached the carrier before its intent", "I6")
def _(s):
    s.edit(s.past, at_us=s.books.intents[s.past].at_us - 1)


@plant("an intent whose digest is of other money fields", "I6")
def _(s):
    return FORCED + f"UPDATE attempt_intent SET digest_lo = digest_lo + 1 WHERE {s.at(s.past)}"


@plant("an attempt begun before the one before it was final", "I7")
def _(s):
    # Both by one worker: otherwise its successor's first write would come before its own last one.
    first = next(attempts[0] for attempts in s.books.charges.values() if len(attempts) > 1
                 and attempts[0] in s.books.outcomes
                 and len({row.incarnation for row in (s.books.outcomes[attempts[0]], s.books.intents[attempts[1]])}) == 1)
    after = s.books.intents[first[0], first[1], 2]
    return FORCED + (f"UPDATE attempt_outcome SET decided_at = to_timestamp({(after.at_us + 1_000) / 1e6})"
                     f" WHERE {s.at(first)}")


@plant("an attempt beside an unknown one", "I7")
def _(s):
    sub, period, number = s.unknown
    row, whose = s.books.intents[s.unknown], s.books.subs[sub]
    high, low = money_digest(sub, period, number + 1, 1, whose.subscriber_id, whose.plan_no, row.amount_minor, row.currency)
    return s.copy_intent(s.unknown, number + 1, high, low) + (
        f"; INSERT INTO attempt_outcome SELECT subscription_id, 0, 0, incarnation, intent_at, business_at_ms, period, 1,"
        f" attempt_no, 7, 61, 2, 47 FROM attempt_intent WHERE {s.at((sub, period, number + 1))}")


@plant("an outcome that was changed afterwards", "I8", "I4", "I3")
def _(s):
    # A refusal becomes an approval and an approval a refusal: both sides of the same lie.
    return FORCED + (f"UPDATE attempt_outcome SET class = 6, moved_minor = 0, collected_after = 0 WHERE {s.at(s.past)};"
                     f" UPDATE attempt_outcome SET class = 5, moved_minor = 1, collected_after = 1 WHERE {s.at(s.refused)}")


@plant("an outcome that was written again, with the same money", "I8")
def _(s):
    return FORCED + f"UPDATE attempt_outcome SET reason = reason + 1 WHERE {s.at(s.past)}"


@plant("a refusal that was another one at the last check", "I8")
def _(s):
    return FORCED + f"UPDATE attempt_outcome SET class = 8 WHERE {s.at(s.refused)}"


@plant("a table whose rows anybody may change", "I8")
def _(s):
    return "ALTER TABLE attempt_outcome DISABLE TRIGGER append_only"


@plant("an outcome written by nobody that registered", "I9")
def _(s):
    return FORCED + f"UPDATE attempt_intent SET incarnation = 7 WHERE {s.at(s.past)}"


@plant("a fenced worker that wrote on", "I9")
def _(s):
    return "UPDATE worker_incarnation SET fenced_at = started_at - interval '1 hour' WHERE slot = 1 AND epoch = (SELECT max(epoch) FROM worker_incarnation WHERE slot = 1)"


@plant("two incarnations in one epoch", "I9")
def _(s):
    return ("ALTER TABLE worker_incarnation DROP CONSTRAINT worker_incarnation_slot_epoch_key;"
            " INSERT INTO worker_incarnation SELECT 7, slot, epoch, host, boot_id, spool, endpoint, started_at, fenced_at"
            " FROM worker_incarnation LIMIT 1")


@plant("a balance that is not the sum of its transfers", "I10")
def _(s):
    # Two merchants' accounts against each other: the asset still sums to zero, the carrier's receivable is right.
    return ("UPDATE account_balance SET posted = posted + CASE WHEN purpose = 2 THEN 5 ELSE -5 END FROM account"
            " WHERE id = account_id AND (account_id, stripe) IN (SELECT a.id, min(b.stripe) FROM account a JOIN account_balance b"
            " ON b.account_id = a.id WHERE a.owner_kind = 2 AND a.purpose IN (2, 3) GROUP BY a.id)")


@plant("an asset that does not sum to zero", "I10")
def _(s):
    return ("UPDATE account_balance SET posted = posted + 5 WHERE (account_id, stripe) = (SELECT account_id, min(stripe) FROM"
            " account_balance JOIN account ON id = account_id WHERE owner_kind = 2 AND purpose = 2 GROUP BY 1 LIMIT 1)")


@plant("a sealed day with other totals", "I10")
def _(s):
    return FORCED + "UPDATE account_day SET debit = debit + 1 WHERE debit > 0"


@plant("a seal that was made anew", "I10")
def _(s):
    return FORCED + "UPDATE day_seal SET digest = sha256('made anew')"


@plant("a receivable that lacks what the carrier collected", "I11")
def _(s):
    # The books agree with themselves: one posting of an unknown amount stands for a collected one.
    return FORCED + (
        "DO $$ DECLARE r int; p int; cs int; ms int; BEGIN"
        " SELECT id INTO r FROM account WHERE (owner_kind, purpose) = (1, 1); SELECT id INTO p FROM account WHERE (owner_kind, purpose) = (2, 2) LIMIT 1;"
        " SELECT id INTO cs FROM account WHERE (owner_kind, purpose) = (1, 3); SELECT id INTO ms FROM account WHERE (owner_kind, purpose) = (2, 3) LIMIT 1;"
        f" INSERT INTO transfer VALUES ({s.unknown[0]}, 500, {s.unknown[1]}, p, r, (SELECT max(business_date) + 1 FROM day_seal), {s.unknown[2]}, 9, 788);"
        " UPDATE account_balance SET posted = posted - 500 WHERE (account_id, stripe) = (SELECT account_id, min(stripe) FROM account_balance WHERE account_id = r GROUP BY 1);"
        " UPDATE account_balance SET posted = posted + 500 WHERE (account_id, stripe) = (SELECT account_id, min(stripe) FROM account_balance WHERE account_id = p GROUP BY 1);"
        " END $$")


@plant("a refund of more than was collected", "I12")
def _(s):
    sub, period, number = s.current()
    row, whose = s.books.intents[sub, period, number], s.books.subs[sub]
    amount = row.amount_minor + 1
    high, low = money_digest(sub, period, number + 1, 5, whose.subscriber_id, whose.plan_no, amount, row.currency)
    return s.copy_intent((sub, period, number), number + 1, high, low, op=5, amount=amount) + (
        f"; INSERT INTO attempt_open (subscription_id, amount_minor, period, attempt_no, kind, reason, rule_id, currency)"
        f" VALUES ({sub}, {amount}, {period}, {number + 1}, 2, 80, 70, 788);"
        f" UPDATE subscription SET open = 2, attempt_no = {number + 1} WHERE id = {sub}")


@plant("two refunds of the carrier under one key", "I12", "I3", "I6", "I11")
def _(s):
    place, line = s.line(s.past)
    line |= {"op": "refund", "key": "a-refund", "parent": line["key"], "amount": 100}
    s.ledger += [json.dumps(line, separators=(",", ":")) + "\n"] * 2


@plant("a period that nobody did anything for", "I13")
def _(s):
    # As if the subscription had begun a day earlier.
    whose = s.books.listed_of[s.past[0]]
    day = (whose.start - calendars.DAY).isoformat()
    s.lists[whose.file] = [text.replace(str(whose.start), day) if text.startswith(whose.msisdn) else text
                           for text in s.lists[whose.file]]


@plant("something for a period that the plan does not have", "I13")
def _(s):
    whose = s.books.listed_of[s.past[0]]
    return (f"INSERT INTO charge_note (subscription_id, business_at_ms, period, rev, kind, charge_state, rule_id) VALUES"
            f" ({whose.sub.id}, 1, {s.past[1] + 7}, 30000, 2, 1, 4)")


@plant("a subscription that stands still", "I13")
def _(s):
    return "UPDATE business_clock SET base_business_ms = base_business_ms + 30 * 86400000::bigint"


@plant("an imported line that was lost", "I13")
def _(s):
    name = next(iter(s.lists))
    s.lists[name] = [*s.lists[name], s.lists[name][1].replace("ref-", "lost-").replace("2162", "2169", 1)]


@plant("an attempt whose history is gone", "I14")
def _(s):
    place, story = s.story()
    story["attempts"] = []
    s.exports[place] = json.dumps(story) + "\n"


@plant("an answer that the history does not have", "I14")
def _(s):
    place, story = s.story()
    story["attempts"][0]["exchange"]["response"] = {"length": 0, "text": ""}
    s.exports[place] = json.dumps(story) + "\n"


@plant("an inbox that was never read", "I14")
def _(s):
    return f"INSERT INTO shard_inbox (subscription_id, shard, kind, payload) VALUES ({s.past[0]}, {s.past[0] >> 32}, 3, '')"


@plant("a version of the book that is gone", "I15")
def _(s):
    return FORCED + f"UPDATE attempt_intent SET book_version = 99 WHERE {s.at(s.past)}"


@plant("a request that is kept under another key", "I15")
def _(s):
    place, story = s.story()
    request = story["attempts"][0]["exchange"]["request"]
    request["text"] = request["text"].replace(story["attempts"][0]["our_ref"], "0" * 20)
    s.exports[place] = json.dumps(story) + "\n"


@plant("no rule for a decision", "I15")
def _(s):
    return FORCED + f"UPDATE attempt_intent SET rule_id = 0 WHERE {s.at(s.past)}"


@plant("an attempt that nobody lists", "I16")
def _(s):
    sub, period, _ = s.unknown
    return (f"DELETE FROM attempt_open WHERE {s.at(s.unknown)};"
            f" UPDATE subscription SET open = 0 WHERE id = {sub} AND period = {period}")


@plant("an unknown attempt without a reason", "I16")
def _(s):
    return f"UPDATE attempt_open SET reason = 0 WHERE {s.at(s.unknown)}"


@plant("a review that nobody does", "I16")
def _(s):
    return f"UPDATE attempt_open SET kind = 3 WHERE {s.at(s.unknown)}"


@plant("an unknown attempt that does not block", "I16")
def _(s):
    sub, period, _ = s.unknown
    return (f"UPDATE subscription SET open = 0 WHERE id = {sub} AND period = {period};"
            f" UPDATE charge_aside SET open = 0 WHERE (subscription_id, period) = ({sub}, {period})")


@plant("a rate that was not kept", "I17")
def _(s):
    return FORCED + "UPDATE book_version SET files = replace(files::text, 'n = 20000', 'n = 2')::jsonb"


@plant("a charge after STOP", "I18")
def _(s):
    return f"UPDATE subscription SET stop_at_ms = 1 WHERE id = {s.past[0]}"


@plant("a charge after the end of consent", "I18")
def _(s):
    name, number = s.books.listed_of[s.past[0]].file, s.books.listed_of[s.past[0]].msisdn
    head, *lines = s.lists[name]
    of = lambda text: ",2000-01-01T00:00:00Z" if text.startswith(number) else ","
    s.lists[name] = [head.rstrip("\n") + ",consent_until\n"] + [text.rstrip("\n") + of(text) + "\n" for text in lines]
    return f"UPDATE subscription SET consent_until_ms = 946684800000 WHERE id = {s.past[0]}"


def country(s, rule):
    """SQL that gives the country of every version of the book one more rule."""
    place, text = next((place, text) for row in s.books.t.books for place, text in json.loads(row.files).items()
                       if place.endswith("countries/tn.toml"))
    return FORCED + f"UPDATE book_version SET files = files || jsonb_build_object('{place}', $toml${text}\n{rule}$toml$::text)"


@plant("more collected of a line in a day than its country allows", "I18")
def _(s):
    return country(s, '[[caps]]\nper = "day"\namount = "0.090"\n')


@plant("a line asked more often in a month than its country allows", "I18")
def _(s):
    return country(s, '[[attempts]]\nper = "month"\nmax = 1\n')


@plant("a charge in the quiet hours", "I18")
def _(s):
    return FORCED + "UPDATE book_version SET files = replace(files::text, '22:30', '06:10')::jsonb"


@plant("a charge outside of its intent's time", "I18")
def _(s):
    return FORCED + f"UPDATE attempt_intent SET not_after_ms = business_at_ms WHERE {s.at(s.past)}"


@plant("evidence of an unknown sender", "I19")
def _(s):
    return callback(s, s.past, 1, "false")


@plant("a message about an attempt that does not exist", "I19")
def _(s):
    return callback(s, (*s.past[:2], 99), 2, "true")


@plant("a contradiction that nobody was told of", "I19")
def _(s):
    return callback(s, s.past, 5, "true")


def callback(s, attempt, state, authenticated):
    """SQL for one kept message of the attempt's carrier."""
    return ("INSERT INTO callback_inbox (subscription_id, carrier_no, period, attempt_no, kek_version, state, authenticated,"
            f" fact, sealed) VALUES ({attempt[0]}, {attempt[0]}::bigint >> 44, {attempt[1]}, {attempt[2]}, 1, {state},"
            f" {authenticated}, sha256('planted'), '')")


@plant("an act that was changed", "I20")
def _(s):
    return FORCED + "UPDATE audit_log SET who = 'nobody' WHERE seq = 1"


@plant("an act that was changed, with a new digest", "I20")
def _(s):
    return FORCED + ("UPDATE audit_log SET who = 'nobody', digest = audit_digest(before, seq, at, 'nobody', account, act,"
                     " subject, details) WHERE seq = 1")


@plant("an act that was removed", "I20")
def _(s):
    return FORCED + "DELETE FROM audit_log WHERE seq = 1"


@plant("the last act removed", "I20")
def _(s):
    return FORCED + "DELETE FROM audit_log WHERE seq = (SELECT max(seq) FROM audit_log)"


@plant("an approval that the log does not have", "I20")
def _(s):
    sub, period, number = s.past
    return ("INSERT INTO decision_proposal (subscription_id, moved_minor, open_since, expires_at, period, attempt_no, open_kind,"
            " reason, currency, state, proposed_by, proposed_account, approved_by, why, digest)"
            f" VALUES ({sub}, 500, now(), now(), {period}, {number}, 2, 1, 788, 1, 'ana', 'ana@host', 'ben', 'planted',"
            " sha256('planted'))")


@plant("a number in a log", "I21")
def _(s):
    s.log = f"INFO asked for +{s.books.listed[0].msisdn} again\n"


@plant("a secret in a log", "I21")
def _(s):
    s.log = "DEBUG x-api-key: planted-secret-0123\n"


@plant("a number in the database", "I21")
def _(s):
    return (f"INSERT INTO case_file (subscription_id, kind, what) VALUES ({s.past[0]}, 'quarantine',"
            f" 'the line {s.books.listed[0].msisdn} is barred')")


@plant("money taken into the books that nobody approved, and that the carrier does not have", "I4", "I20")
def _(s):
    return FORCED + f"UPDATE attempt_intent SET op = 6, parent_no = 99 WHERE {s.at(s.past)}"


@plant("a row of a cut file that became evidence", "I19")
def _(s):
    sub, period, number = s.past
    return ("WITH f AS (INSERT INTO carrier_file (carrier_no, kek_version, state, digest, salt, name, flaw, taken_by) VALUES"
            f" ({sub >> 44}, 1, 3, sha256('planted'), decode(repeat('00', 16), 'hex'), 'cut.csv', 'line 9: no trailer', 'x')"
            " RETURNING id) INSERT INTO carrier_file_row (file_id, line, subscription_id, moved_minor, ref_seed, period,"
            f" attempt_no, reason, state, our_ref, code, sealed) SELECT id, 2, {sub}, 500, 1, {period}, {number}, 1, 1, 'k',"
            " 'charge', '' FROM f")
