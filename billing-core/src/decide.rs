//! `decide`: what an outcome means for the attempt, the charge, the subscription and the money. Pure.
//!
//! The match over the outcome list is closed: a new outcome does not compile until someone decides.

use jiff::{SignedDuration, Timestamp};

use crate::ledger::{Leg, LegKind};
use crate::outcome::{Doubt, Op, Outcome, Refusal};
use crate::period::Period;
use crate::plan::{FirstFailure, GiveUp, PlanRules, RefusalClass, Restart, Rounds, Settles};
use crate::reason::Rule;
use crate::states::{AttemptState, ChargeState, State, SubscriptionState, step};
use crate::subscription::{CoreError, NextKind, OpenAttempt, Planned, Progress, Subscription, later};
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

/// Doubles with each attempt, 128-fold at most: a carrier that is out of reach for days must not use up the
/// attempt numbers of a charge.
const NOT_SENT_DELAY_S: i64 = 5;
const NOT_SENT_DOUBLINGS_MAX: i16 = 7;
const SLOW_DOWN_MS: u32 = 1_000;

/// Decides what an outcome means.
///
/// # Errors
/// [`CoreError`] when the row cannot be decided: it is to be quarantined with a case, the outcome kept.
pub fn decide(facts: &Facts<'_>) -> Result<Decision, CoreError> {
    same_charge(facts)?;
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
        // Proof that a *first* send was not applied. Of a resend or an inquiry it says nothing about that send.
        Outcome::Temporary { .. } | Outcome::Fault { .. } | Outcome::NotSent(_)
            if facts.from != AttemptState::Intent =>
        {
            return unknown(facts, Rule::UNKNOWN_BLOCKS);
        }
        // "Still working on it" is no evidence; the doubt is older.
        Outcome::Pending if matches!(facts.from, AttemptState::Unknown | AttemptState::InReview) => {
            return unknown(facts, Rule::UNKNOWN_BLOCKS);
        }
        other => other,
    };
    match outcome {
        Outcome::Charged { amount_minor } | Outcome::Partial { amount_minor } => {
            collected(facts, amount_minor)
        }
        Outcome::Refunded { .. } | Outcome::Reserved | Outcome::Released => {
            unknown(facts, Rule::WRONG_OPERATION)
        }
        Outcome::Pending => accepted(facts),
        Outcome::NeedsConsent => refused_for_good(facts, SubscriptionState::Suspended, Rule::CONSENT_NEEDED),
        Outcome::Declined(refusal) => declined(facts, refusal),
        Outcome::Temporary { listed: true, after_ms, .. } => {
            let delay = SignedDuration::from_secs(facts.rules.dunning.temporary_delay_s);
            let lane = LaneHint::SlowDown(after_ms.unwrap_or(SLOW_DOWN_MS));
            again(facts, AttemptState::NotApplied, delay, lane, Rule::NOT_APPLIED_LATER)
        }
        Outcome::Fault { listed: true, .. } => {
            let delay = SignedDuration::from_secs(facts.rules.dunning.fault_delay_s);
            again(facts, AttemptState::NotApplied, delay, LaneHint::Pause, Rule::FAULT_LATER)
        }
        Outcome::NotSent(_) => {
            let doublings = facts.attempt.attempt_no.saturating_sub(1).clamp(0, NOT_SENT_DOUBLINGS_MAX);
            let delay = SignedDuration::from_secs(NOT_SENT_DELAY_S << doublings);
            again(facts, AttemptState::NotSent, delay, LaneHint::None, Rule::NOT_SENT_AGAIN)
        }
        Outcome::Duplicate => unknown(facts, Rule::DUPLICATE_ASKS),
        Outcome::Temporary { listed: false, .. }
        | Outcome::Fault { listed: false, .. }
        | Outcome::Unknown(_) => unknown(facts, Rule::UNKNOWN_BLOCKS),
    }
}

/// An outcome belongs to the charge in the row and to its last attempt, which is not final: the same evidence twice
/// is not money twice. The charge of an earlier period has a row
/// of its own and is decided with that row's columns: its money must not settle the period that runs now.
fn same_charge(facts: &Facts<'_>) -> Result<(), CoreError> {
    let (at, attempt) = (&facts.sub.progress, facts.attempt);
    // The row may have been loaded before the intent was written.
    let before =
        facts.from == AttemptState::Intent && at.attempt_no.checked_add(1) == Some(attempt.attempt_no);
    if facts.from.is_final() {
        let from = facts.from.name();
        return Err(CoreError::Inconsistent(format!("attempt {} is {from} already", attempt.attempt_no)));
    }
    if attempt.period == at.period && (attempt.attempt_no == at.attempt_no || before) {
        return Ok(());
    }
    Err(CoreError::Inconsistent(format!(
        "attempt {} of period {} does not belong to a row at attempt {} of period {}",
        attempt.attempt_no, attempt.period, at.attempt_no, at.period
    )))
}

fn collected(facts: &Facts<'_>, moved_minor: i64) -> Result<Decision, CoreError> {
    let at = &facts.sub.progress;
    let collected_after_minor =
        at.collected_minor.checked_add(moved_minor).filter(|sum| *sum <= at.due_minor).ok_or_else(|| {
            CoreError::Inconsistent(format!(
                "{moved_minor} on top of {} would exceed the {} due",
                at.collected_minor, at.due_minor
            ))
        })?;
    let next = facts.rules.schedule.next_period(facts.sub.anchor, at.period, facts.zone)?;
    // Paid until the next charge falls due, not until its local midnight: access has no hole before the next charge.
    let ends = next.map(|period| due_of(facts, period)).transpose()?;
    let settles = facts.rules.ladder.as_ref().map_or(Settles::Amount, |ladder| ladder.settles);
    let full = collected_after_minor == at.due_minor;
    let until = match (full, settles) {
        (true, _) | (false, Settles::Period) => ends,
        (false, Settles::Share | Settles::Amount) => share_of_period(facts, moved_minor, ends)?,
    };
    // What has no end has no share either: a part of it buys nothing until the rest is paid.
    let nothing_yet = !full && settles == Settles::Amount && ends.is_none();
    let paid_until = match (nothing_yet, ends, until) {
        (false, None, None) => None,
        _ => at.paid_until.max(until),
    };
    let paid = Progress {
        collected_minor: collected_after_minor,
        attempt_no: facts.attempt.attempt_no,
        paid_until,
        state_until: None,
        ..*at
    };
    let (charge, rule, event) = match (full, settles) {
        (true, _) => (ChargeState::Settled, Rule::SETTLE_FULL, Event::ChargeSettled),
        (false, Settles::Period) => (ChargeState::Reduced, Rule::SETTLE_PERIOD, Event::ChargeReduced),
        (false, Settles::Share) => (ChargeState::Reduced, Rule::SETTLE_SHARE, Event::ChargeReduced),
        (false, Settles::Amount) => (ChargeState::Open, Rule::PART_OWED, Event::ChargePart),
    };
    let paid_sub = Subscription { progress: paid, ..facts.sub.clone() };
    let active = active_again(at.state)?;
    let (progress, charge) = if charge == ChargeState::Open {
        rest_owed(facts, &paid_sub, active, next)?
    } else {
        (advance(&paid_sub, facts.rules, facts.zone, next, active)?, charge)
    };
    let progress = after_stop(facts, progress)?;
    // Money that came after the period's end buys no access in the past.
    let granted = !nothing_yet && until.is_none_or(|until| until > facts.now);
    let leg = Leg { kind: LegKind::Collected, amount_minor: moved_minor };
    Ok(Decision {
        attempt: step(facts.from, AttemptState::Approved)?,
        moved_minor,
        charge: charge_after(charge, &progress)?,
        collected_after_minor,
        progress,
        legs: legs(facts, Some(leg)),
        grant: granted.then_some(Grant { from: facts.now, until }),
        event: Some(event),
        lane: LaneHint::None,
        rule,
    })
}

fn rest_owed(
    facts: &Facts<'_>,
    paid: &Subscription,
    state: SubscriptionState,
    next: Option<Period>,
) -> Result<(Progress, ChargeState), CoreError> {
    let rounds = &facts.rules.dunning.no_funds;
    let retry = next_round(facts, rounds, next)?;
    match retry {
        Some(retry_at) if state.collects() => {
            Ok((retrying(facts, paid.progress, state, retry_at), ChargeState::Open))
        }
        _ => Ok((advance(paid, facts.rules, facts.zone, next, state)?, ChargeState::WrittenOff)),
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
    if class == RefusalClass::Cancels {
        return refused_for_good(facts, SubscriptionState::Cancelled, Rule::REFUSAL_CANCELS);
    }
    if at.state == SubscriptionState::Pending && facts.rules.first_failure == FirstFailure::Cancel {
        return refused_for_good(facts, SubscriptionState::Cancelled, Rule::FIRST_FAILURE_CANCELS);
    }
    let Some(rounds) = facts.rules.dunning.rounds(class) else {
        return refused_for_good(facts, SubscriptionState::Suspended, Rule::REFUSAL_SUSPENDS);
    };
    let next = facts.rules.schedule.next_period(facts.sub.anchor, at.period, facts.zone)?;
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
            let tried = Progress { attempt_no: facts.attempt.attempt_no, state_until, ..*at };
            let tried = Subscription { progress: tried, ..facts.sub.clone() };
            let progress = advance(&tried, facts.rules, facts.zone, next, state)?;
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

fn refused_for_good(facts: &Facts<'_>, target: SubscriptionState, rule: Rule) -> Result<Decision, CoreError> {
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
        same if same == at.state => Event::ChargeGivenUp,
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
    let progress = after_stop(facts, progress)?;
    Ok(Decision {
        attempt: step(facts.from, AttemptState::Declined)?,
        moved_minor: 0,
        charge: charge_after(charge, &progress)?,
        collected_after_minor: facts.sub.progress.collected_minor,
        progress,
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
    let retry_at = in_window(facts, later(facts.now, delay)?)?;
    // A long delay does not hold up the next period.
    let (next_at, next_kind) = match next_due(facts)? {
        Some(due) if due <= retry_at => (due, NextKind::PeriodStart),
        _ => (retry_at, NextKind::Retry),
    };
    let fires = at.state.collects();
    let progress = Progress {
        attempt_no: facts.attempt.attempt_no,
        open: OpenAttempt::None,
        retry_at: fires.then_some(retry_at),
        next_at: fires.then_some(next_at),
        next_kind: if fires { next_kind } else { NextKind::Never },
        ..*at
    };
    let progress = after_stop(facts, progress)?;
    Ok(Decision {
        attempt: step(facts.from, attempt)?,
        moved_minor: 0,
        charge: charge_after(ChargeState::Open, &progress)?,
        collected_after_minor: at.collected_minor,
        progress,
        legs: legs(facts, None),
        grant: None,
        event: None,
        lane,
        rule,
    })
}

fn accepted(facts: &Facts<'_>) -> Result<Decision, CoreError> {
    let at = &facts.sub.progress;
    let deadline = later(facts.now, facts.answer_within)?;
    let next_due = if at.state.collects() { next_due(facts)? } else { None };
    let (next_at, next_kind) = match next_due {
        // A carrier that says "accepted" again does not win time.
        _ if facts.from == AttemptState::Accepted && at.open == OpenAttempt::Accepted => {
            (at.next_at, at.next_kind)
        }
        Some(due) if due < deadline => (Some(due), NextKind::PeriodStart),
        _ => (Some(deadline), NextKind::Deadline),
    };
    let progress = Progress {
        attempt_no: facts.attempt.attempt_no,
        open: OpenAttempt::Accepted,
        retry_at: None,
        next_at,
        next_kind,
        ..*at
    };
    Ok(Decision {
        attempt: step(facts.from, AttemptState::Accepted)?,
        moved_minor: 0,
        charge: charge_after(ChargeState::Waiting, &progress)?,
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
    let entered = !in_suspense(facts);
    let leg = Leg { kind: LegKind::EnterUnknown, amount_minor: facts.attempt.amount_minor };
    Ok(Decision {
        attempt: step(facts.from, attempt)?,
        moved_minor: 0,
        charge: charge_after(ChargeState::Waiting, &progress)?,
        collected_after_minor: at.collected_minor,
        progress,
        legs: [entered.then_some(leg), None],
        grant: None,
        event: entered.then_some(Event::ChargeUnknown),
        lane: LaneHint::None,
        rule,
    })
}

/// Where the charge, waiting for this outcome, goes. Of a subscription that is over nothing stays open.
fn charge_after(target: ChargeState, after: &Progress) -> Result<ChargeState, CoreError> {
    let over = matches!(after.state, SubscriptionState::Cancelled | SubscriptionState::Ended);
    let target = if over && target == ChargeState::Open { ChargeState::Cancelled } else { target };
    Ok(step(ChargeState::Waiting, target)?)
}

/// Whether the attempt's amount lies in suspense: who looks at an unknown attempt does not take it out.
fn in_suspense(facts: &Facts<'_>) -> bool {
    matches!(facts.from, AttemptState::Unknown | AttemptState::InReview)
}

/// Leaving unknown gives the suspense back, whatever the evidence says.
fn legs(facts: &Facts<'_>, moved: Option<Leg>) -> [Option<Leg>; 2] {
    let left = in_suspense(facts)
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
            let until = later(facts.now, SignedDuration::from_secs(facts.rules.grace_s))?;
            (step(Active, Grace)?, Some(until))
        }
        Active => (step(Active, Hold)?, None),
        Grace if at.state_until.is_none_or(|until| until <= facts.now) => (step(Grace, Hold)?, None),
        other => (other, at.state_until),
    })
}

fn due_of(facts: &Facts<'_>, period: Period) -> Result<Timestamp, CoreError> {
    Ok(facts.rules.schedule.due_at(facts.sub.anchor, period, facts.zone, facts.sub.id)?)
}

/// Access pro rata, from now on, never beyond the period's end.
fn share_of_period(
    facts: &Facts<'_>,
    moved_minor: i64,
    ends: Option<Timestamp>,
) -> Result<Option<Timestamp>, CoreError> {
    let Some(ends) = ends else { return Ok(None) };
    let at = &facts.sub.progress;
    let starts = due_of(facts, at.period)?;
    let length_s = i128::from(ends.as_second() - starts.as_second());
    let share_s = length_s * i128::from(moved_minor) / i128::from(at.due_minor.max(1));
    let share = SignedDuration::from_secs(i64::try_from(share_s).unwrap_or(0));
    Ok(Some(later(facts.now, share)?.min(ends.max(facts.now))))
}

/// The first step below the one that was refused whose amount is smaller than what was asked.
fn ladder_step_below(facts: &Facts<'_>) -> Option<i16> {
    let steps = &facts.rules.ladder.as_ref()?.steps_minor;
    let tried = usize::try_from(facts.attempt.step).ok()?;
    let found =
        steps.iter().enumerate().skip(tried).find(|(_, amount)| **amount < facts.attempt.amount_minor);
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
    let retry_at = in_window(facts, later(facts.now, SignedDuration::from_secs(*delay_s))?)?;
    let due = match next {
        Some(period) => {
            Some(facts.rules.schedule.due_at(facts.sub.anchor, period, facts.zone, facts.sub.id)?)
        }
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
    Ok(facts.rules.schedule.allowed(facts.zone, at)?.from)
}

fn next_due(facts: &Facts<'_>) -> Result<Option<Timestamp>, CoreError> {
    let schedule = &facts.rules.schedule;
    let next = schedule.next_period(facts.sub.anchor, facts.sub.progress.period, facts.zone)?;
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
