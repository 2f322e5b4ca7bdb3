//! Reading what is due: the wheel's refill, the rows of a batch, what a dead worker left behind.

use std::collections::HashMap;

use billing_core::ids::{RefSeed, Shard, SubscriptionId};
use billing_core::outcome::Op;
use billing_core::period::{Period, date_of_days};
use billing_core::schedule::Anchor;
use billing_core::states::{ChargeState, SubscriptionState, from_number};
use billing_core::subscription::{Held, NextKind, OpenAttempt, Planned, Progress, Reservation, Subscription};
use billing_core::triage::{MERGE_RULES, Merged, Passed};
use jiff::Timestamp;
use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};

use super::StoreError;

/// When a subscription fires, and what its place in a backlog depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WheelEntry {
    /// Which subscription.
    pub id: i64,
    /// Business milliseconds since 1970.
    pub at_ms: i64,
    /// Its plan.
    pub plan_no: i32,
    /// The subscriber's zone.
    pub zone_no: i16,
    /// Whether a charge is tried then: it needs an open charging window, everything else does not.
    pub charges: bool,
}

impl WheelEntry {
    /// What had its turn before and is looked at again, before everything that waits.
    #[must_use]
    pub fn again(id: i64, at_ms: i64) -> Self {
        Self { id, at_ms, plan_no: 0, zone_no: 0, charges: false }
    }
}

impl DueRow {
    /// When this subscription, or a charge of it, fires at `at_ms` for the reason `kind`.
    #[must_use]
    pub fn entry(&self, at_ms: i64, kind: NextKind) -> WheelEntry {
        let (id, plan_no, zone_no) = (self.sub.id.0, self.sub.plan_no, self.zone_no);
        WheelEntry { id, at_ms, plan_no, zone_no, charges: kind.charges() }
    }

    /// When the subscription itself fires; `None`: never.
    #[must_use]
    pub fn next_entry(&self) -> Option<WheelEntry> {
        let at = &self.sub.progress;
        at.next_at.map(|next| self.entry(next.as_millisecond(), at.next_kind))
    }
}

/// A due subscription with everything that its charge needs.
#[derive(Debug, Clone)]
pub struct DueRow {
    /// The subscription.
    pub sub: Subscription,
    /// Who sells.
    pub merchant_no: i32,
    /// The subscriber's zone.
    pub zone_no: i16,
    /// ISO 4217 numeric.
    pub currency: i16,
    /// The version of the book that the current charge is decided under, once it has an attempt.
    pub book_version: i32,
    /// What it owes in arrears: read apart, and only for plans that have some.
    pub held: Held,
    /// Periods merged and skipped before its own, the latest first: read apart, and only for plans that merge.
    pub noted: Vec<Passed>,
    /// What of them is part of its own charge, while that was not tried.
    pub merged: Merged,
    /// The line's number, sealed under the subscriber's key.
    pub msisdn_ct: Vec<u8>,
    /// What the subscriber's key is derived from.
    pub key_salt: [u8; 16],
    /// Which key-encryption key.
    pub kek_version: i16,
    /// From when on nobody has agreed any more, where consent ends.
    pub consent_until: Option<Timestamp>,
}

/// An intent with neither an outcome nor an open row.
#[derive(Debug, Clone, Copy)]
pub struct OpenIntent {
    /// Whose charge.
    pub subscription_id: i64,
    /// The attempt as it was planned.
    pub planned: Planned,
    /// ISO 4217 numeric.
    pub currency: i16,
    /// Who made it durable.
    pub incarnation: i64,
    /// The version of the book that it was decided under.
    pub book_version: i32,
    /// The database failed over since: it may have been listed and sent again in commits that are lost.
    pub failed_over: bool,
}

/// The last id and the number of rows of a chunk; of those that fire: ids, instants, plans, zones and kinds.
type Chunk = (
    Option<i64>,
    i64,
    Option<Vec<i64>>,
    Option<Vec<i64>>,
    Option<Vec<i32>>,
    Option<Vec<i16>>,
    Option<Vec<i16>>,
);

/// Whether a charge is tried when a kept kind fires.
pub(crate) fn kind_charges(kind: i16) -> bool {
    NextKind::from_number(kind).is_some_and(NextKind::charges)
}

/// One keyset chunk of a shard: entries that fire before `horizon_ms`, and the id to go on after (`None`: done).
/// Never one long statement: an old snapshot stops HOT pruning.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn refill(
    conn: &mut PgConnection,
    shard: Shard,
    after_id: i64,
    horizon_ms: i64,
    limit: i32,
) -> Result<(Vec<WheelEntry>, Option<i64>), StoreError> {
    let (_, last) = shard.id_range();
    // Plan, zone and kind stand in the row that is read anyway: no index has to hold them.
    let chunk: Chunk = sqlx::query_as(
        "SELECT max(id), count(*), array_agg(id) FILTER (WHERE next_at_ms < $3),
                array_agg(next_at_ms) FILTER (WHERE next_at_ms < $3),
                array_agg(plan_no) FILTER (WHERE next_at_ms < $3),
                array_agg(zone_no) FILTER (WHERE next_at_ms < $3),
                array_agg(next_kind) FILTER (WHERE next_at_ms < $3)
           FROM (SELECT id, next_at_ms, plan_no, zone_no, next_kind FROM subscription
                  WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $4) AS chunk",
    )
    .bind(after_id)
    .bind(last)
    .bind(horizon_ms)
    .bind(limit)
    .fetch_one(conn)
    .await?;
    let (max, seen, ids, ats, plans, zones, kinds) = chunk;
    let keys = ids.unwrap_or_default().into_iter().zip(ats.unwrap_or_default());
    let places = plans.unwrap_or_default().into_iter().zip(zones.unwrap_or_default());
    let entries = keys.zip(places).zip(kinds.unwrap_or_default());
    let entries = entries.map(|(((id, at_ms), (plan_no, zone_no)), kind)| WheelEntry {
        id,
        at_ms,
        plan_no,
        zone_no,
        charges: kind_charges(kind),
    });
    Ok((entries.collect(), max.filter(|_| seen == i64::from(limit))))
}

/// The rows of a batch, sorted by id. A row that cannot be read is given apart, with the reason: it is poison, and
/// stops nobody else. Boxed: a row passes many hands, and each would copy its 300 bytes.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn load(
    conn: &mut PgConnection,
    ids: &[i64],
) -> Result<(Vec<Box<DueRow>>, Vec<(i64, i32, String)>), StoreError> {
    let rows = sqlx::query(
        "SELECT s.id, s.subscriber_id, s.ref_seed, s.due_minor, s.collected_minor, s.next_at_ms, s.retry_at_ms,
                s.paid_until_ms, s.state_until_ms, s.stop_at_ms, s.plan_no, s.merchant_no, s.anchor_day, s.period,
                s.rev, s.flags, s.zone_no, s.anchor_minute, s.currency, s.state, s.attempt_no, s.round, s.step,
                s.open, s.deferrals, s.next_kind, r.kek_version, r.key_salt, r.msisdn_ct,
                s.book_version, s.notice_at_ms, s.anchor_done, s.tries, s.try_day, s.day_tries,
                s.consent_until_ms, s.reserved_no, s.reserved_minor, s.reserved_until_ms
           FROM subscription s JOIN subscriber r ON r.id = s.subscriber_id
          WHERE s.id = ANY ($1) ORDER BY s.id",
    )
    .bind(ids)
    .fetch_all(conn)
    .await?;
    let mut due = Vec::with_capacity(rows.len());
    let mut poison = Vec::new();
    for row in &rows {
        match due_row(row) {
            Ok(row) => due.push(Box::new(row)),
            Err(why) => poison.push((row.try_get(0)?, row.try_get(14)?, why)),
        }
    }
    Ok((due, poison))
}

/// Notes per subscription that [`load_noted`] reads: more than the periods that any charge is made of.
const NOTED_MAX: i64 = 100;

/// What [`billing_core::triage::merged_into`] wants to know of these (subscription, period), the latest first; who has
/// nothing of it is not in it.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn load_noted(
    conn: &mut PgConnection,
    keys: &[(i64, i32)],
) -> Result<HashMap<i64, Vec<Passed>>, StoreError> {
    let (ids, periods): (Vec<i64>, Vec<i32>) = keys.iter().copied().unzip();
    let rows: Vec<(i64, i32, Option<i32>, i16)> = sqlx::query_as(
        "SELECT k.id, n.period, n.before_period, n.charge_state
           FROM unnest($1, $2) AS k (id, period)
          CROSS JOIN LATERAL (
                SELECT c.period, c.before_period, c.charge_state FROM charge_note c
                 WHERE c.subscription_id = k.id AND c.period < k.period
                   AND (c.charge_state = $3 OR c.charge_state = $4 AND c.rule_id = ANY ($5))
                 ORDER BY c.period DESC LIMIT $6) AS n
          ORDER BY k.id, n.period DESC",
    )
    .bind(ids)
    .bind(periods)
    .bind(ChargeState::Merged as i16)
    .bind(ChargeState::Skipped as i16)
    .bind(&MERGE_RULES.map(|rule| rule.number())[..])
    .bind(NOTED_MAX)
    .fetch_all(conn)
    .await?;
    let mut noted: HashMap<i64, Vec<Passed>> = HashMap::new();
    for (id, first, before, charge_state) in rows {
        let (first, before) = (Period::from_number(first), before.map(Period::from_number).transpose());
        let merged = charge_state == ChargeState::Merged as i16;
        let charge_state = if merged { ChargeState::Merged } else { ChargeState::Skipped };
        if let (Ok(first), Ok(before)) = (first, before) {
            noted.entry(id).or_default().push(Passed { first, before, charge_state });
        }
    }
    Ok(noted)
}

// Unchecked: the types are those of the one query above, and comparing them again cost a fiftieth of the engine.
fn due_row(row: &PgRow) -> Result<DueRow, String> {
    let text = |error: sqlx::Error| error.to_string();
    let long = |at: usize| row.try_get_unchecked::<i64, _>(at).map_err(text);
    let int = |at: usize| row.try_get_unchecked::<i32, _>(at).map_err(text);
    let short = |at: usize| row.try_get_unchecked::<i16, _>(at).map_err(text);
    let instant = |at: usize| -> Result<Option<Timestamp>, String> {
        let ms: Option<i64> = row.try_get_unchecked(at).map_err(text)?;
        ms.map(Timestamp::from_millisecond).transpose().map_err(|error| error.to_string())
    };
    let state = short(19)?;
    let open = short(23)?;
    let next_kind = short(25)?;
    let salt: &[u8] = row.try_get(27).map_err(text)?;
    let ciphertext: &[u8] = row.try_get(28).map_err(text)?;
    Ok(DueRow {
        sub: Subscription {
            id: SubscriptionId(long(0)?),
            subscriber_id: long(1)?,
            ref_seed: RefSeed(long(2)?),
            plan_no: int(10)?,
            stop_at: instant(9)?,
            rev: int(14)?,
            flags: int(15)?,
            anchor: Anchor {
                date: date_of_days(int(12)?),
                minute: u16::try_from(short(17)?).map_err(|e| e.to_string())?,
                done: int(31)?,
            },
            progress: Progress {
                state: from_number::<SubscriptionState>(state).ok_or_else(|| format!("no state {state}"))?,
                period: Period::from_number(int(13)?).map_err(|e| e.to_string())?,
                due_minor: long(3)?,
                collected_minor: long(4)?,
                attempt_no: short(20)?,
                round: short(21)?,
                step: short(22)?,
                open: OpenAttempt::from_number(open).ok_or_else(|| format!("no open attempt kind {open}"))?,
                deferrals: short(24)?,
                paid_until: instant(7)?,
                state_until: instant(8)?,
                retry_at: instant(6)?,
                next_at: instant(5)?,
                next_kind: NextKind::from_number(next_kind)
                    .ok_or_else(|| format!("no kind of next instant {next_kind}"))?,
                tries: short(32)?,
                try_day: short(33)?,
                day_tries: short(34)?,
                reserved: reservation(row)?,
                notice_at: instant(30)?,
            },
        },
        merchant_no: int(11)?,
        zone_no: short(16)?,
        currency: short(18)?,
        book_version: int(29)?,
        held: Held::default(),
        noted: Vec::new(),
        merged: Merged::default(),
        msisdn_ct: ciphertext.to_vec(),
        key_salt: salt.try_into().map_err(|_| "key salt is not 16 bytes".to_owned())?,
        kek_version: short(26)?,
        consent_until: instant(35)?,
    })
}

fn reservation(row: &PgRow) -> Result<Option<Reservation>, String> {
    let text = |error: sqlx::Error| error.to_string();
    let Some(attempt_no) = row.try_get_unchecked::<Option<i16>, _>(36).map_err(text)? else {
        return Ok(None);
    };
    let amount_minor = row.try_get_unchecked(37).map_err(text)?;
    let until_ms = row.try_get_unchecked(38).map_err(text)?;
    let until = Timestamp::from_millisecond(until_ms).map_err(|error| error.to_string())?;
    Ok(Some(Reservation { attempt_no, amount_minor, until }))
}

/// A chunk of what a dead worker left behind in a shard, in key order after the given key.
///
/// # Errors
/// [`StoreError`] when the database is away, [`StoreError::Broken`] when an intent cannot be read.
pub async fn open_intents(
    conn: &mut PgConnection,
    shard: Shard,
    after: (i64, i32, i16),
    limit: i32,
) -> Result<Vec<OpenIntent>, StoreError> {
    type Row = (i64, i32, i16, i16, i64, i16, i16, i16, i64, i64, i64, i32, i16, bool);
    let rows: Vec<Row> = sqlx::query_as("SELECT * FROM open_intents($1, $2, $3, $4, $5)")
        .bind(shard.0)
        .bind(after.0)
        .bind(after.1)
        .bind(after.2)
        .bind(limit)
        .fetch_all(conn)
        .await?;
    let broken = |what: &dyn std::fmt::Display| StoreError::Broken(format!("intent: {what}"));
    rows.into_iter()
        .map(
            |(
                subscription_id,
                period,
                attempt_no,
                op,
                amount_minor,
                currency,
                round,
                step,
                before,
                after,
                incarnation,
                book_version,
                parent_no,
                failed_over,
            )| {
                let op = Op::from_number(op)
                    .ok_or_else(|| broken(&format!("operation {op} is not one of this version")))?;
                Ok(OpenIntent {
                    subscription_id,
                    planned: Planned {
                        op,
                        period: Period::from_number(period).map_err(|e| broken(&e))?,
                        attempt_no,
                        parent_no,
                        amount_minor,
                        round,
                        step,
                        not_before: Timestamp::from_millisecond(before).map_err(|e| broken(&e))?,
                        not_after: Timestamp::from_millisecond(after).map_err(|e| broken(&e))?,
                    },
                    currency,
                    incarnation,
                    book_version,
                    failed_over,
                })
            },
        )
        .collect()
}
