//! A stripe: the shards that share a pair of database connections, and what of them is on its way.
//!
//! Each shard is bound to one stripe, so two batches in flight never share a shard, and a subscription is on its way
//! at most once: [`Stripe::hold`] is that claim.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex, MutexGuard};

use billing_core::ids::{OurRef, Shard};
use billing_core::outcome::Outcome;
use billing_core::reason::Rule;
use billing_core::states::AttemptState;
use billing_core::subscription::{Aside, Planned};
use billing_core::triage::Note;
use carriers::Reply;
use storage::pg::{DueRow, ShiftRow, SuccessorRow};
use storage::vault::SubscriberKey;
use tokio::sync::Notify;

use crate::catalog::Catalog;
use crate::told::Told;
use crate::wheel::{Heads, Wheel};

/// An attempt between its intent and its record.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) row: Box<DueRow>,
    /// The charge's own row: when it is not the subscription's current one, and for a refund.
    pub(crate) aside: Option<Box<Aside>>,
    pub(crate) planned: Planned,
    pub(crate) rule: i16,
    /// The version of the book that it was decided under, and that its outcome is decided under.
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) our_ref: OurRef,
    pub(crate) key: Box<SubscriberKey>,
    pub(crate) floor: u64,
    /// Machine time of the intent's commit, for the age guard.
    pub(crate) begun_ms: i64,
    /// Business time of the intent.
    pub(crate) business_at_ms: i64,
    /// A question about the balance: no attempt, no intent.
    pub(crate) probe: bool,
}

/// Something for the recorder.
#[derive(Debug)]
pub(crate) enum Work {
    /// The carrier answered (or the link gave up).
    Reply(Reply),
    /// Triage decided something without an attempt.
    Note { row: Box<DueRow>, note: Box<Note>, catalog: Arc<Catalog>, inbox: Option<(i32, i64)> },
    /// A subscription moves: the same, with what changes besides.
    Move { row: Box<DueRow>, note: Box<Note>, catalog: Arc<Catalog>, inbox: (i32, i64), shift: Box<Shift> },
    /// The carrier took money back of a charge.
    Reversal { row: Box<DueRow>, reversal: Box<Reversal>, catalog: Arc<Catalog>, inbox: (i32, i64) },
    /// A charge with a row of its own changes without an attempt.
    Aside { row: Box<DueRow>, after: Box<Aside>, rule: Rule, catalog: Arc<Catalog> },
    /// The deadline of an accepted attempt of a charge with a row of its own passed.
    AsideDoubt { row: Box<DueRow>, aside: Box<Aside> },
    /// An attempt that was found open, with what is known of it.
    Found(Box<Found>),
    /// The row cannot be decided: quarantine, with a case.
    Poison { subscription_id: i64, rev: i32, why: String },
}

/// What a move changes beside the note.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shift {
    /// Another plan or zone.
    pub(crate) row: Option<ShiftRow>,
    /// What opens at another carrier.
    pub(crate) opens: Option<Box<SuccessorRow>>,
}

/// What a carrier took back.
#[derive(Debug, Clone)]
pub(crate) struct Reversal {
    /// The charge's own row before.
    pub(crate) aside: Aside,
    /// Its number within the charge.
    pub(crate) reversal_no: i16,
    /// How much, minor units.
    pub(crate) amount_minor: i64,
    /// What the carrier calls it.
    pub(crate) reference: Arc<str>,
}

/// An attempt that somebody else began: a dead worker's intent, or an open attempt with late evidence.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) row: Box<DueRow>,
    /// The charge's own row: when it is not the subscription's current one, and for a refund.
    pub(crate) aside: Option<Box<Aside>>,
    /// The version of the book that it was decided under.
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) planned: Planned,
    pub(crate) from: AttemptState,
    /// The rule that brought it here; 0 for none.
    pub(crate) why: i16,
    pub(crate) outcome: Outcome,
    pub(crate) carrier_code: Option<String>,
    pub(crate) carrier_txn_id: Option<String>,
    pub(crate) floor: u64,
    pub(crate) inbox: Option<(i32, i64)>,
    /// What the evidence brings along.
    pub(crate) told: Option<Told>,
}

/// Values by subscription id. The ids are ours, dense per shard: nobody can choose them so that they collide.
pub(crate) type ById<T> = HashMap<i64, T, BuildHasherDefault<IdHasher>>;

/// Spreads an id's bits by one multiplication; std's own hasher, made for hostile keys, costs ten times that.
#[derive(Debug, Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_i64(i64::from(*byte));
        }
    }

    fn write_i64(&mut self, id: i64) {
        let mixed = (self.0 ^ id as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = mixed ^ mixed >> 32;
    }
}

/// The shards that share a pair of connections.
#[derive(Debug)]
pub(crate) struct Stripe {
    pub(crate) no: i16,
    wheel: Mutex<Wheel>,
    asides: Mutex<Wheel>,
    flights: Mutex<ById<Box<Flight>>>,
    held: Mutex<HashSet<i64, BuildHasherDefault<IdHasher>>>,
    desk: Mutex<Vec<Work>>,
    pub(crate) desk_filled: Notify,
    floors: Mutex<Floors>,
    /// When the desk holds so much, the recorder is woken before its time.
    desk_full: usize,
}

/// From where on intents of this stripe may still lack their outcome (the database's clock, microseconds).
#[derive(Debug, Default)]
struct Floors {
    last: u64,
    open: BTreeMap<u64, (i64, usize)>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    match mutex.lock() {
        Ok(guard) => guard,
        Err(poisoned) => poisoned.into_inner(),
    }
}

impl Stripe {
    /// `heads`: what waits in the wheels of all stripes.
    pub(crate) fn new(no: i16, bucket_ms: i64, desk_full: usize, heads: &Arc<Heads>) -> Self {
        let number = usize::from(no.unsigned_abs()) * 2;
        Self {
            no,
            wheel: Mutex::new(Wheel::new(bucket_ms, number, Arc::clone(heads))),
            asides: Mutex::new(Wheel::new(bucket_ms, number + 1, Arc::clone(heads))),
            flights: Mutex::default(),
            held: Mutex::default(),
            desk: Mutex::default(),
            desk_filled: Notify::new(),
            floors: Mutex::default(),
            desk_full,
        }
    }

    pub(crate) fn wheel(&self) -> MutexGuard<'_, Wheel> {
        locked(&self.wheel)
    }

    /// When charges with rows of their own fire: subscriptions, apart from when they fire themselves.
    pub(crate) fn asides(&self) -> MutexGuard<'_, Wheel> {
        locked(&self.asides)
    }

    /// Entries of both wheels whose time has come.
    pub(crate) fn due_len(&self, now_ms: i64) -> usize {
        self.wheel().due_len(now_ms) + self.asides().due_len(now_ms)
    }

    /// Bytes of both wheels.
    pub(crate) fn wheel_bytes(&self) -> usize {
        self.wheel().bytes() + self.asides().bytes()
    }

    pub(crate) fn flights(&self) -> MutexGuard<'_, ById<Box<Flight>>> {
        locked(&self.flights)
    }

    /// Whether what is on its way of a subscription is a question about its balance.
    pub(crate) fn is_probe(&self, subscription_id: i64) -> bool {
        locked(&self.flights).get(&subscription_id).is_some_and(|flight| flight.probe)
    }

    /// Claims a subscription for this process' own use; `false` when it is on its way already.
    pub(crate) fn hold(&self, subscription_id: i64) -> bool {
        locked(&self.held).insert(subscription_id)
    }

    /// The same for who is going to speak to a carrier: not while its shard is being handed over, because what was begun
    /// then would leave from a worker that does not own it any more.
    pub(crate) fn hold_to_send(&self, subscription_id: i64) -> bool {
        let held = self.hold(subscription_id);
        let serves = self.wheel().serves(Shard((subscription_id >> 32) as i32));
        if held && !serves {
            self.release(subscription_id);
        }
        held && serves
    }

    pub(crate) fn release(&self, subscription_id: i64) {
        locked(&self.held).remove(&subscription_id);
    }

    pub(crate) fn held(&self) -> usize {
        locked(&self.held).len()
    }

    /// Whether anything of a shard is on its way.
    pub(crate) fn is_busy(&self, shard: Shard) -> bool {
        let (first, last) = shard.id_range();
        locked(&self.held).iter().any(|id| (first..=last).contains(id))
    }

    pub(crate) fn put(&self, work: Work) {
        let filled = {
            let mut desk = locked(&self.desk);
            desk.push(work);
            desk.len() == 1 || desk.len() == self.desk_full
        };
        if filled {
            self.desk_filled.notify_one();
        }
    }

    pub(crate) fn desk_len(&self) -> usize {
        locked(&self.desk).len()
    }

    /// Takes at most `max` pieces of work, oldest first.
    pub(crate) fn take_work(&self, max: usize) -> Vec<Work> {
        let mut desk = locked(&self.desk);
        if desk.len() <= max {
            return std::mem::take(&mut *desk);
        }
        let rest = desk.split_off(max);
        std::mem::replace(&mut *desk, rest)
    }

    /// Notes that up to `count` intents at or after `floor_us` may lack their outcome from now on.
    pub(crate) fn open_floor(&self, floor_us: i64, count: usize) -> u64 {
        let mut floors = locked(&self.floors);
        floors.last += 1;
        let id = floors.last;
        floors.open.insert(id, (floor_us, count));
        id
    }

    /// `count` of them have theirs now (or never became durable).
    pub(crate) fn close_floor(&self, floor: u64, count: usize) {
        let mut floors = locked(&self.floors);
        if let Some((_, left)) = floors.open.get_mut(&floor) {
            *left = left.saturating_sub(count);
            if *left == 0 {
                floors.open.remove(&floor);
            }
        }
    }

    /// The earliest instant at which an intent may lack its outcome; `None` when all have theirs.
    pub(crate) fn floor_us(&self) -> Option<i64> {
        locked(&self.floors).open.values().map(|(floor, _)| *floor).min()
    }
}
