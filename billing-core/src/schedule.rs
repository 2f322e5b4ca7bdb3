//! Schedules: which periods a subscription has, when each falls due, and when charging is allowed.
//!
//! Everything is counted from the anchor, never from the day of payment, so that paying late neither skips nor
//! doubles a period.

use jiff::civil::{Date, Weekday};
use jiff::{SignedDuration, Timestamp, ToSpan, Unit};
use thiserror::Error;

use crate::ids::SubscriptionId;
use crate::period::{Period, PeriodError};
use crate::zone::{DAY_MINUTES, Zone, ZoneError};

/// How often a charge falls due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cadence {
    /// One charge, at the anchor.
    Once,
    /// Every n days.
    Days(u16),
    /// Every n weeks, on the given weekdays; with none given, on the anchor's.
    Weeks {
        /// Every how many weeks, counted from the anchor's week (weeks begin on Monday).
        every: u16,
        /// On which days.
        on: Weekdays,
    },
    /// Every n months, on the anchor's day of the month, clamped to the month's last day.
    Months(u16),
    /// Every n years, on the anchor's day (29 February is clamped to the 28th).
    Years(u16),
}

/// The largest n of "every n".
pub const EVERY_MAX: u16 = 1_000;

/// A set of weekdays; bit 0 is Monday.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Weekdays(u8);

impl Weekdays {
    /// The same set with one more day.
    #[must_use]
    pub fn with(self, day: Weekday) -> Self {
        Self(self.0 | 1 << day.to_monday_zero_offset())
    }

    /// Whether the set has the day.
    #[must_use]
    pub fn contains(self, day: Weekday) -> bool {
        self.0 >> day.to_monday_zero_offset() & 1 == 1
    }

    /// Whether the set has no day.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Local minutes of the day in which charging is allowed: `[from, to)`, 0 ≤ from < to ≤ 1440.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    from_minute: u16,
    to_minute: u16,
}

/// Where a subscription's periods are counted from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    /// The local date of the first period.
    pub date: Date,
    /// The local minute of the day at which charges fall due.
    pub minute: u16,
}

/// When a plan charges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// How often.
    pub cadence: Cadence,
    /// The local minute of the day at which charges fall due, before they are spread.
    pub at_minute: u16,
    /// Over how many minutes new subscriptions are spread, by blocks of 64 neighbours.
    pub spread_minutes: u16,
    /// When charging is allowed.
    pub window: Window,
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
    /// See [`ZoneError`].
    #[error(transparent)]
    Zone(#[from] ZoneError),
    /// See [`PeriodError`].
    #[error(transparent)]
    Period(#[from] PeriodError),
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

    /// The instants between which charging is allowed at or after `at`: the window that holds `at`, else the
    /// next one to open. Half-open: charging is allowed at the first, not at the second.
    ///
    /// # Errors
    /// [`ZoneError`] at the ends of the calendar.
    pub fn at_or_after(self, zone: &Zone, at: Timestamp) -> Result<(Timestamp, Timestamp), ZoneError> {
        let (today, _) = zone.local(at);
        let mut day = today;
        // A window of a day can be swallowed by a gap, and a skipped day has none: a few days always suffice.
        for _ in 0..4 {
            let opens = zone.instant(day, self.from_minute)?;
            let closes = zone.instant(day, self.to_minute)?;
            if at < closes && opens < closes {
                let from = opens.max(at);
                return Ok((from + self.shut_again(zone, day, from), closes));
            }
            day = day.tomorrow().map_err(|_| ZoneError::OutOfRange { date: day, minute: 0 })?;
        }
        Err(ZoneError::OutOfRange { date: today, minute: self.from_minute })
    }

    /// How long until the local clock shows the opening once more, when it was set back to before it.
    fn shut_again(self, zone: &Zone, day: Date, at: Timestamp) -> SignedDuration {
        let (date, minute) = zone.local(at);
        let opens = if date < day { self.from_minute + DAY_MINUTES } else { self.from_minute };
        let missing_s = i64::from(opens.saturating_sub(minute)) * 60;
        // Offsets are whole minutes.
        SignedDuration::from_secs((missing_s - at.as_second().rem_euclid(60)).max(0))
    }
}

impl Cadence {
    /// The first date on or after `day` on which a period of this cadence starts.
    #[must_use]
    pub fn on_or_after(self, anchor: Date, day: Date) -> Option<Date> {
        let from = day.max(anchor);
        match self {
            Self::Once => (day <= anchor).then_some(anchor),
            Self::Days(every) => {
                let every = i32::from(every.max(1));
                let days = from.since((Unit::Day, anchor)).ok()?.get_days();
                let steps = (days + every - 1) / every;
                anchor.checked_add((steps * every).days()).ok()
            }
            Self::Weeks { every, on } => weekly(anchor, from, every.max(1), on),
            Self::Months(every) => monthly(anchor, from, i32::from(every.max(1))),
            Self::Years(every) => monthly(anchor, from, i32::from(every.max(1)) * 12),
        }
    }

    /// The first date after `day` on which a period of this cadence starts; `None` when there is none.
    #[must_use]
    pub fn after(self, anchor: Date, day: Date) -> Option<Date> {
        self.on_or_after(anchor, day.tomorrow().ok()?)
    }
}

impl Schedule {
    /// The minute at which a new subscription's charges fall due: the plan's, spread by block of neighbours.
    #[must_use]
    pub fn anchor_minute(&self, id: SubscriptionId) -> u16 {
        let spread = u64::from(self.spread_minutes.max(1));
        let offset = (id.block().wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 32) % spread;
        let latest = self.window.to_minute().saturating_sub(1);
        self.at_minute.saturating_add(u16::try_from(offset).unwrap_or(0)).min(latest)
    }

    /// The first period of a subscription that starts on or after `day`.
    ///
    /// # Errors
    /// [`ScheduleError::Period`] beyond 2089.
    pub fn first_period(&self, anchor: Anchor, day: Date) -> Result<Option<Period>, ScheduleError> {
        let start = self.cadence.on_or_after(anchor.date, day);
        start.map(|day| Period::starting(day, 0).map_err(ScheduleError::from)).transpose()
    }

    /// The period after `period`; `None` after the last.
    ///
    /// # Errors
    /// [`ScheduleError::Period`] beyond 2089.
    pub fn next_period(&self, anchor: Anchor, period: Period) -> Result<Option<Period>, ScheduleError> {
        let start = self.cadence.after(anchor.date, period.date());
        start.map(|day| Period::starting(day, 0).map_err(ScheduleError::from)).transpose()
    }

    /// The instant at which a period's charge falls due: the anchor's minute on the period's first local day,
    /// plus the seconds of the subscription's block, moved into the charging window.
    ///
    /// # Errors
    /// [`ScheduleError::Zone`] at the ends of the calendar.
    pub fn due_at(
        &self,
        anchor: Anchor,
        period: Period,
        zone: &Zone,
        id: SubscriptionId,
    ) -> Result<Timestamp, ScheduleError> {
        let minute = zone.instant(period.date(), anchor.minute)?;
        let due = minute + SignedDuration::from_secs(id.due_offset_s());
        Ok(self.window.at_or_after(zone, due)?.0)
    }
}

fn weekly(anchor: Date, from: Date, every: u16, on: Weekdays) -> Option<Date> {
    let on = if on.is_empty() { on.with(anchor.weekday()) } else { on };
    let first_monday = monday_of(anchor)?;
    let weeks = monday_of(from)?.since((Unit::Day, first_monday)).ok()?.get_days() / 7;
    let every = i32::from(every);
    let mut candidate = from;
    if weeks % every != 0 {
        let aligned = (weeks / every + 1) * every;
        candidate = first_monday.checked_add((aligned * 7).days()).ok()?;
    }
    // Within an aligned week, then from the Monday of the next one.
    for _ in 0..2 {
        let monday = monday_of(candidate)?;
        let week_end = monday.checked_add(7.days()).ok()?;
        while candidate < week_end {
            if on.contains(candidate.weekday()) {
                return Some(candidate);
            }
            candidate = candidate.tomorrow().ok()?;
        }
        candidate = monday.checked_add((every * 7).days()).ok()?;
    }
    None
}

fn monday_of(day: Date) -> Option<Date> {
    day.checked_sub(i64::from(day.weekday().to_monday_zero_offset()).days()).ok()
}

fn monthly(anchor: Date, from: Date, every: i32) -> Option<Date> {
    let month_no = |day: Date| i32::from(day.year()) * 12 + i32::from(day.month()) - 1;
    let anchor_month = month_no(anchor);
    // The aligned month at or before `from`; when its day has passed, the one after it.
    let aligned = anchor_month + (month_no(from) - anchor_month) / every * every;
    for month in [aligned, aligned + every] {
        let year = i16::try_from(month / 12).ok()?;
        let first = Date::new(year, (month % 12 + 1) as i8, 1).ok()?;
        let candidate = first.with().day(anchor.day().min(first.days_in_month())).build().ok()?;
        if candidate >= from {
            return Some(candidate);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use jiff::civil::date;
    use proptest::prelude::*;

    fn starts(cadence: Cadence, anchor: Date, count: usize) -> Vec<String> {
        let mut day = cadence.on_or_after(anchor, anchor);
        std::iter::from_fn(|| {
            let this = day?;
            day = cadence.after(anchor, this);
            Some(this.to_string())
        })
        .take(count)
        .collect()
    }

    #[test]
    fn months_clamp_to_the_last_day_and_come_back() {
        assert_eq!(
            starts(Cadence::Months(1), date(2027, 1, 31), 4),
            ["2027-01-31", "2027-02-28", "2027-03-31", "2027-04-30"]
        );
        assert_eq!(starts(Cadence::Months(3), date(2026, 11, 30), 2), ["2026-11-30", "2027-02-28"]);
        assert_eq!(
            starts(Cadence::Years(1), date(2028, 2, 29), 3),
            ["2028-02-29", "2029-02-28", "2030-02-28"]
        );
    }

    #[test]
    fn weeks_keep_their_days_and_their_phase() {
        let on = Weekdays::default().with(Weekday::Monday).with(Weekday::Thursday);
        assert_eq!(
            starts(Cadence::Weeks { every: 2, on }, date(2026, 11, 18), 4),
            ["2026-11-19", "2026-11-30", "2026-12-03", "2026-12-14"]
        );
        let anchored = Cadence::Weeks { every: 1, on: Weekdays::default() };
        assert_eq!(starts(anchored, date(2026, 11, 21), 2), ["2026-11-21", "2026-11-28"]);
    }

    #[test]
    fn once_happens_once() {
        assert_eq!(starts(Cadence::Once, date(2026, 1, 1), 3), ["2026-01-01"]);
        assert_eq!(Cadence::Once.on_or_after(date(2026, 1, 1), date(2026, 1, 2)), None);
    }

    #[test]
    fn due_instants_respect_zone_and_window() {
        let zone = Zone::named("Europe/Madrid").unwrap();
        let window = Window::new(360, 1_320).unwrap();
        let schedule = Schedule { cadence: Cadence::Days(1), at_minute: 400, spread_minutes: 1, window };
        let id = SubscriptionId(0);
        let at = |minute| {
            let anchor = Anchor { date: date(2026, 3, 28), minute };
            let period = Period::starting(date(2026, 3, 29), 0).unwrap();
            schedule.due_at(anchor, period, &zone, id).unwrap().to_string()
        };
        assert_eq!(at(400), "2026-03-29T04:40:00Z");
        assert_eq!(at(100), "2026-03-29T04:00:00Z");
        assert_eq!(at(1_330), "2026-03-30T04:00:00Z");
    }

    #[test]
    fn a_window_swallowed_by_a_gap_opens_the_next_day() {
        let zone = Zone::named("Europe/Madrid").unwrap();
        let window = Window::new(120, 180).unwrap();
        let midnight = zone.instant(date(2026, 3, 29), 0).unwrap();
        let (opens, closes) = window.at_or_after(&zone, midnight).unwrap();
        assert_eq!(
            (opens.to_string(), closes.to_string()),
            ("2026-03-30T00:00:00Z".into(), "2026-03-30T01:00:00Z".into())
        );
    }

    fn cadences() -> impl Strategy<Value = Cadence> {
        let on = any::<u8>().prop_map(|bits| Weekdays(bits & 0x7f));
        prop_oneof![
            (1..400_u16).prop_map(Cadence::Days),
            (1..9_u16, on).prop_map(|(every, on)| Cadence::Weeks { every, on }),
            (1..25_u16).prop_map(Cadence::Months),
            (1..5_u16).prop_map(Cadence::Years),
        ]
    }

    proptest! {
        #[test]
        fn stepping_and_seeking_find_the_same_starts(
            cadence in cadences(), anchor in 0..20_000_i32, ahead in 0..4_000_i32,
        ) {
            let anchor = crate::period::date_of_days(anchor);
            let target = anchor.checked_add(ahead.days()).unwrap();
            let mut stepped = cadence.on_or_after(anchor, anchor).unwrap();
            while stepped < target {
                let next = cadence.after(anchor, stepped).unwrap();
                prop_assert!(next > stepped);
                stepped = next;
            }
            prop_assert_eq!(cadence.on_or_after(anchor, target).unwrap(), stepped);
        }

        #[test]
        fn anchor_minutes_stay_in_the_window(id in 0..i64::MAX, at in 360..700_u16, spread in 0..400_u16) {
            let window = Window::new(360, 720).unwrap();
            let schedule = Schedule { cadence: Cadence::Days(1), at_minute: at, spread_minutes: spread, window };
            prop_assert!(window.contains(schedule.anchor_minute(SubscriptionId(id))));
        }
    }
}
