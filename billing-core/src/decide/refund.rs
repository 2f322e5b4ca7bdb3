//! Refunds and reversals: money that goes back. A refund is an attempt of its own with its own key and its own UNKNOWN;
//! the sum of all refunds but those proven refused never exceeds what was collected.

use jiff::{SignedDuration, Timestamp};
use thiserror::Error;

use super::waiting::deadline;
use super::{Event, LaneHint, Reading, belongs, entering_legs, in_suspense, legs, read};
use crate::entitlement::{later, seconds_bought};
use crate::ids::ATTEMPT_NO_MAX;
use crate::ledger::{Leg, LegKind};
use crate::outcome::{Op, Outcome};
use crate::plan::{PlanRules, RefundAccess};
use crate::reason::Rule;
use crate::states::{AttemptState, State, step};
use crate::subscription::{Aside, CoreError, NextKind, OpenAttempt, Planned, Subscription};
use crate::triage::next_after;
use crate::zone::Zone;

/// The attempt whose money is asked back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Original {
    /// Its number.
    pub attempt_no: i16,
    /// Where it stands.
    pub state: AttemptState,
    /// What it moved, minor units.
    pub moved_minor: i64,
    /// What of that is given back or may have been: its refunds but those proven refused, minor units.
    pub given_back_minor: i64,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct RefundAsk<'a> {
    /// The charge's own row, made of its attempts if it had none yet.
    pub aside: &'a Aside,
    /// The attempt.
    pub original: &'a Original,
    /// How much, minor units; all of it for a full refund.
    pub amount_minor: i64,
    /// Business time.
    pub now: Timestamp,
    /// How long the request may wait before its first byte leaves.
    pub send_within: SignedDuration,
}

/// Why a refund is not sent.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum RefundRefused {
    /// What is not known to have been collected cannot be given back.
    #[error("attempt {attempt_no} is {state}: only an approved attempt can be refunded")]
    NotCollected {
        /// The attempt.
        attempt_no: i16,
        /// Where it stands.
        state: &'static str,
    },
    /// Another attempt of the charge is not final.
    #[error("attempt {0} of this charge is not final yet")]
    Open(i16),
    /// Nothing or less is asked for.
    #[error("{0} minor units: an amount above 0 is expected")]
    Amount(i64),
    /// More than the attempt moved.
    #[error("{asked} minor units asked back, {left} of attempt {attempt_no} are left")]
    AboveAttempt {
        /// What was asked.
        asked: i64,
        /// What is left.
        left: i64,
        /// The attempt.
        attempt_no: i16,
    },
    /// More than the charge holds.
    #[error("{asked} minor units asked back, {left} of the charge are left")]
    AboveCharge {
        /// What was asked.
        asked: i64,
        /// What is left.
        left: i64,
    },
    /// No attempt number is left.
    #[error("all attempt numbers of this charge are used up")]
    Exhausted,
}

/// The refund attempt, and the charge's row as it must be made durable with its intent: the amount is held from then on.
///
/// # Errors
/// [`RefundRefused`], with what is left.
pub fn plan_refund(ask: &RefundAsk<'_>) -> Result<(Planned, Aside), RefundRefused> {
    let (aside, original) = (ask.aside, ask.original);
    if aside.open != OpenAttempt::None {
        return Err(RefundRefused::Open(aside.attempt_no));
    }
    if original.state != AttemptState::Approved {
        let state = original.state.name();
        return Err(RefundRefused::NotCollected { attempt_no: original.attempt_no, state });
    }
    let asked = ask.amount_minor;
    if asked <= 0 {
        return Err(RefundRefused::Amount(asked));
    }
    let left = original.moved_minor.saturating_sub(original.given_back_minor);
    if asked > left {
        return Err(RefundRefused::AboveAttempt { asked, left, attempt_no: original.attempt_no });
    }
    let left = left_of(aside);
    if asked > left {
        return Err(RefundRefused::AboveCharge { asked, left });
    }
    if aside.attempt_no >= ATTEMPT_NO_MAX {
        return Err(RefundRefused::Exhausted);
    }
    let planned = Planned {
        op: Op::Refund,
        period: aside.charge.period,
        attempt_no: aside.attempt_no + 1,
        parent_no: original.attempt_no,
        amount_minor: asked,
        round: 0,
        step: 0,
        not_before: ask.now,
        not_after: ask.now.checked_add(ask.send_within).unwrap_or(Timestamp::MAX),
    };
    Ok((planned, Aside { refunded_minor: aside.refunded_minor + asked, ..*aside }))
}

/// What of a charge could still be given back, minor units.
fn left_of(aside: &Aside) -> i64 {
    aside.collected_minor.saturating_sub(aside.refunded_minor).saturating_sub(aside.reversed_minor).max(0)
}

/// What [`decide_refund`] looks at.
#[derive(Debug, Clone, Copy)]
pub struct RefundFacts<'a> {
    /// The subscription.
    pub sub: &'a Subscription,
    /// The charge's own row, with the amount held since the intent.
    pub aside: &'a Aside,
    /// The plan.
    pub rules: &'a PlanRules,
    /// The subscriber's own zone.
    pub zone: &'a Zone,
    /// The refund attempt as its intent keeps it.
    pub attempt: &'a Planned,
    /// Where it stands.
    pub from: AttemptState,
    /// What the carrier said.
    pub outcome: Outcome,
    /// Business time.
    pub now: Timestamp,
    /// How long an accepted request may stay without its answer.
    pub answer_within: SignedDuration,
}

/// What follows from a refund's outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefundDecision {
    /// Where the attempt stands now.
    pub attempt: AttemptState,
    /// What was given back, minor units.
    pub moved_minor: i64,
    /// The charge's row afterwards.
    pub aside: Aside,
    /// Until when the subscription is paid afterwards.
    pub paid_until: Option<Timestamp>,
    /// Whether access was taken away: from `paid_until` on.
    pub revoked: bool,
    /// Transfers to post.
    pub legs: [Option<Leg>; 2],
    /// What merchants are told.
    pub event: Option<Event>,
    /// What the lane should do.
    pub lane: LaneHint,
    /// The rule that decided.
    pub rule: Rule,
}

/// Decides what an outcome means for a refund. A refund that was proven not to have happened gives its held amount
/// free; asking again is a new refund.
///
/// # Errors
/// [`CoreError`] when the row cannot be decided: a case for people, the outcome kept.
pub fn decide_refund(facts: &RefundFacts<'_>) -> Result<RefundDecision, CoreError> {
    let (aside, attempt) = (facts.aside, facts.attempt);
    let same = attempt.op == Op::Refund && attempt.period == aside.charge.period;
    belongs(attempt, facts.from, aside.attempt_no, same)?;
    let asked = attempt.amount_minor;
    if !(1..=aside.refunded_minor).contains(&asked) || aside.refunded_minor > aside.collected_minor {
        return Err(CoreError::Inconsistent(format!(
            "a refund of {asked} is not among the {} held of {} collected",
            aside.refunded_minor, aside.collected_minor
        )));
    }
    let free = Aside { refunded_minor: aside.refunded_minor - asked, open: OpenAttempt::None, ..*aside };
    match read(Op::Refund, asked, facts.from, facts.outcome) {
        Reading::Refunded(amount_minor) => refunded(facts, amount_minor),
        Reading::Declined(_) | Reading::NeedsConsent => {
            let decided = decision(facts, AttemptState::Declined, free, Rule::REFUND_REFUSED)?;
            Ok(RefundDecision { event: Some(Event::RefundRefused), ..decided })
        }
        Reading::Again(again) => {
            let decided = decision(facts, again.attempt, free, again.rule)?;
            Ok(RefundDecision { event: Some(Event::RefundRefused), lane: again.lane, ..decided })
        }
        Reading::Pending => {
            let waits = facts.from == AttemptState::Accepted && aside.next_kind == NextKind::Deadline;
            let next_at = aside.next_at.filter(|_| waits);
            let open = Aside {
                open: OpenAttempt::Accepted,
                next_at: Some(next_at.unwrap_or(deadline(facts.now, facts.answer_within))),
                next_kind: NextKind::Deadline,
                ..*aside
            };
            let decided = decision(facts, AttemptState::Accepted, open, Rule::ACCEPTED_WAIT)?;
            Ok(RefundDecision { legs: [None; 2], ..decided })
        }
        Reading::Moved(_) | Reading::Reserved | Reading::Released => unknown(facts, Rule::WRONG_OPERATION),
        Reading::Unknown(Rule::UNKNOWN_BLOCKS) => unknown(facts, Rule::REFUND_UNKNOWN),
        Reading::Unknown(rule) => unknown(facts, rule),
    }
}

fn decision(
    facts: &RefundFacts<'_>,
    attempt: AttemptState,
    aside: Aside,
    rule: Rule,
) -> Result<RefundDecision, CoreError> {
    let mut aside = Aside { attempt_no: facts.attempt.attempt_no, ..aside };
    if aside.open == OpenAttempt::None && aside.next_kind == NextKind::Deadline {
        (aside.next_at, aside.next_kind) = (None, NextKind::Never);
    }
    Ok(RefundDecision {
        attempt: step(facts.from, attempt)?,
        moved_minor: 0,
        aside,
        paid_until: facts.sub.progress.paid_until,
        revoked: false,
        legs: legs(facts.from, facts.attempt, None),
        event: None,
        lane: LaneHint::None,
        rule,
    })
}

fn refunded(facts: &RefundFacts<'_>, amount_minor: i64) -> Result<RefundDecision, CoreError> {
    let aside = Aside { open: OpenAttempt::None, ..*facts.aside };
    let before = facts.sub.progress.paid_until;
    let RefundFacts { sub, rules, zone, now, .. } = *facts;
    let paid_until = access_left(&Access { sub, aside: &aside, rules, zone, now }, amount_minor)?;
    let decided = decision(facts, AttemptState::Approved, aside, Rule::REFUND_DONE)?;
    Ok(RefundDecision {
        moved_minor: amount_minor,
        paid_until,
        revoked: paid_until != before,
        legs: legs(facts.from, facts.attempt, Some(Leg { kind: LegKind::Refunded, amount_minor })),
        event: Some(Event::ChargeRefunded),
        ..decided
    })
}

/// Whose access it is, and what the plan says of it.
#[derive(Clone, Copy)]
struct Access<'a> {
    sub: &'a Subscription,
    /// The charge's row with what went back counted in it.
    aside: &'a Aside,
    rules: &'a PlanRules,
    zone: &'a Zone,
    now: Timestamp,
}

/// Until when access is paid after money went back, as the plan says. Time that is past stays used.
fn access_left(facts: &Access<'_>, amount_minor: i64) -> Result<Option<Timestamp>, CoreError> {
    let Access { sub, aside, rules, zone, now } = *facts;
    let paid_until = sub.progress.paid_until;
    let all = aside.refunded_minor.saturating_add(aside.reversed_minor) >= aside.collected_minor;
    // Bought for good, or nothing is left to take.
    let Some(until) = paid_until.filter(|until| *until > now) else {
        let for_good = paid_until.is_none() && sub.progress.state.is_over();
        let ends = for_good && all && rules.refund_access != RefundAccess::Keep;
        return Ok(if ends { Some(now) } else { paid_until });
    };
    match rules.refund_access {
        RefundAccess::Keep => Ok(paid_until),
        RefundAccess::End => Ok(Some(if all { now } else { until })),
        RefundAccess::Share => {
            let period = aside.charge.period;
            let next = next_after(rules, sub.anchor, period, zone, sub.id)?;
            let Some(next) = next else { return Ok(paid_until) };
            let starts = rules.schedule.due_at(sub.anchor, period, zone, sub.id)?;
            let length_s = next.due_at.as_second().saturating_sub(starts.as_second());
            let kept = left_of(aside);
            let upto = kept.saturating_add(amount_minor);
            let seconds = seconds_bought(length_s, aside.due_minor, kept, upto);
            Ok(Some(later(until, -seconds).max(now)))
        }
    }
}

fn unknown(facts: &RefundFacts<'_>, rule: Rule) -> Result<RefundDecision, CoreError> {
    let (attempt, open) = match facts.from {
        AttemptState::InReview => (AttemptState::InReview, OpenAttempt::InReview),
        _ => (AttemptState::Unknown, OpenAttempt::Unknown),
    };
    let aside = Aside { open, next_at: None, next_kind: NextKind::Never, ..*facts.aside };
    let decided = decision(facts, attempt, aside, rule)?;
    Ok(RefundDecision {
        legs: entering_legs(facts.from, facts.attempt),
        event: (!in_suspense(facts.from)).then_some(Event::RefundUnknown),
        ..decided
    })
}

/// Books money that the carrier took back by itself: the charge's row, the transfer, the event and the rule.
///
/// # Errors
/// [`RefundRefused`] when nothing, or more than what is left, was taken back: a case for people.
pub fn reverse(aside: &Aside, amount_minor: i64) -> Result<(Aside, Leg, Event, Rule), RefundRefused> {
    if amount_minor <= 0 {
        return Err(RefundRefused::Amount(amount_minor));
    }
    let left = left_of(aside);
    if amount_minor > left {
        return Err(RefundRefused::AboveCharge { asked: amount_minor, left });
    }
    let after = Aside { reversed_minor: aside.reversed_minor + amount_minor, ..*aside };
    let leg = Leg { kind: LegKind::Reversed, amount_minor };
    Ok((after, leg, Event::ChargeReversed, Rule::REVERSED))
}

/// What [`decide_reversal`] looks at.
#[derive(Debug, Clone, Copy)]
pub struct ReversalFacts<'a> {
    /// The subscription.
    pub sub: &'a Subscription,
    /// The charge's own row, made of its attempts if it had none yet.
    pub aside: &'a Aside,
    /// The plan.
    pub rules: &'a PlanRules,
    /// The subscriber's own zone.
    pub zone: &'a Zone,
    /// What the carrier took back, minor units.
    pub amount_minor: i64,
    /// Business time.
    pub now: Timestamp,
}

/// What follows from money that the carrier took back by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReversalDecision {
    /// The charge's row afterwards.
    pub aside: Aside,
    /// Until when the subscription is paid afterwards: as after a refund.
    pub paid_until: Option<Timestamp>,
    /// Whether access was taken away: from `paid_until` on.
    pub revoked: bool,
    /// The transfer back.
    pub leg: Leg,
    /// What merchants are told.
    pub event: Event,
    /// The rule that decided.
    pub rule: Rule,
}

/// Decides what follows when a carrier took money back by itself. It is not collected again: the carrier's word is final.
///
/// # Errors
/// [`CoreError`], with what is left, when more was taken back than the charge holds.
pub fn decide_reversal(facts: &ReversalFacts<'_>) -> Result<ReversalDecision, CoreError> {
    let ReversalFacts { sub, rules, zone, amount_minor, now, .. } = *facts;
    let reversed = reverse(facts.aside, amount_minor);
    let (aside, leg, event, rule) = reversed.map_err(|why| CoreError::Inconsistent(why.to_string()))?;
    let before = sub.progress.paid_until;
    let paid_until = access_left(&Access { sub, aside: &aside, rules, zone, now }, amount_minor)?;
    Ok(ReversalDecision { aside, paid_until, revoked: paid_until != before, leg, event, rule })
}
