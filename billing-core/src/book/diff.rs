//! What a change of the book changes: by entity and key, and what a plan leaves to defaults. Works on the files, so that
//! it tells what people wrote; files that do not parse count as empty (a checked book has none).

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

use super::plan::plan_id;
use super::reader::Source;
use super::{CarrierSummary, CarrierTariff, Kind};
use crate::plan::PlanRules;

/// What a file describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entity {
    /// A plan.
    Plan,
    /// A carrier.
    Carrier,
    /// A country's rules.
    Country,
    /// How the engine runs.
    Engine,
    /// Something else.
    Other,
}

impl Entity {
    /// Its word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Carrier => "carrier",
            Self::Country => "country",
            Self::Engine => "engine",
            Self::Other => "file",
        }
    }
}

/// One entity that is added, removed or changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What it is.
    pub entity: Entity,
    /// Its id: the file's name without `.toml`.
    pub id: String,
    /// Whether it is in the book before.
    pub before: bool,
    /// Whether it is in the book after.
    pub after: bool,
    /// Its keys that differ, by name. Empty when only comments or spaces do.
    pub keys: Vec<KeyChange>,
}

/// One key that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyChange {
    /// Its dotted name, such as `dunning.no_funds.rounds`.
    pub key: String,
    /// Its value before, as TOML.
    pub old: Option<String>,
    /// Its value after, as TOML.
    pub new: Option<String>,
}

/// What a plan leaves to a default at one carrier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultCell {
    /// The plan's id.
    pub plan: String,
    /// The country, as ISO 3166 has it.
    pub country: String,
    /// The carrier's id.
    pub carrier: String,
    /// Keys that its file does not give, each with the value that holds then.
    pub keys: Vec<(&'static str, &'static str)>,
}

/// What a plan may leave out, and what holds then; the same as in the head of [`super::plan`].
pub const PLAN_DEFAULTS: &[(&str, &str)] = &[
    ("tax_percent", "0"),
    ("carrier_fee_percent", "0"),
    ("schedule.spread", "0s"),
    ("schedule.window", "00:00 to 24:00"),
    ("ladder", "none: the full price or nothing"),
    ("dunning.no_funds", "4h, 8h, 1d, 3d, 7d, then next_period"),
    ("dunning.limit", "1d, 3d, 7d, then next_period"),
    ("dunning.barred", "1d, 7d, then next_period"),
    ("dunning.unknown_subscriber", "no round, then cancel"),
    ("dunning.subscriber_refused", "no round, then cancel"),
    ("dunning.not_allowed", "no round, then suspend"),
    ("dunning.throttled", "5m"),
    ("dunning.temporary", "5m"),
    ("dunning.fault", "15m"),
    ("dunning.budget", "none"),
    ("phases", "none: one price from the first period on"),
    ("arrears", "none: what is given up is not collected later"),
    ("defer.max", "0"),
    ("defer.shelf_life", "0s"),
    ("balance", "none: the balance is not asked for"),
    ("reserve", "none: charged at once"),
    ("lifecycle.grace", "0s"),
    ("lifecycle.first_failure", "retry"),
    ("lifecycle.missed", "once_late"),
    ("lifecycle.pause_keeps_access", "false"),
    ("lifecycle.top_up_due", "false"),
    ("lifecycle.top_up_resumes", "false"),
    ("lifecycle.reset_from_round", "0"),
    ("lifecycle.refund_access", "keep"),
];

/// What differs between two books, by entity and id. Files with other bytes but equal keys are listed without keys.
#[must_use]
pub fn diff(before: &[Source], after: &[Source]) -> Vec<Change> {
    let (before, after) = (by_entity(before), by_entity(after));
    let all: BTreeSet<_> = before.keys().chain(after.keys()).cloned().collect();
    all.into_iter()
        .filter_map(|place| {
            let (old, new) = (before.get(&place).copied(), after.get(&place).copied());
            let (entity, id) = place;
            (old != new).then(|| Change {
                entity,
                id,
                before: old.is_some(),
                after: new.is_some(),
                keys: key_changes(old.unwrap_or_default(), new.unwrap_or_default()),
            })
        })
        .collect()
}

/// Every combination of plan, country and carrier that falls to a default somewhere.
#[must_use]
pub fn defaults(
    sources: &[Source],
    plans: &[PlanRules],
    carriers: &[(CarrierSummary, String)],
) -> Vec<DefaultCell> {
    let texts = by_entity(sources);
    plans
        .iter()
        .filter_map(|plan| {
            let given = flat(texts.get(&(Entity::Plan, plan.id.clone())).copied().unwrap_or_default());
            let is_given = |key: &str| {
                given.keys().any(|at| {
                    at.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
                })
            };
            let country = carriers.iter().find(|(carrier, _)| carrier.id == plan.carrier);
            let by_tariff = |key: &str| country.is_some_and(|(carrier, _)| has_tariffs(plan, carrier, key));
            let left_out = |key: &str| !is_given(key) && !by_tariff(key);
            let keys: Vec<_> = PLAN_DEFAULTS.iter().filter(|(key, _)| left_out(key)).copied().collect();
            (!keys.is_empty()).then(|| DefaultCell {
                plan: plan.id.clone(),
                country: country.map(|(_, country)| country.clone()).unwrap_or_default(),
                carrier: plan.carrier.clone(),
                keys,
            })
        })
        .collect()
}

/// Whether the carrier's tariffs say what the plan leaves out of tax or fee, at every amount that it names.
fn has_tariffs(plan: &PlanRules, carrier: &CarrierSummary, key: &str) -> bool {
    let says = |tariff: &CarrierTariff| match key {
        "tax_percent" => tariff.tax_percent.is_some(),
        "carrier_fee_percent" => tariff.fee.is_some(),
        _ => false,
    };
    let phases = plan.schedule.phases.iter().map(|phase| phase.price_minor);
    let steps = plan.ladder.iter().flat_map(|ladder| ladder.steps_minor.iter().copied());
    let mut amounts = std::iter::once(plan.price.minor).chain(phases).chain(steps);
    amounts.all(|minor| carrier.tariffs.iter().any(|tariff| tariff.price_minor == minor && says(tariff)))
}

fn by_entity(sources: &[Source]) -> BTreeMap<(Entity, String), &str> {
    let entity = |source: &Source| match Kind::of(&source.file) {
        Some(Kind::Plan) => Entity::Plan,
        Some(Kind::Carrier) => Entity::Carrier,
        Some(Kind::Country) => Entity::Country,
        Some(Kind::Engine) => Entity::Engine,
        None => Entity::Other,
    };
    sources
        .iter()
        .map(|source| ((entity(source), plan_id(&source.file).to_owned()), source.text.as_str()))
        .collect()
}

fn key_changes(old: &str, new: &str) -> Vec<KeyChange> {
    let (old, new) = (flat(old), flat(new));
    let keys: BTreeSet<_> = old.keys().chain(new.keys()).cloned().collect();
    keys.into_iter()
        .filter(|key| old.get(key) != new.get(key))
        .map(|key| KeyChange { old: old.get(&key).cloned(), new: new.get(&key).cloned(), key })
        .collect()
}

/// Every value of a file under its dotted name; tables in lists by their number, from 1.
fn flat(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let root: Table = text.parse().unwrap_or_default();
    flatten(String::new(), &Value::Table(root), &mut found);
    found
}

fn flatten(name: String, value: &Value, found: &mut BTreeMap<String, String>) {
    match value {
        Value::Table(table) => {
            for (key, value) in table {
                let dot = if name.is_empty() { "" } else { "." };
                flatten(format!("{name}{dot}{key}"), value, found);
            }
        }
        Value::Array(list) if list.iter().any(Value::is_table) => {
            for (index, value) in list.iter().enumerate() {
                flatten(format!("{name}[{}]", index + 1), value, found);
            }
        }
        other => {
            found.insert(name, other.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::book::plan::read_plan;
    use crate::book::reader::Problems;
    use crate::calendar::CalendarRules;
    use crate::money::Currency;
    use crate::split::Fee;

    fn source(file: &str, text: &str) -> Source {
        Source { file: file.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn changes_are_named_by_entity_and_key() {
        let before = [
            source(
                "config/plans/a.toml",
                "price = \"1 TND\"\n[dunning]\nno_funds = { rounds = [\"4h\"], then = \"cancel\" }\n",
            ),
            source("config/plans/gone.toml", "price = \"1 TND\"\n"),
            source("config/carriers/medina.toml", "[[example]]\nfor = \"charge\"\nstatus = 200\n"),
            source("config/engine.toml", "# a\n"),
        ];
        let after = [
            source(
                "config/plans/a.toml",
                "price = \"2 TND\" # more\n[dunning]\nno_funds = { rounds = [\"5h\"], then = \"cancel\" }\n",
            ),
            source("config/plans/new.toml", "price = \"1 TND\"\n"),
            source("config/carriers/medina.toml", "[[example]]\nfor = \"charge\"\nstatus = 402\n"),
            source("config/engine.toml", "# b\n"),
        ];
        let changes = diff(&before, &after);
        let told: Vec<String> = changes
            .iter()
            .map(|change| {
                let keys = change.keys.iter().map(|key| {
                    format!(
                        "{}:{}>{}",
                        key.key,
                        key.old.as_deref().unwrap_or("-"),
                        key.new.as_deref().unwrap_or("-")
                    )
                });
                let (before, after) = (u8::from(change.before), u8::from(change.after));
                format!(
                    "{} {} {before}{after} {}",
                    change.entity.name(),
                    change.id,
                    keys.collect::<Vec<_>>().join(" ")
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                "plan a 11 dunning.no_funds.rounds:[\"4h\"]>[\"5h\"] price:\"1 TND\">\"2 TND\"",
                "plan gone 10 price:\"1 TND\">-",
                "plan new 01 price:->\"1 TND\"",
                "carrier medina 11 example[1].status:200>402",
                "engine engine 11 ",
            ]
        );
        assert!(diff(&after, &after).is_empty());
        assert!(
            diff(&[source("config/plans/a.toml", "broken =")], &[]).len() == 1,
            "hostile text is no panic"
        );
    }

    #[test]
    fn every_default_is_named_and_nothing_else() {
        let carrier = CarrierSummary {
            price_points: Vec::new(),
            tariffs: Vec::new(),
            fee_returned: false,
            final_deadline_s: 86_400,
            id: "medina".into(),
            country: "TN".into(),
            calendar: CalendarRules::default(),
            currency: Currency::from_code("TND").unwrap(),
            min_minor: 1,
            max_minor: 10_000,
            zones: vec![],
        };
        let short = "merchant = \"demo\"\nservice = \"kids\"\ncarrier = \"medina\"\ntext = \"x\"\nprice = \"1 TND\"\n";
        let schedule = "[schedule]\nevery = \"day\"\nat = \"06:00\"\n";
        let required = "[lifecycle]\nlate_approved = \"past\"\n";
        let full = format!(
            "{short}tax_percent = \"0\"\ncarrier_fee_percent = \"0\"\n{schedule}spread = \"0s\"\nwindow = [\"00:00\", \"24:00\"]\n\
             [ladder]\nsteps = [\"0.5\"]\nsettles = \"share\"\n[dunning]\nno_funds = {{ rounds = [], then = \"cancel\" }}\n\
             limit = {{ rounds = [], then = \"cancel\" }}\nbarred = {{ rounds = [], then = \"cancel\" }}\n\
             unknown_subscriber = {{ rounds = [], then = \"cancel\" }}\n\
             subscriber_refused = {{ rounds = [], then = \"cancel\" }}\nnot_allowed = {{ rounds = [], then = \"suspend\" }}\n\
             throttled = \"5m\"\ntemporary = \"5m\"\nfault = \"15m\"\nbudget = {{ day = 3 }}\n\
             [defer]\nmax = 1\nshelf_life = \"1d\"\n[balance]\nwhen = \"after_refusal\"\nvalid = \"60s\"\n\
             {required}grace = \"0s\"\nfirst_failure = \"retry\"\nmissed = \"skip\"\npause_keeps_access = false\n\
             top_up_due = false\ntop_up_resumes = false\nreset_from_round = 0\nrefund_access = \"keep\"\n"
        );
        let cells = |text: &str| {
            let source = source("config/plans/p.toml", text);
            let mut problems = Problems::default();
            let rules = read_plan(&source, std::slice::from_ref(&carrier), &[], &mut problems);
            let rules = rules.unwrap_or_else(|| panic!("{:?}", problems.into_vec()));
            defaults(&[source], &[rules], &[(carrier.clone(), "TN".into())])
        };
        let left_out = |text: &str| -> Vec<&str> {
            cells(text).iter().flat_map(|cell| &cell.keys).map(|(key, _)| *key).collect()
        };
        assert_eq!(left_out(&full), ["phases", "arrears", "reserve"]);
        let all = cells(&format!("{short}{schedule}{required}"));
        assert_eq!(
            (all[0].plan.as_str(), all[0].country.as_str(), all[0].carrier.as_str()),
            ("p", "TN", "medina")
        );
        assert_eq!(all[0].keys, PLAN_DEFAULTS);
        assert_eq!(
            left_out(&full.replace("grace = \"0s\"\n", "")),
            ["phases", "arrears", "reserve", "lifecycle.grace"]
        );
        // What the carrier's tariffs say of every amount of the plan is no default.
        let untaxed = full.replace("tax_percent = \"0\"\ncarrier_fee_percent = \"0\"\n", "");
        let tariff = |price_minor, fee: bool| CarrierTariff {
            price_minor,
            tax_percent: Some("19".parse().unwrap()),
            fee: fee.then_some(Fee::At { fee_minor: 1, price_minor }),
        };
        let with = |tariffs: Vec<CarrierTariff>| {
            let carrier = CarrierSummary { tariffs, ..carrier.clone() };
            let source = source("config/plans/p.toml", &untaxed);
            let rules = read_plan(&source, std::slice::from_ref(&carrier), &[], &mut Problems::default());
            let cells = defaults(&[source], &[rules.unwrap()], &[(carrier, "TN".into())]);
            cells[0].keys.iter().map(|(key, _)| *key).collect::<Vec<_>>()
        };
        let rest = ["phases", "arrears", "reserve"];
        assert_eq!(with(vec![tariff(500, true), tariff(1_000, true)]), rest);
        assert_eq!(
            with(vec![tariff(500, false), tariff(1_000, true)]),
            [&["carrier_fee_percent"], &rest[..]].concat()
        );
        assert_eq!(
            with(vec![tariff(1_000, true)]),
            [&["tax_percent", "carrier_fee_percent"], &rest[..]].concat()
        );
    }
}
