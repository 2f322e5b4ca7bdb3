//! Reads the tables of a definition that say who the carrier is, how much it takes and where it listens.

use std::cell::RefCell;
use std::sync::Arc;

use billing_core::book::countries::read_calendar;
use billing_core::book::reader::{Place, Problems, Source, Spanned, Table};
use billing_core::book::values::excerpt;
use billing_core::money::Currency;
use billing_core::outcome::Op;
use billing_core::zone::Zone;
use zeroize::Zeroizing;

use super::auth::Auth;
use super::callback::read_callback_table;
use super::file::{AroundFile, read_file_table};
use super::further::{FURTHER_TABLES, Further, read_further};
use super::operation::{Around, read_operation};
use super::proof::{Offered, ProofText, check_proof, read_proof};
use super::tariffs::{Prices, TARIFFS_MAX, read_tariffs};
use super::{Breaker, CarrierDefinition, For, LinkSettings, checks};
use crate::adapter::{Caps, Exchange};
use crate::dialect::amount::read_decimal;
use crate::dialect::rules::Subject;
use crate::http::Target;
use crate::msisdn::MsisdnRule;
use crate::secrets::{SecretError, Secrets};

const ZONES_MAX: usize = 64;
const BODY_BYTES_MAX: i64 = 256 * 1024;
const SLICES_MAX: i64 = billing_core::ids::SLICES_MAX as i64;
const DAY_S: i64 = 86_400;

/// Reads everything, even when something is wrong on the way: all problems are told at once.
pub(super) fn read(
    source: &Source,
    secrets: &dyn Secrets,
    problems: &mut Problems,
) -> Option<CarrierDefinition> {
    let mut root = Table::parse(source, problems)?;
    let secrets = Remembering { secrets, given: RefCell::default() };

    let carrier = root.table("carrier", problems).and_then(|table| read_carrier(table, source, problems));
    let currency = carrier.as_ref().map(|carrier| carrier.currency);
    let limits = root.table("limits", problems).and_then(|table| read_limits(table, currency, problems));
    let prices = currency.zip(limits.as_ref()).map(|(currency, limits)| Prices {
        currency,
        min_minor: limits.min_minor,
        max_minor: limits.max_minor,
        points: &limits.price_points,
    });
    let tariffs = root.tables("tariffs", TARIFFS_MAX, problems);
    let tariffs = read_tariffs(tariffs, prices.as_ref(), problems);
    let link = root.table("link", problems).and_then(|table| read_link(table, problems));
    let proof_place = root.place_of("proof");
    let proof = match root.opt_table("proof", problems) {
        Some(table) => read_proof(table, problems),
        None => Some(ProofText::default()),
    };
    let auth = match root.opt_table("auth", problems) {
        Some(table) => Auth::read(table, &secrets, problems),
        None => Some(Auth::none()),
    };
    let breaker = match root.opt_table("breaker", problems) {
        Some(table) => read_breaker(table, problems),
        None => Some(Breaker::default()),
    };
    let charge = root.table("charge", problems);
    let body_place = charge.as_ref().map_or(Place::START, |charge| charge.place_of("body"));
    // Without a currency no amount can be read: the rest would only repeat that.
    let known = carrier.zip(proof);
    let mut further = Further::default();
    let mut file = None;
    let has_file = root.has("file");
    let charge = match (&known, charge) {
        (Some((carrier, proof)), Some(table)) => {
            let around = Around {
                currency: carrier.currency,
                msisdn: &carrier.msisdn,
                secrets: &secrets,
                partial: carrier.partial,
                proof,
            };
            let charge = read_operation(table, Subject::Request(Op::Charge), around, problems);
            further = read_further(&mut root, around, problems);
            if let Some(table) = root.opt_table("callback", problems) {
                further.callback = read_callback_table(table, around, problems);
            }
            if let Some(table) = root.opt_table("file", problems) {
                let around =
                    AroundFile { currency: carrier.currency, zones: &carrier.zones, msisdn: &carrier.msisdn };
                file = read_file_table(table, around, problems);
            }
            charge
        }
        _ => {
            // They cannot be read now; their names are known all the same.
            for name in FURTHER_TABLES.into_iter().chain(["callback", "file"]) {
                drop(root.opt_table(name, problems));
            }
            None
        }
    };
    let calendar = root.opt_table("calendar", problems);
    let calendar = calendar.map(|table| read_calendar(table, problems)).unwrap_or_default();
    let example_tables = root.tables("example", checks::EXAMPLES_MAX, problems);
    root.finish(problems);

    if let (Some((carrier, proof)), Some(limits)) = (&known, &limits) {
        let callback = further.callback.as_ref().map(|callback| callback.is_signed());
        let offered =
            Offered { inquiry: further.has(For::Inquiry), callback, exchange: carrier.exchange, has_file };
        check_proof(source, proof_place, proof, limits.reply_timeout_ms, offered, problems);
    }
    let (carrier, proof) = known?;
    let (limits, link, auth, breaker, charge) = (limits?, link?, auth?, breaker?, charge?);
    let charge = Arc::new(charge);
    let mut spoken = vec![(charge.clone(), For::Op(Op::Charge))];
    spoken.append(&mut further.spoken);
    let ops = spoken.iter().filter_map(|(_, what)| what.op()).collect();
    let caps = Caps {
        ops,
        currency: carrier.currency,
        min_minor: limits.min_minor,
        max_minor: limits.max_minor,
        partial: carrier.partial,
        refund: further.refund,
        reservation: further.reservation,
        balance: further.balance,
        exchange: carrier.exchange,
        rate_n: limits.rate_n,
        rate_per_ms: limits.rate_per_ms,
        in_flight_max: limits.in_flight_max,
        connect_timeout_ms: limits.connect_timeout_ms,
        reply_timeout_ms: limits.reply_timeout_ms,
        idle_timeout_ms: limits.idle_timeout_ms,
        final_deadline_s: limits.final_deadline_s,
    };
    let mut definition = CarrierDefinition {
        id: carrier.id,
        name: carrier.name,
        country: carrier.country,
        calendar,
        zones: carrier.zones,
        msisdn: carrier.msisdn,
        slices: carrier.slices,
        caps,
        price_points: limits.price_points,
        tariffs,
        fee_returned: carrier.fee_returned,
        proof: proof.caps,
        breaker,
        link,
        auth,
        charge,
        spoken,
        callback: further.callback,
        file,
        body_bytes_max: limits.body_bytes_max,
        examples: Vec::new(),
        secrets: secrets.given.into_inner(),
    };
    further.places.insert(0, body_place);
    checks::check_requests(source, &further.places, &definition, problems);
    definition.examples = checks::read_examples(example_tables, source, &definition, problems);
    Some(definition)
}

/// Gives secrets and remembers which, so that all of them can be masked.
struct Remembering<'a> {
    secrets: &'a dyn Secrets,
    given: RefCell<Vec<Zeroizing<String>>>,
}

impl Secrets for Remembering<'_> {
    fn lookup(&self, name: &str) -> Result<Zeroizing<String>, SecretError> {
        let secret = self.secrets.lookup(name)?;
        self.given.borrow_mut().push(secret.clone());
        Ok(secret)
    }
}

struct Carrier {
    id: Box<str>,
    name: Box<str>,
    country: Box<str>,
    currency: Currency,
    zones: Vec<Zone>,
    msisdn: MsisdnRule,
    partial: bool,
    exchange: Exchange,
    slices: u32,
    fee_returned: bool,
}

fn read_carrier(mut table: Table<'_>, source: &Source, problems: &mut Problems) -> Option<Carrier> {
    let id = table.str("id", problems).and_then(|id| check_id(&table, id, source, problems));
    let name = table.opt_str("name", problems).map(|name| name.value.into());
    let country = table.str("country", problems).and_then(|country| {
        let good = country.len() == 2 && country.bytes().all(|b| b.is_ascii_uppercase());
        if !good {
            let what = format!("country {:?}", clip(&country));
            table.problem("country", what, "an ISO 3166 code of two capitals such as ES", problems);
        }
        good.then_some(country.value)
    });
    let currency = table.str("currency", problems).and_then(|code| {
        let currency = Currency::from_code(&code);
        if let Err(error) = &currency {
            table.problem("currency", error.to_string(), "", problems);
        }
        currency.ok()
    });
    let zones = table.str_list("zones", ZONES_MAX, problems).and_then(|names| {
        let mut zones = Vec::new();
        for name in &names.value {
            match Zone::named(name) {
                Ok(zone) if zones.contains(&zone) => {
                    table.problem_at(name.place, format!("zone {zone:?} stands twice"), "keep one", problems);
                }
                Ok(zone) => zones.push(zone),
                Err(error) => table.problem_at(name.place, error.to_string(), "", problems),
            }
        }
        if names.value.is_empty() {
            table.problem("zones", "no zones", "name at least one; the first is the default", problems);
        }
        (!zones.is_empty() && zones.len() == names.value.len()).then_some(zones)
    });
    let msisdn = table.table("msisdn", problems).and_then(|table| read_msisdn(table, problems));
    let partial = table.opt_bool("partial", problems).is_some_and(|partial| partial.value);
    let exchanges = [("reply", Exchange::Reply), ("callback", Exchange::Callback)];
    let exchange = table.opt_one_of("exchange", &exchanges, problems);
    let fee_on_refund = table.opt_one_of("fee_on_refund", &[("kept", false), ("returned", true)], problems);
    let slices = table.opt_int("slices", 1..=SLICES_MAX, problems).map_or(1, |slices| slices.value);
    if !(slices as u64).is_power_of_two() {
        let help = "a power of two: later doubling then moves whole slices";
        table.problem("slices", format!("{slices} slices"), help, problems);
    }
    table.finish(problems);
    let id = id?;
    Some(Carrier {
        name: name.unwrap_or_else(|| id.clone()),
        id,
        country: country?.into(),
        currency: currency?,
        zones: zones?,
        msisdn: msisdn?,
        partial,
        exchange: exchange.map_or(Exchange::Reply, |exchange| exchange.value),
        slices: u32::try_from(slices).ok()?,
        fee_returned: fee_on_refund.is_some_and(|returned| returned.value),
    })
}

fn check_id(
    table: &Table<'_>,
    id: Spanned<String>,
    source: &Source,
    problems: &mut Problems,
) -> Option<Box<str>> {
    let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    let good = (1..=32).contains(&id.len())
        && id.bytes().all(inside)
        && id.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    if !good {
        let help = "1 to 32 lower-case letters, digits and underscores, a letter first";
        table.problem("id", format!("carrier id {:?}", clip(&id)), help, problems);
        return None;
    }
    let stem = source.file.rsplit('/').next().and_then(|name| name.strip_suffix(".toml"));
    if stem != Some(&*id.value) {
        let what = format!("the carrier {:?} is in a file of another name", id.value);
        table.problem("id", what, format!("name the file {}.toml", id.value), problems);
    }
    Some(id.value.into())
}

fn read_msisdn(mut table: Table<'_>, problems: &mut Problems) -> Option<MsisdnRule> {
    let prefix = table.str("prefix", problems);
    let digits = table.int("digits", 7..=15, problems);
    let rule = prefix.zip(digits).and_then(|(prefix, digits)| {
        let good = (1..=8).contains(&prefix.len())
            && prefix.bytes().all(|b| b.is_ascii_digit())
            && !prefix.starts_with('0')
            && (prefix.len() as i64) < digits.value;
        if !good {
            let what = format!("prefix {:?}", clip(&prefix));
            let help = "the country calling code without a plus sign, such as \"216\"";
            table.problem("prefix", what, help, problems);
        }
        good.then(|| MsisdnRule { prefix: prefix.value.into(), digits: digits.value as u8 })
    });
    table.finish(problems);
    rule
}

struct Limits {
    rate_n: u32,
    rate_per_ms: u32,
    in_flight_max: u32,
    connect_timeout_ms: u32,
    reply_timeout_ms: u32,
    idle_timeout_ms: u32,
    final_deadline_s: u32,
    min_minor: i64,
    max_minor: i64,
    price_points: Vec<i64>,
    body_bytes_max: usize,
}

/// The most price points of a carrier.
const PRICE_POINTS_MAX: usize = 500;

/// The only amounts that the carrier takes, ascending; empty: any between `min` and `max`.
fn read_price_points(
    table: &mut Table<'_>,
    currency: Option<Currency>,
    (min, max): (Option<i64>, Option<i64>),
    problems: &mut Problems,
) -> Vec<i64> {
    let Some(list) = table.opt_str_list("price_points", PRICE_POINTS_MAX, problems) else {
        return Vec::new();
    };
    if list.value.is_empty() {
        table.problem_at(
            list.place,
            "`limits.price_points` is empty",
            "name amounts, or leave it out",
            problems,
        );
    }
    let Some(currency) = currency else { return Vec::new() };
    let mut points: Vec<i64> = Vec::new();
    for (index, text) in list.value.iter().enumerate() {
        let path = format!("`limits.price_points[{index}]` is \"{}\"", excerpt(text));
        let help = match read_decimal(text, currency.exponent()).filter(|minor| *minor > 0) {
            None => format!("more than 0, with at most {} decimals, in quotes", currency.exponent()),
            Some(minor) if points.last().is_some_and(|last| minor <= *last) => {
                "write them ascending, each once".to_owned()
            }
            Some(minor) if min.is_some_and(|min| minor < min) || max.is_some_and(|max| minor > max) => {
                "write amounts from `min` to `max`".to_owned()
            }
            Some(minor) => {
                points.push(minor);
                continue;
            }
        };
        table.problem_at(text.place, path, help, problems);
    }
    points
}

fn read_limits(mut table: Table<'_>, currency: Option<Currency>, problems: &mut Problems) -> Option<Limits> {
    let rate = table.table("rate", problems).and_then(|mut rate| {
        let n = rate.int("n", 1..=1_000_000, problems);
        let per = rate.duration_ms("per", 100..=3_600_000, problems);
        rate.finish(problems);
        n.zip(per)
    });
    let in_flight = table.int("in_flight_max", 1..=4_096, problems);
    let reply = table.duration_ms("reply_timeout", 100..=120_000, problems);
    let mut or = |key: &str, range, default| {
        table.opt_duration_ms(key, range, problems).map_or(default, |duration| duration.value)
    };
    let connect_ms = or("connect_timeout", 50..=60_000, 3_000);
    let idle_ms = or("idle_timeout", 1_000..=600_000, 30_000);
    let deadline = table.opt_duration_s("final_deadline", 60..=30 * DAY_S, problems);
    let min = read_amount(&mut table, "min", currency, problems);
    let max = read_amount(&mut table, "max", currency, problems);
    let price_points = read_price_points(&mut table, currency, (min, max), problems);
    let body = table.opt_int("max_body", 256..=BODY_BYTES_MAX, problems);
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        table.problem("max", "max is smaller than min", "no amount would be allowed", problems);
    }
    table.finish(problems);
    let (rate_n, rate_per) = rate?;
    Some(Limits {
        rate_n: u32::try_from(rate_n.value).ok()?,
        rate_per_ms: u32::try_from(rate_per.value).ok()?,
        in_flight_max: u32::try_from(in_flight?.value).ok()?,
        connect_timeout_ms: u32::try_from(connect_ms).ok()?,
        reply_timeout_ms: u32::try_from(reply?.value).ok()?,
        idle_timeout_ms: u32::try_from(idle_ms).ok()?,
        final_deadline_s: u32::try_from(deadline.map_or(DAY_S, |deadline| deadline.value)).ok()?,
        min_minor: min?,
        max_minor: max?,
        price_points,
        body_bytes_max: usize::try_from(body.map_or(BODY_BYTES_MAX, |body| body.value)).ok()?,
    })
}

/// A decimal text in the carrier's currency, more than zero, in minor units.
pub(super) fn read_amount(
    table: &mut Table<'_>,
    key: &str,
    currency: Option<Currency>,
    problems: &mut Problems,
) -> Option<i64> {
    let text = table.str(key, problems)?;
    let currency = currency?;
    let minor = read_decimal(&text, currency.exponent()).filter(|minor| *minor > 0);
    if minor.is_none() {
        let help = format!("more than 0, with at most {} decimals, in quotes", currency.exponent());
        table.problem(key, format!("{:?} is no amount in {}", clip(&text), currency.code()), help, problems);
    }
    minor
}

fn read_link(mut table: Table<'_>, problems: &mut Problems) -> Option<LinkSettings> {
    table.one_of("kind", &[("http", ())], problems);
    let base = table.str("base", problems);
    let allow_plain = table.opt_bool("allow_plain", problems).is_some_and(|allow| allow.value);
    let allow_private = table.opt_bool("allow_private", problems).is_some_and(|allow| allow.value);
    let ca_file = table.opt_str("ca_file", problems).map(|path| path.value.into());
    let base = base.and_then(|base| match Target::parse(&base, allow_plain, allow_private) {
        Ok(_) => Some(base.value.into()),
        Err(error) => {
            table.problem("base", error.to_string(), "", problems);
            None
        }
    });
    table.finish(problems);
    Some(LinkSettings { base: base?, allow_plain, allow_private, ca_file })
}

fn read_breaker(mut table: Table<'_>, problems: &mut Problems) -> Option<Breaker> {
    let share = table.int("unknown_share_percent", 1..=100, problems);
    let window = table.duration_ms("window", 1_000..=3_600_000, problems);
    let open = table.duration_ms("open_for", 1_000..=3_600_000, problems);
    table.finish(problems);
    Some(Breaker {
        unknown_share_percent: share?.value as u8,
        window_ms: window?.value as u32,
        open_for_ms: open?.value as u32,
    })
}

/// A foreign text, short enough for a message.
pub(super) fn clip(text: &str) -> String {
    text.chars().take(64).collect()
}
