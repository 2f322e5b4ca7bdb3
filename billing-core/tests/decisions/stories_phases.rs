//! Stories of two phases, balances, deferrals, trials, pauses and top-ups.

use billing_core::decide::Event;
use billing_core::entitlement::has_access;
use billing_core::outcome::{Hindrance, NotSentProof, Op, Outcome, Refusal};
use billing_core::plan::{
    BalanceCheck, BalanceWhen, Budget, Choice, Defer, Expired, GiveUp, Lifecycle, Payday, PlanRules, Reserve,
    Restart, Settles,
};
use billing_core::reason::{Input, Rule};
use billing_core::schedule::{Cadence, Schedule, Wait};
use billing_core::states::{AttemptState, ChargeState, SubscriptionState};
use billing_core::subscription::{NextKind, OpenAttempt};
use billing_core::triage::{Balance, BalanceAnswer, Conditions, NoteKind, Triage};
use jiff::SignedDuration;
use jiff::civil::date;

use crate::world::{LOST, NO_FUNDS, PRICE, World, daily, with_ladder};

const MADRID: &str = "Europe/Madrid";
const HOUR: SignedDuration = SignedDuration::from_hours(1);

fn in_full(asked: i64) -> Outcome {
    Outcome::Charged { amount_minor: asked }
}

fn reserving(expired: Expired) -> PlanRules {
    let reserve = Reserve { valid_s: 7_200, confirm_after_s: 1_800, expired };
    PlanRules { reserve: Some(reserve), ..daily() }
}

fn with_reservation(expired: Expired) -> World {
    let mut world = World::new(reserving(expired), MADRID, date(2026, 11, 20));
    let (planned, rule) = world.next_send();
    assert_eq!((planned.op, rule), (Op::Reserve, Rule::DUE_SEND));
    let decision = world.answer(Outcome::Reserved);
    assert_eq!((decision.attempt, decision.charge), (AttemptState::Reserved, ChargeState::Reserved));
    assert_eq!((decision.legs, decision.grant), ([None, None], None), "no transfer before the confirm");
    assert_eq!(decision.event, Some(Event::ChargeReserved));
    world
}

#[test]
fn what_is_set_aside_is_collected_after_delivery() {
    let mut world = with_reservation(Expired::Released);
    let (planned, rule) = world.next_send();
    assert_eq!(
        (planned.op, planned.parent_no, planned.attempt_no, rule),
        (Op::Confirm, 1, 2, Rule::CONFIRM_SEND)
    );
    assert_eq!(world.local(), "2026-11-20 06:30");
    // Not sent: the reservation stands.
    world.answer(Outcome::NotSent(NotSentProof::Connect));
    let (planned, _) = world.next_send();
    assert_eq!((planned.op, planned.attempt_no), (Op::Confirm, 3));
    let decision = world.answer(in_full(PRICE));
    assert_eq!((decision.rule, decision.charge), (Rule::SETTLE_FULL, ChargeState::Settled));
    assert_eq!((world.at().reserved, world.at().state), (None, SubscriptionState::Active));
}

#[test]
fn a_lost_confirm_blocks_and_proven_absence_confirms_again() {
    let mut world = with_reservation(Expired::Released);
    world.next_send();
    let decision = world.answer(LOST);
    assert_eq!((decision.attempt, decision.charge), (AttemptState::Unknown, ChargeState::Waiting));
    assert_eq!(world.later(HOUR).tick(), Triage::Rest { rule: Rule::OPEN_BLOCKS });
    let decision = world.answer(Outcome::Absent);
    assert_eq!((decision.rule, decision.charge), (Rule::ABSENT_AGAIN, ChargeState::Reserved));
    assert_eq!(world.next_send().0.op, Op::Confirm);
}

#[test]
fn a_stop_gives_back_what_is_set_aside() {
    let mut world = with_reservation(Expired::Released);
    world.sub.stop_at = Some(world.now);
    let Triage::Note(note) = world.tick() else { panic!("stop is recorded") };
    assert_eq!((note.kind, note.charge_state), (NoteKind::Cancel, ChargeState::Reserved));
    assert_eq!(note.state_event, Some(Event::SubscriptionCancelled));
    let (planned, rule) = world.next_send();
    assert_eq!((planned.op, planned.parent_no, rule), (Op::Cancel, 1, Rule::CANCEL_SEND));
    let decision = world.answer(Outcome::Released);
    assert_eq!((decision.attempt, decision.charge), (AttemptState::Released, ChargeState::Cancelled));
    assert_eq!((world.at().reserved, world.at().next_at), (None, None));

    // The stop came while the reservation was on its way.
    let mut world = World::new(reserving(Expired::Released), MADRID, date(2026, 11, 20));
    world.next_send();
    world.sub.stop_at = Some(world.now);
    let decision = world.answer(Outcome::Reserved);
    assert_eq!((decision.rule, decision.stop), (Rule::RESERVED_WAIT, Some(Rule::STOP_WITH_OUTCOME)));
    assert_eq!(decision.state_event, Some(Event::SubscriptionCancelled));
    assert_eq!(world.next_send().0.op, Op::Cancel);
}

#[test]
fn an_expired_reservation_is_what_the_carrier_declares() {
    let mut world = with_reservation(Expired::Released);
    world.later(HOUR * 3);
    let Triage::Note(note) = world.tick() else { panic!("it ran out") };
    assert_eq!((note.kind, note.rule), (NoteKind::Lapse, Rule::RESERVATION_EXPIRED));
    assert_eq!(world.next_send().0.op, Op::Reserve);

    let mut world = with_reservation(Expired::Cancel);
    world.later(HOUR * 3);
    assert_eq!(world.next_send().0.op, Op::Cancel);
    let decision = world.answer(Outcome::Released);
    assert_eq!((decision.rule, decision.charge), (Rule::RESERVATION_RELEASED, ChargeState::Open));
    assert_eq!(world.next_send().0.op, Op::Reserve);
}

#[test]
fn a_refused_confirm_loses_its_reservation_and_goes_on_with_the_rounds() {
    let mut world = with_reservation(Expired::Released);
    world.next_send();
    let decision = world.answer(NO_FUNDS);
    assert_eq!((decision.rule, world.at().reserved), (Rule::CONFIRM_REFUSED, None));
    assert_eq!(world.next_send().0.op, Op::Reserve);
}

#[test]
fn a_refused_cancel_is_asked_again_until_the_reservation_is_gone() {
    let mut world = with_reservation(Expired::Cancel);
    world.later(HOUR);
    world.sub.stop_at = Some(world.now);
    world.tick();
    for _ in 0..3 {
        assert_eq!(world.next_send().0.op, Op::Cancel);
        let decision = world.answer(Outcome::Declined(Refusal::NotAllowed));
        assert_eq!((decision.rule, decision.charge), (Rule::CANCEL_REFUSED, ChargeState::Reserved));
    }
    world.later(HOUR);
    world.next_send();
    let decision = world.answer(Outcome::Declined(Refusal::NotAllowed));
    assert_eq!((decision.charge, world.at().reserved), (ChargeState::Cancelled, None));
}

fn with_balance(when: BalanceWhen, rules: PlanRules) -> PlanRules {
    PlanRules { balance: Some(BalanceCheck { when, valid_ms: 60_000, recheck_s: 7_200 }), ..rules }
}

fn knows(world: &mut World, answer: BalanceAnswer, age_ms: i64) {
    world.conditions = Conditions { balance: Some(Balance { answer, age_ms }), ..Conditions::default() };
}

#[test]
fn the_balance_chooses_the_step_or_asks_to_wait() {
    let mut rules = with_balance(BalanceWhen::Always, with_ladder(Settles::Share, Restart::Full));
    let mut descending = World::new(rules.clone(), MADRID, date(2026, 11, 20));
    knows(&mut descending, BalanceAnswer::Amount(100), 10);
    assert_eq!(descending.next_send().0.amount_minor, PRICE, "one step after the other");
    rules.ladder.as_mut().unwrap().choice = Choice::Balance;
    let world = World::new(rules, MADRID, date(2026, 11, 20));
    let probe = Triage::Probe { amount_minor: PRICE, rule: Rule::BALANCE_PROBE };
    assert_eq!(world.clone().tick(), probe);
    let mut stale = world.clone();
    knows(&mut stale, BalanceAnswer::Amount(PRICE), 60_000);
    assert_eq!(stale.tick(), probe, "an old answer is none");
    let covers = |asked_minor, yes| BalanceAnswer::Covers { asked_minor, yes };
    for (answer, amount, step, rule) in [
        (BalanceAnswer::Amount(9_999), PRICE, 0, Rule::DUE_SEND),
        (BalanceAnswer::Amount(499), 300, 1, Rule::BALANCE_SEND),
        (BalanceAnswer::Amount(100), 100, 2, Rule::BALANCE_SEND),
        (covers(PRICE, true), PRICE, 0, Rule::DUE_SEND),
        (covers(PRICE, false), 300, 1, Rule::BALANCE_SEND),
        (BalanceAnswer::Unavailable, PRICE, 0, Rule::DUE_SEND),
    ] {
        let mut world = world.clone();
        knows(&mut world, answer, 10);
        let (planned, by) = world.next_send();
        assert_eq!((planned.amount_minor, planned.step, by), (amount, step, rule), "{answer:?}");
    }
    let mut poor = world;
    knows(&mut poor, BalanceAnswer::Amount(99), 10);
    let Triage::Note(note) = poor.tick() else { panic!("it waits") };
    assert_eq!((note.kind, note.rule), (NoteKind::Defer, Rule::BALANCE_DEFER));
    assert_eq!(note.inputs.get(Input::BalanceMinor), Some(99));
    assert_eq!((poor.at().attempt_no, poor.at().deferrals, poor.at().round), (0, 1, 0));
}

#[test]
fn the_balance_is_asked_for_only_after_a_refusal_where_the_plan_says_so() {
    let rules = with_balance(BalanceWhen::AfterRefusal, daily());
    let mut world = World::active(rules, MADRID, date(2026, 11, 20));
    world.charge(|_| NO_FUNDS);
    world.until_next();
    assert_eq!(world.tick(), Triage::Probe { amount_minor: PRICE, rule: Rule::BALANCE_PROBE });
}

#[test]
fn a_charge_waits_for_a_better_moment_as_often_as_its_plan_allows() {
    for (set, rule) in [(true, Rule::BREAKER_DEFER), (false, Rule::QUOTA_DEFER)] {
        let rules = PlanRules { defer: Defer { max: 2, ..Defer::default() }, ..daily() };
        let mut world = World::active(rules, MADRID, date(2026, 11, 20));
        world.until_next();
        for n in 1..=3 {
            let until = Some(world.now + HOUR);
            world.conditions = match set {
                true => Conditions { breaker_until: until, ..Conditions::default() },
                false => Conditions { quota_until: until, ..Conditions::default() },
            };
            let Triage::Note(note) = world.tick() else { panic!("it waits") };
            if n == 3 {
                assert_eq!((note.kind, note.rule), (NoteKind::Expire, Rule::DEFERRALS_EXHAUSTED));
                assert_eq!(note.event, Some(Event::ChargeExpired));
                continue;
            }
            assert_eq!((note.kind, note.rule, note.until), (NoteKind::Defer, rule, until));
            assert_eq!((world.at().deferrals, world.at().attempt_no), (n, 0));
            world.until_next();
        }
        assert_eq!(world.at().period.to_string(), "20261122");
    }
}

#[test]
fn caps_and_the_days_budget_move_a_charge_to_the_next_day() {
    let schedule = Schedule { cadence: Cadence::Months(1), ..daily().schedule };
    let monthly = PlanRules { schedule, ..daily() };
    let mut world = World::active(monthly.clone(), MADRID, date(2026, 11, 1));
    world.until_next();
    world.conditions.cap_left_minor = Some(PRICE - 1);
    let Triage::Note(note) = world.tick() else { panic!("the cap is reached") };
    assert_eq!(note.rule, Rule::CAP_DEFER);
    assert_eq!(world.zone.local(note.until.unwrap()), (date(2026, 12, 2), 0));

    let budget = Budget { day_max: 2, period_max: 3, ..Budget::default() };
    let mut rules =
        PlanRules { dunning: billing_core::plan::Dunning { budget, ..monthly.dunning.clone() }, ..monthly };
    rules.dunning.no_funds.delays_s = vec![3_600; 10];
    let mut world = World::active(rules, MADRID, date(2026, 11, 1));
    let mut sent = Vec::new();
    for _ in 0..3 {
        let rule = world.charge(|_| NO_FUNDS).rule;
        sent.push((world.local(), rule));
    }
    let expected = [
        ("2026-12-01 06:00", Rule::ROUND_NEXT),
        ("2026-12-01 07:00", Rule::ROUND_NEXT),
        ("2026-12-02 00:00", Rule::BUDGET_EXHAUSTED),
    ];
    assert_eq!(sent, expected.map(|(at, rule)| (at.to_owned(), rule)));
}

#[test]
fn throttling_costs_no_request_of_the_budget() {
    let budget = Budget { period_max: 1, ..Budget::default() };
    let mut rules = daily();
    rules.dunning.budget = budget;
    let mut world = World::active(rules, MADRID, date(2026, 11, 20));
    for _ in 0..5 {
        world.charge(|_| Outcome::Temporary { why: Hindrance::Throttled, listed: true, after_ms: None });
    }
    assert_eq!((world.at().tries, world.at().attempt_no), (0, 5));
    assert_eq!(world.charge(|_| NO_FUNDS).rule, Rule::BUDGET_EXHAUSTED);
}

#[test]
fn a_refused_charge_waits_for_payday_and_a_new_one_does_not() {
    let schedule = Schedule { cadence: Cadence::Months(1), ..daily().schedule };
    let payday = Payday { days: 1 << 25 | 1, within_days: 7 };
    let defer = Defer { payday: Some(payday), ..Defer::default() };
    let mut world = World::active(PlanRules { schedule, defer, ..daily() }, MADRID, date(2026, 10, 20));
    world.next_send();
    assert_eq!(world.local(), "2026-11-20 06:00");
    world.answer(NO_FUNDS);
    world.until_next();
    let Triage::Note(note) = world.tick() else { panic!("payday is near") };
    assert_eq!(note.rule, Rule::PAYDAY_DEFER);
    world.next_send();
    assert_eq!(world.local(), "2026-11-25 00:00");
}

#[test]
fn a_charge_has_a_shelf_life() {
    let schedule = Schedule { cadence: Cadence::Months(1), ..daily().schedule };
    let defer = Defer { shelf_life_s: 3 * 3_600, ..Defer::default() };
    let mut world = World::active(PlanRules { schedule, defer, ..daily() }, MADRID, date(2026, 10, 20));
    world.charge(|_| NO_FUNDS);
    world.until_next();
    let Triage::Note(note) = world.tick() else { panic!("it is too old") };
    assert_eq!(
        (note.kind, note.rule, note.charge_state),
        (NoteKind::Expire, Rule::SHELF_EXPIRE, ChargeState::Expired)
    );
    assert_eq!(world.at().period.to_string(), "20261220");
}

fn living(lifecycle: Lifecycle) -> PlanRules {
    PlanRules { lifecycle, ..daily() }
}

#[test]
fn a_trial_gives_access_and_the_first_charge_falls_due_when_it_ends() {
    let mut rules = daily();
    rules.schedule.wait = Wait::Trial(7);
    let mut world = World::new(rules, MADRID, date(2026, 11, 27));
    let due_at = world.at().next_at.unwrap();
    world.now = due_at - HOUR * 24 * 7;
    assert_eq!((world.at().state, world.at().state_until), (SubscriptionState::Trial, Some(due_at)));
    assert!(has_access(world.at(), &world.rules, world.now));
    assert_eq!(world.tick(), Triage::Rest { rule: Rule::NOT_COLLECTING });
    let (planned, rule) = world.next_send();
    assert_eq!((planned.attempt_no, rule, world.local().as_str()), (1, Rule::DUE_SEND, "2026-11-27 06:00"));
    assert_eq!(planned.period.to_string(), "20261127");
    assert_eq!(world.answer(in_full(PRICE)).charge, ChargeState::Settled);
    assert!(has_access(world.at(), &world.rules, world.now));
}

#[test]
fn what_is_parked_begins_when_its_time_comes() {
    let mut world = World::new(daily(), MADRID, date(2026, 11, 20));
    let until = world.now + HOUR * 240;
    let at = &mut world.sub.progress;
    (at.state, at.state_until) = (SubscriptionState::Parked, Some(until));
    (at.next_at, at.next_kind) = (Some(until), NextKind::StateEnd);
    assert!(!has_access(world.at(), &world.rules, world.now));
    world.next_send();
    assert_eq!(
        (world.local().as_str(), world.at().period.to_string().as_str()),
        ("2026-11-30 06:00", "20261130")
    );
    assert!(world.seen.contains(&Rule::PARKED_END));
}

#[test]
fn a_pause_charges_nothing_and_resuming_goes_on_with_the_running_period() {
    for keeps in [true, false] {
        let rules = living(Lifecycle { pause_keeps_access: keeps, ..Lifecycle::default() });
        let mut world = World::active(rules, MADRID, date(2026, 11, 20));
        let until = world.now + HOUR * 80;
        world.pause(Some(until));
        assert_eq!((world.at().state, world.at().next_kind), (SubscriptionState::Paused, NextKind::StateEnd));
        assert_eq!(has_access(world.at(), &world.rules, world.now), keeps);
        let (planned, _) = world.next_send();
        assert_eq!(
            (world.local().as_str(), planned.period.to_string().as_str()),
            ("2026-11-23 14:00", "20261123")
        );
        let note = world.notes.last().unwrap();
        assert_eq!((note.rule, note.charge_state), (Rule::RESUMED, ChargeState::Skipped));
        let passed = note.passed[0];
        assert_eq!(
            (passed.first.to_string().as_str(), passed.before.unwrap().to_string().as_str()),
            ("20261122", "20261123")
        );
    }
    let mut world = World::active(daily(), MADRID, date(2026, 11, 20));
    world.next_send();
    world.answer(LOST);
    world.pause(None);
    assert_eq!(
        (world.at().state, world.at().open),
        (SubscriptionState::Active, OpenAttempt::Unknown),
        "not now"
    );
}

#[test]
fn a_top_up_makes_an_overdue_charge_due_at_once_and_only_once() {
    let rules = living(Lifecycle { snap: true, ..Lifecycle::default() });
    let mut world = World::active(rules, MADRID, date(2026, 11, 20));
    world.top_up();
    assert!(world.notes.is_empty(), "nothing is overdue");
    world.charge(|_| NO_FUNDS);
    world.later(HOUR);
    world.top_up();
    assert_eq!(world.notes.last().unwrap().rule, Rule::TOP_UP_SNAP);
    let (planned, _) = world.next_send();
    assert_eq!((world.local().as_str(), planned.round), ("2026-11-21 07:00", 1));
    world.answer(NO_FUNDS);
    let late = world.now - HOUR * 2;
    let seen = billing_core::triage::top_up(&world.sub, &world.rules, &world.zone, world.now, late);
    assert_eq!(seen, Ok(None), "an older notice that comes late says nothing new");
}

#[test]
fn a_top_up_resumes_what_was_suspended_where_the_plan_says_so() {
    for resumes in [true, false] {
        let mut rules = living(Lifecycle { top_up_resumes: resumes, ..Lifecycle::default() });
        rules.dunning.no_funds.then = GiveUp::Suspend;
        let mut world = World::active(rules, MADRID, date(2026, 11, 20));
        for _ in 0..3 {
            world.charge(|_| NO_FUNDS);
        }
        assert_eq!(world.at().state, SubscriptionState::Suspended);
        world.later(HOUR * 50);
        world.top_up();
        if !resumes {
            assert_eq!(world.at().state, SubscriptionState::Suspended);
            continue;
        }
        let (planned, _) = world.next_send();
        assert_eq!((planned.period.to_string().as_str(), planned.attempt_no), ("20261123", 1));
    }
}

#[test]
fn a_charge_paid_late_moves_the_billing_cycle() {
    let schedule = Schedule { cadence: Cadence::Months(1), ..daily().schedule };
    let lifecycle = Lifecycle { reset_from_round: 1, ..Lifecycle::default() };
    let mut rules = PlanRules { schedule, lifecycle, ..daily() };
    rules.dunning.no_funds.delays_s = vec![5 * 86_400, 86_400];
    let mut world = World::active(rules, MADRID, date(2026, 10, 20));
    world.charge(|_| NO_FUNDS);
    let decision = world.charge(in_full);
    assert_eq!((decision.rule, world.local().as_str()), (Rule::CYCLE_RESET, "2026-11-25 06:00"));
    assert_eq!(decision.anchor.unwrap().date, date(2026, 11, 25));
    world.next_send();
    assert_eq!(world.local(), "2026-12-25 06:00");
    // On time it stays where it is.
    assert_eq!(world.answer(in_full(PRICE)).anchor, None);
}

#[test]
fn consent_that_ends_rests_and_its_renewal_charges_nothing_that_passed() {
    use billing_core::triage::{consent_ended, resume};
    let mut world = World::active(daily(), MADRID, date(2026, 11, 20));
    let ended = world.now + HOUR;
    assert_eq!(consent_ended(&world.sub, ended, world.now), Ok(None), "nothing is due yet");
    world.until_next();
    let note = consent_ended(&world.sub, ended, world.now).unwrap().unwrap();
    assert_eq!((note.rule, note.charge_state), (Rule::CONSENT_ENDED, ChargeState::Open));
    assert_eq!(note.inputs.get(Input::StopMs), Some(ended.as_millisecond()));
    world.apply_note(&note);
    assert_eq!((world.at().state, world.at().next_at), (SubscriptionState::Suspended, None));
    // Renewed the same day: that day is charged. Renewed later: the one that runs then.
    let mut soon = world.clone();
    soon.later(HOUR);
    let note = resume(&soon.sub, &soon.rules, &soon.zone, soon.now).unwrap().unwrap();
    soon.apply_note(&note);
    let (planned, _) = soon.next_send();
    assert_eq!((planned.period.to_string().as_str(), planned.attempt_no), ("20261121", 1));
    world.later(HOUR * 50);
    let note = resume(&world.sub, &world.rules, &world.zone, world.now).unwrap().unwrap();
    assert_eq!(note.charge_state, ChargeState::Skipped);
    world.apply_note(&note);
    assert_eq!(world.next_send().0.period.to_string(), "20261123");
    // What was tried is given up; what is open stays open.
    world.answer(NO_FUNDS);
    world.until_next();
    let note = consent_ended(&world.sub, ended, world.now).unwrap().unwrap();
    assert_eq!(note.charge_state, ChargeState::WrittenOff);
    world.next_send();
    world.answer(LOST);
    world.until_next();
    assert_eq!(consent_ended(&world.sub, ended, world.now), Ok(None));
}
