#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use super::*;
use jiff::civil::{Date, date};

use crate::calendar::Why;
use crate::ids::SubscriptionId;
use crate::schedule::{Anchor, Cadence};
use crate::zone::Zone;

const PLAN: &str = "merchant = \"m\"\nservice = \"s\"\ncarrier = \"alfa\"\ntext = \"t\"\nprice = \"1 EUR\"\n\
                    [schedule]\nevery = \"day\"\nat = \"00:00\"\n[lifecycle]\nlate_approved = \"past\"\n";

fn source(file: &str, text: &str) -> Source {
    Source { file: file.to_owned(), text: text.to_owned() }
}

fn carrier(
    id: &str,
    country: &str,
    code: &str,
    min_minor: i64,
    max_minor: i64,
    zones: &[&str],
) -> CarrierSummary {
    let currency = Currency::from_code(code).unwrap();
    let zones = zones.iter().map(ToString::to_string).collect();
    CarrierSummary {
        price_points: Vec::new(),
        tariffs: Vec::new(),
        fee_returned: false,
        final_deadline_s: 86_400,
        id: id.to_owned(),
        country: country.to_owned(),
        calendar: crate::calendar::CalendarRules::default(),
        currency,
        min_minor,
        max_minor,
        zones,
    }
}

fn carriers() -> Vec<CarrierSummary> {
    vec![
        carrier("alfa", "ES", "EUR", 10, 5_000, &["Europe/Madrid", "Atlantic/Canary"]),
        carrier("medina", "TN", "TND", 50, 20_000, &["Africa/Tunis"]),
        carrier("hoshi", "JP", "JPY", 10, 50_000, &["Asia/Tokyo"]),
    ]
}

/// The plans and engine settings that ship with the repository.
fn shipped() -> Vec<Source> {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
    let read = |path: &Path, file: String| source(&file, &std::fs::read_to_string(path).unwrap());
    let mut sources = vec![read(&config.join("engine.toml"), "config/engine.toml".to_owned())];
    for folder in ["plans", "countries"] {
        for entry in std::fs::read_dir(config.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            sources.push(read(&path, format!("config/{folder}/{name}")));
        }
    }
    sources
}

fn problems(sources: &[Source]) -> Vec<String> {
    let problems = Book::read(sources, &carriers()).expect_err("problems");
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn the_shipped_book_is_right() {
    let sources = shipped();
    let book = Book::read(&sources, &carriers()).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(book.plans.len() + book.countries.len(), sources.len() - 1);
    assert!(book.plans.len() >= 6);
    assert!(book.plans.is_sorted_by_key(|plan| &plan.id));
    assert_eq!(book.plan("medina-kids-daily").unwrap().price.to_string(), "0.500 TND");
    assert_eq!(book.plan("medina-kids"), None);
    for carrier in carriers() {
        assert!(book.plans.iter().any(|plan| plan.carrier == carrier.id), "{} sells nothing", carrier.id);
    }
}

/// The engine leaves out rounds that would come at or after the next charge; a shipped plan should not have such.
#[test]
fn shipped_daily_plans_dun_within_the_day() {
    let book = Book::read(&shipped(), &carriers()).unwrap();
    let daily: Vec<&PlanRules> =
        book.plans.iter().filter(|plan| plan.schedule.cadence == Cadence::Days(1)).collect();
    assert!(daily.len() >= 3);
    for plan in daily {
        let schedule = &plan.schedule;
        let latest = i64::from(schedule.at_minute + schedule.spread_minutes) * 60;
        let closes = i64::from(schedule.window.to_minute()) * 60;
        for rounds in [&plan.dunning.no_funds, &plan.dunning.limit, &plan.dunning.barred] {
            assert!(!rounds.delays_s.is_empty(), "{}", plan.id);
            assert!(latest + rounds.delays_s.iter().sum::<i64>() < closes, "{}", plan.id);
        }
    }
}

#[test]
fn problems_of_all_files_come_at_once() {
    let sources = [
        source("config/plans/b.toml", &PLAN.replace("alfa", "alpha")),
        source("config/plans/a.toml", &PLAN.replace("1 EUR", "60 EUR")),
        source("config/carriers/alfa.toml", "not read here"),
        source("config/engine.toml", "[api]\nlisten = 1\n"),
        source("other/engine.toml", ""),
        source("config/plans/notes.md", ""),
    ];
    let expected = [
        "config/engine.toml:2:10: `api.listen`: expected a string, found an integer; write it in quotes",
        "config/plans/a.toml:5:9: `price` is 60.00 EUR; carrier alfa takes 0.10 EUR to 50.00 EUR",
        "config/plans/b.toml:3:11: unknown carrier \"alpha\"; did you mean \"alfa\"? one of \"alfa\", \"medina\", \
         \"hoshi\"",
        "config/plans/notes.md:1:1: not a file of the book; plans are plans/<id>.toml, carriers carriers/<id>.toml, \
         countries countries/<code>.toml, and there is engine.toml",
        "other/engine.toml:1:1: a second engine.toml; keep one of them",
    ];
    assert_eq!(problems(&sources), expected);
}

#[test]
fn a_book_has_at_least_one_plan_and_no_two_of_one_id() {
    let none = ["config/plans:1:1: the book has no plan; write at least one config/plans/<id>.toml"];
    assert_eq!(problems(&[]), none);
    let twice = [source("config/plans/a.toml", PLAN), source("more/plans/a.toml", PLAN)];
    assert_eq!(
        problems(&twice),
        ["more/plans/a.toml:1:1: config/plans/a.toml gives a plan the same id; rename one of them"]
    );
}

#[test]
fn without_an_engine_file_the_engine_has_its_defaults() {
    let book = Book::read(&[source("config/plans/a.toml", PLAN)], &carriers()).unwrap();
    assert_eq!(book.engine, EngineSettings::default());
}

#[test]
fn the_digest_names_the_text_of_all_files() {
    let a = source("config/plans/a.toml", PLAN);
    let b = source("config/carriers/b.toml", "x");
    let digest = digest_of(&[a.clone(), b.clone()]);
    assert_eq!(digest, digest_of(&[b.clone(), a.clone()]));
    assert_eq!(digest, Book::read(&[a.clone(), b.clone()], &carriers()).unwrap().digest);
    assert_ne!(digest, digest_of(std::slice::from_ref(&a)));
    assert_ne!(digest, digest_of(&[a, source("config/carriers/b.tomlx", "")]));
    // Lengths keep a name from running into a text.
    assert_ne!(digest_of(&[source("ab", "c")]), digest_of(&[source("a", "bc")]));
    let hex = |digest: [u8; 32]| digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let of_nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(hex(digest_of(&[])), of_nothing);
}

/// A country's rules reach the plans of its carriers, as far as those heed them, and say their names.
#[test]
fn the_shipped_plans_heed_the_rules_of_their_countries() {
    let book = Book::read(&shipped(), &carriers()).unwrap();
    assert!(book.countries.len() >= 12 && book.countries.is_sorted_by_key(|country| &country.code));
    let madrid = Zone::named("Europe/Madrid").unwrap();
    let due = |plan: &str, day: Date| {
        let schedule = &book.plan(plan).unwrap().schedule;
        let anchor = Anchor::new(day, schedule.at_minute);
        let period = schedule.first_period(anchor, day, &madrid).unwrap().unwrap();
        schedule.explain_due(anchor, period, &madrid, SubscriptionId(0)).unwrap()
    };
    // The last Friday of December 2026 is Christmas, the 26th is fine; the payday on the 28th is nearer than nothing.
    let club = due("alfa-club-payday", date(2026, 12, 1));
    assert_eq!((club.at.to_string(), club.why), ("2026-12-28T09:00:00Z".to_owned(), Some(Why::Payday)));
    // Good Friday 2030 is no last Friday; the last of March 2027 is, and 28 March is a Sunday.
    let club = due("alfa-club-payday", date(2027, 3, 1));
    assert_eq!((club.at.to_string(), club.why), ("2027-03-29T06:00:00Z".to_owned(), Some(Why::RestDay)));
    // A daily plan heeds quiet hours only.
    let news = due("alfa-news-daily", date(2026, 12, 25));
    assert_eq!((news.at, news.why), (news.nominal, None));
}
