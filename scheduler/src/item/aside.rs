//! The same for charges with rows of their own: of the subscription's row nothing changes but how long it is paid.

use billing_core::decide::{AsideDecision, AsideFacts, Event, decide_aside};
use billing_core::reason::Rule;
use billing_core::states::{AttemptState, ChargeState};
use billing_core::subscription::{Aside, Held, NextKind, Progress};
use billing_core::triage::NoteKind;
use jiff::Timestamp;
use storage::pg::{LEGS_MAX, RecordRow, RowKind};

use super::{AttemptFacts, Item, grant_of};

impl Item {
    pub(super) fn decide_aside(
        &self,
        facts: &AttemptFacts,
        aside: &Aside,
        now: Timestamp,
    ) -> Result<AsideDecision, String> {
        let plan = self.catalog.plan(self.row.sub.plan_no).ok_or("the plan is not in the book")?;
        let zone = self.catalog.zone(self.row.zone_no).ok_or("the zone is not known")?;
        let core = AsideFacts {
            sub: &self.row.sub,
            aside,
            rules: &plan.rules,
            zone,
            attempt: &facts.planned,
            from: facts.from,
            outcome: facts.outcome,
            now,
            answer_within: plan.rules.answer_within(),
            held: besides(self.row.held, aside),
        };
        decide_aside(&core).map_err(|error| error.to_string())
    }

    pub(super) fn aside_record(
        &self,
        facts: &AttemptFacts,
        decision: &AsideDecision,
        now: Timestamp,
    ) -> Result<RecordRow, String> {
        let legs = self.posted(&decision.legs, None)?;
        let open = !decision.attempt.is_final();
        let (plain, rare) = grant_of(decision.grant, now);
        let after = &decision.aside;
        let waits = decision.attempt == AttemptState::Accepted && after.next_kind == NextKind::Deadline;
        let progress = Progress { paid_until: decision.paid_until, ..self.row.sub.progress };
        Ok(RecordRow {
            kind: if open { RowKind::Open } else { RowKind::Final },
            attempt_no: facts.planned.attempt_no,
            class: decision.attempt as i16,
            reason: facts.outcome.reason().0,
            moved_minor: decision.moved_minor,
            latency_us: facts.latency_us,
            until_ms: after.next_at.filter(|_| waits).map(Timestamp::as_millisecond),
            progress,
            grant_until_ms: plain,
            event: decision.event.map_or(0, |event| event as i16),
            legs,
            more: self.more(&progress, None, rare, None, &[]),
            // What is set aside belongs to the current charge.
            give_back: [self.own_back(&facts.planned, decision.attempt, decision.moved_minor), None],
            ..self.aside_note_record(after, decision.rule)
        })
    }

    /// The row of a change without an attempt.
    pub(super) fn aside_note_record(&self, after: &Aside, rule: Rule) -> RecordRow {
        let (kind, event) = match after.state {
            ChargeState::Expired => (NoteKind::Expire, Some(Event::ChargeExpired)),
            ChargeState::WrittenOff => (NoteKind::WriteOff, Some(Event::ChargeGivenUp)),
            ChargeState::Cancelled => (NoteKind::Cancel, None),
            _ => (NoteKind::Defer, None),
        };
        let deferred = after.next_at.filter(|_| kind == NoteKind::Defer);
        RecordRow {
            subscription_id: self.row.sub.id.0,
            rev: self.row.sub.rev,
            kind: RowKind::Note,
            period: after.charge.period.number(),
            attempt_no: 0,
            class: 0,
            reason: kind as i16,
            moved_minor: 0,
            collected_after_minor: after.collected_minor,
            charge_state: after.state as i16,
            rule: rule.number(),
            latency_us: 0,
            until_ms: deferred.map(Timestamp::as_millisecond),
            progress: self.row.sub.progress,
            flags: self.row.sub.flags,
            // The current charge keeps the version that it is decided under.
            book_version: self.row.book_version,
            grant_until_ms: 0,
            event: event.map_or(0, |event| event as i16),
            merchant_no: self.row.merchant_no,
            legs: [None; LEGS_MAX],
            currency: self.row.currency,
            asides: vec![*after],
            more: None,
            inbox: self.inbox,
            give_back: [None; 2],
            refunded: None,
        }
    }
}

/// What is owed besides a charge that is counted in it.
fn besides(held: Held, aside: &Aside) -> Held {
    if aside.state != ChargeState::Arrears {
        return held;
    }
    let owed_minor = aside.due_minor.saturating_sub(aside.collected_minor);
    Held {
        count: held.count.saturating_sub(1).max(0),
        owed_minor: held.owed_minor.saturating_sub(owed_minor).max(0),
    }
}
