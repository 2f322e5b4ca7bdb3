//! Refunds: the charge's own row, and the intent that is made durable together with the raised amount in it.

use billing_core::ids::{ChargeId, SubscriptionId};
use billing_core::period::Period;
use billing_core::states::{ChargeState, from_number};
use billing_core::subscription::{Aside, NextKind, OpenAttempt, Planned};
use jiff::Timestamp;
use sqlx::Row;
use sqlx::postgres::PgConnection;

use super::workers::Lease;
use super::{StoreError, Verdict};

/// The refund's part of a record: the charge's own row afterwards.
#[derive(Debug, Default)]
pub(super) struct RefundColumns {
    pub(super) places: Vec<i32>,
    pub(super) refundeds: Vec<i64>,
    pub(super) attempt_nos: Vec<i16>,
    pub(super) opens: Vec<i16>,
    pub(super) next_ats: Vec<Option<i64>>,
    pub(super) next_kinds: Vec<i16>,
}

impl RefundColumns {
    pub(super) fn push(&mut self, place: i32, after: &Aside) {
        self.places.push(place);
        self.refundeds.push(after.refunded_minor);
        self.attempt_nos.push(after.attempt_no);
        self.opens.push(after.open as i16);
        self.next_ats.push(after.next_at.map(Timestamp::as_millisecond));
        self.next_kinds.push(after.next_kind as i16);
    }
}

/// A refund's intent.
#[derive(Debug, Clone, Copy)]
pub struct BeginRefund<'a> {
    /// The subscription's `rev` as loaded.
    pub rev: i32,
    /// The refund.
    pub planned: &'a Planned,
    /// The charge's own row with the refund's amount held in it.
    pub aside: &'a Aside,
    /// ISO 4217 numeric.
    pub currency: i16,
    /// Digest of the money fields.
    pub digest: [u8; 16],
    /// The rule that decided to send.
    pub rule: i16,
    /// The version of the book that it is decided under.
    pub book_version: i32,
    /// The inbox row that asked for it; deleted in the same commit.
    pub inbox_id: i64,
}

/// Makes a refund's intent durable, under the lock of its charge's row. [`Verdict::StaleRev`]: the rows say otherwise by
/// now; read them again.
///
/// # Errors
/// As for [`BeginBatch::begin`](super::BeginBatch::begin).
pub async fn begin_refund(
    conn: &mut PgConnection,
    lease: &Lease,
    business_at_ms: i64,
    row: &BeginRefund<'_>,
) -> Result<Verdict, StoreError> {
    let (planned, aside) = (row.planned, row.aside);
    let digest = u128::from_be_bytes(row.digest);
    let verdict: i16 = sqlx::query_scalar(
        "SELECT begin_refund($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17,$18,$19,$20,$21,$22,$23)",
    )
    .bind(lease.slot)
    .bind(lease.incarnation)
    .bind(lease.epoch)
    .bind(business_at_ms)
    .bind(aside.charge.subscription.0)
    .bind(row.rev)
    .bind(planned.period.number())
    .bind(planned.attempt_no)
    .bind(planned.parent_no)
    .bind(planned.amount_minor)
    .bind(row.currency)
    .bind((digest >> 64) as i64)
    .bind(digest as i64)
    .bind(planned.not_before.as_millisecond())
    .bind(planned.not_after.as_millisecond())
    .bind(row.rule)
    .bind(row.book_version)
    .bind(aside.due_minor)
    .bind(aside.collected_minor)
    .bind(aside.round)
    .bind(aside.step)
    .bind(aside.state as i16)
    .bind(row.inbox_id)
    .fetch_one(conn)
    .await?;
    Ok(Verdict::from_number(verdict))
}

/// The row of a charge that has one of its own; `None` when it has none.
///
/// # Errors
/// [`StoreError`] when the database is away, [`StoreError::Broken`] when the row cannot be read.
pub async fn load_aside(
    conn: &mut PgConnection,
    subscription_id: i64,
    period: Period,
) -> Result<Option<Aside>, StoreError> {
    let row = sqlx::query(
        "SELECT due_minor, collected_minor, refunded_minor, reversed_minor, attempt_no, round, step, open, state,
                next_at_ms, next_kind, expires_at_ms
           FROM charge_aside WHERE subscription_id = $1 AND period = $2",
    )
    .bind(subscription_id)
    .bind(period.number())
    .fetch_optional(conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let broken = |what: String| StoreError::Broken(format!("charge aside: {what}"));
    let instant = |at: usize| -> Result<Option<Timestamp>, StoreError> {
        let ms: Option<i64> = row.try_get(at)?;
        ms.map(Timestamp::from_millisecond).transpose().map_err(|error| broken(error.to_string()))
    };
    let (open, state, next_kind): (i16, i16, i16) = (row.try_get(7)?, row.try_get(8)?, row.try_get(10)?);
    Ok(Some(Aside {
        charge: ChargeId { subscription: SubscriptionId(subscription_id), period },
        due_minor: row.try_get(0)?,
        collected_minor: row.try_get(1)?,
        refunded_minor: row.try_get(2)?,
        reversed_minor: row.try_get(3)?,
        attempt_no: row.try_get(4)?,
        round: row.try_get(5)?,
        step: row.try_get(6)?,
        open: OpenAttempt::from_number(open).ok_or_else(|| broken(format!("no open attempt kind {open}")))?,
        state: from_number::<ChargeState>(state).ok_or_else(|| broken(format!("no state {state}")))?,
        next_at: instant(9)?,
        next_kind: NextKind::from_number(next_kind)
            .ok_or_else(|| broken(format!("no kind of next instant {next_kind}")))?,
        expires_at: instant(11)?,
    }))
}

/// Asks a shard's owner for a refund; the payload says which.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn ask_refund(
    conn: &mut PgConnection,
    subscription_id: i64,
    payload: &[u8],
) -> Result<i64, StoreError> {
    let asked = sqlx::query_scalar(
        "INSERT INTO shard_inbox (shard, kind, subscription_id, payload) VALUES ($1, $2, $3, $4) RETURNING id",
    );
    Ok(asked
        .bind((subscription_id >> 32) as i32)
        .bind(super::InboxKind::Refund as i16)
        .bind(subscription_id)
        .bind(payload)
        .fetch_one(conn)
        .await?)
}

/// What the carrier called an attempt; `None` when it named none, or nothing came back.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn carrier_txn_id(
    conn: &mut PgConnection,
    subscription_id: i64,
    period: Period,
    attempt_no: i16,
) -> Result<Option<String>, StoreError> {
    let named: Option<Option<String>> = sqlx::query_scalar(
        "SELECT carrier_txn_id FROM attempt_outcome WHERE subscription_id = $1 AND period = $2 AND attempt_no = $3",
    )
    .bind(subscription_id)
    .bind(period.number())
    .bind(attempt_no)
    .fetch_optional(conn)
    .await?;
    Ok(named.flatten())
}
