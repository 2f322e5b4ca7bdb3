//! Stories of answers that are lost, late or contrary, and of subscribers who say stop.

use billing_core::decide::Event;
use billing_core::ledger::{Leg, LegKind};
use billing_core::outcome::{Doubt, Fault, Hindrance, NotSentProof, Outcome};
use billing_core::plan::{GiveUp, PlanRules, Settles};
use billing_core::reason::Rule;
use billing_core::schedule::{Cadence, Schedule};
use billing_core::states::{AttemptState, ChargeState, SubscriptionState};
use billing_core::subscription::{NextKind, OpenAttempt};
use billing_core::triage::{NoteKind, Triage};
use jiff::SignedDuration;
use jiff::civil::date;

use crate::world::{ANSWER_WITHIN, LOST, NO_FUNDS, PRICE, World, daily, with_ladder};

const MADRID: &str = "Europe/Madrid";
const HOUR: SignedDuration = SignedDuration::from_hours(1);

fn in_full(asked: i64) -> Outcome {
    Outcome::Charged { amount_minor: asked }
}

fn leg(kind: LegKind) -> Option<Leg> {
    Some(Leg { kind, amount_minor: PRICE })
}

fn with_lost_answer() -> World {
    let mut world = World::active(daily(), MADRID, date(2026, 11, 20));
    let decision = world.charge(|_| LOST);
    assert_eq!((decision.attempt, decision.charge), (AttemptState::Unknown, ChargeState::Waiting));
    assert_eq!((decision.rule, decision.event), (Rule::UNKNOWN_BLOCKS, Some(Event::ChargeUnknown)));
    assert_eq!(decision.legs, [leg(LegKind::EnterUnknown), None]);
    world
}

#[test]
fn an_unknown_charge_blocks_and_rolls_aside_when_the_next_period_starts() {
    let mut world = with_lost_answer();
    for _ in 0..23 {
        world.later(HOUR);
        assert_eq!(world.tick(), Triage::Rest { rule: Rule::OPEN_BLOCKS });
    }
    let (planned, rule) = world.next_send();
    assert_eq!((rule, planned.attempt_no, world.local().as_str()), (Rule::DUE_SEND, 1, "2026-11-22 06:00"));
    assert_eq!(world.notes.last().unwrap().kind, NoteKind::Roll);
    let aside = world.asides[0];
    assert_eq!(aside.charge.period.to_string(), "20261121");
    assert_eq!((aside.attempt_no, aside.open), (1, OpenAttempt::Unknown));
    // The charge of the next day is paid while the one before is still not known.
    world.answer(in_full(PRICE));
    let paid = *world.at();
    let decision = world.answer_aside(0, NO_FUNDS);
    assert_eq!((decision.attempt, decision.aside.state), (AttemptState::Declined, ChargeState::WrittenOff));
    assert_eq!(decision.legs, [leg(LegKind::LeaveUnknown), None]);
    assert_eq!(*world.at(), paid, "an earlier period does not worsen what stands");
}

#[test]
fn late_money_for_an_earlier_period_is_booked_and_grants_nothing_in_the_past() {
    let mut world = with_lost_answer();
    world.next_send();
    let decision = world.answer_aside(0, in_full(PRICE));
    assert_eq!((decision.attempt, decision.aside.state), (AttemptState::Approved, ChargeState::Settled));
    assert_eq!(decision.legs, [leg(LegKind::LeaveUnknown), leg(LegKind::Collected)]);
    assert_eq!(decision.grant, None);
}

#[test]
fn evidence_of_money_settles_an_unknown_charge() {
    let mut world = with_lost_answer();
    world.later(HOUR);
    let decision = world.answer(in_full(PRICE));
    assert_eq!((decision.attempt, decision.charge), (AttemptState::Approved, ChargeState::Settled));
    assert_eq!(decision.legs, [leg(LegKind::LeaveUnknown), leg(LegKind::Collected)]);
    assert_eq!(world.legs_minor, [2 * PRICE, PRICE, PRICE]);
    world.next_send();
    assert_eq!(world.local(), "2026-11-22 06:00");
}

#[test]
fn evidence_of_a_refusal_goes_on_with_the_dunning_schedule() {
    let mut world = with_lost_answer();
    world.later(HOUR);
    let decision = world.answer(NO_FUNDS);
    assert_eq!((decision.attempt, decision.rule), (AttemptState::Declined, Rule::ROUND_NEXT));
    assert_eq!(decision.legs, [leg(LegKind::LeaveUnknown), None]);
    let (planned, _) = world.next_send();
    assert_eq!((planned.attempt_no, planned.round, world.local().as_str()), (2, 1, "2026-11-21 11:00"));
}

#[test]
fn what_proves_nothing_leaves_it_unknown() {
    let proves_nothing = [
        Outcome::NotSent(NotSentProof::Connect),
        Outcome::NotSent(NotSentProof::Guard),
        Outcome::Temporary { why: Hindrance::Throttled, listed: true, after_ms: None },
        Outcome::Temporary { why: Hindrance::Down, listed: false, after_ms: None },
        Outcome::Fault { what: Fault::BadCredential, listed: true },
        Outcome::Pending,
        Outcome::Duplicate,
        Outcome::Charged { amount_minor: PRICE - 1 },
        Outcome::Partial { amount_minor: PRICE },
        Outcome::Reserved,
        Outcome::Unknown(Doubt::Unreadable),
    ];
    let mut world = with_lost_answer();
    for in_review in [false, true] {
        if in_review {
            world.review();
        }
        let before = *world.at();
        for outcome in proves_nothing {
            let decision = world.answer(outcome);
            assert!(!decision.attempt.is_final(), "{outcome:?}");
            assert_eq!((decision.legs, decision.event), ([None, None], None), "{outcome:?}");
            assert_eq!(*world.at(), before, "{outcome:?}");
            assert_eq!(world.later(HOUR / 2).tick(), Triage::Rest { rule: Rule::OPEN_BLOCKS });
        }
    }
    let decision = world.answer(in_full(PRICE));
    assert_eq!(decision.legs, [leg(LegKind::LeaveUnknown), leg(LegKind::Collected)], "from review too");
}

#[test]
fn an_accepted_request_waits_until_its_deadline_and_is_then_unknown() {
    let mut world = World::active(daily(), MADRID, date(2026, 11, 20));
    let decision = world.charge(|_| Outcome::Pending);
    assert_eq!((decision.rule, world.at().next_kind), (Rule::ACCEPTED_WAIT, NextKind::Deadline));
    let deadline = world.now + ANSWER_WITHIN;
    for _ in 0..3 {
        world.later(HOUR / 2);
        assert_eq!(world.tick(), Triage::Rest { rule: Rule::OPEN_BLOCKS });
        world.answer(Outcome::Pending);
        assert_eq!(world.at().next_at, Some(deadline), "saying it again does not win time");
    }
    world.until_next();
    let Triage::Note(note) = world.tick() else { panic!("the deadline passed") };
    assert_eq!((note.kind, note.rule), (NoteKind::Doubt, Rule::DEADLINE_PASSED));
    assert_eq!(world.at().open, OpenAttempt::Unknown);
    assert_eq!(world.legs_minor[1], PRICE);
    assert_eq!(world.answer(in_full(PRICE)).rule, Rule::SETTLE_FULL);
    assert_eq!(world.legs_minor[2], PRICE);
}

#[test]
fn the_next_period_starts_beside_an_accepted_request() {
    let mut world = World::active(daily(), MADRID, date(2026, 11, 20));
    world.next_send();
    world.later(HOUR * 23).answer(Outcome::Pending);
    assert_eq!(world.at().next_kind, NextKind::PeriodStart);
    let deadline = world.now + ANSWER_WITHIN;
    assert_eq!(world.at().answer_due(), Some(deadline));
    world.next_send();
    assert_eq!(world.local(), "2026-11-22 06:00");
    assert_eq!(world.asides[0].open, OpenAttempt::Accepted);
    // Its deadline went along: silence does not last for ever.
    assert_eq!((world.asides[0].next_at, world.asides[0].next_kind), (Some(deadline), NextKind::Deadline));
}

#[test]
fn a_stop_beside_an_accepted_request_keeps_its_deadline() {
    let mut world = World::active(daily(), MADRID, date(2026, 11, 20));
    world.next_send();
    world.later(HOUR * 23).answer(Outcome::Pending);
    let deadline = world.now + ANSWER_WITHIN;
    world.sub.stop_at = Some(world.now);
    let Triage::Note(note) = world.tick() else { panic!("stop is recorded") };
    assert_eq!((note.kind, note.charge_state), (NoteKind::Cancel, ChargeState::Waiting));
    assert_eq!((world.at().next_at, world.at().next_kind), (Some(deadline), NextKind::Deadline));
}

#[test]
fn an_unknown_single_charge_waits_for_evidence_without_end() {
    let schedule = Schedule { cadence: Cadence::Once, ..daily().schedule };
    let mut world = World::new(PlanRules { schedule, ..daily() }, MADRID, date(2026, 11, 20));
    world.charge(|_| LOST);
    assert_eq!(world.at().next_at, None);
    assert_eq!(world.later(HOUR * 10_000).tick(), Triage::Rest { rule: Rule::OPEN_BLOCKS });
    world.answer(in_full(PRICE));
    assert_eq!(world.at().state, SubscriptionState::Ended);
}

#[test]
fn stop_before_an_attempt_cancels_and_nothing_is_sent() {
    let mut world = World::active(daily(), MADRID, date(2026, 11, 20));
    let paid_until = world.at().paid_until;
    world.until_next();
    world.sub.stop_at = Some(world.now - HOUR);
    let Triage::Note(note) = world.tick() else { panic!("stop is recorded") };
    assert_eq!((note.kind, note.rule), (NoteKind::Cancel, Rule::STOP_CANCEL));
    assert_eq!(note.charge_state, ChargeState::Cancelled);
    assert_eq!((world.at().state, world.at().paid_until), (SubscriptionState::Cancelled, paid_until));
    assert_eq!(world.tick(), Triage::Rest { rule: Rule::NOT_COLLECTING }, "and recorded once");
}

#[test]
fn stop_during_an_attempt_keeps_the_money_and_ends_collecting() {
    let answers = [
        (in_full(PRICE), ChargeState::Settled),
        (NO_FUNDS, ChargeState::Cancelled),
        (Outcome::Partial { amount_minor: 100 }, ChargeState::Cancelled),
        (Outcome::NotSent(NotSentProof::Guard), ChargeState::Cancelled),
        (Outcome::Temporary { why: Hindrance::Busy, listed: true, after_ms: None }, ChargeState::Cancelled),
    ];
    for (outcome, charge) in answers {
        let mut world = World::active(daily(), MADRID, date(2026, 11, 20));
        world.next_send();
        world.sub.stop_at = Some(world.now);
        let decision = world.later(SignedDuration::from_secs(1)).answer(outcome);
        assert_eq!(world.at().state, SubscriptionState::Cancelled, "{outcome:?}");
        assert_eq!(decision.charge, charge, "{outcome:?}");
        assert_eq!(world.at().next_kind, NextKind::Never);
    }
}

#[test]
fn stop_beside_an_unknown_attempt_still_takes_its_evidence() {
    let mut world = with_lost_answer();
    world.sub.stop_at = Some(world.now);
    let Triage::Note(note) = world.tick() else { panic!("stop is recorded") };
    assert_eq!(note.charge_state, ChargeState::Waiting);
    assert_eq!(world.at().open, OpenAttempt::Unknown);
    world.later(HOUR * 1_000);
    let decision = world.answer(in_full(PRICE));
    assert_eq!(decision.legs, [leg(LegKind::LeaveUnknown), leg(LegKind::Collected)]);
    assert_eq!(world.at().state, SubscriptionState::Cancelled);
}

#[test]
fn stop_beside_an_accepted_attempt_does_not_lose_its_deadline() {
    let mut stopped_after = World::active(daily(), MADRID, date(2026, 11, 20));
    stopped_after.charge(|_| Outcome::Pending);
    stopped_after.sub.stop_at = Some(stopped_after.now);
    stopped_after.tick();

    // Cancelled by another hand while the request was on its way.
    let mut stopped_before = World::active(daily(), MADRID, date(2026, 11, 20));
    stopped_before.next_send();
    stopped_before.sub.progress.state = SubscriptionState::Cancelled;
    stopped_before.sub.progress.next_at = None;
    stopped_before.sub.progress.next_kind = NextKind::Never;
    // Nothing starts any more: the next period's due does not take the deadline's place.
    stopped_before.later(HOUR * 23).answer(Outcome::Pending);

    for mut world in [stopped_after, stopped_before] {
        assert_eq!(world.at().state, SubscriptionState::Cancelled);
        assert_eq!(world.tick(), Triage::Rest { rule: Rule::NOT_COLLECTING });
        world.until_next();
        let Triage::Note(note) = world.tick() else { panic!("the deadline passed") };
        assert_eq!(note.kind, NoteKind::Doubt);
        assert_eq!((world.at().open, world.at().next_at), (OpenAttempt::Unknown, None));
        assert_eq!(world.tick(), Triage::Rest { rule: Rule::NOT_COLLECTING });
    }
}

#[test]
fn what_has_ended_needs_no_stop() {
    let schedule = Schedule { cadence: Cadence::Once, ..daily().schedule };
    let mut world = World::new(PlanRules { schedule, ..daily() }, MADRID, date(2026, 11, 20));
    world.charge(in_full);
    world.sub.stop_at = Some(world.now);
    assert_eq!(world.tick(), Triage::Rest { rule: Rule::NOT_COLLECTING });
    assert_eq!(world.at().state, SubscriptionState::Ended);
}

#[test]
fn a_refusal_that_arrives_after_a_pause_announces_no_cancellation() {
    let mut rules = with_ladder(Settles::Share, billing_core::plan::Restart::Full);
    rules.dunning.no_funds.then = GiveUp::Cancel;
    let mut world = World::active(rules, MADRID, date(2026, 11, 20));
    world.next_send();
    world.sub.progress.state = SubscriptionState::Paused;
    let decision = world.answer(NO_FUNDS);
    assert_eq!((world.at().state, decision.event), (SubscriptionState::Paused, Some(Event::ChargeGivenUp)));
}
