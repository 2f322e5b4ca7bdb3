//! The book of the backlog: one carrier in two zones, windows that close at different hours, and every policy for what was
//! missed.

use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};

use super::super::book::{CARRIER, SLICES, day};
use crate::population::{PlanShare, PopulationSpec};

const MEDINA: &str = include_str!("../../../../config/carriers/medina.toml");
const ZONES: [&str; 2] = ["Africa/Tunis", "Africa/Cairo"];
const SEED: u64 = 6;
/// What the plan costs, millimes; a merged charge is more.
pub(super) const PRICE_MINOR: u32 = 100;
/// Whose answers are lost before the outage.
pub(super) const BEFORE: &str = "before";
/// Whose periods are passed over.
pub(super) const SKIPS: &str = "skips";

/// It loses all answers at first, and is not to be left alone for that.
const INQUIRY: &str = r#"
[breaker]
unknown_share_percent = 100
window = "10s"
open_for = "1s"

[proof.inquiry]
by = "our_ref"
settle = "10m"
agree = 2
spacing = "60s"

[inquiry]
request = "GET /v1/charge/status/${our_ref}"
keys = { carrier_txn_id = "/id", carrier_code = "/reason" }
echo = { our_ref = "/key", amount = "/amount", amount_as = "minor", currency = "/currency" }
rules = [
  { status = 200, at = "/state", is = "CHARGED", then = "charged" },
  { status = 200, at = "/state", is = "WORKING", then = "still_working" },
  { status = 200, at = "/state", is = "NOT_FOUND", then = "not_found" },
]
else = "unknown"

[[example]]
for = "inquiry"
status = 200
body = '{"state":"CHARGED","id":"f-000000000001","key":"${our_ref}","amount":${amount:minor},"currency":"TND"}'
expect = "charged"

[[example]]
for = "inquiry"
status = 200
body = '{"state":"NOT_FOUND","key":"${our_ref}"}'
expect = "not_found"
"#;

/// A plan of the book.
pub(super) struct Plan {
    pub(super) id: &'static str,
    schedule: &'static str,
    missed: &'static str,
    /// Of a hundred lines.
    weight: u32,
}

const DAILY_LATE: &str = "every = \"day\"\nat = \"08:00\"\nspread = \"4h\"\nwindow = [\"06:00\", \"22:00\"]";
const DAILY_EARLY: &str = "every = \"day\"\nat = \"08:00\"\nspread = \"4h\"\nwindow = [\"06:00\", \"14:00\"]";
const HOURLY: &str = "every = \"1 hours\"\nat = \"08:00\"";

/// What is due after the outage.
pub(super) const DUE: [Plan; 5] = [
    Plan { id: "shuts-late", schedule: DAILY_LATE, missed: "missed = \"once_late\"", weight: 40 },
    Plan { id: "shuts-early", schedule: DAILY_EARLY, missed: "missed = \"once_late\"", weight: 40 },
    Plan { id: "late", schedule: HOURLY, missed: "missed = \"once_late\"", weight: 8 },
    Plan { id: SKIPS, schedule: HOURLY, missed: "missed = \"skip\"", weight: 6 },
    Plan { id: "merges", schedule: HOURLY, missed: "missed = \"merge\"\nmerge_periods = 3", weight: 6 },
];
const EARLIER: Plan = Plan {
    id: BEFORE,
    schedule: "every = \"day\"\nat = \"06:00\"\nwindow = [\"06:00\", \"22:00\"]",
    missed: "missed = \"once_late\"",
    weight: 1,
};

/// Writes the book into `dir`; the carrier takes `rate` requests a second.
pub(super) fn write(dir: &Path, rate: u32) -> anyhow::Result<()> {
    let mut files = vec![(format!("carriers/{CARRIER}.toml"), carrier(rate)?)];
    // Minutes of waiting become seconds, as only a sandbox's clock allows.
    files.push(("engine.toml".to_owned(), "[resolution]\ntime_scale = 300\n".to_owned()));
    for plan in DUE.iter().chain([&EARLIER]) {
        let Plan { id, schedule, missed, .. } = plan;
        let text = format!(
            "merchant = \"bench\"\nservice = \"bench\"\ncarrier = \"{CARRIER}\"\ntext = \"After the outage\"\n\
             price = \"0.{PRICE_MINOR} TND\"\n\n[schedule]\n{schedule}\n\n[lifecycle]\nlate_approved = \"past\"\n{missed}\n"
        );
        files.push((format!("plans/{id}.toml"), text));
    }
    for (file, text) in files {
        let path = dir.join(file);
        fs::create_dir_all(path.parent().unwrap_or(dir))?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Lines on the plans that are due after the outage, or on the one that is charged before it.
pub(super) fn population(rows: u64, before: bool) -> anyhow::Result<PopulationSpec> {
    let share = |plan: &Plan| PlanShare {
        plan: plan.id.to_owned(),
        weight: plan.weight,
        msisdn_prefix: if before { "2169".to_owned() } else { "2161".to_owned() },
        digits: 11,
        zones: ZONES.map(str::to_owned).to_vec(),
    };
    let plans = if before { vec![share(&EARLIER)] } else { DUE.iter().map(share).collect() };
    Ok(PopulationSpec { rows, seed: SEED + u64::from(before), plans, start: Some(day(0)?) })
}

fn carrier(rate: u32) -> anyhow::Result<String> {
    let mut text = MEDINA.to_owned();
    for (here, instead) in [
        ("currency = \"TND\"", format!("slices = {SLICES}\ncurrency = \"TND\"")),
        ("zones = [\"Africa/Tunis\"]", format!("zones = {ZONES:?}")),
        ("rate = { n = 20000, per = \"1s\" }", format!("rate = {{ n = {rate}, per = \"1s\" }}")),
        ("in_flight_max = 32", "in_flight_max = 64".to_owned()),
        ("reply_timeout = \"8s\"", "reply_timeout = \"2s\"".to_owned()),
    ] {
        ensure!(text.matches(here).count() == 1, "the carrier file does not hold {here:?} once");
        text = text.replace(here, &instead);
    }
    Ok(text + INQUIRY)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use billing_core::book::Book;
    use billing_core::book::reader::{Problems, Source};
    use carriers::{CarrierDefinition, NoSecrets};

    use super::*;

    #[test]
    fn the_book_is_valid() {
        let dir = std::env::temp_dir().join(format!("toll-backlog-book-{}", std::process::id()));
        write(&dir, 5_000).unwrap();
        let source = |file: String| Source {
            text: fs::read_to_string(dir.join(&file)).unwrap(),
            file: format!("config/{file}"),
        };
        let plans = DUE.iter().chain([&EARLIER]).map(|plan| source(format!("plans/{}.toml", plan.id)));
        let mut sources = vec![source(format!("carriers/{CARRIER}.toml"))];
        sources.extend(plans);
        fs::remove_dir_all(&dir).unwrap();
        let mut problems = Problems::default();
        let carrier = CarrierDefinition::read(&sources[0], &NoSecrets, &mut problems);
        let carrier = carrier.unwrap_or_else(|| unreachable!("{:?}", problems.into_vec()));
        assert_eq!((carrier.caps.rate_n, carrier.caps.rate_per_ms), (5_000, 1_000));
        let book =
            Book::read(&sources, &[carrier.summary()]).unwrap_or_else(|found| unreachable!("{found:?}"));
        assert_eq!(book.plans.len(), DUE.len() + 1);
        assert!(book.plans.iter().all(|plan| plan.price.minor == i64::from(PRICE_MINOR)));
    }
}
