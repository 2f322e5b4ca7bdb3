//! What carriers send by themselves: kept before it is acknowledged, then matched.

use sqlx::Row;
use sqlx::postgres::PgConnection;

use super::StoreError;

/// What became of a message. The number is what the database keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i16)]
pub enum CallbackState {
    /// Kept, not looked at.
    New = 0,
    /// Given to the owner of the shard as evidence.
    Given = 1,
    /// Says what is recorded already.
    Duplicate = 2,
    /// Says nothing that counts: another kind of message, or a code that is not in the carrier's table.
    Refused = 3,
    /// Its sender is not known: something to ask about, never evidence.
    Hint = 4,
    /// Contradicts the attempt, or what is recorded of it: a case.
    Conflict = 5,
    /// About no attempt of ours.
    Unmatched = 6,
}

impl CallbackState {
    /// The word for metrics and commands.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Given => "given",
            Self::Duplicate => "duplicate",
            Self::Refused => "refused",
            Self::Hint => "hint",
            Self::Conflict => "conflict",
            Self::Unmatched => "unmatched",
        }
    }
}

/// A message to keep.
#[derive(Debug, Clone)]
pub struct NewCallback {
    /// Whose.
    pub carrier_no: i32,
    /// Two messages with the same one are one: digest of the carrier's id of the message and of what it says.
    pub fact: [u8; 32],
    /// Its sender is known.
    pub authenticated: bool,
    /// [`CallbackState::New`], or [`CallbackState::Refused`] for what needs no look.
    pub state: CallbackState,
    /// Headers and body, sealed.
    pub sealed: Vec<u8>,
    /// Under which key-encryption key.
    pub kek_version: i16,
    /// The carrier's id of the attempt, at most 64 characters.
    pub carrier_txn_id: Option<String>,
}

/// A message that nobody has looked at, or whose attempt was not there.
#[derive(Debug, Clone)]
pub struct KeptCallback {
    /// Its number.
    pub id: i64,
    /// Whose.
    pub carrier_no: i32,
    /// See [`NewCallback::fact`].
    pub fact: Vec<u8>,
    /// Its sender is known.
    pub authenticated: bool,
    /// Headers and body, sealed.
    pub sealed: Vec<u8>,
    /// Under which key-encryption key.
    pub kek_version: i16,
    /// When it came, by the database's clock, microseconds since 1970.
    pub received_at_us: i64,
    /// How old it is, milliseconds.
    pub age_ms: i64,
}

/// Which attempt a message is about, and what follows from it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallbackSettled {
    /// Subscription, period, attempt number.
    pub attempt: Option<(i64, i32, i16)>,
    /// For the owner of the shard.
    pub evidence: Option<Vec<u8>>,
    /// For people: the kind of the case, and what they must look at.
    pub case: Option<(&'static str, String)>,
}

/// Keeps messages; in one commit. Says of each whether it is new: the others are duplicates.
///
/// # Errors
/// [`StoreError`] when the database is away: nothing may be acknowledged then.
pub async fn keep_callbacks(conn: &mut PgConnection, new: &[NewCallback]) -> Result<Vec<bool>, StoreError> {
    let rows = sqlx::query(
        "INSERT INTO callback_inbox (carrier_no, fact, authenticated, state, sealed, kek_version, carrier_txn_id)
         SELECT * FROM unnest($1::int[], $2::bytea[], $3::bool[], $4::int2[], $5::bytea[], $6::int2[], $7::text[])
             ON CONFLICT (carrier_no, fact) DO NOTHING
         RETURNING carrier_no, fact",
    )
    .bind(new.iter().map(|row| row.carrier_no).collect::<Vec<_>>())
    .bind(new.iter().map(|row| row.fact.to_vec()).collect::<Vec<_>>())
    .bind(new.iter().map(|row| row.authenticated).collect::<Vec<_>>())
    .bind(new.iter().map(|row| row.state as i16).collect::<Vec<_>>())
    .bind(new.iter().map(|row| row.sealed.clone()).collect::<Vec<_>>())
    .bind(new.iter().map(|row| row.kek_version).collect::<Vec<_>>())
    .bind(new.iter().map(|row| row.carrier_txn_id.clone()).collect::<Vec<_>>())
    .fetch_all(conn)
    .await?;
    let mut kept: Vec<(i32, Vec<u8>)> =
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, sqlx::Error>>()?;
    // Of two equal ones in one call the first is the new one.
    let mut take = |row: &NewCallback| {
        let place = kept.iter().position(|(no, fact)| *no == row.carrier_no && fact[..] == row.fact);
        place.map(|place| kept.swap_remove(place)).is_some()
    };
    Ok(new.iter().map(&mut take).collect())
}

/// New messages that are due for a look, oldest first, at least `age_ms` old.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn new_callbacks(
    conn: &mut PgConnection,
    age_ms: i64,
    limit: i32,
) -> Result<Vec<KeptCallback>, StoreError> {
    let rows = sqlx::query(
        "SELECT id, carrier_no, fact, authenticated, sealed, kek_version,
                (extract(epoch FROM received_at) * 1000000)::bigint,
                (extract(epoch FROM now() - received_at) * 1000)::bigint
           FROM callback_inbox
          WHERE state = 0 AND look_at <= now() - $1 * interval '1 millisecond' ORDER BY look_at LIMIT $2",
    )
    .bind(age_ms)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    rows.iter().map(|row| kept(row).map_err(StoreError::from)).collect()
}

/// One message; `None` when it was deleted meanwhile.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn kept_callback(conn: &mut PgConnection, id: i64) -> Result<Option<KeptCallback>, StoreError> {
    let row = sqlx::query(
        "SELECT id, carrier_no, fact, authenticated, sealed, kek_version,
                (extract(epoch FROM received_at) * 1000000)::bigint,
                (extract(epoch FROM now() - received_at) * 1000)::bigint
           FROM callback_inbox WHERE id = $1",
    );
    let row = row.bind(id).fetch_optional(conn).await?;
    Ok(row.as_ref().map(kept).transpose()?)
}

fn kept(row: &sqlx::postgres::PgRow) -> Result<KeptCallback, sqlx::Error> {
    Ok(KeptCallback {
        id: row.try_get(0)?,
        carrier_no: row.try_get(1)?,
        fact: row.try_get(2)?,
        authenticated: row.try_get(3)?,
        sealed: row.try_get(4)?,
        kek_version: row.try_get(5)?,
        received_at_us: row.try_get(6)?,
        age_ms: row.try_get(7)?,
    })
}

/// The attempt that a carrier knows under an id of its own: one that is open, or one that an earlier message was about.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn attempt_of_txn(
    conn: &mut PgConnection,
    carrier_no: i32,
    carrier_txn_id: &str,
) -> Result<Option<(i64, i32, i16)>, StoreError> {
    let found = sqlx::query_as(
        "SELECT subscription_id, period, attempt_no FROM attempt_open
          WHERE carrier_txn_id = $2 AND subscription_id >> 44 = $1
          UNION ALL
         SELECT subscription_id, period, attempt_no FROM callback_inbox
          WHERE carrier_txn_id = $2 AND carrier_no = $1 AND subscription_id IS NOT NULL AND authenticated
          LIMIT 1",
    );
    Ok(found.bind(carrier_no).bind(carrier_txn_id).fetch_optional(conn).await?)
}

/// Settles a message once; `false` when another process was first.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn settle_callback(
    conn: &mut PgConnection,
    id: i64,
    state: CallbackState,
    settled: &CallbackSettled,
) -> Result<bool, StoreError> {
    let (kind, what) = match &settled.case {
        Some((kind, what)) => (Some(*kind), Some(what.as_str())),
        None => (None, None),
    };
    let done = sqlx::query_scalar("SELECT settle_callback($1, $2, $3, $4, $5, $6, $7, $8)");
    Ok(done
        .bind(id)
        .bind(state as i16)
        .bind(settled.attempt.map(|at| at.0))
        .bind(settled.attempt.map(|at| at.1))
        .bind(settled.attempt.map(|at| at.2))
        .bind(settled.evidence.as_deref())
        .bind(kind)
        .bind(what)
        .fetch_one(conn)
        .await?)
}

/// A message whose attempt is not there yet is looked at again after so long.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn look_again(conn: &mut PgConnection, id: i64, after_ms: i64) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE callback_inbox SET look_at = now() + $2 * interval '1 millisecond' WHERE id = $1 AND state = 0",
    )
    .bind(id)
    .bind(after_ms)
    .execute(conn)
    .await?;
    Ok(())
}

/// Deletes settled messages that are older than `days`, out of the oldest `limit` rows. Gives how many.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn trim_callbacks(conn: &mut PgConnection, days: i32, limit: i32) -> Result<u64, StoreError> {
    let deleted = sqlx::query(
        "DELETE FROM callback_inbox
          WHERE id IN (SELECT id FROM callback_inbox ORDER BY id LIMIT $2)
            AND state <> 0 AND received_at < now() - $1 * interval '1 day'",
    );
    Ok(deleted.bind(days).bind(limit).execute(conn).await?.rows_affected())
}
