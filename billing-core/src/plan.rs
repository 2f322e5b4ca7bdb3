//! A plan's rules, as the decisions need them: what the book says, compiled and checked.

use crate::money::Money;
use crate::outcome::{Outcome, Refusal};
use crate::schedule::Schedule;
use crate::split::Shares;

/// Everything that `triage` and `decide` need to know of a plan, of one book version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanRules {
    /// The plan's id in the book.
    pub id: String,
    /// What the subscriber reads on the receipt; at most 64 characters.
    pub text: String,
    /// The merchant who sells it.
    pub merchant: String,
    /// The service that it belongs to.
    pub service: String,
    /// The carrier that collects.
    pub carrier: String,
    /// When it charges.
    pub schedule: Schedule,
    /// What a period costs.
    pub price: Money,
    /// Tax and the carrier's fee in what is collected.
    pub shares: Shares,
    /// Smaller amounts to try when the full one is refused for lack of funds.
    pub ladder: Option<Ladder>,
    /// When to try again.
    pub dunning: Dunning,
    /// Seconds of access kept after a refused renewal (0: none).
    pub grace_s: i64,
    /// What a refused first charge leaves behind.
    pub first_failure: FirstFailure,
    /// What becomes of periods that were missed altogether.
    pub missed: Missed,
}

/// The step-down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ladder {
    /// The smaller amounts, descending, each above 0 and below the price; at most 8.
    pub steps_minor: Vec<i64>,
    /// What a smaller amount buys.
    pub settles: Settles,
    /// Where the next round begins.
    pub restart: Restart,
}

/// The most steps a ladder may have.
pub const LADDER_STEPS_MAX: usize = 8;

/// What a smaller amount buys. Has no default: the product team decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settles {
    /// The whole period.
    Period,
    /// Access pro rata.
    Share,
    /// Nothing yet: the rest is still owed.
    Amount,
}

/// Where the round after a ladder begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// At the full price.
    Full,
    /// At the step that was tried last.
    LastStep,
}

/// What a refused first charge leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstFailure {
    /// Nothing: the subscription is cancelled.
    Cancel,
    /// A pending subscription that is tried again.
    Retry,
}

/// What becomes of periods whose charge was never tried before the next one began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// One late charge, for the period that runs now; the ones before are skipped.
    OnceLate,
    /// All are skipped; charging goes on with the next period.
    Skip,
}

/// When to try again, per class of refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dunning {
    /// The balance is too small.
    pub no_funds: Rounds,
    /// A carrier's limit stands in the way.
    pub limit: Rounds,
    /// The line is barred.
    pub barred: Rounds,
    /// The carrier could not work (costs no round, only time).
    pub temporary_delay_s: i64,
    /// Our own mistake (never counts against the subscriber).
    pub fault_delay_s: i64,
}

/// The rounds after the first refusal, and what comes after the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rounds {
    /// Seconds from one round to the next; at most 32.
    pub delays_s: Vec<i64>,
    /// When all are used up.
    pub then: GiveUp,
}

/// The most rounds a dunning schedule may have.
pub const ROUNDS_MAX: usize = 32;

/// When all rounds are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GiveUp {
    /// Give this period up, go on with the next.
    NextPeriod,
    /// Stop collecting until someone resumes it.
    Suspend,
    /// End the subscription.
    Cancel,
}

/// The classes of refusal that have a dunning schedule of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalClass {
    /// More money may come.
    NoFunds,
    /// The limit may pass.
    Limit,
    /// The line may come back.
    Barred,
    /// Asking again will not help: suspend.
    Suspends,
    /// The line is gone or the subscriber said no: cancel.
    Cancels,
}

impl RefusalClass {
    /// The class of a refusal.
    #[must_use]
    pub fn of(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoFunds => Self::NoFunds,
            Refusal::Limit(_) | Refusal::Expired => Self::Limit,
            Refusal::Barred => Self::Barred,
            Refusal::NotAllowed => Self::Suspends,
            Refusal::UnknownSubscriber | Refusal::SubscriberRefused => Self::Cancels,
        }
    }

    /// The class of an outcome, where it is a refusal.
    #[must_use]
    pub fn of_outcome(outcome: Outcome) -> Option<Self> {
        match outcome {
            Outcome::Declined(refusal) => Some(Self::of(refusal)),
            _ => None,
        }
    }
}

impl Dunning {
    /// The rounds of a class that has some.
    #[must_use]
    pub fn rounds(&self, class: RefusalClass) -> Option<&Rounds> {
        match class {
            RefusalClass::NoFunds => Some(&self.no_funds),
            RefusalClass::Limit => Some(&self.limit),
            RefusalClass::Barred => Some(&self.barred),
            RefusalClass::Suspends | RefusalClass::Cancels => None,
        }
    }
}

impl PlanRules {
    /// The amount of a step: 0 is the full price, n the ladder's n-th amount; never above what remains.
    #[must_use]
    pub fn step_amount(&self, step: i16, remaining_minor: i64) -> Option<i64> {
        let full = match step {
            0 => Some(remaining_minor),
            n => {
                let index = usize::try_from(n).ok()?.checked_sub(1)?;
                self.ladder.as_ref()?.steps_minor.get(index).copied()
            }
        };
        full.map(|amount| amount.min(remaining_minor))
    }
}
