//! The book's versions: planned, applied, listed, reverted, and taken in by a worker that runs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Output;
use std::time::Duration;

use serde_json::Value;
use tests::{World, WorldOptions, wait_until};

const SOON: Duration = Duration::from_secs(40);
const PLAN: &str = "plans/medina-kids-daily.toml";

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn versions(world: &World) -> i64 {
    world.number("SELECT max(version)::int8 FROM book_version")
}

#[test]
fn the_book_is_planned_applied_listed_and_reverted() {
    let world = World::start("book", &WorldOptions::default());
    world.import_rows("medina-kids-daily", 0, 30, "2026-12-01");
    assert_eq!(versions(&world), 1, "the first command makes version 1 of the files on disk");
    assert_eq!(code(&world.run(&["book", "plan", "--exit-code"])), 0, "nothing changes");

    world.book.change(PLAN, "0.500 TND", "0.600 TND");
    let plan = world.run(&["book", "plan", "--exit-code", "--json"]);
    assert_eq!(code(&plan), 3, "{}", told(&plan));
    let plan: Value = serde_json::from_slice(&plan.stdout).unwrap();
    assert_eq!(plan["against"], 1);
    assert_eq!(plan["changes"].as_array().unwrap().len(), 1, "{plan}");
    let change = &plan["changes"][0];
    assert_eq!(
        (change["id"].as_str(), change["subscriptions"].as_i64()),
        (Some("medina-kids-daily"), Some(30))
    );
    assert_eq!(
        (change["keys"][0]["old"].as_str(), change["keys"][0]["new"].as_str()),
        (Some("\"0.500 TND\""), Some("\"0.600 TND\""))
    );
    assert_eq!(
        (change["money"]["all"]["amount"].as_str(), change["money"]["per"].as_str()),
        (Some("3.000"), Some("day"))
    );
    let cells: Vec<&str> =
        plan["defaults"].as_array().unwrap().iter().map(|cell| cell["plan"].as_str().unwrap()).collect();
    assert_eq!(cells, ["medina-kids-daily", "medina-ringtone-once"]);
    assert_eq!(
        (plan["defaults"][0]["country"].as_str(), plan["defaults"][0]["carrier"].as_str()),
        (Some("TN"), Some("medina"))
    );

    let shown = world.run(&["book", "apply"]);
    assert!(
        shown.status.success() && told(&shown).contains("nothing was applied: add --yes"),
        "{}",
        told(&shown)
    );
    let wrong = world.run(&["book", "apply", "--yes", "--expect", "7"]);
    assert_eq!(code(&wrong), 6, "{}", told(&wrong));
    assert_eq!(versions(&world), 1);
    assert!(world.run(&["book", "apply", "--yes", "--expect", "1", "--note", "dearer"]).status.success());
    assert_eq!(versions(&world), 2);
    let again = world.run(&["book", "apply", "--yes"]);
    assert!(code(&again) == 1 && told(&again).contains("nothing changed: version 2"), "{}", told(&again));
    world.book.change(PLAN, "0.600 TND", "0.700 TND");
    let stale = world.run(&["book", "apply", "--yes", "--expect", "1"]);
    assert_eq!(code(&stale), 6, "a plan against version 1 is stale: {}", told(&stale));

    // Every mistake at its place, all at once; nothing of it is kept.
    world.book.change(PLAN, "every = \"day\"", "every = \"dayly\"");
    world.book.change("plans/medina-ringtone-once.toml", "merchant =", "merchnt =");
    for args in [["book", "check"].as_slice(), &["book", "plan"], &["book", "apply", "--yes"]] {
        let refused = world.run(args);
        let text = told(&refused);
        assert_eq!(code(&refused), 1, "{text}");
        for part in [
            "medina-kids-daily.toml:9:9: `schedule.every` is \"dayly\"",
            "did you mean `merchant`?",
            "missing key `merchant`",
        ] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
    }
    world.book.change(PLAN, "every = \"dayly\"", "every = \"day\"");
    world.book.change("plans/medina-ringtone-once.toml", "merchnt =", "merchant =");

    // What the rows contradict is refused before anything is written.
    world.book.change(PLAN, "merchant = \"demo\"", "merchant = \"newcomer\"");
    let refused = world.run(&["book", "apply", "--yes"]);
    assert!(code(&refused) == 1 && told(&refused).contains("from merchant demo"), "{}", told(&refused));
    assert_eq!((versions(&world), world.number("SELECT count(*) FROM merchant")), (2, 1));
    world.book.change(PLAN, "merchant = \"newcomer\"", "merchant = \"demo\"");
    std::fs::remove_file(world.book.dir.join(PLAN)).unwrap();
    let refused = world.run(&["book", "apply", "--yes"]);
    assert!(
        code(&refused) == 1 && told(&refused).contains("30 subscriptions that have not ended"),
        "{}",
        told(&refused)
    );

    let reverted = world.run(&["book", "revert", "1", "--yes", "--note", "back"]);
    assert!(reverted.status.success(), "{}", told(&reverted));
    assert!(code(&world.run(&["book", "revert", "9", "--yes"])) == 1);
    let history = world.run(&["book", "history", "--json"]);
    let history: Value = serde_json::from_slice(&history.stdout).unwrap();
    let lines = history["versions"].as_array().unwrap();
    let numbers: Vec<i64> = lines.iter().map(|line| line["version"].as_i64().unwrap()).collect();
    assert_eq!(numbers, [3, 2, 1]);
    assert_eq!(lines[0]["digest"], lines[2]["digest"], "what was reverted to is what it was");
    assert_ne!(lines[0]["digest"], lines[1]["digest"]);
    assert_eq!((lines[1]["note"].as_str(), lines[0]["note"].as_str()), (Some("dearer"), Some("back")));
    assert!(lines[0]["applied_by"].as_str().unwrap().contains('@'));
    for change in ["UPDATE book_version SET note = 'x'", "DELETE FROM book_version"] {
        let refused = world.block(async { sqlx::raw_sql(change).execute(&mut world.conn().await).await });
        assert!(refused.unwrap_err().to_string().contains("append-only"));
    }
}

#[test]
fn of_two_that_apply_at_once_one_is_told_that_it_is_stale() {
    let world = World::start("race", &WorldOptions::default());
    assert_eq!(world.apply_book(), 1);
    world.book.change(PLAN, "0.500 TND", "0.510 TND");
    let one = world.toll("data").args(["book", "apply", "--yes", "--expect", "1"]).output();
    world.book.change(PLAN, "0.510 TND", "0.520 TND");
    let running: Vec<_> = (0..4)
        .map(|_| {
            let mut command = world.toll("data");
            command.args(["book", "apply", "--yes", "--expect", "2"]);
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap()
        })
        .collect();
    assert!(one.unwrap().status.success());
    let codes: Vec<i32> =
        running.into_iter().map(|mut child| child.wait().unwrap().code().unwrap()).collect();
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "{codes:?}");
    // 5: on a machine that stands still for half a minute the server gives up a statement; nothing is applied then.
    assert!(codes.iter().all(|code| [0, 5, 6].contains(code)), "{codes:?}");
    assert_eq!(versions(&world), 3);
}

#[test]
fn a_running_worker_takes_a_new_version_in_and_charges_under_way_keep_theirs() {
    // Nobody can pay even the smallest step.
    let options = WorldOptions {
        behaviour: r#"{"balance":{"classes":[{"share_ppm":1000000,"min_minor":20,"max_minor":20}]}}"#,
        ..WorldOptions::default()
    };
    let world = World::start("swap", &options);
    world.import_rows("medina-kids-daily", 0, 40, "2026-12-01");
    let engine = world.serve("engine");
    wait_until("40 rounds of three refusals", SOON, || {
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 6") == 120
    });
    assert_eq!(engine.status()["worker"]["book_version"], 1, "{}", engine.status());

    // Dearer, without the ladder; and a plan that the worker has never heard of, with subscriptions at once.
    let shipped = std::fs::read_to_string(world.book.dir.join(PLAN)).unwrap();
    world.book.write_plan("medina-new-daily", &shipped.replace("0.500 TND", "0.400 TND"));
    world.book.change(PLAN, "0.500 TND", "0.600 TND");
    world.book.change(
        PLAN,
        "[ladder]\nsteps = [\"0.300\", \"0.100\"]\nsettles = \"share\"\nrestart = \"full\"\n",
        "",
    );
    assert_eq!(world.apply_book(), 2);
    world.import_rows("medina-new-daily", 500, 10, "2026-12-01");
    wait_until("the new plan is charged", SOON, || {
        world.number("SELECT count(*) FROM attempt_intent WHERE book_version = 2 AND amount_minor = 400")
            == 10
    });
    wait_until("the worker says so", SOON, || engine.status()["worker"]["book_version"] == 2);

    // The second round of the first day: still what version 1 says, its ladder included.
    world.set_business("2026-12-01T13:30:00Z", 1);
    wait_until("the second round", SOON, || {
        world.number("SELECT count(*) FROM attempt_outcome o JOIN subscription s ON s.id = o.subscription_id WHERE o.attempt_no = 6 AND s.due_minor = 500") == 40
    });
    let of = "SELECT count(*) FROM attempt_intent i JOIN subscription s ON s.id = i.subscription_id JOIN plan p USING (plan_no) WHERE p.id = 'medina-kids-daily' AND i.attempt_no = 4 AND i.amount_minor = 500 AND i.book_version = 1";
    assert_eq!(world.number(of), 40);

    // The next day is decided under version 2.
    world.set_business("2026-12-02T09:00:00Z", 1);
    wait_until("the next day at the new price", SOON, || {
        world.number("SELECT count(*) FROM attempt_outcome o JOIN attempt_intent i USING (subscription_id, period, attempt_no) WHERE i.amount_minor = 600 AND i.attempt_no = 1 AND i.book_version = 2") == 40
    });
    assert_eq!(
        world.number("SELECT count(*) FROM attempt_intent WHERE amount_minor = 600 AND attempt_no > 1"),
        0,
        "no ladder any more"
    );
    assert_eq!(world.number("SELECT count(*) FROM case_file"), 0, "nobody was quarantined");
    assert_eq!(world.number("SELECT count(*) FROM worker_incarnation"), 1, "the same worker all the time");
    world.compare();
}

#[test]
fn changed_engine_settings_make_the_worker_start_again_in_its_process() {
    let world = World::start("renew", &WorldOptions::default());
    world.import_rows("medina-kids-daily", 0, 20, "2026-12-01");
    let mut engine = world.serve("engine");
    wait_until("20 charges", SOON, || world.number("SELECT count(*) FROM attempt_outcome") == 20);
    world.book.change("engine.toml", "[lease]", "[batch]\nmax = 7\n[lease]");
    assert_eq!(world.apply_book(), 2);
    wait_until("a new incarnation", SOON, || world.number("SELECT count(*) FROM worker_incarnation") == 2);
    world.import_rows("medina-kids-daily", 100, 20, "2026-12-01");
    wait_until("20 more charges", SOON, || world.number("SELECT count(*) FROM attempt_outcome") == 40);
    assert!(engine.is_alive());
    assert_eq!(engine.status()["worker"]["book_version"], 2);
    assert_eq!(world.number("SELECT count(*) FROM attempt_open"), 0, "it drained: nothing is unknown");
    world.compare();
}

#[test]
fn a_version_that_was_changed_in_the_database_is_not_used() {
    let world = World::start("forged", &WorldOptions::default());
    assert_eq!(world.apply_book(), 1);
    world.block(async {
        sqlx::raw_sql(
            "ALTER TABLE book_version DISABLE TRIGGER append_only;
             UPDATE book_version SET files = replace(files::text, '0.500 TND', '0.900 TND')::jsonb",
        )
        .execute(&mut world.conn().await)
        .await
        .unwrap();
    });
    let refused = world.run(&["serve", "--listen", "127.0.0.1:0"]);
    assert!(
        code(&refused) == 1 && told(&refused).contains("was changed in the database"),
        "{}",
        told(&refused)
    );
}
