//! `decide`: what an outcome means for the attempt, the charge, the subscription and the money. Pure.
//!
//! The match over the outcome list is closed: a new outcome does not compile until someone decides. Charges that left
//! the subscription's row have an entry of their own, [`decide_aside`]; so have refunds, [`decide_refund`].

use jiff::{SignedDuration, Timestamp};

use crate::ledger::{Leg, LegKind};
use crate::outcome::{Doubt, Op, Outcome};
use crate::plan::PlanRules;
use crate::reason::{Inputs, Rule};
use crate::schedule::Anchor;
use crate::states::{AttemptState, ChargeState, State, SubscriptionState, step};
use crate::subscription::{Aside, CoreError, Held, NextKind, Planned, Progress, Subscription};
use crate::triage::{Next, next_after};
use crate::zone::Zone;

mod aside;
mod collected;
mod refund;
mod refused;
mod reserve;
mod rounds;
mod waiting;

pub use crate::entitlement::Grant;
pub use aside::{AsideDecision, AsideFacts, decide_aside};
pub use refund::{
    Original, RefundAsk, RefundDecision, RefundFacts, RefundRefused, ReversalDecision, ReversalFacts,
    decide_refund, decide_reversal, plan_refund, reverse,
};
pub(crate) use rounds::arrears_of;
pub use waiting::soonest_again_s;

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
    /// What the subscription owes in arrears already; only plans with arrears look at it.
    pub held: Held,
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
    /// Where its periods are counted from now on, if that changed.
    pub anchor: Option<Anchor>,
    /// The charge that leaves the row as arrears.
    pub aside: Option<Aside>,
    /// Transfers to post.
    pub legs: [Option<Leg>; 2],
    /// What the subscriber may use because of it.
    pub grant: Option<Grant>,
    /// What merchants are told of the charge; `None` when nothing changed for them.
    pub event: Option<Event>,
    /// What merchants are told of the subscription: exactly one per change of its state.
    pub state_event: Option<Event>,
    /// What the lane should do.
    pub lane: LaneHint,
    /// The rule that decided.
    pub rule: Rule,
    /// The rule that stopped the subscription with this outcome, if one did.
    pub stop: Option<Rule>,
    /// What the rule looked at.
    pub inputs: Inputs,
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
    /// Its time passed.
    ChargeExpired = 9,
    /// Never tried, its period passed.
    ChargeSkipped = 10,
    /// Given up for now; what remains is owed in arrears.
    ChargeArrears = 11,
    /// Set aside at the carrier.
    ChargeReserved = 12,
    /// Became part of another charge.
    ChargeMerged = 13,
    /// Given back by request.
    ChargeRefunded = 14,
    /// The refund was refused.
    RefundRefused = 15,
    /// The refund's result is unknown.
    RefundUnknown = 16,
    /// Taken back by the carrier.
    ChargeReversed = 17,
    /// Paid access begins, or begins again.
    SubscriptionActive = 18,
    /// Access is kept while collecting.
    SubscriptionGrace = 19,
    /// Access is off while collecting.
    SubscriptionHold = 20,
    /// Paused by wish.
    SubscriptionPaused = 21,
    /// Ran its course.
    SubscriptionEnded = 22,
    /// A free trial begins.
    TrialStarted = 23,
    /// The amount that was set aside was given back.
    ChargeReleased = 24,
}

impl Event {
    /// What a change of a subscription's state tells; `None` when it did not change.
    #[must_use]
    pub fn of_state(before: SubscriptionState, after: SubscriptionState) -> Option<Self> {
        if before == after {
            return None;
        }
        match after {
            SubscriptionState::Pending | SubscriptionState::Parked => None,
            SubscriptionState::Trial => Some(Self::TrialStarted),
            SubscriptionState::Active => Some(Self::SubscriptionActive),
            SubscriptionState::Grace => Some(Self::SubscriptionGrace),
            SubscriptionState::Hold => Some(Self::SubscriptionHold),
            SubscriptionState::Suspended => Some(Self::SubscriptionSuspended),
            SubscriptionState::Paused => Some(Self::SubscriptionPaused),
            SubscriptionState::Cancelled => Some(Self::SubscriptionCancelled),
            SubscriptionState::Ended => Some(Self::SubscriptionEnded),
        }
    }
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

/// Decides what an outcome means.
///
/// # Errors
/// [`CoreError`] when the row cannot be decided: it is to be quarantined with a case, the outcome kept.
pub fn decide(facts: &Facts<'_>) -> Result<Decision, CoreError> {
    same_charge(facts)?;
    let (op, from) = (facts.attempt.op, facts.from);
    if op == Op::Refund {
        return Err(CoreError::Inconsistent("a refund is decided with the row of its charge".into()));
    }
    match read(op, facts.attempt.amount_minor, from, facts.outcome) {
        Reading::Moved(amount_minor) => collected::collected(facts, amount_minor),
        Reading::Refunded(_) => waiting::unknown(facts, Rule::WRONG_OPERATION),
        Reading::Reserved => reserve::reserved(facts),
        Reading::Released => reserve::released(facts),
        Reading::Pending => waiting::accepted(facts),
        Reading::NeedsConsent => refused::for_good(facts, SubscriptionState::Suspended, Rule::CONSENT_NEEDED),
        Reading::Declined(_) if op == Op::Cancel => reserve::cancel_refused(facts),
        Reading::Declined(refusal) => refused::declined(facts, refusal),
        Reading::Again(again) => waiting::again(facts, &again),
        Reading::Unknown(rule) => waiting::unknown(facts, rule),
    }
}

/// What an outcome proves of an attempt: the outcome list, read with the operation and with where the attempt stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// Money came in.
    Moved(i64),
    /// Money was given back.
    Refunded(i64),
    Reserved,
    Released,
    Pending,
    NeedsConsent,
    Declined(crate::outcome::Refusal),
    /// Not applied, with proof: a new attempt under a new key.
    Again(Again),
    Unknown(Rule),
}

/// A new attempt that costs no round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Again {
    attempt: AttemptState,
    why: WhyAgain,
    lane: LaneHint,
    rule: Rule,
}

/// What decides on the delay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WhyAgain {
    Throttled,
    Temporary,
    Fault,
    NotSent,
}

const SLOW_DOWN_MS: u32 = 1_000;

fn read(op: Op, asked: i64, from: AttemptState, outcome: Outcome) -> Reading {
    use crate::outcome::Hindrance;
    let doubt = Reading::Unknown(Rule::UNKNOWN_BLOCKS);
    let first = from == AttemptState::Intent;
    match outcome {
        // An answer of another operation, or of more money than was asked for, is no answer.
        Outcome::Charged { amount_minor } if op.collects() && amount_minor == asked => {
            Reading::Moved(amount_minor)
        }
        Outcome::Partial { amount_minor }
            if matches!(op, Op::Charge | Op::Confirm) && (1..asked).contains(&amount_minor) =>
        {
            Reading::Moved(amount_minor)
        }
        Outcome::Charged { .. } | Outcome::Partial { .. } => doubt,
        Outcome::Refunded { amount_minor } if op == Op::Refund && amount_minor == asked => {
            Reading::Refunded(amount_minor)
        }
        Outcome::Reserved if op == Op::Reserve => Reading::Reserved,
        Outcome::Released if op == Op::Cancel => Reading::Released,
        Outcome::Refunded { .. } | Outcome::Reserved | Outcome::Released => {
            Reading::Unknown(Rule::WRONG_OPERATION)
        }
        // "Still working on it" is no evidence; the doubt is older.
        Outcome::Pending if matches!(from, AttemptState::Unknown | AttemptState::InReview) => doubt,
        Outcome::Pending => Reading::Pending,
        Outcome::NeedsConsent => Reading::NeedsConsent,
        Outcome::Declined(refusal) => Reading::Declined(refusal),
        // Proof that a *first* send was not applied. Of a resend or an inquiry it says nothing about that send.
        Outcome::Temporary { listed: true, why, after_ms } if first => {
            let throttled = matches!(why, Hindrance::Throttled);
            Reading::Again(Again {
                attempt: AttemptState::NotApplied,
                why: if throttled { WhyAgain::Throttled } else { WhyAgain::Temporary },
                lane: LaneHint::SlowDown(after_ms.unwrap_or(SLOW_DOWN_MS)),
                rule: Rule::NOT_APPLIED_LATER,
            })
        }
        Outcome::Fault { listed: true, .. } if first => Reading::Again(Again {
            attempt: AttemptState::NotApplied,
            why: WhyAgain::Fault,
            lane: LaneHint::Pause,
            rule: Rule::FAULT_LATER,
        }),
        Outcome::NotSent(_) if first => Reading::Again(Again {
            attempt: AttemptState::NotSent,
            why: WhyAgain::NotSent,
            lane: LaneHint::None,
            rule: Rule::NOT_SENT_AGAIN,
        }),
        Outcome::Absent if first => Reading::Unknown(Rule::ABSENT_UNPROVEN),
        Outcome::Absent => Reading::Again(Again {
            attempt: AttemptState::NotApplied,
            why: WhyAgain::NotSent,
            lane: LaneHint::None,
            rule: Rule::ABSENT_AGAIN,
        }),
        Outcome::Duplicate => Reading::Unknown(Rule::DUPLICATE_ASKS),
        Outcome::Temporary { .. }
        | Outcome::Fault { .. }
        | Outcome::NotSent(_)
        | Outcome::Unknown(
            Doubt::NoReply | Doubt::Unreadable | Doubt::Contradictory | Doubt::Unlisted | Doubt::SenderDied,
        ) => doubt,
    }
}

/// An outcome belongs to the charge in the row and to its last attempt, which is not final: the same evidence twice
/// is not money twice. The charge of an earlier period has a row
/// of its own and is decided with that row's columns: its money must not settle the period that runs now.
fn same_charge(facts: &Facts<'_>) -> Result<(), CoreError> {
    let (at, attempt) = (&facts.sub.progress, facts.attempt);
    let same_period = attempt.period == at.period;
    belongs(attempt, facts.from, at.attempt_no, same_period)
}

fn belongs(attempt: &Planned, from: AttemptState, row_no: i16, same_charge: bool) -> Result<(), CoreError> {
    // The row may have been loaded before the intent was written.
    let before = from == AttemptState::Intent && row_no.checked_add(1) == Some(attempt.attempt_no);
    if from.is_final() {
        let from = from.name();
        return Err(CoreError::Inconsistent(format!("attempt {} is {from} already", attempt.attempt_no)));
    }
    if same_charge && (attempt.attempt_no == row_no || before) {
        return Ok(());
    }
    Err(CoreError::Inconsistent(format!(
        "attempt {} of period {} does not belong to a row at attempt {row_no}, or to its charge",
        attempt.attempt_no, attempt.period
    )))
}

/// A decision without money, grant or events of its own: what most of them begin with.
fn decision(
    facts: &Facts<'_>,
    attempt: AttemptState,
    charge: ChargeState,
    progress: Progress,
    rule: Rule,
) -> Result<Decision, CoreError> {
    let (progress, stop) = after_stop(facts, progress)?;
    assembled(facts, attempt, charge, progress, (rule, stop))
}

fn assembled(
    facts: &Facts<'_>,
    attempt: AttemptState,
    charge: ChargeState,
    progress: Progress,
    (rule, stop): (Rule, Option<Rule>),
) -> Result<Decision, CoreError> {
    let before = &facts.sub.progress;
    Ok(Decision {
        attempt: step(facts.from, attempt)?,
        moved_minor: 0,
        charge: charge_after(charge, &progress)?,
        collected_after_minor: before.collected_minor,
        progress,
        anchor: None,
        aside: None,
        legs: legs(facts.from, facts.attempt, None),
        grant: None,
        event: None,
        state_event: Event::of_state(before.state, progress.state),
        lane: LaneHint::None,
        rule,
        stop,
        inputs: Inputs::default().with_at(crate::reason::Input::StopMs, stop.and(facts.sub.stop_at)),
    })
}

/// Where the charge, waiting for this outcome, goes. Of a subscription that is over nothing stays open.
fn charge_after(target: ChargeState, after: &Progress) -> Result<ChargeState, CoreError> {
    let open = matches!(target, ChargeState::Open | ChargeState::Arrears);
    let target = if after.state.is_over() && open { ChargeState::Cancelled } else { target };
    Ok(step(ChargeState::Waiting, target)?)
}

/// Whether the attempt's amount lies in suspense: who looks at an unknown attempt does not take it out.
fn in_suspense(from: AttemptState) -> bool {
    matches!(from, AttemptState::Unknown | AttemptState::InReview)
}

/// Leaving unknown gives the suspense back, whatever the evidence says.
fn legs(from: AttemptState, attempt: &Planned, moved: Option<Leg>) -> [Option<Leg>; 2] {
    let kind = match attempt.op {
        Op::Refund => LegKind::RefundLeaveUnknown,
        _ => LegKind::LeaveUnknown,
    };
    let left = (in_suspense(from) && moves_money(attempt.op))
        .then_some(Leg { kind, amount_minor: attempt.amount_minor });
    match left {
        Some(_) => [left, moved],
        None => [moved, None],
    }
}

/// Entering unknown puts the amount into suspense, once.
fn entering_legs(from: AttemptState, attempt: &Planned) -> [Option<Leg>; 2] {
    let kind = match attempt.op {
        Op::Refund => LegKind::RefundEnterUnknown,
        _ => LegKind::EnterUnknown,
    };
    let entered = !in_suspense(from) && moves_money(attempt.op);
    [entered.then_some(Leg { kind, amount_minor: attempt.amount_minor }), None]
}

/// Whether an unknown result of the operation means that money may have moved.
fn moves_money(op: Op) -> bool {
    matches!(op, Op::Charge | Op::Confirm | Op::Refund | Op::Adopt)
}

fn active_again(state: SubscriptionState) -> Result<SubscriptionState, CoreError> {
    Ok(if state.collects() { step(state, SubscriptionState::Active)? } else { state })
}

fn next_of(facts: &Facts<'_>) -> Result<Option<Next>, CoreError> {
    let sub = facts.sub;
    next_after(facts.rules, sub.anchor, sub.progress.period, facts.zone, sub.id)
}

/// A stop that arrived while the attempt was on its way takes effect with its outcome. What is set aside at the carrier
/// is still to be given back.
fn after_stop(facts: &Facts<'_>, progress: Progress) -> Result<(Progress, Option<Rule>), CoreError> {
    if facts.sub.stop_at.is_none() || !progress.state.collects() {
        return Ok((progress, None));
    }
    let state = step(progress.state, SubscriptionState::Cancelled)?;
    let mut after = Progress { state, ..progress.at_rest() };
    if after.reserved.is_some() {
        after.next_at = Some(facts.now);
        after.next_kind = NextKind::Reserved;
    }
    Ok((after, Some(Rule::STOP_WITH_OUTCOME)))
}
