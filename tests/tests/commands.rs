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
fn only_price_points_of_the_carrier_are_asked_for() {
    let poor = r#"{"balance":{"classes":[{"share_ppm":1000000,"min_minor":290,"max_minor":290}]}}"#;
    let world = World::start("points", &WorldOptions { behaviour: poor, ..WorldOptions::default() });
    let points = "max = \"20.000\"\nprice_points = [\"0.100\", \"0.250\", \"0.500\", \"1.200\"]";
    world.book.change("carriers/medina.toml", "max = \"20.000\"", points);
    let broken = world.run(&["book", "check"]);
    let dir = world.book.dir.display().to_string();
    let expected = format!(
        "{dir}/plans/medina-kids-daily.toml:15:10: `ladder.steps[0]` is 0.300 TND; carrier medina takes its price \
         points only, near it 0.250 TND and 0.500 TND"
    );
    assert_eq!(broken.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&broken.stdout).lines().next(), Some(expected.as_str()));
    // Percentages are rounded down to one: 60 % of 0.500 is 0.300.
    world.book.change("plans/medina-kids-daily.toml", "\"0.300\"", "\"60%\"");
    assert!(world.run(&["book", "check"]).status.success());
    world.import_rows("medina-kids-daily", 0, 1, "2026-12-01");
    let _engine = world.serve("engine");
    wait_until("a step is paid", Duration::from_secs(60), || {
        world.number("SELECT coalesce(sum(moved_minor), 0)::int8 FROM attempt_outcome WHERE class = 5") == 250
    });
    assert_eq!(
        world.number("SELECT count(*) FROM attempt_intent WHERE amount_minor NOT IN (100, 250, 500, 1200)"),
        0
    );
    world.compare();
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

#[test]
fn stories_of_the_book_are_checked_run_and_blessed() {
    let world = World::start("book-test", &WorldOptions::default());
    let none = world.run(&["book", "test"]);
    assert!(none.status.success() && told(&none).contains("no stories"), "{}", told(&none));
    let dir = world.book.dir.join("stories");
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join("kids.toml");
    let head = "about = \"No money, then money\"\nplan = \"medina-kids-daily\"\nzone = \"Africa/Tunis\"\nstart = \"2026-12-01\"\ncharges = 2\n";
    std::fs::write(&file, format!("{head}outcomes = \"no_fund\"\n")).unwrap();
    let broken = world.run(&["book", "check"]);
    assert_eq!(broken.status.code(), Some(1));
    let place = format!("{}:6:13: no carrier says \"no_fund\"; did you mean no_funds?", file.display());
    assert!(told(&broken).contains(&place), "{}", told(&broken));

    std::fs::write(&file, format!("{head}outcomes = \"no_funds\"\n")).unwrap();
    let fine = world.run(&["book", "check"]);
    assert!(told(&fine).contains("1 story (`toll book test` runs them)"), "{}", told(&fine));
    let bare = world.run(&["book", "test"]);
    assert_eq!(bare.status.code(), Some(4), "a story without an expectation is not as expected");
    assert!(world.run(&["book", "test", "--bless"]).status.success());
    let fine = world.run(&["book", "test"]);
    assert!(fine.status.success() && told(&fine).contains("1 of 1 stories"), "{}", told(&fine));

    world.book.change("stories/kids.toml", "0.300 TND: charged", "0.300 TND: no_funds");
    let differs = world.run(&["book", "test", "--json"]);
    assert_eq!(differs.status.code(), Some(4));
    let story = &json(&differs)["stories"][0];
    let text = std::fs::read_to_string(&file).unwrap();
    let line = usize::try_from(story["line"].as_u64().unwrap()).unwrap();
    assert_eq!(text.lines().nth(line - 1), story["expected"].as_str());
    assert!(story["found"].as_str().unwrap().contains("0.300 TND: charged"), "{story}");
    // What is expected is no part of a version: nothing is to be applied.
    assert!(world.run(&["sub", "import", "/dev/null"]).status.code().is_some());
    let plan = world.run(&["book", "plan", "--exit-code"]);
    assert_eq!(plan.status.code(), Some(0), "{}", told(&plan));
}

#[test]
fn a_preview_says_what_the_engine_then_does() {
    let world = World::start("preview", &WorldOptions::default());
    let made_up =
        world.run(&["sub", "preview", "--plan", "medina-kids-daily", "--start", "2026-12-01", "--json"]);
    let made_up = json(&made_up);
    assert_eq!(made_up["steps"].as_array().unwrap().len(), 5);
    assert_eq!(made_up["collected"]["amount"], "2.500");
    world.import_rows("medina-kids-daily", 0, 1, "2026-12-01");
    let id = billing_core::ids::SubscriptionId(world.number("SELECT id FROM subscription")).to_string();
    let arguments = ["sub", "preview", &id, "--outcomes", "no_funds x2, charged", "--charges", "1", "--json"];
    let preview = json(&world.run(&arguments));
    let steps = preview["steps"].as_array().unwrap();
    let answers: Vec<_> = steps.iter().map(|step| step["answer"].as_str().unwrap()).collect();
    assert_eq!(answers, ["no_funds", "no_funds", "charged"]);
    assert_eq!(steps[2]["charge"], "reduced");
    let text = told(&world.run(&arguments[..arguments.len() - 1]));
    assert!(text.contains("ladder.next v1: refused for lack of funds"), "{text}");
    world.mock.behave(r#"{"scripts":{"21620000000":["no_funds","no_funds"]}}"#);
    let _engine = world.serve("engine");
    wait_until("three attempts", SOON, || world.number("SELECT count(*) FROM attempt_outcome") == 3);
    assert_eq!(world.number("SELECT max(moved_minor) FROM attempt_outcome"), 100);
    let charge = steps[0]["period"].as_str().unwrap();
    let charge = format!("ch_{}-{charge}", id.strip_prefix("sub_").unwrap());
    let explained = told(&world.run(&["explain", &charge]));
    for part in ["looked at: 0.500 TND was due", "ladder.next"] {
        assert!(explained.contains(part), "{part} is missing in\n{explained}");
    }
    for wrong in [
        &["sub", "preview"][..],
        &["sub", "preview", "--plan", "nothing"],
        &["sub", "preview", "--plan", "medina-kids-daily", "--zone", "Moon"],
        &["sub", "preview", "--plan", "medina-kids-daily", "--outcomes", "maybe"],
        &["sub", "preview", "--plan", "medina-kids-daily", "--event", "2026-12-01 10:00 dance"],
        &["sub", "preview", "--plan", "medina-kids-daily", "--charges", "201"],
    ] {
        let output = world.run(wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {}", told(&output));
    }
}
