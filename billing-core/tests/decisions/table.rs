//! Every outcome in every collecting state, from every place where an attempt can stand.

use billing_core::decide::{Decision, Facts, LaneHint, decide};
use billing_core::ids::SubscriptionId;
use billing_core::outcome::{Moved, Outcome};
use billing_core::plan::{FirstFailure, Missed, PlanRules, Restart, Settles};
use billing_core::reason::Rule;
use billing_core::states::{AttemptState, ChargeState, SubscriptionState};
use billing_core::subscription::{Held, OpenAttempt, Planned, Subscription};
use billing_core::triage::{Triage, triage};
use billing_core::zone::Zone;
use jiff::civil::date;
use jiff::{SignedDuration, Timestamp};

use crate::world::{ANSWER_WITHIN, PRICE, check_money, check_move, daily, subscription, with_ladder};

const COLLECTING: [SubscriptionState; 4] = [
    SubscriptionState::Pending,
    SubscriptionState::Active,
    SubscriptionState::Grace,
    SubscriptionState::Hold,
];

fn plans() -> Vec<PlanRules> {
    let mut plans = vec![daily()];
    for settles in [Settles::Period, Settles::Share, Settles::Amount] {
        plans.extend([Restart::Full, Restart::LastStep].map(|restart| with_ladder(settles, restart)));
    }
    plans.push(PlanRules { first_failure: FirstFailure::Cancel, missed: Missed::Skip, ..daily() });
    plans.push(PlanRules { grace_s: 86_400, ..with_ladder(Settles::Share, Restart::Full) });
    plans
}

/// A row with its attempt as the shell would hand them over: a first attempt, or the retry of a part-paid charge.
struct Case {
    sub: Subscription,
    attempt: Planned,
    now: Timestamp,
}

fn case(rules: &PlanRules, zone: &Zone, state: SubscriptionState, retry: bool) -> Case {
    let mut sub = subscription(rules, zone, date(2026, 11, 21), SubscriptionId(77));
    sub.progress.state = state;
    let mut now = sub.progress.next_at.unwrap();
    if state == SubscriptionState::Grace {
        sub.progress.state_until = Some(now + SignedDuration::from_hours(30));
    }
    if retry {
        now += SignedDuration::from_hours(4);
        sub.progress.attempt_no = 3;
        sub.progress.round = 1;
        sub.progress.collected_minor = 150;
        sub.progress.next_at = Some(now);
    }
    let Ok(Triage::Send { planned, .. }) = triage(&sub, rules, zone, now) else {
        panic!("{state:?} sends");
    };
    Case { sub, attempt: planned, now }
}

fn facts<'a>(
    case: &'a Case,
    sub: &'a Subscription,
    rules: &'a PlanRules,
    zone: &'a Zone,
    from: AttemptState,
    outcome: Outcome,
) -> Facts<'a> {
    let now = case.now + SignedDuration::from_secs(2);
    Facts {
        sub,
        rules,
        zone,
        attempt: &case.attempt,
        from,
        outcome,
        now,
        answer_within: ANSWER_WITHIN,
        held: Held::default(),
    }
}

/// architecture.md, the table of outcomes: what a first reading is recorded as.
fn recorded_as(outcome: Outcome, asked: i64) -> AttemptState {
    match outcome {
        Outcome::Charged { amount_minor } if amount_minor == asked => AttemptState::Approved,
        Outcome::Partial { amount_minor } if (1..asked).contains(&amount_minor) => AttemptState::Approved,
        Outcome::Declined(_) | Outcome::NeedsConsent => AttemptState::Declined,
        Outcome::NotSent(_) => AttemptState::NotSent,
        Outcome::Temporary { listed: true, .. } | Outcome::Fault { listed: true, .. } => {
            AttemptState::NotApplied
        }
        Outcome::Pending => AttemptState::Accepted,
        // Everything else, and every answer that contradicts a charge: nobody knows.
        _ => AttemptState::Unknown,
    }
}

fn outcomes(asked: i64) -> Vec<Outcome> {
    let mut all = Outcome::all(asked);
    for amount_minor in [-1, 0, 1, asked - 1, asked + 1, i64::MAX] {
        all.extend([Outcome::Charged { amount_minor }, Outcome::Partial { amount_minor }]);
    }
    all
}

fn for_each_case(mut check: impl FnMut(&PlanRules, &Zone, &Case)) {
    for rules in plans() {
        for zone in ["Europe/Madrid", "Pacific/Apia"] {
            let zone = Zone::named(zone).unwrap();
            for state in COLLECTING {
                for retry in [false, true] {
                    check(&rules, &zone, &case(&rules, &zone, state, retry));
                }
            }
        }
    }
}

#[test]
fn every_first_reading_is_decided() {
    let mut seen = 0;
    for_each_case(|rules, zone, case| {
        for outcome in outcomes(case.attempt.amount_minor) {
            let facts = facts(case, &case.sub, rules, zone, AttemptState::Intent, outcome);
            let decision = decide(&facts).unwrap_or_else(|error| panic!("{outcome:?}: {error}"));
            assert_eq!(decision.attempt, recorded_as(outcome, case.attempt.amount_minor), "{outcome:?}");
            check_first(&facts, &decision);
            seen += 1;
        }
    });
    assert!(seen > 5_000, "{seen}");
}

fn check_first(facts: &Facts<'_>, decision: &Decision) {
    let (before, after) = (&facts.sub.progress, &decision.progress);
    let outcome = facts.outcome;
    check_money(facts, decision);
    check_move(before.state, after.state);
    check_move(facts.from, decision.attempt);
    check_move(ChargeState::Waiting, decision.charge);
    if after.period == before.period {
        assert_eq!(after.attempt_no, facts.attempt.attempt_no, "{outcome:?}");
    } else {
        assert!(after.period > before.period && after.attempt_no == 0, "{outcome:?}");
    }
    match decision.attempt {
        AttemptState::Unknown => {
            assert_eq!(after.open, OpenAttempt::Unknown);
            // A carrier's first answer proves no absence.
            let other_operation = matches!(outcome, Outcome::Reserved | Outcome::Released | Outcome::Absent);
            assert_eq!(
                outcome.moved() == Moved::No,
                other_operation,
                "a refusal is not a doubt: {outcome:?}"
            );
            blocks_until_next_due(facts, decision);
        }
        AttemptState::Accepted => {
            assert_eq!(after.open, OpenAttempt::Accepted);
            blocks_until_next_due(facts, decision);
        }
        AttemptState::NotSent | AttemptState::NotApplied => {
            assert_eq!(after.open, OpenAttempt::None);
            assert_eq!((after.round, after.step), (before.round, before.step), "costs no round: {outcome:?}");
            assert_eq!(after.state, before.state, "costs no standing: {outcome:?}");
            assert_eq!(decision.event, None);
        }
        _ => assert_eq!(after.open, OpenAttempt::None, "{outcome:?}"),
    }
    let expected_lane = match outcome {
        Outcome::Temporary { listed: true, .. } => LaneHint::SlowDown(1_000),
        Outcome::Fault { listed: true, .. } => LaneHint::Pause,
        _ => LaneHint::None,
    };
    assert_eq!(decision.lane, expected_lane, "{outcome:?}");
}

/// No instant before the next period's due gives another attempt of the same charge.
fn blocks_until_next_due(facts: &Facts<'_>, decision: &Decision) {
    let schedule = &facts.rules.schedule;
    let mut sub = facts.sub.clone();
    sub.progress = decision.progress;
    let next = schedule.next_period(sub.anchor, sub.progress.period, facts.zone).unwrap().unwrap();
    let due = schedule.due_at(sub.anchor, next, facts.zone, sub.id).unwrap();
    let accepted = sub.progress.open == OpenAttempt::Accepted;
    let last = due - SignedDuration::from_secs(1);
    let instants = (0..48).map(|half| facts.now + SignedDuration::from_mins(30 * half));
    for now in instants.filter(|at| *at < due).chain([last]) {
        match triage(&sub, facts.rules, facts.zone, now).unwrap() {
            Triage::Rest { rule } => assert_eq!(rule, Rule::OPEN_BLOCKS),
            Triage::Note(note) if accepted => {
                assert_eq!(note.rule, Rule::DEADLINE_PASSED);
                assert_eq!(note.progress.open, OpenAttempt::Unknown);
            }
            other => panic!("{:?} at {now}: {other:?}", facts.outcome),
        }
    }
    let Ok(Triage::Note(note)) = triage(&sub, facts.rules, facts.zone, due) else {
        panic!("the next period starts beside it");
    };
    assert_eq!(note.rule, Rule::PERIOD_ROLL);
    assert_eq!((note.progress.period, note.progress.open), (next, OpenAttempt::None));
    assert_eq!(note.aside.map(|aside| aside.open), Some(sub.progress.open));
    assert_eq!(note.progress.state, sub.progress.state, "an open attempt does not worsen the state");
}

#[test]
fn later_evidence_settles_only_what_it_proves() {
    let later = [
        (AttemptState::Accepted, OpenAttempt::Accepted),
        (AttemptState::Unknown, OpenAttempt::Unknown),
        (AttemptState::InReview, OpenAttempt::InReview),
    ];
    for_each_case(|rules, zone, case| {
        for (from, open) in later {
            let mut sub = case.sub.clone();
            sub.progress.attempt_no = case.attempt.attempt_no;
            sub.progress.open = open;
            for outcome in outcomes(case.attempt.amount_minor) {
                let facts = facts(case, &sub, rules, zone, from, outcome);
                let decision = decide(&facts).unwrap_or_else(|error| panic!("{from:?} {outcome:?}: {error}"));
                check_money(&facts, &decision);
                check_move(from, decision.attempt);
                let expected = match recorded_as(outcome, case.attempt.amount_minor) {
                    _ if outcome == Outcome::Absent => AttemptState::NotApplied,
                    proven @ (AttemptState::Approved | AttemptState::Declined) => proven,
                    AttemptState::Accepted => from,
                    _ if from == AttemptState::InReview => from,
                    _ => AttemptState::Unknown,
                };
                assert_eq!(decision.attempt, expected, "{from:?} {outcome:?}");
                if !expected.is_final() {
                    assert_ne!(decision.progress.open, OpenAttempt::None, "{from:?} {outcome:?}");
                    assert_eq!(decision.progress.state, sub.progress.state);
                }
            }
        }
    });
}

#[test]
fn every_outcome_is_decided_for_what_no_longer_collects() {
    let stopped = [
        SubscriptionState::Cancelled,
        SubscriptionState::Suspended,
        SubscriptionState::Paused,
        SubscriptionState::Ended,
    ];
    for_each_case(|rules, zone, case| {
        for state in stopped {
            let mut sub = case.sub.clone();
            sub.progress.state = state;
            for from in [AttemptState::Intent, AttemptState::Unknown] {
                sub.progress.attempt_no = case.attempt.attempt_no;
                for outcome in outcomes(case.attempt.amount_minor) {
                    let facts = facts(case, &sub, rules, zone, from, outcome);
                    let decision = decide(&facts).unwrap_or_else(|error| panic!("{outcome:?}: {error}"));
                    check_money(&facts, &decision);
                    assert_eq!(decision.progress.state, state, "{outcome:?} revives nothing");
                    let waits = decision.attempt == AttemptState::Accepted;
                    assert_eq!(decision.progress.next_at.is_some(), waits, "{outcome:?}");
                    assert!(
                        decision.event.is_none_or(|event| (event as i16) < 7),
                        "{outcome:?} announces the end a second time"
                    );
                }
            }
        }
    });
}

#[test]
fn an_outcome_of_another_charge_or_attempt_is_refused() {
    let zone = Zone::named("Europe/Madrid").unwrap();
    let rules = daily();
    let case = case(&rules, &zone, SubscriptionState::Active, false);
    let charged = Outcome::Charged { amount_minor: PRICE };
    let refused = |change: &dyn Fn(&mut Subscription), from| {
        let mut sub = case.sub.clone();
        sub.progress.attempt_no = 1;
        change(&mut sub);
        decide(&facts(&case, &sub, &rules, &zone, from, charged)).is_err()
    };
    let next = rules.schedule.next_period(case.sub.anchor, case.sub.progress.period, &zone).unwrap().unwrap();
    assert!(!refused(&|_| {}, AttemptState::Unknown));
    assert!(!refused(&|sub| sub.progress.attempt_no = 0, AttemptState::Intent));
    assert!(refused(&|sub| sub.progress.attempt_no = 0, AttemptState::Unknown));
    assert!(refused(&|sub| sub.progress.attempt_no = 2, AttemptState::Unknown));
    assert!(refused(&|sub| sub.progress.period = next, AttemptState::Unknown));
    assert!(refused(&|sub| sub.progress.collected_minor = 1, AttemptState::Unknown), "never above due");
    assert!(refused(&|_| {}, AttemptState::Approved), "finals are absorbing");
}
