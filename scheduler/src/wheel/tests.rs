//! The wheel alone: what it gives out, and in which sequence.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use super::*;

fn entry(shard: Shard, sequence: u32, at_ms: i64) -> WheelEntry {
    WheelEntry { id: shard.id(sequence), at_ms, plan_no: 1, zone_no: 1, charges: true }
}

const FOR_EVER: Closing = Closing { closes_ms: i64::MAX, period_ms: i64::MAX };

fn at(now_ms: i64) -> Moment<'static> {
    Moment { now_ms, machine_ms: 0, slack_ms: 0, version: 1, closing: &|_, _| FOR_EVER }
}

fn wheel(shards: &[Shard], until_ms: i64) -> Wheel {
    let mut wheel = Wheel::new(100, 0, Arc::default());
    for shard in shards {
        wheel.add_shard(*shard);
        wheel.begin_fill(*shard, until_ms);
    }
    wheel
}

#[test]
fn gives_what_is_due_and_no_more() {
    let shard = Shard(1 << 12);
    let mut wheel = wheel(&[shard], 10_000);
    for (sequence, at) in [(3, 150), (1, 120), (2, 199), (4, 900)] {
        wheel.insert(entry(shard, sequence, at));
    }
    assert_eq!([99, 120, 150, 199, 200, 900].map(|now_ms| wheel.due_len(now_ms)), [0, 1, 2, 3, 3, 4]);
    assert_eq!(wheel.due(&at(150), 10, &mut |_| 10), [shard.id(1), shard.id(3)]);
    assert_eq!(wheel.due(&at(150), 10, &mut |_| 10), Vec::<i64>::new());
    assert_eq!(wheel.due(&at(1_000), 10, &mut |_| 10), [shard.id(2), shard.id(4)]);
    assert_eq!(wheel.len(), 0);
}

#[test]
fn room_is_per_carrier_and_carriers_take_turns() {
    let shards = [Shard(1 << 12), Shard(1 << 12 | 1), Shard(2 << 12)];
    let mut wheel = wheel(&shards, 10_000);
    for shard in shards {
        for sequence in 0..10 {
            wheel.insert(entry(shard, sequence, 1));
        }
    }
    let due = wheel.due(&at(1), 100, &mut |carrier| if carrier == 1 { 4 } else { 0 });
    assert_eq!(due.len(), 4);
    assert!(due.iter().all(|id| id >> 44 == 1));
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..8 {
        for id in wheel.due(&at(1), 4, &mut |_| 4) {
            assert!(seen.insert(id));
        }
    }
    assert_eq!(seen.len(), 26);
}

#[test]
fn draining_gives_nothing_and_beyond_the_horizon_is_dropped() {
    let shard = Shard(1 << 12);
    let mut wheel = wheel(&[shard], 1_000);
    wheel.insert(entry(shard, 1, 10));
    wheel.insert(entry(shard, 2, 1_000));
    wheel.insert(entry(Shard(9 << 12), 1, 10));
    assert_eq!(wheel.len(), 1);
    wheel.keep(entry(Shard(9 << 12), 1, 10));
    wheel.keep(entry(shard, 3, 5_000));
    assert_eq!(wheel.len(), 2, "what is put back is kept beyond the horizon too");
    wheel.set_draining(shard, true);
    assert!(wheel.due(&at(5_000), 10, &mut |_| 10).is_empty());
    wheel.set_draining(shard, false);
    assert_eq!(wheel.due(&at(5_000), 10, &mut |_| 10).len(), 2);
    wheel.end_fill(shard);
    assert_eq!(wheel.loaded_until_ms(shard), Some(1_000));
}

#[test]
fn what_does_not_fit_goes_by_closing_then_by_due_instant_over_all_shards() {
    let shards = [Shard(1 << 12), Shard(1 << 12 | 1)];
    let mut wheel = wheel(&shards, 10_000);
    for (shard, sequence, at_ms, plan_no) in [
        (0, 1, 10, 2),
        (0, 2, 90, 1),
        (1, 3, 20, 2),
        (1, 4, 80, 1),
        (0, 5, 85, 1),
        (1, 6, 5, 3),
        (0, 7, 95, 0),
    ] {
        let charges = plan_no > 0;
        wheel.keep(WheelEntry { plan_no, charges, ..entry(shards[shard], sequence, at_ms) });
    }
    let closing = |plan_no: i32, _| Closing { closes_ms: i64::from(plan_no) * 1_000, period_ms: i64::MAX };
    let moment = Moment { closing: &closing, ..at(100) };
    let mut given = Vec::new();
    while wheel.len() > 0 {
        let one = wheel.due(&moment, 1, &mut |_| 1);
        assert_eq!(one.len(), 1);
        given.push(one[0] as u32);
    }
    // The deadline (7) goes at once, the charges follow.
    assert_eq!(given, [7, 4, 5, 2, 1, 3, 6]);
}

#[test]
fn deadlines_take_half_of_the_places_while_charges_wait() {
    let shard = Shard(1 << 12);
    let mut wheel = wheel(&[shard], 10_000);
    for sequence in 0..100 {
        wheel.keep(WheelEntry { charges: sequence % 2 == 0, ..entry(shard, sequence, 1) });
    }
    for _ in 0..10 {
        let given = wheel.due(&at(1), 100, &mut |_| 4);
        assert_eq!(given.iter().filter(|id| *id % 2 == 0).count(), 2, "{given:?}");
    }
    let (mut charges, mut others) = (0, 0);
    for _ in 0..20 {
        let given = wheel.due(&at(1), 100, &mut |_| 1);
        (charges, others) = (charges + (given[0] + 1) % 2, others + given[0] % 2);
    }
    assert_eq!((charges, others), (10, 10), "one place at a time is shared, too");
}

#[test]
fn a_window_that_has_closed_is_looked_up_again_and_so_is_everything_under_a_new_book() {
    let shard = Shard(1 << 12);
    let mut wheel = wheel(&[shard], 10_000);
    for (sequence, plan_no) in [(1, 1), (2, 1), (3, 2), (4, 2)] {
        wheel.keep(WheelEntry { plan_no, ..entry(shard, sequence, i64::from(sequence)) });
    }
    // Plan 1 closes at 100, and then on the next day; plan 2 at 200.
    let closing = |plan_no: i32, now_ms: i64| {
        let closes_ms = if plan_no == 2 {
            200
        } else if now_ms < 100 {
            100
        } else {
            1_100
        };
        Closing { closes_ms, period_ms: i64::MAX }
    };
    let early = |plan_no, _| closing(plan_no, 50);
    let late = |plan_no, _| closing(plan_no, 100);
    assert_eq!(wheel.due(&Moment { closing: &early, ..at(50) }, 1, &mut |_| 1), [shard.id(1)]);
    assert_eq!(wheel.due(&Moment { closing: &late, ..at(100) }, 1, &mut |_| 1), [shard.id(3)]);
    // The new book moves plan 1 before plan 2 again.
    let moved =
        |plan_no, _| if plan_no == 1 { Closing { closes_ms: 150, period_ms: i64::MAX } } else { late(2, 0) };
    let at = Moment { closing: &moved, version: 2, ..at(101) };
    assert_eq!(wheel.due(&at, 1, &mut |_| 1), [shard.id(2)]);
    assert_eq!(wheel.due(&at, 9, &mut |_| 9), [shard.id(4)]);
}

#[test]
fn a_period_of_an_hour_is_over_before_its_window_closes() {
    let shard = Shard(1 << 12);
    let mut wheel = wheel(&[shard], 10_000);
    // Due at 10 with an hour of 60: until 70. The other plan's window closes at 80.
    for (sequence, at_ms, plan_no) in [(1, 1, 2), (2, 10, 1), (3, 30, 1)] {
        wheel.keep(WheelEntry { plan_no, ..entry(shard, sequence, at_ms) });
    }
    let closing = |plan_no: i32, _| match plan_no {
        1 => Closing { closes_ms: 1_000, period_ms: 60 },
        _ => Closing { closes_ms: 80, period_ms: i64::MAX },
    };
    let moment = Moment { closing: &closing, ..at(40) };
    let given: Vec<i64> = (0..3).flat_map(|_| wheel.due(&moment, 1, &mut |_| 1)).collect();
    assert_eq!(given, [shard.id(2), shard.id(1), shard.id(3)]);
}

#[test]
fn a_shard_that_leaves_takes_its_part_of_the_backlog_along() {
    let shards = [Shard(1 << 12), Shard(1 << 12 | 1)];
    let mut wheel = wheel(&shards, 10_000);
    for sequence in 0..10 {
        wheel.insert(entry(shards[0], sequence, 1));
        wheel.insert(entry(shards[1], sequence, 1));
    }
    assert_eq!(wheel.due(&at(1), 100, &mut |_| 1).len(), 1);
    assert_eq!((wheel.len(), wheel.due_len(1)), (19, 19));
    wheel.set_draining(shards[1], true);
    assert_eq!(wheel.len(), 19, "it rests, nothing is lost");
    let given = wheel.due(&at(1), 100, &mut |_| 100);
    assert!(given.iter().all(|id| Shard((id >> 32) as i32) == shards[0]), "{given:?}");
    wheel.set_draining(shards[1], false);
    assert_eq!(wheel.due(&at(1), 100, &mut |_| 4).len(), 4);
    let left = wheel.len();
    assert_eq!(given.len() + 1 + 4 + left, 20);
    wheel.remove_shard(shards[1]);
    assert_eq!((wheel.len(), wheel.bytes()), (0, 0));
}

#[test]
fn an_entry_takes_sixteen_bytes() {
    assert_eq!(size_of::<Slot>(), 16);
    let shard = Shard(1 << 12);
    let mut wheel = wheel(&[shard], 10_000_000);
    for sequence in 0..100_000 {
        wheel.insert(entry(shard, sequence, i64::from(sequence % 100)));
    }
    let held = wheel.bytes();
    assert!((1_600_000..=3_200_000).contains(&held), "{held}");
    assert_eq!(wheel.due(&at(200), 1_000, &mut |_| 1_000).len(), 1_000);
    // What was not put in order yet is in the buckets still.
    assert_eq!(wheel.len(), 99_000);
    while wheel.len() > 1_000 {
        wheel.due(&at(200), 1_000, &mut |_| 1_000);
        assert!(wheel.bytes() <= 2 * held, "{}", wheel.bytes());
    }
}

/// Two wheels of one carrier, one per stripe; each waits for the other's sooner closings.
fn pair(shards: &[Shard]) -> [Wheel; 2] {
    let heads: Arc<Heads> = Arc::default();
    [0, 1].map(|number| {
        let mut wheel = Wheel::new(100, number, Arc::clone(&heads));
        for shard in shards.iter().filter(|shard| shard.0 as usize % 2 == number) {
            wheel.add_shard(*shard);
            wheel.begin_fill(*shard, i64::MAX);
        }
        wheel
    })
}

#[test]
fn a_wheel_that_says_nothing_any_more_holds_nobody_up() {
    let shards = [Shard(1 << 12), Shard(1 << 12 | 1)];
    let [mut one, mut other] = pair(&shards);
    let closing = |plan_no: i32, _| Closing { closes_ms: 1_000 * i64::from(plan_no), period_ms: i64::MAX };
    for sequence in 0..3 {
        one.insert(WheelEntry { plan_no: 1, ..entry(shards[0], sequence, 1) });
        other.insert(WheelEntry { plan_no: 2, ..entry(shards[1], sequence, 1) });
    }
    let moment = |machine_ms| Moment { closing: &closing, machine_ms, ..at(10) };
    assert_eq!(one.due(&moment(0), 1, &mut |_| 1).len(), 1);
    assert!(other.due(&moment(500), 9, &mut |_| 9).is_empty(), "what closes sooner waits in the other");
    assert_eq!(other.due(&moment(1_000), 1, &mut |_| 1).len(), 1);
    assert_eq!(one.due(&moment(1_000), 9, &mut |_| 9).len(), 2);
    assert_eq!(other.due(&moment(1_001), 9, &mut |_| 9).len(), 2, "the other has nothing more");
}

/// One overdue entry of a property test.
#[derive(Debug, Clone, Copy)]
struct Case {
    shard: usize,
    plan_no: i32,
    zone_no: i16,
    at_ms: i64,
}

fn cases() -> impl Strategy<Value = Vec<Case>> {
    let case = (0..4_usize, 1..5_i32, 0..3_i16, 0..900_i64)
        .prop_map(|(shard, plan_no, zone_no, at_ms)| Case { shard, plan_no, zone_no, at_ms });
    proptest::collection::vec(case, 1..200)
}

fn closes(plan_no: i32, zone_no: i16) -> Closing {
    let closes_ms = 1_000 + i64::from(plan_no) * 500 - i64::from(zone_no) * 250;
    Closing { closes_ms, period_ms: i64::MAX }
}

proptest! {
    /// In one wheel each round gives exactly the first ones of all that is overdue, whatever the room is.
    #[test]
    fn one_wheel_gives_exactly_the_first(cases in cases(), rooms in proptest::collection::vec(0..20_usize, 1..400)) {
        let shards: Vec<Shard> = (0..4).map(|slice| Shard(1 << 12 | slice)).collect();
        let mut wheel = wheel(&shards, i64::MAX);
        let (mut model, mut keys) = (Vec::new(), std::collections::BTreeMap::new());
        for (sequence, case) in (0_u32..).zip(&cases) {
            let Case { plan_no, zone_no, at_ms, .. } = *case;
            let new = WheelEntry { plan_no, zone_no, ..entry(shards[case.shard], sequence, at_ms) };
            wheel.insert(new);
            model.push((closes(plan_no, zone_no).closes_ms, at_ms));
            keys.insert(new.id, (closes(plan_no, zone_no).closes_ms, at_ms));
        }
        model.sort_unstable();
        let moment = Moment { closing: &closes, ..at(900) };
        for room in rooms {
            let given = wheel.due(&moment, 10, &mut |_| room);
            let rest = model.split_off(room.min(10).min(model.len()));
            // Which of two with the same instants goes first does not matter.
            let mut first: Vec<_> = given.iter().filter_map(|id| keys.remove(id)).collect();
            first.sort_unstable();
            prop_assert_eq!(first, model);
            model = rest;
        }
        prop_assert_eq!(wheel.len(), model.len());
    }

    /// Over two wheels nothing goes before what closes sooner in either of them; among what closes together the due
    /// instants keep within the slack and a round; and everything goes exactly once.
    #[test]
    fn two_wheels_give_nothing_before_what_closes_sooner(
        cases in cases(),
        rounds in proptest::collection::vec((0..2_usize, 0..6_usize), 1_200),
    ) {
        let shards: Vec<Shard> = (0..4).map(|slice| Shard(1 << 12 | slice)).collect();
        let mut wheels = pair(&shards);
        let mut waiting = std::collections::BTreeMap::new();
        for (sequence, case) in (0_u32..).zip(&cases) {
            let Case { plan_no, zone_no, at_ms, .. } = *case;
            let new = WheelEntry { plan_no, zone_no, ..entry(shards[case.shard], sequence, at_ms) };
            wheels[case.shard % 2].insert(new);
            waiting.insert(new.id, (closes(plan_no, zone_no).closes_ms, at_ms));
        }
        let slack_ms = 50;
        let moment = Moment { closing: &closes, slack_ms, ..at(900) };
        // Each has looked once: from then on they know of each other.
        for wheel in &mut wheels {
            prop_assert!(wheel.due(&moment, 9, &mut |_| 0).is_empty());
        }
        for (who, room) in rounds {
            let given = wheels[who].due(&moment, 9, &mut |_| room);
            let gone: Vec<(i64, i64)> = given.iter().filter_map(|id| waiting.remove(id)).collect();
            prop_assert_eq!(gone.len(), given.len(), "each goes once");
            let Some(last) = gone.iter().max() else { continue };
            for (closes_ms, at_ms) in waiting.values() {
                prop_assert!(*closes_ms >= last.0, "{last:?} went before {closes_ms} {at_ms}");
                prop_assert!(*closes_ms > last.0 || last.1 <= at_ms + slack_ms);
            }
        }
        for _ in 0..2 * cases.len() {
            for wheel in &mut wheels {
                for id in wheel.due(&moment, 9, &mut |_| 9) {
                    waiting.remove(&id);
                }
            }
        }
        prop_assert!(waiting.is_empty(), "nothing is left behind");
    }
}
