//! The life of one subscription under a script: which charges come when, what is answered, what is decided and why.
//!
//! The same functions decide as in the engine ([`crate::triage`], [`crate::decide`]); only clock, carrier and database
//! are played. Pure and bounded. `toll sub preview` and the stories of the book are made of it.

mod life;
mod line;
mod script;

use jiff::Timestamp;
use jiff::civil::Date;

pub use line::{Amounts, line};
pub use script::{ANSWERS_MAX, Answer, EVENTS_MAX, Event, Happens, Said, Script, ScriptError};

use crate::ids::{RefSeed, SubscriptionId};
use crate::outcome::Op;
use crate::period::Period;
use crate::plan::PlanRules;
use crate::reason::{Inputs, Rule};
use crate::schedule::{Anchor, price_of};
use crate::states::{AttemptState, ChargeState, SubscriptionState};
use crate::subscription::{CoreError, NextKind, Planned, Subscription};
use crate::zone::Zone;

/// The most steps of one preview.
pub const STEPS_MAX: usize = 1_000;

/// What a preview begins with.
#[derive(Debug, Clone)]
pub struct Setup<'a> {
    /// The plan.
    pub rules: &'a PlanRules,
    /// The subscriber's own zone.
    pub zone: &'a Zone,
    /// The subscription as it stands.
    pub sub: Subscription,
    /// Its last attempt, while that is open.
    pub open: Option<(Planned, AttemptState)>,
    /// What the carrier answers.
    pub script: &'a Script,
    /// What happens besides, in the sequence of time.
    pub events: &'a [Event],
    /// Business time at which the preview begins.
    pub now: Timestamp,
    /// Where it ends.
    pub horizon: Horizon,
}

/// Where a preview ends, at the latest after [`STEPS_MAX`] steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Horizon {
    /// When so many charges are closed.
    Charges(u32),
    /// At an instant.
    Until(Timestamp),
}

/// What came out.
#[derive(Debug, Clone)]
pub struct Preview {
    /// Step by step.
    pub steps: Vec<Step>,
    /// Why it ended.
    pub end: End,
    /// The subscription at the end.
    pub sub: Subscription,
    /// What was collected in all, minor units.
    pub collected_minor: i64,
}

/// Why a preview ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The horizon is reached.
    Horizon,
    /// Nothing will ever happen by itself any more.
    AtRest,
    /// [`STEPS_MAX`] steps, or no step came of very many looks.
    Bound,
    /// The row cannot be decided: the engine would put it aside for people.
    Quarantined(String),
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// When, business time.
    pub at: Timestamp,
    /// The zone that the subscriber lives in then.
    pub zone: Zone,
    /// The charge's period.
    pub period: Period,
    /// What it is.
    pub kind: StepKind,
    /// The rule that decided on it; `None` for what changes nothing here.
    pub rule: Option<Rule>,
    /// What the rule looked at.
    pub inputs: Inputs,
    /// Where the charge stands afterwards.
    pub charge: ChargeState,
    /// What was due for it, minor units.
    pub due_minor: i64,
    /// What of it is collected, minor units.
    pub charge_collected_minor: i64,
    /// Where the subscription stands afterwards.
    pub state: SubscriptionState,
    /// Until when access is paid.
    pub access_until: Option<Timestamp>,
    /// What was collected so far in all, minor units.
    pub collected_minor: i64,
    /// When something happens by itself next, and what.
    pub next: Option<(Timestamp, NextKind)>,
}

/// What kind of step it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepKind {
    /// A request and its answer.
    Attempt {
        /// What was asked for.
        op: Op,
        /// Its number.
        attempt_no: i16,
        /// How much was asked for, minor units.
        amount_minor: i64,
        /// The answer's word.
        answer: Said,
        /// Where the attempt stands afterwards.
        attempt: AttemptState,
        /// The rule that sent it.
        sent_by: Rule,
    },
    /// Evidence on a request that was open.
    Evidence {
        /// The attempt.
        attempt_no: i16,
        /// What it says.
        answer: Said,
        /// Where the attempt stands afterwards.
        attempt: AttemptState,
    },
    /// Nothing was sent, and something changed.
    Note,
    /// Something happened from outside.
    Happened(String),
}

/// A subscription as it is made on a local date: the same as an import makes.
///
/// # Errors
/// [`CoreError`] when the plan has no period from then on.
pub fn signed_up(
    rules: &PlanRules,
    zone: &Zone,
    date: Date,
    id: SubscriptionId,
    ref_seed: RefSeed,
) -> Result<Subscription, CoreError> {
    let start = rules.schedule.anchor_date(date)?;
    let anchor = Anchor::new(start, rules.schedule.anchor_minute(id));
    let period = rules.schedule.first_period(anchor, start, zone)?;
    let period = period
        .ok_or_else(|| CoreError::Inconsistent(format!("plan {} has no period from {start} on", rules.id)))?;
    let due_at = rules.schedule.due_at(anchor, period, zone, id)?;
    let price = price_of(rules, anchor, period, zone)?;
    Ok(Subscription {
        id,
        subscriber_id: 0,
        ref_seed,
        plan_no: 0,
        stop_at: None,
        rev: 0,
        flags: 0,
        anchor,
        progress: crate::triage::signed_up(rules, period, price.minor, due_at),
    })
}

/// Lives the subscription's life up to the horizon.
#[must_use]
pub fn preview(setup: &Setup<'_>) -> Preview {
    life::Life::of(setup).run()
}
