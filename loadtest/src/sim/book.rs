//! The simulation's own book and its subscribers. Zones without changes of the clock, so that the judge can do its own
//! arithmetic.

use std::collections::HashMap;
use std::sync::OnceLock;

use anyhow::{Context, anyhow};
use billing_core::book::reader::Source;
use billing_core::book::{Book, CarrierSummary};
use billing_core::calendar::CalendarRules;
use billing_core::ids::{RefSeed, Shard, SubscriptionId};
use billing_core::money::Currency;
use billing_core::period::days_since_2000;
use billing_core::schedule::Anchor;
use billing_core::states::State;
use billing_core::triage::signed_up;
use billing_core::zone::Zone;
use jiff::civil::date;
use storage::pg::{Names, NewSubscriber, NewSubscription, msisdn_aad};
use storage::vault::Vault;

use super::dice::Dice;

/// Carriers by number: their slices.
pub(super) const SLICES: [(i32, &str, u32); 2] = [(1, "atlas", 4), (2, "boreal", 2)];
/// Zones by number: their distance from UTC in minutes.
pub(super) const ZONES: [(i16, &str, i64); 3] =
    [(1, "Asia/Kolkata", 330), (2, "America/Bogota", -300), (3, "Africa/Tunis", 60)];
/// What a day of every plan costs, minor units.
pub(super) const PRICE_MINOR: i64 = 500;
/// What boreal's country allows of one subscriber a day.
pub(super) const CAP_DAY_MINOR: i64 = 1_000;
/// The hours in which charging is allowed, local minutes.
pub(super) const WINDOW: (i64, i64) = (6 * 60, 22 * 60);

const PLANS: [(&str, &str); 4] = [
    (
        "atlas-daily",
        r#"merchant = "sim"
service = "sim"
carrier = "atlas"
text = "A day"
price = "0.500 TND"
[schedule]
every = "day"
at = "06:00"
spread = "3h"
window = ["06:00", "22:00"]
[dunning]
no_funds = { rounds = ["2h", "3h"], then = "next_period" }
limit = { rounds = ["4h"], then = "next_period" }
temporary = "10m"
fault = "15m"
[lifecycle]
late_approved = "past"
first_failure = "retry"
missed = "once_late"
"#,
    ),
    (
        "atlas-evening",
        r#"merchant = "sim"
service = "sim"
carrier = "atlas"
text = "A day with arrears"
price = "0.500 TND"
[schedule]
every = "day"
at = "20:30"
spread = "1h"
window = ["06:00", "22:00"]
[dunning]
no_funds = { rounds = ["1h"], then = "next_period" }
temporary = "10m"
[lifecycle]
late_approved = "past"
first_failure = "retry"
missed = "skip"
"#,
    ),
    (
        "boreal-a",
        r#"merchant = "sim"
service = "sim-a"
carrier = "boreal"
text = "A day"
price = "0.500 TND"
[schedule]
every = "day"
at = "06:00"
spread = "3h"
window = ["06:00", "22:00"]
[dunning]
no_funds = { rounds = ["2h", "3h"], then = "next_period" }
temporary = "10m"
[lifecycle]
late_approved = "past"
first_failure = "retry"
missed = "once_late"
"#,
    ),
    (
        "boreal-b",
        r#"merchant = "other"
service = "sim-b"
carrier = "boreal"
text = "Another day"
price = "0.500 TND"
[schedule]
every = "day"
at = "06:00"
spread = "3h"
window = ["06:00", "22:00"]
[dunning]
no_funds = { rounds = ["2h"], then = "next_period" }
[lifecycle]
late_approved = "past"
first_failure = "retry"
missed = "once_late"
"#,
    ),
];
const COUNTRY: &str = r#"name = "Tunisia"
currency = { code = "TND", source = "ISO 4217" }
zones = { names = ["Africa/Tunis"], source = "IANA" }
[[caps]]
per = "day"
amount = "1.000"
example = true
"#;

/// The plans as the engine reads them.
pub(super) fn book() -> anyhow::Result<&'static Book> {
    static BOOK: OnceLock<Result<Book, String>> = OnceLock::new();
    BOOK.get_or_init(|| read().map_err(|error| format!("{error:#}"))).as_ref().map_err(|why| anyhow!("{why}"))
}

fn read() -> anyhow::Result<Book> {
    let source = |file: String, text: &str| Source { file, text: text.to_owned() };
    let mut sources: Vec<Source> =
        PLANS.iter().map(|(id, text)| source(format!("config/plans/{id}.toml"), text)).collect();
    sources.push(source("config/countries/tn.toml".to_owned(), COUNTRY));
    let carriers: Vec<CarrierSummary> = SLICES
        .iter()
        .map(|(no, id, _)| {
            Ok(CarrierSummary {
                price_points: Vec::new(),
                tariffs: Vec::new(),
                fee_returned: false,
                final_deadline_s: 86_400,
                id: (*id).to_owned(),
                country: if *no == 2 { "TN" } else { "ZZ" }.to_owned(),
                calendar: CalendarRules::default(),
                currency: Currency::from_code("TND")?,
                min_minor: 1,
                max_minor: 1_000_000,
                zones: ZONES.iter().map(|(_, name, _)| (*name).to_owned()).collect(),
            })
        })
        .collect::<anyhow::Result<_>>()?;
    Book::read(&sources, &carriers).map_err(|problems| anyhow!("{:?}", problems.into_vec()))
}

/// The numbers of everything that the book names.
pub(super) fn names(book: &Book) -> anyhow::Result<Names> {
    let currency = Currency::from_code("TND")?.numeric();
    let merchants = HashMap::from([("sim".to_owned(), 1), ("other".to_owned(), 2)]);
    let mut accounts = HashMap::new();
    for (kind, owner) in [(1_i16, 1), (1, 2), (2, 1), (2, 2)] {
        for purpose in 1..=5_i16 {
            let number = i32::try_from(accounts.len() + 1)?;
            accounts.insert((kind, owner, purpose, currency), number);
        }
    }
    let plans = book.plans.iter().zip(1..).map(|(plan, no)| (plan.id.clone(), no));
    Ok(Names {
        book_version: 1,
        carriers: SLICES
            .iter()
            .map(|(no, id, slices)| ((*id).to_owned(), (*no, *slices as i32, currency)))
            .collect(),
        merchants,
        plans: plans.collect(),
        zones: ZONES.iter().map(|(no, name, _)| ((*name).to_owned(), *no)).collect(),
        accounts,
    })
}

/// Who is charged.
pub(super) struct Population {
    pub(super) subscribers: Vec<NewSubscriber>,
    pub(super) subscriptions: Vec<NewSubscription>,
}

/// How many there are.
pub(super) struct Crowd {
    pub(super) subscribers: u32,
    /// So many of a thousand at boreal, the others at atlas.
    pub(super) boreal_permille: u64,
    /// All in one zone, and all in the morning.
    pub(super) at_once: bool,
}

/// So many subscribers; those of boreal have three subscriptions under one cap.
pub(super) fn population(
    book: &Book,
    names: &Names,
    vault: &Vault,
    dice: &Dice,
    crowd: Crowd,
) -> anyhow::Result<Population> {
    let mut made = Population { subscribers: Vec::new(), subscriptions: Vec::new() };
    let mut sequences: HashMap<i32, u32> = HashMap::new();
    for line in 0..crowd.subscribers {
        let (carrier_no, _, slices) = SLICES[usize::from(dice.permille(crowd.boreal_permille))];
        let shard = Shard::new(carrier_no, u32::try_from(dice.below(u64::from(slices)))?)?;
        let sequence = sequences.entry(shard.0).or_insert(0);
        // Far apart: neighbours would all fall due in one minute.
        *sequence += 64;
        let id = shard.id(*sequence);
        let (zone_no, zone, _) = ZONES[usize::try_from(dice.below(if crowd.at_once { 1 } else { 3 }))?];
        let mut salt = [0; 16];
        salt[..8].copy_from_slice(&dice.next().to_be_bytes());
        let key = vault.subscriber_key(&salt, vault.current_kek_version())?;
        let mut msisdn_ct = Vec::new();
        key.seal(&msisdn_aad(id), format!("2165{line:07}").as_bytes(), &mut msisdn_ct)?;
        made.subscribers.push(NewSubscriber {
            id,
            zone_no,
            kek_version: vault.current_kek_version(),
            msisdn_hmac: vec![0; 32],
            key_salt: salt.to_vec(),
            msisdn_ct,
        });
        let plans: &[&str] = match carrier_no {
            1 if !crowd.at_once && dice.permille(300) => &["atlas-evening"],
            1 => &["atlas-daily"],
            _ => &["boreal-a", "boreal-b", "boreal-a"],
        };
        for (nth, plan) in plans.iter().enumerate() {
            let rules = book.plan(plan).context("a plan of the simulation is missing")?;
            let id = id + i64::try_from(nth)?;
            let start = date(2027, 1, 12);
            let minute = rules.schedule.anchor_minute(SubscriptionId(id));
            let anchor = Anchor::new(start, minute);
            let zone = Zone::named(zone)?;
            let period = rules.schedule.first_period(anchor, start, &zone)?.context("no first period")?;
            let due_at = rules.schedule.due_at(anchor, period, &zone, SubscriptionId(id))?;
            let at = signed_up(rules, period, PRICE_MINOR, due_at);
            let (RefSeed(ref_seed), digest) = RefSeed::derive(&rules.merchant, &format!("{line}/{nth}"), 0);
            made.subscriptions.push(NewSubscription {
                consent_until_ms: None,
                id,
                subscriber_id: made.subscribers.last().map_or(id, |subscriber| subscriber.id),
                ref_seed,
                digest: digest.to_vec(),
                due_minor: at.due_minor,
                next_at_ms: at.next_at.map(jiff::Timestamp::as_millisecond),
                state_until_ms: None,
                plan_no: names.plans.get(*plan).copied().context("a plan without a number")?,
                merchant_no: names.merchants.get(&rules.merchant).copied().context("no merchant")?,
                anchor_day: days_since_2000(start),
                period: period.number(),
                zone_no,
                anchor_minute: i16::try_from(minute)?,
                currency: rules.price.currency.numeric(),
                state: at.state.number(),
                next_kind: at.next_kind as i16,
            });
        }
    }
    Ok(made)
}
