//! Chaos on real processes: each kind of fault once, in three minutes. An hour of it: docs/how-to/chaos.md.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use loadtest::chaos::{Crash, Settings, run};
use storage::fail_point::Point;
use tests::program;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn every_kind_of_fault_and_every_book_agrees() {
    let dir = std::env::temp_dir().join(format!("tollbook-chaos-test-{}", std::process::id()));
    let settings = Settings {
        dir: dir.clone(),
        toll: program("toll"),
        mock: program("mock-carrier"),
        config: root().join("config"),
        checker: root().join("tests/checker/check.py"),
        engines: 3,
        subscribers: 3_000,
        duration: Duration::ZERO,
        charges: 0,
        kills: 10,
        every_fault: true,
        every_point: false,
        fault_for: Duration::from_millis(1_000),
        kills_for: Duration::from_secs(8),
        kills_every: 8,
        // Only a machine that does next to nothing needs so long; what it missed then is told below.
        at_most: Duration::from_secs(600),
        settled_within: Duration::from_secs(600),
        only: Vec::new(),
        seed: 8,
    };
    let report = run(&settings, &mut |line| eprintln!("{line}")).unwrap();
    let text = report.text();
    eprintln!("{text}");
    assert!(report.holds(), "promises were broken, everything is kept in {}:\n{text}", dir.display());
    for fault in settings.faults() {
        assert!(report.faults.contains_key(&fault.name()), "{} did not happen:\n{text}", fault.name());
    }
    assert!(
        report.kills >= 10 && report.kills_by_point.values().filter(|kills| **kills > 0).count() >= 4,
        "{text}"
    );
    assert!(report.postgres_kills >= 1 && report.drains >= 1 && report.recoveries >= 1, "{text}");
    assert!(report.wire_faults >= 50, "the proxies did nothing:\n{text}");
    assert!(report.charges >= 1_000, "{text}");
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn the_crash_points_in_the_code_are_those_that_the_run_goes_through() {
    let mut found = BTreeSet::new();
    for folder in ["carriers/src", "storage/src", "scheduler/src"] {
        collect(&root().join(folder), &mut found);
    }
    let listed: BTreeSet<String> = Point::ALL.iter().map(|point| format!("{point:?}")).collect();
    assert_eq!(found, listed, "left: reached(Point::…) in the code, right: Point::ALL");
    let gone_through: BTreeSet<&str> = Crash::all().into_iter().map(Crash::name).collect();
    for point in Point::ALL {
        assert!(gone_through.contains(point.name()), "no engine is ever killed at {}", point.name());
    }
}

fn collect(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            for rest in text.split("reached(Point::").skip(1) {
                found.insert(rest.chars().take_while(|c| c.is_ascii_alphanumeric()).collect());
            }
        }
    }
}
