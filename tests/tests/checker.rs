//! The independent checker: a world with kills and faults passes it, and every violation that is planted is found.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tests::{World, WorldOptions, told, wait_until};

const LONG: Duration = Duration::from_secs(60);

/// Some lines are short of money, some answers get lost, some come as nonsense.
const BEHAVIOUR: &str = r#"{"latency_ms":2,"latency_jitter_ms":6,"reset_applied_ppm":20000,"silent_not_applied_ppm":5000,"busy_ppm":20000,
    "balance":{"classes":[{"share_ppm":200000,"min_minor":120,"max_minor":350},{"share_ppm":800000,"min_minor":900000,"max_minor":900000}]}}"#;

/// What cannot be looked at yet, in the words of the report.
const NOT_CHECKED: [&str; 10] = [
    "I3: that nothing is unknown any more",
    "I8: refusals against an earlier check",
    "I10: inter_shard",
    "I14: charges beyond the sample",
    "I15: bytes of charges beyond the sample",
    "I16: that",
    "I17: 60 s after a flush of Redis",
    "I19: no carrier sent messages",
    "I19: no carrier's file said more",
    "I21",
];

#[test]
fn a_world_with_kills_passes_and_every_planted_violation_is_found() {
    let world = World::start(
        "checker",
        // Days of six seconds.
        &WorldOptions {
            scale: 14_400,
            business_at: "2026-12-01T04:55:00Z",
            behaviour: BEHAVIOUR,
            ..WorldOptions::default()
        },
    );
    lived(&world);
    let exports = world.dir.join("exports.ndjson");
    let output = world
        .checker("check.py")
        .arg("--json")
        .args(["--sample", "8", "--toll", &world.explaining(), "--save-exports"])
        .arg(&exports)
        .arg("--log")
        .arg(world.dir.join("data/spool"))
        .output()
        .unwrap();
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", told(&output)));
    assert_eq!(report["holds"], true, "{report:#}");
    let invariants = report["invariants"].as_array().unwrap();
    assert_eq!(invariants.len(), 21);
    for invariant in invariants {
        let name = invariant["invariant"].as_str().unwrap();
        let looked = invariant["rows_looked_at"].as_u64().unwrap();
        assert!(looked > 0 || ["I12", "I19"].contains(&name), "{name} looked at nothing: {invariant:#}");
        for reason in invariant["not_checked"].as_array().unwrap() {
            let reason = format!("{name}: {}", reason.as_str().unwrap());
            assert!(NOT_CHECKED.iter().any(|known| reason.starts_with(known)), "{reason}");
        }
    }
    let planted = world.checker("selftest.py").arg("--exports").arg(&exports).output().unwrap();
    let text = told(&planted);
    assert!(planted.status.success(), "{text}");
    eprintln!("{text}");
    assert!(text.contains("in 43 zones compared with the other calendar, 0 differences"), "{text}");
    for number in 1..=21 {
        assert!(text.contains(&format!("I{number} ")), "nothing was planted for I{number}:\n{text}");
    }
}

/// Two kills, a STOP and a sealed day; then business time stands still and the worker drains.
fn lived(world: &World) {
    let countries = world.book.dir.join("countries");
    std::fs::create_dir_all(&countries).unwrap();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/countries/tn.toml");
    std::fs::copy(shipped, countries.join("tn.toml")).unwrap();
    world.import_rows("medina-kids-daily", 0, 150, "2026-12-01");
    world.import_rows("medina-ringtone-once", 1_000, 30, "2026-12-01");
    let recorded = || world.number("SELECT count(*) FROM attempt_outcome");
    for name in ["first", "second"] {
        let engine = world.serve(name);
        let before = recorded();
        wait_until("outcomes before the kill", LONG, || recorded() > before + 60);
        engine.kill9();
    }
    let last = world.serve("last");
    let id = world.number("SELECT min(id) FROM subscription WHERE plan_no = (SELECT plan_no FROM plan WHERE id = 'medina-kids-daily') AND open = 0");
    let subscription = billing_core::ids::SubscriptionId(id).to_string();
    let output = world.run(&["sub", "cancel", &subscription, "--yes"]);
    assert!(output.status.success(), "{}", told(&output));
    wait_until("three business days", LONG, || {
        world.number("SELECT count(DISTINCT period) FROM attempt_outcome WHERE class = 5") >= 3
    });
    std::fs::write(world.dir.join("metrics.log"), last.get("/metrics")).unwrap();
    world.freeze();
    wait_until("nothing is on its way", LONG, || last.status()["worker"]["in_flight"].as_u64() == Some(0));
    wait_until("every intent has its outcome or is listed", LONG, || {
        world.number("SELECT count(*) FROM shard_inbox") + world.number(
            "SELECT count(*) FROM attempt_intent i
              WHERE NOT EXISTS (SELECT FROM attempt_outcome o WHERE (o.subscription_id, o.period, o.attempt_no) = (i.subscription_id, i.period, i.attempt_no))
                AND NOT EXISTS (SELECT FROM attempt_open o WHERE (o.subscription_id, o.period, o.attempt_no) = (i.subscription_id, i.period, i.attempt_no))",
        ) == 0
    });
    assert!(last.terminate().1);
    assert!(world.number("SELECT count(*) FROM attempt_open") > 0, "nothing is unknown");
    // The first day with postings: on a busy machine business time is past the first day before anything is charged.
    let day = i32::try_from(world.number("SELECT min(business_date)::int8 FROM transfer")).unwrap();
    let day = billing_core::period::date_of_days(day).to_string();
    let sealed = world.run(&["ops", "seal", "--until", &day, "--yes"]);
    assert!(sealed.status.success(), "{}", told(&sealed));
    world.mock.sync();
}
