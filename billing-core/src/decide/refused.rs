//! The carrier refused: the ladder's next step, the next round, or the end of it.

use jiff::Timestamp;

use super::rounds::{counted, next_round, owed_later};
use super::{Decision, Event, Facts, decision, next_of};
use crate::entitlement::later;
use crate::outcome::{Op, Refusal};
use crate::plan::{FirstFailure, GiveUp, Restart, Rounds};
use crate::reason::{Input, Rule};
use crate::states::{AttemptState, ChargeState, SubscriptionState, step};
use crate::subscription::{CoreError, NextKind, OpenAttempt, Progress};
use crate::triage::advance;

pub(super) fn declined(facts: &Facts<'_>, refusal: Refusal) -> Result<Decision, CoreError> {
    let rounds = facts.rules.dunning.rounds(refusal);
    // A refused confirm takes its reservation with it.
    let tried = Progress {
        attempt_no: facts.attempt.attempt_no,
        open: OpenAttempt::None,
        reserved: None,
        ..counted(facts)
    };
    let affordable = facts.rules.dunning.budget.allows(tried.tries);
    let collects = tried.state.collects();
    if refusal == Refusal::NoFunds
        && collects
        && affordable
        && let Some(next_step) = ladder_step_below(facts)
    {
        let progress = Progress {
            step: next_step,
            retry_at: Some(facts.now),
            next_at: Some(facts.now),
            next_kind: NextKind::Retry,
            ..tried
        };
        return refused(facts, progress, ChargeState::Open, None, Rule::LADDER_NEXT);
    }
    let gone = matches!(refusal, Refusal::UnknownSubscriber | Refusal::SubscriberRefused);
    if gone && rounds.count() == 0 && rounds.then == GiveUp::Cancel {
        return for_good(facts, SubscriptionState::Cancelled, Rule::REFUSAL_CANCELS);
    }
    if tried.state == SubscriptionState::Pending && facts.rules.first_failure == FirstFailure::Cancel {
        return for_good(facts, SubscriptionState::Cancelled, Rule::FIRST_FAILURE_CANCELS);
    }
    if refusal == Refusal::NotAllowed && rounds.count() == 0 && rounds.then == GiveUp::Suspend {
        return for_good(facts, SubscriptionState::Suspended, Rule::REFUSAL_SUSPENDS);
    }
    let next = next_of(facts)?;
    if collects
        && affordable
        && let Some(retry_at) = next_round(facts, rounds, next)?
    {
        let (state, state_until) = unpaid_state(facts)?;
        let progress = Progress { state_until, ..retrying(facts, tried, state, retry_at) };
        let rule = if facts.attempt.op == Op::Confirm { Rule::CONFIRM_REFUSED } else { Rule::ROUND_NEXT };
        let decided = refused(facts, progress, ChargeState::Open, Some(Event::ChargeRefused), rule)?;
        return Ok(with_round(facts, rounds, Some(retry_at), decided));
    }
    let rule = |rule| if affordable { rule } else { Rule::BUDGET_EXHAUSTED };
    let decided = match rounds.then {
        GiveUp::NextPeriod => {
            let (state, state_until) = unpaid_state(facts)?;
            let aside = owed_later(facts, &tried)?;
            let progress = advance(Progress { state_until, ..tried }, next, state)?;
            let (charge, event, by) = match aside {
                Some(_) => (ChargeState::Arrears, Event::ChargeArrears, Rule::GIVE_UP_ARREARS),
                None => (ChargeState::WrittenOff, Event::ChargeGivenUp, Rule::GIVE_UP_NEXT),
            };
            let decided = refused(facts, progress, charge, Some(event), rule(by))?;
            Decision { aside: aside.filter(|_| decided.charge == ChargeState::Arrears), ..decided }
        }
        GiveUp::Suspend => for_good(facts, SubscriptionState::Suspended, rule(Rule::GIVE_UP_SUSPEND))?,
        GiveUp::Cancel => for_good(facts, SubscriptionState::Cancelled, rule(Rule::GIVE_UP_CANCEL))?,
    };
    Ok(with_round(facts, rounds, next.map(|next| next.due_at), decided))
}

fn with_round(facts: &Facts<'_>, rounds: &Rounds, at: Option<Timestamp>, decided: Decision) -> Decision {
    let count = i64::try_from(rounds.count()).unwrap_or(i64::MAX);
    let inputs = decided.inputs.with(Input::Round, i64::from(facts.attempt.round));
    let inputs = inputs.with(Input::Rounds, count).with_at(Input::ChosenMs, at);
    Decision { inputs, ..decided }
}

/// Collecting ends in `target`; what stopped for another reason already stays as it is.
pub(super) fn for_good(
    facts: &Facts<'_>,
    target: SubscriptionState,
    rule: Rule,
) -> Result<Decision, CoreError> {
    let at = &facts.sub.progress;
    let state = if at.state.collects() { step(at.state, target)? } else { at.state };
    let progress = Progress {
        state,
        attempt_no: facts.attempt.attempt_no,
        open: OpenAttempt::None,
        reserved: None,
        state_until: None,
        ..counted(facts).at_rest()
    };
    refused(facts, progress, ChargeState::WrittenOff, Some(Event::ChargeGivenUp), rule)
}

fn refused(
    facts: &Facts<'_>,
    progress: Progress,
    charge: ChargeState,
    event: Option<Event>,
    rule: Rule,
) -> Result<Decision, CoreError> {
    let decided = decision(facts, AttemptState::Declined, charge, progress, rule)?;
    Ok(Decision { event, ..decided })
}

/// The state of a subscription whose charge was refused: pending stays pending, grace runs out into hold.
fn unpaid_state(facts: &Facts<'_>) -> Result<(SubscriptionState, Option<Timestamp>), CoreError> {
    use SubscriptionState::{Active, Grace, Hold};
    let at = &facts.sub.progress;
    Ok(match at.state {
        Active if facts.rules.grace_s > 0 => {
            (step(Active, Grace)?, Some(later(facts.now, facts.rules.grace_s)))
        }
        Active => (step(Active, Hold)?, None),
        Grace if at.state_until.is_none_or(|until| until <= facts.now) => (step(Grace, Hold)?, None),
        other => (other, at.state_until),
    })
}

/// The first step below the one that was refused whose amount is smaller than what was asked.
fn ladder_step_below(facts: &Facts<'_>) -> Option<i16> {
    let ladder = facts.rules.ladder.as_ref().filter(|ladder| !ladder.native)?;
    let tried = usize::try_from(facts.attempt.step).ok()?;
    let (asked, least) = (facts.attempt.amount_minor, facts.rules.part_min());
    let smaller = |amount: i64| amount < asked && amount >= least;
    let found = ladder.steps_minor.iter().enumerate().skip(tried).find(|(_, amount)| smaller(**amount));
    found.and_then(|(index, _)| i16::try_from(index + 1).ok())
}

pub(super) fn retrying(
    facts: &Facts<'_>,
    at: Progress,
    state: SubscriptionState,
    retry_at: Timestamp,
) -> Progress {
    let step = match facts.rules.ladder.as_ref().map(|ladder| ladder.restart) {
        Some(Restart::LastStep) => facts.attempt.step,
        Some(Restart::Full) | None => 0,
    };
    Progress {
        state,
        attempt_no: facts.attempt.attempt_no,
        round: facts.attempt.round.saturating_add(1),
        step,
        open: OpenAttempt::None,
        retry_at: Some(retry_at),
        next_at: Some(retry_at),
        next_kind: NextKind::Retry,
        ..at
    }
}
