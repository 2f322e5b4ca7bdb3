//! The history in memory: for simulations, and the yardstick that the stores on disk are compared with.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::dictionary::{DICTIONARY_BYTES_MAX, Digest, digest_of};
use super::{
    HistoryError, HistoryFuture, HistoryKey, HistoryStore, Room, SealedRow, TIMELINE_ROWS_MAX, check_append,
};

/// A [`HistoryStore`] that forgets everything when it is dropped.
#[derive(Debug, Default)]
pub struct MemoryHistory {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    rows: BTreeMap<HistoryKey, Vec<u8>>,
    dictionaries: BTreeMap<Digest, Vec<u8>>,
    room: Option<Room>,
}

impl MemoryHistory {
    /// An empty store with room.
    #[must_use]
    pub fn new() -> MemoryHistory {
        MemoryHistory::default()
    }

    /// Makes [`HistoryStore::room`] answer `room`; with [`Room::Full`] appends fail, too, as on a full disk.
    pub fn set_room(&self, room: Room) {
        self.kept().room = Some(room);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // No code that holds the lock can leave the maps half-changed.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept_for_writing(&self) -> Result<MutexGuard<'_, Kept>, HistoryError> {
        let kept = self.kept();
        match kept.room {
            Some(Room::Full) => Err(HistoryError::Full("set so".to_owned())),
            _ => Ok(kept),
        }
    }
}

impl HistoryStore for MemoryHistory {
    fn append(&self, rows: Vec<SealedRow>) -> HistoryFuture<'_, ()> {
        Box::pin(async move {
            check_append(&rows)?;
            self.kept_for_writing()?.rows.extend(rows.into_iter().map(|row| (row.key, row.bytes)));
            Ok(())
        })
    }

    fn timeline(
        &self,
        subscription_id: i64,
        month_from: i32,
        month_to: i32,
        max_rows: usize,
    ) -> HistoryFuture<'_, Vec<SealedRow>> {
        Box::pin(async move {
            if month_from > month_to {
                return Ok(Vec::new());
            }
            let (low, high) = HistoryKey::bounds(subscription_id, month_from, month_to);
            let kept = self.kept();
            let rows = kept.rows.range(low..=high).take(max_rows.min(TIMELINE_ROWS_MAX));
            Ok(rows.map(|(key, bytes)| SealedRow { key: *key, bytes: bytes.clone() }).collect())
        })
    }

    fn get(&self, key: HistoryKey) -> HistoryFuture<'_, Option<SealedRow>> {
        Box::pin(async move {
            Ok(self.kept().rows.get(&key).map(|bytes| SealedRow { key, bytes: bytes.clone() }))
        })
    }

    fn count(&self) -> HistoryFuture<'_, u64> {
        Box::pin(async move { Ok(self.kept().rows.len() as u64) })
    }

    fn put_dictionary(&self, digest: Digest, bytes: Vec<u8>) -> HistoryFuture<'_, ()> {
        Box::pin(async move {
            check_dictionary(digest, &bytes)?;
            self.kept_for_writing()?.dictionaries.insert(digest, bytes);
            Ok(())
        })
    }

    fn dictionary(&self, digest: Digest) -> HistoryFuture<'_, Option<Vec<u8>>> {
        Box::pin(async move { Ok(self.kept().dictionaries.get(&digest).cloned()) })
    }

    fn room(&self) -> Room {
        self.kept().room.unwrap_or(Room::Ok)
    }
}

/// Refuses a dictionary above its limit or under a digest that is not its own.
pub(super) fn check_dictionary(digest: Digest, bytes: &[u8]) -> Result<(), HistoryError> {
    if bytes.len() > DICTIONARY_BYTES_MAX {
        let (got, limit) = (bytes.len(), DICTIONARY_BYTES_MAX);
        return Err(HistoryError::Refused { what: "a dictionary of bytes", got, limit });
    }
    if digest != digest_of(bytes) {
        return Err(HistoryError::WrongDigest);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::super::conformance;
    use super::*;

    #[tokio::test]
    async fn conforms() {
        conformance::exercise(&MemoryHistory::new()).await;
    }

    #[tokio::test]
    async fn a_store_set_full_refuses_to_write_and_still_reads() {
        let store = MemoryHistory::new();
        let key = HistoryKey { subscription_id: 1, month: 202_611, period: 1, attempt_no: 1, seq: 0 };
        let row = SealedRow { key, bytes: vec![1] };
        store.append(vec![row.clone()]).await.unwrap();
        store.set_room(Room::Full);
        assert_eq!(store.room(), Room::Full);
        assert!(matches!(store.append(vec![row.clone()]).await, Err(HistoryError::Full(_))));
        assert_eq!(store.get(key).await.unwrap(), Some(row));
    }
}
