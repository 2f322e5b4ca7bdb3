//! Phases: an introductory price, then the plan's own.

use super::{Anchor, ScheduleError};
use crate::money::Money;
use crate::period::Period;
use crate::plan::PlanRules;
use crate::zone::Zone;

/// The most phases of a plan.
pub const PHASES_MAX: usize = 8;

/// Some periods at a price of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phase {
    /// For how many periods.
    pub periods: u32,
    /// What each of them costs, in minor units of the plan's currency.
    pub price_minor: i64,
}

/// What a period of a subscription costs.
///
/// # Errors
/// [`ScheduleError::Zone`] at the ends of the calendar.
pub fn price_of(
    rules: &PlanRules,
    anchor: Anchor,
    period: Period,
    zone: &Zone,
) -> Result<Money, ScheduleError> {
    let phases = &rules.schedule.phases;
    if phases.is_empty() {
        return Ok(rules.price);
    }
    let mut index = rules.schedule.index_of(anchor, period, zone)?;
    for phase in phases {
        match index.checked_sub(phase.periods) {
            None => return Ok(Money::new(phase.price_minor, rules.price.currency)),
            Some(rest) => index = rest,
        }
    }
    Ok(rules.price)
}
