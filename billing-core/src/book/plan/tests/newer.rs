//! The tables for ladders by percentage, growing rounds, deferrals, balances, reservations, arrears and lifecycles.

use proptest::prelude::*;

use super::read;
use crate::book::CarrierTariff;
use crate::book::plan::read_plan;
use crate::book::reader::Source;
use crate::plan::{
    Arrears, BalanceCheck, BalanceWhen, Budget, Choice, Defer, Delivers, Expired, GiveUp, Growth, Ladder,
    LateApproved, Lifecycle, Missed, Payday, PlanRules, RefundAccess, Reserve, Restart, Rounds, Settles,
};
use crate::schedule::{Weekdays, Window};
use crate::split::Fee;
use jiff::civil::Weekday;
use rust_decimal::Decimal;

const FULL: &str = r#"merchant = "demo"
service = "kids"
carrier = "medina"
text = "Kids"
price = "1.000 TND"
[schedule]
every = "month"
at = "06:00"
[ladder]
steps = ["60%", "33.3%", "0.100"]
points = "0.050"
settles = "share"
choose = "balance"
min_part = "0.100"
delivers = "tier"
[dunning]
no_funds = { rounds = ["4h"], grow = { first = "8h", factor = "150%", max = "1d", rounds = 5 }, jitter = "10%", hours = ["08:00", "20:00"], on = ["fri"], then = "suspend" }
limit_day = { rounds = ["1d"], then = "next_period" }
not_allowed = { rounds = ["7d"], then = "cancel" }
throttled = "30s"
temporary = "10m"
budget = { day = 3, period = 20, fee = "0.005", fees = "0.100" }
[defer]
max = 10
shelf_life = "20d"
payday = { days = [1, 15], last = true, within = 5 }
[balance]
when = "after_refusal"
valid = "90s"
recheck = "12h"
[reserve]
valid = "1d"
confirm_after = "1h"
expired = "cancel"
[arrears]
count = 3
age = "90d"
amount = "2.500"
rounds = ["1d", "7d"]
[lifecycle]
late_approved = "refund"
missed = "merge"
merge_periods = 2
pause_keeps_access = true
top_up_due = true
top_up_resumes = true
reset_from_round = 2
refund_access = "share"
"#;

#[test]
fn every_table_is_read() {
    let (rules, problems) = read("p.toml", FULL);
    assert_eq!(problems, Vec::<String>::new());
    let rules = rules.unwrap();
    // 33.3 % of 1.000 is 0.333, rounded down to the price point 0.300.
    let ladder = Ladder {
        choice: Choice::Balance,
        part_min_minor: 100,
        delivers: Delivers::Tier,
        ..Ladder::descending(vec![600, 300, 100], Settles::Share, Restart::Full)
    };
    assert_eq!(rules.ladder, Some(ladder));
    let no_funds = Rounds {
        growth: Some(Growth { first_s: 28_800, factor_permille: 1_500, max_s: 86_400, rounds: 5 }),
        jitter_permille: 100,
        hours: Some(Window::new(480, 1_200).unwrap()),
        on: Weekdays::default().with(Weekday::Friday),
        ..Rounds::fixed(vec![14_400], GiveUp::Suspend)
    };
    let delays: Vec<_> = (0..8).map(|round| no_funds.delay_s(round)).collect();
    let expected = [14_400, 28_800, 43_200, 64_800, 86_400, 86_400].map(Some);
    assert_eq!((&delays[..6], &delays[6..]), (&expected[..], &[None, None][..]));
    assert_eq!(rules.dunning.no_funds, no_funds);
    assert_eq!(rules.dunning.limits.day, Some(Rounds::fixed(vec![86_400], GiveUp::NextPeriod)));
    assert_eq!(rules.dunning.not_allowed, Rounds::fixed(vec![604_800], GiveUp::Cancel));
    assert_eq!((rules.dunning.throttled_delay_s, rules.dunning.temporary_delay_s), (30, 600));
    let budget = Budget { day_max: 3, period_max: 20, fee_minor: 5, fees_max_minor: 100 };
    assert_eq!(rules.dunning.budget, budget);
    let payday = Payday { days: 1 | 1 << 1 | 1 << 15, within_days: 5 };
    assert_eq!(rules.defer, Defer { max: 10, shelf_life_s: 20 * 86_400, payday: Some(payday) });
    let balance = BalanceCheck { when: BalanceWhen::AfterRefusal, valid_ms: 90_000, recheck_s: 43_200 };
    assert_eq!(rules.balance, Some(balance));
    let reserve = Reserve { valid_s: 86_400, confirm_after_s: 3_600, expired: Expired::Cancel };
    assert_eq!(rules.reserve, Some(reserve));
    let arrears = Arrears {
        count_max: 3,
        age_max_s: 90 * 86_400,
        amount_max_minor: 2_500,
        rounds: Rounds::fixed(vec![86_400, 604_800], GiveUp::NextPeriod),
    };
    assert_eq!(rules.arrears, Some(arrears));
    assert_eq!(rules.missed, Missed::Merge { periods_max: 2 });
    let lifecycle =
        Lifecycle { pause_keeps_access: true, snap: true, top_up_resumes: true, reset_from_round: 2 };
    assert_eq!((rules.lifecycle, rules.refund_access), (lifecycle, RefundAccess::Share));
    assert_eq!(rules.late_approved, LateApproved::Refund);
}

#[test]
fn mistakes_in_the_newer_tables_are_named() {
    let cases: &[(&str, &str, &str)] = &[
        (
            r#""33.3%""#,
            r#""4%""#,
            r#"10:17: `ladder.steps[1]` is "4%"; write a part of the price that is at least one price point"#,
        ),
        (
            r#""33.3%""#,
            r#""60%""#,
            "10:17: `ladder.steps[1]` is 0.600 TND; write less than the step before, 0.600 TND",
        ),
        (
            r#"min_part = "0.100""#,
            r#"min_part = "0.200""#,
            "14:12: `ladder.min_part` is 0.200 TND; write at most the smallest step, 0.100 TND",
        ),
        (
            r#"settles = "share""#,
            r#"settles = "period""#,
            r#"15:12: `ladder.delivers` is "tier"; only a share is delivered as a tier: write settles = "share", or leave `delivers` out"#,
        ),
        (
            r#""150%""#,
            r#""99%""#,
            r#"17:63: `dunning.no_funds.grow.factor` is "99%"; write whole percent from "100%" to "1000%""#,
        ),
        (
            r#""10%""#,
            r#""51%""#,
            r#"17:106: `dunning.no_funds.jitter` is "51%"; write whole percent from "0%" to "50%""#,
        ),
        (
            r#"max = "1d", rounds"#,
            r#"max = "1h", rounds"#,
            "17:77: `dunning.no_funds.grow.max` is shorter than `first`; write a longer one",
        ),
        (
            r#"["08:00", "20:00"]"#,
            r#"["08:00", "07:00"]"#,
            "17:131: `dunning.no_funds.hours` ends before it begins; write an end after the beginning, of the same day",
        ),
        (
            r#"["fri"]"#,
            "[]",
            "17:146: `dunning.no_funds.on` names no weekday; name a weekday, or leave `on` out",
        ),
        (
            "rounds = 5 }",
            "rounds = 32 }",
            "17:92: `dunning.no_funds.grow.rounds` is 32; write a number from 1 to 31",
        ),
        (
            r#"fee = "0.005", "#,
            "",
            r#"22:41: `dunning.budget.fees` without `fee`; write what a request costs: fee = "0.005""#,
        ),
        ("within = 5", "within = 40", "26:50: `defer.payday.within` is 40; write a number from 1 to 31"),
        ("days = [1, 15]", "days = [32]", "26:20: `defer.payday.days[0]` is 32; write a number from 1 to 31"),
        (
            r#"valid = "90s""#,
            r#"valid = "11m""#,
            r#"29:9: `balance.valid` is "11m"; write a duration from 1s to 10m"#,
        ),
        (
            r#"confirm_after = "1h""#,
            r#"confirm_after = "1d""#,
            "33:17: `reserve.confirm_after` is not before the reservation's end; write less than `valid`",
        ),
        ("count = 3", "count = 32", "36:9: `arrears.count` is 32; write a number from 1 to 31"),
        (
            r#"rounds = ["1d", "7d"]"#,
            "rounds = []",
            "39:10: `arrears.rounds` is empty; write when arrears are tried, or leave [arrears] out",
        ),
        (
            "late_approved = \"refund\"\n",
            "",
            r#"40:1: missing key `lifecycle.late_approved`; one of "extend", "past", "refund""#,
        ),
        (
            "merge_periods = 2\n",
            "",
            r#"42:10: `lifecycle.missed` is "merge"; write how many missed periods one charge may hold: merge_periods = 3"#,
        ),
        (
            "merge_periods = 2",
            "merge_periods = 30",
            "43:17: `lifecycle.merge_periods` is 30, at 1.000 TND each; carrier medina takes at most 20.000 TND at once",
        ),
        (
            r#"missed = "merge""#,
            r#"missed = "skip""#,
            "43:17: `lifecycle.merge_periods` without merge; write missed = \"merge\", or leave it out",
        ),
    ];
    let mut wrong = Vec::new();
    for (from, to, expected) in cases {
        assert_eq!(FULL.matches(from).count(), 1, "{from} must stand there once");
        let (rules, problems) = read("p.toml", &FULL.replace(from, to));
        if (rules, problems.as_slice()) != (None, &[format!("p.toml:{expected}")]) {
            wrong.push(format!("{from} -> {to}: {problems:?}"));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

proptest! {
    #[test]
    fn no_mutation_of_the_newer_tables_makes_it_panic(at in 0..FULL.len(), with in prop::option::of(any::<char>())) {
        let (before, after) = FULL.split_at(at);
        let with = with.map(String::from).unwrap_or_default();
        let (rules, problems) = read("p.toml", &format!("{before}{with}{}", &after[1..]));
        prop_assert_eq!(rules.is_none(), !problems.is_empty());
    }
}

#[test]
fn tariffs_of_the_carrier_hold_at_their_prices_where_the_plan_says_nothing() {
    let mut carriers = super::carriers();
    let percent = |text: &str| Some(text.parse::<Decimal>().unwrap());
    let at = |price_minor, fee_minor| Some(Fee::At { fee_minor, price_minor });
    carriers[1].fee_returned = true;
    carriers[1].tariffs = vec![
        CarrierTariff { price_minor: 119, tax_percent: percent("19"), fee: at(119, 45) },
        CarrierTariff { price_minor: 500, tax_percent: None, fee: percent("40").map(Fee::Percent) },
    ];
    let rules = |lines: &str| {
        let text = super::SHORTEST.replace("price =", &format!("{lines}price ="));
        let source = Source { file: "config/plans/p.toml".to_owned(), text };
        read_plan(&source, &carriers, &[], &mut crate::book::reader::Problems::default()).unwrap()
    };
    let parts = |rules: &PlanRules, minor: i64| {
        let parts = rules.shares_at(minor).split(minor);
        (parts.tax_minor, parts.carrier_fee_minor, parts.merchant_minor)
    };
    let plain = rules("");
    assert!(plain.fee_returned);
    assert_eq!((parts(&plain, 119), parts(&plain, 500)), ((19, 45, 55), (0, 200, 300)));
    assert_eq!(parts(&plain, 120), (0, 0, 120), "no tariff, and nothing in the plan");
    // Its own words go before the carrier's, each by itself.
    let exempt = rules("tax_percent = \"0\"\n");
    assert_eq!((parts(&exempt, 119), parts(&exempt, 500)), ((0, 45, 74), (0, 200, 300)));
    let own = rules("carrier_fee_percent = \"10\"\n");
    assert_eq!(
        (parts(&own, 119), parts(&own, 500), parts(&own, 1_000)),
        ((19, 10, 90), (0, 50, 450), (0, 100, 900))
    );
    // What goes back: a sale of that amount, else of what the charge had collected.
    let back = |minor, collected| plain.shares_back(minor, collected).split(minor).carrier_fee_minor;
    assert_eq!((back(119, 500), back(100, 500), back(100, 119), back(100, 120)), (45, 40, 38, 0));
}
