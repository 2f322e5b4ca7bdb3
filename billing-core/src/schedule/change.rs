//! What a pause, a new anchor, zone, plan or carrier does to the sequence of periods: pure functions.
//!
//! One rule holds for all: later periods have larger numbers. What is new starts no earlier than the end of the last
//! period, so nothing is charged twice; it starts less than one period later, so nothing is skipped; a number that
//! would not grow becomes last + 1.

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan};

use super::{Anchor, Cadence, Schedule, ScheduleError, elapsed};
use crate::period::{Period, date_of_days, days_since_2000};
use crate::zone::Zone;

/// A sequence of periods: a schedule from an anchor on, in a zone.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    /// The plan's schedule.
    pub schedule: &'a Schedule,
    /// Where it is counted from.
    pub anchor: Anchor,
    /// The subscriber's own zone.
    pub zone: &'a Zone,
}

/// What becomes of the time of a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// The dates stay: periods that would have started during the pause are not charged.
    KeepDates,
    /// The dates move: the rest of the period that was paid is kept, so all later ones start that much later.
    ShiftDates {
        /// The local date of the pause.
        paused_on: Date,
    },
}

/// What of a sequence is sold: what follows starts where that ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sold {
    /// The label at which what is sold ends.
    ends: Period,
    /// The largest number that is used up.
    last: Period,
    /// How many periods count for phases and for the number of periods.
    done: i32,
}

impl Sold {
    /// Everything up to the end of `last`, which was charged or is open.
    ///
    /// # Errors
    /// [`ScheduleError`] at the ends of the calendar.
    pub fn through(line: Line<'_>, last: Period) -> Result<Self, ScheduleError> {
        Ok(Self { ends: end_of(line, last)?, last, done: done_before(line, last)?.saturating_add(1) })
    }

    /// Everything before `next`, for which nothing was tried: its number may be used again.
    ///
    /// # Errors
    /// [`ScheduleError`] at the ends of the calendar.
    pub fn before(line: Line<'_>, next: Period) -> Result<Self, ScheduleError> {
        let last = Period::from_number(next.number() - 1)?;
        Ok(Self { ends: next, last, done: done_before(line, next)? })
    }

    /// Everything before `tried`, whose requests collected nothing: only its number is used up.
    ///
    /// # Errors
    /// [`ScheduleError`] at the ends of the calendar.
    pub fn without(line: Line<'_>, tried: Period) -> Result<Self, ScheduleError> {
        Ok(Self { ends: tried, last: tried, done: done_before(line, tried)? })
    }
}

/// The first period of `new` after the last one of `old` that was charged or is open: for a new zone (the same schedule
/// and anchor). `None` when `new` has no further period.
///
/// # Errors
/// [`ScheduleError`] at the ends of the calendar.
pub fn first_after(old: Line<'_>, new: Line<'_>, last: Period) -> Result<Option<Period>, ScheduleError> {
    first_unsold(old, new, Sold::through(old, last)?)
}

/// The first period of `new` that is not sold yet; see [`first_after`].
///
/// # Errors
/// [`ScheduleError`] at the ends of the calendar.
pub fn first_unsold(old: Line<'_>, new: Line<'_>, sold: Sold) -> Result<Option<Period>, ScheduleError> {
    let next = unbounded(old, new, sold)?;
    new.schedule.within_bounds(new.anchor, next, new.zone)
}

fn unbounded(old: Line<'_>, new: Line<'_>, sold: Sold) -> Result<Option<Period>, ScheduleError> {
    let Sold { ends, last, .. } = sold;
    let candidate = match new.schedule.cadence.elapsed_minutes() {
        Some(every) => {
            let end_s = match old.schedule.cadence.elapsed_minutes() {
                Some(_) => elapsed::start_s(ends, old.zone)?,
                None => old.zone.instant(ends.date(), ends.minute())?.as_second(),
            };
            let start = elapsed::at_or_after(every, new.anchor, end_s, new.zone)?;
            // Where the new zone's clock is behind, the labels until the last one are used up.
            Some(if start > last { start } else { elapsed::after(every, new.anchor, last, new.zone)? })
        }
        None => first_from(new, ends)?,
    };
    let Some(candidate) = candidate else { return Ok(None) };
    Ok(Some(if candidate > last { candidate } else { last.plus_one()? }))
}

/// The anchor and the next period when a subscriber wants to be charged on another day: the day of the month of
/// `wanted` for months, its day of the year for years, its weekday for weeks. The last period becomes longer by less
/// than one period, never shorter. Elapsed time has no day: nothing moves.
///
/// # Errors
/// [`ScheduleError`] at the ends of the calendar.
pub fn move_anchor(
    line: Line<'_>,
    last: Period,
    wanted: Date,
) -> Result<(Anchor, Option<Period>), ScheduleError> {
    move_anchor_unsold(line, Sold::through(line, last)?, wanted)
}

/// [`move_anchor`] for a row that stands before or at a period that is not sold.
///
/// # Errors
/// [`ScheduleError`] at the ends of the calendar.
pub fn move_anchor_unsold(
    line: Line<'_>,
    sold: Sold,
    wanted: Date,
) -> Result<(Anchor, Option<Period>), ScheduleError> {
    if line.schedule.cadence.elapsed_minutes().is_some() {
        return Ok((line.anchor, first_unsold(line, line, sold)?));
    }
    let date = aligned_anchor(line.schedule.cadence, wanted, sold.ends.date());
    rebased(line, line, sold, date, wanted.day())
}

/// The anchor and the first period when another plan goes on where what is sold ends, on the same carrier or as the
/// subscription that opens when another closes. `new.anchor` gives the minute only. Months and years keep the day of the
/// month that they had. The periods that were charged before count for phases and for the number of periods.
///
/// # Errors
/// [`ScheduleError`] at the ends of the calendar.
pub fn open_after(
    old: Line<'_>,
    new: Line<'_>,
    sold: Sold,
) -> Result<(Anchor, Option<Period>), ScheduleError> {
    let date = sold.ends.date();
    let by_month = |line: Line<'_>| matches!(line.schedule.cadence, Cadence::Months(_) | Cadence::Years(_));
    let day = if by_month(old) && by_month(new) { old.anchor.date.day() } else { date.day() };
    rebased(old, new, sold, date, day)
}

/// The anchor and the next period when collecting goes on at an instant after a pause.
///
/// # Errors
/// [`ScheduleError`] at the ends of the calendar.
pub fn resume(
    line: Line<'_>,
    last: Period,
    at: Timestamp,
    how: Resume,
) -> Result<(Anchor, Option<Period>), ScheduleError> {
    let (today, minute) = line.zone.local(at);
    let ends = end_of(line, last)?;
    let every = line.schedule.cadence.elapsed_minutes();
    let sold = Sold::through(line, last)?;
    let done = sold.done;
    let anchor = match (how, every) {
        (Resume::KeepDates, _) => line.anchor,
        (Resume::ShiftDates { .. }, Some(_)) => match elapsed::start_s(ends, line.zone)? > at.as_second() {
            // What is paid runs on; and a start beyond the day's last minute is no local time.
            true => line.anchor,
            false => Anchor { date: today, minute, done },
        },
        (Resume::ShiftDates { paused_on }, None) => {
            // A pause that begins after the paid period ended carries nothing over.
            let rest = days_since_2000(ends.date()) - days_since_2000(paused_on);
            let date = date_of_days(days_since_2000(today).saturating_add(rest.max(0)));
            Anchor { date: date.max(ends.date()), minute: line.anchor.minute, done }
        }
    };
    let moved = Line { anchor, ..line };
    let next = unbounded(line, moved, sold)?;
    let from_today = match every {
        Some(every) => Some(elapsed::at_or_after(every, anchor, at.as_second(), line.zone)?),
        // With several times a day those that passed stay passed; with one, today's is still sold.
        None if moved.schedule.times.is_empty() => first_from(moved, Period::starting(today, 0)?)?,
        None => first_from(moved, Period::starting(today, minute)?)?,
    };
    let next = next.zip(from_today).map(|(next, from_today)| next.max(from_today));
    // The dates that passed in the pause were not charged: they count neither for phases nor for the number of periods.
    counted(moved, next, done)
}

/// The first date on or after `from` that has what `wanted` asks for; see [`move_anchor`]. In a month that is too short
/// it is the last day.
#[must_use]
pub fn aligned_anchor(cadence: Cadence, wanted: Date, from: Date) -> Date {
    let unit = match cadence {
        Cadence::Months(_) => Cadence::Months(1),
        Cadence::Years(_) => Cadence::Years(1),
        Cadence::Weeks { on, .. } if on.is_empty() => {
            let ahead = (wanted.weekday().to_monday_zero_offset() - from.weekday().to_monday_zero_offset())
                .rem_euclid(7);
            return date_of_days(days_since_2000(from) + i32::from(ahead));
        }
        Cadence::Days(every) => {
            let every = i32::from(every.max(1));
            let ahead = (days_since_2000(wanted) - days_since_2000(from)).rem_euclid(every);
            return date_of_days(days_since_2000(from) + ahead);
        }
        _ => return from,
    };
    // The wanted day in a year before: a month of 31 days, or a leap year, keeps the day.
    let year = (from.year() - 1) / 4 * 4;
    let month = if unit == Cadence::Months(1) { 1 } else { wanted.month() };
    let before = Date::new(year, month, wanted.day()).unwrap_or(wanted);
    unit.on_or_after(before, from).unwrap_or(from)
}

/// The label at which a period ends, whether or not another one follows.
fn end_of(line: Line<'_>, last: Period) -> Result<Period, ScheduleError> {
    match line.schedule.next_unbounded(line.anchor, last, line.zone)? {
        Some(next) => Ok(next),
        // Of a single charge nothing is bought but its own day.
        None => Ok(Period::starting(date_of_days(days_since_2000(last.date()) + 1), 0)?),
    }
}

fn done_before(line: Line<'_>, period: Period) -> Result<i32, ScheduleError> {
    let before = line.schedule.index_of(line.anchor, period, line.zone)?;
    Ok(i32::try_from(before).unwrap_or(i32::MAX))
}

/// `new` counted from `date`, which its first period starts on or after.
fn rebased(
    old: Line<'_>,
    new: Line<'_>,
    sold: Sold,
    date: Date,
    wanted_day: i8,
) -> Result<(Anchor, Option<Period>), ScheduleError> {
    let done = sold.done;
    let months = match new.schedule.cadence {
        Cadence::Months(every) => Some(i64::from(every.max(1))),
        Cadence::Years(every) => Some(i64::from(every.max(1)) * 12),
        _ => None,
    };
    let anchor = Anchor { date, minute: new.anchor.minute, done };
    let anchor = match months {
        // Clamped by a short month: count from an earlier one that has the day, or it would be lost for good.
        Some(every) if wanted_day > date.day() && date.day() == date.days_in_month() => {
            let longer = (1..=12).find_map(|back| {
                let first = date.first_of_month().checked_sub((every * back).months()).ok()?;
                let start = Date::new(first.year(), first.month(), wanted_day).ok()?;
                Some(Anchor { date: start, ..anchor })
            });
            longer.unwrap_or(anchor)
        }
        _ => anchor,
    };
    let next = unbounded(old, Line { anchor, ..new }, sold)?;
    counted(Line { anchor, ..new }, next, done)
}

/// The anchor that gives `next` the index `done`, and `next` if that is within the schedule's bounds.
fn counted(
    new: Line<'_>,
    next: Option<Period>,
    done: i32,
) -> Result<(Anchor, Option<Period>), ScheduleError> {
    let Some(period) = next else { return Ok((Anchor { done, ..new.anchor }, None)) };
    let since = new.schedule.index_of(Anchor { done: 0, ..new.anchor }, period, new.zone)?;
    let anchor = Anchor { done: done.saturating_sub_unsigned(since), ..new.anchor };
    Ok((anchor, new.schedule.within_bounds(anchor, next, new.zone)?))
}

/// The first period of local dates on or after a label.
fn first_from(line: Line<'_>, label: Period) -> Result<Option<Period>, ScheduleError> {
    let schedule = line.schedule;
    let first = schedule.times.first().copied().unwrap_or(0);
    let Some(day) = schedule.cadence.on_or_after(line.anchor.date, label.date()) else { return Ok(None) };
    let start = Period::starting(day, first)?;
    if start >= label {
        return Ok(Some(start));
    }
    // The last minute before the label: what follows it is on or after the label.
    let before = Period::from_number(label.number() - 1)?;
    schedule.next_unbounded(line.anchor, before, line.zone)
}
