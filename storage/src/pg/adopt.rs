//! The intent by which money that is recorded as not moved blocks its charge, until people settle it.

use billing_core::subscription::{Aside, Planned};
use sqlx::postgres::PgConnection;

use super::workers::Lease;
use super::{StoreError, Verdict};

/// An adoption's intent.
#[derive(Debug, Clone, Copy)]
pub struct BeginAdopt<'a> {
    /// The subscription's `rev` as loaded.
    pub rev: i32,
    /// The adoption.
    pub planned: &'a Planned,
    /// The charge's own row as it is, or as it is to be made where the charge is not current any more.
    pub aside: &'a Aside,
    /// ISO 4217 numeric.
    pub currency: i16,
    /// Digest of the money fields.
    pub digest: [u8; 16],
    /// The rule that decided.
    pub rule: i16,
    /// The version of the book that it is decided under.
    pub book_version: i32,
    /// The inbox row that brought the evidence; deleted in the same commit.
    pub inbox_id: i64,
    /// For the case that is opened in the same commit.
    pub what: &'a str,
}

/// Makes an adoption durable. [`Verdict::StaleRev`]: the rows say otherwise by now; read them again.
///
/// # Errors
/// As for [`BeginBatch::begin`](super::BeginBatch::begin).
pub async fn begin_adopt(
    conn: &mut PgConnection,
    lease: &Lease,
    business_at_ms: i64,
    row: &BeginAdopt<'_>,
) -> Result<Verdict, StoreError> {
    let (planned, aside) = (row.planned, row.aside);
    let digest = u128::from_be_bytes(row.digest);
    let verdict: i16 = sqlx::query_scalar(
        "SELECT begin_adopt($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17,$18,$19,$20,$21,$22)",
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
    .bind(row.rule)
    .bind(row.book_version)
    .bind(aside.due_minor)
    .bind(aside.collected_minor)
    .bind(aside.round)
    .bind(aside.step)
    .bind(aside.state as i16)
    .bind(row.inbox_id)
    .bind(row.what)
    .fetch_one(conn)
    .await?;
    Ok(Verdict::from_number(verdict))
}
