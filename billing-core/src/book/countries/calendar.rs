//! The calendar of a country, and the shorter one of a carrier.

use std::sync::Arc;

use jiff::civil::Date;

use super::{COUNTRY_HOLIDAYS_MAX, Sourced, each, note, sourced};
use crate::book::plan::{date_of, nth_name, weekday_name, weekdays};
use crate::book::reader::{Problems, Table};
use crate::book::values::excerpt;
use crate::calendar::{CalendarRules, Dates, Holiday, Maintenance, PARTS_MAX, Part, Paydays, YEARS_MAX};
use crate::schedule::Window;

/// A carrier's own calendar: `[calendar]` of its file.
///
/// ```toml
/// [calendar]
/// window = ["05:00", "24:00"]                                        # charging is allowed in these hours
/// maintenance = [{ on = ["sun"], from = "02:00", to = "04:00" }]     # `on` left out: every day
/// paydays = [25]                                                     # instead of the country's
/// ```
pub fn read_calendar(mut table: Table<'_>, problems: &mut Problems) -> CalendarRules {
    let windows = window(&mut table, problems).into_iter().collect();
    let mut maintenance = Vec::new();
    for mut entry in table.tables("maintenance", PARTS_MAX, problems) {
        let on = weekdays(&mut entry, "on", problems).map(|on| on.value).unwrap_or_default();
        maintenance.extend(part(&mut entry, problems).map(|part| Maintenance { on, part }));
        entry.finish(problems);
    }
    let paydays = paydays(&mut table, "paydays", problems);
    table.finish(problems);
    CalendarRules { windows, maintenance, paydays, ..CalendarRules::default() }
}

/// The calendar of a country's file.
pub(super) fn country_calendar(
    root: &mut Table<'_>,
    sources: &mut Vec<Sourced>,
    problems: &mut Problems,
) -> CalendarRules {
    let mut rules = CalendarRules::default();
    if let Some(mut table) = root.opt_table("charging", problems) {
        rules.windows.extend(window(&mut table, problems));
        sourced("charging", table, sources, problems);
    }
    if let Some(mut table) = root.opt_table("quiet_hours", problems) {
        rules.quiet.extend(part(&mut table, problems));
        sourced("quiet_hours", table, sources, problems);
    }
    if let Some(mut table) = root.opt_table("rest_days", problems) {
        rules.rest_days = weekdays(&mut table, "days", problems).map(|days| days.value).unwrap_or_default();
        sourced("rest_days", table, sources, problems);
    }
    if let Some(mut table) = root.opt_table("paydays", problems) {
        rules.paydays = paydays(&mut table, "days", problems);
        sourced("paydays", table, sources, problems);
    }
    rules.holidays = each(root, "holidays", COUNTRY_HOLIDAYS_MAX, sources, problems, holiday);
    rules
}

fn window(table: &mut Table<'_>, problems: &mut Problems) -> Option<Window> {
    let (from, to) = table.opt_local_minutes("window", problems)?;
    let window = Window::new(from.value, to.value).ok();
    if window.is_none() {
        let help = "write an end after the beginning, of the same day";
        table.problem_at(to.place, "`window` is empty", help, problems);
    }
    window
}

/// `from` and `to`, over midnight where they are that way round.
fn part(table: &mut Table<'_>, problems: &mut Problems) -> Option<Part> {
    let from = table.local_minute("from", 1_439, problems);
    let to = table.local_minute("to", 1_440, problems);
    let (from, to) = (from?, to?);
    let part = Part::new(from.value, to.value).filter(|part| *part != Part::DAY);
    if part.is_none() {
        let help = "write an end other than the beginning; a whole day is no part of one";
        table.problem_at(to.place, "`from` and `to` leave nothing open or closed", help, problems);
    }
    part
}

fn paydays(table: &mut Table<'_>, key: &str, problems: &mut Problems) -> Paydays {
    let days = table.opt_int_list(key, 1..=31, 31, problems);
    let days = days.map(|days| days.value).unwrap_or_default();
    let mut days: Vec<i8> = days.iter().filter_map(|day| i8::try_from(day.value).ok()).collect();
    days.sort_unstable();
    days.dedup();
    Paydays { days }
}

fn holiday(table: &mut Table<'_>, problems: &mut Problems) -> Option<Holiday> {
    let name = note(table, "name", problems);
    let date = table.opt_str("date", problems);
    let nth = table.opt_str("nth", problems);
    let month = table.opt_int("month", 1..=12, problems);
    let listed = table.opt_str_list("dates", YEARS_MAX, problems);
    let dates = match (&date, &nth, &month, &listed) {
        (Some(date), None, None, None) => fixed(date),
        (None, Some(nth), Some(month), None) => nth.split_once(' ').and_then(|(nth, day)| {
            let month = i8::try_from(month.value).ok()?;
            Some(Dates::NthWeekday { month, nth: nth_name(nth)?, weekday: weekday_name(day)? })
        }),
        (None, None, None, Some(listed)) => {
            let dates: Option<Vec<Date>> = listed.value.iter().map(|date| date_of(date)).collect();
            dates.filter(|dates| !dates.is_empty()).map(Dates::Listed)
        }
        _ => None,
    };
    if dates.is_none() {
        let named = name.as_deref().map(excerpt).unwrap_or_default();
        let what = format!("the dates of the holiday \"{named}\" cannot be read");
        let help =
            "write one of date = \"12-25\", nth = \"4th thu\" with month = 11, dates = [\"2027-03-26\"]";
        table.problem_at(table.place(), what, help, problems);
    }
    Some(Holiday { name: Arc::from(name?), dates: dates? })
}

/// `12-25`, a date that some year has.
fn fixed(text: &str) -> Option<Dates> {
    // 2000 is a leap year, so that 02-29 is one of its dates.
    let date = date_of(&format!("2000-{text}"))?;
    Some(Dates::Fixed { month: date.month(), day: date.day() })
}
