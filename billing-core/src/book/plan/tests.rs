#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use super::*;
use crate::book::reader::Problem;
use crate::period::Period;
use crate::plan::{
    Budget, Defer, Dunning, FirstFailure, GiveUp, Ladder, LateApproved, Lifecycle, Missed, RefundAccess,
    Restart, Rounds, RoundsOf, Settles,
};
use crate::schedule::{Anchor, Cadence, Nth, Schedule, Wait, Weekdays, Window, price_of};
use crate::zone::Zone;
use jiff::civil::{Weekday, date};

const DAILY: &str = r#"merchant = "demo"
service = "kids"
carrier = "medina"
text = "Kids stories, one day"
price = "0.500 TND"
[schedule]
every = "week"
on = ["mon", "thu"]
at = "06:00"
spread = "2h"
window = ["06:00", "22:00"]
[ladder]
steps = ["0.300", "0.100"]
settles = "share"
restart = "last_step"
[dunning]
no_funds = { rounds = ["4h", "8h"], then = "suspend" }
limit = { rounds = [], then = "cancel" }
barred = { rounds = ["1m"], then = "next_period" }
temporary = "1s"
fault = "1d"
[lifecycle]
grace = "36h"
first_failure = "cancel"
missed = "skip"
late_approved = "extend"
"#;

const SHORTEST: &str = r#"merchant = "demo"
service = "kids"
carrier = "medina"
text = "x"
price = "1 TND"
[schedule]
every = "day"
at = "00:00"
[lifecycle]
late_approved = "past"
"#;

fn carriers() -> Vec<CarrierSummary> {
    let carrier = |id: &str, code: &str, min_minor, max_minor| CarrierSummary {
        price_points: Vec::new(),
        tariffs: Vec::new(),
        fee_returned: false,
        final_deadline_s: 86_400,
        country: "TN".to_owned(),
        calendar: crate::calendar::CalendarRules::default(),
        id: id.to_owned(),
        currency: Currency::from_code(code).unwrap(),
        min_minor,
        max_minor,
        zones: vec![],
    };
    vec![carrier("alfa", "EUR", 10, 5_000), carrier("medina", "TND", 50, 20_000)]
}

fn read(file: &str, text: &str) -> (Option<PlanRules>, Vec<String>) {
    let source = Source { file: file.to_owned(), text: text.to_owned() };
    let mut problems = Problems::default();
    let rules = read_plan(&source, &carriers(), &[], &mut problems);
    (rules, problems.iter().map(Problem::to_string).collect())
}

/// Reads the valid plan with `from` replaced by `to`.
fn changed(from: &str, to: &str) -> Vec<String> {
    assert_eq!(DAILY.matches(from).count(), 1, "{from} must stand there once");
    let (rules, problems) = read("p.toml", &DAILY.replace(from, to));
    assert_eq!(rules.is_none(), !problems.is_empty());
    problems
}

#[test]
fn every_key_is_read() {
    let (rules, problems) = read("config/plans/kids-1.toml", DAILY);
    assert_eq!(problems, Vec::<String>::new());
    let expected = PlanRules {
        id: "kids-1".to_owned(),
        text: "Kids stories, one day".to_owned(),
        merchant: "demo".to_owned(),
        service: "kids".to_owned(),
        carrier: "medina".to_owned(),
        schedule: Schedule::simple(
            Cadence::Weeks {
                every: 1,
                on: Weekdays::default().with(Weekday::Monday).with(Weekday::Thursday),
            },
            360,
            120,
            Window::new(360, 1_320).unwrap(),
        ),
        price: Money::new(500, Currency::from_code("TND").unwrap()),
        shares: Shares::NONE,
        tariffs: Vec::new(),
        fee_returned: false,
        answer_within_s: 86_400,
        ladder: Some(Ladder {
            // What the carrier takes at least: nothing else is written.
            part_min_minor: 50,
            ..Ladder::descending(vec![300, 100], Settles::Share, Restart::LastStep)
        }),
        dunning: Dunning {
            no_funds: Rounds::fixed(vec![14_400, 28_800], GiveUp::Suspend),
            limit: Rounds::fixed(vec![], GiveUp::Cancel),
            limits: RoundsOf::default(),
            barred: Rounds::fixed(vec![60], GiveUp::NextPeriod),
            unknown_subscriber: Rounds::fixed(vec![], GiveUp::Cancel),
            subscriber_refused: Rounds::fixed(vec![], GiveUp::Cancel),
            not_allowed: Rounds::fixed(vec![], GiveUp::Suspend),
            throttled_delay_s: 1,
            temporary_delay_s: 1,
            fault_delay_s: 86_400,
            budget: Budget::default(),
        },
        grace_s: 129_600,
        first_failure: FirstFailure::Cancel,
        missed: Missed::Skip,
        late_approved: LateApproved::Extend,
        arrears: None,
        defer: Defer::default(),
        balance: None,
        reserve: None,
        lifecycle: Lifecycle::default(),
        refund_access: RefundAccess::Keep,
        caps: Caps::NONE,
    };
    assert_eq!(rules, Some(expected));
}

#[test]
fn defaults_are_as_documented() {
    let (rules, problems) = read("config/plans/p.toml", SHORTEST);
    assert_eq!(problems, Vec::<String>::new());
    let rules = rules.unwrap();
    assert_eq!((rules.schedule.spread_minutes, rules.schedule.window), (0, Window::ALWAYS));
    assert_eq!(rules.ladder, None);
    // The example at the module's head says that its [dunning] and [lifecycle] are the defaults.
    let head = include_str!("../plan.rs").lines().map_while(|line| line.strip_prefix("//!"));
    let example: String = head.map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(line))).collect();
    let example = example.split("```").nth(1).unwrap().strip_prefix("toml\n").unwrap();
    let (_, from_dunning) = example.split_once("[dunning]").unwrap();
    let (plain, _) = SHORTEST.split_once("[lifecycle]").unwrap();
    let (written_out, problems) = read("p.toml", &format!("{plain}[dunning]{from_dunning}"));
    assert_eq!(problems, Vec::<String>::new());
    assert_eq!(written_out, Some(rules));
    // The whole example is right but for one thing: a daily plan names no weekdays.
    let (_, problems) = read("p.toml", example);
    let expected =
        "p.toml:11:6: `schedule.on` does not go with every = \"day\"; only weeks have days: leave it out";
    assert_eq!(problems, [expected]);
}

#[test]
fn cadences() {
    let cadence = |every: &str| {
        let (rules, problems) = read("p.toml", &SHORTEST.replace("\"day\"", &format!("\"{every}\"")));
        rules.map(|rules| rules.schedule.cadence).ok_or(problems)
    };
    let on = Weekdays::default();
    assert_eq!(cadence("once"), Ok(Cadence::Once));
    assert_eq!(cadence("day"), Ok(Cadence::Days(1)));
    assert_eq!(cadence("3 days"), Ok(Cadence::Days(3)));
    assert_eq!(cadence("week"), Ok(Cadence::Weeks { every: 1, on }));
    assert_eq!(cadence("1 week"), Ok(Cadence::Weeks { every: 1, on }));
    assert_eq!(cadence("2 weeks"), Ok(Cadence::Weeks { every: 2, on }));
    assert_eq!(cadence("month"), Ok(Cadence::Months(1)));
    assert_eq!(cadence("3 months"), Ok(Cadence::Months(3)));
    assert_eq!(cadence("year"), Ok(Cadence::Years(1)));
    assert_eq!(cadence("1000 years"), Ok(Cadence::Years(1_000)));
    for wrong in
        ["", " ", "3", "days", "+3 days", "-1 days", "1.5 days", "3  days", "2 once", "2 onces", "3 dayss"]
    {
        let help = "write \"once\", \"15 minutes\", \"6 hours\", \"day\", \"3 days\", \"week\", \"2 weeks\", \"month\", \"3 months\", \"quarter\" or \"year\"";
        let expected = format!("p.toml:7:9: `schedule.every` is \"{wrong}\"; {help}");
        assert_eq!(cadence(wrong), Err(vec![expected]));
    }
    for wrong in ["0 days", "1001 days", "99999999999999999999 days"] {
        let expected = format!("p.toml:7:9: `schedule.every` is \"{wrong}\"; write a number from 1 to 1000");
        assert_eq!(cadence(wrong), Err(vec![expected]));
    }
}

#[test]
fn one_mistake_one_problem() {
    let long = format!("text = \"{}\"", "é".repeat(65));
    let cases: &[(&str, &str, &str)] = &[
        (
            r#"merchant = "demo""#,
            r#"merchant = "Demo""#,
            r#"1:12: `merchant` is "Demo"; write 1 to 32 characters of a-z, 0-9 and -"#,
        ),
        (
            r#"service = "kids""#,
            r#"service = """#,
            r#"2:11: `service` is ""; write 1 to 32 characters of a-z, 0-9 and -"#,
        ),
        (
            r#""medina""#,
            r#""medna""#,
            r#"3:11: unknown carrier "medna"; did you mean "medina"? one of "alfa", "medina""#,
        ),
        (r#"text = "Kids stories, one day""#, r#"text = """#, "4:8: `text` has 0 characters; write 1 to 64"),
        (r#"text = "Kids stories, one day""#, &long, "4:8: `text` has 65 characters; write 1 to 64"),
        (
            "Kids stories, one day",
            r"Kids\u0007",
            r"4:13: `text` has the control character \u{7}; leave it out",
        ),
        (
            "0.500 TND",
            "0.500",
            r#"5:9: `price` is "0.500"; write an amount and a currency, such as "0.500 TND""#,
        ),
        (
            "0.500 TND",
            "-0.5 TND",
            r#"5:9: `price` is "-0.5 TND"; write an amount and a currency, such as "0.500 TND""#,
        ),
        (
            "0.500 TND",
            "1e3 TND",
            r#"5:9: `price` is "1e3 TND"; write an amount and a currency, such as "0.500 TND""#,
        ),
        ("0.500 TND", "0.5001 TND", "5:9: `price` is 0.5001; TND has 3 decimals"),
        ("0.500 TND", "0.000 TND", "5:9: `price` is 0.000; write an amount above 0"),
        (
            "0.500 TND",
            "9999999999999999999999999999 TND",
            "5:9: `price`: amount out of range; write a smaller amount",
        ),
        (
            "0.500 TND",
            "0.500 TDN",
            r#"5:16: unknown currency "TDN"; write an ISO 4217 code such as EUR, TND or JPY"#,
        ),
        (
            "0.500 TND",
            "20.001 TND",
            "5:9: `price` is 20.001 TND; carrier medina takes 0.050 TND to 20.000 TND",
        ),
        (
            r#"every = "week""#,
            r#"every = "fortnight""#,
            r#"7:9: `schedule.every` is "fortnight"; write "once", "15 minutes", "6 hours", "day", "3 days", "week", "2 weeks", "month", "3 months", "quarter" or "year""#,
        ),
        (
            r#"every = "week""#,
            r#"every = "2 months""#,
            r#"8:6: `schedule.on` does not go with every = "2 months"; only weeks have days: leave it out"#,
        ),
        (r#"["mon", "thu"]"#, "[]", "8:6: `schedule.on` names no weekday; name a weekday, or leave `on` out"),
        (
            r#"["mon", "thu"]"#,
            r#"["mon", "thr"]"#,
            r#"8:14: unknown weekday "thr"; did you mean "thu"? one of "mon", "tue", "wed", "thu", "fri", "sat", "sun""#,
        ),
        (r#"["mon", "thu"]"#, r#"["mon", "mon"]"#, r#"8:14: "mon" stands there twice; keep one of them"#),
        (
            r#"at = "06:00""#,
            r#"at = "05:59""#,
            r#"9:6: `schedule.at` is "05:59", outside of the window; the window is 06:00 to 22:00"#,
        ),
        (
            r#"at = "06:00""#,
            r#"at = "24:00""#,
            r#"9:6: `schedule.at` is "24:00"; write a local time from 00:00 to 23:59"#,
        ),
        (
            r#"at = "06:00""#,
            r#"at = "20:01""#,
            r#"10:10: `schedule.spread` is "2h", which leaves the window; from 20:01 to the window's end at 22:00 it is 119m"#,
        ),
        ("\"2h\"", "\"90s\"", r#"10:10: `schedule.spread` is "90s"; write whole minutes"#),
        ("\"2h\"", "\"1d\"", r#"10:10: `schedule.spread` is "1d"; write a duration from 0s to 1439m"#),
        (
            r#""22:00"]"#,
            r#""06:00"]"#,
            "11:20: `schedule.window` is 06:00 to 06:00; write an end after the beginning, of the same day",
        ),
        (
            r#", "22:00"]"#,
            "]",
            r#"11:10: `schedule.window` has 1 local times; write two, such as ["06:00", "22:00"]"#,
        ),
        (
            r#"["0.300", "0.100"]"#,
            "[]",
            "13:9: `ladder.steps` is empty; write at least one amount, or leave [ladder] out",
        ),
        (
            r#"["0.300", "0.100"]"#,
            r#"["0.500", "0.100"]"#,
            "13:10: `ladder.steps[0]` is 0.500 TND; write less than the price, 0.500 TND",
        ),
        (
            r#"["0.300", "0.100"]"#,
            r#"["0.100", "0.300"]"#,
            "13:19: `ladder.steps[1]` is 0.300 TND; write less than the step before, 0.100 TND",
        ),
        (
            r#"["0.300", "0.100"]"#,
            r#"["0.300", "0.049"]"#,
            "13:19: `ladder.steps[1]` is 0.049 TND; carrier medina takes 0.050 TND to 20.000 TND",
        ),
        (
            r#"["0.300", "0.100"]"#,
            r#"["0.300", "0"]"#,
            "13:19: `ladder.steps[1]` is 0; write an amount above 0",
        ),
        (
            r#"["0.300", "0.100"]"#,
            r#"["0.300 TND"]"#,
            r#"13:10: `ladder.steps[0]` is "0.300 TND"; write an amount of the price's currency, such as "0.300""#,
        ),
        (
            "settles = \"share\"\n",
            "",
            r#"12:1: missing key `ladder.settles`; one of "period", "share", "amount""#,
        ),
        (
            r#""share""#,
            r#""shares""#,
            r#"14:11: `ladder.settles` is "shares"; did you mean "share"? one of "period", "share", "amount""#,
        ),
        (
            r#"["4h", "8h"]"#,
            r#"["4h", "59s"]"#,
            r#"17:30: `dunning.no_funds.rounds[1]` is "59s"; write a duration from 1m to 366d"#,
        ),
        (
            r#"rounds = [], then = "cancel""#,
            r#"then = "cancel""#,
            "18:9: missing key `dunning.limit.rounds`; an array of durations is required",
        ),
        (
            r#"rounds = ["1m"], then = "next_period""#,
            r#"rounds = ["1m"]"#,
            r#"19:10: missing key `dunning.barred.then`; one of "next_period", "suspend", "cancel""#,
        ),
        (r#""1s""#, r#""0s""#, r#"20:13: `dunning.temporary` is "0s"; write a duration from 1s to 1d"#),
        (
            "fault",
            "faults",
            "21:1: unknown key `dunning.faults`; did you mean `fault`? known keys: barred, budget, fault, limit, limit_day, limit_month, limit_too_soon, limit_week, no_funds, not_allowed, subscriber_refused, temporary, throttled, unknown_subscriber",
        ),
        (
            r#"grace = "36h""#,
            "grace = 36",
            r#"23:9: `lifecycle.grace`: expected a duration such as "15m", found an integer; write it in quotes"#,
        ),
        (
            r#"first_failure = "cancel""#,
            r#"first_failure = "stop""#,
            r#"24:17: `lifecycle.first_failure` is "stop"; one of "retry", "cancel""#,
        ),
    ];
    for (from, to, expected) in cases {
        assert_eq!(changed(from, to), [format!("p.toml:{expected}")], "{from} -> {to}");
    }
}

#[test]
fn nine_steps_are_too_many() {
    let steps = (1..=9).rev().map(|step| format!("\"0.{step}\"")).collect::<Vec<_>>().join(", ");
    let text = DAILY.replace("0.500 TND", "1 TND").replace(r#""0.300", "0.100""#, &steps);
    let expected = "p.toml:13:66: `ladder.steps` has 9 entries; at most 8 are allowed";
    assert_eq!(read("p.toml", &text).1, [expected]);
}

#[test]
fn thirty_three_rounds_are_too_many() {
    let rounds = vec!["\"1h\""; 33].join(", ");
    let problems = changed(r#""4h", "8h""#, &rounds);
    assert_eq!(problems, ["p.toml:17:216: `dunning.no_funds.rounds` has 33 entries; at most 32 are allowed"]);
}

#[test]
fn all_problems_come_at_once() {
    let text = "merchant = 7\ncarrier = \"alfa\"\ntext = \"tab\tin it\"\nprice = \"0.500 TND\"\n\
                [schedule]\nevery = \"dayly\"\nat = \"6:00\"\nwindow = [\"22:00\", \"06:00\"]\n\
                [ladder]\nsteps = [\"0.6\", 1]\n[dunnig]\n";
    let (rules, problems) = read("config/plans/Daily Plan.toml", text);
    assert_eq!(rules, None);
    let expected = [
        "1:1: missing key `lifecycle`; a table is required",
        "1:1: missing key `service`; a string is required",
        "1:1: the file's name gives the plan the id \"Daily Plan\"; write 1 to 32 characters of a-z, 0-9 and -",
        "1:12: `merchant`: expected a string, found an integer; write it in quotes",
        "3:12: `text` has the control character \\u{9}; leave it out",
        "4:16: `price` is in TND; carrier alfa collects EUR",
        "6:9: `schedule.every` is \"dayly\"; write \"once\", \"15 minutes\", \"6 hours\", \"day\", \"3 days\", \
         \"week\", \"2 weeks\", \"month\", \"3 months\", \"quarter\" or \"year\"",
        "7:6: `schedule.at` is \"6:00\"; write a local time from 00:00 to 23:59",
        "8:20: `schedule.window` is 22:00 to 06:00; write an end after the beginning, of the same day",
        "9:1: missing key `ladder.settles`; one of \"period\", \"share\", \"amount\"",
        "10:10: `ladder.steps[0]` is 0.600 TND; write less than the price, 0.500 TND",
        "10:17: `ladder.steps[1]`: expected a string, found an integer; write it in quotes",
        "11:2: unknown key `dunnig`; did you mean `dunning`? known keys: arrears, balance, carrier, carrier_fee_percent, \
         defer, dunning, ladder, lifecycle, merchant, phases, price, reserve, schedule, service, tax_percent, text",
    ];
    let expected: Vec<String> =
        expected.iter().map(|problem| format!("config/plans/Daily Plan.toml:{problem}")).collect();
    assert_eq!(problems, expected);
}

#[test]
fn an_empty_file_misses_everything() {
    let (_, problems) = read("p.toml", "");
    let missing: Vec<&str> = problems.iter().filter_map(|problem| problem.split('`').nth(1)).collect();
    assert_eq!(missing, ["carrier", "lifecycle", "merchant", "price", "schedule", "service", "text"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_it_panic(text in any::<String>(), file in any::<String>()) {
        let (rules, problems) = read(&file, &text);
        prop_assert!(rules.is_none() && !problems.is_empty());
    }

    /// A changed character gives rules or problems, never both, never neither.
    #[test]
    fn no_mutation_makes_it_panic(at in 0..DAILY.len(), with in prop::option::of(any::<char>()), keep in any::<bool>()) {
        let (before, after) = DAILY.split_at(at);
        let after = if keep { after } else { &after[1..] };
        let with = with.map(String::from).unwrap_or_default();
        let (rules, problems) = read("p.toml", &format!("{before}{with}{after}"));
        prop_assert_eq!(rules.is_none(), !problems.is_empty());
    }

    #[test]
    fn no_value_makes_it_panic(
        at in prop::sample::select(vec![
            "0.500 TND", "medina", "week", "mon", "06:00", "2h", "22:00", "0.300", "share", "4h", "1d",
        ]),
        with in "[0-9a-z:. é\\-]{0,30}( TND| EUR|)",
    ) {
        let (rules, problems) = read("p.toml", &DAILY.replacen(at, &with, 1));
        prop_assert_eq!(rules.is_none(), !problems.is_empty());
    }
}

#[test]
fn tax_and_fee_are_percent_with_limits() {
    let with =
        |lines: &str| read("config/plans/p.toml", &SHORTEST.replace("price =", &format!("{lines}price =")));
    let (rules, problems) = with("tax_percent = \"19\"\ncarrier_fee_percent = \"7.7\"\n");
    assert_eq!(problems, Vec::<String>::new());
    let parts = rules.unwrap().shares.split(1_190);
    assert_eq!((parts.tax_minor, parts.carrier_fee_minor, parts.merchant_minor), (190, 77, 923));
    for bad in ["\"101\"", "\"-1\"", "\"1.00001\"", "\"x\"", "\"\"", "19"] {
        let (rules, problems) = with(&format!("carrier_fee_percent = {bad}\n"));
        assert!(rules.is_none() && problems.len() == 1, "{bad}: {problems:?}");
        assert!(problems[0].starts_with("config/plans/p.toml:5:23: "), "{problems:?}");
    }
}

#[test]
fn schedules_of_every_kind_are_read() {
    let with = |lines: &str| {
        let (rules, problems) = read("p.toml", &SHORTEST.replace("every = \"day\"", lines));
        rules.map(|rules| rules.schedule).ok_or(problems)
    };
    let cadence = |lines: &str| with(lines).unwrap().cadence;
    assert_eq!(cadence("every = \"15 minutes\""), Cadence::Minutes(15));
    assert_eq!(cadence("every = \"6 hours\""), Cadence::Hours(6));
    assert_eq!(cadence("every = \"2 quarters\""), Cadence::Months(6));
    let last_friday = Cadence::NthWeekday { every: 1, nth: Nth::Last, weekday: Weekday::Friday };
    assert_eq!(cadence("every = \"month\"\non = \"last fri\""), last_friday);
    let bounded =
        with("every = \"month\"\nstart = \"2027-01-01\"\nend = \"2027-12-31\"\ncount = 9\ntrial = \"7d\"")
            .unwrap();
    assert_eq!(bounded.start.zip(bounded.end), Some((date(2027, 1, 1), date(2027, 12, 31))));
    assert_eq!((bounded.count, bounded.wait), (Some(9), Wait::Trial(7)));
    for (wrong, says) in [
        ("every = \"day\"\nend = \"2027-02-30\"", "write a date from 2000 to 2089"),
        ("every = \"day\"\nstart = \"2027-01-02\"\nend = \"2027-01-01\"", "before the start"),
        ("every = \"day\"\ncount = 0", "write a number from 1 to 1000000"),
        ("every = \"day\"\ntrial = \"1d\"\nparked = \"1d\"", "keep one of them"),
        ("every = \"day\"\ntrial = \"25h\"", "write whole days"),
        ("every = \"day\"\non = \"last fri\"", "only months and quarters have an nth weekday"),
        ("every = \"month\"\non = \"5th fri\"", "\"last fri\" or \"2nd tue\" for months"),
        ("every = \"day\"\nprefer = \"payday\"", "does not go with periods shorter than a month"),
        ("every = \"month\"\nprefer = \"payday\"", "no paydays are known"),
        ("every = \"month\"\nprefer_within = \"2d\"", "write prefer"),
        ("every = \"day\"\navoid = [\"holiday\"]", "did you mean \"holidays\"?"),
        ("every = \"400 quarters\"", "write a number from 1 to 333"),
        ("every = \"65537 minutes\"", "write a number from 1 to 1000"),
    ] {
        let problems = with(wrong).unwrap_err();
        assert!(problems.iter().any(|problem| problem.contains(says)), "{wrong}: {problems:?}");
    }
}

#[test]
fn several_local_times_and_phases_are_read() {
    let times = |at: &str| {
        let text = SHORTEST.replace("at = \"00:00\"", at);
        assert_ne!(text, SHORTEST);
        let (rules, problems) = read("p.toml", &text);
        rules.map(|rules| rules.schedule.times).ok_or(problems.join("\n"))
    };
    assert_eq!(times("at = [\"08:00\", \"19:00\"]"), Ok(vec![480, 1_140]));
    assert_eq!(times("at = [\"08:00\"]"), Ok(Vec::new()));
    assert!(times("at = []").unwrap_err().contains("names 0 local times"));
    assert!(times("at = [\"19:00\", \"08:00\"]").unwrap_err().contains("write a time after the one before"));
    assert!(times("at = [\"08:00\", \"24:00\"]").unwrap_err().contains("from 00:00 to 23:59"));
    let spread = times("at = [\"08:00\", \"09:00\"]\nspread = \"2h\"").unwrap_err();
    assert!(spread.contains("reaches the next local time"), "{spread}");

    let (rules, problems) =
        read("p.toml", &format!("{SHORTEST}[[phases]]\nperiods = 2\nprice = \"0.300\"\n"));
    assert_eq!(problems, Vec::<String>::new());
    let rules = rules.unwrap();
    let zone = Zone::named("Africa/Tunis").unwrap();
    let anchor = Anchor::new(date(2026, 11, 20), 0);
    let price =
        |day| price_of(&rules, anchor, Period::starting(date(2026, 11, day), 0).unwrap(), &zone).unwrap();
    assert_eq!((price(20).minor, price(21).minor, price(22)), (300, 300, rules.price));
    let (_, problems) = read("p.toml", &format!("{SHORTEST}[[phases]]\nperiods = 0\nprice = \"x\"\n"));
    assert_eq!(problems.len(), 2, "{problems:?}");
}
mod newer;

/// A carrier that takes nothing but 0.050, 0.100, 0.250, 0.400 and 0.500.
fn at_points(from: &str, to: &str) -> (Option<PlanRules>, Vec<String>) {
    let mut carriers = carriers();
    carriers[1].price_points = vec![50, 100, 250, 400, 500];
    assert_eq!(DAILY.matches(from).count(), 1, "{from} must stand there once");
    let source = Source { file: "p.toml".to_owned(), text: DAILY.replace(from, to) };
    let mut problems = Problems::default();
    let rules = read_plan(&source, &carriers, &[], &mut problems);
    (rules, problems.iter().map(Problem::to_string).collect())
}

#[test]
fn every_amount_lands_on_a_price_point_of_the_carrier() {
    let steps = r#"["0.300", "0.100"]"#;
    let (_, problems) = at_points(steps, steps);
    let near = "carrier medina takes its price points only, near it 0.250 TND and 0.400 TND";
    assert!(problems[0].ends_with(&format!("`ladder.steps[0]` is 0.300 TND; {near}")), "{problems:?}");
    assert!(problems[0].starts_with("p.toml:13:10:"), "{problems:?}");
    // Percentages are rounded down to one: 60 % of 0.500 is 0.300, so 0.250; 15 % is 0.075, so 0.050.
    let (rules, problems) = at_points(steps, r#"["60%", "15%"]"#);
    assert_eq!(problems, Vec::<String>::new());
    assert_eq!(rules.unwrap().ladder.unwrap().steps_minor, [250, 50]);
    let (_, problems) = at_points(steps, r#"["9%"]"#);
    assert!(problems[0].contains("at least one price point"), "{problems:?}");
    // What is left is asked for later: 0.500 less 0.100 is 0.400, less another 0.100 no price point.
    let (_, problems) =
        at_points("[\"0.300\", \"0.100\"]\nsettles = \"share\"", "[\"0.100\"]\nsettles = \"amount\"");
    assert!(problems[0].contains("0.300 TND may be asked for as the rest"), "{problems:?}");
    let (rules, problems) =
        at_points("[\"0.300\", \"0.100\"]\nsettles = \"share\"", "[\"0.250\"]\nsettles = \"amount\"");
    assert!(rules.is_some(), "{problems:?}");
    let (_, problems) = at_points("price = \"0.500 TND\"", "price = \"0.450 TND\"");
    assert!(
        problems[0].contains("`price` is 0.450 TND") && problems[0].contains("0.400 TND and 0.500 TND"),
        "{problems:?}"
    );
    let (_, problems) = at_points("price = \"0.500 TND\"", "price = \"0.600 TND\"");
    assert!(problems[0].ends_with("near it 0.500 TND"), "{problems:?}");
}
