//! Membership: the lease, the other workers, the shares of the shards. No wall clock matters here: a worker is dead when
//! its renewals did not change for the TTL on the observer's own CLOCK_BOOTTIME.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use billing_core::ids::Shard;
use billing_core::period::days_since_2000;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use storage::fail_point::{Point, reached};
use storage::mutants::{Mutant, on};
use storage::pg::{Lease, StoreError, WorkerRow};
use storage::store::{
    append_minutes, claim_shards, ensure_partitions, fence_worker, hand_over, held_up, owned_shards,
    read_clock, renew_lease, set_low_water, touch_guard, trim_minutes, worker_rows,
};

use crate::guard::stripe_of;
use crate::link::DbLink;
use crate::shared::Shared;
use crate::takeover;
use crate::worker::WorkerEnd;

/// Partitions exist this many business days ahead.
const PARTITION_DAYS: i32 = 60;
/// The longest hole that is filled.
const GAP_DAYS_MAX: i32 = 400;
/// A shard that cannot be drained within this time is taken back into work.
const DRAIN_MAX_MS: i64 = 30_000;
const PASS: Duration = Duration::from_millis(500);
/// A business clock that does not run with the machine's is set at any moment: it is read this often.
const CLOCK_PASS: Duration = Duration::from_millis(50);
const LATE_ANSWERS_EVERY_MS: i64 = 10_000;
const STATS_EVERY_MS: i64 = 2_000;
/// Minute counts are kept for so long, business time ...
const STATS_KEPT_MS: i64 = 62 * 86_400_000;
/// ... and so many older ones are deleted per pass.
const STATS_TRIMMED_MAX: i32 = 20_000;
const STATS_TRIMMED_EVERY_MS: i64 = 600_000;

/// Renews the lease on a connection of its own, so that a renewal never queues behind anything.
pub(crate) struct LeaseKeeper {
    pub(crate) shared: Arc<Shared>,
    pub(crate) db: DbLink,
}

impl LeaseKeeper {
    pub(crate) async fn run(mut self) -> Result<(), WorkerEnd> {
        let every = Duration::from_millis(self.shared.settings.lease_renew_ms);
        while !self.shared.finish.is_cancelled() {
            let pause = match self.renew().await {
                Ok(true) => every,
                Ok(false) => {
                    return Err(WorkerEnd::Fenced("another worker took this slot's shards".to_owned()));
                }
                Err(StoreError::Fenced(why)) => return Err(WorkerEnd::Fenced(why)),
                Err(error) => {
                    self.shared.trouble("renewing the lease", &error);
                    Duration::from_millis(250)
                }
            };
            tokio::select! {
                biased;
                () = self.shared.finish.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        Ok(())
    }

    async fn renew(&mut self) -> Result<bool, StoreError> {
        let started_ms = self.shared.clock.machine_ms();
        let conn = self.db.conn().await?;
        let renewed = renew_lease(conn, &self.shared.lease).await;
        let renewed = self.db.checked(renewed)?;
        if renewed {
            self.shared.guard.renewed(started_ms, self.shared.settings.lease_ttl_ms);
            self.shared.well();
            let conn = self.db.conn().await?;
            let touched = touch_guard(conn).await;
            self.shared.watch.touched(self.db.checked(touched)?);
        }
        Ok(renewed)
    }
}

/// Watches the others, takes and gives shards, and keeps house.
pub(crate) struct Steward {
    pub(crate) shared: Arc<Shared>,
    pub(crate) db: DbLink,
    seen: HashMap<(i32, i64), (i64, i64)>,
    /// This pass saw the others.
    saw: bool,
    leaving: BTreeMap<i32, i64>,
    given: HashSet<(i64, i32, i16)>,
    partitions_until_day: i32,
    last_low_water_ms: i64,
    last_late_answers_ms: i64,
    last_stats_ms: i64,
    last_trim_ms: i64,
}

impl Steward {
    pub(crate) fn new(shared: Arc<Shared>, db: DbLink) -> Self {
        Self {
            shared,
            db,
            seen: HashMap::new(),
            saw: false,
            leaving: BTreeMap::new(),
            given: HashSet::new(),
            partitions_until_day: i32::MIN,
            last_low_water_ms: 0,
            last_late_answers_ms: 0,
            last_stats_ms: 0,
            last_trim_ms: 0,
        }
    }

    pub(crate) async fn run(mut self) -> Result<(), WorkerEnd> {
        while !self.shared.finish.is_cancelled() {
            match self.run_once().await {
                Ok(()) => {}
                Err(StoreError::Fenced(why)) => return Err(WorkerEnd::Fenced(why)),
                Err(error) => {
                    // What could not be seen must not count as silence of the others.
                    if !self.saw {
                        self.seen.clear();
                    }
                    self.shared.trouble("keeping house", &error);
                }
            }
            self.rest().await?;
        }
        let _ = self.flush_stats().await;
        Ok(())
    }

    /// Until the next pass.
    async fn rest(&mut self) -> Result<(), WorkerEnd> {
        let until = tokio::time::Instant::now() + PASS;
        while !self.shared.finish.is_cancelled() && tokio::time::Instant::now() < until {
            let pause = if self.shared.clock.scale() == 1 { PASS } else { CLOCK_PASS };
            tokio::select! {
                biased;
                () = self.shared.finish.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
            if pause == CLOCK_PASS {
                match self.keep_time().await {
                    Err(StoreError::Fenced(why)) => return Err(WorkerEnd::Fenced(why)),
                    Err(error) => self.shared.trouble("reading the business clock", &error),
                    Ok(()) => {}
                }
            }
        }
        Ok(())
    }

    /// Each lane uses the part of its carrier's rate that its slices are of all slices. What is being handed over counts no
    /// more: whoever takes it uses its part from that moment on.
    fn set_shares(&self) {
        let mut owned: HashMap<i32, usize> = HashMap::new();
        let staying = self.owned().into_iter().filter(|shard| !self.leaving.contains_key(&shard.0));
        staying.for_each(|shard| *owned.entry(shard.carrier_no()).or_default() += 1);
        for (carrier_no, slices, _) in self.shared.books.current().names.carriers.values() {
            if let Some(lane) = self.shared.lanes.get(carrier_no) {
                let all = usize::try_from(*slices).unwrap_or(1);
                let own = owned.get(carrier_no).copied().unwrap_or(0);
                lane.set_share(if on(Mutant::WholeRate) { all } else { own }, all);
            }
        }
    }

    /// One pass.
    pub(crate) async fn run_once(&mut self) -> Result<(), StoreError> {
        let now_ms = self.shared.clock.machine_ms();
        self.saw = false;
        self.keep_time().await?;
        let conn = self.db.conn().await?;
        let asked_ms = self.shared.clock.machine_ms();
        let workers = worker_rows(conn).await;
        let workers = self.db.checked(workers)?;
        self.saw = true;
        self.fence_the_dead(&workers, asked_ms, self.shared.clock.machine_ms()).await?;
        let conn = self.db.conn().await?;
        let held = held_up(conn, &self.shared.identity).await;
        let held = self.db.checked(held)?;
        self.shared.holds.set(held, &self.shared.stripes);
        if !self.shared.stop_claiming.is_cancelled() {
            let own = workers.iter().find(|worker| worker.lease == self.shared.lease);
            self.balance(now_ms, own.map_or(0, |worker| worker.shards)).await?;
            self.set_shares();
        }
        if now_ms - self.last_low_water_ms >= self.shared.settings.low_water_every_ms {
            self.last_low_water_ms = now_ms;
            self.advance_low_water().await?;
        }
        if now_ms - self.last_late_answers_ms >= LATE_ANSWERS_EVERY_MS {
            self.last_late_answers_ms = now_ms;
            let given = takeover::give_late_answers(&self.shared, &mut self.db, &mut self.given).await?;
            if given > 0 {
                tracing::info!(given, "answers found in this spool were given to the shards' owners");
            }
        }
        if now_ms - self.last_stats_ms >= STATS_EVERY_MS {
            self.last_stats_ms = now_ms;
            self.flush_stats().await?;
        }
        if now_ms - self.last_trim_ms >= STATS_TRIMMED_EVERY_MS {
            self.last_trim_ms = now_ms;
            self.trim_stats().await?;
        }
        Ok(())
    }

    /// Takes over the business clock. The partitions come first: from then on charges of its day become durable.
    async fn keep_time(&mut self) -> Result<(), StoreError> {
        let conn = self.db.conn().await?;
        let row = read_clock(conn).await;
        let row = self.db.checked(row)?;
        let business_ms = row.business_ms(self.shared.clock.wall().as_millisecond());
        self.make_partitions(Timestamp::from_millisecond(business_ms).unwrap_or(Timestamp::UNIX_EPOCH))
            .await?;
        self.shared.set_clock(row);
        Ok(())
    }

    async fn make_partitions(&mut self, now: Timestamp) -> Result<(), StoreError> {
        let today = days_since_2000(now.to_zoned(TimeZone::UTC).date());
        if self.partitions_until_day >= today + PARTITION_DAYS / 2 {
            return Ok(());
        }
        let conn = self.db.conn().await?;
        // Without a hole, also when the clock ran on for months at once: what was missed lies in there.
        let known = Some(self.partitions_until_day).filter(|day| *day > today - GAP_DAYS_MAX);
        let from = known.map_or(today - 7, |day| day.min(today - 7));
        let made = ensure_partitions(conn, from, today + PARTITION_DAYS).await;
        self.db.checked(made)?;
        self.partitions_until_day = today + PARTITION_DAYS;
        self.shared.partitions_until_day.store(today + PARTITION_DAYS, Ordering::SeqCst);
        self.shared.partitions_ready.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Silence lasts from the answer that last told of a renewal to the question that told of none: what passed in between,
    /// while this process may have been stopped, counts for nobody.
    async fn fence_the_dead(
        &mut self,
        workers: &[WorkerRow],
        asked_ms: i64,
        answered_ms: i64,
    ) -> Result<(), StoreError> {
        let alive: HashSet<(i32, i64)> =
            workers.iter().map(|w| (w.lease.slot, w.lease.incarnation)).collect();
        self.seen.retain(|key, _| alive.contains(key));
        for worker in workers {
            let key = (worker.lease.slot, worker.lease.incarnation);
            let (renewals, since_ms) = *self.seen.entry(key).or_insert((worker.renewals, answered_ms));
            if renewals != worker.renewals {
                self.seen.insert(key, (worker.renewals, answered_ms));
            } else if worker.lease != self.shared.lease
                && asked_ms - since_ms >= self.shared.settings.lease_ttl_ms
            {
                self.fence(&worker.lease, worker.renewals).await?;
            }
        }
        Ok(())
    }

    async fn fence(&mut self, lease: &Lease, renewals: i64) -> Result<(), StoreError> {
        let conn = self.db.conn().await?;
        reached(Point::BeforeFence);
        let fenced = fence_worker(conn, lease, Some(renewals)).await;
        reached(Point::AfterFence);
        if self.db.checked(fenced)? {
            tracing::warn!(
                slot = lease.slot,
                epoch = lease.epoch,
                "fenced a worker that stopped renewing its lease"
            );
            metrics::counter!("tollbook_fenced_workers_total").increment(1);
        }
        Ok(())
    }

    /// Shares are even: whoever has more than the ceiling hands over, whoever has less takes what is free. `kept`: how many
    /// shards are ours in the database; more than we know of, when the answer to a claim was lost.
    async fn balance(&mut self, now_ms: i64, kept: i64) -> Result<(), StoreError> {
        if !self.shared.guard.lease_lasts() {
            return Ok(());
        }
        let conn = self.db.conn().await?;
        let counts = owned_shards(conn).await;
        let (all, workers, free) = self.db.checked(counts)?;
        let workers = workers.max(1);
        let share = (all + workers - 1) / workers;
        let owned = self.owned();
        let own = i64::try_from(owned.len()).unwrap_or(i64::MAX);
        let staying = own - i64::try_from(self.leaving.len()).unwrap_or(0);
        if staying > share {
            let spare = usize::try_from(staying - share).unwrap_or(0);
            let leaving: Vec<Shard> = owned
                .iter()
                .rev()
                .filter(|s| !self.leaving.contains_key(&s.0))
                .take(spare)
                .copied()
                .collect();
            for shard in leaving {
                self.set_draining(shard, true);
                self.leaving.insert(shard.0, now_ms);
            }
            self.set_shares();
        }
        self.hand_over_drained(now_ms).await?;
        let wants = free > 0 && own < share && self.leaving.is_empty();
        if wants || kept > own {
            let want = if wants { i32::try_from(share - own).unwrap_or(i32::MAX) } else { 0 };
            let conn = self.db.conn().await?;
            reached(Point::BeforeClaim);
            let claimed = claim_shards(conn, &self.shared.lease, want).await;
            reached(Point::AfterClaim);
            let claimed = self.db.checked(claimed)?;
            let owned = self.owned();
            for shard in claimed.into_iter().map(Shard).filter(|shard| !owned.contains(shard)) {
                self.take(shard).await?;
            }
        }
        Ok(())
    }

    async fn take(&mut self, shard: Shard) -> Result<(), StoreError> {
        let Some(stripe) = stripe_of(&self.shared.stripes, shard.id(0)).cloned() else { return Ok(()) };
        let left = loop {
            if on(Mutant::NoTakeover) {
                break 0;
            }
            match takeover::take_over(&self.shared, &stripe, &mut self.db, shard).await {
                // The shard is ours already: without its takeover it must not be charged, so try until it works.
                Err(error) if error.is_transient() && !self.shared.is_halted() => {
                    self.shared.trouble("taking a shard over", &error);
                    tokio::time::sleep(crate::link::RETRY_PAUSE).await;
                }
                other => break other?,
            }
        };
        if left > 0 {
            reached(Point::AfterTakeover);
            tracing::warn!(
                shard = shard.0,
                left,
                "took over a shard with intents whose outcome is not known"
            );
        }
        stripe.asides().add_shard(shard);
        stripe.wheel().add_shard(shard);
        self.set_shares();
        tracing::debug!(shard = shard.0, "shard taken");
        Ok(())
    }

    async fn hand_over_drained(&mut self, now_ms: i64) -> Result<(), StoreError> {
        let mut drained = Vec::new();
        for (shard, since_ms) in self.leaving.clone() {
            let shard = Shard(shard);
            let busy =
                stripe_of(&self.shared.stripes, shard.id(0)).is_some_and(|stripe| stripe.is_busy(shard));
            if !busy || on(Mutant::HandOverWithoutWaiting) {
                drained.push(shard.0);
            } else if now_ms - since_ms > DRAIN_MAX_MS {
                self.leaving.remove(&shard.0);
                self.set_draining(shard, false);
            }
        }
        if drained.is_empty() {
            return Ok(());
        }
        let conn = self.db.conn().await?;
        reached(Point::BeforeHandOver);
        let given = hand_over(conn, &self.shared.lease, &drained).await;
        reached(Point::AfterHandOver);
        self.db.checked(given)?;
        tracing::info!(shards = drained.len(), "handed shards over to even out the shares");
        for shard in drained {
            self.leaving.remove(&shard);
            if let Some(stripe) = stripe_of(&self.shared.stripes, Shard(shard).id(0)) {
                stripe.wheel().remove_shard(Shard(shard));
                stripe.asides().remove_shard(Shard(shard));
            }
        }
        Ok(())
    }

    fn owned(&self) -> Vec<Shard> {
        self.shared.stripes.iter().flat_map(|stripe| stripe.wheel().shards().collect::<Vec<_>>()).collect()
    }

    fn set_draining(&self, shard: Shard, draining: bool) {
        if let Some(stripe) = stripe_of(&self.shared.stripes, shard.id(0)) {
            stripe.wheel().set_draining(shard, draining);
            stripe.asides().set_draining(shard, draining);
        }
    }

    /// The low water of a shard never passes an intent whose outcome is not recorded: it follows the oldest batch that
    /// is still open in its stripe, and the database's clock as it was before any later batch began.
    async fn advance_low_water(&mut self) -> Result<(), StoreError> {
        let known_us = self.shared.database_us.load(Ordering::SeqCst);
        let mut now_us = known_us;
        for stripe in self.shared.stripes.clone() {
            let shards: Vec<i32> = stripe.wheel().shards().map(|shard| shard.0).collect();
            let low_water = match stripe.floor_us() {
                _ if on(Mutant::LowWaterAhead) => Some(known_us),
                Some(i64::MIN) => None,
                Some(floor) => Some(floor.min(known_us)),
                None => Some(known_us),
            };
            let conn = self.db.conn().await?;
            let before_us = self.shared.clock.boot_us();
            let set = set_low_water(conn, &self.shared.lease, &shards, low_water).await;
            now_us = self.db.checked(set)?;
            if !self.shared.clock.adopt(now_us, before_us, self.shared.clock.boot_us()) {
                self.shared.trouble("reading the database's clock", &"it jumped by more than two seconds");
            }
        }
        self.shared.database_us.store(now_us, Ordering::SeqCst);
        Ok(())
    }

    /// Minute counts are for status and charts: old ones go, some at a time.
    async fn trim_stats(&mut self) -> Result<(), StoreError> {
        let before_ms = self.shared.clock.business().as_millisecond().saturating_sub(STATS_KEPT_MS);
        let conn = self.db.conn().await?;
        let trimmed = trim_minutes(conn, before_ms, STATS_TRIMMED_MAX).await;
        self.db.checked(trimmed).map(|_| ())
    }

    async fn flush_stats(&mut self) -> Result<(), StoreError> {
        self.shared.sent_log_retry();
        self.shared.publish_gauges();
        let rows = self.shared.stats.take();
        if rows.is_empty() {
            return Ok(());
        }
        for row in &rows {
            let class = crate::worker::class_name(row.class);
            let reason = billing_core::outcome::ReasonCode(row.reason).name();
            let carrier = self.shared.carrier_name(row.carrier_no);
            metrics::counter!("tollbook_attempts_total", "carrier" => carrier, "class" => class, "reason" => reason)
                .increment(u64::try_from(row.count).unwrap_or(0));
        }
        let conn = self.db.conn().await?;
        let appended = append_minutes(conn, self.shared.lease.incarnation, &rows).await;
        self.db.checked(appended)
    }
}
