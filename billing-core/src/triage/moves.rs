//! Moves: to another zone, another day or hour, another plan, another carrier. What was paid stays paid; the next charge
//! starts where that ends, so no period is skipped and none is charged twice.

use jiff::Timestamp;
use jiff::civil::Date;
use thiserror::Error;

use super::{Note, NoteKind, advance, at_period, note_of};
use crate::ids::{ChargeId, SubscriptionId};
use crate::period::Period;
use crate::plan::{Missed, PlanRules};
use crate::reason::{Input, Rule};
use crate::schedule::{Anchor, Cadence, Line, Sold, first_unsold, move_anchor_unsold, open_after, price_of};
use crate::states::{ChargeState, State, SubscriptionState, step};
use crate::subscription::{CoreError, FLAG_QUARANTINED, NextKind, OpenAttempt, Progress, Subscription};
use crate::zone::Zone;

/// What is changed about a subscription that stays the same one.
#[derive(Debug, Clone, Copy)]
pub enum Change<'a> {
    /// The subscriber lives in another zone.
    Zone(&'a Zone),
    /// Charges fall due on another day, at another minute of the day, or both.
    Anchor {
        /// The day: its day of the month for months, its day of the year for years, its weekday for weeks.
        day: Option<Date>,
        /// The local minute of the day.
        minute: Option<u16>,
    },
    /// Another plan of the same merchant at the same carrier.
    Plan(&'a PlanRules),
}

/// The subscription that opens at another carrier when this one closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// Where its periods are counted from.
    pub anchor: Anchor,
    /// Its row.
    pub progress: Progress,
}

/// Why a move is not made now.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum MoveRefused {
    /// Nothing is charged any more.
    #[error("the subscription is {0}: nothing is charged any more")]
    Over(&'static str),
    /// Someone said stop.
    #[error("somebody said stop: nothing is charged any more")]
    Stopped,
    /// People must look at it first.
    #[error("the subscription is quarantined: people must look at its data first")]
    Quarantined,
    /// A result is not known, so what is paid is not known either.
    #[error(
        "the result of attempt {attempt_no} for {period} is not known yet: move it when it is, or when the next period \
         has begun beside it"
    )]
    Open {
        /// The attempt.
        attempt_no: i16,
        /// Its period.
        period: Period,
    },
    /// The state does not collect.
    #[error("the subscription is {0}: move it when it collects again")]
    Rests(&'static str),
    /// A charge under way that the change cannot go around.
    #[error("the charge of {0} was tried and is not closed yet: move it when it is paid or given up")]
    Tried(Period),
    /// A charge that carries others.
    #[error("the charge of {0} carries missed periods: move it when it is paid or given up")]
    Merged(Period),
    /// The plan has no day to choose.
    #[error("plan {0} has no day of the month, year or week that could move")]
    NoDay(String),
    /// The plan has no hour to choose.
    #[error("plan {0} charges at times of its own or counts elapsed time: no hour could move")]
    NoHour(String),
    /// Charging is not allowed then.
    #[error("plan {plan} charges from {from} to {until} local time only")]
    Window {
        /// The plan.
        plan: String,
        /// From when, `hh:mm`.
        from: String,
        /// Until when, `hh:mm`.
        until: String,
    },
    /// Nothing follows.
    #[error("plan {0} has no further period")]
    NoPeriod(String),
    /// Another seller.
    #[error("plan {plan} belongs to merchant {merchant}, the subscription to {own}: a new sign-up is needed")]
    Merchant {
        /// The plan.
        plan: String,
        /// Its merchant.
        merchant: String,
        /// The subscription's.
        own: String,
    },
    /// Another carrier where the same one is needed.
    #[error("plan {plan} is sold through {carrier}: that is a move to another carrier")]
    OtherCarrier {
        /// The plan.
        plan: String,
        /// Its carrier.
        carrier: String,
    },
    /// The same carrier where another one is needed.
    #[error("plan {0} is sold through the same carrier: that is a change of plan")]
    SameCarrier(String),
    /// Another currency.
    #[error("plan {plan} is priced in {currency}, the subscription in {own}")]
    Currency {
        /// The plan.
        plan: String,
        /// Its currency.
        currency: String,
        /// The subscription's.
        own: String,
    },
}

/// Why there is no move.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum MoveError {
    /// Not now, or not like this: nothing changes and people are told.
    #[error(transparent)]
    Refused(#[from] MoveRefused),
    /// The row cannot be decided.
    #[error(transparent)]
    Core(#[from] CoreError),
}

impl From<crate::schedule::ScheduleError> for MoveError {
    fn from(error: crate::schedule::ScheduleError) -> Self {
        Self::Core(error.into())
    }
}

/// The note that changes a subscription on a plan (`rules`) in a zone. `None` when it stands so already.
///
/// # Errors
/// [`MoveError`], with the reason.
pub fn change(
    sub: &Subscription,
    rules: &PlanRules,
    zone: &Zone,
    to: &Change<'_>,
) -> Result<Option<Note>, MoveError> {
    settled(sub)?;
    let row = Row { sub, rules, zone };
    let note = match *to {
        Change::Zone(there) if there.name() == zone.name() => return Ok(None),
        Change::Plan(plan) if plan.id == rules.id => return Ok(None),
        Change::Zone(there) => row.zone_note(there)?,
        Change::Anchor { day, minute } => match row.anchor_note(day, minute)? {
            Some(note) => note,
            None => return Ok(None),
        },
        Change::Plan(plan) => row.plan_note(plan)?,
    };
    let inputs = note.inputs.with_at(Input::NextDueMs, sub.progress.next_at);
    Ok(Some(Note { inputs: inputs.with_at(Input::ChosenMs, note.progress.next_at), ..note }))
}

/// Closes a subscription that moves to another carrier, and opens the next on `plan` in the zone `there` with the id
/// `next_id`: its first period starts where the last one that is paid here ends.
///
/// # Errors
/// [`MoveError`], with the reason.
pub fn change_carrier(
    sub: &Subscription,
    rules: &PlanRules,
    zone: &Zone,
    (plan, there, next_id): (&PlanRules, &Zone, SubscriptionId),
) -> Result<(Note, Opening), MoveError> {
    settled(sub)?;
    let row = Row { sub, rules, zone };
    if plan.carrier == rules.carrier {
        return Err(MoveRefused::SameCarrier(plan.id.clone()).into());
    }
    row.same_merchant(plan)?;
    row.collects()?;
    let anchor = Anchor { minute: plan.schedule.anchor_minute(next_id), ..sub.anchor };
    let sold = match row.line_is_sold()? {
        // Its numbers are its own: what was tried in vain here may be charged there.
        true => Sold::through(row.line(), sub.progress.period)?,
        false => Sold::before(row.line(), sub.progress.period)?,
    };
    let line = Line { schedule: &plan.schedule, anchor, zone: there };
    let (anchor, first) = open_after(row.line(), line, sold)?;
    let first = first.ok_or_else(|| MoveRefused::NoPeriod(plan.id.clone()))?;
    let next = at_period(plan, anchor, first, there, next_id)?;
    let at = &sub.progress;
    let state = match at.state {
        SubscriptionState::Grace => SubscriptionState::Active,
        state => state,
    };
    let opened = Progress::fresh(state, next.period, next.price_minor, Some(next.due_at));
    let opened = Progress { paid_until: at.paid_until, ..opened };
    let closed = Progress {
        state: step(at.state, SubscriptionState::Cancelled).map_err(CoreError::from)?,
        ..at.at_rest()
    };
    let mut note = note_of(sub, NoteKind::Move, ChargeState::Cancelled, closed, Rule::CARRIER_MOVED)?;
    note.inputs = note.inputs.with_at(Input::NextDueMs, at.next_at).with_at(Input::ChosenMs, opened.next_at);
    Ok((note, Opening { anchor, progress: opened }))
}

/// Nothing of it is over, blocked or unknown.
fn settled(sub: &Subscription) -> Result<(), MoveRefused> {
    let at = &sub.progress;
    if at.state.is_over() {
        return Err(MoveRefused::Over(at.state.name()));
    }
    if sub.stop_at.is_some() {
        return Err(MoveRefused::Stopped);
    }
    if sub.flags & FLAG_QUARANTINED != 0 {
        return Err(MoveRefused::Quarantined);
    }
    if at.open != OpenAttempt::None || at.reserved.is_some() {
        return Err(MoveRefused::Open { attempt_no: at.attempt_no, period: at.period });
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Row<'a> {
    sub: &'a Subscription,
    rules: &'a PlanRules,
    zone: &'a Zone,
}

impl<'a> Row<'a> {
    fn line(&self) -> Line<'a> {
        Line { schedule: &self.rules.schedule, anchor: self.sub.anchor, zone: self.zone }
    }

    fn untried(&self) -> bool {
        self.sub.progress.attempt_no == 0
    }

    /// How many missed periods' prices the charge carries, its own included.
    fn carries(&self) -> Result<i64, CoreError> {
        let at = &self.sub.progress;
        let price = price_of(self.rules, self.sub.anchor, at.period, self.zone)?.minor.max(1);
        let merges = matches!(self.rules.missed, Missed::Merge { .. }) && at.due_minor % price == 0;
        Ok(if merges { (at.due_minor / price).max(1) } else { 1 })
    }

    fn collects(&self) -> Result<(), MoveRefused> {
        let state = self.sub.progress.state;
        if state.collects() { Ok(()) } else { Err(MoveRefused::Rests(state.name())) }
    }

    fn same_merchant(&self, plan: &PlanRules) -> Result<(), MoveRefused> {
        if plan.merchant == self.rules.merchant {
            return Ok(());
        }
        let (plan, merchant) = (plan.id.clone(), plan.merchant.clone());
        Err(MoveRefused::Merchant { plan, merchant, own: self.rules.merchant.clone() })
    }

    /// Whether the row's own period is sold, in part at least; refused when it carries others that are not.
    fn line_is_sold(&self) -> Result<bool, MoveError> {
        let at = &self.sub.progress;
        if self.carries()? > 1 {
            return Err(MoveRefused::Merged(at.period).into());
        }
        Ok(at.collected_minor > 0)
    }

    fn zone_note(&self, there: &Zone) -> Result<Note, MoveError> {
        let (sub, at) = (self.sub, &self.sub.progress);
        let line = Line { zone: there, ..self.line() };
        let waits = matches!(at.state, SubscriptionState::Trial | SubscriptionState::Parked);
        let sold = if self.untried() {
            Sold::before(self.line(), at.period)?
        } else {
            Sold::through(self.line(), at.period)?
        };
        let none = || MoveRefused::NoPeriod(self.rules.id.clone());
        let first = first_unsold(self.line(), line, sold)?.ok_or_else(none)?;
        if !self.untried() || !(at.state.collects() || waits) {
            // The charge under way keeps its period: what follows it must be what follows here.
            let elapses = self.rules.schedule.cadence.elapsed_minutes().is_some();
            if elapses && (self.untried() || self.after(sub.anchor, there)? != Some(first)) {
                return Err(MoveRefused::Tried(at.period).into());
            }
            return self.beside(sub.anchor, there, Rule::ZONE_MOVED);
        }
        let due_at = self.rules.schedule.due_at(sub.anchor, first, there, sub.id)?;
        let next_at = if at.next_kind == NextKind::Deferred { at.next_at } else { Some(due_at) };
        let progress = Progress {
            period: first,
            next_at,
            state_until: if waits { next_at } else { at.state_until },
            paid_until: held_over(at, due_at),
            ..*at
        };
        self.note(progress, None, Rule::ZONE_MOVED)
    }

    fn anchor_note(&self, day: Option<Date>, minute: Option<u16>) -> Result<Option<Note>, MoveError> {
        self.collects()?;
        let (sub, at, plan) = (self.sub, &self.sub.progress, self.rules.id.clone());
        let schedule = &self.rules.schedule;
        let elapses = schedule.cadence.elapsed_minutes().is_some();
        let mut moved = sub.anchor;
        if let Some(minute) = minute {
            if elapses || !schedule.times.is_empty() {
                return Err(MoveRefused::NoHour(plan).into());
            }
            if !schedule.window.contains(minute) {
                let clock = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
                let (from, until) =
                    (clock(schedule.window.from_minute()), clock(schedule.window.to_minute()));
                return Err(MoveRefused::Window { plan, from, until }.into());
            }
            moved.minute = minute;
        }
        let mut first = at.period;
        if let Some(day) = day {
            if !has_day(schedule.cadence) {
                return Err(MoveRefused::NoDay(plan).into());
            }
            let sold = if self.untried() {
                Sold::before(self.line(), at.period)?
            } else {
                Sold::through(self.line(), at.period)?
            };
            let line = Line { anchor: moved, ..self.line() };
            let (anchor, next) = move_anchor_unsold(line, sold, day)?;
            let next = next.ok_or(MoveRefused::NoPeriod(plan))?;
            let stands = match self.untried() {
                true => {
                    next == at.period
                        && self.after(anchor, self.zone)? == self.after(sub.anchor, self.zone)?
                }
                false => self.after(sub.anchor, self.zone)? == Some(next),
            };
            if !stands {
                (moved, first) = (Anchor { minute: moved.minute, ..anchor }, next);
            }
        }
        if moved == sub.anchor {
            return Ok(None);
        }
        if !self.untried() {
            if first != at.period && self.after(moved, self.zone)? != Some(first) {
                return Err(MoveRefused::Tried(at.period).into());
            }
            return self.beside(moved, self.zone, Rule::ANCHOR_MOVED).map(Some);
        }
        let next = at_period(self.rules, moved, first, self.zone, sub.id)?;
        let carried = self.carries()?;
        let next = super::Next { price_minor: next.price_minor.saturating_mul(carried), ..next };
        let progress = advance(*at, Some(next), at.state)?;
        let progress = Progress { paid_until: held_over(at, next.due_at), ..progress };
        self.note(progress, Some(moved), Rule::ANCHOR_MOVED).map(Some)
    }

    fn plan_note(&self, plan: &PlanRules) -> Result<Note, MoveError> {
        let (sub, at) = (self.sub, &self.sub.progress);
        if plan.carrier != self.rules.carrier {
            let (plan, carrier) = (plan.id.clone(), plan.carrier.clone());
            return Err(MoveRefused::OtherCarrier { plan, carrier }.into());
        }
        self.same_merchant(plan)?;
        self.collects()?;
        let (currency, own) = (plan.price.currency, self.rules.price.currency);
        if currency != own {
            let (currency, own) = (currency.code().to_owned(), own.code().to_owned());
            return Err(MoveRefused::Currency { plan: plan.id.clone(), currency, own }.into());
        }
        let sold = match (self.line_is_sold()?, self.untried()) {
            (true, _) => Sold::through(self.line(), at.period)?,
            (false, true) => Sold::before(self.line(), at.period)?,
            (false, false) => Sold::without(self.line(), at.period)?,
        };
        let anchor = Anchor { minute: plan.schedule.anchor_minute(sub.id), ..sub.anchor };
        let line = Line { schedule: &plan.schedule, anchor, zone: self.zone };
        let (anchor, first) = open_after(self.line(), line, sold)?;
        let first = first.ok_or_else(|| MoveRefused::NoPeriod(plan.id.clone()))?;
        let next = at_period(plan, anchor, first, self.zone, sub.id)?;
        let progress = advance(*at, Some(next), at.state)?;
        let progress = Progress { paid_until: held_over(at, next.due_at), ..progress };
        if self.untried() {
            return self.note(progress, Some(anchor), Rule::PLAN_MOVED);
        }
        // What was tried under the old plan is closed with it.
        let mut note = note_of(sub, NoteKind::Move, ChargeState::Cancelled, progress, Rule::PLAN_MOVED)?;
        note.anchor = Some(anchor);
        Ok(note)
    }

    /// The period after the row's own from another anchor or in another zone.
    fn after(&self, anchor: Anchor, zone: &Zone) -> Result<Option<Period>, CoreError> {
        Ok(self.rules.schedule.next_period(anchor, self.sub.progress.period, zone)?)
    }

    /// The charge under way stays as it is; what follows it moves.
    fn beside(&self, anchor: Anchor, zone: &Zone, rule: Rule) -> Result<Note, MoveError> {
        let (sub, at) = (self.sub, &self.sub.progress);
        let mut progress = *at;
        let next = if at.state.collects() { self.after(anchor, zone)? } else { None };
        let begins = next.map(|next| self.rules.schedule.due_at(anchor, next, zone, sub.id)).transpose()?;
        // The next period is never held up, and where only that fires it fires by the new clock.
        if let (Some(begins), Some(next_at)) = (begins, at.next_at)
            && (at.next_kind == NextKind::PeriodStart || begins < next_at)
        {
            (progress.next_at, progress.next_kind) = (Some(begins), NextKind::PeriodStart);
        }
        self.note(progress, (anchor != sub.anchor).then_some(anchor), rule)
    }

    /// A note on the charge that the row is at afterwards.
    fn note(&self, progress: Progress, anchor: Option<Anchor>, rule: Rule) -> Result<Note, MoveError> {
        let mut note = note_of(self.sub, NoteKind::Move, ChargeState::Open, progress, rule)?;
        note.charge = ChargeId { subscription: self.sub.id, period: progress.period };
        note.anchor = anchor;
        Ok(note)
    }
}

/// What is paid up to the next charge stays so when that moves to a later instant: no hole in access.
fn held_over(at: &Progress, due_at: Timestamp) -> Option<Timestamp> {
    let up_to_next = at.next_at.is_some() && at.paid_until >= at.next_at;
    if up_to_next { at.paid_until.max(Some(due_at)) } else { at.paid_until }
}

fn has_day(cadence: Cadence) -> bool {
    match cadence {
        Cadence::Months(_) | Cadence::Years(_) => true,
        Cadence::Days(every) => every > 1,
        Cadence::Weeks { on, .. } => on.is_empty(),
        _ => false,
    }
}
