//! A lane: everything between the engine and one carrier. Bounded queue, rate limit, in-flight cap, breaker.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use billing_core::decide::LaneHint;
use billing_core::outcome::Outcome;
use carriers::{Adapter, Attempt, BoxFuture, OutcomeSink, SendGuard};
use governor::clock::Clock as _;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::breaker::{Breaker, BreakerState};
use crate::clock::Clock;
use crate::hold::{Hold, held};
use crate::worker::WorkerCarrier;

/// How many attempts pass the rate limit at once.
const PERMITS_MAX: u32 = 64;
/// How long a lane rests after our own requests were refused.
const FAULT_PAUSE_MS: i64 = 60_000;
/// The longest rest that a carrier's "come back later" gives a lane; single attempts wait by their own plan.
const SLOW_DOWN_MAX_MS: i64 = 10_000;

/// The timer's grain.
const PERMIT_WAIT_MIN: Duration = Duration::from_millis(1);
/// After so long it is looked whether the share has changed: the smallest part of a small rate is a permit in a minute.
const PERMIT_WAIT_MAX: Duration = Duration::from_millis(50);

/// The runtime's clock for the limiter, so that a simulation's time counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LaneClock(Instant);

impl governor::clock::Clock for LaneClock {
    type Instant = Nanos;

    fn now(&self) -> Self::Instant {
        self.0.elapsed().into()
    }
}

/// One carrier's lane in this worker.
pub(crate) struct Lane {
    /// The carrier's id.
    pub(crate) carrier: String,
    /// Requests whose answer was lost may be sent to it again.
    pub(crate) repeats: bool,
    adapter: Arc<dyn Adapter>,
    queue: async_channel::Sender<Attempt>,
    /// The adapter's queue: what is in it has its permit.
    feed: async_channel::Sender<Attempt>,
    /// Attempts that wait for a permit; while there are some, nobody overtakes them.
    waiting: Arc<AtomicUsize>,
    in_lane: AtomicUsize,
    depth_max: usize,
    breaker: Mutex<Breaker>,
    rests_until_ms: AtomicI64,
    clock: Arc<dyn Clock>,
    rate: Arc<Rate>,
    /// Places that the resolution of unknown attempts uses.
    lent: AtomicUsize,
}

/// The carrier's rate and this worker's share of it: owned slices ÷ all slices, so that all workers together never exceed
/// what the carrier allows.
struct Rate {
    n: u32,
    per_ms: u32,
    limiter: RwLock<Arc<Limiter>>,
    share: Mutex<Share>,
    clock: LaneClock,
}

/// Owned slices, all slices, and whether a fifth is lent to the resolution of unknown attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Share {
    owned: usize,
    all: usize,
    lent: bool,
}

pub(crate) type Limiter = RateLimiter<NotKeyed, InMemoryState, LaneClock, NoOpMiddleware<Nanos>>;

/// A limiter on the runtime's clock.
pub(crate) fn limiter_of(quota: Quota, clock: LaneClock) -> Limiter {
    RateLimiter::direct_with_clock(quota, clock)
}

impl LaneClock {
    /// It starts now.
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }
}

impl Rate {
    fn new(n: u32, per_ms: u32) -> Self {
        let clock = LaneClock::start();
        let limiter = Arc::new(limiter_of(quota_of(n, per_ms, 1, 1), clock));
        let share = Mutex::new(Share { owned: 1, all: 1, lent: false });
        Self { n, per_ms, limiter: RwLock::new(limiter), share, clock }
    }

    fn limiter(&self) -> Arc<Limiter> {
        match self.limiter.read() {
            Ok(limiter) => Arc::clone(&limiter),
            Err(poisoned) => Arc::clone(&poisoned.into_inner()),
        }
    }

    async fn one_permit(&self) {
        while let Err(not_until) = self.limiter().check() {
            let wait = not_until.wait_time_from(self.clock.now());
            tokio::time::sleep(wait.clamp(PERMIT_WAIT_MIN, PERMIT_WAIT_MAX)).await;
        }
    }

    fn share(&self) -> Share {
        self.share.lock().map_or(Share { owned: 1, all: 1, lent: false }, |share| *share)
    }

    fn quota(&self, share: Share) -> Quota {
        match share.lent {
            true => quota_of(self.n.saturating_mul(4), self.per_ms.saturating_mul(5), share.owned, share.all),
            false => quota_of(self.n, self.per_ms, share.owned, share.all),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Share)) {
        let Ok(mut share) = self.share.lock() else { return };
        let mut changed = *share;
        change(&mut changed);
        // Of whom nothing is left nothing new is sent: what it still has to say leaves at the smallest part.
        changed.owned = changed.owned.max(1);
        if *share == changed {
            return;
        }
        *share = changed;
        let fresh = limiter_of(self.quota(changed), self.clock);
        // A limiter starts with its whole burst: shares that change often would add one each time.
        let _ = fresh.check_n(self.quota(changed).burst_size());
        if let Ok(mut limiter) = self.limiter.write() {
            *limiter = Arc::new(fresh);
        }
    }
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
        hold: Option<&Arc<Hold>>,
        running: &mut JoinSet<()>,
    ) -> Arc<Self> {
        let adapter = carrier.adapter;
        let caps = adapter.caps();
        let per_second = (u64::from(caps.rate_n) * 1_000 / u64::from(caps.rate_per_ms.max(1))).max(1);
        let depth_max = usize::try_from(per_second / 10)
            .unwrap_or(usize::MAX)
            .clamp(caps.in_flight_max as usize, (2 * batch_max).max(caps.in_flight_max as usize));
        let (queue, entry) = async_channel::bounded(depth_max);
        // What has its permit waits here for a connection: a burst at most. What piled up while nothing could leave leaves
        // together with what gets its permit then.
        let burst = usize::try_from(per_second / 50).unwrap_or(usize::MAX).min(depth_max);
        let (feed, gate) = async_channel::bounded(burst.max(1));
        let rate = Arc::new(Rate::new(caps.rate_n, caps.rate_per_ms));
        let waiting = Arc::new(AtomicUsize::new(0));
        running.spawn(held(hold, feed_at_rate(entry, feed.clone(), Arc::clone(&rate), Arc::clone(&waiting))));
        let guard = Arc::new(RatedGuard { guard, rate: Arc::clone(&rate) });
        running.spawn(held(hold, Arc::clone(&adapter).run(gate, guard, sink)));
        Arc::new(Self {
            carrier: carrier.id,
            repeats: carrier.proof.repeat.is_some(),
            adapter,
            queue,
            feed,
            waiting,
            in_lane: AtomicUsize::new(0),
            depth_max,
            breaker: Mutex::new(Breaker::new(carrier.breaker)),
            rests_until_ms: AtomicI64::new(0),
            clock,
            rate,
            lent: AtomicUsize::new(0),
        })
    }

    /// Takes the room that there is just now, at most `max` places: back-pressure, not recorded anywhere. Each place is
    /// given back by [`Lane::give_back`], or by [`Lane::done`] with its attempt's outcome.
    pub(crate) fn reserve(&self, max: usize) -> usize {
        let mut inside = self.in_lane.load(Ordering::Relaxed);
        loop {
            let taken = self.room(inside).min(max);
            let swapped =
                self.in_lane.compare_exchange(inside, inside + taken, Ordering::Relaxed, Ordering::Relaxed);
            match swapped {
                Ok(_) => return taken,
                Err(now) => inside = now,
            }
        }
    }

    /// Gives places back that were not used.
    pub(crate) fn give_back(&self, places: usize) {
        self.in_lane.fetch_sub(places, Ordering::Relaxed);
    }

    /// This worker's part of what the carrier allows, per second and at a time: owned slices of all slices.
    pub(crate) fn set_share(&self, owned: usize, all: usize) {
        self.rate.change(|share| (share.owned, share.all) = (owned, all));
        self.limit_in_flight();
    }

    /// Owned slices of all slices.
    pub(crate) fn share(&self) -> (usize, usize) {
        let share = self.rate.share();
        (share.owned, share.all)
    }

    /// Does without a fifth of the rate, and without so many of the exchanges at a time, while the resolution of unknown
    /// attempts uses them: together they never exceed what the carrier allows. 0: takes everything back.
    pub(crate) fn lend(&self, places: usize) {
        if self.lent.swap(places, Ordering::SeqCst) != places {
            self.rate.change(|share| share.lent = places > 0);
            self.limit_in_flight();
        }
    }

    /// Whether the lent places are free: a lane of one place only has to be empty.
    pub(crate) fn makes_room(&self) -> bool {
        self.part() > 1 || self.in_lane.load(Ordering::Relaxed) == 0
    }

    /// This worker's part of the exchanges at a time.
    fn part(&self) -> usize {
        let (owned, all) = self.share();
        self.adapter.caps().in_flight_max as usize * owned / all.max(1)
    }

    fn limit_in_flight(&self) {
        let own = self.part().saturating_sub(self.lent.load(Ordering::SeqCst));
        self.adapter.limit_in_flight(u32::try_from(own).unwrap_or(u32::MAX));
    }

    fn room(&self, inside: usize) -> usize {
        let now_ms = self.clock.machine_ms();
        if now_ms < self.rests_until_ms.load(Ordering::Relaxed) {
            return 0;
        }
        if self.lent.load(Ordering::SeqCst) > 0 && self.part() <= 1 {
            return 0;
        }
        let free = self.depth_max.saturating_sub(inside);
        match self.with_breaker(|breaker| breaker.state(now_ms)) {
            BreakerState::Closed => free,
            BreakerState::Open => 0,
            BreakerState::Probing { room } => room.min(free),
        }
    }

    /// Puts an attempt into its reserved place; its intent is durable. `false` when the lane is closed: nothing reached
    /// it, and the place is given back.
    pub(crate) fn push(&self, attempt: Attempt) -> bool {
        let pushed = match self.hand_over(attempt) {
            None => true,
            Some(attempt) => {
                self.waiting.fetch_add(1, Ordering::SeqCst);
                let queued = self.queue.try_send(attempt).is_ok();
                if !queued {
                    self.waiting.fetch_sub(1, Ordering::SeqCst);
                }
                queued
            }
        };
        if !pushed {
            self.give_back(1);
        }
        pushed
    }

    /// Straight to the adapter, when nobody waits before it, there is room, and the rate has a permit for it now. Each
    /// hop between tasks costs more than the decision about the charge. Gives the attempt back when it has to wait.
    fn hand_over(&self, attempt: Attempt) -> Option<Attempt> {
        let free =
            self.waiting.load(Ordering::SeqCst) == 0 && !self.feed.is_full() && !self.queue.is_closed();
        if !free || self.rate.limiter().check().is_err() {
            return Some(attempt);
        }
        // A permit whose place was taken in between is lost: the rate stays below what is allowed.
        self.feed.try_send(attempt).err().map(async_channel::TrySendError::into_inner)
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
        // The feeder closes the adapter's queue behind the last one that waits.
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

/// `owned` of `all` parts of `n` per `per_ms`.
pub(crate) fn quota_of(n: u32, per_ms: u32, owned: usize, all: usize) -> Quota {
    let parts = u128::from(n.max(1)) * owned.max(1) as u128;
    let period_ns = u128::from(per_ms.max(1)) * 1_000_000 * all.max(1) as u128 / parts;
    let period = Duration::from_nanos(u64::try_from(period_ns).unwrap_or(u64::MAX).max(1));
    // A burst of a fiftieth of a second: coarse enough for permits in chunks, fine enough for a carrier's counter.
    let burst = Duration::from_millis(20).as_nanos() / period.as_nanos().max(1);
    let burst = NonZeroU32::new(u32::try_from(burst).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN);
    Quota::with_period(period).unwrap_or_else(|| Quota::per_second(NonZeroU32::MIN)).allow_burst(burst)
}

/// The worker's guard, and permits of one lane.
struct RatedGuard {
    guard: Arc<dyn SendGuard>,
    rate: Arc<Rate>,
}

impl SendGuard for RatedGuard {
    fn may_send(&self, attempt: &Attempt) -> bool {
        self.guard.may_send(attempt)
    }

    fn permit_again(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.rate.one_permit())
    }
}

/// Moves attempts from the lane's queue to the adapter's, no faster than the carrier's rate.
async fn feed_at_rate(
    entry: async_channel::Receiver<Attempt>,
    feed: async_channel::Sender<Attempt>,
    rate: Arc<Rate>,
    waiting: Arc<AtomicUsize>,
) {
    let mut chunk = Vec::with_capacity(PERMITS_MAX as usize);
    while let Ok(first) = entry.recv().await {
        // Half a burst: while a whole one is waited for, each late wake-up loses what the limiter has no room for.
        let chunk_max = rate.quota(rate.share()).burst_size().get().div_ceil(2).min(PERMITS_MAX);
        chunk.push(first);
        while chunk.len() < chunk_max as usize
            && let Ok(more) = entry.try_recv()
        {
            chunk.push(more);
        }
        let permits = NonZeroU32::new(u32::try_from(chunk.len()).unwrap_or(1)).unwrap_or(NonZeroU32::MIN);
        let together = loop {
            match rate.limiter().check_n(permits) {
                Ok(Ok(())) => break true,
                Ok(Err(not_until)) => {
                    let wait = not_until.wait_time_from(rate.clock.now());
                    tokio::time::sleep(wait.clamp(PERMIT_WAIT_MIN, PERMIT_WAIT_MAX)).await;
                }
                // The share shrank this instant, and the chunk is more than its burst.
                Err(_) => break false,
            }
        };
        for attempt in chunk.drain(..) {
            if !together {
                rate.one_permit().await;
            }
            if feed.send(attempt).await.is_err() {
                return;
            }
            waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }
    feed.close();
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    struct Always;

    impl SendGuard for Always {
        fn may_send(&self, _: &Attempt) -> bool {
            true
        }
    }

    #[tokio::test]
    async fn another_permit_is_one_of_the_lane() {
        let guard = RatedGuard { guard: Arc::new(Always), rate: Arc::new(Rate::new(10, 1_000)) };
        let began = Instant::now();
        for _ in 0..5 {
            guard.permit_again().await;
        }
        assert!(began.elapsed() >= Duration::from_millis(390), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn who_waits_for_a_permit_sees_that_the_share_grows() {
        let rate = Arc::new(Rate::new(100, 60_000));
        rate.change(|share| (share.owned, share.all) = (1, 64));
        let waiting = tokio::spawn({
            let rate = Arc::clone(&rate);
            async move { rate.one_permit().await }
        });
        tokio::time::sleep(Duration::from_millis(10)).await;
        let began = Instant::now();
        rate.change(|share| share.owned = 64);
        waiting.await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}, 38 s at the former share", began.elapsed());
    }

    #[test]
    fn what_is_lent_is_a_fifth_of_this_workers_part() {
        let rate = Rate::new(100, 1_000);
        let period = |rate: &Rate| rate.quota(rate.share()).replenish_interval();
        assert_eq!(period(&rate), Duration::from_millis(10));
        rate.change(|share| share.lent = true);
        assert_eq!(period(&rate), Duration::from_micros(12_500), "80 per second");
        assert_eq!(
            quota_of(100, 5_000, 1, 1).replenish_interval(),
            Duration::from_millis(50),
            "20 per second"
        );
        rate.change(|share| (share.owned, share.all) = (1, 4));
        assert_eq!(period(&rate), Duration::from_millis(50), "20 per second");
        rate.change(|share| share.lent = false);
        assert_eq!(period(&rate), Duration::from_millis(40), "25 per second");
    }
}
