//! What only few rows of a recorded batch have: one document, whose entries name the place of their row.

use billing_core::entitlement::Grant;
use billing_core::period::days_since_2000;
use billing_core::schedule::Anchor;
use billing_core::subscription::{Progress, Subscription};
use billing_core::triage::Passed;
use jiff::Timestamp;
use serde::Serialize;

/// What a row has besides: all of it rare.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MoreRow {
    /// The anchor, the counters of the day and the last notice, where one of them changes.
    pub moves: Option<MovedRow>,
    /// A grant that does not begin now, or is not of everything.
    pub grant: Option<Grant>,
    /// What merchants are told besides the row's event; 0 for nothing.
    pub event: i16,
    /// Ranges of periods that were passed over.
    pub passed: Vec<Passed>,
    /// Another plan or zone.
    pub shift: Option<ShiftRow>,
    /// What opens at another carrier in the same commit.
    pub opens: Option<Box<SuccessorRow>>,
    /// What the carrier took back of the row's charge.
    pub reversal: Option<ReversalRow>,
}

/// Money that a carrier took back by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReversalRow {
    /// Its number within the charge, from 1.
    pub reversal_no: i16,
    /// How much, minor units.
    pub amount_minor: i64,
    /// ISO 4217 numeric.
    pub currency: i16,
    /// What the carrier calls it: 1 to 64 characters.
    pub reference: String,
}

/// The plan and the zone of a subscription that moves. The zone is its subscriber's too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ShiftRow {
    /// The plan's number.
    pub plan_no: i32,
    /// The zone's number.
    pub zone_no: i16,
}

/// The subscription that opens at another carrier, and its subscriber in case the line is new there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SuccessorRow {
    /// Its id.
    pub id: i64,
    /// Whose, unless the carrier knows the line already.
    pub subscriber_id: i64,
    /// The subscriber's zone.
    pub zone_no: i16,
    /// Which key-encryption key.
    pub kek_version: i16,
    /// Keyed hash of the MSISDN, in hex as all bytes here.
    pub msisdn_hmac: String,
    /// What the subscriber's key is derived from.
    pub key_salt: String,
    /// The sealed MSISDN.
    pub msisdn_ct: String,
    /// What its keys are derived from.
    pub ref_seed: i64,
    /// Full digest of what they are derived from.
    pub digest: String,
    /// The first period's price, minor units.
    pub due_minor: i64,
    /// When it fires first, business milliseconds.
    pub next_at_ms: Option<i64>,
    /// Until when access is paid already, business milliseconds.
    pub paid_until_ms: Option<i64>,
    /// Where consent ends, business milliseconds.
    pub consent_until_ms: Option<i64>,
    /// The plan.
    pub plan_no: i32,
    /// Who sells.
    pub merchant_no: i32,
    /// The version of the book that it opens under.
    pub book_version: i32,
    /// Days since 2000-01-01.
    pub anchor_day: i32,
    /// Local minute of the day.
    pub anchor_minute: u16,
    /// Periods that were counted before.
    pub anchor_done: i32,
    /// The first period.
    pub period: i32,
    /// ISO 4217 numeric.
    pub currency: i16,
    /// The first state.
    pub state: i16,
    /// Why it fires first.
    pub next_kind: i16,
}

/// Columns of a subscription that few charges change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MovedRow {
    anchor_day: i32,
    anchor_minute: i32,
    anchor_done: i32,
    try_day: i16,
    day_tries: i16,
    notice_at_ms: Option<i64>,
}

impl MovedRow {
    /// The columns afterwards; `None` when none of them changes.
    #[must_use]
    pub fn of(before: &Subscription, anchor: Option<Anchor>, after: &Progress) -> Option<Self> {
        let at = &before.progress;
        let same_counters =
            (at.try_day, at.day_tries, at.notice_at) == (after.try_day, after.day_tries, after.notice_at);
        let anchor_after = anchor.unwrap_or(before.anchor);
        if same_counters && anchor_after == before.anchor {
            return None;
        }
        Some(Self {
            anchor_day: days_since_2000(anchor_after.date),
            anchor_minute: i32::from(anchor_after.minute),
            anchor_done: anchor_after.done,
            try_day: after.try_day,
            day_tries: after.day_tries,
            notice_at_ms: after.notice_at.map(Timestamp::as_millisecond),
        })
    }
}

impl MoreRow {
    /// Boxed, unless there is nothing in it.
    #[must_use]
    pub fn boxed(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }
}

/// The document of a batch.
#[derive(Debug, Default, Serialize)]
pub(super) struct More {
    moves: Vec<Placed<MovedRow>>,
    grants: Vec<Placed<GrantEntry>>,
    events: Vec<Placed<EventEntry>>,
    passed: Vec<Placed<PassedEntry>>,
    shifts: Vec<Placed<ShiftRow>>,
    opens: Vec<Placed<SuccessorRow>>,
    reversals: Vec<Placed<ReversalRow>>,
}

#[derive(Debug, Serialize)]
struct Placed<T> {
    place: i32,
    #[serde(flatten)]
    entry: T,
}

#[derive(Debug, Serialize)]
struct GrantEntry {
    from_ms: i64,
    until_ms: Option<i64>,
    variant: i16,
}

#[derive(Debug, Serialize)]
struct EventEntry {
    event: i16,
}

#[derive(Debug, Serialize)]
struct PassedEntry {
    first: i32,
    before: Option<i32>,
    charge_state: i16,
}

impl More {
    pub(super) fn push(&mut self, place: i32, row: &MoreRow) {
        self.moves.extend(row.moves.map(|entry| Placed { place, entry }));
        self.grants.extend(row.grant.map(|grant| {
            let until_ms = grant.until.map(Timestamp::as_millisecond);
            let entry = GrantEntry { from_ms: grant.from.as_millisecond(), until_ms, variant: grant.variant };
            Placed { place, entry }
        }));
        if row.event != 0 {
            self.events.push(Placed { place, entry: EventEntry { event: row.event } });
        }
        self.shifts.extend(row.shift.map(|entry| Placed { place, entry }));
        self.reversals.extend(row.reversal.as_ref().map(|entry| Placed { place, entry: entry.clone() }));
        self.opens.extend(row.opens.as_deref().map(|entry| Placed { place, entry: entry.clone() }));
        self.passed.extend(row.passed.iter().map(|passed| {
            let entry = PassedEntry {
                first: passed.first.number(),
                before: passed.before.map(billing_core::period::Period::number),
                charge_state: passed.charge_state as i16,
            };
            Placed { place, entry }
        }));
    }

    /// As the database reads it; `None` for nothing.
    pub(super) fn document(&self) -> Option<String> {
        let empty = self.moves.is_empty()
            && self.grants.is_empty()
            && self.events.is_empty()
            && self.passed.is_empty()
            && self.shifts.is_empty()
            && self.opens.is_empty()
            && self.reversals.is_empty();
        // Numbers and text only: it cannot fail to be written.
        if empty { None } else { serde_json::to_string(self).ok() }
    }
}
