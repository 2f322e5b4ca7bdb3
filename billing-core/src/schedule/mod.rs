//! Schedules: which periods a subscription has, when each falls due, and when charging is allowed.
//!
//! Everything is counted from the anchor, never from the day of payment, so that paying late neither skips nor
//! doubles a period. A new period starts where the previous one ends.
//!
//! | cadence | a period is named by | falls due |
//! |---|---|---|
//! | once, days, weeks, months, years | its local date | at the anchor's local minute of that date |
//! | the same, with several local times | its local date and minute | at that minute, spread |
//! | minutes, hours | the local date and the minutes elapsed since that day began | when that much time has passed |

mod cadence;
mod change;
mod due;
mod elapsed;
mod phases;
mod window;

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan};
use thiserror::Error;

pub use self::cadence::{Cadence, EVERY_MAX, Nth, Weekdays, nth_weekday};
pub use self::change::{
    Line, Resume, Sold, aligned_anchor, first_after, first_unsold, move_anchor, move_anchor_unsold,
    open_after, resume,
};
pub use self::due::Due;
pub use self::phases::{PHASES_MAX, Phase, price_of};
pub use self::window::Window;
use crate::calendar::{Allowed, Calendar, CalendarError};
use crate::ids::SubscriptionId;
use crate::period::{Period, PeriodError};
use crate::zone::{Zone, ZoneError};

/// The most local times a day.
pub const TIMES_MAX: usize = 24;

/// The most days of a trial, or for which a subscription may be parked.
pub const WAIT_DAYS_MAX: u16 = 1_000;

/// The most days by which a charge may wait for a payday.
pub const PAYDAY_DAYS_MAX: u16 = 15;

/// Where a subscription's periods are counted from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    /// The local date of the first period.
    pub date: Date,
    /// The local minute of the day at which charges fall due.
    pub minute: u16,
    /// What to add to the periods counted from the date: those under earlier anchors, less those that the date was
    /// set back by. 0 for the first anchor.
    pub done: i32,
}

/// When a plan charges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// How often.
    pub cadence: Cadence,
    /// The local minute of the day at which charges fall due, before they are spread; the first of several.
    pub at_minute: u16,
    /// All local minutes of the day, ascending, where there are several; else empty. At most [`TIMES_MAX`].
    pub times: Vec<u16>,
    /// Over how many minutes new subscriptions are spread, by blocks of 64 neighbours.
    pub spread_minutes: u16,
    /// When charging is allowed.
    pub window: Window,
    /// Its holes: what country, carrier and plan say besides.
    pub calendar: Calendar,
    /// By how many days a charge may wait for a payday; 0 for not at all.
    pub payday_days: u16,
    /// No period starts before this date.
    pub start: Option<Date>,
    /// No period starts after this date.
    pub end: Option<Date>,
    /// How many periods there are in all.
    pub count: Option<u32>,
    /// What happens between the sign-up and the first charge.
    pub wait: Wait,
    /// Introductory prices, in their sequence; then the plan's own. At most [`PHASES_MAX`].
    pub phases: Vec<Phase>,
}

/// What happens between the sign-up and the first charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// The first charge is due at once.
    None,
    /// Access without a charge, for so many days.
    Trial(u16),
    /// Neither access nor a charge, for so many days.
    Parked(u16),
}

/// What can be wrong with a schedule or its arithmetic.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum ScheduleError {
    /// A window must lie within one local day.
    #[error("charging window {from}..{to} (minutes) is empty or leaves the day")]
    Window {
        /// First minute.
        from: u16,
        /// First minute after.
        to: u16,
    },
    /// A date at the ends of the calendar.
    #[error("{days} days after {from} is out of range")]
    Date {
        /// From where.
        from: Date,
        /// How far.
        days: u16,
    },
    /// An instant at the ends of the calendar.
    #[error("{seconds} s after {from} is out of range")]
    Instant {
        /// From where.
        from: Timestamp,
        /// How far.
        seconds: i64,
    },
    /// See [`ZoneError`].
    #[error(transparent)]
    Zone(#[from] ZoneError),
    /// See [`PeriodError`].
    #[error(transparent)]
    Period(#[from] PeriodError),
    /// See [`CalendarError`].
    #[error(transparent)]
    Calendar(#[from] CalendarError),
}

impl Anchor {
    /// The first anchor of a subscription.
    #[must_use]
    pub fn new(date: Date, minute: u16) -> Self {
        Self { date, minute, done: 0 }
    }
}

impl Schedule {
    /// A schedule with one local time a day, without end, holes or phases.
    #[must_use]
    pub fn simple(cadence: Cadence, at_minute: u16, spread_minutes: u16, window: Window) -> Self {
        Self {
            cadence,
            at_minute,
            times: Vec::new(),
            spread_minutes,
            window,
            calendar: Calendar::default(),
            payday_days: 0,
            start: None,
            end: None,
            count: None,
            wait: Wait::None,
            phases: Vec::new(),
        }
    }

    /// The date of the first charge of a subscription that is signed up on a local date: after trial or parking, not
    /// before the plan's start. It becomes the anchor.
    ///
    /// # Errors
    /// [`ScheduleError::Date`] at the ends of the calendar.
    pub fn anchor_date(&self, signed_up: Date) -> Result<Date, ScheduleError> {
        let days = match self.wait {
            Wait::None => 0,
            Wait::Trial(days) | Wait::Parked(days) => days.min(WAIT_DAYS_MAX),
        };
        let waited = signed_up.checked_add(i64::from(days).days());
        let waited = waited.map_err(|_| ScheduleError::Date { from: signed_up, days })?;
        Ok(self.start.map_or(waited, |start| start.max(waited)))
    }

    /// The minute at which a new subscription's charges fall due: the plan's, spread by block of neighbours.
    #[must_use]
    pub fn anchor_minute(&self, id: SubscriptionId) -> u16 {
        let latest = self.window.to_minute().saturating_sub(1);
        self.at_minute.saturating_add(self.spread_of(id)).min(latest)
    }

    /// By how many minutes a subscription is moved within `spread_minutes`.
    fn spread_of(&self, id: SubscriptionId) -> u16 {
        let spread = u64::from(self.spread_minutes.max(1));
        let offset = (id.block().wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 32) % spread;
        u16::try_from(offset).unwrap_or(0)
    }

    /// Whether a subscription with this anchor date has a period on or after `day`. Needs no zone.
    #[must_use]
    pub fn has_period_from(&self, anchor: Date, day: Date) -> bool {
        let start = self.cadence.on_or_after(anchor, day);
        start.is_some_and(|start| self.end.is_none_or(|end| start <= end)) && self.count != Some(0)
    }

    /// The first period of a subscription that starts on or after `day`, a local date.
    ///
    /// # Errors
    /// [`ScheduleError::Period`] beyond 2089, [`ScheduleError::Zone`] at the ends of the calendar.
    pub fn first_period(
        &self,
        anchor: Anchor,
        day: Date,
        zone: &Zone,
    ) -> Result<Option<Period>, ScheduleError> {
        let found = match self.cadence.elapsed_minutes() {
            Some(every) => Some(elapsed::on_or_after(every, anchor, day, zone)?),
            None => match self.cadence.on_or_after(anchor.date, day) {
                Some(day) => Some(Period::starting(day, self.times.first().copied().unwrap_or(0))?),
                None => None,
            },
        };
        self.within_bounds(anchor, found, zone)
    }

    /// The period after `period`; `None` after the last.
    ///
    /// # Errors
    /// [`ScheduleError::Period`] beyond 2089, [`ScheduleError::Zone`] at the ends of the calendar.
    pub fn next_period(
        &self,
        anchor: Anchor,
        period: Period,
        zone: &Zone,
    ) -> Result<Option<Period>, ScheduleError> {
        let next = self.next_unbounded(anchor, period, zone)?;
        self.within_bounds(anchor, next, zone)
    }

    fn next_unbounded(
        &self,
        anchor: Anchor,
        period: Period,
        zone: &Zone,
    ) -> Result<Option<Period>, ScheduleError> {
        if let Some(every) = self.cadence.elapsed_minutes() {
            return Ok(Some(elapsed::after(every, anchor, period, zone)?));
        }
        let day = period.date();
        // A period between two dates of the cadence has no further times on its own date.
        if !self.times.is_empty() && self.cadence.on_or_after(anchor.date, day) == Some(day) {
            let later = self.times.iter().find(|time| **time > period.minute());
            if let Some(time) = later {
                return Ok(Some(Period::starting(day, *time)?));
            }
        }
        let start = self.cadence.after(anchor.date, day);
        let first = self.times.first().copied().unwrap_or(0);
        start.map(|day| Period::starting(day, first).map_err(ScheduleError::from)).transpose()
    }

    fn within_bounds(
        &self,
        anchor: Anchor,
        found: Option<Period>,
        zone: &Zone,
    ) -> Result<Option<Period>, ScheduleError> {
        let Some(period) = found else { return Ok(None) };
        if self.end.is_some_and(|end| period.date() > end) {
            return Ok(None);
        }
        match self.count {
            Some(count) if self.index_of(anchor, period, zone)? >= count => Ok(None),
            _ => Ok(Some(period)),
        }
    }

    /// How many periods started before this one, those before the anchor was moved included: 0 for the first.
    ///
    /// # Errors
    /// [`ScheduleError::Zone`] at the ends of the calendar.
    pub fn index_of(&self, anchor: Anchor, period: Period, zone: &Zone) -> Result<u32, ScheduleError> {
        let since = match self.cadence.elapsed_minutes() {
            Some(every) => elapsed::starts_before(every, anchor, period, zone)?,
            None => {
                let day = period.date();
                let dates = self.cadence.starts_before(anchor.date, day);
                if self.times.is_empty() {
                    // A number that was raised by one stands for the start after the one on its date.
                    let raised = period.minute() > 0 && day >= anchor.date;
                    let on_date = raised && self.cadence.on_or_after(anchor.date, day) == Some(day);
                    dates + u32::from(on_date)
                } else {
                    let on_date =
                        day >= anchor.date && self.cadence.on_or_after(anchor.date, day) == Some(day);
                    let earlier = self.times.iter().filter(|time| **time < period.minute()).count();
                    let times = u32::try_from(self.times.len()).unwrap_or(1);
                    let earlier = if on_date { u32::try_from(earlier).unwrap_or(0) } else { 0 };
                    dates.saturating_mul(times).saturating_add(earlier)
                }
            }
        };
        Ok(since.saturating_add_signed(anchor.done))
    }

    /// The stretch in which charging is allowed at or after `at`, with window and calendar.
    ///
    /// # Errors
    /// [`ScheduleError::Calendar`] when nothing opens for long.
    pub fn allowed(&self, zone: &Zone, at: Timestamp) -> Result<Allowed, ScheduleError> {
        Ok(self.calendar.at_or_after(self.window, zone, at)?)
    }
}

#[cfg(test)]
mod tests;
