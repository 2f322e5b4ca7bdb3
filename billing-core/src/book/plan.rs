//! One plan file to [`PlanRules`]. The plan's id is the file's name without `.toml`.
//!
//! ```toml
//! merchant = "demo"                   # [a-z0-9-], 1 to 32
//! service = "kids"                    # [a-z0-9-], 1 to 32
//! carrier = "medina"                  # a carrier of the book
//! text = "Kids stories, one day"      # on the receipt; 1 to 64 characters
//! price = "0.500 TND"                 # the carrier's currency and range
//! tax_percent = "19"                  # in the price, on the net; default "0"
//! carrier_fee_percent = "30"          # of what remains after tax; default "0"
//!
//! [schedule]
//! every = "day"                       # once, 15 minutes, 6 hours, day, 3 days, week, month, quarter, year
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
//! min_part = "0.050"                  # the smallest part worth a request; default: what the carrier takes
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

use rust_decimal::Decimal;

use super::CarrierSummary;
use super::countries::{CountryRules, Per};
use super::reader::{Place, Problems, Source, Spanned, Table, one_of_help};
use super::values::{excerpt, opt_percent};
use crate::money::{Currency, Money, MoneyError};
use crate::plan::{CAP_SPANS, Caps, PlanRules};
use crate::schedule::{PHASES_MAX, Phase};
use crate::split::{Fee, Shares, Tariff};

mod schedule;
pub(super) use self::schedule::{date_of, nth_name, weekday_name, weekdays};

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

/// The rules of one plan file. `None` when it has problems, which are then all in the list.
/// A carrier's country may have no file: then it has no rules.
pub fn read_plan(
    source: &Source,
    carriers: &[CarrierSummary],
    countries: &[CountryRules],
    problems: &mut Problems,
) -> Option<PlanRules> {
    let mut found = Problems::default();
    let rules =
        Table::parse(source, &mut found).and_then(|root| rules(root, carriers, countries, &mut found));
    let rules = rules.filter(|_| found.is_empty());
    problems.extend(found);
    rules
}

fn rules(
    mut root: Table<'_>,
    carriers: &[CarrierSummary],
    countries: &[CountryRules],
    problems: &mut Problems,
) -> Option<PlanRules> {
    let id = checked_plan_id(root.source(), problems);
    let merchant = id_value(&mut root, "merchant", problems);
    let service = id_value(&mut root, "service", problems);
    let carrier = root.str("carrier", problems);
    let summary = carrier.as_ref().and_then(|id| carrier_of(&root, id, carriers, problems));
    let text = receipt_text(&mut root, problems);
    let price = price(&mut root, summary, problems);
    let (shares, tariffs) = shares(&mut root, summary, problems).unzip();
    let country =
        summary.and_then(|carrier| countries.iter().find(|country| country.code == carrier.country));
    within_caps(&root, price, country, problems);
    let around = schedule::Around { carrier: summary.map(|carrier| &carrier.calendar), country };
    let table = root.table("schedule", problems);
    let mut schedule = table.and_then(|table| schedule::read_schedule(table, &around, problems));
    let phases = phases(&mut root, price, summary, problems);
    // What a period may cost at most.
    let highest = price.map(|price| {
        let prices = phases.iter().map(|phase| phase.price_minor);
        Money::new(prices.fold(price.minor, i64::max), price.currency)
    });
    if let Some(schedule) = &mut schedule {
        schedule.phases = phases;
    }
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
        life.and_then(|table| lifecycle::lifecycle(table, highest, summary, arrears.is_some(), problems));
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
        shares: shares?,
        tariffs: tariffs?,
        fee_returned: summary.is_some_and(|carrier| carrier.fee_returned),
        answer_within_s: summary.map_or(0, |carrier| i64::from(carrier.final_deadline_s)),
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
        caps: price.map_or(Caps::NONE, |price| caps_of(country, price.currency)),
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

/// Tax and fee in any amount, and at the carrier's tariffs. What the plan itself says goes before its carrier's tariffs:
/// a plan may be free of tax, or have a contract of its own.
fn shares(
    root: &mut Table<'_>,
    carrier: Option<&CarrierSummary>,
    problems: &mut Problems,
) -> Option<(Shares, Vec<Tariff>)> {
    let tax = opt_percent(root, "tax_percent", problems);
    let fee = opt_percent(root, "carrier_fee_percent", problems);
    let (tax, fee) = (tax?, fee?.map(Fee::Percent));
    let shares = |tax: Option<Decimal>, fee: Option<Fee>| {
        Shares::with_fee(tax.unwrap_or_default(), fee.unwrap_or(Fee::Percent(Decimal::ZERO))).ok()
    };
    let tariffs = carrier.map_or(&[][..], |carrier| &carrier.tariffs);
    let tariffs = tariffs.iter().map(|tariff| {
        let shares = shares(tax.or(tariff.tax_percent), fee.or(tariff.fee))?;
        Some(Tariff { price_minor: tariff.price_minor, shares })
    });
    Some((shares(tax, fee)?, tariffs.collect::<Option<_>>()?))
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
        if let Some(help) = points_near(amount.minor, carrier) {
            table.problem_at(place, format!("`{path}` is {amount}"), help, problems);
        }
        return;
    }
    let end = |minor| Money::new(minor, carrier.currency).to_string();
    let (min, max) = (end(carrier.min_minor), end(carrier.max_minor));
    let help = format!("carrier {} takes {min} to {max}", carrier.id);
    table.problem_at(place, format!("`{path}` is {amount}"), help, problems);
}

/// Which price points come near an amount that is none of the carrier's; `None` when it takes the amount.
fn points_near(minor: i64, carrier: &CarrierSummary) -> Option<String> {
    let points = &carrier.price_points;
    let above = points.partition_point(|point| *point < minor);
    if points.is_empty() || points.get(above) == Some(&minor) {
        return None;
    }
    let near = [above.checked_sub(1), Some(above)].into_iter().flatten().filter_map(|at| points.get(at));
    let near: Vec<String> = near.map(|point| Money::new(*point, carrier.currency).to_string()).collect();
    Some(format!("carrier {} takes its price points only, near it {}", carrier.id, near.join(" and ")))
}

/// A price above what the country allows for one charge would be refused each time.
fn within_caps(
    root: &Table<'_>,
    price: Option<Money>,
    country: Option<&CountryRules>,
    problems: &mut Problems,
) {
    let (Some(price), Some(country)) = (price, country) else { return };
    let cap = country.charge_cap().filter(|cap| cap.currency == price.currency && price.minor > cap.minor);
    if let Some(cap) = cap {
        let help = format!("country {} allows {cap} for one charge", country.code);
        root.problem("price", format!("`price` is {price}"), help, problems);
    }
}

/// The caps of a country in the plan's currency; the smallest where it names several for one stretch of time.
fn caps_of(country: Option<&CountryRules>, currency: Currency) -> Caps {
    let Some(country) = country else { return Caps::NONE };
    let smallest = |per: Per| {
        let caps = country.caps.iter().filter(|cap| cap.per == per && cap.amount.currency == currency);
        caps.map(|cap| cap.amount.minor).min().unwrap_or(0)
    };
    let fewest = |per: Per| {
        let limits = country.attempts.iter().filter(|limit| limit.per == per);
        limits.map(|limit| i32::try_from(limit.max).unwrap_or(i32::MAX)).min().unwrap_or(0)
    };
    const SPANS: [Per; CAP_SPANS] = [Per::Day, Per::Week, Per::Month];
    Caps { charge_minor: smallest(Per::Charge), minor: SPANS.map(smallest), requests: SPANS.map(fewest) }
}

/// `[[phases]]`: introductory prices, in their sequence.
fn phases(
    root: &mut Table<'_>,
    price: Option<Money>,
    carrier: Option<&CarrierSummary>,
    problems: &mut Problems,
) -> Vec<Phase> {
    let mut phases = Vec::new();
    for (index, mut table) in root.tables("phases", PHASES_MAX, problems).into_iter().enumerate() {
        let periods = table.int("periods", 1..=100_000, problems);
        let text = table.str("price", problems);
        let path = format!("phases[{index}].price");
        let amount = text.as_ref().and_then(|text| {
            let amount = decimal(text);
            if amount.is_none() {
                let what = format!("`{path}` is \"{}\"", excerpt(text));
                let help = "write an amount of the price's currency, such as \"0.99\"";
                table.problem_at(text.place, what, help, problems);
            }
            // Without a price there is no currency to count in.
            money(&table, &path, amount?, price?.currency, text.place, problems)
        });
        if let (Some(amount), Some(text), Some(carrier)) = (amount, &text, carrier)
            && carrier.currency == amount.currency
        {
            in_carrier_range(&table, &path, amount, carrier, text.place, problems);
        }
        table.finish(problems);
        if let (Some(periods), Some(amount)) = (periods, amount) {
            let periods = u32::try_from(periods.value).unwrap_or(u32::MAX);
            phases.push(Phase { periods, price_minor: amount.minor });
        }
    }
    phases
}

#[cfg(test)]
mod tests;
