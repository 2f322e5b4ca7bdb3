//! The benchmark's own book: one carrier of eight slices without limits worth the name, one plain daily plan.

use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use billing_core::zone::Zone;
use jiff::Timestamp;
use jiff::civil::{Date, date};

use crate::population::{PlanShare, PopulationSpec};

/// The carrier's id.
pub(super) const CARRIER: &str = "medina";
/// The plan's id.
const PLAN: &str = "bench-daily";
/// The carrier's slices.
pub(super) const SLICES: usize = 8;
/// What a charge costs, millimes.
pub(super) const PRICE_MINOR: i64 = 500;
pub(super) const CURRENCY: &str = "TND";
const ZONE: &str = "Africa/Tunis";
const SEED: u64 = 1;

/// The carrier as the book in the tree has it; what differs is replaced below.
const MEDINA: &str = include_str!("../../../config/carriers/medina.toml");
const PLAN_TOML: &str = r#"# One charge a day for everybody: no ladder, nothing rare.
merchant = "bench"
service = "bench"
carrier = "medina"
text = "One day of the benchmark"
price = "0.500 TND"

[schedule]
every = "day"
at = "06:00"
window = ["06:00", "22:00"]

[lifecycle]
late_approved = "past"
"#;

/// Caps that nobody reaches with one charge a day.
const COUNTRY_TOML: &str = r#"name = "Tunisia"
currency = { code = "TND", source = "ISO 4217" }
zones = { names = ["Africa/Tunis"], source = "IANA time zone database, zone1970.tab" }

[[caps]]
per = "day"
amount = "10.000"
example = true

[[caps]]
per = "month"
amount = "60.000"
example = true
"#;

/// Connections at a carrier that answers at once.
const IN_FLIGHT: u64 = 64;
/// Connections for each millisecond that the carrier takes, so that waiting does not bound the rate.
const IN_FLIGHT_PER_MS: u64 = 32;
const IN_FLIGHT_MAX: u64 = 4_096;

/// The book on disk.
pub(super) struct BenchBook;

impl BenchBook {
    /// Writes it into `dir`.
    pub(super) fn write(dir: &Path, latency_ms: u64) -> anyhow::Result<Self> {
        for (folder, file, text) in [
            ("carriers", format!("{CARRIER}.toml"), carrier(latency_ms)?),
            ("plans", format!("{PLAN}.toml"), PLAN_TOML.to_owned()),
        ] {
            let folder = dir.join(folder);
            fs::create_dir_all(&folder)?;
            let path = folder.join(file);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(Self)
    }

    /// Puts a country with caps beside it.
    pub(super) fn add_caps(dir: &Path) -> anyhow::Result<()> {
        let path = dir.join("countries");
        fs::create_dir_all(&path)?;
        let path = path.join("tn.toml");
        fs::write(&path, COUNTRY_TOML).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Its subscribers.
    pub(super) fn population(&self, rows: u64) -> anyhow::Result<PopulationSpec> {
        let plan = PlanShare {
            plan: PLAN.to_owned(),
            weight: 1,
            msisdn_prefix: "216".to_owned(),
            digits: 11,
            zones: Vec::new(),
        };
        Ok(PopulationSpec { rows, seed: SEED, plans: vec![plan], start: Some(day(0)?) })
    }
}

fn carrier(latency_ms: u64) -> anyhow::Result<String> {
    let in_flight = (latency_ms * IN_FLIGHT_PER_MS).clamp(IN_FLIGHT, IN_FLIGHT_MAX);
    let mut text = MEDINA.to_owned();
    for (here, instead) in [
        ("currency = \"TND\"", format!("slices = {SLICES}\ncurrency = \"TND\"")),
        ("rate = { n = 20000, per = \"1s\" }", "rate = { n = 200000, per = \"1s\" }".to_owned()),
        ("in_flight_max = 32", format!("in_flight_max = {in_flight}")),
        ("reply_timeout = \"8s\"", "reply_timeout = \"30s\"".to_owned()),
    ] {
        ensure!(text.matches(here).count() == 1, "the carrier file does not hold {here:?} once");
        text = text.replace(here, &instead);
    }
    Ok(text)
}

/// The benchmark's business days: everybody is due once on each.
pub(super) fn day(number: i32) -> anyhow::Result<Date> {
    Ok(date(2027, 1, 11).checked_add(jiff::Span::new().days(number))?)
}

/// An instant of a business day at the carrier: its minute.
pub(super) fn at_minute(day: Date, minute: u16) -> anyhow::Result<Timestamp> {
    Ok(Zone::named(ZONE)?.instant(day, minute)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use billing_core::book::Book;
    use billing_core::book::reader::{Problems, Source};
    use carriers::{CarrierDefinition, NoSecrets};

    use super::*;

    #[test]
    fn the_book_is_valid_and_has_room() {
        for (latency_ms, in_flight) in [(0, 64), (50, 1_600), (10_000, 4_096)] {
            let source =
                |file: &str, text: &str| Source { file: format!("config/{file}"), text: text.to_owned() };
            let sources = [
                source("carriers/medina.toml", &carrier(latency_ms).unwrap()),
                source("plans/bench-daily.toml", PLAN_TOML),
            ];
            let mut problems = Problems::default();
            let carrier = CarrierDefinition::read(&sources[0], &NoSecrets, &mut problems);
            let carrier = carrier.unwrap_or_else(|| unreachable!("{:?}", problems.into_vec()));
            assert_eq!((carrier.slices as usize, carrier.caps.in_flight_max), (SLICES, in_flight));
            let book = Book::read(&sources, &[carrier.summary()])
                .map_err(|problems| format!("{problems:?}"))
                .unwrap();
            let plan = &book.plans[0];
            assert_eq!((plan.price.minor, plan.ladder.is_none()), (PRICE_MINOR, true));
        }
    }

    #[test]
    fn days_follow_each_other() {
        assert_eq!(at_minute(day(1).unwrap(), 360).unwrap().to_string(), "2027-01-12T05:00:00Z");
    }
}
