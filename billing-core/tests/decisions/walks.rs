//! Random walks: any plan, zone and sequence of answers. `World` checks every promise at every step; here only
//! chance is made.

use billing_core::ids::SubscriptionId;
use billing_core::money::Money;
use billing_core::outcome::Outcome;
use billing_core::plan::{
    Dunning, FirstFailure, GiveUp, Ladder, Missed, PlanRules, Restart, Rounds, Settles,
};
use billing_core::schedule::{Cadence, Schedule, Weekdays, Window};
use billing_core::states::{AttemptState, SubscriptionState};
use billing_core::subscription::OpenAttempt;
use billing_core::triage::Triage;
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
        Schedule { cadence, at_minute: at.max(window.from_minute()), spread_minutes, window }
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
    if chance.stops {
        world.sub.stop_at = Some(world.now);
    }
    let asked = settle_down(world);
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
                world.tick_aside(index);
                return;
            }
            let decision = world.answer_aside(index, outcome(chance, asked));
            let paid_until = decision.paid_until;
            assert_eq!(*world.at(), billing_core::subscription::Progress { paid_until, ..row });
        }
        7 if world.at().state == SubscriptionState::Suspended => resume(world),
        _ => {}
    }
}

/// Ticks until something is sent (the amount) or nothing is to be done. Notes cannot go on without end.
fn settle_down(world: &mut World) -> Option<i64> {
    for _ in 0..4 {
        match world.tick() {
            Triage::Send { planned, .. } => return Some(planned.amount_minor),
            Triage::Rest { .. } => return None,
            Triage::Note(_) => {}
            Triage::Probe { .. } => panic!("these plans ask for no balance"),
        }
    }
    panic!("notes without end: {:?}", world.at());
}

/// A top-up: collecting goes on with the period after the one that was given up.
fn resume(world: &mut World) {
    if world.at().open != OpenAttempt::None {
        return;
    }
    let schedule = world.rules.schedule;
    let Some(period) = schedule.next_period(world.sub.anchor, world.at().period).unwrap() else { return };
    let due_at = schedule.due_at(world.sub.anchor, period, &world.zone, world.sub.id).unwrap();
    let fresh = crate::world::subscription(&world.rules, &world.zone, world.sub.anchor.date, world.sub.id);
    let paid_until = world.at().paid_until;
    let state = SubscriptionState::Active;
    world.sub.progress = billing_core::subscription::Progress {
        state,
        period,
        paid_until,
        next_at: Some(due_at),
        ..fresh.progress
    };
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_answers_breaks_a_promise(
        rules in plans(),
        zone in prop::sample::select(&ZONES[..]),
        from in starts(),
        id in 0..100_000_i64,
        chances in prop::collection::vec(chances(), 60..140),
    ) {
        let mut world = World::of(rules, zone, from, SubscriptionId(id));
        for chance in &chances {
            let (today, _) = world.zone.local(world.now);
            if today.year() > LAST_YEAR {
                break;
            }
            walk(&mut world, chance);
        }
        let moved: i64 = world.charges.values().map(|book| book.moved_minor).sum();
        prop_assert_eq!(moved, world.moved_minor);
        for (period, book) in &world.charges {
            prop_assert!(book.moved_minor <= book.due_minor, "{period}");
            if let Some((attempt, from)) = book.open {
                prop_assert!(attempt.attempt_no == book.attempts && from != AttemptState::Intent);
                let blocked = world.asides.iter().any(|aside| aside.charge.period == *period)
                    || world.at().period == *period;
                prop_assert!(blocked, "an open attempt of {period} is forgotten");
            }
        }
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
