//! Time zones: a local date and minute to an instant and back.
//!
//! A zone is *named* by chrono-tz's `Tz` (the type that the book and the API use), its rules come from jiff's
//! bundled database: chrono-tz 0.10.4 carries IANA 2025b, which is wrong for several countries from 2026 on.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use jiff::Timestamp;
use jiff::civil::{Date, Time};
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};
use thiserror::Error;

use crate::period::{date_of_days, days_since_2000};

static BUNDLE: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// Minutes in a civil day.
pub const DAY_MINUTES: u16 = 1_440;

/// A time zone: its IANA name and its rules.
#[derive(Clone)]
pub struct Zone {
    name: chrono_tz::Tz,
    rules: TimeZone,
    /// The rules of 1998 to 2100, unrolled: decisions ask for offsets several times a charge.
    spans: Arc<[Span]>,
}

/// A stretch of time with one offset from UTC. All fields in seconds, instants since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// Its first instant.
    pub(crate) from_s: i64,
    /// The first instant after it.
    pub(crate) until_s: i64,
    /// Local time less UTC.
    pub(crate) offset_s: i64,
}

/// An instant as the local clock shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// The stretch that it lies in.
    pub(crate) span: Span,
    /// The local date, as days since 2000-01-01.
    pub(crate) day: i32,
    /// Seconds of the local day.
    pub(crate) second: i64,
}

pub(crate) const DAY_S: i64 = 86_400;
/// 2000-01-01 in seconds since 1970.
const EPOCH_S: i64 = 946_684_800;
/// Offsets are smaller than this everywhere and always.
pub(crate) const OFFSET_MAX_S: i64 = 26 * 3_600;
/// 1998-01-01 and 2101-01-01: periods lie between 2000 and 2089.
const SPANS_FROM_S: i64 = 883_612_800;
const SPANS_UNTIL_S: i64 = 4_133_980_800;

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
        let spans = spans_of(tz.name(), &rules);
        Ok(Self { name: tz, rules, spans })
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
        let local_s = EPOCH_S + i64::from(days_since_2000(date)) * DAY_S + i64::from(minute) * 60;
        if !(SPANS_FROM_S + OFFSET_MAX_S..SPANS_UNTIL_S - OFFSET_MAX_S).contains(&local_s) {
            return self.instant_by_rules(date, minute);
        }
        // The first stretch that still runs at this local time has it (first occurrence), or begins after it (gap).
        let index = self.spans.partition_point(|span| span.until_s + span.offset_s <= local_s);
        let span = self.spans.get(index).ok_or(ZoneError::OutOfRange { date, minute })?;
        let instant_s = (local_s - span.offset_s).max(span.from_s);
        Timestamp::from_second(instant_s).map_err(|_| ZoneError::OutOfRange { date, minute })
    }

    /// The same from the library's rules, for years beyond the table.
    fn instant_by_rules(&self, date: Date, minute: u16) -> Result<Timestamp, ZoneError> {
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
        let place = self.place(at.as_second());
        (date_of_days(place.day), u16::try_from(place.second / 60).unwrap_or(0))
    }

    /// Where an instant (seconds since 1970) lies on the local clock.
    pub(crate) fn place(&self, at_s: i64) -> Place {
        let span = self.span(at_s);
        let local_s = at_s + span.offset_s - EPOCH_S;
        let day = i32::try_from(local_s.div_euclid(DAY_S)).unwrap_or(0);
        Place { span, day, second: local_s.rem_euclid(DAY_S) }
    }

    /// The stretch that an instant (seconds since 1970) lies in.
    pub(crate) fn span(&self, at_s: i64) -> Span {
        let index = self.spans.partition_point(|span| span.until_s <= at_s);
        match self.spans.get(index) {
            Some(span) if span.from_s <= at_s => *span,
            _ => self.span_by_rules(at_s),
        }
    }

    fn span_by_rules(&self, at_s: i64) -> Span {
        let at =
            Timestamp::from_second(at_s).unwrap_or(if at_s < 0 { Timestamp::MIN } else { Timestamp::MAX });
        let offset_s = i64::from(self.rules.to_offset(at).seconds());
        let until_s =
            self.rules.following(at).next().map_or(i64::MAX / 4, |next| next.timestamp().as_second());
        Span { from_s: at_s, until_s, offset_s }
    }

    /// The instant (seconds since 1970) at which a local day would begin at an offset of 0.
    pub(crate) fn day_s(day: i32) -> i64 {
        EPOCH_S + i64::from(day) * DAY_S
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

/// The stretches of a zone; made once per name.
fn spans_of(name: &'static str, rules: &TimeZone) -> Arc<[Span]> {
    // At most one entry per name of the IANA database, about 600.
    static KNOWN: Mutex<BTreeMap<&'static str, Arc<[Span]>>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(known.entry(name).or_insert_with(|| unroll(rules).into()))
}

fn unroll(rules: &TimeZone) -> Vec<Span> {
    let mut spans = Vec::new();
    let Ok(start) = Timestamp::from_second(SPANS_FROM_S) else { return spans };
    let offset_s = i64::from(rules.to_offset(start).seconds());
    let mut span = Span { from_s: SPANS_FROM_S, until_s: SPANS_UNTIL_S, offset_s };
    for transition in rules.following(start) {
        let (at_s, offset_s) = (transition.timestamp().as_second(), i64::from(transition.offset().seconds()));
        if at_s >= SPANS_UNTIL_S {
            break;
        }
        // Some transitions change only the abbreviation.
        if offset_s != span.offset_s {
            spans.push(Span { until_s: at_s, ..span });
            span = Span { from_s: at_s, until_s: SPANS_UNTIL_S, offset_s };
        }
    }
    spans.push(span);
    spans
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
    fn the_table_says_what_the_rules_say() {
        for name in ["Europe/Madrid", "America/St_Johns", "Africa/Casablanca", "Pacific/Apia", "Asia/Tokyo"] {
            let zone = Zone::named(name).unwrap();
            for day in (-300..36_500).step_by(7) {
                let day = date_of_days(day);
                for minute in [0, 1, 90, 150, 720, 1_439, 1_440] {
                    let instant = zone.instant(day, minute).unwrap();
                    assert_eq!(instant, zone.instant_by_rules(day, minute).unwrap(), "{name} {day} {minute}");
                    let local = zone.rules.to_datetime(instant);
                    let of_day = i32::from(local.hour()) * 60 + i32::from(local.minute());
                    assert_eq!(zone.local(instant), (local.date(), u16::try_from(of_day).unwrap()));
                }
            }
        }
    }

    #[test]
    fn years_beyond_the_table_have_rules_too() {
        assert_eq!(at("Europe/Madrid", date(2150, 7, 1), 720), "2150-07-01T10:00:00Z");
        assert_eq!(at("Europe/Madrid", date(1980, 7, 1), 720), "1980-07-01T10:00:00Z");
        let zone = Zone::named("Europe/Madrid").unwrap();
        assert_eq!(zone.local(zone.instant(date(2150, 7, 1), 720).unwrap()), (date(2150, 7, 1), 720));
        assert!(zone.instant(Date::MAX, 1_440).is_err());
    }

    #[test]
    fn unknown_names_are_refused() {
        assert!(matches!(Zone::named("Africa/Tunisia"), Err(ZoneError::Unknown(_))));
    }
}
