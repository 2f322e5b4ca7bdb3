//! Random walks: any plan, zone and sequence of answers. `World` checks every promise at every step; here only
//! chance is made.

use billing_core::ids::SubscriptionId;
use billing_core::money::Money;
use billing_core::outcome::Outcome;
use billing_core::plan::{
    Arrears, BalanceCheck, BalanceWhen, Budget, Choice, Defer, Dunning, Expired, FirstFailure, GiveUp,
    Growth, Ladder, LateApproved, Lifecycle, Missed, Payday, PlanRules, RefundAccess, Reserve, Restart,
    Rounds, Settles,
};
use billing_core::schedule::{Cadence, Schedule, Wait, Weekdays, Window};
use billing_core::states::{AttemptState, SubscriptionState};
use billing_core::subscription::OpenAttempt;
use billing_core::triage::{Balance, BalanceAnswer, Triage};
use jiff::SignedDuration;
use jiff::civil::{Date, Weekday, date};
use proptest::prelude::*;

use crate::world::{World, daily};

const ZONES: [&str; 18] = [
    "Europe/Madrid",
    "Africa/Tunis",
    "Africa/Casablanca",
    "Pacific/Apia",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "America/Sao_Paulo",
    "America/Havana",
    "Asia/Beirut",
    "America/St_Johns",
    "Pacific/Chatham",
    "Africa/Cairo",
    "America/Asuncion",
    "Pacific/Kiritimati",
    "Asia/Tehran",
    "Europe/Dublin",
    "America/Santiago",
    "Antarctica/Troll",
];

/// Keys end in 2089; a walk ends before.
const LAST_YEAR: i16 = 2_070;

fn rounds() -> impl Strategy<Value = Rounds> {
    let give_up = prop_oneof![
        4 => Just(GiveUp::NextPeriod),
        1 => Just(GiveUp::Suspend),
        1 => Just(GiveUp::Cancel)
    ];
    (prop::collection::vec(30..200_000_i64, 0..6), give_up)
        .prop_map(|(delays_s, then)| Rounds::fixed(delays_s, then))
}

fn cadences() -> impl Strategy<Value = Cadence> {
    let on = (0..128_u8).prop_map(|bits| {
        let days = Weekday::Monday.cycle_forward().take(7).enumerate();
        days.filter(|(i, _)| bits >> i & 1 == 1).fold(Weekdays::default(), |on, (_, day)| on.with(day))
    });
    prop_oneof![
        6 => Just(Cadence::Days(1)),
        2 => (2..40_u16).prop_map(Cadence::Days),
        1 => (400..900_u16).prop_map(Cadence::Days),
        2 => (1..4_u16, on).prop_map(|(every, on)| Cadence::Weeks { every, on }),
        2 => (1..14_u16).prop_map(Cadence::Months),
        1 => (1..4_u16).prop_map(Cadence::Years),
        1 => Just(Cadence::Once),
    ]
}

fn windows() -> impl Strategy<Value = Window> {
    prop_oneof![
        2 => Just(Window::ALWAYS),
        1 => Just(Window::new(360, 1_320).unwrap()),
        1 => Just(Window::new(120, 180).unwrap()),
        2 => (0..1_440_u16, 1..1_440_u16).prop_map(|(from, length)| {
            Window::new(from, (from + length).min(1_440)).unwrap()
        }),
    ]
}

fn schedules() -> impl Strategy<Value = Schedule> {
    (cadences(), windows(), 0..1_440_u16, 0..240_u16).prop_map(|(cadence, window, at, spread_minutes)| {
        Schedule::simple(cadence, at.max(window.from_minute()), spread_minutes, window)
    })
}

/// A price with its ladder.
fn prices() -> impl Strategy<Value = (i64, Option<Ladder>)> {
    let settles = prop_oneof![Just(Settles::Period), Just(Settles::Share), Just(Settles::Amount)];
    let restart = prop_oneof![Just(Restart::Full), Just(Restart::LastStep)];
    (2..10_000_i64).prop_flat_map(move |price| {
        let ladder = (prop::collection::btree_set(1..price, 1..=6), settles.clone(), restart.clone());
        prop::option::weighted(0.7, ladder).prop_map(move |ladder| {
            let ladder = ladder.map(|(steps, settles, restart)| {
                Ladder::descending(steps.into_iter().rev().collect(), settles, restart)
            });
            (price, ladder)
        })
    })
}

/// The same rounds with growth, jitter, hours and weekdays.
fn richer_rounds() -> impl Strategy<Value = Rounds> {
    let growth = (60..90_000_i64, 1_000..4_000_i64, 60..900_000_i64, 1..8_i16).prop_map(
        |(first_s, factor_permille, max_s, rounds)| Growth { first_s, factor_permille, max_s, rounds },
    );
    let on = prop::sample::select(vec![
        Weekdays::default(),
        Weekdays::default().with(Weekday::Friday),
        Weekdays::default().with(Weekday::Monday).with(Weekday::Thursday),
    ]);
    let growth = prop::option::weighted(0.5, growth);
    (rounds(), growth, 0..500_u16, prop::option::weighted(0.3, windows()), on).prop_map(
        |(rounds, growth, jitter_permille, hours, on)| Rounds {
            growth,
            jitter_permille,
            hours,
            on,
            ..rounds
        },
    )
}

fn richer_arrears() -> impl Strategy<Value = Arrears> {
    (1..6_i16, 86_400..9_000_000_i64, 1..100_000_i64, richer_rounds()).prop_map(
        |(count_max, age_max_s, amount_max_minor, rounds)| Arrears {
            count_max,
            age_max_s,
            amount_max_minor,
            rounds: Rounds { delays_s: [vec![3_600], rounds.delays_s].concat(), ..rounds },
        },
    )
}

/// Plans with everything that a book can say.
fn richer_plans() -> impl Strategy<Value = PlanRules> {
    let late = prop::sample::select(vec![LateApproved::Extend, LateApproved::Past, LateApproved::Refund]);
    let missed = prop::sample::select(vec![
        Missed::OnceLate,
        Missed::Skip,
        Missed::Merge { periods_max: 3 },
        Missed::CollectLate,
    ]);
    let reserve = (60..90_000_i64, 0..50_000_i64, prop::bool::ANY).prop_map(|(valid_s, after, released)| {
        let expired = if released { Expired::Released } else { Expired::Cancel };
        Reserve { valid_s, confirm_after_s: after.min(valid_s - 1), expired }
    });
    let balance = prop::sample::select(vec![BalanceWhen::Always, BalanceWhen::AfterRefusal])
        .prop_map(|when| BalanceCheck { when, valid_ms: 60_000, recheck_s: 7_200 });
    let defer = (0..4_i16, prop_oneof![2 => Just(0), 1 => 600..400_000_i64], prop::bool::ANY).prop_map(
        |(max, shelf_life_s, payday)| Defer {
            max,
            shelf_life_s,
            payday: payday.then_some(Payday { days: 1 | 1 << 15, within_days: 9 }),
        },
    );
    let lifecycle = (0..4_i16, any::<bool>()).prop_map(|(reset_from_round, snap)| Lifecycle {
        reset_from_round,
        snap,
        top_up_resumes: snap,
        pause_keeps_access: snap,
    });
    let budget = (0..3_i16, 0..6_i16).prop_map(|(day_max, period_max)| Budget {
        day_max,
        period_max,
        fee_minor: 2,
        fees_max_minor: 40,
    });
    let tables = (
        prop::option::weighted(0.5, richer_arrears()),
        prop::option::weighted(0.3, reserve),
        prop::option::weighted(0.4, balance),
        defer,
        lifecycle,
    );
    (plans(), richer_rounds(), late, missed, budget, tables).prop_map(
        |(plan, no_funds, late_approved, missed, budget, (arrears, reserve, balance, defer, lifecycle))| {
            let dunning = Dunning { no_funds, budget, ..plan.dunning.clone() };
            let mut plan = plan;
            if let (Some(ladder), true) = (plan.ladder.as_mut(), defer.max % 2 == 0) {
                ladder.choice = Choice::Balance;
            }
            let wait = if budget.day_max == 1 { Wait::Trial(7) } else { Wait::None };
            plan.schedule.wait = wait;
            let tables = PlanRules { arrears, reserve, balance, defer, lifecycle, ..plan };
            let refund_access = RefundAccess::Share;
            PlanRules { dunning, late_approved, missed, refund_access, ..tables }
        },
    )
}

fn plans() -> impl Strategy<Value = PlanRules> {
    let dunning = (rounds(), rounds(), rounds(), 1..200_000_i64, 1..200_000_i64).prop_map(
        |(no_funds, limit, barred, temporary_delay_s, fault_delay_s)| Dunning {
            no_funds,
            limit,
            barred,
            temporary_delay_s,
            fault_delay_s,
            ..daily().dunning
        },
    );
    let first = prop_oneof![1 => Just(FirstFailure::Cancel), 4 => Just(FirstFailure::Retry)];
    let missed = prop_oneof![Just(Missed::OnceLate), Just(Missed::Skip)];
    let grace = prop_oneof![Just(0), 1..700_000_i64];
    (schedules(), prices(), dunning, grace, first, missed).prop_map(
        |(schedule, (price, ladder), dunning, grace_s, first_failure, missed)| {
            let base = daily();
            let price = Money::new(price, base.price.currency);
            PlanRules { schedule, price, ladder, dunning, grace_s, first_failure, missed, ..base }
        },
    )
}

/// How time passes before a step.
#[derive(Debug, Clone, Copy)]
enum Pass {
    ToNext,
    Seconds(i64),
}

/// What chance does in one step.
#[derive(Debug, Clone, Copy)]
struct Chance {
    pass: Pass,
    /// Which outcome, and which amount where it carries one.
    pick: usize,
    permille: i64,
    /// Seconds until the answer.
    answer_s: i64,
    /// Evidence about what is open: none, in the row, beside it, or people take over.
    evidence: u8,
    /// Once in a while somebody says stop.
    stops: bool,
}

fn chances() -> impl Strategy<Value = Chance> {
    let pass = prop_oneof![
        12 => Just(Pass::ToNext),
        6 => (0..300_000_i64).prop_map(Pass::Seconds),
        1 => (0..100_000_000_i64).prop_map(Pass::Seconds),
    ];
    let permille = prop_oneof![3 => Just(1_000_i64), 2 => -10..1_200_i64];
    let stops = prop::bool::weighted(0.004);
    (pass, 0..1_000_usize, permille, 0..4_000_i64, 0..8_u8, stops).prop_map(
        |(pass, pick, permille, answer_s, evidence, stops)| Chance {
            pass,
            pick,
            permille,
            answer_s,
            evidence,
            stops,
        },
    )
}

/// Money comes, and funds lack, far more often than anything else, so that walks get far.
fn outcome(chance: &Chance, asked: i64) -> Outcome {
    let amount_minor = asked * chance.permille / 1_000;
    match chance.pick % 10 {
        0..3 => Outcome::Charged { amount_minor: asked },
        3..5 => crate::world::NO_FUNDS,
        5 if asked > 0 => Outcome::Reserved,
        6 if chance.pick.is_multiple_of(3) => Outcome::Released,
        _ => {
            let all = Outcome::all(amount_minor);
            all[chance.pick / 10 % all.len()]
        }
    }
}

fn walk(world: &mut World, chance: &Chance) {
    match (chance.pass, world.at().next_at) {
        (Pass::ToNext, Some(_)) => world.until_next(),
        (Pass::ToNext, None) => world.later(SignedDuration::from_hours(1)),
        (Pass::Seconds(s), _) => world.later(SignedDuration::from_secs(s)),
    };
    let stop_at = chance.stops.then_some(world.now);
    if chance.pick.is_multiple_of(2) {
        world.sub.stop_at = world.sub.stop_at.or(stop_at);
    }
    let asked = settle_down(world, chance);
    world.sub.stop_at = world.sub.stop_at.or(stop_at);
    if let Some(asked) = asked {
        world.later(SignedDuration::from_secs(chance.answer_s));
        world.answer(outcome(chance, asked));
        return;
    }
    let amount =
        |world: &World, period| world.book(period).open.map_or(0, |(attempt, _)| attempt.amount_minor);
    match chance.evidence {
        0..3 if world.at().open != OpenAttempt::None => {
            let asked = amount(world, world.at().period);
            world.answer(outcome(chance, asked));
        }
        3 if world.at().open == OpenAttempt::Unknown => world.review(),
        4..7 if !world.asides.is_empty() => {
            let index = chance.pick % world.asides.len();
            let asked = amount(world, world.asides[index].charge.period);
            let row = *world.at();
            if world.book(world.asides[index].charge.period).open.is_none() {
                if let Some(planned) = world.tick_aside(index) {
                    world.answer_aside(index, outcome(chance, planned.amount_minor));
                }
                return;
            }
            let decision = world.answer_aside(index, outcome(chance, asked));
            let paid_until = decision.paid_until;
            assert_eq!(*world.at(), billing_core::subscription::Progress { paid_until, ..row });
        }
        7 if world.at().state == SubscriptionState::Active && chance.pick.is_multiple_of(5) => {
            let until = chance.pick.is_multiple_of(2).then_some(world.now + SignedDuration::from_hours(50));
            world.pause(until);
        }
        7 if chance.pick.is_multiple_of(2) => world.resume(),
        7 => world.top_up(),
        _ => {}
    }
}

/// Ticks until something is sent (the amount) or nothing is to be done. Notes cannot go on without end.
fn settle_down(world: &mut World, chance: &Chance) -> Option<i64> {
    world.conditions.balance = None;
    for _ in 0..6 {
        match world.tick() {
            Triage::Send { planned, .. } => return Some(planned.amount_minor),
            Triage::Rest { .. } => return None,
            Triage::Note(_) => {}
            Triage::Probe { amount_minor, .. } => {
                // More or less than what is wanted, or no answer.
                let answer = match chance.pick % 4 {
                    0 => BalanceAnswer::Unavailable,
                    1 => BalanceAnswer::Covers {
                        asked_minor: amount_minor,
                        yes: !chance.pick.is_multiple_of(3),
                    },
                    _ => BalanceAnswer::Amount(amount_minor * chance.permille / 900),
                };
                world.conditions.balance = Some(Balance { answer, age_ms: 10 });
            }
        }
    }
    panic!("notes without end: {:?}", world.at());
}

fn starts() -> impl Strategy<Value = Date> {
    let any =
        (0..9_000_i64).prop_map(|days| date(2011, 6, 1).checked_add(jiff::Span::new().days(days)).unwrap());
    let special = prop_oneof![
        Just(date(2011, 12, 27)),
        Just(date(2026, 3, 26)),
        Just(date(2026, 10, 22)),
        Just(date(2028, 1, 31))
    ];
    prop_oneof![3 => any, 1 => special]
}

fn walk_all(rules: PlanRules, zone: &str, from: Date, id: i64, chances: &[Chance]) -> World {
    let mut world = World::of(rules, zone, from, SubscriptionId(id));
    for chance in chances {
        let (today, _) = world.zone.local(world.now);
        if today.year() > LAST_YEAR {
            break;
        }
        walk(&mut world, chance);
    }
    let moved: i64 = world.charges.values().map(|book| book.moved_minor).sum();
    assert_eq!(moved, world.moved_minor);
    for (period, book) in &world.charges {
        assert!(book.moved_minor <= book.due_minor, "{period}");
        if let Some((attempt, from)) = book.open {
            assert!(attempt.attempt_no == book.attempts && from != AttemptState::Intent);
            let blocked = world.asides.iter().any(|aside| aside.charge.period == *period)
                || world.at().period == *period;
            assert!(blocked, "an open attempt of {period} is forgotten");
        }
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_answers_breaks_a_promise(
        rules in plans(),
        zone in prop::sample::select(&ZONES[..]),
        from in starts(),
        id in 0..100_000_i64,
        chances in prop::collection::vec(chances(), 60..140),
    ) {
        walk_all(rules, zone, from, id, &chances);
    }

    #[test]
    fn no_sequence_of_answers_breaks_a_promise_of_a_richer_plan(
        rules in richer_plans(),
        zone in prop::sample::select(&ZONES[..]),
        from in starts(),
        id in 0..100_000_i64,
        chances in prop::collection::vec(chances(), 60..140),
    ) {
        walk_all(rules, zone, from, id, &chances);
    }
}

#[test]
fn walks_reach_what_they_are_meant_to_test() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let (mut sends, mut rolls, mut reviews, mut settled) = (0_i64, 0, 0, 0);
    for n in 0..60 {
        let rules = plans().new_tree(&mut runner).unwrap().current();
        let steps = prop::collection::vec(chances(), 60).new_tree(&mut runner).unwrap().current();
        let mut world =
            World::of(rules, ZONES[n % ZONES.len()], date(2026, 1, 31), SubscriptionId(64 * n as i64));
        for chance in &steps {
            if world.zone.local(world.now).0.year() > LAST_YEAR {
                break;
            }
            walk(&mut world, chance);
            reviews += i64::from(world.at().open == OpenAttempt::InReview);
        }
        sends += world.charges.values().map(|book| i64::from(book.attempts)).sum::<i64>();
        settled += world.charges.values().filter(|book| book.moved_minor == book.due_minor).count();
        rolls += world.notes.iter().filter(|note| note.aside.is_some()).count();
    }
    assert!(
        sends > 600 && rolls > 30 && reviews > 10 && settled > 200,
        "{sends} {rolls} {reviews} {settled}"
    );
}

#[test]
fn richer_walks_reach_nearly_every_rule() {
    use billing_core::reason::Rule;
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut seen = std::collections::BTreeSet::new();
    for n in 0..400_i64 {
        let rules = richer_plans().new_tree(&mut runner).unwrap().current();
        let steps = prop::collection::vec(chances(), 80).new_tree(&mut runner).unwrap().current();
        let zone = ZONES[usize::try_from(n).unwrap() % ZONES.len()];
        seen.extend(walk_all(rules, zone, date(2026, 1, 31), 64 * n, &steps).seen);
    }
    // What needs other hands than this walk's: conditions of the carrier, refunds, adoption, a thousand attempts.
    let elsewhere = [
        Rule::QUARANTINED,
        Rule::ATTEMPTS_EXHAUSTED,
        Rule::BREAKER_DEFER,
        Rule::QUOTA_DEFER,
        Rule::CAP_DEFER,
        Rule::PARKED_END,
        Rule::ADOPTED,
        Rule::REVERSED,
        Rule::REFUND_SEND,
        Rule::REFUND_DONE,
        Rule::REFUND_REFUSED,
        Rule::REFUND_UNKNOWN,
        Rule::REST_TOO_SMALL,
        Rule::ARREARS_EXPIRE,
        Rule::ZONE_MOVED,
        Rule::ANCHOR_MOVED,
        Rule::PLAN_MOVED,
        Rule::CARRIER_MOVED,
        Rule::CONSENT_ENDED,
        Rule::CONSENT_RENEWED,
        Rule::CALLBACK_TOLD,
        Rule::PEOPLE_DECIDED,
        // The engine's: tests/tests/failover.rs and files.rs.
        Rule::FAILOVER_LISTED,
        Rule::FAILOVER_DOUBTED,
        Rule::FILE_TOLD,
        Rule::ADOPT_FOUND,
    ];
    let missing: Vec<_> = Rule::ALL
        .iter()
        .filter(|rule| !seen.contains(rule) && !elsewhere.contains(rule))
        .map(|r| r.id())
        // What finds out about unknown results is no decision on a subscription: resolve/tests.rs.
        .filter(|id| !id.starts_with("resolve.") && !id.starts_with("review."))
        .collect();
    assert_eq!(missing, Vec::<&str>::new());
}
