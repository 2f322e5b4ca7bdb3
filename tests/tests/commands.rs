//! `toll status`, `toll doctor` and `toll book check` as processes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Output;
use std::time::Duration;

use serde_json::Value;
use tests::{World, WorldOptions, wait_until};

const SOON: Duration = Duration::from_secs(40);

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", told(output)))
}

#[test]
fn book_check_names_every_problem_at_its_place() {
    let world = World::start("check", &WorldOptions::default());
    let fine = world.run(&["book", "check"]);
    assert!(fine.status.success());
    assert_eq!(String::from_utf8_lossy(&fine.stdout), "book is fine: 1 carrier, 2 plans\n");
    let fine = json(&world.run(&["book", "check", "--json"]));
    assert_eq!((fine["ok"].as_bool(), fine["plans"].as_i64()), (Some(true), Some(2)));
    assert_eq!(fine["digest"].as_str().unwrap().len(), 64);

    world.book.change("plans/medina-kids-daily.toml", "0.500 TND", "0.5005 TND");
    world.book.change("plans/medina-ringtone-once.toml", "every = \"once\"", "every = \"twice\"");
    let broken = world.run(&["book", "check"]);
    assert_eq!(broken.status.code(), Some(1));
    let text = String::from_utf8_lossy(&broken.stdout).into_owned();
    let dir = world.book.dir.display().to_string();
    let places: Vec<&str> = text.lines().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(
        places,
        [
            format!("{dir}/plans/medina-kids-daily.toml:6:9"),
            format!("{dir}/plans/medina-ringtone-once.toml:9:9")
        ],
        "{text}"
    );
    assert!(told(&broken).ends_with("toll: 2 problems in the book\n"), "{}", told(&broken));
    let broken = json(&world.run(&["book", "check", "--json"]));
    assert_eq!((broken["ok"].as_bool(), broken["problems"].as_array().unwrap().len()), (Some(false), 2));
}

#[test]
fn status_tells_of_workers_subscriptions_and_open_attempts() {
    let options = WorldOptions { behaviour: r#"{"wrong_amount_ppm":1000000}"#, ..WorldOptions::default() };
    let world = World::start("status", &options);
    let empty = world.run(&["status"]);
    assert!(empty.status.success(), "{}", told(&empty));
    world.import_rows("medina-kids-daily", 0, 12, "2026-12-01");
    let due = json(&world.run(&["status", "--json"]));
    assert_eq!(
        (due["subscriptions"]["total"].as_i64(), due["subscriptions"]["due"].as_i64()),
        (Some(12), Some(12)),
        "{due}"
    );
    assert_eq!(due["workers"].as_array().unwrap().len(), 0, "{due}");
    let engine = world.serve("engine");
    wait_until("12 unknown", SOON, || world.number("SELECT count(*) FROM attempt_open WHERE kind = 2") == 12);
    let mut now = Value::Null;
    wait_until("the worker answers", SOON, || {
        now = json(&world.run(&["status", "--json"]));
        now["workers"][0]["ready"] == true
    });
    assert_eq!(now["workers"][0]["shards"].as_i64(), Some(8), "{now}");
    assert_eq!(now["open"][0]["count"].as_i64(), Some(12), "{now}");
    assert_eq!(now["open"][0]["amount"]["amount"].as_str(), Some("6.000"), "{now}");
    let text = told(&world.run(&["status"]));
    assert!(text.contains("12 UNKNOWN over 6.000 TND") && text.contains("12 pending"), "{text}");
    assert!(engine.terminate().1);
    let gone = json(&world.run(&["status", "--json"]));
    assert_eq!(gone["workers"].as_array().unwrap().len(), 0, "{gone}");
    let data = world.dir.join("data");
    let mut away = std::process::Command::new(tests::program("toll"));
    away.arg("--data").arg(data).args(["--database", "postgres://127.0.0.1:1/none", "status"]);
    let away = away.output().unwrap();
    assert_eq!(away.status.code(), Some(5), "{}", told(&away));
}

#[test]
fn doctor_says_what_must_be_mended() {
    let world = World::start("doctor", &WorldOptions::default());
    world.import_rows("medina-kids-daily", 0, 2, "2026-12-01");
    let engine = world.serve("engine");
    wait_until("partitions", SOON, || world.number("SELECT count(*) FROM attempt_outcome") == 2);
    let well = world.run(&["doctor", "--json"]);
    let examined = json(&well);
    let verdict = |examined: &Value, name: &str| {
        let checks = examined["checks"].as_array().unwrap();
        let check = checks.iter().find(|check| check["name"] == name);
        check.map_or_else(|| "missing".to_owned(), |check| check["verdict"].as_str().unwrap().to_owned())
    };
    for name in [
        "time zones",
        "book",
        "carriers' addresses",
        "secrets",
        "free disk",
        "database",
        "fsync",
        "partitions",
    ] {
        assert_eq!(verdict(&examined, name), "good", "{name}: {examined:#}");
    }
    assert!(well.status.success() && examined["ok"] == true, "{}", told(&well));

    // A secret that others can read, a carrier without protection.
    use std::os::unix::fs::PermissionsExt;
    let secret = world.dir.join("data/secrets/kek.v1");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o644)).unwrap();
    world.book.change("carriers/medina.toml", "http://127.0.0.1:4020", "http://billing.example.com");
    let ill = world.run(&["doctor", "--json"]);
    let examined = json(&ill);
    assert_eq!(ill.status.code(), Some(1), "{}", told(&ill));
    assert_eq!(
        (verdict(&examined, "secrets"), verdict(&examined, "book")),
        ("bad".into(), "bad".into()),
        "{examined:#}"
    );
    let ill = world.run(&["doctor"]);
    for part in [
        "✗ book",
        "plain http to billing.example.com",
        "✗ secrets",
        "kek.v1 has mode 644",
        "2 things must be mended",
    ] {
        assert!(told(&ill).contains(part), "{part} is missing in:\n{}", told(&ill));
    }
    drop(engine);
}
