//! One country file to [`CountryRules`]. The file's name is the country's ISO 3166 code in small letters.
//!
//! Each value says where it comes from: `source = "..."`, or `example = true` where nobody looked it up. Examples show
//! the form; they are no legal advice.
//!
//! ```toml
//! name = "Spain"
//! currency = { code = "EUR", source = "ISO 4217" }
//! zones = { names = ["Europe/Madrid", "Atlantic/Canary"], source = "IANA time zone database" }
//! rest_days = { days = ["sun"], example = true }
//! quiet_hours = { from = "22:00", to = "07:00", example = true }   # may run over midnight
//! charging = { window = ["06:00", "23:00"], example = true }       # hours outside of which nothing is charged
//! paydays = { days = [1, 31], example = true }                     # 31 is the month's last day
//!
//! [[holidays]]                       # one of date, nth with month, dates
//! name = "Labour Day"
//! date = "05-01"
//! example = true
//!
//! [[caps]]
//! per = "month"                      # charge, day, week or month
//! amount = "300.00"
//! example = true
//!
//! [[attempts]]
//! per = "day"                        # day, week or month
//! max = 4
//! example = true
//!
//! [[notices]]
//! when = "before_renewal"            # before_renewal, after_charge or at_sign_up
//! lead = "24h"                       # before_renewal only
//! example = true
//! ```

mod calendar;

use rust_decimal::Decimal;

pub use self::calendar::read_calendar;
use super::reader::{Place, Problems, Source, Spanned, Table};
use super::values::excerpt;
use crate::calendar::{CalendarRules, HOLIDAYS_MAX};
use crate::money::{Currency, Money};
use crate::zone::Zone;

/// The most entries of a list of caps, limits or notices.
pub const RULES_MAX: usize = 16;

/// The most zones of a country.
pub const ZONES_MAX: usize = 32;

/// The most characters of a name or a source.
pub const NOTE_CHARS_MAX: usize = 200;

/// What holds in one country.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountryRules {
    /// ISO 3166, two capitals.
    pub code: String,
    /// For people.
    pub name: String,
    /// What is paid with.
    pub currency: Currency,
    /// IANA names of its zones.
    pub zones: Vec<String>,
    /// Windows, quiet hours, rest days, holidays and paydays.
    pub calendar: CalendarRules,
    /// What may be collected from one subscriber.
    pub caps: Vec<Cap>,
    /// How often one subscriber may be asked.
    pub attempts: Vec<AttemptLimit>,
    /// What subscribers must be told.
    pub notices: Vec<Notice>,
    /// Where each value comes from, as the values stand in the file.
    pub sources: Vec<Sourced>,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sourced {
    /// The value's key: `quiet_hours`, `holidays[2]`.
    pub key: String,
    /// Its source; `None` for an example that nobody looked up.
    pub source: Option<String>,
}

/// A stretch of local time over which amounts or attempts add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Per {
    /// One charge.
    Charge,
    /// A local day.
    Day,
    /// A week from Monday on.
    Week,
    /// A month.
    Month,
}

/// The most that may be collected from one subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cap {
    /// Over which time.
    pub per: Per,
    /// How much.
    pub amount: Money,
}

/// How many attempts one subscriber may meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptLimit {
    /// Over which time.
    pub per: Per,
    /// How many, 1 to 1,000.
    pub max: u32,
}

/// What a subscriber must be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// So many seconds before a renewal is charged.
    BeforeRenewal {
        /// How long before.
        lead_s: i64,
    },
    /// A receipt after each charge.
    AfterCharge,
    /// The terms at sign-up.
    AtSignUp,
}

impl CountryRules {
    /// The smallest cap of one charge.
    #[must_use]
    pub fn charge_cap(&self) -> Option<Money> {
        let of_charge = self.caps.iter().filter(|cap| cap.per == Per::Charge);
        of_charge.map(|cap| cap.amount).min_by_key(|amount| amount.minor)
    }
}

/// The rules of one country file. `None` when it has problems, which are then all in the list.
pub fn read_country(source: &Source, problems: &mut Problems) -> Option<CountryRules> {
    let mut found = Problems::default();
    let country = Table::parse(source, &mut found).and_then(|root| country(root, &mut found));
    let country = country.filter(|_| found.is_empty());
    problems.extend(found);
    country
}

fn country(mut root: Table<'_>, problems: &mut Problems) -> Option<CountryRules> {
    let mut sources = Vec::new();
    let code = code(root.source(), problems);
    let name = note(&mut root, "name", problems);
    let currency = root.table("currency", problems).and_then(|mut table| {
        let currency = currency(&mut table, problems);
        sourced("currency", table, &mut sources, problems);
        currency
    });
    let zones = root.table("zones", problems).and_then(|mut table| {
        let zones = zones(&mut table, problems);
        sourced("zones", table, &mut sources, problems);
        zones
    });
    let calendar = calendar::country_calendar(&mut root, &mut sources, problems);
    let caps = each(&mut root, "caps", RULES_MAX, &mut sources, problems, |table, problems| {
        cap(table, currency, problems)
    });
    let attempts = each(&mut root, "attempts", RULES_MAX, &mut sources, problems, |table, problems| {
        let per = table.one_of("per", &PER[1..], problems);
        let max = table.int("max", 1..=1_000, problems)?;
        Some(AttemptLimit { per: per?.value, max: u32::try_from(max.value).ok()? })
    });
    let notices = each(&mut root, "notices", RULES_MAX, &mut sources, problems, notice);
    root.finish(problems);
    Some(CountryRules {
        code: code?,
        name: name?,
        currency: currency?,
        zones: zones?,
        calendar,
        caps,
        attempts,
        notices,
        sources,
    })
}

const PER: [(&str, Per); 4] =
    [("charge", Per::Charge), ("day", Per::Day), ("week", Per::Week), ("month", Per::Month)];

fn code(source: &Source, problems: &mut Problems) -> Option<String> {
    let name = source.file.rsplit('/').next().unwrap_or_default();
    let code = name.strip_suffix(".toml").unwrap_or(name);
    if code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_lowercase()) {
        return Some(code.to_ascii_uppercase());
    }
    let what = format!("the file's name gives the country the code \"{}\"", excerpt(code));
    problems.push(source.problem(Place::START, what, "write two small letters of ISO 3166, such as es.toml"));
    None
}

/// A text for people, bounded and printable.
fn note(table: &mut Table<'_>, key: &str, problems: &mut Problems) -> Option<String> {
    let text = table.str(key, problems)?;
    let fine = (1..=NOTE_CHARS_MAX).contains(&text.chars().count()) && !text.chars().any(char::is_control);
    if !fine {
        let help = format!("write 1 to {NOTE_CHARS_MAX} printable characters");
        table.problem_at(text.place, format!("`{key}` is \"{}\"", excerpt(&text)), help, problems);
    }
    fine.then_some(text.value)
}

/// Where the value of a table comes from; ends the reading of it.
fn sourced(key: &str, mut table: Table<'_>, sources: &mut Vec<Sourced>, problems: &mut Problems) {
    let example = table.opt_bool("example", problems);
    let given = table.has("source");
    let source = if given { note(&mut table, "source", problems) } else { None };
    let is_example = example.as_ref().is_some_and(|example| example.value);
    if is_example == given {
        let what = format!("`{key}` does not say where it comes from");
        let what = if given { format!("`{key}` has a source and is an example") } else { what };
        let help = "write either source = \"...\" or example = true";
        table.problem_at(table.place(), what, help, problems);
    }
    if !given {
        // Asked for, so that a list of known keys names it.
        table.opt_str("source", problems);
    }
    table.finish(problems);
    sources.push(Sourced { key: key.to_owned(), source });
}

/// All tables of a list, with their sources.
fn each<T>(
    root: &mut Table<'_>,
    key: &str,
    max: usize,
    sources: &mut Vec<Sourced>,
    problems: &mut Problems,
    mut read: impl FnMut(&mut Table<'_>, &mut Problems) -> Option<T>,
) -> Vec<T> {
    let mut all = Vec::new();
    for (index, mut table) in root.tables(key, max, problems).into_iter().enumerate() {
        all.extend(read(&mut table, problems));
        sourced(&format!("{key}[{index}]"), table, sources, problems);
    }
    all
}

fn currency(table: &mut Table<'_>, problems: &mut Problems) -> Option<Currency> {
    let code = table.str("code", problems)?;
    let currency = Currency::from_code(&code).ok();
    if currency.is_none() {
        let what = format!("unknown currency \"{}\"", excerpt(&code));
        table.problem_at(code.place, what, "write an ISO 4217 code such as EUR, TND or JPY", problems);
    }
    currency
}

fn zones(table: &mut Table<'_>, problems: &mut Problems) -> Option<Vec<String>> {
    let names = table.str_list("names", ZONES_MAX, problems)?;
    if names.value.is_empty() {
        table.problem_at(names.place, "`zones.names` is empty", "name at least one zone", problems);
    }
    for name in names.value.iter().filter(|name| Zone::named(name).is_err()) {
        let what = format!("unknown time zone \"{}\"", excerpt(name));
        table.problem_at(name.place, what, "write an IANA name such as Africa/Tunis", problems);
    }
    Some(names.value.into_iter().map(|name| name.value).collect())
}

fn cap(table: &mut Table<'_>, currency: Option<Currency>, problems: &mut Problems) -> Option<Cap> {
    let per = table.one_of("per", &PER, problems);
    let text = table.str("amount", problems)?;
    let amount = money(&text, currency?);
    if amount.is_none() {
        let what = format!("`amount` is \"{}\"", excerpt(&text));
        let help = "write an amount above 0 of the country's currency, such as \"50.00\"";
        table.problem_at(text.place, what, help, problems);
    }
    Some(Cap { per: per?.value, amount: amount? })
}

fn money(text: &Spanned<String>, currency: Currency) -> Option<Money> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let amount = digits.then(|| Decimal::from_str_exact(text).ok())??;
    Money::from_decimal(amount, currency).ok().filter(|money| money.minor > 0)
}

fn notice(table: &mut Table<'_>, problems: &mut Problems) -> Option<Notice> {
    let lead = table.opt_duration_s("lead", 60..=60 * 86_400, problems);
    let kinds = [("before_renewal", 0), ("after_charge", 1), ("at_sign_up", 2)];
    let when = table.one_of("when", &kinds, problems)?;
    match (when.value, lead) {
        (0, Some(lead)) => Some(Notice::BeforeRenewal { lead_s: lead.value }),
        (1, None) => Some(Notice::AfterCharge),
        (2, None) => Some(Notice::AtSignUp),
        (kind, _) => {
            let help = if kind == 0 { "write how long before, such as \"24h\"" } else { "leave it out" };
            table.problem_at(when.place, "`lead` goes with before_renewal, and only with it", help, problems);
            None
        }
    }
}

/// The most holidays of a country, as the calendar bounds them.
const COUNTRY_HOLIDAYS_MAX: usize = HOLIDAYS_MAX;

#[cfg(test)]
mod tests;
