//! The history in an embedded LSM store (fjall) on this machine; the spool and the history in one.
//!
//! One thread writes: it takes everything that is queued, sorts it by key, commits it as one batch with one sync, and
//! then acknowledges all of it. After an I/O error nothing of the batch is acknowledged, and the same thread opens the
//! database again by itself, so that appends succeed once the disk has room; what was acknowledged before is in the
//! synced journal and comes back with it.
//!
//! On disk: `lock` (held while open) and `db/` (the database; made as `db.creating` and renamed, so a kill while it is
//! made leaves nothing half-done).

mod opened;
mod queue;
mod room;
#[cfg(test)]
mod tests;
mod writer;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use self::opened::Opened;
use self::queue::{Queue, Work};
use self::room::Gauge;
use self::writer::Writer;
use super::dictionary::Digest;
use super::memory_store::check_dictionary;
use super::{HistoryError, HistoryFuture, HistoryKey, HistoryStore, Room, SealedRow, check_append};
use crate::lock_file::LockFile;

/// How long dropping the store waits for what is queued to be written.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// How a [`FjallHistory`] uses its disk and memory.
#[derive(Clone, Debug)]
pub struct FjallHistoryOptions {
    /// The most disk space that the store should take, in bytes. [`HistoryStore::room`] turns to `Full` there; answers
    /// to what was sent before are still stored.
    pub quota_bytes: u64,
    /// What must stay free on the file system, in bytes; below it `room` is `Full`, below twice as much `NearlyFull`.
    /// At least three times `memtable_bytes` is wise: a flush writes a second copy before it frees the first.
    pub min_free_bytes: u64,
    /// The size at which rows move from memory into a sorted file, in bytes. Fixed when the store is created.
    pub memtable_bytes: u64,
    /// The cache of blocks for reading, in bytes.
    pub cache_bytes: u64,
    /// How long an append may take before it fails as timed out, in milliseconds.
    pub append_timeout_ms: u64,
}

impl Default for FjallHistoryOptions {
    fn default() -> FjallHistoryOptions {
        FjallHistoryOptions {
            quota_bytes: 64 << 30,
            min_free_bytes: 1 << 30,
            memtable_bytes: 64 << 20,
            cache_bytes: 32 << 20,
            append_timeout_ms: 30_000,
        }
    }
}

/// A [`HistoryStore`] on this machine's disk. Dropping it writes what is queued and closes it.
pub struct FjallHistory {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

/// What the writer thread, the readers and the owner see.
struct Shared {
    dir: PathBuf,
    options: FjallHistoryOptions,
    queue: Queue,
    gauge: Gauge,
    /// Set from a failed write until the database is open again.
    poisoned: AtomicBool,
    /// `None` while the database is being opened again.
    opened: RwLock<Option<Arc<Opened>>>,
    /// Released last: over all reopenings no other process gets in.
    _lock: LockFile,
}

impl FjallHistory {
    /// Opens the store in `dir`, made if missing. Blocks while the last run's journal is read back (seconds at most).
    /// To read a dead worker's history, simply open it.
    ///
    /// # Errors
    /// [`HistoryError::Locked`] if it is open elsewhere; [`HistoryError::Full`], [`HistoryError::Io`] or
    /// [`HistoryError::Damaged`] if it cannot be made or read.
    pub fn open(dir: &Path, options: FjallHistoryOptions) -> Result<FjallHistory, HistoryError> {
        fs::create_dir_all(dir).map_err(|e| opened::io_error("creating the directory", &e))?;
        let dir = dir.canonicalize().map_err(|e| opened::io_error("finding the directory", &e))?;
        let lock = lock(&dir)?;
        let opened = Arc::new(Opened::open_or_create(&dir, &options)?);
        let shared = Arc::new(Shared {
            dir,
            options,
            queue: Queue::new(),
            gauge: Gauge::new(),
            poisoned: AtomicBool::new(false),
            opened: RwLock::new(Some(opened)),
            _lock: lock,
        });
        let writer = Writer::new(Arc::clone(&shared));
        let writer = std::thread::Builder::new()
            .name("history-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(|e| opened::io_error("starting the writer thread", &e))?;
        Ok(FjallHistory { shared, writer: Some(writer) })
    }

    /// True from a failed write until the store has opened its database again.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.shared.poisoned.load(Ordering::Acquire)
    }

    /// The disk space that the store takes now, in bytes; 0 while it is being reopened.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.shared.opened().map_or(0, |opened| opened.used_bytes())
    }

    async fn submit(&self, work: Work, bytes: usize) -> Result<(), HistoryError> {
        let after_ms = self.shared.options.append_timeout_ms;
        let written =
            async { self.shared.queue.push(work, bytes).await?.await.map_err(|_| HistoryError::Closed)? };
        tokio::time::timeout(Duration::from_millis(after_ms), written)
            .await
            .unwrap_or(Err(HistoryError::TimedOut { after_ms }))
    }

    /// Runs a look-up, which may read from disk, off the async threads.
    fn read<T: Send + 'static>(
        &self,
        look_up: impl FnOnce(&Opened) -> Result<T, HistoryError> + Send + 'static,
    ) -> HistoryFuture<'_, T> {
        Box::pin(async move {
            let opened = self.shared.opened().ok_or(HistoryError::Reopening)?;
            tokio::task::spawn_blocking(move || look_up(&opened))
                .await
                .unwrap_or_else(|_| Err(HistoryError::Io("a look-up did not finish".to_owned())))
        })
    }
}

impl Shared {
    fn opened(&self) -> Option<Arc<Opened>> {
        self.opened.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace_opened(&self, next: Option<Arc<Opened>>) -> Option<Arc<Opened>> {
        std::mem::replace(&mut self.opened.write().unwrap_or_else(PoisonError::into_inner), next)
    }
}

impl HistoryStore for FjallHistory {
    fn append(&self, rows: Vec<SealedRow>) -> HistoryFuture<'_, ()> {
        Box::pin(async move {
            let bytes = check_append(&rows)?;
            if rows.is_empty() {
                return Ok(());
            }
            self.submit(Work::Rows(rows), bytes).await
        })
    }

    fn timeline(
        &self,
        subscription_id: i64,
        month_from: i32,
        month_to: i32,
        max_rows: usize,
    ) -> HistoryFuture<'_, Vec<SealedRow>> {
        self.read(move |opened| opened.timeline(subscription_id, month_from, month_to, max_rows))
    }

    fn get(&self, key: HistoryKey) -> HistoryFuture<'_, Option<SealedRow>> {
        self.read(move |opened| opened.get(key))
    }

    fn count(&self) -> HistoryFuture<'_, u64> {
        self.read(Opened::count)
    }

    fn put_dictionary(&self, digest: Digest, bytes: Vec<u8>) -> HistoryFuture<'_, ()> {
        Box::pin(async move {
            check_dictionary(digest, &bytes)?;
            let length = bytes.len();
            self.submit(Work::Dictionary(digest, bytes), length).await
        })
    }

    fn dictionary(&self, digest: Digest) -> HistoryFuture<'_, Option<Vec<u8>>> {
        self.read(move |opened| opened.dictionary(digest))
    }

    fn room(&self) -> Room {
        if self.is_poisoned() {
            return Room::Full;
        }
        self.shared.gauge.room(|| match self.shared.opened() {
            Some(opened) => room::measure(&self.shared.dir, opened.used_bytes(), &self.shared.options),
            None => Room::Full,
        })
    }
}

impl Drop for FjallHistory {
    fn drop(&mut self) {
        self.shared.queue.close();
        let deadline = Instant::now() + CLOSE_TIMEOUT;
        if let Some(writer) = self.writer.take() {
            while !writer.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
            if writer.is_finished() {
                let _ = writer.join();
            }
        }
        drop(self.shared.replace_opened(None));
    }
}

/// Takes the directory for this process, for as long as the returned file lives.
fn lock(dir: &Path) -> Result<LockFile, HistoryError> {
    LockFile::take(&dir.join("lock"))
        .map_err(|e| opened::io_error("locking the directory", &e))?
        .ok_or_else(|| HistoryError::Locked(dir.to_owned()))
}
