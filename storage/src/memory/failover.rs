//! `check_guard.sql` and what follows it: a failover is noticed, held up and cleared up as in Postgres.

use billing_core::outcome::Op;
use billing_core::period::Period;
use billing_core::subscription::Planned;
use jiff::Timestamp;

use super::rows::{Aside, Case, Incarnation, Intent};
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
    /// Per quarantine, host and spool: whether it is handed in.
    spools: Vec<(i64, String, String, bool)>,
    /// Per quarantine and shard: how it was resumed, and until when it is doubted.
    shards: Vec<(i64, i32, Option<Option<(i64, i64)>>)>,
    held: std::collections::BTreeMap<i32, i16>,
    lost: std::collections::BTreeMap<AttemptKey, Lost>,
    /// Every attempt whose intent was made again.
    pub(super) restored: std::collections::BTreeSet<AttemptKey>,
    /// Every key that a spool named when it was handed in.
    pub(super) handed_in: std::collections::BTreeSet<AttemptKey>,
}

#[derive(Clone)]
struct Quarantine {
    id: i64,
    window_from_us: i64,
    deadline_us: i64,
    seen_counter: i64,
    from_timeline: i32,
}

#[derive(Clone)]
struct Lost {
    line: SentLine,
    /// As in `lost_attempt`.
    state: i16,
    chain: bool,
}

/// Server: one cluster.
const SYSTEM: i64 = 1;

impl Guarded {
    pub(super) fn new(now_us: i64) -> Self {
        Self { timeline: 1, touched_us: now_us, ..Self::default() }
    }

    /// Whether nobody knows if an attempt was ever sent, or a later one of its charge is listed, so that it was settled once.
    pub(super) fn may_not_repeat(&self, (id, period, attempt_no): AttemptKey) -> bool {
        self.of_charge(id, period).any(|(key, lost)| key.2 > attempt_no || key.2 == attempt_no && lost.chain)
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

    fn of_charge(&self, id: i64, period: i32) -> impl Iterator<Item = (&AttemptKey, &Lost)> {
        self.lost.range((id, period, i16::MIN)..=(id, period, i16::MAX))
    }

    fn of_shard(&self, shard: i32) -> impl Iterator<Item = (&AttemptKey, &Lost)> {
        let first = i64::from(shard) << 32;
        self.lost.range((first, i32::MIN, i16::MIN)..=(first + 4_294_967_295, i32::MAX, i16::MAX))
    }

    fn has_lost(&self, shard: i32) -> bool {
        self.of_shard(shard).any(|(_, lost)| lost.state < 3)
    }
}

fn key_of(line: &SentLine) -> AttemptKey {
    (line.subscription_id, line.period, line.attempt_no)
}

fn shard_of(line: &SentLine) -> i32 {
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
            let known_already = guard
                .quarantines
                .iter()
                .any(|q| q.from_timeline == known.timeline && known.counter < q.seen_counter + 1_000_000);
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
        let who = who.clone();
        self.call("held_up", move |state, _| {
            let guard = &state.guarded;
            let done = |id: i64| {
                guard
                    .spools
                    .iter()
                    .any(|(q, host, spool, done)| *done && (*q, host, spool) == (id, &who.host, &who.spool))
            };
            let wanted: Vec<&Quarantine> = guard.quarantines.iter().filter(|q| !done(q.id)).collect();
            let held = guard.held.iter().filter(|(_, held)| **held > 0);
            Ok(HeldUp {
                hand_in: wanted.iter().map(|q| q.id).collect(),
                from_us: wanted.iter().map(|q| q.window_from_us).min().unwrap_or(0),
                window_from_us: guard
                    .quarantines
                    .iter()
                    .filter(|q| guard.shards.iter().any(|(id, _, how)| *id == q.id && how.is_none()))
                    .map(|q| q.window_from_us)
                    .min()
                    .unwrap_or(0),
                shards: held.map(|(shard, held)| (*shard, *held)).collect(),
                doubted: guard
                    .shards
                    .iter()
                    .filter_map(|(_, shard, how)| {
                        let (until_ms, inbox) = (*how)??;
                        Some((*shard, until_ms, inbox))
                    })
                    .collect(),
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
            for line in lines {
                let epoch = i32::try_from(state.incarnations.len()).unwrap_or(i32::MAX);
                state.incarnations.entry(line.incarnation).or_insert_with(|| Incarnation {
                    incarnation: line.incarnation,
                    slot: 0,
                    epoch,
                    host: who.host.clone(),
                    spool: who.spool.clone(),
                    endpoint: String::new(),
                    fenced: true,
                    fenced_us: Some(arrival.commit_us),
                });
                let key = key_of(&line);
                state.guarded.handed_in.insert(key);
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
                        what: "a request was sent before a failover that lost its subscription".to_owned(),
                    });
                }
                let row = Lost { line, state: if orphan { 3 } else { 0 }, chain: false };
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
        _: i64,
        _: i64,
    ) -> Result<(), StoreError> {
        let (who, quarantines) = (who.clone(), quarantines.to_vec());
        self.call("hand_in_done", move |state, _| {
            let spools = &mut state.guarded.spools;
            for id in quarantines {
                spools.retain(|(q, host, spool, _)| (*q, host, spool) != (id, &who.host, &who.spool));
                spools.push((id, who.host.clone(), who.spool.clone(), true));
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
            let guard = &mut state.guarded;
            let open = guard.shards.iter().filter(|(_, one, how)| *one == shard && how.is_none());
            let waits = |id: i64| guard.spools.iter().any(|(q, _, _, handed_in)| *q == id && !handed_in);
            let missing: Vec<i64> = open.map(|(id, ..)| *id).filter(|id| waits(*id)).collect();
            let late =
                |id: &i64| guard.quarantines.iter().any(|q| q.id == *id && q.deadline_us <= arrival.now_us);
            if !missing.iter().all(late) {
                return Ok(Resumed::NotYet);
            }
            if !missing.is_empty() && doubt_until_ms.is_none() {
                return Ok(Resumed::ListAll);
            }
            let doubt =
                doubt_until_ms.filter(|_| !missing.is_empty()).map(|until_ms| (until_ms, state.inbox_last));
            for (_, one, how) in &mut guard.shards {
                if *one == shard && how.is_none() {
                    *how = Some(doubt);
                }
            }
            if !missing.is_empty() {
                mark_open(state, shard, &missing);
            }
            let guard = &mut state.guarded;
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
        self.call("lost_attempts", move |state, _| {
            state.check_fence(&lease)?;
            clear(state, shard);
            let waiting = state.guarded.of_shard(shard).filter(|(key, lost)| {
                **key > after && lost.state < 2 && !(lost.state == 1 && state.opens.contains_key(key))
            });
            waiting.take(usize::try_from(limit).unwrap_or(0)).map(|(_, lost)| told(lost)).collect()
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
        self.call("restore_lost", move |state, _| {
            state.check_fence(&lease)?;
            if !state.owns(lease.slot, key.0) {
                return Ok(Verdict::NotOwner);
            }
            restore(state, key, cap)
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
        self.call("list_doubts", move |state, _| {
            state.check_fence(&lease)?;
            let mut listed = 0;
            for line in lines {
                let key = key_of(&line);
                let before = |(at, lost): (&AttemptKey, &Lost)| at.2 < key.2 && lost.state == 2;
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
                state.guarded.lost.insert(key, Lost { line, state: 0, chain: true });
                listed += 1;
                if state.guarded.held(shard_of(&line)) == 0 {
                    state.guarded.held.insert(shard_of(&line), 2);
                }
            }
            Ok(listed)
        })
        .await
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
    let mut spools: Vec<(String, String)> = alive.map(|i| (i.host.clone(), i.spool.clone())).collect();
    spools.sort();
    spools.dedup();
    let shards: Vec<i32> = state.owners.keys().copied().collect();
    let guard = &mut state.guarded;
    let id = i64::try_from(guard.quarantines.len()).unwrap_or(i64::MAX) + 1;
    let seen_counter = seen.max(guard.counter);
    guard.quarantines.push(Quarantine {
        id,
        window_from_us: from_us,
        deadline_us: arrival.now_us + terms.wait_ms * 1_000,
        seen_counter,
        from_timeline: timelines.0,
    });
    guard.spools.extend(spools.into_iter().map(|(host, spool)| (id, host, spool, false)));
    for shard in shards {
        guard.shards.push((id, shard, None));
        guard.held.insert(shard, 1);
    }
    (guard.timeline, guard.counter, guard.touched_us) =
        (timelines.1, seen_counter + 1_000_000, arrival.now_us);
    // Ids that were handed out may be known elsewhere.
    state.inbox_last += 1_000_000;
    id
}

/// What is open since the window may have been settled and followed by the next attempt, which only a missing spool knows.
fn mark_open(state: &mut State, shard: i32, missing: &[i64]) {
    let windows = state.guarded.quarantines.iter().filter(|q| missing.contains(&q.id));
    let Some(from_us) = windows.map(|q| q.window_from_us).min() else { return };
    let open: Vec<(AttemptKey, SentLine)> = state
        .intents
        .iter()
        .filter(|(key, intent)| {
            (key.0 >> 32) as i32 == shard
                && intent.intent_at_us >= from_us
                && intent.amount_minor > 0
                && !state.outcomes.contains_key(*key)
        })
        .map(|(key, intent)| (*key, line_of(intent)))
        .collect();
    for (key, line) in open {
        let mark = Lost { line, state: 2, chain: true };
        let kept = state.guarded.lost.entry(key).or_insert_with(|| mark.clone());
        if kept.state == 1 {
            *kept = mark;
        }
    }
}

fn line_of(intent: &Intent) -> SentLine {
    let digest = u128::from(intent.digest_hi as u64) << 64 | u128::from(intent.digest_lo as u64);
    SentLine {
        subscription_id: intent.subscription_id,
        period: intent.period,
        attempt_no: intent.attempt_no,
        op: intent.op as u8,
        carrier_no: (intent.subscription_id >> 44) as i32,
        amount_minor: intent.amount_minor,
        currency: intent.currency,
        digest: digest.to_be_bytes(),
        incarnation: intent.incarnation,
        intent_at_us: intent.intent_at_us,
        business_at_ms: intent.business_at_ms,
        not_before_ms: intent.not_before_ms,
        not_after_ms: intent.not_after_ms,
        book_version: intent.book_version,
        round: intent.round,
        step: intent.step,
        parent_no: intent.parent_no,
        rule: intent.rule_id,
    }
}

/// What `lost_attempts.sql` drops first.
fn clear(state: &mut State, shard: i32) {
    let keys: Vec<AttemptKey> = state.guarded.of_shard(shard).map(|(key, _)| *key).collect();
    for key in keys {
        let class = state.outcomes.get(&key).map(|outcome| outcome.class);
        let open = state.opens.contains_key(&key);
        let goes_on = state.subscriptions.get(&key.0).is_some_and(|sub| sub.period == key.1)
            || state.asides.get(&(key.0, key.1)).is_some_and(|own| own.next_at_ms.is_some());
        let Some(lost) = state.guarded.lost.get_mut(&key) else { continue };
        if lost.state == 1 && lost.chain && class.is_some_and(|class| class != 7 && class != 8) {
            lost.state = 2;
        }
        let settled = lost.state == 1 && (class.is_some() || !lost.chain && open);
        // While it is open the mark says that it is not repeated.
        if settled || lost.state == 2 && !goes_on && !open {
            state.guarded.lost.remove(&key);
        }
    }
    if state.guarded.held(shard) == 2 && !state.guarded.has_lost(shard) {
        state.guarded.held.insert(shard, 0);
    }
}

fn restore(state: &mut State, key: AttemptKey, cap: Option<CapDay>) -> Result<Verdict, StoreError> {
    let Some(lost) = state.guarded.lost.get_mut(&key).filter(|lost| lost.state < 2) else {
        return Ok(Verdict::NotFound);
    };
    if state.intents.contains_key(&key) {
        lost.state = 1;
        let told = state.outcomes.contains_key(&key) || state.opens.contains_key(&key);
        return Ok(if told { Verdict::FinalSame } else { Verdict::Ok });
    }
    let line = lost.line;
    if !state.has_partition(key.1) {
        return Ok(Verdict::NoPartition);
    }
    let Some(sub) = state.subscriptions.get(&key.0) else { return Ok(Verdict::NotFound) };
    let refund = line.op == Op::Refund as u8;
    if sub.period == key.1 && !refund {
        if sub.open != 0 || sub.attempt_no + 1 != key.2 {
            return Ok(Verdict::StaleRev);
        }
    } else if let Some(own) = state.asides.get(&(key.0, key.1)) {
        let gap = own.attempt_no + 1 < key.2;
        if own.open != 0 || own.attempt_no + 1 > key.2 || gap && !refund {
            return Ok(Verdict::StaleRev);
        }
    } else if key.1 > sub.period && sub.next_at_ms.is_some() {
        return Ok(Verdict::StaleRev);
    } else {
        let outcomes = state.outcomes.range((key.0, key.1, i16::MIN)..=(key.0, key.1, i16::MAX));
        let collects = |key: &AttemptKey| state.intents.get(key).is_some_and(|i| matches!(i.op, 1 | 3 | 6));
        let collected: i64 =
            outcomes.filter(|(key, o)| o.class == 5 && collects(key)).map(|(_, o)| o.moved_minor).sum();
        state.asides.insert(
            (key.0, key.1),
            Aside {
                subscription_id: key.0,
                period: key.1,
                due_minor: collected.max(line.amount_minor),
                collected_minor: collected,
                refunded_minor: 0,
                reversed_minor: 0,
                next_at_ms: None,
                expires_at_ms: None,
                rev: 0,
                attempt_no: key.2 - 1,
                round: line.round,
                step: line.step,
                open: 0,
                state: if refund { 4 } else { 1 },
                next_kind: 0,
                currency: line.currency,
            },
        );
    }
    if refund && let Some(own) = state.asides.get_mut(&(key.0, key.1)) {
        own.refunded_minor += line.amount_minor;
        own.rev += 1;
    }
    let digest = u128::from_be_bytes(line.digest);
    state.bare.insert(key);
    state.guarded.restored.insert(key);
    state.intents.insert(
        key,
        Intent {
            subscription_id: key.0,
            period: key.1,
            attempt_no: key.2,
            amount_minor: line.amount_minor,
            digest_hi: (digest >> 64) as i64,
            digest_lo: digest as i64,
            not_before_ms: line.not_before_ms,
            not_after_ms: line.not_after_ms,
            incarnation: line.incarnation,
            intent_at_us: line.intent_at_us,
            committed_us: line.intent_at_us,
            business_at_ms: line.business_at_ms,
            book_version: line.book_version,
            op: i16::from(line.op),
            round: line.round,
            step: line.step,
            currency: line.currency,
            rule_id: line.rule,
            cap_day: cap.map_or(0, |(_, [day, ..])| day),
            parent_no: line.parent_no,
            wish: None,
        },
    );
    if let Some((subscriber_id, days)) = cap {
        state.count_usage(subscriber_id, line.currency, days, line.amount_minor);
    }
    if let Some(lost) = state.guarded.lost.get_mut(&key) {
        lost.state = 1;
    }
    Ok(Verdict::Ok)
}

fn told(lost: &Lost) -> Result<LostAttempt, StoreError> {
    fn broken(error: impl std::fmt::Display) -> StoreError {
        StoreError::Broken(format!("a lost attempt: {error}"))
    }
    let line = &lost.line;
    let instant = |ms| Timestamp::from_millisecond(ms).map_err(broken);
    let op = Op::from_number(i16::from(line.op)).ok_or_else(|| broken(format!("operation {}", line.op)))?;
    Ok(LostAttempt {
        subscription_id: line.subscription_id,
        planned: Planned {
            op,
            period: Period::from_number(line.period).map_err(broken)?,
            attempt_no: line.attempt_no,
            parent_no: line.parent_no,
            amount_minor: line.amount_minor,
            round: line.round,
            step: line.step,
            not_before: instant(line.not_before_ms)?,
            not_after: instant(line.not_after_ms)?,
        },
        currency: line.currency,
        incarnation: line.incarnation,
        book_version: line.book_version,
        business_at: instant(line.business_at_ms)?,
        restored: lost.state == 1,
        assumed: lost.chain,
    })
}
