"""Invariants about what is kept: history, traces, callbacks, the audit log, and what must never be kept in clear."""

import hashlib
import itertools
import json
import os
import re
import subprocess

from keys import AttemptName, attempt_name, carrier_no, charge_name, our_ref
from sources import OPS, CannotRun, content

LOG_BYTES_MAX = 1 << 30
# What became of a carrier's message.
GIVEN, DUPLICATE, CONFLICT = 1, 2, 5
# Of a row of a file; and of the file.
CONTRARY, INCOMPLETE = 2, 3
# The rule of what two people decided.
PEOPLE_DECIDED = 108
DIGITS = re.compile(rb"[0-9]{7,17}")


def sample(books):
    """Charges to be explained: those with open attempts first, then evenly over all."""
    charges = sorted(books.charges)
    some = sorted({attempt[:2] for attempt in books.opens})[:books.options.sample // 2]
    step = max(1, len(charges) // max(1, books.options.sample - len(some)))
    return (some + [charge for charge in charges[::step] if charge not in some])[:books.options.sample]


def explain(books):
    """The product's own story of each charge of the sample, by `toll explain --json`."""
    stories = []
    for charge in sample(books):
        done = subprocess.run([*books.options.toll, "explain", "--json", charge_name(charge)], capture_output=True, text=True,
                              timeout=120, check=False)
        if done.returncode:
            raise CannotRun(f"toll explain {charge_name(charge)}: {done.stderr.strip()[:1000]}")
        stories.append(json.loads(done.stdout))
    return stories


def told(books, found):
    """Each exported attempt with its row: (attempt, story)."""
    names = {charge_name(charge): charge for charge in books.charges}
    for story in books.exports:
        charge = names.get(story["charge"])
        if charge is None:
            found.violation(f"{story['charge']} was exported, and the database does not have it")
            continue
        yield charge, story


def i14(books, found):
    """History complete: per attempt all its interactions and decisions; nothing left in spool or inbox after settling."""
    for row in books.t.inbox:
        found.violation(f"shard {row.shard}: a row of kind {row.kind} is still in its inbox", row)
    if not books.exports:
        return found.not_checked("interactions and decisions: no exports were given (--toll or --exports)")
    # What never reached the carrier needs no answer in the history; a dead sender's answer was perhaps never seen.
    for charge, story in told(books, found):
        for what in story["missing"]:
            found.violation(f"{story['charge']}: {what}")
        kept = {attempt["number"]: attempt for attempt in story["attempts"]}
        for attempt in books.charges[charge]:
            found.looked()
            name, one, outcome = attempt_name(attempt), kept.get(attempt[2]), books.outcomes.get(attempt)
            if one is None:
                found.violation(f"{name}: its history has nothing of it")
                continue
            if not any(decision["recorded"] for decision in one["decisions"]):
                found.violation(f"{name}: its history has no decision that was recorded")
            exchange = one["exchange"]
            sent = books.intents[attempt].op != OPS["adopt"]
            if sent and outcome and outcome.class_ in (5, 6, 8) and (exchange is None or not exchange["response"]["length"]):
                found.violation(f"{name}: it has an answer of the carrier, and its history has no response")
    found.not_checked(f"charges beyond the sample of {len(books.exports)}")


def i15(books, found):
    """Each row of the carrier is traced to request, response, intent, decision and version of the book."""
    for line in books.lines:
        intent = books.intents.get(line.attempt)
        if intent is None:
            continue  # I6 says so
        found.looked()
        name = AttemptName(line.attempt)
        if books.plan_of(line.attempt) is None:
            found.violation(f"{name}: version {intent.book_version} of the book, which decided it, is not kept", intent)
        decided = books.outcomes.get(line.attempt) or books.opens.get(line.attempt)
        if not intent.rule_id or decided and not decided.rule_id:
            found.violation(f"{name}: no rule says why", intent)
    if not books.exports:
        return found.not_checked("request and response bytes: no exports were given (--toll or --exports)")
    lines = {}
    for line in books.lines:
        lines.setdefault(line.attempt, line)
    for charge, story in told(books, found):
        kept = {attempt["number"]: attempt for attempt in story["attempts"]}
        for attempt in books.charges[charge]:
            line, one = lines.get(attempt), kept.get(attempt[2])
            if line is None or one is None:
                continue  # never received, or I14 says so
            found.looked()
            name, exchange, key = attempt_name(attempt), one["exchange"], our_ref(books.subs[attempt[0]].ref_seed, *attempt[1:])
            if one["our_ref"] != key:
                found.violation(f"{name}: its story speaks of the key {one['our_ref']}, ours is {key}")
            if one["book_version"] != books.intents[attempt].book_version:
                found.violation(f"{name}: its story names another version of the book")
            if exchange is None or not exchange["wrote"]:
                # Only a sender that died in between may leave no bytes behind.
                opened = books.opens.get(attempt)
                if not (opened and opened.reason == 84):
                    found.violation(f"{name}: the carrier received it, and no request is kept", line)
            elif line.key not in exchange["request"]["text"]:
                found.violation(f"{name}: the request that is kept does not have its key", line)
    found.not_checked(f"bytes of charges beyond the sample of {len(books.exports)}")


def i19(books, found):
    """Forged, replayed and mismatched callbacks move nothing, nor do files that are not complete."""
    cases = {(case.subscription_id, case.period, case.attempt_no) for case in books.t.cases}
    for row in books.t.callbacks:
        found.looked()
        attempt = (row.subscription_id, row.period, row.attempt_no)
        if row.state == GIVEN and not row.authenticated:
            found.violation(f"message {row.id}: nobody knows who sent it, and it became evidence", row)
        if row.state in (GIVEN, DUPLICATE, CONFLICT) and attempt not in books.intents:
            found.violation(f"message {row.id}: it is said to be about an attempt that does not exist", row)
        if row.state in (GIVEN, DUPLICATE) and row.subscription_id and carrier_no(row.subscription_id) != row.carrier_no:
            found.violation(f"message {row.id}: it came from another carrier than the attempt went to", row)
        if row.state == CONFLICT and attempt not in cases:
            found.violation(f"message {row.id}: it contradicts {attempt_name(attempt)}, and no case says so", row)
    if not books.t.callbacks:
        found.not_checked("no carrier sent messages")
    for row in books.t.file_rows:
        found.looked()
        attempt = (row.subscription_id, row.period, row.attempt_no)
        place = f"line {row.line} of {row.name}"
        if row.state == GIVEN and row.file_state == INCOMPLETE:
            found.violation(f"{place}: its file is not complete, and it became evidence", row)
        if row.state in (GIVEN, CONTRARY) and attempt not in books.intents:
            found.violation(f"{place}: it is said to be about an attempt that does not exist", row)
        if row.state == GIVEN and carrier_no(row.subscription_id) != row.carrier_no:
            found.violation(f"{place}: its file is of another carrier than the attempt went to", row)
        if row.state == CONTRARY and attempt not in cases and not books.t.inbox:
            found.violation(f"{place}: it contradicts {attempt_name(attempt)}, and no case says so", row)
    if not books.t.file_rows:
        found.not_checked("no carrier's file said more than what is recorded")


def i20(books, found):
    """The audit chain is unbroken; an edited or deleted row is found."""
    before, seq = bytes(32), 0
    for row in books.t.audit:
        found.looked()
        if row.seq != seq + 1:
            found.violation(f"rows {seq + 1} to {row.seq - 1} of the audit log are missing", row)
        if bytes.fromhex(row.before) != before:
            found.violation(f"row {row.seq} of the audit log does not follow from the one before it", row)
        digest = hashlib.sha256(bytes.fromhex(row.before))
        for text in (str(row.seq), str(row.at_us), row.who, row.account, row.act, row.subject, row.details):
            content = text.encode()
            digest.update(len(content).to_bytes(8, "big") + content)
        if digest.hexdigest() != row.digest:
            found.violation(f"row {row.seq} of the audit log was changed", row)
        before, seq = bytes.fromhex(row.digest), row.seq
    head = books.t.audit_head[0]
    if (head.seq, head.digest) != (seq, before.hex()):
        found.violation(f"the audit log ends at row {seq}, its head says {head.seq}", head)
    approved = {(row.subscription_id, row.period, row.attempt_no) for row in books.t.proposals if row.state == 1}
    for attempt, row in books.outcomes.items():
        intent = books.intents.get(attempt)
        if row.rule_id == PEOPLE_DECIDED or intent and intent.op == OPS["adopt"]:
            found.looked()
            if attempt not in approved:
                found.violation(f"{attempt_name(attempt)}: it is said to be people's decision, and nobody approved it", row)
    logged = {row.details for row in books.t.audit if row.act == "approve"}
    for row in books.t.proposals:
        found.looked()
        if row.state == 1 and row.proposed_by.lower() == row.approved_by.lower():
            found.violation(f"proposal {row.id}: {row.proposed_by} proposed and approved it", row)
        if row.state == 1 and not any(json.loads(details)["proposal"] == row.id for details in logged):
            found.violation(f"proposal {row.id} was approved, and the audit log does not have it", row)


def i21(books, found):
    """No clear MSISDN and no secret in logs, metrics, errors and dumps."""
    numbers = {line.msisdn.encode() for line in books.listed} | {line.msisdn.encode() for line in books.lines}
    numbers |= {number.encode() for number in books.options.msisdns}
    numbers.discard(b"")
    secrets = [secret.encode() for secret in books.options.secrets if len(secret) >= 8]
    if not numbers and not secrets:
        return found.not_checked("no known numbers and no secrets were given (--list, --secret)")
    if not books.options.logs:
        found.not_checked("logs and metrics: none were given (--log)")
    for place, text in itertools.chain(books.dump, files(books.options.logs)):
        found.looked()
        for match in DIGITS.finditer(text):
            run = match[0]
            if run in numbers or run.startswith(b"00") and run[2:] in numbers:
                found.violation(f"{place}, byte {match.start()}: the number …{run[-2:].decode()} stands there in clear")
                break
        for number, secret in enumerate(secrets, 1):
            at = text.find(secret)
            if at >= 0:
                found.violation(f"{place}, byte {at}: the secret number {number} stands there")


def files(places):
    """(path, content) of every file, folders included."""
    for place in places:
        paths = [place] if os.path.isfile(place) else sorted(
            os.path.join(folder, name) for folder, _, names in os.walk(place) for name in names)
        if not paths and not os.path.isdir(place):
            raise CannotRun(f"{place} does not exist")
        for path in paths:
            if os.path.isfile(path) and os.path.getsize(path) <= LOG_BYTES_MAX:
                yield path, content(path)
