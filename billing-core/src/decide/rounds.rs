//! When the next round comes: intervals, derived jitter, local hours and weekdays, and what is owed after the last.

use jiff::Timestamp;

use super::Facts;
use crate::entitlement::later;
use crate::ids::{ChargeId, RefSeed};
use crate::period::{Period, days_since_2000};
use crate::plan::{PlanRules, Rounds};
use crate::schedule::{ScheduleError, Weekdays};
use crate::states::ChargeState;
use crate::subscription::{Aside, CoreError, Held, NextKind, OpenAttempt, Progress, Subscription};
use crate::triage::Next;
use crate::zone::Zone;

/// When the next round is due, if there is one before the next period falls due and the budget allows it.
pub(super) fn next_round(
    facts: &Facts<'_>,
    rounds: &Rounds,
    next: Option<Next>,
) -> Result<Option<Timestamp>, CoreError> {
    let (sub, attempt) = (facts.sub, facts.attempt);
    let Some(delay_s) = jittered(rounds, attempt.round, sub.ref_seed, attempt.period) else {
        return Ok(None);
    };
    let Some(retry_at) = fitting(rounds, facts.rules, facts.zone, later(facts.now, delay_s))? else {
        return Ok(None);
    };
    Ok(next.is_none_or(|next| retry_at < next.due_at).then_some(retry_at))
}

/// Seconds to the round after `round`, lengthened by the charge's own share of the jitter: the same charge always gets
/// the same instant, neighbours get others.
fn jittered(rounds: &Rounds, round: i16, seed: RefSeed, period: Period) -> Option<i64> {
    let delay_s = rounds.delay_s(round)?;
    if rounds.jitter_permille == 0 {
        return Some(delay_s);
    }
    let key = (seed.0 as u64) ^ ((period.number() as u64) << 32) ^ (round as u64);
    let hash = mixed(key) >> 40;
    let most = i128::from(delay_s) * i128::from(rounds.jitter_permille) / 1_000;
    let extra = most * i128::from(hash) / i128::from(1_u64 << 24);
    Some(delay_s.saturating_add(i64::try_from(extra).unwrap_or(0)))
}

/// The finalizer of SplitMix64: every bit of the key changes half of the result's.
fn mixed(key: u64) -> u64 {
    let a = (key ^ key >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let b = (a ^ a >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    b ^ b >> 31
}

/// How many closed days are looked over for an hour that fits.
const LOOKS_MAX: usize = 16;

/// The first instant at or after `at` that the charging window and the round's own hours and weekdays allow; `None`
/// when they do not meet within two weeks.
pub(crate) fn fitting(
    rounds: &Rounds,
    rules: &PlanRules,
    zone: &Zone,
    at: Timestamp,
) -> Result<Option<Timestamp>, CoreError> {
    let allowed = |at| -> Result<Timestamp, CoreError> { Ok(rules.schedule.allowed(zone, at)?.from) };
    let mut at = allowed(at)?;
    if rounds.hours.is_none() && rounds.on == Weekdays::default() {
        return Ok(Some(at));
    }
    for _ in 0..LOOKS_MAX {
        let mut moved = match rounds.hours {
            Some(hours) => hours.at_or_after(zone, at).map_err(ScheduleError::from)?.0,
            None => at,
        };
        let (day, _) = zone.local(moved);
        if rounds.on != Weekdays::default() && !rounds.on.contains(day.weekday()) {
            let tomorrow =
                day.tomorrow().map_err(|_| crate::zone::ZoneError::OutOfRange { date: day, minute: 0 })?;
            moved = zone.instant(tomorrow, 0)?.max(moved);
        }
        moved = allowed(moved)?;
        if moved == at {
            return Ok(Some(at));
        }
        at = moved;
    }
    Ok(None)
}

/// The progress with one more request that counts.
pub(super) fn counted(facts: &Facts<'_>) -> Progress {
    let at = facts.sub.progress;
    let tries = at.tries.saturating_add(1);
    if facts.rules.dunning.budget.day_max == 0 {
        return Progress { tries, ..at };
    }
    let today = i16::try_from(days_since_2000(facts.zone.local(facts.now).0)).unwrap_or(i16::MAX);
    let before = if at.try_day == today { at.day_tries } else { 0 };
    Progress { tries, try_day: today, day_tries: before.saturating_add(1), ..at }
}

/// The charge of a row as arrears, when the plan has some and its bounds allow one more.
pub(crate) fn arrears_of(
    sub: &Subscription,
    rules: &PlanRules,
    zone: &Zone,
    charge: Aside,
    held: Held,
    now: Timestamp,
) -> Result<Option<Aside>, CoreError> {
    let Some(arrears) = &rules.arrears else { return Ok(None) };
    let owed = charge.due_minor.saturating_sub(charge.collected_minor);
    let fits = held.count < arrears.count_max
        && owed >= rules.part_min()
        && held.owed_minor.checked_add(owed).is_some_and(|sum| sum <= arrears.amount_max_minor);
    if !fits || charge.open != OpenAttempt::None || sub.stop_at.is_some() {
        return Ok(None);
    }
    let starts = rules.schedule.due_at(sub.anchor, charge.charge.period, zone, sub.id)?;
    let expires_at = later(starts, arrears.age_max_s);
    let Some(delay_s) = jittered(&arrears.rounds, 0, sub.ref_seed, charge.charge.period) else {
        return Ok(None);
    };
    let next_at = fitting(&arrears.rounds, rules, zone, later(now, delay_s))?.filter(|at| *at < expires_at);
    Ok(next_at.map(|next_at| Aside {
        round: 0,
        step: 0,
        state: ChargeState::Arrears,
        next_at: Some(next_at),
        next_kind: NextKind::Arrears,
        expires_at: Some(expires_at),
        ..charge
    }))
}

/// The charge of the row with what it has collected now, as arrears if the plan allows it.
pub(super) fn owed_later(facts: &Facts<'_>, after: &Progress) -> Result<Option<Aside>, CoreError> {
    if facts.rules.arrears.is_none() || !facts.sub.progress.state.collects() {
        return Ok(None);
    }
    let charge = ChargeId { subscription: facts.sub.id, period: facts.attempt.period };
    let row = Progress { open: OpenAttempt::None, ..*after };
    let aside = Aside::of(charge, &row, ChargeState::Arrears);
    arrears_of(facts.sub, facts.rules, facts.zone, aside, facts.held, facts.now)
}

/// When arrears that were refused in `round` are tried again, if ever.
pub(super) fn next_arrears(
    sub: &Subscription,
    rules: &PlanRules,
    zone: &Zone,
    aside: &Aside,
    now: Timestamp,
) -> Result<Option<Timestamp>, CoreError> {
    let Some(arrears) = &rules.arrears else { return Ok(None) };
    let round = aside.round.saturating_add(1);
    let Some(delay_s) = jittered(&arrears.rounds, round, sub.ref_seed, aside.charge.period) else {
        return Ok(None);
    };
    let next_at = fitting(&arrears.rounds, rules, zone, later(now, delay_s))?;
    Ok(next_at.filter(|at| aside.expires_at.is_some_and(|expires| *at < expires)))
}
