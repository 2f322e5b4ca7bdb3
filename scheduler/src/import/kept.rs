//! What the database keeps already of a batch's lines.

use std::collections::HashMap;

use sqlx::postgres::PgConnection;
use storage::pg::{ImportLookup, StoreError, lookup};

/// A subscription that exists, as far as a line can differ from it.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeptSubscription {
    pub(super) subscriber_id: i64,
    pub(super) plan_no: i32,
    pub(super) anchor_day: i32,
    pub(super) zone_no: i16,
}

/// Everything that exists of a batch.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) found: ImportLookup,
    /// By `ref_seed`.
    pub(super) subscriptions: HashMap<i64, KeptSubscription>,
    /// Zones of the subscribers found.
    pub(super) zones: HashMap<i64, i16>,
}

/// Makes other imports into the same shards wait until this SQL transaction ends: what is then looked up stays true.
/// A line belongs to one shard, so no line can get two subscribers.
pub(super) async fn lock_shards(conn: &mut PgConnection, shards: &[i32]) -> Result<(), StoreError> {
    let locked = sqlx::query("SELECT 1 FROM shard_counter WHERE shard = ANY ($1) ORDER BY shard FOR UPDATE");
    locked.bind(shards).execute(conn).await?;
    Ok(())
}

/// Looks up references and lines, and what is to be compared of those that exist.
pub(super) async fn look_up(
    conn: &mut PgConnection,
    ref_seeds: &[i64],
    hmacs: &[Vec<u8>],
) -> Result<Kept, StoreError> {
    let found = lookup(conn, ref_seeds, hmacs).await?;
    let mut kept = Kept { found, ..Kept::default() };
    if !kept.found.references.is_empty() {
        let rows: Vec<(i64, i64, i32, i32, i16)> = sqlx::query_as(
            "SELECT r.ref_seed, s.subscriber_id, s.plan_no, s.anchor_day, s.zone_no
               FROM subscription_ref r JOIN subscription s ON s.id = r.subscription_id
              WHERE r.ref_seed = ANY ($1)",
        )
        .bind(ref_seeds)
        .fetch_all(&mut *conn)
        .await?;
        let kept_subscription = |(seed, subscriber_id, plan_no, anchor_day, zone_no)| {
            (seed, KeptSubscription { subscriber_id, plan_no, anchor_day, zone_no })
        };
        kept.subscriptions = rows.into_iter().map(kept_subscription).collect();
    }
    if !kept.found.subscribers.is_empty() {
        let ids: Vec<i64> = kept.found.subscribers.values().copied().collect();
        let rows: Vec<(i64, i16)> = sqlx::query_as("SELECT id, zone_no FROM subscriber WHERE id = ANY ($1)")
            .bind(ids)
            .fetch_all(conn)
            .await?;
        kept.zones = rows.into_iter().collect();
    }
    Ok(kept)
}
