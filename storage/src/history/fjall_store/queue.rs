//! The bounded queue before the writer thread.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::super::dictionary::Digest;
use super::super::{APPEND_BYTES_MAX, HistoryError, SealedRow};

/// What may wait in memory, in KiB, the batch being written included; further appends wait outside.
const QUEUE_KIB_MAX: usize = 96 * 1024;
/// What an append counts for at least, in KiB: so at most 6,144 appends are queued.
const APPEND_KIB_MIN: usize = 16;
/// One batch, in bytes: at least one largest append fits.
const BATCH_BYTES_MAX: usize = APPEND_BYTES_MAX;

/// What the writer is asked to store.
pub(super) enum Work {
    Rows(Vec<SealedRow>),
    Dictionary(Digest, Vec<u8>),
}

/// An append that waits for its acknowledgement.
pub(super) struct Pending {
    pub(super) work: Work,
    ack: oneshot::Sender<Result<(), HistoryError>>,
    bytes: usize,
    _room: OwnedSemaphorePermit,
}

impl Pending {
    /// Tells the caller; one who no longer waits is no error.
    pub(super) fn acknowledge(self, result: Result<(), HistoryError>) {
        let _ = self.ack.send(result);
    }
}

pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    filled: Condvar,
    room_kib: Arc<Semaphore>,
}

#[derive(Default)]
struct Waiting {
    appends: VecDeque<Pending>,
    closed: bool,
}

impl Queue {
    pub(super) fn new() -> Queue {
        Queue {
            waiting: Mutex::default(),
            filled: Condvar::new(),
            room_kib: Arc::new(Semaphore::new(QUEUE_KIB_MAX)),
        }
    }

    /// Queues `work` of `bytes` bytes, after waiting for room. The receiver gets the outcome.
    pub(super) async fn push(
        &self,
        work: Work,
        bytes: usize,
    ) -> Result<oneshot::Receiver<Result<(), HistoryError>>, HistoryError> {
        let kib = bytes.div_ceil(1024).clamp(APPEND_KIB_MIN, QUEUE_KIB_MAX);
        let kib = u32::try_from(kib).map_err(|_| HistoryError::Closed)?;
        let room =
            Arc::clone(&self.room_kib).acquire_many_owned(kib).await.map_err(|_| HistoryError::Closed)?;
        let (ack, outcome) = oneshot::channel();
        let mut waiting = self.waiting();
        if waiting.closed {
            return Err(HistoryError::Closed);
        }
        waiting.appends.push_back(Pending { work, ack, bytes, _room: room });
        drop(waiting);
        self.filled.notify_one();
        Ok(outcome)
    }

    /// Takes everything queued, up to one batch, after waiting at most `wait` for the first; empty if none came.
    /// `None` once the queue is closed and empty.
    pub(super) fn take(&self, wait: Duration) -> Option<Vec<Pending>> {
        let (mut waiting, _) = self
            .filled
            .wait_timeout_while(self.waiting(), wait, |waiting| waiting.appends.is_empty() && !waiting.closed)
            .unwrap_or_else(PoisonError::into_inner);
        if waiting.closed && waiting.appends.is_empty() {
            return None;
        }
        let mut bytes = 0;
        let fitting = waiting.appends.iter().take_while(|pending| {
            bytes += pending.bytes;
            bytes <= BATCH_BYTES_MAX
        });
        let count = fitting.count().max(1).min(waiting.appends.len());
        Some(waiting.appends.drain(..count).collect())
    }

    /// Refuses further appends; what is queued may still be taken.
    pub(super) fn close(&self) {
        self.waiting().closed = true;
        self.room_kib.close();
        self.filled.notify_all();
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // No code that holds the lock can leave it half-changed.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
