//! The walk of a charge, end to end, on real parts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use tests::{World, WorldOptions, wait_until};

const SOON: Duration = Duration::from_secs(40);

#[test]
fn everybody_due_is_charged_once_and_both_books_agree() {
    let world = World::start("charging", &WorldOptions::default());
    world.import_rows("medina-kids-daily", 0, 400, "2026-12-01");
    world.import_rows("medina-ringtone-once", 1_000, 100, "2026-12-01");
    let engine = world.serve("engine");
    wait_until("500 charges", SOON, || {
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5") == 500
    });
    let comparison = world.compare();
    assert_eq!((comparison.approved, comparison.equal), (500, 500));
    assert_eq!(world.mock.applied(), 500);
    // One transfer each, balances are their sums, every asset sums to zero.
    assert_eq!(world.number("SELECT count(*) FROM transfer"), 500);
    assert_eq!(world.number("SELECT sum(posted)::int8 FROM account_balance"), 0);
    assert_eq!(
        world.number("SELECT sum(b.posted)::int8 FROM account_balance b JOIN account a ON a.id = b.account_id WHERE a.purpose = 1"),
        world.number("SELECT sum(moved_minor)::int8 FROM attempt_outcome")
    );
    // Access was granted; merchants are told of each charge and of each subscription that began (or ended) with it.
    assert_eq!(world.number("SELECT count(*) FROM entitlement_grant"), 500);
    assert_eq!(world.number("SELECT sum(cardinality(events))::int8 FROM outbox"), 1_000);
    // The daily ones wait for tomorrow, the single ones ended.
    assert_eq!(
        world.number("SELECT count(*) FROM subscription WHERE state = 4 AND next_at_ms IS NOT NULL"),
        400
    );
    assert_eq!(
        world.number("SELECT count(*) FROM subscription WHERE state = 10 AND next_at_ms IS NULL"),
        100
    );
    let (took, well) = engine.terminate();
    assert!(well && took < Duration::from_secs(10), "{took:?}");
    assert_eq!(world.number("SELECT count(*) FROM worker WHERE incarnation <> 0"), 0);
    assert_eq!(world.number("SELECT count(*) FROM shard_owner WHERE slot IS NOT NULL"), 0);
}

#[test]
fn refusals_step_down_the_ladder_and_wait_for_their_round() {
    let options = WorldOptions {
        behaviour: r#"{"balance":{"classes":[{"share_ppm":1000000,"min_minor":350,"max_minor":350}]}}"#,
        ..WorldOptions::default()
    };
    let world = World::start("ladder", &options);
    world.import_rows("medina-kids-daily", 0, 50, "2026-12-01");
    let _engine = world.serve("engine");
    wait_until("50 reduced charges", SOON, || {
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5 AND charge_state = 5") == 50
    });
    // 0.500 refused, then 0.300 of the balance of 0.350 in the same round.
    assert_eq!(world.number("SELECT count(*) FROM attempt_outcome WHERE class = 6 AND reason = 20"), 50);
    assert_eq!(world.number("SELECT count(DISTINCT moved_minor) FROM attempt_outcome WHERE class = 5"), 1);
    assert_eq!(world.number("SELECT max(moved_minor) FROM attempt_outcome"), 300);
    world.compare();
}

#[test]
fn a_lost_answer_is_unknown_is_listed_and_is_never_sent_again() {
    let options = WorldOptions {
        behaviour: r#"{"reset_applied_ppm":300000,"fault_times":0}"#,
        ..WorldOptions::default()
    };
    let world = World::start("unknown", &options);
    world.import_rows("medina-kids-daily", 0, 100, "2026-12-01");
    let engine = world.serve("engine");
    wait_until("100 attempts with their result", SOON, || {
        world.number("SELECT (SELECT count(*) FROM attempt_outcome) + (SELECT count(*) FROM attempt_open)")
            >= 40
            && engine.status()["worker"]["in_flight"].as_u64() == Some(0)
    });
    let unknown = world.number("SELECT count(*) FROM attempt_open WHERE kind = 2");
    assert!(unknown > 5, "{unknown}");
    let comparison = world.compare();
    assert_eq!(i64::try_from(comparison.unknown_listed).unwrap(), unknown);
    let requests = world.mock.stats()["requests"].as_u64().unwrap();
    // Time passes; nothing of theirs is sent again, whatever falls due.
    world.mock.behave(r#"{"reset_applied_ppm":0}"#);
    world.set_business("2026-12-01T20:30:00Z", 1);
    world.import_rows("medina-kids-daily", 100, 20, "2026-12-01");
    wait_until("lines that joined afterwards are charged, so everything before had its turn", SOON, || {
        world.number("SELECT count(*) FROM attempt_intent WHERE attempt_no = 1") == 120
            && engine.status()["worker"]["due"].as_u64() == Some(0)
            && engine.status()["worker"]["in_flight"].as_u64() == Some(0)
    });
    let blocked = world.number(
        "SELECT count(*) FROM attempt_intent i JOIN attempt_open o USING (subscription_id, period) WHERE i.attempt_no > o.attempt_no",
    );
    assert_eq!(blocked, 0);
    assert!(world.mock.stats()["requests"].as_u64().unwrap() >= requests);
    let text = String::from_utf8(world.run(&["charge", "list", "--unknown", "--json"]).stdout).unwrap();
    assert_eq!(i64::try_from(text.matches("\"ch_").count()).unwrap(), unknown, "{text}");
}

#[test]
fn nothing_is_charged_after_a_stop_and_stop_works_without_a_worker() {
    let world = World::start("stop", &WorldOptions::default());
    world.import_rows("medina-kids-daily", 0, 20, "2026-12-01");
    let id = world.number("SELECT min(id) FROM subscription");
    let subscription = billing_core::ids::SubscriptionId(id).to_string();
    let output = world.run(&["sub", "cancel", &subscription, "--yes"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let _engine = world.serve("engine");
    wait_until("19 charges", SOON, || world.number("SELECT count(*) FROM attempt_outcome") == 19);
    wait_until("the stop is taken in", SOON, || {
        world.number("SELECT count(*) FROM subscription WHERE state = 9") == 1
            && world.number("SELECT count(*) FROM shard_inbox WHERE kind = 2") == 0
    });
    assert_eq!(world.number("SELECT count(*) FROM subscription s JOIN attempt_intent i ON i.subscription_id = s.id WHERE s.stop_at_ms IS NOT NULL"), 0);
}

#[test]
fn a_poison_row_is_quarantined_with_a_case_and_stops_nobody_else() {
    let world = World::start("poison", &WorldOptions::default());
    world.import_rows("medina-kids-daily", 0, 50, "2026-12-01");
    world.block(async {
        let mut conn = world.conn().await;
        sqlx::query("UPDATE subscription SET step = 9 WHERE id = (SELECT min(id) FROM subscription)")
            .execute(&mut conn)
            .await
            .unwrap();
        sqlx::query("UPDATE subscription SET plan_no = 999 WHERE id = (SELECT max(id) FROM subscription)")
            .execute(&mut conn)
            .await
            .unwrap();
    });
    let _engine = world.serve("engine");
    wait_until("48 charges", SOON, || {
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5") == 48
    });
    wait_until("2 cases", SOON, || {
        world.number("SELECT count(*) FROM case_file WHERE kind = 'quarantine'") == 2
    });
    assert_eq!(
        world.number("SELECT count(*) FROM subscription WHERE flags & 1 = 1 AND next_at_ms IS NULL"),
        2
    );
}

#[test]
fn the_subscription_row_is_updated_in_place() {
    let options =
        WorldOptions { scale: 1_440, business_at: "2026-12-01T04:50:00Z", ..WorldOptions::default() };
    let world = World::start("hot", &options);
    world.import_rows("medina-kids-daily", 0, 3_000, "2026-12-01");
    let _engine = world.serve("engine");
    // Two business days and more: every row is updated again and again.
    wait_until("6,000 charges", Duration::from_secs(200), || {
        world.number("SELECT count(*) FROM attempt_outcome") >= 6_000
    });
    let mut share = 0;
    wait_until("the server's counts", SOON, || {
        let sql = "SELECT coalesce(n_tup_hot_upd * 10000 / nullif(n_tup_upd, 0), 0) FROM pg_stat_all_tables WHERE relname = 'subscription'";
        share = world.number(sql);
        world.number("SELECT n_tup_upd FROM pg_stat_all_tables WHERE relname = 'subscription'") >= 6_000
    });
    assert!(share >= 9_500, "only {} % of the updates were HOT", share as f64 / 100.0);
    world.compare();
}

#[test]
fn a_hostile_answer_is_unknown_with_an_alert() {
    for kind in ["html", "truncated", "unknown_code", "empty", "wrong_key", "huge"] {
        let behaviour = format!(r#"{{"garbage_ppm":1000000,"garbage_kinds":["{kind}"],"fault_times":0}}"#);
        let options =
            WorldOptions { behaviour: Box::leak(behaviour.into_boxed_str()), ..WorldOptions::default() };
        let world = World::start("hostile", &options);
        world.import_rows("medina-kids-daily", 0, 6, "2026-12-01");
        let engine = world.serve("engine");
        wait_until(kind, SOON, || world.number("SELECT count(*) FROM attempt_open WHERE kind = 2") == 6);
        assert_eq!(world.number("SELECT count(*) FROM attempt_outcome"), 0, "{kind}");
        let metrics = engine.get("/metrics");
        assert!(metrics.lines().any(|line| line.starts_with("tollbook_alerts_total")), "{kind}: {metrics}");
        world.compare();
    }
}

#[test]
fn a_wrong_amount_is_unknown_and_never_booked() {
    let options = WorldOptions { behaviour: r#"{"wrong_amount_ppm":1000000}"#, ..WorldOptions::default() };
    let world = World::start("amount", &options);
    world.import_rows("medina-kids-daily", 0, 10, "2026-12-01");
    let _engine = world.serve("engine");
    wait_until("10 unknown", SOON, || {
        world.number("SELECT count(*) FROM attempt_open WHERE reason = 82") == 10
    });
    assert_eq!(world.number("SELECT coalesce(sum(moved_minor), 0)::int8 FROM attempt_outcome"), 0);
    // Suspense shows what may have moved; nothing is receivable.
    assert_eq!(
        world.number("SELECT sum(b.posted)::int8 FROM account_balance b JOIN account a ON a.id = b.account_id WHERE a.purpose = 3 AND a.owner_kind = 1"),
        10 * 500
    );
}

#[test]
fn the_history_tells_every_byte_and_no_number_is_stored_in_clear() {
    let world = World::start("explain", &WorldOptions::default());
    world.import_rows("medina-kids-daily", 0, 5, "2026-12-01");
    let engine = world.serve("engine");
    wait_until("5 charges", SOON, || world.number("SELECT count(*) FROM attempt_outcome") == 5);
    let id = world.number("SELECT min(subscription_id) FROM attempt_outcome");
    let period = i32::try_from(world.number("SELECT min(period)::int8 FROM attempt_outcome")).unwrap();
    let charge = billing_core::ids::ChargeId {
        subscription: billing_core::ids::SubscriptionId(id),
        period: billing_core::period::Period::from_number(period).unwrap(),
    }
    .to_string();
    // Told by the process that has the store open, then from the store of a dead one: the same story.
    let live = world.run(&["explain", &charge]);
    let live = String::from_utf8(live.stdout).unwrap();
    for part in
        ["POST /v1/charge", "\"result\":\"OK\"", "due.send", "settle.full", "0.500 TND", "Africa/Tunis"]
    {
        assert!(live.contains(part), "{part} is missing in:\n{live}");
    }
    assert!(!live.contains("21620000000"), "the number must be masked:\n{live}");
    assert!(engine.terminate().1);
    let dead = String::from_utf8(world.run(&["explain", &charge]).stdout).unwrap();
    assert!(dead.contains("POST /v1/charge"), "{dead}");
    let dump = world.block(async {
        let mut conn = world.conn().await;
        let tables: Vec<String> = sqlx::query_scalar("SELECT query_to_xml('SELECT * FROM ' || quote_ident(tablename), true, false, '')::text FROM pg_tables WHERE schemaname = 'public'")
            .fetch_all(&mut conn)
            .await
            .unwrap();
        tables.join("\n")
    });
    for i in 0..5 {
        assert!(!dump.contains(&format!("216{:08}", 20_000_000 + i)), "a clear number is in the database");
    }
    for file in walk(&world.dir.join("data")).into_iter().chain([world.dir.join("engine.log")]) {
        let bytes = std::fs::read(&file).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        for i in 0..5 {
            assert!(
                !text.contains(&format!("216{:08}", 20_000_000 + i)),
                "a clear number is in {}",
                file.display()
            );
        }
    }
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(walk(&path)) } else { found.push(path) }
    }
    found
}
