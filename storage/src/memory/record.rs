//! `record_outcomes.sql`, `record_verdicts.sql`, `record_rare.sql`, `record_more.sql`.

use serde::Deserialize;

use super::rows::{Aside, Event, Grant, Note, Open, Outcome, Transfer};
use super::state::State;
use super::{Arrival, MemoryConn, refused};
use crate::mutants::{Mutant, on};
use crate::pg::{AsideValues, Lease, RecordBatch, RecordValues, StoreError, Verdict};

/// What is rarer still, as [`super::super::pg::MoreRow`] writes it.
#[derive(Debug, Default, Deserialize)]
struct More {
    moves: Vec<Moved>,
    grants: Vec<Granted>,
    events: Vec<Told>,
    passed: Vec<Passed>,
    /// Moves and reversals are no part of the simulation: a batch with one is refused.
    shifts: Vec<serde_json::Value>,
    opens: Vec<serde_json::Value>,
    reversals: Vec<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
struct Moved {
    place: usize,
    anchor_day: i32,
    anchor_minute: i16,
    anchor_done: i32,
    try_day: i16,
    day_tries: i16,
    notice_at_ms: Option<i64>,
}

#[derive(Debug, Deserialize)]
struct Granted {
    place: usize,
    from_ms: i64,
    until_ms: Option<i64>,
    variant: i16,
}

#[derive(Debug, Deserialize)]
struct Told {
    place: usize,
    event: i16,
}

#[derive(Debug, Deserialize)]
struct Passed {
    place: usize,
    first: i32,
    before: Option<i32>,
    charge_state: i16,
}

/// A batch on its way to its commit.
struct Batch {
    rows: Vec<RecordValues>,
    more: More,
    inbox: Vec<(i32, i64)>,
    lease: Lease,
    stripe: i16,
    business_at_ms: i64,
    business_date: i32,
}

impl MemoryConn {
    /// Records a batch in one commit.
    pub(crate) async fn record(
        &mut self,
        batch: &RecordBatch<'_>,
        lease: &Lease,
        stripe: i16,
        business_at_ms: i64,
        business_date: i32,
    ) -> Result<Vec<Verdict>, StoreError> {
        let more = match batch.more_document() {
            Some(text) => serde_json::from_str(&text).map_err(|e| StoreError::Broken(e.to_string()))?,
            None => More::default(),
        };
        let (rows, inbox) = (batch.rows(), batch.inbox_rows());
        let batch = Batch { rows, more, inbox, lease: *lease, stripe, business_at_ms, business_date };
        self.call("record_outcomes", move |state, arrival| record(state, arrival, &batch)).await
    }
}

fn record(state: &mut State, arrival: Arrival, batch: &Batch) -> Result<Vec<Verdict>, StoreError> {
    state.check_fence(&batch.lease)?;
    let all = vec![Verdict::Ok; batch.rows.len()];
    let owned = batch.rows.iter().all(|row| state.owns(batch.lease.slot, row.id));
    // The fast path: everything passes, or nothing of it stays.
    let verdicts = match owned && state.passes(batch, &all).is_ok() {
        true => all,
        false => {
            let verdicts = batch.rows.iter().map(|row| state.verdict(row, &batch.lease)).collect();
            state.passes(batch, &verdicts).map_err(refused)?;
            verdicts
        }
    };
    let passed = |place: usize| verdicts.get(place) == Some(&Verdict::Ok);
    for (_, row) in batch.rows.iter().enumerate().filter(|(place, _)| passed(*place)) {
        state.apply(row, batch, arrival);
    }
    let given = batch.rows.iter().enumerate().filter(|(place, _)| passed(*place));
    state.give_back(given.map(|(_, row)| row));
    state.apply_more(batch, &passed);
    let kept: Vec<i64> = batch
        .rows
        .iter()
        .zip(&verdicts)
        .filter(|(_, verdict)| matches!(verdict, Verdict::StaleRev | Verdict::NotOwner))
        .map(|(row, _)| row.id)
        .collect();
    for key in &batch.inbox {
        // What was not applied because the row changed or moved away is still wanted.
        if state.inbox.get(key).is_some_and(|row| !kept.contains(&row.subscription_id)) {
            state.inbox.remove(key);
        }
    }
    Ok(verdicts)
}

impl State {
    fn verdict(&self, row: &RecordValues, lease: &Lease) -> Verdict {
        let key = (row.id, row.period, row.attempt_no);
        if !self.owns(lease.slot, row.id) {
            return Verdict::NotOwner;
        }
        let Some(sub) = self.subscriptions.get(&row.id) else { return Verdict::NotFound };
        if let Some(kept) = self.outcomes.get(&key).filter(|_| row.kind != 3) {
            let same = row.kind == 1 && kept.class == row.class && kept.moved_minor == row.moved;
            return if same { Verdict::FinalSame } else { Verdict::Conflict };
        }
        if row.kind == 2 && self.opens.contains_key(&key) && sub.rev == row.rev + 1 {
            return Verdict::FinalSame;
        }
        if sub.rev != row.rev {
            return Verdict::StaleRev;
        }
        if self.has_partition(row.period) { Verdict::Ok } else { Verdict::NoPartition }
    }

    /// Whether the rows with verdict 0 break no constraint: what Postgres finds out by trying.
    fn passes(&self, batch: &Batch, verdicts: &Vec<Verdict>) -> Result<(), &'static str> {
        let mut legs = std::collections::BTreeSet::new();
        for (row, _) in batch.rows.iter().zip(verdicts).filter(|(_, verdict)| **verdict == Verdict::Ok) {
            let key = (row.id, row.period, row.attempt_no);
            let sub = self.subscriptions.get(&row.id).ok_or("subscription: gone")?;
            if sub.rev != row.rev {
                return Err("subscription: another revision");
            }
            let next = &row.next;
            let reserved = (next.reserved_no == 0) == next.reserved_minor.is_none()
                && (next.reserved_no == 0) == next.reserved_until.is_none();
            let fits = next.due > 0
                && (0..=next.due).contains(&next.collected)
                && (1..=10).contains(&next.state)
                && (0..=1_023).contains(&next.attempt_no)
                && (0..=3).contains(&next.open)
                && reserved;
            if !fits {
                return Err("subscription: a check constraint");
            }
            let partition = self.has_partition(row.period);
            let long = |word: &Option<String>| word.as_ref().is_some_and(|w| w.chars().count() > 64);
            if row.kind == 1 {
                let fits = partition
                    && (5..=10).contains(&row.class)
                    && row.moved >= 0
                    && (row.class == 5) == (row.moved > 0)
                    && !long(&row.code)
                    && !long(&row.txn_id);
                if !fits {
                    return Err("attempt_outcome: a check constraint");
                }
                if self.outcomes.contains_key(&key) {
                    return Err("attempt_outcome: a unique constraint");
                }
            }
            if row.kind == 2 && self.intents.contains_key(&key) && !(2..=4).contains(&row.class) {
                return Err("attempt_open: a check constraint");
            }
            if row.kind == 3 && (!partition || self.notes.contains_key(&(row.id, row.period, row.rev))) {
                return Err("charge_note: a constraint");
            }
            for leg in &row.legs {
                let place = (row.id, row.period, row.attempt_no, leg.leg);
                let known = self.transfers.contains_key(&place);
                if !partition || leg.amount <= 0 || leg.debit == leg.credit {
                    return Err("transfer: a check constraint");
                }
                if known || !legs.insert(place) {
                    return Err("transfer: a unique constraint");
                }
            }
            let granted = self.grants.contains_key(&key);
            if row.grant_until != 0 && (!partition || granted) {
                return Err("entitlement_grant: a constraint");
            }
        }
        self.more_passes(batch, verdicts)
    }

    fn more_passes(&self, batch: &Batch, verdicts: &[Verdict]) -> Result<(), &'static str> {
        let more = &batch.more;
        if !more.shifts.is_empty() || !more.opens.is_empty() || !more.reversals.is_empty() {
            return Err("moves and reversals: not in the memory store");
        }
        let passed = |place: usize| verdicts.get(place.wrapping_sub(1)) == Some(&Verdict::Ok);
        for moved in batch.more.moves.iter().filter(|moved| passed(moved.place)) {
            if !(0..=1_439).contains(&moved.anchor_minute) {
                return Err("subscription: a check constraint");
            }
        }
        for grant in batch.more.grants.iter().filter(|grant| passed(grant.place)) {
            let row = &batch.rows[grant.place - 1];
            let known = self.grants.contains_key(&(row.id, row.period, row.attempt_no));
            if !self.has_partition(row.period) || known || row.grant_until != 0 {
                return Err("entitlement_grant: a constraint");
            }
        }
        Ok(())
    }

    fn apply(&mut self, row: &RecordValues, batch: &Batch, arrival: Arrival) {
        let key = (row.id, row.period, row.attempt_no);
        if let Some(sub) = self.subscriptions.get_mut(&row.id) {
            let next = &row.next;
            sub.rev += 1;
            (sub.state, sub.period, sub.due_minor) = (next.state, next.period, next.due);
            (sub.collected_minor, sub.attempt_no) = (next.collected, next.attempt_no);
            (sub.round, sub.step, sub.open) = (next.round, next.step, next.open);
            (sub.deferrals, sub.paid_until_ms) = (next.deferrals, next.paid_until);
            (sub.state_until_ms, sub.retry_at_ms) = (next.state_until, next.retry_at);
            (sub.next_at_ms, sub.next_kind) = (next.next_at, next.next_kind);
            (sub.flags, sub.book_version, sub.tries) = (next.flags, next.book_version, next.tries);
            sub.reserved_no = Some(next.reserved_no).filter(|no| *no != 0);
            (sub.reserved_minor, sub.reserved_until_ms) = (next.reserved_minor, next.reserved_until);
        }
        match row.kind {
            1 => self.close(row, batch),
            2 => self.open(row, arrival),
            _ => {
                let note = Note {
                    subscription_id: row.id,
                    period: row.period,
                    rev: row.rev,
                    until_ms: row.until,
                    business_at_ms: batch.business_at_ms,
                    kind: row.reason,
                    charge_state: row.charge_state,
                    rule_id: row.rule,
                    before_period: None,
                };
                self.notes.insert((row.id, row.period, row.rev), note);
            }
        }
        for leg in row.legs.iter().filter(|_| !on(Mutant::NoTransfers)) {
            let transfer = Transfer {
                source_id: row.id,
                period: row.period,
                attempt_no: row.attempt_no,
                leg: leg.leg,
                amount: leg.amount,
                debit_account: leg.debit,
                credit_account: leg.credit,
                business_date: batch.business_date,
                asset: leg.asset,
            };
            self.transfers.insert((row.id, row.period, row.attempt_no, leg.leg), transfer);
            *self.balances.entry((leg.debit, batch.stripe)).or_default() += leg.amount;
            *self.balances.entry((leg.credit, batch.stripe)).or_default() -= leg.amount;
        }
        if row.grant_until != 0 {
            let grant = Grant {
                subscription_id: row.id,
                period: row.period,
                attempt_no: row.attempt_no,
                from_ms: batch.business_at_ms,
                until_ms: Some(row.grant_until).filter(|until| *until != -1),
                variant: 0,
            };
            self.grants.insert(key, grant);
        }
        if row.event != 0 {
            self.tell(row, batch, row.moved, row.event);
        }
        row.asides.iter().for_each(|aside| self.put_aside(row, aside));
        if let (Some(after), Some(kept)) = (&row.refund, self.asides.get_mut(&(row.id, row.period))) {
            (kept.refunded_minor, kept.attempt_no, kept.open) =
                (after.refunded, after.attempt_no, after.open);
            (kept.next_at_ms, kept.next_kind, kept.rev) = (after.next_at, after.next_kind, kept.rev + 1);
        }
    }

    fn close(&mut self, row: &RecordValues, batch: &Batch) {
        let key = (row.id, row.period, row.attempt_no);
        self.bare.remove(&key);
        let before = self.outcomes.insert(
            key,
            Outcome {
                subscription_id: row.id,
                period: row.period,
                attempt_no: row.attempt_no,
                moved_minor: row.moved,
                collected_after: row.collected,
                incarnation: batch.lease.incarnation,
                business_at_ms: batch.business_at_ms,
                latency_us: row.latency,
                class: row.class,
                reason: row.reason,
                charge_state: row.charge_state,
                rule_id: row.rule,
                carrier_code: row.code.clone(),
                carrier_txn_id: row.txn_id.clone(),
            },
        );
        self.flipped += usize::from(before.is_some());
        if !batch.inbox.is_empty() {
            self.opens.remove(&key);
        }
    }

    fn open(&mut self, row: &RecordValues, arrival: Arrival) {
        let key = (row.id, row.period, row.attempt_no);
        let Some(intent) = self.intents.get(&key) else { return };
        let fresh = Open {
            subscription_id: row.id,
            period: row.period,
            attempt_no: row.attempt_no,
            amount_minor: intent.amount_minor,
            deadline_at_ms: row.until,
            since_us: arrival.now_us,
            kind: row.class - 1,
            reason: row.reason,
            rule_id: row.rule,
            currency: intent.currency,
            carrier_code: row.code.clone(),
            carrier_txn_id: row.txn_id.clone(),
            assignee: None,
            next_ask_us: arrival.now_us,
            last_write_us: None,
            last_writer: None,
            asks: 0,
        };
        self.bare.remove(&key);
        self.opens
            .entry(key)
            .and_modify(|kept| {
                // With people it stays for the reason that brought it there.
                if kept.kind != 3 {
                    (kept.reason, kept.rule_id) = (fresh.reason, fresh.rule_id);
                }
                kept.kind = fresh.kind;
                kept.deadline_at_ms = None;
            })
            .or_insert(fresh);
    }

    fn put_aside(&mut self, row: &RecordValues, aside: &AsideValues) {
        let fresh = Aside {
            subscription_id: row.id,
            period: aside.period,
            due_minor: aside.due,
            collected_minor: aside.collected,
            refunded_minor: 0,
            reversed_minor: 0,
            next_at_ms: aside.next_at,
            expires_at_ms: aside.expires,
            rev: 0,
            attempt_no: aside.attempt_no,
            round: aside.round,
            step: aside.step,
            open: aside.open,
            state: aside.state,
            next_kind: aside.next_kind,
            currency: aside.currency,
        };
        self.asides
            .entry((row.id, aside.period))
            .and_modify(|kept| {
                let own = row.period == aside.period && row.attempt_no == kept.attempt_no;
                *kept = Aside {
                    rev: kept.rev + 1,
                    refunded_minor: kept.refunded_minor,
                    reversed_minor: kept.reversed_minor,
                    attempt_no: kept.attempt_no.max(fresh.attempt_no),
                    open: if own { fresh.open } else { kept.open.max(fresh.open) },
                    currency: kept.currency,
                    ..fresh
                };
            })
            .or_insert(fresh);
    }

    fn tell(&mut self, row: &RecordValues, batch: &Batch, amount: i64, event: i16) {
        self.events.push(Event {
            business_at_ms: batch.business_at_ms,
            merchant_no: row.merchant,
            subscription_id: row.id,
            amount,
            period: row.period,
            rev: row.rev + 1,
            event,
        });
    }

    fn apply_more(&mut self, batch: &Batch, passed: &dyn Fn(usize) -> bool) {
        let row = |place: usize| batch.rows.get(place - 1).filter(|_| passed(place - 1));
        for moved in &batch.more.moves {
            let sub = row(moved.place).and_then(|row| self.subscriptions.get_mut(&row.id));
            let Some(sub) = sub else { continue };
            (sub.anchor_day, sub.anchor_minute) = (moved.anchor_day, moved.anchor_minute);
            (sub.anchor_done, sub.try_day, sub.day_tries) =
                (moved.anchor_done, moved.try_day, moved.day_tries);
            sub.notice_at_ms = moved.notice_at_ms;
        }
        for grant in &batch.more.grants {
            let Some(row) = row(grant.place) else { continue };
            let kept = Grant {
                subscription_id: row.id,
                period: row.period,
                attempt_no: row.attempt_no,
                from_ms: grant.from_ms,
                until_ms: grant.until_ms,
                variant: grant.variant,
            };
            self.grants.insert((row.id, row.period, row.attempt_no), kept);
        }
        for told in &batch.more.events {
            if let Some(row) = row(told.place) {
                self.tell(row, batch, 0, told.event);
            }
        }
        for passed in &batch.more.passed {
            let Some(row) = row(passed.place) else { continue };
            // The first partition that the range reaches into.
            let reached = self.partitions.iter().find(|(low, high)| {
                **high > passed.first && passed.before.is_none_or(|before| **low < before)
            });
            let Some((low, _)) = reached else { continue };
            let period = passed.first.max(*low);
            let note = Note {
                subscription_id: row.id,
                period,
                rev: row.rev,
                until_ms: None,
                business_at_ms: batch.business_at_ms,
                kind: 1,
                charge_state: passed.charge_state,
                rule_id: row.rule,
                before_period: passed.before,
            };
            self.notes.insert((row.id, period, row.rev), note);
        }
    }
}
