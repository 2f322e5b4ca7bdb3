//! The all-zones proof: every period and every due instant against a calendar of another library, Python's zoneinfo,
//! with IANA data of its own (tests/allzones). A sample here; everything with
//! `TOLLBOOK_ALL_ZONES=1 cargo test --release -p tests --test allzones`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use billing_core::ids::SubscriptionId;
use billing_core::period::Period;
use billing_core::schedule::{Anchor, Cadence, Nth, Schedule, Weekdays, Window};
use billing_core::zone::Zone;
use chrono::{DateTime, Offset, TimeZone};
use jiff::Timestamp;
use jiff::civil::{Date, Weekday, date};

/// Where the data of tests/allzones, 2026f, and the rules built into the program, 2026e, disagree: the zone, and the
/// local dates between which they do. Nothing else may differ, and each of these must.
const NEWER_DATA: [(&str, Date, Date); 1] = [("America/Havana", date(2026, 10, 31), date(2027, 3, 15))];

#[test]
fn every_period_is_charged_once_and_when_the_other_calendar_says() {
    let how_much = if std::env::var_os("TOLLBOOK_ALL_ZONES").is_some() { "all" } else { "sample" };
    let folder = compiled_zones();
    let mut python = Command::new("python3")
        .arg("-I")
        .arg(here().join("calendar.py"))
        .arg(&folder)
        .arg(how_much)
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 is needed: run scripts/prepare");
    let mut case: Option<Case> = None;
    let mut told = Told::default();
    for line in BufReader::new(python.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        match line.strip_prefix("case ") {
            Some(head) => {
                case.take().into_iter().for_each(|case| case.finish(&mut told));
                case = Case::start(head, &mut told);
            }
            None => case.iter_mut().for_each(|case| case.period(&line, &mut told)),
        }
    }
    case.take().into_iter().for_each(|case| case.finish(&mut told));
    assert!(python.wait().unwrap().success());
    std::fs::remove_dir_all(folder).unwrap();

    eprintln!("{} cases of {} zones, {} periods, {how_much}", told.cases, told.zones.len(), told.periods);
    eprintln!("zones that only the newer data has: {:?}", told.unknown);
    assert!(
        told.wrong.is_empty(),
        "{} differences:\n{}",
        told.wrong.len(),
        told.wrong[..told.wrong.len().min(40)].join("\n")
    );
    let expected: BTreeSet<&str> = NEWER_DATA.iter().map(|(zone, ..)| *zone).collect();
    let found: BTreeSet<&str> = told.newer.iter().map(String::as_str).collect();
    assert_eq!(found, expected, "the list of newer data is out of date");
    assert!(told.zones.len() >= if how_much == "all" { 400 } else { 40 } && told.periods > 50_000);
}

/// chrono-tz only names zones here; where its own rules are older, charging by them would be wrong. This lists where.
#[test]
fn rules_of_the_naming_library_are_older_where_listed() {
    let mut differs = BTreeSet::new();
    for tz in chrono_tz::TZ_VARIANTS {
        let Ok(zone) = Zone::named(tz.name()) else { panic!("{} has no rules", tz.name()) };
        for day in 0..14_976 {
            let at = Timestamp::from_second(946_684_800 + day * 86_400).unwrap();
            let utc = DateTime::from_timestamp(at.as_second(), 0).unwrap().naive_utc();
            let theirs_s = tz.offset_from_utc_datetime(&utc).fix().local_minus_utc();
            let (day, minute) = zone.local(at);
            let shown =
                day.to_datetime(jiff::civil::Time::midnight()).to_zoned(jiff::tz::TimeZone::UTC).unwrap();
            let ours_s = shown.timestamp().as_second() + i64::from(minute) * 60 - at.as_second();
            if i64::from(theirs_s) != ours_s {
                differs.insert((tz.name(), at.to_zoned(jiff::tz::TimeZone::UTC).year()));
                break;
            }
        }
    }
    let listed = include_str!("../allzones/older-in-chrono-tz.txt");
    let found: String = differs.iter().map(|(name, year)| format!("{name} from {year}\n")).collect();
    assert_eq!(found, listed, "write what differs into tests/allzones/older-in-chrono-tz.txt");
}

/// What the comparison found.
#[derive(Default)]
struct Told {
    cases: usize,
    periods: usize,
    zones: BTreeSet<String>,
    unknown: BTreeSet<String>,
    newer: BTreeSet<String>,
    wrong: Vec<String>,
}

/// One schedule of one subscription in one zone, walked side by side.
struct Case {
    head: String,
    zone: Zone,
    schedule: Schedule,
    anchor: Anchor,
    last: Date,
    next: Option<Period>,
}

impl Case {
    fn start(head: &str, told: &mut Told) -> Option<Self> {
        let fields: Vec<&str> = head.split(' ').collect();
        let [name, kind, anchor, at, from, to, first, last] = fields[..] else { panic!("{head}") };
        let Ok(zone) = Zone::named(name) else {
            told.unknown.insert(name.to_owned());
            return None;
        };
        let minute = |text: &str| text.parse::<u16>().unwrap();
        let day = |text: &str| text.parse::<Date>().unwrap();
        let window = Window::new(minute(from), minute(to)).unwrap();
        let mut schedule = Schedule::simple(cadence(kind), minute(at), 0, window);
        if kind == "times" {
            schedule.times = vec![30, 150, 1_410];
        }
        let anchor = Anchor::new(day(anchor), minute(at));
        let next = schedule.first_period(anchor, day(first), &zone).unwrap();
        told.cases += 1;
        told.zones.insert(name.to_owned());
        Some(Self { head: head.to_owned(), zone, schedule, anchor, last: day(last), next })
    }

    /// The line of the other calendar against our next period.
    fn period(&mut self, line: &str, told: &mut Told) {
        told.periods += 1;
        let Some(period) = self.next.filter(|period| period.date() <= self.last) else {
            self.differs(line, "we have no more", self.last, told);
            return;
        };
        let due = self.schedule.due_at(self.anchor, period, &self.zone, SubscriptionId(0)).unwrap();
        let ours = format!("{} {} {}", period.date(), period.minute(), due.as_second());
        if ours != line {
            self.differs(line, &ours, period.date(), told);
        }
        let following = self.schedule.next_period(self.anchor, period, &self.zone).unwrap();
        assert!(following.is_none_or(|next| next > period), "{}: numbers must grow", self.head);
        self.next = following;
    }

    /// Nothing of ours may be left over.
    fn finish(self, told: &mut Told) {
        if let Some(extra) = self.next.filter(|period| period.date() <= self.last) {
            self.differs("the other has no more", &extra.to_string(), self.last, told);
        }
    }

    fn differs(&self, theirs: &str, ours: &str, day: Date, told: &mut Told) {
        let name = self.zone.name();
        let newer = NEWER_DATA.iter().any(|(zone, from, to)| *zone == name && (*from..=*to).contains(&day));
        if newer {
            told.newer.insert(name.to_owned());
        } else {
            told.wrong.push(format!("{}: zoneinfo {theirs}, ours {ours}", self.head));
        }
    }
}

fn cadence(kind: &str) -> Cadence {
    match kind {
        "daily" | "times" => Cadence::Days(1),
        "days3" => Cadence::Days(3),
        "weekly" => {
            let on = Weekdays::default().with(Weekday::Monday).with(Weekday::Thursday);
            Cadence::Weeks { every: 2, on }
        }
        "monthly" => Cadence::Months(1),
        "lastfri" => Cadence::NthWeekday { every: 1, nth: Nth::Last, weekday: Weekday::Friday },
        "quarterly" => Cadence::Months(3),
        "yearly" => Cadence::Years(1),
        "minutes90" => Cadence::Minutes(90),
        "hours7" => Cadence::Hours(7),
        other => panic!("{other}"),
    }
}

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("allzones")
}

/// The IANA data of tests/allzones, compiled: not the machine's, which may be of any age.
fn compiled_zones() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("tollbook-allzones-{}", std::process::id()));
    let zic = ["/usr/sbin/zic", "/usr/bin/zic"].into_iter().find(|path| Path::new(path).exists());
    let status = Command::new(zic.unwrap_or("zic"))
        .args(["-b", "fat", "-d"])
        .arg(&folder)
        .arg(here().join("tzdata.zi"))
        .status()
        .expect("zic is needed, of Debian's libc-bin");
    assert!(status.success());
    folder
}
