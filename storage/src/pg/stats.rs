//! Minute counts: summed in memory, appended every few seconds. For status and charts, never for money.

use sqlx::postgres::PgConnection;

use super::StoreError;

/// A count of attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MinuteRow {
    /// Start of the business minute, milliseconds.
    pub minute_ms: i64,
    /// The carrier.
    pub carrier_no: i32,
    /// The plan.
    pub plan_no: i32,
    /// The subscribers' zone.
    pub zone_no: i16,
    /// The attempts' state.
    pub class: i16,
    /// The outcomes' detail.
    pub reason: i16,
    /// Where the charges stood then.
    pub charge_state: i16,
    /// How many.
    pub count: i64,
    /// What moved, minor units of the plan's currency.
    pub amount_minor: i64,
}

/// Appends minute counts.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn append_minutes(
    conn: &mut PgConnection,
    incarnation: i64,
    rows: &[MinuteRow],
) -> Result<(), StoreError> {
    macro_rules! column {
        ($field:ident) => {
            rows.iter().map(|row| row.$field).collect::<Vec<_>>()
        };
    }
    sqlx::query(
        "INSERT INTO charge_minute (minute_ms, count, amount_minor, incarnation, carrier_no, plan_no, zone_no, class, reason, charge_state)
         SELECT m, n, a, $1, c, p, z, k, r, s
           FROM unnest($2::int8[], $3::int8[], $4::int8[], $5::int4[], $6::int4[], $7::int2[], $8::int2[], $9::int2[], $10::int2[])
                AS u (m, n, a, c, p, z, k, r, s)",
    )
    .bind(incarnation)
    .bind(column!(minute_ms))
    .bind(column!(count))
    .bind(column!(amount_minor))
    .bind(column!(carrier_no))
    .bind(column!(plan_no))
    .bind(column!(zone_no))
    .bind(column!(class))
    .bind(column!(reason))
    .bind(column!(charge_state))
    .execute(conn)
    .await?;
    Ok(())
}

/// Deletes minute counts before a business instant (milliseconds), at most `limit` rows; gives how many.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn trim_minutes(conn: &mut PgConnection, before_ms: i64, limit: i32) -> Result<i32, StoreError> {
    let trimmed = sqlx::query_scalar("SELECT trim_minutes($1, $2)");
    Ok(trimmed.bind(before_ms).bind(limit).fetch_one(conn).await?)
}
