//! Time zones: a local date and minute to an instant and back.
//!
//! A zone is *named* by chrono-tz's `Tz` (the type that the book and the API use), its rules come from jiff's
//! bundled database: chrono-tz 0.10.4 carries IANA 2025b, which is wrong for several countries from 2026 on.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use jiff::Timestamp;
use jiff::civil::{Date, Time};
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};
use thiserror::Error;

static BUNDLE: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// Minutes in a civil day.
pub const DAY_MINUTES: u16 = 1_440;

/// A time zone: its IANA name and its rules.
#[derive(Clone)]
pub struct Zone {
    name: chrono_tz::Tz,
    rules: TimeZone,
}

/// What can be wrong with a zone.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum ZoneError {
    /// No such name in the IANA database.
    #[error("unknown time zone {0:?}: an IANA name such as Africa/Tunis is expected")]
    Unknown(String),
    /// A local time outside the range of instants.
    #[error("local time {date} minute {minute} is out of range")]
    OutOfRange {
        /// The local date.
        date: Date,
        /// The local minute of the day.
        minute: u16,
    },
    /// The bundled rules are older than 2026 (see the module's text).
    #[error("time zone rules are stale: Africa/Casablanca at 2026-12-01 must be at +00, the rules say {0}")]
    Stale(String),
}

impl Zone {
    /// The zone of an IANA name, case-sensitive.
    ///
    /// # Errors
    /// [`ZoneError::Unknown`] when either database lacks the name.
    pub fn named(name: &str) -> Result<Self, ZoneError> {
        let unknown = || ZoneError::Unknown(name.chars().take(64).collect());
        let tz = chrono_tz::Tz::from_str(name).map_err(|_| unknown())?;
        let rules = BUNDLE.get(tz.name()).map_err(|_| unknown())?;
        Ok(Self { name: tz, rules })
    }

    /// Proves that the bundled rules know the transitions of 2026.
    ///
    /// # Errors
    /// [`ZoneError::Stale`] when they do not: renewals would run an hour off.
    pub fn check_rules() -> Result<(), ZoneError> {
        let casablanca = Self::named("Africa/Casablanca")?;
        let offset = casablanca.rules.to_offset(Timestamp::constant(1_796_083_200, 0));
        if offset.seconds() == 0 { Ok(()) } else { Err(ZoneError::Stale(offset.to_string())) }
    }

    /// The IANA name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name.name()
    }

    /// The type by which the book and the API name this zone.
    #[must_use]
    pub fn tz(&self) -> chrono_tz::Tz {
        self.name
    }

    /// The instant of a local date and minute. In a gap: the first valid instant after it; in an overlap: the
    /// first occurrence. `minute` may be 1440, the start of the next day.
    ///
    /// # Errors
    /// [`ZoneError::OutOfRange`] at the ends of the calendar.
    pub fn instant(&self, date: Date, minute: u16) -> Result<Timestamp, ZoneError> {
        let out_of_range = |_| ZoneError::OutOfRange { date, minute };
        let (day, of_day) = if minute >= DAY_MINUTES {
            (date.tomorrow().map_err(out_of_range)?, minute - DAY_MINUTES)
        } else {
            (date, minute)
        };
        let hour = i8::try_from(of_day / 60).unwrap_or(0);
        let time = Time::new(hour, (of_day % 60) as i8, 0, 0).map_err(out_of_range)?;
        let local = day.to_datetime(time);
        match self.rules.to_ambiguous_timestamp(local).offset() {
            AmbiguousOffset::Unambiguous { offset } | AmbiguousOffset::Fold { before: offset, .. } => {
                offset.to_timestamp(local).map_err(out_of_range)
            }
            AmbiguousOffset::Gap { before, after } => {
                let earlier = after.to_timestamp(local).map_err(out_of_range)?;
                match self.rules.following(earlier).next() {
                    Some(transition) => Ok(transition.timestamp()),
                    None => before.to_timestamp(local).map_err(out_of_range),
                }
            }
        }
    }

    /// The local date and minute of the day at an instant.
    #[must_use]
    pub fn local(&self, at: Timestamp) -> (Date, u16) {
        let local = self.rules.to_datetime(at);
        let minute = i16::from(local.hour()) * 60 + i16::from(local.minute());
        (local.date(), u16::try_from(minute).unwrap_or(0))
    }

    /// `2026-03-29 06:00 Africa/Tunis (+01)`: how people read an instant.
    #[must_use]
    pub fn describe(&self, at: Timestamp) -> String {
        let local = self.rules.to_datetime(at);
        let offset = self.rules.to_offset(at);
        format!(
            "{} {:02}:{:02}:{:02} {} ({offset})",
            local.date(),
            local.hour(),
            local.minute(),
            local.second(),
            self.name()
        )
    }
}

impl PartialEq for Zone {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Zone {}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use jiff::civil::date;

    fn at(zone: &str, day: Date, minute: u16) -> String {
        Zone::named(zone).unwrap().instant(day, minute).unwrap().to_string()
    }

    #[test]
    fn rules_are_of_2026() {
        Zone::check_rules().unwrap();
    }

    #[test]
    fn a_gap_gives_the_first_valid_instant_after_it() {
        // Madrid 2026-03-29: 02:00 to 03:00 does not exist.
        assert_eq!(at("Europe/Madrid", date(2026, 3, 29), 150), "2026-03-29T01:00:00Z");
        assert_eq!(at("Europe/Madrid", date(2026, 3, 29), 180), "2026-03-29T01:00:00Z");
        // Samoa skipped 2011-12-30 altogether.
        assert_eq!(at("Pacific/Apia", date(2011, 12, 30), 600), "2011-12-30T10:00:00Z");
    }

    #[test]
    fn an_overlap_gives_the_first_occurrence() {
        assert_eq!(at("Europe/Madrid", date(2026, 10, 25), 150), "2026-10-25T00:30:00Z");
    }

    #[test]
    fn minute_1440_is_the_next_midnight() {
        assert_eq!(at("Africa/Tunis", date(2026, 1, 1), 1_440), "2026-01-01T23:00:00Z");
    }

    #[test]
    fn local_is_the_inverse_outside_of_gaps() {
        let zone = Zone::named("Asia/Tokyo").unwrap();
        let instant = zone.instant(date(2026, 5, 6), 367).unwrap();
        assert_eq!(zone.local(instant), (date(2026, 5, 6), 367));
    }

    #[test]
    fn unknown_names_are_refused() {
        assert!(matches!(Zone::named("Africa/Tunisia"), Err(ZoneError::Unknown(_))));
    }
}
