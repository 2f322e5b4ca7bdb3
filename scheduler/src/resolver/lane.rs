//! The resolution's own lane to a carrier: at most a fifth of its rate and of what it takes at a time, apart from the
//! charging lane's queue, so that no backlog holds it up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use billing_core::resolve::Proof;
use carriers::{Adapter, Attempt, OutcomeSink, Reply, SendGuard};
use storage::mutants::{Mutant, on};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::facts::proof_of;
use crate::clock::Clock;
use crate::guard::LeaseGuard;
use crate::lane::{Lane, LaneClock, Limiter, limiter_of, quota_of};

/// One part in so many of what the carrier takes.
const PART: u32 = 5;

fn part() -> u32 {
    if on(Mutant::ResolverTakesWholeRate) { 1 } else { PART }
}

/// The charging lane does without this part for so long after the last ask.
const LENT_FOR_MS: i64 = 2_000;

/// A carrier as the resolution speaks to it.
pub(crate) struct AskLane {
    pub(super) adapter: Arc<dyn Adapter>,
    declared: carriers::Proof,
    queue: async_channel::Sender<Attempt>,
    clock: LaneClock,
    limiter: Limiter,
    share: (usize, usize),
    in_flight: usize,
    lent_until_ms: i64,
}

impl AskLane {
    /// Opens it: its connections are made when something is asked.
    pub(crate) fn open(
        adapter: Arc<dyn Adapter>,
        declared: carriers::Proof,
        guard: Arc<dyn SendGuard>,
        sink: Arc<dyn OutcomeSink>,
        running: &mut JoinSet<()>,
    ) -> Self {
        let caps = adapter.caps();
        let in_flight_max = (caps.in_flight_max / PART).max(1);
        let clock = LaneClock::start();
        let limiter = limiter_of(quota_of(caps.rate_n, caps.rate_per_ms.saturating_mul(part()), 1, 1), clock);
        let (queue, feed) = async_channel::bounded(in_flight_max as usize);
        adapter.limit_in_flight(in_flight_max);
        running.spawn(Arc::clone(&adapter).run(feed, guard, sink));
        Self {
            adapter,
            declared,
            queue,
            clock,
            limiter,
            share: (1, 1),
            in_flight: 0,
            lent_until_ms: i64::MIN,
        }
    }

    pub(super) fn proof(&self, hurry: i64) -> Proof {
        proof_of(&self.declared, hurry)
    }

    pub(super) fn reply_timeout_ms(&self) -> i64 {
        i64::from(self.adapter.caps().reply_timeout_ms)
    }

    /// How many may be on their way at a time.
    pub(super) fn places(&self) -> usize {
        let (owned, all) = self.share;
        let part = self.adapter.caps().in_flight_max as usize * owned / all.max(1) / PART as usize;
        part.max(1)
    }

    /// Takes the share that the charging lane has.
    pub(super) fn follow(&mut self, charging: &Lane) {
        let share = charging.share();
        if share != self.share {
            self.share = share;
            let caps = self.adapter.caps();
            let per_ms = caps.rate_per_ms.saturating_mul(part());
            let quota = quota_of(caps.rate_n, per_ms, share.0, share.1);
            self.limiter = limiter_of(quota, self.clock);
            // It starts with its whole burst: shares that change often would add one each time.
            let _ = self.limiter.check_n(quota.burst_size());
        }
    }

    /// Whether one more than those `wanted` already may be asked now. The charging lane does without our part of the rate from the first ask on; where
    /// it has one place only, it has to be empty before.
    pub(super) fn has_room(&mut self, charging: &Lane, wanted: usize, now_ms: i64) -> bool {
        if self.in_flight + wanted >= self.places() {
            return false;
        }
        self.lent_until_ms = now_ms + LENT_FOR_MS;
        charging.lend(self.places());
        charging.makes_room() && self.limiter.check().is_ok()
    }

    /// Hands one over; its place is given back with its reply.
    pub(super) fn push(&mut self, attempt: Attempt) -> bool {
        let pushed = self.queue.try_send(attempt).is_ok();
        self.in_flight += usize::from(pushed);
        pushed
    }

    pub(super) fn answered(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Gives the charging lane everything back when nothing was asked for a while.
    pub(super) fn rest(&self, charging: &Lane, now_ms: i64) {
        if self.in_flight == 0 && now_ms > self.lent_until_ms {
            charging.lend(0);
        }
    }
}

/// Whether a byte of an ask may leave: the lease lasts, nobody drains, and it is as young as any request has to be.
pub(crate) struct AskGuard {
    lease: Arc<LeaseGuard>,
    clock: Arc<dyn Clock>,
    stop_claiming: CancellationToken,
    send_max_age_ms: i64,
    /// When each was begun, machine time.
    begun: Mutex<HashMap<u64, i64>>,
}

impl AskGuard {
    pub(crate) fn new(
        lease: Arc<LeaseGuard>,
        clock: Arc<dyn Clock>,
        stop_claiming: CancellationToken,
        send_max_age_ms: i64,
    ) -> Self {
        Self { lease, clock, stop_claiming, send_max_age_ms, begun: Mutex::default() }
    }

    pub(super) fn begin(&self, ticket: u64, at_ms: i64) {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).insert(ticket, at_ms);
    }

    pub(super) fn end(&self, ticket: u64) {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).remove(&ticket);
    }
}

impl SendGuard for AskGuard {
    fn may_send(&self, attempt: &Attempt) -> bool {
        let begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner).get(&attempt.ticket).copied();
        let young = begun.is_some_and(|begun_ms| self.clock.machine_ms() - begun_ms < self.send_max_age_ms);
        young && !self.stop_claiming.is_cancelled() && self.lease.lease_lasts()
    }
}

/// Answers to asks, on their way to the resolver.
pub(crate) struct AskSink(pub(crate) async_channel::Sender<Reply>);

impl OutcomeSink for AskSink {
    fn deliver(&self, reply: Reply) {
        // There is a place for each that is on its way; a closed channel means that the worker has ended.
        if self.0.try_send(reply).is_err() {
            tracing::warn!("the answer to a question came after its worker had ended");
        }
    }
}
