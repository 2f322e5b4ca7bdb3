//! Trials, parking, pauses and top-ups: what begins, rests and goes on without a charge.

use jiff::Timestamp;

use super::missed::latest_due;
use super::{Conditions, Next, Note, NoteKind, Passed, Scene, Triage, advance, note_of};
use crate::period::{Period, days_since_2000};
use crate::plan::PlanRules;
use crate::reason::{Input, Rule};
use crate::schedule::Wait;
use crate::states::{ChargeState, SubscriptionState, step};
use crate::subscription::{CoreError, FLAG_QUARANTINED, NextKind, OpenAttempt, Progress, Subscription};
use crate::zone::Zone;

/// A subscription as it is signed up: a trial or a parking lasts until its first charge falls due, at `due_at`.
#[must_use]
pub fn signed_up(rules: &PlanRules, period: Period, due_minor: i64, due_at: Timestamp) -> Progress {
    let state = match rules.schedule.wait {
        Wait::None | Wait::Trial(0) | Wait::Parked(0) => {
            return Progress::fresh(SubscriptionState::Pending, period, due_minor, Some(due_at));
        }
        Wait::Trial(_) => SubscriptionState::Trial,
        Wait::Parked(_) => SubscriptionState::Parked,
    };
    let fresh = Progress::fresh(state, period, due_minor, Some(due_at));
    Progress { state_until: Some(due_at), next_kind: NextKind::StateEnd, ..fresh }
}

/// A trial or a parking is over and the first charge falls due; a pause is over and collecting goes on.
pub(super) fn state_ends(scene: &Scene<'_>) -> Result<Triage, CoreError> {
    let at = &scene.sub.progress;
    let rule = match at.state {
        SubscriptionState::Paused => {
            let resumed = resumed(scene, Rule::RESUMED, NoteKind::State)?;
            return Ok(
                resumed.map_or(Triage::Rest { rule: Rule::OPEN_BLOCKS }, |note| Triage::Note(Box::new(note)))
            );
        }
        SubscriptionState::Trial => Rule::TRIAL_END,
        SubscriptionState::Parked => Rule::PARKED_END,
        _ => return Ok(Triage::Rest { rule: Rule::NOT_COLLECTING }),
    };
    // Its first period was fixed when it was signed up: the calendar may have moved that period's charge past its date,
    // so it must not be counted anew from today.
    let Scene { sub, rules, zone, .. } = *scene;
    let period = at.period;
    let due_at = rules.schedule.due_at(sub.anchor, period, zone, sub.id)?;
    let trial_until = at.state_until.filter(|_| at.state == SubscriptionState::Trial);
    let progress = Progress {
        state: step(at.state, SubscriptionState::Active)?,
        period,
        paid_until: at.paid_until.max(trial_until),
        state_until: None,
        next_at: Some(due_at),
        next_kind: NextKind::Due,
        ..*at
    };
    Ok(Triage::Note(Box::new(note_of(sub, NoteKind::State, ChargeState::Open, progress, rule)?)))
}

/// Pauses an active subscription until an instant, or until it is resumed. `None` when it is not active, or an attempt
/// or a reservation is open: ask again when that is known.
///
/// # Errors
/// [`CoreError`] when the row cannot be decided.
pub fn pause(sub: &Subscription, until: Option<Timestamp>) -> Result<Option<Note>, CoreError> {
    let at = &sub.progress;
    let busy = at.open != OpenAttempt::None || at.reserved.is_some();
    if at.state != SubscriptionState::Active || busy || sub.stop_at.is_some() {
        return Ok(None);
    }
    let progress = Progress {
        state: step(at.state, SubscriptionState::Paused)?,
        state_until: until,
        next_at: until,
        next_kind: if until.is_some() { NextKind::StateEnd } else { NextKind::Never },
        ..at.at_rest()
    };
    let mut note = note_of(sub, NoteKind::State, ChargeState::Open, progress, Rule::PAUSED)?;
    note.until = until;
    Ok(Some(note))
}

/// Resumes a paused or suspended subscription. Periods that passed meanwhile are not charged: charging goes on with
/// the one that runs now. `None` when there is nothing to resume, or an attempt is open.
///
/// # Errors
/// [`CoreError`] when the row cannot be decided.
pub fn resume(
    sub: &Subscription,
    rules: &PlanRules,
    zone: &Zone,
    now: Timestamp,
) -> Result<Option<Note>, CoreError> {
    let conditions = Conditions::default();
    let scene = Scene { sub, rules, zone, now, conditions: &conditions };
    resumed(&scene, Rule::RESUMED, NoteKind::State)
}

/// Consent ended at `ended_at`: collecting rests until it is renewed. A charge that was tried is given up, one that was
/// not stays for who renews in time. `None` while nothing fires, while an attempt is open, or when nothing is collected.
///
/// # Errors
/// [`CoreError`] when the row cannot be decided.
pub fn consent_ended(
    sub: &Subscription,
    ended_at: Timestamp,
    now: Timestamp,
) -> Result<Option<Note>, CoreError> {
    let at = &sub.progress;
    let fires = at.next_at.is_some_and(|next| next <= now);
    let rests = !at.state.collects() || at.open != OpenAttempt::None || sub.stop_at.is_some();
    if !fires || rests || sub.flags & FLAG_QUARANTINED != 0 {
        return Ok(None);
    }
    let mut progress = Progress { state: step(at.state, SubscriptionState::Suspended)?, ..at.at_rest() };
    let charge_state = match (at.reserved, at.attempt_no) {
        (Some(_), _) => {
            // What is set aside is given back at once.
            (progress.next_at, progress.next_kind) = (Some(now), NextKind::Reserved);
            ChargeState::Reserved
        }
        (None, 0) => ChargeState::Open,
        (None, _) => ChargeState::WrittenOff,
    };
    let mut note = note_of(sub, NoteKind::State, charge_state, progress, Rule::CONSENT_ENDED)?;
    note.inputs = note.inputs.with_at(Input::StopMs, Some(ended_at));
    Ok(Some(note))
}

fn resumed(scene: &Scene<'_>, rule: Rule, kind: NoteKind) -> Result<Option<Note>, CoreError> {
    let Scene { sub, now, .. } = *scene;
    let at = &sub.progress;
    let was_paused = at.state == SubscriptionState::Paused;
    let rests = was_paused || at.state == SubscriptionState::Suspended;
    if !rests || at.open != OpenAttempt::None || sub.stop_at.is_some() || sub.flags & FLAG_QUARANTINED != 0 {
        return Ok(None);
    }
    let state = step(at.state, SubscriptionState::Active)?;
    let active = Progress { state, state_until: None, ..*at };
    let first = scene.next()?;
    let running = match first.filter(|first| first.due_at <= now) {
        Some(first) => Some(latest_due(scene, first)?),
        None => None,
    };
    let untried = at.attempt_no == 0;
    // Consent that ended before anything was tried gave nothing up.
    let kept = was_paused || untried;
    let (progress, charge_state) = match (kept, running) {
        // The charge of a suspended subscription was given up with it: it is never made again.
        (false, running) => (advance(active, running.or(first), state)?, ChargeState::WrittenOff),
        (true, Some(running)) => {
            let charge_state = if untried { ChargeState::Skipped } else { ChargeState::Expired };
            (advance(active, Some(running), state)?, charge_state)
        }
        (true, None) => {
            let next_at = if untried { scene.due_at(at.period)? } else { scene.opens(now)? };
            let next_kind = if untried { NextKind::Due } else { NextKind::Retry };
            (Progress { next_at: Some(next_at), next_kind, ..active }, ChargeState::Open)
        }
    };
    let charge_before = if kept { charge_state } else { ChargeState::Open };
    let mut note = note_of(sub, kind, charge_before, progress, rule)?;
    note.charge_state = charge_state;
    note.passed.extend(passed(first, running));
    Ok(Some(note))
}

fn passed(first: Option<Next>, running: Option<Next>) -> Option<Passed> {
    let (first, running) = (first?.period, running?.period);
    let charge_state = ChargeState::Skipped;
    (first < running).then_some(Passed { first, before: Some(running), charge_state })
}

/// A top-up was announced at `notice_at`: an overdue charge is due at once, inside its window and its day's budget, and
/// a suspended subscription goes on where the plan says so. Once per notice: one that is not later than the last one
/// that counted changes nothing. `None` when nothing changes.
///
/// # Errors
/// [`CoreError`] when the row cannot be decided.
pub fn top_up(
    sub: &Subscription,
    rules: &PlanRules,
    zone: &Zone,
    now: Timestamp,
    notice_at: Timestamp,
) -> Result<Option<Note>, CoreError> {
    let conditions = Conditions::default();
    let scene = Scene { sub, rules, zone, now, conditions: &conditions };
    let at = &sub.progress;
    // A notice from the future would silence all that follow.
    let notice_at = notice_at.min(now);
    let seen = at.notice_at.is_some_and(|last| notice_at <= last);
    if seen || sub.stop_at.is_some() || sub.flags & FLAG_QUARANTINED != 0 {
        return Ok(None);
    }
    let mut note = if at.state == SubscriptionState::Suspended && rules.lifecycle.top_up_resumes {
        let Some(note) = resumed(&scene, Rule::TOP_UP_RESUME, NoteKind::TopUp)? else { return Ok(None) };
        note
    } else {
        let Some(note) = snapped(&scene)? else { return Ok(None) };
        note
    };
    note.progress.notice_at = Some(notice_at);
    note.inputs = note.inputs.with_at(Input::NoticeMs, Some(notice_at));
    note.inputs = note.inputs.with_at(Input::ChosenMs, note.progress.next_at);
    Ok(Some(note))
}

fn snapped(scene: &Scene<'_>) -> Result<Option<Note>, CoreError> {
    let Scene { sub, rules, zone, now, .. } = *scene;
    let at = &sub.progress;
    let overdue = matches!(at.next_kind, NextKind::Retry | NextKind::Deferred)
        && at.next_at.is_some_and(|next| next > now);
    let idle = at.open == OpenAttempt::None && at.reserved.is_none();
    if !rules.lifecycle.snap || !at.state.collects() || !overdue || !idle {
        return Ok(None);
    }
    let budget = &rules.dunning.budget;
    let today = days_since_2000(zone.local(now).0);
    if i32::from(at.try_day) == today && !budget.allows_today(at.day_tries) {
        return Ok(None);
    }
    let opens = scene.opens(now)?;
    if at.next_at.is_some_and(|next| next <= opens) {
        return Ok(None);
    }
    // There is money now: the full price first.
    let progress =
        Progress { step: 0, retry_at: Some(opens), next_at: Some(opens), next_kind: NextKind::Retry, ..*at };
    note_of(sub, NoteKind::TopUp, ChargeState::Open, progress, Rule::TOP_UP_SNAP).map(Some)
}
