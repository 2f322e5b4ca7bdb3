#![allow(clippy::unwrap_used)]
use super::*;
use jiff::civil::{Weekday, date};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

fn starts(cadence: Cadence, anchor: Date, count: usize) -> Vec<String> {
    let mut day = cadence.on_or_after(anchor, anchor);
    std::iter::from_fn(|| {
        let this = day?;
        day = cadence.after(anchor, this);
        Some(this.to_string())
    })
    .take(count)
    .collect()
}

#[test]
fn months_clamp_to_the_last_day_and_come_back() {
    assert_eq!(
        starts(Cadence::Months(1), date(2027, 1, 31), 4),
        ["2027-01-31", "2027-02-28", "2027-03-31", "2027-04-30"]
    );
    assert_eq!(starts(Cadence::Months(3), date(2026, 11, 30), 2), ["2026-11-30", "2027-02-28"]);
    assert_eq!(starts(Cadence::Years(1), date(2028, 2, 29), 3), ["2028-02-29", "2029-02-28", "2030-02-28"]);
}

#[test]
fn weeks_keep_their_days_and_their_phase() {
    let on = Weekdays::default().with(Weekday::Monday).with(Weekday::Thursday);
    assert_eq!(
        starts(Cadence::Weeks { every: 2, on }, date(2026, 11, 18), 4),
        ["2026-11-19", "2026-11-30", "2026-12-03", "2026-12-14"]
    );
    let anchored = Cadence::Weeks { every: 1, on: Weekdays::default() };
    assert_eq!(starts(anchored, date(2026, 11, 21), 2), ["2026-11-21", "2026-11-28"]);
}

#[test]
fn once_happens_once() {
    assert_eq!(starts(Cadence::Once, date(2026, 1, 1), 3), ["2026-01-01"]);
    assert_eq!(Cadence::Once.on_or_after(date(2026, 1, 1), date(2026, 1, 2)), None);
}

#[test]
fn due_instants_respect_zone_and_window() {
    let zone = Zone::named("Europe/Madrid").unwrap();
    let window = Window::new(360, 1_320).unwrap();
    let schedule = Schedule::simple(Cadence::Days(1), 400, 1, window);
    let id = SubscriptionId(0);
    let at = |minute| {
        let anchor = Anchor::new(date(2026, 3, 28), minute);
        let period = Period::starting(date(2026, 3, 29), 0).unwrap();
        schedule.due_at(anchor, period, &zone, id).unwrap().to_string()
    };
    assert_eq!(at(400), "2026-03-29T04:40:00Z");
    assert_eq!(at(100), "2026-03-29T04:00:00Z");
    assert_eq!(at(1_330), "2026-03-30T04:00:00Z");
}

#[test]
fn a_window_swallowed_by_a_gap_opens_the_next_day() {
    let zone = Zone::named("Europe/Madrid").unwrap();
    let window = Window::new(120, 180).unwrap();
    let midnight = zone.instant(date(2026, 3, 29), 0).unwrap();
    let (opens, closes) = window.at_or_after(&zone, midnight).unwrap();
    assert_eq!(
        (opens.to_string(), closes.to_string()),
        ("2026-03-30T00:00:00Z".into(), "2026-03-30T01:00:00Z".into())
    );
}

fn weekdays(bits: u8) -> Weekdays {
    let days = Weekday::Monday.cycle_forward().take(7);
    days.filter(|day| bits >> day.to_monday_zero_offset() & 1 == 1).fold(Weekdays::default(), Weekdays::with)
}

fn cadences() -> impl Strategy<Value = Cadence> {
    let on = any::<u8>().prop_map(weekdays);
    prop_oneof![
        (1..400_u16).prop_map(Cadence::Days),
        (1..9_u16, on).prop_map(|(every, on)| Cadence::Weeks { every, on }),
        (1..25_u16).prop_map(Cadence::Months),
        (1..5_u16).prop_map(Cadence::Years),
    ]
}

proptest! {
    #[test]
    fn stepping_and_seeking_find_the_same_starts(
        cadence in cadences(), anchor in 0..20_000_i32, ahead in 0..4_000_i32,
    ) {
        let anchor = crate::period::date_of_days(anchor);
        let target = anchor.checked_add(ahead.days()).unwrap();
        let mut stepped = cadence.on_or_after(anchor, anchor).unwrap();
        while stepped < target {
            let next = cadence.after(anchor, stepped).unwrap();
            prop_assert!(next > stepped);
            stepped = next;
        }
        prop_assert_eq!(cadence.on_or_after(anchor, target).unwrap(), stepped);
    }

    #[test]
    fn anchor_minutes_stay_in_the_window(id in 0..i64::MAX, at in 360..700_u16, spread in 0..400_u16) {
        let window = Window::new(360, 720).unwrap();
        let schedule = Schedule::simple(Cadence::Days(1), at, spread, window);
        prop_assert!(window.contains(schedule.anchor_minute(SubscriptionId(id))));
    }
}

const ZONES: [&str; 7] = [
    "Europe/Madrid",
    "America/St_Johns",
    "America/Sao_Paulo",
    "Pacific/Apia",
    "Pacific/Kiritimati",
    "Australia/Lord_Howe",
    "America/Adak",
];

fn zone_of(index: usize) -> Zone {
    Zone::named(ZONES[index]).unwrap()
}

fn all_cadences() -> impl Strategy<Value = Cadence> {
    let nth = prop_oneof![Just(Nth::First), Just(Nth::Second), Just(Nth::Fourth), Just(Nth::Last)];
    prop_oneof![
        3 => cadences(),
        1 => (1..6_u16, nth, 0..7_i8).prop_map(|(every, nth, day)| Cadence::NthWeekday {
            every,
            nth,
            weekday: Weekday::from_monday_zero_offset(day).unwrap(),
        }),
        1 => (7..1_000_u16).prop_map(Cadence::Minutes),
        1 => (1..100_u16).prop_map(Cadence::Hours),
    ]
}

fn all_schedules() -> impl Strategy<Value = Schedule> {
    (all_cadences(), 0..1_440_u16, any::<bool>()).prop_map(|(cadence, at, several)| {
        let mut schedule = Schedule::simple(cadence, at, 1, Window::ALWAYS);
        if several && cadence.elapsed_minutes().is_none() {
            schedule.at_minute = 30;
            schedule.times = vec![30, 150, 1_410];
        }
        schedule
    })
}

fn period_of(schedule: &Schedule, anchor: Anchor, zone: &Zone, steps: usize) -> Period {
    let mut period = schedule.first_period(anchor, anchor.date, zone).unwrap().unwrap();
    for _ in 0..steps {
        period = schedule.next_period(anchor, period, zone).unwrap().unwrap();
    }
    period
}

#[test]
fn nth_weekdays_of_months() {
    let last_friday = Cadence::NthWeekday { every: 1, nth: Nth::Last, weekday: Weekday::Friday };
    assert_eq!(starts(last_friday, date(2026, 11, 28), 3), ["2026-12-25", "2027-01-29", "2027-02-26"]);
    let quarterly = Cadence::NthWeekday { every: 3, nth: Nth::Second, weekday: Weekday::Tuesday };
    assert_eq!(starts(quarterly, date(2026, 11, 1), 3), ["2026-11-10", "2027-02-09", "2027-05-11"]);
}

#[test]
fn elapsed_time_is_packed_with_the_local_date() {
    // Madrid, 2026-10-25 has 25 hours.
    let zone = zone_of(0);
    let schedule = Schedule::simple(Cadence::Hours(6), 0, 1, Window::ALWAYS);
    let anchor = Anchor::new(date(2026, 10, 24), 1_200);
    let labels: Vec<String> =
        (0..7).map(|steps| period_of(&schedule, anchor, &zone, steps).to_string()).collect();
    let expected = [
        "20261024t2000",
        "20261025t0200",
        "20261025t0800",
        "20261025t1400",
        "20261025t2000",
        "20261026t0100",
        "20261026t0700",
    ];
    assert_eq!(labels, expected);
}

#[test]
fn count_end_start_trial_and_phases_bound_a_subscription() {
    let zone = zone_of(0);
    let mut schedule = Schedule::simple(Cadence::Months(1), 600, 1, Window::ALWAYS);
    schedule.wait = Wait::Trial(7);
    schedule.start = Some(date(2026, 12, 1));
    assert_eq!(schedule.anchor_date(date(2026, 11, 21)), Ok(date(2026, 12, 1)));
    assert_eq!(schedule.anchor_date(date(2026, 12, 21)), Ok(date(2026, 12, 28)));
    assert!(schedule.anchor_date(Date::MAX).is_err());
    schedule.count = Some(3);
    let anchor = Anchor::new(date(2027, 1, 31), 600);
    let third = period_of(&schedule, anchor, &zone, 2);
    assert_eq!(third.to_string(), "20270331");
    assert_eq!(schedule.next_period(anchor, third, &zone), Ok(None));
    schedule.count = None;
    schedule.end = Some(date(2027, 2, 28));
    let second = period_of(&schedule, anchor, &zone, 1);
    assert_eq!(schedule.next_period(anchor, second, &zone), Ok(None));
}

#[test]
fn absurd_values_are_errors() {
    let zone = zone_of(0);
    for cadence in
        [Cadence::Minutes(1), Cadence::Hours(u16::MAX), Cadence::Months(u16::MAX), Cadence::Days(0)]
    {
        let schedule = Schedule::simple(cadence, 0, 1, Window::ALWAYS);
        for day in [Date::MIN, date(2089, 9, 17), Date::MAX] {
            let anchor = Anchor::new(day, 1_439);
            let _ = schedule.first_period(anchor, day, &zone);
            let last = Period::from_number(Period::LIMIT - 1).unwrap();
            let _ = schedule.next_period(anchor, last, &zone);
            let _ = schedule.index_of(anchor, last, &zone);
            let _ = schedule.due_at(anchor, last, &zone, SubscriptionId(i64::MAX));
            let _ = schedule.latest_due(
                anchor,
                Period::from_number(0).unwrap(),
                &zone,
                SubscriptionId(1),
                Timestamp::MAX,
            );
        }
    }
}

#[test]
fn years_of_minutes_are_caught_up_at_once() {
    let zone = zone_of(0);
    let schedule = Schedule::simple(Cadence::Minutes(1), 0, 1, Window::ALWAYS);
    let anchor = Anchor::new(date(2010, 1, 1), 0);
    let first = period_of(&schedule, anchor, &zone, 0);
    let now = "2030-06-01T10:00:30Z".parse().unwrap();
    let latest = schedule.latest_due(anchor, first, &zone, SubscriptionId(0), now).unwrap().unwrap();
    assert_eq!(latest.to_string(), "20300601t1200");
}

#[test]
fn a_moved_anchor_keeps_the_count_and_the_day() {
    let zone = zone_of(0);
    let schedule = Schedule::simple(Cadence::Months(1), 600, 1, Window::ALWAYS);
    let line = Line { schedule: &schedule, anchor: Anchor::new(date(2026, 1, 20), 600), zone: &zone };
    let last = period_of(&schedule, line.anchor, &zone, 12);
    assert_eq!(last.to_string(), "20270120");
    let (anchor, next) = move_anchor(line, last, date(2027, 1, 31)).unwrap();
    let next = next.unwrap();
    assert_eq!(next.to_string(), "20270228");
    let after = schedule.next_period(anchor, next, &zone).unwrap().unwrap();
    assert_eq!((after.to_string(), anchor.date.day()), ("20270331".to_owned(), 31));
    assert_eq!(schedule.index_of(anchor, next, &zone), Ok(13));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn periods_grow_and_are_counted(
        schedule in all_schedules(), day in 1_000..12_000_i32, zone in 0..ZONES.len(), steps in 0..40_usize,
    ) {
        let zone = zone_of(zone);
        let anchor = Anchor::new(crate::period::date_of_days(day), schedule.at_minute);
        let mut period = period_of(&schedule, anchor, &zone, 0);
        for index in 0..steps {
            prop_assert_eq!(schedule.index_of(anchor, period, &zone), Ok(u32::try_from(index).unwrap()));
            let Ok(Some(next)) = schedule.next_period(anchor, period, &zone) else { return Ok(()) };
            prop_assert!(next > period);
            prop_assert!(
                schedule.due_at(anchor, period, &zone, SubscriptionId(0)).unwrap()
                    <= schedule.due_at(anchor, next, &zone, SubscriptionId(0)).unwrap()
            );
            period = next;
        }
    }

    #[test]
    fn a_daily_plan_charges_each_local_day_once(day in 1_000..12_000_i32, zone in 0..ZONES.len()) {
        let zone = zone_of(zone);
        let schedule = Schedule::simple(Cadence::Days(1), 600, 1, Window::ALWAYS);
        let anchor = Anchor::new(crate::period::date_of_days(day), 600);
        for step in 0..20 {
            let period = period_of(&schedule, anchor, &zone, usize::try_from(step).unwrap());
            prop_assert_eq!(period.date(), crate::period::date_of_days(day + step));
        }
    }

    #[test]
    fn changes_neither_skip_nor_double(
        old in all_schedules(), new in all_schedules(), day in 1_000..10_000_i32, wanted in 0..800_i32,
        zones in (0..ZONES.len(), 0..ZONES.len()), steps in 0..8_usize, pause_s in 0..20_000_000_i64,
    ) {
        let (here, there) = (zone_of(zones.0), zone_of(zones.1));
        let anchor = Anchor::new(crate::period::date_of_days(day), old.at_minute);
        let line = Line { schedule: &old, anchor, zone: &here };
        let last = period_of(&old, anchor, &here, steps);
        let ends = old.next_period(anchor, last, &here).unwrap().unwrap();
        let wanted = crate::period::date_of_days(day + wanted);

        // Another zone: the next label, or where elapsed time went back beyond the last label, the next free one.
        let moved = first_after(line, Line { zone: &there, ..line }, last).unwrap().unwrap();
        prop_assert!(moved > last);
        if old.cadence.elapsed_minutes().is_none() {
            prop_assert_eq!(moved, ends);
        }
        // Another anchor: not before the end, less than one period after it.
        let (rebased, next) = move_anchor(line, last, wanted).unwrap();
        let next = next.unwrap();
        prop_assert!(next >= ends);
        prop_assert_eq!(old.index_of(rebased, next, &here), Ok(u32::try_from(steps).unwrap() + 1));
        let unmoved = old.cadence.after(anchor.date, ends.date()).unwrap();
        if matches!(old.cadence, Cadence::Days(_) | Cadence::Months(_) | Cadence::Years(_)) {
            let longest = (unmoved - ends.date()).get_days() + 3;
            prop_assert!((next.date() - ends.date()).get_days() <= longest, "{next} after {ends}");
        }
        // Another plan.
        let target = Line { schedule: &new, anchor: Anchor::new(anchor.date, new.at_minute), zone: &there };
        let (opened, first) = open_after(line, target, Sold::through(line, last).unwrap()).unwrap();
        let first = first.unwrap();
        prop_assert!(first > last);
        if new.cadence.elapsed_minutes().is_none() && old.cadence.elapsed_minutes().is_none() {
            prop_assert!(first >= ends);
        }
        prop_assert!(new.next_period(opened, first, &there).unwrap().is_none_or(|next| next > first));
        // What was never tried is sold as if it had not been there: the same instant, and its number may be used again.
        let sold = Sold::before(line, ends).unwrap();
        prop_assert_eq!(first_unsold(line, line, sold).unwrap(), Some(ends));
        let (again, unsold) = open_after(line, target, sold).unwrap();
        let unsold = unsold.unwrap();
        prop_assert!(unsold > last);
        let dated = new.cadence.elapsed_minutes().is_none() && old.cadence.elapsed_minutes().is_none();
        if dated {
            prop_assert_eq!((again, unsold), (opened, first));
        }
        // What was tried in vain gives its time back, but not its number.
        let (_, retried) = open_after(line, target, Sold::without(line, last).unwrap()).unwrap();
        let retried = retried.unwrap();
        prop_assert!(retried > last);
        if dated && matches!(new.cadence, Cadence::Days(_) | Cadence::Months(_)) {
            prop_assert!(retried <= first);
        }
        // A pause.
        let at = here.instant(last.date(), 0).unwrap() + SignedDuration::from_secs(pause_s);
        for how in [Resume::KeepDates, Resume::ShiftDates { paused_on: last.date() }] {
            let (anchor, next) = resume(line, last, at, how).unwrap();
            let next = next.unwrap();
            prop_assert!(next >= ends || old.cadence.elapsed_minutes().is_some() && next > last);
            prop_assert!(next.date() >= here.local(at).0);
            prop_assert!(old.next_period(anchor, next, &here).unwrap().is_none_or(|after| after > next));
        }
    }

    #[test]
    fn spread_stays_within_its_bounds(id in 0..i64::MAX, spread in 1..300_u16) {
        let mut schedule = Schedule::simple(Cadence::Days(1), 400, spread, Window::ALWAYS);
        let minute = schedule.anchor_minute(SubscriptionId(id));
        prop_assert!((400..400 + spread).contains(&minute));
        schedule.times = vec![400, 800];
        let zone = zone_of(0);
        let anchor = Anchor::new(date(2026, 11, 20), minute);
        let period = Period::starting(date(2026, 11, 21), 800).unwrap();
        let due = schedule.due_at(anchor, period, &zone, SubscriptionId(id)).unwrap();
        prop_assert!((800..800 + spread).contains(&zone.local(due).1));
    }
}

#[test]
fn what_is_overdue_lasts_until_its_window_closes_or_its_next_time_of_day() {
    let zone = Zone::named("Africa/Tunis").unwrap();
    let window = Window::new(480, 1_200).unwrap();
    let mut schedule = Schedule::simple(Cadence::Days(1), 540, 0, window);
    let closes = |schedule: &Schedule, at: &str| {
        let (until, minutes) = schedule.closes(&zone, at.parse().unwrap()).unwrap();
        (until.to_string(), minutes)
    };
    // Tunis is an hour ahead: 08:00 to 20:00 there.
    assert_eq!(closes(&schedule, "2026-12-01T12:00:00Z"), ("2026-12-01T19:00:00Z".to_owned(), None));
    assert_eq!(closes(&schedule, "2026-12-01T19:00:00Z").0, "2026-12-02T19:00:00Z", "closed: the next day's");
    schedule.times = vec![540, 900];
    assert_eq!(closes(&schedule, "2026-12-01T12:00:00Z").0, "2026-12-01T14:00:00Z");
    assert_eq!(
        closes(&schedule, "2026-12-01T14:00:00Z").0,
        "2026-12-01T19:00:00Z",
        "no time of this day follows"
    );
    assert_eq!(closes(&schedule, "2026-12-01T20:00:00Z").0, "2026-12-02T08:00:00Z");
    let hourly = Schedule::simple(Cadence::Hours(2), 540, 0, window);
    assert_eq!(closes(&hourly, "2026-12-01T12:00:00Z"), ("2026-12-01T19:00:00Z".to_owned(), Some(120)));
}
