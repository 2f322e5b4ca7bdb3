"""Our keys, made again from the documented rules alone: nothing here comes from the engine.

ref_seed  63 bits of SHA-256 over merchant, the merchant's reference and the generation, each with its length before it
our_ref   ref_seed (63 bits), period (26), attempt number (10), as 20 base32hex characters or 30 digits
period    days since 2000-01-01 times 2048, plus a minute
ids       carrier number (18 bits), slice (12), dense sequence (32)
"""

import hashlib
from datetime import date, timedelta

DAY_STEP = 2048
EPOCH = date(2000, 1, 1)
BASE32HEX = "0123456789ABCDEFGHIJKLMNOPQRSTUV"


def ref_seed(merchant, reference, generation=0):
    """The seed that all keys of a subscription derive from."""
    digest = hashlib.sha256()
    for part in (merchant.encode(), reference.encode(), generation.to_bytes(4, "big")):
        digest.update(len(part).to_bytes(8, "big") + part)
    return int.from_bytes(digest.digest()[:8], "big") >> 1


def our_ref(seed, period, attempt_no):
    """The key on the wire, as 20 characters."""
    value = seed << 36 | period << 10 | attempt_no
    return "".join(BASE32HEX[value >> 5 * place & 31] for place in range(19, -1, -1))


def parse_our_ref(text):
    """(seed, period, attempt number) of a key, or None for text that is no key of ours."""
    if len(text) == 30 and text.isascii() and text.isdigit():
        value = int(text)
    elif len(text) == 20 and all(letter in BASE32HEX for letter in text.upper()):
        value = int(text, 32)
    else:
        return None
    attempt_no = value & 1023
    return None if value >> 99 or not attempt_no else (value >> 36, value >> 10 & (1 << 26) - 1, attempt_no)


def money_digest(subscription_id, period, attempt_no, op, subscriber_id, plan_no, amount_minor, currency):
    """Both halves of the digest over an attempt's money fields, as the database keeps them (signed)."""
    fields = b"".join((
        subscription_id.to_bytes(8, "big", signed=True), period.to_bytes(4, "big"), attempt_no.to_bytes(2, "big"),
        bytes([op]), subscriber_id.to_bytes(8, "big", signed=True), plan_no.to_bytes(4, "big"),
        amount_minor.to_bytes(8, "big", signed=True), currency.to_bytes(2, "big"), b"tb01"))
    digest = hashlib.sha256(fields).digest()
    return int.from_bytes(digest[:8], "big", signed=True), int.from_bytes(digest[8:16], "big", signed=True)


def period_of(day, minute=0):
    """The number of the period that starts on a local date."""
    return (day - EPOCH).days * DAY_STEP + minute


def period_name(period):
    """20261121, or 20261121t0630."""
    day, minute = EPOCH + timedelta(days=period // DAY_STEP), period % DAY_STEP
    return f"{day:%Y%m%d}" + (f"t{minute // 60:02}{minute % 60:02}" if minute else "")


def subscription_name(number):
    """sub_ and 13 characters, as the product shows it."""
    return "sub_" + "".join(BASE32HEX[number >> 5 * place & 31] for place in range(12, -1, -1)).lower()


def attempt_name(attempt):
    """at_…, of (subscription, period, attempt number)."""
    return f"at_{subscription_name(attempt[0])[4:]}-{period_name(attempt[1])}-{attempt[2]}"


class AttemptName:
    """The same, made only where a sentence needs it: of a million rows hardly one is told of."""

    __slots__ = ("attempt",)

    def __init__(self, attempt):
        self.attempt = attempt

    def __str__(self):
        return attempt_name(self.attempt)


def charge_name(charge):
    """ch_…, of (subscription, period)."""
    return f"ch_{subscription_name(charge[0])[4:]}-{period_name(charge[1])}"


def carrier_no(subscription_id):
    """The carrier's number inside an id."""
    return subscription_id >> 44
