//! Schedules shorter than a day: elapsed time from the anchor, packed as the local date and the minutes elapsed since
//! that local day began. The clock may be set back or forward: no period is made twice and none is lost.

use jiff::Timestamp;
use jiff::civil::Date;

use super::{Anchor, ScheduleError};
use crate::period::{Period, date_of_days};
use crate::zone::Zone;

/// The first instant of a schedule (seconds since 1970).
fn origin_s(anchor: Anchor, zone: &Zone) -> Result<i64, ScheduleError> {
    Ok(zone.instant(anchor.date, anchor.minute)?.as_second())
}

/// The instant at which a period starts, in seconds since 1970.
pub(super) fn start_s(period: Period, zone: &Zone) -> Result<i64, ScheduleError> {
    Ok(zone.instant(period.date(), 0)?.as_second() + i64::from(period.minute()) * 60)
}

/// The period that starts at an instant (seconds since 1970, a whole local minute).
pub(super) fn at(at_s: i64, zone: &Zone) -> Result<Period, ScheduleError> {
    let shown = date_of_days(zone.place(at_s).day);
    let begins = |day: Date| -> Result<i64, ScheduleError> { Ok(zone.instant(day, 0)?.as_second()) };
    let out_of_range = |_| ScheduleError::Date { from: shown, days: 1 };
    // Where the clock is set back over midnight, it shows yesterday's date after today began.
    let tomorrow = shown.tomorrow().map_err(out_of_range)?;
    let (day, begin_s) = match (begins(tomorrow)?, begins(shown)?) {
        (next_s, _) if at_s >= next_s => (tomorrow, next_s),
        (_, begin_s) if at_s >= begin_s => (shown, begin_s),
        _ => {
            let day = shown.yesterday().map_err(out_of_range)?;
            (day, begins(day)?)
        }
    };
    Ok(Period::elapsed(day, (at_s - begin_s).div_euclid(60))?)
}

/// The first period that starts on or after the beginning of a local day.
pub(super) fn on_or_after(
    every: i64,
    anchor: Anchor,
    day: Date,
    zone: &Zone,
) -> Result<Period, ScheduleError> {
    at_or_after(every, anchor, zone.instant(day, 0)?.as_second(), zone)
}

/// The first period that starts at or after an instant (seconds since 1970).
pub(super) fn at_or_after(
    every: i64,
    anchor: Anchor,
    from_s: i64,
    zone: &Zone,
) -> Result<Period, ScheduleError> {
    let origin_s = origin_s(anchor, zone)?;
    let step_s = every * 60;
    let steps = ((from_s - origin_s).max(0) + step_s - 1).div_euclid(step_s);
    at(origin_s + steps * step_s, zone)
}

/// The period after another one.
pub(super) fn after(
    every: i64,
    anchor: Anchor,
    period: Period,
    zone: &Zone,
) -> Result<Period, ScheduleError> {
    nth_after(every, anchor, period, zone, 0)
}

/// The period `further` steps beyond the one after another.
fn nth_after(
    every: i64,
    anchor: Anchor,
    period: Period,
    zone: &Zone,
    further: i64,
) -> Result<Period, ScheduleError> {
    let origin_s = origin_s(anchor, zone)?;
    let step_s = every * 60;
    let passed = (start_s(period, zone)? - origin_s).div_euclid(step_s);
    let next = at(origin_s + ((passed + 1).max(0) + further) * step_s, zone)?;
    // Periods of one zone grow with time; after a move to another one they might not.
    if next > period { Ok(next) } else { Ok(period.plus_one()?) }
}

/// How many periods start before this one.
pub(super) fn starts_before(
    every: i64,
    anchor: Anchor,
    period: Period,
    zone: &Zone,
) -> Result<u32, ScheduleError> {
    let since_s = start_s(period, zone)? - origin_s(anchor, zone)?;
    let step_s = every * 60;
    let count = (since_s + step_s - 1).div_euclid(step_s);
    Ok(u32::try_from(count.max(0)).unwrap_or(u32::MAX))
}

/// The latest period after `period` for which `is_due` holds, given that it holds for no later one once it does not:
/// found by halving, since minutes add up to half a million a year.
pub(super) fn latest(
    every: i64,
    anchor: Anchor,
    period: Period,
    zone: &Zone,
    now: Timestamp,
    mut is_due: impl FnMut(Period) -> Result<bool, ScheduleError>,
) -> Result<Option<Period>, ScheduleError> {
    let step_s = every * 60;
    let since_s = now.as_second() - start_s(period, zone)?;
    let (mut low, mut high) = (0, since_s.max(0).div_euclid(step_s) + 1);
    // Invariant: what lies `low - 1` steps on is due, what lies `high` steps on is not.
    while low < high {
        let middle = low + (high - low) / 2;
        match is_due(nth_after(every, anchor, period, zone, middle)?)? {
            true => low = middle + 1,
            false => high = middle,
        }
    }
    match low {
        0 => Ok(None),
        steps => nth_after(every, anchor, period, zone, steps - 1).map(Some),
    }
}
