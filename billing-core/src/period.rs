//! Periods: what one charge pays for, named by its local start.
//!
//! `days since 2000-01-01 × 2048 + minute of the day`. The minute is 0 for one charge a day or longer. Later
//! periods have larger numbers, always. Being local, an overlap cannot make two and a gap cannot lose one.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{Date, DateTime};
use jiff::{Unit, civil::date};
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

const EPOCH: Date = date(2000, 1, 1);
const DAY_STEP: i32 = 2_048;

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

    /// The period of a number, as the database keeps it.
    ///
    /// # Errors
    /// [`PeriodError::OutOfRange`] when it names no local start.
    pub fn from_number(number: i32) -> Result<Self, PeriodError> {
        if !(0..Self::LIMIT).contains(&number) || number % DAY_STEP >= i32::from(DAY_MINUTES) {
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

    /// The local minute of the day at which it starts; 0 for one charge a day or longer.
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
    day.since((Unit::Day, EPOCH)).map_or(0, |span| span.get_days())
}

/// The date that many days after 2000-01-01, clamped to the calendar.
#[must_use]
pub fn date_of_days(days: i32) -> Date {
    DateTime::from(EPOCH).date().saturating_add(jiff::Span::new().days(days))
}

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
        Self::starting(start, minute)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_of_the_glossary() {
        assert_eq!(Period::starting(date(2000, 1, 1), 0).unwrap().number(), 0);
        assert_eq!(Period::starting(date(2000, 1, 2), 390).unwrap().number(), 2_048 + 390);
        assert!(Period::starting(date(1999, 12, 31), 0).is_err());
        assert!(Period::from_number(1_500).is_err());
        assert!("2026112".parse::<Period>().is_err());
        assert!("20261131".parse::<Period>().is_err());
        assert!("20261121t2460".parse::<Period>().is_err());
        assert!("2026é121".parse::<Period>().is_err());
    }

    proptest! {
        #[test]
        fn numbers_texts_and_starts_agree(days in 0..32_767_i32, minute in 0..1_440_u16) {
            let period = Period::starting(date_of_days(days), minute).unwrap();
            prop_assert_eq!(Period::from_number(period.number()).unwrap(), period);
            prop_assert_eq!(period.to_string().parse::<Period>().unwrap(), period);
            prop_assert_eq!((days_since_2000(period.date()), period.minute()), (days, minute));
        }
    }
}
