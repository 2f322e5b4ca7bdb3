//! Refunds as rows, and what outcomes give back of a subscriber's caps.

use billing_core::decide::{Decision, LaneHint, RefundFacts, ReversalFacts, decide_refund, decide_reversal};
use billing_core::ledger::Leg;
use billing_core::outcome::Op;
use billing_core::reason::{Input, Inputs};
use billing_core::split::Shares;
use billing_core::states::AttemptState;
use billing_core::subscription::{Planned, Progress, Reservation};
use billing_core::triage::NoteKind;
use jiff::Timestamp;
use storage::mutants::{Mutant, on};
use storage::pg::{GiveBack, LEGS_MAX, MoreRow, PostedLeg, RecordRow, ReversalRow, RowKind};

use super::{AttemptFacts, Item};
use crate::stripe::Reversal;

impl Item {
    /// Decides on a refund, and makes its row.
    pub(super) fn refund_record(
        &self,
        facts: &AttemptFacts,
        now: Timestamp,
    ) -> Result<(RecordRow, LaneHint), String> {
        let plan = self.catalog.plan(self.row.sub.plan_no).ok_or("the plan is not in the book")?;
        let zone = self.catalog.zone(self.row.zone_no).ok_or("the zone is not known")?;
        let aside = self.aside.as_deref().ok_or("a refund without the row of its charge")?;
        let core = RefundFacts {
            sub: &self.row.sub,
            aside,
            rules: &plan.rules,
            zone,
            attempt: &facts.planned,
            from: facts.from,
            outcome: facts.outcome,
            now,
            answer_within: plan.rules.answer_within(),
        };
        let decision = decide_refund(&core).map_err(|error| error.to_string())?;
        let before = self.row.sub.progress;
        // While its period is current the charge's numbers are given out by the subscription's row.
        let current = before.period == facts.planned.period;
        let attempt_no =
            if current { before.attempt_no.max(facts.planned.attempt_no) } else { before.attempt_no };
        let until_ms = |at: Option<Timestamp>| at.map_or(-1, Timestamp::as_millisecond);
        let open = !decision.attempt.is_final();
        let record = RecordRow {
            subscription_id: self.row.sub.id.0,
            rev: self.row.sub.rev,
            kind: if open { RowKind::Open } else { RowKind::Final },
            period: facts.planned.period.number(),
            attempt_no: facts.planned.attempt_no,
            class: decision.attempt as i16,
            reason: facts.outcome.reason().0,
            moved_minor: decision.moved_minor,
            collected_after_minor: aside.collected_minor,
            charge_state: aside.state as i16,
            rule: decision.rule.number(),
            latency_us: facts.latency_us,
            until_ms: (decision.attempt == AttemptState::Accepted)
                .then(|| decision.aside.next_at.map(Timestamp::as_millisecond))
                .flatten(),
            progress: Progress { attempt_no, paid_until: decision.paid_until, ..before },
            flags: self.row.sub.flags,
            book_version: self.row.book_version,
            grant_until_ms: if decision.revoked { until_ms(decision.paid_until) } else { 0 },
            event: decision.event.map_or(0, |event| event as i16),
            merchant_no: self.row.merchant_no,
            legs: self.posted(&decision.legs, Some(decision.aside.collected_minor))?,
            currency: self.row.currency,
            asides: Vec::new(),
            more: None,
            inbox: self.inbox,
            give_back: [None; 2],
            refunded: Some(decision.aside),
        };
        Ok((record, decision.lane))
    }

    /// Decides on what a carrier took back, and makes its row.
    pub(super) fn reversal_record(
        &self,
        reversal: &Reversal,
        now: Timestamp,
    ) -> Result<(RecordRow, Inputs), String> {
        let plan = self.catalog.plan(self.row.sub.plan_no).ok_or("the plan is not in the book")?;
        let zone = self.catalog.zone(self.row.zone_no).ok_or("the zone is not known")?;
        let core = ReversalFacts {
            sub: &self.row.sub,
            aside: &reversal.aside,
            rules: &plan.rules,
            zone,
            amount_minor: reversal.amount_minor,
            now,
        };
        let decision = decide_reversal(&core).map_err(|error| error.to_string())?;
        let until_ms = |at: Option<Timestamp>| at.map_or(-1, Timestamp::as_millisecond);
        let inputs = Inputs::default()
            .with(Input::CollectedMinor, reversal.aside.collected_minor)
            .with(Input::AskedMinor, reversal.amount_minor);
        let more = MoreRow {
            reversal: Some(ReversalRow {
                reversal_no: reversal.reversal_no,
                amount_minor: reversal.amount_minor,
                currency: self.row.currency,
                reference: reversal.reference.to_string(),
            }),
            ..MoreRow::default()
        };
        let record = RecordRow {
            reason: NoteKind::Reversal as i16,
            // No attempt has such a number: its transfer stands beside those of the attempts.
            attempt_no: -reversal.reversal_no,
            moved_minor: reversal.amount_minor,
            until_ms: None,
            progress: Progress { paid_until: decision.paid_until, ..self.row.sub.progress },
            grant_until_ms: if decision.revoked { until_ms(decision.paid_until) } else { 0 },
            event: decision.event as i16,
            legs: self.posted(&[Some(decision.leg)], Some(reversal.aside.collected_minor))?,
            more: more.boxed(),
            ..self.aside_note_record(&reversal.aside, decision.rule)
        };
        Ok((record, inputs))
    }

    /// The transfers of a decision, in their parts, with their accounts. `collected_minor`: what the charge had collected
    /// of which something goes back.
    pub(super) fn posted(
        &self,
        decided: &[Option<Leg>],
        collected_minor: Option<i64>,
    ) -> Result<[Option<PostedLeg>; LEGS_MAX], String> {
        let carrier_no = self.row.sub.id.shard().carrier_no();
        let rules = self.catalog.plan(self.row.sub.plan_no).map(|plan| &plan.rules);
        let shares = |minor| match (rules, collected_minor) {
            (None, _) => Shares::NONE,
            (Some(rules), None) => rules.shares_at(minor),
            (Some(rules), Some(collected)) => rules.shares_back(minor, collected),
        };
        let fee_returned = rules.is_some_and(|rules| rules.fee_returned);
        let parts = decided.iter().flatten();
        let parts = parts.flat_map(|leg| leg.parts(&shares(leg.amount_minor), fee_returned)).flatten();
        let mut legs = [None; LEGS_MAX];
        for (slot, leg) in legs.iter_mut().zip(parts) {
            let (debit, credit) = self
                .catalog
                .names
                .leg_accounts(leg.kind, carrier_no, self.row.merchant_no, self.row.currency)
                .ok_or("no account for its transfer")?;
            let amount_minor = leg.amount_minor;
            *slot = Some(PostedLeg { kind: leg.kind, debit, credit, amount_minor, asset: self.row.currency });
        }
        Ok(legs)
    }

    /// What goes back to the subscriber's caps: only what is proven not to have been collected. UNKNOWN keeps it.
    pub(super) fn give_back(&self, planned: &Planned, decision: &Decision) -> [Option<GiveBack>; 2] {
        let own = self.own_back(planned, decision.attempt, decision.moved_minor);
        let over = decision.attempt.is_final().then_some(decision.progress.reserved);
        [own, over.and_then(|after| self.reservation_back(after, decision.moved_minor))]
    }

    /// What the attempt itself gives back.
    pub(super) fn own_back(
        &self,
        planned: &Planned,
        attempt: AttemptState,
        moved_minor: i64,
    ) -> Option<GiveBack> {
        let own = GiveBack {
            subscriber_id: self.row.sub.subscriber_id,
            attempt_no: planned.attempt_no,
            kept_minor: moved_minor,
            request: attempt == AttemptState::NotSent,
        };
        let reserves = matches!(planned.op, Op::Charge | Op::Reserve);
        let less = match attempt {
            AttemptState::Declined | AttemptState::NotSent | AttemptState::NotApplied => true,
            AttemptState::Approved => moved_minor < planned.amount_minor,
            AttemptState::Unknown => on(Mutant::UnknownFreesCap),
            _ => false,
        };
        (reserves && less && self.has_caps()).then_some(own)
    }

    /// What a reservation that is over gives back, less what was collected of it.
    pub(super) fn reservation_back(
        &self,
        after: Option<Reservation>,
        collected_minor: i64,
    ) -> Option<GiveBack> {
        let before = self.row.sub.progress.reserved.filter(|_| after.is_none() && self.has_caps())?;
        (collected_minor < before.amount_minor).then_some(GiveBack {
            subscriber_id: self.row.sub.subscriber_id,
            attempt_no: before.attempt_no,
            kept_minor: collected_minor,
            request: false,
        })
    }

    fn has_caps(&self) -> bool {
        self.catalog.plan(self.row.sub.plan_no).is_some_and(|plan| plan.rules.caps.counts())
    }
}
