//! What a decision costs: nanoseconds per call of `triage` and `decide` on the plain daily plan, and on a few others.
//!
//! `cargo run --release -p loadtest --example core-bench`
//!
//! Instructions rather than time, which do not depend on what else the machine does:
//! `valgrind --tool=callgrind --callgrind-out-file=calls.out target/release/examples/core-bench 200`, then
//! `callgrind_annotate --inclusive=yes calls.out | grep -E 'per_call|triage_with|decide::decide'`; each figure divided by
//! the calls that it stands for (200 calls, 5 rounds). `docs/measurements.md` keeps them.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::hint::black_box;
use std::time::Instant;

use billing_core::book::CarrierSummary;
use billing_core::book::plan::read_plan;
use billing_core::book::reader::{Problems, Source};
use billing_core::decide::{Facts, decide};
use billing_core::ids::{RefSeed, SubscriptionId};
use billing_core::money::Currency;
use billing_core::outcome::{Outcome, Refusal};
use billing_core::plan::PlanRules;
use billing_core::schedule::Anchor;
use billing_core::states::{AttemptState, SubscriptionState};
use billing_core::subscription::{Held, Progress, Subscription};
use billing_core::triage::{Triage, triage};
use billing_core::zone::Zone;
use jiff::SignedDuration;

/// Calls of a round, unless the first argument says otherwise.
const CALLS: u32 = 400_000;
const ROUNDS: usize = 5;

fn plan(extra: &str) -> PlanRules {
    let text = format!(
        "merchant = \"m\"\nservice = \"s\"\ncarrier = \"c\"\ntext = \"t\"\nprice = \"0.500 TND\"\n[schedule]\n\
         every = \"day\"\nat = \"06:00\"\nwindow = [\"06:00\", \"22:00\"]\n[lifecycle]\nlate_approved = \"past\"\n{extra}"
    );
    let source = Source { file: "plans/bench.toml".into(), text };
    let currency = Currency::from_code("TND").unwrap();
    let carrier = CarrierSummary {
        price_points: Vec::new(),
        tariffs: Vec::new(),
        fee_returned: false,
        final_deadline_s: 86_400,
        id: "c".into(),
        country: "XX".into(),
        calendar: billing_core::calendar::CalendarRules::default(),
        currency,
        min_minor: 1,
        max_minor: 1_000_000,
        zones: Vec::new(),
    };
    let mut problems = Problems::default();
    let rules = read_plan(&source, &[carrier], &[], &mut problems);
    assert!(problems.is_empty(), "{problems}");
    rules.unwrap()
}

fn main() {
    for zone in ["Africa/Tunis", "Europe/Madrid", "America/Sao_Paulo"] {
        measure("plain daily", &plan(""), zone);
    }
    let rich = "[ladder]\nsteps = [\"60%\", \"20%\"]\nsettles = \"share\"\n[dunning]\n\
                no_funds = { rounds = [\"1h\", \"2h\"], jitter = \"10%\", hours = [\"08:00\", \"20:00\"], then = \"next_period\" }\n\
                budget = { day = 9, period = 20 }\n[defer]\nmax = 5\nshelf_life = \"20h\"\n";
    measure("ladder, jitter, budget, shelf life", &plan(rich), "Europe/Madrid");
}

fn measure(name: &str, rules: &PlanRules, zone: &str) {
    let zone = Zone::named(zone).unwrap();
    let id = SubscriptionId(77 << 6);
    let date = jiff::civil::date(2026, 11, 20);
    let anchor = Anchor::new(date, rules.schedule.anchor_minute(id));
    let period = rules.schedule.first_period(anchor, date, &zone).unwrap().unwrap();
    let due = rules.schedule.due_at(anchor, period, &zone, id).unwrap();
    let progress = Progress::fresh(SubscriptionState::Active, period, rules.price.minor, Some(due));
    let sub = Subscription {
        id,
        subscriber_id: 1,
        ref_seed: RefSeed(7),
        plan_no: 1,
        stop_at: None,
        rev: 0,
        flags: 0,
        anchor,
        progress,
    };
    let Ok(Triage::Send { planned, .. }) = triage(&sub, rules, &zone, due) else { panic!("it is due") };
    let facts = |outcome| Facts {
        sub: &sub,
        rules,
        zone: &zone,
        attempt: &planned,
        from: AttemptState::Intent,
        outcome,
        now: due + SignedDuration::from_secs(1),
        answer_within: SignedDuration::from_hours(24),
        held: Held::default(),
    };
    let charged = facts(Outcome::Charged { amount_minor: planned.amount_minor });
    let refused = facts(Outcome::Declined(Refusal::NoFunds));
    println!("{name}, {}", zone.name());
    println!("  triage, due      {:>6} ns", per_call(|| triage(black_box(&sub), rules, &zone, due)));
    println!("  decide, charged  {:>6} ns", per_call(|| decide(black_box(&charged))));
    println!("  decide, no funds {:>6} ns", per_call(|| decide(black_box(&refused))));
}

/// Nanoseconds per call in the fastest of a few rounds.
fn per_call<T>(mut call: impl FnMut() -> T) -> u128 {
    let calls = std::env::args().nth(1).and_then(|calls| calls.parse().ok()).unwrap_or(CALLS).max(1);
    let round = |_| {
        let begun = Instant::now();
        for _ in 0..calls {
            black_box(call());
        }
        begun.elapsed().as_nanos() / u128::from(calls)
    };
    (0..ROUNDS).map(round).min().unwrap_or(0)
}
