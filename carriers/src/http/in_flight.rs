//! How many exchanges may be under way at a time: a cap that changes while the link works.

use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Notify;

/// The cap and what is inside. A smaller cap cuts nothing short: new exchanges wait until enough have ended. That wait
/// ends when those inside have connected, had their permits and their answers, each by its deadline, and the send guard
/// refuses what became too old meanwhile.
pub(super) struct InFlight {
    max: AtomicU32,
    busy: AtomicU32,
    freed: Notify,
}

/// A place, given back when dropped.
pub(super) struct Place<'a>(&'a InFlight);

impl InFlight {
    pub(super) fn new(max: u32) -> Self {
        Self { max: AtomicU32::new(max.max(1)), busy: AtomicU32::new(0), freed: Notify::new() }
    }

    /// Never below one: a worker that owns a slice can always charge it.
    pub(super) fn set_max(&self, max: u32) {
        self.max.store(max.max(1), Ordering::SeqCst);
        self.freed.notify_waiters();
    }

    pub(super) async fn enter(&self) -> Place<'_> {
        if self.try_enter() {
            return Place(self);
        }
        loop {
            let mut freed = pin!(self.freed.notified());
            // Before the look, so that a place that is freed in between is not missed.
            freed.as_mut().enable();
            if self.try_enter() {
                return Place(self);
            }
            freed.await;
        }
    }

    fn try_enter(&self) -> bool {
        let max = self.max.load(Ordering::SeqCst);
        let entered = self
            .busy
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |busy| (busy < max).then_some(busy + 1));
        entered.is_ok()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::SeqCst);
        self.0.freed.notify_one();
    }
}
