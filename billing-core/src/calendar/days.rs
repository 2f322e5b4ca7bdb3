//! Days of a calendar: holidays and paydays.

use std::sync::Arc;

use jiff::civil::{Date, Weekday};

use super::number_of;
use crate::period::date_of_days;
use crate::schedule::{Nth, nth_weekday};

/// The most years that a list of dates of a moveable holiday may cover.
pub const YEARS_MAX: usize = 90;

/// The years in which periods lie.
const YEARS: std::ops::RangeInclusive<i16> = 2000..=2090;

/// A public holiday.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holiday {
    /// What people call it.
    pub name: Arc<str>,
    /// When it is.
    pub dates: Dates,
}

/// The dates of a holiday.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dates {
    /// The same date each year; 29 February only in leap years.
    Fixed {
        /// 1 to 12.
        month: i8,
        /// 1 to 31.
        day: i8,
    },
    /// Such as the fourth Thursday of November.
    NthWeekday {
        /// 1 to 12.
        month: i8,
        /// Which of the month.
        nth: Nth,
        /// The weekday.
        weekday: Weekday,
    },
    /// Moveable, and therefore listed; at most [`YEARS_MAX`].
    Listed(Vec<Date>),
}

/// Days of the month on which people are paid; 31 means the last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Paydays {
    /// Ascending, each 1 to 31.
    pub days: Vec<i8>,
}

impl Dates {
    fn of_year(&self, year: i16) -> Option<Date> {
        match self {
            Self::Fixed { month, day } => Date::new(year, *month, *day).ok(),
            Self::NthWeekday { month, nth, weekday } => {
                nth_weekday(Date::new(year, *month, 1).ok()?, *nth, *weekday)
            }
            Self::Listed(_) => None,
        }
    }
}

impl Paydays {
    /// The first on or after a day, at most `within` days later.
    pub(super) fn on_or_after(&self, day: Date, within: u16) -> Option<Date> {
        let first = number_of(day);
        // A month always holds the first of the next payday's; whoever asks for more days than that asks too much.
        let last = first + i32::from(within.min(62));
        (first..=last).map(date_of_days).find(|date| {
            let is_last = date.day() == date.days_in_month();
            self.days.iter().any(|day| *day == date.day() || is_last && *day > date.day())
        })
    }
}

/// All days of all holidays with their index, ascending; of two on one day the first is kept.
pub(super) fn by_day(holidays: &[Holiday]) -> Vec<(i32, u8)> {
    let mut days = Vec::new();
    for (index, holiday) in (0_u8..).zip(holidays) {
        match &holiday.dates {
            Dates::Listed(dates) => days.extend(dates.iter().map(|date| (number_of(*date), index))),
            yearly => days
                .extend(YEARS.filter_map(|year| yearly.of_year(year)).map(|date| (number_of(date), index))),
        }
    }
    days.sort_unstable();
    days.dedup_by_key(|(day, _)| *day);
    days
}

/// The weekday of a day since 2000-01-01, a Saturday.
pub(super) fn weekday_of(day: i32) -> Weekday {
    let offset = (day + 5).rem_euclid(7);
    Weekday::from_monday_zero_offset(offset as i8).unwrap_or(Weekday::Monday)
}
