#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;

const SHORTEST: &str = "name = \"Spain\"\ncurrency = { code = \"EUR\", source = \"ISO 4217\" }\n\
                        zones = { names = [\"Europe/Madrid\"], example = true }\n";

fn read(file: &str, text: &str) -> (Option<CountryRules>, Vec<String>) {
    let source = Source { file: file.to_owned(), text: text.to_owned() };
    let mut problems = Problems::default();
    let country = read_country(&source, &mut problems);
    (country, problems.iter().map(ToString::to_string).collect())
}

#[test]
fn the_example_at_the_head_is_right() {
    let head = include_str!("../countries.rs").lines().map_while(|line| line.strip_prefix("//!"));
    let example: String = head.map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(line))).collect();
    let example = example.split("```").nth(1).unwrap().strip_prefix("toml\n").unwrap();
    let (country, problems) = read("config/countries/es.toml", example);
    assert_eq!(problems, Vec::<String>::new());
    let country = country.unwrap();
    assert_eq!((country.code.as_str(), country.currency.code()), ("ES", "EUR"));
    assert_eq!((country.calendar.holidays.len(), country.caps.len(), country.notices.len()), (1, 1, 1));
    assert_eq!(country.notices, [Notice::BeforeRenewal { lead_s: 86_400 }]);
    let example_of = |key: &str| country.sources.iter().find(|sourced| sourced.key == key).unwrap();
    assert_eq!(example_of("quiet_hours").source, None);
    assert_eq!(example_of("currency").source.as_deref(), Some("ISO 4217"));
}

#[test]
fn every_value_says_where_it_comes_from() {
    let (_, problems) = read("c/es.toml", &format!("{SHORTEST}rest_days = {{ days = [\"sun\"] }}\n"));
    assert_eq!(
        problems,
        [
            "c/es.toml:4:13: `rest_days` does not say where it comes from; write either source = \"...\" or example = true"
        ]
    );
    let both = format!("{SHORTEST}paydays = {{ days = [1], source = \"x\", example = true }}\n");
    let (_, problems) = read("c/es.toml", &both);
    assert_eq!(
        problems,
        [
            "c/es.toml:4:11: `paydays` has a source and is an example; write either source = \"...\" or example = true"
        ]
    );
}

#[test]
fn all_problems_come_at_once() {
    let wrong = format!(
        "{SHORTEST}quiet_hours = {{ from = \"22:00\", to = \"22:00\", example = true }}\ncolour = 1\n\
         [[holidays]]\nname = \"x\"\ndate = \"02-30\"\nexample = true\n\
         [[caps]]\nper = \"year\"\namount = \"1.234\"\nexample = true\n\
         [[attempts]]\nper = \"charge\"\nmax = 0\nexample = true\n\
         [[notices]]\nwhen = \"before_renewal\"\nexample = true\n"
    );
    let (country, problems) = read("c/spain.toml", &wrong);
    assert_eq!(country, None);
    let starts = [
        "c/spain.toml:1:1: the file's name gives the country the code \"spain\"",
        "c/spain.toml:4:38: `from` and `to` leave nothing open or closed",
        "c/spain.toml:5:1: unknown key `colour`",
        "c/spain.toml:6:1: the dates of the holiday \"x\" cannot be read",
        "c/spain.toml:11:7: `caps[0].per` is \"year\"",
        "c/spain.toml:12:10: `amount` is \"1.234\"",
        "c/spain.toml:15:7: `attempts[0].per` is \"charge\"",
        "c/spain.toml:16:7: `attempts[0].max` is 0",
        "c/spain.toml:19:8: `lead` goes with before_renewal",
    ];
    assert_eq!(problems.len(), starts.len(), "{problems:#?}");
    for (problem, start) in problems.iter().zip(starts) {
        assert!(problem.starts_with(start), "{problem}\n{start}");
    }
}

#[test]
fn hostile_values_are_problems() {
    let long = "x".repeat(201);
    for wrong in [
        format!("holidays = [{{ name = \"{long}\", date = \"01-01\", example = true }}]"),
        "holidays = [{ name = \"a\", nth = \"5th mon\", month = 1, example = true }]".to_owned(),
        "holidays = [{ name = \"a\", dates = [\"9999-01-01\"], example = true }]".to_owned(),
        "holidays = [{ name = \"a\", date = \"01-01\", dates = [], example = true }]".to_owned(),
        "paydays = { days = [0, 32], example = true }".to_owned(),
        "charging = { window = [\"22:00\", \"06:00\"], example = true }".to_owned(),
        "caps = [{ per = \"day\", amount = \"99999999999999999999999999999999\", example = true }]"
            .to_owned(),
        format!("holidays = [{}]", "{ name = \"a\", date = \"01-01\", example = true },".repeat(65)),
    ] {
        let (country, problems) = read("c/es.toml", &format!("{SHORTEST}{wrong}\n"));
        assert!(country.is_none() && !problems.is_empty(), "{wrong}");
    }
}
