//! The shard inbox: what everybody but the owner wants of a shard.

use billing_core::ids::Shard;
use billing_core::period::Period;
use sqlx::Row;
use sqlx::postgres::PgConnection;

use super::StoreError;

/// What an inbox row asks for. The number is what the database keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i16)]
pub enum InboxKind {
    /// New subscriptions: payload is the first and last id, big-endian.
    Created = 1,
    /// Someone said stop.
    Stop = 2,
    /// Evidence on an attempt: payload is what the sender knows.
    Evidence = 3,
    /// Pause: payload is until when (business milliseconds, big-endian), or empty.
    Pause = 4,
    /// Resume what is paused or suspended.
    Resume = 5,
    /// The subscriber topped up: payload is when (business milliseconds, big-endian).
    TopUp = 6,
    /// A refund is wanted: payload says of what.
    Refund = 16,
    /// Another zone, day, hour, plan or carrier: payload says which.
    Move = 20,
    /// The carrier took money back: payload says of what.
    Reversal = 21,
    /// Consent was set: what rested for the want of it may go on.
    Consent = 22,
}

impl InboxKind {
    pub(crate) const ALL: [Self; 10] = [
        Self::Created,
        Self::Stop,
        Self::Evidence,
        Self::Pause,
        Self::Resume,
        Self::TopUp,
        Self::Refund,
        Self::Move,
        Self::Reversal,
        Self::Consent,
    ];
}

/// A row of the inbox.
#[derive(Debug, Clone)]
pub struct InboxRow {
    /// Its id within the shard.
    pub id: i64,
    /// The shard.
    pub shard: Shard,
    /// What it asks for; `None` for a kind that this version does not know (left alone).
    pub kind: Option<InboxKind>,
    /// Whom it is about.
    pub subscription_id: i64,
    /// By kind.
    pub payload: Vec<u8>,
}

/// The oldest rows of these shards' inboxes after a row id.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn read_inbox(
    conn: &mut PgConnection,
    shards: &[i32],
    after: i64,
    limit: i32,
) -> Result<Vec<InboxRow>, StoreError> {
    let rows = sqlx::query(
        "SELECT id, shard, kind, subscription_id, payload FROM shard_inbox WHERE shard = ANY ($1) AND id > $2 ORDER BY id LIMIT $3",
    )
    .bind(shards)
    .bind(after)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| {
            let kind: i16 = row.try_get(2)?;
            Ok(InboxRow {
                id: row.try_get(0)?,
                shard: Shard(row.try_get(1)?),
                kind: InboxKind::ALL.into_iter().find(|k| *k as i16 == kind),
                subscription_id: row.try_get(3)?,
                payload: row.try_get(4)?,
            })
        })
        .collect()
}

/// Removes rows that needed no change of a subscription (a new one is in the wheel already).
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn drop_inbox(conn: &mut PgConnection, shard: Shard, ids: &[i64]) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM shard_inbox WHERE shard = $1 AND id = ANY ($2)")
        .bind(shard.0)
        .bind(ids)
        .execute(conn)
        .await?;
    Ok(())
}

/// Puts evidence into the inbox of a shard that another worker owns.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn post_evidence(
    conn: &mut PgConnection,
    subscription_id: i64,
    payload: &[u8],
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO shard_inbox (shard, kind, subscription_id, payload) VALUES ($1, $2, $3, $4)")
        .bind((subscription_id >> 32) as i32)
        .bind(InboxKind::Evidence as i16)
        .bind(subscription_id)
        .bind(payload)
        .execute(conn)
        .await?;
    Ok(())
}

/// STOP: works while no worker is alive. Gives the instant of the stop (business milliseconds), `None` when there is
/// no such subscription.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn stop_subscription(
    conn: &mut PgConnection,
    subscription_id: i64,
    business_at_ms: i64,
) -> Result<Option<i64>, StoreError> {
    let stopped = sqlx::query_scalar("SELECT stop_subscription($1, $2)");
    Ok(stopped.bind(subscription_id).bind(business_at_ms).fetch_one(conn).await?)
}

/// Asks the owner of a subscription's shard to pause it (until an instant in business milliseconds, or until it is
/// resumed) or to resume it.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn post_wish(
    conn: &mut PgConnection,
    subscription_id: i64,
    kind: InboxKind,
    at_ms: Option<i64>,
) -> Result<(), StoreError> {
    let payload = at_ms.map(i64::to_be_bytes);
    sqlx::query("INSERT INTO shard_inbox (shard, kind, subscription_id, payload) VALUES ($1, $2, $3, $4)")
        .bind((subscription_id >> 32) as i32)
        .bind(kind as i16)
        .bind(subscription_id)
        .bind(payload.as_ref().map_or(&[][..], |bytes| bytes.as_slice()))
        .execute(conn)
        .await?;
    Ok(())
}

/// Tells the owner of a subscription's shard that the subscriber topped up at an instant (business milliseconds). A
/// notice with an id (1 to 64 characters) counts once: `Some(false)` when it was there already; `None` when there is
/// no such subscription.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn post_top_up(
    conn: &mut PgConnection,
    subscription_id: i64,
    notice: Option<&str>,
    at_ms: i64,
) -> Result<Option<bool>, StoreError> {
    let posted = sqlx::query_scalar("SELECT post_top_up($1, $2, $3)");
    Ok(posted.bind(subscription_id).bind(notice).bind(at_ms.to_be_bytes().as_slice()).fetch_one(conn).await?)
}

/// Asks the owner of a subscription's shard to move it; the payload says how. `whole_line`: all subscriptions of the
/// same subscriber that are not over. Gives how many were asked.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn ask_move(
    conn: &mut PgConnection,
    subscription_id: i64,
    payload: &[u8],
    whole_line: bool,
) -> Result<u64, StoreError> {
    let asked = sqlx::query(
        "INSERT INTO shard_inbox (shard, kind, subscription_id, payload)
         SELECT (s.id >> 32)::int, $2, s.id, $3 FROM subscription s
          WHERE s.id = $1
             OR $4 AND s.state NOT IN (9, 10)
                AND s.subscriber_id = (SELECT subscriber_id FROM subscription WHERE id = $1)",
    );
    let asked = asked.bind(subscription_id).bind(InboxKind::Move as i16).bind(payload).bind(whole_line);
    Ok(asked.execute(conn).await?.rows_affected())
}

/// Until when somebody has agreed (business milliseconds, `None` without end): holds at once, also while no worker is
/// alive. `Some(false)`: it is stopped or over; `None`: there is no such subscription.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn set_consent(
    conn: &mut PgConnection,
    subscription_id: i64,
    until_ms: Option<i64>,
) -> Result<Option<bool>, StoreError> {
    let set = sqlx::query_scalar("SELECT set_consent($1, $2)");
    Ok(set.bind(subscription_id).bind(until_ms).fetch_one(conn).await?)
}

/// The rule of the note that a subscription's revision `rev` was changed by, if it was a note on this period.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn last_note_rule(
    conn: &mut PgConnection,
    subscription_id: i64,
    period: Period,
    rev: i32,
) -> Result<Option<i16>, StoreError> {
    let rule = sqlx::query_scalar(
        "SELECT rule_id FROM charge_note WHERE subscription_id = $1 AND period = $2 AND rev = $3",
    );
    Ok(rule.bind(subscription_id).bind(period.number()).bind(rev).fetch_optional(conn).await?)
}
