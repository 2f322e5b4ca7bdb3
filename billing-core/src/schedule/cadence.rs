//! Cadences: on which local dates, or after how much elapsed time, a period starts.

use jiff::ToSpan;
use jiff::civil::{Date, Weekday};

use crate::period::{date_of_days, days_since_2000};

/// How often a charge falls due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cadence {
    /// One charge, at the anchor.
    Once,
    /// Every n minutes of elapsed time, counted from the anchor.
    Minutes(u16),
    /// Every n hours of elapsed time, counted from the anchor.
    Hours(u16),
    /// Every n days.
    Days(u16),
    /// Every n weeks, on the given weekdays; with none given, on the anchor's.
    Weeks {
        /// Every how many weeks, counted from the anchor's week (weeks begin on Monday).
        every: u16,
        /// On which days.
        on: Weekdays,
    },
    /// Every n months, on the anchor's day of the month, clamped to the month's last day. A quarter is 3 months.
    Months(u16),
    /// Every n months, on the same weekday of the month, such as the last Friday.
    NthWeekday {
        /// Every how many months, counted from the anchor's.
        every: u16,
        /// Which of the month.
        nth: Nth,
        /// The weekday.
        weekday: Weekday,
    },
    /// Every n years, on the anchor's day (29 February is clamped to the 28th).
    Years(u16),
}

/// The largest n of "every n".
pub const EVERY_MAX: u16 = 1_000;

/// Which weekday of a month. The fifth is not there: not every month has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nth {
    /// The first to fourth.
    First,
    /// The second.
    Second,
    /// The third.
    Third,
    /// The fourth.
    Fourth,
    /// The last.
    Last,
}

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

    /// How many days it has.
    #[must_use]
    pub fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// How many of its days are earlier in the week.
    fn before(self, day: Weekday) -> u32 {
        (self.0 & ((1 << day.to_monday_zero_offset()) - 1)).count_ones()
    }
}

/// The nth weekday of the month in which a date lies.
#[must_use]
pub fn nth_weekday(month: Date, nth: Nth, weekday: Weekday) -> Option<Date> {
    let nth = match nth {
        Nth::First => 1,
        Nth::Second => 2,
        Nth::Third => 3,
        Nth::Fourth => 4,
        Nth::Last => -1,
    };
    month.nth_weekday_of_month(nth, weekday).ok()
}

impl Cadence {
    /// The length of a period that counts elapsed time, in minutes; `None` for local dates.
    #[must_use]
    pub fn elapsed_minutes(self) -> Option<i64> {
        match self {
            Self::Minutes(every) => Some(i64::from(every.max(1))),
            Self::Hours(every) => Some(i64::from(every.max(1)) * 60),
            _ => None,
        }
    }

    /// The first date on or after `day` on which a period of this cadence starts. A cadence of elapsed time may
    /// start one on every date from the anchor on.
    #[must_use]
    pub fn on_or_after(self, anchor: Date, day: Date) -> Option<Date> {
        let from = day.max(anchor);
        match self {
            Self::Once => (day <= anchor).then_some(anchor),
            Self::Minutes(_) | Self::Hours(_) => Some(from),
            Self::Days(every) => {
                let every = i32::from(every.max(1));
                let anchor = days_since_2000(anchor);
                let days = days_since_2000(from) - anchor;
                in_range(anchor + (days + every - 1) / every * every)
            }
            Self::Weeks { every, on } => weekly(anchor, from, i32::from(every.max(1)), on),
            Self::Months(every) => monthly(anchor, from, i32::from(every.max(1)), Day::OfAnchor),
            Self::Years(every) => monthly(anchor, from, i32::from(every.max(1)) * 12, Day::OfAnchor),
            Self::NthWeekday { every, nth, weekday } => {
                monthly(anchor, from, i32::from(every.max(1)), Day::Nth(nth, weekday))
            }
        }
    }

    /// The first date after `day` on which a period of this cadence starts; `None` when there is none.
    #[must_use]
    pub fn after(self, anchor: Date, day: Date) -> Option<Date> {
        self.on_or_after(anchor, day.tomorrow().ok()?)
    }

    /// On how many dates before `day` a period of this cadence started. Of elapsed time it counts days.
    #[must_use]
    pub fn starts_before(self, anchor: Date, day: Date) -> u32 {
        if day <= anchor {
            return 0;
        }
        let days = days_since_2000(day) - days_since_2000(anchor);
        let count = match self {
            Self::Once => 1,
            Self::Minutes(_) | Self::Hours(_) => days,
            Self::Days(every) => {
                let every = i32::from(every.max(1));
                (days + every - 1) / every
            }
            Self::Weeks { every, on } => weeks_before(anchor, day, i32::from(every.max(1)), on),
            Self::Months(every) => months_before(anchor, day, i32::from(every.max(1)), Day::OfAnchor),
            Self::Years(every) => months_before(anchor, day, i32::from(every.max(1)) * 12, Day::OfAnchor),
            Self::NthWeekday { every, nth, weekday } => {
                months_before(anchor, day, i32::from(every.max(1)), Day::Nth(nth, weekday))
            }
        };
        u32::try_from(count).unwrap_or(0)
    }
}

/// The last day that is worth looking at; periods end in 2089.
const LAST_DAY: i32 = 40_000;

fn in_range(day: i32) -> Option<Date> {
    (day <= LAST_DAY).then(|| date_of_days(day))
}

fn weekly(anchor: Date, from: Date, every: i32, on: Weekdays) -> Option<Date> {
    let on = if on.is_empty() { on.with(anchor.weekday()) } else { on };
    let first_monday = monday_of(anchor);
    let from_day = days_since_2000(from);
    let weeks = (monday_of(from) - first_monday) / 7;
    let mut candidate = from_day;
    if weeks % every != 0 {
        candidate = first_monday + (weeks / every + 1) * every * 7;
    }
    // Within an aligned week, then from the Monday of the next one.
    for _ in 0..2 {
        let monday = monday_of(date_of_days(candidate));
        let found = (candidate..monday + 7).find(|day| on.contains(date_of_days(*day).weekday()));
        if let Some(day) = found {
            return in_range(day);
        }
        candidate = monday + every * 7;
    }
    None
}

fn weeks_before(anchor: Date, day: Date, every: i32, on: Weekdays) -> i32 {
    let on = if on.is_empty() { on.with(anchor.weekday()) } else { on };
    let weeks = (monday_of(day) - monday_of(anchor)) / 7;
    let whole = (weeks + every - 1) / every * on.count() as i32;
    let this_week = if weeks % every == 0 { on.before(day.weekday()) as i32 } else { 0 };
    whole + this_week - on.before(anchor.weekday()) as i32
}

/// Days since 2000-01-01 of the Monday of a date's week.
fn monday_of(day: Date) -> i32 {
    days_since_2000(day) - i32::from(day.weekday().to_monday_zero_offset())
}

/// Which day of a month.
#[derive(Clone, Copy)]
enum Day {
    OfAnchor,
    Nth(Nth, Weekday),
}

impl Day {
    fn in_month(self, anchor: Date, month: i32) -> Option<Date> {
        let year = i16::try_from(month / 12).ok()?;
        let first = Date::new(year, (month % 12 + 1) as i8, 1).ok()?;
        match self {
            Self::OfAnchor => {
                first.checked_add((i64::from(anchor.day().min(first.days_in_month())) - 1).days()).ok()
            }
            Self::Nth(nth, weekday) => nth_weekday(first, nth, weekday),
        }
    }
}

fn month_no(day: Date) -> i32 {
    i32::from(day.year()) * 12 + i32::from(day.month()) - 1
}

fn monthly(anchor: Date, from: Date, every: i32, on: Day) -> Option<Date> {
    let anchor_month = month_no(anchor);
    // The aligned month at or before `from`; when its day has passed, the one after it.
    let aligned = anchor_month + (month_no(from) - anchor_month) / every * every;
    [aligned, aligned + every]
        .into_iter()
        .filter_map(|month| on.in_month(anchor, month))
        .find(|day| *day >= from)
}

fn months_before(anchor: Date, day: Date, every: i32, on: Day) -> i32 {
    let months = month_no(day) - month_no(anchor);
    let before = (months + every - 1) / every;
    let this_month =
        months % every == 0 && on.in_month(anchor, month_no(day)).is_some_and(|start| start < day);
    // An nth weekday before the anchor is not one of its starts.
    let never = on.in_month(anchor, month_no(anchor)).is_some_and(|start| start < anchor);
    before + i32::from(this_month) - i32::from(never)
}
