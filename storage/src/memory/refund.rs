//! `begin_refund.sql`.

use super::rows::{Aside, Intent};
use super::state::State;
use super::{Arrival, MemoryConn, refused};
use crate::mutants::{Mutant, on};
use crate::pg::{BeginRefund, Lease, StoreError, Verdict};

/// The refund's row, without what it borrows.
struct Asked {
    rev: i32,
    digest: (i64, i64),
    inbox_id: i64,
    aside: Aside,
    intent: Intent,
}

impl MemoryConn {
    pub(crate) async fn begin_refund(
        &mut self,
        lease: &Lease,
        business_at_ms: i64,
        row: &BeginRefund<'_>,
    ) -> Result<Verdict, StoreError> {
        let (planned, aside, lease) = (row.planned, row.aside, *lease);
        let digest = u128::from_be_bytes(row.digest);
        let digest = ((digest >> 64) as i64, digest as i64);
        let (id, period) = (aside.charge.subscription.0, planned.period.number());
        let asked = Asked {
            rev: row.rev,
            digest,
            inbox_id: row.inbox_id,
            aside: Aside {
                subscription_id: id,
                period,
                due_minor: aside.due_minor,
                collected_minor: aside.collected_minor,
                refunded_minor: 0,
                reversed_minor: 0,
                next_at_ms: None,
                expires_at_ms: None,
                rev: 0,
                attempt_no: planned.attempt_no - 1,
                round: aside.round,
                step: aside.step,
                open: 0,
                state: aside.state as i16,
                next_kind: 0,
                currency: row.currency,
            },
            intent: Intent {
                subscription_id: id,
                period,
                attempt_no: planned.attempt_no,
                amount_minor: planned.amount_minor,
                digest_hi: digest.0,
                digest_lo: digest.1,
                not_before_ms: planned.not_before.as_millisecond(),
                not_after_ms: planned.not_after.as_millisecond(),
                incarnation: lease.incarnation,
                intent_at_us: 0,
                committed_us: 0,
                business_at_ms,
                book_version: row.book_version,
                op: 5,
                round: aside.round,
                step: aside.step,
                currency: row.currency,
                rule_id: row.rule,
                cap_day: 0,
                parent_no: planned.parent_no,
                wish: Some(row.inbox_id),
            },
        };
        self.call("begin_refund", move |state, arrival| begin(state, arrival, asked, &lease)).await
    }
}

fn begin(state: &mut State, arrival: Arrival, asked: Asked, lease: &Lease) -> Result<Verdict, StoreError> {
    state.check_fence(lease)?;
    let Asked { rev, digest, inbox_id, aside, intent } = asked;
    let (id, period, no) = (intent.subscription_id, intent.period, intent.attempt_no);
    if !state.owns(lease.slot, id) {
        return Ok(Verdict::NotOwner);
    }
    if state.guarded.held((id >> 32) as i32) == 1 {
        return Ok(Verdict::Quarantined);
    }
    if let Some(kept) = state.intents.get(&(id, period, no)) {
        return Ok(if (kept.digest_hi, kept.digest_lo) != digest {
            Verdict::ExistsDifferent
        } else if kept.incarnation == lease.incarnation {
            Verdict::ExistsMine
        } else {
            Verdict::ExistsSame
        });
    }
    if state.guarded.is_lost(id, period) {
        return Ok(Verdict::Lost);
    }
    if !state.subscriptions.get(&id).is_some_and(|sub| sub.rev == rev && sub.flags == 0) {
        return Ok(Verdict::StaleRev);
    }
    if !state.has_partition(period) {
        return Ok(Verdict::NoPartition);
    }
    if intent.amount_minor <= 0 || !(1..=1_023).contains(&no) {
        return Err(refused("attempt_intent: a check constraint"));
    }
    let (mut collected, mut parent, mut is_open) = (0, 0, false);
    for before in state.attempts_of(id, period) {
        let outcome = state.outcomes.get(&(id, period, before.attempt_no));
        is_open |= before.attempt_no >= no || outcome.is_none() && !on(Mutant::RefundDuringUnknown);
        let approved = outcome.filter(|o| o.class == 5 && matches!(before.op, 1 | 3 | 6));
        let moved = approved.map_or(0, |outcome| outcome.moved_minor);
        collected += moved;
        parent += if before.attempt_no == intent.parent_no { moved } else { 0 };
    }
    // The row stays, also when the refund is refused.
    let kept = state.asides.entry((id, period)).or_insert(aside);
    let amount = intent.amount_minor;
    let open = kept.open != 0 && !on(Mutant::RefundDuringUnknown);
    let fits = kept.refunded_minor + kept.reversed_minor + amount <= collected && amount <= parent;
    if open || !fits || is_open {
        return Ok(Verdict::StaleRev);
    }
    kept.refunded_minor += amount;
    (kept.collected_minor, kept.rev) = (collected, kept.rev + 1);
    state.bare.insert((id, period, no));
    let intent = Intent { intent_at_us: arrival.now_us, committed_us: arrival.commit_us, ..intent };
    state.watch_overlap((id, period, no));
    state.intents.insert((id, period, no), intent);
    state.inbox.remove(&((id >> 32) as i32, inbox_id));
    Ok(Verdict::Ok)
}
