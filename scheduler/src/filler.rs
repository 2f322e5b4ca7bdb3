//! The filler: reads what falls due within the horizon into the wheels, in keyset chunks.

use std::sync::Arc;
use std::time::Duration;

use billing_core::ids::Shard;
use storage::pg::StoreError;
use storage::store::{refill, refill_asides};

use crate::link::DbLink;
use crate::shared::Shared;
use crate::stripe::Stripe;
use crate::worker::WorkerEnd;

/// Rows per chunk: never one long statement, an old snapshot stops HOT pruning.
const CHUNK: i32 = 10_000;
const PAUSE: Duration = Duration::from_millis(50);
/// The horizon is never shorter than this much machine time, whatever the scale.
const HORIZON_MACHINE_MS: i64 = 120_000;

/// Fills the wheels of all stripes.
pub(crate) struct Filler {
    pub(crate) shared: Arc<Shared>,
    pub(crate) db: DbLink,
}

impl Filler {
    pub(crate) async fn run(mut self) -> Result<(), WorkerEnd> {
        while !self.shared.stop_claiming.is_cancelled() {
            if let Err(error) = self.run_once().await {
                self.shared.trouble("filling the wheel", &error);
            }
            tokio::select! {
                biased;
                () = self.shared.stop_claiming.cancelled() => {}
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
        Ok(())
    }

    /// One pass over all shards: how many were filled.
    pub(crate) async fn run_once(&mut self) -> Result<usize, StoreError> {
        let now_ms = self.shared.clock.business().as_millisecond();
        let scale = i64::from(self.shared.clock.scale());
        let horizon_ms = self.shared.settings.wheel_horizon_ms.max(HORIZON_MACHINE_MS.saturating_mul(scale));
        let mut filled = 0;
        for stripe in self.shared.stripes.clone() {
            let shards: Vec<Shard> = stripe.wheel().shards().collect();
            for shard in shards {
                let asides = stripe.asides().loaded_until_ms(shard);
                let loaded = stripe.wheel().loaded_until_ms(shard).min(asides);
                if loaded.is_some_and(|until| until < now_ms.saturating_add(horizon_ms / 2)) {
                    self.fill(&stripe, shard, now_ms.saturating_add(horizon_ms)).await?;
                    filled += 1;
                }
            }
        }
        Ok(filled)
    }

    async fn fill(&mut self, stripe: &Stripe, shard: Shard, until_ms: i64) -> Result<(), StoreError> {
        let from_ms = stripe.wheel().loaded_until_ms(shard).unwrap_or(i64::MIN);
        stripe.wheel().begin_fill(shard, until_ms);
        let mut after = Some(shard.id(0) - 1);
        while let Some(at) = after {
            if self.shared.stop_claiming.is_cancelled() {
                return Ok(());
            }
            let conn = self.db.conn().await?;
            let chunk = refill(conn, shard, at, until_ms, CHUNK).await;
            let (entries, next) = self.db.checked(chunk)?;
            {
                let mut wheel = stripe.wheel();
                // What fires before is held already, or is on its way.
                entries
                    .into_iter()
                    .filter(|entry| entry.at_ms >= from_ms)
                    .for_each(|entry| wheel.insert(entry));
            }
            after = next;
        }
        stripe.wheel().end_fill(shard);
        self.fill_asides(stripe, shard, until_ms).await
    }

    /// The same for charges with rows of their own: only those that fire at all are read.
    async fn fill_asides(&mut self, stripe: &Stripe, shard: Shard, until_ms: i64) -> Result<(), StoreError> {
        let from_ms = stripe.asides().loaded_until_ms(shard).unwrap_or(i64::MIN);
        stripe.asides().begin_fill(shard, until_ms);
        let mut after = Some(shard.id(0) - 1);
        while let Some(at) = after {
            let conn = self.db.conn().await?;
            let chunk = refill_asides(conn, shard, at, until_ms, CHUNK).await;
            let (entries, next) = self.db.checked(chunk)?;
            let mut wheel = stripe.asides();
            entries.into_iter().filter(|e| e.at_ms >= from_ms).for_each(|entry| wheel.insert(entry));
            after = next;
        }
        stripe.asides().end_fill(shard);
        Ok(())
    }
}
