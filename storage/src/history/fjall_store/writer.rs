//! The one thread that writes: group commit, and opening the database again after a failure.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::super::HistoryError;
use super::super::dictionary::Digest;
use super::super::key::KEY_BYTES;
use super::Shared;
use super::opened::{CommitError, Opened, wait_until_closed};
use super::queue::{Pending, Work};
use super::room;

/// How often an idle writer looks whether a background write has failed.
const IDLE_LOOK: Duration = Duration::from_millis(250);
/// How often a poisoned writer looks whether it is time to reopen.
const POISONED_LOOK: Duration = Duration::from_millis(20);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A full disk must have this much free again (or the store's own minimum, if that is less) before a reopening is tried:
/// until then the old database still answers look-ups.
const REOPEN_FREE_BYTES: u64 = 8 << 20;

pub(super) struct Writer {
    shared: Arc<Shared>,
    state: State,
    /// Doubles with each failure, starts over with a batch that was committed.
    backoff: Duration,
    /// Kept between batches for its capacity.
    rows: Vec<([u8; KEY_BYTES], Vec<u8>)>,
}

enum State {
    Sound,
    Poisoned { reason: HistoryError, retry_at: Instant },
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>) -> Writer {
        Writer { shared, state: State::Sound, backoff: BACKOFF_MIN, rows: Vec::new() }
    }

    /// Until the queue is closed and empty.
    pub(super) fn run(mut self) {
        while let Some(batch) = self.shared.queue.take(self.look()) {
            self.heal();
            if batch.is_empty() {
                self.probe();
                continue;
            }
            let result = match &self.state {
                State::Sound => self.write(batch),
                State::Poisoned { reason, .. } => (batch, Err(reason.clone())),
            };
            let (batch, outcome) = result;
            for pending in batch {
                pending.acknowledge(outcome.clone());
            }
        }
    }

    fn look(&self) -> Duration {
        match self.state {
            State::Sound => IDLE_LOOK,
            State::Poisoned { .. } => POISONED_LOOK,
        }
    }

    /// Writes one batch; gives it back (its rows moved out) with what became of it.
    fn write(&mut self, mut batch: Vec<Pending>) -> (Vec<Pending>, Result<(), HistoryError>) {
        let Some(opened) = self.shared.opened() else { return (batch, Err(HistoryError::Reopening)) };
        let deadline = Instant::now() + Duration::from_millis(self.shared.options.append_timeout_ms);
        let committed = opened.wait_for_flush(deadline).and_then(|()| {
            let dictionaries = gather(&mut batch, &mut self.rows);
            opened.commit(self.rows.drain(..), dictionaries)
        });
        drop(opened);
        let outcome = match committed {
            Ok(()) => {
                self.backoff = BACKOFF_MIN;
                Ok(())
            }
            Err(CommitError::Refused(reason)) => Err(reason),
            Err(CommitError::Poisoned(reason)) => {
                self.poison(reason.clone());
                Err(reason)
            }
        };
        (batch, outcome)
    }

    fn probe(&mut self) {
        if matches!(self.state, State::Sound)
            && let Some(Err(reason)) = self.shared.opened().map(|opened| opened.probe())
        {
            self.poison(reason);
        }
    }

    fn poison(&mut self, reason: HistoryError) {
        tracing::error!(%reason, "history store poisoned; reopening");
        self.shared.poisoned.store(true, Ordering::Release);
        self.state = State::Poisoned { reason, retry_at: Instant::now() + self.backoff };
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
    }

    /// Opens a poisoned database again when it is time and there is a chance.
    fn heal(&mut self) {
        let State::Poisoned { reason, retry_at } = &self.state else { return };
        if Instant::now() < *retry_at || (matches!(reason, HistoryError::Full(_)) && !self.disk_has_room()) {
            return;
        }
        match self.reopen() {
            Ok(opened) => {
                self.shared.replace_opened(Some(Arc::new(opened)));
                self.state = State::Sound;
                self.shared.gauge.forget();
                self.shared.poisoned.store(false, Ordering::Release);
                tracing::info!("history store reopened");
            }
            Err(reason) => self.poison(reason),
        }
    }

    fn disk_has_room(&self) -> bool {
        let needed = REOPEN_FREE_BYTES.min(self.shared.options.min_free_bytes);
        room::free_bytes(&self.shared.dir).is_ok_and(|free| free >= needed)
    }

    fn reopen(&self) -> Result<Opened, HistoryError> {
        drop(self.shared.replace_opened(None));
        wait_until_closed(&self.shared.dir.join("db"))?;
        Opened::open_existing(&self.shared.dir, &self.shared.options)
    }
}

/// Moves the batch's rows into `rows`, sorted, each key once (the last append of it), and returns its dictionaries.
///
/// Sorted keys cost fjall a third of random ones; and two values under one key in one fjall batch have no order.
fn gather(batch: &mut [Pending], rows: &mut Vec<([u8; KEY_BYTES], Vec<u8>)>) -> Vec<(Digest, Vec<u8>)> {
    rows.clear();
    let mut dictionaries: Vec<(Digest, Vec<u8>)> = Vec::new();
    for pending in batch {
        match &mut pending.work {
            Work::Rows(appended) => rows.extend(appended.drain(..).map(|row| (row.key.encode(), row.bytes))),
            // Equal digests mean equal bytes.
            Work::Dictionary(digest, _) if dictionaries.iter().any(|(known, _)| known == digest) => {}
            Work::Dictionary(digest, bytes) => dictionaries.push((*digest, std::mem::take(bytes))),
        }
    }
    rows.sort_by_key(|row| row.0);
    // The sort is stable: of equal keys the last one came last. Its bytes move to the one that is kept.
    rows.dedup_by(|later, kept| {
        let equal = later.0 == kept.0;
        if equal {
            std::mem::swap(&mut later.1, &mut kept.1);
        }
        equal
    });
    dictionaries
}
