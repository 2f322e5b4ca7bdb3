//! Periods that passed: the next one began before this one's charge was tried, or beside its open attempt.

use jiff::Timestamp;

use super::{Next, NoteKind, Passed, Scene, Triage, advance, note_of};
use crate::decide::arrears_of;
use crate::entitlement::later;
use crate::ids::ChargeId;
use crate::period::Period;
use crate::plan::{Missed, PlanRules};
use crate::reason::{Input, Rule};
use crate::schedule::price_of;
use crate::states::ChargeState;
use crate::subscription::{Aside, CoreError, Held, NextKind, Progress, Subscription};
use crate::zone::Zone;

pub(super) fn charge_of(sub: &Subscription) -> ChargeId {
    ChargeId { subscription: sub.id, period: sub.progress.period }
}

/// Missed periods that are part of a later one's charge, which was not tried yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Merged {
    /// How many.
    pub count: u16,
    /// What they cost, each at its own price, minor units.
    pub minor: i64,
}

impl Merged {
    fn with(self, price_minor: i64) -> Result<Self, CoreError> {
        let Self { count, minor } = self;
        let sum = minor.checked_add(price_minor).zip(count.checked_add(1));
        sum.map(|(minor, count)| Self { count, minor })
            .ok_or_else(|| CoreError::Inconsistent(format!("{count} merged periods of {minor} overflow")))
    }
}

/// The rules under which periods are merged, and skipped because no more may be merged.
pub const MERGE_RULES: [Rule; 3] = [Rule::MISSED_MERGE, Rule::PERIOD_EXPIRE, Rule::PERIOD_ROLL];

/// What missed periods are part of the charge of the row's own period: read from what was recorded when they were
/// missed, because an amount does not say what it is made of. `noted` are the periods before the row's own that were
/// merged, or skipped under [`MERGE_RULES`], the latest first; a single one has no `before`. Not more than the plan
/// allows, the oldest first.
///
/// # Errors
/// [`CoreError`] at the ends of the calendar and when the sum overflows.
pub fn merged_into(
    sub: &Subscription,
    rules: &PlanRules,
    zone: &Zone,
    noted: &[Passed],
) -> Result<Merged, CoreError> {
    let Missed::Merge { periods_max } = rules.missed else { return Ok(Merged::default()) };
    let most = usize::from(periods_max);
    let mut reached = sub.progress.period;
    let mut periods: Vec<Period> = Vec::new();
    for passed in noted {
        let next = rules.schedule.next_period(sub.anchor, passed.first, zone)?;
        if passed.before.or(next) != Some(reached) {
            break;
        }
        let mut range = Vec::new();
        let mut at = Some(passed.first).filter(|_| passed.charge_state == ChargeState::Merged);
        while let Some(period) = at.filter(|period| *period < reached && range.len() < most) {
            range.push(period);
            at = rules.schedule.next_period(sub.anchor, period, zone)?;
        }
        periods.extend(range.into_iter().rev());
        reached = passed.first;
    }
    periods
        .into_iter()
        .rev()
        .take(most)
        .try_fold(Merged::default(), |sum, period| sum.with(price_of(rules, sub.anchor, period, zone)?.minor))
}

/// What became of the periods between the row's own and the one that charging goes on with.
struct CatchUp {
    progress: Progress,
    passed: Vec<Passed>,
    arrears: Vec<Aside>,
    merged: Merged,
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
        // It may hold as many as the plan allows already.
        (true, Missed::Merge { periods_max }) if scene.conditions.merged.count >= periods_max => {
            (ChargeState::Skipped, Rule::MISSED_MERGE)
        }
        (true, Missed::Merge { .. }) => (ChargeState::Merged, Rule::MISSED_MERGE),
        (true, Missed::CollectLate) if aside.is_some() => (ChargeState::Arrears, Rule::MISSED_LATE),
        (true, Missed::CollectLate) => (ChargeState::Skipped, Rule::MISSED_LATE),
    };
    let mut note = note_of(sub, kind, charge_state, caught.progress, rule)?;
    note.aside = aside;
    let missed = i64::from(caught.merged.count);
    note.inputs = note.inputs.with(Input::Missed, missed).with_at(Input::NextDueMs, Some(next.due_at));
    (note.passed, note.arrears, note.merged) = (caught.passed, caught.arrears, caught.merged);
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
    (note.passed, note.arrears, note.merged) = (caught.passed, caught.arrears, caught.merged);
    Ok(Triage::Note(Box::new(note)))
}

/// The row at the period that charging goes on with, when `first`, the one after the row's own, is due already.
fn catch_up(scene: &Scene<'_>, first: Next, untried: bool, held: Held) -> Result<CatchUp, CoreError> {
    let Scene { sub, rules, .. } = *scene;
    let at = &sub.progress;
    let running = latest_due(scene, first)?;
    let between = running.period > first.period;
    let mut caught =
        CatchUp { progress: *at, passed: Vec::new(), arrears: Vec::new(), merged: Merged::default() };
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

/// The prices of the missed periods on top of the running one's, the oldest first, as many as the plan allows.
fn merge(
    scene: &Scene<'_>,
    first: Next,
    running: Next,
    (untried, periods_max): (bool, u16),
    caught: &mut CatchUp,
) -> Result<(), CoreError> {
    let Scene { sub, rules, zone, .. } = *scene;
    // The row's own charge may be a merged one already.
    let mut merged = if untried { scene.conditions.merged } else { Merged::default() };
    let price = |period: Period| Ok::<i64, CoreError>(price_of(rules, sub.anchor, period, zone)?.minor);
    if untried && merged.count < periods_max {
        merged = merged.with(price(sub.progress.period)?)?;
    }
    let mut at = Some(first.period).filter(|period| *period < running.period);
    while let Some(period) = at.filter(|_| merged.count < periods_max) {
        merged = merged.with(price(period)?)?;
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
    caught.merged = merged;
    caught.progress.due_minor = running.price_minor.checked_add(merged.minor).ok_or_else(|| {
        CoreError::Inconsistent(format!("{} merged periods of {} overflow", merged.count, merged.minor))
    })?;
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
