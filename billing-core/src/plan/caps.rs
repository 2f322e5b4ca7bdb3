//! Spending caps: what may be collected from one subscriber, and how often it may be asked for, over local days, weeks
//! and months. The counters live in the database; what counts together and when a count begins anew is decided here.

use jiff::Timestamp;
use jiff::civil::Date;

use crate::period::{date_of_days, days_since_2000};
use crate::zone::{Zone, ZoneError};

/// A cap's stretches of time that add up.
pub const CAP_SPANS: usize = 3;

/// The caps of one carrier's country; 0 is none. The arrays are by day, week, month.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Caps {
    /// The most that one charge may ask for, minor units.
    pub charge_minor: i64,
    /// The most that may be collected, minor units.
    pub minor: [i64; CAP_SPANS],
    /// How often money may be asked for.
    pub requests: [i32; CAP_SPANS],
}

/// The local day, the Monday of its week and the first of its month, as days since 2000-01-01. Counters name the
/// stretch that they count by these, and only ever move on to later ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CapDays(pub [i32; CAP_SPANS]);

/// What one subscriber's counters say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Which day, week and month they count.
    pub days: CapDays,
    /// Collected, on its way or unknown, minor units.
    pub minor: [i64; CAP_SPANS],
    /// Requests.
    pub requests: [i32; CAP_SPANS],
}

/// What caps leave of an amount that is too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverCap {
    /// What could still be collected, minor units.
    pub left_minor: i64,
    /// When the last of the caps that are in the way begins anew; `None` when none of them ever does.
    pub until: Option<Timestamp>,
}

impl CapDays {
    /// The day, week and month of an instant, in the subscriber's own zone.
    #[must_use]
    pub fn at(zone: &Zone, now: Timestamp) -> Self {
        let (today, _) = zone.local(now);
        let day = days_since_2000(today);
        let week = day - i32::from(today.weekday().to_monday_zero_offset());
        Self([day, week, day - i32::from(today.day()) + 1])
    }

    /// The first days of the stretches that follow.
    fn following(self) -> Option<[Date; CAP_SPANS]> {
        let [day, week, month] = self.0;
        let month = date_of_days(month);
        let next_month = month.last_of_month().tomorrow().ok()?;
        Some([date_of_days(day.checked_add(1)?), date_of_days(week.checked_add(7)?), next_month])
    }
}

impl Caps {
    /// No caps at all.
    pub const NONE: Self = Self { charge_minor: 0, minor: [0; CAP_SPANS], requests: [0; CAP_SPANS] };

    /// Whether anything has to be counted.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.minor.iter().any(|cap| *cap > 0) || self.requests.iter().any(|cap| *cap > 0)
    }

    /// Whether asking for `amount_minor` at `now` would pass a cap, given the subscriber's counters; `None`: it would not.
    ///
    /// # Errors
    /// [`ZoneError`] at the end of the calendar.
    pub fn over(
        &self,
        usage: &Usage,
        amount_minor: i64,
        zone: &Zone,
        now: Timestamp,
    ) -> Result<Option<OverCap>, ZoneError> {
        let today = CapDays::at(zone, now);
        let mut over = (self.charge_minor > 0 && amount_minor > self.charge_minor)
            .then_some(OverCap { left_minor: self.charge_minor, until: None });
        for span in 0..CAP_SPANS {
            // Counters of an earlier stretch count nothing; those of a later one (another zone) still do.
            let counted = usage.days.0[span] >= today.0[span];
            let used_minor = if counted { usage.minor[span] } else { 0 };
            let used_requests = if counted { usage.requests[span] } else { 0 };
            let left_minor = self.minor[span].saturating_sub(used_minor).max(0);
            let too_much = self.minor[span] > 0 && amount_minor > left_minor;
            let too_often = self.requests[span] > 0 && used_requests >= self.requests[span];
            if !too_much && !too_often {
                continue;
            }
            let counts = CapDays(std::array::from_fn(|span| today.0[span].max(usage.days.0[span])));
            let next = counts.following().map(|following| following[span]);
            let next = next.ok_or(ZoneError::OutOfRange { date: date_of_days(today.0[span]), minute: 0 })?;
            let until = zone.instant(next, 0)?;
            let left_minor = if too_often { 0 } else { left_minor };
            let before = over.unwrap_or(OverCap { left_minor, until: None });
            over = Some(OverCap {
                left_minor: before.left_minor.min(left_minor),
                until: Some(before.until.map_or(until, |latest: Timestamp| latest.max(until))),
            });
        }
        Ok(over)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn day(text: &str) -> i32 {
        days_since_2000(text.parse().unwrap())
    }

    #[test]
    fn days_weeks_and_months_are_the_subscribers_own() {
        let tunis = Zone::named("Africa/Tunis").unwrap();
        // 23:30 in UTC on Sunday is Monday in Tunis: another day and another week.
        let sunday = CapDays::at(&tunis, at("2026-05-31T22:30:00Z"));
        assert_eq!(sunday, CapDays([day("2026-05-31"), day("2026-05-25"), day("2026-05-01")]));
        let monday = CapDays::at(&tunis, at("2026-05-31T23:30:00Z"));
        assert_eq!(monday, CapDays([day("2026-06-01"), day("2026-06-01"), day("2026-06-01")]));
    }

    #[test]
    fn the_latest_of_the_caps_in_the_way_says_until_when() {
        let tunis = Zone::named("Africa/Tunis").unwrap();
        let now = at("2026-12-02T09:00:00Z");
        let caps = Caps { charge_minor: 900, minor: [1_000, 0, 2_000], requests: [3, 0, 0] };
        let usage = |minor, requests| Usage { days: CapDays::at(&tunis, now), minor, requests };
        let over = |usage: &Usage, amount| caps.over(usage, amount, &tunis, now).unwrap();
        assert_eq!(over(&usage([500, 500, 500], [1, 1, 1]), 500), None, "exactly what is left");
        let tomorrow = Some(at("2026-12-02T23:00:00Z"));
        assert_eq!(
            over(&usage([500, 500, 500], [1, 1, 1]), 501),
            Some(OverCap { left_minor: 500, until: tomorrow })
        );
        let next_month = Some(at("2026-12-31T23:00:00Z"));
        assert_eq!(
            over(&usage([600, 600, 1_900], [1, 1, 1]), 500),
            Some(OverCap { left_minor: 100, until: next_month })
        );
        let asked = usage([0; 3], [3; 3]);
        assert_eq!(over(&asked, 1), Some(OverCap { left_minor: 0, until: tomorrow }));
        assert_eq!(over(&Usage::default(), 901), Some(OverCap { left_minor: 900, until: None }));
        // Yesterday's counters count nothing today.
        let stale =
            Usage { days: CapDays([day("2026-12-01"); 3]), minor: [1_000, 0, 0], requests: [3, 0, 0] };
        assert_eq!(over(&stale, 500), None);
        assert!(caps.counts() && !Caps::NONE.counts());
        assert!(!Caps { charge_minor: 5, ..Caps::NONE }.counts());
    }
}
