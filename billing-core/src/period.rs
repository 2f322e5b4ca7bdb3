//! Periods: what one charge pays for, named by its local start.
//!
//! `days since 2000-01-01 × 2048 + minute`. The minute is 0 for one charge a day or longer, the local minute of the
//! day for several local times a day, and the minutes elapsed since the local day began for schedules that count
//! elapsed time: those go beyond 1439 on a day on which the clock is set back. Later periods have larger numbers,
//! always. Being local, an overlap cannot make two and a gap cannot lose one.

use std::fmt;
use std::str::FromStr;

use jiff::civil::Date;
use thiserror::Error;

use crate::zone::DAY_MINUTES;

/// The local start of what one charge pays for. Fits 26 bits (to the year 2089), as `our_ref` demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(i32);

/// What can be wrong with a period.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum PeriodError {
    /// The number names no local start between 2000 and 2089.
    #[error("period {0} is not a local start between 2000-01-01 and 2089-09-17")]
    OutOfRange(i64),
    /// The text is not of the form `20261121` or `20261121t0630`.
    #[error("period {0:?} is not of the form 20261121 or 20261121t0630")]
    Unreadable(String),
}

const DAY_STEP: i32 = 2_048;

/// The most minutes that a period's start can lie after the beginning of its local day.
pub const ELAPSED_MAX: u16 = 2_047;

impl Period {
    /// The first number beyond 26 bits.
    pub const LIMIT: i32 = 1 << 26;

    /// The period that starts on a local date, at a minute that is 0 unless several charges fall on one day.
    ///
    /// # Errors
    /// [`PeriodError::OutOfRange`] outside of 2000 to 2089 or beyond minute 1439.
    pub fn starting(day: Date, minute: u16) -> Result<Self, PeriodError> {
        let number = i64::from(days_since_2000(day)) * i64::from(DAY_STEP) + i64::from(minute);
        if minute >= DAY_MINUTES {
            return Err(PeriodError::OutOfRange(number));
        }
        i32::try_from(number).map_err(|_| PeriodError::OutOfRange(number)).and_then(Self::from_number)
    }

    /// The period that starts some elapsed minutes after a local day began, at most [`ELAPSED_MAX`].
    ///
    /// # Errors
    /// [`PeriodError::OutOfRange`] outside of 2000 to 2089 or beyond [`ELAPSED_MAX`].
    pub fn elapsed(day: Date, minutes: i64) -> Result<Self, PeriodError> {
        let number = i64::from(days_since_2000(day)) * i64::from(DAY_STEP) + minutes;
        if !(0..=i64::from(ELAPSED_MAX)).contains(&minutes) {
            return Err(PeriodError::OutOfRange(number));
        }
        i32::try_from(number).map_err(|_| PeriodError::OutOfRange(number)).and_then(Self::from_number)
    }

    /// The smallest period after this one: where a new anchor, zone or plan gives a number that would not grow.
    ///
    /// # Errors
    /// [`PeriodError::OutOfRange`] beyond 2089.
    pub fn plus_one(self) -> Result<Self, PeriodError> {
        Self::from_number(self.0 + 1)
    }

    /// The period of a number, as the database keeps it.
    ///
    /// # Errors
    /// [`PeriodError::OutOfRange`] when it names no local start.
    pub fn from_number(number: i32) -> Result<Self, PeriodError> {
        if !(0..Self::LIMIT).contains(&number) {
            return Err(PeriodError::OutOfRange(i64::from(number)));
        }
        Ok(Self(number))
    }

    /// The number.
    #[must_use]
    pub fn number(self) -> i32 {
        self.0
    }

    /// The local date on which it starts.
    #[must_use]
    pub fn date(self) -> Date {
        date_of_days(self.0 / DAY_STEP)
    }

    /// The local minute of the day at which it starts, or the minutes elapsed since that day began; 0 for one charge
    /// a day or longer.
    #[must_use]
    pub fn minute(self) -> u16 {
        u16::try_from(self.0 % DAY_STEP).unwrap_or(0)
    }

    /// `yyyymm` of its start: the month under which the history keeps it.
    #[must_use]
    pub fn month(self) -> i32 {
        let start = self.date();
        i32::from(start.year()) * 100 + i32::from(start.month())
    }
}

/// Days since 2000-01-01, negative before.
#[must_use]
pub fn days_since_2000(day: Date) -> i32 {
    // Years that begin in March end with the leap day. A count without a library: this runs several times a charge.
    let (year, month) = (i32::from(day.year()), i32::from(day.month()));
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + i32::from(day.day()) - 1;
    era * ERA_DAYS + of_era * 365 + of_era / 4 - of_era / 100 + of_year - MARCH_0_TO_2000
}

/// The date that many days after 2000-01-01, clamped to the calendar.
#[must_use]
pub fn date_of_days(days: i32) -> Date {
    let from_march_0 = i64::from(days) + i64::from(MARCH_0_TO_2000);
    let era_days = i64::from(ERA_DAYS);
    let (era, of_era) = (from_march_0.div_euclid(era_days), from_march_0.rem_euclid(era_days));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let clamped = if days < 0 { Date::MIN } else { Date::MAX };
    i16::try_from(year).ok().and_then(|year| Date::new(year, month as i8, day as i8).ok()).unwrap_or(clamped)
}

const ERA_DAYS: i32 = 146_097;
/// Days from 0000-03-01 to 2000-01-01.
const MARCH_0_TO_2000: i32 = 730_425;

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = self.date();
        write!(f, "{:04}{:02}{:02}", start.year(), start.month(), start.day())?;
        match self.minute() {
            0 => Ok(()),
            minute => write!(f, "t{:02}{:02}", minute / 60, minute % 60),
        }
    }
}

impl FromStr for Period {
    type Err = PeriodError;

    fn from_str(text: &str) -> Result<Self, PeriodError> {
        let unreadable = || PeriodError::Unreadable(text.chars().take(20).collect());
        let (day, time) = text.split_once('t').map_or((text, None), |(day, time)| (day, Some(time)));
        let digits = |part: &str, length: usize| -> Result<u32, PeriodError> {
            if part.len() != length || !part.bytes().all(|b| b.is_ascii_digit()) {
                return Err(unreadable());
            }
            part.parse().map_err(|_| unreadable())
        };
        let number = digits(day, 8)?;
        let year = i16::try_from(number / 10_000).map_err(|_| unreadable())?;
        let start =
            Date::new(year, (number / 100 % 100) as i8, (number % 100) as i8).map_err(|_| unreadable())?;
        let minute = match time {
            None => 0,
            Some(time) => {
                let number = digits(time, 4)?;
                if number % 100 > 59 {
                    return Err(unreadable());
                }
                (number / 100 * 60 + number % 100) as u16
            }
        };
        Self::elapsed(start, i64::from(minute))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use jiff::civil::date;
    use jiff::{ToSpan, Unit};
    use proptest::prelude::*;

    #[test]
    fn numbers_of_the_glossary() {
        assert_eq!(Period::starting(date(2000, 1, 1), 0).unwrap().number(), 0);
        assert_eq!(Period::starting(date(2000, 1, 2), 390).unwrap().number(), 2_048 + 390);
        assert!(Period::starting(date(1999, 12, 31), 0).is_err());
        assert!(Period::starting(date(2000, 1, 1), 1_440).is_err());
        // The last minute of a local day of 25 hours.
        assert_eq!(Period::elapsed(date(2000, 1, 1), 1_499).unwrap().to_string(), "20000101t2459");
        assert!(Period::elapsed(date(2000, 1, 1), 2_048).is_err());
        assert!(Period::elapsed(date(2000, 1, 1), -1).is_err());
        assert!(Period::from_number(Period::LIMIT - 1).unwrap().plus_one().is_err());
        assert!("2026112".parse::<Period>().is_err());
        assert!("20261131".parse::<Period>().is_err());
        assert!("20261121t2460".parse::<Period>().is_err());
        assert!("2026é121".parse::<Period>().is_err());
    }

    proptest! {
        #[test]
        fn days_are_counted_as_by_the_library(days in -800_000..3_000_000_i32) {
            let epoch = date(2000, 1, 1);
            if let Ok(day) = epoch.checked_add(days.days()) {
                prop_assert_eq!(days_since_2000(day), day.since((Unit::Day, epoch)).unwrap().get_days());
                prop_assert_eq!(date_of_days(days), day);
            } else {
                prop_assert!([Date::MIN, Date::MAX].contains(&date_of_days(days)));
            }
        }

        #[test]
        fn numbers_texts_and_starts_agree(days in 0..32_767_i32, minute in 0..=ELAPSED_MAX) {
            let period = Period::elapsed(date_of_days(days), i64::from(minute)).unwrap();
            prop_assert_eq!(Period::from_number(period.number()).unwrap(), period);
            prop_assert_eq!(period.to_string().parse::<Period>().unwrap(), period);
            prop_assert_eq!((days_since_2000(period.date()), period.minute()), (days, minute));
        }
    }
}
