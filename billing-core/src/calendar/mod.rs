//! Calendars: when charging is allowed, and what stood in the way.
//!
//! A calendar joins what a country, a carrier and a plan say: further windows, quiet hours, rest days, public
//! holidays, maintenance and paydays. Everything is local to the subscriber: an instant is allowed when the
//! subscriber's own clock shows an allowed minute of an allowed date, also while the clock is set forward or back.

mod days;
mod parts;

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::Date;
use thiserror::Error;

pub use self::days::{Dates, Holiday, Paydays, YEARS_MAX};
pub use self::parts::{Maintenance, Part};
use self::parts::{next_open, without};
use crate::period::{date_of_days, days_since_2000};
use crate::schedule::{Weekdays, Window};
use crate::zone::{DAY_MINUTES, DAY_S, Place, Zone};

/// How many local days are searched for an allowed instant.
pub const SEARCH_DAYS: i32 = 400;

/// The most holidays of one calendar.
pub const HOLIDAYS_MAX: usize = 64;

/// The most parts of a day, of each kind, that a calendar closes.
pub const PARTS_MAX: usize = 16;

/// What a country, a carrier and a plan say about when charging is allowed. Cheap to clone; the default has no
/// holes and costs nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Calendar(Option<Arc<Compiled>>);

/// What a calendar is made of. Everything may be empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CalendarRules {
    /// Charging must lie in all of them, besides the plan's own; at most [`PARTS_MAX`].
    pub windows: Vec<Window>,
    /// Parts of every day in which charging is not allowed; at most [`PARTS_MAX`].
    pub quiet: Vec<Part>,
    /// Weekly days of rest.
    pub rest_days: Weekdays,
    /// Public holidays; at most [`HOLIDAYS_MAX`].
    pub holidays: Vec<Holiday>,
    /// When the carrier cannot be reached; at most [`PARTS_MAX`].
    pub maintenance: Vec<Maintenance>,
    /// Preferred days.
    pub paydays: Paydays,
}

/// The rules, with what is asked for often worked out before.
#[derive(Debug, PartialEq, Eq)]
struct Compiled {
    rules: CalendarRules,
    /// What quiet hours and windows leave of every day, ascending.
    open_daily: Vec<Part>,
    /// Days since 2000-01-01 with the index of their holiday, ascending.
    holidays: Vec<(i32, u8)>,
}

/// A stretch of time in which charging is allowed; half-open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// Its first instant at or after the one that was asked for.
    pub from: Timestamp,
    /// The first instant at which it is over. Never beyond the local day.
    pub until: Timestamp,
    /// What moved `from` away from the instant that was asked for; the weightiest, when it was several.
    pub why: Option<Why>,
}

/// What moved a charge. Later ones outweigh earlier ones.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// The local time does not exist: the clock was set forward over it.
    Gap,
    /// A payday was near.
    Payday,
    /// The charging window was closed.
    Window,
    /// Quiet hours.
    QuietHours,
    /// The carrier's maintenance.
    Maintenance,
    /// A weekly day of rest.
    RestDay,
    /// A public holiday, by its name.
    Holiday(Arc<str>),
}

/// What can be wrong with a calendar.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum CalendarError {
    /// Nothing is open for too long.
    #[error("charging is not allowed on any of the {SEARCH_DAYS} days from {from} on: {why} is in the way")]
    Closed {
        /// The first local day that was looked at.
        from: Date,
        /// What closed the last of them.
        why: Why,
    },
    /// A list beyond its bound.
    #[error("a calendar has {count} {what}, at most {max} are allowed")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// The bound.
        max: usize,
    },
    /// An instant at the ends of the calendar.
    #[error("instant {0} s since 1970 is out of range")]
    OutOfRange(i64),
}

impl Why {
    /// The number that may be kept. Never reuse one.
    #[must_use]
    pub fn number(&self) -> i16 {
        match self {
            Self::Window => 1,
            Self::QuietHours => 2,
            Self::Maintenance => 3,
            Self::RestDay => 4,
            Self::Holiday(_) => 5,
            Self::Payday => 6,
            Self::Gap => 7,
        }
    }

    /// What it says, for a product manager.
    #[must_use]
    pub fn sentence(&self) -> String {
        match self {
            Self::Gap => {
                "that local time does not exist, because the clock is set forward over it".to_owned()
            }
            Self::Payday => "a payday is near, and the plan prefers those".to_owned(),
            Self::Window => "the charging window is closed then".to_owned(),
            Self::QuietHours => "quiet hours forbid it then".to_owned(),
            Self::Maintenance => "the carrier is in maintenance then".to_owned(),
            Self::RestDay => "that is a weekly day of rest".to_owned(),
            Self::Holiday(name) => format!("that is a public holiday ({name})"),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gap => f.write_str("a gap of the local clock"),
            Self::Payday => f.write_str("a payday"),
            Self::Window => f.write_str("the charging window"),
            Self::QuietHours => f.write_str("quiet hours"),
            Self::Maintenance => f.write_str("maintenance"),
            Self::RestDay => f.write_str("a day of rest"),
            Self::Holiday(name) => write!(f, "holiday {name}"),
        }
    }
}

impl Calendar {
    /// The calendar of some rules.
    ///
    /// # Errors
    /// [`CalendarError::TooMany`] beyond a bound; [`CalendarError::Closed`] when no day of the week has an open
    /// minute.
    pub fn new(rules: CalendarRules) -> Result<Self, CalendarError> {
        let bounds = [
            ("windows", rules.windows.len(), PARTS_MAX),
            ("quiet hours", rules.quiet.len(), PARTS_MAX),
            ("maintenance windows", rules.maintenance.len(), PARTS_MAX),
            ("holidays", rules.holidays.len(), HOLIDAYS_MAX),
        ];
        if let Some((what, count, max)) = bounds.into_iter().find(|(_, count, max)| count > max) {
            return Err(CalendarError::TooMany { what, count, max });
        }
        if rules == CalendarRules::default() {
            return Ok(Self::default());
        }
        let mut open_daily = vec![Part::DAY];
        for window in &rules.windows {
            open_daily = without(&open_daily, outside(*window));
        }
        for quiet in &rules.quiet {
            open_daily = without(&open_daily, Some(*quiet));
        }
        let from = date_of_days(0);
        if rules.rest_days.count() == 7 {
            return Err(CalendarError::Closed { from, why: Why::RestDay });
        }
        if open_daily.is_empty() {
            return Err(CalendarError::Closed { from, why: Why::QuietHours });
        }
        let holidays = days::by_day(&rules.holidays);
        Ok(Self(Some(Arc::new(Compiled { rules, open_daily, holidays }))))
    }

    /// Whether it has no holes at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The stretch in which charging is allowed at or after `at` for a plan's window in the subscriber's own zone:
    /// the one that holds `at`, else the next one to open.
    ///
    /// # Errors
    /// [`CalendarError::Closed`] when nothing opens within [`SEARCH_DAYS`] days.
    pub fn at_or_after(&self, window: Window, zone: &Zone, at: Timestamp) -> Result<Allowed, CalendarError> {
        let place = zone.place(at.as_second());
        let plain = match &self.0 {
            None => Some(window),
            Some(compiled) => compiled.plain_window(window, place.day),
        };
        if let Some(found) = plain.and_then(|plain| within_stretch(plain, &place, at)) {
            return found;
        }
        self.search(window, zone, at, &place)
    }

    /// The first payday on or after a day, at most `within` days later.
    #[must_use]
    pub fn payday(&self, day: Date, within: u16) -> Option<Date> {
        let compiled = self.0.as_ref()?;
        compiled.rules.paydays.on_or_after(day, within)
    }

    fn search(
        &self,
        window: Window,
        zone: &Zone,
        at: Timestamp,
        place: &Place,
    ) -> Result<Allowed, CalendarError> {
        let at_s = at.as_second();
        let mut why = self.obstacle(window, place.day, minute_of(place));
        let mut best: Option<(i64, i64, i32, u16)> = None;
        // A day may end after its successor began, where the clock is set back over midnight: start one day early.
        for day in place.day - 1..place.day + SEARCH_DAYS {
            for part in self.open_parts(window, day) {
                if let Some((from_s, until_s)) = next_open(zone, day, part, at_s)
                    && best.is_none_or(|(best_s, ..)| from_s < best_s)
                {
                    best = Some((from_s, until_s, day, part.from_minute()));
                }
            }
            if best.is_some() && day >= place.day {
                break;
            }
            if day > place.day {
                why = why.max(self.obstacle(window, day, 0));
            }
        }
        let Some((from_s, until_s, day, opens)) = best else {
            let from = date_of_days(place.day);
            return Err(CalendarError::Closed { from, why: why.unwrap_or(Why::Window) });
        };
        if from_s <= at_s {
            return Ok(Allowed { from: at, until: instant(until_s)?, why: None });
        }
        if opens > 0 {
            why = why.max(self.obstacle(window, day, opens - 1));
        }
        Ok(Allowed { from: instant(from_s)?, until: instant(until_s)?, why: why.or(Some(Why::Gap)) })
    }

    /// What of a local day is open.
    fn open_parts(&self, window: Window, day: i32) -> Vec<Part> {
        let plan = Part::new(window.from_minute(), window.to_minute()).unwrap_or(Part::DAY);
        let Some(compiled) = &self.0 else { return vec![plan] };
        if compiled.closed_all_day(day).is_some() {
            return Vec::new();
        }
        let mut parts = without(&compiled.open_daily, outside(window));
        for maintenance in &compiled.rules.maintenance {
            for part in maintenance.of_day(day).into_iter().flatten() {
                parts = without(&parts, Some(part));
            }
        }
        parts
    }

    /// What closes a minute of a local day.
    fn obstacle(&self, window: Window, day: i32, minute: u16) -> Option<Why> {
        let by_plan = (!window.contains(minute)).then_some(Why::Window);
        let Some(compiled) = &self.0 else { return by_plan };
        let rules = &compiled.rules;
        let maintained =
            |m: &Maintenance| m.of_day(day).into_iter().flatten().any(|part| part.contains(minute));
        compiled
            .closed_all_day(day)
            .or_else(|| rules.maintenance.iter().any(maintained).then_some(Why::Maintenance))
            .or_else(|| rules.quiet.iter().any(|quiet| quiet.contains(minute)).then_some(Why::QuietHours))
            .or_else(|| rules.windows.iter().any(|w| !w.contains(minute)).then_some(Why::Window))
            .or(by_plan)
    }
}

impl Compiled {
    /// The window of a day that has no holes of its own, where it is one.
    fn plain_window(&self, window: Window, day: i32) -> Option<Window> {
        let [open] = self.open_daily.as_slice() else { return None };
        let plain = self.closed_all_day(day).is_none()
            && self.rules.maintenance.iter().all(|maintenance| maintenance.of_day(day) == [None; 2]);
        if !plain {
            return None;
        }
        Window::new(window.from_minute().max(open.from_minute()), window.to_minute().min(open.to_minute()))
            .ok()
    }

    fn closed_all_day(&self, day: i32) -> Option<Why> {
        let index = self.holidays.partition_point(|(known, _)| *known < day);
        if let Some((_, holiday)) = self.holidays.get(index).filter(|(known, _)| *known == day) {
            let name =
                self.rules.holidays.get(usize::from(*holiday)).map(|holiday| Arc::clone(&holiday.name));
            return name.map(Why::Holiday);
        }
        self.rules.rest_days.contains(days::weekday_of(day)).then_some(Why::RestDay)
    }
}

/// The answer for a day that is one plain window inside of one stretch of the zone: nearly always. Not for a window
/// that is over: the next day may be another one.
fn within_stretch(window: Window, place: &Place, at: Timestamp) -> Option<Result<Allowed, CalendarError>> {
    let midnight_s = at.as_second() - place.second;
    let opens_s = midnight_s + i64::from(window.from_minute()) * 60;
    let closes_s = midnight_s + i64::from(window.to_minute()) * 60;
    if closes_s >= place.span.until_s || at.as_second() >= closes_s || place.second >= DAY_S {
        return None;
    }
    let until = match instant(closes_s) {
        Ok(until) => until,
        Err(error) => return Some(Err(error)),
    };
    if at.as_second() >= opens_s {
        return Some(Ok(Allowed { from: at, until, why: None }));
    }
    None
}

/// The part of the day outside of a window; `None` when it is open all day.
fn outside(window: Window) -> Option<Part> {
    let (from, to) = (window.from_minute(), window.to_minute());
    if window == Window::ALWAYS { None } else { Part::new(to, from) }
}

fn minute_of(place: &Place) -> u16 {
    u16::try_from(place.second / 60).unwrap_or(0).min(DAY_MINUTES - 1)
}

fn instant(second: i64) -> Result<Timestamp, CalendarError> {
    Timestamp::from_second(second).map_err(|_| CalendarError::OutOfRange(second))
}

/// The number of a date, as this module counts days.
fn number_of(day: Date) -> i32 {
    days_since_2000(day)
}

#[cfg(test)]
mod tests;
