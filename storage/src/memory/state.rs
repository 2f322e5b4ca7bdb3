//! Everything that is committed, and the checks that several statements share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::failover::Guarded;
use super::rows::{
    Aside, Ask, Case, Counters, Event, Grant, Inbox, Incarnation, Intent, Note, Open, Outcome, Subscriber,
    Subscription, Transfer, Worker,
};
use crate::mutants::{Mutant, on};
use crate::pg::{ClockRow, Lease, Names, StoreError};
use crate::spool::SentLine;

/// (subscription, period, attempt)
pub(super) type AttemptKey = (i64, i32, i16);

#[derive(Clone)]
pub(super) struct State {
    pub(super) names: Arc<Names>,
    pub(super) digest: Vec<u8>,
    pub(super) clock: ClockRow,
    pub(super) workers: BTreeMap<i32, Worker>,
    pub(super) incarnations: BTreeMap<i64, Incarnation>,
    pub(super) owners: BTreeMap<i32, Option<i32>>,
    /// Microseconds.
    pub(super) low_water: BTreeMap<i32, i64>,
    pub(super) inbox: BTreeMap<(i32, i64), Inbox>,
    pub(super) inbox_last: i64,
    pub(super) subscribers: BTreeMap<i64, Subscriber>,
    pub(super) subscriptions: BTreeMap<i64, Subscription>,
    pub(super) intents: BTreeMap<AttemptKey, Intent>,
    pub(super) outcomes: BTreeMap<AttemptKey, Outcome>,
    pub(super) opens: BTreeMap<AttemptKey, Open>,
    /// By attempt and number.
    pub(super) asks: BTreeMap<(AttemptKey, i16), Ask>,
    /// Intents with neither an outcome nor an open row: what a takeover looks for.
    pub(super) bare: BTreeSet<AttemptKey>,
    pub(super) asides: BTreeMap<(i64, i32), Aside>,
    pub(super) notes: BTreeMap<(i64, i32, i32), Note>,
    pub(super) transfers: BTreeMap<(i64, i32, i16, i16), Transfer>,
    /// By account and stripe.
    pub(super) balances: BTreeMap<(i32, i16), i64>,
    pub(super) grants: BTreeMap<AttemptKey, Grant>,
    pub(super) events: Vec<Event>,
    pub(super) cases: Vec<Case>,
    pub(super) usage: BTreeMap<(i64, i16), Counters>,
    pub(super) partitions: BTreeMap<i32, i32>,
    /// Final outcomes that another one replaced: none, ever.
    pub(super) flipped: usize,
    /// When STOP was committed, microseconds.
    pub(super) stopped_us: BTreeMap<i64, i64>,
    /// Commits of intents and outcomes by a worker that was fenced before: none, ever.
    pub(super) stale_writes: usize,
    /// Intents that were committed while another attempt of their charge had no outcome: none, ever.
    pub(super) overlaps: usize,
    pub(super) guarded: Guarded,
}

impl State {
    pub(super) fn new(names: Names, digest: Vec<u8>, clock: ClockRow, now_us: i64) -> Self {
        let slices = names.carriers.values().copied();
        let shards: BTreeSet<i32> =
            slices.flat_map(|(no, slices, _)| (0..slices).map(move |slice| no << 12 | slice)).collect();
        Self {
            names: Arc::new(names),
            digest,
            clock,
            workers: BTreeMap::new(),
            incarnations: BTreeMap::new(),
            owners: shards.iter().map(|shard| (*shard, None)).collect(),
            low_water: shards.iter().map(|shard| (*shard, now_us)).collect(),
            inbox: BTreeMap::new(),
            inbox_last: 0,
            subscribers: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            intents: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            opens: BTreeMap::new(),
            asks: BTreeMap::new(),
            bare: BTreeSet::new(),
            asides: BTreeMap::new(),
            notes: BTreeMap::new(),
            transfers: BTreeMap::new(),
            balances: BTreeMap::new(),
            grants: BTreeMap::new(),
            events: Vec::new(),
            cases: Vec::new(),
            usage: BTreeMap::new(),
            partitions: BTreeMap::new(),
            flipped: 0,
            stopped_us: BTreeMap::new(),
            stale_writes: 0,
            overlaps: 0,
            guarded: Guarded::new(now_us),
        }
    }

    /// Counts an intent that is committed while another attempt of its charge has no outcome.
    pub(super) fn watch_overlap(&mut self, key: AttemptKey) {
        let charge = self.intents.range((key.0, key.1, i16::MIN)..=(key.0, key.1, i16::MAX));
        let open = charge.filter(|(other, _)| **other != key && !self.outcomes.contains_key(*other)).count();
        self.overlaps += usize::from(open > 0);
    }

    /// `check_fence.sql`
    pub(super) fn check_fence(&mut self, lease: &Lease) -> Result<(), StoreError> {
        let current = self.workers.get(&lease.slot).is_some_and(|worker| is(worker, lease));
        if current || on(Mutant::NoFence) {
            self.stale_writes += usize::from(!current);
            return Ok(());
        }
        let Lease { slot, incarnation, epoch } = lease;
        Err(StoreError::Fenced(format!(
            "slot {slot} is fenced: incarnation {incarnation} epoch {epoch} is not current"
        )))
    }

    pub(super) fn owns(&self, slot: i32, subscription_id: i64) -> bool {
        self.owners.get(&((subscription_id >> 32) as i32)) == Some(&Some(slot))
    }

    pub(super) fn has_partition(&self, period: i32) -> bool {
        self.partitions.range(..=period).next_back().is_some_and(|(_, high)| period < *high)
    }

    pub(super) fn attempts_of(&self, id: i64, period: i32) -> impl Iterator<Item = &Intent> {
        self.intents.range((id, period, i16::MIN)..=(id, period, i16::MAX)).map(|(_, intent)| intent)
    }

    /// The wish that a line began with is done with.
    pub(super) fn carry_out(&mut self, line: &SentLine) {
        let at = ((line.subscription_id >> 32) as i32, line.wish);
        if on(Mutant::WishCarriedOutTwice) {
            return;
        }
        if self.inbox.get(&at).is_some_and(|row| row.subscription_id == line.subscription_id) {
            self.inbox.remove(&at);
        }
    }

    pub(super) fn add_inbox(&mut self, kind: i16, subscription_id: i64, payload: Vec<u8>) -> i64 {
        self.inbox_last += 1;
        let (id, shard) = (self.inbox_last, (subscription_id >> 32) as i32);
        self.inbox.insert((shard, id), Inbox { id, shard, kind, subscription_id, payload });
        id
    }
}

pub(super) fn is(worker: &Worker, lease: &Lease) -> bool {
    (worker.slot, worker.incarnation, worker.epoch) == (lease.slot, lease.incarnation, lease.epoch)
}
