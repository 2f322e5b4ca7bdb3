//! `triage`: what is done now with a subscription whose time has come. Pure: state and `now` in, a plan out.

use jiff::Timestamp;

use crate::decide::Event;
use crate::ids::{ATTEMPT_NO_MAX, ChargeId, SubscriptionId};
use crate::outcome::Op;
use crate::period::Period;
use crate::plan::PlanRules;
use crate::reason::{Input, Inputs, Rule};
use crate::schedule::{Anchor, price_of};
use crate::states::{AttemptState, ChargeState, SubscriptionState, step};
use crate::subscription::{
    Aside, CoreError, FLAG_QUARANTINED, NextKind, OpenAttempt, Planned, Progress, Subscription,
};
use crate::zone::Zone;

mod arrears;
mod conditions;
mod defer;
mod lifecycle;
mod missed;
mod moves;
mod reserve;

pub use arrears::{AsideTriage, triage_aside};
pub use conditions::{Balance, BalanceAnswer, Conditions};
pub use lifecycle::{consent_ended, pause, resume, signed_up, top_up};
pub use missed::{MERGE_RULES, Merged, merged_into};
pub use moves::{Change, MoveError, MoveRefused, Opening, change, change_carrier};

/// What to do with one subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Triage {
    /// Make the intent durable, then send.
    Send {
        /// The attempt.
        planned: Planned,
        /// Why.
        rule: Rule,
    },
    /// Ask for the balance, then triage again with its answer in [`Conditions`]. Nothing is recorded.
    Probe {
        /// What would be charged, minor units: for carriers that answer yes or no.
        amount_minor: i64,
        /// Why.
        rule: Rule,
    },
    /// Nothing is sent; the change is recorded (defer, skip, expire, roll, cancel).
    Note(Box<Note>),
    /// Nothing is sent and nothing changes; look again at `next_at`.
    Rest {
        /// Why.
        rule: Rule,
    },
}

/// A recorded change without an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What kind.
    pub kind: NoteKind,
    /// The charge that it is about.
    pub charge: ChargeId,
    /// Where that charge stands afterwards, if anything was due.
    pub charge_state: ChargeState,
    /// The subscription afterwards.
    pub progress: Progress,
    /// Where its periods are counted from now on, if that changed.
    pub anchor: Option<Anchor>,
    /// The unfinished charge that leaves the subscription's row.
    pub aside: Option<Aside>,
    /// Missed periods that become arrears; at most as many as the plan allows.
    pub arrears: Vec<Aside>,
    /// Periods that were passed over without a charge of their own; at most three ranges.
    pub passed: Vec<Passed>,
    /// What missed periods are part of the charge that follows.
    pub merged: Merged,
    /// Until when, for a deferral.
    pub until: Option<Timestamp>,
    /// What merchants are told of the charge.
    pub event: Option<Event>,
    /// What merchants are told of the subscription: exactly one per change of its state.
    pub state_event: Option<Event>,
    /// Why.
    pub rule: Rule,
    /// What the rule looked at.
    pub inputs: Inputs,
}

/// A range of periods that were passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    /// The first of them.
    pub first: Period,
    /// The first period after them; `None` when none follows.
    pub before: Option<Period>,
    /// What became of their charges.
    pub charge_state: ChargeState,
}

/// Kinds of notes. The number is what the database keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i16)]
pub enum NoteKind {
    /// A period was passed over.
    Skip = 1,
    /// Moved to a better moment without using an attempt.
    Defer = 2,
    /// The charge's time passed.
    Expire = 3,
    /// The charge was given up.
    WriteOff = 4,
    /// The next period began beside an open attempt.
    Roll = 5,
    /// The subscription ended.
    Cancel = 6,
    /// The answer's deadline passed.
    Doubt = 7,
    /// A trial, a parking or a pause begins or ends; consent ends or is renewed.
    State = 8,
    /// A top-up was announced.
    TopUp = 9,
    /// A reservation ran out.
    Lapse = 10,
    /// Another zone, day, hour, plan or carrier.
    Move = 11,
    /// The carrier took money back.
    Reversal = 12,
}

impl NoteKind {
    /// The word for a kept number.
    #[must_use]
    pub fn name_of(number: i16) -> &'static str {
        match number {
            1 => "skip",
            2 => "defer",
            3 => "expire",
            4 => "write_off",
            5 => "roll",
            6 => "cancel",
            7 => "doubt",
            8 => "state",
            9 => "top_up",
            10 => "lapse",
            11 => "move",
            12 => "reversal",
            _ => "unlisted",
        }
    }
}

/// A period and when its charge falls due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Next {
    pub(crate) period: Period,
    pub(crate) due_at: Timestamp,
    /// What it costs, minor units.
    pub(crate) price_minor: i64,
}

/// The period after `period` and when its charge falls due; `None` after the last.
pub(crate) fn next_after(
    rules: &PlanRules,
    anchor: Anchor,
    period: Period,
    zone: &Zone,
    id: SubscriptionId,
) -> Result<Option<Next>, CoreError> {
    let next = rules.schedule.next_period(anchor, period, zone)?;
    next.map(|period| at_period(rules, anchor, period, zone, id)).transpose()
}

/// A period with its due instant and price.
pub(crate) fn at_period(
    rules: &PlanRules,
    anchor: Anchor,
    period: Period,
    zone: &Zone,
    id: SubscriptionId,
) -> Result<Next, CoreError> {
    let due_at = rules.schedule.due_at(anchor, period, zone, id)?;
    Ok(Next { period, due_at, price_minor: price_of(rules, anchor, period, zone)?.minor })
}

/// Everything that triage looks at.
#[derive(Clone, Copy)]
struct Scene<'a> {
    sub: &'a Subscription,
    rules: &'a PlanRules,
    zone: &'a Zone,
    now: Timestamp,
    conditions: &'a Conditions,
}

impl Scene<'_> {
    fn next(&self) -> Result<Option<Next>, CoreError> {
        let sub = self.sub;
        next_after(self.rules, sub.anchor, sub.progress.period, self.zone, sub.id)
    }

    fn due_at(&self, period: Period) -> Result<Timestamp, CoreError> {
        Ok(self.rules.schedule.due_at(self.sub.anchor, period, self.zone, self.sub.id)?)
    }

    fn opens(&self, at: Timestamp) -> Result<Timestamp, CoreError> {
        Ok(self.rules.schedule.allowed(self.zone, at)?.from)
    }
}

/// Decides what happens at `now` (business time) with a subscription on a plan in the subscriber's own zone, with
/// nothing known besides its row.
///
/// # Errors
/// [`CoreError`] when the row cannot be decided: it is to be quarantined with a case.
pub fn triage(
    sub: &Subscription,
    rules: &PlanRules,
    zone: &Zone,
    now: Timestamp,
) -> Result<Triage, CoreError> {
    triage_with(sub, rules, zone, now, &Conditions::default())
}

/// [`triage`] with what is known besides the row: the balance, the carrier's state, what caps leave.
///
/// # Errors
/// As for [`triage`].
pub fn triage_with(
    sub: &Subscription,
    rules: &PlanRules,
    zone: &Zone,
    now: Timestamp,
    conditions: &Conditions,
) -> Result<Triage, CoreError> {
    let at = &sub.progress;
    if sub.flags & FLAG_QUARANTINED != 0 {
        return Ok(Triage::Rest { rule: Rule::QUARANTINED });
    }
    let scene = Scene { sub, rules, zone, now, conditions };
    // What has ended needs no stop.
    if sub.stop_at.is_some() && !at.state.is_over() {
        return cancel(&scene, Rule::STOP_CANCEL);
    }
    let fires = at.next_at.is_some_and(|next| next <= now);
    if !at.state.collects() {
        return not_collecting(&scene, fires);
    }
    if !fires {
        let rule = if at.open == OpenAttempt::None { Rule::NOT_DUE } else { Rule::OPEN_BLOCKS };
        return Ok(Triage::Rest { rule });
    }
    if at.open != OpenAttempt::None {
        return blocked(&scene);
    }
    if let Some(reserved) = at.reserved {
        return reserve::act(&scene, reserved);
    }
    due(&scene)
}

fn not_collecting(scene: &Scene<'_>, fires: bool) -> Result<Triage, CoreError> {
    let at = &scene.sub.progress;
    // An accepted request does not become certain because collecting stopped.
    if fires && awaits_answer(at) {
        return doubt(scene.sub, None);
    }
    if let (true, OpenAttempt::None, Some(reserved)) = (fires, at.open, at.reserved) {
        return reserve::act(scene, reserved);
    }
    if fires && at.next_kind == NextKind::StateEnd {
        return lifecycle::state_ends(scene);
    }
    Ok(Triage::Rest { rule: Rule::NOT_COLLECTING })
}

/// Nothing is open and its time has come: send, unless the next period began, the window is closed, or a better moment
/// is known.
fn due(scene: &Scene<'_>) -> Result<Triage, CoreError> {
    let Scene { sub, rules, zone, now, .. } = *scene;
    let at = &sub.progress;
    let allowed = rules.schedule.allowed(zone, now)?;
    let (opens, closes) = (allowed.from, allowed.until);
    // A charge never falls due before its period's own local day begins: where the window closes before that day, most
    // charges need no second look at the calendar.
    let next_period = rules.schedule.next_period(sub.anchor, at.period, zone)?;
    let begins = match next_period {
        Some(period) if opens <= now => Some(zone.instant(period.date(), 0)?),
        _ => None,
    };
    let (next, last) = match next_period {
        None => (None, closes),
        Some(_) if begins.is_some_and(|begins| closes <= begins) => (None, closes),
        Some(period) => {
            let next = at_period(rules, sub.anchor, period, zone, sub.id)?;
            (Some(next), closes.min(next.due_at))
        }
    };
    if let Some(next) = next.filter(|next| next.due_at <= now) {
        let kind = if at.attempt_no == 0 { NoteKind::Skip } else { NoteKind::Expire };
        return missed::missed(scene, next, kind);
    }
    if at.attempt_no >= ATTEMPT_NO_MAX {
        let progress = advance(*at, scene.next()?, at.state)?;
        return note(sub, NoteKind::WriteOff, ChargeState::WrittenOff, progress, Rule::ATTEMPTS_EXHAUSTED);
    }
    if rules.defer.shelf_life_s > 0
        && crate::entitlement::later(scene.due_at(at.period)?, rules.defer.shelf_life_s) <= now
    {
        return defer::expire(scene, Rule::SHELF_EXPIRE);
    }
    if opens > now {
        return defer::to(scene, opens, Rule::WINDOW_DEFER);
    }
    if let Some(deferred) = defer::by_conditions(scene)? {
        return Ok(deferred);
    }
    let remaining = at.due_minor.checked_sub(at.collected_minor).filter(|r| *r > 0).ok_or_else(|| {
        CoreError::Inconsistent(format!("{} of {} is already collected", at.collected_minor, at.due_minor))
    })?;
    let amount_minor = rules.step_amount(at.step, remaining).filter(|a| *a > 0).ok_or_else(|| {
        CoreError::Inconsistent(format!("plan {} has no step {} of its ladder", rules.id, at.step))
    })?;
    let rule = match (at.attempt_no, at.step) {
        (0, _) => Rule::DUE_SEND,
        (_, 0) => Rule::RETRY_SEND,
        _ => Rule::LADDER_SEND,
    };
    let (amount_minor, step, rule) = match defer::by_balance(scene, amount_minor, rule)? {
        defer::Advice::Send { amount_minor, step, rule } => (amount_minor, step, rule),
        defer::Advice::Other(other) => return Ok(other),
    };
    let planned = Planned {
        op: if rules.reserve.is_some() { Op::Reserve } else { Op::Charge },
        period: at.period,
        attempt_no: at.attempt_no + 1,
        parent_no: 0,
        amount_minor,
        round: at.round,
        step,
        not_before: at.next_at.unwrap_or(now),
        not_after: last,
    };
    Ok(Triage::Send { planned, rule })
}

/// The row with its charge closed and the next period in it; ended when there is none.
///
/// # Errors
/// [`CoreError`] when the move is illegal.
pub(crate) fn advance(
    at: Progress,
    next: Option<Next>,
    state: SubscriptionState,
) -> Result<Progress, CoreError> {
    let Some(next) = next else {
        let state = if state.collects() { step(state, SubscriptionState::Ended)? } else { state };
        return Ok(Progress { state, open: OpenAttempt::None, ..at.at_rest() });
    };
    let due_at = state.collects().then_some(next.due_at);
    let fresh = Progress::fresh(state, next.period, next.price_minor, due_at);
    Ok(Progress {
        paid_until: at.paid_until,
        state_until: at.state_until,
        notice_at: at.notice_at,
        try_day: at.try_day,
        day_tries: at.day_tries,
        ..fresh
    })
}

fn cancel(scene: &Scene<'_>, rule: Rule) -> Result<Triage, CoreError> {
    let (sub, at) = (scene.sub, &scene.sub.progress);
    let state = step(at.state, SubscriptionState::Cancelled)?;
    let mut progress = Progress { state, ..at.at_rest() };
    let charge_state = match (at.open, at.reserved) {
        // Its charge was given up when collecting stopped; a stop does not change what became of it.
        (OpenAttempt::None, None) => ChargeState::Cancelled,
        (OpenAttempt::None, Some(_)) => ChargeState::Reserved,
        _ => ChargeState::Waiting,
    };
    if let Some(deadline) = at.answer_due() {
        progress.next_at = Some(deadline);
        progress.next_kind = NextKind::Deadline;
    } else if at.open == OpenAttempt::None && at.reserved.is_some() {
        // What is set aside is given back at once.
        progress.next_at = Some(scene.now);
        progress.next_kind = NextKind::Reserved;
    }
    let mut note = note_of(sub, NoteKind::Cancel, charge_state, progress, rule)?;
    note.inputs = note.inputs.with_at(Input::StopMs, sub.stop_at);
    Ok(Triage::Note(Box::new(note)))
}

/// Whether the wheel fires for the deadline of an accepted request.
fn awaits_answer(at: &Progress) -> bool {
    at.open == OpenAttempt::Accepted && at.next_kind == NextKind::Deadline
}

/// The answer's deadline passed.
fn doubt(sub: &Subscription, next_due: Option<Timestamp>) -> Result<Triage, CoreError> {
    step(AttemptState::Accepted, AttemptState::Unknown)?;
    let progress = Progress {
        open: OpenAttempt::Unknown,
        next_at: next_due,
        next_kind: if next_due.is_some() { NextKind::PeriodStart } else { NextKind::Never },
        ..sub.progress
    };
    note(sub, NoteKind::Doubt, ChargeState::Waiting, progress, Rule::DEADLINE_PASSED)
}

fn blocked(scene: &Scene<'_>) -> Result<Triage, CoreError> {
    let at = &scene.sub.progress;
    let next = scene.next()?;
    if let Some(next) = next.filter(|next| next.due_at <= scene.now) {
        return missed::roll(scene, next);
    }
    if awaits_answer(at) {
        return doubt(scene.sub, next.map(|next| next.due_at));
    }
    Ok(Triage::Rest { rule: Rule::OPEN_BLOCKS })
}

fn note(
    sub: &Subscription,
    kind: NoteKind,
    charge_state: ChargeState,
    progress: Progress,
    rule: Rule,
) -> Result<Triage, CoreError> {
    Ok(Triage::Note(Box::new(note_of(sub, kind, charge_state, progress, rule)?)))
}

fn note_of(
    sub: &Subscription,
    kind: NoteKind,
    charge_state: ChargeState,
    progress: Progress,
    rule: Rule,
) -> Result<Note, CoreError> {
    let at = &sub.progress;
    let before = match (at.open, at.reserved) {
        (OpenAttempt::None, None) => ChargeState::Open,
        (OpenAttempt::None, Some(_)) => ChargeState::Reserved,
        _ => ChargeState::Waiting,
    };
    let charge_state = step(before, charge_state)?;
    let event = match charge_state {
        ChargeState::Expired => Some(Event::ChargeExpired),
        ChargeState::Skipped => Some(Event::ChargeSkipped),
        ChargeState::Merged => Some(Event::ChargeMerged),
        ChargeState::Arrears => Some(Event::ChargeArrears),
        ChargeState::WrittenOff => Some(Event::ChargeGivenUp),
        _ => None,
    };
    Ok(Note {
        kind,
        charge: ChargeId { subscription: sub.id, period: at.period },
        charge_state,
        progress,
        anchor: None,
        aside: None,
        arrears: Vec::new(),
        passed: Vec::new(),
        merged: Merged::default(),
        until: None,
        event,
        state_event: Event::of_state(at.state, progress.state),
        rule,
        inputs: Inputs::default(),
    })
}
