//! `triage`: what is done now with a subscription whose time has come. Pure: state and `now` in, a plan out.

use jiff::Timestamp;

use crate::ids::{ATTEMPT_NO_MAX, ChargeId};
use crate::outcome::Op;
use crate::period::Period;
use crate::plan::{Missed, PlanRules};
use crate::reason::Rule;
use crate::schedule::price_of;
use crate::states::{AttemptState, ChargeState, SubscriptionState, step};
use crate::subscription::{
    Aside, CoreError, FLAG_QUARANTINED, NextKind, OpenAttempt, Planned, Progress, Subscription,
};
use crate::zone::Zone;

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
    /// The unfinished charge that leaves the subscription's row.
    pub aside: Option<Aside>,
    /// Until when, for a deferral.
    pub until: Option<Timestamp>,
    /// Why.
    pub rule: Rule,
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
            _ => "unlisted",
        }
    }
}

/// Decides what happens at `now` (business time) with a subscription on a plan in the subscriber's own zone.
///
/// # Errors
/// [`CoreError`] when the row cannot be decided: it is to be quarantined with a case.
pub fn triage(
    sub: &Subscription,
    rules: &PlanRules,
    zone: &Zone,
    now: Timestamp,
) -> Result<Triage, CoreError> {
    let at = &sub.progress;
    if sub.flags & FLAG_QUARANTINED != 0 {
        return Ok(Triage::Rest { rule: Rule::QUARANTINED });
    }
    // What has ended needs no stop.
    if sub.stop_at.is_some() && !matches!(at.state, SubscriptionState::Cancelled | SubscriptionState::Ended) {
        return cancel(sub, Rule::STOP_CANCEL);
    }
    let fires = at.next_at.is_some_and(|next| next <= now);
    if !at.state.collects() {
        // An accepted request does not become certain because collecting stopped.
        if fires && awaits_answer(at) {
            return doubt(sub, None);
        }
        return Ok(Triage::Rest { rule: Rule::NOT_COLLECTING });
    }
    if !fires {
        let rule = if at.open == OpenAttempt::None { Rule::NOT_DUE } else { Rule::OPEN_BLOCKS };
        return Ok(Triage::Rest { rule });
    }
    let next_period = rules.schedule.next_period(sub.anchor, at.period, zone)?;
    let next_due = match next_period {
        Some(period) => Some(rules.schedule.due_at(sub.anchor, period, zone, sub.id)?),
        None => None,
    };
    if at.open != OpenAttempt::None {
        return blocked(sub, rules, zone, now, next_period, next_due);
    }
    if next_due.is_some_and(|due| due <= now) {
        let kind = if at.attempt_no == 0 { NoteKind::Skip } else { NoteKind::Expire };
        return missed(sub, rules, zone, now, kind);
    }
    if at.attempt_no >= ATTEMPT_NO_MAX {
        let progress = advance(sub, rules, zone, next_period, at.state)?;
        return note(sub, NoteKind::WriteOff, ChargeState::WrittenOff, progress, Rule::ATTEMPTS_EXHAUSTED);
    }
    let allowed = rules.schedule.allowed(zone, now)?;
    if allowed.from > now {
        return defer(sub, rules, zone, allowed.from, next_period, next_due);
    }
    let closes = allowed.until;
    let remaining = at.due_minor.checked_sub(at.collected_minor).filter(|r| *r > 0).ok_or_else(|| {
        CoreError::Inconsistent(format!("{} of {} is already collected", at.collected_minor, at.due_minor))
    })?;
    let amount_minor = rules.step_amount(at.step, remaining).filter(|a| *a > 0).ok_or_else(|| {
        CoreError::Inconsistent(format!("plan {} has no step {} of its ladder", rules.id, at.step))
    })?;
    let planned = Planned {
        op: Op::Charge,
        period: at.period,
        attempt_no: at.attempt_no + 1,
        amount_minor,
        round: at.round,
        step: at.step,
        not_before: at.next_at.unwrap_or(now),
        not_after: next_due.map_or(closes, |due| due.min(closes)),
    };
    let rule = match (at.attempt_no, at.step) {
        (0, _) => Rule::DUE_SEND,
        (_, 0) => Rule::RETRY_SEND,
        _ => Rule::LADDER_SEND,
    };
    Ok(Triage::Send { planned, rule })
}

/// The subscription with its charge closed and the next period in its row; ended when there is none.
///
/// # Errors
/// [`CoreError`] when the next period cannot be computed or the move is illegal.
pub(crate) fn advance(
    sub: &Subscription,
    rules: &PlanRules,
    zone: &Zone,
    next: Option<Period>,
    state: SubscriptionState,
) -> Result<Progress, CoreError> {
    let at = &sub.progress;
    let Some(period) = next else {
        let state = if state.collects() { step(state, SubscriptionState::Ended)? } else { state };
        return Ok(Progress {
            state,
            open: OpenAttempt::None,
            retry_at: None,
            next_at: None,
            next_kind: NextKind::Never,
            ..*at
        });
    };
    let stays = state.collects();
    let due_at = rules.schedule.due_at(sub.anchor, period, zone, sub.id)?;
    Ok(Progress {
        state,
        period,
        due_minor: price_of(rules, sub.anchor, period, zone)?.minor,
        collected_minor: 0,
        attempt_no: 0,
        round: 0,
        step: 0,
        open: OpenAttempt::None,
        deferrals: 0,
        retry_at: None,
        next_at: stays.then_some(due_at),
        next_kind: if stays { NextKind::Due } else { NextKind::Never },
        ..*at
    })
}

/// The subscription stopped for good, or suspended: nothing fires any more, its charge stays in the row.
pub(crate) fn stopped(at: &Progress, state: SubscriptionState) -> Progress {
    Progress { state, retry_at: None, next_at: None, next_kind: NextKind::Never, ..*at }
}

fn cancel(sub: &Subscription, rule: Rule) -> Result<Triage, CoreError> {
    let state = step(sub.progress.state, SubscriptionState::Cancelled)?;
    let charge_state =
        if sub.progress.open == OpenAttempt::None { ChargeState::Cancelled } else { ChargeState::Waiting };
    let mut progress = stopped(&sub.progress, state);
    if awaits_answer(&sub.progress) {
        progress.next_at = sub.progress.next_at;
        progress.next_kind = sub.progress.next_kind;
    }
    note(sub, NoteKind::Cancel, charge_state, progress, rule)
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

fn blocked(
    sub: &Subscription,
    rules: &PlanRules,
    zone: &Zone,
    now: Timestamp,
    next_period: Option<Period>,
    next_due: Option<Timestamp>,
) -> Result<Triage, CoreError> {
    let at = &sub.progress;
    if next_due.is_some_and(|due| due <= now) {
        let aside = Aside {
            charge: ChargeId { subscription: sub.id, period: at.period },
            due_minor: at.due_minor,
            collected_minor: at.collected_minor,
            attempt_no: at.attempt_no,
            round: at.round,
            step: at.step,
            open: at.open,
        };
        let running = latest_due(sub, rules, zone, now)?.or(next_period);
        let target = resume_at(sub, rules, zone, running, running > next_period)?;
        let progress = advance(sub, rules, zone, target, at.state)?;
        let rolled = note_of(sub, NoteKind::Roll, ChargeState::Waiting, progress, Rule::PERIOD_ROLL)?;
        return Ok(Triage::Note(Box::new(Note { aside: Some(aside), ..rolled })));
    }
    if awaits_answer(at) {
        return doubt(sub, next_due);
    }
    Ok(Triage::Rest { rule: Rule::OPEN_BLOCKS })
}

fn missed(
    sub: &Subscription,
    rules: &PlanRules,
    zone: &Zone,
    now: Timestamp,
    kind: NoteKind,
) -> Result<Triage, CoreError> {
    let running = latest_due(sub, rules, zone, now)?;
    let (charge_state, untried) = match kind {
        NoteKind::Skip => (ChargeState::Skipped, true),
        // This charge was tried; only periods between it and the running one were missed.
        _ => (
            ChargeState::Expired,
            running > rules.schedule.next_period(sub.anchor, sub.progress.period, zone)?,
        ),
    };
    let target = resume_at(sub, rules, zone, running, untried)?;
    let rule = match (kind, rules.missed) {
        (NoteKind::Expire, _) => Rule::PERIOD_EXPIRE,
        (_, Missed::OnceLate) => Rule::MISSED_ONCE_LATE,
        (_, Missed::Skip) => Rule::MISSED_SKIP,
    };
    note(sub, kind, charge_state, advance(sub, rules, zone, target, sub.progress.state)?, rule)
}

/// The period with which charging goes on when `running` is the one that runs now: itself, or the one after it
/// where periods were missed and the plan skips those.
fn resume_at(
    sub: &Subscription,
    rules: &PlanRules,
    zone: &Zone,
    running: Option<Period>,
    some_missed: bool,
) -> Result<Option<Period>, CoreError> {
    match (rules.missed, running) {
        (Missed::Skip, Some(period)) if some_missed => {
            Ok(rules.schedule.next_period(sub.anchor, period, zone)?)
        }
        _ => Ok(running),
    }
}

/// The latest period after the current one that has fallen due by `now`.
fn latest_due(
    sub: &Subscription,
    rules: &PlanRules,
    zone: &Zone,
    now: Timestamp,
) -> Result<Option<Period>, CoreError> {
    Ok(rules.schedule.latest_due(sub.anchor, sub.progress.period, zone, sub.id, now)?)
}

fn defer(
    sub: &Subscription,
    rules: &PlanRules,
    zone: &Zone,
    opens: Timestamp,
    next_period: Option<Period>,
    next_due: Option<Timestamp>,
) -> Result<Triage, CoreError> {
    let at = &sub.progress;
    if next_due.is_some_and(|due| due <= opens) {
        let progress = advance(sub, rules, zone, next_period, at.state)?;
        return note(sub, NoteKind::Expire, ChargeState::Expired, progress, Rule::PERIOD_EXPIRE);
    }
    let progress = Progress {
        deferrals: at.deferrals.saturating_add(1),
        retry_at: Some(opens),
        next_at: Some(opens),
        next_kind: NextKind::Deferred,
        ..*at
    };
    let deferred = note_of(sub, NoteKind::Defer, ChargeState::Open, progress, Rule::WINDOW_DEFER)?;
    Ok(Triage::Note(Box::new(Note { until: Some(opens), ..deferred })))
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
    let open = sub.progress.open != OpenAttempt::None;
    let before = if open { ChargeState::Waiting } else { ChargeState::Open };
    let charge = ChargeId { subscription: sub.id, period: sub.progress.period };
    let charge_state = step(before, charge_state)?;
    Ok(Note { kind, charge, charge_state, progress, aside: None, until: None, rule })
}
