//! Cases for people, quarantine, and the open attempts whose answer this spool may hold.

use sqlx::postgres::PgConnection;

use super::StoreError;
use super::workers::Lease;

/// Opens a case.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn open_case(
    conn: &mut PgConnection,
    subscription_id: i64,
    attempt: Option<(i32, i16)>,
    kind: &str,
    what: &str,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO case_file (subscription_id, period, attempt_no, kind, what) VALUES ($1, $2, $3, $4, left($5, 1000))")
        .bind(subscription_id)
        .bind(attempt.map(|a| a.0))
        .bind(attempt.map(|a| a.1))
        .bind(kind)
        .bind(what)
        .execute(conn)
        .await?;
    Ok(())
}

/// Quarantines a poison subscription with a case; an attempt of it that was on its way stays UNKNOWN. `false` when the
/// row changed meanwhile or is not ours.
///
/// # Errors
/// [`StoreError::Fenced`] when the lease is over.
pub async fn quarantine(
    conn: &mut PgConnection,
    lease: &Lease,
    subscription_id: i64,
    rev: i32,
    attempt: Option<(i32, i16)>,
    why: &str,
) -> Result<bool, StoreError> {
    let done = sqlx::query_scalar("SELECT quarantine($1, $2, $3, $4, $5, $6, $7, $8)");
    Ok(done
        .bind(lease.slot)
        .bind(lease.incarnation)
        .bind(lease.epoch)
        .bind(subscription_id)
        .bind(rev)
        .bind(attempt.map_or(-1, |a| a.0))
        .bind(attempt.map_or(0, |a| a.1))
        .bind(why)
        .fetch_one(conn)
        .await?)
}

/// An open attempt that a former incarnation of this spool sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LateEvidenceKey {
    /// Whose charge.
    pub subscription_id: i64,
    /// Which period.
    pub period: i32,
    /// Which attempt.
    pub attempt_no: i16,
    /// What the subscriber's key is derived from.
    pub key_salt: Vec<u8>,
    /// Which key-encryption key.
    pub kek_version: i16,
}

/// Unknown attempts that incarnations with this spool sent, other than the given one: their answers may lie in it.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn own_open_attempts(
    conn: &mut PgConnection,
    host: &str,
    spool: &str,
    incarnation: i64,
    limit: i32,
) -> Result<Vec<LateEvidenceKey>, StoreError> {
    let rows: Vec<(i64, i32, i16, Vec<u8>, i16)> = sqlx::query_as(
        "SELECT o.subscription_id, o.period, o.attempt_no, r.key_salt, r.kek_version
           FROM attempt_open o
           JOIN attempt_intent i
             ON i.subscription_id = o.subscription_id AND i.period = o.period AND i.attempt_no = o.attempt_no
           JOIN worker_incarnation w ON w.incarnation = i.incarnation
           JOIN subscription s ON s.id = o.subscription_id
           JOIN subscriber r ON r.id = s.subscriber_id
          WHERE o.kind IN (2, 3) AND o.reason = 84 AND w.host = $1 AND w.spool = $2 AND w.incarnation <> $3
          LIMIT $4",
    )
    .bind(host)
    .bind(spool)
    .bind(incarnation)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(subscription_id, period, attempt_no, key_salt, kek_version)| LateEvidenceKey {
            subscription_id,
            period,
            attempt_no,
            key_salt,
            kek_version,
        })
        .collect())
}
