//! One plan file to [`PlanRules`]. The plan's id is the file's name without `.toml`.
//!
//! ```toml
//! merchant = "demo"                   # [a-z0-9-], 1 to 32
//! service = "kids"                    # [a-z0-9-], 1 to 32
//! carrier = "medina"                  # a carrier of the book
//! text = "Kids stories, one day"      # on the receipt; 1 to 64 characters
//! price = "0.500 TND"                 # the carrier's currency and range
//!
//! [schedule]
//! every = "day"                       # once, day, 3 days, week, 2 weeks, month, 3 months, year
//! on = ["mon", "thu"]                 # weeks only; default: the weekday of the sign-up
//! at = "06:00"                        # local time
//! spread = "2h"                       # default "0s"
//! window = ["06:00", "22:00"]         # default ["00:00", "24:00"]
//!
//! [ladder]                            # default: none
//! steps = ["0.300", "20%"]            # 1 to 8, descending, above 0, below the price; percentages of the price
//! points = "0.050"                    # percentages are rounded down to multiples of it; default: the minor unit
//! settles = "share"                   # period, share or amount; no default
//! restart = "full"                    # full (default) or last_step
//! choose = "descending"               # descending (default), or balance: the largest that it covers
//! native = false                      # true: the carrier collects what there is; steps may be left out then
//! min_part = "0.050"                  # the smallest part worth a request; default: any
//! delivers = "time"                   # time (default) or tier: a smaller variant of the product
//!
//! [dunning]                           # every line may be left out
//! no_funds = { rounds = ["4h", "8h", "1d", "3d", "7d"], then = "next_period" }
//! limit = { rounds = ["1d", "3d", "7d"], then = "next_period" }
//! barred = { rounds = ["1d", "7d"], then = "next_period" }
//! unknown_subscriber = { rounds = [], then = "cancel" }
//! subscriber_refused = { rounds = [], then = "cancel" }
//! not_allowed = { rounds = [], then = "suspend" }
//! throttled = "5m"
//! temporary = "5m"
//! fault = "15m"
//!
//! [defer]                             # every line may be left out
//! max = 0
//! shelf_life = "0s"
//!
//! [lifecycle]                         # every line but late_approved may be left out
//! late_approved = "past"              # extend, past or refund; no default
//! grace = "0s"
//! first_failure = "retry"             # retry or cancel
//! missed = "once_late"                # once_late, skip, merge (with merge_periods) or collect_late (with [arrears])
//! trial = "0s"
//! pause_keeps_access = false
//! top_up_due = false                  # a top-up makes an overdue charge due at once
//! top_up_resumes = false              # a top-up resumes a suspended subscription
//! reset_from_round = 0                # 0: never
//! refund_access = "keep"              # keep, share or end
//! ```
//!
//! What stands in `[dunning]`, `[defer]` and `[lifecycle]` above are the defaults. A round that would not come before
//! the next charge is left out by the engine, so that one default serves a daily plan as well as a yearly one.
//! A schedule of rounds may also have `grow = { first = "1h", factor = "150%", max = "1d", rounds = 5 }`,
//! `jitter = "10%"`, `hours = ["08:00", "20:00"]` and `on = ["fri"]`; `limit_day`, `limit_week`, `limit_month` and
//! `limit_too_soon` stand beside `limit`. `[dunning]` may have `budget = { day = 3, period = 20, fee = "0.005",
//! fees = "0.100" }`, `[defer]` `payday = { days = [1, 15], last = true, within = 5 }`. `[arrears]`, `[balance]` and
//! `[reserve]` are left out by default; see docs/reference/plan-toml.md.

use jiff::civil::Weekday;
use rust_decimal::Decimal;

use super::CarrierSummary;
use super::reader::{Place, Problems, Source, Spanned, Table, one_of_help};
use super::values::{duration_text, excerpt, minute_text};
use crate::money::{Currency, Money, MoneyError};
use crate::plan::PlanRules;
use crate::schedule::{Cadence, EVERY_MAX, Schedule, Weekdays, Window};
use crate::zone::DAY_MINUTES;

mod dunning;
mod ladder;
mod lifecycle;

/// The most characters of a plan's, merchant's or service's id.
pub const ID_CHARS_MAX: usize = 32;

/// The most characters of a plan's text on the receipt.
pub const TEXT_CHARS_MAX: usize = 64;

const MINUTE_S: i64 = 60;
const HOUR_S: i64 = 60 * MINUTE_S;
const DAY_S: i64 = 24 * HOUR_S;
const YEAR_S: i64 = 366 * DAY_S;

const WEEKDAYS: [(&str, Weekday); 7] = [
    ("mon", Weekday::Monday),
    ("tue", Weekday::Tuesday),
    ("wed", Weekday::Wednesday),
    ("thu", Weekday::Thursday),
    ("fri", Weekday::Friday),
    ("sat", Weekday::Saturday),
    ("sun", Weekday::Sunday),
];

/// The rules of one plan file. `None` when it has problems, which are then all in the list.
pub fn read_plan(source: &Source, carriers: &[CarrierSummary], problems: &mut Problems) -> Option<PlanRules> {
    let mut found = Problems::default();
    let rules = Table::parse(source, &mut found).and_then(|root| rules(root, carriers, &mut found));
    let rules = rules.filter(|_| found.is_empty());
    problems.extend(found);
    rules
}

fn rules(mut root: Table<'_>, carriers: &[CarrierSummary], problems: &mut Problems) -> Option<PlanRules> {
    let id = checked_plan_id(root.source(), problems);
    let merchant = id_value(&mut root, "merchant", problems);
    let service = id_value(&mut root, "service", problems);
    let carrier = root.str("carrier", problems);
    let summary = carrier.as_ref().and_then(|id| carrier_of(&root, id, carriers, problems));
    let text = receipt_text(&mut root, problems);
    let price = price(&mut root, summary, problems);
    let schedule = root.table("schedule", problems).and_then(|table| schedule(table, problems));
    let ladder_table = root.opt_table("ladder", problems);
    let ladder = ladder_table.map(|table| ladder::ladder(table, price, summary, problems));
    let dunning = dunning::dunning(root.opt_table("dunning", problems), price, problems);
    let arrears_table = root.opt_table("arrears", problems);
    let arrears = arrears_table.map(|table| lifecycle::arrears(table, price, problems));
    let defer = lifecycle::defer(root.opt_table("defer", problems), problems);
    let balance = root.opt_table("balance", problems).map(|table| lifecycle::balance(table, problems));
    let reserve = root.opt_table("reserve", problems).map(|table| lifecycle::reserve(table, problems));
    let life = root.table("lifecycle", problems);
    let life =
        life.and_then(|table| lifecycle::lifecycle(table, price, summary, arrears.is_some(), problems));
    root.finish(problems);
    let life = life?;
    Some(PlanRules {
        id: id?,
        text: text?,
        merchant: merchant?,
        service: service?,
        carrier: carrier?.value,
        schedule: schedule?,
        price: price?,
        ladder: whole(ladder)?,
        dunning,
        grace_s: life.grace_s,
        first_failure: life.first_failure,
        missed: life.missed,
        late_approved: life.late_approved,
        arrears: whole(arrears)?,
        defer,
        balance: whole(balance)?,
        reserve: whole(reserve)?,
        lifecycle: life.rest,
        refund_access: life.refund_access,
    })
}

/// A table that may be left out, but may not have problems.
fn whole<T>(table: Option<Option<T>>) -> Option<Option<T>> {
    match table {
        Some(read) => read.map(Some),
        None => Some(None),
    }
}

/// The plan's id in a path: `daily` in `config/plans/daily.toml`.
pub(super) fn plan_id(file: &str) -> &str {
    let name = file.rsplit('/').next().unwrap_or_default();
    name.strip_suffix(".toml").unwrap_or(name)
}

fn checked_plan_id(source: &Source, problems: &mut Problems) -> Option<String> {
    let id = plan_id(&source.file);
    if is_id(id) {
        return Some(id.to_owned());
    }
    let what = format!("the file's name gives the plan the id \"{}\"", excerpt(id));
    problems.push(source.problem(Place::START, what, ID_HELP));
    None
}

const ID_HELP: &str = "write 1 to 32 characters of a-z, 0-9 and -";

fn is_id(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=ID_CHARS_MAX).contains(&text.len()) && text.bytes().all(allowed)
}

fn id_value(root: &mut Table<'_>, key: &str, problems: &mut Problems) -> Option<String> {
    let id = root.str(key, problems)?;
    if is_id(&id) {
        return Some(id.value);
    }
    root.problem_at(id.place, format!("`{key}` is \"{}\"", excerpt(&id)), ID_HELP, problems);
    None
}

fn carrier_of<'c>(
    root: &Table<'_>,
    id: &Spanned<String>,
    carriers: &'c [CarrierSummary],
    problems: &mut Problems,
) -> Option<&'c CarrierSummary> {
    let found = carriers.iter().find(|carrier| carrier.id == id.value);
    if found.is_none() {
        let help = match carriers.is_empty() {
            true => "the book has no carriers".to_owned(),
            false => one_of_help(id, carriers.iter().map(|carrier| carrier.id.as_str())),
        };
        root.problem_at(id.place, format!("unknown carrier \"{}\"", excerpt(id)), help, problems);
    }
    found
}

fn receipt_text(root: &mut Table<'_>, problems: &mut Problems) -> Option<String> {
    let text = root.str("text", problems)?;
    let count = text.chars().count();
    if !(1..=TEXT_CHARS_MAX).contains(&count) {
        let help = format!("write 1 to {TEXT_CHARS_MAX}");
        root.problem_at(text.place, format!("`text` has {count} characters"), help, problems);
        return None;
    }
    if let Some((offset, control)) = text.char_indices().find(|(_, char)| char.is_control()) {
        let place = root.source().place_within(&text, offset);
        let what = format!("`text` has the control character {}", control.escape_unicode());
        root.problem_at(place, what, "leave it out", problems);
        return None;
    }
    Some(text.value)
}

fn price(root: &mut Table<'_>, carrier: Option<&CarrierSummary>, problems: &mut Problems) -> Option<Money> {
    let text = root.str("price", problems)?;
    let parts = text.split_once(' ').and_then(|(amount, code)| Some((decimal(amount)?, amount, code)));
    let Some((amount, digits, code)) = parts else {
        let what = format!("`price` is \"{}\"", excerpt(&text));
        let help = "write an amount and a currency, such as \"0.500 TND\"";
        root.problem_at(text.place, what, help, problems);
        return None;
    };
    let code_place = root.source().place_within(&text, digits.len() + 1);
    let Ok(currency) = Currency::from_code(code) else {
        let what = format!("unknown currency \"{}\"", excerpt(code));
        root.problem_at(code_place, what, "write an ISO 4217 code such as EUR, TND or JPY", problems);
        return None;
    };
    let price = money(root, "price", amount, currency, text.place, problems)?;
    match carrier {
        Some(carrier) if carrier.currency != currency => {
            let help = format!("carrier {} collects {}", carrier.id, carrier.currency.code());
            root.problem_at(code_place, format!("`price` is in {}", currency.code()), help, problems);
        }
        Some(carrier) => in_carrier_range(root, "price", price, carrier, text.place, problems),
        None => {}
    }
    Some(price)
}

/// `0.500`: digits, at most one point between them, nothing else.
fn decimal(text: &str) -> Option<Decimal> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    (digits(whole) && digits(fraction)).then(|| Decimal::from_str_exact(text).ok()).flatten()
}

/// An amount above 0 with no more decimals than its currency has.
fn money(
    table: &Table<'_>,
    path: &str,
    amount: Decimal,
    currency: Currency,
    place: Place,
    problems: &mut Problems,
) -> Option<Money> {
    let (what, help) = match Money::from_decimal(amount, currency) {
        Ok(money) if money.minor > 0 => return Some(money),
        Ok(_) => (format!("`{path}` is {amount}"), "write an amount above 0".to_owned()),
        Err(MoneyError::TooPrecise { exponent, currency, .. }) => {
            (format!("`{path}` is {amount}"), format!("{currency} has {exponent} decimals"))
        }
        Err(error) => (format!("`{path}`: {error}"), "write a smaller amount".to_owned()),
    };
    table.problem_at(place, what, help, problems);
    None
}

fn in_carrier_range(
    table: &Table<'_>,
    path: &str,
    amount: Money,
    carrier: &CarrierSummary,
    place: Place,
    problems: &mut Problems,
) {
    if (carrier.min_minor..=carrier.max_minor).contains(&amount.minor) {
        return;
    }
    let end = |minor| Money::new(minor, carrier.currency).to_string();
    let (min, max) = (end(carrier.min_minor), end(carrier.max_minor));
    let help = format!("carrier {} takes {min} to {max}", carrier.id);
    table.problem_at(place, format!("`{path}` is {amount}"), help, problems);
}

fn schedule(mut table: Table<'_>, problems: &mut Problems) -> Option<Schedule> {
    let on = weekdays(&mut table, "schedule.on", problems);
    let cadence = table.str("every", problems).and_then(|every| cadence(&table, &every, on, problems));
    let at = table.local_minute("at", DAY_MINUTES - 1, problems);
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
    if let (Some(at), Some(window)) = (&at, window) {
        at_and_spread_in_window(&table, at, spread.as_ref(), window, problems);
    }
    table.finish(problems);
    let spread_s = spread.map_or(0, |spread| spread.value);
    Some(Schedule {
        cadence: cadence?,
        at_minute: at?.value,
        spread_minutes: u16::try_from(spread_s / MINUTE_S).ok()?,
        window: window?,
    })
}

fn at_and_spread_in_window(
    table: &Table<'_>,
    at: &Spanned<u16>,
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
    if spread.value > room_s {
        let what = format!("`schedule.spread` is \"{text}\", which leaves the window");
        let room = duration_text(room_s * 1_000);
        let help = format!("from {} to the window's end at {to} it is {room}", minute_text(at.value));
        table.problem_at(spread.place, what, help, problems);
    }
}

fn cadence(
    table: &Table<'_>,
    every: &Spanned<String>,
    on: Option<Spanned<Weekdays>>,
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
    let known = ["once", "day", "week", "month", "year"].contains(&unit);
    if !digits || !known {
        let what = format!("`schedule.every` is \"{}\"", excerpt(every));
        let help =
            "write \"once\", \"day\", \"3 days\", \"week\", \"2 weeks\", \"month\", \"3 months\" or \"year\"";
        table.problem_at(every.place, what, help, problems);
        return None;
    }
    let Some(n) = number.parse().ok().filter(|n| (1..=EVERY_MAX).contains(n)) else {
        let what = format!("`schedule.every` is \"{}\"", excerpt(every));
        let help = format!("write a number from 1 to {EVERY_MAX}");
        table.problem_at(every.place, what, help, problems);
        return None;
    };
    if unit != "week"
        && let Some(on) = on
    {
        let what = format!("`schedule.on` does not go with every = \"{}\"", excerpt(every));
        table.problem_at(on.place, what, "only weeks have days: leave it out", problems);
        return None;
    }
    Some(match unit {
        "once" => Cadence::Once,
        "day" => Cadence::Days(n),
        "week" => Cadence::Weeks { every: n, on: on.map(|on| on.value).unwrap_or_default() },
        "month" => Cadence::Months(n),
        _ => Cadence::Years(n),
    })
}

fn weekdays(table: &mut Table<'_>, path: &str, problems: &mut Problems) -> Option<Spanned<Weekdays>> {
    let names = table.opt_str_list("on", WEEKDAYS.len(), problems)?;
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
        let help = "name a weekday, or leave `on` out for the weekday of the sign-up";
        table.problem_at(names.place, format!("`{path}` names no weekday"), help, problems);
    }
    Some(Spanned { value: days, place: names.place })
}

#[cfg(test)]
mod tests;
