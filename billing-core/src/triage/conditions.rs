//! What triage may know besides the row: all of it advice or bounds, none of it evidence.

use jiff::Timestamp;

use super::Merged;
use crate::subscription::Held;

/// What is known besides the row. The default is: nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Conditions {
    /// The last answer about the balance.
    pub balance: Option<Balance>,
    /// Until when the carrier is not asked because it does not answer.
    pub breaker_until: Option<Timestamp>,
    /// When the carrier's quota has room again, while it is used up.
    pub quota_until: Option<Timestamp>,
    /// What the subscriber's caps still allow, minor units.
    pub cap_left_minor: Option<i64>,
    /// When the cap that is used up begins anew.
    pub cap_until: Option<Timestamp>,
    /// What the subscription owes in arrears already; only plans with arrears look at it.
    pub held: Held,
    /// What missed periods are part of the row's own charge, while that was not tried; only plans that merge look at it.
    pub merged: Merged,
}

/// An answer about a balance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Balance {
    /// What it said.
    pub answer: BalanceAnswer,
    /// How old it is, milliseconds of machine time.
    pub age_ms: i64,
}

/// What a carrier said about a balance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BalanceAnswer {
    /// The amount, minor units.
    Amount(i64),
    /// Whether it covers an amount.
    Covers {
        /// That amount, minor units.
        asked_minor: i64,
        /// Whether it does.
        yes: bool,
    },
    /// It could not say: the charge goes on without advice.
    Unavailable,
}
