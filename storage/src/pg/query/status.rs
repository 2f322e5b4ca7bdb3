//! Counts for `toll status`.

use sqlx::Connection;
use sqlx::postgres::PgConnection;

use super::super::StoreError;

row! {
    /// Subscriptions in a state.
    pub struct StateCount {
        /// The state.
        pub state: i16,
        /// How many.
        pub count: i64,
        /// How many of them are due now.
        pub due: i64,
        /// How many of them are quarantined.
        pub quarantined: i64,
    }
}

/// Subscriptions by state; reads all of them, so it is given up after `timeout_ms`: then `None`.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn subscription_counts(
    conn: &mut PgConnection,
    business_ms: i64,
    timeout_ms: u32,
) -> Result<Option<Vec<StateCount>>, StoreError> {
    let mut tx = conn.begin().await?;
    sqlx::query("SELECT set_config('statement_timeout', $1, true)")
        .bind(timeout_ms.to_string())
        .execute(&mut *tx)
        .await?;
    let counted = sqlx::query_as(
        "SELECT state, count(*) AS count, count(*) FILTER (WHERE next_at_ms <= $1 AND flags & 1 = 0) AS due,
                count(*) FILTER (WHERE flags & 1 = 1) AS quarantined
           FROM subscription GROUP BY state ORDER BY state",
    )
    .bind(business_ms)
    .fetch_all(&mut *tx)
    .await;
    tx.rollback().await?;
    match counted {
        Ok(counts) => Ok(Some(counts)),
        Err(error) if error.as_database_error().and_then(|e| e.code()).as_deref() == Some("57014") => {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

row! {
    /// Open attempts of a kind in a currency.
    pub struct OpenSum {
        /// 1 accepted, 2 unknown, 3 in review.
        pub kind: i16,
        /// ISO 4217 numeric.
        pub currency: i16,
        /// How many.
        pub count: i64,
        /// What was asked for, minor units.
        pub amount_minor: i64,
        /// Since when the oldest is open, machine microseconds.
        pub oldest_us: i64,
    }
}

/// Open attempts per kind and currency.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn open_sums(conn: &mut PgConnection) -> Result<Vec<OpenSum>, StoreError> {
    let rows = sqlx::query_as(
        "SELECT kind, currency, count(*) AS count, sum(amount_minor)::bigint AS amount_minor,
                (extract(epoch FROM min(since)) * 1000000)::bigint AS oldest_us
           FROM attempt_open GROUP BY kind, currency ORDER BY kind, currency",
    );
    Ok(rows.fetch_all(conn).await?)
}

/// Intents with neither an outcome nor an open row: on their way, or left behind by a dead worker. Looks only behind
/// the low water of the shards; counts at most `limit`.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn intents_without_answer(conn: &mut PgConnection, limit: i64) -> Result<i64, StoreError> {
    let count = sqlx::query_scalar(
        "SELECT count(*) FROM (
             SELECT FROM attempt_intent i
              WHERE i.intent_at >= (SELECT min(low_water) FROM shard_progress)
                AND NOT EXISTS (SELECT FROM attempt_outcome o WHERE o.subscription_id = i.subscription_id
                                   AND o.period = i.period AND o.attempt_no = i.attempt_no)
                AND NOT EXISTS (SELECT FROM attempt_open o WHERE o.subscription_id = i.subscription_id
                                   AND o.period = i.period AND o.attempt_no = i.attempt_no)
              LIMIT $1) AS unanswered",
    );
    Ok(count.bind(limit).fetch_one(conn).await?)
}

row! {
    /// Cases of a kind.
    pub struct CaseCount {
        /// The kind.
        pub kind: String,
        /// How many.
        pub count: i64,
    }
}

/// Cases per kind.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn case_counts(conn: &mut PgConnection) -> Result<Vec<CaseCount>, StoreError> {
    Ok(sqlx::query_as("SELECT kind, count(*) AS count FROM case_file GROUP BY kind ORDER BY kind")
        .fetch_all(conn)
        .await?)
}

/// Every zone with its number.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn zones(conn: &mut PgConnection) -> Result<Vec<(i16, String)>, StoreError> {
    Ok(sqlx::query_as("SELECT zone_no, name FROM zone ORDER BY zone_no").fetch_all(conn).await?)
}

row! {
    /// Attempts of a carrier with one result.
    pub struct DayRow {
        /// The carrier's id.
        pub carrier: String,
        /// ISO 4217 numeric.
        pub currency: i16,
        /// The attempts' state.
        pub class: i16,
        /// The outcomes' detail.
        pub reason: i16,
        /// How many.
        pub count: i64,
        /// What moved, minor units.
        pub amount_minor: i64,
    }
}

/// Attempts per carrier and result, from the minute counts: of each zone those since an instant of its own (number,
/// business milliseconds).
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn charges_since(conn: &mut PgConnection, since: &[(i16, i64)]) -> Result<Vec<DayRow>, StoreError> {
    let Some(earliest_ms) = since.iter().map(|(_, from_ms)| *from_ms).min() else { return Ok(Vec::new()) };
    let rows = sqlx::query_as(
        "SELECT c.id AS carrier, c.currency, m.class, m.reason, sum(m.count)::bigint AS count,
                sum(m.amount_minor)::bigint AS amount_minor
           FROM charge_minute m
           JOIN unnest($1::int2[], $2::int8[]) AS z (zone_no, from_ms)
             ON z.zone_no = m.zone_no AND m.minute_ms >= z.from_ms
           JOIN carrier c ON c.carrier_no = m.carrier_no
          WHERE m.minute_ms >= $3
          GROUP BY c.id, c.currency, m.class, m.reason ORDER BY c.id, m.class, m.reason",
    );
    Ok(rows
        .bind(since.iter().map(|(zone_no, _)| *zone_no).collect::<Vec<_>>())
        .bind(since.iter().map(|(_, from_ms)| *from_ms).collect::<Vec<_>>())
        .bind(earliest_ms)
        .fetch_all(conn)
        .await?)
}
