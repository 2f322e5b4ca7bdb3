//! The due wheel: when each subscription of the owned shards fires, in memory, for a bounded horizon.
//!
//! 16-byte entries in buckets per shard. The rows themselves are loaded when due, so a stale entry costs one look and
//! never a charge. What lies beyond the horizon is not held: the filler reads it in chunks before its time comes.

use std::collections::BTreeMap;

use billing_core::ids::Shard;
use storage::pg::WheelEntry;

/// The wheel of one stripe's shards.
#[derive(Debug)]
pub(crate) struct Wheel {
    shards: BTreeMap<i32, ShardWheel>,
    bucket_ms: i64,
    /// Where the last round stopped: shards take turns.
    turn: i32,
}

#[derive(Debug, Default)]
struct ShardWheel {
    buckets: BTreeMap<i64, Vec<WheelEntry>>,
    /// Everything that fires before this is held.
    loaded_until_ms: i64,
    /// The filler is reading up to this; what is inserted meanwhile must not be lost.
    filling_until_ms: i64,
    draining: bool,
}

impl Wheel {
    /// An empty wheel whose buckets are `bucket_ms` business milliseconds wide.
    #[must_use]
    pub(crate) fn new(bucket_ms: i64) -> Self {
        Self { shards: BTreeMap::new(), bucket_ms: bucket_ms.max(1), turn: i32::MIN }
    }

    /// Takes a shard in; nothing of it is known yet.
    pub(crate) fn add_shard(&mut self, shard: Shard) {
        self.shards.entry(shard.0).or_insert_with(|| ShardWheel {
            loaded_until_ms: i64::MIN,
            filling_until_ms: i64::MIN,
            ..ShardWheel::default()
        });
    }

    /// Lets a shard go.
    pub(crate) fn remove_shard(&mut self, shard: Shard) {
        self.shards.remove(&shard.0);
    }

    /// Stops giving out what is due in a shard (it is being handed over), or starts again.
    pub(crate) fn set_draining(&mut self, shard: Shard, draining: bool) {
        if let Some(wheel) = self.shards.get_mut(&shard.0) {
            wheel.draining = draining;
        }
    }

    /// The shards that it holds.
    pub(crate) fn shards(&self) -> impl Iterator<Item = Shard> + '_ {
        self.shards.keys().map(|shard| Shard(*shard))
    }

    /// Whether a shard is held, and not being handed over.
    #[must_use]
    pub(crate) fn serves(&self, shard: Shard) -> bool {
        self.shards.get(&shard.0).is_some_and(|wheel| !wheel.draining)
    }

    /// Until when a shard is loaded, business milliseconds; `None` when it is not held.
    #[must_use]
    pub(crate) fn loaded_until_ms(&self, shard: Shard) -> Option<i64> {
        self.shards.get(&shard.0).map(|wheel| wheel.loaded_until_ms)
    }

    /// The filler begins to read a shard up to a horizon.
    pub(crate) fn begin_fill(&mut self, shard: Shard, until_ms: i64) {
        if let Some(wheel) = self.shards.get_mut(&shard.0) {
            wheel.filling_until_ms = until_ms;
        }
    }

    /// The filler has read all of it.
    pub(crate) fn end_fill(&mut self, shard: Shard) {
        if let Some(wheel) = self.shards.get_mut(&shard.0) {
            wheel.loaded_until_ms = wheel.loaded_until_ms.max(wheel.filling_until_ms);
        }
    }

    /// Puts an entry in, unless its shard is not held or the entry lies beyond what is loaded (the filler will find it
    /// then).
    pub(crate) fn insert(&mut self, entry: WheelEntry) {
        let bucket = entry.at_ms.div_euclid(self.bucket_ms);
        let Some(wheel) = self.shards.get_mut(&((entry.id >> 32) as i32)) else { return };
        if entry.at_ms < wheel.loaded_until_ms.max(wheel.filling_until_ms) {
            wheel.buckets.entry(bucket).or_default().push(entry);
        }
    }

    /// Puts an entry in that fires at another instant than its row says: the filler would not find it.
    pub(crate) fn keep(&mut self, entry: WheelEntry) {
        let bucket = entry.at_ms.div_euclid(self.bucket_ms);
        if let Some(wheel) = self.shards.get_mut(&((entry.id >> 32) as i32)) {
            wheel.buckets.entry(bucket).or_default().push(entry);
        }
    }

    /// Takes out up to `max` subscriptions that are due at `now_ms`, sorted by id, never more of a carrier than it has
    /// room for. Shards take turns, so that a busy one starves nobody.
    pub(crate) fn due(&mut self, now_ms: i64, max: usize, room: &mut dyn FnMut(i32) -> usize) -> Vec<i64> {
        let mut taken: Vec<i64> = Vec::new();
        let mut left: BTreeMap<i32, usize> = BTreeMap::new();
        let sequence: Vec<i32> =
            self.shards.range(self.turn..).chain(self.shards.range(..self.turn)).map(|(s, _)| *s).collect();
        for shard in sequence {
            if taken.len() >= max {
                self.turn = shard;
                break;
            }
            let carrier_no = Shard(shard).carrier_no();
            let left = left.entry(carrier_no).or_insert_with(|| room(carrier_no));
            let Some(wheel) = self.shards.get_mut(&shard).filter(|wheel| !wheel.draining) else { continue };
            wheel.take(now_ms, self.bucket_ms, max, left, &mut taken);
        }
        taken.sort_unstable();
        taken.dedup();
        taken
    }

    /// How many entries have their time behind them and wait for their turn.
    #[must_use]
    pub(crate) fn due_len(&self, now_ms: i64) -> usize {
        let last = now_ms.div_euclid(self.bucket_ms);
        let buckets = self.shards.values().flat_map(|wheel| wheel.buckets.range(..=last));
        let due = |(bucket, entries): (&i64, &Vec<WheelEntry>)| match *bucket == last {
            // Only the one that runs has to be looked into.
            true => entries.iter().filter(|entry| entry.at_ms <= now_ms).count(),
            false => entries.len(),
        };
        buckets.map(due).sum()
    }

    /// How many entries it holds.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.shards.values().flat_map(|wheel| wheel.buckets.values()).map(Vec::len).sum()
    }
}

impl ShardWheel {
    fn take(&mut self, now_ms: i64, bucket_ms: i64, max: usize, left: &mut usize, taken: &mut Vec<i64>) {
        while *left > 0 && taken.len() < max {
            let Some(mut first) = self.buckets.first_entry() else { break };
            if first.key() * bucket_ms > now_ms {
                break;
            }
            let bucket = first.get_mut();
            let mut kept = Vec::new();
            while let Some(entry) = bucket.pop() {
                if entry.at_ms > now_ms || *left == 0 || taken.len() >= max {
                    kept.push(entry);
                    if *left == 0 || taken.len() >= max {
                        break;
                    }
                } else {
                    taken.push(entry.id);
                    *left -= 1;
                }
            }
            bucket.append(&mut kept);
            if bucket.is_empty() {
                first.remove();
            } else {
                // Either the rest of this bucket is not due yet, or there is no room: both end the round.
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(shard: Shard, sequence: u32, at_ms: i64) -> WheelEntry {
        WheelEntry { id: shard.id(sequence), at_ms }
    }

    fn wheel(shards: &[Shard], until_ms: i64) -> Wheel {
        let mut wheel = Wheel::new(100);
        for shard in shards {
            wheel.add_shard(*shard);
            wheel.begin_fill(*shard, until_ms);
        }
        wheel
    }

    #[test]
    fn gives_what_is_due_and_no_more() {
        let shard = Shard(1 << 12);
        let mut wheel = wheel(&[shard], 10_000);
        for (sequence, at) in [(3, 150), (1, 120), (2, 199), (4, 900)] {
            wheel.insert(entry(shard, sequence, at));
        }
        assert_eq!([99, 120, 150, 199, 200, 900].map(|now_ms| wheel.due_len(now_ms)), [0, 1, 2, 3, 3, 4]);
        assert_eq!(wheel.due(150, 10, &mut |_| 10), [shard.id(1), shard.id(3)]);
        assert_eq!(wheel.due(150, 10, &mut |_| 10), Vec::<i64>::new());
        assert_eq!(wheel.due(1_000, 10, &mut |_| 10), [shard.id(2), shard.id(4)]);
        assert_eq!(wheel.len(), 0);
    }

    #[test]
    fn room_is_per_carrier_and_shards_take_turns() {
        let shards = [Shard(1 << 12), Shard(1 << 12 | 1), Shard(2 << 12)];
        let mut wheel = wheel(&shards, 10_000);
        for shard in shards {
            for sequence in 0..10 {
                wheel.insert(entry(shard, sequence, 1));
            }
        }
        let due = wheel.due(1, 100, &mut |carrier| if carrier == 1 { 4 } else { 0 });
        assert_eq!(due.len(), 4);
        assert!(due.iter().all(|id| id >> 44 == 1));
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..8 {
            for id in wheel.due(1, 4, &mut |_| 4) {
                assert!(seen.insert(id));
            }
        }
        assert_eq!(seen.len(), 26);
    }

    #[test]
    fn draining_gives_nothing_and_beyond_the_horizon_is_dropped() {
        let shard = Shard(1 << 12);
        let mut wheel = wheel(&[shard], 1_000);
        wheel.insert(entry(shard, 1, 10));
        wheel.insert(entry(shard, 2, 1_000));
        wheel.insert(entry(Shard(9 << 12), 1, 10));
        assert_eq!(wheel.len(), 1);
        wheel.keep(entry(Shard(9 << 12), 1, 10));
        wheel.keep(entry(shard, 3, 5_000));
        assert_eq!(wheel.len(), 2, "what is put back is kept beyond the horizon too");
        wheel.set_draining(shard, true);
        assert!(wheel.due(5_000, 10, &mut |_| 10).is_empty());
        wheel.set_draining(shard, false);
        assert_eq!(wheel.due(5_000, 10, &mut |_| 10).len(), 2);
        wheel.end_fill(shard);
        assert_eq!(wheel.loaded_until_ms(shard), Some(1_000));
    }
}
