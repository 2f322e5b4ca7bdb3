//! Stories of money that comes late, is owed, or goes back.

use billing_core::decide::{
    Event, Original, RefundAsk, RefundFacts, RefundRefused, ReversalFacts, decide_refund, decide_reversal,
    plan_refund, reverse,
};
use billing_core::ids::ChargeId;
use billing_core::ledger::LegKind;
use billing_core::outcome::{Op, Outcome, Refusal};
use billing_core::plan::{
    Arrears, Delivers, GiveUp, Ladder, LateApproved, Missed, PlanRules, RefundAccess, Restart, Rounds,
    Settles,
};
use billing_core::reason::Rule;
use billing_core::schedule::{Phase, Window};
use billing_core::states::{AttemptState, ChargeState};
use billing_core::subscription::{Aside, OpenAttempt, Progress};
use billing_core::triage::{Merged, NoteKind, Triage};
use jiff::SignedDuration;
use jiff::civil::date;
use proptest::prelude::*;

use crate::world::{ANSWER_WITHIN, LOST, NO_FUNDS, PRICE, World, daily, with_ladder};

const MADRID: &str = "Europe/Madrid";
const HOUR: SignedDuration = SignedDuration::from_hours(1);
const DAY: SignedDuration = SignedDuration::from_hours(24);

fn in_full(asked: i64) -> Outcome {
    Outcome::Charged { amount_minor: asked }
}

fn owing(count_max: i16) -> PlanRules {
    let rounds = Rounds::fixed(vec![30 * 3_600, 86_400], GiveUp::NextPeriod);
    let arrears = Arrears { count_max, age_max_s: 10 * 86_400, amount_max_minor: 1_200, rounds };
    PlanRules { arrears: Some(arrears), ..daily() }
}

/// The day of 21 November is lost, that of 22 November paid.
fn rolled(rules: PlanRules) -> World {
    let mut world = World::active(rules, MADRID, date(2026, 11, 20));
    world.charge(|_| LOST);
    world.charge(in_full);
    assert_eq!(world.asides.len(), 1);
    world
}

#[test]
fn late_money_is_what_the_plan_says() {
    for late_approved in [LateApproved::Extend, LateApproved::Past, LateApproved::Refund] {
        let mut world = rolled(PlanRules { late_approved, ..daily() });
        let paid = world.at().paid_until.unwrap();
        let decision = world.answer_aside(0, in_full(PRICE));
        assert_eq!((decision.attempt, decision.event), (AttemptState::Approved, Some(Event::ChargeSettled)));
        let (rule, until, proposed) = match late_approved {
            LateApproved::Extend => (Rule::LATE_EXTEND, paid + DAY, 0),
            LateApproved::Past => (Rule::LATE_PAST, paid, 0),
            LateApproved::Refund => (Rule::LATE_REFUND, paid, PRICE),
        };
        assert_eq!((decision.rule, decision.propose_refund_minor), (rule, proposed));
        assert_eq!(world.at().paid_until, Some(until));
    }
}

#[test]
fn proven_absence_ends_an_unknown_charge_and_its_number_is_not_used_again() {
    let mut world = World::active(daily(), MADRID, date(2026, 11, 20));
    world.charge(|_| LOST);
    world.later(HOUR);
    let decision = world.answer(Outcome::Absent);
    assert_eq!((decision.attempt, decision.rule), (AttemptState::NotApplied, Rule::ABSENT_AGAIN));
    assert_eq!(decision.legs[0].unwrap().kind, LegKind::LeaveUnknown);
    let (planned, _) = world.next_send();
    assert_eq!((planned.attempt_no, planned.round), (2, 0), "it cost no round");
    // A carrier's first answer proves no absence.
    let decision = world.answer(Outcome::Absent);
    assert_eq!((decision.attempt, decision.rule), (AttemptState::Unknown, Rule::ABSENT_UNPROVEN));
    let mut world = rolled(daily());
    let decision = world.answer_aside(0, Outcome::Absent);
    assert_eq!((decision.aside.state, decision.rule), (ChargeState::WrittenOff, Rule::ASIDE_CLOSED));
}

#[test]
fn what_is_given_up_is_owed_and_collected_later_within_bounds() {
    let mut world = World::active(owing(2), MADRID, date(2026, 11, 20));
    for day in 0..4 {
        for _ in 0..2 {
            world.charge(|_| NO_FUNDS);
        }
        let decision = world.charge(|_| NO_FUNDS);
        let owed = day < 2;
        let rule = if owed { Rule::GIVE_UP_ARREARS } else { Rule::GIVE_UP_NEXT };
        assert_eq!((decision.rule, decision.aside.is_some()), (rule, owed), "day {day}");
    }
    assert_eq!(world.held().owed_minor, 2 * PRICE);
    world.charge(in_full);
    let planned = world.tick_aside(0).expect("arrears are due");
    assert_eq!((planned.amount_minor, planned.attempt_no, planned.op), (PRICE, 4, Op::Charge));
    let before = *world.at();
    let decision = world.answer_aside(0, in_full(PRICE));
    assert_eq!((decision.rule, decision.aside.state), (Rule::ARREARS_SETTLE, ChargeState::Settled));
    assert_eq!(*world.at(), before, "the running period is not touched");
    // The other is refused, and refused again: written off.
    world.tick_aside(0).expect("arrears are due");
    let decision = world.answer_aside(0, NO_FUNDS);
    assert_eq!((decision.rule, decision.event), (Rule::ARREARS_NEXT, None));
    world.later(DAY * 2);
    world.tick_aside(0).expect("arrears are due");
    assert_eq!(world.answer_aside(0, NO_FUNDS).rule, Rule::ARREARS_GIVE_UP);
    assert_eq!(*world.at(), before);
}

#[test]
fn arrears_expire_and_end_with_their_subscription() {
    let owed = || {
        let mut world = World::active(owing(2), MADRID, date(2026, 11, 20));
        for _ in 0..3 {
            world.charge(|_| NO_FUNDS);
        }
        assert_eq!(world.asides.len(), 1);
        world
    };
    let mut world = owed();
    world.later(DAY * 12);
    assert_eq!(world.tick_aside(0), None);
    assert!(world.asides.is_empty() && world.seen.contains(&Rule::ARREARS_EXPIRE));
    let mut world = owed();
    world.sub.stop_at = Some(world.now);
    assert_eq!(world.tick_aside(0), None);
    assert!(world.asides.is_empty() && world.seen.contains(&Rule::ARREARS_STOP));
    let mut world = owed();
    world.later(DAY * 2);
    world.tick_aside(0).unwrap();
    let decision = world.answer_aside(0, Outcome::Declined(Refusal::UnknownSubscriber));
    assert_eq!(decision.aside.state, ChargeState::WrittenOff, "asking again would not help");
}

#[test]
fn after_an_outage_missed_days_are_merged_or_owed() {
    let outage = |rules| {
        let mut world = World::active(rules, MADRID, date(2026, 11, 20));
        world.until_next().later(DAY * 4);
        let Triage::Note(note) = world.tick() else { panic!("days were missed") };
        assert_eq!(note.kind, NoteKind::Skip);
        (world, note)
    };
    // 21 to 24 November were missed, 25 November runs.
    let (mut world, note) = outage(PlanRules { missed: Missed::Merge { periods_max: 3 }, ..daily() });
    assert_eq!((note.rule, note.charge_state), (Rule::MISSED_MERGE, ChargeState::Merged));
    let ranges: Vec<_> = note
        .passed
        .iter()
        .map(|p| (p.first.to_string(), p.before.unwrap().to_string(), p.charge_state))
        .collect();
    assert_eq!(
        ranges,
        [
            ("20261122".into(), "20261124".into(), ChargeState::Merged),
            ("20261124".into(), "20261125".into(), ChargeState::Skipped)
        ]
    );
    assert_eq!(world.next_send().0.amount_minor, 4 * PRICE);
    let decision = world.answer(in_full(4 * PRICE));
    assert_eq!((decision.charge, world.at().due_minor), (ChargeState::Settled, PRICE));

    // Each period costs what it costs; what was merged is known from the notes when nothing is sent for days again.
    let mut rules = PlanRules { missed: Missed::Merge { periods_max: 3 }, ..daily() };
    rules.schedule.phases = vec![Phase { periods: 2, price_minor: 100 }];
    rules.schedule.window = Window::new(360, 480).unwrap();
    let (mut world, note) = outage(rules);
    let merged = |count, minor| Merged { count, minor };
    // The 20th and the 21st were the first two periods.
    assert_eq!((note.merged, world.at().due_minor), (merged(3, 100 + 2 * PRICE), 100 + 3 * PRICE));
    world.later(DAY);
    let Triage::Note(note) = world.tick() else { panic!("the merged charge was missed too") };
    assert_eq!((note.rule, note.charge_state), (Rule::MISSED_MERGE, ChargeState::Skipped), "no more may be");
    assert_eq!((note.merged, world.at().due_minor), (merged(3, 100 + 2 * PRICE), 100 + 3 * PRICE));
    let mut rules = world.rules.clone();
    rules.missed = Missed::Merge { periods_max: 9 };
    let (mut world, note) = outage(rules);
    assert_eq!(note.merged, merged(4, 100 + 3 * PRICE));
    world.later(DAY);
    let Triage::Note(note) = world.tick() else { panic!("the merged charge was missed too") };
    assert_eq!((note.charge_state, note.merged), (ChargeState::Merged, merged(5, 100 + 4 * PRICE)));
    assert_eq!(world.next_send().0.amount_minor, 100 + 5 * PRICE);

    let (world, note) = outage(PlanRules { missed: Missed::CollectLate, ..owing(5) });
    assert_eq!((note.rule, note.charge_state), (Rule::MISSED_LATE, ChargeState::Arrears));
    // Two days of 5.00 are all that 12.00 allow.
    assert_eq!((note.aside.is_some(), note.arrears.len(), world.held().owed_minor), (true, 1, 2 * PRICE));
    let skipped = note.passed[0];
    assert_eq!(
        (skipped.first.to_string(), skipped.before.unwrap().to_string()),
        ("20261123".into(), "20261125".into())
    );
    assert_eq!(world.at().period.to_string(), "20261125");
}

#[test]
fn a_rest_that_is_not_worth_a_request_is_left_alone() {
    let ladder = Ladder {
        part_min_minor: 100,
        native: true,
        ..Ladder::descending(vec![], Settles::Amount, Restart::Full)
    };
    let mut world = World::active(PlanRules { ladder: Some(ladder), ..daily() }, MADRID, date(2026, 11, 20));
    let decision = world.charge(|_| Outcome::Partial { amount_minor: 350 });
    assert_eq!((decision.rule, decision.charge), (Rule::PART_OWED, ChargeState::Open));
    let (planned, _) = world.next_send();
    assert_eq!(planned.amount_minor, 150, "the rest stays in the same charge");
    let decision = world.answer(Outcome::Partial { amount_minor: 51 });
    assert_eq!((decision.rule, decision.charge), (Rule::REST_TOO_SMALL, ChargeState::WrittenOff));
    // No step is tried where the carrier takes what there is.
    assert_eq!(world.charge(|_| NO_FUNDS).rule, Rule::ROUND_NEXT);
}

#[test]
fn a_part_can_buy_a_smaller_variant() {
    let ladder = Ladder {
        delivers: Delivers::Tier,
        ..Ladder::descending(vec![300, 100], Settles::Share, Restart::Full)
    };
    let mut world = World::active(PlanRules { ladder: Some(ladder), ..daily() }, MADRID, date(2026, 11, 20));
    world.charge(|_| NO_FUNDS);
    let decision = world.charge(in_full);
    let grant = decision.grant.unwrap();
    assert_eq!((decision.moved_minor, grant.variant), (300, 1));
    assert_eq!(world.zone.local(grant.until.unwrap()), (date(2026, 11, 22), 360), "for the whole period");
}

/// A charge of 5.00, collected in full by attempt 1, with its day running.
fn collected(rules: PlanRules) -> (World, Aside, Original) {
    let world = World::active(rules, MADRID, date(2026, 11, 20));
    let period = *world.charges.keys().next().unwrap();
    let charge = ChargeId { subscription: world.sub.id, period };
    let row = Progress { period, collected_minor: PRICE, attempt_no: 1, ..*world.at() };
    let aside = Aside::of(charge, &row, ChargeState::Settled);
    let original =
        Original { attempt_no: 1, state: AttemptState::Approved, moved_minor: PRICE, given_back_minor: 0 };
    (world, aside, original)
}

#[test]
fn a_refund_takes_back_access_as_the_plan_says() {
    let refunds = [
        (RefundAccess::Keep, 200, DAY, false),
        (RefundAccess::Share, 200, DAY * 3 / 5, true),
        (RefundAccess::End, 200, DAY, false),
        (RefundAccess::Keep, PRICE, DAY, false),
        (RefundAccess::Share, PRICE, SignedDuration::ZERO, true),
        (RefundAccess::End, PRICE, SignedDuration::ZERO, true),
    ];
    for (refund_access, amount_minor, left, revoked) in refunds {
        let (world, aside, original) = collected(PlanRules { refund_access, ..daily() });
        let now = world.now;
        let ask = RefundAsk { aside: &aside, original: &original, amount_minor, now, send_within: HOUR };
        let (planned, held) = plan_refund(&ask).unwrap();
        assert_eq!((planned.op, planned.parent_no, planned.attempt_no), (Op::Refund, 1, 2));
        let facts = RefundFacts {
            sub: &world.sub,
            aside: &held,
            rules: &world.rules,
            zone: &world.zone,
            attempt: &planned,
            from: AttemptState::Intent,
            outcome: Outcome::Refunded { amount_minor },
            now,
            answer_within: ANSWER_WITHIN,
        };
        let decision = decide_refund(&facts).unwrap();
        assert_eq!((decision.rule, decision.event), (Rule::REFUND_DONE, Some(Event::ChargeRefunded)));
        assert_eq!((decision.paid_until, decision.revoked), (Some(now + left), revoked), "{refund_access:?}");
        assert_eq!(decision.aside.refunded_minor, amount_minor);
        assert!(
            billing_core::decide::decide(&billing_core::decide::Facts {
                sub: &world.sub,
                rules: &world.rules,
                zone: &world.zone,
                attempt: &planned,
                from: AttemptState::Intent,
                outcome: Outcome::Refunded { amount_minor },
                now,
                answer_within: ANSWER_WITHIN,
                held: Default::default(),
            })
            .is_err()
        );
    }
}

#[test]
fn what_is_not_known_to_be_collected_is_not_given_back() {
    let (world, aside, original) = collected(daily());
    let ask = |aside: &Aside, original: &Original, amount_minor| {
        plan_refund(&RefundAsk { aside, original, amount_minor, now: world.now, send_within: HOUR })
            .map(|_| ())
    };
    for state in [AttemptState::Unknown, AttemptState::InReview, AttemptState::Declined, AttemptState::Intent]
    {
        let refused = ask(&aside, &Original { state, ..original }, 1);
        assert!(matches!(refused, Err(RefundRefused::NotCollected { .. })), "{state:?}");
    }
    let open = Aside { open: OpenAttempt::Unknown, ..aside };
    assert_eq!(ask(&open, &original, 1), Err(RefundRefused::Open(1)));
    assert_eq!(ask(&aside, &original, 0), Err(RefundRefused::Amount(0)));
    let above = RefundRefused::AboveAttempt { asked: PRICE + 1, left: PRICE, attempt_no: 1 };
    assert_eq!(ask(&aside, &original, PRICE + 1), Err(above));
    let reversed = reverse(&aside, 400).unwrap().0;
    assert_eq!(ask(&reversed, &original, 101), Err(RefundRefused::AboveCharge { asked: 101, left: 100 }));
    assert!(reverse(&reversed, 101).is_err());
}

#[test]
fn what_the_carrier_takes_back_ends_access_as_a_refund_does() {
    let decided = |refund_access, amount_minor| {
        let (world, aside, _) = collected(PlanRules { refund_access, ..daily() });
        let facts = ReversalFacts {
            sub: &world.sub,
            aside: &aside,
            rules: &world.rules,
            zone: &world.zone,
            amount_minor,
            now: world.now,
        };
        (decide_reversal(&facts), world.now, world.at().paid_until)
    };
    for (access, amount_minor, hours) in [
        (RefundAccess::Keep, PRICE, 24),
        (RefundAccess::End, PRICE - 1, 24),
        (RefundAccess::End, PRICE, 0),
        (RefundAccess::Share, PRICE / 4, 18),
    ] {
        let (decision, now, paid_until) = decided(access, amount_minor);
        let decision = decision.unwrap();
        assert_eq!(decision.paid_until, Some(now + HOUR * hours), "{access:?} {amount_minor}");
        assert_eq!(decision.revoked, decision.paid_until != paid_until);
        assert_eq!((decision.aside.reversed_minor, decision.leg.amount_minor), (amount_minor, amount_minor));
        assert_eq!((decision.event, decision.rule), (Event::ChargeReversed, Rule::REVERSED));
    }
    assert!(decided(RefundAccess::Keep, PRICE + 1).0.is_err());
}

proptest! {
    /// Any sequence of refunds, reversals and answers: what goes back never exceeds what came in, the ledger says the
    /// same, and unknown amounts stay held.
    #[test]
    fn refunds_never_exceed_what_was_collected(
        steps in prop::collection::vec((1..400_i64, 0..60_usize, any::<bool>()), 1..40),
    ) {
        let (world, mut aside, mut original) = collected(PlanRules { refund_access: RefundAccess::Share, ..daily() });
        let mut sub = world.sub.clone();
        let (mut back, mut suspense, mut taken) = (0, 0, 0);
        let mut open = None;
        for (amount_minor, pick, reversal) in steps {
            if reversal && pick % 7 == 0 {
                if let Ok((after, leg, ..)) = reverse(&aside, amount_minor) {
                    taken += leg.amount_minor;
                    aside = after;
                }
                continue;
            }
            let now = world.now;
            let (planned, from) = match open {
                Some(kept) => kept,
                None => {
                    let ask = RefundAsk { aside: &aside, original: &original, amount_minor, now, send_within: HOUR };
                    let Ok((planned, held)) = plan_refund(&ask) else { continue };
                    aside = held;
                    (planned, AttemptState::Intent)
                }
            };
            let all = Outcome::all(planned.amount_minor);
            let outcome = all[pick % all.len()];
            let facts = RefundFacts {
                sub: &sub,
                aside: &aside,
                rules: &world.rules,
                zone: &world.zone,
                attempt: &planned,
                from,
                outcome,
                now,
                answer_within: ANSWER_WITHIN,
            };
            let decision = decide_refund(&facts).unwrap();
            prop_assert!(decide_refund(&facts).as_ref() == Ok(&decision), "the same input gives the same");
            for leg in decision.legs.iter().flatten() {
                match leg.kind {
                    LegKind::Refunded => back += leg.amount_minor,
                    LegKind::RefundEnterUnknown => suspense += leg.amount_minor,
                    LegKind::RefundLeaveUnknown => suspense -= leg.amount_minor,
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            prop_assert_eq!(decision.moved_minor > 0, decision.attempt == AttemptState::Approved);
            prop_assert!(decision.paid_until <= sub.progress.paid_until, "a refund gives no access");
            open = (!decision.attempt.is_final()).then_some((planned, decision.attempt));
            let doubtful = matches!(decision.attempt, AttemptState::Unknown | AttemptState::InReview);
            prop_assert_eq!(suspense, if doubtful { planned.amount_minor } else { 0 });
            aside = decision.aside;
            sub.progress.paid_until = decision.paid_until;
            let held = if open.is_some() { planned.amount_minor } else { 0 };
            prop_assert_eq!(aside.refunded_minor, back + held, "all but those proven refused");
            prop_assert!(aside.refunded_minor + aside.reversed_minor <= aside.collected_minor);
            original.given_back_minor = aside.refunded_minor;
            prop_assert!(back + taken <= PRICE);
        }
    }

    /// However a charge was split into parts, the windows of access add up to what was paid for, to the second.
    #[test]
    fn access_delivered_is_what_was_paid_for(parts in prop::collection::vec(1..120_i64, 1..6)) {
        let mut rules = with_ladder(Settles::Amount, Restart::Full);
        rules.dunning.no_funds.delays_s = vec![60; 30];
        let mut world = World::active(rules, MADRID, date(2026, 11, 20));
        let mut until = world.at().paid_until.unwrap();
        let (mut paid, mut delivered) = (0, 0);
        for part in parts {
            let (planned, _) = world.next_send();
            if part >= planned.amount_minor {
                break;
            }
            let decision = world.answer(Outcome::Partial { amount_minor: part });
            let grant = decision.grant.unwrap();
            prop_assert!(grant.from >= until.max(world.now), "no second is sold twice");
            until = grant.until.unwrap();
            delivered += until.duration_since(grant.from).as_secs();
            paid += part;
            prop_assert_eq!(delivered, 86_400 * paid / PRICE);
        }
    }

    /// Values that no book allows still make no panic.
    #[test]
    fn absurd_delays_make_no_panic(delay in any::<i64>(), jitter in any::<u16>(), grace in any::<i64>(), recheck in any::<i64>()) {
        let mut rules = daily();
        rules.dunning.no_funds = Rounds { jitter_permille: jitter, ..Rounds::fixed(vec![delay], GiveUp::NextPeriod) };
        (rules.dunning.temporary_delay_s, rules.dunning.fault_delay_s, rules.grace_s) = (delay, delay, grace);
        rules.defer.shelf_life_s = recheck;
        let world = World::new(daily(), MADRID, date(2026, 11, 20));
        let sub = world.sub.clone();
        let Ok(Triage::Send { planned, .. }) = billing_core::triage::triage(&sub, &rules, &world.zone, world.now) else {
            return Ok(());
        };
        for outcome in Outcome::all(PRICE) {
            let _ = billing_core::decide::decide(&billing_core::decide::Facts {
                sub: &sub,
                rules: &rules,
                zone: &world.zone,
                attempt: &planned,
                from: AttemptState::Intent,
                outcome,
                now: world.now,
                answer_within: SignedDuration::MAX,
                held: Default::default(),
            });
        }
    }
}
