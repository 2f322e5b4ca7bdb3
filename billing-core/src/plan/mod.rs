//! A plan's rules, as the decisions need them: what the book says, compiled and checked.

use jiff::SignedDuration;

use crate::money::Money;
use crate::schedule::Schedule;
use crate::split::{Shares, Tariff};

mod caps;
mod dunning;
mod ladder;
mod lifecycle;

pub use caps::{CAP_SPANS, CapDays, Caps, OverCap, Usage};
pub use dunning::{Budget, Dunning, GiveUp, Growth, ROUNDS_MAX, Rounds, RoundsOf};
pub use ladder::{Choice, Delivers, LADDER_STEPS_MAX, Ladder, Restart, Settles};
pub use lifecycle::{
    ARREARS_MAX, Arrears, BalanceCheck, BalanceWhen, Defer, Expired, FirstFailure, LateApproved, Lifecycle,
    Missed, Payday, RefundAccess, Reserve,
};

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
    /// Tax and the carrier's fee in an amount that has no tariff.
    pub shares: Shares,
    /// Tax and fee at the carrier's price points, by price, ascending.
    pub tariffs: Vec<Tariff>,
    /// Whether the carrier gives up its fee in what goes back.
    pub fee_returned: bool,
    /// How long the carrier's answer may take that comes later than its reply, seconds; then the attempt is UNKNOWN.
    pub answer_within_s: i64,
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
    /// What money buys that turns out to have moved for a period that is over.
    pub late_approved: LateApproved,
    /// Whether what was given up may still be collected later.
    pub arrears: Option<Arrears>,
    /// To which better moments a charge may be moved.
    pub defer: Defer,
    /// Whether the balance is asked for before charging.
    pub balance: Option<BalanceCheck>,
    /// Whether the amount is set aside first and collected after delivery.
    pub reserve: Option<Reserve>,
    /// Trials, pauses, top-ups, the billing cycle.
    pub lifecycle: Lifecycle,
    /// What a refund takes away.
    pub refund_access: RefundAccess,
    /// What the carrier's country allows of one subscriber, over all plans.
    pub caps: Caps,
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

    /// How long an accepted attempt may stay without its answer.
    #[must_use]
    pub fn answer_within(&self) -> SignedDuration {
        SignedDuration::from_secs(self.answer_within_s)
    }

    /// Tax and fee in a collected amount: those of its tariff, else those of any amount.
    #[must_use]
    pub fn shares_at(&self, amount_minor: i64) -> Shares {
        let found = self.tariffs.binary_search_by_key(&amount_minor, |tariff| tariff.price_minor);
        found.ok().and_then(|at| self.tariffs.get(at)).map_or(self.shares, |tariff| tariff.shares)
    }

    /// Tax and fee in an amount that goes back: as in a sale of that amount, and where it has no tariff, as in what the
    /// charge had collected.
    #[must_use]
    pub fn shares_back(&self, amount_minor: i64, collected_minor: i64) -> Shares {
        let has = |minor: i64| self.tariffs.binary_search_by_key(&minor, |tariff| tariff.price_minor).is_ok();
        self.shares_at(if has(amount_minor) { amount_minor } else { collected_minor })
    }

    /// What a smaller amount than the price is worth: what the ladder says; without one the rest is owed.
    #[must_use]
    pub fn settles(&self) -> Settles {
        self.ladder.as_ref().map_or(Settles::Amount, |ladder| ladder.settles)
    }

    /// The smallest amount that is worth a request of its own, minor units.
    #[must_use]
    pub fn part_min(&self) -> i64 {
        self.ladder.as_ref().map_or(1, |ladder| ladder.part_min_minor.max(1))
    }
}
