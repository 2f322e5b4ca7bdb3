//! The send guard: the last word before a byte leaves. The carrier cannot check epochs, so the send is guarded.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};

use carriers::{Attempt, SendGuard};
use storage::fail_point::{Point, reached};
use storage::mutants::{Mutant, on};

use crate::clock::Clock;
use crate::stripe::Stripe;

/// A byte leaves only while the lease lasts this much longer.
const LEASE_MARGIN_MS: i64 = 2_000;

/// Knows whether this worker may still send.
pub(crate) struct LeaseGuard {
    clock: Arc<dyn Clock>,
    lease_end_ms: AtomicI64,
    halted: AtomicBool,
    /// Machine time from which on nothing more is sent, while what is on its way may still be answered.
    sends_until_ms: AtomicI64,
    send_max_age_ms: i64,
    stripes: OnceLock<Vec<Arc<Stripe>>>,
}

impl LeaseGuard {
    /// A guard that refuses everything until the lease is renewed.
    pub(crate) fn new(clock: Arc<dyn Clock>, send_max_age_ms: i64) -> Self {
        Self {
            clock,
            lease_end_ms: AtomicI64::new(i64::MIN),
            halted: AtomicBool::new(false),
            sends_until_ms: AtomicI64::new(i64::MAX),
            send_max_age_ms,
            stripes: OnceLock::new(),
        }
    }

    pub(crate) fn watch(&self, stripes: Vec<Arc<Stripe>>) {
        let _ = self.stripes.set(stripes);
    }

    /// The lease was renewed by a request that started at `started_ms` (machine time): it counts from then.
    pub(crate) fn renewed(&self, started_ms: i64, ttl_ms: i64) {
        self.lease_end_ms.fetch_max(started_ms + ttl_ms, Ordering::SeqCst);
    }

    /// Nothing leaves any more: fenced, or shutting down for good.
    pub(crate) fn halt(&self) {
        self.halted.store(true, Ordering::SeqCst);
    }

    /// From this machine time on nothing more is sent: what waits in a lane is not sent, and known not to be.
    pub(crate) fn send_until(&self, machine_ms: i64) {
        self.sends_until_ms.fetch_min(machine_ms, Ordering::SeqCst);
    }

    /// Whether the lease lasts.
    #[must_use]
    pub(crate) fn lease_lasts(&self) -> bool {
        self.lasts_at(self.clock.machine_ms())
    }

    fn sends_at(&self, machine_ms: i64) -> bool {
        self.lasts_at(machine_ms) && machine_ms < self.sends_until_ms.load(Ordering::SeqCst)
    }

    fn lasts_at(&self, machine_ms: i64) -> bool {
        !self.halted.load(Ordering::SeqCst)
            && machine_ms + LEASE_MARGIN_MS < self.lease_end_ms.load(Ordering::SeqCst)
    }
}

impl SendGuard for LeaseGuard {
    fn may_send(&self, attempt: &Attempt) -> bool {
        let now_ms = self.clock.machine_ms();
        if on(Mutant::NoSendGuard) {
            return true;
        }
        if !self.sends_at(now_ms) {
            return false;
        }
        let Some(stripe) = self.stripes.get().and_then(|all| stripe_of(all, attempt.ticket as i64)) else {
            return false;
        };
        let flights = stripe.flights();
        let Some(flight) = flights.get(&(attempt.ticket as i64)) else { return false };
        reached(Point::BeforeFirstByte);
        flight.planned.attempt_no == attempt.id.attempt_no
            && now_ms - flight.begun_ms < self.send_max_age_ms
            && (self.clock.business() < flight.planned.not_after || on(Mutant::WindowNotChecked))
    }
}

/// The stripe of a subscription: by its shard's slice.
pub(crate) fn stripe_of(stripes: &[Arc<Stripe>], subscription_id: i64) -> Option<&Arc<Stripe>> {
    stripes.get(stripe_index(stripes.len(), (subscription_id >> 32) as i32))
}

/// Spreads a carrier's slices, and the carriers' first slices, over the stripes.
pub(crate) fn stripe_index(stripes: usize, shard: i32) -> usize {
    let mixed = (shard as u32 & 0xfff) + (shard as u32 >> 12);
    mixed as usize % stripes.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn a_drain_stops_sending_before_the_lease_ends() {
        let guard = LeaseGuard::new(Arc::new(SystemClock::default()), 1_000);
        guard.renewed(1_000, 10_000);
        assert!(guard.sends_at(8_000));
        guard.send_until(5_000);
        guard.send_until(7_000);
        assert!(guard.sends_at(4_999) && !guard.sends_at(5_000));
        assert!(guard.lasts_at(8_000), "what was answered is recorded under the lease");
    }

    #[test]
    fn slices_of_a_carrier_spread_evenly() {
        let mut counts = [0; 4];
        for slice in 0..64 {
            counts[stripe_index(4, 3 << 12 | slice)] += 1;
        }
        assert_eq!(counts, [16; 4]);
    }
}
