//! Two phases: set aside, then collect or give back. No transfer before the confirm.

use super::waiting::{charge_going_on, delay_s, going_on};
use super::{Decision, Event, Facts, WhyAgain, decision};
use crate::entitlement::later;
use crate::reason::{Input, Rule};
use crate::states::{AttemptState, ChargeState};
use crate::subscription::{CoreError, NextKind, OpenAttempt, Progress, Reservation};

/// The carrier set the amount aside.
pub(super) fn reserved(facts: &Facts<'_>) -> Result<Decision, CoreError> {
    let at = &facts.sub.progress;
    let Some(rules) = facts.rules.reserve else {
        return Err(CoreError::Inconsistent(format!("plan {} reserves nothing", facts.rules.id)));
    };
    let attempt_no = facts.attempt.attempt_no;
    let until = later(facts.now, rules.valid_s);
    let confirm_at = later(facts.now, rules.confirm_after_s).min(until);
    // Nobody wants it any more: it is given back at once.
    let next_at = if at.state.collects() { confirm_at } else { facts.now };
    let progress = Progress {
        attempt_no,
        open: OpenAttempt::None,
        reserved: Some(Reservation { attempt_no, amount_minor: facts.attempt.amount_minor, until }),
        retry_at: Some(next_at),
        next_at: Some(next_at),
        next_kind: NextKind::Reserved,
        ..super::rounds::counted(facts)
    };
    let decided =
        decision(facts, AttemptState::Reserved, ChargeState::Reserved, progress, Rule::RESERVED_WAIT)?;
    let inputs = decided.inputs.with(Input::AskedMinor, facts.attempt.amount_minor);
    Ok(Decision {
        event: Some(Event::ChargeReserved),
        inputs: inputs.with_at(Input::ChosenMs, Some(next_at)),
        ..decided
    })
}

/// What was set aside was given back: the charge goes on without it, or is over.
pub(super) fn released(facts: &Facts<'_>) -> Result<Decision, CoreError> {
    let at = Progress { reserved: None, ..facts.sub.progress };
    let progress = going_on(facts, at, 0)?;
    let charge = charge_going_on(&progress);
    let decided = decision(facts, AttemptState::Released, charge, progress, Rule::RESERVATION_RELEASED)?;
    Ok(Decision { event: Some(Event::ChargeReleased), ..decided })
}

/// The carrier did not give back what it set aside: asked again until it runs out by itself.
pub(super) fn cancel_refused(facts: &Facts<'_>) -> Result<Decision, CoreError> {
    let at = facts.sub.progress;
    let delay_s = delay_s(&facts.rules.dunning, WhyAgain::Temporary, facts.attempt.attempt_no, at.tries);
    // Past its end there is nothing left to give back.
    let gone = at.reserved.is_none_or(|reserved| reserved.until <= facts.now);
    let at = if gone { Progress { reserved: None, ..at } } else { at };
    let progress = going_on(facts, at, delay_s)?;
    let charge = charge_going_on(&progress);
    decision(facts, AttemptState::Declined, charge, progress, Rule::CANCEL_REFUSED)
}
