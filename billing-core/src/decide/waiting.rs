//! Outcomes after which the same charge goes on: accepted, unknown, or not applied with proof.

use jiff::{SignedDuration, Timestamp};

use super::{Again, Decision, Event, Facts, WhyAgain, assembled, decision, entering_legs, next_of};
use crate::entitlement::later;
use crate::plan::Dunning;
use crate::reason::{Input, Rule};
use crate::states::{AttemptState, ChargeState};
use crate::subscription::{CoreError, NextKind, OpenAttempt, Progress};

/// Doubles with each attempt, 128-fold at most: a carrier that is out of reach for days must not use up the
/// attempt numbers of a charge.
const NOT_SENT_DELAY_S: i64 = 5;
const NOT_SENT_DOUBLINGS_MAX: i16 = 7;

/// The other delays double with every eighth attempt that did not count, 32-fold at most, for the same reason.
const UNCOUNTED_PER_DOUBLING: i16 = 8;
const UNCOUNTED_DOUBLINGS_MAX: i16 = 5;

/// Seconds until an attempt that was not applied is made again under a new key.
pub(super) fn delay_s(dunning: &Dunning, why: WhyAgain, attempt_no: i16, tries: i16) -> i64 {
    let base = match why {
        WhyAgain::NotSent => {
            let doublings = attempt_no.saturating_sub(1).clamp(0, NOT_SENT_DOUBLINGS_MAX);
            return NOT_SENT_DELAY_S << doublings;
        }
        WhyAgain::Throttled => dunning.throttled_delay_s,
        WhyAgain::Temporary => dunning.temporary_delay_s,
        WhyAgain::Fault => dunning.fault_delay_s,
    };
    let uncounted = attempt_no.saturating_sub(tries).saturating_sub(1).max(0);
    let doublings = (uncounted / UNCOUNTED_PER_DOUBLING).clamp(0, UNCOUNTED_DOUBLINGS_MAX);
    base.saturating_mul(1 << doublings)
}

/// Seconds after which an attempt that was not applied may have been made again at the earliest, for whatever reason.
#[must_use]
pub fn soonest_again_s(dunning: &Dunning, attempt_no: i16) -> i64 {
    let whys = [WhyAgain::NotSent, WhyAgain::Throttled, WhyAgain::Temporary, WhyAgain::Fault];
    // As many doublings as the fewest counted tries allow, and at least a second: time passes.
    let soonest = whys.into_iter().map(|why| delay_s(dunning, why, attempt_no, attempt_no)).min();
    soonest.unwrap_or(0).max(1)
}

pub(super) fn again(facts: &Facts<'_>, again: &Again) -> Result<Decision, CoreError> {
    let at = &facts.sub.progress;
    let delay_s = delay_s(&facts.rules.dunning, again.why, facts.attempt.attempt_no, at.tries);
    let progress = going_on(facts, *at, delay_s)?;
    let decided = decision(facts, again.attempt, charge_going_on(&progress), progress, again.rule)?;
    Ok(Decision { lane: again.lane, ..decided })
}

/// A charge whose reservation stands stays reserved.
pub(super) fn charge_going_on(progress: &Progress) -> ChargeState {
    if progress.reserved.is_some() { ChargeState::Reserved } else { ChargeState::Open }
}

/// The row when the same charge goes on after a delay and nothing was lost.
pub(super) fn going_on(facts: &Facts<'_>, at: Progress, delay_s: i64) -> Result<Progress, CoreError> {
    let at = Progress { attempt_no: facts.attempt.attempt_no, open: OpenAttempt::None, ..at };
    let wanted = later(facts.now, delay_s);
    // What is set aside is confirmed or given back at any hour, while it lasts.
    if let Some(reserved) = at.reserved {
        let next_at = wanted.min(reserved.until.max(facts.now));
        return Ok(Progress {
            retry_at: Some(next_at),
            next_at: Some(next_at),
            next_kind: NextKind::Reserved,
            ..at
        });
    }
    if !at.state.collects() {
        return Ok(at.at_rest());
    }
    let retry_at = facts.rules.schedule.allowed(facts.zone, wanted)?.from;
    // A long delay does not hold up the next period.
    let (next_at, next_kind) = match next_of(facts)? {
        Some(next) if next.due_at <= retry_at => (next.due_at, NextKind::PeriodStart),
        _ => (retry_at, NextKind::Retry),
    };
    Ok(Progress { retry_at: Some(retry_at), next_at: Some(next_at), next_kind, ..at })
}

/// The end of waiting for an answer.
pub(super) fn deadline(now: Timestamp, answer_within: SignedDuration) -> Timestamp {
    now.checked_add(answer_within).unwrap_or(Timestamp::MAX)
}

pub(super) fn accepted(facts: &Facts<'_>) -> Result<Decision, CoreError> {
    let at = &facts.sub.progress;
    let deadline = deadline(facts.now, facts.answer_within);
    let next_due = if at.state.collects() { next_of(facts)?.map(|next| next.due_at) } else { None };
    let (next_at, next_kind, retry_at) = match next_due {
        // A carrier that says "accepted" again does not win time.
        _ if facts.from == AttemptState::Accepted && at.open == OpenAttempt::Accepted => {
            (at.next_at, at.next_kind, at.retry_at)
        }
        // The deadline outlives the period: it goes along with the charge.
        Some(due) if due < deadline => (Some(due), NextKind::PeriodStart, Some(deadline)),
        _ => (Some(deadline), NextKind::Deadline, None),
    };
    let progress = Progress {
        attempt_no: facts.attempt.attempt_no,
        open: OpenAttempt::Accepted,
        retry_at,
        next_at,
        next_kind,
        ..*at
    };
    let decided = waiting(facts, AttemptState::Accepted, progress, Rule::ACCEPTED_WAIT)?;
    Ok(Decision { legs: [None; 2], ..decided })
}

pub(super) fn unknown(facts: &Facts<'_>, rule: Rule) -> Result<Decision, CoreError> {
    let at = &facts.sub.progress;
    let next_at = if at.state.collects() { next_of(facts)?.map(|next| next.due_at) } else { None };
    // What people look at stays with them.
    let (attempt, open) = match facts.from {
        AttemptState::InReview => (AttemptState::InReview, OpenAttempt::InReview),
        _ => (AttemptState::Unknown, OpenAttempt::Unknown),
    };
    let progress = Progress {
        attempt_no: facts.attempt.attempt_no,
        open,
        retry_at: None,
        next_at,
        next_kind: if next_at.is_some() { NextKind::PeriodStart } else { NextKind::Never },
        ..*at
    };
    let entered = !super::in_suspense(facts.from);
    let decided = waiting(facts, attempt, progress, rule)?;
    Ok(Decision {
        legs: entering_legs(facts.from, facts.attempt),
        event: entered.then_some(Event::ChargeUnknown),
        inputs: decided.inputs.with(Input::AskedMinor, facts.attempt.amount_minor),
        ..decided
    })
}

/// An open attempt takes no stop: its row is looked at again, and triage records it.
fn waiting(
    facts: &Facts<'_>,
    attempt: AttemptState,
    progress: Progress,
    rule: Rule,
) -> Result<Decision, CoreError> {
    assembled(facts, attempt, ChargeState::Waiting, progress, (rule, None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Budget, GiveUp, Rounds, RoundsOf};

    #[test]
    fn nothing_is_tried_again_before_the_soonest() {
        let none = Rounds::fixed(Vec::new(), GiveUp::NextPeriod);
        let dunning = |throttled_delay_s, temporary_delay_s, fault_delay_s| Dunning {
            no_funds: none.clone(),
            limit: none.clone(),
            limits: RoundsOf::default(),
            barred: none.clone(),
            unknown_subscriber: none.clone(),
            subscriber_refused: none.clone(),
            not_allowed: none.clone(),
            throttled_delay_s,
            temporary_delay_s,
            fault_delay_s,
            budget: Budget::default(),
        };
        for (dunning, soonest) in [
            (dunning(60, 300, 900), [5, 10, 20, 40, 60, 60]),
            (dunning(0, 7, 7), [1; 6]),
            (dunning(9, 7, 8), [5, 7, 7, 7, 7, 7]),
        ] {
            for (attempt_no, expected) in (1..).zip(soonest) {
                assert_eq!(soonest_again_s(&dunning, attempt_no), expected, "attempt {attempt_no}");
                for why in [WhyAgain::NotSent, WhyAgain::Throttled, WhyAgain::Temporary, WhyAgain::Fault] {
                    for tries in 0..=attempt_no {
                        let delay_s = delay_s(&dunning, why, attempt_no, tries);
                        assert!(delay_s.max(1) >= expected, "attempt {attempt_no}, {tries} tries: {delay_s}");
                    }
                }
            }
        }
    }
}
