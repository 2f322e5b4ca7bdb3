//! A subscription as the decisions see it: what never changes beside what a charge changes.

use jiff::{SignedDuration, Timestamp};
use thiserror::Error;

use crate::ids::{ChargeId, IdError, RefSeed, SubscriptionId};
use crate::money::MoneyError;
use crate::outcome::Op;
use crate::period::{Period, PeriodError};
use crate::schedule::{Anchor, ScheduleError};
use crate::states::{IllegalMove, SubscriptionState};
use crate::zone::ZoneError;

/// A flag bit: the subscription's data cannot be decided; people must look at it, nothing is sent.
pub const FLAG_QUARANTINED: i32 = 1;

/// One subscriber on one plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Its id.
    pub id: SubscriptionId,
    /// Whose it is.
    pub subscriber_id: i64,
    /// What its keys are derived from.
    pub ref_seed: RefSeed,
    /// The plan's number in the database.
    pub plan_no: i32,
    /// When someone said stop; nothing may be sent after it.
    pub stop_at: Option<Timestamp>,
    /// Rises with every engine write; each write demands the one it read.
    pub rev: i32,
    /// [`FLAG_QUARANTINED`] and later bits.
    pub flags: i32,
    /// Where its periods are counted from.
    pub anchor: Anchor,
    /// What a charge changes.
    pub progress: Progress,
}

/// The columns of a subscription that a charge changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Where the subscription stands.
    pub state: SubscriptionState,
    /// The period whose charge is being collected, or the next to fall due.
    pub period: Period,
    /// What the period costs, minor units.
    pub due_minor: i64,
    /// What of it has been collected, minor units.
    pub collected_minor: i64,
    /// The last attempt's number; 0 before the first.
    pub attempt_no: i16,
    /// The current round of the dunning schedule.
    pub round: i16,
    /// The current step of the ladder; 0 is the full price.
    pub step: i16,
    /// Whether the last attempt is open.
    pub open: OpenAttempt,
    /// How often this charge was deferred.
    pub deferrals: i16,
    /// Until when access is paid.
    pub paid_until: Option<Timestamp>,
    /// Until when the state lasts (grace).
    pub state_until: Option<Timestamp>,
    /// When the next attempt of this charge is due.
    pub retry_at: Option<Timestamp>,
    /// When the wheel fires next; `None` for never.
    pub next_at: Option<Timestamp>,
    /// Why it fires.
    pub next_kind: NextKind,
}

/// Whether the last attempt of a charge is open. The number is what the database keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i16)]
pub enum OpenAttempt {
    /// It is final, or there was none.
    None = 0,
    /// Accepted; the answer comes later.
    Accepted = 1,
    /// Nobody knows. Blocks.
    Unknown = 2,
    /// Only people can settle it. Blocks.
    InReview = 3,
}

impl OpenAttempt {
    /// The value of a number that the database kept.
    #[must_use]
    pub fn from_number(number: i16) -> Option<Self> {
        [Self::None, Self::Accepted, Self::Unknown, Self::InReview].into_iter().find(|o| *o as i16 == number)
    }
}

/// Why the wheel fires. The number is what the database keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i16)]
pub enum NextKind {
    /// Never.
    Never = 0,
    /// A period's first attempt.
    Due = 1,
    /// Another attempt of the same charge.
    Retry = 2,
    /// A deferred attempt.
    Deferred = 3,
    /// An accepted attempt's deadline.
    Deadline = 4,
    /// The next period begins while the last attempt is open.
    PeriodStart = 5,
}

impl NextKind {
    /// The value of a number that the database kept.
    #[must_use]
    pub fn from_number(number: i16) -> Option<Self> {
        [Self::Never, Self::Due, Self::Retry, Self::Deferred, Self::Deadline, Self::PeriodStart]
            .into_iter()
            .find(|kind| *kind as i16 == number)
    }
}

/// An attempt as `triage` plans it and its intent keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// What the carrier is asked to do.
    pub op: Op,
    /// The period that it serves.
    pub period: Period,
    /// Last attempt's number + 1.
    pub attempt_no: i16,
    /// What is asked for, minor units.
    pub amount_minor: i64,
    /// Round of the dunning schedule.
    pub round: i16,
    /// Step of the ladder.
    pub step: i16,
    /// Business time before which the first byte may not leave.
    pub not_before: Timestamp,
    /// Business time from which on the first byte may no longer leave.
    pub not_after: Timestamp,
}

/// A charge that leaves the subscription's row unfinished: its own row from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aside {
    /// Which charge.
    pub charge: ChargeId,
    /// What it costs, minor units.
    pub due_minor: i64,
    /// What of it has been collected, minor units.
    pub collected_minor: i64,
    /// Its last attempt's number.
    pub attempt_no: i16,
    /// Round of the dunning schedule.
    pub round: i16,
    /// Step of the ladder.
    pub step: i16,
    /// Whether that attempt is open.
    pub open: OpenAttempt,
}

/// What cannot be decided: the subscription is quarantined with a case, nobody else is held up.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum CoreError {
    /// A state move that no table allows.
    #[error(transparent)]
    Move(#[from] IllegalMove),
    /// See [`ScheduleError`].
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// See [`ZoneError`].
    #[error(transparent)]
    Zone(#[from] ZoneError),
    /// See [`PeriodError`].
    #[error(transparent)]
    Period(#[from] PeriodError),
    /// See [`MoneyError`].
    #[error(transparent)]
    Money(#[from] MoneyError),
    /// See [`IdError`].
    #[error(transparent)]
    Id(#[from] IdError),
    /// The row contradicts itself or its plan.
    #[error("{0}")]
    Inconsistent(String),
}

/// An instant some time on; a delay beyond the calendar is an error, not a panic.
pub(crate) fn later(from: Timestamp, delay: SignedDuration) -> Result<Timestamp, CoreError> {
    let error = |_| ScheduleError::Instant { from, seconds: delay.as_secs() };
    Ok(from.checked_add(delay).map_err(error)?)
}
