//! Periods that passed: the next one began before this one's charge was tried, or beside its open attempt.

use jiff::Timestamp;

use super::{Next, NoteKind, Passed, Scene, Triage, advance, note_of};
use crate::decide::arrears_of;
use crate::entitlement::later;
use crate::ids::ChargeId;
use crate::period::Period;
use crate::plan::Missed;
use crate::reason::{Input, Rule};
use crate::schedule::price_of;
use crate::states::ChargeState;
use crate::subscription::{Aside, CoreError, Held, NextKind, Progress, Subscription};

pub(super) fn charge_of(sub: &Subscription) -> ChargeId {
    ChargeId { subscription: sub.id, period: sub.progress.period }
}

/// What became of the periods between the row's own and the one that charging goes on with.
struct CatchUp {
    progress: Progress,
    passed: Vec<Passed>,
    arrears: Vec<Aside>,
    merged: i64,
}

/// The next period is due and nothing is open: the row's charge was never tried, or its time is over.
pub(super) fn missed(scene: &Scene<'_>, next: Next, kind: NoteKind) -> Result<Triage, CoreError> {
    let (sub, rules) = (scene.sub, scene.rules);
    let untried = kind == NoteKind::Skip;
    let own = Aside::of(charge_of(sub), &sub.progress, ChargeState::Arrears);
    let late = !untried || rules.missed == Missed::CollectLate;
    let held = scene.conditions.held;
    let aside = if late { arrears_of(sub, rules, scene.zone, own, held, scene.now)? } else { None };
    let caught = catch_up(scene, next, untried, with(held, aside.as_slice()))?;
    let (charge_state, rule) = match (untried, rules.missed) {
        _ if aside.is_some() && !untried => (ChargeState::Arrears, Rule::PERIOD_EXPIRE),
        (false, _) => (ChargeState::Expired, Rule::PERIOD_EXPIRE),
        (true, Missed::OnceLate) => (ChargeState::Skipped, Rule::MISSED_ONCE_LATE),
        (true, Missed::Skip) => (ChargeState::Skipped, Rule::MISSED_SKIP),
        (true, Missed::Merge { .. }) => (ChargeState::Merged, Rule::MISSED_MERGE),
        (true, Missed::CollectLate) if aside.is_some() => (ChargeState::Arrears, Rule::MISSED_LATE),
        (true, Missed::CollectLate) => (ChargeState::Skipped, Rule::MISSED_LATE),
    };
    let mut note = note_of(sub, kind, charge_state, caught.progress, rule)?;
    note.aside = aside;
    note.inputs = note.inputs.with(Input::Missed, caught.merged).with_at(Input::NextDueMs, Some(next.due_at));
    (note.passed, note.arrears) = (caught.passed, caught.arrears);
    Ok(Triage::Note(Box::new(note)))
}

/// The next period is due and the last attempt is open: the charge gets a row of its own and stays blocked there.
pub(super) fn roll(scene: &Scene<'_>, next: Next) -> Result<Triage, CoreError> {
    let sub = scene.sub;
    let caught = catch_up(scene, next, false, scene.conditions.held)?;
    let state = ChargeState::Waiting;
    let mut note = note_of(sub, NoteKind::Roll, state, caught.progress, Rule::PERIOD_ROLL)?;
    let mut aside = Aside::of(charge_of(sub), &sub.progress, state);
    if let Some(deadline) = sub.progress.answer_due() {
        (aside.next_at, aside.next_kind) = (Some(deadline), NextKind::Deadline);
    }
    note.aside = Some(aside);
    (note.passed, note.arrears) = (caught.passed, caught.arrears);
    Ok(Triage::Note(Box::new(note)))
}

/// The row at the period that charging goes on with, when `first`, the one after the row's own, is due already.
fn catch_up(scene: &Scene<'_>, first: Next, untried: bool, held: Held) -> Result<CatchUp, CoreError> {
    let Scene { sub, rules, .. } = *scene;
    let at = &sub.progress;
    let running = latest_due(scene, first)?;
    let between = running.period > first.period;
    let mut caught = CatchUp { progress: *at, passed: Vec::new(), arrears: Vec::new(), merged: 0 };
    let target = match rules.missed {
        // The one that runs now is missed too.
        Missed::Skip if untried || between => {
            super::next_after(rules, sub.anchor, running.period, scene.zone, sub.id)?
        }
        _ => Some(running),
    };
    let skipped = |first: Period, before: Option<Period>| {
        let some = before.is_none_or(|before| first < before);
        some.then_some(Passed { first, before, charge_state: ChargeState::Skipped })
    };
    caught.progress = advance(*at, target, at.state)?;
    match rules.missed {
        Missed::OnceLate | Missed::Skip => {
            caught.passed.extend(skipped(first.period, target.map(|target| target.period)));
        }
        Missed::Merge { periods_max } => merge(scene, first, running, (untried, periods_max), &mut caught)?,
        Missed::CollectLate => collect_late(scene, first, running, held, &mut caught)?,
    }
    Ok(caught)
}

/// The price of the missed periods on top of the running one's, the oldest first, as many as the plan allows.
fn merge(
    scene: &Scene<'_>,
    first: Next,
    running: Next,
    (untried, periods_max): (bool, u16),
    caught: &mut CatchUp,
) -> Result<(), CoreError> {
    let Scene { sub, rules, zone, .. } = *scene;
    let price = rules.price.minor.max(1);
    let most = i64::from(periods_max);
    // The row's own charge may be a merged one already.
    let own = if untried { (sub.progress.due_minor / price).clamp(1, most.max(1)) } else { 0 };
    let mut count = own.min(most);
    let mut at = Some(first.period).filter(|period| *period < running.period);
    while let Some(period) = at.filter(|_| count < most) {
        count += 1;
        at = rules.schedule.next_period(sub.anchor, period, zone)?.filter(|next| *next < running.period);
    }
    let until = at.unwrap_or(running.period);
    if first.period < until {
        let charge_state = ChargeState::Merged;
        caught.passed.push(Passed { first: first.period, before: Some(until), charge_state });
    }
    if let Some(first) = at {
        let charge_state = ChargeState::Skipped;
        caught.passed.push(Passed { first, before: Some(running.period), charge_state });
    }
    caught.merged = count;
    caught.progress.due_minor = price
        .checked_mul(count.saturating_add(1))
        .ok_or_else(|| CoreError::Inconsistent(format!("{count} merged periods of {price} overflow")))?;
    Ok(())
}

/// The missed periods that are young enough become arrears, the oldest first, as many as the plan allows.
fn collect_late(
    scene: &Scene<'_>,
    first: Next,
    running: Next,
    mut held: Held,
    caught: &mut CatchUp,
) -> Result<(), CoreError> {
    let Scene { sub, rules, zone, now, .. } = *scene;
    let Some(arrears) = &rules.arrears else { return Ok(()) };
    let oldest = later(now, -arrears.age_max_s);
    let seek = rules.schedule.first_period(sub.anchor, zone.local(oldest).0, zone)?;
    let begin = seek.map_or(first.period, |seek| seek.max(first.period)).min(running.period);
    let skipped = |first: Period, before: Period, passed: &mut Vec<Passed>| {
        if first < before {
            passed.push(Passed { first, before: Some(before), charge_state: ChargeState::Skipped });
        }
    };
    skipped(first.period, begin, &mut caught.passed);
    let mut at = Some(begin).filter(|period| *period < running.period);
    while let Some(period) = at {
        let fresh = Progress::fresh(
            sub.progress.state,
            period,
            price_of(rules, sub.anchor, period, zone)?.minor,
            None,
        );
        let charge = ChargeId { subscription: sub.id, period };
        let aside = Aside::of(charge, &fresh, ChargeState::Arrears);
        match arrears_of(sub, rules, zone, aside, held, now)? {
            Some(aside) => {
                held = with(held, &[aside]);
                caught.arrears.push(aside);
            }
            // The first ones may be too old by hours.
            None if caught.arrears.is_empty()
                && held.count < arrears.count_max
                && aged(scene, period, oldest)? =>
            {
                let until = rules.schedule.next_period(sub.anchor, period, zone)?.unwrap_or(running.period);
                skipped(period, until.min(running.period), &mut caught.passed);
            }
            None => {
                skipped(period, running.period, &mut caught.passed);
                break;
            }
        }
        at = rules.schedule.next_period(sub.anchor, period, zone)?.filter(|next| *next < running.period);
    }
    Ok(())
}

fn aged(scene: &Scene<'_>, period: Period, oldest: Timestamp) -> Result<bool, CoreError> {
    Ok(scene.due_at(period)? <= oldest)
}

fn with(held: Held, more: &[Aside]) -> Held {
    more.iter().fold(held, |held, aside| Held {
        count: held.count.saturating_add(1),
        owed_minor: held.owed_minor.saturating_add(aside.due_minor.saturating_sub(aside.collected_minor)),
    })
}

/// The latest period from `first` on that has fallen due by now; `first` itself has.
pub(super) fn latest_due(scene: &Scene<'_>, first: Next) -> Result<Next, CoreError> {
    let Scene { sub, rules, zone, now, .. } = *scene;
    let latest = rules.schedule.latest_due(sub.anchor, first.period, zone, sub.id, now)?;
    latest.map_or(Ok(first), |period| super::at_period(rules, sub.anchor, period, zone, sub.id))
}
