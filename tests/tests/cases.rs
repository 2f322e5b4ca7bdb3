//! What nothing else can settle is settled by two people; and what people do stands in a log that shows any change.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Output;
use std::time::Duration;

use tests::{Engine, World, WorldOptions, told, wait_until};

const SOON: Duration = Duration::from_secs(60);

fn lost(name: &str, behaviour: &'static str, rows: u32) -> (World, Engine) {
    let world = World::start(name, &WorldOptions { behaviour, ..WorldOptions::default() });
    world.import_rows("medina-kids-daily", 0, rows, "2026-12-01");
    let engine = world.serve("engine");
    wait_until("their answers are lost", SOON, || {
        world.number("SELECT count(*) FROM attempt_open WHERE kind = 2") == i64::from(rows)
            && engine.status()["worker"]["in_flight"].as_u64() == Some(0)
    });
    (world, engine)
}

const APPLIED: &str = r#"{"reset_applied_ppm":1000000,"fault_times":0}"#;
const NOT_APPLIED: &str = r#"{"reset_not_applied_ppm":1000000}"#;

fn json(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", told(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Exit code and words of a command that is refused.
fn refused(output: &Output) -> (i32, String) {
    assert!(!output.status.success(), "{}", told(output));
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn attempts(world: &World) -> Vec<String> {
    let cases = json(&world.run(&["ops", "cases", "--json"]));
    let all = cases["attempts"].as_array().unwrap().iter();
    all.map(|one| one["attempt"].as_str().unwrap().to_owned()).collect()
}

fn propose(world: &World, attempt: &str, outcome: &str, name: &str) -> Output {
    let why = "the carrier's statement of 2 December";
    world.run(&["ops", "propose", attempt, "--outcome", outcome, "--reason", why, "--as", name, "--json"])
}

fn proposed(world: &World, attempt: &str, outcome: &str) -> String {
    json(&propose(world, attempt, outcome, "ana"))["proposal"].as_i64().unwrap().to_string()
}

fn approve(world: &World, proposal: &str, name: &str) -> Output {
    world.run(&["ops", "approve", proposal, "--as", name, "--yes", "--json"])
}

fn acts(world: &World) -> Vec<(String, String)> {
    let acts = json(&world.run(&["ops", "audit", "--json"]));
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    acts.as_array().unwrap().iter().map(|act| (text(&act["act"]), text(&act["who"]))).collect()
}

fn sql(world: &World, script: &'static str) {
    world.block(async {
        sqlx::raw_sql(script).execute(&mut world.conn().await).await.unwrap();
    });
}

#[test]
fn two_people_settle_what_the_carrier_took() {
    let (world, _engine) = lost("people", APPLIED, 4);
    let open = attempts(&world);
    assert_eq!(open.len(), 4);
    let listed = told(&world.run(&["ops", "cases"]));
    assert!(listed.contains(&open[0]) && listed.contains("unknown") && listed.contains("nobody"), "{listed}");
    let proposal = proposed(&world, &open[0], "approved");
    let listed = told(&world.run(&["ops", "cases"]));
    assert!(listed.contains(&format!("proposal {proposal}")) && listed.contains("ana"), "{listed}");
    // Nothing happened yet, and the same person cannot make it happen, however the name is written.
    for name in ["ana", "ANA"] {
        let (code, words) = refused(&approve(&world, &proposal, name));
        assert!(code == 1 && words.contains("somebody else has to approve it"), "{words}");
    }
    assert_eq!(world.number("SELECT count(*) FROM attempt_outcome"), 0);
    assert_eq!(world.number("SELECT count(*) FROM shard_inbox"), 0);
    let shown = json(&world.run(&["ops", "approve", &proposal, "--as", "ben", "--json"]));
    assert_eq!((shown["state"].as_str(), shown["outcome"].as_str()), (Some("proposed"), Some("charged")));
    assert_eq!(
        world.number("SELECT count(*) FROM decision_proposal WHERE state = 1"),
        0,
        "nothing without --yes"
    );
    assert_eq!(json(&approve(&world, &proposal, "ben"))["approved_by"].as_str(), Some("ben"));
    wait_until("the owner carried it out", SOON, || {
        world.number(
            "SELECT count(*) FROM attempt_outcome WHERE class = 5 AND rule_id = 108 AND moved_minor = 500",
        ) == 1
    });
    assert_eq!(world.number("SELECT count(*) FROM attempt_open"), 3);
    // What lay in suspense left it, and was collected.
    assert_eq!(world.number("SELECT count(*) FROM transfer WHERE leg IN (1, 3)"), 2);
    let again = approve(&world, &proposal, "carl");
    assert!(refused(&again).1.contains("was approved already"));
    assert!(refused(&propose(&world, &open[0], "approved", "ana")).1.contains("is approved already"));
    let story = told(&world.run(&["explain", &open[0]]));
    for part in
        ["the decision of two people: unknown → approved", "statement of 2 December", "approved by ben"]
    {
        assert!(story.contains(part), "{part}: {story}");
    }
    let expected = [
        ("propose", "ana"),
        ("approve_refused", "ana"),
        ("approve_refused", "ANA"),
        ("approve", "ben"),
        ("approve_refused", "carl"),
    ];
    assert_eq!(acts(&world), expected.map(|(act, who)| (act.to_owned(), who.to_owned())));
    world.check();
    world.compare();
}

#[test]
fn what_was_not_applied_is_tried_again_under_a_new_key() {
    let (world, engine) = lost("notapplied", NOT_APPLIED, 2);
    let open = attempts(&world);
    world.mock.behave(r#"{"reset_not_applied_ppm":0}"#);
    let proposal = proposed(&world, &open[0], "not-applied");
    // Nobody works: the decision waits.
    engine.kill9();
    json(&approve(&world, &proposal, "ben"));
    assert_eq!(world.number("SELECT count(*) FROM attempt_outcome"), 0);
    assert_eq!(world.number("SELECT count(*) FROM shard_inbox WHERE kind = 3"), 1);
    let _engine = world.serve("second");
    wait_until("it was tried again", SOON, || {
        world.number(
            "SELECT count(*) FROM attempt_outcome WHERE class = 8 AND rule_id = 108 AND attempt_no = 1",
        ) == 1
            && world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5 AND attempt_no = 2") == 1
    });
    let proposal = proposed(&world, &open[1], "declined:barred");
    json(&approve(&world, &proposal, "ben"));
    wait_until("it is declined", SOON, || {
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 6 AND reason = 21 AND rule_id = 108")
            == 1
    });
    world.check();
    world.compare();
}

#[test]
fn an_approval_binds_what_was_proposed() {
    let (world, _engine) = lost("binds", APPLIED, 5);
    let open = attempts(&world);
    let all: Vec<String> = open.iter().map(|attempt| proposed(&world, attempt, "approved")).collect();
    let (code, words) = refused(&propose(&world, &open[0], "declined", "carl"));
    assert!(code == 6 && words.contains("proposed about already"), "{words}");
    assert_eq!(refused(&approve(&world, "4711", "ben")).0, 1);
    for bad in ["a b", "", "x'y"] {
        assert_eq!(refused(&approve(&world, &all[0], bad)).0, 2, "{bad:?}");
    }
    // Somebody changes the proposal; its attempt changes; it grows old; it is not what was shown.
    sql(
        &world,
        "UPDATE decision_proposal SET moved_minor = 1 WHERE id = (SELECT min(id) FROM decision_proposal)",
    );
    let changed = |proposal: &str| {
        let (code, words) = refused(&approve(&world, proposal, "ben"));
        assert!(code == 6 && words.contains("is not what was proposed any more"), "{words}");
    };
    changed(&all[0]);
    sql(
        &world,
        "UPDATE attempt_open o SET kind = 3, assignee = 'somebody' FROM decision_proposal p
          WHERE p.id = 2 AND (o.subscription_id, o.period, o.attempt_no) = (p.subscription_id, p.period, p.attempt_no)",
    );
    changed(&all[1]);
    sql(&world, "UPDATE decision_proposal SET expires_at = now() WHERE id = 3");
    assert!(refused(&approve(&world, &all[2], "ben")).1.contains("has expired"));
    let other = world.run(&["ops", "approve", &all[3], "--as", "ben", "--yes", "--digest", "0000000000"]);
    assert_eq!(refused(&other).0, 6);
    assert_eq!(world.number("SELECT count(*) FROM decision_proposal WHERE state = 1"), 0);
    // What expired may be proposed again.
    let again = proposed(&world, &open[2], "approved");
    assert_ne!(again, all[2]);

    // Two approvals at once: one counts.
    let names = ["ben", "carl", "dora", "emil"];
    let outputs: Vec<Output> = std::thread::scope(|scope| {
        let world = &world;
        let proposal = &all[4];
        let running: Vec<_> =
            names.iter().map(|name| scope.spawn(move || approve(world, proposal, name))).collect();
        running.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(outputs.iter().filter(|output| output.status.success()).count(), 1);
    wait_until("it is carried out, once", SOON, || {
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5") == 1
            && world.number("SELECT count(*) FROM shard_inbox") == 0
    });
    assert_eq!(world.number("SELECT count(*) FROM attempt_outcome"), 1);
    sql(&world, "UPDATE attempt_open SET kind = 2, assignee = NULL WHERE kind = 3");
    world.check();
    world.compare();
}

#[test]
fn the_log_of_what_people_did_shows_every_change() {
    let world = World::start("audit", &WorldOptions::default());
    world.import_rows("medina-kids-daily", 0, 3, "2026-12-01");
    let id = billing_core::ids::SubscriptionId(world.number("SELECT min(id) FROM subscription")).to_string();
    for args in [
        &["sub", "pause", &id][..],
        &["sub", "resume", &id],
        &["sub", "top-up", &id, "--notice", "n-1"],
        &["sub", "cancel", &id, "--yes"],
    ] {
        let output = world.run(args);
        assert!(output.status.success(), "{}", told(&output));
    }
    world.book.change("plans/medina-kids-daily.toml", "text = \"", "text = \"Neu: ");
    world.apply_book();
    let names: Vec<String> = acts(&world).into_iter().map(|(act, _)| act).collect();
    let expected = [
        "subscription.pause",
        "subscription.resume",
        "subscription.top_up",
        "subscription.stop",
        "book.apply",
    ];
    assert_eq!(names, expected);
    let verify = || world.run(&["ops", "audit", "--verify"]);
    assert!(verify().status.success(), "{}", told(&verify()));
    // Not by accident ...
    world.block(async {
        for script in
            ["UPDATE audit_log SET who = 'x'", "DELETE FROM audit_log WHERE seq = 5", "TRUNCATE audit_log"]
        {
            sqlx::raw_sql(script).execute(&mut world.conn().await).await.unwrap_err();
        }
    });
    // ... and not unseen by somebody who may do anything.
    let kept =
        "CREATE TABLE kept AS SELECT * FROM audit_log; CREATE TABLE kept_head AS SELECT * FROM audit_head";
    sql(&world, kept);
    let broken: [(&'static str, &str); 5] = [
        ("SET session_replication_role = replica; UPDATE audit_log SET who = 'nobody' WHERE seq = 2", "row 2: it was changed"),
        (
            "SET session_replication_role = replica; UPDATE audit_log SET details = '{}', digest = audit_digest(before, seq, at, who, account, act, subject, '{}') WHERE seq = 2",
            "row 3: it does not follow",
        ),
        ("SET session_replication_role = replica; DELETE FROM audit_log WHERE seq = 3", "row 4: rows before it are missing"),
        ("SET session_replication_role = replica; DELETE FROM audit_log WHERE seq = 5", "row 5: the chain does not end"),
        // Written anew as a whole, head and all: only who noted a head outside sees it.
        (
            "SET session_replication_role = replica; DELETE FROM audit_log; UPDATE audit_head SET seq = 0, digest = decode(repeat('00', 32), 'hex');
             SELECT audit(who, account, act, subject, '{}') FROM kept ORDER BY seq",
            "row 5: it is not the one that was seen here before",
        ),
    ];
    for (script, expected) in broken {
        sql(&world, script);
        let (code, _) = refused(&verify());
        let words = told(&verify());
        assert!(code == 1 && words.contains(expected), "{expected}: {words}");
        let checked = world.checker("check.py").output().unwrap();
        let seen = told(&checked).contains("I20  VIOLATED");
        assert_eq!(seen, !expected.contains("seen here"), "{}", told(&checked));
        sql(
            &world,
            "SET session_replication_role = replica; DELETE FROM audit_log; INSERT INTO audit_log SELECT * FROM kept;
             DELETE FROM audit_head; INSERT INTO audit_head SELECT * FROM kept_head",
        );
        assert!(verify().status.success(), "{}", told(&verify()));
    }
}
