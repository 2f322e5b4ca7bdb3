//! Outcomes of charges that have a row of their own: an earlier period's attempt that was open when the next one began,
//! and arrears. Decided on that row alone: it never touches the running period's progress, never lowers `paid_until`
//! and never worsens the subscription's state.

use jiff::{SignedDuration, Timestamp};

use super::rounds::{arrears_of, fitting, next_arrears};
use super::waiting::{deadline, delay_s};
use super::{Again, Event, LaneHint, Reading, belongs, entering_legs, in_suspense, legs, read};
use crate::entitlement::{Grant, later, seconds_bought};
use crate::ledger::{Leg, LegKind};
use crate::outcome::{Op, Outcome, Refusal};
use crate::plan::{LateApproved, PlanRules, Settles};
use crate::reason::{Input, Inputs, Rule};
use crate::states::{AttemptState, ChargeState, step};
use crate::subscription::{Aside, CoreError, Held, NextKind, OpenAttempt, Planned, Subscription};
use crate::triage::next_after;
use crate::zone::Zone;

/// What [`decide_aside`] looks at.
#[derive(Debug, Clone, Copy)]
pub struct AsideFacts<'a> {
    /// The subscription, at a later period.
    pub sub: &'a Subscription,
    /// The charge's own row.
    pub aside: &'a Aside,
    /// The plan.
    pub rules: &'a PlanRules,
    /// The subscriber's own zone.
    pub zone: &'a Zone,
    /// The attempt as its intent keeps it.
    pub attempt: &'a Planned,
    /// Where the attempt stands.
    pub from: AttemptState,
    /// What the carrier said.
    pub outcome: Outcome,
    /// Business time.
    pub now: Timestamp,
    /// How long an accepted request may stay without its answer.
    pub answer_within: SignedDuration,
    /// What the subscription owes in arrears besides this charge.
    pub held: Held,
}

/// What follows from it. The subscription's row changes in nothing but `paid_until`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AsideDecision {
    /// Where the attempt stands now.
    pub attempt: AttemptState,
    /// What moved, minor units.
    pub moved_minor: i64,
    /// The charge's row afterwards.
    pub aside: Aside,
    /// Until when the subscription is paid afterwards: never earlier than before.
    pub paid_until: Option<Timestamp>,
    /// Transfers to post.
    pub legs: [Option<Leg>; 2],
    /// What the subscriber may use because of it.
    pub grant: Option<Grant>,
    /// What merchants are told.
    pub event: Option<Event>,
    /// What is proposed to be given back, minor units; people decide on it.
    pub propose_refund_minor: i64,
    /// What the lane should do.
    pub lane: LaneHint,
    /// The rule that decided.
    pub rule: Rule,
    /// What it looked at.
    pub inputs: Inputs,
}

/// Decides what an outcome means for a charge with a row of its own.
///
/// # Errors
/// [`CoreError`] when the row cannot be decided: a case for people, the outcome kept.
pub fn decide_aside(facts: &AsideFacts<'_>) -> Result<AsideDecision, CoreError> {
    let (aside, attempt) = (facts.aside, facts.attempt);
    let same = attempt.period == aside.charge.period && aside.charge.subscription == facts.sub.id;
    belongs(attempt, facts.from, aside.attempt_no, same)?;
    if attempt.op == Op::Refund {
        return Err(CoreError::Inconsistent("a refund is decided by its own function".into()));
    }
    match read(attempt.op, attempt.amount_minor, facts.from, facts.outcome) {
        Reading::Moved(amount_minor) => collected(facts, amount_minor),
        Reading::Refunded(_) => unknown(facts, Rule::WRONG_OPERATION),
        // The period is over: it is neither confirmed nor tried again, and runs out at the carrier.
        Reading::Reserved => closed(facts, AttemptState::Reserved),
        Reading::Released => closed(facts, AttemptState::Released),
        Reading::Pending => accepted(facts),
        Reading::NeedsConsent => refused(facts, None),
        Reading::Declined(refusal) => refused(facts, Some(refusal)),
        Reading::Again(again) => not_applied(facts, &again),
        Reading::Unknown(rule) => unknown(facts, rule),
    }
}

fn decision(
    facts: &AsideFacts<'_>,
    attempt: AttemptState,
    aside: Aside,
    rule: Rule,
) -> Result<AsideDecision, CoreError> {
    let mut aside = Aside { attempt_no: facts.attempt.attempt_no, ..aside };
    if facts.sub.progress.state.is_over() && aside.state == ChargeState::Arrears {
        aside = Aside { state: ChargeState::Cancelled, ..at_rest(aside) };
    }
    // A row that was put aside settled stays what it is; every other waits for this outcome.
    let before =
        if facts.aside.state == ChargeState::Arrears { ChargeState::Arrears } else { ChargeState::Waiting };
    Ok(AsideDecision {
        attempt: step(facts.from, attempt)?,
        moved_minor: 0,
        aside: Aside { state: step(before, aside.state)?, ..aside },
        paid_until: facts.sub.progress.paid_until,
        legs: legs(facts.from, facts.attempt, None),
        grant: None,
        event: None,
        propose_refund_minor: 0,
        lane: LaneHint::None,
        rule,
        inputs: Inputs::default(),
    })
}

fn at_rest(aside: Aside) -> Aside {
    Aside { open: OpenAttempt::None, next_at: None, next_kind: NextKind::Never, expires_at: None, ..aside }
}

/// Whether the charge was put aside to be collected later, and not because an attempt was open.
fn is_arrears(aside: &Aside) -> bool {
    aside.expires_at.is_some()
}

fn collected(facts: &AsideFacts<'_>, moved_minor: i64) -> Result<AsideDecision, CoreError> {
    let before = facts.aside;
    let after_minor = before.collected_minor.checked_add(moved_minor).filter(|sum| *sum <= before.due_minor);
    let after_minor = after_minor.ok_or_else(|| {
        CoreError::Inconsistent(format!(
            "{moved_minor} on top of {} would exceed the {} due",
            before.collected_minor, before.due_minor
        ))
    })?;
    let full = after_minor == before.due_minor;
    let paid = Aside { collected_minor: after_minor, ..*before };
    let rest =
        if full || facts.rules.settles() != Settles::Amount { None } else { owed_still(facts, &paid)? };
    let (state, event) = match (full, facts.rules.settles(), &rest) {
        (true, ..) => (ChargeState::Settled, Event::ChargeSettled),
        (false, Settles::Period | Settles::Share, _) => (ChargeState::Reduced, Event::ChargeReduced),
        (false, Settles::Amount, Some(_)) => (ChargeState::Arrears, Event::ChargePart),
        (false, Settles::Amount, None) => (ChargeState::WrittenOff, Event::ChargePart),
    };
    let aside = rest.unwrap_or(Aside { state, ..at_rest(paid) });
    let arrears = is_arrears(before);
    let rule = match (arrears, facts.rules.late_approved) {
        _ if facts.attempt.op == Op::Adopt => Rule::ADOPTED,
        (true, _) => Rule::ARREARS_SETTLE,
        (false, LateApproved::Extend) => Rule::LATE_EXTEND,
        (false, LateApproved::Past) => Rule::LATE_PAST,
        (false, LateApproved::Refund) => Rule::LATE_REFUND,
    };
    let give_back = !arrears && facts.rules.late_approved == LateApproved::Refund;
    let grant = extension(facts, after_minor, full)?;
    let decided = decision(facts, AttemptState::Approved, aside, rule)?;
    let at = &facts.sub.progress;
    let inputs = decided.inputs.with(Input::DueMinor, before.due_minor);
    Ok(AsideDecision {
        moved_minor,
        legs: legs(
            facts.from,
            facts.attempt,
            Some(Leg { kind: LegKind::Collected, amount_minor: moved_minor }),
        ),
        paid_until: match grant {
            Some(grant) => at.paid_until.max(grant.until),
            None => at.paid_until,
        },
        grant,
        event: Some(event),
        propose_refund_minor: if give_back { moved_minor } else { 0 },
        inputs: inputs.with(Input::CollectedMinor, before.collected_minor),
        ..decided
    })
}

/// What late money buys where the plan lets it extend access: the time that it paid for, after what is paid already.
fn extension(facts: &AsideFacts<'_>, after_minor: i64, full: bool) -> Result<Option<Grant>, CoreError> {
    let (sub, before) = (facts.sub, facts.aside);
    if facts.rules.late_approved != LateApproved::Extend {
        return Ok(None);
    }
    let schedule = &facts.rules.schedule;
    let period = before.charge.period;
    let Some(next) = next_after(facts.rules, sub.anchor, period, facts.zone, sub.id)? else {
        return Ok(None);
    };
    let starts = schedule.due_at(sub.anchor, period, facts.zone, sub.id)?;
    let length_s = next.due_at.as_second().saturating_sub(starts.as_second());
    let whole = !full && facts.rules.settles() == Settles::Period;
    let upto = if whole { before.due_minor } else { after_minor };
    let seconds = seconds_bought(length_s, before.due_minor, before.collected_minor, upto);
    let from = sub.progress.paid_until.map_or(facts.now, |paid| paid.max(facts.now));
    let until = later(from, seconds);
    Ok((until > from).then_some(Grant { from, until: Some(until), variant: 0 }))
}

/// What remains of it as arrears: as it was, or newly so if the plan's bounds allow it.
fn owed_still(facts: &AsideFacts<'_>, aside: &Aside) -> Result<Option<Aside>, CoreError> {
    if aside.due_minor.saturating_sub(aside.collected_minor) < facts.rules.part_min() {
        return Ok(None);
    }
    if !is_arrears(aside) {
        let closed = Aside { open: OpenAttempt::None, ..*aside };
        return arrears_of(facts.sub, facts.rules, facts.zone, closed, facts.held, facts.now);
    }
    let next = next_arrears(facts.sub, facts.rules, facts.zone, aside, facts.now)?;
    Ok(next.map(|next_at| Aside {
        round: aside.round.saturating_add(1),
        open: OpenAttempt::None,
        state: ChargeState::Arrears,
        next_at: Some(next_at),
        next_kind: NextKind::Arrears,
        ..*aside
    }))
}

fn refused(facts: &AsideFacts<'_>, refusal: Option<Refusal>) -> Result<AsideDecision, CoreError> {
    let hard = matches!(
        refusal,
        None | Some(Refusal::UnknownSubscriber | Refusal::SubscriberRefused | Refusal::NotAllowed)
    );
    let was_arrears = is_arrears(facts.aside);
    let rest = if hard { None } else { owed_still(facts, facts.aside)? };
    let (aside, event, rule) = match rest {
        Some(aside) if was_arrears => (aside, None, Rule::ARREARS_NEXT),
        Some(aside) => (aside, Some(Event::ChargeArrears), Rule::GIVE_UP_ARREARS),
        None => {
            let rule = if was_arrears { Rule::ARREARS_GIVE_UP } else { Rule::ASIDE_CLOSED };
            let aside = Aside { state: ChargeState::WrittenOff, ..at_rest(*facts.aside) };
            (aside, Some(Event::ChargeGivenUp), rule)
        }
    };
    let decided = decision(facts, AttemptState::Declined, aside, rule)?;
    let inputs = decided.inputs.with(Input::Round, i64::from(facts.aside.round));
    Ok(AsideDecision { event, inputs, ..decided })
}

fn closed(facts: &AsideFacts<'_>, attempt: AttemptState) -> Result<AsideDecision, CoreError> {
    let aside = Aside { state: ChargeState::WrittenOff, ..at_rest(*facts.aside) };
    let decided = decision(facts, attempt, aside, Rule::ASIDE_CLOSED)?;
    Ok(AsideDecision { event: Some(Event::ChargeGivenUp), ..decided })
}

/// Proven not to have been applied: arrears are tried again, the charge of an earlier period is not.
fn not_applied(facts: &AsideFacts<'_>, again: &Again) -> Result<AsideDecision, CoreError> {
    let before = facts.aside;
    let (aside, event, rule) = match (before.expires_at, &facts.rules.arrears) {
        (Some(expires_at), Some(arrears)) => {
            let delay = delay_s(&facts.rules.dunning, again.why, facts.attempt.attempt_no, 0);
            let wanted = later(facts.now, delay);
            let next_at = fitting(&arrears.rounds, facts.rules, facts.zone, wanted)?.unwrap_or(wanted);
            let aside = Aside {
                open: OpenAttempt::None,
                state: ChargeState::Arrears,
                next_at: Some(next_at.min(expires_at)),
                next_kind: NextKind::Arrears,
                ..*before
            };
            (aside, None, again.rule)
        }
        _ => match owed_still(facts, before)? {
            Some(aside) => (aside, Some(Event::ChargeArrears), Rule::GIVE_UP_ARREARS),
            None => {
                let aside = Aside { state: ChargeState::WrittenOff, ..at_rest(*before) };
                (aside, Some(Event::ChargeGivenUp), Rule::ASIDE_CLOSED)
            }
        },
    };
    let decided = decision(facts, again.attempt, aside, rule)?;
    Ok(AsideDecision { event, lane: again.lane, ..decided })
}

fn accepted(facts: &AsideFacts<'_>) -> Result<AsideDecision, CoreError> {
    let before = facts.aside;
    // A carrier that says "accepted" again does not win time.
    let waits = facts.from == AttemptState::Accepted && before.next_kind == NextKind::Deadline;
    let kept = before.next_at.filter(|_| waits);
    let aside = Aside {
        open: OpenAttempt::Accepted,
        state: ChargeState::Waiting,
        next_at: Some(kept.unwrap_or(deadline(facts.now, facts.answer_within))),
        next_kind: NextKind::Deadline,
        ..*before
    };
    let decided = decision(facts, AttemptState::Accepted, aside, Rule::ACCEPTED_WAIT)?;
    Ok(AsideDecision { legs: [None; 2], ..decided })
}

fn unknown(facts: &AsideFacts<'_>, rule: Rule) -> Result<AsideDecision, CoreError> {
    let (attempt, open) = match facts.from {
        AttemptState::InReview => (AttemptState::InReview, OpenAttempt::InReview),
        _ => (AttemptState::Unknown, OpenAttempt::Unknown),
    };
    let aside = Aside {
        open,
        state: ChargeState::Waiting,
        next_at: None,
        next_kind: NextKind::Never,
        ..*facts.aside
    };
    let decided = decision(facts, attempt, aside, rule)?;
    Ok(AsideDecision {
        legs: entering_legs(facts.from, facts.attempt),
        event: (!in_suspense(facts.from)).then_some(Event::ChargeUnknown),
        ..decided
    })
}
