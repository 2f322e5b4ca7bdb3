//! Is this still the server that we wrote to? Asked at every connect; between two connects it cannot become another one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use storage::guard::{GuardMemory, Seen};
use storage::mutants::{Mutant, on};
use storage::pg::{QuarantineTerms, StoreError};
use storage::store::{Conn, check_guard};

use crate::guard::LeaseGuard;
use crate::worker::WorkerSettings;

/// After a crash the server's log may end a little before what was flushed: the beginning of a record that was never whole.
const LSN_SLACK: i64 = 65_536;

/// How this worker opens a quarantine.
pub(crate) fn terms_of(settings: &WorkerSettings) -> QuarantineTerms {
    QuarantineTerms::waiting(settings.quarantine_wait_ms)
}

/// What the server is when a worker starts, compared with its own guard row and with what this machine remembers.
pub(crate) async fn first_look(
    conn: &mut Conn,
    memory: &GuardMemory,
    terms: QuarantineTerms,
) -> Result<Seen, StoreError> {
    if on(Mutant::NoQuarantine) {
        return Ok(Seen::default());
    }
    let checked = check_guard(conn, memory.read(), terms).await?;
    if let Some(id) = checked.opened {
        tracing::error!(quarantine = id, timeline = checked.seen.timeline, "the database failed over");
        metrics::counter!("tollbook_failovers_total").increment(1);
    }
    keep(memory, checked.seen);
    Ok(checked.seen)
}

/// Compares each connection with the server that this incarnation started on.
pub(crate) struct Watch {
    seen: Mutex<Seen>,
    memory: Arc<GuardMemory>,
    terms: QuarantineTerms,
    guard: Arc<LeaseGuard>,
    found: AtomicBool,
}

impl Watch {
    pub(crate) fn new(
        seen: Seen,
        memory: Arc<GuardMemory>,
        terms: QuarantineTerms,
        guard: Arc<LeaseGuard>,
    ) -> Self {
        Self { seen: Mutex::new(seen), memory, terms, guard, found: AtomicBool::new(false) }
    }

    /// Whether this incarnation's server is gone: it sends and records nothing more.
    pub(crate) fn found(&self) -> bool {
        self.found.load(Ordering::SeqCst)
    }

    /// Lets a new connection in, if it leads to the server that we know.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] after a failover: everything in memory may be about rows that are lost.
    pub(crate) async fn admit(&self, conn: &mut Conn) -> Result<(), StoreError> {
        if on(Mutant::NoQuarantine) {
            return Ok(());
        }
        let before = *self.seen();
        let checked = check_guard(conn, Some(before), self.terms).await?;
        let now = checked.seen;
        let same = (now.system_identifier, now.timeline) == (before.system_identifier, before.timeline)
            && now.counter >= before.counter
            && now.lsn.saturating_add(LSN_SLACK) >= before.lsn;
        if checked.opened.is_none() && same {
            let mut seen = self.seen();
            *seen = seen.later(now);
            return Ok(());
        }
        // First of all: no further first byte. What is begun goes back as not sent.
        self.guard.halt();
        if !self.found.swap(true, Ordering::SeqCst) && checked.opened.is_some() {
            metrics::counter!("tollbook_failovers_total").increment(1);
        }
        Err(StoreError::Fenced(format!(
            "the database failed over or went back: timeline {} at {}, before {} at {}",
            now.timeline, now.lsn, before.timeline, before.lsn
        )))
    }

    /// The guard row was touched: its counter, and how far the server's log was durable then.
    pub(crate) fn touched(&self, (counter, lsn): (i64, i64)) {
        let seen = {
            let mut seen = self.seen();
            *seen = seen.later(Seen { counter, lsn, ..*seen });
            *seen
        };
        keep(&self.memory, seen);
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Without the file the database's own row still tells, but for an old copy of it.
fn keep(memory: &GuardMemory, seen: Seen) {
    if let Err(error) = memory.keep(seen) {
        tracing::warn!(%error, "cannot note which server this is");
    }
}
