//! Charging windows: local minutes of one day.

use jiff::Timestamp;

use super::ScheduleError;
use crate::calendar::{Calendar, CalendarError};
use crate::zone::{DAY_MINUTES, Zone};

/// Local minutes of the day in which charging is allowed: `[from, to)`, 0 ≤ from < to ≤ 1440.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    from_minute: u16,
    to_minute: u16,
}

impl Window {
    /// The whole day.
    pub const ALWAYS: Self = Self { from_minute: 0, to_minute: DAY_MINUTES };

    /// A window of local minutes of one day.
    ///
    /// # Errors
    /// [`ScheduleError::Window`] when it is empty or leaves the day.
    pub fn new(from_minute: u16, to_minute: u16) -> Result<Self, ScheduleError> {
        if from_minute >= to_minute || to_minute > DAY_MINUTES {
            return Err(ScheduleError::Window { from: from_minute, to: to_minute });
        }
        Ok(Self { from_minute, to_minute })
    }

    /// First minute.
    #[must_use]
    pub fn from_minute(self) -> u16 {
        self.from_minute
    }

    /// First minute after it.
    #[must_use]
    pub fn to_minute(self) -> u16 {
        self.to_minute
    }

    /// Whether a local minute lies inside.
    #[must_use]
    pub fn contains(self, minute: u16) -> bool {
        (self.from_minute..self.to_minute).contains(&minute)
    }

    /// The instants between which the local clock shows a minute of the window, at or after `at`: the stretch that
    /// holds `at`, else the next one. Half-open: charging is allowed at the first, not at the second. A window in
    /// which the clock is set back to before it opens, shuts and opens again.
    ///
    /// # Errors
    /// [`CalendarError`] at the ends of the calendar.
    pub fn at_or_after(self, zone: &Zone, at: Timestamp) -> Result<(Timestamp, Timestamp), CalendarError> {
        let allowed = Calendar::default().at_or_after(self, zone, at)?;
        Ok((allowed.from, allowed.until))
    }
}
