//! What people did: a chain of rows, each in the commit of its act.

use sqlx::postgres::PgConnection;

use super::StoreError;

/// Who acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The name that was given, else the account's; 1 to 64 characters.
    pub who: String,
    /// The account of the machine: `ana@host`.
    pub account: String,
}

row! {
    /// An act.
    pub struct AuditRow {
        /// Its place in the chain, from 1 on.
        pub seq: i64,
        /// Machine time, microseconds.
        pub at_us: i64,
        /// The name that was given, else the account's.
        pub who: String,
        /// The account of the machine.
        pub account: String,
        /// What was done.
        pub act: String,
        /// What it was done to: an id as commands print it.
        pub subject: String,
        /// JSON.
        pub details: String,
        /// Covers the row and the one before it, in hexadecimal.
        pub digest: String,
    }
}

/// Adds an act to the chain. To be called in the transaction of the act, last: the chain is locked until its commit.
///
/// # Errors
/// [`StoreError`] when the database is away or refuses.
pub async fn audit(
    conn: &mut PgConnection,
    actor: &Actor,
    act: &str,
    subject: &str,
    details: &str,
) -> Result<i64, StoreError> {
    let added = sqlx::query_scalar("SELECT audit($1, $2, $3, $4, $5)");
    Ok(added
        .bind(&actor.who)
        .bind(&actor.account)
        .bind(act)
        .bind(subject)
        .bind(details)
        .fetch_one(conn)
        .await?)
}

/// The latest acts, oldest first, at most `limit`.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn audit_rows(conn: &mut PgConnection, limit: i64) -> Result<Vec<AuditRow>, StoreError> {
    let rows = sqlx::query_as(
        "SELECT * FROM (SELECT seq, (extract(epoch FROM at) * 1000000)::bigint AS at_us, who, account, act, subject,
                               details, encode(digest, 'hex') AS digest
                          FROM audit_log ORDER BY seq DESC LIMIT $1) AS latest ORDER BY seq",
    );
    Ok(rows.bind(limit).fetch_all(conn).await?)
}

/// Where the chain is broken, and why; empty when it is whole. Gives also its last place and digest.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn verify_audit(conn: &mut PgConnection) -> Result<(Vec<(i64, String)>, i64, String), StoreError> {
    let broken =
        sqlx::query_as("SELECT seq, what FROM verify_audit() LIMIT 1000").fetch_all(&mut *conn).await?;
    let (seq, digest) =
        sqlx::query_as("SELECT seq, encode(digest, 'hex') FROM audit_head").fetch_one(conn).await?;
    Ok((broken, seq, digest))
}

/// The digest of a place in the chain, in hexadecimal; `None` when there is no such row.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn audit_digest_at(conn: &mut PgConnection, seq: i64) -> Result<Option<String>, StoreError> {
    let digest = sqlx::query_scalar("SELECT encode(digest, 'hex') FROM audit_log WHERE seq = $1");
    Ok(digest.bind(seq).fetch_optional(conn).await?)
}
