//! A lane: everything between the engine and one carrier. Bounded queue, rate limit, in-flight cap, breaker.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use billing_core::decide::LaneHint;
use billing_core::outcome::Outcome;
use carriers::{Adapter, Attempt, OutcomeSink, SendGuard};
use governor::{Quota, RateLimiter};
use tokio::task::JoinSet;

use crate::breaker::{Breaker, BreakerState};
use crate::clock::Clock;
use crate::worker::WorkerCarrier;

/// How many attempts pass the rate limit at once.
const PERMITS_MAX: u32 = 64;
/// How long a lane rests after our own requests were refused.
const FAULT_PAUSE_MS: i64 = 60_000;
/// The longest rest that a carrier's "come back later" gives a lane; single attempts wait by their own plan.
const SLOW_DOWN_MAX_MS: i64 = 10_000;

/// One carrier's lane in this worker.
pub(crate) struct Lane {
    /// The carrier's id.
    pub(crate) carrier: String,
    adapter: Arc<dyn Adapter>,
    queue: async_channel::Sender<Attempt>,
    in_lane: AtomicUsize,
    depth_max: usize,
    breaker: Mutex<Breaker>,
    rests_until_ms: AtomicI64,
    clock: Arc<dyn Clock>,
}

impl Lane {
    /// Opens the lane: the adapter starts to pull. `batch_max` bounds the queue together with the carrier's rate: a
    /// tenth of a second's worth, so that a kill leaves few unknowns.
    pub(crate) fn open(
        carrier: WorkerCarrier,
        batch_max: usize,
        clock: Arc<dyn Clock>,
        guard: Arc<dyn SendGuard>,
        sink: Arc<dyn OutcomeSink>,
        running: &mut JoinSet<()>,
    ) -> Arc<Self> {
        let adapter = carrier.adapter;
        let caps = adapter.caps();
        let per_second = (u64::from(caps.rate_n) * 1_000 / u64::from(caps.rate_per_ms.max(1))).max(1);
        let depth_max = usize::try_from(per_second / 10)
            .unwrap_or(usize::MAX)
            .clamp(caps.in_flight_max as usize, (2 * batch_max).max(caps.in_flight_max as usize));
        let (queue, entry) = async_channel::bounded(depth_max);
        let (feed, gate) = async_channel::bounded((caps.in_flight_max as usize).max(1));
        let quota = quota_of(per_second);
        running.spawn(feed_at_rate(entry, feed, quota));
        running.spawn(Arc::clone(&adapter).run(gate, guard, sink));
        Arc::new(Self {
            carrier: carrier.id,
            adapter,
            queue,
            in_lane: AtomicUsize::new(0),
            depth_max,
            breaker: Mutex::new(Breaker::new(carrier.breaker)),
            rests_until_ms: AtomicI64::new(0),
            clock,
        })
    }

    /// How many more attempts it takes just now: back-pressure, not recorded anywhere.
    #[must_use]
    pub(crate) fn room(&self) -> usize {
        let now_ms = self.clock.machine_ms();
        if now_ms < self.rests_until_ms.load(Ordering::Relaxed) {
            return 0;
        }
        let free = self.depth_max.saturating_sub(self.in_lane.load(Ordering::Relaxed));
        match self.with_breaker(|breaker| breaker.state(now_ms)) {
            BreakerState::Closed => free,
            BreakerState::Open => 0,
            BreakerState::Probing { room } => room.min(free),
        }
    }

    /// Puts an attempt in whose intent is durable. `false` when the lane is closed: nothing reached it.
    pub(crate) fn push(&self, attempt: Attempt) -> bool {
        self.in_lane.fetch_add(1, Ordering::Relaxed);
        if self.queue.try_send(attempt).is_ok() {
            return true;
        }
        self.in_lane.fetch_sub(1, Ordering::Relaxed);
        false
    }

    /// An attempt came out with this outcome.
    pub(crate) fn done(&self, outcome: Outcome) {
        self.in_lane.fetch_sub(1, Ordering::Relaxed);
        let now_ms = self.clock.machine_ms();
        let opened = self.with_breaker(|breaker| breaker.observe(outcome, now_ms));
        if opened {
            tracing::warn!(carrier = %self.carrier, "breaker opened: too many answers are unknown or missing");
            metrics::counter!("tollbook_breaker_opened_total", "carrier" => self.carrier.clone())
                .increment(1);
        }
    }

    /// What a decision wants of the lane.
    pub(crate) fn hint(&self, hint: LaneHint) {
        let rest_ms = match hint {
            LaneHint::None => return,
            LaneHint::SlowDown(ms) => i64::from(ms).min(SLOW_DOWN_MAX_MS),
            LaneHint::Pause => {
                tracing::error!(carrier = %self.carrier, "lane paused: the carrier refuses our requests as faulty");
                FAULT_PAUSE_MS
            }
        };
        self.rests_until_ms.fetch_max(self.clock.machine_ms() + rest_ms, Ordering::Relaxed);
    }

    /// Attempts inside, and how many fit.
    #[must_use]
    pub(crate) fn depth(&self) -> (usize, usize) {
        (self.in_lane.load(Ordering::Relaxed), self.depth_max)
    }

    /// `closed`, `open`, `probing` or `resting`, for people.
    #[must_use]
    pub(crate) fn condition(&self) -> &'static str {
        let now_ms = self.clock.machine_ms();
        if now_ms < self.rests_until_ms.load(Ordering::Relaxed) {
            return "resting";
        }
        self.with_breaker(|breaker| breaker.state(now_ms)).name()
    }

    /// The adapter, to ask for its link.
    #[must_use]
    pub(crate) fn adapter(&self) -> &Arc<dyn Adapter> {
        &self.adapter
    }

    /// Takes nothing more; the adapter ends when it has answered what is inside.
    pub(crate) fn close(&self) {
        self.queue.close();
    }

    fn with_breaker<T>(&self, run: impl FnOnce(&mut Breaker) -> T) -> T {
        match self.breaker.lock() {
            Ok(mut breaker) => run(&mut breaker),
            Err(poisoned) => run(&mut poisoned.into_inner()),
        }
    }
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane")
            .field("carrier", &self.carrier)
            .field("in_lane", &self.in_lane)
            .finish_non_exhaustive()
    }
}

fn quota_of(per_second: u64) -> Quota {
    let per_second =
        NonZeroU32::new(u32::try_from(per_second).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN);
    // A burst of a fiftieth of a second: coarse enough for permits in chunks, fine enough for a carrier's counter.
    let burst = NonZeroU32::new(per_second.get() / 50).unwrap_or(NonZeroU32::MIN);
    Quota::per_second(per_second).allow_burst(burst)
}

/// Moves attempts from the lane's queue to the adapter's, no faster than the carrier's rate.
async fn feed_at_rate(
    entry: async_channel::Receiver<Attempt>,
    feed: async_channel::Sender<Attempt>,
    quota: Quota,
) {
    let limiter = RateLimiter::direct(quota);
    let chunk_max = quota.burst_size().get().min(PERMITS_MAX);
    let mut chunk = Vec::with_capacity(chunk_max as usize);
    while let Ok(first) = entry.recv().await {
        chunk.push(first);
        while chunk.len() < chunk_max as usize
            && let Ok(more) = entry.try_recv()
        {
            chunk.push(more);
        }
        let permits = NonZeroU32::new(u32::try_from(chunk.len()).unwrap_or(1)).unwrap_or(NonZeroU32::MIN);
        // A chunk never exceeds the burst, so this cannot be refused; were it, waiting is the safe answer.
        while limiter.until_n_ready(permits).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for attempt in chunk.drain(..) {
            if feed.send(attempt).await.is_err() {
                return;
            }
        }
    }
}
