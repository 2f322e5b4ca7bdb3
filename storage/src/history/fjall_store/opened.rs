//! The open database: how it is made and opened, one batch in, look-ups out, and what its errors mean.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use fjall::config::CompressionPolicy;
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::super::dictionary::Digest;
use super::super::key::KEY_BYTES;
use super::super::{HistoryError, HistoryKey, SealedRow, TIMELINE_ROWS_MAX};
use super::FjallHistoryOptions;

/// The dictionaries are few and small.
const DICTIONARY_MEMTABLE_BYTES: u64 = 1 << 20;
/// Open sorted files kept at hand; the process needs its descriptors for carriers.
const CACHED_FILES_MAX: usize = 256;
/// The journals together, in bytes, before idle tables are flushed to free the oldest.
const JOURNAL_BYTES_MAX: u64 = 512 << 20;
/// More sealed memtables than this wait for the flush before the writer waits. fjall waits by itself from 4 on, but
/// without end when its own worker thread has died; one commit adds at most two.
const SEALED_MEMTABLES_MAX: usize = 1;
/// The same for files on level 0, where fjall waits from 20 on.
const LEVEL_0_FILES_MAX: usize = 16;

/// fjall's database and its two tables.
pub(super) struct Opened {
    rows: Keyspace,
    dictionaries: Keyspace,
    db: Database,
    dir: std::path::PathBuf,
}

/// Why a batch was not committed.
pub(super) enum CommitError {
    /// The database must be opened again.
    Poisoned(HistoryError),
    /// Nothing was written, and the database is sound.
    Refused(HistoryError),
}

impl Opened {
    /// Opens `dir/db`, made first if it does not exist. The caller holds the lock of `dir`.
    pub(super) fn open_or_create(dir: &Path, options: &FjallHistoryOptions) -> Result<Opened, HistoryError> {
        let db = dir.join("db");
        let exists = db.try_exists().map_err(|e| io_error("looking for the database", &e))?;
        if !exists {
            let draft = dir.join("db.creating");
            match fs::remove_dir_all(&draft) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("removing a draft", &e));
                }
                _ => {}
            }
            drop(open_at(&draft, options)?);
            wait_until_closed(&draft)?;
            fs::rename(&draft, &db)
                .and_then(|()| File::open(dir)?.sync_all())
                .map_err(|e| io_error("putting the new database in place", &e))?;
        } else if !db.join("version").is_file() {
            // fjall would make a new, empty database here.
            return Err(HistoryError::Damaged(format!("{} has no version file", db.display())));
        }
        Opened::open_existing(dir, options)
    }

    /// Opens `dir/db`, which exists, and reads its journal back.
    pub(super) fn open_existing(dir: &Path, options: &FjallHistoryOptions) -> Result<Opened, HistoryError> {
        open_at(&dir.join("db"), options)
    }

    /// Waits while the flush is behind. With a dead worker this finds the poison instead of waiting for ever.
    pub(super) fn wait_for_flush(&self, deadline: Instant) -> Result<(), CommitError> {
        while self.rows.sealed_memtable_count() > SEALED_MEMTABLES_MAX
            || self.rows.l0_table_count() > LEVEL_0_FILES_MAX
        {
            self.probe().map_err(CommitError::Poisoned)?;
            if Instant::now() >= deadline {
                let behind = HistoryError::Io("flushing is too far behind".to_owned());
                return Err(CommitError::Refused(behind));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Finds out whether a write in the background has failed.
    pub(super) fn probe(&self) -> Result<(), HistoryError> {
        self.db.persist(PersistMode::Buffer).map_err(|e| self.classify(e))
    }

    /// Writes and syncs all of it as one atomic batch. `rows` must be sorted by key, each key once.
    pub(super) fn commit(
        &self,
        rows: impl ExactSizeIterator<Item = ([u8; KEY_BYTES], Vec<u8>)>,
        dictionaries: Vec<(Digest, Vec<u8>)>,
    ) -> Result<(), CommitError> {
        let mut batch =
            fjall::OwnedWriteBatch::with_capacity(self.db.clone(), rows.len() + dictionaries.len())
                .durability(Some(PersistMode::SyncData));
        for (key, bytes) in rows {
            batch.insert(&self.rows, key, bytes);
        }
        let flush_dictionaries = !dictionaries.is_empty();
        for (digest, bytes) in dictionaries {
            batch.insert(&self.dictionaries, digest, bytes);
        }
        batch.commit().map_err(|e| CommitError::Poisoned(self.classify(e)))?;
        if flush_dictionaries {
            // Else this rarely written table would hold on to every journal file written after it.
            let _ = self.dictionaries.rotate_memtable();
        }
        Ok(())
    }

    pub(super) fn timeline(
        &self,
        subscription_id: i64,
        month_from: i32,
        month_to: i32,
        max_rows: usize,
    ) -> Result<Vec<SealedRow>, HistoryError> {
        if month_from > month_to {
            return Ok(Vec::new());
        }
        let (low, high) = HistoryKey::bounds(subscription_id, month_from, month_to);
        let found = self.rows.range(low.encode()..=high.encode()).take(max_rows.min(TIMELINE_ROWS_MAX));
        found
            .map(|entry| {
                let (key, value) = entry.into_inner().map_err(read_error)?;
                let key = HistoryKey::decode(&key)
                    .ok_or_else(|| HistoryError::Damaged(format!("key of {} bytes", key.len())))?;
                Ok(SealedRow { key, bytes: value.to_vec() })
            })
            .collect()
    }

    pub(super) fn get(&self, key: HistoryKey) -> Result<Option<SealedRow>, HistoryError> {
        let found = self.rows.get(key.encode()).map_err(read_error)?;
        Ok(found.map(|value| SealedRow { key, bytes: value.to_vec() }))
    }

    pub(super) fn count(&self) -> Result<u64, HistoryError> {
        self.rows.len().map(|rows| rows as u64).map_err(read_error)
    }

    pub(super) fn dictionary(&self, digest: Digest) -> Result<Option<Vec<u8>>, HistoryError> {
        Ok(self.dictionaries.get(digest).map_err(read_error)?.map(|value| value.to_vec()))
    }

    /// The disk space taken: sorted files as fjall counts them, journals by their blocks (they are made sparse).
    pub(super) fn used_bytes(&self) -> u64 {
        let journals = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let journals = journals.filter(|entry| entry.path().extension().is_some_and(|e| e == "jnl"));
        let journal_bytes: u64 = journals.filter_map(|j| Some(j.metadata().ok()?.blocks() * 512)).sum();
        journal_bytes + self.rows.disk_space() + self.dictionaries.disk_space()
    }

    fn classify(&self, error: fjall::Error) -> HistoryError {
        match error {
            fjall::Error::Poisoned => match super::room::free_bytes(&self.dir) {
                Ok(free) if free < DISK_FULL_BYTES => {
                    HistoryError::Full(format!("a background write failed with {free} bytes free"))
                }
                _ => HistoryError::Io("a background write failed".to_owned()),
            },
            other => read_error(other),
        }
    }
}

/// With less than this free, a failed write of unknown cause is taken for a full disk.
const DISK_FULL_BYTES: u64 = 4 << 20;

fn open_at(path: &Path, options: &FjallHistoryOptions) -> Result<Opened, HistoryError> {
    // fjall asserts some of what it reads back: a panic there must not take the writer thread along.
    catch_unwind(AssertUnwindSafe(|| {
        let db = Database::builder(path)
            .journal_compression(CompressionType::None)
            .worker_threads(1)
            .cache_size(options.cache_bytes)
            .max_cached_files(Some(CACHED_FILES_MAX))
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .open()?;
        let table = |memtable_bytes| {
            // Rows are encrypted: compressing them again is a waste.
            KeyspaceCreateOptions::default()
                .max_memtable_size(memtable_bytes)
                .data_block_compression_policy(CompressionPolicy::disabled())
                .expect_point_read_hits(true)
        };
        let rows = db.keyspace("rows", || table(options.memtable_bytes))?;
        let dictionaries = db.keyspace("dictionaries", || table(DICTIONARY_MEMTABLE_BYTES))?;
        Ok(Opened { rows, dictionaries, db, dir: path.to_owned() })
    }))
    .unwrap_or_else(|_| Err(fjall::Error::Unrecoverable))
    .map_err(|error| match error {
        fjall::Error::Locked => HistoryError::Locked(path.to_owned()),
        other => read_error(other),
    })
}

/// Waits until this process has no file below `dir` open any more.
///
/// fjall's own threads may outlive the database by a moment, with a journal still buffered in their hands; a database
/// opened before they are gone would share the file with them.
pub(super) fn wait_until_closed(dir: &Path) -> Result<(), HistoryError> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let open_files = fs::read_dir("/proc/self/fd").map_err(|e| io_error("listing open files", &e))?;
        let mut targets = open_files.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
        if !targets.any(|target| target.starts_with(dir)) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(HistoryError::Io("the closed database still has files open".to_owned()));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What an I/O error means to the caller: whether the disk is full is what matters.
pub(super) fn io_error(doing: &str, error: &io::Error) -> HistoryError {
    let text = format!("{doing}: {error}");
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => HistoryError::Full(text),
        _ => HistoryError::Io(text),
    }
}

fn read_error(error: fjall::Error) -> HistoryError {
    match error {
        fjall::Error::Io(e) | fjall::Error::Storage(fjall::LsmError::Io(e)) => io_error("database", &e),
        fjall::Error::Poisoned | fjall::Error::Locked | fjall::Error::KeyspaceDeleted => {
            HistoryError::Io(error.to_string())
        }
        damaged => HistoryError::Damaged(damaged.to_string()),
    }
}
