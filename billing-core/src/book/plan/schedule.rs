//! `[schedule]` of a plan: how often, when, and what of its surroundings it heeds.

use jiff::Timestamp;
use jiff::civil::{Date, Weekday};

use super::{DAY_S, MINUTE_S};
use crate::book::countries::CountryRules;
use crate::book::reader::{Problems, Spanned, Table, one_of_help};
use crate::book::values::{duration_text, excerpt, local_minute, minute_text};
use crate::calendar::{Calendar, CalendarError, CalendarRules, Paydays};
use crate::schedule::{
    Cadence, EVERY_MAX, Nth, PAYDAY_DAYS_MAX, Schedule, TIMES_MAX, WAIT_DAYS_MAX, Wait, Weekdays, Window,
};
use crate::zone::{DAY_MINUTES, Zone};

/// The most periods that `count` may name.
const COUNT_MAX: i64 = 1_000_000;

const WEEKDAYS: [(&str, Weekday); 7] = [
    ("mon", Weekday::Monday),
    ("tue", Weekday::Tuesday),
    ("wed", Weekday::Wednesday),
    ("thu", Weekday::Thursday),
    ("fri", Weekday::Friday),
    ("sat", Weekday::Saturday),
    ("sun", Weekday::Sunday),
];

/// What stands around a plan and has a say in when it charges.
pub(super) struct Around<'a> {
    /// The carrier's own calendar.
    pub(super) carrier: Option<&'a CalendarRules>,
    /// The rules of the carrier's country.
    pub(super) country: Option<&'a CountryRules>,
}

/// Reads `[schedule]`. `None` when something is missing; its problems are in the list.
pub(super) fn read_schedule(
    mut table: Table<'_>,
    around: &Around<'_>,
    problems: &mut Problems,
) -> Option<Schedule> {
    let before = problems.len();
    let on = days(&mut table, problems);
    let cadence = table.str("every", problems).and_then(|every| cadence(&table, &every, on, problems));
    let times = local_times(&mut table, cadence, problems);
    let at = times.as_ref().and_then(|times| times.first().cloned());
    let spread = table.opt_duration_s("spread", 0..=DAY_S - MINUTE_S, problems);
    let window = match table.opt_local_minutes("window", problems) {
        Some((from, to)) => Window::new(from.value, to.value).map_or_else(
            |_| {
                let what =
                    format!("`schedule.window` is {} to {}", minute_text(from.value), minute_text(to.value));
                table.problem_at(
                    to.place,
                    what,
                    "write an end after the beginning, of the same day",
                    problems,
                );
                None
            },
            Some,
        ),
        // A wrong window has its problem already.
        None => (!table.has("window")).then_some(Window::ALWAYS),
    };
    if let (Some(times), Some(window)) = (&times, window) {
        for (index, at) in times.iter().enumerate() {
            let next = times.get(index + 1).map(|next| next.value);
            at_and_spread_in_window(&table, at, next, spread.as_ref(), window, problems);
        }
    }
    let (start, end) = (date(&mut table, "start", problems), date(&mut table, "end", problems));
    if let (Some(start), Some(end)) = (&start, &end)
        && end.value < start.value
    {
        let what = format!("`schedule.end` is {}, before the start", end.value);
        table.problem_at(end.place, what, format!("the start is {}", start.value), problems);
    }
    let count = table.opt_int("count", 1..=COUNT_MAX, problems);
    let wait = wait(&mut table, problems);
    let avoid = avoid(&mut table, cadence, problems);
    let payday_days = prefer(&mut table, cadence, problems);
    let rules = joined(around, &avoid);
    let calendar = calendar(&table, rules, window, payday_days, problems);
    table.finish(problems);
    let spread_s = spread.map_or(0, |spread| spread.value);
    let times: Vec<u16> = times?.into_iter().map(|time| time.value).collect();
    if problems.len() > before {
        return None;
    }
    Some(Schedule {
        cadence: cadence?,
        at_minute: at?.value,
        times: if times.len() > 1 { times } else { Vec::new() },
        spread_minutes: u16::try_from(spread_s / MINUTE_S).ok()?,
        window: window?,
        calendar: calendar?,
        payday_days,
        start: start.map(|start| start.value),
        end: end.map(|end| end.value),
        count: count.and_then(|count| u32::try_from(count.value).ok()),
        wait,
        phases: Vec::new(),
    })
}

/// The local times of the day, ascending. Elapsed time needs none: it is counted from midnight of the first day.
fn local_times(
    table: &mut Table<'_>,
    cadence: Option<Cadence>,
    problems: &mut Problems,
) -> Option<Vec<Spanned<u16>>> {
    let elapsed = cadence.is_some_and(|cadence| cadence.elapsed_minutes().is_some());
    if !table.has("at") && elapsed {
        return Some(vec![Spanned { value: 0, place: table.place() }]);
    }
    if table.type_of("at") != Some("array") {
        return table.local_minute("at", DAY_MINUTES - 1, problems).map(|at| vec![at]);
    }
    let items = table.opt_str_list("at", TIMES_MAX, problems)?;
    if items.value.is_empty() || elapsed || cadence == Some(Cadence::Once) {
        let what = format!("`schedule.at` names {} local times", items.value.len());
        let help = "write one local time; only days, weeks, months and years may have several";
        table.problem_at(items.place, what, help, problems);
        return None;
    }
    let mut times: Vec<Spanned<u16>> = Vec::new();
    for (index, item) in items.value.iter().enumerate() {
        let Some(minute) = local_minute(item).filter(|minute| *minute < DAY_MINUTES) else {
            let what = format!("`schedule.at[{index}]` is \"{}\"", excerpt(item));
            table.problem_at(item.place, what, "write a local time from 00:00 to 23:59", problems);
            return None;
        };
        if times.last().is_some_and(|last| last.value >= minute) {
            let what = format!("`schedule.at[{index}]` is \"{}\"", excerpt(item));
            table.problem_at(item.place, what, "write a time after the one before", problems);
            return None;
        }
        times.push(Spanned { value: minute, place: item.place });
    }
    Some(times)
}

fn date(table: &mut Table<'_>, key: &str, problems: &mut Problems) -> Option<Spanned<Date>> {
    let text = table.opt_str(key, problems)?;
    let found = date_of(&text);
    if found.is_none() {
        let what = format!("`schedule.{key}` is \"{}\"", excerpt(&text));
        table.problem_at(
            text.place,
            what,
            "write a date from 2000 to 2089, such as \"2027-01-31\"",
            problems,
        );
    }
    found.map(|date| Spanned { value: date, place: text.place })
}

/// The date of `2027-01-31`, from 2000 to 2089.
pub(in crate::book) fn date_of(text: &str) -> Option<Date> {
    let shape =
        |(at, byte): (usize, u8)| if matches!(at, 4 | 7) { byte == b'-' } else { byte.is_ascii_digit() };
    let date =
        (text.len() == 10 && text.bytes().enumerate().all(shape)).then(|| text.parse::<Date>().ok())??;
    (2000..=2089).contains(&date.year()).then_some(date)
}

fn wait(table: &mut Table<'_>, problems: &mut Problems) -> Wait {
    let range = DAY_S..=i64::from(WAIT_DAYS_MAX) * DAY_S;
    let mut days = |key: &str| -> Option<Spanned<u16>> {
        let wait = table.opt_duration_s(key, range.clone(), problems)?;
        if wait.value % DAY_S != 0 {
            table.problem_at(
                wait.place,
                format!("`schedule.{key}` is not in days"),
                "write whole days",
                problems,
            );
        }
        Some(Spanned { value: u16::try_from(wait.value / DAY_S).unwrap_or(WAIT_DAYS_MAX), place: wait.place })
    };
    match (days("trial"), days("parked")) {
        (None, None) => Wait::None,
        (Some(trial), None) => Wait::Trial(trial.value),
        (None, Some(parked)) => Wait::Parked(parked.value),
        (Some(_), Some(parked)) => {
            let what = "`schedule.parked` beside `schedule.trial`";
            table.problem_at(parked.place, what, "keep one of them", problems);
            Wait::None
        }
    }
}

/// What a plan may let stand in its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Avoid {
    QuietHours,
    RestDays,
    Holidays,
}

const AVOID: [(&str, Avoid); 3] =
    [("quiet_hours", Avoid::QuietHours), ("rest_days", Avoid::RestDays), ("holidays", Avoid::Holidays)];

/// Quiet hours by default, but not for a single charge: the subscriber asked for it just now.
fn avoid(table: &mut Table<'_>, cadence: Option<Cadence>, problems: &mut Problems) -> Vec<Avoid> {
    let Some(names) = table.opt_str_list("avoid", AVOID.len(), problems) else {
        return if cadence == Some(Cadence::Once) { Vec::new() } else { vec![Avoid::QuietHours] };
    };
    let mut avoid = Vec::new();
    for name in &names.value {
        match AVOID.iter().find(|(known, _)| *known == name.value) {
            Some((_, known)) => avoid.push(*known),
            None => {
                let what = format!("`schedule.avoid` has \"{}\"", excerpt(name));
                let help = one_of_help(name, AVOID.iter().map(|(known, _)| *known));
                table.problem_at(name.place, what, help, problems);
            }
        }
    }
    avoid
}

/// By how many days a charge may wait for a payday.
fn prefer(table: &mut Table<'_>, cadence: Option<Cadence>, problems: &mut Problems) -> u16 {
    let prefer = table.opt_one_of("prefer", &[("payday", ())], problems);
    let range = DAY_S..=i64::from(PAYDAY_DAYS_MAX) * DAY_S;
    let within = table.opt_duration_s("prefer_within", range, problems);
    let Some(prefer) = prefer else {
        if let Some(within) = within {
            let help = "write prefer = \"payday\" beside it";
            table.problem_at(within.place, "`schedule.prefer_within` without a `prefer`", help, problems);
        }
        return 0;
    };
    if !matches!(cadence, Some(Cadence::Months(_) | Cadence::NthWeekday { .. } | Cadence::Years(_)) | None) {
        let what = "`schedule.prefer` does not go with periods shorter than a month";
        table.problem_at(prefer.place, what, "leave it out", problems);
    }
    within.map_or(3, |within| u16::try_from(within.value / DAY_S).unwrap_or(PAYDAY_DAYS_MAX))
}

/// What country and carrier say, as far as the plan heeds it. Maintenance and charging hours always count.
fn joined(around: &Around<'_>, avoid: &[Avoid]) -> CalendarRules {
    let mut rules = around.carrier.cloned().unwrap_or_default();
    let Some(country) = around.country else { return rules };
    let theirs = &country.calendar;
    rules.windows.extend(&theirs.windows);
    if avoid.contains(&Avoid::QuietHours) {
        rules.quiet.extend(&theirs.quiet);
    }
    if avoid.contains(&Avoid::RestDays) {
        rules.rest_days = theirs.rest_days;
    }
    if avoid.contains(&Avoid::Holidays) {
        rules.holidays.clone_from(&theirs.holidays);
    }
    if rules.paydays.days.is_empty() {
        rules.paydays.clone_from(&theirs.paydays);
    }
    rules
}

fn calendar(
    table: &Table<'_>,
    mut rules: CalendarRules,
    window: Option<Window>,
    payday_days: u16,
    problems: &mut Problems,
) -> Option<Calendar> {
    match payday_days {
        0 => rules.paydays = Paydays::default(),
        _ if rules.paydays.days.is_empty() => {
            let help = "give the carrier or its country paydays, or leave it out";
            table.problem("prefer", "`schedule.prefer`: no paydays are known", help, problems);
        }
        _ => {}
    }
    let calendar = Calendar::new(rules).and_then(|calendar| {
        // An ordinary year has to have an open minute, or every charge would wait for ever.
        let utc = Zone::named("UTC").map_err(|_| CalendarError::OutOfRange(0))?;
        calendar.at_or_after(window.unwrap_or(Window::ALWAYS), &utc, Timestamp::UNIX_EPOCH)?;
        Ok(calendar)
    });
    match calendar {
        Ok(calendar) => Some(calendar),
        Err(error) => {
            let help = "open the window where country and carrier allow charging";
            table.problem("window", format!("`schedule`: {error}"), help, problems);
            None
        }
    }
}

fn at_and_spread_in_window(
    table: &Table<'_>,
    at: &Spanned<u16>,
    next: Option<u16>,
    spread: Option<&Spanned<i64>>,
    window: Window,
    problems: &mut Problems,
) {
    let (from, to) = (minute_text(window.from_minute()), minute_text(window.to_minute()));
    if !window.contains(at.value) {
        let what = format!("`schedule.at` is \"{}\", outside of the window", minute_text(at.value));
        table.problem_at(at.place, what, format!("the window is {from} to {to}"), problems);
        return;
    }
    let Some(spread) = spread else { return };
    let text = duration_text(spread.value * 1_000);
    if spread.value % MINUTE_S != 0 {
        let what = format!("`schedule.spread` is \"{text}\"");
        table.problem_at(spread.place, what, "write whole minutes", problems);
        return;
    }
    let room_s = i64::from(window.to_minute() - at.value) * MINUTE_S;
    if let Some(next) = next.filter(|next| spread.value > i64::from(next - at.value) * MINUTE_S) {
        let what = format!("`schedule.spread` is \"{text}\", which reaches the next local time");
        let help = format!("{} follows {}", minute_text(next), minute_text(at.value));
        table.problem_at(spread.place, what, help, problems);
        return;
    }
    if spread.value > room_s {
        let what = format!("`schedule.spread` is \"{text}\", which leaves the window");
        let room = duration_text(room_s * 1_000);
        let help = format!("from {} to the window's end at {to} it is {room}", minute_text(at.value));
        table.problem_at(spread.place, what, help, problems);
    }
}

/// What `on` says.
enum On {
    Weekdays(Weekdays),
    Nth(Nth, Weekday),
}

fn cadence(
    table: &Table<'_>,
    every: &Spanned<String>,
    on: Option<Spanned<On>>,
    problems: &mut Problems,
) -> Option<Cadence> {
    let (number, unit) = match every.split_once(' ') {
        // "1 week", "2 weeks"; "once" goes without a number.
        Some((number, units)) => {
            let unit = units.strip_suffix('s').unwrap_or(units);
            (number, if unit == "once" { "" } else { unit })
        }
        None => ("1", every.as_str()),
    };
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let known = ["once", "minute", "hour", "day", "week", "month", "quarter", "year"].contains(&unit);
    if !digits || !known {
        let what = format!("`schedule.every` is \"{}\"", excerpt(every));
        let help = "write \"once\", \"15 minutes\", \"6 hours\", \"day\", \"3 days\", \"week\", \"2 weeks\", \"month\", \
                    \"3 months\", \"quarter\" or \"year\"";
        table.problem_at(every.place, what, help, problems);
        return None;
    }
    let most = if unit == "quarter" { EVERY_MAX / 3 } else { EVERY_MAX };
    let Some(n) = number.parse().ok().filter(|n| (1..=most).contains(n)) else {
        let what = format!("`schedule.every` is \"{}\"", excerpt(every));
        let help = format!("write a number from 1 to {most}");
        table.problem_at(every.place, what, help, problems);
        return None;
    };
    let place = on.as_ref().map(|on| on.place);
    Some(match (unit, on.map(|on| on.value)) {
        ("once", None) => Cadence::Once,
        ("minute", None) => Cadence::Minutes(n),
        ("hour", None) => Cadence::Hours(n),
        ("day", None) => Cadence::Days(n),
        ("week", None) => Cadence::Weeks { every: n, on: Weekdays::default() },
        ("week", Some(On::Weekdays(on))) => Cadence::Weeks { every: n, on },
        ("month", None) => Cadence::Months(n),
        ("month", Some(On::Nth(nth, weekday))) => Cadence::NthWeekday { every: n, nth, weekday },
        ("quarter", None) => Cadence::Months(n * 3),
        ("quarter", Some(On::Nth(nth, weekday))) => Cadence::NthWeekday { every: n * 3, nth, weekday },
        ("year", None) => Cadence::Years(n),
        (_, on) => {
            let what = format!("`schedule.on` does not go with every = \"{}\"", excerpt(every));
            let help = match on {
                Some(On::Nth(..)) => "only months and quarters have an nth weekday: leave it out",
                _ => "only weeks have days: leave it out",
            };
            table.problem_at(place?, what, help, problems);
            return None;
        }
    })
}

fn days(table: &mut Table<'_>, problems: &mut Problems) -> Option<Spanned<On>> {
    // `on = "last fri"` of months; `on = ["mon", "thu"]` of weeks.
    if table.type_of("on") != Some("string") {
        return weekdays(table, "on", problems).map(|days| days.map(On::Weekdays));
    }
    let text = table.opt_str("on", problems)?;
    let found = text.split_once(' ').and_then(|(nth, day)| Some((nth_name(nth)?, weekday_name(day)?)));
    if found.is_none() {
        let what = format!("`schedule.on` is \"{}\"", excerpt(&text));
        let help = "write weekdays such as [\"mon\", \"thu\"], or \"last fri\" or \"2nd tue\" for months";
        table.problem_at(text.place, what, help, problems);
    }
    let place = text.place;
    found.map(|(nth, day)| Spanned { value: On::Nth(nth, day), place })
}

/// `1st`, `2nd`, `3rd`, `4th`, `last`.
pub(in crate::book) fn nth_name(name: &str) -> Option<Nth> {
    let names = [
        ("1st", Nth::First),
        ("2nd", Nth::Second),
        ("3rd", Nth::Third),
        ("4th", Nth::Fourth),
        ("last", Nth::Last),
    ];
    names.iter().find(|(known, _)| *known == name).map(|(_, nth)| *nth)
}

/// `mon` to `sun`.
pub(in crate::book) fn weekday_name(name: &str) -> Option<Weekday> {
    WEEKDAYS.iter().find(|(known, _)| *known == name).map(|(_, day)| *day)
}

/// A list of weekdays, if the key is there.
pub(in crate::book) fn weekdays(
    table: &mut Table<'_>,
    key: &str,
    problems: &mut Problems,
) -> Option<Spanned<Weekdays>> {
    let names = table.opt_str_list(key, WEEKDAYS.len(), problems)?;
    let mut days = Weekdays::default();
    for name in &names.value {
        let Some((_, day)) = WEEKDAYS.iter().find(|(known, _)| *known == name.value) else {
            let what = format!("unknown weekday \"{}\"", excerpt(name));
            let help = one_of_help(name, WEEKDAYS.iter().map(|(known, _)| *known));
            table.problem_at(name.place, what, help, problems);
            continue;
        };
        if days.contains(*day) {
            table.problem_at(
                name.place,
                format!("\"{}\" stands there twice", name.value),
                "keep one of them",
                problems,
            );
        }
        days = days.with(*day);
    }
    if names.value.is_empty() {
        let help = format!("name a weekday, or leave `{key}` out");
        let what = format!("`{}` names no weekday", table.path_of(key));
        table.problem_at(names.place, what, help, problems);
    }
    Some(Spanned { value: days, place: names.place })
}
