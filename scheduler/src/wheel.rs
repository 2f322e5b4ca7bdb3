//! The due wheel: when each subscription of the owned shards fires, in memory, for a bounded horizon.
//!
//! 16-byte entries in buckets per shard. The rows themselves are loaded when due, so a stale entry costs one look and
//! never a charge. What lies beyond the horizon is not held: the filler reads it in chunks before its time comes.
//!
//! While everything that is due fits into the lanes, it goes out as it comes. What does not fit is a backlog, and that
//! has an order ([`precedence`]): the charge whose window closes soonest first, then by due instant, over all shards of a
//! carrier, and over all wheels of the worker.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use billing_core::ids::Shard;
use storage::pg::WheelEntry;

mod backlog;
mod groups;
mod precedence;

pub(crate) use precedence::{Closing, Heads, Moment};

use backlog::Backlog;
use groups::{GroupNo, Groups};

/// So many entries of a carrier are put into a backlog at once at most: a look never takes long, whatever fell due.
const MOVED_MAX: usize = 1 << 14;
/// The last shard of a carrier.
const SLICE_LAST: i32 = 0xFFF;

/// The wheel of one stripe's shards.
#[derive(Debug)]
pub(crate) struct Wheel {
    shards: BTreeMap<i32, ShardWheel>,
    /// What is overdue and did not fit, by carrier.
    backlogs: BTreeMap<i32, Backlog>,
    groups: Groups,
    bucket_ms: i64,
    /// Where the last round stopped: carriers take turns.
    turn: i32,
    /// Shards of which nothing is given out until a failover is cleared up.
    held: BTreeSet<i32>,
    /// Its number among the wheels that share `heads`.
    number: usize,
    heads: Arc<Heads>,
}

#[derive(Debug, Default)]
struct ShardWheel {
    buckets: BTreeMap<i64, Vec<Slot>>,
    /// Everything that fires before this is held.
    loaded_until_ms: i64,
    /// The filler is reading up to this; what is inserted meanwhile must not be lost.
    filling_until_ms: i64,
    draining: bool,
}

/// An entry within its shard.
#[derive(Debug, Clone, Copy)]
struct Slot {
    at_ms: i64,
    sequence: u32,
    group: GroupNo,
}

/// An entry that is due.
#[derive(Debug, Clone, Copy)]
struct Due {
    at_ms: i64,
    id: i64,
    group: GroupNo,
}

impl Wheel {
    /// An empty wheel whose buckets are `bucket_ms` business milliseconds wide. It has this number among those of the
    /// worker, which tell each other what waits in them.
    #[must_use]
    pub(crate) fn new(bucket_ms: i64, number: usize, heads: Arc<Heads>) -> Self {
        Self {
            shards: BTreeMap::new(),
            backlogs: BTreeMap::new(),
            groups: Groups::default(),
            bucket_ms: bucket_ms.max(1),
            turn: i32::MIN,
            held: BTreeSet::new(),
            number,
            heads,
        }
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
        self.out_of_backlog(shard);
    }

    /// Stops giving out what is due in a shard (it is being handed over), or starts again.
    pub(crate) fn set_draining(&mut self, shard: Shard, draining: bool) {
        let Some(wheel) = self.shards.get_mut(&shard.0) else { return };
        wheel.draining = draining;
        if draining {
            self.back_into_buckets(shard);
        }
    }

    /// Gives out nothing of these shards, whether it has them or not, and again of all others.
    pub(crate) fn set_held(&mut self, held: &BTreeSet<i32>) {
        let newly: Vec<i32> = held.difference(&self.held).copied().collect();
        self.held.clone_from(held);
        for shard in newly {
            self.back_into_buckets(Shard(shard));
        }
    }

    /// What of a shard waits for its turn waits in its buckets from now on.
    fn back_into_buckets(&mut self, shard: Shard) {
        let (removed, bucket_ms) = (self.out_of_backlog(shard), self.bucket_ms);
        let Some(wheel) = self.shards.get_mut(&shard.0) else { return };
        for (group, at_ms, id) in removed {
            wheel.put(bucket_ms, Slot { at_ms, sequence: id as u32, group });
        }
    }

    fn out_of_backlog(&mut self, shard: Shard) -> Vec<(GroupNo, i64, i64)> {
        self.backlogs
            .get_mut(&shard.carrier_no())
            .map_or_else(Vec::new, |backlog| backlog.remove_shard(shard))
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
        let Some(wheel) = self.shards.get(&((entry.id >> 32) as i32)) else { return };
        if entry.at_ms < wheel.loaded_until_ms.max(wheel.filling_until_ms) {
            self.keep(entry);
        }
    }

    /// Puts an entry in that fires at another instant than its row says: the filler would not find it.
    pub(crate) fn keep(&mut self, entry: WheelEntry) {
        let Some(wheel) = self.shards.get_mut(&((entry.id >> 32) as i32)) else { return };
        let group = self.groups.number(entry.plan_no, entry.zone_no, entry.charges);
        wheel.put(self.bucket_ms, Slot { at_ms: entry.at_ms, sequence: entry.id as u32, group });
    }

    /// Takes out up to `max` subscriptions that are due, sorted by id, never more of a carrier than it has room for; where
    /// not all fit, those that are first in order. Carriers take turns, so that a busy one starves nobody.
    pub(crate) fn due(
        &mut self,
        at: &Moment<'_>,
        max: usize,
        room: &mut dyn FnMut(i32) -> usize,
    ) -> Vec<i64> {
        let mut taken: Vec<i64> = Vec::new();
        let mut carriers: Vec<i32> = self.shards.keys().map(|shard| Shard(*shard).carrier_no()).collect();
        carriers.dedup();
        let from = carriers.partition_point(|carrier_no| *carrier_no < self.turn);
        carriers.rotate_left(from);
        for carrier_no in carriers {
            if taken.len() >= max {
                self.turn = carrier_no;
                break;
            }
            self.due_of(carrier_no, at, max, room, &mut taken);
        }
        taken.sort_unstable();
        taken.dedup();
        taken
    }

    fn due_of(
        &mut self,
        carrier_no: i32,
        at: &Moment<'_>,
        max: usize,
        room: &mut dyn FnMut(i32) -> usize,
        taken: &mut Vec<i64>,
    ) {
        let fresh = self.fresh(carrier_no, at.now_ms);
        let mut waits = self.backlogs.remove(&carrier_no).unwrap_or_default();
        if fresh.is_empty() && waits.len() == 0 {
            self.heads.tell(carrier_no, self.number, None, at.machine_ms);
            return;
        }
        let elsewhere = self.heads.elsewhere(carrier_no, self.number, at.machine_ms);
        let mut places = || room(carrier_no).min(max - taken.len());
        let mut known = None;
        if waits.len() == 0 && elsewhere.is_none() {
            let places = places();
            if fresh.len() <= places {
                taken.extend(fresh.iter().map(|due| due.id));
                return;
            }
            known = Some(places);
        }
        waits.refresh(at, &self.groups);
        for due in &fresh {
            waits.push(due.group, (due.at_ms, due.id), at, &self.groups);
        }
        let first = waits.head(at.now_ms);
        let mine = first.is_some_and(|head| head.may_pass(elsewhere, at.slack_ms));
        if mine || waits.needs_no_window(at.now_ms) {
            let places = known.unwrap_or_else(places);
            waits.take(at, elsewhere, places, taken);
        }
        self.heads.tell(carrier_no, self.number, waits.head(at.now_ms), at.machine_ms);
        if waits.len() > 0 {
            self.backlogs.insert(carrier_no, waits);
        }
    }

    /// Takes what has fallen due out of the buckets of a carrier's shards.
    fn fresh(&mut self, carrier_no: i32, now_ms: i64) -> Vec<Due> {
        let mut fresh = Vec::new();
        let (first, bucket_ms) = (carrier_no << 12, self.bucket_ms);
        for (shard, wheel) in self.shards.range_mut(first..=first | SLICE_LAST) {
            if !wheel.draining && !self.held.contains(shard) {
                wheel.take(Shard(*shard), now_ms, bucket_ms, &mut fresh);
            }
        }
        fresh
    }

    /// How many entries have their time behind them and wait for their turn.
    #[must_use]
    pub(crate) fn due_len(&self, now_ms: i64) -> usize {
        let last = now_ms.div_euclid(self.bucket_ms);
        let buckets = self.shards.values().flat_map(|wheel| wheel.buckets.range(..=last));
        let due = |(bucket, entries): (&i64, &Vec<Slot>)| match *bucket == last {
            // Only the one that runs has to be looked into.
            true => entries.iter().filter(|entry| entry.at_ms <= now_ms).count(),
            false => entries.len(),
        };
        buckets.map(due).sum::<usize>() + self.backlog_len()
    }

    /// How many entries it holds.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        let buckets = self.shards.values().flat_map(|wheel| wheel.buckets.values());
        buckets.map(Vec::len).sum::<usize>() + self.backlog_len()
    }

    /// Bytes that its entries take, with what is reserved for more.
    #[must_use]
    pub(crate) fn bytes(&self) -> usize {
        let buckets = self.shards.values().flat_map(|wheel| wheel.buckets.values());
        let slots: usize = buckets.map(Vec::capacity).sum();
        slots * size_of::<Slot>() + self.backlogs.values().map(Backlog::bytes).sum::<usize>()
    }

    fn backlog_len(&self) -> usize {
        self.backlogs.values().map(Backlog::len).sum()
    }
}

impl ShardWheel {
    fn put(&mut self, bucket_ms: i64, slot: Slot) {
        self.buckets.entry(slot.at_ms.div_euclid(bucket_ms)).or_default().push(slot);
    }

    fn take(&mut self, shard: Shard, now_ms: i64, bucket_ms: i64, taken: &mut Vec<Due>) {
        while let Some(mut first) = self.buckets.first_entry().filter(|_| taken.len() < MOVED_MAX) {
            if first.key().saturating_mul(bucket_ms) > now_ms {
                break;
            }
            let mut room = MOVED_MAX - taken.len();
            let due = first.get_mut().extract_if(.., |slot| {
                let goes = slot.at_ms <= now_ms && room > 0;
                room -= usize::from(goes);
                goes
            });
            taken.extend(due.map(|Slot { at_ms, sequence, group }| Due {
                at_ms,
                id: shard.id(sequence),
                group,
            }));
            if !first.get().is_empty() {
                // Either the rest of this bucket is not due yet, or it is enough for once.
                break;
            }
            first.remove();
        }
    }
}

#[cfg(test)]
mod tests;
