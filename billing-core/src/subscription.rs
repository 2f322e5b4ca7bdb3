//! A subscription as the decisions see it: what never changes beside what a charge changes.

use jiff::Timestamp;
use thiserror::Error;

use crate::ids::{ChargeId, IdError, RefSeed, SubscriptionId};
use crate::money::MoneyError;
use crate::outcome::Op;
use crate::period::{Period, PeriodError};
use crate::schedule::{Anchor, ScheduleError};
use crate::states::{ChargeState, IllegalMove, SubscriptionState};
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
    /// When the next attempt of this charge is due; of an accepted attempt whose period ends first: its deadline.
    pub retry_at: Option<Timestamp>,
    /// When the wheel fires next; `None` for never.
    pub next_at: Option<Timestamp>,
    /// Why it fires.
    pub next_kind: NextKind,
    /// Requests of this charge that counted: everything but what was not sent, not processed or our own fault.
    pub tries: i16,
    /// The local day of the last of them, days since 2000-01-01; 0 while the plan bounds no day.
    pub try_day: i16,
    /// How many of them fell on that day.
    pub day_tries: i16,
    /// What the carrier has set aside for this charge.
    pub reserved: Option<Reservation>,
    /// The latest top-up notice that made a charge due: no notice counts twice.
    pub notice_at: Option<Timestamp>,
}

/// An amount that a carrier has set aside, not yet collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reservation {
    /// The attempt that did it: the parent of its confirm and cancel.
    pub attempt_no: i16,
    /// How much, minor units.
    pub amount_minor: i64,
    /// Until when the carrier keeps it.
    pub until: Timestamp,
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

impl Progress {
    /// A charge that nothing was tried for yet, of a subscription in a state; everything else at its beginning.
    #[must_use]
    pub fn fresh(
        state: SubscriptionState,
        period: Period,
        due_minor: i64,
        due_at: Option<Timestamp>,
    ) -> Self {
        Self {
            state,
            period,
            due_minor,
            collected_minor: 0,
            attempt_no: 0,
            round: 0,
            step: 0,
            open: OpenAttempt::None,
            deferrals: 0,
            paid_until: None,
            state_until: None,
            retry_at: None,
            next_at: due_at,
            next_kind: if due_at.is_some() { NextKind::Due } else { NextKind::Never },
            tries: 0,
            try_day: 0,
            day_tries: 0,
            reserved: None,
            notice_at: None,
        }
    }

    /// Until when the answer to an accepted attempt may come; `None` when none is awaited.
    #[must_use]
    pub fn answer_due(&self) -> Option<Timestamp> {
        let accepted = self.open == OpenAttempt::Accepted;
        let due = if self.next_kind == NextKind::Deadline { self.next_at } else { self.retry_at };
        due.filter(|_| accepted)
    }

    /// Nothing fires any more; the charge stays in the row.
    #[must_use]
    pub fn at_rest(self) -> Self {
        Self { retry_at: None, next_at: None, next_kind: NextKind::Never, ..self }
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
    /// A reservation is to be confirmed, or given back.
    Reserved = 6,
    /// A trial, a parking or a pause ends.
    StateEnd = 7,
    /// An attempt at arrears (rows of charges put aside only).
    Arrears = 8,
}

impl NextKind {
    /// Whether a charge is tried then, within its charging window. What else fires sends nothing, or follows from a
    /// request that was made in its window.
    #[must_use]
    pub fn charges(self) -> bool {
        matches!(self, Self::Due | Self::Retry | Self::Deferred | Self::Arrears)
    }

    /// The value of a number that the database kept.
    #[must_use]
    pub fn from_number(number: i16) -> Option<Self> {
        [
            Self::Never,
            Self::Due,
            Self::Retry,
            Self::Deferred,
            Self::Deadline,
            Self::PeriodStart,
            Self::Reserved,
            Self::StateEnd,
            Self::Arrears,
        ]
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
    /// The attempt that a confirm, a cancel, a refund or an adoption is about; 0 for none.
    pub parent_no: i16,
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

/// A charge with a row of its own: it left the subscription's row unfinished, is in arrears, or is being refunded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aside {
    /// Which charge.
    pub charge: ChargeId,
    /// What it costs, minor units.
    pub due_minor: i64,
    /// What of it has been collected, minor units.
    pub collected_minor: i64,
    /// What of that was given back or may have been: all refunds but those proven refused, minor units.
    pub refunded_minor: i64,
    /// What of it the carrier took back, minor units.
    pub reversed_minor: i64,
    /// Its last attempt's number.
    pub attempt_no: i16,
    /// Round of its dunning schedule.
    pub round: i16,
    /// Step of the ladder.
    pub step: i16,
    /// Whether that attempt is open.
    pub open: OpenAttempt,
    /// Where the charge stands.
    pub state: ChargeState,
    /// When it fires next; `None` for never.
    pub next_at: Option<Timestamp>,
    /// Why it fires.
    pub next_kind: NextKind,
    /// From when on nothing more is tried; `None` for what is not tried anyway.
    pub expires_at: Option<Timestamp>,
}

impl Aside {
    /// The charge in a subscription's row as a row of its own, where nothing fires.
    #[must_use]
    pub fn of(charge: ChargeId, at: &Progress, state: ChargeState) -> Self {
        Self {
            charge,
            due_minor: at.due_minor,
            collected_minor: at.collected_minor,
            refunded_minor: 0,
            reversed_minor: 0,
            attempt_no: at.attempt_no,
            round: at.round,
            step: at.step,
            open: at.open,
            state,
            next_at: None,
            next_kind: NextKind::Never,
            expires_at: None,
        }
    }
}

/// What a subscription owes in arrears already, summed over its rows in that state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// How many charges.
    pub count: i16,
    /// How much of them is not collected, minor units.
    pub owed_minor: i64,
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
