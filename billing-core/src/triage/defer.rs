//! Better moments: a charge is moved without using an attempt, as often as the plan allows.

use jiff::Timestamp;
use jiff::civil::Date;

use super::{Next, NoteKind, Scene, Triage, advance, note, note_of};
use crate::decide::arrears_of;
use crate::entitlement::later;
use crate::period::days_since_2000;
use crate::plan::{BalanceWhen, Choice, Payday};
use crate::reason::{Input, Rule};
use crate::states::ChargeState;
use crate::subscription::{Aside, CoreError, NextKind, Progress};
use crate::triage::conditions::BalanceAnswer;
use crate::triage::missed::charge_of;
use crate::zone::ZoneError;

/// What is to be sent after the balance was looked at, or what is done instead.
pub(super) enum Advice {
    Send { amount_minor: i64, step: i16, rule: Rule },
    Other(Triage),
}

/// Moved to `until`; expired when the next period begins before that.
pub(super) fn to(scene: &Scene<'_>, until: Timestamp, rule: Rule) -> Result<Triage, CoreError> {
    let (sub, at) = (scene.sub, &scene.sub.progress);
    let next = scene.next()?;
    if next.is_some_and(|next| next.due_at <= until) {
        return expire_before(scene, next, Rule::PERIOD_EXPIRE);
    }
    let progress = Progress {
        deferrals: at.deferrals.saturating_add(1),
        retry_at: Some(until),
        next_at: Some(until),
        next_kind: NextKind::Deferred,
        ..*at
    };
    let mut deferred = note_of(sub, NoteKind::Defer, ChargeState::Open, progress, rule)?;
    deferred.until = Some(until);
    deferred.inputs = deferred.inputs.with_at(Input::ChosenMs, Some(until));
    deferred.inputs = deferred.inputs.with(Input::Deferrals, i64::from(at.deferrals));
    Ok(Triage::Note(Box::new(deferred)))
}

/// The charge's time is over, and the next period comes.
pub(super) fn expire(scene: &Scene<'_>, rule: Rule) -> Result<Triage, CoreError> {
    expire_before(scene, scene.next()?, rule)
}

fn expire_before(scene: &Scene<'_>, next: Option<Next>, rule: Rule) -> Result<Triage, CoreError> {
    let (sub, rules, at) = (scene.sub, scene.rules, &scene.sub.progress);
    let owed = Aside::of(charge_of(sub), at, ChargeState::Arrears);
    let aside = arrears_of(sub, rules, scene.zone, owed, scene.conditions.held, scene.now)?;
    let charge_state = if aside.is_some() { ChargeState::Arrears } else { ChargeState::Expired };
    let progress = advance(*at, next, at.state)?;
    let mut expired = note_of(sub, NoteKind::Expire, charge_state, progress, rule)?;
    expired.aside = aside;
    Ok(Triage::Note(Box::new(expired)))
}

/// Whether it may still be moved for a reason that is not the window.
fn may_defer(scene: &Scene<'_>) -> bool {
    let max = scene.rules.defer.max;
    max == 0 || scene.sub.progress.deferrals < max
}

/// What the carrier's state, the day's budget, a cap or a payday ask for; `None`: go on.
pub(super) fn by_conditions(scene: &Scene<'_>) -> Result<Option<Triage>, CoreError> {
    let Scene { sub, rules, zone, now, conditions } = *scene;
    let at = &sub.progress;
    // These cannot be passed over: what may not be moved any more expires.
    let known =
        |until: Option<Timestamp>, rule| until.filter(|until| *until > now).map(|until| (until, rule));
    let mut wait = known(conditions.breaker_until, Rule::BREAKER_DEFER)
        .or_else(|| known(conditions.quota_until, Rule::QUOTA_DEFER));
    let budget = &rules.dunning.budget;
    if wait.is_none() && budget.day_max > 0 {
        let (today, _) = zone.local(now);
        if i32::from(at.try_day) == days_since_2000(today) && !budget.allows_today(at.day_tries) {
            wait = Some((zone.instant(tomorrow(today)?, 0)?.max(later(now, 1)), Rule::DAY_DEFER));
        }
    }
    if wait.is_none()
        && let Some(left) = conditions.cap_left_minor
        && left < rules.step_amount(at.step, at.due_minor - at.collected_minor).unwrap_or(i64::MAX)
    {
        let (today, _) = zone.local(now);
        let until = match conditions.cap_until.filter(|until| *until > now) {
            Some(until) => until,
            None => zone.instant(tomorrow(today)?, 0)?.max(later(now, 1)),
        };
        wait = Some((until, Rule::CAP_DEFER));
    }
    if let Some((until, rule)) = wait {
        if !may_defer(scene) {
            return expire(scene, Rule::DEFERRALS_EXHAUSTED).map(Some);
        }
        return to(scene, scene.opens(until)?, rule).map(Some);
    }
    // A wish: where it cannot be granted the charge goes on.
    let wished = rules.defer.payday.filter(|_| at.round > 0 && may_defer(scene));
    let Some(payday) = wished else { return Ok(None) };
    let Some(day) = next_payday(payday, zone.local(now).0)? else { return Ok(None) };
    let until = scene.opens(zone.instant(day, 0)?)?;
    let before_next = scene.next()?.is_none_or(|next| until < next.due_at);
    if until > now && before_next {
        return to(scene, until, Rule::PAYDAY_DEFER).map(Some);
    }
    Ok(None)
}

fn tomorrow(day: Date) -> Result<Date, CoreError> {
    Ok(day.tomorrow().map_err(|_| ZoneError::OutOfRange { date: day, minute: 0 })?)
}

/// The next payday within the plan's reach; `None` when today is one, or none is near.
fn next_payday(payday: Payday, today: Date) -> Result<Option<Date>, CoreError> {
    let mut day = today;
    for ahead in 0..=payday.within_days.min(31) {
        if payday.is(day.day(), day.days_in_month()) {
            return Ok((ahead > 0).then_some(day));
        }
        day = tomorrow(day)?;
    }
    Ok(None)
}

/// The balance is advice: it chooses the step, asks to wait, or says nothing. It is never evidence.
pub(super) fn by_balance(scene: &Scene<'_>, amount_minor: i64, rule: Rule) -> Result<Advice, CoreError> {
    let (rules, at) = (scene.rules, &scene.sub.progress);
    let plain = Advice::Send { amount_minor, step: at.step, rule };
    let refused_before = at.round > 0 || at.step > 0;
    let Some(check) = rules.balance.filter(|check| check.when == BalanceWhen::Always || refused_before)
    else {
        return Ok(plain);
    };
    let fresh = scene.conditions.balance.filter(|balance| (0..check.valid_ms).contains(&balance.age_ms));
    let covered = match fresh.map(|balance| balance.answer) {
        None => return Ok(Advice::Other(Triage::Probe { amount_minor, rule: Rule::BALANCE_PROBE })),
        Some(BalanceAnswer::Unavailable) => return Ok(plain),
        Some(BalanceAnswer::Covers { yes: true, asked_minor }) if asked_minor >= amount_minor => {
            return Ok(plain);
        }
        // Between a smaller amount that it covers and the one that is wanted, nothing is known: ask.
        Some(BalanceAnswer::Covers { yes: true, asked_minor }) => asked_minor,
        Some(BalanceAnswer::Covers { yes: false, asked_minor }) => asked_minor.saturating_sub(1),
        Some(BalanceAnswer::Amount(balance)) => balance,
    };
    if covered >= amount_minor {
        return Ok(plain);
    }
    let ladder = rules.ladder.as_ref();
    if ladder.is_some_and(|ladder| ladder.native && covered >= rules.part_min()) {
        return Ok(plain);
    }
    let steps = ladder.map_or(&[][..], |ladder| &ladder.steps_minor);
    let least = rules.part_min();
    let fits = |amount: i64| amount <= covered && amount < amount_minor && amount >= least;
    let found = steps.iter().enumerate().find(|(_, amount)| fits(**amount));
    let guided = ladder.is_some_and(|ladder| ladder.choice == Choice::Balance);
    if found.is_some() && !guided {
        // One step after the other: the balance only says that one of them will do.
        return Ok(plain);
    }
    if let Some((index, amount)) = found
        && let Ok(step) = i16::try_from(index + 1)
    {
        return Ok(Advice::Send { amount_minor: *amount, step, rule: Rule::BALANCE_SEND });
    }
    if !may_defer(scene) {
        return Ok(plain);
    }
    let until = scene.opens(later(scene.now, check.recheck_s))?;
    let mut deferred = to(scene, until, Rule::BALANCE_DEFER)?;
    if let Triage::Note(note) = &mut deferred {
        note.inputs = note.inputs.with(Input::BalanceMinor, covered);
    }
    Ok(Advice::Other(deferred))
}

/// The reservation's or charge's note without anything else.
pub(super) fn plain_note(
    scene: &Scene<'_>,
    kind: NoteKind,
    charge_state: ChargeState,
    progress: Progress,
    rule: Rule,
) -> Result<Triage, CoreError> {
    note(scene.sub, kind, charge_state, progress, rule)
}
