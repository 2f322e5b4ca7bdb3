//! Money came in: what it settles, what it buys, what comes next.

use jiff::Timestamp;

use super::refused::retrying;
use super::rounds::{counted, next_round, owed_later};
use super::{Decision, Event, Facts, active_again, decision, legs, next_of};
use crate::entitlement::{Grant, later, seconds_bought};
use crate::ledger::{Leg, LegKind};
use crate::outcome::Op;
use crate::period::Period;
use crate::plan::{Delivers, Settles};
use crate::reason::{Input, Rule};
use crate::schedule::Anchor;
use crate::states::{AttemptState, ChargeState, SubscriptionState};
use crate::subscription::{Aside, CoreError, OpenAttempt, Progress};
use crate::triage::{Next, advance, next_after};

pub(super) fn collected(facts: &Facts<'_>, moved_minor: i64) -> Result<Decision, CoreError> {
    let at = &facts.sub.progress;
    let after_minor =
        at.collected_minor.checked_add(moved_minor).filter(|sum| *sum <= at.due_minor).ok_or_else(|| {
            CoreError::Inconsistent(format!(
                "{moved_minor} on top of {} would exceed the {} due",
                at.collected_minor, at.due_minor
            ))
        })?;
    let full = after_minor == at.due_minor;
    let (anchor, next) = if full { cycle(facts)? } else { (None, next_of(facts)?) };
    // Paid until the next charge falls due, not until its local midnight: access has no hole before the next charge.
    let ends = next.map(|next| next.due_at);
    let bought = bought(facts, after_minor, full, ends)?;
    let paid_until = match bought {
        Some(Grant { until: Some(until), .. }) => at.paid_until.max(Some(until)),
        // For good.
        Some(Grant { until: None, .. }) => None,
        None => at.paid_until,
    };
    let paid = Progress {
        collected_minor: after_minor,
        attempt_no: facts.attempt.attempt_no,
        open: OpenAttempt::None,
        reserved: None,
        paid_until,
        state_until: None,
        ..counted(facts)
    };
    let settles = facts.rules.settles();
    let (charge, rule, event) = match (full, settles) {
        (true, _) => (ChargeState::Settled, Rule::SETTLE_FULL, Event::ChargeSettled),
        (false, Settles::Period) => (ChargeState::Reduced, Rule::SETTLE_PERIOD, Event::ChargeReduced),
        (false, Settles::Share) => (ChargeState::Reduced, Rule::SETTLE_SHARE, Event::ChargeReduced),
        (false, Settles::Amount) => (ChargeState::Open, Rule::PART_OWED, Event::ChargePart),
    };
    let active = active_again(at.state)?;
    let (progress, charge, aside, rule) = if charge == ChargeState::Open {
        rest_owed(facts, paid, active, next)?
    } else {
        (advance(paid, next, active)?, charge, None, rule)
    };
    let rule = match (facts.attempt.op, anchor) {
        (Op::Adopt, _) => Rule::ADOPTED,
        (_, Some(_)) => Rule::CYCLE_RESET,
        _ => rule,
    };
    let decided = decision(facts, AttemptState::Approved, charge, progress, rule)?;
    let inputs = decided.inputs.with(Input::DueMinor, at.due_minor);
    let inputs = inputs.with(Input::CollectedMinor, at.collected_minor).with_at(Input::NextDueMs, ends);
    Ok(Decision {
        moved_minor,
        collected_after_minor: after_minor,
        anchor: anchor.filter(|_| decided.progress.state.collects()),
        aside: aside.filter(|_| decided.charge == ChargeState::Arrears),
        legs: legs(
            facts.from,
            facts.attempt,
            Some(Leg { kind: LegKind::Collected, amount_minor: moved_minor }),
        ),
        // Money that came after the period's end buys no access in the past.
        grant: bought.filter(|grant| grant.until.is_none_or(|until| until > grant.from)),
        event: Some(event),
        inputs,
        ..decided
    })
}

/// The next period, and the new anchor where the plan counts from the day of a late payment.
fn cycle(facts: &Facts<'_>) -> Result<(Option<Anchor>, Option<Next>), CoreError> {
    let (sub, rules) = (facts.sub, facts.rules);
    let from_round = rules.lifecycle.reset_from_round;
    let (today, _) = facts.zone.local(facts.now);
    let late = from_round > 0 && facts.attempt.round >= from_round && sub.progress.state.collects();
    // Elapsed time has no day to count from.
    let dated = rules.schedule.cadence.elapsed_minutes().is_none();
    if !late || !dated || today <= sub.progress.period.date() {
        return Ok((None, next_of(facts)?));
    }
    let done = rules.schedule.index_of(sub.anchor, sub.progress.period, facts.zone)?;
    let anchor =
        Anchor { date: today, minute: sub.anchor.minute, done: i32::try_from(done).unwrap_or(i32::MAX) };
    // What is paid now runs from today on: the next period begins a whole cadence later.
    let running = Period::starting(today, 0)?.max(sub.progress.period);
    let next = next_after(rules, anchor, running, facts.zone, sub.id)?;
    Ok((next.map(|_| anchor), next))
}

/// What the money buys; `None` for nothing yet.
fn bought(
    facts: &Facts<'_>,
    after_minor: i64,
    full: bool,
    ends: Option<Timestamp>,
) -> Result<Option<Grant>, CoreError> {
    let (at, now) = (&facts.sub.progress, facts.now);
    let settles = facts.rules.settles();
    if full || settles == Settles::Period {
        return Ok(Some(Grant { from: now, until: ends, variant: 0 }));
    }
    let ladder = facts.rules.ladder.as_ref();
    let tiers = ladder.filter(|ladder| ladder.delivers == Delivers::Tier && settles == Settles::Share);
    if let Some(ladder) = tiers {
        let variant = ladder.tier(after_minor);
        return Ok(variant.map(|variant| Grant { from: now, until: ends, variant }));
    }
    let Some(ends) = ends else {
        // What has no end has no share either: a part of what is owed buys nothing until the rest is paid.
        let buys = settles == Settles::Share;
        return Ok(buys.then_some(Grant { from: now, until: None, variant: 0 }));
    };
    let starts = facts.rules.schedule.due_at(facts.sub.anchor, at.period, facts.zone, facts.sub.id)?;
    let length_s = ends.as_second().saturating_sub(starts.as_second());
    let seconds = seconds_bought(length_s, at.due_minor, at.collected_minor, after_minor);
    // After what is paid already: no second is sold twice.
    let from = at.paid_until.map_or(now, |paid| paid.max(now));
    Ok(Some(Grant { from, until: Some(later(from, seconds)), variant: 0 }))
}

type RestOwed = (Progress, ChargeState, Option<Aside>, Rule);

fn rest_owed(
    facts: &Facts<'_>,
    paid: Progress,
    state: SubscriptionState,
    next: Option<Next>,
) -> Result<RestOwed, CoreError> {
    let rest = paid.due_minor.saturating_sub(paid.collected_minor);
    if rest < facts.rules.part_min() {
        let progress = advance(paid, next, state)?;
        return Ok((progress, ChargeState::WrittenOff, None, Rule::REST_TOO_SMALL));
    }
    let dunning = &facts.rules.dunning;
    let retry =
        if dunning.budget.allows(paid.tries) { next_round(facts, &dunning.no_funds, next)? } else { None };
    if let Some(retry_at) = retry.filter(|_| state.collects()) {
        return Ok((retrying(facts, paid, state, retry_at), ChargeState::Open, None, Rule::PART_OWED));
    }
    let aside = owed_later(facts, &paid)?;
    let charge = if aside.is_some() { ChargeState::Arrears } else { ChargeState::WrittenOff };
    Ok((advance(paid, next, state)?, charge, aside, Rule::PART_OWED))
}
