//! Moves to another zone, day, hour, plan or carrier: nothing is skipped and nothing is charged twice.

use billing_core::ids::SubscriptionId;
use billing_core::outcome::Outcome;
use billing_core::period::Period;
use billing_core::plan::{Missed, PlanRules};
use billing_core::reason::Rule;
use billing_core::schedule::{Cadence, Schedule, Window};
use billing_core::states::{ChargeState, SubscriptionState};
use billing_core::subscription::{FLAG_QUARANTINED, NextKind};
use billing_core::triage::{Change, MoveError, MoveRefused, Note, NoteKind, change, change_carrier};
use billing_core::zone::Zone;
use jiff::SignedDuration;
use jiff::civil::date;
use proptest::prelude::*;

use crate::world::{LOST, NO_FUNDS, World, daily};

const MADRID: &str = "Europe/Madrid";
const CANARY: &str = "Atlantic/Canary";

fn in_full(asked: i64) -> Outcome {
    Outcome::Charged { amount_minor: asked }
}

fn monthly() -> PlanRules {
    PlanRules {
        id: "news-monthly".into(),
        schedule: Schedule { cadence: Cadence::Months(1), ..daily().schedule },
        ..daily()
    }
}

fn refused(world: &World, to: &Change<'_>) -> MoveRefused {
    match change(&world.sub, &world.rules, &world.zone, to) {
        Err(MoveError::Refused(why)) => why,
        other => panic!("{other:?}"),
    }
}

impl World {
    /// Changes it; asking again changes nothing.
    fn moves(&mut self, to: &Change<'_>) -> Option<Note> {
        let note = change(&self.sub, &self.rules, &self.zone, to).unwrap()?;
        assert_eq!(note.kind, NoteKind::Move);
        self.sub.progress = note.progress;
        self.sub.anchor = note.anchor.unwrap_or(self.sub.anchor);
        match to {
            Change::Zone(zone) => self.zone = (*zone).clone(),
            Change::Plan(rules) => self.rules = (*rules).clone(),
            Change::Anchor { .. } => {}
        }
        assert_eq!(change(&self.sub, &self.rules, &self.zone, to), Ok(None), "{to:?} again");
        Some(note)
    }

    fn next_charge(&mut self) -> (String, String) {
        let (planned, _) = self.next_send();
        self.answer(in_full(planned.amount_minor));
        (planned.period.to_string(), self.local())
    }
}

#[test]
fn a_move_to_another_zone_keeps_the_period_and_takes_the_new_clock() {
    let mut world = World::active(daily(), MADRID, date(2026, 11, 20));
    let canary = Zone::named(CANARY).unwrap();
    let note = world.moves(&Change::Zone(&canary)).unwrap();
    assert_eq!((note.rule, note.charge_state), (Rule::ZONE_MOVED, ChargeState::Open));
    assert_eq!(note.charge.period.to_string(), "20261121", "it is told of the charge that it moves");
    // Access reaches to the next charge as before.
    assert_eq!(world.at().paid_until, world.at().next_at);
    assert_eq!(world.next_charge(), ("20261121".into(), "2026-11-21 06:00".into()));
    // And back: earlier by an hour, still once a local day.
    world.moves(&Change::Zone(&Zone::named(MADRID).unwrap()));
    assert_eq!(world.next_charge(), ("20261122".into(), "2026-11-22 06:00".into()));
}

#[test]
fn a_charge_under_way_stays_and_what_follows_it_takes_the_new_clock() {
    let mut world = World::active(daily(), MADRID, date(2026, 11, 20));
    world.charge(|_| NO_FUNDS);
    let before = *world.at();
    world.moves(&Change::Zone(&Zone::named(CANARY).unwrap())).unwrap();
    assert_eq!((world.at().period, world.at().next_at, world.at().round), (before.period, before.next_at, 1));
    world.charge(|_| NO_FUNDS);
    world.charge(|_| NO_FUNDS);
    assert_eq!(world.next_charge(), ("20261122".into(), "2026-11-22 06:00".into()));
}

#[test]
fn the_next_period_is_not_held_up_by_a_round_that_a_move_makes_late() {
    let mut rules = daily();
    rules.dunning.no_funds.delays_s = vec![23 * 3_600];
    let mut world = World::active(rules, MADRID, date(2026, 11, 20));
    world.charge(|_| NO_FUNDS);
    world.moves(&Change::Zone(&Zone::named("Asia/Tokyo").unwrap())).unwrap();
    assert_eq!(world.at().next_kind, NextKind::PeriodStart);
    assert_eq!(world.next_charge(), ("20261122".into(), "2026-11-22 06:00".into()));
}

#[test]
fn another_day_of_the_month_makes_the_paid_period_longer_by_less_than_one() {
    let mut world = World::active(monthly(), MADRID, date(2026, 11, 20));
    let note = world.moves(&Change::Anchor { day: Some(date(2028, 1, 5)), minute: None }).unwrap();
    assert_eq!((note.rule, note.charge.period.to_string().as_str()), (Rule::ANCHOR_MOVED, "20270105"));
    assert_eq!(world.at().paid_until, world.at().next_at, "no hole in access");
    assert_eq!(world.next_charge().1, "2027-01-05 06:00");
    assert_eq!(world.next_charge().1, "2027-02-05 06:00");
    // The last day of each month, through a short one.
    world.moves(&Change::Anchor { day: Some(date(2028, 1, 31)), minute: Some(420) });
    assert_eq!(world.next_charge().1, "2027-03-31 07:00");
    assert_eq!(world.next_charge().1, "2027-04-30 07:00");
    assert_eq!(world.next_charge().1, "2027-05-31 07:00");
    // While a charge is under way: what follows it.
    world.charge(|_| NO_FUNDS);
    world.moves(&Change::Anchor { day: Some(date(2028, 1, 10)), minute: None });
    assert_eq!(world.charge(in_full).charge, ChargeState::Settled);
    assert_eq!(world.next_charge().1, "2027-08-10 07:00");
}

#[test]
fn another_plan_starts_where_the_paid_period_ends() {
    let mut world = World::active(daily(), MADRID, date(2026, 11, 20));
    let plan = monthly();
    let note = world.moves(&Change::Plan(&plan)).unwrap();
    assert_eq!((note.rule, note.charge.period.to_string().as_str()), (Rule::PLAN_MOVED, "20261121"));
    assert_eq!(world.next_charge().1, "2026-11-21 06:00");
    assert_eq!(world.next_charge().1, "2026-12-21 06:00");
    // A charge that was tried in vain is closed, and its time is charged under the new plan: under a number of its own.
    let (first, _) = world.next_send();
    world.answer(NO_FUNDS);
    let daily = PlanRules { id: "news-daily-2".into(), ..daily() };
    let note = world.moves(&Change::Plan(&daily)).unwrap();
    assert_eq!((note.charge.period, note.charge_state), (first.period, ChargeState::Cancelled));
    let (planned, _) = world.next_send();
    assert!(planned.period > first.period && planned.period.date() == first.period.date());
    assert_eq!(planned.attempt_no, 1);
    world.answer(in_full(planned.amount_minor));
    assert_eq!(world.next_charge().0, "20270122");
}

#[test]
fn another_carrier_closes_one_subscription_and_opens_the_next_without_a_period_twice() {
    let mut world = World::active(daily(), MADRID, date(2026, 11, 20));
    let schedule = Schedule { at_minute: 600, ..daily().schedule };
    let plan = PlanRules { id: "beta-daily".into(), carrier: "beta".into(), schedule, ..daily() };
    let canary = Zone::named(CANARY).unwrap();
    let next_id = SubscriptionId(1 << 44);
    let go = |world: &World| {
        change_carrier(&world.sub, &world.rules, &world.zone, (&plan, &canary, next_id)).unwrap()
    };
    let (note, opening) = go(&world);
    assert_eq!((note.rule, note.progress.state), (Rule::CARRIER_MOVED, SubscriptionState::Cancelled));
    assert_eq!((note.progress.next_at, note.progress.paid_until), (None, world.at().paid_until));
    assert!(note.state_event.is_some());
    assert_eq!(
        (opening.progress.period.to_string().as_str(), opening.progress.state),
        ("20261121", SubscriptionState::Active)
    );
    let due = canary.local(opening.progress.next_at.unwrap());
    assert_eq!(due, (date(2026, 11, 21), 600));
    // Tried in vain here: charged there. Paid in part here: it is not.
    world.charge(|_| NO_FUNDS);
    assert_eq!(go(&world).1.progress.period.to_string(), "20261121");
    world.charge(|_| Outcome::Partial { amount_minor: 200 });
    assert_eq!(world.at().collected_minor, 200);
    assert_eq!(go(&world).1.progress.period.to_string(), "20261122");
    let same = PlanRules { carrier: "alfa".into(), ..plan.clone() };
    let refused = change_carrier(&world.sub, &world.rules, &world.zone, (&same, &canary, next_id));
    assert!(matches!(refused, Err(MoveError::Refused(MoveRefused::SameCarrier(_)))));
}

#[test]
fn what_is_not_known_is_not_moved() {
    let mut world = World::active(daily(), MADRID, date(2026, 11, 20));
    let canary = Zone::named(CANARY).unwrap();
    let hour = Change::Anchor { day: None, minute: Some(600) };
    world.charge(|_| LOST);
    assert!(matches!(refused(&world, &Change::Zone(&canary)), MoveRefused::Open { attempt_no: 1, .. }));
    // The next period begins beside it: that one can be moved.
    while world.at().period.to_string() == "20261121" {
        world.until_next().tick();
    }
    let mut fresh = World::active(daily(), MADRID, date(2026, 11, 20));
    assert!(matches!(
        refused(&fresh, &Change::Anchor { day: Some(date(2026, 11, 3)), minute: None }),
        MoveRefused::NoDay(_)
    ));
    let other = PlanRules { id: "x".into(), merchant: "other".into(), ..daily() };
    assert!(matches!(refused(&fresh, &Change::Plan(&other)), MoveRefused::Merchant { .. }));
    let other = PlanRules { id: "x".into(), carrier: "beta".into(), ..daily() };
    assert!(matches!(refused(&fresh, &Change::Plan(&other)), MoveRefused::OtherCarrier { .. }));
    fresh.rules.schedule.window = Window::new(300, 500).unwrap();
    assert!(matches!(refused(&fresh, &hour), MoveRefused::Window { .. }));
    fresh.rules.schedule.window = Window::ALWAYS;
    fresh.rules.missed = Missed::Merge { periods_max: 3 };
    fresh.sub.progress.due_minor *= 2;
    assert!(matches!(refused(&fresh, &Change::Plan(&monthly())), MoveRefused::Merged(_)));
    let due_minor = fresh.at().due_minor;
    fresh.moves(&hour);
    assert_eq!(fresh.at().due_minor, due_minor, "missed periods stay in it");
    fresh.sub.stop_at = Some(fresh.now);
    assert_eq!(refused(&fresh, &hour), MoveRefused::Stopped);
    fresh.sub.flags = FLAG_QUARANTINED;
    fresh.sub.stop_at = None;
    assert_eq!(refused(&fresh, &hour), MoveRefused::Quarantined);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever moves: numbers grow, local dates are neither skipped nor charged twice; one move of the day makes one
    /// period longer.
    #[test]
    fn no_move_skips_or_doubles(script in prop::collection::vec((0..6_u8, 0..28_i8, 0..3_usize), 1..25), months in any::<bool>()) {
        let mut world = World::active(if months { monthly() } else { daily() }, MADRID, date(2026, 11, 20));
        let zones = [MADRID, CANARY, "Asia/Tokyo"].map(|name| Zone::named(name).unwrap());
        let mut last: Option<Period> = None;
        let mut moved = false;
        for (what, day, zone) in script {
            match what {
                0 => {
                    world.moves(&Change::Zone(&zones[zone]));
                }
                1 => { world.moves(&Change::Anchor { day: None, minute: Some(360 + 30 * u16::try_from(day).unwrap()) }); }
                2 if months && !moved => moved |= world.moves(&Change::Anchor { day: Some(date(2028, 1, day + 1)), minute: None }).is_some(),
                3 => { world.later(SignedDuration::from_mins(i64::from(day))); }
                _ => {
                    let (planned, _) = world.next_send();
                    world.answer(in_full(planned.amount_minor));
                    if let Some(last) = last {
                        let gap = (planned.period.date() - last.date()).get_days();
                        let (least, most) = match (months, moved) {
                            (false, _) => (1, 1),
                            (true, false) => (28, 31),
                            (true, true) => (28, 62),
                        };
                        prop_assert!((least..=most).contains(&gap), "{gap} days from {last} to {}", planned.period);
                    }
                    (last, moved) = (Some(planned.period), false);
                }
            }
        }
    }
}
