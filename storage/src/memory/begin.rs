//! `begin_attempts.sql`, `begin_verdicts.sql`, `begin_aside.sql`.

use super::rows::Intent;
use super::state::State;
use super::{Arrival, MemoryConn, refused};
use crate::mutants::{Mutant, on};
use crate::pg::{BeginBatch, BeginValues, Lease, StoreError, Verdict};

impl MemoryConn {
    /// Makes a batch of intents durable.
    pub(crate) async fn begin(
        &mut self,
        batch: &BeginBatch,
        lease: &Lease,
        business_at_ms: i64,
    ) -> Result<Vec<Verdict>, StoreError> {
        let (rows, lease) = (batch.rows(), *lease);
        self.call("begin_attempts", move |state, arrival| {
            begin(state, arrival, &rows, &lease, business_at_ms)
        })
        .await
    }
}

fn begin(
    state: &mut State,
    arrival: Arrival,
    rows: &[BeginValues],
    lease: &Lease,
    business_at_ms: i64,
) -> Result<Vec<Verdict>, StoreError> {
    state.check_fence(lease)?;
    let verdicts: Vec<Verdict> = rows.iter().map(|row| verdict(state, row, lease, business_at_ms)).collect();
    let passed = || rows.iter().zip(&verdicts).filter(|(_, verdict)| **verdict == Verdict::Ok);
    if passed().any(|(row, _)| row.amount <= 0 || !(1..=1_023).contains(&row.attempt_no)) {
        return Err(refused("attempt_intent: a check constraint"));
    }
    for (row, _) in passed() {
        let key = (row.id, row.period, row.attempt_no);
        state.watch_overlap(key);
        state.bare.insert(key);
        state.intents.insert(key, intent(row, lease, arrival, business_at_ms));
    }
    let counted: Vec<&BeginValues> = passed().map(|(row, _)| row).collect();
    for row in counted {
        state.reserve(row);
    }
    Ok(verdicts)
}

fn verdict(state: &State, row: &BeginValues, lease: &Lease, business_at_ms: i64) -> Verdict {
    if !state.owns(lease.slot, row.id) {
        return Verdict::NotOwner;
    }
    let Some(sub) = state.subscriptions.get(&row.id) else { return Verdict::NotFound };
    let held = state.guarded.held((row.id >> 32) as i32);
    if held == 1 {
        return Verdict::Quarantined;
    }
    if let Some(kept) = state.intents.get(&(row.id, row.period, row.attempt_no)) {
        return if (kept.digest_hi, kept.digest_lo) != row.digest {
            Verdict::ExistsDifferent
        } else if kept.incarnation == lease.incarnation {
            Verdict::ExistsMine
        } else {
            Verdict::ExistsSame
        };
    }
    if held == 2 && state.guarded.is_lost(row.id, row.period) {
        return Verdict::Lost;
    }
    let follows = if sub.period == row.period {
        sub.open == 0 && sub.attempt_no + 1 == row.attempt_no
    } else {
        let own = state.asides.get(&(row.id, row.period));
        own.is_some_and(|own| own.open == 0 && own.attempt_no + 1 == row.attempt_no)
    };
    if sub.rev != row.rev || sub.flags != 0 || !follows {
        return Verdict::StaleRev;
    }
    let bound = matches!(row.op, 1..=3);
    let refund_open = sub.period == row.period
        && row.attempt_no > 2
        && state.asides.get(&(row.id, row.period)).is_some_and(|own| own.open != 0);
    let stopped =
        sub.stop_at_ms.is_some() || sub.consent_until_ms.is_some_and(|until| until <= business_at_ms);
    if bound && stopped && !on(Mutant::StopNotChecked) {
        return Verdict::Stopped;
    }
    if refund_open {
        return Verdict::RefundOpen;
    }
    let inside = row.not_before <= business_at_ms && business_at_ms < row.not_after;
    if bound && !inside && !on(Mutant::WindowNotChecked) {
        return Verdict::OutsideWindow;
    }
    if !state.has_partition(row.period) {
        return Verdict::NoPartition;
    }
    if state.is_over(row) { Verdict::OverCap } else { Verdict::Ok }
}

fn intent(row: &BeginValues, lease: &Lease, arrival: Arrival, business_at_ms: i64) -> Intent {
    Intent {
        subscription_id: row.id,
        period: row.period,
        attempt_no: row.attempt_no,
        amount_minor: row.amount,
        digest_hi: row.digest.0,
        digest_lo: row.digest.1,
        not_before_ms: row.not_before,
        not_after_ms: row.not_after,
        incarnation: lease.incarnation,
        intent_at_us: arrival.now_us,
        committed_us: arrival.commit_us,
        business_at_ms,
        book_version: row.book_version,
        op: row.op,
        round: row.round,
        step: row.step,
        currency: row.currency,
        rule_id: row.rule,
        cap_day: row.cap_day,
        parent_no: row.parent,
        wish: None,
    }
}
