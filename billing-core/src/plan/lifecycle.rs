//! What surrounds the charges of a subscription: how it begins, rests and ends, what is owed, what is given back.

use super::Rounds;

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
    /// One charge for the period that runs now, over its own price and those of at most so many missed periods.
    Merge {
        /// The most missed periods that become part of it; 1 to 31.
        periods_max: u16,
    },
    /// The missed ones become arrears, within their bounds; the running period is charged as ever.
    CollectLate,
}

/// What money buys that turns out to have moved for a period that is over. Has no default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LateApproved {
    /// Access for as long as it paid for, after what is paid already.
    Extend,
    /// Nothing: that period is past.
    Past,
    /// It is proposed to be given back.
    Refund,
}

/// The most charges of one subscription that may be in arrears.
pub const ARREARS_MAX: i16 = 31;

/// What remains of earlier periods and may still be collected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrears {
    /// The most charges of a subscription in arrears; 1 to 31.
    pub count_max: i16,
    /// How long after its period's start a charge may still be collected, seconds.
    pub age_max_s: i64,
    /// The most that a subscription may owe in arrears, minor units.
    pub amount_max_minor: i64,
    /// When they are tried: the first delay counts from the give-up.
    pub rounds: Rounds,
}

/// To which better moments a charge may be moved without using an attempt, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Defer {
    /// The most deferrals of one charge by breaker, quota, payday or balance (0: no bound).
    pub max: i16,
    /// After so many seconds from its due instant a charge expires (0: when the next period begins).
    pub shelf_life_s: i64,
    /// Charges that were refused for lack of funds wait for it.
    pub payday: Option<Payday>,
}

/// Days of the month on which people are paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payday {
    /// Bit n is day n of the month (1 to 31); bit 0 is the month's last day.
    pub days: u32,
    /// Only a payday at most so many days ahead is waited for; 1 to 31.
    pub within_days: u8,
}

/// When the balance is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BalanceWhen {
    /// Before each charge.
    Always,
    /// Only once the charge was refused.
    AfterRefusal,
}

/// The balance check: advice, never evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BalanceCheck {
    /// When it is asked for.
    pub when: BalanceWhen,
    /// How long an answer counts, milliseconds of machine time.
    pub valid_ms: i64,
    /// When to look again after a balance that is too low, seconds.
    pub recheck_s: i64,
}

/// What an expired reservation is, as the carrier declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expired {
    /// The carrier has given it back by itself.
    Released,
    /// It must be given back by request.
    Cancel,
}

/// Two phases: set aside, then collect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserve {
    /// How long the carrier keeps it, seconds.
    pub valid_s: i64,
    /// When it is collected after it was set aside, seconds; below `valid_s`.
    pub confirm_after_s: i64,
    /// What it is when that time has passed.
    pub expired: Expired,
}

/// Pauses, top-ups, the billing cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lifecycle {
    /// Whether a paused subscription keeps its access to what is paid.
    pub pause_keeps_access: bool,
    /// Whether a top-up makes an overdue charge due at once.
    pub snap: bool,
    /// Whether a top-up resumes a suspended subscription.
    pub top_up_resumes: bool,
    /// A charge that is paid in this round or a later one moves the billing cycle to the day of payment (0: never).
    pub reset_from_round: i16,
}

/// What a refund takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RefundAccess {
    /// Nothing: it is goodwill.
    #[default]
    Keep,
    /// As much time as the money had bought, never time that is past.
    Share,
    /// All that is left, once the whole charge is given back.
    End,
}

impl Payday {
    /// Whether a day of a month with so many days is one.
    #[must_use]
    pub fn is(self, day: i8, days_in_month: i8) -> bool {
        let bit = u32::try_from(day).unwrap_or(0);
        self.days >> bit & 1 == 1 || (self.days & 1 == 1 && day == days_in_month)
    }
}
