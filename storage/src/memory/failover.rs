//! `check_guard.sql` and what follows it: a failover is noticed, held up and cleared up as in Postgres.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::lost::{clear, is_followed, mark_open, restore, told};
use super::rows::{Case, Incarnation};
use super::state::{AttemptKey, State};
use super::{Arrival, MemoryConn};
use crate::guard::Seen;
use crate::pg::{
    CapDay, Checked, HeldUp, Lease, LostAttempt, QuarantineTerms, Resumed, StoreError, Verdict,
    WorkerIdentity,
};
use crate::spool::SentLine;

/// `database_guard` and the tables of quarantines.
#[derive(Clone, Default)]
pub(super) struct Guarded {
    timeline: i32,
    counter: i64,
    touched_us: i64,
    quarantines: Vec<Quarantine>,
    spools: Vec<Spool>,
    shards: Vec<HeldShard>,
    held: BTreeMap<i32, i16>,
    pub(super) lost: BTreeMap<AttemptKey, Lost>,
    /// Every attempt whose intent was made again.
    pub(super) restored: BTreeSet<AttemptKey>,
    /// Those of them that were assumed because the attempt before them was: nobody decided to send them.
    pub(super) followed: BTreeSet<AttemptKey>,
    /// Every key that a spool named when it was handed in.
    pub(super) handed_in: BTreeSet<AttemptKey>,
}

#[derive(Clone)]
struct Quarantine {
    id: i64,
    found_us: i64,
    window_from_us: i64,
    deadline_us: i64,
    seen_counter: i64,
    from_timeline: i32,
    to_timeline: i32,
}

/// A row of `quarantine_spool`.
#[derive(Clone)]
struct Spool {
    quarantine_id: i64,
    place: Place,
    handed_in: bool,
    lines: i64,
    lost: i64,
}

/// Host, spool and boot.
type Place = (String, String, String);

/// A row of `shard_quarantine`.
#[derive(Clone)]
struct HeldShard {
    quarantine_id: i64,
    shard: i32,
    resumed: Option<ResumedShard>,
}

#[derive(Clone, Copy)]
struct ResumedShard {
    at_us: i64,
    /// Where a spool is missing: charges that were due until then, and inbox rows up to that one.
    doubt: Option<(i64, i64)>,
    listed: i64,
}

#[derive(Clone)]
pub(super) struct Lost {
    pub(super) line: SentLine,
    /// As in `lost_attempt`.
    pub(super) state: i16,
    pub(super) chain: bool,
    pub(super) follows: bool,
    pub(super) listed_us: i64,
}

/// Server: one cluster.
const SYSTEM: i64 = 1;
/// So long what was doubted or handed in counts, microseconds.
pub(super) const DAY_US: i64 = 86_400_000_000;
/// Clocks differ by less.
const DOUBT_SLACK_US: i64 = 5_000_000;
/// Ids jump by so many.
const JUMP: i64 = 1_000_000;

fn place_of(who: &WorkerIdentity) -> Place {
    (who.host.clone(), who.spool.clone(), who.boot_id.clone())
}

fn place_of_row(row: &Incarnation) -> Place {
    (row.host.clone(), row.spool.clone(), row.boot_id.clone())
}

impl Guarded {
    pub(super) fn new(now_us: i64) -> Self {
        Self { timeline: 1, touched_us: now_us, ..Self::default() }
    }

    /// Whether nobody knows if an attempt was ever sent, or a later one of its charge is listed, so that it was settled once.
    pub(super) fn may_not_repeat(&self, (id, period, attempt_no): AttemptKey) -> bool {
        self.of_charge(id, period).any(|(key, lost)| key.2 > attempt_no || key.2 == attempt_no && lost.chain)
    }

    /// Whether nobody knows if this was ever sent.
    pub(super) fn is_assumed(&self, key: &AttemptKey) -> bool {
        self.lost.get(key).is_some_and(|lost| lost.chain)
    }

    /// When the last failover since an instant was found.
    pub(super) fn failed_over_us(&self, since_us: i64) -> Option<i64> {
        self.quarantines.iter().map(|q| q.found_us).filter(|found_us| *found_us >= since_us).max()
    }

    /// `doubt_until.sql`
    fn doubt_until_us(&self, shard: i32) -> Option<i64> {
        self.found_us(shard).map(|found_us| found_us + DOUBT_SLACK_US)
    }

    /// When the last failover was found that left a shard in doubt.
    pub(super) fn found_us(&self, shard: i32) -> Option<i64> {
        let all =
            |s: &&HeldShard| s.shard == shard && s.resumed.is_some_and(|resumed| resumed.doubt.is_some());
        let of = |s: &HeldShard| self.quarantines.iter().find(|q| q.id == s.quarantine_id);
        self.shards.iter().filter(all).filter_map(of).map(|q| q.found_us).max()
    }

    /// Keys that wait for an attempt before them.
    pub(super) fn waiting(&self) -> Vec<AttemptKey> {
        self.lost.iter().filter(|(_, lost)| lost.state == 0).map(|(key, _)| *key).collect()
    }

    pub(super) fn held(&self, shard: i32) -> i16 {
        self.held.get(&shard).copied().unwrap_or(0)
    }

    /// Whether something of a charge is listed and not settled.
    pub(super) fn is_lost(&self, id: i64, period: i32) -> bool {
        self.of_charge(id, period).any(|(_, lost)| lost.state < 3)
    }

    pub(super) fn of_charge(&self, id: i64, period: i32) -> impl Iterator<Item = (&AttemptKey, &Lost)> {
        self.lost.range((id, period, i16::MIN)..=(id, period, i16::MAX))
    }

    pub(super) fn of_shard(&self, shard: i32) -> impl Iterator<Item = (&AttemptKey, &Lost)> {
        let first = i64::from(shard) << 32;
        self.lost.range((first, i32::MIN, i16::MIN)..=(first + 4_294_967_295, i32::MAX, i16::MAX))
    }

    /// Whether a quarantine still holds a shard.
    fn holds(&self, quarantine_id: i64, shard: i32) -> bool {
        let held =
            |s: &HeldShard| s.quarantine_id == quarantine_id && s.shard == shard && s.resumed.is_none();
        self.shards.iter().any(held)
    }

    pub(super) fn set_held(&mut self, shard: i32, kind: i16) {
        self.held.insert(shard, kind);
    }

    /// Who may have sent what is assumed, of those whose spool is missing: one that lived at that instant, else the one that
    /// began last before, else the next.
    fn of_missing_spool(&self, incarnations: &BTreeMap<i64, Incarnation>, at_us: i64) -> Option<i64> {
        let missing = |row: &&Incarnation| {
            let place = place_of_row(row);
            self.spools.iter().any(|spool| !spool.handed_in && spool.place == place)
        };
        let far = |row: &&Incarnation| {
            let dead = row.fenced_us.is_some_and(|fenced_us| fenced_us < at_us);
            (row.started_us > at_us, dead, row.started_us.abs_diff(at_us), row.incarnation)
        };
        incarnations.values().filter(missing).min_by_key(far).map(|row| row.incarnation)
    }

    /// As `database_guard` says.
    pub(super) fn set_timeline(&mut self, timeline: i32) {
        self.timeline = timeline;
    }

    /// The tables of failovers, without machine instants.
    pub(super) fn dump(&self) -> [(&'static str, Vec<Value>); 5] {
        let guard = json!({"timeline": self.timeline, "counter": self.counter});
        let quarantines = self.quarantines.iter().map(|q| {
            json!({"id": q.id, "seen_counter": q.seen_counter, "from_timeline": q.from_timeline,
                   "to_timeline": q.to_timeline})
        });
        let spools = self.spools.iter().map(|spool| {
            let (host, name, boot_id) = &spool.place;
            json!({"quarantine_id": spool.quarantine_id, "host": host, "spool": name, "boot_id": boot_id,
                   "handed_in": spool.handed_in, "lines": spool.lines, "lost": spool.lost})
        });
        let shards = self.shards.iter().map(|held| {
            let how = held.resumed.map(|resumed| if resumed.doubt.is_some() { "all" } else { "listed" });
            let doubt = held.resumed.and_then(|resumed| resumed.doubt);
            json!({"quarantine_id": held.quarantine_id, "shard": held.shard, "how": how,
                   "doubt_until_ms": doubt.map(|(until_ms, _)| until_ms),
                   "inbox_until": doubt.map(|(_, inbox)| inbox),
                   "listed": held.resumed.map_or(0, |resumed| resumed.listed)})
        });
        let lost = self.lost.values().map(Lost::dump);
        [
            ("database_guard", vec![guard]),
            ("quarantine", quarantines.collect()),
            ("quarantine_spool", spools.collect()),
            ("shard_quarantine", shards.collect()),
            ("lost_attempt", lost.collect()),
        ]
    }

    pub(super) fn has_lost(&self, shard: i32) -> bool {
        self.of_shard(shard).any(|(_, lost)| lost.state < 3)
    }
}

fn key_of(line: &SentLine) -> AttemptKey {
    (line.subscription_id, line.period, line.attempt_no)
}

pub(super) fn shard_of(line: &SentLine) -> i32 {
    (line.subscription_id >> 32) as i32
}

impl MemoryConn {
    pub(crate) async fn check_guard(
        &mut self,
        remembered: Option<Seen>,
        terms: QuarantineTerms,
    ) -> Result<Checked, StoreError> {
        let timeline = self.timeline;
        self.call("check_guard", move |state, arrival| {
            let known = remembered.unwrap_or_default();
            let guard = &state.guarded;
            let behind =
                known.timeline > timeline || known.timeline == timeline && known.counter > guard.counter;
            let known_already = guard.quarantines.iter().any(|q| {
                q.to_timeline == timeline
                    && q.from_timeline == known.timeline
                    && known.counter < q.seen_counter + JUMP
            });
            let opened = if guard.timeline != timeline {
                let from = guard.timeline;
                Some(open(state, arrival, known.counter, (from, timeline), terms))
            } else if behind && !known_already {
                Some(open(state, arrival, known.counter, (known.timeline, timeline), terms))
            } else {
                None
            };
            let counter = state.guarded.counter;
            Ok(Checked { seen: Seen { system_identifier: SYSTEM, timeline, counter, lsn: 0 }, opened })
        })
        .await
    }

    pub(crate) async fn touch_guard(&mut self) -> Result<(i64, i64), StoreError> {
        self.call("touch_guard", |state, arrival| {
            let guard = &mut state.guarded;
            (guard.counter, guard.touched_us) = (guard.counter + 1, arrival.now_us);
            Ok((guard.counter, 0))
        })
        .await
    }

    pub(crate) async fn held_up(&mut self, who: &WorkerIdentity) -> Result<HeldUp, StoreError> {
        let place = place_of(who);
        self.call("held_up", move |state, arrival| {
            let guard = &state.guarded;
            let since_us = arrival.now_us - DAY_US;
            let done = |id: i64| {
                guard.spools.iter().any(|s| s.handed_in && s.quarantine_id == id && s.place == place)
            };
            let wanted: Vec<&Quarantine> =
                guard.quarantines.iter().filter(|q| q.found_us > since_us && !done(q.id)).collect();
            let waits = |id: i64| guard.shards.iter().any(|s| s.quarantine_id == id && s.resumed.is_none());
            let waiting = guard.quarantines.iter().filter(|q| waits(q.id));
            let held = guard.held.iter().filter(|(_, held)| **held > 0);
            let mut doubted: BTreeMap<i32, (i64, i64)> = BTreeMap::new();
            for (shard, resumed) in guard.shards.iter().filter_map(|s| Some((s.shard, s.resumed?))) {
                if let Some((until_ms, inbox)) = resumed.doubt.filter(|_| resumed.at_us > since_us) {
                    let kept = doubted.entry(shard).or_insert((until_ms, inbox));
                    *kept = (kept.0.max(until_ms), kept.1.max(inbox));
                }
            }
            Ok(HeldUp {
                hand_in: wanted.iter().map(|q| q.id).collect(),
                from_us: wanted.iter().map(|q| q.window_from_us).min().unwrap_or(0),
                window_from_us: waiting.map(|q| state.doubted_from_us(q)).min().unwrap_or(0),
                shards: held.map(|(shard, held)| (*shard, *held)).collect(),
                doubted: doubted.into_iter().map(|(shard, (until, inbox))| (shard, until, inbox)).collect(),
            })
        })
        .await
    }

    pub(crate) async fn hand_in_lines(
        &mut self,
        who: &WorkerIdentity,
        lines: &[SentLine],
    ) -> Result<i64, StoreError> {
        let (who, lines) = (who.clone(), lines.to_vec());
        self.call("hand_in_lines", move |state, arrival| {
            let mut lost = 0;
            let mut first_us: BTreeMap<i64, i64> = BTreeMap::new();
            for line in &lines {
                let first = first_us.entry(line.incarnation).or_insert(arrival.now_us);
                *first = (*first).min(line.intent_at_us);
            }
            for line in lines {
                let started_us = first_us[&line.incarnation];
                state.incarnations.entry(line.incarnation).or_insert_with(|| Incarnation {
                    incarnation: line.incarnation,
                    slot: 0,
                    epoch: 0,
                    started_us,
                    host: who.host.clone(),
                    boot_id: who.boot_id.clone(),
                    spool: who.spool.clone(),
                    endpoint: String::new(),
                    fenced: true,
                    fenced_us: Some(arrival.commit_us),
                });
                let key = key_of(&line);
                state.guarded.handed_in.insert(key);
                state.carry_out(&line);
                if state.intents.contains_key(&key) || state.guarded.lost.contains_key(&key) {
                    continue;
                }
                let orphan = !state.subscriptions.contains_key(&line.subscription_id);
                if orphan {
                    state.cases.push(Case {
                        subscription_id: line.subscription_id,
                        period: Some(line.period),
                        attempt_no: Some(line.attempt_no),
                        kind: "lost_subscription".to_owned(),
                        what: format!(
                            "a request over {} minor units of currency {} (operation {}) was sent before a failover that lost \
                             its subscription",
                            line.amount_minor, line.currency, line.op
                        ),
                    });
                }
                let state_no = if orphan { 3 } else { 0 };
                let row = Lost {
                    line,
                    state: state_no,
                    chain: false,
                    follows: false,
                    listed_us: arrival.now_us,
                };
                state.guarded.lost.insert(key, row);
                lost += 1;
                if !orphan && state.guarded.held(shard_of(&line)) == 0 {
                    state.guarded.held.insert(shard_of(&line), 2);
                }
            }
            Ok(lost)
        })
        .await
    }

    pub(crate) async fn hand_in_done(
        &mut self,
        who: &WorkerIdentity,
        quarantines: &[i64],
        lines: i64,
        lost: i64,
    ) -> Result<(), StoreError> {
        let (place, quarantines) = (place_of(who), quarantines.to_vec());
        self.call("hand_in_done", move |state, _| {
            let spools = &mut state.guarded.spools;
            for id in quarantines {
                spools.retain(|spool| spool.quarantine_id != id || spool.place != place);
                let place = place.clone();
                spools.push(Spool { quarantine_id: id, place, handed_in: true, lines, lost });
            }
            Ok(())
        })
        .await
    }

    pub(crate) async fn resume_shard(
        &mut self,
        lease: &Lease,
        shard: i32,
        doubt_until_ms: Option<i64>,
    ) -> Result<Resumed, StoreError> {
        let lease = *lease;
        self.call("resume_shard", move |state, arrival| {
            state.check_fence(&lease)?;
            if state.owners.get(&shard) != Some(&Some(lease.slot)) || state.guarded.held(shard) != 1 {
                return Ok(Resumed::Yes);
            }
            let guard = &state.guarded;
            let open: Vec<&Quarantine> =
                guard.quarantines.iter().filter(|q| guard.holds(q.id, shard)).collect();
            let waits = |id: i64| guard.spools.iter().any(|s| s.quarantine_id == id && !s.handed_in);
            let missing: Vec<&&Quarantine> = open.iter().filter(|q| waits(q.id)).collect();
            if !missing.iter().all(|q| q.deadline_us <= arrival.now_us) {
                return Ok(Resumed::NotYet);
            }
            let missing = !missing.is_empty();
            if missing && doubt_until_ms.is_none() {
                return Ok(Resumed::ListAll);
            }
            let window_us = open.iter().map(|q| q.window_from_us).min();
            if let Some(from_us) = window_us.filter(|_| missing) {
                mark_open(state, shard, from_us, arrival.now_us);
            }
            let last = state.inbox.range((shard, i64::MIN)..=(shard, i64::MAX)).next_back();
            let inbox = last.map_or(0, |((_, id), _)| *id);
            let guard = &mut state.guarded;
            let doubt = doubt_until_ms.filter(|_| missing).map(|until_ms| (until_ms, inbox));
            let listed = i64::try_from(guard.of_shard(shard).count()).unwrap_or(i64::MAX);
            let resumed = ResumedShard { at_us: arrival.now_us, doubt, listed };
            for held in guard.shards.iter_mut().filter(|held| held.shard == shard) {
                held.resumed.get_or_insert(resumed);
            }
            let held = if guard.has_lost(shard) { 2 } else { 0 };
            guard.held.insert(shard, held);
            Ok(Resumed::Yes)
        })
        .await
    }

    pub(crate) async fn lost_attempts(
        &mut self,
        lease: &Lease,
        shard: i32,
        after: (i64, i32, i16),
        limit: i32,
    ) -> Result<Vec<LostAttempt>, StoreError> {
        let lease = *lease;
        self.call("lost_attempts", move |state, arrival| {
            state.check_fence(&lease)?;
            clear(state, shard, arrival.now_us);
            let until_us = state.guarded.doubt_until_us(shard);
            let waiting = state.guarded.of_shard(shard).filter(|(key, lost)| {
                let waits = lost.state < 2 && !(lost.state == 1 && state.opens.contains_key(key))
                    || is_followed(state, key, lost);
                **key > after && waits
            });
            waiting.take(usize::try_from(limit).unwrap_or(0)).map(|(_, lost)| told(lost, until_us)).collect()
        })
        .await
    }

    pub(crate) async fn restore_lost(
        &mut self,
        lease: &Lease,
        key: (i64, i32, i16),
        cap: Option<CapDay>,
    ) -> Result<Verdict, StoreError> {
        let lease = *lease;
        self.call("restore_lost", move |state, arrival| {
            state.check_fence(&lease)?;
            if !state.owns(lease.slot, key.0) {
                return Ok(Verdict::NotOwner);
            }
            restore(state, key, cap, (lease.incarnation, arrival.now_us))
        })
        .await
    }

    pub(crate) async fn list_doubts(
        &mut self,
        lease: &Lease,
        chain: bool,
        lines: &[SentLine],
    ) -> Result<i64, StoreError> {
        let (lease, lines) = (*lease, lines.to_vec());
        self.call("list_doubts", move |state, arrival| {
            state.check_fence(&lease)?;
            let mut listed = 0;
            for mut line in lines {
                let sender = state.guarded.of_missing_spool(&state.incarnations, line.intent_at_us);
                line.incarnation = sender.filter(|_| !chain).unwrap_or(line.incarnation);
                let key = key_of(&line);
                let in_time =
                    state.guarded.doubt_until_us(shard_of(&line)).is_some_and(|us| line.intent_at_us <= us);
                let before = |(at, lost): (&AttemptKey, &Lost)| {
                    at.2 < key.2 && lost.state == 2 && (in_time || !is_followed(state, at, lost))
                };
                let known = state.guarded.of_charge(key.0, key.1).any(before);
                if !state.owns(lease.slot, key.0) || state.intents.contains_key(&key) || chain && !known {
                    continue;
                }
                state
                    .guarded
                    .lost
                    .retain(|at, lost| !((at.0, at.1) == (key.0, key.1) && at.2 < key.2 && lost.state == 2));
                if state.guarded.lost.contains_key(&key) {
                    continue;
                }
                let row = Lost { line, state: 0, chain: true, follows: chain, listed_us: arrival.now_us };
                state.guarded.lost.insert(key, row);
                state.carry_out(&line);
                listed += 1;
                if state.guarded.held(shard_of(&line)) == 0 {
                    state.guarded.held.insert(shard_of(&line), 2);
                }
            }
            Ok(listed)
        })
        .await
    }

    pub(crate) async fn end_doubt(
        &mut self,
        lease: &Lease,
        key: (i64, i32, i16),
    ) -> Result<bool, StoreError> {
        let lease = *lease;
        self.call("end_doubt", move |state, _| {
            state.check_fence(&lease)?;
            let ends = state.owns(lease.slot, key.0)
                && state.guarded.lost.get(&key).is_some_and(|lost| lost.state == 2);
            if ends {
                state.guarded.lost.remove(&key);
            }
            Ok(ends)
        })
        .await
    }
}

impl State {
    /// Since when whoever has not handed in its spool may have sent something.
    fn doubted_from_us(&self, quarantine: &Quarantine) -> i64 {
        let missing = |row: &&Incarnation| {
            let place = place_of_row(row);
            let lacks = |s: &Spool| s.quarantine_id == quarantine.id && !s.handed_in && s.place == place;
            self.guarded.spools.iter().any(lacks)
        };
        let first_us = self.incarnations.values().filter(missing).map(|row| row.started_us).min();
        first_us.map_or(quarantine.window_from_us, |first_us| first_us.max(quarantine.window_from_us))
    }
}

/// `open_quarantine.sql`
fn open(
    state: &mut State,
    arrival: Arrival,
    seen: i64,
    timelines: (i32, i32),
    terms: QuarantineTerms,
) -> i64 {
    let from_us = state.guarded.touched_us.min(arrival.now_us) - terms.margin_ms * 1_000;
    let alive = state.incarnations.values().filter(|i| i.fenced_us.is_none_or(|fenced| fenced >= from_us));
    let mut spools: Vec<Place> = alive.map(place_of_row).collect();
    spools.sort();
    spools.dedup();
    let shards: Vec<i32> = state.owners.keys().copied().collect();
    let guard = &mut state.guarded;
    let id = i64::try_from(guard.quarantines.len()).unwrap_or(i64::MAX) + 1;
    let seen_counter = seen.max(guard.counter);
    guard.quarantines.push(Quarantine {
        id,
        found_us: arrival.now_us,
        window_from_us: from_us,
        deadline_us: arrival.now_us + terms.wait_ms * 1_000,
        seen_counter,
        from_timeline: timelines.0,
        to_timeline: timelines.1,
    });
    let spool = |place| Spool { quarantine_id: id, place, handed_in: false, lines: 0, lost: 0 };
    guard.spools.extend(spools.into_iter().map(spool));
    for shard in shards {
        guard.shards.push(HeldShard { quarantine_id: id, shard, resumed: None });
        guard.held.insert(shard, 1);
    }
    (guard.timeline, guard.counter, guard.touched_us) = (timelines.1, seen_counter + JUMP, arrival.now_us);
    // Ids that were handed out may be known elsewhere. Postgres takes one to look at the sequence.
    state.inbox_last += 1 + JUMP;
    id
}
