//! Keys that stand in a file more than once: which of its rows is right cannot be told, and two collections under one key
//! would look like one.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use super::matching::Key;

/// Keys of a file while it is read: 8 bytes each, so 60 MiB for the largest file of the shortest rows. A hash that nobody
/// outside can foresee stands for the key: that two of eight million share one happens once in half a million such files, and
/// then people look at two rows.
#[derive(Default)]
pub(super) struct Keys {
    hasher: RandomState,
    hashes: Vec<u64>,
}

impl Keys {
    pub(super) fn add(&mut self, key: Key) {
        self.hashes.push(self.hasher.hash_one(key));
    }

    /// Those that were added more than once.
    pub(super) fn doubles(mut self) -> Doubles {
        self.hashes.sort_unstable();
        let mut more: Vec<u64> =
            self.hashes.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
        more.dedup();
        Doubles { hasher: self.hasher, more }
    }
}

/// Keys that stand in a file more than once.
#[derive(Default)]
pub(super) struct Doubles {
    hasher: RandomState,
    /// Sorted.
    more: Vec<u64>,
}

impl Doubles {
    pub(super) fn has(&self, key: Key) -> bool {
        self.more.binary_search(&self.hasher.hash_one(key)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_there_more_than_once_is_found() {
        let mut keys = Keys::default();
        for seed in 0..1_000 {
            keys.add((seed, 5, 1));
        }
        for key in [(7, 5, 1), (7, 5, 1), (9, 5, 2), (11, 6, 1), (11, 6, 1)] {
            keys.add(key);
        }
        let doubles = keys.doubles();
        assert!(doubles.has((7, 5, 1)) && doubles.has((11, 6, 1)));
        assert!(!doubles.has((9, 5, 2)) && !doubles.has((9, 5, 1)) && !doubles.has((11, 5, 1)));
        assert!(!Keys::default().doubles().has((1, 1, 1)));
    }
}
