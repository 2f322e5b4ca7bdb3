//! What failovers hold up, as this worker read it last.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use storage::pg::HeldUp;
use tokio::sync::Notify;

use crate::stripe::Stripe;

/// What is held up. The database decides by itself in each commit; this saves asking it in vain, and keeps notes and
/// messages from passing what is not known yet.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    read: Mutex<Read>,
    any_doubted: AtomicBool,
    any: AtomicBool,
    pub(crate) something: Notify,
}

#[derive(Debug, Default)]
struct Read {
    hand_in: (Vec<i64>, i64),
    window_from_us: i64,
    shards: BTreeMap<i32, i16>,
    doubted: BTreeMap<i32, (i64, i64)>,
}

impl Holds {
    /// Takes over what was read; the wheels give out nothing of what is held.
    pub(crate) fn set(&self, read: HeldUp, stripes: &[Arc<Stripe>]) {
        let held: BTreeSet<i32> =
            read.shards.iter().filter(|(_, kind)| *kind == 1).map(|(shard, _)| *shard).collect();
        for stripe in stripes {
            stripe.wheel().set_held(&held);
            stripe.asides().set_held(&held);
        }
        let something = !read.shards.is_empty() || !read.hand_in.is_empty();
        self.any.store(something, Ordering::SeqCst);
        self.any_doubted.store(!read.doubted.is_empty(), Ordering::SeqCst);
        *self.read() = Read {
            hand_in: (read.hand_in, read.from_us),
            window_from_us: read.window_from_us,
            shards: read.shards.into_iter().collect(),
            doubted: read
                .doubted
                .into_iter()
                .map(|(shard, until_ms, inbox)| (shard, (until_ms, inbox)))
                .collect(),
        };
        if something {
            self.something.notify_one();
        }
    }

    /// Whether nothing of a shard is begun.
    pub(crate) fn is_held(&self, shard: i32) -> bool {
        self.any.load(Ordering::SeqCst) && self.read().shards.get(&shard) == Some(&1)
    }

    /// Shards that are held, wholly (1) or charges of theirs (2).
    pub(crate) fn shards(&self) -> Vec<(i32, i16)> {
        self.read().shards.iter().map(|(shard, kind)| (*shard, *kind)).collect()
    }

    /// Quarantines that wait for this spool, and from when on its lines are wanted (microseconds since 1970).
    pub(crate) fn wanted_spool(&self) -> (Vec<i64>, i64) {
        self.read().hand_in.clone()
    }

    /// Since when commits may be lost, microseconds since 1970.
    pub(crate) fn window_from_us(&self) -> i64 {
        self.read().window_from_us
    }

    /// Whether charges of any shard are in doubt.
    pub(crate) fn any_doubted(&self) -> bool {
        self.any_doubted.load(Ordering::SeqCst)
    }

    /// What of a shard fired until this business instant (milliseconds) may have been sent already.
    pub(crate) fn doubted_until_ms(&self, shard: i32) -> Option<i64> {
        self.read().doubted.get(&shard).map(|(until_ms, _)| *until_ms)
    }

    /// Whether a refund that this inbox row asks for may have been sent already.
    pub(crate) fn is_doubted_refund(&self, shard: i32, inbox_id: i64) -> bool {
        self.any_doubted() && self.read().doubted.get(&shard).is_some_and(|(_, until)| inbox_id <= *until)
    }

    /// How many owned shards are held wholly.
    pub(crate) fn count(&self, stripes: &[Arc<Stripe>]) -> usize {
        if !self.any.load(Ordering::SeqCst) {
            return 0;
        }
        let read = self.read();
        let held = |stripe: &Arc<Stripe>| {
            stripe.wheel().shards().filter(|shard| read.shards.get(&shard.0) == Some(&1)).count()
        };
        stripes.iter().map(held).sum()
    }

    /// Whether all owned shards are held wholly, and there are some.
    pub(crate) fn all_of(&self, stripes: &[Arc<Stripe>]) -> bool {
        let held = self.count(stripes);
        held > 0 && held == stripes.iter().map(|stripe| stripe.wheel().shards().count()).sum::<usize>()
    }

    fn read(&self) -> MutexGuard<'_, Read> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
