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

    /// Whether the lease lasts.
    #[must_use]
    pub(crate) fn lease_lasts(&self) -> bool {
        self.lasts_at(self.clock.machine_ms())
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
        if !self.lasts_at(now_ms) {
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

    #[test]
    fn slices_of_a_carrier_spread_evenly() {
        let mut counts = [0; 4];
        for slice in 0..64 {
            counts[stripe_index(4, 3 << 12 | slice)] += 1;
        }
        assert_eq!(counts, [16; 4]);
    }
}
