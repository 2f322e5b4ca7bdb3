//! A map in 256 parts, so that its growth never stops the carrier for long.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};

use super::draw::Quick;

const PARTS: usize = 256;

/// A `HashMap` split by hash. One map of ten million keys moves them all at once when it grows, for half a second in which
/// nobody is answered; 256 small ones move 40,000 each, for a few milliseconds.
pub(super) struct Shards<K, V> {
    parts: Vec<HashMap<K, V, Quick>>,
}

impl<K: Hash + Eq, V> Shards<K, V> {
    pub(super) fn new() -> Self {
        Self { parts: (0..PARTS).map(|_| HashMap::with_hasher(Quick)).collect() }
    }

    pub(super) fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.parts.get(part_of(key))?.get(key)
    }

    pub(super) fn get_mut<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.parts.get_mut(part_of(key))?.get_mut(key)
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        if let Some(part) = self.parts.get_mut(part_of(&key)) {
            part.insert(key, value);
        }
    }
}

/// Bits from the middle: the maps themselves use the lowest and the highest.
fn part_of<Q: Hash + ?Sized>(key: &Q) -> usize {
    (Quick.hash_one(key) >> 40) as usize % PARTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_every_key_and_spreads_them() {
        let mut map: Shards<Box<str>, u64> = Shards::new();
        for n in 0..10_000 {
            map.insert(format!("key-{n}").into(), n);
        }
        assert!((0..10_000).all(|n| map.get(format!("key-{n}").as_str()) == Some(&n)));
        assert_eq!(map.get("key-10000"), None);
        assert!(map.parts.iter().all(|part| part.len() < 120), "parts are uneven");
    }
}
