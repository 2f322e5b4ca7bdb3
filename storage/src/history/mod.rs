//! The full interaction history: one encrypted row per exchange, kept where a charge can be explained years later.
//!
//! [`HistoryStore`] is the seam. [`FjallHistory`] keeps the rows in an embedded LSM store on this machine, where it is
//! the spool at the same time; [`MemoryHistory`] keeps them in memory for simulations. Both pass
//! [`conformance::exercise`]. Rows arrive sealed (see [`seal`]): a store never sees plain bytes.
//!
//! Writes are upserts under deterministic keys, at least once: after an error or a time-out the caller appends the same
//! rows again.

pub mod conformance;
mod dictionary;
mod fjall_store;
mod key;
mod memory_store;
pub mod seal;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

pub use dictionary::{DICTIONARY_BYTES_MAX, Digest, NO_DICTIONARY, digest_of, train};
pub use fjall_store::{FjallHistory, FjallHistoryOptions};
pub use key::{HistoryKey, KEY_BYTES};
pub use memory_store::MemoryHistory;

/// The largest row that a store takes, in bytes as sealed.
pub const ROW_BYTES_MAX: usize = 5 * 1024 * 1024;
/// The most rows of one [`HistoryStore::append`].
pub const APPEND_ROWS_MAX: usize = 4096;
/// The most bytes of one [`HistoryStore::append`].
pub const APPEND_BYTES_MAX: usize = 32 * 1024 * 1024;
/// The most rows that one [`HistoryStore::timeline`] returns.
pub const TIMELINE_ROWS_MAX: usize = 10_000;

/// What the methods of a [`HistoryStore`] return: one boxed future per batch or look-up, never one per row.
pub type HistoryFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, HistoryError>> + Send + 'a>>;

/// One row: its place and its sealed bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedRow {
    /// Where it belongs.
    pub key: HistoryKey,
    /// What [`seal::Sealer::seal`] made.
    pub bytes: Vec<u8>,
}

/// How much room a store has left; asked before anything is sent, since what cannot be recorded must not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Go on.
    Ok,
    /// Go on, and warn.
    NearlyFull,
    /// Send nothing more. Answers to what was sent before are still taken as long as the disk allows.
    Full,
}

/// Why the history could not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// The disk or its quota is full. Nothing of this append is acknowledged; it may be stored in part.
    #[error("history store is out of space: {0}")]
    Full(String),
    /// Reading or writing failed. Nothing of this append is acknowledged; it may be stored in part.
    #[error("history store failed: {0}")]
    Io(String),
    /// Another process (or another store in this one) has the directory open.
    #[error("history store {} is open in another process", .0.display())]
    Locked(PathBuf),
    /// The files are not what this store left there.
    #[error("history store is damaged: {0}")]
    Damaged(String),
    /// The deadline passed; the rows may be stored or not. Append them again.
    #[error("history store did not answer within {after_ms} ms")]
    TimedOut {
        /// The deadline, in milliseconds.
        after_ms: u64,
    },
    /// The store is being opened again after a failure; try again shortly.
    #[error("history store is being reopened after a failure")]
    Reopening,
    /// The store was closed.
    #[error("history store is closed")]
    Closed,
    /// A row, a batch or a dictionary above its limit, or a dictionary under a wrong digest. Trying again is useless.
    #[error("history store refuses {what} of {got}, limit {limit}")]
    Refused {
        /// What was too large.
        what: &'static str,
        /// Its size.
        got: usize,
        /// The limit.
        limit: usize,
    },
    /// A dictionary was given under a digest that is not its own.
    #[error("dictionary does not have the digest that it was given under")]
    WrongDigest,
}

/// A place for the history. All implementations behave alike; [`conformance::exercise`] says how.
pub trait HistoryStore: Send + Sync {
    /// Stores the rows, replacing rows of the same key (of equal keys in one call the last one counts). Resolves with
    /// `Ok` only when all of them are durable.
    ///
    /// At most [`APPEND_ROWS_MAX`] rows, [`APPEND_BYTES_MAX`] bytes, [`ROW_BYTES_MAX`] a row. Dropping the future does
    /// not take the rows back.
    ///
    /// # Errors
    /// Any [`HistoryError`]; no row of the call is then acknowledged.
    fn append(&self, rows: Vec<SealedRow>) -> HistoryFuture<'_, ()>;

    /// The rows of one subscription whose periods lie in the months `month_from..=month_to` (yyyymm), in order of their
    /// keys, the first `max_rows` of them (at most [`TIMELINE_ROWS_MAX`]).
    ///
    /// # Errors
    /// [`HistoryError::Io`], [`HistoryError::Damaged`], [`HistoryError::Reopening`].
    fn timeline(
        &self,
        subscription_id: i64,
        month_from: i32,
        month_to: i32,
        max_rows: usize,
    ) -> HistoryFuture<'_, Vec<SealedRow>>;

    /// The row under `key`, if there is one.
    ///
    /// # Errors
    /// As [`Self::timeline`].
    fn get(&self, key: HistoryKey) -> HistoryFuture<'_, Option<SealedRow>>;

    /// How many rows there are, exactly; reads every key, so not for the hot path.
    ///
    /// # Errors
    /// As [`Self::timeline`].
    fn count(&self) -> HistoryFuture<'_, u64>;

    /// Stores a compression dictionary under its digest ([`digest_of`]); durable when it resolves, which must be before
    /// the first row sealed with it is appended.
    ///
    /// # Errors
    /// [`HistoryError::WrongDigest`], [`HistoryError::Refused`], or as [`Self::append`].
    fn put_dictionary(&self, digest: Digest, bytes: Vec<u8>) -> HistoryFuture<'_, ()>;

    /// The dictionary under `digest`, if it was ever stored.
    ///
    /// # Errors
    /// As [`Self::timeline`].
    fn dictionary(&self, digest: Digest) -> HistoryFuture<'_, Option<Vec<u8>>>;

    /// How much room is left. Cheap enough to ask before every batch.
    fn room(&self) -> Room;
}

/// Refuses what no store takes, before anything is queued.
fn check_append(rows: &[SealedRow]) -> Result<usize, HistoryError> {
    let refuse_above = |what, got, limit| {
        if got > limit { Err(HistoryError::Refused { what, got, limit }) } else { Ok(()) }
    };
    refuse_above("an append of rows", rows.len(), APPEND_ROWS_MAX)?;
    let mut bytes = 0;
    for row in rows {
        refuse_above("a row of bytes", row.bytes.len(), ROW_BYTES_MAX)?;
        bytes += row.bytes.len() + KEY_BYTES;
    }
    refuse_above("an append of bytes", bytes, APPEND_BYTES_MAX)?;
    Ok(bytes)
}
