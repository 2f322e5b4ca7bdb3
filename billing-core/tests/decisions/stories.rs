//! Stories of one subscription: what is asked, what is answered, what follows.

use billing_core::decide::{Event, LaneHint};
use billing_core::outcome::{Fault, Hindrance, NotSentProof, Outcome, Refusal};
use billing_core::plan::{Dunning, FirstFailure, GiveUp, PlanRules, Restart, Rounds, Settles};
use billing_core::reason::Rule;
use billing_core::schedule::{Cadence, Schedule};
use billing_core::states::{ChargeState, SubscriptionState};
use billing_core::subscription::{FLAG_QUARANTINED, NextKind};
use billing_core::triage::{NoteKind, Triage};
use jiff::SignedDuration;
use jiff::civil::date;

use crate::world::{NO_FUNDS, PRICE, World, daily, with_ladder};

const MADRID: &str = "Europe/Madrid";

fn in_full(asked: i64) -> Outcome {
    Outcome::Charged { amount_minor: asked }
}

fn no_funds(_: i64) -> Outcome {
    NO_FUNDS
}

fn then(give_up: GiveUp) -> PlanRules {
    let dunning = daily().dunning;
    let no_funds = Rounds { then: give_up, ..dunning.no_funds.clone() };
    PlanRules { dunning: Dunning { no_funds, ..dunning }, ..daily() }
}

#[test]
fn the_ladder_steps_down_within_one_round_and_buys_a_share() {
    let rules = with_ladder(Settles::Share, Restart::Full);
    let mut world = World::active(rules, MADRID, date(2026, 11, 20));
    let mut asked = Vec::new();
    for _ in 0..2 {
        let (planned, rule) = world.next_send();
        asked.push((planned.amount_minor, planned.attempt_no, planned.round, planned.step, rule));
        let decision = world.answer(NO_FUNDS);
        assert_eq!((decision.rule, decision.event), (Rule::LADDER_NEXT, None));
        world.later(SignedDuration::from_secs(1));
    }
    let (planned, rule) = world.next_send();
    asked.push((planned.amount_minor, planned.attempt_no, planned.round, planned.step, rule));
    assert_eq!(
        asked,
        [
            (500, 1, 0, 0, Rule::DUE_SEND),
            (300, 2, 0, 1, Rule::LADDER_SEND),
            (100, 3, 0, 2, Rule::LADDER_SEND)
        ]
    );
    let decision = world.answer(in_full(100));
    assert_eq!(
        (decision.charge, decision.rule, decision.event),
        (ChargeState::Reduced, Rule::SETTLE_SHARE, Some(Event::ChargeReduced))
    );
    // 1.00 of 5.00 buys a fifth of the day.
    let grant = decision.grant.unwrap();
    assert_eq!(grant.until.unwrap().duration_since(grant.from), SignedDuration::from_mins(24 * 60 / 5));
    let (planned, _) = world.next_send();
    assert_eq!((planned.amount_minor, planned.attempt_no, planned.step), (PRICE, 1, 0));
    assert_eq!(world.local(), "2026-11-22 06:00");
}

#[test]
fn a_smaller_price_can_buy_the_whole_period() {
    let mut world = World::active(with_ladder(Settles::Period, Restart::Full), MADRID, date(2026, 11, 20));
    world.charge(no_funds);
    let decision = world.charge(in_full);
    assert_eq!((decision.moved_minor, decision.rule), (300, Rule::SETTLE_PERIOD));
    assert_eq!(
        world.zone.describe(decision.grant.unwrap().until.unwrap()),
        "2026-11-22 06:00:00 Europe/Madrid (+01)"
    );
    assert_eq!(world.at().state, SubscriptionState::Active);
}

#[test]
fn an_amount_ladder_collects_the_rest_and_never_more() {
    let mut world = World::active(with_ladder(Settles::Amount, Restart::Full), MADRID, date(2026, 11, 20));
    let mut asked = Vec::new();
    // 5.00 refused, 3.00 paid; next round 2.00 refused, 1.00 paid; last round 1.00 paid.
    for pays in [false, true, false, true, true] {
        let (planned, _) = world.next_send();
        asked.push((planned.amount_minor, planned.round, world.local()));
        let decision = world.answer(if pays { in_full(planned.amount_minor) } else { NO_FUNDS });
        if decision.charge == ChargeState::Open && pays {
            assert_eq!((decision.rule, decision.event), (Rule::PART_OWED, Some(Event::ChargePart)));
        }
    }
    let expected =
        [(500, 0, "06:00"), (300, 0, "06:00"), (200, 1, "10:00"), (100, 1, "10:00"), (100, 2, "18:00")];
    assert_eq!(asked, expected.map(|(amount, round, time)| (amount, round, format!("2026-11-21 {time}"))));
    let books: Vec<_> = world.charges.values().map(|book| (book.moved_minor, book.state)).collect();
    assert_eq!(books, [(500, ChargeState::Settled), (500, ChargeState::Settled)]);
}

#[test]
fn the_next_round_may_begin_at_the_step_tried_last() {
    let mut world = World::active(with_ladder(Settles::Share, Restart::LastStep), MADRID, date(2026, 11, 20));
    for _ in 0..3 {
        world.charge(no_funds);
    }
    let (planned, _) = world.next_send();
    assert_eq!((planned.amount_minor, planned.round, planned.step), (100, 1, 2));
}

#[test]
fn a_part_whose_rest_no_round_collects_is_written_off() {
    let mut world = World::active(with_ladder(Settles::Amount, Restart::Full), MADRID, date(2026, 11, 20));
    for _ in 0..2 {
        world.charge(|_| Outcome::Partial { amount_minor: 10 });
    }
    let decision = world.charge(|_| Outcome::Partial { amount_minor: 10 });
    assert_eq!((decision.charge, decision.collected_after_minor), (ChargeState::WrittenOff, 30));
    assert_eq!(world.next_send().0.amount_minor, PRICE);
}

#[test]
fn after_the_last_round_comes_what_the_plan_says() {
    let expected = [
        (GiveUp::NextPeriod, Rule::GIVE_UP_NEXT, SubscriptionState::Hold, None),
        (
            GiveUp::Suspend,
            Rule::GIVE_UP_SUSPEND,
            SubscriptionState::Suspended,
            Some(Event::SubscriptionSuspended),
        ),
        (
            GiveUp::Cancel,
            Rule::GIVE_UP_CANCEL,
            SubscriptionState::Cancelled,
            Some(Event::SubscriptionCancelled),
        ),
    ];
    for (give_up, rule, state, event) in expected {
        let mut world = World::active(then(give_up), MADRID, date(2026, 11, 20));
        let mut rounds = Vec::new();
        for _ in 0..2 {
            assert_eq!(world.charge(no_funds).rule, Rule::ROUND_NEXT);
            rounds.push(world.local());
        }
        let decision = world.charge(no_funds);
        rounds.push(world.local());
        assert_eq!(rounds, ["2026-11-21 06:00", "2026-11-21 10:00", "2026-11-21 18:00"]);
        assert_eq!((decision.rule, decision.charge), (rule, ChargeState::WrittenOff));
        assert_eq!(decision.event, Some(Event::ChargeGivenUp));
        assert_eq!((world.at().state, decision.state_event), (state, event));
        if give_up == GiveUp::NextPeriod {
            let (planned, _) = world.next_send();
            assert_eq!((world.local().as_str(), planned.attempt_no), ("2026-11-22 06:00", 1));
            world.answer(in_full(PRICE));
            assert_eq!(world.at().state, SubscriptionState::Active);
        } else {
            assert_eq!(world.at().next_kind, NextKind::Never);
            assert_eq!(world.tick(), Triage::Rest { rule: Rule::NOT_COLLECTING });
        }
    }
}

#[test]
fn a_round_that_would_fall_into_the_next_period_is_not_tried() {
    let mut rules = daily();
    rules.dunning.no_funds.delays_s = vec![25 * 3_600];
    let mut world = World::active(rules, MADRID, date(2026, 11, 20));
    assert_eq!(world.charge(no_funds).rule, Rule::GIVE_UP_NEXT);
    world.next_send();
    assert_eq!(world.local(), "2026-11-22 06:00");
}

#[test]
fn a_refused_first_charge_creates_nothing_or_is_tried_again() {
    let refusals = [
        Refusal::NoFunds,
        Refusal::Barred,
        Refusal::NotAllowed,
        Refusal::Expired,
        Refusal::UnknownSubscriber,
    ];
    for refusal in refusals {
        let rules = PlanRules { first_failure: FirstFailure::Cancel, ..daily() };
        let mut world = World::new(rules, MADRID, date(2026, 11, 20));
        let decision = world.charge(|_| Outcome::Declined(refusal));
        assert_eq!(world.at().state, SubscriptionState::Cancelled, "{refusal:?}");
        assert_eq!(decision.event, Some(Event::ChargeGivenUp));
        assert_eq!(decision.state_event, Some(Event::SubscriptionCancelled));
        assert_eq!(world.tick(), Triage::Rest { rule: Rule::NOT_COLLECTING });
    }
    let mut world = World::new(daily(), MADRID, date(2026, 11, 20));
    assert_eq!(world.charge(no_funds).rule, Rule::ROUND_NEXT);
    assert_eq!(world.at().state, SubscriptionState::Pending, "no access before the first payment");
    world.charge(in_full);
    assert_eq!((world.local().as_str(), world.at().state), ("2026-11-20 10:00", SubscriptionState::Active));
}

#[test]
fn asking_again_does_not_help_with_these_refusals() {
    for (refusal, state) in [
        (Refusal::NotAllowed, SubscriptionState::Suspended),
        (Refusal::UnknownSubscriber, SubscriptionState::Cancelled),
        (Refusal::SubscriberRefused, SubscriptionState::Cancelled),
    ] {
        let mut world = World::active(daily(), MADRID, date(2026, 11, 20));
        world.charge(|_| Outcome::Declined(refusal));
        assert_eq!(world.at().state, state, "{refusal:?}");
    }
    let mut world = World::active(daily(), MADRID, date(2026, 11, 20));
    let decision = world.charge(|_| Outcome::NeedsConsent);
    assert_eq!((decision.rule, world.at().state), (Rule::CONSENT_NEEDED, SubscriptionState::Suspended));
}

#[test]
fn a_throttled_request_costs_time_and_slows_the_lane_but_no_round() {
    for why in [Hindrance::Throttled, Hindrance::Busy, Hindrance::Down] {
        let mut world = World::active(daily(), MADRID, date(2026, 11, 20));
        let said = Outcome::Temporary { why, listed: true, after_ms: Some(30_000) };
        let decision = world.charge(|_| said);
        assert_eq!(
            (decision.rule, decision.lane),
            (Rule::NOT_APPLIED_LATER, LaneHint::SlowDown(30_000)),
            "{why:?}"
        );
        let (planned, _) = world.next_send();
        assert_eq!((planned.attempt_no, planned.round, world.local().as_str()), (2, 0, "2026-11-21 06:05"));
        for time in ["10:05", "18:05"] {
            world.answer(NO_FUNDS);
            world.next_send();
            assert_eq!(world.local(), format!("2026-11-21 {time}"));
        }
        assert_eq!(world.answer(NO_FUNDS).rule, Rule::GIVE_UP_NEXT, "all three rounds were there");
    }
}

#[test]
fn our_own_fault_pauses_the_lane_and_never_counts() {
    let mut world = World::active(daily(), MADRID, date(2026, 11, 20));
    for n in 0..30 {
        let decision = world.charge(|_| Outcome::Fault { what: Fault::BadCredential, listed: true });
        assert_eq!((decision.rule, decision.lane), (Rule::FAULT_LATER, LaneHint::Pause), "{n}");
        assert_eq!((world.at().round, world.at().state), (0, SubscriptionState::Active));
    }
    assert_eq!(world.charge(in_full).rule, Rule::SETTLE_FULL);
}

#[test]
fn a_carrier_out_of_reach_for_days_does_not_use_up_the_numbers() {
    let cadence = Cadence::Months(1);
    let rules = PlanRules { schedule: Schedule { cadence, ..daily().schedule }, ..daily() };
    let mut world = World::active(rules, MADRID, date(2026, 11, 1));
    let start = world.at().next_at.unwrap();
    let mut attempts = 0;
    let mut waits = Vec::new();
    while world.now < start + SignedDuration::from_hours(72) {
        world.charge(|_| Outcome::NotSent(NotSentProof::Connect));
        waits.push(world.at().next_at.unwrap().duration_since(world.now).as_secs());
        attempts += 1;
    }
    assert_eq!(waits[..3], [5, 10, 20], "short at first");
    assert!(attempts < 500, "{attempts}");
    assert_eq!(world.charge(in_full).rule, Rule::SETTLE_FULL);
}

#[test]
fn when_all_numbers_are_used_the_charge_is_given_up_and_the_next_one_comes() {
    let mut world = World::active(daily(), MADRID, date(2026, 11, 20));
    world.until_next();
    world.sub.progress.attempt_no = 1_023;
    let Triage::Note(note) = world.tick() else { panic!("nothing can be sent") };
    assert_eq!((note.kind, note.rule), (NoteKind::WriteOff, Rule::ATTEMPTS_EXHAUSTED));
    world.next_send();
    assert_eq!(world.local(), "2026-11-22 06:00");
}

#[test]
fn grace_keeps_access_while_collecting_and_then_turns_into_hold() {
    let rules = PlanRules { grace_s: 30 * 3_600, ..daily() };
    let mut world = World::active(rules, MADRID, date(2026, 11, 20));
    world.charge(no_funds);
    let until = world.at().state_until;
    assert_eq!(
        (world.at().state, until),
        (SubscriptionState::Grace, Some(world.now + SignedDuration::from_hours(30)))
    );
    for _ in 0..2 {
        world.charge(no_funds);
        assert_eq!((world.at().state, world.at().state_until), (SubscriptionState::Grace, until));
    }
    // The next day at 06:00 grace still runs, at 14:00 it has run out.
    world.charge(no_funds);
    assert_eq!(world.at().state, SubscriptionState::Grace);
    world.charge(no_funds);
    assert_eq!(world.at().state, SubscriptionState::Grace);
    world.charge(no_funds);
    assert_eq!((world.at().state, world.at().state_until), (SubscriptionState::Hold, None));
    world.charge(in_full);
    assert_eq!((world.at().state, world.at().state_until), (SubscriptionState::Active, None));
}

#[test]
fn a_single_charge_ends_its_subscription() {
    let schedule = Schedule { cadence: Cadence::Once, ..daily().schedule };
    let once = PlanRules { schedule, ..with_ladder(Settles::Amount, Restart::Full) };
    let mut world = World::new(once.clone(), MADRID, date(2026, 11, 20));
    let decision = world.charge(in_full);
    assert_eq!((world.at().state, decision.charge), (SubscriptionState::Ended, ChargeState::Settled));
    assert_eq!((world.at().collected_minor, world.at().attempt_no), (PRICE, 1));
    assert_eq!(decision.grant.unwrap().until, None, "bought for good");

    let mut world = World::new(once, MADRID, date(2026, 11, 20));
    for _ in 0..2 {
        let decision = world.charge(|_| Outcome::Partial { amount_minor: 100 });
        assert_eq!((decision.charge, decision.grant), (ChargeState::Open, None), "a part buys nothing yet");
    }
    let decision = world.charge(|_| Outcome::Partial { amount_minor: 100 });
    assert_eq!((world.at().state, decision.charge), (SubscriptionState::Ended, ChargeState::WrittenOff));
    assert_eq!(decision.grant, None);
}

#[test]
fn what_is_quarantined_rests() {
    let mut world = World::new(daily(), MADRID, date(2026, 11, 20));
    world.sub.flags |= FLAG_QUARANTINED;
    world.sub.progress.next_at = None;
    assert_eq!(world.tick(), Triage::Rest { rule: Rule::QUARANTINED });
}
