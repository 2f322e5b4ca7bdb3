//! What is done now with a charge that has a row of its own.

use jiff::Timestamp;

use super::Conditions;
use crate::ids::ATTEMPT_NO_MAX;
use crate::outcome::Op;
use crate::plan::PlanRules;
use crate::reason::Rule;
use crate::states::{ChargeState, step};
use crate::subscription::{Aside, CoreError, FLAG_QUARANTINED, NextKind, OpenAttempt, Planned, Subscription};
use crate::zone::Zone;

/// What to do with a charge that has a row of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AsideTriage {
    /// Make the intent durable, then send.
    Send {
        /// The attempt.
        planned: Planned,
        /// Why.
        rule: Rule,
    },
    /// The deadline of an accepted request passed: it is unknown now.
    Doubt {
        /// Why.
        rule: Rule,
    },
    /// Nothing is sent; the row changes.
    Change {
        /// The row afterwards.
        aside: Aside,
        /// Why.
        rule: Rule,
    },
    /// Nothing is sent and nothing changes.
    Rest {
        /// Why.
        rule: Rule,
    },
}

/// Decides what happens at `now` with a charge that has a row of its own. Only arrears are ever tried again, one
/// attempt at a time, and only while the subscription collects.
///
/// # Errors
/// [`CoreError`] when the row cannot be decided: a case for people.
pub fn triage_aside(
    sub: &Subscription,
    aside: &Aside,
    rules: &PlanRules,
    zone: &Zone,
    now: Timestamp,
    conditions: &Conditions,
) -> Result<AsideTriage, CoreError> {
    let rest = |rule| Ok(AsideTriage::Rest { rule });
    if sub.flags & FLAG_QUARANTINED != 0 {
        return rest(Rule::QUARANTINED);
    }
    let fires = aside.next_at.is_some_and(|next| next <= now);
    if aside.open != OpenAttempt::None {
        if fires && aside.open == OpenAttempt::Accepted && aside.next_kind == NextKind::Deadline {
            return Ok(AsideTriage::Doubt { rule: Rule::DEADLINE_PASSED });
        }
        return rest(Rule::OPEN_BLOCKS);
    }
    if aside.state != ChargeState::Arrears {
        return rest(Rule::NOT_COLLECTING);
    }
    let ends = |state, rule| -> Result<AsideTriage, CoreError> {
        let state = step(aside.state, state)?;
        let at_rest = Aside { state, next_at: None, next_kind: NextKind::Never, ..*aside };
        Ok(AsideTriage::Change { aside: at_rest, rule })
    };
    if sub.stop_at.is_some() || sub.progress.state.is_over() {
        return ends(ChargeState::Cancelled, Rule::ARREARS_STOP);
    }
    if !fires {
        return rest(Rule::NOT_DUE);
    }
    let Some(expires_at) = aside.expires_at.filter(|expires| *expires > now) else {
        return ends(ChargeState::Expired, Rule::ARREARS_EXPIRE);
    };
    if aside.attempt_no >= ATTEMPT_NO_MAX {
        return ends(ChargeState::WrittenOff, Rule::ATTEMPTS_EXHAUSTED);
    }
    let amount_minor = aside.due_minor.saturating_sub(aside.collected_minor);
    if amount_minor <= 0 {
        return Err(CoreError::Inconsistent(format!("arrears of {} owe nothing", aside.charge.period)));
    }
    let allowed = rules.schedule.allowed(zone, now)?;
    let (opens, closes) = (allowed.from, allowed.until);
    let known = |until: Option<Timestamp>| until.filter(|until| *until > now);
    let until = known(conditions.breaker_until).or(known(conditions.quota_until));
    let until = until.or((opens > now).then_some(opens));
    let capped = conditions.cap_left_minor.is_some_and(|left| left < amount_minor);
    let until = until.or(known(conditions.cap_until).filter(|_| capped)).or(capped.then_some(closes));
    // A state that rests does not lose its arrears; they wait until they expire.
    if until.is_some() || !sub.progress.state.collects() {
        let next_at = until.unwrap_or(closes).min(expires_at);
        let moved = Aside { next_at: Some(next_at), ..*aside };
        let rule = if until.is_some() { Rule::WINDOW_DEFER } else { Rule::NOT_COLLECTING };
        return Ok(AsideTriage::Change { aside: moved, rule });
    }
    let planned = Planned {
        op: Op::Charge,
        period: aside.charge.period,
        attempt_no: aside.attempt_no + 1,
        parent_no: 0,
        amount_minor,
        round: aside.round,
        step: 0,
        not_before: aside.next_at.unwrap_or(now),
        not_after: closes.min(expires_at),
    };
    Ok(AsideTriage::Send { planned, rule: Rule::ARREARS_SEND })
}
