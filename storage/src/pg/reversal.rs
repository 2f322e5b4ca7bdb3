//! Money that carriers took back: what is kept of it, and the wish to book it.

use billing_core::period::Period;
use sqlx::postgres::PgConnection;

use super::{InboxKind, StoreError};

row! {
    /// A reversal that is booked.
    pub struct KeptReversal {
        /// Whose charge.
        pub subscription_id: i64,
        /// Which period.
        pub period: i32,
        /// Its number within the charge, from 1.
        pub reversal_no: i16,
        /// How much, minor units.
        pub amount_minor: i64,
        /// What the carrier calls it.
        pub reference: String,
    }
}

/// The most reversals of one charge that are read.
const OF_CHARGE_MAX: i64 = 1_000;

/// What a carrier took back of a charge, in the sequence in which it was booked.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn reversals_of(
    conn: &mut PgConnection,
    subscription_id: i64,
    period: Period,
) -> Result<Vec<KeptReversal>, StoreError> {
    let rows = sqlx::query_as(
        "SELECT subscription_id, period, reversal_no, amount_minor, reference FROM charge_reversal
          WHERE subscription_id = $1 AND period = $2 ORDER BY reversal_no LIMIT $3",
    );
    Ok(rows.bind(subscription_id).bind(period.number()).bind(OF_CHARGE_MAX).fetch_all(conn).await?)
}

/// The reversal that a carrier calls so; `None` when none is booked.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn reversal_by_reference(
    conn: &mut PgConnection,
    carrier_no: i32,
    reference: &str,
) -> Result<Option<KeptReversal>, StoreError> {
    let row = sqlx::query_as(
        "SELECT subscription_id, period, reversal_no, amount_minor, reference FROM charge_reversal
          WHERE reference = $1 AND subscription_id >> 44 = $2 LIMIT 1",
    );
    Ok(row.bind(reference).bind(i64::from(carrier_no)).fetch_optional(conn).await?)
}

/// Asks a shard's owner to book a reversal; the payload says which.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn ask_reversal(
    conn: &mut PgConnection,
    subscription_id: i64,
    payload: &[u8],
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO shard_inbox (shard, kind, subscription_id, payload) VALUES ($1, $2, $3, $4)")
        .bind((subscription_id >> 32) as i32)
        .bind(InboxKind::Reversal as i16)
        .bind(subscription_id)
        .bind(payload)
        .execute(conn)
        .await?;
    Ok(())
}
