//! The versions of the book that a worker decides under. New charges are decided under the one in force; a charge that
//! has an attempt keeps its own, whatever is applied meanwhile.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use storage::pg::DueRow;

use crate::catalog::Catalog;

/// Earlier versions that are held at once; the oldest is dropped first and read again when it is needed.
const EARLIER_MAX: usize = 32;
/// Rows that wait for a newer book; more wait without being noted, and are looked at again all the same.
const UNKNOWN_MAX: usize = 10_000;
/// A row whose plan no version of the book has is left alone for at most so long while the book cannot be asked.
const UNKNOWN_WAIT_MS: i64 = 30_000;

/// The versions that a worker holds.
#[derive(Debug)]
pub(crate) struct Books {
    current: RwLock<Arc<Catalog>>,
    earlier: RwLock<BTreeMap<i32, Arc<Catalog>>>,
    /// Versions that a row named and that are not held.
    wanted: Mutex<BTreeSet<i32>>,
    /// Rows whose plan or zone is in no version that we know: since when, machine time.
    unknown: Mutex<HashMap<i64, i64>>,
    /// When the database last said that no newer version is in force, machine time.
    confirmed_ms: AtomicI64,
}

impl Books {
    pub(crate) fn new(current: Catalog) -> Self {
        Self {
            current: RwLock::new(Arc::new(current)),
            earlier: RwLock::default(),
            wanted: Mutex::default(),
            unknown: Mutex::default(),
            confirmed_ms: AtomicI64::new(i64::MIN),
        }
    }

    /// The version in force.
    pub(crate) fn current(&self) -> Arc<Catalog> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The version that a row is decided under: its own when its charge has an attempt, else `current`. `None` when that
    /// one is not held yet; it is asked for, so look again soon.
    pub(crate) fn of(&self, row: &DueRow, current: &Arc<Catalog>) -> Option<Arc<Catalog>> {
        if row.sub.progress.attempt_no == 0 {
            return Some(Arc::clone(current));
        }
        self.version(row.book_version, current)
    }

    /// The same for an answer, which cannot wait: where its version is not held, the one in force decides.
    pub(crate) fn for_answer(&self, version: i32) -> Arc<Catalog> {
        let current = self.current();
        self.version(version, &current).unwrap_or(current)
    }

    /// A version, if it is held (or what stands in for one that cannot be read); else it is asked for, so look again soon.
    pub(crate) fn held(&self, version: i32) -> Option<Arc<Catalog>> {
        self.version(version, &self.current())
    }

    fn version(&self, version: i32, current: &Arc<Catalog>) -> Option<Arc<Catalog>> {
        if version == current.names.book_version {
            return Some(Arc::clone(current));
        }
        let held = self.earlier.read().unwrap_or_else(PoisonError::into_inner).get(&version).cloned();
        if held.is_none() {
            locked(&self.wanted).insert(version);
        }
        held
    }

    /// Puts a newer version in force. Attempts on their way keep theirs.
    pub(crate) fn put_in_force(&self, catalog: Catalog) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *current, Arc::new(catalog));
        drop(current);
        self.hold(before.names.book_version, before);
        locked(&self.unknown).clear();
    }

    /// Holds an earlier version.
    pub(crate) fn hold(&self, version: i32, catalog: Arc<Catalog>) {
        locked(&self.wanted).remove(&version);
        let mut earlier = self.earlier.write().unwrap_or_else(PoisonError::into_inner);
        earlier.insert(version, catalog);
        if earlier.len() > EARLIER_MAX
            && let Some(oldest) = earlier.keys().copied().find(|held| *held != version)
        {
            earlier.remove(&oldest);
        }
    }

    /// Earlier versions that rows name and that are not held.
    pub(crate) fn wanted(&self) -> Vec<i32> {
        locked(&self.wanted).iter().copied().collect()
    }

    /// The database said at `asked_ms` (machine time, before it was asked) that ours is the version in force.
    pub(crate) fn confirmed(&self, asked_ms: i64) {
        self.confirmed_ms.store(asked_ms, Ordering::SeqCst);
    }

    /// Whether a row that names a plan or zone beyond our version may belong to a newer one: until the database was asked
    /// after the row was seen. `false`: no book has it.
    pub(crate) fn may_come(&self, subscription_id: i64, now_ms: i64) -> bool {
        let mut unknown = locked(&self.unknown);
        if unknown.len() >= UNKNOWN_MAX && !unknown.contains_key(&subscription_id) {
            return true;
        }
        let since_ms = *unknown.entry(subscription_id).or_insert(now_ms);
        let waits =
            self.confirmed_ms.load(Ordering::SeqCst) <= since_ms && now_ms - since_ms < UNKNOWN_WAIT_MS;
        if !waits {
            unknown.remove(&subscription_id);
        }
        waits
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use storage::pg::Names;

    use super::*;

    fn catalog(version: i32) -> Catalog {
        Catalog::new(&[], Names { book_version: version, ..Names::default() }).unwrap()
    }

    #[test]
    fn an_earlier_version_is_asked_for_and_then_held() {
        let books = Books::new(catalog(3));
        let current = books.current();
        assert_eq!(books.version(3, &current).unwrap().names.book_version, 3);
        assert!(books.version(1, &current).is_none());
        assert_eq!(books.wanted(), [1]);
        books.hold(1, Arc::new(catalog(1)));
        assert!(books.wanted().is_empty());
        assert_eq!(books.version(1, &current).unwrap().names.book_version, 1);
        books.put_in_force(catalog(4));
        assert_eq!(books.current().names.book_version, 4);
        assert_eq!(books.for_answer(3).names.book_version, 3, "what was in force is still held");
        assert_eq!(books.for_answer(2).names.book_version, 4, "an answer cannot wait");
        (10..100).for_each(|version| books.hold(version, Arc::new(catalog(version))));
        assert!(books.earlier.read().unwrap().len() <= EARLIER_MAX);
    }

    #[test]
    fn a_row_beyond_our_version_waits_until_the_book_was_asked_after_it_was_seen() {
        let books = Books::new(catalog(1));
        books.confirmed(90);
        assert!(books.may_come(7, 100), "asked before it was seen");
        books.confirmed(100);
        assert!(books.may_come(7, 110), "asked in the same millisecond");
        books.confirmed(101);
        assert!(!books.may_come(7, 120));
        assert!(books.may_come(7, 130), "a new sight begins anew");
        assert!(books.may_come(8, 200) && !books.may_come(8, 200 + UNKNOWN_WAIT_MS), "but not for ever");
        assert!(books.may_come(9, 300));
        books.put_in_force(catalog(2));
        books.confirmed(301);
        assert!(books.may_come(9, 400), "a new version, a new look");
    }
}
