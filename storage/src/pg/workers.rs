//! Workers, leases, fences and the shards they own.

use sqlx::postgres::PgConnection;

use super::StoreError;

/// Who writes: every engine write names it, and it is checked in the same commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The slot.
    pub slot: i32,
    /// Random per process start.
    pub incarnation: i64,
    /// Rises when the slot is fenced.
    pub epoch: i32,
}

/// Who a process is, for people and for `toll explain`.
#[derive(Debug, Clone)]
pub struct WorkerIdentity {
    /// Host name.
    pub host: String,
    /// The kernel's boot id and the spool's own: a spool of another boot may have lost its last lines, one that was made anew
    /// under the same path all of them.
    pub boot_id: String,
    /// Where its spool lies.
    pub spool: String,
    /// Where it answers (`unix:/…`).
    pub endpoint: String,
}

/// A worker as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerRow {
    /// Slot, incarnation (0 when the slot is free) and epoch.
    pub lease: Lease,
    /// Rises with every renewal.
    pub renewals: i64,
    /// How many shards it owns.
    pub shards: i64,
    /// Where it answers.
    pub endpoint: String,
    /// Where its spool lies.
    pub spool: String,
    /// On which host.
    pub host: String,
}

/// Takes a slot (the given one, whose former process is proven dead, or a new one).
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn register_worker(
    conn: &mut PgConnection,
    slot: Option<i32>,
    incarnation: i64,
    who: &WorkerIdentity,
) -> Result<Lease, StoreError> {
    let (slot, epoch): (i32, i32) =
        sqlx::query_as("SELECT slot, epoch FROM register_worker($1, $2, $3, $4, $5, $6)")
            .bind(slot)
            .bind(incarnation)
            .bind(&who.host)
            .bind(&who.boot_id)
            .bind(&who.spool)
            .bind(&who.endpoint)
            .fetch_one(conn)
            .await?;
    Ok(Lease { slot, incarnation, epoch })
}

/// Renews the lease; `false` when the worker is fenced.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn renew_lease(conn: &mut PgConnection, lease: &Lease) -> Result<bool, StoreError> {
    let renewed = sqlx::query_scalar("SELECT renew_lease($1, $2, $3)");
    Ok(renewed.bind(lease.slot).bind(lease.incarnation).bind(lease.epoch).fetch_one(conn).await?)
}

/// Fences a worker, unless it renewed since `renewals` were seen (`None`: whatever it renewed, to leave by itself).
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn fence_worker(
    conn: &mut PgConnection,
    lease: &Lease,
    renewals: Option<i64>,
) -> Result<bool, StoreError> {
    let fenced = sqlx::query_scalar("SELECT fence_worker($1, $2, $3, $4)");
    Ok(fenced
        .bind(lease.slot)
        .bind(lease.incarnation)
        .bind(lease.epoch)
        .bind(renewals)
        .fetch_one(conn)
        .await?)
}

/// Every worker that holds a slot.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn worker_rows(conn: &mut PgConnection) -> Result<Vec<WorkerRow>, StoreError> {
    let rows: Vec<(i32, i64, i32, i64, i64, String, String, String)> = sqlx::query_as(
        "SELECT w.slot, w.incarnation, w.epoch, l.renewals,
                (SELECT count(*) FROM shard_owner o WHERE o.slot = w.slot), i.endpoint, i.spool, i.host
           FROM worker w JOIN worker_lease l USING (slot) JOIN worker_incarnation i ON i.incarnation = w.incarnation
          ORDER BY w.slot",
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(slot, incarnation, epoch, renewals, shards, endpoint, spool, host)| WorkerRow {
            lease: Lease { slot, incarnation, epoch },
            renewals,
            shards,
            endpoint,
            spool,
            host,
        })
        .collect())
}

/// Takes up to `want` free shards; gives every shard that the slot has then.
///
/// # Errors
/// [`StoreError::Fenced`] when the lease is over.
pub async fn claim_shards(conn: &mut PgConnection, lease: &Lease, want: i32) -> Result<Vec<i32>, StoreError> {
    let claimed = sqlx::query_scalar("SELECT claim_shards($1, $2, $3, $4)");
    Ok(claimed.bind(lease.slot).bind(lease.incarnation).bind(lease.epoch).bind(want).fetch_all(conn).await?)
}

/// Gives drained shards back.
///
/// # Errors
/// [`StoreError::Fenced`] when the lease is over.
pub async fn hand_over(conn: &mut PgConnection, lease: &Lease, shards: &[i32]) -> Result<i32, StoreError> {
    let given = sqlx::query_scalar("SELECT hand_over($1, $2, $3, $4)");
    Ok(given.bind(lease.slot).bind(lease.incarnation).bind(lease.epoch).bind(shards).fetch_one(conn).await?)
}

/// How many shards exist, how many live workers there are, and how many shards have no owner.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn owned_shards(conn: &mut PgConnection) -> Result<(i64, i64, i64), StoreError> {
    Ok(sqlx::query_as(
        "SELECT (SELECT count(*) FROM shard_owner), (SELECT count(*) FROM worker WHERE incarnation <> 0),
                (SELECT count(*) FROM shard_owner WHERE slot IS NULL)",
    )
    .fetch_one(conn)
    .await?)
}

/// Notes that every intent of those of these shards that are this worker's, before `low_water_us` (the database's clock,
/// microseconds since 1970), has its outcome or its open row. Gives the database's clock. Never goes back.
///
/// # Errors
/// [`StoreError::Fenced`] when the lease is over: a former owner knows nothing of what was begun since.
pub async fn set_low_water(
    conn: &mut PgConnection,
    lease: &Lease,
    shards: &[i32],
    low_water_us: Option<i64>,
) -> Result<i64, StoreError> {
    let set = sqlx::query_scalar("SELECT set_low_water($1, $2, $3, $4, $5)")
        .bind(lease.slot)
        .bind(lease.incarnation)
        .bind(lease.epoch)
        .bind(shards)
        .bind(low_water_us);
    Ok(set.fetch_one(conn).await?)
}
