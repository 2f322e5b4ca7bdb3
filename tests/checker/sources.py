"""What the checker reads: the database (one snapshot, through psql), the carriers' ledgers, the imported lists, exports."""

import bisect
import csv
import functools
import glob
import itertools
import json
import mmap
import os
import shutil
import subprocess
import tempfile
import time
import tomllib
from collections import defaultdict, namedtuple
from datetime import date
from types import SimpleNamespace

import calendars
import keys

US = "(extract(epoch FROM {0}) * 1000000)::bigint AS {1}"
TABLES = {
    "clock": "SELECT base_machine_ms, base_business_ms, scale,"
             " (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms FROM business_clock",
    "carriers": "SELECT carrier_no, id, currency, slices FROM carrier",
    "merchants": "SELECT merchant_no, id FROM merchant",
    "plans": "SELECT plan_no, id, merchant_no, carrier_no FROM plan",
    "zones": "SELECT zone_no, name FROM zone",
    "books": "SELECT version, files::text AS files FROM book_version ORDER BY version",
    "subscriptions": "SELECT id, subscriber_id, ref_seed, due_minor, collected_minor, next_at_ms, stop_at_ms, consent_until_ms, plan_no,"
                     " merchant_no, book_version, period, rev, flags, zone_no, currency, state, attempt_no, open"
                     " FROM subscription",
    "asides": "SELECT subscription_id, period, due_minor, collected_minor, attempt_no, open, state FROM charge_aside",
    "intents": "SELECT subscription_id, period, attempt_no, op, amount_minor, currency, digest_hi, digest_lo,"
               " not_before_ms, not_after_ms, incarnation, " + US.format("intent_at", "at_us") + ", business_at_ms,"
               " book_version, round, step, rule_id, parent_no, xmin::text::bigint AS written_by FROM attempt_intent",
    "outcomes": "SELECT subscription_id, period, attempt_no, class AS class_, reason, moved_minor, collected_after, incarnation, "
                + US.format("decided_at", "at_us") + ", business_at_ms, charge_state, rule_id, carrier_code,"
                " carrier_txn_id, xmin::text::bigint AS written_by FROM attempt_outcome",
    "opens": "SELECT subscription_id, period, attempt_no, amount_minor, currency, deadline_at_ms, kind, reason, rule_id,"
             " assignee, " + US.format("since", "since_us") + " FROM attempt_open",
    "notes": "SELECT subscription_id, period, rev, kind, rule_id, charge_state FROM charge_note",
    "failovers": "SELECT " + US.format("window_from", "from_us") + ", " + US.format("found_at", "found_us")
                 + " FROM quarantine",
    "grants": "SELECT subscription_id, period, attempt_no FROM entitlement_grant",
    "transfers": "SELECT source_id, period, attempt_no, leg, amount, asset, debit_account, credit_account,"
                 " business_date, xmin::text::bigint AS written_by FROM transfer",
    "accounts": "SELECT id, owner_kind, owner_id, purpose, asset FROM account",
    "balances": "SELECT account_id, sum(posted)::bigint AS posted FROM account_balance GROUP BY 1",
    "account_days": "SELECT business_date, account_id, debit, credit FROM account_day",
    "day_seals": "SELECT business_date, transfers, encode(digest, 'hex') AS digest FROM day_seal ORDER BY 1",
    "month_seals": "SELECT month, encode(digest, 'hex') AS digest FROM month_seal ORDER BY 1",
    "incarnations": "SELECT incarnation, slot, epoch, " + US.format("started_at", "started_us") + ", "
                    + US.format("fenced_at", "fenced_us") + " FROM worker_incarnation",
    "workers": "SELECT slot, incarnation, epoch FROM worker",
    "inbox": "SELECT id, shard, kind, subscription_id FROM shard_inbox",
    "cases": "SELECT subscription_id, period, attempt_no, kind FROM case_file",
    "callbacks": "SELECT id, carrier_no, subscription_id, period, attempt_no, state, authenticated::int AS authenticated"
                 " FROM callback_inbox",
    "file_rows": "SELECT r.id, r.line, r.subscription_id, r.period, r.attempt_no, r.state, f.name, f.carrier_no,"
                 " f.state AS file_state FROM carrier_file_row r JOIN carrier_file f ON f.id = r.file_id",
    "audit": "SELECT seq, (extract(epoch FROM at) * 1000000)::bigint AS at_us, who, account, act, subject, details,"
             " encode(before, 'hex') AS before, encode(digest, 'hex') AS digest FROM audit_log ORDER BY seq",
    "audit_head": "SELECT seq, encode(digest, 'hex') AS digest FROM audit_head",
    "proposals": "SELECT id, subscription_id, period, attempt_no, state, proposed_by, approved_by FROM decision_proposal",
    "guards": "SELECT c.relname AS relation, coalesce(bool_or(t.tgenabled IN ('O', 'A')), false)::int AS guarded"
              " FROM pg_class c LEFT JOIN pg_trigger t ON t.tgrelid = c.oid AND t.tgname = 'append_only'"
              " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND c.relname ~"
              " '^(attempt_intent|attempt_outcome|charge_note|transfer|account_day|day_seal|month_seal|book_version|audit_log)(_w|$)'"
              " GROUP BY 1",
}
TEXTS = {"id", "name", "files", "carrier_code", "carrier_txn_id", "assignee", "kind", "digest", "relation", "who",
         "account", "act", "subject", "details", "before", "proposed_by", "approved_by"}
NUMBERS = {("plans", "merchant_no"), ("subscriptions", "id"), ("accounts", "id"), ("opens", "kind"), ("notes", "kind"),
           ("inbox", "kind"), ("inbox", "id"), ("callbacks", "id"),
           ("proposals", "id")}
COLLECTS, GIVES_BACK = ("charge", "confirm"), ("refund",)
OPS = {"charge": 1, "reserve": 2, "confirm": 3, "cancel": 4, "refund": 5, "adopt": 6}
# What counts as collected once it is approved.
COLLECTING = (1, 3, 6)
APPROVED, NOT_SENT = 5, 7
csv.field_size_limit(1 << 26)
# A million charges are gigabytes to copy.
RUN_S_MAX = 3600
# Values of a column that are kept once.
SAME_MAX = 1 << 16


# Notes of a move to another zone, day, plan, carrier.
MOVES = {101, 102, 103, 104}


class CannotRun(Exception):
    """The checker cannot look: no verdict at all."""


def psql():
    """The client program."""
    beside = os.environ.get("TOLL_POSTGRES_BIN")
    for place in [os.path.join(beside, "psql") if beside else "", shutil.which("psql") or "",
                  *sorted(glob.glob("/usr/lib/postgresql/*/bin/psql"), reverse=True)]:
        if place and os.access(place, os.X_OK):
            return place
    raise CannotRun("psql was not found: install PostgreSQL's client or name its folder in TOLL_POSTGRES_BIN")


def run_sql(url, script):
    """Runs a script, stops at its first error."""
    done = subprocess.run([psql(), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", url], input=script, text=True,
                          capture_output=True, timeout=RUN_S_MAX, check=False)
    if done.returncode:
        raise CannotRun(f"the database: {done.stderr.strip()[:2000]}")
    return done.stdout


@functools.lru_cache
def table_names(url):
    """Every table, partitions as part of theirs."""
    return run_sql(url, "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
                        " AND NOT relispartition ORDER BY 1").split()


def read_database(url, planted=None):
    """Every table that the invariants speak of, as one snapshot; and the text of all tables, for I21. What the self-test
    plants (SQL) is rolled back afterwards."""
    with tempfile.TemporaryDirectory(prefix="tollbook-check-") as folder:
        names = table_names(url)
        script = [f"BEGIN ISOLATION LEVEL REPEATABLE READ; {planted};" if planted
                  else "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;"]
        for name, query in TABLES.items():
            script.append(f"\\copy ({query}) TO '{folder}/{name}.csv' WITH (FORMAT csv, HEADER)")
        for name in names:
            script.append(f"\\copy (SELECT * FROM public.\"{name}\") TO '{folder}/dump.{name}' WITH (FORMAT csv)")
        run_sql(url, "\n".join([*script, "ROLLBACK;"]))
        tables = {name: read_table(f"{folder}/{name}.csv", name) for name in TABLES}
        dump = []
        for name in names:
            dump.append((f"table {name}", content(f"{folder}/dump.{name}")))
    return SimpleNamespace(**tables), dump


def content(path):
    """The bytes of a file, without holding them in memory; they stay when the file is removed."""
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if os.path.getsize(path) else b""


class Numbers(dict):
    """Numbers of one column by their text; what comes again and again is kept once."""

    def __missing__(self, text):
        value = int(text) if text else None
        if len(self) < SAME_MAX:
            self[text] = value
        return value


class Texts(dict):
    """The same for text."""

    def __missing__(self, text):
        if len(self) < SAME_MAX:
            self[text] = text
        return text


def read_table(path, table):
    """Rows of one file; numbers are numbers, nothing is None. A million of them has to fit: tuples with names."""
    with open(path, encoding="utf-8", newline="") as file:
        lines = csv.reader(file)
        header = next(lines)
        row = namedtuple(f"{table}_row", header)
        columns = [Texts() if name in TEXTS and (table, name) not in NUMBERS else Numbers() for name in header]
        return [row._make([column[text] for column, text in zip(columns, line, strict=True)]) for line in lines]


LINE = ("carrier", "number", "at_us", "key", "msisdn", "op", "parent", "amount", "asked", "currency", "status", "reason", "text")


class Line:
    """A line of a carrier's own books, and the attempt that its key names."""

    __slots__ = (*LINE, "attempt")

    def __init__(self, *values):
        for name, value in zip(LINE, values, strict=True):
            setattr(self, name, value)

    def _asdict(self):
        return {name: getattr(self, name) for name in LINE}


def read_ledger(carrier, path):
    """Lines of a carrier's own books. A torn last line is not one yet."""
    lines, same = [], Texts()
    with open(path, encoding="utf-8") as file:
        for number, text in enumerate(file, 1):
            if not text.endswith("\n"):
                break
            try:
                line = json.loads(text)
                line = Line(
                    carrier, number, int(line["at_us"]), line["key"], same[line["msisdn"]], same[line["op"]],
                    line.get("parent", ""), line["amount"], line.get("asked"), same[line["currency"]], same[line["status"]],
                    same[line["reason"]], same[line["text"]])
            except (ValueError, KeyError, TypeError) as flaw:
                raise CannotRun(f"{path} line {number} is no ledger line: {flaw!r}") from flaw
            lines.append(line)
    return lines


def read_list(path):
    """Lines of an imported file: msisdn, plan, reference, zone, start, consent_until."""
    with open(path, encoding="utf-8", newline="") as file:
        return [SimpleNamespace(
            file=os.path.basename(path), number=number, msisdn=line["msisdn"].strip().lstrip("+"),
            plan=line["plan"].strip(), reference=line["reference"].strip(), zone=(line.get("zone") or "").strip(),
            start=date.fromisoformat(line["start"]) if line.get("start") else None,
            consent_until=(line.get("consent_until") or "").strip())
            for number, line in enumerate(csv.DictReader(file), 2)]


class Books:
    """Both sides, joined where only keys are needed."""

    def __init__(self, tables, dump, options):
        self.t, self.dump, self.options = tables, dump, options
        self.carrier_no = {row.id: row.carrier_no for row in tables.carriers}
        self.carrier_id = {row.carrier_no: row.id for row in tables.carriers}
        self.book = {row.version: {"/".join(path.split("/")[-2:]): tomllib.loads(text) for path, text in json.loads(row.files).items()}
                     for row in tables.books}
        self.plan_id = {row.plan_no: row.id for row in tables.plans}
        self.zone_name = {row.zone_no: row.name for row in tables.zones}
        self.subs = {row.id: row for row in tables.subscriptions}
        self.by_seed = {row.ref_seed: row for row in tables.subscriptions}
        self.asides = {(row.subscription_id, row.period): row for row in tables.asides}
        named = {}  # one name for each attempt, not one in every table

        def of(rows):
            names = ((row.subscription_id, row.period, row.attempt_no) for row in rows)
            return {named.setdefault(name, name): row for name, row in zip(names, rows)}

        self.intents, self.outcomes, self.opens = of(tables.intents), of(tables.outcomes), of(tables.opens)
        # The attempt that the carrier knows, and the later one by which people take it into the books.
        self.adoptions = {(*attempt[:2], row.parent_no): attempt for attempt, row in self.intents.items()
                          if row.op == OPS["adopt"]}
        for attempt in self.intents:
            if attempt[0] not in self.subs:
                raise CannotRun(f"subscription {attempt[0]} has attempts but no row")
        self.charges = defaultdict(list)
        for attempt in sorted(self.intents):
            self.charges[attempt[:2]].append(attempt)
        self.code_of = {}
        for row in tables.carriers:
            for files in self.book.values():
                if f"carriers/{row.id}.toml" in files:
                    self.code_of[row.currency] = files[f"carriers/{row.id}.toml"]["carrier"]["currency"]
        self.lines = []
        for carrier, path in options.ledgers:
            if carrier not in self.carrier_no:
                raise CannotRun(f"carrier {carrier} is not in the database")
            self.lines += read_ledger(carrier, path)
        self.compared = {self.carrier_no[carrier] for carrier, _ in options.ledgers}
        self.applied = defaultdict(list)
        for line in self.lines:
            attempt = self.attempt_of(line.key, line.carrier)
            line.attempt = named.get(attempt, attempt)
            if line.status == "applied":
                self.applied[line.attempt].append(line)
        self.listed = [line for path in options.lists for line in read_list(path)]
        for line in self.listed:
            self.join(line)
        self.listed_of = {line.sub.id: line for line in self.listed if line.sub}
        # Their zone, anchor, plan or carrier is no longer what a list says.
        self.moved = {row.subscription_id for row in tables.notes if row.rule_id in MOVES}
        self.exports = options.exports
        moments = sorted((row.at_us, row.business_at_ms) for row in tables.intents)
        # Of several stripes, some hold an instant that is older than what another has written already.
        self.moments_us = [at_us for at_us, _ in moments]
        self.moments_ms = list(itertools.accumulate((at_ms for _, at_ms in moments), max))
        clock = tables.clock[0] if tables.clock else SimpleNamespace(base_machine_ms=0, base_business_ms=0, scale=1,
                                                                     now_ms=int(1000 * time.time()))
        self.scale = clock.scale
        self.now_ms = clock.base_business_ms + (clock.now_ms - clock.base_machine_ms) * clock.scale

    def standing(self, attempt):
        """The attempt that says what became of what the carrier took under this one's key: itself, or its adoption while
        that is open or taken into the books."""
        adoption = self.adoptions.get(attempt)
        if adoption and (adoption not in self.outcomes or self.outcomes[adoption].class_ == APPROVED):
            return adoption
        return attempt

    def attempt_of(self, key, carrier):
        """(subscription, period, attempt) of a key on the wire; None when nothing of ours is called so."""
        parts = keys.parse_our_ref(key)
        sub = self.by_seed.get(parts[0]) if parts else None
        return (sub.id, *parts[1:]) if sub and keys.carrier_no(sub.id) == self.carrier_no[carrier] else None

    def join(self, line):
        """A line of an imported list: its plan in the newest book that has it, its zone, its subscription."""
        line.plans = [files[f"plans/{line.plan}.toml"] for files in self.book.values()
                      if f"plans/{line.plan}.toml" in files]
        if not line.plans:
            raise CannotRun(f"{line.file} line {line.number}: no version of the book has the plan {line.plan}")
        plan = line.plans[-1]
        line.carrier, line.text = plan["carrier"], plan["text"]
        line.seed = keys.ref_seed(plan["merchant"], line.reference)
        line.sub = self.by_seed.get(line.seed)
        carriers = [files[f"carriers/{line.carrier}.toml"]["carrier"] for files in self.book.values()
                    if f"carriers/{line.carrier}.toml" in files]
        line.zone = line.zone or carriers[-1]["zones"][0]

    def plan_of(self, attempt):
        """The plan under which an attempt was decided, None when that version of the book is gone."""
        sub = self.subs.get(attempt[0])
        files = self.book.get(self.intents[attempt].book_version, {})
        return files.get(f"plans/{self.plan_id.get(sub.plan_no)}.toml") if sub else None

    def business_ms(self, at_us):
        """Business time at an instant of machine time, as the intents made about then say."""
        place = bisect.bisect_right(self.moments_us, at_us) - 1
        return self.moments_ms[max(place, 0)] if self.moments_ms else None

    def business_ms_at_most(self, at_us):
        """The same, not earlier than it was: what the next intent says."""
        place = bisect.bisect_right(self.moments_us, at_us)
        return self.moments_ms[min(place, len(self.moments_ms) - 1)] if self.moments_ms else None

    def money(self, minor, currency):
        """An amount for people: minor units and the currency's code."""
        return f"{minor} {self.code_of.get(currency, currency)} minor"

    def periods(self, line, until_ms):
        """Expected periods of a listed line; raises calendars.Unreadable."""
        if any(plan["schedule"] != line.plans[-1]["schedule"] for plan in line.plans):
            raise calendars.Unreadable("its schedule changed between versions of the book")
        if line.sub and line.sub.id in self.moved:
            raise calendars.Unreadable("what was moved to another zone, day, plan or carrier has other periods than its line says")
        if line.start is None:
            raise calendars.Unreadable("its line names no start")
        return calendars.expected(line.plans[-1], line.zone, line.start, until_ms)
