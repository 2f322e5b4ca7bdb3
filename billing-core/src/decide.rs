//! `decide`: what an outcome means for the attempt, the charge, the subscription and the money. Pure.
//!
//! The match over the outcome list is closed: a new outcome does not compile until someone decides.

use jiff::{SignedDuration, Timestamp};

use crate::ledger::{Leg, LegKind};
use crate::outcome::{Doubt, Hindrance, Op, Outcome, Refusal};
use crate::period::Period;
use crate::plan::{FirstFailure, GiveUp, PlanRules, RefusalClass, Restart, Rounds, Settles};
use crate::reason::Rule;
use crate::states::{AttemptState, ChargeState, SubscriptionState, step};
use crate::subscription::{CoreError, NextKind, OpenAttempt, Planned, Progress, Subscription};
use crate::triage::{advance, stopped};
use crate::zone::Zone;

/// What `decide` looks at.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The subscription as loaded with the attempt (or reloaded since).
    pub sub: &'a Subscription,
    /// Its plan.
    pub rules: &'a PlanRules,
    /// The subscriber's own zone.
    pub zone: &'a Zone,
    /// The attempt as its intent keeps it.
    pub attempt: &'a Planned,
    /// Where the attempt stands: `Intent` for a first reading, `Unknown` or `Accepted` for later evidence.
    pub from: AttemptState,
    /// What the carrier said.
    pub outcome: Outcome,
    /// Business time.
    pub now: Timestamp,
    /// How long an accepted request may stay without its answer.
    pub answer_within: SignedDuration,
}

/// What follows from an outcome. All of it is recorded in one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Where the attempt stands now.
    pub attempt: AttemptState,
    /// What moved, minor units.
    pub moved_minor: i64,
    /// Where the charge stands now.
    pub charge: ChargeState,
    /// What the charge has collected with this attempt, minor units.
    pub collected_after_minor: i64,
    /// The subscription afterwards.
    pub progress: Progress,
    /// Transfers to post.
    pub legs: [Option<Leg>; 2],
    /// What the subscriber may use because of it.
    pub grant: Option<Grant>,
    /// What merchants are told; `None` when nothing changed for them.
    pub event: Option<Event>,
    /// What the lane should do.
    pub lane: LaneHint,
    /// The rule that decided.
    pub rule: Rule,
}

/// A window of access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// From when.
    pub from: Timestamp,
    /// Until when; `None` for good.
    pub until: Option<Timestamp>,
}

/// What merchants are told. The number is what the outbox keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i16)]
pub enum Event {
    /// Collected in full.
    ChargeSettled = 1,
    /// Settled by a smaller price.
    ChargeReduced = 2,
    /// Part collected, the rest owed.
    ChargePart = 3,
    /// Refused; collecting goes on.
    ChargeRefused = 4,
    /// The result is unknown.
    ChargeUnknown = 5,
    /// Given up.
    ChargeGivenUp = 6,
    /// Collecting stopped.
    SubscriptionSuspended = 7,
    /// Ended for good.
    SubscriptionCancelled = 8,
}

/// What the lane should do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneHint {
    /// Nothing.
    None,
    /// Slow down for a while (milliseconds of machine time).
    SlowDown(u32),
    /// Pause: our requests are refused.
    Pause,
}

const NOT_SENT_DELAY: SignedDuration = SignedDuration::from_secs(5);
const SLOW_DOWN_MS: u32 = 1_000;

/// Decides what an outcome means.
///
/// # Errors
/// [`CoreError`] when the row cannot be decided: it is to be quarantined with a case, the outcome kept.
pub fn decide(facts: &Facts<'_>) -> Result<Decision, CoreError> {
    let asked = facts.attempt.amount_minor;
    let outcome = match facts.outcome {
        // An answer of another operation, or of more money than was asked for, is no answer.
        Outcome::Charged { amount_minor } if facts.attempt.op != Op::Charge || amount_minor != asked => {
            Outcome::Unknown(Doubt::Contradictory)
        }
        Outcome::Partial { amount_minor }
            if facts.attempt.op != Op::Charge || !(1..asked).contains(&amount_minor) =>
        {
            Outcome::Unknown(Doubt::Contradictory)
        }
        other => other,
    };
    match outcome {
        Outcome::Charged { amount_minor } | Outcome::Partial { amount_minor } => collected(facts, amount_minor),
        Outcome::Refunded { .. } | Outcome::Reserved | Outcome::Released => {
            unknown(facts, Rule::WRONG_OPERATION)
        }
        Outcome::Pending => accepted(facts),
        Outcome::NeedsConsent => {
            refused_for_good(facts, SubscriptionState::Suspended, Rule::CONSENT_NEEDED)
        }
        Outcome::Declined(refusal) => declined(facts, refusal),
        Outcome::Temporary { why, listed: true, after_ms } => {
            let delay = SignedDuration::from_secs(facts.rules.dunning.temporary_delay_s);
            let lane = match why {
                Hindrance::Throttled => LaneHint::SlowDown(after_ms.unwrap_or(SLOW_DOWN_MS)),
                Hindrance::Busy | Hindrance::Down => LaneHint::SlowDown(SLOW_DOWN_MS),
            };
            again(facts, AttemptState::NotApplied, delay, lane, Rule::NOT_APPLIED_LATER)
        }
        Outcome::Fault { listed: true, .. } => {
            let delay = SignedDuration::from_secs(facts.rules.dunning.fault_delay_s);
            again(facts, AttemptState::NotApplied, delay, LaneHint::Pause, Rule::FAULT_LATER)
        }
        Outcome::NotSent(_) => {
            again(facts, AttemptState::NotSent, NOT_SENT_DELAY, LaneHint::None, Rule::NOT_SENT_AGAIN)
        }
        Outcome::Duplicate => unknown(facts, Rule::DUPLICATE_ASKS),
        Outcome::Temporary { listed: false, .. } | Outcome::Fault { listed: false, .. } | Outcome::Unknown(_) => {
            unknown(facts, Rule::UNKNOWN_BLOCKS)
        }
    }
}

fn collected(facts: &Facts<'_>, moved_minor: i64) -> Result<Decision, CoreError> {
    let at = &facts.sub.progress;
    let collected_after_minor = at
        .collected_minor
        .checked_add(moved_minor)
        .filter(|sum| *sum <= at.due_minor)
        .ok_or_else(|| {
            CoreError::Inconsistent(format!(
                "{moved_minor} on top of {} would exceed the {} due",
                at.collected_minor, at.due_minor
            ))
        })?;
    let next = facts.rules.schedule.next_period(facts.sub.anchor, at.period)?;
    let ends = next.map(|period| facts.rules.schedule.starts_at(period, facts.zone)).transpose()?;
    let settles = facts.rules.ladder.as_ref().map_or(Settles::Amount, |ladder| ladder.settles);
    let full = collected_after_minor == at.due_minor;
    let until = match (full, settles) {
        (true, _) | (false, Settles::Period) => ends,
        (false, Settles::Share | Settles::Amount) => share_of_period(facts, moved_minor, ends)?,
    };
    let paid_until = if ends.is_none() && until.is_none() { None } else { at.paid_until.max(until) };
    let paid = Progress { paid_until, state_until: None, ..*at };
    let (charge, rule, event) = match (full, settles) {
        (true, _) => (ChargeState::Settled, Rule::SETTLE_FULL, Event::ChargeSettled),
        (false, Settles::Period) => (ChargeState::Reduced, Rule::SETTLE_PERIOD, Event::ChargeReduced),
        (false, Settles::Share) => (ChargeState::Reduced, Rule::SETTLE_SHARE, Event::ChargeReduced),
        (false, Settles::Amount) => (ChargeState::Open, Rule::PART_OWED, Event::ChargePart),
    };
    let paid_sub = Subscription { progress: paid, ..facts.sub.clone() };
    let active = active_again(at.state)?;
    let progress = if charge == ChargeState::Open {
        rest_owed(facts, &paid_sub, collected_after_minor, active, next)?
    } else {
        advance(&paid_sub, facts.rules, facts.zone, next, active)?
    };
    let charge = if charge == ChargeState::Open && progress.period != at.period {
        ChargeState::WrittenOff
    } else {
        charge
    };
    let leg = Leg { kind: LegKind::Collected, amount_minor: moved_minor };
    Ok(Decision {
        attempt: step(facts.from, AttemptState::Approved)?,
        moved_minor,
        charge: step(charge_before(facts), charge)?,
        collected_after_minor,
        progress: after_stop(facts, progress)?,
        legs: legs(facts, Some(leg)),
        grant: Some(Grant { from: facts.now, until }),
        event: Some(event),
        lane: LaneHint::None,
        rule,
    })
}

fn rest_owed(
    facts: &Facts<'_>,
    paid: &Subscription,
    collected_minor: i64,
    state: SubscriptionState,
    next: Option<Period>,
) -> Result<Progress, CoreError> {
    let progress = Progress { collected_minor, ..paid.progress };
    let rounds = &facts.rules.dunning.no_funds;
    let retry = next_round(facts, rounds, next)?;
    match retry {
        Some(retry_at) if state.collects() => Ok(retrying(facts, progress, state, retry_at)),
        _ => advance(paid, facts.rules, facts.zone, next, state),
    }
}

fn declined(facts: &Facts<'_>, refusal: Refusal) -> Result<Decision, CoreError> {
    let at = &facts.sub.progress;
    let class = RefusalClass::of(refusal);
    if class == RefusalClass::NoFunds
        && at.state.collects()
        && let Some(next_step) = ladder_step_below(facts)
    {
        let progress = Progress {
            attempt_no: facts.attempt.attempt_no,
            step: next_step,
            open: OpenAttempt::None,
            retry_at: Some(facts.now),
            next_at: Some(facts.now),
            next_kind: NextKind::Retry,
            ..*at
        };
        return refusal_decision(facts, progress, ChargeState::Open, None, Rule::LADDER_NEXT);
    }
    let Some(rounds) = facts.rules.dunning.rounds(class) else {
        let (state, rule) = match class {
            RefusalClass::Cancels => (SubscriptionState::Cancelled, Rule::REFUSAL_CANCELS),
            _ => (SubscriptionState::Suspended, Rule::REFUSAL_SUSPENDS),
        };
        return refused_for_good(facts, state, rule);
    };
    if at.state == SubscriptionState::Pending && facts.rules.first_failure == FirstFailure::Cancel {
        return refused_for_good(facts, SubscriptionState::Cancelled, Rule::FIRST_FAILURE_CANCELS);
    }
    let next = facts.rules.schedule.next_period(facts.sub.anchor, at.period)?;
    if at.state.collects()
        && let Some(retry_at) = next_round(facts, rounds, next)?
    {
        let (state, state_until) = unpaid_state(facts)?;
        let progress = Progress { state_until, ..retrying(facts, *at, state, retry_at) };
        return refusal_decision(
            facts,
            progress,
            ChargeState::Open,
            Some(Event::ChargeRefused),
            Rule::ROUND_NEXT,
        );
    }
    match rounds.then {
        GiveUp::NextPeriod => {
            let (state, state_until) = unpaid_state(facts)?;
            let progress = advance(facts.sub, facts.rules, facts.zone, next, state)?;
            let progress = Progress { state_until, ..progress };
            refusal_decision(
                facts,
                progress,
                ChargeState::WrittenOff,
                Some(Event::ChargeGivenUp),
                Rule::GIVE_UP_NEXT,
            )
        }
        GiveUp::Suspend => refused_for_good(facts, SubscriptionState::Suspended, Rule::GIVE_UP_SUSPEND),
        GiveUp::Cancel => refused_for_good(facts, SubscriptionState::Cancelled, Rule::GIVE_UP_CANCEL),
    }
}

fn refused_for_good(
    facts: &Facts<'_>,
    target: SubscriptionState,
    rule: Rule,
) -> Result<Decision, CoreError> {
    let at = &facts.sub.progress;
    // A subscription that already stopped for another reason stays as it is.
    let state = if at.state.collects() { step(at.state, target)? } else { at.state };
    let progress = Progress {
        attempt_no: facts.attempt.attempt_no,
        open: OpenAttempt::None,
        state_until: None,
        ..stopped(at, state)
    };
    let event = match state {
        SubscriptionState::Suspended => Event::SubscriptionSuspended,
        _ => Event::SubscriptionCancelled,
    };
    refusal_decision(facts, progress, ChargeState::WrittenOff, Some(event), rule)
}

fn refusal_decision(
    facts: &Facts<'_>,
    progress: Progress,
    charge: ChargeState,
    event: Option<Event>,
    rule: Rule,
) -> Result<Decision, CoreError> {
    Ok(Decision {
        attempt: step(facts.from, AttemptState::Declined)?,
        moved_minor: 0,
        charge: step(charge_before(facts), charge)?,
        collected_after_minor: facts.sub.progress.collected_minor,
        progress: after_stop(facts, progress)?,
        legs: legs(facts, None),
        grant: None,
        event,
        lane: LaneHint::None,
        rule,
    })
}

fn again(
    facts: &Facts<'_>,
    attempt: AttemptState,
    delay: SignedDuration,
    lane: LaneHint,
    rule: Rule,
) -> Result<Decision, CoreError> {
    let at = &facts.sub.progress;
    let retry_at = in_window(facts, facts.now + delay)?;
    let fires = at.state.collects().then_some(retry_at);
    let progress = Progress {
        attempt_no: facts.attempt.attempt_no,
        open: OpenAttempt::None,
        retry_at: fires,
        next_at: fires,
        next_kind: if fires.is_some() { NextKind::Retry } else { NextKind::Never },
        ..*at
    };
    Ok(Decision {
        attempt: step(facts.from, attempt)?,
        moved_minor: 0,
        charge: step(charge_before(facts), ChargeState::Open)?,
        collected_after_minor: at.collected_minor,
        progress: after_stop(facts, progress)?,
        legs: legs(facts, None),
        grant: None,
        event: None,
        lane,
        rule,
    })
}

fn accepted(facts: &Facts<'_>) -> Result<Decision, CoreError> {
    let at = &facts.sub.progress;
    let deadline = facts.now + facts.answer_within;
    let next_due = next_due(facts)?;
    let (next_at, next_kind) = match next_due {
        Some(due) if due < deadline => (due, NextKind::PeriodStart),
        _ => (deadline, NextKind::Deadline),
    };
    let progress = Progress {
        attempt_no: facts.attempt.attempt_no,
        open: OpenAttempt::Accepted,
        retry_at: None,
        next_at: Some(next_at),
        next_kind,
        ..*at
    };
    Ok(Decision {
        attempt: step(facts.from, AttemptState::Accepted)?,
        moved_minor: 0,
        charge: ChargeState::Waiting,
        collected_after_minor: at.collected_minor,
        progress,
        legs: [None; 2],
        grant: None,
        event: None,
        lane: LaneHint::None,
        rule: Rule::ACCEPTED_WAIT,
    })
}

fn unknown(facts: &Facts<'_>, rule: Rule) -> Result<Decision, CoreError> {
    let at = &facts.sub.progress;
    let next_at = if at.state.collects() { next_due(facts)? } else { None };
    let progress = Progress {
        attempt_no: facts.attempt.attempt_no,
        open: OpenAttempt::Unknown,
        retry_at: None,
        next_at,
        next_kind: if next_at.is_some() { NextKind::PeriodStart } else { NextKind::Never },
        ..*at
    };
    let entered = facts.from != AttemptState::Unknown;
    let leg = Leg { kind: LegKind::EnterUnknown, amount_minor: facts.attempt.amount_minor };
    Ok(Decision {
        attempt: step(facts.from, AttemptState::Unknown)?,
        moved_minor: 0,
        charge: ChargeState::Waiting,
        collected_after_minor: at.collected_minor,
        progress,
        legs: [entered.then_some(leg), None],
        grant: None,
        event: entered.then_some(Event::ChargeUnknown),
        lane: LaneHint::None,
        rule,
    })
}

/// Where the charge stood while its attempt was on its way.
fn charge_before(_: &Facts<'_>) -> ChargeState {
    ChargeState::Waiting
}

/// Leaving unknown gives the suspense back, whatever the evidence says.
fn legs(facts: &Facts<'_>, moved: Option<Leg>) -> [Option<Leg>; 2] {
    let left = (facts.from == AttemptState::Unknown)
        .then_some(Leg { kind: LegKind::LeaveUnknown, amount_minor: facts.attempt.amount_minor });
    match left {
        Some(_) => [left, moved],
        None => [moved, None],
    }
}

fn active_again(state: SubscriptionState) -> Result<SubscriptionState, CoreError> {
    Ok(if state.collects() { step(state, SubscriptionState::Active)? } else { state })
}

/// The state of a subscription whose charge was refused: pending stays pending, grace runs out into hold.
fn unpaid_state(facts: &Facts<'_>) -> Result<(SubscriptionState, Option<Timestamp>), CoreError> {
    use SubscriptionState::{Active, Grace, Hold};
    let at = &facts.sub.progress;
    Ok(match at.state {
        Active if facts.rules.grace_s > 0 => {
            let until = facts.now + SignedDuration::from_secs(facts.rules.grace_s);
            (step(Active, Grace)?, Some(until))
        }
        Active => (step(Active, Hold)?, None),
        Grace if at.state_until.is_none_or(|until| until <= facts.now) => (step(Grace, Hold)?, None),
        other => (other, at.state_until),
    })
}

/// Access pro rata, from now on, never beyond the period's end.
fn share_of_period(
    facts: &Facts<'_>,
    moved_minor: i64,
    ends: Option<Timestamp>,
) -> Result<Option<Timestamp>, CoreError> {
    let Some(ends) = ends else { return Ok(None) };
    let at = &facts.sub.progress;
    let starts = facts.rules.schedule.starts_at(at.period, facts.zone)?;
    let length_s = i128::from(ends.as_second() - starts.as_second());
    let share_s = length_s * i128::from(moved_minor) / i128::from(at.due_minor.max(1));
    let share = SignedDuration::from_secs(i64::try_from(share_s).unwrap_or(0));
    Ok(Some((facts.now + share).min(ends.max(facts.now))))
}

/// The first step below the one that was refused whose amount is smaller than what was asked.
fn ladder_step_below(facts: &Facts<'_>) -> Option<i16> {
    let steps = &facts.rules.ladder.as_ref()?.steps_minor;
    let tried = usize::try_from(facts.attempt.step).ok()?;
    let found = steps.iter().enumerate().skip(tried).find(|(_, amount)| **amount < facts.attempt.amount_minor);
    found.and_then(|(index, _)| i16::try_from(index + 1).ok())
}

/// When the next round is due, if there is one before the next period falls due.
fn next_round(
    facts: &Facts<'_>,
    rounds: &Rounds,
    next: Option<Period>,
) -> Result<Option<Timestamp>, CoreError> {
    let round = usize::try_from(facts.attempt.round).unwrap_or(usize::MAX);
    let Some(delay_s) = rounds.delays_s.get(round) else { return Ok(None) };
    let retry_at = in_window(facts, facts.now + SignedDuration::from_secs(*delay_s))?;
    let due = match next {
        Some(period) => Some(facts.rules.schedule.due_at(facts.sub.anchor, period, facts.zone, facts.sub.id)?),
        None => None,
    };
    Ok(due.is_none_or(|due| retry_at < due).then_some(retry_at))
}

fn retrying(facts: &Facts<'_>, at: Progress, state: SubscriptionState, retry_at: Timestamp) -> Progress {
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

fn in_window(facts: &Facts<'_>, at: Timestamp) -> Result<Timestamp, CoreError> {
    Ok(facts.rules.schedule.window.at_or_after(facts.zone, at)?.0)
}

fn next_due(facts: &Facts<'_>) -> Result<Option<Timestamp>, CoreError> {
    let schedule = &facts.rules.schedule;
    let next = schedule.next_period(facts.sub.anchor, facts.sub.progress.period)?;
    Ok(next.map(|period| schedule.due_at(facts.sub.anchor, period, facts.zone, facts.sub.id)).transpose()?)
}

/// A stop that arrived while the attempt was on its way takes effect with its outcome.
fn after_stop(facts: &Facts<'_>, progress: Progress) -> Result<Progress, CoreError> {
    if facts.sub.stop_at.is_none() || !progress.state.collects() {
        return Ok(progress);
    }
    let state = step(progress.state, SubscriptionState::Cancelled)?;
    Ok(stopped(&progress, state))
}
