#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::schedule::Nth;
use jiff::civil::{Weekday, date};
use proptest::prelude::*;

fn holiday(name: &str, dates: Dates) -> Holiday {
    Holiday { name: Arc::from(name), dates }
}

fn rules() -> CalendarRules {
    CalendarRules {
        windows: vec![Window::new(300, 1_400).unwrap()],
        quiet: vec![Part::new(1_320, 480).unwrap()],
        rest_days: Weekdays::default().with(Weekday::Sunday),
        holidays: vec![
            holiday("Christmas Day", Dates::Fixed { month: 12, day: 25 }),
            holiday(
                "Thanksgiving",
                Dates::NthWeekday { month: 11, nth: Nth::Fourth, weekday: Weekday::Thursday },
            ),
            holiday("Good Friday", Dates::Listed(vec![date(2027, 3, 26)])),
        ],
        maintenance: vec![Maintenance {
            on: Weekdays::default().with(Weekday::Monday),
            part: Part::new(1_200, 600).unwrap(),
        }],
        paydays: Paydays { days: vec![15, 31] },
    }
}

fn found(at: (Date, u16)) -> (String, Option<Why>) {
    let zone = Zone::named("Europe/Madrid").unwrap();
    let calendar = Calendar::new(rules()).unwrap();
    let at = zone.instant(at.0, at.1).unwrap();
    let allowed = calendar.at_or_after(Window::new(420, 1_320).unwrap(), &zone, at).unwrap();
    let (day, minute) = zone.local(allowed.from);
    (format!("{day} {:02}:{:02}", minute / 60, minute % 60), allowed.why)
}

#[test]
fn what_is_open_stays_where_it_is() {
    assert_eq!(found((date(2026, 11, 20), 600)), ("2026-11-20 10:00".to_owned(), None));
}

#[test]
fn every_hole_names_itself() {
    let says = |at: (Date, u16), moved: &str, why: Why| assert_eq!(found(at), (moved.to_owned(), Some(why)));
    // Friday 06:00: the plan opens at 7, quiet hours end at 8.
    says((date(2026, 11, 20), 360), "2026-11-20 08:00", Why::QuietHours);
    // Sunday is a day of rest.
    says((date(2026, 11, 22), 600), "2026-11-23 08:00", Why::RestDay);
    // Monday 20:00 to Tuesday 10:00 is maintenance.
    says((date(2026, 11, 23), 1_210), "2026-11-24 10:00", Why::Maintenance);
    // The fourth Thursday of November.
    says((date(2026, 11, 26), 600), "2026-11-27 08:00", Why::Holiday(Arc::from("Thanksgiving")));
    // Christmas is a Friday in 2026; the evening before is closed by the window only.
    says((date(2026, 12, 24), 1_330), "2026-12-26 08:00", Why::Holiday(Arc::from("Christmas Day")));
    says((date(2027, 3, 26), 500), "2027-03-27 08:00", Why::Holiday(Arc::from("Good Friday")));
}

#[test]
fn paydays_are_the_next_within_reach() {
    let calendar = Calendar::new(rules()).unwrap();
    assert_eq!(calendar.payday(date(2027, 2, 26), 3), Some(date(2027, 2, 28)));
    assert_eq!(calendar.payday(date(2027, 2, 12), 3), Some(date(2027, 2, 15)));
    assert_eq!(calendar.payday(date(2027, 2, 12), 2), None);
    assert_eq!(calendar.payday(date(2027, 2, 15), 0), Some(date(2027, 2, 15)));
    assert_eq!(Calendar::default().payday(date(2027, 2, 15), 9), None);
}

#[test]
fn a_calendar_that_never_opens_is_an_error_and_not_a_loop() {
    let closed =
        CalendarRules { quiet: vec![Part::new(0, 720).unwrap(), Part::new(700, 0).unwrap()], ..rules() };
    assert!(matches!(Calendar::new(closed), Err(CalendarError::Closed { .. })));
    let many = CalendarRules { quiet: vec![Part::new(0, 1).unwrap(); 17], ..rules() };
    assert!(matches!(Calendar::new(many), Err(CalendarError::TooMany { count: 17, .. })));
    let zone = Zone::named("Africa/Tunis").unwrap();
    let night = Window::new(1_380, 1_440).unwrap();
    let at = zone.instant(date(2026, 11, 20), 0).unwrap();
    let error = Calendar::new(rules()).unwrap().at_or_after(night, &zone, at).unwrap_err();
    assert!(matches!(error, CalendarError::Closed { .. }), "{error}");
    // The ends of the calendar.
    for at in [Timestamp::MIN, Timestamp::MAX] {
        let _ = Calendar::default().at_or_after(Window::ALWAYS, &zone, at);
        let _ = Calendar::new(rules()).unwrap().at_or_after(Window::ALWAYS, &zone, at);
    }
}

#[test]
fn a_window_opens_shuts_and_opens_again_when_the_clock_is_set_back_inside_of_it() {
    // Madrid, 2026-10-25: from 03:00 back to 02:00. The window is 02:30 to 05:00.
    let zone = Zone::named("Europe/Madrid").unwrap();
    let window = Window::new(150, 300).unwrap();
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    let open = |from: &str| window.at_or_after(&zone, at(from)).unwrap();
    assert_eq!(open("2026-10-25T00:40:00Z"), (at("2026-10-25T00:40:00Z"), at("2026-10-25T01:00:00Z")));
    assert_eq!(open("2026-10-25T01:00:00Z"), (at("2026-10-25T01:30:00Z"), at("2026-10-25T04:00:00Z")));
}

#[test]
fn numbers_of_reasons_are_unique() {
    let all = [
        Why::Gap,
        Why::Payday,
        Why::Window,
        Why::QuietHours,
        Why::Maintenance,
        Why::RestDay,
        Why::Holiday(Arc::from("x")),
    ];
    let numbers: std::collections::BTreeSet<i16> = all.iter().map(Why::number).collect();
    let sentences: std::collections::BTreeSet<String> = all.iter().map(Why::sentence).collect();
    assert_eq!((numbers.len(), sentences.len()), (all.len(), all.len()));
}

const ZONES: [&str; 6] = [
    "Europe/Madrid",
    "America/St_Johns",
    "America/Sao_Paulo",
    "Pacific/Apia",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
];

proptest! {
    /// The local clock itself says whether an instant is allowed; the answer is the first one.
    #[test]
    fn the_answer_is_the_first_allowed_instant(
        zone in 0..ZONES.len(), day in 2_500..12_000_i32, second in 0..86_400_i64,
        from in 0..1_400_u16, length in 1..1_440_u16, with_holes in any::<bool>(),
    ) {
        let zone = Zone::named(ZONES[zone]).unwrap();
        let window = Window::new(from, (from + length).min(DAY_MINUTES)).unwrap();
        let calendar = if with_holes { Calendar::new(rules()).unwrap() } else { Calendar::default() };
        let at = Timestamp::from_second(Zone::day_s(day) + second).unwrap();
        let open = |at: Timestamp| {
            let place = zone.place(at.as_second());
            calendar.obstacle(window, place.day, minute_of(&place)).is_none()
        };
        let Ok(allowed) = calendar.at_or_after(window, &zone, at) else {
            prop_assert!(with_holes);
            return Ok(());
        };
        prop_assert!(open(allowed.from) && allowed.from < allowed.until);
        let minute = |at: Timestamp| at.as_second().div_euclid(60);
        // Nothing before it is open, and nothing up to its end is shut; looked at for two days at most.
        for shut in (minute(at)..minute(allowed.from)).take(2_880) {
            let shut = Timestamp::from_second(shut * 60 + 59).unwrap();
            prop_assert!(shut >= allowed.from || !open(shut), "{shut} is open, but {} was said", allowed.from);
        }
        for inside in minute(allowed.from) + 1..minute(allowed.until) {
            prop_assert!(open(Timestamp::from_second(inside * 60).unwrap()));
        }
    }
}
