//! Parts of a local day, and the instants at which the local clock shows them.

use super::days::weekday_of;
use crate::schedule::Weekdays;
use crate::zone::{DAY_MINUTES, OFFSET_MAX_S, Zone};

/// Local minutes `[from, to)` of a day; with `from > to` it runs over midnight: `[from, 24:00)` and `[00:00, to)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    from: u16,
    to: u16,
}

/// When a carrier cannot be reached: a part of the day, on some weekdays or on all. Over midnight it belongs to the
/// day on which it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Maintenance {
    /// On which days it begins; none means every day.
    pub on: Weekdays,
    /// Which part of the day.
    pub part: Part,
}

impl Part {
    /// The whole day.
    pub const DAY: Self = Self { from: 0, to: DAY_MINUTES };

    /// The part from one local minute to another; `None` when it is empty or leaves the day. 24:00 and 00:00 are
    /// the same end.
    #[must_use]
    pub fn new(from: u16, to: u16) -> Option<Self> {
        let from = if from == DAY_MINUTES { 0 } else { from };
        let to = if to == 0 { DAY_MINUTES } else { to };
        (from < DAY_MINUTES && to <= DAY_MINUTES && from != to).then_some(Self { from, to })
    }

    /// First minute.
    #[must_use]
    pub fn from_minute(self) -> u16 {
        self.from
    }

    /// First minute after it.
    #[must_use]
    pub fn to_minute(self) -> u16 {
        self.to
    }

    /// Whether it runs over midnight.
    #[must_use]
    pub fn over_midnight(self) -> bool {
        self.from > self.to
    }

    /// Whether a local minute lies inside, of this day or of the next.
    #[must_use]
    pub fn contains(self, minute: u16) -> bool {
        match self.over_midnight() {
            true => minute >= self.from || minute < self.to,
            false => (self.from..self.to).contains(&minute),
        }
    }
}

impl Maintenance {
    /// What it closes of a day: its own part, and the rest of the day before.
    pub(super) fn of_day(&self, day: i32) -> [Option<Part>; 2] {
        let begins = |day: i32| self.on.is_empty() || self.on.contains(weekday_of(day));
        let (from, to) = (self.part.from, self.part.to);
        if !self.part.over_midnight() {
            return [begins(day).then_some(self.part), None];
        }
        [
            begins(day).then_some(Part { from, to: DAY_MINUTES }),
            begins(day - 1).then_some(Part { from: 0, to }),
        ]
    }
}

/// What is left of ascending parts of one day when another part is closed. `None` closes nothing.
pub(super) fn without(parts: &[Part], closed: Option<Part>) -> Vec<Part> {
    let Some(closed) = closed else { return parts.to_vec() };
    let closed = match closed.over_midnight() {
        true => vec![Part { from: 0, to: closed.to }, Part { from: closed.from, to: DAY_MINUTES }],
        false => vec![closed],
    };
    let mut left = parts.to_vec();
    for hole in closed {
        let cut = left.iter().flat_map(|part| {
            let before = Part { from: part.from, to: part.to.min(hole.from) };
            let after = Part { from: part.from.max(hole.to), to: part.to };
            [before, after].into_iter().filter(|part| part.from < part.to)
        });
        left = cut.collect();
    }
    left
}

/// The first stretch (seconds since 1970, half-open) after `at_s`, or around it, in which the local clock shows a part
/// of a day. Where the clock is set back inside of the part it may open twice.
pub(super) fn next_open(zone: &Zone, day: i32, part: Part, at_s: i64) -> Option<(i64, i64)> {
    let opens_s = Zone::day_s(day) + i64::from(part.from) * 60;
    let closes_s = Zone::day_s(day) + i64::from(part.to) * 60;
    let mut from_s = opens_s - OFFSET_MAX_S;
    let mut open: Option<(i64, i64)> = None;
    // No zone changes its offset more than a few times in three days.
    for _ in 0..16 {
        let span = zone.span(from_s);
        let piece =
            ((opens_s - span.offset_s).max(span.from_s), (closes_s - span.offset_s).min(span.until_s));
        if piece.0 < piece.1 {
            open = match open {
                Some((first, until)) if until == piece.0 => Some((first, piece.1)),
                Some(found) if found.1 > at_s => return Some(found),
                _ => Some(piece),
            };
        }
        if span.until_s >= closes_s + OFFSET_MAX_S {
            break;
        }
        from_s = span.until_s;
    }
    open.filter(|(_, until)| *until > at_s)
}
