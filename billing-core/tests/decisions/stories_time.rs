//! Stories of clocks and calendars: changes of the hour, month ends, windows, and time that was missed.

use billing_core::outcome::{Hindrance, Outcome};
use billing_core::plan::{Missed, PlanRules};
use billing_core::reason::Rule;
use billing_core::schedule::{Cadence, Schedule, Window};
use billing_core::states::ChargeState;
use billing_core::triage::{NoteKind, Triage};
use billing_core::zone::Zone;
use jiff::SignedDuration;
use jiff::civil::{Date, date};

use crate::world::{LOST, NO_FUNDS, PRICE, World, daily};

const MADRID: &str = "Europe/Madrid";
const DAY: SignedDuration = SignedDuration::from_hours(24);

fn in_full(asked: i64) -> Outcome {
    Outcome::Charged { amount_minor: asked }
}

fn every(cadence: Cadence) -> PlanRules {
    PlanRules { schedule: Schedule { cadence, ..daily().schedule }, ..daily() }
}

fn missing(missed: Missed, cadence: Cadence) -> PlanRules {
    PlanRules { missed, ..every(cadence) }
}

fn paid_at(rules: PlanRules, from: Date, count: usize) -> Vec<(String, String)> {
    let mut world = World::new(rules, MADRID, from);
    let mut seen = Vec::new();
    for _ in 0..count {
        let (planned, rule) = world.next_send();
        assert_eq!((rule, planned.attempt_no), (Rule::DUE_SEND, 1));
        let decision = world.answer(in_full(PRICE));
        assert_eq!((decision.rule, decision.charge), (Rule::SETTLE_FULL, ChargeState::Settled));
        seen.push((planned.period.to_string(), world.now.to_string()));
    }
    assert_eq!(world.moved_minor, PRICE * i64::try_from(count).unwrap());
    seen
}

fn pairs<const N: usize>(expected: [(&str, &str); N]) -> Vec<(String, String)> {
    expected.map(|(period, at)| (period.to_owned(), at.to_owned())).to_vec()
}

#[test]
fn daily_charges_keep_their_local_hour_across_both_changes_of_the_clock() {
    assert_eq!(
        paid_at(daily(), date(2026, 3, 28), 3),
        pairs([
            ("20260328", "2026-03-28T05:00:00Z"),
            ("20260329", "2026-03-29T04:00:00Z"),
            ("20260330", "2026-03-30T04:00:00Z"),
        ])
    );
    assert_eq!(
        paid_at(daily(), date(2026, 10, 24), 3),
        pairs([
            ("20261024", "2026-10-24T04:00:00Z"),
            ("20261025", "2026-10-25T05:00:00Z"),
            ("20261026", "2026-10-26T05:00:00Z"),
        ])
    );
}

#[test]
fn an_hour_that_does_not_exist_loses_no_charge_and_one_that_comes_twice_makes_no_second() {
    let schedule = Schedule { at_minute: 150, ..daily().schedule };
    let at_half_past_two = PlanRules { schedule, ..daily() };
    assert_eq!(
        paid_at(at_half_past_two.clone(), date(2026, 3, 28), 3),
        pairs([
            ("20260328", "2026-03-28T01:30:00Z"),
            ("20260329", "2026-03-29T01:00:00Z"),
            ("20260330", "2026-03-30T00:30:00Z"),
        ])
    );
    assert_eq!(
        paid_at(at_half_past_two, date(2026, 10, 24), 3),
        pairs([
            ("20261024", "2026-10-24T00:30:00Z"),
            ("20261025", "2026-10-25T00:30:00Z"),
            ("20261026", "2026-10-26T01:30:00Z"),
        ])
    );
}

#[test]
fn a_month_anchored_on_the_31st_comes_back_to_it() {
    let periods: Vec<_> = paid_at(every(Cadence::Months(1)), date(2027, 1, 31), 5)
        .into_iter()
        .map(|(period, _)| period)
        .collect();
    assert_eq!(periods, ["20270131", "20270228", "20270331", "20270430", "20270531"]);
}

#[test]
fn a_closed_window_defers_and_costs_neither_attempt_nor_round() {
    let schedule = Schedule { window: Window::new(360, 1_200).unwrap(), ..daily().schedule };
    let mut world = World::active(PlanRules { schedule, ..daily() }, MADRID, date(2026, 11, 20));
    // The engine stood still from the evening to the night.
    world.later(DAY + SignedDuration::from_hours(14) + SignedDuration::from_secs(1));
    assert_eq!(world.local(), "2026-11-21 20:00");
    let Triage::Note(note) = world.tick() else { panic!("the window is closed") };
    assert_eq!(
        (note.kind, note.rule),
        (NoteKind::Expire, Rule::PERIOD_EXPIRE),
        "the next period is due by then"
    );

    let weekly = every(Cadence::Weeks { every: 1, on: Default::default() });
    let schedule = Schedule { window: Window::new(360, 1_200).unwrap(), ..weekly.schedule };
    let mut world = World::active(PlanRules { schedule, ..weekly }, MADRID, date(2026, 11, 14));
    world.until_next().later(SignedDuration::from_hours(16));
    assert_eq!(world.local(), "2026-11-21 22:00");
    let Triage::Note(note) = world.tick() else { panic!("the window is closed") };
    assert_eq!((note.kind, note.rule), (NoteKind::Defer, Rule::WINDOW_DEFER));
    assert_eq!((world.at().deferrals, world.at().attempt_no, world.at().round), (1, 0, 0));
    let (planned, _) = world.next_send();
    assert_eq!((world.local().as_str(), planned.attempt_no), ("2026-11-22 06:00", 1));
}

#[test]
fn a_retry_outside_the_window_moves_to_its_opening() {
    let weekly = every(Cadence::Weeks { every: 1, on: Default::default() });
    let schedule = Schedule { window: Window::new(360, 660).unwrap(), ..weekly.schedule };
    let mut world = World::active(PlanRules { schedule, ..weekly }, MADRID, date(2026, 11, 14));
    let mut rounds = Vec::new();
    for _ in 0..3 {
        world.charge(|_| NO_FUNDS);
        rounds.push(world.local());
    }
    assert_eq!(rounds, ["2026-11-21 06:00", "2026-11-21 10:00", "2026-11-22 06:00"]);
}

#[test]
fn a_clock_set_back_before_the_opening_closes_the_window_again() {
    // Madrid, 25 October: 02:00 to 03:00 comes twice; charging is allowed from 02:30.
    let window = Window::new(150, 1_320).unwrap();
    let zone = Zone::named(MADRID).unwrap();
    let opens = |at: &str| window.at_or_after(&zone, at.parse().unwrap()).unwrap().0.to_string();
    assert_eq!(opens("2026-10-25T00:10:00Z"), "2026-10-25T00:30:00Z", "the first 02:30");
    assert_eq!(opens("2026-10-25T00:59:59Z"), "2026-10-25T00:59:59Z");
    assert_eq!(opens("2026-10-25T01:00:00Z"), "2026-10-25T01:30:00Z", "the second 02:30");
    assert_eq!(opens("2026-10-25T01:29:59Z"), "2026-10-25T01:30:00Z");
    assert_eq!(opens("2026-10-25T01:30:01Z"), "2026-10-25T01:30:01Z");
    // Newfoundland, 7 November 2010: from 00:01 back to 23:01 of the day before.
    let zone = Zone::named("America/St_Johns").unwrap();
    let window = Window::new(0, 600).unwrap();
    let opens = |at: &str| window.at_or_after(&zone, at.parse().unwrap()).unwrap().0.to_string();
    assert_eq!(opens("2010-11-07T02:30:30Z"), "2010-11-07T02:30:30Z", "the first 00:00");
    assert_eq!(opens("2010-11-07T02:31:00Z"), "2010-11-07T03:30:00Z", "23:01 once more");
}

#[test]
fn after_an_outage_of_three_days_one_late_charge_or_none() {
    for (missed, expected) in [
        (Missed::OnceLate, ("20261124", "2026-11-24 10:00")),
        (Missed::Skip, ("20261125", "2026-11-25 06:00")),
    ] {
        let mut world = World::active(missing(missed, Cadence::Days(1)), MADRID, date(2026, 11, 20));
        world.until_next().later(DAY * 3 + SignedDuration::from_hours(4));
        let Triage::Note(note) = world.tick() else { panic!("days were missed") };
        assert_eq!((note.kind, note.charge_state), (NoteKind::Skip, ChargeState::Skipped));
        assert_eq!(note.charge.period.to_string(), "20261121");
        let (planned, rule) = world.next_send();
        assert_eq!((planned.period.to_string().as_str(), world.local().as_str()), expected);
        assert_eq!(rule, Rule::DUE_SEND);
        world.answer(in_full(PRICE));
        assert_eq!(world.charges.len(), 2, "never one charge per missed day");
    }
}

#[test]
fn after_an_outage_of_three_years_the_period_that_runs_is_found() {
    for (missed, cadence, expected) in [
        (Missed::OnceLate, Cadence::Days(1), "20291120"),
        (Missed::Skip, Cadence::Days(1), "20291121"),
        (Missed::OnceLate, Cadence::Months(1), "20291120"),
        (Missed::Skip, Cadence::Months(1), "20291220"),
        (Missed::OnceLate, Cadence::Days(500), "20290816"),
        (Missed::Skip, Cadence::Days(500), "20301229"),
        (Missed::OnceLate, Cadence::Years(2), "20281120"),
        (Missed::Skip, Cadence::Years(2), "20281120"),
    ] {
        let mut world = World::active(missing(missed, cadence), MADRID, date(2026, 11, 20));
        world.later(DAY * (3 * 365 + 1) + SignedDuration::from_hours(1));
        assert_eq!(world.local(), "2029-11-20 07:00");
        let (planned, _) = world.next_send();
        assert_eq!(planned.period.to_string(), expected, "{missed:?} {cadence:?}");
    }
}

#[test]
fn a_cadence_of_years_survives_an_outage_of_years() {
    // The charge of 2028 was never tried, the one of 2030 fell due meanwhile, 2032 has not come.
    for (missed, expected) in [(Missed::OnceLate, "20301120"), (Missed::Skip, "20321120")] {
        let mut world = World::active(missing(missed, Cadence::Years(2)), MADRID, date(2026, 11, 20));
        world.until_next().later(DAY * 1_290);
        assert_eq!(world.local(), "2032-06-02 07:00");
        assert_eq!(world.next_send().0.period.to_string(), expected);
    }
}

#[test]
fn a_late_retry_does_not_hold_up_or_skip_the_next_period() {
    for missed in [Missed::OnceLate, Missed::Skip] {
        let mut rules = missing(missed, Cadence::Days(1));
        rules.dunning.temporary_delay_s = 5 * 3_600;
        let mut world = World::active(rules, MADRID, date(2026, 11, 20));
        world.next_send();
        let down = Outcome::Temporary { why: Hindrance::Down, listed: true, after_ms: None };
        for _ in 0..5 {
            world.answer(down);
            world.next_send();
        }
        assert_eq!(world.local(), "2026-11-22 06:00", "{missed:?}: on time, not an hour late");
        assert_eq!(world.at().period.to_string(), "20261122");
        let expired: Vec<_> = world.notes.iter().map(|note| (note.kind, note.rule)).collect();
        assert_eq!(expired, [(NoteKind::Expire, Rule::PERIOD_EXPIRE)]);
    }
}

#[test]
fn days_missed_beside_an_unknown_charge_follow_the_plan_too() {
    for (missed, expected) in [(Missed::OnceLate, "20261124"), (Missed::Skip, "20261125")] {
        let mut world = World::active(missing(missed, Cadence::Days(1)), MADRID, date(2026, 11, 20));
        world.charge(|_| LOST);
        world.later(DAY * 3);
        assert_eq!(world.next_send().0.period.to_string(), expected);
        assert_eq!(world.asides.len(), 1);
    }
    for missed in [Missed::OnceLate, Missed::Skip] {
        let mut world = World::active(missing(missed, Cadence::Days(1)), MADRID, date(2026, 11, 20));
        world.charge(|_| LOST);
        assert_eq!(world.next_send().0.period.to_string(), "20261122", "nothing was missed");
    }
}

#[test]
fn a_day_that_samoa_skipped_is_neither_lost_nor_charged_twice() {
    let mut world = World::new(daily(), "Pacific/Apia", date(2011, 12, 28));
    let mut periods = Vec::new();
    for _ in 0..4 {
        periods.push(world.next_send().0.period.to_string());
        world.answer(in_full(PRICE));
    }
    assert_eq!(periods, ["20111228", "20111229", "20111230", "20111231"]);
}
